//! Columns on the device.

use std::{fmt, marker::PhantomData, sync::Arc};

use cudarc::driver::{CudaSlice, DevicePtr, DeviceRepr, result};
use halo2_proofs::halo2curves::bn256::Fq;
use lamina_circuits::Fr;

use crate::{
    device::{Argument, Device, Moment},
    error::{Error, same},
    store::{Pinned, Store},
    work::Call,
};

/// A field element as a kernel takes it: eight words, in the layout of the host's library.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Element([u64; 4]);

// SAFETY: plain words, of the size of `Fr` in bn254_fr.cuh.
unsafe impl DeviceRepr for Element {}

impl From<Fr> for Element {
    fn from(v: Fr) -> Self {
        const { assert!(size_of::<Fr>() == size_of::<Element>() && align_of::<Fr>() == align_of::<Element>()) };
        // SAFETY: the size and alignment are those of four words, of which every bit pattern is valid.
        unsafe { std::ptr::from_ref(&v).cast::<Element>().read() }
    }
}

impl From<Fr> for Argument {
    fn from(v: Fr) -> Self {
        Argument::Element(v.into())
    }
}

/// The same as four words.
pub(crate) fn quads(v: Fr) -> [u64; 4] {
    Element::from(v).0
}

/// The words of an element as a kernel reads them, the lowest first.
pub(crate) fn words(v: Fr) -> [u32; 8] {
    let pairs = quads(v);
    std::array::from_fn(|at| (pairs[at / 2] >> (32 * (at % 2))) as u32)
}

/// What may be copied to the device and back byte by byte.
///
/// # Safety
/// No padding, no invalid bit pattern, no pointer.
pub(crate) unsafe trait Plain: Copy + Send + Sync + 'static {}

// SAFETY: integers.
unsafe impl Plain for u8 {}
// SAFETY: integers.
unsafe impl Plain for i8 {}
// SAFETY: integers.
unsafe impl Plain for i16 {}
// SAFETY: integers.
unsafe impl Plain for i32 {}
// SAFETY: integers.
unsafe impl Plain for u32 {}
// SAFETY: four words; arithmetic on words above the modulus gives wrong values, nothing worse.
unsafe impl Plain for Fr {}
// SAFETY: four words, likewise.
unsafe impl Plain for Fq {}
// SAFETY: an array of such.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}
// SAFETY: an integer. Addresses among them are followed by kernels, whose launchers promise what they point to.
unsafe impl Plain for u64 {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for i8 {}
    impl Sealed for i16 {}
    impl Sealed for i32 {}
    impl Sealed for super::Fr {}
}

/// What a column consists of: signed integers of 8, 16 or 32 bits, or field elements.
#[expect(private_bounds, reason = "`Plain` is a promise about memory, made here alone")]
pub trait Cell: Plain + Default + sealed::Sealed {
    /// `enum Kind` of cells.cuh.
    #[doc(hidden)]
    const KIND: u32;
    /// Bits of an integer, zero for field elements.
    #[doc(hidden)]
    const BITS: u32;
}

impl Cell for Fr {
    const KIND: u32 = 0;
    const BITS: u32 = 0;
}

impl Cell for i8 {
    const KIND: u32 = 1;
    const BITS: u32 = i8::BITS;
}

impl Cell for i16 {
    const KIND: u32 = 2;
    const BITS: u32 = i16::BITS;
}

impl Cell for i32 {
    const KIND: u32 = 3;
    const BITS: u32 = i32::BITS;
}

/// Device memory, kept for later buffers of the stream when this one is dropped, and overwritten with zeros before it is freed.
pub(crate) struct Buffer<T> {
    /// There until the buffer is dropped.
    memory: Option<CudaSlice<u8>>,
    address: u64,
    len: usize,
    store: Arc<Store>,
    marker: PhantomData<T>,
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.store.put(memory);
        }
    }
}

