//! The bytes on the wire, which a client or a weir of another build reads.

use super::*;
use crate::{
    config::WorkloadSettings,
    decision::{Direction, PortState},
    ports::PortList,
    service::{RoutesReport, ServicesReport},
    telemetry::{
        OpenConnections,
        stats::{By, StatsSnapshot},
        tap::TapFilter,
    },
};

/// A request's line, and that the server understands it as the same.
fn request<C: Call>(call: C) -> String {
    let line = request_line(None, &call).unwrap();
    assert_eq!(
        Request::parse(&line).unwrap_or_else(|error| panic!("{error}")).line().unwrap(),
        line
    );
    let line = String::from_utf8(line).unwrap();
    let command = line.strip_prefix(r#"{"version":1,"command":"#).unwrap();
    command.strip_suffix('}').unwrap().to_owned()
}

/// A reply's line, and that the client understands it as the same.
fn reply<C: Call>(reply: &C::Reply) -> String {
    let line = reply_line::<C>(reply).unwrap();
    let Outcome::Ok(read) = read_reply::<C>(&line).unwrap().outcome else { panic!() };
    assert_eq!(reply_line::<C>(&read).unwrap(), line);
    let line = String::from_utf8(line).unwrap();
    let ok = line.strip_prefix(r#"{"version":1,"ok":"#).unwrap();
    ok.strip_suffix('}').unwrap().to_owned()
}

#[test]
fn requests_are_as_every_weir_of_this_version_reads_them() {
    assert_eq!(request(GetStatus), r#""status""#);
    assert_eq!(request(PortsList), r#""ports_list""#);
    let ports = PortList::parse("80,9000-9100").unwrap().set;
    assert_eq!(
        request(PortsSet {
            direction: Some(Direction::Outbound),
            ports,
            state: PortState::Skip,
            lifetime_s: None
        }),
        r#"{"ports_set":{"direction":"outbound","ports":"80,9000-9100","state":"skip"}}"#
    );
    let address = "192.0.2.1:80".parse().unwrap();
    assert_eq!(
        request(Explain { address, direction: Direction::Inbound }),
        r#"{"explain":{"address":"192.0.2.1:80","direction":"inbound"}}"#
    );
    assert_eq!(request(GetStat), r#""stat""#);
    assert_eq!(request(GetEndpointStat), r#""endpoint_stat""#);
    assert_eq!(request(GetNameStat), r#""name_stat""#);
    assert_eq!(request(ResetStat { by: By::Endpoint }), r#"{"stat_reset":{"by":"endpoint"}}"#);
    assert_eq!(
        request(SampleStat { by: By::Destination }),
        r#"{"stat_sample":{"by":"destination"}}"#
    );
    let connections = GetConnections { filter: TapFilter::default(), limit: 7 };
    assert_eq!(request(connections), r#"{"connections":{"filter":{},"limit":7}}"#);
    assert_eq!(
        request(GetServices { service: Some("shop".into()) }),
        r#"{"services":{"service":"shop"}}"#
    );
    assert_eq!(request(GetUsedServices), r#""used_services""#);
    assert!(request(StartTap(TapFilter::default())).starts_with(r#"{"tap":{"#));
    assert_eq!(request(LogLevel { filter: None }), r#"{"log_level":{"filter":null}}"#);
    assert_eq!(request(GetKernelCounters), r#""kernel_counters""#);
    assert_eq!(request(WorkloadList), r#""workload_list""#);
    let add = request(WorkloadAdd(WorkloadSettings::default()));
    assert!(add.starts_with(r#"{"workload_add":{"workload":{"name":"default","#), "{add}");
    assert_eq!(
        request(WorkloadRemove { name: "shop".into() }),
        r#"{"workload_remove":{"name":"shop"}}"#
    );
    assert_eq!(request(HandOver), r#""handover""#);
    assert_eq!(request(Retire { schema: "a1".into() }), r#"{"retire":{"schema":"a1"}}"#);
    let line = request_line(Some("shop"), &GetStat).unwrap();
    assert_eq!(line, br#"{"version":1,"workload":"shop","command":"stat"}"#);
}

#[test]
fn replies_are_as_every_client_of_this_version_reads_them() {
    assert_eq!(
        reply::<PortsList>(&PortsReport::default()),
        r#"{"ports":{"rules":[],"include_lists":[]}}"#
    );
    assert_eq!(reply::<PortsSet>(&Vec::new()), r#"{"changed":[]}"#);
    let stats = StatsSnapshot::default();
    assert!(reply::<GetStat>(&stats).starts_with(r#"{"stat":{"#));
    assert!(reply::<GetEndpointStat>(&stats).starts_with(r#"{"endpoint_stat":{"#));
    assert!(reply::<SampleStat>(&stats).starts_with(r#"{"stat_sample":{"#));
    assert!(reply::<ResetStat>(&stats).starts_with(r#"{"stat_reset":{"#));
    assert_eq!(
        reply::<GetConnections>(&OpenConnections::default()),
        r#"{"connections":{"open":0,"connections":[]}}"#
    );
    assert_eq!(
        reply::<GetServices>(&ServicesReport::default()),
        r#"{"services":{"sources":[],"services":[]}}"#
    );
    assert_eq!(
        reply::<GetUsedServices>(&ServicesReport::default()),
        r#"{"used_services":{"sources":[],"services":[]}}"#
    );
    assert_eq!(
        reply::<GetRoutes>(&RoutesReport::default()),
        r#"{"routes":{"sources":[],"routes":[]}}"#
    );
    assert_eq!(reply::<ExplainRequest>(&None), r#"{"request_explained":null}"#);
    assert_eq!(reply::<StartTap>(&()), r#""tapping""#);
    assert_eq!(reply::<LogLevel>(&"info".into()), r#"{"log_level":"info"}"#);
    assert_eq!(
        reply::<GetKernelCounters>(&KernelCounters::default()),
        r#"{"kernel_counters":{"workloads":{}}}"#
    );
    assert_eq!(reply::<WorkloadList>(&Vec::new()), r#"{"workloads":[]}"#);
    assert_eq!(reply::<WorkloadRemove>(&()), r#""removed""#);
    assert_eq!(reply::<HandOver>(&HandingOver { pid: 7 }), r#"{"handing_over":{"pid":7}}"#);
    assert_eq!(reply::<Retire>(&HandingOver { pid: 7 }), r#"{"handing_over":{"pid":7}}"#);
    let refusal = serde_json::to_string(&Response::error(ControlError::refused("no"))).unwrap();
    assert_eq!(refusal, r#"{"version":1,"error":{"code":"refused","message":"no"}}"#);
    let missed = serde_json::to_string(&Response::ok(Tapped::Missed { records: 3 })).unwrap();
    assert_eq!(missed, r#"{"version":1,"ok":{"missed":{"records":3}}}"#);
}

/// Guards against a client that takes one reply for another.
#[test]
fn a_reply_to_another_call_is_none() {
    let line = reply_line::<LogLevel>(&"info".into()).unwrap();
    let error = read_reply::<WorkloadList>(&line).unwrap_err().to_string();
    assert!(error.contains("`log_level` instead of `workloads`"), "{error}");
    let line = reply_line::<WorkloadRemove>(&()).unwrap();
    let error = read_reply::<StartTap>(&line).unwrap_err().to_string();
    assert!(error.contains("`removed` instead of `tapping`"), "{error}");
}

#[test]
fn every_call_has_a_name_of_its_own() {
    for (at, call) in CALLS.iter().enumerate() {
        assert!(CALLS[..at].iter().all(|other| other.name != call.name), "{}", call.name);
    }
}
