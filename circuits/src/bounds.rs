//! Static bounds: which specifications can be proved, and why no relation wraps around `p`.

use thiserror::Error;

use crate::{
    executor::reciprocal_root,
    spec::{BlockSpec, FeedForward, NormSpec},
};

/// Why a specification cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SpecError {
    /// A parameter is outside what the circuit supports.
    #[error("{name} = {value} is outside [{min}, {max}]")]
    Parameter {
        /// Field of the specification.
        name: &'static str,
        /// Its value.
        value: u64,
        /// Least value supported.
        min: u64,
        /// Greatest value supported.
        max: u64,
    },
    /// A relation of the circuit could exceed its width (security.md S14).
    #[error("{relation}: may need {needed} bits, {available} available")]
    Bound {
        /// Constraint id.
        relation: &'static str,
        /// Bits that the largest value needs.
        needed: u32,
        /// Bits that the layout has.
        available: u32,
    },
}

/// Bits of the field: both sides of every relation stay below `p/2 > 2^252`.
const FIELD_BITS: u32 = 252;

pub(crate) fn log2_ceil(n: u64) -> u32 {
    64 - n.saturating_sub(1).leading_zeros()
}

/// Refuses a parameter outside `[min, max]`.
pub(crate) fn require(name: &'static str, value: u64, min: u64, max: u64) -> Result<(), SpecError> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(SpecError::Parameter { name, value, min, max }) }
}

/// Refuses a relation that may need more bits than there are.
pub(crate) fn bound(relation: &'static str, needed: u32, available: u32) -> Result<(), SpecError> {
    if needed <= available { Ok(()) } else { Err(SpecError::Bound { relation, needed, available }) }
}

/// The widest low limb of a residual stream of `hidden` features, up to `most` bits, with which the sum of their squares
/// fits the four limbs of a norm.
pub fn residual_lo_bits(hidden: usize, act_bits: u32, limb_bits: u32, most: u32) -> u32 {
    let stream = (4 * limb_bits - 1).saturating_sub(log2_ceil(hidden as u64)) / 2 + 1;
    stream.saturating_sub(act_bits).min(most)
}

impl NormSpec {
    /// Checks the parameters of a norm and every bound that its soundness needs; see [`BlockSpec::check`].
    ///
    /// # Errors
    /// The parameter, or the relation that could overflow.
    pub fn check(&self) -> Result<(), SpecError> {
        require("hidden", self.hidden as u64, 1, 1 << 16)?;
        require("act_bits", self.act_bits.into(), 4, 16)?;
        require("limb_bits", self.limb_bits.into(), 2, 15)?;
        require("residual_lo_bits", self.residual_lo_bits.into(), 1, 15)?;
        require("rsqrt_bits", self.rsqrt_bits.into(), 1, 60)?;
        require("norm_eps", self.norm_eps, 1, 1 << 50)?;
        require("norm_shift", self.norm_shift.into(), 2, 28)?;
        let (limb, stream) = (self.limb_bits, self.act_bits + self.residual_lo_bits);
        bound("residual stream", stream, 31)?;
        // v = eps + sum x^2 < 2^v_bits, held in four limbs.
        let v_bits = 1 + (2 * (stream - 1) + log2_ceil(self.hidden as u64)).max(log2_ceil(self.norm_eps + 1));
        bound("rms-norm/1 sum of squares", v_bits, 4 * limb)?;
        // s = floor(2^A / sqrt(v)) is greatest at v = eps; held in two limbs.
        let s_bits = 64 - reciprocal_root(self.norm_eps, self.rsqrt_bits).leading_zeros();
        bound("rms-norm/2 reciprocal root", s_bits, 2 * limb)?;
        bound("rms-norm/2 reciprocal root fits 31 bits", s_bits, 31)?;
        // 2^(2A) - s^2 v < (2s+1) v <= 2^(A+2) sqrt(v): held in six limbs.
        bound("rms-norm/3 remainder", self.rsqrt_bits + 2 + v_bits.div_ceil(2), 6 * limb)?;
        bound("rms-norm/3 modulo p", 4 * limb + 2 * (2 * limb + 1) + 1, FIELD_BITS)?;
        // n = requant(x s): both sides.
        bound("rms-norm/4", (stream + 2 * limb).max(self.act_bits + self.norm_shift) + 1, FIELD_BITS)
    }
}

