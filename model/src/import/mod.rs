//! Model files to [`Model`]: safetensors with `config.json` and `tokenizer.json`, or one GGUF file.
//!
//! Model files are hostile input. Sizes, shapes, strings and counts are checked against caps and against
//! the bytes that are really there before anything is allocated from them.

mod gguf;
mod gpt2;
mod safetensors;

use std::{
    collections::HashSet,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    config::{Config, Family},
    error::ImportError,
    model::{Affine, FloatBlock, Gain, Linear, Model},
    tokenizer::TextTokenizer,
};

/// Largest weights file that is read.
pub const MAX_FILE_BYTES: u64 = 16 << 30;
/// Largest `config.json` or `tokenizer.json` that is read.
pub const MAX_JSON_BYTES: u64 = 64 << 20;

/// The tensors of a file, by the file's own names.
trait Tensors {
    /// Reads a tensor as `f32`, row-major.
    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ImportError>;
    /// Every name in the file.
    fn names(&self) -> Vec<&str>;
}

/// Role of a tensor in a Llama or a Qwen2.
#[derive(Clone, Copy)]
enum Role {
    Embedding,
    FinalNorm,
    Head,
    AttnNorm(usize),
    Q(usize),
    K(usize),
    V(usize),
    O(usize),
    FfnNorm(usize),
    Gate(usize),
    Up(usize),
    Down(usize),
}

/// Imports a model from a directory (`config.json`, `model.safetensors`, `tokenizer.json`), from one such
/// `.safetensors` file among its companions, or from a `.gguf` file.
///
/// A `tokenizer.json` beside a GGUF file takes precedence over the tokenizer in its metadata.
///
/// # Errors
/// [`ImportError`] names the file, field or tensor, what was expected and what was found.
pub fn import(path: impl AsRef<Path>) -> Result<Model, ImportError> {
    let path = path.as_ref();
    let no_model = || ImportError::NoModel { path: path.to_owned() };
    let weights = if path.is_dir() { weights_in(path)?.ok_or_else(no_model)? } else { path.to_owned() };
    let beside = |name: &str| weights.with_file_name(name);
    let tokenizer = Some(beside("tokenizer.json")).filter(|file| file.is_file());
    let tokenizer = tokenizer.map(|file| read_capped(&file, MAX_JSON_BYTES)).transpose()?;
    let bytes = read_capped(&weights, MAX_FILE_BYTES)?;
    if bytes.starts_with(gguf::MAGIC) {
        return from_gguf_bytes(&bytes, tokenizer.as_deref());
    }
    if weights.extension().is_none_or(|extension| extension != "safetensors") {
        return Err(no_model());
    }
    let config = read_capped(&beside("config.json"), MAX_JSON_BYTES)?;
    from_safetensors_bytes(&config, &bytes, tokenizer.as_deref())
}

/// Imports a model from the bytes of its `config.json`, `model.safetensors` and `tokenizer.json`.
///
/// # Errors
/// As [`import`].
pub fn from_safetensors_bytes(
    config: &[u8],
    weights: &[u8],
    tokenizer: Option<&[u8]>,
) -> Result<Model, ImportError> {
    let config = Config::from_json(config)?;
    let tensors = safetensors::Safetensors::parse(weights)?;
    let tokenizer = tokenizer.map(|bytes| TextTokenizer::from_json(bytes, config.vocab)).transpose()?;
    match config.family {
        Family::Llama | Family::Qwen2 => build(config, &tensors, safetensors::name, false, tokenizer),
        Family::Gpt2 => gpt2::build(config, &tensors, tokenizer),
    }
}

/// Imports a model from the bytes of a GGUF file; `tokenizer` is a `tokenizer.json` to prefer over the
/// file's own metadata.
///
/// # Errors
/// As [`import`].
pub fn from_gguf_bytes(bytes: &[u8], tokenizer: Option<&[u8]>) -> Result<Model, ImportError> {
    let file = gguf::Gguf::parse(bytes)?;
    let config = file.config()?;
    let json;
    let tokenizer = match tokenizer {
        Some(bytes) => Some(bytes),
        None => {
            json = file.tokenizer_json()?;
            json.as_deref()
        }
    };
    let tokenizer = tokenizer.map(|bytes| TextTokenizer::from_json(bytes, config.vocab)).transpose()?;
    // Files of the llama architecture have adjacent rotary pairs, those of qwen2 half-split ones.
    let interleaved = config.family == Family::Llama;
    build(config, &file, gguf::name, interleaved, tokenizer)
}

/// The weights file of a directory: `model.safetensors`, else its only `.gguf`.
fn weights_in(directory: &Path) -> Result<Option<PathBuf>, ImportError> {
    let safetensors = directory.join("model.safetensors");
    if safetensors.is_file() {
        return Ok(Some(safetensors));
    }
    let io = |source| ImportError::Io { path: directory.to_owned(), source };
    let mut found = None;
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "gguf") && found.replace(path).is_some() {
            return Ok(None);
        }
    }
    Ok(found)
}

