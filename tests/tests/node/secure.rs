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
    let (own, signer) = certificate(&cluster, "own")?;
    let (_, another) = certificate(&cluster, "another")?;
    let _front = front(&cluster, &own)?;
    let mut weir = trusting(&cluster, &another)?.start()?;
    wait_until("weir to say what is wrong", SOON, || {
        let status = weir.json(&["status"])?;
        Ok(status["status"]["source_problem"].as_str().is_some_and(|it| it.contains("certificate")))
    })?;
    ensure!(captured(&weir)?.is_empty(), "captured on the word of a stranger");
    ensure!(!cluster.ready()?.0, "ready without a list");
    weir.stop()?;

    let mut weir = trusting(&cluster, &signer)?.after(&weir).start()?;
    cluster.settle(&weir, &[&pod])?;
    ensure!(weir.json(&["status"])?["status"]["source_problem"].is_null());
    weir.stop()
}

/// `weir node` that takes the API server for real if its certificate is signed by this one.
fn trusting<'a>(cluster: &'a Cluster, signer: &Path) -> Result<Run<'a>> {
    let run = cluster.weir()?;
    let path = cluster.dir().join("kubeconfig");
    let plain = format!("server: http://127.0.0.1:{}", cluster.api.port());
    let text = fs::read_to_string(&path)?;
    ensure!(text.contains(&plain), "no {plain} in {text}");
    let secure =
        format!("server: https://127.0.0.1:{TLS}\n    certificate-authority: {}", signer.display());
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

/// A certificate for the loopback address, with its key beside it, and that of who signed it.
fn certificate(cluster: &Cluster, name: &str) -> Result<(PathBuf, PathBuf)> {
    const SIGN: &str = "set -e; new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'; \
        openssl req -x509 $new -days 2 -subj /CN=ca -keyout ca.key -out ca.pem; \
        openssl req $new -subj /CN=kube-apiserver -keyout server.key -out server.csr; \
        echo subjectAltName=IP:127.0.0.1 >ext; \
        openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
        -extfile ext -out server.pem";
    let dir = cluster.dir().join(name);
    fs::create_dir(&dir)?;
    let mut command = Command::new("sh");
    run(command.args(["-c", SIGN]).current_dir(&dir), Duration::from_secs(20))?.ok()?;
    Ok((dir.join("server.pem"), dir.join("ca.pem")))
}
