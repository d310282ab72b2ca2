//! Two proofs of one statement share nothing but the fixed columns; the rest of the prover's contract.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    collections::HashSet,
    sync::atomic::{AtomicUsize, Ordering},
};

use common::{Kitchen, Shape, publish, setup, verifies};
use ff::Field;
use halo2_proofs::{
    circuit::{Layouter, SimpleFloorPlanner},
    plonk::{Circuit, ConstraintSystem, Error, FirstPhase, SecondPhase},
    poly::Rotation,
};
use lamina_circuits::{
    Fr,
    audit::AuditError,
    logup::LogUp,
    witness::{Column, Witness},
};
use lamina_prover::{
    Bases, Blinding, Committed, Cpu, Kernels, KeyError, Progress, ProveError, Prover, ProvingKey, SetupError,
    Silent, UnsupportedError,
    synthesized::{Synthesized, widened},
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

const SHAPE: Shape = Shape { degree: 5, weights: 12, rows: 40, third: true, query_instance: true };

#[test]
fn two_proofs_of_one_statement_share_only_what_is_fixed() {
    let (srs, _, next) = setup(6);
    let circuit = Kitchen { shape: SHAPE, seed: 1, wrong: false };
    let key = ProvingKey::generate(&srs, &circuit).unwrap();
    let instances = circuit.instances();
    let cpu = Cpu::default();
    let prover = Prover::new(&srs, &key, &cpu).unwrap().with_next_power(next).unwrap();
    let committed = publish(prover.bases(), &key, &circuit, &mut ChaCha20Rng::seed_from_u64(3));
    let witness = Synthesized::new(&circuit, &instances, &key);
    let prove = || {
        let proved = prover.prove(&witness, &instances, &committed, &mut Blinding::new(), &Silent).unwrap();
        assert!(verifies(&srs, &key, &instances, &proved.proof));
        proved
    };
    let (one, two) = (prove(), prove());
    assert_eq!(one.proof.len(), two.proof.len());
    let cs = key.vk().cs();
    let columns = cs.num_advice_columns();
    let permuted = cs.permutation().get_columns().len();
    let products = permuted.div_ceil(key.degree() - 2);
    // Points: advice (linked columns among them), products, random polynomial (Z1), limbs (Z3).
    let points = columns + products + 1 + key.degree() - 1;
    let scalars = one.proof.len() / 32 - points - 2;
    // Only evaluations of fixed and permutation columns could ever repeat, and their point differs.
    let words: HashSet<&[u8]> = one.proof.chunks(32).collect();
    assert_eq!(words.len(), points + scalars + 2, "no word occurs twice in a proof");
    assert!(two.proof.chunks(32).all(|word| !words.contains(word)));

    // Linked columns (Z4): C' is in the proof, differs from C and between proofs, and is C + sum delta L.
    let usable = key.usable_rows();
    for (at, published) in committed.iter().enumerate() {
        for proved in [&one, &two] {
            let cut = &proved.proof[32 * published.column..][..32];
            let encoded = group::GroupEncoding::to_bytes(&proved.commitments[at]);
            assert_eq!(encoded.as_ref(), cut);
            let shift: halo2_proofs::halo2curves::bn256::G1 = proved.deltas[at]
                .iter()
                .zip(&prover.bases().lagrange[usable..])
                .map(|(delta, base)| base * delta)
                .sum();
            assert_eq!(shift + published.commitment, proved.commitments[at].into());
            assert_ne!(proved.commitments[at], published.commitment);
        }
        assert_ne!(one.deltas[at], two.deltas[at]);
    }
}

#[test]
fn integers_and_field_elements_give_the_same_proof() {
    struct Widened<'a>(&'a dyn Witness);
    impl Witness for Widened<'_> {
        fn columns(&self, phase: u8, challenges: &[Fr]) -> Vec<(usize, Column)> {
            let columns = self.0.columns(phase, challenges);
            columns.iter().map(|(index, column)| (*index, widened(column))).collect()
        }
    }
    let (srs, ..) = setup(6);
    let circuit = Kitchen { shape: SHAPE, seed: 1, wrong: false };
    let key = ProvingKey::generate(&srs, &circuit).unwrap();
    let instances = circuit.instances();
    let witness = Synthesized::new(&circuit, &instances, &key);
    // A cache of no bytes: key columns are transformed in every proof. Other arithmetic: the same proof.
    let (cached, bare) = (Cpu::default(), Cpu { cache_bytes: 0, kernels: Kernels::Portable });
    let commitments = |cpu: &Cpu, witness: &dyn Witness| {
        let mut blinding = Blinding::stock_compatible(ChaCha20Rng::seed_from_u64(1));
        let prover = Prover::new(&srs, &key, cpu).unwrap();
        let proved = prover.prove(witness, &instances, &[], &mut blinding, &Silent).unwrap();
        assert!(verifies(&srs, &key, &instances, &proved.proof));
        // Up to the random polynomial, which is fresh.
        proved.proof[..32 * key.vk().cs().num_advice_columns()].to_vec()
    };
    assert_eq!(commitments(&cached, &witness), commitments(&bare, &Widened(&witness)));
}

