//! Whole structured reference strings: generated for development, imported, checked, stored.

use std::{
    fmt, fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use ff::{Field, PrimeField};
use group::{Curve, Group, prime::PrimeCurveAffine};
use halo2_proofs::{
    SerdeFormat,
    arithmetic::{best_multiexp, g_to_lagrange},
    halo2curves::{
        CurveAffine,
        bn256::{Bn256, Fq, Fq2, G1, G1Affine, G2Affine},
        serde::SerdeObject,
    },
    poly::kzg::commitment::ParamsKZG,
};
use lamina_circuits::Fr;
use lamina_verifier::{
    encoding::{self, PointError},
    hash::{Digest, Hasher, SrsId},
    srs::{LOG_N_RANGE, SrsError, SrsIdentity, TAIL_ROWS, VerifierSrs, pairings_cancel, root_of_unity},
};
use rand_core::OsRng;
use rayon::prelude::*;

use crate::setup::Bases;

const MAGIC: &[u8; 8] = b"LAMINASR";
const VERSION: u16 = 1;
const FIXED_BYTES: usize = 8 + 2 + 1 + 4 + 32;

/// Why a reference string is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SrsFileError {
    /// Its points or equations are refused.
    #[error(transparent)]
    Refused(#[from] SrsError),
    /// The first power is not the standard generator of its group.
    #[error("the {group} points do not start with the standard generator")]
    Generator {
        /// `first group` or `second group`.
        group: &'static str,
    },
    /// The points are not consecutive powers of one `τ`.
    #[error("the points are not consecutive powers of tau")]
    Powers,
    /// The file has too few powers: `2^k + 1` are needed for `2^k` rows.
    #[error("2^{wanted} rows need 2^{wanted} + 1 powers, the file is for 2^{available} rows at most")]
    TooSmall {
        /// Asked for.
        wanted: u32,
        /// The largest `k` that the file serves.
        available: u32,
    },
    /// The file is not what it was taken for.
    #[error("{format} file: {reason}")]
    Format {
        /// Which format was expected.
        format: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// Reading or writing failed, or the file ended early.
    #[error("reference string file")]
    Io(#[from] io::Error),
}

fn point_error(part: &'static str, index: usize, error: PointError) -> SrsFileError {
    SrsError::Point { part, index, error }.into()
}

/// A checked reference string for `n = 2^k` rows.
///
/// # Shapes
/// `n + 1` powers `[τ^i]_1` (the last one blinds quotient limbs, `protocol.md` section 8.2) and the `n`
/// Lagrange points `[L_i(τ)]_1`.
#[derive(Clone)]
pub struct Srs {
    identity: SrsIdentity,
    log_n: u32,
    powers: Vec<G1Affine>,
    lagrange: Vec<G1Affine>,
}

impl fmt::Debug for Srs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Srs")
            .field("id", &self.id())
            .field("insecure", &self.identity.insecure())
            .field("log_n", &self.log_n)
            .finish()
    }
}

/// Who made a reference string, as far as this build can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ceremony {
    /// Made on this machine or one like it: somebody may know `τ`.
    InsecureDevelopment,
    /// Made elsewhere; compare the identifier with one that you trust.
    Unknown(SrsId),
}

impl fmt::Display for Ceremony {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InsecureDevelopment => f.write_str("insecure development string"),
            Self::Unknown(id) => write!(f, "unknown ceremony, id {id}"),
        }
    }
}

/// What can be said about a reference string without its points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SrsInfo {
    /// Its identifier, the same at every size.
    pub id: SrsId,
    /// `k`.
    pub log_n: u32,
    /// Who made it.
    pub ceremony: Ceremony,
}

