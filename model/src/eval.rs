//! Fixed point against float: error of every site, perplexity, agreement of the next token.

use lamina_circuits::{
    executor::{ExecError, Site, Trace, execute},
    spec::Activations,
};
use serde::Serialize;

use crate::{
    error::{EvalError, ForwardError},
    forward::{FloatRun, FloatTrace, arg_max, check_ids, logits},
    model::Model,
    quantise::{QuantisedModel, SiteHeadroom},
};

/// Error of one site over all layers and real tokens, in the model's own units.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteError {
    /// Name of the site, as in the executor's errors.
    pub site: String,
    /// Largest absolute difference.
    pub max: f64,
    /// Mean absolute difference.
    pub mean: f64,
    /// Mean magnitude of the float values, to compare with.
    pub mean_magnitude: f64,
}

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvalReport {
    /// Tokens compared, without padding.
    pub tokens: usize,
    /// Tokens of a pass, with padding.
    pub padded_tokens: usize,
    /// Width of the weights.
    pub weight_bits: u32,
    /// `exp` of the mean negative log-likelihood of the next token, in floats.
    pub float_perplexity: f64,
    /// The same in fixed point.
    pub fixed_perplexity: f64,
    /// `fixed / float - 1`.
    pub perplexity_change: f64,
    /// Share of positions whose most likely token is the next one, in floats.
    pub float_top1: f64,
    /// The same in fixed point.
    pub fixed_top1: f64,
    /// Share of positions at which both passes choose the same token.
    pub agreement: f64,
    /// Errors, in the order of the block.
    pub sites: Vec<SiteError>,
    /// Room that calibration left.
    pub headroom: Vec<SiteHeadroom>,
}

impl QuantisedModel {
    /// `ids` with the model's padding id up to `spec.tokens`.
    ///
    /// # Errors
    /// No ids, too many, or one beyond the vocabulary.
    pub fn pad(&self, ids: &[u32]) -> Result<Vec<u32>, ForwardError> {
        check_ids(ids, self.spec.tokens, self.config.vocab)?;
        let mut padded = ids.to_vec();
        padded.resize(self.spec.tokens, self.config.pad_id);
        Ok(padded)
    }

    /// The first boundary: embeddings of the padded ids as integers.
    ///
    /// # Shapes
    /// Result: `[spec.tokens, hidden]` at scale `2^-residual_frac`.
    ///
    /// # Errors
    /// As [`QuantisedModel::pad`].
    pub fn embed(&self, ids: &[u32]) -> Result<Activations, ForwardError> {
        let d = self.config.shape.hidden;
        let ids = self.pad(ids)?;
        Ok(ids.iter().flat_map(|&id| &self.embedding[id as usize * d..][..d]).copied().collect())
    }

    /// Runs block `layer` on a boundary.
    ///
    /// # Errors
    /// A value leaves its range, or `x` has the wrong size.
    ///
    /// # Panics
    /// When the model has no such block.
    pub fn run_block(&self, layer: usize, x: &[i32]) -> Result<Trace, ExecError> {
        execute(&self.spec, &self.blocks[layer], x)
    }

    /// Every boundary of a pass: the embeddings, then the output of each block.
    ///
    /// # Errors
    /// The ids, or the layer and site at which a value leaves its range.
    pub fn boundaries(&self, ids: &[u32]) -> Result<Vec<Activations>, EvalError> {
        let mut boundaries = vec![self.embed(ids)?];
        for layer in 0..self.blocks.len() {
            let trace = self.run_block(layer, &boundaries[layer]);
            boundaries.push(trace.map_err(|source| EvalError::Block { layer, source })?.output.q);
        }
        Ok(boundaries)
    }

    /// Final norm and head, in floats, on rows of the last boundary.
    ///
    /// # Shapes
    /// `x`: `[rows, hidden]`; result: `[rows, vocab]`.
    ///
    /// # Errors
    /// A matrix product fails.
    pub fn logits(&self, x: &[i32]) -> Result<Vec<f32>, ForwardError> {
        let unit = f64::from(self.spec.scales.residual_frac).exp2();
        let x: Vec<f32> = x.iter().map(|&x| (f64::from(x) / unit) as f32).collect();
        logits(&x, &self.final_norm, &self.head, self.config.rms_eps)
    }

