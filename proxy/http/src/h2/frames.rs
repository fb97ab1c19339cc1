//! One peer's stream cut into frames (RFC 9113 §4 and §6), in any segmentation and without a copy
//! of more than a frame's fixed fields. Frames that say nothing about exchanges are skipped.

use crate::ParseError;

/// What a client sends first (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame type (RFC 9113 §6).
pub const DATA: u8 = 0;
/// A frame type.
pub const HEADERS: u8 = 1;
/// A frame type.
pub const PRIORITY_FRAME: u8 = 2;
/// A frame type.
pub const RST_STREAM: u8 = 3;
/// A frame type.
pub const SETTINGS: u8 = 4;
/// A frame type.
pub const PUSH_PROMISE: u8 = 5;
/// A frame type.
pub const PING: u8 = 6;
/// A frame type.
pub const GOAWAY: u8 = 7;
/// A frame type.
pub const WINDOW_UPDATE: u8 = 8;
/// A frame type.
pub const CONTINUATION: u8 = 9;

/// On SETTINGS.
pub const ACK: u8 = 1;
/// On DATA and HEADERS.
pub const END_STREAM: u8 = 1;
/// On HEADERS, PUSH_PROMISE and CONTINUATION.
pub const END_HEADERS: u8 = 4;
/// On DATA, HEADERS and PUSH_PROMISE.
pub const PADDED: u8 = 8;
/// On HEADERS.
pub const PRIORITY: u8 = 0x20;

/// Bytes in front of a frame's payload.
pub(super) const FRAME_HEAD: usize = 9;
/// Bytes of a setting.
pub(super) const SETTING: usize = 6;

/// What a peer has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event<'a> {
    /// Part of a stream's content, padding excluded.
    Data {
        stream: u32,
        count: usize,
        end: bool,
    },
    /// Part of a header block; `last` if it ends with this part.
    Fragment {
        bytes: &'a [u8],
        last: Option<Block>,
    },
    Reset {
        stream: u32,
        code: u32,
    },
    Setting {
        id: u16,
        value: u32,
    },
    GoAway {
        last: u32,
        code: u32,
    },
}

/// Whose header block it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) stream: u32,
    pub(super) end_stream: bool,
    /// The stream that a PUSH_PROMISE announces.
    pub(super) promised: Option<u32>,
}

/// Reads the frames of one peer.
pub(super) struct Frames {
    state: State,
    kind: u8,
    flags: u8,
    stream: u32,
    /// Bytes of the payload that are still to come, padding included.
    left: usize,
    padding: usize,
    /// Fixed fields that came in pieces, or how much of the preface came.
    fixed: [u8; FRAME_HEAD],
    have: usize,
    /// The header block that is open.
    block: Option<Block>,
    /// The first SETTINGS have come.
    greeted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Preface,
    Head,
    /// So many bytes of fixed fields in front of the content.
    Fields(usize),
    Settings,
    Content,
    Skip,
}

// === impl Frames ===

impl Frames {
    pub(super) fn of_client() -> Self {
        Self::new(State::Preface)
    }

    pub(super) fn of_upstream() -> Self {
        Self::new(State::Head)
    }

    fn new(state: State) -> Self {
        Self {
            state,
            kind: 0,
            flags: 0,
            stream: 0,
            left: 0,
            padding: 0,
            fixed: [0; FRAME_HEAD],
            have: 0,
            block: None,
            greeted: false,
        }
    }

    /// Whether the stream is between two frames that another one may come between, the first
    /// SETTINGS behind it.
    #[inline]
    pub(super) fn is_between(&self) -> bool {
        self.greeted && self.state == State::Head && self.have == 0 && self.block.is_none()
    }

    /// Bytes of the frame that have no meaning, whatever they are.
    pub(super) fn content_ahead(&self) -> u64 {
        match self.state {
            State::Content if self.kind == DATA => (self.left - self.padding) as u64,
            State::Skip => self.left as u64,
            _ => 0,
        }
    }

