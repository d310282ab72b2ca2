//! Verifying keys: strict bytes, a digest that is checked first, and the proof shape that follows.

use std::fmt;

use ff::PrimeField;
use halo2_proofs::{
    plonk::{ConstraintSystem, VerifyingKey, permutation},
    poly::EvaluationDomain,
};
use lamina_circuits::slice::{LinkedColumns, RefusedParams, SliceCircuit};

use crate::{
    Fr, G1Affine,
    encoding::{self, ELEMENT_BYTES, PointError, Reader, Truncated},
    hash::{Hasher, KeyDigest},
    plonk::Protocol,
    srs::{LOG_N_RANGE, TAIL_ROWS},
};

/// Bytes of the largest key that is read.
pub const MAX_KEY_BYTES: usize = 1 << 20;

/// Degrees above this are silently cut by the library.
pub const MAX_DEGREE: usize = 5;

const MAGIC: &[u8; 8] = b"LAMINAVK";
const VERSION: u16 = 1;
const FIXED_BYTES: usize = 8 + 2 + 4 * 4 + ELEMENT_BYTES;

/// Why a verifying key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// `MAX_DEGREE` in the environment changes keys behind the back of their digest.
    #[error("MAX_DEGREE is set in the environment")]
    MaxDegreeSet,
    /// More bytes than any key has.
    #[error("a key of {actual} bytes, more than {MAX_KEY_BYTES}")]
    TooLarge {
        /// Found.
        actual: usize,
    },
    /// The bytes are not those that the digest names.
    #[error("key digest {actual}, expected {expected}")]
    Digest {
        /// Pinned.
        expected: KeyDigest,
        /// Of the bytes.
        actual: KeyDigest,
    },
    /// The bytes do not start with the magic bytes.
    #[error("not a verifying key")]
    Magic,
    /// Another version of the format.
    #[error("key format version {actual} is not {VERSION}")]
    Version {
        /// What the key says.
        actual: u16,
    },
    /// The bytes end early or late.
    #[error("expected {expected} bytes, found {actual}")]
    Length {
        /// From the counts.
        expected: usize,
        /// Found.
        actual: usize,
    },
    /// The circuit refuses its parameters.
    #[error(transparent)]
    Params(#[from] RefusedParams),
    /// The key's `k` is not that of its parameters, or out of range.
    #[error("key for 2^{actual} rows, parameters for 2^{expected}")]
    LogN {
        /// Of the parameters.
        expected: u32,
        /// Of the key.
        actual: u32,
    },
    /// Key, parameters and constraint system disagree about the degree, or it is out of range.
    #[error("degree {actual}, expected {expected}")]
    Degree {
        /// Of the parameters.
        expected: usize,
        /// Of the key or of the constraint system.
        actual: usize,
    },
    /// The key has another number of commitments than the circuit.
    #[error("{actual} {part} commitments, the circuit has {expected}")]
    Count {
        /// `fixed` or `permutation`.
        part: &'static str,
        /// Of the circuit.
        expected: usize,
        /// Of the key.
        actual: usize,
    },
    /// The circuit has a feature that this verifier does not handle.
    #[error("unsupported circuit: {reason}")]
    Unsupported {
        /// Which.
        reason: &'static str,
    },
    /// A commitment is refused.
    #[error("{part} commitment {index}: {error}")]
    Point {
        /// `fixed` or `permutation`.
        part: &'static str,
        /// Position.
        index: usize,
        /// Why.
        error: PointError,
    },
    /// The key belongs to another version of the circuit than this build contains.
    #[error("the key was made for another version of the circuit")]
    Transcript,
}

/// Which outside commitment a linked column is tied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkedRole {
    /// A weight column.
    Weight,
    /// A column of the input boundary.
    Input,
    /// A column of the output boundary.
    Output,
}

/// One linked column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkedColumn {
    /// What it is tied to.
    pub role: LinkedRole,
    /// Position among the columns of its role.
    pub index: usize,
    /// Advice column index.
    pub advice: usize,
    /// Position of its commitment among the points of the proof.
    pub position: usize,
}

