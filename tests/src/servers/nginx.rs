//! nginx: HTTP/1, HTTP/2 without TLS, HTTP/1 over TLS, big files down and up.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::write;
use crate::Lab;
use crate::cgroup::Cgroup;
use crate::process::{Process, run, wait_until};
use crate::site::PATIENCE;

/// HTTP/1.
pub const HTTP1: u16 = 8080;
/// HTTP/2 with prior knowledge; nginx 1.22 speaks nothing else on such a port.
pub const H2C: u16 = 8081;
/// HTTP/1 and HTTP/2 over TLS, with a self-signed certificate.
pub const TLS: u16 = 8443;
/// What answers uploads: the last that it listens on.
const LAST: u16 = 8079;

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    root: PathBuf,
    uploads: PathBuf,
}

// === impl Nginx ===

impl Nginx {
    /// Starts it in the lab's server namespace.
    ///
    /// # Errors
    ///
    /// Fails with its log.
    pub fn start(lab: &Lab) -> Result<Self> {
        Self::start_within(lab, None)
    }

    /// Starts it there and in a cgroup.
    ///
    /// # Errors
    ///
    /// Fails with its log.
    pub fn start_within(lab: &Lab, cgroup: Option<&Cgroup>) -> Result<Self> {
        let dir = lab.subdir("nginx")?;
        let (root, uploads) = (lab.subdir("nginx/root")?, lab.subdir("nginx/uploads")?);
        write(root.join("hello.txt"), "hello from nginx\n")?;
        certificate(&dir)?;
        let config = write(dir.join("nginx.conf"), &config(&dir))?;
        let mut command = lab.server.command("/usr/sbin/nginx");
        command.arg("-p").arg(&dir).arg("-c").arg(config).args(["-e", "stderr"]);
        let command = match cgroup {
            Some(cgroup) => cgroup.wrap(&command),
            None => command,
        };
        // It listens in the order of its configuration.
        let process = Process::serve("nginx", command, lab.dir(), (&lab.server, LAST))?;
        Ok(Self { process, root, uploads })
    }

    /// The directory that it serves.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory where the bodies of requests to `/upload` stay.
    #[must_use]
    pub fn uploads(&self) -> &Path {
        &self.uploads
    }

    /// One line per request: client address, client port, protocol, status, path.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until the log has this: nginx writes it after the client has its answer.
    ///
    /// # Errors
    ///
    /// Fails with the log when it does not get it.
    pub fn wait_for_log(&self, text: &str) -> Result<()> {
        let waited = wait_until(&format!("{text:?} in nginx's log"), PATIENCE, || {
            Ok(self.process.log().contains(text))
        });
        waited.with_context(|| self.process.log())
    }
}

/// `master_process off`: one process, so that killing it leaves no workers behind. `sendfile off`:
/// with it HTTP/2 answers in 44 ms at one connection. nginx keeps a request body only when it is
/// proxied, hence the server on port [`LAST`] that answers with the name of the file.
fn config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"
daemon off;
master_process off;
worker_rlimit_nofile 16384;
pid {dir}/pid;
events {{ worker_connections 8192; }}
http {{
    log_format seen "$remote_addr $remote_port $server_protocol $status $request_uri";
    access_log /dev/stdout seen;
    sendfile off;
    keepalive_requests 1000000;
    client_max_body_size 0;
    client_body_temp_path {dir}/uploads;
    proxy_temp_path {dir}/tmp-proxy;
    fastcgi_temp_path {dir}/tmp-fastcgi;
    uwsgi_temp_path {dir}/tmp-uwsgi;
    scgi_temp_path {dir}/tmp-scgi;
    server {{
        listen 8080; listen [::]:8080;
        listen 8081 http2; listen [::]:8081 http2;
        listen 8443 ssl http2; listen [::]:8443 ssl http2;
        ssl_certificate {dir}/cert.pem;
        ssl_certificate_key {dir}/key.pem;
        root {dir}/root;
        location = /whoami {{ return 200 "$remote_addr $remote_port\n"; }}
        location = /nothing {{ return 204; }}
        location = /chunked.txt {{ ssi on; ssi_types *; alias {dir}/root/hello.txt; }}
        location = /missing {{ return 404 "nothing here\n"; }}
        location = /upload {{
            client_body_in_file_only on;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header X-File $request_body_file;
            proxy_pass http://127.0.0.1:{LAST}/;
        }}
    }}
    server {{ listen 127.0.0.1:{LAST}; access_log off; return 200 "$http_x_file\n"; }}
}}
"#
    )
}

fn certificate(dir: &Path) -> Result<()> {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    openssl.args(["-nodes", "-days", "2", "-subj", "/CN=server.test", "-keyout"]);
    openssl.arg(dir.join("key.pem")).arg("-out").arg(dir.join("cert.pem"));
    run(&mut openssl, Duration::from_secs(20))?.ok().map(drop)
}
