//! Sweeps over scripted machines: no clock and no model, so that what is asserted is the rule and not this machine.

use std::cell::{Cell, RefCell};

use haul_generate::local::FlashAttention;
use proptest::prelude::*;

use super::*;

pub(crate) fn control() -> TunedLoad {
    TunedLoad {
        n_ctx: 2048,
        n_batch: 2048,
        n_ubatch: 512,
        n_seq_max: 1,
        threads: 2,
        type_k: "f16".to_owned(),
        type_v: "f16".to_owned(),
        flash_attention: FlashAttention::Auto,
    }
}

pub(crate) fn settings() -> Settings {
    Settings {
        control: control(),
        threads_max: 2,
        budget: Duration::from_secs(600),
        repetitions: 1,
        device: DeviceRequest::Cpu,
        room_bytes: None,
        head_sizes: None,
    }
}

fn speed(prefill_s: f64, decode_s: f64) -> Speed {
    Speed::of(512, 32, 1, vec![(prefill_s * 1e9) as u64], vec![(decode_s * 1e9) as u64])
}

/// What a machine takes for a prompt of 512 tokens and for a step of decode.
#[derive(Clone, Copy)]
struct Takes {
    prompt_s: f64,
    step_s: f64,
}

/// A row that worked, of a machine that takes so long.
fn probed(load: &TunedLoad, takes: Takes) -> Probed {
    let ns = |seconds: f64| vec![(seconds * 1e9) as u64];
    let speed = Speed::of(512, 32, load.n_seq_max, ns(takes.prompt_s), ns(32.0 * takes.step_s));
    let call_seconds = Cost::of(&speed).unwrap().seconds();
    let placement = Verdict {
        requested: "cpu".to_owned(),
        used: "cpu".to_owned(),
        name: String::new(),
        isa: String::new(),
        verdict: Placement::Cpu,
        witnesses: vec![],
        fallback_from: None,
    };
    let measured = Measured { call_seconds, load_ms: 1, rss_bytes: 1, kv_bytes: 1, placement, speed };
    Probed { n_ctx: load.n_ctx, n_ctx_train: 1024, measured: Some(measured) }
}

/// Sweeps over a machine that takes `takes(row, load)`, of which each row lasts `row_s` of the budget.
fn swept(settings: &Settings, row_s: f64, takes: &dyn Fn(usize, &TunedLoad) -> Option<Takes>) -> Report {
    let rows = Cell::new(0);
    let (stop, progress) = (Stop::default(), Progress::default());
    let source = Source {
        measure: &|load| {
            let row = rows.replace(rows.get() + 1);
            let takes = takes(row, load).ok_or(GenerateError::ScriptEnded { lines: row, call: row })?;
            Ok(probed(load, takes))
        },
        elapsed: &|| Duration::from_secs_f64(row_s * f64::from(rows.get() as u32)),
        say: &|_| {},
        progress: &progress,
        stop: &stop,
    };
    let found = sweep(settings, &source).unwrap();
    let counted = progress.snapshot("tune", "finished");
    assert!((found.rows.len() as u64..=counted.items_total).contains(&counted.items_done), "{counted:?}");
    found
}

/// A step of decode takes half as long again with 64 sequences.
fn takes(load: &TunedLoad) -> Takes {
    Takes { prompt_s: 25e-3, step_s: 0.5e-3 * (1.0 + f64::from(load.n_seq_max) / 128.0) }
}

fn slower(takes: Takes, factor: f64) -> Takes {
    Takes { prompt_s: takes.prompt_s * factor, step_s: takes.step_s * factor }
}

