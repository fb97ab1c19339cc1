//! Addresses to listen on, as they are written in the file and in flags.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Deserializer, de};

/// An address with its port, and nothing else.
///
/// # Errors
/// What it is instead, and what to write.
pub(super) fn parse(text: &str) -> Result<SocketAddr, String> {
    let error = match text.parse::<SocketAddr>() {
        Ok(address) => return Ok(address),
        Err(error) => error,
    };
    if let Some((_, rest)) = text.split_once("://") {
        let rest = rest.split('/').next().unwrap_or_default();
        let instead = if rest.parse::<SocketAddr>().is_ok() { rest } else { EXAMPLE };
        return Err(format!(
            "{text:?} is a URL; write the address and the port alone, such as {instead}"
        ));
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        let instead = SocketAddr::new(address, 4191);
        return Err(format!("the port is missing behind {text:?}; write it, such as {instead}"));
    }
    match text.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() && is_name(name) => Err(format!(
            "{name:?} is a name, not an address; write the address, such as 127.0.0.1:{port}"
        )),
        Some(("", port)) if port.parse::<u16>().is_ok() => Err(format!(
            "the address is missing before {text:?}; write it, such as 127.0.0.1:{port}"
        )),
        _ => Err(format!("{text:?}: {error}; write an address and a port, such as {EXAMPLE}")),
    }
}

const EXAMPLE: &str = "127.0.0.1:4191";

/// Serde of an address that may be absent.
pub(super) fn optional<'de, D: Deserializer<'de>>(d: D) -> Result<Option<SocketAddr>, D::Error> {
    struct Text;

    impl de::Visitor<'_> for Text {
        type Value = SocketAddr;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an address and a port as text, such as \"{EXAMPLE}\"")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<SocketAddr, E> {
            parse(text).map_err(E::custom)
        }
    }

    struct Address(SocketAddr);

    impl<'de> Deserialize<'de> for Address {
        fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
            d.deserialize_str(Text).map(Self)
        }
    }

    Ok(Option::<Address>::deserialize(d)?.map(|address| address.0))
}

// === helpers ===

fn is_name(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.contains(|c: char| c.is_ascii_alphabetic()) && text.chars().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_named_with_what_to_write() {
        for (text, words) in [
            (
                "localhost:80",
                "\"localhost\" is a name, not an address; write the address, such as 127.0.0.1:80",
            ),
            (
                "http://127.0.0.1:80",
                "is a URL; write the address and the port alone, such as 127.0.0.1:80",
            ),
            ("http://localhost:80/metrics", "is a URL"),
            ("127.0.0.1", "write it, such as 127.0.0.1:4191"),
            ("[::1]", "write it, such as [::1]:4191"),
            ("::1", "write it, such as [::1]:4191"),
            (":80", "the address is missing"),
            ("127.0.0.1:99999", "write an address and a port"),
            ("", "write an address and a port"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        assert_eq!(parse("[::1]:80"), Ok("[::1]:80".parse().unwrap()));
    }
}