/// What a key says about every proof under it.
///
/// ```text
/// proof = points · 32 | scalars · 32 | 2 points · 32
/// points  = advice + 3·lookups + sets + 1 + (degree − 1)
/// scalars = advice queries + fixed queries + 1 + permutation columns + (3·sets − 1) + 5·lookups
/// sets    = ⌈permutation columns / (degree − 2)⌉
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyShape {
    /// `k`.
    pub log_n: u32,
    /// `u`.
    pub usable_rows: usize,
    /// `n − u`.
    pub blinding_rows: usize,
    /// Degree of the constraint system.
    pub degree: usize,
    /// Advice columns: the first points of a proof, phase by phase.
    pub advice: usize,
    /// Points before the scalars.
    pub points: usize,
    /// Scalars.
    pub scalars: usize,
    /// Linked columns in ascending advice index.
    pub linked: Vec<LinkedColumn>,
}

/// Points after the scalars: the two of the opening argument.
pub(crate) const OPENING_POINTS: usize = 2;

impl KeyShape {
    /// Derives the shape from a constraint system without selectors.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`] for what the envelope cannot carry.
    pub fn new(
        cs: &ConstraintSystem<Fr>,
        log_n: u32,
        degree: usize,
        linked: &LinkedColumns,
    ) -> Result<Self, KeyError> {
        let unsupported = |reason| KeyError::Unsupported { reason };
        if cs.num_instance_columns() != 1 {
            return Err(unsupported("not exactly one instance column"));
        }
        let n = 1usize.checked_shl(log_n).ok_or(unsupported("too many rows"))?;
        let blinding_rows =
            cs.blinding_factors().checked_add(1).ok_or(unsupported("too many blinding rows"))?;
        if blinding_rows > TAIL_ROWS {
            return Err(unsupported("more blinding rows than a reference string keeps"));
        }
        let usable_rows =
            n.checked_sub(blinding_rows).filter(|rows| *rows > 2).ok_or(unsupported("no usable rows"))?;
        let per_set =
            degree.checked_sub(2).filter(|columns| *columns > 0).ok_or(unsupported("degree below 3"))?;
        let phases = cs.advice_column_phase();
        let lookups = cs.lookups().len();
        let permuted = cs.permutation().get_columns().len();
        let sets = permuted.div_ceil(per_set);
        let sum = |terms: &[usize]| terms.iter().try_fold(0usize, |sum, term| sum.checked_add(*term));
        let points = sum(&[phases.len(), lookups.saturating_mul(3), sets, 1, degree.saturating_sub(1)]);
        let scalars = sum(&[
            cs.advice_queries().len(),
            cs.fixed_queries().len(),
            1,
            permuted,
            sets.saturating_mul(3).saturating_sub(usize::from(sets > 0)),
            lookups.saturating_mul(5),
        ]);
        let (Some(points), Some(scalars)) = (points, scalars) else {
            return Err(unsupported("too large"));
        };
        Ok(Self {
            log_n,
            usable_rows,
            blinding_rows,
            degree,
            advice: phases.len(),
            points,
            scalars,
            linked: link_columns(&phases, linked)?,
        })
    }

    /// Columns of one role.
    pub fn columns(&self, role: LinkedRole) -> usize {
        self.linked.iter().filter(|column| column.role == role).count()
    }

    /// Bytes of the halo2 proof.
    pub fn proof_bytes(&self) -> usize {
        self.points.saturating_add(self.scalars).saturating_add(OPENING_POINTS).saturating_mul(ELEMENT_BYTES)
    }
}

fn link_columns(phases: &[u8], linked: &LinkedColumns) -> Result<Vec<LinkedColumn>, KeyError> {
    let unsupported = |reason| KeyError::Unsupported { reason };
    let roles = [
        (LinkedRole::Weight, &linked.weights),
        (LinkedRole::Input, &linked.boundary_in),
        (LinkedRole::Output, &linked.boundary_out),
    ];
    let mut columns = Vec::new();
    for (role, range) in roles {
        if range.end > phases.len() {
            return Err(unsupported("a linked column does not exist"));
        }
        for (index, advice) in range.clone().enumerate() {
            if phases.get(advice) != Some(&0) {
                return Err(unsupported("a linked column is not in phase 0"));
            }
            // Phase 0 comes first in a proof, in index order.
            let position = phases.iter().take(advice).filter(|phase| **phase == 0).count();
            columns.push(LinkedColumn { role, index, advice, position });
        }
    }
    columns.sort_by_key(|column| column.advice);
    let repeated = columns.iter().zip(columns.iter().skip(1)).any(|(one, next)| one.advice == next.advice);
    if repeated {
        return Err(unsupported("a column is linked twice"));
    }
    Ok(columns)
}

