//! `haul vision mc`: passes over images, what they leave, and what becomes of images that are none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use haul_jobs::vision::npz::{Array, Data, Npz};
use serde_json::{Value, json};

use crate::fixtures::{Home, Ran, Random, assert_named, assert_ran, copy_tree, finished, repository};

/// SIGKILLs of one run.
const KILLS: u32 = 3;

/// Pixels of a side of the tests' images, and of those that the tiny towers take.
const SIDE: u32 = 40;
const TOWER_SIDE: u32 = 20;

/// A home with a tiny tower and images in three folders.
fn with_images(count: usize) -> Home {
    let home = Home::empty();
    add_tower(&home, "tiny-clip", "clip");
    let mut random = Random(7);
    for no in 0..count {
        home.write(&format!("images/class{}/{no:03}.bmp", no % 3), bmp(SIDE, SIDE, &mut random));
    }
    home
}

fn add_tower(home: &Home, golden: &str, name: &str) {
    copy_tree(&repository().join("crates/encoder/tests/golden").join(golden), &home.path(name));
    let preprocess = json!({
        "do_resize": true, "size": {"height": TOWER_SIDE, "width": TOWER_SIDE}, "resample": 3, "do_rescale": true,
        "rescale_factor": 1.0 / 255.0, "do_normalize": true, "do_center_crop": false,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    });
    home.write(&format!("{name}/preprocessor_config.json"), preprocess.to_string());
}

/// 24 bits without compression: a header of 54 bytes, then rows from the last to the first.
fn bmp(width: u32, height: u32, random: &mut Random) -> Vec<u8> {
    let row = (3 * width).next_multiple_of(4);
    let mut bytes = b"BM".to_vec();
    for word in [54 + row * height, 0, 54, 40, width, height, 1 | 24 << 16, 0, row * height, 2835, 2835, 0, 0]
    {
        bytes.extend(word.to_le_bytes());
    }
    let smooth = random.next() as u8;
    bytes.extend(
        (0..row * height).map(|at| smooth.wrapping_add((at % 97) as u8) ^ (random.next() as u8 & 31)),
    );
    bytes
}

/// `haul vision mc images --model clip --out OUT ARGS`.
fn mc(home: &Home, out: &str, args: &[&str]) -> Ran {
    home.run(&[&["vision", "mc", "images", "--model", "clip", "--out", out, "--quiet"], args].concat())
}

fn mc_json(home: &Home, out: &str, args: &[&str]) -> Value {
    let ran = mc(home, out, &[args, &["--json"]].concat());
    assert_eq!(ran.code, 0, "{ran:#?}");
    ran.json()
}

const SMALL: [&str; 4] = ["--trials", "3", "--passes", "4,8"];

fn array(file: &Path, name: &str) -> Array {
    Npz::open(file).unwrap().read(name).unwrap()
}

