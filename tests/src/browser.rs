//! Chromium without a window, driven through a pipe with the Chrome DevTools Protocol.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::netns::Netns;
use crate::process::wait_until;
use crate::site::PATIENCE;

/// A shell gives the browser its pipes as descriptors 3 and 4, where it looks for them.
const START: &str = "exec chromium \"$@\" 3<&0 4>&1 >/dev/null 2>\"$0\"";

/// What the browser is not to do: ask its maker, draw with a graphics card, ask a user.
const FLAGS: &[&str] = &[
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "about:blank",
];

/// A browser with one page; killed on drop.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    session: Option<String>,
    next: u64,
    complaints: Vec<String>,
}

// === impl Browser ===

impl Browser {
    /// Starts it in a namespace; its files are in `dir`.
    ///
    /// # Errors
    ///
    /// Fails when there is no Chromium, or it does not answer.
    pub fn start(netns: &Netns, dir: &Path) -> Result<Self> {
        let log = dir.join("chromium.log");
        let mut command = netns.command("sh");
        command.args([OsStr::new("-c"), OsStr::new(START), log.as_os_str()]);
        command.arg(format!("--user-data-dir={}", dir.join("chromium").display())).args(FLAGS);
        command.env("HOME", dir).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().context("cannot start chromium")?;
        let commands = child.stdin.take().context("no pipe to chromium")?;
        let output = child.stdout.take().context("no pipe from chromium")?;
        let (sender, messages) = channel();
        thread::spawn(move || {
            for message in BufReader::new(output).split(0) {
                let Ok(Ok(message)) = message.map(|it| serde_json::from_slice(&it)) else { return };
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser =
            Self { child, commands, messages, session: None, next: 1, complaints: Vec::new() };
        browser.begin().with_context(|| {
            format!("log of chromium:\n{}", std::fs::read_to_string(&log).unwrap_or_default())
        })?;
        Ok(browser)
    }

    fn begin(&mut self) -> Result<()> {
        let made = self.call("Target.createTarget", &json!({ "url": "about:blank" }))?;
        let to = json!({ "targetId": made["targetId"], "flatten": true });
        let attached = self.call("Target.attachToTarget", &to)?;
        self.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            self.call(domain, &json!({}))?;
        }
        Ok(())
    }

    /// Sets the size of the window in pixels, and whether the user prefers a dark page.
    ///
    /// # Errors
    ///
    /// Fails when the browser refuses.
    pub fn look(&mut self, width: u32, height: u32, dark: bool) -> Result<()> {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", &metrics)?;
        let value = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": value }] });
        self.call("Emulation.setEmulatedMedia", &media).map(drop)
    }

    /// Opens a page.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be loaded.
    pub fn open(&mut self, url: &str) -> Result<()> {
        let opened = self.call("Page.navigate", &json!({ "url": url }))?;
        ensure!(opened["errorText"].is_null(), "cannot open {url}: {}", opened["errorText"]);
        self.wait("the page", "document.readyState === 'complete'")
    }

    /// The value of an expression in the page.
    ///
    /// # Errors
    ///
    /// Fails when it throws.
    pub fn value(&mut self, expression: &str) -> Result<Value> {
        let asked =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let said = self.call("Runtime.evaluate", &asked)?;
        if !said["exceptionDetails"].is_null() {
            bail!("{expression}: {}", said["exceptionDetails"]);
        }
        Ok(said["result"]["value"].clone())
    }

    /// Waits until an expression holds.
    ///
    /// # Errors
    ///
    /// Fails with the page's text when it does not in time.
    pub fn wait(&mut self, what: &str, expression: &str) -> Result<()> {
        let waited = wait_until(what, PATIENCE, || Ok(self.value(expression)? == true));
        waited.or_else(|error| {
            let text = self.value("document.body.innerText")?;
            let text = text.as_str().unwrap_or_default();
            Err(error.context(format!("{expression}\nthe page: {text}")))
        })
    }

    /// Clicks in the middle of an element, as a user would.
    ///
    /// # Errors
    ///
    /// Fails when there is none that can be clicked.
    pub fn click(&mut self, selector: &str) -> Result<()> {
        let place = self.value(&format!(
            "(() => {{ const it = document.querySelector({selector:?}); it.scrollIntoView({{block: \
             'center'}}); const box = it.getBoundingClientRect(); const [x, y] = [box.x + box.width / 2, \
             box.y + box.height / 2]; return it.contains(document.elementFromPoint(x, y)) ? [x, y] : \
             null; }})()"
        ))?;
        let place = place.as_array().with_context(|| format!("{selector} cannot be clicked"))?;
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({
                "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1,
            });
            self.call("Input.dispatchMouseEvent", &event)?;
        }
        Ok(())
    }

    /// Types into the element that has been clicked.
    ///
    /// # Errors
    ///
    /// Fails when the browser refuses.
    pub fn write(&mut self, text: &str) -> Result<()> {
        self.call("Input.insertText", &json!({ "text": text })).map(drop)
    }

    /// What the window shows, as PNG in base64.
    ///
    /// # Errors
    ///
    /// Fails when there is no picture.
    pub fn picture(&mut self) -> Result<String> {
        let taken = self.call("Page.captureScreenshot", &json!({ "format": "png" }))?;
        taken["data"].as_str().map(str::to_owned).context("no picture")
    }

    /// Exceptions that were not caught, and what the browser has said against the page, such as of its
    /// content security policy.
    #[must_use]
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    fn call(&mut self, method: &str, parameters: &Value) -> Result<Value> {
        let id = self.next;
        self.next += 1;
        let mut command = json!({ "id": id, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        let mut line = serde_json::to_vec(&command)?;
        line.push(0);
        self.commands.write_all(&line).context("chromium has ended")?;
        loop {
            let message = match self.messages.recv_timeout(PATIENCE) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => bail!("no reply to {method}"),
                Err(RecvTimeoutError::Disconnected) => bail!("chromium has ended"),
            };
            if message["id"] == id {
                ensure!(message["error"].is_null(), "{method}: {}", message["error"]);
                return Ok(message["result"].clone());
            }
            let said = &message["params"];
            match message["method"].as_str() {
                Some("Runtime.exceptionThrown") => self.complaints.push(said.to_string()),
                Some("Log.entryAdded") if said["entry"]["level"] == "error" => {
                    self.complaints.push(said["entry"]["text"].to_string());
                }
                _ => {}
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _gone_already = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
        let _reaped_already = self.child.wait();
    }
}
