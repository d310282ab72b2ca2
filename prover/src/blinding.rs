//! Where the prover's randomness comes from.

use ff::{Field, PrimeField};
use lamina_circuits::{Fr, witness::Column};
use rand_chacha::ChaCha20Rng;
use rand_core::{OsRng, RngCore, SeedableRng};
use rayon::prelude::*;
use zeroize::Zeroize;

use crate::error::ProveError;

/// Overwrites field elements that must not stay in memory.
pub(crate) fn wipe(values: &mut [Fr]) {
    values.fill(Fr::ZERO);
    // The optimiser may not drop stores to memory that something opaque looks at.
    std::hint::black_box(values);
}

enum Source {
    /// Operating system entropy hedged with the witness, drawn anew for every proof.
    Hedged,
    /// The caller's generator, consumed as the stock prover consumes it.
    Stock { rng: Box<dyn RngCore + Send>, blind_limbs: bool },
}

/// The source of all blinding values of a proof.
///
/// ```text
/// seed = Blake2b(os entropy, key, instances, phase-0 columns)        (protocol.md section 8.4)
/// ```
///
/// A witness alone does not determine the seed, nor does a broken system generator: two proofs repeat
/// their randomness only if both the entropy and the statement repeat.
pub struct Blinding {
    source: Source,
}

impl Default for Blinding {
    fn default() -> Self {
        Self::new()
    }
}

impl Blinding {
    /// Blinding for real proofs: ChaCha20, seeded afresh inside every proof, so that a forked or resumed
    /// process does not repeat itself.
    pub fn new() -> Self {
        Blinding { source: Source::Hedged }
    }

    /// For tests: draws from `rng` exactly what the stock prover draws, in its order, blinds no limbs.
    ///
    /// The stock prover takes its vanishing argument's random polynomial from a thread-local generator that
    /// nobody can seed; here it comes from the operating system.
    pub fn stock_compatible(rng: impl RngCore + Send + 'static) -> Self {
        Blinding { source: Source::Stock { rng: Box::new(rng), blind_limbs: false } }
    }

    /// For tests: the same, but the quotient limbs are blinded.
    pub fn stock_compatible_with_limbs(rng: impl RngCore + Send + 'static) -> Self {
        Blinding { source: Source::Stock { rng: Box::new(rng), blind_limbs: true } }
    }

    pub(crate) fn start(
        &mut self,
        context: Fr,
        instances: &[Vec<Fr>],
        columns: &[(usize, Column)],
    ) -> Result<Stream<'_>, ProveError> {
        match &mut self.source {
            Source::Stock { rng, blind_limbs } => {
                Ok(Stream { rng: Generator::Borrowed(rng.as_mut()), stock: true, blind_limbs: *blind_limbs })
            }
            Source::Hedged => Ok(Stream {
                rng: Generator::Owned(Box::new(hedged(context, instances, columns)?)),
                stock: false,
                blind_limbs: true,
            }),
        }
    }
}

fn hedged(
    context: Fr,
    instances: &[Vec<Fr>],
    columns: &[(usize, Column)],
) -> Result<ChaCha20Rng, ProveError> {
    let mut entropy = [0u8; 64];
    OsRng.try_fill_bytes(&mut entropy).map_err(|_| ProveError::Entropy)?;
    let mut seed = seed(&entropy, context, instances, columns);
    entropy.zeroize();
    let rng = ChaCha20Rng::from_seed(seed);
    seed.zeroize();
    Ok(rng)
}

