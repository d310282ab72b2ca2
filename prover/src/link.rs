//! The prover's side of the link proof, and the sealing of envelopes.

use ff::{Field, FromUniformBytes};
use group::Curve;
use halo2_proofs::{arithmetic::best_multiexp, halo2curves::bn256::G1Affine};
use lamina_circuits::Fr;
use lamina_verifier::{
    boundary::BoundaryReference,
    context::{Context, Header},
    encoding,
    envelope::{Claims, Envelope},
    hash::{HeaderDigest, SrsId},
    key::{LinkedColumn, LinkedRole, SliceKey},
    link::{LinkChallenge, LinkProof, LinkedPair, Rho, verify_link},
    srs::VerifierSrs,
};
use rand_core::{OsRng, RngCore};
use zeroize::Zeroize;

use crate::blinding::wipe;

/// Why no link proof, or no envelope, was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The operating system gave no entropy.
    #[error("no entropy from the operating system")]
    Entropy,
    /// Something is not there as often as the key says.
    #[error("{actual} {what}, the key has {expected}")]
    Count {
        /// What is counted.
        what: &'static str,
        /// Of the key.
        expected: usize,
        /// Given.
        actual: usize,
    },
    /// The halo2 proof is not one of this key, or not the one that was linked.
    #[error("the halo2 proof is not of this key, or its commitments are not those that were linked")]
    Proof,
    /// The deltas do not explain the fresh commitments.
    #[error("published and fresh commitments do not differ by the given deltas")]
    Deltas,
    /// The reference string has too few points for the key.
    #[error("the reference string does not fit the key")]
    Srs,
}

/// A linked column as its prover knows it.
#[derive(Clone, Copy, Debug)]
pub struct LinkedDelta<'a> {
    /// The two commitments.
    pub pair: LinkedPair,
    /// `C' − C = Σ δ_i [L_i]`, in ascending row from `u`. Secret.
    pub deltas: &'a [Fr],
}

