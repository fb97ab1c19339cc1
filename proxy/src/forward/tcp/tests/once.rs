//! Sockets that are registered once, in the form of raw forwarding.

use socket2::{Domain, Protocol, SockRef, Socket as Plain, Type};

use super::*;

fn unconnected() -> Plain {
    let socket =
        Plain::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP));
    socket.unwrap()
}

/// A socket that was dialled, and its peer.
async fn dialled() -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = Socket::connect(unconnected(), listener.local_addr().unwrap()).await.unwrap();
    (socket, listener.accept().await.unwrap().0)
}

async fn write(socket: &Socket) {
    assert_eq!(poll_fn(|cx| socket.poll_write(cx, b"x", false)).await.unwrap(), 1);
}

#[tokio::test]
async fn a_dialled_socket_delays_nothing_from_its_second_write_on() {
    let (socket, _peer) = dialled().await;
    let delays = || !SockRef::from(&socket).tcp_nodelay().unwrap();
    assert!(SockRef::from(&socket).out_of_band_inline().unwrap());
    write(&socket).await;
    assert!(delays(), "one write alone is never delayed");
    write(&socket).await;
    assert!(!delays());
}

#[tokio::test]
async fn an_engine_that_owns_it_gets_it_as_other_sockets_are() {
    for writes in 0..3 {
        let (socket, _peer) = dialled().await;
        for _ in 0..writes {
            write(&socket).await;
        }
        let stream = socket.into_stream().unwrap();
        assert!(stream.nodelay().unwrap());
        assert!(!SockRef::from(&stream).out_of_band_inline().unwrap());
    }
}

#[tokio::test]
async fn a_dial_that_fails_has_its_error() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let refused = Socket::connect(unconnected(), closed).await.err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let unreachable = "255.255.255.255:1".parse().unwrap();
    assert!(Socket::connect(unconnected(), unreachable).await.is_err());
}

/// A connection whose last end is sent by close(2).
#[tokio::test]
async fn both_ends_come_in_order_when_the_last_one_is_that_of_the_close() {
    for client_first in [true, false] {
        let (upstream, mut server) = dialled().await;
        let (mut client, accepted) = connected(None).await;
        let (counters, never) = (ByteCounters::default(), Stop::new());
        let options = TcpOptions::default();
        // As weir's sockets are.
        upstream.arm();
        arm(&accepted);
        let near = Endpoint::from(accepted);
        let forwarding = forward(near, upstream.into(), &options, &counters, &never);
        let ends = async {
            let (first, second) =
                if client_first { (&mut client, &mut server) } else { (&mut server, &mut client) };
            first.write_all(b"first").await.unwrap();
            first.shutdown().await.unwrap();
            assert_eq!(read_all(second).await.unwrap(), b"first");
            second.write_all(b"second").await.unwrap();
            second.shutdown().await.unwrap();
            assert_eq!(read_all(first).await.unwrap(), b"second");
        };
        let (forwarded, ()) = tokio::join!(forwarding, ends);
        assert_eq!(forwarded.end, TcpEnd::Finished);
    }
}
