//! A publication on disk: the public card and range proofs, the secret package for provers.
//!
//! ```text
//! card.json                      public
//! tokenizer.json                 public: text to ids and back, covered by the card
//! srs.bin, srs-open.bin          public: the verifier's part of the reference string, small and whole
//! ranges/slice-0000.proof        public: that slice's weights are in range
//! secret/package.json            which slices
//! secret/embedding.weights       integer weights of the embedding
//! secret/layer-0000.weights      of all layers up to the last one published
//! secret/head.weights            of the head; a tied one's matrix is the embedding's
//! secret/slice-0000.tails        blinding values of the published commitments
//! ```

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use lamina_circuits::{
    block::BlockParams,
    embedding::{EmbeddingParams, EmbeddingWeights},
    head::{HeadWeights, layout::HeadParams},
    model::{ModelCircuit, ModelParams, Part},
    plan::{EndPlan, Plan},
    spec::{BlockWeights, Matrix},
};
use lamina_model::TextTokenizer;
use lamina_prover::{publish::BlindedColumns, srs::Srs};
use lamina_verifier::{
    bundle::Whole,
    card::{Card, InsecureSrs, MAX_CARD_BYTES},
    envelope::Claims,
    hash::{Digest, Hasher, SrsId},
    srs::VerifierSrs,
    verify::{publication_context, verify_publication},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::{
    Session,
    engine::{
        self, CardFile, CardText, KindKeys, LoadedCard, PartWeights, RangeProver, WeightColumns, milliseconds,
    },
    failure::{Classify, Failure, Kind, Result},
    files::{self, Access, Existing},
    progress::Bar,
    source::{self, IntegerModel},
};

/// Largest proof that is read.
pub const MAX_PROOF_BYTES: u64 = 16 << 20;
/// Largest bundle that is read.
pub const MAX_BUNDLE_BYTES: u64 = 1 << 30;
/// Largest tokenizer that is read.
pub const MAX_TOKENIZER_BYTES: u64 = 64 << 20;
/// Largest verifier's reference string that is read.
pub const MAX_SRS_BYTES: u64 = 2 << 30;

const WEIGHTS_MAGIC: &[u8; 8] = b"LAMINAWT";
const WEIGHTS_VERSION: u16 = 1;
const WEIGHTS_HEAD: usize = 8 + 2 + 32;

/// The files of a publication.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The publication in `root`.
    pub fn new(root: &Path) -> Self {
        Folder(root.to_owned())
    }

    /// The publication that a card belongs to.
    pub fn of_card(card: &Path) -> Self {
        Folder(files::folder_of(card).to_owned())
    }

    /// The card.
    pub fn card(&self) -> PathBuf {
        self.0.join("card.json")
    }

    /// The verifier's reference string, with the whole basis that open boundaries need or without.
    pub fn srs(&self, whole: bool) -> PathBuf {
        self.0.join(if whole { "srs-open.bin" } else { "srs.bin" })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> PathBuf {
        self.0.join("tokenizer.json")
    }

    /// The range proof of a slice.
    pub fn range(&self, slice: usize) -> PathBuf {
        self.0.join("ranges").join(format!("slice-{slice:04}.proof"))
    }

    fn secret(&self) -> PathBuf {
        self.0.join("secret")
    }

    fn package(&self) -> PathBuf {
        self.secret().join("package.json")
    }

    fn weights(&self, part: Part) -> PathBuf {
        self.secret().join(match part {
            Part::Embedding => "embedding.weights".to_owned(),
            Part::Layer(layer) => format!("layer-{layer:04}.weights"),
            Part::Head => "head.weights".to_owned(),
        })
    }

    fn tails(&self, slice: usize) -> PathBuf {
        self.secret().join(format!("slice-{slice:04}.tails"))
    }
}

/// The parameters of every kind of slice, whether the card has slices of it or not: what is not published is
/// still run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllParams {
    /// Of the embedding.
    pub embedding: EmbeddingParams,
    /// Of all blocks.
    pub block: BlockParams,
    /// Of the head.
    pub head: HeadParams,
}

