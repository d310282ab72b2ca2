//! Floats to integers: one set of power-of-two scales for all layers, chosen from calibration.
//!
//! # Where freedom lies
//!
//! The residual stream, the gate and the scores have one scale in the whole model. Everywhere else a real
//! factor per channel goes into one weight matrix and out of the next, so it costs the circuit nothing:
//!
//! ```text
//! rotary pair p of a key head:   alpha_p on the columns of Wq, beta_p on those of Wk,
//!                                alpha_p * beta_p = 2^(exp_frac + score_shift)
//! value channel c:               f_c on the column of Wv, 1/f_c on the rows of Wo
//! feed-forward channel c:        f_c on the column of Wup, 1/f_c on the row of Wdown (of a gated layer)
//! ```
//!
//! A plain layer has no such factor: its activation is the table's. A bias is at the scale of its product, less a shift that
//! makes it fit the width of the weights.
//!
//! A factor is bounded above by the range of the activations it scales up and by the width of the weights,
//! and below by the width of the weights that compensate it. Among the shifts for which every channel has
//! room, those with the least estimated rounding noise win; fewer distinct shifts (fewer lookup tables)
//! are preferred when the noise stays small.

use std::sync::Arc;

use lamina_circuits::{
    bounds::residual_lo_bits,
    executor::Site,
    spec::{Biases, BlockSpec, BlockWeights, FeedForward, Matrix, Rope, Scales, Shape},
};
use rayon::prelude::*;
use serde::Serialize;

use crate::{
    calibrate::{Kind, LayerStats, Size, WeightSizes, folded},
    config::{Config, Norm},
    ends::{EndStats, Ends},
    error::QuantiseError,
    feedback::{Feedback, Moments},
    forward::{FloatRun, FloatTrace},
    model::{FloatBlock, Linear, Model},
    tokenizer::TextTokenizer,
};

/// What the caller chooses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Options {
    /// Width of a weight: 8 or 16.
    pub weight_bits: u32,
    /// Tokens proved at a time, padding included.
    pub tokens: usize,
    /// Positions whose next token the head proves, at most `tokens`.
    pub positions: usize,
    /// Whether the head opens all logits, for clients that sample.
    pub open_logits: bool,
    /// Room left above the largest calibrated value of each site, in bits (0 to 4).
    pub headroom_bits: f64,
    /// Width of the activation table's input: each bit less halves the table.
    pub silu_in_bits: u32,
    /// Feed-forward channels added to each layer to split its loudest channels into equal copies: models with
    /// massive activations lose less precision in all others. The circuit grows by as many.
    pub extra_channels: usize,
    /// Calibrate on a sequence of pseudo-random ids too, for texts unlike the calibration text.
    pub random_calibration: bool,
}

impl Options {
    /// Headroom of [`Options::new`].
    pub const DEFAULT_HEADROOM_BITS: f64 = 1.0;

    /// Positions of [`Options::new`], at most.
    pub const DEFAULT_POSITIONS: usize = 8;

    /// 16-bit weights, the default headroom, 16-bit gates.
    pub fn new(tokens: usize) -> Self {
        Options {
            weight_bits: 16,
            tokens,
            positions: tokens.min(Options::DEFAULT_POSITIONS),
            open_logits: false,
            headroom_bits: Options::DEFAULT_HEADROOM_BITS,
            silu_in_bits: 16,
            extra_channels: 0,
            random_calibration: true,
        }
    }
}

/// How well a site's range is used by the calibration data.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteHeadroom {
    /// Name of the site, as in the executor's errors.
    pub site: String,
    /// Largest magnitude the site may hold.
    pub limit: f64,
    /// Largest magnitude calibration saw, in the same integer units.
    pub largest: f64,
    /// `log2(limit / largest)`.
    pub headroom_bits: f64,
}

/// The per-channel factors of one layer: an integer value is the real one times its factor.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelFactors {
    /// Queries (over `sqrt(head_dim)`), per rotary pair of each key head, `[kv_heads * head_dim / 2]`.
    pub query: Vec<f64>,
    /// Keys, per rotary pair, `[kv_heads * head_dim / 2]`.
    pub key: Vec<f64>,
    /// Values, `[kv_heads * head_dim]`.
    pub value: Vec<f64>,
    /// Mixed values, per value channel, `[kv_heads * head_dim]`.
    pub mix: Vec<f64>,
    /// Up projection, `[ffn]`; empty in a plain layer.
    pub up: Vec<f64>,
    /// What the down projection reads, `[ffn]`.
    pub glu: Vec<f64>,
}

/// A model in integers, ready for the executor and the circuit.
#[derive(Clone, Debug)]
pub struct QuantisedModel {
    /// Hyperparameters of the model it came from.
    pub config: Config,
    /// Shape and scales of every block.
    pub spec: BlockSpec,
    /// Integer weights, first block to last.
    pub blocks: Vec<BlockWeights>,
    /// Factors that turn each layer's integers back into reals.
    pub factors: Vec<ChannelFactors>,
    /// The model's feed-forward channel that each channel of the circuit is (a part of), per layer, `[ffn]`.
    pub channels: Vec<Vec<usize>>,
    /// Embedding and head.
    pub ends: Ends,
    /// Use of each site's range in calibration.
    pub headroom: Vec<SiteHeadroom>,
    /// Tokenizer, if the model came with one.
    pub tokenizer: Option<TextTokenizer>,
}

/// Fractional bits of attention weights: a weight of 1 must fit 16 signed bits.
const PROB_FRAC: u32 = 14;
/// Width of activations.
const ACT_BITS: u32 = 16;
/// Low limb of the residual stream, at most.
const RESIDUAL_LO_BITS: u32 = 9;
/// Limb width of wide remainders.
const LIMB_BITS: u32 = 15;
/// Widest remainder of a requantised product.
const MAX_SHIFT: u32 = 15;
/// Share of the headroom that the residual stream and massive channels get: their largest values belong to first tokens, of which
/// calibration tries many.
const MASSIVE_SHARE: f64 = 0.3;
/// Further room of sites that are scaled channel by channel: each channel's largest value is seen less often
/// than the largest of the site.
const CHANNEL_ROOM: f64 = 4.0;
/// Estimated relative noise variance below which fewer distinct shifts are preferred to less noise.
const QUIET: f64 = 1.0 / (1u64 << 17) as f64;

