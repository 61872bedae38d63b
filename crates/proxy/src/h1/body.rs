//! Bodies: finding their end, and writing them.

mod decode;
mod encode;

pub(crate) use decode::{Decoder, Part};
pub(crate) use encode::Encoder;

#[cfg(test)]
mod tests;
