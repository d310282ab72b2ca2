//! Text to token ids and back.

use std::{
    fmt,
    panic::{self, AssertUnwindSafe},
    sync::Arc,
};

use tokenizers::Tokenizer;

use crate::error::TokenizerError;

/// A model's tokenizer. Ids are exactly those of the text: no token is added at its start or end.
#[derive(Clone)]
pub struct TextTokenizer {
    inner: Arc<Tokenizer>,
    /// The id that stands for all symbols that the vocabulary lacks.
    unknown: Option<u32>,
}

impl fmt::Debug for TextTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TextTokenizer({} ids)", self.inner.get_vocab_size(true))
    }
}

impl TextTokenizer {
    /// Parses a `tokenizer.json`.
    ///
    /// # Errors
    /// The description does not parse, or has an id that is not below `vocab`.
    pub fn from_json(bytes: &[u8], vocab: usize) -> Result<Self, TokenizerError> {
        // The library panics on some errors of syntax, of strings too: `IgnoredAny` would pass those over.
        let value: serde_json::Value = serde_json::from_slice(bytes)
            .map_err(|source| TokenizerError::Parse { source: source.into() })?;
        let mut tokenizer =
            contained(|| Tokenizer::from_bytes(bytes)).map_err(|source| TokenizerError::Parse { source })?;
        // Padding and truncation are the caller's, and counted: never the file's.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|source| TokenizerError::Parse { source })?;
        let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        if largest as usize >= vocab {
            return Err(TokenizerError::Vocabulary { largest, vocab });
        }
        let unknown = value["model"]["unk_token"].as_str().and_then(|token| tokenizer.token_to_id(token));
        Ok(TextTokenizer { inner: Arc::new(tokenizer), unknown })
    }

    /// The description that [`TextTokenizer::from_json`] reads.
    ///
    /// # Errors
    /// The library cannot write it.
    pub fn to_json(&self) -> Result<String, TokenizerError> {
        contained(|| self.inner.to_string(false)).map_err(|source| TokenizerError::Parse { source })
    }

    /// Token ids of `text`; symbols that the vocabulary lacks become the id for unknown ones, where there is such an id.
    ///
    /// # Errors
    /// The text holds a symbol that the vocabulary can't express.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = contained(|| self.inner.encode_fast(text, false))
            .map_err(|source| TokenizerError::Encode { source })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Token ids of a text that the vocabulary expresses whole: a prompt, of which no symbol may be lost.
    ///
    /// # Errors
    /// [`TokenizerError::Unknown`] names the first symbol that the vocabulary lacks.
    pub fn encode_whole(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = contained(|| self.inner.encode(text, false))
            .map_err(|source| TokenizerError::Encode { source })?;
        let ids = encoding.get_ids();
        if let Some(at) = ids.iter().position(|id| Some(*id) == self.unknown) {
            let place = encoding.get_offsets().get(at).and_then(|&(start, end)| text.get(start..end));
            return Err(TokenizerError::Unknown { symbol: place.unwrap_or_default().to_owned() });
        }
        Ok(ids.to_vec())
    }

    /// Text of `ids`; special tokens are left out.
    ///
    /// # Errors
    /// The decoder fails on the pieces.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        contained(|| self.inner.decode(ids, true)).map_err(|source| TokenizerError::Decode { source })
    }
}

/// Runs the library, which panics on some descriptions that it should refuse: a panic of it is its error.
fn contained<T>(action: impl FnOnce() -> Result<T, tokenizers::Error>) -> Result<T, tokenizers::Error> {
    // What the library leaves behind is dropped, or is a tokenizer that is only read.
    panic::catch_unwind(AssertUnwindSafe(action))
        .unwrap_or_else(|_| Err("the tokenizer library panicked on this description".into()))
}
