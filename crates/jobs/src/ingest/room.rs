//! Room in memory for documents: a file is read once there is room for what it is expected to take.
//!
//! A large file waits for room while smaller ones go on; one that is larger than all the room there is runs alone.
//! What comes out does not depend on the order in which files are read.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use haul_corpus::document::Format;
use haul_encoder::model_dir::ModelDir;
use haul_pipeline::stage::{Meter, Stop};

use super::Settings;
use super::parse::Unread;

const MIB: u64 = 1 << 20;
/// The program, the library's page caches and the tokenizer.
const PROGRAM_BYTES: u64 = 128 * MIB;
/// Room for documents below which an ingest makes no sense.
const ROOM_BYTES_MIN: u64 = 64 * MIB;
/// Activations of a token in a batch, in rows of the model's width.
const ROWS_PER_TOKEN: u64 = 32;
/// While weights are packed, they are in memory as they are in the file and as they will be.
const WEIGHTS_COPIES: u64 = 2;

/// A worker process with an empty document.
const WORKER_BYTES: u64 = 24 * MIB;
/// Bytes of memory for each byte of text: in the worker, in the frame between the processes, and then the text with
/// its tokens, their offsets and its chunks.
const BYTES_PER_TEXT_BYTE: u64 = 12;
/// Of a file of many documents one is in memory at a time; a line is seldom longer.
const LINE_BYTES_MAX: u64 = MIB;

/// Files that wait for room while others go on.
const WAITING_MAX: usize = 32;
/// Files that may overtake one that waits; then all wait for it.
const OVERTAKEN_MAX: u32 = 64;
/// How often somebody who waits looks whether a stop was asked for.
const LOOK: Duration = Duration::from_millis(100);

/// The least memory that an ingest with this model can work in.
///
/// A weights file that cannot be looked at counts as empty, and fails by name when it is loaded.
pub fn memory_needed(model: &ModelDir, settings: &Settings) -> u64 {
    fixed_bytes(model, settings) + ROOM_BYTES_MIN
}

/// What an ingest takes whatever its input is.
pub(crate) fn fixed_bytes(model: &ModelDir, settings: &Settings) -> u64 {
    let weights = model.weights_file().metadata().map_or(0, |facts| facts.len());
    let batch_tokens = settings.batch.tokens.max(settings.max_tokens) as u64;
    let batch = batch_tokens * model.dim() as u64 * size_of::<f32>() as u64 * ROWS_PER_TOKEN;
    let workers = settings.threads as u64 * WORKER_BYTES;
    PROGRAM_BYTES + WEIGHTS_COPIES * weights + batch * settings.threads as u64 + workers
}

/// What a file takes while it is read and cut, by its format and size alone.
pub(crate) fn file_bytes(format: Format, size_bytes: u64) -> u64 {
    let text = match format.name() {
        "text" | "markdown" | "html" => size_bytes,
        "json_lines" => size_bytes.min(LINE_BYTES_MAX),
        // Text deflates to a third; what makes a package large is its images.
        "epub" | "docx" => (3 * size_bytes).min(4 * MIB + size_bytes / 8),
        _ => (size_bytes / 2).min(2 * MIB + size_bytes / 16),
    };
    let held_whole = match format.name() {
        "json_lines" => 0,
        _ => size_bytes,
    };
    held_whole + BYTES_PER_TEXT_BYTE * text
}

/// Bytes for documents in flight.
pub(crate) struct Room {
    capacity_bytes: u64,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    taken_bytes: u64,
    places: usize,
    waiting: VecDeque<Unread>,
    /// Files that went on since the first of `waiting` came.
    overtook: u32,
    ended: bool,
}

/// Room that a file has, until this is dropped.
pub(crate) struct Place {
    room: Arc<Room>,
    bytes: u64,
}

impl Room {
    pub(crate) fn new(capacity_bytes: u64) -> Arc<Self> {
        Arc::new(Self { capacity_bytes, state: Mutex::default(), freed: Condvar::new() })
    }

