//! Choosing a layout, and saying what it costs before anything is proved.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive};

use halo2_proofs::plonk::{Circuit, ConstraintSystem};
use serde::Serialize;

use crate::{
    Fr,
    block::{BlockCircuit, BlockParams, DEGREE},
    embedding::{EmbeddingCircuit, EmbeddingParams, EmbeddingSpec},
    head::{self, HeadSpec, circuit::HeadCircuit, layout::HeadParams},
    layout::{Layout, LayoutError},
    logup::ARITY,
    model::fit_ends,
    rows::LOOKUPS,
    slice::SliceCircuit,
    spec::BlockSpec,
};

/// Nanoseconds of one core for one row of one column, by what the prover does with it.
///
/// Measured on a 2-core AMD EPYC (Zen 4, vector kernels), 2026-11, see `docs/performance.md`; only their ratios
/// decide between layouts.
mod cost {
    /// Inverse NTT and four cosets.
    pub const NTT: f64 = 5.0 * 70.0;
    /// Commitment of a column of small integers.
    pub const SMALL: f64 = 110.0;
    /// The gates and accumulators that read a cell.
    pub const CELL: f64 = 800.0;
    /// Commitment of a column of field elements.
    pub const FULL: f64 = 1900.0;
    /// A weight: combination, evaluation, opening.
    pub const WEIGHT: f64 = 25.0;
    /// Reading a fixed column, whose cosets come with the key.
    pub const FIXED: f64 = 25.0;
    /// One column more in the proof is worth this many nanoseconds of proving to its verifiers.
    pub const COLUMN: f64 = 5.0e6;
}

/// Columns by class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ColumnCounts {
    /// Weights: no commitment per proof.
    pub weights: usize,
    /// Boundaries, both sides.
    pub boundary: usize,
    /// Cells: integers of at most 32 bits.
    pub cells: usize,
    /// Lookup multiplicities.
    pub multiplicities: usize,
    /// Row combinations and accumulators.
    pub accumulators: usize,
    /// LogUp helpers and running sum.
    pub helpers: usize,
    /// Permutation products.
    pub permutation: usize,
    /// Fixed columns.
    pub fixed: usize,
}

/// A layout with its predicted cost.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// What to compile.
    pub params: BlockParams,
    /// Rows are `2^k`.
    pub k: u32,
    /// Lanes.
    pub lanes: usize,
    /// Token groups.
    pub groups: usize,
    /// Degree of the constraint system.
    pub degree: usize,
    /// Rows used in the cell region and in the product region, and rows available.
    pub rows: [usize; 3],
    /// Columns by class.
    pub columns: ColumnCounts,
    /// Weights of the block.
    pub weights: usize,
    /// Lookups by table.
    pub lookups: BTreeMap<String, usize>,
    /// Table entries in all.
    pub table_entries: usize,
    /// Copy constraints.
    pub copies: usize,
    /// Exact size of the halo2 proof.
    pub proof_bytes: usize,
    /// Predicted proving time, milliseconds of one core.
    pub expected_core_ms: f64,
    /// Predicted memory of proving: key, columns, reference string.
    pub expected_bytes: u64,
}

impl Plan {
    /// The plan of given parameters.
    ///
    /// # Errors
    /// See [`BlockParams::layout`].
    pub fn new(params: &BlockParams) -> Result<Plan, LayoutError> {
        let layout = params.layout()?;
        let mut cs = ConstraintSystem::<Fr>::default();
        BlockCircuit::configure_with_params(&mut cs, params.clone());
        Ok(Plan::of(params, &layout, &cs))
    }

