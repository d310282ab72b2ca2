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
use halo2_proofs::arithmetic::best_multiexp;

use crate::{
    Fr, G1Affine,
    hash::{Hasher, HeaderDigest},
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

/// One or more link equations, to be checked as one multi-scalar multiplication.
///
/// # Soundness
/// Equation `j` is scaled by `b^j`, `b = H("link-batch", all R, all ρ, all z)`: a batch of `m` false
/// equations passes with probability `m/p`.
#[derive(Clone, Debug)]
pub struct LinkBatch {
    hasher: Hasher,
    equations: Vec<(Vec<Fr>, Vec<G1Affine>)>,
}

impl Default for LinkBatch {
    fn default() -> Self {
        Self { hasher: Hasher::new("link-batch"), equations: Vec::new() }
    }
}

impl LinkBatch {
    /// Adds the equation of one proof.
    ///
    /// # Shapes
    /// `tail`: `[L_i]` of the blinding rows, as many as `proof` has responses, in ascending row.
    #[expect(clippy::arithmetic_side_effects, reason = "field and group arithmetic is total")]
    pub fn push(
        &mut self,
        header: &HeaderDigest,
        tail: &[G1Affine],
        pairs: &[LinkedPair],
        proof: &LinkProof,
    ) {
        let rho = Rho::draw(header, pairs);
        let LinkChallenge(e) = LinkChallenge::draw(rho, &proof.nonce);
        self.hasher.point(&proof.nonce).scalar(&rho.0);
        self.hasher.count(proof.responses.len()).count(tail.len());
        let mut scalars = Vec::new();
        let mut points = Vec::new();
        let mut term = |scalar: Fr, point: G1Affine| {
            scalars.push(scalar);
            points.push(point);
        };
        term(-Fr::ONE, proof.nonce);
        for (response, point) in proof.responses.iter().zip(tail) {
            self.hasher.scalar(response);
            term(*response, *point);
        }
        if proof.responses.len() != tail.len() {
            // Never reached with a decoded envelope; an equation that cannot hold keeps it harmless.
            term(Fr::ONE, G1Affine::generator());
        }
        for (power, pair) in rho.powers().zip(pairs) {
            let weight = power * e;
            term(-weight, pair.fresh);
            term(weight, pair.published);
        }
        self.equations.push((scalars, points));
    }

    /// Whether every equation holds.
    #[expect(clippy::arithmetic_side_effects, reason = "field and group arithmetic is total")]
    pub fn check(self) -> bool {
        let b = self.hasher.challenge();
        let mut scale = Fr::ONE;
        let (mut scalars, mut points) = (Vec::new(), Vec::new());
        for (equation, bases) in self.equations {
            scalars.extend(equation.iter().map(|scalar| *scalar * scale));
            points.extend(bases);
            scale *= b;
        }
        bool::from(best_multiexp(&scalars, &points).is_identity())
    }
}

/// Checks the equation of one proof; see [`LinkBatch::push`].
pub fn verify_link(
    header: &HeaderDigest,
    tail: &[G1Affine],
    pairs: &[LinkedPair],
    proof: &LinkProof,
) -> bool {
    let mut batch = LinkBatch::default();
    batch.push(header, tail, pairs, proof);
    proof.responses.len() == tail.len() && batch.check()
}
