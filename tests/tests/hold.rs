//! connect(2) tells the truth: it succeeds when the destination has accepted, and fails as it does
//! without weir.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use weir_tests::Lab;
use weir_tests::cgroup::Cgroup;
use weir_tests::fixture::PYTHON;
use weir_tests::lab::{SERVER_V4, SERVER_V6};
use weir_tests::netns::{Netns, ip};
use weir_tests::peer::Peer;
use weir_tests::process::{Finished, Process, run, wait_until};
use weir_tests::site::PATIENCE;
use weir_tests::weir::{Daemon, Exec, binary};

const LIMIT: Duration = Duration::from_secs(60);
/// Destinations behind the server, which routes and answers for them.
const HOST_UNREACHABLE: &str = "10.90.1.2";
const PROHIBITED: &str = "10.90.2.2";
const NET_UNREACHABLE: &str = "10.90.3.2";
const BLACK_HOLE: &str = "10.90.4.2";
const UNREACHABLE_V6: &str = "fd90:1::2";
const PROHIBITED_V6: &str = "fd90:2::2";
const BLACK_HOLE_V6: &str = "fd90:4::2";

/// The beginning of every client here. `attempt` gives the outcome of a connect(2) by name:
/// `ok`, an `errno`, or `nothing` where nothing has come of it within `patience` seconds.
const CLIENT: &str = "
import errno, select, socket, struct, sys, time
TCP_USER_TIMEOUT, TCP_SYNCNT = 18, 7
def open(host, *options):
    s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_STREAM)
    for option in options: s.setsockopt(*option)
    return s
def name(number): return errno.errorcode[number] if number else 'ok'
def attempt(host, port, blocking, patience, *options):
    s = open(host, *options)
    if blocking:
        whole = int(patience)
        timeout = struct.pack('ll', whole, int((patience - whole) * 1e6))
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        result = s.connect_ex((host, port))
        return 'nothing' if result == errno.EINPROGRESS else name(result)
    s.setblocking(False)
    result = s.connect_ex((host, port))
    if result != errno.EINPROGRESS: return name(result)
    poll = select.poll(); poll.register(s, select.POLLOUT)
    if not poll.poll(patience * 1000): return 'nothing'
    return name(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
";

fn client(program: &str) -> String {
    format!("{CLIENT}\n{program}")
}

/// Routes to destinations that cannot be reached, each in another way.
fn routes(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.client.name(), lab.server.name());
    ip(&["-n", client, "route", "add", "10.90.0.0/16", "via", SERVER_V4])?;
    ip(&["-n", client, "route", "add", "fd90::/16", "via", SERVER_V6])?;
    for (kind, v4, v6) in [
        ("unreachable", "10.90.1.0/24", "fd90:1::/64"),
        ("prohibit", "10.90.2.0/24", "fd90:2::/64"),
        ("blackhole", "10.90.4.0/24", "fd90:4::/64"),
    ] {
        for prefix in [v4, v6] {
            ip(&["-n", server, "route", "add", kind, prefix])?;
        }
    }
    let mut command = lab.server.command("sh");
    command.args([
        "-c",
        "cd /proc/sys/net; echo 1 > ipv4/ip_forward; echo 1 > ipv6/conf/all/forwarding; \
         echo 0 > ipv4/icmp_ratelimit; echo 0 > ipv6/icmp/ratelimit",
    ]);
    run(&mut command, LIMIT)?.ok().map(drop)
}

fn direct(netns: &Netns, program: &str) -> Result<Finished> {
    run(netns.command(PYTHON).args(["-c", program]), LIMIT)?.ok()
}

/// A Python program in a daemon's cgroup, whose output goes to a file.
fn start(lab: &Lab, cgroup: &Cgroup, program: &str) -> Result<Process> {
    let mut command = lab.client.command_in(cgroup.path(), PYTHON);
    command.args(["-u", "-c", &client(program)]);
    Process::start("held-client", command, lab.dir())
}

fn in_flight(daemon: &Daemon) -> Result<u64> {
    let status = daemon.json(&["status"])?;
    let budgets = status["status"]["workloads"][0]["budget"].as_array().cloned();
    let budget = budgets.context("no budgets")?.into_iter().find(|it| it["budget"] == "in_flight");
    budget.and_then(|it| it["used"].as_u64()).context("no figure")
}

