//! The page of `weir ui` in a real browser, beside a running weir and real clients.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use weir_tests::Lab;
use weir_tests::browser::Browser;
use weir_tests::cgroup::Cgroup;
use weir_tests::fixture::PYTHON;
use weir_tests::lab::SERVER_V4;
use weir_tests::process::{Process, patience, run, wait_until};
use weir_tests::servers::nginx::{H2C, HTTP1, Nginx, TLS};
use weir_tests::site::PATIENCE;
use weir_tests::weir::{Daemon, binary};

/// What a request's path is to be, and not a part of the page.
const MARKUP: &str = "/<b>bold</b>";

fn curl(lab: &Lab, cgroup: &Cgroup, paths: &[&str]) -> Result<()> {
    let urls: Vec<_> =
        paths.iter().map(|path| format!("http://{SERVER_V4}:{HTTP1}{path}")).collect();
    visit(lab, cgroup, &[], &urls)
}

fn visit(lab: &Lab, cgroup: &Cgroup, flags: &[&str], urls: &[String]) -> Result<()> {
    let mut command = lab.client.command("curl");
    command.args(["-s", "-k", "--path-as-is"]).args(flags);
    for url in urls {
        command.args(["-o", "/dev/null"]).arg(url);
    }
    run(&mut cgroup.wrap(&command), patience(Duration::from_secs(20)))?.ok()?;
    Ok(())
}

/// `weir ui`, and the address that it has printed.
fn serve(lab: &Lab, daemon: &Daemon) -> Result<(Process, String)> {
    let mut command = lab.client.command(binary()?);
    command.args(["ui", "--control"]).arg(daemon.control());
    let page = Process::start("ui", command, lab.dir())?;
    wait_until("the address of the page", PATIENCE, || Ok(page.log().ends_with("/\n")))
        .with_context(|| page.log())?;
    let url = page.log().trim().to_owned();
    Ok((page, url))
}

/// Keeps a picture of the page where `WEIR_PICTURE` says, for `docs/`.
fn keep(browser: &mut Browser) -> Result<()> {
    let Some(path) = std::env::var_os("WEIR_PICTURE") else { return Ok(()) };
    let coded = browser.picture()?;
    let file = Path::new(&path).with_extension("base64");
    std::fs::write(&file, coded)?;
    let decode = "base64 -d \"$1\" > \"$2\" && rm \"$1\"";
    let mut command = Command::new("sh");
    command.args(["-c", decode, "sh"]).arg(file).arg(path);
    run(&mut command, PATIENCE)?.ok()?;
    Ok(())
}

