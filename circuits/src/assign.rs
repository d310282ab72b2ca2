//! The witness of a block, column by column, from a trace of the reference executor.

use std::{array, ops::Range, sync::Arc};

use ff::Field;

use crate::{
    Fr,
    block::{Links, boundary_weights, table_entries},
    executor::Trace,
    integers::column_sums,
    layout::{ChainRow, Layout, Link, Norm, Port, PortCell, Row, Span},
    logup::{self, ARITY, signed, tuple},
    rows::{
        A, B, C2, C3, C4, C5, C6, Challenges, F, Kind, LIMBS, LOOKUPS, Programs, RowView, SLOTS, VALUES,
        combination, geometric, halves, int, pow2, power,
    },
    spec::{BlockSpec, FeedForward},
    tables::{self, Table},
    witness::{Column, Copies, Solve, Step, Witness},
};

/// Phase 0 of a block, and what phase 1 needs.
#[derive(Clone, Debug)]
pub struct BlockWitness {
    /// The layout.
    pub layout: Arc<Layout>,
    /// Input boundary columns.
    pub boundary_in: Vec<Arc<Vec<i32>>>,
    /// Output boundary columns.
    pub boundary_out: Vec<Arc<Vec<i32>>>,
    /// Weight columns; shared between proofs.
    pub weights: Arc<Vec<Arc<Vec<i16>>>>,
    /// Cell columns, `slot * lanes + lane`.
    pub cells: Vec<Arc<Vec<i32>>>,
    /// Multiplicity columns.
    pub multiplicities: Vec<Arc<Vec<i32>>>,
    /// Cells `(cell column, row)` that a cheating prover sets to field elements no integer stands for.
    #[cfg(feature = "cheat")]
    pub overrides: std::collections::BTreeMap<(usize, usize), Fr>,
    /// How often a cheating prover adds the biases to each token; empty for once.
    #[cfg(feature = "cheat")]
    pub bias_counts: Vec<i32>,
}

/// Maps `0..n` to a vector, in parallel when built with `parallel`.
pub(crate) fn map_rows<T: Send>(n: usize, f: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
    #[cfg(feature = "parallel")]
    {
        use rayon::prelude::*;
        (0..n).into_par_iter().with_min_len(256).map(f).collect()
    }
    #[cfg(not(feature = "parallel"))]
    (0..n).map(f).collect()
}

/// Calls `f(i, chunk)` for the chunks of `values`, in parallel when built with `parallel`.
pub(crate) fn map_blocks<T: Send>(values: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    #[cfg(feature = "parallel")]
    {
        use rayon::prelude::*;
        values.par_chunks_mut(size).enumerate().for_each(|(i, chunk)| f(i, chunk));
    }
    #[cfg(not(feature = "parallel"))]
    values.chunks_mut(size).enumerate().for_each(|(i, chunk)| f(i, chunk));
}

/// As [`map_rows`], for few items of much work.
fn map_items<T: Send>(n: usize, f: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
    #[cfg(feature = "parallel")]
    {
        use rayon::prelude::*;
        (0..n).into_par_iter().map(f).collect()
    }
    #[cfg(not(feature = "parallel"))]
    (0..n).map(f).collect()
}

/// Calls `f` on ranges that make up `0..n`, in parallel, one to a thread, when built with `parallel`.
fn map_ranges<T: Send>(n: usize, f: impl Fn(Range<usize>) -> T + Sync + Send) -> Vec<T> {
    #[cfg(feature = "parallel")]
    let threads = rayon::current_num_threads();
    #[cfg(not(feature = "parallel"))]
    let threads = 1;
    let size = n.div_ceil(threads).max(1);
    map_items(n.div_ceil(size), |i| f(i * size..n.min((i + 1) * size)))
}

/// The eight cells of one lane.
type Lane = [i32; SLOTS];

/// Rows of the cell region that are laid out at once, in all columns.
const LAID_OUT_ROWS: usize = 512;

/// How the cells of one lane of a row are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    /// As the row's kind says.
    Plain(Kind),
    /// Scores of a key that the lane's token attends to.
    Attended,
    /// On a row without a program.
    Idle,
}