    fn of(params: &BlockParams, layout: &Layout, cs: &ConstraintSystem<Fr>) -> Plan {
        let columns = counts(layout, cs);
        let weights = layout.weights();
        let mut lookups = BTreeMap::new();
        let mut idle = layout.active * LOOKUPS * layout.lanes;
        for (_, row) in layout.rows() {
            for table in row.kind().tables(&params.spec) {
                *lookups.entry(format!("{table:?}")).or_insert(0) += layout.lanes;
                idle -= layout.lanes;
            }
        }
        lookups.insert("idle".into(), idle);
        Plan {
            params: params.clone(),
            k: params.k,
            lanes: params.lanes,
            groups: layout.groups,
            degree: cs.degree(),
            rows: [layout.rows_used.0, layout.rows_used.1, layout.active],
            weights,
            lookups,
            table_entries: layout.tables.entries,
            copies: crate::block::copies(layout).len(),
            proof_bytes: proof_bytes(cs),
            expected_core_ms: expected_ns(&columns, params.k) / 1e6,
            expected_bytes: expected_bytes(&columns, params.k),
            columns,
        }
    }

    /// The cheapest plan for at least `tokens` tokens of `spec`; the token count is rounded up to full groups.
    ///
    /// # Errors
    /// The last obstacle when no layout up to `k = 20` fits.
    pub fn best(spec: &BlockSpec, tokens: usize) -> Result<Plan, LayoutError> {
        let (_, params) = cheapest(spec, tokens, LOG_ROWS)?;
        Plan::new(&params)
    }
}

/// Row counts that plans consider.
const LOG_ROWS: RangeInclusive<u32> = 8..=20;

/// The cheapest layout for at least `tokens` tokens on `2^k` rows, `k` in `ks`, and its cost.
fn cheapest(
    spec: &BlockSpec,
    tokens: usize,
    ks: RangeInclusive<u32>,
) -> Result<(f64, BlockParams), LayoutError> {
    let mut best: Option<(f64, BlockParams)> = None;
    let mut obstacle = None;
    for lanes in 1..=tokens.min(64) {
        let padded = tokens.div_ceil(lanes) * lanes;
        if padded > tokens + tokens / 8 {
            continue;
        }
        let spec = BlockSpec { tokens: padded, ..spec.clone() };
        for k in ks.clone() {
            match Layout::new(&spec, lanes, k) {
                Ok(layout) => {
                    let columns = predict(&layout);
                    let cost = weighed(&columns, expected_ns(&columns, k));
                    if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                        best = Some((cost, BlockParams { spec: spec.clone(), lanes, k }));
                    }
                }
                Err(error @ LayoutError::Spec(_)) => return Err(error),
                Err(error) => obstacle = Some(error),
            }
        }
    }
    match (best, obstacle) {
        (Some(best), _) => Ok(best),
        (None, Some(error)) => Err(error),
        (None, None) => Err(LayoutError::Lanes { lanes: 0, tokens }),
    }
}

/// Time, and what the columns' share of the proof is worth to verifiers.
fn weighed(columns: &ColumnCounts, expected_ns: f64) -> f64 {
    let total = columns.weights + columns.boundary + columns.cells + columns.multiplicities + columns.helpers;
    expected_ns + total as f64 * cost::COLUMN
}

/// Bytes of a model's proofs that a plan spends time for: twice the rows make proofs shorter and slower.
pub const COMPACT_BYTES: usize = 512 << 10;

/// Embedding, blocks and head of a model, all on the same rows: neighbours share their boundary's commitments.
#[derive(Clone, Debug, Serialize)]
pub struct ModelPlan {
    /// Blocks.
    pub layers: usize,
    /// The layout that all blocks share.
    pub block: Plan,
    /// Parameters of the embedding.
    pub embedding: EmbeddingParams,
    /// Parameters of the head.
    pub head: HeadParams,
    /// Costs of the embedding and of the head.
    pub ends: [EndPlan; 2],
}

