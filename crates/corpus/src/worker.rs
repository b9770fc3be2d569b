//! Parsing in another process, so that a file which crashes, hangs or bloats its parser costs only itself.
//!
//! [`Worker`] is the process as the pipeline sees it, [`serve`] what runs inside it. They speak frames over the
//! worker's stdin and stdout: the setup first, then one request a file, answered by a frame for each document, or by
//! the pixels of an image, and a last one. One document at a time is in memory, however many a file holds.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::container::{self, Container};
use crate::document::Format;
use crate::image::preprocess::Preprocess;
use crate::image::{self, Rgb};
use crate::limits::Limits;
use crate::parse::{self, Event, Parsed};
use crate::pdf;
use crate::readers::{Readers, Setup};
use crate::verdict::{ParseFailure, Verdict};
use crate::worker_unix as system;

pub use frame::FrameError;

mod frame;

/// Both sides must speak the same frames; the worker says this number first.
const PROTOCOL: u32 = 4;
/// Time for a fresh worker to say that it is ready.
const START_SECONDS: u64 = 20;
/// Replies waiting between the worker and the caller, besides the one being read.
const REPLIES_MAX: usize = 1;
/// Bytes of a request frame: one path, a format and limits; or the setup.
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// Bytes of a file of a container that are sent at a time.
const PIECE_BYTES: usize = 1 << 20;
/// The last bytes of the worker's stderr that are kept to say why it died.
const STDERR_TAIL_BYTES: usize = 4 << 10;

/// A worker process that is used for many files and replaced when a file kills it.
pub struct Worker {
    program: PathBuf,
    args: Vec<String>,
    setup: Setup,
    process: Process,
}

impl Worker {
    /// Starts `program args...`, which must call [`serve`] on its stdin and stdout.
    pub fn spawn(program: &Path, args: &[&str], setup: &Setup) -> Result<Worker, WorkerError> {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let process = Process::start(program, &args, setup)?;
        Ok(Worker { program: program.to_path_buf(), args, setup: setup.clone(), process })
    }

    /// Reads one file and hands its documents to `emit` as they come; a `Break` ends the reading and the
    /// process with it. An error says why the file, or the rest of it after the documents already handed
    /// over, was not read: what the parser found, or that it crashed (`failed`), ran out of time (`timeout`)
    /// or of memory (`too_large`). The next call then works in a fresh process.
    pub fn parse(
        &mut self,
        path: &Path,
        format: Format,
        emit: &mut dyn FnMut(Parsed) -> ControlFlow<()>,
    ) -> Result<(), ParseFailure> {
        let Some(path) = path.to_str() else {
            return Err(ParseFailure::new(Verdict::Unsupported, "the path is not UTF-8"));
        };
        // A file that cannot be looked at gets the limits of an empty one; the worker says what is wrong with it.
        let size_bytes = std::fs::metadata(path).map_or(0, |facts| facts.len());
        let limits = self.setup.limits.of_file(format, size_bytes);
        let request = Request { path: path.to_owned(), task: Task::Parse(format), limits };
        match self.parse_once(&request, emit) {
            // Files before this one may have left the process too little of its address space.
            Ended::OutOfMemory { files_before: 1.., .. } => self.parse_once(&request, emit).into_result(),
            ended => ended.into_result(),
        }
    }

    /// What this worker reads with.
    #[must_use]
    pub fn readers(&self) -> &Readers {
        &self.setup.readers
    }

