//! Slices of one pass, proved into a folder: every part durable, nothing finished done again.
//!
//! ```text
//! statement.json                 public: what is proved
//! embedding.proof, layer-0.proof, …, head.proof
//! boundary-3.json                public: the activations of an open boundary
//! secret/boundary-3.tails        blinding values of a hidden boundary, for the prover of the next slice
//! secret/boundary-3.activations  its activations
//! ```

use std::{
    cell::OnceCell,
    collections::VecDeque,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use lamina_circuits::model::{ModelCircuit, Part};
use lamina_prover::{Timings, publish::BlindedColumns, srs::Srs};
use lamina_verifier::{
    boundary::OpenBoundary,
    bundle::{Bundle, Whole},
    context::Context,
    envelope::Envelope,
    hash::{Hasher, ModelId, NodeId, RequestId},
    key::SliceKey,
    logits::Logits,
    srs::VerifierSrs,
    verify::{BoundaryExpectation, Expectation, PublicationReceipt, verify_slice},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::{
    Session,
    engine::{self, Boundary, PartTrace, PartWeights, Pass, SliceProver, milliseconds},
    failure::{Classify, Failure, Kind, Result},
    files::{self, Access, Existing},
    ids,
    output::grouped,
    progress::{Bar, check_interrupted},
    publication::{MAX_PROOF_BYTES, Published},
};

/// The occasion that all proofs of a folder share; public.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The model.
    pub model: ModelId,
    /// The request that is answered.
    pub request: RequestId,
    /// The node that answers.
    pub node: NodeId,
    /// Tokens of the pass, before padding.
    pub tokens: u32,
    /// Prompt and answer, where whole answers are proved.
    pub answer: Option<Answer>,
}

/// A prompt and its continuation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Ids of the prompt, unless they are hidden.
    pub prompt: Option<Vec<u32>>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// The id after the last token.
    pub padding: u32,
    /// Generated ids.
    pub tokens: Vec<u32>,
}

/// A border between parts of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Border {
    /// Token ids, before the embedding.
    Ids,
    /// The activations that enter this layer, or the head after the last.
    Stream(usize),
    /// Generated tokens, after the head.
    Tokens,
}

impl Border {
    /// The border before a part of a model of `layers` layers.
    pub fn before(part: Part, layers: usize) -> Self {
        match part {
            Part::Embedding => Border::Ids,
            Part::Layer(layer) => Border::Stream(layer),
            Part::Head => Border::Stream(layers),
        }
    }

    /// The border after a part.
    pub fn after(part: Part) -> Self {
        match part {
            Part::Embedding => Border::Stream(0),
            Part::Layer(layer) => Border::Stream(layer + 1),
            Part::Head => Border::Tokens,
        }
    }
}

impl fmt::Display for Border {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Border::Ids => f.write_str("ids"),
            Border::Stream(layer) => write!(f, "{layer}"),
            Border::Tokens => f.write_str("tokens"),
        }
    }
}

/// An open boundary as a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenBoundaryFile {
    /// The layer that begins there, `ids` or `tokens`.
    pub boundary: String,
    /// Integers of the columns.
    pub columns: Vec<Vec<i32>>,
}

impl OpenBoundaryFile {
    /// The integers of a file.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn read(path: &Path) -> Result<OpenBoundary> {
        let file: Self = serde_json::from_slice(&files::read(path, 1 << 30)?).context(path.display())?;
        Ok(OpenBoundary { columns: file.columns })
    }
}

