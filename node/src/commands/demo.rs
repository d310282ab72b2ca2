//! `lamina demo`: publish, generate, prove, verify, tamper, on a bundled model.

use std::{sync::Arc, time::Instant};

use lamina_circuits::model::Part;
use lamina_model::forward::arg_max;
use lamina_prover::{Progress, publish::BlindedColumns, srs::Srs};
use lamina_verifier::{
    bundle::{Bundle, BundleExpectation, Choice, PromptExpectation, Whole, verify_bundle},
    context::Context,
    envelope::Envelope,
    srs::VerifierSrs,
    verify::{BoundaryExpectation, Expectation, PublicationReceipt, verify_publication, verify_slice},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    Session,
    cli::{DemoArgs, PromptArgs},
    commands::generate,
    decode::{self, Decoded},
    engine::{
        self, Boundary, CardText, KindKeys, PartTrace, PartWeights, SliceProver, WeightColumns, milliseconds,
    },
    failure::{Classify, Failure, Kind, Result},
    files::{self, Existing},
    ids,
    output::{grouped, table},
    progress::Bar,
    proving::{self, Answer, Border, SliceFigures, Statement, Task},
    publication::{self, Folder, MAX_PROOF_BYTES, Published, Ranges, Slices},
    source::{self, Choices, IntegerModel, Prepared},
};

/// Tokens that the demo proves.
const TOKENS: usize = 32;

/// Figures of one slice.
#[derive(Debug, Serialize)]
struct Figures {
    #[serde(flatten)]
    proved: SliceFigures,
    verify_ms: f64,
}

/// One attempt to cheat, and what stopped it.
#[derive(Debug, Serialize)]
struct Attempt {
    /// What was changed.
    tampered: &'static str,
    /// How.
    how: String,
    /// Whether it was refused. If not, the demo fails.
    rejected: bool,
    /// Who refused it.
    by: &'static str,
    /// The exact error.
    error: Option<String>,
}

/// A proved block with what a cheater would start from.
struct Proved {
    part: Part,
    weights: PartWeights,
    columns: WeightColumns,
    published: BlindedColumns,
    trace: PartTrace,
    context: Context,
    bytes: Vec<u8>,
}

/// Everything the demo's steps share.
struct Stage<'a> {
    prover: SliceProver<'a>,
    published: &'a Published,
    srs: &'a Srs,
    verifier_srs: &'a VerifierSrs,
    usable_rows: usize,
}

