//! Services without a cluster: `[[service]]`, and how all services are balanced: `[balance]`.

use std::{
    collections::HashSet, fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration,
};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, Visitor, value::MapAccessDeserializer},
};

use super::list::Listed;
use crate::{
    balance::{Breaker, LONGEST_SLOW_START, Mode},
    units,
};

/// How services are balanced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Balance {
    /// For services and workloads that ask for nothing.
    pub default: Mode,
    /// The name of this node, as endpoints have it.
    pub node: Option<String>,
    /// The availability zone of this node; absent for that of the endpoints on it.
    pub zone: Option<String>,
    /// A directory of Services and EndpointSlices, which is followed.
    pub objects_dir: Option<PathBuf>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct ServiceConfig {
    /// Its name in tables, records and metrics.
    pub name: String,
    /// What clients connect to.
    pub addresses: Vec<HostPort>,
    /// Where its endpoints are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointConfig>,
    /// A name whose addresses are its endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<HostPort>,
    /// A name whose SRV records say its endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub srv: Option<String>,
    /// Whether it is balanced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<Mode>,
    /// How long a new endpoint takes to get its whole share; zero for at once.
    #[serde(with = "units::duration", skip_serializing_if = "Duration::is_zero")]
    pub slow_start: Duration,
    /// When endpoints are taken out.
    pub breaker: BreakerConfig,
}

/// As it is written, before its checks.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    name: String,
    addresses: Vec<HostPort>,
    #[serde(default)]
    endpoints: Vec<EndpointConfig>,
    dns: Option<HostPort>,
    srv: Option<String>,
    balance: Option<Mode>,
    #[serde(default, with = "units::duration")]
    slow_start: Duration,
    #[serde(default)]
    breaker: BreakerConfig,
}

/// An endpoint: its address, or a table with more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndpointConfig {
    /// Where it is.
    pub address: SocketAddr,
    /// Its availability zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// 1 is usual; 2 gets twice as much.
    pub weight: u16,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointTable {
    address: String,
    zone: Option<String>,
    #[serde(default = "one")]
    weight: u16,
}

/// When endpoints are taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerConfig {
    /// So many failures in a row take an endpoint out for a while; 0 never does.
    pub consecutive_failures: u32,
}

/// An address, or a name, with a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "String")]
pub enum HostPort {
    /// An address.
    Address(SocketAddr),
    /// A name in the DNS.
    Name(String, u16),
}

// === impl HostPort ===

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            format!(
                "{text:?} is no address; write ADDRESS:PORT, such as 10.96.0.10:80, or NAME:PORT"
            )
        };
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 { Err(wrong()) } else { Ok(Self::Address(address)) };
        }
        let (name, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        // Digits and dots only are an address that is wrong.
        let is_name = dns_name(name) && name.contains(|c: char| c.is_ascii_alphabetic());
        if is_name { Ok(Self::Name(name.to_owned(), port)) } else { Err(wrong()) }
    }
}

impl<'de> Deserialize<'de> for HostPort {
    /// Within the visitor, so that an error has the place of this text.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl Visitor<'_> for One {
            type Value = HostPort;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"ADDRESS:PORT\" or \"NAME:PORT\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(One)
    }
}

impl From<HostPort> for String {
    fn from(it: HostPort) -> Self {
        it.to_string()
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

// === impl BreakerConfig ===

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { consecutive_failures: Breaker::default().consecutive_failures }
    }
}

// === impl EndpointConfig ===

impl FromStr for EndpointConfig {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = text.parse::<SocketAddr>().ok().filter(|it| it.port() != 0);
        let address = address.ok_or_else(|| {
            format!("{text:?} is no endpoint; write ADDRESS:PORT, such as 10.1.0.5:8080")
        })?;
        Ok(Self { address, zone: None, weight: 1 })
    }
}

impl<'de> Deserialize<'de> for EndpointConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = EndpointConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"ADDRESS:PORT\", or a table with address, zone and weight")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<M: serde::de::MapAccess<'de>>(
                self,
                map: M,
            ) -> Result<Self::Value, M::Error> {
                let table = EndpointTable::deserialize(MapAccessDeserializer::new(map))?;
                let plain: EndpointConfig = table.address.parse().map_err(M::Error::custom)?;
                if table.weight == 0 {
                    return Err(M::Error::custom("weight is 0; write 1 or more"));
                }
                Ok(EndpointConfig { zone: table.zone, weight: table.weight, ..plain })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

// === impl ServiceConfig ===

impl ServiceConfig {
    /// A service that asks for nothing more.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(
        name: String,
        addresses: Vec<HostPort>,
        endpoints: Vec<EndpointConfig>,
        dns: Option<HostPort>,
        srv: Option<String>,
    ) -> Result<Self, String> {
        let (balance, slow_start) = (None, Duration::ZERO);
        let breaker = BreakerConfig::default();
        Unchecked { name, addresses, endpoints, dns, srv, balance, slow_start, breaker }.try_into()
    }
}

impl TryFrom<Unchecked> for ServiceConfig {
    type Error = String;

