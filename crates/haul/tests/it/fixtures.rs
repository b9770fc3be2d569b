//! What the tests share: a home folder with a tiny model, the program run in it, and small corpora.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

/// A folder of its own for `HAUL_HOME`, libraries and input.
pub(crate) struct Home {
    dir: TempDir,
}

/// How one run of the program ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Exit code; -1 when a signal ended it.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Home {
    /// With the committed model of 48 tokens and 32 numbers, added as `tiny`.
    pub(crate) fn new() -> Home {
        let home = Home::empty();
        home.ok(&["model", "add", tiny_model().to_str().unwrap(), "--name", "tiny", "--link"]);
        home
    }

    /// Without a model. Roofs of the machine are shared by all tests, so that they are not measured by each.
    pub(crate) fn empty() -> Home {
        let home = Home { dir: TempDir::new().unwrap() };
        let profiles = Path::new(env!("CARGO_TARGET_TMPDIR")).join("profiles");
        fs::create_dir_all(&profiles).unwrap();
        fs::create_dir(home.path("home")).unwrap();
        std::os::unix::fs::symlink(profiles, home.path("home/profiles")).unwrap();
        home
    }

    /// A path inside the folder.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file and the folders above it.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// The program with this home, none of the caller's settings and the folder as working directory.
    pub(crate) fn haul(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_haul"));
        self.settle(&mut command);
        command.args(args);
        command
    }

    /// Environment and working directory of [`Home::haul`]: in f32, whatever `auto` would take on this machine, and without
    /// the caller's own models.
    pub(crate) fn settle(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"HAUL_") {
                command.env_remove(name);
            }
        }
        command.env("HAUL_DTYPE", "f32").env("HOME", self.path("user"));
        command.env_remove("VIRTUAL_ENV").env_remove("SATCN_GRMR_MODEL_PATH");
        command.env("HAUL_HOME", self.path("home")).env_remove("COLUMNS").current_dir(self.dir.path());
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        ran(&mut self.haul(args), b"")
    }

    /// Runs the program with something on stdin.
    pub(crate) fn run_with(&self, args: &[&str], input: impl AsRef<[u8]>) -> Ran {
        ran(&mut self.haul(args), input.as_ref())
    }

    /// `haul ARGS` under a limit on the size of every file it writes.
    pub(crate) fn limited(&self, kib: u64, args: &[&str]) -> Ran {
        let mut command = Command::new("bash");
        self.settle(&mut command);
        command.args(["-c", "ulimit -f \"$1\"; shift; exec \"$@\"", "limited"]);
        command.arg(kib.to_string()).arg(env!("CARGO_BIN_EXE_haul")).args(args);
        ran(&mut command, b"")
    }

    /// Runs the program, which must exit 0.
    pub(crate) fn ok(&self, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "haul {args:?} ended so: {ran:#?}");
        ran
    }

    /// Runs the program with `--json`, which must exit 0.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        self.ok(&args).json()
    }

    /// `haul ingest ARGS --store lib.haul --model tiny --json`: the receipt, and the exit code.
    pub(crate) fn ingest(&self, args: &[&str]) -> (Value, i32) {
        let mut all = vec!["ingest"];
        all.extend(args);
        all.extend(["--store", "lib.haul", "--model", "tiny", "--json"]);
        let ran = self.run(&all);
        assert!([0, 1].contains(&ran.code), "haul {all:?} ended so: {ran:#?}");
        (ran.json(), ran.code)
    }

    /// Digest of `lib.haul`.
    pub(crate) fn digest(&self) -> String {
        let info = self.json(&["store", "info", "--store", "lib.haul"]);
        info["digest"].as_str().unwrap().to_owned()
    }

    /// `store verify` must find nothing.
    pub(crate) fn assert_sound(&self) {
        let report = self.json(&["store", "verify", "--store", "lib.haul"]);
        assert_eq!(report["findings"], serde_json::json!([]), "{report:#}");
    }

    /// A run as a snapshot shows it, this home called `[HOME]`.
    pub(crate) fn shown(&self, ran: &Ran) -> String {
        let Ran { code, stdout, stderr } = ran;
        let text = format!("exit {code}\n--- stdout\n{stdout}--- stderr\n{stderr}");
        text.replace(self.dir.path().to_str().unwrap(), "[HOME]")
    }
}

impl Ran {
    /// stdout as the one JSON document it must be.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is not one JSON document ({error}): {self:#?}"))
    }
}

