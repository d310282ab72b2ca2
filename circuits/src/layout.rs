//! The planner: where every row, weight, copy and table entry of a block stands.
//!
//! The *cell region* holds the row programs: `G` strips of equal shape, one per group of `L` tokens, then the
//! value rows. The *product region* (other columns, same rows) holds the weights, the attention products
//! and the chains that close each operation.

use std::sync::OnceLock;

use thiserror::Error;

use crate::{
    assign::{Looked, Run, runs},
    boundary::{BoundaryShape, active_rows},
    bounds::SpecError,
    rows::{Kind, LOOKUPS, VALUES},
    spec::{BlockSpec, BlockWeights, FeedForward, Matrix},
    tables::Table,
};

/// Rows that halo2 reserves: five blinding rows and the last row.
pub const UNUSABLE_ROWS: usize = 6;

/// Which norm of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// Before attention.
    Attn,
    /// Before the feed-forward layer.
    Ffn,
}

/// The meaning of one row of the cell region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// Stream feature `j`: input or middle by kind.
    Stream(Kind, usize),
    /// Reciprocal root.
    Root(Norm),
    /// Remainder below (`false`) or above (`true`).
    Remainder(Norm, bool),
    /// A query or key feature: head, rotary pair, second half of the pair.
    Feature {
        /// Key (else query).
        key: bool,
        /// Head.
        head: usize,
        /// Pair index.
        pair: usize,
        /// Second feature of the pair.
        second: bool,
    },
    /// Scores of `head` against key `key`.
    Score {
        /// Head.
        head: usize,
        /// Key token.
        key: usize,
    },
    /// Sum row of a head.
    Sum(usize),
    /// Maximum row of a head.
    Max(usize),
    /// Mixed feature `j` of the concatenated heads, and feature `j` of the output stream.
    MixOut(usize),
    /// Feed-forward feature.
    FeedForward(usize),
    /// Value features `3 block L ..` of one token and head.
    Value {
        /// Token.
        token: usize,
        /// Key-value head.
        head: usize,
        /// Block of features.
        block: usize,
    },
}

impl Row {
    /// The row program.
    pub fn kind(self) -> Kind {
        match self {
            Row::Stream(kind, _) => kind,
            Row::Root(_) => Kind::Root,
            Row::Remainder(..) => Kind::Remainder,
            Row::Feature { key: false, .. } => Kind::Query,
            Row::Feature { key: true, .. } => Kind::Key,
            Row::Score { .. } => Kind::Score,
            Row::Sum(_) => Kind::Sum,
            Row::Max(_) => Kind::Max,
            Row::MixOut(_) => Kind::MixOut,
            Row::FeedForward(_) => Kind::FeedForward,
            Row::Value { .. } => Kind::Value,
        }
    }
}

/// Why no layout fits.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The specification itself is unsound.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The lanes do not divide the tokens.
    #[error("{lanes} lanes do not divide {tokens} tokens")]
    Lanes {
        /// Lanes asked for.
        lanes: usize,
        /// Tokens of the specification.
        tokens: usize,
    },
    /// The embedding and the head are not of one model.
    #[error("{what}: {embedding} in the embedding, {head} in the head")]
    Ends {
        /// What differs.
        what: &'static str,
        /// In the embedding.
        embedding: usize,
        /// In the head.
        head: usize,
    },
    /// The rows do not fit.
    #[error("{what} needs {needed} rows, k = {k} has {available}")]
    Rows {
        /// Which region.
        what: &'static str,
        /// Rows needed.
        needed: usize,
        /// Rows available.
        available: usize,
        /// Log of the row count.
        k: u32,
    },
}

/// One weight matrix in the product region: rows `(k, b)`, `b` fastest, `ceil(cols / weight_lanes)` each.
#[derive(Clone, Debug)]
pub struct WeightOp {
    /// Constraint id.
    pub id: &'static str,
    /// First row in the product region.
    pub start: usize,
    /// Inputs, of which the last is the bias where there is one.
    pub inputs: usize,
    /// The bias enters times `2^shift`: its left factor is that, for every token.
    pub bias: Option<u32>,
    /// Outputs in the order of their rows; `None` is a lane that must stay zero.
    pub outputs: Vec<Option<(Source, usize)>>,
    /// Rows per input.
    pub blocks: usize,
    /// Row of the cell region (group 0) whose `a_in` is input 0; inputs follow row by row.
    pub input_row: usize,
}