    /// The next event. `None`: the input is used up.
    #[inline]
    pub(super) fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
    ) -> Result<Option<Event<'a>>, ParseError> {
        loop {
            let event = match self.state {
                State::Preface => {
                    if !self.preface(input)? {
                        return Ok(None);
                    }
                    None
                }
                State::Head => {
                    let Some(head) = self.fixed(FRAME_HEAD, input) else { return Ok(None) };
                    self.start(head)?;
                    None
                }
                State::Fields(count) => {
                    let Some(fields) = self.fixed(count, input) else { return Ok(None) };
                    self.left -= count;
                    self.fields(&fields)?
                }
                State::Settings => {
                    let Some(setting) = self.fixed(SETTING, input) else { return Ok(None) };
                    self.left -= SETTING;
                    if self.left == 0 {
                        self.state = State::Head;
                    }
                    let [a, b, rest @ ..] = setting;
                    Some(Event::Setting { id: u16::from_be_bytes([a, b]), value: be32(&rest) })
                }
                State::Content => match self.content(input) {
                    Some(event) => Some(event),
                    None => return Ok(None),
                },
                State::Skip => {
                    take(input, &mut self.left, 0);
                    if self.left > 0 {
                        return Ok(None);
                    }
                    self.state = State::Head;
                    None
                }
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    #[inline]
    fn preface(&mut self, input: &mut &[u8]) -> Result<bool, ParseError> {
        let rest = &PREFACE[self.have..];
        let count = rest.len().min(input.len());
        let (seen, behind) = input.split_at(count);
        if seen != &rest[..count] {
            return Err(ParseError::Preface);
        }
        *input = behind;
        self.have += count;
        let complete = self.have == PREFACE.len();
        if complete {
            self.have = 0;
            self.state = State::Head;
        }
        Ok(complete)
    }

    /// The next `count` bytes, once they have come.
    #[inline]
    fn fixed(&mut self, count: usize, input: &mut &[u8]) -> Option<[u8; FRAME_HEAD]> {
        if self.have == 0
            && count == FRAME_HEAD
            && let Some((head, behind)) = input.split_first_chunk()
        {
            *input = behind;
            return Some(*head);
        }
        let taken = (count - self.have).min(input.len());
        let (bytes, behind) = input.split_at(taken);
        self.fixed[self.have..self.have + taken].copy_from_slice(bytes);
        *input = behind;
        self.have += taken;
        if self.have < count {
            return None;
        }
        self.have = 0;
        Some(self.fixed)
    }

    /// A frame's head has come (RFC 9113 §4.1).
    #[inline]
    fn start(&mut self, head: [u8; FRAME_HEAD]) -> Result<(), ParseError> {
        let [l0, l1, l2, kind, flags, stream @ ..] = head;
        self.kind = kind;
        self.flags = flags;
        self.stream = be32(&stream) & 0x7fff_ffff;
        self.left = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        self.padding = 0;
        self.check()?;
        let padding = usize::from(flags & PADDED != 0);
        let priority = if flags & PRIORITY != 0 { 5 } else { 0 };
        self.state = match kind {
            DATA if padding == 0 => State::Content,
            DATA => State::Fields(padding),
            HEADERS if padding + priority == 0 => self.fragments(None),
            HEADERS => State::Fields(padding + priority),
            PUSH_PROMISE => State::Fields(padding + 4),
            CONTINUATION => State::Content,
            RST_STREAM => State::Fields(4),
            GOAWAY => State::Fields(8),
            SETTINGS if self.left > 0 && flags & ACK == 0 => State::Settings,
            _ => State::Skip,
        };
        match self.state {
            State::Fields(count) if self.left < count => Err(ParseError::ShortFrame),
            State::Settings if !self.left.is_multiple_of(SETTING) => {
                Err(ParseError::SettingsLength)
            }
            _ => Ok(()),
        }
    }

    /// Where frames may stand: RFC 9113 §3.4, §4.3 and §6.
    #[inline]
    fn check(&mut self) -> Result<(), ParseError> {
        if !self.greeted {
            if self.kind != SETTINGS || self.stream != 0 || self.flags & ACK != 0 {
                return Err(ParseError::NoSettings);
            }
            self.greeted = true;
        }
        let continued = self.block.is_some_and(|block| block.stream == self.stream);
        match (self.kind == CONTINUATION, self.block) {
            (true, _) if !continued => return Err(ParseError::Continuation),
            (false, Some(_)) => return Err(ParseError::InterruptedBlock),
            _ => {}
        }
        match self.kind {
            DATA | HEADERS | RST_STREAM | PUSH_PROMISE if self.stream == 0 => {
                Err(ParseError::StreamFrame)
            }
            SETTINGS | GOAWAY if self.stream != 0 => Err(ParseError::ConnectionFrame),
            _ => Ok(()),
        }
    }

    /// The fields in front of a frame's content have come.
    #[inline]
    fn fields(&mut self, fields: &[u8; FRAME_HEAD]) -> Result<Option<Event<'static>>, ParseError> {
        let stream = self.stream;
        if matches!(self.kind, RST_STREAM | GOAWAY) {
            self.state = State::Skip;
            let [first, second] = [be32(&fields[..4]), be32(&fields[4..8])];
            return Ok(Some(match self.kind {
                RST_STREAM => Event::Reset { stream, code: first },
                _ => Event::GoAway { last: first & 0x7fff_ffff, code: second },
            }));
        }
        let padded = self.flags & PADDED != 0;
        if padded {
            self.padding = usize::from(fields[0]);
            if self.padding > self.left {
                return Err(ParseError::Padding);
            }
        }
        let at = usize::from(padded);
        self.state = match self.kind {
            HEADERS => self.fragments(None),
            PUSH_PROMISE => self.fragments(Some(be32(&fields[at..at + 4]) & 0x7fff_ffff)),
            _ => State::Content,
        };
        Ok(None)
    }

    /// A header block starts.
    #[inline]
    fn fragments(&mut self, promised: Option<u32>) -> State {
        let end_stream = self.kind == HEADERS && self.flags & END_STREAM != 0;
        self.block = Some(Block { stream: self.stream, end_stream, promised });
        State::Content
    }

    /// What has come of DATA or of a header block. `None`: nothing.
    #[inline]
    fn content<'a>(&mut self, input: &mut &'a [u8]) -> Option<Event<'a>> {
        if self.left > self.padding && input.is_empty() {
            return None;
        }
        let bytes = take(input, &mut self.left, self.padding);
        let done = self.left == self.padding;
        if done {
            self.state = if self.left == 0 { State::Head } else { State::Skip };
        }
        Some(match self.kind {
            DATA => {
                let end = done && self.flags & END_STREAM != 0;
                Event::Data { stream: self.stream, count: bytes.len(), end }
            }
            _ => {
                let last =
                    if done && self.flags & END_HEADERS != 0 { self.block.take() } else { None };
                Event::Fragment { bytes, last }
            }
        })
    }
}

// === helpers ===

/// Takes what there is of `left` down to `keep`.
#[inline]
fn take<'a>(input: &mut &'a [u8], left: &mut usize, keep: usize) -> &'a [u8] {
    let (taken, behind) = input.split_at((*left - keep).min(input.len()));
    *input = behind;
    *left -= taken.len();
    taken
}

#[inline]
pub(super) fn be32(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |value, byte| value << 8 | u32::from(*byte))
}
