//! What a block computes: its shape, its power-of-two scales, its integer weights.
//!
//! All of it but the weights is public: it stands in the model card, and with it the verifying key is
//! determined.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Dimensions of a transformer block.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Width `d` of the residual stream.
    pub hidden: usize,
    /// Width `F` of the feed-forward layer.
    pub ffn: usize,
    /// Query heads `H`.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Features of one head; even.
    pub head_dim: usize,
}

/// Rotary embedding of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rope {
    /// Fractional bits of the factors `cos`, `sin` (their values are at most `2^bits`).
    pub bits: u32,
    /// Base of the angles; pair `i` of token `t` turns by `t * base^(-2i/head_dim)`.
    pub base: u32,
}

/// The nonlinear function of a feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// `g / (1 + exp(-g))`.
    Silu,
    /// `g/2 (1 + tanh(sqrt(2/pi) (g + 0.044715 g^3)))`: GELU in its tanh form (arXiv:1606.08415, section 2).
    Gelu,
}

/// What a feed-forward layer computes of the normalised stream `n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum FeedForward {
    /// `(activation(n W_gate) * (n W_up)) W_down`.
    Gated {
        /// Requantisation of the up projection.
        up_shift: u32,
        /// Requantisation of the product of the activation with it.
        glu_shift: u32,
    },
    /// `activation(n W_gate) W_down`.
    Plain,
}

/// Which products with weights have a bias, and how coarse it is: `C = X W + 2^s b`, the shift `s` where there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Biases {
    /// Queries and keys.
    pub qk: Option<u32>,
    /// Values.
    pub v: Option<u32>,
    /// Output projection.
    pub o: Option<u32>,
    /// Gate, and up where there is one.
    pub gate: Option<u32>,
    /// Down projection.
    pub down: Option<u32>,
}

impl Biases {
    /// All of them, in the order of the products.
    pub fn list(&self) -> [Option<u32>; 5] {
        [self.qk, self.v, self.o, self.gate, self.down]
    }
}

/// The operations of a block that are not the same in every model, and its scales: widths and shifts, one set for all
/// blocks of a model.
///
/// Every requantisation is `q = (c + 2^(s-1)) >> s` (floor), an error when `q` leaves its range.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scales {
    /// Width `w` of an activation: values in `[-2^(w-1), 2^(w-1))`. At most 16.
    pub act_bits: u32,
    /// Low limb of the residual stream: its values are in `[-2^(w-1+lo), 2^(w-1+lo))`.
    pub residual_lo_bits: u32,
    /// Fractional bits of the residual stream (informative: no gate depends on it).
    pub residual_frac: u32,
    /// Limb width of wide remainders (at most 15).
    pub limb_bits: u32,
    /// `A` of the norm: `s = floor(2^A / sqrt(v))`, `v = eps + sum x^2`.
    pub rsqrt_bits: u32,
    /// `eps` of the norm in units of `v`: `round(rms_eps * hidden * 2^(2*residual_frac))`, at least 1.
    pub norm_eps: u64,
    /// `n = requant(x * s)` by this shift: `n` is about `x / sqrt(v) * 2^(A - shift)`. The factor
    /// `sqrt(hidden)` and the norm's gain are folded into the weights that read `n`.
    pub norm_shift: u32,
    /// Requantisation of queries and keys.
    pub qk_shift: u32,
    /// Requantisation of values.
    pub v_shift: u32,
    /// Rotary embedding; `None` where positions are learned.
    pub rope: Option<Rope>,
    /// Requantisation of attention scores; `1/sqrt(head_dim)` is folded into the query weights.
    pub score_shift: u32,
    /// The exponential reads `D = max - score` in `[0, 2^exp_in_bits)`, at most `2^(w-1)`.
    pub exp_in_bits: u32,
    /// Fractional bits of `D`: `e = round(2^exp_out_bits * exp(-D / 2^exp_frac))`.
    pub exp_frac: u32,
    /// Fractional bits of `e`; less than `act_bits`.
    pub exp_out_bits: u32,
    /// `R = floor(2^recip_bits / sum e)`.
    pub recip_bits: u32,
    /// `P = requant(e * R)` by this shift, so `P` has `recip_bits - prob_shift` fractional bits.
    pub prob_shift: u32,
    /// Requantisation of the mixed values `P V`.
    pub mix_shift: u32,
    /// The attention output is added to the residual stream after this shift.
    pub attn_out_shift: u32,
    /// Requantisation of the gate.
    pub gate_shift: u32,
    /// Width of the gate (input of the activation's table): values in `[-2^(b-1), 2^(b-1))`, at most `act_bits`.
    pub gate_bits: u32,
    /// Fractional bits of the gate.
    pub gate_frac: u32,
    /// Fractional bits of `activation(gate)`.
    pub activated_frac: u32,
    /// The nonlinear function.
    pub activation: Activation,
    /// What is made of it.
    pub feed_forward: FeedForward,
    /// The feed-forward output is added to the residual stream after this shift.
    pub ffn_out_shift: u32,
    /// Biases of the products.
    pub bias: Biases,
}

