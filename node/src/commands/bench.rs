//! `lamina bench`: one block, timed, and verified.

use std::{sync::Arc, time::Instant};

use lamina_circuits::{
    assign::BlockWitness,
    block::BlockCircuit,
    plan::Plan,
    spec::{Activations, BlockSpec, BlockWeights, Shape},
    testing,
};
use lamina_prover::{Backend, Cpu, link::Draft, stock};
use lamina_verifier::{
    boundary::BoundaryReference,
    card::{Card, InsecureSrs},
    context::Context,
    verify::{BoundaryExpectation, Expectation, PublicationReceipt, verify_slice},
};
use rand_core::OsRng;
use serde_json::{Value, json};

use crate::{
    Session,
    cli::{BenchCommand, ShapeArgs},
    engine::{self, Boundary, CardText, LoadedCard, SliceProver, milliseconds},
    failure::{Failure, Kind, Result},
    ids,
    output::grouped,
    progress::{Bar, check_interrupted},
    publication, source,
};

/// A block to be timed.
struct Subject {
    name: String,
    layer: Option<usize>,
    plan: Plan,
    weights: BlockWeights,
    x: Activations,
    tokens: usize,
    stock: bool,
}

/// Runs the command.
///
/// # Errors
/// The model or shape is unusable, or the timed proof does not verify.
pub fn run(session: &Session, command: &BenchCommand) -> Result<()> {
    let subject = match command {
        BenchCommand::Block { model, layer, stock } => {
            let prepared = source::prepare(&session.output, model.model.as_deref(), &model.choices())?;
            let count = prepared.integers.blocks.len();
            if *layer >= count {
                return Err(Failure::new(
                    Kind::Input,
                    format_args!("--layer {layer}: the model has layers 0..{count}"),
                ));
            }
            let spec = &prepared.plan.params.spec;
            let ids = source::some_ids(&prepared.float, model.tokens)?;
            let mut x = prepared.integers.embed(&ids)?;
            for (at, weights) in prepared.integers.blocks[..*layer].iter().enumerate() {
                check_interrupted()?;
                x = source::run_layer(spec, weights, at, &x)?.output.q;
            }
            Subject {
                name: model.model.as_deref().map_or_else(|| source::BUNDLED.to_owned(), source::name),
                layer: Some(*layer),
                weights: prepared.integers.blocks[*layer].clone(),
                x,
                tokens: ids.len(),
                stock: *stock,
                plan: prepared.plan,
            }
        }
        BenchCommand::Shape(arguments) => random(arguments)?,
    };
    let value = time(session, &subject)?;
    session.output.value(&value)?;
    let text = |name: &str| match &value[name] {
        Value::Number(n) if n.is_f64() => format!("{:.1}", n.as_f64().unwrap_or_default()),
        Value::Number(n) => grouped(n.as_u64().unwrap_or_default() as usize),
        other => other.to_string(),
    };
    let names = [
        "witness_ms",
        "commit_ms",
        "quotient_ms",
        "open_ms",
        "prove_ms",
        "verify_ms",
        "proof_bytes",
        "peak_rss_bytes",
        "k",
        "columns",
        "weights",
        "verified",
        "stock_prove_ms",
        "machine",
        "threads",
        "backend",
        "commit",
    ];
    names
        .into_iter()
        .filter(|name| !value[*name].is_null())
        .try_for_each(|name| session.output.line(format!("{name:<16}{}", text(name))))
}

/// A block of random weights.
fn random(arguments: &ShapeArgs) -> Result<Subject> {
    let head_dim = arguments.head_dim.unwrap_or(arguments.hidden / arguments.heads);
    let shape = Shape {
        hidden: arguments.hidden,
        ffn: arguments.ffn,
        heads: arguments.heads,
        kv_heads: arguments.kv_heads,
        head_dim,
    };
    let spec = BlockSpec {
        scales: testing::wide_scales(shape.hidden),
        shape,
        weight_bits: arguments.weight_bits,
        tokens: arguments.tokens,
    };
    let plan = Plan::best(&spec, arguments.tokens)?;
    let spec = &plan.params.spec;
    let bound = (1i32 << (arguments.weight_bits - 1)) - 1;
    Ok(Subject {
        name: format!(
            "random {}x{} heads {}/{} of {head_dim}",
            arguments.hidden, arguments.ffn, arguments.heads, arguments.kv_heads
        ),
        layer: None,
        weights: testing::weights(spec, 1, bound),
        x: testing::activations(spec, 2),
        tokens: arguments.tokens,
        stock: arguments.stock,
        plan,
    })
}

