//! `lamina prove`: prove blocks of a published model on a prompt.

use std::path::{Path, PathBuf};

use lamina_circuits::layout::Layout;
use lamina_prover::{Cpu, publish::BlindedColumns, srs::Srs};
use lamina_verifier::{
    boundary::OpenBoundary,
    context::Context,
    envelope::Envelope,
    hash::{Hasher, ModelId, NodeId, RequestId},
    key::SliceKey,
    srs::VerifierSrs,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::Zeroize;

use crate::{
    Session,
    cli::{LayerRange, ProveArgs},
    engine::{Boundary, SliceProver, milliseconds},
    failure::{Classify, Failure, Kind, Result},
    files::{self, Access, Existing},
    ids,
    output::grouped,
    progress::{Bar, check_interrupted},
    publication::{MAX_PROOF_BYTES, Published},
    source,
};

/// The occasion that all proofs of a folder share; public.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement {
    model: ModelId,
    request: RequestId,
    node: NodeId,
    tokens: u32,
}

/// An open boundary as a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenBoundaryFile {
    /// The layer that begins there.
    pub boundary: usize,
    /// Integers of the columns.
    pub columns: Vec<Vec<i32>>,
}

/// The files of a folder of proofs.
struct Folder<'a>(&'a Path);

impl Folder<'_> {
    fn statement(&self) -> PathBuf {
        self.0.join("statement.json")
    }

    fn proof(&self, layer: usize) -> PathBuf {
        self.0.join(format!("layer-{layer}.proof"))
    }

    fn open_boundary(&self, boundary: usize) -> PathBuf {
        self.0.join(format!("boundary-{boundary}.json"))
    }

    fn secret(&self) -> PathBuf {
        self.0.join("secret")
    }

    fn tails(&self, boundary: usize) -> PathBuf {
        self.secret().join(format!("boundary-{boundary}.tails"))
    }

    fn activations(&self, boundary: usize) -> PathBuf {
        self.secret().join(format!("boundary-{boundary}.activations"))
    }
}

