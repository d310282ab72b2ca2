//! What a proof is bound to: who asked, who answers, which slice of which model, which boundaries.

use ff::PrimeField;

use crate::{
    Fr,
    boundary::BoundaryReference,
    hash::{Hasher, HeaderDigest, KeyDigest, ModelId, NodeId, ProtocolId, RequestId, SrsId},
    key::KeyShape,
};

/// The occasion of a proof.
///
/// ```text
/// ctx = (request, node, model, slice, tokens)
/// ```
///
/// It binds, it does not authenticate: a node that must be accountable signs its envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The request that is answered.
    pub request: RequestId,
    /// The node that answers.
    pub node: NodeId,
    /// The model.
    pub model: ModelId,
    /// The slice, counted from 0 through the model.
    pub slice: u32,
    /// Tokens of the input, before padding.
    pub tokens: u32,
}

/// Everything that the instance values spell.
///
/// ```text
/// hdr = H("hdr", protocol, vk digest, degree, k, u, SRS id, model, slice, ctx, B_in, B_out)
/// ```
///
/// `protocol.md` section 7. The halo2 transcript absorbs it as the first two instance values.
#[derive(Clone, Debug)]
pub struct Header<'a> {
    /// The key, by its digest.
    pub key: KeyDigest,
    /// Degree, `k` and `u`.
    pub shape: &'a KeyShape,
    /// The reference string.
    pub srs: SrsId,
    /// The occasion.
    pub context: Context,
    /// Where the slice begins.
    pub input: &'a BoundaryReference,
    /// Where it ends.
    pub output: &'a BoundaryReference,
}

impl Header<'_> {
    /// The digest of all fields.
    pub fn digest(&self) -> HeaderDigest {
        let mut hasher = Hasher::new("hdr");
        hasher
            .bytes(&ProtocolId::current().0.0)
            .bytes(&self.key.0.0)
            .count(self.shape.degree)
            .u64(u64::from(self.shape.log_n))
            .count(self.shape.usable_rows)
            .bytes(&self.srs.0.0)
            .bytes(&self.context.request.0.0)
            .bytes(&self.context.node.0.0)
            .bytes(&self.context.model.0.0)
            .u64(u64::from(self.context.slice))
            .u64(u64::from(self.context.tokens));
        self.input.absorb(&mut hasher);
        self.output.absorb(&mut hasher);
        HeaderDigest(hasher.digest())
    }
}

impl HeaderDigest {
    /// The two instance values: the digest's halves as little-endian 128-bit integers.
    pub fn instance(&self) -> [Fr; 2] {
        let half =
            |bytes: &[u8]| bytes.try_into().map(u128::from_le_bytes).map(Fr::from_u128).unwrap_or_default();
        let (low, high) = self.0.0.split_at(16);
        [half(low), half(high)]
    }
}
