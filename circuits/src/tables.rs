//! The lookup tables: ranges and two functions, as exact integer tables.
//!
//! Every table is a set of tuples `(tag, in, out)`. Tags start at 1, so an all-zero row is in no table
//! (security.md S28).

use crate::spec::{Activation, Rope, Scales};

/// The relation that a cell (or a pair of cells) is looked up in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// `in` in `[-2^(b-1), 2^(b-1))`, `out = 0`.
    Signed(u32),
    /// `in` in `[0, 2^b)`, `out = 0`.
    Unsigned(u32),
    /// `out = exp(in)`: see [`exp_entry`].
    Exp,
    /// `out = activation(in)`: see [`activation_entry`].
    Activation,
}

impl Table {
    /// First `in` of a range, and how many there are; nothing of the functions.
    pub fn range(self) -> (i32, usize) {
        match self {
            Table::Signed(b) => (-(1 << (b - 1)), 1 << b),
            Table::Unsigned(b) => (0, 1 << b),
            Table::Exp | Table::Activation => (0, 0),
        }
    }

    /// First `in`, and how many there are.
    pub fn domain(self, scales: &Scales) -> (i32, usize) {
        match self {
            Table::Signed(_) | Table::Unsigned(_) => self.range(),
            Table::Exp => (0, 1 << scales.exp_in_bits),
            Table::Activation => (-(1 << (scales.gate_bits - 1)), 1 << scales.gate_bits),
        }
    }

    /// The `out` that belongs to `input`.
    pub fn output(self, scales: &Scales, input: i32) -> i32 {
        match self {
            Table::Signed(_) | Table::Unsigned(_) => 0,
            Table::Exp => exp_entry(scales, input),
            Table::Activation => activation_entry(scales, input),
        }
    }
}

/// `e(D) = round(2^exp_out_bits * exp(-D / 2^exp_frac))`, strictly below `e(0)` for `D > 0`.
///
/// The strictness makes the row maximum visible in `e`; it costs at most one unit.
/// Computed with a software `exp`, so it is the same on every machine.
pub fn exp_entry(scales: &Scales, d: i32) -> i32 {
    let one = 1i32 << scales.exp_out_bits;
    if d == 0 {
        return one;
    }
    let e = libm::exp(-f64::from(d) / f64::from(1u32 << scales.exp_frac));
    (libm::round(f64::from(one) * e) as i32).min(one - 1)
}

impl Activation {
    /// The function itself, in software: the same on every machine.
    pub fn of(self, g: f64) -> f64 {
        match self {
            Activation::Silu => g / (1.0 + libm::exp(-g)),
            Activation::Gelu => {
                let root = core::f64::consts::FRAC_2_SQRT_PI * core::f64::consts::FRAC_1_SQRT_2;
                0.5 * g * (1.0 + libm::tanh(root * (g + 0.044_715 * g * g * g)))
            }
        }
    }
}

/// `round(2^activated_frac * activation(g))` with `g = in / 2^gate_frac`.
pub fn activation_entry(scales: &Scales, input: i32) -> i32 {
    let g = f64::from(input) / f64::from(1u32 << scales.gate_frac);
    libm::round(scales.activation.of(g) * f64::from(1u32 << scales.activated_frac)) as i32
}

/// The rotary factors of pair `i` at position `t`: `round(2^bits * (cos, sin)(t * base^(-2i/head_dim)))`.
pub fn rotary_entry(rope: &Rope, head_dim: usize, t: usize, i: usize) -> (i32, i32) {
    let exponent = -2.0 * (i as f64) / (head_dim as f64);
    let angle = t as f64 * libm::pow(f64::from(rope.base), exponent);
    let one = f64::from(1u32 << rope.bits);
    (libm::round(libm::cos(angle) * one) as i32, libm::round(libm::sin(angle) * one) as i32)
}
