//! GPT-2 and Qwen2: import and float reference against logits of another implementation, fixed point against floats.
//!
//! `tools/reference_models.py` wrote the models and the logits.

use lamina_circuits::spec::{Activation, FeedForward};
use lamina_model::{
    Family, Model, Options,
    config::Norm,
    error::{ImportError, QuantiseError},
    eval,
    import::from_safetensors_bytes,
    quantise,
};
use serde_json::{Map, Value, json};

const GPT2: [&[u8]; 3] = [
    include_bytes!("reference/gpt2/config.json"),
    include_bytes!("reference/gpt2/model.safetensors"),
    include_bytes!("reference/gpt2/logits.json"),
];
const QWEN2: [&[u8]; 3] = [
    include_bytes!("reference/qwen2/config.json"),
    include_bytes!("reference/qwen2/model.safetensors"),
    include_bytes!("reference/qwen2/logits.json"),
];

fn import([config, weights, _]: [&[u8]; 3]) -> Model {
    from_safetensors_bytes(config, weights, None).expect("the reference is a model")
}

/// Ids, and the logits of every position.
fn expected([_, _, logits]: [&[u8]; 3]) -> (Vec<u32>, Vec<f32>) {
    let value: Value = serde_json::from_slice(logits).expect("the reference parses");
    let ids = value["ids"].as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32);
    let rows =
        value["logits"].as_array().expect("rows").iter().flat_map(|row| row.as_array().expect("a row"));
    (ids.collect(), rows.map(|l| l.as_f64().expect("a logit") as f32).collect())
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// A file with its header changed: names of tensors to others, or to none.
fn renamed(bytes: &[u8], rename: impl Fn(&str) -> Option<String>) -> Vec<u8> {
    rewritten(bytes, rename, &[])
}

/// As [`renamed`], with further tensors of bytes.
fn rewritten(bytes: &[u8], rename: impl Fn(&str) -> Option<String>, added: &[&str]) -> Vec<u8> {
    let length = u64::from_le_bytes(*bytes.first_chunk().expect("a header")) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    let (mut out, mut data) = (Map::new(), vec![]);
    let mut entries: Vec<_> = header.into_iter().collect();
    entries.sort_by_key(|(_, entry)| entry["data_offsets"][0].as_u64());
    for (name, mut entry) in entries {
        let Some(name) = rename(&name) else { continue };
        let [from, to] = [0, 1].map(|i| entry["data_offsets"][i].as_u64().expect("an offset") as usize);
        let start = data.len();
        data.extend_from_slice(&bytes[8 + length + from..8 + length + to]);
        entry["data_offsets"] = json!([start, data.len()]);
        out.insert(name, entry);
    }
    for name in added {
        let start = data.len();
        data.extend([1u8; 64]);
        let offsets = json!([start, data.len()]);
        out.insert(
            (*name).to_owned(),
            json!({"dtype": "U8", "shape": [1, 1, 8, 8], "data_offsets": offsets}),
        );
    }
    let mut header = Value::Object(out).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    file
}

/// A configuration with one field changed (removed when null).
fn config_with(config: &[u8], field: &str, value: Value) -> Vec<u8> {
    let mut config: Value = serde_json::from_slice(config).expect("the reference parses");
    config[field] = value;
    config.to_string().into_bytes()
}

#[test]
fn logits_are_those_of_another_implementation() {
    for (reference, family) in [(GPT2, Family::Gpt2), (QWEN2, Family::Qwen2)] {
        let model = import(reference);
        assert_eq!(model.config.family, family);
        let (ids, logits) = expected(reference);
        let own = model.forward(&ids).expect("few tokens");
        assert!(difference(&own, &logits) < 2e-5, "{family:?}: {}", difference(&own, &logits));
        // The same in the basis that is proved.
        let rotated = model.rotated();
        let own = rotated.forward(&ids).expect("few tokens");
        assert!(difference(&own, &logits) < 2e-4, "{family:?}: {}", difference(&own, &logits));
        assert_eq!(rotated.rotated().forward(&ids).expect("few tokens").len(), own.len());
    }
}

