//! Sites: the places of a model that a method may touch, named by the checkpoint's own paths.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// What stands at a site. Every kind is seen by weight adapters as a matrix `[out, in]` and a bias `[out]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SiteKind {
    /// `y = x·Wᵀ + b`.
    Linear,
    /// A 2-D convolution, its kernel flattened to `[out, in/groups·height·width]`.
    Conv {
        /// Kernel height and width.
        kernel: [usize; 2],
        /// Stride along both axes.
        stride: usize,
        /// The zeros around its input.
        padding: Padding,
        /// Groups of channels, each with outputs of its own.
        groups: usize,
    },
    /// A table `[rows, width]`, read by row.
    Embedding,
    /// Scale and shift of a layer or group norm: scale `[width, 1]`, shift `[width]`.
    Norm,
    /// Scale and shift of a batch norm with running statistics.
    BatchNorm,
    /// A sub-block (attention or feed-forward) before its residual addition; no weights of its own.
    Block,
}

/// The zeros around the input of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// So many on every side.
    Even(usize),
    /// As many as give `⌈size/stride⌉` pixels along an axis, the odd one after: what TensorFlow calls "same".
    Same,
}

impl Padding {
    /// Zeros before and after an axis of `size` numbers.
    pub(crate) fn along(self, size: usize, kernel: usize, stride: usize) -> [usize; 2] {
        match self {
            Self::Even(zeros) => [zeros; 2],
            Self::Same => {
                let reach = size.div_ceil(stride.max(1)).saturating_sub(1) * stride + kernel;
                let zeros = reach.saturating_sub(size);
                [zeros / 2, zeros - zeros / 2]
            }
        }
    }
}

impl SiteKind {
    /// Groups of channels; one where there are none.
    pub fn groups(self) -> usize {
        match self {
            Self::Conv { groups, .. } => groups,
            _ => 1,
        }
    }
}

/// One place of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// The path in the checkpoint, without `.weight`.
    pub name: String,
    /// What stands there.
    pub kind: SiteKind,
    /// Output width (rows of the matrix).
    pub out: usize,
    /// Columns of the matrix: the input width, for a convolution `in/groups·height·width`.
    pub input: usize,
    /// Whether the checkpoint has a bias there.
    pub bias: bool,
}

impl Site {
    /// The shape of its weight in a checkpoint; a block has none, and two axes here.
    pub fn weight_shape(&self) -> Vec<usize> {
        match self.kind {
            SiteKind::Conv { kernel: [height, width], .. } => {
                vec![self.out, self.input / (height * width), height, width]
            }
            SiteKind::Norm | SiteKind::BatchNorm => vec![self.out],
            SiteKind::Linear | SiteKind::Embedding | SiteKind::Block => vec![self.out, self.input],
        }
    }
}

/// What a trained tensor is for; optimisers may give roles their own rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The factor on the input side (A of LoRA).
    InputFactor,
    /// The factor on the output side (B of LoRA).
    OutputFactor,
    /// A core between factors.
    Core,
    /// A vector of lengths or gains.
    Magnitude,
    /// A gate.
    Gate,
    /// A norm's scale or shift.
    Norm,
    /// A bias.
    Bias,
    /// A head's tensors.
    Head,
    /// A whole weight.
    Weight,
    /// Anything else.
    Other,
}

impl Role {
    /// Its name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::InputFactor => "input_factor",
            Self::OutputFactor => "output_factor",
            Self::Core => "core",
            Self::Magnitude => "magnitude",
            Self::Gate => "gate",
            Self::Norm => "norm",
            Self::Bias => "bias",
            Self::Head => "head",
            Self::Weight => "weight",
            Self::Other => "other",
        }
    }
}

/// Which sites a part of a patch goes to.
///
/// In a recipe: a word (`"linear"`, `"norm"`, `"all"`, …) or a list of names. A name matches a site that equals it or ends
/// with `.name`; `*` stands for any characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    /// A kind of site: `linear` (linear and convolution), `norm`, `embedding`, `block` or `all`.
    Word(String),
    /// Names or patterns.
    Names(Vec<String>),
}

impl From<&[&str]> for Targets {
    fn from(names: &[&str]) -> Self {
        match names {
            [name] => Self::Word((*name).to_owned()),
            names => Self::Names(names.iter().map(|&name| name.to_owned()).collect()),
        }
    }
}

impl Targets {
    /// Every word that stands for a kind of site.
    pub const WORDS: [&'static str; 5] = ["linear", "norm", "embedding", "block", "all"];

    /// Whether a kind is meant rather than sites by their names.
    pub fn is_kind(&self) -> bool {
        matches!(self, Self::Word(word) if Self::WORDS.contains(&word.as_str()))
    }

    /// The sites meant, in the model's order.
    ///
    /// # Errors
    /// An unknown word, or a name that matches no site (with the nearest site names).
    pub fn select(&self, sites: &[Site]) -> Result<Vec<Site>> {
        let chosen: Vec<Site> = match self {
            Self::Word(word) => {
                let wanted: fn(SiteKind) -> bool = match word.as_str() {
                    "linear" => |k| matches!(k, SiteKind::Linear | SiteKind::Conv { .. }),
                    "norm" => |k| matches!(k, SiteKind::Norm | SiteKind::BatchNorm),
                    "embedding" => |k| k == SiteKind::Embedding,
                    "block" => |k| k == SiteKind::Block,
                    "all" => |k| k != SiteKind::Block,
                    _ => return Self::Names(vec![word.clone()]).select(sites),
                };
                sites.iter().filter(|site| wanted(site.kind)).cloned().collect()
            }
            Self::Names(names) => {
                for name in names {
                    if !sites.iter().any(|site| matches(name, &site.name)) {
                        let ends = sites.iter().filter_map(|s| s.name.rsplit('.').next());
                        return Err(Error::unknown("target", name, Self::WORDS.into_iter().chain(ends)));
                    }
                }
                sites.iter().filter(|site| names.iter().any(|name| matches(name, &site.name))).cloned().collect()
            }
        };
        if chosen.is_empty() {
            return Err(Error::Other(format!("the targets {self:?} match none of the model's {} sites", sites.len())));
        }
        Ok(chosen)
    }
}

/// Whether a pattern means a site: equal, or equal to the end of the path after a dot.
pub fn matches(pattern: &str, site: &str) -> bool {
    glob(pattern.as_bytes(), site.as_bytes())
        || site.match_indices('.').any(|(at, _)| glob(pattern.as_bytes(), &site.as_bytes()[at + 1..]))
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skip| glob(rest, &text[skip..])),
        Some((c, rest)) => text.first() == Some(c) && glob(rest, &text[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_padding_gives_a_pixel_for_each_step() {
        for (size, kernel, stride, expected) in
            [(112, 3, 2, [0, 1]), (7, 5, 2, [2, 2]), (8, 5, 1, [2, 2]), (9, 1, 1, [0, 0])]
        {
            assert_eq!(Padding::Same.along(size, kernel, stride), expected, "{size} by {kernel}, stride {stride}");
        }
    }

    #[test]
    fn names_match_whole_path_ends() {
        assert!(matches("query", "encoder.layer.0.attention.self.query"));
        assert!(matches("self.query", "encoder.layer.0.attention.self.query"));
        assert!(!matches("uery", "encoder.layer.0.attention.self.query"));
        assert!(matches("encoder.layer.*.query", "encoder.layer.0.attention.self.query"));
        assert!(!matches("layer.1", "encoder.layer.11"));
    }
}
