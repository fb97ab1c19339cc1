//! `weir inject` and `weir uninject`: a manifest through [`weir_manifest`], from a file or stdin
//! to stdout. Nothing is written unless all of it was understood.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use weir_manifest::{self as manifest, DEFAULT_IMAGE, Edited, ManifestError, Settings, Sidecar};

use super::{
    Exit,
    flags::{FlagGroup, Flags},
    output::narrate,
    with_exit,
};
use crate::config::Setting;

/// What a manifest can say: without a default, as what is there stays.
#[derive(Clone, Copy, Debug)]
enum OfManifest {}

impl FlagGroup for OfManifest {
    fn has(setting: &Setting) -> bool {
        setting.sidecar
    }

    fn default(_: &Setting) -> Option<String> {
        None
    }
}

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

    /// What to write.
    #[command(flatten)]
    settings: Flags<OfManifest>,

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
    let given = args.settings.given().map(|(setting, text)| (setting.name, text.to_owned()));
    let settings = settings(given.collect());
    if !args.sidecar {
        return edit("inject", &args.file, |text| manifest::inject(text, &settings));
    }
    let sidecar = Sidecar { image: args.image.clone(), settings };
    edit("inject", &args.file, |text| manifest::inject_sidecar(text, &sidecar))
}

pub(super) fn uninject(args: &UninjectArgs) -> anyhow::Result<Exit> {
    let settings = settings(Vec::new());
    edit("uninject", &args.file, |text| manifest::uninject(text, &settings))
}

/// Every setting that pods have an annotation for, and those that were given.
fn settings(given: Vec<(&'static str, String)>) -> Settings {
    let known = Setting::all().filter(|setting| setting.annotation).map(|setting| setting.name);
    Settings { known: known.collect(), given }
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

/// The name of an image, as far as it could be one.
fn image(name: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && name.chars().all(fits) {
        return Ok(name.to_owned());
    }
    Err(format!("not an image name; write one such as {DEFAULT_IMAGE} or registry.example/weir:1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// What is written for a sidecar means what the key in the file means.
    #[test]
    fn arguments_of_a_sidecar_and_the_file_mean_the_same() {
        let pod =
            b"kind: Pod\napiVersion: v1\nmetadata:\n  name: p\nspec:\n  containers:\n  - name: a\n";
        for setting in Setting::all().filter(|setting| setting.sidecar) {
            let text = setting.sample();
            let sidecar =
                Sidecar { image: None, settings: settings(vec![(setting.name, text.clone())]) };
            let edited = manifest::inject_sidecar(pod, &sidecar).unwrap().text;
            let argument = format!("\"--{}={text}\"", setting.name);
            assert!(edited.contains(&argument), "{edited}");
            let command = crate::cli::command();
            let flag = argument.trim_matches('"');
            let matches = command.try_get_matches_from(["weir", "run", flag]).unwrap();
            let run = matches.subcommand_matches("run").unwrap();
            let args =
                <super::super::capture_args::RunArgs as clap::FromArgMatches>::from_arg_matches(
                    run,
                );
            let mut expected: Config = toml::from_str(&setting.file(&text)).unwrap();
            expected.resolve();
            assert_eq!(args.unwrap().config().unwrap(), expected, "{flag}");
        }
    }
}
