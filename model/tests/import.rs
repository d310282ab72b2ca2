//! Import: hostile files get typed errors, and both containers give one model.

use lamina_model::{
    Family, Model, bundled, bundled_adder,
    error::{ForwardError, ImportError},
    import::{from_gguf_bytes, from_safetensors_bytes, import},
    model::{Gain, Linear},
};
use serde_json::{Value, json};

const CONFIG: &[u8] = include_bytes!("../assets/mathformer/config.json");
const WEIGHTS: &[u8] = include_bytes!("../assets/mathformer/model.safetensors");
const TOKENIZER: &[u8] = include_bytes!("../assets/mathformer/tokenizer.json");

/// The adder's configuration with one field changed (removed when null).
fn config_with(field: &str, value: Value) -> Vec<u8> {
    let mut config: Value = serde_json::from_slice(CONFIG).expect("the asset parses");
    config[field] = value;
    config.to_string().into_bytes()
}

fn fail(config: &[u8], weights: &[u8]) -> ImportError {
    from_safetensors_bytes(config, weights, None).expect_err("the model must be refused")
}

#[test]
fn unsupported_models_are_named() {
    let error = fail(&config_with("model_type", json!("gemma")), WEIGHTS);
    assert!(matches!(&error, ImportError::Architecture { found } if found == "gemma"), "{error}");
    for (field, value) in [
        ("attention_bias", json!(true)),
        ("mlp_bias", json!(true)),
        ("hidden_act", json!("gelu")),
        ("rope_scaling", json!({"rope_type": "llama3", "factor": 8.0})),
    ] {
        let error = fail(&config_with(field, value), WEIGHTS);
        assert!(matches!(&error, ImportError::Unsupported { feature, .. } if *feature == field), "{error}");
    }
}

#[test]
fn absurd_configurations_are_refused_before_allocation() {
    for (field, value) in [
        ("hidden_size", json!(1u64 << 40)),
        ("hidden_size", json!(0)),
        ("vocab_size", json!(u64::MAX)),
        ("num_hidden_layers", json!(1 << 20)),
        ("num_key_value_heads", json!(0)),
        ("num_attention_heads", json!(0)),
        ("head_dim", json!(3)),
        ("rms_norm_eps", json!(-1.0)),
        ("pad_token_id", json!(27)),
    ] {
        let error = fail(&config_with(field, value.clone()), WEIGHTS);
        assert!(matches!(error, ImportError::Config { .. }), "{field} = {value}: {error}");
    }
    let error = fail(&config_with("rope_parameters", json!({"rope_theta": 0.5})), WEIGHTS);
    assert!(matches!(&error, ImportError::Config { field: "rope_theta", .. }), "{error}");
    let error = fail(&config_with("rms_norm_eps", Value::Null), WEIGHTS);
    assert!(matches!(&error, ImportError::MissingField { field: "rms_norm_eps" }), "{error}");
    assert!(matches!(fail(b"{", WEIGHTS), ImportError::Json { .. }));
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let error = fail(&config_with("intermediate_size", json!(33)), WEIGHTS);
    let ImportError::TensorShape { name, expected, actual } = &error else { panic!("{error}") };
    assert_eq!(name, "model.layers.0.mlp.gate_proj.weight");
    assert_eq!((expected.as_slice(), actual.as_slice()), (&[33, 8][..], &[32, 8][..]));

    let error = fail(&config_with("num_hidden_layers", json!(2)), WEIGHTS);
    assert!(
        matches!(&error, ImportError::MissingTensor { name } if name.starts_with("model.layers.1.")),
        "{error}"
    );

    // A tensor that would be ignored: `up_proj` renamed to `up_bias` leaves one unknown and one missing;
    // with the untied head renamed in a tied model, only the unknown one is left.
    let renamed = replace(WEIGHTS, b"lm_head.weight", b"lm_headXweight");
    let error = fail(&config_with("tie_word_embeddings", json!(true)), &renamed);
    assert!(matches!(&error, ImportError::UnknownTensor { name } if name == "lm_headXweight"), "{error}");

    let error = fail(CONFIG, &replace(WEIGHTS, b"\"dtype\":\"F32\"", b"\"dtype\":\"I32\""));
    assert!(matches!(&error, ImportError::TensorType { actual, .. } if actual == "I32"), "{error}");

    let mut broken = WEIGHTS.to_vec();
    let end = broken.len();
    broken[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(matches!(fail(CONFIG, &broken), ImportError::NotFinite { .. }));
}

/// The first occurrence replaced by bytes of the same length, everywhere.
fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at + from.len() <= out.len() {
        if out[at..].starts_with(from) {
            out[at..at + to.len()].copy_from_slice(to);
        }
        at += 1;
    }
    out
}

