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
    /// How often the table was changed.
    changes: u64,
    /// By the last block.
    done: Done,
}

/// What a block did with the dynamic table.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    /// It named one of its entries.
    names: bool,
    /// It entered so many fields.
    entered: usize,
    /// It changed the table in another way.
    resized: bool,
}

/// A name and a value.
type Field = (Box<[u8]>, Box<[u8]>);

/// What a block did with the dynamic table, so that it can do the same without being decoded.
#[derive(Debug)]
pub(crate) struct Trace {
    /// If it named entries: how often the table had been changed. It means the same as long as that stays so.
    changes: Option<u64>,
    /// Names and values that it entered, in order.
    entered: Vec<Field>,
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
        Decoder {
            table: Table::new(DEFAULT_TABLE_SIZE),
            most,
            scratch: Vec::new(),
            used: 0,
            changes: 0,
            done: Done::default(),
        }
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
        self.done = Done::default();
        while let Some(&first) = rest.first() {
            if first & 0x80 != 0 {
                let index = integer::take(&mut rest, 7)?;
                self.done.names |= index > statics::FIELDS.len();
                let (name, value) = self.lookup(index)?;
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

    /// What the last block did, which must have been a good one. `None`: it cannot be done again, or means something else then.
    pub(crate) fn trace(&self) -> Option<Trace> {
        let Done { names, entered, resized } = self.done;
        if resized || names && entered > 0 || entered > self.table.len() {
            return None;
        }
        let fields = (0..entered).rev().filter_map(|index| self.table.get(index));
        let entered = fields.map(|(name, value)| (name.into(), value.into())).collect();
        Some(Trace { changes: names.then_some(self.changes), entered })
    }

    /// Does what a block did, instead of decoding it again. False: it would not mean the same, and nothing was done.
    pub(crate) fn again(&mut self, trace: &Trace) -> bool {
        if trace.changes.is_some_and(|changes| changes != self.changes) {
            return false;
        }
        for (name, value) in &trace.entered {
            self.table.insert(name, value);
            self.changes += 1;
        }
        true
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
                self.done.names = true;
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
            self.done.resized |= !self.table.insert(name, value);
            self.done.entered += 1;
            self.changes += 1;
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
        self.done.resized = true;
        self.changes += 1;
        Ok(())
    }
}