/// Runs the command.
///
/// # Errors
/// The publication, the model or the prompt is unusable; a value leaves its range; files are in the way.
pub fn run(session: &Session, arguments: &ProveArgs) -> Result<()> {
    let output = &session.output;
    let published = Published::load(&arguments.published)?;
    let available = published.layers();
    let asked = arguments.layers.or(arguments.layer.map(LayerRange::one));
    let layers = asked
        .and_then(|range| range.of(available.end))
        .filter(|range| range.start >= available.start)
        .ok_or_else(|| {
            let asked = asked.map(|range| range.to_string()).unwrap_or_default();
            Failure::new(
                Kind::Input,
                format_args!("layers {asked}: published are {}..{}", available.start, available.end),
            )
        })?;
    let circuit = published.circuit()?;
    let spec = &circuit.params.spec;
    let bar = Bar::new(output, "model", 1);
    bar.begin(0, "reading")?;
    let model = source::load(Some(&arguments.model))?;
    drop(bar);
    if model.config.shape != spec.shape || model.config.layers != published.card.architecture.layers as usize
    {
        return Err(Failure::new(
            Kind::Input,
            format_args!(
                "{} is not the model that was published: it has {} layers of {:?}, the card {} of {:?}",
                arguments.model.display(),
                model.config.layers,
                model.config.shape,
                published.card.architecture.layers,
                spec.shape
            ),
        ));
    }
    let ids = source::prompt_ids(&model, &arguments.prompt, spec.tokens)?;

    let folder = Folder(&arguments.out);
    files::create_folder(&folder.secret(), Access::Secret)?;
    files::sweep(&arguments.out);
    files::sweep(&folder.secret());
    let statement = statement(session, arguments, &folder, &published, ids.len() as u32)?;

    let bar = Bar::new(output, "proving", layers.len() + 2);
    bar.begin(0, "reference string and key")?;
    let reference = published.card.srs;
    let srs = session.cache.srs(reference.id, circuit.params.k)?;
    if reference.insecure {
        output.note("warning: the model was published with an INSECURE development reference string");
    }
    let expected = published.loaded.key(0);
    let (proving_key, key) = session.cache.key(&srs, &circuit, expected)?;
    let verifier_srs = srs.verifier_srs(arguments.open_input || arguments.open_output)?;
    let backend = Cpu::default();
    let prover = SliceProver::new(&circuit, &proving_key, key, &srs, &verifier_srs, &backend)?;

    bar.begin(1, "running the layers before")?;
    let mut x = source::embed(&model, spec, &ids);
    for layer in 0..layers.start {
        check_interrupted()?;
        x = source::run_layer(spec, &published.weights(layer)?, layer, &x)?.output.q;
    }
    let maker = Boundaries {
        session,
        folder: &folder,
        srs: &srs,
        verifier_srs: &verifier_srs,
        layout: prover.layout(),
        usable_rows: prover.key().shape().usable_rows,
        statement: &statement,
    };
    let mut input = maker.make(layers.start, &x, arguments.open_input)?;
    let mut figures = vec![];
    for layer in layers.clone() {
        bar.begin(2 + layer - layers.start, format!("layer {layer}"))?;
        let started = std::time::Instant::now();
        let weights = published.weights(layer)?;
        let trace = source::run_layer(spec, &weights, layer, &x)?;
        let open = arguments.open_output && layer + 1 == layers.end;
        let next = maker.make(layer + 1, &trace.output.q, open)?;
        let context = Context {
            request: statement.request,
            node: statement.node,
            model: statement.model,
            slice: (layer - available.start) as u32,
            tokens: statement.tokens,
        };
        let path = folder.proof(layer);
        let finished = finished(session, &path, prover.key(), &context, &input, &next)?;
        if !finished {
            let (columns, blinded) = published.slice(prover.layout(), layer, &weights)?;
            let envelope = prover
                .prove(context, &columns, &blinded, &trace, &input, &next, &bar)
                .context(format_args!("layer {layer}"))?;
            files::write(&path, &envelope.bytes, Access::Public, session.existing)?;
            let ms = milliseconds(started);
            output.line(format!(
                "layer {layer}: {}, {} bytes, {:.2} s",
                path.display(),
                grouped(envelope.bytes.len()),
                ms / 1e3
            ))?;
            figures.push(json!({
                "layer": layer,
                "file": path,
                "proof_bytes": envelope.bytes.len(),
                "prove_ms": ms,
                "reused": false,
            }));
        } else {
            output.line(format!("layer {layer}: {}, finished before", path.display()))?;
            figures.push(json!({ "layer": layer, "file": path, "reused": true }));
        }
        x.clone_from(&trace.output.q);
        input = next;
    }
    x.zeroize();
    drop(bar);
    output.line(format!("request   {}", statement.request))?;
    output.line(format!("node      {}", statement.node))?;
    output.value(&json!({
        "statement": statement,
        "proofs": figures,
        "insecure_srs": reference.insecure,
    }))
}

/// The occasion: what the folder says, or a new one.
fn statement(
    session: &Session,
    arguments: &ProveArgs,
    folder: &Folder<'_>,
    published: &Published,
    tokens: u32,
) -> Result<Statement> {
    let path = folder.statement();
    let before = if path.exists() && session.existing == Existing::Keep {
        let bytes = files::read(&path, 1 << 16)?;
        Some(serde_json::from_slice::<Statement>(&bytes).context(path.display())?)
    } else {
        None
    };
    let request = match (&arguments.request, &before) {
        (Some(text), _) => ids::request(text),
        (None, Some(before)) => before.request,
        (None, None) => ids::fresh_request()?,
    };
    let node = ids::node(&arguments.node);
    let statement = Statement { model: published.loaded.model(), request, node, tokens };
    match before {
        Some(before) if before == statement => Ok(statement),
        Some(_) => Err(Failure::new(
            Kind::Files,
            format_args!(
                "{} holds proofs of another model, request, node or prompt: choose another --out, or replace \
                 them with --force",
                arguments.out.display()
            ),
        )),
        None => {
            files::write(&path, &serde_json::to_vec_pretty(&statement)?, Access::Public, session.existing)?;
            Ok(statement)
        }
    }
}

