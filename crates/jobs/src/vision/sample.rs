//! Which images of many are taken: as numpy's `default_rng(seed).choice` draws them, bit for bit, or evenly by class.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Above so many, and above one in [`TAIL_SHARE`] of them, numpy shuffles the end of a list instead of drawing.
const FLOYD_ITEMS_MAX: u64 = 10_000;
const TAIL_SHARE: u64 = 50;
/// What numpy's table of drawn numbers has beside them.
const TABLE_SLACK: f64 = 1.2;
/// Words of a seed that are mixed.
const POOL: usize = 4;
/// PCG's multiplier of 128 bits (O'Neill 2014).
const MULTIPLIER: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;

/// `sort(default_rng(seed).choice(items, count, replace=False))`: the sample that the original study takes.
#[must_use]
pub fn as_numpy(items: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut chosen = choice(items as u64, count.min(items) as u64, seed);
    chosen.sort_unstable();
    chosen.into_iter().map(|item| item as usize).collect()
}

/// `default_rng(seed).choice(items, count, replace=False)`, in numpy's order.
#[must_use]
pub fn choice(items: u64, count: u64, seed: u64) -> Vec<u64> {
    let mut random = Pcg64::seeded(seed);
    if items > FLOYD_ITEMS_MAX && count > items / TAIL_SHARE {
        let mut all: Vec<u64> = (0..items).collect();
        random.shuffle_from(&mut all, (items - count).max(1));
        return all.split_off((items - count) as usize);
    }
    let mut chosen = random.floyd(items, count);
    random.shuffle_from(&mut chosen, 1);
    chosen
}

/// As many images of each folder as of the next, as far as they go; images are taken by a hash of their path below
/// `root`, so that new ones displace only few. In the order of `paths`.
#[must_use]
pub fn by_class(root: &Path, paths: &[PathBuf], count: usize, seed: u64) -> Vec<usize> {
    let key = |path: &Path| {
        let relative = path.strip_prefix(root).unwrap_or(path);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(relative.as_os_str().as_encoded_bytes());
        *hasher.finalize().as_bytes()
    };
    let mut classes: BTreeMap<&Path, Vec<usize>> = BTreeMap::new();
    for (no, path) in paths.iter().enumerate() {
        classes.entry(path.parent().unwrap_or(root)).or_default().push(no);
    }
    let mut classes: Vec<(&Path, Vec<usize>)> = classes.into_iter().collect();
    classes.iter_mut().for_each(|(_, images)| images.sort_by_cached_key(|&no| key(&paths[no])));
    // Where places do not go round, it is chance which folders get one.
    classes.sort_by_cached_key(|(folder, _)| key(folder));
    let mut chosen = Vec::new();
    for place in 0.. {
        let left = count - chosen.len();
        let next: Vec<usize> =
            classes.iter().filter_map(|(_, images)| images.get(place).copied()).take(left).collect();
        if next.is_empty() {
            break;
        }
        chosen.extend(next);
    }
    chosen.sort_unstable();
    chosen
}

/// PCG XSL-RR 128/64 as numpy seeds and steps it, with the half of a number of 64 bits that was not used yet.
struct Pcg64 {
    state: u128,
    increment: u128,
    half: Option<u32>,
}

impl Pcg64 {
    fn seeded(seed: u64) -> Pcg64 {
        let [high, low, stream_high, stream_low] = seed_state(seed);
        let pair = |high: u64, low: u64| u128::from(high) << 64 | u128::from(low);
        let mut random = Pcg64 { state: 0, increment: pair(stream_high, stream_low) << 1 | 1, half: None };
        random.step();
        random.state = random.state.wrapping_add(pair(high, low));
        random.step();
        random
    }

    fn step(&mut self) {
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(self.increment);
    }

    fn next_u64(&mut self) -> u64 {
        self.step();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    fn next_u32(&mut self) -> u32 {
        self.half.take().unwrap_or_else(|| {
            let both = self.next_u64();
            self.half = Some((both >> 32) as u32);
            both as u32
        })
    }

    /// From 0 to `last`, by Lemire's multiplication.
    fn up_to(&mut self, last: u64) -> u64 {
        match u32::try_from(last) {
            Ok(0) => 0,
            Ok(u32::MAX) => u64::from(self.next_u32()),
            Ok(last) => {
                let ends = u64::from(last) + 1;
                let threshold = u64::from(u32::MAX - last) % ends;
                loop {
                    let product = u64::from(self.next_u32()) * ends;
                    if product & u64::from(u32::MAX) >= threshold {
                        return product >> 32;
                    }
                }
            }
            Err(_) => {
                let Some(ends) = last.checked_add(1) else { return self.next_u64() };
                let threshold = (u64::MAX - last) % ends;
                loop {
                    let product = u128::from(self.next_u64()) * u128::from(ends);
                    if product as u64 >= threshold {
                        return (product >> 64) as u64;
                    }
                }
            }
        }
    }

    /// Fisher and Yates from the end down to `first`.
    fn shuffle_from(&mut self, items: &mut [u64], first: u64) {
        for at in (first..items.len() as u64).rev() {
            items.swap(at as usize, self.up_to(at) as usize);
        }
    }

    /// Floyd's sampling over a table with linear probing.
    fn floyd(&mut self, items: u64, count: u64) -> Vec<u64> {
        let size = (TABLE_SLACK * count as f64) as u64;
        let mask = size.checked_ilog2().map_or(0, |bits| u64::MAX >> (63 - bits));
        let mut table = vec![u64::MAX; mask as usize + 1];
        let mut chosen = Vec::with_capacity(count as usize);
        for last in items - count..items {
            let mut place = |value: u64| {
                let mut at = value & mask;
                while table[at as usize] != u64::MAX && table[at as usize] != value {
                    at = (at + 1) & mask;
                }
                std::mem::replace(&mut table[at as usize], value) == u64::MAX
            };
            let drawn = self.up_to(last);
            // What was drawn before makes room for the last one, which cannot have been.
            let taken = if place(drawn) { drawn } else { last };
            if taken != drawn {
                place(last);
            }
            chosen.push(taken);
        }
        chosen
    }
}

/// Four words of numpy's `SeedSequence(seed)`.
fn seed_state(seed: u64) -> [u64; 4] {
    const MULT_A: u32 = 0x931e_8875;
    const MULT_B: u32 = 0x58f3_8ded;
    let mut constant: u32 = 0x43b0_d7e5;
    let mut hashed = |value: u32| {
        let value = value ^ constant;
        constant = constant.wrapping_mul(MULT_A);
        let value = value.wrapping_mul(constant);
        value ^ value >> 16
    };
    let mut pool = [seed as u32, (seed >> 32) as u32, 0, 0].map(&mut hashed);
    for from in 0..POOL {
        for to in (0..POOL).filter(|to| *to != from) {
            let (x, y) = (pool[to], hashed(pool[from]));
            let mixed = x.wrapping_mul(0xca01_f9dd).wrapping_sub(y.wrapping_mul(0x4973_f715));
            pool[to] = mixed ^ mixed >> 16;
        }
    }
    let mut constant: u32 = 0x8b51_f9dd;
    let mut word = |no: usize| {
        let value = pool[no % POOL] ^ constant;
        constant = constant.wrapping_mul(MULT_B);
        let value = value.wrapping_mul(constant);
        u64::from(value ^ value >> 16)
    };
    [0, 1, 2, 3].map(|no| word(2 * no) | word(2 * no + 1) << 32)
}
