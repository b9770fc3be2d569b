use half::f16;
use haul_kernels::cells::{Cache, Heads, Mask, Scratch, Shape, attend};
use haul_kernels::isa::Isa;
use haul_kernels::reference;

/// The error of f32 sums over a thousand cells.
const TOLERANCE: f64 = 4e-6;

const UNSEEN: f16 = f16::NEG_INFINITY;

/// Tokens of several sequences, and the cells that they share.
struct Batch {
    shape: Shape,
    /// Of each token, with numbers of others between its heads and the next token's.
    queries: Vec<f32>,
    keys: Vec<f16>,
    values: Vec<f16>,
    cells: usize,
    mask: Vec<f16>,
}

/// Numbers that stand between two rows and belong to neither.
const GAP: usize = 3;

impl Batch {
    fn new(tokens: usize, cells: usize, (heads, cache_heads, head_size): (usize, usize, usize)) -> Self {
        let halves = |seed| -> Vec<f16> {
            let numbers = super::random(cells * (cache_heads * head_size + GAP), seed);
            numbers.into_iter().map(f16::from_f32).collect()
        };
        let queries = super::gaussian(tokens * (heads * head_size + GAP), (tokens + 7 * cells) as u64);
        let scale = 1.0 / (head_size as f32).sqrt();
        let shape = Shape { heads, cache_heads, head_size, scale };
        let mask = vec![f16::ZERO; tokens * (cells + GAP)];
        Self { shape, queries, keys: halves(1), values: halves(2), cells, mask }
    }

    fn tokens(&self) -> usize {
        self.mask.len() / (self.cells + GAP)
    }

    /// Hides the cells of which `sees` says so.
    fn masked(mut self, sees: impl Fn(usize, usize) -> bool) -> Self {
        for (token, row) in self.mask.chunks_exact_mut(self.cells + GAP).enumerate() {
            for (cell, mask) in row.iter_mut().enumerate().filter(|(cell, _)| !sees(token, *cell)) {
                // What stands behind the last cell is seen by no one, whatever it says.
                *mask = if cell < self.cells { UNSEEN } else { f16::ONE };
            }
        }
        self
    }

    fn parts(&self) -> (Heads<'_, f32>, Cache<'_>, Mask<'_>) {
        let Shape { heads, cache_heads, head_size, .. } = self.shape;
        let row = cache_heads * head_size + GAP;
        let cache = |data| Heads { data, row, head: head_size };
        (
            Heads { data: &self.queries, row: heads * head_size + GAP, head: head_size },
            Cache { keys: cache(&self.keys), values: cache(&self.values), cells: self.cells },
            Mask { data: &self.mask, row: self.cells + GAP },
        )
    }

    fn run(&self, isa: Isa, scratch: &mut Scratch) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.tokens() * self.shape.heads * self.shape.head_size];
        let (queries, cache, mask) = self.parts();
        attend(isa, self.shape, queries, cache, mask, scratch, &mut out);
        out
    }

    fn check(&self, scratch: &mut Scratch) {
        let mut expected = vec![0.0; self.tokens() * self.shape.heads * self.shape.head_size];
        let (queries, cache, mask) = self.parts();
        reference::attend(self.shape, queries, cache, mask, &mut expected);
        for isa in Isa::available() {
            let what = format!("{} {:?}, {} cells", isa.name(), self.shape, self.cells);
            super::assert_close(&what, &self.run(isa, scratch), &expected, |_| TOLERANCE);
        }
    }
}

/// A beginning that all tokens see, and behind it a few cells of each of four sequences, scattered.
fn sees_as_calls_do(token: usize, cell: usize) -> bool {
    cell < 75 || cell % 4 == token % 4 && cell < 200
}

/// Three sequences far apart: of twelve panels of cells seven are seen by none, and those of a token begin and end elsewhere
/// than those of its neighbours.
fn sees_as_strangers_do(token: usize, cell: usize) -> bool {
    let cells = [100..110, 170..230, 290..300];
    cells[token % 3].contains(&cell)
}

#[test]
fn attention_over_cells_matches_where_tokens_see_cells_far_apart() {
    let mut scratch = Scratch::new();
    for tokens in (1..=14).chain([50]) {
        Batch::new(tokens, 384, (6, 2, 32)).masked(sees_as_strangers_do).check(&mut scratch);
        // Between what a token sees may be panels that it does not see.
        Batch::new(tokens, 384, (2, 2, 16))
            .masked(|token, cell| sees_as_strangers_do(token, cell) || cell == 370 - token)
            .check(&mut scratch);
    }
}

#[test]
fn attention_over_cells_matches_for_every_number_of_tokens() {
    let mut scratch = Scratch::new();
    for tokens in (1..=40).chain([63, 64, 65, 130]) {
        Batch::new(tokens, 256, (2, 2, 32)).masked(sees_as_calls_do).check(&mut scratch);
        // A prompt that is read behind 70 cells of another sequence.
        Batch::new(tokens, 256, (1, 1, 32))
            .masked(|token, cell| (70..=70 + token).contains(&cell))
            .check(&mut scratch);
    }
}

