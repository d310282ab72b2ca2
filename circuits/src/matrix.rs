//! How a `[features, width]` matrix stands in weight columns: that of the vocabulary the same in the embedding and in the
//! head, so that a tied head links the very commitments of the embedding.

use crate::spec::Matrix;

/// Rows `(j, b)` of feature `j`, `b` fastest, each with `lanes` consecutive entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixShape {
    /// Features: rows of the matrix, a bias included.
    pub features: usize,
    /// Entries of a feature: ids, or features again.
    pub width: usize,
    /// Columns, entries of a row.
    pub lanes: usize,
    /// Rows of a feature.
    pub blocks: usize,
}

impl MatrixShape {
    /// The shape with `lanes` columns.
    pub fn new(features: usize, width: usize, lanes: usize) -> Self {
        Self { features, width, lanes, blocks: width.div_ceil(lanes.max(1)) }
    }

    /// The fewest columns in which matrices of some features and widths fit `rows` rows, one below the other; `None` if not
    /// even one row a feature fits.
    pub fn fit(matrices: &[(usize, usize)], rows: usize) -> Option<usize> {
        let fits = |lanes: usize| {
            let needed = matrices.iter().try_fold(0usize, |sum, (features, width)| {
                sum.checked_add(features.checked_mul(width.div_ceil(lanes))?)
            });
            needed.is_some_and(|needed| needed <= rows)
        };
        let (mut low, mut high) = (1, matrices.iter().map(|(_, width)| *width).max()?);
        if !fits(high) {
            return None;
        }
        while low < high {
            let middle = low.midpoint(high);
            if fits(middle) { high = middle } else { low = middle + 1 }
        }
        Some(low)
    }

    /// Rows in all.
    pub fn rows(&self) -> usize {
        self.features * self.blocks
    }

    /// Writes `matrix` into weight columns from row `first` on; lanes beyond the width stay as they are.
    ///
    /// # Shapes
    /// `matrix`: `[features, width]`; `columns`: at least `lanes` of at least `first + rows()` rows.
    pub fn place(&self, matrix: &Matrix, first: usize, columns: &mut [Vec<i16>]) {
        for (j, row) in matrix.data.chunks(self.width).enumerate() {
            for (at, &w) in row.iter().enumerate() {
                columns[at % self.lanes][first + j * self.blocks + at / self.lanes] = w;
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test panics where it fails")]
mod tests {
    use super::*;

    #[test]
    fn as_few_columns_as_fit() {
        let rows_of = |matrices: &[(usize, usize)], lanes| -> usize {
            matrices.iter().map(|&(features, width)| MatrixShape::new(features, width, lanes).rows()).sum()
        };
        for (matrices, rows) in [
            (&[(3, 10)][..], 9),
            (&[(3, 10)], 3),
            (&[(3, 10)], 29),
            (&[(3, 10)], 100),
            (&[(5, 7)], 12),
            (&[(3, 10), (3, 3)], 13),
            (&[(3, 10), (3, 3)], 6),
            (&[(3, 10), (4, 3)], 7),
        ] {
            let lanes = MatrixShape::fit(matrices, rows).unwrap();
            assert!(rows_of(matrices, lanes) <= rows, "{matrices:?} in {rows} rows: {lanes}");
            assert!(lanes == 1 || rows_of(matrices, lanes - 1) > rows, "{matrices:?}: {lanes}");
        }
        assert_eq!(MatrixShape::fit(&[(3, 10)], 2), None);
        assert_eq!(MatrixShape::fit(&[(3, 10), (3, 3)], 5), None);
    }
}
