//! The part of a structured reference string that a verifier needs, with its own proof of being that part.
//!
//! # Soundness
//! What a verifier trusts is an [`SrsId`]: a digest of `[τ]_1`, `[τ]_2` and the development mark, whatever
//! the size. Everything else in the file follows from it. With `A = [τ^n]_1` and `n = 2^k`:
//!
//! ```text
//! e(A − z^n·[1]_1, [1]_2) = e(W, [τ − z]_2)         z = H(id, k, A): a KZG opening of X^n at z
//! (τ − ω^i)·L_i(τ) = (ω^i/n)·(τ^n − 1)              so, combined by powers of r = H(points):
//! e(Σ r^j L_i, [τ]_2) = e(Σ r^j ω^i L_i + (Σ r^j ω^i/n)·(A − [1]_1), [1]_2)
//! ```
//!
//! Wrong Lagrange points would let a prover change linked columns on usable rows; these two equations
//! leave it a chance of about `n/p`.

use std::{fmt, iter, ops::Neg};

use ff::{Field, PrimeField};
use group::{Curve, Group, GroupEncoding, prime::PrimeCurveAffine};
use halo2_proofs::halo2curves::bn256::{Bn256, G1, G2Prepared, Gt};
use pairing::{MillerLoopResult, MultiMillerLoop};

use crate::{
    Fr, G1Affine, G2Affine,
    encoding::{self, ELEMENT_BYTES, G2_BYTES, PointError, RAW_G1_BYTES, Reader, Truncated},
    hash::{Hasher, SrsId},
    msm::multiply,
};

/// Sizes that are accepted: `2^1` to `2^24` rows.
pub const LOG_N_RANGE: std::ops::RangeInclusive<u32> = 1..=24;

/// Lagrange points kept of the last rows; a circuit blinds fewer rows than this.
pub const TAIL_ROWS: usize = 16;

const MAGIC: &[u8; 8] = b"LAMINASV";
const VERSION: u16 = 1;

/// Why a reference string is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SrsError {
    /// The file does not start with the magic bytes.
    #[error("not a verifier's reference string")]
    Magic,
    /// Another version of the format.
    #[error("format version {actual} is not {VERSION}")]
    Version {
        /// What the file says.
        actual: u16,
    },
    /// Unknown flag bits.
    #[error("unknown flags {flags:#04x}")]
    Flags {
        /// What the file says.
        flags: u8,
    },
    /// A size that is not accepted.
    #[error("2^{log_n} rows are outside the accepted sizes")]
    Size {
        /// `k`.
        log_n: u32,
    },
    /// The file has more or fewer bytes than its header announces.
    #[error("expected {expected} bytes, found {actual}")]
    Length {
        /// From the header.
        expected: usize,
        /// Found.
        actual: usize,
    },
    /// A point is refused.
    #[error("{part}[{index}]: {error}")]
    Point {
        /// Which part of the reference string.
        part: &'static str,
        /// Position in it.
        index: usize,
        /// Why.
        error: PointError,
    },
    /// `[τ]_1` and `[τ]_2` are not powers of one `τ`.
    #[error("the points of the two groups disagree about tau")]
    TauMismatch,
    /// The opening at a random point does not show `[τ^n]_1`.
    #[error("the top power is not tau^n")]
    TopPower,
    /// The points are not Lagrange polynomials at `τ`.
    #[error("the Lagrange points do not belong to this reference string")]
    Lagrange,
    /// An open boundary needs the whole Lagrange basis, and this reference string has only its tail.
    #[error("an open boundary needs the Lagrange basis, which this reference string lacks")]
    NoLagrangeBasis,
    /// A column has more values than the domain has rows.
    #[error("{actual} values in a column of {limit} rows")]
    TooManyRows {
        /// Rows.
        limit: usize,
        /// Values.
        actual: usize,
    },
}

impl SrsError {
    fn point(part: &'static str, index: usize, error: PointError) -> Self {
        Self::Point { part, index, error }
    }
}

/// What a reference string is, at every size: `[τ]_1`, `[τ]_2` over the standard generators.
#[derive(Clone, Copy, PartialEq)]
pub struct SrsIdentity {
    tau_g1: G1Affine,
    tau_g2: G2Affine,
    insecure: bool,
}

impl fmt::Debug for SrsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SrsIdentity").field("id", &self.id()).field("insecure", &self.insecure).finish()
    }
}

