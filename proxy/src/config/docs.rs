//! The tables of settings in the documentation. `cargo xtask docs` writes them there.

use std::fmt::Write as _;

use weir_manifest::{BY_SIDECAR, DISABLED, ENABLED, INJECT, PREFIX};

use super::{Change, Kind, Setting};

/// Each table with the name that the documents have for it.
pub(crate) fn tables() -> [(&'static str, String); 2] {
    [("settings", settings()), ("annotations", annotations())]
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
    use super::*;

    /// `cargo xtask docs` mends it.
    #[test]
    fn the_documentation_has_the_tables_as_they_are() {
        let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let [settings, annotations] = tables();
        for (document, all) in
            [("CLI.md", vec![&settings, &annotations]), ("KUBERNETES.md", vec![&annotations])]
        {
            let text = std::fs::read_to_string(docs.join(document)).unwrap();
            for (name, table) in all {
                let wanted = format!("<!-- table {name} -->\n{table}<!-- end of table -->\n");
                assert!(text.contains(&wanted), "{document}: run `cargo xtask docs`\n{wanted}");
            }
        }
    }
}