    /// Writes the files of a container into the empty folder `into`, `bytes_max` bytes at most, and hands each to `emit` as
    /// it comes. Their names there are numbers. An error says why the container, or the rest of it, was not read.
    pub fn unpack(
        &mut self,
        path: &Path,
        container: Container,
        into: &Path,
        bytes_max: u64,
        emit: &mut dyn FnMut(Unpacked),
    ) -> Result<(), ParseFailure> {
        let Some(path) = path.to_str() else {
            return Err(ParseFailure::new(Verdict::Unsupported, "the path is not UTF-8"));
        };
        let archive_bytes = self.setup.limits.archive_bytes.min(bytes_max);
        let limits = Limits { archive_bytes, ..self.setup.limits.clone() };
        let patience = Duration::from_secs(limits.wall_seconds);
        let request = Request { path: path.to_owned(), task: Task::Unpack(container), limits };
        self.begin(&request, patience)?;
        let mut unpacking = Unpacking { into, left_bytes: archive_bytes, count: 0, open: None };
        loop {
            let death = match self.process.receive(patience) {
                Ok(Reply::Done(result)) if unpacking.open.is_none() => {
                    self.process.files += 1;
                    return result;
                }
                Ok(reply) => match unpacking.take(reply, emit) {
                    Ok(()) => continue,
                    Err(Untaken::Garbled) => Death::Garbled,
                    Err(Untaken::Disk(error)) => {
                        self.process.kill();
                        let why = format!("cannot write into {}: {error}", into.display());
                        return Err(ParseFailure::new(Verdict::Failed, why));
                    }
                },
                Err(death) => death,
            };
            return self.end(unpacking.count, death, &request.limits).into_result();
        }
    }

    /// Reads one image and makes of it what a model takes; an error is that of [`Worker::parse`].
    pub fn pixels(&mut self, path: &Path, preprocess: &Preprocess) -> Result<Rgb, ParseFailure> {
        let Some(path) = path.to_str() else {
            return Err(ParseFailure::new(Verdict::Unsupported, "the path is not UTF-8"));
        };
        let task = Task::Pixels(Box::new(preprocess.clone()));
        let request = Request { path: path.to_owned(), task, limits: self.setup.limits.clone() };
        match self.pixels_once(&request) {
            Err(Ended::OutOfMemory { files_before: 1.., .. }) => self.pixels_once(&request),
            once => once,
        }
        .map_err(Ended::into_failure)
    }

    /// An error that is no failure of the image is one of the worker, which said that it was done without pixels.
    fn pixels_once(&mut self, request: &Request) -> Result<Rgb, Ended> {
        let patience = Duration::from_secs(request.limits.wall_seconds);
        self.begin(request, patience).map_err(|failure| Ended::Result(Err(failure)))?;
        let mut found = None;
        loop {
            match self.process.receive(patience) {
                Ok(Reply::Pixels { width, height, pixels }) => found = Some(Rgb { width, height, pixels }),
                Ok(Reply::Done(result)) => {
                    self.process.files += 1;
                    return found.ok_or(Ended::Result(result));
                }
                Ok(_) => return Err(self.end(0, Death::Garbled, &request.limits)),
                Err(death) => return Err(self.end(0, death, &request.limits)),
            }
        }
    }

    fn parse_once(&mut self, request: &Request, emit: &mut dyn FnMut(Parsed) -> ControlFlow<()>) -> Ended {
        let patience = Duration::from_secs(request.limits.wall_seconds);
        if let Err(failure) = self.begin(request, patience) {
            return Ended::Result(Err(failure));
        }
        let mut documents = 0usize;
        loop {
            let parsed = match self.process.receive(patience) {
                Ok(Reply::Document(parsed)) => check(*parsed),
                Ok(Reply::PageRecognised) => continue,
                Ok(Reply::Done(result)) => {
                    self.process.files += 1;
                    return Ended::Result(result);
                }
                Ok(_) => {
                    return self.end(documents, Death::Garbled, &request.limits);
                }
                Err(death) => return self.end(documents, death, &request.limits),
            };
            documents += 1;
            if emit(parsed).is_break() {
                self.process.kill();
                return Ended::Result(Ok(()));
            }
        }
    }

    /// Sends a request, in a fresh process if need be. A worker that dies before it says that it has begun died
    /// between two files, or could not be replaced after the last one; that is not this file's fault.
    fn begin(&mut self, request: &Request, patience: Duration) -> Result<(), ParseFailure> {
        if self.process.is_running()
            && self.process.send(request).is_ok()
            && matches!(self.process.receive(patience), Ok(Reply::Begun))
        {
            return Ok(());
        }
        self.restart()?;
        self.process.send(request).map_err(|error| {
            ParseFailure::new(Verdict::Failed, format!("cannot reach a fresh worker: {error}"))
        })?;
        match self.process.receive(patience) {
            Ok(Reply::Begun) => Ok(()),
            Ok(_) => self.end(0, Death::Garbled, &request.limits).into_result(),
            Err(death) => self.end(0, death, &request.limits).into_result(),
        }
    }

