//! Chunked bodies: see `proxy::fuzzing::chunked` for the laws.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| proxy::fuzzing::chunked(data));
