//! What has been asked of a device, counted where it is asked.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
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
        }
    }
}

/// Multiplications of words in a product of field elements.
pub(crate) const PRODUCT: usize = 139;

/// Multiplications of words in the reduction of a sum that the matrix units made: `bytes_reduce` of bytes.cuh.
pub(crate) const REDUCTION: usize = 9;

/// The counts of a device.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) launches: AtomicU64,
    pub(crate) to_device: AtomicU64,
    pub(crate) to_host: AtomicU64,
    pub(crate) on_device: AtomicU64,
    kernel_bytes: AtomicU64,
    multiply_adds: AtomicU64,
    waited_ns: AtomicU64,
    /// Since when the device has had nothing to do, where the host knows.
    idle: Mutex<Option<Instant>>,
    held: AtomicU64,
    peak: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn kernel(&self, bytes: usize, multiply_adds: usize) {
        count(&self.kernel_bytes, bytes);
        count(&self.multiply_adds, multiply_adds);
    }

    /// Kernels or copies are about to be queued: whether the device had nothing to do.
    pub(crate) fn busy(&self) -> bool {
        let since = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(since) = since {
            count(&self.waited_ns, usize::try_from(since.elapsed().as_nanos()).unwrap_or(usize::MAX));
        }
        since.is_some()
    }

    /// A call of the driver that is not the host's own work, and leaves a device that has nothing to do so: allocations, memory
    /// that is filled, copies of pageable memory, which return once all but the last piece is copied.
    pub(crate) fn aside<T>(&self, call: impl FnOnce() -> T) -> T {
        let idle = self.busy();
        let result = call();
        if idle {
            self.idle();
        }
        result
    }

    /// All that was queued is done.
    pub(crate) fn idle(&self) {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
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
        Work {
            launches: read(&self.launches),
            to_device_bytes: read(&self.to_device),
            to_host_bytes: read(&self.to_host),
            on_device_bytes: read(&self.on_device),
            kernel_bytes: read(&self.kernel_bytes),
            multiply_adds: read(&self.multiply_adds),
            waited_ns: read(&self.waited_ns),
        }
    }
}