/// Sockets of a namespace that are connections, or are to be.
fn sockets(netns: &Netns) -> Result<usize> {
    let said = run(netns.command("ss").args(["-Htan", "exclude", "listening"]), LIMIT)?.ok()?;
    Ok(said.stdout.lines().filter(|line| !line.starts_with("TIME-WAIT")).count())
}

fn hold_port(daemon: &Daemon) -> Result<String> {
    let status = daemon.json(&["status"])?;
    Ok(status["status"]["workloads"][0]["connect"].as_str().context("no such field")?.to_owned())
}

/// Errno for errno, for both families and v4-mapped addresses, with a socket that blocks and one
/// that does not.
#[test]
fn every_failure_is_that_of_a_direct_connection() -> Result<()> {
    let lab = Lab::new()?;
    routes(&lab)?;
    let program = client(&format!(
        "for host in ['{SERVER_V4}', '{SERVER_V6}', '::ffff:{SERVER_V4}', '{HOST_UNREACHABLE}',\n\
         \x20            '{PROHIBITED}', '{NET_UNREACHABLE}', '::ffff:{HOST_UNREACHABLE}',\n\
         \x20            '{UNREACHABLE_V6}', '{PROHIBITED_V6}']:\n\
         \x20   for blocking in (False, True):\n\
         \x20       print(host, blocking, attempt(host, 9, blocking, 10))\n\
         for host in ['{BLACK_HOLE}', '{BLACK_HOLE_V6}']:\n\
         \x20   for blocking in (False, True):\n\
         \x20       print(host, blocking, attempt(host, 9, blocking, 0.3))\n\
         \x20       timeout = (socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 1500)\n\
         \x20       print(host, blocking, attempt(host, 9, blocking, 10, timeout))\n"
    ));
    let expected = direct(&lab.client, &program)?;
    assert!(expected.stdout.contains("ECONNREFUSED"), "{}", expected.stdout);
    for errno in ["EHOSTUNREACH", "ENETUNREACH", "EACCES", "ETIMEDOUT", "nothing"] {
        assert!(expected.stdout.contains(errno), "{errno} is not in {}", expected.stdout);
    }
    let seen = Exec::new(&lab).python(&program)?;
    assert_eq!(seen.stdout(), expected.stdout.trim());
    let refused = seen.records.connections(9);
    let count = |error: &str| refused.iter().filter(|it| it.text("error") == error).count();
    assert_eq!(count("ECONNREFUSED"), 6, "{refused:#?}");
    assert!(count("EHOSTUNREACH") >= 6, "{refused:#?}");
    Ok(())
}

#[test]
fn a_connection_that_comes_about_is_one_like_any_other() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::echo(&lab.server, 9000)?;
    let program = format!(
        "for host in ['{SERVER_V4}', '{SERVER_V6}', '::ffff:{SERVER_V4}']:\n\
         \x20   s = open(host); s.settimeout(20); s.connect((host, 9000))\n\
         \x20   s.sendall(b'x' * 100000); left = 100000\n\
         \x20   while left: left -= len(s.recv(left))\n\
         \x20   print(*s.getpeername()[:2])\n"
    );
    let seen = Exec::new(&lab).python(&client(&program))?;
    let expected = format!("{SERVER_V4} 9000\n{SERVER_V6} 9000\n::ffff:{SERVER_V4} 9000");
    assert_eq!(seen.stdout(), expected);
    seen.records.assert_treated(9000, "tcp");
    assert_eq!(seen.records.connections(9000).len(), 3);
    Ok(())
}

/// Data in the SYN, and MPTCP, where this kernel and Python have them.
#[test]
fn unusual_ways_to_connect_work_and_fail_as_they_do_directly() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::echo(&lab.server, 9000)?;
    let program = client(&format!(
        "def fast(port):\n\
         \x20   s = open('{SERVER_V4}'); s.settimeout(20)\n\
         \x20   try: s.sendto(b'hello', socket.MSG_FASTOPEN, ('{SERVER_V4}', port))\n\
         \x20   except OSError as error: return name(error.errno)\n\
         \x20   return s.recv(5)\n\
         def multipath(port):\n\
         \x20   try: s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\n\
         \x20   except OSError: return 'no multipath'\n\
         \x20   s.settimeout(20)\n\
         \x20   try: s.connect(('{SERVER_V4}', port)); s.sendall(b'hello'); return s.recv(5)\n\
         \x20   except OSError as error: return name(error.errno)\n\
         for way in (fast, multipath): print(way(9000), way(9))\n"
    ));
    let expected = direct(&lab.client, &program)?;
    let seen = Exec::new(&lab).python(&program)?;
    assert_eq!(seen.stdout(), expected.stdout.trim());
    Ok(())
}

