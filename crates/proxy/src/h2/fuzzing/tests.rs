use proptest::prelude::*;

/// Heads in HPACK: good requests, good answers, and some that are not.
fn block() -> impl Strategy<Value = Vec<u8>> {
    let blocks: Vec<&[u8]> = vec![
        b"\x82\x86\x84\x01\x01h",
        b"\x83\x86\x84\x01\x01h",
        b"\x83\x86\x84\x01\x01h\x0f\x0d\x013",
        b"\x82\x86\x84\x01\x01h\x40\x01x\x03abc",
        b"\x82\x86\x84\x01\x01h\xbe",
        b"\x88",
        b"\x08\x03103",
        b"\x00\x01x\x01y",
        b"\x82",
        b"",
    ];
    prop::sample::select(blocks).prop_map(<[u8]>::to_vec)
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        2 => block(),
        1 => prop::collection::vec(any::<u8>(), 0..20),
        1 => prop::sample::select(vec![0_u32, 1, 8, 0xffff, 0x7fff_ffff]).prop_map(|n| n.to_be_bytes().to_vec()),
        1 => (1..7_u8, prop::sample::select(vec![0_u32, 1, 100, 16_384, 0x7fff_ffff]))
            .prop_map(|(name, value)| [&[0, name], &value.to_be_bytes()[..]].concat()),
    ];
    let kind = prop::sample::select(vec![0_u8, 0, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 0xee]);
    let flags = prop::sample::select(vec![0_u8, 1, 4, 4, 5, 5, 5, 8, 0x25, 0xff]);
    (kind, flags, 0..8_u32, payload).prop_map(|(kind, flags, stream, payload)| {
        let header = [0, 0, payload.len() as u8, kind, flags];
        [&header[..], &stream.to_be_bytes(), &payload].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn connections_keep_the_laws(mode in 0..4_u8, frames in prop::collection::vec(frame(), 0..16)) {
        super::connection(&[&[mode], frames.concat().as_slice()].concat());
    }
}