impl Looked {
    /// All of them, by [`Looked::index`].
    pub(crate) fn all() -> impl Iterator<Item = Looked> {
        Kind::ALL.into_iter().map(Looked::Plain).chain([Looked::Attended, Looked::Idle])
    }

    fn index(self) -> usize {
        match self {
            Looked::Plain(kind) => kind.index(),
            Looked::Attended => Kind::ALL.len(),
            Looked::Idle => Kind::ALL.len() + 1,
        }
    }

    fn of(layout: &Layout, row: Option<(Option<usize>, Row)>, lane: usize) -> Looked {
        match row {
            Some((Some(group), Row::Score { key, .. })) if key <= group * layout.lanes + lane => {
                Looked::Attended
            }
            Some((_, row)) => Looked::Plain(row.kind()),
            None => Looked::Idle,
        }
    }

    /// The tables of the pair and of `c2..c6`.
    pub(crate) fn tables(self, spec: &BlockSpec) -> [Table; LOOKUPS] {
        match self {
            Looked::Plain(kind) => kind.tables(spec),
            Looked::Attended => {
                let mut tables = Kind::Score.tables(spec);
                tables[0] = Table::Exp;
                tables
            }
            Looked::Idle => [Table::Signed(spec.scales.act_bits); LOOKUPS],
        }
    }
}

/// The slot of lookup `i`; the pair's second cell is [`B`].
fn looked_up(i: usize) -> usize {
    if i == 0 { A } else { C2 + i - 1 }
}

/// The entry of a cell, or of a pair, in the table at `span`.
///
/// Function tables are checked on their output too; ranges have output 0.
fn entry_of((start, first, size): Span, a: i32, b: Option<i32>, outputs: &[i32]) -> Option<usize> {
    let offset = i64::from(a) - i64::from(first);
    if !(0..size as i64).contains(&offset) {
        return None;
    }
    let entry = start + offset as usize;
    b.is_none_or(|b| outputs[entry] == b).then_some(entry)
}

