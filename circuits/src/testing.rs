//! Small blocks for tests, benches and defaults: real shapes, random weights, scales that fit.

use std::{convert::Infallible, sync::Arc};

use crate::{
    block::BlockParams,
    bounds::residual_lo_bits,
    embedding::{EmbeddingParams, EmbeddingSpec, EmbeddingWeights},
    head::{HeadSpec, HeadWeights, layout::HeadParams},
    spec::{Activation, Biases, BlockSpec, BlockWeights, FeedForward, Matrix, Rope, Scales, Shape},
};

/// The scales of [`tiny_params`]: 8-bit activations, so that the tables are small.
pub fn tiny_scales() -> Scales {
    Scales {
        act_bits: 8,
        residual_lo_bits: 4,
        residual_frac: 6,
        limb_bits: 8,
        rsqrt_bits: 17,
        norm_eps: 1 << 8,
        norm_shift: 11,
        qk_shift: 6,
        v_shift: 6,
        rope: Some(Rope { bits: 6, base: 10000 }),
        score_shift: 6,
        exp_in_bits: 7,
        exp_frac: 3,
        exp_out_bits: 7,
        recip_bits: 18,
        prob_shift: 12,
        mix_shift: 6,
        attn_out_shift: 5,
        gate_shift: 6,
        gate_bits: 8,
        gate_frac: 5,
        activated_frac: 5,
        activation: Activation::Silu,
        feed_forward: FeedForward::Gated { up_shift: 6, glu_shift: 6 },
        ffn_out_shift: 5,
        bias: Biases::default(),
    }
}

/// 16-bit scales under which random weights of [`weights`] with bound 32767 and inputs of [`activations`] stay in
/// range at real shapes (hidden 64 to 4096); what benches use where no trained model is at hand.
pub fn wide_scales(hidden: usize) -> Scales {
    // Normalised features of about 2^11: 2^(38 - shift) / sqrt(hidden).
    let norm_shift = 27 - hidden.ilog2().div_ceil(2);
    Scales {
        act_bits: 16,
        residual_lo_bits: residual_lo_bits(hidden, 16, 15, 9),
        residual_frac: 12,
        limb_bits: 15,
        rsqrt_bits: 38,
        norm_eps: 1 << 17,
        norm_shift,
        qk_shift: 14,
        v_shift: 14,
        rope: Some(Rope { bits: 14, base: 10000 }),
        score_shift: 15,
        exp_in_bits: 15,
        exp_frac: 9,
        exp_out_bits: 15,
        recip_bits: 36,
        prob_shift: 22,
        mix_shift: 14,
        attn_out_shift: 14,
        gate_shift: 14,
        gate_bits: 16,
        gate_frac: 10,
        activated_frac: 10,
        activation: Activation::Silu,
        feed_forward: FeedForward::Gated { up_shift: 14, glu_shift: 14 },
        ffn_out_shift: 14,
        bias: Biases::default(),
    }
}

/// The smallest block that has every operation: 4 features, 2 heads over 1, 2 tokens.
pub fn tiny_params() -> BlockParams {
    params(Shape { hidden: 4, ffn: 3, heads: 2, kv_heads: 1, head_dim: 2 }, 2, 2, 9)
}

/// The operations of GPT-2 on scales that were Llama's: no rotary embedding, a plain GELU layer, biases everywhere.
pub fn like_gpt2(scales: Scales) -> Scales {
    let shift = Some(3);
    Scales {
        rope: None,
        activation: Activation::Gelu,
        feed_forward: FeedForward::Plain,
        bias: Biases { qk: shift, v: Some(2), o: Some(4), gate: shift, down: Some(1) },
        ..scales
    }
}

/// The operations of Qwen2 on scales that were Llama's: biases of queries, keys and values.
pub fn like_qwen2(scales: Scales) -> Scales {
    Scales { bias: Biases { qk: Some(3), v: Some(2), ..Biases::default() }, ..scales }
}

/// A test block of `shape` with [`tiny_scales`].
pub fn params(shape: Shape, tokens: usize, lanes: usize, k: u32) -> BlockParams {
    BlockParams { spec: BlockSpec { shape, scales: tiny_scales(), weight_bits: 8, tokens }, lanes, k }
}

