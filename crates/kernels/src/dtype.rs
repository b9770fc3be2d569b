//! What the products of a linear layer are computed with.

use std::fmt;
use std::str::FromStr;

/// The numbers that weights are packed as and that products are computed with. Sums of integers are exact;
/// other sums, norms, activations and the softmax are f32 in every mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// The exact mode.
    F32,
    /// Weights and rows rounded to bfloat16, 8 bits of precision at any magnitude.
    Bf16,
    /// Weights and rows as 16-bit integers with one scale an output and one scale a row: 11 to 13 bits below the
    /// largest of its row, fewer in layers of many thousand inputs.
    Int16,
    /// As [`Dtype::Int16`] with 8 bits.
    Int8,
}

impl Dtype {
    /// Every mode, the most exact first.
    pub const ALL: [Dtype; 4] = [Dtype::F32, Dtype::Int16, Dtype::Bf16, Dtype::Int8];

    /// `f32`, `bf16`, `int16` or `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::Int16 => "int16",
            Dtype::Int8 => "int8",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A dtype name that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseDtypeError {
    text: String,
}

impl fmt::Display for ParseDtypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no dtype; known are f32, bf16, int16, int8", self.text)
    }
}

impl std::error::Error for ParseDtypeError {}

impl FromStr for Dtype {
    type Err = ParseDtypeError;

    fn from_str(text: &str) -> Result<Self, ParseDtypeError> {
        Dtype::ALL
            .into_iter()
            .find(|dtype| dtype.name() == text)
            .ok_or_else(|| ParseDtypeError { text: text.to_owned() })
    }
}
