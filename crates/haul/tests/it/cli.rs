//! What can be typed, what comes back, and how it ends.

use std::fs;
use std::process::Stdio;

use crate::fixtures::{Home, assert_ran, copy_tree, finished, ran, samples, small_model, text, tiny_model};

/// Two documents in `books`.
fn home_with_books() -> Home {
    let home = Home::new();
    home.write("books/loaf.txt", "Feed the starter in the evening. Bake the loaf in the morning.");
    home.write("books/canal.md", "# Canal\n\nThe barge waited at the lock until the water had risen.");
    home
}

/// And a library of them.
fn home_with_library() -> Home {
    let home = home_with_books();
    let (receipt, code) = home.ingest(&["books"]);
    assert_eq!((code, receipt["items"]["ok"].as_u64()), (0, Some(2)));
    home
}

const COMMANDS: &[&[&str]] = &[
    &[],
    &["ingest"],
    &["search"],
    &["eval"],
    &["embed"],
    &["store"],
    &["store", "info"],
    &["store", "verify"],
    &["model"],
    &["model", "add"],
    &["model", "get"],
    &["model", "list"],
    &["model", "check"],
    &["doctor"],
    &["generate"],
    &["correct"],
    &["compare"],
    &["tune"],
    &["schema"],
    &["schema", "check"],
    &["schema", "explain"],
    &["model", "quantize"],
    &["extract"],
    &["bench"],
    &["bench", "encoder"],
];