#[test]
fn truncated_safetensors_are_refused() {
    for length in [0, 7, 8, 100, WEIGHTS.len() - 1] {
        assert!(matches!(fail(CONFIG, &WEIGHTS[..length]), ImportError::Safetensors { .. }), "{length}");
    }
}

#[test]
fn paths_without_a_model_say_so() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(matches!(import(here.join("src")), Err(ImportError::NoModel { .. })));
    assert!(matches!(import(here.join("src/lib.rs")), Err(ImportError::NoModel { .. })));
    assert!(matches!(import(here.join("absent.gguf")), Err(ImportError::Io { .. })));
    let model = import(here.join("assets/glassllm")).expect("the asset is a model");
    assert_eq!(model.blocks, bundled().expect("the asset is bundled").blocks);
}

/// Writes a GGUF file, version 3.
struct Writer {
    entries: Vec<u8>,
    entry_count: u64,
    directory: Vec<u8>,
    data: Vec<u8>,
    tensor_count: u64,
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Writer {
    fn new() -> Self {
        Self::of("llama")
    }

    fn of(architecture: &str) -> Self {
        let mut writer =
            Writer { entries: vec![], entry_count: 0, directory: vec![], data: vec![], tensor_count: 0 };
        writer.entry("general.architecture", 8, |out| text(out, architecture));
        writer
    }

    fn entry(&mut self, key: &str, kind: u32, value: impl Fn(&mut Vec<u8>)) {
        text(&mut self.entries, key);
        self.entries.extend(kind.to_le_bytes());
        value(&mut self.entries);
        self.entry_count += 1;
    }

    fn count(&mut self, key: &str, value: usize) {
        self.entry(key, 4, |out| out.extend((value as u32).to_le_bytes()));
    }

    fn float(&mut self, key: &str, value: f32) {
        self.entry(key, 6, |out| out.extend(value.to_le_bytes()));
    }

    fn texts(&mut self, key: &str, values: &[&str]) {
        self.entry(key, 9, |out| {
            out.extend(8u32.to_le_bytes());
            out.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| text(out, value));
        });
    }

    /// A tensor of type F32 (0) or Q8_0 (8).
    fn tensor(&mut self, name: &str, shape: &[usize], values: &[f32], kind: u32) {
        text(&mut self.directory, name);
        self.directory.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|&dim| self.directory.extend((dim as u64).to_le_bytes()));
        self.directory.extend(kind.to_le_bytes());
        self.directory.extend((self.data.len() as u64).to_le_bytes());
        if kind == 0 {
            values.iter().for_each(|value| self.data.extend(value.to_le_bytes()));
        } else {
            for block in values.chunks_exact(32) {
                // A scale of 2^-10 (F16), then 32 signed bytes.
                self.data.extend(0x1400u16.to_le_bytes());
                self.data.extend(block.iter().map(|v| (v * 1024.0).round().clamp(-127.0, 127.0) as i8 as u8));
            }
        }
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self.tensor_count += 1;
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend(self.tensor_count.to_le_bytes());
        out.extend(self.entry_count.to_le_bytes());
        out.extend(&self.entries);
        out.extend(&self.directory);
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }
}

