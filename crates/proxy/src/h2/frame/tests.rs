use proptest::prelude::*;

use super::*;
use crate::h2::fuzzing;

fn header(length: u32, kind: Kind, flags: u8, stream: u32) -> Header {
    Header { length, kind, flags, stream }
}

#[test]
fn a_header_is_nine_bytes() {
    let bytes = b"\x01\x02\x03\x08\x2d\x81\x02\x03\x04";
    let parsed = Header::parse(bytes);
    assert_eq!(parsed, header(0x01_0203, Kind::WindowUpdate, 0x2d, 0x0102_0304));
    assert_eq!(&parsed.bytes(), b"\x01\x02\x03\x08\x2d\x01\x02\x03\x04", "without the reserved bit");
    for number in 0..=255 {
        assert_eq!(Kind::of(number).number(), number);
        assert_eq!(Code::of(number.into()).number(), u32::from(number));
    }
}

#[test]
fn what_a_header_shows_is_checked() {
    let largest = DEFAULT_MAX_FRAME;
    let size = |what: Header| what.check(largest).unwrap_err().code == Code::FrameSize;
    let protocol = |what: Header| what.check(largest).unwrap_err().code == Code::ProtocolError;
    let fine = |what: Header| what.check(largest).is_ok();
    for kind in [Kind::Data, Kind::Headers, Kind::Continuation, Kind::Push, Kind::Priority, Kind::Unknown(0xfe)] {
        assert!(
            fine(header(0, kind, 0, 1)) && fine(header(largest, kind, 0, 1)) && size(header(largest + 1, kind, 0, 1))
        );
        assert!(matches!(kind, Kind::Unknown(_)) || protocol(header(0, kind, 0, 0)), "{kind:?}");
    }
    for (kind, length) in
        [(Kind::Settings, 6), (Kind::Settings, 0), (Kind::Ping, 8), (Kind::GoAway, 8), (Kind::GoAway, 20)]
    {
        assert!(fine(header(length, kind, 0, 0)) && protocol(header(length, kind, 0, 1)), "{kind:?}");
    }
    for (kind, flags, length) in [
        (Kind::Settings, 0, 5),
        (Kind::Settings, flag::ACK, 6),
        (Kind::Ping, 0, 7),
        (Kind::Ping, flag::ACK, 9),
        (Kind::GoAway, 0, 7),
        (Kind::WindowUpdate, 0, 5),
    ] {
        assert!(size(header(length, kind, flags, 0)), "{kind:?}");
    }
    assert!(size(header(3, Kind::Reset, 0, 1)) && protocol(header(4, Kind::Reset, 0, 0)));
    assert!(fine(header(4, Kind::WindowUpdate, 0, 0)) && fine(header(4, Kind::WindowUpdate, 0, 1)));
}

#[test]
fn padding_and_priority_are_taken_off() {
    assert_eq!(unpad(0, b"\x02abcd"), Ok(&b"\x02abcd"[..]));
    assert_eq!(unpad(flag::PADDED, b"\x02abcd"), Ok(&b"ab"[..]));
    assert_eq!(unpad(flag::PADDED, b"\x04abcd"), Ok(&b""[..]));
    assert_eq!(unpad(flag::PADDED, b"\x05abcd").unwrap_err().code, Code::ProtocolError);
    assert_eq!(unpad(flag::PADDED, b"").unwrap_err().code, Code::FrameSize);
    let both = flag::PADDED | flag::PRIORITY;
    assert_eq!(block_of(both, b"\x01\x80\x00\x00\x07\x10block!"), Ok((&b"block"[..], Some(7))));
    assert_eq!(block_of(both, b"\x02\x80\x00\x00\x07\x10!").unwrap_err().code, Code::FrameSize);
    assert_eq!(block_of(flag::PRIORITY, b"\x00\x00\x00\x07").unwrap_err().code, Code::FrameSize);
    assert_eq!(block_of(0, b""), Ok((&b""[..], None)));
}