impl WeightOp {
    /// Inputs that are activations.
    pub fn activations(&self) -> usize {
        self.inputs - usize::from(self.bias.is_some())
    }

    /// The row whose left factor is the bias's, and its shift.
    pub fn bias_row(&self) -> Option<(usize, u32)> {
        self.bias.map(|shift| (self.start + self.activations() * self.blocks, shift))
    }
}

/// A matrix of [`BlockWeights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of BlockWeights")]
pub enum Source {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

impl Source {
    /// The matrix itself, `None` where the block has none.
    pub fn matrix(self, w: &BlockWeights) -> Option<&Matrix> {
        match self {
            Source::Q => Some(&w.q),
            Source::K => Some(&w.k),
            Source::V => Some(&w.v),
            Source::O => Some(&w.o),
            Source::Gate => Some(&w.gate),
            Source::Up => w.up.as_ref(),
            Source::Down => Some(&w.down),
        }
    }
}

/// A phase-1 column under the permutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    /// `a_in`.
    In,
    /// `a_out`.
    Out,
    /// `a_x`.
    Stream,
    /// `wa`, left factor of the product region.
    Left,
    /// `wb`, right factor, chain entry and boundary accumulator.
    Right,
    /// `acc`, accumulator of the product region.
    Acc,
}

/// A cell of a phase-1 column.
pub type PortCell = (Port, usize);

/// How an accumulator row weighs the row below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Not at all.
    End,
    /// By 1.
    One,
    /// By `alpha` (next token).
    Alpha,
    /// By `alpha^L` (next group).
    Delta,
    /// By `eta` (next relation).
    Eta,
}

/// A chain row: `acc = coefficient * wb + link * acc(next)`, `wb` a copy of `source`.
#[derive(Clone, Debug)]
pub struct ChainRow {
    /// Row of the product region.
    pub row: usize,
    /// What `wb` copies.
    pub source: PortCell,
    /// Constant factor.
    pub coefficient: i64,
    /// Weight of the chain below.
    pub link: Link,
}

/// An attention product: rows `acc = wa wb + acc(next)`.
#[derive(Clone, Debug)]
pub struct PairOp {
    /// First row.
    pub start: usize,
    /// What `wa` and `wb` copy, row by row.
    pub factors: Vec<(PortCell, PortCell)>,
}

/// A table among the entries of its set: first entry, first `in` and size.
pub type Span = (usize, i32, usize);

/// The tables of a layout, concatenated and cut into columns of [`Layout::active`] rows.
#[derive(Clone, Debug)]
pub struct TableSet {
    /// The tables; table `i` has tag `i + 1`.
    pub tables: Vec<Table>,
    /// Where each stands.
    pub spans: Vec<Span>,
    /// Entries in all.
    pub entries: usize,
}

impl TableSet {
    /// The set of `tables`, each once, where `domain` says first `in` and size.
    pub fn new(mut tables: Vec<Table>, domain: impl Fn(Table) -> (i32, usize)) -> Self {
        tables.sort_unstable();
        tables.dedup();
        let mut entries = 0;
        let spans = tables
            .iter()
            .map(|&table| {
                let (first, size) = domain(table);
                let span = (entries, first, size);
                entries += size;
                span
            })
            .collect();
        TableSet { tables, spans, entries }
    }

    /// All entries `(in, out, tag)` of a set of ranges: every `out` is 0.
    pub fn ranges(&self) -> impl Iterator<Item = (i32, i32, u32)> + '_ {
        self.spans.iter().enumerate().flat_map(|(i, &(_, first, size))| {
            (0..size as i32).map(move |offset| (first + offset, 0, i as u32 + 1))
        })
    }

    /// Position of a table in [`TableSet::tables`].
    pub fn index(&self, table: Table) -> usize {
        self.tables.iter().position(|&t| t == table).unwrap_or(usize::MAX)
    }
}