/// A profile once had one sequence: the row with one was measured while the machine was idle, and the rows with more, of
/// four times the decode, while it compiled something.
#[test]
fn a_machine_that_gets_busy_does_not_change_what_is_best() {
    let idle = swept(&settings(), 1.0, &|_, load| Some(takes(load)));
    assert_eq!(idle.best, TunedLoad { n_batch: 256, n_ubatch: 128, n_seq_max: 64, threads: 1, ..control() });
    assert!(idle.withdrawn.is_none() && !idle.is_noisy, "{:?}", idle.withdrawn);
    // 25 ms of prompt and 128 steps of 0.504 ms become the prompt and two steps of 0.75 ms.
    assert!((idle.gain - 89.5 / 26.5).abs() < 0.01, "{}", idle.gain);
    let first_of_sequences = idle.rows.iter().position(|row| row.axis == "sequences").unwrap();
    assert_eq!(idle.rows[first_of_sequences].load.n_seq_max, 1);
    let busy = swept(&settings(), 1.0, &|row, load| {
        Some(slower(takes(load), if row < first_of_sequences { 1.0 } else { 5.0 }))
    });
    assert_eq!(busy.best, idle.best);
    assert!((busy.gain - idle.gain).abs() < 0.01, "{} and {}", busy.gain, idle.gain);
    assert!(busy.is_noisy, "{:?}", busy.drift);
}

/// One lucky row is not believed: it is measured again, beside what it would replace.
#[test]
fn a_lucky_row_changes_nothing() {
    let lucky = Cell::new(true);
    let found = swept(&settings(), 1.0, &|_, load| {
        let is_it = load.n_ubatch == 1024 && load.n_seq_max == 1 && load.type_k == "f16";
        let factor = if is_it && lucky.replace(false) { 0.3 } else { 1.0 + f64::from(load.n_ubatch != 512) };
        Some(slower(takes(load), factor))
    });
    assert!(!lucky.get());
    assert_eq!((found.best.n_batch, found.best.n_ubatch), (512, 512), "{:?}", found.best);
}

/// Everything that wins the sweep loses at the end: the defaults are kept, and that is said.
#[test]
fn what_is_slower_beside_the_defaults_is_withdrawn() {
    let all = swept(&settings(), 1.0, &|_, load| Some(takes(load)));
    let of_the_end = all.rows.len() - TURNS.len();
    let end: Vec<&str> = all.rows[of_the_end..].iter().map(|row| row.axis).collect();
    assert_eq!(end, ["control", "best", "best", "control"]);
    let found = swept(&settings(), 1.0, &|row, load| {
        let is_slow = row >= of_the_end && *load != control();
        Some(slower(takes(load), if is_slow { 10.0 } else { 1.0 }))
    });
    assert_eq!((found.best.clone(), found.gain), (control(), 1.0));
    let withdrawn = found.withdrawn.unwrap();
    assert_eq!(withdrawn.load, all.best);
    assert!((withdrawn.gain.unwrap() - 89.5 / 265.0).abs() < 0.01, "{withdrawn:?}");
}

/// What cannot be measured at the end cannot be kept.
#[test]
fn what_fails_at_the_end_is_withdrawn() {
    let all = swept(&settings(), 1.0, &|_, load| Some(takes(load)));
    let of_the_end = all.rows.len() - TURNS.len();
    let found = swept(&settings(), 1.0, &|row, load| (row <= of_the_end).then(|| takes(load)));
    assert_eq!(found.best, control());
    assert_eq!(found.withdrawn, Some(Withdrawn { load: all.best, gain: None }));
}

/// Types of the cache change answers, and its size goes by the calls: both are measured, and neither is taken.
#[test]
fn types_and_cells_of_the_cache_are_measured_and_not_taken() {
    let settings = Settings { head_sizes: Some((64, 64)), ..settings() };
    let found = swept(&settings, 1.0, &|_, load| {
        let quantised = load.type_k != "f16" || load.n_ctx != 2048;
        Some(slower(takes(load), if quantised { 0.1 } else { 1.0 }))
    });
    assert!(found.rows.iter().any(|row| row.load.type_k == "q8_0"));
    assert_eq!((found.best.type_k.as_str(), found.best.n_ctx), ("f16", 2048));
}

#[test]
fn time_is_kept_for_the_end() {
    for (budget_s, rows) in [(0, 2), (5, 2), (12, 12), (600, 35)] {
        let settings = Settings { budget: Duration::from_secs(budget_s), ..settings() };
        let found = swept(&settings, 1.0, &|_, load| Some(takes(load)));
        assert_eq!(found.rows.len(), rows, "{budget_s} s");
        assert_eq!(found.rows.last().unwrap().axis, "control");
        assert_eq!(found.not_measured.is_empty(), budget_s == 600, "{:?}", found.not_measured);
        assert!(found.gain >= 1.0);
    }
}

