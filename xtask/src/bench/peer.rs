//! Both ends of the measured connections, as processes of their own: a client is in a workload's
//! cgroup or it is not, and a thread can't be in another one than its process.

use std::io::{BufRead, BufReader, Read, Write, stdin, stdout};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// What goes to and fro on each connection.
const BYTES: usize = 64;

/// One that lasts longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// The next connection must not wait until the last one is closed.
const ACCEPTORS: usize = 4;

/// Flags of the hidden subcommand.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Serve instead of connecting
    #[arg(long)]
    serve: bool,
    /// Where
    address: SocketAddr,
}

pub(super) fn run(args: &Args) -> Result<()> {
    if args.serve { serve(args.address) } else { visit(args.address) }
}

/// A client or server process; killed when dropped.
pub(super) struct Peer {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

// === impl Peer ===

impl Peer {
    /// The command line of a server or client.
    ///
    /// # Errors
    ///
    /// Fails when this program has no path any more.
    pub(super) fn arguments(serve: bool, address: SocketAddr) -> Result<Vec<String>> {
        let this = std::env::current_exe()?.to_string_lossy().into_owned();
        let mut words = vec![this, "bench".into(), "peer".into()];
        words.extend(serve.then(|| "--serve".into()));
        words.push(address.to_string());
        Ok(words)
    }

    /// Starts one and waits until it is ready.
    ///
    /// # Errors
    ///
    /// Fails when it does not start.
    pub(super) fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let stdin = child.stdin.take().context("stdin was asked for")?;
        let stdout = BufReader::new(child.stdout.take().context("stdout was asked for")?);
        let mut peer = Self { child, stdin, stdout };
        let line = peer.line()?;
        ensure!(line == "ready", "{command:?} says {line:?}");
        Ok(peer)
    }

    /// Connects so many times, one after the other. Returns what each took, in microseconds from
    /// connect(2) to the end of the echo.
    ///
    /// # Errors
    ///
    /// Fails when a connection does.
    pub(super) fn visit(&mut self, times: usize) -> Result<Vec<f64>> {
        writeln!(self.stdin, "{times}")?;
        let line = self.line()?;
        let took: Result<Vec<f64>, _> = line.split_whitespace().map(str::parse).collect();
        let took = took.with_context(|| format!("a client says {line:?}"))?;
        ensure!(took.len() == times, "{} connections instead of {times}", took.len());
        Ok(took)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        ensure!(line.ends_with('\n'), "a peer of the measurement ended; its message is above");
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}

// === the processes ===

fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot serve {address}"))?;
    for _ in 0..ACCEPTORS {
        let listener = listener.try_clone()?;
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let _client_sees_it = echo(stream);
            }
        });
    }
    println!("ready");
    // Until the bench has gone.
    stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; BYTES];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}

fn visit(address: SocketAddr) -> Result<()> {
    println!("ready");
    for line in stdin().lines() {
        let times: usize = line?.trim().parse()?;
        let took: Result<Vec<String>> = (0..times).map(|_| once(address)).collect();
        println!("{}", took?.join(" "));
        stdout().flush()?;
    }
    Ok(())
}

/// One connection: a beginning that is no protocol's, so that raw TCP is decided at once.
fn once(address: SocketAddr) -> Result<String> {
    let sent = [b'\x01'; BYTES];
    let mut received = [0; BYTES];
    let begin = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&sent)?;
    stream.read_exact(&mut received)?;
    let took = begin.elapsed();
    ensure!(sent == received, "the echo is another");
    Ok(format!("{:.1}", took.as_secs_f64() * 1e6))
}