impl ModelPlan {
    /// The cheapest plan of a whole model for at least `tokens` tokens among those whose proofs take at most
    /// [`COMPACT_BYTES`], or among all if none is so small; all token counts are those of the blocks'.
    ///
    /// # Errors
    /// The last obstacle when no row count up to `2^20` fits all slices.
    pub fn best(
        block: &BlockSpec,
        embedding: &EmbeddingSpec,
        head: &HeadSpec,
        layers: usize,
        tokens: usize,
    ) -> Result<ModelPlan, LayoutError> {
        let mut best: Option<((bool, f64), BlockParams, EmbeddingParams, HeadParams)> = None;
        let mut obstacle = LayoutError::Lanes { lanes: 0, tokens };
        for k in LOG_ROWS {
            let fitted = cheapest(block, tokens, k..=k).and_then(|(cost, block)| {
                let tokens = block.spec.tokens;
                let embedding = EmbeddingSpec { tokens, ..embedding.clone() };
                let (embedding, head) = fit_ends(&embedding, &HeadSpec { tokens, ..head.clone() }, k)?;
                let ends = [EndPlan::embedding(&embedding)?, EndPlan::head(&head)?];
                let bytes = ends.iter().map(|end| end.proof_bytes).sum::<usize>();
                let large = bytes + layers * Plan::new(&block)?.proof_bytes > COMPACT_BYTES;
                let ends = ends.iter().map(|end| weighed(&end.columns, end.expected_core_ms * 1e6));
                Ok(((large, cost * layers as f64 + ends.sum::<f64>()), block, embedding, head))
            });
            match fitted {
                Ok(plan) if best.as_ref().is_none_or(|best| plan.0 < best.0) => best = Some(plan),
                Ok(_) => {}
                Err(error @ LayoutError::Spec(_)) => return Err(error),
                Err(error) => obstacle = error,
            }
        }
        let (_, block, embedding, head) = best.ok_or(obstacle)?;
        Ok(ModelPlan {
            layers,
            block: Plan::new(&block)?,
            ends: [EndPlan::embedding(&embedding)?, EndPlan::head(&head)?],
            embedding,
            head,
        })
    }

    /// Predicted proving time of the whole model, milliseconds of one core.
    pub fn expected_core_ms(&self) -> f64 {
        let ends: f64 = self.ends.iter().map(|end| end.expected_core_ms).sum();
        self.block.expected_core_ms * self.layers as f64 + ends
    }

    /// Predicted memory of proving the slice that needs most.
    pub fn expected_bytes(&self) -> u64 {
        self.ends.iter().map(|end| end.expected_bytes).fold(self.block.expected_bytes, u64::max)
    }

    /// Exact size of all halo2 proofs.
    pub fn proof_bytes(&self) -> usize {
        let ends: usize = self.ends.iter().map(|end| end.proof_bytes).sum();
        self.block.proof_bytes * self.layers + ends
    }
}

impl fmt::Display for ModelPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [embedding, head] = &self.ends;
        writeln!(f, "{embedding}\n\n{}\n\n{head}\n", self.block)?;
        write!(
            f,
            "model     {} slices; proofs {} bytes, expected {:.0} core-ms, {} MB a slice at most",
            self.layers + 2,
            self.proof_bytes(),
            self.expected_core_ms(),
            self.expected_bytes() / 1_000_000
        )
    }
}

/// An embedding or a head with its predicted cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndPlan {
    /// Which end, as its slice is called.
    pub name: &'static str,
    /// Rows used in the cell region (or by the table) and by the matrix, and rows available.
    pub rows: [usize; 3],
    /// Columns by class.
    pub columns: ColumnCounts,
    /// Weights.
    pub weights: usize,
    /// Looked-up cells in use.
    pub lookups: usize,
    /// Exact size of the halo2 proof.
    pub proof_bytes: usize,
    /// Predicted proving time, milliseconds of one core.
    pub expected_core_ms: f64,
    /// Predicted memory of proving: key, columns, reference string.
    pub expected_bytes: u64,
}

