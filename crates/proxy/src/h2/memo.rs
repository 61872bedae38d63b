//! Header blocks that come again.
//!
//! A client that calls one method sends the same block each time, and so does a server whose answers differ in nothing but their
//! bodies; trailers mostly say that all went well. Decoding and checking a block is a third of what a small request costs. So
//! what the last block that came twice in a row became is kept, and copied when the same bytes come again and mean the same.

use std::mem;

use super::hpack::{self, Decoder, Trace};

/// Larger blocks are not kept, bytes.
const LARGEST: usize = 512;

/// Blocks of one kind on one connection, and the heads `T` that they stand for.
#[derive(Debug)]
pub(super) struct Memo<T> {
    /// A hash of the block that was decoded last: what comes once takes no memory.
    last: u32,
    kept: Option<Box<Kept<T>>>,
}

#[derive(Debug)]
struct Kept<T> {
    block: Vec<u8>,
    /// What else the head depends on.
    context: u8,
    trace: Trace,
    head: T,
}

impl<T> Default for Memo<T> {
    fn default() -> Memo<T> {
        Memo { last: 0, kept: None }
    }
}

impl<T> Memo<T> {
    /// The head that `block` stands for, if that is known. The decoder has then done what the block asks of it.
    #[inline]
    pub(super) fn find(&self, decoder: &mut Decoder, block: &[u8], context: u8) -> Option<&T> {
        let kept = self.kept.as_deref()?;
        let same = kept.block == block && kept.context == context;
        (same && decoder.again(&kept.trace)).then_some(&kept.head)
    }

    /// Keeps what `block` was found to stand for, if it is not the first of its like. It must be the last that the decoder has
    /// seen, and nothing about it may have been refused.
    pub(super) fn keep(&mut self, decoder: &Decoder, block: &[u8], context: u8, head: impl FnOnce() -> T) {
        let hash = hpack::hash(block);
        if mem::replace(&mut self.last, hash) != hash || block.len() > LARGEST {
            return;
        }
        if let Some(trace) = decoder.trace() {
            self.kept = Some(Box::new(Kept { block: block.to_vec(), context, trace, head: head() }));
        }
    }
}

#[cfg(test)]
mod tests;
