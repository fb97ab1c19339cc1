//! The server side of the control socket. A process that can open the socket may ask, and change weir
//! if it is weir's user or root: the file is mode 0600, in a directory of mode 0700. Everything that
//! arrives is bounded in size and time.

mod socket;

use std::{io, os::fd::AsFd as _, path::Path, sync::Arc, time::Duration};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use self::socket::SocketFile;
pub use self::socket::{BoundSocket, ControlSocketError, Reader};
pub use super::handler::{Caller, ControlHandler, Conversation};
use super::protocol::{ControlError, ErrorCode, MAX_REQUEST, Request, Response, Tapped};
use crate::{
    accept::{AcceptOptions, Acceptor, NoSlots},
    telemetry::tap::{Batch, Tap},
};

/// Clients served at once; more wait in the listen queue.
const MAX_CLIENTS: usize = 32;

/// How long a successor may take between asking for the workloads and telling that it captures them:
/// it loads programs for each, tens of milliseconds on an idle machine.
const HANDOVER: Duration = Duration::from_secs(120);

/// A client that says nothing for this long is dropped; so is one that does not read.
const DEADLINE: Duration = Duration::from_secs(10);

/// The listening socket. Removes its file when dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    file: SocketFile,
    reader: Option<Reader>,
}

// === impl ControlSocket ===

impl ControlSocket {
    /// Opens the socket as [`BoundSocket::open`] does. Needs a tokio runtime.
    ///
    /// # Errors
    /// See [`ControlSocketError`].
    pub fn bind(path: &Path) -> Result<Self, ControlSocketError> {
        BoundSocket::open(path)?.try_into()
    }

    /// Opens the socket in place of one that another weir has just let go.
    ///
    /// # Errors
    /// See [`ControlSocketError`].
    pub fn replace(path: &Path) -> Result<Self, ControlSocketError> {
        BoundSocket::replace(path)?.try_into()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Answers requests until dropped.
    pub async fn serve(self, handler: Arc<dyn ControlHandler>) {
        let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
        let mut tasks = tokio::task::JoinSet::new();
        let never = CancellationToken::new();
        let mut acceptor = Acceptor::new(&self.listener, &NoSlots, &never, AcceptOptions::admin());
        loop {
            let permit =
                Arc::clone(&clients).acquire_owned().await.expect("the semaphore is never closed");
            while tasks.try_join_next().is_some() {}
            let Some((stream, _)) = acceptor.next().await else { return };
            let caller = match stream.peer_cred() {
                Ok(peer) => Caller::new(peer.uid(), peer.pid(), self.reader),
                Err(error) => {
                    tracing::debug!(%error, "cannot tell who a control client is");
                    continue;
                }
            };
            let handler = Arc::clone(&handler);
            tasks.spawn(async move {
                let _permit = permit;
                if let Err(error) = serve_client(stream, handler.as_ref(), caller).await {
                    tracing::debug!(%error, "control client disconnected");
                }
            });
        }
    }
}

impl TryFrom<BoundSocket> for ControlSocket {
    type Error = ControlSocketError;

    /// Needs a tokio runtime.
    fn try_from(bound: BoundSocket) -> Result<Self, ControlSocketError> {
        let BoundSocket { listener, file, reader } = bound;
        let listener = UnixListener::from_std(listener)
            .map_err(|source| ControlSocketError::Io { path: file.path.clone(), source })?;
        Ok(Self { listener, file, reader })
    }
}

/// Requests one after the other until the client closes, errs or falls silent.
async fn serve_client(
    stream: UnixStream,
    handler: &dyn ControlHandler,
    caller: Caller,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut conversation = Conversation::new(handler, caller);
    loop {
        let deadline = if conversation.handover.is_some() { HANDOVER } else { DEADLINE };
        let line = match timeout(deadline, read_line(&mut reader, MAX_REQUEST)).await {
            Ok(line) => line?,
            Err(_) => return Ok(()),
        };
        let result = match line {
            Line::End => return Ok(()),
            Line::TooLong => Err(ControlError::bad_request(format!(
                "request is longer than {MAX_REQUEST} bytes"
            ))),
            Line::CutOff => {
                Err(ControlError::bad_request("incomplete request: no line feed at its end"))
            }
            Line::Complete(line) => match Request::parse(&line) {
                Ok(request) => {
                    conversation.hung_up = has_hung_up(reader.get_ref().as_ref());
                    request.answer(&mut conversation).await
                }
                Err(error) => Err(error),
            },
        };
        let (mut answer, stop) = match result {
            Ok(answer) => (answer, false),
            Err(error) => {
                let stop = matches!(error.code, ErrorCode::BadRequest | ErrorCode::Version);
                (serde_json::to_vec(&Response::error(error))?, stop)
            }
        };
        answer.push(b'\n');
        timeout(DEADLINE, writer.write_all(&answer)).await??;
        if let Some(tap) = conversation.tap.take() {
            return follow(tap, &mut reader, &mut writer).await;
        }
        if stop {
            // Whatever follows garbage is not worth reading.
            return Ok(());
        }
    }
}

/// Whether the client has closed the connection, with requests of it that are still to be read.
fn has_hung_up(stream: &UnixStream) -> bool {
    // Told without being asked for (poll(2)).
    let mut polled = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        && polled[0].revents().is_some_and(|seen| seen.intersects(gone))
}

/// Sends what a tap sees until the client goes, says anything more, or does not read.
async fn follow(
    mut tap: Tap,
    reader: &mut (impl tokio::io::AsyncBufRead + Unpin),
    writer: &mut (impl tokio::io::AsyncWrite + Unpin),
) -> io::Result<()> {
    loop {
        let Batch { records, missed } = tokio::select! {
            batch = tap.next() => batch,
            _end_or_more = reader.fill_buf() => return Ok(()),
        };
        let records = records.into_iter().map(|record| Tapped::Record(Box::new(record)));
        let missed = (missed > 0).then_some(Tapped::Missed { records: missed });
        let mut lines = Vec::new();
        for tapped in records.chain(missed) {
            serde_json::to_writer(&mut lines, &Response::ok(tapped))?;
            lines.push(b'\n');
        }
        timeout(DEADLINE, writer.write_all(&lines)).await??;
    }
}

enum Line {
    Complete(Vec<u8>),
    /// The stream ended in the middle: never act on half a request.
    CutOff,
    TooLong,
    End,
}

/// Reads up to a line feed, holding at most `limit` bytes and a little.
async fn read_line(
    reader: &mut (impl tokio::io::AsyncBufRead + Unpin),
    limit: usize,
) -> io::Result<Line> {
    let mut line = Vec::new();
    reader.take(limit as u64 + 1).read_until(b'\n', &mut line).await?;
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(Line::Complete(line));
    }
    if line.len() > limit {
        return Ok(Line::TooLong);
    }
    if line.is_empty() { Ok(Line::End) } else { Ok(Line::CutOff) }
}

#[cfg(test)]
mod tests;