/// Weights up to this are narrow.
const NARROW: f64 = (1u32 << 14) as f64;
/// Of as many rows of the gate, one may be clipped when weights are narrow.
const CLIPPED_SHARE: usize = 4096;

/// Variance of rounding to integers, relative to values of `magnitude`.
fn noise(magnitude: f64) -> f64 {
    1.0 / (12.0 * magnitude * magnitude).max(1e-30)
}

fn pow2(exponent: i64) -> f64 {
    (exponent as f64).exp2()
}

/// Largest `e` with `value * 2^e <= limit`.
fn room(value: f64, limit: f64) -> i64 {
    (limit / value.max(1e-30)).log2().floor() as i64
}

/// The scales that don't depend on a choice of shifts.
struct Base {
    /// Whether queries and keys are turned, and so rounded twice.
    turned: bool,
    /// Whether the feed-forward layer is gated.
    gated: bool,
    /// Largest calibrated activation of a channel, in integers.
    act: f64,
    /// The same for channels that the width of the weights pushes up.
    act_hard: f64,
    /// Largest weight.
    weight: f64,
    norm_frac: u32,
    residual_frac: u32,
    gate_frac: u32,
    exp_frac: u32,
}

/// What one layer's channels allow and need.
struct Layer {
    stats: LayerStats,
    weights: WeightSizes,
    query: Vec<Size>,
    key: Vec<Size>,
    value: Vec<Size>,
    mix: Vec<Size>,
    up: Vec<Size>,
    glu: Vec<Size>,
    /// The feed-forward channels of the circuit.
    channels: Vec<Channel>,
}

/// A feed-forward channel of the circuit: a channel of the model, or one of several equal parts of it.
#[derive(Clone, Copy, Debug)]
struct Channel {
    source: usize,
    /// Part of the model's down projection that this channel carries.
    share: f64,
}

impl Layer {
    /// Splits the channels that need the most room into equal copies, until `extra` channels are added.
    ///
    /// `silu(g) u w = k (silu(g) u w / k)`: the model is the same, and each copy's product with the down
    /// projection needs a `k`-th of the range.
    fn new(stats: LayerStats, weights: WeightSizes, extra: usize) -> Self {
        let (up, glu) = (stats.up.sizes(), stats.glu.sizes());
        let mut copies = vec![1usize; glu.len()];
        let need = |c: usize, copies: usize| weights.down[c].max * glu[c].max / copies as f64;
        for _ in 0..extra {
            let most = (0..copies.len()).max_by(|&a, &b| need(a, copies[a]).total_cmp(&need(b, copies[b])));
            copies[most.unwrap_or(0)] += 1;
        }
        let mut channels: Vec<Channel> =
            (0..copies.len()).map(|c| Channel { source: c, share: 1.0 / copies[c] as f64 }).collect();
        for (c, &copies) in copies.iter().enumerate() {
            channels.extend(std::iter::repeat_n(channels[c], copies - 1));
        }
        let copied = |sizes: &[Size]| -> Vec<Size> {
            channels.iter().filter_map(|c| sizes.get(c.source)).copied().collect()
        };
        let shared = |c: &Channel| {
            let size = weights.down[c.source];
            Size { max: size.max * c.share, typical: size.typical * c.share }
        };
        let (wu, wd) = (copied(&weights.up), channels.iter().map(shared).collect());
        Layer {
            query: stats.query.sizes(),
            key: stats.key.sizes(),
            value: stats.value.sizes(),
            mix: stats.mix.sizes(),
            up: copied(&up),
            glu: copied(&glu),
            stats,
            weights: WeightSizes { up: wu, down: wd, ..weights },
            channels,
        }
    }
}

/// Bounds of a factor and the two noise coefficients: noise is `a / f^2 + b f^2`.
#[derive(Clone, Copy)]
struct Factor {
    low: f64,
    high: f64,
    /// What `low` may push the factor to: less room for the values than `high` leaves.
    hard: f64,
    a: f64,
    b: f64,
    energy: f64,
}

impl Factor {
    /// The quietest factor within the bounds.
    fn best(&self) -> f64 {
        let ideal = if self.b > 0.0 { (self.a / self.b).powf(0.25) } else { self.high };
        ideal.min(self.high).max(self.low)
    }

    fn noise(&self) -> f64 {
        let f2 = self.best().powi(2);
        self.a / f2 + self.b * f2
    }
}

/// Energy-weighted noise of a layer's factors, or none when a channel has no room.
fn layer_noise(factors: impl Iterator<Item = Factor>) -> Option<f64> {
    let (mut total, mut energy) = (0.0, 0.0);
    for factor in factors {
        if factor.low > factor.hard {
            return None;
        }
        if factor.energy > 0.0 {
            total += factor.noise() * factor.energy;
            energy += factor.energy;
        }
    }
    Some(if energy > 0.0 { total / energy } else { 0.0 })
}

/// Mean over the layers, or none when one has no room.
fn mean_noise(layers: &[Layer], f: impl Fn(&Layer) -> Option<f64> + Sync + Send) -> Option<f64> {
    let all: Option<Vec<f64>> = layers.par_iter().map(f).collect();
    all.map(|all| all.iter().sum::<f64>() / all.len() as f64)
}

/// `1 / magnitude^2 / 12`, 0 for channels without signal.
fn coefficient(magnitude: f64) -> f64 {
    if magnitude > 0.0 { noise(magnitude) } else { 0.0 }
}

fn capped(limit: f64, value: f64) -> f64 {
    if value > 0.0 { limit / value } else { 1e30 }
}

