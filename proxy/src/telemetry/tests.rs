use super::*;
use crate::forward::http::{Exchange, ExchangeEnd};

pub(super) fn exchange() -> Exchange {
    Exchange {
        version: 11,
        method: "GET".into(),
        authority: Some("example.com".into()),
        path: "/a".into(),
        status: Some(200),
        grpc_status: None,
        grpc: false,
        started: SystemTime::UNIX_EPOCH,
        time_to_head: Some(Duration::from_millis(3)),
        duration: Duration::from_millis(5),
        request_bytes: 0,
        response_bytes: 1024,
        end: ExchangeEnd::Complete,
    }
}

pub(super) fn connection_record() -> ConnectionRecord {
    ConnectionRecord {
        id: 7,
        time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_164_800),
        workload: "shop".into(),
        direction: Direction::Outbound,
        client: Some("10.0.0.1:40000".parse().unwrap()),
        destination: "192.0.2.1:443".parse().unwrap(),
        treatment: Some(Treatment::Tls),
        source: Some(Source::Detected),
        why: "client hello".into(),
        sni: Some("example.com".into()),
        alpn: vec!["h2".into(), "http/1.1".into()],
        bytes_sent: 1500,
        bytes_received: 3_000_000,
        requests: 0,
        detect: Some(Duration::from_micros(120)),
        duration: Duration::from_millis(1250),
        close: "finished".into(),
        error: None,
        kernel: None,
    }
}
