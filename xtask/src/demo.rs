//! `cargo xtask demo`: weir's main job on real programs, told as a short story. Servers and clients
//! live in two network namespaces that are taken away at the end, however it comes.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use weir_tests::Lab;
use weir_tests::cgroup::Cgroup;
use weir_tests::daemon::Run;
use weir_tests::lab::{CLIENT_V4, SERVER_V4};
use weir_tests::peer::Peer;
use weir_tests::process::{Process, run as run_command};
use weir_tests::servers::{grpc, mariadb, nginx, redis, smtp};
use weir_tests::visits::{Outcome, Visitor, Visits, now};
use weir_tests::weir::{Daemon, Exec};

use crate::setup::{Purpose, setup};
use crate::{scope, test};

/// What one client may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Longer than one visit takes.
const UNDER_WAY: Duration = Duration::from_millis(200);

/// Port of a server that only says who is connected.
const WHOAMI: u16 = 9000;

pub(crate) fn run(root: &Path) -> Result<()> {
    if scope::is_inner() {
        scope::accept_interrupts()?;
        return story();
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the demo makes network namespaces and a cgroup and loads BPF programs: run as root \
         (sudo -E env PATH=\"$PATH\" cargo xtask demo)"
    );
    setup(Purpose::Demo)?;
    test::cargo(root, &["build", "--release", "--package", "weir"], &[])?;
    // The harness takes the newest release build unless told otherwise.
    let ended = scope::enclose("demo")?;
    if !ended.status.success() {
        std::process::exit(ended.code());
    }
    ensure!(ended.leftovers.is_empty(), "left behind, and removed: {}", ended.leftovers.join(", "));
    println!("\nEverything is taken away again: no process, namespace, cgroup or pin is left.");
    Ok(())
}

fn story() -> Result<()> {
    let lab = Lab::new()?;
    println!("Starting nginx, MariaDB, Redis, OpenSMTPD and a gRPC service at {SERVER_V4} …");
    let servers = Servers::start(&lab)?;
    one_command(&lab)?;
    a_port_is_skipped(&lab)?;
    weir_is_killed(&lab)?;
    weir_is_replaced(&lab)?;
    drop(servers);
    a_server_is_captured(&lab)?;
    Ok(())
}

/// They run as long as this lives.
struct Servers {
    _nginx: nginx::Nginx,
    _others: Vec<Process>,
}

// === impl Servers ===

impl Servers {
    fn start(lab: &Lab) -> Result<Self> {
        let others = vec![
            mariadb::start(lab, mariadb::PORT)?,
            redis::start(lab)?,
            smtp::start(lab)?,
            grpc::start(lab)?,
        ];
        Ok(Self { _nginx: nginx::Nginx::start(lab)?, _others: others })
    }
}

// === Chapter 1 ===

/// Every client under one `weir exec`, so that they share the table at its end.
fn one_command(lab: &Lab) -> Result<()> {
    chapter(
        "1. Watch one command",
        "Nothing is declared: MariaDB and SMTP, whose servers speak first, are on ports of their \
         own. weir finds out what each connection speaks.",
    );
    let script = lab.dir().join("clients.sh");
    std::fs::write(&script, clients())?;
    println!("$ weir exec -- sh clients.sh");
    let seen = Exec::new(lab)
        .flags(&["--detect-timeout", "1h"])
        .ok(&["sh".as_ref(), script.as_os_str()])?;
    indent(&seen.finished.stdout);
    println!("{}", seen.finished.stderr.trim_end());
    Ok(())
}

/// The clients as a shell script that says what it does.
fn clients() -> String {
    let web = format!("http://{SERVER_V4}:{}", nginx::HTTP1);
    let web2 = format!("http://{SERVER_V4}:{}", nginx::H2C);
    let words = |line: &[&str]| line.iter().map(ToString::to_string).collect::<Vec<_>>();
    let sql = "SELECT COUNT(*) AS orders FROM shop.orders";
    let call = grpc::client(SERVER_V4, "all");
    let call = call.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let lines: Vec<(Vec<String>, &str)> = vec![
        (words(&["curl", "-s", &format!("{web}/hello.txt")]), ""),
        (words(&["curl", "-s", &format!("{web}/missing")]), ""),
        (words(&["nghttp", "--no-dep", &format!("{web2}/hello.txt")]), ""),
        (
            words(&["h2load", "-n", "2000", "-c", "4", "-m", "10", &format!("{web2}/hello.txt")]),
            "grep ^requests:",
        ),
        (mariadb::client(SERVER_V4, mariadb::PORT, sql), ""),
        (redis::client(SERVER_V4, &["INCR", "visits"]), ""),
        (smtp::client(SERVER_V4), "grep 'accepted'"),
        (call, ""),
    ];
    let mut script = String::from("set -e\n");
    for (line, filter) in lines {
        let quoted: Vec<String> = line.iter().map(|word| quote(word)).collect();
        let filter = if filter.is_empty() { String::new() } else { format!(" | {filter}") };
        let shown = quoted.join(" ");
        let _always_fits =
            writeln!(script, "echo {}\n{shown}{filter}", quote(&format!("$ {shown}")));
    }
    script
}

// === Chapter 2 ===

fn a_port_is_skipped(lab: &Lab) -> Result<()> {
    chapter(
        "2. Skip a port while it is in use",
        "weir now captures a whole cgroup. MariaDB tells which client address and port it sees; \
         `ss` tells the client's own. After `weir ports skip` they are the same: the kernel lets \
         new connections pass, and weir never sees them.",
    );
    let cgroup = Cgroup::new("shop")?;
    let daemon = Daemon::start(lab, &cgroup, &[])?;
    println!("$ weir run --cgroup {} &", cgroup.path().display());
    query_ten_times(lab, &cgroup, false)?;
    show(lab, &daemon, &["ports", "skip", "4406", "--outbound"])?;
    query_ten_times(lab, &cgroup, true)?;
    show(lab, &daemon, &["explain", &format!("{SERVER_V4}:{}", mariadb::PORT)])?;
    show(lab, &daemon, &["explain", &format!("{SERVER_V4}:{}", nginx::HTTP1)])?;
    show(lab, &daemon, &["ports", "list"])?;
    let load = format!("http://{SERVER_V4}:{}/hello.txt", nginx::HTTP1);
    let mut client = lab.client.command("h2load");
    client.args(["--h1", "-n", "5000", "-c", "10", &load]);
    run_command(&mut cgroup.wrap(&client), LIMIT)?.ok()?;
    println!("h2load has made 5000 requests in the cgroup.");
    show(lab, &daemon, &["stat"])
}

fn query_ten_times(lab: &Lab, cgroup: &Cgroup, direct: bool) -> Result<()> {
    let line = mariadb::whoami(SERVER_V4, mariadb::PORT);
    let mut same = 0;
    for _ in 0..10 {
        let mut command = lab.client.command(&line[0]);
        command.args(&line[1..]);
        let answer = run_command(&mut cgroup.wrap(&command), LIMIT)?.ok()?;
        same += usize::from(mariadb::saw_own_port(&answer.stdout)?);
    }
    let way = if direct { "direct" } else { "through weir" };
    println!(
        "  10 queries: MariaDB saw the client's own address and port in {same} of them ({way})"
    );
    ensure!(same == if direct { 10 } else { 0 }, "10 queries {way} expected, {same} were direct");
    Ok(())
}

// === Chapter 3 ===

fn weir_is_killed(lab: &Lab) -> Result<()> {
    chapter(
        "3. Kill weir",
        "A client connects a hundred times a second. weir is killed with kill -9 and started again.",
    );
    let cgroup = Cgroup::new("kill")?;
    let _peer = Peer::whoami(&lab.server, WHOAMI)?;
    let mut daemon = Daemon::start(lab, &cgroup, &[])?;
    let mut visitor = Visitor::start(lab, &cgroup, WHOAMI, Duration::from_secs(4))?;
    visitor.wait_for(80)?;
    // A connection that is under way when weir dies dies with it, as it would in any proxy.
    std::thread::sleep(UNDER_WAY);
    let alive = now()? - u64::try_from(UNDER_WAY.as_nanos())?;
    daemon.process.kill_hard()?;
    let dead = now()?;
    visitor.wait_for(200)?;
    let restart = now()?;
    let again = Run::new(&lab.client, lab.dir()).after(&daemon);
    let _again = again.workload("client", &cgroup, None).start()?;
    let captured = now()?;
    let visits = visitor.finish()?;
    tell("before", &visits, 0, alive, &Outcome::Proxied)?;
    tell("after kill -9", &visits, dead, restart, &Outcome::Direct)?;
    tell("after a new start", &visits, captured, u64::MAX, &Outcome::Proxied)
}

// === Chapter 4 ===

fn weir_is_replaced(lab: &Lab) -> Result<()> {
    chapter(
        "4. Replace weir while it works",
        "The same client. A second weir is started over the first one with --upgrade: it takes the \
         listener slots and the programs over, and the first one finishes what it has.",
    );
    let cgroup = Cgroup::new("upgrade")?;
    let _peer = Peer::whoami(&lab.server, WHOAMI)?;
    let mut old = Daemon::start(lab, &cgroup, &[])?;
    let mut visitor = Visitor::start(lab, &cgroup, WHOAMI, Duration::from_secs(4))?;
    visitor.wait_for(80)?;
    let began = now()?;
    let successor = Run::new(&lab.client, lab.dir()).after(&old);
    let _new = successor.workload("client", &cgroup, None).flags(&["--upgrade"]).start()?;
    let status = old.process.wait(LIMIT)?;
    ensure!(status.success(), "the old weir ended with {status}: {}", old.process.log());
    let ended = now()?;
    let visits = visitor.finish()?;
    tell("before", &visits, 0, began, &Outcome::Proxied)?;
    tell("during", &visits, began, ended, &Outcome::Proxied)?;
    tell("afterwards", &visits, ended, u64::MAX, &Outcome::Proxied)
}

// === Chapter 5 ===

fn a_server_is_captured(lab: &Lab) -> Result<()> {
    chapter(
        "5. Capture a server, in another namespace",
        "weir stays where it is and captures what comes in to an nginx in the server's namespace. \
         nginx sees its clients' own addresses all the same, without iptables.",
    );
    let cgroup = Cgroup::new("web")?;
    let server = nginx::Nginx::start_within(lab, Some(&cgroup))?;
    let run = Run::new(&lab.client, lab.dir()).flags(&["--preserve-client-ip"]);
    let daemon = run.workload("web", &cgroup, Some(&lab.server)).start()?;
    println!(
        "$ weir run --cgroup {} --netns {} --preserve-client-ip &",
        cgroup.path().display(),
        lab.server.path().display()
    );
    let url = format!("http://{SERVER_V4}:{}/hello.txt", nginx::HTTP1);
    let mut client = lab.client.command("h2load");
    client.args(["--h1", "-n", "1000", "-c", "10", &url]);
    run_command(&mut client, LIMIT)?.ok()?;
    println!("h2load has made 1000 requests from the client's namespace.");
    show(lab, &daemon, &["stat"])?;
    show(lab, &daemon, &["explain", &format!("{SERVER_V4}:{}", nginx::HTTP1), "--inbound"])?;
    let seen = server.log().lines().filter(|line| line.starts_with(CLIENT_V4)).count();
    println!("nginx has logged {seen} requests from {CLIENT_V4}, the client.");
    ensure!(seen >= 1000, "the client's address is not in nginx's log: {}", server.log());
    Ok(())
}

fn tell(when: &str, visits: &Visits, from: u64, to: u64, expected: &Outcome) -> Result<()> {
    let visits = visits.between(from, to);
    let count = |wanted: fn(&Outcome) -> bool| visits.iter().filter(|v| wanted(&v.outcome)).count();
    let through = count(|outcome| *outcome == Outcome::Proxied);
    let direct = count(|outcome| *outcome == Outcome::Direct);
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    println!("  {when:<18} {through:>4} through weir  {direct:>4} direct  {failed:>4} failed");
    let good = !visits.is_empty() && visits.iter().all(|visit| visit.outcome == *expected);
    ensure!(good, "all connections {when} should have been {expected:?}");
    Ok(())
}

// === helpers ===

fn chapter(title: &str, text: &str) {
    println!("\n{title}\n{}\n", "─".repeat(title.len()));
    let mut line = String::new();
    for word in text.split(' ') {
        if line.len() + word.len() > 90 {
            println!("{}", line.trim_end());
            line.clear();
        }
        line.extend([word, " "]);
    }
    println!("{}\n", line.trim_end());
}

/// Runs a verb against the daemon and shows what it said.
fn show(lab: &Lab, daemon: &Daemon, arguments: &[&str]) -> Result<()> {
    println!("$ weir {}", arguments.join(" "));
    let said = daemon.verb(lab, arguments)?.ok()?;
    print!("{}", said.stderr);
    indent(&said.stdout);
    Ok(())
}

fn indent(text: &str) {
    for line in text.lines() {
        println!("  {line}");
    }
    println!();
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@+,".contains(c);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}
