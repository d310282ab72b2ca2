//! Small integers times field elements, without a reduction for each term.

use ff::{FromUniformBytes, PrimeField};
use lamina_circuits::Fr;

/// A field element as four limbs, least significant first, below the modulus.
pub(crate) type Limbs = [u64; 4];

pub(crate) fn limbs(value: &Fr) -> Limbs {
    let bytes = value.to_repr();
    let bytes: &[u8] = bytes.as_ref();
    let mut limbs = [0u64; 4];
    for (limb, chunk) in limbs.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *limb = u64::from_le_bytes(*chunk);
    }
    limbs
}

/// `sum_j c_j * v_j` for field elements `c_j` below 2^254 and `v_j` below 2^33: up to 2^33 terms fit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wide([u64; 5]);

impl Wide {
    /// Adds `c * v`.
    #[inline(always)]
    pub(crate) fn add(&mut self, c: &Limbs, v: u64) {
        let mut carry = 0u64;
        for (limb, c) in self.0.iter_mut().zip(c) {
            let sum = u128::from(*limb) + u128::from(*c) * u128::from(v) + u128::from(carry);
            *limb = sum as u64;
            carry = (sum >> 64) as u64;
        }
        self.0[4] += carry;
    }

    /// The sum modulo the field's order.
    #[inline]
    pub(crate) fn reduce(&self) -> Fr {
        let mut bytes = [0u8; 64];
        for (chunk, limb) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&self.0) {
            *chunk = limb.to_le_bytes();
        }
        Fr::from_uniform_bytes(&bytes)
    }
}

/// Integers that are accumulated as `v + OFFSET >= 0`; the sum's excess is `OFFSET * sum_j c_j`.
pub(crate) trait Integer: Copy + Send + Sync {
    const OFFSET: u64;
    /// `v + OFFSET`.
    fn shifted(self) -> u64;
    /// The value itself.
    fn wide(self) -> i64;
}

impl Integer for i16 {
    const OFFSET: u64 = 1 << 15;
    #[inline(always)]
    fn shifted(self) -> u64 {
        (i32::from(self) + (1 << 15)) as u64
    }
    #[inline(always)]
    fn wide(self) -> i64 {
        i64::from(self)
    }
}

impl Integer for i32 {
    const OFFSET: u64 = 1 << 31;
    #[inline(always)]
    fn shifted(self) -> u64 {
        (i64::from(self) + (1 << 31)) as u64
    }
    #[inline(always)]
    fn wide(self) -> i64 {
        i64::from(self)
    }
}

/// `sum_i c_i * (v_i + OFFSET)`; the caller takes the excess off.
pub(crate) fn dot<I: Integer>(coefficients: &[Limbs], values: &[I]) -> Fr {
    let mut sum = Wide::default();
    for (c, v) in coefficients.iter().zip(values) {
        sum.add(c, v.shifted());
    }
    sum.reduce()
}
