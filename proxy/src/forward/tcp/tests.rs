//! Raw TCP on real loopback sockets. Where time matters the clock stands still and is moved by
//! hand; everything else waits for what the peers see.

use std::sync::Arc;
use std::sync::mpsc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{advance, pause};

mod observed;
mod once;
mod urgent;

use super::buffer::{Size, free};
use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// A client and a server with a forwarder between them.
struct Rig {
    client: TcpStream,
    server: TcpStream,
    counters: Arc<ByteCounters>,
    cancel: Stop,
    task: JoinHandle<Forwarded>,
}

/// Two connected sockets, with send and receive buffers of `buffer` bytes if given.
async fn connected(buffer: Option<u32>) -> (TcpStream, TcpStream) {
    let sized = || {
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(bytes) = buffer {
            socket.set_recv_buffer_size(bytes).unwrap();
            socket.set_send_buffer_size(bytes).unwrap();
        }
        socket
    };
    let listening = sized();
    listening.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener: TcpListener = listening.listen(1).unwrap();
    let near = sized().connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    (near, far)
}

impl Rig {
    fn start(
        (client, near_client): (TcpStream, TcpStream),
        (near_server, server): (TcpStream, TcpStream),
    ) -> Self {
        Self::with(client, near_client.into(), near_server.into(), server)
    }

    fn with(client: TcpStream, near: Endpoint, far: Endpoint, server: TcpStream) -> Self {
        let counters = Arc::new(ByteCounters::default());
        let cancel = Stop::new();
        let task = tokio::spawn({
            let (counters, cancel) = (Arc::clone(&counters), cancel.clone());
            async move { forward(near, far, &TcpOptions::default(), &counters, &cancel).await }
        });
        Self { client, server, counters, cancel, task }
    }

    async fn new() -> Self {
        Self::start(connected(None).await, connected(None).await)
    }

    async fn end(self) -> Forwarded {
        self.task.await.unwrap()
    }
}

async fn read_all(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.map(|_| all)
}

/// Reads until the error that a reset is, and returns what came before it.
async fn read_until_reset(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let error = stream.read_to_end(&mut all).await.expect_err("ended in order");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    all
}

fn ended(end: TcpEnd, closed_first: Side) -> Forwarded {
    Forwarded { end, closed_first: Some(closed_first) }
}

/// Stops the clock, and keeps the runtime from moving it when it has nothing to do.
fn freeze() -> mpsc::Sender<()> {
    pause();
    let (guard, gone) = mpsc::channel::<()>();
    spawn_blocking(move || gone.recv());
    guard
}

/// Notes the addresses of sockets that are shown to it.
#[derive(Debug, Default)]
struct Shown(std::sync::Mutex<Vec<Option<std::net::SocketAddr>>>);

impl UpstreamClosing for Shown {
    fn closing(&self, socket: BorrowedFd<'_>) {
        let address = socket2::SockRef::from(&socket).local_addr().unwrap();
        self.0.lock().unwrap().push(address.as_socket());
    }
}

#[tokio::test]
async fn the_upstreams_socket_is_shown_once_before_it_is_closed() {
    for resets in [false, true] {
        let (mut client, near) = connected(None).await;
        let (far, mut server) = connected(None).await;
        let address = far.local_addr().unwrap();
        let shown = Arc::<Shown>::default();
        let options = TcpOptions { at_close: Some(shown.clone()), ..TcpOptions::default() };
        let (counters, cancel) = (ByteCounters::default(), Stop::new());
        let forwarding = forward(near.into(), far.into(), &options, &counters, &cancel);
        let peers = async {
            if resets {
                reset(client);
            } else {
                client.shutdown().await.unwrap();
                server.shutdown().await.unwrap();
            }
            let _ = read_all(&mut server).await;
        };
        tokio::join!(forwarding, peers);
        assert_eq!(*shown.0.lock().unwrap(), [Some(address)], "{resets}");
    }
}

#[tokio::test]
async fn client_half_close_reaches_the_server_and_the_answer_comes_back() {
    let mut rig = Rig::new().await;
    rig.client.write_all(b"request").await.unwrap();
    rig.client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut rig.server).await.unwrap(), b"request");
    rig.server.write_all(b"an answer").await.unwrap();
    rig.server.shutdown().await.unwrap();
    assert_eq!(read_all(&mut rig.client).await.unwrap(), b"an answer");
    let counters = Arc::clone(&rig.counters);
    assert_eq!(rig.end().await, ended(TcpEnd::Finished, Side::Client));
    assert_eq!((counters.client_to_upstream(), counters.upstream_to_client()), (7, 9));
}

