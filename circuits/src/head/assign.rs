//! The witness of a head, column by column, from a trace of the reference executor.

use std::sync::Arc;

use ff::Field;

use super::{
    HeadTrace,
    layout::HeadLayout,
    rows::{F, Kind, LOOKUPS, Programs, SLOTS, Terms, View},
};
#[cfg(feature = "cheat")]
use crate::rows::combination;
use crate::{
    Fr,
    assign::map_rows,
    integers::column_sums,
    logup::{self, ARITY, signed, tuple},
    rows::{Challenges, halves, pow2, power},
    tables::Table,
    witness::{Column, Copies, Solve, Step, Witness},
};

/// Phase 0 of a head, and what phase 1 needs.
#[derive(Clone, Debug)]
pub struct HeadWitness {
    /// The layout.
    pub layout: Arc<HeadLayout>,
    /// Input boundary columns.
    pub input: Vec<Arc<Vec<i32>>>,
    /// Output boundary columns; positions and ids in the first.
    pub output: Vec<Arc<Vec<i32>>>,
    /// Weight columns; shared between proofs.
    pub weights: Arc<Vec<Arc<Vec<i16>>>>,
    /// Cell columns, `slot * lanes + lane`.
    pub cells: Vec<Arc<Vec<i32>>>,
    /// Multiplicity columns.
    pub multiplicities: Vec<Arc<Vec<i32>>>,
    /// Cells `(cell column, row)` that a cheating prover sets to field elements no integer stands for.
    #[cfg(feature = "cheat")]
    pub overrides: std::collections::BTreeMap<(usize, usize), Fr>,
    /// How often a cheating prover adds the gain's bias to each position; empty for once.
    #[cfg(feature = "cheat")]
    pub bias_counts: Vec<i32>,
}

/// Limb `i` of a non-negative integer.
fn limb(v: i128, bits: u32, i: usize) -> i32 {
    ((v >> (bits * i as u32)) & ((1 << bits) - 1)) as i32
}

/// A cell of an honest witness.
fn cell(layout: &HeadLayout, trace: &HeadTrace, at: usize, slot: usize, lane: usize) -> i32 {
    let (spec, Some(kind)) = (&layout.spec, layout.kind(at)) else { return 0 };
    let (s, d, positions) = (&spec.norm, spec.norm.hidden, spec.positions);
    let (p, chunk) = (lane % positions, lane / positions);
    if chunk >= layout.chunks_of(kind) {
        return 0;
    }
    let root = i128::from(trace.norm.s[p]);
    let v = i128::from(trace.norm.v[p]);
    let one = 1i128 << (2 * s.rsqrt_bits);
    let remainder = |high: usize, value: i128| match slot {
        F => 0,
        _ => limb(value, s.limb_bits, 3 * high + slot),
    };
    // Wide remainders have up to six limbs of 15 bits: 90 bits, and s^2 v below 2^125.
    let below = one - root * root * v;
    let above = (root + 1) * (root + 1) * v - one - 1;
    let limbs = |value: i64| limb(value.into(), s.limb_bits, slot);
    let feature = p * d + at % layout.stride;
    match kind {
        Kind::Stream => {
            let x = trace.x[trace.positions[p] * d + at];
            match slot {
                0 => x >> s.residual_lo_bits,
                1 => x & ((1 << s.residual_lo_bits) - 1),
                2 => trace.norm.n.q[feature],
                _ => trace.norm.s[p],
            }
        }
        Kind::Square if slot < F => limb(v, s.limb_bits, slot),
        Kind::Root if slot < F => match slot {
            0 => limb(v, s.limb_bits, 3),
            _ => limb(root, s.limb_bits, slot - 1),
        },
        Kind::Square | Kind::Root => trace.norm.s[p],
        Kind::BelowLow => remainder(0, below),
        Kind::BelowHigh => remainder(1, below),
        Kind::AboveLow => remainder(0, above),
        Kind::AboveHigh => remainder(1, above),
        Kind::Rest => {
            let (lo, _) = halves(s.norm_shift);
            let r = trace.norm.n.r[feature];
            [r & ((1 << lo) - 1), r >> lo, 0, 0][slot]
        }
        Kind::Gain => [trace.gained.r[feature], trace.gained.q[feature], 0, 0][slot],
        Kind::Select => i32::from(slot == F && trace.positions[p] == layout.index(at)),
        Kind::Logit | Kind::Tail => {
            let id = layout.index(at) - 1 + chunk;
            let best = trace.tokens[p] as usize;
            if slot == F {
                return i32::from(id == best);
            }
            let row = &trace.logits[p * spec.vocab..(p + 1) * spec.vocab];
            limbs(row[best] - row[id] - i64::from(id < best))
        }
        Kind::Max if slot == F => 0,
        Kind::Max => {
            let best = trace.logits[p * spec.vocab + trace.tokens[p] as usize];
            limbs(best + (1i64 << (spec.distance_bits() - 1)))
        }
    }
}

