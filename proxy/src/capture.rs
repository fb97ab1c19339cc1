//! The kernel side: loads the BPF programs, attaches them to a workload and keeps their maps in
//! step with what userspace knows. The only module that uses aya; it forwards nothing.

mod acceleration;
mod attach;
mod bpf;
pub mod cgroup;
mod client_ip;
mod counters;
mod error;
mod events;
mod heartbeat;
mod kernel;
mod listener;
pub mod listening;
mod netns;
mod original;
mod policy;
pub mod probe;
pub mod proof;
mod routes;

pub use acceleration::self_test as sk_msg_self_test;
pub use attach::{AttachOptions, attach, hooks};
pub use client_ip::{ClientIp, Installed, connect_as};
pub use error::CaptureError;
pub use events::{DirectClose, Events};
pub use heartbeat::Heartbeat;
pub use kernel::{Kernel, KernelOptions};
pub use listener::{Listeners, netns_cookie};
pub use netns::Netns;
pub use original::{Captured, Originals};
pub use routes::RouteWatch;