    fn restart(&mut self) -> Result<(), ParseFailure> {
        self.process = Process::start(&self.program, &self.args, &self.setup).map_err(|error| {
            ParseFailure::new(Verdict::Failed, format!("cannot start a fresh worker: {error}"))
        })?;
        Ok(())
    }

    /// Ends the process and says why, as the verdict of the file it was reading.
    fn end(&mut self, documents: usize, death: Death, limits: &Limits) -> Ended {
        let failure = self.process.post_mortem(death, limits);
        let files_before = self.process.files;
        match documents {
            0 if failure.verdict == Verdict::TooLarge => Ended::OutOfMemory { failure, files_before },
            0 => Ended::Result(Err(failure)),
            _ => Ended::Result(Err(ParseFailure {
                why: format!("after {documents} documents: {}", failure.why),
                ..failure
            })),
        }
    }
}

/// A file that came out of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct Unpacked {
    /// Its name there, with `/` between its parts and none that leads out.
    pub name: String,
    /// Where its bytes are now, or why there are none.
    pub content: Result<PathBuf, ParseFailure>,
}

/// The files of a container as they come, a piece at a time.
struct Unpacking<'a> {
    into: &'a Path,
    /// Bytes that may still be written, whatever the worker says.
    left_bytes: u64,
    count: usize,
    open: Option<OpenFile>,
}

struct OpenFile {
    name: String,
    path: PathBuf,
    file: File,
    missing_bytes: u64,
}

/// Why a reply of a worker that unpacks was not taken.
enum Untaken {
    Garbled,
    Disk(io::Error),
}

impl Unpacking<'_> {
    fn take(&mut self, reply: Reply, emit: &mut dyn FnMut(Unpacked)) -> Result<(), Untaken> {
        match (reply, self.open.take()) {
            (Reply::Packed { name, content }, None) => {
                self.count += 1;
                match (container::inner_name(&name), content) {
                    (Ok(name), Ok(bytes)) => return self.begin(name, bytes, emit),
                    (Ok(name), Err(failure)) => emit(Unpacked { name, content: Err(failure) }),
                    // Without its bytes: a name that leads out is refused where it is sent.
                    (Err(failure), Err(_)) => emit(Unpacked { name, content: Err(failure) }),
                    (Err(_), Ok(_)) => return Err(Untaken::Garbled),
                }
                Ok(())
            }
            (Reply::Piece { bytes, .. }, Some(mut open)) => {
                let length = bytes.len() as u64;
                if length == 0 || length > open.missing_bytes {
                    return Err(Untaken::Garbled);
                }
                open.file.write_all(&bytes).map_err(Untaken::Disk)?;
                open.missing_bytes -= length;
                self.finish(open, emit);
                Ok(())
            }
            _ => Err(Untaken::Garbled),
        }
    }

    fn begin(&mut self, name: String, bytes: u64, emit: &mut dyn FnMut(Unpacked)) -> Result<(), Untaken> {
        self.left_bytes = self.left_bytes.checked_sub(bytes).ok_or(Untaken::Garbled)?;
        let path = self.into.join(self.count.to_string());
        let file = File::create_new(&path).map_err(Untaken::Disk)?;
        self.finish(OpenFile { name, path, file, missing_bytes: bytes }, emit);
        Ok(())
    }

    /// Hands a file out when all of it has come.
    fn finish(&mut self, open: OpenFile, emit: &mut dyn FnMut(Unpacked)) {
        if open.missing_bytes == 0 {
            emit(Unpacked { name: open.name, content: Ok(open.path) });
        } else {
            self.open = Some(open);
        }
    }
}

/// How the reading of a file ended.
enum Ended {
    /// By the parser, or by a death that is the file's.
    Result(Result<(), ParseFailure>),
    /// By the limit of memory, before a document came, in a process that had read as many files before.
    OutOfMemory { failure: ParseFailure, files_before: usize },
}

impl Ended {
    fn into_result(self) -> Result<(), ParseFailure> {
        match self {
            Ended::Result(result) => result,
            Ended::OutOfMemory { failure, .. } => Err(failure),
        }
    }

