//! A Kubernetes node without Kubernetes: an API server that speaks what clients' watchers rely on
//! ([`api::Api`]), pods made of real cgroups, network namespaces and processes ([`pod::Pod`]), and
//! both together with a weir that watches ([`cluster::Cluster`]).

pub mod api;
pub mod cluster;
pub mod events;
pub mod object;
pub mod pod;
pub mod query;
pub mod server;
pub mod status;
pub mod store;
pub mod watch;

#[cfg(test)]
mod tests;
