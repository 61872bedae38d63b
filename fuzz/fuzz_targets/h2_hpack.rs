//! Header blocks of HTTP/2: see `proxy::fuzzing::hpack` for the laws.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| proxy::fuzzing::hpack(data));
