//! `lamina verify`: check proofs against a card.

use std::{collections::BTreeMap, path::Path, time::Instant};

use lamina_circuits::{model::ModelCircuit, slice::SliceCircuit};
use lamina_model::error::TokenizerError;
use lamina_prover::publish::BlindedColumns;
use lamina_verifier::{
    boundary::{BoundaryKind, OpenBoundary},
    bundle::{self, Bundle, BundleExpectation, Prompt, PromptExpectation, Whole, verify_bundle},
    card::InsecureSrs,
    context::Context,
    envelope::Envelope,
    hash::{ModelId, NodeId},
    srs::VerifierSrs,
    verify::{
        BoundaryExpectation, ChainError, ChainExpectation, Expectation, PublicationReceipt, SliceError,
        Verdict, verify_chain, verify_publication, verify_slice,
    },
};
use serde_json::json;

use crate::{
    Session,
    cli::VerifyArgs,
    engine::{self, CardFile, LoadedCard, milliseconds},
    failure::{Classify, Failure, Kind, Result},
    files, ids,
    progress::Bar,
    proving::OpenBoundaryFile,
    publication::{self, Folder, MAX_BUNDLE_BYTES, MAX_PROOF_BYTES, text_of},
};

/// An envelope with what it says of itself.
struct Presented<'a> {
    path: &'a Path,
    bytes: Vec<u8>,
    claimed: Context,
    input: BoundaryKind,
    output: BoundaryKind,
}

/// Runs the command.
///
/// # Errors
/// [`Kind::Rejected`] names the check that failed and where.
pub fn run(session: &Session, arguments: &VerifyArgs) -> Result<()> {
    let insecure = if arguments.allow_insecure_srs { InsecureSrs::Accept } else { InsecureSrs::Refuse };
    let (card, loaded) = publication::read_card(&arguments.card, insecure).map_err(explain_insecure)?;
    let model = loaded.model();
    if let Some(expected) = &arguments.model {
        let expected = ids::model(expected)?;
        if expected != model {
            return Err(Failure::new(
                Kind::Rejected,
                format_args!("card: model {model}, expected {expected}"),
            ));
        }
    }
    if arguments.check_key {
        check_key(session, &card, &loaded)?;
    }

    if let [path] = &arguments.files[..]
        && files::read(path, MAX_BUNDLE_BYTES)?.starts_with(bundle::MAGIC)
    {
        return run_bundle(session, arguments, &loaded, path);
    }
    if arguments.prompt.is_some() || arguments.ids.is_some() {
        return Err(Failure::new(Kind::Usage, "a prompt is of use with a bundle only"));
    }
    let mut presented = vec![];
    for path in &arguments.files {
        presented.push(present(path, &loaded)?);
    }
    presented.sort_by_key(|one| one.claimed.slice);
    let open = presented.iter().any(|one| [one.input, one.output].contains(&BoundaryKind::Open));
    let folder = Folder::of_card(&arguments.card);
    let srs = reference_string(arguments, &folder, open)?;
    let receipt = receipt(arguments, &folder, &loaded, &srs)?;

    let first = read_boundary(arguments.input.as_deref())?;
    let last = read_boundary(arguments.output.as_deref())?;
    let started = Instant::now();
    let verdicts = check(arguments, &loaded, &srs, receipt, &presented, first.as_ref(), last.as_ref())?;
    let verify_ms = milliseconds(started);
    report(session, arguments, &loaded, &presented, &verdicts, verify_ms)
}

fn reference_string(arguments: &VerifyArgs, folder: &Folder, whole: bool) -> Result<VerifierSrs> {
    match &arguments.srs {
        Some(path) => publication::read_srs(path),
        None => publication::read_srs(&folder.srs(whole))
            .context("the verifier's reference string, published beside the card; see --srs"),
    }
}

