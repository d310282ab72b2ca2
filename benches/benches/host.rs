//! `cargo bench -p lamina-benches --bench host -- [tiny|glassllm|smollm2] [PROOFS] [--json]`: the host's share of a proof on a GPU.
//!
//! One proof is computed on the stand-in for the driver, which takes minutes for SmolLM2's block, and what comes back to the host
//! recorded. Then the same proof is made again and again while the stand-in computes nothing, answers from the record, and takes as
//! long for each call as the modelled H100 (`docs/gpu.md`, "A modelled device"). Every proof must be the recorded one, byte by byte,
//! which the stock verifier accepts. With `LAMINA_EMU_CHECK=0` the recording takes 45 s for the tiny shape and 5 min for SmolLM2 on one core of
//! a Xeon; without it the stand-in checks every access of every kernel, and takes several times as long.
#![expect(clippy::print_stdout, reason = "a program that prints what it measures")]

use std::time::Instant;

use ff::Field;
use lamina_benches::Fixture;
use lamina_circuits::{Fr, assign::BlockWitness, spec::Shape};
use lamina_kernels::Work;
use lamina_kernels_emu::{Mode, Tape, answers, install, tape};
use lamina_prover::{Blinding, Cuda, Prover, Silent, backend::Measured};

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A proof that was replayed.
struct Run {
    measured: Measured,
    /// Milliseconds from the trace to the cells' columns and multiplicities, and to the proof.
    laying_out_ms: f64,
    wall_ms: f64,
}

/// Medians, stage by stage. What passes before the first stage and after the last is in the sum alone.
fn report(runs: &[Run]) {
    println!("{:28}{:>9}{:>9}{:>12}{:>12}", "stage", "launches", "calls", "H100 ms", "waits ms");
    let cells = median(runs.iter().map(|run| run.laying_out_ms));
    println!("{:28}{:>9}{:>9}{cells:>12.2}{cells:>12.2}", "laying out cells, counting", "", "");
    for (at, stage) in runs[0].measured.stages.iter().enumerate() {
        let of = |ns: fn(&Work) -> u64| {
            median(runs.iter().map(|run| ns(&run.measured.stages[at].work) as f64 / 1e6))
        };
        let (ms, waits) = (of(|work| work.modelled_ns), of(|work| work.modelled_waited_ns));
        let Work { launches, calls, .. } = stage.work;
        println!("{:28}{launches:>9}{calls:>9}{ms:>12.2}{waits:>12.2}", stage.stage);
    }
    let ms = median(runs.iter().map(|run| run.measured.modelled_ms));
    let waits = median(runs.iter().map(|run| run.measured.modelled_waited_ms));
    let share =
        median(runs.iter().map(|run| 100.0 * run.measured.modelled_waited_ms / run.measured.modelled_ms));
    println!("{:46}{ms:>12.2}{waits:>12.2}   {share:.0} % of it", "all of it");
    let wall = median(runs.iter().map(|run| run.wall_ms));
    println!("{:46}{wall:>12.2}", "by the clock, until the host has overwritten what the proof left");
    println!(
        "medians of {} proofs, {} threads",
        runs.len(),
        std::thread::available_parallelism().map_or(1, usize::from)
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|one| !one.starts_with("--")).collect();
    let name = arguments.first().map_or("tiny", String::as_str);
    let proofs: usize = arguments.get(1).map_or(Ok(20), |n| n.parse()).expect("a number of proofs");
    assert!(proofs > 0, "a median is of one proof at least");
    let shape = |hidden, ffn, heads, kv_heads, head_dim| Shape { hidden, ffn, heads, kv_heads, head_dim };
    let (shape, tokens) = match name {
        "tiny" => (shape(64, 128, 2, 2, 32), 8),
        "glassllm" => (shape(128, 341, 4, 2, 32), 32),
        "smollm2" => (shape(576, 1536, 9, 3, 64), 32),
        other => panic!("no shape is called {other:?}: tiny, glassllm or smollm2"),
    };
    let fixture = Fixture::new(shape, tokens).unwrap_or_else(|e| panic!("fixture: {e:?}"));
    install(Mode::Host);
    let cuda = Cuda::open(0).unwrap_or_else(|e| panic!("device: {e}"));
    let tau_g2 = fixture.srs.identity().tau_g2();
    let prover = Prover::from_bases(fixture.srs.bases(), tau_g2, &fixture.key, &cuda)
        .unwrap_or_else(|e| panic!("prover: {e}"));
    let instances = [vec![Fr::ONE, Fr::ZERO]];
    // From the trace on, as a node proves it.
    let prove = || {
        let (layout, weights) = (&fixture.circuit.layout, fixture.witness.weights.clone());
        let witness = BlockWitness::new(layout, weights, &fixture.trace);
        let laid_out = Instant::now();
        let mut blinding = Blinding::repeatable([7; 64]);
        let proved = prover
            .prove(&witness, &instances, &fixture.committed, &mut blinding, &Silent)
            .unwrap_or_else(|e| panic!("prove: {e}"));
        (proved.proof, laid_out)
    };

    eprintln!("{name}: one proof is computed on {}", cuda.device().name());
    tape(Tape::Record);
    let (proof, _) = prove();
    let recorded = answers();
    assert!(fixture.verifies(&instances, &proof), "what is replayed must verify");
    eprintln!("{recorded} copies to the host are recorded; the proof is verified");

    cuda.device().pace(true);
    let mut runs: Vec<Run> = Vec::with_capacity(proofs);
    for _ in 0..proofs + 2 {
        tape(Tape::Replay);
        cuda.measure();
        let started = Instant::now();
        let (again, laid_out) = prove();
        let ended = Instant::now();
        assert!(again == proof && answers() == 0, "the proof is another than the recorded one");
        let measured = cuda.measured().unwrap_or_else(|e| panic!("device: {e}")).expect("it is measured");
        let ms = |until: Instant| (until - started).as_secs_f64() * 1e3;
        runs.push(Run { measured, laying_out_ms: ms(laid_out), wall_ms: ms(ended) });
    }
    // The first ones find weights that are not on the device, and everything cold.
    runs.drain(..2);
    if std::env::args().any(|one| one == "--json") {
        let runs: Vec<_> = runs
            .iter()
            .map(|Run { measured, laying_out_ms, wall_ms }| {
                serde_json::json!({ "laying_out_ms": laying_out_ms, "wall_ms": wall_ms, "proof": measured })
            })
            .collect();
        println!("{:#}", serde_json::json!({ "shape": name, "runs": runs }));
    } else {
        report(&runs);
    }
}