/// Rows of each head from half-split pairs to adjacent pairs: what GGUF files of the architecture hold.
fn interleave(data: &[f32], head_dim: usize, inputs: usize) -> Vec<f32> {
    let mut out = vec![];
    for head in data.chunks_exact(head_dim * inputs) {
        for row in 0..head_dim {
            out.extend(&head[(row / 2 + row % 2 * head_dim / 2) * inputs..][..inputs]);
        }
    }
    out
}

/// The bundled model as a GGUF file; projections as Q8_0 when `quantised`.
fn as_gguf(quantised: bool) -> Vec<u8> {
    gguf_of(&bundled().expect("the asset is bundled"), quantised)
}

/// A model as a GGUF file of its architecture.
fn gguf_of(model: &Model, quantised: bool) -> Vec<u8> {
    let shape = &model.config.shape;
    let family = model.config.family.name();
    let mut w = Writer::of(family);
    for (key, value) in [
        ("block_count", model.config.layers),
        ("context_length", model.config.context),
        ("embedding_length", shape.hidden),
        ("feed_forward_length", shape.ffn),
        ("attention.head_count", shape.heads),
        ("attention.head_count_kv", shape.kv_heads),
        ("attention.key_length", shape.head_dim),
    ] {
        w.count(&format!("{family}.{key}"), value);
    }
    w.float(&format!("{family}.attention.layer_norm_rms_epsilon"), 1e-6);
    w.float(&format!("{family}.rope.freq_base"), 10_000.0);
    let kind = if quantised { 8 } else { 0 };
    w.tensor("token_embd.weight", &[model.config.vocab, shape.hidden], &model.embedding.data, 0);
    let Gain::Features(gain) = &model.final_norm else { panic!("an imported model is in its own basis") };
    w.tensor("output_norm.weight", &[shape.hidden], gain, 0);
    if !model.config.tied {
        w.tensor("output.weight", &[model.config.vocab, shape.hidden], &model.head.data, 0);
    }
    for (i, b) in model.blocks.iter().enumerate() {
        let stored = |l: &Linear| match model.config.family {
            Family::Llama => interleave(&l.data, shape.head_dim, shape.hidden),
            _ => l.data.to_vec(),
        };
        w.tensor(&format!("blk.{i}.attn_norm.weight"), &[shape.hidden], &b.attn_norm.gain, 0);
        w.tensor(&format!("blk.{i}.ffn_norm.weight"), &[shape.hidden], &b.ffn_norm.gain, 0);
        w.tensor(&format!("blk.{i}.attn_q.weight"), &[b.q.outputs, b.q.inputs], &stored(&b.q), kind);
        w.tensor(&format!("blk.{i}.attn_k.weight"), &[b.k.outputs, b.k.inputs], &stored(&b.k), kind);
        let up = b.up.as_ref().expect("a gated layer");
        for (name, l) in [("attn_v", &b.v), ("attn_output", &b.o), ("ffn_gate", &b.gate), ("ffn_up", up)] {
            w.tensor(&format!("blk.{i}.{name}.weight"), &[l.outputs, l.inputs], &l.data, kind);
        }
        for (name, l) in [("attn_q", &b.q), ("attn_k", &b.k), ("attn_v", &b.v)] {
            if let Some(bias) = &l.bias {
                w.tensor(&format!("blk.{i}.{name}.bias"), &[l.outputs], bias, 0);
            }
        }
        // 341 inputs are no whole number of blocks: this one stays F32.
        w.tensor(&format!("blk.{i}.ffn_down.weight"), &[b.down.outputs, b.down.inputs], &b.down.data, 0);
    }
    w.bytes()
}

