//! Commitments that outlive a proof: published weights and hidden boundaries, with their secret tails.
//!
//! `protocol.md` section 7: `C = [w(τ)]`, the column's integers on the usable rows and fixed secret random
//! values on the blinding rows. The tails of weights are part of the prover's package, those of a boundary
//! go to the next prover with the activations; neither is ever part of a card.

use std::{fs, path::Path};

use ff::{Field, FromUniformBytes, PrimeField};
use group::Curve;
use halo2_proofs::halo2curves::bn256::{G1, G1Affine};
use lamina_circuits::{Fr, witness::Column};
use lamina_verifier::{
    boundary::{BoundaryKind, BoundaryReference},
    encoding,
    hash::{Digest, Hasher},
};
use rand_core::{OsRng, RngCore};
use zeroize::Zeroize;

use crate::{
    backend::{Kernels, Scalars, multiply},
    blinding::wipe,
    prove::Committed,
    srs::{Srs, write_atomically},
};

const MAGIC: &[u8; 8] = b"LAMINATL";
const VERSION: u16 = 1;
const FIXED_BYTES: usize = 8 + 2 + 4 + 4 + 32;

/// Why columns were not committed to, or tails not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The operating system gave no entropy.
    #[error("no entropy from the operating system")]
    Entropy,
    /// More usable rows than the reference string has rows, or none left to blind.
    #[error("{usable_rows} usable rows do not fit 2^{log_n} rows")]
    UsableRows {
        /// Given.
        usable_rows: usize,
        /// Of the reference string.
        log_n: u32,
    },
    /// A column has more values than usable rows.
    #[error("column {column} has {actual} values for {usable_rows} usable rows")]
    TooManyRows {
        /// Which column.
        column: usize,
        /// Usable rows.
        usable_rows: usize,
        /// Values.
        actual: usize,
    },
    /// Not a file of tails of this version, or not intact.
    #[error("not an intact file of secret tails: {reason}")]
    Tails {
        /// What is wrong.
        reason: &'static str,
    },
    /// Reading or writing failed.
    #[error("file of secret tails")]
    Io(#[from] std::io::Error),
}

/// Commitments and the blinding values under them.
///
/// The values are wiped when this is dropped; `Debug` shows none of them.
#[derive(Clone, PartialEq)]
pub struct BlindedColumns {
    commitments: Vec<G1Affine>,
    tails: Vec<Vec<Fr>>,
}

impl std::fmt::Debug for BlindedColumns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlindedColumns").field("commitments", &self.commitments.len()).finish_non_exhaustive()
    }
}

impl Drop for BlindedColumns {
    fn drop(&mut self) {
        self.tails.iter_mut().for_each(|tail| wipe(tail));
    }
}

/// Commits to integer columns with fresh secret tails.
///
/// ```text
/// C = Σ_{i<u} w_i [L_i] + Σ_{i≥u} t_i [L_i],      t = H(os entropy, w, column, i)
/// ```
///
/// The same call serves weights, published once, and the activations of a hidden boundary.
///
/// # Errors
/// See [`PublishError`].
pub fn commit_blinded(
    srs: &Srs,
    usable_rows: usize,
    columns: &[Column],
) -> Result<BlindedColumns, PublishError> {
    let n = srs.rows();
    let blinding_rows = n
        .checked_sub(usable_rows)
        .filter(|rows| *rows > 0)
        .ok_or(PublishError::UsableRows { usable_rows, log_n: srs.log_n() })?;
    let mut entropy = [0u8; 64];
    OsRng.try_fill_bytes(&mut entropy).map_err(|_| PublishError::Entropy)?;
    let mut tails = Vec::with_capacity(columns.len());
    for (index, column) in columns.iter().enumerate() {
        let length = column_len(column);
        if length > usable_rows {
            return Err(PublishError::TooManyRows { column: index, usable_rows, actual: length });
        }
        tails.push(draw_tail(&entropy, index, column, blinding_rows));
    }
    // Integers at the price of their width, all columns over one basis; then the tails.
    let (low, high) = srs.lagrange().split_at(usable_rows);
    let columns: Vec<_> = columns.iter().map(scalars).collect();
    let blinding: Vec<_> = tails.iter().map(|tail| Scalars::Field(tail, &[])).collect();
    let sums: Vec<_> = multiply(low, &columns, Kernels::Detected)
        .into_iter()
        .zip(multiply(high, &blinding, Kernels::Detected))
        .map(|(w, tail)| w + tail)
        .collect();
    let mut commitments = vec![G1Affine::default(); sums.len()];
    G1::batch_normalize(&sums, &mut commitments);
    entropy.zeroize();
    Ok(BlindedColumns { commitments, tails })
}

fn column_len(column: &Column) -> usize {
    match column {
        Column::I16(values) => values.len(),
        Column::I32(values) => values.len(),
        Column::Field(values) => values.len(),
    }
}

fn scalars(column: &Column) -> Scalars<'_> {
    match column {
        Column::I16(values) => Scalars::I16(values),
        Column::I32(values) => Scalars::I32(values),
        Column::Field(values) => Scalars::Field(values, &[]),
    }
}

