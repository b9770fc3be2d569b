//! Where a vision tower can be disturbed, and the sets of such places that experiments name.
//!
//! A site is the output of one linear layer: `blocks.3.mlp.fc2`. Its number, by which its masks are drawn, depends on
//! the layer alone and not on the set it was chosen in, so the same site has the same masks in every experiment.

use std::fmt;
use std::str::FromStr;

/// Blocks of a tower; the largest known has 40.
const BLOCKS_MAX: u32 = 1_024;

/// A linear layer of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// `attn.q_proj`
    Query,
    /// `attn.k_proj`
    Key,
    /// `attn.v_proj`
    Value,
    /// `attn.out_proj`
    AttentionOut,
    /// `mlp.fc1`, which open_clip calls `c_fc`.
    Fc1,
    /// `mlp.fc2`, which open_clip calls `c_proj`.
    Fc2,
}

impl Layer {
    /// In the order in which a block computes them.
    pub const ALL: [Layer; 6] =
        [Layer::Query, Layer::Key, Layer::Value, Layer::AttentionOut, Layer::Fc1, Layer::Fc2];

    /// Below its block.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Layer::Query => "attn.q_proj",
            Layer::Key => "attn.k_proj",
            Layer::Value => "attn.v_proj",
            Layer::AttentionOut => "attn.out_proj",
            Layer::Fc1 => "mlp.fc1",
            Layer::Fc2 => "mlp.fc2",
        }
    }

    fn is_mlp(self) -> bool {
        matches!(self, Layer::Fc1 | Layer::Fc2)
    }
}

/// One place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// From 0.
    pub block: u32,
    /// In it.
    pub layer: Layer,
}

impl Site {
    /// For masks: the same in every set and for every number of blocks.
    #[must_use]
    pub fn number(self) -> u32 {
        self.block * Layer::ALL.len() as u32 + self.layer as u32
    }
}

impl fmt::Display for Site {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "blocks.{}.{}", self.block, self.layer.name())
    }
}

/// A set of places, by the name that an experiment gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sites {
    /// `uniform`: every linear layer.
    Uniform,
    /// `mlp`: both layers of every feed-forward.
    Mlp,
    /// `attention`: all four of every attention.
    Attention,
    /// `c_proj`: the second layer of every feed-forward.
    CProj,
    /// `late-3`: the second layer of the feed-forward in the last 3 blocks.
    Late(u32),
    /// `blocks.11.mlp.fc2`: one alone.
    One(Site),
}

impl Sites {
    /// The places of a tower with so many blocks, in the order in which it computes them.
    ///
    /// # Errors
    /// A block that the tower does not have.
    pub fn of(self, blocks: u32) -> Result<Vec<Site>, SitesError> {
        let asked = match self {
            Sites::Late(last) => last,
            Sites::One(site) => site.block + 1,
            _ => 0,
        };
        if asked > blocks {
            return Err(SitesError::Blocks { set: self.to_string(), blocks });
        }
        let is_in = |site: &Site| match self {
            Sites::Uniform => true,
            Sites::Mlp => site.layer.is_mlp(),
            Sites::Attention => !site.layer.is_mlp(),
            Sites::CProj => site.layer == Layer::Fc2,
            Sites::Late(last) => site.layer == Layer::Fc2 && site.block >= blocks - last,
            Sites::One(one) => *site == one,
        };
        let all = (0..blocks).flat_map(|block| Layer::ALL.map(|layer| Site { block, layer }));
        Ok(all.filter(is_in).collect())
    }
}

impl FromStr for Sites {
    type Err = SitesError;

    fn from_str(name: &str) -> Result<Sites, SitesError> {
        let unknown = || SitesError::Unknown { name: name.to_owned() };
        let number = |digits: &str| {
            // `+3` and `03` are numbers to Rust; names are one way only.
            let is_plain = digits == "0" || !digits.starts_with(['0', '+']);
            digits.parse::<u32>().ok().filter(|number| is_plain && *number < BLOCKS_MAX).ok_or_else(unknown)
        };
        match name {
            "uniform" => return Ok(Sites::Uniform),
            "mlp" => return Ok(Sites::Mlp),
            "attention" => return Ok(Sites::Attention),
            "c_proj" => return Ok(Sites::CProj),
            _ => {}
        }
        if let Some(last) = name.strip_prefix("late-") {
            return number(last)
                .and_then(|last| if last > 0 { Ok(Sites::Late(last)) } else { Err(unknown()) });
        }
        let (block, layer) =
            name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')).ok_or_else(unknown)?;
        let layer = Layer::ALL.into_iter().find(|known| known.name() == layer).ok_or_else(unknown)?;
        Ok(Sites::One(Site { block: number(block)?, layer }))
    }
}

impl fmt::Display for Sites {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sites::Uniform => formatter.write_str("uniform"),
            Sites::Mlp => formatter.write_str("mlp"),
            Sites::Attention => formatter.write_str("attention"),
            Sites::CProj => formatter.write_str("c_proj"),
            Sites::Late(last) => write!(formatter, "late-{last}"),
            Sites::One(site) => site.fmt(formatter),
        }
    }
}

/// A set that a tower does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SitesError {
    /// No such name.
    #[error("`{name}` names no places of a vision tower")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// Fewer blocks than were asked for.
    #[error("`{set}` asks for blocks that are not there: the tower has {blocks}")]
    Blocks {
        /// What was asked for.
        set: String,
        /// Blocks of the tower.
        blocks: u32,
    },
}

impl SitesError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            SitesError::Unknown { .. } => {
                "uniform, mlp, attention, c_proj, late-K, or one such as blocks.3.mlp.fc2"
            }
            SitesError::Blocks { .. } => "blocks are counted from 0",
        }
    }
}
