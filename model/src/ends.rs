//! The two ends of a model in integers: token ids to the first boundary, the last boundary to token ids.
//!
//! ```text
//! E_int[j][id] = round(E[id][j] 2^(residual_frac - shift)),           x = 2^shift E_int[.][id] + 2^place P_int[t]
//! P_int[t][j]  = round(P[t][j] 2^(residual_frac - place))
//! G_int[i][j]  = round(G[j][i] sqrt(hidden) 2^(gain_frac + gain_shift - norm_frac))
//! b_int[j]     = round(b[j] 2^(gain_frac + gain_shift - bias))
//! ```
//!
//! The gain stays out of the head's matrix, so that a tied head reads the embedding's integers. Of a centred model the
//! embedding reads all but feature 0.

use std::sync::Arc;

use lamina_circuits::{
    embedding::{EmbeddingSpec, EmbeddingWeights, embed},
    executor::{ExecError, Site},
    head::{HeadSpec, HeadTrace, HeadWeights, execute_head},
    spec::{BlockSpec, Matrix},
};
use rayon::prelude::*;

use crate::{
    config::Norm,
    error::QuantiseError,
    forward::FinalTrace,
    model::{Linear, Model},
    quantise::SiteHeadroom,
};

/// Width of the weights of both ends: they hold few of a model's weights, and every token passes them.
pub const END_BITS: u32 = 16;

/// Embedding and head in integers.
#[derive(Clone, Debug, PartialEq)]
pub struct Ends {
    /// Token ids to the first boundary.
    pub embedding: EmbeddingSpec,
    /// The last boundary to token ids.
    pub head: HeadSpec,
    /// Weights of the embedding.
    pub embedding_weights: EmbeddingWeights,
    /// Weights of the head; the matrix is the embedding's when it is tied.
    pub head_weights: HeadWeights,
    /// Fractional bits of the features after the last gain.
    pub gain_frac: i32,
    /// Fractional bits of a logit.
    pub logit_frac: i32,
}

/// Largest values that the head met in calibration.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EndStats {
    /// Normalised features.
    pub(crate) norm: f64,
    /// Features after the gain.
    pub(crate) gained: f64,
}

impl EndStats {
    pub(crate) fn add(&mut self, trace: &FinalTrace) {
        let largest = |values: &[f32]| f64::from(values.iter().fold(0.0f32, |max, v| max.max(v.abs())));
        self.norm = self.norm.max(largest(&trace.norm));
        self.gained = self.gained.max(largest(&trace.gained));
    }
}

fn largest(w: &Linear) -> f64 {
    f64::from(w.data.iter().fold(0.0f32, |max, v| max.max(v.abs())))
}

/// Largest `e` with `value * 2^e <= limit`.
fn room(value: f64, limit: f64) -> i32 {
    (limit / value.max(1e-30)).log2().floor() as i32
}

/// `round(w[j][k] * scale)`, transposed to `[inputs, outputs]`.
fn transposed(w: &Linear, scale: f64) -> Matrix {
    let mut data = vec![0i16; w.data.len()];
    data.par_chunks_mut(w.outputs).enumerate().for_each(|(k, row)| {
        for (j, out) in row.iter_mut().enumerate() {
            // In range by the choice of the scale; the cast would saturate.
            *out = (f64::from(w.data[j * w.inputs + k]) * scale).round() as i16;
        }
    });
    Matrix { rows: w.inputs, cols: w.outputs, data: Arc::new(data) }
}

