//! How detection is counted.

use super::*;
use crate::decision::Why;

/// Guards against a label that was taken from a text: it was never `read_timeout`.
#[test]
fn detection_is_counted_by_what_was_found() {
    let ended = |said| Detection::Tcp(Why::Ended { by_client: true, said });
    let all = [
        (Detection::Http1, Some("http/1")),
        (Detection::Http2, Some("h2")),
        (Detection::Tls { settled: true }, Some("not_http")),
        (Detection::Tls { settled: false }, Some("read_timeout")),
        (Detection::Tcp(Why::ServerFirst), Some("not_http")),
        (Detection::Tcp(Why::ServerBeforeTheRest), Some("read_timeout")),
        (Detection::Tcp(Why::PeekLimit), Some("read_timeout")),
        (Detection::Tcp(Why::Bytes("not HTTP")), Some("not_http")),
        (ended(true), Some("read_timeout")),
        (ended(false), Some("not_http")),
        (Detection::Opaque(Source::Config), None),
    ];
    for (detection, result) in all {
        let telemetry = Telemetry::new(None);
        telemetry.open(info()).detected(detection, None, Duration::ZERO);
        let text = telemetry.encode_metrics(TextFormat::OpenMetrics);
        let counted: Vec<_> = text
            .lines()
            .filter(|line| {
                line.starts_with("outbound_tcp_detect_http_results_total") && !line.ends_with(" 0")
            })
            .collect();
        let expected = result.map(|result| {
            format!(
                "outbound_tcp_detect_http_results_total{{workload=\"shop\",result=\"{result}\"}} 1"
            )
        });
        assert_eq!(counted, Vec::from_iter(expected), "{detection:?}");
    }
}
