//! How a `[hidden, vocabulary]` matrix stands in weight columns: the same in the embedding and in the head, so
//! that a tied head links the very commitments of the embedding.

use crate::spec::Matrix;

/// Rows `(j, b)` of feature `j`, `b` fastest, each with the entries of `lanes` consecutive ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixShape {
    /// Features.
    pub hidden: usize,
    /// Ids.
    pub vocab: usize,
    /// Columns, ids of a row.
    pub lanes: usize,
    /// Rows of a feature.
    pub blocks: usize,
}

impl MatrixShape {
    /// The shape with `lanes` columns.
    pub fn new(hidden: usize, vocab: usize, lanes: usize) -> Self {
        Self { hidden, vocab, lanes, blocks: vocab.div_ceil(lanes.max(1)) }
    }

    /// The fewest columns that fit `rows` rows; `None` if not even one row a feature fits.
    pub fn fit(hidden: usize, vocab: usize, rows: usize) -> Option<Self> {
        let blocks = rows.checked_div(hidden).filter(|&blocks| blocks > 0)?;
        Some(Self::new(hidden, vocab, vocab.div_ceil(blocks)))
    }

    /// Rows in all.
    pub fn rows(&self) -> usize {
        self.hidden * self.blocks
    }

    /// The weight columns of `matrix`, `active` rows each; lanes beyond the vocabulary are zero.
    ///
    /// # Shapes
    /// `matrix`: `[hidden, vocab]`.
    pub fn columns(&self, matrix: &Matrix, active: usize) -> Vec<Vec<i16>> {
        let mut columns = vec![vec![0i16; active]; self.lanes];
        for (j, row) in matrix.data.chunks(self.vocab).enumerate() {
            for (id, &w) in row.iter().enumerate() {
                columns[id % self.lanes][j * self.blocks + id / self.lanes] = w;
            }
        }
        columns
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test panics where it fails")]
mod tests {
    use super::*;

    #[test]
    fn as_few_columns_as_fit() {
        for (hidden, vocab, rows) in [(3, 10, 9), (3, 10, 3), (3, 10, 29), (3, 10, 100), (5, 7, 12)] {
            let shape = MatrixShape::fit(hidden, vocab, rows).unwrap();
            assert!(shape.rows() <= rows && shape.lanes * shape.blocks >= vocab, "{shape:?}");
            assert!(
                shape.lanes == 1 || MatrixShape::new(hidden, vocab, shape.lanes - 1).rows() > rows,
                "{shape:?}"
            );
        }
        assert_eq!(MatrixShape::fit(3, 10, 2), None);
    }
}
