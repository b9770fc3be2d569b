//! Names of places in an image tower.

use haul_encoder::model::vision::{Site, VisionConfig};
use haul_jobs::vision::mc::Kind;
use haul_jobs::vision::sites::{Sites, SitesError};
use serde_json::json;

fn tower(kind: &str, blocks: usize) -> VisionConfig {
    let config = json!({"model_type": kind, "vision_config": {"num_hidden_layers": blocks}});
    VisionConfig::from_hugging_face(config).unwrap()
}

fn sites(name: &str, tower: &VisionConfig) -> Vec<String> {
    let set: Sites = name.parse().unwrap();
    assert_eq!(set.to_string(), name);
    set.of(tower).unwrap().iter().map(Site::to_string).collect()
}

#[test]
fn sets_are_what_their_names_say() {
    let clip = tower("clip", 12);
    assert_eq!(sites("uniform", &clip).len(), 48);
    assert_eq!(sites("mlp", &clip).len(), 24);
    assert_eq!(sites("attention", &clip).len(), 24);
    assert_eq!(sites("c_proj", &tower("clip", 2)), ["blocks.0.mlp.fc2", "blocks.1.mlp.fc2"]);
    assert_eq!(sites("late-3", &clip), ["blocks.9.mlp.fc2", "blocks.10.mlp.fc2", "blocks.11.mlp.fc2"]);
    assert_eq!(sites("blocks.3.attn.proj", &clip), ["blocks.3.attn.proj"]);
    assert_eq!(sites("depth", &tower("clip", 2)), ["blocks.0", "blocks.1"]);
    assert_eq!(sites("blocks.11", &clip), ["blocks.11"]);
    let siglip = tower("siglip", 1);
    let of_one =
        ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"].map(|layer| format!("blocks.0.{layer}")).to_vec();
    let head = ["head.mlp.fc1".to_owned(), "head.mlp.fc2".to_owned()];
    assert_eq!(sites("uniform", &siglip), [&of_one[..], &head].concat());
    assert_eq!(sites("mlp", &siglip), [&of_one[2..], &head].concat());
    assert_eq!(sites("late-1", &siglip), ["blocks.0.mlp.fc2"]);
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    for name in ["", "all", "late-0", "late-", "late-+3", "late-03", "late-9999", "block.1.mlp.fc1"] {
        let error = name.parse::<Sites>().unwrap_err();
        assert_eq!(error, SitesError::Unknown { name: name.to_owned() });
    }
    let clip = tower("clip", 12);
    for name in ["late-13", "blocks.12.mlp.fc1", "blocks.03.mlp.fc2", "blocks.3.mlp.fc3", "head.mlp.fc1"] {
        let error = name.parse::<Sites>().unwrap().of(&clip).unwrap_err();
        assert_eq!(error.to_string(), format!("`{name}` is not in the tower, which has 12 blocks"));
    }
}

/// A block has no outputs of its own that noise could be added to.
#[test]
fn blocks_fall_out_and_get_no_noise() {
    let clip = tower("clip", 2);
    for (name, wanted) in [("depth", 2), ("blocks.1", 1)] {
        let set: Sites = name.parse().unwrap();
        assert_eq!(set.under(Kind::Dropout.of(0.1).unwrap(), &clip).unwrap().len(), wanted);
        for kind in [Kind::Gaussian, Kind::Scale] {
            let error = set.under(kind.of(0.1).unwrap(), &clip).unwrap_err();
            assert!(error.to_string().starts_with(&format!("`{name}` leaves whole blocks out")), "{error}");
        }
    }
}
