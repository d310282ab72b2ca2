//! libFuzzer's entry to [`lamina_fuzz::targets::card`].
#![no_main]

use lamina_fuzz::{mutate, targets};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(init: targets::seed_card(), |data: &[u8]| targets::card(data));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate::json(data, size, max_size, seed)
});
