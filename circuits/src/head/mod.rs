//! The head slice: final norm, logits over the whole vocabulary, greedy arg-max with ties to the lowest id.
//!
//! - here: the specification and its integer semantics;
//! - [`layout`]: where every row, weight and copy stands; [`rows`]: what one row means;
//! - [`circuit`]: columns and gates; [`assign`]: the witness.
//!
//! `docs/protocol.md`, "Head", has the equations and why they are sound.

pub mod assign;
pub mod circuit;
pub mod layout;
pub mod rows;

use serde::{Deserialize, Serialize};

use crate::{
    bounds::{SpecError, bound, log2_ceil, require},
    executor::{ExecError, NormTrace, Range, Requantised, Site, expect_size, norm, product, requantise},
    spec::{Matrix, NormSpec},
};

/// Everything public about a head but its commitments.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadSpec {
    /// The final norm, without its gain.
    pub norm: NormSpec,
    /// Requantisation of the normalised features times the gain matrix.
    pub gain_shift: u32,
    /// Bias of the final norm, where it has one: it is added to that product times two to this power.
    pub gain_bias: Option<u32>,
    /// Ids: `0..vocab`.
    pub vocab: usize,
    /// Tokens of the input boundary, padding tokens included.
    pub tokens: usize,
    /// Positions whose next token is proved.
    pub positions: usize,
    /// Width of a weight in bits.
    pub weight_bits: u32,
}

/// The integer weights of a head.
///
/// The gain is not folded into the matrix, so that a tied head can read the embedding's. It is a matrix itself: in the
/// rotated basis of the stream the final norm's gain is `R^T diag(g) R`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadWeights {
    /// Gain of the final norm, `[hidden, hidden]`, and its bias as one more row where it has one.
    pub gain: Matrix,
    /// `[hidden, vocab]`.
    pub matrix: Matrix,
}

/// Every intermediate value of a head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeadTrace {
    /// Input, `[tokens, hidden]`.
    pub x: Vec<i32>,
    /// The positions read, `[positions]`.
    pub positions: Vec<usize>,
    /// Norm of those positions.
    pub norm: NormTrace,
    /// Normalised features times the gain matrix, `[positions, hidden]`.
    pub gained: Requantised,
    /// Exact logits, `[positions, vocab]`.
    pub logits: Vec<i64>,
    /// The lowest id of the greatest logit, `[positions]`.
    pub tokens: Vec<u32>,
}

impl HeadSpec {
    /// Rows of the gain matrix, that of the bias included.
    pub fn gain_features(&self) -> usize {
        self.norm.hidden + usize::from(self.gain_bias.is_some())
    }

    /// Bits of a logit's distance from the maximum, in three limbs.
    pub fn distance_bits(&self) -> u32 {
        3 * self.norm.limb_bits
    }

    /// Checks every bound that the circuit's soundness needs; see [`crate::spec::BlockSpec::check`].
    ///
    /// # Errors
    /// The parameter, or the relation that could overflow.
    pub fn check(&self) -> Result<(), SpecError> {
        require("vocab", self.vocab as u64, 1, 1 << 20)?;
        require("tokens", self.tokens as u64, 1, 1 << 12)?;
        require("positions", self.positions as u64, 1, 256)?;
        require("weight_bits", self.weight_bits.into(), 2, 16)?;
        require("gain_shift", self.gain_shift.into(), 1, 15)?;
        self.norm.check()?;
        if let Some(shift) = self.gain_bias {
            bound("matmul/bias", self.weight_bits.saturating_add(shift), 61)?;
        }
        // Gained features and logits are sums of `hidden` products; with distances they stay far below p/2.
        let product = self.norm.act_bits + self.weight_bits + log2_ceil(self.norm.hidden as u64);
        bound("matmul/logits", product, 62)
    }
}

/// Runs a head on the boundary `x` at `positions`: the specification of the slice.
///
/// # Shapes
/// `x`: `[spec.tokens, hidden]`; `positions`: `spec.positions` of them, each below `spec.tokens`, in any order.
///
/// # Errors
/// [`ExecError::OutOfRange`] names the first value that leaves its site's range; [`ExecError::Size`] a weight or
/// input of the wrong size. `spec` is taken as checked.
pub fn execute_head(
    spec: &HeadSpec,
    weights: &HeadWeights,
    x: &[i32],
    positions: &[usize],
) -> Result<HeadTrace, ExecError> {
    let d = spec.norm.hidden;
    expect_size("head", d * spec.vocab, weights.matrix.data.len())?;
    expect_size("head rows", d, weights.matrix.rows)?;
    let gain_rows = spec.gain_features();
    expect_size("gain", gain_rows * d, weights.gain.data.len())?;
    expect_size("gain rows", gain_rows, weights.gain.rows)?;
    expect_size("input", spec.tokens * d, x.len())?;
    expect_size("positions", spec.positions, positions.len())?;
    let stream = Range::signed(Site::Input, spec.norm.act_bits + spec.norm.residual_lo_bits);
    for (i, &v) in x.iter().enumerate() {
        stream.check(v.into(), i / d, i % d)?;
    }
    let mut selected = Vec::with_capacity(positions.len() * d);
    for (token, &at) in positions.iter().enumerate() {
        if at >= spec.tokens {
            return Err(ExecError::OutOfRange {
                site: Site::Position,
                token,
                index: 0,
                value: at as i64,
                min: 0,
                max: spec.tokens as i64 - 1,
            });
        }
        selected.extend_from_slice(&x[at * d..(at + 1) * d]);
    }
    let norm = norm(&selected, &spec.norm, Site::HeadNorm)?;
    let act = Range::signed(Site::HeadGain, spec.norm.act_bits);
    let gained =
        requantise(&product(&norm.n.q, &weights.gain, spec.gain_bias), None, d, spec.gain_shift, act)?;
    let logits = product(&gained.q, &weights.matrix, None);
    let bits = spec.distance_bits();
    let (range, distance) = (Range::signed(Site::Logit, bits), Range::unsigned(Site::LogitDistance, bits));
    let mut tokens = Vec::with_capacity(positions.len());
    for (token, row) in logits.chunks(spec.vocab).enumerate() {
        let best = row.iter().enumerate().fold(0, |best, (id, &l)| if l > row[best] { id } else { best });
        range.contains(row[best], token, best)?;
        for (id, &logit) in row.iter().enumerate() {
            distance.contains(row[best] - logit - i64::from(id < best), token, id)?;
        }
        tokens.push(best as u32);
    }
    Ok(HeadTrace { x: x.to_vec(), positions: positions.to_vec(), norm, gained, logits, tokens })
}
