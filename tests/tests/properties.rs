//! What an application sets on its socket before it connects: weir's own connection has it too, and
//! what no other connection can have goes direct.

use anyhow::{Context, Result};
use weir_tests::Lab;
use weir_tests::lab::{SERVER_V4, SERVER_V6};
use weir_tests::netns::ip;
use weir_tests::peer::Peer;
use weir_tests::weir::Exec;

/// Connects to the server once it has called `prepare`, and prints what ss(8) says of the connection
/// that is really there.
const LOOK: &str = "import os, socket, struct, subprocess, sys\n\
    def look(host, prepare):\n\
    \x20 s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)\n\
    \x20 prepare(s)\n\
    \x20 s.settimeout(10); s.connect((host, 9000)); s.sendall(b'x'); s.recv(1)\n\
    \x20 dst = '[%s]' % host if ':' in host else host\n\
    \x20 line = ['ss', '-Htone', '--tos', 'dst', dst]\n\
    \x20 print(' '.join(subprocess.run(line, capture_output=True, text=True).stdout.split()))\n\
    \x20 s.close()\n";

fn seen(lab: &Lab, host: &str, prepare: &str) -> Result<String> {
    let program = format!("{LOOK}def prepare(s):\n  {prepare}\nlook('{host}', prepare)");
    Ok(Exec::new(lab).python(&program)?.stdout().to_owned())
}

#[test]
fn the_upstream_socket_has_what_the_application_set_and_nothing_else() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::echo(&lab.server, 9000)?;
    let keep_alive = "s.setsockopt(1, 9, 1); s.setsockopt(6, 4, 600)";
    for (host, class) in
        [(SERVER_V4, "s.setsockopt(0, 1, 0xb8)"), (SERVER_V6, "s.setsockopt(41, 67, 0xb8)")]
    {
        let plain = seen(&lab, host, "pass")?;
        assert!(plain.contains("ESTAB") && !plain.contains("keepalive"), "{plain}");
        assert!(!plain.contains("0xb8"), "{plain}");
        let set = seen(&lab, host, &format!("{keep_alive}; {class}"))?;
        // Of ten minutes, and not of the kernel's two hours.
        assert!(set.contains("timer:(keepalive,9min"), "{set}");
        assert!(set.contains("0xb8"), "{set}");
    }
    Ok(())
}

/// Guards against a user who reaches through weir what rules deny to him.
#[test]
fn rules_by_user_hold_for_weirs_connections_too() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::echo(&lab.server, 9000)?;
    let own = seen(&lab, SERVER_V4, "pass")?;
    assert!(!own.contains("uid:"), "{own}");
    let program = format!("os.setgid(1234); os.setuid(1234)\nlook('{SERVER_V4}', lambda s: None)");
    let another = Exec::new(&lab).python(&format!("{LOOK}{program}"))?;
    assert!(another.stdout().contains("uid:1234"), "{}", another.stdout());

    let rule = ["-n", lab.client.name(), "rule", "add", "uidrange", "1234-1234", "prohibit"];
    ip(&rule)?;
    let program = format!(
        "import os, socket\n\
         os.setgid(1234); os.setuid(1234)\n\
         s = socket.socket(); s.settimeout(10)\n\
         try: s.connect(('{SERVER_V4}', 9000)); s.sendall(b'x'); print(len(s.recv(1)))\n\
         except OSError as error: print('refused')"
    );
    let denied = Exec::new(&lab).python(&program)?;
    assert_eq!(denied.stdout(), "refused");
    assert!(seen(&lab, SERVER_V4, "pass")?.contains("ESTAB"));
    Ok(())
}

#[test]
fn sockets_with_a_source_port_or_with_keys_go_direct_and_say_why() -> Result<()> {
    let lab = Lab::new()?;
    let peer = Peer::echo(&lab.server, 9000)?;
    let program = format!(
        "import socket, struct\n\
         def connect(address, prepare=lambda s: None, patience=10):\n\
        \x20 s = socket.socket(); s.setsockopt(1, 2, 1); prepare(s); s.bind(address)\n\
        \x20 s.settimeout(patience)\n\
        \x20 try: s.connect(('{SERVER_V4}', 9000)); s.sendall(b'x'); s.recv(1)\n\
        \x20 except OSError: pass\n\
        \x20 s.close()\n\
         for port in (777, 45555, 0): connect(('0.0.0.0', port))\n\
         host = socket.inet_aton('{SERVER_V4}')\n\
         key = struct.pack('=HH4s120xBBHI80s', 2, 0, host, 0, 0, 3, 0, b'key')\n\
         connect(('0.0.0.0', 0), lambda s: s.setsockopt(6, 14, key), 1)"
    );
    let run = Exec::new(&lab).python(&program)?;
    let records = run.records.connections(9000);
    let mut why: Vec<_> =
        records.iter().map(|it| (it.text("treatment"), it.text("reason"))).collect();
    why.sort_unstable();
    let direct = |reason: &str| ("skip".to_owned(), reason.to_owned());
    let captured = why.pop().context("a port that the kernel chose is captured")?;
    assert_eq!(why, [direct("bound_port"), direct("bound_port"), direct("signed")]);
    assert_ne!(captured.0, "skip");
    let ports: Vec<u16> = peer.seen().iter().map(std::net::SocketAddr::port).collect();
    assert!(ports.contains(&777) && ports.contains(&45_555), "{ports:?}");
    Ok(())
}
