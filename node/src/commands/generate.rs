//! `lamina generate`: continue a prompt, and prove the answer as a bundle.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use lamina_circuits::model::Part;
use lamina_verifier::{
    bundle::{Bundle, Choice, Prompt, Whole},
    logits::{Logits, Sampling},
};
use serde_json::json;
use zeroize::Zeroize;

use crate::{
    Session,
    cli::{GenerateArgs, LayerRange, SamplingArgs},
    decode::{self, Decoded},
    failure::{Failure, Kind, Result},
    files::{self, Access, Existing},
    ids,
    output::grouped,
    progress::Bar,
    proving::{self, Answer, Border, Folder, SliceFigures, Statement, Task},
    publication::{MAX_PROOF_BYTES, Published, text_of},
    source::{self, Choices},
};

/// Runs the command.
///
/// # Errors
/// The prompt does not fit, a value leaves its range, files are in the way, or the user stopped it.
pub fn run(session: &Session, arguments: &GenerateArgs) -> Result<()> {
    if !arguments.prove {
        return continue_text(session, arguments);
    }
    let published = published(arguments)?;
    if let Some(path) = &arguments.model {
        published.check_model(path)?;
    }
    let whole = Whole::of(&published.loaded)?;
    let parts = published.slices().parts();
    let out = arguments
        .out
        .as_deref()
        .ok_or_else(|| Failure::new(Kind::Usage, "--prove needs --out BUNDLE: where the bundle goes"))?;
    let slices = match arguments.slices {
        None => 0..parts.len(),
        Some(range) => range.of(parts.len()).ok_or_else(|| {
            Failure::new(
                Kind::Input,
                format_args!("--slices {range}: the model has slices 0..{}", parts.len()),
            )
        })?,
    };
    let all = arguments.slices.is_none();
    let folder = Folder::new(&parts_folder(out));
    if all {
        files::check_free(out, session.existing)?;
        // One that a killed run left belongs to the parts that it left.
        if arguments.hide_prompt && !folder.tails(Border::Ids).exists() {
            files::check_free(&opening_file(out), session.existing)?;
        }
    }
    let jobs = jobs(session, &published, arguments.memory)?;
    let tokenizer = published.tokenizer()?;
    let choice = arguments.sampling.choice()?.unwrap_or(Choice::Greedy);
    let most = most_tokens(arguments.max_tokens, &whole)?;
    let prompt = source::prompt_ids(tokenizer.as_ref(), &arguments.prompt, whole.tokens() + 1 - most)?;

    folder.create()?;
    files::sweep(files::folder_of(out));
    let bar = Bar::new(&session.output, "generating", slices.len() + 2);
    bar.begin(0, "reference string")?;
    let srs = published.srs(session)?;
    let verifier_srs = srs.verifier_srs(true)?;
    let Decoded { answer, pass, streams, .. } =
        decode::decode(&published.model()?, &whole, &prompt, most, choice, &bar)?;

    let request = folder.request(arguments.request.as_deref(), session.existing)?;
    let statement = Statement {
        model: published.loaded.model(),
        request,
        node: ids::node(&arguments.node),
        tokens: (prompt.len() + answer.len() - 1) as u32,
        answer: Some(Answer {
            prompt: (!arguments.hide_prompt).then(|| prompt.clone()),
            prompt_tokens: prompt.len() as u32,
            padding: published.padding(),
            tokens: answer.clone(),
        }),
    };
    folder.agree(&statement, session.existing)?;
    if let Some(from) = &arguments.receive {
        let first = parts.get(slices.start).copied().unwrap_or(Part::Embedding);
        folder.receive(from, Border::before(first, published.slices().layers().end))?;
    }
    let open = |border| match border {
        Border::Ids => !arguments.hide_prompt,
        Border::Tokens => true,
        Border::Stream(_) => false,
    };
    let task = Task {
        published: &published,
        srs: (&srs, &verifier_srs),
        folder: &folder,
        statement: &statement,
        pass: &pass,
        slices: slices.clone(),
        open: &open,
        jobs,
    };
    // The stream that enters slice `i` leaves slice `i - 1`.
    let x = slices.start.checked_sub(1).and_then(|before| streams.get(before).cloned()).unwrap_or_default();
    let figures = proving::prove(session, &task, x, &bar, 2)?;
    drop(bar);

    let text = text_of(tokenizer.as_ref(), &answer)?;
    session.output.line(format!("prompt    {}", text_of(tokenizer.as_ref(), &prompt)?))?;
    session.output.line(format!("answer    {text}"))?;
    session.output.line(format!("request   {request}"))?;
    let bundle = if all {
        if arguments.hide_prompt {
            keep_opening(&folder, out, session.existing)?;
        }
        let logits = folder.logits(&whole, answer.len())?;
        Some(assemble(session, &statement, &figures, logits, out)?)
    } else {
        None
    };
    match &bundle {
        Some(bytes) => {
            session.output.line(format!("bundle    {}, {} bytes", out.display(), grouped(*bytes)))?
        }
        None => session.output.line(format!(
            "parts     slices {}..{} of {} in {}; `lamina join` makes the bundle",
            slices.start,
            slices.end,
            parts.len(),
            folder.root().display()
        ))?,
    }
    session.output.value(&json!({
        "statement": statement,
        "answer_text": text,
        "slices": figures,
        "bundle": bundle.map(|_| out),
        "bundle_bytes": bundle,
        "parts": bundle.is_none().then(|| folder.root()),
        "insecure_srs": published.card.srs.insecure,
        "backend": session.compute()?.to_string(),
    }))?;
    if bundle.is_some() {
        // The opening is the client's by now: the rest of the secrets has served.
        folder.remove()?;
    }
    Ok(())
}

