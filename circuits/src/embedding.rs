//! The embedding slice: token ids to the first boundary, `x[t] = 2^s E[id_t] (+ 2^p P[t])`; centred, without feature 0 of
//! `E` (the rows of the matrix from 1 on; the identity below sums over those).
//!
//! The rows of the committed matrix are selected by one lookup a token, of its row combination:
//!
//! ```text
//! (id_t, sum_j gamma^j x[t,j])  in  {(id, 2^s e[id])},    e[id] = sum_j gamma^j E[id,j]
//! sum_id rho^id e[id]  =  sum_{j,id} gamma^j rho^id E[id,j]
//! ```
//!
//! # Soundness
//! Three phases. Phase 0 fixes ids, activations and weights; then `gamma`; phase 1 holds the combinations of the
//! tokens, defined by their gates, and `e`, which no gate defines: its entries are the prover's. Only then are
//! `rho`, `theta` and `beta` drawn. The second line is an identity of polynomials in `rho` whose coefficients are
//! fixed by then, so every `e[id]` is the combination it should be, up to `vocab/|F|`; the lookup compares tuples
//! fixed by then; and equal combinations mean equal rows, up to `tokens * hidden/|F|`, since rows were fixed before
//! `gamma`. `docs/protocol.md`, "Embedding".

use std::sync::Arc;

use ff::Field;
use halo2_proofs::{
    circuit::{Layouter, Region, SimpleFloorPlanner},
    plonk::{
        Advice, Challenge, Circuit, Column, ConstraintSystem, Error, Expression, FirstPhase, Fixed, Instance,
        SecondPhase, ThirdPhase,
    },
    poly::Rotation,
};
use serde::{Deserialize, Serialize};

use crate::{
    Fr,
    assign::map_rows,
    block::DEGREE,
    boundary::{BoundaryShape, active_rows},
    bounds::{SpecError, require},
    executor::{ExecError, expect_size},
    integers::{column_sums, strided_sums},
    layout::LayoutError,
    logup::{ARITY, LogUp, running_sum, signed},
    matrix::MatrixShape,
    rows::{combination, int, pow2, power},
    slice::{LinkedColumns, MAX_COLUMNS, RefusedParams, SliceCircuit},
    spec::Matrix,
    witness::{self, Witness, assign_witness},
};

/// Everything public about an embedding but its commitments.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingSpec {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Ids: `0..vocab`.
    pub vocab: usize,
    /// Tokens proved, padding tokens included.
    pub tokens: usize,
    /// Width of a weight in bits.
    pub weight_bits: u32,
    /// Width of the residual stream in bits.
    pub stream_bits: u32,
    /// An entry of the matrix enters the stream times `2^shift`.
    pub shift: u32,
    /// Learned positions, where there are: an entry enters the stream times two to this power.
    pub position_shift: Option<u32>,
    /// The stream of a LayerNorm model: feature 0, its mean in the rotated basis, is not read from the matrix. A tied head
    /// reads it there.
    pub centred: bool,
}

/// The integer weights of an embedding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddingWeights {
    /// `[hidden, vocab]`: column `id` is the embedding of `id`. A tied head reads the same matrix, all of it.
    pub matrix: Matrix,
    /// `[positions, hidden]`, at least as many positions as tokens are proved.
    pub positions: Option<Matrix>,
}

impl EmbeddingSpec {
    /// The first feature that is read from the matrix.
    pub fn first_feature(&self) -> usize {
        usize::from(self.centred)
    }

    /// Checks that every output fits the residual stream, whatever the weights.
    ///
    /// # Errors
    /// The parameter, or the relation that could overflow.
    pub fn check(&self) -> Result<(), SpecError> {
        require("hidden", self.hidden as u64, 1, 1 << 16)?;
        require("vocab", self.vocab as u64, 1, 1 << 20)?;
        require("tokens", self.tokens as u64, 1, 1 << 12)?;
        require("weight_bits", self.weight_bits.into(), 2, 16)?;
        require("stream_bits", self.stream_bits.into(), 2, 31)?;
        require("shift", self.shift.into(), 0, 29)?;
        require("position_shift", self.position_shift.unwrap_or(0).into(), 0, 29)?;
        let needed = match self.position_shift {
            Some(position) => self.weight_bits + self.shift.max(position) + 1,
            None => self.weight_bits + self.shift,
        };
        if needed > self.stream_bits {
            let available = self.stream_bits;
            return Err(SpecError::Bound { relation: "embed/stream", needed, available });
        }
        Ok(())
    }
}

