//! One peer's stream cut into frames that are acted upon (RFC 9113 §4 and §6), in any segmentation.
//! The content of DATA passes as it comes; every other frame is whole.

use super::super::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, FRAME_HEAD, GOAWAY, HEADERS, PADDED, PING,
    PREFACE, PRIORITY, PRIORITY_FRAME, PUSH_PROMISE, RST_STREAM, SETTING, SETTINGS, WINDOW_UPDATE,
    be32,
};
use super::violation::{Code, Violation};

/// The largest payload until a receiver allows more, which is the least that it can allow
/// (SETTINGS_MAX_FRAME_SIZE, RFC 9113 §6.5.2). The relay does not.
pub(super) const MAX_FRAME: usize = 16_384;
/// DATA frames in a row that bring nothing, not even an end.
const MAX_EMPTY: u32 = 1000;
/// Beyond this a buffer is given back.
const BUFFER: usize = 1 << 10;

/// What a peer has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// Content, or a part of it.
    Data {
        stream: u32,
        bytes: &'a [u8],
        /// What it takes of the windows: padding counts (RFC 9113 §6.1).
        flow: u32,
        end: bool,
    },
    /// A header block, or its first part.
    Headers {
        stream: u32,
        fragment: &'a [u8],
        end_headers: bool,
        end_stream: bool,
    },
    /// A further part of the header block that is open.
    Continuation {
        fragment: &'a [u8],
        end_headers: bool,
    },
    Reset {
        stream: u32,
        code: u32,
    },
    /// Pairs of two and four bytes.
    Settings(&'a [u8]),
    Ping([u8; 8]),
    GoAway {
        last: u32,
        code: u32,
    },
    /// `by` is not checked.
    WindowUpdate {
        stream: u32,
        by: u32,
    },
    Push,
    /// PRIORITY, PRIORITY_UPDATE, answers to SETTINGS and PING, and frames that are not known.
    Other,
}

/// Reads the frames of one peer.
#[derive(Debug)]
pub(super) struct FrameReader {
    /// What is to come of the preface.
    preface: &'static [u8],
    /// The beginning of a frame.
    partial: Vec<u8>,
    /// `partial` is a frame that was handed out.
    is_used: bool,
    content: Option<Content>,
    /// Whose header block is open.
    block: Option<u32>,
    /// The first SETTINGS have come.
    greeted: bool,
    /// See [`MAX_EMPTY`].
    empty: u32,
}

/// A DATA frame that has begun.
#[derive(Clone, Copy, Debug)]
struct Content {
    stream: u32,
    left: usize,
    padding: usize,
    /// The length of the padding was a byte, which counts.
    extra: u32,
    end: bool,
}

#[derive(Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

// === impl FrameReader ===

impl FrameReader {
    pub(super) const fn of_client() -> Self {
        Self::new(PREFACE)
    }

    pub(super) const fn of_upstream() -> Self {
        Self::new(b"")
    }

    const fn new(preface: &'static [u8]) -> Self {
        Self {
            preface,
            partial: Vec::new(),
            is_used: false,
            content: None,
            block: None,
            greeted: false,
            empty: 0,
        }
    }

    /// Bytes of the heap that it holds.
    pub(super) const fn memory(&self) -> usize {
        self.partial.capacity()
    }