/// A verifying key that was read strictly, with its shape.
#[derive(Clone)]
pub struct SliceKey {
    verifying_key: VerifyingKey<G1Affine>,
    protocol: Protocol,
    shape: KeyShape,
    digest: KeyDigest,
}

impl fmt::Debug for SliceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SliceKey").field("digest", &self.digest).field("shape", &self.shape).finish()
    }
}

/// The bytes of a key.
///
/// ```text
/// "LAMINAVK" | version u16 | k u32 | degree u32 | fixed u32 | permutation u32
/// | transcript representative | fixed commitments | permutation commitments
/// ```
///
/// The representative covers gates, queries and phases, so the digest of the bytes does too.
pub fn write_key(key: &VerifyingKey<G1Affine>) -> Vec<u8> {
    let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    let (fixed, permuted) = (key.fixed_commitments(), key.permutation().commitments());
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(key.get_domain().k().to_le_bytes());
    bytes.extend(count(domain_degree(key.get_domain())));
    bytes.extend(count(fixed.len()));
    bytes.extend(count(permuted.len()));
    bytes.extend(key.transcript_repr().to_repr().as_ref());
    bytes.extend(fixed.iter().chain(permuted).flat_map(encoding::g1_bytes));
    bytes
}

/// The digest of a key's bytes.
pub fn key_digest(bytes: &[u8]) -> KeyDigest {
    KeyDigest(Hasher::new("vk").bytes(bytes).digest())
}

fn domain_degree(domain: &EvaluationDomain<Fr>) -> usize {
    domain.get_quotient_poly_degree().saturating_add(1)
}

/// Refuses to work while `MAX_DEGREE` is set.
///
/// # Errors
/// [`KeyError::MaxDegreeSet`].
pub fn refuse_max_degree() -> Result<(), KeyError> {
    match std::env::var_os("MAX_DEGREE") {
        Some(_) => Err(KeyError::MaxDegreeSet),
        None => Ok(()),
    }
}