/// Guards against data that overtakes, on another processor, the acknowledgement before it: before Linux
/// 6.19 the kernel answers it with a reset, some fifty times in a million connections.
#[test]
fn data_right_behind_the_handshake_is_never_answered_with_a_reset() -> Result<()> {
    data_right_behind_the_handshake(&[])
}

/// As `weir exec` does: nothing but held connections needs the program for inbound connections.
#[test]
fn data_right_behind_the_handshake_needs_no_inbound_capture() -> Result<()> {
    data_right_behind_the_handshake(&["--no-capture-inbound"])
}

fn data_right_behind_the_handshake(flags: &[&str]) -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("hold")?);
    let daemon = Daemon::start(&lab, &cgroup, flags)?;
    assert_eq!(hold_port(&daemon)?, "hold");
    let status = daemon.json(&["status"])?.to_string();
    assert!(status.contains("sk_lookup_hold"), "{status}");
    let _peer = Peer::echo(&lab.server, 9000)?;
    let mut program = start(
        &lab,
        &cgroup,
        &format!(
            "import os\n\
             now, there = struct.pack('ii', 1, 0), ('{SERVER_V4}', 9000)\n\
             def visit():\n\
             \x20   for _ in range(4000):\n\
             \x20       s = open('{SERVER_V4}'); s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)\n\
             \x20       connect, send = s.connect, s.send; connect(there); send(b'x')\n\
             \x20       assert s.recv(1) == b'x'; s.close()\n\
             children = []\n\
             for _ in range(6):\n\
             \x20   if pid := os.fork(): children.append(pid); continue\n\
             \x20   try: visit()\n\
             \x20   except BaseException as error: print(repr(error)); os._exit(1)\n\
             \x20   os._exit(0)\n\
             print('over', [os.waitpid(child, 0)[1] for child in children])\n"
        ),
    )?;
    wait_until("the connections to be made", PATIENCE * 3, || {
        Ok(program.log().contains("over") || !program.running()?)
    })?;
    assert!(program.log().contains("over [0, 0, 0, 0, 0, 0]"), "{}", program.log());
    Ok(())
}

/// Guards against what each one cost that was redirected and given up: three sockets for two minutes.
#[test]
fn connections_that_are_given_up_leave_nothing() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("hold")?);
    routes(&lab)?;
    let daemon = Daemon::start(&lab, &cgroup, &[])?;
    assert_eq!(hold_port(&daemon)?, "hold");
    let mut program = start(
        &lab,
        &cgroup,
        &format!(
            "sockets = [open('{BLACK_HOLE}') for _ in range(100)]\n\
             for s in sockets: s.setblocking(False); s.connect_ex(('{BLACK_HOLE}', 9))\n\
             print('begun'); time.sleep(1)\n\
             for s in sockets: s.close()\n\
             print('over'); time.sleep(60)\n"
        ),
    )?;
    wait_until("the connections to be dialled", PATIENCE, || Ok(sockets(&lab.client)? == 200))?;
    assert_eq!(in_flight(&daemon)?, 100);
    wait_until("the program to give up", PATIENCE, || Ok(program.log().contains("over")))?;
    wait_until("everything to go", PATIENCE, || {
        Ok(sockets(&lab.client)? == 0 && in_flight(&daemon)? == 0)
    })?;
    let records = daemon.records_of(9, 100)?;
    let closes: Vec<_> = records.connections(9).iter().map(|it| it.text("close")).collect();
    assert!(closes.iter().all(|close| close == "client_closed"), "{closes:?}");
    program.kill_hard()
}