#[test]
fn every_refusal_has_its_error() {
    let (srs, _, next) = setup(6);
    let circuit = Kitchen { shape: SHAPE, seed: 1, wrong: false };
    let key = ProvingKey::generate(&srs, &circuit).unwrap();
    let instances = circuit.instances();
    let cpu = Cpu::default();
    let witness = Synthesized::new(&circuit, &instances, &key);
    let bare = Prover::new(&srs, &key, &cpu).unwrap();
    let mut blinding = Blinding::new();
    let error = bare.prove(&witness, &instances, &[], &mut blinding, &Silent).unwrap_err();
    assert!(matches!(error, ProveError::NoNextPower));
    let error = bare.with_next_power(srs_point(&srs)).err();
    assert_eq!(error, Some(SetupError::NextPower));
    let (small, ..) = setup(5);
    let error = Prover::new(&small, &key, &cpu).err();
    assert_eq!(error, Some(SetupError::Rows { expected: 6, actual: 5 }));

    let prover = Prover::new(&srs, &key, &cpu).unwrap().with_next_power(next).unwrap();
    let mut prove = |witness: &dyn Witness, instances: &[Vec<Fr>], committed: &[Committed]| {
        prover.prove(witness, instances, committed, &mut blinding, &Silent).unwrap_err()
    };
    let error = prove(&witness, &[], &[]);
    assert!(matches!(error, ProveError::InstanceColumns { expected: 1, actual: 0 }));
    let error = prove(&witness, &[vec![Fr::ONE; 64]], &[]);
    assert!(matches!(error, ProveError::TooManyRows { kind: "instance", actual: 64, .. }));
    let wrong = Kitchen { wrong: true, ..circuit.clone() };
    let wrong = Synthesized::new(&wrong, &instances, &key);
    assert!(matches!(prove(&wrong, &instances, &[]), ProveError::Unsatisfied));
    let mut published = publish(prover.bases(), &key, &circuit, &mut ChaCha20Rng::seed_from_u64(3));
    published[0].tail.pop();
    let error = prove(&witness, &instances, &published);
    assert!(matches!(error, ProveError::Committed { column: 3, .. }));
    published[0] = published[1].clone();
    let error = prove(&witness, &instances, &published);
    assert!(matches!(error, ProveError::Committed { column: 4, problem: "named twice" }));
    published[0].column = 3 + SHAPE.weights;
    let error = prove(&witness, &instances, &published[..1]);
    assert!(matches!(error, ProveError::Committed { .. }));

    struct Nothing;
    impl Witness for Nothing {
        fn columns(&self, _: u8, _: &[Fr]) -> Vec<(usize, Column)> {
            Vec::new()
        }
    }
    let error = prove(&Nothing, &instances, &[]);
    assert!(matches!(error, ProveError::AdviceColumns { phase: 0, .. }));
}

/// `[tau^0]`, which is not the next power.
fn srs_point(
    srs: &halo2_proofs::poly::kzg::commitment::ParamsKZG<halo2_proofs::halo2curves::bn256::Bn256>,
) -> halo2_proofs::halo2curves::bn256::G1Affine {
    Bases::new(srs, 6).unwrap().monomial[0]
}

#[test]
fn a_proof_can_be_stopped_between_any_two_stages() {
    struct Stop {
        left: AtomicUsize,
        seen: AtomicUsize,
    }
    impl Progress for Stop {
        fn stage(&self, _: &'static str, done: usize, total: usize) {
            assert!(done <= total);
            self.seen.fetch_add(1, Ordering::Relaxed);
        }
        fn cancelled(&self) -> bool {
            let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |l| l.checked_sub(1));
            left.is_err()
        }
    }
    let (srs, _, next) = setup(6);
    let circuit = Kitchen { shape: SHAPE, seed: 1, wrong: false };
    let key = ProvingKey::generate(&srs, &circuit).unwrap();
    let instances = circuit.instances();
    let cpu = Cpu::default();
    let witness = Synthesized::new(&circuit, &instances, &key);
    let prover = Prover::new(&srs, &key, &cpu).unwrap().with_next_power(next).unwrap();
    let mut stopped = 0;
    loop {
        let stop = Stop { left: AtomicUsize::new(stopped), seen: AtomicUsize::new(0) };
        match prover.prove(&witness, &instances, &[], &mut Blinding::new(), &stop) {
            Err(ProveError::Cancelled) => stopped += 1,
            Err(other) => panic!("{other}"),
            Ok(_) => break,
        }
        assert!(stopped < 100);
    }
    assert!(stopped >= 8);
}

