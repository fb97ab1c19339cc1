//! A configuration that parses and is valid prints as one that is the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::config::Config;

fuzz_target!(|text: &str| {
    if let Ok(mut config) = toml::from_str::<Config>(text) {
        config.resolve();
        if config.validate().is_ok() {
            let printed = config.to_toml();
            assert_eq!(toml::from_str::<Config>(&printed).expect("printed files parse"), config);
        }
    }
});
