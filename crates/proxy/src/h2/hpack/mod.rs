//! Header compression of HTTP/2 (HPACK, RFC 7541).
//!
//! Decoding hands each field on as two slices, of the block itself where it holds the field in plain; nothing is allocated for a
//! field. Encoding writes literals in plain, without Huffman's code: both ends of most connections stand in one cluster, where
//! instructions are dearer than the fifth of bytes that the code saves. What the encoder enters into its table is said at
//! [`Encoder`].

mod decode;
mod encode;
mod huffman;
mod integer;
mod statics;
mod table;

pub(crate) use decode::{Decoder, Trace};
pub(crate) use encode::{Encoder, hash};

/// What both tables may hold before any setting says otherwise (RFC 9113, 6.5.2: SETTINGS_HEADER_TABLE_SIZE), in bytes.
pub(crate) const DEFAULT_TABLE_SIZE: usize = 4096;

/// Why a header block was refused. The table is out of step from here on, so the connection must end with COMPRESSION_ERROR
/// (RFC 9113, 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The block ends within a field.
    #[error("a header block ends within a field")]
    Truncated,
    /// A number of more than 28 bits, which no length, index or size in a block needs.
    #[error("a number in a header block is too large")]
    Integer,
    /// An index that is zero or beyond both tables.
    #[error("a header field has an index that is in no table")]
    Index,
    /// Padding of more than seven bits or of other bits than ones, or the end-of-string symbol.
    #[error("a header string is not in Huffman's code")]
    Huffman,
    /// The table was made larger than our setting allows.
    #[error("the header table is made larger than the settings allow")]
    TableSize,
    /// The table's size changed behind the first field of a block.
    #[error("the header table's size changes within a header block")]
    LateTableSize,
}

/// A block of `fields` as literals that enter no table, with static names by their index and all strings in Huffman's code.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn literals(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let text = |text: &[u8], out: &mut Vec<u8>| {
        let mut coded = Vec::new();
        huffman::encode(text, &mut coded);
        integer::put(coded.len(), 7, 0x80, out);
        out.extend_from_slice(&coded);
    };
    for (name, value) in fields {
        let index = statics::name(name);
        integer::put(index, 4, 0, &mut out);
        if index == 0 {
            text(name, &mut out);
        }
        text(value, &mut out);
    }
    out
}

#[cfg(test)]
mod tests;
