//! The bytes of one slice proof: one string per proof, every length known before it is read.
//!
//! ```text
//! magic "LAMINAPF" | version u16 | protocol id 32 | key digest 32
//! | SRS id 32 | model 32 | slice u32 | request 32 | node 32 | tokens u32
//! | input:  kind u8 (0 hidden, 1 open) | one commitment a column
//! | output: kind u8                    | one commitment a column
//! | link:   R | z, one a blinding row
//! | halo2 proof
//! ```
//!
//! Integers are little-endian, points compressed, scalars canonical. Nothing in an envelope is believed:
//! a verifier compares its fields with what it expects and hashes its own expectation.

use crate::{
    Fr, G1Affine,
    boundary::{BoundaryKind, BoundaryReference},
    context::Context,
    encoding::{self, ELEMENT_BYTES, PointError, Reader, Truncated},
    hash::{Digest, KeyDigest, ModelId, NodeId, ProtocolId, RequestId, SrsId},
    key::{KeyShape, LinkedRole, OPENING_POINTS},
    link::LinkProof,
};

/// The first bytes of every envelope.
pub const MAGIC: &[u8; 8] = b"LAMINAPF";
/// The format's version.
pub const VERSION: u16 = 1;
/// Bytes before the boundaries.
pub const HEADER_BYTES: usize = 8 + 2 + 32 + 32 + 32 + 32 + 4 + 32 + 32 + 4;

/// A part of an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The input boundary.
    Input,
    /// The output boundary.
    Output,
    /// `R`.
    LinkNonce,
    /// `z`.
    LinkResponse,
    /// The points before the halo2 proof's scalars.
    ProofPoint,
    /// The halo2 proof's scalars.
    ProofScalar,
    /// The halo2 proof's last two points.
    OpeningPoint,
}

/// Why bytes are not an envelope under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes do not start with the magic bytes.
    #[error("not an envelope")]
    Magic,
    /// Another version of the format.
    #[error("envelope version {actual} is not {VERSION}")]
    Version {
        /// What the envelope says.
        actual: u16,
    },
    /// Another proof system.
    #[error("the envelope speaks protocol {actual}")]
    Protocol {
        /// What the envelope says.
        actual: ProtocolId,
    },
    /// Fewer or more bytes than the key prescribes: truncated, or followed by something.
    #[error("expected {expected} bytes, found {actual}")]
    Length {
        /// From the key.
        expected: usize,
        /// Found.
        actual: usize,
    },
    /// A boundary is neither hidden nor open.
    #[error("{part:?}: unknown kind {actual}")]
    Kind {
        /// Input or output.
        part: Part,
        /// What the envelope says.
        actual: u8,
    },
    /// A point is refused.
    #[error("{part:?} {index}: {error}")]
    Point {
        /// Where.
        part: Part,
        /// Position in the part.
        index: usize,
        /// Why.
        error: PointError,
    },
    /// A scalar is not below the modulus.
    #[error("{part:?} {index}: scalar is not canonical")]
    Scalar {
        /// Where.
        part: Part,
        /// Position in the part.
        index: usize,
    },
}

/// The fields before the boundaries: enough to find the key that the rest needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The key.
    pub key: KeyDigest,
    /// The reference string.
    pub srs: SrsId,
    /// The occasion.
    pub context: Context,
}

/// A decoded envelope.
///
/// # Soundness
/// No commitment of the halo2 proof may be the identity: everything that a prover commits to is blinded.
/// Decoding checks encodings, not statements. The halo2 proof's points are checked in full only by the
/// verification that follows; what decoding lets pass and that accepts has no other encoding.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// The fields before the boundaries.
    pub claims: Claims,
    /// Where the slice begins.
    pub input: BoundaryReference,
    /// Where it ends.
    pub output: BoundaryReference,
    /// The link proof.
    pub link: LinkProof,
    /// The halo2 proof.
    pub proof: Vec<u8>,
}

impl Claims {
    /// Reads the fields before the boundaries, and nothing else.
    ///
    /// # Errors
    /// [`DecodeError::Magic`], [`DecodeError::Version`], [`DecodeError::Protocol`],
    /// [`DecodeError::Length`].
    pub fn peek(bytes: &[u8]) -> Result<Self, DecodeError> {
        let short = |Truncated| DecodeError::Length { expected: HEADER_BYTES, actual: bytes.len() };
        let mut reader = Reader::new(bytes);
        if reader.array().map_err(short)? != *MAGIC {
            return Err(DecodeError::Magic);
        }
        let version = reader.u16().map_err(short)?;
        if version != VERSION {
            return Err(DecodeError::Version { actual: version });
        }
        let mut digest = || reader.array().map(Digest).map_err(short);
        let protocol = ProtocolId(digest()?);
        if protocol != ProtocolId::current() {
            return Err(DecodeError::Protocol { actual: protocol });
        }
        let (key, srs, model) = (digest()?, digest()?, digest()?);
        let slice = reader.u32().map_err(short)?;
        let mut digest = || reader.array().map(Digest).map_err(short);
        let (request, node) = (digest()?, digest()?);
        let tokens = reader.u32().map_err(short)?;
        Ok(Self {
            key: KeyDigest(key),
            srs: SrsId(srs),
            context: Context {
                request: RequestId(request),
                node: NodeId(node),
                model: ModelId(model),
                slice,
                tokens,
            },
        })
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(ProtocolId::current().0.0);
        bytes.extend(self.key.0.0);
        bytes.extend(self.srs.0.0);
        bytes.extend(self.context.model.0.0);
        bytes.extend(self.context.slice.to_le_bytes());
        bytes.extend(self.context.request.0.0);
        bytes.extend(self.context.node.0.0);
        bytes.extend(self.context.tokens.to_le_bytes());
    }
}