#[test]
fn names_may_lack_their_prefix_and_masks_are_ignored() {
    let [config, weights, _] = GPT2;
    let masks = ["h.0.attn.bias", "h.1.attn.masked_bias"];
    let bare = rewritten(weights, |name| name.strip_prefix("transformer.").map(str::to_owned), &masks);
    let plain = from_safetensors_bytes(config, &bare, None).expect("the same model");
    let model = import(GPT2);
    assert_eq!(model.parameters(), 2692);
    assert_eq!((plain.blocks, plain.positions), (model.blocks, model.positions));
}

#[test]
fn a_centred_stream_has_no_mean() {
    let rotated = import(GPT2).rotated();
    assert_eq!(rotated.config.norm, Norm::Centred);
    let d = rotated.config.shape.hidden;
    let (ids, _) = expected(GPT2);
    let mut run = lamina_model::forward::FloatRun::new(&rotated, &ids).expect("few tokens");
    for layer in 0..rotated.blocks.len() {
        let trace = run.layer(layer).expect("it runs");
        for stream in [&trace.x, &trace.middle, &trace.output, &trace.norm1, &trace.norm2] {
            assert!(stream.iter().step_by(d).all(|&mean| mean == 0.0));
        }
    }
    // The embedding keeps its mean for the head that reads it too.
    assert!(rotated.embedding.data.iter().step_by(d).all(|&mean| mean.abs() > 0.1));
    assert_eq!(rotated.embedding, rotated.head);
    // Twice is once.
    assert_eq!(rotated.rotated().blocks, rotated.blocks);
}

#[test]
fn layer_norm_is_quantised_in_the_rotated_basis_only() {
    let error = quantise(&import(GPT2), &[], &Options::new(8)).expect_err("not centred");
    assert!(matches!(error, QuantiseError::LayerNorm), "{error}");
}

#[test]
fn fixed_point_matches_floats() {
    for (reference, weight_bits, limit) in
        [(GPT2, 16, 0.002), (GPT2, 8, 0.08), (QWEN2, 16, 0.002), (QWEN2, 8, 0.08)]
    {
        let model = import(reference).rotated();
        let (ids, _) = expected(reference);
        let options = Options { weight_bits, ..Options::new(8) };
        let quantised = quantise(&model, &[5, 11, 2, 14, 8, 10, 6, 4], &options).expect("the model fits");
        let (family, scales) = (model.config.family, &quantised.spec.scales);
        let gpt2 = family == Family::Gpt2;
        assert_eq!(scales.rope.is_none(), gpt2);
        assert_eq!(scales.activation, if gpt2 { Activation::Gelu } else { Activation::Silu });
        assert_eq!(scales.feed_forward == FeedForward::Plain, gpt2);
        assert_eq!(scales.bias.list().map(|bias| bias.is_some()), [true, true, gpt2, gpt2, gpt2]);
        let ends = &quantised.ends;
        assert_eq!((ends.embedding.centred, ends.embedding.position_shift.is_some()), (gpt2, gpt2));
        assert_eq!(ends.head.gain_bias.is_some(), gpt2);
        assert_eq!(ends.head_weights.matrix == ends.embedding_weights.matrix, gpt2, "tied");
        let widest = (1i32 << (weight_bits - 1)) - 1;
        for block in &quantised.blocks {
            for (name, matrix, rows, cols) in block.matrices(&quantised.spec) {
                assert_eq!(
                    (matrix.rows, matrix.cols, matrix.data.len()),
                    (rows, cols, rows * cols),
                    "{name}"
                );
                assert!(matrix.data.iter().all(|w| i32::from(*w).abs() <= widest), "{name}");
            }
        }
        let report = eval(&model, &quantised, &ids).expect("in range");
        let change = report.perplexity_change.abs();
        assert!(change < limit, "{family:?}, {weight_bits} bits: {change}");
        let worst = report.sites.iter().map(|s| s.mean / s.mean_magnitude).fold(0.0, f64::max);
        assert!(worst < 5.0 * limit, "{family:?}, {weight_bits} bits: {:?}", report.sites);
        assert!(report.agreement > 0.85, "{family:?}: {}", report.agreement);
        assert_eq!(report.headroom.len(), report.text_headroom.len());
        assert_eq!(report.headroom.iter().any(|site| site.site == "query-rotary"), !gpt2);
    }
}

