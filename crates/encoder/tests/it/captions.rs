//! Text towers against transformers and open_clip.

use std::num::NonZeroUsize;

use haul_encoder::captions::{CaptionEncoder, Likeness};
use haul_encoder::device::Device;
use haul_encoder::device::cpu::CpuDevice;
use haul_encoder::device::reference::ReferenceDevice;
use haul_encoder::vision::VisionError;
use haul_kernels::dtype::Dtype;
use haul_kernels::isa::Isa;
use serde::Deserialize;

use crate::common::golden_file;

const FAMILIES: [&str; 3] = ["clip", "siglip", "open-clip"];

#[derive(Deserialize)]
struct Golden {
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    features: Vec<Vec<f32>>,
    scale: f32,
    bias: f32,
}

impl Golden {
    fn of(family: &str) -> Golden {
        let file = golden_file(&format!("tiny-{family}-text-golden.json"));
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    }
}

fn encoder(family: &str, device: &dyn Device) -> CaptionEncoder {
    CaptionEncoder::load(&golden_file(&format!("tiny-{family}-text")), device).unwrap()
}

fn devices(dtype: Dtype) -> impl Iterator<Item = Box<dyn Device>> {
    let cpu = move |isa| Box::new(CpuDevice::new(isa, dtype, NonZeroUsize::MIN)) as Box<dyn Device>;
    Isa::available().into_iter().map(cpu)
}

fn largest_difference(found: &[Vec<f32>], golden: &[Vec<f32>]) -> f32 {
    assert_eq!(found.len(), golden.len());
    let rows = found.iter().zip(golden);
    rows.flat_map(|(a, b)| a.iter().zip(b).map(|(a, b)| (a - b).abs())).fold(0.0, f32::max)
}

#[test]
fn features_are_those_of_the_originals() {
    for family in FAMILIES {
        let golden = Golden::of(family);
        let reference = Box::new(ReferenceDevice) as Box<dyn Device>;
        for device in devices(Dtype::F32).chain([reference]) {
            let encoder = encoder(family, &*device);
            let ids: Vec<_> = golden.texts.iter().map(|text| encoder.ids(text).unwrap()).collect();
            assert_eq!(ids, golden.ids, "{family}");
            let off = largest_difference(&encoder.features(&golden.texts).unwrap(), &golden.features);
            assert!(off < 1e-4, "{family}, {}: {off}", device.name());
            let Likeness { scale, bias } = encoder.likeness();
            assert!((scale / golden.scale - 1.0).abs() < 1e-5, "{family}: {scale}");
            assert_eq!(bias, golden.bias, "{family}");
        }
    }
}

#[test]
fn the_faster_numbers_err_little() {
    for family in FAMILIES {
        let golden = Golden::of(family);
        let lengths: Vec<f32> =
            golden.features.iter().map(|row| row.iter().map(|x| x * x).sum::<f32>().sqrt()).collect();
        let longest = lengths.iter().copied().fold(0.0, f32::max);
        for dtype in [Dtype::Bf16, Dtype::Int8] {
            for device in devices(dtype) {
                let found = encoder(family, &*device).features(&golden.texts).unwrap();
                let off = largest_difference(&found, &golden.features) / longest;
                assert!(off < 0.05, "{family}, {}: {off}", device.name());
            }
        }
    }
}

/// A text gives the same features whatever stands in its batch.
#[test]
fn a_text_alone_is_the_text_among_others_to_the_bit() {
    for family in FAMILIES {
        let golden = Golden::of(family);
        for device in devices(Dtype::F32) {
            let encoder = encoder(family, &*device);
            let together = encoder.features(&golden.texts).unwrap();
            for (text, row) in golden.texts.iter().zip(&together) {
                assert_eq!(encoder.features(std::slice::from_ref(text)).unwrap(), std::slice::from_ref(row));
            }
        }
    }
}

/// SigLIP filled up with nothing at all once gave nearly the same features for every text.
#[test]
fn siglip_without_its_padding_token_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden_file("tiny-siglip-text")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let config = folder.path().join("tokenizer_config.json");
    for content in [Some(r#"{"pad_token": {"content": "<nothing>"}}"#), Some("{}"), None] {
        match content {
            Some(content) => std::fs::write(&config, content).unwrap(),
            None => std::fs::remove_file(&config).unwrap(),
        }
        let error = CaptionEncoder::load(folder.path(), &ReferenceDevice).err().unwrap();
        assert!(matches!(error, VisionError::Config { .. }), "{error}");
        assert!(error.to_string().contains("pad_token"), "{error}");
    }
}
