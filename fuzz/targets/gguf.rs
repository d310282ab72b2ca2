//! libFuzzer's entry to [`lamina_fuzz::targets::gguf`].
#![no_main]

use lamina_fuzz::targets;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: targets::seed_gguf(), |data: &[u8]| targets::gguf(data));
