//! What an application sets on its socket, before it connects and later: weir's own connection has it
//! too, and what no other connection can have goes direct.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use weir_tests::Lab;
use weir_tests::cgroup::Cgroup;
use weir_tests::fixture::PYTHON;
use weir_tests::lab::{CLIENT_V4, SERVER_V4, SERVER_V6};
use weir_tests::left::nothing_left;
use weir_tests::netns::ip;
use weir_tests::peer::Peer;
use weir_tests::process::{Process, run, wait_until};
use weir_tests::site::PATIENCE;
use weir_tests::weir::{Daemon, Exec, Run};

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
        let minutes = ["timer:(keepalive,9min", "timer:(keepalive,10min"];
        assert!(minutes.iter().any(|timer| set.contains(timer)), "{set}");
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

/// What the programs below use: the connection to the server that is really there, looked at again and
/// again until ss(8) says these words; and a server whose answers do not arrive.
const LATER: &str = "
import errno, os, select, socket, struct, subprocess, sys, time
SOL, TCP, KEEPALIVE, IDLE, INTVL, CNT, USER_TIMEOUT = 1, 6, 9, 4, 5, 6, 18
def new(host):
    s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)
    s.settimeout(60)
    return s
def connected(host):
    s = new(host)
    s.connect((host, 9000)); s.sendall(b'x'); s.recv(1)
    return s
def keep_alive(s, idle, interval=30, count=4):
    # In this order: as Go does it, and the other way round.
    s.setsockopt(SOL, KEEPALIVE, 1)
    for option, value in ((INTVL, interval), (IDLE, idle), (CNT, count)): s.setsockopt(TCP, option, value)
def line(host):
    dst = '[%s]' % host if ':' in host else host
    said = subprocess.run(['ss', '-Htonie', '--tos', 'dst', dst], capture_output=True, text=True)
    return ' '.join(said.stdout.split())
def until(host, *words):
    end = time.monotonic() + 40
    while True:
        seen = line(host)
        if all(word in seen for word in words): return True
        if time.monotonic() > end: sys.exit('no %s in: %s' % (words, seen))
        time.sleep(0.05)
def answers(server, on):
    route = ['route', 'del' if on else 'add', 'blackhole', 'CLIENT/32']
    subprocess.run(['ip', '-n', server] + route, check=True)
";

fn later(program: &str) -> String {
    format!("{}\n{program}", LATER.replace("CLIENT", CLIENT_V4))
}

/// Guards against a connection that no keep-alive is sent on because the application has asked for it
/// after connect(2), as Go, Java and Node do.
#[test]
fn what_the_application_sets_later_is_on_the_upstream_socket_too() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::echo(&lab.server, 9000)?;
    let program = later(&format!(
        "for host, level, name in (('{SERVER_V4}', 0, 1), ('{SERVER_V6}', 41, 67)):\n\
         \x20 s = connected(host)\n\
         \x20 keep_alive(s, 900); until(host, 'timer:(keepalive,14min')\n\
         \x20 # The last of two is the one that holds.\n\
         \x20 for idle in (300, 600): s.setsockopt(TCP, IDLE, idle)\n\
         \x20 until(host, 'timer:(keepalive,9min')\n\
         \x20 s.setsockopt(level, name, 0xb8); until(host, '0xb8')\n\
         \x20 s.setsockopt(TCP, 13, b'reno'); until(host, ' reno ')\n\
         \x20 s.setsockopt(SOL, 47, 5_000_000); until(host, '/40000000bps')\n\
         \x20 # What the kernel refuses is refused, and what is on the socket stays.\n\
         \x20 for value in (0, -1, 1 << 20):\n\
         \x20   try: s.setsockopt(TCP, IDLE, value); print('accepted', value)\n\
         \x20   except OSError as error: print(errno.errorcode[error.errno])\n\
         \x20 s.setsockopt(SOL, KEEPALIVE, 0)\n\
         \x20 end = time.monotonic() + 60\n\
         \x20 while 'keepalive' in line(host) and time.monotonic() < end: time.sleep(0.05)\n\
         \x20 print('off' if 'keepalive' not in line(host) else line(host))\n\
         \x20 s.sendall(b'y'); print(s.recv(1).decode()); s.close()"
    ));
    let once = ["EINVAL", "EINVAL", "EINVAL", "off", "y"].join("\n");
    for flags in [&[][..], &["--connect", "immediate"], &["--http-engine", "terminate"]] {
        let seen = Exec::new(&lab).flags(flags).python(&program)?;
        assert_eq!(seen.stdout(), format!("{once}\n{once}"), "{flags:?}");
    }
    Ok(())
}

