//! The model card: everything public about a model, and the identifier that covers it.

use std::marker::PhantomData;

use lamina_circuits::slice::SliceCircuit;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    G1Affine, encoding,
    hash::{Digest, Hasher, KeyDigest, ModelId, NodeId, ProtocolId, SrsId},
    key::{KeyError, LinkedRole, MAX_KEY_BYTES, SliceKey},
};

/// Version of the card's format.
pub const CARD_FORMAT: u32 = 2;
/// Bytes of the largest card that is read.
pub const MAX_CARD_BYTES: usize = 64 << 20;
/// Slices of the largest model.
pub const MAX_SLICES: usize = 4096;
/// Kinds of slices of the largest model.
pub const MAX_KINDS: usize = 64;
/// Weight columns of the largest slice.
pub const MAX_WEIGHT_COLUMNS: usize = 4096;
/// Bytes of the longest string in a card.
pub const MAX_TEXT_BYTES: usize = 1024;

/// Why a card is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CardError {
    /// A limit of this module is exceeded.
    #[error("{what}: {actual}, more than {limit}")]
    Limit {
        /// What is counted.
        what: &'static str,
        /// The most that is accepted.
        limit: usize,
        /// Found.
        actual: usize,
    },
    /// Not the JSON of a card; the message names line and column, never contents.
    #[error("not a model card: {category} error at line {line}, column {column}")]
    Json {
        /// `syntax`, `data` or `end of file`.
        category: &'static str,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// Another version of the format.
    #[error("card format {actual} is not {CARD_FORMAT}")]
    Format {
        /// What the card says.
        actual: u32,
    },
    /// The card was made for another proof system.
    #[error("the card speaks protocol {actual}")]
    Protocol {
        /// What the card says.
        actual: ProtocolId,
    },
    /// A development reference string, and the caller did not accept one.
    #[error("the card uses an insecure development reference string")]
    InsecureSrs,
    /// There are no slices, or no kinds.
    #[error("the card has no {what}")]
    Empty {
        /// `slices` or `kinds`.
        what: &'static str,
    },
    /// A key is refused.
    #[error("{part} key of kind {kind}: {error}")]
    Key {
        /// `slice` or `range`.
        part: &'static str,
        /// Index of the kind.
        kind: usize,
        /// Why.
        error: KeyError,
    },
    /// All keys of a card share `k`, `u` and thereby one Lagrange basis and one set of blinding rows.
    #[error("{part} key of kind {kind} has k = {log_n}, u = {usable_rows}, the first key another pair")]
    Domain {
        /// `slice` or `range`.
        part: &'static str,
        /// Index of the kind.
        kind: usize,
        /// `k`.
        log_n: u32,
        /// `u`.
        usable_rows: usize,
    },
    /// The range circuit of a kind must have the weight columns of its slice circuit, and no boundary.
    #[error("range circuit of kind {kind} does not match its slice circuit")]
    RangeColumns {
        /// Index of the kind.
        kind: usize,
    },
    /// The range circuit proves another width than the slice circuit's static bounds assume, or one beyond the
    /// card's.
    #[error(
        "kind {kind}: weights are of {slice:?} bits to the slice circuit, {range:?} to the range circuit, at most \
         {card} to the card"
    )]
    WeightBits {
        /// Index of the kind.
        kind: usize,
        /// What the slice circuit assumes.
        slice: Option<u32>,
        /// What the range circuit proves.
        range: Option<u32>,
        /// What the card says.
        card: u32,
    },
    /// A slice names a kind that is not there.
    #[error("slice {slice} is of kind {kind}, which is not there")]
    Kind {
        /// Index of the slice.
        slice: usize,
        /// What it names.
        kind: usize,
    },
    /// A slice has another number of weight commitments than its circuit has weight columns.
    #[error("slice {slice} has {actual} weight commitments, its circuit {expected} columns")]
    Weights {
        /// Index of the slice.
        slice: usize,
        /// Columns.
        expected: usize,
        /// Commitments.
        actual: usize,
    },
    /// A slice's output has another number of columns than the next slice's input.
    #[error("slice {slice} ends in {output} columns, the next begins with {input}")]
    Border {
        /// Index of the slice.
        slice: usize,
        /// Output columns.
        output: usize,
        /// Input columns of the next.
        input: usize,
    },
    /// The card is not the model that the caller asked for.
    #[error("model {actual}, expected {expected}")]
    Model {
        /// Pinned by the caller.
        expected: ModelId,
        /// Of the card.
        actual: ModelId,
    },
}