#[tokio::test]
async fn server_half_close_reaches_the_client_and_requests_go_on() {
    let mut rig = Rig::new().await;
    rig.server.write_all(b"banner").await.unwrap();
    rig.server.shutdown().await.unwrap();
    assert_eq!(read_all(&mut rig.client).await.unwrap(), b"banner");
    rig.client.write_all(b"more").await.unwrap();
    rig.client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut rig.server).await.unwrap(), b"more");
    assert_eq!(rig.end().await, ended(TcpEnd::Finished, Side::Upstream));
}

/// Waits for the state that the gauge counts.
async fn until_half_closed(counters: &ByteCounters, expected: bool) {
    while counters.is_half_closed() != expected {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn half_closed_counts_from_the_first_end_to_the_second() {
    for first in [Side::Client, Side::Upstream] {
        let mut rig = Rig::new().await;
        rig.client.write_all(b"hello").await.unwrap();
        rig.server.read_exact(&mut [0; 5]).await.unwrap();
        assert!(!rig.counters.is_half_closed(), "both are open");
        let (closing, staying) = match first {
            Side::Client => (&mut rig.client, &mut rig.server),
            Side::Upstream => (&mut rig.server, &mut rig.client),
        };
        closing.shutdown().await.unwrap();
        until_half_closed(&rig.counters, true).await;
        staying.write_all(b"goes on").await.unwrap();
        closing.read_exact(&mut [0; 7]).await.unwrap();
        assert!(rig.counters.is_half_closed());
        staying.shutdown().await.unwrap();
        let counters = Arc::clone(&rig.counters);
        assert_eq!(rig.end().await, ended(TcpEnd::Finished, first));
        assert!(!counters.is_half_closed());
    }
}

#[tokio::test]
async fn half_closed_does_not_outlive_what_ends_it() {
    async fn half_closed() -> Rig {
        let mut rig = Rig::new().await;
        rig.client.shutdown().await.unwrap();
        until_half_closed(&rig.counters, true).await;
        rig
    }
    let rig = half_closed().await;
    rig.task.abort();
    until_half_closed(&rig.counters, false).await;
    let rig = half_closed().await;
    rig.cancel.cancel();
    until_half_closed(&rig.counters, false).await;
    let Rig { client: _client, server, counters, .. } = half_closed().await;
    reset(server);
    until_half_closed(&counters, false).await;
}

#[tokio::test]
async fn what_was_read_before_comes_first_and_an_end_read_before_is_passed_on() {
    let ((client, near), (far, server)) = (connected(None).await, connected(None).await);
    let near = Endpoint { stream: near, prefix: BytesMut::from(&b"peeked "[..]), eof: false };
    let far = Endpoint { stream: far, prefix: BytesMut::from(&b"bye"[..]), eof: true };
    let mut rig = Rig::with(client, near, far, server);
    assert_eq!(read_all(&mut rig.client).await.unwrap(), b"bye");
    rig.client.write_all(b"rest").await.unwrap();
    rig.client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut rig.server).await.unwrap(), b"peeked rest");
    assert_eq!(rig.end().await, ended(TcpEnd::Finished, Side::Upstream));
}

#[tokio::test]
async fn client_reset_reaches_the_server() {
    let Rig { client, mut server, task, .. } = Rig::new().await;
    reset(client);
    assert_eq!(read_until_reset(&mut server).await, b"");
    assert_eq!(task.await.unwrap(), ended(TcpEnd::ClientReset, Side::Client));
}

#[tokio::test]
async fn server_reset_reaches_the_client() {
    let Rig { mut client, server, task, .. } = Rig::new().await;
    reset(server);
    assert_eq!(read_until_reset(&mut client).await, b"");
    assert_eq!(task.await.unwrap(), ended(TcpEnd::UpstreamReset, Side::Upstream));
}

#[tokio::test]
async fn bytes_sent_before_a_reset_arrive_before_it() {
    let (near, far) = (connected(None).await, connected(None).await);
    let (upstream, mut server) = far;
    let data = vec![7; 100_000];
    server.write_all(&data).await.unwrap();
    reset(server);
    let (mut client, near) = near;
    let counters = ByteCounters::default();
    let (options, cancel) = (TcpOptions::default(), Stop::new());
    let forward = forward(near.into(), upstream.into(), &options, &counters, &cancel);
    let (received, forwarded) = tokio::join!(read_until_reset(&mut client), forward);
    assert!(received == data, "{} bytes", received.len());
    assert_eq!(forwarded, ended(TcpEnd::UpstreamReset, Side::Upstream));
}

