//! Open logits, and how clients that sample choose by them.

use std::cmp::Ordering;

use crate::hash::{Digest, Hasher};

/// The logits of every token of an answer, as distances from the greatest.
///
/// Softmax does not see what all logits have in common, so that these distances are all there is to know. Divided by
/// `2^frac`, `frac` from the card, they are the model's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logits {
    /// Ids: `0..vocab`.
    pub vocab: u32,
    /// `[tokens, vocab]`, each below [`Logits::LIMIT`].
    pub gaps: Vec<u64>,
}

impl Logits {
    /// Distances are below this: a bundle spends six bytes on each.
    pub const LIMIT: u64 = 1 << 48;

    /// The distances at every token, one slice each.
    pub fn rows(&self) -> impl Iterator<Item = &[u64]> {
        let vocab = usize::try_from(self.vocab).unwrap_or(usize::MAX).max(1);
        self.gaps.chunks(vocab)
    }

    /// How many logits are greater than a token's, and its probability at temperature 1.
    pub fn standing(row: &[u64], frac: i32, token: u32) -> Option<(usize, f64)> {
        let own = *row.get(usize::try_from(token).ok()?)?;
        let total: f64 = row.iter().map(|&gap| weight(gap, frac, 1.0)).sum();
        Some((row.iter().filter(|&&gap| gap < own).count(), weight(own, frac, 1.0) / total))
    }
}

/// The lowest id of the greatest logit; `None` if no distance is zero.
pub fn best(row: &[u64]) -> Option<u32> {
    row.iter().position(|&gap| gap == 0).and_then(|id| u32::try_from(id).ok())
}

/// `exp(-gap / (2^frac temperature))`, the same on every machine.
fn weight(gap: u64, frac: i32, temperature: f64) -> f64 {
    libm::exp(-libm::ldexp(float(gap), frac.saturating_neg()) / temperature)
}

/// Exact below `2^53`.
fn float(integer: u64) -> f64 {
    let half = |word: u64| u32::try_from(word & u64::from(u32::MAX)).map_or(0.0, f64::from);
    half(integer >> 32) * 4_294_967_296.0 + half(integer)
}

/// How a client wants tokens chosen.
///
/// ```text
/// order ids by (gap, id), keep the first top_k, and of these the fewest whose weights come to top_p of all kept
/// u = 2^-53 (H("sample", seed, i) >> 11);   token i = the first id whose cumulated weight exceeds u times what is kept
/// ```
///
/// The seed is the client's, drawn after the model was published: a node that draws it itself can draw until it likes
/// the answer. Sums go in that order in double precision, so that every machine chooses the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    seed: Digest,
    temperature: f64,
    top_k: usize,
    top_p: f64,
}

/// A parameter of [`Sampling`] out of its range.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{name} = {actual} is outside {range}")]
pub struct SamplingError {
    /// The parameter.
    pub name: &'static str,
    /// Its value.
    pub actual: f64,
    /// What is allowed.
    pub range: &'static str,
}

impl Sampling {
    /// A choice with `seed`, any bytes, at `temperature`; `top_k` of 0 and `top_p` of 1 keep all ids.
    ///
    /// # Errors
    /// A temperature outside [0.01, 100], `top_p` outside (0, 1].
    pub fn new(seed: &[u8], temperature: f64, top_k: usize, top_p: f64) -> Result<Self, SamplingError> {
        if !(0.01..=100.0).contains(&temperature) {
            return Err(SamplingError {
                name: "temperature",
                actual: temperature,
                range: "[0.01, 100]; for the greatest logit choose greedily",
            });
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(SamplingError { name: "top-p", actual: top_p, range: "(0, 1]" });
        }
        Ok(Self { seed: Hasher::new("seed").bytes(seed).digest(), temperature, top_k, top_p })
    }

