//! What may follow a broken rule.

use testkit::http2::{Frame, Peer, flag, frame, kind};

/// Error codes (RFC 9113, 7).
pub(crate) mod code {
    pub(crate) const PROTOCOL: u32 = 1;
    pub(crate) const FLOW_CONTROL: u32 = 3;
    pub(crate) const STREAM_CLOSED: u32 = 5;
    pub(crate) const FRAME_SIZE: u32 = 6;
    pub(crate) const REFUSED: u32 = 7;
    pub(crate) const CANCEL: u32 = 8;
    pub(crate) const COMPRESSION: u32 = 9;
    pub(crate) const CALM: u32 = 11;
}

/// What must follow.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Must {
    /// The connection ends, with GOAWAY and one of these codes.
    Connection(&'static [u32]),
    /// The stream is reset with one of these codes, or the connection ends with one. Where `answer`, the request may also be
    /// answered with 400 (8.1.1).
    Stream { stream: u32, codes: &'static [u32], answer: bool },
    /// Nothing: the connection goes on.
    Nothing,
}

/// Expects what must follow what was sent on `peer`.
#[track_caller]
pub(crate) fn expect(name: &str, peer: &mut Peer, must: Must) {
    #[allow(clippy::print_stdout, reason = "shown where a case hangs")]
    {
        println!("{name}: {must:?}");
    }
    let mut seen: Vec<Frame> = Vec::new();
    // Answered behind everything that was sent before it.
    peer.raw().offer(frame(kind::PING, 0, 0, b"the mark"));
    while let Some(next) = peer.next_frame() {
        seen.push(next.clone());
        match (next.kind, must) {
            (kind::GOAWAY, Must::Connection(codes) | Must::Stream { codes, .. }) => {
                assert!(codes.contains(&next.number(4)), "{name}: {next:?} does not say {codes:?}");
                ends(name, peer);
                return;
            }
            (kind::GOAWAY, Must::Nothing) => panic!("{name}: {next:?}"),
            (kind::RST_STREAM, Must::Stream { stream, codes, .. }) if next.stream == stream => {
                assert!(codes.contains(&next.number(0)), "{name}: {next:?} does not say {codes:?}");
                return alive(name, peer);
            }
            (kind::HEADERS, Must::Stream { stream, answer: true, .. }) if next.stream == stream => {
                assert_eq!(next.status(), Some(400), "{name}: {next:?}");
                return;
            }
            (kind::PING, Must::Nothing) if next.payload == b"the mark" => return,
            _ => {}
        }
    }
    panic!("{name}: the connection ended without a word: {must:?}; {seen:?}");
}

/// After GOAWAY with an error the connection is closed (5.4.1).
#[track_caller]
fn ends(name: &str, peer: &mut Peer) {
    let mut frames = 0;
    while let Some(frame) = peer.next_frame() {
        frames += 1;
        assert!(frames < 1000, "{name}: it goes on: {frame:?}");
    }
}

/// The connection still answers.
#[track_caller]
pub(crate) fn alive(name: &str, peer: &mut Peer) {
    peer.send(kind::PING, 0, 0, b"is it on");
    loop {
        let next = peer.next_frame().unwrap_or_else(|| panic!("{name}: the connection has ended"));
        assert_ne!(next.kind, kind::GOAWAY, "{name}: {next:?}");
        if next.kind == kind::PING && next.flags == flag::ACK && next.payload == b"is it on" {
            return;
        }
    }
}