    /// Of a reading without a result.
    fn into_failure(self) -> ParseFailure {
        let without = || ParseFailure::new(Verdict::Failed, "the worker was done without a result");
        self.into_result().err().unwrap_or_else(without)
    }
}

/// The main loop of a worker process: limits itself, loads the libraries that the first frame names, then answers
/// requests until `requests` ends. Limits: address space for each file, CPU time for each document, no core dump,
/// no bytes written to files. Nothing but `replies` may write to the stream behind it.
pub fn serve(requests: impl Read, replies: impl Write) -> Result<(), WorkerError> {
    serve_with(requests, replies, parse::parse)
}

/// What [`serve`] does, with another parser; tests of the isolation hand in parsers that misbehave.
#[doc(hidden)]
pub fn serve_with(
    mut requests: impl Read,
    mut replies: impl Write,
    parser: impl Fn(&Path, Format, &Setup, &mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<(), ParseFailure>,
) -> Result<(), WorkerError> {
    let Some(mut setup) = frame::read::<Setup>(&mut requests, REQUEST_BYTES_MAX)? else {
        return Ok(());
    };
    system::limit_process().map_err(WorkerError::Limit)?;
    system::limit_memory(setup.limits.memory_bytes).map_err(WorkerError::Limit)?;
    let reply_bytes = setup.limits.reply_bytes;
    let unusable = pdf::load(&setup.readers).err();
    frame::write(&mut replies, &Reply::Ready { protocol: PROTOCOL, unusable }, reply_bytes)?;
    while let Some(request) = frame::read::<Request>(&mut requests, REQUEST_BYTES_MAX)? {
        setup.limits = request.limits.clone();
        system::limit_memory(setup.limits.memory_bytes).map_err(WorkerError::Limit)?;
        frame::write(&mut replies, &Reply::Begun, reply_bytes)?;
        let result = match request.task {
            Task::Parse(format) => answer(&request.path, format, &setup, &mut replies, &parser)?,
            Task::Pixels(preprocess) => pixels_of(&request.path, &preprocess, &setup.limits, &mut replies)?,
            Task::Unpack(container) => unpacked(&request.path, container, &setup.limits, &mut replies)?,
        };
        frame::write(&mut replies, &Reply::Done(result), reply_bytes)?;
    }
    Ok(())
}

/// Parses one file. The outer error is a broken pipe, the inner result the file's.
fn answer(
    path: &str,
    format: Format,
    setup: &Setup,
    replies: &mut impl Write,
    parser: &impl Fn(&Path, Format, &Setup, &mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<(), ParseFailure>,
) -> Result<Result<(), ParseFailure>, WorkerError> {
    let limits = &setup.limits;
    let mut broken = None;
    let mut emit = |event: Event| {
        let sent = send(event, replies, limits)
            .and_then(|()| system::limit_cpu(limits.cpu_seconds).map_err(WorkerError::Limit));
        match sent {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                broken = Some(error);
                ControlFlow::Break(())
            }
        }
    };
    system::limit_cpu(limits.cpu_seconds).map_err(WorkerError::Limit)?;
    let parsed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        parser(Path::new(path), format, setup, &mut emit)
    }));
    match broken {
        Some(error) => Err(error),
        None => Ok(parsed.unwrap_or_else(|panic| Err(panicked(&*panic)))),
    }
}

/// Reads one image, as [`answer`] parses one file.
fn pixels_of(
    path: &str,
    preprocess: &Preprocess,
    limits: &Limits,
    replies: &mut impl Write,
) -> Result<Result<(), ParseFailure>, WorkerError> {
    system::limit_cpu(limits.cpu_seconds).map_err(WorkerError::Limit)?;
    let read = std::panic::catch_unwind(|| image::read(Path::new(path), preprocess));
    match read.unwrap_or_else(|panic| Err(panicked(&*panic))) {
        Ok(image) => send_pixels(image, replies, limits).map(Ok),
        Err(failure) => Ok(Err(failure)),
    }
}

