//! How much device memory a proof takes, before any of it is asked for.

use lamina_circuits::witness::Column;

use super::super::{
    Shape,
    program::{Quotient, Slot},
};

use crate::{
    key::ProvingKey,
    prove::{identity_of, shape_of},
};

/// Bytes of a field element.
const ELEMENT: usize = 32;

/// Bytes that columns which are worked on a few at a time may take.
pub(super) const ROUND_BYTES: usize = 256 << 20;

/// The most that transforms, and sums of multiples, take beside their arguments.
const SCRATCH_BYTES: usize = 1 << 30;

/// The most that combinations which are computed together, and are cut into parts for more blocks, take for these.
const PARTS_BYTES: usize = 16 << 20;

/// Upper bounds of the device memory that a key and a proof with it take, in bytes.
///
/// Columns of the proof count as field elements, though most are integers: which ones is known with the witness only.
///
/// ```text
/// needed = key + columns + max(commit, quotient, open)
/// ```
///
/// With `ahead` besides, the quotient begins while the host has not got its challenges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// Bases, roots, cosets and columns of the key.
    pub key_bytes: usize,
    /// Columns of the proof, permutation products and limbs.
    pub column_bytes: usize,
    /// Commitments.
    pub commit_bytes: usize,
    /// The quotient, with the coefficients of all its columns at once.
    pub quotient_bytes: usize,
    /// The quotient, where coefficients are computed again for each coset.
    pub streamed_quotient_bytes: usize,
    /// Coefficients of the quotient's columns, and their values on a coset, from the first commitments on.
    pub ahead_bytes: usize,
    /// The opening argument.
    pub open_bytes: usize,
}

impl Plan {
    /// The plan for a key.
    pub fn of(key: &ProvingKey) -> Self {
        let identity = identity_of(key);
        Self::new(key.k(), key.degree(), &key.fixed, &key.sigma, &shape_of(key, &identity))
    }

    pub(super) fn new(
        log_n: u32,
        degree: usize,
        fixed: &[Column],
        sigma: &[Column],
        shape: &Shape<'_>,
    ) -> Self {
        let n = 1usize << log_n;
        let column = ELEMENT * n;
        let limbs = degree - 1;
        let of_key = |columns: &[Column]| -> usize {
            let bytes = columns.iter().map(|column| match column {
                Column::I16(v) => 2 * v.len(),
                Column::I32(v) => 4 * v.len(),
                Column::Field(v) => ELEMENT * v.len(),
            });
            bytes.sum()
        };
        // Two bases, roots, the column X, three indicators; two lists of powers a coset.
        let key_bytes = 2 * 64 * n + 2 * column + 3 * n + limbs * 2 * column + of_key(fixed) + of_key(sigma);
        let column_bytes = (shape.columns + shape.products + limbs + 1) * column;
        let (mut slots, mut longest, mut chunks, mut registers) = (0, 0, 0, 0);
        if !shape.identity.nodes.is_empty() {
            let program = Quotient::new(shape.identity, log_n, limbs).program;
            slots = program.slots.len();
            registers = program.registers;
            let lengths = program.slots.iter().map(|slot| match slot {
                Slot::Combination(terms) => terms.len(),
                Slot::Column(_) => 1,
            });
            longest = lengths.clone().max().unwrap_or(0);
            chunks = lengths.map(|terms| terms.div_ceil(16) + 1).sum();
        }
        let round = round(n).min(slots.max(1));
        // Partial sums of combinations, what a round holds, its scratch; registers where shared memory has no place.
        let combine = (longest.div_ceil(16) + 2) * column + (chunks * column).min(PARTS_BYTES);
        let machine = ELEMENT * registers * 64 * n.div_ceil(64).min(1024);
        let scratch = (slots * column).min(SCRATCH_BYTES.max(column));
        let each = (limbs + 3) * column + machine + combine;
        // Combinations as values, as coefficients and in between, then their sums, which are in several parts.
        let open = 5 * shape.openings + 4 * shape.points + 8;
        let widest = shape.columns.max(fixed.len() + sigma.len());
        Plan {
            key_bytes,
            column_bytes,
            // What is gathered for a round, then digits, counters and buckets of a column at least.
            commit_bytes: ROUND_BYTES.max(column).min((shape.columns + 1) * column)
                + SCRATCH_BYTES
                    .min((shape.columns + shape.products + limbs) * msm_bytes(n))
                    .max(msm_bytes(n)),
            quotient_bytes: 2 * slots * column + scratch + 3 * round * column + each,
            streamed_quotient_bytes: slots * column + 4 * round * column + each,
            ahead_bytes: 2 * slots * column,
            open_bytes: (open + (widest + shape.openings).div_ceil(16)) * column,
        }
    }

    /// Bytes for everything, with the whole quotient at once or streamed.
    pub fn needed(&self, streamed: bool) -> usize {
        let quotient = if streamed { self.streamed_quotient_bytes } else { self.quotient_bytes };
        self.key_bytes + self.column_bytes + self.commit_bytes.max(quotient).max(self.open_bytes)
    }
}

/// Columns of field elements that are worked on at once.
fn round(n: usize) -> usize {
    (ROUND_BYTES / (ELEMENT * n)).max(1)
}

/// What a column of field elements takes within a sum of multiples, at most: entries and digits of some 256 / window
/// windows, buckets, counters and partial sums of points.
fn msm_bytes(n: usize) -> usize {
    let windows = if n < 1 << 12 { 43 } else { 26 };
    windows * (6 * n + 128 * (n / 4 + 256) + 128 * n.clamp(64, 1 << 14))
}
