//! Images made worse on purpose, as Pillow makes them worse, bit for bit: what a measure of uncertainty must see.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Rgb;
use super::resize::{Filter, Window, resize};

/// Box blurs that make one of Gauss.
const PASSES: usize = 3;
/// Bits behind the point of a weight.
const PRECISION_BITS: u32 = 24;

/// What is done to an image before it is resized for a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Treatment {
    /// `image.filter(ImageFilter.GaussianBlur(radius))`.
    Blur {
        /// In pixels.
        radius: u32,
    },
    /// Resized bilinearly to a part of its sides, and back.
    Downsample {
        /// Which part.
        by: u32,
    },
}

impl Treatment {
    /// The image made worse. None where it is too large to be held twice.
    #[must_use]
    pub fn of(self, image: &Rgb) -> Option<Rgb> {
        match self {
            Treatment::Blur { radius } => Some(blurred(image, radius as f32)),
            Treatment::Downsample { by } => {
                let (width, height) = ((image.width / by).max(1), (image.height / by).max(1));
                let small = resize(image, Filter::Bilinear, Window::whole(width, height))?;
                resize(&small, Filter::Bilinear, Window::whole(image.width, image.height))
            }
        }
    }
}

impl fmt::Display for Treatment {
    /// As the study calls it: `blur_r5`, `downsample_4x`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Treatment::Blur { radius } => write!(formatter, "blur_r{radius}"),
            Treatment::Downsample { by } => write!(formatter, "downsample_{by}x"),
        }
    }
}

fn blurred(image: &Rgb, radius: f32) -> Rgb {
    let boxes = Boxes::new(box_radius(radius));
    let along_rows = boxes.passes(&image.pixels, image.width as usize);
    let turned = transposed(&along_rows, image.width as usize);
    let along_columns = boxes.passes(&turned, image.height as usize);
    Rgb { pixels: transposed(&along_columns, image.height as usize), ..*image }
}

/// The radius of the box that, taken [`PASSES`] times, spreads as a Gaussian of that radius does (Gwosdek, Grewenig, Bruhn,
/// Weickert 2011).
fn box_radius(radius: f32) -> f32 {
    let variance = radius * radius / PASSES as f32;
    let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
    let whole = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
    let part = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance)
        / (6.0 * (variance - (whole + 1.0) * (whole + 1.0)));
    whole + part
}

/// A box with soft edges: so many whole pixels on each side, and a part of the next.
struct Boxes {
    radius: usize,
    whole: u32,
    edge: u32,
}

impl Boxes {
    fn new(radius: f32) -> Boxes {
        let pixels = radius as u32;
        let whole = ((1_u32 << PRECISION_BITS) as f32 / (radius * 2.0 + 1.0)) as u32;
        let edge = ((1 << PRECISION_BITS) - (2 * pixels + 1) * whole) / 2;
        Boxes { radius: pixels as usize, whole, edge }
    }

    fn passes(&self, pixels: &[u8], width: usize) -> Vec<u8> {
        let mut pixels = pixels.to_vec();
        for _ in 0..PASSES {
            let mut out = Vec::with_capacity(pixels.len());
            pixels.chunks_exact(3 * width).for_each(|row| self.row(row, width, &mut out));
            pixels = out;
        }
        pixels
    }

    /// Beyond the ends of a row, its last pixel goes on.
    fn row(&self, row: &[u8], width: usize, out: &mut Vec<u8>) {
        let radius = self.radius as isize;
        let at = |x: isize| &row[3 * x.clamp(0, width as isize - 1) as usize..][..3];
        let mut sums = [0_u32; 3];
        for x in -radius - 1..radius {
            sums.iter_mut().zip(at(x)).for_each(|(sum, &value)| *sum += u32::from(value));
        }
        for x in 0..width as isize {
            let (before, last, after) = (at(x - radius - 1), at(x + radius), at(x + radius + 1));
            for channel in 0..3 {
                sums[channel] = sums[channel] + u32::from(last[channel]) - u32::from(before[channel]);
                let edges = u32::from(before[channel]) + u32::from(after[channel]);
                let sum = sums[channel] * self.whole + edges * self.edge;
                out.push((sum.wrapping_add(1 << (PRECISION_BITS - 1)) >> PRECISION_BITS) as u8);
            }
        }
    }
}

fn transposed(pixels: &[u8], width: usize) -> Vec<u8> {
    let height = pixels.len() / 3 / width.max(1);
    let mut out = Vec::with_capacity(pixels.len());
    for x in 0..width {
        for y in 0..height {
            out.extend_from_slice(&pixels[3 * (y * width + x)..][..3]);
        }
    }
    out
}
