//! Whole proofs: accepted by the stock verifier, equal to the stock prover's, fresh every time.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Kitchen, Shape, publish, setup, verifies};
use lamina_prover::{
    Backend, Blinding, Cpu, Dual, Kernels, ProveError, Prover, ProvingKey, Reference, Silent,
    synthesized::Synthesized,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

fn shape(degree: usize) -> Shape {
    Shape { degree, weights: 5, rows: 20, third: degree != 3, query_instance: degree == 4 }
}

#[test]
fn reference_is_accepted() {
    for degree in 3..=5 {
        let (srs, _, next) = setup(5);
        let circuit = Kitchen { shape: shape(degree), seed: 1, wrong: false };
        let key = ProvingKey::generate(&srs, &circuit).unwrap();
        let instances = circuit.instances();
        let prover = Prover::new(&srs, &key, &Reference).unwrap().with_next_power(next).unwrap();
        let committed = publish(prover.bases(), &key, &circuit, &mut ChaCha20Rng::seed_from_u64(3));
        let witness = Synthesized::new(&circuit, &instances, &key);
        for committed in [&[][..], &committed] {
            let proved =
                prover.prove(&witness, &instances, committed, &mut Blinding::new(), &Silent).unwrap();
            assert!(verifies(&srs, &key, &instances, &proved.proof));
        }
        let wrong = Kitchen { wrong: true, ..circuit.clone() };
        let witness = Synthesized::new(&wrong, &instances, &key);
        let error = prover.prove(&witness, &instances, &[], &mut Blinding::new(), &Silent);
        assert!(matches!(error, Err(ProveError::Unsatisfied)));
    }
}

#[test]
fn both_backends_agree_on_every_step() {
    for degree in 3..=5 {
        let (srs, _, next) = setup(5);
        let circuit = Kitchen { shape: shape(degree), seed: 1, wrong: false };
        let key = ProvingKey::generate(&srs, &circuit).unwrap();
        let instances = circuit.instances();
        let dual = Dual(Reference, Cpu { kernels: Kernels::Portable, ..Cpu::default() });
        assert_eq!(dual.name(), "dual(reference, cpu)");
        let prover = Prover::new(&srs, &key, &dual).unwrap().with_next_power(next).unwrap();
        let committed = publish(prover.bases(), &key, &circuit, &mut ChaCha20Rng::seed_from_u64(3));
        let witness = Synthesized::new(&circuit, &instances, &key);
        let proved = prover.prove(&witness, &instances, &committed, &mut Blinding::new(), &Silent).unwrap();
        assert!(verifies(&srs, &key, &instances, &proved.proof));
    }
}

/// On machines without vector kernels both sides are the portable ones; the name says so.
#[test]
fn both_kernels_agree_on_every_step() {
    #[cfg(target_arch = "x86_64")]
    let vector = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512ifma");
    #[cfg(not(target_arch = "x86_64"))]
    let vector = false;
    for log_n in [8, 9, 11] {
        let (srs, _, next) = setup(log_n);
        let circuit = Kitchen { shape: shape(5), seed: 1, wrong: false };
        let key = ProvingKey::generate(&srs, &circuit).unwrap();
        let instances = circuit.instances();
        let dual = Dual(Cpu { kernels: Kernels::Portable, ..Cpu::default() }, Cpu::default());
        let expected = if vector { "dual(cpu, cpu-ifma)" } else { "dual(cpu, cpu)" };
        assert_eq!(dual.name(), expected);
        let prover = Prover::new(&srs, &key, &dual).unwrap().with_next_power(next).unwrap();
        let committed = publish(prover.bases(), &key, &circuit, &mut ChaCha20Rng::seed_from_u64(3));
        let witness = Synthesized::new(&circuit, &instances, &key);
        let proved = prover.prove(&witness, &instances, &committed, &mut Blinding::new(), &Silent).unwrap();
        assert!(verifies(&srs, &key, &instances, &proved.proof));
    }
}