/// Compares a run with what stands behind `@`; what differs from run to run is wiped.
macro_rules! assert_ran {
    ($home:expr, $ran:expr, @$expected:literal) => {{
        let mut settings = insta::Settings::clone_current();
        for (pattern, replacement) in crate::fixtures::FILTERS {
            settings.add_filter(pattern, *replacement);
        }
        settings.bind(|| insta::assert_snapshot!($home.shown(&$ran), @$expected));
    }};
}
pub(crate) use assert_ran;

/// Hashes, times, rates and the machine.
pub(crate) const FILTERS: &[(&str, &str)] = &[
    (r"\b[0-9a-f]{64}\b", "[HASH]"),
    (r"sha256 [0-9a-f]{12}\b", "sha256 [HASH]"),
    (r"device: cpu .*", "device: [CPU]"),
    (r"dtype: \S+ \(auto: .*\)", "dtype: [AUTO]"),
    (r"[0-9,]+ tokens/s, [0-9]+ GFLOP/s on cpu in (\S+), [0-9]+ %", "[RATE] in $1, [SHARE]"),
    (r" in [0-9.]+ (s|min)( [0-9]+ s)?;", " in [TIME];"),
    (r" +[0-9.]+s +[0-9.]+s +[0-9.]+s ", " [TIMES] "),
    (r"\bpid [0-9]+ on \S+", "pid [PID]"),
    (r"[0-9.]+ [KM]iB\b", "[SIZE]"),
    (r"cosine [01]\.[0-9]{5}, worst [01]\.[0-9]{5}, top 10 [0-9.]+ %", "[AGREEMENT]"),
    // Instruction sets add in different orders: the last digits of a mean are theirs.
    (r"(mean cosine +[01]\.[0-9]{4})[0-9]{2}", "$1.."),
    (r"tiny on .*, \S+, [0-9]+ threads", "tiny on [MACHINE]"),
    (r"(texts +[0-9]+) +[0-9,]+ +[0-9]+ +[0-9]+ +[0-9]+\b", "$1 [SPEED]"),
    (r"  [01]\.[0-9]{5} +[01]\.[0-9]{4} +[0-9.]+ %", "  [AGREEMENT]"),
];

/// One line that names what and where, and a hint.
pub(crate) fn assert_named(ran: &Ran, says: &str, hint: &str) {
    assert_eq!(ran.code, 2, "{ran:#?}");
    let errors: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with("haul: ")).collect();
    assert!(errors.len() == 1 && errors[0].contains(says), "no {says:?}: {ran:#?}");
    let hints: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with("hint: ")).collect();
    assert!(hints.len() == 1 && hints[0].contains(hint), "no {hint:?}: {ran:#?}");
}

/// Runs a command to its end, `input` on its stdin.
pub(crate) fn ran(command: &mut Command, input: &[u8]) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || match stdin.write_all(input) {
            // A program that has seen enough closes its stdin.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => panic!("cannot write: {error}"),
            _ => {}
        });
        finished(child)
    })
}

/// Waits for a child whose stdout and stderr, where they are pipes, are read to their ends.
pub(crate) fn finished(mut child: Child) -> Ran {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let stderr = thread::spawn(move || err.map_or_else(String::new, text_of));
    let stdout = out.map_or_else(String::new, text_of);
    let status = child.wait().unwrap();
    Ran { code: status.code().unwrap_or(-1), stdout, stderr: stderr.join().unwrap() }
}

fn text_of(mut stream: impl Read) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    String::from_utf8(bytes).expect("the program writes UTF-8")
}

/// The committed random BERT.
pub(crate) fn tiny_model() -> PathBuf {
    repository().join("crates/encoder/tests/golden/tiny-bert")
}

/// The six documents, eleven with the lines of the JSONL counted, that are written for this project.
pub(crate) fn samples() -> PathBuf {
    repository().join("samples")
}

/// The root of the repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Copies files, folders and links.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path()).unwrap(), target).unwrap();
        } else if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Whether fault suites run at their full size.
pub(crate) fn full() -> bool {
    variable("HAUL_TEST_FULL").is_some_and(|value| value == "1")
}

