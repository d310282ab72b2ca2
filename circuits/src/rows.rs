//! Row programs: what one row of the cell region means, written once for gates and for witness values.
//!
//! A row holds eight cells for each of `L` lanes: a looked-up pair `a, b`, five looked-up cells `c2..c6`
//! and one plain cell `f`. A *kind* of row says under which tables its cells are looked up, which relations
//! hold lane by lane, and what it adds to the row combinations. Everything linear is checked on the random
//! combination over the lanes only (`protocol.md` section 4).
//!
//! The formulas are generic over [`Algebra`]: with halo2 expressions they are the gates, with field elements
//! they are the values of the accumulator columns. Neither can drift from the other.

use std::ops::{Add, Mul, Neg, Sub};

use halo2_proofs::plonk::Expression;

use crate::{
    Fr,
    spec::{BlockSpec, FeedForward},
    tables::Table,
};

/// Ring operations shared by halo2 expressions and field elements.
pub trait Algebra:
    Clone + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Neg<Output = Self>
{
    /// The constant `c`.
    fn constant(c: Fr) -> Self;
}

impl Algebra for Fr {
    fn constant(c: Fr) -> Self {
        c
    }
}

impl Algebra for Expression<Fr> {
    fn constant(c: Fr) -> Self {
        Expression::Constant(c)
    }
}

/// A small integer constant.
pub fn int<E: Algebra>(v: i128) -> E {
    let magnitude = Fr::from_raw([v.unsigned_abs() as u64, (v.unsigned_abs() >> 64) as u64, 0, 0]);
    E::constant(if v < 0 { -magnitude } else { magnitude })
}

/// `2^bits`, `bits < 252`.
pub fn pow2<E: Algebra>(bits: u32) -> E {
    let mut limbs = [0u64; 4];
    limbs[(bits / 64) as usize] = 1 << (bits % 64);
    E::constant(Fr::from_raw(limbs))
}

/// `e^n`, `n >= 1`, by squaring (equal subexpressions stay equal, so evaluators can share them).
pub fn power<E: Algebra>(e: &E, n: usize) -> E {
    if n == 1 {
        return e.clone();
    }
    let half = power(e, n / 2);
    let square = half.clone() * half;
    if n % 2 == 1 { square * e.clone() } else { square }
}

/// `sum_(i<n) x^i`, by doubling: few operations, and no deep expression.
pub fn geometric<E: Algebra>(x: &E, n: usize) -> E {
    match n {
        0 => int(0),
        1 => int(1),
        _ if n % 2 == 1 => int::<E>(1) + x.clone() * geometric(x, n - 1),
        _ => geometric(x, n / 2) * (int::<E>(1) + power(x, n / 2)),
    }
}

/// `sum_l x^l f(l)` in Horner form.
pub fn combination<E: Algebra>(x: &E, lanes: usize, f: impl Fn(usize) -> E) -> E {
    let mut acc = f(lanes - 1);
    for l in (0..lanes - 1).rev() {
        acc = acc * x.clone() + f(l);
    }
    acc
}

/// The challenges that the row programs use, drawn after phase 0.
#[derive(Clone, Debug)]
pub struct Challenges<E> {
    /// Tokens: lane `l` of group `g` has weight `alpha^(g L + l)`.
    pub alpha: E,
    /// Features: row `j` of an operation has weight `gamma^j`.
    pub gamma: E,
    /// Separates relations that share an accumulator.
    pub eta: E,
    /// Tuples of a lookup.
    pub theta: E,
    /// LogUp.
    pub beta: E,
}

impl<E: Clone> Challenges<E> {
    /// All of them, in the order in which they are drawn.
    pub fn list(&self) -> [E; 5] {
        [&self.alpha, &self.gamma, &self.eta, &self.theta, &self.beta].map(Clone::clone)
    }
}