#[test]
fn attention_over_cells_matches_at_every_size_of_heads_and_cache() {
    let mut scratch = Scratch::new();
    for head_size in [16, 32, 48, 64, 80, 96, 112, 128, 256, 400] {
        for (heads, cache_heads) in [(1, 1), (3, 3), (4, 2), (6, 2), (7, 1), (14, 2)] {
            Batch::new(5, 96, (heads, cache_heads, head_size)).masked(sees_as_calls_do).check(&mut scratch);
        }
    }
    // Across blocks of 384 cells, and small again with the same scratch.
    for cells in [32, 352, 384, 416, 768, 1024, 64] {
        Batch::new(9, cells, (4, 2, 32)).check(&mut scratch);
        Batch::new(9, cells, (4, 2, 32)).masked(|token, cell| cell % 9 >= token).check(&mut scratch);
    }
}

#[test]
fn what_a_mask_adds_to_scores_counts() {
    let mut batch = Batch::new(6, 128, (2, 1, 32)).masked(sees_as_calls_do);
    for (at, mask) in batch.mask.iter_mut().enumerate().filter(|(_, mask)| **mask != UNSEEN) {
        *mask = f16::from_f32(-0.125 * (at % 29) as f32);
    }
    batch.check(&mut Scratch::new());
}

#[test]
fn a_token_that_sees_nothing_gets_zeros_beside_others_that_do() {
    let batch = Batch::new(13, 64, (2, 2, 16)).masked(|token, _| token % 3 == 1);
    batch.check(&mut Scratch::new());
    for isa in Isa::available() {
        let out = batch.run(isa, &mut Scratch::new());
        assert!(out[..32].iter().all(|x| *x == 0.0), "{}", isa.name());
        assert!(out[32..64].iter().all(|x| *x != 0.0), "{}", isa.name());
    }
    let batch = Batch::new(2, 64, (2, 2, 16)).masked(|_, _| false);
    batch.check(&mut Scratch::new());
}

/// Scores of different magnitude: the largest may stand in any panel, and what is far below it has no weight.
#[test]
fn large_scores_leave_one_cell() {
    let mut batch = Batch::new(12, 256, (1, 1, 32)).masked(sees_as_calls_do);
    batch.queries.iter_mut().for_each(|x| *x *= 300.0);
    batch.check(&mut Scratch::new());
}

/// A call's answer does not depend on what is answered beside it: neither its tokens nor its cells change a bit.
#[test]
fn a_token_is_computed_alike_beside_others() {
    for sees in [sees_as_calls_do, sees_as_strangers_do] {
        is_computed_alike(sees);
    }
}

fn is_computed_alike(sees: fn(usize, usize) -> bool) {
    const CELLS: usize = 320;
    let together = Batch::new(29, CELLS, (6, 2, 48)).masked(sees);
    for isa in Isa::available() {
        let all = together.run(isa, &mut Scratch::new());
        let width = together.shape.heads * together.shape.head_size;
        for token in 0..29 {
            let mut alone = Batch::new(29, CELLS, (6, 2, 48)).masked(sees);
            alone.queries.drain(..token * (width + GAP));
            alone.queries.truncate(width + GAP);
            alone.mask.drain(..token * (CELLS + GAP));
            alone.mask.truncate(CELLS + GAP);
            // What this token does not see may be anything.
            for cell in (0..CELLS).filter(|&cell| !sees(token, cell)) {
                alone.keys[cell * (2 * 48 + GAP)..][..2 * 48].fill(f16::from_f32(9.0));
                alone.values[cell * (2 * 48 + GAP)..][..2 * 48].fill(f16::from_f32(-9.0));
            }
            let one = alone.run(isa, &mut Scratch::new());
            let beside = &all[token * width..][..width];
            assert_eq!(super::bits(&one), super::bits(beside), "{} token {token}", isa.name());
        }
    }
}

/// An overflow in one call is not passed on by its keys.
#[test]
fn a_key_that_is_not_seen_may_be_infinite() {
    let mut batch = Batch::new(3, 64, (1, 1, 32)).masked(|_, cell| cell != 40);
    batch.keys[40 * (32 + GAP)..][..32].fill(f16::INFINITY);
    batch.check(&mut Scratch::new());
    let mut batch = batch.masked(|_, _| true);
    batch.mask.fill(f16::ZERO);
    for isa in Isa::available() {
        let out = batch.run(isa, &mut Scratch::new());
        assert!(out.iter().all(|x| x.is_nan()), "{}: what is seen is passed on", isa.name());
    }
}

#[test]
#[should_panic(expected = "33 cells")]
fn cells_come_in_whole_panels() {
    Batch::new(1, 33, (1, 1, 32)).run(Isa::Generic, &mut Scratch::new());
}

#[test]
#[should_panic(expected = "heads of 20")]
fn heads_come_in_whole_vectors() {
    Batch::new(1, 32, (1, 1, 20)).run(Isa::Generic, &mut Scratch::new());
}
