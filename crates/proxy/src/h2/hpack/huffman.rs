//! Huffman's code for strings (RFC 7541, 5.2 and Appendix B), decoded twelve bits at a time.
//!
//! The code is canonical: codes rise with their length and, within a length, with the symbol. So the order of the symbols and
//! how many codes there are of each length say all of it.

use super::Error;

/// The symbols by code, 256 of them. The end of string, 30 ones, would be the last.
const SYMBOLS: &[u8; 256] = b"\
    012aceiost\
    \x20%-./3456789=A_bdfghlmnpru\
    :BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz\
    &*,;XZ\
    !\"()?\
    '+|\
    #>\
    \x00$@[]~\
    ^}\
    <`{\
    \\\xc3\xd0\
    \x80\x82\x83\xa2\xb8\xc2\xe0\xe2\
    \x99\xa1\xa7\xac\xb0\xb1\xb3\xd1\xd8\xd9\xe3\xe5\xe6\
    \x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\xba\xbb\xbd\xbe\xc4\xc6\xe4\xe8\xe9\
    \x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\x9e\xa5\xa6\xa8\xae\xaf\xb4\xb6\xb7\xbc\xbf\xc5\xe7\xef\
    \x09\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\xec\xed\
    \xc7\xcf\xea\xeb\
    \xc0\xc1\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff\
    \xcb\xcc\xd3\xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe\
    \x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x7f\xdc\xf9\
    \x0a\x0d\x16";

/// The longest code, in bits.
const LONGEST: usize = 30;

/// How many codes there are of each length in bits, the end of string included.
const COUNTS: [u16; LONGEST + 1] =
    [0, 0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29, 0, 4];

/// Codes of one length.
#[derive(Clone, Copy)]
struct Length {
    /// The first code that is longer, in the top bits of 32; what is less is of this length or a shorter one. 33 bits, since no
    /// code is longer than the longest.
    end: u64,
    /// The first code of this length.
    first: u32,
    /// Its symbol's place in [`SYMBOLS`].
    symbol: usize,
}

const LENGTHS: [Length; LONGEST + 1] = {
    let mut lengths = [Length { end: 0, first: 0, symbol: 0 }; LONGEST + 1];
    let (mut code, mut symbol, mut bits) = (0_u32, 0, 1);
    while bits <= LONGEST {
        code <<= 1;
        let count = COUNTS[bits];
        lengths[bits] = Length { end: ((code + count as u32) as u64) << (32 - bits), first: code, symbol };
        code += count as u32;
        symbol += count as usize;
        bits += 1;
    }
    lengths
};

/// How many bits choose an entry of [`FAST`]: room for two of the usual symbols, whose codes have five and six bits.
const WIDTH: usize = 12;

/// What the next [`WIDTH`] bits begin with: one or two whole symbols, or none, where the code is longer.
#[derive(Clone, Copy)]
struct Entry {
    symbols: [u8; 2],
    /// Bits of all the symbols here, in the low four bits; above them the bits of the first alone.
    bits: u8,
    count: u8,
}

static FAST: [Entry; 1 << WIDTH] = {
    let mut table = [Entry { symbols: [0; 2], bits: 0, count: 0 }; 1 << WIDTH];
    let mut index = 0;
    while index < table.len() {
        let window = (index as u32) << (32 - WIDTH);
        let (first, bits) = lookup(window);
        if bits <= WIDTH {
            let (second, more) = lookup(window << bits);
            let entry = &mut table[index];
            entry.symbols[0] = first as u8;
            (entry.bits, entry.count) = ((bits << 4 | bits) as u8, 1);
            // The zeros behind the window must not be taken for its bits.
            if bits + more <= WIDTH {
                entry.symbols[1] = second as u8;
                (entry.bits, entry.count) = ((bits << 4 | (bits + more)) as u8, 2);
            }
        }
        index += 1;
    }
    table
};

