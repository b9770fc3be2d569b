//! From an image to what a model takes, as the model's own files say: `preprocessor_config.json` of Hugging Face, or
//! `open_clip_config.json`. The two round the place of a crop differently.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::resize::{Filter, Window, resize};
use super::treatment::Treatment;
use super::{PIXELS_MAX, Rgb};
use crate::verdict::{ParseFailure, Verdict};

/// Pixels of a side that a model takes; known ones take up to 560.
const SIDE_MAX: u32 = 4_096;

/// All that is done to an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preprocess {
    /// Which pixels are made.
    pub size: Size,
    /// How.
    pub filter: Filter,
    /// How eight bits become numbers.
    pub numbers: Numbers,
    /// What is done to an image before; nothing as the model's files have it.
    pub treatment: Option<Treatment>,
}

/// Which pixels are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Size {
    /// Both sides, whatever the image's were.
    Squash {
        /// Of the result.
        width: u32,
        /// Of the result.
        height: u32,
    },
    /// The shorter side to `edge`, then the middle.
    Crop {
        /// Of the resized image.
        edge: u32,
        /// Of the result; both at most `edge`.
        width: u32,
        /// Of the result.
        height: u32,
        /// Where the middle is.
        middle: Middle,
    },
}

/// Where a crop begins that leaves an odd number of pixels out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Middle {
    /// Rounded down: Hugging Face.
    Down,
    /// Halves to the even neighbour: torchvision, and so open_clip.
    Even,
}

/// `(value / 255 - mean) / std` for red, green and blue.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Numbers {
    /// Taken off.
    pub mean: [f64; 3],
    /// Divided by.
    pub std: [f64; 3],
}

impl Preprocess {
    /// From `preprocessor_config.json` of a CLIP or SigLIP checkpoint.
    ///
    /// # Errors
    /// A key that is missing or has a value that nothing here does.
    pub fn of_hugging_face(config: &str) -> Result<Preprocess, PreprocessError> {
        let config = parsed(config)?;
        for key in ["do_resize", "do_rescale", "do_normalize"] {
            if config.get(key) == Some(&Value::Bool(false)) {
                return Err(PreprocessError::value(key, &config[key]));
            }
        }
        let rescale = config.get("rescale_factor").and_then(Value::as_f64);
        if rescale.is_some_and(|factor| (factor * 255.0 - 1.0).abs() > 1e-9) {
            return Err(PreprocessError::value("rescale_factor", &config["rescale_factor"]));
        }
        let size = config.get("size").ok_or(PreprocessError::Missing { key: "size" })?;
        // A bare number is the shorter side in CLIP's old files.
        let edge = size.get("shortest_edge").or(Some(size)).and_then(Value::as_u64);
        let crops = config.get("do_center_crop").and_then(Value::as_bool).unwrap_or(false);
        let size = match (edge, crops) {
            (Some(edge), true) => {
                let crop = config.get("crop_size").ok_or(PreprocessError::Missing { key: "crop_size" })?;
                let (width, height) = sides("crop_size", crop)?;
                let edge = side("size", edge)?;
                Size::Crop { edge, width, height, middle: Middle::Down }
            }
            (None, false) => {
                let (width, height) = sides("size", size)?;
                Size::Squash { width, height }
            }
            _ => return Err(PreprocessError::value("size", size)),
        };
        let filter = match config.get("resample").and_then(Value::as_u64) {
            Some(2) => Filter::Bilinear,
            Some(3) => Filter::Bicubic,
            _ => {
                return Err(PreprocessError::value(
                    "resample",
                    config.get("resample").unwrap_or(&Value::Null),
                ));
            }
        };
        let numbers = Numbers { mean: three(&config, "image_mean")?, std: three(&config, "image_std")? };
        Preprocess { size, filter, numbers, treatment: None }.checked()
    }

    /// From `open_clip_config.json`.
    ///
    /// # Errors
    /// A key that is missing or has a value that nothing here does.
    pub fn of_open_clip(config: &str) -> Result<Preprocess, PreprocessError> {
        let config = parsed(config)?;
        let preprocess =
            config.get("preprocess_cfg").ok_or(PreprocessError::Missing { key: "preprocess_cfg" })?;
        let image_size =
            preprocess.get("size").or_else(|| config.pointer("/model_cfg/vision_cfg/image_size"));
        let image_size = image_size.ok_or(PreprocessError::Missing { key: "image_size" })?;
        let (width, height) = sides("image_size", image_size)?;
        let size = match preprocess.get("resize_mode").and_then(Value::as_str).unwrap_or("shortest") {
            "squash" => Size::Squash { width, height },
            "shortest" if width == height => Size::Crop { edge: width, width, height, middle: Middle::Even },
            _ => return Err(PreprocessError::value("resize_mode", &preprocess["resize_mode"])),
        };
        let filter = match preprocess.get("interpolation").and_then(Value::as_str).unwrap_or("bicubic") {
            "bicubic" => Filter::Bicubic,
            "bilinear" => Filter::Bilinear,
            _ => return Err(PreprocessError::value("interpolation", &preprocess["interpolation"])),
        };
        let numbers = Numbers { mean: three(preprocess, "mean")?, std: three(preprocess, "std")? };
        Preprocess { size, filter, numbers, treatment: None }.checked()
    }

