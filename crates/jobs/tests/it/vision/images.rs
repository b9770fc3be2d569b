//! Which images a run takes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use haul_jobs::vision::images::{ImagesError, Manifest, find};
use haul_jobs::vision::sample::{as_numpy, by_class, choice};
use serde_json::Value;
use tempfile::TempDir;

use super::golden_dir;

#[test]
fn samples_are_numpys_bit_for_bit() {
    let cases: Value =
        serde_json::from_slice(&fs::read(golden_dir().join("vision_sample.json")).unwrap()).unwrap();
    for case in cases.as_array().unwrap() {
        let of = |key: &str| case[key].as_u64().unwrap();
        let chosen = choice(of("items"), of("count"), of("seed"));
        let first: Vec<u64> = case["first"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect();
        assert_eq!(chosen.len() as u64, of("count"), "{case}");
        assert_eq!(chosen[..first.len()], first, "{case}");
        let sum: u128 = chosen.iter().zip(1..).map(|(value, place)| u128::from(*value) * place).sum();
        assert_eq!((sum % (1 << 53)) as u64, of("sum"), "{case}");
    }
    let sorted = as_numpy(10, 30, 1);
    assert_eq!(sorted, (0..10).collect::<Vec<_>>());
}

fn touch(dir: &TempDir, name: &str) {
    let path = dir.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "").unwrap();
}

#[test]
fn images_are_found_in_pythons_order() {
    let dir = TempDir::new().unwrap();
    for name in
        ["b/1.png", "b-c/1.PNG", "a.JpEg", "b/x.webp", "b/y.bmp", "b/z.gif", "b.jpg", "no", ".hidden/1.jpg"]
    {
        touch(&dir, name);
    }
    fs::create_dir(dir.path().join("folder.png")).unwrap();
    let found = find(dir.path()).unwrap();
    let names: Vec<&str> =
        found.images.iter().map(|path| path.strip_prefix(dir.path()).unwrap().to_str().unwrap()).collect();
    // By the parts of a path: "b" is before "b-c", though "b-" is before "b/".
    assert_eq!(names, [".hidden/1.jpg", "a.JpEg", "b/1.png", "b/x.webp", "b/y.bmp", "b-c/1.PNG", "b.jpg"]);
    assert_eq!(found.failures, []);
    assert!(matches!(find(&dir.path().join("none")), Err(ImagesError::List { .. })));
}

#[test]
fn classes_are_sampled_evenly_and_stay_when_images_come() {
    let root = Path::new("/images");
    let of = |class: &str, count: usize| {
        (0..count).map(|no| root.join(format!("{class}/{no}.jpg"))).collect::<Vec<_>>()
    };
    let mut paths: Vec<PathBuf> = [of("ant", 100), of("bee", 3), of("cat", 50), of("dog", 40)].concat();
    let taken = |paths: &[PathBuf], count| -> Vec<PathBuf> {
        by_class(root, paths, count, 42).into_iter().map(|no| paths[no].clone()).collect()
    };
    let sample = taken(&paths, 31);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for path in &sample {
        *counts
            .entry(path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned())
            .or_default() += 1;
    }
    assert_eq!(counts["bee"], 3);
    assert!(
        [counts["ant"], counts["cat"], counts["dog"]].iter().all(|count| [9, 10].contains(count)),
        "{counts:?}"
    );
    assert_eq!(sample.len(), 31);
    // Ten more images displace at most a few.
    paths.extend((100..110).map(|no| root.join(format!("ant/{no}.jpg"))));
    let kept = taken(&paths, 31).iter().filter(|path| sample.contains(path)).count();
    assert!(kept >= 28, "{kept}");
    assert_eq!(taken(&paths, 1_000).len(), paths.len());
    assert!(taken(&paths, 0).is_empty() && by_class(root, &[], 5, 1).is_empty());
    assert_ne!(by_class(root, &paths, 31, 1), by_class(root, &paths, 31, 2));
}

#[test]
fn manifests_are_the_originals() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("manifest.json");
    let manifest = Manifest::of(&["a.jpg".into(), "b.jpg".into(), "ü.png".into()], &[0, 2]);
    manifest.write(&file).unwrap();
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        "{\n  \"num_images\": 2,\n  \"paths\": [\n    \"a.jpg\",\n    \"ü.png\"\n  ]\n}"
    );
    assert_eq!(Manifest::read(&file).unwrap(), manifest);
    let refused = |text: &str| {
        fs::write(&file, text).unwrap();
        Manifest::read(&file).unwrap_err().to_string().replace(file.to_str().unwrap(), "FILE")
    };
    assert_eq!(
        refused(r#"{"num_images": 2, "paths": ["a"]}"#),
        "FILE: num_images is 2, and there are 1 paths"
    );
    assert_eq!(refused(r#"{"num_images": 2, "paths": ["a", "a"]}"#), "FILE: a comes twice");
    assert!(refused("[]").starts_with("FILE: not a manifest: "));
}
