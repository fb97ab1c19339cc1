//! A place where connections begin and end: a network namespace, perhaps with a cgroup of its own,
//! and a process inside that makes sockets and hands them to the test. The kernel's hooks see that
//! process; the test holds both ends of a connection and can compare their bytes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, Shutdown, recvmsg, shutdown,
};
use serde_json::{Value, json};

use crate::cgroup::Cgroup;
use crate::fixture;
use crate::netns::Netns;
use crate::process::{Process, patience, wait_until};
use crate::wire::Wire;

/// After this long without a byte a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A namespace, a cgroup if it is a pod, and the process that makes sockets in them.
#[derive(Debug)]
pub struct Site {
    agent: Process,
    requests: Mutex<UnixStream>,
    /// The namespace; commands that run there belong to the cgroup too.
    pub netns: Netns,
    cgroup: Option<Cgroup>,
}

// === impl Site ===

impl Site {
    /// A host outside of every workload.
    ///
    /// # Errors
    ///
    /// Fails without root.
    pub fn host(role: &str, dir: &Path) -> Result<Self> {
        Self::start(Netns::new(role)?, None, role, dir)
    }

    /// A pod: a namespace and a cgroup.
    ///
    /// # Errors
    ///
    /// Fails without root.
    pub fn pod(role: &str, dir: &Path) -> Result<Self> {
        Self::container(Netns::new(role)?, Cgroup::new(role)?, role, dir)
    }

    /// A container: a cgroup of its own, in a namespace that may be others' too.
    ///
    /// # Errors
    ///
    /// Fails without root.
    pub fn container(mut netns: Netns, cgroup: Cgroup, role: &str, dir: &Path) -> Result<Self> {
        netns.join(&cgroup);
        Self::start(netns, Some(cgroup), role, dir)
    }

    fn start(netns: Netns, cgroup: Option<Cgroup>, role: &str, dir: &Path) -> Result<Self> {
        let path = dir.join(format!("{role}.sock"));
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        let mut command = fixture::command(&netns, "sockets.py");
        command.arg(&path);
        let mut agent = Process::start(&format!("sockets-{role}"), command, dir)?;
        let mut accepted = None;
        wait_until("the socket maker", PATIENCE, || {
            accepted = listener.accept().ok();
            anyhow::ensure!(agent.running()?, "it ended:\n{}", agent.log());
            Ok(accepted.is_some())
        })?;
        let (requests, _) = accepted.context("the wait ended without a connection")?;
        requests.set_nonblocking(false)?;
        // Longer than the maker waits for a connection.
        requests.set_read_timeout(Some(patience(PATIENCE * 2)))?;
        Ok(Self { agent, requests: Mutex::new(requests), netns, cgroup })
    }

    /// Its cgroup.
    ///
    /// # Panics
    ///
    /// Panics when it is a host and has none.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        self.cgroup.as_ref().expect("only pods have a cgroup")
    }

    /// Connects to an address.
    ///
    /// # Errors
    ///
    /// Fails with the kernel's error, or `ETIMEDOUT` after twenty seconds.
    pub fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.dial(None, to)
    }

    /// Connects from an address and port.
    ///
    /// # Errors
    ///
    /// As [`Site::connect`], and when the port is taken.
    pub fn connect_from(&self, from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
        self.dial(Some(from), to)
    }

    /// Listens; on `[::]` for both families.
    ///
    /// # Errors
    ///
    /// Fails with the kernel's error.
    pub fn listen(&self, at: SocketAddr) -> io::Result<TcpListener> {
        self.bind(at, false, false)
    }

    /// Listens on an IPv6 address for IPv6 only.
    ///
    /// # Errors
    ///
    /// Fails with the kernel's error.
    pub fn listen_v6only(&self, at: SocketAddr) -> io::Result<TcpListener> {
        self.bind(at, true, false)
    }

    /// Listens where others may listen too (`SO_REUSEPORT`).
    ///
    /// # Errors
    ///
    /// Fails with the kernel's error.
    pub fn listen_shared(&self, at: SocketAddr) -> io::Result<TcpListener> {
        self.bind(at, false, true)
    }

    fn bind(&self, at: SocketAddr, v6only: bool, reuseport: bool) -> io::Result<TcpListener> {
        let request = json!({"listen": pair(at), "v6only": v6only, "reuseport": reuseport});
        self.ask(&request).map(Into::into)
    }

    fn dial(&self, from: Option<SocketAddr>, to: SocketAddr) -> io::Result<TcpStream> {
        let request = json!({"connect": pair(to), "bind": from.map(pair)});
        let stream = TcpStream::from(self.ask(&request)?);
        be_patient(&stream)?;
        Ok(stream)
    }

    fn ask(&self, request: &Value) -> io::Result<OwnedFd> {
        let mut stream = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(stream, "{request}")?;
        let (answer, socket) = receive(&mut stream)?;
        let gone =
            || io::Error::other(format!("no socket; its maker wrote:\n{}", self.agent.log()));
        match answer["errno"].as_i64().and_then(|errno| i32::try_from(errno).ok()) {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => socket.ok_or_else(gone),
        }
    }
}

