//! HPACK a second time, bit by bit and as near to the words of RFC 7541 as can be: what the fast one is compared with.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::Fields;
use crate::h2::hpack::{huffman, statics};

pub(super) struct Decoder {
    /// The newest first.
    table: VecDeque<(Vec<u8>, Vec<u8>)>,
    max: usize,
    setting: usize,
}

impl Decoder {
    pub(super) fn new(setting: usize) -> Decoder {
        Decoder { table: VecDeque::new(), max: setting, setting }
    }

    /// The fields of a block; `None` when it is malformed.
    pub(super) fn decode(&mut self, block: &[u8]) -> Option<Fields> {
        let mut input = block.iter().copied();
        let mut fields = Vec::new();
        while let Some(first) = input.next() {
            match first.leading_zeros() {
                0 => {
                    let (name, value) = self.field(number(first, 7, &mut input)?)?;
                    fields.push((name, value, false));
                }
                2 => {
                    self.max = number(first, 5, &mut input)?;
                    if !fields.is_empty() || self.max > self.setting {
                        return None;
                    }
                    self.evict();
                }
                zeros => {
                    let index = number(first, if zeros == 1 { 6 } else { 4 }, &mut input)?;
                    let name = if index > 0 { self.field(index)?.0 } else { string(&mut input)? };
                    let value = string(&mut input)?;
                    if zeros == 1 {
                        self.table.push_front((name.clone(), value.clone()));
                        self.evict();
                    }
                    fields.push((name, value, zeros == 3));
                }
            }
        }
        Some(fields)
    }

    fn field(&self, index: usize) -> Option<(Vec<u8>, Vec<u8>)> {
        match statics::FIELDS.get(index.checked_sub(1)?) {
            Some((name, value)) => Some((name.to_vec(), value.to_vec())),
            None => self.table.get(index - 62).cloned(),
        }
    }

    fn evict(&mut self) {
        while self.table.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>() > self.max {
            self.table.pop_back();
        }
    }
}

fn number(first: u8, bits: u32, input: &mut impl Iterator<Item = u8>) -> Option<usize> {
    let most = (1 << bits) - 1;
    let mut value = usize::from(first) & most;
    if value < most {
        return Some(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = input.next()?;
        value += usize::from(byte & 127) << shift;
        if byte < 128 {
            return Some(value);
        }
    }
    None
}

fn string(input: &mut impl Iterator<Item = u8>) -> Option<Vec<u8>> {
    let first = input.next()?;
    let length = number(first, 7, input)?;
    let bytes: Vec<u8> = input.take(length).collect();
    if bytes.len() < length {
        return None;
    }
    if first & 128 != 0 { self::huffman(&bytes) } else { Some(bytes) }
}

/// The text that `coded` stands for, found by asking of each prefix whether it is the code of some byte.
pub(super) fn huffman(coded: &[u8]) -> Option<Vec<u8>> {
    thread_local! {
        static CODES: std::collections::HashMap<String, u8> = (0..=255).map(|byte| (code(byte), byte)).collect();
    }
    let bits: String = coded.iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut text, mut prefix) = (Vec::new(), String::new());
    for bit in bits.chars() {
        prefix.push(bit);
        if let Some(byte) = CODES.with(|codes| codes.get(&prefix).copied()) {
            text.push(byte);
            prefix.clear();
        }
    }
    (prefix.len() < 8 && !prefix.contains('0')).then_some(text)
}

/// The code of one byte as zeros and ones. Encoding eight of them leaves no padding.
fn code(byte: u8) -> String {
    let mut coded = Vec::new();
    huffman::encode(&[byte; 8], &mut coded);
    let bits: String = coded.iter().map(|byte| format!("{byte:08b}")).collect();
    bits[..bits.len() / 8].to_owned()
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    let coded = prop::collection::vec(any::<u8>(), 0..12).prop_map(|text| {
        let mut coded = Vec::new();
        huffman::encode(&text, &mut coded);
        coded.insert(0, 0x80 | coded.len() as u8);
        coded
    });
    let plain = "[a-z]{0,9}".prop_map(|text| [&[text.len() as u8], text.as_bytes()].concat());
    prop_oneof![6 => plain, 6 => coded, 1 => prop::collection::vec(any::<u8>(), 0..9)]
}

/// Blocks that are mostly well-formed, with and without entering fields.
pub(super) fn block() -> impl Strategy<Value = Vec<u8>> {
    let update = prop_oneof![Just(vec![]), Just(b"\x20\x3f\xe1\x1f".to_vec()), (0x20..0x40_u8).prop_map(|n| vec![n])];
    let indexed = prop_oneof![(0x81..0xc2_u8).prop_map(|n| vec![n])];
    let named = (prop::sample::select(vec![0x00_u8, 0x10, 0x40, 0x40]), text(), text())
        .prop_map(|(kind, name, value)| [&[kind], &name[..], &value].concat());
    let short = (0x40..0x7f_u8, text()).prop_map(|(first, value)| [&[first], &value[..]].concat());
    let odd = prop::collection::vec(any::<u8>(), 1..3);
    let field = prop_oneof![8 => indexed, 8 => named, 6 => short, 1 => odd];
    (update, prop::collection::vec(field, 0..8)).prop_map(|(update, fields)| [update, fields.concat()].concat())
}