impl Srs {
    /// Draws `τ` from the operating system, uses it and forgets it. **For development only.**
    ///
    /// There is no seed: nobody can have the `τ` of such a string by repeating the call. Its mark
    /// `insecure` is part of its identifier, and cards, envelopes and verdicts carry it.
    ///
    /// # Errors
    /// [`SrsError::Size`].
    pub fn generate_insecure(log_n: u32) -> Result<Self, SrsFileError> {
        let n = rows(log_n)?;
        let mut tau = Fr::random(OsRng);
        let table = FixedBase::new();
        let powers = table.multiply_all(&successive(Fr::ONE, tau, n + 1));
        // L_i(τ) = (ω^i/n)·(τ^n − 1)/(τ − ω^i)
        let roots = successive(Fr::ONE, root_of_unity(log_n), n);
        let factor = (tau.pow_vartime([n as u64]) - Fr::ONE) * Fr::TWO_INV.pow_vartime([u64::from(log_n)]);
        let mut differences: Vec<Fr> = roots.iter().map(|root| tau - root).collect();
        batch_invert(&mut differences);
        let values: Vec<Fr> =
            roots.iter().zip(&differences).map(|(root, inverse)| factor * root * inverse).collect();
        let lagrange = table.multiply_all(&values);
        let tau_g2 = (G2Affine::generator() * tau).to_affine();
        crate::blinding::wipe(&mut differences);
        crate::blinding::wipe(std::slice::from_mut(&mut tau));
        Self::new(powers, Some(lagrange), tau_g2, log_n, true)
    }

    /// Assembles a string from points on the curve and checks all of it.
    ///
    /// ```text
    /// e(Σ r^i g_{i+1}, [1]_2) = e(Σ r^i g_i, [τ]_2),      r = H(all points)
    /// ```
    ///
    /// A Lagrange basis that is given is checked by the equation in [`lamina_verifier::srs`]; one that is not is
    /// computed by a transform over points, some seconds at k = 16.
    fn new(
        mut powers: Vec<G1Affine>,
        lagrange: Option<Vec<G1Affine>>,
        tau_g2: G2Affine,
        log_n: u32,
        insecure: bool,
    ) -> Result<Self, SrsFileError> {
        let n = rows(log_n)?;
        powers.truncate(n + 1);
        if powers.len() <= n {
            return Err(SrsFileError::TooSmall { wanted: log_n, available: log_n.saturating_sub(1) });
        }
        if powers[0] != G1Affine::generator() {
            return Err(SrsFileError::Generator { group: "first group" });
        }
        let identity = SrsIdentity::new(powers[1], tau_g2, insecure)?;
        check_powers(&powers, &tau_g2)?;
        let lagrange = lagrange.unwrap_or_else(|| {
            g_to_lagrange(powers[..n].iter().map(PrimeCurveAffine::to_curve).collect(), log_n)
        });
        let srs = Self { identity, log_n, powers, lagrange };
        // Checks the Lagrange basis.
        srs.verifier_srs(true)?;
        Ok(srs)
    }

    /// The string for fewer rows. The Lagrange basis is computed anew.
    ///
    /// # Errors
    /// [`SrsFileError::TooSmall`] for more rows.
    pub fn truncate(&self, log_n: u32) -> Result<Self, SrsFileError> {
        if log_n == self.log_n {
            return Ok(self.clone());
        }
        if log_n > self.log_n {
            return Err(SrsFileError::TooSmall { wanted: log_n, available: self.log_n });
        }
        let n = rows(log_n)?;
        Self::new(self.powers[..=n].to_vec(), None, self.identity.tau_g2(), log_n, self.identity.insecure())
    }

    /// The identifier, the same at every size.
    pub fn id(&self) -> SrsId {
        self.identity.id()
    }

    /// `k`.
    pub fn log_n(&self) -> u32 {
        self.log_n
    }

    /// `n = 2^k`.
    pub fn rows(&self) -> usize {
        self.lagrange.len()
    }

    /// `[L_i(τ)]_1`.
    pub fn lagrange(&self) -> &[G1Affine] {
        &self.lagrange
    }

    /// `[τ^i]_1`, `n + 1` of them.
    pub fn powers(&self) -> &[G1Affine] {
        &self.powers
    }