impl BlockWitness {
    /// Lays out `trace` of a block with the weight columns of [`Layout::weight_columns`].
    pub fn new(layout: &Arc<Layout>, weights: Arc<Vec<Arc<Vec<i16>>>>, trace: &Trace) -> BlockWitness {
        let boundary = |x: &[i32]| layout.boundary.of(x).into_iter().map(Arc::new).collect();
        let mut witness = BlockWitness {
            layout: layout.clone(),
            boundary_in: boundary(&trace.x),
            boundary_out: boundary(&trace.output.q),
            weights,
            cells: cell_columns(layout, trace).into_iter().map(Arc::new).collect(),
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
        let outputs = layout.table_outputs();
        let parts = map_ranges(layout.active, |rows| {
            let mut counts = vec![0i32; layout.table_columns() * layout.active];
            let kinds: Vec<_> = rows.clone().map(|at| layout.row_at(at)).collect();
            for lane in 0..layout.lanes {
                let looked: Vec<_> = kinds.iter().map(|&row| Looked::of(layout, row, lane)).collect();
                let pairs = &self.cells[B * layout.lanes + lane];
                for i in 0..LOOKUPS {
                    let column = &self.cells[looked_up(i) * layout.lanes + lane];
                    let mut at = rows.start;
                    // Many rows on end stand in the same table.
                    for run in looked.chunk_by(|a, b| a == b) {
                        let span = layout.lookup_spans[run[0].index()][i];
                        for at in at..at + run.len() {
                            let pair = (i == 0).then(|| pairs[at]);
                            if let Some(entry) = entry_of(span, column[at], pair, outputs)
                                && !self.replaced(at, lane, i)
                            {
                                counts[entry] += 1;
                            }
                        }
                        at += run.len();
                    }
                }
            }
            counts
        });
        self.multiplicities = map_items(layout.table_columns(), |column| {
            let mut sum = vec![0i32; layout.active];
            for part in &parts {
                for (count, more) in sum.iter_mut().zip(&part[column * layout.active..]) {
                    *count += more;
                }
            }
            Arc::new(sum)
        });
    }

    fn kinds(&self) -> Vec<Option<(Kind, Option<usize>, Row)>> {
        let kinds = (0..self.layout.active).map(|at| self.layout.row_at(at));
        kinds.map(|row| row.map(|(group, row)| (row.kind(), group, row))).collect()
    }

    fn cell(&self, at: usize, slot: usize, lane: usize) -> i32 {
        self.cells[slot * self.layout.lanes + lane][at]
    }

    /// The cell as a field element: what accumulators and tuples are computed from.
    fn value(&self, at: usize, slot: usize, lane: usize) -> Fr {
        #[cfg(feature = "cheat")]
        if let Some(&v) = self.overrides.get(&(slot * self.layout.lanes + lane, at)) {
            return v;
        }
        signed(self.cell(at, slot, lane))
    }

    /// Whether a cheating prover replaced the cell.
    fn overridden(&self, at: usize, slot: usize, lane: usize) -> bool {
        #[cfg(feature = "cheat")]
        return self.overrides.contains_key(&(slot * self.layout.lanes + lane, at));
        #[cfg(not(feature = "cheat"))]
        {
            let _ = (at, slot, lane);
            false
        }
    }

    /// A cell column, as field elements where a cheating prover needs them.
    fn cell_column(&self, index: usize) -> Column {
        #[cfg(feature = "cheat")]
        if self.overrides.keys().any(|&(column, _)| column == index) {
            let (slot, lane) = (index / self.layout.lanes, index % self.layout.lanes);
            return Column::Field((0..self.layout.active).map(|at| self.value(at, slot, lane)).collect());
        }
        Column::I32(self.cells[index].clone())
    }

    /// Whether a cheating prover replaced a cell of lookup `i`.
    fn replaced(&self, at: usize, lane: usize, i: usize) -> bool {
        self.overridden(at, looked_up(i), lane) || (i == 0 && self.overridden(at, B, lane))
    }

    /// Table entry of each lookup of a lane, `None` where the cell is in no entry.
    fn entries(
        &self,
        at: usize,
        row: Option<(Kind, Option<usize>, Row)>,
        lane: usize,
    ) -> [Option<usize>; LOOKUPS] {
        let layout = &*self.layout;
        let looked = Looked::of(layout, row.map(|(_, group, row)| (group, row)), lane);
        let spans = &layout.lookup_spans[looked.index()];
        array::from_fn(|i| {
            let pair = (i == 0).then(|| self.cell(at, B, lane));
            entry_of(spans[i], self.cell(at, looked_up(i), lane), pair, layout.table_outputs())
                .filter(|_| !self.replaced(at, lane, i))
        })
    }

    /// The tuple of a lookup as a field element, for cells outside their tables.
    fn tuple(
        &self,
        at: usize,
        row: Option<(Kind, Option<usize>, Row)>,
        lane: usize,
        i: usize,
        theta: Fr,
    ) -> Fr {
        let looked = Looked::of(&self.layout, row.map(|(_, group, row)| (group, row)), lane);
        let table = looked.tables(&self.layout.spec)[i];
        let tag = Fr::from(self.layout.tables.index(table) as u64 + 1);
        if i == 0 {
            let (a, b) = (self.value(at, A, lane), self.value(at, B, lane));
            tuple(a, Some(b), tag, &theta)
        } else {
            tuple(self.value(at, C2 + i - 1, lane), None, tag, &theta)
        }
    }

    /// The columns of phase 1 in the order of allocation: `a_in, a_out, a_x, wa, wb, acc, a_s`, helpers, table
    /// helpers, running sum.
    pub fn combine(&self, c: &Challenges<Fr>) -> Vec<Vec<Fr>> {
        let layout = &*self.layout;
        let (n, strip) = (layout.active, layout.strip.len());
        let programs = Programs { spec: &layout.spec, lanes: layout.lanes };
        let links = Links::new(c, layout);
        let rows: Vec<_> = layout.rows().collect();

        // a_x first: score rows read it.
        let mut a_x = map_rows(rows.len(), |at| {
            let view = ValueView { witness: self, at, row: rows[at], a_x: Fr::ZERO };
            programs.a_x(rows[at].1.kind(), c, &view).unwrap_or(Fr::ZERO)
        });
        a_x.resize(n + 1, Fr::ZERO);
        for at in (0..rows.len()).rev() {
            if layout.link_stream(rows[at].1) {
                let next = a_x[at + 1];
                a_x[at] += links.stream(rows[at].1.kind()) * next;
            }
        }
        let terms = map_rows(rows.len(), |at| {
            let view = ValueView { witness: self, at, row: rows[at], a_x: a_x[at] };
            programs.terms(rows[at].1.kind(), c, &view)
        });
        let pick = |f: &dyn Fn(&crate::rows::Terms<Fr>) -> Option<Fr>| {
            let mut column: Vec<Fr> = terms.iter().map(|t| f(t).unwrap_or(Fr::ZERO)).collect();
            column.resize(n + 1, Fr::ZERO);
            column
        };
        let mut a_in = pick(&|t| t.a_in);
        let mut a_out = pick(&|t| t.a_out);
        let mut a_s = pick(&|t| t.a_s);
        for at in (0..rows.len()).rev() {
            let (group, row) = rows[at];
            let kind = row.kind();
            if let (true, Some((group, weight))) = (layout.link_in(group, row), links.inward(kind)) {
                let next = a_in[at + if group { strip } else { 1 }];
                a_in[at] += weight * next;
            }
            if layout.link_out(row) {
                let next = a_out[at + 1];
                a_out[at] += links.outward(kind) * next;
            }
            if kind.sums() {
                let next = a_s[at + 1];
                a_s[at] += next;
            }
        }

        let mut wb = vec![Fr::ZERO; n + 1];
        self.accumulate_boundary(c, &mut wb);
        let (wa, acc) = self.accumulate_products(c, &links, &a_in, &a_out, &a_x, &mut wb);
        let mut columns = vec![a_in, a_out, a_x, wa, wb, acc, a_s];
        for column in &mut columns {
            column.truncate(n);
        }
        columns.extend(self.lookups(c));
        columns
    }

    fn accumulate_boundary(&self, c: &Challenges<Fr>, wb: &mut [Fr]) {
        let layout = &self.layout;
        let d = layout.spec.shape.hidden;
        let column = power(&c.alpha, layout.boundary.per_column);
        let [of_input, of_output] = boundary_weights(c, &layout.spec.scales);
        for row in (0..layout.boundary.rows()).rev() {
            let both = combination(&column, layout.boundary.columns, |i| {
                of_input * signed(self.boundary_in[i][row]) + of_output * signed(self.boundary_out[i][row])
            });
            let tail = if (row + 1) % d != 0 { c.gamma * wb[row + 1] } else { Fr::ZERO };
            wb[row] = both + tail;
        }
    }

    fn accumulate_products(
        &self,
        c: &Challenges<Fr>,
        links: &Links<Fr>,
        a_in: &[Fr],
        a_out: &[Fr],
        a_x: &[Fr],
        wb: &mut [Fr],
    ) -> (Vec<Fr>, Vec<Fr>) {
        let layout = &self.layout;
        let n = layout.active;
        let mut wa = vec![Fr::ZERO; n + 1];
        let mut acc = vec![Fr::ZERO; n + 1];
        let step = power(&c.gamma, layout.weight_lanes);
        let mut powers = vec![Fr::ONE; layout.weight_lanes];
        for l in 1..powers.len() {
            powers[l] = powers[l - 1] * c.gamma;
        }
        for op in &layout.weight_ops {
            for k in 0..op.inputs {
                let at = op.start + k * op.blocks;
                wa[at] = match op.bias_row() {
                    Some((row, shift)) if row == at => self.bias_factor(c) * pow2::<Fr>(shift),
                    _ => a_in[op.input_row + k],
                };
                for b in 1..op.blocks {
                    wa[at + b] = step * wa[at + b - 1];
                }
            }
            let rows = op.inputs * op.blocks;
            let products = column_sums(&powers, &self.weights, op.start..op.start + rows);
            for i in (0..rows).rev() {
                let next = if i + 1 < rows { acc[op.start + i + 1] } else { Fr::ZERO };
                acc[op.start + i] = wa[op.start + i] * products[i] + next;
            }
        }
        for op in &layout.pair_ops {
            for (i, &((_, left), (_, right))) in op.factors.iter().enumerate().rev() {
                let row = op.start + i;
                wa[row] = a_in[left];
                wb[row] = a_in[right];
                let next = if i + 1 < op.factors.len() { acc[row + 1] } else { Fr::ZERO };
                acc[row] = wa[row] * wb[row] + next;
            }
        }
        // Chains read earlier chains, so run of rows by run of rows, each from its end.
        let mut start = 0;
        while start < layout.chains.len() {
            let length = 1 + layout.chains[start..].iter().take_while(|r| r.link != Link::End).count();
            for row in layout.chains[start..start + length].iter().rev() {
                let (port, at) = row.source;
                wb[row.row] = match port {
                    Port::In => a_in[at],
                    Port::Out => a_out[at],
                    Port::Stream => a_x[at],
                    Port::Left => wa[at],
                    Port::Right => wb[at],
                    Port::Acc => acc[at],
                };
                let next = acc[row.row + 1];
                let tail = match row.link {
                    Link::End => Fr::ZERO,
                    Link::One => next,
                    Link::Alpha => c.alpha * next,
                    Link::Delta => links.delta * next,
                    Link::Eta => c.eta * next,
                };
                acc[row.row] = int::<Fr>(row.coefficient.into()) * wb[row.row] + tail;
            }
            start += length;
        }
        (wa, acc)
    }

    /// `sum_t alpha^t`, or with the counts of a cheating prover.
    fn bias_factor(&self, c: &Challenges<Fr>) -> Fr {
        #[cfg(feature = "cheat")]
        if !self.bias_counts.is_empty() {
            return combination(&c.alpha, self.bias_counts.len(), |t| signed(self.bias_counts[t]));
        }
        geometric(&c.alpha, self.layout.spec.tokens)
    }

    /// The LogUp columns: helpers, table helpers, running sum.
    pub fn lookups(&self, c: &Challenges<Fr>) -> Vec<Vec<Fr>> {
        let layout = &self.layout;
        let (n, lanes) = (layout.active, layout.lanes);
        let inverses = logup::inverses(table_entries(layout), c.theta, c.beta);
        let kinds = self.kinds();
        let helpers = (LOOKUPS * lanes).div_ceil(ARITY);
        let rows: Vec<Vec<Fr>> = map_rows(n, |at| {
            let mut row = vec![Fr::ZERO; helpers];
            for lane in 0..lanes {
                for (i, entry) in self.entries(at, kinds[at], lane).into_iter().enumerate() {
                    let inverse = match entry {
                        Some(entry) => inverses[entry],
                        None => {
                            let v = self.tuple(at, kinds[at], lane, i, c.theta) + c.beta;
                            Option::from(v.invert()).unwrap_or(Fr::ZERO)
                        }
                    };
                    row[(lane * LOOKUPS + i) / ARITY] += inverse;
                }
            }
            row
        });
        let columns = map_rows(helpers, |h| rows.iter().map(|row| row[h]).collect());
        logup::close(columns, &self.multiplicities, &inverses, n)
    }

    /// The advice index of the first column of phase 1, `a_in`.
    fn first_late(&self) -> usize {
        2 * self.layout.boundary.columns + self.weights.len() + self.cells.len() + self.multiplicities.len()
    }

    /// The challenges in the order of the circuit.
    pub fn challenges(known: &[Fr]) -> Challenges<Fr> {
        let at = |i: usize| known.get(i).copied().unwrap_or(Fr::ZERO);
        Challenges { alpha: at(0), gamma: at(1), eta: at(2), theta: at(3), beta: at(4) }
    }
}

struct ValueView<'a> {
    witness: &'a BlockWitness,
    at: usize,
    row: (Option<usize>, Row),
    a_x: Fr,
}

