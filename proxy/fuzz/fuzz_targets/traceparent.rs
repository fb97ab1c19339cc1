//! `traceparent`: what is read of a value is what it says, and a value of what was read is read as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_http::TraceParent;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fuzz_target!(|data: &[u8]| {
    let Some(read) = TraceParent::parse(data) else { return };
    let TraceParent { trace_id, parent_id, flags } = read;
    assert!(trace_id != [0; 16] && parent_id != [0; 8], "neither id is zero");
    let written = format!("00-{}-{}-{flags:02x}", hex(&trace_id), hex(&parent_id));
    assert_eq!(TraceParent::parse(written.as_bytes()), Some(read));
    let text = data.trim_ascii();
    assert_eq!(&text[3..35], hex(&trace_id).as_bytes());
    assert_eq!(&text[36..52], hex(&parent_id).as_bytes());
    assert_eq!(read.is_sampled(), flags & 1 == 1);
});
