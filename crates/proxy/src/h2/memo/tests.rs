use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

type Fields = Vec<(Vec<u8>, Vec<u8>, bool)>;

fn decode(decoder: &mut Decoder, block: &[u8]) -> Option<Fields> {
    let mut fields = Vec::new();
    let decoded = decoder.decode(block, &mut |name: &[u8], value: &[u8], secret| {
        fields.push((name.to_vec(), value.to_vec(), secret));
    });
    decoded.is_ok().then_some(fields)
}

/// As heads are received.
fn receive(memo: &mut Memo<Fields>, decoder: &mut Decoder, block: &[u8]) -> Option<Fields> {
    if let Some(known) = memo.find(decoder, block, 0) {
        return Some(known.clone());
    }
    let fields = decode(decoder, block)?;
    memo.keep(decoder, block, 0, || fields.clone());
    Some(fields)
}

#[test]
fn what_comes_for_the_third_time_is_known_in_its_context() {
    let (mut memo, mut decoder) = (Memo::default(), Decoder::new(4096));
    // A field that enters the table each time, as some servers write all theirs.
    let block = b"\x88\x40\x01x\x01y";
    for _ in 0..2 {
        assert!(memo.find(&mut decoder, block, 1).is_none());
        let fields = decode(&mut decoder, block).unwrap();
        memo.keep(&decoder, block, 1, || fields);
    }
    assert_eq!(memo.find(&mut decoder, block, 1).unwrap().len(), 2);
    assert!(memo.find(&mut decoder, block, 0).is_none() && memo.find(&mut decoder, &block[1..], 1).is_none());
    // Three of them stand in the table.
    assert!(decode(&mut decoder, &[0xc0]).is_some() && decode(&mut decoder, &[0xc1]).is_none());
}

#[test]
fn what_names_an_entry_is_known_until_the_table_changes() {
    let (mut memo, mut decoder) = (Memo::default(), Decoder::new(4096));
    decode(&mut decoder, b"\x40\x01x\x01y").unwrap();
    (0..2).for_each(|_| drop(receive(&mut memo, &mut decoder, b"\xbe").unwrap()));
    assert!(memo.find(&mut decoder, b"\xbe", 0).is_some());
    decode(&mut decoder, b"\x40\x01x\x01z").unwrap();
    assert!(memo.find(&mut decoder, b"\xbe", 0).is_none());
}

#[test]
fn large_blocks_are_not_kept() {
    let (mut memo, mut decoder) = (Memo::default(), Decoder::new(4096));
    let block = [0x88; LARGEST + 1];
    (0..3).for_each(|_| drop(receive(&mut memo, &mut decoder, &block).unwrap()));
    assert!(memo.find(&mut decoder, &block, 0).is_none());
    (0..2).for_each(|_| drop(receive(&mut memo, &mut decoder, &block[1..]).unwrap()));
    assert!(memo.find(&mut decoder, &block[1..], 0).is_some());
}

/// A field, or a change of the table's size, which is allowed in front of all fields alone.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let literal = |first: u8| move |(name, value): (u8, u8)| vec![first, 1, b'a' + name, 1, b'a' + value];
    prop_oneof![
        2 => Just(vec![0x88]),
        3 => (0_u8..3).prop_map(|entry| vec![0xbe + entry]),
        3 => (0_u8..2, 0_u8..3).prop_map(literal(0x40)),
        1 => (0_u8..2, 0_u8..3).prop_map(literal(0x10)),
        // The name of an entry, without entering, and entering.
        1 => (0_u8..2).prop_map(|entry| vec![0x0f, 62 - 15 + entry, 1, b'v']),
        1 => Just(vec![0x7e, 1, b"w"[0]]),
        1 => (0_u8..3).prop_map(|size| vec![0x3f, 20 + 34 * size]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes again, with whatever in between, means what it would mean if nothing were kept, and so does what follows.
    #[test]
    fn what_is_kept_is_what_would_be_decoded(
        blocks in prop::collection::vec(prop::collection::vec(piece(), 0..5).prop_map(|pieces| pieces.concat()), 1..4),
        order in prop::collection::vec((any::<Index>(), 1..5_usize), 1..16),
    ) {
        let (mut memo, mut decoder, mut plain) = (Memo::default(), Decoder::new(4096), Decoder::new(4096));
        for block in order.iter().flat_map(|(index, times)| std::iter::repeat_n(index.get(&blocks), *times)) {
            let wanted = decode(&mut plain, block);
            prop_assert_eq!(receive(&mut memo, &mut decoder, block), wanted.clone());
            if wanted.is_none() {
                break;
            }
        }
    }
}
