//! The language of the control socket: one JSON object per line each way. Both ends state the
//! version; within one version fields are only ever added.
//!
//! Each call is a file: its name, its arguments, its reply, and what is done for it. [`CALLS`] lists
//! them.

mod connections;
mod error;
mod explain;
mod handover;
mod kernel_counters;
mod log_level;
mod ports_diff;
mod ports_list;
mod ports_reset;
mod ports_set;
mod request;
mod routes;
mod services;
mod stat;
mod status;
mod tagged;
mod tap;
mod workload_add;
mod workload_list;
mod workload_remove;

pub use connections::GetConnections;
pub use error::{ControlError, ErrorCode};
pub use explain::{Explain, Explanation, Seen, Step};
pub use handover::{HandOver, HandingOver, Retire};
pub use kernel_counters::{GetKernelCounters, KernelCounters};
pub use log_level::LogLevel;
pub use ports_diff::{PortsDiff, PortsDifference};
pub use ports_list::{PortLookup, PortsList, PortsReport, PortsRule};
pub use ports_set::PortsChanged;
pub use request::Request;
pub use routes::{ExplainRequest, GetRoutes};
pub use services::{GetServices, GetUsedServices};
pub use stat::{GetEndpointStat, GetNameStat, GetStat, ResetStat, SampleStat};
pub use status::{GetStatus, PodState, PodStatus, SpanExport, Status, WorkloadStatus};
pub use tap::{StartTap, Tapped};
pub use workload_add::WorkloadAdd;
pub use workload_list::WorkloadList;
pub use workload_remove::WorkloadRemove;

use std::future::Future;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use self::{
    request::{Decoder, decoder},
    tagged::{Named, Tagged},
};
use super::control::Conversation;
use crate::ports::{PortsReset, PortsSet};

/// The version this weir speaks.
pub const VERSION: u32 = 1;

/// Longest request in bytes: a workload fits whose every list has all ports one by one, and whose
/// prefixes are as many as the kernel's map takes.
pub const MAX_REQUEST: usize = 8 * 1024 * 1024;

/// Longest answer in bytes that a client reads.
pub const MAX_RESPONSE: usize = 16 * 1024 * 1024;

/// Every call that a weir understands.
const CALLS: [Decoder; 24] = [
    decoder::<GetStatus>(),
    decoder::<PortsList>(),
    decoder::<PortsSet>(),
    decoder::<PortsReset>(),
    decoder::<PortsDiff>(),
    decoder::<Explain>(),
    decoder::<GetStat>(),
    decoder::<GetEndpointStat>(),
    decoder::<GetNameStat>(),
    decoder::<ResetStat>(),
    decoder::<SampleStat>(),
    decoder::<GetConnections>(),
    decoder::<GetServices>(),
    decoder::<GetUsedServices>(),
    decoder::<GetRoutes>(),
    decoder::<ExplainRequest>(),
    decoder::<StartTap>(),
    decoder::<LogLevel>(),
    decoder::<GetKernelCounters>(),
    decoder::<WorkloadList>(),
    decoder::<WorkloadAdd>(),
    decoder::<WorkloadRemove>(),
    decoder::<HandOver>(),
    decoder::<Retire>(),
];

/// Something that a running weir can be asked. Its fields are the arguments.
pub trait Call: Serialize + DeserializeOwned + Send + 'static {
    /// Its name on the wire.
    const NAME: &'static str;
    /// The name of its reply on the wire.
    const REPLY: &'static str;
    /// What comes back.
    type Reply: Serialize + DeserializeOwned + Send;

    /// Whether it changes anything, so that only weir's own user and root may ask for it. A call
    /// that only reads says so.
    fn changes(&self) -> bool {
        true
    }

    /// Carries it out, in the weir that was asked.
    ///
    /// # Errors
    /// Where it is refused or fails; nothing was changed then.
    fn answer(
        self,
        on: &mut Conversation<'_>,
    ) -> impl Future<Output = Result<Self::Reply, ControlError>> + Send;
}

/// A call after whose reply more lines follow.
pub trait Stream: Call {
    /// One of them.
    type Item: Serialize + DeserializeOwned;
}

/// The name of a call, as a type.
struct CallName<C>(C);

/// The name of a reply, as a type.
struct ReplyName<C>(C);

/// One line from the client.
#[derive(Serialize)]
#[serde(bound = "")]
struct Line<'a, C: Call> {
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<&'a str>,
    command: Tagged<&'a C, CallName<C>>,
}

/// One line from weir.
#[derive(Debug, Serialize, Deserialize)]
pub struct Response<T> {
    /// See [`VERSION`].
    pub version: u32,
    /// The answer.
    #[serde(flatten)]
    pub outcome: Outcome<T>,
}

/// A reply, or why there is none.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome<T> {
    /// The reply to the call.
    Ok(T),
    /// Nothing was changed.
    Error(ControlError),
}

/// The line, without its end, that asks for a call. `workload` is the one that is meant; not needed
/// where there is only one.
///
/// # Errors
/// Where an argument has no JSON form.
pub fn request_line(workload: Option<&str>, call: &impl Call) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Line { version: VERSION, workload, command: Tagged::new(call) })
}

/// Reads the reply to a call.
///
/// # Errors
/// Where the line is none.
pub fn read_reply<C: Call>(line: &[u8]) -> serde_json::Result<Response<C::Reply>> {
    let Response { version, outcome } =
        serde_json::from_slice::<Response<Tagged<C::Reply, ReplyName<C>>>>(line)?;
    let outcome = match outcome {
        Outcome::Ok(reply) => Outcome::Ok(reply.into_value()),
        Outcome::Error(error) => Outcome::Error(error),
    };
    Ok(Response { version, outcome })
}

/// The line, without its end, with the reply to a call.
fn reply_line<C: Call>(reply: &C::Reply) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Response::ok(Tagged::<_, ReplyName<C>>::new(reply)))
}

// === impl Response ===

impl<T> Response<T> {
    /// A reply in this version.
    pub const fn ok(reply: T) -> Self {
        Self { version: VERSION, outcome: Outcome::Ok(reply) }
    }
}

impl Response<()> {
    /// A refusal in this version.
    #[must_use]
    pub const fn error(error: ControlError) -> Self {
        Self { version: VERSION, outcome: Outcome::Error(error) }
    }
}

// === impl CallName, ReplyName ===

impl<C: Call> Named for CallName<C> {
    const NAME: &'static str = C::NAME;
}

impl<C: Call> Named for ReplyName<C> {
    const NAME: &'static str = C::REPLY;
}

#[cfg(test)]
mod tests;
