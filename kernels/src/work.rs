//! What has been asked of a device, counted where it is asked.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Work since a device was opened, or between two moments.
///
/// Bytes and multiply-adds of kernels are derived from their sizes by the code that launches them, not measured: what the kernel
/// has to read and write at least once in global memory, and 32-bit multiplications, 139 for a product of field elements and 9 for
/// the reduction of a sum of products of integers and field elements. These products themselves are the matrix units', and not
/// counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Work {
    /// Kernels launched.
    pub launches: u64,
    /// Bytes copied to the device.
    pub to_device_bytes: u64,
    /// Bytes copied to the host.
    pub to_host_bytes: u64,
    /// Bytes copied on the device, and overwritten with zeros.
    pub on_device_bytes: u64,
    /// Bytes that kernels read and write.
    pub kernel_bytes: u64,
    /// Multiplications of 32-bit words.
    pub multiply_adds: u64,
    /// Nanoseconds that the device had nothing to do, waiting for the host: from when the host knew that all was done to the
    /// next kernel or copy, without the driver's own time to allocate and to copy. What passes between two kernels that are queued one
    /// after the other is not in it.
    pub waited_ns: u64,
    /// Calls of the driver: launches, copies, fillings, allocations and their ends, moments marked, and waits for the device.
    pub calls: u64,
    /// Nanoseconds that the same would take an H100, by a model: from the host's own time between its calls of the driver, which is
    /// measured, what those calls would take it, and kernels at the device's ceilings (`docs/gpu.md`, "A modelled device").
    pub modelled_ns: u64,
    /// How much of that the modelled device would have nothing to do, because the host had not got there yet.
    pub modelled_waited_ns: u64,
}

impl Work {
    /// What came after `before`.
    pub fn since(&self, before: &Work) -> Work {
        Work {
            launches: self.launches - before.launches,
            to_device_bytes: self.to_device_bytes - before.to_device_bytes,
            to_host_bytes: self.to_host_bytes - before.to_host_bytes,
            on_device_bytes: self.on_device_bytes - before.on_device_bytes,
            kernel_bytes: self.kernel_bytes - before.kernel_bytes,
            multiply_adds: self.multiply_adds - before.multiply_adds,
            waited_ns: self.waited_ns - before.waited_ns,
            calls: self.calls - before.calls,
            modelled_ns: self.modelled_ns - before.modelled_ns,
            modelled_waited_ns: self.modelled_waited_ns - before.modelled_waited_ns,
        }
    }
}

/// Multiplications of words in a product of field elements.
pub(crate) const PRODUCT: usize = 139;

/// Multiplications of words in the reduction of a sum that the matrix units made: `bytes_reduce` of bytes.cuh.
pub(crate) const REDUCTION: usize = 9;

/// The modelled device: an H100 SXM, as the floors of `docs/gpu.md` have it.
mod h100 {
    /// Bytes of its memory, read or written, a nanosecond.
    pub(super) const BYTES: f64 = 3350.0;
    /// Multiplications of words a nanosecond: 132 multiprocessors, 32 a clock, 1.7 GHz.
    pub(super) const MULTIPLY_ADDS: f64 = 132.0 * 32.0 * 1.7;
    /// The least that a kernel, a copy or a filling takes of the stream, in nanoseconds.
    pub(super) const LEAST_NS: f64 = 2e3;
    /// Bytes a nanosecond that reach it from the host: from memory that the driver has to copy first, and from its own.
    pub(super) const PAGEABLE: f64 = 10.0;
    pub(super) const PINNED: f64 = 25.0;
    /// A product in a chain of them: 450 clocks.
    pub(super) const CHAINED_NS: f64 = 450.0 / 1.7;
    /// What the driver takes of the host, in nanoseconds: to queue a kernel or a filling, to queue a copy, to allocate, to free or to
    /// mark a moment, and to find out that what was waited for is done.
    pub(super) const LAUNCH_NS: f64 = 4e3;
    pub(super) const COPY_NS: f64 = 6e3;
    pub(super) const ALLOCATE_NS: f64 = 1.5e3;
    pub(super) const SYNCHRONISE_NS: f64 = 8e3;
}

