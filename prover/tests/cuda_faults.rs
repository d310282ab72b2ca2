//! Devices that fail: whatever happens to them, the outcome is a typed error or a true proof.
//!
//! Faults are of the whole process, so the tests take turns.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{Kitchen, Shape, setup, verifies};
use halo2_proofs::{
    halo2curves::bn256::{Bn256, G1Affine},
    poly::kzg::commitment::ParamsKZG,
};
use lamina_circuits::Fr;
use lamina_kernels_emu::{Fault, Mode, counts, heal, inject, install};
use lamina_prover::{
    Backend, BackendError, Blinding, Cuda, ProveError, Prover, ProvingKey, SetupError, Silent,
    synthesized::Synthesized,
};

/// One test at a time, on a device that is as new.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    install(Mode::Host);
    heal();
    turn
}

struct World {
    srs: ParamsKZG<Bn256>,
    next: G1Affine,
    circuit: Kitchen,
    key: ProvingKey,
    instances: Vec<Vec<Fr>>,
}

fn world() -> World {
    let (srs, _, next) = setup(5);
    let shape = Shape { degree: 4, weights: 2, rows: 20, third: false, query_instance: true };
    let circuit = Kitchen { shape, seed: 1, wrong: false };
    let key = ProvingKey::generate(&srs, &circuit).unwrap();
    let instances = circuit.instances();
    World { srs, next, circuit, key, instances }
}

impl World {
    fn prover<'a>(&'a self, cuda: &'a Cuda) -> Result<Prover<'a, Cuda>, SetupError> {
        Prover::new(&self.srs, &self.key, cuda)?.with_next_power(self.next)
    }

    fn prove(&self, prover: &Prover<'_, Cuda>) -> Result<Vec<u8>, ProveError> {
        let witness = Synthesized::new(&self.circuit, &self.instances, &self.key);
        let proved = prover.prove(&witness, &self.instances, &[], &mut Blinding::new(), &Silent)?;
        assert!(
            verifies(&self.srs, &self.key, &self.instances, &proved.proof),
            "a wrong proof was handed out"
        );
        Ok(proved.proof)
    }
}

fn open() -> Cuda {
    let cuda = Cuda::open(0).unwrap();
    assert_eq!(cuda.name(), "cuda: emulation, host code");
    cuda
}

#[test]
fn a_lost_device_is_a_typed_error_wherever_it_is_lost() {
    let _turn = turn();
    let world = world();
    let cuda = open();
    let prover = world.prover(&cuda).unwrap();
    heal();
    world.prove(&prover).unwrap();
    let (launches, _) = counts();
    assert!(launches > 100, "{launches}");
    drop(prover);
    drop(cuda);
    let mut stages = std::collections::BTreeSet::new();
    // The last launch wipes what the proof left behind.
    for launch in (0..5).map(|fifth| fifth * launches / 5).chain([launches - 2]) {
        heal();
        let cuda = open();
        let prover = world.prover(&cuda).unwrap();
        heal();
        inject(Fault::Lost { launch });
        match world.prove(&prover).unwrap_err() {
            ProveError::Backend { stage, source: BackendError::Device(error) } => {
                assert!(matches!(error, lamina_kernels::Error::Driver { .. }), "{error}");
                stages.insert(stage);
            }
            other => panic!("launch {launch}: {other}"),
        }
        // It stays lost.
        assert!(matches!(world.prove(&prover), Err(ProveError::Backend { .. })));
    }
    assert!(stages.len() >= 3, "{stages:?}");
    // Lost when the proof is there already: that one is true, the next is refused.
    heal();
    let cuda = open();
    let prover = world.prover(&cuda).unwrap();
    heal();
    inject(Fault::Lost { launch: launches - 1 });
    world.prove(&prover).unwrap();
    assert!(matches!(world.prove(&prover), Err(ProveError::Backend { .. })));
}

#[test]
fn old_drivers_and_refused_kernels_are_typed_errors() {
    let _turn = turn();
    heal();
    inject(Fault::Version { version: 11080 });
    let old = lamina_kernels::Error::OldDriver { needed: 12000, actual: 11080 };
    assert_eq!(Cuda::open(0).unwrap_err(), BackendError::Device(old));
    heal();
    inject(Fault::Refused);
    let refused = Cuda::open(0).unwrap_err().to_string();
    assert!(refused.starts_with("the CUDA driver failed to load the kernels: "), "{refused}");
    heal();
    let none = lamina_kernels::Error::NoDevice { ordinal: 1, count: 1 };
    assert_eq!(Cuda::open(1).unwrap_err(), BackendError::Device(none));
    open();
}

