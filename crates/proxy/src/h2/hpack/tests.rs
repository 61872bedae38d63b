//! RFC 7541's own examples, the laws of both halves, and their limits.

use proptest::prelude::*;

use super::*;
use crate::h2::fuzzing;

mod examples;
mod peers;
mod reference;

type Fields = Vec<(Vec<u8>, Vec<u8>, bool)>;

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, Error> {
    let mut fields = Vec::new();
    decoder.decode(block, &mut |name, value, never| fields.push((name.to_vec(), value.to_vec(), never)))?;
    Ok(fields)
}

fn huffman(coded: &[u8]) -> Result<Vec<u8>, Error> {
    let mut out = vec![0; huffman::room(coded.len())];
    let length = huffman::decode(coded, coded.len(), &mut out)?;
    out.truncate(length);
    // What follows in the block changes nothing.
    let (mut more, mut again) = (coded.to_vec(), vec![0; huffman::room(coded.len())]);
    more.extend([0xff, 0x00, 0x55, 0xff, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(huffman::decode(&more, coded.len(), &mut again), Ok(length));
    assert_eq!(again[..length], out);
    Ok(out)
}

fn encode(encoder: &mut Encoder, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.begin(&mut out);
    fields.iter().for_each(|(name, value)| encoder.field(name.as_bytes(), value.as_bytes(), false, &mut out));
    out
}

fn plain(fields: &[(&str, &str)]) -> Fields {
    fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec(), false)).collect()
}

#[test]
fn numbers_are_bounded() {
    let take = |mut bytes: &[u8]| integer::take(&mut bytes, 5).map(|n| (n, bytes.len()));
    assert_eq!(take(&[31, 0]), Ok((31, 0)));
    assert_eq!(take(&[31, 0x80, 0x80, 0x80, 0x00]), Ok((31, 0)));
    assert_eq!(take(&[31, 0xff, 0xff, 0xff, 0x7f, 9]), Ok(((1 << 28) - 1 + 31, 1)));
    assert_eq!(take(&[31, 0x80, 0x80, 0x80, 0x80, 0x00]), Err(Error::Integer));
    assert_eq!(take(&[31, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]), Err(Error::Integer));
    assert_eq!(take(&[31, 0xff]), Err(Error::Truncated));
    assert_eq!(take(&[]), Err(Error::Truncated));
}

#[test]
fn what_breaks_the_format_is_refused() {
    let cases: &[(&[u8], Error)] = &[
        (b"\x80", Error::Index),
        (b"\xbe", Error::Index),      // 62, and the table is empty
        (b"\x7e\x01x", Error::Index), // the same as a name
        (b"\xff\x80\x80\x80\x80\x01", Error::Integer),
        (b"\x00", Error::Truncated),
        (b"\x00\x05abcd", Error::Truncated),
        (b"\x00\x01a\x7f\xff\xff\xff\x7fb", Error::Truncated), // longer than all blocks
        (b"\x82\x41", Error::Truncated),
        (b"\x3f\xe2\x1f", Error::TableSize), // 4097
        (b"\x82\x20", Error::LateTableSize),
        (b"\x00\x01a\x84\xff\xff\xff\xff", Error::Huffman), // the end of string, and two ones
        (b"\x00\x01a\x82\x1f\xff", Error::Huffman),         // 'a' and eleven ones
        (b"\x00\x01a\x81\xff", Error::Huffman),             // eight ones
        (b"\x00\x01a\x81\x18", Error::Huffman),             // 'a' and three zeros
        (b"\x00\x01a\x81\x1e", Error::Huffman),             // 'a' and 110
    ];
    for (block, error) in cases {
        assert_eq!(decode(&mut Decoder::new(4096), block), Err(*error), "{}", block.escape_ascii());
    }
}

#[test]
fn empty_strings_and_blocks_are_none_of_our_business() {
    let mut decoder = Decoder::new(4096);
    assert_eq!(decode(&mut decoder, b"").unwrap(), []);
    assert_eq!(
        decode(&mut decoder, b"\x00\x00\x00\x10\x80\x80").unwrap(),
        [(vec![], vec![], false), (vec![], vec![], true)]
    );
}

