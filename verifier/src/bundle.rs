//! A whole answer: prompt, generated tokens and the proofs of all slices, in one string of bytes.
//!
//! ```text
//! magic "LAMINABU" | version u16 | protocol id 32 | model 32 | request 32
//! | prompt: kind u8 (0 hidden, 1 open) | count u32 | ids u32 …, where open
//! | padding id u32 | answer: count u32 | ids u32 …
//! | slices: count u32 | length u32 and envelope, one a slice
//! ```
//!
//! What the proofs of a bundle say together, of the model with this card:
//!
//! ```text
//! answer[i] = argmax of the logits after (prompt, answer[0], …, answer[i-1])    for every i
//! ```
//!
//! One causal pass over prompt and answer shows it: the input boundary holds the ids, the head's boundary the
//! positions `prompt - 1 + i` with their tokens, and both are built here from the same answer.

use std::fmt;

use lamina_circuits::{
    embedding::{EmbeddingLayout, EmbeddingParams},
    head::layout::{HeadLayout, HeadParams},
    layout::LayoutError,
    model::{ModelCircuit, ModelParams, same_model},
    slice::SliceCircuit,
};

use crate::{
    Fr,
    boundary::{BoundaryKind, OpenBoundary},
    card::Card,
    encoding::{Reader, Truncated},
    hash::{Digest, ModelId, NodeId, ProtocolId, RequestId},
    srs::{SrsError, VerifierSrs},
    verify::{BoundaryExpectation, ChainError, ChainExpectation, PublicationReceipt, Verdict, verify_chain},
};

/// The first bytes of every bundle.
pub const MAGIC: &[u8; 8] = b"LAMINABU";
/// The format's version.
pub const VERSION: u16 = 1;

/// Why bytes are not a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleDecodeError {
    /// The bytes do not start with the magic bytes.
    #[error("not a bundle")]
    Magic,
    /// Another version of the format.
    #[error("bundle version {actual} is not {VERSION}")]
    Version {
        /// What the bundle says.
        actual: u16,
    },
    /// Another proof system.
    #[error("the bundle speaks protocol {actual}")]
    Protocol {
        /// What the bundle says.
        actual: ProtocolId,
    },
    /// The prompt is neither hidden nor open.
    #[error("unknown kind of prompt {actual}")]
    Kind {
        /// What the bundle says.
        actual: u8,
    },
    /// The bytes end too early.
    #[error("the bundle ends in its {part}")]
    Truncated {
        /// Where.
        part: BundlePart,
    },
    /// Something follows the last slice.
    #[error("{bytes} bytes follow the last slice")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

/// A part of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundlePart {
    /// Magic bytes, version and identifiers.
    Header,
    /// The prompt.
    Prompt,
    /// The answer.
    Answer,
    /// A slice.
    Slice(u32),
}

impl fmt::Display for BundlePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::Prompt => f.write_str("prompt"),
            Self::Answer => f.write_str("answer"),
            Self::Slice(slice) => write!(f, "slice {slice}"),
        }
    }
}

/// The prompt as a bundle carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Its ids.
    Open(Vec<u32>),
    /// How many ids; the ids of prompt and answer are behind the first slice's commitments.
    Hidden(u32),
}

impl Prompt {
    /// Tokens of the prompt.
    pub fn tokens(&self) -> usize {
        match self {
            Self::Open(ids) => ids.len(),
            Self::Hidden(tokens) => usize::try_from(*tokens).unwrap_or(usize::MAX),
        }
    }

    /// Hidden or open.
    pub fn kind(&self) -> BoundaryKind {
        match self {
            Self::Open(_) => BoundaryKind::Open,
            Self::Hidden(_) => BoundaryKind::Hidden,
        }
    }
}

/// A decoded bundle. Nothing in it is believed before [`verify_bundle`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// The model.
    pub model: ModelId,
    /// The request that is answered.
    pub request: RequestId,
    /// The prompt.
    pub prompt: Prompt,
    /// The id after the last token; of no consequence, since no token sees those after it.
    pub padding: u32,
    /// The generated ids.
    pub answer: Vec<u32>,
    /// Envelopes, first slice to last.
    pub slices: Vec<Vec<u8>>,
}

