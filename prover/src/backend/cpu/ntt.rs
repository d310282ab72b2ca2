//! The number-theoretic transform, recursive so that it fits any cache, over precomputed roots.

use ff::Field;
use lamina_circuits::Fr;
use rayon::prelude::*;

use super::Kernels;
#[cfg(target_arch = "x86_64")]
use super::vector;
use crate::backend::reference::omega;

/// Below this size a transform stays on one thread.
const PARALLEL: usize = 1 << 12;

/// Roots of unity for transforms of one size.
#[derive(Debug)]
pub(crate) struct Ntt {
    n: usize,
    /// For each size `2^(l+1)`, level `l`: the powers of its root of unity.
    roots: Vec<Vec<Fr>>,
    /// The same of the inverse roots.
    inverse_roots: Vec<Vec<Fr>>,
    /// Both again, for the vector kernels.
    #[cfg(target_arch = "x86_64")]
    vector: Option<[vector::ntt::Roots; 2]>,
    n_inverse: Fr,
}

fn powers(base: Fr, count: usize) -> Vec<Fr> {
    std::iter::successors(Some(Fr::ONE), |power| Some(*power * base)).take(count).collect()
}

/// The index with its low `bits` bits reversed.
pub(crate) fn reverse(index: usize, bits: u32) -> usize {
    if bits == 0 { 0 } else { index.reverse_bits() >> (usize::BITS - bits) }
}

impl Ntt {
    /// Transforms of `2^k` values, with vector kernels where `kernels` and the machine allow them.
    pub(crate) fn new(k: u32, kernels: Kernels) -> Self {
        let n = 1usize << k;
        let level = |l: u32| powers(omega(l + 1), 1 << l);
        let inverse = |l: u32| powers(omega(l + 1).invert().unwrap_or(Fr::ONE), 1 << l);
        let roots: Vec<_> = (0..k).map(level).collect();
        let inverse_roots: Vec<_> = (0..k).map(inverse).collect();
        Ntt {
            n,
            #[cfg(target_arch = "x86_64")]
            vector: (kernels.vector() && k >= vector::ntt::MIN_LOG_N)
                .then(|| [&roots, &inverse_roots].map(|roots| vector::ntt::Roots::new(roots))),
            roots,
            inverse_roots,
            n_inverse: Fr::from(n as u64).invert().unwrap_or(Fr::ONE),
        }
    }

    /// Values in natural order to coefficients in bit-reversed order, times `n`.
    ///
    /// The factor is left to whoever touches the coefficients next: see [`Ntt::n_inverse`].
    pub(crate) fn inverse_scaled(&self, values: &mut [Fr]) {
        #[cfg(target_arch = "x86_64")]
        if let Some([_, inverse]) = &self.vector {
            return vector::ntt::down(values, inverse);
        }
        down(values, &self.inverse_roots);
    }

    /// Coefficients in bit-reversed order to values in natural order.
    pub(crate) fn forward(&self, coefficients: &mut [Fr]) {
        #[cfg(target_arch = "x86_64")]
        if let Some([roots, _]) = &self.vector {
            return vector::ntt::up(coefficients, roots);
        }
        up(coefficients, &self.roots);
    }

    pub(crate) fn n_inverse(&self) -> Fr {
        self.n_inverse
    }

    /// Swaps between natural and bit-reversed order.
    pub(crate) fn permute(&self, values: &mut [Fr]) {
        let bits = self.n.trailing_zeros();
        for i in 0..self.n {
            let j = reverse(i, bits);
            if i < j {
                values.swap(i, j);
            }
        }
    }

    /// `scale * shift^i`, in the bit-reversed order of `i`.
    pub(crate) fn shifts(&self, shift: Fr, scale: Fr) -> Vec<Fr> {
        // The reversed list doubles: behind the powers of bits 0..b come those with bit b set.
        let bits = self.n.trailing_zeros();
        let mut list = Vec::with_capacity(self.n);
        list.push(scale);
        for bit in (0..bits).rev() {
            let factor = shift.pow_vartime([1u64 << bit]);
            for i in 0..list.len() {
                let next = list[i] * factor;
                list.push(next);
            }
        }
        list
    }
}

/// Butterflies of one pass, decimation in frequency.
#[inline(always)]
fn down_pass(low: &mut [Fr], high: &mut [Fr], roots: &[Fr]) {
    for ((a, b), root) in low.iter_mut().zip(high).zip(roots) {
        let difference = *a - *b;
        *a += *b;
        *b = difference * root;
    }
}