/// Where everything stands.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The block.
    pub spec: BlockSpec,
    /// Rows are `2^k`.
    pub k: u32,
    /// Lanes `L`.
    pub lanes: usize,
    /// Token groups `G = tokens / L`.
    pub groups: usize,
    /// Weight columns.
    pub weight_lanes: usize,
    /// Active rows: gates that read the next row are on for rows below this.
    pub active: usize,
    /// Rows of a strip.
    pub strip: Vec<Row>,
    /// First value row.
    pub value_start: usize,
    /// Blocks of value features per head.
    pub value_blocks: usize,
    /// Boundary columns, on each side.
    pub boundary: BoundaryShape,
    /// Products with weights.
    pub weight_ops: Vec<WeightOp>,
    /// Products of activations.
    pub pair_ops: Vec<PairOp>,
    /// Closing chains.
    pub chains: Vec<ChainRow>,
    /// Copies beside those of chains and products: closing equalities.
    pub equalities: Vec<(PortCell, PortCell)>,
    /// Lookup tables.
    pub tables: TableSet,
    /// Where the tables of each way to look cells up stand, in the order of [`Looked::all`].
    pub(crate) lookup_spans: Vec<[Span; LOOKUPS]>,
    /// See [`Layout::looked_up`].
    looked_up: OnceLock<Vec<Vec<Run>>>,
    /// See [`Layout::table_outputs`].
    table_outputs: OnceLock<Vec<i32>>,
    /// Rows used of the cell region and the product region.
    pub rows_used: (usize, usize),
}

impl Layout {
    /// Lays a block out with `lanes` lanes on `2^k` rows, with as few weight columns as fit.
    ///
    /// # Errors
    /// An unsound specification, or rows that do not fit.
    pub fn new(spec: &BlockSpec, lanes: usize, k: u32) -> Result<Layout, LayoutError> {
        spec.check()?;
        let (s, tokens) = (&spec.shape, spec.tokens);
        if lanes == 0 || tokens % lanes != 0 {
            return Err(LayoutError::Lanes { lanes, tokens });
        }
        let groups = tokens / lanes;
        let active = active_rows(k);
        let strip_length = strip_length(spec);
        let value_start = groups * strip_length;
        let value_blocks = s.head_dim.div_ceil(VALUES.len() * lanes);
        let cell_rows = value_start + tokens * s.kv_heads * value_blocks;
        let fits = |what, needed: usize| {
            if needed <= active {
                Ok(())
            } else {
                Err(LayoutError::Rows { what, needed, available: active, k })
            }
        };
        fits("the cell region", cell_rows)?;
        let Some(boundary) = BoundaryShape::new(active, s.hidden, tokens) else {
            let what = "one token of a boundary";
            return Err(LayoutError::Rows { what, needed: s.hidden, available: active, k });
        };
        // Parameters may come from a stranger's card: nothing is allocated before the rows are known to fit.
        let strip = strip_rows(spec);
        debug_assert_eq!(strip.len(), strip_length);
        let tables = table_set(spec);

        let mut layout = Layout {
            spec: spec.clone(),
            k,
            lanes,
            groups,
            weight_lanes: 0,
            active,
            strip,
            value_start,
            value_blocks,
            boundary,
            weight_ops: vec![],
            pair_ops: vec![],
            chains: vec![],
            equalities: vec![],
            lookup_spans: lookup_spans(spec, &tables),
            tables,
            looked_up: OnceLock::new(),
            table_outputs: OnceLock::new(),
            rows_used: (cell_rows, 0),
        };
        let tail = layout.tail_rows();
        let fits_with = |lanes: usize| layout.weight_rows(lanes).max(boundary.rows()) + tail <= active;
        let most = 1 + s.ffn.max(layout.qk_width()).max(s.hidden);
        let first = (1..=most).find(|&w| fits_with(w));
        let Some(weight_lanes) = first else {
            let needed = layout.weight_rows(most).max(boundary.rows()) + tail;
            return Err(LayoutError::Rows { what: "the product region", needed, available: active, k });
        };
        layout.weight_lanes = weight_lanes;
        layout.place_products();
        Ok(layout)
    }

    fn qk_width(&self) -> usize {
        (self.spec.shape.heads + self.spec.shape.kv_heads) * self.spec.shape.head_dim
    }

    /// Features that the value rows of one head hold, those beyond the head's own included.
    fn value_features(&self) -> usize {
        self.value_blocks * VALUES.len() * self.lanes
    }

    fn v_width(&self) -> usize {
        self.spec.shape.kv_heads * self.value_features()
    }