impl HeadWitness {
    /// Lays out `trace` with the weight columns of [`HeadLayout::weight_columns`].
    pub fn new(layout: &Arc<HeadLayout>, weights: Arc<Vec<Arc<Vec<i16>>>>, trace: &HeadTrace) -> HeadWitness {
        let lanes = layout.lanes;
        let cells = (0..SLOTS * lanes)
            .map(|i| {
                let mut column = map_rows(layout.max + 1, |at| cell(layout, trace, at, i / lanes, i % lanes));
                column.resize(layout.active, 0);
                Arc::new(column)
            })
            .collect();
        let gaps = if layout.spec.opens_logits() { trace.gaps() } else { vec![] };
        let output = layout.output(&trace.positions, &trace.tokens, &gaps);
        let mut witness = HeadWitness {
            layout: layout.clone(),
            input: layout.boundary.of(&trace.x).into_iter().map(Arc::new).collect(),
            output: output.into_iter().map(Arc::new).collect(),
            weights,
            cells,
            multiplicities: vec![],
            #[cfg(feature = "cheat")]
            overrides: std::collections::BTreeMap::new(),
            #[cfg(feature = "cheat")]
            bias_counts: vec![],
        };
        witness.count();
        witness
    }

    /// Recomputes the multiplicities from the cells; entries outside their tables are not counted.
    pub fn count(&mut self) {
        let layout = &self.layout;
        let mut counts = vec![0i32; layout.table_columns() * layout.active];
        for at in 0..layout.active {
            let tables = self.tables(at);
            for lane in 0..layout.lanes {
                for (slot, &table) in tables.iter().enumerate() {
                    if let Some(entry) = self.entry(at, slot, lane, table) {
                        counts[entry] += 1;
                    }
                }
            }
        }
        self.multiplicities = counts.chunks(layout.active).map(|c| Arc::new(c.to_vec())).collect();
    }

    fn tables(&self, at: usize) -> [Table; LOOKUPS] {
        let spec = &self.layout.spec;
        let idle = [Table::Signed(spec.norm.act_bits); LOOKUPS];
        self.layout.kind(at).map_or(idle, |kind| kind.tables(spec))
    }

    /// The table entry of a looked-up cell, `None` where it is in none.
    fn entry(&self, at: usize, slot: usize, lane: usize, table: Table) -> Option<usize> {
        #[cfg(feature = "cheat")]
        if self.overrides.contains_key(&(slot * self.layout.lanes + lane, at)) {
            return None;
        }
        let set = &self.layout.tables;
        let (start, first, size) = set.spans[set.index(table)];
        let offset = i64::from(self.cells[slot * self.layout.lanes + lane][at]) - i64::from(first);
        (0..size as i64).contains(&offset).then(|| start + offset as usize)
    }

    fn value(&self, at: usize, slot: usize, lane: usize) -> Fr {
        let index = slot * self.layout.lanes + lane;
        #[cfg(feature = "cheat")]
        if let Some(&v) = self.overrides.get(&(index, at)) {
            return v;
        }
        signed(self.cells[index][at])
    }

    /// The advice index of the first column of phase 1, `a_in`.
    fn first_late(&self) -> usize {
        let boundaries = self.input.len() + self.output.len();
        boundaries + self.weights.len() + self.cells.len() + self.multiplicities.len()
    }

