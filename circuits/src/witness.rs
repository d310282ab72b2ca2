//! The seam between circuits and provers: columns of integers, never cell-by-cell assignment.

use std::sync::Arc;

use halo2_proofs::{
    circuit::{Region, Value},
    plonk::{Advice, Challenge, Column as PlonkColumn},
};

use crate::{Fr, logup::signed};

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

    /// How the columns of a later phase follow from those that are there, by the circuit's own gates: for provers whose
    /// columns are where this witness cannot compute. The same columns as [`Witness::columns`] gives.
    ///
    /// `None`, the default, where only [`Witness::columns`] says what they are.
    fn steps(&self, _phase: u8) -> Option<Vec<Step>> {
        None
    }
}

/// A step of the computation of a later phase's columns, all of which begin as zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Cells that gates determine. What one of these columns is does not depend on another one of the same step.
    Solve(Vec<Solve>),
    /// Cells that equal others.
    Copy(Copies),
}

/// The cells of a column that a gate determines: the gate's polynomial is affine in the column,
///
/// ```text
/// a[r] x[r + rotation] + sum_j b_j[r] x[r + rotation_j] + c[r] = 0
/// ```
///
/// and determines `x[r + rotation]` on the rows where `a[r]` is not zero. Other cells stay what they are.
///
/// # Shapes
/// On each row at most one `b_j` is not zero, and no cell depends on itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Solve {
    /// The advice index of `x`.
    pub column: usize,
    /// Where the cell stands that is determined, relative to the gate's row.
    pub rotation: i32,
    /// The gate's name.
    pub gate: &'static str,
    /// Which of the polynomials of the gates of that name, in the order of the constraint system.
    pub polynomial: usize,
}

/// Cells of one column that equal cells of others, as copy constraints demand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copies {
    /// The advice index of the column that is written.
    pub column: usize,
    /// Each cell: the advice index and the row that it is copied from, and the row that it is copied to; each of those once.
    pub cells: Vec<(usize, u32, u32)>,
}

impl Step {
    /// The advice columns that the step writes.
    pub fn columns(&self) -> impl Iterator<Item = usize> + '_ {
        let (solved, copied) = match self {
            Step::Solve(list) => (list.as_slice(), None),
            Step::Copy(copies) => (&[][..], Some(copies.column)),
        };
        solved.iter().map(|one| one.column).chain(copied)
    }
}

/// Assigns a witness cell by cell, phase by phase, as far as halo2 has drawn the challenges: the oracle's path, never the
/// prover's. `drawn[p]` are the challenges after phase `p`.
pub(crate) fn assign_witness(
    region: &mut Region<'_, Fr>,
    advice: &[PlonkColumn<Advice>],
    witness: Option<&dyn Witness>,
    drawn: &[&[Challenge]],
) {
    let (mut known, mut wanted) = (vec![], 0);
    for phase in 0..=drawn.len() {
        if let Some(challenges) = phase.checked_sub(1).map(|before| drawn[before]) {
            region.next_phase();
            wanted += challenges.len();
            for &challenge in challenges {
                region.get_challenge(challenge).map(|v| known.push(v));
            }
        }
        if let (Some(witness), true) = (witness, known.len() == wanted) {
            assign_columns(region, advice, witness.columns(phase as u8, &known));
        }
    }
}

fn assign_columns(region: &mut Region<'_, Fr>, advice: &[PlonkColumn<Advice>], values: Vec<(usize, Column)>) {
    for (index, values) in values {
        let Some(&column) = advice.iter().find(|c| c.index() == index) else { continue };
        let mut put = |row: usize, v: Fr| {
            region.assign_advice(column, row, Value::known(v));
        };
        match values {
            Column::I16(v) => v.iter().enumerate().for_each(|(row, &v)| put(row, signed(v.into()))),
            Column::I32(v) => v.iter().enumerate().for_each(|(row, &v)| put(row, signed(v))),
            Column::Field(v) => v.into_iter().enumerate().for_each(|(row, v)| put(row, v)),
        }
    }
}
