//! Records in, endpoints out; and a server that answers, and stops to.

use std::{
    net::{Ipv4Addr, SocketAddr},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use hickory_resolver::{
    config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::{
        op::{Message, MessageType, ResponseCode},
        rr::{
            Name, RecordType,
            rdata::{A, SRV},
        },
    },
};
use tokio::{net::UdpSocket, sync::mpsc};

use super::*;

fn a(name: &str, ttl: u32, ip: [u8; 4]) -> Record {
    let name = Name::from_str(name).unwrap();
    Record::from_rdata(name, ttl, RData::A(A(Ipv4Addr::from(ip))))
}

fn srv(ttl: u32, priority: u16, weight: u16, port: u16, target: &str) -> Record {
    let data = SRV::new(priority, weight, port, Name::from_str(target).unwrap());
    Record::from_rdata(Name::from_str("_http._tcp.shop.test.").unwrap(), ttl, RData::SRV(data))
}

#[test]
fn addresses_are_endpoints_for_a_bounded_time() {
    let records = [
        a("pods.test.", 60, [10, 1, 0, 1]),
        a("pods.test.", 30, [10, 1, 0, 2]),
        a("pods.test.", 30, [10, 1, 0, 2]),
        a("pods.test.", 30, [0, 0, 0, 0]),
        srv(30, 0, 0, 80, "other.test."),
    ];
    let (found, holds) = addresses(&records);
    let ips: Vec<_> = found.iter().map(|it| it.ip.to_string()).collect();
    assert_eq!((ips.join(" "), holds), ("10.1.0.1 10.1.0.2".into(), Duration::from_secs(30)));
    assert_eq!(addresses(&[a("x.", 0, [10, 1, 0, 1])]).1, SHORTEST);
    assert_eq!(addresses(&[a("x.", 86_400, [10, 1, 0, 1])]).1, LONGEST);
    assert_eq!(addresses(&[]), (Vec::new(), SHORTEST));
}

#[test]
fn srv_records_say_port_weight_and_tier() {
    let records = [
        srv(30, 20, 0, 80, "b.test."),
        srv(30, 10, 5, 8080, "a.test."),
        srv(30, 10, 5, 0, "no-port.test."),
        srv(30, 10, 5, 80, "."),
        a("a.test.", 30, [10, 1, 0, 1]),
    ];
    let (targets, _) = services(&records);
    let of = |name: &str| {
        let found = &targets[name][0];
        (found.port, found.weight, found.tier)
    };
    assert_eq!(targets.len(), 2);
    assert_eq!((of("a.test."), of("b.test.")), ((8080, 5, 0), (80, 1, 1)));
}

/// What a server does: answers, answers with garbage, or says that it failed.
const ANSWERS: u8 = 0;
const GARBAGE: u8 = 1;

async fn server(mode: Arc<AtomicU8>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((n, peer)) = socket.recv_from(&mut buffer).await {
            let mut message = Message::from_vec(&buffer[..n]).unwrap();
            message.metadata.message_type = MessageType::Response;
            let answer = match mode.load(Ordering::Relaxed) {
                ANSWERS => {
                    let query = &message.queries[0];
                    let answers = match query.query_type() {
                        RecordType::SRV => {
                            vec![srv(1, 10, 1, 8080, "one.test."), srv(1, 20, 1, 8081, "two.test.")]
                        }
                        RecordType::A if query.name().to_ascii() == "two.test." => {
                            vec![a("two.test.", 1, [10, 1, 0, 2])]
                        }
                        RecordType::A => {
                            vec![a(&query.name().to_ascii(), 1, [10, 1, 0, 1])]
                        }
                        _ => Vec::new(),
                    };
                    message.add_answers(answers);
                    message.to_vec().unwrap()
                }
                GARBAGE => {
                    let id = buffer[..2].to_vec();
                    [id, vec![0xff; 40]].concat()
                }
                _ => {
                    message.metadata.response_code = ResponseCode::ServFail;
                    message.to_vec().unwrap()
                }
            };
            let _ = socket.send_to(&answer, peer).await;
        }
    });
    address
}

fn resolver(server: SocketAddr) -> TokioResolver {
    let mut udp = ConnectionConfig::new(ProtocolConfig::Udp);
    udp.port = server.port();
    let server = NameServerConfig::new(server.ip(), true, vec![udp]);
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.cache_size = 0;
    options.attempts = 0;
    options.timeout = Duration::from_millis(500);
    builder.build().unwrap()
}

#[tokio::test]
async fn a_name_is_followed_through_answers_garbage_and_failures() {
    for query in [Query::Host("one.test.".into()), Query::Srv("_http._tcp.shop.test.".into())] {
        let mode = Arc::new(AtomicU8::new(ANSWERS));
        let resolver = resolver(server(Arc::clone(&mode)).await);
        let (sender, mut answers) = mpsc::unbounded_channel();
        let asked = query.clone();
        let task = tokio::spawn(async move { follow(&resolver, asked, sender).await });
        let (_, first) = answers.recv().await.unwrap();
        let (found, holds) = first.unwrap();
        let expected = if matches!(query, Query::Srv(_)) { 2 } else { 1 };
        assert_eq!((found.len(), holds), (expected, SHORTEST), "{found:?}");
        for bad in [GARBAGE, 2] {
            mode.store(bad, Ordering::Relaxed);
            while answers.recv().await.unwrap().1.is_ok() {}
        }
        mode.store(ANSWERS, Ordering::Relaxed);
        while answers.recv().await.unwrap().1.is_err() {}
        task.abort();
    }
}
