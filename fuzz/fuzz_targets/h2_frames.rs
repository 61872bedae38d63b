//! Frames of HTTP/2: see `proxy::fuzzing::frames` for the laws.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| proxy::fuzzing::frames(data));
