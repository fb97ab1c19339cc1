//! A list of prefixes that parses prints as one that parses to the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::ports::CidrList;

fuzz_target!(|text: &str| {
    if let Ok(list) = CidrList::parse(text) {
        assert_eq!(CidrList::parse(&list.to_string()).expect("printed lists parse"), list);
    }
});
