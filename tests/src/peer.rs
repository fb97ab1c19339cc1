//! Servers made of plain sockets, for tests that must see or do something that no real server does:
//! reset, close half, tell who connected.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use socket2::SockRef;

use crate::netns::Netns;

/// A listener on both families that runs one function per connection; stopped on drop.
#[derive(Debug)]
pub struct Peer {
    port: u16,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<SocketAddr>>>,
    accepting: Option<JoinHandle<()>>,
}

// === impl Peer ===

impl Peer {
    /// Listens in a namespace on a port (0: any) and serves each connection on a thread.
    ///
    /// # Errors
    ///
    /// Fails when the port is taken.
    pub fn start<F>(netns: &Netns, port: u16, serve: F) -> Result<Self>
    where
        F: Fn(TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    {
        Self::serve(netns.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))??, serve)
    }

    fn serve<F>(listener: TcpListener, serve: F) -> Result<Self>
    where
        F: Fn(TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    {
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let accepting = {
            let (stop, seen, serve) = (Arc::clone(&stop), Arc::clone(&seen), Arc::new(serve));
            thread::spawn(move || accept_until(&listener, &stop, &seen, &serve))
        };
        Ok(Self { port, stop, seen, accepting: Some(accepting) })
    }

    /// Serves on a listener that is there already: answers the first bytes of each connection with a
    /// text, and closes when the client has.
    ///
    /// # Errors
    ///
    /// Fails when the listener cannot be watched.
    pub fn answering(listener: TcpListener, text: &'static str) -> Result<Self> {
        Self::serve(listener, move |mut stream| {
            let _request = stream.read(&mut [0; 4096])?;
            stream.write_all(text.as_bytes())?;
            stream.read_to_end(&mut Vec::new()).map(drop)
        })
    }

    /// Sends back what comes, and closes when the client has.
    ///
    /// # Errors
    ///
    /// Fails when the port is taken.
    pub fn echo(netns: &Netns, port: u16) -> Result<Self> {
        Self::start(netns, port, |mut stream| {
            let mut reader = stream.try_clone()?;
            std::io::copy(&mut reader, &mut stream).map(drop)
        })
    }

    /// Speaks first: tells the client the address that it is seen as, and closes.
    ///
    /// # Errors
    ///
    /// Fails when the port is taken.
    pub fn whoami(netns: &Netns, port: u16) -> Result<Self> {
        Self::start(netns, port, |mut stream| {
            let client = plain(stream.peer_addr()?);
            writeln!(stream, "{} {}", client.ip(), client.port())?;
            stream.shutdown(std::net::Shutdown::Write)?;
            // Closing with unread data would reset the connection.
            stream.read_to_end(&mut Vec::new()).map(drop)
        })
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The addresses of everyone who connected so far.
    #[must_use]
    pub fn seen(&self) -> Vec<SocketAddr> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(accepting) = self.accepting.take() {
            let _panicked = accepting.join();
        }
    }
}

/// An address without the IPv6 clothes of an IPv4 one.
#[must_use]
pub fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether the other end of a socket is in its own namespace: no segment on a cable is longer, and
/// those through loopback are (64 KiB).
///
/// # Errors
///
/// Fails when it is not connected.
pub fn is_loopback(stream: &impl AsFd) -> std::io::Result<bool> {
    Ok(is_loopback_segment(SockRef::from(stream).tcp_mss()?))
}

/// Whether that is the greatest length of segments (bytes) of a socket as in [`is_loopback`].
#[must_use]
pub const fn is_loopback_segment(bytes: u32) -> bool {
    bytes > 9000
}

fn accept_until<F>(
    listener: &TcpListener,
    stop: &AtomicBool,
    seen: &Mutex<Vec<SocketAddr>>,
    serve: &Arc<F>,
) where
    F: Fn(TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
{
    while !stop.load(Ordering::Relaxed) {
        let Ok((stream, client)) = listener.accept() else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(plain(client));
        let serve = Arc::clone(serve);
        thread::spawn(move || {
            // The limit keeps a broken proxy from holding the thread for ever.
            let limit = Some(Duration::from_secs(120));
            let served = stream
                .set_nonblocking(false)
                .and_then(|()| stream.set_read_timeout(limit))
                .and_then(|()| stream.set_write_timeout(limit))
                .and_then(|()| serve(stream));
            // Peers that reset are part of many tests; the client's side asserts.
            if let Err(error) = served {
                eprintln!("peer: {error}");
            }
        });
    }
}
