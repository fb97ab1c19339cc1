//! Why bytes cannot be followed.

use std::error::Error;
use std::fmt;

/// Defines the errors, each with its reason for people: the values of a metric's label, so that they
/// are constants and bounded in number.
macro_rules! errors {
    ($($name:ident = $reason:literal,)*) => {
        /// Why bytes are not HTTP, or are HTTP that recipients read in different ways, or of which
        /// more would have to be kept than is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ParseError {
            $(#[doc = $reason] $name,)*
        }

        impl ParseError {
            /// The reason, for people and as a label.
            #[must_use]
            pub const fn reason(self) -> &'static str {
                match self {
                    $(Self::$name => $reason,)*
                }
            }
        }
    };
}

errors! {
    Start = "invalid method or target",
    Method = "invalid method or target",
    Target = "invalid method or target",
    NoVersion = "invalid method or target",
    Version = "unknown HTTP version",
    RequestLineEnd = "invalid line end",
    LineEnd = "invalid line end",
    Status = "invalid status",
    FieldName = "invalid header name",
    FieldValue = "invalid header value",
    LongFramingField = "framing field too long",
    TooManyFields = "too many headers",
    LargeHead = "head larger than the limit",
    ContentLength = "invalid content-length",
    ContentLengths = "contradictory content-length",
    CodingInHttp10 = "transfer-encoding in HTTP/1.0",
    CodingAndLength = "transfer-encoding with content-length",
    EndlessRequest = "request body without an end",
    Chunk = "invalid chunk",
    NoRequest = "response without a request",
    ClosedInHead = "the client closed inside a head",
    TooManyRequests = "too many pipelined requests",
    LargeUpgrade = "too many bytes behind an upgrade",
    Preface = "no HTTP/2 preface",
    NoSettings = "HTTP/2 does not start with SETTINGS",
    SettingsLength = "HTTP/2 SETTINGS are cut short",
    ShortFrame = "an HTTP/2 frame is too short",
    Padding = "an HTTP/2 frame is shorter than its padding",
    Continuation = "HTTP/2 CONTINUATION out of place",
    InterruptedBlock = "an HTTP/2 header block is interrupted",
    StreamFrame = "an HTTP/2 stream's frame on stream 0",
    ConnectionFrame = "an HTTP/2 connection's frame on a stream",
    ClientPush = "PUSH_PROMISE of a client",
    ShortBlock = "an HTTP/2 header block is cut short",
    Integer = "an HPACK integer is too large",
    Huffman = "an HPACK string is no Huffman code",
    NoEntry = "HPACK index without an entry",
    TableSize = "HPACK table larger than allowed",
    LateTableSize = "HPACK table size update behind a field",
    LargeTable = "HPACK table too large to be followed",
    TooManyStreams = "too many HTTP/2 streams at a time",
    LargeRequests = "HTTP/2 requests at a time too large to be followed",
    Unseen = "bytes with a meaning were not seen",
    OverBudget = "over the memory budget of the workload",
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl Error for ParseError {}
