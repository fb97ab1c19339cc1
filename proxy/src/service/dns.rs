//! Asks the DNS for the endpoints of services, again and again: an answer holds for its time to live.

#[cfg(feature = "dns")]
mod resolver;

use tokio::sync::mpsc::UnboundedSender;

use super::configured::{Answer, Query};

#[cfg(feature = "dns")]
pub use resolver::{addresses, services};

/// Follows a name until the receiver is dropped.
#[cfg(feature = "dns")]
pub(super) async fn follow(query: Query, tell: UnboundedSender<(Query, Answer)>) {
    match resolver::system() {
        Ok(resolver) => resolver::follow(&resolver, query, tell).await,
        // The next configuration asks again.
        Err(error) => _ = tell.send((query, Err(error))),
    }
}

/// Without the feature no name is known.
#[cfg(not(feature = "dns"))]
pub(super) async fn follow(query: Query, tell: UnboundedSender<(Query, Answer)>) {
    let _ = tell.send((query, Err("this weir was built without the feature dns".to_owned())));
}