    /// The next frame; `None` if the input is used up.
    #[inline]
    pub(super) fn next<'a, 'b: 'a>(
        &'a mut self,
        input: &mut &'b [u8],
    ) -> Result<Option<Frame<'a>>, Violation> {
        if std::mem::take(&mut self.is_used) {
            self.partial.clear();
            if self.partial.capacity() > BUFFER {
                self.partial = Vec::new();
            }
        }
        if !self.preface.is_empty() {
            self.read_preface(input)?;
        }
        let content = match self.content {
            Some(content) => content,
            None => {
                let Some(head) = self.head(input)? else { return Ok(None) };
                if head.kind != DATA {
                    return self.whole(head, input);
                }
                let Some(content) = self.begin_data(head, input)? else { return Ok(None) };
                content
            }
        };
        if input.is_empty() && content.left > 0 {
            self.content = Some(content);
            return Ok(None);
        }
        Ok(Some(self.data(content, input)))
    }

    fn read_preface(&mut self, input: &mut &[u8]) -> Result<(), Violation> {
        let count = self.preface.len().min(input.len());
        if input[..count] != self.preface[..count] {
            return Err(Violation::new(Code::PROTOCOL_ERROR, "no HTTP/2 preface"));
        }
        self.preface = &self.preface[count..];
        *input = &input[count..];
        Ok(())
    }

    /// The head of the next frame, which stays where it is.
    #[inline]
    fn head(&mut self, input: &mut &[u8]) -> Result<Option<Head>, Violation> {
        let bytes = if self.partial.is_empty() && input.len() >= FRAME_HEAD {
            &input[..FRAME_HEAD]
        } else {
            self.collect(FRAME_HEAD, input);
            match self.partial.get(..FRAME_HEAD) {
                Some(bytes) => bytes,
                None => return Ok(None),
            }
        };
        let head = Head {
            length: (be32(&bytes[..4]) >> 8) as usize,
            kind: bytes[3],
            flags: bytes[4],
            stream: be32(&bytes[5..9]) & 0x7fff_ffff,
        };
        self.check(head)?;
        Ok(Some(head))
    }

    /// Moves bytes to `partial` until there are so many.
    fn collect(&mut self, size: usize, input: &mut &[u8]) {
        let (missing, behind) =
            input.split_at(size.saturating_sub(self.partial.len()).min(input.len()));
        self.partial.extend_from_slice(missing);
        *input = behind;
    }

    /// Where frames may stand, and how long they are: RFC 9113 §3.4, §4.2, §4.3 and §6.
    #[inline]
    fn check(&mut self, head: Head) -> Result<(), Violation> {
        let Head { length, kind, flags, stream } = head;
        let protocol = |reason| Err(Violation::new(Code::PROTOCOL_ERROR, reason));
        if !self.greeted {
            if kind != SETTINGS || stream != 0 || flags & ACK != 0 {
                return protocol("HTTP/2 does not start with SETTINGS");
            }
            self.greeted = true;
        }
        match self.block {
            Some(block) if kind != CONTINUATION || block != stream => {
                return protocol("a header block is interrupted");
            }
            None if kind == CONTINUATION => return protocol("CONTINUATION out of place"),
            _ => {}
        }
        let is_of_stream =
            matches!(kind, DATA | HEADERS | PRIORITY_FRAME | RST_STREAM | PUSH_PROMISE);
        let is_of_connection = matches!(kind, SETTINGS | PING | GOAWAY);
        if (is_of_stream && stream == 0) || (is_of_connection && stream != 0) {
            return protocol("a frame on the wrong stream");
        }
        let fits = match kind {
            PRIORITY_FRAME => length == 5,
            RST_STREAM | WINDOW_UPDATE => length == 4,
            PING => length == 8,
            GOAWAY => length >= 8,
            SETTINGS if flags & ACK != 0 => length == 0,
            SETTINGS => length.is_multiple_of(SETTING),
            DATA | HEADERS => {
                length
                    >= usize::from(flags & PADDED != 0)
                        + if kind == HEADERS && flags & PRIORITY != 0 { 5 } else { 0 }
            }
            _ => true,
        };
        if !fits || length > MAX_FRAME {
            return Err(Violation::new(Code::FRAME_SIZE_ERROR, "a frame of a wrong size"));
        }
        Ok(())
    }

    /// A frame that is handed out when all of it has come.
    #[inline]
    fn whole<'a, 'b: 'a>(
        &'a mut self,
        head: Head,
        input: &mut &'b [u8],
    ) -> Result<Option<Frame<'a>>, Violation> {
        let size = FRAME_HEAD + head.length;
        if self.partial.is_empty() && input.len() >= size {
            let (frame, behind) = input.split_at(size);
            *input = behind;
            self.note(head);
            return frame_of(head, &frame[FRAME_HEAD..]).map(Some);
        }
        self.collect(size, input);
        if self.partial.len() < size {
            return Ok(None);
        }
        self.is_used = true;
        self.note(head);
        frame_of(head, &self.partial[FRAME_HEAD..]).map(Some)
    }

    /// Whether a header block is open behind this frame.
    #[inline]
    fn note(&mut self, head: Head) {
        if matches!(head.kind, HEADERS | CONTINUATION) {
            self.block = (head.flags & END_HEADERS == 0).then_some(head.stream);
        }
    }

    /// Takes what stands in front of the content; `None` if that is cut.
    fn begin_data(&mut self, head: Head, input: &mut &[u8]) -> Result<Option<Content>, Violation> {
        let is_padded = head.flags & PADDED != 0;
        let fields = FRAME_HEAD + usize::from(is_padded);
        let last = if self.partial.is_empty() && input.len() >= fields {
            let last = input[fields - 1];
            *input = &input[fields..];
            last
        } else {
            self.collect(fields, input);
            if self.partial.len() < fields {
                return Ok(None);
            }
            let last = self.partial[fields - 1];
            self.partial.clear();
            last
        };
        let padding = if is_padded { usize::from(last) } else { 0 };
        let left = head.length - usize::from(is_padded);
        if padding > left {
            let reason = "DATA is shorter than its padding";
            return Err(Violation::new(Code::PROTOCOL_ERROR, reason));
        }
        let end = head.flags & END_STREAM != 0;
        self.empty = if left > padding || end { 0 } else { self.empty + 1 };
        if self.empty > MAX_EMPTY {
            return Err(Violation::new(Code::ENHANCE_YOUR_CALM, "too many empty DATA frames"));
        }
        let extra = u32::from(is_padded);
        Ok(Some(Content { stream: head.stream, left, padding, extra, end }))
    }

    /// What there is of a DATA frame's content.
    #[inline]
    fn data<'a>(&mut self, mut content: Content, input: &mut &'a [u8]) -> Frame<'a> {
        let (bytes, behind) = input.split_at((content.left - content.padding).min(input.len()));
        content.left -= bytes.len();
        let mut flow = bytes.len() as u32 + std::mem::take(&mut content.extra);
        *input = behind;
        if content.left == content.padding {
            let (padding, behind) = input.split_at(content.padding.min(input.len()));
            *input = behind;
            content.left -= padding.len();
            content.padding = content.left;
            flow += padding.len() as u32;
        }
        let is_over = content.left == 0;
        self.content = (!is_over).then_some(content);
        Frame::Data { stream: content.stream, bytes, flow, end: content.end && is_over }
    }
}

