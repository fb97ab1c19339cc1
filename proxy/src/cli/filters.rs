//! The conditions that `weir tap` and `weir connections` share.

use clap::ValueEnum as _;

use crate::{
    decision::{Direction, Treatment},
    ports::{CidrList, PortList, PortSet},
    telemetry::tap::{NamePattern, TapFilter},
};

/// Conditions on where a connection comes from and goes to.
#[derive(Debug, clap::Args)]
pub(super) struct FilterArgs {
    /// Only inbound
    #[arg(long, conflicts_with = "outbound")]
    inbound: bool,
    /// Only outbound
    #[arg(long)]
    outbound: bool,
    /// Destination ports: 443,9000-9100
    #[arg(long, value_name = "LIST", value_parser = ports)]
    port: Option<PortSet>,
    /// Prefixes of the client address: 10.0.0.0/8,fd00::/8
    #[arg(long, value_name = "CIDRS", value_parser = CidrList::parse)]
    from: Option<CidrList>,
    /// Prefixes of the destination address
    #[arg(long, value_name = "CIDRS", value_parser = CidrList::parse)]
    to: Option<CidrList>,
    /// Prefixes of the address of the endpoint that was chosen for it
    #[arg(long, value_name = "CIDRS", value_parser = CidrList::parse)]
    endpoint: Option<CidrList>,
    /// Protocols, separated by commas: skip, opaque, http1, http2, tls, tcp
    #[arg(long, value_name = "NAME", value_parser = protocol, value_delimiter = ',')]
    protocol: Vec<Treatment>,
    /// Host that requests, or a TLS connection, are for; `*.` matches any prefix
    #[arg(long, value_name = "NAME")]
    authority: Option<NamePattern>,
}

// === impl FilterArgs ===

impl FilterArgs {
    /// A filter with these conditions and no other.
    pub(super) fn filter(&self) -> TapFilter {
        TapFilter {
            direction: match (self.inbound, self.outbound) {
                (true, _) => Some(Direction::Inbound),
                (_, true) => Some(Direction::Outbound),
                _ => None,
            },
            ports: self.port.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            endpoint: self.endpoint.clone(),
            protocols: self.protocol.clone(),
            authority: self.authority.clone(),
            ..TapFilter::default()
        }
    }
}

fn ports(text: &str) -> anyhow::Result<PortSet> {
    Ok(PortList::parse(text)?.alone()?)
}

/// Other names have a next step: each is what weir calls otherwise.
fn protocol(name: &str) -> Result<Treatment, String> {
    if let Ok(found) = Treatment::from_str(name, true) {
        return Ok(found);
    }
    let known =
        Treatment::value_variants().iter().map(|it| it.name()).collect::<Vec<_>>().join(", ");
    Err(match name.to_ascii_lowercase().as_str() {
        "http" => "HTTP has two: write http1, http2 or http1,http2".to_owned(),
        "https" | "ssl" => "HTTPS passes through weir as TLS: write tls".to_owned(),
        "grpc" | "h2" | "h2c" => "it is HTTP/2 on the wire: write http2".to_owned(),
        "direct" | "bypass" => "connections that go direct are `skip`".to_owned(),
        _ => format!("the protocols are {known}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_names_of_protocols_have_a_next_step() {
        for (name, words) in [
            ("http", "http1,http2"),
            ("gRPC", "write http2"),
            ("https", "write tls"),
            ("udp", "tcp"),
        ] {
            let error = protocol(name).unwrap_err();
            assert!(error.contains(words), "{name}: {error}");
        }
        assert_eq!(protocol("http2"), Ok(Treatment::Http2));
    }
}
