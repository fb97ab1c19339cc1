//! Why bytes cannot be followed.

use std::error::Error;
use std::fmt;

/// Why bytes are not HTTP, or are HTTP that recipients read in different ways. The texts are the
/// values of a metric's label: constants, and bounded in number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// A request that does not start with a token.
    Start,
    /// The method is not a token, or longer than allowed.
    Method,
    /// The request target is missing, or none of the four forms (RFC 9112 §3.2).
    Target,
    /// The request line ends without a version.
    NoVersion,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    Version,
    /// Bytes behind the version of a request line, or a CR without LF there.
    RequestLineEnd,
    /// A CR without LF where a line is empty.
    LineEnd,
    /// The status code, or the reason phrase.
    Status,
    /// The name of a header field.
    FieldName,
    /// The value of a header field.
    FieldValue,
    /// A field that delimits the message is too long to be kept.
    LongFramingField,
    /// More fields than [`HeadLimits::fields`](crate::h1::HeadLimits::fields).
    TooManyFields,
    /// More bytes than [`HeadLimits::bytes`](crate::h1::HeadLimits::bytes).
    LargeHead,
    /// `content-length` is no number.
    ContentLength,
    /// Several values of `content-length` differ.
    ContentLengths,
    /// HTTP/1.0 has no transfer codings.
    CodingInHttp10,
    /// `transfer-encoding` beside `content-length`.
    CodingAndLength,
    /// A request whose last transfer coding is not `chunked`.
    EndlessRequest,
    /// Chunked framing.
    Chunk,
    /// The upstream has answered what nobody has asked.
    NoRequest,
    /// The client has closed inside a request head.
    ClosedInHead,
    /// More requests wait for their responses than are kept.
    TooManyRequests,
    /// More bytes behind a request to upgrade than are kept.
    LargeUpgrade,
    /// The client's first bytes are not HTTP/2's.
    Preface,
    /// A peer's first frame is not SETTINGS.
    NoSettings,
    /// SETTINGS whose length is no multiple of a setting's.
    SettingsLength,
    /// A frame is shorter than its fields.
    ShortFrame,
    /// A frame is shorter than its padding.
    Padding,
    /// CONTINUATION without a header block.
    Continuation,
    /// Another frame inside a header block.
    InterruptedBlock,
    /// A stream's frame on stream 0.
    StreamFrame,
    /// A connection's frame on a stream.
    ConnectionFrame,
    /// PUSH_PROMISE of a client.
    ClientPush,
    /// A header block ends inside a field.
    ShortBlock,
    /// An HPACK integer of more than 32 bits.
    Integer,
    /// An HPACK string that is no Huffman code.
    Huffman,
    /// An HPACK index without an entry.
    NoEntry,
    /// A dynamic table larger than the receiver allows.
    TableSize,
    /// A dynamic table larger than is kept.
    LargeTable,
    /// More streams at a time than are kept.
    TooManyStreams,
    /// Requests at a time that are larger than is kept.
    LargeRequests,
}

// === impl ParseError ===

impl ParseError {
    /// The reason, for people and as a label.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Start | Self::Method | Self::Target | Self::NoVersion => {
                "invalid method or target"
            }
            Self::Version => "unknown HTTP version",
            Self::RequestLineEnd | Self::LineEnd => "invalid line end",
            Self::Status => "invalid status",
            Self::FieldName => "invalid header name",
            Self::FieldValue => "invalid header value",
            Self::LongFramingField => "framing field too long",
            Self::TooManyFields => "too many headers",
            Self::LargeHead => "head larger than the limit",
            Self::ContentLength => "invalid content-length",
            Self::ContentLengths => "contradictory content-length",
            Self::CodingInHttp10 => "transfer-encoding in HTTP/1.0",
            Self::CodingAndLength => "transfer-encoding with content-length",
            Self::EndlessRequest => "request body without an end",
            Self::Chunk => "invalid chunk",
            Self::NoRequest => "response without a request",
            Self::ClosedInHead => "the client closed inside a head",
            Self::TooManyRequests => "too many pipelined requests",
            Self::LargeUpgrade => "too many bytes behind an upgrade",
            Self::Preface => "no HTTP/2 preface",
            Self::NoSettings => "HTTP/2 does not start with SETTINGS",
            Self::SettingsLength => "HTTP/2 SETTINGS are cut short",
            Self::ShortFrame => "an HTTP/2 frame is too short",
            Self::Padding => "an HTTP/2 frame is shorter than its padding",
            Self::Continuation => "HTTP/2 CONTINUATION out of place",
            Self::InterruptedBlock => "an HTTP/2 header block is interrupted",
            Self::StreamFrame => "an HTTP/2 stream's frame on stream 0",
            Self::ConnectionFrame => "an HTTP/2 connection's frame on a stream",
            Self::ClientPush => "PUSH_PROMISE of a client",
            Self::ShortBlock => "an HTTP/2 header block is cut short",
            Self::Integer => "an HPACK integer is too large",
            Self::Huffman => "an HPACK string is no Huffman code",
            Self::NoEntry => "HPACK index without an entry",
            Self::TableSize => "HPACK table larger than allowed",
            Self::LargeTable => "HPACK table too large to be followed",
            Self::TooManyStreams => "too many HTTP/2 streams at a time",
            Self::LargeRequests => "HTTP/2 requests at a time too large to be followed",
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl Error for ParseError {}
