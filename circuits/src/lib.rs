//! Fixed-point transformer layers compiled into halo2 circuits.
//!
//! - [`executor`]: the integer semantics, which are the specification.
//! - [`bounds`]: which specifications are sound to compile.
//! - [`tables`]: the lookup tables.
//! - [`spec`]: what is computed: shapes, scales, integer weights.
//! - [`witness`]: how a circuit hands its columns to a prover.

pub mod bounds;
pub mod executor;
pub mod spec;
pub mod tables;
pub mod witness;

/// The scalar field of BN254, in which every circuit of Lamina lives.
pub type Fr = halo2_proofs::halo2curves::bn256::Fr;
