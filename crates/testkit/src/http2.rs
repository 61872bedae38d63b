//! One end of an HTTP/2 connection told frame by frame what to say, right or wrong (RFC 9113).

use std::net::SocketAddr;

use crate::raw::Raw;

/// Kinds of frames.
pub mod kind {
    #![allow(missing_docs)] // Each is explained in RFC 9113, section 6, under its name.
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    #![allow(missing_docs)] // As above.
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
    /// A head that is also the end of its stream.
    pub const END: u8 = END_STREAM | END_HEADERS;
}

/// What a client says before its first frame.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// See [`kind`].
    pub kind: u8,
    /// See [`flag`].
    pub flags: u8,
    /// Zero: the connection.
    pub stream: u32,
    /// What follows the header.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The number of 32 bits that the payload has at `at`: an error code, a window's increment.
    ///
    /// # Panics
    /// The payload is too short.
    #[track_caller]
    pub fn number(&self, at: usize) -> u32 {
        self.payload[at..].first_chunk().map(|bytes| u32::from_be_bytes(*bytes)).expect("a payload that is long enough")
    }

    /// The status in a header block that begins with it, where it does not come from the dynamic table.
    pub fn status(&self) -> Option<u16> {
        let text = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse().ok();
        match self.payload[..] {
            [index @ 0x88..=0x8e, ..] => Some([200, 204, 206, 304, 400, 404, 500][usize::from(index - 0x88)]),
            [0x48 | 0x08, 3, ref rest @ ..] => text(rest.get(..3)?),
            [0x48 | 0x08, length @ 0x82..=0x83, ref rest @ ..] => {
                // Huffman's code of digits: 0 to 2 are five bits, the others six, from 011001 on (RFC 7541, Appendix B).
                let bits = rest
                    .get(..usize::from(length & 0x7f))?
                    .iter()
                    .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
                let (mut left, mut status) = (8 * u32::from(length & 0x7f), 0);
                for _ in 0..3 {
                    let next = |width: u32| (bits >> (left - width)) & ((1 << width) - 1);
                    let (digit, width) = if next(5) < 3 { (next(5), 5) } else { (next(6).checked_sub(22)?, 6) };
                    left -= width;
                    status = status * 10 + u16::try_from(digit).ok()?;
                }
                Some(status)
            }
            _ => None,
        }
    }
}

/// The bytes of a frame.
///
/// # Panics
/// The payload does not fit into a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = u32::try_from(payload.len()).expect("a frame is short");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A payload of SETTINGS.
pub fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    settings.iter().flat_map(|(name, value)| name.to_be_bytes().into_iter().chain(value.to_be_bytes())).collect()
}

/// A header block of literals that enter no table.
///
/// # Panics
/// A name or a value has 127 bytes or more.
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut block = Vec::new();
    let text = |text: &[u8], block: &mut Vec<u8>| {
        block.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("a short string"));
        block.extend(text);
    };
    for (name, value) in fields {
        block.push(0);
        text(name.as_ref(), &mut block);
        text(value.as_ref(), &mut block);
    }
    block
}

impl From<Raw> for Peer {
    /// Takes over a connection on which all of what begins it was said.
    fn from(raw: Raw) -> Peer {
        Peer { raw }
    }
}

/// One end of a connection. SETTINGS and PING of the peer are answered when they are read past.
#[derive(Debug)]
pub struct Peer {
    raw: Raw,
}

impl Peer {
    /// A client that has said nothing yet.
    ///
    /// # Panics
    /// Nobody listens there.
    #[track_caller]
    pub fn silent(address: SocketAddr) -> Peer {
        Peer { raw: Raw::connect(address) }
    }

    /// A client that has said its preface and these settings.
    ///
    /// # Panics
    /// Nobody listens there.
    #[track_caller]
    pub fn connect(address: SocketAddr, values: &[(u16, u32)]) -> Peer {
        let mut peer = Peer::silent(address);
        peer.raw.send(PREFACE);
        peer.send(kind::SETTINGS, 0, 0, settings(values));
        peer
    }

    /// A server on an accepted connection, which has read the client's preface and said nothing yet.
    ///
    /// # Panics
    /// The client says something else.
    #[track_caller]
    pub fn silent_server(mut raw: Raw) -> Peer {
        raw.expect(PREFACE);
        Peer { raw }
    }

    /// The same, with these settings.
    ///
    /// # Panics
    /// The client says something else.
    #[track_caller]
    pub fn server(raw: Raw, values: &[(u16, u32)]) -> Peer {
        let mut peer = Peer::silent_server(raw);
        peer.send(kind::SETTINGS, 0, 0, settings(values));
        peer
    }

    /// The connection below.
    pub fn raw(&mut self) -> &mut Raw {
        &mut self.raw
    }

    /// Sends a frame; that the peer is gone is seen by reading.
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> &mut Peer {
        self.raw.offer(frame(kind, flags, stream, payload));
        self
    }

    /// The next frame of any kind, or `None` at the end.
    ///
    /// # Panics
    /// Neither comes.
    #[track_caller]
    pub fn next_of_all(&mut self) -> Option<Frame> {
        let header = self.raw.next_bytes(9)?;
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
        let payload = self.raw.next_bytes(number(&header[..3]) as usize)?;
        Some(Frame { kind: header[3], flags: header[4], stream: number(&header[5..]) & 0x7fff_ffff, payload })
    }

    /// The next frame that is neither SETTINGS nor an opened window nor a question, or `None` at the end.
    ///
    /// # Panics
    /// Neither comes.
    #[track_caller]
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            let frame = self.next_of_all()?;
            match frame.kind {
                kind::SETTINGS if frame.flags & flag::ACK == 0 => drop(self.send(kind::SETTINGS, flag::ACK, 0, b"")),
                kind::SETTINGS | kind::WINDOW_UPDATE => {}
                kind::PING if frame.flags & flag::ACK == 0 => drop(self.send(kind::PING, flag::ACK, 0, &frame.payload)),
                _ => return Some(frame),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::RawServer;

    #[test]
    fn frames_go_there_and_back() {
        let server = RawServer::start(|_, raw| {
            let mut peer = Peer::server(raw, &[(4, 1)]);
            let head = peer.next_frame().unwrap();
            assert_eq!((head.kind, head.flags, head.stream), (kind::HEADERS, flag::END, 1));
            assert_eq!(head.payload, b"\x00\x05:path\x01/");
            peer.send(kind::RST_STREAM, 0, 1, 8_u32.to_be_bytes());
            assert_eq!(peer.next_frame(), None);
        });
        let mut peer = Peer::connect(server.address(), &[]);
        peer.send(kind::HEADERS, flag::END, 1, block(&[(":path", "/")]));
        let reset = peer.next_frame().unwrap();
        assert_eq!((reset.kind, reset.stream, reset.number(0)), (kind::RST_STREAM, 1, 8));
        drop(peer);
        server.finish();
    }

    #[test]
    fn a_status_is_read_in_all_its_forms() {
        let status = |payload: &[u8]| Frame { kind: 1, flags: 4, stream: 1, payload: payload.to_vec() }.status();
        assert_eq!(status(b"\x88"), Some(200));
        assert_eq!(status(b"\x8e\x82"), Some(500));
        assert_eq!(status(b"\x08\x03503more"), Some(503));
        // RFC 7541, C.6.1 and C.6.2.
        assert_eq!(status(b"\x48\x82\x64\x02"), Some(302));
        assert_eq!(status(b"\x48\x83\x64\x0e\xff"), Some(307));
        assert_eq!(status(b"\xbe"), None);
        assert_eq!(status(b""), None);
    }
}