impl<T: Plain> Buffer<T> {
    /// Memory of `len` values that a kernel will write. Debug builds fill it with 0xA5, so that what is read
    /// without having been written shows.
    pub(crate) fn new(device: &Device, len: usize) -> Result<Self, Error> {
        // The driver allocates no empty buffers.
        let needed =
            len.max(1).checked_mul(size_of::<T>()).ok_or(Error::Memory { needed: usize::MAX, free: 0 })?;
        let memory = device.store.take(needed)?;
        // One stream: nothing waits on the guard.
        let address = memory.device_ptr(&device.stream).0;
        let store = device.store.clone();
        let buffer = Buffer { memory: Some(memory), address, len, store, marker: PhantomData };
        if cfg!(debug_assertions) {
            // SAFETY: the allocation has `needed` bytes.
            unsafe { result::memset_d8_async(address, 0xA5, needed, device.stream.cu_stream()) }
                .map_err(Error::driver("fill memory"))?;
        }
        Ok(buffer)
    }

    /// Memory of `len` values of zero bytes.
    pub(crate) fn zeros(device: &Device, len: usize) -> Result<Self, Error> {
        let buffer = Buffer::new(device, len)?;
        let bytes = len * size_of::<T>();
        // SAFETY: the allocation has so many bytes.
        let fill = || unsafe { result::memset_d8_async(buffer.address, 0, bytes, device.stream.cu_stream()) };
        let filled = if bytes > 0 { device.counters.call(Call::Fill { bytes }, fill) } else { Ok(()) };
        filled.map_err(Error::driver("fill memory"))?;
        Ok(buffer)
    }

    /// A copy of `values`.
    pub(crate) fn from_host(device: &Device, values: &[T]) -> Result<Self, Error> {
        let mut buffer = Buffer::new(device, values.len())?;
        buffer.write(device, 0, values)?;
        Ok(buffer)
    }

    /// Copies `values` to position `at`.
    ///
    /// # Panics
    /// If they do not fit.
    pub(crate) fn write(&mut self, device: &Device, at: usize, values: &[T]) -> Result<(), Error> {
        let bytes = bytes_of(values);
        match device.store.pinned(bytes.len()) {
            Some(mut pinned) => {
                pinned.first(bytes.len()).copy_from_slice(bytes);
                self.write_pinned(device, at, pinned, values.len())
            }
            None => self.write_pageable(device, at, values),
        }
    }