/// Before weir has begun to dial, as far as that can be had, and while it dials.
#[test]
fn what_is_set_while_connect_is_in_progress_is_on_the_upstream_socket() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::echo(&lab.server, 9000)?;
    let program = later(&format!(
        "host, server = '{SERVER_V4}', '{}'\n\
         for early in (True, False):\n\
         \x20 answers(server, False)\n\
         \x20 s = new(host); s.setblocking(False)\n\
         \x20 print(errno.errorcode[s.connect_ex((host, 9000))])\n\
         \x20 if not early: until(host, 'SYN-SENT')\n\
         \x20 keep_alive(s, 600)\n\
         \x20 answers(server, True)\n\
         \x20 select.select([], [s], [], 60); print(s.getsockopt(SOL, 4))\n\
         \x20 until(host, 'ESTAB', 'timer:(keepalive,9min')\n\
         \x20 s.setblocking(True); s.sendall(b'x'); print(s.recv(1).decode()); s.close()",
        lab.server.name()
    ));
    let once = "EINPROGRESS\n0\nx";
    // Connections that are accepted first wait for their upstream too.
    for flags in [&[][..], &["--connect", "immediate"]] {
        let seen = Exec::new(&lab).flags(flags).python(&program)?;
        assert_eq!(seen.stdout(), format!("{once}\n{once}"), "{flags:?}");
        let records = seen.records.connections(9000);
        assert!(records.iter().all(|it| it.text("treatment") != "skip"), "{records:#?}");
    }
    Ok(())
}

#[test]
fn a_server_that_vanishes_under_an_idle_connection_is_noticed() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::echo(&lab.server, 9000)?;
    let program = later(&format!(
        "s = connected('{SERVER_V4}'); keep_alive(s, 1, 1, 2)\n\
         until('{SERVER_V4}', 'timer:(keepalive,')\n\
         answers('{}', False)\n\
         try: print(s.recv(1))\n\
         except ConnectionResetError: print('reset')",
        lab.server.name()
    ));
    let seen = Exec::new(&lab).python(&program)?;
    assert_eq!(seen.stdout(), "reset");
    Ok(())
}

/// What a program with sockets of many kinds can tell of weir's part in setsockopt(2): nothing.
#[test]
fn setsockopt_is_what_it_is_without_weir() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::echo(&lab.server, 9000)?;
    let program = later(&format!(
        "def tried(s, *option):\n\
         \x20 try: s.setsockopt(*option); return 'ok'\n\
         \x20 except OSError as error: return errno.errorcode[error.errno]\n\
         def multicast(sources):\n\
         \x20 # MCAST_MSFILTER, of more than a page where there are many sources.\n\
         \x20 def address(text): return struct.pack('=HxxI120x', 2, struct.unpack('=I', socket.inet_aton(text))[0])\n\
         \x20 return struct.pack('=I4x', 0) + address('239.1.2.3') + struct.pack('=II', 1, sources) + \\\n\
         \x20   b''.join(address('10.0.%d.%d' % divmod(i, 256)) for i in range(sources))\n\
         for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):\n\
         \x20 for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):\n\
         \x20   s = socket.socket(family, kind)\n\
         \x20   for option in ((SOL, KEEPALIVE, 1), (SOL, 12, 3), (SOL, 12, 7), (SOL, 47, b'x'), (0, 1, 8),\n\
         \x20                  (0, 1, b'z'), (41, 67, 300), (TCP, IDLE, 0), (TCP, IDLE, 5), (TCP, 13, b'no such'),\n\
         \x20                  (TCP, 13, b'reno' + bytes(5000)), (SOL, KEEPALIVE, bytes(9000)), (99, 99, bytes(9000)),\n\
         \x20                  (SOL, KEEPALIVE, b'')):\n\
         \x20     print(family.name, kind.name, option[:2], tried(s, *option))\n\
         s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         mreq = socket.inet_aton('239.1.2.3') + socket.inet_aton('{CLIENT_V4}')\n\
         print(tried(s, 0, 35, mreq), [tried(s, 0, 48, multicast(n)) for n in (1, 9, 33, 60)])\n\
         s = connected('{SERVER_V4}')\n\
         print([tried(s, SOL, KEEPALIVE, bytes(n)) for n in (0, 3, 4, 17, 4096, 4097, 70000)])\n\
         print([tried(s, TCP, 13, b'reno' + bytes(n)) for n in (0, 1, 12, 13, 5000)])"
    ));
    let mut direct = lab.client.command(PYTHON);
    let direct = run(direct.args(["-c", &program]), PATIENCE)?.ok()?;
    assert!(direct.stdout.contains("EINVAL") && direct.stdout.contains("ok"), "{}", direct.stdout);
    let seen = Exec::new(&lab).python(&program)?;
    let lines = direct.stdout.lines().zip(seen.stdout().lines());
    let other: Vec<_> = lines.filter(|(direct, seen)| direct != seen).collect();
    assert_eq!((other, direct.stdout.lines().count()), (Vec::new(), seen.stdout().lines().count()));
    Ok(())
}

