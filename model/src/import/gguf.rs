//! The GGUF container, versions 2 and 3, little-endian.
//!
//! The header is read here, with caps; candle expands the quantised blocks. The llama architecture stores
//! the rows of Q and K for adjacent rotary pairs, and [`super::build`] reorders them; qwen2 stores half-split pairs.

use std::collections::HashMap;

use candle_core::{
    Device,
    quantized::{GgmlDType, ggml_file::qtensor_from_ggml},
};
use half::{bf16, f16};
use lamina_circuits::spec::Shape;
use serde_json::{Value as Json, json};

use super::{Role, Tensors};
use crate::{
    config::{Config, Family, MAX_VOCAB, Norm, rope_base},
    error::ImportError,
};

/// First bytes of a GGUF file.
pub(super) const MAGIC: &[u8] = b"GGUF";
/// Most metadata entries.
const MAX_ENTRIES: u64 = 4096;
/// Most tensors.
const MAX_TENSORS: u64 = 16_384;
/// Longest array in the metadata.
const MAX_ARRAY: u64 = 4 * MAX_VOCAB as u64;
/// Longest string (a chat template).
const MAX_STRING: u64 = 1 << 20;
/// Longest key or tensor name, as the format says.
const MAX_NAME: u64 = (1 << 16) - 1;

/// Metadata keys of an architecture.
struct Keys {
    hidden: &'static str,
    ffn: &'static str,
    layers: &'static str,
    context: &'static str,
    heads: &'static str,
    kv_heads: &'static str,
    key_length: &'static str,
    eps: &'static str,
    rope_base: &'static str,
    rope_width: &'static str,
    rope_scaling: &'static str,
    experts: &'static str,
}

/// The keys that begin with the name of an architecture.
macro_rules! keys {
    ($name:literal) => {
        Keys {
            hidden: concat!($name, ".embedding_length"),
            ffn: concat!($name, ".feed_forward_length"),
            layers: concat!($name, ".block_count"),
            context: concat!($name, ".context_length"),
            heads: concat!($name, ".attention.head_count"),
            kv_heads: concat!($name, ".attention.head_count_kv"),
            key_length: concat!($name, ".attention.key_length"),
            eps: concat!($name, ".attention.layer_norm_rms_epsilon"),
            rope_base: concat!($name, ".rope.freq_base"),
            rope_width: concat!($name, ".rope.dimension_count"),
            rope_scaling: concat!($name, ".rope.scaling.type"),
            experts: concat!($name, ".expert_count"),
        }
    };
}

const LLAMA: Keys = keys!("llama");
const QWEN2: Keys = keys!("qwen2");

/// A metadata value; strings borrow from the file.
enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool,
    Text(&'a str),
    Texts(Vec<&'a str>),
    Integers(Vec<i64>),
    /// An array that nothing here reads.
    Skipped,
}

/// Where a tensor lies.
struct Entry<'a> {
    /// Row-major, outermost first (the file has innermost first).
    shape: Vec<usize>,
    dtype: GgmlDType,
    data: &'a [u8],
}

/// A parsed file.
pub(super) struct Gguf<'a> {
    metadata: HashMap<&'a str, Value<'a>>,
    tensors: HashMap<&'a str, Entry<'a>>,
}

/// A reader that never runs past the bytes.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

fn malformed(what: impl Into<String>, expected: &'static str, found: impl ToString) -> ImportError {
    ImportError::Malformed { what: what.into(), expected, found: found.to_string() }
}

