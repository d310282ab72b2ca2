//! `lamina bench`: one block, timed, and verified.

use std::{sync::Arc, time::Instant};

use halo2_proofs::plonk::Circuit;
use lamina_circuits::{
    assign::BlockWitness,
    model::{ModelCircuit, ModelParams, Part},
    plan::Plan,
    spec::{Activations, BlockSpec, BlockWeights, Scales, Shape},
    testing,
};
use lamina_prover::{link::Draft, stock};
use lamina_verifier::{
    boundary::BoundaryReference,
    card::{Card, InsecureSrs},
    context::Context,
    verify::{
        BoundaryExpectation, Expectation, PublicationReceipt, publication_context, verify_publication,
        verify_slice,
    },
};
use rand_core::OsRng;
use serde_json::{Value, json};

use crate::{
    Session,
    cli::{Arch, BenchCommand, ShapeArgs, TimingArgs},
    commands::bench_model,
    compute::OnDevice,
    engine::{
        self, Boundary, CardText, Envelope, LoadedCard, PartTrace, PartWeights, Pass, RangeProver,
        SliceProver, milliseconds,
    },
    failure::{Classify, Failure, Kind, Result},
    ids,
    output::{grouped, table},
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
    timing: TimingArgs,
}

/// Runs the command.
///
/// # Errors
/// The model or shape is unusable, or the timed proof does not verify.
pub fn run(session: &Session, command: &BenchCommand) -> Result<()> {
    let subject = match command {
        BenchCommand::Block { model, layer, timing } => {
            let prepared =
                source::prepare(&session.output, model.model.as_deref(), &model.quantise.choices())?;
            let count = prepared.integers.blocks.len();
            if *layer >= count {
                return Err(Failure::new(
                    Kind::Input,
                    format_args!("--layer {layer}: the model has layers 0..{count}"),
                ));
            }
            let ids = source::some_ids(&prepared.float, model.quantise.tokens)?;
            let mut x = prepared.integers.embed(&ids)?;
            for at in 0..*layer {
                check_interrupted()?;
                x = prepared.integers.run_block(at, &x).context(Part::Layer(at))?.output.q;
            }
            Subject {
                name: model.model.as_deref().map_or_else(|| source::BUNDLED.to_owned(), source::name),
                layer: Some(*layer),
                weights: prepared.integers.blocks[*layer].clone(),
                x,
                tokens: ids.len(),
                timing: *timing,
                plan: prepared.plan.block,
            }
        }
        BenchCommand::Shape(arguments) => random(arguments)?,
        BenchCommand::Generate(arguments) => return bench_model::generate(session, arguments),
        BenchCommand::ModelShape(arguments) => return bench_model::shape(session, arguments),
    };
    let (value, device) = time(session, &subject)?;
    session.output.value(&value)?;
    if let Some(device) = &device {
        show_device(session, device)?;
    }
    show(
        session,
        &value,
        &[
            "witness_ms",
            "commit_ms",
            "quotient_ms",
            "open_ms",
            "prove_ms",
            "load_ms",
            "publish_commit_ms",
            "publish_range_ms",
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
        ],
    )
}

/// Prints the named figures that are there.
pub fn show(session: &Session, value: &Value, names: &[&str]) -> Result<()> {
    let text = |name: &str| match &value[name] {
        Value::Number(n) if n.is_f64() => format!("{:.1}", n.as_f64().unwrap_or_default()),
        Value::Number(n) => grouped(n.as_u64().unwrap_or_default() as usize),
        other => other.to_string(),
    };
    names
        .iter()
        .filter(|name| !value[**name].is_null())
        .try_for_each(|name| session.output.line(format!("{name:<20}{}", text(name))))
}

impl Arch {
    /// Scales for random weights at real shapes.
    pub fn scales(self, hidden: usize) -> Scales {
        let scales = testing::wide_scales(hidden);
        match self {
            Arch::Llama => scales,
            Arch::Gpt2 => testing::like_gpt2(scales),
            Arch::Qwen2 => testing::like_qwen2(scales),
        }
    }
}

