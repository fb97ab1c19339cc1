//! A request that the control socket understands is the same after a way through its own words.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::admin::protocol::Request;

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        let line = serde_json::to_vec(&request).expect("requests have a JSON form");
        assert_eq!(serde_json::from_slice::<Request>(&line).expect("own words parse"), request);
    }
});
