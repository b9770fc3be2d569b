//! Image towers against transformers and open_clip.

use std::num::NonZeroUsize;

use haul_encoder::device::Device;
use haul_encoder::device::cpu::CpuDevice;
use haul_encoder::device::reference::ReferenceDevice;
use haul_encoder::vision::{ImageEncoder, Levels, VisionError};
use haul_kernels::dtype::Dtype;
use haul_kernels::isa::Isa;
use serde::Deserialize;

use crate::common::golden_file;

const FAMILIES: [&str; 3] = ["clip", "siglip", "open-clip"];
const IMAGES: usize = 3;
const SIDE: usize = 20;
const IMAGE_BYTES: usize = SIDE * SIDE * 3;

#[derive(Deserialize)]
struct Golden {
    mean: [f32; 3],
    std: [f32; 3],
    features: Vec<Vec<f32>>,
}

impl Golden {
    fn of(family: &str) -> Golden {
        let file = golden_file(&format!("tiny-{family}-golden.json"));
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
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
    ImageEncoder::load(&golden_file(&format!("tiny-{family}")), device).unwrap()
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
        let mut devices: Vec<Box<dyn Device>> = vec![Box::new(ReferenceDevice)];
        devices.extend(cpu(Dtype::F32).into_iter().map(|device| Box::new(device) as Box<dyn Device>));
        for device in devices {
            let found = features(&encoder(family, &*device), &pixels(), &golden.levels());
            assert_eq!(found.len(), golden.features.len());
            for (found, golden) in found.iter().zip(&golden.features) {
                assert_eq!(found.len(), golden.len());
                let largest = found.iter().zip(golden).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(largest < 1e-4, "{family}, {}: {largest}", device.name());
            }
        }
    }
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
