//! The determination rule, checked on the constraint system itself (`protocol.md` section 3, S23).
//!
//! A cell assigned after a challenge must be a function of earlier phases and the challenges. One that only a
//! lookup constrains is not: it could be solved for once `beta` is known.

use std::collections::BTreeSet;

use ff::Field;
use halo2_proofs::plonk::{Advice, Any, Column, ConstraintSystem, Expression};
use thiserror::Error;

use crate::{Fr, assign::map_rows};

/// Why a constraint system breaks the determination rule.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AuditError {
    /// A looked-up expression contains a column that is assigned after `beta` could be known.
    #[error(
        "lookup gate {gate}, relation {relation}: advice columns {columns:?} are assigned after its challenges, only the helper may be"
    )]
    LookedUpLate {
        /// Gate id.
        gate: String,
        /// Which of the gate's relations.
        relation: usize,
        /// Advice indices assigned after the challenges: the helper, and what is looked up.
        columns: Vec<usize>,
    },
    /// No gate defines a column of a later phase, and no copy constraint can.
    #[error("advice column {column} of a later phase has no defining relation")]
    Undefined {
        /// Advice index.
        column: usize,
    },
}

/// Names of the gates whose relations have the form `active * (helper * prod(beta + v) - ...)`.
const LOOKUP_GATES: [&str; 2] = ["lookup/1", "lookup/2"];

/// Advice columns `(index, phase)` of an expression, and the phases of its challenges.
#[derive(Clone, Default)]
struct Used {
    advice: BTreeSet<(usize, u8)>,
    challenges: BTreeSet<u8>,
}

fn used(e: &Expression<Fr>) -> Used {
    let both = |mut a: Used, b: Used| {
        a.advice.extend(b.advice);
        a.challenges.extend(b.challenges);
        a
    };
    e.evaluate(
        &|_| Used::default(),
        &|_| Used::default(),
        &|_| Used::default(),
        &|q| Used { advice: BTreeSet::from([(q.column_index(), q.phase())]), ..Used::default() },
        &|_| Used::default(),
        &|c| Used { challenges: BTreeSet::from([c.phase()]), ..Used::default() },
        &|a| a,
        &both,
        &both,
        &|a, _| a,
    )
}

/// Checks the determination rule.
///
/// In every lookup relation exactly one column may be assigned after the relation's challenges, the helper that
/// the relation defines. Every column of a later phase must appear in a relation outside the lookups or be such
/// a helper, or be under the permutation.
///
/// # Soundness
/// This refuses the circuits in which a looked-up cell is free until `beta` is known. That each remaining
/// relation defines its cell with a constant coefficient is by construction of [`crate::block`],
/// [`crate::embedding`] and [`crate::head`]: every accumulator gate has the form `active * cell - expression`.
/// The one exception, the row combinations of the embedding, is argued there.
///
/// # Errors
/// The first offending gate or column.
pub fn determination(cs: &ConstraintSystem<Fr>) -> Result<(), AuditError> {
    let mut defined = BTreeSet::new();
    for gate in cs.gates() {
        let lookup = LOOKUP_GATES.contains(&gate.name());
        for (relation, poly) in gate.polynomials().iter().enumerate() {
            let Used { advice, challenges } = used(poly);
            // Challenges of phase `p` are drawn when the columns of phase `p` are committed to.
            let drawn = challenges.first().copied().unwrap_or(0);
            let late: Vec<usize> = advice.iter().filter(|c| c.1 > drawn).map(|c| c.0).collect();
            if lookup && late.len() > 1 {
                let gate = gate.name().to_string();
                return Err(AuditError::LookedUpLate { gate, relation, columns: late });
            }
            defined.extend(advice.iter().filter(|c| c.1 > 0).map(|c| c.0));
        }
    }
    let permuted: BTreeSet<usize> = cs
        .permutation()
        .get_columns()
        .into_iter()
        .filter(|c: &Column<Any>| matches!(c.column_type(), Any::Advice(Advice { .. })))
        .map(|c| c.index())
        .collect();
    for (column, phase) in cs.advice_column_phase().into_iter().enumerate() {
        if phase > 0 && !defined.contains(&column) && !permuted.contains(&column) {
            return Err(AuditError::Undefined { column });
        }
    }
    Ok(())
}

/// A copy constraint between two cells, each `(advice index, row)`.
pub type Copy = ((usize, usize), (usize, usize));

/// Checks explicit columns against the gates and `copies` of a circuit, without halo2's mock prover.
///
/// Returns the ids of the violated constraints, sorted; `copy` stands for a copy constraint. Every gate is
/// evaluated on the rows below `usable`.
pub fn violations(
    cs: &ConstraintSystem<Fr>,
    fixed: &[Vec<Fr>],
    advice: &[Vec<Fr>],
    challenges: &[Fr],
    usable: usize,
    copies: &[Copy],
) -> Vec<&'static str> {
    let n = advice.first().map_or(0, Vec::len);
    let at = |row: usize, rotation: i32| (row as i64 + i64::from(rotation)).rem_euclid(n as i64) as usize;
    let mut bad = BTreeSet::new();
    for gate in cs.gates() {
        for poly in gate.polynomials() {
            let wrong = map_rows(usable, |row| {
                poly.evaluate(
                    &|c| c,
                    &|_| Fr::ZERO,
                    &|q| fixed[q.column_index()][at(row, q.rotation().0)],
                    &|q| advice[q.column_index()][at(row, q.rotation().0)],
                    &|_| Fr::ZERO,
                    &|c| challenges[c.index()],
                    &|a| -a,
                    &|a, b| a + b,
                    &|a, b| a * b,
                    &|a, s| a * s,
                ) != Fr::ZERO
            });
            if wrong.contains(&true) {
                bad.insert(crate::ids::intern(gate.name()));
            }
        }
    }
    if copies.iter().any(|&((p, i), (q, j))| advice[p][i] != advice[q][j]) {
        bad.insert("copy");
    }
    bad.into_iter().collect()
}
