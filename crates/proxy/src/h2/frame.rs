//! Frames of HTTP/2 (RFC 9113, sections 4 and 6): their headers, their payloads, and the rules that need no more than the frame
//! to be checked.

/// Bytes of a frame's header.
pub(crate) const HEADER: usize = 9;

/// The largest payload that a peer may send before it has read another setting (6.5.2), and the one that we never raise.
pub(crate) const DEFAULT_MAX_FRAME: u32 = 16_384;

/// The largest window (6.9.1).
pub(crate) const MAX_WINDOW: u32 = (1 << 31) - 1;

/// What a client says before its first frame (3.4).
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Flags of frames; which of them a frame knows depends on its kind.
pub(crate) mod flag {
    /// DATA and HEADERS: the sender's half of the stream is over.
    pub(crate) const END_STREAM: u8 = 0x1;
    /// SETTINGS and PING: an answer.
    pub(crate) const ACK: u8 = 0x1;
    /// HEADERS and CONTINUATION: the header block is whole.
    pub(crate) const END_HEADERS: u8 = 0x4;
    /// DATA and HEADERS: see [`super::unpad`].
    pub(crate) const PADDED: u8 = 0x8;
    /// HEADERS: five bytes of priority come first.
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// Names of settings (6.5.2; RFC 8441, 3).
pub(crate) mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 5;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub(crate) const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Bytes of a body.
    Data,
    /// The first or only part of a header block.
    Headers,
    /// An advice that nobody heeds any more (5.3).
    Priority,
    /// RST_STREAM: a stream is cut off.
    Reset,
    /// Settings, or their acknowledgement.
    Settings,
    /// PUSH_PROMISE, which we refuse by our settings.
    Push,
    /// A question whether the peer is there, or the answer.
    Ping,
    /// The sender takes no further streams.
    GoAway,
    /// The receiver may send so many bytes more.
    WindowUpdate,
    /// The rest of a header block.
    Continuation,
    /// Something to be ignored (4.1).
    Unknown(u8),
}

impl Kind {
    const fn number(self) -> u8 {
        match self {
            Kind::Data => 0,
            Kind::Headers => 1,
            Kind::Priority => 2,
            Kind::Reset => 3,
            Kind::Settings => 4,
            Kind::Push => 5,
            Kind::Ping => 6,
            Kind::GoAway => 7,
            Kind::WindowUpdate => 8,
            Kind::Continuation => 9,
            Kind::Unknown(number) => number,
        }
    }

    const fn of(number: u8) -> Kind {
        match number {
            0 => Kind::Data,
            1 => Kind::Headers,
            2 => Kind::Priority,
            3 => Kind::Reset,
            4 => Kind::Settings,
            5 => Kind::Push,
            6 => Kind::Ping,
            7 => Kind::GoAway,
            8 => Kind::WindowUpdate,
            9 => Kind::Continuation,
            _ => Kind::Unknown(number),
        }
    }
}

/// Why a stream or a connection ends (7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    NoError,
    ProtocolError,
    InternalError,
    FlowControl,
    SettingsTimeout,
    StreamClosed,
    FrameSize,
    Refused,
    Cancel,
    Compression,
    Connect,
    EnhanceYourCalm,
    InadequateSecurity,
    Http11Required,
    /// Something that no specification we know names; to be taken like [`Code::InternalError`].
    Other(u32),
}

impl Code {
    pub(crate) const fn number(self) -> u32 {
        match self {
            Code::NoError => 0,
            Code::ProtocolError => 1,
            Code::InternalError => 2,
            Code::FlowControl => 3,
            Code::SettingsTimeout => 4,
            Code::StreamClosed => 5,
            Code::FrameSize => 6,
            Code::Refused => 7,
            Code::Cancel => 8,
            Code::Compression => 9,
            Code::Connect => 10,
            Code::EnhanceYourCalm => 11,
            Code::InadequateSecurity => 12,
            Code::Http11Required => 13,
            Code::Other(number) => number,
        }
    }