/// Number of cells of a lane.
pub const SLOTS: usize = 8;
/// Looked-up expressions of a lane: the pair `(a, b)`, then `c2..c6`.
pub const LOOKUPS: usize = 6;
/// Slot indices.
pub const A: usize = 0;
/// See [`A`].
pub const B: usize = 1;
/// See [`A`].
pub const C2: usize = 2;
/// See [`A`].
pub const C3: usize = 3;
/// See [`A`].
pub const C4: usize = 4;
/// See [`A`].
pub const C5: usize = 5;
/// See [`A`].
pub const C6: usize = 6;
/// The plain cell: a factor held constant down its rows, or a rotary partner.
pub const F: usize = 7;
/// Quotient and remainder slots of the three values in one lane of a [`Kind::Value`] row.
pub const VALUES: [(usize, usize); 3] = [(C3, C4), (C5, C6), (A, C2)];
/// The slots of a six-limb integer, least significant first.
pub const LIMBS: [usize; 6] = [A, C2, C3, C4, C5, C6];

/// The kinds of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Input stream `x` and its norm.
    StreamIn,
    /// Stream after attention and its norm.
    StreamMid,
    /// Reciprocal root of a norm.
    Root,
    /// Six-limb remainder of a reciprocal root.
    Remainder,
    /// A query feature, and its rotation where there is one.
    Query,
    /// A key feature, and its rotation where there is one.
    Key,
    /// Value features of one token (lanes are features here, [`VALUES`] to a lane).
    Value,
    /// One key's scores.
    Score,
    /// Sum of a score row and its reciprocal.
    Sum,
    /// Maximum of a score row; limbs of the reciprocal.
    Max,
    /// Mixed values and, in other slots and accumulators, the output stream.
    MixOut,
    /// Gate and its activation; in a gated layer also up, and the product.
    FeedForward,
}

impl Kind {
    /// All kinds, in selector order.
    pub const ALL: [Kind; 12] = [
        Kind::StreamIn,
        Kind::StreamMid,
        Kind::Root,
        Kind::Remainder,
        Kind::Query,
        Kind::Key,
        Kind::Value,
        Kind::Score,
        Kind::Sum,
        Kind::Max,
        Kind::MixOut,
        Kind::FeedForward,
    ];

    /// Whether `a_s` continues into the next row, and the factor `f` is the same there.
    pub fn sums(self) -> bool {
        matches!(self, Kind::StreamIn | Kind::StreamMid | Kind::Score | Kind::Sum)
    }

    /// Position in [`Kind::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The tables of the pair and of `c2..c6`. On [`Kind::Score`] rows the pair's table holds for masked
    /// lanes; unmasked lanes are looked up in [`Table::Exp`].
    pub fn tables(self, spec: &BlockSpec) -> [Table; LOOKUPS] {
        let s = &spec.scales;
        let act = Table::Signed(s.act_bits);
        let limb = Table::Unsigned(s.limb_bits);
        let rest = Table::Unsigned;
        let (norm_lo, norm_hi) = halves(s.norm_shift);
        let (prob_lo, prob_hi) = halves(s.prob_shift);
        let lo = rest(s.residual_lo_bits);
        match self {
            Kind::StreamIn => [act, lo, act, rest(norm_lo), act, rest(norm_hi)],
            Kind::StreamMid => [act, lo, act, rest(norm_lo), rest(s.attn_out_shift), rest(norm_hi)],
            Kind::Root | Kind::Remainder => [limb; LOOKUPS],
            Kind::Query | Kind::Key => {
                [act, act, act, rest(s.qk_shift), act, s.rope.map_or(act, |rope| rest(rope.bits))]
            }
            Kind::Value => [act, rest(s.v_shift), act, rest(s.v_shift), act, rest(s.v_shift)],
            Kind::Score => [act, rest(s.score_shift), act, rest(prob_lo), act, rest(prob_hi)],
            Kind::Sum => [act, limb, limb, limb, limb, act],
            Kind::Max => [act, limb, limb, act, act, act],
            Kind::MixOut => [act, lo, act, rest(s.mix_shift), rest(s.ffn_out_shift), act],
            Kind::FeedForward => {
                let (gate, up, glu) = match s.feed_forward {
                    FeedForward::Gated { up_shift, glu_shift } => {
                        (s.gate_shift, rest(up_shift), rest(glu_shift))
                    }
                    FeedForward::Plain => (s.gate_shift, act, act),
                };
                [Table::Activation, rest(gate), act, up, act, glu]
            }
        }
    }
}

