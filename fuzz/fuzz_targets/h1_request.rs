//! Request heads: see `proxy::fuzzing::request` for the laws.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| proxy::fuzzing::request(data));
