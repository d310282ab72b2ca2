//! CUDA kernels for BN254 and what launches them.
//!
//! Field and curve arithmetic, transforms, multi-scalar multiplication, linear combinations, evaluations, scans,
//! inverses, permutation products, division, straight-line programs over rows and linked recurrences, on columns
//! that stay on the device. The kernels are CUDA C++ in `kernels/cuda`, shipped as one PTX that the driver compiles for the device at hand: users need the driver and nothing
//! else. `docs/gpu.md` has the design, and how all of it is tested where there is no GPU.
//!
//! # Shapes
//! A [`Matrix`] is a list of columns of one length, one after another. Field elements are in Montgomery form
//! with `R = 2^256` and below the modulus: the layout that the host's library has.
//!
//! # Order
//! A [`Device`] has one stream. Calls return when their work is queued, except those that return host values, which wait for all
//! that was queued before. [`Sums`] are values that are waited for later, while more is queued.
#![expect(unsafe_code, reason = "the driver's interface takes pointers")]

mod column;
mod device;
mod error;
mod field;
mod linked;
mod memory;
mod msm;
mod ntt;
mod permutation;
mod polynomial;
mod program;
mod scan;
mod store;
mod work;

pub use column::{Column, PolyTerm, Term};
pub use device::{Ceilings, Device, Mark, PTX};
pub use error::Error;
pub use field::Operation;
pub use linked::{CellCopy, Relation};
pub use memory::{Cell, Matrix};
pub use msm::{Msm, Plan, Sums};
pub use ntt::{Coset, Ntt};
pub use permutation::Permutation;
pub use program::{Code, Instruction, Place, Program};
pub use scan::Join;
pub use work::Work;
