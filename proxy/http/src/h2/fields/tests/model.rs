//! HPACK as RFC 7541 tells it, without a thought for speed: what lists are compared with.

use super::super::super::hpack::huffman;
use super::super::super::hpack::static_table::STATIC;

pub(super) type Pair = (Vec<u8>, Vec<u8>);
/// With whether it is never to be indexed.
pub(super) type Triple = (Vec<u8>, Vec<u8>, bool);

/// One side's dynamic table.
pub(super) struct Model {
    /// Newest first.
    table: Vec<Pair>,
    pub(super) max: usize,
}

/// How a string is written.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) bytes: Vec<u8>,
    pub(super) huffman: bool,
}

/// A field as a sender may choose to write it. Indices are taken modulo what there is.
#[derive(Clone, Debug)]
pub(super) enum Choice {
    Indexed(usize),
    /// The first bits, the length of the index's prefix, a name or an index, and the value.
    Literal(u8, u32, Result<Text, usize>, Text),
}

// === impl Model ===

impl Default for Model {
    fn default() -> Self {
        Self { table: Vec::new(), max: 4096 }
    }
}

impl Model {
    pub(super) fn size(&self) -> usize {
        self.table.iter().map(|(name, value)| name.len() + value.len() + 32).sum()
    }

    fn pair(&self, index: usize) -> Pair {
        assert!(index > 0);
        match STATIC.get(index - 1) {
            Some(field) => (field.name.to_vec(), field.value.to_vec()),
            None => self.table[index - 1 - STATIC.len()].clone(),
        }
    }

    pub(super) fn resize(&mut self, max: usize) {
        self.max = max;
        while self.size() > max {
            self.table.pop();
        }
    }

    fn insert(&mut self, pair: Pair) {
        self.table.insert(0, pair);
        self.resize(self.max);
    }

    /// Writes a field, and says which it is.
    pub(super) fn write(&mut self, choice: &Choice, block: &mut Vec<u8>) -> Triple {
        let count = STATIC.len() + self.table.len();
        match choice {
            Choice::Indexed(index) => {
                let index = index % count + 1;
                integer(block, 0x80, 7, index);
                let (name, value) = self.pair(index);
                (name, value, false)
            }
            Choice::Literal(form, prefix, name, value) => {
                let plain = match name {
                    Ok(name) => {
                        integer(block, *form, *prefix, 0);
                        text(block, name);
                        name.bytes.clone()
                    }
                    Err(index) => {
                        integer(block, *form, *prefix, index % count + 1);
                        self.pair(index % count + 1).0
                    }
                };
                text(block, value);
                if *form == 0x40 {
                    self.insert((plain.clone(), value.bytes.clone()));
                }
                (plain, value.bytes.clone(), *form == 0x10)
            }
        }
    }

    /// Reads a block: the size updates at its front, and the fields.
    pub(super) fn read(&mut self, mut block: &[u8]) -> (Vec<usize>, Vec<Triple>) {
        let (mut updates, mut fields) = (Vec::new(), Vec::new());
        while let Some(&first) = block.first() {
            let field = if first >= 0x80 {
                let (name, value) = self.pair(take_integer(&mut block, 7));
                (name, value, false)
            } else if first & 0xe0 == 0x20 {
                assert!(fields.is_empty(), "a size update behind fields");
                let size = take_integer(&mut block, 5);
                self.resize(size);
                updates.push(size);
                continue;
            } else {
                let prefix = if first >= 0x40 { 6 } else { 4 };
                let name = match take_integer(&mut block, prefix) {
                    0 => take_text(&mut block),
                    index => self.pair(index).0,
                };
                let value = take_text(&mut block);
                if first >= 0x40 {
                    self.insert((name.clone(), value.clone()));
                }
                (name, value, first & 0xf0 == 0x10)
            };
            fields.push(field);
        }
        (updates, fields)
    }
}

// === helpers ===

pub(super) fn integer(block: &mut Vec<u8>, form: u8, prefix: u32, value: usize) {
    let most = 2_usize.pow(prefix) - 1;
    if value < most {
        return block.push(form + value as u8);
    }
    block.push(form + most as u8);
    let mut rest = value - most;
    while rest >= 128 {
        block.push((rest % 128 + 128) as u8);
        rest /= 128;
    }
    block.push(rest as u8);
}

pub(super) fn text(block: &mut Vec<u8>, text: &Text) {
    let coded = if text.huffman { huffman::tests::encode(&text.bytes) } else { text.bytes.clone() };
    integer(block, if text.huffman { 0x80 } else { 0 }, 7, coded.len());
    block.extend(coded);
}

fn take_integer(block: &mut &[u8], prefix: u32) -> usize {
    let most = 2_usize.pow(prefix) - 1;
    let first = usize::from(block[0]) & most;
    *block = &block[1..];
    if first < most {
        return first;
    }
    let mut value = most;
    for shift in 0.. {
        let byte = usize::from(block[0]);
        *block = &block[1..];
        value += (byte % 128) << (7 * shift);
        if byte < 128 {
            break;
        }
    }
    value
}

fn take_text(block: &mut &[u8]) -> Vec<u8> {
    let is_huffman = block[0] >= 128;
    let length = take_integer(block, 7);
    let (bytes, rest) = block.split_at(length);
    *block = rest;
    if !is_huffman {
        return bytes.to_vec();
    }
    let mut plain = Vec::new();
    huffman::decode(bytes, |byte| plain.push(byte)).unwrap();
    plain
}
