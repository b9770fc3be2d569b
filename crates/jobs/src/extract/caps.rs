//! What a run may ask, at most. Every cap is a flag, and what it leaves out is in the record and in the coverage.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

/// A number, or all there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Most {
    /// So many.
    Number(usize),
    /// All.
    All,
}

/// The caps of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Caps {
    /// Windows that are asked which entities they name, best first.
    pub entity_windows: Most,
    /// Windows of the first pass of a group, best first.
    pub group_windows: usize,
    /// Further passes of a group, a window each, best first.
    pub section_passes: Most,
    /// Fields of an entity that are asked for by themselves in the end.
    pub deep_fields: usize,
    /// Whether values are asked again: is this right?
    pub verify: bool,
    /// Whether what was found with certainty is no longer asked for, and groups that a window lacks are passed over.
    pub early_stop: bool,
    /// Entities of a company, at most.
    pub facilities: Option<usize>,
    /// Time for all calls.
    #[serde(skip)]
    pub budget: Option<Duration>,
}

impl Caps {
    /// Nothing is left out.
    pub const USUAL: Caps = Caps {
        entity_windows: Most::All,
        group_windows: 3,
        section_passes: Most::All,
        deep_fields: 20,
        verify: true,
        early_stop: true,
        facilities: None,
        budget: None,
    };

    /// Windows that a group is asked in, of so many.
    #[must_use]
    pub fn windows_of_group(&self, windows: usize) -> usize {
        match self.section_passes {
            Most::All => windows,
            Most::Number(passes) => windows.min(self.group_windows.saturating_add(passes)),
        }
    }
}

impl Most {
    /// Of so many.
    #[must_use]
    pub fn of(self, all: usize) -> usize {
        match self {
            Most::Number(number) => number.min(all),
            Most::All => all,
        }
    }
}

impl FromStr for Most {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Most::All),
            number => {
                number.parse().map(Most::Number).map_err(|_| format!("`{number}` is no number, nor `all`"))
            }
        }
    }
}

impl fmt::Display for Most {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Most::Number(number) => number.fmt(f),
            Most::All => f.write_str("all"),
        }
    }
}
