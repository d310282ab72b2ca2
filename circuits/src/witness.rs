//! The seam between circuits and provers: columns of integers, never cell-by-cell assignment.

use std::sync::Arc;

use crate::Fr;

/// The usable rows of one advice column, as narrow as its values allow.
///
/// # Shapes
/// At most `u` entries (the usable rows); rows that are not given are zero. The rows from `u` on are the
/// prover's: it fills them with blinding values.
#[derive(Clone, Debug)]
pub enum Column {
    /// Signed 16-bit integers (weights).
    I16(Arc<Vec<i16>>),
    /// Signed 32-bit integers (cells, boundaries, multiplicities).
    I32(Arc<Vec<i32>>),
    /// Field elements (combinations, accumulators, helpers).
    Field(Vec<Fr>),
}

/// A circuit's assignment, produced column by column.
///
/// The prover asks for phase 0, commits, draws the challenges, then asks for phase 1.
pub trait Witness: Sync {
    /// The columns of `phase`, as `(advice index, column)`, in ascending index, each index once.
    ///
    /// # Transcript
    /// `challenges` holds the challenges that are known before `phase`, by challenge index.
    fn columns(&self, phase: u8, challenges: &[Fr]) -> Vec<(usize, Column)>;
}
