//! Finds where an HTTP/1 body ends (RFC 9112 §6 and §7) without changing a byte of it.

/// How a message's body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// By its length.
    Length(u64),
    /// By chunks.
    Chunked,
    /// Responses only: the body ends with the connection.
    UntilEof,
}

/// A body in transit.
#[derive(Debug)]
pub struct Body {
    state: State,
    loose: bool,
}

/// What [`Body::advance`] made of its input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that belong to this message.
    pub consumed: usize,
    /// Those of them that are content rather than framing.
    pub content: u64,
    /// The message ends after `consumed`.
    pub done: bool,
}

/// The bytes are not a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotChunked;

#[derive(Clone, Copy, Debug)]
enum State {
    Length(u64),
    UntilEof,
    /// In a chunk-size; digits seen so far, up to the 16 that fit a `u64`.
    Size {
        size: u64,
        digits: u8,
    },
    /// After the size, before the end of its line.
    Extension {
        size: u64,
    },
    /// After CR behind the size.
    SizeLf {
        size: u64,
    },
    Data(u64),
    /// The line end after a chunk's data.
    DataEnd,
    /// After CR behind the data.
    DataLf,
    /// At the start of a trailer line.
    Line,
    /// At the start of a trailer line, after CR.
    LastLf,
    /// In a trailer line.
    Trailer,
    /// After CR in a trailer line.
    TrailerLf,
    Done,
}

// === impl Body ===

impl Body {
    /// At its first byte.
    #[inline]
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { size: 0, digits: 0 },
            Framing::UntilEof => State::UntilEof,
        };
        Self { state, loose: false }
    }

    /// No byte of it is left.
    #[inline]
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// It ends with the connection.
    #[inline]
    pub fn is_until_eof(&self) -> bool {
        matches!(self.state, State::UntilEof)
    }

    /// Bytes that are content, whatever they are, before the next framing.
    #[inline]
    pub fn content_ahead(&self) -> u64 {
        match self.state {
            State::Length(left) | State::Data(left) => left,
            State::UntilEof => u64::MAX,
            _ => 0,
        }
    }

    /// Its framing has been such that strict recipients refuse it: lines that end in a bare LF, or spaces
    /// behind a length.
    #[inline]
    pub fn is_loose(&self) -> bool {
        self.loose
    }

    /// Takes the next bytes of the stream, up to the first that is wrong.
    ///
    /// # Errors
    /// Where the first byte is wrong.
    #[inline]
    pub fn advance(&mut self, input: &[u8]) -> Result<Progress, NotChunked> {
        let mut progress = Progress::default();
        while progress.consumed < input.len() && !self.is_done() {
            let rest = &input[progress.consumed..];
            let available = rest.len() as u64;
            match &mut self.state {
                State::Length(left) | State::Data(left) => {
                    let taken = available.min(*left);
                    *left -= taken;
                    progress.consumed += taken as usize;
                    progress.content += taken;
                    if *left == 0 {
                        self.state = match self.state {
                            State::Length(_) => State::Done,
                            _ => State::DataEnd,
                        };
                    }
                }
                State::UntilEof => {
                    progress.consumed = input.len();
                    progress.content += available;
                }
                _ => match self.state.framing(rest[0]) {
                    Ok(state) => {
                        self.loose |= self.state.is_loose(rest[0]);
                        self.state = state;
                        progress.consumed += 1;
                    }
                    Err(_) if progress.consumed > 0 => return Ok(progress),
                    Err(error) => return Err(error),
                },
            }
        }
        progress.done = self.is_done();
        Ok(progress)
    }
}

// === impl State ===

impl State {
    /// Whether strict recipients refuse this byte of chunked framing.
    #[inline]
    fn is_loose(self, byte: u8) -> bool {
        match byte {
            b'\n' => {
                !matches!(self, Self::SizeLf { .. } | Self::DataLf | Self::LastLf | Self::TrailerLf)
            }
            b' ' | b'\t' => matches!(self, Self::Size { .. }),
            _ => false,
        }
    }

