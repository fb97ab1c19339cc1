//! `weir ui`: a page for the browser that shows a running weir.

use std::net::SocketAddr;

use super::{Exit, control::ControlArgs, output::write_stdout};
use crate::admin::{
    protocol::GetStatus,
    ui::{Ui, UiServer},
};

const EXAMPLES: &str = "\
Examples:
  weir ui
  weir ui --listen 127.0.0.1:8080
  ssh -L 8080:127.0.0.1:8080 node weir ui --listen 127.0.0.1:8080

The page shows a graph of who talks to whom, destinations, the endpoints of services, and records as
they come. It changes nothing and loads nothing from elsewhere. Its address has a secret, which keeps
other users of this machine away: they may not open the control socket either. The command runs until
it is interrupted. The page waits for a weir that has ended.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Loopback address to serve the page at; port 0 is any free port
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    #[command(flatten)]
    weir: ControlArgs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    args.weir.ask(GetStatus)?;
    let ui = Ui::new(args.weir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let server = UiServer::bind(args.listen, ui).await?;
        write_stdout(format!("{}\n", server.url()).as_bytes())?;
        server.serve().await;
        Ok(Exit::Success)
    })
}