/// A seed that nobody knows who lacks the entropy or the witness.
fn seed(entropy: &[u8; 64], context: Fr, instances: &[Vec<Fr>], columns: &[(usize, Column)]) -> [u8; 32] {
    let digests: Vec<_> = columns
        .par_iter()
        .map(|(index, column)| {
            let mut state = blake2b_simd::State::new();
            state.update(&(*index as u64).to_le_bytes());
            let mut block = Vec::with_capacity(1 << 12);
            let mut feed = |bytes: &[u8], last: bool| {
                block.extend_from_slice(bytes);
                if last || block.len() >= 1 << 12 {
                    state.update(&block);
                    block.clear();
                }
            };
            match column {
                Column::I16(v) => v.iter().for_each(|x| feed(&x.to_le_bytes(), false)),
                Column::I32(v) => v.iter().for_each(|x| feed(&x.to_le_bytes(), false)),
                Column::Field(v) => v.iter().for_each(|x| feed(x.to_repr().as_ref(), false)),
            }
            feed(&[], true);
            block.zeroize();
            state.finalize()
        })
        .collect();
    let mut state = blake2b_simd::Params::new().hash_length(32).personal(b"lamina-blinding").to_state();
    state.update(entropy);
    state.update(context.to_repr().as_ref());
    for instance in instances {
        state.update(&(instance.len() as u64).to_le_bytes());
        for value in instance {
            state.update(value.to_repr().as_ref());
        }
    }
    for digest in &digests {
        state.update(digest.as_bytes());
    }
    let mut seed = [0u8; 32];
    seed.copy_from_slice(state.finalize().as_bytes());
    seed
}

enum Generator<'a> {
    Owned(Box<ChaCha20Rng>),
    Borrowed(&'a mut (dyn RngCore + Send)),
}

/// The randomness of one proof.
pub(crate) struct Stream<'a> {
    rng: Generator<'a>,
    /// Whether to draw what the stock prover draws, used or not.
    pub(crate) stock: bool,
    pub(crate) blind_limbs: bool,
}

impl Stream<'_> {
    pub(crate) fn scalar(&mut self) -> Fr {
        match &mut self.rng {
            Generator::Owned(rng) => Fr::random(rng.as_mut()),
            Generator::Borrowed(rng) => Fr::random(rng),
        }
    }

    pub(crate) fn scalars(&mut self, count: usize) -> Vec<Fr> {
        (0..count).map(|_| self.scalar()).collect()
    }

    /// A blind that a KZG commitment ignores but the stock prover draws.
    pub(crate) fn skip(&mut self, count: usize) {
        if self.stock {
            for _ in 0..count {
                self.scalar();
            }
        }
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        if let Generator::Owned(rng) = &mut self.rng {
            **rng = ChaCha20Rng::from_seed([0; 32]);
            std::hint::black_box(rng);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    // Z7: each of the four inputs alone changes the seed, so that a generator that repeats itself (a fork, a
    // resumed machine) repeats the blinding only of the very same statement and witness.
    #[test]
    fn every_input_changes_the_seed() {
        let entropy = [7u8; 64];
        let instances = vec![vec![Fr::ONE, Fr::ZERO]];
        let columns = vec![(0, Column::I16(Arc::new(vec![1, 2, 3]))), (1, Column::I32(Arc::new(vec![4])))];
        let honest = seed(&entropy, Fr::ONE, &instances, &columns);
        assert_eq!(honest, seed(&entropy, Fr::ONE, &instances, &columns), "a function of its inputs");
        let mut seeds = vec![honest];
        for at in [0, 63] {
            let mut other = entropy;
            other[at] ^= 1;
            seeds.push(seed(&other, Fr::ONE, &instances, &columns));
        }
        seeds.push(seed(&entropy, Fr::ZERO, &instances, &columns));
        seeds.push(seed(&entropy, Fr::ONE, &[vec![Fr::ONE, Fr::ONE]], &columns));
        seeds.push(seed(&entropy, Fr::ONE, &[vec![Fr::ONE], vec![Fr::ZERO]], &columns));
        for changed in [
            vec![(0, Column::I16(Arc::new(vec![1, 2, 4]))), columns[1].clone()],
            vec![columns[0].clone(), (1, Column::I32(Arc::new(vec![5])))],
            vec![columns[0].clone(), (2, Column::I32(Arc::new(vec![4])))],
            vec![columns[0].clone()],
        ] {
            seeds.push(seed(&entropy, Fr::ONE, &instances, &changed));
        }
        let count = seeds.len();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), count, "two inputs share a seed");
    }

    // Z6.
    #[test]
    fn wiped_values_are_zero() {
        let mut values = vec![Fr::ONE, -Fr::ONE];
        wipe(&mut values);
        assert_eq!(values, [Fr::ZERO, Fr::ZERO]);
    }
}
