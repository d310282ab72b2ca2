//! Rounding with error feedback: what one weight's rounding loses, the weights after it make up for.
//!
//! For inputs with second moments `H = E[x x^T]`, rounding errors `e` of an output's weights cost `e^T H e`.
//! With `H = U D U^T`, `U` unit upper triangular, that is `sum_j D_j (e_j + sum_(i<j) U_ij e_i)^2`, so
//!
//! ```text
//! q_j = round(w_j + sum_(i<j) U_ij (w_i - q_i))
//! ```
//!
//! leaves each term at most a half (GPTQ, arXiv:2210.17323; in this form QuIP, arXiv:2307.13304, section 3.1).
//! `H` is taken in blocks on its diagonal: larger ones would learn the calibration text by heart.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::error::ForwardError;

/// Largest block of inputs whose errors make up for each other.
const MAX_BLOCK: usize = 576;
/// What is added to the diagonal of `H`, relative to its mean: directions that calibration did not see.
const DAMPING: f64 = 0.05;
/// Outputs that one task rounds.
const OUTPUTS: usize = 64;

/// Second moments of the inputs of a matrix, block by block.
pub(crate) struct Moments {
    width: usize,
    block: usize,
    sums: Vec<Vec<f64>>,
}

impl Moments {
    pub(crate) fn new(width: usize) -> Self {
        let block = width.div_ceil(width.div_ceil(MAX_BLOCK));
        let sums = (0..width).step_by(block).map(|at| vec![0.0; block.min(width - at).pow(2)]).collect();
        Moments { width, block, sums }
    }

    /// Adds rows of inputs; every row weighs the same, whatever its size.
    pub(crate) fn add(&mut self, x: &[f32]) -> Result<(), ForwardError> {
        let (width, block) = (self.width, self.block);
        let norm = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-20);
        let norms: Vec<f32> = x.chunks_exact(width).map(norm).collect();
        for (index, sums) in self.sums.iter_mut().enumerate() {
            let first = index * block;
            let size = block.min(width - first);
            let rows = x.chunks_exact(width).zip(&norms);
            let part: Vec<f32> =
                rows.flat_map(|(row, norm)| row[first..first + size].iter().map(move |x| x / norm)).collect();
            let part = Tensor::from_vec(part, (norms.len(), size), &Device::Cpu)?;
            let product: Vec<f32> = part.t()?.contiguous()?.matmul(&part)?.flatten_all()?.to_vec1()?;
            sums.iter_mut().zip(product).for_each(|(sum, p)| *sum += f64::from(p));
        }
        Ok(())
    }

    /// The feedback for inputs of `unit(input)` integers each.
    pub(crate) fn feedback(&self, unit: impl Fn(usize) -> f64) -> Feedback {
        let factor = |(index, sums): (usize, &Vec<f64>)| {
            let first = index * self.block;
            let size = self.block.min(self.width - first);
            let units: Vec<f64> = (first..first + size).map(&unit).collect();
            let mut h: Vec<f64> = sums.clone();
            for (i, row) in h.chunks_exact_mut(size).enumerate() {
                row.iter_mut().zip(&units).for_each(|(h, u)| *h *= units[i] * u);
            }
            unit_upper(&mut h, size)
        };
        Feedback { block: self.block, columns: self.sums.iter().enumerate().map(factor).collect() }
    }
}

/// `a . b`, in eight sums that the compiler can keep in one register.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a8.zip(b8) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// `U` of `h + damping = U D U^T`, column after column: entry `(j, i)` of the result is `U_ij`, `i < j`.
fn unit_upper(h: &mut [f64], size: usize) -> Vec<f32> {
    let mean = (0..size).map(|i| h[i * size + i]).sum::<f64>() / size as f64;
    for i in 0..size {
        h[i * size + i] += (DAMPING * mean).max(1e-30);
    }
    let mut columns = vec![0.0f32; size * size];
    let mut scaled = vec![0.0; size];
    for j in (0..size).rev() {
        // Rows hold U right of the diagonal from the columns done before, H left of it.
        let row = h[j * size..(j + 1) * size].to_vec();
        let after = &row[j + 1..];
        let diagonal: Vec<f64> = (j + 1..size).map(|k| h[k * size + k]).collect();
        scaled[j + 1..].iter_mut().zip(after).zip(&diagonal).for_each(|((s, u), d)| *s = u * d);
        let d = (row[j] - dot(after, &scaled[j + 1..])).max(DAMPING * mean * 1e-3).max(1e-30);
        let scaled = &scaled[j + 1..];
        h.par_chunks_exact_mut(size).take(j).with_min_len(64).for_each(|row| {
            row[j] = (row[j] - dot(&row[j + 1..], scaled)) / d;
        });
        h[j * size + j] = d;
        for i in 0..j {
            columns[j * size + i] = h[i * size + j] as f32;
        }
    }
    columns
}

