//! Which destinations are services, and which endpoints each has.
//!
//! Sources ([`Origin`]) tell of services and of groups of endpoints as [`Delta`]s; [`Services`] keeps
//! them and answers for a destination with one look-up and without a lock. A change of endpoints
//! touches its service only, and a definition that is wrong changes nothing.

mod backend;
pub mod configured;
mod connections;
pub mod dns;
mod endpoints;
mod error;
mod known;
#[cfg(feature = "node")]
pub mod kubernetes;
mod names;
mod policy;
mod report;
mod requests;
mod route_report;
mod routes;
mod selection;
mod sources;
mod spec;
mod spread;
mod state;
mod target;

#[cfg(feature = "node")]
pub(crate) use self::route_report::RouteState;
pub(crate) use self::sources::Sources;
pub use self::{
    connections::{ToEndpoints, WorkloadMode},
    endpoints::{Endpoint, Endpoints, Use},
    error::{Fault, Problem},
    known::{Known, Services},
    policy::Policy,
    report::{EndpointReport, LastReport, ServiceReport, ServicesReport, SourceReport},
    route_report::{
        BackendReport, RequestReport, RetryReport, RouteReport, RoutesReport, RuleReport,
        TimeoutsReport,
    },
    selection::Place,
    spec::{Address, Conditions, Delta, Kind, Origin, PortSpec, ServiceSpec, SlicePort, SliceSpec},
    spread::Spread,
    state::Feed,
    target::{Last, Target},
};

#[cfg(test)]
mod tests;
