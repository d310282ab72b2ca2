//! Row programs of the head, written once for gates and for witness values; see [`crate::rows`].
//!
//! A lane has three looked-up cells and one plain cell `f`.

use super::HeadSpec;
use crate::{
    rows::{Algebra, Challenges, combination, halves, int, pow2},
    tables::Table,
};

/// Looked-up cells of a lane, one LogUp helper.
pub const LOOKUPS: usize = 3;
/// Cells of a lane.
pub const SLOTS: usize = 4;
/// The plain cell.
pub const F: usize = 3;
/// Columns of the output boundary that a lane has where logits are open.
pub const OPEN: usize = 2;

/// The kinds of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A feature `x` of the positions: limbs of `x`, `n`; `f` is the reciprocal root.
    Stream,
    /// Three limbs of `v`; `f` again.
    Square,
    /// The fourth limb of `v`, two limbs of the root; `f` again.
    Root,
    /// Lower limbs of the remainder below.
    BelowLow,
    /// Upper limbs of the remainder below.
    BelowHigh,
    /// Lower limbs of the remainder above.
    AboveLow,
    /// Upper limbs of the remainder above.
    AboveHigh,
    /// Two limbs of a normalised feature's remainder.
    Rest,
    /// A feature after the gain matrix, and its remainder.
    Gain,
    /// A token of the boundary: `f` is 1 where the position is this one.
    Select,
    /// Distances of `chunks` ids, in three limbs; `f` is 1 at the arg-max.
    Logit,
    /// The last, incomplete, row of logits.
    Tail,
    /// The maximum in three limbs, offset by half their range.
    Max,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 13] = [
        Kind::Stream,
        Kind::Square,
        Kind::Root,
        Kind::BelowLow,
        Kind::BelowHigh,
        Kind::AboveLow,
        Kind::AboveHigh,
        Kind::Rest,
        Kind::Gain,
        Kind::Select,
        Kind::Logit,
        Kind::Tail,
        Kind::Max,
    ];

    /// The tables of the looked-up cells.
    pub fn tables(self, spec: &HeadSpec) -> [Table; LOOKUPS] {
        let s = &spec.norm;
        let act = Table::Signed(s.act_bits);
        let (lo, hi) = halves(s.norm_shift);
        match self {
            Kind::Stream => [act, Table::Unsigned(s.residual_lo_bits), act],
            Kind::Rest => [Table::Unsigned(lo), Table::Unsigned(hi), act],
            Kind::Gain => [Table::Unsigned(spec.gain_shift), act, act],
            Kind::Select => [act; LOOKUPS],
            _ => [Table::Unsigned(s.limb_bits); LOOKUPS],
        }
    }
}

/// What a row program reads.
pub trait View<E> {
    /// Cell `slot` of lane `l`, this row.
    fn cell(&self, slot: usize, lane: usize) -> E;
    /// Open logits of lane `l`, this row: the lower limbs (0), the upper one (1).
    fn open(&self, part: usize, lane: usize) -> E;
    /// [`super::layout::HeadLayout::index`] of this row.
    fn index(&self) -> E;
    /// `a_x`, this row.
    fn a_x(&self) -> E;
    /// `a_s` of the next row of logits, 0 on the last.
    fn below(&self) -> E;
}

/// What a row adds to the accumulator columns (before their links to other rows).
pub struct Terms<E> {
    /// To `a_in`: combinations that products read; ids.
    pub a_in: Option<E>,
    /// To `a_out`: what products and remainders come to; positions.
    pub a_out: Option<E>,
    /// To `a_x`: the stream; the maximum.
    pub a_x: Option<E>,
    /// To `a_s`: sums down the rows.
    pub a_s: Option<E>,
}

/// The row programs of one head.
pub struct Programs<'a> {
    /// The head.
    pub spec: &'a HeadSpec,
}

