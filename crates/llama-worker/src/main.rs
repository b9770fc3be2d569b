//! `haul-llama`: llama.cpp in a process of its own, because its assertions end the process.
//!
//! It reads [`Request`]s from stdin and writes [`Event`]s to stdout, as `haul_frames` says; its log goes to stderr. One
//! model in its life: [`engine`] loads it, calls wait at the [`desk`], [`answers`] answers them together, each a [`live`]
//! one, and [`measure`] scores and probes. A closed stdin ends it. Its arguments are folders with backends:
//! `--backends DIR`, as often as there are folders.
//!
//! It never decides what to load or where.
#![expect(unsafe_code, reason = "llama.cpp is C++ behind a C interface; each block says who checked")]

mod answers;
mod attention;
mod backends;
mod beginnings;
mod constrain;
mod desk;
mod draft;
mod engine;
mod live;
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
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use answers::Lane;
use desk::{Desk, Totals};
use engine::Engine;
use haul_frames::{BEAT_MS, Beat, Event, FrameError, Marks, Request, read, write};
use llama::Model;

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
    thread::spawn({
        let totals = Arc::clone(&pipe.totals);
        move || listen(&send, &totals)
    });
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
fn listen(send: &SyncSender<Request>, totals: &Totals) {
    let mut pipe = BufReader::new(stdin());
    loop {
        match read(&mut pipe) {
            Ok(Some(request)) => {
                if matches!(request, Request::Group(_)) {
                    totals.arriving.fetch_add(1, Relaxed);
                }
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
fn serve(requests: &Receiver<Request>, pipe: &Arc<Pipe>) {
    let mut hall = None;
    while let Ok(request) = requests.recv() {
        let is_group = matches!(request, Request::Group(_));
        if let Err(why) = begin(request, &mut hall, pipe) {
            pipe.say(&Event::Refused { id: None, why });
        }
        if is_group {
            match &hall {
                Some(hall) => hall.desk.has_arrived(),
                // Refused: there is no model.
                None => {
                    pipe.totals.arriving.fetch_sub(1, Relaxed);
                }
            }
        }
    }
    if let Some(hall) = hall {
        hall.close();
    }
}

fn begin(request: Request, hall: &mut Option<Hall>, pipe: &Arc<Pipe>) -> Result<(), String> {
    match request {
        Request::Load(_) if hall.is_some() => return Err("a model is loaded already".to_owned()),
        Request::Load(load) => {
            let (engines, facts) = Engine::load(&load)?;
            *hall = Some(Hall::open(engines, load.lanes, pipe));
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
    let Some(hall) = hall else { return Err("no model is loaded".to_owned()) };
    match request {
        Request::Tokenize { texts, marks } => {
            let tokens = |text: &String| match marks {
                Marks::Read => hall.model.tokenize(text, &[]),
                Marks::Spelled => hall.model.plain(text),
            };
            let ids = texts.iter().map(|text| Ok(tokens(text)?.into_iter().map(|token| token.0).collect()));
            pipe.say(&Event::Tokens { ids: ids.collect::<Result<_, String>>()? });
        }
        Request::Group(group) => hall.desk.add(group, &|event| pipe.say(&event)),
        Request::Score(score) => {
            let mut lane = hall.lane_alone()?;
            let scored = measure::score(lane.uprooted(), &score);
            lane.uprooted();
            pipe.say(&Event::Scored(scored?));
        }
        Request::Probe(probe) => {
            let mut lane = hall.lane_alone()?;
            let probed = measure::probe(lane.uprooted(), &probe);
            lane.uprooted();
            pipe.say(&Event::Probed(probed?));
        }
        Request::Load(_) | Request::Quantize(_) => {}
    }
    Ok(())
}

/// A loaded model: the desk that takes calls, and the lanes that answer them, each a thread.
struct Hall {
    model: Model,
    desk: Arc<Desk>,
    lanes: Vec<Arc<Mutex<Lane>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Hall {
    fn open(engines: Vec<Engine>, lanes: u32, pipe: &Arc<Pipe>) -> Self {
        let model = engines[0].model();
        let desk = Arc::new(Desk::new(&engines[0], lanes, Arc::clone(&pipe.totals)));
        let lanes: Vec<_> =
            engines.into_iter().map(|engine| Arc::new(Mutex::new(Lane::new(engine)))).collect();
        let threads = lanes.iter().map(|lane| {
            let (lane, desk, pipe) = (Arc::clone(lane), Arc::clone(&desk), Arc::clone(pipe));
            thread::spawn(move || {
                let _end = EndOnPanic;
                while Lane::wait(&lane, &desk) {
                    desk.wait_for_all();
                    locked(&lane).step(&desk, &|event| pipe.say(&event));
                }
            })
        });
        let threads = threads.collect();
        Self { model, desk, lanes, threads }
    }

    /// The one lane, which answers no calls now.
    fn lane_alone(&self) -> Result<MutexGuard<'_, Lane>, String> {
        if self.desk.is_busy() {
            return Err("calls are being answered, and a measurement takes the whole cache".to_owned());
        }
        match self.lanes.as_slice() {
            [lane] => Ok(locked(lane)),
            lanes => Err(format!("a measurement in one of {} lanes says nothing of the others", lanes.len())),
        }
    }

    /// Ends the lanes, which may be within a step: the process must not take the engine from under them.
    fn close(self) {
        self.desk.close();
        for thread in self.threads {
            if thread.join().is_err() {
                to_stderr("a lane ended by a fault");
            }
        }
    }
}

/// A lane that panics takes the process with it: its calls would wait for ever, and a dead worker is started again.
struct EndOnPanic;

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

fn locked(lane: &Mutex<Lane>) -> MutexGuard<'_, Lane> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where events go: what stdout was at the start. Whatever else writes to stdout after that writes to stderr, so that
/// no stray line stands between frames.
struct Pipe {
    file: Mutex<File>,
    totals: Arc<Totals>,
}

impl Pipe {
    fn take() -> std::io::Result<Self> {
        Ok(Self { file: Mutex::new(process_unix::take_stdout()?), totals: Arc::default() })
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

    fn beat(&self) {
        loop {
            thread::sleep(Duration::from_millis(BEAT_MS));
            let Totals { steps, live, prefill_tokens, decode_tokens, reused_tokens, .. } = &*self.totals;
            let totals = BTreeMap::from([
                ("prefill_tokens".to_owned(), prefill_tokens.load(Relaxed)),
                ("decode_tokens".to_owned(), decode_tokens.load(Relaxed)),
                ("reused_tokens".to_owned(), reused_tokens.load(Relaxed)),
            ]);
            self.say(&Event::Beat(Beat {
                steps: steps.load(Relaxed),
                live: live.load(Relaxed),
                rss_bytes: process_unix::resident_bytes(),
                totals,
            }));
        }
    }
}