/// What a test cannot do without. One that lacks something says so and returns, or fails where it must not lack
/// it: a model, in CI or where the shared data is.
pub(crate) struct Needs(pub(crate) &'static str);

impl Needs {
    /// The directory of all-MiniLM-L6-v2.
    pub(crate) fn minilm(&self) -> Option<PathBuf> {
        let found = variable("HAUL_TEST_MINILM").map(PathBuf::from).filter(|dir| dir.is_dir());
        if found.is_none() {
            let required = variable("CI").is_some_and(|ci| ci == "true") || shared_dir().is_some();
            assert!(!required, "{}: HAUL_TEST_MINILM names no model directory", self.0);
            self.skip("HAUL_TEST_MINILM names no model directory");
        }
        found
    }

    /// The pdfium library.
    pub(crate) fn pdfium(&self) -> Option<PathBuf> {
        let found = variable("HAUL_TEST_PDFIUM").map(PathBuf::from).filter(|library| library.is_file());
        if found.is_none() {
            let required = variable("CI").is_some_and(|ci| ci == "true");
            assert!(!required, "{}: HAUL_TEST_PDFIUM names no library", self.0);
            self.skip("HAUL_TEST_PDFIUM names no library");
        }
        found
    }

    /// The worker for GGUF files beside the program, where the whole workspace was built.
    pub(crate) fn worker(&self) -> bool {
        let is_here = Path::new(env!("CARGO_BIN_EXE_haul")).with_file_name("haul-llama").is_file();
        if !is_here {
            let required = variable("CI").is_some_and(|ci| ci == "true");
            assert!(!required, "{}: there is no haul-llama; `cargo build -p llama-worker` makes it", self.0);
            self.skip("there is no haul-llama");
        }
        is_here
    }

    /// A page of `shared/reference`, beside the repository.
    pub(crate) fn reference(&self, page: &str) -> Option<String> {
        let found = shared_dir().map(|dir| dir.join("reference").join(page)).filter(|path| path.is_file());
        if found.is_none() {
            self.skip(&format!("there is no ../shared/reference/{page}"));
        }
        found.map(|path| fs::read_to_string(path).unwrap())
    }

    /// A folder of `shared/data`, beside the repository.
    pub(crate) fn shared(&self, folder: &str) -> Option<PathBuf> {
        let found = shared_dir().map(|dir| dir.join("data").join(folder)).filter(|dir| dir.is_dir());
        if found.is_none() {
            self.skip(&format!("there is no ../shared/data/{folder}"));
        }
        found
    }

    /// Says what was not tested, and why.
    #[expect(clippy::print_stdout, reason = "a test says what it did not test")]
    pub(crate) fn skip(&self, why: &str) {
        println!("skipped: {}: {why}", self.0);
        if let Some(path) = variable("HAUL_TEST_SKIPS") {
            let mut file = fs::File::options().append(true).create(true).open(path).unwrap();
            file.write_all(format!("{}: {why}\n", self.0).as_bytes()).unwrap();
        }
    }
}

fn shared_dir() -> Option<PathBuf> {
    Some(repository().join("../shared")).filter(|dir| dir.is_dir())
}

/// A variable that steers the tests.
#[expect(
    clippy::disallowed_methods,
    reason = "the product resolves settings once; its tests are not the product"
)]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// SplitMix64 (Steele, Lea, Flood 2014): one seed, the same faults and texts everywhere.
#[derive(Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// Plain English-looking sentences.
    pub(crate) fn sentences(&mut self, count: u64) -> String {
        let mut text = String::new();
        for _ in 0..count {
            let words: Vec<&str> = (0..4 + self.below(14)).map(|_| *self.pick(WORDS)).collect();
            let sentence = words.join(" ");
            text.push_str(&sentence[..1].to_uppercase());
            text.push_str(&sentence[1..]);
            text.push_str(". ");
        }
        text.trim_end().to_owned()
    }
}

const WORDS: &[&str] = &[
    "the",
    "a",
    "of",
    "and",
    "in",
    "to",
    "was",
    "river",
    "lamp",
    "bread",
    "keeper",
    "winter",
    "barge",
    "honey",
    "wheel",
    "stone",
    "letter",
    "storm",
    "north",
    "kettle",
    "seven",
    "morning",
    "slowly",
    "under",
    "carried",
    "mended",
    "window",
    "garden",
    "iron",
    "salt",
    "paper",
    "bridge",
    "nobody",
    "remembered",
    "quietly",
    "gear",
];

/// Arguments from anything that looks like one.
pub(crate) fn text(path: &(impl AsRef<OsStr> + ?Sized)) -> &str {
    path.as_ref().to_str().expect("paths of tests are UTF-8")
}

