//! Verification of slices, of chains of slices, and of a model's publication.
//!
//! Every check has its own error. Contexts and headers are built from the verifier's *expectation*; what
//! an envelope says of itself is only compared with it.

use std::{collections::BTreeMap, fmt};

use ff::Field as _;
use group::Curve;
use lamina_circuits::slice::SliceCircuit;

use crate::{
    Fr, G1Affine,
    boundary::{BoundaryKind, BoundaryReference, OpenBoundary},
    card::{Card, SrsReference},
    context::{Context, Header},
    encoding::ELEMENT_BYTES,
    envelope::{Claims, DecodeError, Envelope, first_bad_point},
    hash::{Digest, Hasher, HeaderDigest, KeyDigest, ModelId, NodeId, RequestId, SrsId},
    key::{KeyError, LinkedRole, SliceKey, refuse_max_degree},
    link::{self, LinkEquation, LinkedPair},
    msm::multiply,
    plonk::{KeyTerms, Reduction},
    srs::{SrsError, VerifierSrs},
};

/// What a verifier expects of a boundary.
#[derive(Clone, Copy, Debug)]
pub enum BoundaryExpectation<'a> {
    /// Hidden, behind any commitments; the verdict reports them.
    Hidden,
    /// Hidden, behind these commitments.
    HiddenAs(&'a [G1Affine]),
    /// Open, with these integers.
    Open(&'a OpenBoundary),
}

/// A side of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where it begins.
    Input,
    /// Where it ends.
    Output,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::Output => "output",
        })
    }
}

/// What a verifier expects of one slice proof.
#[derive(Clone, Copy, Debug)]
pub struct Expectation<'a> {
    /// The occasion, model and slice included.
    pub context: Context,
    /// Where the slice begins.
    pub input: BoundaryExpectation<'a>,
    /// Where it ends.
    pub output: BoundaryExpectation<'a>,
    /// Shows that the model's weights are in range.
    pub publication: PublicationReceipt,
}

/// Shows that a model's published weights are in range, or that the caller chose to believe it.
///
/// # Soundness
/// Without it a publisher may commit to `1/2 mod p`, and every static bound of the circuits is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicationReceipt {
    model: ModelId,
    verified: bool,
}

impl PublicationReceipt {
    /// Takes the publisher's word, or the word of whoever has verified the publication before.
    pub fn trusting_publisher(model: ModelId) -> Self {
        Self { model, verified: false }
    }

    /// The model that it speaks of.
    pub fn model(&self) -> ModelId {
        self.model
    }

    /// Whether this process has verified the publication proofs itself.
    pub fn verified(&self) -> bool {
        self.verified
    }
}

/// A field that an envelope and an expectation disagree about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Field {
    /// The reference string.
    Srs,
    /// The model.
    Model,
    /// The slice index.
    Slice,
    /// The request.
    Request,
    /// The node.
    Node,
    /// The token count.
    Tokens,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Srs => "reference string",
            Self::Model => "model",
            Self::Slice => "slice",
            Self::Request => "request",
            Self::Node => "node",
            Self::Tokens => "token count",
        })
    }
}

