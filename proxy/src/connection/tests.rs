//! One connection from accept to record, without BPF.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    budget::Resource,
    config::{EngineName, Traffic, TrafficPolicy},
    telemetry::{TextFormat, record::Record, tap::TapFilter},
    upstream::ToOriginal,
};

/// Keeps what it is told.
#[derive(Default)]
pub(super) struct Deaf {
    pub(super) unreachable: Mutex<Vec<SocketAddr>>,
    /// Every error is for want of descriptors.
    pub(super) exhausted: AtomicBool,
}

impl Feedback for Arc<Deaf> {
    fn is_exhaustion(&self, _: &io::Error) -> bool {
        self.exhausted.load(Ordering::Relaxed)
    }

    fn refused(&self, _: SocketAddr) {}

    fn unreachable(&self, _: Direction, destination: SocketAddr) {
        self.unreachable.lock().unwrap().push(destination);
    }

    fn dialling_as(&self, _: SocketAddr, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn learned(&self, _: Direction, _: SocketAddr, _: Duration) {}

    fn forgotten(&self, _: Direction, _: SocketAddr) {}
}

pub(super) fn context(feedback: &Arc<Deaf>) -> Context {
    let telemetry = Telemetry::new(None);
    Context {
        workload: "shop".into(),
        share: telemetry.budgets().share(&"shop".into()),
        telemetry,
        own: OwnAddresses::default(),
        netns: Netns::own().unwrap(),
        preserve_client_ip: false,
        dials: Arc::default(),
        options: Arc::default(),
        upstream: Arc::new(ToOriginal),
        engine: None,
        engines: Engines::default(),
        learning: Learning::new(Learn::Off),
        drain: Stop::new(),
        leaving: Stop::new(),
        abort: Stop::new(),
        splice: true,
        config: Traffic::default(),
        feedback: Box::new(Arc::clone(feedback)),
    }
}

pub(super) fn captured(direction: Direction, destination: SocketAddr) -> Captured {
    Captured {
        workload: 1,
        direction,
        destination,
        bound: None,
        source: None,
        mark: 0,
        properties: weir_common::Properties::default(),
        connected_ns: 0,
        state: weir_common::PortState::Opaque,
        state_source: weir_common::Source::Config,
        process: None,
    }
}

/// A client, and weir's end of its connection.
pub(super) async fn client() -> (TcpStream, std::net::TcpStream, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, peer) = listener.accept().await.unwrap();
    (client, accepted.into_std().unwrap(), peer)
}

/// Guards against a kernel that sends weir's own connections back to weir: one connection made
/// 9,992, once.
#[tokio::test]
async fn a_connection_that_comes_back_is_reset_and_counted_as_a_loop() {
    let feedback = Arc::new(Deaf::default());
    let context = Arc::new(context(&feedback));
    let mut tap = context.telemetry.tap(None, TapFilter::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let destination = listener.local_addr().unwrap();
    let passes = Arc::new(AtomicUsize::new(0));
    let (counted, of_all) = (Arc::clone(&passes), Arc::clone(&context));
    // As sk_lookup would: a client of the application arrives at weir.
    tokio::spawn(async move {
        while let Ok((client, peer)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            let context = Arc::clone(&of_all);
            let client = client.into_std().unwrap();
            tokio::spawn(async move {
                let dialling = context.share.occupy(Resource::Dialling, 1);
                let captured = Some(captured(Direction::Inbound, destination));
                context.serve(client, peer, captured, dialling).await;
            });
        }
    });
    let mut client = TcpStream::connect(destination).await.unwrap();
    let end = tokio::io::AsyncReadExt::read(&mut client, &mut [0; 1]).await;
    assert!(!matches!(end, Ok(1..)), "{end:?}");
    loop {
        let ended = tap.next().await.records;
        let closes: Vec<_> = ended
            .iter()
            .map(|record| match record {
                Record::Connection(record) => record.close.clone(),
                Record::Request(_) => unreachable!("these are opaque"),
            })
            .collect();
        if closes.iter().any(|close| close == "loop") {
            break;
        }
    }
    assert_eq!(*feedback.unreachable.lock().unwrap(), [], "the application is not to blame");
    assert!(passes.load(Ordering::Relaxed) >= 2, "it did come back");
}

/// The terminating engine holds what is not decided for a time, the other one does not; neither takes
/// the end of that time for what the connection is.
#[tokio::test]
async fn a_server_that_does_not_wait_for_the_rest_of_a_request_is_a_timeout_in_each_engine() {
    for engine in [EngineName::Passthrough, EngineName::Terminate] {
        let mut traffic = TrafficPolicy::default();
        traffic.http.engine = engine;
        traffic.detect.timeout = Duration::from_millis(1);
        let mut context = context(&Arc::default());
        context.config = Traffic::new(traffic);
        let telemetry = context.telemetry.clone();
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let captured = Captured {
            state: weir_common::PortState::Detect,
            ..captured(Direction::Outbound, server.local_addr().unwrap())
        };
        let (mut client, accepted, peer) = client().await;
        let context = Arc::new(context);
        let served = tokio::spawn(async move {
            let dialling = context.share.occupy(Resource::Dialling, 1);
            context.serve(accepted, peer, Some(captured), dialling).await;
        });
        client.write_all(b"GET / HT").await.unwrap();
        let (mut upstream, _) = server.accept().await.unwrap();
        upstream.read_exact(&mut [0; 8]).await.unwrap();
        upstream.write_all(b"tired").await.unwrap();
        client.read_exact(&mut [0; 5]).await.unwrap();
        drop((client, upstream));
        served.await.unwrap();
        let metrics = telemetry.encode_metrics(TextFormat::OpenMetrics);
        let counted =
            "outbound_tcp_detect_http_results_total{workload=\"shop\",result=\"read_timeout\"} 1";
        assert!(metrics.contains(counted), "{engine:?}: {metrics}");
    }
}