/// Widths of the low and high limb of a two-limb remainder.
pub fn halves(shift: u32) -> (u32, u32) {
    (shift.div_ceil(2), shift / 2)
}

/// What a row program reads.
pub trait RowView<E> {
    /// Cell `slot` of lane `l`, this row.
    fn cell(&self, slot: usize, lane: usize) -> E;
    /// Rotary cosine, and sine with the sign of this half.
    fn rotary(&self, lane: usize) -> (E, E);
    /// 1 where the lane's token may attend to this row's key.
    fn mask(&self, lane: usize) -> E;
    /// The stream accumulator `a_x`, this row.
    fn a_x(&self) -> E;
}

/// What a row adds to the accumulator columns (before their links to other rows).
pub struct Terms<E> {
    /// To `a_in`: combinations that other operations read.
    pub a_in: Option<E>,
    /// To `a_out`: outputs of products.
    pub a_out: Option<E>,
    /// To `a_x`: the stream, and vectors carried between rows.
    pub a_x: Option<E>,
    /// To `a_s`: sums down the rows, by token.
    pub a_s: Option<E>,
}

/// The row programs of one block, over `lanes` lanes.
pub struct Programs<'a> {
    /// The block.
    pub spec: &'a BlockSpec,
    /// Lanes.
    pub lanes: usize,
}

