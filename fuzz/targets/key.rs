//! libFuzzer's entry to [`lamina_fuzz::targets::key`].
#![no_main]

use lamina_fuzz::{mutate, targets};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(init: targets::seed_key(), |data: &[u8]| targets::key(data));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate::elements(data, size, max_size, seed, 32)
});