#[test]
fn a_stopped_sweep_ends_at_once() {
    let (stop, progress) = (Stop::default(), Progress::default());
    let rows = RefCell::new(0);
    let source = Source {
        measure: &|load| {
            *rows.borrow_mut() += 1;
            if *rows.borrow() == 3 {
                stop.request();
            }
            Ok(probed(load, takes(load)))
        },
        elapsed: &|| Duration::ZERO,
        say: &|_| {},
        progress: &progress,
        stop: &stop,
    };
    let found = sweep(&settings(), &source).unwrap();
    assert!(found.interrupted);
    assert_eq!((found.rows.len(), found.best, found.gain), (3, control(), 1.0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the machine does, and however noisy it is.
    #[test]
    fn the_saved_settings_are_never_slower_than_the_defaults(
        factors in prop::collection::vec(1.0_f64..8.0, 64),
        of_threads in 0.2_f64..5.0,
        of_ubatch in -1.0_f64..1.0,
        of_sequences in 0.0_f64..1.0,
        failing in 0_usize..64,
    ) {
        let found = swept(&settings(), 1.0, &|row, load| {
            let prompt_s = of_threads.powi(load.threads as i32) * f64::from(load.n_ubatch).powf(of_ubatch);
            let step_s = of_threads.powi(load.threads as i32) * f64::from(load.n_seq_max).powf(of_sequences);
            let takes = Takes { prompt_s, step_s };
            (row == 0 || row != failing).then(|| slower(takes, factors[row]))
        });
        let fastest = |axis: &str| {
            let from = found.rows.len() - TURNS.len();
            let rows = found.rows[from..].iter().filter(|row| row.axis == axis);
            rows.filter_map(|row| Some(row.measured.as_ref()?.call_seconds)).fold(f64::INFINITY, f64::min)
        };
        prop_assert!(found.rows.len() <= ROWS_MAX);
        prop_assert!(found.gain >= 1.0, "{}", found.gain);
        prop_assert_eq!((found.best.type_k.as_str(), found.best.n_ctx), ("f16", 2048));
        if found.best == control() {
            prop_assert_eq!(found.gain, 1.0);
        } else {
            prop_assert!(found.withdrawn.is_none());
            prop_assert!(fastest("best") <= fastest("control"));
            prop_assert!((found.gain - fastest("control") / fastest("best")).abs() < 1e-9);
        }
        if let Some(withdrawn) = &found.withdrawn {
            prop_assert_eq!(&found.best, &control());
            prop_assert!(withdrawn.load != control() && withdrawn.gain.is_none_or(|gain| gain < 1.0));
        }
    }
}

/// 1,511 -> 197 tokens/s was what a mixed cache did to a card; the log said nothing.
#[test]
fn a_rate_that_collapses_is_named() {
    let control = speed(0.34, 0.3);
    assert_eq!(falls_back(&speed(0.6, 0.5), &control), None);
    let found = falls_back(&speed(2.6, 0.5), &control).unwrap();
    assert!(found.starts_with("prefill runs at 13 % of the control"), "{found}");
    let found = falls_back(&speed(0.34, 3.0), &control).unwrap();
    assert!(found.starts_with("decode runs at 10 % of the control"), "{found}");
}

#[test]
fn a_model_that_does_not_open_cannot_be_tuned_and_says_why() {
    let stop = Stop::default();
    let open = |_: &TunedLoad| {
        let patience = haul_generate::local::Patience::default();
        Local::open(haul_generate::local::LocalSettings {
            worker: "there/is/none".into(),
            backends: vec![],
            device: DeviceRequest::Cpu,
            load: crate::proof::tests::load(&[]),
            lanes: 1,
            template: None,
            identity: String::new(),
            name: "a".to_owned(),
            patience,
        })
    };
    let progress = Progress::default();
    let parts = Parts { open: &open, read_gb_per_s: 50.0, say: &|_| {}, progress: &progress, stop: &stop };
    let error = run(&settings(), &parts).unwrap_err();
    assert!(error.to_string().contains("there/is/none: there is no haul-llama"), "{error}");
    assert!(error.hint().is_some());
}
