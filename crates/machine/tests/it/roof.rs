use haul_kernels::dtype::Dtype;
use haul_machine::cpu::{self, Cpu, Isa};
use haul_machine::roof::{RoofError, Roofs, load_or_measure};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn only_file(dir: &Path) -> PathBuf {
    let files: Vec<PathBuf> =
        std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

fn write(file: &Path, roofs: &Roofs) {
    let json = serde_json::to_vec(roofs).expect("roofs are plain data");
    std::fs::write(file, json).expect("a writable file");
}

/// One test, so that the measuring loops do not compete with each other for the cores.
#[test]
fn roofs_are_measured_once_kept_and_measured_again_when_they_do_not_fit() {
    let cpu = cpu::probe(Isa::best());
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("made/on/demand");

    let first = load_or_measure(&dir, &cpu).unwrap();
    assert!(Dtype::ALL.iter().all(|dtype| first.of(*dtype) > 1.0) && first.read_gb_per_s > 0.5, "{first:?}");
    assert_eq!((first.cores, first.isa.as_str()), (cpu.cores, cpu.isa.name()));
    let file = only_file(&dir);

    // Marked, so that a stored profile can be told from a new one.
    let marked = Roofs { measured: "2001-01-01T00:00:00Z".to_owned(), ..first.clone() };
    write(&file, &marked);
    let start = Instant::now();
    let again = load_or_measure(&dir, &cpu).unwrap();
    let took = start.elapsed();
    if again == marked {
        // The promise is 50 ms on a quiet machine; under the load of other tests a thread waits its turn.
        assert!(took < Duration::from_millis(500), "{took:?}");
    } else {
        // Other work took the cores between the two measurements; then the ratio must say so.
        assert!(again.measured > marked.measured, "{again:?}");
    }

    let with = |dtype: Dtype, gflops: Option<f64>| {
        let mut wrong = marked.clone();
        wrong.gflops.remove(dtype.name());
        wrong.gflops.extend(gflops.map(|gflops| (dtype.name().to_owned(), gflops)));
        wrong
    };
    for wrong in [
        with(Dtype::F32, Some(first.of(Dtype::F32) * 20.0)),
        with(Dtype::Int8, None),
        with(Dtype::Bf16, Some(0.0)),
        Roofs { cores: cpu.cores + 1, ..marked.clone() },
        Roofs { read_gb_per_s: 0.0, ..marked.clone() },
    ] {
        write(&file, &wrong);
        let replaced = load_or_measure(&dir, &cpu).unwrap();
        assert!(replaced.measured > marked.measured, "kept {wrong:?}");
        let kept: Roofs = serde_json::from_slice(&std::fs::read(only_file(&dir)).unwrap()).unwrap();
        assert_eq!(kept, replaced);
    }

    // As written before there was more than one dtype.
    let old = r#"{"cpu": "CPU", "cores": 2, "isa": "avx2", "f32_gflops": 400.0, "read_gb_per_s": 20.0, "measured": ""}"#;
    std::fs::write(&file, old).unwrap();
    assert!(load_or_measure(&dir, &cpu).unwrap().measured > marked.measured);
    std::fs::write(&file, "{ half a prof").unwrap();
    assert!(load_or_measure(&dir, &cpu).unwrap().measured > marked.measured);
}

#[test]
fn a_profile_that_cannot_be_kept_is_an_error_that_names_it() {
    let home = tempfile::tempdir().unwrap();
    let blocked = home.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    let cpu = Cpu { cores: 1, ..cpu::probe(Isa::best()) };
    let error = load_or_measure(&blocked.join("profiles"), &cpu).unwrap_err();
    assert!(matches!(error, RoofError::Read { .. } | RoofError::Write { .. }), "{error}");
    assert!(error.to_string().contains("file/profiles/roof-"), "{error}");
    assert!(!error.hint().is_empty());
}