/// Why one slice proof is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The environment or the key is unfit.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The verifier's reference string is not the card's.
    #[error("the verifier holds reference string {actual}, the card names {expected}")]
    Srs {
        /// Of the card.
        expected: SrsId,
        /// Of the verifier.
        actual: SrsId,
    },
    /// The card's development mark is not that of the reference string which it names.
    #[error("the card calls the reference string insecure: {card}, and it is: {actual}")]
    SrsMark {
        /// What the card says.
        card: bool,
        /// Of the reference string.
        actual: bool,
    },
    /// The verifier's reference string has another size than the keys.
    #[error("the reference string is for 2^{actual} rows, the key for 2^{expected}")]
    SrsSize {
        /// Of the key.
        expected: u32,
        /// Of the reference string.
        actual: u32,
    },
    /// The card is not of the model that is expected.
    #[error("the card is of model {actual}, expected {expected}")]
    Card {
        /// Expected.
        expected: ModelId,
        /// Of the card.
        actual: ModelId,
    },
    /// The publication receipt is not of the model that is expected.
    #[error("the publication receipt is of model {actual}, expected {expected}")]
    Publication {
        /// Expected.
        expected: ModelId,
        /// Of the receipt.
        actual: ModelId,
    },
    /// The model has no such slice.
    #[error("the model has {count} slices")]
    NoSuchSlice {
        /// Slices of the model.
        count: usize,
    },
    /// The bytes are not an envelope under the slice's key.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Made under another key.
    #[error("made under key {actual}, expected {expected}")]
    KeyDigest {
        /// Of the slice.
        expected: KeyDigest,
        /// Of the envelope.
        actual: KeyDigest,
    },
    /// Made for another occasion.
    #[error("the envelope is for another {field}")]
    Field {
        /// Which field.
        field: Field,
    },
    /// An expected boundary has another number of columns than the circuit.
    #[error("{side} boundary: {actual} columns are expected of a circuit with {expected}")]
    BoundaryColumns {
        /// Which side.
        side: Side,
        /// Of the circuit.
        expected: usize,
        /// Of the expectation.
        actual: usize,
    },
    /// A boundary is open where a hidden one is expected, or the other way round.
    #[error("the {side} boundary is {actual}, which is not what is expected")]
    BoundaryKind {
        /// Which side.
        side: Side,
        /// Of the envelope.
        actual: BoundaryKind,
    },
    /// A boundary is not the expected one.
    #[error("{side} boundary: column {column} is not the expected one")]
    Boundary {
        /// Which side.
        side: Side,
        /// The first column that differs.
        column: usize,
    },
    /// The commitments of an open boundary could not be computed.
    #[error("{side} boundary: {error}")]
    OpenBoundary {
        /// Which side.
        side: Side,
        /// Why.
        error: SrsError,
    },
    /// Two advice columns have one commitment: no honest prover's, since every column is blinded.
    #[error("advice commitments {first} and {second} are equal")]
    RepeatedCommitment {
        /// Position in the proof.
        first: usize,
        /// Position in the proof.
        second: usize,
    },
    /// The opening argument is malformed.
    #[error("the halo2 proof's opening argument is refused")]
    Opening,
    /// The halo2 proof does not verify: the statement, or an absorbed value, is not the prover's.
    #[error("the halo2 proof does not verify")]
    Proof,
    /// The linked columns do not open to the published or boundary columns.
    #[error("the link proof does not verify")]
    Link,
}

/// A refusal and the slice that it concerns.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("slice {slice}: {refusal}")]
pub struct SliceError {
    /// The slice that was expected.
    pub slice: u32,
    /// Why.
    #[source]
    pub refusal: Refusal,
}

/// What a verified slice proof establishes.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The occasion.
    pub context: Context,
    /// Where the slice begins.
    pub input: BoundaryReference,
    /// Where it ends.
    pub output: BoundaryReference,
    /// The header that the proof is bound to.
    pub header: HeaderDigest,
    /// Whether the weights' ranges were verified by this process.
    pub publication_verified: bool,
    /// Whether the reference string is a development one, so that the proof proves nothing.
    pub insecure_srs: bool,
}

/// Verifies one slice proof.
///
/// `protocol.md` section 10. In this order: environment, reference string, card, envelope encoding, key
/// digest, fields, boundaries, repeated commitments, halo2 proof, link proof.
///
/// # Soundness
/// Holds for the statement of section 1 if the card's model identifier is the one in `expectation`, the
/// reference string's identifier is trusted, and the publication receipt is true.
///
/// # Errors
/// The first check that fails.
pub fn verify_slice<C: SliceCircuit, R: SliceCircuit>(
    expectation: &Expectation<'_>,
    card: &Card<C, R>,
    srs: &VerifierSrs,
    envelope: &[u8],
) -> Result<Verdict, SliceError> {
    let slice = expectation.context.slice;
    let refuse = |refusal| SliceError { slice, refusal };
    let prepared = [(slice, prepare_slice(expectation, card, srs, envelope).map_err(refuse)?)];
    verify_all(&prepared, srs)?;
    let [(_, prepared)] = prepared;
    Ok(prepared.verdict(&expectation.publication, srs))
}

/// A proof that has passed everything but the two arguments themselves.
struct Prepared<'a> {
    key: &'a SliceKey,
    context: Context,
    envelope: Envelope,
    header: HeaderDigest,
    published: Vec<G1Affine>,
    tail: &'a [G1Affine],
}

