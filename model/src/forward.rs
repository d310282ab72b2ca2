//! The float reference: a plain forward pass that shows every intermediate value.
//!
//! Values are those that the fixed-point block approximates, in the same places: norms without their gain
//! and without `sqrt(hidden)`, queries with `1/sqrt(head_dim)` folded in.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::{
    config::{Config, Norm},
    error::ForwardError,
    model::{Affine, FloatBlock, Gain, Linear, Model},
};

/// Every intermediate value of a block in floats; shapes as in `lamina_circuits::executor::Trace`.
#[derive(Clone, Debug, Default)]
pub struct FloatTrace {
    /// Input, `[tokens, hidden]`.
    pub x: Vec<f32>,
    /// `x / sqrt(eps * hidden + sum x^2)`, for LayerNorm of `x` less its mean.
    pub norm1: Vec<f32>,
    /// Queries over `sqrt(head_dim)`, `[tokens, heads * head_dim]`.
    pub query: Vec<f32>,
    /// Keys, `[tokens, kv_heads * head_dim]`.
    pub key: Vec<f32>,
    /// Values, `[tokens, kv_heads * head_dim]`.
    pub value: Vec<f32>,
    /// Rotated queries; empty where positions are learned.
    pub query_rotary: Vec<f32>,
    /// Rotated keys; empty where positions are learned.
    pub key_rotary: Vec<f32>,
    /// Scores, masked ones included, `[heads, tokens (queries), tokens (keys)]`.
    pub score: Vec<f32>,
    /// Attention weights, 0 where masked.
    pub prob: Vec<f32>,
    /// Mixed values, `[tokens, heads * head_dim]`.
    pub mix: Vec<f32>,
    /// Residual stream after attention.
    pub middle: Vec<f32>,
    /// Norm before the feed-forward layer.
    pub norm2: Vec<f32>,
    /// Gate, `[tokens, ffn]`.
    pub gate: Vec<f32>,
    /// Up, `[tokens, ffn]`; empty in a plain layer.
    pub up: Vec<f32>,
    /// `activation(gate)`.
    pub activated: Vec<f32>,
    /// What the down projection reads: `activation(gate) * up`, in a plain layer `activation(gate)`.
    pub glu: Vec<f32>,
    /// Output of the block.
    pub output: Vec<f32>,
}

/// A forward pass in progress: one call of [`FloatRun::layer`] per block, then [`FloatRun::logits`].
pub struct FloatRun<'a> {
    model: &'a Model,
    tokens: usize,
    alone: bool,
    x: Vec<f32>,
}

/// `Y = X W^T + b`.
///
/// # Shapes
/// `x`: `[tokens, inputs]`; result: `[tokens, outputs]`.
fn product(x: &[f32], w: &Linear) -> Result<Vec<f32>, ForwardError> {
    let x = Tensor::from_slice(x, (x.len() / w.inputs, w.inputs), &Device::Cpu)?;
    let weights = Tensor::from_slice(&w.data, (w.outputs, w.inputs), &Device::Cpu)?;
    Ok(biased(x.matmul(&weights.t()?)?.flatten_all()?.to_vec1()?, w.bias.as_ref()))
}

/// `x / sqrt(eps * hidden + sum x^2)` row by row, for LayerNorm of `x` less its mean.
fn unit(x: &[f32], config: &Config) -> Vec<f32> {
    let hidden = config.shape.hidden;
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(hidden) {
        let mean = match config.norm {
            Norm::Layer => row.iter().map(|&x| f64::from(x)).sum::<f64>() / hidden as f64,
            Norm::Rms | Norm::Centred => 0.0,
        };
        let centred = |&x: &f32| f64::from(x) - mean;
        let sum: f64 = row.iter().map(|x| centred(x) * centred(x)).sum();
        let scale = 1.0 / (sum + config.norm_eps * hidden as f64).sqrt();
        out.extend(row.iter().map(|x| (centred(x) * scale) as f32));
    }
    out
}