    /// Inputs, the bias included, and outputs of the products with weights.
    fn product_sizes(&self) -> [(usize, usize); 5] {
        let (s, c) = (&self.spec.shape, &self.spec.scales);
        let first = match c.feed_forward {
            FeedForward::Gated { .. } => 2 * s.ffn,
            FeedForward::Plain => s.ffn,
        };
        let mut sizes = [
            (s.hidden, self.qk_width()),
            (s.hidden, self.v_width()),
            (s.heads * s.head_dim, s.hidden),
            (s.hidden, first),
            (s.ffn, s.hidden),
        ];
        for ((inputs, _), bias) in sizes.iter_mut().zip(c.bias.list()) {
            *inputs += usize::from(bias.is_some());
        }
        sizes
    }

    /// Weights of the block, biases included.
    pub fn weights(&self) -> usize {
        let used = |op: &WeightOp| op.inputs * op.outputs.iter().flatten().count();
        self.weight_ops.iter().map(used).sum()
    }

    fn weight_rows(&self, lanes: usize) -> usize {
        self.product_sizes().iter().map(|(inputs, outputs)| inputs * outputs.div_ceil(lanes)).sum()
    }

    /// Rows of attention products and chains.
    fn tail_rows(&self) -> usize {
        let (s, g, t) = (&self.spec.shape, self.groups, self.spec.tokens);
        let pairs = s.heads * (s.head_dim + t);
        // qk, v, scores and mixes, o, gate, boundary and down (four chains)
        pairs + g + t + 2 * s.heads * g + 2 * g + g + (self.boundary.per_column + 2 + g) + 2 * g + 3
    }

    /// Row of the cell region where `row` of group `group` stands; only for rows that exist.
    pub fn row_of(&self, group: usize, row: Row) -> usize {
        match row {
            Row::Value { token, head, block } => {
                let per_token = self.spec.shape.kv_heads * self.value_blocks;
                self.value_start + token * per_token + head * self.value_blocks + block
            }
            _ => {
                let s = &self.spec.shape;
                let (d, t, qk) = (s.hidden, self.spec.tokens, self.qk_width());
                let qw = s.heads * s.head_dim;
                let scores = d + 3 + qk;
                let mix = scores + s.heads * (t + 2);
                let mid = mix + qw.max(d);
                let ffn = mid + d + 3;
                let at = match row {
                    Row::Stream(Kind::StreamIn, j) => j,
                    Row::Stream(_, j) => mid + j,
                    Row::Root(Norm::Attn) => d,
                    Row::Root(Norm::Ffn) => mid + d,
                    Row::Remainder(norm, above) => {
                        1 + usize::from(above) + if norm == Norm::Attn { d } else { mid + d }
                    }
                    Row::Feature { key, head, pair, second } => {
                        let head = head + if key { s.heads } else { 0 };
                        d + 3 + head * s.head_dim + 2 * pair + usize::from(second)
                    }
                    Row::Score { head, key } => scores + head * (t + 2) + key,
                    Row::Sum(head) => scores + head * (t + 2) + t,
                    Row::Max(head) => scores + head * (t + 2) + t + 1,
                    Row::MixOut(j) => mix + j,
                    Row::FeedForward(j) => ffn + j,
                    Row::Value { .. } => 0,
                };
                group * self.strip.len() + at
            }
        }
    }

