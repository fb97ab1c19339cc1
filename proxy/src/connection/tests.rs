//! One connection from accept to record, without BPF.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::net::TcpListener;

use super::*;
use crate::{
    budget::Resource,
    telemetry::{record::Record, tap::TapFilter},
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
        learning: Learning::new(Learn::Off),
        drain: Stop::new(),
        abort: Stop::new(),
        config: Arc::default(),
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
        state_source: Source::Config,
    }
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
    // As sk_lookup would: whoever connects to the application arrives at weir.
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
