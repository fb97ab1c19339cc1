//! Any manifest is refused or edited rightly: no panic, no edit that fails its proof, injecting
//! twice is injecting once.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_manifest::{Edited, ManifestError, Ports, Sidecar, inject, inject_sidecar, uninject};

fn known(result: Result<Edited, ManifestError>) -> Option<Edited> {
    match result {
        Err(error @ ManifestError::Internal(_)) => panic!("{error}"),
        other => other.ok(),
    }
}

/// One form of injection.
fn holds(text: &[u8], inject: impl Fn(&[u8]) -> Result<Edited, ManifestError>) {
    if let Some(once) = known(inject(text)) {
        let twice = known(inject(once.text.as_bytes())).expect("what weir wrote is good");
        assert_eq!(twice.text, once.text);
        known(uninject(once.text.as_bytes()));
    }
}

fuzz_target!(|text: &[u8]| {
    let ports = Ports { opaque: Some("+4406".to_owned()), ..Ports::default() };
    known(uninject(text));
    holds(text, |text| inject(text, &ports));
    let sidecar = Sidecar { image: None, ports: ports.clone() };
    holds(text, |text| inject_sidecar(text, &sidecar));
});