impl Programs<'_> {
    fn over<E: Algebra>(&self, c: &Challenges<E>, f: impl Fn(usize) -> E) -> E {
        combination(&c.alpha, self.spec.positions, f)
    }

    /// `sum_p alpha^p`.
    pub fn ones<E: Algebra>(&self, c: &Challenges<E>) -> E {
        self.over(c, |_| int(1))
    }

    /// Three limbs of a lane.
    fn limbs<E: Algebra>(&self, view: &impl View<E>, lane: usize) -> E {
        let w = self.spec.norm.limb_bits;
        view.cell(0, lane) + view.cell(1, lane) * pow2::<E>(w) + view.cell(2, lane) * pow2::<E>(2 * w)
    }

    fn stream<E: Algebra>(&self, view: &impl View<E>, lane: usize) -> E {
        view.cell(0, lane) * pow2::<E>(self.spec.norm.residual_lo_bits) + view.cell(1, lane)
    }

    /// The term of `a_x`; it reads no accumulator.
    pub fn a_x<E: Algebra>(&self, kind: Kind, c: &Challenges<E>, view: &impl View<E>) -> Option<E> {
        Some(match kind {
            Kind::Stream => self.over(c, |l| self.stream(view, l)),
            Kind::Max => {
                let half = pow2::<E>(self.spec.distance_bits() - 1);
                self.over(c, |l| self.limbs(view, l) - half.clone())
            }
            _ => return None,
        })
    }

    /// The term of `a_s`; it reads no accumulator.
    pub fn a_s<E: Algebra>(
        &self,
        kind: Kind,
        chunks: usize,
        c: &Challenges<E>,
        view: &impl View<E>,
    ) -> Option<E> {
        let w = self.spec.norm.limb_bits;
        Some(match kind {
            Kind::Stream => self.over(c, |l| {
                let x = self.stream(view, l);
                x.clone() * x
            }),
            Kind::Square => {
                let eps = int::<E>(self.spec.norm.norm_eps.into());
                self.over(c, |l| eps.clone() - self.limbs(view, l))
            }
            Kind::Root => -self.over(c, |l| view.cell(0, l) * pow2::<E>(3 * w)),
            Kind::Select | Kind::Logit | Kind::Tail => (1..chunks)
                .map(|chunk| self.flags(chunk, c, view))
                .fold(self.flags(0, c, view), |sum, flags| sum + flags),
            _ => return None,
        })
    }

    /// `sum_p alpha^p f` of a chunk.
    fn flags<E: Algebra>(&self, chunk: usize, c: &Challenges<E>, view: &impl View<E>) -> E {
        self.over(c, |p| view.cell(F, chunk * self.spec.positions + p))
    }

    /// The terms of a row of `kind` with `chunks` chunks.
    pub fn terms<E: Algebra>(
        &self,
        kind: Kind,
        chunks: usize,
        c: &Challenges<E>,
        view: &impl View<E>,
    ) -> Terms<E> {
        let s = &self.spec.norm;
        let w = s.limb_bits;
        let high = || pow2::<E>(3 * w);
        // eta separates the remainder above from the one below.
        let roots = |v: &dyn Fn(usize) -> E, constants: bool| {
            self.over(c, |l| {
                let (v, r) = (v(l), view.cell(F, l));
                let next = r.clone() + int(1);
                let mut below = -(r.clone() * r * v.clone());
                let mut above = next.clone() * next * v;
                if constants {
                    below = below + pow2::<E>(2 * s.rsqrt_bits);
                    above = above - pow2::<E>(2 * s.rsqrt_bits) - int(1);
                }
                below + c.eta.clone() * above
            })
        };
        let remainder = || -self.over(c, |l| self.limbs(view, l));
        let mut t = Terms {
            a_in: None,
            a_out: None,
            a_x: self.a_x(kind, c, view),
            a_s: self.a_s(kind, chunks, c, view),
        };
        match kind {
            Kind::Stream => t.a_in = Some(self.over(c, |l| view.cell(2, l))),
            Kind::Max => {}
            Kind::Square => t.a_out = Some(roots(&|l| self.limbs(view, l), true)),
            Kind::Root => t.a_out = Some(roots(&|l| view.cell(0, l) * high(), false)),
            Kind::BelowLow => t.a_out = Some(remainder()),
            Kind::BelowHigh => t.a_out = Some(remainder() * high()),
            Kind::AboveLow => t.a_out = Some(remainder() * c.eta.clone()),
            Kind::AboveHigh => t.a_out = Some(remainder() * c.eta.clone() * high()),
            Kind::Rest => {
                let (lo, _) = halves(s.norm_shift);
                t.a_out = Some(self.over(c, |l| view.cell(0, l) + view.cell(1, l) * pow2::<E>(lo)));
            }
            Kind::Gain => {
                let shift = self.spec.gain_shift;
                t.a_in = Some(self.over(c, |l| view.cell(1, l)));
                t.a_out = Some(self.over(c, |l| {
                    view.cell(1, l) * pow2::<E>(shift) + view.cell(0, l) - pow2::<E>(shift - 1)
                }));
            }
            Kind::Select => {
                let chosen = self.flags(0, c, view);
                t.a_out = Some(view.index() * chosen.clone());
                t.a_in = Some(chosen);
            }
            Kind::Logit | Kind::Tail => {
                // Of id `index - 1 + chunk`: maximum - distance - (flags of all greater ids).
                let (mut logits, mut ids): (Option<E>, Option<E>) = (None, None);
                let mut greater = view.below();
                for chunk in (0..chunks).rev() {
                    let distance = self.over(c, |p| self.limbs(view, chunk * self.spec.positions + p));
                    let logit = view.a_x() - distance - greater.clone();
                    logits = Some(match logits {
                        Some(rest) => rest * c.gamma.clone() + logit,
                        None => logit,
                    });
                    let flags = self.flags(chunk, c, view);
                    let id = (view.index() + int(chunk as i128)) * flags.clone();
                    ids = Some(match ids {
                        Some(rest) => rest + id,
                        None => id,
                    });
                    greater = greater + flags;
                }
                (t.a_out, t.a_in) = (logits, ids);
            }
        }
        t
    }

    /// The relations that hold on every row of `kind` and read this row's cells alone, by constraint id.
    pub fn relations<E: Algebra>(
        &self,
        kind: Kind,
        chunks: usize,
        c: &Challenges<E>,
        view: &impl View<E>,
    ) -> Vec<(&'static str, E)> {
        let lanes = chunks * self.spec.positions;
        let flag = || {
            combination(&c.alpha, lanes, |l| {
                let f = view.cell(F, l);
                f.clone() * (f - int(1))
            })
        };
        match kind {
            Kind::Root => {
                let w = self.spec.norm.limb_bits;
                let root =
                    self.over(c, |l| view.cell(F, l) - view.cell(1, l) - view.cell(2, l) * pow2::<E>(w));
                vec![("norm/2", root)]
            }
            Kind::Select => vec![("select/1", flag())],
            Kind::Logit | Kind::Tail => {
                let attained = combination(&c.alpha, lanes, |l| view.cell(F, l) * self.limbs(view, l));
                let mut relations = vec![("argmax/1", flag()), ("argmax/2", attained)];
                if self.spec.opens_logits() {
                    let low = combination(&c.alpha, lanes, |l| {
                        view.open(0, l)
                            - view.cell(0, l)
                            - view.cell(1, l) * pow2::<E>(self.spec.norm.limb_bits)
                    });
                    let high = combination(&c.alpha, lanes, |l| view.open(1, l) - view.cell(2, l));
                    relations.extend([("logits/1", low), ("logits/2", high)]);
                }
                relations
            }
            _ => vec![],
        }
    }

    /// `x s` of a stream row and its normalised features, combined: what `head-norm/4` reads.
    pub fn feature<E: Algebra>(&self, c: &Challenges<E>, view: &impl View<E>) -> (E, E) {
        let scaled = self.over(c, |l| self.stream(view, l) * view.cell(F, l));
        (scaled, self.over(c, |l| view.cell(2, l)))
    }
}