/// Where the parts of a bundle stand until it is whole.
fn parts_folder(bundle: &Path) -> PathBuf {
    beside(bundle, ".parts")
}

/// The opening of a bundle's hidden prompt.
fn opening_file(bundle: &Path) -> PathBuf {
    beside(bundle, ".opening")
}

/// What proving a bundle took: `lamina inspect --html` draws it.
pub fn figures_file(bundle: &Path) -> PathBuf {
    beside(bundle, ".figures.json")
}

fn beside(bundle: &Path, suffix: &str) -> PathBuf {
    let mut name = bundle.file_name().unwrap_or_default().to_os_string();
    name.push(suffix);
    bundle.with_file_name(name)
}

/// Writes the opening of a hidden prompt before its bundle, so that no bundle is without; one that a killed run wrote
/// stays.
fn keep_opening(folder: &Folder, bundle: &Path, existing: Existing) -> Result<()> {
    let mut bytes = files::read(&folder.tails(Border::Ids), 1 << 30)?;
    let path = opening_file(bundle);
    let mut there = if path.exists() { files::read(&path, 1 << 30)? } else { vec![] };
    let written = if there == bytes { Ok(()) } else { files::write(&path, &bytes, Access::Secret, existing) };
    bytes.zeroize();
    there.zeroize();
    written
}

impl SamplingArgs {
    /// How tokens are chosen, if the command line says it.
    ///
    /// # Errors
    /// A parameter is out of its range.
    pub fn choice(&self) -> Result<Option<Choice>> {
        let Some(seed) = &self.sample else { return Ok(None) };
        let sampling = Sampling::new(seed.as_bytes(), self.temperature, self.top_k, self.top_p);
        Ok(Some(Choice::Sampled(sampling?)))
    }
}

/// The publication: the one that is named, or `NAME.lamina` here.
fn published(arguments: &GenerateArgs) -> Result<Published> {
    if let Some(path) = &arguments.published {
        return Published::load(path);
    }
    let Some(model) = &arguments.model else {
        return Err(Failure::new(Kind::Usage, "say which model with --published DIR or --model FILE"));
    };
    let folder = source::publication_folder(model);
    if !folder.exists() {
        return Err(Failure::new(
            Kind::Files,
            format_args!(
                "proofs need a published model, and there is no {}: run `lamina publish --model {}`, or name a \
                 publication with --published",
                folder.display(),
                model.display()
            ),
        ));
    }
    Published::load(&folder)
}

/// How many slices are proved at a time: as many as fit the memory that was allowed, at most one a core.
fn jobs(session: &Session, published: &Published, memory: Option<f64>) -> Result<usize> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let Some(gigabytes) = memory else { return Ok(session.compute()?.at_a_time()) };
    let needed = published.expected_bytes()? as f64 / 1e9;
    if gigabytes < needed {
        return Err(Failure::new(
            Kind::Input,
            format_args!(
                "--memory {gigabytes}: proving one slice of this model takes about {needed:.1} GB; `lamina plan` shows \
                 which"
            ),
        ));
    }
    Ok(cores.min((gigabytes / needed) as usize))
}

fn most_tokens(asked: Option<usize>, whole: &Whole) -> Result<usize> {
    let limit = whole.positions();
    match asked {
        Some(asked) if asked > limit => Err(Failure::new(
            Kind::Input,
            format_args!(
                "--max-tokens {asked}: the published head proves {limit} tokens; publish with --answer {asked}"
            ),
        )),
        Some(asked) => Ok(asked),
        None => Ok(limit),
    }
}

