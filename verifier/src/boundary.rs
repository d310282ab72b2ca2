//! Activations at the border of a slice: hidden behind commitments, or open as integers.

use std::fmt;

use ff::{Field, PrimeField};
use group::Curve;

use crate::{
    Fr, G1Affine, encoding,
    hash::{Digest, Hasher},
    msm::multiply,
    srs::{SrsError, VerifierSrs},
};

/// Whether the verifier sees the activations of a boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoundaryKind {
    /// Behind commitments with blinding rows: the provers on both sides know the values.
    Hidden,
    /// Public integers; the verifier computes the commitments, whose blinding rows are zero.
    Open,
}

impl fmt::Display for BoundaryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hidden => "hidden",
            Self::Open => "open",
        })
    }
}

impl BoundaryKind {
    pub(crate) fn tag(self) -> u8 {
        match self {
            Self::Hidden => 0,
            Self::Open => 1,
        }
    }

    pub(crate) fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            0 => Some(Self::Hidden),
            1 => Some(Self::Open),
            _ => None,
        }
    }
}

/// What a header says about a boundary: its kind and one commitment a column.
#[derive(Clone, Debug, PartialEq)]
pub struct BoundaryReference {
    /// Hidden or open.
    pub kind: BoundaryKind,
    /// One commitment a boundary column, in advice-index order.
    ///
    /// # Soundness
    /// Of an open boundary these count only after the verifier has computed them itself.
    pub columns: Vec<G1Affine>,
}

impl BoundaryReference {
    /// A boundary without columns: a circuit that has no boundary on that side.
    pub fn none() -> Self {
        Self { kind: BoundaryKind::Hidden, columns: Vec::new() }
    }

    pub(crate) fn absorb(&self, hasher: &mut Hasher) {
        hasher.u64(u64::from(self.kind.tag())).count(self.columns.len());
        for column in &self.columns {
            hasher.point(column);
        }
    }

    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.push(self.kind.tag());
        bytes.extend(self.columns.iter().flat_map(encoding::g1_bytes));
    }
}

/// The integers of an open boundary.
///
/// # Shapes
/// One vector a column, in advice-index order; rows that are not given are zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenBoundary {
    /// The columns.
    pub columns: Vec<Vec<i32>>,
}

/// From so many columns on, one sum of full scalars is cheaper than a sum of short ones for each.
const BATCH: usize = 8;

impl OpenBoundary {
    /// Computes the commitments that a proof over these integers must carry.
    ///
    /// # Errors
    /// [`SrsError::NoLagrangeBasis`]; a column that is longer than `usable_rows`.
    pub fn reference(&self, srs: &VerifierSrs, usable_rows: usize) -> Result<BoundaryReference, SrsError> {
        self.check_rows(usable_rows)?;
        let columns = self.columns.iter().map(|column| srs.commit_open(column)).collect::<Result<_, _>>()?;
        Ok(BoundaryReference { kind: BoundaryKind::Open, columns })
    }

    fn check_rows(&self, usable_rows: usize) -> Result<(), SrsError> {
        match self.columns.iter().map(Vec::len).find(|&rows| rows > usable_rows) {
            Some(actual) => Err(SrsError::TooManyRows { limit: usable_rows, actual }),
            None => Ok(()),
        }
    }

    /// Whether these are the commitments of [`Self::reference`].
    ///
    /// Of many columns their combination is compared, with factors of 128 bits:
    ///
    /// ```text
    /// r_l = H("open-boundary", columns, commitments, l),   sum_i (sum_l r_l v_l[i]) [L_i(tau)] = sum_l r_l C_l
    /// ```
    ///
    /// # Soundness
    /// The factors depend on all values and commitments; one wrong commitment passes for one in `2^128` of them.
    ///
    /// # Errors
    /// As [`Self::reference`].
    #[expect(clippy::arithmetic_side_effects, reason = "field arithmetic is total")]
    pub fn is_behind(
        &self,
        srs: &VerifierSrs,
        usable_rows: usize,
        commitments: &[G1Affine],
    ) -> Result<bool, SrsError> {
        if self.columns.len() != commitments.len() || self.columns.len() < BATCH {
            return Ok(self.reference(srs, usable_rows)?.columns == commitments);
        }
        self.check_rows(usable_rows)?;
        let factors = self.factors(commitments);
        let rows = self.columns.iter().map(Vec::len).max().unwrap_or(0);
        let mut sums = vec![Fr::ZERO; rows];
        for (column, factor) in self.columns.iter().zip(&factors) {
            for (sum, value) in sums.iter_mut().zip(column).filter(|(_, value)| **value != 0) {
                let term = *factor * Fr::from(u64::from(value.unsigned_abs()));
                if *value < 0 { *sum -= term } else { *sum += term }
            }
        }
        let claimed: Vec<_> = factors.into_iter().zip(commitments.iter().copied()).collect();
        Ok(srs.commit(&sums)? == multiply(&claimed).to_affine())
    }

    fn factors(&self, commitments: &[G1Affine]) -> Vec<Fr> {
        let mut hasher = Hasher::new("open-boundary");
        hasher.count(self.columns.len());
        for (column, commitment) in self.columns.iter().zip(commitments) {
            let bytes: Vec<u8> = column.iter().flat_map(|value| value.to_le_bytes()).collect();
            hasher.bytes(&bytes).point(commitment);
        }
        let factor = |column| {
            let Digest(digest) = hasher.clone().count(column).digest();
            let [half, ..] = digest.as_chunks().0 else { return Fr::ZERO };
            Fr::from_u128(u128::from_le_bytes(*half))
        };
        (0..self.columns.len()).map(factor).collect()
    }

    /// Computes the commitments of these integers under blinding values: those of a hidden boundary that the caller
    /// holds the opening of.
    ///
    /// # Shapes
    /// `tails`: one vector a column, one value a blinding row.
    ///
    /// # Errors
    /// As [`Self::reference`]; [`SrsError::Length`] when the tails are not one a column.
    #[expect(clippy::arithmetic_side_effects, reason = "field and group arithmetic is total")]
    pub fn blinded(&self, srs: &VerifierSrs, tails: &[Vec<Fr>]) -> Result<Vec<G1Affine>, SrsError> {
        if tails.len() != self.columns.len() {
            return Err(SrsError::Length { expected: self.columns.len(), actual: tails.len() });
        }
        let commit = |(column, tail): (&Vec<i32>, &Vec<Fr>)| {
            let basis = srs.tail(tail.len());
            let basis = basis.ok_or(SrsError::Length { expected: column.len(), actual: tail.len() })?;
            let terms: Vec<_> = tail.iter().copied().zip(basis.iter().copied()).collect();
            Ok((multiply(&terms) + srs.commit_open(column)?).to_affine())
        };
        self.columns.iter().zip(tails).map(commit).collect()
    }
}
