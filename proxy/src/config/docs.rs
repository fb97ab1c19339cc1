//! The tables of settings in the documentation. `cargo xtask docs` writes them there.

use std::fmt::Write as _;

use weir_manifest::{BY_SIDECAR, DISABLED, ENABLED, INJECT, PREFIX};

use super::{Change, Kind, Setting};

/// Each table with the name that the documents have for it.
pub(crate) fn tables() -> [(&'static str, String); 3] {
    let file = format!("```toml\n{}```\n", annotated_file());
    [("settings", settings()), ("annotations", annotations()), ("file", file)]
}

/// A configuration file with every key as a comment, so that it is the defaults.
fn annotated_file() -> String {
    let mut sections: Vec<(&str, String)> = Vec::new();
    for setting in Setting::all() {
        for key in setting.keys {
            let Some((section, key)) = key.split_once('.') else { continue };
            let place = sections.iter().position(|(name, _)| *name == section);
            let place = place.unwrap_or_else(|| {
                sections.push((section, String::new()));
                sections.len() - 1
            });
            sections[place].1 += &entry(setting, key);
        }
    }
    let texts = sections.iter().map(|(name, keys)| format!("[{name}]\n{keys}"));
    texts.collect::<Vec<_>>().join("\n")
}

/// One key of the file with what there is to say of it.
fn entry(setting: &Setting, key: &str) -> String {
    let mut text = format!("# {}.\n", meaning(setting).replace('`', ""));
    if let Some(words) = setting.default {
        writeln!(text, "# Default: {words}.").expect("a string takes all");
    }
    let value = match (setting.kind, setting.file_default()) {
        (Kind::Size { .. }, Some(_)) => {
            let text = setting.default_text().unwrap_or_default();
            if text.parse::<u64>().is_ok() { text } else { format!("{text:?}") }
        }
        (_, Some(value)) => value.to_string(),
        (kind, None) => example(kind, setting.default),
    };
    writeln!(text, "#{key} = {value}").expect("a string takes all");
    text
}

/// A value for a key that has no default, or one in words.
fn example(kind: Kind, words: Option<&str>) -> String {
    let text = match kind {
        Kind::Text => "name".to_owned(),
        Kind::Path => "/path".to_owned(),
        Kind::Address => "127.0.0.1:4191".to_owned(),
        Kind::Url => "http://127.0.0.1:4318".to_owned(),
        Kind::Ports => "25,9000-9100".to_owned(),
        Kind::Cidrs => "10.0.0.0/8,fd00::/8".to_owned(),
        Kind::Bool => return "false".to_owned(),
        Kind::Count { from, .. } | Kind::Size { from, .. } => return from.to_string(),
        Kind::Ratio => return "0.0".to_owned(),
        Kind::Duration | Kind::DurationOrZero => "1s".to_owned(),
        Kind::Choice(values) => {
            let values = values();
            let default = values.iter().find(|value| Some(value.get_name()) == words);
            let value = default.or(values.first());
            value.map(|value| value.get_name().to_owned()).unwrap_or_default()
        }
    };
    format!("{text:?}")
}

fn settings() -> String {
    let mut table =
        "| key in the file | flag | default | changes | meaning |\n|---|---|---|---|---|\n"
            .to_owned();
    for setting in Setting::all() {
        let keys: Vec<_> = setting.keys.iter().map(|key| format!("`{key}`")).collect();
        let flag = match (setting.name, setting.off) {
            ("", _) => String::new(),
            (name, None) => format!("`--{name}`"),
            (name, Some((off, _))) => format!("`--{name}`, `--{off}`"),
        };
        let default = setting.default_text().unwrap_or_default();
        let change = match setting.change {
            Change::InPlace => "in place",
            Change::Recapture => "recapture",
            Change::Restart => "restart",
        };
        let keys = keys.join(", ");
        let meaning = meaning(setting);
        writeln!(table, "| {keys} | {flag} | {default} | {change} | {meaning} |")
            .expect("a string takes all");
    }
    table
}

fn annotations() -> String {
    let mut table = format!(
        "| annotation | value |\n|---|---|\n| `{INJECT}` | `{ENABLED}` or `{DISABLED}`; on a pod also \
         `{BY_SIDECAR}`: the pod captures itself |\n"
    );
    for setting in Setting::all().filter(|setting| setting.annotation) {
        let value = match setting.kind {
            Kind::Ports => "a list of ports".to_owned(),
            Kind::Bool => "`\"true\"` or `\"false\"`".to_owned(),
            Kind::Choice(values) => {
                let values = values();
                let names = values.iter().filter(|value| !value.is_hide_set());
                names
                    .map(|value| format!("`{}`", value.get_name()))
                    .collect::<Vec<_>>()
                    .join(" or ")
            }
            _ => "text".to_owned(),
        };
        let (name, help) = (setting.name, setting.help);
        writeln!(table, "| `{PREFIX}{name}` | {value}: {help} |").expect("a string takes all");
    }
    table
}

/// The help, with the range or the possible values.
fn meaning(setting: &Setting) -> String {
    let help = setting.help;
    match setting.kind {
        Kind::Count { from, to } | Kind::Size { from, to } if to < u32::MAX as usize => {
            format!("{help}: {from} to {to}")
        }
        Kind::Choice(values) => {
            let values = values();
            let names = values.iter().filter(|value| !value.is_hide_set());
            let names: Vec<_> = names.map(|value| format!("`{}`", value.get_name())).collect();
            format!("{help}: {}", names.join(", "))
        }
        _ => help.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::Config;

    /// `cargo xtask docs` mends it.
    #[test]
    fn the_documentation_has_the_tables_as_they_are() {
        let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let [settings, annotations, file] = tables();
        for (document, all) in [
            ("CLI.md", vec![&settings, &annotations]),
            ("KUBERNETES.md", vec![&annotations]),
            ("CONFIG.md", vec![&file]),
        ] {
            let text = std::fs::read_to_string(docs.join(document)).unwrap();
            for (name, table) in all {
                let wanted = format!("<!-- table {name} -->\n{table}<!-- end of table -->\n");
                assert!(text.contains(&wanted), "{document}: run `cargo xtask docs`\n{wanted}");
            }
        }
    }

    #[test]
    fn the_annotated_file_is_the_defaults_and_has_every_key() {
        let file = annotated_file();
        assert_eq!(super::super::tests::load(&file).unwrap(), Config::default());
        let keys = |text: &str| -> BTreeSet<String> {
            let table: toml::Table = toml::from_str(text).unwrap();
            let of = |(section, keys): (&String, &toml::Value)| {
                let keys = keys.as_table().unwrap().keys();
                keys.map(|key| format!("{section}.{key}")).collect::<Vec<_>>()
            };
            table.iter().flat_map(of).collect()
        };
        let uncommented = file.replace("\n#", "\n").replace("\n ", "\n# ");
        super::super::tests::load(&uncommented)
            .unwrap_or_else(|error| panic!("{error}\n{uncommented}"));
        let wanted = Setting::all().flat_map(|setting| setting.keys).map(|key| (*key).to_owned());
        assert_eq!(keys(&uncommented), wanted.collect());
        // Those that `to_table` leaves out have no default; nothing else is missing.
        let defaults = keys(&Config::default().to_toml());
        assert!(defaults.is_subset(&keys(&uncommented)), "{defaults:?}");
    }

    /// The examples of services and routes below the generated part.
    #[test]
    fn the_page_of_the_configuration_has_examples_that_are_accepted() {
        let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let text = std::fs::read_to_string(docs.join("CONFIG.md")).unwrap();
        let blocks: Vec<_> =
            text.split("```toml\n").skip(1).map(|it| it.split("```").next()).collect();
        assert!(blocks.len() >= 3, "{blocks:?}");
        let mut all = String::new();
        for block in blocks.into_iter().flatten() {
            super::super::tests::load(block).unwrap_or_else(|error| panic!("{error}\n{block}"));
            all += block;
        }
        assert!(all.contains("[[service]]") && all.contains("[[route]]"));
    }
}
