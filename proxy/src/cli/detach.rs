//! `weir detach`: takes away everything that weir has left in the kernel.

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

Takes every program off its hook, and removes what is pinned and what --preserve-client-ip has
changed. Connections then go direct. It is no error if there is nothing to take away.")]
pub(super) struct Args {
    /// The instance to take away [default: default]
    #[arg(long, value_name = "NAME", conflicts_with = "all")]
    instance: Option<String>,

    /// Take away every instance
    #[arg(long)]
    all: bool,

    /// Also from under a weir that is running
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
        // One that is being served does not keep the others from being taken away.
        match runtime.block_on(detach_one(&instance, args.force)) {
            Ok(true) => {
                found = true;
                narrate(&format!("instance {instance}: everything is detached"));
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