/// How rounding errors of earlier inputs change later weights.
pub(crate) struct Feedback {
    block: usize,
    columns: Vec<Vec<f32>>,
}

impl Feedback {
    /// Rounds `targets` to integers of magnitude at most `limit`.
    ///
    /// # Shapes
    /// `targets` and result: `[inputs, outputs]`.
    pub(crate) fn round(&self, targets: &[f32], outputs: usize, limit: f32) -> Vec<i16> {
        let inputs = targets.len() / outputs;
        let chunk = |first: usize| -> Vec<i16> {
            let count = OUTPUTS.min(outputs - first);
            let mut rounded = vec![0i16; inputs * count];
            for (index, columns) in self.columns.iter().enumerate() {
                let start = index * self.block;
                let size = self.block.min(inputs - start);
                let mut errors = vec![0.0f32; size * count];
                for k in 0..size {
                    let (before, error) = errors.split_at_mut(k * count);
                    let target = &targets[(start + k) * outputs + first..][..count];
                    let mut wanted = [0.0f32; OUTPUTS];
                    wanted[..count].copy_from_slice(target);
                    for (errors, &u) in before.chunks_exact(count).zip(&columns[k * size..]) {
                        wanted.iter_mut().zip(errors).for_each(|(w, e)| *w += u * e);
                    }
                    let out = &mut rounded[(start + k) * count..][..count];
                    for (((q, e), &w), &t) in out.iter_mut().zip(error).zip(&wanted).zip(target) {
                        let integer = w.round().clamp(-limit, limit);
                        *q = integer as i16;
                        *e = t - integer;
                    }
                }
            }
            rounded
        };
        let firsts: Vec<usize> = (0..outputs).step_by(OUTPUTS).collect();
        let chunks: Vec<Vec<i16>> = firsts.par_iter().map(|&first| chunk(first)).collect();
        let row = |k: usize| {
            chunks.iter().flat_map(move |chunk| {
                let count = chunk.len() / inputs;
                &chunk[k * count..(k + 1) * count]
            })
        };
        (0..inputs).flat_map(row).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inputs of rank 2 and a little noise: feedback must lose much less than rounding to nearest.
    #[test]
    fn feedback_loses_less_than_rounding_to_nearest() {
        let (width, tokens, outputs) = (24, 200, 70);
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let basis: Vec<f32> = (0..2 * width).map(|_| next()).collect();
        let mut x = vec![];
        for _ in 0..tokens {
            let (a, b) = (next(), next());
            x.extend((0..width).map(|i| a * basis[i] + b * basis[width + i] + 0.01 * next()));
        }
        let targets: Vec<f32> = (0..width * outputs).map(|_| 3.0 * next()).collect();
        let mut moments = Moments::new(width);
        moments.add(&x).expect("small matrices");
        let rounded = moments.feedback(|_| 1.0).round(&targets, outputs, 127.0);
        let loss = |q: &dyn Fn(usize) -> f32| -> f32 {
            let error = |row: &[f32], j: usize| -> f32 {
                (0..width).map(|k| row[k] * (targets[k * outputs + j] - q(k * outputs + j))).sum()
            };
            x.chunks_exact(width).flat_map(|row| (0..outputs).map(move |j| error(row, j).powi(2))).sum()
        };
        let nearest = loss(&|at| targets[at].round());
        let fed_back = loss(&|at| f32::from(rounded[at]));
        assert!(fed_back < nearest / 5.0, "{fed_back} against {nearest}");
        assert!(rounded.iter().zip(&targets).all(|(&q, t)| (f32::from(q) - t).abs() < 8.0));
    }
}