#[test]
fn a_field_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::new(4096);
    decode(&mut decoder, b"\x40\x01a\x01b").unwrap();
    assert_eq!(decode(&mut decoder, b"\xbe").unwrap(), plain(&[("a", "b")]));
    let mut block = b"\x40\x01a\x7f\x81\x1f".to_vec(); // 4096
    block.extend([b'x'; 4096]);
    assert_eq!(decode(&mut decoder, &block).unwrap()[0].1.len(), 4096);
    assert_eq!(decode(&mut decoder, b"\xbe"), Err(Error::Index));
}

#[test]
fn a_name_may_come_from_the_entry_that_goes_for_it() {
    let mut decoder = Decoder::new(4096);
    // One entry of 40 bytes in a table of 50; the second has its name and takes its place.
    decode(&mut decoder, b"\x3f\x13\x40\x04name\x04once").unwrap();
    assert_eq!(decode(&mut decoder, b"\x7e\x05twice\xbe").unwrap(), plain(&[("name", "twice"), ("name", "twice")]));
    assert_eq!(decode(&mut decoder, b"\xbf"), Err(Error::Index));
}

#[test]
fn sizes_of_the_table_follow_the_settings() {
    let mut decoder = Decoder::new(8192);
    decode(&mut decoder, b"\x3f\xe1\x3f").unwrap(); // 8192
    assert_eq!(decode(&mut decoder, b"\x3f\xe2\x3f"), Err(Error::TableSize));
    decode(&mut decoder, b"\x40\x01a\x01b").unwrap();
    // Down to nothing and up again: what was held is gone.
    assert_eq!(decode(&mut decoder, b"\x20\x3f\xe1\x1f\xbe"), Err(Error::Index));

    let mut encoder = Encoder::new();
    let hello = [("x-hello", "world")];
    let mut decoder = Decoder::new(4096);
    for _ in 0..3 {
        assert_eq!(decode(&mut decoder, &encode(&mut encoder, &hello)).unwrap(), plain(&hello));
    }
    assert_eq!(encode(&mut encoder, &hello), b"\xbe");
    encoder.set_max_table_size(1 << 20);
    assert_eq!(encode(&mut encoder, &hello), b"\xbe", "more than we use changes nothing");
    encoder.set_max_table_size(0);
    encoder.set_max_table_size(100);
    let block = encode(&mut encoder, &hello);
    assert!(block.starts_with(b"\x20\x3f\x45"), "both sizes are told: {}", block.escape_ascii());
    assert_eq!(decode(&mut decoder, &block).unwrap(), plain(&hello));
    encoder.set_max_table_size(0);
    for _ in 0..3 {
        assert_eq!(decode(&mut decoder, &encode(&mut encoder, &hello)).unwrap(), plain(&hello));
    }
    assert_eq!(encode(&mut encoder, &hello), b"\x00\x07x-hello\x05world");
}

#[test]
fn what_repeats_becomes_one_byte_and_secrets_do_not() {
    let mut encoder = Encoder::new();
    let mut decoder = Decoder::new(4096);
    let fields = |n: &'static str| {
        [
            (":method", "POST"),
            (":path", "/shop.Cart/Get"),
            (":authority", "cart"),
            ("content-type", "application/grpc"),
            ("Te", "trailers"),
            ("x-request-id", n),
        ]
    };
    let mut lengths = Vec::new();
    for n in ["a-0", "a-1", "a-2", "a-3"] {
        let block = encode(&mut encoder, &fields(n));
        lengths.push(block.len());
        let mut wanted = plain(&fields(n));
        wanted[4].0 = b"te".to_vec();
        assert_eq!(decode(&mut decoder, &block).unwrap(), wanted);
    }
    assert!(lengths[1] > 60, "nothing is indexed yet: {lengths:?}");
    assert_eq!(lengths[2..], [1 + 4 + 18; 2]);

    for name in ["authorization", "Cookie", "set-cookie", "proxy-authorization"] {
        let secret = [(name, "secret")];
        let lengths: Vec<usize> = (0..4).map(|_| encode(&mut encoder, &secret).len()).collect();
        assert!(lengths.iter().all(|length| *length > 6), "{name}: {lengths:?}");
    }
    for _ in 0..4 {
        let mut out = Vec::new();
        encoder.field(b"heddle-load", b"1", true, &mut out);
        encoder.field(b"authorization", b"x", true, &mut out);
        assert_eq!(out, b"\x10\x0bheddle-load\x011\x1f\x08\x01x");
        let fields = decode(&mut decoder, &out).unwrap();
        assert!(fields.iter().all(|(_, _, never)| *never));
    }
}