/// A folder of proofs.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at `root`.
    pub fn new(root: &Path) -> Self {
        Folder(root.to_owned())
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// Makes the folder, and takes away what killed processes left there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(&self) -> Result<()> {
        files::create_folder(&self.secret(), Access::Secret)?;
        files::sweep(&self.0);
        files::sweep(&self.secret());
        Ok(())
    }

    fn statement(&self) -> PathBuf {
        self.0.join("statement.json")
    }

    /// The proof of a part.
    pub fn proof(&self, part: Part) -> PathBuf {
        self.0.join(match part {
            Part::Layer(layer) => format!("layer-{layer}.proof"),
            part => format!("{part}.proof"),
        })
    }

    fn open_boundary(&self, border: Border) -> PathBuf {
        self.0.join(format!("boundary-{border}.json"))
    }

    fn secret(&self) -> PathBuf {
        self.0.join("secret")
    }

    /// Blinding values of a hidden boundary.
    pub fn tails(&self, border: Border) -> PathBuf {
        self.secret().join(format!("boundary-{border}.tails"))
    }

    fn activations(&self, border: Border) -> PathBuf {
        self.secret().join(format!("boundary-{border}.activations"))
    }

    /// What the folder's proofs are of, if anything is there.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read_statement(&self) -> Result<Option<Statement>> {
        let path = self.statement();
        if !path.exists() {
            return Ok(None);
        }
        let bytes = files::read(&path, 1 << 20)?;
        Ok(Some(serde_json::from_slice(&bytes).context(path.display())?))
    }

    /// The request that the folder's proofs answer: as given, as before, or a fresh one.
    ///
    /// # Errors
    /// The statement that is there cannot be read; no entropy.
    pub fn request(&self, given: Option<&str>, existing: Existing) -> Result<RequestId> {
        if let Some(text) = given {
            return Ok(ids::request(text));
        }
        let before = if existing == Existing::Keep { self.read_statement()? } else { None };
        before.map_or_else(ids::fresh_request, |before| Ok(before.request))
    }

    /// Writes what the folder's proofs are of, or finds the same there.
    ///
    /// # Errors
    /// The folder holds proofs of something else.
    pub fn agree(&self, statement: &Statement, existing: Existing) -> Result<()> {
        let before = if existing == Existing::Keep { self.read_statement()? } else { None };
        match before {
            Some(before) if before == *statement => Ok(()),
            Some(_) => Err(Failure::new(
                Kind::Files,
                format_args!(
                    "{} holds proofs of another model, request, node or prompt: choose another --out, or replace \
                     them with --force",
                    self.0.display()
                ),
            )),
            None => files::write(
                &self.statement(),
                &serde_json::to_vec_pretty(statement)?,
                Access::Public,
                existing,
            ),
        }
    }

    /// Takes over the hidden boundary that another prover ends at.
    ///
    /// # Errors
    /// The other folder does not have it, or this one has another.
    pub fn receive(&self, from: &Path, border: Border) -> Result<()> {
        let other = Folder::new(from);
        for (theirs, ours) in
            [(other.tails(border), self.tails(border)), (other.activations(border), self.activations(border))]
        {
            let mut bytes = files::read(&theirs, 1 << 30)
                .context(format_args!("boundary {border} of {}", from.display()))?;
            let there = if ours.exists() { Some(files::read(&ours, 1 << 30)?) } else { None };
            let written = match there {
                Some(mut there) => {
                    let same = there == bytes;
                    there.zeroize();
                    if same {
                        Ok(())
                    } else {
                        Err(Failure::new(
                            Kind::Files,
                            format_args!("{} is another boundary than {}", ours.display(), theirs.display()),
                        ))
                    }
                }
                None => files::write(&ours, &bytes, Access::Secret, Existing::Keep),
            };
            bytes.zeroize();
            written?;
        }
        Ok(())
    }

    /// The logits of an answer of `tokens` tokens, where the head opens them: those of the boundary after it.
    ///
    /// # Errors
    /// The boundary is not here, or holds none.
    pub fn logits(&self, whole: &Whole, tokens: usize) -> Result<Option<Logits>> {
        if whole.open_logits().is_none() {
            return Ok(None);
        }
        let path = self.open_boundary(Border::Tokens);
        let columns = OpenBoundaryFile::read(&path)?;
        let logits = whole.logits_of(&columns, tokens);
        let logits = logits.ok_or_else(|| {
            Failure::new(Kind::Input, format_args!("{} holds no logits of this model", path.display()))
        })?;
        Ok(Some(logits))
    }

    /// Removes the folder with its secrets.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(self) -> Result<()> {
        std::fs::remove_dir_all(&self.0).context(format_args!("cannot remove {}", self.0.display()))
    }
}

/// What one slice took.
#[derive(Clone, Debug, Serialize)]
pub struct SliceFigures {
    /// Number of the slice.
    pub slice: u32,
    /// Which part of the model it is.
    pub part: Part,
    /// Its proof.
    pub file: PathBuf,
    /// Size of the proof.
    pub proof_bytes: usize,
    /// Whether an earlier run had finished it; then nothing was timed.
    pub reused: bool,
    /// When it began, milliseconds after proving began.
    pub started_ms: f64,
    /// Run, boundary and proof.
    pub prove_ms: Option<f64>,
    /// The proof's stages.
    #[serde(flatten)]
    pub stages: Option<Stages>,
}

