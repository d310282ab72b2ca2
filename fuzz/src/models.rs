//! Model files to start from.

use std::iter;

use halo2_proofs::halo2curves::{
    bn256::{Fq, G2Affine},
    serde::SerdeObject,
};
use lamina_prover::srs::Srs;

/// `config.json`, `tokenizer.json` and `model.safetensors` of a model of one layer.
pub const ADDER: [&[u8]; 3] = [
    include_bytes!("../../model/assets/mathformer/config.json"),
    include_bytes!("../../model/assets/mathformer/tokenizer.json"),
    include_bytes!("../../model/assets/mathformer/model.safetensors"),
];

/// One input of the `safetensors` target.
///
/// ```text
/// bytes of config.json u16 | bytes of tokenizer.json u16 | config.json | tokenizer.json | model.safetensors
/// ```
pub fn joined(config: &[u8], tokenizer: &[u8], weights: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend((config.len() as u16).to_le_bytes());
    out.extend((tokenizer.len() as u16).to_le_bytes());
    out.extend([config, tokenizer, weights].concat());
    out
}

/// The parts of [`joined`]; short inputs have short parts.
pub fn parts(data: &[u8]) -> [&[u8]; 3] {
    let (lengths, rest) = data.split_at(data.len().min(4));
    let length =
        |at: usize| lengths.get(at..at + 2).map_or(0, |b| usize::from(u16::from_le_bytes([b[0], b[1]])));
    let (config, rest) = rest.split_at(length(0).min(rest.len()));
    let (tokenizer, weights) = rest.split_at(length(2).min(rest.len()));
    [config, tokenizer, weights]
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A GGUF file of one layer with 32 features, its projections of type `kind` (the format's number).
pub fn gguf(kind: u32, tokenizer: bool) -> Vec<u8> {
    const WIDTH: usize = 32;
    let (mut metadata, mut entries) = (Vec::new(), 0u64);
    let mut entry = |key: &str, kind: u32, value: &dyn Fn(&mut Vec<u8>)| {
        text(&mut metadata, key);
        metadata.extend(kind.to_le_bytes());
        value(&mut metadata);
        entries += 1;
    };
    let vocabulary = ["a", "b", "\u{120}", "1", "ab", "\u{120}ab", "11"];
    entry("general.architecture", 8, &|out| text(out, "llama"));
    for (key, value) in [
        ("block_count", 1),
        ("context_length", 16),
        ("embedding_length", WIDTH as u32),
        ("feed_forward_length", WIDTH as u32),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ] {
        entry(&format!("llama.{key}"), 4, &|out| out.extend(value.to_le_bytes()));
    }
    entry("llama.attention.layer_norm_rms_epsilon", 6, &|out| out.extend(1e-5f32.to_le_bytes()));
    entry("llama.rope.freq_base", 6, &|out| out.extend(1e4f32.to_le_bytes()));
    if tokenizer {
        let texts = |values: &'static [&'static str]| {
            move |out: &mut Vec<u8>| {
                out.extend(8u32.to_le_bytes());
                out.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| text(out, value));
            }
        };
        entry("tokenizer.ggml.model", 8, &|out| text(out, "gpt2"));
        entry("tokenizer.ggml.pre", 8, &|out| text(out, "smollm"));
        entry("tokenizer.ggml.tokens", 9, &texts(&["a", "b", "\u{120}", "1", "ab", "\u{120}ab", "11"]));
        entry("tokenizer.ggml.merges", 9, &texts(&["a b", "\u{120} ab", "1 1"]));
        entry("tokenizer.ggml.token_type", 9, &|out| {
            out.extend(5u32.to_le_bytes());
            out.extend(7u64.to_le_bytes());
            [1i32, 1, 1, 1, 1, 1, 3].iter().for_each(|kind| out.extend(kind.to_le_bytes()));
        });
    }
    // Bytes of a row of 32 values.
    let row = |kind: u32| match kind {
        0 => 128,
        1 | 30 => 64,
        2 => 18,
        3 => 20,
        6 => 22,
        8 => 34,
        _ => 144,
    };
    let (mut directory, mut data, mut tensors) = (Vec::new(), Vec::new(), 0u64);
    let mut tensor = |name: &str, rows: Option<usize>, kind: u32| {
        text(&mut directory, name);
        directory.extend((1 + u32::from(rows.is_some())).to_le_bytes());
        for dim in iter::once(WIDTH).chain(rows) {
            directory.extend((dim as u64).to_le_bytes());
        }
        directory.extend(kind.to_le_bytes());
        directory.extend((data.len() as u64).to_le_bytes());
        data.resize(data.len() + rows.unwrap_or(1) * row(kind), 1u8);
        data.resize(data.len().next_multiple_of(32), 0);
        tensors += 1;
    };
    tensor("token_embd.weight", Some(vocabulary.len()), 0);
    tensor("output_norm.weight", None, 0);
    for (name, rows) in [
        ("attn_q", WIDTH),
        ("attn_k", WIDTH / 2),
        ("attn_v", WIDTH / 2),
        ("attn_output", WIDTH),
        ("ffn_gate", WIDTH),
        ("ffn_up", WIDTH),
        ("ffn_down", WIDTH),
    ] {
        tensor(&format!("blk.0.{name}.weight"), Some(rows), kind);
    }
    tensor("blk.0.attn_norm.weight", None, 0);
    tensor("blk.0.ffn_norm.weight", None, 0);
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend(tensors.to_le_bytes());
    out.extend(entries.to_le_bytes());
    out.extend(metadata);
    out.extend(directory);
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    out
}

/// A `.ptau` file of `2^power − 1` and more powers of a small string; points in Montgomery form.
///
/// # Panics
/// `srs` has fewer powers.
pub fn ptau(srs: &Srs) -> Vec<u8> {
    let power = 2u32;
    let first = (2usize << power) - 1;
    let mut one = Vec::new();
    for point in &srs.powers()[..first] {
        one.extend(SerdeObject::to_raw_bytes(point));
    }
    let tau = srs.identity().tau_g2();
    let mut two = Vec::new();
    for point in [G2Affine::generator(), tau, tau, tau] {
        two.extend(SerdeObject::to_raw_bytes(&point));
    }
    let mut header = Vec::new();
    header.extend(32u32.to_le_bytes());
    let mut modulus = (-Fq::one()).to_bytes();
    modulus[0] += 1;
    header.extend(modulus);
    header.extend(power.to_le_bytes());
    header.extend(power.to_le_bytes());
    let mut out = b"ptau".to_vec();
    out.extend(1u32.to_le_bytes());
    out.extend(3u32.to_le_bytes());
    for (id, section) in [(1u32, header), (2, one), (3, two)] {
        out.extend(id.to_le_bytes());
        out.extend((section.len() as u64).to_le_bytes());
        out.extend(section);
    }
    out
}