/// The first boundary `[tokens, hidden]` of `ids`: the specification of the slice.
///
/// # Errors
/// [`ExecError::Size`] for weights or ids of the wrong number, [`ExecError::Token`] for an id outside the
/// vocabulary.
pub fn embed(spec: &EmbeddingSpec, weights: &EmbeddingWeights, ids: &[u32]) -> Result<Vec<i32>, ExecError> {
    let (d, vocab) = (spec.hidden, spec.vocab);
    expect_size("embedding", d * vocab, weights.matrix.data.len())?;
    expect_size("embedding columns", vocab, weights.matrix.cols)?;
    expect_size("tokens", spec.tokens, ids.len())?;
    let positions = match (spec.position_shift, &weights.positions) {
        (Some(shift), Some(p)) => {
            expect_size("position features", d, p.cols)?;
            expect_size("positions", spec.tokens, p.rows.min(p.data.len() / d).min(spec.tokens))?;
            Some((shift, p))
        }
        (None, None) => None,
        (Some(_), None) => {
            return Err(ExecError::Size { what: "positions", expected: spec.tokens, actual: 0 });
        }
        (None, Some(p)) => return Err(ExecError::Size { what: "positions", expected: 0, actual: p.rows }),
    };
    let mut x = Vec::with_capacity(spec.tokens * d);
    for (t, &id) in ids.iter().enumerate() {
        let id = id as usize;
        if id >= vocab {
            return Err(ExecError::Token { token: t, id, vocab });
        }
        for j in 0..d {
            let read = j >= spec.first_feature();
            let own = if read { i32::from(weights.matrix.data[j * vocab + id]) << spec.shift } else { 0 };
            let place = positions.map_or(0, |(shift, p)| i32::from(p.data[t * d + j]) << shift);
            x.push(own + place);
        }
    }
    Ok(x)
}

/// What determines an embedding's verifying key, given the SRS.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingParams {
    /// The embedding.
    pub spec: EmbeddingSpec,
    /// Weight columns of the matrix: those of the head, where it is tied.
    pub weight_lanes: usize,
    /// Log of the number of rows.
    pub k: u32,
}

impl EmbeddingParams {
    /// Where everything stands.
    ///
    /// # Errors
    /// An unsound specification, or rows that do not fit.
    pub fn layout(&self) -> Result<EmbeddingLayout, LayoutError> {
        let (s, k) = (&self.spec, self.k);
        s.check()?;
        let active = active_rows(k);
        let rows = |what, needed| LayoutError::Rows { what, needed, available: active, k };
        let boundary = BoundaryShape::new(active, s.hidden, s.tokens)
            .ok_or_else(|| rows("one token of a boundary", s.hidden))?;
        let matrix = MatrixShape::new(s.hidden, s.vocab, self.weight_lanes);
        if self.weight_lanes == 0 || self.weight_lanes > s.vocab || matrix.rows() > active {
            return Err(rows("the embedding matrix", matrix.rows()));
        }
        if active < 2 {
            return Err(rows("a sum over the vocabulary", 2));
        }
        // One row is left over, so that sums down the entries end at a row that the gates hold on.
        let table_columns = s.vocab.div_ceil(active - 1);
        let table_rows = s.vocab.div_ceil(table_columns);
        Ok(EmbeddingLayout { spec: s.clone(), k, active, boundary, matrix, table_columns, table_rows })
    }
}

/// Where everything of an embedding stands.
#[derive(Clone, Debug)]
pub struct EmbeddingLayout {
    /// The embedding.
    pub spec: EmbeddingSpec,
    /// Rows are `2^k`.
    pub k: u32,
    /// Active rows.
    pub active: usize,
    /// The output boundary; ids stand at the first rows of its tokens.
    pub boundary: BoundaryShape,
    /// The matrix in the weight columns.
    pub matrix: MatrixShape,
    /// Columns of row combinations: id `m table_rows + r` stands in column `m`, row `r`.
    pub table_columns: usize,
    /// Rows of those columns in use; fewer in the last.
    pub table_rows: usize,
}

