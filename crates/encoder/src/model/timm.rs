//! SigLIP's image towers as timm names and shapes them; open_clip's SigLIP checkpoints have them. The name of a model says
//! everything: `vit_so400m_patch14_siglip_378`.

use haul_kernels::act::Activation;

use crate::model::blocks::Names;
use crate::model::vision::{OpenClipVision, VisionConfig, VisionHead};
use crate::model::{ConfigError, unsupported};

/// Sizes by their names in timm: columns, blocks, heads, columns inside the feed-forward.
const SIZES: [(&str, [usize; 4]); 4] = [
    ("base", [768, 12, 12, 3072]),
    ("large", [1024, 24, 16, 4096]),
    ("so400m", [1152, 27, 16, 4304]),
    ("giantopt", [1536, 40, 16, 6144]),
];
/// Towers of SigLIP 2 that have no twin in SigLIP; timm gives GELU by tanh to them alone: size, patch, image.
const WITH_TANH: [(&str, usize, &[usize]); 4] = [
    ("base", 32, &[256]),
    ("large", 16, &[512]),
    ("so400m", 16, &[256, 384, 512]),
    ("giantopt", 16, &[256, 384]),
];

/// The tower of a name.
pub(super) fn tower(
    name: &str,
    vision: &OpenClipVision,
    embed_dim: usize,
) -> Result<VisionConfig, ConfigError> {
    let refused = |key, value: &str, why| Err(unsupported(key, value.to_owned(), why));
    let Some(Named { size, patch_size, image_size }) = Named::of(name) else {
        return refused(
            "timm_model_name",
            name,
            "SigLIP's towers with a MAP head run, vit_base_patch16_siglip_224 and its kin",
        );
    };
    let Some(&(_, [hidden_size, layers, heads, intermediate_size])) = SIZES.iter().find(|of| of.0 == size)
    else {
        return refused("timm_model_name", name, "base, large, so400m and giantopt run");
    };
    if vision.timm_pool != "map" {
        return refused("timm_pool", &vision.timm_pool, "the features of SigLIP come from its MAP head");
    }
    if vision.timm_proj != "none" || embed_dim != hidden_size {
        return refused("timm_proj", &vision.timm_proj, "the features of SigLIP are not projected");
    }
    let has_tanh =
        WITH_TANH.iter().any(|of| of.0 == size && of.1 == patch_size && of.2.contains(&image_size));
    Ok(VisionConfig {
        image_size: vision.image_size,
        patch_size,
        hidden_size,
        layers,
        heads,
        intermediate_size,
        activation: if has_tanh { Activation::GeluTanh } else { Activation::GeluErf },
        layer_norm_eps: 1e-6,
        head: VisionHead::Probe,
        names: Names::Timm,
    })
}

/// What a name says.
struct Named<'n> {
    size: &'n str,
    patch_size: usize,
    image_size: usize,
}

impl Named<'_> {
    /// `vit_SIZE_patchN_siglip_N`; what stands behind a dot says which weights.
    fn of(name: &str) -> Option<Named<'_>> {
        let name = name.split('.').next()?;
        let (size, rest) = name.strip_prefix("vit_")?.split_once("_patch")?;
        let (patch_size, image_size) = rest.split_once("_siglip_")?;
        Some(Named { size, patch_size: patch_size.parse().ok()?, image_size: image_size.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, embed_dim: usize, image_size: usize) -> Result<VisionConfig, ConfigError> {
        VisionConfig::from_open_clip(serde_json::json!({"model_cfg": {
            "embed_dim": embed_dim,
            "vision_cfg": {"image_size": image_size, "timm_model_name": name, "timm_pool": "map", "timm_proj": "none"},
        }}))
    }

    /// As timm 1.0.31 builds them.
    #[test]
    fn names_say_what_towers_are_like() {
        let so400m = read("vit_so400m_patch14_siglip_378", 1152, 378).unwrap();
        assert_eq!((so400m.hidden_size, so400m.layers, so400m.heads), (1152, 27, 16));
        assert_eq!((so400m.intermediate_size, so400m.tokens()), (4304, 729));
        assert_eq!(so400m.activation, Activation::GeluErf);
        let giant = read("vit_giantopt_patch16_siglip_384.v2_webli", 1536, 384).unwrap();
        assert_eq!(
            (giant.intermediate_size, giant.layers, giant.activation),
            (6144, 40, Activation::GeluTanh)
        );
        let plain = [("vit_base_patch16_siglip_512", 768, 512), ("vit_large_patch16_siglip_384", 1024, 384)];
        for (name, width, side) in plain {
            assert_eq!(read(name, width, side).unwrap().activation, Activation::GeluErf, "{name}");
        }
        for (name, width, side) in
            [("vit_base_patch32_siglip_256", 768, 256), ("vit_so400m_patch16_siglip_256", 1152, 256)]
        {
            assert_eq!(read(name, width, side).unwrap().activation, Activation::GeluTanh, "{name}");
        }
    }

    #[test]
    fn other_towers_are_refused_by_name() {
        for (name, width, expected) in [
            ("vit_base_patch16_siglip_gap_224", 768, "timm_model_name"),
            ("vit_huge_patch16_siglip_224", 1280, "base, large, so400m"),
            ("convnext_base", 768, "MAP head"),
            ("vit_base_patch16_siglip_224", 512, "timm_proj"),
        ] {
            let said = read(name, width, 224).unwrap_err().to_string();
            assert!(said.contains(expected), "{name}: {said}");
        }
    }
}