/// Where a proof's time went, milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Stages {
    pub execute_ms: f64,
    pub boundary_ms: f64,
    pub witness_ms: f64,
    pub commit_ms: f64,
    pub quotient_ms: f64,
    pub open_ms: f64,
}

impl Stages {
    fn new(execute_ms: f64, boundary_ms: f64, t: &Timings) -> Self {
        Stages {
            execute_ms,
            boundary_ms,
            witness_ms: t.witness_ms,
            commit_ms: t.commit_ms,
            quotient_ms: t.quotient_ms,
            open_ms: t.open_ms,
        }
    }
}

/// What to prove.
pub struct Task<'a> {
    /// The model.
    pub published: &'a Published,
    /// The reference string, and its part that verifiers use: whole, where a boundary is open.
    pub srs: (&'a Srs, &'a VerifierSrs),
    /// Where the proofs go.
    pub folder: &'a Folder,
    /// The occasion.
    pub statement: &'a Statement,
    /// What the model runs on.
    pub pass: &'a Pass,
    /// Which slices.
    pub slices: Range<usize>,
    /// Borders whose values are public.
    pub open: &'a (dyn Fn(Border) -> bool + Sync),
    /// Slices proved at a time.
    pub jobs: usize,
}

/// Runs the parts of a model before `part`; what comes out enters it.
///
/// # Errors
/// A value leaves its range.
pub fn run_before(published: &Published, pass: &Pass, part: Part, bar: &Bar) -> Result<Vec<i32>> {
    let layers = match part {
        Part::Embedding => return Ok(vec![]),
        Part::Layer(layer) => layer,
        Part::Head => published.slices().layers().end,
    };
    let mut x = vec![];
    for part in std::iter::once(Part::Embedding).chain((0..layers).map(Part::Layer)) {
        check_interrupted()?;
        bar.begin(0, format!("running, {part}"))?;
        x = engine::run(&published.params(part), &published.weights(part)?, part, pass, &x)?
            .stream()
            .to_vec();
    }
    Ok(x)
}

/// A slice that is ready to be proved.
struct Ready {
    slice: u32,
    part: Part,
    weights: PartWeights,
    trace: PartTrace,
    borders: [Boundary; 2],
    started: Instant,
    started_ms: f64,
    execute_ms: f64,
    boundary_ms: f64,
}