fn capped(what: &str, actual: u64, limit: u64) -> Result<usize, ImportError> {
    if actual > limit {
        return Err(ImportError::TooLarge { what: what.to_owned(), actual, limit });
    }
    Ok(actual as usize)
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], ImportError> {
        let left = &self.bytes[self.at..];
        let Some(taken) = left.get(..count) else {
            return Err(ImportError::Truncated {
                what: what.to_owned(),
                needed: count as u64,
                available: left.len() as u64,
            });
        };
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ImportError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32, ImportError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, ImportError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn text(&mut self, what: &str) -> Result<&'a str, ImportError> {
        self.text_of(what, MAX_STRING)
    }

    fn name(&mut self, what: &str) -> Result<&'a str, ImportError> {
        self.text_of(what, MAX_NAME)
    }

    fn text_of(&mut self, what: &str, limit: u64) -> Result<&'a str, ImportError> {
        let actual = self.u64(what)?;
        // The message is put together on failure only: arrays have millions of strings, and keys are long.
        if actual > limit {
            return Err(ImportError::TooLarge { what: format!("length of {what}"), actual, limit });
        }
        let length = actual as usize;
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|error| malformed(what, "UTF-8", error))
    }

    /// A value of a scalar type.
    fn scalar(&mut self, kind: u32, what: &str) -> Result<Value<'a>, ImportError> {
        Ok(match kind {
            0 => Value::Unsigned(u8::from_le_bytes(self.array(what)?).into()),
            1 => Value::Signed(i8::from_le_bytes(self.array(what)?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array(what)?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array(what)?).into()),
            4 => Value::Unsigned(self.u32(what)?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.array(what)?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array(what)?).into()),
            7 => match self.array::<1>(what)? {
                [0 | 1] => Value::Bool,
                [other] => return Err(malformed(what, "a boolean 0 or 1", other)),
            },
            8 => Value::Text(self.text(what)?),
            10 => Value::Unsigned(self.u64(what)?),
            11 => Value::Signed(i64::from_le_bytes(self.array(what)?)),
            12 => Value::Float(f64::from_le_bytes(self.array(what)?)),
            other => return Err(malformed(what, "a value type from 0 to 12", other)),
        })
    }

    fn value(&mut self, what: &str) -> Result<Value<'a>, ImportError> {
        let kind = self.u32(what)?;
        if kind != 9 {
            return self.scalar(kind, what);
        }
        let kind = self.u32(what)?;
        if kind == 9 {
            return Err(malformed(what, "an array of scalars or strings", "an array of arrays"));
        }
        let count = self.u64(what)?;
        let count = capped(&format!("array {what}"), count, MAX_ARRAY)?;
        // Each element takes at least a byte, a string at least its 8-byte length: check before reserving.
        let least = count * if kind == 8 { 8 } else { 1 };
        if least > self.bytes.len() - self.at {
            let available = (self.bytes.len() - self.at) as u64;
            return Err(ImportError::Truncated { what: what.to_owned(), needed: least as u64, available });
        }
        match kind {
            8 => (0..count).map(|_| self.text(what)).collect::<Result<_, _>>().map(Value::Texts),
            0..=5 | 10 | 11 => {
                let mut out = Vec::with_capacity(count);
                for _ in 0..count {
                    out.push(match self.scalar(kind, what)? {
                        Value::Unsigned(v) => v as i64,
                        Value::Signed(v) => v,
                        _ => 0,
                    });
                }
                Ok(Value::Integers(out))
            }
            _ => {
                for _ in 0..count {
                    self.scalar(kind, what)?;
                }
                Ok(Value::Skipped)
            }
        }
    }
}

/// The types that are read, by their number in the format.
fn dtype(code: u32, name: &str) -> Result<GgmlDType, ImportError> {
    Ok(match code {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        8 => GgmlDType::Q8_0,
        12 => GgmlDType::Q4K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        other => {
            return Err(ImportError::TensorType { name: name.to_owned(), actual: format!("number {other}") });
        }
    })
}

impl<'a> Gguf<'a> {
    /// Parses header, metadata and the tensor directory.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, ImportError> {
        let mut cursor = Cursor { bytes, at: 0 };
        if cursor.take(4, "magic")? != MAGIC {
            return Err(malformed("magic", "`GGUF`", "other bytes"));
        }
        let version = cursor.u32("version")?;
        if !(2..=3).contains(&version) {
            return Err(malformed("version", "2 or 3", version));
        }
        let tensor_count = cursor.u64("tensor count")?;
        let tensor_count = capped("tensor count", tensor_count, MAX_TENSORS)?;
        let entry_count = cursor.u64("metadata count")?;
        let entry_count = capped("metadata count", entry_count, MAX_ENTRIES)?;