impl AllParams {
    /// Those of one part.
    pub fn of(&self, part: Part) -> ModelParams {
        match part {
            Part::Embedding => ModelParams::Embedding(self.embedding.clone()),
            Part::Layer(_) => ModelParams::Block(self.block.clone()),
            Part::Head => ModelParams::Head(self.head.clone()),
        }
    }
}

/// What `secret/package.json` says: all that the files beside it depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Package {
    slices: Slices,
    tied: bool,
    padding: u32,
    end_of_text: Option<u32>,
    srs: SrsId,
    params: AllParams,
}

/// Which parts of a model are published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slices {
    /// Embedding, so many layers, head.
    Whole(usize),
    /// Layers from the first number to the second.
    Layers(Range<usize>),
}

impl Slices {
    /// The parts, in order: slice `i` is part `i`.
    pub fn parts(&self) -> Vec<Part> {
        match self {
            Slices::Whole(layers) => {
                let layers = (0..*layers).map(Part::Layer);
                std::iter::once(Part::Embedding).chain(layers).chain([Part::Head]).collect()
            }
            Slices::Layers(layers) => layers.clone().map(Part::Layer).collect(),
        }
    }

    /// The published layers.
    pub fn layers(&self) -> Range<usize> {
        match self {
            Slices::Whole(layers) => 0..*layers,
            Slices::Layers(layers) => layers.clone(),
        }
    }

    /// The kinds of circuits that they need, the ends first and last.
    fn kinds(&self, params: &AllParams) -> Vec<ModelParams> {
        let parts = match self {
            Slices::Whole(_) => vec![Part::Embedding, Part::Layer(0), Part::Head],
            Slices::Layers(_) => vec![Part::Layer(0)],
        };
        parts.into_iter().map(|part| params.of(part)).collect()
    }

    /// Index of a part's kind among [`Slices::kinds`].
    fn kind(&self, part: Part) -> usize {
        match (self, part) {
            (Slices::Layers(_), _) | (_, Part::Embedding) => 0,
            (_, Part::Layer(_)) => 1,
            (_, Part::Head) => 2,
        }
    }
}

/// A publication as a prover holds it.
pub struct Published {
    /// The card as it stands in its file.
    pub card: CardFile,
    /// The card, checked.
    pub loaded: LoadedCard,
    folder: Folder,
    package: Package,
}

/// Matrices of a part's weights in the order of its file.
fn matrices(weights: &PartWeights, tied: bool) -> Vec<&Matrix> {
    match weights {
        PartWeights::Embedding(w) => std::iter::once(&w.matrix).chain(&w.positions).collect(),
        PartWeights::Block(w) => {
            [&w.q, &w.k, &w.v, &w.o, &w.gate].into_iter().chain(&w.up).chain([&w.down]).collect()
        }
        PartWeights::Head(w) if tied => vec![&w.gain],
        PartWeights::Head(w) => vec![&w.gain, &w.matrix],
    }
}

fn encode_weights(weights: &PartWeights, tied: bool) -> Vec<u8> {
    let mut body = vec![];
    for matrix in matrices(weights, tied) {
        matrix.data.iter().for_each(|w| body.extend(w.to_le_bytes()));
    }
    let mut bytes = WEIGHTS_MAGIC.to_vec();
    bytes.extend(WEIGHTS_VERSION.to_le_bytes());
    bytes.extend(Hasher::new("weights-file").bytes(&body).digest().0);
    bytes.append(&mut body);
    bytes
}