/// Reads a file of at most `limit` bytes, also when it grows while it is read.
fn read_capped(path: &Path, limit: u64) -> Result<Vec<u8>, ImportError> {
    let io = |source| ImportError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let actual = file.metadata().map_err(io)?.len();
    let too_large = |actual| ImportError::TooLarge { what: path.display().to_string(), actual, limit };
    if actual > limit {
        return Err(too_large(actual));
    }
    let mut bytes = Vec::with_capacity(actual as usize);
    file.take(limit + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limit { Err(too_large(bytes.len() as u64)) } else { Ok(bytes) }
}

/// Rows of each head from adjacent rotary pairs `(2i, 2i+1)` to half-split pairs `(i, i + head_dim/2)`.
fn half_split(data: Vec<f32>, head_dim: usize, inputs: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(data.len());
    for head in data.chunks_exact(head_dim * inputs) {
        for parity in 0..2 {
            for pair in 0..head_dim / 2 {
                out.extend_from_slice(&head[(2 * pair + parity) * inputs..][..inputs]);
            }
        }
    }
    out
}

/// Reads tensors, and remembers which.
struct Reader<'a> {
    tensors: &'a dyn Tensors,
    used: HashSet<String>,
}

impl<'a> Reader<'a> {
    fn new(tensors: &'a dyn Tensors) -> Self {
        Reader { tensors, used: HashSet::new() }
    }

    /// A tensor of finite values.
    fn read(&mut self, name: String, shape: &[usize]) -> Result<Vec<f32>, ImportError> {
        let data = self.tensors.read(&name, shape)?;
        if let Some(index) = data.iter().position(|value| !value.is_finite()) {
            return Err(ImportError::NotFinite { value: data[index], name, index });
        }
        self.used.insert(name);
        Ok(data)
    }

    /// Refuses tensors that were not read, but for `harmless` ones.
    fn finish(self, harmless: impl Fn(&str) -> bool) -> Result<(), ImportError> {
        let unread = |name: &&str| !self.used.contains(*name) && !harmless(name);
        match self.tensors.names().into_iter().find(unread) {
            Some(name) => Err(ImportError::UnknownTensor { name: name.to_owned() }),
            None => Ok(()),
        }
    }
}

/// Reads every tensor of a Llama or a Qwen2; refuses tensors that it would have to ignore.
fn build(
    config: Config,
    tensors: &dyn Tensors,
    name: fn(Role) -> String,
    interleaved: bool,
    tokenizer: Option<TextTokenizer>,
) -> Result<Model, ImportError> {
    let shape = &config.shape;
    let (hidden, ffn, head_dim) = (shape.hidden, shape.ffn, shape.head_dim);
    let (q_width, kv_width) = (shape.heads * head_dim, shape.kv_heads * head_dim);
    let mut reader = Reader::new(tensors);
    let mut linear = |role: Role, outputs: usize, inputs: usize| {
        let mut data = reader.read(name(role), &[outputs, inputs])?;
        if interleaved && matches!(role, Role::Q(_) | Role::K(_)) {
            data = half_split(data, head_dim, inputs);
        }
        let bias = match role {
            Role::Q(_) | Role::K(_) | Role::V(_) if config.family == Family::Qwen2 => {
                let bias = name(role).replace(".weight", ".bias");
                Some(reader.read(bias, &[outputs])?)
            }
            _ => None,
        };
        Ok::<_, ImportError>(Linear { outputs, inputs, data: Arc::new(data), bias })
    };
    let embedding = linear(Role::Embedding, config.vocab, hidden)?;
    let head = if config.tied { embedding.clone() } else { linear(Role::Head, config.vocab, hidden)? };
    let mut blocks = Vec::with_capacity(config.layers);
    for i in 0..config.layers {
        blocks.push(FloatBlock {
            q: linear(Role::Q(i), q_width, hidden)?,
            k: linear(Role::K(i), kv_width, hidden)?,
            v: linear(Role::V(i), kv_width, hidden)?,
            o: linear(Role::O(i), hidden, q_width)?,
            gate: linear(Role::Gate(i), ffn, hidden)?,
            up: Some(linear(Role::Up(i), ffn, hidden)?),
            down: linear(Role::Down(i), hidden, ffn)?,
            attn_norm: Affine::default(),
            ffn_norm: Affine::default(),
        });
    }
    for (i, block) in blocks.iter_mut().enumerate() {
        block.attn_norm.gain = reader.read(name(Role::AttnNorm(i)), &[hidden])?;
        block.ffn_norm.gain = reader.read(name(Role::FfnNorm(i)), &[hidden])?;
    }
    let final_norm = Gain::Features(reader.read(name(Role::FinalNorm), &[hidden])?);
    // Tables of rotary frequencies follow from the base; a tied head repeats the embedding.
    let head_name = name(Role::Head);
    reader.finish(|name| name.ends_with("rotary_emb.inv_freq") || (config.tied && name == head_name))?;
    Ok(Model { config, embedding, positions: None, blocks, final_norm, final_bias: None, head, tokenizer })
}
