//! A model's hyperparameters, from `config.json` or GGUF metadata, checked against the importer's caps.

use lamina_circuits::spec::{Activation, Shape};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::ImportError;

/// Largest width of the residual stream that is read.
pub const MAX_HIDDEN: usize = 1 << 14;
/// Largest feed-forward width that is read.
pub const MAX_FFN: usize = 1 << 16;
/// Most layers that are read.
pub const MAX_LAYERS: usize = 512;
/// Largest vocabulary that is read.
pub const MAX_VOCAB: usize = 1 << 19;
/// Largest context that is read.
pub const MAX_CONTEXT: usize = 1 << 22;

/// Which operations a model's blocks have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// RMSNorm, rotary embedding, a gated SiLU layer, no biases.
    Llama,
    /// Llama with biases of queries, keys and values.
    Qwen2,
    /// LayerNorm, learned positions, a plain GELU layer, biases everywhere.
    Gpt2,
}

impl Family {
    /// As configurations and cards call it.
    pub fn name(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Qwen2 => "qwen2",
            Family::Gpt2 => "gpt2",
        }
    }

    /// Whether the feed-forward layer multiplies its activation by an up projection.
    pub fn gated(self) -> bool {
        self != Family::Gpt2
    }

    /// The nonlinear function of the feed-forward layer.
    pub fn activation(self) -> Activation {
        match self {
            Family::Llama | Family::Qwen2 => Activation::Silu,
            Family::Gpt2 => Activation::Gelu,
        }
    }
}

/// What a norm does to the stream before its gain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// `x / rms(x)`.
    Rms,
    /// `(x - mean(x)) / deviation(x)`.
    Layer,
    /// [`Norm::Layer`] in the basis of [`crate::Rotation::centred`]: `x / rms(x)`, where feature 0 of `x`, the mean, is
    /// zero, since nothing writes there and the embedding is read without it.
    Centred,
}

/// Hyperparameters of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// Its operations.
    pub family: Family,
    /// Its norms.
    pub norm: Norm,
    /// Dimensions of a block.
    pub shape: Shape,
    /// Number of blocks.
    pub layers: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Longest sequence the model was made for.
    pub context: usize,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Base of the rotary angles, an integer in every published model; `None` where positions are learned.
    pub rope_base: Option<u32>,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Id that pads a sequence: the one that the model names, else 0.
    pub pad_id: u32,
    /// Id that starts a sequence, if the model names one.
    pub bos_id: Option<u32>,
    /// Id that ends a sequence, if the model names one.
    pub eos_id: Option<u32>,
}

/// The fields of a Hugging Face `config.json` that matter here.
#[derive(Deserialize)]
struct HfConfig {
    hidden_act: Option<String>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    #[serde(default)]
    use_sliding_window: bool,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    tie_word_embeddings: bool,
    pad_token_id: Option<Value>,
    bos_token_id: Option<Value>,
    eos_token_id: Option<Value>,
}

/// The fields of a GPT-2's `config.json` that matter here.
#[derive(Deserialize)]
struct Gpt2Config {
    activation_function: Option<String>,
    n_embd: Option<usize>,
    n_inner: Option<usize>,
    n_layer: Option<usize>,
    n_head: Option<usize>,
    n_positions: Option<usize>,
    vocab_size: Option<usize>,
    layer_norm_epsilon: Option<f64>,
    #[serde(default = "yes")]
    scale_attn_weights: bool,
    #[serde(default)]
    scale_attn_by_inverse_layer_idx: bool,
    #[serde(default)]
    add_cross_attention: bool,
    #[serde(default = "yes")]
    tie_word_embeddings: bool,
    pad_token_id: Option<Value>,
    bos_token_id: Option<Value>,
    eos_token_id: Option<Value>,
}

fn yes() -> bool {
    true
}

