//! Products in the tile unit (AMX): 32 rows with a panel of 32 columns at a time.
//!
//! The unit multiplies tiles of 16 rows by 64 bytes. A tile of rows is 16 words of 16 rows of a block, a tile of
//! columns 16 words of half a panel, just as [`crate::tile`] keeps both; four tiles of sums stay in the unit while `k`
//! runs. Every height in words is a multiple of [`TILE_STEP`]: what is past the end of a row is zero there.
#![expect(
    unsafe_code,
    reason = "instructions that the compiler has no functions for, and pointers to their tiles"
)]

use std::arch::asm;
use std::cell::Cell;
use std::marker::PhantomData;

use crate::isa::Amx;
use crate::tile::{BlockRow, K_BLOCK, Numbers, PANEL, PIECES, PanelRow, TILE_STEP};

/// Rows of a product.
pub(crate) const ROWS: usize = 32;

/// Packed rows from word `from_word` on: of each block of `stride` rows the [`ROWS`] rows from `first`.
#[derive(Clone, Copy)]
pub(crate) struct TileRows<'a> {
    pub(crate) words: &'a [BlockRow],
    pub(crate) stride: usize,
    pub(crate) first: usize,
    pub(crate) from_word: usize,
}

impl<'a> TileRows<'a> {
    /// All words of [`ROWS`] rows that stand alone.
    pub(crate) fn alone(words: &'a [BlockRow]) -> Self {
        TileRows { words, stride: ROWS, first: 0, from_word: 0 }
    }
}

/// Where the sums of a product go.
pub(crate) struct TileSums<'a> {
    /// [`ROWS`] rows of [`PANEL`] sums (the bits of i32 for integers).
    pub(crate) values: &'a mut [f32],
    /// From a row to the next.
    pub(crate) stride: usize,
    pub(crate) add_to: AddTo,
}

/// What a product is added to.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum AddTo {
    Zero,
    /// What stands where the sums go.
    Values,
}

/// The sums of a product, [`PANEL`] apart.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Sums(pub(crate) [[f32; PANEL]; ROWS]);

impl Sums {
    pub(crate) const ZERO: Sums = Sums([[0.0; PANEL]; ROWS]);

    /// These, for a product that is added to some.
    pub(crate) fn place(&mut self, add_to: AddTo) -> TileSums<'_> {
        TileSums { values: self.0.as_flattened_mut(), stride: PANEL, add_to }
    }
}

thread_local! {
    /// A second unit of a thread would be without a configuration once the first is dropped.
    static IS_IN_USE: Cell<bool> = const { Cell::new(false) };
}

/// The tile unit of this thread, configured for as long as this lives.
pub(crate) struct TileUnit {
    /// The configuration is the thread's.
    of_this_thread: PhantomData<*const ()>,
}