    pub(crate) const fn of(number: u32) -> Code {
        match number {
            0 => Code::NoError,
            1 => Code::ProtocolError,
            2 => Code::InternalError,
            3 => Code::FlowControl,
            4 => Code::SettingsTimeout,
            5 => Code::StreamClosed,
            6 => Code::FrameSize,
            7 => Code::Refused,
            8 => Code::Cancel,
            9 => Code::Compression,
            10 => Code::Connect,
            11 => Code::EnhanceYourCalm,
            12 => Code::InadequateSecurity,
            13 => Code::Http11Required,
            _ => Code::Other(number),
        }
    }

    /// The name that the specification gives it, for people.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Code::NoError => "NO_ERROR",
            Code::ProtocolError => "PROTOCOL_ERROR",
            Code::InternalError => "INTERNAL_ERROR",
            Code::FlowControl => "FLOW_CONTROL_ERROR",
            Code::SettingsTimeout => "SETTINGS_TIMEOUT",
            Code::StreamClosed => "STREAM_CLOSED",
            Code::FrameSize => "FRAME_SIZE_ERROR",
            Code::Refused => "REFUSED_STREAM",
            Code::Cancel => "CANCEL",
            Code::Compression => "COMPRESSION_ERROR",
            Code::Connect => "CONNECT_ERROR",
            Code::EnhanceYourCalm => "ENHANCE_YOUR_CALM",
            Code::InadequateSecurity => "INADEQUATE_SECURITY",
            Code::Http11Required => "HTTP_1_1_REQUIRED",
            Code::Other(_) => "an unknown code",
        }
    }
}

/// A frame breaks the specification, and the connection must end (5.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub(crate) struct Broken {
    /// What GOAWAY says.
    pub(crate) code: Code,
    /// The frame and the rule, for people.
    pub(crate) what: &'static str,
}

impl Broken {
    pub(crate) const fn protocol(what: &'static str) -> Broken {
        Broken { code: Code::ProtocolError, what }
    }

    pub(crate) const fn size(what: &'static str) -> Broken {
        Broken { code: Code::FrameSize, what }
    }
}

/// What stands before a payload (4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Bytes of the payload, 24 bits.
    pub(crate) length: u32,
    pub(crate) kind: Kind,
    /// See [`flag`].
    pub(crate) flags: u8,
    /// Zero: the connection.
    pub(crate) stream: u32,
}

impl Header {
    #[inline]
    pub(crate) fn parse(bytes: &[u8; HEADER]) -> Header {
        let [a, b, c, kind, flags, s, t, u, v] = *bytes;
        let length = u32::from_be_bytes([0, a, b, c]);
        // The top bit is reserved, to be ignored.
        let stream = u32::from_be_bytes([s, t, u, v]) & MAX_WINDOW;
        Header { length, kind: Kind::of(kind), flags, stream }
    }

    #[inline]
    pub(crate) fn bytes(&self) -> [u8; HEADER] {
        let [_, a, b, c] = self.length.to_be_bytes();
        let [s, t, u, v] = self.stream.to_be_bytes();
        [a, b, c, self.kind.number(), self.flags, s, t, u, v]
    }

    #[inline]
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes());
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Checks what the header alone shows: the length, and whether the kind of frame is of a stream or of the connection. A
    /// PRIORITY of a wrong length, which breaks no more than its stream (6.3), passes.
    ///
    /// # Errors
    /// The connection must end.
    #[inline]
    pub(crate) fn check(&self, max_frame: u32) -> Result<(), Broken> {
        if self.length > max_frame {
            return Err(Broken::size("a frame is larger than the settings allow"));
        }
        let (of_stream, fits) = match self.kind {
            Kind::Data | Kind::Headers | Kind::Priority | Kind::Push | Kind::Continuation => (Some(true), true),
            Kind::Reset => (Some(true), self.length == 4),
            Kind::Settings if self.has(flag::ACK) => (Some(false), self.length == 0),
            Kind::Settings => (Some(false), self.length.is_multiple_of(6)),
            Kind::Ping => (Some(false), self.length == 8),
            Kind::GoAway => (Some(false), self.length >= 8),
            Kind::WindowUpdate => (None, self.length == 4),
            Kind::Unknown(_) => (None, true),
        };
        match of_stream {
            Some(true) if self.stream == 0 => Err(Broken::protocol("a frame of a stream names none")),
            Some(false) if self.stream != 0 => Err(Broken::protocol("a frame of the connection names a stream")),
            _ if !fits => Err(Broken::size("a frame has a length that its kind does not have")),
            _ => Ok(()),
        }
    }
}