/// A commitment as 64 hexadecimal digits: canonical, on the curve, not the identity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Commitment(pub G1Affine);

impl Serialize for Commitment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encoding::to_hex(&encoding::g1_bytes(&self.0)))
    }
}

impl<'de> Deserialize<'de> for Commitment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Digest(bytes) = Digest::deserialize(deserializer)?;
        encoding::g1(&bytes).map(Commitment).map_err(D::Error::custom)
    }
}

/// The bytes of a verifying key, as hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyBytes(pub Vec<u8>);

impl Serialize for KeyBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encoding::to_hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for KeyBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        if text.len() > MAX_KEY_BYTES.saturating_mul(2) {
            return Err(D::Error::custom("key too large"));
        }
        encoding::from_hex(&text)
            .map(KeyBytes)
            .ok_or_else(|| D::Error::custom("expected lowercase hexadecimal digits"))
    }
}

/// What the model is, in words that bind nothing but the identifier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Family, such as `llama`.
    pub family: String,
    /// Where the weights came from.
    pub source: String,
    /// Transformer layers.
    pub layers: u32,
}

/// How the weights became integers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantisation {
    /// Bits of the widest weight: every published weight lies in `[-2^(b-1), 2^(b-1))`.
    pub weight_bits: u32,
    /// Bits of an activation.
    pub activation_bits: u32,
    /// Name of the calibration scheme.
    pub scheme: String,
}

/// The reference string that the keys and commitments belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SrsReference {
    /// Its identifier.
    pub id: SrsId,
    /// Whether somebody may know its `τ`; covered by the identifier.
    pub insecure: bool,
}

/// A circuit and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CircuitEntry<P> {
    /// The circuit's public parameters.
    pub params: P,
    /// The digest of `key`, compared before `key` is read.
    pub key_digest: KeyDigest,
    /// The verifying key.
    pub key: KeyBytes,
}

/// A kind of slice: all slices of one shape share its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KindEntry<P, Q> {
    /// For readers.
    pub name: String,
    /// The circuit that proves the slice.
    pub slice: CircuitEntry<P>,
    /// The circuit that proves, once, that the slice's weights are in range.
    pub range: CircuitEntry<Q>,
}

/// One slice of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceEntry {
    /// Index of its kind.
    pub kind: usize,
    /// One commitment a weight column, in advice-index order.
    pub weights: Vec<Commitment>,
}

/// The card as it stands in its file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelCard<P, Q> {
    /// [`CARD_FORMAT`].
    pub format: u32,
    /// The proof system.
    pub protocol: ProtocolId,
    /// For readers.
    pub name: String,
    /// Who publishes; publication proofs are bound to it.
    pub publisher: NodeId,
    /// What the model is.
    pub architecture: Architecture,
    /// How it became integers.
    pub quantisation: Quantisation,
    /// Digest of the tokenizer's file, where ids stand for text.
    pub tokenizer: Option<Digest>,
    /// The reference string.
    pub srs: SrsReference,
    /// Kinds of slices.
    pub kinds: Vec<KindEntry<P, Q>>,
    /// All slices, in order.
    pub slices: Vec<SliceEntry>,
}

impl<P: Serialize, Q: Serialize> ModelCard<P, Q> {
    /// The identifier of the model.
    ///
    /// ```text
    /// M = H("model", format, protocol, publisher, architecture, quantisation, tokenizer, SRS id,
    ///       kinds: (params, key digest, range params, range key digest),
    ///       slices: (kind, C, C, …))
    /// ```
    ///
    /// Names are left out; `k`, `u`, degree and layout are covered by parameters and key digests.
    pub fn model_id(&self) -> ModelId {
        // Structures of plain fields serialise without failing, in declaration order.
        fn json<T: Serialize>(value: &T) -> Vec<u8> {
            serde_json::to_vec(value).unwrap_or_default()
        }
        let mut hasher = Hasher::new("model");
        hasher
            .u64(u64::from(self.format))
            .bytes(&self.protocol.0.0)
            .bytes(&self.publisher.0.0)
            .bytes(&json(&self.architecture))
            .bytes(&json(&self.quantisation))
            .bytes(&json(&self.tokenizer))
            .bytes(&self.srs.id.0.0)
            .u64(u64::from(self.srs.insecure))
            .count(self.kinds.len());
        for kind in &self.kinds {
            hasher
                .bytes(&json(&kind.slice.params))
                .bytes(&kind.slice.key_digest.0.0)
                .bytes(&json(&kind.range.params))
                .bytes(&kind.range.key_digest.0.0);
        }
        hasher.count(self.slices.len());
        for slice in &self.slices {
            hasher.count(slice.kind).count(slice.weights.len());
            for weight in &slice.weights {
                hasher.point(&weight.0);
            }
        }
        ModelId(hasher.digest())
    }

