//! The link proof: the advice commitments of a proof open, on every usable row, to the published columns.
//!
//! `protocol.md` section 7:
//!
//! ```text
//! ρ = H("rho", hdr, count, (C_l, C'_l)_l)
//! Δ = Σ_l ρ^l (C'_l − C_l) = Σ_{i≥u} d_i [L_i]
//! R = Σ r_i [L_i],   e = H("link", ρ, R),   z_i = r_i + e·d_i
//! check                Σ z_i [L_i] = R + e·Δ
//! ```
//!
//! # Soundness
//! `ρ` binds the *published* commitments too: else a publisher who also proves solves for a `C` that makes
//! `Δ` vanish. In the algebraic group model `C'_l − C_l` then lies, for every `l`, in the span of the
//! blinding rows' Lagrange points, up to `count/p` for `ρ` and `1/p` for `e`.

use std::iter;

use ff::Field;
use group::Group;

use crate::{
    Fr, G1Affine,
    hash::{Hasher, HeaderDigest},
    msm::multiply,
};

/// A published commitment and the fresh one that stands in the proof.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkedPair {
    /// `C`: published, or computed by the verifier.
    pub published: G1Affine,
    /// `C'`: cut out of the halo2 proof.
    pub fresh: G1Affine,
}

/// The challenge that combines the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rho(pub Fr);

/// The challenge of the Schnorr proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkChallenge(pub Fr);

impl Rho {
    /// `ρ`, over all pairs in advice-index order.
    pub fn draw(header: &HeaderDigest, pairs: &[LinkedPair]) -> Self {
        let mut hasher = Hasher::new("rho");
        hasher.bytes(&header.0.0).count(pairs.len());
        for pair in pairs {
            hasher.point(&pair.published).point(&pair.fresh);
        }
        Self(hasher.challenge())
    }

    /// `1, ρ, ρ², …`
    #[expect(clippy::arithmetic_side_effects, reason = "field and group arithmetic is total")]
    pub fn powers(self) -> impl Iterator<Item = Fr> {
        iter::successors(Some(Fr::ONE), move |power| Some(*power * self.0))
    }
}

impl LinkChallenge {
    /// `e`.
    pub fn draw(rho: Rho, nonce: &G1Affine) -> Self {
        Self(Hasher::new("link").scalar(&rho.0).point(nonce).challenge())
    }
}

/// `(R, z_u, …, z_{n−1})`.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkProof {
    /// `R`.
    pub nonce: G1Affine,
    /// `z_i`, in ascending row, one a blinding row.
    pub responses: Vec<Fr>,
}

/// The equation of one proof, `Σ z_i [L_i] − R − e·Δ = 0`, as scalars of its points.
#[derive(Clone, Debug)]
pub(crate) struct LinkEquation {
    /// Of `[L_i]` of the blinding rows, of `R` and of the published columns, with those points.
    pub terms: Vec<(Fr, G1Affine)>,
    /// Of the fresh commitments, in the order of the pairs.
    pub fresh: Vec<Fr>,
}

/// # Shapes
/// `tail`: `[L_i]` of the blinding rows, as many as `proof` has responses, in ascending row.
///
/// # Errors
/// `None` when the numbers of responses and blinding rows differ, which no decoded envelope's do.
#[expect(clippy::arithmetic_side_effects, reason = "field and group arithmetic is total")]
pub(crate) fn equation(
    header: &HeaderDigest,
    tail: &[G1Affine],
    pairs: &[LinkedPair],
    proof: &LinkProof,
) -> Option<LinkEquation> {
    if proof.responses.len() != tail.len() {
        return None;
    }
    let rho = Rho::draw(header, pairs);
    let LinkChallenge(e) = LinkChallenge::draw(rho, &proof.nonce);
    let weights: Vec<Fr> = rho.powers().zip(pairs).map(|(power, _)| power * e).collect();
    let mut terms = vec![(-Fr::ONE, proof.nonce)];
    terms.extend(proof.responses.iter().copied().zip(tail.iter().copied()));
    terms.extend(weights.iter().zip(pairs).map(|(weight, pair)| (*weight, pair.published)));
    Some(LinkEquation { terms, fresh: weights.iter().map(|weight| -*weight).collect() })
}

/// Checks `Σ z_i [L_i] = R + e·Δ` of one proof.
///
/// # Shapes
/// `tail`: `[L_i]` of the blinding rows, in ascending row.
pub fn verify_link(
    header: &HeaderDigest,
    tail: &[G1Affine],
    pairs: &[LinkedPair],
    proof: &LinkProof,
) -> bool {
    equation(header, tail, pairs, proof).is_some_and(|LinkEquation { mut terms, fresh }| {
        terms.extend(fresh.into_iter().zip(pairs.iter().map(|pair| pair.fresh)));
        bool::from(multiply(&terms).is_identity())
    })
}
