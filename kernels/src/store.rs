//! Memory that a stream keeps: what buffers left behind for those that come after, and the host's memory that copies start from.
//!
//! A proof takes the same sizes as the one before. What is kept costs no call of the driver, where an allocation is one, its end
//! another, and overwriting it in between a third; and the driver's own pool gives back to the system what nobody holds whenever
//! the host waits for the device. [`Device::wipe`](crate::Device::wipe) overwrites what is kept, in one launch.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    ptr::NonNull,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, result, sys::CUresult};

use crate::{
    error::Error,
    work::{Call, Counters},
};

/// The least that the host allocates for copies, and the most that goes through such memory at once.
const PINNED_BYTES: std::ops::RangeInclusive<usize> = 1 << 12..=1 << 25;

/// How much of it may wait for its copies before the host waits for them.
const FLYING_BYTES: usize = 1 << 28;

/// The stores of all streams of a device, and how many bytes each may keep.
#[derive(Debug)]
pub(crate) struct Stores {
    list: Mutex<Vec<Weak<Store>>>,
    limit: AtomicUsize,
}

impl Default for Stores {
    fn default() -> Self {
        Stores { list: Mutex::default(), limit: AtomicUsize::new(usize::MAX) }
    }
}

impl Stores {
    fn live(&self) -> Vec<Arc<Store>> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().filter_map(Weak::upgrade).collect()
    }

    /// Bytes that are kept and would be freed if there were no others.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.live().iter().map(|store| store.kept().bytes).sum()
    }

    /// From now on each store keeps so much at most.
    pub(crate) fn limit(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Relaxed);
        for store in self.live() {
            if store.kept().bytes > bytes {
                store.free();
            }
        }
    }

    /// Frees what all streams keep, and waits until it is free; how many bytes that were.
    fn free(&self) -> usize {
        self.live().iter().map(|store| store.free()).sum()
    }
}

/// Device memory that no buffer holds.
#[derive(Debug)]
struct Block {
    memory: CudaSlice<u8>,
    /// Whether it has been overwritten since a buffer held it.
    clean: bool,
}

#[derive(Default)]
struct Kept {
    /// By their bytes.
    blocks: HashMap<usize, Vec<Block>>,
    bytes: usize,
    /// The host's, by its bytes.
    pinned: BTreeMap<usize, Vec<Pinned>>,
    /// What copies that are queued read.
    flying: Vec<Pinned>,
}

/// What one stream keeps.
pub(crate) struct Store {
    stream: Arc<CudaStream>,
    pub(crate) counters: Arc<Counters>,
    stores: Arc<Stores>,
    kept: Mutex<Kept>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("bytes", &self.kept().bytes).finish_non_exhaustive()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.free();
        // Copies may still read the host's memory.
        let _ = self.counters.call(Call::Synchronise, || self.stream.synchronize());
    }
}

impl Store {
    pub(crate) fn new(stream: Arc<CudaStream>, counters: Arc<Counters>, stores: Arc<Stores>) -> Arc<Self> {
        let store = Arc::new(Store { stream, counters, stores: stores.clone(), kept: Mutex::default() });
        let mut list = stores.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|store| store.strong_count() > 0);
        list.push(Arc::downgrade(&store));
        drop(list);
        store
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory of exactly so many bytes, with anything in it. Where the device is full, what streams keep is freed first.
    pub(crate) fn take(&self, bytes: usize) -> Result<CudaSlice<u8>, Error> {
        {
            let mut kept = self.kept();
            if let Some(block) = kept.blocks.get_mut(&bytes).and_then(Vec::pop) {
                kept.bytes -= bytes;
                return Ok(block.memory);
            }
        }
        // SAFETY: bytes without a value are written before they are read; the kernels' sources say which.
        let allocate = || self.counters.call(Call::Allocate, || unsafe { self.stream.alloc::<u8>(bytes) });
        let full = |error: &cudarc::driver::DriverError| error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY;
        let memory = match allocate() {
            Err(error) if full(&error) && self.stores.free() > 0 => allocate(),
            memory => memory,
        };
        match memory {
            Ok(memory) => {
                self.counters.hold(bytes);
                Ok(memory)
            }
            Err(error) if full(&error) => {
                let free = self.stream.context().mem_get_info().map_err(Error::driver("tell its memory"))?.0;
                Err(Error::Memory { needed: bytes, free })
            }
            Err(source) => Err(Error::Driver { step: "allocate memory", source }),
        }
    }

    /// Keeps memory that a buffer held.
    pub(crate) fn put(&self, memory: CudaSlice<u8>) {
        let block = Block { memory, clean: false };
        let bytes = block.memory.len();
        let mut kept = self.kept();
        if bytes <= self.stores.limit.load(Ordering::Relaxed).saturating_sub(kept.bytes) {
            kept.bytes += bytes;
            kept.blocks.entry(bytes).or_default().push(block);
        } else {
            drop(kept);
            self.give_back(block);
        }
    }