fn prepare_slice<'a, C: SliceCircuit, R: SliceCircuit>(
    expectation: &Expectation<'_>,
    card: &'a Card<C, R>,
    srs: &'a VerifierSrs,
    bytes: &[u8],
) -> Result<Prepared<'a>, Refusal> {
    let context = expectation.context;
    if expectation.publication.model != context.model {
        return Err(Refusal::Publication { expected: context.model, actual: expectation.publication.model });
    }
    check_card(card, context.model)?;
    let (Some(key), Some(weights)) = (card.key(context.slice), card.weights(context.slice)) else {
        return Err(Refusal::NoSuchSlice { count: card.slice_count() });
    };
    let task = Task {
        key,
        srs_reference: card.srs(),
        context,
        weights,
        input: expectation.input,
        output: expectation.output,
    };
    task.prepare(srs, bytes)
}

fn check_card<C: SliceCircuit, R: SliceCircuit>(card: &Card<C, R>, expected: ModelId) -> Result<(), Refusal> {
    if card.model() != expected {
        return Err(Refusal::Card { expected, actual: card.model() });
    }
    Ok(())
}

/// One envelope to be checked against one key, whether of a slice or of a publication.
struct Task<'a, 'e> {
    key: &'a SliceKey,
    srs_reference: SrsReference,
    context: Context,
    weights: &'a [G1Affine],
    input: BoundaryExpectation<'e>,
    output: BoundaryExpectation<'e>,
}

impl<'a> Task<'a, '_> {
    fn prepare(&self, srs: &'a VerifierSrs, bytes: &[u8]) -> Result<Prepared<'a>, Refusal> {
        refuse_max_degree()?;
        let shape = self.key.shape();
        if srs.id() != self.srs_reference.id {
            return Err(Refusal::Srs { expected: self.srs_reference.id, actual: srs.id() });
        }
        // The identifier covers the true mark; a card could name it beside a false one.
        if srs.identity().insecure() != self.srs_reference.insecure {
            return Err(Refusal::SrsMark {
                card: self.srs_reference.insecure,
                actual: srs.identity().insecure(),
            });
        }
        let size = Refusal::SrsSize { expected: shape.log_n, actual: srs.log_n() };
        if srs.log_n() != shape.log_n {
            return Err(size);
        }
        let tail = srs.tail(shape.blinding_rows).ok_or(size)?;
        let claims = Claims::peek(bytes)?;
        self.check_claims(&claims)?;
        let envelope = Envelope::decode(bytes, shape)?;
        let input = self.boundary(srs, Side::Input, self.input, &envelope.input)?;
        let output = self.boundary(srs, Side::Output, self.output, &envelope.output)?;
        check_repeated(&envelope, shape.advice)?;
        let published = self.published(&input, &output)?;
        let header = Header {
            key: self.key.digest(),
            shape,
            srs: self.srs_reference.id,
            context: self.context,
            input: &input,
            output: &output,
        }
        .digest();
        Ok(Prepared { key: self.key, context: self.context, envelope, header, published, tail })
    }

    fn check_claims(&self, claims: &Claims) -> Result<(), Refusal> {
        if let Some(field) = differing_field(&claims.context, &self.context) {
            return Err(Refusal::Field { field });
        }
        if claims.srs != self.srs_reference.id {
            return Err(Refusal::Field { field: Field::Srs });
        }
        if claims.key != self.key.digest() {
            return Err(Refusal::KeyDigest { expected: self.key.digest(), actual: claims.key });
        }
        Ok(())
    }

    /// The boundary that the header is built from.
    fn boundary(
        &self,
        srs: &VerifierSrs,
        side: Side,
        expectation: BoundaryExpectation<'_>,
        claimed: &BoundaryReference,
    ) -> Result<BoundaryReference, Refusal> {
        let (kind, columns) = match expectation {
            BoundaryExpectation::Hidden => (BoundaryKind::Hidden, claimed.columns.clone()),
            BoundaryExpectation::HiddenAs(columns) => (BoundaryKind::Hidden, columns.to_vec()),
            BoundaryExpectation::Open(values) => {
                let role = match side {
                    Side::Input => LinkedRole::Input,
                    Side::Output => LinkedRole::Output,
                };
                let expected = self.key.shape().columns(role);
                if values.columns.len() != expected {
                    return Err(Refusal::BoundaryColumns { side, expected, actual: values.columns.len() });
                }
                let usable = self.key.shape().usable_rows;
                let unreadable = |error| Refusal::OpenBoundary { side, error };
                let columns = if values.is_behind(srs, usable, &claimed.columns).map_err(unreadable)? {
                    claimed.columns.clone()
                } else {
                    // Which column it is.
                    values.reference(srs, usable).map_err(unreadable)?.columns
                };
                (BoundaryKind::Open, columns)
            }
        };
        if columns.len() != claimed.columns.len() {
            return Err(Refusal::BoundaryColumns {
                side,
                expected: claimed.columns.len(),
                actual: columns.len(),
            });
        }
        // A circuit without that boundary has nothing to hide or to open, but one encoding of nothing.
        if claimed.kind != kind {
            return Err(Refusal::BoundaryKind { side, actual: claimed.kind });
        }
        let differs = |(one, other): (&G1Affine, &G1Affine)| one != other;
        if let Some(column) = columns.iter().zip(&claimed.columns).position(differs) {
            return Err(Refusal::Boundary { side, column });
        }
        Ok(BoundaryReference { kind, columns })
    }

    /// What the linked columns must open to, in advice-index order.
    fn published(
        &self,
        input: &BoundaryReference,
        output: &BoundaryReference,
    ) -> Result<Vec<G1Affine>, Refusal> {
        let published = self.key.shape().linked.iter().map(|column| {
            let columns = match column.role {
                LinkedRole::Weight => self.weights,
                LinkedRole::Input => &input.columns,
                LinkedRole::Output => &output.columns,
            };
            // All exist: their numbers were compared with the key's.
            columns.get(column.index).copied().ok_or(Refusal::Link)
        });
        published.collect()
    }
}

