//! A port list that parses prints as one that parses to the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::ports::PortList;

fuzz_target!(|text: &str| {
    if let Ok(list) = PortList::parse(text) {
        assert_eq!(PortList::parse(&list.to_string()).expect("printed lists parse"), list);
    }
});