    /// Values that `fill` writes on the host, each of them, where anything may be before; large ones in the host's own memory, which
    /// is overwritten afterwards.
    pub(crate) fn filled(device: &Device, len: usize, fill: impl FnOnce(&mut [T])) -> Result<Self, Error>
    where
        T: Default,
    {
        let mut buffer = Buffer::new(device, len)?;
        match device.store.pinned(len * size_of::<T>()) {
            Some(mut pinned) => {
                let bytes = pinned.first(len * size_of::<T>());
                // SAFETY: so many bytes of plain values, of which every pattern is valid, at the beginning of pages.
                fill(unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), len) });
                buffer.write_pinned(device, 0, pinned, len)?;
            }
            None => {
                let mut values = vec![T::default(); len];
                fill(&mut values);
                let written = buffer.write_pageable(device, 0, &values);
                values.fill(T::default());
                std::hint::black_box(&mut values);
                written?;
            }
        }
        Ok(buffer)
    }

    /// Copies `len` values from pinned memory to position `at`.
    fn write_pinned(
        &mut self,
        device: &Device,
        at: usize,
        mut pinned: Pinned,
        len: usize,
    ) -> Result<(), Error> {
        assert!(at + len <= self.len, "beyond the buffer");
        if len == 0 {
            device.store.put_pinned([pinned]);
            return Ok(());
        }
        let (target, stream) = (self.base() + (at * size_of::<T>()) as u64, device.stream.cu_stream());
        let bytes = pinned.first(len * size_of::<T>());
        let copy = Call::ToDevice { bytes: bytes.len(), pinned: true };
        // SAFETY: the target is within this buffer; the source stays as it is until a wait for the stream has returned.
        let copied =
            device.counters.call(copy, || unsafe { result::memcpy_htod_async(target, bytes, stream) });
        let full = device.store.fly(pinned);
        copied.map_err(Error::driver("copy to the device"))?;
        if full { device.synchronize() } else { Ok(()) }
    }

    /// Copies `values` to position `at`; they may change as soon as this returns.
    fn write_pageable(&mut self, device: &Device, at: usize, values: &[T]) -> Result<(), Error> {
        assert!(at + values.len() <= self.len, "beyond the buffer");
        if values.is_empty() {
            return Ok(());
        }
        let bytes = bytes_of(values);
        let (target, stream) = (self.base() + (at * size_of::<T>()) as u64, device.stream.cu_stream());
        let copy = Call::ToDevice { bytes: bytes.len(), pinned: false };
        // SAFETY: the target is within this buffer; the driver reads pageable memory before it returns.
        let copied =
            device.counters.call(copy, || unsafe { result::memcpy_htod_async(target, bytes, stream) });
        copied.map_err(Error::driver("copy to the device"))
    }

    /// A copy of values `at..at + len`, on the host.
    ///
    /// # Panics
    /// If there are not as many.
    pub(crate) fn read(&self, device: &Device, at: usize, len: usize) -> Result<Vec<T>, Error> {
        self.read_later(device, at, len)?.wait(device)
    }

    /// The same, under way: what is queued after it is not waited for, and this buffer may be dropped.
    ///
    /// # Panics
    /// If there are not as many.
    pub(crate) fn read_later(&self, device: &Device, at: usize, len: usize) -> Result<Reading<T>, Error> {
        assert!(at + len <= self.len, "beyond the buffer");
        let mut values = Vec::<T>::with_capacity(len);
        let size = len * size_of::<T>();
        // SAFETY: the capacity is `size` bytes, all of which are written, to any pattern: the values are plain.
        let bytes: &mut [u8] = unsafe {
            std::ptr::write_bytes(values.as_mut_ptr(), 0, len);
            values.set_len(len);
            std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size)
        };
        let mut pinned = device.store.pinned(size);
        if len > 0 {
            let source = self.base() + (at * size_of::<T>()) as u64;
            let to = pinned.as_mut().map_or(bytes, |pinned| pinned.first(size));
            // SAFETY: the source is within this buffer. Pinned memory stays where it is, unread and unwritten, until a wait below;
            // of pageable memory the driver writes all before it returns.
            let copy = || unsafe { result::memcpy_dtoh_async(to, source, device.stream.cu_stream()) };
            if let Err(source) = device.counters.call(Call::ToHost { bytes: size }, copy) {
                // Nothing tells whether the copy is queued.
                pinned.map(|pinned| device.store.fly(pinned));
                return Err(Error::Driver { step: "copy to the host", source });
            }
        }
        Ok(Reading { values, moment: device.moment(pinned)? })
    }
}

/// Values on their way to the host.
pub(crate) struct Reading<T> {
    /// Where they go, and are already where no pinned memory was to be had.
    values: Vec<T>,
    moment: Moment,
}

impl<T: Plain> Reading<T> {
    /// Waits for them.
    pub(crate) fn wait(mut self, device: &Device) -> Result<Vec<T>, Error> {
        let pinned = device.wait(self.moment)?;
        if let Some(mut pinned) = pinned {
            let size = size_of_val(&self.values[..]);
            // SAFETY: plain values, of which every pattern of bytes is valid.
            let bytes = unsafe { std::slice::from_raw_parts_mut(self.values.as_mut_ptr().cast(), size) };
            bytes.copy_from_slice(pinned.first(size));
            device.store.put_pinned([pinned]);
        }
        Ok(self.values)
    }
}

/// What packed lists begin at multiples of: the widest access of a kernel.
const PACKED_ALIGNMENT: usize = 16;

impl Buffer<u8> {
    /// Lists that travel to the device together, and where each begins. What the host has of them besides is overwritten.
    pub(crate) fn packed<const N: usize>(
        device: &Device,
        lists: [&[u8]; N],
    ) -> Result<(Self, [usize; N]), Error> {
        let mut end = 0;
        let places = lists.map(|list| {
            let at = end;
            end = (at + list.len()).next_multiple_of(PACKED_ALIGNMENT);
            at
        });
        let write = |bytes: &mut [u8]| {
            let mut rest = bytes;
            for list in lists {
                let (own, more) = rest.split_at_mut(list.len().next_multiple_of(PACKED_ALIGNMENT));
                own[..list.len()].copy_from_slice(list);
                own[list.len()..].fill(0);
                rest = more;
            }
        };
        Ok((Buffer::filled(device, end, write)?, places))
    }
}