impl Programs<'_> {
    fn over<E: Algebra>(&self, x: &E, f: impl Fn(usize) -> E) -> E {
        combination(x, self.lanes, f)
    }

    /// `q 2^shift + r - 2^(shift-1)`: what was requantised to `(q, r)`.
    fn raw<E: Algebra>(q: E, r: E, shift: u32) -> E {
        q * pow2::<E>(shift) + r - pow2::<E>(shift - 1)
    }

    fn limbs<E: Algebra>(&self, view: &impl RowView<E>, slots: &[usize], lane: usize) -> E {
        let w = self.spec.scales.limb_bits;
        slots
            .iter()
            .enumerate()
            .map(|(i, &slot)| view.cell(slot, lane) * pow2::<E>(w * i as u32))
            .reduce(|a, b| a + b)
            .unwrap_or_else(|| int(0))
    }

    fn stream<E: Algebra>(&self, view: &impl RowView<E>, lane: usize) -> E {
        view.cell(A, lane) * pow2::<E>(self.spec.scales.residual_lo_bits) + view.cell(C2, lane)
    }

    /// The value of `a_x`'s term; it reads no accumulator.
    pub fn a_x<E: Algebra>(&self, kind: Kind, c: &Challenges<E>, view: &impl RowView<E>) -> Option<E> {
        Some(match kind {
            Kind::StreamIn | Kind::StreamMid => self.over(&c.alpha, |l| self.stream(view, l)),
            // The output stream and the remainder of the product that it closes, in one chain.
            Kind::MixOut => self.over(&c.alpha, |l| {
                c.eta.clone() * self.stream(view, l) + view.cell(C5, l)
                    - pow2::<E>(self.spec.scales.ffn_out_shift - 1)
            }),
            // Both features of a rotary pair, so that the pair's rows can exchange them.
            Kind::Query | Kind::Key if self.spec.scales.rope.is_some() => {
                self.over(&c.alpha, |l| view.cell(F, l) + c.eta.clone() * view.cell(C3, l))
            }
            Kind::Max => self.over(&c.alpha, |l| view.cell(A, l)),
            _ => return None,
        })
    }

    /// The terms of a row of `kind`. Equations: `docs/protocol.md`, "Row programs".
    pub fn terms<E: Algebra>(&self, kind: Kind, c: &Challenges<E>, view: &impl RowView<E>) -> Terms<E> {
        let s = &self.spec.scales;
        let alpha = &c.alpha;
        let cell = |slot, l| view.cell(slot, l);
        let mut t = Terms { a_in: None, a_out: None, a_x: self.a_x(kind, c, view), a_s: None };
        match kind {
            Kind::StreamIn | Kind::StreamMid => {
                t.a_in = Some(self.over(alpha, |l| cell(C3, l)));
                t.a_s = Some(self.over(alpha, |l| {
                    let x = self.stream(view, l);
                    x.clone() * x
                }));
                if kind == Kind::StreamMid {
                    t.a_out = Some(
                        self.over(alpha, |l| Self::raw(self.stream(view, l), cell(C5, l), s.attn_out_shift)),
                    );
                }
            }
            Kind::Root => {
                t.a_s = Some(self.over(alpha, |l| {
                    int::<E>(i128::from(s.norm_eps)) - self.limbs(view, &[C2, C3, C4, C5], l)
                }));
            }
            Kind::Remainder => t.a_out = Some(self.over(alpha, |l| self.limbs(view, &LIMBS, l))),
            Kind::Query | Kind::Key => {
                t.a_out = Some(self.over(alpha, |l| Self::raw(cell(C3, l), cell(C4, l), s.qk_shift)));
                let tokens = if kind == Kind::Query { alpha } else { &c.gamma };
                let read = if s.rope.is_some() { C5 } else { C3 };
                t.a_in = Some(self.over(tokens, |l| cell(read, l)));
            }
            Kind::Value => {
                let features = VALUES.len() * self.lanes;
                let slots = |j: usize| (VALUES[j / self.lanes], j % self.lanes);
                t.a_out = Some(combination(&c.gamma, features, |j| {
                    let ((q, r), l) = slots(j);
                    Self::raw(cell(q, l), cell(r, l), s.v_shift)
                }));
                t.a_in = Some(combination(&c.gamma, features, |j| {
                    let ((q, _), l) = slots(j);
                    cell(q, l)
                }));
            }
            Kind::Score => {
                // score = max - a, so what was requantised is (max - a) 2^s + r - 2^(s-1).
                let rest = self.over(alpha, |l| Self::raw(-cell(A, l), cell(C2, l), s.score_shift));
                t.a_out = Some(view.a_x() * pow2::<E>(s.score_shift) + rest);
                t.a_in = Some(self.over(alpha, |l| cell(C5, l)));
                t.a_s = Some(self.over(alpha, |l| cell(B, l) + c.eta.clone() * cell(C3, l)));
            }
            Kind::Sum => {
                t.a_s = Some(-self.over(alpha, |l| self.score_sum(view, l) + c.eta.clone()));
            }
            Kind::Max => {}
            Kind::MixOut => {
                t.a_out = Some(self.over(alpha, |l| Self::raw(cell(C3, l), cell(C4, l), s.mix_shift)));
                t.a_in = Some(self.over(alpha, |l| cell(C3, l)));
            }
            Kind::FeedForward => {
                let gate = |l| Self::raw(cell(A, l), cell(C2, l), s.gate_shift);
                let read = match s.feed_forward {
                    FeedForward::Gated { up_shift, .. } => {
                        t.a_out = Some(self.over(alpha, |l| {
                            gate(l) + c.gamma.clone() * Self::raw(cell(C3, l), cell(C4, l), up_shift)
                        }));
                        C5
                    }
                    FeedForward::Plain => {
                        t.a_out = Some(self.over(alpha, gate));
                        B
                    }
                };
                t.a_in = Some(self.over(alpha, |l| cell(read, l)));
            }
        }
        t
    }

    /// `Z = rem + (Z - 1 - rem) + 1` from its range-checked parts.
    fn score_sum<E: Algebra>(&self, view: &impl RowView<E>, l: usize) -> E {
        self.limbs(view, &[C2, C3], l) + self.limbs(view, &[C4, C5], l) + int(1)
    }

    /// The relations that hold on every row of `kind`, by constraint id: each must be zero.
    ///
    /// `a_out_next` is the output accumulator one row below.
    pub fn relations<E: Algebra>(
        &self,
        kind: Kind,
        c: &Challenges<E>,
        view: &impl RowView<E>,
        a_out_next: E,
    ) -> Vec<(&'static str, E)> {
        let s = &self.spec.scales;
        let cell = |slot, l| view.cell(slot, l);
        let over = |f: &dyn Fn(usize) -> E| self.over(&c.alpha, f);
        let half = |shift: u32| pow2::<E>(shift - 1);
        match kind {
            Kind::StreamIn | Kind::StreamMid => {
                let (lo, _) = halves(s.norm_shift);
                let n = over(&|l| {
                    cell(C3, l) * pow2::<E>(s.norm_shift) + cell(C4, l) + cell(C6, l) * pow2::<E>(lo)
                        - half(s.norm_shift)
                        - self.stream(view, l) * cell(F, l)
                });
                vec![(if kind == Kind::StreamIn { "attn-norm/4" } else { "ffn-norm/4" }, n)]
            }
            Kind::Remainder | Kind::Value | Kind::MixOut => vec![],
            Kind::Root => {
                let root = over(&|l| cell(F, l) - self.limbs(view, &[A, C6], l));
                let bounds = over(&|l| {
                    let (v, r) = (self.limbs(view, &[C2, C3, C4, C5], l), cell(F, l));
                    let one = pow2::<E>(2 * s.rsqrt_bits);
                    let below = one.clone() - r.clone() * r.clone() * v.clone();
                    let next = r + int(1);
                    let above = next.clone() * next * v - one - int(1);
                    below + c.eta.clone() * above
                });
                vec![("norm/2", root), ("norm/3", bounds - a_out_next)]
            }
            Kind::Query | Kind::Key => {
                let Some(rope) = s.rope else { return vec![] };
                let turn = over(&|l| {
                    let (cos, sin) = view.rotary(l);
                    Self::raw(cell(C5, l), cell(C6, l), rope.bits) - cell(C3, l) * cos - cell(F, l) * sin
                });
                vec![(if kind == Kind::Query { "rotary/1q" } else { "rotary/1k" }, turn)]
            }
            Kind::Score => {
                let (lo, _) = halves(s.prob_shift);
                let attained = over(&|l| cell(C3, l) * cell(A, l));
                let unmasked = over(&|l| (int::<E>(1) - view.mask(l)) * cell(C3, l));
                let weight = over(&|l| {
                    cell(C5, l) * pow2::<E>(s.prob_shift) + cell(C4, l) + cell(C6, l) * pow2::<E>(lo)
                        - half(s.prob_shift)
                        - cell(B, l) * cell(F, l)
                });
                vec![("softmax/2", attained), ("softmax/3", unmasked), ("softmax/6", weight)]
            }
            Kind::Sum => {
                let division = over(&|l| {
                    cell(F, l) * self.score_sum(view, l) + self.limbs(view, &[C2, C3], l)
                        - pow2::<E>(s.recip_bits)
                });
                vec![("softmax/5", division)]
            }
            Kind::Max => {
                vec![("softmax/5r", over(&|l| cell(F, l) - self.limbs(view, &[C2, C3], l)))]
            }
            Kind::FeedForward => {
                let FeedForward::Gated { glu_shift, .. } = s.feed_forward else { return vec![] };
                let product =
                    over(&|l| Self::raw(cell(C5, l), cell(C6, l), glu_shift) - cell(B, l) * cell(C3, l));
                vec![("glu/2", product)]
            }
        }
    }
}
