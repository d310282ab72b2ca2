//! Fixed point against float: error of every site, perplexity, agreement of the next token.

use lamina_circuits::{
    executor::{ExecError, Site, Trace, execute},
    head::HeadTrace,
    model::Part,
    spec::{Activations, Scales},
};
use serde::Serialize;

use crate::{
    error::{EvalError, ForwardError},
    forward::{FloatRun, FloatTrace, arg_max, check_ids},
    model::Model,
    quantise::{QuantisedModel, SiteHeadroom, occurs},
};

/// Error of one site over all layers and real tokens, in the model's own units.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteError {
    /// Name of the site, as in the executor's errors.
    pub site: String,
    /// Largest absolute difference.
    pub max: f64,
    /// Mean absolute difference.
    pub mean: f64,
    /// Mean magnitude of the float values, to compare with.
    pub mean_magnitude: f64,
    /// `mean / mean_magnitude` of each layer alone.
    pub layers: Vec<f64>,
}

/// A value that left its range: the pass it belongs to can't be proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Overflow {
    /// Window of the text, from 0.
    pub window: usize,
    /// Where in the model.
    pub part: Part,
    /// Site, token, value and range.
    pub what: String,
}

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvalReport {
    /// Tokens compared, without padding.
    pub tokens: usize,
    /// Tokens of a pass, with padding.
    pub padded_tokens: usize,
    /// Passes that the text was cut into, each without the tokens before it.
    pub windows: usize,
    /// Passes that can't be proved; they count in no other figure.
    pub overflows: Vec<Overflow>,
    /// Width of the weights.
    pub weight_bits: u32,
    /// `exp` of the mean negative log-likelihood of the next token, in floats.
    pub float_perplexity: f64,
    /// The same in fixed point.
    pub fixed_perplexity: f64,
    /// `fixed / float - 1`.
    pub perplexity_change: f64,
    /// Share of positions whose most likely token is the next one, in floats.
    pub float_top1: f64,
    /// The same in fixed point.
    pub fixed_top1: f64,
    /// Share of positions at which both passes choose the same token.
    pub agreement: f64,
    /// Errors, in the order of the block.
    pub sites: Vec<SiteError>,
    /// Room that calibration left.
    pub headroom: Vec<SiteHeadroom>,
    /// Room that this text left, padding included.
    pub text_headroom: Vec<SiteHeadroom>,
    /// Negative log-likelihood of every next token, in floats.
    #[serde(skip)]
    pub float_losses: Vec<f64>,
    /// The same in fixed point.
    #[serde(skip)]
    pub fixed_losses: Vec<f64>,
}

impl QuantisedModel {
    /// `ids` with the model's padding id up to `spec.tokens`.
    ///
    /// # Errors
    /// No ids, too many, or one beyond the vocabulary.
    pub fn pad(&self, ids: &[u32]) -> Result<Vec<u32>, ForwardError> {
        check_ids(ids, self.spec.tokens, self.config.vocab)?;
        let mut padded = ids.to_vec();
        padded.resize(self.spec.tokens, self.config.pad_id);
        Ok(padded)
    }

    /// The first boundary: embeddings of the padded ids as integers.
    ///
    /// # Shapes
    /// Result: `[spec.tokens, hidden]` at scale `2^-residual_frac`.
    ///
    /// # Errors
    /// As [`QuantisedModel::pad`].
    pub fn embed(&self, ids: &[u32]) -> Result<Activations, EvalError> {
        self.ends.embed(&self.pad(ids)?).map_err(|source| EvalError::Range { part: Part::Embedding, source })
    }

    /// Runs block `layer` on a boundary.
    ///
    /// # Errors
    /// A value leaves its range, or `x` has the wrong size.
    ///
    /// # Panics
    /// When the model has no such block.
    pub fn run_block(&self, layer: usize, x: &[i32]) -> Result<Trace, ExecError> {
        execute(&self.spec, &self.blocks[layer], x)
    }

    /// Every boundary of a pass: the embeddings, then the output of each block.
    ///
    /// # Errors
    /// The ids, or the layer and site at which a value leaves its range.
    pub fn boundaries(&self, ids: &[u32]) -> Result<Vec<Activations>, EvalError> {
        let mut boundaries = vec![self.embed(ids)?];
        for layer in 0..self.blocks.len() {
            let trace = self.run_block(layer, &boundaries[layer]);
            boundaries.push(
                trace.map_err(|source| EvalError::Range { part: Part::Layer(layer), source })?.output.q,
            );
        }
        Ok(boundaries)
    }

