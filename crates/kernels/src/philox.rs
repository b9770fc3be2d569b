//! Dropout masks as a function of where they are: counters, not a stream, so no mask depends on what was drawn before
//! it, on a batch, a thread or a device.

/// Rounds of Philox-4x32 (Salmon, Moraes, Dror, Shaw 2011).
const ROUNDS: usize = 10;
const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
/// Elements of one block of random numbers.
const LANES: u64 = 4;

/// One block of Philox-4x32-10.
#[must_use]
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let [x, y] = [0, 1].map(|no| u64::from(MULTIPLIERS[no]) * u64::from(counter[2 * no]));
        counter = [
            (y >> 32) as u32 ^ counter[1] ^ key[0],
            y as u32,
            (x >> 32) as u32 ^ counter[3] ^ key[1],
            x as u32,
        ];
        key = [0, 1].map(|no| key[no].wrapping_add(WEYL[no]));
    }
    counter
}

/// What one pass of one image draws its masks from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassKey {
    key: [u32; 2],
    more: [u32; 2],
}

impl PassKey {
    /// `image` is a number of the image itself, such as the beginning of its hash, not its place in a list.
    #[must_use]
    pub fn new(seed: u64, image: u64, trial: u32, pass: u32) -> PassKey {
        let [image_low, image_high] = halves(image);
        let [a, b, c, d] = philox([image_low, image_high, trial, pass], halves(seed));
        PassKey { key: [a, b], more: [c, d] }
    }

    /// The mask of a site: element by element, what a value is multiplied by. `first` is the place of `mask[0]` in the
    /// site's output, so that pieces of it can be drawn apart.
    #[must_use]
    pub fn site(self, site: u32, dropout: Dropout) -> SiteMask {
        SiteMask { pass: self, site, dropout }
    }
}

/// How many elements are dropped, and what that makes of the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Numbers below it drop their element.
    below: u64,
    scale: f32,
}

impl Dropout {
    /// None where `p` is not a share from 0 to below 1.
    #[must_use]
    pub fn new(p: f64) -> Option<Dropout> {
        (0.0..1.0).contains(&p).then(|| Dropout {
            below: (p * 2.0_f64.powi(32)).round() as u64,
            scale: (1.0 / (1.0 - p)) as f32,
        })
    }

    /// `1 / (1 - p)`
    #[must_use]
    pub fn scale(self) -> f32 {
        self.scale
    }

    fn of(self, random: u32) -> f32 {
        if u64::from(random) < self.below { 0.0 } else { self.scale }
    }
}

/// The mask of one site in one pass of one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SiteMask {
    pass: PassKey,
    site: u32,
    dropout: Dropout,
}

impl SiteMask {
    /// Writes what elements from `first` on are multiplied by: 0, or [`Dropout::scale`]. A site has fewer than 2^34
    /// elements.
    pub fn fill(&self, first: u64, mask: &mut [f32]) {
        let mut element = first;
        let mut rest = mask;
        while !rest.is_empty() {
            let start = (element % LANES) as usize;
            let block = self.block(element / LANES);
            let take = (LANES as usize - start).min(rest.len());
            let (piece, after) = rest.split_at_mut(take);
            piece.iter_mut().zip(&block[start..]).for_each(|(mask, random)| *mask = self.dropout.of(*random));
            element += take as u64;
            rest = after;
        }
    }

    fn block(&self, block: u64) -> [u32; 4] {
        let [more_low, more_high] = self.pass.more;
        philox([block as u32, self.site, more_low, more_high], self.pass.key)
    }
}

fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}
