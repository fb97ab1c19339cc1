//! Development tasks of weir, one file per verb.

fn main() {}
