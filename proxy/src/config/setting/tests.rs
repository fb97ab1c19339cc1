//! Walks the table: what each row says holds for the file.

use std::collections::BTreeSet;

use super::*;

fn load(text: &str) -> Config {
    let mut config: Config = toml::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    config.resolve();
    config
}

#[test]
fn the_file_and_a_text_mean_the_same_and_print_as_what_they_are() {
    for setting in Setting::all() {
        let text = setting.sample();
        let mut applied = Config::default();
        setting.apply(&mut applied, &text).unwrap_or_else(|error| panic!("{setting:?}: {error}"));
        assert_ne!(applied, Config::default(), "{setting:?}");
        assert_eq!(applied, load(&setting.file(&text)), "{setting:?}");
        let printed = applied.to_toml();
        assert_eq!(load(&printed), applied, "{setting:?}");
        assert_eq!(load(&printed).to_toml(), printed, "{setting:?}");
        assert_eq!(Config::default().differences(&applied).len(), setting.keys.len());
    }
}

/// Guards against a field without a row. An error of serde names all fields of a section.
#[test]
fn every_key_of_the_file_has_one_row() {
    let names = |file: &str| -> BTreeSet<String> {
        let error = toml::from_str::<Config>(file).unwrap_err();
        error.message().split('`').skip(3).step_by(2).map(str::to_owned).collect()
    };
    let mut keys = BTreeSet::new();
    for section in names("zzz = 1") {
        keys.extend(
            names(&format!("[{section}]\nzzz = 1")).iter().map(|it| format!("{section}.{it}")),
        );
    }
    let rows: Vec<&str> = Setting::all().flat_map(|setting| setting.keys).copied().collect();
    let unique: BTreeSet<String> = rows.iter().map(|key| (*key).to_owned()).collect();
    assert_eq!(unique.len(), rows.len(), "a key has two rows");
    assert_eq!(unique, keys);
}

#[test]
fn ranges_hold_for_every_number() {
    for setting in Setting::all() {
        let (Kind::Count { from, to } | Kind::Size { from, to }) = setting.kind else { continue };
        let check = |number: usize| load(&setting.file(&number.to_string())).validate();
        for good in [Some(from), (to < usize::MAX).then_some(to)].into_iter().flatten() {
            check(good).unwrap_or_else(|error| panic!("{setting:?}: {error}"));
        }
        for bad in [from.checked_sub(1), (to < u32::MAX as usize).then(|| to + 1)] {
            let Some(error) = bad.and_then(|bad| check(bad).err()) else {
                assert!(bad.is_none(), "{setting:?}: {bad:?}");
                continue;
            };
            let expected = format!("{}: ", setting.keys[0]);
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
    }
}

#[test]
fn only_settings_that_change_in_place_do() {
    for setting in Setting::all() {
        let mut wanted = Config::default();
        setting.apply(&mut wanted, &setting.sample()).unwrap();
        let next = with_changes_in_place(&Config::default(), &wanted);
        let expected = if setting.change == Change::InPlace { wanted } else { Config::default() };
        assert_eq!(next, expected, "{setting:?}");
    }
}

#[test]
fn a_list_that_begins_with_plus_adds_to_the_one_before() {
    let setting = Setting::all().find(|it| it.keys.contains(&"inbound.opaque_ports")).unwrap();
    let mut config = load("[outbound]\nopaque_ports = \"1\"");
    setting.apply(&mut config, "+9").unwrap();
    assert_eq!(config.own.outbound.opaque_ports.to_string(), "1,9");
    assert_eq!(config.own.inbound.opaque_ports.set.len(), 9);
    assert!(setting.apply(&mut config, "[9").unwrap_err().contains("column 1"));
}
