//! Lamina's prover: any halo2 circuit without lookup arguments, to a proof that the stock verifier accepts.
//!
//! - [`key`]: proving keys; [`setup`]: commitment bases.
//! - [`prove`]: the protocol, written once against [`backend::Backend`].
//! - [`expression`]: gates as one identity, constants folded, linear parts kept whole; [`tape`]: its coefficients, which follow
//!   from the challenges.
//! - [`backend`]: [`backend::Reference`] (the oracle), [`backend::Cpu`] (fast),
//!   [`backend::Cuda`] (a GPU), [`backend::Dual`] (two, compared).
//! - [`blinding`]: the randomness of a proof; [`progress`]: stages, cancellation, timings.
//! - [`synthesized`], [`stock`]: ordinary circuits as witnesses, and halo2's own prover, to compare with.

pub mod backend;
pub mod blinding;
pub mod derivation;
pub mod error;
pub mod expression;
pub mod key;
pub mod link;
pub mod progress;
pub mod prove;
pub mod publish;
pub mod setup;
pub mod srs;
pub mod stock;
pub mod synthesized;
pub mod tape;

pub use backend::{Backend, Cpu, Cuda, Dual, Kernels, Reference};
pub use blinding::Blinding;
pub use error::{BackendError, KeyError, ProveError, SetupError, UnsupportedError};
pub use key::ProvingKey;
pub use progress::{Progress, Silent, Timings};
#[cfg(feature = "cheat")]
pub use prove::FalseClaim;
pub use prove::{Beside, Committed, Proved, Prover};
pub use setup::Bases;
