//! The reference executor: the integer semantics of a block, bit for bit. It *is* the specification.
//!
//! Every operation is deterministic; a value that leaves its range is an error that names site, token,
//! index and value, never a clamp (`protocol.md` section 6).

use std::{fmt, sync::Arc};

use thiserror::Error;

use crate::{
    spec::{BlockSpec, BlockWeights, FeedForward, Matrix, NormSpec, Rope, Scales},
    tables,
};

/// Where a value arises in a block; named in errors, reports and documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// Input of the block.
    Input,
    /// Output of the norm before attention.
    AttnNorm,
    /// Queries.
    Query,
    /// Keys.
    Key,
    /// Values.
    Value,
    /// Queries after the rotary embedding.
    QueryRotary,
    /// Keys after the rotary embedding.
    KeyRotary,
    /// Row maximum of the attention scores.
    Score,
    /// Distance of a score from its row's maximum.
    ScoreDistance,
    /// Attention weights.
    Probability,
    /// Mixed values.
    Mix,
    /// Residual stream after attention.
    Middle,
    /// Output of the norm before the feed-forward layer.
    FfnNorm,
    /// Gate projection.
    Gate,
    /// Up projection.
    Up,
    /// `activation(gate)`.
    Activated,
    /// Product `activation(gate) * up`.
    Glu,
    /// Output of the block.
    Output,
    /// Position whose next token is asked for.
    Position,
    /// Output of the final norm.
    HeadNorm,
    /// Output of the final norm times its gain matrix.
    HeadGain,
    /// Greatest logit.
    Logit,
    /// Distance of a logit from the greatest.
    LogitDistance,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Site::Input => "input",
            Site::AttnNorm => "attn-norm",
            Site::Query => "query",
            Site::Key => "key",
            Site::Value => "value",
            Site::QueryRotary => "query-rotary",
            Site::KeyRotary => "key-rotary",
            Site::Score => "score",
            Site::ScoreDistance => "score-distance",
            Site::Probability => "probability",
            Site::Mix => "mix",
            Site::Middle => "middle",
            Site::FfnNorm => "ffn-norm",
            Site::Gate => "gate",
            Site::Up => "up",
            Site::Activated => "activated",
            Site::Glu => "glu",
            Site::Output => "output",
            Site::Position => "position",
            Site::HeadNorm => "head-norm",
            Site::HeadGain => "head-gain",
            Site::Logit => "logit",
            Site::LogitDistance => "logit-distance",
        })
    }
}

/// Why a block could not be executed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ExecError {
    /// A value left the range of its site: recalibrate with more headroom, or on text like this one.
    #[error("{site}: value {value} of token {token}, index {index}, is outside [{min}, {max}]")]
    OutOfRange {
        /// Where.
        site: Site,
        /// Row (token).
        token: usize,
        /// Feature, or `head * tokens + key` for scores.
        index: usize,
        /// The value.
        value: i64,
        /// Least value allowed.
        min: i64,
        /// Greatest value allowed.
        max: i64,
    },
    /// A token id is not in the vocabulary.
    #[error("token {token} has id {id}, the vocabulary has {vocab}")]
    Token {
        /// Which token.
        token: usize,
        /// Its id.
        id: usize,
        /// Ids that there are.
        vocab: usize,
    },
    /// An input has the wrong size.
    #[error("{what} has {actual} entries, expected {expected}")]
    Size {
        /// Which input.
        what: &'static str,
        /// Entries expected.
        expected: usize,
        /// Entries given.
        actual: usize,
    },
}

/// A requantised tensor: `q * 2^shift + r = c + 2^(shift-1)`, `0 <= r < 2^shift`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requantised {
    /// Quotients, `[tokens, features]`.
    pub q: Vec<i32>,
    /// Remainders, same shape.
    pub r: Vec<i32>,
}

/// One norm: `v = eps + sum x^2`, `s^2 v <= 2^(2A) < (s+1)^2 v`, `n = requant(x s)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NormTrace {
    /// Sum of squares plus epsilon, `[tokens]`.
    pub v: Vec<u64>,
    /// Reciprocal root, `[tokens]`.
    pub s: Vec<i32>,
    /// Normalised features, `[tokens, hidden]`.
    pub n: Requantised,
}