/// One norm, in a block or in the head; the fields are those of [`Scales`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NormSpec {
    /// Width `d` of the residual stream.
    pub hidden: usize,
    /// See [`Scales::act_bits`].
    pub act_bits: u32,
    /// See [`Scales::residual_lo_bits`].
    pub residual_lo_bits: u32,
    /// See [`Scales::limb_bits`].
    pub limb_bits: u32,
    /// See [`Scales::rsqrt_bits`].
    pub rsqrt_bits: u32,
    /// See [`Scales::norm_eps`].
    pub norm_eps: u64,
    /// See [`Scales::norm_shift`].
    pub norm_shift: u32,
}

impl BlockSpec {
    /// The norms of the block.
    pub fn norm(&self) -> NormSpec {
        let s = &self.scales;
        NormSpec {
            hidden: self.shape.hidden,
            act_bits: s.act_bits,
            residual_lo_bits: s.residual_lo_bits,
            limb_bits: s.limb_bits,
            rsqrt_bits: s.rsqrt_bits,
            norm_eps: s.norm_eps,
            norm_shift: s.norm_shift,
        }
    }
}

/// Everything public about a block but its commitments: with `k` it determines the verifying key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockSpec {
    /// Dimensions.
    pub shape: Shape,
    /// Scales.
    pub scales: Scales,
    /// Width of a weight in bits (8 or 16): values in `[-2^(b-1), 2^(b-1))`.
    pub weight_bits: u32,
    /// Tokens proved, padding tokens included.
    pub tokens: usize,
}

/// A weight matrix of signed integers, row-major, `rows` inputs by `cols` outputs: `y_j = sum_k x_k W[k][j]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Inputs.
    pub rows: usize,
    /// Outputs.
    pub cols: usize,
    /// `rows * cols` entries, row-major.
    pub data: Arc<Vec<i16>>,
}

/// The integer weights of one block.
///
/// Heads use half-split rotary pairs: features `i` and `i + head_dim/2` of a head turn together. A matrix whose product has
/// a bias ([`Biases`]) has one row more than stands here: the bias is its last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockWeights {
    /// `[hidden, heads * head_dim]`, input gain, `sqrt(hidden)` and `1/sqrt(head_dim)` folded in.
    pub q: Matrix,
    /// `[hidden, kv_heads * head_dim]`, input gain and `sqrt(hidden)` folded in.
    pub k: Matrix,
    /// `[hidden, kv_heads * head_dim]`, input gain and `sqrt(hidden)` folded in.
    pub v: Matrix,
    /// `[heads * head_dim, hidden]`.
    pub o: Matrix,
    /// `[hidden, ffn]`, input gain and `sqrt(hidden)` folded in.
    pub gate: Matrix,
    /// `[hidden, ffn]`, input gain and `sqrt(hidden)` folded in; `None` in a plain feed-forward layer.
    pub up: Option<Matrix>,
    /// `[ffn, hidden]`.
    pub down: Matrix,
}

/// The residual stream at a slice boundary: `[tokens, hidden]`, row-major, scale `2^-residual_frac`.
pub type Activations = Vec<i32>;
