//! Parsing in another process, so that a file which crashes, hangs or bloats its parser costs only itself.
//!
//! [`Worker`] is the process as the pipeline sees it, [`serve`] what runs inside it. They speak frames over the
//! worker's stdin and stdout: the limits first, then one request a file, answered by a frame for each document
//! and a last one. One document at a time is in memory, however many a file holds.

use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::document::Format;
use crate::limits::Limits;
use crate::parse::{self, Parsed};
use crate::verdict::{ParseFailure, Verdict};
use crate::worker_unix as system;

pub use frame::FrameError;

mod frame;

/// Both sides must speak the same frames; the worker says this number first.
const PROTOCOL: u32 = 1;
/// Time for a fresh worker to say that it is ready.
const START_SECONDS: u64 = 20;
/// Replies waiting between the worker and the caller, besides the one being read.
const REPLIES_MAX: usize = 1;
/// Bytes of a request frame: one path and a format.
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// The last bytes of the worker's stderr that are kept to say why it died.
const STDERR_TAIL_BYTES: usize = 4 << 10;

/// A worker process that is used for many files and replaced when a file kills it.
pub struct Worker {
    program: PathBuf,
    args: Vec<String>,
    limits: Limits,
    process: Process,
}

impl Worker {
    /// Starts `program args...`, which must call [`serve`] on its stdin and stdout. The process works under
    /// `limits`.
    pub fn spawn(program: &Path, args: &[&str], limits: &Limits) -> Result<Worker, WorkerError> {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let process = Process::start(program, &args, limits)?;
        Ok(Worker { program: program.to_path_buf(), args, limits: limits.clone(), process })
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
        let patience = Duration::from_secs(self.limits.wall_seconds);
        self.begin(&Request { path: path.to_owned(), format }, patience)?;
        let mut documents = 0usize;
        loop {
            let parsed = match self.process.receive(patience) {
                Ok(Reply::Document(parsed)) => check(*parsed),
                Ok(Reply::Done(result)) => return result,
                Ok(Reply::Ready { .. } | Reply::Begun) => return Err(self.end(documents, Death::Garbled)),
                Err(death) => return Err(self.end(documents, death)),
            };
            documents += 1;
            if emit(parsed).is_break() {
                self.process.kill();
                return Ok(());
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
            Ok(_) => Err(self.end(0, Death::Garbled)),
            Err(death) => Err(self.end(0, death)),
        }
    }

    fn restart(&mut self) -> Result<(), ParseFailure> {
        self.process = Process::start(&self.program, &self.args, &self.limits).map_err(|error| {
            ParseFailure::new(Verdict::Failed, format!("cannot start a fresh worker: {error}"))
        })?;
        Ok(())
    }

    /// Ends the process and says why, as the verdict of the file it was reading.
    fn end(&mut self, documents: usize, death: Death) -> ParseFailure {
        let failure = self.process.post_mortem(death, &self.limits);
        match documents {
            0 => failure,
            _ => ParseFailure { why: format!("after {documents} documents: {}", failure.why), ..failure },
        }
    }
}

/// The main loop of a worker process: sets its own resource limits as the first frame says, then answers
/// requests until `requests` ends. Limits: address space, CPU time for each document, no core dump, no bytes
/// written to files. Nothing but `replies` may write to the stream behind it.
pub fn serve(requests: impl Read, replies: impl Write) -> Result<(), WorkerError> {
    serve_with(requests, replies, parse::parse)
}

/// What [`serve`] does, with another parser; tests of the isolation hand in parsers that misbehave.
#[doc(hidden)]
pub fn serve_with(
    mut requests: impl Read,
    mut replies: impl Write,
    parser: impl Fn(&Path, Format, &Limits, &mut dyn FnMut(Parsed) -> ControlFlow<()>) -> Result<(), ParseFailure>,
) -> Result<(), WorkerError> {
    let Some(limits) = frame::read::<Limits>(&mut requests, REQUEST_BYTES_MAX)? else {
        return Ok(());
    };
    system::limit_process(limits.memory_bytes).map_err(WorkerError::Limit)?;
    frame::write(&mut replies, &Reply::Ready { protocol: PROTOCOL }, limits.reply_bytes)?;
    while let Some(request) = frame::read::<Request>(&mut requests, REQUEST_BYTES_MAX)? {
        frame::write(&mut replies, &Reply::Begun, limits.reply_bytes)?;
        let result = answer(&request, &limits, &mut replies, &parser)?;
        frame::write(&mut replies, &Reply::Done(result), limits.reply_bytes)?;
    }
    Ok(())
}

/// Parses one file. The outer error is a broken pipe, the inner result the file's.
fn answer(
    request: &Request,
    limits: &Limits,
    replies: &mut impl Write,
    parser: &impl Fn(
        &Path,
        Format,
        &Limits,
        &mut dyn FnMut(Parsed) -> ControlFlow<()>,
    ) -> Result<(), ParseFailure>,
) -> Result<Result<(), ParseFailure>, WorkerError> {
    let mut broken = None;
    let mut emit = |parsed: Parsed| {
        let sent = send_document(parsed, replies, limits)
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
        parser(Path::new(&request.path), request.format, limits, &mut emit)
    }));
    match broken {
        Some(error) => Err(error),
        None => Ok(parsed.unwrap_or_else(|panic| Err(panicked(&*panic)))),
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
            WorkerError::Limit(_) => Some("the limits in force (`ulimit -a`) are lower than a worker needs"),
            WorkerError::Stream(_) => None,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Request {
    path: String,
    format: Format,
}

#[derive(Serialize, Deserialize)]
enum Reply {
    Ready {
        protocol: u32,
    },
    /// A request has come; from here on, a crash is the file's.
    Begun,
    Document(Box<Parsed>),
    Done(Result<(), ParseFailure>),
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
}

impl Process {
    fn start(program: &Path, args: &[String], limits: &Limits) -> Result<Process, WorkerError> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        system::detach_from_terminal(&mut command);
        let spawn_error = |error| WorkerError::Spawn { program: program.to_path_buf(), error };
        let mut child = command.spawn().map_err(spawn_error)?;
        let (Some(requests), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(spawn_error(io::Error::other("a piped stream is missing")));
        };
        let (sender, replies) = sync_channel(REPLIES_MAX);
        let reply_bytes = limits.reply_bytes;
        thread::spawn(move || read_replies(stdout, reply_bytes, &sender));
        let stderr = Some(thread::spawn(move || tail(stderr)));
        let mut process = Process { child, requests: Some(requests), replies, stderr };
        process
            .handshake(limits)
            .map_err(|why| WorkerError::NotAWorker { program: program.to_path_buf(), why })?;
        Ok(process)
    }

    fn handshake(&mut self, limits: &Limits) -> Result<(), String> {
        self.send(limits).map_err(|error| error.to_string())?;
        match self.receive(Duration::from_secs(START_SECONDS)) {
            Ok(Reply::Ready { protocol: PROTOCOL }) => Ok(()),
            Ok(Reply::Ready { protocol }) => Err(format!("it speaks protocol {protocol}, not {PROTOCOL}")),
            Ok(_) | Err(Death::Garbled) => Err("it answered something else".to_owned()),
            Err(Death::Silent) => Err(format!("it was silent for {START_SECONDS} s")),
            Err(Death::Ended) => Err(self.post_mortem(Death::Ended, limits).why),
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
        self.requests.is_some() && matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends the process, if it has not ended yet.
    fn kill(&mut self) {
        self.requests = None;
        let ended = self.child.kill().and_then(|()| self.child.wait());
        debug_assert!(ended.is_ok(), "a child of ours can be killed and waited for: {ended:?}");
    }

    fn post_mortem(&mut self, death: Death, limits: &Limits) -> ParseFailure {
        self.requests = None;
        if !matches!(death, Death::Ended) {
            self.kill();
        }
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
    while let Some(reply) = frame::read::<Reply>(&mut stdout, reply_bytes).transpose() {
        let broken = reply.is_err();
        // The receiver is gone once the worker is no longer wanted.
        if sender.send(reply).is_err() || broken {
            return;
        }
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
