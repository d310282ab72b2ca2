//! Multi-scalar multiplication on one thread, for the few hundred points of a verification.
//!
//! Signed windows (digits `−2^(c−1) ..= 2^(c−1)`), one bucket per window and digit, and all buckets of all
//! windows summed pairwise in affine coordinates with one shared inversion a round: six multiplications an
//! addition instead of eleven.

use ff::{Field, PrimeField};
use group::{Group, prime::PrimeCurveAffine};
use halo2_proofs::halo2curves::bn256::{Fq, G1};

use crate::{Fr, G1Affine};

/// `Σ scalar · point`.
#[expect(clippy::arithmetic_side_effects, reason = "field and group arithmetic is total")]
pub(crate) fn multiply(terms: &[(Fr, G1Affine)]) -> G1 {
    let scalars: Vec<[u8; 32]> = terms.iter().map(|(scalar, _)| scalar.to_repr()).collect();
    let bytes = scalars.iter().map(used_bytes).max().unwrap_or(0);
    let width = match terms.len() {
        0..8 => 3,
        8..64 => 4,
        64..256 => 5,
        256..1024 => 6,
        1024..4096 => 8,
        4096..16384 => 10,
        _ => 12,
    };
    // One window more than the bits fill, for the last carry.
    let windows = bytes.saturating_mul(8).div_ceil(width).saturating_add(1);
    let half = 1usize.checked_shl(u32::try_from(width).unwrap_or(0)).unwrap_or(2).div_ceil(2);
    let mut buckets: Vec<Vec<G1Affine>> = vec![Vec::new(); windows.saturating_mul(half)];
    for (scalar, (_, point)) in scalars.iter().zip(terms) {
        for (window, (digit, negative)) in digits(scalar, width, windows).enumerate() {
            let Some(position) = digit.checked_sub(1) else { continue };
            let at = window.saturating_mul(half).saturating_add(position);
            if let Some(bucket) = buckets.get_mut(at) {
                bucket.push(if negative { -*point } else { *point });
            }
        }
    }
    sum_buckets(&mut buckets);
    let mut total = G1::identity();
    for window in buckets.chunks(half).rev() {
        for _ in 0..width {
            total = total.double();
        }
        let (mut running, mut sum) = (G1::identity(), G1::identity());
        for bucket in window.iter().rev() {
            if let Some(point) = bucket.first() {
                running += point;
            }
            sum += running;
        }
        total += sum;
    }
    total
}

fn used_bytes(scalar: &[u8; 32]) -> usize {
    scalar.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_add(1))
}

/// Signed digits of a little-endian integer, lowest first, as magnitude and sign.
fn digits(scalar: &[u8; 32], width: usize, windows: usize) -> impl Iterator<Item = (usize, bool)> {
    let bit = move |at: usize| {
        let byte = scalar.get(at >> 3).copied().unwrap_or(0);
        usize::from(byte.checked_shr(u32::try_from(at & 7).unwrap_or(0)).unwrap_or(0) & 1)
    };
    let mut carry = 0usize;
    (0..windows).map(move |window| {
        let start = window.saturating_mul(width);
        let raw =
            (0..width).rev().fold(0usize, |value, offset| (value << 1) | bit(start.saturating_add(offset)));
        let value = raw.saturating_add(carry);
        let base = 1usize << width;
        if value > base >> 1 {
            carry = 1;
            (base.saturating_sub(value), true)
        } else {
            carry = 0;
            (value, false)
        }
    })
}

