//! That an application cannot tell a captured connection from a direct one: the same cases for plain
//! destinations and for destinations that are services.

use weir_tests::Lab;
use weir_tests::lab::{SERVER_V4, SERVER_V6};
use weir_tests::weir::Exec;

#[path = "cases.rs"]
mod plain;
#[expect(clippy::duplicate_mod, reason = "the same cases hold for both")]
#[path = "cases.rs"]
mod service;

/// `weir exec` for the cases in this module. In `service` each of their destinations is a service with
/// two endpoints, one of which refuses connections.
fn exec<'a>(lab: &'a Lab, module: &str) -> Exec<'a> {
    let exec = Exec::new(lab);
    if module.ends_with("plain") {
        return exec;
    }
    let (v4, v6) = (SERVER_V4, SERVER_V6);
    exec.flags(&[
        format!("--service={v4}:9000={v4}:9000,{v4}:9"),
        format!("--service=[{v6}]:9000=[{v6}]:9000,[{v6}]:9"),
        "--service=127.0.0.1:9000=127.0.0.1:9000,127.0.0.1:9".to_owned(),
    ])
}