impl EmbeddingLayout {
    /// The input boundary: `id + 1` on the first row of each token, 0 elsewhere.
    pub fn ids(&self, ids: &[u32]) -> Vec<Vec<i32>> {
        let mut columns = vec![vec![0i32; self.active]; self.boundary.columns];
        for (t, &id) in ids.iter().enumerate() {
            let (column, row) = self.boundary.place(t);
            columns[column][row] = id.saturating_add(1) as i32;
        }
        columns
    }

    /// The weight columns: the matrix, then the positions as a boundary stands.
    pub fn weight_columns(&self, weights: &EmbeddingWeights) -> Vec<Vec<i16>> {
        let mut columns = vec![vec![0i16; self.active]; self.matrix.lanes];
        self.matrix.place(&weights.matrix, 0, &mut columns);
        if let (Some(_), Some(p)) = (self.spec.position_shift, &weights.positions) {
            let used = &p.data[..self.spec.tokens * self.spec.hidden];
            columns.extend(used.chunks(self.boundary.rows()).map(|chunk| {
                let mut column = chunk.to_vec();
                column.resize(self.active, 0);
                column
            }));
        }
        columns
    }

    fn position_columns(&self) -> usize {
        self.spec.position_shift.map_or(0, |_| self.boundary.columns)
    }

    /// The rows of the matrix that are read.
    pub fn matrix_rows(&self) -> std::ops::Range<usize> {
        self.spec.first_feature() * self.matrix.blocks..self.matrix.rows()
    }

    /// Whether table column `m` has an entry on `row`.
    fn has_entry(&self, m: usize, row: usize) -> bool {
        row < self.table_rows && m * self.table_rows + row < self.spec.vocab
    }

    /// The token whose first row is `row` of boundary column `column`: `None` if none is, or beyond the last.
    fn token_at(&self, column: usize, row: usize) -> Option<usize> {
        let (d, per) = (self.boundary.hidden, self.boundary.per_column);
        let token = column * per + row / d;
        (row < per * d && row.is_multiple_of(d) && token < self.spec.tokens).then_some(token)
    }
}

/// Columns and challenges of the embedding circuit.
#[derive(Clone, Debug)]
pub struct EmbeddingColumns {
    ids: Vec<Column<Advice>>,
    out: Vec<Column<Advice>>,
    weights: Vec<Column<Advice>>,
    positions: Vec<Column<Advice>>,
    /// Row combinations `e`, phase 1.
    rows: Vec<Column<Advice>>,
    /// Token combinations, phase 1.
    tokens: Vec<Column<Advice>>,
    /// Combination of the matrix, phase 2.
    matrix_sum: Column<Advice>,
    /// Combination of `e`, phase 2.
    rows_sum: Column<Advice>,
    logup: LogUp,
    on_matrix: Column<Fixed>,
    /// The next row holds the next ids of this feature.
    link_block: Column<Fixed>,
    /// The next feature begins `blocks` rows below.
    link_feature: Column<Fixed>,
    on_boundary: Column<Fixed>,
    link_boundary: Column<Fixed>,
    /// First rows of tokens, in all boundary columns but the last (where there are more), and in the last.
    starts: Vec<Column<Fixed>>,
    /// First rows of what the last boundary column holds beyond the last token.
    spare: Column<Fixed>,
    /// Row number plus 1: the id of table column 0 as the input boundary has it.
    id: Column<Fixed>,
    /// Rows with an entry, in all table columns but the last (where there are more), and in the last.
    entries: Vec<Column<Fixed>>,
    /// The statement's digest.
    pub instance: Column<Instance>,
    gamma: Challenge,
    rho: Challenge,
    theta: Challenge,
    beta: Challenge,
}

impl EmbeddingColumns {
    fn advice(&self) -> Vec<Column<Advice>> {
        let l = &self.logup;
        let groups: [&[Column<Advice>]; 10] = [
            &self.ids,
            &self.out,
            &self.weights,
            &self.positions,
            &l.multiplicities,
            &self.rows,
            &self.tokens,
            &l.helpers,
            &l.table_helpers,
            &[self.matrix_sum, self.rows_sum, l.sum],
        ];
        groups.into_iter().flatten().copied().collect()
    }