    /// The head on rows of the last boundary.
    ///
    /// # Shapes
    /// `x`: `[rows, hidden]`.
    ///
    /// # Errors
    /// A value leaves its range.
    pub fn head(&self, x: &[i32]) -> Result<HeadTrace, EvalError> {
        self.ends.rows(x).map_err(|source| EvalError::Range { part: Part::Head, source })
    }

    /// The most likely next token after `ids`, in fixed point.
    ///
    /// # Errors
    /// As [`QuantisedModel::boundaries`] and [`QuantisedModel::head`].
    pub fn next_token(&self, ids: &[u32]) -> Result<u32, EvalError> {
        let d = self.config.shape.hidden;
        let last = self.boundaries(ids)?.pop().unwrap_or_default();
        Ok(self.head(&last[(ids.len() - 1) * d..][..d])?.tokens[0])
    }
}

/// Losses of the next tokens, and the most likely token per position.
#[derive(Clone, Default)]
struct Likelihood {
    losses: Vec<f64>,
    hits: usize,
    choices: Vec<u32>,
}

impl Likelihood {
    /// Adds a window's logits.
    fn add(&mut self, logits: &[f32], ids: &[u32]) {
        let vocab = logits.len() / ids.len();
        let choices: Vec<u32> = logits.chunks_exact(vocab).map(arg_max).collect();
        for ((row, &choice), &next) in logits.chunks_exact(vocab).zip(&choices).zip(&ids[1..]) {
            let max = row[choice as usize];
            let sum: f64 = row.iter().map(|l| f64::from(l - max).exp()).sum();
            self.losses.push(sum.ln() - f64::from(row[next as usize] - max));
            self.hits += usize::from(choice == next);
        }
        self.choices.extend(choices);
    }

    fn perplexity(&self) -> f64 {
        (self.losses.iter().sum::<f64>() / self.losses.len() as f64).exp()
    }

    fn top1(&self) -> f64 {
        self.hits as f64 / self.losses.len() as f64
    }
}

/// Running error of one site in one layer.
#[derive(Clone, Copy, Default)]
struct Error {
    max: f64,
    sum: f64,
    magnitude: f64,
    count: usize,
}

impl Error {
    /// Adds rows of `width` features: integer `fixed[i] / unit(feature)` against `float[i]`.
    fn add(&mut self, float: &[f32], fixed: &[i32], width: usize, unit: impl Fn(usize) -> f64) {
        for (float, fixed) in float.chunks_exact(width).zip(fixed.chunks_exact(width)) {
            for (feature, (&float, &fixed)) in float.iter().zip(fixed).enumerate() {
                let error = (f64::from(fixed) / unit(feature) - f64::from(float)).abs();
                self.max = self.max.max(error);
                self.sum += error;
                self.magnitude += f64::from(float.abs());
            }
        }
        self.count += float.len();
    }

    fn relative(&self) -> f64 {
        if self.magnitude > 0.0 { self.sum / self.magnitude } else { 0.0 }
    }
}

/// Errors of one site, layer by layer.
#[derive(Clone)]
struct Errors {
    site: Site,
    layers: Vec<Error>,
}

impl Errors {
    fn report(&self) -> SiteError {
        let mut all = Error::default();
        for layer in &self.layers {
            all.max = all.max.max(layer.max);
            all.sum += layer.sum;
            all.magnitude += layer.magnitude;
            all.count += layer.count;
        }
        let count = all.count.max(1) as f64;
        SiteError {
            site: self.site.to_string(),
            max: all.max,
            mean: all.sum / count,
            mean_magnitude: all.magnitude / count,
            layers: self.layers.iter().map(Error::relative).collect(),
        }
    }
}

/// Largest magnitude at each site of a pass, padding included: what has to fit.
fn raise(room: &mut [SiteHeadroom], scales: &Scales, trace: &Trace) {
    let attention = &trace.attention;
    let values: [(Site, &[i32]); 18] = [
        (Site::Input, &trace.x),
        (Site::AttnNorm, &trace.norm1.n.q),
        (Site::Query, &trace.query.q),
        (Site::Key, &trace.key.q),
        (Site::Value, &trace.value.q),
        (Site::QueryRotary, &trace.query_rotary.q),
        (Site::KeyRotary, &trace.key_rotary.q),
        (Site::Score, &attention.max),
        (Site::ScoreDistance, &attention.distance),
        (Site::Probability, &attention.prob.q),
        (Site::Mix, &trace.mix.q),
        (Site::Middle, &trace.middle.q),
        (Site::FfnNorm, &trace.norm2.n.q),
        (Site::Gate, &trace.gate.q),
        (Site::Up, &trace.up.q),
        (Site::Activated, &trace.activated),
        (Site::Glu, &trace.glu.q),
        (Site::Output, &trace.output.q),
    ];
    let values = values.into_iter().filter(|(site, _)| occurs(*site, scales)).map(|(_, values)| values);
    for (site, values) in room.iter_mut().zip(values) {
        site.raise(values);
    }
}

