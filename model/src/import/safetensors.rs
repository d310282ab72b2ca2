//! The safetensors container: header checked by the `safetensors` crate, values expanded here.

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use super::{Role, Tensors};
use crate::error::ImportError;

/// A parsed file.
pub(super) struct Safetensors<'a>(SafeTensors<'a>);

impl<'a> Safetensors<'a> {
    /// Parses the header; the crate checks that the tensors tile the data exactly.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, ImportError> {
        let tensors =
            SafeTensors::deserialize(bytes).map_err(|source| ImportError::Safetensors { source })?;
        Ok(Safetensors(tensors))
    }
}

impl Tensors for Safetensors<'_> {
    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ImportError> {
        let view = self.0.tensor(name).map_err(|_| ImportError::MissingTensor { name: name.to_owned() })?;
        if view.shape() != shape {
            return Err(ImportError::TensorShape {
                name: name.to_owned(),
                expected: shape.to_vec(),
                actual: view.shape().to_vec(),
            });
        }
        let data = view.data();
        let wide = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let two = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
        Ok(match view.dtype() {
            Dtype::F32 => data.chunks_exact(4).map(wide).collect(),
            Dtype::F16 => data.chunks_exact(2).map(|b| f16::from_bits(two(b)).to_f32()).collect(),
            Dtype::BF16 => data.chunks_exact(2).map(|b| bf16::from_bits(two(b)).to_f32()).collect(),
            other => {
                return Err(ImportError::TensorType { name: name.to_owned(), actual: format!("{other:?}") });
            }
        })
    }

    fn names(&self) -> Vec<&str> {
        self.0.names()
    }
}

/// Hugging Face's names.
pub(super) fn name(role: Role) -> String {
    let (layer, part) = match role {
        Role::Embedding => return "model.embed_tokens.weight".to_owned(),
        Role::FinalNorm => return "model.norm.weight".to_owned(),
        Role::Head => return "lm_head.weight".to_owned(),
        Role::AttnNorm(i) => (i, "input_layernorm"),
        Role::Q(i) => (i, "self_attn.q_proj"),
        Role::K(i) => (i, "self_attn.k_proj"),
        Role::V(i) => (i, "self_attn.v_proj"),
        Role::O(i) => (i, "self_attn.o_proj"),
        Role::FfnNorm(i) => (i, "post_attention_layernorm"),
        Role::Gate(i) => (i, "mlp.gate_proj"),
        Role::Up(i) => (i, "mlp.up_proj"),
        Role::Down(i) => (i, "mlp.down_proj"),
    };
    format!("model.layers.{layer}.{part}.weight")
}
