//! Both ends of one connection in a test's hands: what one side writes, the other must read, byte by
//! byte, and nothing else.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use crate::peer::{is_loopback, plain};
use crate::site::read_all;

/// How much of the bytes around a difference is shown.
const SHOWN: usize = 80;

/// The client's end and the server's end.
#[derive(Debug)]
pub struct Wire {
    /// What connected.
    pub client: TcpStream,
    /// What was accepted.
    pub server: TcpStream,
}

// === impl Wire ===

impl Wire {
    /// Whether weir is between the two. Then the server sees another address than the client has,
    /// but not always: the kernel may have given weir the port that the client has, of the same
    /// address. Then the one or the other end is connected through loopback; the namespaces are two.
    ///
    /// # Errors
    ///
    /// Fails when it is not connected any more.
    pub fn went_through_weir(&self) -> io::Result<bool> {
        let (own, seen) = (self.client.local_addr()?, plain(self.server.peer_addr()?));
        Ok(own != seen || is_loopback(&self.client)? || is_loopback(&self.server)?)
    }

    /// The client says something, and the server gets just that.
    ///
    /// # Errors
    ///
    /// Fails with the first difference.
    pub fn up(&self, bytes: impl AsRef<[u8]>) -> Result<()> {
        carry(&self.client, &self.server, bytes.as_ref()).context("from client to server")
    }

    /// The server says something, and the client gets just that.
    ///
    /// # Errors
    ///
    /// Fails with the first difference.
    pub fn down(&self, bytes: impl AsRef<[u8]>) -> Result<()> {
        carry(&self.server, &self.client, bytes.as_ref()).context("from server to client")
    }

    /// As [`Wire::up`], in pieces of so many bytes that are sent one by one.
    ///
    /// # Errors
    ///
    /// Fails with the first difference.
    pub fn up_by(&self, piece: usize, bytes: impl AsRef<[u8]>) -> Result<()> {
        in_pieces(&self.client, &self.server, piece, bytes.as_ref()).context("up in pieces")
    }

    /// As [`Wire::down`], in pieces of so many bytes that are sent one by one.
    ///
    /// # Errors
    ///
    /// Fails with the first difference.
    pub fn down_by(&self, piece: usize, bytes: impl AsRef<[u8]>) -> Result<()> {
        in_pieces(&self.server, &self.client, piece, bytes.as_ref()).context("down in pieces")
    }

    /// The client closes its half, and the server gets that and nothing before it.
    ///
    /// # Errors
    ///
    /// Fails when there is something else.
    pub fn client_ends(&self) -> Result<()> {
        end(&self.client, &self.server).context("end of the client's half")
    }

    /// The server closes its half, and the client gets that and nothing before it.
    ///
    /// # Errors
    ///
    /// Fails when there is something else.
    pub fn server_ends(&self) -> Result<()> {
        end(&self.server, &self.client).context("end of the server's half")
    }

    /// The server resets the connection, and the client gets a reset.
    ///
    /// # Errors
    ///
    /// Fails when the client gets anything else.
    pub fn server_resets(self) -> Result<()> {
        let Self { client, server } = self;
        reset(server)?;
        match read_all(&client) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            other => bail!("a reset became {}", outcome(other)),
        }
    }

    /// Both halves end, the client's first; nothing unread is left on either side.
    ///
    /// # Errors
    ///
    /// Fails when there is something.
    pub fn finish(self) -> Result<()> {
        self.client_ends()?;
        self.server_ends()
    }
}

/// Closes with a reset (socket(7), `SO_LINGER`).
///
/// # Errors
///
/// Fails when the kernel does not take the option.
pub fn reset(stream: TcpStream) -> io::Result<()> {
    let now = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &now)?;
    drop(stream);
    Ok(())
}

/// Bytes of a length that repeat only after 4 GiB: lost or swapped blocks are seen.
#[must_use]
pub fn noise(length: usize) -> Vec<u8> {
    let words = (0_u64..).flat_map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    words.take(length).collect()
}