impl Base {
    /// Factors of queries, one per rotary pair: `alpha`, with `beta = product / alpha`.
    fn query_factors<'a>(
        &'a self,
        layer: &'a Layer,
        qk_shift: u32,
        product: f64,
    ) -> impl Iterator<Item = Factor> + 'a {
        let to_weight = pow2(i64::from(qk_shift) - i64::from(self.norm_frac));
        let (query, key) = (&layer.query, &layer.key);
        let rounded = if self.turned { 2.0 } else { 1.0 };
        (0..query.len()).map(move |p| {
            let (wq, wk) = (layer.weights.q[p], layer.weights.k[p]);
            let weight = capped(self.weight, wq.max * to_weight);
            let beta = capped(self.act, key[p].max).min(capped(self.weight, wk.max * to_weight));
            Factor {
                low: product / beta,
                high: weight.min(capped(self.act, query[p].max)),
                hard: weight.min(capped(self.act, query[p].max)),
                // Before and after the rotation.
                a: rounded * coefficient(query[p].typical) + coefficient(wq.typical * to_weight),
                b: (rounded * coefficient(key[p].typical) + coefficient(wk.typical * to_weight))
                    / product.powi(2),
                energy: (query[p].typical * key[p].typical).powi(2),
            }
        })
    }

    /// Factors of values, one per channel.
    fn value_factors<'a>(
        &'a self,
        layer: &'a Layer,
        v_shift: u32,
        mix_shift: u32,
        out_shift: u32,
    ) -> impl Iterator<Item = Factor> + 'a {
        let to_weight = pow2(i64::from(v_shift) - i64::from(self.norm_frac));
        let to_mix = pow2(i64::from(PROB_FRAC) - i64::from(mix_shift));
        let to_out = pow2(i64::from(self.residual_frac + out_shift)) / to_mix;
        let (value, mix) = (&layer.value, &layer.mix);
        (0..value.len()).map(move |c| {
            let (wv, wo) = (layer.weights.v[c], layer.weights.o[c]);
            let weight = capped(self.weight, wv.max * to_weight);
            let largest = value[c].max.max(mix[c].max * to_mix);
            Factor {
                low: wo.max * to_out / self.weight,
                high: weight.min(capped(self.act, largest)),
                hard: weight.min(capped(self.act_hard, largest)),
                a: coefficient(value[c].typical)
                    + coefficient(mix[c].typical * to_mix)
                    + coefficient(wv.typical * to_weight),
                b: coefficient(wo.typical * to_out),
                energy: (mix[c].typical * wo.typical).powi(2),
            }
        })
    }

    /// Energy-weighted noise of a plain feed-forward layer, or none when its down projection has no room.
    fn plain_noise(&self, layer: &Layer, out_shift: u32) -> Option<f64> {
        let unit = pow2(self.gate_frac.into());
        let to_out = pow2(i64::from(self.residual_frac + out_shift)) / unit;
        let (mut total, mut energy) = (0.0, 0.0);
        for (size, down) in layer.glu.iter().zip(&layer.weights.down) {
            if down.max * to_out > self.weight {
                return None;
            }
            let own = (size.typical * down.typical).powi(2);
            total += own * (coefficient(size.typical * unit) + coefficient(down.typical * to_out));
            energy += own;
        }
        Some(if energy > 0.0 { total / energy } else { 0.0 })
    }

    /// Factors of the up projection, one per feed-forward channel.
    fn up_factors<'a>(&'a self, layer: &'a Layer, shifts: [u32; 3]) -> impl Iterator<Item = Factor> + 'a {
        let [up_shift, glu_shift, out_shift] = shifts;
        let to_weight = pow2(i64::from(up_shift) - i64::from(self.norm_frac));
        let to_glu = pow2(i64::from(self.gate_frac) - i64::from(glu_shift));
        let to_out = pow2(i64::from(self.residual_frac + out_shift)) / to_glu;
        (0..layer.up.len()).map(move |c| {
            let (up, glu) = (layer.up[c], layer.glu[c]);
            let (wu, wd) = (layer.weights.up[c], layer.weights.down[c]);
            let weight = capped(self.weight, wu.max * to_weight);
            let largest = up.max.max(glu.max * to_glu);
            Factor {
                low: wd.max * to_out / self.weight,
                high: weight.min(capped(self.act, largest)),
                hard: weight.min(capped(self.act_hard, largest)),
                a: coefficient(up.typical)
                    + coefficient(glu.typical * to_glu)
                    + coefficient(wu.typical * to_weight),
                b: coefficient(wd.typical * to_out),
                energy: (glu.typical * wd.typical).powi(2),
            }
        })
    }
}

/// The shifts of a model.
#[derive(Clone, Copy, Debug, Default)]
struct Shifts {
    qk: u32,
    score: u32,
    v: u32,
    attn_out: u32,
    gate: u32,
    up: u32,
    glu: u32,
    ffn_out: u32,
    mix: u32,
    rope: u32,
}

/// What a product's raw sums are in units of its result: what a bias of the model is multiplied by, feature by feature.
struct BiasUnits {
    query: Vec<f64>,
    key: Vec<f64>,
    value: Vec<f64>,
    attn_out: f64,
    gate: f64,
    up: Vec<f64>,
    ffn_out: f64,
}

impl BiasUnits {
    fn new(shape: &Shape, base: &Base, shifts: &Shifts, factors: &ChannelFactors) -> Self {
        let (hd, group) = (shape.head_dim, shape.heads / shape.kv_heads);
        let raw = |shift: u32| pow2(shift.into());
        let pair = |feature: usize, members: usize| feature / hd / members * (hd / 2) + feature % (hd / 2);
        let query = |j| factors.query[pair(j, group)] * raw(shifts.qk) / (hd as f64).sqrt();
        let key = |j| factors.key[pair(j, 1)] * raw(shifts.qk);
        Self {
            query: (0..shape.heads * hd).map(query).collect(),
            key: (0..shape.kv_heads * hd).map(key).collect(),
            value: factors.value.iter().map(|f| f * raw(shifts.v)).collect(),
            attn_out: raw(base.residual_frac + shifts.attn_out),
            gate: raw(base.gate_frac + shifts.gate),
            up: factors.up.iter().map(|f| f * raw(shifts.up)).collect(),
            ffn_out: raw(base.residual_frac + shifts.ffn_out),
        }
    }
}

/// The biases of a block at the scales of its products, empty where there is none, in the order of
/// [`BlockWeights::matrices`] with an up projection.
fn raw_biases(block: &FloatBlock, channels: &[Channel], units: &BiasUnits) -> [Vec<f64>; 7] {
    let of = |w: &Linear, unit: &dyn Fn(usize) -> f64| -> Vec<f64> {
        let bias = w.bias.iter().flatten().enumerate();
        bias.map(|(j, &b)| f64::from(b) * unit(j)).collect()
    };
    let up = block.up.as_ref().map(|up| channel_rows(up, channels));
    [
        of(&block.q, &|j| units.query[j]),
        of(&block.k, &|j| units.key[j]),
        of(&block.v, &|j| units.value[j]),
        of(&block.o, &|_| units.attn_out),
        of(&channel_rows(&block.gate, channels), &|_| units.gate),
        up.map(|up| of(&up, &|j| units.up[j])).unwrap_or_default(),
        of(&block.down, &|_| units.ffn_out),
    ]
}