/// Attention of all heads; score-shaped tensors are `[heads, tokens (queries), tokens (keys)]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttentionTrace {
    /// Row maximum over the unmasked keys, `[heads, tokens]`.
    pub max: Vec<i32>,
    /// `max - score`; masked entries may be negative.
    pub distance: Vec<i32>,
    /// Remainders of the score requantisation.
    pub score_r: Vec<i32>,
    /// Exponentials; 0 where masked.
    pub exp: Vec<i32>,
    /// Row sums of `exp`, `[heads, tokens]`.
    pub sum: Vec<i64>,
    /// `floor(2^recip_bits / sum)`, `[heads, tokens]`.
    pub recip: Vec<i32>,
    /// Attention weights and their remainders; 0 and `2^(shift-1)` where masked.
    pub prob: Requantised,
}

/// Every intermediate value of one block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Input, `[tokens, hidden]`.
    pub x: Vec<i32>,
    /// Norm before attention.
    pub norm1: NormTrace,
    /// Queries, `[tokens, heads * head_dim]`.
    pub query: Requantised,
    /// Keys, `[tokens, kv_heads * head_dim]`.
    pub key: Requantised,
    /// Values, `[tokens, kv_heads * head_dim]`.
    pub value: Requantised,
    /// Rotated queries; empty where positions are learned.
    pub query_rotary: Requantised,
    /// Rotated keys; empty where positions are learned.
    pub key_rotary: Requantised,
    /// Scores to attention weights.
    pub attention: AttentionTrace,
    /// Mixed values, `[tokens, heads * head_dim]`.
    pub mix: Requantised,
    /// Residual stream after attention: `q` is the stream, `r` the remainder of the added product.
    pub middle: Requantised,
    /// Norm before the feed-forward layer.
    pub norm2: NormTrace,
    /// Gate, `[tokens, ffn]`.
    pub gate: Requantised,
    /// Up, `[tokens, ffn]`; empty in a plain layer.
    pub up: Requantised,
    /// `activation(gate)`, `[tokens, ffn]`.
    pub activated: Vec<i32>,
    /// `activation(gate) * up`, `[tokens, ffn]`; empty in a plain layer.
    pub glu: Requantised,
    /// Output of the block: `q` is the stream, `r` the remainder of the added product.
    pub output: Requantised,
}

/// Half of a requantisation step, `2^(shift-1)`.
pub(crate) fn half(shift: u32) -> i64 {
    1i64 << (shift - 1)
}

/// `(q, r)` of `c` at `shift`.
fn split(c: i64, shift: u32) -> (i64, i32) {
    let c = c + half(shift);
    (c >> shift, (c & ((1i64 << shift) - 1)) as i32)
}

/// The range of a site.
#[derive(Clone, Copy)]
pub(crate) struct Range {
    site: Site,
    min: i64,
    max: i64,
}

impl Range {
    pub(crate) fn signed(site: Site, bits: u32) -> Self {
        Range { site, min: -(1i64 << (bits - 1)), max: (1i64 << (bits - 1)) - 1 }
    }

    pub(crate) fn unsigned(site: Site, bits: u32) -> Self {
        Range { site, min: 0, max: (1i64 << bits) - 1 }
    }

    pub(crate) fn check(self, value: i64, token: usize, index: usize) -> Result<i32, ExecError> {
        self.contains(value, token, index)?;
        Ok(value as i32)
    }

    /// As [`Range::check`], for values that may need more than 32 bits.
    pub(crate) fn contains(self, value: i64, token: usize, index: usize) -> Result<(), ExecError> {
        if value < self.min || value > self.max {
            return Err(ExecError::OutOfRange {
                site: self.site,
                token,
                index,
                value,
                min: self.min,
                max: self.max,
            });
        }
        Ok(())
    }
}

