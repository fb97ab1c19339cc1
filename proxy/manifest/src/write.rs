//! New parts of a manifest as text: in block style, and in flow style, which is JSON too.

use std::borrow::Cow;

use super::tree::is_string;

/// A key with its value, both new.
pub(super) type New = (Cow<'static, str>, Item);

/// Something to be written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Item {
    /// A string. In block style it is written with quotes.
    Quoted(String),
    /// A string. In block style it has quotes only where it needs them.
    Plain(String),
    /// A number or a boolean.
    Word(&'static str),
    List(Vec<Item>),
    Map(Vec<New>),
}

/// How a text is laid out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Columns that a mapping is further in than its key.
    pub(super) step: usize,
    /// Columns that a list's hyphens are further in than its key.
    pub(super) dash: usize,
    /// The end of a line.
    pub(super) eol: &'static str,
}

/// Where the lines of flow style begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Margin<'a> {
    pub(super) margin: &'a str,
    /// What is added to it further in.
    pub(super) step: &'a str,
    pub(super) eol: &'a str,
}

// === impl Item ===

impl Item {
    /// Entries whose keys are written in the code.
    pub(super) fn map(entries: Vec<(&'static str, Self)>) -> Self {
        Self::Map(entries.into_iter().map(|(key, item)| (key.into(), item)).collect())
    }

    pub(super) fn plain(text: &str) -> Self {
        Self::Plain(text.to_owned())
    }

    pub(super) fn plains(texts: &[&str]) -> Self {
        Self::List(texts.iter().map(|text| Self::plain(text)).collect())
    }

    /// In flow style, on one line.
    pub(super) fn flow(&self) -> String {
        match self {
            Self::Quoted(text) | Self::Plain(text) => quote(text),
            Self::Word(word) => (*word).to_owned(),
            Self::List(items) => {
                let texts: Vec<_> = items.iter().map(Self::flow).collect();
                format!("[{}]", texts.join(", "))
            }
            Self::Map(entries) => format!("{{{}}}", flow(entries)),
        }
    }

    /// In flow style, what is in it on lines of its own.
    pub(super) fn flow_lines(&self, at: Margin<'_>) -> String {
        let Margin { margin, step, eol } = at;
        let within = format!("{margin}{step}");
        let inner = Margin { margin: &within, ..at };
        match self {
            Self::List(items) => {
                let texts: Vec<_> = items.iter().map(|item| item.flow_lines(inner)).collect();
                let text = texts.join(&format!(",{eol}{within}"));
                format!("[{eol}{within}{text}{eol}{margin}]")
            }
            Self::Map(entries) => {
                format!("{{{eol}{within}{}{eol}{margin}}}", flow_lines(entries, inner))
            }
            leaf => leaf.flow(),
        }
    }

    /// What stands below a key, in block style; `column` is the key's, from 0.
    pub(super) fn below(&self, column: usize, layout: Layout) -> String {
        match self {
            Self::Map(entries) => block(entries, column + layout.step, layout),
            Self::List(items) => list(items, column + layout.dash, layout),
            leaf => format!("{:1$}{2}{3}", "", column + layout.step, leaf.leaf(), layout.eol),
        }
    }

    /// A scalar in block style.
    pub(super) fn leaf(&self) -> String {
        match self {
            Self::Plain(text) if is_safe(text) => text.clone(),
            other => other.flow(),
        }
    }
}

/// Entries of a mapping as lines of block style.
pub(super) fn block(entries: &[New], column: usize, layout: Layout) -> String {
    let mut text = String::new();
    for (key, item) in entries {
        match item {
            Item::Map(_) | Item::List(_) => {
                text += &format!("{:column$}{key}:{}", "", layout.eol);
                text += &item.below(column, layout);
            }
            leaf => text += &format!("{:column$}{key}: {}{}", "", leaf.leaf(), layout.eol),
        }
    }
    text
}

/// Items of a list as lines of block style, with their hyphens in a column.
pub(super) fn list(items: &[Item], column: usize, layout: Layout) -> String {
    let mut text = String::new();
    for item in items {
        let within = match item {
            Item::Map(entries) => block(entries, column + 2, layout),
            leaf => format!("{:1$}{2}{3}", "", column + 2, leaf.leaf(), layout.eol),
        };
        text += &format!("{:column$}- {}", "", &within[column + 2..]);
    }
    text
}

/// Entries of a mapping in flow style, on one line, without braces.
pub(super) fn flow(entries: &[New]) -> String {
    let texts: Vec<_> =
        entries.iter().map(|(key, item)| format!("{}: {}", quote(key), item.flow())).collect();
    texts.join(", ")
}

/// Entries of a mapping in flow style, each on its line, without braces.
pub(super) fn flow_lines(entries: &[New], at: Margin<'_>) -> String {
    let entry = |(key, item): &New| format!("{}: {}", quote(key), item.flow_lines(at));
    let texts: Vec<_> = entries.iter().map(entry).collect();
    texts.join(&format!(",{}{}", at.eol, at.margin))
}

/// A double-quoted string, for YAML and JSON both.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    quoted += &format!("\\u{unit:04x}");
                }
            }
        }
    }
    quoted + "\""
}

/// True for what is a string without quotes to every YAML parser.
fn is_safe(text: &str) -> bool {
    is_string(text)
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && !text.ends_with(':')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:@".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_reads_the_same_in_every_style() {
        let entries = [
            ("name", Item::plain("weir")),
            ("on", Item::plain("on")),
            ("image", Item::plain("registry.example:5000/weir:1@sha256:ab")),
            ("args", Item::plains(&["run", "--sidecar", "it's: \"so\" # é", "1", "a: b", "end:"])),
            ("port", Item::Word("4191")),
            (
                "mounts",
                Item::List(vec![
                    Item::map(vec![("name", Item::plain("a")), ("ro", Item::Word("true"))]),
                    Item::map(vec![("of", Item::map(vec![("path", Item::Quoted("/x".into()))]))]),
                ]),
            ),
        ]
        .map(|(key, item)| (key.into(), item));
        let wanted = serde_json::json!({
            "name": "weir",
            "on": "on",
            "image": "registry.example:5000/weir:1@sha256:ab",
            "args": ["run", "--sidecar", "it's: \"so\" # é", "1", "a: b", "end:"],
            "port": 4191,
            "mounts": [{ "name": "a", "ro": true }, { "of": { "path": "/x" } }],
        });
        for (step, dash) in [(2, 0), (2, 2), (4, 0), (3, 1)] {
            let layout = Layout { step, dash, eol: "\n" };
            let text = block(&entries, 0, layout);
            let read: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
            assert_eq!(read, wanted, "{text}");
        }
        let margin = Margin { margin: "", step: "\t", eol: "\r\n" };
        let map = Item::Map(entries.into());
        for text in [map.flow(), map.flow_lines(margin)] {
            let read: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(read, wanted, "{text}");
        }
    }
}
