//! The sets of places in an image tower that experiments name. A place is the output of one linear layer, such as
//! `blocks.3.mlp.fc2`, or a whole block; which there are, the tower says ([`VisionConfig::sites`]).

use std::fmt;
use std::str::FromStr;

use haul_encoder::model::vision::{BlockLayer, Site, VisionConfig};
use haul_kernels::perturb::Perturbation;

/// Blocks of a tower; the largest known has 40.
const BLOCKS_MAX: u32 = 1_024;

/// A set of places, by the name that an experiment gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sites {
    /// `uniform`: every linear layer.
    Uniform,
    /// `mlp`: both layers of every feed-forward.
    Mlp,
    /// `attention`: what goes into every attention and what comes out.
    Attention,
    /// `c_proj`: the second layer of every block's feed-forward.
    CProj,
    /// `late-3`: the second layer of the feed-forward in the last 3 blocks.
    Late(u32),
    /// `depth`: every block as a whole.
    Depth,
    /// `blocks.11.mlp.fc2`, or the block `blocks.11`: one alone.
    One(String),
}

impl Sites {
    /// The places of a tower, in the order in which it computes them.
    ///
    /// # Errors
    /// A block, or a layer, that the tower does not have: nothing would ever fall out there.
    pub fn of(&self, tower: &VisionConfig) -> Result<Vec<Site>, SitesError> {
        let blocks = tower.layers as u32;
        if let Sites::Late(last) = self
            && *last > blocks
        {
            return Err(SitesError::Blocks { set: self.to_string(), blocks });
        }
        let is_in = |site: &Site| match (self, site) {
            (Sites::One(name), site) => site.to_string() == *name,
            (Sites::Depth, site) => matches!(site, Site::Depth { .. }),
            (_, Site::Depth { .. }) => false,
            (Sites::Uniform, _) | (Sites::Mlp, Site::Head { .. }) => true,
            (_, Site::Head { .. }) => false,
            (Sites::Mlp, Site::Block { layer, .. }) => is_mlp(*layer),
            (Sites::Attention, Site::Block { layer, .. }) => !is_mlp(*layer),
            (Sites::CProj, Site::Block { layer, .. }) => *layer == BlockLayer::Fc2,
            (Sites::Late(last), Site::Block { block, layer }) => {
                *layer == BlockLayer::Fc2 && *block >= blocks - last
            }
        };
        let found: Vec<Site> = tower.sites().into_iter().chain(tower.depths()).filter(is_in).collect();
        if found.is_empty() {
            return Err(SitesError::Blocks { set: self.to_string(), blocks });
        }
        Ok(found)
    }

    /// [`Sites::of`], where that which is done to them can be.
    ///
    /// # Errors
    /// Also noise on whole blocks, which have no outputs of their own.
    pub fn under(&self, perturbation: Perturbation, tower: &VisionConfig) -> Result<Vec<Site>, SitesError> {
        let found = self.of(tower)?;
        let is_whole = found.iter().any(|site| matches!(site, Site::Depth { .. }));
        if is_whole && perturbation.rate().is_none() {
            return Err(SitesError::Whole { set: self.to_string(), perturbation: perturbation.name() });
        }
        Ok(found)
    }
}

fn is_mlp(layer: BlockLayer) -> bool {
    matches!(layer, BlockLayer::Fc1 | BlockLayer::Fc2)
}

impl FromStr for Sites {
    type Err = SitesError;

    fn from_str(name: &str) -> Result<Sites, SitesError> {
        let unknown = || SitesError::Unknown { name: name.to_owned() };
        match name {
            "uniform" => return Ok(Sites::Uniform),
            "mlp" => return Ok(Sites::Mlp),
            "attention" => return Ok(Sites::Attention),
            "c_proj" => return Ok(Sites::CProj),
            "depth" => return Ok(Sites::Depth),
            _ => {}
        }
        if let Some(last) = name.strip_prefix("late-") {
            // `+3` and `03` are numbers to Rust; names are one way only.
            let last = Some(last).filter(|digits| !digits.starts_with(['0', '+']));
            let last = last.and_then(|digits| digits.parse::<u32>().ok()).filter(|last| *last < BLOCKS_MAX);
            return last.map(Sites::Late).ok_or_else(unknown);
        }
        let is_one = ["blocks.", "head."].iter().any(|start| name.starts_with(start));
        if is_one { Ok(Sites::One(name.to_owned())) } else { Err(unknown()) }
    }
}

impl fmt::Display for Sites {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sites::Uniform => formatter.write_str("uniform"),
            Sites::Mlp => formatter.write_str("mlp"),
            Sites::Attention => formatter.write_str("attention"),
            Sites::CProj => formatter.write_str("c_proj"),
            Sites::Depth => formatter.write_str("depth"),
            Sites::Late(last) => write!(formatter, "late-{last}"),
            Sites::One(name) => formatter.write_str(name),
        }
    }
}

/// A set that a tower does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SitesError {
    /// No such name.
    #[error("`{name}` names no places of an image tower")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// What was asked for is not there.
    #[error("`{set}` is not in the tower, which has {blocks} blocks")]
    Blocks {
        /// What was asked for.
        set: String,
        /// Blocks of the tower.
        blocks: u32,
    },
    /// What cannot be done to a block.
    #[error("`{set}` leaves whole blocks out, and {perturbation} noise is added to outputs of layers")]
    Whole {
        /// What was asked for.
        set: String,
        /// What should be done to it.
        perturbation: &'static str,
    },
}

impl SitesError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            SitesError::Unknown { .. } => {
                "uniform, mlp, attention, c_proj, late-K, depth, or one such as blocks.3.mlp.fc2"
            }
            SitesError::Blocks { .. } => {
                "blocks are counted from 0; SigLIP alone has head.mlp.fc1 and head.mlp.fc2"
            }
            SitesError::Whole { .. } => "blocks fall out under --perturb dropout; noise takes other --sites",
        }
    }
}
