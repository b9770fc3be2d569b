//! From files to pixels on disk: each file is hashed, and decoded unless its pixels are there.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::Sender;
use haul_corpus::image::preprocess::Preprocess;
use haul_corpus::limits::Limits;
use haul_corpus::pixels::{Hash, PixelCache, PixelsError};
use haul_corpus::readers::{Readers, Setup};
use haul_corpus::verdict::{ParseFailure, Verdict};
use haul_corpus::worker::{Worker, WorkerError};
use haul_pipeline::stage::{Stages, Stop, channel};

/// Images that wait to be written.
const WAITING_MAX: usize = 4;
/// Caches of one preprocessing: as many runs as take the same pixels at once.
const LANES_MAX: usize = 16;
/// What is kept of a cache that grew beyond its bound: the files that were used last.
const EXTENSION: &str = "pix";

/// What became of each image.
#[derive(Debug)]
pub struct Gathered {
    /// In the order of the files: the hash of what is in each, or why it has no pixels. Fewer than files where a stop
    /// was asked for.
    pub images: Vec<Result<Hash, ParseFailure>>,
    /// The pixels of all that are ok.
    pub cache: PixelCache,
    /// Images whose pixels were there.
    pub hits: u64,
    /// Images that were decoded, or could not be.
    pub misses: u64,
    /// Bytes of files that were read.
    pub bytes_read: u64,
}

/// How images are decoded.
#[derive(Clone, Copy)]
pub struct Decoders<'a> {
    /// This program, and its arguments as a parse worker.
    pub worker: (&'a Path, &'a [String]),
    /// Worker processes.
    pub threads: usize,
    /// Address space of each.
    pub memory_bytes: u64,
    /// Where pixels are kept.
    pub folder: &'a Path,
    /// The folder's pixels grow to this before old ones go.
    pub cap_bytes: u64,
    /// Clocks of the run.
    pub stages: &'a Stages,
    /// A request to stop.
    pub stop: &'a Stop,
}

/// Brings the pixels of all files to disk, as one preprocessing makes them.
///
/// # Errors
/// The cache or a worker process cannot be used. A file that has no pixels is no error.
pub fn gather(
    files: &[PathBuf],
    preprocess: &Preprocess,
    decoders: Decoders<'_>,
) -> Result<Gathered, GatherError> {
    let cache = open_cache(preprocess, &decoders)?;
    let known: HashSet<Hash> = cache.keys().copied().collect();
    let mut gathering = Gathering {
        images: vec![None; files.len()],
        damaged: vec![],
        scratch: vec![],
        gathered: Gathered { images: vec![], cache, hits: 0, misses: 0, bytes_read: 0 },
    };
    let all: Vec<(usize, &Path)> = files.iter().map(PathBuf::as_path).enumerate().collect();
    gathering.read(&all, &known, preprocess, decoders)?;
    let damaged = std::mem::take(&mut gathering.damaged);
    let again: Vec<(usize, &Path)> = damaged.into_iter().map(|no| all[no]).collect();
    gathering.read(&again, &HashSet::new(), preprocess, decoders)?;
    let Gathering { images, mut gathered, .. } = gathering;
    gathered.images = images.into_iter().map_while(|one| one).collect();
    Ok(gathered)
}

/// What has come so far.
struct Gathering {
    images: Vec<Option<Result<Hash, ParseFailure>>>,
    /// Files whose pixels are in the cache and cannot be believed.
    damaged: Vec<usize>,
    scratch: Vec<u8>,
    gathered: Gathered,
}

