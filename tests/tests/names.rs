//! getsockname(2) and getpeername(2) of a captured connection say what they say of a direct one: also
//! where the kernel chooses among several source addresses, for MPTCP sockets, and for a socket that is
//! used more than once.

use anyhow::Result;
use weir_tests::Lab;
use weir_tests::fixture::PYTHON;
use weir_tests::lab::{SERVER_V4, SERVER_V6};
use weir_tests::netns::{Netns, ip};
use weir_tests::peer::Peer;
use weir_tests::process::run;
use weir_tests::site::PATIENCE;
use weir_tests::weir::Exec;

/// `called(host, port, kind)` connects, and says what the socket and the server say.
const CLIENT: &str = "
import socket, errno
def names(s):
    try: return s.getsockname()[0], s.getpeername()[:2]
    except OSError as error: return s.getsockname()[0], errno.errorcode[error.errno]
def told(s):
    line = b''
    while part := s.recv(100): line += part
    return line.split()[0].decode()
def called(host, port, protocol=0):
    s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_STREAM, protocol)
    s.settimeout(20); s.connect((host, port))
    return names(s), told(s)
";

/// Runs a program directly and through weir: both must print the same, and something.
fn compare(lab: &Lab, program: &str) -> Result<String> {
    let program = format!("{CLIENT}\n{program}");
    let direct = run(lab.client.command(PYTHON).args(["-c", &program]), PATIENCE)?.ok()?;
    let through = Exec::new(lab).python(&program)?;
    assert_eq!(through.stdout(), direct.stdout.trim());
    assert!(!through.stdout().is_empty());
    // Not because it went direct.
    through.records.assert_server_first(9000);
    Ok(direct.stdout)
}

fn in_netns(netns: &Netns, line: &str) -> Result<()> {
    let words: Vec<&str> = ["-n", netns.name()].into_iter().chain(line.split(' ')).collect();
    ip(&words).map(drop)
}

/// The kernel chooses by the destination (RFC 6724, section 5), or by a rule: no table of prefixes has
/// that.
#[test]
fn the_source_is_the_one_that_the_kernel_has_chosen() -> Result<()> {
    const UNIQUE_LOCAL: &str = "fd99::5";
    const GLOBAL: &str = "2001:db8:99::5";
    const ELSEWHERE: &str = "10.99.0.5";
    let lab = Lab::new()?;
    let _peer = Peer::whoami(&lab.server, 9000)?;
    for address in [&format!("{UNIQUE_LOCAL}/128"), &format!("{GLOBAL}/128")] {
        in_netns(&lab.server, &format!("addr add {address} dev lo nodad"))?;
    }
    in_netns(&lab.server, &format!("addr add {ELSEWHERE}/32 dev lo"))?;
    in_netns(&lab.server, "route add 2001:db8:77::/64 via fd77::1")?;
    in_netns(&lab.server, "route add 10.77.9.0/24 via 10.77.0.1")?;
    in_netns(&lab.client, "addr add 2001:db8:77::1/64 dev eth0 nodad")?;
    // One prefix for both, as a default route is.
    in_netns(&lab.client, &format!("route add default via {SERVER_V6}"))?;
    let hosts = format!("for host in ('{UNIQUE_LOCAL}', '{GLOBAL}'): print(called(host, 9000))");
    let said = compare(&lab, &hosts)?;
    assert!(said.contains("'fd77::1'") && said.contains("'2001:db8:77::1'"), "{said}");

    in_netns(&lab.client, "addr add 10.77.9.1/24 dev lo")?;
    in_netns(&lab.client, &format!("rule add to {ELSEWHERE} lookup 100"))?;
    in_netns(
        &lab.client,
        &format!("route add {ELSEWHERE} via {SERVER_V4} src 10.77.9.1 table 100"),
    )?;
    let said = compare(&lab, &format!("print(called('{ELSEWHERE}', 9000))"))?;
    assert!(said.contains("'10.77.9.1'"), "{said}");
    Ok(())
}

/// The hooks see the TCP socket below, and are asked about the one above.
#[test]
fn an_mptcp_socket_has_the_names_of_its_connection() -> Result<()> {
    let lab = Lab::new()?;
    let _peer = Peer::whoami(&lab.server, 9000)?;
    let said = compare(
        &lab,
        &format!(
            "try: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\n\
             except OSError: print('no MPTCP', called('{SERVER_V4}', 9000))\n\
             else:\n\
             \x20   for host in ('{SERVER_V4}', '{SERVER_V6}'): print(called(host, 9000, 262))"
        ),
    )?;
    if said.contains("no MPTCP") {
        println!("not shown: this kernel or Python has no MPTCP");
    }
    Ok(())
}

/// After connect(2) with `AF_UNSPEC` it has no names, whatever it had before; then it can be
/// connected anew.
#[test]
fn a_socket_that_is_used_again_forgets_its_names() -> Result<()> {
    let lab = Lab::new()?;
    let _peers = [Peer::whoami(&lab.server, 9000)?, Peer::whoami(&lab.server, 9001)?];
    compare(
        &lab,
        &format!(
            "import ctypes\n\
             libc = ctypes.CDLL(None, use_errno=True)\n\
             def unspec(s): assert libc.connect(s.fileno(), (ctypes.c_char * 16)(), 16) == 0\n\
             s = socket.socket(); s.settimeout(20)\n\
             for port in (9000, 9001, 9000):\n\
             \x20   s.connect(('{SERVER_V4}', port)); print(names(s), told(s)); unspec(s); print(names(s))\n\
             s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
             s.bind(('127.0.0.1', 0)); s.listen(5); print(names(s))\n\
             c = socket.create_connection(s.getsockname(), 20); a, _ = s.accept()\n\
             print(names(a)[0], c.getpeername() == s.getsockname())"
        ),
    )?;
    Ok(())
}
