//! Where everything of a head stands.
//!
//! The cell region is one strip: stream rows, root rows, the rest of both requantisations, one row a token for the
//! choice of positions, one row for every `chunks` ids, the maximum. Lane `c P + p` holds chunk `c` of position `p`;
//! the rows before the logits use the first `P` lanes. The product region holds the matrix, row for row as in the
//! embedding, the gain matrix in the same columns, then the products that select positions.

use serde::{Deserialize, Serialize};

use super::{HeadSpec, HeadWeights, rows::Kind};
use crate::{
    boundary::{BoundaryShape, active_rows},
    layout::{LayoutError, TableSet},
    matrix::MatrixShape,
    tables::Table,
};

/// Rows of the reciprocal root.
pub const ROOT_ROWS: usize = 6;

/// What determines a head's verifying key, given the SRS.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadParams {
    /// The head.
    pub spec: HeadSpec,
    /// Ids of a row: the vocabulary takes `ceil(vocab / chunks)` rows.
    pub chunks: usize,
    /// Weight columns of the matrix: those of the embedding, where the head is tied.
    pub weight_lanes: usize,
    /// Log of the number of rows.
    pub k: u32,
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
    /// `wa`, left factor.
    Left,
    /// `wb`, right factor and output boundary.
    Right,
    /// `acc`.
    Acc,
    /// Accumulator of an input boundary column.
    Boundary(usize),
}

/// A cell of a phase-1 column.
pub type PortCell = (Port, usize);

/// Where everything of a head stands.
#[derive(Clone, Debug)]
pub struct HeadLayout {
    /// The head.
    pub spec: HeadSpec,
    /// Rows are `2^k`.
    pub k: u32,
    /// Ids of a row.
    pub chunks: usize,
    /// Lanes: `chunks * positions`.
    pub lanes: usize,
    /// Active rows.
    pub active: usize,
    /// The input boundary.
    pub boundary: BoundaryShape,
    /// The matrix in the weight columns.
    pub matrix: MatrixShape,
    /// The gain matrix, below it, its last feature the bias where there is one.
    pub gain: MatrixShape,
    /// Distance between the rows of one feature: stream, rest, gain.
    pub stride: usize,
    /// First row of the choice of positions.
    pub select: usize,
    /// First row of logits.
    pub logits: usize,
    /// Row of the maximum.
    pub max: usize,
    /// First row of the products that select positions.
    pub pairs: usize,
    /// The kinds that occur, in selector order.
    pub kinds: Vec<Kind>,
    /// Lookup tables.
    pub tables: TableSet,
}

impl HeadParams {
    /// The fewest ids of a row, and the fewest weight columns, that fit.
    ///
    /// # Errors
    /// See [`HeadParams::layout`].
    pub fn fit(spec: &HeadSpec, k: u32) -> Result<HeadParams, LayoutError> {
        spec.check()?;
        let (d, active) = (spec.norm.hidden, active_rows(k));
        let rows = |what, needed| LayoutError::Rows { what, needed, available: active, k };
        // Everything of the cell region but the logits, the maximum included.
        let others = 3 * d + 2 * ROOT_ROWS + spec.tokens + 1;
        let room = active.checked_sub(others).filter(|&room| room > 0);
        let room = room.ok_or_else(|| rows("the cell region", others + 1))?;
        let matrices = [(d, spec.vocab), (spec.gain_features(), d)];
        let weight_lanes = MatrixShape::fit(&matrices, active.saturating_sub(spec.tokens))
            .ok_or_else(|| rows("the product region", d + spec.gain_features() + spec.tokens))?;
        let params = HeadParams { spec: spec.clone(), chunks: spec.vocab.div_ceil(room), weight_lanes, k };
        params.layout()?;
        Ok(params)
    }

    /// Where everything stands.
    ///
    /// # Errors
    /// An unsound specification, or rows that do not fit.
    pub fn layout(&self) -> Result<HeadLayout, LayoutError> {
        let (s, k, chunks) = (&self.spec, self.k, self.chunks);
        s.check()?;
        let (d, active) = (s.norm.hidden, active_rows(k));
        let rows = |what, needed| LayoutError::Rows { what, needed, available: active, k };
        if chunks == 0 || chunks > s.vocab || chunks * s.positions > 1 << 12 {
            return Err(LayoutError::Lanes { lanes: chunks, tokens: s.vocab });
        }
        let boundary =
            BoundaryShape::new(active, d, s.tokens).ok_or_else(|| rows("one token of a boundary", d))?;
        let matrix = MatrixShape::new(d, s.vocab, self.weight_lanes);
        let gain = MatrixShape::new(s.gain_features(), d, self.weight_lanes);
        if self.weight_lanes == 0 || self.weight_lanes > s.vocab.max(d) {
            return Err(rows("the head matrix", matrix.rows()));
        }
        let stride = d + ROOT_ROWS;
        let select = 2 * stride + d;
        let logits = select + s.tokens;
        let max = logits + s.vocab.div_ceil(chunks);
        let pairs = (matrix.rows() + gain.rows()).max(2 * s.positions);
        if max >= active {
            return Err(rows("the cell region", max + 1));
        }
        if pairs + s.tokens > active {
            return Err(rows("the product region", pairs + s.tokens));
        }
        let tail = !s.vocab.is_multiple_of(chunks);
        let kinds: Vec<_> = Kind::ALL.into_iter().filter(|&kind| kind != Kind::Tail || tail).collect();
        let mut tables = vec![Table::Signed(s.norm.act_bits)];
        for &kind in &kinds {
            tables.extend(kind.tables(s));
        }
        let tables = TableSet::new(tables, |table| table.range());
        let spec = s.clone();
        let lanes = chunks * s.positions;
        Ok(HeadLayout {
            spec,
            k,
            chunks,
            lanes,
            active,
            boundary,
            matrix,
            gain,
            stride,
            select,
            logits,
            max,
            pairs,
            kinds,
            tables,
        })
    }
}

