//! Response heads: see `proxy::fuzzing::response` for the laws.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| proxy::fuzzing::response(data));
