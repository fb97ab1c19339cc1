//! The control socket's file: where it is, whose it is, and when it goes. Needs no runtime, so that it
//! can be made before privileges are dropped.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use nix::sys::stat::{Mode, fchmod};

use crate::config::{DEFAULT_CONTROL_SOCKET, SESSION_DIRECTORY};

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
    /// A path with a directory that is not there is more likely mistyped than meant.
    #[error(
        "cannot open control socket {}: there is no directory {}; correct --control, or create the \
         directory first", path.display(), path.parent().unwrap_or(path).display()
    )]
    NoDirectory {
        /// The socket's path.
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot open control socket {}: {source}; run as root or choose another path with --control", path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A user other than weir's own who may ask, and change nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// The user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// The listening socket, before it is served. Removes its file when dropped.
#[derive(Debug)]
pub struct BoundSocket {
    pub(super) listener: UnixListener,
    pub(super) file: SocketFile,
    pub(super) reader: Option<Reader>,
}

/// The file of a socket; removed when dropped.
#[derive(Debug)]
pub(super) struct SocketFile {
    pub(super) path: PathBuf,
    /// Device and inode of our file: never remove a successor's.
    identity: Option<(u64, u64)>,
}

// === impl BoundSocket ===

impl BoundSocket {
    /// Opens the socket. A file left behind by a dead weir is replaced. Of directories only that of
    /// the default path is made.
    ///
    /// # Errors
    /// See [`ControlSocketError`].
    pub fn open(path: &Path) -> Result<Self, ControlSocketError> {
        let fail = |source| ControlSocketError::Io { path: path.to_owned(), source };
        make_directory(path)?;
        clear_stale(path)?;
        let listener = listen(path).map_err(fail)?;
        Ok(Self { listener, file: SocketFile::of(path), reader: None })
    }

    /// Opens a socket for a session of `weir exec` of its own, in the directory of all of them. That
    /// of a `reader` is this user's file. Needs root.
    ///
    /// # Errors
    /// See [`ControlSocketError`].
    pub fn of_session(pid: u32, reader: Option<Reader>) -> Result<Self, ControlSocketError> {
        let directory = Path::new(SESSION_DIRECTORY);
        // Others may open what is theirs in it, and not list it. The umask may have taken that.
        let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(directory);
        let made =
            made.and_then(|()| fs::set_permissions(directory, Permissions::from_mode(0o711)));
        let first = directory.join(format!("{pid}.sock"));
        made.map_err(|source| ControlSocketError::Io { path: first.clone(), source })?;
        // In another PID namespace the number may be there a second time.
        let further = (2..100).map(|number| directory.join(format!("{pid}-{number}.sock")));
        let mut bound = Self::open(&first);
        for path in further {
            if !matches!(bound, Err(ControlSocketError::InUse(_))) {
                break;
            }
            bound = Self::open(&path);
        }
        let mut bound = bound?;
        if let Some(Reader { uid, gid }) = reader {
            // Only root can put another file in its place.
            let path = &bound.file.path;
            std::os::unix::fs::lchown(path, Some(uid), Some(gid))
                .map_err(|source| ControlSocketError::Io { path: path.clone(), source })?;
        }
        bound.reader = reader;
        Ok(bound)
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
        let mut socket = Self::open(&beside)?;
        fs::rename(&beside, path).map_err(fail)?;
        path.clone_into(&mut socket.file.path);
        Ok(socket)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }
}

// === impl SocketFile ===

impl SocketFile {
    fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), identity: identity(path) }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // Left behind, it is replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

// === helpers ===

fn make_directory(path: &Path) -> Result<(), ControlSocketError> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
        return Ok(());
    };
    if Path::new(DEFAULT_CONTROL_SOCKET).parent() == Some(parent) {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(parent);
        return made.map_err(|source| ControlSocketError::Io { path: path.to_owned(), source });
    }
    match fs::metadata(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(ControlSocketError::NoDirectory { path: path.to_owned() })
        }
        _ => Ok(()),
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
    Ok(socket.into())
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
    match UnixStream::connect(path) {
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
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
