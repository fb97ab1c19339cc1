//! Routes of requests, as the Gateway API has them: which rule a request matches, and what that does with
//! it. Pure: knows no sockets, no services and no sources.
//!
//! | file | what it knows |
//! |---|---|
//! | `model.rs` | routes as their sources tell of them |
//! | `matches.rs` | whether a request is meant |
//! | `precedence.rs` | which of several matches counts |
//! | `table.rs` | all rules for one destination, made for fast matching |
//! | `filter.rs` | what a rule changes of a request, and redirects |
//! | `weights.rs` | which of several backends |
//! | `check.rs` | rules that cannot be |
//! | `affinity.rs` | which requests belong together |
//! | `fault.rs` | requests that are made to fail or to wait |
//! | `tally.rs` | what has come of the requests of a rule |
//! | `rate.rs` | how many requests a rule lets through |
//! | `retry.rs` | retries in words |
//! | `duration.rs` | durations as the Gateway API writes them |

mod affinity;
mod check;
mod duration;
mod fault;
mod filter;
mod matches;
mod model;
mod precedence;
mod rate;
mod retry;
mod table;
mod tally;
#[cfg(test)]
mod tests;
mod weights;

pub use self::{
    affinity::Affinity,
    duration::parse_duration,
    fault::{Faults, Portion},
    filter::{Filters, PathChange, Redirect, Rewrite, check_field, edits},
    matches::{GrpcMatch, Match, PathMatch, Pattern, TextMatch},
    model::{Backend, Parent, Route, RouteId, RouteKind, Rule},
    rate::{Rate, RateLimit},
    retry::{DEFAULT_BACKOFF, GRPC_RETRIES, retry_codes},
    table::{Found, Table},
    tally::{Count, Tally},
    weights::Weights,
};
