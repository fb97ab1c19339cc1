//! What is on this machine: mounts, cgroups, the pods of a kubelet, processes and the sockets that they
//! have open. Changes nothing but cgroups of weir's own, and
//! the namespaces and the user of a thread or process that is about to run a command.

mod account;
pub mod cgroup;
mod error;
mod locate;
pub(crate) mod mounts;
mod named_netns;
pub mod pods;
mod sidecar;
pub(crate) mod socket_owners;
mod users;

pub use account::{Account, AccountError};
pub use error::HostError;
pub use locate::{LocateError, Named};
pub use named_netns::{NamedNetns, NetnsError};
pub use sidecar::{Sidecar, runs_in as sidecar_runs_in};