/// The symbol's place in [`SYMBOLS`] made a symbol, and the bits of its code, which `window` begins with. 256 is the end of
/// string.
const fn lookup(window: u32) -> (u16, usize) {
    let mut bits = 5;
    while bits < LONGEST && window as u64 >= LENGTHS[bits].end {
        bits += 1;
    }
    let Length { first, symbol, .. } = LENGTHS[bits];
    let place = symbol + ((window >> (32 - bits)) - first) as usize;
    (if place < SYMBOLS.len() { SYMBOLS[place] as u16 } else { 256 }, bits)
}

/// Lookups in [`FAST`] for which eight bytes hold enough bits wherever in the first byte they begin: 48 of 57.
const AT_ONCE: usize = 4;

/// Appends to `out` what `input` stands for.
pub(super) fn decode(input: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let mut end = out.len();
    // No code is shorter than five bits; what is stored at once may reach eight bytes further.
    out.resize(end + input.len() / 5 * 8 + 16, 0);
    // In bits.
    let mut at = 0;
    while let Some(bytes) = input[at / 8..].first_chunk() {
        let mut bits = u64::from_be_bytes(*bytes) << (at % 8);
        let (mut symbols, mut count, mut used) = (0, 0, 0);
        for _ in 0..AT_ONCE {
            let entry = FAST[(bits >> (64 - WIDTH)) as usize];
            symbols |= u64::from(u16::from_le_bytes(entry.symbols)) << (8 * count);
            count += u32::from(entry.count);
            used += usize::from(entry.bits & 15);
            bits <<= entry.bits & 15;
        }
        if used == 0 {
            let (symbol, length) = lookup((bits >> 32) as u32);
            symbols = u64::from(u8::try_from(symbol).map_err(|_| Error::Huffman)?);
            (count, used) = (1, length);
        }
        out[end..end + 8].copy_from_slice(&symbols.to_le_bytes());
        end += count as usize;
        at += used;
    }
    out.truncate(end);
    finish(&input[at / 8..], at % 8, out)
}

/// The last bytes, of which there are at most seven, from their bit `skip` on.
fn finish(rest: &[u8], skip: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    // Ones follow: the padding goes on like this, and no code consists of ones alone but the end of string.
    let mut bytes = [0xff; 8];
    bytes[..rest.len()].copy_from_slice(rest);
    let mut bits = u64::from_be_bytes(bytes) << skip | ((1 << skip) - 1);
    let mut left = rest.len() * 8 - skip;
    while left > 0 {
        let entry = FAST[(bits >> (64 - WIDTH)) as usize];
        let (first, both) = (usize::from(entry.bits >> 4), usize::from(entry.bits & 15));
        let used = if entry.count == 2 && both <= left {
            out.extend_from_slice(&entry.symbols);
            both
        } else if entry.count > 0 && first <= left {
            out.push(entry.symbols[0]);
            first
        } else {
            let (symbol, length) = lookup((bits >> 32) as u32);
            if length > left {
                // No whole code: padding (5.2), which is shorter than a byte and all ones.
                return if left < 8 && bits == u64::MAX { Ok(()) } else { Err(Error::Huffman) };
            }
            out.push(u8::try_from(symbol).map_err(|_| Error::Huffman)?);
            length
        };
        // Shifted in ones, as above.
        bits = !(!bits << used);
        left -= used;
    }
    Ok(())
}

/// Appends the code of `text` to `out`.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut held) = (0_u64, 0);
    for byte in text {
        let place = SYMBOLS.iter().position(|symbol| symbol == byte).expect("every byte has a code");
        let of =
            |length: &usize| (0..usize::from(COUNTS[*length])).contains(&place.wrapping_sub(LENGTHS[*length].symbol));
        let length = (5..=LONGEST).find(of).expect("every place is of a length");
        bits = bits << length | (LENGTHS[length].first as usize + place - LENGTHS[length].symbol) as u64;
        held += length;
        while held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    if held > 0 {
        out.push((bits << (8 - held)) as u8 | 0xff >> held);
    }
}
