//! The kernel side. (The lead's; here only so that `probe` builds.)

pub mod probe;