impl SrsIdentity {
    /// Checks the points and that both groups speak of one `τ`.
    ///
    /// `insecure` marks a string whose `τ` somebody may know; the mark is part of the identifier.
    ///
    /// # Errors
    /// A point that is refused; [`SrsError::TauMismatch`].
    #[expect(clippy::arithmetic_side_effects, reason = "field and group arithmetic is total")]
    pub fn new(tau_g1: G1Affine, tau_g2: G2Affine, insecure: bool) -> Result<Self, SrsError> {
        if bool::from(tau_g1.is_identity()) {
            return Err(SrsError::point("tau_g1", 0, PointError::Identity));
        }
        encoding::check_g2(&tau_g2).map_err(|error| SrsError::point("tau_g2", 0, error))?;
        let minus = -tau_g1;
        if !pairings_cancel(&[(minus, G2Affine::generator()), (G1Affine::generator(), tau_g2)]) {
            return Err(SrsError::TauMismatch);
        }
        Ok(Self { tau_g1, tau_g2, insecure })
    }

    /// The identifier.
    ///
    /// ```text
    /// id = H("srs-id", insecure, [1]_1, [τ]_1, [1]_2, [τ]_2)
    /// ```
    pub fn id(&self) -> SrsId {
        SrsId(
            Hasher::new("srs-id")
                .u64(u64::from(self.insecure))
                .point(&G1Affine::generator())
                .point(&self.tau_g1)
                .point_g2(&G2Affine::generator())
                .point_g2(&self.tau_g2)
                .digest(),
        )
    }

    /// `[τ]_1`.
    pub fn tau_g1(&self) -> G1Affine {
        self.tau_g1
    }

    /// `[τ]_2`.
    pub fn tau_g2(&self) -> G2Affine {
        self.tau_g2
    }

    /// Whether this is a development string, whose `τ` somebody may know.
    pub fn insecure(&self) -> bool {
        self.insecure
    }
}

/// A reference string as a verifier holds it: checked, and small unless it has the Lagrange basis.
#[derive(Clone)]
pub struct VerifierSrs {
    identity: SrsIdentity,
    id: SrsId,
    log_n: u32,
    top: G1Affine,
    opening: G1Affine,
    tail: Vec<G1Affine>,
    basis: Option<Vec<G1Affine>>,
    /// `[τ]_2`, ready for pairings.
    tau: G2Prepared,
    /// `−[1]_2`, ready for pairings.
    minus_one: G2Prepared,
}

impl fmt::Debug for VerifierSrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifierSrs")
            .field("id", &self.id)
            .field("insecure", &self.identity.insecure)
            .field("log_n", &self.log_n)
            .field("lagrange_basis", &self.basis.is_some())
            .finish()
    }
}

impl VerifierSrs {
    /// Assembles a reference string for `n = 2^log_n` rows and checks all of it.
    ///
    /// # Shapes
    /// `top = [τ^n]_1`; `opening` is `[(X^n − z^n)/(X − z)]` at `τ`, with `z` from [`Self::top_point`];
    /// `lagrange` holds the last points `[L_i]_1` of the basis: `min(n, TAIL_ROWS)` of them, or all `n`.
    ///
    /// # Errors
    /// See [`SrsError`].
    pub fn new(
        identity: SrsIdentity,
        log_n: u32,
        top: G1Affine,
        opening: G1Affine,
        lagrange: Vec<G1Affine>,
    ) -> Result<Self, SrsError> {
        let n = size(log_n)?;
        let tail_rows = n.min(TAIL_ROWS);
        if lagrange.len() != n && lagrange.len() != tail_rows {
            return Err(SrsError::Length { expected: tail_rows, actual: lagrange.len() });
        }
        let id = identity.id();
        check_top(&identity, &id, log_n, &top, &opening)?;
        check_lagrange(&identity, log_n, &top, &lagrange)?;
        let tail = lagrange.iter().skip(lagrange.len().saturating_sub(tail_rows)).copied().collect();
        Ok(Self {
            identity,
            id,
            log_n,
            top,
            opening,
            tail,
            basis: (lagrange.len() == n).then_some(lagrange),
            tau: identity.tau_g2.into(),
            minus_one: G2Affine::generator().neg().into(),
        })
    }

    /// The point at which [`Self::new`] wants `X^n` opened.
    ///
    /// ```text
    /// z = H("srs-top", id, k, [τ^n]_1)
    /// ```
    pub fn top_point(id: &SrsId, log_n: u32, top: &G1Affine) -> Fr {
        Hasher::new("srs-top").bytes(&id.0.0).u64(u64::from(log_n)).point(top).challenge()
    }

    /// The identifier, the same at every size.
    pub fn id(&self) -> SrsId {
        self.id
    }

    /// What the identifier stands for.
    pub fn identity(&self) -> &SrsIdentity {
        &self.identity
    }

    /// `k`, with `n = 2^k` rows.
    pub fn log_n(&self) -> u32 {
        self.log_n
    }

    /// Whether open boundaries can be checked.
    pub fn has_lagrange_basis(&self) -> bool {
        self.basis.is_some()
    }