/// Reads a part's weights; `matrix` is the embedding's, for a tied head.
fn decode_weights(bytes: &[u8], params: &ModelParams, matrix: Option<Matrix>) -> Option<PartWeights> {
    let (head, mut body) = bytes.split_at_checked(WEIGHTS_HEAD)?;
    let digest = Hasher::new("weights-file").bytes(body).digest();
    let intact =
        &head[..8] == WEIGHTS_MAGIC && head[8..10] == WEIGHTS_VERSION.to_le_bytes() && head[10..] == digest.0;
    if !intact {
        return None;
    }
    let entries = body.len() / 2;
    let rest = |read: usize| entries.saturating_sub(read);
    let mut next = |rows: usize, cols: usize| {
        let (data, rest) = body.split_at_checked(2 * rows * cols)?;
        body = rest;
        let data = data.as_chunks().0.iter().map(|w| i16::from_le_bytes(*w)).collect();
        Some(Matrix { rows, cols, data: Arc::new(data) })
    };
    let weights = match params {
        ModelParams::Embedding(params) => {
            let (d, s) = (params.spec.hidden, &params.spec);
            let matrix = next(d, s.vocab)?;
            // As many positions as there are, at least one for each token.
            let positions = s.position_shift.map(|_| next(rest(d * s.vocab) / d, d));
            let positions = match positions {
                Some(positions) => Some(positions.filter(|p| p.rows >= s.tokens)?),
                None => None,
            };
            PartWeights::Embedding(EmbeddingWeights { matrix, positions })
        }
        ModelParams::Block(params) => {
            let made = BlockWeights::build(&params.spec, |_, rows, cols| next(rows, cols).ok_or(()));
            PartWeights::Block(made.ok()?)
        }
        ModelParams::Head(params) => {
            let d = params.spec.norm.hidden;
            let gain = next(params.spec.gain_features(), d)?;
            let matrix = match matrix {
                Some(matrix) => matrix,
                None => next(d, params.spec.vocab)?,
            };
            PartWeights::Head(HeadWeights { gain, matrix })
        }
    };
    body.is_empty().then_some(weights)
}

/// Writes a file, or finds it there with the same content.
fn write_same(path: &Path, bytes: &[u8], access: Access, existing: Existing) -> Result<()> {
    if existing == Existing::Keep && path.exists() {
        let mut there = files::read(path, u64::MAX - 1)?;
        let same = there == bytes;
        there.zeroize();
        if same {
            return Ok(());
        }
        return Err(Failure::new(
            Kind::Files,
            format_args!(
                "{} belongs to another publication (another model, calibration or option): choose another --out, \
                 or replace it with --force",
                path.display()
            ),
        ));
    }
    files::write(path, bytes, access, existing)
}

/// The keys of a circuit, from the cache or generated.
///
/// # Errors
/// Key generation fails.
pub fn keys(session: &Session, circuit: ModelCircuit, srs: &Srs, bar: &Bar, job: usize) -> Result<KindKeys> {
    let name = engine::kind_name(&circuit);
    bar.begin(job, format!("proving key, {name}"))?;
    let slice = session.cache.key(srs, &circuit, None)?;
    bar.begin(job + 1, format!("range proof key, {name}"))?;
    let range = session.cache.key(srs, &engine::range_circuit(&circuit), None)?;
    Ok(KindKeys { circuit, slice, range })
}

/// The digest of a tokenizer's file, as cards have it.
pub fn tokenizer_digest(json: &[u8]) -> Digest {
    Hasher::new("tokenizer-file").bytes(json).digest()
}

/// The weight columns of a part; `head` is that of a tied model, whose gain stands in the embedding's columns too.
fn part_columns(
    circuit: &ModelCircuit,
    weights: &PartWeights,
    head: Option<(&ModelCircuit, &PartWeights)>,
) -> Result<WeightColumns> {
    let wrong = || Failure::new(Kind::Input, "circuit and weights are of different kinds");
    let own = engine::weight_columns(circuit, weights).ok_or_else(wrong)?;
    match (weights, head) {
        (PartWeights::Embedding(_), Some((circuit, weights))) => {
            let shared = engine::weight_columns(circuit, weights).ok_or_else(wrong)?;
            Ok(Arc::new(shared.iter().chain(own.iter().skip(shared.len())).cloned().collect()))
        }
        _ => Ok(own),
    }
}

