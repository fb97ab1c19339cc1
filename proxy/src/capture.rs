//! The kernel side: loads the BPF programs, attaches them to workloads and keeps their maps in
//! step with what userspace knows. The only module that uses aya; it forwards nothing.

mod acceleration;
mod attach;
mod bpf;
pub mod cgroup;
mod client_ip;
pub mod coexist;
mod counters;
pub mod detach;
mod error;
mod events;
pub mod features;
mod heartbeat;
mod holders;
mod inbound;
mod instance;
mod kernel;
mod left;
mod listener;
mod listening;
mod mounts;
mod netns;
mod original;
mod pins;
mod policy;
pub mod probe;
pub mod proof;
pub mod query;
mod remembered;
mod routes;
mod seeding;
mod table;

pub use acceleration::self_test as sk_msg_self_test;
pub use attach::AttachOptions;
pub use client_ip::{ClientIp, Installed, connect_as};
pub use error::CaptureError;
pub use events::{DirectClose, Events};
pub use heartbeat::Heartbeat;
pub use instance::{Instance, InstanceOptions};
pub use kernel::Kernel;
pub use listener::{Listeners, keep_alive, netns_cookie};
pub use netns::Netns;
pub use original::{Captured, Originals};
pub use pins::{Lock, control_socket, lock_directory};
pub use remembered::{Remembered, RememberedPort};
pub use routes::RouteWatch;
