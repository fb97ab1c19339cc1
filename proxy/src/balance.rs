//! Which endpoint of a service a connection goes to. Pure: no sockets, no clock of its own.
//!
//! The cost of an endpoint is its estimated latency × (connections in flight + 1) × distance / weight,
//! and the cheapest one is chosen. A failure counts as a slow second: an endpoint that fails quickly
//! would be the cheapest otherwise. The estimates are the node's: all workloads and workers read and
//! write the same atomics. They are computed when they are read, and written by samples only.

mod affinity;
mod breaker;
mod latency;
mod mode;
mod moment;
mod pool;
mod stats;

pub use self::{
    breaker::{Breaker, Standing},
    mode::Mode,
    moment::Moment,
    pool::{Choice, LONGEST_SLOW_START, Member, Pool, Why},
    stats::{InFlight, Stats},
};

#[cfg(test)]
mod tests;