fn document(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn the_files_are_those_of_the_design_and_of_the_study() {
    let home = with_images(9);
    let receipt = mc_json(&home, "out", &[&SMALL[..], &["--gram", "--sites", "mlp"]].concat());
    assert_eq!(receipt["items"]["ok"], 9);
    assert_eq!(receipt["rate"]["unit"], "image pass");
    assert_eq!(receipt["cache"], json!({"hits": 0, "misses": 9}));
    assert_eq!(receipt["settings"]["prefixes"], 9, "what no mask changes is computed once an image");
    let file = home.path("out/mc.npz");
    let shape = |name: &str| array(&file, name).shape;
    assert_eq!(shape("paths"), [9]);
    assert_eq!(shape("features"), [9, 24]);
    for name in ["mean_pre", "m2_pre"] {
        assert_eq!(shape(name), [3, 9, 24]);
    }
    for name in ["trace_pre", "trace_post", "angular_var"] {
        assert_eq!(shape(name), [3, 9]);
    }
    assert_eq!(shape("gram"), [3, 9, 8, 8]);
    assert!(matches!(array(&file, "features").data, Data::F32(_)));
    // V1 from the moments beside it.
    let (m2, trace) = (array(&file, "m2_pre").to_f64(), array(&file, "trace_pre").to_f64());
    for (m2, trace) in m2.chunks_exact(24).zip(&trace) {
        let expected = m2.iter().sum::<f64>() / 24.0 / 7.0;
        assert!(*trace > 0.0 && (trace / expected - 1.0).abs() < 1e-12, "{trace} {expected}");
    }
    let trials = array(&home.path("out/exp0_trials_T8.npz"), "trial_pre");
    assert_eq!(trials.shape, [3, 9]);
    assert!(trials.to_f64().iter().zip(&trace).all(|(saved, trace)| (saved / trace - 1.0).abs() < 1e-6));
    assert_eq!(array(&home.path("out/exp0_trials_T4.npz"), "trial_post").shape, [3, 9]);
    let summary = document(home.path("out/exp0_summary.json"));
    assert_eq!(summary["experiment"], "exp0_nested_mc");
    assert_eq!(summary["passes"], json!([4, 8]));
    assert_eq!(summary["injected_linear_dropout_wrappers"], 4);
    assert_eq!(summary["site_audit"][3]["site"], "blocks.1.mlp.fc2");
    assert!(summary["site_audit"].as_array().unwrap().iter().all(|site| site["moved"].as_f64() > Some(0.0)));
    let of_study = [
        "num_trials",
        "num_images",
        "signal",
        "noise",
        "snr",
        "icc",
        "pairwise_spearman_median",
        "pairwise_spearman_iqr",
        "pairwise_spearman_q25",
        "pairwise_spearman_q75",
        "status",
    ];
    for space in ["pre_norm", "post_norm"] {
        let found = &summary["results"]["T=8"][space];
        assert!(of_study.iter().all(|key| found.get(key).is_some()), "{found}");
    }
    let overall = document(home.path("out/exp0_overall_summary.json"));
    assert_eq!(overall["results"]["clip"]["T=4"]["pre_norm"], summary["results"]["T=4"]["pre_norm"]);
    assert_eq!(document(home.path("out/manifest.json"))["num_images"], 9);
}

/// Without the model: what `analyze` finds in the products of passes is what the run said.
#[test]
fn tables_follow_from_the_file_alone() {
    let home = with_images(6);
    mc_json(&home, "out", &[&SMALL[..], &["--gram", "--save-passes"]].concat());
    let summary = document(home.path("out/exp0_summary.json"));
    let found = home.json(&["vision", "analyze", "out/mc.npz", "out/features"]);
    for file in found["files"].as_array().unwrap() {
        for (name, space) in
            [("trace_pre", "pre_norm"), ("trace_post", "post_norm"), ("angular_var", "angular_var")]
        {
            let (again, said) = (&file["quantities"][name], &summary["results"]["T=8"][space]);
            let near = |a: &Value, b: &Value| (a.as_f64().unwrap() / b.as_f64().unwrap() - 1.0).abs() < 1e-6;
            assert!(near(&again["mean"], &said["mean"]), "{name}: {again} {said}");
            assert!(near(&again["reliability"]["icc"], &said["icc"]), "{name}: {again} {said}");
        }
        for name in ["weighted_trace_pre", "topk64_trace_pre", "effective_rank", "max_dim_var", "norm_var"] {
            assert!(file["quantities"][name]["mean"].as_f64() > Some(0.0), "{name}");
        }
    }
    let meta = document(home.path("out/features/trial1_seed43.meta.json"));
    assert_eq!((&meta["passes"], &meta["dim"], &meta["trial_idx"]), (&json!(8), &json!(24), &json!(1)));
    assert_eq!(array(&home.path("out/features/trial1_seed43.npz"), "pass_pre").shape, [8, 6, 24]);
}

#[test]
fn the_bytes_depend_on_neither_batches_nor_threads() {
    let home = with_images(7);
    let small = ["--trials", "2", "--passes", "3,10", "--gram", "--dropout", "0.1"];
    // The comparison with f32 said in its file how long it took, and no bf16 run was the same twice.
    for dtype in ["f32", "bf16"] {
        let run = |out: &str, args: &[&str]| {
            let out = format!("{dtype}-{out}");
            mc_json(&home, &out, &[&small, &["--dtype", dtype][..], args].concat());
            ["mc.npz", "exp0_trials_T3.npz", "exp0_trials_T10.npz", "exp0_summary.json"]
                .map(|file| fs::read(home.path(&out).join(file)).unwrap())
        };
        let first = run("first", &["--batch-size", "1", "--threads", "1"]);
        for (no, (batch, threads)) in
            [("7", "1"), ("64", "1"), ("1", "2"), ("7", "2"), ("64", "2")].iter().enumerate()
        {
            let again = run(&format!("again{no}"), &["--batch-size", batch, "--threads", threads]);
            assert!(first == again, "{dtype}, batches of {batch}, {threads} threads");
        }
        let other = run("other", &["--seed", "43"]);
        assert!(first[0] != other[0], "another seed has other masks");
    }
}

/// Tables of other settings stood beside those of the run, and `analyze` took all of them for one study.
#[test]
fn files_of_an_earlier_run_are_named() {
    let home = with_images(3);
    mc_json(&home, "out", &SMALL);
    let again = mc_json(&home, "out", &SMALL);
    assert!(again["notes"].is_null(), "{again}");
    let receipt = mc_json(&home, "out", &["--trials", "2", "--passes", "8"]);
    assert_eq!(
        receipt["notes"],
        json!([{"item": "out/exp0_trials_T4.npz", "says": "of an earlier run; this one has not written it"}])
    );
}

#[test]
fn a_second_run_computes_nothing_and_a_longer_one_only_what_is_new() {
    let home = with_images(5);
    let first = mc_json(&home, "out", &SMALL);
    assert_eq!(first["model"]["loads"], 1);
    let bytes = fs::read(home.path("out/mc.npz")).unwrap();
    let again = mc_json(&home, "out", &SMALL);
    assert_eq!((&again["model"]["loads"], &again["items"]["reused"]), (&json!(0), &json!(5)));
    assert_eq!((&again["work"]["flops"], &again["settings"]["reused_passes"]), (&json!(0), &json!(120)));
    assert_eq!(again["cache"]["hits"], 5);
    assert!(fs::read(home.path("out/mc.npz")).unwrap() == bytes);
    let more = mc_json(&home, "out", &["--trials", "4", "--passes", "4,8"]);
    assert_eq!((&more["settings"]["reused_passes"], &more["settings"]["prefixes"]), (&json!(120), &json!(5)));
}

/// Noise, and blocks that are left out: as independent of batches and threads as dropout is, and each its own.
#[test]
fn noise_and_whole_blocks_are_perturbations_too() {
    let home = with_images(5);
    let trace = |out: &str| array(&home.path(out).join("mc.npz"), "trace_pre").to_f64();
    let run = |out: &str, args: &[&str]| mc_json(&home, out, &[&SMALL[..], args].concat());
    let all: [(&str, &[&str]); 4] = [
        ("gaussian", &["--perturb", "gaussian", "--magnitude", "0.05"]),
        ("scale", &["--perturb", "scale", "--magnitude", "0.05"]),
        ("depth", &["--sites", "depth", "--dropout", "0.3"]),
        ("dropout", &["--dropout", "0.05"]),
    ];
    for (name, args) in all {
        let first = run(name, &[args, &["--batch-size", "3", "--threads", "1"]].concat());
        assert_eq!(first["items"]["ok"], 5);
        run(&format!("{name}-again"), &[args, &["--batch-size", "64", "--threads", "2"]].concat());
        for file in ["mc.npz", "exp0_summary.json"] {
            let bytes = |out: &str| fs::read(home.path(out).join(file)).unwrap();
            assert!(bytes(name) == bytes(&format!("{name}-again")), "{name}: {file}");
        }
        assert!(trace(name).iter().sum::<f64>() > 0.0, "{name}");
    }
    let summary = document(home.path("gaussian/exp0_summary.json"));
    assert_eq!(summary["perturbation"], json!({"kind": "gaussian", "strength": 0.05}));
    assert_eq!((&summary["dropout"], &summary["dropout_of_masks"]), (&Value::Null, &Value::Null));
    let summary = document(home.path("depth/exp0_summary.json"));
    let sites: Vec<&str> =
        summary["site_audit"].as_array().unwrap().iter().filter_map(|of| of["site"].as_str()).collect();
    assert_eq!(sites, ["blocks.0", "blocks.1"]);
    // One journal: nothing of one kind is taken for another, and what was computed is not computed again.
    for (no, (_, args)) in all.iter().enumerate() {
        let receipt = run("one", args);
        assert_eq!(receipt["settings"]["reused_passes"], 0, "{no}");
        assert_eq!(run("one", args)["settings"]["reused_passes"], 120);
    }
    // Noise ten times as strong spreads a hundred times as far, as long as it is small.
    for kind in ["gaussian", "scale"] {
        for strength in ["0.0001", "0.001"] {
            run(&format!("{kind}{strength}"), &["--perturb", kind, "--magnitude", strength]);
        }
        let (weak, strong) = (trace(&format!("{kind}0.0001")), trace(&format!("{kind}0.001")));
        for (weak, strong) in weak.iter().zip(strong) {
            assert!((strong / weak / 100.0 - 1.0).abs() < 0.1, "{kind}: {weak} {strong}");
        }
    }
}

/// Two files of the same pixels, under masks of their own and under shared ones.
#[test]
fn shared_masks_leave_only_what_images_differ_in() {
    let home = with_images(3);
    let mut twin = fs::read(home.path("images/class0/000.bmp")).unwrap();
    twin[38] ^= 1;
    home.write("images/class0/twin.bmp", &twin);
    let traces = |out: &str, args: &[&str]| {
        mc_json(&home, out, &[&SMALL[..], args].concat());
        array(&home.path(out).join("mc.npz"), "trace_pre").to_f64()
    };
    let own = traces("own", &["--dropout", "0.1"]);
    let shared = traces("own", &["--dropout", "0.1", "--shared-masks"]);
    for trial in 0..3 {
        assert_ne!(own[trial * 4], own[trial * 4 + 1]);
        assert_eq!(shared[trial * 4], shared[trial * 4 + 1]);
        assert_ne!(shared[trial * 4], shared[trial * 4 + 2]);
    }
    assert_eq!(document(home.path("own/exp0_summary.json"))["shared_masks"], true);
}

/// `kill -9` again and again: what was finished stays, and the end is that of a run that nobody killed.
#[test]
fn killed_runs_go_on() {
    let home = with_images(12);
    let args = ["--trials", "6", "--passes", "1200", "--batch-size", "8"];
    let command = |out: &str| {
        let all =
            [&["vision", "mc", "images", "--model", "clip", "--quiet", "--json", "--out", out], &args[..]];
        home.haul(&all.concat())
    };
    mc_json(&home, "whole", &args);
    let journal = home.path("out/journal.sqlite");
    let held = || fs::metadata(&journal).map_or(0, |metadata| metadata.len());
    let (mut hits, mut random) = (0, Random(11));
    for _ in 0..KILLS {
        let before = held();
        let mut child = command("out").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Passes have reached the journal.
        while held() <= before && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(5));
        }
        sleep(Duration::from_millis(random.next() % 100));
        hits += u32::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(hits, KILLS, "a run was at its end before it was killed");
    let last = finished(command("out").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    assert_eq!(last.code, 0, "{last:#?}");
    let (kept, all) = (last.json()["settings"]["reused_passes"].as_u64().unwrap(), 12 * 6 * 1200);
    assert!(0 < kept && kept < all, "{kept} of {all} passes were kept");
    for file in ["mc.npz", "exp0_trials_T1200.npz", "exp0_summary.json"] {
        assert!(
            fs::read(home.path("out").join(file)).unwrap()
                == fs::read(home.path("whole").join(file)).unwrap()
        );
    }
}

/// No file may grow beyond a limit. A commit that failed was once taken for damaged pixels, and the last one went unsaid.
#[test]
fn a_full_disk_stops_a_run_and_a_rerun_goes_on() {
    let home = with_images(150);
    let args = ["--trials", "2", "--passes", "100", "--batch-size", "8"];
    mc_json(&home, "whole", &args);
    let kib = |file: &str| fs::metadata(home.path("whole").join(file)).unwrap().len() / 1024;
    let limits = [
        ("half", kib("journal.sqlite") / 2, "cannot use the journal", false),
        ("end", kib("journal.sqlite") - 1, "cannot use the journal", false),
        ("report", kib("report.html") - 1, "report.html", true),
        // Nothing is left to journal.
        ("report", kib("mc.npz") - 1, "mc.npz", true),
    ];
    for (out, limit_kib, says, all_kept) in limits {
        let mc = ["vision", "mc", "images", "--model", "clip", "--quiet", "--out", out];
        let stopped = home.limited(limit_kib, &[&mc[..], &args].concat());
        assert_named(&stopped, says, "the same command goes on from here");
        let receipt = document(home.path(out).join("receipt.json"));
        assert_eq!((&receipt["job"], &receipt["state"]), (&json!("vision"), &json!("failed")), "{out}");
        let kept = mc_json(&home, out, &args)["settings"]["reused_passes"].as_u64().unwrap();
        assert_eq!(kept == 150 * 2 * 100, all_kept, "{out}, {limit_kib} KiB: {kept} passes were kept");
        let bytes = |out: &str| fs::read(home.path(out).join("mc.npz")).unwrap();
        assert!(bytes(out) == bytes("whole"));
    }
}

#[test]
fn a_folder_in_use_is_refused() {
    let home = with_images(2);
    mc_json(&home, "out", &SMALL);
    let other = rusqlite::Connection::open(home.path("out/journal.sqlite")).unwrap();
    other.execute_batch("PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE;").unwrap();
    assert_ran!(home, mc(&home, "out", &SMALL), @r"
    exit 2
    --- stdout
    --- stderr
    haul: the journal out/journal.sqlite is in use by another run

    hint: wait for the other run to finish, or stop it
    ");
}

/// Every image that is none ends in a verdict of its own, and the others are finished.
#[test]
fn bad_images_are_named_and_the_others_finish() {
    let home = with_images(3);
    let golden = repository().join("crates/corpus/tests/golden/images");
    let copy =
        |from: &str, to: &str| home.write(&format!("images/{to}"), fs::read(golden.join(from)).unwrap());
    for (from, to) in [
        ("cmyk.jpg", "cmyk.jpg"),
        ("grey16.png", "grey16.png"),
        ("palette.png", "palette.png"),
        ("animated.png", "animated.png"),
        ("rotated.jpg", "rotated.jpg"),
        ("one.png", "one.png"),
        ("rgb.png", "first.png"),
        ("rgb.png", "second.png"),
    ] {
        copy(from, to);
    }
    home.write("images/zero.png", "");
    home.write("images/text.png", "no picture at all");
    let png = fs::read(golden.join("rgb.png")).unwrap();
    home.write("images/cut.png", &png[..png.len() / 2]);
    let mut wide = bmp(1, 1, &mut Random(1));
    wide[18..22].copy_from_slice(&65_536_u32.to_le_bytes());
    home.write("images/wide.bmp", wide);
    let mut line = bmp(1, 1, &mut Random(1));
    line[18..22].copy_from_slice(&65_535_u32.to_le_bytes());
    line.resize(54 + 3 * 65_535 + 3, 9);
    home.write("images/line.bmp", line);
    rustix::fs::mkfifoat(rustix::fs::CWD, home.path("images/pipe.png"), rustix::fs::Mode::RWXU).unwrap();
    let ran = mc(&home, "out", &[&SMALL[..], &["--json"]].concat());
    assert_eq!(ran.code, 1, "{ran:#?}");
    let receipt = ran.json();
    let failures = receipt["failures"].as_array().unwrap();
    let mut found: Vec<(&str, &str)> = failures
        .iter()
        .map(|failure| {
            let item = failure["item"].as_str().unwrap().strip_prefix("images/").unwrap();
            (item, failure["verdict"].as_str().unwrap())
        })
        .collect();
    found.sort_unstable();
    let expected = [
        ("cut.png", "corrupt"),
        ("pipe.png", "unsupported"),
        ("text.png", "unsupported"),
        ("wide.bmp", "too_large"),
        ("zero.png", "empty"),
    ];
    assert_eq!(found, expected);
    assert_eq!(receipt["items"]["total"], 17);
    assert_eq!(receipt["items"]["ok"], 12);
    assert_eq!(receipt["items"]["by_verdict"]["unsupported"], 2);
    assert_eq!(receipt["notes"][0]["item"], "images/second.png");
    let trace = array(&home.path("out/mc.npz"), "trace_pre");
    assert_eq!(trace.shape, [3, 12]);
    let Data::Text(paths) = array(&home.path("out/mc.npz"), "paths").data else { panic!("paths are words") };
    let at = |name: &str| paths.iter().position(|path| path.ends_with(name)).unwrap();
    let values = trace.to_f64();
    assert_eq!(values[at("first.png")], values[at("second.png")], "the same bytes have the same masks");
    assert_ne!(values[at("first.png")], values[at("cmyk.jpg")]);
}

#[test]
fn nothing_but_bad_images_is_no_run_that_failed() {
    let home = with_images(0);
    home.write("images/zero.png", "");
    let ran = mc(&home, "out", &SMALL);
    assert_eq!(ran.code, 1, "{ran:#?}");
    assert!(ran.stdout.contains("images/zero.png: empty (zero bytes)"), "{ran:#?}");
    assert!(!home.path("out/mc.npz").exists());
}

#[test]
fn models_share_the_pixels() {
    let home = with_images(4);
    add_tower(&home, "tiny-siglip", "siglip");
    let receipt = home.json(
        &[&["vision", "mc", "images", "--models", "clip,siglip", "--out", "out", "--quiet"], &SMALL[..]]
            .concat(),
    );
    assert_eq!(receipt["cache"], json!({"hits": 0, "misses": 4}));
    let overall = document(home.path("out/exp0_overall_summary.json"));
    assert_eq!(overall["models"], json!(["clip", "siglip"]));
    assert_eq!(array(&home.path("out/siglip/mc.npz"), "features").shape, [4, 32]);
    let heads = document(home.path("out/siglip/exp0_summary.json"));
    assert_eq!(heads["injected_linear_dropout_wrappers"], 10, "four a block, and two of the head");
}

#[test]
fn trials_of_their_own_have_other_masks() {
    let home = with_images(4);
    mc_json(&home, "nested", &SMALL);
    mc_json(&home, "own", &[&SMALL[..], &["--independent-t"]].concat());
    let of = |out: &str, passes: u32| {
        array(&home.path(out).join(format!("exp0_trials_T{passes}.npz")), "trial_pre")
    };
    assert_ne!(of("nested", 4), of("own", 4));
    assert_ne!(of("nested", 8), of("own", 8));
    assert_eq!(document(home.path("own/exp0_summary.json"))["nested_extraction"], false);
}

/// The study divides by the number of passes, and takes another sample.
#[test]
fn seed_compat_is_biased_and_sampled_as_the_study() {
    let home = with_images(9);
    let args = [&SMALL[..], &["--sampling", "numpy"]].concat();
    mc_json(&home, "ours", &args);
    mc_json(&home, "theirs", &[&SMALL[..], &["--seed-compat"]].concat());
    let of = |out: &str| array(&home.path(out).join("exp0_trials_T4.npz"), "trial_pre").to_f64();
    assert!(
        of("ours").iter().zip(of("theirs")).all(|(ours, theirs)| (theirs / ours / 0.75 - 1.0).abs() < 1e-6)
    );
    let few = mc_json(&home, "few", &[&SMALL[..], &["--num-images", "3"]].concat());
    assert_eq!(few["items"]["total"], 3);
    let manifest = document(home.path("few/manifest.json"));
    let of_class = |class: &str| {
        manifest["paths"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|path| path.as_str().unwrap().contains(class))
            .count()
    };
    assert_eq!(["class0", "class1", "class2"].map(of_class), [1, 1, 1]);
    let again = mc_json(&home, "again", &[&SMALL[..], &["--manifest", "few/manifest.json"]].concat());
    assert_eq!(again["settings"]["sampling"], "manifest");
    assert!(fs::read(home.path("few/mc.npz")).unwrap() == fs::read(home.path("again/mc.npz")).unwrap());
}

/// Fewer bits are compared with f32 under the same masks.
#[test]
fn a_reduced_dtype_says_what_it_costs() {
    let home = with_images(5);
    let reduced = [&SMALL[..], &["--dtype", "bf16", "--dropout", "0.1"]].concat();
    let receipt = mc_json(&home, "out", &reduced);
    assert_eq!(receipt["quality"]["against"], "f32");
    assert!(receipt["quality"]["cosine_min"].as_f64() > Some(0.99), "{receipt:#}");
    let rounding = &document(home.path("out/exp0_summary.json"))["rounding"];
    assert!(rounding["rounding_over_noise"].as_f64() < Some(0.5), "{rounding}");
    assert!((rounding["trace_ratio"].as_f64().unwrap() - 1.0).abs() < 0.1, "{rounding}");

    // A run compares passes that it has; one that goes on where another ended computes those of the other once more.
    mc_json(&home, "on", &[&reduced[..], &["--num-images", "2"]].concat());
    let on = mc_json(&home, "on", &reduced);
    assert!(on["settings"]["reused_passes"].as_u64() > Some(0), "{on:#}");
    assert_eq!(&document(home.path("on/exp0_summary.json"))["rounding"], rounding);
}

#[test]
fn what_cannot_run_says_so() {
    let home = with_images(2);
    home.write("empty/readme.txt", "no image");
    let said = |args: &[&str]| {
        let ran = home.run(&[&["vision", "mc"], args, &["--out", "out", "--quiet"]].concat());
        assert_eq!(ran.code, 2, "{ran:#?}");
        ran.stderr
    };
    copy_tree(&home.path("clip"), &home.path("unsaid"));
    fs::remove_file(home.path("unsaid/preprocessor_config.json")).unwrap();
    zero(&home, "clip", "dead", "encoder.layers.1.mlp.fc2");
    let cases: [(&[&str], &str); 15] = [
        (&["empty", "--model", "clip"], "no image in empty"),
        (&["absent", "--model", "clip"], "cannot list absent"),
        (&["images", "--model", "absent"], "neither config.json nor open_clip_config.json"),
        (&["images", "--model", "unsaid"], "what is done to images is never guessed"),
        (
            &["images", "--model", "clip", "--sites", "late-3"],
            "`late-3` is not in the tower, which has 2 blocks",
        ),
        (&["images", "--model", "clip", "--sites", "everything"], "names no places of an image tower"),
        (&["images", "--model", "clip", "--dropout", "0"], "nothing would fall out"),
        (&["images", "--model", "clip", "--dropout", "-1"], "a dropout of -1"),
        (&["images", "--model", "clip", "--passes", "1"], "1 is not in 2..=4096"),
        (&["images", "--model", "dead", "--sites", "late-1"], "blocks.1.mlp.fc2 cannot fire"),
        (
            &["images", "--model", "dead", "--sites", "late-1", "--perturb", "gaussian"],
            "blocks.1.mlp.fc2 cannot fire",
        ),
        (
            &["images", "--model", "clip", "--sites", "depth", "--perturb", "scale"],
            "`depth` leaves whole blocks out, and scale noise is added",
        ),
        (&["images", "--model", "clip", "--perturb", "gaussian", "--magnitude", "0"], "a magnitude of 0"),
        (
            &["images", "--model", "clip", "--perturb", "gaussian", "--dropout", "0.1"],
            "--perturb gaussian and scale have a magnitude",
        ),
        (&["images", "--model", "clip", "--magnitude", "0.1"], "--perturb dropout has a rate"),
    ];
    for (args, expected) in cases {
        let said = said(args);
        assert!(said.contains(expected), "{args:?}: {said}");
    }
}

/// A copy of a tower in which one layer gives nothing but zeros.
fn zero(home: &Home, from: &str, to: &str, layer: &str) {
    copy_tree(&home.path(from), &home.path(to));
    let file = home.path(to).join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let mut zeroed = 0;
    for (name, tensor) in header.as_object().unwrap().iter().filter(|(name, _)| name.contains(layer)) {
        let at = |no: usize| 8 + length + tensor["data_offsets"][no].as_u64().unwrap() as usize;
        assert!(name.ends_with(".weight") || name.ends_with(".bias"));
        bytes[at(0)..at(1)].fill(0);
        zeroed += 1;
    }
    assert_eq!(zeroed, 2);
    fs::write(file, bytes).unwrap();
}

/// `haul vision EXPERIMENT images --model clip --out OUT ARGS`, which must be ok.
fn experiment(home: &Home, name: &str, args: &[&str]) -> Ran {
    let ran =
        home.run(&[&["vision", name, "images", "--model", "clip", "--out", name, "--quiet"], args].concat());
    assert_eq!(ran.code, 0, "{ran:#?}");
    ran
}

#[test]
fn experiments_leave_the_studys_files() {
    let home = with_images(6);
    let few = ["--trials", "2", "--passes", "6", "--dropout", "0.1"];
    experiment(&home, "exp0", &few);
    assert!(home.path("exp0/phase1_exp0_manifest.json").exists());

    experiment(&home, "exp0b", &few);
    let geometry = home.path("exp0b/exp0b_geometry_trials.npz");
    assert_eq!(array(&geometry, "offdiag_pre").shape, [2, 6]);
    assert_eq!(array(&geometry, "eigs_post").shape, [2, 6, 10]);
    let summary = document(home.path("exp0b/exp0b_summary.json"));
    let eigenvalues = summary["pre_norm"]["eigs_top10_mean"].as_array().unwrap();
    // Five dimensions are left of six passes: their sum is the trace, the rest is none.
    let sum: f64 = eigenvalues[..6].iter().map(|value| value.as_f64().unwrap()).sum();
    let trace = summary["pre_norm"]["trace_per_dim"]["mean"].as_f64().unwrap() * 24.0;
    assert!((sum / trace - 1.0).abs() < 1e-9, "{sum} {trace}");
    assert!(eigenvalues[6].is_null());

    experiment(&home, "exp4", &few);
    assert_eq!(array(&home.path("exp4/exp4_subset_clip_trials.npz"), "angular_var").shape, [2, 6]);
    let summary = document(home.path("exp4/exp4_subset_summary.json"));
    assert!(summary["results"]["clip"]["trace_pre"]["status"].is_string());

    let ran = experiment(&home, "exp6", &["--trials", "2", "--passes", "2,64", "--dropout", "0.1"]);
    assert!(ran.stdout.contains("the mean of T passes, slope -0."), "{}", ran.stdout);
    assert_eq!(array(&home.path("exp6/exp6_convergence_T64.npz"), "rel_dist").shape, [2, 6]);
    let summary = document(home.path("exp6/exp6_summary.json"));
    let found = home.json(&["vision", "analyze", "exp6/exp6_convergence_T64.npz"]);
    assert_eq!(found["files"][0]["trials"], 2);
    assert!(found["files"][0]["quantities"]["rel_dist"]["reliability"]["icc"].is_number());
    let mean = |passes: &str| summary["results"][passes]["rel_dist_mean"].as_f64().unwrap();
    assert!(mean("T=64") < mean("T=2"));

    let ran = experiment(&home, "exp3", &few);
    assert!(ran.stdout.contains("D blocks.1.mlp.fc2"), "{}", ran.stdout);
    let summary = document(home.path("exp3/exp3_summary.json"));
    assert_eq!(summary["dropout_types"], json!(["A", "B", "C", "D", "E"]));
    assert_eq!(summary["results_by_type"]["C"]["selected_paths"], json!(["blocks.0", "blocks.1"]));
    assert_eq!(summary["cross_type"]["trace_spearman_matrix"][3][3], 1.0);
    let of = |label: &str| summary["results_by_type"][label]["trace_mean"].as_f64().unwrap();
    assert!(of("E") > of("A") && of("E") > of("B") && of("B") > of("D"), "{summary:#}");
    assert_eq!(array(&home.path("exp3/exp3_type_D_trials.npz"), "anisotropy").shape, [2, 6]);
}

#[test]
fn rates_are_compared() {
    let home = with_images(6);
    // A rate that came twice was a file that could not be written, after all passes.
    let ran = experiment(&home, "exp1", &["--trials", "2", "--passes", "6", "--p-values", "0.1,0.01,0.1"]);
    assert!(ran.stdout.contains("clip: ranks of images over rates"), "{}", ran.stdout);
    let trials = home.path("exp1/exp1_rank_p_trials.npz");
    assert_eq!(array(&trials, "mean_uncertainty").shape, [2, 6]);
    assert_eq!(array(&trials, "trials_p_0_01").shape, [2, 6]);
    let summary = document(home.path("exp1/exp1_summary.json"));
    let found = home.json(&["vision", "analyze", "exp1/exp1_rank_p_trials.npz"]);
    assert_eq!(found["files"][0]["kind"], "conditions");
    let of = &found["files"][0]["quantities"]["p 0.01"];
    let (mean, told) =
        (of["mean"].as_f64().unwrap(), summary["reliability_by_p"]["0.01"]["mean"].as_f64().unwrap());
    assert!(of["formula"] == "V1" && (mean / told - 1.0).abs() < 1e-6, "{of} {told}");
    assert_eq!(summary["p_values"], json!([0.01, 0.1]));
    let mean = |rate: &str| summary["reliability_by_p"][rate]["mean"].as_f64().unwrap();
    assert!(mean("0.1") > 5.0 * mean("0.01"), "{summary:#}");
    let refused =
        home.run(&["vision", "mc", "images", "--model", "clip", "--out", "no", "--p-values", "0.1"]);
    assert!(refused.code == 2 && refused.stderr.contains("only exp1 compares rates"), "{refused:#?}");
}

/// Pairs of an image and what it was made into have the same masks: without a change of pixels there is none of numbers.
#[test]
fn an_ablation_compares_pairs() {
    let home = with_images(5);
    let plain =
        [b"BM".to_vec(), bmp(SIDE, SIDE, &mut Random(3))[2..54].to_vec(), vec![100; 3 * 1600]].concat();
    home.write("images/plain.bmp", plain);
    let ran = experiment(&home, "ablation", &["--passes", "8"]);
    assert!(ran.stdout.contains("clip: images made worse"), "{}", ran.stdout);
    let trials = home.path("ablation/ablation_trials.npz");
    let Data::Text(paths) = array(&trials, "paths").data else { panic!("paths are words") };
    let at = paths.iter().position(|path| path.ends_with("plain.bmp")).unwrap();
    let clean = array(&trials, "clean").to_f64();
    for worse in ["blur_r5", "blur_r15", "downsample_4x", "downsample_8x"] {
        let values = array(&trials, worse).to_f64();
        assert_eq!(values[at], clean[at], "{worse} of a plain image is that image");
        assert!(values.iter().zip(&clean).filter(|(a, b)| a == b).count() == 1, "{worse}");
    }
    let summary = document(home.path("ablation/ablation_summary.json"));
    let found = home.json(&["vision", "analyze", "ablation"]);
    let names: Vec<&String> = found["files"][0]["quantities"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["blur_r15", "blur_r5", "clean", "downsample_4x", "downsample_8x"]);
    let keys = [
        "frac_increased",
        "mean_diff",
        "median_diff",
        "rel_change_pct",
        "wilcoxon_p_greater",
        "wilcoxon_p_two_sided",
        "clean_mean",
        "degraded_mean",
    ];
    assert!(keys.iter().all(|key| summary["results"]["blur_r15"].get(key).is_some()), "{summary:#}");
}

#[test]
fn a_pilot_says_how_many_passes_a_target_takes() {
    let home = with_images(12);
    let receipt = mc_json(&home, "out", &["--trials", "2", "--target-se", "0.2", "--dropout", "0.1"]);
    let pilot = &receipt["settings"]["pilots"][0];
    let passes = pilot["passes"].as_u64().unwrap();
    // Of a trace of m degrees of freedom the error is sqrt(2 / (T m)).
    assert!((16..=200).contains(&passes), "{pilot}");
    let most = 4 * passes;
    assert_eq!(receipt["settings"]["passes"]["passes"], json!([most]));
    assert!(home.path(format!("out/exp0_trials_T{most}.npz")).exists());
    let far = mc(&home, "far", &["--target-se", "0.0001"]);
    assert_eq!(far.code, 2);
    assert!(far.stderr.contains("a trial has at most 4096"), "{far:#?}");
}

/// One image differs from no other: the pilot said that an ICC takes "inf passes".
#[test]
fn one_image_has_no_icc() {
    let home = with_images(1);
    assert_ran!(home, mc(&home, "out", &["--target-icc", "0.75"]), @r"
    exit 2
    --- stdout
    --- stderr
    haul: the images of the pilot (1) do not differ in their traces: no number of passes tells them apart

    hint: take more images, or other --sites
    ");
}

/// Each image ends when it is known well enough, whatever stands beside it: its numbers are those of that many passes.
#[test]
fn an_image_stops_when_it_is_known() {
    let home = with_images(12);
    let target = ["--trials", "2", "--target-se", "0.12", "--dropout", "0.1"];
    let receipt = mc_json(&home, "out", &[&target[..], &["--batch-size", "64"]].concat());
    let most = receipt["settings"]["passes"]["passes"][0].as_u64().unwrap() as usize;
    let counts = array(&home.path("out/mc.npz"), "passes");
    assert_eq!(counts.shape, [2, 12]);
    let counts: Vec<usize> = counts.to_f64().iter().map(|count| *count as usize).collect();
    let (fewest, largest) = (*counts.iter().min().unwrap(), *counts.iter().max().unwrap());
    assert!(16 <= fewest && fewest < largest && largest <= most, "{counts:?}");
    let told = &document(home.path("out/exp0_summary.json"))["results"][format!("T={most}")];
    assert_eq!(told["stopped"]["enough"], json!({"share": 0.12}));
    assert_eq!((&told["stopped"]["passes_min"], &told["stopped"]["unreached"]), (&json!(fewest), &json!(0)));
    assert!(told["pre_norm"]["law"].is_null(), "it is about trials of one length");

    // The pilot's passes over all images are computed apart.
    assert_eq!(receipt["settings"]["reused_passes"], 0);
    for batch in ["1", "7"] {
        mc_json(&home, batch, &[&target[..], &["--batch-size", batch, "--threads", "2"]].concat());
        for file in ["mc.npz", "exp0_summary.json"] {
            let bytes = |out: &str| fs::read(home.path(out).join(file)).unwrap();
            assert!(bytes(batch) == bytes("out"), "batches of {batch}: {file}");
        }
    }
    let again = mc_json(&home, "out", &target);
    assert_eq!(again["work"]["flops"], 0, "nothing is computed twice");

    // A run of as many passes as the first image took says the same of it.
    let passes = counts[0].to_string();
    mc_json(&home, "whole", &["--trials", "1", "--passes", &passes, "--dropout", "0.1"]);
    let trace = |out: &str| array(&home.path(out).join("mc.npz"), "trace_pre").to_f64()[0];
    assert_eq!(trace("out"), trace("whole"));
    let found = home.json(&["vision", "analyze", "out/mc.npz"]);
    assert!(found["files"][0]["quantities"]["weighted_trace_pre"]["mean"].as_f64() > Some(0.0), "{found}");
    for refused in ["--gram", "--save-passes"] {
        let ran = mc(&home, "no", &["--target-se", "0.2", refused]);
        assert!(ran.code == 2 && ran.stderr.contains(refused), "{ran:#?}");
    }
}

/// The tiny tower for images of 384 pixels: its patches are large, and their weights are random.
fn add_large_tower(home: &Home) {
    copy_tree(&home.path("clip"), &home.path("large"));
    let mut config = document(home.path("large/config.json"));
    config["vision_config"]["image_size"] = json!(LARGE_SIDE);
    config["vision_config"]["patch_size"] = json!(LARGE_SIDE / 2);
    home.write("large/config.json", config.to_string());
    let mut preprocess = document(home.path("large/preprocessor_config.json"));
    preprocess["size"] = json!({"height": LARGE_SIDE, "width": LARGE_SIDE});
    home.write("large/preprocessor_config.json", preprocess.to_string());

    let file = home.path("large/model.safetensors");
    let mut content = fs::read(&file).unwrap();
    let data = content.split_off(8 + u64::from_le_bytes(content[..8].try_into().unwrap()) as usize);
    let mut header: serde_json::Map<String, Value> = serde_json::from_slice(&content[8..]).unwrap();
    header.remove("__metadata__");
    let side = LARGE_SIDE as usize / 2;
    let numbers = 32 * 3 * side * side;
    let mut tensors = vec![];
    for (name, tensor) in &mut header {
        let at = |no: usize| tensor["data_offsets"][no].as_u64().unwrap() as usize;
        let begin = tensors.len();
        if name.ends_with("patch_embedding.weight") {
            let mut random = Random(5);
            tensors.extend((0..numbers).flat_map(|_| (0x1000 | random.next() as u16 & 0x83ff).to_le_bytes()));
            tensor["shape"] = json!([32, 3, side, side]);
        } else {
            tensors.extend_from_slice(&data[at(0)..at(1)]);
        }
        tensor["data_offsets"] = json!([begin, tensors.len()]);
    }
    let header = Value::Object(header).to_string();
    fs::write(file, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &tensors].concat())
        .unwrap();
}

const LARGE_SIDE: u32 = 384;
const LARGE_BYTES: u64 = 3 * (LARGE_SIDE as u64).pow(2);

/// Pixels stand on disk: of more images, memory has a few numbers more.
#[test]
fn memory_does_not_grow_with_the_images() {
    let home = with_images(140);
    add_large_tower(&home);
    let peak = |out: &str, images: &str, more: &[&str]| {
        let args = ["vision", "mc", "images", "--model", "large", "--out", out, "--quiet", "--trials", "1"];
        let few = ["--passes", "2", "--num-images", images];
        let receipt = home.json(&[&args[..], &few, more].concat());
        assert_eq!(receipt["items"]["ok"].to_string(), images);
        (receipt["memory"]["peak_rss"].as_u64().unwrap(), receipt)
    };
    // Images whose prefixes are computed at once are as many as a batch has passes.
    let (few, _) = peak("few", "20", &["--batch-size", "8"]);
    let (many, _) = peak("many", "140", &["--batch-size", "8"]);
    println!("{} MiB for 20 images, {} for 140", few >> 20, many >> 20);
    assert!(many < few + 120 * LARGE_BYTES / 3, "{few} {many}");

    let (within, receipt) = peak("within", "140", &["--memory", "1G", "--batch-tokens", "65536"]);
    let batch = receipt["settings"]["passes"]["batch"].as_u64().unwrap();
    assert!((1..1_000).contains(&batch) && within < 1 << 30, "{batch} passes at once, {within} bytes");
    let same = |out: &str| fs::read(home.path(out).join("mc.npz")).unwrap();
    assert!(same("within") == same("many"));
    let args = ["vision", "mc", "images", "--model", "large", "--out", "no", "--memory", "100M"];
    let refused = home.run(&args);
    assert!(refused.code == 2 && refused.stderr.contains("100 MiB of memory: one pass"), "{refused:#?}");
}

/// 10,000 images of 384 pixels in 2 GB.
#[test]
fn ten_thousand_images_fit_two_gigabytes() {
    if !crate::fixtures::full() {
        return;
    }
    let home = Home::empty();
    add_tower(&home, "tiny-clip", "clip");
    add_large_tower(&home);
    let mut random = Random(9);
    for no in 0..10_000 {
        home.write(&format!("images/class{}/{no:05}.bmp", no % 10), bmp(8, 8, &mut random));
    }
    let args = ["vision", "mc", "images", "--model", "large", "--out", "out", "--quiet", "--trials", "1"];
    let receipt =
        home.json(&[&args[..], &["--passes", "2", "--num-images", "10000", "--memory", "2G"]].concat());
    let peak = receipt["memory"]["peak_rss"].as_u64().unwrap();
    println!("{} MiB for 10,000 images, {} s", peak >> 20, receipt["seconds"]);
    assert_eq!(receipt["items"]["ok"], 10_000);
    assert!(peak < 2_000_000_000, "{peak}");
}

#[test]
fn a_plan_leaves_no_results() {
    let home = with_images(3);
    let plan = home.json(&["vision", "mc", "images", "--model", "clip", "--out", "out", "--plan", "--quiet"]);
    let ways = plan["plans"][0]["ways"].as_array().unwrap();
    assert_eq!(ways[0]["passes"], 3 * 10 * 84);
    assert_eq!(ways[2]["passes"], 3 * 10 * 64);
    assert!(ways[2]["seconds"].as_f64() < ways[0]["seconds"].as_f64());
    assert!(!home.path("out").exists());
    home.write("images/no.png", "no image");
    assert_eq!(mc(&home, "out", &["--plan"]).code, 1);
}

/// The page needs nothing but itself.
#[test]
fn the_report_stands_alone() {
    let home = with_images(6);
    home.write("images/<b>.png", "");
    let ran = mc(&home, "out", &SMALL);
    assert_eq!(ran.code, 1);
    let page = fs::read_to_string(home.path("out/report.html")).unwrap();
    assert_eq!(page.matches("data:image/bmp;base64,").count(), 6);
    assert!(page.contains("&lt;b&gt;.png") && page.contains("img-src data:"));
    for outside in ["<script", "http://", "https://", "<b>.png"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

/// CLIP as the study ran it is another model.
#[test]
fn the_study_ran_another_activation() {
    let home = with_images(3);
    mc_json(&home, "ours", &SMALL);
    mc_json(&home, "theirs", &[&SMALL[..], &["--as-they-ran"]].concat());
    let of = |out: &str| array(&home.path(out).join("mc.npz"), "features");
    assert_ne!(of("ours"), of("theirs"));
    add_tower(&home, "tiny-siglip", "siglip");
    let refused = home.run(&["vision", "mc", "images", "--model", "siglip", "--out", "no", "--as-they-ran"]);
    assert!(refused.code == 2 && refused.stderr.contains("has no quick GELU"), "{refused:#?}");
}

/// Puts the tensors of a tiny text tower beside those of the image tower, as whole checkpoints have them.
fn add_text_tower(home: &Home, golden: &str, name: &str) {
    let from = repository().join("crates/encoder/tests/golden").join(golden);
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(from.join(file), home.path(name).join(file)).unwrap();
    }
    let mut config = document(home.path(name).join("config.json"));
    config["text_config"] = document(from.join("config.json"))["text_config"].clone();
    home.write(&format!("{name}/config.json"), config.to_string());

    let file = home.path(name).join("model.safetensors");
    let (mut tensors, mut bytes) = (serde_json::Map::new(), vec![]);
    for part in [&file, &from.join("model.safetensors")] {
        let content = fs::read(part).unwrap();
        let header = u64::from_le_bytes(content[..8].try_into().unwrap()) as usize;
        let (json, data) = content[8..].split_at(header);
        for (name, mut tensor) in serde_json::from_slice::<serde_json::Map<String, Value>>(json).unwrap() {
            if name != "__metadata__" {
                let at = |no: usize| tensor["data_offsets"][no].as_u64().unwrap() + bytes.len() as u64;
                tensor["data_offsets"] = json!([at(0), at(1)]);
                tensors.insert(name, tensor);
            }
        }
        bytes.extend_from_slice(data);
    }
    let header = Value::Object(tensors).to_string();
    let length = (header.len() as u64).to_le_bytes();
    fs::write(file, [&length[..], header.as_bytes(), &bytes].concat()).unwrap();
}

#[test]
fn uncertainty_is_held_against_what_a_model_cannot_name() {
    let home = with_images(9);
    add_text_tower(&home, "tiny-clip-text", "clip");
    home.write("map.tsv", "class0\tw5 w6\nclass1\tw59\nclass2\tw1 w2 w3\nclass9\tw9\n");
    let few = ["--trials", "2", "--passes", "8", "--dropout", "0.1"];
    let asked = ["--class-map", "map.tsv", "--templates", "{}|w7 {}", "--quantile", "0.3"];
    let ran = experiment(&home, "exp5", &[&few[..], &asked].concat());
    assert!(ran.stdout.contains("AUROC"), "{}", ran.stdout);
    assert!(ran.stdout.lines().all(|line| line.chars().count() <= 80), "{}", ran.stdout);
    assert!(ran.stdout.contains("1 of its names are for folders that are not here"), "{}", ran.stdout);

    let file = home.path("exp5/exp5_subset_clip.npz");
    let numbers = |name: &str| array(&file, name).to_f64();
    assert_eq!(array(&file, "logits").shape, [9, 3]);
    assert_eq!(array(&file, "uncertainty_trials").shape, [2, 9]);
    assert_eq!(numbers("gt_labels"), [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
    // The features of the images without dropout, and of the first template's texts, multiplied here.
    mc_json(&home, "out", &few);
    let features = array(&home.path("out/mc.npz"), "features");
    let device = haul_encoder::device::reference::ReferenceDevice;
    let captions = haul_encoder::captions::CaptionEncoder::load(&home.path("clip"), &device).unwrap();
    let texts = captions.features(&["w5 w6", "w59", "w1 w2 w3"].map(str::to_owned)).unwrap();
    let unit = |row: Vec<f64>| {
        let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        row.into_iter().map(|x| x / length).collect::<Vec<f64>>()
    };
    let logits = numbers("logits");
    for (image, row) in features.to_f64().chunks_exact(24).enumerate() {
        let mut of: Vec<f64> = texts
            .iter()
            .map(|text| unit(text.iter().map(|x| f64::from(*x)).collect()))
            .map(|text| unit(row.to_vec()).iter().zip(text).map(|(a, b)| a * b).sum::<f64>())
            .map(|cosine| cosine * f64::from(captions.likeness().scale))
            .collect();
        for (class, expected) in of.iter().enumerate() {
            let found = logits[image * 3 + class];
            assert!((found - expected).abs() < 1e-3, "image {image}, class {class}: {found}, not {expected}");
        }
        of.sort_by(f64::total_cmp);
        assert!((numbers("margin")[image] - (of[2] - of[1])).abs() < 1e-3);
    }
    let summary = document(home.path("exp5/exp5_subset_clip_summary.json"));
    assert_eq!((&summary["num_classes"], &summary["quantile"]), (&json!(3), &json!(0.3)));
    let low = numbers("low_margin").iter().sum::<f64>();
    assert!((2.0..=4.0).contains(&low), "{low} of 9");
    let overall = document(home.path("exp5/exp5_subset_overall_summary.json"));
    assert_eq!(overall["results"]["clip"], summary["metrics"]);
    assert_eq!(overall["templates"], json!(["{}", "w7 {}"]));
}

#[test]
fn prompts_that_say_nothing_are_refused_before_anything_is_computed() {
    let home = with_images(3);
    let exp5 = |args: &[&str]| {
        let ran =
            home.run(&[&["vision", "exp5", "images", "--model", "clip", "--out", "exp5"], args].concat());
        assert_eq!(ran.code, 2, "{ran:#?}");
        ran.stderr
    };
    assert!(exp5(&[]).contains("tokenizer.json"), "no text tower");
    add_text_tower(&home, "tiny-clip-text", "clip");
    assert!(exp5(&["--templates", "a photo"]).contains("{}"));
    home.write("map.tsv", "n01440764\ttench\n");
    let said = exp5(&["--class-map", "map.tsv"]);
    assert!(said.contains("none of its 1 names is for one of the 3 folders"), "{said}");
    home.write("map.tsv", "class0 tench\n");
    assert!(exp5(&["--class-map", "map.tsv"]).contains("line 1"));
}