    /// One byte of chunked framing. A bare LF ends a line, as in most parsers; about one behind an
    /// extension they differ, and about a bare CR anywhere.
    #[inline]
    fn framing(self, byte: u8) -> Result<Self, NotChunked> {
        Ok(match (self, byte) {
            (Self::Size { digits: 0, .. }, byte) if !byte.is_ascii_hexdigit() => {
                return Err(NotChunked);
            }
            (Self::Size { digits: 16, .. }, byte) if byte.is_ascii_hexdigit() => {
                return Err(NotChunked);
            }
            (Self::Size { size, digits }, byte) if byte.is_ascii_hexdigit() => {
                let digit = (byte as char).to_digit(16).ok_or(NotChunked)?;
                Self::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (Self::Size { size, .. } | Self::SizeLf { size }, b'\n') => match size {
                0 => Self::Line,
                size => Self::Data(size),
            },
            (Self::Size { size, .. } | Self::Extension { size }, b'\r') => Self::SizeLf { size },
            (Self::Size { size, .. }, b';' | b' ' | b'\t') => Self::Extension { size },
            (Self::Size { .. } | Self::SizeLf { .. }, _) | (Self::Extension { .. }, b'\n') => {
                return Err(NotChunked);
            }
            (extension @ Self::Extension { .. }, _) => extension,
            (Self::DataEnd, b'\r') => Self::DataLf,
            (Self::DataEnd | Self::DataLf, b'\n') => Self::Size { size: 0, digits: 0 },
            (Self::DataEnd | Self::DataLf, _) => return Err(NotChunked),
            (Self::Line, b'\r') => Self::LastLf,
            (Self::Line | Self::LastLf, b'\n') => Self::Done,
            (Self::LastLf, _) => return Err(NotChunked),
            (Self::Trailer, b'\r') => Self::TrailerLf,
            (Self::Trailer | Self::TrailerLf, b'\n') => Self::Line,
            (Self::TrailerLf, _) => return Err(NotChunked),
            (Self::Line | Self::Trailer, _) => Self::Trailer,
            (state @ (Self::Length(_) | Self::Data(_) | Self::UntilEof | Self::Done), _) => state,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes consumed, bytes of content, whether the body ended.
    type Found = (usize, u64, bool);

    fn run(framing: Framing, input: &[u8], step: usize) -> Result<Found, NotChunked> {
        let mut body = Body::new(framing);
        let (mut at, mut content) = (0, 0);
        for mut piece in input.chunks(step) {
            while !piece.is_empty() {
                let progress = body.advance(piece)?;
                at += progress.consumed;
                content += progress.content;
                piece = &piece[progress.consumed..];
                if progress.done {
                    return Ok((at, content, true));
                }
            }
        }
        Ok((at, content, false))
    }

    #[test]
    fn any_segmentation_finds_the_same_end() {
        let cases: &[(Framing, &[u8], Found)] = &[
            (Framing::Length(3), b"abcGET", (3, 3, true)),
            (Framing::Length(9), b"abc", (3, 3, false)),
            (Framing::UntilEof, b"abc", (3, 3, false)),
            (Framing::Chunked, b"0\r\n\r\nGET", (5, 0, true)),
            (Framing::Chunked, b"3\r\nabc\r\n0\r\n\r\nGET", (13, 3, true)),
            (
                Framing::Chunked,
                b"3;x=\"y\"\r\nabc\r\nA \r\n0123456789\r\n0\r\n\r\n",
                (35, 13, true),
            ),
            (Framing::Chunked, b"3\nabc\n0\n\nGET", (9, 3, true)),
            (Framing::Chunked, b"1\r\na\r\n0\r\nX: y\r\nZ: 0\r\n\r\nGET", (23, 1, true)),
            (Framing::Chunked, b"5\r\nab", (5, 2, false)),
        ];
        for (framing, input, expected) in cases {
            for step in 1..=input.len() {
                assert_eq!(run(*framing, input, step), Ok(*expected), "{framing:?} {step}");
            }
        }
    }

    #[test]
    fn what_is_not_chunked_is_noticed() {
        let inputs = [
            &b"x\r\n"[..],
            b"\r\n",
            b"3\r\nabcd",
            b"3x\r\n",
            b"11111111111111111\r\n",
            // What servers read in different ways.
            b"3\rabc",
            b"3;x\ry\r\n",
            b"3;x\nabc",
            b"3 \nabc",
            b"3\r\nabc\r\r\n",
            b"0\r\nX: a\rb\r\n",
            b"0\r\n\r\r\n",
        ];
        for input in inputs {
            for step in 1..=input.len() {
                assert_eq!(run(Framing::Chunked, input, step), Err(NotChunked), "{input:?}");
            }
        }
    }
}
