//! Any manifest is refused or edited rightly: no panic, no edit that fails its proof, injecting
//! twice is injecting once.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::manifest::{Edited, ManifestError, Ports, inject, uninject};

fn known(result: Result<Edited, ManifestError>) -> Option<Edited> {
    match result {
        Err(error @ ManifestError::Internal(_)) => panic!("{error}"),
        other => other.ok(),
    }
}

fuzz_target!(|text: &[u8]| {
    let ports = Ports { opaque: Some("+4406".to_owned()), ..Ports::default() };
    known(uninject(text));
    if let Some(once) = known(inject(text, &ports)) {
        let twice = known(inject(once.text.as_bytes(), &ports)).expect("what weir wrote is good");
        assert_eq!(twice.text, once.text);
        known(uninject(once.text.as_bytes()));
    }
});