impl HeadLayout {
    /// The row program of a row of the cell region, `None` on idle rows.
    pub fn kind(&self, at: usize) -> Option<Kind> {
        let d = self.spec.norm.hidden;
        let root =
            [Kind::Square, Kind::Root, Kind::BelowLow, Kind::BelowHigh, Kind::AboveLow, Kind::AboveHigh];
        if at < d {
            return Some(Kind::Stream);
        }
        if at < self.stride {
            return Some(root[at - d]);
        }
        if at < self.select {
            let kind = if at < 2 * self.stride { Kind::Rest } else { Kind::Gain };
            return (at % self.stride < d).then_some(kind);
        }
        if at < self.logits {
            return Some(Kind::Select);
        }
        if at < self.max {
            let last = at + 1 == self.max && self.kinds.contains(&Kind::Tail);
            return Some(if last { Kind::Tail } else { Kind::Logit });
        }
        (at == self.max).then_some(Kind::Max)
    }

    /// Chunks of a row that hold ids.
    pub fn chunks_of(&self, kind: Kind) -> usize {
        match kind {
            Kind::Logit => self.chunks,
            Kind::Tail => self.spec.vocab % self.chunks,
            _ => 1,
        }
    }

    /// The constant by which a row counts: the token of a choice, 1 plus the first id of a row of logits.
    pub fn index(&self, at: usize) -> usize {
        match self.kind(at) {
            Some(Kind::Select) => at - self.select,
            Some(Kind::Logit | Kind::Tail) => (at - self.logits) * self.chunks + 1,
            _ => 0,
        }
    }

    /// Whether `a_in` continues into the next row: indices of ids.
    pub fn link_in(&self, at: usize) -> bool {
        (self.logits..self.max - 1).contains(&at)
    }

    /// Whether `a_out` continues into the next row.
    pub fn link_out(&self, at: usize) -> bool {
        let d = self.spec.norm.hidden;
        (d..self.stride - 1).contains(&at)
            || (2 * self.stride..2 * self.stride + d - 1).contains(&at)
            || (self.select..self.logits - 1).contains(&at)
            || (self.logits..self.max - 1).contains(&at)
    }

    /// Whether `a_x` continues into the next row.
    pub fn link_stream(&self, at: usize) -> bool {
        at + 1 < self.spec.norm.hidden || (self.logits..self.max).contains(&at)
    }

    /// Whether `a_s` continues into the next row.
    pub fn link_sum(&self, at: usize) -> bool {
        at <= self.spec.norm.hidden
            || (self.select..self.logits - 1).contains(&at)
            || (self.logits..self.max - 1).contains(&at)
    }

    /// Fixed columns of tables.
    pub fn table_columns(&self) -> usize {
        self.tables.entries.div_ceil(self.active)
    }

    /// The row whose left factor is the bias's, and its shift.
    pub fn bias_row(&self) -> Option<(usize, u32)> {
        let row = self.matrix.rows() + self.spec.norm.hidden * self.gain.blocks;
        self.spec.gain_bias.map(|shift| (row, shift))
    }

    /// Every copy constraint.
    pub fn copies(&self) -> Vec<(PortCell, PortCell)> {
        let mut copies = vec![];
        for j in 0..self.spec.norm.hidden {
            copies.push(((Port::In, j), (Port::Left, self.matrix.rows() + j * self.gain.blocks)));
            copies.push(((Port::In, 2 * self.stride + j), (Port::Left, j * self.matrix.blocks)));
        }
        for t in 0..self.spec.tokens {
            let (column, row) = self.boundary.place(t);
            copies.push(((Port::In, self.select + t), (Port::Left, self.pairs + t)));
            copies.push(((Port::Boundary(column), row), (Port::Right, self.pairs + t)));
        }
        copies.push(((Port::Acc, self.pairs), (Port::Stream, 0)));
        copies.push(((Port::Acc, 0), (Port::Out, self.logits)));
        copies.push(((Port::Acc, self.matrix.rows()), (Port::Out, 2 * self.stride)));
        copies.push(((Port::Right, 0), (Port::Out, self.select)));
        copies.push(((Port::Right, self.spec.positions), (Port::In, self.logits)));
        copies
    }

    /// The weight columns: the matrix as in the embedding, the gain matrix below it.
    pub fn weight_columns(&self, weights: &HeadWeights) -> Vec<Vec<i16>> {
        let mut columns = vec![vec![0i16; self.active]; self.matrix.lanes];
        self.matrix.place(&weights.matrix, 0, &mut columns);
        self.gain.place(&weights.gain, self.matrix.rows(), &mut columns);
        columns
    }

    /// The output boundary, one column: the positions, then the ids of their next tokens plus 1.
    pub fn output(&self, positions: &[usize], tokens: &[u32]) -> Vec<Vec<i32>> {
        let mut column: Vec<i32> = positions.iter().map(|&p| p as i32).collect();
        column.extend(tokens.iter().map(|&id| id.saturating_add(1) as i32));
        column.resize(self.active, 0);
        vec![column]
    }
}
