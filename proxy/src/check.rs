//! What `weir check` looks at: what the kernel and this process can do, what else works on the same
//! connections, and a connection that is really captured.

pub mod coexist;
pub mod features;
pub mod probe;
pub mod proof;
