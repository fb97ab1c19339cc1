//! What balancing by request costs: the processor time of a request, over three endpoints, beside that of
//! weir's own balancing by connection and of HAProxy (leastconn) in front of the same three.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weir_tests::netns::ip;
use weir_tests::process::{Process, run, wait_until};

use super::super::control::Weir;
use super::super::ground::Place;
use super::super::report::median;
use super::super::usage::cpu;
use super::Args;

/// Where nginx answers, three times.
const SERVERS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 88, 0, 21), Ipv4Addr::new(10, 88, 0, 22), Ipv4Addr::new(10, 88, 0, 23)];
/// Where HAProxy listens.
const PROXY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 24);
/// The service whose connections are balanced, and the one whose requests are.
const SERVICES: [(Ipv4Addr, &str); 2] =
    [(Ipv4Addr::new(10, 88, 0, 25), "connections"), (Ipv4Addr::new(10, 88, 0, 26), "requests")];
const HTTP1: u16 = 8801;
const HTTP2: u16 = 8802;

/// A client that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// One kind of traffic.
struct Cell {
    name: &'static str,
    port: u16,
    path: &'static str,
    clients: usize,
    streams: usize,
    requests: usize,
    /// By request by connection, and by HAProxy's; bars of issue 16.
    bars: [Option<f64>; 2],
}

const CELLS: [Cell; 5] = [
    Cell::new("HTTP/2, 50 connections with 10 streams", HTTP2, 50, 10, [Some(1.0), Some(0.6)]),
    Cell::new("HTTP/2, 50 connections with 1 stream", HTTP2, 50, 1, [None, Some(1.0)]),
    Cell {
        path: "/64k",
        requests: 4000,
        ..Cell::new("HTTP/2, 64 KiB", HTTP2, 50, 10, [None, Some(0.35)])
    },
    Cell { requests: 5000, ..Cell::new("HTTP/2, 1 connection", HTTP2, 1, 1, [Some(1.1), None]) },
    Cell::new("HTTP/1, 50 connections", HTTP1, 50, 1, [Some(1.15), Some(0.9)]),
];

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ByConnection,
    ByRequest,
    Haproxy,
}

// === impl Cell ===

impl Cell {
    const fn new(
        name: &'static str,
        port: u16,
        clients: usize,
        streams: usize,
        bars: [Option<f64>; 2],
    ) -> Self {
        Self { name, port, path: "/1k", clients, streams, requests: 20_000, bars }
    }
}

// === impl Way ===

impl Way {
    const ALL: [Self; 3] = [Self::ByConnection, Self::ByRequest, Self::Haproxy];

    const fn address(self) -> Ipv4Addr {
        match self {
            Self::ByConnection => SERVICES[0].0,
            Self::ByRequest => SERVICES[1].0,
            Self::Haproxy => PROXY,
        }
    }
}

/// All cells, interleaved.
pub(super) fn measure(text: &mut String, instance: &str, args: &Args) -> Result<()> {
    let place = Place::new(0)?;
    for address in SERVERS.into_iter().chain([PROXY]) {
        ip(&["-n", place.netns.name(), "addr", "add", &format!("{address}/32"), "dev", "lo"])?;
    }
    let files = tempfile::tempdir()?;
    let _nginx = start(&place, "nginx", &["-c"], &nginx(files.path())?, HTTP1, SERVERS[0])?;
    let haproxy =
        start(&place, "haproxy", &["-db", "-q", "-f"], &haproxy(files.path())?, HTTP1, PROXY)?;
    let objects = files.path().join("objects");
    std::fs::create_dir(&objects)?;
    std::fs::write(objects.join("services.json"), services().to_string())?;
    let flags =
        ["--objects-dir", &objects.display().to_string(), "--workers", "1"].map(str::to_owned);
    let (weir, _) = Weir::start_with(instance, files.path(), 0, &flags)?;
    weir.add(&place)?;
    for cell in CELLS {
        let mut spent = [const { Vec::new() }; Way::ALL.len()];
        // The first round fills caches.
        for round in 0..=args.rounds.div_ceil(4) {
            for turn in 0..Way::ALL.len() {
                let which = (round + turn) % Way::ALL.len();
                let way = Way::ALL[which];
                let pid = if way == Way::Haproxy { haproxy.pid() } else { weir.pid() };
                let before = cpu(pid)?;
                load(&place, &cell, way)?;
                let took = cpu(pid)?.saturating_sub(before);
                if round > 0 {
                    spent[which].push(took.as_secs_f64() * 1e6 / cell.requests as f64);
                }
            }
        }
        report(text, &cell, &spent)?;
    }
    let proxied = weir.proxied(&place.name)?;
    ensure!(proxied > 0, "nothing was captured");
    weir.remove(&place)?;
    weir.stop()?;
    Ok(())
}