impl Gathering {
    fn read(
        &mut self,
        files: &[(usize, &Path)],
        known: &HashSet<Hash>,
        preprocess: &Preprocess,
        decoders: Decoders<'_>,
    ) -> Result<(), GatherError> {
        let next = AtomicUsize::new(0);
        let (send, receive) = channel::<(usize, Decoded)>(WAITING_MAX);
        let threads = decoders.threads.min(files.len());
        std::thread::scope(|scope| {
            let decoding: Vec<_> = (0..threads)
                .map(|_| {
                    let (send, next) = (send.clone(), &next);
                    let mut decoder = Decoder { preprocess, known, worker: None, decoders };
                    scope.spawn(move || decoder.decode_all(files, next, &send))
                })
                .collect();
            drop(send);
            // By value: an error drops it, and with it the threads' reason to go on.
            for (no, decoded) in receive {
                self.take(no, decoded)?;
            }
            decoding
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    fn take(&mut self, no: usize, decoded: Decoded) -> Result<(), GatherError> {
        let Gathered { cache, hits, misses, bytes_read, .. } = &mut self.gathered;
        *bytes_read += decoded.bytes_read;
        match (&decoded.hash, &decoded.pixels) {
            (Ok(hash), Some(pixels)) => {
                *misses += 1;
                cache.add(hash, pixels)?;
            }
            (Ok(hash), None) if !cache.read(hash, &mut self.scratch)? => self.damaged.push(no),
            (Ok(_), None) => *hits += 1,
            (Err(_), _) => *misses += 1,
        }
        self.images[no] = Some(decoded.hash);
        Ok(())
    }
}

/// One file.
struct Decoded {
    hash: Result<Hash, ParseFailure>,
    bytes_read: u64,
    /// None where they are in the cache, or there are none.
    pixels: Option<Vec<u8>>,
}

/// One thread with a process of its own, which is started for the first file that needs it.
struct Decoder<'a> {
    preprocess: &'a Preprocess,
    known: &'a HashSet<Hash>,
    worker: Option<Worker>,
    decoders: Decoders<'a>,
}

impl Decoder<'_> {
    fn decode_all(
        &mut self,
        files: &[(usize, &Path)],
        next: &AtomicUsize,
        send: &Sender<(usize, Decoded)>,
    ) -> Result<(), GatherError> {
        let mut meter = self.decoders.stages.meter("pixels");
        while !self.decoders.stop.requested() {
            let Some((no, file)) = files.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let decoded = self.decode(file)?;
            meter.finished(1);
            if meter.send(send, (*no, decoded)).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn decode(&mut self, file: &Path) -> Result<Decoded, GatherError> {
        let (hash, bytes_read) = match hashed(file) {
            Ok(hashed) => hashed,
            Err(failure) => return Ok(Decoded { hash: Err(failure), bytes_read: 0, pixels: None }),
        };
        if self.known.contains(&hash) {
            return Ok(Decoded { hash: Ok(hash), bytes_read, pixels: None });
        }
        let preprocess = self.preprocess;
        Ok(match self.worker()?.pixels(file, preprocess) {
            Ok(image) => Decoded { hash: Ok(hash), bytes_read, pixels: Some(image.pixels) },
            Err(failure) => Decoded { hash: Err(failure), bytes_read, pixels: None },
        })
    }

    fn worker(&mut self) -> Result<&mut Worker, GatherError> {
        let worker = match self.worker.take() {
            Some(worker) => worker,
            None => {
                let (program, args) = self.decoders.worker;
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                let limits = Limits { memory_bytes: self.decoders.memory_bytes, ..Limits::DEFAULT };
                let setup = Setup { limits, readers: Readers::default() };
                Worker::spawn(program, &args, &setup)?
            }
        };
        Ok(self.worker.insert(worker))
    }
}

/// The hash of what is in a file, and how much that is.
fn hashed(file: &Path) -> Result<(Hash, u64), ParseFailure> {
    let failed = |error: io::Error| ParseFailure::new(Verdict::Failed, format!("cannot read it: {error}"));
    // Whoever opens a pipe waits for its other end.
    let facts = std::fs::metadata(file).map_err(failed)?;
    if !facts.is_file() {
        return Err(ParseFailure::new(Verdict::Unsupported, "no regular file"));
    }
    if facts.len() > haul_corpus::image::FILE_BYTES_MAX {
        let why = format!("{} bytes; at most {} are read", facts.len(), haul_corpus::image::FILE_BYTES_MAX);
        return Err(ParseFailure::new(Verdict::TooLarge, why));
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(file).map_err(failed)?).map_err(failed)?;
    Ok((*hasher.finalize().as_bytes(), hasher.count()))
}

/// The cache of a preprocessing that no other run has at the moment.
fn open_cache(preprocess: &Preprocess, decoders: &Decoders<'_>) -> Result<PixelCache, GatherError> {
    let folder = decoders.folder;
    let failed = |error| GatherError::Folder { path: folder.to_owned(), error };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let key = preprocess_hash(preprocess);
    let (width, height) = preprocess.sides();
    let row_bytes = width as usize * height as usize * 3;
    let name = |lane: usize| folder.join(format!("{}.{lane}.{EXTENSION}", blake3::Hash::from(key).to_hex()));
    let names: Vec<PathBuf> = (0..LANES_MAX).map(name).collect();
    evict(folder, decoders.cap_bytes, &names).map_err(failed)?;
    let mut last = None;
    for path in names {
        match PixelCache::open(&path, key, row_bytes) {
            Err(error @ PixelsError::InUse { .. }) => last = Some(error),
            opened => return Ok(opened?),
        }
    }
    Err(last.map_or(GatherError::Lanes, GatherError::Pixels))
}

/// Of everything that shapes pixels.
#[must_use]
pub fn preprocess_hash(preprocess: &Preprocess) -> Hash {
    // How levels become numbers shapes no pixel: two models that differ in it alone share theirs.
    let Preprocess { size, filter, treatment, .. } = preprocess;
    let shown = format!("{} {size:?} {filter:?} {treatment:?}", haul_corpus::image::VERSION);
    *blake3::hash(shown.as_bytes()).as_bytes()
}

/// Removes what was used longest ago, but for `kept`, until the folder is below its bound. A run that has a removed file
/// open keeps its pixels.
fn evict(folder: &Path, cap_bytes: u64, kept: &[PathBuf]) -> io::Result<()> {
    let mut files = vec![];
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let facts = entry.metadata()?;
        if facts.is_file() && entry.path().extension().is_some_and(|extension| extension == EXTENSION) {
            files.push((facts.modified()?, facts.len(), entry.path()));
        }
    }
    files.sort();
    let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, size, path) in files {
        if bytes <= cap_bytes {
            break;
        }
        // Pixels of this very run would only be made again.
        if !kept.contains(&path) {
            std::fs::remove_file(&path)?;
            bytes -= size;
        }
    }
    Ok(())
}

/// Pixels cannot be gathered.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    /// The folder of the cache.
    #[error("cannot use the pixel cache {}: {error}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// The cache.
    #[error(transparent)]
    Pixels(#[from] PixelsError),
    /// A worker process.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// More runs at once than anyone means.
    #[error("{LANES_MAX} runs use the pixels of this preprocessing already")]
    Lanes,
}
