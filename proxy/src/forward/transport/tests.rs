//! A transport that is no socket: without descriptors, urgent data and resets of its own.

use std::{
    future::{pending, ready},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Waker,
};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};

use super::*;
use crate::{
    forward::{
        ByteCounters, Side,
        tcp::{TcpEnd, TcpOptions, forward},
    },
    stop::Stop,
};

/// One end of a stream in memory, and whether a drop would cut it.
struct Memory(DuplexStream, Arc<AtomicBool>);

struct MemoryIo(Mutex<DuplexStream>, Arc<AtomicBool>);

impl Memory {
    /// Armed as a socket is that comes from a listener or a dial; the far end, and the flag.
    fn pair() -> (Self, DuplexStream, Arc<AtomicBool>) {
        let (near, far) = duplex(16 << 10);
        let armed = Arc::new(AtomicBool::new(true));
        (Self(near, Arc::clone(&armed)), far, armed)
    }
}

impl Abort for Memory {
    fn arm(&self) {
        self.1.store(true, Relaxed);
    }

    fn disarm(&self) {
        self.1.store(false, Relaxed);
    }
}

impl AsyncRead for Memory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Memory {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Transport for Memory {
    type Io = MemoryIo;

    fn into_io(self) -> io::Result<MemoryIo> {
        Ok(MemoryIo(Mutex::new(self.0), self.1))
    }
}

impl Abort for MemoryIo {
    fn arm(&self) {
        self.1.store(true, Relaxed);
    }

    fn disarm(&self) {
        self.1.store(false, Relaxed);
    }
}

impl TransportIo for MemoryIo {
    type Transport = Memory;

    fn into_transport(self) -> io::Result<Memory> {
        Ok(Memory(self.0.into_inner().unwrap(), self.1))
    }

    fn poll_read_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_read(&self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<Found>> {
        let mut buf = ReadBuf::new(room);
        Pin::new(&mut *self.0.lock().unwrap())
            .poll_read(cx, &mut buf)
            .map_ok(|()| Found::Bytes(buf.filled().len()))
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8], _: bool) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock().unwrap()).poll_write(cx, bytes)
    }

    fn shutdown(&self) -> io::Result<()> {
        let mut cx = Context::from_waker(Waker::noop());
        let shut = Pin::new(&mut *self.0.lock().unwrap()).poll_shutdown(&mut cx);
        assert!(shut.is_ready(), "there is nothing to wait for in memory");
        Ok(())
    }

    fn failure(&self) -> impl Future<Output = io::Error> + Send {
        pending()
    }

    fn delivered(&self) -> impl Future<Output = ()> + Send {
        ready(())
    }

    fn splicing(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn spliced(&self) {
        unreachable!("there is nothing to splice");
    }

    fn poll_splice(
        &self,
        _: &mut Context<'_>,
        _: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        unreachable!("there is nothing to splice");
    }
}

/// More than a lane reads before it splices, in each direction.
#[tokio::test]
async fn what_cannot_be_spliced_is_copied_and_its_ends_pass() {
    let bulk: Vec<u8> = (0..1_u32 << 20).map(|n| (n % 251) as u8).collect();
    let ((near, client, near_armed), (far, server, far_armed)) = (Memory::pair(), Memory::pair());
    let counters = ByteCounters::default();
    let (options, cancel) = (TcpOptions::default(), Stop::new());
    assert!(options.splice);
    let exchange = |stream: DuplexStream| {
        let bulk = bulk.clone();
        async move {
            let (mut read, mut write) = tokio::io::split(stream);
            let mut got = Vec::new();
            let send = async {
                write.write_all(&bulk).await.unwrap();
                write.shutdown().await.unwrap();
            };
            tokio::join!(send, async { read.read_to_end(&mut got).await.unwrap() });
            got
        }
    };
    let (forwarded, at_client, at_server) = tokio::join!(
        forward(near.into(), far.into(), &options, &counters, &cancel),
        exchange(client),
        exchange(server),
    );
    assert!(at_client == bulk && at_server == bulk);
    assert_eq!(forwarded.end, TcpEnd::Finished);
    assert_eq!((counters.client_to_upstream(), counters.upstream_to_client()), (1 << 20, 1 << 20));
    assert!(!near_armed.load(Relaxed) && !far_armed.load(Relaxed), "both have ended in order");
}

#[tokio::test]
async fn a_deadline_cuts_both_sides() {
    let ((near, _client, near_armed), (far, _server, far_armed)) = (Memory::pair(), Memory::pair());
    let (counters, options, cancel) = (ByteCounters::default(), TcpOptions::default(), Stop::new());
    near.disarm();
    far.disarm();
    cancel.cancel();
    let forwarded = forward(near.into(), far.into(), &options, &counters, &cancel).await;
    assert_eq!(forwarded.end, TcpEnd::Cancelled);
    assert!(near_armed.load(Relaxed) && far_armed.load(Relaxed));
}

#[tokio::test]
async fn an_engines_stream_is_cut_unless_it_has_ended_in_order() {
    let (transport, _far, armed) = Memory::pair();
    let state = AbortState::default();
    drop(state.bind(Side::Client, transport));
    assert!(!armed.load(Relaxed), "the engine has dropped it in order");

    let (transport, _far, armed) = Memory::pair();
    let stream = state.bind(Side::Client, transport);
    state.on_abort()(Side::Upstream);
    drop(stream);
    assert!(!armed.load(Relaxed), "the other side was cut");

    let (transport, _far, armed) = Memory::pair();
    let stream = state.bind(Side::Upstream, transport);
    drop(stream);
    assert!(armed.load(Relaxed), "its side was cut");

    let (transport, _far, armed) = Memory::pair();
    let state = AbortState::default();
    let mut stream = state.bind(Side::Client, transport);
    stream.shutdown().await.unwrap();
    assert!(!armed.load(Relaxed), "its end has been sent");
    drop(state);
    drop(stream);
    assert!(armed.load(Relaxed), "it was there still when its connection was given up");
}