#[test]
fn a_qwen2_has_half_split_pairs_and_biases_in_gguf() {
    let config = include_bytes!("reference/qwen2/config.json");
    let weights = include_bytes!("reference/qwen2/model.safetensors");
    let expected = from_safetensors_bytes(config, weights, None).expect("the reference is a model");
    assert!(expected.blocks.iter().all(|b| b.q.bias.is_some() && b.o.bias.is_none()));
    let model = from_gguf_bytes(&gguf_of(&expected, false), None).expect("the file is sound");
    assert_eq!(model.config.family, Family::Qwen2);
    assert_eq!((model.blocks, model.head), (expected.blocks, expected.head));
    let mut w = Writer::of("gpt2");
    w.count("gpt2.block_count", 1);
    let error = from_gguf_bytes(&w.bytes(), None).expect_err("GPT-2 is read from safetensors");
    assert!(matches!(&error, ImportError::Architecture { found } if found == "gpt2"), "{error}");
}

#[test]
fn gguf_and_safetensors_give_one_model() {
    let model = from_gguf_bytes(&as_gguf(false), None).expect("the file is sound");
    let expected = bundled().expect("the asset is bundled");
    assert_eq!(model.blocks, expected.blocks);
    assert_eq!(model.embedding, expected.embedding);
    assert_eq!(model.final_norm, expected.final_norm);
    assert_eq!(model.config.shape, expected.config.shape);
    assert_eq!(model.config.norm_eps, expected.config.norm_eps);
    assert!(model.config.tied && model.tokenizer.is_none());
}

#[test]
fn quantised_gguf_is_expanded() {
    let model = from_gguf_bytes(&as_gguf(true), None).expect("the file is sound");
    let expected = bundled().expect("the asset is bundled");
    for (got, want) in model.blocks.iter().zip(&expected.blocks) {
        for (got, want) in [(&got.q, &want.q), (&got.gate, &want.gate)] {
            let limit = 127.0 / 1024.0;
            for (g, w) in got.data.iter().zip(want.data.iter()) {
                assert!((g - w.clamp(-limit, limit)).abs() <= 0.5 / 1024.0 + 1e-6, "{g} {w}");
            }
        }
    }
}

