//! Whole connections of HTTP/2: see `proxy::fuzzing::connection` for the laws.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| proxy::fuzzing::connection(data));
