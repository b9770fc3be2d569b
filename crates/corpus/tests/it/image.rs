//! Pixels against Pillow's: `tests/golden/images_reference.py` made the images and what is wanted of them.

use std::fs;
use std::path::{Path, PathBuf};

use haul_corpus::image::preprocess::{Middle, Numbers, Preprocess, PreprocessError, Size};
use haul_corpus::image::resize::{Filter, Window, resize};
use haul_corpus::image::treatment::Treatment;
use haul_corpus::image::{Rgb, decode};
use haul_corpus::verdict::Verdict;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images").join(name)
}

fn decoded(name: &str) -> Rgb {
    decode(&fs::read(golden(name)).unwrap()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn of_pillow(name: &str) -> Rgb {
    let bytes = fs::read(golden(&format!("{name}.rgb"))).unwrap();
    let side = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    Rgb { width: side(0), height: side(4), pixels: bytes[8..].to_vec() }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `tests/golden/treatments_reference.py` made them.
#[test]
fn images_are_made_worse_as_pillow_makes_them() {
    let treatments = [5, 15].map(|radius| Treatment::Blur { radius });
    for treatment in treatments.into_iter().chain([4, 8].map(|by| Treatment::Downsample { by })) {
        for name in ["rgb.png", "one.png", "large.png"] {
            let expected = of_pillow(&format!("{name}.{treatment}"));
            assert!(treatment.of(&decoded(name)).unwrap() == expected, "{name}, {treatment}");
        }
    }
}

#[test]
fn lossless_images_are_pillows_bit_for_bit() {
    let names = [
        "rgb.png",
        "one.png",
        "rgba.png",
        "grey.png",
        "grey_alpha.png",
        "palette.png",
        "palette_transparent.png",
        "one_bit.png",
        "grey2.png",
        "grey4.png",
        "rgb16.png",
        "grey16.png",
        "grey_alpha16.png",
        "rgba16.png",
        "animated.png",
        "rgb.bmp",
        "palette.bmp",
        "one_bit.bmp",
        "rgba.bmp",
        "lossless.webp",
        "alpha.webp",
        "animated.webp",
    ];
    let differing: Vec<&str> = names.into_iter().filter(|name| decoded(name) != of_pillow(name)).collect();
    assert_eq!(differing, [""; 0]);
}

/// JPEG has no one way to be rounded: Pillow's features come of libjpeg-turbo's, and so must ours.
#[test]
fn lossy_images_are_pillows_bit_for_bit() {
    let names = [
        "sampling0.jpg",
        "sampling1.jpg",
        "sampling2.jpg",
        "progressive.jpg",
        "grey.jpg",
        "cmyk.jpg",
        "rotated.jpg",
        "odd.jpg",
        "odd_rows.jpg",
        "restarts.jpg",
        "coarse.jpg",
        "lossy.webp",
    ];
    let differing: Vec<&str> = names.into_iter().filter(|name| decoded(name) != of_pillow(name)).collect();
    assert_eq!(differing, [""; 0]);
}

#[test]
fn a_preprocessed_photograph_is_pillows_bit_for_bit() {
    // With colours at full size, and at half the size.
    for name in ["scene0.jpg", "scene2.jpg"] {
        let wanted = fs::read(golden(&format!("{name}.clip96"))).unwrap();
        let found = clip(96, Middle::Down).pixels(&decoded(name)).unwrap();
        assert!(found.pixels == wanted, "{name}");
    }
}

fn cases(of: &str) -> Vec<Value> {
    let all: Value = serde_json::from_slice(&fs::read(golden("resized.json")).unwrap()).unwrap();
    all[of].as_array().unwrap().clone()
}

#[test]
fn resizing_is_pillows_bit_for_bit() {
    for case in cases("resized") {
        let image = decoded(case["image"].as_str().unwrap());
        let filter: Filter = serde_json::from_value(case["filter"].clone()).unwrap();
        let pair = |key: &str| (case[key][0].as_u64().unwrap() as u32, case[key][1].as_u64().unwrap() as u32);
        let full = pair("full");
        let whole = resize(&image, filter, Window::whole(full.0, full.1)).unwrap();
        assert_eq!(sha256(&whole.pixels), case["sha256"].as_str().unwrap(), "{case}");
        if full != (1, 1) {
            let window = Window { full, at: pair("at"), size: pair("size") };
            let cut = resize(&image, filter, window).unwrap();
            assert_eq!(sha256(&cut.pixels), case["crop_sha256"].as_str().unwrap(), "{case}");
        }
    }
}

fn clip(edge: u32, middle: Middle) -> Preprocess {
    let mean = [0.481_454_66, 0.457_827_5, 0.408_210_73];
    let std = [0.268_629_54, 0.261_302_58, 0.275_777_11];
    let size = Size::Crop { edge, width: edge, height: edge, middle };
    Preprocess { size, filter: Filter::Bicubic, numbers: Numbers { mean, std }, treatment: None }
}

#[test]
fn preprocessing_is_that_of_both_libraries() {
    for case in cases("processed") {
        let middle: Middle = serde_json::from_value(case["kind"].clone()).unwrap();
        let preprocess = clip(case["edge"].as_u64().unwrap() as u32, middle);
        let pixels = preprocess.pixels(&decoded(case["image"].as_str().unwrap())).unwrap();
        assert_eq!(sha256(&pixels.pixels), case["sha256"].as_str().unwrap(), "{case}");
        let table = preprocess.numbers.table();
        let numbers =
            pixels.pixels.chunks_exact(3).flat_map(|rgb| [0, 1, 2].map(|c| table[c][usize::from(rgb[c])]));
        let sum: f64 = numbers.map(f64::from).sum();
        assert!((sum - case["sum"].as_f64().unwrap()).abs() < 1e-6, "{case}: {sum}");
    }
}

#[test]
fn a_window_beyond_the_image_is_none() {
    let image = decoded("one.png");
    let of = |at, size| resize(&image, Filter::Bicubic, Window { full: (4, 4), at, size });
    assert_eq!(of((3, 0), (2, 1)), None);
    assert_eq!(of((0, 0), (0, 1)), None);
    assert_eq!(of((u32::MAX, 0), (2, 1)), None);
    assert!(of((3, 3), (1, 1)).is_some());
}

/// A strip of 65,535 pixels is cropped without being resized as a whole; a longer one is refused.
#[test]
fn a_strip_costs_what_is_kept_of_it() {
    let strip = Rgb { width: 65_535, height: 300, pixels: vec![7; 65_535 * 300 * 3] };
    let kept = clip(224, Middle::Down).pixels(&strip).unwrap();
    assert!(kept.pixels.iter().all(|value| *value == 7) && kept.width == 224);
    let line = Rgb { width: 65_535, height: 1, pixels: vec![7; 65_535 * 3] };
    let failure = clip(224, Middle::Down).pixels(&line).unwrap_err();
    assert_eq!(failure.to_string(), "too_large: 65535 x 1 pixels are too long and narrow to be resized");
    let squash = Preprocess { size: Size::Squash { width: 224, height: 224 }, ..clip(224, Middle::Down) };
    assert_eq!(squash.pixels(&line).unwrap().pixels.len(), 224 * 224 * 3);
}

fn verdict(bytes: &[u8]) -> String {
    decode(bytes).unwrap_err().to_string()
}

#[test]
fn bad_images_get_a_verdict_that_names_them() {
    assert_eq!(verdict(b""), "empty: zero bytes");
    assert_eq!(verdict(b"just some words\n"), "unsupported: text; JPEG, PNG, BMP and WebP are read");
    let inks = fs::read(golden("inks.jpg")).unwrap();
    assert_eq!(
        verdict(&inks),
        "unsupported: JPEG: four inks, stored at [(2, 2), (1, 1), (1, 1), (1, 1)] of a block, are not read"
    );
    assert_eq!(verdict(b"GIF89a..."), "unsupported: a GIF; JPEG, PNG, BMP and WebP are read");
    assert_eq!(
        verdict(b"<svg/>"),
        "unsupported: markup, such as HTML or SVG; JPEG, PNG, BMP and WebP are read"
    );
    assert_eq!(verdict(&[0; 40]), "unsupported: of no known format; JPEG, PNG, BMP and WebP are read");
    // A header that says more than anyone has.
    let mut png = fs::read(golden("rgb.png")).unwrap();
    png[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 1]);
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(
        verdict(&png),
        "too_large: 65536 x 1 pixels; at most 65535 a side and 178956970 in all are read"
    );
    let mut bmp = fs::read(golden("rgb.bmp")).unwrap();
    bmp[18..26].copy_from_slice(&[0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0]);
    assert!(verdict(&bmp).starts_with("too_large: 65535 x 65535 pixels; at most"));
    bmp[30] = 1;
    bmp[18..26].copy_from_slice(&[8, 0, 0, 0, 8, 0, 0, 0]);
    assert_eq!(verdict(&bmp), "unsupported: a BMP of 24 bits with compression 1");
}

/// The checksum of a PNG chunk.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[test]
fn an_image_that_is_cut_off_is_corrupt() {
    for name in [
        "rgb.png",
        "palette.png",
        "rgb.bmp",
        "sampling2.jpg",
        "progressive.jpg",
        "cmyk.jpg",
        "lossless.webp",
        "lossy.webp",
    ] {
        let whole = fs::read(golden(name)).unwrap();
        for share in [0.3, 0.6, 0.95] {
            let cut = &whole[..(whole.len() as f64 * share) as usize];
            let failure = decode(cut).map(|_| ()).expect_err(name);
            assert_eq!(failure.verdict, Verdict::Corrupt, "{name} at {share}: {failure}");
        }
    }
}

/// A telephone writes a film, or a second picture, behind the first: marks in it said nothing or anything of the first one.
#[test]
fn what_stands_behind_a_jpeg_is_not_read() {
    let whole = fs::read(golden("sampling2.jpg")).unwrap();
    let film = [&[0, 0xff, 0xda, 0, 8][..], &whole[..whole.len() / 2]].concat();
    assert!(decode(&[&whole[..], &film].concat()).unwrap() == of_pillow("sampling2.jpg"));
    // A preview has an end of its own.
    let preview = [&[0xff, 0xe1], &(whole.len() as u16 + 2).to_be_bytes()[..], &whole].concat();
    let cut = [&whole[..2], &preview, &whole[2..whole.len() * 9 / 10]].concat();
    assert_eq!(decode(&cut).unwrap_err().verdict, Verdict::Corrupt);
}

#[test]
fn a_jpeg_of_12_bits_is_unsupported() {
    let mut bytes = fs::read(golden("sampling0.jpg")).unwrap();
    let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    bytes[frame + 1] = 0xc1;
    bytes[frame + 4] = 12;
    assert_eq!(verdict(&bytes), "unsupported: JPEG: values of 12 bits; 8 are read");
}

#[test]
fn damage_never_panics() {
    for name in [
        "rgb.png",
        "palette.bmp",
        "sampling2.jpg",
        "progressive.jpg",
        "lossy.webp",
        "animated.webp",
        "grey4.png",
    ] {
        let whole = fs::read(golden(name)).unwrap();
        for at in 0..whole.len().min(400) {
            for flip in [1, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                if let Ok(image) = decode(&bytes) {
                    assert_eq!(
                        image.pixels.len() as u64,
                        u64::from(image.width) * u64::from(image.height) * 3
                    );
                }
            }
        }
    }
}

#[test]
fn checkpoints_say_what_is_done() {
    let clip_config = json!({
        "crop_size": {"height": 224, "width": 224}, "do_center_crop": true, "do_convert_rgb": true, "do_normalize": true,
        "do_rescale": true, "do_resize": true, "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, "rescale_factor": 1.0 / 255.0,
        "size": {"shortest_edge": 224}
    });
    let read = |config: &Value| Preprocess::of_hugging_face(&config.to_string());
    assert_eq!(read(&clip_config).unwrap(), clip(224, Middle::Down));
    let mut old = clip_config.clone();
    (old["size"], old["crop_size"]) = (json!(224), json!(224));
    assert_eq!(read(&old).unwrap(), clip(224, Middle::Down));
    let siglip = json!({
        "do_resize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 2,
        "size": {"height": 384, "width": 384}
    });
    let found = read(&siglip).unwrap();
    assert_eq!((found.size, found.filter), (Size::Squash { width: 384, height: 384 }, Filter::Bilinear));
    assert_eq!(found.sides(), (384, 384));
    assert_eq!(found.numbers.table()[0][255], 1.0);
    let open_clip = |preprocess: Value| {
        let config = json!({"model_cfg": {"vision_cfg": {"image_size": 224}}, "preprocess_cfg": preprocess});
        Preprocess::of_open_clip(&config.to_string())
    };
    let numbers =
        json!({"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]});
    assert_eq!(open_clip(numbers).unwrap(), clip(224, Middle::Even));
    let squash = open_clip(json!({
        "size": [256, 224], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic",
        "resize_mode": "squash"
    }));
    assert_eq!(squash.unwrap().size, Size::Squash { width: 224, height: 256 });
}

#[test]
fn what_a_checkpoint_does_not_say_is_not_guessed() {
    let config = json!({
        "do_center_crop": true, "crop_size": 224, "size": 224, "resample": 3, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]
    });
    let refused = |key: &str, value: Value| {
        let mut config = config.clone();
        match value {
            Value::Null => drop(config.as_object_mut().unwrap().remove(key)),
            value => config[key] = value,
        }
        Preprocess::of_hugging_face(&config.to_string()).unwrap_err().to_string()
    };
    assert_eq!(refused("size", Value::Null), "`size` is missing");
    assert_eq!(refused("crop_size", Value::Null), "`crop_size` is missing");
    assert_eq!(refused("image_mean", Value::Null), "`image_mean` is missing");
    assert_eq!(refused("resample", json!(1)), "`resample` is 1, which is not known here");
    assert_eq!(refused("do_rescale", json!(false)), "`do_rescale` is false, which is not known here");
    assert_eq!(refused("rescale_factor", json!(1.0)), "`rescale_factor` is 1.0, which is not known here");
    assert_eq!(
        refused("image_std", json!([0, 1, 1])),
        "`image_std` is [0.0,1.0,1.0], which is not known here"
    );
    assert_eq!(refused("size", json!(99_999)), "`size` is 99999, which is not known here");
    assert_eq!(refused("do_center_crop", json!(false)), "`size` is 224, which is not known here");
    assert_eq!(
        refused("crop_size", json!(300)),
        "a crop of 300 x 300 from a shorter side of 224 would have to be padded"
    );
    assert!(matches!(Preprocess::of_hugging_face("no"), Err(PreprocessError::Json(_))));
}
