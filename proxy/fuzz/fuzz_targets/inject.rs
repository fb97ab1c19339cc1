//! Any manifest is refused or edited rightly: no panic, no edit that fails its proof, injecting
//! twice is injecting once.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_manifest::{Edited, ManifestError, Settings, Sidecar, inject, inject_sidecar, uninject};

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
        known(uninject(once.text.as_bytes(), &settings()));
    }
}

fn settings() -> Settings {
    Settings {
        known: vec!["skip-inbound-ports", "skip-outbound-ports", "opaque-ports", "fail"],
        given: vec![("opaque-ports", "+4406".to_owned())],
    }
}

fuzz_target!(|text: &[u8]| {
    let settings = settings();
    known(uninject(text, &settings));
    holds(text, |text| inject(text, &settings));
    let sidecar = Sidecar { image: None, settings };
    holds(text, |text| inject_sidecar(text, &sidecar));
});
