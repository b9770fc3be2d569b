//! `haul vision`: tables from saved arrays.

use std::fs;

use serde_json::json;

use crate::fixtures::{Home, assert_ran, repository};

/// The goldens of the job, where a run would have put them.
fn with_run() -> Home {
    let home = Home::empty();
    let golden = repository().join("crates/jobs/tests/golden");
    for trial in 0..4 {
        let bytes = fs::read(golden.join(format!("vision_trial{trial}.npz"))).unwrap();
        home.write(&format!("run/cache/trial{trial}_seed{}.npz", 42 + trial), bytes);
    }
    home.write("run/exp0_trials_T16.npz", fs::read(golden.join("vision_trials_T16.npz")).unwrap());
    home
}

#[test]
fn tables_fit_a_terminal() {
    let home = with_run();
    let ran = home.ok(&["vision", "analyze", "run"]);
    for line in ran.stdout.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert_ran!(home, home.run(&["vision", "analyze", "run/exp0_trials_T16.npz"]), @r"
    exit 0
    --- stdout
    run/exp0_trials_T16.npz
      40 images, 6 trials of 16 passes
      quantity                 mean     snr     icc     rho   status of mean   T .75
      trace_post            1.153e1   5.890  0.8513  0.8234   usable  0.9717       9
      trace_pre             3.085e0   5.593  0.8444  0.8234   usable  0.9702       9

    1 read, 0 not
    --- stderr
    ");
}

#[test]
fn the_document_has_formulas_and_every_file() {
    let home = with_run();
    home.write("run/broken.npz", "no archive");
    let ran = home.run(&["vision", "analyze", "run", "--json", "--seed-compat"]);
    assert_eq!(ran.code, 1);
    let document = ran.json();
    assert_eq!(document["schema"], "haul.vision_analysis/1");
    assert_eq!(document["formulas"][0], json!({"name": "trace_pre", "id": "V1", "ddof": 1, "ddof_seed": 0}));
    assert_eq!(document["files"].as_array().unwrap().len(), 2);
    assert_eq!(document["files"][0]["quantities"]["trace_pre"]["ddof"], 0);
    assert_eq!(document["failures"][0]["file"], "run/broken.npz");
}

#[test]
fn weights_are_frozen_and_used_again() {
    let home = with_run();
    let of = |args: &[&str]| {
        let found = home.json(&[&["vision", "analyze", "run/cache"], args].concat());
        found["files"][0]["quantities"]["weighted_trace_pre"]["mean"].as_f64().unwrap()
    };
    let first = of(&["--save-weights", "w.npz"]);
    assert!((of(&["--weights", "w.npz"]) / first - 1.0).abs() < 1e-12);
    assert_ran!(home, home.run(&["vision", "analyze", "run/exp0_trials_T16.npz", "--save-weights", "w2.npz"]), @r"
    exit 2
    --- stdout
    --- stderr
    haul: no weights for w2.npz: no passes of two images or more were read

    hint: weights come from trial*_seed*.npz and from mc.npz
    ");
    assert_ran!(home, home.run(&["vision", "analyze", "run", "--weights", "run/exp0_trials_T16.npz"]), @r"
    exit 2
    --- stdout
    --- stderr
    haul: run/exp0_trials_T16.npz: no array `weights`
    ");
}

#[test]
fn nothing_to_read_could_not_run() {
    let home = Home::empty();
    home.write("empty/readme.txt", "no arrays");
    assert_ran!(home, home.run(&["vision", "analyze", "empty"]), @r"
    exit 2
    --- stdout
    --- stderr
    haul: no .npz file in empty

    hint: name the folder that a run wrote, or its files
    ");
    assert_ran!(home, home.run(&["vision", "analyze", "absent"]), @r"
    exit 2
    --- stdout
    --- stderr
    haul: cannot list absent: No such file or directory (os error 2)
    ");
}