fn carry(from: &TcpStream, to: &TcpStream, bytes: &[u8]) -> Result<()> {
    in_pieces(from, to, usize::MAX, bytes)
}

fn in_pieces(mut from: &TcpStream, mut to: &TcpStream, piece: usize, bytes: &[u8]) -> Result<()> {
    from.set_nodelay(true)?;
    // On two threads: what is written may be more than the sockets hold.
    let (written, read) = thread::scope(|scope| {
        let mut pieces = bytes.chunks(piece);
        let writer = scope.spawn(move || pieces.try_for_each(|piece| from.write_all(piece)));
        let mut got = Vec::with_capacity(bytes.len());
        let mut buffer = vec![0; 65536];
        let read = loop {
            let missing = bytes.len() - got.len();
            if missing == 0 || !bytes.starts_with(&got) {
                break Ok(());
            }
            let limit = missing.min(buffer.len());
            match to.read(&mut buffer[..limit]) {
                Ok(0) => break Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => got.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        if read.is_err() || got != bytes {
            // The writer must not wait for a reader that has given up.
            let _closed_already = from.shutdown(Shutdown::Both);
        }
        let written = writer.join().expect("write_all does not panic");
        (written, read.map(|()| got.clone()).map_err(|error| (error, got)))
    });
    match read {
        Ok(got) if got == bytes => written.context("write"),
        Ok(got) => bail!("other bytes arrived: {}", difference(bytes, &got)),
        Err((error, got)) => {
            bail!("{error} after {} of {} bytes: {}", got.len(), bytes.len(), shown(&got, 0))
        }
    }
}

fn end(from: &TcpStream, to: &TcpStream) -> Result<()> {
    from.shutdown(Shutdown::Write)?;
    let rest = read_all(to);
    ensure!(matches!(&rest, Ok(bytes) if bytes.is_empty()), "it became {}", outcome(rest));
    Ok(())
}

fn outcome(read: io::Result<Vec<u8>>) -> String {
    match read {
        Ok(bytes) if bytes.is_empty() => "an end".to_owned(),
        Ok(bytes) => format!("{} bytes and an end: {}", bytes.len(), shown(&bytes, 0)),
        Err(error) => error.to_string(),
    }
}

fn difference(expected: &[u8], got: &[u8]) -> String {
    let same = expected.iter().zip(got).take_while(|(one, other)| one == other).count();
    let from = same.saturating_sub(SHOWN / 4);
    format!("at {same}, \"{}\" instead of \"{}\"", shown(got, from), shown(expected, from))
}

fn shown(bytes: &[u8], from: usize) -> String {
    bytes[from..].iter().take(SHOWN).copied().collect::<Vec<u8>>().escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn wire() -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        Wire { client, server }
    }

    #[test]
    fn what_arrives_is_compared_and_so_is_the_end() {
        let wire = wire();
        wire.up(noise(3_000_000)).unwrap();
        wire.down("answer").unwrap();
        wire.finish().unwrap();
    }

    #[test]
    fn other_bytes_are_a_failure_that_shows_them() {
        let wire = wire();
        (&wire.client).write_all(b"GET / HTTP/1.1\r\nX: a\r\n").unwrap();
        let error = wire.up("GET / HTTP/1.0\r\nX: a\r\n").unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("at 13") && text.contains("HTTP/1.1\\r\\n"), "{text}");
    }

    #[test]
    fn bytes_too_many_are_seen_at_the_end() {
        let wire = wire();
        (&wire.server).write_all(b"more").unwrap();
        wire.client_ends().unwrap();
        let text = format!("{:#}", wire.server_ends().unwrap_err());
        assert!(text.contains("4 bytes and an end: more"), "{text}");
    }

    #[test]
    fn an_end_is_no_reset() {
        let wire = wire();
        (&wire.server).write_all(b"x").unwrap();
        wire.server.shutdown(Shutdown::Write).unwrap();
        let text = format!("{:#}", wire.server_resets().unwrap_err());
        assert!(text.contains("1 bytes and an end"), "{text}");
    }
}
