//! What proves: a GPU where one is at hand, else the CPU.

use std::{
    fmt,
    sync::{
        Condvar, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use halo2_proofs::halo2curves::bn256::G2Affine;
use lamina_circuits::{Fr, witness::Witness};
use lamina_prover::{
    Backend, BackendError, Beside, Blinding, Committed, Cpu, Cuda, Progress, ProveError, Proved, Prover,
    ProvingKey, SetupError,
    backend::{Ceilings, MeasuredStage},
    setup::Bases,
};
use serde::Serialize;

use crate::{
    cli::BackendChoice,
    failure::{Failure, Kind, Result},
    output::Output,
};

/// The backends at hand.
pub struct Compute {
    cpu: Cpu,
    /// One device, a stream each: while one computes, the host lays out the columns of the next slice.
    streams: Vec<Cuda>,
    /// Whether the CPU takes over when the device fails.
    falls_back: bool,
    /// Whether it has.
    fell_back: AtomicBool,
    output: Output,
}

/// What proofs took on a device.
#[derive(Clone, Debug, Serialize)]
pub struct OnDevice {
    /// Its name.
    pub device: String,
    /// The most bytes of its memory that were held at once.
    pub peak_bytes: u64,
    /// How long the proof took by the host's clock, in milliseconds.
    pub wall_ms: f64,
    /// How much of that the device had nothing to do, waiting for the host, in milliseconds.
    pub waited_ms: f64,
    /// What the same would take an H100 by the model of `docs/gpu.md`, in milliseconds, and how much of that it would wait for
    /// the host.
    pub modelled_ms: f64,
    /// See there.
    pub modelled_waited_ms: f64,
    /// What it could do at most, where its driver tells.
    pub ceilings: Option<Ceilings>,
    /// Stages of the proof, in order.
    pub stages: Vec<StageOnDevice>,
}

/// One stage.
#[derive(Clone, Debug, Serialize)]
pub struct StageOnDevice {
    /// Time and work.
    #[serde(flatten)]
    pub stage: MeasuredStage,
    /// Share of the memory's bandwidth that the kernels used.
    pub of_memory_bandwidth: Option<f64>,
    /// Share of the rate of wide multiply-adds.
    pub of_multiply_adds: Option<f64>,
}

/// Slices proved at a time on a device.
const STREAMS: usize = 2;

/// Cores that one proof keeps busy: with fewer, slices proved at a time take turns.
const CORES_A_SLICE: usize = 8;

impl fmt::Display for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&match self.streams() {
            [cuda, ..] => cuda.name(),
            [] => self.cpu.name(),
        })
    }
}

fn open() -> Result<Vec<Cuda>, BackendError> {
    let first = Cuda::open(0)?;
    (1..STREAMS).map(|_| first.fork()).chain([Ok(first.clone())]).collect()
}

impl Compute {
    /// Opens what was asked for; of `auto` it says what it is, and why.
    ///
    /// # Errors
    /// [`Kind::Device`]: a device was asked for, and there is none that serves.
    pub fn open(output: Output, choice: BackendChoice) -> Result<Self> {
        let streams = match choice {
            BackendChoice::Cpu => vec![],
            BackendChoice::Cuda => open().map_err(|error| {
                let why = format_args!("--backend cuda: {error}; --backend cpu proves without");
                Failure::new(Kind::Device, why)
            })?,
            BackendChoice::Auto => open().unwrap_or_else(|error| {
                output.note(format!("backend   {}: {error}", Cpu::default().name()));
                vec![]
            }),
        };
        if let (BackendChoice::Auto, [cuda, ..]) = (choice, &streams[..]) {
            output.note(format!("backend   {}, found by --backend auto", cuda.name()));
        }
        let falls_back = choice == BackendChoice::Auto;
        Ok(Compute { cpu: Cpu::default(), streams, falls_back, fell_back: AtomicBool::new(false), output })
    }

    fn streams(&self) -> &[Cuda] {
        if self.fell_back.load(Ordering::Relaxed) { &[] } else { &self.streams }
    }

    /// Slices that are worth proving at a time.
    pub fn at_a_time(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.streams().len().max(cores / CORES_A_SLICE).max(1)
    }

    /// Begins to measure proofs on the device, if there is one; one proof at a time.
    pub fn measure(&self) {
        self.streams().iter().take(1).for_each(Cuda::measure);
    }