    fn allocate(meta: &mut ConstraintSystem<Fr>, layout: &EmbeddingLayout) -> Self {
        let (b, m) = (layout.boundary.columns, layout.table_columns);
        let first =
            |meta: &mut ConstraintSystem<Fr>, n| (0..n).map(|_| meta.advice_column_in(FirstPhase)).collect();
        let ids = first(meta, b);
        let out = first(meta, b);
        let weights = first(meta, layout.matrix.lanes);
        let positions = first(meta, layout.position_columns());
        let multiplicities = LogUp::multiplicities(meta, m);
        let second =
            |meta: &mut ConstraintSystem<Fr>, n| (0..n).map(|_| meta.advice_column_in(SecondPhase)).collect();
        let rows = second(meta, m);
        let tokens = second(meta, b);
        let matrix_sum = meta.advice_column_in(ThirdPhase);
        let rows_sum = meta.advice_column_in(ThirdPhase);
        let active = meta.fixed_column();
        let logup =
            LogUp::over_columns(meta, multiplicities, b, active, |meta| meta.advice_column_in(ThirdPhase));
        let mut one = || meta.fixed_column();
        EmbeddingColumns {
            ids,
            out,
            weights,
            positions,
            rows,
            tokens,
            matrix_sum,
            rows_sum,
            logup,
            on_matrix: one(),
            link_block: one(),
            link_feature: one(),
            on_boundary: one(),
            link_boundary: one(),
            starts: (0..b.min(2)).map(|_| one()).collect(),
            spare: one(),
            id: one(),
            entries: (0..m.min(2)).map(|_| one()).collect(),
            instance: meta.instance_column(),
            gamma: meta.challenge_usable_after(FirstPhase),
            rho: meta.challenge_usable_after(SecondPhase),
            theta: meta.challenge_usable_after(SecondPhase),
            beta: meta.challenge_usable_after(SecondPhase),
        }
    }

    fn gates(&self, meta: &mut ConstraintSystem<Fr>, layout: &EmbeddingLayout) {
        let (cur, next) = (Rotation::cur(), Rotation::next());
        let spec = &layout.spec;
        let (b, m) = (layout.boundary.columns, layout.table_columns);
        let entry = |i: usize| self.entries[usize::from(m > 1 && i + 1 == m)];
        let start = |c: usize| self.starts[usize::from(b > 1 && c + 1 == b)];
        meta.create_gate("boundary/1", |meta| {
            let active = meta.query_fixed(self.logup.active, cur);
            let on = meta.query_fixed(self.on_boundary, cur);
            let link = meta.query_fixed(self.link_boundary, cur) * meta.query_challenge(self.gamma);
            (0..b)
                .map(|c| {
                    let mut x = meta.query_advice(self.out[c], cur);
                    if let (Some(shift), Some(&column)) = (spec.position_shift, self.positions.get(c)) {
                        x = x - meta.query_advice(column, cur) * pow2::<Expression<Fr>>(shift);
                    }
                    let token = meta.query_advice(self.tokens[c], cur);
                    let tail = link.clone() * meta.query_advice(self.tokens[c], next);
                    active.clone() * token - on.clone() * x - tail
                })
                .collect::<Vec<_>>()
        });
        meta.create_gate("embed/1", |meta| {
            let active = meta.query_fixed(self.logup.active, cur);
            let (gamma, rho) = (meta.query_challenge(self.gamma), meta.query_challenge(self.rho));
            let weights: Vec<_> = self.weights.iter().map(|&w| meta.query_advice(w, cur)).collect();
            let own = combination(&rho, weights.len(), |l| weights[l].clone());
            let block = meta.query_fixed(self.link_block, cur) * power(&rho, layout.matrix.lanes);
            let feature = meta.query_fixed(self.link_feature, cur) * gamma;
            let below = Rotation(layout.matrix.blocks as i32);
            let sum = meta.query_advice(self.matrix_sum, cur);
            [active * sum
                - meta.query_fixed(self.on_matrix, cur) * own
                - block * meta.query_advice(self.matrix_sum, next)
                - feature * meta.query_advice(self.matrix_sum, below)]
        });
        meta.create_gate("embed/2", |meta| {
            let active = meta.query_fixed(self.logup.active, cur);
            let rho = meta.query_challenge(self.rho);
            let step = power(&rho, layout.table_rows);
            let rows: Vec<_> = (0..m)
                .map(|i| meta.query_fixed(entry(i), cur) * meta.query_advice(self.rows[i], cur))
                .collect();
            let own = combination(&step, m, |i| rows[i].clone());
            // Column 0 has an entry on every row that has one.
            let link = meta.query_fixed(entry(0), cur) * rho;
            [active * meta.query_advice(self.rows_sum, cur)
                - own
                - link * meta.query_advice(self.rows_sum, next)]
        });
        meta.create_gate("embed/3", |meta| {
            // Row 0: of the two ends of the running sum, the other is the row after the last active one.
            let first = meta.query_fixed(self.logup.active, cur) * meta.query_fixed(self.logup.ends, cur);
            [first * (meta.query_advice(self.matrix_sum, cur) - meta.query_advice(self.rows_sum, cur))]
        });
        meta.create_gate("embed/4", |meta| {
            [meta.query_fixed(self.spare, cur) * meta.query_advice(self.tokens[b - 1], cur)]
        });
        self.logup.gates_over(
            meta,
            self.beta,
            |meta| {
                let theta = meta.query_challenge(self.theta);
                (0..b)
                    .map(|c| {
                        let id = meta.query_advice(self.ids[c], cur);
                        let token = meta.query_advice(self.tokens[c], cur);
                        (id + theta.clone() * token, meta.query_fixed(start(c), cur))
                    })
                    .collect()
            },
            |meta| {
                let theta = meta.query_challenge(self.theta) * pow2::<Expression<Fr>>(spec.shift);
                (0..m)
                    .map(|i| {
                        let id = meta.query_fixed(self.id, cur) + int((i * layout.table_rows) as i128);
                        let row = meta.query_advice(self.rows[i], cur);
                        let count = meta.query_advice(self.logup.multiplicities[i], cur);
                        (id + theta.clone() * row, meta.query_fixed(entry(i), cur) * count)
                    })
                    .collect()
            },
        );
    }

