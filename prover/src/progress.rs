//! What a caller sees of a proof under way, and how it stops one.

/// Receives the stages of a proof.
///
/// The stages and their counts depend on the key alone, never on the witness.
pub trait Progress: Sync {
    /// `done` of `total` steps are complete; `stage` is about to begin.
    fn stage(&self, stage: &'static str, done: usize, total: usize);

    /// Whether the caller wants to stop; asked between stages.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Ignores everything, never cancels.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn stage(&self, _stage: &'static str, _done: usize, _total: usize) {}
}

/// Where the time went, in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Timings {
    /// Producing the witness columns, all phases.
    pub witness_ms: f64,
    /// Commitments to columns, permutation products included.
    pub commit_ms: f64,
    /// The quotient and the commitments to its limbs.
    pub quotient_ms: f64,
    /// Evaluations and the opening argument.
    pub open_ms: f64,
    /// Every step by name, in order.
    pub steps: Vec<(&'static str, f64)>,
}

impl Timings {
    /// A step before all others, in milliseconds: part of the witness.
    pub fn add_witness(&mut self, step: &'static str, ms: f64) {
        self.witness_ms += ms;
        self.steps.insert(0, (step, ms));
    }

    /// The sum of the four parts.
    pub fn total_ms(&self) -> f64 {
        self.witness_ms + self.commit_ms + self.quotient_ms + self.open_ms
    }
}
