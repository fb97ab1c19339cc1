//! The client side of the control socket: blocking, for the command line.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    iter,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::protocol::{
    Call, ControlError, MAX_REQUEST, MAX_RESPONSE, Outcome, Response, Stream, VERSION, read_reply,
    request_line,
};

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No file, or no process behind it.
    #[error(
        "cannot connect to weir at {}: {source}. Is it running? Start it with `weir run` or `weir \
         exec`",
        path.display()
    )]
    NotRunning {
        /// The socket's path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The socket belongs to another user.
    #[error(
        "cannot open control socket {}: permission denied; run as the user that started weir \
         (usually root)",
        .0.display()
    )]
    Denied(PathBuf),
    /// The connection broke.
    #[error("control socket {}: {source}; check that weir listens there and responds", path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// What came is no answer.
    #[error("control socket {}: invalid response: {reason}", path.display())]
    Garbled {
        /// The socket's path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What is asked has no room in a request; nothing was sent.
    #[error(
        "the request has {0} bytes, more than {MAX_REQUEST}; shorten its lists (9000-9100 instead \
         of single ports)"
    )]
    TooLong(usize),
    /// weir refused.
    #[error("weir refused: {0}")]
    Refused(ControlError),
}

/// Asks the weir behind `path` and waits for its reply. `workload` is the one that is meant, where
/// that matters.
///
/// # Errors
/// See [`ClientError`].
pub fn ask<C: Call>(
    path: &Path,
    workload: Option<&str>,
    call: &C,
) -> Result<C::Reply, ClientError> {
    Connection::open(path)?.ask(workload, call)
}

/// Asks for something that goes on; each item as it comes, however long that takes. It ends when
/// weir does.
///
/// # Errors
/// See [`ClientError`]; also where the call is refused.
pub fn follow<C: Stream>(
    path: &Path,
    workload: Option<&str>,
    call: &C,
) -> Result<impl Iterator<Item = Result<C::Item, ClientError>> + use<C>, ClientError> {
    let mut connection = Connection::open(path)?;
    connection.ask(workload, call)?;
    let stream = connection.stream.get_ref();
    stream
        .set_read_timeout(None)
        .map_err(|source| ClientError::Io { path: path.to_owned(), source })?;
    Ok(iter::from_fn(move || connection.read(|line| serde_json::from_slice(line)).transpose()))
}

/// A connection to a weir, for one call after the other: a handover is under way for as long as it
/// lasts.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

// === impl ClientError ===

impl ClientError {
    /// The weir that was asked is there, and does not answer in time.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
    }
}

// === impl Connection ===

impl Connection {
    /// Connects to the weir behind `path`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn open(path: &Path) -> Result<Self, ClientError> {
        let io_error = |source| ClientError::Io { path: path.to_owned(), source };
        let stream = connect(path)?;
        stream.set_read_timeout(Some(DEADLINE)).map_err(io_error)?;
        stream.set_write_timeout(Some(DEADLINE)).map_err(io_error)?;
        Ok(Self { stream: BufReader::new(stream), path: path.to_owned() })
    }

    /// Asks, and waits for the reply.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn ask<C: Call>(
        &mut self,
        workload: Option<&str>,
        call: &C,
    ) -> Result<C::Reply, ClientError> {
        let request = request_line(workload, call);
        let mut line = request.map_err(|error| self.garbled(&error.to_string()))?;
        if line.len() > MAX_REQUEST {
            return Err(ClientError::TooLong(line.len()));
        }
        line.push(b'\n');
        let sent = self.stream.get_ref().write_all(&line);
        sent.map_err(|source| ClientError::Io { path: self.path.clone(), source })?;
        self.read(read_reply::<C>)?.ok_or_else(|| self.garbled("empty response"))
    }

    fn garbled(&self, reason: &str) -> ClientError {
        ClientError::Garbled { path: self.path.clone(), reason: reason.to_owned() }
    }

    /// One line; `None` at the end.
    fn read<T>(
        &mut self,
        parse: impl FnOnce(&[u8]) -> serde_json::Result<Response<T>>,
    ) -> Result<Option<T>, ClientError> {
        let mut line = Vec::new();
        let read = self.stream.by_ref().take(MAX_RESPONSE as u64).read_until(b'\n', &mut line);
        read.map_err(|source| ClientError::Io { path: self.path.clone(), source })?;
        if line.is_empty() {
            return Ok(None);
        }
        let response = parse(&line).map_err(|error| self.garbled(&error.to_string()))?;
        match response.outcome {
            Outcome::Ok(_) if response.version != VERSION => {
                let version = response.version;
                Err(self.garbled(&format!("protocol version {version}, expected {VERSION}")))
            }
            Outcome::Ok(reply) => Ok(Some(reply)),
            Outcome::Error(error) => Err(ClientError::Refused(error)),
        }
    }
}

fn connect(path: &Path) -> Result<UnixStream, ClientError> {
    UnixStream::connect(path).map_err(|source| {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { path, source }
            }
            io::ErrorKind::PermissionDenied => ClientError::Denied(path),
            _ => ClientError::Io { path, source },
        }
    })
}