    /// What proofs took on the device since [`Compute::measure`], stage by stage.
    ///
    /// # Errors
    /// The device failed.
    pub fn measured(&self) -> Result<Option<OnDevice>> {
        let [cuda, ..] = self.streams() else { return Ok(None) };
        let ceilings = cuda.ceilings()?;
        let of = |stage: MeasuredStage| {
            let share = |work: u64, ceiling: &dyn Fn(&Ceilings) -> f64| {
                let seconds = f64::from(stage.device_ms) / 1e3;
                ceilings.as_ref().map(|most| work as f64 / seconds / ceiling(most))
            };
            let work = stage.work;
            StageOnDevice {
                of_memory_bandwidth: share(work.kernel_bytes, &|most| most.bytes_per_s),
                of_multiply_adds: share(work.multiply_adds, &|most| most.multiply_adds_per_s),
                stage,
            }
        };
        Ok(cuda.measured()?.map(|measured| OnDevice {
            device: measured.device,
            peak_bytes: measured.peak_bytes,
            wall_ms: measured.wall_ms,
            waited_ms: measured.waited_ms,
            modelled_ms: measured.modelled_ms,
            modelled_waited_ms: measured.modelled_waited_ms,
            ceilings,
            stages: measured.stages.into_iter().map(of).collect(),
        }))
    }

    /// Whether the CPU takes over; says so once.
    fn takes_over(&self, error: &dyn std::error::Error) -> bool {
        if self.falls_back && !self.fell_back.swap(true, Ordering::Relaxed) {
            self.output.note(format!("backend   {} from here on: {}", self.cpu.name(), chain(error)));
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
        let streams = self.streams();
        let mut prover = KeyProver {
            compute: self,
            bases: bases.clone(),
            tau_g2,
            key,
            cuda: streams.iter().map(|_| OnceLock::new()).collect(),
            // The first is taken first.
            free: Mutex::new((0..streams.len()).rev().collect()),
            freed: Condvar::new(),
            cpu: OnceLock::new(),
        };
        let first = streams.first().map(|_| prover.on_stream(0).map(|_| ()));
        match first {
            Some(Ok(())) => {}
            Some(Err(SetupError::Backend(error))) if self.takes_over(&error) => prover.cuda.clear(),
            Some(Err(error)) => return Err(error),
            None => {}
        }
        if prover.cuda.is_empty() {
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
    /// One a stream; the first is loaded, the others when they are needed.
    cuda: Vec<OnceLock<Prover<'a, Cuda>>>,
    /// Which of them prove nothing.
    free: Mutex<Vec<usize>>,
    freed: Condvar,
    /// Loaded when it is needed.
    cpu: OnceLock<Prover<'a, Cpu>>,
}

/// One of the device's provers, until it is dropped.
struct Taken<'p, 'a>(&'p KeyProver<'a>, usize);

impl Drop for Taken<'_, '_> {
    fn drop(&mut self) {
        self.0.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.1);
        self.0.freed.notify_one();
    }
}

impl<'a> KeyProver<'a> {
    fn on_cpu(&self) -> Result<&Prover<'a, Cpu>, SetupError> {
        if let Some(prover) = self.cpu.get() {
            return Ok(prover);
        }
        let prover = Prover::from_bases(self.bases.clone(), self.tau_g2, self.key, &self.compute.cpu)?;
        Ok(self.cpu.get_or_init(|| prover))
    }

    fn on_stream(&self, at: usize) -> Result<&Prover<'a, Cuda>, SetupError> {
        if let Some(prover) = self.cuda[at].get() {
            return Ok(prover);
        }
        let backend = &self.compute.streams[at];
        let prover = Prover::from_bases(self.bases.clone(), self.tau_g2, self.key, backend)?;
        Ok(self.cuda[at].get_or_init(|| prover))
    }

    /// A prover of the device that is free, if the device is in use at all.
    fn take(&self) -> Option<Taken<'_, 'a>> {
        if self.cuda.is_empty() || self.compute.streams().is_empty() {
            return None;
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match free.pop() {
                Some(one) => return Some(Taken(self, one)),
                None => free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Proves one statement. A device that fails leaves no proof behind: the CPU proves it anew, where it may, and `beside` is
    /// called again.
    ///
    /// # Errors
    /// See [`ProveError`].
    pub fn prove(
        &self,
        witness: &dyn Witness,
        instances: &[Vec<Fr>],
        committed: &[Committed],
        progress: &dyn Progress,
        beside: Option<Beside<'_>>,
    ) -> Result<Proved> {
        while let Some(taken) = self.take() {
            let Ok(prover) = self.on_stream(taken.1) else {
                // No memory for a second one: it is never free again, and the first will be.
                std::mem::forget(taken);
                continue;
            };
            match prover.prove_with(witness, instances, committed, &mut Blinding::new(), progress, beside) {
                Err(error @ (ProveError::Backend { .. } | ProveError::WrongProof { .. }))
                    if self.compute.takes_over(&error) =>
                {
                    break;
                }
                result => return Ok(result?),
            }
        }
        let prover = self.on_cpu()?;
        Ok(prover.prove_with(witness, instances, committed, &mut Blinding::new(), progress, beside)?)
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
