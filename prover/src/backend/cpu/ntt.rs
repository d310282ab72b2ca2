//! The number-theoretic transform, recursive so that it fits any cache, over precomputed roots.

use ff::Field;
use lamina_circuits::Fr;
use rayon::prelude::*;

use crate::backend::reference::omega;

/// Below this size a transform stays on one thread.
const PARALLEL: usize = 1 << 12;

/// Roots of unity for transforms of one size.
#[derive(Debug)]
pub(crate) struct Ntt {
    n: usize,
    /// `w^i`, `i < n/2`.
    roots: Vec<Fr>,
    /// `w^(-i)`, `i < n/2`.
    inverse_roots: Vec<Fr>,
    n_inverse: Fr,
}

fn powers(base: Fr, count: usize) -> Vec<Fr> {
    std::iter::successors(Some(Fr::ONE), |power| Some(*power * base))
        .take(count)
        .collect()
}

/// The index with its low `bits` bits reversed.
pub(crate) fn reverse(index: usize, bits: u32) -> usize {
    if bits == 0 {
        0
    } else {
        index.reverse_bits() >> (usize::BITS - bits)
    }
}

impl Ntt {
    pub(crate) fn new(k: u32) -> Self {
        let n = 1usize << k;
        let omega = omega(k);
        let inverse = omega.invert().unwrap_or(Fr::ONE);
        Ntt {
            n,
            roots: powers(omega, n / 2),
            inverse_roots: powers(inverse, n / 2),
            n_inverse: Fr::from(n as u64).invert().unwrap_or(Fr::ONE),
        }
    }

    /// Values in natural order to coefficients in bit-reversed order, times `n`.
    ///
    /// The factor is left to whoever touches the coefficients next: see [`Ntt::n_inverse`].
    pub(crate) fn inverse_scaled(&self, values: &mut [Fr]) {
        down(values, &self.inverse_roots, 1);
    }

    /// Coefficients in bit-reversed order to values in natural order.
    pub(crate) fn forward(&self, coefficients: &mut [Fr]) {
        up(coefficients, &self.roots, 1);
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

/// Decimation in frequency: natural to bit-reversed order.
fn down(values: &mut [Fr], roots: &[Fr], stride: usize) {
    let n = values.len();
    if n == 1 {
        return;
    }
    let (low, high) = values.split_at_mut(n / 2);
    let pass = |low: &mut [Fr], high: &mut [Fr], from: usize| {
        for (i, (a, b)) in low.iter_mut().zip(high).enumerate() {
            let difference = *a - *b;
            *a += *b;
            *b = difference * roots[(from + i) * stride];
        }
    };
    if n >= PARALLEL {
        low.par_chunks_mut(PARALLEL / 4)
            .zip(high.par_chunks_mut(PARALLEL / 4))
            .enumerate()
            .for_each(|(at, (low, high))| pass(low, high, at * (PARALLEL / 4)));
        rayon::join(
            || down(low, roots, stride * 2),
            || down(high, roots, stride * 2),
        );
    } else {
        pass(low, high, 0);
        down(low, roots, stride * 2);
        down(high, roots, stride * 2);
    }
}

/// Decimation in time: bit-reversed to natural order.
fn up(values: &mut [Fr], roots: &[Fr], stride: usize) {
    let n = values.len();
    if n == 1 {
        return;
    }
    let (low, high) = values.split_at_mut(n / 2);
    let pass = |low: &mut [Fr], high: &mut [Fr], from: usize| {
        for (i, (a, b)) in low.iter_mut().zip(high).enumerate() {
            let turned = *b * roots[(from + i) * stride];
            *b = *a - turned;
            *a += turned;
        }
    };
    if n >= PARALLEL {
        rayon::join(
            || up(low, roots, stride * 2),
            || up(high, roots, stride * 2),
        );
        low.par_chunks_mut(PARALLEL / 4)
            .zip(high.par_chunks_mut(PARALLEL / 4))
            .enumerate()
            .for_each(|(at, (low, high))| pass(low, high, at * (PARALLEL / 4)));
    } else {
        up(low, roots, stride * 2);
        up(high, roots, stride * 2);
        pass(low, high, 0);
    }
}