#[test]
fn larger_parameters_hold_the_next_power() {
    let (srs, _, next) = setup(6);
    let (larger, ..) = setup(7);
    let small = Bases::new(&srs, 6).unwrap().with_next_power(next, srs.s_g2()).unwrap();
    let cut = Bases::new(&larger, 6).unwrap();
    assert_eq!(small.next_power, cut.next_power);
    assert_eq!(small.monomial, cut.monomial);
    assert_eq!(small.lagrange, cut.lagrange);
}

#[test]
fn keys_survive_a_file_and_nothing_else() {
    let (srs, _, next) = setup(6);
    let circuit = Kitchen { shape: SHAPE, seed: 1, wrong: false };
    let key = ProvingKey::generate(&srs, &circuit).unwrap();
    let mut file = Vec::new();
    let digest = key.write(&mut file).unwrap();
    let read = |file: &[u8], pinned| ProvingKey::read::<Kitchen>(&mut &file[..], SHAPE, pinned);
    let back = read(&file, Some(&digest)).unwrap();
    assert_eq!(back.vk().transcript_repr(), key.vk().transcript_repr());
    let mut again = Vec::new();
    assert_eq!(back.write(&mut again).unwrap(), digest);
    assert_eq!(again, file);
    let instances = circuit.instances();
    let cpu = Cpu::default();
    let prover = Prover::new(&srs, &back, &cpu).unwrap().with_next_power(next).unwrap();
    let witness = Synthesized::new(&circuit, &instances, &back);
    let proved = prover.prove(&witness, &instances, &[], &mut Blinding::new(), &Silent).unwrap();
    assert!(verifies(&srs, &key, &instances, &proved.proof));

    assert!(matches!(read(&file, Some(&[0; 64])), Err(KeyError::Digest)));
    for at in (0..file.len()).step_by(file.len() / 97) {
        let mut bad = file.clone();
        bad[at] ^= 1;
        let error = read(&bad, None).unwrap_err();
        assert!(matches!(error, KeyError::Digest | KeyError::Format { .. }), "byte {at}");
    }
    assert!(matches!(read(&file[..file.len() - 1], None), Err(KeyError::Digest)));
    assert!(matches!(read(&file[..20], None), Err(KeyError::Io(_))));
}

#[derive(Clone)]
struct Lookup;

impl Circuit<Fr> for Lookup {
    type Config = ();
    type FloorPlanner = SimpleFloorPlanner;
    type Params = ();
    fn without_witnesses(&self) -> Self {
        Lookup
    }
    fn configure(meta: &mut ConstraintSystem<Fr>) {
        let a = meta.advice_column();
        let t = meta.fixed_column();
        meta.lookup_any("range", |m| {
            vec![(m.query_advice(a, Rotation::cur()), m.query_fixed(t, Rotation::cur()))]
        });
    }
    fn synthesize(&self, (): (), _: impl Layouter<Fr>) -> Result<(), Error> {
        Ok(())
    }
}

#[test]
fn lookup_arguments_are_refused() {
    let (srs, ..) = setup(5);
    let error = ProvingKey::generate(&srs, &Lookup).unwrap_err();
    assert!(matches!(error, KeyError::Unsupported(UnsupportedError::Lookups { count: 1 })));
}

/// Looks up a cell that only the lookup determines.
#[derive(Clone)]
struct Late;

impl Circuit<Fr> for Late {
    type Config = ();
    type FloorPlanner = SimpleFloorPlanner;
    type Params = ();
    fn without_witnesses(&self) -> Self {
        Late
    }
    fn configure(meta: &mut ConstraintSystem<Fr>) {
        let counts = LogUp::multiplicities(meta, 1);
        let cell = meta.advice_column_in(SecondPhase);
        let active = meta.fixed_column();
        let logup = LogUp::new(meta, counts, 1, active);
        let [theta, beta] = [(); 2].map(|()| meta.challenge_usable_after(FirstPhase));
        logup.gates(meta, theta, beta, |m| vec![m.query_advice(cell, Rotation::cur())]);
    }
    fn synthesize(&self, (): (), _: impl Layouter<Fr>) -> Result<(), Error> {
        Ok(())
    }
}

#[test]
fn circuits_that_look_up_late_cells_get_no_key() {
    let (srs, ..) = setup(5);
    let error = ProvingKey::generate(&srs, &Late).unwrap_err();
    assert!(
        matches!(&error, KeyError::Audit(AuditError::LookedUpLate { gate, relation: 0, .. }) if gate == "lookup/1"),
        "{error}"
    );
}