impl ValueView<'_> {
    fn token(&self, lane: usize) -> usize {
        self.row.0.unwrap_or(0) * self.witness.layout.lanes + lane
    }
}

impl RowView<Fr> for ValueView<'_> {
    fn cell(&self, slot: usize, lane: usize) -> Fr {
        self.witness.value(self.at, slot, lane)
    }

    fn rotary(&self, lane: usize) -> (Fr, Fr) {
        let spec = &self.witness.layout.spec;
        match (self.row.1, &spec.scales.rope) {
            (Row::Feature { pair, second, .. }, Some(rope)) => {
                let (cos, sin) = tables::rotary_entry(rope, spec.shape.head_dim, self.token(lane), pair);
                (signed(cos), signed(if second { sin } else { -sin }))
            }
            _ => (Fr::ZERO, Fr::ZERO),
        }
    }

    fn mask(&self, lane: usize) -> Fr {
        match self.row.1 {
            Row::Score { key, .. } if key <= self.token(lane) => Fr::ONE,
            _ => Fr::ZERO,
        }
    }

    fn a_x(&self) -> Fr {
        self.a_x
    }
}

impl Witness for BlockWitness {
    fn columns(&self, phase: u8, challenges: &[Fr]) -> Vec<(usize, Column)> {
        if phase == 0 {
            let mut columns = vec![];
            columns.extend(self.boundary_in.iter().chain(&self.boundary_out).cloned().map(Column::I32));
            columns.extend(self.weights.iter().cloned().map(Column::I16));
            columns.extend((0..self.cells.len()).map(|i| self.cell_column(i)));
            columns.extend(self.multiplicities.iter().cloned().map(Column::I32));
            columns.into_iter().enumerate().collect()
        } else {
            let first = self.first_late();
            self.combine(&Self::challenges(challenges))
                .into_iter()
                .enumerate()
                .map(|(i, column)| (first + i, Column::Field(column)))
                .collect()
        }
    }