    /// The most likely next token after `ids`, by the fixed-point blocks.
    ///
    /// # Errors
    /// As [`QuantisedModel::boundaries`].
    pub fn next_token(&self, ids: &[u32]) -> Result<u32, EvalError> {
        let d = self.config.shape.hidden;
        let last = self.boundaries(ids)?.pop().unwrap_or_default();
        let row = &last[(ids.len() - 1) * d..][..d];
        Ok(arg_max(&self.logits(row)?))
    }
}

/// Mean negative log-likelihood, hits of the most likely token, and that token per position.
struct Likelihood {
    perplexity: f64,
    top1: f64,
    choices: Vec<u32>,
}

impl Likelihood {
    fn new(logits: &[f32], ids: &[u32]) -> Self {
        let (mut nll, mut hits) = (0.0, 0usize);
        let vocab = logits.len() / ids.len();
        let choices: Vec<u32> = logits.chunks_exact(vocab).map(arg_max).collect();
        for ((row, &choice), &next) in logits.chunks_exact(vocab).zip(&choices).zip(&ids[1..]) {
            let max = row[choice as usize];
            let sum: f64 = row.iter().map(|l| f64::from(l - max).exp()).sum();
            nll += sum.ln() - f64::from(row[next as usize] - max);
            hits += usize::from(choice == next);
        }
        let count = (ids.len() - 1) as f64;
        Likelihood { perplexity: (nll / count).exp(), top1: hits as f64 / count, choices }
    }
}

/// Running error of one site.
struct Errors {
    site: Site,
    max: f64,
    sum: f64,
    magnitude: f64,
    count: usize,
}

impl Errors {
    /// Adds rows of `width` features: integer `fixed[i] / unit(feature)` against `float[i]`.
    fn add(&mut self, float: &[f32], fixed: &[i32], width: usize, unit: impl Fn(usize) -> f64) {
        for (float, fixed) in float.chunks_exact(width).zip(fixed.chunks_exact(width)) {
            for (feature, (&float, &fixed)) in float.iter().zip(fixed).enumerate() {
                let error = (f64::from(fixed) / unit(feature) - f64::from(float)).abs();
                self.max = self.max.max(error);
                self.sum += error;
                self.magnitude += f64::from(float.abs());
            }
        }
        self.count += float.len();
    }
}

/// The sites that are compared, in the order of the block.
const SITES: [Site; 15] = [
    Site::AttnNorm,
    Site::Query,
    Site::Key,
    Site::Value,
    Site::QueryRotary,
    Site::KeyRotary,
    Site::Probability,
    Site::Mix,
    Site::Middle,
    Site::FfnNorm,
    Site::Gate,
    Site::Up,
    Site::Silu,
    Site::Glu,
    Site::Output,
];

