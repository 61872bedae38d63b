//! Laws of frames and header compression that must hold for any bytes. The fuzz targets, the property tests and the replay of the
//! corpus call these; each panics when a law is broken.

mod connection;

pub use connection::connection;

use super::frame::{self, DEFAULT_MAX_FRAME, HEADER, Header, Kind};
use super::hpack::{Decoder, Encoder, Error};

/// A name, a value, and whether the field must never be indexed.
type Field = (Vec<u8>, Vec<u8>, bool);

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Field>, Error> {
    let mut fields = Vec::new();
    decoder.decode(block, &mut |name, value, never| {
        // One byte of a block may stand for a whole table; a fuzzer need not hold all of that.
        if fields.len() < 1000 {
            fields.push((name.to_vec(), value.to_vec(), never));
        }
    })?;
    Ok(fields)
}

/// Header blocks, each behind a byte that says its length: what was decoded is the same after encoding, on the connection that
/// they came on and when the peer keeps no table.
pub fn hpack(mut data: &[u8]) {
    let mut received = Decoder::new(4096);
    let (mut encoder, mut plain) = (Encoder::new(), Encoder::new());
    let (mut decoder, mut next) = (Decoder::new(4096), Decoder::new(4096));
    plain.set_max_table_size(0);
    while let Some((&length, rest)) = data.split_first() {
        let (block, rest) = rest.split_at(rest.len().min(length.into()));
        data = rest;
        let Ok(fields) = decode(&mut received, block) else { return };
        encoder.set_max_table_size(if fields.len() % 5 == 4 { 100 } else { 4096 });
        for (encoder, decoder) in [(&mut encoder, &mut decoder), (&mut plain, &mut next)] {
            let mut out = Vec::new();
            encoder.begin(&mut out);
            for (name, value, never) in &fields {
                encoder.field(name, value, *never, &mut out);
            }
            let again = decode(decoder, &out).expect("what we encode can be decoded");
            let lower = fields.iter().map(|(name, value, never)| (name.to_ascii_lowercase(), value.clone(), *never));
            assert!(lower.eq(again), "{fields:?} became {}", out.escape_ascii());
        }
    }
}

/// Frames: what is taken lies within the frame, what is written reads as the same.
pub fn frames(mut data: &[u8]) {
    while let Some((header, rest)) = data.split_first_chunk::<HEADER>() {
        let header = Header::parse(header);
        let mut out = Vec::new();
        header.write(&mut out);
        assert_eq!(Header::parse(&header.bytes()), header);
        assert_eq!(out, header.bytes());
        if header.check(DEFAULT_MAX_FRAME).is_err() {
            return;
        }
        let (payload, rest) = rest.split_at(rest.len().min(header.length as usize));
        data = rest;
        if payload.len() == header.length as usize {
            one(header, payload);
        }
    }
}

fn one(header: Header, payload: &[u8]) {
    let mut out = Vec::new();
    match header.kind {
        Kind::Data => {
            if let Ok(data) = frame::unpad(header.flags, payload) {
                assert!(data.len() <= payload.len());
            }
        }
        Kind::Headers => {
            let Ok((block, _)) = frame::block_of(header.flags, payload) else { return };
            for max_frame in [1, 7, DEFAULT_MAX_FRAME] {
                out.clear();
                let start = frame::open_block(&mut out);
                out.extend_from_slice(block);
                frame::close_block(start, header.stream, false, max_frame, &mut out);
                assert_eq!(joined(&out, header.stream, max_frame), block);
            }
        }
        Kind::Settings => {
            let settings: Vec<_> = frame::settings(payload).collect();
            frame::write_settings(&settings, &mut out);
            assert_eq!(&out[HEADER..], payload);
            for (name, value) in settings {
                // Either is fine, but for a panic.
                let _ = frame::check_setting(name, value);
            }
        }
        Kind::Reset => {
            frame::write_reset(header.stream, frame::reset_code(payload), &mut out);
            assert_eq!(&out[HEADER..], payload);
        }
        Kind::GoAway => {
            let (last, code) = frame::goaway(payload);
            frame::write_goaway(last, code, &mut out);
            assert_eq!(out[HEADER + 4..], payload[4..8]);
        }
        Kind::WindowUpdate => assert!(frame::increment(payload) <= frame::MAX_WINDOW),
        Kind::Priority => assert_eq!(frame::dependency(payload).is_some(), payload.len() >= 4),
        Kind::Push | Kind::Ping | Kind::Continuation | Kind::Unknown(_) => {}
    }
}

/// The header block in the frames of `out`, none of which is larger than `max_frame`.
fn joined(mut out: &[u8], stream: u32, max_frame: u32) -> Vec<u8> {
    let mut block = Vec::new();
    let mut kind = Kind::Headers;
    loop {
        let (header, rest) = out.split_first_chunk().expect("a whole frame");
        let header = Header::parse(header);
        assert_eq!((header.kind, header.stream), (kind, stream));
        assert!(header.check(max_frame).is_ok());
        let (payload, rest) = rest.split_at(header.length as usize);
        block.extend_from_slice(payload);
        (out, kind) = (rest, Kind::Continuation);
        if header.has(frame::flag::END_HEADERS) {
            assert!(out.is_empty());
            return block;
        }
    }
}

/// One end of a connection's header compression, for its benchmark.
#[derive(Debug)]
pub struct Hpack {
    decoder: Decoder,
    encoder: Encoder,
}

impl Default for Hpack {
    fn default() -> Hpack {
        Hpack { decoder: Decoder::new(4096), encoder: Encoder::new() }
    }
}

impl Hpack {
    /// Decodes `block`; returns how many bytes its fields have, or `None` when it is malformed.
    pub fn decode(&mut self, block: &[u8]) -> Option<usize> {
        let mut bytes = 0;
        self.decoder.decode(block, &mut |name, value, _| bytes += name.len() + value.len()).is_ok().then_some(bytes)
    }

    /// Appends a block with `fields` to `out`.
    pub fn encode(&mut self, fields: &[(&[u8], &[u8])], out: &mut Vec<u8>) {
        self.encoder.begin(out);
        fields.iter().for_each(|(name, value)| self.encoder.field(name, value, false, out));
    }

    /// Lets the encoder enter nothing into the peer's table.
    pub fn without_table(&mut self) {
        self.encoder.set_max_table_size(0);
    }
}

/// A block of `fields` as literals that enter no table, all strings in Huffman's code.
pub fn literals(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    super::hpack::literals(fields)
}

#[cfg(test)]
mod tests;