#[test]
fn help_names_the_commands() {
    let home = Home::empty();
    assert_ran!(home, home.run(&["--help"]), @r#"
    exit 0
    --- stdout
    Run open models over everything you have, on the hardware you own

    Usage: haul [OPTIONS] <COMMAND>

    Commands:
      ingest    Read books and documents into a searchable library
      report    Show what was ingested, how fast, and what failed, as a page
      search    Find passages in a library
      eval      Measure search quality against judgments
      embed     Turn lines of stdin into vectors
      extract   Read documents of companies into checked records, with evidence
      correct   Correct a manuscript with a language model, and nothing else in it
      generate  Answer requests in OpenAI's batch format with a language model
      store     Look at a library or a collection, check it, bring it elsewhere
      model     Add, download, list and check models
      schema    Check a schema of what is extracted, or show its prompts
      records   Compare records with what is true
      vision    Say how sure vision encoders are of images
      compare   Compare GGUF files of one model, and say which to take
      tune      Find the fastest settings for a model, and keep them
      doctor    Say what this machine can do, from measurement
      bench     Measure speed beside the roof of this machine

    Options:
          --json         Print exactly one JSON document to stdout
          --quiet        Print no notes and no progress to stderr; errors stay
          --log <LEVEL>  Log to stderr from this level on [env: HAUL_LOG] [possible
                         values: error, warn, info, debug, trace]
          --home <DIR>   Where models, caches and profiles live [default: the
                         platform's data folder] [env: HAUL_HOME]
      -h, --help         Print help
      -V, --version      Print version
    --- stderr
    "#);
    assert_eq!(home.ok(&["--version"]).stdout, concat!("haul ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn help_fits_80_columns() {
    let home = Home::empty();
    for command in COMMANDS {
        for flag in ["-h", "--help"] {
            let help = home.ok(&[command, &[flag][..]].concat());
            let wide: Vec<&str> = help.stdout.lines().filter(|line| line.chars().count() > 80).collect();
            assert!(wide.is_empty(), "haul {command:?} {flag} is too wide: {wide:#?}");
            assert!(!help.stdout.contains("parse-worker"), "the worker is no command of users");
        }
    }
}

#[test]
fn nothing_typed_is_answered_with_the_help() {
    let home = Home::empty();
    let mut command = home.haul(&[]);
    command.env_remove("HAUL_HOME").env("XDG_DATA_HOME", home.path("data"));
    let ran = ran(&mut command, b"");
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""));
    assert!(ran.stderr.contains("Usage: haul [OPTIONS] <COMMAND>"), "{ran:#?}");
}

/// What is typed, and what is said of it.
const USAGE_ERRORS: &[(&[&str], &str)] = &[
    (&["--bogus"], "unexpected argument '--bogus'"),
    (&["frobnicate"], "unrecognized subcommand 'frobnicate'"),
    (&["ingest"], "<PATH>..."),
    (&["ingest", "books"], "no library is named"),
    (&["ingest", "books", "--store", "lib.haul"], "is a new library and no model is named"),
    (
        &["ingest", "books", "--store", "lib.haul", "--model", "nope"],
        "there is no model named nope; there are tiny",
    ),
    (&["ingest", "nowhere", "--store", "lib.haul", "--model", "tiny"], "cannot list nowhere"),
    (&["ingest", "books", "--store", "no/such/folder/lib.haul", "--model", "tiny"], "no/such/folder"),
    (&["ingest", "books", "--store", "lib.haul", "--model", "tiny", "--chunker", "magic"], "'magic'"),
    (
        &["ingest", "books", "--store", "lib.haul", "--model", "tiny", "--threads", "0"],
        "--threads 0 is outside 1..=1024",
    ),
    (&["ingest", "books", "--store", "lib.haul", "--model", "tiny", "--threads", "many"], "'many'"),
    (
        &["ingest", "books", "--store", "lib.haul", "--model", "tiny", "--batch-tokens", "0"],
        "--batch-tokens 0 is outside",
    ),
    (
        &["ingest", "books", "--store", "lib.haul", "--model", "tiny", "--max-tokens", "2"],
        "--max-tokens 2 is outside 3..=48",
    ),
    (
        &["ingest", "books", "--store", "lib.haul", "--model", "tiny", "--max-tokens", "49"],
        "--max-tokens 49 is outside 3..=48",
    ),
    (
        &["ingest", "books", "--store", "lib.haul", "--model", "tiny", "--chunk-tokens", "0"],
        "--chunk-tokens 0 is outside 1..=46",
    ),
    (
        &["ingest", "books", "--store", "lib.haul", "--model", "tiny", "--chunk-tokens", "47"],
        "--chunk-tokens 47 is outside 1..=46",
    ),
    (
        &[
            "ingest",
            "books",
            "--store",
            "lib.haul",
            "--model",
            "tiny",
            "--chunker",
            "whole",
            "--overlap",
            "1",
        ],
        "--chunker whole cuts nothing",
    ),
    (&["ingest", "books", "--store", "qdrant://host:6334", "--model", "tiny"], "it names no collection"),
    (&["search", "--store", "lib.haul"], "<QUERY>"),
    (&["search", "x"], "no library is named"),
    (&["search", "x", "--store", "lib.haul"], "lib.haul: no such library"),
    (&["search", "x", "--store", "books"], "not a Haul library (a folder)"),
    (&["search", "x", "--store", "lib.haul", "--limit", "0"], "0 is not in 1..=1000"),
    (&["search", "x", "--store", "lib.haul", "--mode", "psychic"], "'psychic'"),
    (&["eval", "--store", "lib.haul"], "--queries <FILE.jsonl>"),
    (&["eval", "--store", "lib.haul", "--queries", "q", "--judgments", "j"], "cannot read q"),
    (&["embed"], "no model is named"),
    (&["embed", "--model", "tiny", "--json"], "no room for a JSON document"),
    (&["embed", "--model", "tiny", "--max-tokens", "49"], "--max-tokens 49 is outside 3..=48"),
    (&["embed", "--model", "tiny", "--role", "author"], "'author'"),
    (&["store", "info"], "no library is named"),
    (&["store", "verify", "--store", "lib.haul"], "lib.haul: no such library"),
    (&["model", "add"], "<DIR>"),
    (&["model", "add", "books"], "books"),
    (&["model", "check", "nope"], "there is no model named nope"),
    (&["model", "get", "no-slash"], "no-slash"),
    (&["doctor", "--device", "abacus"], "`abacus` is no device"),
    (&["embed", "--model", "tiny", "--dtype", "f16"], "`f16` is no dtype"),
    (&["bench"], "encoder"),
];

/// What is typed wrong ends with 2, says what, and leaves stdout to data.
#[test]
fn usage_errors() {
    let home = home_with_books();
    let mut wrong = vec![];
    for (args, says) in USAGE_ERRORS {
        let ran = home.run(args);
        if ran.code != 2 || !ran.stdout.is_empty() || !ran.stderr.contains(says) {
            wrong.push(format!("haul {args:?} should exit 2 and say {says:?}: {ran:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let left: Vec<_> = fs::read_dir(home.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "a refused command made something beside `books` and `home`: {left:?}");
}

#[test]
fn errors_are_one_line_and_a_hint() {
    let home = home_with_library();
    assert_ran!(home, home.run(&["search", "", "--store", "lib.haul", "--quiet"]), @r#"
    exit 2
    --- stdout
    --- stderr
    haul: the question is empty

    hint: write what you are looking for
    "#);
    assert_ran!(home, home.run(&["ingest", "books", "--store", "new.haul", "--quiet"]), @r#"
    exit 2
    --- stdout
    --- stderr
    haul: new.haul is a new library and no model is named

    hint: give --model NAME; `haul model list` shows the models that are here
    "#);
    assert_ran!(home, home.run(&["doctor", "--device", "cuda:1"]), @r#"
    exit 2
    --- stdout
    --- stderr
    haul: --device cuda:1: this build has no such device; it drives: cpu

    hint: use --device cpu, or --device auto for the best device of this build
    "#);
}

/// `gpu` is any accelerator and this build drives none: a run that was told where to work never works elsewhere.
#[test]
fn a_device_that_is_not_there_stops_before_anything_is_made() {
    let home = home_with_books();
    for device in ["gpu", "cuda", "cuda:0", "vulkan", "metal"] {
        let ran =
            home.run(&["ingest", "books", "--store", "lib.haul", "--model", "tiny", "--device", device]);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{ran:#?}");
        assert!(
            ran.stderr.contains(&format!("--device {device}: this build has no such device")),
            "{ran:#?}"
        );
    }
    let left: Vec<_> = fs::read_dir(home.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    let receipt =
        home.json(&["ingest", "books", "--store", "lib.haul", "--model", "tiny", "--device", "cpu"]);
    assert_eq!((&receipt["device"]["requested"], &receipt["device"]["used"]), (&"cpu".into(), &"cpu".into()));
}

#[test]
fn settings_file_then_environment_then_flag() {
    let home = home_with_books();
    home.write(
        "home/haul.toml",
        "threads = 3\nbatch_tokens = 64\nstore = \"lib.haul\"\nmodel = \"tiny\"\ndevice = \"cpu\"\n",
    );
    let resolved = |environment: Option<&str>, flags: &[&str]| {
        let mut command = home.haul(&[&["ingest", "books", "--json"], flags].concat());
        command.envs(environment.map(|threads| ("HAUL_THREADS", threads)));
        let receipt = ran(&mut command, b"").json();
        let settings = &receipt["settings"];
        assert_eq!(
            (&settings["store"], &receipt["device"]["requested"]),
            (&"lib.haul".into(), &"cpu".into())
        );
        (settings["threads"].as_u64().unwrap(), settings["batch_tokens"].as_u64().unwrap())
    };
    assert_eq!(resolved(None, &[]), (3, 64));
    assert_eq!(resolved(Some("2"), &[]), (2, 64));
    assert_eq!(resolved(Some("2"), &["--threads", "1", "--batch-tokens", "96"]), (1, 96));
}

#[test]
fn a_settings_file_that_is_wrong_is_named_with_its_line() {
    let home = Home::new();
    for (content, says) in [
        ("threads = 2\ncolour = \"red\"\n", "haul.toml:2: unknown field `colour`"),
        ("threads = \"two\"\n", "haul.toml:1: invalid type"),
        ("threads = \n", "haul.toml:1:"),
    ] {
        home.write("home/haul.toml", content);
        let ran = home.run(&["model", "list"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{ran:#?}");
        assert!(
            ran.stderr.contains(says) && ran.stderr.contains("hint: keys: device, dtype, threads"),
            "{says}: {ran:#?}"
        );
    }
    home.write("home/haul.toml", "device = \"abacus\"\n");
    let ran = home.run(&["doctor"]);
    assert!(ran.code == 2 && ran.stderr.contains("haul.toml: device: `abacus` is no device"), "{ran:#?}");
}

/// A library keeps what it was made with: another wish is refused by name and changes nothing, no wish is the
/// library's own.
#[test]
fn a_library_refuses_other_settings_by_name() {
    let home = home_with_library();
    copy_tree(&tiny_model(), &home.path("first-token"));
    let pooling = fs::read_to_string(home.path("first-token/1_Pooling/config.json")).unwrap();
    let pooling = pooling
        .replace("\"pooling_mode_cls_token\": false", "\"pooling_mode_cls_token\": true")
        .replace("\"pooling_mode_mean_tokens\": true", "\"pooling_mode_mean_tokens\": false");
    fs::write(home.path("first-token/1_Pooling/config.json"), pooling).unwrap();
    let before = home.digest();
    for (flags, says) in [
        (["--max-tokens", "20"], "max_tokens is 48, asked for 20"),
        (["--chunk-tokens", "20"], "chunk_tokens is 46, asked for 20"),
        (["--overlap", "1"], "overlap_sentences is 0, asked for 1"),
        (["--chunker", "whole"], "chunker is \"tokens\", asked for \"whole\""),
        (["--model", "./first-token"], "pooling is \"mean\", asked for \"cls\""),
    ] {
        let ran = home.run(&[&["ingest", "books", "--store", "lib.haul"], &flags[..]].concat());
        assert_eq!(ran.code, 2, "{flags:?}: {ran:#?}");
        assert!(
            ran.stderr.contains(says) && ran.stderr.contains("hint: leave the flags out"),
            "{flags:?}: {ran:#?}"
        );
    }
    home.ok(&["ingest", "books", "--store", "lib.haul"]);
    home.ok(&["ingest", "books", "--store", "lib.haul", "--max-tokens", "48", "--chunker", "tokens"]);
    assert_eq!(home.digest(), before);
}

#[test]
fn json_is_exactly_one_document() {
    let home = home_with_library();
    home.write("q.jsonl", "{\"id\": \"1\", \"text\": \"loaf\"}\n");
    home.write("j.qrels", "1 0 loaf.txt 1\n");
    let model = text(&tiny_model()).to_owned();
    for args in [
        &["ingest", "books", "--store", "lib.haul"][..],
        &["search", "loaf", "--store", "lib.haul"],
        &["eval", "--store", "lib.haul", "--queries", "q.jsonl", "--judgments", "j.qrels"],
        &["embed", "--model", "tiny", "--out", "v.npy"],
        &["store", "info", "--store", "lib.haul"],
        &["store", "verify", "--store", "lib.haul"],
        &["model", "list"],
        &["model", "check", "tiny"],
        &["bench", "encoder", "--model", "tiny", "--seconds", "0"],
        &["model", "add", &model],
        &["doctor"],
    ] {
        let document = home.json(args);
        assert!(document.is_object(), "haul {args:?}: {document}");
    }
}

#[test]
fn quiet_keeps_stderr_for_errors() {
    let home = home_with_library();
    let noisy = home.ok(&["search", "loaf", "--store", "lib.haul"]);
    assert!(noisy.stderr.starts_with("device: cpu "), "{noisy:#?}");
    for args in [
        &["search", "loaf", "--store", "lib.haul", "--quiet"][..],
        &["ingest", "books", "--store", "lib.haul", "--quiet"],
        &["store", "info", "--store", "lib.haul", "--quiet"],
    ] {
        let ran = home.ok(args);
        assert_eq!(ran.stderr, "", "{ran:#?}");
        assert!(!ran.stdout.is_empty());
    }
    let ran = home.run(&["search", "", "--store", "lib.haul", "--quiet"]);
    assert!(ran.stderr.starts_with("haul: "), "errors stay: {ran:#?}");
}

/// Readers that go away (`| head -1`, a closed terminal) end nothing, and nothing panics.
#[test]
fn closed_streams_end_no_run() {
    let home = home_with_library();
    let commands: &[&[&str]] = &[
        &["ingest", "books", "--store", "lib.haul", "--log", "trace"],
        &["search", "loaf", "--store", "lib.haul", "--log", "trace"],
        &["store", "info", "--store", "lib.haul", "--json"],
        &["model", "list"],
        &["doctor"],
        &["--help"],
        &["--version"],
    ];
    for args in commands {
        let mut child = home.haul(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ended = finished(child);
        assert_eq!(ended.code, 0, "stdout closed, haul {args:?}: {ended:#?}");
        assert!(!ended.stderr.contains("panicked"), "stdout closed, haul {args:?}: {ended:#?}");

        let mut child = home.haul(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stderr.take());
        let ended = finished(child);
        assert_eq!(ended.code, 0, "stderr closed, haul {args:?}: {ended:#?}");
        assert!(!ended.stdout.is_empty(), "stderr closed, haul {args:?}");

        // No stream at all, as under a daemon.
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "exec \"$0\" \"$@\" <&- >&- 2>&-", env!("CARGO_BIN_EXE_haul")]).args(*args);
        home.settle(&mut shell);
        assert_eq!(shell.status().unwrap().code(), Some(0), "all closed, haul {args:?}");
    }
    let refused = home.haul(&["search", ""]).stderr(Stdio::piped()).spawn().map(|mut child| {
        drop(child.stderr.take());
        finished(child).code
    });
    assert_eq!(refused.unwrap(), 2);
}

#[test]
fn answers_fit_80_columns() {
    let home = Home::new();
    copy_tree(&samples().join("library"), &home.path("books"));
    home.write(
        "books/long.md",
        format!("# {}\n\n{}\n", "A very long title of a chapter ".repeat(6), "Few words. ".repeat(30)),
    );
    for args in [
        &["ingest", "books", "--store", "lib.haul", "--model", "tiny"][..],
        &[
            "search",
            "the storm and the title of a chapter",
            "--store",
            "lib.haul",
            "--limit",
            "20",
            "--context",
            "1",
        ],
        &["store", "info", "--store", "lib.haul"],
        &["store", "verify", "--store", "lib.haul"],
        &["model", "list"],
        &["doctor"],
    ] {
        let ran = home.ok(args);
        let lines = ran.stdout.lines().chain(ran.stderr.lines());
        let wide: Vec<&str> = lines.filter(|line| line.chars().count() > 80).collect();
        assert!(wide.is_empty(), "haul {args:?}: {wide:#?}");
    }
}

#[test]
fn summaries() {
    let home = home_with_library();
    home.write("books/broken.epub", "words");
    fs::remove_file(home.path("books/loaf.txt")).unwrap();
    assert_ran!(home, home.run(&["ingest", "books", "--store", "lib.haul", "--threads", "1"]), @r#"
    exit 1
    --- stdout
    1 of 2 inputs ok in lib.haul
      0 chunks, 0 tokens in [TIME]; 1 inputs unchanged

      stage    threads     busy  starved  blocked    items
      list           1 [TIMES]        2
      parse          1 [TIMES]        1
      chunk          1 [TIMES]        1
      embed          1 [TIMES]        0
      commit         1 [TIMES]        1

    not ok:
      [HOME]/books/broken.epub: corrupt (not a zip archive, as an EPUB is: it starts with "words")

    files gone, documents kept (--prune removes them):
      [HOME]/books/loaf.txt
    --- stderr
    device: [CPU]
    "#);
    assert_ran!(home, home.run(&["store", "info", "--store", "lib.haul"]), @r#"
    exit 0
    --- stdout
    [HOME]/lib.haul  [SIZE]
      documents  2
      chunks     2
      vectors    2 of 32 x f16
      model      tiny (f32, mean)
      chunker    tokens, 46 tokens, overlap 0
      inputs     corrupt 1, ok 2
      digest     [HASH]
    --- stderr
    "#);
    assert_ran!(home, home.run(&["store", "verify", "--store", "lib.haul"]), @r#"
    exit 0
    --- stdout
    2 documents, 2 chunks, 2 vectors: sound
    --- stderr
    "#);
    assert_ran!(home, home.run(&["search", "barge", "--store", "lib.haul", "--mode", "bm25"]), @r#"
    exit 0
    --- stdout
    1. canal > Canal [0.0000]
       # Canal The barge waited at the lock until the water had risen.

    --- stderr
    "#);
    assert_ran!(home, home.run(&["search", "xylophone", "--store", "lib.haul", "--mode", "bm25"]), @r#"
    exit 0
    --- stdout
    nothing found
    --- stderr
    "#);
}

/// The number of tokens that the library keeps was held against the model that was typed, and refused as a flag that
/// nobody gave; and two hashes said which models they were.
#[test]
fn another_model_is_refused_by_its_name() {
    let home = home_with_library();
    small_model(&home.path("small"));
    home.ok(&["model", "add", "small", "--name", "small", "--link"]);
    let ran = home.run(&["ingest", "books", "--store", "lib.haul", "--model", "small"]);
    assert_ran!(home, ran, @r#"
    exit 2
    --- stdout
    --- stderr
    device: [CPU]
    haul: lib.haul was made with other settings: model is "tiny" (sha256 [HASH]), asked for "small" (sha256 [HASH]); pooling is "mean", asked for "cls"

    hint: leave the flags out to use the library's settings, or make it again with these: --reembed
    "#);
}

/// Of two flags that fight, one was passed over in silence; an empty collection and an overlap of more sentences than a
/// chunk has tokens were taken.
#[test]
fn flags_that_cannot_be_meant_are_refused() {
    let home = home_with_library();
    for (flags, says) in [
        (&["--plan", "--dry-run"][..], "cannot be used with"),
        (&["--plan", "--compare-thresholds", "0.5"], "cannot be used with"),
        (&["--prune", "--prune-all"], "cannot be used with"),
        (&["--collection", ""], "a name is needed"),
        (&["--overlap", "4000000000"], "--overlap 4000000000 is outside 0..=46"),
    ] {
        let ran = home.run(&[&["ingest", "books", "--store", "lib.haul"], flags].concat());
        assert!(ran.code == 2 && ran.stderr.contains(says), "{flags:?}: {ran:#?}");
    }
}