#[test]
fn a_device_lost_while_the_key_is_loaded_is_a_typed_error() {
    let _turn = turn();
    let world = world();
    for launch in 0..3 {
        heal();
        let cuda = open();
        heal();
        inject(Fault::Lost { launch });
        let error = world.prover(&cuda).err();
        assert!(matches!(error, Some(SetupError::Backend(BackendError::Device(_)))), "{error:?}");
    }
}

#[test]
fn memory_that_is_full_is_a_typed_error_and_the_device_goes_on() {
    let _turn = turn();
    let world = world();
    let cuda = open();
    // Each buffer is allocated by itself.
    cuda.device().keep_at_most(0);
    let prover = world.prover(&cuda).unwrap();
    heal();
    world.prove(&prover).unwrap();
    let (_, allocations) = counts();
    for allocation in (0..4).map(|quarter| quarter * allocations / 4 + 1) {
        heal();
        let before = cuda.device().memory_bytes().unwrap();
        inject(Fault::Full { allocation });
        match world.prove(&prover).unwrap_err() {
            ProveError::Backend { source: BackendError::Device(error), .. } => {
                let lamina_kernels::Error::Memory { needed, free } = error else { panic!("{error}") };
                assert!(needed > 0 && free > 0);
            }
            other => panic!("allocation {allocation}: {other}"),
        }
        // What the proof held is given back.
        cuda.device().synchronize().unwrap();
        assert_eq!(cuda.device().memory_bytes().unwrap(), before);
    }
    heal();
    world.prove(&prover).unwrap();
}

#[test]
fn what_is_kept_makes_room_on_a_full_device() {
    let _turn = turn();
    let world = world();
    let cuda = open();
    let prover = world.prover(&cuda).unwrap();
    world.prove(&prover).unwrap();
    world.prove(&prover).unwrap();
    // What wiping takes is there since the second.
    heal();
    world.prove(&prover).unwrap();
    assert_eq!(counts().1, 0, "a warm proof allocates");
    // A key of another size finds the device full, and what the first left behind goes.
    let (srs, _, next) = setup(6);
    let key = ProvingKey::generate(&srs, &world.circuit).unwrap();
    heal();
    inject(Fault::Full { allocation: 1 });
    let other = Prover::new(&srs, &key, &cuda).unwrap().with_next_power(next).unwrap();
    let witness = Synthesized::new(&world.circuit, &world.instances, &key);
    let proved = other.prove(&witness, &world.instances, &[], &mut Blinding::new(), &Silent).unwrap();
    assert!(verifies(&srs, &key, &world.instances, &proved.proof));
    heal();
    world.prove(&prover).unwrap();
    assert!(counts().1 > 0, "nothing was freed");
}

#[test]
fn a_plan_that_does_not_fit_says_both_numbers() {
    let _turn = turn();
    let world = world();
    let mut cuda = open();
    cuda.memory_bytes = 100_000;
    match world.prover(&cuda).err() {
        Some(SetupError::Backend(BackendError::Plan { needed, free: 100_000 })) => {
            assert!(needed > 100_000);
            // With as much as that it works, a round of columns after the other, where the device has no more.
            cuda.memory_bytes = needed;
            inject(Fault::Memory { bytes: needed as u64 });
            world.prove(&world.prover(&cuda).unwrap()).unwrap();
            heal();
        }
        other => panic!("{other:?}"),
    }
    // The device's own memory counts too.
    inject(Fault::Memory { bytes: 4096 });
    let error = world.prover(&cuda).err();
    assert!(matches!(error, Some(SetupError::Backend(BackendError::Plan { .. }))), "{error:?}");
}

/// A bit is flipped in what a kernel computed; [`World::prove`] asserts that no wrong proof comes out.
#[test]
fn a_wrong_result_is_never_a_proof() {
    let _turn = turn();
    let world = world();
    let cuda = open();
    let outcome = |kernel, bit| {
        let prover = world.prover(&cuda).unwrap();
        heal();
        inject(Fault::Flip { kernel, launch: 0, bit });
        world.prove(&prover).unwrap_err()
    };
    // A commitment to something else than what is opened: nothing but the verifier sees it.
    for (kernel, bit) in [("msm_digits", 0), ("divide_finish", 20 * 256 + 64)] {
        match outcome(kernel, bit) {
            ProveError::WrongProof { backend } => assert_eq!(backend, "cuda: emulation, host code"),
            other => panic!("{kernel}: {other}"),
        }
    }
    // Values that contradict one another: the prover sees it itself.
    for kernel in ["program_run", "permutation_finish", "dot_integers"] {
        let error = outcome(kernel, 0);
        assert!(
            matches!(error, ProveError::Unsatisfied | ProveError::WrongProof { .. }),
            "{kernel}: {error}"
        );
    }
}
