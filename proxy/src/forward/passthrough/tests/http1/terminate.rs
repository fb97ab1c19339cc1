//! The observer reports what the terminating engine reports of the same session. Where they differ
//! by intent: weir's own answer, which only the terminating engine gives; limits of the terminating
//! engine, which these sessions do not reach; and h2c, which to the terminating engine is a tunnel.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

use super::sessions::{Step, cut, mutated, observe, session};
use super::*;
use crate::forward::http::{HttpContext, HttpVersion, serve};

/// More than a session is long: it need not be read.
const ROOM: usize = 1 << 20;

/// What the terminating engine reports of a session.
async fn terminate(steps: &[Step]) -> (Vec<Exchange>, Option<Untracked>) {
    let (mut client, weir_client) = duplex(ROOM);
    let (mut upstream, weir_upstream) = duplex(ROOM);
    let sink = Arc::new(Recorder::default());
    let context = HttpContext::new(Arc::clone(&sink) as Arc<_>);
    let weir = tokio::spawn(serve(HttpVersion::Http1, weir_client, weir_upstream, context));
    for Step(side, words) in steps {
        let stream: &mut DuplexStream = if *side == Client { &mut client } else { &mut upstream };
        // weir may have ended the connection, as the other side did.
        let _ = match &words[..] {
            [] => stream.shutdown().await,
            words => stream.write_all(words).await,
        };
        // The clock is paused: it goes on when weir has nothing to do.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop((client, upstream));
    let end = weir.await.unwrap();
    let mut seen = timeless(sink.so_far());
    for exchange in &mut seen {
        if matches!(exchange.end, ExchangeEnd::Answered(_)) {
            exchange.end = ExchangeEnd::UpstreamClosed;
        }
    }
    assert_eq!(sink.downgrades(), Vec::from_iter(end.untracked));
    (seen, end.untracked)
}

fn terminated(steps: &[Step]) -> (Vec<Exchange>, Option<Untracked>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(terminate(steps))
}

fn followed(exchanges: Vec<Exchange>) -> Vec<Exchange> {
    let mut exchanges = exchanges;
    exchanges.retain(|exchange| exchange.end != ExchangeEnd::Untracked);
    exchanges
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn sessions_are_reported_alike(steps in session(), cuts in vec(1_usize..80, 1..8)) {
        let steps = cut(&steps, &cuts);
        let (terminated, untracked) = terminated(&steps);
        let observed = observe(&steps);
        prop_assert_eq!(observed.seen(), terminated);
        prop_assert_eq!(observed.downgrade(), untracked);
    }

    /// The observer notices at the first wrong byte; the terminating engine parses a head that is not
    /// complete only now and then, and may still see an exchange end in between.
    #[test]
    fn broken_sessions_are_followed_equally_far(steps in mutated(), cuts in vec(1_usize..80, 1..8)) {
        let steps = cut(&steps, &cuts);
        let (terminated, untracked) = terminated(&steps);
        let observed = observe(&steps);
        if observed.downgrade().is_none() {
            prop_assert_eq!(untracked, None);
            prop_assert_eq!(observed.seen(), terminated);
        } else {
            let (seen, terminated) = (followed(observed.seen()), followed(terminated));
            prop_assert!(terminated.starts_with(&seen), "{seen:#?}\n{terminated:#?}");
        }
    }
}

#[test]
fn empty_lines_before_the_clients_end_are_between_messages_to_both() {
    let steps = [
        Step(Client, b"POST / HTTP/1.1\n\n\r\n".to_vec()),
        Step(Client, Vec::new()),
        Step(Upstream, b"HTTP/1.1 200 OK\r\n\r\nbody".to_vec()),
        Step(Upstream, Vec::new()),
    ];
    let (terminated, untracked) = terminated(&steps);
    let observed = observe(&steps);
    assert_eq!((observed.downgrade(), untracked), (None, None));
    assert_eq!(observed.seen(), terminated);
    assert_eq!(terminated[0].end, ExchangeEnd::Complete);
}
