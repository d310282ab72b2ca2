//! LogUp as ordinary gates (`protocol.md` section 5).
//!
//! ```text
//! sum over looked-up cells of 1/(beta + v)  =  sum over table rows of m/(beta + t)
//! v = in + theta out + theta^2 tag
//! ```
//!
//! One helper cell serves three looked-up cells: `h (beta+v1)(beta+v2)(beta+v3) = sum of products of two`.
//! With the selector that switches the gate off on the blinding rows this has degree 5. (A gate without it could
//! serve four cells, but then helpers could not be blinded independently, and no stock prover could write the
//! proof.) A running sum must be zero at both ends (security.md S22).

use ff::{BatchInvert, Field};
use halo2_proofs::{
    circuit::Region,
    plonk::{
        Advice, Challenge, Column, ConstraintSystem, Expression, FirstPhase, Fixed, SecondPhase, VirtualCells,
    },
    poly::Rotation,
};

use crate::{Fr, rows::Algebra};

/// Looked-up cells of one helper, and table columns of one table helper.
pub const ARITY: usize = 3;

/// A tuple as a field element, without `beta`.
pub fn tuple<E: Algebra>(input: E, output: Option<E>, tag: E, theta: &E) -> E {
    let tail = match output {
        Some(output) => output + theta.clone() * tag,
        None => theta.clone() * tag,
    };
    input + theta.clone() * tail
}

/// The columns of one LogUp argument.
#[derive(Clone, Debug)]
pub struct LogUp {
    /// Table columns `(in, out, tag)`.
    pub tables: Vec<[Column<Fixed>; 3]>,
    /// Multiplicities, one per table column, phase 0.
    pub multiplicities: Vec<Column<Advice>>,
    /// Helpers of looked-up cells, phase 1.
    pub helpers: Vec<Column<Advice>>,
    /// Helpers of table columns, phase 1.
    pub table_helpers: Vec<Column<Advice>>,
    /// Running sum, phase 1.
    pub sum: Column<Advice>,
    /// 1 on active rows.
    pub active: Column<Fixed>,
    /// 1 on row 0.
    pub first: Column<Fixed>,
    /// 1 on the row after the last active one.
    pub end: Column<Fixed>,
}

impl LogUp {
    /// Allocates the phase-0 part: call with the other columns of phase 0.
    pub fn multiplicities(meta: &mut ConstraintSystem<Fr>, tables: usize) -> Vec<Column<Advice>> {
        (0..tables).map(|_| meta.advice_column_in(FirstPhase)).collect()
    }

    /// Allocates the rest: `cells` looked-up expressions per row.
    pub fn new(
        meta: &mut ConstraintSystem<Fr>,
        multiplicities: Vec<Column<Advice>>,
        cells: usize,
        active: Column<Fixed>,
    ) -> LogUp {
        let tables = multiplicities.len();
        let mut phase1 = |n: usize| (0..n).map(|_| meta.advice_column_in(SecondPhase)).collect::<Vec<_>>();
        let helpers = phase1(cells.div_ceil(ARITY));
        let table_helpers = phase1(tables.div_ceil(ARITY));
        let sum = meta.advice_column_in(SecondPhase);
        LogUp {
            tables: (0..tables).map(|_| [(); 3].map(|()| meta.fixed_column())).collect(),
            multiplicities,
            helpers,
            table_helpers,
            sum,
            active,
            first: meta.fixed_column(),
            end: meta.fixed_column(),
        }
    }