/// Proves slices, from the boundary `x` that enters the first; `bar` counts one job a slice, after `first`.
///
/// The values of the next slice are computed while [`Task::jobs`] slices before it are being proved.
///
/// # Errors
/// A value leaves its range, files are in the way, or the user stopped it; finished slices stay.
pub fn prove(
    session: &Session,
    task: &Task<'_>,
    mut x: Vec<i32>,
    bar: &Bar,
    first: usize,
) -> Result<Vec<SliceFigures>> {
    let Task { published, srs: (srs, verifier_srs), folder, .. } = task;
    let parts = published.slices().parts();
    let layers = published.slices().layers().end;
    let slices: Vec<(u32, Part)> =
        (0u32..).zip(parts).skip(task.slices.start).take(task.slices.len()).collect();
    let compute = session.compute()?;
    let mut figures = vec![];
    let mut input: Option<Boundary> = None;
    let beginning = Instant::now();
    // One kind's key is in memory at a time.
    for group in slices.chunk_by(|(_, a), (_, b)| matches!((a, b), (Part::Layer(_), Part::Layer(_)))) {
        let circuit = ModelCircuit::new(&published.params(group[0].1))?;
        let (keys, prover) = (OnceCell::new(), OnceCell::new());
        thread::scope(|scope| {
            let mut running = VecDeque::new();
            for &(slice, part) in group {
                let key = published.loaded.key(slice).ok_or_else(|| {
                    Failure::new(Kind::Input, format_args!("the card has no key for {part}: publish again"))
                })?;
                let (started, started_ms) = (Instant::now(), milliseconds(beginning));
                let weights = published.weights(part)?;
                let trace = engine::run(&published.params(part), &weights, part, task.pass, &x)?;
                x.zeroize();
                x = trace.stream().to_vec();
                let execute_ms = milliseconds(started);
                let maker = Boundaries { session, task, usable_rows: key.shape().usable_rows };
                let [before, after] = trace.borders(&circuit).ok_or_else(|| mixed_up(part))?;
                let entering = match input.take() {
                    Some(boundary) => boundary,
                    None => maker.make(Border::before(part, layers), before, &entering(&trace))?,
                };
                let leaving = maker.make(Border::after(part), after, &leaving(&trace))?;
                input = Some(leaving.clone());
                let boundary_ms = milliseconds(started) - execute_ms;
                let context = task.statement.context(slice);
                let borders = [entering, leaving];
                let file = folder.proof(part);
                if let Some(proof_bytes) = finished(session, &file, key, &context, &borders)? {
                    session.output.line(format!("{part}: {}, finished before", file.display()))?;
                    figures.push(SliceFigures {
                        slice,
                        part,
                        file,
                        proof_bytes,
                        reused: true,
                        started_ms,
                        prove_ms: None,
                        stages: None,
                    });
                    continue;
                }
                if running.len() >= task.jobs.max(1) {
                    figures.extend(join(running.pop_front())?);
                }
                bar.begin(first + slice as usize - task.slices.start, part.to_string())?;
                let (proving_key, slice_key) = match keys.get() {
                    Some(keys) => keys,
                    None => {
                        let loaded = session.cache.key(srs, &circuit, Some(key))?;
                        keys.get_or_init(|| loaded)
                    }
                };
                let prover: &SliceProver<'_> = match prover.get() {
                    Some(prover) => prover,
                    None => {
                        let key = slice_key.clone();
                        let loaded =
                            SliceProver::new(&circuit, proving_key, key, srs, verifier_srs, compute)?;
                        prover.get_or_init(|| loaded)
                    }
                };
                let ready = Ready {
                    slice,
                    part,
                    weights,
                    trace,
                    borders,
                    started,
                    started_ms,
                    execute_ms,
                    boundary_ms,
                };
                running.push_back(scope.spawn(move || task.prove_one(session, prover, ready, bar)));
            }
            while let Some(last) = running.pop_front() {
                figures.extend(join(Some(last))?);
            }
            Ok::<_, Failure>(())
        })?;
    }
    x.zeroize();
    figures.sort_by_key(|one| one.slice);
    Ok(figures)
}

/// What a proof that runs beside came to.
fn join(running: Option<thread::ScopedJoinHandle<'_, Result<SliceFigures>>>) -> Result<Option<SliceFigures>> {
    // A panic there is a panic here.
    running.map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).transpose()
}

fn mixed_up(part: Part) -> Failure {
    Failure::new(Kind::Input, format_args!("{part}: circuit and values are of different kinds"))
}

impl Statement {
    /// The occasion of a slice's proof.
    pub fn context(&self, slice: u32) -> Context {
        let Statement { model, request, node, tokens, .. } = *self;
        Context { request, node, model, slice, tokens }
    }
}

impl Task<'_> {
    /// Proves one slice and writes its file.
    fn prove_one(
        &self,
        session: &Session,
        prover: &SliceProver<'_>,
        ready: Ready,
        bar: &Bar,
    ) -> Result<SliceFigures> {
        let Ready { slice, part, weights, trace, borders: [entering, leaving], .. } = &ready;
        let (slice, part) = (*slice, *part);
        let (columns, blinded) = self.published.slice(prover.circuit(), slice, part, weights)?;
        let proving = Instant::now();
        let context = self.statement.context(slice);
        let envelope =
            prover.prove(context, &columns, &blinded, trace, entering, leaving, bar).context(part)?;
        let proving_ms = milliseconds(proving);
        let prove_ms = ready.execute_ms + ready.boundary_ms + proving_ms;
        let file = self.folder.proof(part);
        files::write(&file, &envelope.bytes, Access::Public, session.existing)?;
        session.output.line(format!(
            "{part}: {}, {} bytes, {:.2} s",
            file.display(),
            grouped(envelope.bytes.len()),
            prove_ms / 1e3
        ))?;
        let waited_ms = milliseconds(ready.started) - prove_ms;
        Ok(SliceFigures {
            slice,
            part,
            file,
            proof_bytes: envelope.bytes.len(),
            reused: false,
            started_ms: ready.started_ms + waited_ms,
            prove_ms: Some(prove_ms),
            stages: Some(Stages::new(ready.execute_ms, ready.boundary_ms, &envelope.timings)),
        })
    }
}