fn ids(reader: &mut Reader<'_>) -> Result<Vec<u32>, Truncated> {
    let count = usize::try_from(reader.u32()?).map_err(|_| Truncated)?;
    let bytes = reader.take(count.checked_mul(4).ok_or(Truncated)?)?;
    Ok(bytes.as_chunks().0.iter().map(|id| u32::from_le_bytes(*id)).collect())
}

fn put_count(bytes: &mut Vec<u8>, count: usize) {
    // Beyond the format's width the count does not match what follows, and the bundle does not decode.
    bytes.extend(u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_ids(bytes: &mut Vec<u8>, ids: &[u32]) {
    put_count(bytes, ids.len());
    bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
}

impl Bundle {
    /// Writes the bundle.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(ProtocolId::current().0.0);
        bytes.extend(self.model.0.0);
        bytes.extend(self.request.0.0);
        bytes.push(self.prompt.kind().tag());
        match &self.prompt {
            Prompt::Open(ids) => put_ids(&mut bytes, ids),
            Prompt::Hidden(tokens) => bytes.extend(tokens.to_le_bytes()),
        }
        bytes.extend(self.padding.to_le_bytes());
        put_ids(&mut bytes, &self.answer);
        put_count(&mut bytes, self.slices.len());
        for slice in &self.slices {
            put_count(&mut bytes, slice.len());
            bytes.extend(slice);
        }
        bytes
    }

    /// Reads a bundle; `encode(decode(bytes)) == bytes`. Envelopes are read by the verification.
    ///
    /// # Errors
    /// See [`BundleDecodeError`]. What is allocated is bounded by what was sent.
    pub fn decode(bytes: &[u8]) -> Result<Self, BundleDecodeError> {
        let short = |part| move |Truncated| BundleDecodeError::Truncated { part };
        let header = short(BundlePart::Header);
        let mut reader = Reader::new(bytes);
        if reader.array().map_err(header)? != *MAGIC {
            return Err(BundleDecodeError::Magic);
        }
        let version = reader.u16().map_err(header)?;
        if version != VERSION {
            return Err(BundleDecodeError::Version { actual: version });
        }
        let mut digest = || reader.array().map(Digest).map_err(header);
        let protocol = ProtocolId(digest()?);
        if protocol != ProtocolId::current() {
            return Err(BundleDecodeError::Protocol { actual: protocol });
        }
        let (model, request) = (ModelId(digest()?), RequestId(digest()?));
        let prompt = short(BundlePart::Prompt);
        let tag = reader.u8().map_err(prompt)?;
        let kind = BoundaryKind::from_tag(tag).ok_or(BundleDecodeError::Kind { actual: tag })?;
        let prompt = match kind {
            BoundaryKind::Open => Prompt::Open(ids(&mut reader).map_err(prompt)?),
            BoundaryKind::Hidden => Prompt::Hidden(reader.u32().map_err(prompt)?),
        };
        let answer = short(BundlePart::Answer);
        let padding = reader.u32().map_err(answer)?;
        let answer = ids(&mut reader).map_err(answer)?;
        let count = reader.u32().map_err(short(BundlePart::Slice(0)))?;
        let mut slices = Vec::new();
        for slice in 0..count {
            let short = short(BundlePart::Slice(slice));
            let length = usize::try_from(reader.u32().map_err(short)?).map_err(|_| short(Truncated))?;
            slices.push(reader.take(length).map_err(short)?.to_vec());
        }
        match reader.remaining() {
            0 => Ok(Self { model, request, prompt, padding, answer, slices }),
            bytes => Err(BundleDecodeError::Trailing { bytes }),
        }
    }
}

/// What proves that the card is a whole model: token ids in, token ids out.
#[derive(Clone, Debug)]
pub struct Whole {
    embedding: EmbeddingLayout,
    head: HeadLayout,
}

impl Whole {
    /// The ends of a card's model.
    ///
    /// # Errors
    /// [`BundleError::Card`].
    pub fn of<R: SliceCircuit>(card: &Card<ModelCircuit, R>) -> Result<Self, BundleError> {
        let last = card.slice_count().checked_sub(1).and_then(|last| u32::try_from(last).ok());
        let last = last.ok_or(BundleError::Card { slice: 0, expected: "an embedding" })?;
        let middle = (1..last).find(|&slice| !matches!(card.params(slice), Some(ModelParams::Block(_))));
        if let Some(slice) = middle {
            return Err(BundleError::Card { slice, expected: "a block" });
        }
        let Some(ModelParams::Embedding(embedding)) = card.params(0) else {
            return Err(BundleError::Card { slice: 0, expected: "an embedding" });
        };
        let Some(ModelParams::Head(head)) = card.params(last) else {
            return Err(BundleError::Card { slice: last, expected: "a head" });
        };
        Self::new(embedding, head)
    }

    /// The ends of a model with these parameters.
    ///
    /// # Errors
    /// They are not of one model, or have no layout.
    pub fn new(embedding: &EmbeddingParams, head: &HeadParams) -> Result<Self, BundleError> {
        same_model(&embedding.spec, &head.spec)?;
        Ok(Self { embedding: embedding.layout()?, head: head.layout()? })
    }

    /// Tokens of a pass.
    pub fn tokens(&self) -> usize {
        self.embedding.spec.tokens
    }

    /// The most tokens that one pass proves.
    pub fn positions(&self) -> usize {
        self.head.spec.positions
    }

    /// Ids: `0..vocab`.
    pub fn vocab(&self) -> usize {
        self.embedding.spec.vocab
    }

    /// Checks the sizes of a prompt and an answer, and their ids.
    ///
    /// # Errors
    /// [`BundleError::Size`], [`BundleError::Id`].
    pub fn check(&self, prompt: &Prompt, answer: &[u32]) -> Result<(), BundleError> {
        let size = |what, limit: usize, actual: usize| {
            if actual == 0 || actual > limit {
                return Err(BundleError::Size { what, limit, actual });
            }
            Ok(())
        };
        size("prompt", self.tokens(), prompt.tokens())?;
        size("answer", self.positions(), answer.len())?;
        let inputs = prompt.tokens().saturating_add(answer.len()).saturating_sub(1);
        size("prompt and answer", self.tokens(), inputs)?;
        let known: &[u32] = match prompt {
            Prompt::Open(ids) => ids,
            Prompt::Hidden(_) => &[],
        };
        let outside = |id: &u32| usize::try_from(*id).map_or(true, |id| id >= self.vocab());
        match known.iter().chain(answer).find(|id| outside(id)) {
            Some(&id) => Err(BundleError::Id { id, vocab: self.vocab() }),
            None => Ok(()),
        }
    }

    /// All ids of a pass: prompt, all of the answer but its last token, padding.
    pub fn ids(&self, prompt: &[u32], answer: &[u32], padding: u32) -> Vec<u32> {
        let fed = answer.split_last().map_or(answer, |(_, fed)| fed);
        let mut ids: Vec<u32> = prompt.iter().chain(fed).copied().collect();
        ids.resize(self.tokens(), padding);
        ids
    }

    /// The first boundary.
    pub fn input(&self, ids: &[u32]) -> OpenBoundary {
        OpenBoundary { columns: self.embedding.ids(ids) }
    }

    /// The positions that the head reads after `prompt` tokens: a short answer repeats its last.
    pub fn read(&self, prompt: usize, answer: usize) -> Vec<usize> {
        let last = answer.saturating_sub(1);
        (0..self.positions()).map(|i| prompt.saturating_sub(1).saturating_add(i.min(last))).collect()
    }

    /// The last boundary.
    pub fn output(&self, prompt: usize, answer: &[u32]) -> OpenBoundary {
        let mut tokens = answer.to_vec();
        tokens.resize(self.positions(), answer.last().copied().unwrap_or(0));
        OpenBoundary { columns: self.head.output(&self.read(prompt, answer.len()), &tokens) }
    }
}

/// What a verifier knows of the prompt.
#[derive(Clone, Copy, Debug)]
pub enum PromptExpectation<'a> {
    /// Its ids; the bundle's must be the same.
    Ids(&'a [u32]),
    /// Its ids, which the bundle hides, and the blinding values of the commitments: one vector a column.
    Opening {
        /// The ids.
        ids: &'a [u32],
        /// The blinding values.
        tails: &'a [Vec<Fr>],
    },
    /// Whatever the bundle says. Of a hidden prompt that means: some prompt of so many tokens, and some tokens
    /// after it that need not be the answer's.
    Claimed,
}

/// What a verifier expects of a bundle. The answer is what the bundle is there to tell.
#[derive(Clone, Copy, Debug)]
pub struct BundleExpectation<'a> {
    /// The request that is answered.
    pub request: RequestId,
    /// The model.
    pub model: ModelId,
    /// The prompt.
    pub prompt: PromptExpectation<'a>,
    /// The node of every slice, in order.
    pub nodes: &'a [NodeId],
    /// Shows that the model's weights are in range.
    pub publication: PublicationReceipt,
}

