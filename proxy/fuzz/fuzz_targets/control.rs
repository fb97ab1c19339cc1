//! A request that the control socket understands is the same after it was written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::admin::protocol::Request;

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = Request::parse(data) {
        let line = request.line().expect("requests have a JSON form");
        let again = Request::parse(&line).expect("what was written is read");
        assert_eq!(again.line().expect("requests have a JSON form"), line);
    }
});
