//! Harness of weir's end-to-end tests: real network namespaces, cgroups, servers and clients.
//!
//! [`lab::Lab`] is where a test starts: two network namespaces with a cable between them, or
//! [`pods::Pods`], where both ends of a connection are the test's. Everything else is started in one of the two and is taken away by `Drop`, after a panic too. `cargo xtask
//! demo` uses the same pieces.

#![forbid(unsafe_code)]

pub mod browser;
pub mod cgroup;
pub mod chaos;
pub mod collector;
pub mod daemon;
pub mod engine;
pub mod fixture;
pub mod frames;
pub mod kube;
pub mod lab;
pub mod left;
pub mod load;
pub mod metrics;
pub mod netns;
pub mod peer;
pub mod pods;
pub mod process;
pub mod record;
pub mod servers;
pub mod site;
pub mod soak;
pub mod visits;
pub mod way;
pub mod weir;
pub mod wire;

pub use lab::Lab;
