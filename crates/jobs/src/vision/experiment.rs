//! The experiments of the study: what each runs when nothing else is said, and under which conditions.

use haul_corpus::image::treatment::Treatment;
use haul_encoder::model::vision::{BlockLayer, Site, VisionConfig, VisionHead};

use super::sites::Sites;

/// What is run over images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Experiment {
    /// Passes under one setting: all that `mc.npz` has.
    Mc,
    /// Whether trials agree, by the number of passes.
    Exp0,
    /// The shape of what passes spread over.
    Exp0b,
    /// Whether images keep their ranks over rates.
    Exp1,
    /// Which layers are disturbed.
    Exp3,
    /// Models side by side.
    Exp4,
    /// Whether images that a model cannot name for sure are those that are uncertain.
    Exp5,
    /// How far the mean of passes is from what a tower says without dropout.
    Exp6,
    /// Whether images that are made worse become less certain.
    Ablation,
}

/// One of several settings that an experiment compares.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// As files call it.
    pub label: String,
    /// Where elements fall out.
    pub sites: Sites,
    /// What is done to the images.
    pub treatment: Option<Treatment>,
    /// The share that falls out, or the magnitude of noise, where the experiment says it.
    pub strength: Option<f64>,
}

/// Rates of experiment 1.
pub const RATES: [f64; 6] = [0.001, 0.005, 0.01, 0.02, 0.05, 0.1];

impl Experiment {
    /// As the study's files call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Experiment::Mc | Experiment::Exp0 => "exp0_nested_mc",
            Experiment::Exp0b => "exp0b_norm_geometry",
            Experiment::Exp1 => "exp1_rank_p",
            Experiment::Exp3 => "exp3_dropout_type",
            Experiment::Exp4 => "exp4_subset_recipe",
            Experiment::Exp5 => "exp5_subset_ambiguity",
            Experiment::Exp6 => "exp6_mean_convergence",
            Experiment::Ablation => "ablation",
        }
    }

    /// Repetitions.
    #[must_use]
    pub fn trials(self) -> usize {
        match self {
            Experiment::Mc | Experiment::Exp0 | Experiment::Exp4 => 10,
            Experiment::Exp0b | Experiment::Exp3 => 5,
            Experiment::Exp1 | Experiment::Exp6 => 3,
            Experiment::Exp5 | Experiment::Ablation => 1,
        }
    }

    /// Numbers of passes.
    #[must_use]
    pub fn passes(self) -> &'static [u32] {
        match self {
            Experiment::Mc | Experiment::Exp0 => &[4, 16, 64],
            Experiment::Exp6 => &[4, 8, 16, 32, 64],
            Experiment::Exp0b
            | Experiment::Exp1
            | Experiment::Exp3
            | Experiment::Exp4
            | Experiment::Exp5
            | Experiment::Ablation => &[64],
        }
    }

    /// Images.
    #[must_use]
    pub fn num_images(self) -> usize {
        match self {
            Experiment::Exp5 => 5_000,
            Experiment::Exp1 | Experiment::Exp3 => 1_000,
            _ => 500,
        }
    }

    /// Whether the shape of what passes spread over is kept.
    #[must_use]
    pub fn has_geometry(self) -> bool {
        matches!(self, Experiment::Exp0b | Experiment::Exp3)
    }

    /// The study's name of the list of images.
    #[must_use]
    pub fn manifest(self) -> &'static str {
        match self {
            Experiment::Mc => "manifest.json",
            Experiment::Exp0 => "phase1_exp0_manifest.json",
            Experiment::Exp0b => "phase1_exp0b_manifest.json",
            Experiment::Exp1 => "phase2_exp1_manifest.json",
            Experiment::Exp3 => "phase2_exp3_manifest.json",
            Experiment::Exp4 => "phase1_exp4_manifest.json",
            Experiment::Exp5 => "phase1_exp5_manifest.json",
            Experiment::Exp6 => "phase2_exp6_manifest.json",
            Experiment::Ablation => "ablation_manifest.json",
        }
    }

    /// What is compared; the first condition is what the others are compared with. `rates`: of experiment 1.
    #[must_use]
    pub fn conditions(self, tower: &VisionConfig, sites: &Sites, rates: &[f64]) -> Vec<Condition> {
        let of = |label: &str, sites: Sites, treatment: Option<Treatment>| Condition {
            label: label.to_owned(),
            sites,
            treatment,
            strength: None,
        };
        match self {
            Experiment::Exp1 => rates
                .iter()
                .map(|&rate| Condition { strength: Some(rate), ..of(&rate.to_string(), sites.clone(), None) })
                .collect(),
            Experiment::Exp3 => vec![
                of("A", Sites::Attention, None),
                of("B", Sites::Mlp, None),
                of("C", Sites::Depth, None),
                of("D", single(tower), None),
                of("E", Sites::Uniform, None),
            ],
            Experiment::Ablation => {
                let worse = [
                    Treatment::Blur { radius: 5 },
                    Treatment::Blur { radius: 15 },
                    Treatment::Downsample { by: 4 },
                    Treatment::Downsample { by: 8 },
                ];
                let worse = worse.map(|worse| of(&worse.to_string(), sites.clone(), Some(worse)));
                [of("clean", sites.clone(), None)].into_iter().chain(worse).collect()
            }
            _ => vec![of("all", sites.clone(), None)],
        }
    }
}

/// The one layer that the study takes for "a projection": the last of their names as words are sorted, of which the tenth
/// block's is the last of twelve.
fn single(tower: &VisionConfig) -> Sites {
    if tower.head == VisionHead::Probe {
        return Sites::One("head.mlp.fc2".to_owned());
    }
    let names =
        (0..tower.layers as u32).map(|block| Site::Block { block, layer: BlockLayer::Fc2 }.to_string());
    Sites::One(names.max().expect("a tower has blocks"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_single_layer_is_the_last_word() {
        let tower = serde_json::json!({"model_type": "clip"});
        let tower = VisionConfig::from_hugging_face(tower).unwrap();
        assert_eq!(single(&tower), Sites::One("blocks.9.mlp.fc2".to_owned()));
        let conditions = Experiment::Ablation.conditions(&tower, &Sites::Late(3), &RATES);
        let labels: Vec<&str> = conditions.iter().map(|condition| condition.label.as_str()).collect();
        assert_eq!(labels, ["clean", "blur_r5", "blur_r15", "downsample_4x", "downsample_8x"]);
    }
}