#[tokio::test]
async fn answer_sent_before_a_reset_arrives_when_the_reset_is_met_by_writing() {
    // The server answers without reading the request, and closes: the kernel makes it a reset.
    let mut rig = Rig::new().await;
    rig.client.write_all(&vec![1; 1000]).await.unwrap();
    rig.server.readable().await.unwrap();
    rig.server.write_all(b"413 too large").await.unwrap();
    drop(rig.server);
    let (mut read, mut write) = rig.client.split();
    // The client goes on writing until it learns of it.
    let writing = async { while write.write_all(&[2; 1000]).await.is_ok() {} };
    let reading = async {
        let mut all = Vec::new();
        let _ = read.read_to_end(&mut all).await;
        all
    };
    let ((), answer) = tokio::join!(writing, reading);
    assert_eq!(answer, b"413 too large");
    assert_eq!(rig.task.await.unwrap().end, TcpEnd::UpstreamReset);
}

#[tokio::test]
async fn client_reset_after_its_half_close_reaches_a_silent_server() {
    let Rig { mut client, mut server, task, .. } = Rig::new().await;
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await.unwrap(), b"");
    reset(client);
    // The server's reading side has ended, so the reset shows as an error on the socket.
    server.ready(Interest::ERROR).await.unwrap();
    let error = server.take_error().unwrap().expect("no error");
    assert_eq!(error.raw_os_error(), Some(libc::EPIPE), "as on a direct connection");
    assert_eq!(task.await.unwrap(), ended(TcpEnd::ClientReset, Side::Client));
}

#[tokio::test]
async fn server_reset_after_the_clients_half_close_reaches_the_client() {
    let Rig { mut client, mut server, task, .. } = Rig::new().await;
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await.unwrap(), b"");
    reset(server);
    assert_eq!(read_until_reset(&mut client).await, b"");
    assert_eq!(task.await.unwrap(), ended(TcpEnd::UpstreamReset, Side::Client));
}

#[tokio::test]
async fn full_close_by_the_client_resets_a_server_that_keeps_sending() {
    let Rig { client, mut server, task, .. } = Rig::new().await;
    drop(client);
    assert_eq!(read_all(&mut server).await.unwrap(), b"");
    while server.write_all(&[0; 4096]).await.is_ok() {}
    assert_eq!(task.await.unwrap(), ended(TcpEnd::ClientReset, Side::Client));
}

#[tokio::test]
async fn cancelling_resets_both_sides() {
    let mut rig = Rig::new().await;
    rig.client.write_all(b"x").await.unwrap();
    assert_eq!(rig.server.read_u8().await.unwrap(), b'x');
    rig.cancel.cancel();
    assert_eq!(read_until_reset(&mut rig.client).await, b"");
    assert_eq!(read_until_reset(&mut rig.server).await, b"");
    let expected = Forwarded { end: TcpEnd::Cancelled, closed_first: None };
    assert_eq!(rig.end().await, expected);
}

#[tokio::test]
async fn half_closed_connection_answers_after_minutes() {
    let guard = freeze();
    let mut rig = Rig::new().await;
    rig.client.write_all(b"job").await.unwrap();
    rig.client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut rig.server).await.unwrap(), b"job");
    advance(Duration::from_secs(600)).await;
    rig.server.write_all(b"done").await.unwrap();
    rig.server.shutdown().await.unwrap();
    assert_eq!(read_all(&mut rig.client).await.unwrap(), b"done");
    assert_eq!(rig.end().await.end, TcpEnd::Finished);
    drop(guard);
}

#[tokio::test]
async fn half_closed_connection_lives_while_it_moves_and_ends_when_it_is_silent() {
    let guard = freeze();
    let mut rig = Rig::new().await;
    rig.client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut rig.server).await.unwrap(), b"");
    for _ in 0..5 {
        advance(HOUR - Duration::from_secs(1)).await;
        rig.server.write_all(b".").await.unwrap();
        assert_eq!(rig.client.read_u8().await.unwrap(), b'.');
    }
    advance(HOUR + Duration::from_secs(1)).await;
    assert_eq!(read_until_reset(&mut rig.client).await, b"");
    assert_eq!(rig.end().await, ended(TcpEnd::HalfClosedTimeout, Side::Client));
    drop(guard);
}

#[tokio::test]
async fn silent_connection_open_on_both_sides_is_left_alone() {
    let guard = freeze();
    let mut rig = Rig::new().await;
    for _ in 0..3 {
        advance(100 * HOUR).await;
        rig.client.write_all(b"?").await.unwrap();
        assert_eq!(rig.server.read_u8().await.unwrap(), b'?');
    }
    drop(guard);
}

