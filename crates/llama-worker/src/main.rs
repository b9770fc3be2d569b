//! `haul-llama`: llama.cpp in a process of its own, because its assertions end the process.
//!
//! It reads [`Request`]s from stdin and writes [`Event`]s to stdout, as `haul_frames` says; its log goes to stderr. One
//! model in its life: [`engine`] loads it, [`answers`] answers calls together, [`measure`] scores and probes. A closed
//! stdin ends it. Its arguments are folders with backends: `--backends DIR`, as often as there are folders.
//!
//! It never decides what to load or where.
#![expect(unsafe_code, reason = "llama.cpp is C++ behind a C interface; each block says who checked")]

mod answers;
mod backends;
mod beginnings;
mod constrain;
mod engine;
mod llama;
mod log;
mod measure;
mod process_unix;
mod quantize;
mod sample;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Write, stdin};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use answers::Desk;
use engine::Engine;
use haul_frames::{BEAT_MS, Beat, Event, FrameError, Request, read, write};

/// Requests that were read and not begun.
const REQUESTS_WAITING_MAX: usize = 64;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            to_stderr(&why);
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<(), String> {
    let folders = folders(std::env::args().skip(1))?;
    let pipe = Arc::new(Pipe::take().map_err(|error| format!("stdout: {error}"))?);
    log::capture();
    let files = backends::start(&folders)?;
    pipe.say(&Event::Hello(backends::hello(files)));
    thread::spawn({
        let pipe = Arc::clone(&pipe);
        move || pipe.beat()
    });
    let (send, requests) = sync_channel(REQUESTS_WAITING_MAX);
    thread::spawn(move || listen(&send));
    serve(&requests, &pipe);
    Ok(())
}

fn folders(mut arguments: impl Iterator<Item = String>) -> Result<Vec<PathBuf>, String> {
    let mut folders = Vec::new();
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.next()) {
            ("--backends", Some(folder)) => folders.push(PathBuf::from(folder)),
            _ => return Err("usage: haul-llama [--backends DIR]...   (started by haul)".to_owned()),
        }
    }
    Ok(folders)
}

/// The log goes to stderr; where nobody reads it any more, nothing is lost by that.
#[expect(clippy::print_stderr, reason = "the worker's log")]
fn to_stderr(line: &str) {
    eprintln!("{line}");
}

/// Hands requests on until stdin ends.
fn listen(send: &SyncSender<Request>) {
    let mut pipe = BufReader::new(stdin());
    loop {
        match read(&mut pipe) {
            Ok(Some(request)) => {
                if send.send(request).is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => return to_stderr(&format!("stdin: {error}")),
        }
    }
}

/// Does what is asked until nobody can ask any more.
fn serve(requests: &Receiver<Request>, pipe: &Pipe) {
    let mut loaded: Option<(Engine, Desk)> = None;
    loop {
        let request = match &loaded {
            Some((_, desk)) if desk.is_busy() => match requests.try_recv() {
                Ok(request) => Some(request),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => return,
            },
            _ => match requests.recv() {
                Ok(request) => Some(request),
                Err(_) => return,
            },
        };
        if let Some(request) = request {
            if let Err(why) = begin(request, &mut loaded, pipe) {
                pipe.say(&Event::Refused { id: None, why });
            }
            continue;
        }
        if let Some((engine, desk)) = &mut loaded {
            desk.step(engine, &mut |event| pipe.say(&event));
            pipe.count(desk);
        }
    }
}

fn begin(request: Request, loaded: &mut Option<(Engine, Desk)>, pipe: &Pipe) -> Result<(), String> {
    match request {
        Request::Load(_) if loaded.is_some() => return Err("a model is loaded already".to_owned()),
        Request::Load(load) => {
            let (engine, facts) = Engine::load(&load)?;
            let desk = Desk::new(&engine);
            *loaded = Some((engine, desk));
            pipe.say(&Event::Loaded(Box::new(facts)));
            return Ok(());
        }
        Request::Quantize(asked) => {
            let bytes = quantize::quantize(&asked)?;
            pipe.say(&Event::Quantized { bytes });
            return Ok(());
        }
        _ => {}
    }
    let Some((engine, desk)) = loaded else { return Err("no model is loaded".to_owned()) };
    match request {
        Request::Tokenize { texts } => {
            let ids = texts
                .iter()
                .map(|text| Ok(engine.model().tokenize(text)?.into_iter().map(|token| token.0).collect()));
            pipe.say(&Event::Tokens { ids: ids.collect::<Result<_, String>>()? });
        }
        Request::Group(group) => desk.add(engine, group, &mut |event| pipe.say(&event)),
        Request::Score(_) | Request::Probe(_) if desk.is_busy() => {
            return Err("calls are being answered, and a measurement takes the whole cache".to_owned());
        }
        Request::Score(score) => {
            desk.uproot(engine);
            let scored = measure::score(engine, &score);
            desk.uproot(engine);
            pipe.say(&Event::Scored(scored?));
        }
        Request::Probe(probe) => {
            desk.uproot(engine);
            let probed = measure::probe(engine, &probe);
            desk.uproot(engine);
            pipe.say(&Event::Probed(probed?));
        }
        Request::Load(_) | Request::Quantize(_) => {}
    }
    Ok(())
}

/// Where events go: what stdout was at the start. Whatever else writes to stdout after that writes to stderr, so that
/// no stray line stands between frames.
struct Pipe {
    file: Mutex<File>,
    steps: AtomicU64,
    live: AtomicU32,
    prefill_tokens: AtomicU64,
    decode_tokens: AtomicU64,
    reused_tokens: AtomicU64,
}

impl Pipe {
    fn take() -> std::io::Result<Self> {
        Ok(Self {
            file: Mutex::new(process_unix::take_stdout()?),
            steps: AtomicU64::new(0),
            live: AtomicU32::new(0),
            prefill_tokens: AtomicU64::new(0),
            decode_tokens: AtomicU64::new(0),
            reused_tokens: AtomicU64::new(0),
        })
    }

    /// A frame. When nobody reads any more, stdin ends too, and with it the process.
    fn say(&self, event: &Event) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.written(&mut file, event) {
            to_stderr(&format!("stdout: {error}"));
        }
    }

    fn written(&self, file: &mut File, event: &Event) -> Result<(), FrameError> {
        let mut frame = Vec::new();
        write(&mut frame, event)?;
        file.write_all(&frame)?;
        Ok(())
    }

    fn count(&self, desk: &Desk) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.live.store(desk.live(), Ordering::Relaxed);
        self.prefill_tokens.store(desk.totals.prefill_tokens, Ordering::Relaxed);
        self.decode_tokens.store(desk.totals.decode_tokens, Ordering::Relaxed);
        self.reused_tokens.store(desk.totals.reused_tokens, Ordering::Relaxed);
    }

    fn beat(&self) {
        loop {
            thread::sleep(Duration::from_millis(BEAT_MS));
            let totals = BTreeMap::from([
                ("prefill_tokens".to_owned(), self.prefill_tokens.load(Ordering::Relaxed)),
                ("decode_tokens".to_owned(), self.decode_tokens.load(Ordering::Relaxed)),
                ("reused_tokens".to_owned(), self.reused_tokens.load(Ordering::Relaxed)),
            ]);
            self.say(&Event::Beat(Beat {
                steps: self.steps.load(Ordering::Relaxed),
                live: self.live.load(Ordering::Relaxed),
                rss_bytes: process_unix::resident_bytes(),
                totals,
            }));
        }
    }
}
