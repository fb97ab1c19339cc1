//! Connections that weir lets pass: what the kernel reports of them at their end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Result;
use nix::errno::Errno;
use socket2::SockRef;
use weir_tests::Lab;
use weir_tests::lab::SERVER_V4;
use weir_tests::peer::Peer;
use weir_tests::weir::Exec;

/// What the server answers with.
const ANSWER: usize = 777;

/// Reads how much is to come and how to end, then that much; answers, and ends so.
fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let length = u64::from(u32::from_be_bytes([head[0], head[1], head[2], head[3]]));
    std::io::copy(&mut (&stream).take(length), &mut std::io::sink())?;
    stream.write_all(&[b'r'; ANSWER])?;
    match head[4] {
        // The client ends first.
        b'c' => stream.read(&mut [0; 1]).map(drop),
        b's' => Ok(()),
        _ => {
            std::thread::sleep(Duration::from_millis(50));
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))
        }
    }
}

/// Guards against a FIN or a SYN that is counted as a byte, and resets that look like an end in order.
#[test]
fn direct_connections_report_their_bytes_exactly_and_who_ended_them() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::start(&lab.server, 9000, serve)?;
    let program = format!(
        "import socket, struct, time\n\
         for end in 'csrl':\n\
        \x20 for n in (0, 995, 1 << 20):\n\
        \x20   s = socket.create_connection(('{SERVER_V4}', 9000), 10)\n\
        \x20   mode = 'c' if end == 'l' else end\n\
        \x20   s.sendall(struct.pack('>I', n) + mode.encode() + b'q' * n)\n\
        \x20   got = 0\n\
        \x20   while got < {ANSWER}: got += len(s.recv(999))\n\
        \x20   if end in 'sr':\n\
        \x20     try: s.recv(1)\n\
        \x20     except OSError: pass\n\
        \x20   if end == 'l': s.setsockopt(1, socket.SO_LINGER, struct.pack('ii', 1, 0))\n\
        \x20   s.close()\n\
        \x20   time.sleep(.02)\n\
         s = socket.socket()\n\
         print(s.connect_ex(('{SERVER_V4}', 9001)))"
    );
    let flags = ["--skip-outbound-ports", "9000,9001"];
    let seen = Exec::new(&lab).flags(&flags).python(&program)?;
    assert_eq!(seen.stdout(), (Errno::ECONNREFUSED as i32).to_string());
    let records = seen.records.connections(9000);
    let figures: Vec<_> = records
        .iter()
        .map(|it| (it.number("bytes_sent"), it.number("bytes_received"), it.text("close")))
        .collect();
    let mut wanted = Vec::new();
    for end in ["finished", "finished", "upstream_reset", "client_reset"] {
        for sent in [5, 1000, 5 + (1 << 20)] {
            wanted.push((sent, ANSWER as u64, end.to_owned()));
        }
    }
    assert_eq!(figures, wanted, "{records:#?}");
    let refused = seen.records.only_connection(9001);
    let end = (refused.text("close"), refused.text("error"));
    assert_eq!(end, ("not_established".into(), "ECONNREFUSED".into()));
    Ok(())
}
