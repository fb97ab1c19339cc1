//! HTTPRoutes of a cluster, as they come, change and go.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weir_tests::{
    kube::{
        cluster::{Cluster, SOON},
        object::{Owner, key},
        pod::{Layout, Pod},
    },
    netns::ip,
    process::wait_until,
};

use crate::{object, opted};

/// The service's address, which no server has.
const VIP: &str = "10.96.0.10";
const PORT: u16 = 80;

/// The place that a request is sent to by weir.
fn location(pod: &Pod) -> Result<String> {
    let mut stream = pod.site().connect(SocketAddr::new(VIP.parse()?, PORT))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /a HTTP/1.1\r\nHost: shop\r\n\r\n")?;
    let (mut said, mut part) = (Vec::new(), [0; 1000]);
    while !said.ends_with(b"\r\n\r\n") {
        match stream.read(&mut part)? {
            0 => break,
            count => said.extend_from_slice(&part[..count]),
        }
    }
    let said = String::from_utf8(said)?;
    let line = said.lines().find_map(|line| line.strip_prefix("location: "));
    Ok(line.unwrap_or_default().to_owned())
}

#[test]
fn routes_are_followed() -> Result<()> {
    let cluster = Cluster::new()?;
    let pod = cluster.start(&opted("client", Owner::Deployment), Layout::SystemdContainerd)?;
    let host = pod.addresses().host.clone();
    ip(&["-n", pod.netns().name(), "route", "add", VIP, "via", &host])?;
    // It accepts, and says nothing.
    let _server: TcpListener = cluster.host.listen(SocketAddr::new(host.parse()?, 9101))?;
    let spec =
        json!({"clusterIP": VIP, "ports": [{"name": "web", "port": PORT, "protocol": "TCP"}]});
    cluster.api.put(&object("Service", "v1", "checkout", &json!({"spec": spec})));
    let mut slice = object(
        "EndpointSlice",
        "discovery.k8s.io/v1",
        "checkout-1",
        &json!({
            "addressType": "IPv4", "ports": [{"name": "web", "port": 9101, "protocol": "TCP"}],
            "endpoints": [{"addresses": [host]}],
        }),
    );
    slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": "checkout"});
    cluster.api.put(&slice);
    let weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &[&pod])?;

    let route = object(
        "HTTPRoute",
        "gateway.networking.k8s.io/v1",
        "elsewhere",
        &json!({"spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "checkout"}],
            "rules": [{"filters": [{
                "type": "RequestRedirect", "requestRedirect": {"hostname": "one.example.org"},
            }]}],
        }}),
    );
    cluster.api.put(&route);
    let known = || weir.json(&["routes"]);
    wait_until("the route", SOON, || Ok(known()?["routes"][0]["in_force"] != Value::Null))?;
    ensure!(location(&pod)? == "http://one.example.org/a");
    let condition = |name: &str, at: usize| -> Result<Value> {
        let object = cluster.api.object(&key(&route)).context("the route is there")?;
        let parents = object["status"]["parents"].as_array().cloned().unwrap_or_default();
        let own = parents.iter().filter(|it| it["controllerName"] == "weir.dev/mesh").nth(at);
        let conditions = own.and_then(|it| it["conditions"].as_array().cloned());
        let is_it = |it: &Value| it["type"] == name;
        Ok(conditions.into_iter().flatten().find(is_it).unwrap_or_default())
    };
    wait_until("the status", SOON, || Ok(condition("Accepted", 0)?["status"] == "True"))?;
    ensure!(condition("ResolvedRefs", 0)?["status"] == "True");
    // One that is wrong changes nothing, and says why.
    cluster.api.change(&key(&route), |route| {
        route["spec"]["rules"][0]["filters"][0]["requestRedirect"] = json!({"hostnam": "x"});
    });
    wait_until("the problem", SOON, || {
        let problems = known()?["routes"][0]["problems"].to_string();
        Ok(problems.contains("unknown field `hostnam`"))
    })?;
    wait_until("the refusal in the status", SOON, || {
        let accepted = condition("Accepted", 0)?;
        Ok(accepted["status"] == "False" && accepted["reason"] == "UnsupportedValue")
    })?;
    wait_until("the event", SOON, || {
        let is_it = |it: &Value| {
            it["reason"] == "WeirRouteRefused"
                && it["regarding"]["name"] == "elsewhere"
                && it["note"].to_string().contains("hostnam")
        };
        Ok(cluster.api.events().iter().any(is_it))
    })?;
    ensure!(location(&pod)? == "http://one.example.org/a");
    cluster.api.change(&key(&route), |route| {
        route["spec"]["rules"][0]["filters"][0]["requestRedirect"] =
            json!({"hostname": "two.example.org"});
    });
    wait_until("the change", SOON, || Ok(location(&pod)? == "http://two.example.org/a"))?;
    // Parents by the name of a port: one that the service has, and one that it has not.
    cluster.api.change(&key(&route), |route| {
        let parent = |port: &str| {
            json!({"group": "", "kind": "Service", "name": "checkout", "sectionName": port})
        };
        route["spec"]["parentRefs"] = json!([parent("web"), parent("admin")]);
    });
    wait_until("the parents", SOON, || {
        let [web, admin] = [0, 1].map(|at| condition("Accepted", at));
        Ok(web?["status"] == "True" && admin?["reason"] == "NoMatchingParent")
    })?;
    ensure!(location(&pod)? == "http://two.example.org/a");
    cluster.api.remove(&key(&route));
    wait_until("no route", SOON, || Ok(known()?["routes"] == json!([])))?;
    cluster.api.nothing_forbidden()
}