#[test]
fn settings_have_bounds() {
    use setting::*;
    for (name, value, code) in [
        (ENABLE_PUSH, 2, Code::ProtocolError),
        (INITIAL_WINDOW_SIZE, 1 << 31, Code::FlowControl),
        (MAX_FRAME_SIZE, 16_383, Code::ProtocolError),
        (MAX_FRAME_SIZE, 1 << 24, Code::ProtocolError),
        (ENABLE_CONNECT_PROTOCOL, 2, Code::ProtocolError),
    ] {
        assert_eq!(check_setting(name, value).unwrap_err().code, code, "{name}");
    }
    for (name, value) in [
        (ENABLE_PUSH, 1),
        (INITIAL_WINDOW_SIZE, MAX_WINDOW),
        (MAX_FRAME_SIZE, 16_384),
        (MAX_FRAME_SIZE, (1 << 24) - 1),
        (HEADER_TABLE_SIZE, u32::MAX),
        (MAX_CONCURRENT_STREAMS, 0),
        (MAX_HEADER_LIST_SIZE, 0),
        (0xffff, u32::MAX),
    ] {
        assert_eq!(check_setting(name, value), Ok(()), "{name}");
    }
}

#[test]
fn what_is_written_is_read() {
    let payload = |written: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        written(&mut out);
        let header = Header::parse(out.first_chunk().unwrap());
        assert_eq!(header.check(DEFAULT_MAX_FRAME), Ok(()));
        assert_eq!(header.length as usize, out.len() - HEADER);
        (header, out.split_off(HEADER))
    };
    let (header, read) = payload(&|out| write_settings(&[(setting::ENABLE_PUSH, 0), (0x1234, 0x5678_9abc)], out));
    assert_eq!((header.kind, header.flags), (Kind::Settings, 0));
    assert_eq!(settings(&read).collect::<Vec<_>>(), [(setting::ENABLE_PUSH, 0), (0x1234, 0x5678_9abc)]);
    assert!(payload(&write_settings_ack).0.has(flag::ACK));
    let (header, read) = payload(&|out| write_ping(true, *b"12345678", out));
    assert_eq!((header.has(flag::ACK), &read[..]), (true, &b"12345678"[..]));
    let (_, read) = payload(&|out| write_goaway(7, Code::EnhanceYourCalm, out));
    assert_eq!(goaway(&read), (7, Code::EnhanceYourCalm));
    let (header, read) = payload(&|out| write_reset(9, Code::Other(0xffff), out));
    assert_eq!((header.stream, reset_code(&read)), (9, Code::Other(0xffff)));
    let (header, read) = payload(&|out| write_window_update(11, MAX_WINDOW, out));
    assert_eq!((header.stream, increment(&read)), (11, MAX_WINDOW));
}

#[test]
fn a_long_block_continues_in_further_frames() {
    let written = |length: usize, max_frame| {
        let mut out = b"before".to_vec();
        let start = open_block(&mut out);
        out.extend((0..length).map(|n| n as u8));
        close_block(start, 5, true, max_frame, &mut out);
        let mut frames = Vec::new();
        let mut rest = &out[6..];
        while let Some((bytes, behind)) = rest.split_first_chunk() {
            let header = Header::parse(bytes);
            frames.push((header.kind, header.flags, header.length));
            rest = &behind[header.length as usize..];
        }
        frames
    };
    let both = flag::END_STREAM | flag::END_HEADERS;
    assert_eq!(written(10, 10), [(Kind::Headers, both, 10)]);
    let end = (Kind::Continuation, flag::END_HEADERS, 1);
    assert_eq!(written(11, 10), [(Kind::Headers, flag::END_STREAM, 10), end]);
    assert_eq!(written(21, 10), [(Kind::Headers, flag::END_STREAM, 10), (Kind::Continuation, 0, 10), end]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_keep_the_laws(
        frames in prop::collection::vec((0..11_u8, any::<u8>(), 0..3_u32, prop::collection::vec(any::<u8>(), 0..40)), 0..6),
    ) {
        let mut data = Vec::new();
        for (kind, flags, stream, payload) in frames {
            Header { length: payload.len() as u32, kind: Kind::of(kind), flags, stream }.write(&mut data);
            data.extend_from_slice(&payload);
        }
        fuzzing::frames(&data);
    }
}
