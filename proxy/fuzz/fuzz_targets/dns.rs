//! Answers of the DNS: whatever parses gives endpoints that can be dialled, for a bounded time.
#![no_main]

use std::time::Duration;

use hickory_resolver::proto::op::Message;
use libfuzzer_sys::fuzz_target;
use weir::service::dns::{addresses, services};

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = Message::from_vec(bytes) else { return };
    let bounds = Duration::from_secs(1)..=Duration::from_secs(300);
    let (found, holds) = addresses(&message.answers);
    assert!(bounds.contains(&holds));
    for (at, endpoint) in found.iter().enumerate() {
        assert!(!endpoint.ip.is_unspecified() && !endpoint.ip.is_multicast());
        assert!(found[..at].iter().all(|other| other.ip != endpoint.ip));
    }
    let (targets, holds) = services(&message.answers);
    assert!(bounds.contains(&holds) && targets.len() <= 256);
    assert!(targets.values().flatten().all(|it| it.port != 0 && it.weight != 0 && it.tier <= 8));
});
