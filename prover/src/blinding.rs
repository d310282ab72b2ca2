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
    /// Entropy hedged with the witness: the operating system's, drawn anew for every proof, or what is given.
    Hedged { entropy: Option<[u8; 64]> },
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
        Blinding { source: Source::Hedged { entropy: None } }
    }

    /// For measurements: the same with entropy that is given, so that a proof of the same witness and statement is the same. It
    /// hides nothing from who knows the entropy.
    pub fn repeatable(entropy: [u8; 64]) -> Self {
        Blinding { source: Source::Hedged { entropy: Some(entropy) } }
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
            Source::Hedged { entropy } => Ok(Stream {
                rng: Generator::Owned(Box::new(hedged(*entropy, context, instances, columns, committed)?)),
                stock: false,
                blind_limbs: true,
            }),
        }
    }
}

fn hedged(
    given: Option<[u8; 64]>,
    context: Fr,
    instances: &[Vec<Fr>],
    columns: &[(usize, Column)],
    committed: &[Committed],
) -> Result<ChaCha20Rng, ProveError> {
    let mut entropy = given.unwrap_or([0; 64]);
    if given.is_none() {
        OsRng.try_fill_bytes(&mut entropy).map_err(|_| ProveError::Entropy)?;
    }
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

fn field_bytes(value: Fr) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(value.to_repr().as_ref());
    bytes
}

/// What a column's digest is made of behind index, content and commitment.
enum Values<'a> {
    I16(&'a [i16]),
    I32(&'a [i32]),
    Field(&'a [Fr]),
}

impl Values<'_> {
    /// Writes the next bytes, as many as there are or `block` holds; how many.
    fn take(&mut self, block: &mut [u8]) -> usize {
        fn cut<T: Copy, const N: usize>(
            values: &mut &[T],
            block: &mut [u8],
            bytes: impl Fn(T) -> [u8; N],
        ) -> usize {
            let (now, later) = values.split_at(values.len().min(block.len() / N));
            for (to, &value) in block.chunks_exact_mut(N).zip(now) {
                to.copy_from_slice(&bytes(value));
            }
            *values = later;
            N * now.len()
        }
        match self {
            Values::I16(values) => cut(values, block, i16::to_le_bytes),
            Values::I32(values) => cut(values, block, i32::to_le_bytes),
            Values::Field(values) => cut(values, block, field_bytes),
        }
    }
}

/// Bytes of a column that are hashed at once, and columns: the hash's vectors have as many lanes.
const BLOCK_BYTES: usize = 1 << 12;
const LANES: usize = 4;

/// The digests of at most [`LANES`] columns: of their values, or of their commitments and the tails under them.
///
/// Index and content have fixed widths and so have the values of each content: no two inputs are the same bytes.
fn digests(columns: &[(usize, Column)], committed: &[Committed]) -> Vec<blake2b_simd::Hash> {
    let (mut states, mut values): (Vec<_>, Vec<_>) = columns
        .iter()
        .map(|(index, column)| {
            let committed = committed.iter().find(|one| one.column == *index);
            let (content, values) = match (committed, column) {
                (Some(one), _) => (Content::Committed, Values::Field(&one.tail)),
                (None, Column::I16(v)) => (Content::I16, Values::I16(v)),
                (None, Column::I32(v)) => (Content::I32, Values::I32(v)),
                (None, Column::Field(v)) => (Content::Field, Values::Field(v)),
            };
            let mut state = blake2b_simd::State::new();
            state.update(&(*index as u64).to_le_bytes()).update(&[content as u8]);
            if let Some(one) = committed {
                state.update(one.commitment.to_bytes().as_ref());
            }
            (state, values)
        })
        .unzip();
    let mut blocks = [[0u8; BLOCK_BYTES]; LANES];
    loop {
        let mut lens = [0; LANES];
        for ((values, block), len) in values.iter_mut().zip(&mut blocks).zip(&mut lens) {
            *len = values.take(block);
        }
        if lens == [0; LANES] {
            break;
        }
        let blocks = blocks.iter().zip(lens).map(|(block, len)| &block[..len]);
        blake2b_simd::many::update_many(states.iter_mut().zip(blocks));
    }
    blocks.as_flattened_mut().zeroize();
    states.iter().map(blake2b_simd::State::finalize).collect()
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
    let digests: Vec<_> =
        columns.par_chunks(LANES).flat_map_iter(|columns| digests(columns, committed)).collect();
    let mut state = blake2b_simd::Params::new().hash_length(32).personal(b"lamina-blinding").to_state();
    state.update(entropy);
    state.update(context.to_repr().as_ref());
    state.update(&(instances.len() as u64).to_le_bytes());
    for instance in instances {
        state.update(&(instance.len() as u64).to_le_bytes());
        for value in instance {
            state.update(&field_bytes(*value));
        }
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

    // Columns that are hashed together have the digests that they have alone, of what the page says that they are of.
    #[test]
    fn digests_are_of_single_columns() {
        let long: Vec<i32> = (0..3 * BLOCK_BYTES as i32).map(|at| at * at - 77).collect();
        let fields: Vec<Fr> = long[..300].iter().map(|at| Fr::from(at.unsigned_abs() as u64)).collect();
        let columns: Vec<(usize, Column)> = [
            Column::I32(Arc::new(long.clone())),
            Column::I16(Arc::new(long.iter().map(|at| *at as i16).collect())),
            Column::Field(fields.clone()),
            Column::I16(Arc::new(vec![])),
            Column::I32(Arc::new(long[..17].to_vec())),
            Column::I16(Arc::new(vec![5])),
        ]
        .into_iter()
        .enumerate()
        .collect();
        let tail = vec![Fr::from(9), -Fr::ONE];
        let committed = [Committed { column: 5, commitment: G1Affine::generator(), tail: tail.clone() }];
        let elements = |values: &[Fr]| values.iter().flat_map(|v| field_bytes(*v)).collect::<Vec<u8>>();
        for (index, column) in &columns {
            let (content, bytes) = match column {
                _ if *index == 5 => {
                    let point = G1Affine::generator().to_bytes();
                    (Content::Committed, [point.as_ref(), &elements(&tail)].concat())
                }
                Column::I16(v) => (Content::I16, v.iter().flat_map(|v| v.to_le_bytes()).collect()),
                Column::I32(v) => (Content::I32, v.iter().flat_map(|v| v.to_le_bytes()).collect()),
                Column::Field(v) => (Content::Field, elements(v)),
            };
            let all = [&(*index as u64).to_le_bytes()[..], &[content as u8], &bytes].concat();
            let expected = blake2b_simd::blake2b(&all);
            let group = columns.chunks(LANES).nth(index / LANES).map_or(&[][..], |group| group);
            assert_eq!(digests(group, &committed)[index % LANES], expected, "column {index}");
        }
    }

    // Z6.
    #[test]
    fn wiped_values_are_zero() {
        let mut values = vec![Fr::ONE, -Fr::ONE];
        wipe(&mut values);
        assert_eq!(values, [Fr::ZERO, Fr::ZERO]);
    }
}
