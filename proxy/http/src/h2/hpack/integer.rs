//! Integers (RFC 7541 §5.1).

use crate::ParseError;

/// An integer whose first byte has `prefix` bits of it, and how many bytes it takes. `None`: it is
/// not complete. One of more than 32 bits is refused.
#[inline]
pub(in crate::h2) fn integer(
    bytes: &[u8],
    prefix: u8,
) -> Result<Option<(usize, usize)>, ParseError> {
    let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
    let mask = 0xff_u8 >> (8 - prefix);
    if first & mask < mask {
        return Ok(Some((usize::from(first & mask), 1)));
    }
    long(mask, rest)
}

/// Adds an integer to `to`. `form` has the bits before the prefix.
#[inline]
pub(in crate::h2) fn put(to: &mut Vec<u8>, form: u8, prefix: u8, value: usize) {
    let mask = 0xff_u8 >> (8 - prefix);
    if value < usize::from(mask) {
        to.push(form | value as u8);
        return;
    }
    to.push(form | mask);
    let mut rest = value - usize::from(mask);
    while rest >= 0x80 {
        to.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    to.push(rest as u8);
}

#[inline]
fn long(mask: u8, rest: &[u8]) -> Result<Option<(usize, usize)>, ParseError> {
    let mut value = u64::from(mask);
    for (at, byte) in rest.iter().take(5).enumerate() {
        value += u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let value = u32::try_from(value).map_err(|_| TOO_LARGE)?;
            return Ok(Some((value as usize, at + 2)));
        }
    }
    if rest.len() < 5 { Ok(None) } else { Err(TOO_LARGE) }
}

const TOO_LARGE: ParseError = ParseError::Integer;
