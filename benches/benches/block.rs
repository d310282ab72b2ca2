//! `cargo bench -p lamina-benches --bench block [NAME]`: blocks of real shapes, stage by stage.

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use ff::Field;
use lamina_benches::Fixture;
use lamina_circuits::{Fr, assign::BlockWitness, executor::execute, spec::Shape};
use lamina_prover::{Blinding, Cpu, Proved, Prover, Silent, Timings};

/// A figure of a stage, milliseconds.
type Stage = (&'static str, fn(&Timings) -> f64);

const STAGES: [Stage; 4] = [
    ("commitments", |t| t.commit_ms),
    ("quotient", |t| t.quotient_ms),
    ("opening", |t| t.open_ms),
    ("whole proof", Timings::total_ms),
];

fn block(c: &mut Criterion, name: &str, shape: Shape, tokens: usize) {
    let fixture = Fixture::new(shape, tokens).unwrap_or_else(|e| panic!("fixture: {e:?}"));
    let spec = &fixture.plan.params.spec;
    let mut group = c.benchmark_group(format!("{name}, {tokens} tokens"));
    group.sample_size(10);

    group.bench_function("executor", |b| {
        b.iter(|| execute(spec, &fixture.weights, black_box(&fixture.x)));
    });
    group.bench_function("witness, phase 0", |b| {
        let layout = &fixture.circuit.layout;
        b.iter(|| BlockWitness::new(layout, fixture.witness.weights.clone(), black_box(&fixture.trace)));
    });
    let challenges: Vec<Fr> = (0..5).map(|i| Fr::from(i + 2).square()).collect();
    let challenges = BlockWitness::challenges(&challenges);
    group.bench_function("witness, phase 1", |b| b.iter(|| fixture.witness.combine(black_box(&challenges))));
    group.bench_function("witness, phase 1: LogUp only", |b| {
        b.iter(|| fixture.witness.lookups(black_box(&challenges)));
    });

    let cpu = Cpu::default();
    let tau_g2 = fixture.srs.identity().tau_g2();
    let prover = Prover::from_bases(fixture.srs.bases(), tau_g2, &fixture.key, &cpu)
        .unwrap_or_else(|e| panic!("prover: {e}"));
    let instances = [vec![Fr::ONE, Fr::ZERO]];
    let prove = || -> Proved {
        let proved = prover
            .prove(&fixture.witness, &instances, &fixture.committed, &mut Blinding::new(), &Silent)
            .unwrap_or_else(|e| panic!("prove: {e}"));
        assert!(fixture.verifies(&instances, &proved.proof), "a timed proof must verify");
        proved
    };
    for (stage, pick) in STAGES {
        group.bench_function(stage, |b| {
            b.iter_custom(|iterations| {
                (0..iterations).map(|_| Duration::from_secs_f64(pick(&prove().timings) / 1e3)).sum()
            });
        });
    }
    group.finish();
}

fn blocks(c: &mut Criterion) {
    let shape = |hidden, ffn, heads, kv_heads, head_dim| Shape { hidden, ffn, heads, kv_heads, head_dim };
    block(c, "glassllm 128/341/4/2", shape(128, 341, 4, 2, 32), 32);
    block(c, "SmolLM2 576/1536/9/3", shape(576, 1536, 9, 3, 64), 32);
    block(c, "GPT-2 size 768/3072/12/12", shape(768, 3072, 12, 12, 64), 64);
}

criterion_group!(benches, blocks);
criterion_main!(benches);
