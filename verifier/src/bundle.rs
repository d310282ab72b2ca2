//! A whole answer: prompt, generated tokens and the proofs of all slices, in one string of bytes.
//!
//! ```text
//! magic "LAMINABU" | version u16 | protocol id 32 | model 32 | request 32
//! | prompt: kind u8 (0 hidden, 1 open) | count u32 | ids u32 …, where open
//! | padding id u32 | answer: count u32 | ids u32 …
//! | logits: kind u8 (0 closed, 1 open) | where open: vocab u32 | distances 6 bytes each, [answer, vocab]
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
//!
//! Where logits are open, the bundle proves all logits at every token of the answer instead, and the verifier checks
//! the choice by them: greedy, sampled as it asked, or any.

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
    logits::{Logits, Sampling, best},
    srs::{SrsError, VerifierSrs},
    verify::{BoundaryExpectation, ChainError, ChainExpectation, PublicationReceipt, Verdict, verify_chain},
};

/// The first bytes of every bundle.
pub const MAGIC: &[u8; 8] = b"LAMINABU";
/// The format's version.
pub const VERSION: u16 = 2;

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
    /// Prompt or logits are neither hidden nor open.
    #[error("unknown kind of {part} {actual}")]
    Kind {
        /// Of what.
        part: BundlePart,
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
    /// Open logits.
    Logits,
    /// A slice.
    Slice(u32),
}

impl fmt::Display for BundlePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::Prompt => f.write_str("prompt"),
            Self::Answer => f.write_str("answer"),
            Self::Logits => f.write_str("logits"),
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
    /// The logits that they were chosen by, where the head opens them.
    pub logits: Option<Logits>,
    /// Envelopes, first slice to last.
    pub slices: Vec<Vec<u8>>,
}

fn ids(reader: &mut Reader<'_>) -> Result<Vec<u32>, Truncated> {
    let count = usize::try_from(reader.u32()?).map_err(|_| Truncated)?;
    let bytes = reader.take(count.checked_mul(4).ok_or(Truncated)?)?;
    Ok(bytes.as_chunks().0.iter().map(|id| u32::from_le_bytes(*id)).collect())
}

/// Bytes of a distance.
const GAP_BYTES: usize = 6;

