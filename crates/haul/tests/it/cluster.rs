//! The examples for clusters do what they say: their files have the fields that matter, and their scripts make the
//! library, with the real program and a stand-in for what a cluster provides.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::fixtures::{Home, Ran, finished, repository, text, tiny_model, write_corpus};

fn sample(name: &str) -> String {
    fs::read_to_string(repository().join("samples/cluster").join(name)).unwrap()
}

/// As much of YAML as the examples use: maps and lists by indentation, plain and quoted scalars, `[..]` and `{}` in
/// JSON, and text after `|`.
fn yaml(content: &str) -> Value {
    let is_text = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let lines: Vec<(usize, String)> = content
        .lines()
        .filter(is_text)
        .map(|line| (line.len() - line.trim_start().len(), line.trim().to_owned()))
        .collect();
    let mut at = 0;
    let value = block(&lines, &mut at, content);
    assert_eq!(at, lines.len(), "all of it is read");
    value
}

fn block(lines: &[(usize, String)], at: &mut usize, content: &str) -> Value {
    let indent = lines[*at].0;
    if !lines[*at].1.starts_with("- ") {
        return map(lines, at, indent, content);
    }
    let mut list = vec![];
    while *at < lines.len() && lines[*at].0 == indent && lines[*at].1.starts_with("- ") {
        let item = lines[*at].1[2..].to_owned();
        if item == "|" {
            *at += 1;
            list.push(json!(literal(lines, at, indent, content)));
        } else {
            // A map whose first key stands beside the dash.
            let mut inner = lines.to_vec();
            inner[*at] = (indent + 2, item);
            list.push(map(&inner, at, indent + 2, content));
        }
    }
    Value::Array(list)
}

fn map(lines: &[(usize, String)], at: &mut usize, indent: usize, content: &str) -> Value {
    let mut fields = serde_json::Map::new();
    while *at < lines.len() && lines[*at].0 == indent && !lines[*at].1.starts_with("- ") {
        let line = lines[*at].1.clone();
        let (name, rest) = line.split_once(':').unwrap_or_else(|| panic!("no field: {line}"));
        *at += 1;
        let value = match rest.trim() {
            "" => block(lines, at, content),
            "|" => json!(literal(lines, at, indent, content)),
            scalar => serde_json::from_str(scalar).unwrap_or_else(|_| json!(scalar)),
        };
        assert!(fields.insert(name.to_owned(), value).is_none(), "{name} comes twice");
    }
    Value::Object(fields)
}

/// The lines deeper than `indent`, as they stand in the file, comments included.
fn literal(lines: &[(usize, String)], at: &mut usize, indent: usize, content: &str) -> String {
    let first = lines[*at].1.clone();
    while *at < lines.len() && lines[*at].0 > indent {
        *at += 1;
    }
    let depth = |line: &str| line.len() - line.trim_start().len();
    let from = content.lines().skip_while(|line| line.trim() != first);
    let body = from.take_while(|line| line.trim().is_empty() || depth(line) > indent);
    body.map(|line| line.trim().to_owned() + "\n").collect()
}

/// A job of Kubernetes, with what makes it one.
struct Job {
    spec: Value,
    script: String,
    environment: BTreeMap<String, String>,
}