/// The least shift with which a bias fits a weight; none without a bias.
fn bias_shift(biases: &[[Vec<f64>; 7]], matrices: &[usize], limit: f64) -> Option<u32> {
    let all = || biases.iter().flat_map(|block| matrices.iter().map(|&m| &block[m]));
    let largest = all().flatten().fold(0.0f64, |max, b| max.max(b.abs()));
    all().any(|bias| !bias.is_empty()).then(|| (largest / limit).max(1.0).log2().ceil() as u32)
}

/// `matrix` with its bias as one more row: `round(bias / 2^shift)`, zero where the product has a bias and the matrix none.
fn with_bias(matrix: Matrix, bias: &[f64], shift: Option<u32>) -> Matrix {
    let Some(shift) = shift else { return matrix };
    let unit = pow2(-i64::from(shift));
    let mut data = Arc::unwrap_or_clone(matrix.data);
    data.extend(bias.iter().map(|b| (b * unit).round() as i16));
    data.resize((matrix.rows + 1) * matrix.cols, 0);
    Matrix { rows: matrix.rows + 1, data: Arc::new(data), ..matrix }
}

/// Keeps the quieter of two choices.
fn keep<T>(best: &mut Option<(f64, T)>, noise: f64, choice: T) {
    if best.as_ref().is_none_or(|(least, _)| noise < *least) {
        *best = Some((noise, choice));
    }
}

/// The quietest shifts among those allowed, with the noise of each site, or the site that has no room.
fn search(base: &Base, layers: &[Layer], allowed: &[u32]) -> Result<([f64; 4], Shifts), (&'static str, f64)> {
    let mut shifts = Shifts::default();
    // Rotary factors and attention weights have 14 fractional bits if they may.
    shifts.rope = allowed.iter().copied().filter(|s| *s <= PROB_FRAC).max().unwrap_or(PROB_FRAC);
    shifts.mix = shifts.rope;

    let mut best = None;
    for &qk in allowed {
        for &score in allowed {
            let product = pow2(i64::from(base.exp_frac + score));
            let noise = mean_noise(layers, |l| layer_noise(base.query_factors(l, qk, product)));
            if let Some(noise) = noise {
                keep(&mut best, noise, (qk, score));
            }
        }
    }
    let (qk_noise, (qk, score)) = best.ok_or(("query", largest(layers, |l| l.stats.score)))?;

    let mut best = None;
    for &v in allowed {
        for &out in allowed {
            let noise = mean_noise(layers, |l| layer_noise(base.value_factors(l, v, shifts.mix, out)));
            if let Some(noise) = noise {
                keep(&mut best, noise, (v, out));
            }
        }
    }
    let value_max = |l: &Layer| l.value.iter().fold(0.0, |max: f64, s| max.max(s.max));
    let (v_noise, (v, attn_out)) = best.ok_or(("value", largest(layers, value_max)))?;

    // Gates have one scale: narrow weights clip the few loudest rows rather than starve all others.
    let mut rows: Vec<f64> = layers.iter().flat_map(|l| l.weights.gate_rows.iter().copied()).collect();
    rows.sort_unstable_by(f64::total_cmp);
    let clipped = if base.weight < NARROW { rows.len() / CLIPPED_SHARE } else { 0 };
    let gate_max = rows[rows.len() - 1 - clipped];
    let to_gate = |shift: u32| pow2(i64::from(base.gate_frac + shift) - i64::from(base.norm_frac));
    let gate = allowed.iter().copied().filter(|s| gate_max * to_gate(*s) <= base.weight).max();
    let gate = gate.ok_or(("gate", gate_max))?;
    let gates = layers.iter().map(|l| noise(l.weights.gate.typical * to_gate(gate)));
    let gate_noise = gates.sum::<f64>() / layers.len() as f64;

    let mut best = None;
    if !base.gated {
        for &out in allowed {
            if let Some(noise) = mean_noise(layers, |l| base.plain_noise(l, out)) {
                keep(&mut best, noise, (0, 0, out));
            }
        }
    }
    for &up in allowed.iter().filter(|_| base.gated) {
        for &glu in allowed {
            for &out in allowed {
                let noise = mean_noise(layers, |l| layer_noise(base.up_factors(l, [up, glu, out])));
                if let Some(noise) = noise {
                    keep(&mut best, noise, (up, glu, out));
                }
            }
        }
    }
    let glu_max = |l: &Layer| l.glu.iter().fold(0.0, |max: f64, s| max.max(s.max));
    let (up_noise, (up, glu, ffn_out)) = best.ok_or(("glu", largest(layers, glu_max)))?;
    Ok((
        [qk_noise, v_noise, gate_noise, up_noise],
        Shifts { qk, score, v, attn_out, gate, up, glu, ffn_out, ..shifts },
    ))
}

fn largest(layers: &[Layer], f: impl Fn(&Layer) -> f64) -> f64 {
    layers.iter().map(f).fold(0.0, f64::max)
}

/// Shifts with few distinct values whose noise is small, or close to the least possible.
fn choose_shifts(base: &Base, layers: &[Layer]) -> Result<Shifts, QuantiseError> {
    let every: Vec<u32> = (1..=MAX_SHIFT).collect();
    let (least, free) =
        search(base, layers, &every).map_err(|(site, largest)| QuantiseError::NoScales { site, largest })?;
    let loudest = least.iter().copied().fold(0.0, f64::max);
    let acceptable = |noise: &[f64; 4]| {
        let enough = |(noise, least): (&f64, &f64)| *noise <= (1.5 * least).max(QUIET).max(0.05 * loudest);
        noise.iter().zip(&least).all(enough)
    };
    let mut sets: Vec<Vec<u32>> = (8..=PROB_FRAC).rev().map(|s| vec![s]).collect();
    for high in (2..=PROB_FRAC).rev() {
        sets.extend((1..high).rev().map(|low| vec![high, low]));
    }
    for middle in (2..PROB_FRAC).rev() {
        sets.extend((1..middle).rev().map(|low| vec![PROB_FRAC, middle, low]));
    }
    for set in sets {
        match search(base, layers, &set) {
            Ok((noise, shifts)) if acceptable(&noise) => return Ok(shifts),
            _ => {}
        }
    }
    Ok(free)
}