/// A frame that says how many there are, and then the pixels as they are.
fn send_pixels(image: Rgb, replies: &mut impl Write, limits: &Limits) -> Result<(), WorkerError> {
    let Rgb { width, height, pixels } = image;
    frame::write(replies, &Reply::Pixels { width, height, pixels: vec![] }, limits.reply_bytes)?;
    Ok(frame::write_bytes(replies, &pixels)?)
}

/// Opens one container, as [`answer`] parses one file. CPU time is counted for each of its files anew.
fn unpacked(
    path: &str,
    container: Container,
    limits: &Limits,
    replies: &mut impl Write,
) -> Result<Result<(), ParseFailure>, WorkerError> {
    let mut broken = None;
    let mut emit = |packed: container::Packed| {
        let sent = send_packed(packed, replies, limits)
            .and_then(|()| system::limit_cpu(limits.cpu_seconds).map_err(WorkerError::Limit));
        sent.map_err(|error| {
            broken = Some(error);
            container::Broken
        })
    };
    system::limit_cpu(limits.cpu_seconds).map_err(WorkerError::Limit)?;
    let unpacked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        container::unpack(Path::new(path), container, limits, &mut emit)
    }));
    match (unpacked, broken) {
        (_, Some(error)) => Err(error),
        (Ok(Ok(result)), None) => Ok(result),
        (Ok(Err(container::Broken)), None) => Ok(Ok(())),
        (Err(panic), None) => Ok(Err(panicked(&*panic))),
    }
}

/// The name of a file first, with its length; then its bytes, which are no JSON.
fn send_packed(
    packed: container::Packed,
    replies: &mut impl Write,
    limits: &Limits,
) -> Result<(), WorkerError> {
    let named = container::inner_name(&packed.name).and(packed.content);
    let length = named.as_ref().map(|bytes| bytes.len() as u64).map_err(Clone::clone);
    frame::write(replies, &Reply::Packed { name: packed.name, content: length }, limits.reply_bytes)?;
    for piece in named.iter().flat_map(|bytes| bytes.chunks(PIECE_BYTES)) {
        frame::write(replies, &Reply::Piece { length: piece.len(), bytes: Vec::new() }, limits.reply_bytes)?;
        replies.write_all(piece).and_then(|()| replies.flush()).map_err(FrameError::Io)?;
    }
    Ok(())
}

fn send(event: Event, replies: &mut impl Write, limits: &Limits) -> Result<(), WorkerError> {
    match event {
        Event::Document(parsed) => send_document(*parsed, replies, limits),
        Event::PageRecognised => Ok(frame::write(replies, &Reply::PageRecognised, limits.reply_bytes)?),
    }
}