/// The memory form of a tile configuration.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl TileUnit {
    /// Every tile has 16 rows of 64 bytes.
    ///
    /// # Panics
    /// When this thread has one already.
    pub(crate) fn configure(_proof: Amx) -> TileUnit {
        assert!(!IS_IN_USE.replace(true), "the tile unit is in use");
        let mut config =
            Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        config.row_bytes[..8].fill(64);
        config.rows[..8].fill(16);
        // SAFETY: `_proof` exists only after `isa::probe_amx` found AMX and was let use it; the 64 bytes are a valid
        // configuration of palette 1. The compiler uses no tiles of its own.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) }
        TileUnit { of_this_thread: PhantomData }
    }

    /// `rows . panel` to `sums`. Meanwhile `ahead` comes into the second-level cache, [`AHEAD_BYTES`] for each
    /// [`TILE_STEP`] words.
    ///
    /// # Panics
    /// When there are not as many rows, words or sums as that, or the panel's height is no multiple of a step.
    #[inline(always)]
    pub(crate) fn multiply(
        &self,
        numbers: Numbers,
        rows: TileRows<'_>,
        panel: &[PanelRow],
        sums: TileSums<'_>,
        ahead: &[PanelRow],
    ) {
        let step_words = if numbers == Numbers::Pieces { PIECES * TILE_STEP } else { TILE_STEP };
        assert!(!panel.is_empty() && panel.len().is_multiple_of(step_words), "{} words", panel.len());
        assert!(rows.first + ROWS <= rows.stride, "rows {}.. of {}", rows.first, rows.stride);
        assert!(rows.from_word.is_multiple_of(step_words), "from word {}", rows.from_word);
        assert!(
            rows.words.len() >= (rows.from_word + panel.len()).div_ceil(K_BLOCK) * rows.stride,
            "a block of rows for each block of k"
        );
        let TileSums { values, stride, add_to } = sums;
        assert!(stride >= PANEL && values.len() >= (ROWS - 1) * stride + PANEL, "room for the sums");
        let (block, word) = (rows.from_word / K_BLOCK, rows.from_word % K_BLOCK);
        let call = Call {
            rows: rows.words[block * rows.stride + rows.first..].as_ptr().cast::<u32>().wrapping_add(word),
            // After a block of k, the same row of the next block.
            jump: (rows.stride * size_of::<BlockRow>()) as isize - (K_BLOCK * size_of::<u32>()) as isize,
            panel: panel.as_ptr(),
            steps: panel.len() / step_words,
            steps_to_jump: (K_BLOCK - word) / step_words,
            steps_per_block: K_BLOCK / step_words,
            sums: values.as_mut_ptr(),
            sum_bytes: stride * size_of::<f32>(),
            // Whatever is no memory would be looked up in vain.
            ahead: if ahead.is_empty() { panel.as_ptr() } else { ahead.as_ptr() },
        };
        // SAFETY: the unit is configured. With the assertions, the steps read `TILE_STEP` (times `PIECES`) words of 32
        // rows in each block of k, and whole rows of the panel; 32 rows of 32 sums are read and written. Loading ahead
        // never faults, also past the end of `ahead`.
        unsafe {
            match (numbers, add_to) {
                (Numbers::Bf16, AddTo::Zero) => call.bf16(),
                (Numbers::Bf16, AddTo::Values) => call.bf16_on(),
                (Numbers::U8I8, AddTo::Zero) => call.u8i8(),
                (Numbers::U8I8, AddTo::Values) => call.u8i8_on(),
                (Numbers::Pieces, AddTo::Zero) => call.pieces(),
                (Numbers::Pieces, AddTo::Values) => call.pieces_on(),
            }
        }
    }
}

/// Operations of a product that [`TileUnit::spin`] repeats: a multiply-add is two.
pub(crate) const fn spin_operations(numbers: Numbers) -> usize {
    let per_word = match numbers {
        Numbers::Bf16 | Numbers::Pieces => 2,
        Numbers::U8I8 => 4,
    };
    2 * ROWS * PANEL * TILE_STEP * per_word
}

impl TileUnit {
    /// So many products of [`ROWS`] rows with a step of a panel, of whatever is in the tiles.
    pub(crate) fn spin(&self, numbers: Numbers, products: usize) {
        macro_rules! spin {
            ($product:literal) => {
                asm!(
                    "2:",
                    concat!($product, " tmm0, tmm4, tmm6"),
                    concat!($product, " tmm1, tmm4, tmm7"),
                    concat!($product, " tmm2, tmm5, tmm6"),
                    concat!($product, " tmm3, tmm5, tmm7"),
                    "dec {products}",
                    "jnz 2b",
                    products = inout(reg) products => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    options(nomem, nostack),
                )
            };
        }
        assert!(products > 0, "no products");
        // SAFETY: the unit is configured; only tiles are read and written.
        unsafe {
            match numbers {
                Numbers::Bf16 | Numbers::Pieces => spin!("tdpbf16ps"),
                Numbers::U8I8 => spin!("tdpbusd"),
            }
        }
    }
}

impl Drop for TileUnit {
    fn drop(&mut self) {
        // SAFETY: a `TileUnit` exists only where the unit may be used.
        unsafe { asm!("tilerelease", options(nomem, nostack)) }
        IS_IN_USE.set(false);
    }
}

/// The addresses of one product.
struct Call {
    rows: *const u32,
    jump: isize,
    panel: *const PanelRow,
    steps: usize,
    /// Until the first jump.
    steps_to_jump: usize,
    steps_per_block: usize,
    sums: *mut f32,
    /// From a row of sums to the next.
    sum_bytes: usize,
    /// What is loaded into the second-level cache meanwhile.
    ahead: *const PanelRow,
}

/// Bytes from a row to the next one, and to the sixteenth.
const ROW_BYTES: usize = size_of::<BlockRow>();
const HALF_ROWS: usize = 16 * ROW_BYTES;

/// Bytes of a row of a panel, and of a step of `k` in it.
const PANEL_BYTES: usize = size_of::<PanelRow>();
const STEP_BYTES: usize = TILE_STEP * PANEL_BYTES;

/// Bytes of the second half of a panel's row: 16 columns.
const HALF_PANEL: usize = PANEL_BYTES / 2;