fn job(name: &str) -> Job {
    let document = yaml(&sample(name));
    assert_eq!((&document["apiVersion"], &document["kind"]), (&json!("batch/v1"), &json!("Job")), "{name}");
    assert!(document["metadata"]["name"].is_string(), "{name}");
    let spec = document["spec"].clone();
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["restartPolicy"], "OnFailure", "{name}: the disk of a pod lives as long as the pod");
    let container = &pod["containers"][0];
    assert_eq!(container["command"], json!(["/bin/sh", "-eu", "-c"]));
    let named = |list: &Value, field: &str| -> Vec<String> {
        list.as_array().unwrap().iter().map(|item| item[field].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(named(&container["volumeMounts"], "name"), named(&pod["volumes"], "name"), "{name}");
    let values = named(&container["env"], "value");
    let environment: BTreeMap<String, String> =
        named(&container["env"], "name").into_iter().zip(values).collect();
    let mounts = named(&container["volumeMounts"], "mountPath");
    for path in environment.values().filter(|value| value.starts_with('/')) {
        assert!(
            mounts.iter().any(|mount| path.starts_with(mount.as_str())),
            "{name}: {path} is mounted nowhere"
        );
    }
    let script = container["args"][0].as_str().unwrap().to_owned();
    Job { spec, script, environment }
}

/// A folder of commands: the program itself, and stand-ins for those of Slurm.
fn commands(home: &Home) {
    for (name, body) in [
        ("haul", format!("exec {} \"$@\"", env!("CARGO_BIN_EXE_haul"))),
        ("srun", "exec \"$@\"".to_owned()),
        ("scontrol", format!("echo \"$@\" >> {}", text(&home.path("requeued")))),
    ] {
        let path = home.write(&format!("bin/{name}"), format!("#!/bin/sh\n{body}\n"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn run(home: &Home, shell: &[&str], environment: &[(&str, &str)]) -> Ran {
    let mut command = Command::new(shell[0]);
    home.settle(&mut command);
    command.args(&shell[1..]).env_remove("HAUL_HOME");
    command.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", text(&home.path("bin"))));
    command.envs(environment.iter().copied());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    finished(command.spawn().unwrap())
}

fn expected_digest(home: &Home) -> Value {
    home.run(&["ingest", "books", "--store", "whole.haul", "--model", "tiny", "--quiet"]);
    home.json(&["store", "info", "--store", "whole.haul"])["digest"].clone()
}

fn books(home: &Home) {
    write_corpus(&home.path("books"), 9, 16);
    home.write("books/empty.txt", "");
    fs::create_dir(home.path("scratch")).unwrap();
    commands(home);
}

#[test]
fn a_slurm_array_makes_the_library() {
    let home = Home::new();
    books(&home);
    let (books, out) = (home.path("books"), home.path("out"));
    let (model, scratch) = (tiny_model(), home.path("scratch"));
    let shared = [
        ("BOOKS", text(&books)),
        ("MODEL", text(&model)),
        ("OUT", text(&out)),
        ("TMPDIR", text(&scratch)),
        ("SHARDS", "3"),
    ];
    let script = |name: &str| repository().join("samples/cluster").join(name);
    let task = |index: &str| {
        let slurm = [
            ("SLURM_ARRAY_JOB_ID", "77"),
            ("SLURM_ARRAY_TASK_ID", index),
            ("SLURM_ARRAY_TASK_COUNT", "3"),
            ("SLURM_CPUS_PER_TASK", "2"),
        ];
        run(&home, &["bash", text(&script("slurm-ingest.sbatch"))], &[&shared[..], &slurm].concat())
    };
    let merge = || run(&home, &["bash", text(&script("slurm-merge.sbatch"))], &shared);
    for index in ["0", "2"] {
        let ran = task(index);
        assert_eq!(ran.code, 0, "{ran:#?}");
    }
    let early = merge();
    assert!(early.code == 1 && early.stderr.contains("2 libraries in "), "{early:#?}");
    assert_eq!(task("1").code, 0);
    // A task that runs again finds its library, and does nothing twice.
    assert_eq!(task("1").code, 0);
    let receipt: Value = serde_json::from_slice(&fs::read(out.join("shard-1.json")).unwrap()).unwrap();
    assert_eq!(receipt["work"]["tokens"], 0);
    let ran = merge();
    assert_eq!(ran.code, 0, "{ran:#?}");
    let info = home.json(&["store", "info", "--store", text(&out.join("books.haul"))]);
    assert_eq!(info["digest"], expected_digest(&home));
    assert!(fs::read_dir(&scratch).unwrap().next().is_none(), "local disks are left clean");
    assert!(!home.path("requeued").exists());
    assert_eq!(task("3").code, 2, "there is no fourth of three");
}

#[test]
fn an_indexed_job_makes_the_library() {
    let home = Home::new();
    books(&home);
    let job_of_shards = job("kubernetes-library.yaml");
    indexed(&job_of_shards, "kubernetes-library.yaml");
    let merge = job("kubernetes-merge.yaml");
    fs::create_dir(home.path("out")).unwrap();
    let model = tiny_model();
    let pod = |job: &Job, index: &str| {
        let scratch = home.path(format!("scratch/{index}"));
        fs::create_dir_all(&scratch).unwrap();
        let here: BTreeMap<&str, String> = BTreeMap::from([
            ("SHARDS", "3".to_owned()),
            ("BOOKS", text(&home.path("books")).to_owned()),
            ("MODEL", text(&model).to_owned()),
            ("OUT", text(&home.path("out")).to_owned()),
            ("SCRATCH", text(&scratch).to_owned()),
            ("HAUL_HOME", text(&scratch.join("home")).to_owned()),
        ]);
        let mut given: Vec<(&str, &str)> =
            job.environment.keys().map(|name| (name.as_str(), here[name.as_str()].as_str())).collect();
        given.push(("JOB_COMPLETION_INDEX", index));
        run(&home, &["/bin/sh", "-eu", "-c", &job.script], &given)
    };
    assert_eq!(pod(&merge, "merge").code, 1, "there is nothing yet");
    for index in ["0", "1", "2"] {
        let ran = pod(&job_of_shards, index);
        assert_eq!(ran.code, 0, "{ran:#?}");
    }
    let ran = pod(&merge, "merge");
    assert_eq!(ran.code, 0, "{ran:#?}");
    let info = home.json(&["store", "info", "--store", text(&home.path("out/books.haul"))]);
    assert_eq!(info["digest"], expected_digest(&home));
}

/// One pod for each shard, and the script is told how many there are.
fn indexed(job: &Job, name: &str) {
    let spec = &job.spec;
    assert_eq!(spec["completionMode"], "Indexed", "{name}");
    let completions = spec["completions"].as_u64().unwrap();
    assert!(spec["parallelism"].as_u64().unwrap() <= completions && spec["backoffLimit"].is_u64(), "{name}");
    assert_eq!(job.environment["SHARDS"], completions.to_string(), "{name}");
    assert!(job.script.contains("--shard \"$JOB_COMPLETION_INDEX/$SHARDS\""), "{name}");
}

#[test]
fn examples_for_a_server_are_whole() {
    let job = job("kubernetes-qdrant.yaml");
    indexed(&job, "kubernetes-qdrant.yaml");
    assert!(job.environment["QDRANT"].starts_with("qdrant://"), "{:?}", job.environment);
    let home = Home::empty();
    let checked = run(&home, &["sh", "-n", "-c", &job.script], &[]);
    assert_eq!(checked.code, 0, "{checked:#?}");
    let folder = repository().join("samples/cluster");
    for name in ["slurm-ingest.sbatch", "slurm-merge.sbatch", "slurm-qdrant.sbatch"] {
        let ran = run(&home, &["bash", "-n", text(&folder.join(name))], &[]);
        assert_eq!(ran.code, 0, "{name}: {ran:#?}");
        let script = sample(name);
        let options: Vec<&str> = script.lines().filter_map(|line| line.strip_prefix("#SBATCH ")).collect();
        assert!(script.starts_with("#!/bin/bash\n") && options.iter().all(|option| option.starts_with("--")));
        let first_command = script.find("\nset -euo").unwrap();
        assert!(
            script.rfind("#SBATCH").unwrap() < first_command,
            "{name}: what follows a command is not read"
        );
        if name != "slurm-merge.sbatch" {
            assert!(options.contains(&"--array=0-7") && script.contains("SLURM_ARRAY_TASK_COUNT"), "{name}");
        }
    }
    // The page that explains them names each.
    let page = fs::read_to_string(repository().join("docs/cluster.md")).unwrap();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = Path::new(&path).file_name().unwrap().to_str().unwrap().to_owned();
        assert!(page.contains(&format!("samples/cluster/{name}")), "{name} is not in docs/cluster.md");
    }
}

#[test]
fn the_small_reader_of_yaml_reads() {
    let content = "# a comment\na: 1\nb:\n  - name: x\n    value: \"8\"\n  - name: y\nc:\n  - |\n    one \\\n      two\n    # kept\nd: [\"p\", \"q\"]\n";
    let expected = json!({
        "a": 1, "b": [{"name": "x", "value": "8"}, {"name": "y"}], "c": ["one \\\ntwo\n# kept\n"], "d": ["p", "q"],
    });
    assert_eq!(yaml(content), expected);
}