#[tokio::test]
async fn idle_connection_holds_no_buffer() {
    let before = free(Size::Small);
    let mut rig = Rig::new().await;
    rig.client.write_all(b"?").await.unwrap();
    assert_eq!(rig.server.read_u8().await.unwrap(), b'?');
    // Same thread: the answer has come, so the lane has gone back to waiting.
    rig.server.write_all(b"!").await.unwrap();
    assert_eq!(rig.client.read_u8().await.unwrap(), b'!');
    while free(Size::Small) == before {
        tokio::task::yield_now().await;
    }
    assert!(!rig.task.is_finished());
}

/// Bytes that repeat only after 2⁶⁴ of them, and a checksum that sees order.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, chunk: &mut [u8]) {
        for byte in chunk {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            *byte = self.0 as u8;
        }
    }
}

async fn send_noise(stream: impl AsyncWriteExt + Unpin, seed: u64, total: usize) {
    let (mut stream, mut noise, mut left) = (stream, Noise(seed), total);
    let mut chunk = vec![0; 64 << 10];
    // Writes of many sizes, small ones among them.
    for size in (1..).map(|i: usize| i * i * 7919 % (64 << 10) + 1) {
        let size = size.min(left);
        noise.fill(&mut chunk[..size]);
        stream.write_all(&chunk[..size]).await.unwrap();
        left -= size;
        if left == 0 {
            break;
        }
    }
    stream.shutdown().await.unwrap();
}

async fn check_noise(mut stream: impl AsyncReadExt + Unpin, seed: u64, total: usize) {
    let (mut noise, mut seen) = (Noise(seed), 0);
    let (mut chunk, mut expected) = (vec![0; 48 << 10], vec![0; 48 << 10]);
    loop {
        let n = stream.read(&mut chunk).await.unwrap();
        if n == 0 {
            break;
        }
        noise.fill(&mut expected[..n]);
        assert!(chunk[..n] == expected[..n], "differs after {seen} bytes");
        seen += n;
    }
    assert_eq!(seen, total);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_in_both_directions_at_once_arrives_intact() {
    const TOTAL: usize = 64 << 20;
    let Rig { client, server, task, counters, .. } = Rig::new().await;
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let parts = [
        tokio::spawn(send_noise(client_write, 1, TOTAL)),
        tokio::spawn(send_noise(server_write, 2, TOTAL)),
        tokio::spawn(check_noise(server_read, 1, TOTAL)),
        tokio::spawn(check_noise(client_read, 2, TOTAL)),
    ];
    for part in parts {
        part.await.unwrap();
    }
    assert_eq!(task.await.unwrap().end, TcpEnd::Finished);
    assert_eq!(counters.client_to_upstream(), TOTAL as u64);
    assert_eq!(counters.upstream_to_client(), TOTAL as u64);
}

#[tokio::test]
async fn slow_reader_holds_the_sender_back() {
    const TOTAL: u64 = 32 << 20;
    // Four kernel buffers (twice what was asked for each) and the forwarder's own.
    const BOUND: u64 = 2 << 20;
    let small = Some(64 << 10);
    let Rig { mut client, mut server, task, counters, .. } =
        Rig::start(connected(small).await, connected(small).await);
    let sent = Arc::new(ByteCounters::default());
    let sending = tokio::spawn({
        let sent = Arc::clone(&sent);
        async move {
            while sent.upstream_to_client() < TOTAL {
                let n = server.write(&[0; 16 << 10]).await.unwrap();
                sent.add_from(Side::Upstream, n);
            }
        }
    });
    let mut received = 0;
    let mut chunk = vec![0; 16 << 10];
    loop {
        // Whatever the others can do without this reader, they may do now.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let ahead = sent.upstream_to_client() - received;
        assert!(ahead < BOUND, "the sender is {ahead} bytes ahead");
        let n = client.read(&mut chunk).await.unwrap() as u64;
        if n == 0 {
            break;
        }
        received += n;
    }
    sending.await.unwrap();
    assert_eq!(received, sent.upstream_to_client());
    assert_eq!(received, counters.upstream_to_client());
    drop(client);
    assert!(matches!(task.await.unwrap().end, TcpEnd::Finished));
}

#[tokio::test]
async fn bulk_is_spliced_unless_that_is_off() {
    const TOTAL: usize = 16 << 20;
    for splice in [false, true] {
        let ((client, near), (far, server)) = (connected(None).await, connected(None).await);
        let (counters, cancel) = (ByteCounters::default(), Stop::new());
        let options = TcpOptions { splice, ..TcpOptions::default() };
        let (receive, send) = (client, server);
        let forwarding = forward(near.into(), far.into(), &options, &counters, &cancel);
        let (_, (), forwarded) =
            tokio::join!(send_noise(send, 3, TOTAL), check_noise(receive, 3, TOTAL), forwarding);
        assert_eq!(forwarded.end, TcpEnd::Finished);
        assert_eq!(splice::free() > 0, splice, "a pipe was used");
    }
}