    fn steps(&self, phase: u8) -> Option<Vec<Step>> {
        // Biases that are counted otherwise than the gates say follow from no gate.
        #[cfg(feature = "cheat")]
        if !self.bias_counts.is_empty() {
            return None;
        }
        (phase == 1).then(|| steps(&self.layout, self.first_late()))
    }
}

/// How the columns of phase 1 follow from the gates; `first` is the advice index of `a_in`.
///
/// Sums, then what products read of them, then the products' accumulator: once for the products and for chains of sums,
/// once more for each level of chains that read other chains.
fn steps(layout: &Layout, first: usize) -> Vec<Step> {
    let column = |port: Port| {
        first
            + match port {
                Port::In => 0,
                Port::Out => 1,
                Port::Stream => 2,
                Port::Left => 3,
                Port::Right => 4,
                Port::Acc => 5,
            }
    };
    let solve = |column, gate, rotation| Solve { column, rotation, gate, polynomial: 0 };
    let copy = |(port, from): PortCell, to: usize| (column(port), from as u32, to as u32);
    let (a_s, helpers) = (first + 6, (LOOKUPS * layout.lanes).div_ceil(ARITY));
    let [mut fractions, sum] = logup::steps(first + 7, helpers, layout.table_columns().div_ceil(ARITY));
    // Score rows read a_x in a_out.
    fractions.push(solve(column(Port::Stream), "stream/1", 0));
    let mut sums = sum;
    sums.extend([
        solve(column(Port::In), "in/1", 0),
        solve(column(Port::Out), "out/1", 0),
        solve(a_s, "sum/1", 0),
        solve(column(Port::Right), "boundary/1", 0),
    ]);

    let mut left = vec![];
    for op in &layout.weight_ops {
        let starts = 0..op.activations();
        left.extend(starts.map(|k| copy((Port::In, op.input_row + k), op.start + k * op.blocks)));
    }
    let mut right = vec![];
    for op in &layout.pair_ops {
        for (row, (a, b)) in (op.start..).zip(&op.factors) {
            left.push(copy(*a, row));
            right.push(copy(*b, row));
        }
    }
    let mut steps = vec![
        Step::Solve(fractions),
        Step::Solve(sums),
        Step::Copy(Copies { column: column(Port::Left), cells: left }),
    ];
    if layout.weight_ops.iter().any(|op| op.bias.is_some()) {
        steps.push(Step::Solve(vec![solve(column(Port::Left), "product/3", 0)]));
    }
    steps.push(Step::Solve(vec![solve(column(Port::Left), "product/2", 1)]));
    for chains in chain_levels(layout) {
        right.extend(chains.into_iter().map(|row| copy(row.source, row.row)));
        steps.push(Step::Copy(Copies { column: column(Port::Right), cells: std::mem::take(&mut right) }));
        steps.push(Step::Solve(vec![solve(column(Port::Acc), "product/1", 0)]));
    }
    steps
}

