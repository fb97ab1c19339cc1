//! The verdict does not depend on how the bytes arrive: the first byte says where to cut the rest.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::detect::{Detector, Verdict, detect};

const LIMIT: usize = 8192;

fn in_segments(bytes: &[u8], step: usize) -> Verdict {
    let mut detector = Detector::new(LIMIT);
    for end in (1..bytes.len()).step_by(step).chain([bytes.len()]) {
        let verdict = detector.update(&bytes[..end]);
        if verdict.is_final() {
            return verdict;
        }
    }
    Verdict::NeedMore
}

fuzz_target!(|data: &[u8]| {
    let Some((step, bytes)) = data.split_first() else { return };
    if bytes.is_empty() {
        return;
    }
    let whole = detect(bytes);
    assert_eq!(whole, in_segments(bytes, 1), "byte by byte");
    assert_eq!(whole, in_segments(bytes, usize::from(*step).max(1)), "in steps of {step}");
});
