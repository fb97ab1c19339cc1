//! `--preserve-client-ip` in network namespaces of their own; needs root.

use std::net::{IpAddr, SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::capture::netns::testing::{fresh, ip, pair};

const V4: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
const V6: [&str; 2] = ["fd77::1", "fd77::2"];

/// Everything that an install touches, as text.
fn state(netns: &Netns) -> String {
    let mut all = String::new();
    for what in ["-4 rule", "-6 rule", "-4 route show table all", "-6 route show table all"] {
        all += &ip(netns, what);
    }
    for path in [ACCEPT, REFLECT, REFLECT6] {
        all += &netns.enter(move || fs::read_to_string(path).unwrap()).unwrap();
    }
    all
}

fn set(netns: &Netns, path: &'static str, value: &'static str) {
    netns.enter(move || fs::write(path, value).unwrap()).unwrap();
}

/// A listener inside the namespace.
async fn listen(netns: &Netns, address: &str) -> TcpListener {
    let address: SocketAddr = address.parse().unwrap();
    let bind = move || {
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        TcpListener::from_std(listener).unwrap()
    };
    netns.run(bind).await.unwrap()
}

/// An address of the client and the destination on the server.
fn ends(addresses: [&str; 2], port: u16) -> (SocketAddr, SocketAddr) {
    let [client, server] = addresses.map(|text| text.parse::<IpAddr>().unwrap());
    (SocketAddr::new(client, 40_000), SocketAddr::new(server, port))
}

/// Sends more than the buffers hold, so that the window opens again and again.
async fn transfer(from: &mut TcpStream, to: &mut TcpStream) {
    let sent: Vec<u8> = (0..8_u32 << 20).map(|i| (i % 251) as u8).collect();
    let mut received = vec![0; sent.len()];
    let (write, read) = tokio::join!(from.write_all(&sent), to.read_exact(&mut received));
    write.and(read.map(drop)).unwrap();
    assert!(received == sent);
}

async fn exchange(server: &Netns, application: &TcpListener, addresses: [&str; 2]) {
    let (client, destination) = ends(addresses, application.local_addr().unwrap().port());
    let mut proxy =
        connect_as(server, client, destination, &|_| true, &|_, _| Ok(())).await.unwrap();
    let (mut accepted, peer) = application.accept().await.unwrap();
    assert_eq!(peer.ip().to_canonical(), client.ip().to_canonical());
    assert!(peer.port() >= 61_000, "{peer}");
    assert_eq!(proxy.peer_addr().unwrap(), destination);

    transfer(&mut proxy, &mut accepted).await;
    transfer(&mut accepted, &mut proxy).await;
    proxy.shutdown().await.unwrap();
    assert_eq!(accepted.read(&mut [0; 8]).await.unwrap(), 0);
    accepted.write_all(b"after the half-close").await.unwrap();
    drop(accepted);
    let mut rest = String::new();
    proxy.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "after the half-close");
}

#[tokio::test]
async fn the_application_sees_the_clients_address_and_nothing_is_left() {
    let (_client, server) = pair();
    let before = state(&server);
    let installed = ClientIp::install(&server).await.unwrap();
    assert_eq!(installed, Installed::default());

    let v4 = listen(&server, "0.0.0.0:0").await;
    let v6 = listen(&server, "[fd77::2]:0").await;
    let dual = listen(&server, "[::]:0").await;
    exchange(&server, &v4, V4).await;
    exchange(&server, &v6, V6).await;
    exchange(&server, &dual, V4).await;
    exchange(&server, &dual, V6).await;
    // As a dual-stack listener shows an IPv4 client.
    exchange(&server, &v4, ["::ffff:10.77.0.1", "10.77.0.2"]).await;

    ClientIp::remove(&server, &installed).await.unwrap();
    assert_eq!(state(&server), before);
    ClientIp::remove(&server, &installed).await.unwrap();
    assert_eq!(state(&server), before);
}