fn report(text: &mut String, cell: &Cell, spent: &[Vec<f64>; Way::ALL.len()]) -> Result<()> {
    let [connection, request, haproxy] = spent.clone().map(median);
    let ratio = |to: usize| {
        let ratios = spent[1].iter().zip(&spent[to]).map(|(request, other)| request / other);
        median(ratios.collect())
    };
    let bar = |bar: Option<f64>| bar.map_or_else(String::new, |bar| format!(" (bar {bar})"));
    writeln!(
        text,
        "{}: {request:.1} us of processor time a request; {:.2} of by connection, {connection:.1}{}; \
         {:.2} of HAProxy, {haproxy:.1}{}",
        cell.name,
        ratio(0),
        bar(cell.bars[0]),
        ratio(2),
        bar(cell.bars[1]),
    )?;
    Ok(())
}

/// As many requests as the cell has, each of which has to be answered.
fn load(place: &Place, cell: &Cell, way: Way) -> Result<()> {
    let mut command = place.netns.command("h2load");
    command.args(["-n", &cell.requests.to_string(), "-c", &cell.clients.to_string()]);
    command.args(["-m", &cell.streams.to_string()]);
    if cell.port == HTTP1 {
        command.arg("--h1");
    }
    command.arg(format!("http://{}:{}{}", way.address(), cell.port, cell.path));
    // HAProxy's clients are not captured.
    let mut command = if way == Way::Haproxy { command } else { place.cgroup.wrap(&command) };
    let said = run(&mut command, LIMIT)?.ok().context("h2load")?.stdout;
    let all = format!("{} succeeded, 0 failed", cell.requests);
    ensure!(said.contains(&all), "{}: {said}", cell.name);
    Ok(())
}

fn start(
    place: &Place,
    name: &str,
    flags: &[&str],
    file: &Path,
    port: u16,
    address: Ipv4Addr,
) -> Result<Process> {
    let dir = file.parent().context("a file in a directory")?;
    let mut command = place.netns.command(name);
    command.args(flags).arg(file);
    let process = Process::start(name, command, dir)?;
    wait_until("a server to listen", Duration::from_secs(30), || {
        let address = SocketAddr::from((address, port));
        Ok(place.netns.enter(|| std::net::TcpStream::connect(address))?.is_ok())
    })?;
    Ok(process)
}

fn nginx(dir: &Path) -> Result<std::path::PathBuf> {
    for (name, size) in [("1k", 1 << 10), ("64k", 64 << 10)] {
        std::fs::write(dir.join(name), vec![b'x'; size])?;
    }
    let path = dir.display();
    let listen = |port: u16, protocol: &str| {
        let each = SERVERS.iter().map(|server| format!("listen {server}:{port}{protocol};"));
        each.collect::<String>()
    };
    let (http1, http2) = (listen(HTTP1, ""), listen(HTTP2, " http2"));
    let text = format!(
        "daemon off; master_process off; worker_processes 1; user root; pid {path}/nginx.pid;\n\
         error_log stderr error;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; http2_max_concurrent_streams 512;\n\
         client_body_temp_path {path}/body; proxy_temp_path {path}/proxy;\n\
         fastcgi_temp_path {path}/fastcgi; uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;\n\
         open_file_cache max=10; root {path};\n\
         server {{ {http1} }} server {{ {http2} }} }}\n"
    );
    let file = dir.join("nginx.conf");
    std::fs::write(&file, text)?;
    Ok(file)
}

fn haproxy(dir: &Path) -> Result<std::path::PathBuf> {
    let mut text = String::from(
        "global\n maxconn 4096\n nbthread 1\ndefaults\n mode http\n balance leastconn\n \
         option http-keep-alive\n http-reuse always\n timeout connect 5s\n timeout client 600s\n \
         timeout server 600s\n",
    );
    for (port, protocol) in [(HTTP1, ""), (HTTP2, " proto h2")] {
        writeln!(text, "listen p{port}\n bind {PROXY}:{port}{protocol}")?;
        for (number, server) in SERVERS.iter().enumerate() {
            writeln!(text, " server s{number} {server}:{port}{protocol}")?;
        }
    }
    let file = dir.join("haproxy.cfg");
    std::fs::write(&file, text)?;
    Ok(file)
}

/// Both services, with both ports, as Kubernetes has them.
fn services() -> Value {
    let ports =
        [("h1", HTTP1), ("h2", HTTP2)].map(|(name, port)| json!({"name": name, "port": port}));
    let objects = SERVICES.iter().flat_map(|(vip, mode)| {
        let name = format!("by-{mode}");
        let service = json!({
            "kind": "Service",
            "metadata": {"name": name, "annotations": {"config.weir.dev/balance": mode}},
            "spec": {"clusterIP": vip.to_string(), "ports": ports},
        });
        let endpoints: Vec<_> =
            SERVERS.iter().map(|server| json!({"addresses": [server.to_string()]})).collect();
        let slice = json!({
            "kind": "EndpointSlice", "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        });
        [service, slice]
    });
    json!({"kind": "List", "items": objects.collect::<Vec<_>>()})
}
