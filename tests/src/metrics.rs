//! What weir says of itself at `/metrics`, as a test reads it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use anyhow::{Context, Result, ensure};

use crate::netns::Netns;
use crate::site::PATIENCE;

/// The flags that make weir serve it; each test has a namespace for weir, so one port does.
pub const FLAGS: [&str; 2] = ["--admin", "127.0.0.1:4191"];
const PORT: u16 = 4191;

/// One scrape.
#[derive(Clone, Debug)]
pub struct Metrics(String);

/// What a weir that was started with [`FLAGS`] in a namespace answers to a path: status and body.
///
/// # Errors
///
/// Fails when it does not answer.
pub fn get(node: &Netns, path: &str) -> Result<(u16, String)> {
    let mut stream = node.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)))??;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the head")?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    Ok((status.with_context(|| format!("no status in {head}"))?, body.to_owned()))
}

// === impl Metrics ===

impl Metrics {
    /// Asks a weir that was started with [`FLAGS`] in a namespace.
    ///
    /// # Errors
    ///
    /// Fails when it does not answer.
    pub fn scrape(node: &Netns) -> Result<Self> {
        let (status, body) = get(node, "/metrics")?;
        ensure!(status == 200, "{status}: {body}");
        Ok(Self(body))
    }

    /// All of it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The sum of a metric's series that have all of these labels (`reason="…"`); 0 without any.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let lines = self.0.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.fold(0.0, |sum, value| sum + value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_name_and_labels() {
        let text =
            "# HELP a x\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"1\"} 4\na_total_more 9\nb 7\n";
        let metrics = Metrics(text.to_owned());
        assert_eq!(metrics.sum("a_total", &["x=\"1\""]).to_string(), "7");
        assert_eq!(metrics.sum("a_total", &["y=\"2\""]).to_string(), "3");
        assert_eq!(metrics.sum("b", &[]).to_string(), "7");
        assert_eq!(metrics.sum("a", &[]).to_string(), "0");
    }
}