    fn cell_column(&self, index: usize) -> Column {
        #[cfg(feature = "cheat")]
        if self.overrides.keys().any(|&(column, _)| column == index) {
            let (slot, lane) = (index / self.layout.lanes, index % self.layout.lanes);
            return Column::Field((0..self.layout.active).map(|at| self.value(at, slot, lane)).collect());
        }
        Column::I32(self.cells[index].clone())
    }

    /// The columns of phase 1 in the order of allocation: `a_in, a_out, a_x, wa, wb, acc`, accumulators of the
    /// boundary, `a_s`, helpers, table helpers, running sum.
    pub fn combine(&self, c: &Challenges<Fr>) -> Vec<Vec<Fr>> {
        let layout = &*self.layout;
        let n = layout.active;
        let programs = Programs { spec: &layout.spec };
        let rows = layout.max + 1;
        let kinds: Vec<_> = (0..rows).map(|at| layout.kind(at)).collect();
        let view = |at: usize, a_x: Fr, below: Fr| ValueView { witness: self, at, a_x, below };

        // a_x and a_s first: rows of logits read them.
        let first = map_rows(rows, |at| {
            let (Some(kind), view) = (kinds[at], view(at, Fr::ZERO, Fr::ZERO)) else {
                return (Fr::ZERO, Fr::ZERO);
            };
            let sum = programs.a_s(kind, layout.chunks_of(kind), c, &view);
            (programs.a_x(kind, c, &view).unwrap_or(Fr::ZERO), sum.unwrap_or(Fr::ZERO))
        });
        let (mut a_x, mut a_s): (Vec<Fr>, Vec<Fr>) = first.into_iter().unzip();
        a_x.resize(n, Fr::ZERO);
        a_s.resize(n, Fr::ZERO);
        for at in (0..rows).rev() {
            if layout.link_stream(at) {
                let stream = kinds[at] == Some(Kind::Stream);
                let next = a_x[at + 1];
                a_x[at] += if stream { c.gamma * next } else { next };
            }
            if layout.link_sum(at) {
                let next = a_s[at + 1];
                a_s[at] += next;
            }
        }
        let terms = map_rows(rows, |at| {
            let below = if layout.link_sum(at) { a_s[at + 1] } else { Fr::ZERO };
            match kinds[at] {
                Some(kind) => programs.terms(kind, layout.chunks_of(kind), c, &view(at, a_x[at], below)),
                None => Terms { a_in: None, a_out: None, a_x: None, a_s: None },
            }
        });
        let pick = |f: &dyn Fn(&Terms<Fr>) -> Option<Fr>| {
            let mut column: Vec<Fr> = terms.iter().map(|t| f(t).unwrap_or(Fr::ZERO)).collect();
            column.resize(n, Fr::ZERO);
            column
        };
        let (mut a_in, mut a_out) = (pick(&|t| t.a_in), pick(&|t| t.a_out));
        let logit = power(&c.gamma, layout.chunks);
        for at in (0..rows).rev() {
            if layout.link_in(at) {
                let next = a_in[at + 1];
                a_in[at] += next;
            }
            if layout.link_out(at) {
                let next = a_out[at + 1];
                a_out[at] += match kinds[at] {
                    Some(Kind::Logit) => logit * next,
                    Some(Kind::Gain) => c.gamma * next,
                    _ => next,
                };
            }
        }

        let tokens = self.accumulate_boundary(c);
        let (wa, wb, acc) = self.accumulate_products(c, &a_in, &tokens);
        let mut columns = vec![a_in, a_out, a_x, wa, wb, acc];
        columns.extend(tokens);
        columns.push(a_s);
        columns.extend(self.lookups(c));
        columns
    }

    fn accumulate_boundary(&self, c: &Challenges<Fr>) -> Vec<Vec<Fr>> {
        let layout = &self.layout;
        let accumulate = |column: &Arc<Vec<i32>>| {
            let mut sum = vec![Fr::ZERO; layout.active];
            for row in (0..layout.boundary.rows()).rev() {
                let linked = !(row + 1).is_multiple_of(layout.boundary.hidden);
                let tail = if linked { c.gamma * sum[row + 1] } else { Fr::ZERO };
                sum[row] = signed(column[row]) + tail;
            }
            sum
        };
        self.input.iter().map(accumulate).collect()
    }