fn differing_field(claimed: &Context, expected: &Context) -> Option<Field> {
    [
        (claimed.model == expected.model, Field::Model),
        (claimed.slice == expected.slice, Field::Slice),
        (claimed.request == expected.request, Field::Request),
        (claimed.node == expected.node, Field::Node),
        (claimed.tokens == expected.tokens, Field::Tokens),
    ]
    .into_iter()
    .find_map(|(equal, field)| (!equal).then_some(field))
}

/// Refuses equal advice commitments.
///
/// # Soundness
/// Forks of halo2 that group opening queries by the *value* of a commitment let two columns with one
/// commitment claim two evaluations at one point (query collision). The library groups by the identity of
/// the column, so it opens both; this check does not depend on that.
fn check_repeated(envelope: &Envelope, advice: usize) -> Result<(), Refusal> {
    let (elements, _) = envelope.proof.as_chunks::<ELEMENT_BYTES>();
    let mut seen = BTreeMap::new();
    for (second, bytes) in elements.iter().take(advice).enumerate() {
        if let Some(first) = seen.insert(bytes, second) {
            return Err(Refusal::RepeatedCommitment { first, second });
        }
    }
    Ok(())
}

impl Prepared<'_> {
    /// Replays the halo2 proof under the instance that the expected header spells.
    fn reduce(&self) -> Result<Reduction, Refusal> {
        let instance: [Fr; 2] = self.header.instance();
        self.key
            .protocol()
            .reduce(self.key.verifying_key(), &instance, &self.envelope.proof)
            .map_err(|_| self.bad_point().unwrap_or(Refusal::Opening))
    }

    /// Published and fresh commitments in advice-index order.
    fn pairs(&self, reduction: &Reduction) -> Result<Vec<LinkedPair>, Refusal> {
        let columns = self.key.shape().linked.iter().zip(&self.published);
        columns
            .map(|(column, published)| {
                let fresh = reduction.points.get(column.position).ok_or(Refusal::Link)?;
                Ok(LinkedPair { published: *published, fresh: *fresh })
            })
            .collect()
    }

    fn bad_point(&self) -> Option<Refusal> {
        first_bad_point(&self.envelope.proof, self.key.shape()).map(Refusal::Decode)
    }

    fn verdict(self, publication: &PublicationReceipt, srs: &VerifierSrs) -> Verdict {
        Verdict {
            context: self.context,
            input: self.envelope.input,
            output: self.envelope.output,
            header: self.header,
            publication_verified: publication.verified,
            insecure_srs: srs.identity().insecure(),
        }
    }
}

