//! A collector of OTLP/HTTP: decodes the spans that it is sent with the messages of the OpenTelemetry
//! project, and keeps them.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use crate::netns::Netns;
use crate::peer::Peer;
use crate::process::wait_until;
use crate::site::PATIENCE;

/// A running collector.
#[derive(Debug)]
pub struct Collector {
    peer: Peer,
    received: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

// === impl Collector ===

impl Collector {
    /// Starts it in a namespace.
    ///
    /// # Errors
    ///
    /// Fails when it cannot listen.
    pub fn start(netns: &Netns) -> Result<Self> {
        let received = Arc::<Mutex<Vec<_>>>::default();
        let kept = Arc::clone(&received);
        let peer = Peer::start(netns, 0, move |stream| serve(stream, &kept))?;
        Ok(Self { peer, received })
    }

    /// The base URL that weir is to be given, for a weir in the collector's namespace.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer.port())
    }

    /// The spans so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        let resources = received.iter().flat_map(|it| &it.resource_spans);
        resources.flat_map(|it| &it.scope_spans).flat_map(|it| it.spans.clone()).collect()
    }

    /// Waits for so many spans.
    ///
    /// # Errors
    ///
    /// Fails when they do not come.
    pub fn wait_for(&self, count: usize) -> Result<Vec<Span>> {
        wait_until("the spans", PATIENCE, || Ok(self.spans().len() >= count))
            .with_context(|| format!("{:?}", self.spans()))?;
        Ok(self.spans())
    }
}

/// An attribute as text; empty if it is missing.
#[must_use]
pub fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|it: &&KeyValue| it.key == key);
    match found.and_then(|it| it.value.as_ref()?.value.as_ref()) {
        None => String::new(),
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(other) => format!("{other:?}"),
    }
}

/// One request of HTTP/1.1 after the other, with `Content-Length`.
fn serve(stream: TcpStream, kept: &Mutex<Vec<ExportTraceServiceRequest>>) -> io::Result<()> {
    let (mut reader, mut stream) = (BufReader::new(stream.try_clone()?), stream);
    loop {
        let (mut length, mut line) = (0, String::new());
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let is_for_spans = line == "POST /v1/traces HTTP/1.1\r\n";
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line)?;
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let status = match ExportTraceServiceRequest::decode(&*body) {
            Ok(spans) if is_for_spans => {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(spans);
                "200 OK"
            }
            _ => "400 Bad Request",
        };
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")?;
    }
}