fn logits(reader: &mut Reader<'_>, tokens: usize) -> Result<Option<Logits>, BundleDecodeError> {
    let short = |Truncated| BundleDecodeError::Truncated { part: BundlePart::Logits };
    let tag = reader.u8().map_err(short)?;
    match BoundaryKind::from_tag(tag) {
        None => return Err(BundleDecodeError::Kind { part: BundlePart::Logits, actual: tag }),
        Some(BoundaryKind::Hidden) => return Ok(None),
        Some(BoundaryKind::Open) => {}
    }
    let vocab = reader.u32().map_err(short)?;
    let columns = usize::try_from(vocab).ok().and_then(|vocab| vocab.checked_mul(GAP_BYTES));
    let bytes = columns.and_then(|row| row.checked_mul(tokens)).ok_or(Truncated).map_err(short)?;
    let bytes = reader.take(bytes).map_err(short)?;
    let gap = |six: &[u8; GAP_BYTES]| six.iter().rev().fold(0u64, |gap, &byte| gap << 8 | u64::from(byte));
    Ok(Some(Logits { vocab, gaps: bytes.as_chunks().0.iter().map(gap).collect() }))
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
        let kind = if self.logits.is_some() { BoundaryKind::Open } else { BoundaryKind::Hidden };
        bytes.push(kind.tag());
        if let Some(logits) = &self.logits {
            bytes.extend(logits.vocab.to_le_bytes());
            let six = |gap: &u64| gap.to_le_bytes().into_iter().take(GAP_BYTES);
            bytes.extend(logits.gaps.iter().flat_map(six));
        }
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
        let kind = BoundaryKind::from_tag(tag)
            .ok_or(BundleDecodeError::Kind { part: BundlePart::Prompt, actual: tag })?;
        let prompt = match kind {
            BoundaryKind::Open => Prompt::Open(ids(&mut reader).map_err(prompt)?),
            BoundaryKind::Hidden => Prompt::Hidden(reader.u32().map_err(prompt)?),
        };
        let answer = short(BundlePart::Answer);
        let padding = reader.u32().map_err(answer)?;
        let answer = ids(&mut reader).map_err(answer)?;
        let logits = logits(&mut reader, answer.len())?;
        let count = reader.u32().map_err(short(BundlePart::Slice(0)))?;
        let mut slices = Vec::new();
        for slice in 0..count {
            let short = short(BundlePart::Slice(slice));
            let length = usize::try_from(reader.u32().map_err(short)?).map_err(|_| short(Truncated))?;
            slices.push(reader.take(length).map_err(short)?.to_vec());
        }
        match reader.remaining() {
            0 => Ok(Self { model, request, prompt, padding, answer, logits, slices }),
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

    /// Fractional bits of a logit, where the head opens them.
    pub fn open_logits(&self) -> Option<i32> {
        self.head.spec.open_logits
    }

    /// Checks the shape of an answer's logits: one row a token, each with a greatest, where the head opens them.
    ///
    /// # Errors
    /// [`BundleError::Logits`].
    pub fn check_logits(&self, answer: &[u32], logits: Option<&Logits>) -> Result<(), BundleError> {
        let refused = |reason| Err(BundleError::Logits { reason });
        let Some(logits) = logits else {
            return match self.open_logits() {
                Some(_) => refused("are missing: this model's head opens them"),
                None => Ok(()),
            };
        };
        if self.open_logits().is_none() {
            return refused("are there, and this model's head keeps them closed");
        }
        if usize::try_from(logits.vocab) != Ok(self.vocab()) {
            return refused("are of another vocabulary");
        }
        if logits.gaps.len() != answer.len().saturating_mul(self.vocab()) {
            return refused("are not one row a token");
        }
        if logits.gaps.iter().any(|gap| gap.checked_shr(self.head.spec.distance_bits()) != Some(0)) {
            return refused("are further apart than the head proves");
        }
        if logits.rows().any(|row| best(row).is_none()) {
            return refused("of a token have no greatest");
        }
        Ok(())
    }

    /// The open logits of a last boundary, for the first `answer` tokens; `None` where they are closed.
    pub fn logits_of(&self, boundary: &OpenBoundary, answer: usize) -> Option<Logits> {
        let mut gaps = self.head.gaps(&boundary.columns)?;
        gaps.truncate(answer.saturating_mul(self.vocab()));
        Some(Logits { vocab: u32::try_from(self.vocab()).ok()?, gaps })
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

    /// The last boundary: the tokens are the answer's, or where logits are open those of the greatest logits.
    ///
    /// `logits` are taken as checked.
    pub fn output(&self, prompt: usize, answer: &[u32], logits: Option<&Logits>) -> OpenBoundary {
        let mut tokens = match logits {
            Some(logits) => logits.rows().filter_map(best).collect(),
            None => answer.to_vec(),
        };
        tokens.resize(self.positions(), tokens.last().copied().unwrap_or(0));
        let mut gaps = logits.map_or_else(Vec::new, |logits| logits.gaps.clone());
        if let Some(last) = logits.and_then(|logits| logits.rows().last()) {
            let missing = self.positions().saturating_sub(answer.len());
            gaps.extend(std::iter::repeat_n(last, missing).flatten());
        }
        OpenBoundary { columns: self.head.output(&self.read(prompt, answer.len()), &tokens, &gaps) }
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

/// What a verifier knows of how the answer was chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Choice {
    /// Every token is the lowest id of the greatest logit.
    #[default]
    Greedy,
    /// Every token was sampled from open logits as the client asked.
    Sampled(Sampling),
    /// However it was, the caller looks at the open logits. Of closed ones: greedily.
    Any,
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
    /// How its tokens were chosen.
    pub choice: Choice,
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
    /// The logits do not fit the model's head.
    #[error("the bundle's logits {reason}")]
    Logits {
        /// What is wrong with them.
        reason: &'static str,
    },
    /// A token was chosen otherwise than asked.
    #[error("token {token} of the answer is id {actual}: by its logits the choice is {expected}")]
    Choice {
        /// Which, from 0.
        token: usize,
        /// By the proved logits.
        expected: u32,
        /// In the answer.
        actual: u32,
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

/// Verifies that a bundle's answer continues its prompt as was asked: greedily, or by sampling from open logits.
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
    whole.check_logits(&bundle.answer, bundle.logits.as_ref())?;
    check_choice(expectation.choice, &whole, bundle)?;
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
    let output = whole.output(tokens, &bundle.answer, bundle.logits.as_ref());
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

/// Of closed logits the head itself proves the greatest.
fn check_choice(choice: Choice, whole: &Whole, bundle: &Bundle) -> Result<(), BundleError> {
    let (Some(frac), Some(logits)) = (whole.open_logits(), &bundle.logits) else {
        return match choice {
            Choice::Sampled(_) => Err(BundleError::Logits {
                reason: "are closed: a sampled answer is proved by a head that opens them",
            }),
            Choice::Greedy | Choice::Any => Ok(()),
        };
    };
    for (token, ((index, &actual), row)) in (0u32..).zip(&bundle.answer).zip(logits.rows()).enumerate() {
        let expected = match choice {
            Choice::Any => return Ok(()),
            Choice::Greedy => best(row),
            Choice::Sampled(sampling) => sampling.choose(row, frac, index),
        };
        if let Some(expected) = expected.filter(|&expected| expected != actual) {
            return Err(BundleError::Choice { token, expected, actual });
        }
    }
    Ok(())
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
        let logits = None;
        let slices = vec![vec![9; 3], vec![]];
        Bundle { model, request, prompt, padding: 7, answer: vec![5, 6], logits, slices }
    }

    fn with_logits(mut bundle: Bundle) -> Bundle {
        let gaps = vec![0, 1, Logits::LIMIT - 1, 1 << 40, 0, 7];
        bundle.logits = Some(Logits { vocab: 3, gaps });
        bundle
    }

    #[test]
    fn bundles_have_one_encoding() {
        let closed = [Prompt::Open(vec![1, 2, 3]), Prompt::Open(vec![]), Prompt::Hidden(3)].map(bundle);
        let open = with_logits(bundle(Prompt::Hidden(3)));
        for bundle in closed.into_iter().chain([open]) {
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
        let unknown = |part| BundleDecodeError::Kind { part, actual: 2 };
        assert_eq!(decode(kind, 2), unknown(BundlePart::Prompt));
        // Counts beyond what was sent: refused before anything is allocated for them.
        let truncated = |part| BundleDecodeError::Truncated { part };
        assert_eq!(decode(kind + 4, 0xff), truncated(BundlePart::Prompt));
        assert_eq!(decode(kind + 5 + 4 + 4 + 3, 0xff), truncated(BundlePart::Answer));
        let logits = kind + 5 + 4 + 4 + 4 + 8;
        assert_eq!(decode(logits, 2), unknown(BundlePart::Logits));
        let slices = logits + 1;
        assert_eq!(decode(slices + 3, 0xff), truncated(BundlePart::Slice(2)));
        assert_eq!(decode(slices + 4 + 3, 0xff), truncated(BundlePart::Slice(0)));
    }
}