/// Pseudo-random ids, the same on every machine.
fn random_ids(count: usize, vocab: usize) -> Vec<u32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % vocab as u64) as u32
        })
        .collect()
}

/// First tokens of texts that calibration tries at most.
const FIRST_TOKENS: usize = 512;

/// The calibration sequences: the text, cut and padded to `tokens`; random ids; tokens that each start a text.
fn sequences(config: &Config, ids: &[u32], options: &Options) -> Vec<(Kind, Vec<u32>)> {
    let random = random_ids(options.tokens.max(FIRST_TOKENS), config.vocab);
    let mut sequences: Vec<(Kind, Vec<u32>)> =
        ids.chunks(options.tokens).map(|ids| (Kind::Text, ids.to_vec())).collect();
    if sequences.is_empty() {
        sequences.push((Kind::Text, Vec::new()));
    }
    if options.random_calibration {
        sequences.push((Kind::Random, random[..options.tokens.div_ceil(2)].to_vec()));
    }
    for (_, sequence) in &mut sequences {
        sequence.resize(options.tokens, config.pad_id);
    }
    let named = [Some(config.pad_id), config.bos_id, config.eos_id].into_iter().flatten();
    let first = named.filter(|&id| (id as usize) < config.vocab).chain(random);
    sequences.push((Kind::Alone, first.take(FIRST_TOKENS.min(config.context)).collect()));
    sequences
}

/// Runs the float model over the calibration sequences.
fn calibrate(
    model: &Model,
    sequences: &[(Kind, Vec<u32>)],
    options: &Options,
) -> Result<(Vec<Layer>, EndStats), QuantiseError> {
    let config = &model.config;
    let mut stats: Vec<LayerStats> = model.blocks.iter().map(|_| LayerStats::new(config)).collect();
    let mut ends = EndStats::default();
    for (kind, sequence) in sequences {
        let mut run = match kind {
            Kind::Alone => FloatRun::alone(model, sequence)?,
            Kind::Text | Kind::Random => FloatRun::new(model, sequence)?,
        };
        for (index, stats) in stats.iter_mut().enumerate() {
            stats.add(config, &run.layer(index)?, *kind);
        }
        ends.add(&run.last()?);
    }
    let layers = stats.into_iter().zip(&model.blocks);
    let layer = |(stats, block)| Layer::new(stats, WeightSizes::new(config, block), options.extra_channels);
    Ok((layers.map(layer).collect(), ends))
}

/// Runs the float model again, layer by layer over all sequences at once, and calls `f` with the layer and its
/// traces.
fn layer_by_layer(
    model: &Model,
    sequences: &[(Kind, Vec<u32>)],
    mut f: impl FnMut(usize, &[FloatTrace]) -> Result<(), QuantiseError>,
) -> Result<(), QuantiseError> {
    let together = sequences.iter().filter(|(kind, _)| *kind != Kind::Alone);
    let runs: Result<Vec<_>, _> = together.map(|(_, sequence)| FloatRun::new(model, sequence)).collect();
    let mut runs = runs?;
    for layer in 0..model.blocks.len() {
        let traces: Result<Vec<_>, _> = runs.iter_mut().map(|run| run.layer(layer)).collect();
        f(layer, &traces?)?;
    }
    Ok(())
}

/// How the matrices of a block are rounded, by what they read.
struct BlockFeedback {
    norm1: Feedback,
    mix: Feedback,
    norm2: Feedback,
    glu: Feedback,
}

impl BlockFeedback {
    fn new(
        shape: &Shape,
        channels: &[Channel],
        factors: &ChannelFactors,
        traces: &[FloatTrace],
    ) -> Result<Self, QuantiseError> {
        let (d, q) = (shape.hidden, shape.heads * shape.head_dim);
        let mut moments = [d, q, d, channels.len()].map(Moments::new);
        for trace in traces {
            let rows = trace.glu.chunks_exact(shape.ffn);
            let glu: Vec<f32> = rows.flat_map(|row| channels.iter().map(|c| row[c.source])).collect();
            for (moments, x) in moments.iter_mut().zip([&trace.norm1, &trace.mix, &trace.norm2, &glu]) {
                moments.add(x)?;
            }
        }
        let [norm1, mix, norm2, glu] = &moments;
        Ok(BlockFeedback {
            norm1: norm1.feedback(|_| 1.0),
            mix: mix.feedback(|k| factors.mix[value_channel(shape, k)]),
            norm2: norm2.feedback(|_| 1.0),
            glu: glu.feedback(|c| factors.glu[c]),
        })
    }
}

/// The value channel that feature `feature` of the mixed values belongs to.
fn value_channel(shape: &Shape, feature: usize) -> usize {
    let (hd, group) = (shape.head_dim, shape.heads / shape.kv_heads);
    feature / hd / group * hd + feature % hd
}

/// Integer weights `round(w[j][k] * input[k] * output[j])`, transposed to `[inputs, outputs]`.
fn integers(
    w: &Linear,
    feedback: Option<&Feedback>,
    limit: f64,
    input: impl Fn(usize) -> f64 + Sync,
    output: impl Fn(usize) -> f64 + Sync,
) -> Matrix {
    let mut data = vec![0i16; w.data.len()];
    if let Some(feedback) = feedback {
        let mut targets = vec![0.0f32; w.data.len()];
        targets.par_chunks_mut(w.outputs).enumerate().for_each(|(k, row)| {
            let scale = input(k);
            for (j, out) in row.iter_mut().enumerate() {
                *out = (f64::from(w.data[j * w.inputs + k]) * scale * output(j)) as f32;
            }
        });
        data = feedback.round(&targets, w.outputs, limit as f32);
        return Matrix { rows: w.inputs, cols: w.outputs, data: Arc::new(data) };
    }
    data.par_chunks_mut(w.outputs).enumerate().for_each(|(k, row)| {
        let scale = input(k);
        for (j, out) in row.iter_mut().enumerate() {
            // In range by the bounds of the factors and of the gate; the cast would saturate.
            *out = (f64::from(w.data[j * w.inputs + k]) * scale * output(j)).round() as i16;
        }
    });
    Matrix { rows: w.inputs, cols: w.outputs, data: Arc::new(data) }
}

