//! Connections that are observed, and when a drain leaves them.

use std::collections::VecDeque;
use std::sync::Mutex;

use weir_http::h1::Edit;

use super::*;
use crate::forward::http::{DRAIN_BUSY, DRAIN_IDLE, ExchangeEnd, LINGER, Untracked};

const WORDS: &[u8] = b"(goodbye)";
/// Longer than what it replaces.
const LAST: &[u8] = b"(the last line)";

/// Understands a protocol of lines: each one of the client's gets one of the upstream's.
struct Lines {
    farewell: Option<&'static [u8]>,
    seen: Arc<Mutex<Seen>>,
    open: VecDeque<Side>,
    partial: bool,
    closing: bool,
    untracked: Option<Untracked>,
}

#[derive(Debug, Default)]
struct Seen {
    bytes: Vec<(Side, Vec<u8>)>,
    ended: Vec<Side>,
}

struct Scene {
    client: TcpStream,
    server: TcpStream,
    seen: Arc<Mutex<Seen>>,
    drain: Stop,
    task: JoinHandle<Observed>,
}

impl Observer for Lines {
    fn bytes(&mut self, from: Side, bytes: &[u8]) {
        self.seen.lock().unwrap().bytes.push((from, bytes.to_vec()));
        self.partial = bytes.last() != Some(&b'\n');
        if bytes.starts_with(b"?") {
            self.untracked = Some(Untracked { side: from, reason: "not a line" });
        }
        for _ in bytes.iter().filter(|byte| **byte == b'\n') {
            match from {
                Side::Client => self.open.push_back(from),
                Side::Upstream => drop(self.open.pop_front()),
            }
        }
    }

    fn ended(&mut self, from: Side) {
        self.seen.lock().unwrap().ended.push(from);
    }

    fn is_idle(&self) -> bool {
        self.open.is_empty() && !self.partial
    }

    fn farewell(&self) -> Option<&'static [u8]> {
        self.farewell.filter(|_| !self.partial)
    }

    /// The upstream's `*` becomes [`LAST`], and nothing of the client's passes behind it.
    fn edit(&mut self, from: Side) -> Option<Edit> {
        let seen = self.seen.lock().unwrap();
        let (_, bytes) = seen.bytes.last().filter(|(side, _)| *side == from)?;
        match from {
            Side::Client => self.closing.then_some(Edit { start: 0, end: bytes.len(), text: b"" }),
            Side::Upstream => {
                let start = bytes.iter().position(|byte| *byte == b'*')?;
                self.closing = true;
                Some(Edit { start, end: start + 1, text: LAST })
            }
        }
    }

    fn untracked(&self) -> Option<Untracked> {
        self.untracked
    }

    fn finish(&mut self, _: ExchangeEnd) {}
}

impl Scene {
    async fn new(farewell: Option<&'static [u8]>) -> Self {
        let ((client, near), (far, server)) = (connected(None).await, connected(None).await);
        let (seen, drain) = (Arc::<Mutex<Seen>>::default(), Stop::new());
        let mut observer = Lines {
            farewell,
            seen: Arc::clone(&seen),
            open: VecDeque::new(),
            partial: false,
            closing: false,
            untracked: None,
        };
        let draining = drain.clone();
        let task = tokio::spawn(async move {
            let observing = Observing { observer: &mut observer, drain: &draining };
            let (counters, cancel) = (ByteCounters::default(), Stop::new());
            let options = TcpOptions::default();
            let near =
                Endpoint { stream: near, prefix: BytesMut::from(&b"hello\n"[..]), eof: false };
            forward_observed(near, far.into(), &options, &counters, &cancel, observing).await
        });
        let mut scene = Self { client, server, seen, drain, task };
        scene.expect(Side::Upstream, b"hello\n").await;
        scene
    }

    /// Reads exactly these bytes at one side's peer.
    async fn expect(&mut self, at: Side, bytes: &[u8]) {
        let mut read = vec![0; bytes.len()];
        let stream = match at {
            Side::Client => &mut self.client,
            Side::Upstream => &mut self.server,
        };
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(read, bytes);
    }

    async fn answer(&mut self, bytes: &[u8]) {
        self.server.write_all(bytes).await.unwrap();
        self.expect(Side::Client, bytes).await;
    }

    fn seen_from(&self, side: Side) -> Vec<u8> {
        let seen = self.seen.lock().unwrap();
        seen.bytes.iter().filter(|(from, _)| *from == side).flat_map(|(_, b)| b.clone()).collect()
    }
}

/// Lets everything happen that can happen at once.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn every_byte_is_shown_and_each_end() {
    let mut scene = Scene::new(None).await;
    scene.answer(b"yes\n").await;
    scene.client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut scene.server).await.unwrap(), b"");
    drop(scene.server);
    assert_eq!(read_all(&mut scene.client).await.unwrap(), b"");
    let Observed::Over(forwarded) = scene.task.await.unwrap() else { panic!("handed back") };
    assert_eq!(forwarded, ended(TcpEnd::Finished, Side::Client));
    let seen = scene.seen.lock().unwrap();
    assert_eq!(
        seen.bytes,
        [(Side::Client, b"hello\n".to_vec()), (Side::Upstream, b"yes\n".to_vec())]
    );
    assert_eq!(seen.ended, [Side::Client, Side::Upstream]);
}

