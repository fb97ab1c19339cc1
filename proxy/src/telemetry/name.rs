//! Host names that clients ask for, in the forms in which tables and filters have them.

/// The longest name that the DNS allows (RFC 1035 §2.3.4), in bytes.
const MOST: usize = 255;

/// The host name of an authority (RFC 3986 §3.2), without user, password and port; `None` for an
/// address and for what can be no name. A peer has chosen it: it is short and printable.
pub(super) fn host_name(authority: &str) -> Option<&str> {
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = without_port(host).trim_end_matches('.');
    let is_name = !host.is_empty()
        && host.len() <= MOST
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        && host.parse::<std::net::Ipv4Addr>().is_err();
    is_name.then_some(host)
}

/// The port of an authority (RFC 3986 §3.2): the colons of an IPv6 address are in brackets.
pub(super) fn port(authority: &str) -> Option<&str> {
    let (_, port) = authority.rsplit_once(':')?;
    port.bytes().all(|byte| byte.is_ascii_digit()).then_some(port)
}

/// The authority without its port.
pub(super) fn without_port(authority: &str) -> &str {
    match port(authority) {
        Some(port) => &authority[..authority.len() - port.len() - 1],
        None => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_the_dns_could_have() {
        for (authority, name) in [
            ("shop.example", Some("shop.example")),
            ("Shop.Example.:8080", Some("Shop.Example")),
            ("user:secret@shop.example:80", Some("shop.example")),
            ("localhost", Some("localhost")),
            ("my_service", Some("my_service")),
            ("192.0.2.1", None),
            ("192.0.2.1:8080", None),
            ("[2001:db8::1]:443", None),
            ("", None),
            (":80", None),
            ("a b", None),
            ("\u{1b}[31mred", None),
            ("b\u{fc}cher.example", None),
        ] {
            assert_eq!(host_name(authority), name, "{authority:?}");
        }
        assert_eq!(host_name(&"a".repeat(256)), None);
    }
}
