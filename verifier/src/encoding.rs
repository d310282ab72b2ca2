//! Canonical encodings: one string of bytes per value, and typed refusals for every other.

use ff::PrimeField;
use group::{GroupEncoding, cofactor::CofactorGroup, prime::PrimeCurveAffine};
use halo2_proofs::halo2curves::{
    CurveAffine,
    bn256::{Fq, G2},
};

use crate::{Fr, G1Affine, G2Affine};

/// Bytes of a compressed commitment, and of a scalar.
pub const ELEMENT_BYTES: usize = 32;
/// Bytes of a compressed point of the second group.
pub const G2_BYTES: usize = 64;
/// Bytes of an uncompressed commitment: `x ‖ y`, little-endian, canonical.
pub const RAW_G1_BYTES: usize = 64;

/// Why bytes are not the canonical encoding of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PointError {
    /// Another string encodes the same point, or a coordinate is not below the modulus.
    #[error("point is not in its canonical encoding")]
    NotCanonical,
    /// No point of the curve has this encoding.
    #[error("point is not on the curve")]
    NotOnCurve,
    /// The point at infinity, where it has no business.
    #[error("point is the identity")]
    Identity,
    /// On the curve, outside the group of prime order.
    #[error("point is outside the subgroup of prime order")]
    NotInSubgroup,
}

/// The canonical encoding of a commitment.
pub fn g1_bytes(point: &G1Affine) -> [u8; ELEMENT_BYTES] {
    let mut bytes = [0; ELEMENT_BYTES];
    bytes.copy_from_slice(point.to_bytes().as_ref());
    bytes
}

/// Reads a commitment, the identity included.
///
/// # Errors
/// Anything but the one canonical encoding of a point.
pub fn g1_or_identity(bytes: &[u8; ELEMENT_BYTES]) -> Result<G1Affine, PointError> {
    match g1_shape(bytes) {
        Err(PointError::Identity) => return Ok(G1Affine::identity()),
        other => other?,
    }
    let mut repr = <G1Affine as GroupEncoding>::Repr::default();
    repr.as_mut().copy_from_slice(bytes);
    let point = Option::<G1Affine>::from(G1Affine::from_bytes(&repr)).ok_or(PointError::NotOnCurve)?;
    if g1_bytes(&point) != *bytes {
        return Err(PointError::NotCanonical);
    }
    Ok(point)
}

/// Reads a commitment that is not the identity.
///
/// # Errors
/// The identity, and anything but the one canonical encoding of a point.
pub fn g1(bytes: &[u8; ELEMENT_BYTES]) -> Result<G1Affine, PointError> {
    g1_shape(bytes)?;
    g1_or_identity(bytes)
}

/// Checks all of a commitment's encoding that needs no square root.
///
/// # Soundness
/// If this passes and the library's decoder then accepts the bytes, they re-encode to themselves: the
/// decoder ignores the infinity bit on a nonzero `x`, and this check refuses that bit.
///
/// # Errors
/// The identity; an infinity bit on another point; `x` not below the modulus.
pub fn g1_shape(bytes: &[u8; ELEMENT_BYTES]) -> Result<(), PointError> {
    let [low @ .., top] = bytes;
    if top & 0x80 != 0 {
        let zero = low.iter().all(|byte| *byte == 0) && *top == 0x80;
        return Err(if zero { PointError::Identity } else { PointError::NotCanonical });
    }
    let mut x = *bytes;
    let [.., last] = &mut x;
    *last &= 0x3f;
    fq(&x).map(|_| ()).ok_or(PointError::NotCanonical)
}

/// Reads a point of the second group, of prime order and not the identity.
///
/// # Errors
/// Anything but the one canonical encoding of such a point.
pub fn g2(bytes: &[u8; G2_BYTES]) -> Result<G2Affine, PointError> {
    // The library's decoder panics on a coordinate that is not below the modulus: look first.
    let [.., top] = *bytes;
    let (low, high) = bytes.split_at(ELEMENT_BYTES);
    let coordinate = |half: &[u8], mask| {
        let mut half = <[u8; ELEMENT_BYTES]>::try_from(half).ok()?;
        let [.., last] = &mut half;
        *last &= mask;
        fq(&half)
    };
    if top & 0x80 != 0 || coordinate(low, 0xff).is_none() || coordinate(high, 0x3f).is_none() {
        return Err(PointError::NotCanonical);
    }
    let mut repr = <G2Affine as GroupEncoding>::Repr::default();
    repr.as_mut().copy_from_slice(bytes);
    let point = Option::<G2Affine>::from(G2Affine::from_bytes(&repr)).ok_or(PointError::NotOnCurve)?;
    if point.to_bytes().as_ref() != bytes.as_slice() {
        return Err(PointError::NotCanonical);
    }
    check_g2(&point)?;
    Ok(point)
}

/// Checks that a point is on the curve, of prime order and not the identity.
///
/// # Errors
/// The first of these that fails.
pub fn check_g2(point: &G2Affine) -> Result<(), PointError> {
    if bool::from(point.is_identity()) {
        return Err(PointError::Identity);
    }
    if !bool::from(point.is_on_curve()) {
        return Err(PointError::NotOnCurve);
    }
    if !bool::from(G2::from(*point).is_torsion_free()) {
        return Err(PointError::NotInSubgroup);
    }
    Ok(())
}

/// The uncompressed encoding of a commitment; the identity is all zeros.
pub fn raw_g1_bytes(point: &G1Affine) -> [u8; RAW_G1_BYTES] {
    let mut bytes = [0; RAW_G1_BYTES];
    let (x, y) = bytes.split_at_mut(ELEMENT_BYTES);
    x.copy_from_slice(point.x.to_repr().as_ref());
    y.copy_from_slice(point.y.to_repr().as_ref());
    bytes
}

