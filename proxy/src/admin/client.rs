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
        "no weir is running behind {}: {source}; start one with `weir run` or `weir exec`",
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
        "control socket {} may not be opened: permission denied; run as the user that started weir \
         (usually root)",
        .0.display()
    )]
    Denied(PathBuf),
    /// The connection broke.
    #[error("control socket {}: {source}; is what listens there a weir, and is it alive?", path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// What came is no answer.
    #[error("control socket {}: answer not understood: {reason}", path.display())]
    Garbled {
        /// The socket's path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What is asked has no room in a request; nothing was sent.
    #[error(
        "the request has {0} bytes where weir takes {MAX_REQUEST}: shorten its lists (9000-9100 \
         instead of single ports)"
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
    let io_error = |source| ClientError::Io { path: path.to_owned(), source };
    let garbled = |reason: String| ClientError::Garbled { path: path.to_owned(), reason };
    let mut stream = connect(path)?;
    stream.set_read_timeout(Some(DEADLINE)).map_err(io_error)?;
    stream.set_write_timeout(Some(DEADLINE)).map_err(io_error)?;
    let mut line =
        serde_json::to_vec(&Request::new(workload, command)).map_err(|e| garbled(e.to_string()))?;
    if line.len() > MAX_REQUEST {
        return Err(ClientError::TooLong(line.len()));
    }
    line.push(b'\n');
    stream.write_all(&line).map_err(io_error)?;

    let mut answer = Vec::new();
    BufReader::new(stream.take(MAX_RESPONSE as u64))
        .read_until(b'\n', &mut answer)
        .map_err(io_error)?;
    let response: Response = serde_json::from_slice(&answer).map_err(|e| garbled(e.to_string()))?;
    match response.outcome {
        Outcome::Ok(_) if response.version != VERSION => {
            Err(garbled(format!("it is in version {}, not {VERSION}", response.version)))
        }
        Outcome::Ok(answer) => Ok(answer),
        Outcome::Error(error) => Err(ClientError::Refused(error)),
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