/// The rows of the chains by how many accumulators they need before them: none, those of products and chains of none, ..
fn chain_levels(layout: &Layout) -> Vec<Vec<&ChainRow>> {
    let mut levels: Vec<Vec<&ChainRow>> = vec![vec![]];
    // The level of each chain that is placed, by its first row.
    let mut placed = std::collections::BTreeMap::new();
    for chain in layout.chains.split_inclusive(|row| row.link == Link::End) {
        let above = |row: &ChainRow| match row.source {
            (Port::Acc, at) => 1 + placed.get(&at).copied().unwrap_or(0),
            _ => 0,
        };
        let level = chain.iter().map(above).max().unwrap_or(0);
        placed.extend(chain.first().map(|row| (row.row, level)));
        if levels.len() <= level {
            levels.resize(level + 1, vec![]);
        }
        levels[level].extend(chain);
    }
    levels
}

/// The cell columns of a trace.
fn cell_columns(layout: &Layout, trace: &Trace) -> Vec<Vec<i32>> {
    let lanes = layout.lanes;
    let mut cells = map_items(SLOTS * lanes, |_| vec![0i32; layout.active]);
    // Some rows of every column: written lane by lane, so that the trace is read and the columns are written in order.
    let mut blocks: Vec<Vec<&mut [i32]>> = vec![];
    blocks.resize_with(layout.rows().len().div_ceil(LAID_OUT_ROWS), Vec::new);
    for column in &mut cells {
        for (block, part) in blocks.iter_mut().zip(column.chunks_mut(LAID_OUT_ROWS)) {
            block.push(part);
        }
    }
    map_blocks(&mut blocks, 1, |i, block| {
        let rows = i * LAID_OUT_ROWS..(i + 1) * LAID_OUT_ROWS;
        let rows: Vec<_> = rows.filter_map(|at| layout.row_at(at)).collect();
        let mut filled: Vec<Lane> = vec![];
        for columns in block {
            for lane in 0..lanes {
                filled.clear();
                filled.extend(rows.iter().map(|&row| lane_cells(layout, trace, row, lane)));
                for slot in 0..SLOTS {
                    for (cell, row) in columns[slot * lanes + lane].iter_mut().zip(&filled) {
                        *cell = row[slot];
                    }
                }
            }
        }
    });
    cells
}

