//! A publication on disk: the public card and range proofs, the secret package for provers.
//!
//! ```text
//! card.json                      public
//! srs.bin, srs-open.bin          public: the verifier's part of the reference string, small and whole
//! ranges/slice-0000.proof        public: that slice's weights are in range
//! secret/package.json            which layers
//! secret/layer-0000.weights      integer weights, of all layers up to the last one published
//! secret/slice-0000.tails        blinding values of the published commitments
//! ```

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use lamina_circuits::{
    block::{BlockCircuit, BlockParams},
    layout::Layout,
    spec::{BlockSpec, BlockWeights, Matrix},
};
use lamina_prover::{Cpu, ProvingKey, publish::BlindedColumns, srs::Srs};
use lamina_verifier::{
    card::{Card, InsecureSrs, MAX_CARD_BYTES},
    envelope::Claims,
    hash::{Hasher, SrsId},
    key::SliceKey,
    srs::VerifierSrs,
    verify::{publication_context, verify_publication},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::{
    Session,
    engine::{self, BlockCard, CardText, LoadedCard, RangeProver, WeightColumns},
    failure::{Classify, Failure, Kind, Result},
    files::{self, Access, Existing},
    progress::Bar,
    source::Prepared,
};

/// Largest proof that is read.
pub const MAX_PROOF_BYTES: u64 = 16 << 20;
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
        let root = card.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Folder(root.to_owned())
    }

    /// The card.
    pub fn card(&self) -> PathBuf {
        self.0.join("card.json")
    }

    /// The verifier's reference string, with the whole basis that open boundaries need or without.
    pub fn srs(&self, whole: bool) -> PathBuf {
        self.0.join(if whole { "srs-open.bin" } else { "srs.bin" })
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

    fn weights(&self, layer: usize) -> PathBuf {
        self.secret().join(format!("layer-{layer:04}.weights"))
    }

    fn tails(&self, slice: usize) -> PathBuf {
        self.secret().join(format!("slice-{slice:04}.tails"))
    }
}

/// What `secret/package.json` says: all that the files beside it depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Package {
    first_layer: usize,
    layers: usize,
    srs: SrsId,
    params: BlockParams,
}

/// What a publication is made with.
pub struct Keys {
    /// Of slices.
    pub slice: (ProvingKey, SliceKey),
    /// Of publication proofs.
    pub range: (ProvingKey, SliceKey),
}

/// A publication as a prover holds it.
pub struct Published {
    /// The card as it stands in its file.
    pub card: BlockCard,
    /// The card, checked.
    pub loaded: LoadedCard,
    /// The model's layer that slice 0 is.
    pub first_layer: usize,
    folder: Folder,
}

fn encode_weights(weights: &BlockWeights, spec: &BlockSpec) -> Vec<u8> {
    let mut body = vec![];
    for (_, matrix, _, _) in weights.matrices(spec) {
        matrix.data.iter().for_each(|w| body.extend(w.to_le_bytes()));
    }
    let mut bytes = WEIGHTS_MAGIC.to_vec();
    bytes.extend(WEIGHTS_VERSION.to_le_bytes());
    bytes.extend(Hasher::new("weights-file").bytes(&body).digest().0);
    bytes.append(&mut body);
    bytes
}

