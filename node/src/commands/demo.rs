//! `lamina demo`: publish, prove, verify, tamper, on a bundled model.

use std::{sync::Arc, time::Instant};

use lamina_circuits::{executor::Trace, spec::BlockWeights};
use lamina_model::Options;
use lamina_prover::{Cpu, Progress, publish::BlindedColumns, srs::Srs};
use lamina_verifier::{
    context::Context,
    envelope::Envelope,
    hash::{NodeId, RequestId},
    srs::VerifierSrs,
    verify::{
        BoundaryExpectation, ChainExpectation, Expectation, PublicationReceipt, verify_chain,
        verify_publication, verify_slice,
    },
};
use serde::Serialize;
use serde_json::json;

use crate::{
    Session,
    cli::DemoArgs,
    engine::{self, Boundary, CardText, SliceProver, WeightColumns, milliseconds},
    failure::{Classify, Failure, Kind, Result},
    files::Existing,
    ids,
    output::{grouped, table},
    progress::Bar,
    publication::{self, Folder, Keys, Published},
    source::{self, Choices, Prepared},
};

/// Tokens that the demo proves.
const TOKENS: usize = 32;

/// Figures of one block.
#[derive(Debug, Serialize)]
struct BlockFigures {
    layer: usize,
    prove_ms: f64,
    verify_ms: f64,
    proof_bytes: usize,
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

/// A proved layer with what a cheater would start from.
struct Proved {
    layer: usize,
    weights: BlockWeights,
    columns: WeightColumns,
    published: BlindedColumns,
    trace: Trace,
    context: Context,
    bytes: Vec<u8>,
    prove_ms: f64,
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
    let choices = Choices {
        weight_bits: 16,
        tokens: TOKENS,
        calibrate: None,
        headroom_bits: Options::DEFAULT_HEADROOM_BITS,
    };
    let prepared = source::prepare(&session.output, None, &choices)?;
    let ids = source::prompt_ids(&prepared.float, &arguments.prompt, prepared.integers.spec.tokens)?;
    let plan = &prepared.plan;
    let layers = prepared.integers.blocks.len();
    output.line(format!(
        "model    bundled glassllm: {layers} blocks, hidden {}, {} weights a block, {} tokens",
        plan.params.spec.shape.hidden,
        grouped(plan.weights),
        ids.len()
    ))?;
    output.line(format!(
        "circuit  2^{} rows, {} lanes, degree {}; columns: {} weight, {} cell, {} other",
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
    let (published, keys) = publish(session, &prepared, &srs, arguments.fresh)?;
    let verifier_srs = srs.verifier_srs(false)?;
    let model = published.loaded.model();
    let publication = published.range_proofs()?;
    let publication: Vec<&[u8]> = publication.iter().map(Vec::as_slice).collect();
    let receipt = verify_publication(model, &published.loaded, &verifier_srs, &publication)?;
    let setup_ms = milliseconds(setup);
    output.line(format!(
        "publish  model {}: {layers} x {} commitments, weights in range, {:.1} s",
        short(&model),
        plan.columns.weights,
        setup_ms / 1e3
    ))?;

    let circuit = published.circuit()?;
    let backend = Cpu::default();
    let stage = Stage {
        prover: SliceProver::new(
            &circuit,
            &keys.slice.0,
            keys.slice.1.clone(),
            &srs,
            &verifier_srs,
            &backend,
        )?,
        published: &published,
        srs: &srs,
        verifier_srs: &verifier_srs,
        usable_rows: keys.slice.1.shape().usable_rows,
    };
    let node = ids::node("demo");
    let request = ids::fresh_request()?;
    let proved = prove_all(session, &stage, &prepared, &ids, node, request)?;

    let nodes = vec![node; layers];
    let boundaries = vec![BoundaryExpectation::Hidden; layers + 1];
    let chain = ChainExpectation {
        request,
        model,
        tokens: ids.len() as u32,
        nodes: &nodes,
        boundaries: &boundaries,
        publication: receipt,
    };
    let envelopes: Vec<&[u8]> = proved.iter().map(|p| p.bytes.as_slice()).collect();
    let verifying = Instant::now();
    verify_chain(&chain, &published.loaded, &verifier_srs, &envelopes)?;
    let chain_ms = milliseconds(verifying);
    let mut blocks = vec![];
    for one in &proved {
        let verifying = Instant::now();
        stage.verify(one, &one.bytes, receipt)?;
        blocks.push(BlockFigures {
            layer: one.layer,
            prove_ms: one.prove_ms,
            verify_ms: milliseconds(verifying),
            proof_bytes: one.bytes.len(),
        });
    }
    output.line(format!(
        "verify   chain of {layers} proofs, {} hidden boundaries: holds, {chain_ms:.1} ms",
        layers + 1
    ))?;

    let bar = Bar::new(output, "tampering", 4);
    let attempts = vec![
        stage.tamper_weight(&proved[0], receipt, &bar)?,
        stage.tamper_activation(&proved[0], receipt, &bar)?,
        stage.tamper_boundary(&proved, &chain, &bar)?,
        stage.tamper_byte(&proved[0], receipt)?,
    ];
    drop(bar);
    report(session, &prepared, &blocks, &attempts, chain_ms, setup_ms, milliseconds(started))?;
    if let Some(accepted) = attempts.iter().find(|attempt| !attempt.rejected) {
        return Err(Failure::new(
            Kind::Rejected,
            format_args!("a tampered {} was ACCEPTED: {}", accepted.tampered, accepted.how),
        ));
    }
    Ok(())
}

fn publish(session: &Session, prepared: &Prepared, srs: &Srs, fresh: bool) -> Result<(Published, Keys)> {
    let text = CardText {
        name: "glassllm (bundled)".into(),
        publisher: ids::node("demo"),
        source: "bundled with lamina".into(),
        layers: prepared.integers.blocks.len(),
    };
    let folder = Folder::new(&session.cache.folder().join("demo"));
    let publish = |existing| {
        let layers = 0..prepared.integers.blocks.len();
        publication::publish(session, prepared, layers, &folder, &text, srs, existing)
    };
    match publish(if fresh { Existing::Replace } else { Existing::Keep }) {
        // What is in the cache is of another version or string: it is the demo's own, so it may go.
        Err(failure) if matches!(failure.kind, Kind::Files | Kind::Rejected | Kind::Input) => {
            publish(Existing::Replace)
        }
        other => other,
    }
}

fn prove_all(
    session: &Session,
    stage: &Stage<'_>,
    prepared: &Prepared,
    ids: &[u32],
    node: NodeId,
    request: RequestId,
) -> Result<Vec<Proved>> {
    let layout = stage.prover.layout().clone();
    let spec = &layout.spec;
    let mut x = prepared.integers.embed(ids)?;
    let mut input = Boundary::hide(stage.srs, &layout, stage.usable_rows, &x)?;
    let layers = stage.published.layers();
    let bar = Bar::new(&session.output, "proving", layers.len());
    let mut proved = vec![];
    for layer in layers {
        bar.begin(layer, format!("block {layer}"))?;
        let weights = stage.published.weights(layer)?;
        let (columns, published) = stage.published.slice(&layout, layer, &weights)?;
        let started = Instant::now();
        let trace = source::run_layer(spec, &weights, layer, &x)?;
        let next = Boundary::hide(stage.srs, &layout, stage.usable_rows, &trace.output.q)?;
        let context = Context {
            request,
            node,
            model: stage.published.loaded.model(),
            slice: layer as u32,
            tokens: ids.len() as u32,
        };
        let envelope = stage.prover.prove(context, &columns, &published, &trace, &input, &next, &bar)?;
        let prove_ms = milliseconds(started);
        x.clone_from(&trace.output.q);
        input = next;
        session.output.line(format!(
            "prove    block {layer}: {:.2} s, {} bytes",
            prove_ms / 1e3,
            grouped(envelope.bytes.len())
        ))?;
        let bytes = envelope.bytes;
        proved.push(Proved { layer, weights, columns, published, trace, context, bytes, prove_ms });
    }
    Ok(proved)
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
    /// Verifies an envelope on the occasion of `one`, any hidden boundaries.
    fn verify(&self, one: &Proved, bytes: &[u8], publication: PublicationReceipt) -> Result<()> {
        let expectation = Expectation {
            context: one.context,
            input: BoundaryExpectation::Hidden,
            output: BoundaryExpectation::Hidden,
            publication,
        };
        verify_slice(&expectation, &self.published.loaded, self.verifier_srs, bytes)?;
        Ok(())
    }

    fn verdict(
        &self,
        one: &Proved,
        bytes: &[u8],
        receipt: PublicationReceipt,
    ) -> std::result::Result<(), String> {
        self.verify(one, bytes, receipt).map_err(|failure| failure.message())
    }

    /// A node computes with one weight changed, commits to its own weights and proves that honestly. Its halo2
    /// proof is sound; the link to the published commitments is what it can't make.
    fn tamper_weight(
        &self,
        one: &Proved,
        receipt: PublicationReceipt,
        progress: &dyn Progress,
    ) -> Result<Attempt> {
        let layout = self.prover.layout();
        let mut weights = one.weights.clone();
        let down = Arc::make_mut(&mut weights.down.data);
        let old = down[0];
        down[0] = if old > 0 { old - 1 } else { old + 1 };
        let columns = engine::weight_columns(layout, &weights);
        let own = engine::commit_weights(self.srs, self.usable_rows, &columns)?;
        let trace = source::run_layer(&layout.spec, &weights, one.layer, &one.trace.x)?;
        let input = Boundary::hide(self.srs, layout, self.usable_rows, &trace.x)?;
        let output = Boundary::hide(self.srs, layout, self.usable_rows, &trace.output.q)?;
        let forged = self.prover.prove(one.context, &columns, &own, &trace, &input, &output, progress)?;
        Ok(attempt(
            "weight",
            format!("block {}: one weight of `down` moved by 1, proved anew", one.layer),
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
        let layout = self.prover.layout();
        let mut trace = one.trace.clone();
        trace.output.q[0] += 1;
        let input = Boundary::hide(self.srs, layout, self.usable_rows, &trace.x)?;
        let output = Boundary::hide(self.srs, layout, self.usable_rows, &trace.output.q)?;
        let how = format!("block {}: one output activation moved by 1", one.layer);
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
        proved: &[Proved],
        chain: &ChainExpectation<'_>,
        progress: &dyn Progress,
    ) -> Result<Attempt> {
        let layout = self.prover.layout();
        let one = &proved[1];
        let mut x = one.trace.x.clone();
        x[0] += 1;
        let trace = source::run_layer(&layout.spec, &one.weights, one.layer, &x)?;
        let input = Boundary::hide(self.srs, layout, self.usable_rows, &x)?;
        let output = Boundary::hide(self.srs, layout, self.usable_rows, &trace.output.q)?;
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
        self.verify(one, &forged.bytes, chain.publication)
            .context("the proof of another input should hold by itself")?;
        let mut envelopes: Vec<&[u8]> = proved.iter().map(|p| p.bytes.as_slice()).collect();
        envelopes[1] = &forged.bytes;
        let verdict = verify_chain(chain, &self.published.loaded, self.verifier_srs, &envelopes);
        Ok(attempt(
            "boundary",
            "block 1 proved on an input that block 0 did not produce".into(),
            "chain",
            verdict.map(|_| ()).map_err(|error| error.to_string()),
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
}

fn short(id: &impl std::fmt::Display) -> String {
    id.to_string().chars().take(16).collect()
}

fn report(
    session: &Session,
    prepared: &Prepared,
    blocks: &[BlockFigures],
    attempts: &[Attempt],
    chain_ms: f64,
    setup_ms: f64,
    total_ms: f64,
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
    let mut rows = vec![["block", "prove ms", "verify ms", "proof bytes"].map(String::from).to_vec()];
    rows.extend(blocks.iter().map(|b| {
        vec![
            b.layer.to_string(),
            format!("{:.0}", b.prove_ms),
            format!("{:.1}", b.verify_ms),
            grouped(b.proof_bytes),
        ]
    }));
    let sum = |f: fn(&BlockFigures) -> f64| blocks.iter().map(f).sum::<f64>();
    let bytes: usize = blocks.iter().map(|b| b.proof_bytes).sum();
    rows.push(vec![
        "total".into(),
        format!("{:.0}", sum(|b| b.prove_ms)),
        format!("{:.1}", sum(|b| b.verify_ms)),
        grouped(bytes),
    ]);
    output.line("")?;
    for line in table(&rows) {
        output.line(line)?;
    }
    let plan = &prepared.plan;
    let c = &plan.columns;
    let columns =
        c.weights + c.boundary + c.cells + c.multiplicities + c.accumulators + c.helpers + c.permutation;
    output.line(format!(
        "k {}, {columns} columns ({} of weights), {} lanes, {} weights a block; {} in {:.1} s",
        plan.k,
        c.weights,
        plan.lanes,
        grouped(plan.weights),
        if attempts.iter().all(|a| a.rejected) { "all forgeries rejected" } else { "A FORGERY PASSED" },
        total_ms / 1e3
    ))?;
    output.value(&json!({
        "model": "glassllm (bundled)",
        "insecure_srs": true,
        "k": plan.k,
        "lanes": plan.lanes,
        "columns": plan.columns,
        "weights": plan.weights,
        "tokens": plan.params.spec.tokens,
        "blocks": blocks,
        "prove_ms": sum(|b| b.prove_ms),
        "verify_ms": sum(|b| b.verify_ms),
        "chain_verify_ms": chain_ms,
        "proof_bytes": bytes,
        "publish_ms": setup_ms,
        "total_ms": total_ms,
        "verified": true,
        "tampering": attempts,
    }))
}