    /// `[τ]_1`, `[τ]_2` and the development mark.
    pub fn identity(&self) -> &SrsIdentity {
        &self.identity
    }

    /// What can be said about it.
    pub fn info(&self) -> SrsInfo {
        let id = self.id();
        SrsInfo {
            id,
            log_n: self.log_n,
            ceremony: if self.identity.insecure() {
                Ceremony::InsecureDevelopment
            } else {
                Ceremony::Unknown(id)
            },
        }
    }

    /// The commitment bases of the prover.
    pub fn bases(&self) -> Bases {
        Bases {
            k: self.log_n,
            monomial: self.powers[..self.rows()].to_vec(),
            lagrange: self.lagrange.clone(),
            next_power: self.powers.last().copied(),
        }
    }

    /// The library's parameters: for key generation and the stock prover.
    pub fn params(&self) -> ParamsKZG<Bn256> {
        ParamsKZG::<Bn256>::setup(0, OsRng).from_parts(
            self.log_n,
            self.powers[..self.rows()].to_vec(),
            Some(self.lagrange.clone()),
            G2Affine::generator(),
            self.identity.tau_g2(),
        )
    }

    /// The verifier's part, with or without the Lagrange basis that open boundaries need.
    ///
    /// # Errors
    /// [`SrsError`] if this string is not consistent; not after its own construction.
    pub fn verifier_srs(&self, whole_basis: bool) -> Result<VerifierSrs, SrsError> {
        let n = self.rows();
        let top = self.powers[n];
        let z = VerifierSrs::top_point(&self.id(), self.log_n, &top);
        // (X^n − z^n)/(X − z) = Σ_{j<n} z^(n−1−j) X^j
        let mut coefficients = successive(Fr::ONE, z, n);
        coefficients.reverse();
        let opening = best_multiexp(&coefficients, &self.powers[..n]).to_affine();
        let from = if whole_basis { 0 } else { n.saturating_sub(TAIL_ROWS) };
        VerifierSrs::new(self.identity, self.log_n, top, opening, self.lagrange[from..].to_vec())
    }
}

/// The file formats of halo2's `ParamsKZG`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halo2Format {
    /// Compressed points.
    Processed,
    /// Coordinates in Montgomery form; what the library writes by default.
    RawBytes,
}

impl From<Halo2Format> for SerdeFormat {
    fn from(format: Halo2Format) -> Self {
        match format {
            Halo2Format::Processed => Self::Processed,
            Halo2Format::RawBytes => Self::RawBytes,
        }
    }
}

impl Srs {
    /// Imports a parameter file of halo2, for fewer rows than it has: a file for `2^k` rows ends at
    /// `τ^(2^k − 1)`, and `2^k` rows need one power more.
    ///
    /// ```text
    /// k u32 | 2^k powers | 2^k Lagrange points | [1]_2 | [τ]_2
    /// ```
    ///
    /// Nothing in the file is trusted; points beyond those that are kept are skipped unread. `insecure`
    /// says that somebody may know `τ`.
    ///
    /// # Errors
    /// See [`SrsFileError`].
    pub fn import_halo2(
        mut file: impl Read,
        format: Halo2Format,
        log_n: u32,
        insecure: bool,
    ) -> Result<Self, SrsFileError> {
        const NAME: &str = "halo2 parameter";
        let n = rows(log_n)?;
        let mut word = [0; 4];
        file.read_exact(&mut word)?;
        let k = u32::from_le_bytes(word);
        let all = 1u64
            .checked_shl(k)
            .filter(|_| k <= *LOG_N_RANGE.end() + 4)
            .ok_or(SrsFileError::Format { format: NAME, reason: "its size is out of range" })?;
        if k <= log_n {
            return Err(SrsFileError::TooSmall { wanted: log_n, available: k.saturating_sub(1) });
        }
        let each = match format {
            Halo2Format::Processed => 32,
            Halo2Format::RawBytes => 64,
        };
        let powers = read_points(&mut file, n + 1, each, |bytes| match format {
            Halo2Format::Processed => encoding::g1(bytes.try_into().unwrap_or(&[0xff; 32])),
            Halo2Format::RawBytes => montgomery_g1(bytes),
        })?;
        skip(&mut file, (2 * all - (n as u64 + 1)) * each as u64)?;
        let mut second = || -> Result<G2Affine, SrsFileError> {
            let mut bytes = [0; 128];
            let bytes = &mut bytes[..2 * each];
            file.read_exact(bytes)?;
            match format {
                Halo2Format::Processed => encoding::g2((&*bytes).try_into().unwrap_or(&[0xff; 64])),
                Halo2Format::RawBytes => montgomery_g2(bytes),
            }
            .map_err(|error| point_error("second group", 0, error))
        };
        let (g2, tau_g2) = (second()?, second()?);
        if g2 != G2Affine::generator() {
            return Err(SrsFileError::Generator { group: "second group" });
        }
        if file.read(&mut [0])? != 0 {
            return Err(SrsFileError::Format { format: NAME, reason: "bytes after its end" });
        }
        Self::new(powers, None, tau_g2, log_n, insecure)
    }

