//! Resampling of eight-bit images with the numbers of Pillow's, bit for bit: whole-number weights of 22 bits, first
//! along rows and then along columns, rounded to eight bits in between.
//!
//! Only what a crop keeps is computed: each pixel depends on its own neighbours alone.

use serde::{Deserialize, Serialize};

use super::Rgb;

/// Bits behind the point of a weight.
const PRECISION_BITS: u32 = 22;
/// Pillow's and Catmull and Rom's.
const BICUBIC_A: f64 = -0.5;

/// How neighbours are weighed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Pillow's 2.
    Bilinear,
    /// Pillow's 3.
    Bicubic,
}

/// A rectangle of the resized image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The image is resized to these.
    pub full: (u32, u32),
    /// Left and top of what is kept of it.
    pub at: (u32, u32),
    /// Width and height of what is kept; within `full`.
    pub size: (u32, u32),
}

impl Window {
    /// All of it.
    #[must_use]
    pub fn whole(width: u32, height: u32) -> Window {
        Window { full: (width, height), at: (0, 0), size: (width, height) }
    }
}

/// `image.resize(full, filter).crop(window)` of Pillow. None where the window is not within the resized image, or one
/// of the two is empty.
#[must_use]
pub fn resize(image: &Rgb, filter: Filter, window: Window) -> Option<Rgb> {
    let fits =
        |at: u32, size: u32, full: u32| size > 0 && at.checked_add(size).is_some_and(|end| end <= full);
    if !fits(window.at.0, window.size.0, window.full.0) || !fits(window.at.1, window.size.1, window.full.1) {
        return None;
    }
    let columns = Axis::new(filter, image.width, window.full.0, window.at.0, window.size.0);
    let rows = Axis::new(filter, image.height, window.full.1, window.at.1, window.size.1);
    let (first, last) = rows.reach();
    let narrow = columns.along_rows(image, first, last);
    let pixels = rows.along_columns(&narrow, window.size.0 as usize, first);
    Some(Rgb { width: window.size.0, height: window.size.1, pixels })
}

/// Weights of what each kept pixel of one axis is made of.
struct Axis {
    /// For each: the first neighbour, and a weight for it and each after it.
    pixels: Vec<(usize, Vec<i32>)>,
}

impl Axis {
    fn new(filter: Filter, from: u32, to: u32, at: u32, size: u32) -> Axis {
        let kept = at..at + size;
        if from == to {
            // Pillow leaves an axis alone that keeps its length.
            return Axis { pixels: kept.map(|no| (no as usize, vec![1 << PRECISION_BITS])).collect() };
        }
        let scale = f64::from(from) / f64::from(to);
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let of = |no: u32| {
            let centre = (f64::from(no) + 0.5) * scale;
            let first = ((centre - support + 0.5) as i64).max(0);
            let end = ((centre + support + 0.5) as i64).min(i64::from(from));
            let weight = |x: i64| filter.weight((x as f64 - centre + 0.5) * (1.0 / stretch));
            let weights: Vec<f64> = (first..end).map(weight).collect();
            let sum: f64 = weights.iter().sum();
            let whole = |weight: f64| {
                let scaled =
                    (if sum == 0.0 { weight } else { weight / sum }) * f64::from(1 << PRECISION_BITS);
                (scaled + if scaled < 0.0 { -0.5 } else { 0.5 }) as i32
            };
            (first as usize, weights.into_iter().map(whole).collect())
        };
        Axis { pixels: kept.map(of).collect() }
    }

    /// From the first neighbour of all to behind the last.
    fn reach(&self) -> (usize, usize) {
        let first = self.pixels.iter().map(|(first, _)| *first).min().unwrap_or(0);
        let last = self.pixels.iter().map(|(first, weights)| first + weights.len()).max().unwrap_or(0);
        (first, last)
    }

    fn along_rows(&self, image: &Rgb, first: usize, last: usize) -> Vec<u8> {
        let stride = image.width as usize * 3;
        let mut out = Vec::with_capacity((last - first) * self.pixels.len() * 3);
        for row in image.pixels[first * stride..last * stride].chunks_exact(stride) {
            for (start, weights) in &self.pixels {
                let mut sums = [1_i32 << (PRECISION_BITS - 1); 3];
                for (pixel, weight) in row[start * 3..].chunks_exact(3).zip(weights) {
                    for (sum, value) in sums.iter_mut().zip(pixel) {
                        *sum += i32::from(*value) * weight;
                    }
                }
                out.extend(sums.map(clip));
            }
        }
        out
    }

    /// `above`: rows of the image that are not in `rows`.
    fn along_columns(&self, rows: &[u8], width: usize, above: usize) -> Vec<u8> {
        let stride = width * 3;
        let mut out = Vec::with_capacity(self.pixels.len() * stride);
        let mut sums = vec![0_i32; stride];
        for (start, weights) in &self.pixels {
            sums.fill(1 << (PRECISION_BITS - 1));
            for (row, weight) in rows[(start - above) * stride..].chunks_exact(stride).zip(weights) {
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += i32::from(*value) * weight;
                }
            }
            out.extend(sums.iter().map(|sum| clip(*sum)));
        }
        out
    }
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Filter::Bilinear if x < 1.0 => 1.0 - x,
            Filter::Bicubic if x < 1.0 => ((BICUBIC_A + 2.0) * x - (BICUBIC_A + 3.0)) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * BICUBIC_A,
            _ => 0.0,
        }
    }
}

fn clip(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}