impl SliceKey {
    /// Reads a key whose digest is known.
    ///
    /// # Soundness
    /// The digest is compared before a byte is interpreted. That the commitments are those of the
    /// circuit `C` follows from the digest alone: whoever pins it has run key generation, or trusts
    /// somebody who has.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn read<C: SliceCircuit>(
        bytes: &[u8],
        expected: KeyDigest,
        params: &C::Params,
    ) -> Result<Self, KeyError> {
        refuse_max_degree()?;
        if bytes.len() > MAX_KEY_BYTES {
            return Err(KeyError::TooLarge { actual: bytes.len() });
        }
        let digest = key_digest(bytes);
        if digest != expected {
            return Err(KeyError::Digest { expected, actual: digest });
        }
        let mut reader = Reader::new(bytes);
        let short = |Truncated| KeyError::Length { expected: FIXED_BYTES, actual: bytes.len() };
        if reader.array().map_err(short)? != *MAGIC {
            return Err(KeyError::Magic);
        }
        let version = reader.u16().map_err(short)?;
        if version != VERSION {
            return Err(KeyError::Version { actual: version });
        }
        let log_n = reader.u32().map_err(short)?;
        let mut count = || {
            let value = reader.u32().map_err(short)?;
            Ok::<_, KeyError>(usize::try_from(value).unwrap_or(usize::MAX))
        };
        let (degree, fixed, permuted) = (count()?, count()?, count()?);
        let representative: [u8; ELEMENT_BYTES] = reader.array().map_err(short)?;
        let expected =
            fixed.saturating_add(permuted).saturating_mul(ELEMENT_BYTES).saturating_add(FIXED_BYTES);
        if bytes.len() != expected {
            return Err(KeyError::Length { expected, actual: bytes.len() });
        }
        C::check(params)?;
        let (cs, domain) = constraint_system::<C>(params, log_n, degree)?;
        let counts = [
            ("fixed", cs.num_fixed_columns(), fixed),
            ("permutation", cs.permutation().get_columns().len(), permuted),
        ];
        for (part, expected, actual) in counts {
            if expected != actual {
                return Err(KeyError::Count { part, expected, actual });
            }
        }
        let mut points = |part, count| {
            (0..count)
                .map(|index| {
                    let bytes = reader.array().map_err(short)?;
                    // A column of zeros commits to the identity, and such fixed columns exist.
                    encoding::g1_or_identity(&bytes).map_err(|error| KeyError::Point { part, index, error })
                })
                .collect::<Result<Vec<_>, _>>()
        };
        let fixed = points("fixed", fixed)?;
        let permuted = points("permutation", permuted)?;
        let shape = KeyShape::new(&cs, log_n, degree, &C::linked(params))?;
        let protocol =
            Protocol::new(&cs, degree, log_n).map_err(|reason| KeyError::Unsupported { reason })?;
        let verifying_key = VerifyingKey::from_parts(
            domain,
            fixed,
            permutation::VerifyingKey::from_commitments(permuted),
            cs,
            Vec::new(),
            false,
        );
        if verifying_key.transcript_repr().to_repr().as_ref() != representative.as_slice() {
            return Err(KeyError::Transcript);
        }
        Ok(Self { verifying_key, protocol, shape, digest })
    }

    /// Takes a key that was just generated: the way of publishers and provers.
    ///
    /// # Errors
    /// As [`Self::read`] of [`write_key`].
    pub fn from_generated<C: SliceCircuit>(
        key: &VerifyingKey<G1Affine>,
        params: &C::Params,
    ) -> Result<Self, KeyError> {
        let bytes = write_key(key);
        Self::read::<C>(&bytes, key_digest(&bytes), params)
    }

    /// What the key says about its proofs.
    pub fn shape(&self) -> &KeyShape {
        &self.shape
    }

    /// The digest of its bytes.
    pub fn digest(&self) -> KeyDigest {
        self.digest
    }

    /// How its proofs are reduced.
    pub(crate) fn protocol(&self) -> &Protocol {
        &self.protocol
    }

    pub(crate) fn verifying_key(&self) -> &VerifyingKey<G1Affine> {
        &self.verifying_key
    }
}

/// Configures the circuit and checks `k` and the degree before the domain is built.
fn constraint_system<C: SliceCircuit>(
    params: &C::Params,
    log_n: u32,
    degree: usize,
) -> Result<(ConstraintSystem<Fr>, EvaluationDomain<Fr>), KeyError> {
    let expected = C::log_n(params);
    if log_n != expected || !LOG_N_RANGE.contains(&log_n) {
        return Err(KeyError::LogN { expected, actual: log_n });
    }
    let mut cs = ConstraintSystem::default();
    C::configure_with_params(&mut cs, params.clone());
    let expected = C::degree(params);
    let usable = (3..=MAX_DEGREE).contains(&expected);
    for actual in [degree, cs.degree(), gate_degree(&cs).max(expected)] {
        if actual != expected || !usable {
            return Err(KeyError::Degree { expected, actual });
        }
    }
    let selectors = vec![vec![false]; cs.num_selectors()];
    let (cs, _) = cs.directly_convert_selectors_to_fixed(selectors);
    let domain_degree = u32::try_from(degree).unwrap_or(u32::MAX);
    Ok((cs, EvaluationDomain::new(domain_degree, log_n)))
}

/// The largest degree of a gate or lookup, without the cut that the library applies to it.
fn gate_degree(cs: &ConstraintSystem<Fr>) -> usize {
    let gates = cs.gates().iter().flat_map(|gate| gate.polynomials()).map(|polynomial| polynomial.degree());
    gates.max().unwrap_or(0)
}