    /// The card's JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }
}

/// Whether a caller takes development reference strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsecureSrs {
    /// Refuse them.
    Refuse,
    /// Take them: for tests and demonstrations, where forgeries do not matter.
    Accept,
}

/// A card that was checked, with its keys read.
///
/// `C` proves slices, `R` proves publications.
#[derive(Clone, Debug)]
pub struct Card<C: SliceCircuit, R: SliceCircuit> {
    model: ModelId,
    publisher: NodeId,
    srs: SrsReference,
    tokenizer: Option<Digest>,
    kinds: Vec<(SliceKey, SliceKey)>,
    params: Vec<C::Params>,
    slices: Vec<LoadedSlice>,
    circuits: PhantomData<fn() -> (C, R)>,
}

#[derive(Clone, Debug)]
struct LoadedSlice {
    kind: usize,
    weights: Vec<G1Affine>,
}

impl<C: SliceCircuit, R: SliceCircuit> Card<C, R> {
    /// Reads a card and checks all that can be checked without proofs.
    ///
    /// # Soundness
    /// A card is its publisher's word. Compare [`Self::model`] with an identifier that you trust, and
    /// check its publication proofs with [`crate::verify::verify_publication`].
    ///
    /// # Errors
    /// See [`CardError`].
    pub fn load(json: &[u8], insecure: InsecureSrs) -> Result<Self, CardError> {
        limit("bytes of the card", MAX_CARD_BYTES, json.len())?;
        let card = serde_json::from_slice(json).map_err(|error| CardError::Json {
            category: match error.classify() {
                serde_json::error::Category::Data => "data",
                serde_json::error::Category::Eof => "end of file",
                _ => "syntax",
            },
            line: error.line(),
            column: error.column(),
        })?;
        Self::check(&card, insecure)
    }

    /// Checks a card that is already in memory.
    ///
    /// # Errors
    /// See [`CardError`].
    pub fn check(card: &ModelCard<C::Params, R::Params>, insecure: InsecureSrs) -> Result<Self, CardError> {
        if card.format != CARD_FORMAT {
            return Err(CardError::Format { actual: card.format });
        }
        if card.protocol != ProtocolId::current() {
            return Err(CardError::Protocol { actual: card.protocol });
        }
        if card.srs.insecure && insecure == InsecureSrs::Refuse {
            return Err(CardError::InsecureSrs);
        }
        let texts =
            [&card.name, &card.architecture.family, &card.architecture.source, &card.quantisation.scheme];
        for text in texts.into_iter().chain(card.kinds.iter().map(|kind| &kind.name)) {
            limit("bytes of a string", MAX_TEXT_BYTES, text.len())?;
        }
        limit("kinds", MAX_KINDS, card.kinds.len())?;
        limit("slices", MAX_SLICES, card.slices.len())?;
        if card.kinds.is_empty() {
            return Err(CardError::Empty { what: "kinds" });
        }
        if card.slices.is_empty() {
            return Err(CardError::Empty { what: "slices" });
        }
        let kinds = card
            .kinds
            .iter()
            .enumerate()
            .map(|(kind, entry)| {
                let refused = |part| move |error| CardError::Key { part, kind, error };
                Ok((
                    read_key::<C>(&entry.slice).map_err(refused("slice"))?,
                    read_key::<R>(&entry.range).map_err(refused("range"))?,
                ))
            })
            .collect::<Result<Vec<_>, CardError>>()?;
        check_kinds(&kinds)?;
        for (kind, entry) in card.kinds.iter().enumerate() {
            let (slice, range) = (C::weight_bits(&entry.slice.params), R::weight_bits(&entry.range.params));
            let bits = card.quantisation.weight_bits;
            if slice != range || slice.is_some_and(|width| width > bits) {
                return Err(CardError::WeightBits { kind, slice, range, card: bits });
            }
        }
        let slices = card
            .slices
            .iter()
            .enumerate()
            .map(|(slice, entry)| load_slice(slice, entry, &kinds))
            .collect::<Result<Vec<_>, _>>()?;
        for (slice, (one, next)) in slices.iter().zip(slices.iter().skip(1)).enumerate() {
            let columns = |kind: usize, role| kinds.get(kind).map_or(0, |(key, _)| key.shape().columns(role));
            let output = columns(one.kind, LinkedRole::Output);
            let input = columns(next.kind, LinkedRole::Input);
            if output != input {
                return Err(CardError::Border { slice, output, input });
            }
        }
        Ok(Self {
            model: card.model_id(),
            publisher: card.publisher,
            srs: card.srs,
            tokenizer: card.tokenizer,
            kinds,
            params: card.kinds.iter().map(|kind| kind.slice.params.clone()).collect(),
            slices,
            circuits: PhantomData,
        })
    }