    fn accumulate_products(
        &self,
        c: &Challenges<Fr>,
        a_in: &[Fr],
        tokens: &[Vec<Fr>],
    ) -> (Vec<Fr>, Vec<Fr>, Vec<Fr>) {
        let layout = &self.layout;
        let (n, matrix, p) = (layout.active, &layout.matrix, layout.spec.positions);
        let [mut wa, mut wb, mut acc] = [(); 3].map(|()| vec![Fr::ZERO; n]);
        let mut powers = vec![Fr::ONE; matrix.lanes];
        for l in 1..matrix.lanes {
            powers[l] = powers[l - 1] * c.gamma;
        }
        let step = powers[matrix.lanes - 1] * c.gamma;
        let products = [(matrix, 0, 2 * layout.stride), (&layout.gain, matrix.rows(), 0)];
        for (matrix, first, inputs) in products {
            for j in 0..matrix.features {
                let at = first + j * matrix.blocks;
                wa[at] = match layout.bias_row() {
                    Some((row, shift)) if row == at => self.bias_factor(c) * pow2::<Fr>(shift),
                    _ => a_in[inputs + j],
                };
                for b in 1..matrix.blocks {
                    wa[at + b] = step * wa[at + b - 1];
                }
            }
            let rows = first..first + matrix.rows();
            let sums = column_sums(&powers, &self.weights, rows.clone());
            let mut next = Fr::ZERO;
            for (row, sum) in rows.zip(sums).rev() {
                next += wa[row] * sum;
                acc[row] = next;
            }
        }
        let mut next = Fr::ZERO;
        for t in (0..layout.spec.tokens).rev() {
            let row = layout.pairs + t;
            let (column, at) = layout.boundary.place(t);
            wa[row] = a_in[layout.select + t];
            wb[row] = tokens[column][at];
            next += wa[row] * wb[row];
            acc[row] = next;
        }
        for row in (0..2 * p).rev() {
            let linked = !(row + 1).is_multiple_of(p);
            let tail = if linked { c.alpha * wb[row + 1] } else { Fr::ZERO };
            wb[row] = signed(self.output[0][row]) + tail;
        }
        (wa, wb, acc)
    }

    /// `sum_p alpha^p`, or with the counts of a cheating prover.
    fn bias_factor(&self, c: &Challenges<Fr>) -> Fr {
        #[cfg(feature = "cheat")]
        if !self.bias_counts.is_empty() {
            return combination(&c.alpha, self.bias_counts.len(), |p| signed(self.bias_counts[p]));
        }
        Programs { spec: &self.layout.spec }.ones(c)
    }

    fn lookups(&self, c: &Challenges<Fr>) -> Vec<Vec<Fr>> {
        let layout = &self.layout;
        let n = layout.active;
        let inverses = logup::inverses(layout.tables.ranges(), c.theta, c.beta);
        let helpers: Vec<Vec<Fr>> = (0..layout.lanes)
            .map(|lane| {
                map_rows(n, |at| {
                    let inverse = |(slot, table): (usize, Table)| match self.entry(at, slot, lane, table) {
                        Some(entry) => inverses[entry],
                        None => {
                            let tag = Fr::from(layout.tables.index(table) as u64 + 1);
                            let v = tuple(self.value(at, slot, lane), None, tag, &c.theta) + c.beta;
                            Option::from(v.invert()).unwrap_or(Fr::ZERO)
                        }
                    };
                    self.tables(at).into_iter().enumerate().map(inverse).sum()
                })
            })
            .collect();
        logup::close(helpers, &self.multiplicities, &inverses, n)
    }
}

struct ValueView<'a> {
    witness: &'a HeadWitness,
    at: usize,
    a_x: Fr,
    below: Fr,
}