/// Connects a client to a server that listens, and holds both ends.
///
/// # Errors
///
/// Fails when the client cannot connect or the server gets no connection.
pub fn join(client: &Site, to: SocketAddr, listener: &TcpListener) -> Result<Wire> {
    let mut client = client.connect(to).with_context(|| format!("cannot connect to {to}"))?;
    match accept(listener) {
        Ok(server) => Ok(Wire { client, server }),
        Err(error) => {
            client.set_nonblocking(true)?;
            let state = client.read(&mut [0]);
            Err(error.context(format!("connected to {to}, and reading there gives {state:?}")))
        }
    }
}

/// Whether a new connection to a server goes through weir. Bytes must come through both ways, and
/// both ends.
///
/// # Errors
///
/// Fails when the connection does.
pub fn is_captured(client: &Site, to: SocketAddr, listener: &TcpListener) -> Result<bool> {
    let wire = join(client, to, listener)?;
    let captured = wire.went_through_weir()?;
    wire.up("ping\n")?;
    wire.down("pong\n")?;
    wire.finish()?;
    Ok(captured)
}

/// Accepts one connection, waiting for it as long as a test waits for anything.
///
/// # Errors
///
/// Fails when no client comes.
pub fn accept(listener: &TcpListener) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let mut accepted = None;
    wait_until("a connection at the server", PATIENCE, || match listener.accept() {
        Ok((stream, _)) => {
            accepted = Some(stream);
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.into()),
    })?;
    let stream = accepted.context("the wait ended without a connection")?;
    stream.set_nonblocking(false)?;
    be_patient(&stream)?;
    Ok(stream)
}

/// Ends a server, at once: while another test of this process starts a command, its child has a copy
/// of every descriptor until it execs, and `close` alone would end nothing.
///
/// # Errors
///
/// Fails with the kernel's error.
pub fn stop(listener: TcpListener) -> io::Result<()> {
    shutdown(&listener, Shutdown::Both)?;
    drop(listener);
    Ok(())
}

/// Closes a listener, and waits until the last copy of its descriptor is closed too (see [`stop`]).
///
/// # Errors
///
/// Fails when a client keeps it.
pub fn close(site: &Site, listener: TcpListener) -> Result<()> {
    let socket = File::from(OwnedFd::from(listener));
    let inode = socket.metadata()?.ino();
    drop(socket);
    wait_until("the last copy to be closed", PATIENCE, || {
        Ok(!site.netns.socket_inodes()?.contains(&inode))
    })
}

/// Reads to the end of the other side's half.
///
/// # Errors
///
/// Fails when it resets or says nothing for too long.
pub fn read_all(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn be_patient(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(patience(PATIENCE)))?;
    stream.set_write_timeout(Some(patience(PATIENCE)))
}

fn pair(address: SocketAddr) -> Value {
    json!([address.ip().to_string(), address.port()])
}

/// One answer: a short text in one piece, with or without a descriptor (unix(7), `SCM_RIGHTS`).
fn receive(stream: &mut UnixStream) -> io::Result<(Value, Option<OwnedFd>)> {
    let mut text = [0; 256];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [io::IoSliceMut::new(&mut text)];
    // With a timeout on the socket the kernel does not restart the call (signal(7)).
    let got =
        retry_on_intr(|| recvmsg(&*stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC))?;
    let got = got.bytes;
    let socket = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    Ok((serde_json::from_slice(&text[..got]).unwrap_or_default(), socket))
}