/// Checks prepared proofs, their opening arguments and their link proofs, with one multi-scalar
/// multiplication and one pairing check; when that fails, finds the first that is at fault.
///
/// # Soundness
/// The `j`-th proof's equation is scaled by `b^(2j)` and its link equation, a combination of points that
/// must vanish, by `b^(2j+1)`, `b = H("batch", all headers, proofs and link proofs)`: `m` proofs with a
/// false one pass with a further probability of at most `2m/p`.
fn verify_all(prepared: &[(u32, Prepared<'_>)], srs: &VerifierSrs) -> Result<(), SliceError> {
    let mut hasher = Hasher::new("batch");
    let mut reduced = Vec::with_capacity(prepared.len());
    for (slice, proof) in prepared {
        let refuse = |refusal| SliceError { slice: *slice, refusal };
        let reduction = proof.reduce().map_err(refuse)?;
        let pairs = proof.pairs(&reduction).map_err(refuse)?;
        let Envelope { link, proof: bytes, .. } = &proof.envelope;
        let equation =
            link::equation(&proof.header, proof.tail, &pairs, link).ok_or_else(|| refuse(Refusal::Link))?;
        hasher.bytes(&proof.header.0.0).bytes(bytes).point(&link.nonce).count(link.responses.len());
        for response in &link.responses {
            hasher.scalar(response);
        }
        reduced.push(Reduced { slice: *slice, prepared: proof, reduction, equation });
    }
    let challenge = hasher.challenge();
    if hold(&reduced, Part::Both, challenge, srs) {
        return Ok(());
    }
    for one in &reduced {
        let one = std::slice::from_ref(one);
        for (part, refusal) in [(Part::Proof, Refusal::Proof), (Part::Link, Refusal::Link)] {
            if !hold(one, part, challenge, srs) {
                return Err(SliceError { slice: one.first().map_or(0, |one| one.slice), refusal });
            }
        }
    }
    // Single checks are exact; a batch that disagrees with all of them is refused all the same.
    Err(SliceError { slice: reduced.first().map_or(0, |one| one.slice), refusal: Refusal::Proof })
}

/// A proof as equations between points.
struct Reduced<'a, 'k> {
    slice: u32,
    prepared: &'a Prepared<'k>,
    reduction: Reduction,
    equation: LinkEquation,
}

/// Which equations of a proof are checked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Proof,
    Link,
    Both,
}

/// Whether the equations hold, combined by powers of `challenge`. Points that proofs share (those of the
/// key, of the reference string, a proof's own in both equations) are multiplied once.
#[expect(clippy::arithmetic_side_effects, reason = "field and group arithmetic is total")]
fn hold(reduced: &[Reduced<'_, '_>], part: Part, challenge: Fr, srs: &VerifierSrs) -> bool {
    let (proofs, links) = (part != Part::Link, part != Part::Proof);
    let mut keys: BTreeMap<KeyDigest, (&SliceKey, KeyTerms)> = BTreeMap::new();
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut generator = Fr::ZERO;
    let mut power = Fr::ONE;
    for Reduced { prepared, reduction, equation, .. } in reduced {
        let (scale, link_scale) = (power, power * challenge);
        power = link_scale * challenge;
        let mut own: Vec<(Fr, G1Affine)> = Vec::new();
        if proofs {
            left.push((scale, reduction.left));
            generator += scale * reduction.generator;
            own.extend(reduction.own_terms().map(|(scalar, point)| (scalar * scale, point)));
            let key = prepared.key;
            let (_, terms) =
                keys.entry(key.digest()).or_insert_with(|| (key, KeyTerms::new(key.verifying_key())));
            terms.add(reduction, scale);
        } else {
            own.extend(reduction.points.iter().map(|point| (Fr::ZERO, *point)));
        }
        if links {
            for (column, scalar) in prepared.key.shape().linked.iter().zip(&equation.fresh) {
                if let Some((slot, _)) = own.get_mut(column.position) {
                    *slot += link_scale * scalar;
                }
            }
            own.extend(equation.terms.iter().map(|(scalar, point)| (link_scale * scalar, *point)));
        }
        right.extend(own);
    }
    right.push((generator, G1Affine::generator()));
    for (key, terms) in keys.into_values() {
        right.extend(terms.terms(key.verifying_key()));
    }
    let (left, right) = (multiply(&left), multiply(&right));
    srs.pairing_holds(&left.to_affine(), &right.to_affine())
}

/// What a verifier expects of the proofs of a whole model.
#[derive(Clone, Copy, Debug)]
pub struct ChainExpectation<'a> {
    /// The request that is answered.
    pub request: RequestId,
    /// The model.
    pub model: ModelId,
    /// Tokens of the input, before padding.
    pub tokens: u32,
    /// The node of every slice, in order.
    pub nodes: &'a [NodeId],
    /// Every boundary in order, one more than slices: before the first, between two, after the last.
    pub boundaries: &'a [BoundaryExpectation<'a>],
    /// Shows that the model's weights are in range.
    pub publication: PublicationReceipt,
}