/// The smallest embedding with everything: 7 tokens in two boundary columns, 40 ids in two table columns, learned
/// positions.
pub fn tiny_embedding() -> EmbeddingParams {
    let spec = EmbeddingSpec {
        hidden: 5,
        vocab: 40,
        tokens: 7,
        weight_bits: 8,
        stream_bits: 12,
        shift: 2,
        position_shift: Some(1),
        centred: false,
    };
    EmbeddingParams { spec, weight_lanes: 20, k: 5 }
}

/// Random weights of an embedding, entries up to `bound`.
pub fn embedding_weights(spec: &EmbeddingSpec, seed: u64, bound: i32) -> EmbeddingWeights {
    let mut rng = Generator(seed);
    EmbeddingWeights {
        matrix: matrix(&mut rng, spec.hidden, spec.vocab, bound),
        positions: spec.position_shift.map(|_| matrix(&mut rng, spec.tokens, spec.hidden, bound)),
    }
}

/// The smallest head with everything: 3 positions of 6 tokens, 17 ids, 3 to a row.
pub fn tiny_head() -> HeadParams {
    HeadParams { k: 7, ..head_params(4, 17, 6, 3, 3, 7) }
}

/// A test head with the norm of [`tiny_scales`].
pub fn head_params(
    hidden: usize,
    vocab: usize,
    tokens: usize,
    positions: usize,
    chunks: usize,
    weight_lanes: usize,
) -> HeadParams {
    let shape = Shape { hidden, ffn: 1, heads: 1, kv_heads: 1, head_dim: 2 };
    let norm = params(shape, tokens, 1, 9).spec.norm();
    let spec = HeadSpec {
        norm,
        gain_shift: 4,
        gain_bias: None,
        vocab,
        tokens,
        positions,
        weight_bits: 8,
        open_logits: None,
    };
    HeadParams { spec, chunks, weight_lanes, k: 9 }
}

/// Random weights of a head: entries up to `bound`; the gain matrix lengthens no vector more than twofold.
pub fn head_weights(spec: &HeadSpec, seed: u64, bound: i32) -> HeadWeights {
    let mut rng = Generator(seed);
    let matrix = matrix(&mut rng, spec.norm.hidden, spec.vocab, bound);
    let d = spec.norm.hidden;
    let rows = spec.gain_features();
    let gain = (0..rows * d).map(|_| rng.signed((2 << spec.gain_shift) / d as i32) as i16).collect();
    HeadWeights { gain: Matrix { rows, cols: d, data: Arc::new(gain) }, matrix }
}

/// A small deterministic generator (splitmix64); not for secrets.
#[derive(Clone, Debug)]
pub struct Generator(pub u64);

impl Generator {
    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `[-bound, bound]`.
    pub fn signed(&mut self, bound: i32) -> i32 {
        (self.next_u64() % (2 * bound as u64 + 1)) as i32 - bound
    }
}

fn matrix(rng: &mut Generator, rows: usize, cols: usize, bound: i32) -> Matrix {
    let data = (0..rows * cols).map(|_| rng.signed(bound) as i16).collect();
    Matrix { rows, cols, data: Arc::new(data) }
}

/// Random weights whose products keep every site in range on the inputs of [`activations`].
///
/// `bound` limits a weight; each matrix is scaled down by the square root of its inputs.
pub fn weights(spec: &BlockSpec, seed: u64, bound: i32) -> BlockWeights {
    let mut rng = Generator(seed);
    let made = BlockWeights::build(spec, |_, rows, cols| {
        let limit = (f64::from(bound) / (rows as f64).sqrt()).ceil() as i32;
        Ok::<_, Infallible>(matrix(&mut rng, rows, cols, limit))
    });
    let Ok(weights) = made;
    weights
}

/// Random activations of about a quarter of the stream's range.
pub fn activations(spec: &BlockSpec, seed: u64) -> Vec<i32> {
    let bits = spec.scales.act_bits + spec.scales.residual_lo_bits;
    let mut rng = Generator(seed);
    (0..spec.tokens * spec.shape.hidden).map(|_| rng.signed(1 << (bits - 3))).collect()
}