/// Runs the demo.
///
/// # Errors
/// Anything fails; [`Kind::Rejected`] when an honest proof is refused or a forgery accepted.
pub fn run(session: &Session, arguments: &DemoArgs) -> Result<()> {
    let started = Instant::now();
    let output = &session.output;
    let prepared = source::prepare(&session.output, None, &Choices::new(TOKENS))?;
    let model = prepared.model();
    let whole = Whole::new(&model.params.embedding, &model.params.head)?;
    let prompt = source::prompt_ids(
        prepared.float.tokenizer.as_ref(),
        &PromptArgs { prompt: Some(arguments.prompt.clone()), ids: None },
        whole.tokens() + 1 - whole.positions(),
    )?;
    let plan = &prepared.plan.block;
    let layers = model.layers();
    output.line(format!(
        "model    bundled glassllm: {layers} blocks, hidden {}, vocabulary {}, {} weights a block",
        plan.params.spec.shape.hidden,
        whole.vocab(),
        grouped(plan.weights),
    ))?;
    output.line(format!(
        "circuits 2^{} rows; blocks of {} lanes, degree {}; columns: {} weight, {} cell, {} other",
        plan.k,
        plan.lanes,
        plan.degree,
        plan.columns.weights,
        plan.columns.cells,
        plan.columns.boundary
            + plan.columns.multiplicities
            + plan.columns.accumulators
            + plan.columns.helpers
            + plan.columns.permutation,
    ))?;

    let srs = session.cache.insecure_srs(plan.k)?;
    output.line(format!("srs      {} INSECURE: drawn here, for demonstration only", short(&srs.id())))?;
    let setup = Instant::now();
    let (published, kinds) = publish(session, &model, &srs, arguments.fresh)?;
    let verifier_srs = srs.verifier_srs(true)?;
    let publication = published.range_proofs()?;
    let publication: Vec<&[u8]> = publication.iter().map(Vec::as_slice).collect();
    let receipt =
        verify_publication(published.loaded.model(), &published.loaded, &verifier_srs, &publication)?;
    let setup_ms = milliseconds(setup);
    let commitments: usize = published.card.slices.iter().map(|slice| slice.weights.len()).sum();
    output.line(format!(
        "publish  model {}: {} slices, {commitments} commitments, weights in range, {:.1} s",
        short(&published.loaded.model()),
        layers + 2,
        setup_ms / 1e3
    ))?;

    let parts = proving::Folder::new(&session.cache.folder().join("demo.parts"));
    if parts.root().exists() {
        parts.clone().remove()?;
    }
    parts.create()?;
    let bar = Bar::new(output, "proving", layers + 3);
    let decoded = decode::decode(&model, &whole, &prompt, whole.positions(), Choice::Greedy, &bar)?;
    let statement = Statement {
        model: published.loaded.model(),
        request: ids::fresh_request()?,
        node: ids::node("demo"),
        tokens: (prompt.len() + decoded.answer.len() - 1) as u32,
        answer: Some(Answer {
            prompt: Some(prompt.clone()),
            prompt_tokens: prompt.len() as u32,
            padding: model.padding,
            tokens: decoded.answer.clone(),
        }),
    };
    let task = Task {
        published: &published,
        srs: (&srs, &verifier_srs),
        folder: &parts,
        statement: &statement,
        pass: &decoded.pass,
        slices: 0..layers + 2,
        open: &|border| !matches!(border, Border::Stream(_)),
        jobs: 1,
    };
    let figures = proving::prove(session, &task, vec![], &bar, 1)?;
    drop(bar);
    let envelopes: Vec<Vec<u8>> =
        figures.iter().map(|slice| files::read(&slice.file, MAX_PROOF_BYTES)).collect::<Result<_>>()?;
    let bundle = generate::bundle(&statement, envelopes, None)?;
    parts.remove()?;

    let nodes = vec![statement.node; layers + 2];
    let expectation = BundleExpectation {
        request: statement.request,
        model: statement.model,
        prompt: PromptExpectation::Ids(&prompt),
        choice: Choice::Greedy,
        nodes: &nodes,
        publication: receipt,
    };
    let verifying = Instant::now();
    verify_bundle(&expectation, &published.loaded, &verifier_srs, &bundle)?;
    let chain_ms = milliseconds(verifying);
    let text = prepared.float.tokenizer()?.decode(&decoded.answer)?;
    output.line(format!("prompt   {}", arguments.prompt))?;
    output.line(format!("answer   {text}"))?;
    output.line(format!(
        "verify   bundle of {} proofs, {} bytes: holds, {chain_ms:.1} ms",
        layers + 2,
        grouped(bundle.encode().len())
    ))?;
    let floats = compare_with_floats(&prepared, &prompt, &decoded.answer)?;
    output.line(format!("floats   {}", floats.text()))?;

    let block = &kinds[1];
    let compute = session.compute()?;
    let stage = Stage {
        prover: SliceProver::new(
            &block.circuit,
            &block.slice.0,
            block.slice.1.clone(),
            &srs,
            &verifier_srs,
            compute,
        )?,
        published: &published,
        srs: &srs,
        verifier_srs: &verifier_srs,
        usable_rows: block.slice.1.shape().usable_rows,
    };
    let verify_ms = proving::verify_each(&published, &verifier_srs, &bundle, &prompt, &statement, receipt)?;
    let slices: Vec<Figures> =
        figures.into_iter().zip(verify_ms).map(|(proved, verify_ms)| Figures { proved, verify_ms }).collect();
    let first = stage.proved(0, &decoded, &bundle, &statement)?;
    let second = stage.proved(1, &decoded, &bundle, &statement)?;
    let bar = Bar::new(output, "tampering", 5);
    let attempts = vec![
        stage.tamper_weight(&first, receipt, &bar)?,
        stage.tamper_activation(&first, receipt, &bar)?,
        stage.tamper_boundary(&second, &bundle, &expectation, &bar)?,
        stage.tamper_byte(&first, receipt)?,
        stage.tamper_token(&bundle, &expectation, whole.vocab()),
    ];
    drop(bar);
    let total_ms = milliseconds(started);
    report(session, &prepared, &slices, &attempts, &floats, [chain_ms, setup_ms, total_ms], &text)?;
    if let Some(accepted) = attempts.iter().find(|attempt| !attempt.rejected) {
        return Err(Failure::new(
            Kind::Rejected,
            format_args!("a tampered {} was ACCEPTED: {}", accepted.tampered, accepted.how),
        ));
    }
    Ok(())
}