        let mut metadata = HashMap::new();
        for _ in 0..entry_count {
            let key = cursor.name("metadata key")?;
            let value = cursor.value(key)?;
            if metadata.insert(key, value).is_some() {
                return Err(malformed("metadata", "each key once", format!("`{key}` twice")));
            }
        }
        let mut directory = Vec::with_capacity(tensor_count.min(bytes.len() / 24));
        for _ in 0..tensor_count {
            let name = cursor.name("tensor name")?;
            let rank = cursor.u32(name)?;
            if !(1..=4).contains(&rank) {
                return Err(malformed(name, "1 to 4 dimensions", rank));
            }
            let mut shape = Vec::with_capacity(4);
            let mut elements = 1u64;
            for _ in 0..rank {
                let dim = cursor.u64(name)?;
                elements = elements.saturating_mul(dim);
                shape.push(capped(name, dim, 1 << 32)?);
            }
            shape.reverse();
            let dtype = dtype(cursor.u32(name)?, name)?;
            directory.push((name, shape, elements, dtype, cursor.u64(name)?));
        }

        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(Value::Unsigned(n)) if n.is_power_of_two() && *n <= 1 << 16 => *n as usize,
            Some(_) => {
                return Err(malformed("general.alignment", "a power of two up to 65536", "another value"));
            }
        };
        let data = bytes.get(cursor.at.next_multiple_of(alignment)..).unwrap_or(&[]);
        let mut tensors = HashMap::with_capacity(directory.len());
        let mut total = 0u64;
        for (name, shape, elements, dtype, offset) in directory {
            let block = dtype.block_size() as u64;
            let whole = |count: u64| count.is_multiple_of(block);
            if !whole(elements) || !shape.last().is_some_and(|&row| whole(row as u64)) {
                return Err(malformed(name, "rows of whole quantisation blocks", format!("shape {shape:?}")));
            }
            let size = (elements / block).saturating_mul(dtype.type_size() as u64);
            // Tensors that share bytes would let a small file expand without bound.
            total = total.saturating_add(size);
            let available = (data.len() as u64).saturating_sub(offset);
            if size > available || total > data.len() as u64 {
                return Err(ImportError::Truncated { what: name.to_owned(), needed: size, available });
            }
            // Nothing is what an empty tensor has, wherever it says that it lies.
            let from = usize::try_from(offset).ok().filter(|_| size > 0).unwrap_or(0);
            let data = &data[from..][..size as usize];
            if tensors.insert(name, Entry { shape, dtype, data }).is_some() {
                return Err(malformed("tensor directory", "each name once", format!("`{name}` twice")));
            }
        }
        Ok(Gguf { metadata, tensors })
    }

    fn count(&self, key: &'static str) -> Result<usize, ImportError> {
        match self.metadata.get(key) {
            Some(Value::Unsigned(n)) => Ok(*n as usize),
            Some(Value::Signed(n)) if *n >= 0 => Ok(*n as usize),
            Some(_) => Err(malformed(key, "a count", "another type (per-layer values are not supported)")),
            None => Err(ImportError::MissingField { field: key }),
        }
    }

    fn optional_count(&self, key: &'static str) -> Result<Option<usize>, ImportError> {
        if self.metadata.contains_key(key) { self.count(key).map(Some) } else { Ok(None) }
    }

    fn float(&self, key: &'static str) -> Option<f64> {
        match self.metadata.get(key) {
            // The nearest f32 of 1e-5 means 1e-5: read the decimal that the writer meant.
            Some(Value::Float(v)) => (*v as f32).to_string().parse().ok(),
            Some(Value::Unsigned(v)) => Some(*v as f64),
            _ => None,
        }
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        match self.metadata.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn id(&self, key: &'static str) -> Result<Option<u32>, ImportError> {
        Ok(self.optional_count(key)?.and_then(|id| u32::try_from(id).ok()))
    }

    /// The hyperparameters in the metadata.
    pub(super) fn config(&self) -> Result<Config, ImportError> {
        let (family, keys) = match self.text("general.architecture") {
            Some("llama") => (Family::Llama, &LLAMA),
            Some("qwen2") => (Family::Qwen2, &QWEN2),
            other => return Err(ImportError::Architecture { found: other.unwrap_or("(none)").to_owned() }),
        };
        if let Some(kind) = self.text(keys.rope_scaling).filter(|kind| *kind != "none") {
            return Err(ImportError::Unsupported {
                feature: keys.rope_scaling,
                found: kind.to_owned(),
                hint: "only unscaled rotary angles can be proved",
            });
        }
        if let Some(experts) = self.optional_count(keys.experts)?.filter(|experts| *experts > 0) {
            return Err(ImportError::Unsupported {
                feature: keys.experts,
                found: experts.to_string(),
                hint: "only dense feed-forward layers can be proved",
            });
        }
        let hidden = self.count(keys.hidden)?;
        let heads = self.count(keys.heads)?;
        let kv_heads = self.optional_count(keys.kv_heads)?.unwrap_or(heads);
        let key_length = self.optional_count(keys.key_length)?;
        let head_dim = key_length.unwrap_or(hidden / heads.max(1));
        let rotary = self.optional_count(keys.rope_width)?.unwrap_or(head_dim);
        if rotary != head_dim {
            return Err(ImportError::Config {
                field: keys.rope_width,
                expected: format!("the head's {head_dim} features"),
                actual: rotary.to_string(),
            });
        }
        let Some(embedding) = self.tensors.get("token_embd.weight") else {
            return Err(ImportError::MissingTensor { name: "token_embd.weight".to_owned() });
        };
        let config = Config {
            family,
            norm: Norm::Rms,
            shape: Shape { hidden, ffn: self.count(keys.ffn)?, heads, kv_heads, head_dim },
            layers: self.count(keys.layers)?,
            vocab: embedding.shape[0],
            context: self.count(keys.context)?,
            norm_eps: self.float(keys.eps).ok_or(ImportError::MissingField { field: keys.eps })?,
            rope_base: Some(rope_base(self.float(keys.rope_base).unwrap_or(10_000.0))?),
            tied: !self.tensors.contains_key("output.weight"),
            pad_id: self.id("tokenizer.ggml.padding_token_id")?.unwrap_or(0),
            bos_id: self.id("tokenizer.ggml.bos_token_id")?,
            eos_id: self.id("tokenizer.ggml.eos_token_id")?,
        };
        config.check()?;
        Ok(config)
    }

    /// The tokenizer in the metadata, as a `tokenizer.json`; none when the file has none.
    pub(super) fn tokenizer_json(&self) -> Result<Option<Vec<u8>>, ImportError> {
        const HINT: &str = "put the model's tokenizer.json beside the file";
        let Some(model) = self.text("tokenizer.ggml.model") else { return Ok(None) };
        let unsupported = |feature, found: &str| {
            Err(ImportError::Unsupported { feature, found: found.to_owned(), hint: HINT })
        };
        if model != "gpt2" {
            return unsupported("tokenizer.ggml.model", model);
        }
        let byte_level = |use_regex| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        let before = match self.text("tokenizer.ggml.pre").unwrap_or("gpt-2") {
            "gpt-2" | "default" => vec![byte_level(true)],
            "smollm" => vec![json!({"type": "Digits", "individual_digits": true}), byte_level(true)],
            "llama-bpe" | "llama3" => {
                let words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}";
                let rest = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
                let pattern = json!({"Regex": format!("{words}{rest}")});
                let split =
                    json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false});
                vec![split, byte_level(false)]
            }
            other => return unsupported("tokenizer.ggml.pre", other),
        };
        let texts = |key: &'static str| match self.metadata.get(key) {
            Some(Value::Texts(texts)) => Ok(texts),
            Some(_) => Err(malformed(key, "an array of strings", "another type")),
            None => Err(ImportError::MissingField { field: key }),
        };
        let tokens = texts("tokenizer.ggml.tokens")?;
        capped("tokenizer.ggml.tokens", tokens.len() as u64, MAX_VOCAB as u64)?;
        let kinds = match self.metadata.get("tokenizer.ggml.token_type") {
            Some(Value::Integers(kinds)) => kinds.as_slice(),
            _ => &[],
        };
        let merges = texts("tokenizer.ggml.merges")?;
        let mut pairs = Vec::with_capacity(merges.len());
        for merge in merges {
            let Some((left, right)) = merge.split_once(' ') else {
                return Err(malformed("tokenizer.ggml.merges", "two pieces and a space", merge));
            };
            pairs.push(json!([left, right]));
        }
        // Token types of the format: 3 is a control token, 4 one that the user defined.
        let added: Vec<Json> = (0..tokens.len())
            .filter(|&id| matches!(kinds.get(id), Some(3 | 4)))
            .map(|id| {
                json!({
                    "id": id, "content": tokens[id], "special": kinds[id] == 3, "normalized": false,
                    "single_word": false, "lstrip": false, "rstrip": false,
                })
            })
            .collect();
        let vocab: serde_json::Map<String, Json> =
            tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect();
        let tokenizer = json!({
            "version": "1.0",
            "added_tokens": added,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": before},
            "decoder": byte_level(true),
            "model": {"type": "BPE", "vocab": vocab, "merges": pairs, "fuse_unk": false, "byte_fallback": false},
        });
        serde_json::to_vec(&tokenizer)
            .map(Some)
            .map_err(|source| ImportError::Json { file: "tokenizer metadata", source })
    }
}