/// Without `fwmark_reflect` the reset would go to the real client.
#[tokio::test]
async fn a_refusal_comes_back() {
    let (_client, server) = pair();
    let installed = ClientIp::install(&server).await.unwrap();
    for addresses in [V4, V6] {
        let (client, destination) = ends(addresses, 9);
        let error =
            connect_as(&server, client, destination, &|_| true, &|_, _| Ok(())).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
    ClientIp::remove(&server, &installed).await.unwrap();
}

#[tokio::test]
async fn what_the_sysctls_were_survives_a_crash() {
    let (_client, server) = pair();
    set(&server, ACCEPT, "1");
    set(&server, REFLECT6, "1");
    let before = state(&server);
    let first = ClientIp::install(&server).await.unwrap();
    assert_eq!(
        first,
        Installed {
            fwmark_accept_before: true,
            fwmark_reflect_before: false,
            fwmark_reflect6_before: true
        }
    );
    let during = state(&server);
    assert_eq!(ClientIp::install(&server).await.unwrap(), first);
    assert_eq!(state(&server), during);
    let application = listen(&server, "0.0.0.0:0").await;
    exchange(&server, &application, V4).await;
    // Another program removes it.
    ClientIp::remove(&server, &Installed::default()).await.unwrap();
    assert_eq!(state(&server), before);
}

#[tokio::test]
async fn half_of_it_is_completed_and_removed() {
    let (_client, server) = pair();
    let before = state(&server);
    let installed = ClientIp::install(&server).await.unwrap();
    let during = state(&server);
    for lost in [
        "-4 rule del pref 22341",
        "-6 rule del pref 22341",
        "-4 route flush table 22341",
        "-6 route flush table 22341",
    ] {
        ip(&server, lost);
        assert_ne!(state(&server), during);
        ClientIp::install(&server).await.unwrap();
        assert_eq!(ip(&server, "-4 route show table 22341").lines().count(), 1);

        ClientIp::remove(&server, &Installed::default()).await.unwrap();
        assert_eq!(state(&server), before);

        ClientIp::install(&server).await.unwrap();
        ip(&server, lost);
        ClientIp::remove(&server, &installed).await.unwrap();
        assert_eq!(state(&server), before);
        ClientIp::install(&server).await.unwrap();
    }
    // The sysctls are restored even if both rules are gone.
    ip(&server, "-4 rule del pref 22341");
    ip(&server, "-6 rule del pref 22341");
    ClientIp::remove(&server, &installed).await.unwrap();
    assert_eq!(state(&server), before);
}

#[tokio::test]
async fn a_namespace_without_any_of_it_is_left_alone() {
    let netns = fresh();
    set(&netns, ACCEPT, "1");
    let before = state(&netns);
    ClientIp::remove(&netns, &Installed::default()).await.unwrap();
    assert_eq!(state(&netns), before);
}

#[tokio::test]
async fn a_failed_install_leaves_nothing() {
    // Its loopback interface is down.
    let netns = fresh();
    let before = state(&netns);
    let error = ClientIp::install(&netns).await.unwrap_err().to_string();
    assert!(error.contains("ip link set lo up"), "{error}");
    assert_eq!(state(&netns), before);
}

#[tokio::test]
async fn a_namespace_without_ipv6_is_served_for_ipv4() {
    let (_client, server) = pair();
    set(&server, "/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
    let before = state(&server);
    let installed = ClientIp::install(&server).await.unwrap();
    assert!(!ip(&server, "-6 rule").contains("22341"));
    let application = listen(&server, "0.0.0.0:0").await;
    exchange(&server, &application, V4).await;
    ClientIp::remove(&server, &installed).await.unwrap();
    assert_eq!(state(&server), before);
}

#[tokio::test]
async fn only_the_own_rules_are_taken_for_own() {
    let (_client, server) = pair();
    ip(&server, "rule add pref 22341 fwmark 7 lookup 22341");
    ip(&server, "rule add pref 22341 fwmark 0x57450000 lookup 9");
    ip(&server, "rule add pref 9 fwmark 0x57450000 lookup 22341");
    let installed = ClientIp::install(&server).await.unwrap();
    let this = ClientIp::open(&server).await.unwrap();
    for (version, foreign) in [(IpVersion::V4, 3), (IpVersion::V6, 0)] {
        let rules: Vec<_> =
            this.netlink.rule().get(version.clone()).execute().try_collect().await.unwrap();
        let own = rules.iter().filter(|rule| ClientIp::is_own_rule(rule)).count();
        // `local`, `main`, and for IPv4 `default`.
        let stock = if foreign > 0 { 3 } else { 2 };
        assert_eq!((own, rules.len()), (1, stock + foreign + 1));
    }
    ClientIp::remove(&server, &installed).await.unwrap();
    assert_eq!(ip(&server, "-4 rule").matches("22341").count(), 3 + 1);
}

#[tokio::test]
async fn another_source_port_is_tried_where_one_is_taken() {
    let (_client, server) = pair();
    let installed = ClientIp::install(&server).await.unwrap();
    // Leaves 1024, 1025 and 1026 to weir.
    set(&server, "/proc/sys/net/ipv4/ip_local_port_range", "1027 65535");
    let application = listen(&server, "0.0.0.0:2000").await;
    let other = listen(&server, "0.0.0.0:2001").await;
    let _taken = listen(&server, "0.0.0.0:1024").await;
    let (client, destination) = ends(V4, 2000);
    let client = SocketAddr::new(client.ip(), 1025);

    let _first = connect_as(&server, client, destination, &|_| true, &|_, _| Ok(())).await.unwrap();
    assert_eq!(application.accept().await.unwrap().1.port(), 1026);
    let error =
        connect_as(&server, client, destination, &|_| true, &|_, _| Ok(())).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    // The port is only taken for that destination.
    let destination = SocketAddr::new(destination.ip(), 2001);
    let _second =
        connect_as(&server, client, destination, &|_| true, &|_, _| Ok(())).await.unwrap();
    assert_eq!(other.accept().await.unwrap().1.port(), 1026);
    ClientIp::remove(&server, &installed).await.unwrap();
}

/// Guards against a connection that the inbound program does not know and sends back to weir.
#[tokio::test]
async fn who_cannot_be_told_is_not_connected_for() {
    let netns = fresh();
    ip(&netns, "link set lo up");
    let listener = netns.enter(|| std::net::TcpListener::bind("127.0.0.1:0")).unwrap().unwrap();
    listener.set_nonblocking(true).unwrap();
    let (client, destination) = ("127.0.0.2:5".parse().unwrap(), listener.local_addr().unwrap());
    let refuse = |_, _| Err(io::Error::from_raw_os_error(libc::E2BIG));
    let error = connect_as(&netns, client, destination, &|_| true, &refuse).await.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::E2BIG));
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn what_cannot_work_is_refused_at_once() {
    let netns = fresh();
    let connect = async |client: &str, destination: &str| {
        let (client, destination) = (client.parse().unwrap(), destination.parse().unwrap());
        connect_as(&netns, client, destination, &|_| true, &|_, _| Ok(())).await.unwrap_err().kind()
    };
    assert_eq!(connect("[fe80::1]:5", "[fe80::2]:80").await, io::ErrorKind::Unsupported);
    assert_eq!(connect("10.0.0.1:5", "[fd77::2]:80").await, io::ErrorKind::InvalidInput);
}
