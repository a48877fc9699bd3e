#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clustor_sim::fuzz::ledger_replay(bytes));