impl View<Fr> for ValueView<'_> {
    fn cell(&self, slot: usize, lane: usize) -> Fr {
        self.witness.value(self.at, slot, lane)
    }

    fn open(&self, part: usize, lane: usize) -> Fr {
        signed(self.witness.output[1 + part * self.witness.layout.lanes + lane][self.at])
    }

    fn index(&self) -> Fr {
        Fr::from(self.witness.layout.index(self.at) as u64)
    }

    fn a_x(&self) -> Fr {
        self.a_x
    }

    fn below(&self) -> Fr {
        self.below
    }
}

impl Witness for HeadWitness {
    fn columns(&self, phase: u8, challenges: &[Fr]) -> Vec<(usize, Column)> {
        if phase == 0 {
            let mut columns: Vec<_> = self.input.iter().cloned().map(Column::I32).collect();
            columns.extend(self.output.iter().cloned().map(Column::I32));
            columns.extend(self.weights.iter().cloned().map(Column::I16));
            columns.extend((0..self.cells.len()).map(|i| self.cell_column(i)));
            columns.extend(self.multiplicities.iter().cloned().map(Column::I32));
            columns.into_iter().enumerate().collect()
        } else {
            let at = |i: usize| challenges.get(i).copied().unwrap_or(Fr::ZERO);
            let c = Challenges { alpha: at(0), gamma: at(1), eta: at(2), theta: at(3), beta: at(4) };
            let first = self.first_late();
            let columns = self.combine(&c).into_iter().enumerate();
            columns.map(|(i, column)| (first + i, Column::Field(column))).collect()
        }
    }

    /// Sums, then what products read of them, then the products' accumulator.
    fn steps(&self, phase: u8) -> Option<Vec<Step>> {
        // Biases that are counted otherwise than the gates say follow from no gate.
        #[cfg(feature = "cheat")]
        if !self.bias_counts.is_empty() {
            return None;
        }
        let (layout, first) = (&self.layout, self.first_late());
        let boundary = layout.boundary.columns;
        let [a_in, a_out, a_x, wa, wb, acc, tokens] = std::array::from_fn(|at| first + at);
        let a_s = tokens + boundary;
        let helpers = (LOOKUPS * layout.lanes).div_ceil(ARITY);
        let [mut sources, sum] = logup::steps(a_s + 1, helpers, self.multiplicities.len().div_ceil(ARITY));
        let one = |column, gate, rotation| Solve { column, rotation, gate, polynomial: 0 };
        // Rows of logits read a_x and a_s in a_out.
        sources.extend([one(a_x, "stream/1", 0), one(a_s, "sum/1", 0), one(wb, "boundary/2", 0)]);
        let of_column = |polynomial| Solve { polynomial, ..one(tokens + polynomial, "boundary/1", 0) };
        sources.extend((0..boundary).map(of_column));
        let mut sums = sum;
        sums.extend([one(a_in, "in/1", 0), one(a_out, "out/1", 0)]);

        let mut left = vec![];
        let products = [(&layout.matrix, 0, 2 * layout.stride), (&layout.gain, layout.matrix.rows(), 0)];
        for (matrix, start, inputs) in products {
            for j in 0..matrix.features {
                let to = start + j * matrix.blocks;
                if layout.bias_row().is_none_or(|(row, _)| row != to) {
                    left.push((a_in, (inputs + j) as u32, to as u32));
                }
            }
        }
        let mut right = vec![];
        for t in 0..layout.spec.tokens {
            let (to, (column, at)) = ((layout.pairs + t) as u32, layout.boundary.place(t));
            left.push((a_in, (layout.select + t) as u32, to));
            right.push((tokens + column, at as u32, to));
        }
        let bias = layout.bias_row().map(|_| Step::Solve(vec![one(wa, "product/3", 0)]));
        let mut steps = vec![
            Step::Solve(sources),
            Step::Solve(sums),
            Step::Copy(Copies { column: wa, cells: left }),
            Step::Copy(Copies { column: wb, cells: right }),
        ];
        steps.extend(bias);
        steps.push(Step::Solve(vec![one(wa, "product/2", 1)]));
        steps.push(Step::Solve(vec![one(acc, "product/1", 0)]));
        (phase == 1).then_some(steps)
    }
}
