//! Constraint ids: the same names in gates, errors, tests and `docs/protocol.md`.

/// Every constraint id, in the order of the documentation.
pub const ALL: &[&str] = &[
    "in/1",
    "out/1",
    "stream/1",
    "sum/1",
    "sum/2",
    "factor/1",
    "rotary/2",
    "attn-norm/4",
    "ffn-norm/4",
    "norm/2",
    "norm/3",
    "rotary/1q",
    "rotary/1k",
    "softmax/2",
    "softmax/3",
    "softmax/5",
    "softmax/5r",
    "softmax/6",
    "glu/2",
    "product/1",
    "product/2",
    "product/3",
    "boundary/1",
    "lookup/1",
    "lookup/2",
    "lookup/3",
    "lookup/4",
    "boundary/2",
    "sum/3",
    "head-norm/4",
    "select/1",
    "argmax/1",
    "argmax/2",
    "embed/1",
    "embed/2",
    "embed/3",
    "embed/4",
    "copy",
];

/// The static form of an id; `unknown` if it is in no list.
pub fn intern(name: &str) -> &'static str {
    ALL.iter().find(|&&id| id == name).copied().unwrap_or("unknown")
}
