//! What is wrong with a definition, and where.

use std::{net::SocketAddr, sync::Arc};

/// A definition that was not taken over. What was in effect before remains so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {fault}")]
pub struct Problem {
    /// The object, or the file with line and column.
    pub place: String,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Two services want connections to one address.
    #[error(
        "{frontend} belongs to service {owner} already; give each service addresses of its own"
    )]
    Claimed {
        /// The address.
        frontend: SocketAddr,
        /// The service that has it.
        owner: Arc<str>,
    },
    /// Anything else.
    #[error("{0}")]
    Other(String),
}