/// Whatever their hashes are: fields that repeat are found by them, among others that do not.
#[test]
fn many_fields_that_repeat_all_enter() {
    let mut encoder = Encoder::new();
    let mut decoder = Decoder::new(4096);
    let mut last = 0;
    for round in 0..8 {
        let mut out = Vec::new();
        encoder.begin(&mut out);
        for n in 0..40 {
            encoder.field(format!("x-{n}").as_bytes(), format!("value-{n}").as_bytes(), false, &mut out);
            if n % 10 == 0 {
                encoder.field(b"x-id", format!("{round}-{n}").as_bytes(), false, &mut out);
            }
        }
        assert_eq!(decode(&mut decoder, &out).unwrap().len(), 44);
        last = out.len();
    }
    assert!(last < 44 + 4 * 12, "{last} bytes for 40 fields of one byte and four of eleven");
}

#[test]
fn a_status_is_three_digits() {
    let mut encoder = Encoder::new();
    let mut decoder = Decoder::new(4096);
    for status in (100..=999).chain(200..=599) {
        let mut out = Vec::new();
        encoder.begin(&mut out);
        encoder.status(status, &mut out);
        assert_eq!(decode(&mut decoder, &out).unwrap(), plain(&[(":status", &status.to_string())]));
        if [200, 204, 206, 304, 400, 404, 500].contains(&status) {
            assert_eq!(out.len(), 1, "{status}");
        }
    }
}

#[test]
fn every_static_field_is_found() {
    for (index, (name, value)) in statics::FIELDS.iter().enumerate() {
        let first = statics::name(name);
        assert!((1..=index + 1).contains(&first) && statics::FIELDS[first - 1].0 == *name, "{index}");
        if !value.is_empty() {
            assert_eq!(statics::field(first, value), index + 1);
        }
        assert_eq!(statics::field(first, b"something else"), 0);
    }
    assert_eq!(statics::name(b"x-other"), 0);
}

/// A table's memory stays bounded and its entries whole, whatever enters.
#[test]
fn a_table_holds_no_more_than_it_may() {
    let mut table = table::Table::new(4096);
    let mut held = std::collections::VecDeque::new();
    for n in 0..5000_usize {
        let value = vec![n as u8; n * 7919 % 1500];
        assert!(table.insert(b"name", &value));
        held.push_front(value);
        let mut size = 0;
        let fits = held.iter().take_while(|value| {
            size += 36 + value.len();
            size <= 4096
        });
        held.truncate(fits.count());
        assert_eq!(table.len(), held.len());
        for (index, value) in held.iter().enumerate() {
            assert_eq!(table.get(index), Some((&b"name"[..], &value[..])));
        }
        assert!(table.memory() <= 2 * 4096, "{}", table.memory());
    }
}