/// Verifies a bundle and prints what it proves.
fn run_bundle(session: &Session, arguments: &VerifyArgs, card: &LoadedCard, path: &Path) -> Result<()> {
    for (given, name) in [
        (arguments.tokens.is_some(), "--tokens"),
        (arguments.input.is_some(), "--input"),
        (arguments.output.is_some(), "--output"),
    ] {
        if given {
            return Err(Failure::new(
                Kind::Usage,
                format_args!("{name} is of no use with a bundle: it holds its tokens; see --prompt"),
            ));
        }
    }
    let whole = Whole::of(card)?;
    let bundle = Bundle::decode(&files::read(path, MAX_BUNDLE_BYTES)?).context(path.display())?;
    let folder = Folder::of_card(&arguments.card);
    let srs = reference_string(arguments, &folder, true)?;
    let receipt = receipt(arguments, &folder, card, &srs)?;
    let tokenizer = publication::read_tokenizer(&folder, card, whole.vocab())?;
    let prompt = match (&arguments.prompt, &arguments.ids) {
        (Some(text), _) => Some(tokenizer.as_ref().ok_or(TokenizerError::Absent)?.encode_whole(text)?),
        (None, ids) => ids.clone(),
    };
    if arguments.opening.is_some() && prompt.is_none() {
        return Err(Failure::new(Kind::Usage, "--opening opens a prompt: give it with --prompt or --ids"));
    }
    let opening = match &arguments.opening {
        Some(path) => Some(BlindedColumns::load(path).context(path.display())?),
        None => None,
    };
    let expected = match (&prompt, &opening) {
        (Some(ids), Some(opening)) => PromptExpectation::Opening { ids, tails: opening.tails() },
        (Some(ids), None) => PromptExpectation::Ids(ids),
        (None, _) => PromptExpectation::Claimed,
    };
    let mut nodes = vec![];
    for envelope in &bundle.slices {
        let claimed = lamina_verifier::envelope::Claims::peek(envelope).context(path.display())?.context.node;
        nodes.push(arguments.node.as_deref().map_or(claimed, ids::node));
    }
    // A bundle with too few or too many slices is refused for that, not for its nodes.
    nodes.resize(card.slice_count(), arguments.node.as_deref().map_or(NodeId::default(), ids::node));
    let expectation = BundleExpectation {
        request: arguments.request.as_deref().map_or(bundle.request, ids::request),
        model: card.model(),
        prompt: expected,
        nodes: &nodes,
        publication: receipt,
    };
    let started = Instant::now();
    let verdicts = verify_bundle(&expectation, card, &srs, &bundle).context(path.display())?;
    let verify_ms = milliseconds(started);

    let output = &session.output;
    let text = |ids: &[u32]| text_of(tokenizer.as_ref(), ids);
    let (shown, source) = match (&bundle.prompt, &prompt) {
        (_, Some(ids)) => (text(ids)?, "as expected"),
        (Prompt::Open(ids), None) => (text(ids)?, "the bundle's: compare it with what you asked"),
        (Prompt::Hidden(_), None) => (
            "hidden".into(),
            "HIDDEN: without its opening nobody can tell what the answer answers; see --opening",
        ),
    };
    let answer = text(&bundle.answer)?;
    let given = |given: bool| if given { "as expected" } else { "as claimed by the bundle" };
    output.line(format!("prompt    {shown} ({source})"))?;
    output.line(format!("answer    {answer}"))?;
    output.line(format!("model     {} ({})", card.model(), source_of_model(arguments.model.is_some())))?;
    output.line(format!("request   {} ({})", bundle.request, given(arguments.request.is_some())))?;
    let distinct: std::collections::BTreeSet<_> = nodes.iter().map(ToString::to_string).collect();
    for node in &distinct {
        output.line(format!("node      {node} ({})", given(arguments.node.is_some())))?;
    }
    let verified = verdicts.iter().all(|verdict| verdict.publication_verified);
    output.line(format!(
        "weights   {}",
        if verified { "in range, proved" } else { "in range on the publisher's word only" }
    ))?;
    let insecure = verdicts.iter().any(|verdict| verdict.insecure_srs);
    if insecure {
        output.line("srs       INSECURE development string: this bundle proves nothing to anyone else")?;
    }
    output.line(format!(
        "verified  {} tokens, the greedy continuation; all {} slices, {verify_ms:.1} ms",
        bundle.answer.len(),
        verdicts.len()
    ))?;
    output.value(&json!({
        "verified": true,
        "bundle": path,
        "model": card.model(),
        "request": bundle.request,
        "prompt": match &bundle.prompt { Prompt::Open(ids) => json!(ids), Prompt::Hidden(_) => json!("hidden") },
        "prompt_tokens": bundle.prompt.tokens(),
        "prompt_opened": opening.is_some(),
        "answer": bundle.answer,
        "answer_text": answer,
        "nodes": distinct,
        "expected": {
            "model": arguments.model.is_some(),
            "request": arguments.request.is_some(),
            "node": arguments.node.is_some(),
            "prompt": prompt.is_some(),
        },
        "slices": verdicts.len(),
        "publication_verified": verified,
        "insecure_srs": insecure,
        "key_checked": arguments.check_key,
        "verify_ms": verify_ms,
    }))
}