/// Adds one layer's errors over the first `tokens` tokens.
fn compare(
    errors: &mut [Errors],
    model: &QuantisedModel,
    layer: usize,
    float: &FloatTrace,
    fixed: &Trace,
    tokens: usize,
) {
    let (shape, c) = (&model.spec.shape, &model.spec.scales);
    let f = &model.factors[layer];
    // The model's channels, repeated where the circuit has copies.
    let copies = |values: &[f32]| -> Vec<f32> {
        let rows = values.chunks_exact(model.config.shape.ffn);
        rows.flat_map(|row| model.channels[layer].iter().map(|&c| row[c])).collect()
    };
    let (hd, group) = (shape.head_dim, shape.heads / shape.kv_heads);
    let (q, kv, padded) = (shape.heads * hd, shape.kv_heads * hd, model.spec.tokens);
    let unit = |bits: u32| f64::from(bits).exp2();
    let (stream, norm) = (unit(c.residual_frac), unit(c.rsqrt_bits - c.norm_shift));
    let pair = move |feature: usize, members: usize| feature / hd / members * (hd / 2) + feature % (hd / 2);
    let prob = unit(c.recip_bits - c.prob_shift);
    for e in errors {
        let site = e.site;
        // Rows of real tokens only; scores have a row per head and token.
        let mut add = |float: &[f32], fixed: &[i32], width: usize, unit: &dyn Fn(usize) -> f64| {
            e.add(&float[..tokens * width], &fixed[..tokens * width], width, unit);
        };
        match site {
            Site::AttnNorm => add(&float.norm1, &fixed.norm1.n.q, shape.hidden, &|_| norm),
            Site::Query => add(&float.query, &fixed.query.q, q, &|j| f.query[pair(j, group)]),
            Site::Key => add(&float.key, &fixed.key.q, kv, &|j| f.key[pair(j, 1)]),
            Site::Value => add(&float.value, &fixed.value.q, kv, &|j| f.value[j]),
            Site::QueryRotary => {
                add(&float.query_rotary, &fixed.query_rotary.q, q, &|j| f.query[pair(j, group)]);
            }
            Site::KeyRotary => add(&float.key_rotary, &fixed.key_rotary.q, kv, &|j| f.key[pair(j, 1)]),
            Site::Probability => {
                for h in 0..shape.heads {
                    let rows = h * padded * padded..(h * padded + tokens) * padded;
                    e.add(&float.prob[rows.clone()], &fixed.attention.prob.q[rows], padded, |_| prob);
                }
            }
            Site::Mix => add(&float.mix, &fixed.mix.q, q, &|j| f.mix[j / hd / group * hd + j % hd]),
            Site::Middle => add(&float.middle, &fixed.middle.q, shape.hidden, &|_| stream),
            Site::FfnNorm => add(&float.norm2, &fixed.norm2.n.q, shape.hidden, &|_| norm),
            Site::Gate => add(&copies(&float.gate), &fixed.gate.q, shape.ffn, &|_| unit(c.gate_frac)),
            Site::Up => add(&copies(&float.up), &fixed.up.q, shape.ffn, &|j| f.up[j]),
            Site::Silu => add(&copies(&float.silu), &fixed.silu, shape.ffn, &|_| unit(c.silu_frac)),
            Site::Glu => add(&copies(&float.glu), &fixed.glu.q, shape.ffn, &|j| f.glu[j]),
            _ => add(&float.output, &fixed.output.q, shape.hidden, &|_| stream),
        }
    }
}

/// Runs both models on `ids` (padded) and compares every site, the perplexity and the chosen tokens.
///
/// Each pass goes through all layers on its own values, so errors add up as they do in use.
///
/// # Errors
/// Fewer than two tokens or more than `spec.tokens`, models of different shapes, or a value that leaves its
/// range in fixed point.
pub fn eval(model: &Model, quantised: &QuantisedModel, ids: &[u32]) -> Result<EvalReport, EvalError> {
    if model.config != quantised.config {
        return Err(EvalError::Mismatch { what: "their configuration" });
    }
    if ids.len() < 2 {
        return Err(EvalError::TooFewTokens { given: ids.len() });
    }
    let padded = quantised.pad(ids)?;
    let mut x = quantised.embed(ids)?;
    let mut run = FloatRun::new(model, &padded)?;
    let mut errors: Vec<Errors> =
        SITES.iter().map(|&site| Errors { site, max: 0.0, sum: 0.0, magnitude: 0.0, count: 0 }).collect();
    for layer in 0..model.blocks.len() {
        let float = run.layer(layer)?;
        let fixed = quantised.run_block(layer, &x).map_err(|source| EvalError::Block { layer, source })?;
        compare(&mut errors, quantised, layer, &float, &fixed, ids.len());
        x = fixed.output.q;
    }
    let (d, vocab) = (model.config.shape.hidden, model.config.vocab);
    let float = Likelihood::new(&run.logits()?[..ids.len() * vocab], ids);
    let fixed = Likelihood::new(&quantised.logits(&x[..ids.len() * d])?, ids);
    let same = float.choices.iter().zip(&fixed.choices).filter(|(a, b)| a == b).count();
    let site = |e: Errors| {
        let count = e.count.max(1) as f64;
        SiteError {
            site: e.site.to_string(),
            max: e.max,
            mean: e.sum / count,
            mean_magnitude: e.magnitude / count,
        }
    };
    Ok(EvalReport {
        tokens: ids.len(),
        padded_tokens: padded.len(),
        weight_bits: quantised.spec.weight_bits,
        float_perplexity: float.perplexity,
        fixed_perplexity: fixed.perplexity,
        perplexity_change: fixed.perplexity / float.perplexity - 1.0,
        float_top1: float.top1,
        fixed_top1: fixed.top1,
        agreement: same as f64 / ids.len() as f64,
        sites: errors.into_iter().map(site).collect(),
        headroom: quantised.headroom.clone(),
    })
}
