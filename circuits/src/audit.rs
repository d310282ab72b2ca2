//! The determination rule, checked on the constraint system itself (`protocol.md` section 3, S23).
//!
//! All challenges are drawn after phase 0, so a phase-1 cell must be a function of phase 0 and the challenges.
//! A cell that only a lookup constrains is not: it could be solved for once `beta` is known.

use std::collections::BTreeSet;

use halo2_proofs::plonk::{Advice, Any, Column, ConstraintSystem, Expression};
use thiserror::Error;

use crate::Fr;

/// Why a constraint system breaks the determination rule.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AuditError {
    /// A looked-up expression contains a column that is assigned after `beta` could be known.
    #[error(
        "lookup gate {gate}, relation {relation}: contains advice columns {columns:?} of phase 1, only the helper may be"
    )]
    LookedUpPhaseOne {
        /// Gate id.
        gate: String,
        /// Which of the gate's relations.
        relation: usize,
        /// Advice indices of phase 1 in the relation: the helper, and what is looked up.
        columns: Vec<usize>,
    },
    /// No gate defines a phase-1 column, and no copy constraint can.
    #[error("advice column {column} of phase 1 has no defining relation")]
    Undefined {
        /// Advice index.
        column: usize,
    },
}

/// Names of the gates whose relations have the form `active * (helper * prod(beta + v) - ...)`.
const LOOKUP_GATES: [&str; 2] = ["lookup/1", "lookup/2"];

fn advice_columns(e: &Expression<Fr>, out: &mut BTreeSet<(usize, u8)>) {
    let found = e.evaluate(
        &|_| BTreeSet::new(),
        &|_| BTreeSet::new(),
        &|_| BTreeSet::new(),
        &|q| BTreeSet::from([(q.column_index(), q.phase())]),
        &|_| BTreeSet::new(),
        &|_| BTreeSet::new(),
        &|a| a,
        &|mut a: BTreeSet<(usize, u8)>, b| {
            a.extend(b);
            a
        },
        &|mut a, b| {
            a.extend(b);
            a
        },
        &|a, _| a,
    );
    out.extend(found);
}

/// Checks the determination rule.
///
/// In every lookup relation exactly one phase-1 column may appear, the helper that the relation defines.
/// Every phase-1 column must appear in a relation outside the lookups or be such a helper, or be under the
/// permutation.
///
/// # Soundness
/// This refuses the circuits in which a looked-up cell is free until `beta` is known. That each remaining
/// relation defines its cell with a constant coefficient is by construction of [`crate::block`]: every
/// accumulator gate has the form `active * cell - expression`.
///
/// # Errors
/// The first offending gate or column.
pub fn determination(cs: &ConstraintSystem<Fr>) -> Result<(), AuditError> {
    let mut defined = BTreeSet::new();
    for gate in cs.gates() {
        let lookup = LOOKUP_GATES.contains(&gate.name());
        for (relation, poly) in gate.polynomials().iter().enumerate() {
            let mut columns = BTreeSet::new();
            advice_columns(poly, &mut columns);
            let phase1: Vec<usize> = columns.iter().filter(|c| c.1 > 0).map(|c| c.0).collect();
            if lookup && phase1.len() > 1 {
                let gate = gate.name().to_string();
                return Err(AuditError::LookedUpPhaseOne { gate, relation, columns: phase1 });
            }
            defined.extend(phase1);
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