/// Reads an uncompressed commitment that is not the identity.
///
/// # Errors
/// The identity, coordinates not below the modulus, a point off the curve.
pub fn raw_g1(bytes: &[u8; RAW_G1_BYTES]) -> Result<G1Affine, PointError> {
    let (x, y) = bytes.split_at(ELEMENT_BYTES);
    let coordinate = |bytes: &[u8]| {
        <&[u8; ELEMENT_BYTES]>::try_from(bytes).ok().and_then(fq).ok_or(PointError::NotCanonical)
    };
    let (x, y) = (coordinate(x)?, coordinate(y)?);
    if x == Fq::zero() && y == Fq::zero() {
        return Err(PointError::Identity);
    }
    Option::from(G1Affine::from_xy(x, y)).ok_or(PointError::NotOnCurve)
}

/// Reads a scalar below the modulus.
pub fn scalar(bytes: &[u8; ELEMENT_BYTES]) -> Option<Fr> {
    let mut repr = <Fr as PrimeField>::Repr::default();
    repr.as_mut().copy_from_slice(bytes);
    Fr::from_repr(repr).into()
}

fn fq(bytes: &[u8; ELEMENT_BYTES]) -> Option<Fq> {
    let mut repr = <Fq as PrimeField>::Repr::default();
    repr.as_mut().copy_from_slice(bytes);
    Fq::from_repr(repr).into()
}

/// Lowercase hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Reads lowercase hexadecimal digits, an even number of them.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let nibble = |byte: u8| match byte {
        b'0'..=b'9' => byte.checked_sub(b'0'),
        b'a'..=b'f' => byte.checked_sub(b'a')?.checked_add(10),
        _ => None,
    };
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| match pair {
            [high, low] => Some((nibble(*high)? << 4) | nibble(*low)?),
            _ => None,
        })
        .collect()
}

/// The bytes ended before the value did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Truncated;

/// A cursor that never looks beyond the end.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Truncated> {
        let (head, tail) = self.0.split_at_checked(length).ok_or(Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let (head, tail) = self.0.split_first_chunk().ok_or(Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Truncated> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Truncated> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Truncated> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn remaining(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn infinity_bit_on_a_point_is_refused() {
        let mut bytes = g1_bytes(&G1Affine::generator());
        assert_eq!(g1(&bytes), Ok(G1Affine::generator()));
        bytes[31] |= 0x80;
        // What the library does with it: the same point.
        let mut repr = <G1Affine as GroupEncoding>::Repr::default();
        repr.as_mut().copy_from_slice(&bytes);
        assert_eq!(G1Affine::from_bytes(&repr).unwrap(), G1Affine::generator());
        assert_eq!(g1(&bytes), Err(PointError::NotCanonical));
    }

    #[test]
    fn identity_has_one_encoding() {
        let mut bytes = g1_bytes(&G1Affine::identity());
        assert_eq!(g1(&bytes), Err(PointError::Identity));
        assert_eq!(g1_or_identity(&bytes), Ok(G1Affine::identity()));
        bytes[31] |= 0x40;
        assert_eq!(g1_or_identity(&bytes), Err(PointError::NotCanonical));
    }

    #[test]
    fn coordinates_and_scalars_are_below_their_modulus() {
        let mut bytes = [0xff; 32];
        assert_eq!(scalar(&bytes), None);
        bytes[31] = 0x3f;
        assert_eq!(g1(&bytes), Err(PointError::NotCanonical));
        let minus_one = -Fr::one();
        let mut bytes = minus_one.to_bytes();
        assert_eq!(scalar(&bytes), Some(minus_one));
        bytes[0] += 1;
        assert_eq!(scalar(&bytes), None);
    }

    #[test]
    fn second_group_is_checked_for_its_order() {
        use ff::Field;
        use halo2_proofs::halo2curves::bn256::Fq2;
        // Points of the curve are in the subgroup only by a chance of one in the cofactor.
        let point = (1u64..)
            .find_map(|x| {
                let x = Fq2::from(x);
                let y = Option::<Fq2>::from((x.square() * x + G2Affine::b()).sqrt())?;
                Option::<G2Affine>::from(G2Affine::from_xy(x, y))
            })
            .unwrap();
        let mut bytes = [0; G2_BYTES];
        bytes.copy_from_slice(point.to_bytes().as_ref());
        assert_eq!(g2(&bytes), Err(PointError::NotInSubgroup));
    }

    #[test]
    fn second_group_is_read_without_panics() {
        let mut honest = [0; G2_BYTES];
        honest.copy_from_slice(G2Affine::generator().to_bytes().as_ref());
        assert_eq!(g2(&honest), Ok(G2Affine::generator()));
        for (at, value) in [(31, 0xff), (63, 0x3f), (63, 0x80), (63, honest[63] | 0x80)] {
            let mut bytes = honest;
            bytes[at] = value;
            assert_eq!(g2(&bytes), Err(PointError::NotCanonical));
        }
        assert_eq!(g2(&[0xff; G2_BYTES]), Err(PointError::NotCanonical));
    }

    #[test]
    fn hexadecimal_has_one_spelling() {
        assert_eq!(from_hex("0aff"), Some(vec![10, 255]));
        assert_eq!(to_hex(&[10, 255]), "0aff");
        for bad in ["0AFF", "0af", "0x", "zz", "é"] {
            assert_eq!(from_hex(bad), None);
        }
    }
}
