//! Small integers times field elements, without a reduction for each term.

use std::{ops::Range, sync::Arc};

use ff::{FromUniformBytes, PrimeField};

use crate::{Fr, assign::map_blocks};

/// A field element as four limbs, least significant first, below the modulus.
pub type Limbs = [u64; 4];

/// The limbs of an element.
pub fn limbs(value: &Fr) -> Limbs {
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
pub struct Wide([u64; 5]);

impl Wide {
    /// Adds `c * v`.
    #[inline(always)]
    pub fn add(&mut self, c: &Limbs, v: u64) {
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
    pub fn reduce(&self) -> Fr {
        let mut bytes = [0u8; 64];
        for (chunk, limb) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&self.0) {
            *chunk = limb.to_le_bytes();
        }
        Fr::from_uniform_bytes(&bytes)
    }
}

/// Integers that are accumulated as `v + OFFSET >= 0`; the sum's excess is `OFFSET * sum_j c_j`.
pub trait Integer: Copy + Send + Sync {
    /// Makes every value non-negative.
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
pub fn dot<I: Integer>(coefficients: &[Limbs], values: &[I]) -> Fr {
    let mut sum = Wide::default();
    for (c, v) in coefficients.iter().zip(values) {
        sum.add(c, v.shifted());
    }
    sum.reduce()
}

/// `sum_l c_l * columns[l][row]` for each row of `rows`, in parallel when built with `parallel`.
///
/// # Panics
/// If a column ends before `rows` does.
pub fn column_sums(coefficients: &[Fr], columns: &[Arc<Vec<i16>>], rows: Range<usize>) -> Vec<Fr> {
    const BLOCK: usize = 256;
    let cut: Vec<Limbs> = coefficients.iter().map(limbs).collect();
    let used = coefficients.iter().zip(columns).map(|(c, _)| c);
    let excess = used.sum::<Fr>() * Fr::from(i16::OFFSET);
    let mut sums = vec![Fr::from(0); rows.len()];
    map_blocks(&mut sums, BLOCK, |at, out| {
        let mut wide = [Wide::default(); BLOCK];
        let first = rows.start + at * BLOCK;
        for (c, column) in cut.iter().zip(columns) {
            for (sum, v) in wide.iter_mut().zip(&column[first..first + out.len()]) {
                sum.add(c, v.shifted());
            }
        }
        for (out, sum) in out.iter_mut().zip(&wide) {
            *out = sum.reduce() - excess;
        }
    });
    sums
}

/// `sum_j c_j * column[first + j stride + b]` for each `b < stride`.
///
/// # Panics
/// If the column ends before row `first + c.len() * stride`.
pub fn strided_sums(coefficients: &[Fr], column: &[i16], first: usize, stride: usize) -> Vec<Fr> {
    let mut wide = vec![Wide::default(); stride];
    let rows = column[first..first + coefficients.len() * stride].chunks_exact(stride.max(1));
    for (c, row) in coefficients.iter().map(limbs).zip(rows) {
        for (sum, v) in wide.iter_mut().zip(row) {
            sum.add(&c, v.shifted());
        }
    }
    let excess = coefficients.iter().sum::<Fr>() * Fr::from(i16::OFFSET);
    wide.iter().map(|sum| sum.reduce() - excess).collect()
}

#[cfg(test)]
mod tests {
    use ff::Field;

    use super::*;
    use crate::{logup::signed, testing::Generator};

    #[test]
    fn agrees_with_the_field_at_the_edges() {
        let mut rng = Generator(2);
        let mut random = || Fr::from_raw([(); 4].map(|()| rng.next_u64() >> 2));
        let edges = [0, 1, -1, i32::MAX, i32::MIN, 77, 77];
        let coefficients: Vec<Fr> = (0..700).map(|i| if i % 3 == 0 { -Fr::ONE } else { random() }).collect();
        let cut: Vec<Limbs> = coefficients.iter().map(limbs).collect();
        let wide: Vec<i32> = (0..700).map(|i| edges[i % edges.len()]).collect();
        let short: Vec<i16> = wide.iter().map(|v| (*v).clamp(-32768, 32767) as i16).collect();
        let total: Fr = coefficients.iter().sum();
        let naive = |v: &mut dyn Iterator<Item = i32>| -> Fr {
            coefficients.iter().zip(v).map(|(c, v)| *c * signed(v)).sum()
        };
        let expected = naive(&mut wide.iter().copied());
        assert_eq!(dot(&cut, &wide) - total * Fr::from(i32::OFFSET), expected);
        let expected = naive(&mut short.iter().map(|v| i32::from(*v)));
        assert_eq!(dot(&cut, &short) - total * Fr::from(i16::OFFSET), expected);

        // Columns of 700 rows, of which 33..650 are asked for; fewer columns than coefficients.
        let columns: Vec<Arc<Vec<i16>>> =
            (0..9).map(|c| Arc::new(short.iter().map(|v| v.rotate_left(c)).collect())).collect();
        for (row, sum) in (33..650).zip(column_sums(&coefficients[..12], &columns, 33..650)) {
            let expected: Fr =
                coefficients.iter().zip(&columns).map(|(c, v)| *c * signed(v[row].into())).sum();
            assert_eq!(sum, expected, "row {row}");
        }
        // 60 features of 11 entries, after five rows of something else.
        for (b, sum) in strided_sums(&coefficients[..60], &short, 5, 11).into_iter().enumerate() {
            let entry = |j: usize| signed(short[5 + 11 * j + b].into());
            let expected: Fr = coefficients[..60].iter().enumerate().map(|(j, c)| *c * entry(j)).sum();
            assert_eq!(sum, expected, "entry {b}");
        }
    }
}