impl SiteHeadroom {
    fn raise(&mut self, values: &[i32]) {
        let largest = values.iter().map(|v| v.unsigned_abs()).max().unwrap_or(0);
        self.largest = self.largest.max(largest.into());
        self.headroom_bits = (self.limit / self.largest.max(1.0)).log2();
    }
}

/// The sites that are compared, in the order of the block.
const SITES: [Site; 15] = [
    Site::AttnNorm,
    Site::Query,
    Site::Key,
    Site::Value,
    Site::QueryRotary,
    Site::KeyRotary,
    Site::Probability,
    Site::Mix,
    Site::Middle,
    Site::FfnNorm,
    Site::Gate,
    Site::Up,
    Site::Activated,
    Site::Glu,
    Site::Output,
];

/// Adds one layer's errors over the first `tokens` tokens.
fn compare(
    errors: &mut [Errors],
    model: &QuantisedModel,
    layer: usize,
    float: &FloatTrace,
    fixed: &Trace,
    tokens: usize,
) {
    let (shape, c) = (&model.spec.shape, &model.spec.scales);
    let f = &model.factors[layer];
    // The model's channels, repeated where the circuit has copies.
    let copies = |values: &[f32]| -> Vec<f32> {
        let rows = values.chunks_exact(model.config.shape.ffn);
        rows.flat_map(|row| model.channels[layer].iter().map(|&c| row[c])).collect()
    };
    let (hd, group) = (shape.head_dim, shape.heads / shape.kv_heads);
    let (q, kv, padded) = (shape.heads * hd, shape.kv_heads * hd, model.spec.tokens);
    let unit = |bits: u32| f64::from(bits).exp2();
    let (stream, norm) = (unit(c.residual_frac), unit(c.rsqrt_bits - c.norm_shift));
    let pair = move |feature: usize, members: usize| feature / hd / members * (hd / 2) + feature % (hd / 2);
    let prob = unit(c.recip_bits - c.prob_shift);
    for e in errors {
        let site = e.site;
        let e = &mut e.layers[layer];
        // Rows of real tokens only; scores have a row per head and token.
        let mut add = |float: &[f32], fixed: &[i32], width: usize, unit: &dyn Fn(usize) -> f64| {
            e.add(&float[..tokens * width], &fixed[..tokens * width], width, unit);
        };
        match site {
            Site::AttnNorm => add(&float.norm1, &fixed.norm1.n.q, shape.hidden, &|_| norm),
            Site::Query => add(&float.query, &fixed.query.q, q, &|j| f.query[pair(j, group)]),
            Site::Key => add(&float.key, &fixed.key.q, kv, &|j| f.key[pair(j, 1)]),
            Site::Value => add(&float.value, &fixed.value.q, kv, &|j| f.value[j]),
            Site::QueryRotary => {
                add(&float.query_rotary, &fixed.query_rotary.q, q, &|j| f.query[pair(j, group)]);
            }
            Site::KeyRotary => add(&float.key_rotary, &fixed.key_rotary.q, kv, &|j| f.key[pair(j, 1)]),
            Site::Probability => {
                for h in 0..shape.heads {
                    let rows = h * padded * padded..(h * padded + tokens) * padded;
                    e.add(&float.prob[rows.clone()], &fixed.attention.prob.q[rows], padded, |_| prob);
                }
            }
            Site::Mix => add(&float.mix, &fixed.mix.q, q, &|j| f.mix[j / hd / group * hd + j % hd]),
            Site::Middle => add(&float.middle, &fixed.middle.q, shape.hidden, &|_| stream),
            Site::FfnNorm => add(&float.norm2, &fixed.norm2.n.q, shape.hidden, &|_| norm),
            Site::Gate => add(&copies(&float.gate), &fixed.gate.q, shape.ffn, &|_| unit(c.gate_frac)),
            Site::Up => add(&copies(&float.up), &fixed.up.q, shape.ffn, &|j| f.up[j]),
            Site::Activated => {
                add(&copies(&float.activated), &fixed.activated, shape.ffn, &|_| unit(c.activated_frac));
            }
            Site::Glu => add(&copies(&float.glu), &fixed.glu.q, shape.ffn, &|j| f.glu[j]),
            _ => add(&float.output, &fixed.output.q, shape.hidden, &|_| stream),
        }
    }
}