    fn assign_fixed(&self, region: &mut Region<'_, Fr>, layout: &EmbeddingLayout) {
        let (b, m) = (layout.boundary.columns, layout.table_columns);
        let mut set = |column: Column<Fixed>, row: usize, on: bool| {
            if on {
                region.assign_fixed(column, row, Fr::ONE);
            }
        };
        let (matrix, d) = (&layout.matrix, layout.spec.hidden);
        for row in 0..layout.active {
            set(self.logup.active, row, true);
            let read = layout.matrix_rows().contains(&row);
            set(self.on_matrix, row, read);
            set(self.link_block, row, read && !(row + 1).is_multiple_of(matrix.blocks));
            let last = matrix.rows() - matrix.blocks;
            set(self.link_feature, row, row < last && row.is_multiple_of(matrix.blocks));
            set(self.on_boundary, row, row < layout.boundary.rows());
            set(self.link_boundary, row, row < layout.boundary.rows() && !(row + 1).is_multiple_of(d));
            for (&column, c) in self.starts.iter().zip([0, b - 1]) {
                set(column, row, layout.token_at(c, row).is_some());
            }
            let first = row < layout.boundary.rows() && row.is_multiple_of(d);
            set(self.spare, row, first && layout.token_at(b - 1, row).is_none());
            for (&column, i) in self.entries.iter().zip([0, m - 1]) {
                set(column, row, layout.has_entry(i, row));
            }
        }
        for row in 0..layout.table_rows {
            region.assign_fixed(self.id, row, Fr::from(row as u64 + 1));
        }
        self.logup.assign_ends(region, layout.active);
    }
}

/// The circuit of an embedding. Without a witness it serves key generation.
#[derive(Clone, Debug)]
pub struct EmbeddingCircuit {
    /// Public parameters.
    pub params: EmbeddingParams,
    /// The layout of `params`.
    pub layout: Arc<EmbeddingLayout>,
    /// Columns of phase 0.
    pub witness: Option<Arc<EmbeddingWitness>>,
}

impl EmbeddingCircuit {
    /// The circuit without a witness.
    ///
    /// # Errors
    /// See [`EmbeddingParams::layout`].
    pub fn new(params: &EmbeddingParams) -> Result<Self, LayoutError> {
        Ok(Self { params: params.clone(), layout: Arc::new(params.layout()?), witness: None })
    }

