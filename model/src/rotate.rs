//! The residual stream in another basis: the same model, without loud features.
//!
//! Trained models keep a few features of the residual stream hundreds of times larger than the others.
//! Integers that hold those leave few bits to the rest. A norm without gain commutes with rotations, so an
//! orthogonal `Q` goes into all matrices that write to the stream and out of those that read it
//! (QuaRot, arXiv:2404.00456, section 4):
//!
//! ```text
//! E' = E Q,   W_in' = W_in diag(gain) Q,   W_out' = Q^T W_out,   gain' = 1
//! Q = diag(signs) (H ⊗ C),   H: Walsh-Hadamard of the largest power of two in `hidden`, C: DCT of the rest
//! ```
//!
//! Every entry of `Q` is at most `sqrt(2 / hidden)`: what stood in one feature spreads over all. `Q` is
//! public and depends on `hidden` alone; the circuit proves the rotated model and does not know of it.
//!
//! LayerNorm takes the mean off the stream before it normalises, which is linear: it goes into all that writes to the
//! stream, and the norm that is left is RMSNorm (SliceGPT, arXiv:2401.15024, section 3.2). Here the mean is a feature: without
//! signs the first column of `Q` is `1/sqrt(hidden)`, so feature 0 of a rotated row is `sqrt(hidden)` times its mean. No
//! matrix writes to it; the embedding keeps its own, because a tied head reads it, and the circuit does not read it
//! from there:
//!
//! ```text
//! W_out'[0] = 0,  b_out'[0] = 0,  P'[.][0] = 0;   b_in' = b_in + W_in bias,  W_in'[.][0] = 0
//! ```

use std::sync::Arc;

use rayon::prelude::*;

use crate::{
    config::{Config, Norm},
    model::{Affine, FloatBlock, Gain, Linear, Model},
};

/// The rotation of a residual stream: `x -> x Q`.
///
/// # Shapes
/// Rows of `hidden` features.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    signs: Vec<f64>,
    /// DCT-II of the odd part of `hidden`, over the root of the power of two, row-major.
    cosines: Vec<f64>,
    odd: usize,
}

impl Rotation {
    /// The rotation for streams of `hidden` features; the same on every machine.
    pub fn new(hidden: usize) -> Self {
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let sign = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if state >> 63 == 0 { 1.0 } else { -1.0 }
        };
        Self::with_signs((0..hidden).map(sign).collect())
    }

    /// The rotation without signs: feature 0 of the result is `sqrt(hidden)` times the mean.
    pub fn centred(hidden: usize) -> Self {
        Self::with_signs(vec![1.0; hidden])
    }

    /// The rotation that [`Model::rotated`] uses for models of `config`.
    pub fn of(config: &Config) -> Self {
        match config.norm {
            Norm::Rms => Self::new(config.shape.hidden),
            Norm::Layer | Norm::Centred => Self::centred(config.shape.hidden),
        }
    }

    fn with_signs(signs: Vec<f64>) -> Self {
        let hidden = signs.len();
        let odd = hidden >> hidden.trailing_zeros().min(usize::BITS - 1);
        let groups = hidden / odd.max(1);
        let cosine = |i: usize, j: usize| {
            let norm = if j == 0 { 1.0 } else { 2.0 } / (odd * groups) as f64;
            let angle = std::f64::consts::PI * ((2 * i + 1) * j) as f64 / (2 * odd) as f64;
            libm::sqrt(norm) * libm::cos(angle)
        };
        let cosines = (0..odd * odd).map(|at| cosine(at / odd, at % odd)).collect();
        Rotation { signs, cosines, odd }
    }

    /// `x Q`, in a fixed order of operations: the same bits on every machine.
    ///
    /// # Panics
    /// When `x` does not have `hidden` features.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        assert_eq!(x.len(), self.signs.len(), "a row of the stream");
        let mut row: Vec<f64> = x.iter().zip(&self.signs).map(|(&x, sign)| f64::from(x) * sign).collect();
        let mut stride = self.odd;
        while stride < row.len() {
            for pair in row.chunks_exact_mut(2 * stride) {
                let (low, high) = pair.split_at_mut(stride);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            stride *= 2;
        }
        let mut out = Vec::with_capacity(row.len());
        for group in row.chunks_exact(self.odd) {
            for j in 0..self.odd {
                let column = self.cosines[j..].iter().step_by(self.odd);
                out.push(group.iter().zip(column).map(|(x, c)| x * c).sum::<f64>() as f32);
            }
        }
        out
    }

    /// `W Q`: rows in the rotated basis.
    fn rows(&self, w: &Linear) -> Linear {
        let data = w.data.par_chunks_exact(w.inputs).flat_map_iter(|row| self.apply(row)).collect();
        Linear { data: Arc::new(data), bias: w.bias.clone(), ..*w }
    }

    /// `W diag(gain) Q` and `b + W bias`: rows read from the rotated stream, what the norm did folded in.
    fn reader(&self, w: &Linear, norm: &Affine) -> Linear {
        let gained = |row: &[f32]| row.iter().zip(&norm.gain).map(|(w, g)| w * g).collect::<Vec<_>>();
        let data = w.data.par_chunks_exact(w.inputs).flat_map_iter(|row| self.apply(&gained(row))).collect();
        let dot = |row: &[f32], bias: &[f32]| {
            row.iter().zip(bias).map(|(&w, &b)| f64::from(w) * f64::from(b)).sum::<f64>() as f32
        };
        let folded = norm.bias.as_ref().map(|bias| {
            let own = (0..w.outputs).map(|j| w.bias.as_ref().map_or(0.0, |own| own[j]));
            own.zip(w.data.chunks_exact(w.inputs)).map(|(own, row)| own + dot(row, bias)).collect()
        });
        Linear { data: Arc::new(data), bias: folded.or_else(|| w.bias.clone()), ..*w }
    }

    /// `Q^T W` and `b Q`: columns write to the rotated stream.
    fn writer(&self, w: &Linear) -> Linear {
        let column = |c: usize| -> Vec<f32> {
            self.apply(&w.data[c..].iter().step_by(w.inputs).copied().collect::<Vec<_>>())
        };
        let columns: Vec<Vec<f32>> = (0..w.inputs).into_par_iter().map(column).collect();
        let data = (0..w.outputs).flat_map(|r| columns.iter().map(move |column| column[r])).collect();
        Linear { data: Arc::new(data), bias: w.bias.as_ref().map(|b| self.apply(b)), ..*w }
    }
}

