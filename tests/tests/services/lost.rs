//! Lists that are of no use: what fails then would have failed without weir, and nothing else does.

use std::time::Duration;

use anyhow::{Result, ensure};
use weir_tests::{
    netns::ip,
    weir::{Exec, Observed},
};

use super::place::{
    Backend, Manner, VIP, add_addresses, address, backends, lab, lab_with_vip, program, seen,
    service,
};

const MANNER: Manner = Manner::Answers(Duration::ZERO);

/// # Errors
/// Where any of the connections did not reach the service's own address.
fn all_reach_the_vip(observed: &Observed, count: usize) -> Result<()> {
    let seen = seen(observed)?;
    seen.none_failed()?;
    ensure!(seen.by_name.get(VIP) == Some(&count), "{seen:?}");
    Ok(())
}

#[test]
fn without_any_living_endpoint_the_original_destination_is_reached() -> Result<()> {
    let lab = lab_with_vip()?;
    let _vip = Backend::start(&lab, VIP, MANNER)?;
    add_addresses(&lab, 5)?;
    for connect in ["hold", "immediate"] {
        let flags = ["--connect", connect, "--service", &service((0..5).map(address))];
        let observed = Exec::new(&lab).flags(&flags).python(&program(200, MANNER))?;
        all_reach_the_vip(&observed, 200)?;
    }
    Ok(())
}

/// Packets to such endpoints vanish.
#[test]
fn endpoints_that_never_answer_do_not_keep_a_connection_from_the_original_destination() -> Result<()>
{
    let lab = lab_with_vip()?;
    let _vip = Backend::start(&lab, VIP, MANNER)?;
    ip(&["-n", lab.server.name(), "route", "add", "blackhole", "10.77.1.0/24"])?;
    let flag = service((0..5).map(address));
    let observed = Exec::new(&lab).flags(&["--service", &flag]).python(&program(5, MANNER))?;
    all_reach_the_vip(&observed, 5)
}

/// One that does not answer is where the application would get no answer without weir either.
#[test]
fn a_service_that_is_nowhere_fails_as_its_address_does() -> Result<()> {
    let lab = lab_with_vip()?;
    add_addresses(&lab, 2)?;
    let flag = service((0..2).map(address));
    let observed = Exec::new(&lab).flags(&["--service", &flag]).python(&program(3, MANNER))?;
    let seen = seen(&observed)?;
    let text = "[Errno 111] Connection refused";
    ensure!(seen.failed.get(text) == Some(&3) && seen.by_name.is_empty(), "{seen:?}");
    Ok(())
}

#[test]
fn lists_that_are_empty_or_wrong_and_balance_off_leave_connections_alone() -> Result<()> {
    let lab = lab_with_vip()?;
    let _vip = Backend::start(&lab, VIP, MANNER)?;
    let objects = lab.subdir("objects")?;
    let directory = objects.display().to_string();
    let service_object = format!(
        "kind: Service\nmetadata: {{name: shop}}\nspec: {{clusterIP: {VIP}, ports: [{{port: 8080}}]}}\n"
    );
    std::fs::write(objects.join("service.yaml"), service_object)?;
    let from_directory = ["--objects-dir", &directory];
    let observed = Exec::new(&lab).flags(&from_directory).python(&program(50, MANNER))?;
    all_reach_the_vip(&observed, 50)?;
    std::fs::write(objects.join("slice.yaml"), "kind: EndpointSlice\nmetadata: [")?;
    let observed = Exec::new(&lab).flags(&from_directory).python(&program(50, MANNER))?;
    all_reach_the_vip(&observed, 50)?;
    let _backends = backends(&lab, 2, MANNER)?;
    let off = ["--balance", "off", "--service", &service((0..2).map(address))];
    let observed = Exec::new(&lab).flags(&off).python(&program(50, MANNER))?;
    all_reach_the_vip(&observed, 50)
}

/// Bad input is refused before anything is captured.
#[test]
fn a_wrong_service_is_refused_with_its_place() -> Result<()> {
    let lab = lab()?;
    let observed =
        Exec::new(&lab).flags(&["--service", "shop@10.96.0.10=10.1.0.1:80"]).command(&["true"])?;
    let finished = weir_tests::process::run(&mut { observed.0 }, Duration::from_secs(60))?;
    let said = &finished.stderr;
    ensure!(finished.code() == 2 && said.contains("\"10.96.0.10\" is no address"), "{said}");
    Ok(())
}