fn decode_weights(bytes: &[u8], spec: &BlockSpec) -> Option<BlockWeights> {
    let (head, mut body) = bytes.split_at_checked(WEIGHTS_HEAD)?;
    let digest = Hasher::new("weights-file").bytes(body).digest();
    let intact =
        &head[..8] == WEIGHTS_MAGIC && head[8..10] == WEIGHTS_VERSION.to_le_bytes() && head[10..] == digest.0;
    if !intact {
        return None;
    }
    let weights = BlockWeights::build(spec, |_, rows, cols| {
        let (data, rest) = body.split_at_checked(2 * rows * cols).ok_or(())?;
        body = rest;
        let data = data.as_chunks().0.iter().map(|w| i16::from_le_bytes(*w)).collect();
        Ok::<_, ()>(Matrix { rows, cols, data: Arc::new(data) })
    });
    weights.ok().filter(|_| body.is_empty())
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

/// The keys of a model's circuits, from the cache or generated.
///
/// # Errors
/// Key generation fails.
pub fn keys(session: &Session, circuit: &BlockCircuit, srs: &Srs, bar: &Bar, job: usize) -> Result<Keys> {
    bar.begin(job, "proving key")?;
    let slice = session.cache.key(srs, circuit, None)?;
    bar.begin(job + 1, "range proof key")?;
    let range = session.cache.key(srs, &engine::range_circuit(&circuit.params, &circuit.layout), None)?;
    Ok(Keys { slice, range })
}

/// Publishes `layers` of a model into `folder`, or finishes a publication that was begun.
///
/// # Errors
/// Another publication is there; a file cannot be written; the user stopped it.
pub fn publish(
    session: &Session,
    prepared: &Prepared,
    layers: Range<usize>,
    folder: &Folder,
    text: &CardText,
    srs: &Srs,
    existing: Existing,
) -> Result<(Published, Keys)> {
    let circuit = BlockCircuit::new(&prepared.plan.params)?;
    let (spec, count) = (&circuit.params.spec, layers.len());
    let bar = Bar::new(&session.output, "publishing", 2 + 2 * count);
    let keys = keys(session, &circuit, srs, &bar, 0)?;
    let usable = keys.slice.1.shape().usable_rows;
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
    let package =
        Package { first_layer: layers.start, layers: count, srs: srs.id(), params: circuit.params.clone() };
    write_same(&folder.package(), &serde_json::to_vec_pretty(&package)?, Access::Secret, existing)?;
    for layer in 0..layers.end {
        let mut bytes = encode_weights(&prepared.integers.blocks[layer], spec);
        let written = write_same(&folder.weights(layer), &bytes, Access::Secret, existing);
        bytes.zeroize();
        written?;
    }

    let mut blinded = vec![];
    for (slice, layer) in layers.clone().enumerate() {
        bar.begin(2 + slice, format!("committing to layer {layer}"))?;
        let path = folder.tails(slice);
        if existing == Existing::Keep && path.exists() {
            blinded.push(BlindedColumns::load(&path).context(path.display())?);
            continue;
        }
        let columns = engine::weight_columns(&circuit.layout, &prepared.integers.blocks[layer]);
        let columns = engine::commit_weights(srs, usable, &columns)?;
        columns.save(&path).context(path.display())?;
        blinded.push(columns);
    }

    let range_params = engine::range_circuit(&circuit.params, &circuit.layout).params;
    let card = engine::card(
        text,
        &circuit.params,
        &range_params,
        &keys.slice.0,
        &keys.range.0,
        &verifier_srs,
        blinded.iter(),
    );
    let loaded: LoadedCard = Card::check(&card, InsecureSrs::Accept)?;
    write_same(&folder.srs(false), &srs.verifier_srs(false)?.write(), Access::Public, existing)?;
    write_same(&folder.srs(true), &verifier_srs.write(), Access::Public, existing)?;
    write_same(&folder.card(), &card.to_json(), Access::Public, existing)?;

    let backend = Cpu::default();
    let mut prover = None;
    let mut proofs = vec![];
    for (slice, layer) in layers.enumerate() {
        bar.begin(2 + count + slice, format!("range proof of layer {layer}"))?;
        let path = folder.range(slice);
        let context = publication_context(loaded.model(), loaded.publisher(), slice as u32);
        if existing == Existing::Keep && path.exists() {
            let proof = files::read(&path, MAX_PROOF_BYTES)?;
            if Claims::peek(&proof).is_ok_and(|claims| claims.context == context) {
                proofs.push(proof);
                continue;
            }
        }
        let prover = match &mut prover {
            Some(prover) => prover,
            none => none.insert(RangeProver::new(
                engine::range_circuit(&circuit.params, &circuit.layout),
                &keys.range.0,
                keys.range.1.clone(),
                srs,
                &verifier_srs,
                &backend,
            )?),
        };
        let columns = engine::weight_columns(&circuit.layout, &prepared.integers.blocks[layer]);
        let proof = prover
            .prove(context, &columns, &blinded[slice], &bar)
            .context(format_args!("range proof of layer {layer}"))?;
        files::write(&path, &proof, Access::Public, Existing::Replace)?;
        proofs.push(proof);
    }
    drop(prover);
    let bytes: Vec<&[u8]> = proofs.iter().map(Vec::as_slice).collect();
    verify_publication(loaded.model(), &loaded, &verifier_srs, &bytes)
        .context("the publication does not verify: publish again with --force")?;
    let first_layer = package.first_layer;
    Ok((Published { card, loaded, first_layer, folder: folder.clone() }, keys))
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
pub fn read_card(path: &Path, insecure: InsecureSrs) -> Result<(BlockCard, LoadedCard)> {
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
        let same = package.layers == loaded.slice_count()
            && package.srs == loaded.srs().id
            && package.params == card.kinds[0].slice.params;
        if !same {
            return Err(Failure::new(
                Kind::Input,
                "secret/package.json belongs to another card than card.json: publish again with --force",
            ));
        }
        Ok(Published { card, loaded, first_layer: package.first_layer, folder })
    }

    /// The circuit that all slices share.
    ///
    /// # Errors
    /// The card's parameters have no layout.
    pub fn circuit(&self) -> Result<BlockCircuit> {
        Ok(BlockCircuit::new(&self.card.kinds[0].slice.params)?)
    }

    /// Layers that are published.
    pub fn layers(&self) -> Range<usize> {
        self.first_layer..self.first_layer + self.loaded.slice_count()
    }

    /// The integer weights of a layer.
    ///
    /// # Errors
    /// They cannot be read, or are damaged.
    pub fn weights(&self, layer: usize) -> Result<BlockWeights> {
        let path = self.folder.weights(layer);
        let mut bytes = files::read(&path, u64::MAX - 1)?;
        let weights = decode_weights(&bytes, &self.card.kinds[0].slice.params.spec);
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

    /// The weight columns of a layer with the commitments and blinding values of its slice.
    ///
    /// # Errors
    /// The package is damaged or of another card.
    pub fn slice(
        &self,
        layout: &Layout,
        layer: usize,
        weights: &BlockWeights,
    ) -> Result<(WeightColumns, BlindedColumns)> {
        let slice = layer - self.first_layer;
        let path = self.folder.tails(slice);
        let blinded = BlindedColumns::load(&path).context(path.display())?;
        if self.loaded.weights(slice as u32) != Some(blinded.commitments()) {
            return Err(Failure::new(
                Kind::Input,
                format_args!("{} does not belong to card.json: publish again with --force", path.display()),
            ));
        }
        Ok((engine::weight_columns(layout, weights), blinded))
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
