//! What a scrape asks for: the text format by `Accept`, and compression by `Accept-Encoding` (RFC 9110
//! §12.5). Pure.

use hyper::{HeaderMap, header};

use crate::telemetry::TextFormat;

/// How the body of a response is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) format: TextFormat,
    pub(super) gzip: bool,
}

/// An element of a list with weights.
struct Item<'a> {
    name: &'a str,
    /// Its parameters but the weight.
    parameters: Vec<(&'a str, &'a str)>,
    /// 0 for what the client does not take; 1 is the most.
    weight: f32,
}

// === impl Wanted ===

impl Wanted {
    /// `OpenMetrics` is for clients that name it and like it at least as much as text: those that ask for
    /// nothing get the format that all tools read.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let all = list(headers, &header::ACCEPT);
        let best = |fits: &dyn Fn(&Item<'_>) -> bool| {
            all.iter().filter(|item| fits(item)).map(|item| item.weight).fold(0.0, f32::max)
        };
        let open = best(&is_openmetrics);
        let text = best(&|item| ["text/plain", "text/*", "*/*"].contains(&item.name));
        let format = if open > 0.0 && open >= text {
            TextFormat::OpenMetrics
        } else {
            TextFormat::Prometheus
        };
        Self { format, gzip: takes_gzip(headers) }
    }
}

// === helpers ===

/// Of the versions, 1.0.0 is written.
fn is_openmetrics(item: &Item<'_>) -> bool {
    let version = item.parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case("version"));
    item.name.eq_ignore_ascii_case("application/openmetrics-text")
        && version.is_none_or(|(_, version)| *version == "1.0.0")
}

/// What is named counts before what `*` stands for.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let all = list(headers, &header::ACCEPT_ENCODING);
    let weight_of = |names: &[&str]| {
        let found =
            all.iter().find(|it| names.iter().any(|name| it.name.eq_ignore_ascii_case(name)));
        found.map(|item| item.weight)
    };
    weight_of(&["gzip", "x-gzip"]).or_else(|| weight_of(&["*"])).is_some_and(|weight| weight > 0.0)
}

/// The elements of a header that is a list with weights; without those that are not text.
fn list<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Vec<Item<'a>> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(Item::parse).collect()
}

// === impl Item ===

impl<'a> Item<'a> {
    /// A weight that is none is 0: what cannot be read is not asked for.
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let pairs = parts.filter_map(|part| part.split_once('='));
        let pairs = pairs.map(|(key, value)| (key.trim(), value.trim().trim_matches('"')));
        let (weights, parameters): (Vec<_>, Vec<_>) =
            pairs.partition(|(key, _)| key.eq_ignore_ascii_case("q"));
        let weight = weights.first().map_or(Some(1.0), |(_, weight)| weight.parse::<f32>().ok());
        let weight = weight.filter(|weight| (0.0..=1.0).contains(weight)).unwrap_or(0.0);
        Self { name, parameters, weight }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::{
        TextFormat::{OpenMetrics, Prometheus},
        *,
    };

    fn headers(name: header::HeaderName, value: &'static str) -> HeaderMap {
        [(name, HeaderValue::from_static(value))].into_iter().collect()
    }

    #[test]
    fn the_format_is_the_one_that_the_client_prefers() {
        let prometheus_2 = "application/openmetrics-text;version=1.0.0,\
            application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
            application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;q=0.3,*/*;q=0.2";
        for (accept, format) in [
            (prometheus_2, OpenMetrics),
            (prometheus_3, OpenMetrics),
            ("application/openmetrics-text", OpenMetrics),
            ("Application/OpenMetrics-Text; version=\"1.0.0\", text/plain", OpenMetrics),
            ("application/openmetrics-text;q=0.4, text/plain;q=0.5", Prometheus),
            ("application/openmetrics-text;q=0", Prometheus),
            ("application/openmetrics-text;q=more", Prometheus),
            ("application/openmetrics-text; version=0.0.1", Prometheus),
            ("*/*", Prometheus),
            ("text/html, text/*;q=0.1", Prometheus),
            ("", Prometheus),
            (";;=,,;q=", Prometheus),
        ] {
            assert_eq!(Wanted::of(&headers(header::ACCEPT, accept)).format, format, "{accept}");
        }
        assert_eq!(Wanted::of(&HeaderMap::new()), Wanted { format: Prometheus, gzip: false });
    }

    #[test]
    fn the_body_is_compressed_for_those_who_take_that() {
        for (accepted, gzip) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("x-gzip", true),
            ("*", true),
            ("gzip;q=0, *", false),
            ("gzip;q=0.000", false),
            ("identity", false),
            ("zstd, br", false),
            ("", false),
        ] {
            let headers = headers(header::ACCEPT_ENCODING, accepted);
            assert_eq!(Wanted::of(&headers).gzip, gzip, "{accepted}");
        }
    }
}
