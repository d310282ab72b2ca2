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
        A, B, C2, Challenges, Kind, LIMBS, LOOKUPS, Programs, RowView, SLOTS, VALUES, combination, geometric,
        halves, int, pow2, power,
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

/// Threads that work at once.
fn threads() -> usize {
    #[cfg(feature = "parallel")]
    return rayon::current_num_threads();
    #[cfg(not(feature = "parallel"))]
    1
}

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

/// Rows on end of one lane that a lookup has in one table.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    lookup: usize,
    lane: usize,
    rows: Range<usize>,
}

/// The runs of each table of a layout.
pub(crate) fn runs(layout: &Layout) -> Vec<Vec<Run>> {
    let mut of_tables: Vec<Vec<Run>> = layout.tables.tables.iter().map(|_| vec![]).collect();
    let rows: Vec<_> = (0..layout.active).map(|at| layout.row_at(at)).collect();
    for lane in 0..layout.lanes {
        let mut first = 0;
        for alike in rows.chunk_by(|a, b| Looked::of(layout, *a, lane) == Looked::of(layout, *b, lane)) {
            let rows = first..first + alike.len();
            first = rows.end;
            let tables = Looked::of(layout, alike[0], lane).tables(&layout.spec);
            for (lookup, table) in tables.into_iter().enumerate() {
                of_tables[layout.tables.index(table)].push(Run { lookup, lane, rows: rows.clone() });
            }
        }
    }
    of_tables
}

/// Cuts runs into shares of some `cells` each.
fn shared(runs: &[Run], cells: usize) -> impl Iterator<Item = &[Run]> {
    let mut taken = 0;
    runs.chunk_by(move |run, _| {
        taken += run.rows.len();
        let full = taken >= cells;
        if full {
            taken = 0;
        }
        !full
    })
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
        let of_tables = layout.looked_up();
        let cells: usize = of_tables.iter().flatten().map(|run| run.rows.len()).sum();
        let shares: Vec<(usize, &[Run])> = of_tables
            .iter()
            .enumerate()
            .flat_map(|(table, runs)| {
                shared(runs, cells.div_ceil(2 * threads())).map(move |runs| (table, runs))
            })
            .collect();
        let counts = map_items(shares.len(), |at| self.counted(shares[at].0, shares[at].1));
        self.multiplicities = map_items(layout.table_columns(), |at| {
            let column = at * layout.active..(at + 1) * layout.active;
            let mut sums = vec![0i32; layout.active];
            for ((table, _), counts) in shares.iter().zip(&counts) {
                let (start, _, size) = layout.tables.spans[*table];
                let entries = start.max(column.start)..(start + size).min(column.end);
                if entries.is_empty() {
                    continue;
                }
                let sums = &mut sums[entries.start - column.start..entries.end - column.start];
                for (sum, count) in sums.iter_mut().zip(&counts[entries.start - start..]) {
                    *sum += count;
                }
            }
            Arc::new(sums)
        });
    }

    /// How often the entries of a table are looked up in some runs.
    fn counted(&self, table: usize, runs: &[Run]) -> Vec<i32> {
        let layout = &self.layout;
        let (start, first, size) = layout.tables.spans[table];
        let outputs = &layout.table_outputs()[start..start + size];
        let mut counts = vec![0i32; size];
        for Run { lookup, lane, rows } in runs {
            let cells = &self.cells[looked_up(*lookup) * layout.lanes + lane][rows.clone()];
            let offsets = cells.iter().map(|cell| (i64::from(*cell) - i64::from(first)) as usize);
            let offsets = rows.clone().zip(offsets).filter(|(at, _)| !self.replaced(*at, *lane, *lookup));
            if *lookup == 0 {
                let others = &self.cells[B * layout.lanes + lane][rows.clone()];
                for ((_, offset), other) in offsets.zip(others) {
                    if outputs.get(offset) == Some(other) {
                        counts[offset] += 1;
                    }
                }
            } else {
                for (_, offset) in offsets {
                    if let Some(count) = counts.get_mut(offset) {
                        *count += 1;
                    }
                }
            }
        }
        counts
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
        let mut first = 0;
        for run in rows.chunk_by(goes_on) {
            let places = first..first + run.len();
            first = places.end;
            for columns in block.iter_mut() {
                for lane in 0..lanes {
                    let mut slots = columns.iter_mut().skip(lane).step_by(lanes);
                    let cells =
                        array::from_fn(|_| slots.next().map_or(&mut [][..], |it| &mut it[places.clone()]));
                    lay_out(layout, trace, run[0], lane, cells);
                }
            }
        }
    });
    cells
}

