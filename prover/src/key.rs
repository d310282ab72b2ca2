//! Proving keys: halo2's verifying key, the fixed columns and the permutation, in the Lagrange basis.

use std::{
    io::{Read, Write},
    sync::Arc,
};

use ff::{Field, PrimeField};
use halo2_proofs::{
    SerdeFormat,
    halo2curves::bn256::{Bn256, G1Affine},
    plonk::{Circuit, ConstraintSystem, VerifyingKey, keygen_pk2},
    poly::kzg::commitment::ParamsKZG,
};
use lamina_circuits::{Fr, audit, witness::Column};
use lamina_verifier::srs::LOG_N_RANGE;

use crate::error::{KeyError, UnsupportedError};

/// All that proving needs besides the parameters.
///
/// Selectors become fixed columns one to one (`keygen_vk_custom` without compression), so that keys do not
/// depend on which rows a selector is on. Columns of small integers are kept as integers.
#[derive(Clone, Debug)]
pub struct ProvingKey {
    vk: VerifyingKey<G1Affine>,
    pub(crate) fixed: Vec<Column>,
    pub(crate) sigma: Vec<Column>,
    pub(crate) k: u32,
    pub(crate) degree: usize,
}

const MAGIC: &[u8; 8] = b"lamina-K";
const VERSION: u16 = 1;

impl ProvingKey {
    /// Runs halo2's key generation; `srs` must have exactly the circuit's number of rows.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`] for lookup arguments, a set `MAX_DEGREE`, or gates above the key's degree;
    /// [`KeyError::Audit`] for a circuit whose lookups a prover could solve for.
    pub fn generate<C: Circuit<Fr>>(srs: &ParamsKZG<Bn256>, circuit: &C) -> Result<Self, KeyError> {
        refuse_max_degree()?;
        let key = keygen_pk2(srs, circuit, false).map_err(KeyError::Keygen)?;
        let fixed = key.fixed_values().iter().map(|c| narrow(c)).collect();
        let sigma = key.permutation().permutations().iter();
        let sigma = sigma.map(|c| Column::Field(c.to_vec())).collect();
        Self::assemble(key.get_vk().clone(), fixed, sigma)
    }

    fn assemble(
        vk: VerifyingKey<G1Affine>,
        fixed: Vec<Column>,
        sigma: Vec<Column>,
    ) -> Result<Self, KeyError> {
        let domain = vk.get_domain();
        let degree = domain.get_quotient_poly_degree() + 1;
        check_supported(vk.cs(), degree)?;
        audit::determination(vk.cs())?;
        Ok(ProvingKey { k: domain.k(), vk, fixed, sigma, degree })
    }

    /// The stock verifying key.
    pub fn vk(&self) -> &VerifyingKey<G1Affine> {
        &self.vk
    }

    /// `log2` of the number of rows.
    pub fn k(&self) -> u32 {
        self.k
    }

    /// The degree of the constraint system: the quotient has `degree - 1` limbs.
    pub fn degree(&self) -> usize {
        self.degree
    }

    /// The number of usable rows `u`; rows from `u` on hold blinding values.
    pub fn usable_rows(&self) -> usize {
        (1 << self.k) - (self.vk.cs().blinding_factors() + 1)
    }

    /// Writes the key and returns the digest to pin.
    ///
    /// ```text
    /// "lamina-K" | version u16 | Blake2b-512(body) | body
    /// body = verifying key | fixed columns | permutation columns, lengths before contents, little endian
    /// ```
    ///
    /// # Errors
    /// [`KeyError::Io`].
    pub fn write(&self, writer: &mut impl Write) -> Result<[u8; 64], KeyError> {
        let mut body = Vec::new();
        let vk = self.vk.to_bytes(SerdeFormat::Processed);
        body.extend_from_slice(&(vk.len() as u64).to_le_bytes());
        body.extend_from_slice(&vk);
        for columns in [&self.fixed, &self.sigma] {
            body.extend_from_slice(&(columns.len() as u32).to_le_bytes());
            for column in columns {
                write_column(&mut body, column);
            }
        }
        let digest = digest_of(&body);
        writer.write_all(MAGIC)?;
        writer.write_all(&VERSION.to_le_bytes())?;
        writer.write_all(&digest)?;
        writer.write_all(&body)?;
        Ok(digest)
    }

