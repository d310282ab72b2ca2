//! libFuzzer's entry to [`lamina_fuzz::targets::safetensors`].
#![no_main]

use lamina_fuzz::targets;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: targets::seed_safetensors(), |data: &[u8]| targets::safetensors(data));
