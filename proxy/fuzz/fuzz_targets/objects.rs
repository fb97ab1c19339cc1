//! Services and EndpointSlices as they are in a directory: anything is taken over as a whole or refused,
//! and what is taken over can be looked up.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::service::{Delta, Origin, Services, kubernetes::parse};

fuzz_target!(|text: &str| {
    let Ok(deltas) = parse(text) else { return };
    let services = Services::default();
    let refused = services.replace(Origin::Directory, deltas.clone()).err().unwrap_or_default();
    for target in services.targets() {
        let endpoints = services.endpoints(&target);
        assert!(endpoints.pool().len() <= endpoints.all().len());
        for frontend in target.frontends() {
            let found = services.find(*frontend).expect("a frontend is looked up");
            assert_eq!(found.service(), target.service());
        }
        if !endpoints.pool().is_empty() {
            assert!(target.choose(&endpoints, &[]).is_some());
        }
    }
    let defined = deltas.iter().filter(|it| matches!(it, Delta::Service(..))).count();
    assert!(refused.len() <= defined);
    services.replace(Origin::Directory, Vec::new()).expect("nothing is refused");
    assert!(services.targets().is_empty());
});