#[tokio::test]
async fn a_drain_hands_the_sockets_back_when_the_answer_is_complete() {
    let mut scene = Scene::new(None).await;
    scene.drain.cancel();
    settle().await;
    assert!(!scene.task.is_finished(), "a request is under way");
    scene.answer(b"one ").await;
    settle().await;
    assert!(!scene.task.is_finished(), "the answer has only begun");
    let guard = freeze();
    scene.answer(b"line\n").await;
    settle().await;
    assert!(!scene.task.is_finished(), "the client does not know, and may be about to go on");
    advance(DRAIN_IDLE + Duration::from_millis(1)).await;
    drop(guard);
    let Observed::Quiet(near, far) = scene.task.await.unwrap() else { panic!("ended") };
    // They are open, and nothing was taken from them.
    scene.client.write_all(b"next\n").await.unwrap();
    scene.server.write_all(b"more\n").await.unwrap();
    for (mut stream, expected) in [(near, b"next\n"), (far, b"more\n")] {
        let mut read = [0; 5];
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, expected);
    }
}

#[tokio::test]
async fn a_drain_ends_behind_the_answer_that_says_so() {
    let mut scene = Scene::new(None).await;
    scene.answer(b"not yet *\n").await;
    scene.client.write_all(b"one\ntwo\n").await.unwrap();
    scene.expect(Side::Upstream, b"one\ntwo\n").await;
    scene.drain.cancel();
    settle().await;
    scene.answer(b"line\n").await;
    scene.server.write_all(b"now *, ").await.unwrap();
    scene.expect(Side::Client, b"now (the last line), ").await;
    scene.client.write_all(b"three").await.unwrap();
    settle().await;
    assert!(!scene.task.is_finished(), "the answer has only begun");
    scene.server.write_all(b"the end\n").await.unwrap();
    scene.expect(Side::Client, b"the end\n").await;
    let Observed::Quiet(client, upstream) = scene.task.await.unwrap() else { panic!("ended") };
    let closed = tokio::spawn(close(client, upstream));
    assert_eq!(read_all(&mut scene.server).await.unwrap(), b"", "what came behind it");
    scene.client.write_all(b"four").await.unwrap();
    assert_eq!(read_all(&mut scene.client).await.unwrap(), b"", "an end, and no reset");
    drop(scene.client);
    closed.await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_close_is_not_waited_for() {
    let ((_client, near), (far, _server)) = (connected(None).await, connected(None).await);
    let guard = freeze();
    let closed = tokio::spawn(close(near, far));
    settle().await;
    assert!(!closed.is_finished());
    advance(LINGER + Duration::from_millis(1)).await;
    closed.await.unwrap();
    drop(guard);
}

#[tokio::test]
async fn a_farewell_is_said_once_between_messages_and_time_is_given_after_it() {
    let mut scene = Scene::new(Some(WORDS)).await;
    scene.answer(b"half ").await;
    let guard = freeze();
    scene.drain.cancel();
    settle().await;
    scene.client.write_all(b"more\n").await.unwrap();
    scene.expect(Side::Upstream, b"more\n").await;
    scene.answer(b"a line\n").await;
    settle().await;
    assert!(scene.client.try_read(&mut [0]).is_err(), "a request is under way");
    scene.answer(b"another line\n").await;
    settle().await;
    assert!(scene.client.try_read(&mut [0]).is_err(), "it may not have read the answer yet");
    advance(DRAIN_IDLE + Duration::from_millis(1)).await;
    scene.expect(Side::Client, WORDS).await;
    // A connection that has not heard it yet is served as before.
    advance(DRAIN_IDLE / 2).await;
    scene.client.write_all(b"late\n").await.unwrap();
    scene.expect(Side::Upstream, b"late\n").await;
    advance(DRAIN_IDLE).await;
    settle().await;
    assert!(!scene.task.is_finished(), "a request is under way");
    scene.answer(b"served\n").await;
    settle().await;
    assert!(!scene.task.is_finished(), "no time was given");
    // Timers have a resolution of a millisecond.
    advance(DRAIN_IDLE + Duration::from_millis(1)).await;
    assert!(matches!(scene.task.await.unwrap(), Observed::Quiet(..)));
    drop(guard);
}

#[tokio::test]
async fn a_client_that_is_always_at_work_is_told_all_the_same() {
    let mut scene = Scene::new(Some(WORDS)).await;
    scene.client.write_all(b"more\n").await.unwrap();
    scene.expect(Side::Upstream, b"more\n").await;
    scene.answer(b"half ").await;
    let guard = freeze();
    scene.drain.cancel();
    settle().await;
    advance(DRAIN_BUSY + Duration::from_millis(1)).await;
    settle().await;
    assert!(scene.client.try_read(&mut [0]).is_err(), "in the middle of a line");
    scene.answer(b"a line\n").await;
    scene.expect(Side::Client, WORDS).await;
    scene.answer(b"another line\n").await;
    settle().await;
    drop(guard);
}

#[tokio::test]
async fn one_that_lost_track_is_shown_no_more_and_a_drain_waits_for_the_peers() {
    let mut scene = Scene::new(None).await;
    scene.answer(b"?\n").await;
    scene.answer(b"unseen\n").await;
    assert_eq!(scene.seen_from(Side::Upstream), b"?\n");
    scene.drain.cancel();
    settle().await;
    scene.answer(b"still passes\n").await;
    reset(scene.server);
    assert_eq!(read_until_reset(&mut scene.client).await, b"");
    let Observed::Over(forwarded) = scene.task.await.unwrap() else { panic!("handed back") };
    assert_eq!(forwarded.end, TcpEnd::UpstreamReset);
}
