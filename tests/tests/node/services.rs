//! Services and EndpointSlices of a cluster, as they come, change and go, and while the API server is away.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weir_tests::{
    kube::{
        cluster::{Cluster, SHOP, SOON},
        object::{Owner, key, uid},
        pod::{Layout, Pod},
        server::Call,
        store::Kind,
    },
    netns::ip,
    process::wait_until,
};

use crate::opted;

/// The service's address. The host has it too, as a cluster that balances by itself.
const VIP: &str = "10.96.0.10";
const VIP_PORT: u16 = 80;

fn service(more: Value) -> Value {
    let mut spec = json!({
        "clusterIP": VIP, "clusterIPs": [VIP], "type": "ClusterIP",
        "ports": [{"name": "web", "port": VIP_PORT, "targetPort": "web", "protocol": "TCP"}],
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        spec[name] = value.clone();
    }
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {"name": "checkout", "namespace": SHOP, "uid": uid(), "managedFields": [{}]},
        "spec": spec, "status": {"loadBalancer": {}},
    })
}

/// One endpoint on the host, at a port.
fn slice(host: &str, port: u16) -> Value {
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "name": format!("checkout-{port}"), "namespace": SHOP, "uid": uid(),
            "labels": {"kubernetes.io/service-name": "checkout"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "web", "port": port, "protocol": "TCP"}],
        "endpoints": [{
            "addresses": [host],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "name": format!("checkout-{port}"), "namespace": SHOP},
        }],
    })
}

/// Tells each client the port of its server, until the test ends.
fn greet(cluster: &Cluster, ip: &str, port: u16) -> Result<()> {
    let address = SocketAddr::new(ip.parse()?, port);
    let listener: TcpListener = cluster.host.listen(address)?;
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _gone_already = stream.write_all(port.to_string().as_bytes());
        }
    });
    Ok(())
}

/// The servers that eight connections to the service reach, by port, without repetitions.
fn reached(pod: &Pod) -> Result<Vec<u16>> {
    let mut ports = Vec::new();
    for _ in 0..8 {
        let mut stream = pod.site().connect(SocketAddr::new(VIP.parse()?, VIP_PORT))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        ports.push(text.parse().with_context(|| text.clone())?);
    }
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}

#[test]
fn services_are_followed_and_outlive_the_api_server() -> Result<()> {
    let cluster = Cluster::new()?;
    let pod = cluster.start(&opted("client", Owner::Deployment), Layout::SystemdContainerd)?;
    let host = pod.addresses().host.clone();
    ip(&["-n", pod.netns().name(), "route", "add", VIP, "via", &host])?;
    ip(&["-n", cluster.host.netns.name(), "addr", "add", &format!("{VIP}/32"), "dev", "lo"])?;
    greet(&cluster, VIP, VIP_PORT)?;
    for port in [9101, 9102, 9103] {
        greet(&cluster, &host, port)?;
    }
    let objects = service(json!({}));
    cluster.api.put(&objects);
    let slices: Vec<_> = [9101, 9102, 9103].map(|port| slice(&host, port)).into();
    slices[..2].iter().for_each(|slice| cluster.api.put(slice));
    let weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &[&pod])?;
    let become_ =
        |what: &str, expected: &[u16]| wait_until(what, SOON, || Ok(reached(&pod)? == expected));
    become_("both endpoints", &[9101, 9102])?;
    cluster.api.put(&slices[2]);
    become_("three endpoints", &[9101, 9102, 9103])?;
    cluster.api.change(&key(&slices[0]), |slice| {
        slice["endpoints"][0]["conditions"] =
            json!({"ready": false, "serving": true, "terminating": true});
    });
    become_("no connection to one that ends", &[9102, 9103])?;

    // Watches are cut, and there is no server to list from.
    cluster.api.go_away();
    ensure!(reached(&pod)? == [9102, 9103], "what is known stays");
    cluster.api_comes_back()?;
    cluster.api.wait_watched()?;
    cluster.api.remove(&key(&slices[0]));
    cluster.api.remove(&key(&slices[1]));
    become_("the service's own address, with one endpoint left", &[VIP_PORT])?;
    cluster.api.put(&slices[1]);
    become_("two again", &[9102, 9103])?;
    cluster.api.change(&key(&objects), |object| {
        object["metadata"]["annotations"] = json!({"config.weir.dev/balance": "off"});
    });
    become_("off", &[VIP_PORT])?;
    cluster.api.change(&key(&objects), |object| {
        object["metadata"]["annotations"] = Value::Null;
        object["spec"]["sessionAffinity"] = json!("ClientIP");
    });
    cluster.api.bookmark();
    become_("an affinity is kept", &[VIP_PORT])?;
    cluster.api.remove(&key(&objects));
    become_("no service any more", &[VIP_PORT])?;
    ensure!(cluster.api.count(Call::List(Kind::Service)) > 0);
    cluster.api.nothing_forbidden()
}

/// A cluster without the rights, or a server that refuses them: pods are captured all the same.
#[test]
fn without_services_everything_else_works() -> Result<()> {
    let cluster = Cluster::new()?;
    let pod = cluster.start(&opted("client", Owner::Deployment), Layout::SystemdContainerd)?;
    let ways = cluster.ways(&pod, crate::PORT)?;
    for _ in 0..3 {
        cluster.api.spoil(
            Call::List(Kind::EndpointSlice),
            weir_tests::kube::server::Trouble::Refused(403, None),
        );
    }
    let weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &[&pod])?;
    ways.assert_captured([true; 2]);
    wait_until("a list that is refused", Duration::from_secs(60), || {
        Ok(cluster.api.count(Call::List(Kind::EndpointSlice)) > 0)
    })?;
    ways.assert_captured([true; 2]);
    Ok(())
}