/// Why a bundle is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The card is not of a whole model.
    #[error("slice {slice} of the card is not {expected}: it is no model from token ids to token ids")]
    Card {
        /// The slice.
        slice: u32,
        /// What it should be.
        expected: &'static str,
    },
    /// The card's parameters have no layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The bundle is of another model.
    #[error("the bundle is of model {actual}, expected {expected}")]
    Model {
        /// Expected.
        expected: ModelId,
        /// Of the bundle.
        actual: ModelId,
    },
    /// The bundle answers another request.
    #[error("the bundle answers request {actual}, expected {expected}")]
    Request {
        /// Expected.
        expected: RequestId,
        /// Of the bundle.
        actual: RequestId,
    },
    /// Too few or too many tokens for the model's circuits.
    #[error("the {what} has {actual} tokens: 1 to {limit} can be proved")]
    Size {
        /// `prompt`, `answer` or both.
        what: &'static str,
        /// The most.
        limit: usize,
        /// Found.
        actual: usize,
    },
    /// An id is outside the vocabulary.
    #[error("token {id} is not below {vocab}")]
    Id {
        /// The id.
        id: u32,
        /// Ids are below this.
        vocab: usize,
    },
    /// The prompt is another one.
    #[error("the prompt differs from token {token} on")]
    Prompt {
        /// The first token that differs.
        token: usize,
    },
    /// The prompt is hidden, and the expectation open, or the other way round.
    #[error("the bundle's prompt is {actual}, the expected one is not")]
    Hiding {
        /// In the bundle.
        actual: BoundaryKind,
    },
    /// The blinding values are not those of a boundary.
    #[error("the opening of the prompt: {0}")]
    Opening(SrsError),
    /// The chain of proofs is refused.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

