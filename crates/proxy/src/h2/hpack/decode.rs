//! From header blocks to fields.

use super::table::Table;
use super::{DEFAULT_TABLE_SIZE, Error, huffman, integer, statics};

/// Memory for strings in Huffman's code that is kept between blocks.
const KEEP: usize = 1024;

/// The receiving half of a connection's header compression.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: Table,
    /// What a peer may make of the table's size.
    most: usize,
    /// Where strings are decoded to, one behind the other. What is not in use is kept, so that it need not be cleared.
    scratch: Vec<u8>,
    /// Bytes of it in use.
    used: usize,
}

/// A string of a block: in plain there, or so many bytes of the scratch.
enum Text<'a> {
    Plain(&'a [u8]),
    Decoded(usize),
}

impl Decoder {
    /// A decoder whose peer may use a table of `max_table_size` bytes, our SETTINGS_HEADER_TABLE_SIZE, or of
    /// [`DEFAULT_TABLE_SIZE`] if that is more: a peer may use so much before it has read our settings.
    pub(crate) fn new(max_table_size: usize) -> Decoder {
        let most = max_table_size.max(DEFAULT_TABLE_SIZE);
        Decoder { table: Table::new(DEFAULT_TABLE_SIZE), most, scratch: Vec::new(), used: 0 }
    }

    /// Decodes a whole header block. Each field is given to `sink` with its name, its value, and whether it must never enter a
    /// table on its further way either (RFC 7541, 6.2.3). A field that was entered into the table costs one byte of the block and
    /// may be as large as the table; so the sink must bound what it keeps.
    ///
    /// # Errors
    /// The block breaks RFC 7541. Nothing that follows on this connection can be decoded.
    pub(crate) fn decode(&mut self, block: &[u8], sink: &mut impl FnMut(&[u8], &[u8], bool)) -> Result<(), Error> {
        let mut rest = block;
        let mut fields = false;
        while let Some(&first) = rest.first() {
            if first & 0x80 != 0 {
                let (name, value) = self.lookup(integer::take(&mut rest, 7)?)?;
                sink(name, value, false);
            } else if first & 0xe0 == 0x20 {
                self.resize(integer::take(&mut rest, 5)?, fields)?;
                continue;
            } else {
                self.literal(first, &mut rest, sink)?;
            }
            fields = true;
        }
        if self.scratch.len() > KEEP {
            self.scratch = Vec::new();
        }
        Ok(())
    }

    /// The field with this index in either table (2.3.3).
    #[inline]
    fn lookup(&self, index: usize) -> Result<(&[u8], &[u8]), Error> {
        let index = index.checked_sub(1).ok_or(Error::Index)?;
        match statics::FIELDS.get(index) {
            Some(field) => Ok(*field),
            None => self.table.get(index - statics::FIELDS.len()).ok_or(Error::Index),
        }
    }

    /// A literal field, which `rest` begins with (6.2).
    fn literal(&mut self, first: u8, rest: &mut &[u8], sink: &mut impl FnMut(&[u8], &[u8], bool)) -> Result<(), Error> {
        let enters = first & 0x40 != 0;
        let index = integer::take(rest, if enters { 6 } else { 4 })?;
        self.used = 0;
        let name = match index {
            0 => self.text(rest)?,
            index if index <= statics::FIELDS.len() => Text::Plain(statics::FIELDS[index - 1].0),
            index => {
                // Copied, since the entry may have to go for the new one (4.4).
                let (name, _) = self.table.get(index - 1 - statics::FIELDS.len()).ok_or(Error::Index)?;
                self.used = name.len();
                self.scratch.truncate(0);
                self.scratch.extend_from_slice(name);
                Text::Decoded(name.len())
            }
        };
        let value = self.text(rest)?;
        let (name, scratch) = match name {
            Text::Plain(name) => (name, &self.scratch[..]),
            Text::Decoded(length) => self.scratch.split_at(length),
        };
        let value = match value {
            Text::Plain(value) => value,
            Text::Decoded(length) => &scratch[..length],
        };
        sink(name, value, first & 0xf0 == 0x10);
        if enters {
            self.table.insert(name, value);
        }
        Ok(())
    }

    /// A string (5.2).
    #[inline]
    fn text<'a>(&mut self, rest: &mut &'a [u8]) -> Result<Text<'a>, Error> {
        let coded = rest.first().is_some_and(|first| first & 0x80 != 0);
        let length = integer::take(rest, 7)?;
        let block = *rest;
        let (text, behind) = block.split_at_checked(length).ok_or(Error::Truncated)?;
        *rest = behind;
        if !coded {
            return Ok(Text::Plain(text));
        }
        let room = self.used + huffman::room(length);
        if self.scratch.len() < room {
            self.scratch.resize(room, 0);
        }
        let decoded = huffman::decode(block, length, &mut self.scratch[self.used..])?;
        self.used += decoded;
        Ok(Text::Decoded(decoded))
    }

    fn resize(&mut self, max: usize, fields: bool) -> Result<(), Error> {
        if fields {
            return Err(Error::LateTableSize);
        }
        if max > self.most {
            return Err(Error::TableSize);
        }
        self.table.resize(max);
        Ok(())
    }
}
