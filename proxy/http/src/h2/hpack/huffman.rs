//! Strings in HPACK's Huffman code (RFC 7541 §5.2 and appendix B). The code is canonical: symbols
//! ordered by the length of their codes, then by value, have consecutive codes, so that the lengths
//! say everything.

use crate::ParseError;

/// Bits of a code, for each byte and for the end of the string.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, //
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const LONGEST: usize = 30;
const END: u16 = 256;

/// Codes up to this length are looked up; they are those of nearly everything in a header.
const SHORT: u32 = 10;

static CODE: Code = Code::new();

struct Code {
    /// By the next [`SHORT`] bits: the code's length, and the byte. Length 0: a longer code.
    short: [(u8, u8); 1 << SHORT],
    /// Symbols in the order of their codes.
    symbols: [u16; 257],
    /// By length: where the codes of this length end, left-aligned in 32 bits; where they begin;
    /// and where their first symbol is.
    ends: [u64; LONGEST + 1],
    firsts: [u64; LONGEST + 1],
    places: [usize; LONGEST + 1],
}

/// Decodes a string, byte by byte.
#[inline]
pub(in crate::h2) fn decode(mut input: &[u8], mut push: impl FnMut(u8)) -> Result<(), ParseError> {
    // The next bits, left-aligned, and how many are there.
    let (mut window, mut bits) = (0_u64, 0_u32);
    loop {
        if bits <= 32 {
            if let Some((next, rest)) = input.split_first_chunk() {
                window |= u64::from(u32::from_be_bytes(*next)) << (32 - bits);
                bits += 32;
                input = rest;
            } else {
                for byte in std::mem::take(&mut input) {
                    window |= u64::from(*byte) << (56 - bits);
                    bits += 8;
                }
            }
        }
        let (length, byte) = CODE.short[(window >> (64 - SHORT)) as usize];
        let (length, byte) = match length {
            0 => {
                let (length, symbol) = CODE.long(window >> 32);
                if length <= bits && symbol == END {
                    return Err(INVALID);
                }
                (length, symbol as u8)
            }
            _ => (u32::from(length), byte),
        };
        if length > bits {
            return padding(window, bits);
        }
        push(byte);
        window <<= length;
        bits -= length;
    }
}

/// At the end are fewer than 8 bits, all of them set.
fn padding(window: u64, bits: u32) -> Result<(), ParseError> {
    if bits < 8 && window.leading_ones() == bits { Ok(()) } else { Err(INVALID) }
}

const INVALID: ParseError = ParseError::Huffman;

// === impl Code ===

impl Code {
    const fn new() -> Self {
        let mut code = Self {
            short: [(0, 0); 1 << SHORT],
            symbols: [0; 257],
            ends: [0; LONGEST + 1],
            firsts: [0; LONGEST + 1],
            places: [0; LONGEST + 1],
        };
        let (mut next, mut place, mut length) = (0_u64, 0, 1);
        while length <= LONGEST {
            code.firsts[length] = next;
            code.places[length] = place;
            let mut symbol = 0;
            while symbol < LENGTHS.len() {
                if LENGTHS[symbol] as usize == length {
                    code.symbols[place] = symbol as u16;
                    place += 1;
                    code.fill(next, length, symbol);
                    next += 1 << (32 - length);
                }
                symbol += 1;
            }
            code.ends[length] = next;
            length += 1;
        }
        assert!(next == 1 << 32, "the code is not complete");
        code
    }

    const fn fill(&mut self, code: u64, length: usize, symbol: usize) {
        if length as u32 <= SHORT {
            let first = (code >> (32 - SHORT)) as usize;
            let mut at = first;
            while at < first + (1 << (SHORT as usize - length)) {
                self.short[at] = (length as u8, symbol as u8);
                at += 1;
            }
        }
    }

    /// The code that these 32 bits begin with: its length and its symbol.
    #[cold]
    fn long(&self, next: u64) -> (u32, u16) {
        let mut length = SHORT as usize + 1;
        while length < LONGEST && next >= self.ends[length] {
            length += 1;
        }
        let place = self.places[length] + ((next - self.firsts[length]) >> (32 - length)) as usize;
        (length as u32, self.symbols[place])
    }
}

#[cfg(test)]
pub(in crate::h2) mod tests {
    use super::*;

    /// A string in Huffman's code.
    pub(in crate::h2) fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits = String::new();
        for byte in text {
            let length = usize::from(LENGTHS[usize::from(*byte)]);
            let symbols = &CODE.symbols[CODE.places[length]..];
            let place = symbols.iter().position(|symbol| *symbol == u16::from(*byte)).unwrap();
            let code = (CODE.firsts[length] >> (32 - length)) + place as u64;
            bits += &format!("{code:0length$b}");
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        let byte = |at| u8::from_str_radix(&bits[at..at + 8], 2).unwrap();
        (0..bits.len()).step_by(8).map(byte).collect()
    }
}