/// Applies `f(row index, row)` to the rows of `out`, in parallel when built with `parallel`.
fn for_rows<T: Send, F>(out: &mut [T], width: usize, f: F)
where
    F: Fn(usize, &mut [T]) + Sync + Send,
{
    #[cfg(feature = "parallel")]
    {
        use rayon::prelude::*;
        out.par_chunks_mut(width).enumerate().for_each(|(i, row)| f(i, row));
    }
    #[cfg(not(feature = "parallel"))]
    out.chunks_mut(width).enumerate().for_each(|(i, row)| f(i, row));
}

/// Tokens whose products share one pass over the weights.
const TOKEN_BLOCK: usize = 8;

/// Tokens from which on it pays to turn the weights around.
const TURNED_TOKENS: usize = 16;

/// Columns whose weights are turned around at once, so that they stay in the cache over all tokens.
const COLUMN_BLOCK: usize = 32;

/// `C = X W`, exact; with a bias `C = X W + 2^s b`, where `b` is the last row of `w`.
///
/// Where inputs fit 16 bits, sums of as many terms as fit 32 bits are added in 64 bits: compilers have an instruction for
/// those.
///
/// # Shapes
/// `x`: `[tokens, inputs]`; `w`: as many rows, and one more for a bias; result: `[tokens, cols]`. Sums stay below `2^63`
/// by [`BlockSpec::check`].
pub fn product(x: &[i32], w: &Matrix, bias: Option<u32>) -> Vec<i64> {
    let inputs = w.rows - usize::from(bias.is_some());
    let tokens = x.len() / inputs.max(1);
    if tokens < TURNED_TOKENS {
        return streamed(x, w, bias);
    }
    let weights = &w.data[..inputs * w.cols];
    let narrow: Option<Vec<i16>> = x.iter().map(|&x| i16::try_from(x).ok()).collect();
    let greatest = |values: &[i16]| values.iter().fold(0, |most, v| v.unsigned_abs().max(most));
    // Terms of which any sum fits 32 bits.
    let run = narrow.as_deref().map_or(1, |x| {
        let term = u32::from(greatest(x)) * u32::from(greatest(weights));
        (i32::MAX as u32 / term.max(1)) as usize
    });
    // By columns of `w` first, so that threads share no sums.
    let mut turned = vec![0i64; tokens * w.cols];
    for_rows(&mut turned, (tokens * COLUMN_BLOCK).max(1), |block, sums| {
        let first = block * COLUMN_BLOCK;
        let columns = sums.len() / tokens.max(1);
        let mut own = vec![0i16; inputs * columns];
        for (k, row) in weights.chunks(w.cols).enumerate() {
            for (j, &w) in row[first..first + columns].iter().enumerate() {
                own[j * inputs + k] = w;
            }
        }
        for t in 0..tokens {
            let of_token = t * inputs..(t + 1) * inputs;
            for (j, own) in own.chunks(inputs).enumerate() {
                sums[j * tokens + t] = match &narrow {
                    Some(x) if run >= SHORT_RUN => {
                        let runs = x[of_token.clone()].chunks(run).zip(own.chunks(run));
                        runs.map(|(x, w)| i64::from(short_sum(x, w))).sum()
                    }
                    _ => {
                        let terms = x[of_token.clone()].iter().zip(own);
                        terms.map(|(&x, &w)| i64::from(x) * i64::from(w)).sum()
                    }
                };
            }
        }
    });
    let mut out = vec![0i64; tokens * w.cols];
    for_rows(&mut out, w.cols, |t, row| {
        for (j, sum) in row.iter_mut().enumerate() {
            *sum = turned[j * tokens + t];
            if let Some(shift) = bias {
                *sum += i64::from(w.data[inputs * w.cols + j]) << shift;
            }
        }
    });
    out
}

/// Terms from which on sums in 32 bits are worth their while.
const SHORT_RUN: usize = 16;

/// The sum of products that fits 32 bits, as the caller sees to.
fn short_sum(x: &[i16], w: &[i16]) -> i32 {
    x.iter().zip(w).map(|(&x, &w)| i32::from(x) * i32::from(w)).sum()
}

