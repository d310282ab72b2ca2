//! Verification of Lamina proofs: small, single-threaded, total on hostile bytes.
//!
//! One module per step of `protocol.md`:
//! - [`hash`]: domain-separated transcripts and the identifiers that come out of them.
//! - [`encoding`]: canonical points and scalars.
//! - [`srs`]: the few points of a structured reference string that a verifier needs, self-certifying.
//! - [`key`]: verifying keys, read strictly, and the proof shape that they determine.
//! - [`card`]: the public description of a model, its keys and its weight commitments.
//! - [`context`]: what a proof is bound to.
//! - [`boundary`]: activations at the border of a slice, hidden or open.
//! - [`link`]: fresh commitments open to the published columns.
//! - `plonk`: the halo2 proof, reduced to one equation of points; `msm`: their sum.
//! - [`envelope`]: the bytes of one slice proof.
//! - [`verify`]: slices, chains, publications.
//! - [`bundle`]: prompt, answer and the proofs of all slices in one string of bytes.

#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::todo,
    clippy::unimplemented,
    clippy::unreachable,
    clippy::disallowed_types
)]

pub mod boundary;
pub mod bundle;
pub mod card;
pub mod context;
pub mod encoding;
pub mod envelope;
pub mod hash;
pub mod key;
pub mod link;
mod msm;
mod plonk;
pub mod srs;
pub mod verify;

pub use lamina_circuits::Fr;

/// Points of the first group of BN254: commitments.
pub type G1Affine = halo2_proofs::halo2curves::bn256::G1Affine;
/// Points of the second group of BN254.
pub type G2Affine = halo2_proofs::halo2curves::bn256::G2Affine;
