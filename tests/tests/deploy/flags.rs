//! weir takes the command line that the manifest gives it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use weir_tests::process::run;
use weir_tests::weir::binary;

use crate::container::pod;

#[test]
fn weir_node_takes_the_arguments_of_the_manifest() -> Result<()> {
    let arguments: Vec<String> = serde_json::from_value(pod()?["containers"][0]["args"].clone())?;
    let mut command = Command::new(binary()?);
    command.args(&arguments).arg("--print-config").env("NODE_NAME", "node-1");
    let printed = run(&mut command, Duration::from_secs(20))?.ok()?.stdout;
    for setting in ["\"0.0.0.0:4191\"", "\"/run/weir/control.sock\"", "\"30s\"", "\"json\""] {
        ensure!(printed.contains(setting), "{setting} is not in\n{printed}");
    }
    Ok(())
}