/// Adds `bias` to every row.
fn biased(mut rows: Vec<f32>, bias: Option<&Vec<f32>>) -> Vec<f32> {
    if let Some(bias) = bias {
        rows.chunks_exact_mut(bias.len()).for_each(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
    }
    rows
}

/// `n * sqrt(hidden) * gain`.
fn gained(n: &[f32], gain: &[f32]) -> Vec<f32> {
    let root = (gain.len() as f32).sqrt();
    n.chunks_exact(gain.len()).flat_map(|row| row.iter().zip(gain).map(|(n, g)| n * g * root)).collect()
}

/// `n * sqrt(hidden) * gain + bias`: the norm as the model defines it.
fn affine(n: &[f32], norm: &Affine) -> Vec<f32> {
    biased(gained(n, &norm.gain), norm.bias.as_ref())
}

/// Turns each head's pairs `(i, i + head_dim/2)` by `t * base^(-2i/head_dim)`.
fn rotary(x: &[f32], head_dim: usize, width: usize, base: u32) -> Vec<f32> {
    let pairs = head_dim / 2;
    let mut out = vec![0.0; x.len()];
    for (at, head) in x.chunks_exact(head_dim).enumerate() {
        let t = at * head_dim / width;
        for i in 0..pairs {
            let angle = t as f64 * f64::from(base).powf(-2.0 * i as f64 / head_dim as f64);
            let (sin, cos) = angle.sin_cos();
            let (a, b) = (f64::from(head[i]), f64::from(head[i + pairs]));
            out[at * head_dim + i] = (a * cos - b * sin) as f32;
            out[at * head_dim + i + pairs] = (b * cos + a * sin) as f32;
        }
    }
    out
}

fn add(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// Scores of all heads and the attention weights of the visible keys: all up to the query, or it alone.
fn attention(
    query: &[f32],
    key: &[f32],
    tokens: usize,
    alone: bool,
    config: &Config,
) -> (Vec<f32>, Vec<f32>) {
    let shape = &config.shape;
    let (hd, group) = (shape.head_dim, shape.heads / shape.kv_heads);
    let mut score = vec![0.0; shape.heads * tokens * tokens];
    let mut prob = vec![0.0; shape.heads * tokens * tokens];
    score.par_chunks_mut(tokens).zip(prob.par_chunks_mut(tokens)).enumerate().for_each(|(row, (z, p))| {
        let (h, t) = (row / tokens, row % tokens);
        let q = &query[(t * shape.heads + h) * hd..][..hd];
        for (s, z) in z.iter_mut().enumerate() {
            let k = &key[(s * shape.kv_heads + h / group) * hd..][..hd];
            *z = q.iter().zip(k).map(|(q, k)| q * k).sum();
        }
        let visible = if alone { t..t + 1 } else { 0..t + 1 };
        let max = z[visible.clone()].iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for (p, z) in p[visible.clone()].iter_mut().zip(&z[visible.clone()]) {
            *p = (z - max).exp();
            sum += *p;
        }
        p[visible].iter_mut().for_each(|p| *p /= sum);
    });
    (score, prob)
}

fn mix(prob: &[f32], value: &[f32], tokens: usize, config: &Config) -> Vec<f32> {
    let shape = &config.shape;
    let (hd, group) = (shape.head_dim, shape.heads / shape.kv_heads);
    let width = shape.heads * hd;
    let mut out = vec![0.0; tokens * width];
    out.par_chunks_mut(width).enumerate().for_each(|(t, row)| {
        for (h, out) in row.chunks_exact_mut(hd).enumerate() {
            for s in 0..=t {
                let p = prob[(h * tokens + t) * tokens + s];
                let v = &value[(s * shape.kv_heads + h / group) * hd..][..hd];
                out.iter_mut().zip(v).for_each(|(o, v)| *o += p * v);
            }
        }
    });
    out
}

fn run_block(
    block: &FloatBlock,
    config: &Config,
    x: Vec<f32>,
    alone: bool,
) -> Result<FloatTrace, ForwardError> {
    let shape = &config.shape;
    let (hd, tokens) = (shape.head_dim, x.len() / shape.hidden);
    let norm1 = unit(&x, config);
    let n = affine(&norm1, &block.attn_norm);
    let root = (hd as f32).sqrt();
    let query: Vec<f32> = product(&n, &block.q)?.into_iter().map(|q| q / root).collect();
    let key = product(&n, &block.k)?;
    let value = product(&n, &block.v)?;
    let (query_rotary, key_rotary) = match config.rope_base {
        Some(base) => {
            (rotary(&query, hd, shape.heads * hd, base), rotary(&key, hd, shape.kv_heads * hd, base))
        }
        None => (vec![], vec![]),
    };
    let (score, prob) = match config.rope_base {
        Some(_) => attention(&query_rotary, &key_rotary, tokens, alone, config),
        None => attention(&query, &key, tokens, alone, config),
    };
    let mix = mix(&prob, &value, tokens, config);
    let middle = add(&x, &product(&mix, &block.o)?);
    let norm2 = unit(&middle, config);
    let n = affine(&norm2, &block.ffn_norm);
    let gate = product(&n, &block.gate)?;
    let activation = config.family.activation();
    let activated: Vec<f32> = gate.par_iter().map(|&g| activation.of(f64::from(g)) as f32).collect();
    let (up, glu) = match &block.up {
        Some(up) => {
            let up = product(&n, up)?;
            let glu = activated.iter().zip(&up).map(|(s, u)| s * u).collect();
            (up, glu)
        }
        None => (vec![], activated.clone()),
    };
    let output = add(&middle, &product(&glu, &block.down)?);
    Ok(FloatTrace {
        x,
        norm1,
        query,
        key,
        value,
        query_rotary,
        key_rotary,
        score,
        prob,
        mix,
        middle,
        norm2,
        gate,
        up,
        activated,
        glu,
        output,
    })
}

/// What the head reads of rows of the residual stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct FinalTrace {
    /// `x / sqrt(eps * hidden + sum x^2)`, `[rows, hidden]`.
    pub(crate) norm: Vec<f32>,
    /// The same with the norm's gain and bias, `[rows, hidden]`.
    pub(crate) gained: Vec<f32>,
}

/// Checks ids and their number.
pub(crate) fn check_ids(ids: &[u32], limit: usize, vocab: usize) -> Result<(), ForwardError> {
    if ids.is_empty() {
        return Err(ForwardError::Empty);
    }
    if ids.len() > limit {
        return Err(ForwardError::TooManyTokens { given: ids.len(), limit });
    }
    match ids.iter().position(|&id| id as usize >= vocab) {
        Some(position) => Err(ForwardError::TokenId { position, id: ids[position], vocab }),
        None => Ok(()),
    }
}

impl<'a> FloatRun<'a> {
    /// Looks the embeddings up.
    ///
    /// # Errors
    /// No tokens, more than the model's context, or an id beyond the vocabulary.
    pub fn new(model: &'a Model, ids: &[u32]) -> Result<Self, ForwardError> {
        check_ids(ids, model.config.context, model.config.vocab)?;
        Ok(Self::start(model, ids, false))
    }

    /// The stream of checked ids; `alone`, every one of them stands first.
    fn start(model: &'a Model, ids: &[u32], alone: bool) -> Self {
        let d = model.config.shape.hidden;
        let mut x = Vec::with_capacity(ids.len() * d);
        for (t, &id) in ids.iter().enumerate() {
            let row = x.len();
            x.extend_from_slice(&model.embedding.data[id as usize * d..][..d]);
            if model.config.norm == Norm::Centred {
                x[row] = 0.0;
            }
            if let Some(positions) = &model.positions {
                let place = &positions.data[if alone { 0 } else { t * d }..][..d];
                x[row..].iter_mut().zip(place).for_each(|(x, p)| *x += p);
            }
        }
        FloatRun { model, tokens: ids.len(), alone, x }
    }

    /// A run in which every token sees itself only: as many first tokens of a text as there are `ids`.
    pub(crate) fn alone(model: &'a Model, ids: &[u32]) -> Result<Self, ForwardError> {
        check_ids(ids, model.config.context, model.config.vocab)?;
        Ok(Self::start(model, ids, true))
    }

    /// Runs block `index` on the stream and returns what it computed.
    ///
    /// # Errors
    /// A matrix product fails.
    ///
    /// # Panics
    /// When the model has no such block.
    pub fn layer(&mut self, index: usize) -> Result<FloatTrace, ForwardError> {
        let x = std::mem::take(&mut self.x);
        let trace = run_block(&self.model.blocks[index], &self.model.config, x, self.alone)?;
        self.x.clone_from(&trace.output);
        Ok(trace)
    }

    /// Logits of every position, `[tokens, vocab]`.
    ///
    /// # Errors
    /// A matrix product fails.
    pub fn logits(&self) -> Result<Vec<f32>, ForwardError> {
        product(&self.last()?.gained, &self.model.head)
    }

    /// The last norm of every position.
    pub(crate) fn last(&self) -> Result<FinalTrace, ForwardError> {
        let d = self.model.config.shape.hidden;
        debug_assert_eq!(self.x.len(), self.tokens * d);
        let norm = unit(&self.x, &self.model.config);
        let gained = match &self.model.final_norm {
            Gain::Features(gain) => gained(&norm, gain),
            Gain::Matrix(gain) => {
                let root = (d as f32).sqrt();
                product(&norm, gain)?.into_iter().map(|h| h * root).collect()
            }
        };
        Ok(FinalTrace { norm, gained: biased(gained, self.model.final_bias.as_ref()) })
    }
}

impl Model {
    /// Logits of every position in floats, causal.
    ///
    /// # Shapes
    /// Result: `[tokens, vocab]`.
    ///
    /// # Errors
    /// No tokens, too many, or an id beyond the vocabulary.
    pub fn forward(&self, ids: &[u32]) -> Result<Vec<f32>, ForwardError> {
        let mut run = FloatRun::new(self, ids)?;
        for index in 0..self.blocks.len() {
            run.layer(index)?;
        }
        run.logits()
    }
}

/// Index of the largest logit, ties to the lowest id.
pub fn arg_max(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = id;
        }
    }
    best as u32
}