    fn checked(self) -> Result<Preprocess, PreprocessError> {
        if let Size::Crop { edge, width, height, .. } = self.size
            && (width > edge || height > edge)
        {
            return Err(PreprocessError::Padding { edge, width, height });
        }
        match self.numbers.std.iter().all(|std| *std > 0.0) {
            true => Ok(self),
            false => Err(PreprocessError::value("image_std", &Value::from(self.numbers.std.to_vec()))),
        }
    }

    /// Width and height of every result.
    #[must_use]
    pub fn sides(&self) -> (u32, u32) {
        match self.size {
            Size::Squash { width, height } | Size::Crop { width, height, .. } => (width, height),
        }
    }

    /// The pixels a model sees of an image.
    ///
    /// # Errors
    /// An image so long and narrow that its resized form would have more pixels than are read.
    pub fn pixels(&self, image: &Rgb) -> Result<Rgb, ParseFailure> {
        let window = self.window(image.width, image.height);
        let too_long = || {
            let why =
                format!("{} x {} pixels are too long and narrow to be resized", image.width, image.height);
            ParseFailure::new(Verdict::TooLarge, why)
        };
        if u64::from(window.full.0) * u64::from(window.full.1) > PIXELS_MAX {
            return Err(too_long());
        }
        let treated = match self.treatment {
            Some(treatment) => Some(treatment.of(image).ok_or_else(too_long)?),
            None => None,
        };
        resize(treated.as_ref().unwrap_or(image), self.filter, window).ok_or_else(too_long)
    }

    fn window(&self, width: u32, height: u32) -> Window {
        match self.size {
            Size::Squash { width, height } => Window::whole(width, height),
            Size::Crop { edge, width: crop_width, height: crop_height, middle } => {
                let (short, long) = (width.min(height), width.max(height));
                // Whole-number division cuts off as `int(edge * long / short)` does.
                let long =
                    (u64::from(edge) * u64::from(long) / u64::from(short)).min(u64::from(u32::MAX)) as u32;
                let full = if width <= height { (edge, long) } else { (long, edge) };
                let at = |full: u32, kept: u32| middle.start(full - kept);
                Window {
                    full,
                    at: (at(full.0, crop_width), at(full.1, crop_height)),
                    size: (crop_width, crop_height),
                }
            }
        }
    }
}

impl Middle {
    fn start(self, left_out: u32) -> u32 {
        match self {
            Middle::Down => left_out / 2,
            Middle::Even => left_out / 2 + u32::from(left_out % 4 == 3),
        }
    }
}

impl Numbers {
    /// What each eight-bit value of each channel becomes, in single precision as both libraries compute it.
    #[must_use]
    pub fn table(&self) -> [[f32; 256]; 3] {
        let of = |channel: usize, value: usize| {
            let (mean, std) = (self.mean[channel] as f32, self.std[channel] as f32);
            (value as f32 / 255.0 - mean) / std
        };
        std::array::from_fn(|channel| std::array::from_fn(|value| of(channel, value)))
    }
}

fn parsed(config: &str) -> Result<Value, PreprocessError> {
    serde_json::from_str(config).map_err(PreprocessError::Json)
}

/// A number for both sides, or one for each.
fn sides(key: &'static str, value: &Value) -> Result<(u32, u32), PreprocessError> {
    let of = |value: Option<&Value>| value.and_then(Value::as_u64);
    let (width, height) = match value {
        Value::Array(both) if both.len() == 2 => (of(both.get(1)), of(both.first())),
        Value::Object(_) => (of(value.get("width")), of(value.get("height"))),
        _ => (value.as_u64(), value.as_u64()),
    };
    match (width, height) {
        (Some(width), Some(height)) => Ok((side(key, width)?, side(key, height)?)),
        _ => Err(PreprocessError::value(key, value)),
    }
}

fn side(key: &'static str, side: u64) -> Result<u32, PreprocessError> {
    let checked = u32::try_from(side).ok().filter(|side| (1..=SIDE_MAX).contains(side));
    checked.ok_or_else(|| PreprocessError::value(key, &Value::from(side)))
}

fn three(config: &Value, key: &'static str) -> Result<[f64; 3], PreprocessError> {
    let value = config.get(key).ok_or(PreprocessError::Missing { key })?;
    let numbers: Option<Vec<f64>> = value.as_array().and_then(|of| of.iter().map(Value::as_f64).collect());
    numbers.and_then(|of| of.try_into().ok()).ok_or_else(|| PreprocessError::value(key, value))
}

/// A model's file that does not say what is done to images.
#[derive(Debug, thiserror::Error)]
pub enum PreprocessError {
    /// Not JSON.
    #[error("not JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// A key that is needed.
    #[error("`{key}` is missing")]
    Missing {
        /// Which.
        key: &'static str,
    },
    /// A value that nothing here does.
    #[error("`{key}` is {value}, which is not known here")]
    Value {
        /// Whose.
        key: &'static str,
        /// What stands there.
        value: String,
    },
    /// A crop that is larger than what it is taken from.
    #[error("a crop of {width} x {height} from a shorter side of {edge} would have to be padded")]
    Padding {
        /// The shorter side.
        edge: u32,
        /// Of the crop.
        width: u32,
        /// Of the crop.
        height: u32,
    },
}

impl PreprocessError {
    fn value(key: &'static str, value: &Value) -> PreprocessError {
        PreprocessError::Value { key, value: value.to_string() }
    }
}
