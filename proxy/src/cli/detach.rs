//! `weir detach`: removes all kernel state of weir.

use anyhow::Result;

use super::{Exit, output::narrate};
use crate::{
    capture::{ClientIp, Netns, detach},
    config::{self, DEFAULT_INSTANCE},
    workload::Description,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir detach
  weir detach --instance shop
  weir detach --all

Detaches every program, and removes pinned state and the changes of --preserve-client-ip.
Connections then go direct. If there is no state, the command succeeds.")]
pub(super) struct Args {
    /// Instance to detach [default: default]
    #[arg(long, value_name = "NAME", conflicts_with = "all")]
    instance: Option<String>,

    /// Detach every instance
    #[arg(long)]
    all: bool,

    /// Detach even if a weir is running
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &Args) -> Result<Exit> {
    let instances = match &args.instance {
        Some(name) => {
            config::instance_name("--instance", name)?;
            vec![name.clone()]
        }
        None if args.all => detach::instances()?,
        None => vec![DEFAULT_INSTANCE.to_owned()],
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut found = false;
    let mut failed = None;
    for instance in instances {
        // An instance in use does not prevent the others from being detached.
        match runtime.block_on(detach_one(&instance, args.force)) {
            Ok(true) => {
                found = true;
                narrate(&format!("instance {instance}: detached"));
            }
            Ok(false) => {}
            Err(error) => failed = Some(error),
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    if !found {
        narrate("nothing is attached");
    }
    Ok(Exit::Success)
}

/// False where there is nothing.
async fn detach_one(instance: &str, force: bool) -> Result<bool> {
    let Some(abandoned) = detach::claim(instance, force)? else { return Ok(false) };
    for description in abandoned.workloads() {
        let Ok(description) = serde_json::from_slice::<Description>(&description) else { continue };
        let Some(installed) = description.client_ip else { continue };
        // Without its namespace the rules are gone too.
        if let Some(netns) = Netns::find(description.netns_inode) {
            ClientIp::remove(&netns, &installed).await?;
        }
    }
    abandoned.remove()?;
    Ok(true)
}
