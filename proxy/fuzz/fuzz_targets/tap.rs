//! What a tap is asked for, as it comes over the control socket (first line), against a record
//! (second line): it prints as what parses to the same, and judges any record.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::telemetry::{
    record::Record,
    tap::{Statuses, TapFilter},
};

fuzz_target!(|text: &str| {
    let (first, second) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(statuses) = first.parse::<Statuses>() {
        assert_eq!(statuses.to_string().parse::<Statuses>().expect("own words parse"), statuses);
    }
    let Ok(filter) = serde_json::from_str::<TapFilter>(first) else { return };
    let line = serde_json::to_string(&filter).expect("filters have a JSON form");
    assert_eq!(serde_json::from_str::<TapFilter>(&line).expect("own words parse"), filter);
    if let Ok(record) = serde_json::from_str::<Record>(second) {
        let fits = filter.fits(&record);
        assert!(fits || filter != TapFilter::default(), "without conditions everything fits");
    }
});
