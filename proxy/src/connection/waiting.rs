//! A client whose upstream is being dialled: whether it still waits. Its bytes are left where they
//! are.

use std::{future::pending, io, net::SocketAddr, time::Duration};

use socket2::SockRef;
use tokio::{io::Interest, time::sleep};

use super::stream::Stream;
use crate::{
    capture::{Netns, is_orphaned},
    telemetry::CloseReason,
};

/// How often a client that has ended its stream is looked for: soon, then less and less often.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(500);

/// Resolves when the client is gone: it has reset its connection, or closed it. Who has only ended
/// the stream may wait for an answer. A TCP peer cannot tell the one from the other; where the client
/// is local, in `netns`, its kernel can.
pub(super) async fn gone(client: &Stream, netns: Option<&Netns>) -> CloseReason {
    // `PRIORITY` comes with the end of the stream; with urgent data it costs a look at the client.
    match client.ready(Interest::PRIORITY | Interest::ERROR).await {
        Ok(ready) if ready.is_error() => return CloseReason::ClientReset,
        Ok(_) => {}
        Err(_) => return pending().await,
    }
    tokio::select! {
        reset = reset(client) => reset,
        closed = closed(client, netns) => closed,
    }
}

async fn reset(client: &Stream) -> CloseReason {
    match client.ready(Interest::ERROR).await {
        Ok(_) => CloseReason::ClientReset,
        Err(_) => pending().await,
    }
}

async fn closed(client: &Stream, netns: Option<&Netns>) -> CloseReason {
    let (Some(netns), Some((peer, local))) = (netns, ends(client)) else { return pending().await };
    let mut pause = FIRST_LOOK;
    loop {
        match is_orphaned(netns, peer, local).await {
            Ok(true) => return CloseReason::ClientClosed,
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(%error, "cannot check whether the client has closed");
                return pending().await;
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_LOOK);
    }
}

/// Its peer's address and its own.
fn ends(client: &Stream) -> Option<(SocketAddr, SocketAddr)> {
    let socket = SockRef::from(client);
    socket.peer_addr().ok()?.as_socket().zip(socket.local_addr().ok()?.as_socket())
}

/// Whether an error of connect(2) says that the connection was made, and reset since.
pub(super) fn was_reached(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener, TcpStream as Client};

    use tokio::time::timeout;

    use super::{super::stream::Form, *};

    const FORMS: [Form; 2] = [Form::Raw, Form::Owned];

    /// A client, and weir's end of its connection.
    fn connected(form: Form) -> (Client, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Client::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        (client, Stream::accepted(accepted, form).unwrap())
    }

    #[tokio::test]
    async fn a_client_that_closes_is_gone_whatever_it_has_sent() {
        use std::io::Write;
        let netns = Netns::own().unwrap();
        for (form, sent) in FORMS.into_iter().flat_map(|form| {
            [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &[b'x'; 100_000]].map(|sent| (form, sent))
        }) {
            let (mut client, accepted) = connected(form);
            client.write_all(sent).unwrap();
            drop(client);
            assert_eq!(gone(&accepted, Some(&netns)).await, CloseReason::ClientClosed);
        }
    }

    #[tokio::test]
    async fn a_client_that_has_ended_its_stream_may_wait_and_may_close_later() {
        let netns = Netns::own().unwrap();
        for form in FORMS {
            let (client, accepted) = connected(form);
            client.shutdown(Shutdown::Write).unwrap();
            accepted.ready(Interest::PRIORITY).await.unwrap();
            let (peer, local) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            assert!(!is_orphaned(&netns, peer, local).await.unwrap());
            drop(client);
            assert_eq!(gone(&accepted, Some(&netns)).await, CloseReason::ClientClosed);
        }
    }

    #[tokio::test]
    async fn a_client_that_resets_is_gone_also_behind_its_end_and_from_elsewhere() {
        for (form, ended) in FORMS.into_iter().flat_map(|form| [(form, false), (form, true)]) {
            let (client, accepted) = connected(form);
            if ended {
                client.shutdown(Shutdown::Write).unwrap();
                accepted.ready(Interest::PRIORITY).await.unwrap();
            }
            crate::forward::tcp::arm(&client);
            drop(client);
            assert_eq!(gone(&accepted, None).await, CloseReason::ClientReset);
        }
    }

    #[tokio::test]
    async fn what_a_client_says_is_left_alone() {
        use std::io::Write;
        let netns = Netns::own().unwrap();
        for form in FORMS {
            let (mut client, accepted) = connected(form);
            client.write_all(b"hello").unwrap();
            accepted.ready(Interest::READABLE).await.unwrap();
            let waited = timeout(Duration::ZERO, gone(&accepted, Some(&netns))).await;
            assert!(waited.is_err(), "it waits: {waited:?}");
            let mut read = [const { std::mem::MaybeUninit::uninit() }; 5];
            assert_eq!(SockRef::from(&accepted).recv(&mut read).unwrap(), 5);
        }
    }

    /// An urgent byte looks like an end at first.
    #[tokio::test]
    async fn a_client_that_sends_urgent_data_waits_still() {
        let netns = Netns::own().unwrap();
        let (client, accepted) = connected(Form::Raw);
        SockRef::from(&client).send_out_of_band(b"!").unwrap();
        accepted.ready(Interest::PRIORITY).await.unwrap();
        let waited = timeout(10 * FIRST_LOOK, gone(&accepted, Some(&netns))).await;
        assert!(waited.is_err(), "it waits: {waited:?}");
        drop(client);
        assert_eq!(gone(&accepted, Some(&netns)).await, CloseReason::ClientClosed);
    }
}
