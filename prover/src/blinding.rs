//! Where the prover's randomness comes from.

use ff::{Field, PrimeField};
use group::GroupEncoding;
use lamina_circuits::{Fr, witness::Column};
use rand_chacha::ChaCha20Rng;
use rand_core::{OsRng, RngCore, SeedableRng};
use rayon::prelude::*;
use zeroize::Zeroize;

use crate::{error::ProveError, prove::Committed};

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
/// seed   = Blake2b(os entropy, key, instances, digest of each phase-0 column)        (protocol.md section 9)
/// digest = Blake2b(index, committed, commitment, tail)    of a column that is committed to already
/// digest = Blake2b(index, width, values)                  of any other
/// ```
///
/// A commitment binds the values of its column, so weights need not be read again for every proof. A witness alone does
/// not determine the seed, nor does a broken system generator: two proofs repeat their randomness only if both the
/// entropy and the statement repeat.
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
        committed: &[Committed],
    ) -> Result<Stream<'_>, ProveError> {
        match &mut self.source {
            Source::Stock { rng, blind_limbs } => {
                Ok(Stream { rng: Generator::Borrowed(rng.as_mut()), stock: true, blind_limbs: *blind_limbs })
            }
            Source::Hedged => Ok(Stream {
                rng: Generator::Owned(Box::new(hedged(context, instances, columns, committed)?)),
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
    committed: &[Committed],
) -> Result<ChaCha20Rng, ProveError> {
    let mut entropy = [0u8; 64];
    OsRng.try_fill_bytes(&mut entropy).map_err(|_| ProveError::Entropy)?;
    let mut seed = seed(&entropy, context, instances, columns, committed);
    entropy.zeroize();
    let rng = ChaCha20Rng::from_seed(seed);
    seed.zeroize();
    Ok(rng)
}

/// What a column's digest is made of: the byte behind its index.
#[derive(Clone, Copy)]
enum Content {
    I16,
    I32,
    Field,
    Committed,
}

/// Hashes values of `N` bytes each.
fn absorb<T: Copy, const N: usize>(
    state: &mut blake2b_simd::State,
    values: &[T],
    bytes: impl Fn(T) -> [u8; N],
) {
    let mut block = [0u8; 1 << 12];
    for values in values.chunks(block.len() / N) {
        let block = &mut block[..values.len() * N];
        for (to, &value) in block.chunks_exact_mut(N).zip(values) {
            to.copy_from_slice(&bytes(value));
        }
        state.update(block);
    }
    block.zeroize();
}

fn field_bytes(value: Fr) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(value.to_repr().as_ref());
    bytes
}

/// The digest of a column: of its values, or of its commitment and the tail under it.
///
/// Index and content have fixed widths and so have the values of each content: no two inputs are the same bytes.
fn digest(index: usize, column: &Column, committed: Option<&Committed>) -> blake2b_simd::Hash {
    let mut state = blake2b_simd::State::new();
    let content = match (committed, column) {
        (Some(_), _) => Content::Committed,
        (None, Column::I16(_)) => Content::I16,
        (None, Column::I32(_)) => Content::I32,
        (None, Column::Field(_)) => Content::Field,
    };
    state.update(&(index as u64).to_le_bytes()).update(&[content as u8]);
    match (committed, column) {
        (Some(one), _) => {
            state.update(one.commitment.to_bytes().as_ref());
            absorb(&mut state, &one.tail, field_bytes);
        }
        (None, Column::I16(v)) => absorb(&mut state, v, i16::to_le_bytes),
        (None, Column::I32(v)) => absorb(&mut state, v, i32::to_le_bytes),
        (None, Column::Field(v)) => absorb(&mut state, v, field_bytes),
    }
    state.finalize()
}

/// A seed that nobody knows who lacks the entropy or the witness.
///
/// Lists are preceded by their lengths, all else has a fixed width: no two inputs are the same bytes.
fn seed(
    entropy: &[u8; 64],
    context: Fr,
    instances: &[Vec<Fr>],
    columns: &[(usize, Column)],
    committed: &[Committed],
) -> [u8; 32] {
    let digests: Vec<_> = columns
        .par_iter()
        .map(|(index, column)| digest(*index, column, committed.iter().find(|one| one.column == *index)))
        .collect();
    let mut state = blake2b_simd::Params::new().hash_length(32).personal(b"lamina-blinding").to_state();
    state.update(entropy);
    state.update(context.to_repr().as_ref());
    state.update(&(instances.len() as u64).to_le_bytes());
    for instance in instances {
        state.update(&(instance.len() as u64).to_le_bytes());
        absorb(&mut state, instance, field_bytes);
    }
    state.update(&(digests.len() as u64).to_le_bytes());
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

    use halo2_proofs::halo2curves::bn256::G1Affine;

    use super::*;

    // Z7: each of the inputs alone changes the seed, so that a generator that repeats itself (a fork, a
    // resumed machine) repeats the blinding only of the very same statement and witness.
    #[test]
    fn every_input_changes_the_seed() {
        let entropy = [7u8; 64];
        let instances = vec![vec![Fr::ONE, Fr::ZERO]];
        let columns = vec![(0, Column::I16(Arc::new(vec![1, 2, 3]))), (1, Column::I32(Arc::new(vec![4])))];
        let generator = G1Affine::generator();
        let linked = |column, commitment, tail: Fr| vec![Committed { column, commitment, tail: vec![tail] }];
        let committed = linked(0, generator, Fr::ONE);
        let of = |columns: &[_], committed: &[_]| seed(&entropy, Fr::ONE, &instances, columns, committed);
        let (honest, linked_honest) = (of(&columns, &[]), of(&columns, &committed));
        assert_eq!(honest, of(&columns, &[]), "a function of its inputs");
        let mut seeds = vec![honest, linked_honest];
        for at in [0, 63] {
            let mut other = entropy;
            other[at] ^= 1;
            seeds.push(seed(&other, Fr::ONE, &instances, &columns, &[]));
        }
        seeds.push(seed(&entropy, Fr::ZERO, &instances, &columns, &[]));
        seeds.push(seed(&entropy, Fr::ONE, &[vec![Fr::ONE, Fr::ONE]], &columns, &[]));
        seeds.push(seed(&entropy, Fr::ONE, &[vec![Fr::ONE], vec![Fr::ZERO]], &columns, &[]));
        let other = |column| (0, Column::I16(Arc::new(column)));
        for changed in [
            vec![other(vec![1, 2, 4]), columns[1].clone()],
            vec![(0, Column::I32(Arc::new(vec![1, 2, 3]))), columns[1].clone()],
            vec![columns[0].clone(), (1, Column::I32(Arc::new(vec![5])))],
            vec![columns[0].clone(), (2, Column::I32(Arc::new(vec![4])))],
            vec![columns[0].clone()],
        ] {
            seeds.push(of(&changed, &[]));
        }
        // Of a committed column the commitment and its tail count; of the others the values, as ever.
        let unread = vec![other(vec![1, 2, 4]), columns[1].clone()];
        assert_eq!(of(&unread, &committed), linked_honest, "the commitment stands for the values");
        seeds.push(of(&columns, &linked(0, (generator + generator).into(), Fr::ONE)));
        seeds.push(of(&columns, &linked(0, generator, -Fr::ONE)));
        seeds.push(of(&columns, &linked(1, generator, Fr::ONE)));
        seeds.push(of(&[columns[0].clone(), (1, Column::I32(Arc::new(vec![5])))], &committed));
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