/// How the proved tokens stand to those of the float model.
#[derive(Debug, Serialize)]
struct Floats {
    /// Tokens on which both agree, from the first on.
    agreeing: usize,
    /// Tokens in all.
    tokens: usize,
    /// By how much the float model prefers its own next token, where they part.
    logit_gap: Option<f32>,
}

impl Floats {
    fn text(&self) -> String {
        match self.logit_gap {
            None => format!("the float model generates the same {} tokens", self.tokens),
            Some(gap) => format!(
                "the float model generates the same {} tokens, then prefers another by {gap:.4} in logits",
                self.agreeing
            ),
        }
    }
}

/// Runs the float model on prompt and answer: greedy tokens are the same as long as their feeds are.
fn compare_with_floats(prepared: &Prepared, prompt: &[u32], answer: &[u32]) -> Result<Floats> {
    let ids: Vec<u32> = prompt.iter().chain(answer).copied().collect();
    let logits = prepared.float.forward(&ids[..ids.len() - 1])?;
    let vocab = prepared.float.config.vocab;
    let rows = logits.chunks_exact(vocab).skip(prompt.len() - 1);
    for (agreeing, (row, &token)) in rows.zip(answer).enumerate() {
        let best = arg_max(row);
        if best != token {
            let logit_gap = Some(row[best as usize] - row[token as usize]);
            return Ok(Floats { agreeing, tokens: answer.len(), logit_gap });
        }
    }
    Ok(Floats { agreeing: answer.len(), tokens: answer.len(), logit_gap: None })
}

fn publish(
    session: &Session,
    model: &IntegerModel,
    srs: &Srs,
    fresh: bool,
) -> Result<(Published, Vec<KindKeys>)> {
    let tokenizer = model.tokenizer.as_ref().map(lamina_model::TextTokenizer::to_json).transpose()?;
    let text = CardText {
        name: "glassllm (bundled)".into(),
        publisher: ids::node("demo"),
        source: "bundled with lamina".into(),
        layers: model.layers(),
        tokenizer: tokenizer.map(|json| publication::tokenizer_digest(json.as_bytes())),
    };
    let folder = Folder::new(&session.cache.folder().join("demo"));
    let slices = Slices::Whole(model.layers());
    let task = publication::Task { model, slices, folder: &folder, text: &text, srs, ranges: Ranges::Prove };
    let publish = |existing| {
        publication::publish(session, &task, existing).map(|(published, kinds, _)| (published, kinds))
    };
    match publish(if fresh { Existing::Replace } else { Existing::Keep }) {
        // What is in the cache is of another version or string: it is the demo's own, so it may go.
        Err(failure) if matches!(failure.kind, Kind::Files | Kind::Rejected | Kind::Input) => {
            publish(Existing::Replace)
        }
        other => other,
    }
}

/// What a verifier or the prover's own check says to an attempt.
fn attempt(
    tampered: &'static str,
    how: String,
    by: &'static str,
    verdict: std::result::Result<(), String>,
) -> Attempt {
    Attempt { tampered, how, rejected: verdict.is_err(), by, error: verdict.err() }
}