fn check_options(options: &Options, config: &Config) -> Result<(), QuantiseError> {
    let fail = |option, expected, actual: String| Err(QuantiseError::Option { option, expected, actual });
    if ![8, 16].contains(&options.weight_bits) {
        return fail("weight_bits", "8 or 16", options.weight_bits.to_string());
    }
    if options.tokens == 0 || options.tokens > config.context.min(1 << 12) {
        return fail("tokens", "1 to the model's context, at most 4096", options.tokens.to_string());
    }
    if options.positions == 0 || options.positions > options.tokens.min(256) {
        return fail("positions", "1 to the tokens, at most 256", options.positions.to_string());
    }
    if !(0.0..=4.0).contains(&options.headroom_bits) {
        return fail("headroom_bits", "0 to 4", options.headroom_bits.to_string());
    }
    if options.extra_channels > config.shape.ffn {
        return fail(
            "extra_channels",
            "at most the model's own channels",
            options.extra_channels.to_string(),
        );
    }
    if !(8..=ACT_BITS).contains(&options.silu_in_bits) {
        return fail("silu_in_bits", "8 to 16", options.silu_in_bits.to_string());
    }
    Ok(())
}

/// Quantises a model, calibrated on a text.
///
/// # Errors
/// As [`quantise`]; the model must have a tokenizer.
pub fn quantise_on_text(
    model: &Model,
    text: &str,
    options: &Options,
) -> Result<QuantisedModel, QuantiseError> {
    quantise(model, &model.tokenizer()?.encode(text)?, options)
}

/// Quantises a model, calibrated on token ids (cut into sequences of `options.tokens`, the last one padded).
///
/// ```text
/// W_int[k][j] = round(W[j][k] * gain_k * sqrt(hidden) * factor_j * 2^(shift - norm_frac))
/// ```
///
/// # Errors
/// An option out of range, ids that the model does not know, or a model whose values fit no scales that
/// the circuit can prove.
pub fn quantise(model: &Model, ids: &[u32], options: &Options) -> Result<QuantisedModel, QuantiseError> {
    let config = &model.config;
    check_options(options, config)?;
    if config.norm == Norm::Layer {
        return Err(QuantiseError::LayerNorm);
    }
    let sequences = sequences(config, ids, options);
    let (layers, ends) = calibrate(model, &sequences, options)?;
    let margin = (-options.headroom_bits).exp2();
    let act = ((1u64 << (ACT_BITS - 1)) - 1) as f64 * margin;

    let act_hard = ((1u64 << (ACT_BITS - 1)) - 1) as f64 * margin.powf(MASSIVE_SHARE);

    let first_max = first_boundary(model);
    let stream_max = largest(&layers, |l| l.stats.stream.into_iter().fold(0.0, f64::max));
    let stream_max = stream_max.max(first_max);
    let lo_bits = residual_lo_bits(model.config.shape.hidden, ACT_BITS, LIMB_BITS, RESIDUAL_LO_BITS);
    let stream_limit = ((1u64 << (ACT_BITS + lo_bits - 1)) - 1) as f64;
    let no_scales = |site, largest| QuantiseError::NoScales { site, largest };
    let frac = |site, largest: f64, limit: f64, most: i64| {
        let bits = room(largest, limit).min(most);
        if bits < 0 { Err(no_scales(site, largest)) } else { Ok(bits as u32) }
    };
    // Finer than a 4096th of a typical value (a 1024th with coarse weights) would only cost the products that
    // are added to the stream.
    let typical = layers.iter().fold(f64::INFINITY, |least, l| least.min(l.stats.typical));
    let steps = if options.weight_bits < 16 { 1024.0 } else { 4096.0 };
    let useful = (steps / typical.max(1e-9)).log2().ceil().clamp(0.0, 20.0) as i64;
    let mut residual_frac = frac("input", stream_max, stream_limit * margin.powf(MASSIVE_SHARE), useful)?;
    // |x| <= sqrt(v): 15 bits can only overflow when one feature is the whole vector.
    let norm_max = largest(&layers, |l| l.stats.norm[0].max(l.stats.norm[1])).max(ends.norm);
    let norm_frac = if norm_max < 0.995 { 15 } else { 14 };
    let gate_max = largest(&layers, |l| l.stats.gate);
    let silu_limit = ((1u64 << (options.silu_in_bits - 1)) - 1) as f64;
    let gate_frac = frac("gate", gate_max, silu_limit * margin, 14)?;
    let distance = largest(&layers, |l| l.stats.distance.max(l.stats.masked).max(l.stats.score));
    let exp_frac = frac("score-distance", distance, act, 14)?;

    let weight = f64::from((1i32 << (options.weight_bits - 1)) - 1);
    // Narrow weights can be too coarse to write a fine stream: then the stream gets coarser.
    let (base, shifts) = loop {
        let base = Base {
            turned: config.rope_base.is_some(),
            gated: config.family.gated(),
            act: act / CHANNEL_ROOM,
            act_hard,
            weight,
            norm_frac,
            residual_frac,
            gate_frac,
            exp_frac,
        };
        match choose_shifts(&base, &layers) {
            Ok(shifts) => break (base, shifts),
            Err(error) if residual_frac == 0 => return Err(error),
            Err(_) => residual_frac -= 1,
        }
    };

    let hidden = config.shape.hidden as f64;
    let norm_eps = (config.norm_eps * hidden * pow2(2 * i64::from(residual_frac))).round().max(1.0) as u64;
    // s <= 2^A / sqrt(eps) must stay below 2^30: the static bound of the circuit.
    let rsqrt_bits = (2 * LIMB_BITS - 1 + norm_eps.ilog2() / 2).min(28 + norm_frac);
    let norm_shift = rsqrt_bits - norm_frac;

    let factors: Vec<ChannelFactors> = layers.iter().map(|l| channel_factors(&base, &shifts, l)).collect();
    let biases: Vec<[Vec<f64>; 7]> = (model.blocks.iter().zip(&layers).zip(&factors))
        .map(|((block, layer), factors)| {
            let units = BiasUnits::new(&config.shape, &base, &shifts, factors);
            raw_biases(block, &layer.channels, &units)
        })
        .collect();
    let bias = |matrices: &[usize]| bias_shift(&biases, matrices, weight);

    // One width for the wide remainders of norms and attention weights; R must fit 30 bits.
    let exp_out_bits = 15;
    let prob_shift = norm_shift.clamp(16, 28);
    let scales = Scales {
        act_bits: ACT_BITS,
        residual_lo_bits: lo_bits,
        residual_frac,
        limb_bits: LIMB_BITS,
        rsqrt_bits,
        norm_eps,
        norm_shift,
        qk_shift: shifts.qk,
        v_shift: shifts.v,
        rope: config.rope_base.map(|base| Rope { bits: shifts.rope, base }),
        score_shift: shifts.score,
        exp_in_bits: ACT_BITS - 1,
        exp_frac,
        exp_out_bits,
        recip_bits: prob_shift + PROB_FRAC,
        prob_shift,
        mix_shift: shifts.mix,
        attn_out_shift: shifts.attn_out,
        gate_shift: shifts.gate,
        gate_bits: options.silu_in_bits,
        gate_frac,
        activated_frac: gate_frac,
        activation: config.family.activation(),
        feed_forward: if base.gated {
            FeedForward::Gated { up_shift: shifts.up, glu_shift: shifts.glu }
        } else {
            FeedForward::Plain
        },
        ffn_out_shift: shifts.ffn_out,
        bias: Biases {
            qk: bias(&[0, 1]),
            v: bias(&[2]),
            o: bias(&[3]),
            gate: bias(&[4, 5]),
            down: bias(&[6]),
        },
    };
    let spec = BlockSpec {
        shape: Shape { ffn: config.shape.ffn + options.extra_channels, ..config.shape.clone() },
        scales,
        weight_bits: options.weight_bits,
        tokens: options.tokens,
    };
    spec.check()?;

    let block = |index: usize, feedback: Option<&BlockFeedback>| {
        let (block, channels) = (&model.blocks[index], &layers[index].channels);
        let weights =
            integer_block(block, &config.shape, channels, &base, &shifts, &factors[index], feedback);
        with_biases(weights, &biases[index], &spec.scales.bias)
    };
    let mut blocks = Vec::with_capacity(layers.len());
    if options.weight_bits < 16 {
        // Coarse weights: worth a second pass.
        layer_by_layer(model, &sequences, |index, traces| {
            let channels = &layers[index].channels;
            let feedback = BlockFeedback::new(&config.shape, channels, &factors[index], traces)?;
            blocks.push(block(index, Some(&feedback)));
            Ok(())
        })?;
    } else {
        blocks.extend((0..layers.len()).map(|index| block(index, None)));
    }
    let mut headroom = headroom(&spec, &layers, &factors, first_max);
    let stats = ends;
    let ends = Ends::new(model, &spec, options, &stats, act)?;
    headroom.extend(ends.headroom(&stats));
    Ok(QuantisedModel {
        config: config.clone(),
        spec,
        blocks,
        factors,
        channels: layers.iter().map(|l| l.channels.iter().map(|c| c.source).collect()).collect(),
        ends,
        headroom,
        tokenizer: model.tokenizer.clone(),
    })
}