impl Tensors for Gguf<'_> {
    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ImportError> {
        let Some(entry) = self.tensors.get(name) else {
            return Err(ImportError::MissingTensor { name: name.to_owned() });
        };
        if entry.shape != shape {
            return Err(ImportError::TensorShape {
                name: name.to_owned(),
                expected: shape.to_vec(),
                actual: entry.shape.clone(),
            });
        }
        let two = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
        let data = entry.data;
        Ok(match entry.dtype {
            GgmlDType::F32 => {
                data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            GgmlDType::F16 => data.chunks_exact(2).map(|b| f16::from_bits(two(b)).to_f32()).collect(),
            GgmlDType::BF16 => data.chunks_exact(2).map(|b| bf16::from_bits(two(b)).to_f32()).collect(),
            quantised => {
                // candle reads the blocks in place: give it bytes at the start of an allocation.
                let aligned = data.to_vec();
                qtensor_from_ggml(quantised, &aligned, entry.shape.clone(), &Device::Cpu)
                    .and_then(|tensor| tensor.dequantize(&Device::Cpu))
                    .and_then(|tensor| tensor.flatten_all())
                    .and_then(|tensor| tensor.to_vec1())
                    .map_err(|source| ImportError::Dequantise { name: name.to_owned(), source })?
            }
        })
    }

    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.tensors.keys().copied().collect();
        names.sort_unstable();
        names
    }
}

/// GGUF's names.
pub(super) fn name(role: Role) -> String {
    let (layer, part) = match role {
        Role::Embedding => return "token_embd.weight".to_owned(),
        Role::FinalNorm => return "output_norm.weight".to_owned(),
        Role::Head => return "output.weight".to_owned(),
        Role::AttnNorm(i) => (i, "attn_norm"),
        Role::Q(i) => (i, "attn_q"),
        Role::K(i) => (i, "attn_k"),
        Role::V(i) => (i, "attn_v"),
        Role::O(i) => (i, "attn_output"),
        Role::FfnNorm(i) => (i, "ffn_norm"),
        Role::Gate(i) => (i, "ffn_gate"),
        Role::Up(i) => (i, "ffn_up"),
        Role::Down(i) => (i, "ffn_down"),
    };
    format!("blk.{layer}.{part}.weight")
}
