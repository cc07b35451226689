#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| culvert_tests::decoders::check("flow", bytes));