#[test]
fn a_browser_shows_what_weir_sees() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("page")?);
    let _nginx = Nginx::start(&lab)?;
    let mut daemon = Daemon::start(&lab, &cgroup, &[])?;
    curl(&lab, &cgroup, &["/hello.txt", "/hello.txt", "/missing"])?;
    let (_page, url) = serve(&lab, &daemon)?;
    let mut browser = Browser::start(&lab.client, lab.dir())?;
    browser.look(1280, 800, false)?;
    browser.open(&url)?;

    browser
        .wait("the state", "document.querySelector('#state').textContent.includes('running')")?;
    let destination = format!("{SERVER_V4}:{HTTP1}");
    let in_graph =
        format!("document.querySelector('#graph svg').textContent.includes('{destination}')");
    browser.wait("the graph", &in_graph)?;
    assert_eq!(browser.value("document.querySelectorAll('#graph path').length")?, 1);

    browser.click("[data-view=table]")?;
    let row = "document.querySelector('#table tbody tr').innerText";
    let row = browser.value(row)?.as_str().unwrap_or_default().to_owned();
    assert!(row.contains(&destination) && row.contains("http1"), "{row}");
    browser.click("#table th:nth-child(9) button")?;
    let sorted = "document.querySelector('#table th:nth-child(9)').ariaSort";
    assert_eq!(browser.value(sorted)?, "descending");

    let program = format!(
        "import socket\n\
         s = socket.create_connection(('{SERVER_V4}', {HTTP1}))\n\
         s.sendall(b'GET /hello.txt HTTP/1.1\\r\\nHost: shop.example\\r\\n\\r\\n')\n\
         while s.recv(1000): pass"
    );
    let mut holds = lab.client.command(PYTHON);
    holds.args(["-c", &program]);
    let held = Process::start("held", cgroup.wrap(&holds), lab.dir())?;
    browser.click("[data-view=connections]")?;
    let rows = "document.querySelector('#connections tbody').innerText";
    browser.wait("the open connection", &format!("({rows}).includes('shop.example')"))?;
    let row = browser.value(rows)?.as_str().unwrap_or_default().to_owned();
    assert!(row.contains("open") && row.contains("http1") && row.contains(&destination), "{row}");
    drop(held);

    browser.click("[data-view=tap]")?;
    // The browser's own state of the stream: records from now on are shown.
    browser.wait("the tap", "tap.source?.readyState === EventSource.OPEN")?;
    curl(&lab, &cgroup, &["/hello.txt?secret=1", "/missing", MARKUP])?;
    let rows =
        "[...document.querySelectorAll('#tap tbody tr')].map(it => it.innerText).join('\\n')";
    browser.wait("the connection's record", &format!("({rows}).includes('finished')"))?;
    let shown = browser.value(rows)?.as_str().unwrap_or_default().to_owned();
    assert!(shown.contains("/hello.txt") && shown.contains(MARKUP), "{shown}");
    assert!(!shown.contains("secret"), "{shown}");
    assert_eq!(browser.value("document.querySelectorAll('#tap tbody b').length")?, 0);
    browser.click("#filter [name=text]")?;
    browser.write("missing")?;
    browser.wait("the filter", "document.querySelectorAll('#tap tbody tr').length === 1")?;
    browser.click("#filter [name=kind]")?;
    browser.click("#pause")?;
    assert_eq!(browser.value("document.querySelector('#pause').ariaPressed")?, "true");

    let ours =
        "performance.getEntriesByType('resource').every(it => it.name.startsWith(location.origin))";
    assert_eq!(browser.value(ours)?, true);
    assert!(browser.complaints().is_empty(), "{:#?}", browser.complaints());

    daemon.stop()?;
    browser.wait("the end to be seen", "!document.querySelector('#problem').hidden")?;
    let problem = browser.value("document.querySelector('#problem').textContent")?;
    assert!(problem.as_str().is_some_and(|it| it.contains("no weir answers")), "{problem}");
    Ok(())
}

#[test]
fn the_page_fits_a_phone_and_the_dark() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("page")?);
    let _nginx = Nginx::start(&lab)?;
    let daemon = Daemon::start(&lab, &cgroup, &[])?;
    let visits = || {
        curl(&lab, &cgroup, &["/hello.txt"; 20])?;
        let h2 = format!("http://{SERVER_V4}:{H2C}/hello.txt");
        visit(&lab, &cgroup, &["--http2-prior-knowledge"], &[h2])?;
        visit(&lab, &cgroup, &[], &[format!("https://{SERVER_V4}:{TLS}/hello.txt")])
    };
    visits()?;
    let (_page, url) = serve(&lab, &daemon)?;
    let mut browser = Browser::start(&lab.client, lab.dir())?;
    browser.look(1000, 290, false)?;
    browser.open(&url)?;
    browser.wait("the graph", "document.querySelectorAll('#graph path').length === 3")?;
    let rates = "[...document.querySelectorAll('#graph .figures')].some(it => /^[1-9].*req.*(µs|ms)$/.test(it.textContent))";
    wait_until("requests in an interval", PATIENCE, || {
        visits()?;
        Ok(browser.value(rates)? == true)
    })?;
    // What is new since the last look, and nothing of what was slow before.
    let latencies = "quantile(since([[64, 98], [1024, 102]], [[1024, 100]]), 0.99)";
    assert_eq!(browser.value(latencies)?, 1024 + 16);
    keep(&mut browser)?;
    for view in ["graph", "table", "connections", "endpoints", "tap"] {
        browser.look(1000, 290, false)?;
        browser.click(&format!("[data-view={view}]"))?;
        for width in [320, 360, 412] {
            browser.look(width, 740, false)?;
            let too_wide = format!("document.documentElement.scrollWidth <= {width}");
            browser.wait(&format!("{view} to fit into {width} pixels"), &too_wide)?;
        }
    }
    let back = "getComputedStyle(document.body).backgroundColor";
    let light = browser.value(back)?;
    browser.look(360, 740, true)?;
    let dark = browser.value(back)?;
    assert_ne!(light, dark);
    browser.click("#theme")?;
    assert_eq!(browser.value(back)?, light, "the user's choice goes before the system's");
    assert!(browser.complaints().is_empty(), "{:#?}", browser.complaints());
    Ok(())
}