    /// Reads a key that [`ProvingKey::write`] wrote for circuit `C` with `params`.
    ///
    /// The digest is checked before anything is parsed: against the header, and against `pinned` where the
    /// caller has one. Without a pinned digest the file is only as trustworthy as its directory.
    ///
    /// # Errors
    /// A variant of [`KeyError`] for each way in which the file can be wrong.
    pub fn read<C: Circuit<Fr>>(
        reader: &mut impl Read,
        params: C::Params,
        pinned: Option<&[u8; 64]>,
    ) -> Result<Self, KeyError> {
        refuse_max_degree()?;
        let mut head = [0u8; 74];
        reader.read_exact(&mut head)?;
        if &head[..8] != MAGIC || head[8..10] != VERSION.to_le_bytes() {
            return Err(KeyError::Format { expected: VERSION });
        }
        let mut body = Vec::new();
        reader.read_to_end(&mut body)?;
        let digest = digest_of(&body);
        if head[10..] != digest || pinned.is_some_and(|pinned| *pinned != digest) {
            return Err(KeyError::Digest);
        }
        let mut rest = &body[..];
        let length = u64::from_le_bytes(take(&mut rest, "verifying key")?) as usize;
        if rest.len() < length {
            return Err(KeyError::Length { field: "verifying key", expected: length, actual: rest.len() });
        }
        let (bytes, mut rest) = rest.split_at(length);
        let vk = read_vk::<C>(bytes, rest.len(), params)?;
        let n = 1usize << vk.get_domain().k();
        let fixed = read_columns(&mut rest, "fixed", vk.fixed_commitments().len(), n)?;
        let permuted = vk.permutation().commitments().len();
        let sigma = read_columns(&mut rest, "permutation", permuted, n)?;
        if !rest.is_empty() {
            return Err(KeyError::Length { field: "trailing bytes", expected: 0, actual: rest.len() });
        }
        Self::assemble(vk, fixed, sigma)
    }
}

/// Reads the library's verifying key, whose reader panics on sizes that it does not expect.
///
/// ```text
/// version u8 = 2 | k u32 | selectors compressed u8 = 0 | fixed columns u32 | points
/// ```
fn read_vk<C: Circuit<Fr>>(
    bytes: &[u8],
    columns_bytes: usize,
    params: C::Params,
) -> Result<VerifyingKey<G1Affine>, KeyError> {
    let wrong = KeyError::Encoding { field: "verifying key" };
    let mut head = bytes;
    let [version] = take::<1>(&mut head, "verifying key")?;
    let k = u32::from_le_bytes(take(&mut head, "verifying key")?);
    let [compressed] = take::<1>(&mut head, "verifying key")?;
    // The library's tables grow with `k`; a column has at least two bytes a row.
    if version != 2 || !LOG_N_RANGE.contains(&k) || compressed != 0 || (2usize << k) > columns_bytes {
        return Err(wrong);
    }
    let vk = VerifyingKey::read::<_, C>(&mut &*bytes, SerdeFormat::Processed, params)?;
    let rows = vk.cs().minimum_rows();
    // Whatever the library left unread, or read in another spelling, is not written back.
    if vk.fixed_commitments().len() != vk.cs().num_fixed_columns()
        || rows > 1 << k
        || vk.to_bytes(SerdeFormat::Processed) != bytes
    {
        return Err(wrong);
    }
    Ok(vk)
}

fn digest_of(body: &[u8]) -> [u8; 64] {
    *blake2b_simd::Params::new().personal(b"lamina-pkey-v1").hash(body).as_array()
}

fn write_column(out: &mut Vec<u8>, column: &Column) {
    match column {
        Column::I16(values) => {
            out.push(0);
            values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
        }
        Column::I32(values) => {
            out.push(1);
            values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
        }
        Column::Field(values) => {
            out.push(2);
            values.iter().for_each(|value| out.extend_from_slice(value.to_repr().as_ref()));
        }
    }
}