impl Ends {
    /// Quantises both ends of `model` for blocks of `spec`, the head for `positions` positions.
    ///
    /// `act` is the largest magnitude that an activation may have in calibration.
    pub(crate) fn new(
        model: &Model,
        spec: &BlockSpec,
        positions: usize,
        stats: &EndStats,
        act: f64,
    ) -> Result<Self, QuantiseError> {
        let config = &model.config;
        let (d, vocab, c) = (config.shape.hidden, config.vocab, &spec.scales);
        let weight = f64::from((1i32 << (END_BITS - 1)) - 1);
        let stream_bits = c.act_bits + c.residual_lo_bits;

        // An entry has at most the fractional bits of the stream, and the width of a weight.
        let frac = room(largest(&model.embedding), weight).min(c.residual_frac as i32);
        let shift = c.residual_frac as i32 - frac;
        let no_scales = |site, largest| QuantiseError::NoScales { site, largest };
        // Two terms need a bit more than one.
        let most = (stream_bits - END_BITS) as i32 - i32::from(model.positions.is_some());
        if shift > most {
            return Err(no_scales("embedding", largest(&model.embedding)));
        }
        let place = |p: &Linear| {
            let frac = room(largest(p), weight).min(c.residual_frac as i32);
            let shift = c.residual_frac as i32 - frac;
            if shift > most { Err(no_scales("positions", largest(p))) } else { Ok((frac, shift as u32)) }
        };
        let place = model.positions.as_ref().map(place).transpose()?;
        let embedding = EmbeddingSpec {
            hidden: d,
            vocab,
            tokens: spec.tokens,
            weight_bits: END_BITS,
            stream_bits,
            shift: shift as u32,
            position_shift: place.map(|(_, shift)| shift),
            centred: config.norm == Norm::Centred,
        };
        let matrix = transposed(&model.embedding, f64::from(frac).exp2());
        let learned = model.positions.as_ref().zip(place).map(|(p, (frac, _))| {
            let unit = f64::from(frac).exp2();
            let data = p.data.iter().map(|&v| (f64::from(v) * unit).round() as i16).collect();
            Matrix { rows: p.outputs, cols: p.inputs, data: Arc::new(data) }
        });

        let norm_frac = (c.rsqrt_bits - c.norm_shift) as i32;
        let gain = model.final_norm.matrix();
        let root = (d as f64).sqrt();
        let largest_gain = largest(&gain) * root;
        // As many bits of the features as fit, then as many bits of the gain.
        let mut gain_frac = room(stats.gained, act);
        let to_shift = |frac: i32| room(largest_gain, weight) + norm_frac - frac;
        if to_shift(gain_frac) < 1 {
            gain_frac -= 1 - to_shift(gain_frac);
        }
        let gain_shift = to_shift(gain_frac).min(15);
        let scale = root * f64::from(gain_frac + gain_shift - norm_frac).exp2();
        let mut gain = transposed(&gain, scale);
        let gain_bias = model.final_bias.as_ref().map(|bias| {
            let raw = |b: f32| f64::from(b) * f64::from(gain_frac + gain_shift).exp2();
            let most = bias.iter().fold(0.0f64, |max, &b| max.max(raw(b).abs()));
            let shift = (most / weight).max(1.0).log2().ceil() as u32;
            let integer = |&b: &f32| (raw(b) * (-f64::from(shift)).exp2()).round() as i16;
            Arc::make_mut(&mut gain.data).extend(bias.iter().map(integer));
            gain.rows += 1;
            shift
        });
        let head = HeadSpec {
            norm: spec.norm(),
            gain_shift: gain_shift as u32,
            gain_bias,
            vocab,
            tokens: spec.tokens,
            positions,
            weight_bits: END_BITS,
        };
        head.check()?;
        let (head_matrix, head_frac) = if config.tied {
            (matrix.clone(), frac)
        } else {
            let frac = room(largest(&model.head), weight);
            (transposed(&model.head, f64::from(frac).exp2()), frac)
        };
        Ok(Ends {
            embedding,
            head,
            embedding_weights: EmbeddingWeights { matrix, positions: learned },
            head_weights: HeadWeights { gain, matrix: head_matrix },
            gain_frac,
            logit_frac: gain_frac + head_frac,
        })
    }

    /// The same ends for proofs of `tokens` tokens; padding beyond the model's context has position zero.
    pub fn with_tokens(mut self, tokens: usize) -> Self {
        if let Some(positions) = self.embedding_weights.positions.as_mut().filter(|p| p.rows < tokens) {
            Arc::make_mut(&mut positions.data).resize(tokens * positions.cols, 0);
            positions.rows = tokens;
        }
        self.embedding.tokens = tokens;
        self.head.tokens = tokens;
        self
    }

    /// The first boundary of padded ids.
    ///
    /// # Shapes
    /// `ids`: `spec.tokens` of them; result: `[spec.tokens, hidden]`.
    ///
    /// # Errors
    /// As [`embed`].
    pub fn embed(&self, ids: &[u32]) -> Result<Vec<i32>, ExecError> {
        embed(&self.embedding, &self.embedding_weights, ids)
    }

    /// The head on some rows of the last boundary, each a position.
    ///
    /// # Shapes
    /// `x`: `[rows, hidden]`.
    ///
    /// # Errors
    /// As [`execute_head`].
    pub fn rows(&self, x: &[i32]) -> Result<HeadTrace, ExecError> {
        let rows = x.len() / self.head.norm.hidden.max(1);
        let spec = HeadSpec { tokens: rows, positions: rows, ..self.head.clone() };
        execute_head(&spec, &self.head_weights, x, &(0..rows).collect::<Vec<_>>())
    }

    /// Use of the head's ranges by the calibration data.
    pub(crate) fn headroom(&self, stats: &EndStats) -> [SiteHeadroom; 2] {
        let limit = f64::from((1i32 << (self.head.norm.act_bits - 1)) - 1);
        let norm_frac = self.head.norm.rsqrt_bits - self.head.norm.norm_shift;
        [
            (Site::HeadNorm, stats.norm * f64::from(norm_frac).exp2()),
            (Site::HeadGain, stats.gained * f64::from(self.gain_frac).exp2()),
        ]
        .map(|(site, largest)| SiteHeadroom {
            site: site.to_string(),
            limit,
            largest,
            headroom_bits: (limit / largest.max(1e-9)).log2(),
        })
    }
}