/// [`product`] in one pass over the weights as they stand: for few tokens.
fn streamed(x: &[i32], w: &Matrix, bias: Option<u32>) -> Vec<i64> {
    let inputs = w.rows - usize::from(bias.is_some());
    let tokens = x.len() / inputs.max(1);
    let mut out = vec![0i64; tokens * w.cols];
    for_rows(&mut out, w.cols * TOKEN_BLOCK, |block, acc| {
        let first = block * TOKEN_BLOCK;
        if let Some(shift) = bias {
            for acc in acc.chunks_mut(w.cols) {
                for (a, &b) in acc.iter_mut().zip(&w.data[inputs * w.cols..]) {
                    *a = i64::from(b) << shift;
                }
            }
        }
        for k in 0..inputs {
            let row = &w.data[k * w.cols..(k + 1) * w.cols];
            for (t, acc) in acc.chunks_mut(w.cols).enumerate() {
                let xk = x[(first + t) * inputs + k];
                if xk == 0 {
                    continue;
                }
                for (a, &w) in acc.iter_mut().zip(row) {
                    *a += i64::from(xk) * i64::from(w);
                }
            }
        }
    });
    out
}

/// Requantises a whole tensor of `width` features, optionally adding a stream `base` after the shift.
pub(crate) fn requantise(
    c: &[i64],
    base: Option<&[i32]>,
    width: usize,
    shift: u32,
    range: Range,
) -> Result<Requantised, ExecError> {
    let mut q = Vec::with_capacity(c.len());
    let mut r = Vec::with_capacity(c.len());
    for (i, &c) in c.iter().enumerate() {
        let (mut qi, ri) = split(c, shift);
        if let Some(base) = base {
            qi += i64::from(base[i]);
        }
        q.push(range.check(qi, i / width, i % width)?);
        r.push(ri);
    }
    Ok(Requantised { q, r })
}

/// `floor(2^A / sqrt(v))`: the largest `s` with `s^2 v <= 2^(2A)`.
pub fn reciprocal_root(v: u64, rsqrt_bits: u32) -> u64 {
    let target = 1u128 << (2 * rsqrt_bits);
    let v = u128::from(v);
    let mut s = ((target / v) as f64).sqrt() as u128;
    while s * s * v > target {
        s -= 1;
    }
    while (s + 1) * (s + 1) * v <= target {
        s += 1;
    }
    s as u64
}

pub(crate) fn norm(x: &[i32], spec: &NormSpec, site: Site) -> Result<NormTrace, ExecError> {
    let range = Range::signed(site, spec.act_bits);
    let mut trace = NormTrace::default();
    for (t, row) in x.chunks(spec.hidden).enumerate() {
        let v = row.iter().fold(spec.norm_eps, |v, &x| v + (i64::from(x) * i64::from(x)) as u64);
        let s = reciprocal_root(v, spec.rsqrt_bits) as i64;
        for (i, &x) in row.iter().enumerate() {
            let (q, r) = split(i64::from(x) * s, spec.norm_shift);
            trace.n.q.push(range.check(q, t, i)?);
            trace.n.r.push(r);
        }
        trace.v.push(v);
        trace.s.push(s as i32);
    }
    Ok(trace)
}

fn rotary(
    x: &[i32],
    heads: usize,
    rope: &Rope,
    spec: &BlockSpec,
    site: Site,
) -> Result<Requantised, ExecError> {
    let hd = spec.shape.head_dim;
    let pairs = hd / 2;
    let range = Range::signed(site, spec.scales.act_bits);
    let width = heads * hd;
    let mut out = Requantised { q: vec![0; x.len()], r: vec![0; x.len()] };
    for t in 0..x.len() / width {
        for i in 0..pairs {
            let (cos, sin) = tables::rotary_entry(rope, hd, t, i);
            for h in 0..heads {
                let a = t * width + h * hd + i;
                let b = a + pairs;
                let (x1, x2) = (i64::from(x[a]), i64::from(x[b]));
                let (cos, sin) = (i64::from(cos), i64::from(sin));
                for (at, c) in [(a, x1 * cos - x2 * sin), (b, x2 * cos + x1 * sin)] {
                    let (q, r) = split(c, rope.bits);
                    out.q[at] = range.check(q, t, at - t * width)?;
                    out.r[at] = r;
                }
            }
        }
    }
    Ok(out)
}

