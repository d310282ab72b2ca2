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

use std::sync::Arc;

use rayon::prelude::*;

use crate::model::{FloatBlock, Gain, Linear, Model};

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
        let odd = hidden >> hidden.trailing_zeros().min(usize::BITS - 1);
        let groups = hidden / odd.max(1);
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let sign = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if state >> 63 == 0 { 1.0 } else { -1.0 }
        };
        let signs = (0..hidden).map(sign).collect();
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

    /// `W diag(gain) Q`: rows read from the rotated stream.
    fn reader(&self, w: &Linear, gain: Option<&[f32]>) -> Linear {
        let rotated = |row: &[f32]| match gain {
            Some(gain) => self.apply(&row.iter().zip(gain).map(|(w, g)| w * g).collect::<Vec<_>>()),
            None => self.apply(row),
        };
        let data = w.data.par_chunks_exact(w.inputs).flat_map_iter(rotated).collect();
        Linear { data: Arc::new(data), ..*w }
    }

    /// `Q^T W`: columns write to the rotated stream.
    fn writer(&self, w: &Linear) -> Linear {
        let column = |c: usize| -> Vec<f32> {
            self.apply(&w.data[c..].iter().step_by(w.inputs).copied().collect::<Vec<_>>())
        };
        let columns: Vec<Vec<f32>> = (0..w.inputs).into_par_iter().map(column).collect();
        let data = (0..w.outputs).flat_map(|r| columns.iter().map(move |column| column[r])).collect();
        Linear { data: Arc::new(data), ..*w }
    }
}

impl Model {
    /// The same model with its residual stream rotated by [`Rotation`], gains folded into the matrices; that of
    /// the last norm becomes `Q^T diag(gain) Q`, so that a tied head stays the embedding.
    ///
    /// Its logits are those of `self` up to the rounding of floats; integers hold it far better.
    pub fn rotated(&self) -> Model {
        let rotation = Rotation::new(self.config.shape.hidden);
        let ones = |gain: &[f32]| vec![1.0; gain.len()];
        let block = |b: &FloatBlock| FloatBlock {
            attn_norm: ones(&b.attn_norm),
            q: rotation.reader(&b.q, Some(&b.attn_norm)),
            k: rotation.reader(&b.k, Some(&b.attn_norm)),
            v: rotation.reader(&b.v, Some(&b.attn_norm)),
            o: rotation.writer(&b.o),
            ffn_norm: ones(&b.ffn_norm),
            gate: rotation.reader(&b.gate, Some(&b.ffn_norm)),
            up: rotation.reader(&b.up, Some(&b.ffn_norm)),
            down: rotation.writer(&b.down),
        };
        let embedding = rotation.reader(&self.embedding, None);
        let head = if self.config.tied { embedding.clone() } else { rotation.reader(&self.head, None) };
        Model {
            config: self.config.clone(),
            embedding,
            blocks: self.blocks.iter().map(block).collect(),
            final_norm: Gain::Matrix(rotation.writer(&rotation.reader(&self.final_norm.matrix(), None))),
            head,
            tokenizer: self.tokenizer.clone(),
        }
    }
}