impl Stage<'_> {
    /// Block `layer` with its proof out of the bundle.
    fn proved(
        &self,
        layer: usize,
        decoded: &Decoded,
        bundle: &Bundle,
        statement: &Statement,
    ) -> Result<Proved> {
        let (part, slice) = (Part::Layer(layer), layer as u32 + 1);
        let weights = self.published.weights(part)?;
        let (columns, published) = self.published.slice(self.prover.circuit(), slice, part, &weights)?;
        let trace = self.run(part, &weights, &decoded.streams[layer])?;
        let context = statement.context(slice);
        let bytes = bundle.slices[slice as usize].clone();
        Ok(Proved { part, weights, columns, published, trace, context, bytes })
    }

    fn run(&self, part: Part, weights: &PartWeights, x: &[i32]) -> Result<PartTrace> {
        engine::run(&self.published.params(part), weights, part, &engine::Pass::default(), x)
    }

    /// Fresh hidden boundaries on both sides of a block.
    fn hide(&self, trace: &PartTrace) -> Result<[Boundary; 2]> {
        let borders = trace.borders(self.prover.circuit());
        let [before, after] =
            borders.ok_or_else(|| Failure::new(Kind::Input, "not the values of a block"))?;
        Ok([
            Boundary::hide(self.srs, self.usable_rows, before)?,
            Boundary::hide(self.srs, self.usable_rows, after)?,
        ])
    }

    /// Verifies an envelope on the occasion of `one`, any hidden boundaries.
    fn verdict(
        &self,
        one: &Proved,
        bytes: &[u8],
        publication: PublicationReceipt,
    ) -> std::result::Result<(), String> {
        let expectation = Expectation {
            context: one.context,
            input: BoundaryExpectation::Hidden,
            output: BoundaryExpectation::Hidden,
            publication,
        };
        verify_slice(&expectation, &self.published.loaded, self.verifier_srs, bytes)
            .map(|_| ())
            .map_err(|error| Failure::from(error).message())
    }

    /// A node computes with one weight changed, commits to its own weights and proves that honestly. Its halo2
    /// proof is sound; the link to the published commitments is what it can't make.
    fn tamper_weight(
        &self,
        one: &Proved,
        receipt: PublicationReceipt,
        progress: &dyn Progress,
    ) -> Result<Attempt> {
        let PartWeights::Block(mut weights) = one.weights.clone() else {
            return Err(Failure::new(Kind::Input, "not the weights of a block"));
        };
        let down = Arc::make_mut(&mut weights.down.data);
        let old = down[0];
        down[0] = if old > 0 { old - 1 } else { old + 1 };
        let weights = PartWeights::Block(weights);
        let columns = engine::weight_columns(self.prover.circuit(), &weights)
            .ok_or_else(|| Failure::new(Kind::Input, "not the weights of a block"))?;
        let own = engine::commit_weights(self.srs, self.usable_rows, &columns)?;
        let trace = self.run(one.part, &weights, &x_of(&one.trace))?;
        let [input, output] = self.hide(&trace)?;
        let forged = self.prover.prove(one.context, &columns, &own, &trace, &input, &output, progress)?;
        Ok(attempt(
            "weight",
            format!("{}: one weight of `down` moved by 1, proved anew", one.part),
            "verifier",
            self.verdict(one, &forged.bytes, receipt),
        ))
    }

    /// A node changes one activation inside the block and tries to prove it.
    fn tamper_activation(
        &self,
        one: &Proved,
        receipt: PublicationReceipt,
        progress: &dyn Progress,
    ) -> Result<Attempt> {
        let PartTrace::Block(honest) = &one.trace else {
            return Err(Failure::new(Kind::Input, "not the values of a block"));
        };
        let mut trace = honest.clone();
        trace.output.q[0] += 1;
        let trace = PartTrace::Block(trace);
        let [input, output] = self.hide(&trace)?;
        let how = format!("{}: one output activation moved by 1", one.part);
        let proved =
            self.prover.prove(one.context, &one.columns, &one.published, &trace, &input, &output, progress);
        match proved {
            Ok(forged) => Ok(attempt(
                "activation",
                how + ", proved anew",
                "verifier",
                self.verdict(one, &forged.bytes, receipt),
            )),
            Err(failure) if failure.kind == Kind::Interrupted => Err(failure),
            // Our prover refuses to finish; a node that claims the activations anyway is left with the honest
            // proof under a commitment to the changed ones.
            Err(refusal) => {
                let mut envelope = Envelope::decode(&one.bytes, self.prover.key().shape())?;
                envelope.output = output.reference();
                Ok(attempt(
                    "activation",
                    format!(
                        "{how}: the prover says `{}`; then claimed under the honest proof",
                        refusal.message()
                    ),
                    "verifier",
                    self.verdict(one, &envelope.encode(), receipt),
                ))
            }
        }
    }

    /// Two nodes disagree: block 1 is proved, honestly, on an input that block 0 did not produce.
    fn tamper_boundary(
        &self,
        one: &Proved,
        bundle: &Bundle,
        expectation: &BundleExpectation<'_>,
        progress: &dyn Progress,
    ) -> Result<Attempt> {
        let mut x = x_of(&one.trace);
        x[0] += 1;
        let trace = self.run(one.part, &one.weights, &x)?;
        let [input, output] = self.hide(&trace)?;
        let forged = self.prover.prove(
            one.context,
            &one.columns,
            &one.published,
            &trace,
            &input,
            &output,
            progress,
        )?;
        // The proof by itself is sound: only the chain can tell.
        self.verdict(one, &forged.bytes, expectation.publication)
            .map_err(|error| Failure::new(Kind::Rejected, error))
            .context("the proof of another input should hold by itself")?;
        let mut bundle = bundle.clone();
        bundle.slices[one.context.slice as usize] = forged.bytes;
        Ok(attempt(
            "boundary",
            format!("{} proved on an input that the one before did not produce", one.part),
            "bundle",
            self.verdict_on(&bundle, expectation),
        ))
    }

    /// One bit of a proof is flipped.
    fn tamper_byte(&self, one: &Proved, receipt: PublicationReceipt) -> Result<Attempt> {
        let mut bytes = one.bytes.clone();
        // In the middle of the scalars: the low byte of an evaluation, so that the encoding stays canonical.
        let shape = self.prover.key().shape();
        let at = bytes.len() - shape.proof_bytes() + 32 * (shape.points + shape.scalars / 2);
        bytes[at] ^= 1;
        Ok(attempt(
            "proof byte",
            format!("byte {at} of {}: one bit flipped", bytes.len()),
            "verifier",
            self.verdict(one, &bytes, receipt),
        ))
    }

    /// Another last token is claimed under the honest proofs.
    fn tamper_token(&self, bundle: &Bundle, expectation: &BundleExpectation<'_>, vocab: usize) -> Attempt {
        let mut bundle = bundle.clone();
        if let Some(token) = bundle.answer.last_mut() {
            *token = (*token + 1) % vocab as u32;
        }
        let how = "another last token claimed under the honest proofs".into();
        attempt("token", how, "bundle", self.verdict_on(&bundle, expectation))
    }

    fn verdict_on(
        &self,
        bundle: &Bundle,
        expectation: &BundleExpectation<'_>,
    ) -> std::result::Result<(), String> {
        verify_bundle(expectation, &self.published.loaded, self.verifier_srs, bundle)
            .map(|_| ())
            .map_err(|error| error.to_string())
    }
}