    /// The rows of the cell region in order, each with its group (`None` for value rows).
    pub fn rows(&self) -> impl ExactSizeIterator<Item = (Option<usize>, Row)> + '_ {
        (0..self.rows_used.0).map(|at| self.used_row(at))
    }

    /// The row at `at` and its group; `None` below the cell region.
    pub fn row_at(&self, at: usize) -> Option<(Option<usize>, Row)> {
        (at < self.rows_used.0).then(|| self.used_row(at))
    }

    fn used_row(&self, at: usize) -> (Option<usize>, Row) {
        let Some(at) = at.checked_sub(self.value_start) else {
            return (Some(at / self.strip.len()), self.strip[at % self.strip.len()]);
        };
        let (head, block) = (at / self.value_blocks, at % self.value_blocks);
        let heads = self.spec.shape.kv_heads;
        (None, Row::Value { token: head / heads, head: head % heads, block })
    }

    /// Whether `a_in` of this row also takes in the next group's row (or the next block of values).
    pub fn link_in(&self, group: Option<usize>, row: Row) -> bool {
        match row {
            Row::Value { block, .. } => block + 1 < self.value_blocks,
            Row::Root(_) | Row::Remainder(..) | Row::Sum(_) | Row::Max(_) => false,
            _ => group.is_some_and(|g| g + 1 < self.groups),
        }
    }

    /// Whether `a_out` continues into the next row, weighted as its kind says.
    pub fn link_out(&self, row: Row) -> bool {
        let s = &self.spec.shape;
        match row {
            Row::Stream(Kind::StreamIn, _) | Row::Root(_) | Row::Sum(_) | Row::Max(_) => false,
            Row::Stream(_, j) => j + 1 < s.hidden,
            Row::Remainder(_, above) => !above,
            Row::Feature { key, head, pair, second } => {
                !(key && head + 1 == s.kv_heads && pair + 1 == s.head_dim / 2 && second)
            }
            Row::Score { key, .. } => key + 1 < self.spec.tokens,
            Row::MixOut(j) => j < s.heads * s.head_dim && (j + 1) % s.head_dim != 0,
            Row::FeedForward(j) => j + 1 < s.ffn,
            Row::Value { head, block, .. } => head + 1 < s.kv_heads || block + 1 < self.value_blocks,
        }
    }

    /// Whether `a_x` continues into the next row (streams by `gamma`, maxima by 1).
    pub fn link_stream(&self, row: Row) -> bool {
        match row {
            Row::Stream(_, j) | Row::MixOut(j) => j + 1 < self.spec.shape.hidden,
            Row::Score { .. } | Row::Sum(_) => true,
            _ => false,
        }
    }

    /// Whether `a_s` must be zero here: the first row of a sum.
    pub fn sum_closes(&self, row: Row) -> bool {
        matches!(row, Row::Stream(Kind::StreamIn | Kind::StreamMid, 0) | Row::Score { key: 0, .. })
    }

    fn place_products(&mut self) {
        let spec = self.spec.clone();
        let (s, t, g) = (&spec.shape, spec.tokens, self.groups);
        let (hd, group) = (s.head_dim, s.heads / s.kv_heads);
        let norm1 = self.row_of(0, Row::Stream(Kind::StreamIn, 0));
        let norm2 = self.row_of(0, Row::Stream(Kind::StreamMid, 0));
        let all = |source, n: usize| (0..n).map(|j| Some((source, j))).collect::<Vec<_>>();
        // Queries and keys stand pair by pair.
        let pairwise = |source, heads: usize| {
            (0..heads * hd).map(move |j| {
                let (head, pair, second) = (j / hd, j % hd / 2, j % 2);
                Some((source, head * hd + pair + second * (hd / 2)))
            })
        };
        let qk: Vec<_> = pairwise(Source::Q, s.heads).chain(pairwise(Source::K, s.kv_heads)).collect();
        let padded = self.value_features();
        let v = (0..s.kv_heads * padded)
            .map(|j| (j % padded < hd).then_some((Source::V, j / padded * hd + j % padded)))
            .collect();
        let (first_id, first) = match spec.scales.feed_forward {
            // Feature by feature, so that both stand in one row of the outputs.
            FeedForward::Gated { .. } => (
                "matmul/gate-up",
                (0..s.ffn).flat_map(|j| [Some((Source::Gate, j)), Some((Source::Up, j))]).collect(),
            ),
            FeedForward::Plain => ("matmul/gate", all(Source::Gate, s.ffn)),
        };
        let mut at = 0;
        let lanes = self.weight_lanes;
        let mut ops = vec![];
        let products = [
            ("matmul/qk", qk, norm1),
            ("matmul/v", v, norm1),
            ("matmul/o", all(Source::O, s.hidden), self.row_of(0, Row::MixOut(0))),
            (first_id, first, norm2),
            ("matmul/down", all(Source::Down, s.hidden), self.row_of(0, Row::FeedForward(0))),
        ];
        let sizes = self.product_sizes().into_iter().zip(spec.scales.bias.list());
        for ((id, outputs, input_row), ((inputs, width), bias)) in products.into_iter().zip(sizes) {
            debug_assert_eq!(outputs.len(), width, "{id}");
            let blocks = width.div_ceil(lanes);
            ops.push(WeightOp { id, start: at, inputs, bias, outputs, blocks, input_row });
            at += inputs * blocks;
        }
        at = at.max(self.boundary.rows());

        let mut pairs = vec![];
        for h in 0..s.heads {
            let kv = h / group;
            let feature = |key, head, j: usize| {
                self.row_of(0, Row::Feature { key, head, pair: j / 2, second: j % 2 == 1 })
            };
            let factors = (0..hd)
                .map(|j| ((Port::In, feature(false, h, j)), (Port::In, feature(true, kv, j))))
                .collect();
            pairs.push(PairOp { start: at, factors });
            at += hd;
            let factors = (0..t)
                .map(|key| {
                    let p = self.row_of(0, Row::Score { head: h, key });
                    let v = self.row_of(0, Row::Value { token: key, head: kv, block: 0 });
                    ((Port::In, p), (Port::In, v))
                })
                .collect();
            pairs.push(PairOp { start: at, factors });
            at += t;
        }

        let mut chains: Vec<ChainRow> = vec![];
        let mut equalities = vec![];
        // Appends a chain and returns its first cell.
        let mut chain = |rows: Vec<(PortCell, i64, Link)>| -> PortCell {
            let first = at;
            let last = rows.len() - 1;
            for (i, (source, coefficient, link)) in rows.into_iter().enumerate() {
                let link = if i == last { Link::End } else { link };
                chains.push(ChainRow { row: at, source, coefficient, link });
                at += 1;
            }
            (Port::Acc, first)
        };
        let acc = |start| (Port::Acc, start);
        // sum over groups of delta^group * port(row)
        let groups = |port, row: Row| -> Vec<(PortCell, i64, Link)> {
            (0..g).map(|i| ((port, self.row_of(i, row)), 1, Link::Delta)).collect()
        };
        let first_query = Row::Feature { key: false, head: 0, pair: 0, second: false };
        let qk_out = chain(groups(Port::Out, first_query));
        equalities.push((acc(ops[0].start), qk_out));
        let v_out = chain(
            (0..t)
                .map(|token| {
                    let row = self.row_of(0, Row::Value { token, head: 0, block: 0 });
                    ((Port::Out, row), 1, Link::Alpha)
                })
                .collect(),
        );
        equalities.push((acc(ops[1].start), v_out));
        for h in 0..s.heads {
            let scores = chain(groups(Port::Out, Row::Score { head: h, key: 0 }));
            equalities.push((acc(pairs[2 * h].start), scores));
            let mixed = chain(groups(Port::Out, Row::MixOut(h * hd)));
            equalities.push((acc(pairs[2 * h + 1].start), mixed));
        }
        let (stream_in, stream_mid) = (Row::Stream(Kind::StreamIn, 0), Row::Stream(Kind::StreamMid, 0));
        // The middle stream as it was before requantisation, less the input that was added to the product.
        let added = (0..g)
            .flat_map(|i| {
                let shift = spec.scales.attn_out_shift;
                [
                    ((Port::Out, self.row_of(i, stream_mid)), 1, Link::One),
                    ((Port::Stream, self.row_of(i, stream_in)), -(1i64 << shift), Link::Delta),
                ]
            })
            .collect();
        let o_out = chain(added);
        equalities.push((acc(ops[2].start), o_out));
        let first_out = chain(groups(Port::Out, Row::FeedForward(0)));
        equalities.push((acc(ops[3].start), first_out));

        // Both boundaries and the last product close in one equality, three relations by powers of eta:
        //   committed + product + 2^s middle = remainders + eta output + eta^2 input,
        //   committed = eta^2 boundary_in + (eta - 2^s) boundary_out    (gate boundary/1).
        let committed = chain(
            (0..self.boundary.per_column)
                .map(|token| ((Port::Right, token * s.hidden), 1, Link::Alpha))
                .collect(),
        );
        let mut left = vec![(committed, 1, Link::One), (acc(ops[4].start), 1, Link::One)];
        left.extend(
            groups(Port::Stream, stream_mid)
                .into_iter()
                .map(|(source, one, link)| (source, one << spec.scales.ffn_out_shift, link)),
        );
        let left = chain(left);
        let input = chain(groups(Port::Stream, stream_in));
        let output = chain(groups(Port::Stream, Row::MixOut(0)));
        let right = chain(vec![(output, 1, Link::Eta), (input, 0, Link::Eta), (input, 1, Link::End)]);
        equalities.push((left, right));

        self.rows_used.1 = at;
        self.weight_ops = ops;
        self.pair_ops = pairs;
        self.chains = chains;
        self.equalities = equalities;
    }

    /// Fixed columns of tables.
    pub fn table_columns(&self) -> usize {
        self.tables.entries.div_ceil(self.active)
    }

    /// The cells that are looked up in each table; computed at the first call.
    pub(crate) fn looked_up(&self) -> &[Vec<Run>] {
        self.looked_up.get_or_init(|| runs(self))
    }

    /// The `out` of every table entry; computed at the first call.
    pub fn table_outputs(&self) -> &[i32] {
        self.table_outputs.get_or_init(|| {
            let set = &self.tables;
            let mut outputs = Vec::with_capacity(set.entries);
            for (&table, &(_, first, size)) in set.tables.iter().zip(&set.spans) {
                outputs
                    .extend((0..size as i32).map(|offset| table.output(&self.spec.scales, first + offset)));
            }
            outputs
        })
    }

    /// The weight columns of `weights`, in column order, `active` rows each.
    ///
    /// # Shapes
    /// Row `(k, b)` of an operation holds outputs `b * weight_lanes ..` of input `k`.
    pub fn weight_columns(&self, weights: &BlockWeights) -> Vec<Vec<i16>> {
        let lanes = self.weight_lanes;
        let mut columns = vec![vec![0i16; self.active]; lanes];
        for op in &self.weight_ops {
            for (j, output) in op.outputs.iter().enumerate() {
                let Some((source, j_source)) = *output else { continue };
                let Some(matrix) = source.matrix(weights) else { continue };
                let column = &mut columns[j % lanes];
                for k in 0..op.inputs {
                    column[op.start + k * op.blocks + j / lanes] = matrix.data[k * matrix.cols + j_source];
                }
            }
        }
        columns
    }
}