    /// The next file that there is room for, with its place; `None` when there are no more, or at a stop.
    pub(crate) fn next(
        self: &Arc<Self>,
        meter: &mut Meter,
        unread: &Receiver<Unread>,
        stop: &Stop,
    ) -> Option<Unread> {
        while !stop.requested() {
            let (found, must_wait, is_empty) = self.look();
            if found.is_some() {
                return found;
            }
            if must_wait {
                meter.blocked(|| self.wait());
                continue;
            }
            // Whoever has somebody waiting comes back to see whether there is room by now.
            let patience = if is_empty { Duration::MAX } else { LOOK };
            match meter.starved(|| receive(unread, patience)) {
                Ok(file) => match self.enter(file) {
                    Ok(entered) => return Some(entered),
                    Err(file) => self.lock().waiting.push_back(file),
                },
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    if is_empty {
                        return None;
                    }
                    self.lock().ended = true;
                }
            }
        }
        None
    }

    /// The first that waits and fits; whether nothing may enter before one of them; whether nobody waits.
    fn look(self: &Arc<Self>) -> (Option<Unread>, bool, bool) {
        let mut state = self.lock();
        let held_up = state.overtook >= OVERTAKEN_MAX;
        let candidates = if held_up { 1 } else { state.waiting.len() };
        let fits = (0..candidates).find(|&at| self.fits(&state, needed(&state.waiting[at])));
        let Some(file) = fits.and_then(|at| state.waiting.remove(at)) else {
            let must_wait =
                !state.waiting.is_empty() && (held_up || state.ended || state.waiting.len() >= WAITING_MAX);
            return (None, must_wait, state.waiting.is_empty());
        };
        state.overtook = if fits == Some(0) { 0 } else { state.overtook + 1 };
        (Some(self.take(&mut state, file)), false, false)
    }

    fn enter(self: &Arc<Self>, file: Unread) -> Result<Unread, Unread> {
        let mut state = self.lock();
        let bytes = needed(&file);
        if state.overtook >= OVERTAKEN_MAX || !self.fits(&state, bytes) {
            return Err(file);
        }
        state.overtook += u32::from(!state.waiting.is_empty());
        Ok(self.take(&mut state, file))
    }

    fn fits(&self, state: &State, bytes: u64) -> bool {
        state.places == 0 || state.taken_bytes + bytes <= self.capacity_bytes
    }

    fn take(self: &Arc<Self>, state: &mut State, file: Unread) -> Unread {
        let bytes = needed(&file);
        state.places += 1;
        state.taken_bytes += bytes;
        let place = Place { room: Arc::clone(self), bytes };
        Unread { place: Some(Arc::new(place)), ..file }
    }

    fn wait(&self) {
        let state = self.lock();
        // Woken or not, the caller looks again.
        drop(self.freed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.room.lock();
        state.places -= 1;
        state.taken_bytes -= self.bytes;
        self.room.freed.notify_all();
    }
}

fn needed(file: &Unread) -> u64 {
    file_bytes(file.format, file.file.file.size_bytes)
}

fn receive(unread: &Receiver<Unread>, patience: Duration) -> Result<Unread, RecvTimeoutError> {
    match patience {
        Duration::MAX => unread.recv().map_err(|_| RecvTimeoutError::Disconnected),
        _ => unread.recv_timeout(patience),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use haul_corpus::source::SourceFile;
    use haul_pipeline::stage::{Stages, channel};

    use super::*;
    use crate::ingest::select::NamedFile;

    /// Room for ten files of one MiB of text.
    const ROOM_BYTES: u64 = 10 * 13 * MIB;

    fn file(no: u64, size_bytes: u64) -> Unread {
        let file = SourceFile {
            root: PathBuf::new(),
            relative: PathBuf::new(),
            path: PathBuf::new(),
            size_bytes,
            modified: None,
            format: Some(Format::Text),
        };
        let file =
            NamedFile { file, root: String::new(), relative: String::new(), modified_ns: None, book: None };
        Unread {
            no,
            file: Arc::new(file),
            format: Format::Text,
            content_hash: [0; 32],
            copy: None,
            place: None,
        }
    }

    #[test]
    fn small_files_go_on_while_a_large_one_waits_and_it_is_not_forgotten() {
        let room = Room::new(ROOM_BYTES);
        let (stages, stop) = (Stages::start(), Stop::default());
        let mut meter = stages.meter("parse");
        let (send, unread) = channel(300);
        send.send(file(0, MIB)).unwrap();
        send.send(file(1, 10 * MIB)).unwrap();
        (2..200).for_each(|no| send.send(file(no, MIB)).unwrap());
        drop(send);
        let mut order = Vec::new();
        // One file is always in work, so that the large one never finds the whole room by chance.
        let mut held = room.next(&mut meter, &unread, &stop).unwrap();
        order.push(held.no);
        while order.len() < 65 {
            held = room.next(&mut meter, &unread, &stop).unwrap();
            order.push(held.no);
        }
        assert!(!order.contains(&1), "{order:?}");
        drop(held);
        assert_eq!(
            room.next(&mut meter, &unread, &stop).unwrap().no,
            1,
            "after {OVERTAKEN_MAX} it has its turn"
        );
        let rest = std::iter::from_fn(|| room.next(&mut meter, &unread, &stop)).count();
        assert_eq!(order.len() + 1 + rest, 200);
    }

    #[test]
    fn a_file_beyond_the_whole_room_runs_alone() {
        let room = Room::new(ROOM_BYTES);
        let (stages, stop) = (Stages::start(), Stop::default());
        let mut meter = stages.meter("parse");
        let (send, unread) = channel(4);
        send.send(file(0, 100 * MIB)).unwrap();
        send.send(file(1, MIB)).unwrap();
        drop(send);
        let large = room.next(&mut meter, &unread, &stop).unwrap();
        assert_eq!(large.no, 0);
        std::thread::scope(|scope| {
            let small = scope.spawn(|| {
                let mut meter = stages.meter("parse");
                room.next(&mut meter, &unread, &stop).unwrap().no
            });
            std::thread::sleep(2 * LOOK);
            assert!(!small.is_finished(), "nothing runs beside it");
            drop(large);
            assert_eq!(small.join().unwrap(), 1);
        });
    }

    #[test]
    fn estimates_grow_with_text_and_not_with_images() {
        assert!(file_bytes(Format::Text, 4 * MIB) > 4 * file_bytes(Format::Text, MIB) / 2);
        let (small, illustrated) = (file_bytes(Format::Epub, MIB), file_bytes(Format::Epub, 100 * MIB));
        assert!(illustrated < 12 * small && illustrated < 512 * MIB, "{small} {illustrated}");
        assert_eq!(file_bytes(Format::JsonLines, 5000 * MIB), file_bytes(Format::JsonLines, 10 * MIB));
    }
}
