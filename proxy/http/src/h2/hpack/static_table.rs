//! The static table (RFC 7541 §2.3.1 and appendix A).

use super::field::Kind;

/// A field of the static table.
pub(in crate::h2) struct StaticField {
    pub(in crate::h2) kind: Kind,
    pub(in crate::h2) name: &'static [u8],
    pub(in crate::h2) value: &'static [u8],
}

/// The table. An index of a block counts from one.
pub(in crate::h2) static STATIC: [StaticField; 61] = [
    field(b":authority", b""),
    field(b":method", b"GET"),
    field(b":method", b"POST"),
    field(b":path", b"/"),
    field(b":path", b"/index.html"),
    field(b":scheme", b"http"),
    field(b":scheme", b"https"),
    field(b":status", b"200"),
    field(b":status", b"204"),
    field(b":status", b"206"),
    field(b":status", b"304"),
    field(b":status", b"400"),
    field(b":status", b"404"),
    field(b":status", b"500"),
    field(b"accept-charset", b""),
    field(b"accept-encoding", b"gzip, deflate"),
    field(b"accept-language", b""),
    field(b"accept-ranges", b""),
    field(b"accept", b""),
    field(b"access-control-allow-origin", b""),
    field(b"age", b""),
    field(b"allow", b""),
    field(b"authorization", b""),
    field(b"cache-control", b""),
    field(b"content-disposition", b""),
    field(b"content-encoding", b""),
    field(b"content-language", b""),
    field(b"content-length", b""),
    field(b"content-location", b""),
    field(b"content-range", b""),
    field(b"content-type", b""),
    field(b"cookie", b""),
    field(b"date", b""),
    field(b"etag", b""),
    field(b"expect", b""),
    field(b"expires", b""),
    field(b"from", b""),
    field(b"host", b""),
    field(b"if-match", b""),
    field(b"if-modified-since", b""),
    field(b"if-none-match", b""),
    field(b"if-range", b""),
    field(b"if-unmodified-since", b""),
    field(b"last-modified", b""),
    field(b"link", b""),
    field(b"location", b""),
    field(b"max-forwards", b""),
    field(b"proxy-authenticate", b""),
    field(b"proxy-authorization", b""),
    field(b"range", b""),
    field(b"referer", b""),
    field(b"refresh", b""),
    field(b"retry-after", b""),
    field(b"server", b""),
    field(b"set-cookie", b""),
    field(b"strict-transport-security", b""),
    field(b"transfer-encoding", b""),
    field(b"user-agent", b""),
    field(b"vary", b""),
    field(b"via", b""),
    field(b"www-authenticate", b""),
];

/// The first index of a name, counted from one; 0 if the table does not have it.
pub(in crate::h2) fn index_of(name: &[u8]) -> u8 {
    let place = STATIC.iter().position(|field| field.name == name);
    place.map_or(0, |place| place as u8 + 1)
}

const fn field(name: &'static [u8], value: &'static [u8]) -> StaticField {
    StaticField { kind: Kind::of(name), name, value }
}
