//! A model in floats, as imported.

use std::sync::Arc;

use crate::{config::Config, error::TokenizerError, tokenizer::TextTokenizer};

/// A linear map `y = W x`, row-major.
///
/// # Shapes
/// `data`: `[outputs, inputs]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// Rows.
    pub outputs: usize,
    /// Columns.
    pub inputs: usize,
    /// Entries.
    pub data: Arc<Vec<f32>>,
}

/// One block: half-split rotary pairs, whatever the file's order was.
#[derive(Clone, Debug, PartialEq)]
pub struct FloatBlock {
    /// Gain of the norm before attention, `[hidden]`.
    pub attn_norm: Vec<f32>,
    /// Queries, `[heads * head_dim, hidden]`.
    pub q: Linear,
    /// Keys, `[kv_heads * head_dim, hidden]`.
    pub k: Linear,
    /// Values, `[kv_heads * head_dim, hidden]`.
    pub v: Linear,
    /// Output projection, `[hidden, heads * head_dim]`.
    pub o: Linear,
    /// Gain of the norm before the feed-forward layer, `[hidden]`.
    pub ffn_norm: Vec<f32>,
    /// Gate, `[ffn, hidden]`.
    pub gate: Linear,
    /// Up projection, `[ffn, hidden]`.
    pub up: Linear,
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
                Linear { outputs: d, inputs: d, data: Arc::new((0..d * d).map(entry).collect()) }
            }
            Gain::Matrix(gain) => gain.clone(),
        }
    }
}

/// A Llama-architecture model in floats.
#[derive(Clone, Debug)]
pub struct Model {
    /// Hyperparameters.
    pub config: Config,
    /// Embedding, `[vocab, hidden]`.
    pub embedding: Linear,
    /// Blocks, first to last.
    pub blocks: Vec<FloatBlock>,
    /// Gain of the last norm.
    pub final_norm: Gain,
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
        let block = |b: &FloatBlock| {
            let linear = [&b.q, &b.k, &b.v, &b.o, &b.gate, &b.up, &b.down];
            linear.iter().map(|l| l.data.len()).sum::<usize>() + b.attn_norm.len() + b.ffn_norm.len()
        };
        let head = if self.config.tied { 0 } else { self.head.data.len() };
        self.embedding.data.len()
            + head
            + self.final_norm.hidden()
            + self.blocks.iter().map(block).sum::<usize>()
    }
}