/// A call of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// A kernel; what it does is told to [`Counters::kernel`].
    Launch,
    /// Memory is allocated, or freed.
    Allocate,
    /// Memory is overwritten.
    Fill {
        /// How much.
        bytes: usize,
    },
    /// A copy to the device. From pageable memory it returns once all but the last piece is copied.
    ToDevice {
        /// How much.
        bytes: usize,
        /// Whether the memory is page-locked.
        pinned: bool,
    },
    /// A copy to the host.
    ToHost {
        /// How much.
        bytes: usize,
    },
    /// A copy on the device.
    OnDevice {
        /// How much.
        bytes: usize,
    },
    /// The host marks what has been queued so far.
    Mark,
    /// The host waits until that is done.
    Wait {
        /// What [`Counters::until`] said then.
        until: Until,
    },
    /// The host waits until all is done.
    Synchronise,
}

/// How far a device is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Until {
    /// The time on the model's clock.
    ns: u64,
    /// What had been queued, in number.
    queued: u64,
}

impl Call {
    /// Whether it leaves a device that has nothing to do so: what is not the host's own work, nor the device's.
    fn is_aside(self) -> bool {
        matches!(self, Call::Allocate | Call::Mark | Call::Fill { .. } | Call::ToDevice { .. })
    }
}

/// When the host called the driver, and when the modelled device would have been done.
#[derive(Debug, Default)]
struct Timeline {
    /// Since when the device has had nothing to do, where the host knows.
    idle: Option<Instant>,
    waited_ns: f64,
    /// When the last call returned.
    returned: Option<Instant>,
    /// The model's clocks: where the host is, and when all that is queued will be done.
    host_ns: f64,
    device_ns: f64,
    modelled_waited_ns: f64,
    /// Kernels, copies and fillings so far.
    queued: u64,
    /// Of kernels that are not on the model's clock yet.
    bytes: usize,
    multiply_adds: usize,
    chained: usize,
}

impl Timeline {
    /// What kernels that are not on the model's clock yet take.
    fn take_kernels(&mut self) -> f64 {
        let bytes = std::mem::take(&mut self.bytes) as f64;
        let multiply_adds = std::mem::take(&mut self.multiply_adds) as f64;
        let chained = std::mem::take(&mut self.chained) as f64;
        (bytes / h100::BYTES).max(multiply_adds / h100::MULTIPLY_ADDS).max(chained * h100::CHAINED_NS)
    }

    /// The host calls.
    fn begin(&mut self, now: Instant) -> bool {
        if let Some(returned) = self.returned {
            self.host_ns += now.saturating_duration_since(returned).as_nanos() as f64;
        }
        let since = self.idle.take();
        if let Some(since) = since {
            self.waited_ns += now.saturating_duration_since(since).as_nanos() as f64;
        }
        since.is_some()
    }

    /// The call has returned; `idle`: the device had nothing to do before.
    fn end(&mut self, call: Call, now: Instant, idle: bool) {
        self.returned = Some(now);
        let done = match call {
            Call::Synchronise => true,
            Call::Wait { until } => until.queued == self.queued,
            _ => idle && call.is_aside(),
        };
        if done {
            self.idle = Some(now);
        }
        self.host_ns += match call {
            Call::Launch | Call::Fill { .. } => h100::LAUNCH_NS,
            Call::Allocate | Call::Mark => h100::ALLOCATE_NS,
            Call::ToDevice { bytes, pinned: false } => h100::COPY_NS + bytes as f64 / h100::PAGEABLE,
            Call::ToDevice { pinned: true, .. } | Call::ToHost { .. } | Call::OnDevice { .. } => {
                h100::COPY_NS
            }
            Call::Synchronise | Call::Wait { .. } => 0.0,
        };
        match call {
            Call::Launch => {
                let kernels = self.take_kernels();
                self.queue(kernels);
            }
            Call::Fill { bytes } => self.queue(bytes as f64 / h100::BYTES),
            Call::OnDevice { bytes } => self.queue(2.0 * bytes as f64 / h100::BYTES),
            Call::ToDevice { pinned: false, .. } => self.queue(0.0),
            Call::ToDevice { bytes, pinned: true } | Call::ToHost { bytes } => {
                self.queue(bytes as f64 / h100::PINNED);
            }
            Call::Allocate | Call::Mark => {}
            Call::Wait { until } => self.host_ns = self.host_ns.max(until.ns as f64) + h100::SYNCHRONISE_NS,
            Call::Synchronise => {
                self.device_ns += self.take_kernels();
                self.host_ns = self.host_ns.max(self.device_ns) + h100::SYNCHRONISE_NS;
            }
        }
    }

