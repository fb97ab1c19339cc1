//! `weir inject` and `weir uninject`: a manifest through [`weir_manifest`], from a file or stdin
//! to stdout. Nothing is written unless all of it was understood.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use weir_manifest::{self as manifest, DEFAULT_IMAGE, Edited, ManifestError, Ports, Sidecar};

use super::{Exit, output::narrate, with_exit};
use crate::ports::{PortList, PortListError};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir inject deployment.yml --skip-outbound-ports=4406 | kubectl apply -f -
  kubectl get deployment web -o yaml | weir inject --opaque-ports +9000 - | kubectl apply -f -
  weir inject --sidecar --image registry.example/weir:1.2 deployment.yml | kubectl apply -f -

Changes Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs, CronJobs, Pods and lists of them;
other objects pass unchanged. Comments, order and formatting are preserved. Existing annotations, or
an existing sidecar, get the values of the given flags and keep all others.")]
pub(super) struct InjectArgs {
    /// Manifest in YAML or JSON with any number of documents; - is stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Inbound ports that are not captured
    #[arg(long, value_name = "LIST", value_parser = port_list, allow_hyphen_values = true)]
    skip_inbound_ports: Option<String>,

    /// Outbound ports that are not captured, such as 25,9000-9100
    #[arg(long, value_name = "LIST", value_parser = port_list, allow_hyphen_values = true)]
    skip_outbound_ports: Option<String>,

    /// Ports forwarded as raw TCP, both directions; +LIST adds to the default list
    #[arg(long, value_name = "LIST", value_parser = port_list, allow_hyphen_values = true)]
    opaque_ports: Option<String>,

    /// Add a native sidecar that captures its pod (Kubernetes 1.29), instead of annotations for
    /// `weir node`
    #[arg(long)]
    sidecar: bool,

    /// Image of the sidecar [default: weir:VERSION of this binary, or the existing one]
    #[arg(long, value_name = "IMAGE", requires = "sidecar", value_parser = image)]
    image: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir uninject deployment.yml | kubectl apply -f -
  kubectl get deployment web -o yaml | weir uninject - | kubectl apply -f -

Removes what `weir inject` has added, and objects that are empty without it.")]
pub(super) struct UninjectArgs {
    /// Manifest in YAML or JSON with any number of documents; - is stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn inject(args: &InjectArgs) -> anyhow::Result<Exit> {
    let ports = Ports {
        skip_inbound: args.skip_inbound_ports.clone(),
        skip_outbound: args.skip_outbound_ports.clone(),
        opaque: args.opaque_ports.clone(),
    };
    if !args.sidecar {
        return edit("inject", &args.file, |text| manifest::inject(text, &ports));
    }
    let sidecar = Sidecar { image: args.image.clone(), ports };
    edit("inject", &args.file, |text| manifest::inject_sidecar(text, &sidecar))
}

pub(super) fn uninject(args: &UninjectArgs) -> anyhow::Result<Exit> {
    edit("uninject", &args.file, manifest::uninject)
}

fn edit(
    verb: &str,
    file: &Path,
    work: impl FnOnce(&[u8]) -> Result<Edited, ManifestError>,
) -> anyhow::Result<Exit> {
    let (name, text) = if file == Path::new("-") {
        let mut text = Vec::new();
        let read = io::stdin().lock().read_to_end(&mut text);
        ("stdin".to_owned(), read.map(|_| text))
    } else {
        (file.display().to_string(), fs::read(file))
    };
    let text = text
        .with_context(|| format!("cannot read {name}; name a manifest, or - for stdin"))
        .map_err(|error| with_exit(error, Exit::Usage))?;
    let edited = work(&text).with_context(|| format!("cannot {verb} {name}"))?;
    // Not by way of `write_stdout`, which takes escape sequences out of what is no terminal's.
    let mut out = io::stdout().lock();
    out.write_all(edited.text.as_bytes())?;
    out.flush()?;
    let lines: Vec<_> = edited.report.iter().map(ToString::to_string).collect();
    if lines.is_empty() {
        narrate(&format!("{name} has no objects"));
    } else {
        narrate(&lines.join("\n"));
    }
    Ok(Exit::Success)
}

/// A list that is written as given.
fn port_list(list: &str) -> Result<String, PortListError> {
    PortList::parse(list).map(|_| list.to_owned())
}

/// The name of an image, as far as it could be one.
fn image(name: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && name.chars().all(fits) {
        return Ok(name.to_owned());
    }
    Err(format!("not an image name; write one such as {DEFAULT_IMAGE} or registry.example/weir:1"))
}
