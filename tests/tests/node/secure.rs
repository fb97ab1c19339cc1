//! The API server as a real one is reached: over TLS, with a certificate that is checked. nginx
//! stands before the one of the tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use weir_tests::daemon::Run;
use weir_tests::kube::cluster::{Cluster, SOON, captured};
use weir_tests::kube::object::Owner;
use weir_tests::kube::pod::Layout;
use weir_tests::process::{Process, run, wait_until};

use crate::opted;

const TLS: u16 = 6443;

#[test]
fn the_certificate_of_the_api_server_is_checked() -> Result<()> {
    let cluster = Cluster::new()?;
    let pod = cluster.start(&opted("cart", Owner::Deployment), Layout::SystemdContainerd)?;
    let own = certificate(&cluster, "own")?;
    let _front = front(&cluster, &own)?;
    let mut weir = trusting(&cluster, &certificate(&cluster, "another")?)?.start()?;
    wait_until("weir to say what is wrong", SOON, || {
        let status = weir.json(&["status"])?;
        Ok(status["status"]["source_problem"].as_str().is_some_and(|it| it.contains("certificate")))
    })?;
    ensure!(captured(&weir)?.is_empty(), "captured on the word of a stranger");
    ensure!(!cluster.ready()?.0, "ready without a list");
    weir.stop()?;

    let mut weir = trusting(&cluster, &own)?.after(&weir).start()?;
    cluster.settle(&weir, &[&pod])?;
    ensure!(weir.json(&["status"])?["status"]["source_problem"].is_null());
    weir.stop()
}

/// `weir node` that takes the API server for real if it has this certificate.
fn trusting<'a>(cluster: &'a Cluster, certificate: &Path) -> Result<Run<'a>> {
    let run = cluster.weir()?;
    let path = cluster.dir().join("kubeconfig");
    let plain = format!("server: http://127.0.0.1:{}", cluster.api.port());
    let text = fs::read_to_string(&path)?;
    ensure!(text.contains(&plain), "no {plain} in {text}");
    let secure = format!(
        "server: https://127.0.0.1:{TLS}\n    certificate-authority: {}",
        certificate.display()
    );
    fs::write(path, text.replace(&plain, &secure))?;
    Ok(run)
}

fn front(cluster: &Cluster, certificate: &Path) -> Result<Process> {
    let dir = cluster.dir();
    let config = format!(
        "daemon off;\nuser root;\npid {dir}/front.pid;\nerror_log stderr;\nevents {{}}\n\
         http {{\n access_log off;\n server {{\n listen 127.0.0.1:{TLS} ssl http2;\n \
         ssl_certificate {certificate};\n ssl_certificate_key {key};\n location / {{\n \
         proxy_pass http://127.0.0.1:{port};\n proxy_http_version 1.1;\n proxy_buffering off;\n \
         proxy_read_timeout 10m;\n }}\n }}\n}}\n",
        dir = dir.display(),
        certificate = certificate.display(),
        key = certificate.with_extension("key").display(),
        port = cluster.api.port(),
    );
    let path = dir.join("front.conf");
    fs::write(&path, config)?;
    let mut command = cluster.node.command("/usr/sbin/nginx");
    command.arg("-p").arg(dir).arg("-c").arg(path).args(["-e", "stderr"]);
    Process::serve("front", command, dir, (&cluster.node, TLS))
}

/// A certificate for the loopback address, signed by itself.
fn certificate(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    let path = cluster.dir().join(name).with_extension("pem");
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    openssl.args(["-nodes", "-days", "2", "-subj", "/CN=kube-apiserver"]);
    openssl.args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout"]);
    openssl.arg(path.with_extension("key")).arg("-out").arg(&path);
    run(&mut openssl, Duration::from_secs(20))?.ok()?;
    Ok(path)
}
