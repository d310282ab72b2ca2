//! Activations at the border of a slice: hidden behind commitments, or open as integers.

use std::fmt;

use group::Curve;

use crate::{
    Fr, G1Affine, encoding,
    hash::Hasher,
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

impl OpenBoundary {
    /// Computes the commitments that a proof over these integers must carry.
    ///
    /// # Errors
    /// [`SrsError::NoLagrangeBasis`]; a column that is longer than `usable_rows`.
    pub fn reference(&self, srs: &VerifierSrs, usable_rows: usize) -> Result<BoundaryReference, SrsError> {
        let columns = self
            .columns
            .iter()
            .map(|column| {
                if column.len() > usable_rows {
                    return Err(SrsError::TooManyRows { limit: usable_rows, actual: column.len() });
                }
                srs.commit_open(column)
            })
            .collect::<Result<_, _>>()?;
        Ok(BoundaryReference { kind: BoundaryKind::Open, columns })
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