/// A block of random weights.
fn random(arguments: &ShapeArgs) -> Result<Subject> {
    let head_dim = arguments.head_dim.unwrap_or(arguments.hidden / arguments.heads);
    let kv_heads = arguments.kv_heads.unwrap_or(arguments.heads);
    let shape =
        Shape { hidden: arguments.hidden, ffn: arguments.ffn, heads: arguments.heads, kv_heads, head_dim };
    let spec = BlockSpec {
        scales: arguments.arch.scales(shape.hidden),
        shape,
        weight_bits: arguments.weight_bits,
        tokens: arguments.tokens,
    };
    let plan = Plan::best(&spec, arguments.tokens)?;
    let spec = &plan.params.spec;
    let bound = (1i32 << (arguments.weight_bits - 1)) - 1;
    Ok(Subject {
        name: format!(
            "random {:?} {}x{} heads {}/{kv_heads} of {head_dim}",
            arguments.arch, arguments.hidden, arguments.ffn, arguments.heads
        ),
        layer: None,
        weights: testing::weights(spec, 1, bound),
        x: testing::activations(spec, 2),
        tokens: arguments.tokens,
        timing: arguments.timing,
        plan,
    })
}

/// Verifications of a timed proof; the median counts.
const VERIFICATIONS: usize = 9;

/// A proof, timed and verified.
struct Run {
    context: Context,
    trace: PartTrace,
    execute_ms: f64,
    boundary_ms: f64,
    envelope: Envelope,
    prove_ms: f64,
    verify_ms: f64,
    device: Option<OnDevice>,
}

fn time(session: &Session, subject: &Subject) -> Result<(Value, Option<OnDevice>)> {
    let plan = &subject.plan;
    let circuit = ModelCircuit::new(&ModelParams::Block(plan.params.clone()))?;
    let timing = subject.timing;
    let jobs = 4 + timing.repeat + usize::from(timing.publish) + usize::from(timing.stock);
    let bar = Bar::new(&session.output, "bench", jobs);
    bar.begin(0, "reference string")?;
    let srs = session.cache.insecure_srs(plan.k)?;
    let kind = publication::keys(session, circuit.clone(), &srs, &bar, 1)?;
    let (slice, range) = (&kind.slice, &kind.range);
    let verifier_srs = srs.verifier_srs(false)?;
    let usable = slice.1.shape().usable_rows;
    bar.begin(3, "committing to the weights")?;
    let weights = PartWeights::Block(subject.weights.clone());
    let columns = engine::weight_columns(&circuit, &weights)
        .ok_or_else(|| Failure::new(Kind::Input, "not the weights of a block"))?;
    let started = Instant::now();
    let published = engine::commit_weights(&srs, usable, &columns)?;
    let publish_commit_ms = milliseconds(started);
    let text = CardText {
        name: "bench".into(),
        publisher: ids::node("bench"),
        source: "bench".into(),
        layers: 1,
        tokenizer: None,
    };
    let card =
        engine::card(&text, std::slice::from_ref(&kind), &verifier_srs, std::iter::once((0, &published)));
    let card: LoadedCard = Card::check(&card, InsecureSrs::Accept)?;

    let compute = session.compute()?;
    let publish_range_ms = if timing.publish {
        bar.begin(4, "range proof")?;
        let (key, digest) = (&range.0, range.1.clone());
        let circuit = engine::range_circuit(&circuit);
        let context = publication_context(card.model(), card.publisher(), 0);
        let prover = RangeProver::new(circuit, key, digest, &srs, &verifier_srs, compute)?;
        let started = Instant::now();
        let proof = prover.prove(context, &columns, &published, &bar)?;
        let ms = milliseconds(started);
        verify_publication(card.model(), &card, &verifier_srs, &[&proof])?;
        Some(ms)
    } else {
        None
    };

    bar.begin(jobs - timing.repeat - usize::from(timing.stock), "loading the key")?;
    let started = Instant::now();
    let prover = SliceProver::new(&circuit, &slice.0, slice.1.clone(), &srs, &verifier_srs, compute)?;
    let load_ms = milliseconds(started);
    let mut runs = (0..timing.repeat)
        .map(|run| {
            bar.begin(jobs - timing.repeat - usize::from(timing.stock) + run, "proving")?;
            let context = Context {
                request: ids::fresh_request()?,
                node: ids::node("bench"),
                model: card.model(),
                slice: 0,
                tokens: subject.tokens as u32,
            };
            let started = Instant::now();
            let part = Part::Layer(subject.layer.unwrap_or(0));
            let trace = engine::run(&circuit.params(), &weights, part, &Pass::default(), &subject.x)?;
            let execute_ms = milliseconds(started);
            let [before, after] = trace
                .borders(&circuit)
                .ok_or_else(|| Failure::new(Kind::Input, "not the values of a block"))?;
            let input = Boundary::hide(&srs, usable, before)?;
            let output = Boundary::hide(&srs, usable, after)?;
            let boundary_ms = milliseconds(started) - execute_ms;
            compute.measure();
            let envelope = prover.prove(context, &columns, &published, &trace, &input, &output, &bar)?;
            let prove_ms = milliseconds(started);
            let device = compute.measured()?;

            let expectation = Expectation {
                context,
                input: BoundaryExpectation::Hidden,
                output: BoundaryExpectation::Hidden,
                publication: PublicationReceipt::trusting_publisher(card.model()),
            };
            let mut verify_ms = vec![];
            for _ in 0..VERIFICATIONS {
                let started = Instant::now();
                verify_slice(&expectation, &card, &verifier_srs, &envelope.bytes)?;
                verify_ms.push(milliseconds(started));
            }
            verify_ms.sort_by(f64::total_cmp);
            let verify_ms = verify_ms[VERIFICATIONS / 2];
            Ok(Run { context, trace, execute_ms, boundary_ms, envelope, prove_ms, verify_ms, device })
        })
        .collect::<Result<Vec<Run>>>()?;
    // On a device the last run says what a warm proof takes: the first allocates, and compiles gates.
    let device = runs.last_mut().and_then(|run| run.device.take());
    runs.sort_by(|a, b| a.prove_ms.total_cmp(&b.prove_ms));
    let all_ms: Vec<f64> = runs.iter().map(|run| run.prove_ms).collect();
    let Run { context, trace, execute_ms, boundary_ms, envelope, prove_ms, verify_ms, device: _ } =
        runs.swap_remove(timing.repeat / 2);
    let peak_rss_bytes = peak_rss_bytes();

    let stock_prove_ms = if timing.stock {
        bar.begin(jobs - 1, "stock prover")?;
        let (ModelCircuit::Block(circuit), PartTrace::Block(trace)) = (&circuit, &trace) else {
            return Err(Failure::new(Kind::Input, "not a block"));
        };
        let witness = Arc::new(BlockWitness::new(&circuit.layout, columns.clone(), trace));
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
        engine::verify_stock(&params, slice.0.vk(), &instances, &proof)?;
        Some(ms)
    } else {
        None
    };
    drop(bar);
    let t = &envelope.timings;
    let value = json!({
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
        "prove_ms_of_all_runs": all_ms,
        "load_ms": load_ms,
        "publish_commit_ms": publish_commit_ms,
        "publish_range_ms": publish_range_ms,
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
        "backend": compute.to_string(),
        "device": device,
        "threads": std::thread::available_parallelism().map_or(1, usize::from),
        "commit": env!("LAMINA_COMMIT"),
    });
    Ok((value, device))
}

