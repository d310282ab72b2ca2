//! The publication circuit: every entry of the weight columns is a signed integer of the claimed width.
//!
//! Proved once per slice and linked to the published commitments (`protocol.md` section 7); it is what makes a
//! commitment a commitment to *integers* (security.md S29).

use std::sync::Arc;

use ff::Field;
use halo2_proofs::{
    circuit::{Layouter, SimpleFloorPlanner},
    plonk::{Advice, Challenge, Circuit, Column, ConstraintSystem, Error, FirstPhase, Instance},
    poly::Rotation,
};
use serde::{Deserialize, Serialize};
use thiserror::Error as ThisError;

use crate::{
    Fr,
    assign::map_rows,
    block::DEGREE,
    boundary::active_rows,
    logup::{ARITY, LogUp, close, inverses, signed, tuple},
    rows::int,
    slice::{LinkedColumns, MAX_COLUMNS, RefusedParams, SliceCircuit},
    witness::{self, Witness, assign_witness},
};

/// Public parameters of a publication proof.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangeParams {
    /// Weight columns.
    pub columns: usize,
    /// Width of an entry: values in `[-2^(bits-1), 2^(bits-1))`.
    pub bits: u32,
    /// Log of the number of rows.
    pub k: u32,
}

/// Why parameters are unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum RangeParamsError {
    /// A parameter is outside what the circuit supports.
    #[error("range circuit with {columns} columns of {bits} bits on 2^{k} rows is not supported")]
    Unsupported {
        /// Columns asked for.
        columns: usize,
        /// Width asked for.
        bits: u32,
        /// Log of the rows asked for.
        k: u32,
    },
}

impl RangeParams {
    /// Checks that the circuit exists.
    ///
    /// # Errors
    /// Zero columns, a width outside 2 to 16, `k` outside 4 to 24, or more than [`MAX_COLUMNS`] columns.
    pub fn check(&self) -> Result<(), RangeParamsError> {
        let &RangeParams { columns, bits, k } = self;
        let sound = columns > 0 && (2..=16).contains(&bits) && (4..=24).contains(&k);
        // A width that is sound has a number of tables.
        if !sound || columns.saturating_add(self.tables()) > MAX_COLUMNS {
            return Err(RangeParamsError::Unsupported { columns, bits, k });
        }
        Ok(())
    }

    /// Rows whose entries are checked: all that a block can use.
    pub fn active(&self) -> usize {
        active_rows(self.k)
    }

    fn tables(&self) -> usize {
        (1usize << self.bits).div_ceil(self.active())
    }

    fn entries(&self) -> impl Iterator<Item = (i32, i32, u32)> {
        let half = 1i32 << (self.bits - 1);
        (-half..half).map(|v| (v, 0, 1))
    }
}

/// Columns of the publication circuit.
#[derive(Clone, Debug)]
pub struct RangeColumns {
    weights: Vec<Column<Advice>>,
    logup: LogUp,
    challenges: [Challenge; 2],
    /// The statement's digest.
    pub instance: Column<Instance>,
}

/// The publication circuit.
#[derive(Clone, Debug)]
pub struct RangeCircuit {
    /// Public parameters.
    pub params: RangeParams,
    /// The weight columns.
    pub witness: Option<Arc<RangeWitness>>,
}

/// Weight columns with their multiplicities.
#[derive(Clone, Debug)]
pub struct RangeWitness {
    params: RangeParams,
    weights: Arc<Vec<Arc<Vec<i16>>>>,
    multiplicities: Vec<Arc<Vec<i32>>>,
}

impl RangeWitness {
    /// Counts the entries of `weights`: `params.columns` columns of `params.active()` rows.
    ///
    /// Entries out of range are not counted, so that a proof over them fails to verify.
    pub fn new(params: &RangeParams, weights: Arc<Vec<Arc<Vec<i16>>>>) -> RangeWitness {
        let half = 1i32 << (params.bits - 1);
        let active = params.active();
        let mut counts = vec![0i32; params.tables() * active];
        for column in weights.iter() {
            for row in 0..active {
                let v = i32::from(column.get(row).copied().unwrap_or(0)) + half;
                if (0..2 * half).contains(&v) {
                    counts[v as usize] += 1;
                }
            }
        }
        let multiplicities = counts.chunks(active).map(|c| Arc::new(c.to_vec())).collect();
        RangeWitness { params: params.clone(), weights, multiplicities }
    }
}

