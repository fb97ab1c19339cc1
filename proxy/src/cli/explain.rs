//! `weir explain`: what a connection to an address gets, and why.

use std::{
    collections::BTreeSet,
    fmt::Write,
    net::{SocketAddr, ToSocketAddrs},
};

use anyhow::anyhow;

use super::{Exit, control::WorkloadArgs, output::OutputArgs, with_exit};
use crate::{
    admin::protocol::{Explain, Explanation},
    decision::{Direction, direction_name, source_name},
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  weir explain 10.1.2.3:3306\n  weir explain '[2001:db8::1]:443' -o json\n  weir explain db.example.com:4406"
)]
pub(super) struct Args {
    /// Address and port; a host name is resolved locally, and every address is explained
    #[arg(value_name = "ADDR:PORT")]
    address: String,
    /// Explain an inbound connection instead of an outbound one
    #[arg(long)]
    inbound: bool,
    #[command(flatten)]
    weir: WorkloadArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let direction = if args.inbound { Direction::Inbound } else { Direction::Outbound };
    let mut explanations = Vec::new();
    for address in resolve(&args.address)? {
        explanations.push(args.weir.ask(Explain { address, direction })?);
    }
    args.output.print(&explanations, |all| all.iter().map(text).collect::<Vec<_>>().join("\n"))?;
    Ok(Exit::Success)
}

fn resolve(text: &str) -> anyhow::Result<BTreeSet<SocketAddr>> {
    let usage = |problem: &str| {
        let hint = "expected an address and a port, such as 10.1.2.3:3306 or [::1]:80";
        with_exit(anyhow!("cannot explain {text:?}: {problem}; {hint}"), Exit::Usage)
    };
    if let Ok(address) = text.parse() {
        return Ok(BTreeSet::from([address]));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(usage("the port is missing"));
    };
    if port.parse::<u16>().is_err() {
        return Err(usage(&format!("{port:?} is not a port")));
    }
    if host.is_empty() || host.contains(':') {
        return Err(usage("the address is missing or not valid"));
    }
    let addresses = text.to_socket_addrs().map_err(|error| {
        let error = error.to_string();
        usage(error.strip_prefix("failed to lookup address information: ").unwrap_or(&error))
    })?;
    Ok(addresses.collect())
}

pub(super) fn text(explanation: &Explanation) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        writeln!(out, "{text}").expect("writing to a string cannot fail");
    };
    line(format!(
        "{} {}: {} ({}), because {}",
        direction_name(explanation.direction),
        explanation.address,
        explanation.verdict,
        source_name(explanation.source),
        explanation.why
    ));
    for step in &explanation.steps {
        let mark = if step.decisive { "=>" } else { "  " };
        line(format!(" {mark} {:<24}{}", step.test, step.result));
    }
    for seen in &explanation.seen {
        line(format!(
            "    seen: {} as {} ({}: {})",
            if seen.connections == 1 {
                "1 connection".to_owned()
            } else {
                format!("{} connections", seen.connections)
            },
            seen.treatment.map_or("undecided", |treatment| treatment.name()),
            seen.reason.as_deref().or(seen.source.map(source_name)).unwrap_or("-"),
            seen.why
        ));
    }
    if let Some(service) = &explanation.service {
        out += &super::endpoints::explain(service);
    }
    out
}
