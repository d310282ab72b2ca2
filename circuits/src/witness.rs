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
