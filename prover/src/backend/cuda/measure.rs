//! What the stages of proofs take on a device.

use std::time::Instant;

use lamina_kernels::{Device, Mark, Work};
use serde::Serialize;

use crate::error::BackendError;

/// What a proof took on a device, stage by stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Measured {
    /// The device's name.
    pub device: String,
    /// The most bytes that were allocated at once, those of all keys and what is kept for later buffers included.
    pub peak_bytes: u64,
    /// From the beginning of the measurement to its end, on the host's clock. In milliseconds.
    pub wall_ms: f64,
    /// How much of it the device had nothing to do, waiting for the host ([`Work::waited_ns`]). In milliseconds.
    pub waited_ms: f64,
    /// What the same would take an H100, by a model ([`Work::modelled_ns`]). In milliseconds.
    pub modelled_ms: f64,
    /// How much of that the modelled device would wait for the host. In milliseconds.
    pub modelled_waited_ms: f64,
    /// The stages, in order.
    pub stages: Vec<MeasuredStage>,
}

/// One stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MeasuredStage {
    /// The stage's name, as [`crate::Progress`] has it.
    pub stage: &'static str,
    /// From its first work to that of the next stage, on the device's stream, gaps included. In milliseconds.
    pub device_ms: f32,
    /// What was asked of the device in it. Bytes and multiply-adds of kernels are derived from sizes.
    pub work: Work,
}

/// The stages that have begun.
#[derive(Debug)]
pub(super) struct Recording {
    started: Instant,
    before: Work,
    marks: Vec<(&'static str, Mark)>,
    /// A mark that could not be taken.
    failure: Option<lamina_kernels::Error>,
}

impl Recording {
    pub(super) fn new(device: &Device) -> Self {
        let failure = device.synchronize().err();
        Recording { started: Instant::now(), before: device.work(), marks: Vec::new(), failure }
    }

    pub(super) fn begin(&mut self, device: &Device, stage: &'static str) {
        match device.mark() {
            Ok(mark) => self.marks.push((stage, mark)),
            Err(error) => self.failure = Some(error),
        }
    }

    /// The stages up to now.
    pub(super) fn finish(mut self, device: &Device) -> Result<Measured, BackendError> {
        let wall_ms = self.started.elapsed().as_secs_f64() * 1e3;
        self.begin(device, "done");
        let work = device.work().since(&self.before);
        if let Some(failure) = self.failure {
            return Err(failure.into());
        }
        let stages = self.marks.windows(2).filter(|pair| pair[0].0 != "done").map(|pair| {
            let (device_ms, work) = device.between(&pair[0].1, &pair[1].1)?;
            Ok(MeasuredStage { stage: pair[0].0, device_ms, work })
        });
        Ok(Measured {
            device: device.name().to_owned(),
            peak_bytes: device.peak_bytes(),
            wall_ms,
            waited_ms: work.waited_ns as f64 / 1e6,
            modelled_ms: work.modelled_ns as f64 / 1e6,
            modelled_waited_ms: work.modelled_waited_ns as f64 / 1e6,
            stages: stages.collect::<Result<_, BackendError>>()?,
        })
    }
}
