//! Streams of experiences: which samples there are, when they come, which make a mini-batch, what is remembered.
//!
//! `docs/streams.md` states every format here exactly.

pub mod batches;
mod domain;
mod experience;
pub mod herding;
pub mod memory;
mod prepared;

use serde::{Deserialize, Serialize};

pub use self::experience::{Experience, ExperienceStream};
pub use self::prepared::prepared;
use crate::data::ImageShape;

#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error(
        "`stream.experiences`: {classes} classes do not divide into {experiences} experiences; choose a number that divides them"
    )]
    NotDivisible { classes: usize, experiences: usize },
    #[error("`stream.class_order`: expected every class from 0 to {} once, found {found:?}", .classes - 1)]
    ClassOrder { classes: usize, found: Vec<u16> },
    #[error(
        "`stream.class_order`: expected a seed or a list, found that of `{name}`, whose configuration was not read"
    )]
    OrderOfAnother { name: String },
    #[error("class `{class}` has no {split} samples")]
    EmptyClass { class: String, split: &'static str },
    #[error(
        "class `{class}` has {found} {split} samples, fewer than the {experiences} experiences that each need one; \
         choose a smaller `stream.experiences`"
    )]
    TooFewForDomains { class: String, split: &'static str, found: usize, experiences: usize },
    #[error(
        "class `{class}` has 1 training sample in an experience, and none can be taken out; expected at least 2, or \
         `stream.{purpose}` = 0"
    )]
    TooFewForShare { class: String, purpose: String },
    #[error("`data.classes`: expected at most the {found} classes of the data, found {expected}")]
    TooFewClasses { expected: usize, found: usize },
    #[error(
        "`{key}` = {expected}, but class `{class}` has {found} samples; choose {found} or fewer, or 0 for all"
    )]
    TooFewSamples { key: &'static str, class: String, expected: usize, found: usize },
    #[error(
        "`stream.domains` = \"rotate\" turns square images by quarters, found images of {shape}; use \"permute\""
    )]
    NotSquare { shape: ImageShape },
    #[error("`data.normalization`: expected a mean and a std for each of {channels} channels, found {found}")]
    Normalization { channels: u16, found: usize },
    #[error(
        "`data.color_jitter`: contrast and saturation need 1 channel or 3 (red, green, blue), found images of \
         {shape}; leave both at 0"
    )]
    NoGrey { shape: ImageShape },
}

/// What differs between the experiences of a stream (van de Ven & Tolias 2019: the three scenarios).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamKind {
    /// Each experience has classes of its own; which experience a test sample is of is not known.
    ClassIncremental,
    /// Each experience has classes of its own; which experience a sample is of is known, in training and testing.
    TaskIncremental,
    /// Each experience has all classes, from a domain of its own.
    DomainIncremental,
}

/// What a domain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Domains {
    /// Samples of its own.
    Instances,
    /// Samples of its own, turned by as many quarters as there were domains before.
    Rotate,
    /// Samples of its own, their pixels in an order of its own; that of the first domain stays (Permuted MNIST).
    Permute,
}

/// The order in which classes come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a seed (a whole number from 0 on), a list of all class indices, or whose order it is"
)]
pub enum ClassOrder {
    /// A shuffle of all classes.
    Seed(u64),
    List(Vec<u16>),
    /// That of another agent: of this name in a lab, or of this file. Reading a configuration puts its order here.
    SameAs(String),
}

impl std::fmt::Display for ClassOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ClassOrder::Seed(seed) => write!(f, "{seed}"),
            ClassOrder::List(list) => write!(f, "{list:?}"),
            ClassOrder::SameAs(name) => write!(f, "`{name}`"),
        }
    }
}
