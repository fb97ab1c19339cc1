//! Anything behind the first bytes of a ClientHello: labels or none, never a panic, and the same
//! for every segmentation.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::detect::{Detector, detect};

fuzz_target!(|data: &[u8]| {
    let mut hello = vec![0x16, 3, 1];
    hello.extend_from_slice(data);
    let whole = detect(&hello);
    let mut detector = Detector::new(8192);
    for end in 1..=hello.len() {
        let verdict = detector.update(&hello[..end]);
        if verdict.is_final() {
            assert_eq!(verdict, whole);
            return;
        }
    }
});
