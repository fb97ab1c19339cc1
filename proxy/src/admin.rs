//! How weir is asked from outside: HTTP for probes and scrapes, which changes nothing, and the Unix
//! control socket for everything else. What the answers are is the handler's business.

pub mod client;
pub mod control;
mod handler;
pub mod http;
pub mod node;
pub mod protocol;
pub mod ui;
