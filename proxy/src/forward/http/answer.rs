//! What weir says when it has to answer in the upstream's place.

/// The header that names the reason of an answer of weir's own.
pub(crate) const ERROR_HEADER: &str = "x-weir-error";

/// gRPC `UNAVAILABLE`: the client may retry.
pub(crate) const GRPC_UNAVAILABLE: u32 = 14;

/// An HTTP/1 answer that ends its connection and suits every method, HEAD included.
pub(crate) fn bad_gateway(reason: &str) -> String {
    format!(
        "HTTP/1.1 502 Bad Gateway\r\n{ERROR_HEADER}: {reason}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
}
