//! weir: captures a workload's TCP connections in the kernel, finds out which protocol each one
//! speaks, forwards it and reports what it saw. The modules follow the path of a connection;
//! `docs/ARCHITECTURE.md` has the map.

pub mod accept;
pub mod admin;
pub mod blocking;
pub mod budget;
pub mod capture;
pub mod cli;
pub mod config;
pub mod connection;
pub mod daemon;
pub mod decision;
pub mod detect;
pub mod forward;
pub mod json;
pub mod learn;
pub mod log;
mod mounts;
pub mod names;
#[cfg(feature = "node")]
pub mod node;
pub mod pod;
pub mod ports;
pub mod privileges;
pub mod stop;
pub mod telemetry;
pub mod units;
pub mod workers;
pub mod workload;
pub mod workloads;
