//! `extract`: documents of companies to checked records, one for each entity that a schema names (a credit facility, a
//! contract), with evidence.
//!
//! [`schema`] says what is looked for and how a model is asked; [`documents`] makes one list of numbered sentences of all
//! files of a company, [`windows`] cuts it into what a model reads at a time, [`retrieve`] ranks windows for a question,
//! [`normalise`] brings values into one form, and [`crosscheck`] holds the values of a record against each other.
//!
//! [`run`] takes one company through all of it: it asks ([`ask`]) which entities there are ([`entities`]), then group by
//! group in the best windows first ([`passes`]), holds every answer ([`reply`]) against the document ([`evidence`]) and
//! against what its sentence is about ([`mentions`]), and merges what is left ([`merge`]) into a [`record`]. [`caps`] say how
//! much is asked, and [`plan`] what that comes to.

pub mod accuracy;
pub mod ask;
pub mod caps;
pub mod crosscheck;
pub mod documents;
pub mod entities;
pub mod evidence;
pub mod input;
pub mod measure;
pub mod mentions;
pub mod merge;
pub mod normalise;
pub mod passes;
pub mod plan;
pub mod quality;
pub mod reading;
pub mod record;
pub mod reply;
pub mod retrieve;
pub mod run;
pub mod schema;
pub mod tables;
pub mod traces;
pub mod windows;

use haul_generate::GenerateError;

use crate::calls::CallsError;
use retrieve::embed::EmbedError;
use retrieve::hybrid::HybridError;
use schema::PromptError;
use windows::WindowError;

/// Companies cannot be extracted any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExtractError {
    /// The calls, as a whole.
    #[error(transparent)]
    Calls(#[from] CallsError),
    /// The generator.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// A template of the schema.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// A sentence that fits no window.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// The embedding model.
    #[error(transparent)]
    Hybrid(#[from] HybridError),
    /// Questions and answers leave no room for a document.
    #[error(
        "a context of {context} tokens has no room for a window beside the schema's questions and answers"
    )]
    ContextTooSmall {
        /// Of the model.
        context: u32,
    },
}

impl ExtractError {
    /// Whether a stop was asked for, and nothing else is wrong.
    #[must_use]
    pub fn is_stop(&self) -> bool {
        match self {
            Self::Generate(error) | Self::Calls(CallsError::Generate(error)) => error.is_stop(),
            Self::Hybrid(error) => matches!(error, HybridError::Embed(EmbedError::Stopped)),
            _ => false,
        }
    }

    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Calls(error) => error.hint(),
            Self::Generate(error) => error.hint(),
            Self::ContextTooSmall { .. } => Some(
                "take a model with a longer context, or fewer fields_per_question in the schema; `haul schema explain` \
                 shows the sizes"
                    .to_owned(),
            ),
            Self::Hybrid(HybridError::Journal(error)) => error.hint().map(str::to_owned),
            Self::Hybrid(_) => Some(
                "`haul model check NAME` says whether the model's files are what they were; without --embedder windows \
                 are ranked by words alone"
                    .to_owned(),
            ),
            Self::Prompt(_) | Self::Window(_) => None,
        }
    }
}