/// The factors of a layer under the chosen shifts.
fn channel_factors(base: &Base, shifts: &Shifts, layer: &Layer) -> ChannelFactors {
    let product = pow2(i64::from(base.exp_frac + shifts.score));
    let best = |factor: Factor| factor.best();
    let query: Vec<f64> = base.query_factors(layer, shifts.qk, product).map(best).collect();
    let value = base.value_factors(layer, shifts.v, shifts.mix, shifts.attn_out);
    let value: Vec<f64> = value.map(best).collect();
    let up = base.up_factors(layer, [shifts.up, shifts.glu, shifts.ffn_out]);
    let up: Vec<f64> = up.map(best).collect();
    let to_mix = pow2(i64::from(PROB_FRAC) - i64::from(shifts.mix));
    let to_glu = pow2(i64::from(base.gate_frac) - i64::from(shifts.glu));
    let glu = match base.gated {
        true => up.iter().map(|f| f * to_glu).collect(),
        false => vec![pow2(base.gate_frac.into()); layer.glu.len()],
    };
    ChannelFactors {
        key: query.iter().map(|alpha| product / alpha).collect(),
        mix: value.iter().map(|f| f * to_mix).collect(),
        glu,
        query,
        value,
        up,
    }
}

/// The rows of `w` that belong to the circuit's channels.
fn channel_rows(w: &Linear, channels: &[Channel]) -> Linear {
    let rows = channels.iter().flat_map(|c| &w.data[c.source * w.inputs..][..w.inputs]);
    let bias = w.bias.as_ref().map(|bias| channels.iter().map(|c| bias[c.source]).collect());
    Linear { outputs: channels.len(), inputs: w.inputs, data: Arc::new(rows.copied().collect()), bias }
}

/// The columns of `w` that belong to the circuit's channels, shared among copies.
fn channel_columns(w: &Linear, channels: &[Channel]) -> Linear {
    let part = |row: &[f32], c: &Channel| (f64::from(row[c.source]) * c.share) as f32;
    let rows = w.data.chunks_exact(w.inputs);
    let data = rows.flat_map(|row| channels.iter().map(move |c| part(row, c))).collect();
    Linear { outputs: w.outputs, inputs: channels.len(), data: Arc::new(data), bias: w.bias.clone() }
}

/// Puts the biases under the matrices of their products.
fn with_biases(w: BlockWeights, biases: &[Vec<f64>; 7], shifts: &Biases) -> BlockWeights {
    let [q, k, v, o, gate, up, down] = biases;
    BlockWeights {
        q: with_bias(w.q, q, shifts.qk),
        k: with_bias(w.k, k, shifts.qk),
        v: with_bias(w.v, v, shifts.v),
        o: with_bias(w.o, o, shifts.o),
        gate: with_bias(w.gate, gate, shifts.gate),
        up: w.up.map(|w| with_bias(w, up, shifts.gate)),
        down: with_bias(w.down, down, shifts.down),
    }
}