/// Whether a proof of this very statement is there; another one in its place is an error.
fn finished(
    session: &Session,
    path: &Path,
    key: &SliceKey,
    context: &Context,
    input: &Boundary,
    output: &Boundary,
) -> Result<bool> {
    if session.existing == Existing::Replace || !path.exists() {
        return Ok(false);
    }
    let bytes = files::read(path, MAX_PROOF_BYTES)?;
    let same = Envelope::decode(&bytes, key.shape()).is_ok_and(|envelope| {
        envelope.claims.context == *context
            && envelope.claims.key == key.digest()
            && envelope.input == input.reference()
            && envelope.output == output.reference()
    });
    if same {
        return Ok(true);
    }
    Err(Failure::new(
        Kind::Files,
        format_args!(
            "{} is a proof of something else: choose another --out, or replace it with --force",
            path.display()
        ),
    ))
}

/// Makes boundaries, or finds those that the prover of the layer before left.
struct Boundaries<'a> {
    session: &'a Session,
    folder: &'a Folder<'a>,
    srs: &'a Srs,
    verifier_srs: &'a VerifierSrs,
    layout: &'a Layout,
    usable_rows: usize,
    statement: &'a Statement,
}

impl Boundaries<'_> {
    fn make(&self, boundary: usize, x: &[i32], open: bool) -> Result<Boundary> {
        let (tails, activations) = (self.folder.tails(boundary), self.folder.activations(boundary));
        if open {
            let made = Boundary::open(self.verifier_srs, self.layout, self.usable_rows, x)?;
            if let Boundary::Open { values: OpenBoundary { columns }, .. } = &made {
                let file = OpenBoundaryFile { boundary, columns: columns.clone() };
                let (path, bytes) = (self.folder.open_boundary(boundary), serde_json::to_vec(&file)?);
                let there = path.exists() && self.session.existing == Existing::Keep;
                if !there || files::read(&path, 1 << 30)? != bytes {
                    files::write(&path, &bytes, Access::Public, self.session.existing)?;
                }
            }
            return Ok(made);
        }
        let mut bytes = self.encode(x);
        let kept = if self.session.existing == Existing::Keep && tails.exists() && activations.exists() {
            let mut there = files::read(&activations, 1 << 30)?;
            let same = there == bytes;
            there.zeroize();
            if !same {
                return Err(Failure::new(
                    Kind::Files,
                    format_args!(
                        "{} holds other activations than this model gives on this prompt: choose another --out, \
                         or replace them with --force",
                        activations.display()
                    ),
                ));
            }
            Some(Boundary::Hidden(BlindedColumns::load(&tails).context(tails.display())?))
        } else {
            None
        };
        let made = match kept {
            Some(kept) => kept,
            None => {
                let made = Boundary::hide(self.srs, self.layout, self.usable_rows, x)?;
                if let Boundary::Hidden(columns) = &made {
                    columns.save(&tails).context(tails.display())?;
                    // Without this file the tails count as absent: it comes second.
                    files::write(&activations, &bytes, Access::Secret, Existing::Replace)?;
                }
                made
            }
        };
        bytes.zeroize();
        Ok(made)
    }

    /// ```text
    /// "LAMINAAC" | version u16 | request | digest of the rest | i32 …
    /// ```
    fn encode(&self, x: &[i32]) -> Vec<u8> {
        let mut body: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut bytes = b"LAMINAAC".to_vec();
        bytes.extend(1u16.to_le_bytes());
        bytes.extend(self.statement.request.0.0);
        bytes.extend(Hasher::new("activations").bytes(&body).digest().0);
        bytes.extend(&body);
        body.zeroize();
        bytes
    }
}