/// The field that says which of the two to read.
#[derive(Deserialize)]
struct ModelType {
    model_type: Option<String>,
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ImportError> {
    serde_json::from_slice(bytes).map_err(|source| ImportError::Json { file: "config.json", source })
}

fn unsupported<T>(feature: &'static str, found: &dyn ToString, hint: &'static str) -> Result<T, ImportError> {
    Err(ImportError::Unsupported { feature, found: found.to_string(), hint })
}

fn need<T>(field: &'static str, value: Option<T>) -> Result<T, ImportError> {
    value.ok_or(ImportError::MissingField { field })
}

/// A token id of `config.json`: a number, or the first of a list of them; negative means none.
fn token_id(value: Option<&Value>) -> Option<u32> {
    let value = value?;
    let value = value.as_array().map_or(Some(value), |ids| ids.first())?;
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

impl Config {
    /// Reads a Hugging Face `config.json`.
    ///
    /// # Errors
    /// Another architecture, a feature that the circuit lacks (biases that the family does not have, scaled rotary
    /// angles, another activation), a missing or contradictory field.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ImportError> {
        let ModelType { model_type } = parse(bytes)?;
        let config = match model_type.as_deref() {
            Some("llama") => Self::rotary(Family::Llama, parse(bytes)?)?,
            Some("qwen2") => Self::rotary(Family::Qwen2, parse(bytes)?)?,
            Some("gpt2") => Self::gpt2(parse(bytes)?)?,
            other => return Err(ImportError::Architecture { found: other.unwrap_or("(none)").to_owned() }),
        };
        config.check()?;
        Ok(config)
    }

    fn gpt2(hf: Gpt2Config) -> Result<Self, ImportError> {
        let known = ["gelu_new", "gelu_pytorch_tanh"];
        if let Some(act) = hf.activation_function.as_deref().filter(|act| !known.contains(act)) {
            return unsupported("activation_function", &act, "only GELU in its tanh form can be proved");
        }
        if !hf.scale_attn_weights {
            return unsupported("scale_attn_weights", &false, "only scaled scores can be proved");
        }
        if hf.scale_attn_by_inverse_layer_idx {
            let feature = "scale_attn_by_inverse_layer_idx";
            return unsupported(feature, &true, "only scores of one scale in all layers can be proved");
        }
        if hf.add_cross_attention {
            return unsupported("add_cross_attention", &true, "only decoders by themselves can be proved");
        }
        let (hidden, heads) = (need("n_embd", hf.n_embd)?, need("n_head", hf.n_head)?);
        if heads == 0 || !hidden.is_multiple_of(heads) {
            let expected = format!("a divisor of n_embd = {hidden}");
            return Err(ImportError::Config { field: "n_head", expected, actual: heads.to_string() });
        }
        Ok(Config {
            family: Family::Gpt2,
            norm: Norm::Layer,
            shape: Shape {
                hidden,
                ffn: hf.n_inner.unwrap_or(hidden.saturating_mul(4)),
                heads,
                kv_heads: heads,
                head_dim: hidden / heads,
            },
            layers: need("n_layer", hf.n_layer)?,
            vocab: need("vocab_size", hf.vocab_size)?,
            context: need("n_positions", hf.n_positions)?,
            norm_eps: need("layer_norm_epsilon", hf.layer_norm_epsilon)?,
            rope_base: None,
            tied: hf.tie_word_embeddings,
            pad_id: token_id(hf.pad_token_id.as_ref()).unwrap_or(0),
            bos_id: token_id(hf.bos_token_id.as_ref()),
            eos_id: token_id(hf.eos_token_id.as_ref()),
        })
    }

    fn rotary(family: Family, hf: HfConfig) -> Result<Self, ImportError> {
        if let Some(act) = hf.hidden_act.as_deref().filter(|act| *act != "silu") {
            return unsupported("hidden_act", &act, "only models with SiLU gates can be proved");
        }
        if hf.attention_bias {
            return unsupported("attention_bias", &true, "a Llama is proved without biases");
        }
        if hf.mlp_bias {
            return unsupported("mlp_bias", &true, "a Llama is proved without biases");
        }
        if hf.use_sliding_window {
            return unsupported(
                "use_sliding_window",
                &true,
                "only attention to all earlier tokens can be proved",
            );
        }
        let mut theta = hf.rope_theta;
        for rope in [&hf.rope_scaling, &hf.rope_parameters].into_iter().flatten() {
            let kind = rope.get("rope_type").or_else(|| rope.get("type")).and_then(Value::as_str);
            if !rope.is_null() && kind.is_some_and(|kind| kind != "default") {
                return unsupported("rope_scaling", &rope, "only unscaled rotary angles can be proved");
            }
            theta = rope.get("rope_theta").and_then(Value::as_f64).or(theta);
        }
        let heads = need("num_attention_heads", hf.num_attention_heads)?;
        let hidden = need("hidden_size", hf.hidden_size)?;
        let shape = Shape {
            hidden,
            ffn: need("intermediate_size", hf.intermediate_size)?,
            heads,
            kv_heads: hf.num_key_value_heads.unwrap_or(heads),
            head_dim: hf.head_dim.unwrap_or(hidden / heads.max(1)),
        };
        Ok(Config {
            family,
            norm: Norm::Rms,
            shape,
            layers: need("num_hidden_layers", hf.num_hidden_layers)?,
            vocab: need("vocab_size", hf.vocab_size)?,
            context: need("max_position_embeddings", hf.max_position_embeddings)?,
            norm_eps: need("rms_norm_eps", hf.rms_norm_eps)?,
            rope_base: Some(rope_base(theta.unwrap_or(10_000.0))?),
            tied: hf.tie_word_embeddings,
            pad_id: token_id(hf.pad_token_id.as_ref()).unwrap_or(0),
            bos_id: token_id(hf.bos_token_id.as_ref()),
            eos_id: token_id(hf.eos_token_id.as_ref()),
        })
    }

    /// Checks every size against the importer's caps, before anything is allocated from it.
    ///
    /// # Errors
    /// [`ImportError::Config`] names the field and what is allowed.
    pub fn check(&self) -> Result<(), ImportError> {
        let size = |field, actual: usize, max: usize| {
            if (1..=max).contains(&actual) {
                return Ok(());
            }
            Err(ImportError::Config { field, expected: format!("1 to {max}"), actual: actual.to_string() })
        };
        let s = &self.shape;
        size("hidden_size", s.hidden, MAX_HIDDEN)?;
        size("intermediate_size", s.ffn, MAX_FFN)?;
        size("num_attention_heads", s.heads, 1 << 10)?;
        size("num_key_value_heads", s.kv_heads, s.heads)?;
        size("head_dim", s.head_dim, 1 << 10)?;
        size("heads * head_dim", s.heads * s.head_dim, MAX_HIDDEN)?;
        size("num_hidden_layers", self.layers, MAX_LAYERS)?;
        size("vocab_size", self.vocab, MAX_VOCAB)?;
        size("max_position_embeddings", self.context, MAX_CONTEXT)?;
        let config = |field, expected: &str, actual: &dyn ToString| {
            Err(ImportError::Config { field, expected: expected.to_owned(), actual: actual.to_string() })
        };
        if !s.heads.is_multiple_of(s.kv_heads) {
            return config("num_key_value_heads", "a divisor of num_attention_heads", &s.kv_heads);
        }
        if !s.head_dim.is_multiple_of(2) {
            return config("head_dim", "an even number", &s.head_dim);
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            let field = if self.norm == Norm::Rms { "rms_norm_eps" } else { "layer_norm_epsilon" };
            return config(field, "a number between 0 and 1", &self.norm_eps);
        }
        if self.pad_id as usize >= self.vocab {
            return config("pad_token_id", "an id of the vocabulary", &self.pad_id);
        }
        Ok(())
    }
}

/// The rotary base as the integer that the circuit's fixed columns are computed from.
pub(crate) fn rope_base(theta: f64) -> Result<u32, ImportError> {
    if theta.fract() != 0.0 || !(2.0..=f64::from(u32::MAX)).contains(&theta) {
        return Err(ImportError::Config {
            field: "rope_theta",
            expected: format!("an integer from 2 to {}", u32::MAX),
            actual: theta.to_string(),
        });
    }
    Ok(theta as u32)
}
