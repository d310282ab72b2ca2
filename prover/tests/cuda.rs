//! The backend for GPUs: on the stand-in driver, or with `LAMINA_TEST_DEVICE=cuda` on a device.
//!
//! Every test names the backend that it must have run on.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Kitchen, Shape, publish, setup, verifies};
use lamina_kernels_emu::Mode;
use lamina_prover::{
    Backend, Blinding, Cuda, Dual, ProveError, Prover, ProvingKey, Reference, Silent, backend::Plan,
    synthesized::Synthesized,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

fn shape(degree: usize) -> Shape {
    Shape { degree, weights: 5, rows: 20, third: degree != 3, query_instance: degree == 4 }
}

/// What `LAMINA_TEST_DEVICE` says: the kernels as host code (the default), the shipped PTX, or a device that is there.
fn cuda() -> Cuda {
    let mode = match std::env::var("LAMINA_TEST_DEVICE").as_deref() {
        Ok("ptx") => Some(Mode::Ptx),
        Ok("cuda") => None,
        _ => Some(Mode::Host),
    };
    mode.into_iter().for_each(lamina_kernels_emu::install);
    let cuda = Cuda::open(0).unwrap();
    match mode {
        Some(mode) => assert_eq!(cuda.name(), format!("cuda: {}", mode.device_name())),
        None => assert!(!cuda.name().starts_with("cuda: emulation"), "{}", cuda.name()),
    }
    cuda
}

fn agrees_with_the_reference(degree: usize, cuda: Cuda) {
    let (srs, _, next) = setup(5);
    let circuit = Kitchen { shape: shape(degree), seed: 1, wrong: false };
    let key = ProvingKey::generate(&srs, &circuit).unwrap();
    let instances = circuit.instances();
    let dual = Dual(Reference, cuda);
    assert!(dual.name().starts_with("dual(reference, cuda: "), "{}", dual.name());
    let prover = Prover::new(&srs, &key, &dual).unwrap().with_next_power(next).unwrap();
    let committed = publish(prover.bases(), &key, &circuit, &mut ChaCha20Rng::seed_from_u64(3));
    let witness = Synthesized::new(&circuit, &instances, &key);
    for committed in [&[][..], &committed] {
        let proved = prover.prove(&witness, &instances, committed, &mut Blinding::new(), &Silent).unwrap();
        assert!(verifies(&srs, &key, &instances, &proved.proof));
    }
}

#[test]
fn every_step_of_degree_3_is_the_references() {
    agrees_with_the_reference(3, cuda());
}

#[test]
fn every_step_of_degree_4_is_the_references() {
    agrees_with_the_reference(4, cuda());
}

#[test]
fn every_step_of_degree_5_is_the_references() {
    agrees_with_the_reference(5, cuda());
}

/// Three columns at a time, with the quotient's coefficients kept and computed again.
#[test]
fn every_step_in_rounds_is_the_references() {
    for streamed in [false, true] {
        let mut cuda = cuda();
        cuda.round_bytes = 3 * (32 << 5);
        cuda.streamed = streamed;
        agrees_with_the_reference(4, cuda);
    }
}

/// What the command does with two slices at a time.
#[test]
fn two_streams_prove_side_by_side() {
    let (srs, _, next) = setup(5);
    let circuit = Kitchen { shape: shape(4), seed: 1, wrong: false };
    let key = ProvingKey::generate(&srs, &circuit).unwrap();
    let instances = circuit.instances();
    let first = cuda();
    let second = first.fork().unwrap();
    let provers =
        [&first, &second].map(|cuda| Prover::new(&srs, &key, cuda).unwrap().with_next_power(next).unwrap());
    let witness = Synthesized::new(&circuit, &instances, &key);
    let prove = |prover: &Prover<'_, Cuda>| {
        for _ in 0..2 {
            let proved = prover.prove(&witness, &instances, &[], &mut Blinding::new(), &Silent).unwrap();
            assert!(verifies(&srs, &key, &instances, &proved.proof));
        }
    };
    std::thread::scope(|scope| provers.iter().for_each(|prover| drop(scope.spawn(|| prove(prover)))));
}

#[test]
fn proofs_are_accepted_and_false_statements_refused() {
    let (srs, _, next) = setup(8);
    let cuda = cuda();
    let circuit = Kitchen { shape: shape(5), seed: 1, wrong: false };
    let key = ProvingKey::generate(&srs, &circuit).unwrap();
    let instances = circuit.instances();
    let prover = Prover::new(&srs, &key, &cuda).unwrap().with_next_power(next).unwrap();
    let witness = Synthesized::new(&circuit, &instances, &key);
    let proved = prover.prove(&witness, &instances, &[], &mut Blinding::new(), &Silent).unwrap();
    assert!(verifies(&srs, &key, &instances, &proved.proof));
    cuda.measure();
    prover.prove(&witness, &instances, &[], &mut Blinding::new(), &Silent).unwrap();
    let measured = cuda.measured().unwrap().unwrap();
    assert!(cuda.measured().unwrap().is_none());
    assert!(serde_json::to_string(&measured).unwrap().contains("\"multiply_adds\":"));
    let stages: Vec<_> = measured.stages.iter().map(|stage| stage.stage).collect();
    for stage in
        ["witness", "commit", "permutation", "quotient", "commit to the quotient", "evaluate", "open"]
    {
        assert!(stages.contains(&stage), "{stage} is not among {stages:?}");
    }
    let work = measured.stages.iter().find(|stage| stage.stage == "quotient").unwrap().work;
    // A transform, the program and a transform for each coset, at least.
    let least = 3 * (key.degree() as u64 - 1);
    assert!(work.launches > least && work.multiply_adds > 1 << 20 && work.kernel_bytes > 1 << 18, "{work:?}");
    assert!(measured.stages.iter().map(|stage| stage.work.to_device_bytes).sum::<u64>() > 20 << 8);
    // The host folds nothing while the device waits, but draws blinding values and hashes what it reads.
    assert!(0.0 < measured.waited_ms && measured.waited_ms < measured.wall_ms, "{measured:?}");
    let of_stages: u64 = measured.stages.iter().map(|stage| stage.work.waited_ns).sum();
    assert!(of_stages as f64 / 1e6 <= measured.waited_ms, "{measured:?}");
    // What is planned suffices.
    let plan = Plan::of(&key);
    let planned = (plan.needed(false) + plan.ahead_bytes) as u64;
    assert!(measured.peak_bytes <= planned, "{} of {planned}", measured.peak_bytes);
    let wrong = Kitchen { wrong: true, ..circuit.clone() };
    let witness = Synthesized::new(&wrong, &instances, &key);
    let error = prover.prove(&witness, &instances, &[], &mut Blinding::new(), &Silent);
    assert!(matches!(error, Err(ProveError::Unsatisfied)));
}
