//! What an object says, in the terms of the model.

use std::{net::IpAddr, net::SocketAddr, sync::Arc, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{
    super::{
        Address, Conditions, Policy, PortSpec, Problem, ServiceSpec, SlicePort, SliceSpec,
        error::Fault,
    },
    linkerd::of_service,
    object::{
        BALANCE, EndpointBody, NO_PROXY, Named, SERVICE_NAME, SLOW_START, ServiceBody,
        ServiceObject, SliceObject, full_name,
    },
};
use crate::{balance::LONGEST_SLOW_START, units::parse_duration};

/// The service that an object is, with its name. One that weir leaves alone has no port: headless,
/// of another proxy, or a name elsewhere.
///
/// # Errors
/// What is wrong with the object, which is not to be taken over then.
pub(crate) fn service(
    object: &ServiceObject,
    linkerd: bool,
) -> Result<(Arc<str>, ServiceSpec), Problem> {
    let name = named(&object.metadata, "Service")?;
    let refuse =
        |fault: String| Problem { place: format!("Service {name}"), fault: Fault::Other(fault) };
    let alone = Ok((Arc::clone(&name), ServiceSpec::default()));
    let Some(body) = &object.spec else { return Err(refuse("spec is missing".to_owned())) };
    if label(&object.metadata, NO_PROXY).is_some() || body.kind.as_deref() == Some("ExternalName") {
        return alone;
    }
    let addresses = cluster_ips(body).map_err(refuse)?;
    if addresses.is_empty() {
        return alone;
    }
    let ports = body.ports.as_deref().unwrap_or_default();
    if ports.is_empty() {
        return Err(refuse("spec.ports is empty; give it a port".to_owned()));
    }
    let mut specs = Vec::new();
    for (at, port) in ports.iter().enumerate() {
        let number = number(port.port, || format!("spec.ports[{at}].port")).map_err(refuse)?;
        if port.protocol.as_deref().unwrap_or("TCP") == "TCP" {
            specs.push(PortSpec {
                name: port.name.as_deref().unwrap_or_default().into(),
                frontends: addresses.iter().map(|ip| SocketAddr::new(*ip, number)).collect(),
                app_protocol: port.app_protocol.as_deref().map(Into::into),
            });
        }
    }
    let annotation = |name| object.metadata.annotations.as_ref()?.get(name);
    let mode = annotation(BALANCE).map(|text| text.parse()).transpose();
    let slow_start = annotation(SLOW_START).map_or(Ok(Duration::ZERO), |text| slow_start(text));
    let (breaker, routes) = match linkerd {
        true => of_service(&object.metadata).map_err(refuse)?,
        false => (None, Vec::new()),
    };
    let policy = Policy {
        mode: mode.map_err(|error: String| refuse(format!("annotation {BALANCE}: {error}")))?,
        slow_start: slow_start
            .map_err(|error| refuse(format!("annotation {SLOW_START}: {error}")))?,
        sticky: body.session_affinity.as_deref() == Some("ClientIP"),
        local_only: body.internal_traffic_policy.as_deref() == Some("Local"),
        not_ready_too: body.publish_not_ready_addresses == Some(true),
        breaker: breaker.unwrap_or_default(),
    };
    Ok((name, ServiceSpec { ports: specs, policy, routes }))
}

/// The group of endpoints that an object is; `None` for one of no service, or of names.
///
/// # Errors
/// What is wrong with the object, which is not to be taken over then.
pub(crate) fn slice(object: &SliceObject) -> Result<Option<SliceSpec>, Problem> {
    let name = named(&object.metadata, "EndpointSlice")?;
    let refuse = |fault: String| Problem {
        place: format!("EndpointSlice {name}"),
        fault: Fault::Other(fault),
    };
    let Some(service) = label(&object.metadata, SERVICE_NAME) else { return Ok(None) };
    let is_ipv6 = match &*object.address_type {
        "IPv4" => false,
        "IPv6" => true,
        "FQDN" => return Ok(None),
        other => {
            return Err(refuse(format!("addressType {other:?} is unknown; write IPv4 or IPv6")));
        }
    };
    let mut ports = Vec::new();
    for (at, port) in object.ports.iter().flatten().enumerate() {
        let is_tcp = port.protocol.as_deref().unwrap_or("TCP") == "TCP";
        if let (true, Some(value)) = (is_tcp, port.port) {
            let port_name = port.name.as_deref().unwrap_or_default().into();
            let port = number(value, || format!("ports[{at}].port")).map_err(refuse)?;
            ports.push(SlicePort { name: port_name, port });
        }
    }
    let endpoints = object.endpoints.iter().flatten().enumerate();
    let addresses = endpoints.map(|(at, endpoint)| {
        address(endpoint, is_ipv6).map_err(|fault| refuse(format!("endpoints[{at}]: {fault}")))
    });
    let addresses = addresses.collect::<Result<_, _>>()?;
    let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
    let service = format!("{namespace}/{service}").into();
    Ok(Some(SliceSpec { name: Arc::clone(&name), service, ports, addresses }))
}

// === helpers ===

fn slow_start(text: &str) -> Result<Duration, String> {
    let window = parse_duration(text).map_err(|error| error.to_string())?;
    if window > LONGEST_SLOW_START {
        return Err(format!("{text} is more than an hour"));
    }
    Ok(window)
}

fn named(metadata: &ObjectMeta, kind: &str) -> Result<Arc<str>, Problem> {
    match &metadata.name {
        Some(name) if !name.is_empty() => Ok(full_name(metadata).into()),
        _ => Err(Problem {
            place: format!("{kind} without a name"),
            fault: Fault::Other("metadata.name is missing".to_owned()),
        }),
    }
}

fn label<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a String> {
    metadata.labels.as_ref().and_then(|labels| labels.get(key))
}

/// None for a headless service.
fn cluster_ips(body: &ServiceBody) -> Result<Vec<IpAddr>, String> {
    let texts = match (&body.cluster_ips, &body.cluster_ip) {
        (Some(all), _) if !all.is_empty() => all.as_slice(),
        (_, Some(one)) => std::slice::from_ref(one),
        _ => &[],
    };
    let is_address = |text: &&String| !text.is_empty() && *text != "None";
    let parse = |text: &String| {
        text.parse().map_err(|_| format!("spec.clusterIP {text:?} is no IP address"))
    };
    texts.iter().filter(is_address).map(parse).collect()
}

fn number(value: i64, place: impl Fn() -> String) -> Result<u16, String> {
    let port = u16::try_from(value).ok().filter(|port| *port != 0);
    port.ok_or_else(|| format!("{} {value} is no port; write 1 to 65535", place()))
}

fn address(endpoint: &EndpointBody, is_ipv6: bool) -> Result<Address, String> {
    // All further ones are of the same pod (`EndpointSlice` in the API reference).
    let text = endpoint.addresses.first().ok_or("addresses is empty")?;
    let ip: IpAddr = text.parse().map_err(|_| format!("{text:?} is no IP address"))?;
    if ip.is_ipv6() != is_ipv6 {
        return Err(format!("{ip} is not of the slice's addressType"));
    }
    let conditions = endpoint.conditions.unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let names = |named: Option<&Vec<Named>>| -> Vec<Arc<str>> {
        named.into_iter().flatten().map(|named| named.name.as_str().into()).collect()
    };
    let hints = endpoint.hints.as_ref();
    Ok(Address {
        conditions: Conditions {
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
        },
        zone: endpoint.zone.as_deref().map(Into::into),
        node: endpoint.node_name.as_deref().map(Into::into),
        for_zones: names(hints.and_then(|hints| hints.for_zones.as_ref())),
        for_nodes: names(hints.and_then(|hints| hints.for_nodes.as_ref())),
        ..Address::new(ip)
    })
}
