//! weir: captures a workload's TCP connections in the kernel, finds out which protocol each one
//! speaks, forwards it and reports what it saw. The modules follow the path of a connection;
//! `docs/ARCHITECTURE.md` has the map.
//!
//! The binary needs `cli` only. The other public modules are for tests, benchmarks, fuzz targets and
//! `xtask`; none of them is an interface for other crates.

pub mod accept;
pub mod admin;
pub mod balance;
mod blocking;
mod budget;
pub mod capture;
pub mod check;
pub mod cli;
pub mod config;
pub mod connection;
mod daemon;
pub mod decision;
pub mod detect;
pub mod forward;
pub mod host;
mod json;
mod learn;
mod log;
#[cfg(feature = "node")]
mod manifests;
mod names;
#[cfg(feature = "node")]
mod node;
mod otlp;
mod pod;
pub mod ports;
pub mod privileges;
pub mod process;
pub mod route;
pub mod service;
mod stop;
mod sync;
mod table;
mod tcp_info;
pub mod telemetry;
mod units;
mod upstream;
mod workers;
pub mod workload;
pub mod workloads;