/// Loaded ahead for each [`TILE_STEP`] words: few enough that the products go on.
pub(crate) const AHEAD_BYTES: usize = 256;

/// A loop over the steps of `k` with the sums in tiles 0 to 3, which `$begin` fills: `$body` reads the rows at `{a}` and
/// the panel at `{b}`; `$advance_a` and `$advance_b` are the bytes of a step.
macro_rules! over_k {
    ($call:expr, $advance_a:expr, $advance_b:expr, [$($begin:literal)*] [$($body:literal)*]) => {
        asm!(
            $($begin,)*
            "2:",
            $($body,)*
            "add {a}, {advance_a}",
            "add {b}, {advance_b}",
            "add {ahead}, {advance_ahead}",
            "dec {in_block}",
            "jnz 3f",
            "add {a}, {jump}",
            "mov {in_block}, {steps_per_block}",
            "3:",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums} + {sum_bytes}], tmm0",
            "tilestored [{sums} + {sum_bytes} + {half_panel}], tmm1",
            "tilestored [{lower_sums} + {sum_bytes}], tmm2",
            "tilestored [{lower_sums} + {sum_bytes} + {half_panel}], tmm3",
            a = inout(reg) $call.rows => _,
            b = inout(reg) $call.panel => _,
            steps = inout(reg) $call.steps => _,
            in_block = inout(reg) $call.steps_to_jump => _,
            steps_per_block = in(reg) $call.steps_per_block,
            jump = in(reg) $call.jump,
            row_bytes = in(reg) ROW_BYTES,
            panel_bytes = in(reg) PANEL_BYTES,
            ahead = inout(reg) $call.ahead => _,
            advance_ahead = const AHEAD_BYTES * $advance_b / STEP_BYTES,
            sums = in(reg) $call.sums,
            lower_sums = in(reg) $call.sums.wrapping_byte_add(ROWS / 2 * $call.sum_bytes),
            sum_bytes = in(reg) $call.sum_bytes,
            half_rows = const HALF_ROWS,
            half_panel = const HALF_PANEL,
            advance_a = const $advance_a,
            advance_b = const $advance_b,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// Two functions for a product: with the sums of nothing, and with those that are there.
macro_rules! products {
    ($(#[$doc:meta])* $name:ident, $name_on:ident, $advance_a:expr, $advance_b:expr, $body:tt) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The unit is configured, and what the steps reach may be read and written.
        #[inline(always)]
        unsafe fn $name(self) {
            // SAFETY: as the caller says.
            unsafe {
                over_k!(
                    self, $advance_a, $advance_b,
                    ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3"]
                    $body
                );
            }
        }

        $(#[$doc])*
        ///
        /// # Safety
        /// The unit is configured, and what the steps reach may be read and written.
        #[inline(always)]
        unsafe fn $name_on(self) {
            // SAFETY: as the caller says.
            unsafe {
                over_k!(
                    self, $advance_a, $advance_b,
                    [
                        "tileloadd tmm0, [{sums} + {sum_bytes}]"
                        "tileloadd tmm1, [{sums} + {sum_bytes} + {half_panel}]"
                        "tileloadd tmm2, [{lower_sums} + {sum_bytes}]"
                        "tileloadd tmm3, [{lower_sums} + {sum_bytes} + {half_panel}]"
                    ]
                    $body
                );
            }
        }
    };
}

impl Call {
    products!(
        /// Pairs of bf16.
        bf16, bf16_on, TILE_STEP * 4, STEP_BYTES,
        [
            "tileloadd tmm4, [{a} + {row_bytes}]"
            "tileloadd tmm6, [{b} + {panel_bytes}]"
            "tdpbf16ps tmm0, tmm4, tmm6"
            "prefetcht1 [{ahead}]"
            "prefetcht1 [{ahead} + 64]"
            "tileloadd tmm7, [{b} + {panel_bytes} + {half_panel}]"
            "tdpbf16ps tmm1, tmm4, tmm7"
            "prefetcht1 [{ahead} + 128]"
            "prefetcht1 [{ahead} + 192]"
            "tileloadd tmm5, [{a} + {row_bytes} + {half_rows}]"
            "tdpbf16ps tmm2, tmm5, tmm6"
            "tdpbf16ps tmm3, tmm5, tmm7"
        ]
    );

    products!(
        /// Quadruples of integers, unsigned in the rows and signed in the panel.
        u8i8, u8i8_on, TILE_STEP * 4, STEP_BYTES,
        [
            "tileloadd tmm4, [{a} + {row_bytes}]"
            "tileloadd tmm6, [{b} + {panel_bytes}]"
            "tdpbusd tmm0, tmm4, tmm6"
            "prefetcht1 [{ahead}]"
            "prefetcht1 [{ahead} + 64]"
            "tileloadd tmm7, [{b} + {panel_bytes} + {half_panel}]"
            "tdpbusd tmm1, tmm4, tmm7"
            "prefetcht1 [{ahead} + 128]"
            "prefetcht1 [{ahead} + 192]"
            "tileloadd tmm5, [{a} + {row_bytes} + {half_rows}]"
            "tdpbusd tmm2, tmm5, tmm6"
            "tdpbusd tmm3, tmm5, tmm7"
        ]
    );

    products!(
        /// The products of pieces down to 2^-16 of the largest: with pieces a, b, c of 8 bits each, of a row and a panel
        /// in this order aa, ca, ba; bb, ab; ac. The next piece is 64 bytes further in a row, and [`STEP_BYTES`] in a
        /// panel.
        pieces, pieces_on, PIECES * TILE_STEP * 4, PIECES * STEP_BYTES,
        [
            "tileloadd tmm6, [{b} + {panel_bytes}]"
            "tileloadd tmm7, [{b} + {panel_bytes} + {half_panel}]"
            "tileloadd tmm4, [{a} + {row_bytes}]"
            "tileloadd tmm5, [{a} + {row_bytes} + {half_rows}]"
            "tdpbf16ps tmm0, tmm4, tmm6"
            "tdpbf16ps tmm1, tmm4, tmm7"
            "tdpbf16ps tmm2, tmm5, tmm6"
            "tdpbf16ps tmm3, tmm5, tmm7"
            "prefetcht1 [{ahead} + 0]"
            "prefetcht1 [{ahead} + 64]"
            "prefetcht1 [{ahead} + 128]"
            "prefetcht1 [{ahead} + 192]"
            "tileloadd tmm4, [{a} + {row_bytes} + 128]"
            "tileloadd tmm5, [{a} + {row_bytes} + {half_rows} + 128]"
            "tdpbf16ps tmm0, tmm4, tmm6"
            "tdpbf16ps tmm1, tmm4, tmm7"
            "tdpbf16ps tmm2, tmm5, tmm6"
            "tdpbf16ps tmm3, tmm5, tmm7"
            "prefetcht1 [{ahead} + 256]"
            "prefetcht1 [{ahead} + 320]"
            "prefetcht1 [{ahead} + 384]"
            "prefetcht1 [{ahead} + 448]"
            "tileloadd tmm4, [{a} + {row_bytes} + 64]"
            "tileloadd tmm5, [{a} + {row_bytes} + {half_rows} + 64]"
            "tdpbf16ps tmm0, tmm4, tmm6"
            "tdpbf16ps tmm1, tmm4, tmm7"
            "tdpbf16ps tmm2, tmm5, tmm6"
            "tdpbf16ps tmm3, tmm5, tmm7"
            "prefetcht1 [{ahead} + 512]"
            "prefetcht1 [{ahead} + 576]"
            "prefetcht1 [{ahead} + 640]"
            "prefetcht1 [{ahead} + 704]"
            "tileloadd tmm6, [{b} + {panel_bytes} + 2048]"
            "tileloadd tmm7, [{b} + {panel_bytes} + {half_panel} + 2048]"
            "tdpbf16ps tmm0, tmm4, tmm6"
            "tdpbf16ps tmm1, tmm4, tmm7"
            "tdpbf16ps tmm2, tmm5, tmm6"
            "tdpbf16ps tmm3, tmm5, tmm7"
            "tileloadd tmm4, [{a} + {row_bytes}]"
            "tileloadd tmm5, [{a} + {row_bytes} + {half_rows}]"
            "tdpbf16ps tmm0, tmm4, tmm6"
            "tdpbf16ps tmm1, tmm4, tmm7"
            "tdpbf16ps tmm2, tmm5, tmm6"
            "tdpbf16ps tmm3, tmm5, tmm7"
            "tileloadd tmm6, [{b} + {panel_bytes} + 4096]"
            "tileloadd tmm7, [{b} + {panel_bytes} + {half_panel} + 4096]"
            "tdpbf16ps tmm0, tmm4, tmm6"
            "tdpbf16ps tmm1, tmm4, tmm7"
            "tdpbf16ps tmm2, tmm5, tmm6"
            "tdpbf16ps tmm3, tmm5, tmm7"
        ]
    );
}