/// Whether two rows, one after the other, are two of those that [`lay_out`] writes at once.
fn goes_on((group, row): &(Option<usize>, Row), (next_group, next): &(Option<usize>, Row)) -> bool {
    group == next_group
        && match (row, next) {
            (Row::Stream(kind, _), Row::Stream(next, _)) => kind == next,
            (Row::Feature { key, head, .. }, Row::Feature { key: next_key, head: next_head, .. }) => {
                (key, head) == (next_key, next_head)
            }
            (Row::Score { head, .. }, Row::Score { head: next, .. }) => head == next,
            (Row::MixOut(_), Row::MixOut(_)) | (Row::FeedForward(_), Row::FeedForward(_)) => true,
            _ => false,
        }
}

/// Splits a non-negative integer into limbs of `bits` bits.
fn limbs<const N: usize>(v: u128, bits: u32) -> [i32; N] {
    array::from_fn(|i| ((v >> (bits * i as u32)) & ((1 << bits) - 1)) as i32)
}

/// Writes cells, as many as there are in both.
fn put(cells: &mut [i32], values: impl IntoIterator<Item = i32>) {
    for (cell, value) in cells.iter_mut().zip(values) {
        *cell = value;
    }
}

/// Writes the cells of lane `l` on a row, and on those that go on from it; zeros stay what they are.
///
/// # Shapes
/// cells: of each slot those of the rows.
fn lay_out(
    layout: &Layout,
    trace: &Trace,
    (group, row): (Option<usize>, Row),
    l: usize,
    cells: [&mut [i32]; SLOTS],
) {
    let spec = &layout.spec;
    let (s, shape) = (&spec.scales, &spec.shape);
    let t = group.unwrap_or(0) * layout.lanes + l;
    let (d, hd, tokens) = (shape.hidden, shape.head_dim, spec.tokens);
    let rows = cells[A].len();
    // By their numbers.
    let [a, b, c2, c3, c4, c5, c6, f] = cells;
    let copied = |values: &[i32], at: usize, to: &mut [i32]| to.copy_from_slice(&values[at..at + to.len()]);
    // The lower bits of each value, and the rest.
    let cut = |values: &[i32], low_bits: u32, low: &mut [i32], high: &mut [i32]| {
        put(low, values.iter().map(|v| v & ((1 << low_bits) - 1)));
        put(high, values.iter().map(|v| v >> low_bits));
    };
    let halved = |values: &[i32], shift: u32, low: &mut [i32], high: &mut [i32]| {
        cut(values, halves(shift).0, low, high);
    };
    match row {
        Row::Stream(kind, j) => {
            let i = t * d + j;
            let (x, norm) = if kind == Kind::StreamIn {
                (&trace.x, &trace.norm1)
            } else {
                copied(&trace.middle.r, i, c5);
                (&trace.middle.q, &trace.norm2)
            };
            cut(&x[i..i + rows], s.residual_lo_bits, c2, a);
            copied(&norm.n.q, i, c3);
            halved(&norm.n.r[i..i + rows], s.norm_shift, c4, c6);
            f.fill(norm.s[t]);
        }
        Row::Feature { key, head, pair, second } => {
            let (plain, turned, heads) = if key {
                (&trace.key, &trace.key_rotary, shape.kv_heads)
            } else {
                (&trace.query, &trace.query_rotary, shape.heads)
            };
            let (base, half) = ((t * heads + head) * hd, hd / 2);
            for at in 0..rows {
                let place = 2 * pair + usize::from(second) + at;
                let (first, odd) = (base + place / 2, place % 2);
                let own = first + half * odd;
                c3[at] = plain.q[own];
                c4[at] = plain.r[own];
                if s.rope.is_some() {
                    c5[at] = turned.q[own];
                    c6[at] = turned.r[own];
                    f[at] = plain.q[first + half * (1 - odd)];
                }
            }
        }
        Row::Score { head, key } => {
            let of = &trace.attention;
            let first = (head * tokens + t) * tokens;
            let i = first + key;
            copied(&of.distance, i, a);
            copied(&of.exp, i, b);
            copied(&of.score_r, i, c2);
            copied(&of.prob.q, i, c5);
            halved(&of.prob.r[i..i + rows], s.prob_shift, c4, c6);
            // The first of the keys that the token attends to where the maximum is attained.
            let attained = of.distance[first..=first + t].iter().position(|distance| *distance == 0);
            if let Some(cell) = attained.and_then(|at| c3.get_mut(at.checked_sub(key)?)) {
                *cell = 1;
            }
            f.fill(of.recip[head * tokens + t]);
        }
        Row::MixOut(j) => {
            let mixed = shape.heads * hd;
            let of_mix = mixed.saturating_sub(j).min(rows);
            copied(&trace.mix.q, t * mixed + j.min(mixed), &mut c3[..of_mix]);
            copied(&trace.mix.r, t * mixed + j.min(mixed), &mut c4[..of_mix]);
            let of_stream = d.saturating_sub(j).min(rows);
            let i = t * d + j.min(d);
            cut(&trace.output.q[i..i + of_stream], s.residual_lo_bits, c2, a);
            copied(&trace.output.r, i, &mut c5[..of_stream]);
        }
        Row::FeedForward(j) => {
            let i = t * shape.ffn + j;
            copied(&trace.gate.q, i, a);
            copied(&trace.activated, i, b);
            copied(&trace.gate.r, i, c2);
            if let FeedForward::Gated { .. } = s.feed_forward {
                copied(&trace.up.q, i, c3);
                copied(&trace.up.r, i, c4);
                copied(&trace.glu.q, i, c5);
                copied(&trace.glu.r, i, c6);
            }
        }
        Row::Root(_) | Row::Remainder(..) | Row::Sum(_) | Row::Max(_) | Row::Value { .. } => {
            let row = single(layout, trace, row, t, l);
            for (cells, value) in [a, b, c2, c3, c4, c5, c6, f].into_iter().zip(row) {
                cells.fill(value);
            }
        }
    }
}

