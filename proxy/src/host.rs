//! What is on this machine: mounts, cgroups, the pods of a kubelet, processes and the sockets that they
//! have open. Reads only, but for cgroups of weir's own.

pub mod cgroup;
mod error;
pub(crate) mod mounts;
pub mod pods;
mod sidecar;
pub(crate) mod socket_owners;

pub use error::HostError;
pub use sidecar::{Sidecar, runs_in as sidecar_runs_in};