impl EndPlan {
    /// The plan of an embedding.
    ///
    /// # Errors
    /// See [`EmbeddingParams::layout`].
    pub fn embedding(params: &EmbeddingParams) -> Result<Self, LayoutError> {
        let layout = params.layout()?;
        let mut cs = ConstraintSystem::<Fr>::default();
        EmbeddingCircuit::configure_with_params(&mut cs, params.clone());
        let (b, m) = (layout.boundary.columns, layout.table_columns);
        let spec = &params.spec;
        let linked = EmbeddingCircuit::linked(params).weights.len();
        let columns = ColumnCounts {
            weights: linked,
            boundary: 2 * b,
            cells: 0,
            multiplicities: m,
            // Combinations of rows and tokens; the two sums.
            accumulators: m + b + 2,
            helpers: b.div_ceil(ARITY) + m.div_ceil(ARITY) + 1,
            permutation: 0,
            fixed: cs.num_fixed_columns(),
        };
        let positions = if spec.position_shift.is_some() { spec.tokens } else { 0 };
        Ok(Self {
            name: "embedding",
            rows: [layout.table_rows, layout.matrix.rows(), layout.active],
            weights: spec.hidden * (spec.vocab + positions),
            lookups: spec.tokens,
            proof_bytes: proof_bytes(&cs),
            expected_core_ms: expected_ns(&columns, params.k) / 1e6,
            expected_bytes: expected_bytes(&columns, params.k),
            columns,
        })
    }

    /// The plan of a head.
    ///
    /// # Errors
    /// See [`HeadParams::layout`].
    pub fn head(params: &HeadParams) -> Result<Self, LayoutError> {
        let layout = params.layout()?;
        let mut cs = ConstraintSystem::<Fr>::default();
        HeadCircuit::configure_with_params(&mut cs, params.clone());
        let (b, m) = (layout.boundary.columns, layout.table_columns());
        let spec = &params.spec;
        let chunk = cs.degree().saturating_sub(2).max(1);
        let columns = ColumnCounts {
            weights: HeadCircuit::linked(params).weights.len(),
            boundary: b + 1,
            cells: head::rows::SLOTS * layout.lanes,
            multiplicities: m,
            accumulators: 7 + b,
            helpers: layout.lanes + m.div_ceil(ARITY) + 1,
            permutation: cs.permutation().get_columns().len().div_ceil(chunk),
            fixed: cs.num_fixed_columns(),
        };
        Ok(Self {
            name: "head",
            rows: [layout.max + 1, layout.matrix.rows(), layout.active],
            weights: spec.norm.hidden * (spec.vocab + layout.gain.features),
            lookups: head::rows::LOOKUPS * spec.vocab * spec.positions,
            proof_bytes: proof_bytes(&cs),
            expected_core_ms: expected_ns(&columns, params.k) / 1e6,
            expected_bytes: expected_bytes(&columns, params.k),
            columns,
        })
    }
}

impl fmt::Display for EndPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([cells, matrix, available], c) = (self.rows, &self.columns);
        writeln!(f, "{:<9} {} weights", self.name, self.weights)?;
        writeln!(f, "rows      {available} usable; cells {cells}, matrix {matrix}")?;
        writeln!(f, "{c}")?;
        writeln!(f, "lookups   {}", self.lookups)?;
        writeln!(f, "proof     {} bytes", self.proof_bytes)?;
        write!(f, "expected  {:.0} core-ms, {} MB", self.expected_core_ms, self.expected_bytes / 1_000_000)
    }
}

impl fmt::Display for ColumnCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "columns   weights {}, boundary {}, cells {}, multiplicities {}, accumulators {}, helpers {}, permutation {}, fixed {}",
            self.weights,
            self.boundary,
            self.cells,
            self.multiplicities,
            self.accumulators,
            self.helpers,
            self.permutation,
            self.fixed
        )
    }
}

fn predict(layout: &Layout) -> ColumnCounts {
    let tables = layout.table_columns();
    // The mask, and two rotary factors where there are some.
    let per_lane = if layout.spec.scales.rope.is_some() { 3 } else { 1 };
    ColumnCounts {
        weights: layout.weight_lanes,
        boundary: 2 * layout.boundary.columns,
        cells: crate::rows::SLOTS * layout.lanes,
        multiplicities: tables,
        accumulators: 7,
        helpers: (LOOKUPS * layout.lanes).div_ceil(3) + tables.div_ceil(3) + 1,
        permutation: 2,
        fixed: 20 + per_lane * layout.lanes + 3 * tables,
    }
}

