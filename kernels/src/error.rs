//! What can go wrong between here and the device.

use cudarc::driver::DriverError;

/// An error of the device, or of what was asked of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no `libcuda` on this machine.
    #[error("no CUDA driver is installed")]
    NoDriver,
    /// The driver's interface is older than the kernels'.
    #[error("the CUDA driver is too old: it knows CUDA {}.{}, {}.{} is needed", actual / 1000, actual % 1000 / 10, needed / 1000, needed % 1000 / 10)]
    OldDriver {
        /// `1000 major + 10 minor`.
        needed: i32,
        /// Likewise.
        actual: i32,
    },
    /// There is no device of this number.
    #[error("no CUDA device {ordinal}: the driver has {count}")]
    NoDevice {
        /// The number asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// The device is older than the PTX's target, compute capability 7.5.
    #[error("the device has compute capability {major}.{minor}, 7.5 is needed")]
    OldDevice {
        /// Major number.
        major: i32,
        /// Minor number.
        minor: i32,
    },
    /// The device's memory is full.
    #[error("out of device memory: {needed} bytes are needed, {free} are free")]
    Memory {
        /// Bytes of the allocation that failed.
        needed: usize,
        /// Bytes that were free.
        free: usize,
    },
    /// A call of the driver failed. After a failed kernel every later call fails: open the device again.
    #[error("the CUDA driver failed to {step}: {source}")]
    Driver {
        /// What was tried.
        step: &'static str,
        /// The driver's answer.
        source: DriverError,
    },
    /// An argument does not fit the others.
    #[error("{what}: expected {expected}, got {actual}")]
    Shape {
        /// Which argument.
        what: &'static str,
        /// What fits: exactly, or at most where `what` says so.
        expected: usize,
        /// What was given.
        actual: usize,
    },
}

impl Error {
    /// For `map_err`.
    pub(crate) fn driver(step: &'static str) -> impl Fn(DriverError) -> Self {
        move |source| Error::Driver { step, source }
    }
}

/// `Ok` where `actual == expected`.
pub(crate) fn same(what: &'static str, expected: usize, actual: usize) -> Result<(), Error> {
    if actual == expected { Ok(()) } else { Err(Error::Shape { what, expected, actual }) }
}

/// `Ok` where `actual <= limit`.
pub(crate) fn at_most(what: &'static str, limit: usize, actual: usize) -> Result<(), Error> {
    if actual <= limit { Ok(()) } else { Err(Error::Shape { what, expected: limit, actual }) }
}