    /// Imports a `.ptau` file (powers of tau of a ceremony, `bn128`), for at most the rows of its power.
    ///
    /// ```text
    /// "ptau" | version u32 = 1 | sections u32 | section: id u32, bytes u64, …
    /// section 1: field bytes u32 = 32 | q | power u32 | ceremony power u32
    /// section 2: 2^(power+1) − 1 points [τ^i]_1      section 3: 2^power points [τ^i]_2
    /// ```
    ///
    /// Coordinates are little-endian in Montgomery form with `R = 2^256`, as the library's own. Sections 1, 2
    /// and 3 must come once each and in this order, as every tool writes them; the contributions in other
    /// sections are not verified: that is what trusting an identifier is about.
    ///
    /// # Errors
    /// See [`SrsFileError`].
    pub fn import_ptau(mut file: impl Read, log_n: u32) -> Result<Self, SrsFileError> {
        let wrong = |reason| SrsFileError::Format { format: "ptau", reason };
        let n = rows(log_n)?;
        let mut magic = [0; 4];
        file.read_exact(&mut magic)?;
        if &magic != b"ptau" {
            return Err(wrong("not a ptau file"));
        }
        if read_u32(&mut file)? != 1 {
            return Err(wrong("unknown version"));
        }
        let sections = read_u32(&mut file)?;
        let mut power = None;
        let mut powers = None;
        for _ in 0..sections.min(64) {
            let id = read_u32(&mut file)?;
            let length = read_u64(&mut file)?;
            match (id, power, &powers) {
                (1, None, None) => power = Some(ptau_header(&mut file, length)?),
                (2, Some(power), None) => {
                    let count = (1u64 << (power + 1)) - 1;
                    if length != count * 64 {
                        return Err(wrong("section 2 has the wrong length"));
                    }
                    if power < log_n {
                        return Err(SrsFileError::TooSmall { wanted: log_n, available: power });
                    }
                    powers = Some(read_points(&mut file, n + 1, 64, montgomery_g1)?);
                    skip(&mut file, length - (n as u64 + 1) * 64)?;
                }
                (3, Some(power), Some(_)) => {
                    if length != (1u64 << power) * 128 {
                        return Err(wrong("section 3 has the wrong length"));
                    }
                    let mut second = [[0; 128]; 2];
                    for (index, bytes) in second.iter_mut().enumerate() {
                        file.read_exact(bytes)?;
                        let point = montgomery_g2(bytes)
                            .map_err(|error| point_error("second group", index, error))?;
                        if index == 0 && point != G2Affine::generator() {
                            return Err(SrsFileError::Generator { group: "second group" });
                        }
                    }
                    let tau_g2 =
                        montgomery_g2(&second[1]).map_err(|error| point_error("second group", 1, error))?;
                    return Self::new(powers.take().unwrap_or_default(), None, tau_g2, log_n, false);
                }
                (1..=3, _, _) => return Err(wrong("sections out of order or repeated")),
                _ => skip(&mut file, length)?,
            }
        }
        Err(wrong("sections are missing"))
    }