#[test]
fn a_burst_is_connected_without_a_retransmission() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("hold")?);
    let _peer = Peer::echo(&lab.server, 9000)?;
    let daemon = Daemon::start(&lab, &cgroup, &[])?;
    let mut program = start(
        &lab,
        &cgroup,
        &format!(
            "sockets = [open('{SERVER_V4}') for _ in range(400)]\n\
             for s in sockets: s.setblocking(False); s.connect_ex(('{SERVER_V4}', 9000))\n\
             for s in sockets:\n\
             \x20   s.setblocking(True); s.settimeout(20); s.sendall(b'x'); assert s.recv(1) == b'x'\n\
             print('done')\n"
        ),
    )?;
    let status = program.wait(LIMIT)?;
    ensure!(status.success() && program.log().contains("done"), "{}", program.log());
    let records = daemon.records_of(9000, 400)?;
    let all = records.connections(9000);
    assert!(all.len() == 400 && all.iter().all(|it| it.number("bytes_sent") == 1), "{all:#?}");
    assert_eq!(in_flight(&daemon)?, 0);
    Ok(())
}

/// The listener answers no more: its kernel does.
#[test]
fn weir_killed_while_it_holds_is_a_refusal() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("hold")?);
    routes(&lab)?;
    let mut daemon = Daemon::start(&lab, &cgroup, &[])?;
    let mut program =
        start(&lab, &cgroup, &format!("print(attempt('{BLACK_HOLE}', 9, True, 30))"))?;
    wait_until("the connection to be held", PATIENCE, || Ok(in_flight(&daemon)? == 1))?;
    daemon.process.kill_hard()?;
    program.wait(LIMIT)?;
    assert_eq!(program.log().trim(), "ECONNREFUSED");
    Ok(())
}

#[test]
fn what_is_held_at_the_end_of_a_drain_is_refused() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("hold")?);
    routes(&lab)?;
    let mut daemon = Daemon::start(&lab, &cgroup, &["--drain-deadline", "1s"])?;
    let mut program =
        start(&lab, &cgroup, &format!("print(attempt('{BLACK_HOLE}', 9, True, 30))"))?;
    wait_until("the connection to be held", PATIENCE, || Ok(in_flight(&daemon)? == 1))?;
    daemon.process.signal(Signal::SIGTERM)?;
    ensure!(daemon.process.wait(LIMIT)?.success(), "{}", daemon.process.log());
    program.wait(LIMIT)?;
    assert_eq!(program.log().trim(), "ECONNREFUSED");
    Ok(())
}

#[test]
fn connect_succeeds_at_once_where_that_is_asked_for() -> Result<()> {
    let lab = Lab::new()?;
    let program = client(&format!("print(attempt('{SERVER_V4}', 9, True, 10))"));
    let seen = Exec::new(&lab).flags(&["--connect", "immediate"]).python(&program)?;
    assert_eq!(seen.stdout(), "ok");
    let held = Exec::new(&lab).flags(&["--connect", "hold"]).python(&program)?;
    assert_eq!(held.stdout(), "ECONNREFUSED");
    Ok(())
}

/// A weir that was made for less goes on as before, and says so.
#[test]
fn without_the_capability_connect_succeeds_at_once_and_weir_says_so() -> Result<()> {
    let lab = Lab::new()?;
    let program = client(&format!("print(attempt('{SERVER_V4}', 9, True, 10))"));
    let (weir, records) = Exec::new(&lab).command(&[PYTHON, "-c", &program])?;
    let mut command = without_net_raw(&lab, &weir)?;
    let seen = run(&mut command, LIMIT)?.ok()?;
    assert_eq!(seen.stdout.trim(), "ok");
    assert!(seen.stderr.contains("CAP_NET_RAW"), "{}", seen.stderr);
    assert!(records.exists());
    let mut check = lab.client.command("setpriv");
    check.args(["--bounding-set", "-net_raw", "--"]).arg(binary()?).args(["check", "--no-proof"]);
    let said = run(&mut check, LIMIT)?;
    let line = said.stdout.lines().find(|line| line.contains("connect(2)"));
    assert!(line.is_some_and(|line| line.contains("CAP_NET_RAW")), "{}", said.stdout);
    Ok(())
}

/// The same command line as `weir`, which begins with how a namespace is entered.
fn without_net_raw(lab: &Lab, weir: &Command) -> Result<Command> {
    let mut command = lab.client.command("setpriv");
    let binary = binary()?;
    let begins = weir.get_args().position(|argument| argument == binary);
    command.args(["--bounding-set", "-net_raw", "--"]);
    command.args(weir.get_args().skip(begins.context("no weir in there")?));
    Ok(command)
}
