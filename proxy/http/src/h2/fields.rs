//! Header lists that go from one peer to another: read from the block of one (RFC 7541), and
//! written as a block for the other, whose dynamic table is another one. A field that the sender
//! indexes is indexed for the receiver too, without a look at its bytes; one that it does not is
//! copied as it stands. What the receiver reads is what the sender has said: the same fields in the
//! same order, and what was never to be indexed still is not.
//!
//! Knows no streams and no frames: a block is whole when it is read.

mod decoder;
mod encoder;
mod entries;
mod field;
mod list;
mod literal;
mod meaning;
mod shape;
mod shared;
#[cfg(test)]
mod tests;

pub use self::decoder::{DecodeError, ListDecoder};
pub use self::encoder::ListEncoder;
pub use self::list::{FieldList, Replacement};
pub use self::meaning::Malformed;
pub use self::shared::Shared;