fn explain_insecure(failure: Failure) -> Failure {
    let refused = failure
        .error
        .chain()
        .any(|cause| matches!(cause.downcast_ref(), Some(lamina_verifier::card::CardError::InsecureSrs)));
    if !refused {
        return failure;
    }
    Failure {
        error: failure.error.context(
            "refused: anybody may be able to forge proofs under this card; for tests, --allow-insecure-srs",
        ),
        ..failure
    }
}

fn present<'a>(path: &'a Path, card: &LoadedCard) -> Result<Presented<'a>> {
    let bytes = files::read(path, MAX_PROOF_BYTES)?;
    let claims = lamina_verifier::envelope::Claims::peek(&bytes).context(path.display())?;
    // A slice that is not there is reported by the verification itself.
    let key = card.key(claims.context.slice).or(card.key(0));
    let kinds = key
        .map(|key| Envelope::decode(&bytes, key.shape()))
        .transpose()
        .context(format_args!("{}: envelope", path.display()))?
        .map_or((BoundaryKind::Hidden, BoundaryKind::Hidden), |envelope| {
            (envelope.input.kind, envelope.output.kind)
        });
    Ok(Presented { path, bytes, claimed: claims.context, input: kinds.0, output: kinds.1 })
}

/// Checks the range proofs beside the card, or takes the publisher's word when told to.
fn receipt(
    arguments: &VerifyArgs,
    folder: &Folder,
    card: &LoadedCard,
    srs: &VerifierSrs,
) -> Result<PublicationReceipt> {
    let model: ModelId = card.model();
    let paths: Vec<_> = (0..card.slice_count()).map(|slice| folder.range(slice)).collect();
    if paths.iter().any(|path| !path.exists()) {
        if arguments.trust_publisher {
            return Ok(PublicationReceipt::trusting_publisher(model));
        }
        return Err(Failure::new(
            Kind::Files,
            "the range proofs are not beside the card (`ranges/`): get them from the publisher, or believe \
             without proof that the weights are in range with --trust-publisher",
        ));
    }
    let proofs = paths.iter().map(|path| files::read(path, MAX_PROOF_BYTES)).collect::<Result<Vec<_>>>()?;
    let proofs: Vec<&[u8]> = proofs.iter().map(Vec::as_slice).collect();
    verify_publication(model, card, srs, &proofs).context("publication")
}

