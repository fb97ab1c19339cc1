//! The client side of the control socket: blocking, for the command line.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::protocol::{
    Answer, Command, ControlError, MAX_REQUEST, MAX_RESPONSE, Outcome, Request, Response, VERSION,
};

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No file, or nobody behind it.
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
    /// The socket belongs to somebody else.
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

/// Asks the weir behind `path` and waits for its answer. `workload` is the one that is meant, where
/// that matters.
///
/// # Errors
/// See [`ClientError`].
pub fn ask(path: &Path, workload: Option<String>, command: Command) -> Result<Answer, ClientError> {
    Answers::to(path, workload, command)?.first()
}

/// Asks the weir behind `path`, and keeps the connection for what is to be asked next: a hand-over
/// is under way for as long as it lasts.
///
/// # Errors
/// See [`ClientError`].
pub fn converse(path: &Path, command: Command) -> Result<(Answer, Answers), ClientError> {
    let mut answers = Answers::to(path, None, command)?;
    let first = answers.first()?;
    Ok((first, answers))
}

/// Asks for something that goes on; each answer as it comes, however long that takes. It ends when
/// weir does.
///
/// # Errors
/// See [`ClientError`]; also where the first answer is a refusal.
pub fn follow(
    path: &Path,
    workload: Option<String>,
    command: Command,
) -> Result<(Answer, Answers), ClientError> {
    let mut answers = Answers::to(path, workload, command)?;
    let first = answers.first()?;
    let stream = answers.stream.get_ref();
    stream
        .set_read_timeout(None)
        .map_err(|source| ClientError::Io { path: path.to_owned(), source })?;
    Ok((first, answers))
}

/// The answers to one request.
#[derive(Debug)]
pub struct Answers {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

// === impl ClientError ===

impl ClientError {
    /// Whoever has been asked is there, and does not answer in time.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
    }
}

// === impl Answers ===

impl Answers {
    /// Sends a request.
    fn to(path: &Path, workload: Option<String>, command: Command) -> Result<Self, ClientError> {
        let io_error = |source| ClientError::Io { path: path.to_owned(), source };
        let stream = connect(path)?;
        stream.set_read_timeout(Some(DEADLINE)).map_err(io_error)?;
        stream.set_write_timeout(Some(DEADLINE)).map_err(io_error)?;
        let mut answers = Self { stream: BufReader::new(stream), path: path.to_owned() };
        answers.send(workload, command)?;
        Ok(answers)
    }

    /// Asks once more on the same connection.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn ask(&mut self, command: Command) -> Result<Answer, ClientError> {
        self.send(None, command)?;
        self.first()
    }

    fn send(&mut self, workload: Option<String>, command: Command) -> Result<(), ClientError> {
        let request = serde_json::to_vec(&Request::new(workload, command));
        let mut line = request.map_err(|error| self.garbled(&error.to_string()))?;
        if line.len() > MAX_REQUEST {
            return Err(ClientError::TooLong(line.len()));
        }
        line.push(b'\n');
        let sent = self.stream.get_ref().write_all(&line);
        sent.map_err(|source| ClientError::Io { path: self.path.clone(), source })
    }

    fn first(&mut self) -> Result<Answer, ClientError> {
        self.next().unwrap_or_else(|| Err(self.garbled("empty response")))
    }

    fn garbled(&self, reason: &str) -> ClientError {
        ClientError::Garbled { path: self.path.clone(), reason: reason.to_owned() }
    }

    fn read(&mut self) -> Result<Option<Answer>, ClientError> {
        let mut line = Vec::new();
        let read = self.stream.by_ref().take(MAX_RESPONSE as u64).read_until(b'\n', &mut line);
        read.map_err(|source| ClientError::Io { path: self.path.clone(), source })?;
        if line.is_empty() {
            return Ok(None);
        }
        let response: Response =
            serde_json::from_slice(&line).map_err(|error| self.garbled(&error.to_string()))?;
        match response.outcome {
            Outcome::Ok(_) if response.version != VERSION => {
                let version = response.version;
                Err(self.garbled(&format!("protocol version {version}, expected {VERSION}")))
            }
            Outcome::Ok(answer) => Ok(Some(answer)),
            Outcome::Error(error) => Err(ClientError::Refused(error)),
        }
    }
}

impl Iterator for Answers {
    type Item = Result<Answer, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
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