/// The payload of DATA or HEADERS without its padding (6.1).
///
/// # Errors
/// The padding is longer than the rest of the frame.
#[inline]
pub(crate) fn unpad(flags: u8, payload: &[u8]) -> Result<&[u8], Broken> {
    if flags & flag::PADDED == 0 {
        return Ok(payload);
    }
    let (&padding, rest) = payload.split_first().ok_or(Broken::size("a padded frame is empty"))?;
    let length = rest.len().checked_sub(usize::from(padding));
    length.map(|length| &rest[..length]).ok_or(Broken::protocol("a frame's padding is longer than the frame"))
}

/// The part of a header block in a HEADERS frame's payload, without padding and priority; with the stream that the priority
/// depends on, which must not be the frame's own (RFC 7540, 5.3.1).
///
/// # Errors
/// The payload is shorter than its flags say.
pub(crate) fn block_of(flags: u8, payload: &[u8]) -> Result<(&[u8], Option<u32>), Broken> {
    let block = unpad(flags, payload)?;
    if flags & flag::PRIORITY == 0 {
        return Ok((block, None));
    }
    let (first, block) = block.split_at_checked(5).ok_or(Broken::size("HEADERS ends within its priority"))?;
    Ok((block, dependency(first)))
}

/// The stream that a PRIORITY frame's payload depends on; `None`: the payload is too short.
pub(crate) fn dependency(payload: &[u8]) -> Option<u32> {
    first_u32(payload).map(|stream| stream & MAX_WINDOW)
}

fn first_u32(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// Names and values in a SETTINGS frame's payload, in order. What is not known is to be ignored.
pub(crate) fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    let (settings, _) = payload.as_chunks::<6>();
    settings.iter().map(|[a, b, rest @ ..]| (u16::from_be_bytes([*a, *b]), u32::from_be_bytes(*rest)))
}

/// Checks a setting's value (6.5.2).
///
/// # Errors
/// The connection must end.
pub(crate) fn check_setting(name: u16, value: u32) -> Result<(), Broken> {
    match name {
        setting::ENABLE_PUSH if value > 1 => Err(Broken::protocol("SETTINGS_ENABLE_PUSH is neither 0 nor 1")),
        setting::INITIAL_WINDOW_SIZE if value > MAX_WINDOW => {
            Err(Broken { code: Code::FlowControl, what: "SETTINGS_INITIAL_WINDOW_SIZE is too large" })
        }
        setting::MAX_FRAME_SIZE if !(DEFAULT_MAX_FRAME..1 << 24).contains(&value) => {
            Err(Broken::protocol("SETTINGS_MAX_FRAME_SIZE is not between 16,384 and 16,777,215"))
        }
        setting::ENABLE_CONNECT_PROTOCOL if value > 1 => {
            Err(Broken::protocol("SETTINGS_ENABLE_CONNECT_PROTOCOL is neither 0 nor 1"))
        }
        _ => Ok(()),
    }
}

/// The code in an RST_STREAM's payload, whose length was checked.
pub(crate) fn reset_code(payload: &[u8]) -> Code {
    Code::of(first_u32(payload).unwrap_or_default())
}

/// The increment in a WINDOW_UPDATE's payload, whose length was checked. Zero is an error, of the stream or of the connection.
#[inline]
pub(crate) fn increment(payload: &[u8]) -> u32 {
    first_u32(payload).unwrap_or_default() & MAX_WINDOW
}