/// Splits a non-negative integer into limbs of `bits` bits.
fn limbs<const N: usize>(v: u128, bits: u32) -> [i32; N] {
    array::from_fn(|i| ((v >> (bits * i as u32)) & ((1 << bits) - 1)) as i32)
}

/// The cells of lane `l` on a row.
fn lane_cells(layout: &Layout, trace: &Trace, (group, row): (Option<usize>, Row), l: usize) -> Lane {
    let spec = &layout.spec;
    let (s, shape) = (&spec.scales, &spec.shape);
    let t = group.unwrap_or(0) * layout.lanes + l;
    let tokens = spec.tokens;
    let (d, hd) = (shape.hidden, shape.head_dim);
    let mut cells = [0i32; SLOTS];
    let two = |r: i32, shift: u32| {
        let (lo, _) = halves(shift);
        (r & ((1 << lo) - 1), r >> lo)
    };
    let stream = |x: i32| (x >> s.residual_lo_bits, x & ((1 << s.residual_lo_bits) - 1));
    match row {
        Row::Stream(kind, j) => {
            let i = t * d + j;
            let (x, norm, r) = if kind == Kind::StreamIn {
                (trace.x[i], &trace.norm1, 0)
            } else {
                (trace.middle.q[i], &trace.norm2, trace.middle.r[i])
            };
            (cells[A], cells[C2]) = stream(x);
            cells[C5] = r;
            cells[C3] = norm.n.q[i];
            (cells[C4], cells[C6]) = two(norm.n.r[i], s.norm_shift);
            cells[F] = norm.s[t];
        }
        Row::Root(norm) | Row::Remainder(norm, _) => {
            let norm = if norm == Norm::Attn { &trace.norm1 } else { &trace.norm2 };
            let (v, root) = (u128::from(norm.v[t]), norm.s[t] as u128);
            let one = 1u128 << (2 * s.rsqrt_bits);
            match row {
                Row::Root(_) => {
                    let v: [_; 4] = limbs(v, s.limb_bits);
                    let r: [_; 2] = limbs(root, s.limb_bits);
                    cells = [r[0], 0, v[0], v[1], v[2], v[3], r[1], norm.s[t]];
                }
                Row::Remainder(_, above) => {
                    let value =
                        if above { (root + 1) * (root + 1) * v - one - 1 } else { one - root * root * v };
                    for (slot, limb) in LIMBS.into_iter().zip(limbs::<6>(value, s.limb_bits)) {
                        cells[slot] = limb;
                    }
                }
                _ => {}
            }
        }
        Row::Feature { key, head, pair, second } => {
            let (plain, turned, heads) = if key {
                (&trace.key, &trace.key_rotary, shape.kv_heads)
            } else {
                (&trace.query, &trace.query_rotary, shape.heads)
            };
            let base = (t * heads + head) * hd + pair;
            let half = hd / 2;
            let (own, partner) = if second { (base + half, base) } else { (base, base + half) };
            cells[C3] = plain.q[own];
            cells[C4] = plain.r[own];
            if s.rope.is_some() {
                cells[C5] = turned.q[own];
                cells[C6] = turned.r[own];
                cells[F] = plain.q[partner];
            }
        }
        Row::Score { head, key } => {
            let a = &trace.attention;
            let i = (head * tokens + t) * tokens + key;
            cells[A] = a.distance[i];
            cells[B] = a.exp[i];
            cells[C2] = a.score_r[i];
            // The first of the keys that the token attends to where the maximum is attained.
            let attained = key <= t && a.distance[i] == 0 && !a.distance[i - key..i].contains(&0);
            cells[C3] = i32::from(attained);
            cells[C5] = a.prob.q[i];
            (cells[C4], cells[C6]) = two(a.prob.r[i], s.prob_shift);
            cells[F] = a.recip[head * tokens + t];
        }
        Row::Sum(head) => {
            let a = &trace.attention;
            let i = head * tokens + t;
            let rem = (1i64 << s.recip_bits) - i64::from(a.recip[i]) * a.sum[i];
            let low: [_; 2] = limbs(rem as u128, s.limb_bits);
            let rest: [_; 2] = limbs((a.sum[i] - 1 - rem) as u128, s.limb_bits);
            cells = [0, 0, low[0], low[1], rest[0], rest[1], 0, a.recip[i]];
        }
        Row::Max(head) => {
            let a = &trace.attention;
            let i = head * tokens + t;
            let r: [_; 2] = limbs(a.recip[i] as u128, s.limb_bits);
            cells = [a.max[i], 0, r[0], r[1], 0, 0, 0, a.recip[i]];
        }
        Row::MixOut(j) => {
            let mixed = shape.heads * hd;
            if j < mixed {
                cells[C3] = trace.mix.q[t * mixed + j];
                cells[C4] = trace.mix.r[t * mixed + j];
            }
            if j < d {
                (cells[A], cells[C2]) = stream(trace.output.q[t * d + j]);
                cells[C5] = trace.output.r[t * d + j];
            }
        }
        Row::FeedForward(j) => {
            let i = t * shape.ffn + j;
            (cells[A], cells[B], cells[C2]) = (trace.gate.q[i], trace.activated[i], trace.gate.r[i]);
            if let FeedForward::Gated { .. } = s.feed_forward {
                (cells[C3], cells[C4]) = (trace.up.q[i], trace.up.r[i]);
                (cells[C5], cells[C6]) = (trace.glu.q[i], trace.glu.r[i]);
            }
        }
        Row::Value { token, head, block } => {
            for (part, (q, r)) in VALUES.into_iter().enumerate() {
                let j = (block * VALUES.len() + part) * layout.lanes + l;
                (cells[q], cells[r]) = if j < hd {
                    let i = (token * shape.kv_heads + head) * hd + j;
                    (trace.value.q[i], trace.value.r[i])
                } else {
                    // The product of a zero weight column, requantised.
                    (0, 1 << (s.v_shift - 1))
                };
            }
        }
    }
    cells
}
