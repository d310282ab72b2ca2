//! Why a command ended early, and the exit code that says so.

use std::{fmt, io};

use lamina_circuits::{executor::ExecError, layout::LayoutError};
use lamina_model::error::{EvalError, ForwardError, ImportError, QuantiseError, TokenizerError};
use lamina_prover::{
    BackendError, KeyError, ProveError, SetupError, link::LinkError, publish::PublishError, srs::SrsFileError,
};
use lamina_verifier::{
    bundle::{BundleDecodeError, BundleError},
    card::CardError,
    envelope::DecodeError,
    logits::SamplingError,
    srs::SrsError,
    verify::{ChainError, PublicationError, SliceError},
};
use serde::Serialize;

/// Classes of failure, by exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The command line makes no sense.
    Usage,
    /// Model, text, card or key material is wrong or does not fit.
    Input,
    /// A proof, a card or a publication does not verify.
    Rejected,
    /// Something could not be read or written.
    Files,
    /// The device that was asked for is not there, or failed.
    Device,
    /// The user stopped it.
    Interrupted,
}

impl Kind {
    /// The exit code of `lamina --help`.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Usage => 1,
            Kind::Input => 2,
            Kind::Rejected => 3,
            Kind::Files => 4,
            Kind::Device => 5,
            Kind::Interrupted => 130,
        }
    }
}

/// An error with its exit code.
#[derive(Debug)]
pub struct Failure {
    /// Its class.
    pub kind: Kind,
    /// What happened, outermost first.
    pub error: anyhow::Error,
}

/// Result of a command or a part of one.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure that only a message describes.
    pub fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Failure { kind, error: anyhow::anyhow!("{message}") }
    }

    /// The user stopped it.
    pub fn interrupted() -> Self {
        Failure::new(Kind::Interrupted, "interrupted: what was finished is kept")
    }

    /// The causes on one line, each said once.
    pub fn message(&self) -> String {
        let mut text = String::new();
        for cause in self.error.chain() {
            let cause = cause.to_string();
            // Errors that show their source in their own text would say it twice.
            if text.ends_with(&cause) {
                continue;
            }
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
        text
    }
}

/// Classes an error, or adds where it happened.
pub trait Classify<T> {
    /// The error as a failure of `kind`.
    fn kind(self, kind: Kind) -> Result<T>;
    /// The error with its class, and what was being done.
    fn context(self, context: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Failure>> Classify<T> for std::result::Result<T, E> {
    fn kind(self, kind: Kind) -> Result<T> {
        self.map_err(|error| Failure { kind, ..error.into() })
    }

    fn context(self, context: impl fmt::Display) -> Result<T> {
        self.map_err(|error| {
            let Failure { kind, error } = error.into();
            Failure { kind, error: error.context(context.to_string()) }
        })
    }
}

macro_rules! classes {
    ($($error:ty => $kind:expr),* $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                let kind: fn(&$error) -> Kind = $kind;
                Failure { kind: kind(&error), error: error.into() }
            }
        }
    )*};
}

impl From<ProveError> for Failure {
    fn from(error: ProveError) -> Self {
        match error {
            ProveError::Cancelled => Failure::interrupted(),
            error @ (ProveError::Backend { .. } | ProveError::WrongProof { .. }) => {
                Failure { kind: Kind::Device, error: error.into() }
            }
            error => Failure { kind: Kind::Input, error: error.into() },
        }
    }
}

classes! {
    io::Error => |_| Kind::Files,
    ImportError => |e| if matches!(e, ImportError::Io { .. }) { Kind::Files } else { Kind::Input },
    QuantiseError => |_| Kind::Input,
    TokenizerError => |_| Kind::Input,
    ForwardError => |_| Kind::Input,
    EvalError => |_| Kind::Input,
    ExecError => |_| Kind::Input,
    LayoutError => |_| Kind::Input,
    BackendError => |_| Kind::Device,
    SetupError => |e| if matches!(e, SetupError::Backend(_)) { Kind::Device } else { Kind::Input },
    KeyError => |e| if matches!(e, KeyError::Io(_)) { Kind::Files } else { Kind::Input },
    lamina_verifier::key::KeyError => |_| Kind::Input,
    CardError => |_| Kind::Rejected,
    DecodeError => |_| Kind::Rejected,
    SrsError => |_| Kind::Input,
    SrsFileError => |e| if matches!(e, SrsFileError::Io(_)) { Kind::Files } else { Kind::Input },
    PublishError => |e| if matches!(e, PublishError::Io(_)) { Kind::Files } else { Kind::Input },
    LinkError => |_| Kind::Input,
    SliceError => |_| Kind::Rejected,
    ChainError => |_| Kind::Rejected,
    PublicationError => |_| Kind::Rejected,
    BundleDecodeError => |_| Kind::Rejected,
    BundleError => |_| Kind::Rejected,
    SamplingError => |_| Kind::Usage,
    safetensors::SafeTensorError => |_| Kind::Input,
    serde_json::Error => |_| Kind::Input,
}
