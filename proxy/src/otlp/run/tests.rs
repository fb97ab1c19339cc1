//! The task against collectors that behave well and badly.

use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio::{net::TcpListener, sync::mpsc::UnboundedReceiver};

use super::*;
use crate::{
    config::{Otlp, Ratio},
    forward::http::TraceParent,
    otlp::Exporter,
    sync::lock,
    telemetry::{
        ConnectionGuard, SpanCounts, Spans, TelemetryOptions, TextFormat, connection_info, exchange,
    },
};

/// What a collector answers, in this order; the last one from then on.
type Answers = Arc<Mutex<Vec<Response<Full<Bytes>>>>>;

fn answer(status: u16) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status.try_into().unwrap();
    response
}

/// A collector on loopback; what it is sent is decoded.
async fn collector(
    answers: impl Into<Vec<Response<Full<Bytes>>>>,
) -> (String, UnboundedReceiver<(http::HeaderMap, ExportTraceServiceRequest)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    let answers: Answers = Arc::new(Mutex::new(answers.into()));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (tell, answers) = (tell.clone(), Arc::clone(&answers));
            let service = service_fn(move |request: Request<Incoming>| {
                let (tell, answers) = (tell.clone(), Arc::clone(&answers));
                async move {
                    assert_eq!(request.uri(), "/v1/traces");
                    let (head, body) = request.into_parts();
                    let body = body.collect().await?.to_bytes();
                    let spans = ExportTraceServiceRequest::decode(body).unwrap();
                    let _ = tell.send((head.headers, spans));
                    let mut answers = lock(&answers);
                    let last = answers.len() == 1;
                    let next = answers[0].clone();
                    if !last {
                        answers.remove(0);
                    }
                    Ok::<_, hyper::Error>(next)
                }
            });
            let io = TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    (url, told)
}

struct World {
    telemetry: Telemetry,
    exporter: Exporter,
    export: Export,
    guard: ConnectionGuard,
}

fn world(url: &str) -> World {
    let config =
        Otlp { endpoint: Some(url.to_owned()), ratio: Ratio::default(), ..Otlp::default() };
    let timeout = |name: &str| (name == "OTEL_EXPORTER_OTLP_HEADERS").then(|| "x-key=v".to_owned());
    let (target, _) = Target::find(&config, timeout);
    let target = target.unwrap();
    let (spans, waiting, export) = Spans::new(config, target.url.clone());
    let telemetry =
        Telemetry::with(TelemetryOptions { spans: Some(spans), ..TelemetryOptions::default() });
    let exporter = Exporter::start(target, waiting, export.clone(), telemetry.clone());
    let guard = telemetry.open(connection_info());
    World { telemetry, exporter, export, guard }
}

// === impl World ===

impl World {
    fn request(&self, parent_id: u8) {
        let parent = TraceParent { trace_id: [7; 16], parent_id: [parent_id; 8], flags: 1 };
        let mut exchange = exchange();
        exchange.trace = Some(Arc::new(parent));
        self.guard.sink().exchange(exchange);
    }

