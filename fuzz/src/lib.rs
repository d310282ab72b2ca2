//! What every fuzz target shares: the function under test, honest seeds, mutations that know the format.
//!
//! A target fails when the code panics, when it takes more memory than a constant times its input, when it
//! runs for longer than libFuzzer's `-timeout`, or when an assertion here is wrong: a decoder that does not
//! write back what it read, a verifier that accepts other bytes than an honest prover's.
//!
//! `fuzz/run` builds and starts the targets; it names the folder of seeds and findings in `LAMINA_FUZZ`.

pub mod memory;
pub mod models;
pub mod mutate;
pub mod targets;
pub mod world;