    /// The id chosen for token `index` of an answer; `None` of no ids.
    pub fn choose(&self, row: &[u64], frac: i32, index: u32) -> Option<u32> {
        let ids = (0u32..).zip(row.iter().copied());
        let mut kept: Vec<(u64, u32)> = ids.map(|(id, gap)| (gap, id)).collect();
        kept.sort_unstable();
        if self.top_k > 0 {
            kept.truncate(self.top_k);
        }
        let weights: Vec<f64> = kept.iter().map(|&(gap, _)| weight(gap, frac, self.temperature)).collect();
        let all: f64 = weights.iter().sum();
        let mut sums: Vec<f64> = Vec::with_capacity(weights.len());
        let mut sum = 0.0;
        for weight in weights {
            sum += weight;
            sums.push(sum);
            if sum >= self.top_p * all {
                break;
            }
        }
        let digest = Hasher::new("sample").bytes(&self.seed.0).u64(index.into()).digest();
        let [word, ..] = digest.0.as_chunks::<8>().0 else { return None };
        let uniform = libm::ldexp(float(u64::from_le_bytes(*word) >> 11), -53);
        let target = uniform * sums.last()?;
        let at = sums.partition_point(|sum| sum.partial_cmp(&target) != Some(Ordering::Greater));
        // Rounding cannot lift the target to the last sum, as `uniform <= 1 - 2^-53`; if it did, the last is meant.
        kept.get(at.min(sums.len().saturating_sub(1))).map(|&(_, id)| id)
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::as_conversions
    )]
    use super::*;

    const ROW: [u64; 5] = [300, 0, 100, 0, 5000];

    #[test]
    fn frequencies_are_those_of_softmax() {
        let draws = 20_000;
        let sampling = Sampling::new(b"seed", 2.0, 0, 1.0).unwrap();
        let mut counts = [0u32; 5];
        for index in 0..draws {
            counts[sampling.choose(&ROW, 8, index).unwrap() as usize] += 1;
        }
        let weights = ROW.map(|gap| (-(gap as f64) / 256.0 / 2.0).exp());
        let all: f64 = weights.iter().sum();
        for (id, (count, weight)) in counts.iter().zip(weights).enumerate() {
            let expected = f64::from(draws) * weight / all;
            assert!(
                (f64::from(*count) - expected).abs() < 5.0 * expected.sqrt() + 1.0,
                "{id}: {count}, {expected}"
            );
        }
    }

    #[test]
    fn what_is_cut_is_never_chosen() {
        let cut = |top_k, top_p| {
            let sampling = Sampling::new(b"s", 50.0, top_k, top_p).unwrap();
            let mut seen: Vec<u32> = (0..500).map(|index| sampling.choose(&ROW, 8, index).unwrap()).collect();
            seen.sort_unstable();
            seen.dedup();
            seen
        };
        assert_eq!(cut(0, 1.0), [0, 1, 2, 3, 4]);
        assert_eq!(cut(2, 1.0), [1, 3]);
        assert_eq!(cut(1, 1.0), [1]);
        assert_eq!(cut(3, 1.0), [1, 2, 3]);
        // At this temperature all weigh nearly the same: a fifth is the first, a bit more the first two.
        assert_eq!(cut(0, 0.1), [1]);
        assert_eq!(cut(0, 0.3), [1, 3]);
        assert_eq!(Sampling::new(b"s", 1.0, 0, 1.0).unwrap().choose(&[], 8, 0), None);
    }

    /// From an implementation of the specification in another language: every machine must choose the same.
    #[test]
    fn choices_are_those_of_the_specification() {
        let choices = |seed: &[u8]| -> Vec<u32> {
            let sampling = Sampling::new(seed, 1.0, 0, 0.95).unwrap();
            (0..12).map(|index| sampling.choose(&[40, 10, 0, 90, 20, 300], 5, index).unwrap()).collect()
        };
        assert_eq!(choices(b"a"), choices(b"a"));
        assert_ne!(choices(b"a"), choices(b"b"));
        assert_eq!(choices(b"a"), [0, 2, 2, 1, 0, 2, 4, 2, 2, 4, 2, 2]);
    }

    #[test]
    fn parameters_have_their_errors() {
        for (temperature, top_p, name) in [
            (0.0, 1.0, "temperature"),
            (f64::NAN, 1.0, "temperature"),
            (1.0, 0.0, "top-p"),
            (1.0, f64::NAN, "top-p"),
        ] {
            assert_eq!(Sampling::new(b"", temperature, 0, top_p).unwrap_err().name, name);
        }
    }

    #[test]
    fn standings_count_what_is_greater() {
        let logits = Logits { vocab: 5, gaps: ROW.to_vec() };
        assert_eq!(logits.rows().count(), 1);
        let (above, probability) = Logits::standing(&ROW, 8, 2).unwrap();
        let weights = ROW.map(|gap| (-(gap as f64) / 256.0).exp());
        assert_eq!(above, 2);
        assert!((probability - weights[2] / weights.iter().sum::<f64>()).abs() < 1e-12);
        assert_eq!(Logits::standing(&ROW, 8, 5), None);
        assert_eq!((best(&ROW), best(&[1, 2])), (Some(1), None));
    }
}
