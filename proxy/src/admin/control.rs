//! The server side of the control socket. A process that can open the socket may change weir, so it
//! is mode 0600 in a directory of mode 0700; everything that arrives is bounded in size and time.

use std::{
    fs, io,
    os::fd::AsFd as _,
    os::unix::{fs::DirBuilderExt, fs::FileTypeExt, net::UnixStream as StdStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::stat::{Mode, fchmod},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub use super::handler::{ControlHandler, Conversation};
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

/// Why the control socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlSocketError {
    /// Another weir answers on it.
    #[error(
        "control socket {} is in use by another weir; stop it or choose another path with --control",
        .0.display()
    )]
    InUse(PathBuf),
    /// There is a file, and it is no socket.
    #[error("{} exists and is not a socket; remove it or choose another path with --control", .0.display())]
    NotASocket(PathBuf),
    /// Anything else.
    #[error("cannot open control socket {}: {source}; run as root or choose another path with --control", path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// The listening socket. Removes its file when dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of our file: never remove a successor's.
    identity: Option<(u64, u64)>,
}

// === impl ControlSocket ===

impl ControlSocket {
    /// Opens the socket. A file left behind by a dead weir is replaced. Needs a tokio runtime.
    ///
    /// # Errors
    /// See [`ControlSocketError`].
    pub fn bind(path: &Path) -> Result<Self, ControlSocketError> {
        let fail = |source| ControlSocketError::Io { path: path.to_owned(), source };
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(fail)?;
        }
        clear_stale(path)?;
        let listener = listen(path).map_err(fail)?;
        Ok(Self { listener, path: path.to_owned(), identity: identity(path) })
    }

    /// Opens the socket in place of one that another weir has just let go.
    ///
    /// # Errors
    /// See [`ControlSocketError`].
    pub fn replace(path: &Path) -> Result<Self, ControlSocketError> {
        let fail = |source| ControlSocketError::Io { path: path.to_owned(), source };
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        let beside = PathBuf::from(name);
        let mut socket = Self::bind(&beside)?;
        fs::rename(&beside, path).map_err(fail)?;
        path.clone_into(&mut socket.path);
        Ok(socket)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
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
            let handler = Arc::clone(&handler);
            tasks.spawn(async move {
                let _permit = permit;
                if let Err(error) = serve_client(stream, handler.as_ref()).await {
                    tracing::debug!(%error, "control client disconnected");
                }
            });
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // Left behind, it is replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds with mode 0600 from the first moment on: Linux makes the file with the mode of the
/// unbound socket (`unix_bind_bsd` in net/unix/af_unix.c), so there is no gap before a chmod.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    socket.listen(128)?;
    UnixListener::from_std(socket.into())
}

fn clear_stale(path: &Path) -> Result<(), ControlSocketError> {
    let fail = |source| ControlSocketError::Io { path: path.to_owned(), source };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(ControlSocketError::NotASocket(path.to_owned()));
    }
    match StdStream::connect(path) {
        Ok(_) => Err(ControlSocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            remove(path).map_err(fail)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(fail(error)),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Requests one after the other until the client closes, errs or falls silent.
async fn serve_client(stream: UnixStream, handler: &dyn ControlHandler) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut conversation = Conversation::new(handler);
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
