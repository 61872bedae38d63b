//! Frames of a link between sidecars: see `proxy::fuzzing::link` for the laws.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| proxy::fuzzing::link(data));