    /// The circuit with a witness laid out for the same parameters.
    pub fn with_witness(&self, witness: Arc<EmbeddingWitness>) -> Self {
        Self { witness: Some(witness), ..self.clone() }
    }
}

impl Default for EmbeddingParams {
    /// The smallest embedding of the tests; halo2 asks for a default.
    fn default() -> Self {
        crate::testing::tiny_embedding()
    }
}

impl Circuit<Fr> for EmbeddingCircuit {
    type Config = (EmbeddingColumns, Arc<EmbeddingLayout>);
    type FloorPlanner = SimpleFloorPlanner;
    type Params = EmbeddingParams;

    fn params(&self) -> EmbeddingParams {
        self.params.clone()
    }

    fn without_witnesses(&self) -> Self {
        Self { witness: None, ..self.clone() }
    }

    fn configure_with_params(meta: &mut ConstraintSystem<Fr>, params: EmbeddingParams) -> Self::Config {
        // Callers check the parameters first; halo2 leaves no way to return an error here.
        #[expect(clippy::expect_used, reason = "documented precondition: params.layout() is Ok")]
        let layout = params.layout().expect("parameters were checked by EmbeddingParams::layout");
        let columns = EmbeddingColumns::allocate(meta, &layout);
        columns.gates(meta, &layout);
        meta.set_minimum_degree(DEGREE);
        (columns, Arc::new(layout))
    }

    fn configure(_: &mut ConstraintSystem<Fr>) -> Self::Config {
        unreachable!("halo2 calls configure_with_params when circuits have parameters")
    }

    fn synthesize(
        &self,
        (columns, layout): Self::Config,
        mut layouter: impl Layouter<Fr>,
    ) -> Result<(), Error> {
        layouter.assign_region(
            || "embedding",
            |mut region| {
                columns.assign_fixed(&mut region, &layout);
                let witness = self.witness.as_deref().map(|witness| witness as &dyn Witness);
                let drawn = [&[columns.gamma][..], &[columns.rho, columns.theta, columns.beta]];
                assign_witness(&mut region, &columns.advice(), witness, &drawn);
                Ok(())
            },
        )
    }
}

impl SliceCircuit for EmbeddingCircuit {
    fn check(params: &EmbeddingParams) -> Result<(), RefusedParams> {
        if params.k > 20 {
            return Err(RefusedParams { reason: "k is above 20" });
        }
        if params.weight_lanes > MAX_COLUMNS {
            return Err(RefusedParams { reason: "the embedding has too many weight columns" });
        }
        match params.layout() {
            Ok(layout) if layout.table_columns > MAX_COLUMNS => {
                Err(RefusedParams { reason: "the embedding has too many rows for its k" })
            }
            Ok(_) => Ok(()),
            Err(LayoutError::Spec(_)) => {
                Err(RefusedParams { reason: "the embedding's specification breaks a static bound" })
            }
            Err(_) => Err(RefusedParams { reason: "the embedding does not fit its rows" }),
        }
    }

    fn log_n(params: &EmbeddingParams) -> u32 {
        params.k
    }

    fn degree(_: &EmbeddingParams) -> usize {
        DEGREE
    }

    fn weight_bits(params: &EmbeddingParams) -> Option<u32> {
        Some(params.spec.weight_bits)
    }

    fn linked(params: &EmbeddingParams) -> LinkedColumns {
        let Ok(layout) = params.layout() else { return LinkedColumns::default() };
        let b = layout.boundary.columns;
        LinkedColumns {
            boundary_in: 0..b,
            boundary_out: b..2 * b,
            weights: 2 * b..2 * b + layout.matrix.lanes + layout.position_columns(),
        }
    }
}

/// Phase 0 of an embedding, and what the later phases need.
#[derive(Clone, Debug)]
pub struct EmbeddingWitness {
    /// The layout.
    pub layout: Arc<EmbeddingLayout>,
    /// Input boundary columns.
    pub ids: Vec<Arc<Vec<i32>>>,
    /// Output boundary columns.
    pub out: Vec<Arc<Vec<i32>>>,
    /// Weight columns; shared between proofs.
    pub weights: Arc<Vec<Arc<Vec<i16>>>>,
    /// Multiplicity columns.
    pub multiplicities: Vec<Arc<Vec<i32>>>,
    /// Additions to `e` that a cheating prover chooses in phase 1, `(table column, row)`.
    #[cfg(feature = "cheat")]
    pub added: std::collections::BTreeMap<(usize, usize), Fr>,
}