/// Verifies every slice of a bundle by itself, and says how long each took, in milliseconds.
///
/// # Errors
/// A slice is refused.
pub fn verify_each(
    published: &Published,
    srs: &VerifierSrs,
    bundle: &Bundle,
    prompt: &[u32],
    statement: &Statement,
    publication: PublicationReceipt,
) -> Result<Vec<f64>> {
    let whole = Whole::of(&published.loaded)?;
    let input = whole.input(&whole.ids(prompt, &bundle.answer, bundle.padding));
    let output = whole.output(prompt.len(), &bundle.answer, bundle.logits.as_ref());
    let open = |end: bool, values| match end {
        true => BoundaryExpectation::Open(values),
        false => BoundaryExpectation::Hidden,
    };
    let last = bundle.slices.len().saturating_sub(1);
    let verify = |(at, (slice, envelope)): (usize, (u32, &Vec<u8>))| {
        let expectation = Expectation {
            context: statement.context(slice),
            input: open(at == 0, &input),
            output: open(at == last, &output),
            publication,
        };
        let verifying = Instant::now();
        verify_slice(&expectation, &published.loaded, srs, envelope)?;
        Ok(milliseconds(verifying))
    };
    (0u32..).zip(&bundle.slices).enumerate().map(verify).collect()
}

/// What stands at the border before a part, value by value.
fn entering(trace: &PartTrace) -> Vec<i32> {
    match trace {
        PartTrace::Embedding { ids, .. } => ids.iter().map(|&id| id as i32).collect(),
        PartTrace::Block(trace) => trace.x.clone(),
        PartTrace::Head(trace) => trace.x.clone(),
    }
}

/// What stands at the border after a part, value by value.
fn leaving(trace: &PartTrace) -> Vec<i32> {
    match trace {
        PartTrace::Head(trace) => trace.tokens.iter().map(|&id| id as i32).collect(),
        trace => trace.stream().to_vec(),
    }
}

/// The size of a proof of this very statement, if it is there; another one in its place is an error.
fn finished(
    session: &Session,
    path: &Path,
    key: &SliceKey,
    context: &Context,
    [input, output]: &[Boundary; 2],
) -> Result<Option<usize>> {
    if session.existing == Existing::Replace || !path.exists() {
        return Ok(None);
    }
    let bytes = files::read(path, MAX_PROOF_BYTES)?;
    let same = Envelope::decode(&bytes, key.shape()).is_ok_and(|envelope| {
        envelope.claims.context == *context
            && envelope.claims.key == key.digest()
            && envelope.input == input.reference()
            && envelope.output == output.reference()
    });
    if same {
        return Ok(Some(bytes.len()));
    }
    Err(Failure::new(
        Kind::Files,
        format_args!(
            "{} is a proof of something else: choose another --out, or replace it with --force",
            path.display()
        ),
    ))
}

/// Makes boundaries, or finds those that the prover of the part before left.
struct Boundaries<'a> {
    session: &'a Session,
    task: &'a Task<'a>,
    usable_rows: usize,
}

impl Boundaries<'_> {
    /// `values` are what `columns` hold, without their layout.
    fn make(&self, border: Border, columns: Vec<Vec<i32>>, values: &[i32]) -> Result<Boundary> {
        let (folder, existing) = (self.task.folder, self.session.existing);
        let (srs, verifier_srs) = self.task.srs;
        if (self.task.open)(border) {
            let made = Boundary::open(verifier_srs, self.usable_rows, columns)?;
            if let Boundary::Open { values: OpenBoundary { columns }, .. } = &made {
                let file = OpenBoundaryFile { boundary: border.to_string(), columns: columns.clone() };
                let (path, bytes) = (folder.open_boundary(border), serde_json::to_vec(&file)?);
                let there = path.exists() && existing == Existing::Keep;
                if !there || files::read(&path, 1 << 30)? != bytes {
                    files::write(&path, &bytes, Access::Public, existing)?;
                }
            }
            return Ok(made);
        }
        let (tails, activations) = (folder.tails(border), folder.activations(border));
        let mut bytes = self.encode(values);
        let kept = if existing == Existing::Keep && tails.exists() && activations.exists() {
            let mut there = files::read(&activations, 1 << 30)?;
            let same = there == bytes;
            there.zeroize();
            if !same {
                bytes.zeroize();
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
                let made = Boundary::hide(srs, self.usable_rows, columns)?;
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
        bytes.extend(self.task.statement.request.0.0);
        bytes.extend(Hasher::new("activations").bytes(&body).digest().0);
        bytes.extend(&body);
        body.zeroize();
        bytes
    }
}
