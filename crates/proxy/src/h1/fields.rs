//! Header and trailer fields as ranges into the bytes that they came in.

/// Fields in the order received.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields {
    raw: Vec<u8>,
}

impl Fields {
    /// The first value of `name` (lower case), without surrounding whitespace.
    pub(crate) fn get(&self, _name: &str) -> Option<&[u8]> {
        todo!()
    }

    /// Every field in order: name as sent, value without surrounding whitespace.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        std::iter::empty()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }
}
