//! Where services are tested: an application's namespace, and one with many servers.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use socket2::SockRef;
use weir_tests::{Lab, lab::SERVER_V4, netns::ip, weir::Observed};

/// What the application connects to.
pub(crate) const VIP: &str = "10.96.0.10";
/// Every server's port, and the service's.
pub(crate) const PORT: u16 = 8080;
/// Where the servers are.
const NETWORK: &str = "10.77.1";

/// How often a server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// What a server does with a connection.
#[derive(Clone, Copy)]
pub(crate) enum Manner {
    /// Says its name at once.
    Greets,
    /// Answers HTTP/1.1 requests with its name after this time.
    Answers(Duration),
}

/// A server; ends on drop.
pub(crate) struct Backend {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

/// A service whose endpoints are in a file.
pub(crate) struct Objects(PathBuf);

/// What an application has seen.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Connections by the name of the server.
    pub(crate) by_name: BTreeMap<String, usize>,
    /// Errors, by their text.
    pub(crate) failed: BTreeMap<String, usize>,
}

/// The namespaces, with a way from the application to the servers, and none to [`VIP`].
pub(crate) fn lab() -> Result<Lab> {
    let lab = Lab::new()?;
    route(&lab, &format!("{NETWORK}.0/24"))?;
    Ok(lab)
}

/// As [`lab`], where the service's own address is a server's too.
pub(crate) fn lab_with_vip() -> Result<Lab> {
    let lab = lab()?;
    route(&lab, &format!("{VIP}/32"))?;
    add_address(&lab, VIP)?;
    Ok(lab)
}

fn route(lab: &Lab, network: &str) -> Result<()> {
    ip(&["-n", lab.client.name(), "route", "add", network, "via", SERVER_V4])?;
    Ok(())
}

pub(crate) fn add_address(lab: &Lab, address: &str) -> Result<()> {
    let address = format!("{address}/32");
    ip(&["-n", lab.server.name(), "addr", "add", &address, "dev", "lo"])?;
    Ok(())
}

/// The address of a server by its number.
pub(crate) fn address(number: usize) -> String {
    format!("{NETWORK}.{}", number + 1)
}

/// Gives servers their addresses.
pub(crate) fn add_addresses(lab: &Lab, count: usize) -> Result<()> {
    (0..count).try_for_each(|number| add_address(lab, &address(number)))
}

/// So many servers of one manner, each with its address.
pub(crate) fn backends(lab: &Lab, count: usize, manner: Manner) -> Result<Vec<Backend>> {
    add_addresses(lab, count)?;
    (0..count).map(|number| Backend::start(lab, &address(number), manner)).collect()
}

/// A service with these endpoints, as a flag says it.
pub(crate) fn service(endpoints: impl IntoIterator<Item = String>) -> String {
    let endpoints: Vec<_> = endpoints.into_iter().map(|ip| format!("{ip}:{PORT}")).collect();
    format!("shop@{VIP}:{PORT}={}", endpoints.join(","))
}

/// A program that makes so many connections to the service one after the other, holds those that are
/// greeted, and says what it has seen.
pub(crate) fn program(count: usize, manner: Manner) -> String {
    let exchange = match manner {
        Manner::Greets => "    name = s.recv(100)\n    held.append(s)\n",
        Manner::Answers(_) => {
            "    s.sendall(b'GET / HTTP/1.1\\r\\nHost: shop\\r\\nConnection: close\\r\\n\\r\\n')\n    \
             name = b''\n    while part := s.recv(1000): name += part\n    \
             name = name.rpartition(b'\\r\\n\\r\\n')[2]\n    s.close()\n"
        }
    };
    let exchange = exchange.replace("\n    ", "\n        ");
    format!(
        "import collections, json, socket\n\
         names, failed, held = collections.Counter(), collections.Counter(), []\n\
         for _ in range({count}):\n    try:\n        \
         s = socket.create_connection(('{VIP}', {PORT}), timeout=30)\n        \
         assert s.getpeername() == ('{VIP}', {PORT}), s.getpeername()\n    {exchange}        \
         names[name.decode().strip()] += 1\n    \
         except OSError as error: failed[str(error)] += 1\n\
         print(json.dumps([names, failed]))\n"
    )
}

