//! The worker through a real child process: this test binary run again, with parsers that misbehave.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use haul_corpus::document::{Block, BlockKind, Chapter, Document, Format};
use haul_corpus::image::decode;
use haul_corpus::image::preprocess::{Numbers, Preprocess, Size};
use haul_corpus::image::resize::Filter;
use haul_corpus::limits::Limits;
use haul_corpus::parse::{Event, Parsed, parse};
use haul_corpus::readers::Setup;
use haul_corpus::verdict::{ParseFailure, Verdict};
use haul_corpus::worker::{Worker, WorkerError, serve_with};
use rustix::time::{ClockId, clock_gettime};

/// Passed to the child besides the name of the test to run, which then is the worker.
const AS_WORKER: &str = "as-worker";
/// libtest writes to stdout, so the frames leave by another descriptor.
const SCRIPT: &str = r#"exec "$0" worker::serve_as_child as-worker --exact --nocapture 3>&1 >/dev/null"#;

/// Wall-clock time is long, for machines that are busy with other tests.
pub(super) const LIMITS: Limits =
    Limits { cpu_seconds: 20, wall_seconds: 120, memory_bytes: 512 << 20, ..Limits::DEFAULT };

/// How long after its limit a file that hangs may still hold the caller up.
const OVER_THE_CAP_MAX: Duration = Duration::from_secs(10);

/// Of the limit, more than half.
const LEAKED_BYTES: usize = 300 << 20;

/// The worker process of the other tests; alone, it has nothing to do.
#[test]
fn serve_as_child() {
    if std::env::args().any(|arg| arg == AS_WORKER) {
        let replies = File::options().write(true).open("/proc/self/fd/3").unwrap();
        serve_with(std::io::stdin(), replies, misbehave).unwrap();
    }
}

