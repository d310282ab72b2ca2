//! What proves: a GPU where one is at hand, else the CPU.

use std::{
    fmt,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use halo2_proofs::halo2curves::bn256::G2Affine;
use lamina_circuits::{Fr, witness::Witness};
use lamina_prover::{
    Backend, Blinding, Committed, Cpu, Cuda, Progress, ProveError, Proved, Prover, ProvingKey, SetupError,
    setup::Bases,
};

use crate::{
    cli::BackendChoice,
    failure::{Failure, Kind, Result},
    output::Output,
};

/// The backends at hand.
pub struct Compute {
    cpu: Cpu,
    cuda: Option<Cuda>,
    /// Whether the CPU takes over when the device fails.
    falls_back: bool,
    /// Whether it has.
    fell_back: AtomicBool,
    output: Output,
}

impl fmt::Display for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&match self.device() {
            Some(cuda) => cuda.name(),
            None => self.cpu.name(),
        })
    }
}

impl Compute {
    /// Opens what was asked for; of `auto` it says what it is, and why.
    ///
    /// # Errors
    /// [`Kind::Device`]: a device was asked for, and there is none that serves.
    pub fn open(output: Output, choice: BackendChoice) -> Result<Self> {
        let (cuda, falls_back) = match choice {
            BackendChoice::Cpu => (None, false),
            BackendChoice::Cuda => match Cuda::open(0) {
                Ok(cuda) => (Some(cuda), false),
                Err(error) => {
                    let why = format_args!("--backend cuda: {error}; --backend cpu proves without");
                    return Err(Failure::new(Kind::Device, why));
                }
            },
            BackendChoice::Auto => match Cuda::open(0) {
                Ok(cuda) => {
                    output.note(format!("backend   {}, found by --backend auto", cuda.name()));
                    (Some(cuda), true)
                }
                Err(error) => {
                    output.note(format!("backend   {}: {error}", Cpu::default().name()));
                    (None, true)
                }
            },
        };
        Ok(Compute { cpu: Cpu::default(), cuda, falls_back, fell_back: AtomicBool::new(false), output })
    }

    /// The CPU.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    fn device(&self) -> Option<&Cuda> {
        self.cuda.as_ref().filter(|_| !self.fell_back.load(Ordering::Relaxed))
    }

    /// Whether the CPU takes over; says so once.
    fn takes_over(&self, error: &dyn fmt::Display) -> bool {
        if self.falls_back && !self.fell_back.swap(true, Ordering::Relaxed) {
            self.output.note(format!("backend   {} from here on: {error}", self.cpu.name()));
        }
        self.falls_back
    }

    /// Loads a key, on the device where there is one.
    ///
    /// # Errors
    /// The reference string does not fit the key; the device failed, and nothing takes over.
    pub fn load<'a>(
        &'a self,
        bases: &Bases,
        tau_g2: G2Affine,
        key: &'a ProvingKey,
    ) -> Result<KeyProver<'a>, SetupError> {
        let cuda = match self.device().map(|cuda| Prover::from_bases(bases.clone(), tau_g2, key, cuda)) {
            Some(Ok(prover)) => Some(prover),
            Some(Err(error @ SetupError::Backend(_))) if self.takes_over(&chain(&error)) => None,
            Some(Err(error)) => return Err(error),
            None => None,
        };
        let prover =
            KeyProver { compute: self, bases: bases.clone(), tau_g2, key, cuda, cpu: OnceLock::new() };
        if prover.cuda.is_none() {
            prover.on_cpu()?;
        }
        Ok(prover)
    }
}

/// A loaded key.
pub struct KeyProver<'a> {
    compute: &'a Compute,
    bases: Bases,
    tau_g2: G2Affine,
    key: &'a ProvingKey,
    cuda: Option<Prover<'a, Cuda>>,
    /// Loaded when it is needed.
    cpu: OnceLock<Prover<'a, Cpu>>,
}

impl<'a> KeyProver<'a> {
    fn on_cpu(&self) -> Result<&Prover<'a, Cpu>, SetupError> {
        if let Some(prover) = self.cpu.get() {
            return Ok(prover);
        }
        let prover = Prover::from_bases(self.bases.clone(), self.tau_g2, self.key, &self.compute.cpu)?;
        Ok(self.cpu.get_or_init(|| prover))
    }

    /// Proves one statement. A device that fails leaves no proof behind: the CPU proves it anew, where it may.
    ///
    /// # Errors
    /// See [`ProveError`].
    pub fn prove(
        &self,
        witness: &dyn Witness,
        instances: &[Vec<Fr>],
        committed: &[Committed],
        progress: &dyn Progress,
    ) -> Result<Proved> {
        if let (Some(cuda), Some(_)) = (&self.cuda, self.compute.device()) {
            match cuda.prove(witness, instances, committed, &mut Blinding::new(), progress) {
                Err(error @ (ProveError::Backend { .. } | ProveError::WrongProof { .. }))
                    if self.compute.takes_over(&chain(&error)) => {}
                result => return Ok(result?),
            }
        }
        let prover = self.on_cpu()?;
        Ok(prover.prove(witness, instances, committed, &mut Blinding::new(), progress)?)
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