    /// Creates the gates `lookup/1` (helpers), `lookup/2` (table helpers), `lookup/3` (running sum),
    /// `lookup/4` and `lookup/5` (its ends).
    ///
    /// `lookups` yields the tuples (see [`tuple()`]) of a row, in helper order.
    ///
    /// # Soundness
    /// Looked-up expressions must contain phase-0, fixed and challenge terms only: a cell that only the
    /// lookup defines could be solved for once `beta` is known (security.md S23). [`crate::audit`] checks it.
    pub fn gates(
        &self,
        meta: &mut ConstraintSystem<Fr>,
        theta: Challenge,
        beta: Challenge,
        mut lookups: impl FnMut(&mut VirtualCells<'_, Fr>) -> Vec<Expression<Fr>>,
    ) {
        meta.create_gate("lookup/1", |meta| {
            let active = meta.query_fixed(self.active, Rotation::cur());
            let beta = meta.query_challenge(beta);
            let denominators: Vec<_> = lookups(meta).into_iter().map(|v| v + beta.clone()).collect();
            self.helpers
                .iter()
                .zip(denominators.chunks(ARITY))
                .map(|(&helper, d)| {
                    let h = meta.query_advice(helper, Rotation::cur());
                    let ones = vec![Expression::Constant(Fr::ONE); d.len()];
                    active.clone() * fraction(h, d, &ones)
                })
                .collect::<Vec<_>>()
        });
        meta.create_gate("lookup/2", |meta| {
            let active = meta.query_fixed(self.active, Rotation::cur());
            let (theta, beta) = (meta.query_challenge(theta), meta.query_challenge(beta));
            let entries: Vec<_> = self
                .tables
                .iter()
                .zip(&self.multiplicities)
                .map(|(columns, &m)| {
                    let [input, output, tag] = columns.map(|c| meta.query_fixed(c, Rotation::cur()));
                    let m = meta.query_advice(m, Rotation::cur());
                    (tuple(input, Some(output), tag, &theta) + beta.clone(), m)
                })
                .collect();
            self.table_helpers
                .iter()
                .zip(entries.chunks(ARITY))
                .map(|(&helper, part)| {
                    let h = meta.query_advice(helper, Rotation::cur());
                    let (d, m): (Vec<_>, Vec<_>) = part.iter().cloned().unzip();
                    active.clone() * fraction(h, &d, &m)
                })
                .collect::<Vec<_>>()
        });
        meta.create_gate("lookup/3", |meta| {
            let active = meta.query_fixed(self.active, Rotation::cur());
            let sum = meta.query_advice(self.sum, Rotation::cur());
            let next = meta.query_advice(self.sum, Rotation::next());
            let plus = self.helpers.iter().map(|&h| meta.query_advice(h, Rotation::cur()));
            let plus = plus.reduce(|a, b| a + b);
            let minus = self.table_helpers.iter().map(|&h| meta.query_advice(h, Rotation::cur()));
            let minus = minus.reduce(|a, b| a + b);
            let mut step = next - sum;
            if let Some(plus) = plus {
                step = step - plus;
            }
            if let Some(minus) = minus {
                step = step + minus;
            }
            [active * step]
        });
        for (id, at) in [("lookup/4", self.first), ("lookup/5", self.end)] {
            meta.create_gate(id, |meta| {
                let on = meta.query_fixed(at, Rotation::cur());
                [on * meta.query_advice(self.sum, Rotation::cur())]
            });
        }
    }

    /// Assigns the fixed columns: `entries` in order, `rows` to a column; the rest repeats the first entry.
    pub fn assign_tables(
        &self,
        region: &mut Region<'_, Fr>,
        rows: usize,
        entries: impl Iterator<Item = (i32, i32, u32)>,
    ) {
        let mut first = None;
        let mut count = 0;
        let mut put = |at: usize, (input, output, tag): (i32, i32, u32)| {
            let [i, o, t] = self.tables[at / rows];
            for (column, value) in [(i, signed(input)), (o, signed(output)), (t, Fr::from(u64::from(tag)))] {
                region.assign_fixed(column, at % rows, value);
            }
        };
        for entry in entries {
            first.get_or_insert(entry);
            put(count, entry);
            count += 1;
        }
        if let Some(entry) = first {
            for at in count..self.tables.len() * rows {
                put(at, entry);
            }
        }
        region.assign_fixed(self.first, 0, Fr::ONE);
        region.assign_fixed(self.end, rows, Fr::ONE);
    }
}

/// `h prod d_i - sum_i m_i prod_{j != i} d_j`: zero iff `h = sum m_i / d_i`.
fn fraction(h: Expression<Fr>, d: &[Expression<Fr>], m: &[Expression<Fr>]) -> Expression<Fr> {
    let product = |skip: Option<usize>| {
        d.iter().enumerate().filter(|&(j, _)| Some(j) != skip).map(|(_, d)| d.clone()).reduce(|a, b| a * b)
    };
    let left = product(None).map_or(h.clone(), |all| h * all);
    let right = (0..d.len())
        .map(|i| match product(Some(i)) {
            Some(others) => m[i].clone() * others,
            None => m[i].clone(),
        })
        .reduce(|a, b| a + b);
    match right {
        Some(right) => left - right,
        None => left,
    }
}

/// A signed integer as a field element.
pub fn signed(v: i32) -> Fr {
    let magnitude = Fr::from(u64::from(v.unsigned_abs()));
    if v < 0 { -magnitude } else { magnitude }
}

/// Inverses `1/(beta + t)` of all table entries, in entry order.
pub fn inverses(entries: impl Iterator<Item = (i32, i32, u32)>, theta: Fr, beta: Fr) -> Vec<Fr> {
    let mut d: Vec<Fr> = entries
        .map(|(i, o, t)| tuple(signed(i), Some(signed(o)), Fr::from(u64::from(t)), &theta) + beta)
        .collect();
    d.iter_mut().batch_invert();
    d
}
