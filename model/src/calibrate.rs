//! Calibration: how large the values at each site get, channel by channel, and how large they usually are.

use crate::{
    config::Config,
    forward::FloatTrace,
    model::{FloatBlock, Linear},
};

/// Sizes of one channel's values.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Size {
    /// Largest magnitude.
    pub(crate) max: f64,
    /// Robust typical magnitude: `(mean sqrt|v|)^2`, which a few massive tokens don't dominate.
    pub(crate) typical: f64,
}

/// A calibration sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text: shows what is usual.
    Text,
    /// Pseudo-random ids: unlike the calibration text.
    Random,
    /// Tokens that see themselves only: first tokens, which often carry a model's massive activations.
    Alone,
}

/// Sizes per channel, accumulated over sequences.
#[derive(Clone, Debug)]
pub(crate) struct Channels {
    max: Vec<f64>,
    roots: Vec<f64>,
    rows: usize,
}

impl Channels {
    fn new(width: usize) -> Self {
        Channels { max: vec![0.0; width], roots: vec![0.0; width], rows: 0 }
    }

    /// Adds rows of `magnitude(row, channel)`; only text counts for what is typical.
    fn add(&mut self, kind: Kind, rows: usize, magnitude: impl Fn(usize, usize) -> f64) {
        let usual = f64::from(u8::from(kind == Kind::Text));
        self.rows += if kind == Kind::Text { rows } else { 0 };
        for row in 0..rows {
            for (channel, (max, root)) in self.max.iter_mut().zip(&mut self.roots).enumerate() {
                let value = magnitude(row, channel);
                *max = max.max(value);
                *root += usual * value.sqrt();
            }
        }
    }

    /// Sizes per channel. A channel that calibration happened to leave quiet gets the room of the loudest
    /// tenth of the layer: other texts may wake it.
    pub(crate) fn sizes(&self) -> Vec<Size> {
        let rows = self.rows.max(1) as f64;
        let mut sorted = self.max.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let floor = sorted.get(sorted.len() * 9 / 10).copied().unwrap_or(0.0);
        let sizes = self.max.iter().zip(&self.roots);
        sizes.map(|(&max, root)| Size { max: max.max(floor), typical: (root / rows).powi(2) }).collect()
    }
}

/// What calibration saw in one layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerStats {
    /// Residual stream: input, middle and output.
    pub(crate) stream: [f64; 3],
    /// Typical magnitude of the input: mean of `sqrt|x|` over the features of each sequence, squared.
    pub(crate) typical: f64,
    /// Norms: `x / sqrt(v)`.
    pub(crate) norm: [f64; 2],
    /// Rotary pairs of each key head: norms of the query pairs of its group, `[kv_heads * head_dim / 2]`.
    pub(crate) query: Channels,
    /// Norms of the key pairs, `[kv_heads * head_dim / 2]`.
    pub(crate) key: Channels,
    /// `[kv_heads * head_dim]`.
    pub(crate) value: Channels,
    /// Mixed values, per value channel.
    pub(crate) mix: Channels,
    /// Scores, masked ones included.
    pub(crate) score: f64,
    /// Distance of unmasked scores from the maximum of their row.
    pub(crate) distance: f64,
    /// Magnitude of that distance over masked scores.
    pub(crate) masked: f64,
    /// Gate.
    pub(crate) gate: f64,
    /// `activation(gate)`.
    pub(crate) activated: f64,
    /// `[ffn]`; empty in a plain layer.
    pub(crate) up: Channels,
    /// What the down projection reads, `[ffn]`.
    pub(crate) glu: Channels,
}

fn largest(values: &[f32]) -> f64 {
    values.iter().fold(0.0f32, |max, v| max.max(v.abs())).into()
}

impl LayerStats {
    pub(crate) fn new(config: &Config) -> Self {
        let shape = &config.shape;
        let kv = shape.kv_heads * shape.head_dim;
        LayerStats {
            stream: [0.0; 3],
            typical: f64::INFINITY,
            norm: [0.0; 2],
            query: Channels::new(kv / 2),
            key: Channels::new(kv / 2),
            value: Channels::new(kv),
            mix: Channels::new(kv),
            score: 0.0,
            distance: 0.0,
            masked: 0.0,
            gate: 0.0,
            activated: 0.0,
            up: Channels::new(if config.family.gated() { shape.ffn } else { 0 }),
            glu: Channels::new(shape.ffn),
        }
    }

    /// Adds a sequence.
    pub(crate) fn add(&mut self, config: &Config, trace: &FloatTrace, kind: Kind) {
        let shape = &config.shape;
        let (hd, kv, group) = (shape.head_dim, shape.kv_heads * shape.head_dim, shape.heads / shape.kv_heads);
        let (q_width, tokens) = (shape.heads * hd, trace.x.len() / shape.hidden);
        let raise = |old: &mut f64, values: &[f32]| *old = old.max(largest(values));
        for (old, values) in self.stream.iter_mut().zip([&trace.x, &trace.middle, &trace.output]) {
            raise(old, values);
        }
        let roots: f64 = trace.x.iter().map(|x| f64::from(x.abs()).sqrt()).sum();
        if kind == Kind::Text {
            self.typical = self.typical.min((roots / trace.x.len() as f64).powi(2));
        }
        raise(&mut self.norm[0], &trace.norm1);
        raise(&mut self.norm[1], &trace.norm2);
        let pair = |values: &[f32], at: usize| f64::from(values[at]).hypot(f64::from(values[at + hd / 2]));
        // Query heads of a group share their key head's factors: fold them into its channels.
        let over_group = |row: usize, channel: usize, width: usize, f: &dyn Fn(usize) -> f64| {
            let (t, member) = (row / group, row % group);
            let (head, feature) = (channel / width, channel % width);
            f(t * q_width + (head * group + member) * hd + feature)
        };
        self.query
            .add(kind, tokens * group, |row, c| over_group(row, c, hd / 2, &|at| pair(&trace.query, at)));
        self.key.add(kind, tokens, |t, c| pair(&trace.key, t * kv + c / (hd / 2) * hd + c % (hd / 2)));
        self.value.add(kind, tokens, |t, c| f64::from(trace.value[t * kv + c].abs()));
        self.mix
            .add(kind, tokens * group, |row, c| over_group(row, c, hd, &|at| f64::from(trace.mix[at].abs())));
        if kind != Kind::Alone {
            self.add_scores(&trace.score, tokens);
        }
        raise(&mut self.gate, &trace.gate);
        raise(&mut self.activated, &trace.activated);
        let ffn = shape.ffn;
        self.up.add(kind, tokens, |t, c| f64::from(trace.up[t * ffn + c].abs()));
        self.glu.add(kind, tokens, |t, c| f64::from(trace.glu[t * ffn + c].abs()));
    }