    /// `[L_i(τ)]_1` for the last `rows` rows, in ascending row; `None` if there are not so many.
    pub fn tail(&self, rows: usize) -> Option<&[G1Affine]> {
        self.tail.get(self.tail.len().checked_sub(rows)?..)
    }

    /// Whether `e(left, [τ]_2) = e(right, [1]_2)`.
    pub(crate) fn pairing_holds(&self, left: &G1Affine, right: &G1Affine) -> bool {
        let product: Gt =
            Bn256::multi_miller_loop(&[(left, &self.tau), (right, &self.minus_one)]).final_exponentiation();
        bool::from(product.is_identity())
    }

    /// The commitment to a column of integers with zeros on the remaining rows, blinding rows included.
    ///
    /// # Errors
    /// [`SrsError::NoLagrangeBasis`], [`SrsError::TooManyRows`].
    #[expect(clippy::arithmetic_side_effects, reason = "field and group arithmetic is total")]
    pub fn commit_open(&self, values: &[i32]) -> Result<G1Affine, SrsError> {
        let basis = self.basis.as_ref().ok_or(SrsError::NoLagrangeBasis)?;
        if values.len() > basis.len() {
            return Err(SrsError::TooManyRows { limit: basis.len(), actual: values.len() });
        }
        // The sign goes to the point, so that scalars stay short.
        let terms: Vec<_> = values
            .iter()
            .zip(basis)
            .filter(|(value, _)| **value != 0)
            .map(|(value, point)| {
                let point = if *value < 0 { -*point } else { *point };
                (Fr::from(u64::from(value.unsigned_abs())), point)
            })
            .collect();
        Ok(multiply(&terms).to_affine())
    }

    /// The commitment to a column of field elements with zeros on the remaining rows.
    ///
    /// # Errors
    /// As [`Self::commit_open`].
    pub(crate) fn commit(&self, values: &[Fr]) -> Result<G1Affine, SrsError> {
        let basis = self.basis.as_ref().ok_or(SrsError::NoLagrangeBasis)?;
        if values.len() > basis.len() {
            return Err(SrsError::TooManyRows { limit: basis.len(), actual: values.len() });
        }
        let terms: Vec<_> = values.iter().copied().zip(basis.iter().copied()).collect();
        Ok(multiply(&terms).to_affine())
    }

    /// The bytes that [`Self::read`] reads.
    ///
    /// ```text
    /// "LAMINASV" | version u16 | flags u8 (1 insecure, 2 whole basis) | k u32
    /// | [τ]_1 | [τ]_2 | [τ^n]_1 | opening | Lagrange points, x ‖ y each
    /// ```
    pub fn write(&self) -> Vec<u8> {
        let lagrange = self.basis.as_ref().unwrap_or(&self.tail);
        let flags = u8::from(self.identity.insecure) | (u8::from(self.basis.is_some()) << 1);
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.push(flags);
        bytes.extend(self.log_n.to_le_bytes());
        bytes.extend(encoding::g1_bytes(&self.identity.tau_g1));
        bytes.extend(self.identity.tau_g2.to_bytes().as_ref());
        bytes.extend(encoding::g1_bytes(&self.top));
        bytes.extend(encoding::g1_bytes(&self.opening));
        bytes.extend(lagrange.iter().flat_map(encoding::raw_g1_bytes));
        bytes
    }

    /// Reads and checks a reference string: every point, and the equations of this module.
    ///
    /// # Soundness
    /// The file proves itself against its own identifier; the caller compares [`Self::id`] with one that it
    /// trusts.
    ///
    /// # Errors
    /// See [`SrsError`]. The length is checked before anything is allocated.
    pub fn read(bytes: &[u8]) -> Result<Self, SrsError> {
        let mut reader = Reader::new(bytes);
        let short = |Truncated| SrsError::Length { expected: FIXED_BYTES, actual: bytes.len() };
        if reader.array().map_err(short)? != *MAGIC {
            return Err(SrsError::Magic);
        }
        let version = reader.u16().map_err(short)?;
        if version != VERSION {
            return Err(SrsError::Version { actual: version });
        }
        let flags = reader.u8().map_err(short)?;
        if flags > 3 {
            return Err(SrsError::Flags { flags });
        }
        let log_n = reader.u32().map_err(short)?;
        let n = size(log_n)?;
        let points = if flags & 2 == 0 { n.min(TAIL_ROWS) } else { n };
        let expected = points.saturating_mul(RAW_G1_BYTES).saturating_add(FIXED_BYTES);
        if bytes.len() != expected {
            return Err(SrsError::Length { expected, actual: bytes.len() });
        }
        let mut point = |part| {
            let bytes = reader.array().map_err(short)?;
            encoding::g1(&bytes).map_err(|error| SrsError::point(part, 0, error))
        };
        let tau_g1 = point("tau_g1")?;
        let tau_g2 = {
            let bytes = reader.array().map_err(short)?;
            encoding::g2(&bytes).map_err(|error| SrsError::point("tau_g2", 0, error))?
        };
        let mut point = |part| {
            let bytes = reader.array().map_err(short)?;
            encoding::g1(&bytes).map_err(|error| SrsError::point(part, 0, error))
        };
        let (top, opening) = (point("top")?, point("opening")?);
        let lagrange = (0..points)
            .map(|index| {
                let bytes = reader.array().map_err(short)?;
                encoding::raw_g1(&bytes).map_err(|error| SrsError::point("lagrange", index, error))
            })
            .collect::<Result<_, _>>()?;
        let identity = SrsIdentity::new(tau_g1, tau_g2, flags & 1 == 1)?;
        Self::new(identity, log_n, top, opening, lagrange)
    }
}