/// Running sums of a comparison.
#[derive(Clone, Default)]
struct Sums {
    errors: Vec<Errors>,
    room: Vec<SiteHeadroom>,
    float: Likelihood,
    fixed: Likelihood,
}

impl Sums {
    /// Runs both models on a window.
    fn add(&mut self, model: &Model, quantised: &QuantisedModel, ids: &[u32]) -> Result<(), EvalError> {
        let mut run = FloatRun::new(model, &quantised.pad(ids)?)?;
        let mut x = quantised.embed(ids)?;
        for layer in 0..model.blocks.len() {
            let fixed = quantised
                .run_block(layer, &x)
                .map_err(|source| EvalError::Range { part: Part::Layer(layer), source })?;
            compare(&mut self.errors, quantised, layer, &run.layer(layer)?, &fixed, ids.len());
            raise(&mut self.room, &quantised.spec.scales, &fixed);
            x = fixed.output.q;
        }
        let (d, vocab) = (model.config.shape.hidden, model.config.vocab);
        self.float.add(&run.logits()?[..ids.len() * vocab], ids);
        let head = quantised.head(&x[..ids.len() * d])?;
        let room = self.room.iter_mut().rev();
        for (site, values) in room.zip([&head.gained.q, &head.norm.n.q]) {
            site.raise(values);
        }
        let unit = f64::from(quantised.ends.logit_frac).exp2();
        let logits: Vec<f32> = head.logits.iter().map(|&l| (l as f64 / unit) as f32).collect();
        self.fixed.add(&logits, ids);
        Ok(())
    }
}

/// Runs both models on `ids`, cut into windows of `spec.tokens`, and compares every site, the perplexity and
/// the chosen tokens.
///
/// Each pass goes through all layers on its own values, so errors add up as they do in use. A window is a
/// text of its own, as a prompt is; the last one is padded, and left out when it has a single token. Windows
/// in which a value leaves its range are listed, and compared no further.
///
/// # Errors
/// Fewer than two tokens, models of different shapes, or a value that leaves its range in every window.
pub fn eval(model: &Model, quantised: &QuantisedModel, ids: &[u32]) -> Result<EvalReport, EvalError> {
    if model.config != quantised.config {
        return Err(EvalError::Mismatch { what: "their configuration" });
    }
    if ids.len() < 2 {
        return Err(EvalError::TooFewTokens { given: ids.len() });
    }
    let layers = model.blocks.len();
    let windows: Vec<&[u32]> = ids.chunks(quantised.spec.tokens).filter(|window| window.len() > 1).collect();
    let mut sums = Sums {
        errors: (SITES.into_iter().filter(|&site| occurs(site, &quantised.spec.scales)))
            .map(|site| Errors { site, layers: vec![Error::default(); layers] })
            .collect(),
        room: quantised.headroom.iter().map(|site| SiteHeadroom { largest: 0.0, ..site.clone() }).collect(),
        ..Sums::default()
    };
    let (mut overflows, mut overflow) = (vec![], None);
    for (index, window) in windows.iter().enumerate() {
        let mut more = sums.clone();
        match more.add(model, quantised, window) {
            Ok(()) => sums = more,
            Err(EvalError::Range { part, source }) => {
                overflows.push(Overflow { window: index, part, what: source.to_string() });
                overflow = overflow.or(Some(EvalError::Range { part, source }));
            }
            Err(error) => return Err(error),
        }
    }
    if let (true, Some(error)) = (overflows.len() == windows.len(), overflow) {
        return Err(error);
    }
    let Sums { errors, room, float, fixed } = sums;
    let same = float.choices.iter().zip(&fixed.choices).filter(|(a, b)| a == b).count();
    Ok(EvalReport {
        tokens: float.choices.len(),
        padded_tokens: quantised.spec.tokens,
        windows: windows.len(),
        overflows,
        weight_bits: quantised.spec.weight_bits,
        float_perplexity: float.perplexity(),
        fixed_perplexity: fixed.perplexity(),
        perplexity_change: fixed.perplexity() / float.perplexity() - 1.0,
        float_top1: float.top1(),
        fixed_top1: fixed.top1(),
        agreement: same as f64 / float.choices.len() as f64,
        sites: errors.iter().map(Errors::report).collect(),
        headroom: quantised.headroom.clone(),
        text_headroom: room,
        float_losses: float.losses,
        fixed_losses: fixed.losses,
    })
}