/// Butterflies of one pass, decimation in time.
#[inline(always)]
fn up_pass(low: &mut [Fr], high: &mut [Fr], roots: &[Fr]) {
    for ((a, b), root) in low.iter_mut().zip(high).zip(roots) {
        let turned = *b * root;
        *b = *a - turned;
        *a += turned;
    }
}

#[inline(always)]
fn plain(a: &mut Fr, b: &mut Fr) {
    let difference = *a - *b;
    *a += *b;
    *b = difference;
}

/// Decimation in frequency: natural to bit-reversed order.
fn down(values: &mut [Fr], levels: &[Vec<Fr>]) {
    // The smallest sizes are written out: their roots are 1 and a fourth root of unity.
    match values {
        [_] => return,
        [a, b] => return plain(a, b),
        [a, b, c, d] => {
            plain(a, c);
            plain(b, d);
            *d *= levels[1][1];
            plain(a, b);
            return plain(c, d);
        }
        _ => {}
    }
    let Some((roots, levels)) = levels.split_last() else {
        return;
    };
    let (low, high) = values.split_at_mut(values.len() / 2);
    if low.len() >= PARALLEL / 2 {
        const BLOCK: usize = PARALLEL / 4;
        low.par_chunks_mut(BLOCK)
            .zip(high.par_chunks_mut(BLOCK))
            .zip(roots.par_chunks(BLOCK))
            .for_each(|((low, high), roots)| down_pass(low, high, roots));
        rayon::join(|| down(low, levels), || down(high, levels));
    } else {
        plain(&mut low[0], &mut high[0]);
        down_pass(&mut low[1..], &mut high[1..], &roots[1..]);
        down(low, levels);
        down(high, levels);
    }
}

/// Decimation in time: bit-reversed to natural order.
fn up(values: &mut [Fr], levels: &[Vec<Fr>]) {
    match values {
        [_] => return,
        [a, b] => return plain(a, b),
        [a, b, c, d] => {
            plain(a, b);
            plain(c, d);
            *d *= levels[1][1];
            plain(a, c);
            return plain(b, d);
        }
        _ => {}
    }
    let Some((roots, levels)) = levels.split_last() else {
        return;
    };
    let (low, high) = values.split_at_mut(values.len() / 2);
    if low.len() >= PARALLEL / 2 {
        const BLOCK: usize = PARALLEL / 4;
        rayon::join(|| up(low, levels), || up(high, levels));
        low.par_chunks_mut(BLOCK)
            .zip(high.par_chunks_mut(BLOCK))
            .zip(roots.par_chunks(BLOCK))
            .for_each(|((low, high), roots)| up_pass(low, high, roots));
    } else {
        up(low, levels);
        up(high, levels);
        plain(&mut low[0], &mut high[0]);
        up_pass(&mut low[1..], &mut high[1..], &roots[1..]);
    }
}

#[cfg(test)]
mod tests {
    use halo2_proofs::arithmetic::best_fft;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;

    #[test]
    fn agrees_with_sums_and_with_the_library() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let kernels = [Kernels::Portable, Kernels::Detected];
        for (k, kernels) in
            [1, 2, 3, 6, 8, 9, 10, 13, 14, 15].into_iter().flat_map(|k| kernels.map(|v| (k, v)))
        {
            let n = 1usize << k;
            let ntt = Ntt::new(k, kernels);
            let mut coefficients: Vec<Fr> = (0..n).map(|_| Fr::random(&mut rng)).collect();
            coefficients[0] = -Fr::ONE;
            coefficients[n - 1] = Fr::ZERO;
            let w = omega(k);
            let mut values = coefficients.clone();
            ntt.permute(&mut values);
            ntt.forward(&mut values);
            if k <= 6 {
                for (i, value) in values.iter().enumerate() {
                    let x = w.pow_vartime([i as u64]);
                    let sum = coefficients.iter().rev().fold(Fr::ZERO, |acc, c| acc * x + c);
                    assert_eq!(*value, sum);
                }
            }
            let mut library = coefficients.clone();
            let data = halo2_proofs::poly::EvaluationDomain::<Fr>::new(2, k);
            if let Some(data) = data.fft_data.get(&n) {
                best_fft(&mut library, w, k, data, false);
                assert_eq!(values, library);
            }
            ntt.inverse_scaled(&mut values);
            ntt.permute(&mut values);
            for (value, coefficient) in values.iter().zip(&coefficients) {
                assert_eq!(*value * ntt.n_inverse(), *coefficient);
            }
            let g = Fr::from(7);
            for (at, shift) in ntt.shifts(g, Fr::from(3)).iter().enumerate() {
                let i = reverse(at, k);
                assert_eq!(*shift, g.pow_vartime([i as u64]) * Fr::from(3));
            }
        }
    }
}