/// Verifies that a bundle's answer is the greedy continuation of its prompt.
///
/// # Soundness
/// See [`verify_chain`]; both ends are computed here, from the expected prompt and the answer that is returned.
/// With a hidden prompt and [`PromptExpectation::Claimed`] the proofs say less: see there.
///
/// # Errors
/// See [`BundleError`].
pub fn verify_bundle<R: SliceCircuit>(
    expectation: &BundleExpectation<'_>,
    card: &Card<ModelCircuit, R>,
    srs: &VerifierSrs,
    bundle: &Bundle,
) -> Result<Vec<Verdict>, BundleError> {
    let whole = Whole::of(card)?;
    if bundle.model != expectation.model {
        return Err(BundleError::Model { expected: expectation.model, actual: bundle.model });
    }
    if bundle.request != expectation.request {
        return Err(BundleError::Request { expected: expectation.request, actual: bundle.request });
    }
    whole.check(&bundle.prompt, &bundle.answer)?;
    let tokens = bundle.prompt.tokens();
    let hiding = || BundleError::Hiding { actual: bundle.prompt.kind() };
    let open = |ids: &[u32]| whole.input(&whole.ids(ids, &bundle.answer, bundle.padding));
    let (values, commitments);
    let input = match (&bundle.prompt, expectation.prompt) {
        (Prompt::Open(ids), PromptExpectation::Ids(expected)) => {
            same_prompt(ids, expected)?;
            values = open(expected);
            BoundaryExpectation::Open(&values)
        }
        (Prompt::Open(ids), PromptExpectation::Claimed) => {
            values = open(ids);
            BoundaryExpectation::Open(&values)
        }
        (Prompt::Hidden(_), PromptExpectation::Opening { ids, tails }) => {
            whole.check(&Prompt::Open(ids.to_vec()), &bundle.answer)?;
            if ids.len() != tokens {
                return Err(BundleError::Prompt { token: ids.len().min(tokens) });
            }
            commitments = open(ids).blinded(srs, tails).map_err(BundleError::Opening)?;
            BoundaryExpectation::HiddenAs(&commitments)
        }
        (Prompt::Hidden(_), PromptExpectation::Claimed) => BoundaryExpectation::Hidden,
        (Prompt::Open(_), PromptExpectation::Opening { .. })
        | (Prompt::Hidden(_), PromptExpectation::Ids(_)) => {
            return Err(hiding());
        }
    };
    let output = whole.output(tokens, &bundle.answer);
    let mut boundaries = vec![BoundaryExpectation::Hidden; card.slice_count().saturating_add(1)];
    if let [first, .., last] = boundaries.as_mut_slice() {
        (*first, *last) = (input, BoundaryExpectation::Open(&output));
    }
    let inputs = tokens.saturating_add(bundle.answer.len()).saturating_sub(1);
    let chain = ChainExpectation {
        request: expectation.request,
        model: expectation.model,
        tokens: u32::try_from(inputs).unwrap_or(u32::MAX),
        nodes: expectation.nodes,
        boundaries: &boundaries,
        publication: expectation.publication,
    };
    let envelopes: Vec<&[u8]> = bundle.slices.iter().map(Vec::as_slice).collect();
    Ok(verify_chain(&chain, card, srs, &envelopes)?)
}

