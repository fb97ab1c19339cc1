//! What sources say of retries in words.

use std::time::Duration;

use weir_http::RetryOn;

/// How long is waited before a retry where the rule does not say it.
pub const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);

/// Statuses of gRPC after which a call can be sent once more, by name.
pub const GRPC_RETRIES: [(&str, u32); 5] = [
    ("cancelled", 1),
    ("deadline-exceeded", 4),
    ("resource-exhausted", 8),
    ("internal", 13),
    ("unavailable", 14),
];

/// The answers after which a request is sent once more.
#[must_use]
pub fn retry_codes(on: &RetryOn) -> Vec<String> {
    match on {
        RetryOn::Http(codes) => codes
            .iter()
            .map(|(from, to)| if from == to { from.to_string() } else { format!("{from}-{to}") })
            .collect(),
        RetryOn::Grpc(codes) => {
            let is_one = |it: &&(&str, u32)| codes.contains(&it.1);
            GRPC_RETRIES.iter().filter(is_one).map(|it| it.0.to_owned()).collect()
        }
    }
}