    fn try_from(it: Unchecked) -> Result<Self, Self::Error> {
        let Unchecked { name, addresses, endpoints, dns, srv, balance, slow_start, breaker } = it;
        let refuse = |problem: &str| Err(format!("service {name:?}: {problem}"));
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        if !(1..=253).contains(&name.len()) || !name.chars().all(allowed) {
            return refuse("the name must be 1 to 253 letters, digits, '-', '_', '.' or '/'");
        }
        if addresses.is_empty() {
            return refuse("addresses is empty; write what clients connect to");
        }
        match (endpoints.is_empty(), &dns, &srv) {
            (false, None, None) | (true, Some(_), None) | (true, None, Some(_)) => {}
            (true, None, None) => {
                return refuse("it has no endpoints; write endpoints, dns or srv");
            }
            _ => return refuse("endpoints, dns and srv exclude each other"),
        }
        if let Some(HostPort::Address(address)) = &dns {
            return refuse(&format!("dns {address} is an address; write it in endpoints"));
        }
        if let Some(srv) = srv.as_ref().filter(|srv| !dns_name(srv)) {
            return refuse(&format!(
                "srv {srv:?} is no name; write one such as _http._tcp.shop.test"
            ));
        }
        if slow_start > LONGEST_SLOW_START {
            return refuse("slow_start is more than an hour");
        }
        Ok(Self { name, addresses, endpoints, dns, srv, balance, slow_start, breaker })
    }
}

impl Listed for ServiceConfig {
    const NAME: &'static str = "service";

    /// Each name once, and each address in one of them.
    fn check(&self, before: &[Self]) -> Result<(), String> {
        check_another(before, self)
    }
}

/// Whether a service takes neither the name nor an address of another.
///
/// # Errors
/// What it takes.
pub fn check_another(others: &[ServiceConfig], service: &ServiceConfig) -> Result<(), String> {
    let name = &service.name;
    if others.iter().any(|other| other.name == *name) {
        return Err(format!("service {name:?} is there twice; give each a name of its own"));
    }
    let mut own = HashSet::new();
    for address in &service.addresses {
        let owner = others.iter().find(|other| other.addresses.contains(address));
        let owner = match owner {
            Some(owner) => &owner.name,
            None if !own.insert(address) => name,
            None => continue,
        };
        return Err(format!(
            "service {name:?}: {address} belongs to service {owner:?} already; give each service \
             addresses of its own"
        ));
    }
    Ok(())
}

// === helpers ===

const fn one() -> u16 {
    1
}

fn dns_name(name: &str) -> bool {
    let label = |label: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        (1..=63).contains(&label.len()) && label.chars().all(allowed)
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    (1..=253).contains(&name.len()) && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::load;

    const SHOP: &str = r#"
[[service]]
name = "shop/checkout"
addresses = ["checkout.internal:8080", "10.96.12.7:8080"]
endpoints = ["10.1.0.5:8080", { address = "10.1.0.6:8080", zone = "b", weight = 2 }]
balance = "off"
slow_start = "30s"
[service.breaker]
consecutive_failures = 3
"#;

    #[test]
    fn services_are_read_and_printed_as_they_are() {
        let config = load(SHOP).unwrap();
        let service = &config.process.service[0];
        assert_eq!(service.addresses[0], HostPort::Name("checkout.internal".into(), 8080));
        assert_eq!((service.endpoints[1].weight, service.balance), (2, Some(Mode::Off)));
        assert_eq!(service.slow_start, Duration::from_secs(30));
        assert_eq!(service.breaker.consecutive_failures, 3);
        assert_eq!(load(&config.to_toml()).unwrap(), config);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_column() {
        let another =
            "[[service]]\nname = \"b\"\naddresses = [\"10.96.12.7:8080\"]\ndns = \"b:1\"\n";
        for (from, to, expected) in [
            ("consecutive_failures", "failures", "line 9, column 1: unknown field `failures`"),
            ("balance = \"off\"", "balance = \"of\"", "line 6, column 11: unknown variant `of`"),
            ("\"30s\"", "\"30\"", "line 7, column 14: \"30\" is not a duration"),
            ("\"30s\"", "\"2h\"", "service \"shop/checkout\": slow_start is more than an hour"),
            ("10.1.0.5:8080", "10.1.0:8080", "line 5, column 14: \"10.1.0:8080\" is no endpoint"),
            ("10.96.12.7:8080", "10.96.12.7", "line 4, column 40: \"10.96.12.7\" is no address"),
            ("10.96.12.7:8080", "10.96.12.700:8080", "line 4, column 40: \"10.96.12.700:8080\" is"),
            ("weight = 2", "weight = 0", "line 5, column 31: weight is 0; write 1 or more"),
            ("weight = 2", "height = 2", "line 5, column 72: unknown field `height`"),
            (
                "addresses = [\"checkout.internal:8080\", \"10.96.12.7:8080\"]",
                "addresses = []",
                "line 2, column 1: service \"shop/checkout\": addresses is empty",
            ),
            (
                "balance = \"off\"",
                "dns = \"shop.test:80\"",
                "line 2, column 1: service \"shop/checkout\": endpoints, dns and srv exclude",
            ),
            (
                "",
                another,
                "line 6, column 1: service \"shop/checkout\": 10.96.12.7:8080 belongs to service \"b\"",
            ),
        ] {
            let text = if from.is_empty() { format!("{to}{SHOP}") } else { SHOP.replace(from, to) };
            let error = load(&text).unwrap_err();
            assert!(error.starts_with("config weir.toml, "), "{error}");
            assert!(error.contains(expected), "{error} != {expected}");
        }
    }
}