/// Writes the bundle of finished slices.
fn assemble(
    session: &Session,
    statement: &Statement,
    figures: &[SliceFigures],
    logits: Option<Logits>,
    out: &Path,
) -> Result<usize> {
    let proofs = figures.iter().map(|slice| files::read(&slice.file, MAX_PROOF_BYTES));
    let bytes = bundle(statement, proofs.collect::<Result<_>>()?, logits)?.encode();
    // Times are no secret, and of no consequence: those of an earlier bundle of this name go.
    let figures = serde_json::to_vec_pretty(&json!({ "slices": figures }))?;
    files::write(&figures_file(out), &figures, Access::Public, Existing::Replace)?;
    files::write(out, &bytes, Access::Public, session.existing)?;
    Ok(bytes.len())
}

/// A bundle out of a statement, the proofs of all slices, and the logits where they are open.
///
/// # Errors
/// The statement is of no answer.
pub fn bundle(statement: &Statement, slices: Vec<Vec<u8>>, logits: Option<Logits>) -> Result<Bundle> {
    let answer = statement.answer.as_ref().ok_or_else(|| {
        Failure::new(
            Kind::Input,
            "these are proofs of blocks, not of an answer: `lamina verify` takes them as they are",
        )
    })?;
    Ok(Bundle {
        model: statement.model,
        request: statement.request,
        prompt: match &answer.prompt {
            Some(ids) => Prompt::Open(ids.clone()),
            None => Prompt::Hidden(answer.prompt_tokens),
        },
        padding: answer.padding,
        answer: answer.tokens.clone(),
        logits,
        slices,
    })
}

/// Continues a prompt in integers, and proves nothing.
fn continue_text(session: &Session, arguments: &GenerateArgs) -> Result<()> {
    for (given, name) in [
        (arguments.out.is_some(), "--out"),
        (arguments.slices.is_some(), "--slices"),
        (arguments.receive.is_some(), "--receive"),
        (arguments.hide_prompt, "--hide-prompt"),
        (arguments.memory.is_some(), "--memory"),
    ] {
        if given {
            return Err(Failure::new(Kind::Usage, format_args!("{name} is of use with --prove only")));
        }
    }
    let output = &session.output;
    let choice = arguments.sampling.choice()?.unwrap_or(Choice::Greedy);
    let (model, whole, most);
    match (&arguments.published, &arguments.model) {
        (Some(path), _) => {
            let published = Published::load(path)?;
            whole = Whole::of(&published.loaded)?;
            most = most_tokens(arguments.max_tokens, &whole)?;
            model = published.model()?;
        }
        (None, Some(path)) => {
            let float = source::load(Some(path))?;
            let asked = arguments.max_tokens.unwrap_or(lamina_model::Options::DEFAULT_POSITIONS);
            let prompt =
                source::prompt_ids(float.tokenizer.as_ref(), &arguments.prompt, float.config.context)?;
            let choices = Choices {
                answer: asked,
                open_logits: matches!(choice, Choice::Sampled(_)),
                ..Choices::new((prompt.len() + asked - 1).max(1))
            };
            drop(float);
            model = source::prepare(output, Some(path), &choices)?.model();
            whole = Whole::new(&model.params.embedding, &model.params.head)?;
            most = asked;
        }
        (None, None) => {
            return Err(Failure::new(Kind::Usage, "say which model with --published DIR or --model FILE"));
        }
    }
    let tokenizer = model.tokenizer.as_ref();
    let prompt = source::prompt_ids(tokenizer, &arguments.prompt, whole.tokens() + 1 - most)?;
    let bar = Bar::new(output, "generating", 1);
    let decoded = decode::decode(&model, &whole, &prompt, most, choice, &bar)?;
    drop(bar);
    let text = text_of(tokenizer, &decoded.answer)?;
    output.line(format!("prompt    {}", text_of(tokenizer, &prompt)?))?;
    output.line(format!("answer    {text}"))?;
    output.value(&json!({
        "prompt": prompt,
        "answer": decoded.answer,
        "answer_text": text,
        "proved": false,
    }))
}

/// `lamina join`: a bundle out of parts.
pub mod join {
    use lamina_verifier::envelope::Envelope;

    use super::{
        Access, BTreeMap, Failure, Folder, Kind, LayerRange, PathBuf, Result, Session, Whole, bundle, files,
        grouped, json,
    };
    use crate::{cli::JoinArgs, failure::Classify, proving::Statement, publication};