    /// Reads what [`SrsStore::save`] writes, and checks it as if it came from anywhere.
    ///
    /// # Errors
    /// See [`SrsFileError`]. The length is checked before anything is allocated.
    pub fn read(bytes: &[u8]) -> Result<Self, SrsFileError> {
        let wrong = |reason| SrsFileError::Format { format: "reference string", reason };
        let (fixed, body) = bytes.split_at_checked(FIXED_BYTES).ok_or(wrong("too short"))?;
        if &fixed[..8] != MAGIC {
            return Err(wrong("not a reference string"));
        }
        if fixed[8..10] != VERSION.to_le_bytes() {
            return Err(wrong("unknown version"));
        }
        if fixed[10] > 1 {
            return Err(wrong("unknown flags"));
        }
        let mut word = [0; 4];
        word.copy_from_slice(&fixed[11..15]);
        let log_n = u32::from_le_bytes(word);
        let n = rows(log_n)?;
        if body.len() != 64 * (2 * n + 2) {
            return Err(wrong("length"));
        }
        if store_digest(body).0 != fixed[15..] {
            return Err(wrong("digest"));
        }
        let (elements, _) = body.as_chunks::<64>();
        let tau_g2 = encoding::g2(&elements[0]).map_err(|error| point_error("tau_g2", 0, error))?;
        let points = elements[1..]
            .par_iter()
            .enumerate()
            .map(|(index, bytes)| {
                encoding::raw_g1(bytes).map_err(|error| point_error("points", index, error))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let (powers, lagrange) = points.split_at(n + 1);
        Self::new(powers.to_vec(), Some(lagrange.to_vec()), tau_g2, log_n, fixed[10] == 1)
    }
}

fn ptau_header(file: &mut impl Read, length: u64) -> Result<u32, SrsFileError> {
    let wrong = |reason| SrsFileError::Format { format: "ptau", reason };
    if length != 4 + 32 + 4 + 4 {
        return Err(wrong("section 1 has the wrong length"));
    }
    if read_u32(file)? != 32 {
        return Err(wrong("not a field of 32 bytes"));
    }
    let mut modulus = [0; 32];
    file.read_exact(&mut modulus)?;
    // −1 plus one, without leaving bytes: the encoding of −1 is even, so the last bit absorbs the carry.
    let mut expected = (-Fq::one()).to_bytes();
    expected[0] += 1;
    if modulus != expected {
        return Err(wrong("another curve"));
    }
    let (power, _ceremony) = (read_u32(file)?, read_u32(file)?);
    if power == 0 || power > 28 {
        return Err(wrong("its power is out of range"));
    }
    Ok(power)
}

fn read_u32(file: &mut impl Read) -> io::Result<u32> {
    let mut word = [0; 4];
    file.read_exact(&mut word)?;
    Ok(u32::from_le_bytes(word))
}

fn read_u64(file: &mut impl Read) -> io::Result<u64> {
    let mut word = [0; 8];
    file.read_exact(&mut word)?;
    Ok(u64::from_le_bytes(word))
}

fn skip(file: &mut impl Read, bytes: u64) -> io::Result<()> {
    let skipped = io::copy(&mut file.take(bytes), &mut io::sink())?;
    if skipped == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Reads points in chunks, so that a short file ends in an error and not in a large allocation.
fn read_points(
    file: &mut impl Read,
    count: usize,
    each: usize,
    decode: impl Fn(&[u8]) -> Result<G1Affine, PointError> + Sync,
) -> Result<Vec<G1Affine>, SrsFileError> {
    const CHUNK: usize = 1 << 14;
    let mut points = Vec::new();
    let mut bytes = vec![0; CHUNK.min(count) * each];
    while points.len() < count {
        let from = points.len();
        let chunk = CHUNK.min(count - from);
        let bytes = &mut bytes[..chunk * each];
        file.read_exact(bytes)?;
        let decoded: Vec<Result<G1Affine, PointError>> = bytes.par_chunks_exact(each).map(&decode).collect();
        for (index, point) in decoded.into_iter().enumerate() {
            points.push(point.map_err(|error| point_error("powers", from + index, error))?);
        }
    }
    Ok(points)
}

fn montgomery_g1(bytes: &[u8]) -> Result<G1Affine, PointError> {
    let coordinate = |bytes: &[u8]| Fq::from_raw_bytes(bytes).ok_or(PointError::NotCanonical);
    let (x, y) = bytes.split_at(32);
    let (x, y) = (coordinate(x)?, coordinate(y)?);
    if x == Fq::ZERO && y == Fq::ZERO {
        return Err(PointError::Identity);
    }
    Option::from(G1Affine::from_xy(x, y)).ok_or(PointError::NotOnCurve)
}

fn montgomery_g2(bytes: &[u8]) -> Result<G2Affine, PointError> {
    let part = |bytes: &[u8]| Fq::from_raw_bytes(bytes).ok_or(PointError::NotCanonical);
    let coordinate = |bytes: &[u8]| {
        let (c0, c1) = bytes.split_at(32);
        Ok::<_, PointError>(Fq2::new(part(c0)?, part(c1)?))
    };
    let (x, y) = bytes.split_at(64);
    let (x, y) = (coordinate(x)?, coordinate(y)?);
    if x == Fq2::ZERO && y == Fq2::ZERO {
        return Err(PointError::Identity);
    }
    let point = Option::<G2Affine>::from(G2Affine::from_xy(x, y)).ok_or(PointError::NotOnCurve)?;
    encoding::check_g2(&point)?;
    Ok(point)
}

fn rows(log_n: u32) -> Result<usize, SrsError> {
    if LOG_N_RANGE.contains(&log_n) { Ok(1 << log_n) } else { Err(SrsError::Size { log_n }) }
}

/// `first, first·ratio, first·ratio², …`
fn successive(first: Fr, ratio: Fr, count: usize) -> Vec<Fr> {
    std::iter::successors(Some(first), |power| Some(*power * ratio)).take(count).collect()
}

fn batch_invert(values: &mut [Fr]) {
    use ff::BatchInvert;
    values.iter_mut().batch_invert();
}

fn check_powers(powers: &[G1Affine], tau_g2: &G2Affine) -> Result<(), SrsFileError> {
    let mut hasher = Hasher::new("srs-powers");
    hasher.point_g2(tau_g2).count(powers.len());
    for point in powers {
        hasher.bytes(&encoding::raw_g1_bytes(point));
    }
    let scalars = successive(Fr::ONE, hasher.challenge(), powers.len() - 1);
    let low = best_multiexp(&scalars, &powers[..scalars.len()]);
    let high = best_multiexp(&scalars, &powers[1..]);
    pairings_cancel(&[((-high).to_affine(), G2Affine::generator()), (low.to_affine(), *tau_g2)])
        .then_some(())
        .ok_or(SrsFileError::Powers)
}

/// Multiples of the generator by table: 32 windows of 8 bits.
struct FixedBase(Vec<Vec<G1Affine>>);

impl FixedBase {
    fn new() -> Self {
        let mut base = G1::generator();
        let windows = (0..32)
            .map(|_| {
                let multiples: Vec<G1> =
                    std::iter::successors(Some(G1::identity()), |sum| Some(sum + base)).take(256).collect();
                base = multiples[255] + base;
                let mut window = vec![G1Affine::identity(); 256];
                G1::batch_normalize(&multiples, &mut window);
                window
            })
            .collect();
        Self(windows)
    }

    fn multiply_all(&self, scalars: &[Fr]) -> Vec<G1Affine> {
        let mut points = vec![G1Affine::identity(); scalars.len()];
        points.par_chunks_mut(256).zip(scalars.par_chunks(256)).for_each(|(points, scalars)| {
            let sums: Vec<G1> = scalars
                .iter()
                .map(|scalar| {
                    let digits = scalar.to_repr();
                    self.0
                        .iter()
                        .zip(digits.as_ref())
                        .map(|(window, digit)| window[usize::from(*digit)])
                        .fold(G1::identity(), |sum, point| sum + point)
                })
                .collect();
            G1::batch_normalize(&sums, points);
        });
        points
    }
}

/// A folder of reference strings, each under its identifier and size.
#[derive(Clone, Debug)]
pub struct SrsStore {
    folder: PathBuf,
}

impl SrsStore {
    /// Uses `folder`, which is created when something is saved.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Where a string lies.
    pub fn path(&self, id: SrsId, log_n: u32) -> PathBuf {
        self.folder.join(format!("{id}-{log_n}.srs"))
    }

    /// Saves a string: temporary name, sync, rename.
    ///
    /// ```text
    /// "LAMINASR" | version u16 | flags u8 (1 insecure) | k u32 | digest of the rest 32
    /// | [τ]_2 | n + 1 powers, x ‖ y each | n Lagrange points
    /// ```
    ///
    /// # Errors
    /// [`SrsFileError::Io`].
    pub fn save(&self, srs: &Srs) -> Result<PathBuf, SrsFileError> {
        use group::GroupEncoding;
        fs::create_dir_all(&self.folder)?;
        let mut body = Vec::with_capacity(64 * (2 * srs.rows() + 2));
        body.extend(srs.identity.tau_g2().to_bytes().as_ref());
        body.extend(srs.powers.iter().chain(&srs.lagrange).flat_map(encoding::raw_g1_bytes));
        let mut bytes = Vec::with_capacity(FIXED_BYTES + body.len());
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.push(u8::from(srs.identity.insecure()));
        bytes.extend(srs.log_n.to_le_bytes());
        bytes.extend(store_digest(&body).0);
        bytes.extend(&body);
        let path = self.path(srs.id(), srs.log_n);
        write_atomically(&path, &bytes)?;
        Ok(path)
    }

    /// Loads a string and checks it as if it came from anywhere.
    ///
    /// # Errors
    /// See [`SrsFileError`]; a file under another string's name is [`SrsFileError::Format`].
    pub fn load(&self, id: SrsId, log_n: u32) -> Result<Srs, SrsFileError> {
        let srs = Srs::read(&fs::read(self.path(id, log_n))?)?;
        if srs.id() != id || srs.log_n != log_n {
            return Err(SrsFileError::Format {
                format: "reference string",
                reason: "stored under another one's name",
            });
        }
        Ok(srs)
    }

    /// Loads a string, or takes it from `make` and saves it.
    ///
    /// # Errors
    /// See [`SrsFileError`].
    pub fn load_or_else(
        &self,
        id: SrsId,
        log_n: u32,
        make: impl FnOnce() -> Result<Srs, SrsFileError>,
    ) -> Result<Srs, SrsFileError> {
        if self.path(id, log_n).exists() {
            return self.load(id, log_n);
        }
        let srs = make()?;
        self.save(&srs)?;
        Ok(srs)
    }
}

fn store_digest(body: &[u8]) -> Digest {
    Hasher::new("srs-store").bytes(body).digest()
}

/// Writes a file that is there whole or not at all, readable by its owner only.
///
/// # Errors
/// Those of the file system.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = folder.join(format!(".{name}.{}.partial", std::process::id()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    // A leftover of a process that had this number and was killed.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = options.open(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| fs::rename(&temporary, path));
    if renamed.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    renamed?;
    #[cfg(unix)]
    fs::File::open(folder)?.sync_all()?;
    Ok(())
}
