//! Image towers against transformers and open_clip.

use std::num::NonZeroUsize;
use std::sync::Arc;

use haul_encoder::device::cpu::CpuDevice;
use haul_encoder::device::reference::ReferenceDevice;
use haul_encoder::device::{Device, Pass, State};
use haul_encoder::model::blocks::Names;
use haul_encoder::model::vision::{HeadLayer, Site, VisionConfig};
use haul_encoder::vision::{ImageEncoder, Levels, VisionError, read_config};
use haul_kernels::dropout::{MaskKey, Rate};
use haul_kernels::dtype::Dtype;
use haul_kernels::isa::Isa;
use haul_kernels::perturb::{Magnitude, Perturbation};
use serde::Deserialize;

use crate::common::golden_file;

const FAMILIES: [&str; 5] = ["clip", "siglip", "open-clip", "so400m", "timm-siglip"];
const IMAGES: usize = 3;
const SIDE: usize = 20;
const IMAGE_BYTES: usize = SIDE * SIDE * 3;

#[derive(Deserialize)]
struct Golden {
    mean: [f32; 3],
    std: [f32; 3],
    seed: u64,
    trial: u32,
    pass: u32,
    image_keys: Vec<u64>,
    features: Vec<Vec<f32>>,
    passes: Vec<GoldenPass>,
}

/// What is left of the images when elements fall out, by masks that numpy makes.
#[derive(Deserialize)]
struct GoldenPass {
    sites: Vec<String>,
    perturb: Option<String>,
    p: f64,
    features: Vec<Vec<f32>>,
}

impl GoldenPass {
    fn perturbation(&self) -> Perturbation {
        let magnitude = Magnitude::new(self.p).unwrap();
        match self.perturb.as_deref() {
            None => dropout(self.p),
            Some("gaussian") => Perturbation::Gaussian(magnitude),
            Some("scale") => Perturbation::Scale(magnitude),
            Some(other) => panic!("{other}"),
        }
    }
}

fn dropout(p: f64) -> Perturbation {
    Perturbation::Dropout(Rate::new(p).unwrap())
}

impl Golden {
    fn of(family: &str) -> Golden {
        let file = golden_file(&format!("tiny-{family}-golden.json"));
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    }

    fn passes(&self) -> Vec<Pass> {
        let mask = |key| MaskKey { key: MaskKey::key_of(self.seed, key), trial: self.trial, pass: self.pass };
        self.image_keys
            .iter()
            .enumerate()
            .map(|(image, &key)| Pass { image, mask: mask(key), only: None })
            .collect()
    }

    fn levels(&self) -> Levels {
        Levels::new(1.0 / 255.0, self.mean, self.std)
    }
}

/// As `make_vision_goldens.py` draws them.
fn pixels() -> Vec<u8> {
    let mut state: u64 = 20_260_403;
    let mut level = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..IMAGES * IMAGE_BYTES).map(|_| level()).collect()
}

fn encoder(family: &str, device: &dyn Device) -> ImageEncoder {
    ImageEncoder::load_as(&golden_file(&format!("tiny-{family}")), config(family), device, &[]).unwrap()
}

fn config(family: &str) -> VisionConfig {
    let config = read_config(&golden_file(&format!("tiny-{family}"))).unwrap();
    // The name of a timm model says its sizes, and there is no name of so small a one.
    if family == "timm-siglip" { VisionConfig { names: Names::Timm, ..config } } else { config }
}

fn with_sites(family: &str, device: &dyn Device, names: &[String]) -> ImageEncoder {
    let all = config(family).sites().into_iter().chain(config(family).depths());
    let sites: Vec<Site> = all.filter(|site| names.contains(&site.to_string())).collect();
    assert_eq!(sites.len(), names.len());
    ImageEncoder::load_as(&golden_file(&format!("tiny-{family}")), config(family), device, &sites).unwrap()
}

fn passes(
    encoder: &ImageEncoder,
    state: &Arc<State>,
    passes: Vec<Pass>,
    perturbation: Perturbation,
) -> Vec<Vec<f32>> {
    let ticket = encoder.pass(state, passes, perturbation).unwrap();
    encoder.collect(ticket).unwrap().iter().map(<[f32]>::to_vec).collect()
}

fn assert_near(what: &str, found: &[Vec<f32>], golden: &[Vec<f32>]) {
    assert_eq!(found.len(), golden.len(), "{what}");
    for (found, golden) in found.iter().zip(golden) {
        assert_eq!(found.len(), golden.len(), "{what}");
        let largest = found.iter().zip(golden).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest < 1e-4, "{what}: {largest}");
    }
}