/// Leaves at most one point in every bucket: its sum, or none when that is the identity.
fn sum_buckets(buckets: &mut [Vec<G1Affine>]) {
    for bucket in buckets.iter_mut() {
        bucket.retain(|point| !bool::from(point.is_identity()));
    }
    let mut denominators = Vec::new();
    while buckets.iter().any(|bucket| bucket.len() > 1) {
        denominators.clear();
        for bucket in buckets.iter() {
            denominators.extend(pairs(bucket).map(|(a, b)| slope_denominator(a, b)));
        }
        invert(&mut denominators);
        let mut inverses = denominators.iter();
        for bucket in buckets.iter_mut().filter(|bucket| bucket.len() > 1) {
            let (_, odd) = bucket.as_chunks::<2>();
            let odd = odd.first().copied();
            *bucket = pairs(bucket)
                .zip(inverses.by_ref())
                .filter_map(|((a, b), inverse)| add(a, b, *inverse))
                .chain(odd)
                .collect();
        }
    }
}

fn pairs(bucket: &[G1Affine]) -> impl Iterator<Item = (&G1Affine, &G1Affine)> {
    bucket.as_chunks::<2>().0.iter().map(|[a, b]| (a, b))
}

/// `x_b − x_a`, or `2y` for a doubling; zero exactly for a point and its negative.
#[expect(clippy::arithmetic_side_effects, reason = "field arithmetic is total")]
fn slope_denominator(a: &G1Affine, b: &G1Affine) -> Fq {
    if a.x == b.x { a.y + b.y } else { b.x - a.x }
}

/// `a + b` of points other than the identity; `None` for the identity.
#[expect(clippy::arithmetic_side_effects, reason = "field arithmetic is total")]
fn add(a: &G1Affine, b: &G1Affine, inverse: Fq) -> Option<G1Affine> {
    let rise = if a.x == b.x {
        if a.y != b.y {
            return None;
        }
        let square = a.x.square();
        square.double() + square
    } else {
        b.y - a.y
    };
    let slope = rise * inverse;
    let x = slope.square() - a.x - b.x;
    Some(G1Affine { x, y: slope * (a.x - x) - a.y })
}

/// Inverts all but zeros, which stay.
#[expect(clippy::arithmetic_side_effects, reason = "field arithmetic is total")]
fn invert(values: &mut [Fq]) {
    let mut product = Fq::ONE;
    let prefixes: Vec<Fq> = values
        .iter()
        .map(|value| {
            let before = product;
            if *value != Fq::ZERO {
                product *= value;
            }
            before
        })
        .collect();
    let mut inverse = product.invert().unwrap_or(Fq::ZERO);
    for (value, prefix) in values.iter_mut().zip(prefixes).rev() {
        if *value != Fq::ZERO {
            let next = inverse * *value;
            *value = inverse * prefix;
            inverse = next;
        }
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "field and group arithmetic is total")]
mod tests {
    use group::Curve;
    use rand_core::{OsRng, RngCore};

    use super::*;

    fn naive(terms: &[(Fr, G1Affine)]) -> G1 {
        terms.iter().map(|(scalar, point)| point * scalar).sum()
    }

    #[test]
    fn sums_agree_with_single_multiplications() {
        for count in [0usize, 1, 2, 7, 8, 65, 300, 1100] {
            let terms: Vec<_> =
                (0..count).map(|_| (Fr::random(OsRng), G1::random(OsRng).to_affine())).collect();
            assert_eq!(multiply(&terms), naive(&terms), "{count} terms");
        }
    }

    #[test]
    fn edge_scalars_and_points_are_right() {
        let p = G1Affine::generator();
        let scalars = [
            Fr::ZERO,
            Fr::ONE,
            -Fr::ONE,
            Fr::from(2),
            Fr::from(31),
            Fr::from(32),
            Fr::from(33),
            Fr::from(u64::MAX),
            Fr::from_raw([0, 0, 0, 1 << 60]),
        ];
        for one in scalars {
            for other in scalars {
                // Equal points, opposite points and the identity meet in one bucket.
                let terms =
                    [(one, p), (other, p), (one, -p), (other, p), (one, G1Affine::identity()), (other, p)];
                assert_eq!(multiply(&terms), naive(&terms), "{one:?} {other:?}");
            }
        }
        let same: Vec<_> = (0..40).map(|_| (Fr::from(OsRng.next_u64()), p)).collect();
        assert_eq!(multiply(&same), naive(&same));
    }
}