#[test]
fn broken_gguf_never_panics() {
    let sound = as_gguf(false);
    for length in (0..200).chain([1000, sound.len() / 2, sound.len() - 1]) {
        assert!(from_gguf_bytes(&sound[..length], None).is_err(), "{length}");
    }
    // Every byte of the header, each to several values: an error or another model, never a panic or a
    // giant allocation.
    for at in 0..600 {
        for value in [0x00, 0x7f, 0xff, sound[at] ^ 1] {
            let mut bytes = sound.clone();
            bytes[at] = value;
            let _ = from_gguf_bytes(&bytes, None);
        }
    }
    let mut huge = sound.clone();
    huge[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    let error = from_gguf_bytes(&huge, None).expect_err("the count is absurd");
    assert!(matches!(error, ImportError::TooLarge { .. }), "{error}");
}

// Found while fuzzing: a tensor of nothing that lies beyond the end.
#[test]
fn empty_tensors_may_lie_anywhere() {
    for offset in [1u64 << 20, u64::MAX] {
        let mut w = Writer::new();
        w.tensor("nothing", &[0], &[], 0);
        let at = w.directory.len() - 8;
        w.directory[at..].copy_from_slice(&offset.to_le_bytes());
        let error = from_gguf_bytes(&w.bytes(), None).expect_err("no model");
        assert!(matches!(&error, ImportError::MissingField { .. }), "{error}");
    }
}

// Found while fuzzing: a message that was put together for every string of an array, whether it failed or not,
// out of a key of any length.
#[test]
fn long_keys_cost_what_they_weigh() {
    let started = std::time::Instant::now();
    let values = vec![""; 1 << 17];
    let mut w = Writer::new();
    w.texts(&"k".repeat(1 << 16), &values);
    let error = from_gguf_bytes(&w.bytes(), None).expect_err("keys have at most 65535 bytes");
    assert!(matches!(&error, ImportError::TooLarge { limit: 65_535, .. }), "{error}");
    // 2^17 copies of 2^16 bytes are seconds; none of them is a moment.
    let mut w = Writer::new();
    w.texts(&"k".repeat((1 << 16) - 1), &values);
    assert!(matches!(from_gguf_bytes(&w.bytes(), None), Err(ImportError::MissingField { .. })));
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}

#[test]
fn gguf_features_that_are_not_proved_are_named() {
    let mut w = Writer::new();
    w.entry("llama.rope.scaling.type", 8, |out| text(out, "yarn"));
    let error = from_gguf_bytes(&w.bytes(), None).expect_err("scaled angles");
    assert!(matches!(&error, ImportError::Unsupported { found, .. } if found == "yarn"), "{error}");

    let mut w = Writer::new();
    w.tensor("odd", &[32], &[0.0; 32], 13);
    let error = from_gguf_bytes(&w.bytes(), None).expect_err("an unread type");
    assert!(matches!(&error, ImportError::TensorType { name, .. } if name == "odd"), "{error}");
}

#[test]
fn gguf_tokenizer_is_built_from_metadata() {
    let mut w = Writer::new();
    w.count("llama.block_count", 1);
    w.count("llama.context_length", 16);
    w.count("llama.embedding_length", 2);
    w.count("llama.feed_forward_length", 2);
    w.count("llama.attention.head_count", 1);
    w.float("llama.attention.layer_norm_rms_epsilon", 1e-5);
    w.entry("tokenizer.ggml.model", 8, |out| text(out, "gpt2"));
    w.entry("tokenizer.ggml.pre", 8, |out| text(out, "smollm"));
    w.texts("tokenizer.ggml.tokens", &["a", "b", "\u{120}", "1", "ab", "\u{120}ab", "11"]);
    w.texts("tokenizer.ggml.merges", &["a b", "\u{120} ab", "1 1"]);
    let square = [0.25; 4];
    w.tensor("token_embd.weight", &[7, 2], &[0.5; 14], 0);
    w.tensor("output_norm.weight", &[2], &[1.0; 2], 0);
    for name in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"] {
        w.tensor(&format!("blk.0.{name}.weight"), &[2, 2], &square, 0);
    }
    for name in ["attn_norm", "ffn_norm"] {
        w.tensor(&format!("blk.0.{name}.weight"), &[2], &[1.0; 2], 0);
    }
    let model = from_gguf_bytes(&w.bytes(), None).expect("the file is sound");
    let tokenizer = model.tokenizer().expect("the metadata has one");
    // Digits stand alone, so the merge `1 1` never applies.
    let ids = tokenizer.encode("ab ab11").expect("all symbols are known");
    assert_eq!(ids, [4, 5, 3, 3]);
    assert_eq!(tokenizer.decode(&ids).expect("the ids are known"), "ab ab11");
}

#[test]
fn ids_are_checked() {
    let model = bundled_adder().expect("the asset is bundled");
    assert!(matches!(model.forward(&[]), Err(ForwardError::Empty)));
    assert!(matches!(model.forward(&[1; 65]), Err(ForwardError::TooManyTokens { given: 65, limit: 64 })));
    let error = model.forward(&[1, 27]).expect_err("there are 27 ids");
    assert!(matches!(error, ForwardError::TokenId { position: 1, id: 27, vocab: 27 }), "{error}");
    let error = from_safetensors_bytes(CONFIG, WEIGHTS, Some(b"{}")).expect_err("no tokenizer");
    assert!(matches!(error, ImportError::Tokenizer(_)), "{error}");
    // Found by fuzzing: the library panics on errors of syntax in a decoder.
    for broken in [
        &br#"{"decoder": x}"#[..],
        br#"{"version": "1.0", "decoder": {"type": "Fuse", }}"#,
        b"{\"decoder\": ",
    ] {
        let error = from_safetensors_bytes(CONFIG, WEIGHTS, Some(broken)).expect_err("no JSON");
        assert!(matches!(error, ImportError::Tokenizer(_)), "{error}");
    }
    assert!(from_safetensors_bytes(CONFIG, WEIGHTS, Some(TOKENIZER)).is_ok());
}