fn attention(query: &[i32], key: &[i32], spec: &BlockSpec) -> Result<AttentionTrace, ExecError> {
    let (tokens, shape, scales) = (spec.tokens, &spec.shape, &spec.scales);
    let (hd, group) = (shape.head_dim, shape.heads / shape.kv_heads);
    let signed = |site| Range::signed(site, scales.act_bits);
    let distance_range = Range::unsigned(Site::ScoreDistance, scales.exp_in_bits);
    let exp: Vec<i32> = (0..1i32 << scales.exp_in_bits).map(|d| tables::exp_entry(scales, d)).collect();
    let mut a = AttentionTrace::default();
    let mut scores = vec![0i64; tokens];
    for h in 0..shape.heads {
        for t in 0..tokens {
            let q = &query[(t * shape.heads + h) * hd..][..hd];
            for (s, score) in scores.iter_mut().enumerate() {
                let k = &key[(s * shape.kv_heads + h / group) * hd..][..hd];
                let c: i64 = q.iter().zip(k).map(|(&q, &k)| i64::from(q) * i64::from(k)).sum();
                let (z, r) = split(c, scales.score_shift);
                *score = z;
                a.score_r.push(r);
            }
            // The maximum and the distances from it have ranges; a score is their difference.
            let max = scores[..=t].iter().copied().max().unwrap_or(0);
            signed(Site::Score).check(max, t, h * tokens + t)?;
            let mut sum = 0i64;
            for (s, &z) in scores.iter().enumerate() {
                let d = max - z;
                let index = h * tokens + s;
                let e = if s <= t {
                    exp[distance_range.check(d, t, index)? as usize]
                } else {
                    signed(Site::ScoreDistance).check(d, t, index)?;
                    0
                };
                a.distance.push(d as i32);
                a.exp.push(e);
                sum += i64::from(e);
            }
            let recip = (1i64 << scales.recip_bits) / sum;
            for s in 0..tokens {
                let e = a.exp[(h * tokens + t) * tokens + s];
                let (p, r) = split(i64::from(e) * recip, scales.prob_shift);
                a.prob.q.push(signed(Site::Probability).check(p, t, h * tokens + s)?);
                a.prob.r.push(r);
            }
            a.max.push(max as i32);
            a.sum.push(sum);
            a.recip.push(recip as i32);
        }
    }
    Ok(a)
}

/// `C[t, h*hd + k] = sum_s P[h, t, s] V[s, kv(h)*hd + k]`.
fn mix(prob: &[i32], value: &[i32], spec: &BlockSpec) -> Vec<i64> {
    let (tokens, shape) = (spec.tokens, &spec.shape);
    let (hd, group) = (shape.head_dim, shape.heads / shape.kv_heads);
    let width = shape.heads * hd;
    let mut out = vec![0i64; tokens * width];
    for_rows(&mut out, width, |t, row| {
        for h in 0..shape.heads {
            for s in 0..=t {
                let p = i64::from(prob[(h * tokens + t) * tokens + s]);
                let v = &value[(s * shape.kv_heads + h / group) * hd..][..hd];
                for (o, &v) in row[h * hd..(h + 1) * hd].iter_mut().zip(v) {
                    *o += p * i64::from(v);
                }
            }
        }
    });
    out
}

pub(crate) fn expect_size(what: &'static str, expected: usize, actual: usize) -> Result<(), ExecError> {
    if expected == actual { Ok(()) } else { Err(ExecError::Size { what, expected, actual }) }
}