impl EmbeddingWitness {
    /// Lays out `ids` and their embeddings `x` with the weight columns of
    /// [`EmbeddingLayout::weight_columns`].
    pub fn new(
        layout: &Arc<EmbeddingLayout>,
        weights: Arc<Vec<Arc<Vec<i16>>>>,
        ids: &[u32],
        x: &[i32],
    ) -> Self {
        let shared = |columns: Vec<Vec<i32>>| columns.into_iter().map(Arc::new).collect();
        let mut witness = EmbeddingWitness {
            layout: layout.clone(),
            ids: shared(layout.ids(ids)),
            out: shared(layout.boundary.of(x)),
            weights,
            multiplicities: vec![],
            #[cfg(feature = "cheat")]
            added: std::collections::BTreeMap::new(),
        };
        witness.count();
        witness
    }

    /// Recomputes the multiplicities from the ids; ids outside the vocabulary are not counted.
    pub fn count(&mut self) {
        let layout = &self.layout;
        let mut counts = vec![vec![0i32; layout.active]; layout.table_columns];
        for (c, column) in self.ids.iter().enumerate() {
            for (row, &id) in column.iter().enumerate() {
                let inside = (1..=layout.spec.vocab as i64).contains(&i64::from(id));
                if inside && layout.token_at(c, row).is_some() {
                    let id = (id - 1) as usize;
                    counts[id / layout.table_rows][id % layout.table_rows] += 1;
                }
            }
        }
        self.multiplicities = counts.into_iter().map(Arc::new).collect();
    }

    /// `e` and the combinations of the tokens.
    fn combine(&self, gamma: Fr) -> (Vec<Vec<Fr>>, Vec<Vec<Fr>>) {
        let layout = &self.layout;
        let matrix = &layout.matrix;
        let mut powers = vec![Fr::ONE; matrix.features];
        for j in 1..matrix.features {
            powers[j] = powers[j - 1] * gamma;
        }
        // Entry `b` of lane `l` is id `b lanes + l`.
        let read = layout.matrix_rows();
        let skipped = layout.spec.first_feature();
        let lanes = map_rows(matrix.lanes, |l| {
            strided_sums(&powers[skipped..], &self.weights[l], read.start, matrix.blocks)
        });
        let all: Vec<Fr> =
            (0..layout.spec.vocab).map(|id| lanes[id % matrix.lanes][id / matrix.lanes]).collect();
        #[cfg_attr(not(feature = "cheat"), expect(unused_mut, reason = "cheats add to the rows"))]
        let mut rows: Vec<Vec<Fr>> = all
            .chunks(layout.table_rows)
            .map(|chunk| {
                let mut column = chunk.to_vec();
                column.resize(layout.active, Fr::ZERO);
                column
            })
            .collect();
        #[cfg(feature = "cheat")]
        for (&(column, row), &value) in &self.added {
            rows[column][row] += value;
        }
        let positions = &self.weights[matrix.lanes..];
        let scale = layout.spec.position_shift.map_or(Fr::ZERO, pow2::<Fr>);
        let tokens = (0..layout.boundary.columns)
            .map(|c| {
                let mut column = vec![Fr::ZERO; layout.active];
                for row in (0..layout.boundary.rows()).rev() {
                    let place = positions.get(c).map_or(Fr::ZERO, |p| signed(p[row].into()) * scale);
                    let linked = !(row + 1).is_multiple_of(layout.spec.hidden);
                    let tail = if linked { gamma * column[row + 1] } else { Fr::ZERO };
                    column[row] = signed(self.out[c][row]) - place + tail;
                }
                column
            })
            .collect();
        (rows, tokens)
    }

