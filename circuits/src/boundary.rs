//! How activations stand in boundary columns: the same on both sides of a border, whatever the slices.

use crate::layout::UNUSABLE_ROWS;

/// Active rows of `2^k`: all but those of the library and the row where running sums end.
pub fn active_rows(k: u32) -> usize {
    (1usize << k).saturating_sub(UNUSABLE_ROWS + 1)
}

/// Boundary columns of `[tokens, hidden]`: whole tokens, feature by feature, as many to a column as fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundaryShape {
    /// Rows of a column.
    pub active: usize,
    /// Features of a token.
    pub hidden: usize,
    /// Tokens in all.
    pub tokens: usize,
    /// Tokens of a column.
    pub per_column: usize,
    /// Columns.
    pub columns: usize,
}

impl BoundaryShape {
    /// The shape on `active` rows; `None` if not one token fits, or there is none.
    pub fn new(active: usize, hidden: usize, tokens: usize) -> Option<Self> {
        if hidden == 0 || tokens == 0 || hidden > active {
            return None;
        }
        let per_column = (active / hidden).min(tokens);
        Some(Self { active, hidden, tokens, per_column, columns: tokens.div_ceil(per_column) })
    }

    /// Rows of a column that hold activations.
    pub fn rows(&self) -> usize {
        self.per_column * self.hidden
    }

    /// Column and first row of a token.
    pub fn place(&self, token: usize) -> (usize, usize) {
        (token / self.per_column, token % self.per_column * self.hidden)
    }

    /// The columns of activations `[tokens, hidden]`, `active` rows each.
    pub fn of(&self, x: &[i32]) -> Vec<Vec<i32>> {
        x.chunks(self.rows())
            .map(|chunk| {
                let mut column = chunk.to_vec();
                column.resize(self.active, 0);
                column
            })
            .collect()
    }
}