/// The matrices of a block in their order: name, rows (one more than inputs for a bias), columns; `up` in a gated layer.
fn matrix_shapes(spec: &BlockSpec) -> [Option<(&'static str, usize, usize)>; 7] {
    let (s, c) = (&spec.shape, &spec.scales);
    let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    let of = |name, inputs: usize, bias: Option<u32>, cols| {
        Some((name, inputs + usize::from(bias.is_some()), cols))
    };
    [
        of("q", s.hidden, c.bias.qk, q),
        of("k", s.hidden, c.bias.qk, kv),
        of("v", s.hidden, c.bias.v, kv),
        of("o", q, c.bias.o, s.hidden),
        of("gate", s.hidden, c.bias.gate, s.ffn),
        match c.feed_forward {
            FeedForward::Gated { .. } => of("up", s.hidden, c.bias.gate, s.ffn),
            FeedForward::Plain => None,
        },
        of("down", s.ffn, c.bias.down, s.hidden),
    ]
}

impl BlockWeights {
    /// Weights with the matrices that `spec` asks for: `make(name, rows, columns)` makes each, in the order of
    /// [`BlockWeights::matrices`].
    ///
    /// # Errors
    /// Those of `make`.
    pub fn build<E>(
        spec: &BlockSpec,
        mut make: impl FnMut(&'static str, usize, usize) -> Result<Matrix, E>,
    ) -> Result<Self, E> {
        let mut made = vec![];
        for (name, rows, cols) in matrix_shapes(spec).into_iter().flatten() {
            made.push(make(name, rows, cols)?);
        }
        let mut made = made.into_iter();
        let empty = || Matrix { rows: 0, cols: 0, data: Arc::default() };
        let mut next = || made.next().unwrap_or_else(empty);
        let [q, k, v, o, gate] = [(); 5].map(|()| next());
        let up = matches!(spec.scales.feed_forward, FeedForward::Gated { .. }).then(&mut next);
        Ok(Self { q, k, v, o, gate, up, down: next() })
    }

    /// The matrices with the names and the shapes that `spec` gives them; those that are not there are left out.
    pub fn matrices<'a>(&'a self, spec: &BlockSpec) -> Vec<(&'static str, &'a Matrix, usize, usize)> {
        let own = [&self.q, &self.k, &self.v, &self.o, &self.gate].map(Some);
        let own = own.into_iter().chain([self.up.as_ref(), Some(&self.down)]);
        let named = matrix_shapes(spec).into_iter().zip(own);
        named.filter_map(|(shape, own)| shape.zip(own)).map(|((name, r, c), own)| (name, own, r, c)).collect()
    }
}

/// Runs a block on `x` and returns every intermediate value.
///
/// # Shapes
/// `x`: `[spec.tokens, hidden]`, row-major.
///
/// # Errors
/// [`ExecError::OutOfRange`] names the first value that leaves its site's range; [`ExecError::Size`] a
/// weight or input of the wrong size. `spec` is taken as checked ([`BlockSpec::check`]).
pub fn execute(spec: &BlockSpec, weights: &BlockWeights, x: &[i32]) -> Result<Trace, ExecError> {
    let (shape, scales): (_, &Scales) = (&spec.shape, &spec.scales);
    for (name, matrix, rows, cols) in weights.matrices(spec) {
        expect_size(name, rows * cols, matrix.data.len())?;
        expect_size(name, rows, matrix.rows)?;
    }
    let gated = matches!(scales.feed_forward, FeedForward::Gated { .. });
    expect_size("matrices of the block", 6 + usize::from(gated), 6 + usize::from(weights.up.is_some()))?;
    expect_size("input", spec.tokens * shape.hidden, x.len())?;
    let act = |site| Range::signed(site, scales.act_bits);
    let stream = |site| Range::signed(site, scales.act_bits + scales.residual_lo_bits);
    for (i, &v) in x.iter().enumerate() {
        stream(Site::Input).check(i64::from(v), i / shape.hidden, i % shape.hidden)?;
    }
    let (d, qw, kvw) = (shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);

    let norm1 = norm(x, &spec.norm(), Site::AttnNorm)?;
    let bias = &scales.bias;
    let linear = |x: &[i32], w: &Matrix, bias, shift, range| {
        requantise(&product(x, w, bias), None, w.cols, shift, range)
    };
    let query = linear(&norm1.n.q, &weights.q, bias.qk, scales.qk_shift, act(Site::Query))?;
    let key = linear(&norm1.n.q, &weights.k, bias.qk, scales.qk_shift, act(Site::Key))?;
    let value = linear(&norm1.n.q, &weights.v, bias.v, scales.v_shift, act(Site::Value))?;
    let (query_rotary, key_rotary) = match &scales.rope {
        Some(rope) => (
            rotary(&query.q, shape.heads, rope, spec, Site::QueryRotary)?,
            rotary(&key.q, shape.kv_heads, rope, spec, Site::KeyRotary)?,
        ),
        None => Default::default(),
    };
    let attention = match scales.rope {
        Some(_) => attention(&query_rotary.q, &key_rotary.q, spec)?,
        None => attention(&query.q, &key.q, spec)?,
    };
    let mixed = mix(&attention.prob.q, &value.q, spec);
    let mix = requantise(&mixed, None, qw, scales.mix_shift, act(Site::Mix))?;
    let middle = requantise(
        &product(&mix.q, &weights.o, bias.o),
        Some(x),
        d,
        scales.attn_out_shift,
        stream(Site::Middle),
    )?;
    let norm2 = norm(&middle.q, &spec.norm(), Site::FfnNorm)?;
    let gate_range = Range::signed(Site::Gate, scales.gate_bits);
    let gate = linear(&norm2.n.q, &weights.gate, bias.gate, scales.gate_shift, gate_range)?;
    let (first, size) = tables::Table::Activation.domain(scales);
    let table: Vec<i32> = (0..size as i32).map(|i| tables::activation_entry(scales, first + i)).collect();
    // In the range of activations by the static bound of its table.
    let activated: Vec<i32> = gate.q.iter().map(|g| table[(g - first) as usize]).collect();
    let (up, glu) = match (scales.feed_forward, &weights.up) {
        (FeedForward::Gated { up_shift, glu_shift }, Some(w)) => {
            let up = linear(&norm2.n.q, w, bias.gate, up_shift, act(Site::Up))?;
            let both = activated.iter().zip(&up.q);
            let product: Vec<i64> = both.map(|(&s, &u)| i64::from(s) * i64::from(u)).collect();
            let glu = requantise(&product, None, shape.ffn, glu_shift, act(Site::Glu))?;
            (up, glu)
        }
        _ => Default::default(),
    };
    let inner = if gated { &glu.q } else { &activated };
    let output = requantise(
        &product(inner, &weights.down, bias.down),
        Some(&middle.q),
        d,
        scales.ffn_out_shift,
        stream(Site::Output),
    )?;
    debug_assert_eq!(value.q.len(), spec.tokens * kvw);
    Ok(Trace {
        x: x.to_vec(),
        norm1,
        query,
        key,
        value,
        query_rotary,
        key_rotary,
        attention,
        mix,
        middle,
        norm2,
        gate,
        up,
        activated,
        glu,
        output,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Generator;

    #[test]
    fn products_are_exact_at_the_ends_of_their_ranges() {
        let (inputs, cols) = (67, 37);
        for (tokens, most_x, most_w) in [
            (3, 1 << 15, 1 << 15),
            (20, 1 << 15, 1 << 15),
            (20, 1 << 15, 1 << 7),
            (20, 100, 100),
            (20, 1 << 30, 9),
        ] {
            for bias in [None, Some(5)] {
                let mut rng = Generator(1);
                let mut draw =
                    |most: i32| if rng.signed(3) < 0 { -most } else { rng.signed(most).min(most - 1) };
                let rows = inputs + usize::from(bias.is_some());
                let data = (0..rows * cols).map(|_| draw(most_w) as i16).collect();
                let w = Matrix { rows, cols, data: Arc::new(data) };
                let x: Vec<i32> = (0..tokens * inputs).map(|_| draw(most_x)).collect();
                let naive = (0..tokens * cols).map(|i| {
                    let (t, j) = (i / cols, i % cols);
                    let term = |k: usize| i64::from(x[t * inputs + k]) * i64::from(w.data[k * cols + j]);
                    let bias = bias.map_or(0, |shift: u32| i64::from(w.data[inputs * cols + j]) << shift);
                    (0..inputs).map(term).sum::<i64>() + bias
                });
                assert_eq!(product(&x, &w, bias), naive.collect::<Vec<_>>(), "{tokens} {most_x} {most_w}");
            }
        }
    }
}