/// The last stream that the peer has taken or will take, and why it leaves, from a GOAWAY's payload, whose length was checked.
pub(crate) fn goaway(payload: &[u8]) -> (u32, Code) {
    let last = first_u32(payload).unwrap_or_default() & MAX_WINDOW;
    (last, Code::of(payload.get(4..).and_then(first_u32).unwrap_or_default()))
}

/// Appends a SETTINGS frame.
pub(crate) fn write_settings(settings: &[(u16, u32)], out: &mut Vec<u8>) {
    // There are no more than a handful of settings.
    Header { length: 6 * settings.len() as u32, kind: Kind::Settings, flags: 0, stream: 0 }.write(out);
    for (name, value) in settings {
        out.extend_from_slice(&name.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Appends the answer to SETTINGS.
pub(crate) fn write_settings_ack(out: &mut Vec<u8>) {
    Header { length: 0, kind: Kind::Settings, flags: flag::ACK, stream: 0 }.write(out);
}

/// Appends a PING, or the answer to one.
pub(crate) fn write_ping(ack: bool, opaque: [u8; 8], out: &mut Vec<u8>) {
    Header { length: 8, kind: Kind::Ping, flags: if ack { flag::ACK } else { 0 }, stream: 0 }.write(out);
    out.extend_from_slice(&opaque);
}

/// Appends a GOAWAY without text.
pub(crate) fn write_goaway(last: u32, code: Code, out: &mut Vec<u8>) {
    Header { length: 8, kind: Kind::GoAway, flags: 0, stream: 0 }.write(out);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&code.number().to_be_bytes());
}

/// Appends an RST_STREAM.
pub(crate) fn write_reset(stream: u32, code: Code, out: &mut Vec<u8>) {
    Header { length: 4, kind: Kind::Reset, flags: 0, stream }.write(out);
    out.extend_from_slice(&code.number().to_be_bytes());
}

/// Appends a WINDOW_UPDATE of a stream, or of the connection (0).
pub(crate) fn write_window_update(stream: u32, increment: u32, out: &mut Vec<u8>) {
    Header { length: 4, kind: Kind::WindowUpdate, flags: 0, stream }.write(out);
    out.extend_from_slice(&increment.to_be_bytes());
}

/// Leaves room for the header of a HEADERS frame, behind which its block is encoded; [`close_block`] takes what this returns.
#[inline]
pub(crate) fn open_block(out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(&[0; HEADER]);
    out.len() - HEADER
}

/// Makes the block from [`open_block`] to the end of `out` the payload of HEADERS, and of CONTINUATION where it is larger than
/// the peer's `max_frame`.
#[inline]
pub(crate) fn close_block(start: usize, stream: u32, end_stream: bool, max_frame: u32, out: &mut Vec<u8>) {
    let length = out.len() - start - HEADER;
    let end = if end_stream { flag::END_STREAM } else { 0 };
    let flags = if length <= max_frame as usize { end | flag::END_HEADERS } else { end };
    let first = length.min(max_frame as usize) as u32;
    let header = Header { length: first, kind: Kind::Headers, flags, stream };
    out[start..start + HEADER].copy_from_slice(&header.bytes());
    if length > max_frame as usize {
        continue_block(start + HEADER + max_frame as usize, stream, max_frame, out);
    }
}

/// Puts what stands in `out` from `start` on into CONTINUATION frames.
#[cold]
fn continue_block(start: usize, stream: u32, max_frame: u32, out: &mut Vec<u8>) {
    let rest = out.split_off(start);
    let mut pieces = rest.chunks(max_frame as usize).peekable();
    while let Some(piece) = pieces.next() {
        let flags = if pieces.peek().is_none() { flag::END_HEADERS } else { 0 };
        // At most `max_frame`.
        Header { length: piece.len() as u32, kind: Kind::Continuation, flags, stream }.write(out);
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests;