/// Guards against connections that a weir finishes which has been replaced: it is told of their options
/// still, whether its successor has the same maps or others.
#[test]
fn connections_of_a_weir_that_has_been_replaced_get_their_options_too() -> Result<()> {
    for schema in [None, Some("another")] {
        let lab = Lab::new()?;
        let _peer = Peer::echo(&lab.server, 9000)?;
        let cgroup = Cgroup::new("properties")?;
        let mut old = Daemon::start(&lab, &cgroup, &["--drain-deadline", "60s"])?;
        let go = lab.dir().join("go");
        let program = later(&format!(
            "s = connected('{SERVER_V4}'); print('connected')\n\
             while not os.path.exists('{}'): time.sleep(0.05)\n\
             keep_alive(s, 600); until('{SERVER_V4}', 'timer:(keepalive,9min'); s.close()\n\
             s = connected('{SERVER_V4}'); keep_alive(s, 1200)\n\
             until('{SERVER_V4}', 'timer:(keepalive,19min'); print('set')",
            go.display()
        ));
        let mut command = lab.client.command_in(cgroup.path(), PYTHON);
        command.args(["-u", "-c", &program]);
        let mut client = Process::start("later", command, lab.dir())?;
        wait_until("a connection", PATIENCE, || Ok(client.log().contains("connected")))?;
        let mut successor = Run::new(&lab.client, lab.dir())
            .workload("client", &cgroup, None)
            .flags(&["--upgrade"])
            .after(&old);
        if let Some(schema) = schema {
            successor = successor.variable("WEIR_BPF_SCHEMA", schema);
        }
        let mut new = successor.start()?;
        wait_until("a successor", PATIENCE, || Ok(old.process.log().contains("taken over")))?;
        let hooks = new.json(&["status"])?["status"]["workloads"][0]["hooks"].to_string();
        assert!(hooks.contains("setsockopt"), "{hooks}");
        fs::write(&go, "")?;
        let status = client.wait(Duration::from_secs(120))?;
        assert!(status.success() && client.log().contains("set"), "{}", client.log());
        old.process.wait(PATIENCE)?;
        new.stop()?;
        new.instance().detach(&[])?.ok()?;
        nothing_left(new.instance(), &[&lab.client])?;
    }
    Ok(())
}

/// Guards against an application that keeps the ring buffer of all workloads full.
#[test]
fn options_beyond_a_sockets_share_are_counted_and_do_no_harm() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::echo(&lab.server, 9000)?;
    let cgroup = Cgroup::new("properties")?;
    let daemon = Daemon::start(&lab, &cgroup, &[])?;
    let program = later(&format!(
        "s = connected('{SERVER_V4}'); other = connected('{SERVER_V4}')\n\
         for _ in range(20000): s.setsockopt(TCP, IDLE, 300)\n\
         keep_alive(other, 600); until('{SERVER_V4}', 'timer:(keepalive,9min')\n\
         end = time.monotonic() + 60\n\
         while 'keepalive,14min' not in line('{SERVER_V4}') and time.monotonic() < end:\n\
         \x20 keep_alive(s, 900); time.sleep(0.2)\n\
         until('{SERVER_V4}', 'timer:(keepalive,14min')\n\
         for s in (s, other): s.sendall(b'y'); print(s.recv(1).decode())"
    ));
    let mut command = lab.client.command_in(cgroup.path(), PYTHON);
    let seen = run(command.args(["-c", &program]), Duration::from_secs(150))?.ok()?;
    assert_eq!(seen.stdout.trim(), "y\ny");
    let lost = daemon.decisions("option_lost")?;
    assert!((10_000..20_000).contains(&lost), "{lost}");
    Ok(())
}
