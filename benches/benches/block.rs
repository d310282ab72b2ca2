//! `cargo bench -p lamina-benches`: one block, stage by stage.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ff::Field;
use lamina_benches::Fixture;
use lamina_circuits::{Fr, assign::BlockWitness, executor::execute, spec::Shape};
use lamina_prover::{Blinding, Cpu, Prover, Silent};

fn block(c: &mut Criterion) {
    let shape = Shape { hidden: 128, ffn: 341, heads: 4, kv_heads: 2, head_dim: 32 };
    let fixture = Fixture::new(shape, 32).unwrap_or_else(|e| panic!("fixture: {e:?}"));
    let spec = &fixture.plan.params.spec;
    let mut group = c.benchmark_group("block 128/341/4/2, 32 tokens");
    group.sample_size(10);

    group.bench_function("executor", |b| {
        b.iter(|| execute(spec, &fixture.weights, black_box(&fixture.x)));
    });
    group.bench_function("witness, phase 0", |b| {
        let layout = &fixture.circuit.layout;
        b.iter(|| BlockWitness::new(layout, fixture.witness.weights.clone(), black_box(&fixture.trace)));
    });
    group.bench_function("witness, phase 1", |b| {
        let challenges: Vec<Fr> = (0..5).map(|i| Fr::from(i + 2).square()).collect();
        b.iter(|| fixture.witness.combine(&BlockWitness::challenges(black_box(&challenges))));
    });

    let cpu = Cpu::default();
    let tau_g2 = fixture.srs.identity().tau_g2();
    let prover = Prover::from_bases(fixture.srs.bases(), tau_g2, &fixture.key, &cpu)
        .unwrap_or_else(|e| panic!("prover: {e}"));
    let instances = [vec![Fr::ONE, Fr::ZERO]];
    let prove = || {
        prover
            .prove(&fixture.witness, &instances, &fixture.committed, &mut Blinding::new(), &Silent)
            .unwrap_or_else(|e| panic!("prove: {e}"))
    };
    group.bench_function("prove", |b| {
        b.iter(|| {
            let proved = prove();
            assert!(fixture.verifies(&instances, &proved.proof), "a timed proof must verify");
        });
    });
    let proof = prove().proof;
    group.bench_function("verify", |b| {
        b.iter(|| assert!(fixture.verifies(&instances, black_box(&proof))));
    });
    group.finish();
}

criterion_group!(benches, block);
criterion_main!(benches);
