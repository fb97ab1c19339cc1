//! `weir explain`: what a connection to an address gets, and why.

use std::{
    collections::BTreeSet,
    fmt::Write,
    net::{SocketAddr, ToSocketAddrs},
};

use anyhow::anyhow;
use serde::Serialize;

use super::{Exit, control::WorkloadArgs, output::OutputArgs, with_exit};
use crate::{
    admin::protocol::{Explain, ExplainRequest, Explanation},
    decision::{Direction, direction_name, source_name},
    service::RequestReport,
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  weir explain 10.1.2.3:3306\n  weir explain 10.96.0.10:80 --request 'GET /v2 version: two'\n  weir explain '[2001:db8::1]:443' -o json\n  weir explain db.example.com:4406"
)]
pub(super) struct Args {
    /// Address and port; a host name is resolved locally, and every address is explained
    #[arg(value_name = "ADDR:PORT")]
    address: String,
    /// Explain an inbound connection instead of an outbound one
    #[arg(long)]
    inbound: bool,
    /// Explain too which route a request takes: METHOD PATH [NAME: VALUE...]
    #[arg(long, value_parser = request, conflicts_with = "inbound")]
    request: Option<RequestText>,
    #[command(flatten)]
    weir: WorkloadArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// A request as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RequestText {
    text: String,
    method: String,
    target: String,
    fields: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Explained {
    #[serde(flatten)]
    explanation: Explanation,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<RequestExplained>,
}

#[derive(Serialize)]
struct RequestExplained {
    request: String,
    /// Absent where the destination has no routes.
    taken: Option<RequestReport>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let direction = if args.inbound { Direction::Inbound } else { Direction::Outbound };
    let mut explanations = Vec::new();
    for address in resolve(&args.address)? {
        let explanation = args.weir.ask(Explain { address, direction })?;
        let request = match &args.request {
            None => None,
            Some(it) => {
                let RequestText { text, method, target, fields } = it.clone();
                let asked = ExplainRequest { address, method, target, fields };
                Some(RequestExplained { request: text, taken: args.weir.ask(asked)? })
            }
        };
        explanations.push(Explained { explanation, request });
    }
    let all = |all: &Vec<Explained>| {
        let one = |it: &Explained| {
            let request = it.request.as_ref();
            let request = request.map(|it| super::routes::explain(&it.request, it.taken.as_ref()));
            text(&it.explanation) + &request.unwrap_or_default()
        };
        all.iter().map(one).collect::<Vec<_>>().join("\n")
    };
    args.output.print(&explanations, all)?;
    Ok(Exit::Success)
}

/// Words of a value follow its name, which ends with a colon.
fn request(text: &str) -> Result<RequestText, String> {
    let usage = "write METHOD PATH [NAME: VALUE...], such as 'GET /v2 version: two'";
    let mut words = text.split_ascii_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(usage.to_owned());
    };
    if target.ends_with(':') {
        return Err(usage.to_owned());
    }
    let mut fields: Vec<(String, String)> = Vec::new();
    for word in words {
        match (word.strip_suffix(':'), fields.last_mut()) {
            (Some(name), _) => fields.push((name.to_owned(), String::new())),
            (None, Some((_, value))) if value.is_empty() => value.push_str(word),
            (None, Some((_, value))) => {
                value.push(' ');
                value.push_str(word);
            }
            (None, None) => return Err(usage.to_owned()),
        }
    }
    let (text, method, target) = (text.to_owned(), method.to_owned(), target.to_owned());
    Ok(RequestText { text, method, target, fields })
}

fn resolve(text: &str) -> anyhow::Result<BTreeSet<SocketAddr>> {
    let usage = |problem: &str| {
        let hint = "expected an address and a port, such as 10.1.2.3:3306 or [::1]:80";
        with_exit(anyhow!("cannot explain {text:?}: {problem}; {hint}"), Exit::Usage)
    };
    if let Ok(address) = text.parse() {
        return Ok(BTreeSet::from([address]));
    }
    if text.contains("://") {
        return Err(usage("it is a URL; write its host and port alone"));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_written_as_one_text() {
        let it = request("GET /v2?a=b version: two accept: text/html, */* x:").unwrap();
        assert_eq!((&*it.method, &*it.target), ("GET", "/v2?a=b"));
        let fields = [("version", "two"), ("accept", "text/html, */*"), ("x", "")];
        assert_eq!(it.fields, fields.map(|(name, value)| (name.to_owned(), value.to_owned())));
        for wrong in ["GET", "", "GET version: two", "GET / version two"] {
            assert!(request(wrong).unwrap_err().starts_with("write METHOD"), "{wrong}");
        }
    }
}