    /// Overwrites memory, and frees it. An error means that the device is lost, and its memory with it.
    fn give_back(&self, mut block: Block) {
        let bytes = block.memory.len();
        if !block.clean {
            let _ = self.counters.call(Call::Fill { bytes }, || self.stream.memset_zeros(&mut block.memory));
        }
        let free = || {
            drop(block);
            Ok::<(), Error>(())
        };
        let _ = self.counters.call(Call::Allocate, free);
        self.counters.release(bytes);
    }

    /// Frees what is kept, and waits until it is free; how many bytes that were.
    fn free(&self) -> usize {
        let (blocks, bytes) = {
            let mut kept = self.kept();
            (std::mem::take(&mut kept.blocks), std::mem::take(&mut kept.bytes))
        };
        blocks.into_values().flatten().for_each(|block| self.give_back(block));
        if bytes > 0 {
            let _ = self.counters.call(Call::Synchronise, || self.stream.synchronize());
        }
        bytes
    }

    /// Takes the blocks that have not been overwritten since buffers held them.
    pub(crate) fn take_dirty(&self) -> Vec<CudaSlice<u8>> {
        let mut kept = self.kept();
        let mut dirty = Vec::new();
        for blocks in kept.blocks.values_mut() {
            dirty.extend(blocks.extract_if(.., |block| !block.clean).map(|block| block.memory));
        }
        kept.bytes -= dirty.iter().map(CudaSlice::len).sum::<usize>();
        dirty
    }

    /// Keeps blocks that have been overwritten.
    pub(crate) fn put_clean(&self, list: Vec<CudaSlice<u8>>) {
        let mut kept = self.kept();
        for memory in list {
            kept.bytes += memory.len();
            kept.blocks.entry(memory.len()).or_default().push(Block { memory, clean: true });
        }
    }

    /// Memory of the host that copies to and from the device take as it is; `None` for so many bytes that they had better not, or
    /// where the system has none.
    pub(crate) fn pinned(&self, bytes: usize) -> Option<Pinned> {
        let bytes = bytes.next_power_of_two().max(*PINNED_BYTES.start());
        if !PINNED_BYTES.contains(&bytes) {
            return None;
        }
        let kept = self.kept().pinned.get_mut(&bytes).and_then(Vec::pop);
        kept.or_else(|| Pinned::new(self.stream.context(), bytes))
    }

    /// Keeps memory that a copy which is queued reads; whether so much waits for its copies that the host should wait for them.
    pub(crate) fn fly(&self, pinned: Pinned) -> bool {
        let mut kept = self.kept();
        kept.flying.push(pinned);
        kept.flying.iter().map(|pinned| pinned.bytes).sum::<usize>() > FLYING_BYTES
    }

    /// Whether any copy from the host's memory may still be under way.
    pub(crate) fn is_flying(&self) -> bool {
        !self.kept().flying.is_empty()
    }

    /// What copies read that have been queued so far: to be given back when they are done.
    pub(crate) fn take_flying(&self) -> Vec<Pinned> {
        std::mem::take(&mut self.kept().flying)
    }

    /// Keeps memory that no copy reads any more.
    pub(crate) fn put_pinned(&self, list: impl IntoIterator<Item = Pinned>) {
        let mut kept = self.kept();
        for pinned in list {
            kept.pinned.entry(pinned.bytes).or_default().push(pinned);
        }
    }

    /// Overwrites the host's memory that is kept.
    pub(crate) fn wipe_pinned(&self) {
        let mut list: Vec<Pinned> = std::mem::take(&mut self.kept().pinned).into_values().flatten().collect();
        list.iter_mut().for_each(Pinned::wipe);
        self.put_pinned(list);
    }
}

/// Page-locked memory of the host.
pub(crate) struct Pinned {
    data: NonNull<u8>,
    bytes: usize,
    /// How much of it may be other than zero.
    used: usize,
    context: Arc<CudaContext>,
}

// SAFETY: plain memory, which has one owner.
unsafe impl Send for Pinned {}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Pinned {
    fn new(context: &Arc<CudaContext>, bytes: usize) -> Option<Self> {
        context.bind_to_thread().ok()?;
        // SAFETY: a size, and no flags: memory that the host caches as any other.
        let data = NonNull::new(unsafe { result::malloc_host(bytes, 0) }.ok()?.cast::<u8>())?;
        // SAFETY: there are so many bytes.
        unsafe { data.write_bytes(0, bytes) };
        Some(Pinned { data, bytes, used: 0, context: context.clone() })
    }

    /// The first bytes.
    ///
    /// # Panics
    /// If there are not as many.
    pub(crate) fn first(&mut self, bytes: usize) -> &mut [u8] {
        assert!(bytes <= self.bytes, "beyond the memory");
        self.used = self.used.max(bytes);
        // SAFETY: so many bytes are there, have been written, and belong to this.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), bytes) }
    }

    fn wipe(&mut self) {
        // SAFETY: so many bytes are there.
        unsafe { self.data.write_bytes(0, self.used) };
        std::hint::black_box(self.data);
        self.used = 0;
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.wipe();
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: from `malloc_host`; whoever owns it says that no copy reads it.
            let _ = unsafe { result::free_host(self.data.as_ptr().cast()) };
        }
    }
}
