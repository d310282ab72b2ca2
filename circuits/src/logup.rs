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

use std::sync::Arc;

use ff::{BatchInvert, Field};
use halo2_proofs::{
    circuit::Region,
    plonk::{
        Advice, Challenge, Column, ConstraintSystem, Expression, FirstPhase, Fixed, SecondPhase, VirtualCells,
    },
    poly::Rotation,
};

use crate::{Fr, assign::map_rows, rows::Algebra, witness::Solve};

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

/// Yields the tuples of a row with their numerators.
type Tuples<'a> = dyn FnMut(&mut VirtualCells<'_, Fr>) -> Vec<(Expression<Fr>, Expression<Fr>)> + 'a;

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
    /// 1 on row 0 and on the row after the last active one: the ends of the running sum.
    pub ends: Column<Fixed>,
}

impl LogUp {
    /// Allocates the phase-0 part: call with the other columns of phase 0.
    pub fn multiplicities(meta: &mut ConstraintSystem<Fr>, tables: usize) -> Vec<Column<Advice>> {
        (0..tables).map(|_| meta.advice_column_in(FirstPhase)).collect()
    }

    /// Allocates the rest over fixed tables: `cells` looked-up expressions per row.
    pub fn new(
        meta: &mut ConstraintSystem<Fr>,
        multiplicities: Vec<Column<Advice>>,
        cells: usize,
        active: Column<Fixed>,
    ) -> LogUp {
        let tables = (0..multiplicities.len()).map(|_| [(); 3].map(|()| meta.fixed_column())).collect();
        let second = |meta: &mut ConstraintSystem<Fr>| meta.advice_column_in(SecondPhase);
        Self::over(meta, tables, multiplicities, cells, active, second)
    }

    /// Allocates the rest over tables whose tuples are expressions of the circuit's own columns
    /// ([`LogUp::gates_over`]); `advice` allocates a column of the phase after `theta` and `beta`.
    pub fn over_columns(
        meta: &mut ConstraintSystem<Fr>,
        multiplicities: Vec<Column<Advice>>,
        cells: usize,
        active: Column<Fixed>,
        advice: impl FnMut(&mut ConstraintSystem<Fr>) -> Column<Advice>,
    ) -> LogUp {
        Self::over(meta, vec![], multiplicities, cells, active, advice)
    }

    fn over(
        meta: &mut ConstraintSystem<Fr>,
        tables: Vec<[Column<Fixed>; 3]>,
        multiplicities: Vec<Column<Advice>>,
        cells: usize,
        active: Column<Fixed>,
        mut advice: impl FnMut(&mut ConstraintSystem<Fr>) -> Column<Advice>,
    ) -> LogUp {
        let mut columns = |n: usize| (0..n).map(|_| advice(meta)).collect::<Vec<_>>();
        let helpers = columns(cells.div_ceil(ARITY));
        let table_helpers = columns(multiplicities.len().div_ceil(ARITY));
        let sum = advice(meta);
        LogUp { tables, multiplicities, helpers, table_helpers, sum, active, ends: meta.fixed_column() }
    }