/// Why a chain is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// The expectation does not enumerate the model's slices.
    #[error("the expectation has {nodes} nodes and {boundaries} boundaries for {slices} slices")]
    Expectation {
        /// Slices of the model.
        slices: usize,
        /// Nodes expected.
        nodes: usize,
        /// Boundaries expected.
        boundaries: usize,
    },
    /// An envelope's first fields cannot be read.
    #[error("envelope {position}: {error}")]
    Unreadable {
        /// Position in the chain.
        position: usize,
        /// Why.
        error: DecodeError,
    },
    /// An envelope belongs to another occasion.
    #[error("envelope {position} is for another {field}")]
    Foreign {
        /// Position in the chain.
        position: usize,
        /// Which field.
        field: Field,
    },
    /// An envelope is of a slice that the model does not have.
    #[error("envelope {position} is of slice {slice}, which the model does not have")]
    Extra {
        /// Position in the chain.
        position: usize,
        /// What it claims.
        slice: u32,
    },
    /// Two envelopes are of one slice.
    #[error("slice {slice} is proved twice")]
    Repeated {
        /// The slice.
        slice: u32,
    },
    /// No envelope is of this slice.
    #[error("slice {slice} is missing")]
    Missing {
        /// The slice.
        slice: u32,
    },
    /// All slices are there, in another order.
    #[error("envelope {position} is of slice {slice}")]
    Reordered {
        /// Position in the chain.
        position: usize,
        /// What it claims.
        slice: u32,
    },
    /// A slice ends elsewhere than the next begins.
    #[error("slice {slice} does not begin where the one before it ends")]
    Boundary {
        /// The later slice.
        slice: u32,
    },
    /// A slice proof is refused.
    #[error(transparent)]
    Slice(#[from] SliceError),
}