/// What a [`program`] has said.
pub(crate) fn seen(observed: &Observed) -> Result<Seen> {
    seen_in(observed.stdout()).with_context(|| observed.finished.stderr.clone())
}

pub(crate) fn seen_in(text: &str) -> Result<Seen> {
    let (by_name, failed) = serde_json::from_str(text).with_context(|| text.to_owned())?;
    Ok(Seen { by_name, failed })
}

// === impl Objects ===

impl Objects {
    pub(crate) fn new(lab: &Lab, endpoints: &[String]) -> Result<Self> {
        let objects = Self(lab.subdir("objects")?);
        let service = format!(
            "kind: Service\nmetadata: {{name: shop}}\n\
             spec: {{clusterIP: {VIP}, ports: [{{port: {PORT}}}]}}\n"
        );
        std::fs::write(objects.0.join("service.yaml"), service)?;
        objects.set(endpoints)?;
        Ok(objects)
    }

    /// As a whole: a file that is half written is not for others to read.
    pub(crate) fn set(&self, endpoints: &[String]) -> Result<()> {
        let list: Vec<_> = endpoints.iter().map(|ip| format!("{{addresses: ['{ip}']}}")).collect();
        let slice = format!(
            "kind: EndpointSlice\nmetadata: {{name: shop-1, labels: \
             {{kubernetes.io/service-name: shop}}}}\naddressType: IPv4\nports: [{{port: {PORT}}}]\n\
             endpoints: [{}]\n",
            list.join(", ")
        );
        let new = self.0.join(".new");
        std::fs::write(&new, slice)?;
        std::fs::rename(new, self.0.join("slice.yaml"))?;
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

// === impl Seen ===

impl Seen {
    /// # Errors
    /// With what has failed.
    pub(crate) fn none_failed(&self) -> Result<()> {
        ensure!(self.failed.is_empty(), "{self:?}");
        Ok(())
    }

    /// Connections of a server by its number.
    pub(crate) fn of(&self, number: usize) -> usize {
        self.by_name.get(&address(number)).copied().unwrap_or(0)
    }
}

// === impl Backend ===

impl Backend {
    pub(crate) fn start(lab: &Lab, ip: &str, manner: Manner) -> Result<Self> {
        let address = SocketAddr::new(ip.parse()?, PORT);
        let listener = lab.server.enter(|| TcpListener::bind(address))??;
        SockRef::from(&listener).set_read_timeout(Some(LOOK))?;
        let (accepted, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stopped, name) = (Arc::clone(&accepted), Arc::clone(&stop), ip.to_owned());
        let accepting = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else { continue };
                count.fetch_add(1, Ordering::Relaxed);
                let name = name.clone();
                std::thread::spawn(move || serve(stream, &name, manner));
            }
        });
        Ok(Self { address, accepted, stop, accepting: Some(accepting) })
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    pub(crate) fn ip(&self) -> String {
        self.address.ip().to_string()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(accepting) = self.accepting.take() {
            let _ended = accepting.join();
        }
    }
}

/// A client that goes away is no failure of a server.
fn serve(mut stream: TcpStream, name: &str, manner: Manner) {
    let mut head = Vec::new();
    let mut part = [0; 1000];
    if matches!(manner, Manner::Greets) && stream.write_all(format!("{name}\n").as_bytes()).is_err()
    {
        return;
    }
    while let Ok(n @ 1..) = stream.read(&mut part) {
        head.extend_from_slice(&part[..n]);
        if let Manner::Answers(delay) = manner
            && head.ends_with(b"\r\n\r\n")
        {
            std::thread::sleep(delay);
            let length = name.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
            if head.windows(17).any(|it| it == b"Connection: close") {
                return;
            }
            head.clear();
        }
    }
}