fn same_prompt(actual: &[u32], expected: &[u32]) -> Result<(), BundleError> {
    let differing = actual.iter().zip(expected).position(|(a, b)| a != b);
    match differing {
        Some(token) => Err(BundleError::Prompt { token }),
        None if actual.len() != expected.len() => {
            Err(BundleError::Prompt { token: actual.len().min(expected.len()) })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
    use super::*;

    fn bundle(prompt: Prompt) -> Bundle {
        let (model, request) = (ModelId(Digest([1; 32])), RequestId(Digest([2; 32])));
        Bundle { model, request, prompt, padding: 7, answer: vec![5, 6], slices: vec![vec![9; 3], vec![]] }
    }

    #[test]
    fn bundles_have_one_encoding() {
        for prompt in [Prompt::Open(vec![1, 2, 3]), Prompt::Open(vec![]), Prompt::Hidden(3)] {
            let bundle = bundle(prompt);
            let bytes = bundle.encode();
            assert_eq!(Bundle::decode(&bytes), Ok(bundle));
            for cut in 0..bytes.len() {
                let error = Bundle::decode(&bytes[..cut]).unwrap_err();
                assert!(matches!(error, BundleDecodeError::Truncated { .. }), "{cut}: {error}");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert_eq!(Bundle::decode(&longer), Err(BundleDecodeError::Trailing { bytes: 1 }));
            // Whatever still decodes is what it says.
            for at in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                if let Ok(bundle) = Bundle::decode(&changed) {
                    assert_eq!(bundle.encode(), changed, "byte {at}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_bundle_has_its_error() {
        let honest = bundle(Prompt::Open(vec![1])).encode();
        let decode = |at: usize, value: u8| {
            let mut bytes = honest.clone();
            bytes[at] = value;
            Bundle::decode(&bytes).unwrap_err()
        };
        assert_eq!(decode(0, 0), BundleDecodeError::Magic);
        assert_eq!(decode(8, 9), BundleDecodeError::Version { actual: 9 });
        assert!(matches!(decode(10, honest[10] ^ 1), BundleDecodeError::Protocol { .. }));
        let kind = 8 + 2 + 32 + 32 + 32;
        assert_eq!(decode(kind, 2), BundleDecodeError::Kind { actual: 2 });
        // Counts beyond what was sent: refused before anything is allocated for them.
        let truncated = |part| BundleDecodeError::Truncated { part };
        assert_eq!(decode(kind + 4, 0xff), truncated(BundlePart::Prompt));
        assert_eq!(decode(kind + 5 + 4 + 4 + 3, 0xff), truncated(BundlePart::Answer));
        let slices = kind + 5 + 4 + 4 + 4 + 8;
        assert_eq!(decode(slices + 3, 0xff), truncated(BundlePart::Slice(2)));
        assert_eq!(decode(slices + 4 + 3, 0xff), truncated(BundlePart::Slice(0)));
    }
}