fn check_key(session: &Session, card: &CardFile, loaded: &LoadedCard) -> Result<()> {
    let bar = Bar::new(&session.output, "key", 1);
    bar.begin(0, "computing the verifying keys")?;
    for (kind, entry) in card.kinds.iter().enumerate() {
        let circuit = ModelCircuit::new(&entry.slice.params)?;
        let srs = session.cache.srs(loaded.srs().id, ModelCircuit::log_n(&entry.slice.params))?;
        let params = srs.params();
        let slice = lamina_prover::ProvingKey::generate(&params, &circuit)?;
        let range = engine::range_circuit(&circuit);
        let range = lamina_prover::ProvingKey::generate(&params, &range)?;
        for (part, key, expected) in
            [("slice", slice, entry.slice.key_digest), ("range", range, entry.range.key_digest)]
        {
            let bytes = lamina_verifier::key::write_key(key.vk());
            let actual = lamina_verifier::key::key_digest(&bytes);
            if actual != expected {
                return Err(Failure::new(
                    Kind::Rejected,
                    format_args!(
                        "card: the {part} key of kind {kind} is {expected}, its parameters determine {actual}"
                    ),
                ));
            }
        }
    }
    Ok(())
}

fn read_boundary(path: Option<&Path>) -> Result<Option<OpenBoundary>> {
    let Some(path) = path else { return Ok(None) };
    let file: OpenBoundaryFile =
        serde_json::from_slice(&files::read(path, 1 << 30)?).context(path.display())?;
    Ok(Some(OpenBoundary { columns: file.columns }))
}

/// What a slice's boundary must be, given what the caller knows of it.
fn boundary<'a>(
    kind: BoundaryKind,
    known: Option<&'a OpenBoundary>,
    side: &'static str,
    path: &Path,
) -> Result<BoundaryExpectation<'a>> {
    match (kind, known) {
        (_, Some(values)) => Ok(BoundaryExpectation::Open(values)),
        (BoundaryKind::Hidden, None) => Ok(BoundaryExpectation::Hidden),
        (BoundaryKind::Open, None) => Err(Failure::new(
            Kind::Usage,
            format_args!(
                "{}: its {side} is open: give the activations that you expect with --{side} FILE",
                path.display()
            ),
        )),
    }
}

