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

/// What the next [`WIDTH`] bits begin with: up to two whole symbols in the low bytes, then the bits of their codes, then the bits
/// of the symbols themselves (0, 8 or 16), a byte each. All of it is zero where the first code is longer.
static FAST: [u32; 1 << WIDTH] = {
    let mut table = [0; 1 << WIDTH];
    let mut index = 0;
    while index < table.len() {
        let window = (index as u32) << (32 - WIDTH);
        let (first, bits) = lookup(window);
        if bits <= WIDTH {
            let (second, more) = lookup(window << bits);
            // The zeros behind the window must not be taken for its bits.
            table[index] = if bits + more <= WIDTH {
                first as u32 | (second as u32) << 8 | ((bits + more) as u32) << 16 | 16 << 24
            } else {
                first as u32 | (bits as u32) << 16 | 8 << 24
            };
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

/// Room that [`decode`] needs for the text of `length` bytes of code: no code is shorter than five bits, and what is stored at
/// once may reach eight bytes further.
pub(super) const fn room(length: usize) -> usize {
    length / 5 * 8 + 16
}

/// Puts what the first `length` bytes of `input` stand for at the front of `out`, which has [`room`] for it, and returns the
/// text's length. What is behind those bytes may be read but does not matter.
pub(super) fn decode(input: &[u8], length: usize, out: &mut [u8]) -> Result<usize, Error> {
    let (mut at, mut end, total) = (0, 0, 8 * length);
    while at < total {
        let window = window(input, at, total - at);
        // Padding is shorter than a byte and all ones (5.2).
        if window == u64::MAX && total - at < 8 {
            break;
        }
        let (mut bits, mut symbols, mut sum) = (window, 0, 0);
        for _ in 0..AT_ONCE {
            let entry = FAST[(bits >> (64 - WIDTH)) as usize];
            symbols |= u64::from(entry & 0xffff) << (sum >> 8);
            sum += entry >> 16;
            bits <<= (entry >> 16) & 0xff;
        }
        let (mut used, mut count) = ((sum & 0xff) as usize, (sum >> 11) as usize);
        if used == 0 {
            let (symbol, length) = lookup((window >> 32) as u32);
            symbols = u64::from(u8::try_from(symbol).map_err(|_| Error::Huffman)?);
            (used, count) = (length, 1);
        }
        out[end..end + 8].copy_from_slice(&symbols.to_le_bytes());
        at += used;
        end += count;
    }
    // No code consists of ones alone. So one that ends within those behind the end was cut off, or follows on wrong padding.
    if at > total { Err(Error::Huffman) } else { Ok(end) }
}

/// The bits from bit `at` on, 57 of them. There are `left` to be decoded; behind these come ones, as in padding.
#[inline]
fn window(input: &[u8], at: usize, left: usize) -> u64 {
    let bytes = &input[at / 8..];
    let bits = match bytes.first_chunk() {
        Some(bytes) if left >= 64 => return u64::from_be_bytes(*bytes) << (at % 8),
        Some(bytes) => u64::from_be_bytes(*bytes),
        None => {
            let mut last = [0; 8];
            last[..bytes.len()].copy_from_slice(bytes);
            u64::from_be_bytes(last)
        }
    };
    (bits << (at % 8)) | u64::MAX.checked_shr(left as u32).unwrap_or(0)
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
