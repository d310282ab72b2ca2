//! What a verifier must know of a circuit besides its gates: its size and its linked columns.

use std::ops::Range;

use halo2_proofs::plonk::Circuit;
use serde::{Serialize, de::DeserializeOwned};

use crate::Fr;

/// Advice columns of phase 0 of the largest circuit: the library's bookkeeping is quadratic in them, and whoever
/// writes a card chooses their number.
pub const MAX_COLUMNS: usize = 4096;

/// The advice columns whose commitments the link proof ties to commitments from outside.
///
/// `protocol.md` section 7. Every range counts *advice column indices*; the columns are in phase 0, the
/// ranges do not overlap, and the link proof takes all of them in ascending index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkedColumns {
    /// Weight columns: published once per model.
    pub weights: Range<usize>,
    /// Columns of the slice's input activations.
    pub boundary_in: Range<usize>,
    /// Columns of the slice's output activations.
    pub boundary_out: Range<usize>,
}

/// Parameters from which no circuit is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("circuit parameters refused: {reason}")]
pub struct RefusedParams {
    /// The rule that they break.
    pub reason: &'static str,
}

/// A circuit that proves a slice, or a publication, and can stand in a model card.
///
/// It has exactly one instance column; the two instance values are the halves of the header digest.
pub trait SliceCircuit: Circuit<Fr, Params: Clone + Serialize + DeserializeOwned> {
    /// Checks parameters of unknown origin before anything else is asked of them.
    ///
    /// # Soundness
    /// Parameters in a model card come from its publisher. After this check `configure_with_params`
    /// must neither panic nor allocate without bound, and every static bound of the circuit must hold.
    ///
    /// # Errors
    /// The first rule that the parameters break.
    fn check(params: &Self::Params) -> Result<(), RefusedParams>;

    /// `k`: the circuit has `n = 2^k` rows.
    fn log_n(params: &Self::Params) -> u32;

    /// The degree that the constraint system must turn out to have.
    fn degree(params: &Self::Params) -> usize;

    /// The width of a weight: what a slice's static bounds assume, what a range circuit proves.
    ///
    /// # Soundness
    /// A card whose range circuit proves a greater width than its slice circuit assumes is refused.
    fn weight_bits(_params: &Self::Params) -> Option<u32> {
        None
    }

    /// Which advice columns are linked.
    fn linked(params: &Self::Params) -> LinkedColumns;
}
