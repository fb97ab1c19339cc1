//! A network that loses packets, and servers that close connections when they like: no request is read
//! twice.
//!
//! netem is in few kernels. A classic BPF filter that drops at random needs `cls_bpf` alone.

use std::{
    collections::HashSet,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Result, ensure};
use socket2::SockRef;
use weir_tests::{Lab, netns::Netns, process::run, weir::Exec};

use super::place::{PORT, VIP, add_addresses, address, lab_with_vip, service};

/// Of a hundred packets, each way.
const LOSS: u64 = 3;
const SERVERS: usize = 2;
const CLIENTS: usize = 8;
const REQUESTS: usize = 60;
/// Bytes of the number in a request.
const DIGITS: usize = 8;

/// A server that closes connections when they have been idle for a moment; ends on drop.
struct Restless {
    stop: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

/// The numbers of requests, as servers have read them.
type Numbers = Arc<Mutex<Vec<String>>>;

// === impl Restless ===

impl Restless {
    fn start(lab: &Lab, ip: &str, numbers: &Numbers) -> Result<Self> {
        let address = SocketAddr::new(ip.parse()?, PORT);
        let listener = lab.server.enter(|| TcpListener::bind(address))??;
        SockRef::from(&listener).set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, numbers) = (Arc::clone(&stop), Arc::clone(numbers));
        let accepting = std::thread::spawn(move || {
            while !stopped.load(Relaxed) {
                let Ok((stream, _)) = listener.accept() else { continue };
                let numbers = Arc::clone(&numbers);
                // A client that goes away is no failure of a server.
                std::thread::spawn(move || serve(stream, &numbers));
            }
        });
        Ok(Self { stop, accepting: Some(accepting) })
    }
}

impl Drop for Restless {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(accepting) = self.accepting.take() {
            let _ended = accepting.join();
        }
    }
}

// === helpers ===

fn serve(mut stream: TcpStream, numbers: &Numbers) -> std::io::Result<()> {
    let (mut request, mut part) = (Vec::new(), [0; 1000]);
    loop {
        let read = stream.read(&mut part)?;
        if read == 0 {
            return Ok(());
        }
        request.extend_from_slice(&part[..read]);
        let end = request.windows(4).position(|it| it == b"\r\n\r\n").map(|it| it + 4);
        let Some(number) = end.and_then(|end| request.get(end..end + DIGITS)) else { continue };
        let number = String::from_utf8_lossy(number).into_owned();
        let moment = number.bytes().map(u64::from).sum::<u64>();
        numbers.lock().expect("no test thread panics with it").push(number);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        request.clear();
        // The end of this time ends the connection.
        stream.set_read_timeout(Some(Duration::from_millis(1 + moment % 20)))?;
    }
}

/// Drops packets on their way into a namespace.
fn lose(netns: &Netns) -> Result<()> {
    // A random word (SKF_AD_RANDOM, linux/filter.h), then TC_ACT_SHOT or TC_ACT_OK.
    let least = (1_u64 << 32) * (100 - LOSS) / 100;
    let program = format!("4,32 0 0 4294963256,53 0 1 {least},6 0 0 2,6 0 0 0");
    let clsact: &[&str] = &["qdisc", "add", "dev", "eth0", "clsact"];
    let filter: &[&str] =
        &["filter", "add", "dev", "eth0", "ingress", "bpf", "da", "bytecode", &program];
    for arguments in [clsact, filter] {
        run(netns.command("tc").args(arguments), Duration::from_secs(10))?.ok()?;
    }
    Ok(())
}

/// Each client has a connection, and another one when that is lost; says how many were answered.
fn program() -> String {
    format!(
        "import random, socket, threading, time\n\
         answered = []\n\
         def client(number):\n    \
             c = None\n    \
             for request in range({REQUESTS}):\n        \
                 try:\n            \
                     if c is None: c = socket.create_connection(('{VIP}', {PORT}), timeout=60)\n            \
                     c.sendall(b'POST / HTTP/1.1\\r\\nHost: shop\\r\\nContent-Length: {DIGITS}\\r\\n\\r\\n%0{DIGITS}d' % (number * {REQUESTS} + request))\n            \
                     answer = b''\n            \
                     while not answer.endswith(b'\\r\\n\\r\\n'):\n                \
                         part = c.recv(100)\n                \
                         if not part: raise OSError('closed')\n                \
                         answer += part\n            \
                     answered.append(1)\n        \
                 except OSError: c = None\n        \
                 time.sleep(random.random() * 0.01)\n\
         clients = [threading.Thread(target=client, args=[it]) for it in range({CLIENTS})]\n\
         for it in clients: it.start()\n\
         for it in clients: it.join()\n\
         print(len(answered))\n"
    )
}

#[test]
fn no_request_is_read_twice_where_packets_are_lost_and_connections_closed() -> Result<()> {
    let lab = lab_with_vip()?;
    add_addresses(&lab, SERVERS)?;
    let numbers = Numbers::default();
    // A lost SYN takes an endpoint out, and without one requests go to the service's own address.
    let addresses = (0..SERVERS).map(address).chain([VIP.to_owned()]);
    let start = |ip: String| Restless::start(&lab, &ip, &numbers);
    let _servers = addresses.map(start).collect::<Result<Vec<_>>>()?;
    lose(&lab.client)?;
    lose(&lab.server)?;
    let flag = service((0..SERVERS).map(address));
    let exec = Exec::without_timer(&lab).flags(&["--balance", "requests", "--service", &flag]);
    let observed = exec.limit(Duration::from_secs(300)).python(&program())?;
    let answered: usize = observed.stdout().trim().parse()?;
    let read = numbers.lock().expect("no test thread panics with it");
    let different: HashSet<_> = read.iter().collect();
    println!("{answered} of {} answered, {} read", CLIENTS * REQUESTS, read.len());
    ensure!(different.len() == read.len(), "{} were read twice", read.len() - different.len());
    ensure!(answered * 10 >= CLIENTS * REQUESTS * 8, "{answered} were answered");
    Ok(())
}