fn check(
    arguments: &VerifyArgs,
    card: &LoadedCard,
    srs: &VerifierSrs,
    publication: PublicationReceipt,
    presented: &[Presented<'_>],
    first: Option<&OpenBoundary>,
    last: Option<&OpenBoundary>,
) -> Result<Vec<Verdict>> {
    // `clap` asks for at least one envelope.
    let claimed = presented[0].claimed;
    let request = arguments.request.as_deref().map_or(claimed.request, ids::request);
    let tokens = arguments.tokens.unwrap_or(claimed.tokens);
    let node = |one: &Presented<'_>| arguments.node.as_deref().map_or(one.claimed.node, ids::node);
    let mut borders = vec![];
    for (at, one) in presented.iter().enumerate() {
        let known_in = if at == 0 { first } else { None };
        let known_out = if at + 1 == presented.len() { last } else { None };
        borders.push((
            boundary(one.input, known_in, "input", one.path)?,
            boundary(one.output, known_out, "output", one.path)?,
        ));
    }

    let whole = presented.len() == card.slice_count()
        && presented.iter().zip(0u32..).all(|(one, slice)| one.claimed.slice == slice);
    let envelopes: Vec<&[u8]> = presented.iter().map(|one| one.bytes.as_slice()).collect();
    if whole {
        let nodes: Vec<_> = presented.iter().map(node).collect();
        let mut boundaries = vec![borders[0].0];
        boundaries.extend(borders.iter().map(|(_, output)| *output));
        let expectation = ChainExpectation {
            request,
            model: card.model(),
            tokens,
            nodes: &nodes,
            boundaries: &boundaries,
            publication,
        };
        return verify_chain(&expectation, card, srs, &envelopes).map_err(|error| {
            let at = match &error {
                ChainError::Slice(SliceError { slice, .. }) | ChainError::Boundary { slice } => {
                    usize::try_from(*slice).ok()
                }
                ChainError::Unreadable { position, .. }
                | ChainError::Foreign { position, .. }
                | ChainError::Extra { position, .. }
                | ChainError::Reordered { position, .. } => Some(*position),
                _ => None,
            }
            .and_then(|at| presented.get(at));
            let failure = Failure::from(error);
            match at {
                Some(one) => {
                    Failure { error: failure.error.context(one.path.display().to_string()), ..failure }
                }
                None => failure,
            }
        });
    }

    let mut verdicts: Vec<Verdict> = vec![];
    let mut seen = BTreeMap::new();
    for (one, (input, output)) in presented.iter().zip(borders) {
        let slice = one.claimed.slice;
        if let Some(before) = seen.insert(slice, one.path) {
            return Err(Failure::new(
                Kind::Rejected,
                format_args!(
                    "slice {slice} is proved twice: {} and {}",
                    before.display(),
                    one.path.display()
                ),
            ));
        }
        let expectation = Expectation {
            context: Context { request, node: node(one), model: card.model(), slice, tokens },
            input,
            output,
            publication,
        };
        let verdict = verify_slice(&expectation, card, srs, &one.bytes).context(one.path.display())?;
        if let Some(before) = verdicts.last()
            && before.context.slice + 1 == slice
            && before.output != verdict.input
        {
            return Err(Failure::new(
                Kind::Rejected,
                format_args!(
                    "{}: slice {slice} does not begin where the one before it ends",
                    one.path.display()
                ),
            ));
        }
        verdicts.push(verdict);
    }
    Ok(verdicts)
}

fn report(
    session: &Session,
    arguments: &VerifyArgs,
    card: &LoadedCard,
    presented: &[Presented<'_>],
    verdicts: &[Verdict],
    verify_ms: f64,
) -> Result<()> {
    let output = &session.output;
    let kind = |kind: BoundaryKind| if kind == BoundaryKind::Open { "open" } else { "hidden" };
    for (one, verdict) in presented.iter().zip(verdicts) {
        output.line(format!(
            "holds     slice {}: {} (input {}, output {})",
            verdict.context.slice,
            one.path.display(),
            kind(one.input),
            kind(one.output)
        ))?;
    }
    let claimed = presented[0].claimed;
    let source = |given: bool| if given { "as expected" } else { "as claimed by the proofs" };
    let chain = verdicts.len() == card.slice_count();
    output.line(format!("model     {} ({})", card.model(), source_of_model(arguments.model.is_some())))?;
    output.line(format!("request   {} ({})", claimed.request, source(arguments.request.is_some())))?;
    output.line(format!("node      {} ({})", claimed.node, source(arguments.node.is_some())))?;
    output.line(format!("tokens    {} ({})", claimed.tokens, source(arguments.tokens.is_some())))?;
    let verified = verdicts.iter().all(|verdict| verdict.publication_verified);
    output.line(format!(
        "weights   {}",
        if verified { "in range, proved" } else { "in range on the publisher's word only" }
    ))?;
    let insecure = verdicts.iter().any(|verdict| verdict.insecure_srs);
    if insecure {
        output.line("srs       INSECURE development string: these proofs prove nothing to anyone else")?;
    }
    output.line(format!(
        "verified  {} of {} slices{}, {verify_ms:.1} ms",
        verdicts.len(),
        card.slice_count(),
        if chain { ", a whole chain" } else { "" }
    ))?;
    output.value(&json!({
        "verified": true,
        "chain": chain,
        "model": card.model(),
        "slices": presented.iter().zip(verdicts).map(|(one, verdict)| json!({
            "slice": verdict.context.slice,
            "file": one.path,
            "input": kind(one.input),
            "output": kind(one.output),
            "node": verdict.context.node,
            "header": verdict.header.0,
        })).collect::<Vec<_>>(),
        "request": claimed.request,
        "tokens": claimed.tokens,
        "expected": {
            "model": arguments.model.is_some(),
            "request": arguments.request.is_some(),
            "node": arguments.node.is_some(),
            "tokens": arguments.tokens.is_some(),
        },
        "publication_verified": verified,
        "insecure_srs": insecure,
        "key_checked": arguments.check_key,
        "verify_ms": verify_ms,
    }))
}

fn source_of_model(given: bool) -> &'static str {
    if given { "as expected" } else { "the card's: compare it with one that you trust" }
}