/// Prints what the stages of a proof took on a device.
fn show_device(session: &Session, device: &OnDevice) -> Result<()> {
    let share = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{:.0} %", 100.0 * share));
    let mega = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
    let mut rows = vec![
        [
            "stage",
            "device ms",
            "launches",
            "calls",
            "MB in",
            "MB out",
            "MB moved",
            "bandwidth",
            "multiplier",
            "waits ms",
            "H100 ms",
            "H100 waits",
        ]
        .map(String::from)
        .to_vec(),
    ];
    for one in &device.stages {
        let (stage, work) = (&one.stage, &one.stage.work);
        rows.push(vec![
            stage.stage.to_owned(),
            format!("{:.2}", stage.device_ms),
            grouped(work.launches as usize),
            grouped(work.calls as usize),
            mega(work.to_device_bytes),
            mega(work.to_host_bytes),
            mega(work.kernel_bytes),
            share(one.of_memory_bandwidth),
            share(one.of_multiply_adds),
            format!("{:.2}", work.waited_ns as f64 / 1e6),
            format!("{:.2}", work.modelled_ns as f64 / 1e6),
            format!("{:.2}", work.modelled_waited_ns as f64 / 1e6),
        ]);
    }
    session.output.line(format!(
        "{}, {} MB held at most; waited for the host {:.1} ms of {:.1} ms ({:.0} %)",
        device.device,
        mega(device.peak_bytes),
        device.waited_ms,
        device.wall_ms,
        100.0 * device.waited_ms / device.wall_ms,
    ))?;
    session.output.line(format!(
        "modelled H100 (docs/gpu.md): {:.1} ms, of which it waits for this host {:.1} ms ({:.0} %)",
        device.modelled_ms,
        device.modelled_waited_ms,
        100.0 * device.modelled_waited_ms / device.modelled_ms,
    ))?;
    table(&rows).into_iter().chain([String::new()]).try_for_each(|line| session.output.line(line))
}

/// The most memory that this process has held, where the system says so.
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The processor's name, where the system says so.
pub fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    match name {
        Some((_, name)) => name.trim().to_owned(),
        None => std::env::consts::ARCH.to_owned(),
    }
}