fn take<const N: usize>(rest: &mut &[u8], field: &'static str) -> Result<[u8; N], KeyError> {
    let (head, tail) =
        rest.split_first_chunk::<N>().ok_or(KeyError::Length { field, expected: N, actual: rest.len() })?;
    *rest = tail;
    Ok(*head)
}

fn read_columns(
    rest: &mut &[u8],
    field: &'static str,
    expected: usize,
    n: usize,
) -> Result<Vec<Column>, KeyError> {
    let actual = u32::from_le_bytes(take(rest, field)?) as usize;
    if actual != expected {
        return Err(KeyError::Length { field, expected, actual });
    }
    (0..expected)
        .map(|_| {
            let [tag] = take::<1>(rest, field)?;
            let width = match tag {
                0 => 2,
                1 => 4,
                2 => 32,
                _ => return Err(KeyError::Encoding { field }),
            };
            let Some((bytes, tail)) = rest.split_at_checked(n * width) else {
                return Err(KeyError::Length { field, expected: n * width, actual: rest.len() });
            };
            *rest = tail;
            Ok(match tag {
                0 => Column::I16(Arc::new(
                    bytes.as_chunks().0.iter().map(|b| i16::from_le_bytes(*b)).collect(),
                )),
                1 => Column::I32(Arc::new(
                    bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect(),
                )),
                _ => Column::Field(
                    bytes
                        .as_chunks::<32>()
                        .0
                        .iter()
                        .map(|b| Option::from(Fr::from_repr(*b)))
                        .collect::<Option<_>>()
                        .ok_or(KeyError::Encoding { field })?,
                ),
            })
        })
        .collect()
}

fn refuse_max_degree() -> Result<(), UnsupportedError> {
    match std::env::var_os("MAX_DEGREE") {
        Some(_) => Err(UnsupportedError::MaxDegree),
        None => Ok(()),
    }
}

/// Refuses what this prover cannot prove.
pub(crate) fn check_supported(cs: &ConstraintSystem<Fr>, degree: usize) -> Result<(), UnsupportedError> {
    refuse_max_degree()?;
    if !cs.lookups().is_empty() {
        return Err(UnsupportedError::Lookups { count: cs.lookups().len() });
    }
    let gates = cs
        .gates()
        .iter()
        .flat_map(|gate| gate.polynomials())
        .map(|polynomial| polynomial.degree())
        .fold(3, usize::max);
    if gates > degree {
        return Err(UnsupportedError::Degree { gates, domain: degree });
    }
    Ok(())
}

/// The signed integer that a field element stands for, if it fits 32 bits.
pub(crate) fn small_integer(value: &Fr) -> Option<i32> {
    let low = |value: &Fr| {
        let bytes = value.to_repr();
        let bytes: &[u8] = bytes.as_ref();
        bytes[4..]
            .iter()
            .all(|&byte| byte == 0)
            .then(|| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    if let Some(positive) = low(value) {
        return i32::try_from(positive).ok();
    }
    low(&-value).and_then(|negative| i32::try_from(-i64::from(negative)).ok())
}

/// The column in the narrowest representation that holds it.
pub(crate) fn narrow(values: &[Fr]) -> Column {
    let Some(integers) = values.iter().map(small_integer).collect::<Option<Vec<i32>>>() else {
        return Column::Field(values.to_vec());
    };
    match integers.iter().map(|&value| i16::try_from(value).ok()).collect::<Option<Vec<i16>>>() {
        Some(integers) => Column::I16(Arc::new(integers)),
        None => Column::I32(Arc::new(integers)),
    }
}

/// The field element of a small integer.
pub(crate) fn field_of(value: i64) -> Fr {
    if value < 0 {
        -Fr::from(value.unsigned_abs())
    } else if value == 0 {
        Fr::ZERO
    } else {
        Fr::from(value.unsigned_abs())
    }
}
