//! Columns on the device.

use std::{fmt, marker::PhantomData, sync::Arc};

use cudarc::driver::{CudaSlice, DevicePtr, DeviceRepr, result, sys::CUresult};
use halo2_proofs::halo2curves::bn256::Fq;
use lamina_circuits::Fr;

use crate::{
    device::{Argument, Device},
    error::{Error, at_most, same},
    work::{Counters, count},
};

/// A field element as a kernel takes it: eight words, in the layout of the host's library.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Element([u64; 4]);

// SAFETY: plain words, of the size of `Fr` in bn254_fr.cuh.
unsafe impl DeviceRepr for Element {}

impl From<Fr> for Argument {
    fn from(v: Fr) -> Self {
        const { assert!(size_of::<Fr>() == size_of::<Element>() && align_of::<Fr>() == align_of::<Element>()) };
        // SAFETY: the size and alignment are those of four words, of which every bit pattern is valid.
        Argument::Element(unsafe { std::ptr::from_ref(&v).cast::<Element>().read() })
    }
}

/// What may be copied to the device and back byte by byte.
///
/// # Safety
/// No padding, no invalid bit pattern, no pointer.
pub(crate) unsafe trait Plain: Copy + Send + Sync + 'static {}

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
pub trait Cell: Plain + sealed::Sealed {
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

/// Device memory. It is overwritten with zeros before it is freed.
pub(crate) struct Buffer<T> {
    bytes: CudaSlice<u8>,
    len: usize,
    counters: Arc<Counters>,
    marker: PhantomData<T>,
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        let stream = self.bytes.stream().clone();
        // An error means that the device is lost, and its memory with it.
        let _ = self.counters.aside(|| stream.memset_zeros(&mut self.bytes));
        self.counters.release(self.bytes.len());
        count(&self.counters.on_device, self.bytes.len());
    }
}

impl<T: Plain> Buffer<T> {
    /// Memory of `len` values that a kernel will write. Debug builds fill it with 0xA5, so that what is read
    /// without having been written shows.
    pub(crate) fn new(device: &Device, len: usize) -> Result<Self, Error> {
        // The driver allocates no empty buffers.
        let needed =
            len.max(1).checked_mul(size_of::<T>()).ok_or(Error::Memory { needed: usize::MAX, free: 0 })?;
        // SAFETY: bytes without a value are written before they are read; the kernels' sources say which.
        let bytes = match device.counters.aside(|| unsafe { device.stream.alloc::<u8>(needed) }) {
            Ok(bytes) => bytes,
            Err(error) if error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                return Err(Error::Memory { needed, free: device.memory_bytes()?.0 });
            }
            Err(source) => return Err(Error::Driver { step: "allocate memory", source }),
        };
        device.counters.hold(needed);
        let buffer = Buffer { bytes, len, counters: device.counters.clone(), marker: PhantomData };
        if cfg!(debug_assertions) {
            // SAFETY: the allocation has `needed` bytes.
            unsafe { result::memset_d8_async(buffer.base(), 0xA5, needed, device.stream.cu_stream()) }
                .map_err(Error::driver("fill memory"))?;
        }
        Ok(buffer)
    }

    /// Memory of `len` values of zero bytes.
    pub(crate) fn zeros(device: &Device, len: usize) -> Result<Self, Error> {
        let mut buffer = Buffer::new(device, len)?;
        let filled = device.counters.aside(|| device.stream.memset_zeros(&mut buffer.bytes));
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
        assert!(at + values.len() <= self.len, "beyond the buffer");
        if values.is_empty() {
            return Ok(());
        }
        // SAFETY: plain values, of which every byte is initialised.
        let bytes: &[u8] = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) };
        let from = at * size_of::<T>();
        let mut target = self.bytes.slice_mut(from..from + bytes.len());
        count(&device.counters.to_device, bytes.len());
        let copied = device.counters.aside(|| device.stream.memcpy_htod(bytes, &mut target));
        copied.map_err(Error::driver("copy to the device"))
    }

    /// A copy of values `at..at + len`, on the host.
    ///
    /// # Panics
    /// If there are not as many.
    pub(crate) fn read(&self, device: &Device, at: usize, len: usize) -> Result<Vec<T>, Error> {
        assert!(at + len <= self.len, "beyond the buffer");
        let mut values = Vec::<T>::with_capacity(len);
        if len > 0 {
            let (from, size) = (at * size_of::<T>(), len * size_of::<T>());
            // SAFETY: the capacity is `size` bytes, all of which the copy writes, to any pattern: the values are plain.
            let bytes: &mut [u8] = unsafe {
                std::ptr::write_bytes(values.as_mut_ptr(), 0, len);
                values.set_len(len);
                std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size)
            };
            let source = self.bytes.slice(from..from + size);
            count(&device.counters.to_host, size);
            device.counters.busy();
            device.stream.memcpy_dtoh(&source, bytes).map_err(Error::driver("copy to the host"))?;
        }
        device.synchronize()?;
        Ok(values)
    }
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
        device.counters.busy();
        count(&device.counters.on_device, bytes);
        // SAFETY: the target is within this buffer, the source as the caller says.
        unsafe { result::memcpy_dtod_async(target, source, bytes, device.stream.cu_stream()) }
            .map_err(Error::driver("copy on the device"))
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn base(&self) -> u64 {
        // One stream: nothing waits on the guard.
        self.bytes.device_ptr(self.bytes.stream()).0
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
/// `[columns, rows]`, a column's rows next to each other. Zeroised when dropped.
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

    /// Copies the columns of another matrix of as many rows to columns `at..`.
    ///
    /// # Errors
    /// [`Error::Shape`] where rows differ or columns are not there, [`Error::Driver`].
    pub fn place(&mut self, device: &Device, at: usize, other: &Matrix<T>) -> Result<(), Error> {
        same("rows of what is placed", self.rows, other.rows)?;
        at_most("columns of what is placed, at most", self.columns.saturating_sub(at), other.columns)?;
        let bytes = other.columns * self.rows * size_of::<T>();
        self.buffer.copy_in(device, at * self.rows * size_of::<T>(), other.buffer.base(), bytes)
    }

    /// A matrix of zeros.
    ///
    /// # Errors
    /// [`Error::Memory`], [`Error::Driver`].
    pub fn zeros(device: &Device, columns: usize, rows: usize) -> Result<Self, Error> {
        let len = columns.checked_mul(rows).ok_or(Error::Memory { needed: usize::MAX, free: 0 })?;
        Ok(Matrix { buffer: Buffer::zeros(device, len)?, columns, rows })
    }

    /// A matrix that a kernel will fill.
    pub(crate) fn uninitialised(device: &Device, columns: usize, rows: usize) -> Result<Self, Error> {
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