    /// Waits until the counts are these: exported, dropped, rejected, failed.
    async fn counts(&self, expected: [u64; 4]) {
        let SpanCounts { exported, dropped, rejected, failed, .. } = &self.export.counts;
        while [exported.get(), dropped.get(), rejected.get(), failed.get()] != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn parents(request: &ExportTraceServiceRequest) -> Vec<u8> {
    let spans = request.resource_spans.iter().flat_map(|it| &it.scope_spans);
    spans.flat_map(|it| &it.spans).map(|span| span.parent_span_id[0]).collect()
}

#[tokio::test]
async fn spans_arrive_together_and_with_the_headers_that_were_asked_for() {
    let (url, mut told) = collector([answer(200)]).await;
    let world = world(&url);
    for parent in 1..=3 {
        world.request(parent);
    }
    let (headers, spans) = told.recv().await.unwrap();
    assert_eq!(headers["content-type"], "application/x-protobuf");
    assert_eq!(headers["x-key"], "v");
    assert_eq!(format!("http://{}", headers["host"].to_str().unwrap()), url);
    assert_eq!(parents(&spans), [1, 2, 3]);
    world.counts([3, 0, 0, 0]).await;
    let text = world.telemetry.encode_metrics(TextFormat::OpenMetrics);
    assert!(text.contains("weir_otlp_spans_total{outcome=\"exported\"} 3"), "{text}");
}

#[tokio::test]
async fn what_is_busy_is_asked_again_and_what_is_refused_is_not() {
    let partial = ExportTraceServiceResponse {
        partial_success: Some(ExportTracePartialSuccess {
            rejected_spans: 1,
            error_message: String::new(),
        }),
    };
    let mut partly = answer(200);
    *partly.body_mut() = Full::new(partial.encode_to_vec().into());
    let mut busy = answer(429);
    busy.headers_mut().insert("retry-after", "0".parse().unwrap());
    let (url, mut told) = collector([busy, answer(503), answer(200), answer(400), partly]).await;
    let world = world(&url);
    world.request(1);
    for _ in 0..3 {
        assert_eq!(parents(&told.recv().await.unwrap().1), [1]);
    }
    world.counts([1, 0, 0, 0]).await;
    assert_eq!(world.export.problem(), None);
    world.request(2);
    world.counts([1, 0, 1, 0]).await;
    assert_eq!(world.export.problem().as_deref(), Some("answered 400 Bad Request"));
    world.request(3);
    world.request(4);
    world.counts([2, 0, 2, 0]).await;
    assert_eq!(world.export.problem(), None);
}

#[tokio::test]
async fn what_waits_at_the_end_is_sent() {
    let (url, mut told) = collector([answer(200)]).await;
    let world = world(&url);
    for parent in 0..100 {
        world.request(parent + 1);
    }
    world.exporter.finish(Duration::from_secs(60), Duration::from_secs(60)).await;
    let mut seen = Vec::new();
    while let Ok((_, spans)) = told.try_recv() {
        seen.extend(parents(&spans));
    }
    assert_eq!(seen, (1..=100).collect::<Vec<_>>());
    assert_eq!(world.export.counts.exported.get(), 100);
}

/// Nobody listens: the wait between attempts is not waited for at the end.
#[tokio::test(start_paused = true)]
async fn a_dead_collector_ends_the_flush() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let world = world(&format!("http://{unused}"));
    world.request(1);
    while world.export.problem().is_none() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(world.export.problem().unwrap().starts_with("cannot connect"));
    world.request(2);
    world.exporter.finish(Duration::from_secs(600), Duration::from_secs(600)).await;
    assert_eq!(world.export.counts.failed.get(), 2);
}

/// Guards against a command whose end waits for a collector that is not there.
#[tokio::test(start_paused = true)]
async fn a_collector_that_has_not_answered_is_not_waited_for_at_the_end() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let world = world(&format!("http://{}", listener.local_addr().unwrap()));
    world.request(1);
    let begun = tokio::time::Instant::now();
    world.exporter.finish(Duration::from_secs(5), Duration::from_millis(500)).await;
    assert!(!world.export.has_answered());
    assert_eq!(begun.elapsed().as_millis(), 500);
    drop(listener);
}

#[tokio::test]
async fn a_collector_that_answers_is_waited_for() {
    let (url, mut told) = collector([answer(200)]).await;
    let world = world(&url);
    world.request(1);
    told.recv().await.unwrap();
    world.counts([1, 0, 0, 0]).await;
    assert!(world.export.has_answered());
    world.request(2);
    world.exporter.finish(Duration::from_secs(60), Duration::ZERO).await;
    assert_eq!(parents(&told.recv().await.unwrap().1), [2]);
}

/// A collector that accepts and never answers holds nothing up, and costs no memory.
#[tokio::test(start_paused = true)]
async fn a_silent_collector_costs_spans_and_nothing_else() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let world = world(&format!("http://{}", listener.local_addr().unwrap()));
    for _ in 0..10_000 {
        world.request(1);
    }
    let dropped = world.export.counts.dropped.get();
    assert!(dropped >= 9_000 - BATCH as u64, "{dropped}");
    // Ten seconds, a wait, and so on.
    while world.export.counts.failed.get() == 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(world.export.counts.failed.get(), BATCH as u64);
    assert_eq!(world.export.problem().as_deref(), Some("no answer within 10s"));
    drop(listener);
}
