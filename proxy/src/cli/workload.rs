//! `weir workload`: what a running weir captures, added and removed while it runs.

use super::{
    Exit,
    capture_args::WorkloadFlags,
    control::ControlArgs,
    output::{OutputArgs, narrate},
};
use crate::{
    admin::protocol::{WorkloadAdd, WorkloadList, WorkloadRemove, WorkloadStatus},
    config::{WorkloadSettings, fail_name},
    telemetry::stats::{plain_table, print_table},
};

const EXAMPLES: &str = "\
Examples:
  weir workload add shop --cgroup /sys/fs/cgroup/system.slice/shop.service
  weir workload add pod-a --cgroup /sys/fs/cgroup/kubepods/pod1 --netns /run/netns/pod-a \\
      --skip-outbound-ports 4406 --preserve-client-ip
  weir workload list -o json
  weir workload remove shop

Workloads that were added persist across restarts of weir, until they are removed.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Add a workload
    #[command(after_help = "Example:\n  weir workload add shop --cgroup /sys/fs/cgroup/shop")]
    Add(Box<AddArgs>),
    /// Stop capturing a workload; its open connections may finish
    #[command(after_help = "Example:\n  weir workload remove shop")]
    Remove(RemoveArgs),
    /// List the workloads
    #[command(after_help = "Example:\n  weir workload list -o json | jq '.[].name'")]
    List(ListArgs),
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    /// Name in metrics, records and commands: 1 to 63 letters, digits, '-', '_' and '.'
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    flags: WorkloadFlags,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
struct RemoveArgs {
    /// Name of the workload
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    control: ControlArgs,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    match &args.verb {
        Verb::Add(args) => add(args),
        Verb::Remove(args) => remove(args),
        Verb::List(args) => list(args),
    }
}

fn add(args: &AddArgs) -> anyhow::Result<Exit> {
    let mut settings = WorkloadSettings::default();
    settings.workload.name.clone_from(&args.name);
    args.flags.apply(&mut settings)?;
    settings.resolve();
    settings.validate()?;
    if settings.workload.cgroup.is_none() {
        let problem = "no cgroup to capture; pass --cgroup PATH";
        return Err(super::with_exit(anyhow::anyhow!(problem), Exit::Usage));
    }
    let added = args.control.ask(WorkloadAdd(settings))?;
    args.output.print(&vec![added], |added| table(added))?;
    Ok(Exit::Success)
}

fn remove(args: &RemoveArgs) -> anyhow::Result<Exit> {
    args.control.ask(WorkloadRemove { name: args.name.clone() })?;
    Ok(Exit::Success)
}

fn list(args: &ListArgs) -> anyhow::Result<Exit> {
    let workloads = args.control.ask(WorkloadList)?;
    if workloads.is_empty() {
        narrate("no workload is captured; add one with `weir workload add`");
    }
    args.output.print(&workloads, |workloads| table(workloads))?;
    Ok(Exit::Success)
}

fn table(workloads: &[WorkloadStatus]) -> String {
    let header = ["NAME", "STATE", "INBOUND", "FAIL", "LEARN", "OPEN", "CGROUP", "NETNS"];
    let mut table = plain_table(&header, 5);
    for it in workloads {
        table.add_row([
            it.name.clone(),
            it.phase.clone(),
            if it.inbound { "yes" } else { "no" }.to_owned(),
            fail_name(it.fail).to_owned(),
            it.learn.name().to_owned(),
            it.open_connections.to_string(),
            it.cgroup.clone(),
            it.netns.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    print_table(&table)
}