/// Magic, version, flags, `k`, three points of the first group and one of the second.
const FIXED_BYTES: usize = 8 + 2 + 1 + 4 + 3 * ELEMENT_BYTES + G2_BYTES;

fn size(log_n: u32) -> Result<usize, SrsError> {
    if LOG_N_RANGE.contains(&log_n) {
        1usize.checked_shl(log_n).ok_or(SrsError::Size { log_n })
    } else {
        Err(SrsError::Size { log_n })
    }
}

/// A primitive root of unity of order `2^log_n`.
pub fn root_of_unity(log_n: u32) -> Fr {
    (log_n..Fr::S).fold(Fr::ROOT_OF_UNITY, |root, _| root.square())
}

/// Whether the product of pairings is one.
pub fn pairings_cancel(terms: &[(G1Affine, G2Affine)]) -> bool {
    let prepared: Vec<(G1Affine, G2Prepared)> =
        terms.iter().map(|(left, right)| (*left, G2Prepared::from(*right))).collect();
    let terms: Vec<(&G1Affine, &G2Prepared)> = prepared.iter().map(|(left, right)| (left, right)).collect();
    let product: Gt = Bn256::multi_miller_loop(&terms).final_exponentiation();
    bool::from(product.is_identity())
}

#[expect(clippy::arithmetic_side_effects, reason = "field and group arithmetic is total")]
fn check_top(
    identity: &SrsIdentity,
    id: &SrsId,
    log_n: u32,
    top: &G1Affine,
    opening: &G1Affine,
) -> Result<(), SrsError> {
    let z = VerifierSrs::top_point(id, log_n, top);
    let z_n = (0..log_n).fold(z, |power, _| power.square());
    let left = G1::from(*top) - G1Affine::generator() * z_n + *opening * z;
    let minus = -*opening;
    pairings_cancel(&[(left.to_affine(), G2Affine::generator()), (minus, identity.tau_g2)])
        .then_some(())
        .ok_or(SrsError::TopPower)
}

#[expect(clippy::arithmetic_side_effects, reason = "field and group arithmetic is total")]
fn check_lagrange(
    identity: &SrsIdentity,
    log_n: u32,
    top: &G1Affine,
    lagrange: &[G1Affine],
) -> Result<(), SrsError> {
    let mut hasher = Hasher::new("srs-lagrange");
    hasher.u64(u64::from(log_n)).point(top);
    for point in lagrange {
        hasher.point(point);
    }
    let r = hasher.challenge();
    let omega = root_of_unity(log_n);
    // The last point belongs to row n − 1, whose root is ω^(−1); walk backwards from there.
    let omega_inv = omega.invert().unwrap_or(Fr::ONE);
    let powers: Vec<Fr> =
        iter::successors(Some(Fr::ONE), |power| Some(*power * r)).take(lagrange.len()).collect();
    let weighted: Vec<Fr> = iter::successors(Some(omega_inv), |root| Some(*root * omega_inv))
        .zip(&powers)
        .map(|(root, power)| root * power)
        .collect();
    let points: Vec<G1Affine> = lagrange.iter().rev().copied().collect();
    let n_inv = Fr::TWO_INV.pow_vartime([u64::from(log_n)]);
    let constant = weighted.iter().fold(Fr::ZERO, |sum, term| sum + term) * n_inv;
    let sum = |scalars: &[Fr]| {
        let terms: Vec<_> = scalars.iter().copied().zip(points.iter().copied()).collect();
        multiply(&terms)
    };
    let left = sum(&powers);
    let right = sum(&weighted) + (G1::from(*top) - G1::from(G1Affine::generator())) * constant;
    pairings_cancel(&[((-left).to_affine(), identity.tau_g2), (right.to_affine(), G2Affine::generator())])
        .then_some(())
        .ok_or(SrsError::Lagrange)
}