    fn close(&self, gamma: Fr, rho: Fr, theta: Fr, beta: Fr) -> Vec<Vec<Fr>> {
        let layout = &self.layout;
        let (n, matrix) = (layout.active, &layout.matrix);
        let (rows, tokens) = self.combine(gamma);
        let mut powers = vec![Fr::ONE; matrix.lanes];
        for l in 1..matrix.lanes {
            powers[l] = powers[l - 1] * rho;
        }
        let step = powers[matrix.lanes - 1] * rho;
        let read = layout.matrix_rows();
        let mut matrix_sum = vec![Fr::ZERO; read.start];
        matrix_sum.extend(column_sums(&powers, &self.weights, read.clone()));
        matrix_sum.resize(n, Fr::ZERO);
        for row in (0..matrix.rows()).rev() {
            let mut tail = Fr::ZERO;
            if read.contains(&row) && !(row + 1).is_multiple_of(matrix.blocks) {
                tail += step * matrix_sum[row + 1];
            }
            if row.is_multiple_of(matrix.blocks) && row + matrix.blocks < matrix.rows() {
                tail += gamma * matrix_sum[row + matrix.blocks];
            }
            matrix_sum[row] += tail;
        }
        let mut rows_sum = vec![Fr::ZERO; n];
        let step = power(&rho, layout.table_rows);
        for row in (0..layout.table_rows).rev() {
            let entry = |i| if layout.has_entry(i, row) { rows[i][row] } else { Fr::ZERO };
            rows_sum[row] = combination(&step, layout.table_columns, entry) + rho * rows_sum[row + 1];
        }
        let inverse = |v: Fr| Option::from((v + beta).invert()).unwrap_or(Fr::ZERO);
        let sum_of =
            |range: std::ops::Range<usize>, f: &(dyn Fn(usize) -> Fr + Sync)| -> Fr { range.map(f).sum() };
        let helpers: Vec<Vec<Fr>> = (0..layout.boundary.columns.div_ceil(ARITY))
            .map(|h| {
                let part = h * ARITY..layout.boundary.columns.min((h + 1) * ARITY);
                map_rows(n, |row| {
                    sum_of(part.clone(), &|c| match layout.token_at(c, row) {
                        Some(_) => inverse(signed(self.ids[c][row]) + theta * tokens[c][row]),
                        None => Fr::ZERO,
                    })
                })
            })
            .collect();
        let scale = theta * pow2::<Fr>(layout.spec.shift);
        let table_helpers: Vec<Vec<Fr>> = (0..layout.table_columns.div_ceil(ARITY))
            .map(|h| {
                let part = h * ARITY..layout.table_columns.min((h + 1) * ARITY);
                map_rows(n, |row| {
                    sum_of(part.clone(), &|i| {
                        let count = self.multiplicities[i][row];
                        if count == 0 || !layout.has_entry(i, row) {
                            return Fr::ZERO;
                        }
                        let id = Fr::from((i * layout.table_rows + row) as u64 + 1);
                        signed(count) * inverse(id + scale * rows[i][row])
                    })
                })
            })
            .collect();
        let sum = running_sum(&helpers, &table_helpers, n);
        let mut columns = vec![matrix_sum, rows_sum];
        columns.extend(helpers);
        columns.extend(table_helpers);
        columns.push(sum);
        columns
    }
}

impl Witness for EmbeddingWitness {
    fn columns(&self, phase: u8, challenges: &[Fr]) -> Vec<(usize, witness::Column)> {
        let at = |i: usize| challenges.get(i).copied().unwrap_or(Fr::ZERO);
        let first = 2 * self.layout.boundary.columns + self.weights.len() + self.multiplicities.len();
        let second = self.layout.table_columns + self.layout.boundary.columns;
        let (start, columns) = match phase {
            0 => {
                let i32s =
                    |c: &[Arc<Vec<i32>>]| c.iter().cloned().map(witness::Column::I32).collect::<Vec<_>>();
                let mut columns = i32s(&self.ids);
                columns.extend(i32s(&self.out));
                columns.extend(self.weights.iter().cloned().map(witness::Column::I16));
                columns.extend(i32s(&self.multiplicities));
                (0, columns)
            }
            1 => {
                let (rows, tokens) = self.combine(at(0));
                (first, rows.into_iter().chain(tokens).map(witness::Column::Field).collect())
            }
            _ => {
                let columns = self.close(at(0), at(1), at(2), at(3));
                (first + second, columns.into_iter().map(witness::Column::Field).collect())
            }
        };
        columns.into_iter().enumerate().map(|(i, column)| (start + i, column)).collect()
    }
}
