//! One request to the collector (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>): a connection of its
//! own, as there is one each second at most.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use super::Target;

/// A longer answer of a collector is not read.
const MOST: usize = 64 << 10;

/// The longest wait that a collector can ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Why spans were not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Another attempt may succeed: not before the time that the collector has asked for.
    Temporary { why: String, after: Option<Duration> },
    /// The collector will never take them.
    Permanent(String),
}

/// Sends spans; how many of them the collector has rejected. `answered` is called when it begins to answer.
pub(super) async fn send(
    target: &Target,
    spans: Bytes,
    answered: impl Fn(),
) -> Result<u64, Failure> {
    match tokio::time::timeout(target.timeout, exchange(target, spans, answered)).await {
        Ok(result) => result,
        Err(_) => Err(temporary(format!("no answer within {:?}", target.timeout))),
    }
}

async fn exchange(target: &Target, spans: Bytes, answered: impl Fn()) -> Result<u64, Failure> {
    let stream = TcpStream::connect((target.host.as_str(), target.port))
        .await
        .map_err(|error| temporary(format!("cannot connect: {error}")))?;
    let talk = |error: hyper::Error| temporary(format!("connection failed: {error}"));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(talk)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let mut request = Request::post(&target.path)
        .header(header::HOST, &target.authority)
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .header(header::USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(spans))
        .map_err(|error| Failure::Permanent(error.to_string()))?;
    for (name, value) in &target.headers {
        request.headers_mut().insert(name, value.clone());
    }
    let response = sender.send_request(request).await.map_err(talk)?;
    answered();
    let status = response.status();
    if is_temporary(status) {
        let after = response.headers().get(header::RETRY_AFTER);
        let seconds = after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let after = seconds.map(|seconds| Duration::from_secs(seconds).min(LONGEST_WAIT));
        return Err(Failure::Temporary { why: format!("answered {status}"), after });
    }
    let body = Limited::new(response.into_body(), MOST).collect().await;
    if !status.is_success() {
        return Err(Failure::Permanent(format!("answered {status}")));
    }
    // The spans are there, whatever becomes of the answer.
    let answer = body.ok().and_then(|it| ExportTraceServiceResponse::decode(it.to_bytes()).ok());
    let partial = answer.and_then(|answer| answer.partial_success);
    Ok(partial.map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or(0)))
}

/// The codes that the specification has retried.
fn is_temporary(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

const fn temporary(why: String) -> Failure {
    Failure::Temporary { why, after: None }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Temporary { why, .. } | Self::Permanent(why) => f.write_str(why),
        }
    }
}