/// Sends a document, or, where it does not fit a frame, the verdict that it is too large.
fn send_document(parsed: Parsed, replies: &mut impl Write, limits: &Limits) -> Result<(), WorkerError> {
    let part = parsed.part.clone();
    match frame::write(replies, &Reply::Document(Box::new(parsed)), limits.reply_bytes) {
        Err(FrameError::TooLarge { limit, .. }) => {
            let why = format!("the parsed document takes more than {limit} bytes");
            let document = Err(ParseFailure::new(Verdict::TooLarge, why));
            let reply = Reply::Document(Box::new(Parsed { part, document }));
            Ok(frame::write(replies, &reply, limits.reply_bytes)?)
        }
        other => Ok(other?),
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> ParseFailure {
    let message = panic.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    ParseFailure::new(Verdict::Failed, format!("the parser panicked: {message}"))
}

/// A worker could not be started, or could not go on serving.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The program could not be run.
    #[error("cannot start the worker {}: {error}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// The program runs and does not speak as a worker of this version does.
    #[error("{} is not a worker of this version: {why}", program.display())]
    NotAWorker {
        /// The program.
        program: PathBuf,
        /// What it did instead.
        why: String,
    },
    /// A library that the readers should use cannot be used.
    #[error("{}: {why}", library.display())]
    Library {
        /// The library.
        library: PathBuf,
        /// What is wrong with it, with the symbol it lacks if it lacks one.
        why: String,
    },
    /// The stream between the two processes broke.
    #[error("the stream between worker and caller broke: {0}")]
    Stream(#[from] FrameError),
    /// The process could not set its own limits, and does not parse without them.
    #[error("cannot set the resource limits of the worker: {0}")]
    Limit(#[source] io::Error),
}

impl WorkerError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            WorkerError::Spawn { .. } | WorkerError::NotAWorker { .. } => {
                Some("the worker is the program itself; install all of one version again")
            }
            WorkerError::Library { .. } => Some(
                "pdfium is in the Python package pypdfium2, of the version that `./dev pdfium` fetches; name its \
                 library with --pdfium, or take this one away to read PDFs without pdfium",
            ),
            WorkerError::Limit(_) => Some("the limits in force (`ulimit -a`) are lower than a worker needs"),
            WorkerError::Stream(_) => None,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Request {
    path: String,
    task: Task,
    limits: Limits,
}

/// What is made of a file.
#[derive(Serialize, Deserialize)]
enum Task {
    Parse(Format),
    Pixels(Box<Preprocess>),
    Unpack(Container),
}

#[derive(Serialize, Deserialize)]
enum Reply {
    Ready {
        protocol: u32,
        unusable: Option<Unusable>,
    },
    /// A request has come; from here on, a crash is the file's.
    Begun,
    Document(Box<Parsed>),
    PageRecognised,
    /// A file of a container: its name there, and how many bytes follow.
    Packed {
        name: String,
        content: Result<u64, ParseFailure>,
    },
    /// So many of its bytes, which stand behind the frame.
    Piece {
        length: usize,
        #[serde(skip)]
        bytes: Vec<u8>,
    },
    /// Pixels are not in the frame, but behind it.
    Pixels {
        width: u32,
        height: u32,
        #[serde(skip)]
        pixels: Vec<u8>,
    },
    Done(Result<(), ParseFailure>),
}

/// A library of the setup that cannot be used, and why.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Unusable {
    pub(crate) library: PathBuf,
    pub(crate) why: String,
}

/// How a process stopped answering.
enum Death {
    /// Its stdout ended.
    Ended,
    /// It was silent for the wall-clock limit.
    Silent,
    /// It said what no worker says.
    Garbled,
}

/// Offsets that a damaged worker got wrong must not reach code that slices text with them.
fn check(parsed: Parsed) -> Parsed {
    match parsed.document.as_ref().map(|document| document.check()) {
        Ok(Err(why)) => Parsed {
            document: Err(ParseFailure::new(Verdict::Failed, format!("the parser's reply is wrong: {why}"))),
            ..parsed
        },
        Ok(Ok(())) | Err(_) => parsed,
    }
}

/// One running process with the threads that read from it.
struct Process {
    child: Child,
    requests: Option<ChildStdin>,
    replies: Receiver<Result<Reply, FrameError>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    /// Files read to their end.
    files: usize,
    /// Whether its end was seen, so that nothing has its number for sure any more.
    waited_for: bool,
}

impl Process {
    fn start(program: &Path, args: &[String], setup: &Setup) -> Result<Process, WorkerError> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A backtrace would push the words that say why it died out of the tail that is kept.
        command.env("RUST_BACKTRACE", "0");
        system::detach_from_terminal(&mut command);
        let spawn_error = |error| WorkerError::Spawn { program: program.to_path_buf(), error };
        let mut child = command.spawn().map_err(spawn_error)?;
        let (Some(requests), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(spawn_error(io::Error::other("a piped stream is missing")));
        };
        let (sender, replies) = sync_channel(REPLIES_MAX);
        let reply_bytes = setup.limits.reply_bytes;
        thread::spawn(move || read_replies(stdout, reply_bytes, &sender));
        let stderr = Some(thread::spawn(move || tail(stderr)));
        let mut process =
            Process { child, requests: Some(requests), replies, stderr, files: 0, waited_for: false };
        let unusable = process
            .handshake(setup)
            .map_err(|why| WorkerError::NotAWorker { program: program.to_path_buf(), why })?;
        match unusable {
            Some(Unusable { library, why }) => Err(WorkerError::Library { library, why }),
            None => Ok(process),
        }
    }

    fn handshake(&mut self, setup: &Setup) -> Result<Option<Unusable>, String> {
        self.send(setup).map_err(|error| error.to_string())?;
        match self.receive(Duration::from_secs(START_SECONDS)) {
            Ok(Reply::Ready { protocol: PROTOCOL, unusable }) => Ok(unusable),
            Ok(Reply::Ready { protocol, .. }) => {
                Err(format!("it speaks protocol {protocol}, not {PROTOCOL}"))
            }
            Ok(_) | Err(Death::Garbled) => Err("it answered something else".to_owned()),
            Err(Death::Silent) => Err(format!("it was silent for {START_SECONDS} s")),
            Err(Death::Ended) => {
                let loading = setup.readers.pdfium.as_ref();
                let loading =
                    loading.map_or_else(String::new, |found| format!(", with {}", found.library.display()));
                Err(self.post_mortem(Death::Ended, &setup.limits).why + &loading)
            }
        }
    }

    fn send<T: Serialize>(&mut self, message: &T) -> Result<(), FrameError> {
        match &mut self.requests {
            Some(requests) => frame::write(requests, message, REQUEST_BYTES_MAX),
            None => Err(FrameError::Io(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn receive(&mut self, patience: Duration) -> Result<Reply, Death> {
        match self.replies.recv_timeout(patience) {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(Death::Garbled),
            Err(RecvTimeoutError::Timeout) => Err(Death::Silent),
            Err(RecvTimeoutError::Disconnected) => Err(Death::Ended),
        }
    }

    fn is_running(&mut self) -> bool {
        let ended = !matches!(self.child.try_wait(), Ok(None));
        self.waited_for |= ended;
        self.requests.is_some() && !ended
    }

    /// Ends the process and what it runs. Before it is waited for: its number, and that of its group, may be another's
    /// afterwards.
    fn kill(&mut self) {
        self.requests = None;
        if std::mem::replace(&mut self.waited_for, true) {
            return;
        }
        let ended = system::kill_group(&mut self.child).and_then(|()| self.child.wait());
        debug_assert!(ended.is_ok(), "a child of ours can be killed and waited for: {ended:?}");
    }

    fn post_mortem(&mut self, death: Death, limits: &Limits) -> ParseFailure {
        self.requests = None;
        self.kill();
        let status = self.child.wait();
        let stderr = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let stderr = String::from_utf8_lossy(&stderr);
        match (death, status) {
            (Death::Silent, _) => ParseFailure::new(
                Verdict::Timeout,
                format!("no answer within {} s of wall-clock time", limits.wall_seconds),
            ),
            (Death::Garbled, _) => ParseFailure::new(Verdict::Failed, "the worker answered out of order"),
            (Death::Ended, Err(error)) => {
                ParseFailure::new(Verdict::Failed, format!("the worker is gone: {error}"))
            }
            (Death::Ended, Ok(status)) => system::cause_of_death(status, &stderr, limits),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read_replies(mut stdout: ChildStdout, reply_bytes: u64, sender: &SyncSender<Result<Reply, FrameError>>) {
    while let Some(reply) = read_reply(&mut stdout, reply_bytes).transpose() {
        let broken = reply.is_err();
        // The receiver is gone once the worker is no longer wanted.
        if sender.send(reply).is_err() || broken {
            return;
        }
    }
}

fn read_reply(stdout: &mut impl Read, reply_bytes: u64) -> Result<Option<Reply>, FrameError> {
    match frame::read::<Reply>(stdout, reply_bytes)? {
        Some(Reply::Piece { length, .. }) if length <= PIECE_BYTES => {
            let bytes = frame::read_bytes(stdout, length as u64, reply_bytes)?;
            Ok(Some(Reply::Piece { length, bytes }))
        }
        Some(Reply::Pixels { width, height, .. }) => {
            // Two sides of 32 bits can be more than 64 bits with three bytes a pixel.
            let bytes = (u64::from(width) * u64::from(height)).saturating_mul(3);
            let pixels = frame::read_bytes(stdout, bytes, reply_bytes)?;
            Ok(Some(Reply::Pixels { width, height, pixels }))
        }
        other => Ok(other),
    }
}

/// Drains stderr, so that the worker never blocks on it, and keeps its end.
fn tail(mut stderr: ChildStderr) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; STDERR_TAIL_BYTES];
    while let Ok(count @ 1..) = stderr.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..count]);
        kept.drain(..kept.len().saturating_sub(STDERR_TAIL_BYTES));
    }
    kept
}
