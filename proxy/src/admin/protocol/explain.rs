//! What a connection to an address would get, and why.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Call, ControlError, Conversation};
use crate::{
    decision::{Direction, Source, Treatment},
    names,
    service::ServiceReport,
};

/// Asks what a connection to this address would get.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explain {
    /// The destination.
    pub address: SocketAddr,
    /// Seen from the workload.
    #[serde(with = "names::direction")]
    pub direction: Direction,
}

/// What a connection to an address would get.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The destination.
    pub address: SocketAddr,
    /// Seen from the workload.
    #[serde(with = "names::direction")]
    pub direction: Direction,
    /// In a few words: `skip`, `opaque`, `detect`.
    pub verdict: String,
    /// Who decided.
    #[serde(with = "names::source")]
    pub source: Source,
    /// Why, as a clause.
    pub why: String,
    /// The reason that the hook counts, a label of `weir_kernel_decisions_total`; absent where no hook
    /// decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Every test in the order in which the hook makes them, up to the one that decided.
    pub steps: Vec<Step>,
    /// What connections to it were treated as so far.
    pub seen: Vec<Seen>,
    /// The service that it belongs to, and its endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Box<ServiceReport>>,
}

/// One test on the way to a decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The question: `port skipped?`.
    pub test: String,
    /// The answer: `no: port 80 is detect (default)`.
    pub result: String,
    /// True for the one that decided.
    pub decisive: bool,
}

/// Earlier connections to the same address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// What they were treated as.
    pub treatment: Option<Treatment>,
    /// Who decided.
    #[serde(with = "names::source::optional")]
    pub source: Option<Source>,
    /// Why the kernel let them pass, where no rule asks for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why.
    pub why: String,
    /// How many.
    pub connections: u64,
}

// === impl Explain ===

impl Call for Explain {
    const NAME: &'static str = "explain";
    const REPLY: &'static str = "explanation";
    type Reply = Explanation;

    fn changes(&self) -> bool {
        false
    }

    async fn answer(self, on: &mut Conversation<'_>) -> Result<Explanation, ControlError> {
        on.handler.explain(on.workload(), self.address, self.direction).await
    }
}