// === helpers ===

#[inline]
fn frame_of(head: Head, payload: &[u8]) -> Result<Frame<'_>, Violation> {
    let Head { flags, stream, .. } = head;
    let end_headers = flags & END_HEADERS != 0;
    Ok(match head.kind {
        HEADERS => {
            let end_stream = flags & END_STREAM != 0;
            Frame::Headers { stream, fragment: fragment(head, payload)?, end_headers, end_stream }
        }
        CONTINUATION => Frame::Continuation { fragment: payload, end_headers },
        RST_STREAM => Frame::Reset { stream, code: be32(payload) },
        SETTINGS if flags & ACK == 0 => Frame::Settings(payload),
        PING if flags & ACK == 0 => {
            let mut opaque = [0; 8];
            opaque.copy_from_slice(payload);
            Frame::Ping(opaque)
        }
        GOAWAY => {
            Frame::GoAway { last: be32(&payload[..4]) & 0x7fff_ffff, code: be32(&payload[4..8]) }
        }
        WINDOW_UPDATE => Frame::WindowUpdate { stream, by: be32(payload) & 0x7fff_ffff },
        PUSH_PROMISE => Frame::Push,
        _ => Frame::Other,
    })
}

/// A HEADERS frame without padding and priority.
#[inline]
fn fragment(head: Head, mut payload: &[u8]) -> Result<&[u8], Violation> {
    let mut padding = 0;
    if head.flags & PADDED != 0 {
        padding = usize::from(payload[0]);
        payload = &payload[1..];
    }
    if head.flags & PRIORITY != 0 {
        payload = &payload[5..];
    }
    let Some(length) = payload.len().checked_sub(padding) else {
        let reason = "HEADERS are shorter than their padding";
        return Err(Violation::new(Code::PROTOCOL_ERROR, reason));
    };
    Ok(&payload[..length])
}