    /// Work of the modelled device, which begins when the host has queued it and all before is done.
    fn queue(&mut self, ns: f64) {
        self.queued += 1;
        self.modelled_waited_ns += (self.host_ns - self.device_ns).max(0.0);
        self.device_ns = self.device_ns.max(self.host_ns) + ns.max(h100::LEAST_NS);
    }
}

/// The counts of a device.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    launches: AtomicU64,
    to_device: AtomicU64,
    to_host: AtomicU64,
    on_device: AtomicU64,
    kernel_bytes: AtomicU64,
    multiply_adds: AtomicU64,
    calls: AtomicU64,
    timeline: Mutex<Timeline>,
    paced: AtomicBool,
    held: AtomicU64,
    peak: AtomicU64,
}

/// Leaves the core to others for all but the last of it.
fn wait_until(then: Instant) {
    const SPUN: Duration = Duration::from_micros(150);
    let left = then.saturating_duration_since(Instant::now());
    if left > SPUN {
        std::thread::sleep(left - SPUN);
    }
    while Instant::now() < then {
        std::hint::spin_loop();
    }
}

fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

impl Counters {
    fn timeline(&self) -> MutexGuard<'_, Timeline> {
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the kernels that are launched next read, write and multiply.
    pub(crate) fn kernel(&self, bytes: usize, multiply_adds: usize) {
        count(&self.kernel_bytes, bytes);
        count(&self.multiply_adds, multiply_adds);
        let mut timeline = self.timeline();
        timeline.bytes += bytes;
        timeline.multiply_adds += multiply_adds;
    }

    /// How many products a thread of the next kernel computes one after the other, where that is what it waits for.
    pub(crate) fn chained(&self, products: usize) {
        self.timeline().chained += products;
    }

    /// What has been queued so far.
    pub(crate) fn until(&self) -> Until {
        let timeline = self.timeline();
        Until { ns: timeline.device_ns as u64, queued: timeline.queued }
    }

    /// Calls the driver. A failed call counts as one that has not been made.
    pub(crate) fn call<T, E>(&self, call: Call, made: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let began = Instant::now();
        let (idle, before) = {
            let mut timeline = self.timeline();
            (timeline.begin(began), timeline.host_ns)
        };
        let result = made()?;
        count(&self.calls, 1);
        match call {
            Call::Launch => count(&self.launches, 1),
            Call::ToDevice { bytes, .. } => count(&self.to_device, bytes),
            Call::ToHost { bytes } => count(&self.to_host, bytes),
            Call::OnDevice { bytes } | Call::Fill { bytes } => count(&self.on_device, bytes),
            Call::Allocate | Call::Mark | Call::Wait { .. } | Call::Synchronise => {}
        }
        self.timeline().end(call, Instant::now(), idle);
        if self.paced.load(Ordering::Relaxed) {
            let mut timeline = self.timeline();
            let returns = began + Duration::from_nanos((timeline.host_ns - before) as u64);
            timeline.returned = Some(returns.max(Instant::now()));
            drop(timeline);
            wait_until(returns);
        }
        Ok(result)
    }

    /// Whether calls take as long as the model says.
    pub(crate) fn pace(&self, paced: bool) {
        self.paced.store(paced, Ordering::Relaxed);
    }

    pub(crate) fn hold(&self, bytes: usize) {
        let held = self.held.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        self.peak.fetch_max(held, Ordering::Relaxed);
    }

    pub(crate) fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    pub(crate) fn restart_peak(&self) {
        self.peak.store(self.held.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    pub(crate) fn work(&self) -> Work {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let timeline = self.timeline();
        // What it waits for now is not over.
        let waiting = (timeline.host_ns - timeline.device_ns).max(0.0);
        Work {
            launches: read(&self.launches),
            to_device_bytes: read(&self.to_device),
            to_host_bytes: read(&self.to_host),
            on_device_bytes: read(&self.on_device),
            kernel_bytes: read(&self.kernel_bytes),
            multiply_adds: read(&self.multiply_adds),
            waited_ns: timeline.waited_ns as u64,
            calls: read(&self.calls),
            modelled_ns: timeline.host_ns.max(timeline.device_ns) as u64,
            modelled_waited_ns: (timeline.modelled_waited_ns + waiting) as u64,
        }
    }
}