    /// The model's identifier, computed from the card.
    pub fn model(&self) -> ModelId {
        self.model
    }

    /// Who publishes.
    pub fn publisher(&self) -> NodeId {
        self.publisher
    }

    /// The reference string of keys and commitments.
    pub fn srs(&self) -> SrsReference {
        self.srs
    }

    /// Digest of the tokenizer's file.
    pub fn tokenizer(&self) -> Option<Digest> {
        self.tokenizer
    }

    /// The circuit parameters of a slice.
    pub fn params(&self, slice: u32) -> Option<&C::Params> {
        self.params.get(self.entry(slice)?.kind)
    }

    /// Slices of the model.
    pub fn slice_count(&self) -> usize {
        self.slices.len()
    }

    /// The key of a slice.
    pub fn key(&self, slice: u32) -> Option<&SliceKey> {
        self.kind(slice).map(|(key, _)| key)
    }

    /// The key of a slice's publication.
    pub fn range_key(&self, slice: u32) -> Option<&SliceKey> {
        self.kind(slice).map(|(_, key)| key)
    }

    /// The weight commitments of a slice, in advice-index order.
    pub fn weights(&self, slice: u32) -> Option<&[G1Affine]> {
        self.entry(slice).map(|entry| entry.weights.as_slice())
    }

    fn entry(&self, slice: u32) -> Option<&LoadedSlice> {
        self.slices.get(usize::try_from(slice).ok()?)
    }

    fn kind(&self, slice: u32) -> Option<&(SliceKey, SliceKey)> {
        self.kinds.get(self.entry(slice)?.kind)
    }
}

fn limit(what: &'static str, limit: usize, actual: usize) -> Result<(), CardError> {
    if actual > limit {
        return Err(CardError::Limit { what, limit, actual });
    }
    Ok(())
}

fn read_key<C: SliceCircuit>(entry: &CircuitEntry<C::Params>) -> Result<SliceKey, KeyError> {
    SliceKey::read::<C>(&entry.key.0, entry.key_digest, &entry.params)
}

fn check_kinds(kinds: &[(SliceKey, SliceKey)]) -> Result<(), CardError> {
    let Some((first, _)) = kinds.first() else {
        return Err(CardError::Empty { what: "kinds" });
    };
    for (kind, (slice, range)) in kinds.iter().enumerate() {
        for (part, key) in [("slice", slice), ("range", range)] {
            let (shape, first) = (key.shape(), first.shape());
            if (shape.log_n, shape.usable_rows) != (first.log_n, first.usable_rows) {
                return Err(CardError::Domain {
                    part,
                    kind,
                    log_n: shape.log_n,
                    usable_rows: shape.usable_rows,
                });
            }
        }
        let (slice, range) = (slice.shape(), range.shape());
        let weights = slice.columns(LinkedRole::Weight);
        if range.columns(LinkedRole::Weight) != weights || range.linked.len() != weights {
            return Err(CardError::RangeColumns { kind });
        }
    }
    Ok(())
}

fn load_slice(
    slice: usize,
    entry: &SliceEntry,
    kinds: &[(SliceKey, SliceKey)],
) -> Result<LoadedSlice, CardError> {
    limit("weight commitments of a slice", MAX_WEIGHT_COLUMNS, entry.weights.len())?;
    let (key, _) = kinds.get(entry.kind).ok_or(CardError::Kind { slice, kind: entry.kind })?;
    let expected = key.shape().columns(LinkedRole::Weight);
    if entry.weights.len() != expected {
        return Err(CardError::Weights { slice, expected, actual: entry.weights.len() });
    }
    Ok(LoadedSlice { kind: entry.kind, weights: entry.weights.iter().map(|weight| weight.0).collect() })
}
