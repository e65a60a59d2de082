#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tower_session_cache::fuzzing::signed_event(bytes));