    fn add_scores(&mut self, score: &[f32], tokens: usize) {
        for (row, z) in score.chunks_exact(tokens).enumerate() {
            let t = row % tokens;
            let max = z[..=t].iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for (s, &z) in z.iter().enumerate() {
                self.score = self.score.max(f64::from(z.abs()));
                let slot = if s <= t { &mut self.distance } else { &mut self.masked };
                *slot = slot.max(f64::from((max - z).abs()));
            }
        }
    }
}

/// Sizes of a block's weights, with the norm's gain and `sqrt(hidden)` folded in: per rotary pair of each
/// key head, per value channel, per feed-forward channel.
#[derive(Clone, Debug)]
pub(crate) struct WeightSizes {
    pub(crate) q: Vec<Size>,
    pub(crate) k: Vec<Size>,
    pub(crate) v: Vec<Size>,
    pub(crate) o: Vec<Size>,
    pub(crate) gate: Size,
    /// Largest weight of every row of the gate.
    pub(crate) gate_rows: Vec<f64>,
    /// Empty in a plain layer.
    pub(crate) up: Vec<Size>,
    pub(crate) down: Vec<Size>,
}

/// Largest and root mean square of some numbers; the mean is over those that are not 0.
fn spread(values: impl Iterator<Item = f64>) -> Size {
    let (mut max, mut sum, mut count) = (0.0f64, 0.0, 0usize);
    for v in values {
        max = max.max(v.abs());
        sum += v * v;
        count += usize::from(v != 0.0);
    }
    Size { max, typical: (sum / count.max(1) as f64).sqrt() }
}

/// `sqrt(hidden) * gain * extra`: what a norm's readers have folded in, per input.
pub(crate) fn folded(gain: &[f32], extra: f64) -> Vec<f64> {
    let root = (gain.len() as f64).sqrt() * extra;
    gain.iter().map(|&g| f64::from(g) * root).collect()
}

impl WeightSizes {
    pub(crate) fn new(config: &Config, block: &FloatBlock) -> Self {
        let shape = &config.shape;
        let (hd, kv, group) = (shape.head_dim, shape.kv_heads * shape.head_dim, shape.heads / shape.kv_heads);
        let attn = folded(&block.attn_norm.gain, 1.0);
        let ffn = folded(&block.ffn_norm.gain, 1.0);
        let root = (hd as f64).sqrt();
        let row = |w: &Linear, r: usize, fold: &[f64], extra: f64| {
            spread(
                w.data[r * w.inputs..][..w.inputs].iter().zip(fold).map(|(&w, f)| f64::from(w) * f * extra),
            )
        };
        let column =
            |w: &Linear, c: usize| spread(w.data[c..].iter().step_by(w.inputs).map(|&w| f64::from(w)));
        let join = |sizes: Vec<Size>| {
            let n = sizes.len() as f64;
            let max = sizes.iter().fold(0.0, |max: f64, s| max.max(s.max));
            Size { max, typical: (sizes.iter().map(|s| s.typical.powi(2)).sum::<f64>() / n).sqrt() }
        };
        // Rows of `w` that belong to pair `i` of key head `h`, when each key head serves `members` heads.
        let pairs = |w: &Linear, members: usize, extra: f64| {
            (0..kv / 2)
                .map(|p| {
                    let (h, i) = (p / (hd / 2), p % (hd / 2));
                    let heads = (0..members).map(|m| (h * members + m) * hd + i);
                    join(heads.flat_map(|r| [r, r + hd / 2]).map(|r| row(w, r, &attn, extra)).collect())
                })
                .collect()
        };
        let gate: Vec<Size> = (0..shape.ffn).map(|c| row(&block.gate, c, &ffn, 1.0)).collect();
        WeightSizes {
            q: pairs(&block.q, group, 1.0 / root),
            k: pairs(&block.k, 1, 1.0),
            v: (0..kv).map(|c| row(&block.v, c, &attn, 1.0)).collect(),
            o: (0..kv)
                .map(|c| {
                    let (h, i) = (c / hd, c % hd);
                    join((0..group).map(|m| column(&block.o, (h * group + m) * hd + i)).collect())
                })
                .collect(),
            gate_rows: gate.iter().map(|size| size.max).collect(),
            gate: join(gate),
            up: block.up.iter().flat_map(|up| (0..shape.ffn).map(|c| row(up, c, &ffn, 1.0))).collect(),
            down: (0..shape.ffn).map(|c| column(&block.down, c)).collect(),
        }
    }
}
