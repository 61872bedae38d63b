//! What tests of the mesh are made of.

pub mod ca;
