//! What weir says when it has to answer in the upstream's place.

use weir_http::ERROR_HEADER;

/// An HTTP/1 answer that ends its connection and suits every method, HEAD included.
pub(crate) fn bad_gateway(reason: &str) -> String {
    format!(
        "HTTP/1.1 502 Bad Gateway\r\n{ERROR_HEADER}: {reason}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
}