impl BlockSpec {
    /// Checks every bound that the circuit's soundness needs.
    ///
    /// # Soundness
    /// Each relation over the integers is enforced modulo `p`; it holds over the integers because both
    /// sides are bounded by what is computed here from range-checked cells alone, never from honest values.
    ///
    /// # Errors
    /// The parameter, or the relation that could overflow.
    pub fn check(&self) -> Result<(), SpecError> {
        let (s, c) = (&self.shape, &self.scales);
        let range = require;
        let size = |name, value: usize, max: u64| range(name, value as u64, 1, max);
        size("hidden", s.hidden, 1 << 16)?;
        size("ffn", s.ffn, 1 << 17)?;
        size("heads", s.heads, 1 << 10)?;
        size("kv_heads", s.kv_heads, s.heads as u64)?;
        range("heads % kv_heads", (s.heads % s.kv_heads) as u64, 0, 0)?;
        size("head_dim", s.head_dim, 1 << 10)?;
        range("head_dim % 2", (s.head_dim % 2) as u64, 0, 0)?;
        size("tokens", self.tokens, 1 << 12)?;
        let act = u64::from(c.act_bits);
        range("weight_bits", self.weight_bits.into(), 2, 16)?;
        range("act_bits", act, 4, 16)?;
        for (name, shift) in [
            ("qk_shift", c.qk_shift),
            ("v_shift", c.v_shift),
            ("score_shift", c.score_shift),
            ("mix_shift", c.mix_shift),
            ("attn_out_shift", c.attn_out_shift),
            ("gate_shift", c.gate_shift),
            ("ffn_out_shift", c.ffn_out_shift),
        ] {
            range(name, shift.into(), 1, 15)?;
        }
        range("prob_shift", c.prob_shift.into(), 2, 28)?;
        if let Some(rope) = c.rope {
            range("rope.bits", rope.bits.into(), 1, 15)?;
            range("rope.base", rope.base.into(), 2, u32::MAX.into())?;
        }
        if let FeedForward::Gated { up_shift, glu_shift } = c.feed_forward {
            range("up_shift", up_shift.into(), 1, 15)?;
            range("glu_shift", glu_shift.into(), 1, 15)?;
        }
        range("exp_in_bits", c.exp_in_bits.into(), 1, act - 1)?;
        range("exp_frac", c.exp_frac.into(), 0, 15)?;
        range("exp_out_bits", c.exp_out_bits.into(), 1, act - 1)?;
        range("gate_bits", c.gate_bits.into(), 2, act)?;
        range("gate_frac", c.gate_frac.into(), 0, 15)?;
        range("activated_frac", c.activated_frac.into(), 0, 15)?;
        range("recip_bits", c.recip_bits.into(), u64::from(c.exp_out_bits), 45)?;

        self.norm().check()?;
        let limb = c.limb_bits;
        // R Z + rem = 2^a, Z <= T 2^exp_out.
        let z_bits = c.exp_out_bits + log2_ceil(self.tokens as u64) + 1;
        bound("softmax/5 sum", z_bits, 2 * limb)?;
        bound("softmax/5 reciprocal", c.recip_bits - c.exp_out_bits + 1, 2 * limb)?;
        bound("softmax/5 reciprocal fits 31 bits", c.recip_bits - c.exp_out_bits + 1, 31)?;
        bound("softmax/5 modulo p", 2 * limb + (2 * limb + 2), FIELD_BITS)?;
        // |activation(g)| <= |g|: what the table gives out is an activation, no cell of its own says so.
        bound("feed-forward/activation", c.gate_bits + c.activated_frac, c.act_bits + c.gate_frac)?;
        for shift in c.bias.list().into_iter().flatten() {
            bound("matmul/bias", self.weight_bits.saturating_add(shift), 61)?;
        }
        // Products over at most hidden, ffn, head_dim or tokens terms of 16 by 16 bits fit 63 bits.
        let widest = s.hidden.max(s.ffn).max(s.heads * s.head_dim).max(self.tokens) as u64;
        bound("matmul accumulators", c.act_bits.max(self.weight_bits) + c.act_bits + log2_ceil(widest), 62)
    }
}