/// The cells of lane `l` on a row that nothing goes on from; `t`: its token, where the row has a group.
fn single(layout: &Layout, trace: &Trace, row: Row, t: usize, l: usize) -> [i32; SLOTS] {
    let spec = &layout.spec;
    let (s, shape) = (&spec.scales, &spec.shape);
    let of_head = |head: usize| {
        let i = head * spec.tokens + t;
        (trace.attention.max[i], trace.attention.sum[i], trace.attention.recip[i])
    };
    let mut cells = [0i32; SLOTS];
    match row {
        Row::Root(norm) | Row::Remainder(norm, _) => {
            let norm = if norm == Norm::Attn { &trace.norm1 } else { &trace.norm2 };
            let (v, root) = (u128::from(norm.v[t]), norm.s[t] as u128);
            let one = 1u128 << (2 * s.rsqrt_bits);
            if let Row::Remainder(_, above) = row {
                let value = if above { (root + 1) * (root + 1) * v - one - 1 } else { one - root * root * v };
                for (slot, limb) in LIMBS.into_iter().zip(limbs::<6>(value, s.limb_bits)) {
                    cells[slot] = limb;
                }
            } else {
                let v: [_; 4] = limbs(v, s.limb_bits);
                let r: [_; 2] = limbs(root, s.limb_bits);
                cells = [r[0], 0, v[0], v[1], v[2], v[3], r[1], norm.s[t]];
            }
        }
        Row::Sum(head) => {
            let (_, sum, recip) = of_head(head);
            let rem = (1i64 << s.recip_bits) - i64::from(recip) * sum;
            let low: [_; 2] = limbs(rem as u128, s.limb_bits);
            let rest: [_; 2] = limbs((sum - 1 - rem) as u128, s.limb_bits);
            cells = [0, 0, low[0], low[1], rest[0], rest[1], 0, recip];
        }
        Row::Max(head) => {
            let (max, _, recip) = of_head(head);
            let r: [_; 2] = limbs(recip as u128, s.limb_bits);
            cells = [max, 0, r[0], r[1], 0, 0, 0, recip];
        }
        Row::Value { token, head, block } => {
            for (part, (q, r)) in VALUES.into_iter().enumerate() {
                let j = (block * VALUES.len() + part) * layout.lanes + l;
                (cells[q], cells[r]) = if j < shape.head_dim {
                    let i = (token * shape.kv_heads + head) * shape.head_dim + j;
                    (trace.value.q[i], trace.value.r[i])
                } else {
                    // The product of a zero weight column, requantised.
                    (0, 1 << (s.v_shift - 1))
                };
            }
        }
        Row::Stream(..) | Row::Feature { .. } | Row::Score { .. } | Row::MixOut(_) | Row::FeedForward(_) => {}
    }
    cells
}