/// Rows of a strip.
fn strip_length(spec: &BlockSpec) -> usize {
    let (s, t) = (&spec.shape, spec.tokens);
    let mixed = s.heads * s.head_dim;
    2 * s.hidden + 6 + mixed.max(s.hidden) + mixed + s.kv_heads * s.head_dim + s.heads * (t + 2) + s.ffn
}

fn strip_rows(spec: &BlockSpec) -> Vec<Row> {
    let (s, t) = (&spec.shape, spec.tokens);
    let mut rows = vec![];
    let stream = |kind| (0..s.hidden).map(move |j| Row::Stream(kind, j));
    let root = |norm| [Row::Root(norm), Row::Remainder(norm, false), Row::Remainder(norm, true)];
    rows.extend(stream(Kind::StreamIn));
    rows.extend(root(Norm::Attn));
    for (key, heads) in [(false, s.heads), (true, s.kv_heads)] {
        for head in 0..heads {
            for pair in 0..s.head_dim / 2 {
                rows.extend([false, true].map(|second| Row::Feature { key, head, pair, second }));
            }
        }
    }
    for head in 0..s.heads {
        rows.extend((0..t).map(|key| Row::Score { head, key }));
        rows.extend([Row::Sum(head), Row::Max(head)]);
    }
    rows.extend((0..s.hidden.max(s.heads * s.head_dim)).map(Row::MixOut));
    rows.extend(stream(Kind::StreamMid));
    rows.extend(root(Norm::Ffn));
    rows.extend((0..s.ffn).map(Row::FeedForward));
    rows
}

fn table_set(spec: &BlockSpec) -> TableSet {
    let mut tables = vec![Table::Signed(spec.scales.act_bits), Table::Exp];
    for kind in Kind::ALL {
        tables.extend::<[Table; LOOKUPS]>(kind.tables(spec));
    }
    TableSet::new(tables, |table| table.domain(&spec.scales))
}

fn lookup_spans(spec: &BlockSpec, set: &TableSet) -> Vec<[Span; LOOKUPS]> {
    Looked::all().map(|looked| looked.tables(spec).map(|table| set.spans[set.index(table)])).collect()
}
