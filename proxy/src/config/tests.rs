//! The configuration file: defaults, errors, and the way there and back.

use std::io::Write;

use weir_common::{Direction, PortState, Source};

use super::*;

pub(super) fn load(text: &str) -> Result<Config, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let name = file.path().display().to_string();
    Config::load(file.path()).map_err(|error| error.to_string().replace(&name, "weir.toml"))
}

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(load("").unwrap(), Config::default());
    Config::default().validate().unwrap();
}

#[test]
fn the_effective_configuration_prints_and_reads_back() {
    let config = load(
        r#"
        [workload]
        name = "shop"
        cgroup = "/sys/fs/cgroup/shop"
        [outbound]
        skip_ports = "4406"
        opaque_ports = "+9000-9100"
        skip_cidrs = "10.0.0.0/8"
        [detect]
        timeout = "1h"
        peek_limit = "16KiB"
        [admin]
        address = "127.0.0.1:4191"
        "#,
    )
    .unwrap();
    insta::assert_snapshot!("effective", config.to_toml());
    assert_eq!(load(&config.to_toml()).unwrap(), config);
}

#[test]
fn lists_become_port_states_with_their_source() {
    let config = load("[outbound]\nskip_ports = \"4406\"\nopaque_ports = \"+9000\"").unwrap();
    let policy = config.own.port_policy(Source::Config);
    let state = |port| {
        let status = policy.get(Direction::Outbound, port);
        (status.state, status.source)
    };
    assert_eq!(state(4406), (PortState::Skip, Source::Config));
    assert_eq!(state(9000), (PortState::Opaque, Source::Config));
    assert_eq!(state(3306), (PortState::Opaque, Source::Default));
    assert_eq!(policy.get(Direction::Inbound, 9000).state, PortState::Detect);
}

#[test]
fn errors_say_where_what_and_what_next() {
    let errors: Vec<String> = [
        "[outbound]\nskip_ports = \"25,[4222]\"",
        "[outbound]\nskip_portz = \"25\"",
        "[outbund]",
        "[detect]\n\ntimeout = 5",
        "[detect]\ntimeout = \"5\"",
        "[detect]\npeek_limit = \"1GiB\"",
        "[detect]\npeek_limit = -1",
        "[outbound]\nskip_cidrs = \"10.0.0.1/8\"",
        "workload = ",
        "[workload]\nname = \"a b\"",
        "[workload]\nfail = \"shut\"",
        "[log]\nlevel = \"weir=loud\"",
        "[forward]\nconnect_timeout = \"0s\"",
    ]
    .into_iter()
    .map(|text| load(text).unwrap_err())
    .collect();
    insta::assert_snapshot!("errors", errors.join("\n"));
    let missing = Config::load(Path::new("/nonexistent/weir.toml")).unwrap_err().to_string();
    assert!(missing.contains("/nonexistent/weir.toml") && missing.contains("check the path"));
}

#[test]
fn an_instance_has_a_name_that_a_bpffs_allows() {
    for good in ["default", "pod-0ff2a1b8", "a_b", "7"] {
        instance_name("runtime.instance", good).unwrap();
    }
    for bad in ["", ".", "..", "../x", "a.b", "v1.2", "a/b", "a b", &"x".repeat(64)] {
        let error = instance_name("runtime.instance", bad).unwrap_err().to_string();
        assert!(error.contains("runtime.instance") && error.contains("bpffs"), "{error}");
    }
}