/// The integer matrices of a block, without biases.
fn integer_block(
    block: &FloatBlock,
    shape: &Shape,
    channels: &[Channel],
    base: &Base,
    shifts: &Shifts,
    factors: &ChannelFactors,
    feedback: Option<&BlockFeedback>,
) -> BlockWeights {
    let limit = base.weight;
    let (hd, group) = (shape.head_dim, shape.heads / shape.kv_heads);
    let from_norm = |shift: u32| pow2(i64::from(shift) - i64::from(base.norm_frac));
    let to_stream = |shift: u32| pow2(i64::from(base.residual_frac + shift));
    let query_in = folded(&block.attn_norm.gain, from_norm(shifts.qk) / (hd as f64).sqrt());
    let key_in = folded(&block.attn_norm.gain, from_norm(shifts.qk));
    let value_in = folded(&block.attn_norm.gain, from_norm(shifts.v));
    let gate_in = folded(&block.ffn_norm.gain, from_norm(shifts.gate) * pow2(i64::from(base.gate_frac)));
    let up_in = folded(&block.ffn_norm.gain, from_norm(shifts.up));
    let pair = |feature: usize, members: usize| feature / hd / members * (hd / 2) + feature % (hd / 2);
    let (norm1, norm2) = (feedback.map(|f| &f.norm1), feedback.map(|f| &f.norm2));
    let (mix, glu) = (feedback.map(|f| &f.mix), feedback.map(|f| &f.glu));
    let (out, down) = (to_stream(shifts.attn_out), to_stream(shifts.ffn_out));
    BlockWeights {
        q: integers(&block.q, norm1, limit, |k| query_in[k], |j| factors.query[pair(j, group)]),
        k: integers(&block.k, norm1, limit, |k| key_in[k], |j| factors.key[pair(j, 1)]),
        v: integers(&block.v, norm1, limit, |k| value_in[k], |j| factors.value[j]),
        o: integers(&block.o, mix, limit, |k| out / factors.mix[value_channel(shape, k)], |_| 1.0),
        gate: integers(&channel_rows(&block.gate, channels), norm2, limit, |k| gate_in[k], |_| 1.0),
        up: block
            .up
            .as_ref()
            .map(|up| integers(&channel_rows(up, channels), norm2, limit, |k| up_in[k], |j| factors.up[j])),
        down: integers(
            &channel_columns(&block.down, channels),
            glu,
            limit,
            |k| down / factors.glu[k],
            |_| 1.0,
        ),
    }
}

/// Sizes and factors of the channels of a site.
type PickChannels = fn(&Layer, &ChannelFactors) -> (Vec<Size>, Vec<f64>);

/// Use of each site's range by the calibration data.
fn headroom(
    spec: &BlockSpec,
    layers: &[Layer],
    factors: &[ChannelFactors],
    first_max: f64,
) -> Vec<SiteHeadroom> {
    let c = &spec.scales;
    let act = f64::from((1i32 << (c.act_bits - 1)) - 1);
    let stream = f64::from((1i32 << (c.act_bits + c.residual_lo_bits - 1)) - 1);
    let unit = pow2(i64::from(c.residual_frac));
    let channels = |pick: PickChannels| {
        let all = layers.iter().zip(factors).map(|(l, f)| {
            let (sizes, factors) = pick(l, f);
            sizes.iter().zip(factors).fold(0.0, |max: f64, (s, f)| max.max(s.max * f))
        });
        all.fold(0.0, f64::max)
    };
    let over = |f: &dyn Fn(&LayerStats) -> f64| largest(layers, |l| f(&l.stats));
    let distance_unit = pow2(i64::from(c.exp_frac));
    let norm_unit = pow2(i64::from(c.rsqrt_bits - c.norm_shift));
    let gate_unit = pow2(i64::from(c.gate_frac));
    let activated_unit = pow2(i64::from(c.activated_frac));
    let gate_limit = f64::from((1i32 << (c.gate_bits - 1)) - 1);
    let distance_limit = f64::from((1i32 << c.exp_in_bits) - 1);
    let query = channels(|l, f| (l.query.clone(), f.query.clone()));
    let key = channels(|l, f| (l.key.clone(), f.key.clone()));
    [
        (Site::Input, stream, over(&|s| s.stream[0]).max(first_max) * unit),
        (Site::AttnNorm, act, over(&|s| s.norm[0]) * norm_unit),
        (Site::Query, act, query),
        (Site::Key, act, key),
        (Site::Value, act, channels(|l, f| (l.value.clone(), f.value.clone()))),
        (Site::QueryRotary, act, query),
        (Site::KeyRotary, act, key),
        (Site::Score, act, over(&|s| s.score) * distance_unit),
        (Site::ScoreDistance, distance_limit, over(&|s| s.distance.max(s.masked)) * distance_unit),
        (Site::Probability, act, pow2(i64::from(PROB_FRAC))),
        (Site::Mix, act, channels(|l, f| (l.mix.clone(), f.mix.clone()))),
        (Site::Middle, stream, over(&|s| s.stream[1]) * unit),
        (Site::FfnNorm, act, over(&|s| s.norm[1]) * norm_unit),
        (Site::Gate, gate_limit, over(&|s| s.gate) * gate_unit),
        (Site::Up, act, channels(|l, f| (l.up.clone(), f.up.clone()))),
        (Site::Activated, act, over(&|s| s.activated) * activated_unit),
        (Site::Glu, act, channels(|l, f| (l.glu.clone(), f.glu.clone()))),
        (Site::Output, stream, over(&|s| s.stream[2]) * unit),
    ]
    .into_iter()
    .filter(|(site, _, _)| occurs(*site, c))
    .map(|(site, limit, largest)| SiteHeadroom {
        site: site.to_string(),
        limit,
        largest,
        headroom_bits: (limit / largest.max(1e-9)).log2(),
    })
    .collect()
}

/// Whether blocks of `scales` have a site.
pub(crate) fn occurs(site: Site, scales: &Scales) -> bool {
    match site {
        Site::QueryRotary | Site::KeyRotary => scales.rope.is_some(),
        Site::Up | Site::Glu => scales.feed_forward != FeedForward::Plain,
        _ => true,
    }
}

/// Largest magnitude that the first boundary may have: that of the embedding, and of the positions.
fn first_boundary(model: &Model) -> f64 {
    let d = model.config.shape.hidden;
    let unread = usize::from(model.config.norm == Norm::Centred);
    let largest = |w: &Linear, first: usize| {
        let read = w.data.chunks_exact(d).flat_map(|row| &row[first..]);
        f64::from(read.fold(0.0f32, |max, v| max.max(v.abs())))
    };
    largest(&model.embedding, unread) + model.positions.as_ref().map_or(0.0, |p| largest(p, 0))
}