/// Files of all readable kinds below `folder`, made from one seed: mostly short texts, some Markdown and HTML, two
/// JSONL files and the sample EPUBs.
pub(crate) fn write_corpus(folder: &Path, seed: u64, files: u64) {
    fs::create_dir_all(folder.join("notes/html")).unwrap();
    let mut random = Random(seed);
    for number in 0..files {
        let (name, content) = match number % 8 {
            0 | 3 | 5 => (format!("text-{number}.txt"), random.sentences(20)),
            1 | 6 => {
                let sections: Vec<String> =
                    (0..4).map(|no| format!("# Part {no}\n\n{}\n", random.sentences(8))).collect();
                (format!("notes/note-{number}.md"), sections.join("\n"))
            }
            2 | 7 => {
                let body = format!(
                    "<h1>Page {number}</h1><p>{}</p><p>{}</p>",
                    random.sentences(9),
                    random.sentences(9)
                );
                (
                    format!("notes/html/page-{number}.html"),
                    format!("<!DOCTYPE html><title>{number}</title>{body}"),
                )
            }
            _ => (format!("notes/long-{number}.txt"), random.sentences(60)),
        };
        fs::write(folder.join(name), content).unwrap();
    }
    // The long one takes several transactions, so that a kill finds it half in the library.
    for (name, lines, sentences) in [("letters", 30, 5), ("ledger", 700, 1)] {
        let line = |no| {
            serde_json::json!({"id": format!("{name}-{no}"), "text": random.sentences(sentences)}).to_string()
        };
        let lines: Vec<String> = (0..lines).map(line).collect();
        fs::write(folder.join(format!("{name}.jsonl")), lines.join("\n")).unwrap();
    }
    for book in ["the-skarnholm-light.epub", "the-slow-loaf.epub"] {
        fs::copy(samples().join("library").join(book), folder.join(book)).unwrap();
    }
}

/// A run that is being watched: its log as it is written.
pub(crate) struct Live {
    child: Child,
    log: std::io::Lines<std::io::BufReader<std::process::ChildStderr>>,
}

impl Live {
    /// Starts a command with its debug log on stderr and its stdout wherever the command says.
    pub(crate) fn start(command: &mut Command) -> Live {
        let mut child = command.env("HAUL_LOG", "debug").stderr(Stdio::piped()).spawn().unwrap();
        let log = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
        Live { child, log }
    }

    /// The next line of the log; none when the run has ended.
    pub(crate) fn next(&mut self) -> Option<String> {
        self.log.next().map(Result::unwrap)
    }

    /// Reads on until a line holds `mark`; false if the run ends first.
    pub(crate) fn wait_for(&mut self, mark: &str) -> bool {
        while let Some(line) = self.next() {
            if line.contains(mark) {
                return true;
            }
        }
        false
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the end; the rest of the log is what `Ran::stderr` holds.
    pub(crate) fn finish(mut self) -> Ran {
        let stdout = self.child.stdout.take();
        let stdout = thread::spawn(move || stdout.map_or_else(String::new, text_of));
        let mut stderr = String::new();
        while let Some(line) = self.next() {
            stderr.push_str(&line);
            stderr.push('\n');
        }
        let status = self.child.wait().unwrap();
        Ran { code: status.code().unwrap_or(-1), stdout: stdout.join().unwrap(), stderr }
    }
}

/// The tiny model as another one: it takes 24 tokens and pools by the first.
pub(crate) fn small_model(dir: &Path) {
    copy_tree(&tiny_model(), dir);
    for (name, from, to) in [
        ("sentence_bert_config.json", "48", "24"),
        ("1_Pooling/config.json", "\"pooling_mode_cls_token\": false", "\"pooling_mode_cls_token\": true"),
        (
            "1_Pooling/config.json",
            "\"pooling_mode_mean_tokens\": true",
            "\"pooling_mode_mean_tokens\": false",
        ),
    ] {
        let text = fs::read_to_string(dir.join(name)).unwrap();
        assert!(text.contains(from), "{name}: {text}");
        fs::write(dir.join(name), text.replace(from, to)).unwrap();
    }
}

/// The tiny model with numbers for the word "chain" whose sum is infinite: a text with it fails every time.
pub(crate) fn damaged_model(dir: &Path) {
    copy_tree(&tiny_model(), dir);
    let tokenizer: Value = serde_json::from_slice(&fs::read(dir.join("tokenizer.json")).unwrap()).unwrap();
    let id = tokenizer["model"]["vocab"]["chain"].as_u64().unwrap() as usize;
    let path = dir.join("model.safetensors");
    let mut file = fs::read(&path).unwrap();
    let header_bytes = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + header_bytes]).unwrap();
    let tensor = &header["embeddings.word_embeddings.weight"];
    let numbers = tensor["shape"][1].as_u64().unwrap() as usize;
    let row = 8 + header_bytes + tensor["data_offsets"][0].as_u64().unwrap() as usize + id * numbers * 4;
    for number in 0..numbers {
        file[row + 4 * number..][..4].copy_from_slice(&3e38_f32.to_le_bytes());
    }
    fs::write(path, file).unwrap();
}
