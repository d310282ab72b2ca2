//! Domain-separated hashing: identifiers and challenges.

use std::fmt;

use blake2b_simd::{Params, State};
use ff::{FromUniformBytes, PrimeField};
use group::GroupEncoding;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{Fr, G1Affine, G2Affine, encoding};

/// A transcript under one domain: everything absorbed carries its type and, where it varies, its length.
///
/// ```text
/// state = BLAKE2b-512(person = "lamina-v1", len(domain) ‖ domain ‖ item ‖ item ‖ …)
/// item  = tag ‖ payload            tag 1: bytes with u64 length, 2: u64, 3: G1, 4: G2, 5: scalar
/// ```
///
/// # Transcript
/// Two sequences of items give the same state only if they are equal, item by item and type by type.
#[derive(Clone)]
pub struct Hasher(State);

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher(..)")
    }
}

impl Hasher {
    /// An empty transcript of `domain`.
    pub fn new(domain: &str) -> Self {
        let state = Params::new().hash_length(64).personal(b"lamina-v1").to_state();
        let mut hasher = Self(state);
        hasher.bytes(domain.as_bytes());
        hasher
    }

    /// Absorbs a byte string of any length.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        // `usize` has at most 64 bits on every supported target.
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.0.update(&[1]).update(&length.to_le_bytes()).update(bytes);
        self
    }

    /// Absorbs an integer.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.0.update(&[2]).update(&value.to_le_bytes());
        self
    }

    /// Absorbs a count.
    pub fn count(&mut self, value: usize) -> &mut Self {
        self.u64(u64::try_from(value).unwrap_or(u64::MAX))
    }

    /// Absorbs a commitment in its canonical encoding.
    pub fn point(&mut self, point: &G1Affine) -> &mut Self {
        self.0.update(&[3]).update(&encoding::g1_bytes(point));
        self
    }

    /// Absorbs a point of the second group in its canonical encoding.
    pub fn point_g2(&mut self, point: &G2Affine) -> &mut Self {
        self.0.update(&[4]).update(point.to_bytes().as_ref());
        self
    }

    /// Absorbs a scalar in its canonical encoding.
    pub fn scalar(&mut self, scalar: &Fr) -> &mut Self {
        self.0.update(&[5]).update(scalar.to_repr().as_ref());
        self
    }

    /// The first 256 bits of the state.
    pub fn digest(&self) -> Digest {
        let wide = *self.0.finalize().as_array();
        let mut digest = [0; 32];
        for (to, from) in digest.iter_mut().zip(wide) {
            *to = from;
        }
        Digest(digest)
    }

    /// A challenge: 512 bits reduced modulo `p`, within `2^-256` of uniform.
    pub fn challenge(&self) -> Fr {
        Fr::from_uniform_bytes(self.0.finalize().as_array())
    }
}

/// 256 bits, written as 64 lowercase hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encoding::to_hex(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encoding::to_hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        encoding::from_hex(&text)
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .map(Digest)
            .ok_or_else(|| D::Error::custom("expected 64 lowercase hexadecimal digits"))
    }
}

/// Declares identifiers that are digests and must not be mistaken for one another.
macro_rules! identifiers {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}

identifiers! {
    /// Identifies a model: commitments, layout, keys, quantisation, sizes, reference string.
    ModelId,
    /// Identifies a structured reference string, whatever its truncation.
    SrsId,
    /// Identifies a verifying key: a digest of its bytes.
    KeyDigest,
    /// The digest of a header: what the two instance values spell.
    HeaderDigest,
    /// Identifies a request, drawn by whoever asks.
    RequestId,
    /// Identifies a node.
    NodeId,
    /// Identifies the proof system and its encodings; envelopes carry it.
    ProtocolId,
}

impl ProtocolId {
    /// The only protocol that this crate speaks.
    pub fn current() -> Self {
        Self(
            Hasher::new("protocol")
                .bytes(b"halo2-axiom 0.5.3, BN254, KZG, SHPLONK, Blake2b")
                .bytes(b"link proof over the blinding rows, version 1")
                .digest(),
        )
    }
}