/// The activations that enter a block.
fn x_of(trace: &PartTrace) -> Vec<i32> {
    match trace {
        PartTrace::Block(trace) => trace.x.clone(),
        _ => vec![],
    }
}

fn short(id: &impl std::fmt::Display) -> String {
    id.to_string().chars().take(16).collect()
}

fn report(
    session: &Session,
    prepared: &Prepared,
    slices: &[Figures],
    attempts: &[Attempt],
    floats: &Floats,
    [chain_ms, setup_ms, total_ms]: [f64; 3],
    answer: &str,
) -> Result<()> {
    let output = &session.output;
    for one in attempts {
        output.line(format!(
            "tamper   {:<11}{}: {}",
            one.tampered,
            if one.rejected { "REJECTED" } else { "ACCEPTED" },
            one.error.as_deref().unwrap_or("no error")
        ))?;
        output.line(format!("         {:<11}{}", "", one.how))?;
    }
    let mut rows = vec![["slice", "prove ms", "verify ms", "proof bytes"].map(String::from).to_vec()];
    rows.extend(slices.iter().map(|s| {
        vec![
            s.proved.part.to_string(),
            format!("{:.0}", s.proved.prove_ms.unwrap_or_default()),
            format!("{:.1}", s.verify_ms),
            grouped(s.proved.proof_bytes),
        ]
    }));
    let prove_ms: f64 = slices.iter().filter_map(|s| s.proved.prove_ms).sum();
    let verify_ms: f64 = slices.iter().map(|s| s.verify_ms).sum();
    let bytes: usize = slices.iter().map(|s| s.proved.proof_bytes).sum();
    rows.push(vec!["total".into(), format!("{prove_ms:.0}"), format!("{verify_ms:.1}"), grouped(bytes)]);
    output.line("")?;
    for line in table(&rows) {
        output.line(line)?;
    }
    let plan = &prepared.plan.block;
    output.line(format!(
        "k {}, {} lanes, {} weights a block; {} in {:.1} s",
        plan.k,
        plan.lanes,
        grouped(plan.weights),
        if attempts.iter().all(|a| a.rejected) { "all forgeries rejected" } else { "A FORGERY PASSED" },
        total_ms / 1e3
    ))?;
    output.value(&json!({
        "model": "glassllm (bundled)",
        "insecure_srs": true,
        "plan": prepared.plan,
        "tokens": plan.params.spec.tokens,
        "answer": answer,
        "floats": floats,
        "slices": slices,
        "prove_ms": prove_ms,
        "verify_ms": verify_ms,
        "bundle_verify_ms": chain_ms,
        "proof_bytes": bytes,
        "publish_ms": setup_ms,
        "total_ms": total_ms,
        "verified": true,
        "tampering": attempts,
    }))
}