/// The same rows with entry 0 of each zero.
fn without_first(w: Linear, width: usize) -> Linear {
    let keep = |(at, &v): (usize, &f32)| if at % width == 0 { 0.0 } else { v };
    Linear { data: Arc::new(w.data.iter().enumerate().map(keep).collect()), ..w }
}

/// The same map with output 0 zero.
fn without_output(w: Linear) -> Linear {
    let keep = |(at, &v): (usize, &f32)| if at < w.inputs { 0.0 } else { v };
    let data = Arc::new(w.data.iter().enumerate().map(keep).collect());
    let bias = w.bias.map(|mut bias| {
        bias[0] = 0.0;
        bias
    });
    Linear { data, bias, ..w }
}

impl Model {
    /// The same model with its residual stream rotated by [`Rotation`], gains and biases of norms folded into the
    /// matrices; those of the last norm become `Q^T diag(gain) Q` and `bias Q`, so that a tied head stays the embedding.
    ///
    /// Its logits are those of `self` up to the rounding of floats; integers hold it far better, and LayerNorm they hold
    /// only so. A model that is centred already is returned as it is.
    pub fn rotated(&self) -> Model {
        if self.config.norm == Norm::Centred {
            return self.clone();
        }
        let d = self.config.shape.hidden;
        let rotation = Rotation::of(&self.config);
        let centred = self.config.norm != Norm::Rms;
        let read = |w: &Linear, norm: &Affine| {
            let rotated = rotation.reader(w, norm);
            if centred { without_first(rotated, d) } else { rotated }
        };
        let write = |w: &Linear| {
            let rotated = rotation.writer(w);
            if centred { without_output(rotated) } else { rotated }
        };
        let ones = || Affine { gain: vec![1.0; d], bias: None };
        let block = |b: &FloatBlock| FloatBlock {
            attn_norm: ones(),
            q: read(&b.q, &b.attn_norm),
            k: read(&b.k, &b.attn_norm),
            v: read(&b.v, &b.attn_norm),
            o: write(&b.o),
            ffn_norm: ones(),
            gate: read(&b.gate, &b.ffn_norm),
            up: b.up.as_ref().map(|up| read(up, &b.ffn_norm)),
            down: write(&b.down),
        };
        let embedding = rotation.rows(&self.embedding);
        let head = if self.config.tied { embedding.clone() } else { rotation.rows(&self.head) };
        let positions = self.positions.as_ref().map(|p| {
            let rotated = rotation.rows(p);
            if centred { without_first(rotated, d) } else { rotated }
        });
        let gain = rotation.writer(&rotation.rows(&self.final_norm.matrix()));
        Model {
            config: Config { norm: if centred { Norm::Centred } else { Norm::Rms }, ..self.config.clone() },
            embedding,
            positions,
            blocks: self.blocks.iter().map(block).collect(),
            final_norm: Gain::Matrix(if centred { without_first(gain, d) } else { gain }),
            final_bias: self.final_bias.as_ref().map(|bias| rotation.apply(bias)),
            head,
            tokenizer: self.tokenizer.clone(),
        }
    }
}
