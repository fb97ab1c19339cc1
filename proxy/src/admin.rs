//! How weir is asked from outside: HTTP for probes and scrapes, which changes nothing, and the Unix
//! control socket for everything else. What the answers are is the handler's business.

pub mod client;
pub mod control;
pub mod http;
pub mod node;
pub mod protocol;

/// Where the control socket is unless told otherwise.
pub const DEFAULT_CONTROL_SOCKET: &str = "/run/weir/control.sock";
