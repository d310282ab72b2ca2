//! A model in floats, as imported.

use std::sync::Arc;

use crate::{config::Config, error::TokenizerError, tokenizer::TextTokenizer};

/// A linear map `y = W x + b`, row-major.
///
/// # Shapes
/// `data`: `[outputs, inputs]`; `bias`: `[outputs]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// Rows.
    pub outputs: usize,
    /// Columns.
    pub inputs: usize,
    /// Entries.
    pub data: Arc<Vec<f32>>,
    /// Bias, where there is one.
    pub bias: Option<Vec<f32>>,
}

/// A norm's gain and bias, `[hidden]` each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Affine {
    /// What normalised features are multiplied by.
    pub gain: Vec<f32>,
    /// What is added then; LayerNorm has it.
    pub bias: Option<Vec<f32>>,
}

/// One block: half-split rotary pairs, whatever the file's order was.
#[derive(Clone, Debug, PartialEq)]
pub struct FloatBlock {
    /// The norm before attention.
    pub attn_norm: Affine,
    /// Queries, `[heads * head_dim, hidden]`.
    pub q: Linear,
    /// Keys, `[kv_heads * head_dim, hidden]`.
    pub k: Linear,
    /// Values, `[kv_heads * head_dim, hidden]`.
    pub v: Linear,
    /// Output projection, `[hidden, heads * head_dim]`.
    pub o: Linear,
    /// The norm before the feed-forward layer.
    pub ffn_norm: Affine,
    /// Gate, `[ffn, hidden]`.
    pub gate: Linear,
    /// Up projection, `[ffn, hidden]`; a plain layer has none.
    pub up: Option<Linear>,
    /// Down projection, `[hidden, ffn]`.
    pub down: Linear,
}

/// The gain of the last norm: what its normalised features are multiplied by.
#[derive(Clone, Debug, PartialEq)]
pub enum Gain {
    /// One factor a feature, `[hidden]`: as models are stored.
    Features(Vec<f32>),
    /// `y = n G^T`, `[hidden, hidden]`: the same in a rotated basis.
    Matrix(Linear),
}

impl Gain {
    /// Width of the residual stream.
    pub fn hidden(&self) -> usize {
        match self {
            Gain::Features(gain) => gain.len(),
            Gain::Matrix(gain) => gain.inputs,
        }
    }

    /// The gain as a matrix, `[hidden, hidden]`.
    pub fn matrix(&self) -> Linear {
        match self {
            Gain::Features(gain) => {
                let d = gain.len();
                let entry = |at: usize| if at / d == at % d { gain[at % d] } else { 0.0 };
                let data = Arc::new((0..d * d).map(entry).collect());
                Linear { outputs: d, inputs: d, data, bias: None }
            }
            Gain::Matrix(gain) => gain.clone(),
        }
    }
}

/// A model in floats.
#[derive(Clone, Debug)]
pub struct Model {
    /// Hyperparameters.
    pub config: Config,
    /// Embedding, `[vocab, hidden]`.
    pub embedding: Linear,
    /// Learned positions, `[context, hidden]`, where there are.
    pub positions: Option<Linear>,
    /// Blocks, first to last.
    pub blocks: Vec<FloatBlock>,
    /// Gain of the last norm.
    pub final_norm: Gain,
    /// Bias of the last norm, `[hidden]`, where it has one.
    pub final_bias: Option<Vec<f32>>,
    /// Head, `[vocab, hidden]`; the embedding itself when tied.
    pub head: Linear,
    /// Tokenizer, if the model came with one.
    pub tokenizer: Option<TextTokenizer>,
}

impl Model {
    /// The tokenizer.
    ///
    /// # Errors
    /// [`TokenizerError::Absent`] when the model came without one.
    pub fn tokenizer(&self) -> Result<&TextTokenizer, TokenizerError> {
        self.tokenizer.as_ref().ok_or(TokenizerError::Absent)
    }

    /// Number of parameters, a tied head counted once.
    pub fn parameters(&self) -> usize {
        let vector = |v: &Option<Vec<f32>>| v.as_ref().map_or(0, Vec::len);
        let linear = |l: &Linear| l.data.len() + vector(&l.bias);
        let block = |b: &FloatBlock| {
            let norms = [&b.attn_norm, &b.ffn_norm].map(|n| n.gain.len() + vector(&n.bias));
            let projections = [&b.q, &b.k, &b.v, &b.o, &b.gate, &b.down].into_iter().chain(&b.up);
            projections.map(linear).sum::<usize>() + norms.iter().sum::<usize>()
        };
        let head = if self.config.tied { 0 } else { self.head.data.len() };
        self.embedding.data.len()
            + self.positions.as_ref().map_or(0, linear)
            + head
            + self.final_norm.hidden()
            + vector(&self.final_bias)
            + self.blocks.iter().map(block).sum::<usize>()
    }
}