#[test]
fn split_channels_leave_a_plain_layer_as_it_is() {
    let model = import(GPT2).rotated();
    let (ids, _) = expected(GPT2);
    let options = Options { extra_channels: 3, ..Options::new(8) };
    let quantised = quantise(&model, &[5, 11, 2, 14, 8, 10, 6, 4], &options).expect("the model fits");
    assert_eq!(quantised.spec.shape.ffn, 23);
    let report = eval(&model, &quantised, &ids).expect("in range");
    assert!(report.perplexity_change.abs() < 0.002, "{}", report.perplexity_change);
}

#[test]
fn unsupported_models_are_named() {
    for (reference, field, value) in [
        (GPT2, "activation_function", json!("relu")),
        (GPT2, "activation_function", json!("gelu")),
        (GPT2, "scale_attn_weights", json!(false)),
        (GPT2, "scale_attn_by_inverse_layer_idx", json!(true)),
        (GPT2, "add_cross_attention", json!(true)),
        (QWEN2, "hidden_act", json!("gelu")),
        (QWEN2, "use_sliding_window", json!(true)),
        (QWEN2, "rope_scaling", json!({"type": "yarn", "factor": 4.0})),
    ] {
        let config = config_with(reference[0], field, value);
        let error = from_safetensors_bytes(&config, reference[1], None).expect_err(field);
        assert!(matches!(&error, ImportError::Unsupported { feature, .. } if *feature == field), "{error}");
    }
}

#[test]
fn hostile_configurations_and_tensors_are_refused() {
    for (field, value) in [
        ("n_embd", json!(1u64 << 40)),
        ("n_embd", json!(13)),
        ("n_head", json!(0)),
        ("n_head", json!(4)),
        ("n_inner", json!(1u64 << 40)),
        ("n_layer", json!(1 << 20)),
        ("n_positions", json!(u64::MAX)),
        ("vocab_size", json!(0)),
        ("layer_norm_epsilon", json!(0.0)),
        ("pad_token_id", json!(17)),
    ] {
        let config = config_with(GPT2[0], field, value.clone());
        let error = from_safetensors_bytes(&config, GPT2[1], None).expect_err(field);
        assert!(matches!(error, ImportError::Config { .. }), "{field} = {value}: {error}");
    }
    let config = config_with(GPT2[0], "n_layer", Value::Null);
    let error = from_safetensors_bytes(&config, GPT2[1], None).expect_err("no layers");
    assert!(matches!(error, ImportError::MissingField { field: "n_layer" }), "{error}");

    // A projection of another width, a tensor less, a tensor that would be ignored.
    let config = config_with(GPT2[0], "n_inner", json!(21));
    let error = from_safetensors_bytes(&config, GPT2[1], None).expect_err("another width");
    assert!(
        matches!(&error, ImportError::TensorShape { name, .. } if name.ends_with("mlp.c_fc.weight")),
        "{error}"
    );
    for (reference, part) in
        [(GPT2, "h.1.attn.c_attn.bias"), (GPT2, "wpe.weight"), (QWEN2, "layers.1.self_attn.k_proj.bias")]
    {
        let less = renamed(reference[1], |name| (!name.ends_with(part)).then(|| name.to_owned()));
        let error = from_safetensors_bytes(reference[0], &less, None).expect_err(part);
        assert!(matches!(&error, ImportError::MissingTensor { name } if name.ends_with(part)), "{error}");
    }
    let extra = |name: &str| Some(name.replace("ln_f.bias", "ln_f.bias2"));
    let error = from_safetensors_bytes(GPT2[0], &renamed(GPT2[1], extra), None).expect_err("renamed");
    assert!(matches!(&error, ImportError::MissingTensor { name } if name.ends_with("ln_f.bias")), "{error}");
    // A Llama has no biases: those of a Qwen2 would be ignored.
    let config = config_with(QWEN2[0], "model_type", json!("llama"));
    let error = from_safetensors_bytes(&config, QWEN2[1], None).expect_err("biases");
    assert!(matches!(&error, ImportError::UnknownTensor { name } if name.ends_with("_proj.bias")), "{error}");
}