fn draw_tail(entropy: &[u8; 64], index: usize, column: &Column, rows: usize) -> Vec<Fr> {
    let mut state = blake2b_simd::Params::new().hash_length(64).personal(b"lamina-tail").to_state();
    state.update(entropy).update(&(index as u64).to_le_bytes());
    match column {
        Column::I16(values) => values.iter().for_each(|value| {
            state.update(&value.to_le_bytes());
        }),
        Column::I32(values) => values.iter().for_each(|value| {
            state.update(&value.to_le_bytes());
        }),
        Column::Field(values) => values.iter().for_each(|value| {
            state.update(value.to_repr().as_ref());
        }),
    }
    (0..rows as u64)
        .map(|row| {
            let wide = state.clone().update(&row.to_le_bytes()).finalize();
            Fr::from_uniform_bytes(wide.as_array())
        })
        .collect()
}

impl BlindedColumns {
    /// The commitments: public.
    pub fn commitments(&self) -> &[G1Affine] {
        &self.commitments
    }

    /// The blinding values, one vector a column: secret.
    pub fn tails(&self) -> &[Vec<Fr>] {
        &self.tails
    }

    /// The first `columns` of them.
    ///
    /// A tied head links the commitments of the embedding's matrix.
    pub fn first(&self, columns: usize) -> Self {
        let most = columns.min(self.commitments.len());
        Self { commitments: self.commitments[..most].to_vec(), tails: self.tails[..most].to_vec() }
    }

    /// The commitments as a hidden boundary.
    pub fn boundary(&self) -> BoundaryReference {
        BoundaryReference { kind: BoundaryKind::Hidden, columns: self.commitments.clone() }
    }

    /// The columns as the prover takes them, `first` being the advice index of the first.
    pub fn committed(&self, first: usize) -> Vec<Committed> {
        self.commitments
            .iter()
            .zip(&self.tails)
            .enumerate()
            .map(|(index, (commitment, tail))| Committed {
                column: first + index,
                commitment: *commitment,
                tail: tail.clone(),
            })
            .collect()
    }

    /// Writes the file of secret tails: mode 0600, temporary name, sync, rename.
    ///
    /// ```text
    /// "LAMINATL" | version u16 | columns u32 | rows u32 | digest of the rest 32
    /// | commitments | tails, column by column
    /// ```
    ///
    /// # Errors
    /// [`PublishError::Io`].
    pub fn save(&self, path: &Path) -> Result<(), PublishError> {
        let rows = self.tails.first().map_or(0, Vec::len);
        let mut body: Vec<u8> = self.commitments.iter().flat_map(encoding::g1_bytes).collect();
        for value in self.tails.iter().flatten() {
            body.extend(value.to_bytes());
        }
        let mut bytes = Vec::with_capacity(FIXED_BYTES + body.len());
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((self.commitments.len() as u32).to_le_bytes());
        bytes.extend((rows as u32).to_le_bytes());
        bytes.extend(body_digest(&body).0);
        bytes.extend(&body);
        body.zeroize();
        let written = write_atomically(path, &bytes);
        bytes.zeroize();
        Ok(written?)
    }

    /// Reads a file of secret tails.
    ///
    /// # Errors
    /// [`PublishError::Tails`] names what is wrong with the file.
    pub fn load(path: &Path) -> Result<Self, PublishError> {
        let mut bytes = fs::read(path)?;
        let read = Self::parse(&bytes);
        bytes.zeroize();
        read
    }

    fn parse(bytes: &[u8]) -> Result<Self, PublishError> {
        let wrong = |reason| PublishError::Tails { reason };
        let (fixed, body) = bytes.split_at_checked(FIXED_BYTES).ok_or(wrong("too short"))?;
        if &fixed[..8] != MAGIC || fixed[8..10] != VERSION.to_le_bytes() {
            return Err(wrong("another format"));
        }
        let count = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&fixed[at..at + 4]);
            u32::from_le_bytes(word) as usize
        };
        let (columns, rows) = (count(10), count(14));
        let expected = rows.checked_add(1).and_then(|each| each.checked_mul(columns)?.checked_mul(32));
        if expected != Some(body.len()) {
            return Err(wrong("length"));
        }
        if body_digest(body).0 != fixed[18..] {
            return Err(wrong("digest"));
        }
        let (elements, _) = body.as_chunks::<32>();
        let (points, scalars) = elements.split_at(columns);
        let commitments = points
            .iter()
            .map(|point| encoding::g1(point).map_err(|_| wrong("commitment")))
            .collect::<Result<_, _>>()?;
        let tails = (0..columns)
            .map(|column| {
                scalars[column * rows..(column + 1) * rows]
                    .iter()
                    .map(|value| encoding::scalar(value).ok_or(wrong("scalar")))
                    .collect()
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { commitments, tails })
    }
}

fn body_digest(body: &[u8]) -> Digest {
    Hasher::new("tails").bytes(body).digest()
}

/// The differences that a link proof needs: fresh minus published blinding values.
///
/// For provers that choose their own blinding rows; [`crate::prove::Proved`] brings its deltas along.
pub fn deltas(published: &[Vec<Fr>], fresh: &[Vec<Fr>]) -> Vec<Vec<Fr>> {
    let difference =
        |(old, new): (&Vec<Fr>, &Vec<Fr>)| new.iter().zip(old).map(|(new, old)| *new - old).collect();
    published.iter().zip(fresh).map(difference).collect()
}

/// A tail of zeros: that of an open boundary's column, whose commitment the verifier computes.
pub fn open_tail(rows: usize) -> Vec<Fr> {
    vec![Fr::ZERO; rows]
}