fn counts(layout: &Layout, cs: &ConstraintSystem<Fr>) -> ColumnCounts {
    let chunk = cs.degree().saturating_sub(2).max(1);
    ColumnCounts {
        permutation: cs.permutation().get_columns().len().div_ceil(chunk),
        fixed: cs.num_fixed_columns(),
        ..predict(layout)
    }
}

fn expected_ns(c: &ColumnCounts, k: u32) -> f64 {
    let n = f64::from(1u32 << k);
    let cells = c.cells as f64 * cost::CELL;
    let small = (c.cells + c.multiplicities + c.boundary) as f64 * (cost::SMALL + cost::NTT);
    let full = (c.accumulators + c.helpers + c.permutation + DEGREE + 1) as f64 * (cost::FULL + cost::NTT);
    n * (cells + small + full + c.weights as f64 * cost::WEIGHT + c.fixed as f64 * cost::FIXED)
}

/// Field elements a row that a column takes at the peak, and points of the reference string: reckoned from what the
/// prover holds, beside one measurement in `docs/performance.md`.
mod memory {
    /// Fixed columns and the permutation's: values, and four cosets.
    pub const FIXED: u64 = 5;
    /// Columns of a proof.
    pub const ADVICE: u64 = 3;
    /// Both bases of the reference string, and transforms in flight.
    pub const OTHER: u64 = 40;
}

fn expected_bytes(c: &ColumnCounts, k: u32) -> u64 {
    let advice = c.boundary + c.cells + c.multiplicities + c.accumulators + c.helpers + c.permutation;
    let elements =
        memory::FIXED * (c.fixed + 3 * c.permutation) as u64 + memory::ADVICE * advice as u64 + memory::OTHER;
    (32 * elements + 2 * c.weights as u64) << k
}

/// Size of a SHPLONK proof of this constraint system: 32 bytes a commitment or evaluation.
///
/// Commitments: advice, permutation products, random polynomial, quotient limbs, two openings. Evaluations:
/// advice, fixed, random polynomial, permutation columns, three a product (two the last).
pub fn proof_bytes(cs: &ConstraintSystem<Fr>) -> usize {
    let degree = cs.degree();
    let permuted = cs.permutation().get_columns().len();
    let products = permuted.div_ceil(degree.saturating_sub(2).max(1));
    let commitments = cs.num_advice_columns() + products + 1 + (degree - 1) + 2;
    let evaluations = cs.advice_queries().len()
        + cs.fixed_queries().len()
        + 1
        + permuted
        + (3 * products).saturating_sub(1);
    32 * (commitments + evaluations)
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.params.spec;
        let [cells, products, available] = self.rows;
        writeln!(
            f,
            "block     hidden {}, ffn {}, heads {}/{}, head {}; {} weights of {} bits",
            s.shape.hidden,
            s.shape.ffn,
            s.shape.heads,
            s.shape.kv_heads,
            s.shape.head_dim,
            self.weights,
            s.weight_bits
        )?;
        writeln!(f, "tokens    {} = {} groups of {} lanes", s.tokens, self.groups, self.lanes)?;
        writeln!(f, "rows      2^{} = {available} usable; cells {cells}, products {products}", self.k)?;
        writeln!(f, "{}", self.columns)?;
        writeln!(
            f,
            "degree    {}; copies {}; table entries {}",
            self.degree, self.copies, self.table_entries
        )?;
        write!(f, "lookups  ")?;
        for (table, count) in &self.lookups {
            write!(f, " {table} {count}")?;
        }
        writeln!(f)?;
        writeln!(f, "proof     {} bytes", self.proof_bytes)?;
        write!(f, "expected  {:.0} core-ms, {} MB", self.expected_core_ms, self.expected_bytes / 1_000_000)
    }
}