/// Proves that every pair of commitments differs on blinding rows only.
///
/// `protocol.md` section 7; the equations stand in [`lamina_verifier::link`].
///
/// # Soundness
/// The nonces are `H(64 bytes of the operating system, deltas, hdr, i)`: a broken generator alone does not
/// repeat them, and repeating them would reveal `d`. The proof is checked before it is returned.
///
/// # Shapes
/// `tail`: `[L_i]` for `i = u..n`; `columns` in advice-index order.
///
/// # Errors
/// [`LinkError::Entropy`], [`LinkError::Count`], [`LinkError::Deltas`].
pub fn prove_link(
    header: &HeaderDigest,
    tail: &[G1Affine],
    columns: &[LinkedDelta<'_>],
) -> Result<LinkProof, LinkError> {
    if let Some(column) = columns.iter().find(|column| column.deltas.len() != tail.len()) {
        return Err(LinkError::Count { what: "deltas", expected: tail.len(), actual: column.deltas.len() });
    }
    let pairs: Vec<_> = columns.iter().map(|column| column.pair).collect();
    let rho = Rho::draw(header, &pairs);
    let mut combined = vec![Fr::ZERO; tail.len()];
    for (column, power) in columns.iter().zip(rho.powers()) {
        for (sum, delta) in combined.iter_mut().zip(column.deltas) {
            *sum += power * delta;
        }
    }
    let mut nonces = nonces(header, columns, tail.len())?;
    let nonce = best_multiexp(&nonces, tail).to_affine();
    let LinkChallenge(e) = LinkChallenge::draw(rho, &nonce);
    let responses = nonces.iter().zip(&combined).map(|(r, d)| *r + e * d).collect();
    wipe(&mut nonces);
    wipe(&mut combined);
    let proof = LinkProof { nonce, responses };
    if !verify_link(header, tail, &pairs, &proof) {
        return Err(LinkError::Deltas);
    }
    Ok(proof)
}

fn nonces(header: &HeaderDigest, columns: &[LinkedDelta<'_>], rows: usize) -> Result<Vec<Fr>, LinkError> {
    let mut entropy = [0u8; 64];
    OsRng.try_fill_bytes(&mut entropy).map_err(|_| LinkError::Entropy)?;
    let mut state = blake2b_simd::Params::new().hash_length(64).personal(b"lamina-nonce").to_state();
    state.update(&entropy).update(&header.0.0);
    for delta in columns.iter().flat_map(|column| column.deltas) {
        let mut bytes = delta.to_bytes();
        state.update(&bytes);
        bytes.zeroize();
    }
    entropy.zeroize();
    Ok((0u64..)
        .take(rows)
        .map(|row| {
            let wide = state.clone().update(&row.to_le_bytes()).finalize();
            Fr::from_uniform_bytes(wide.as_array())
        })
        .collect())
}

/// Everything public about a proof that is about to be made.
///
/// First [`Draft::instance`], then the halo2 proof over those values, then [`Draft::seal`]; or [`Draft::link`] beside the proof
/// and [`Draft::seal_linked`].
#[derive(Clone, Debug)]
pub struct Draft<'a> {
    /// The key.
    pub key: &'a SliceKey,
    /// The reference string.
    pub srs: SrsId,
    /// The occasion.
    pub context: Context,
    /// The published weight commitments, in advice-index order.
    pub weights: &'a [G1Affine],
    /// Where the slice begins.
    pub input: BoundaryReference,
    /// Where it ends.
    pub output: BoundaryReference,
}

impl Draft<'_> {
    /// What the proof is bound to.
    pub fn header(&self) -> HeaderDigest {
        Header {
            key: self.key.digest(),
            shape: self.key.shape(),
            srs: self.srs,
            context: self.context,
            input: &self.input,
            output: &self.output,
        }
        .digest()
    }

    /// The instance column of the proof.
    pub fn instance(&self) -> [Fr; 2] {
        self.header().instance()
    }

    /// Published and fresh commitments, in advice-index order.
    ///
    /// # Errors
    /// [`LinkError::Count`], [`LinkError::Proof`].
    pub fn pairs(&self, proof: &[u8]) -> Result<Vec<LinkedPair>, LinkError> {
        let elements = self.elements(proof)?;
        let fresh = |column: &LinkedColumn| encoding::g1(&elements[column.position]);
        let fresh = self.key.shape().linked.iter().map(fresh);
        self.pairs_with(&fresh.collect::<Result<Vec<_>, _>>().map_err(|_| LinkError::Proof)?)
    }

    /// The proof's points and scalars.
    fn elements<'p>(&self, proof: &'p [u8]) -> Result<&'p [[u8; 32]], LinkError> {
        if proof.len() != self.key.shape().proof_bytes() {
            return Err(LinkError::Proof);
        }
        Ok(proof.as_chunks().0)
    }

    fn pairs_with(&self, fresh: &[G1Affine]) -> Result<Vec<LinkedPair>, LinkError> {
        let shape = self.key.shape();
        let given = [
            ("weight commitments", shape.columns(LinkedRole::Weight), self.weights.len()),
            ("input columns", shape.columns(LinkedRole::Input), self.input.columns.len()),
            ("output columns", shape.columns(LinkedRole::Output), self.output.columns.len()),
            ("fresh commitments", shape.linked.len(), fresh.len()),
        ];
        for (what, expected, actual) in given {
            if actual != expected {
                return Err(LinkError::Count { what, expected, actual });
            }
        }
        let published = |column: &LinkedColumn| match column.role {
            LinkedRole::Weight => self.weights[column.index],
            LinkedRole::Input => self.input.columns[column.index],
            LinkedRole::Output => self.output.columns[column.index],
        };
        let pair = |(column, fresh): (&LinkedColumn, &G1Affine)| LinkedPair {
            published: published(column),
            fresh: *fresh,
        };
        Ok(shape.linked.iter().zip(fresh).map(pair).collect())
    }

    /// The link proof for a halo2 proof that may still be under way ([`crate::Prover::prove_with`]).
    ///
    /// # Shapes
    /// `fresh`, `deltas`: one a linked column, in advice-index order, as the prover gives them. The deltas are secret.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub fn link(
        &self,
        srs: &VerifierSrs,
        fresh: &[G1Affine],
        deltas: &[Vec<Fr>],
    ) -> Result<Linked, LinkError> {
        let pairs = self.pairs_with(fresh)?;
        if deltas.len() != pairs.len() {
            return Err(LinkError::Count {
                what: "columns with deltas",
                expected: pairs.len(),
                actual: deltas.len(),
            });
        }
        let columns: Vec<_> =
            pairs.into_iter().zip(deltas).map(|(pair, deltas)| LinkedDelta { pair, deltas }).collect();
        let tail = srs.tail(self.key.shape().blinding_rows).ok_or(LinkError::Srs)?;
        let proof = prove_link(&self.header(), tail, &columns)?;
        Ok(Linked { proof, fresh: fresh.to_vec() })
    }

    /// Writes the envelope.
    ///
    /// # Errors
    /// [`LinkError::Proof`] where the halo2 proof is not of this key, or not the one that was linked.
    pub fn seal_linked(&self, linked: Linked, proof: Vec<u8>) -> Result<Vec<u8>, LinkError> {
        let elements = self.elements(&proof)?;
        let columns = self.key.shape().linked.iter();
        if columns.zip(&linked.fresh).any(|(one, fresh)| elements[one.position] != encoding::g1_bytes(fresh))
        {
            return Err(LinkError::Proof);
        }
        Ok(Envelope {
            claims: Claims { key: self.key.digest(), srs: self.srs, context: self.context },
            input: self.input.clone(),
            output: self.output.clone(),
            link: linked.proof,
            proof,
        }
        .encode())
    }

    /// Adds the link proof to a finished halo2 proof and writes the envelope.
    ///
    /// # Shapes
    /// `deltas`: as in [`Draft::link`].
    ///
    /// # Errors
    /// See [`LinkError`].
    pub fn seal(&self, srs: &VerifierSrs, proof: Vec<u8>, deltas: &[Vec<Fr>]) -> Result<Vec<u8>, LinkError> {
        let fresh: Vec<G1Affine> = self.pairs(&proof)?.iter().map(|pair| pair.fresh).collect();
        let linked = self.link(srs, &fresh, deltas)?;
        self.seal_linked(linked, proof)
    }
}

/// A link proof and the commitments in a halo2 proof that it is about.
#[derive(Clone, Debug)]
pub struct Linked {
    proof: LinkProof,
    /// In advice-index order.
    fresh: Vec<G1Affine>,
}