    /// Creates the gates over fixed tables; every row looks up all of `lookups`.
    ///
    /// `lookups` yields the tuples (see [`tuple()`]) of a row, in helper order.
    ///
    /// # Soundness
    /// See [`LogUp::gates_over`].
    pub fn gates(
        &self,
        meta: &mut ConstraintSystem<Fr>,
        theta: Challenge,
        beta: Challenge,
        mut lookups: impl FnMut(&mut VirtualCells<'_, Fr>) -> Vec<Expression<Fr>>,
    ) {
        let one = Expression::Constant(Fr::ONE);
        self.gates_over(
            meta,
            beta,
            |meta| lookups(meta).into_iter().map(|v| (v, one.clone())).collect(),
            |meta| {
                let theta = meta.query_challenge(theta);
                self.tables
                    .iter()
                    .zip(&self.multiplicities)
                    .map(|(columns, &m)| {
                        let [input, output, tag] = columns.map(|c| meta.query_fixed(c, Rotation::cur()));
                        let m = meta.query_advice(m, Rotation::cur());
                        (tuple(input, Some(output), tag, &theta), m)
                    })
                    .collect()
            },
        );
    }

    /// Creates the gates `lookup/1` (helpers), `lookup/2` (table helpers), `lookup/3` (running sum) and `lookup/4`
    /// (both of its ends are zero).
    ///
    /// `lookups` yields the tuples of a row with their counts (0 where a row looks nothing up), `entries` the
    /// tuples of a table row with their multiplicities (0 where there is no entry), both in helper order and of
    /// degree at most 1 in the tuple.
    ///
    /// # Soundness
    /// Tuples and counts must contain only columns of phases before the challenges: a cell that only the lookup
    /// defines could be solved for once `beta` is known (security.md S23). [`crate::audit`] checks it.
    pub fn gates_over(
        &self,
        meta: &mut ConstraintSystem<Fr>,
        beta: Challenge,
        mut lookups: impl FnMut(&mut VirtualCells<'_, Fr>) -> Vec<(Expression<Fr>, Expression<Fr>)>,
        mut entries: impl FnMut(&mut VirtualCells<'_, Fr>) -> Vec<(Expression<Fr>, Expression<Fr>)>,
    ) {
        let mut fractions = |id: &'static str, helpers: &[Column<Advice>], tuples: &mut Tuples<'_>| {
            meta.create_gate(id, |meta| {
                let active = meta.query_fixed(self.active, Rotation::cur());
                let beta = meta.query_challenge(beta);
                let (d, m): (Vec<_>, Vec<_>) =
                    tuples(meta).into_iter().map(|(v, m)| (v + beta.clone(), m)).unzip();
                helpers
                    .iter()
                    .zip(d.chunks(ARITY).zip(m.chunks(ARITY)))
                    .map(|(&helper, (d, m))| {
                        let h = meta.query_advice(helper, Rotation::cur());
                        active.clone() * fraction(h, d, m)
                    })
                    .collect::<Vec<_>>()
            });
        };
        fractions("lookup/1", &self.helpers, &mut lookups);
        fractions("lookup/2", &self.table_helpers, &mut entries);
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
        meta.create_gate("lookup/4", |meta| {
            let on = meta.query_fixed(self.ends, Rotation::cur());
            [on * meta.query_advice(self.sum, Rotation::cur())]
        });
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
        self.assign_ends(region, rows);
    }

    /// Assigns the selector of the running sum's ends: all of it but the tables.
    pub fn assign_ends(&self, region: &mut Region<'_, Fr>, rows: usize) {
        region.assign_fixed(self.ends, 0, Fr::ONE);
        region.assign_fixed(self.ends, rows, Fr::ONE);
    }
}

/// The columns of an argument over fixed tables: the given helpers, the table helpers, the running sum.
///
/// `inverses` as [`inverses`] gives them; table rows past the last entry repeat the first.
pub fn close(
    mut helpers: Vec<Vec<Fr>>,
    multiplicities: &[Arc<Vec<i32>>],
    inverses: &[Fr],
    rows: usize,
) -> Vec<Vec<Fr>> {
    let table_helpers: Vec<Vec<Fr>> = multiplicities
        .chunks(ARITY)
        .enumerate()
        .map(|(h, counts)| {
            map_rows(rows, |row| {
                let of = |(i, counts): (usize, &Arc<Vec<i32>>)| {
                    let entry = (h * ARITY + i) * rows + row;
                    signed(counts[row]) * inverses.get(entry).unwrap_or(&inverses[0])
                };
                counts.iter().enumerate().map(of).sum()
            })
        })
        .collect();
    let sum = running_sum(&helpers, &table_helpers, rows);
    helpers.extend(table_helpers);
    helpers.push(sum);
    helpers
}

/// The running sum over `rows` rows of helpers minus table helpers, the row after the last included.
pub fn running_sum(helpers: &[Vec<Fr>], table_helpers: &[Vec<Fr>], rows: usize) -> Vec<Fr> {
    let mut sum = vec![Fr::ZERO; rows + 1];
    for at in 0..rows {
        let plus: Fr = helpers.iter().map(|h| h[at]).sum();
        let minus: Fr = table_helpers.iter().map(|h| h[at]).sum();
        sum[at + 1] = sum[at] + plus - minus;
    }
    sum
}

/// How an argument's columns follow from its gates: helpers and table helpers first, then the running sum.
///
/// `first` is the advice index of the first of `helpers` helpers, which `tables` table helpers and the sum follow.
pub fn steps(first: usize, helpers: usize, tables: usize) -> [Vec<Solve>; 2] {
    let fractions = |gate, from: usize, count: usize| {
        (0..count).map(move |polynomial| Solve { column: from + polynomial, rotation: 0, gate, polynomial })
    };
    let sum = Solve { column: first + helpers + tables, rotation: 1, gate: "lookup/3", polynomial: 0 };
    [
        fractions("lookup/1", first, helpers).chain(fractions("lookup/2", first + helpers, tables)).collect(),
        vec![sum],
    ]
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
