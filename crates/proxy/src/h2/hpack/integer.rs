//! Numbers with a prefix (RFC 7541, 5.1).

use super::Error;

/// Bytes that may follow the prefix. Four carry 28 bits: more than any block is long.
const MOST: usize = 4;

/// Takes a number whose first byte, the front of `input`, holds it in its low `bits` bits.
#[inline]
pub(super) fn take(input: &mut &[u8], bits: u32) -> Result<usize, Error> {
    let (&first, rest) = input.split_first().ok_or(Error::Truncated)?;
    *input = rest;
    let most = (1_usize << bits) - 1;
    let value = usize::from(first) & most;
    if value < most { Ok(value) } else { take_rest(input, most) }
}

/// The bytes behind a full prefix, least significant first, all but the last with their top bit set.
fn take_rest(input: &mut &[u8], mut value: usize) -> Result<usize, Error> {
    for n in 0..MOST {
        let byte = usize::from(*input.get(n).ok_or(Error::Truncated)?);
        value += (byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            *input = &input[n + 1..];
            return Ok(value);
        }
    }
    Err(Error::Integer)
}

/// Appends `value` with a prefix of `bits` bits, beside which `flags` stands in the first byte.
#[inline]
pub(super) fn put(value: usize, bits: u32, flags: u8, out: &mut Vec<u8>) {
    let most = (1_usize << bits) - 1;
    if value < most {
        // Less than 255: a prefix has at most eight bits.
        out.push(flags | value as u8);
    } else {
        put_long(value - most, flags | most as u8, out);
    }
}

fn put_long(mut rest: usize, first: u8, out: &mut Vec<u8>) {
    out.push(first);
    while rest >= 0x80 {
        out.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    out.push(rest as u8);
}
