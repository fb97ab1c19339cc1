//! What happens at once, without a timer: bytes go on before it is known what they are, and a dial that
//! is not waited for ends.

use std::io::{Read, Write};

use anyhow::Result;
use weir_tests::Lab;
use weir_tests::lab::SERVER_V4;
use weir_tests::peer::Peer;
use weir_tests::weir::Exec;

/// An address of the lab's network that swallows what is sent to it.
const SILENT: &str = "10.77.0.99";

/// The first words of these clients have no end of line, and they wait for an answer to them. With the
/// detect timeout at an hour they would be answered in an hour if they were held.
#[test]
fn incomplete_words_are_answered_without_a_timer() -> Result<()> {
    let lab = Lab::new()?;
    let words = ["ruok", "HELLO", "GET key", "PUT 12345", "\\x16\\x03"];
    let _peer = Peer::start(&lab.server, 9000, |mut stream| {
        let _words = stream.read(&mut [0; 64])?;
        stream.write_all(b"imok")?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    })?;
    let program = format!(
        "import socket\n\
         for words in {words:?}:\n\
         \x20   s = socket.create_connection(('{SERVER_V4}', 9000))\n\
         \x20   s.sendall(words.encode('latin1')); print(s.recv(4).decode()); s.close()"
    )
    .replace("\\\\x", "\\x");
    let seen = Exec::without_timer(&lab).flags(&["--learn", "off"]).python(&program)?;
    assert_eq!(seen.stdout(), ["imok"; 5].join("\n"));
    seen.records.assert_treated(9000, "tcp");
    assert_eq!(seen.records.connections(9000).len(), words.len());
    Ok(())
}

/// A request of which the server has got the first piece before the rest is sent: what has passed
/// before the verdict is not lost to it.
#[test]
fn a_request_in_pieces_is_followed_though_nothing_is_held() -> Result<()> {
    let lab = Lab::new()?;
    let got = lab.dir().join("got");
    let tell = got.clone();
    let _peer = Peer::start(&lab.server, 9000, move |mut stream| {
        stream.read_exact(&mut [0; 3])?;
        std::fs::write(&tell, "")?;
        stream.read_exact(&mut [0; 33])?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    })?;
    let program = format!(
        "import os, socket, time\n\
         s = socket.create_connection(('{SERVER_V4}', 9000))\n\
         s.sendall(b'GET')\n\
         while not os.path.exists('{}'): time.sleep(.01)\n\
         s.sendall(b' /path HTTP/1.1\\r\\nHost: a.test\\r\\n\\r\\n')\n\
         print(s.recv(99)[-2:].decode())",
        got.display()
    );
    let seen = Exec::without_timer(&lab).python(&program)?;
    assert_eq!(seen.stdout(), "ok");
    let requests = seen.records.requests_to(9000);
    assert_eq!(requests.len(), 1);
    assert_eq!((requests[0].number("status"), &*requests[0].text("path")), (200, "/path"));
    Ok(())
}

/// The kernel would try for two minutes. Ports that are looked at and ports that are not, with bytes
/// and without.
#[test]
fn a_dial_ends_with_the_client_that_waits_for_it() -> Result<()> {
    let lab = Lab::new()?;
    let program = format!(
        "import socket, subprocess, time\n\
         dev = subprocess.check_output(['ip', 'route', 'get', '{SILENT}']).split()[2].decode()\n\
         subprocess.check_call(['ip', 'neigh', 'replace', '{SILENT}', 'lladdr', '02:00:00:00:00:99',\n\
         \x20                      'dev', dev, 'nud', 'permanent'])\n\
         def dials(): return '63004D0A:' in open('/proc/net/tcp').read()\n\
         for port in (9000, 6379):\n\
         \x20   for words in (b'', b'GET / HTTP/1.1\\r\\n\\r\\n'):\n\
         \x20       s = socket.socket(); s.setblocking(False); s.connect_ex(('{SILENT}', port))\n\
         \x20       while not dials(): time.sleep(.01)\n\
         \x20       try: s.send(words)\n\
         \x20       except OSError: pass\n\
         \x20       s.close()\n\
         \x20       while dials(): time.sleep(.01)\n\
         print('none left')"
    );
    // A client that is held says nothing, and is given up by the kernel's word.
    for connect in ["immediate", "hold"] {
        let seen = Exec::new(&lab).flags(&["--connect", connect]).python(&program)?;
        assert_eq!(seen.stdout(), "none left", "{connect}");
    }
    Ok(())
}