/// Names and values as they occur, so that some repeat and some do not.
fn field() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, bool)> {
    let known =
        prop::sample::select(vec![":path", ":status", "content-type", "te", "x-a", "X-Upper", "cookie", "accept"]);
    let name =
        prop_oneof![known.prop_map(|name| name.as_bytes().to_vec()), "[a-z-]{1,20}".prop_map(String::into_bytes)];
    let value = prop_oneof![
        "[a-c]{0,2}".prop_map(String::into_bytes),
        "[ -~]{0,40}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..20),
        (1000..1200_usize).prop_map(|n| vec![b'v'; n]),
    ];
    (name, value, prop::bool::weighted(0.1))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_is_decoded(
        blocks in prop::collection::vec((prop::collection::vec(field(), 0..8), prop::option::weighted(0.2, 0..5000_u32)), 1..30),
    ) {
        let mut encoder = Encoder::new();
        let mut decoder = Decoder::new(4096);
        let mut reference = reference::Decoder::new(4096);
        for (fields, size) in blocks {
            if let Some(size) = size {
                encoder.set_max_table_size(size);
            }
            let mut out = Vec::new();
            encoder.begin(&mut out);
            for (name, value, never) in &fields {
                encoder.field(name, value, *never, &mut out);
            }
            let wanted: Fields =
                fields.iter().map(|(name, value, never)| (name.to_ascii_lowercase(), value.clone(), *never)).collect();
            prop_assert_eq!(&decode(&mut decoder, &out).unwrap(), &wanted);
            prop_assert_eq!(reference.decode(&out).unwrap(), wanted);
        }
    }

    #[test]
    fn any_block_is_decoded_as_the_reference_does(blocks in prop::collection::vec(reference::block(), 1..12)) {
        let mut decoder = Decoder::new(4096);
        let mut reference = reference::Decoder::new(4096);
        for block in blocks {
            let ours = decode(&mut decoder, &block);
            let theirs = reference.decode(&block);
            prop_assert_eq!(ours.clone().ok(), theirs, "{:?}", &ours);
            if ours.is_err() {
                break;
            }
        }
    }

    #[test]
    fn blocks_keep_the_laws(blocks in prop::collection::vec(reference::block(), 1..12)) {
        let short = blocks.iter().filter(|block| block.len() < 256);
        let data: Vec<u8> = short.flat_map(|block| [&[block.len() as u8], &block[..]].concat()).collect();
        fuzzing::hpack(&data);
    }

    #[test]
    fn strings_survive_the_code(text in prop::collection::vec(any::<u8>(), 0..100)) {
        let mut coded = Vec::new();
        huffman::encode(&text, &mut coded);
        prop_assert_eq!(huffman(&coded), Ok(text.clone()));
        prop_assert_eq!(reference::huffman(&coded), Some(text));
    }

    #[test]
    fn any_bytes_are_the_code_that_the_reference_reads(coded in prop::collection::vec(any::<u8>(), 0..40), ones in 0..5_usize) {
        // Long codes begin with many ones.
        let coded: Vec<u8> = coded.iter().flat_map(|byte| std::iter::repeat_n(0xff, ones).chain([*byte])).collect();
        prop_assert_eq!(huffman(&coded).ok(), reference::huffman(&coded));
    }
}

/// Heads and trailers in turn, with a field more or less in between, which moves all behind it to another place.
#[test]
fn a_field_that_stands_elsewhere_or_has_gone_is_found_all_the_same() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(4096));
    let head = [(":status", "200"), ("content-type", "application/grpc"), ("server", "s"), ("x-one", "1")];
    let mut moved = head.to_vec();
    moved.insert(1, ("x-two", "2"));
    let mut lengths = Vec::new();
    for _ in 0..4 {
        for fields in [&head[..], &moved[..]] {
            let block = encode(&mut encoder, fields);
            assert_eq!(decode(&mut decoder, &block).unwrap(), plain(fields));
            lengths.push(block.len());
            let mut trailers = Vec::new();
            encoder.begin_trailers(&mut trailers);
            encoder.field(b"grpc-status", b"0", false, &mut trailers);
            assert_eq!(decode(&mut decoder, &trailers).unwrap(), plain(&[("grpc-status", "0")]));
        }
    }
    assert_eq!(lengths[6..], [4, 5], "a byte for each field");
    // What was remembered is gone from the table, or its number is another field's.
    encoder.set_max_table_size(0);
    assert_eq!(decode(&mut decoder, &encode(&mut encoder, &head)).unwrap(), plain(&head));
    encoder.set_max_table_size(4096);
    for fields in [&moved[..], &head[..], &moved[..], &head[..], &head[..]] {
        assert_eq!(decode(&mut decoder, &encode(&mut encoder, fields)).unwrap(), plain(fields));
    }
}