impl Envelope {
    /// Bytes of every envelope under a key of this shape.
    pub fn bytes(shape: &KeyShape) -> usize {
        let elements = shape
            .columns(LinkedRole::Input)
            .saturating_add(shape.columns(LinkedRole::Output))
            .saturating_add(1)
            .saturating_add(shape.blinding_rows);
        elements
            .saturating_mul(ELEMENT_BYTES)
            .saturating_add(HEADER_BYTES)
            .saturating_add(2)
            .saturating_add(shape.proof_bytes())
    }

    /// Writes the envelope.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.claims.encode(&mut bytes);
        self.input.encode(&mut bytes);
        self.output.encode(&mut bytes);
        bytes.extend(encoding::g1_bytes(&self.link.nonce));
        for response in &self.link.responses {
            bytes.extend(response.to_bytes());
        }
        bytes.extend(&self.proof);
        bytes
    }

    /// Reads an envelope under a key of shape `shape`; `encode(decode(bytes)) == bytes`.
    ///
    /// # Errors
    /// See [`DecodeError`]. The total length is checked before anything is allocated.
    pub fn decode(bytes: &[u8], shape: &KeyShape) -> Result<Self, DecodeError> {
        let claims = Claims::peek(bytes)?;
        let expected = Self::bytes(shape);
        let length = |Truncated| DecodeError::Length { expected, actual: bytes.len() };
        if bytes.len() != expected {
            return Err(length(Truncated));
        }
        let mut reader = Reader::new(bytes);
        reader.take(HEADER_BYTES).map_err(length)?;
        let mut boundary = |part, role| {
            let tag = reader.u8().map_err(length)?;
            let kind = BoundaryKind::from_tag(tag).ok_or(DecodeError::Kind { part, actual: tag })?;
            let columns = (0..shape.columns(role))
                .map(|index| {
                    let bytes = reader.array().map_err(length)?;
                    read_point(kind, &bytes).map_err(|error| DecodeError::Point { part, index, error })
                })
                .collect::<Result<_, _>>()?;
            Ok(BoundaryReference { kind, columns })
        };
        let input = boundary(Part::Input, LinkedRole::Input)?;
        let output = boundary(Part::Output, LinkedRole::Output)?;
        let nonce = encoding::g1(&reader.array().map_err(length)?).map_err(|error| DecodeError::Point {
            part: Part::LinkNonce,
            index: 0,
            error,
        })?;
        let responses = (0..shape.blinding_rows)
            .map(|index| {
                let bytes = reader.array().map_err(length)?;
                encoding::scalar(&bytes).ok_or(DecodeError::Scalar { part: Part::LinkResponse, index })
            })
            .collect::<Result<Vec<Fr>, _>>()?;
        let proof = reader.take(shape.proof_bytes()).map_err(length)?;
        if reader.remaining() != 0 {
            return Err(length(Truncated));
        }
        check_proof_shape(proof, shape)?;
        Ok(Self { claims, input, output, link: LinkProof { nonce, responses }, proof: proof.to_vec() })
    }
}

/// The identity stands for an open column of zeros, and for nothing else.
fn read_point(kind: BoundaryKind, bytes: &[u8; ELEMENT_BYTES]) -> Result<G1Affine, PointError> {
    match kind {
        BoundaryKind::Hidden => encoding::g1(bytes),
        BoundaryKind::Open => encoding::g1_or_identity(bytes),
    }
}

/// One element of a halo2 proof, with its part and its position there.
fn proof_elements<'a>(
    proof: &'a [u8],
    shape: &KeyShape,
) -> impl Iterator<Item = (Part, usize, &'a [u8; ELEMENT_BYTES])> {
    let (elements, _) = proof.as_chunks::<ELEMENT_BYTES>();
    let label = |part| move |index| (part, index);
    let labels = (0..shape.points)
        .map(label(Part::ProofPoint))
        .chain((0..shape.scalars).map(label(Part::ProofScalar)))
        .chain((0..OPENING_POINTS).map(label(Part::OpeningPoint)));
    labels.zip(elements).map(|((part, index), bytes)| (part, index, bytes))
}

/// Checks the encodings of a halo2 proof as far as that needs no square roots.
fn check_proof_shape(proof: &[u8], shape: &KeyShape) -> Result<(), DecodeError> {
    for (part, index, bytes) in proof_elements(proof, shape) {
        if part == Part::ProofScalar {
            encoding::scalar(bytes).ok_or(DecodeError::Scalar { part, index })?;
        } else {
            encoding::g1_shape(bytes).map_err(|error| DecodeError::Point { part, index, error })?;
        }
    }
    Ok(())
}

/// The first point of a halo2 proof that is not on the curve.
pub(crate) fn first_bad_point(proof: &[u8], shape: &KeyShape) -> Option<DecodeError> {
    proof_elements(proof, shape).filter(|(part, _, _)| *part != Part::ProofScalar).find_map(
        |(part, index, bytes)| {
            encoding::g1(bytes).err().map(|error| DecodeError::Point { part, index, error })
        },
    )
}