/// The bytes of plain values.
pub(crate) fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: plain values, of which every byte is initialised.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

impl<T> Buffer<T> {
    /// Copies `bytes` bytes of the device from `source` to byte `at`. `source` is the address of at least as many.
    pub(crate) fn copy_in(
        &mut self,
        device: &Device,
        at: usize,
        source: u64,
        bytes: usize,
    ) -> Result<(), Error> {
        assert!(at + bytes <= self.len * size_of::<T>(), "beyond the buffer");
        if bytes == 0 {
            return Ok(());
        }
        let target = self.base() + at as u64;
        let stream = device.stream.cu_stream();
        // SAFETY: the target is within this buffer, the source as the caller says.
        let copy = || unsafe { result::memcpy_dtod_async(target, source, bytes, stream) };
        let copied = device.counters.call(Call::OnDevice { bytes }, copy);
        copied.map_err(Error::driver("copy on the device"))
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn base(&self) -> u64 {
        self.address
    }

    /// The address, as an argument.
    pub(crate) fn address(&self) -> Argument {
        Argument::Address(self.base())
    }

    /// The address of value `at`.
    pub(crate) fn address_of(&self, at: usize) -> Argument {
        debug_assert!(at <= self.len);
        Argument::Address(self.base() + (at * size_of::<T>()) as u64)
    }
}

/// Columns of one length on the device.
///
/// # Shapes
/// `[columns, rows]`, a column's rows next to each other. What it leaves behind when dropped is kept for others, and overwritten by
/// [`Device::wipe`].
#[expect(private_bounds, reason = "`Plain` is a promise about memory, made where the types are listed")]
pub struct Matrix<T: Plain> {
    pub(crate) buffer: Buffer<T>,
    columns: usize,
    rows: usize,
}

impl<T: Plain> fmt::Debug for Matrix<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matrix")
            .field("columns", &self.columns)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl<T: Cell> Matrix<T> {
    /// Copies columns to the device.
    ///
    /// # Errors
    /// [`Error::Shape`] where they differ in length, [`Error::Memory`], [`Error::Driver`].
    pub fn from_columns(device: &Device, columns: &[&[T]]) -> Result<Self, Error> {
        let rows = columns.first().map_or(0, |column| column.len());
        let mut matrix = Matrix::uninitialised(device, columns.len(), rows)?;
        for (at, column) in columns.iter().enumerate() {
            same("rows of a column", rows, column.len())?;
            matrix.buffer.write(device, at * rows, column)?;
        }
        Ok(matrix)
    }

    /// One column, on the host.
    ///
    /// # Errors
    /// [`Error::Driver`].
    ///
    /// # Panics
    /// If there is no such column.
    pub fn column(&self, device: &Device, at: usize) -> Result<Vec<T>, Error> {
        assert!(at < self.columns, "no such column");
        self.buffer.read(device, at * self.rows, self.rows)
    }

    /// All columns, on the host.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn to_columns(&self, device: &Device) -> Result<Vec<Vec<T>>, Error> {
        (0..self.columns).map(|at| self.column(device, at)).collect()
    }

    /// A matrix of zeros.
    ///
    /// # Errors
    /// [`Error::Memory`], [`Error::Driver`].
    pub fn zeros(device: &Device, columns: usize, rows: usize) -> Result<Self, Error> {
        let len = columns.checked_mul(rows).ok_or(Error::Memory { needed: usize::MAX, free: 0 })?;
        Ok(Matrix { buffer: Buffer::zeros(device, len)?, columns, rows })
    }

    /// A matrix that will be written, of whatever values until then.
    ///
    /// # Errors
    /// [`Error::Memory`], [`Error::Driver`].
    pub fn uninitialised(device: &Device, columns: usize, rows: usize) -> Result<Self, Error> {
        let len = columns.checked_mul(rows).ok_or(Error::Memory { needed: usize::MAX, free: 0 })?;
        Ok(Matrix { buffer: Buffer::new(device, len)?, columns, rows })
    }

    /// A column that a kernel has filled.
    pub(crate) fn from_buffer(buffer: Buffer<T>, rows: usize) -> Self {
        Matrix { buffer, columns: 1, rows }
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Rows of each column.
    pub fn rows(&self) -> usize {
        self.rows
    }
}