/// Verifies the proofs of all slices of a model, from an input boundary to an output boundary.
///
/// # Soundness
/// The slices are enumerated by the card, not by the envelopes. One pairing check serves all proofs and
/// one multi-scalar multiplication all link proofs: a chain of `m` proofs with a false one passes with a
/// further probability of about `m/p`.
///
/// # Errors
/// See [`ChainError`]; the checks on the whole chain come before those on any slice.
pub fn verify_chain<C: SliceCircuit, R: SliceCircuit>(
    expectation: &ChainExpectation<'_>,
    card: &Card<C, R>,
    srs: &VerifierSrs,
    envelopes: &[&[u8]],
) -> Result<Vec<Verdict>, ChainError> {
    let slices = card.slice_count();
    let wanted = slices.saturating_add(1);
    if expectation.nodes.len() != slices || expectation.boundaries.len() != wanted {
        return Err(ChainError::Expectation {
            slices,
            nodes: expectation.nodes.len(),
            boundaries: expectation.boundaries.len(),
        });
    }
    check_order(expectation, slices, envelopes)?;
    let borders = expectation.boundaries.iter().zip(expectation.boundaries.iter().skip(1));
    let mut prepared: Vec<(u32, Prepared<'_>)> = Vec::with_capacity(slices);
    for (((slice, bytes), node), (input, output)) in
        (0u32..).zip(envelopes).zip(expectation.nodes).zip(borders)
    {
        let single = Expectation {
            context: Context {
                request: expectation.request,
                node: *node,
                model: expectation.model,
                slice,
                tokens: expectation.tokens,
            },
            input: *input,
            output: *output,
            publication: expectation.publication,
        };
        let proof =
            prepare_slice(&single, card, srs, bytes).map_err(|refusal| SliceError { slice, refusal })?;
        if let Some((_, before)) = prepared.last()
            && before.envelope.output != proof.envelope.input
        {
            return Err(ChainError::Boundary { slice });
        }
        prepared.push((slice, proof));
    }
    verify_all(&prepared, srs)?;
    Ok(prepared.into_iter().map(|(_, proof)| proof.verdict(&expectation.publication, srs)).collect())
}

fn check_order(
    expectation: &ChainExpectation<'_>,
    slices: usize,
    envelopes: &[&[u8]],
) -> Result<(), ChainError> {
    let mut order = Vec::with_capacity(envelopes.len().min(slices));
    let mut seen = BTreeMap::new();
    for (position, bytes) in envelopes.iter().enumerate() {
        let Claims { context, .. } =
            Claims::peek(bytes).map_err(|error| ChainError::Unreadable { position, error })?;
        // Nodes are compared slice by slice, once the order is known to be right.
        let occasion = Context {
            request: expectation.request,
            model: expectation.model,
            tokens: expectation.tokens,
            ..context
        };
        if let Some(field) = differing_field(&context, &occasion) {
            return Err(ChainError::Foreign { position, field });
        }
        let slice = context.slice;
        if usize::try_from(slice).map_or(true, |index| index >= slices) {
            return Err(ChainError::Extra { position, slice });
        }
        if seen.insert(slice, position).is_some() {
            return Err(ChainError::Repeated { slice });
        }
        order.push(slice);
    }
    let missing = |slice: &u32| !seen.contains_key(slice);
    if let Some(slice) = (0u32..).take(slices).find(missing) {
        return Err(ChainError::Missing { slice });
    }
    for ((position, slice), expected) in order.into_iter().enumerate().zip(0u32..) {
        if slice != expected {
            return Err(ChainError::Reordered { position, slice });
        }
    }
    Ok(())
}

/// The occasion of a publication proof: bound to the publisher, so that nobody else can present it.
///
/// ```text
/// request = H("publication"),  node = publisher,  tokens = 0
/// ```
pub fn publication_context(model: ModelId, publisher: NodeId, slice: u32) -> Context {
    Context {
        request: RequestId(Hasher::new("publication").digest()),
        node: publisher,
        model,
        slice,
        tokens: 0,
    }
}

/// Why a publication is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublicationError {
    /// The card is of another model.
    #[error(transparent)]
    Card(Refusal),
    /// There must be one proof a slice.
    #[error("{actual} publication proofs for {expected} slices")]
    Count {
        /// Slices.
        expected: usize,
        /// Proofs.
        actual: usize,
    },
    /// A publication proof is refused.
    #[error(transparent)]
    Slice(#[from] SliceError),
}

/// Verifies that every published weight of a model is in range and known to its publisher.
///
/// `protocol.md` section 7: one proof a slice, whose weight columns are linked to the very commitments in
/// the card. Done once; cache the receipt by model.
///
/// # Errors
/// See [`PublicationError`].
pub fn verify_publication<C: SliceCircuit, R: SliceCircuit>(
    model: ModelId,
    card: &Card<C, R>,
    srs: &VerifierSrs,
    proofs: &[&[u8]],
) -> Result<PublicationReceipt, PublicationError> {
    check_card(card, model).map_err(PublicationError::Card)?;
    if proofs.len() != card.slice_count() {
        return Err(PublicationError::Count { expected: card.slice_count(), actual: proofs.len() });
    }
    let mut prepared = Vec::with_capacity(proofs.len());
    for (slice, bytes) in (0u32..).zip(proofs) {
        let (Some(key), Some(weights)) = (card.range_key(slice), card.weights(slice)) else {
            break;
        };
        let task = Task {
            key,
            srs_reference: card.srs(),
            context: publication_context(model, card.publisher(), slice),
            weights,
            input: BoundaryExpectation::Hidden,
            output: BoundaryExpectation::Hidden,
        };
        let proof = task.prepare(srs, bytes).map_err(|refusal| SliceError { slice, refusal })?;
        prepared.push((slice, proof));
    }
    verify_all(&prepared, srs)?;
    Ok(PublicationReceipt { model, verified: true })
}

/// The digest by which a file of publication proofs is referred to.
pub fn publication_digest(proofs: &[&[u8]]) -> Digest {
    let mut hasher = Hasher::new("publication-proofs");
    hasher.count(proofs.len());
    for proof in proofs {
        hasher.bytes(proof);
    }
    hasher.digest()
}