/// The product's parser, except on files named after what can go wrong.
fn misbehave(
    path: &Path,
    format: Format,
    setup: &Setup,
    emit: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<(), ParseFailure> {
    match path.file_stem().and_then(|stem| stem.to_str()) {
        Some("overflow") => Err(ParseFailure::new(Verdict::Failed, overflow(1).to_string())),
        Some("spin") => loop {
            std::hint::spin_loop();
        },
        Some("busy") => {
            for _ in 0..3 {
                burn_half_a_second();
                hand_over(emit, text_document("busy for 0.5 s"))?;
            }
            burn_half_a_second();
            Ok(())
        }
        Some("sleep") => loop {
            std::thread::sleep(Duration::from_secs(1));
        },
        Some("hog") => {
            let mut hog: Vec<Vec<u8>> = Vec::new();
            loop {
                hog.push(vec![1; 1 << 20]);
            }
        }
        Some("leak") => {
            std::mem::forget(vec![1_u8; LEAKED_BYTES]);
            hand_over(emit, text_document("leaked"))
        }
        Some("large") => {
            let large = std::hint::black_box(vec![1_u8; LEAKED_BYTES]);
            hand_over(emit, text_document(&large.len().to_string()))
        }
        Some("panic") => panic!("at the first page"),
        Some("write") => {
            let written = std::fs::write(path.with_extension("out"), "x");
            Err(ParseFailure::new(Verdict::Failed, format!("{written:?}")))
        }
        Some("lie") => {
            let mut document = text_document("é");
            document.chapters[0].end = 1;
            hand_over(emit, document)
        }
        Some("pid") => {
            let document = text_document(&std::process::id().to_string());
            hand_over(emit, document)
        }
        Some("pid_then_sleep") => {
            let document = text_document(&std::process::id().to_string());
            hand_over(emit, document)?;
            std::thread::sleep(Duration::from_secs(60));
            Ok(())
        }
        _ => parse(path, format, setup, emit),
    }
}

fn burn_half_a_second() {
    let milliseconds = || {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        used.tv_sec * 1000 + used.tv_nsec / 1_000_000
    };
    let end = milliseconds() + 500;
    while milliseconds() < end {}
}

fn hand_over(emit: &mut dyn FnMut(Event) -> ControlFlow<()>, document: Document) -> Result<(), ParseFailure> {
    assert!(emit(Event::Document(Box::new(Parsed { part: None, document: Ok(document) }))).is_continue());
    Ok(())
}

#[expect(unconditional_recursion, reason = "it overflows the stack")]
fn overflow(depth: u64) -> u64 {
    std::hint::black_box([depth; 64]);
    overflow(depth + 1) + 1
}

fn text_document(text: &str) -> Document {
    let chapter = Chapter { breadcrumb: Vec::new(), href: None, start: 0, end: text.len() };
    let block = Block { kind: BlockKind::Paragraph, start: 0, end: text.len(), chapter: 0 };
    Document { text: text.to_owned(), blocks: vec![block], chapters: vec![chapter], ..Document::default() }
}

pub(super) struct Room {
    pub(super) folder: tempfile::TempDir,
    pub(super) worker: Worker,
}

impl Room {
    pub(super) fn new(limits: &Limits) -> Room {
        #[expect(clippy::disallowed_methods, reason = "the worker is this very test binary")]
        let program = std::env::current_exe().unwrap();
        let args = ["-c", SCRIPT, program.to_str().unwrap()];
        let worker = Worker::spawn(Path::new("/bin/sh"), &args, &Setup::built_in(limits)).unwrap();
        Room { folder: tempfile::tempdir().unwrap(), worker }
    }

    fn file(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, "plain text").unwrap();
        path
    }

    fn read(&mut self, name: &str) -> Result<Vec<Parsed>, ParseFailure> {
        let path = self.file(name);
        let mut documents = Vec::new();
        self.worker.parse(&path, Format::Text, &mut |parsed| {
            documents.push(parsed);
            ControlFlow::Continue(())
        })?;
        Ok(documents)
    }

    /// The verdict on a file that misbehaves; then the next file must read as if nothing had happened.
    fn verdict(&mut self, name: &str) -> (Verdict, String) {
        let failure = self.read(name).unwrap_err();
        self.assert_works();
        (failure.verdict, failure.why)
    }

    pub(super) fn assert_works(&mut self) {
        let documents = self.read("good.txt").unwrap();
        let texts: Vec<_> = documents.iter().map(|p| p.document.as_ref().unwrap().text.as_str()).collect();
        assert_eq!(texts, ["plain text"]);
    }

    fn pid(&mut self) -> i32 {
        self.read("pid.txt").unwrap()[0].document.as_ref().unwrap().text.parse().unwrap()
    }
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn one_process_reads_many_files() {
    let mut room = Room::new(&LIMITS);
    let pid = room.pid();
    for _ in 0..20 {
        room.assert_works();
    }
    let failure = room.read("binary.epub").unwrap();
    assert_eq!(failure.len(), 1);
    assert_eq!(room.pid(), pid);
}

#[test]
fn a_stack_overflow_is_that_files_failure() {
    let (verdict, why) = Room::new(&LIMITS).verdict("overflow.txt");
    assert_eq!(verdict, Verdict::Failed);
    assert!(why.contains("overflowed its stack") && why.contains("SIGABRT"), "{why}");
}

#[test]
fn an_endless_loop_runs_out_of_cpu_time() {
    let start = Instant::now();
    let limits = Limits { cpu_seconds: 1, ..LIMITS };
    let (verdict, why) = Room::new(&limits).verdict("spin.txt");
    assert_eq!((verdict, why.as_str()), (Verdict::Timeout, "more than 1 s of CPU time (SIGXCPU)"));
    assert!(start.elapsed() < Duration::from_secs(1) + OVER_THE_CAP_MAX);
}

/// The limit of the system counts the life of the process, so it has to be raised for each document.
#[test]
fn cpu_time_is_counted_for_each_document_anew() {
    let mut room = Room::new(&Limits { cpu_seconds: 1, ..LIMITS });
    let pid = room.pid();
    for _ in 0..3 {
        assert_eq!(room.read("busy.txt").unwrap().len(), 3);
    }
    assert_eq!(room.pid(), pid);
}

#[test]
fn silence_runs_out_of_wall_clock_time() {
    let start = Instant::now();
    let limits = Limits { wall_seconds: 1, ..LIMITS };
    let (verdict, why) = Room::new(&limits).verdict("sleep.txt");
    assert_eq!((verdict, why.as_str()), (Verdict::Timeout, "no answer within 1 s of wall-clock time"));
    assert!(start.elapsed() < Duration::from_secs(1) + OVER_THE_CAP_MAX);
}

#[test]
fn memory_over_the_limit_is_too_large() {
    let (verdict, why) = Room::new(&LIMITS).verdict("hog.txt");
    assert_eq!(verdict, Verdict::TooLarge, "{why}");
    assert!(why.contains("536870912 bytes"), "{why}");
}

/// What files before it left in the process is not a file's fault; it is read once more in a fresh one.
#[test]
fn memory_that_others_hold_is_not_blamed_on_a_file() {
    let mut room = Room::new(&LIMITS);
    assert!(room.read("leak.txt").is_ok());
    let documents = room.read("large.txt").unwrap();
    assert_eq!(documents[0].document.as_ref().unwrap().text, LEAKED_BYTES.to_string());
}

#[test]
fn a_panic_says_its_message_and_costs_no_process() {
    let mut room = Room::new(&LIMITS);
    let pid = room.pid();
    let (verdict, why) = room.verdict("panic.txt");
    assert_eq!((verdict, why.as_str()), (Verdict::Failed, "the parser panicked: at the first page"));
    assert_eq!(room.pid(), pid);
}

#[test]
fn a_worker_cannot_write_files() {
    let mut room = Room::new(&LIMITS);
    let (verdict, why) = room.verdict("write.txt");
    assert_eq!(verdict, Verdict::Failed);
    assert!(why.contains("SIGXFSZ") || why.contains("FileTooLarge"), "{why}");
    let written = std::fs::metadata(room.folder.path().join("write.out")).map_or(0, |file| file.len());
    assert_eq!(written, 0);
}

#[test]
fn wrong_offsets_never_reach_the_caller() {
    let mut room = Room::new(&LIMITS);
    let documents = room.read("lie.txt").unwrap();
    let failure = documents[0].document.as_ref().unwrap_err();
    assert_eq!(failure.verdict, Verdict::Failed);
    assert!(failure.why.contains("inside a character"), "{}", failure.why);
}

#[test]
fn kill_9_in_the_middle_of_a_file() {
    let mut room = Room::new(&LIMITS);
    let path = room.file("pid_then_sleep.txt");
    let failure = room.worker.parse(&path, Format::Text, &mut |parsed| {
        kill(parsed.document.unwrap().text.parse().unwrap());
        ControlFlow::Continue(())
    });
    let failure = failure.unwrap_err();
    assert_eq!(failure.verdict, Verdict::Failed);
    assert!(failure.why.starts_with("after 1 documents: the worker was killed"), "{}", failure.why);
    assert!(failure.why.contains("SIGKILL"), "{}", failure.why);
    room.assert_works();
}

#[test]
fn kill_9_between_two_files_costs_neither() {
    let mut room = Room::new(&LIMITS);
    for _ in 0..10 {
        let pid = room.pid();
        kill(pid);
        room.assert_works();
    }
}

#[test]
fn breaking_off_ends_the_process_and_the_next_file_is_read() {
    let mut room = Room::new(&LIMITS);
    let path = room.file("pid_then_sleep.txt");
    let start = Instant::now();
    room.worker.parse(&path, Format::Text, &mut |_| ControlFlow::Break(())).unwrap();
    assert!(start.elapsed() < Duration::from_secs(3));
    room.assert_works();
}

#[test]
fn a_reply_over_the_limit_is_too_large_and_the_process_lives() {
    let mut room = Room::new(&Limits { reply_bytes: 1000, ..LIMITS });
    let pid = room.pid();
    let path = room.folder.path().join("long.jsonl");
    let long = "x".repeat(2000);
    std::fs::write(&path, format!("{{\"text\":\"{long}\"}}\n{{\"id\":\"b\",\"text\":\"short\"}}")).unwrap();
    let mut verdicts = Vec::new();
    let mut emit = |parsed: Parsed| {
        verdicts.push((parsed.part, parsed.document.map_or_else(|f| f.verdict, |_| Verdict::Ok)));
        ControlFlow::Continue(())
    };
    room.worker.parse(&path, Format::JsonLines, &mut emit).unwrap();
    let expected = [(Some("line 1".to_owned()), Verdict::TooLarge), (Some("b".to_owned()), Verdict::Ok)];
    assert_eq!(verdicts, expected);
    assert_eq!(room.pid(), pid);
}

#[test]
fn a_jsonl_file_of_many_documents_streams() {
    // 150 MB in all, under an address space in which neither the file nor its documents would fit.
    let mut room = Room::new(&Limits { memory_bytes: 128 << 20, ..LIMITS });
    let path = room.folder.path().join("many.jsonl");
    let line = format!("{{\"text\":\"{}\"}}\n", "word ".repeat(200_000));
    let mut file = File::create(&path).unwrap();
    for _ in 0..150 {
        std::io::Write::write_all(&mut file, line.as_bytes()).unwrap();
    }
    let mut documents = 0;
    let result = room.worker.parse(&path, Format::JsonLines, &mut |parsed| {
        assert_eq!(parsed.document.map(|document| document.text.len()), Ok(1_000_000));
        documents += 1;
        ControlFlow::Continue(())
    });
    assert_eq!((result, documents), (Ok(()), 150));
}

#[test]
fn programs_that_are_no_workers_are_refused_by_name() {
    let spawn =
        |program: &str| Worker::spawn(Path::new(program), &[], &Setup::built_in(&LIMITS)).err().unwrap();
    assert!(matches!(spawn("/no/such/program"), WorkerError::Spawn { .. }));
    for program in ["/bin/true", "/bin/cat"] {
        let error = spawn(program);
        assert!(matches!(error, WorkerError::NotAWorker { .. }), "{error}");
        assert!(error.to_string().contains(program) && error.hint().is_some());
    }
}

/// Images that can be read are what they are in this process; the others get a verdict, and the worker goes on.
#[test]
fn pixels_come_from_the_worker() {
    let dir = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
    let preprocess = Preprocess {
        size: Size::Squash { width: 20, height: 16 },
        filter: Filter::Bicubic,
        numbers: Numbers { mean: [0.5; 3], std: [0.5; 3] },
        treatment: None,
    };
    let mut room = Room::new(&LIMITS);
    for name in ["rgb.png", "cmyk.jpg", "animated.webp", "rgba.bmp", "one.png"] {
        let path = golden.join(name);
        let here = preprocess.pixels(&decode(&std::fs::read(&path).unwrap()).unwrap()).unwrap();
        assert_eq!(room.worker.pixels(&path, &preprocess), Ok(here), "{name}");
        // An image that is cut off, between two that are whole.
        let cut = dir.path().join(name);
        std::fs::write(&cut, &std::fs::read(&path).unwrap()[..40]).unwrap();
        assert_eq!(room.worker.pixels(&cut, &preprocess).unwrap_err().verdict, Verdict::Corrupt, "{name}");
    }
    let empty = dir.path().join("empty.png");
    std::fs::write(&empty, "").unwrap();
    assert_eq!(room.worker.pixels(&empty, &preprocess).unwrap_err().verdict, Verdict::Empty);
    let absent = room.worker.pixels(&dir.path().join("absent.png"), &preprocess).unwrap_err();
    assert_eq!(absent.verdict, Verdict::Failed);
}
