//! What `docs/SECURITY.md` says: what weir runs with, what a workload cannot do to it or through it,
//! and what weir keeps to itself.

mod isolation;
mod neighbours;
mod privileges;
mod secrets;
mod workload;