    /// Runs the command.
    ///
    /// # Errors
    /// Parts of different answers, a slice that is missing or proved differently twice, or neighbours whose
    /// boundaries differ: which part, and why.
    pub fn run(session: &Session, arguments: &JoinArgs) -> Result<()> {
        files::check_free(&arguments.out, session.existing)?;
        files::sweep(files::folder_of(&arguments.out));
        let (_, card) = publication::read_card(&arguments.card, lamina_verifier::card::InsecureSrs::Accept)?;
        let parts = publication::parts_of(&card)?;
        let mut first: Option<(PathBuf, Statement)> = None;
        let mut found: BTreeMap<u32, (PathBuf, Vec<u8>)> = BTreeMap::new();
        for root in &arguments.parts {
            let folder = Folder::new(root);
            let statement = folder.read_statement()?.ok_or_else(|| {
                Failure::new(
                    Kind::Files,
                    format_args!("{} holds no parts: it has no statement.json", root.display()),
                )
            })?;
            if let Some((before, agreed)) = &first {
                let what = differing(agreed, &statement);
                if let Some(what) = what {
                    return Err(Failure::new(
                        Kind::Input,
                        format_args!("{} has another {what} than {}", root.display(), before.display()),
                    ));
                }
            } else {
                if statement.model != card.model() {
                    return Err(Failure::new(
                        Kind::Input,
                        format_args!(
                            "{} is of another model than {}",
                            root.display(),
                            arguments.card.display()
                        ),
                    ));
                }
                first = Some((root.clone(), statement));
            }
            for (slice, &part) in (0u32..).zip(&parts) {
                let path = folder.proof(part);
                if !path.exists() {
                    continue;
                }
                let bytes = files::read(&path, publication::MAX_PROOF_BYTES)?;
                if let Some((other, there)) = found.get(&slice)
                    && *there != bytes
                {
                    return Err(Failure::new(
                        Kind::Input,
                        format_args!("{part} is proved twice: {} and {}", other.display(), path.display()),
                    ));
                }
                found.insert(slice, (path, bytes));
            }
        }
        let missing: Vec<u32> = (0..parts.len() as u32).filter(|slice| !found.contains_key(slice)).collect();
        if let (Some(&from), Some(&to)) = (missing.first(), missing.last()) {
            return Err(Failure::new(
                Kind::Input,
                format_args!(
                    "{} of {} slices are missing, {} to {}: prove them with `lamina generate --slices {}`",
                    missing.len(),
                    parts.len(),
                    parts[from as usize],
                    parts[to as usize],
                    LayerRange::from(from as usize..to as usize + 1)
                ),
            ));
        }
        let mut before: Option<(&PathBuf, Envelope)> = None;
        for (slice, (path, bytes)) in &found {
            let key =
                card.key(*slice).ok_or_else(|| Failure::new(Kind::Input, "the card has too few slices"))?;
            let envelope = Envelope::decode(bytes, key.shape()).kind(Kind::Input).context(path.display())?;
            if let Some((other, before)) = &before
                && before.output != envelope.input
            {
                return Err(Failure::new(
                    Kind::Input,
                    format_args!(
                        "{} does not begin at the boundary where {} ends: prove it again with --receive and the \
                         other part's folder",
                        path.display(),
                        other.display()
                    ),
                ));
            }
            before = Some((path, envelope));
        }
        let (_, statement) = first.ok_or_else(|| Failure::new(Kind::Usage, "no parts were given"))?;
        let head = found.last_key_value().and_then(|(_, (path, _))| path.parent()).map(Folder::new);
        let logits = match (&head, &statement.answer) {
            (Some(folder), Some(answer)) => folder.logits(&Whole::of(&card)?, answer.tokens.len())?,
            _ => None,
        };
        let proofs = found.into_values().map(|(_, bytes)| bytes).collect();
        let bytes = bundle(&statement, proofs, logits)?.encode();
        files::write(&arguments.out, &bytes, Access::Public, session.existing)?;
        session.output.line(format!(
            "bundle    {}, {} slices, {} bytes",
            arguments.out.display(),
            parts.len(),
            grouped(bytes.len())
        ))?;
        session.output.value(&json!({
            "bundle": arguments.out,
            "bundle_bytes": bytes.len(),
            "slices": parts.len(),
            "statement": statement,
        }))
    }

    /// What two parts' statements disagree about; their nodes may differ.
    fn differing(a: &Statement, b: &Statement) -> Option<&'static str> {
        if a.model != b.model {
            Some("model")
        } else if a.request != b.request {
            Some("request")
        } else if a.answer != b.answer || a.tokens != b.tokens {
            Some("prompt or answer")
        } else {
            None
        }
    }
}
