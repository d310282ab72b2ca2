//! The kernels against arkworks, halo2curves and the prover's `Reference`.
//!
//! `LAMINA_TEST_DEVICE` says on what: `host` (the default) and `ptx` are emulations, `cuda` is a device, and there
//! the suite fails where there is none.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod columns;
mod common;
mod device;
mod field;
mod linked;
mod msm;
mod ntt;
mod permutation;
mod polynomial;
mod program;
mod reference;
mod scan;
mod store;