fn f32_devices() -> Vec<Box<dyn Device>> {
    let mut devices: Vec<Box<dyn Device>> = vec![Box::new(ReferenceDevice)];
    devices.extend(cpu(Dtype::F32).into_iter().map(|device| Box::new(device) as Box<dyn Device>));
    devices
}

fn features(encoder: &ImageEncoder, pixels: &[u8], levels: &Levels) -> Vec<Vec<f32>> {
    let ticket = encoder.submit(pixels, levels).unwrap();
    encoder.collect(ticket).unwrap().iter().map(<[f32]>::to_vec).collect()
}

fn cpu(dtype: Dtype) -> Vec<CpuDevice> {
    Isa::available().into_iter().map(|isa| CpuDevice::new(isa, dtype, NonZeroUsize::MIN)).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn features_are_those_of_the_originals() {
    for family in FAMILIES {
        let golden = Golden::of(family);
        for device in f32_devices() {
            let found = features(&encoder(family, &*device), &pixels(), &golden.levels());
            assert_near(&format!("{family}, {}", device.name()), &found, &golden.features);
        }
    }
}

/// transformers' and open_clip's own layers under masks of numpy, which are ours.
#[test]
fn passes_are_those_of_the_originals_under_the_same_masks() {
    for family in FAMILIES {
        let golden = Golden::of(family);
        assert!(golden.passes.len() >= 5);
        for pass in &golden.passes {
            for device in f32_devices() {
                let encoder = with_sites(family, &*device, &pass.sites);
                let state = Arc::new(encoder.prefix(&pixels(), &golden.levels()).unwrap());
                let found = passes(&encoder, &state, golden.passes(), pass.perturbation());
                let how = (&pass.sites, pass.perturbation());
                let what = format!("{family}, {how:?}, {}", device.name());
                assert_near(&what, &found, &pass.features);
            }
        }
    }
}

/// Each site of each family moves the features, in every mode: none is silently dead.
#[test]
fn every_site_fires() {
    for family in FAMILIES {
        let golden = Golden::of(family);
        for device in
            [Dtype::F32, Dtype::Bf16].map(|dtype| CpuDevice::new(Isa::best(), dtype, NonZeroUsize::MIN))
        {
            for site in encoder(family, &device).config().sites() {
                let encoder = with_sites(family, &device, &[site.to_string()]);
                let state = Arc::new(encoder.prefix(&pixels(), &golden.levels()).unwrap());
                let whole = features(&encoder, &pixels(), &golden.levels());
                let half = Magnitude::new(0.5).unwrap();
                for how in [dropout(0.5), Perturbation::Gaussian(half), Perturbation::Scale(half)] {
                    let found = passes(&encoder, &state, golden.passes(), how);
                    let moves = found.iter().zip(&whole).all(|(a, b)| cosine(a, b) < 0.9999);
                    assert!(moves, "{family} {site} {how}");
                }
            }
        }
    }
}

/// To the bit: alone or together, in any order, on any number of threads, from the state of one image or of all.
#[test]
fn a_pass_does_not_depend_on_its_batch() {
    let golden = Golden::of("clip");
    let names = ["blocks.0.mlp.fc2".to_owned(), "blocks.1.mlp.fc1".to_owned()];
    let noise = Perturbation::Gaussian(Magnitude::new(0.1).unwrap());
    let both = Isa::available().into_iter().flat_map(|isa| [(isa, dropout(0.1)), (isa, noise)]);
    for (isa, how) in both {
        let device = CpuDevice::new(isa, Dtype::Bf16, NonZeroUsize::MIN);
        let encoder = with_sites("clip", &device, &names);
        let state = Arc::new(encoder.prefix(&pixels(), &golden.levels()).unwrap());
        let of = |image: usize, pass: u32| {
            let Pass { mask, .. } = golden.passes()[image];
            Pass { image, mask: MaskKey { pass, ..mask }, only: None }
        };
        let all: Vec<Pass> = (0..15).map(|n| of(n as usize % IMAGES, n / 3)).collect();
        let together = passes(&encoder, &state, all.clone(), how);
        let two = CpuDevice::new(isa, Dtype::Bf16, NonZeroUsize::new(2).unwrap());
        let other = with_sites("clip", &two, &names);
        for (pass, expected) in all.iter().zip(&together) {
            let image = &pixels()[pass.image * IMAGE_BYTES..][..IMAGE_BYTES];
            let alone = Arc::new(other.prefix(image, &golden.levels()).unwrap());
            let found = passes(&other, &alone, vec![Pass { image: 0, ..*pass }], how);
            assert_eq!(&found[0], expected, "{} {how}", isa.name());
        }
    }
}

/// Without anything that falls out, a pass is the forward.
#[test]
fn a_rate_of_zero_changes_nothing() {
    for family in FAMILIES {
        let golden = Golden::of(family);
        let encoder = with_sites(family, &ReferenceDevice, &["blocks.0.mlp.fc2".to_owned()]);
        let state = Arc::new(encoder.prefix(&pixels(), &golden.levels()).unwrap());
        assert_eq!((state.images(), state.bytes() > 0), (IMAGES, true));
        let found = passes(&encoder, &state, golden.passes(), Perturbation::NOTHING);
        assert_near(family, &found, &golden.features);
    }
}

#[test]
fn passes_that_make_no_sense_are_refused() {
    let golden = Golden::of("clip");
    let plain = encoder("clip", &ReferenceDevice);
    assert!(matches!(plain.prefix(&pixels(), &golden.levels()), Err(VisionError::WithoutSites)));
    let encoder = with_sites("clip", &ReferenceDevice, &["blocks.0.mlp.fc1".to_owned()]);
    let state = Arc::new(encoder.prefix(&pixels()[..IMAGE_BYTES], &golden.levels()).unwrap());
    for wrong in [vec![], vec![golden.passes()[1]]] {
        assert!(matches!(encoder.pass(&state, wrong, dropout(0.1)), Err(VisionError::Passes { .. })));
    }
    let head = Site::Head { layer: HeadLayer::Fc1 };
    let refused = ImageEncoder::load_with(&golden_file("tiny-clip"), &ReferenceDevice, &[head]);
    assert_eq!(refused.err().unwrap().to_string(), "the model has no head.mlp.fc1");
}

#[test]
fn reduced_dtypes_stay_near() {
    for family in FAMILIES {
        let golden = Golden::of(family);
        for (dtype, least) in [(Dtype::Bf16, 0.999), (Dtype::Int8, 0.99)] {
            for device in cpu(dtype) {
                let found = features(&encoder(family, &device), &pixels(), &golden.levels());
                for (found, golden) in found.iter().zip(&golden.features) {
                    let cosine = cosine(found, golden);
                    assert!(cosine >= least, "{family}, {dtype:?}: {cosine}");
                }
            }
        }
    }
}

/// To the bit, whatever stands beside it.
#[test]
fn an_image_does_not_depend_on_its_batch() {
    for family in FAMILIES {
        let (levels, pixels) = (Golden::of(family).levels(), pixels());
        for device in cpu(Dtype::F32) {
            let encoder = encoder(family, &device);
            let together = features(&encoder, &pixels, &levels);
            let alone: Vec<_> = pixels
                .chunks_exact(IMAGE_BYTES)
                .flat_map(|image| features(&encoder, image, &levels))
                .collect();
            assert_eq!(together, alone, "{family}");
        }
    }
}

#[test]
fn what_is_no_image_tower_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let said = |config: &str| {
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        ImageEncoder::load(folder.path(), &ReferenceDevice).err().unwrap().to_string()
    };
    let cases = [
        (r#"{"model_type": "bert"}"#, "clip and siglip have an image tower"),
        (r#"{"model_type": "clip", "vision_config": {"patch_size": 300}}"#, "patch_size is 300"),
        (r#"{"model_type": "clip", "vision_config": {"num_attention_heads": 0}}"#, "heads is 0"),
        (r#"{"model_type": "clip", "vision_config": {"num_attention_heads": 5}}"#, "does not divide"),
        (r#"{"model_type": "siglip", "vision_config": {"vision_use_head": false}}"#, "vision_use_head"),
        (r#"{"model_type": "siglip", "vision_config": {"num_channels": 4}}"#, "three colours"),
        (r#"{"model_type": "siglip", "vision_config": {"hidden_act": "mish"}}"#, "hidden_act is \"mish\""),
        ("[", "EOF while parsing"),
        (r#"{"model_type": "siglip"}"#, "there is neither model.safetensors"),
    ];
    for (config, expected) in cases {
        let said = said(config);
        assert!(said.contains(expected), "{config}: {said}");
    }
    let empty = tempfile::tempdir().unwrap();
    let error = ImageEncoder::load(empty.path(), &ReferenceDevice).err().unwrap();
    assert!(matches!(error, VisionError::NoConfig { .. }) && error.hint().is_some());
}

#[test]
fn pixels_that_are_no_whole_images_are_refused() {
    let encoder = encoder("clip", &ReferenceDevice);
    let levels = Golden::of("clip").levels();
    for bytes in [0, 1, IMAGE_BYTES - 1, IMAGE_BYTES + 1] {
        let refused = encoder.submit(&vec![0; bytes], &levels);
        assert!(matches!(refused, Err(VisionError::Pixels { .. })), "{bytes}");
    }
}
