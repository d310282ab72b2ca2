//! Hugging Face's tensors of a GPT-2: matrices stand `[inputs, outputs]`, queries, keys and values in one.

use std::sync::Arc;

use super::{Reader, Tensors};
use crate::{
    config::Config,
    error::ImportError,
    model::{Affine, FloatBlock, Gain, Linear, Model},
    tokenizer::TextTokenizer,
};

/// Columns `from..from + outputs` of `[inputs, width]` as rows.
fn transposed(data: &[f32], width: usize, from: usize, outputs: usize) -> Vec<f32> {
    let column = |j: usize| data[from + j..].iter().step_by(width).copied();
    (0..outputs).flat_map(column).collect()
}

/// Reads tensors by the names that follow a prefix.
struct Parts<'a> {
    reader: Reader<'a>,
    prefix: &'static str,
}

impl Parts<'_> {
    fn read(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ImportError> {
        self.reader.read(format!("{}{name}", self.prefix), shape)
    }

    /// `[outputs, inputs]` as it stands.
    fn rows(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Linear, ImportError> {
        let data = Arc::new(self.read(name, &[outputs, inputs])?);
        Ok(Linear { outputs, inputs, data, bias: None })
    }

    fn norm(&mut self, name: &str, hidden: usize) -> Result<Affine, ImportError> {
        let gain = self.read(&format!("{name}.weight"), &[hidden])?;
        let bias = self.read(&format!("{name}.bias"), &[hidden])?;
        Ok(Affine { gain, bias: Some(bias) })
    }

    /// `N` projections of `outputs` each that stand side by side in one matrix.
    fn linear<const N: usize>(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<[Linear; N], ImportError> {
        let width = N * outputs;
        let data = self.read(&format!("{name}.weight"), &[inputs, width])?;
        let bias = self.read(&format!("{name}.bias"), &[width])?;
        Ok(std::array::from_fn(|part| {
            let from = part * outputs;
            let data = Arc::new(transposed(&data, width, from, outputs));
            Linear { outputs, inputs, data, bias: Some(bias[from..from + outputs].to_vec()) }
        }))
    }
}

/// Reads every tensor of a GPT-2; refuses tensors that it would have to ignore.
///
/// Names may begin with `transformer.`, as those of a model with a head do.
pub(super) fn build(
    config: Config,
    tensors: &dyn Tensors,
    tokenizer: Option<TextTokenizer>,
) -> Result<Model, ImportError> {
    let (hidden, ffn) = (config.shape.hidden, config.shape.ffn);
    let prefix = if tensors.names().contains(&"transformer.wte.weight") { "transformer." } else { "" };
    let mut parts = Parts { reader: Reader::new(tensors), prefix };
    let embedding = parts.rows("wte.weight", config.vocab, hidden)?;
    let positions = parts.rows("wpe.weight", config.context, hidden)?;
    let head = match config.tied {
        true => embedding.clone(),
        false => {
            let data = parts.reader.read("lm_head.weight".to_owned(), &[config.vocab, hidden])?;
            Linear { data: Arc::new(data), ..embedding.clone() }
        }
    };
    let mut blocks = Vec::with_capacity(config.layers);
    for i in 0..config.layers {
        let [q, k, v] = parts.linear(&format!("h.{i}.attn.c_attn"), hidden, hidden)?;
        let [o] = parts.linear(&format!("h.{i}.attn.c_proj"), hidden, hidden)?;
        let [gate] = parts.linear(&format!("h.{i}.mlp.c_fc"), hidden, ffn)?;
        let [down] = parts.linear(&format!("h.{i}.mlp.c_proj"), ffn, hidden)?;
        let attn_norm = parts.norm(&format!("h.{i}.ln_1"), hidden)?;
        let ffn_norm = parts.norm(&format!("h.{i}.ln_2"), hidden)?;
        blocks.push(FloatBlock { attn_norm, q, k, v, o, ffn_norm, gate, up: None, down });
    }
    let last = parts.norm("ln_f", hidden)?;
    // Causal masks follow from the context; a tied head repeats the embedding.
    let mask = |name: &str| name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias");
    parts.reader.finish(|name| mask(name) || (config.tied && name == "lm_head.weight"))?;
    Ok(Model {
        config,
        embedding,
        positions: Some(positions),
        blocks,
        final_norm: Gain::Features(last.gain),
        final_bias: last.bias,
        head,
        tokenizer,
    })
}
