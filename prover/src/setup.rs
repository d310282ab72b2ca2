//! The two bases of the commitment scheme, read out of halo2's parameters.

use group::prime::PrimeCurveAffine;
use halo2_proofs::{
    SerdeFormat,
    arithmetic::g_to_lagrange,
    halo2curves::{
        bn256::{Bn256, G1Affine, G2Affine},
        pairing::Engine,
        serde::SerdeObject,
    },
    poly::{commitment::Params, kzg::commitment::ParamsKZG},
};

use crate::error::SetupError;

/// `[tau^i]` and `[L_i(tau)]` for `i < n`, and `[tau^n]` where it is known.
///
/// `[tau^n]` is needed to blind the quotient limbs (`t X^n` on one, `-t` on the next: protocol.md section
/// 8.2). Parameters of `n` points do not contain it: either they are larger than the key, or the point is
/// given and checked by a pairing.
#[derive(Clone, Debug)]
pub struct Bases {
    /// `log2 n`.
    pub k: u32,
    /// `[tau^i]`, `i < n`.
    pub monomial: Vec<G1Affine>,
    /// `[L_i(tau)]`, `i < n`.
    pub lagrange: Vec<G1Affine>,
    /// `[tau^n]`.
    pub next_power: Option<G1Affine>,
}

impl Bases {
    /// Reads the bases for `2^k` rows out of `srs`, which must have at least that many points.
    ///
    /// Parameters of exactly `2^k` points give no `[tau^n]`. From larger ones the Lagrange basis is computed
    /// by a transform over points, some seconds at k = 16: prefer parameters of `2^k` points with
    /// [`Bases::with_next_power`].
    ///
    /// # Errors
    /// [`SetupError::Rows`] if `srs` is too small.
    pub fn new(srs: &ParamsKZG<Bn256>, k: u32) -> Result<Self, SetupError> {
        if srs.k() < k {
            return Err(SetupError::Rows { expected: k, actual: srs.k() });
        }
        const POINT: usize = 64;
        let (n, all) = (1usize << k, 1usize << srs.k());
        let mut bytes = Vec::with_capacity(4 + 2 * all * POINT + 256);
        srs.write_custom(&mut bytes, SerdeFormat::RawBytesUnchecked).map_err(|_| SetupError::Layout)?;
        let points = |from: usize, count: usize| -> Result<Vec<G1Affine>, SetupError> {
            bytes
                .get(4 + from * POINT..4 + (from + count) * POINT)
                .ok_or(SetupError::Layout)?
                .chunks_exact(POINT)
                .map(|point| G1Affine::from_raw_bytes(point).ok_or(SetupError::Layout))
                .collect()
        };
        let monomial = points(0, n)?;
        if srs.k() == k {
            return Ok(Bases { k, monomial, lagrange: points(n, n)?, next_power: None });
        }
        let lagrange = g_to_lagrange(monomial.iter().map(PrimeCurveAffine::to_curve).collect(), k);
        Ok(Bases { k, monomial, lagrange, next_power: Some(points(n, 1)?[0]) })
    }

    /// Adds `[tau^n]`, checked against the parameters: `e([tau^n], [1]) = e([tau^(n-1)], [tau])`.
    ///
    /// # Errors
    /// [`SetupError::NextPower`] if the point is another one.
    pub fn with_next_power(mut self, next_power: G1Affine, tau_g2: G2Affine) -> Result<Self, SetupError> {
        let last = self.monomial.last().ok_or(SetupError::Layout)?;
        if Bn256::pairing(&next_power, &G2Affine::generator()) != Bn256::pairing(last, &tau_g2) {
            return Err(SetupError::NextPower);
        }
        self.next_power = Some(next_power);
        Ok(self)
    }
}
