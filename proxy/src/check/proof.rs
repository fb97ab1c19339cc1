//! The interception proof of `weir check`: a throw-away workload whose one connection is really
//! captured, so that "it works here" is seen and not inferred.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use weir_common::{Reason, WorkloadConfig, flags};

use crate::capture::{
    AcceptedFrom, AttachOptions, CaptureError, Captured, Instance, InstanceOptions, Listeners,
    Netns, Originals, WorkloadMaps,
};
use crate::host::cgroup::Transient;

/// Never the id of a real workload.
const PROOF_WORKLOAD: u32 = u32::MAX - 1;
const PATIENCE: Duration = Duration::from_secs(5);
/// A literal that the connecting child recognises; see [`child`].
pub const CHILD_VARIABLE: &str = "WEIR_PROOF_CONNECT";

/// What the proof saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Where the child asked to connect to.
    pub asked: SocketAddr,
    /// What the kernel told the proxy.
    pub captured: Captured,
}

/// Runs the proof with a child process of this same binary.
///
/// # Errors
/// Whatever kept the connection from being captured.
pub fn run() -> Result<Proof, CaptureError> {
    let instance = Arc::new(Instance::open(&InstanceOptions::default())?);
    let netns = Netns::own()?;
    let kernel = WorkloadMaps::new(Arc::clone(&instance), PROOF_WORKLOAD, true);
    kernel.flags.configure(WorkloadConfig {
        flags: flags::CAPTURE_LOOPBACK,
        ..WorkloadConfig::default()
    })?;
    let listeners = Listeners::open(&kernel, &netns)?;
    let originals = Originals::new(&instance)?;
    listeners.offer()?;
    let cgroup = Transient::create(&format!("weir-check-{}", std::process::id()))?;
    kernel.attach(cgroup.path(), AttachOptions::default(), |_| Ok(()))?;

    // Nothing ever connects to it: a captured connection ends at the proxy's listener.
    let io = |action| move |source| CaptureError::Socket { action, source, hint: "" };
    let target = TcpListener::bind("127.0.0.1:0").map_err(io("listen on 127.0.0.1"))?;
    let asked = target.local_addr().map_err(io("read a local address"))?;
    let mut child = spawn_child(&cgroup, asked)?;
    let result = accept(&kernel, &listeners, &originals, netns.cookie(), asked);
    let _ = child.kill();
    let _ = child.wait();
    result
}

/// To be called first thing in `main`: plays the connecting child where the parent asks for it,
/// and then does not return.
pub fn child() {
    let Ok(target) = std::env::var(CHILD_VARIABLE) else { return };
    let done = target.parse::<SocketAddr>().ok().and_then(|address| {
        let mut stream = std::net::TcpStream::connect_timeout(&address, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(b"weir").ok()?;
        stream.read(&mut [0; 1]).ok()
    });
    std::process::exit(i32::from(done.is_none()));
}

// === helpers ===

fn spawn_child(
    cgroup: &Transient,
    target: SocketAddr,
) -> Result<std::process::Child, CaptureError> {
    let mut command = Command::new("/proc/self/exe");
    command
        .env(CHILD_VARIABLE, target.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    cgroup.enter(&mut command)?;
    command.spawn().map_err(|source| CaptureError::Socket {
        action: "start the proof's child process",
        source,
        hint: "",
    })
}

fn accept(
    kernel: &WorkloadMaps,
    listeners: &Listeners,
    originals: &Originals,
    netns_cookie: u64,
    asked: SocketAddr,
) -> Result<Proof, CaptureError> {
    let io = |action| move |source| CaptureError::Socket { action, source, hint: "" };
    let sockets = listeners.sockets().map_err(io("duplicate a listener"))?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        for socket in &sockets {
            match socket.socket.accept() {
                Ok((stream, peer)) => {
                    let workload = kernel.workload();
                    let from = AcceptedFrom { workload, netns_cookie };
                    if let Some(captured) = originals.take(&stream, from, peer)? {
                        return Ok(Proof { asked, captured });
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(io("accept the proof's connection")(error)),
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let seen: Vec<&str> = kernel
        .counters
        .all()
        .into_iter()
        .map(|(_, reason, _)| reason)
        .filter(|reason| *reason != Reason::NotTcp)
        .map(Reason::name)
        .collect();
    Err(CaptureError::Socket {
        action: "see the proof's connection",
        source: std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            format!("the connection was not redirected within {} s", PATIENCE.as_secs()),
        ),
        hint: if seen.is_empty() {
            "; the connect hook did not run: check whether another program detaches it"
        } else {
            "; the connect hook did not capture it: see the counters in `weir status`"
        },
    })
}