impl Witness for RangeWitness {
    fn columns(&self, phase: u8, challenges: &[Fr]) -> Vec<(usize, witness::Column)> {
        if phase == 0 {
            let weights = self.weights.iter().cloned().map(witness::Column::I16);
            let counts = self.multiplicities.iter().cloned().map(witness::Column::I32);
            return weights.chain(counts).enumerate().collect();
        }
        let (theta, beta) = (challenges[0], challenges[1]);
        let params = &self.params;
        let (active, half) = (params.active(), 1i32 << (params.bits - 1));
        let table = inverses(params.entries(), theta, beta);
        let inverse = |v: i16| {
            let at = i32::from(v) + half;
            table.get(at as usize).copied().unwrap_or_else(|| {
                let d = tuple(signed(v.into()), None, Fr::ONE, &theta) + beta;
                Option::from(d.invert()).unwrap_or(Fr::ZERO)
            })
        };
        let helpers = self.weights.chunks(ARITY).map(|part| {
            map_rows(active, |row| part.iter().map(|c| inverse(c.get(row).copied().unwrap_or(0))).sum())
        });
        let columns = close(helpers.collect(), &self.multiplicities, &table, active);
        let first = self.weights.len() + self.multiplicities.len();
        columns.into_iter().enumerate().map(|(i, c)| (first + i, witness::Column::Field(c))).collect()
    }
}

impl Circuit<Fr> for RangeCircuit {
    type Config = RangeColumns;
    type FloorPlanner = SimpleFloorPlanner;
    type Params = RangeParams;

    fn params(&self) -> RangeParams {
        self.params.clone()
    }

    fn without_witnesses(&self) -> Self {
        RangeCircuit { params: self.params.clone(), witness: None }
    }

    fn configure_with_params(meta: &mut ConstraintSystem<Fr>, params: RangeParams) -> RangeColumns {
        let weights: Vec<_> = (0..params.columns).map(|_| meta.advice_column_in(FirstPhase)).collect();
        let counts = LogUp::multiplicities(meta, params.tables());
        let active = meta.fixed_column();
        let logup = LogUp::new(meta, counts, params.columns, active);
        let challenges = [(); 2].map(|()| meta.challenge_usable_after(FirstPhase));
        let columns = RangeColumns { weights, logup, challenges, instance: meta.instance_column() };
        columns.logup.gates(meta, challenges[0], challenges[1], |meta| {
            let theta = meta.query_challenge(challenges[0]);
            let query = |&w| tuple(meta.query_advice(w, Rotation::cur()), None, int(1), &theta);
            columns.weights.iter().map(query).collect()
        });
        meta.set_minimum_degree(DEGREE);
        columns
    }

    fn configure(_: &mut ConstraintSystem<Fr>) -> RangeColumns {
        unreachable!("halo2 calls configure_with_params when circuits have parameters")
    }

    fn synthesize(&self, columns: RangeColumns, mut layouter: impl Layouter<Fr>) -> Result<(), Error> {
        let logup = &columns.logup;
        let mut advice = columns.weights.clone();
        for group in [&logup.multiplicities, &logup.helpers, &logup.table_helpers] {
            advice.extend(group);
        }
        advice.push(logup.sum);
        layouter.assign_region(
            || "weights",
            |mut region| {
                for row in 0..self.params.active() {
                    region.assign_fixed(logup.active, row, Fr::ONE);
                }
                logup.assign_tables(&mut region, self.params.active(), self.params.entries());
                let witness = self.witness.as_deref().map(|witness| witness as &dyn Witness);
                assign_witness(&mut region, &advice, witness, &[&columns.challenges]);
                Ok(())
            },
        )
    }
}

impl SliceCircuit for RangeCircuit {
    fn check(params: &RangeParams) -> Result<(), RefusedParams> {
        params.check().map_err(|_| RefusedParams { reason: "unsupported size of a range circuit" })
    }

    fn log_n(params: &RangeParams) -> u32 {
        params.k
    }

    fn degree(_: &RangeParams) -> usize {
        DEGREE
    }

    fn weight_bits(params: &RangeParams) -> Option<u32> {
        Some(params.bits)
    }

    fn linked(params: &RangeParams) -> LinkedColumns {
        LinkedColumns { weights: 0..params.columns, ..LinkedColumns::default() }
    }
}
