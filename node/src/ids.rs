//! Identifiers of requests, nodes and models as people write them.

use lamina_verifier::{
    encoding,
    hash::{Digest, Hasher, ModelId, NodeId, RequestId},
};
use rand_core::{OsRng, RngCore};

use crate::failure::{Failure, Kind, Result};

/// 64 hexadecimal digits as they are; any other text by its hash under `domain`.
fn digest(domain: &str, text: &str) -> Digest {
    exact(text).unwrap_or_else(|| Hasher::new(domain).bytes(text.as_bytes()).digest())
}

fn exact(text: &str) -> Option<Digest> {
    encoding::from_hex(text).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()).map(Digest)
}

/// A node or publisher.
pub fn node(text: &str) -> NodeId {
    NodeId(digest("node", text))
}

/// A request.
pub fn request(text: &str) -> RequestId {
    RequestId(digest("request", text))
}

/// A request that nobody has made before.
///
/// # Errors
/// The operating system gives no entropy.
pub fn fresh_request() -> Result<RequestId> {
    let mut bytes = [0; 32];
    OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|_| Failure::new(Kind::Files, "the operating system gives no entropy"))?;
    Ok(RequestId(Digest(bytes)))
}

/// A model, which has only the identifier that its card gives it.
///
/// # Errors
/// Not 64 hexadecimal digits.
pub fn model(text: &str) -> Result<ModelId> {
    exact(text).map(ModelId).ok_or_else(|| {
        Failure::new(
            Kind::Usage,
            format_args!("`{text}` is not a model identifier: 64 lowercase hexadecimal digits are needed"),
        )
    })
}