fn time(session: &Session, subject: &Subject) -> Result<Value> {
    let plan = &subject.plan;
    let circuit = BlockCircuit::new(&plan.params)?;
    let layout = circuit.layout.clone();
    let bar = Bar::new(&session.output, "bench", if subject.stock { 6 } else { 5 });
    bar.begin(0, "reference string")?;
    let srs = session.cache.insecure_srs(plan.k)?;
    let keys = publication::keys(session, &circuit, &srs, &bar, 1)?;
    let verifier_srs = srs.verifier_srs(false)?;
    let usable = keys.slice.1.shape().usable_rows;
    bar.begin(3, "committing to the weights")?;
    let columns = engine::weight_columns(&layout, &subject.weights);
    let published = engine::commit_weights(&srs, usable, &columns)?;
    let text =
        CardText { name: "bench".into(), publisher: ids::node("bench"), source: "bench".into(), layers: 1 };
    let range = engine::range_circuit(&plan.params, &layout).params;
    let card = engine::card(
        &text,
        &plan.params,
        &range,
        &keys.slice.0,
        &keys.range.0,
        &verifier_srs,
        std::iter::once(&published),
    );
    let card: LoadedCard = Card::check(&card, InsecureSrs::Accept)?;

    bar.begin(4, "proving")?;
    let backend = Cpu::default();
    let prover =
        SliceProver::new(&circuit, &keys.slice.0, keys.slice.1.clone(), &srs, &verifier_srs, &backend)?;
    let context = Context {
        request: ids::fresh_request()?,
        node: ids::node("bench"),
        model: card.model(),
        slice: 0,
        tokens: subject.tokens as u32,
    };
    let started = Instant::now();
    let layer = subject.layer.unwrap_or(0);
    let trace = source::run_layer(&plan.params.spec, &subject.weights, layer, &subject.x)?;
    let execute_ms = milliseconds(started);
    let input = Boundary::hide(&srs, &layout, usable, &trace.x)?;
    let output = Boundary::hide(&srs, &layout, usable, &trace.output.q)?;
    let boundary_ms = milliseconds(started) - execute_ms;
    let envelope = prover.prove(context, &columns, &published, &trace, &input, &output, &bar)?;
    let prove_ms = milliseconds(started);

    let expectation = Expectation {
        context,
        input: BoundaryExpectation::Hidden,
        output: BoundaryExpectation::Hidden,
        publication: PublicationReceipt::trusting_publisher(card.model()),
    };
    let started = Instant::now();
    verify_slice(&expectation, &card, &verifier_srs, &envelope.bytes)?;
    let verify_ms = milliseconds(started);
    let peak_rss_bytes = peak_rss_bytes();

    let stock_prove_ms = if subject.stock {
        bar.begin(5, "stock prover")?;
        let witness = Arc::new(BlockWitness::new(&layout, columns.clone(), &trace));
        // The stock prover knows no commitments from outside: the same instance, nothing linked.
        let draft = Draft {
            key: prover.key(),
            srs: verifier_srs.id(),
            context,
            weights: &[],
            input: BoundaryReference::none(),
            output: BoundaryReference::none(),
        };
        let instances = vec![draft.instance().to_vec()];
        let params = srs.params();
        let (proof, ms) = stock::prove(&params, circuit.with_witness(witness), &instances, OsRng)
            .map_err(|error| Failure::new(Kind::Input, format_args!("stock prover: {error:?}")))?;
        engine::verify_stock(&params, keys.slice.0.vk(), &instances, &proof)?;
        Some(ms)
    } else {
        None
    };
    drop(bar);
    let t = &envelope.timings;
    Ok(json!({
        "subject": subject.name,
        "layer": subject.layer,
        "tokens": subject.tokens,
        "padded_tokens": plan.params.spec.tokens,
        "weight_bits": plan.params.spec.weight_bits,
        "execute_ms": execute_ms,
        "witness_ms": execute_ms + t.witness_ms,
        "boundary_ms": boundary_ms,
        "commit_ms": boundary_ms + t.commit_ms,
        "quotient_ms": t.quotient_ms,
        "open_ms": t.open_ms,
        "prove_ms": prove_ms,
        "steps": t.steps.iter().map(|(name, ms)| json!({ "step": name, "ms": ms })).collect::<Vec<_>>(),
        "verify_ms": verify_ms,
        "proof_bytes": envelope.bytes.len(),
        "peak_rss_bytes": peak_rss_bytes,
        "k": plan.k,
        "lanes": plan.lanes,
        "columns": plan.columns,
        "weights": plan.weights,
        "verified": true,
        "stock_prove_ms": stock_prove_ms,
        "stock_verified": stock_prove_ms.map(|_| true),
        "speedup": stock_prove_ms.map(|ms| ms / prove_ms),
        "machine": machine(),
        "backend": Cpu::default().name(),
        "threads": std::thread::available_parallelism().map_or(1, usize::from),
        "commit": env!("LAMINA_COMMIT"),
    }))
}

/// The most memory that this process has held, where the system says so.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The processor's name, where the system says so.
fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    match name {
        Some((_, name)) => name.trim().to_owned(),
        None => std::env::consts::ARCH.to_owned(),
    }
}
