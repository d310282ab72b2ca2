//! Fixed-point transformer layers compiled into halo2 circuits.
//!
//! - [`block`], [`embedding`], [`head`]: the slices of a model; [`model`]: any of them.
//! - [`executor`]: the integer semantics, which are the specification.
//! - [`bounds`]: which specifications are sound to compile.
//! - [`tables`]: the lookup tables.
//! - [`mod@slice`]: what a verifier must know of a circuit besides its gates.
//! - [`spec`]: what is computed: shapes, scales, integer weights.
//! - [`witness`]: how a circuit hands its columns to a prover.

pub mod assign;
pub mod audit;
pub mod block;
pub mod boundary;
pub mod bounds;
pub mod embedding;
pub mod executor;
pub mod head;
pub mod ids;
pub mod integers;
pub mod layout;
pub mod logup;
pub mod matrix;
pub mod model;
pub mod plan;
pub mod range;
pub mod rows;
pub mod slice;
pub mod spec;
pub mod tables;
pub mod testing;
pub mod witness;

/// The scalar field of BN254, in which every circuit of Lamina lives.
pub type Fr = halo2_proofs::halo2curves::bn256::Fr;