/// Whether a publication proves that its weights are in range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// As every published model must.
    Prove,
    /// For benches of what comes after: verifiers have to believe it.
    Skip,
}

/// What publishing took, without keys; what was there before took nothing.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PublishTimes {
    /// Weight columns and commitments, milliseconds.
    pub commit_ms: f64,
    /// Range proofs and their verification, milliseconds.
    pub range_ms: Option<f64>,
}

/// What to publish, and how.
pub struct Task<'a> {
    /// The model.
    pub model: &'a IntegerModel,
    /// Which parts of it.
    pub slices: Slices,
    /// Where it goes.
    pub folder: &'a Folder,
    /// What the card says of it.
    pub text: &'a CardText,
    /// The reference string.
    pub srs: &'a Srs,
    /// Whether ranges are proved.
    pub ranges: Ranges,
}

/// Publishes slices of a model into a folder, or finishes a publication that was begun.
///
/// # Errors
/// Another publication is there; a file cannot be written; the user stopped it.
pub fn publish(
    session: &Session,
    task: &Task<'_>,
    existing: Existing,
) -> Result<(Published, Vec<KindKeys>, PublishTimes)> {
    let Task { model, slices, folder, text, srs, ranges } = task;
    let ranges = *ranges;
    let params = model.params.clone();
    let parts = slices.parts();
    let circuits = slices.kinds(&params).iter().map(ModelCircuit::new).collect::<Result<Vec<_>, _>>()?;
    let (count, setup) = (parts.len(), 2 * circuits.len());
    let bar = Bar::new(&session.output, "publishing", setup + 2 * count);
    let mut kinds = vec![];
    for (at, circuit) in circuits.into_iter().enumerate() {
        kinds.push(keys(session, circuit, srs, &bar, 2 * at)?);
    }
    let verifier_srs = srs.verifier_srs(true)?;

    files::create_folder(&folder.secret(), Access::Secret)?;
    files::create_folder(&folder.0.join("ranges"), Access::Public)?;
    for folder in [folder.0.clone(), folder.secret(), folder.0.join("ranges")] {
        files::sweep(&folder);
    }
    if existing == Existing::Replace {
        // Without its card a half-replaced publication is taken for what it is: unfinished.
        remove(&folder.card())?;
    }
    let tied = model.tied;
    let package = Package {
        slices: slices.clone(),
        tied,
        padding: model.padding,
        end_of_text: model.end_of_text,
        srs: srs.id(),
        params,
    };
    write_same(&folder.package(), &serde_json::to_vec_pretty(&package)?, Access::Secret, existing)?;
    let weights = |part: Part| {
        let missing = || Failure::new(Kind::Input, format_args!("the model has no {part}"));
        model.weights.get(&part).ok_or_else(missing)
    };
    let layers = (0..slices.layers().end).map(Part::Layer);
    for part in [Part::Embedding, Part::Head].into_iter().chain(layers) {
        let mut bytes = encode_weights(weights(part)?, tied);
        let written = write_same(&folder.weights(part), &bytes, Access::Secret, existing);
        bytes.zeroize();
        written?;
    }
    if let Some(tokenizer) = &model.tokenizer {
        write_same(&folder.tokenizer(), tokenizer.to_json()?.as_bytes(), Access::Public, existing)?;
    }

    let tied_head = match (tied, slices) {
        (true, Slices::Whole(_)) => Some((&kinds[slices.kind(Part::Head)].circuit, weights(Part::Head)?)),
        _ => None,
    };
    let columns = |part: Part| part_columns(&kinds[slices.kind(part)].circuit, weights(part)?, tied_head);
    let started = Instant::now();
    let mut blinded: Vec<BlindedColumns> = vec![];
    for (slice, &part) in parts.iter().enumerate() {
        bar.begin(setup + slice, format!("committing to {part}"))?;
        let path = folder.tails(slice);
        if existing == Existing::Keep && path.exists() {
            blinded.push(BlindedColumns::load(&path).context(path.display())?);
            continue;
        }
        let kind = &kinds[slices.kind(part)];
        let columns = match (part, tied_head) {
            (Part::Head, Some(_)) => blinded[0].first(engine::linked(&kind.circuit).weights.len()),
            _ => engine::commit_weights(srs, kind.slice.1.shape().usable_rows, &columns(part)?)?,
        };
        columns.save(&path).context(path.display())?;
        blinded.push(columns);
    }

    let commit_ms = milliseconds(started);
    let entries = parts.iter().map(|&part| slices.kind(part)).zip(&blinded);
    let card = engine::card(text, &kinds, &verifier_srs, entries);
    let loaded: LoadedCard = Card::check(&card, InsecureSrs::Accept)?;
    write_same(&folder.srs(false), &srs.verifier_srs(false)?.write(), Access::Public, existing)?;
    write_same(&folder.srs(true), &verifier_srs.write(), Access::Public, existing)?;
    write_same(&folder.card(), &card.to_json(), Access::Public, existing)?;

    let started = Instant::now();
    let compute = session.compute()?;
    let mut prover: Option<(usize, RangeProver<'_>)> = None;
    let mut proofs = vec![];
    let proved = if ranges == Ranges::Prove { &parts[..] } else { &[] };
    for (slice, &part) in proved.iter().enumerate() {
        bar.begin(setup + count + slice, format!("range proof of {part}"))?;
        let path = folder.range(slice);
        let context = publication_context(loaded.model(), loaded.publisher(), slice as u32);
        if existing == Existing::Keep && path.exists() {
            let proof = files::read(&path, MAX_PROOF_BYTES)?;
            if Claims::peek(&proof).is_ok_and(|claims| claims.context == context) {
                proofs.push(proof);
                continue;
            }
        }
        let kind = slices.kind(part);
        let prover = match prover.take() {
            Some((of, loaded)) if of == kind => &prover.insert((of, loaded)).1,
            // The key of the kind before goes first: only one is in memory.
            _ => {
                let KindKeys { circuit, range: (key, digest), .. } = &kinds[kind];
                let circuit = engine::range_circuit(circuit);
                let loaded = RangeProver::new(circuit, key, digest.clone(), srs, &verifier_srs, compute)?;
                &prover.insert((kind, loaded)).1
            }
        };
        let proof = prover
            .prove(context, &columns(part)?, &blinded[slice], &bar)
            .context(format_args!("range proof of {part}"))?;
        files::write(&path, &proof, Access::Public, Existing::Replace)?;
        proofs.push(proof);
    }
    drop(prover);
    if ranges == Ranges::Prove {
        let bytes: Vec<&[u8]> = proofs.iter().map(Vec::as_slice).collect();
        verify_publication(loaded.model(), &loaded, &verifier_srs, &bytes)
            .context("the publication does not verify: publish again with --force")?;
    }
    let times =
        PublishTimes { commit_ms, range_ms: (ranges == Ranges::Prove).then(|| milliseconds(started)) };
    Ok((Published { card, loaded, folder: (*folder).clone(), package }, kinds, times))
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(format_args!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Reads a card.
///
/// # Errors
/// It cannot be read, or is refused.
pub fn read_card(path: &Path, insecure: InsecureSrs) -> Result<(CardFile, LoadedCard)> {
    let json = files::read(path, MAX_CARD_BYTES as u64)?;
    let loaded = LoadedCard::load(&json, insecure).context(path.display())?;
    Ok((serde_json::from_slice(&json)?, loaded))
}

/// Reads a verifier's reference string.
///
/// # Errors
/// It cannot be read, or is refused.
pub fn read_srs(path: &Path) -> Result<VerifierSrs> {
    VerifierSrs::read(&files::read(path, MAX_SRS_BYTES)?).context(path.display())
}

impl Published {
    /// Reads a publication as provers do.
    ///
    /// # Errors
    /// It is not finished, or not intact.
    pub fn load(root: &Path) -> Result<Self> {
        let folder = Folder::new(root);
        if !folder.card().exists() {
            return Err(Failure::new(
                Kind::Files,
                format_args!(
                    "{} has no card.json: it is no finished publication; run `lamina publish --out {}`",
                    root.display(),
                    root.display()
                ),
            ));
        }
        let (card, loaded) = read_card(&folder.card(), InsecureSrs::Accept)?;
        let package = files::read(&folder.package(), 1 << 16)
            .context("proving needs the secret package that `lamina publish` wrote")?;
        let package: Package = serde_json::from_slice(&package).context(folder.package().display())?;
        let parts = package.slices.parts();
        let same = package.srs == loaded.srs().id
            && parts.len() == loaded.slice_count()
            && (0u32..)
                .zip(&parts)
                .all(|(slice, &part)| loaded.params(slice) == Some(&package.params.of(part)));
        if !same {
            return Err(Failure::new(
                Kind::Input,
                "secret/package.json belongs to another card than card.json: publish again with --force",
            ));
        }
        Ok(Published { card, loaded, folder, package })
    }

    /// Which parts are published.
    pub fn slices(&self) -> &Slices {
        &self.package.slices
    }

    /// The parameters of a part's circuit.
    pub fn params(&self, part: Part) -> ModelParams {
        self.package.params.of(part)
    }

    /// Tokens of a pass, padding included.
    pub fn tokens(&self) -> usize {
        self.package.params.block.spec.tokens
    }

    /// `k`: all circuits have `2^k` rows.
    pub fn rows(&self) -> u32 {
        self.package.params.block.k
    }

    /// The most tokens that one pass proves.
    pub fn positions(&self) -> usize {
        self.package.params.head.spec.positions
    }

    /// The card's reference string, with a warning when it is a development one.
    ///
    /// # Errors
    /// It is not in the cache.
    pub fn srs(&self, session: &Session) -> Result<Srs> {
        if self.card.srs.insecure {
            session.output.note(
                "warning: the model was published with an INSECURE development reference string: its proofs \
                 prove nothing",
            );
        }
        session.cache.srs(self.card.srs.id, self.rows())
    }

    /// Predicted memory of proving the slice that needs most.
    ///
    /// # Errors
    /// The parameters have no layout.
    pub fn expected_bytes(&self) -> Result<u64> {
        let AllParams { embedding, block, head } = &self.package.params;
        let ends = [EndPlan::embedding(embedding)?, EndPlan::head(head)?];
        let block = Plan::new(block)?.expected_bytes;
        Ok(ends.iter().map(|end| end.expected_bytes).fold(block, u64::max))
    }

    /// Checks that a model file has the shape of what was published.
    ///
    /// # Errors
    /// It cannot be read, or is another model.
    pub fn check_model(&self, path: &Path) -> Result<()> {
        let config = source::load(Some(path))?.config;
        let (shape, layers) = (&self.package.params.block.spec.shape, self.card.architecture.layers);
        if config.shape == *shape && config.layers == layers as usize {
            return Ok(());
        }
        Err(Failure::new(
            Kind::Input,
            format_args!(
                "{} is not the model that was published: it has {} layers of {:?}, the card {layers} of {shape:?}",
                path.display(),
                config.layers,
                config.shape,
            ),
        ))
    }

    /// The id that pads a pass.
    pub fn padding(&self) -> u32 {
        self.package.padding
    }

    /// The tokenizer, if the model came with one.
    ///
    /// # Errors
    /// It cannot be read, or is not the card's.
    pub fn tokenizer(&self) -> Result<Option<TextTokenizer>> {
        read_tokenizer(&self.folder, &self.loaded, self.package.params.embedding.spec.vocab)
    }

    /// The integer weights of a part, published or not.
    ///
    /// # Errors
    /// They cannot be read, or are damaged.
    pub fn weights(&self, part: Part) -> Result<PartWeights> {
        let matrix = match (part, self.package.tied) {
            (Part::Head, true) => match self.weights(Part::Embedding)? {
                PartWeights::Embedding(weights) => Some(weights.matrix),
                _ => None,
            },
            _ => None,
        };
        let path = self.folder.weights(part);
        let mut bytes = files::read(&path, u64::MAX - 1)?;
        let weights = decode_weights(&bytes, &self.params(part), matrix);
        bytes.zeroize();
        weights.ok_or_else(|| {
            Failure::new(
                Kind::Input,
                format_args!(
                    "{} is damaged, or of another model: publish again with --force",
                    path.display()
                ),
            )
        })
    }

    /// The whole model in memory.
    ///
    /// # Errors
    /// Weights cannot be read, or only some layers are published.
    pub fn model(&self) -> Result<IntegerModel> {
        let Slices::Whole(_) = self.package.slices else {
            return Err(Failure::new(
                Kind::Input,
                "only some layers are published: answers need the whole model, published without --layers",
            ));
        };
        let weights = self.package.slices.parts().into_iter().map(|part| Ok((part, self.weights(part)?)));
        Ok(IntegerModel {
            params: self.package.params.clone(),
            weights: weights.collect::<Result<_>>()?,
            tied: self.package.tied,
            padding: self.package.padding,
            end_of_text: self.package.end_of_text,
            tokenizer: self.tokenizer()?,
        })
    }

    /// The weight columns of a slice with their commitments and blinding values.
    ///
    /// # Errors
    /// The package is damaged or of another card.
    pub fn slice(
        &self,
        circuit: &ModelCircuit,
        slice: u32,
        part: Part,
        weights: &PartWeights,
    ) -> Result<(WeightColumns, BlindedColumns)> {
        let path = self.folder.tails(slice as usize);
        let blinded = BlindedColumns::load(&path).context(path.display())?;
        if self.loaded.weights(slice) != Some(blinded.commitments()) {
            return Err(Failure::new(
                Kind::Input,
                format_args!("{} does not belong to card.json: publish again with --force", path.display()),
            ));
        }
        let head = if part == Part::Embedding && self.package.tied {
            Some((ModelCircuit::new(&self.params(Part::Head))?, self.weights(Part::Head)?))
        } else {
            None
        };
        let head = head.as_ref().map(|(circuit, weights)| (circuit, weights));
        Ok((part_columns(circuit, weights, head)?, blinded))
    }

    /// The range proofs.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn range_proofs(&self) -> Result<Vec<Vec<u8>>> {
        (0..self.loaded.slice_count())
            .map(|slice| files::read(&self.folder.range(slice), MAX_PROOF_BYTES))
            .collect()
    }
}

/// Reads the tokenizer beside a card, if the card names one.
///
/// # Errors
/// It cannot be read, or is another one.
pub fn read_tokenizer(folder: &Folder, card: &LoadedCard, vocab: usize) -> Result<Option<TextTokenizer>> {
    let Some(expected) = card.tokenizer() else { return Ok(None) };
    let path = folder.tokenizer();
    let bytes =
        files::read(&path, MAX_TOKENIZER_BYTES).context("the tokenizer, published beside the card")?;
    if tokenizer_digest(&bytes) != expected {
        return Err(Failure::new(
            Kind::Rejected,
            format_args!("{} is not the tokenizer that the card names", path.display()),
        ));
    }
    Ok(Some(TextTokenizer::from_json(&bytes, vocab)?))
}

/// Ids for people: their text, or themselves.
///
/// # Errors
/// The tokenizer fails on them.
pub fn text_of(tokenizer: Option<&TextTokenizer>, ids: &[u32]) -> Result<String> {
    match tokenizer {
        Some(tokenizer) => Ok(tokenizer.decode(ids)?),
        None => Ok(format!("token ids {ids:?}")),
    }
}

/// The parts of a whole model's card, slice by slice.
///
/// # Errors
/// The card is not of a whole model.
pub fn parts_of(card: &LoadedCard) -> Result<Vec<Part>> {
    Whole::of(card)?;
    Ok(Slices::Whole(card.slice_count().saturating_sub(2)).parts())
}
