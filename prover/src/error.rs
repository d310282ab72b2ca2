//! What can go wrong while keys are made and proofs are computed.

/// Why a constraint system is not provable here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnsupportedError {
    /// The circuit has lookup arguments; Lamina's circuits express lookups as gates.
    #[error("the circuit has {count} lookup arguments, which this prover does not support")]
    Lookups {
        /// How many.
        count: usize,
    },
    /// `MAX_DEGREE` is set, which silently changes the degree of every key.
    #[error("MAX_DEGREE is set in the environment, which changes keys without changing their digest")]
    MaxDegree,
    /// The gates' degree is not the domain's.
    #[error("the gates have degree {gates} but the key's domain has degree {domain}")]
    Degree {
        /// Largest degree of a gate, or 3 for the permutation argument.
        gates: usize,
        /// The key's degree.
        domain: usize,
    },
}

/// Why a proving key could not be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The constraint system is not supported.
    #[error(transparent)]
    Unsupported(#[from] UnsupportedError),
    /// The constraint system breaks the determination rule.
    #[error(transparent)]
    Audit(#[from] lamina_circuits::audit::AuditError),
    /// halo2's key generation failed.
    #[error("key generation failed")]
    Keygen(#[source] halo2_proofs::plonk::Error),
    /// Reading or writing failed.
    #[error("proving key file")]
    Io(#[from] std::io::Error),
    /// The file is not a proving key of this version.
    #[error("not a proving key of format version {expected}")]
    Format {
        /// The version this build reads.
        expected: u16,
    },
    /// The file's content does not have the digest that its header or the caller names.
    #[error("the proving key file does not have its pinned digest")]
    Digest,
    /// A length in the file contradicts the circuit.
    #[error("proving key field {field}: expected {expected}, found {actual}")]
    Length {
        /// Which field.
        field: &'static str,
        /// What the circuit needs.
        expected: usize,
        /// What the file has.
        actual: usize,
    },
    /// A value in the file is not canonical or not on the curve.
    #[error("proving key field {field} is not canonical")]
    Encoding {
        /// Which field.
        field: &'static str,
    },
}

/// Why a backend did not compute what it was asked to.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendError {
    /// The device or its driver failed, or there is none.
    #[error(transparent)]
    Device(#[from] lamina_kernels::Error),
    /// A proof with this key does not fit the device's memory.
    #[error("a proof with this key needs {needed} bytes of device memory, {free} are free")]
    Plan {
        /// Bytes that the plan says, of the key and the proof together.
        needed: usize,
        /// Bytes that were free.
        free: usize,
    },
}

/// Why the parameters do not fit.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetupError {
    /// The parameters are smaller than the key, or larger where they must be equal.
    #[error("the parameters are for 2^{actual} rows, the key for 2^{expected}")]
    Rows {
        /// Logarithm of the key's rows.
        expected: u32,
        /// Logarithm of the parameters' size.
        actual: u32,
    },
    /// The given point is not `[tau^n]`.
    #[error("the given point is not the next power of the parameters")]
    NextPower,
    /// The library's serialisation of its parameters is not what this version expects.
    #[error("the parameters could not be read out of the library")]
    Layout,
    /// The backend could not take over bases and key.
    #[error("loading the key into the backend")]
    Backend(#[from] BackendError),
}

/// Why no proof was produced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProveError {
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// The number of instance columns is wrong.
    #[error("expected {expected} instance columns, found {actual}")]
    InstanceColumns {
        /// Columns of the key.
        expected: usize,
        /// Columns given.
        actual: usize,
    },
    /// A column has more values than usable rows.
    #[error("{kind} column {column} has {actual} values for {usable} usable rows")]
    TooManyRows {
        /// `instance` or `advice`.
        kind: &'static str,
        /// Which column.
        column: usize,
        /// Usable rows.
        usable: usize,
        /// Values given.
        actual: usize,
    },
    /// The witness gave the wrong columns for a phase.
    #[error("phase {phase}: expected advice columns {expected:?}, found {actual:?}")]
    AdviceColumns {
        /// The phase.
        phase: u8,
        /// The phase's columns.
        expected: Vec<usize>,
        /// The columns given.
        actual: Vec<usize>,
    },
    /// A column of a later phase does not follow from the gates that the witness names.
    #[error("advice column {column} cannot be derived: {problem}")]
    Derivation {
        /// Which column.
        column: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// A committed column is not of phase 0, is named twice, or has a tail of the wrong length.
    #[error("committed column {column}: {problem}")]
    Committed {
        /// Which column.
        column: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// The quotient limbs cannot be blinded without `[tau^n]`.
    #[error("blinding the quotient needs the parameters' next power, [tau^n]")]
    NoNextPower,
    /// The operating system gave no entropy.
    #[error("no entropy from the operating system")]
    Entropy,
    /// The witness does not satisfy the circuit.
    #[error("the witness does not satisfy the circuit")]
    Unsatisfied,
    /// Writing to the transcript failed: a commitment is the point at infinity.
    #[error("transcript: a commitment is the point at infinity")]
    Transcript(#[source] std::io::Error),
    /// The backend failed; there is no proof.
    #[error("the backend failed during {stage}")]
    Backend {
        /// The stage of the proof, as [`crate::Progress`] names it.
        stage: &'static str,
        /// Why.
        source: BackendError,
    },
    /// The first proof of this key on this backend does not verify: what the backend computed is wrong.
    #[error("the backend {backend} computed a proof that does not verify: do not use it")]
    WrongProof {
        /// The backend's name.
        backend: String,
    },
}
