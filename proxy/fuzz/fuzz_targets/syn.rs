//! Anything where the headers of a SYN are expected: none, or packets that are made of them and are read
//! back, never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::capture::hold::packet::Syn;

fuzz_target!(|data: &[u8]| {
    let (answer, headers) = data.split_at(data.len().min(2));
    let Some(syn) = Syn::parse(headers) else { return };
    let again = syn.again();
    let read = Syn::parse(again.bytes()).expect("it was one before");
    assert_eq!(read.again(), again);
    let [kind, code] = *answer else { return };
    assert!(syn.error(kind, code).bytes().len() > headers.len());
    assert!(!syn.reset().bytes().is_empty());
});
