//! `haul embed`: lines of stdin to vectors, as a NumPy file or as JSONL on stdout, there with what the heads give.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use haul_encoder::device::Vectors;
use haul_encoder::embedder::{LoadError, LoadOptions};
use haul_encoder::model::Head;
use haul_encoder::model_dir::ModelDir;
use haul_jobs::embed::{self, Outcome, Parts, TextOutputs};
use haul_jobs::models::Models;
use haul_machine::dtype::DtypeRequest;
use haul_pipeline::batch::BatchLimits;
use haul_pipeline::progress::Progress;
use haul_pipeline::stage::{Stages, Stop};
use serde::Serialize;
use serde_json::json;

use crate::cli::search::{EmbedArgs, HeadArg, RoleArg};
use crate::commands::{Machine, dim_of};
use crate::failure::Failure;
use crate::output::{Output, closed_is_fine};
use crate::settings::{Compute, Settings};
use crate::{Exit, signals_unix, summary};

/// Takes what the model gives for one text after the other.
type WriteText<'a> = &'a mut (dyn FnMut(&TextOutputs) -> io::Result<()> + Send);

/// Runs the command.
pub(crate) fn run(args: &EmbedArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    check_output(args, output)?;
    let machine = Machine::resolve(settings.device(&args.compute.device)?, settings, output)?;
    let compute = settings.compute(&args.compute, &machine.cpu)?;
    let Some(name) = settings.model(args.model.as_deref()) else {
        return Err(
            Failure::new("no model is named").hint("give --model NAME; `haul model list` shows what is here")
        );
    };
    let (model, record) = Models::open(&settings.models()).find(&name)?;
    let max_tokens = max_tokens(args, &model)?;
    let options = load_options(args, &model)?;
    let asked = settings.dtype(&args.dtype)?.unwrap_or(DtypeRequest::Auto);
    let dtype = machine.dtype(asked, settings, output)?;
    let compute = machine.tuned(compute, &record.sha256, dtype, settings, output);
    let job = job(args, &model, max_tokens, compute);
    let stop = signals_unix::stop_on_signals()?;
    let embedder = machine.load(&model, &options, dtype, compute.threads)?;
    let input = BufReader::new(Stdin::start(stop.clone()));
    let stages = Stages::start();
    let progress = Progress::default();
    let parts =
        Parts { model: &model, embedder: &embedder, stages: &stages, progress: &progress, stop: &stop };
    let run = |write: WriteText<'_>| Ok(embed::run(&job, &parts, input, write)?);
    let outcome = match &args.out {
        Some(path) => to_npy(path, embedder.dim(), run)?,
        None => to_stdout(&args.heads, &stop, run)?,
    };
    let seconds = stages.elapsed().as_secs_f64();
    if outcome.truncated.items > 0 {
        output.note(&summary::truncated(&outcome.truncated));
    }
    if output.json() {
        output.json_document(&json!({
            "texts": outcome.texts, "dim": embedder.dim(), "dtype": dtype.name(), "tokens": outcome.tokens, "seconds": seconds,
            "truncated": outcome.truncated, "device": machine.verdict,
            "batch_tokens": compute.batch_tokens, "batch_tokens_by": compute.batch_by,
        }))?;
    }
    Ok(if outcome.interrupted { Exit::Interrupted } else { Exit::Ok })
}

/// Only stdout has room for more than one vector a text, and then for nothing else.
fn check_output(args: &EmbedArgs, output: &Output) -> Result<(), Failure> {
    if args.out.is_some() && args.heads.iter().any(|head| *head != HeadArg::Dense) {
        return Err(Failure::new("--out: a NumPy array has room for the dense vectors alone")
            .hint("leave --out away to have what the heads give as JSONL on stdout"));
    }
    if output.json() && args.out.is_none() {
        return Err(Failure::new(
            "without --out, stdout has one line a vector and no room for a JSON document",
        )
        .hint("give --out FILE.npy to have the vectors in a file and a summary as JSON"));
    }
    Ok(())
}

/// What the model lacks is said before anything is measured or loaded.
fn load_options(args: &EmbedArgs, model: &ModelDir) -> Result<LoadOptions, Failure> {
    let asked = |head| match head {
        Head::Sparse => args.heads.contains(&HeadArg::Sparse),
        Head::Colbert => args.heads.contains(&HeadArg::Colbert),
    };
    let heads: Vec<Head> = Head::ALL.into_iter().filter(|head| asked(*head)).collect();
    if let Some(&head) = heads.iter().find(|head| model.head_file(**head).is_none()) {
        return Err(LoadError::NoHead { head, dir: model.dir().into() }.into());
    }
    Ok(LoadOptions { heads, dim: Some(dim_of(args.dim, model)?) })
}

fn max_tokens(args: &EmbedArgs, model: &ModelDir) -> Result<usize, Failure> {
    let smallest = model.tokenizer.special_tokens() + 1;
    let max_tokens = args.max_tokens.unwrap_or(model.max_tokens);
    if !(smallest..=model.max_tokens).contains(&max_tokens) {
        return Err(Failure::new(format!(
            "--max-tokens {max_tokens} is outside {smallest}..={}, what {} takes",
            model.max_tokens, model.name
        )));
    }
    Ok(max_tokens)
}

fn job(args: &EmbedArgs, model: &ModelDir, max_tokens: usize, compute: Compute) -> embed::Settings {
    let prompt = match args.role {
        Some(RoleArg::Query) => model.prompts.query(),
        Some(RoleArg::Document) => model.prompts.document(),
        None => model.prompts.default_prompt(),
    };
    embed::Settings {
        max_tokens,
        prompt: prompt.to_owned(),
        batch: BatchLimits { tokens: compute.batch_tokens, items: compute.batch_tokens },
        compute_threads: compute.threads.get(),
    }
}

/// What is printed for one text.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<&'a [f32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sparse: Option<BTreeMap<u32, f32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    colbert: Option<Vec<&'a [f32]>>,
}

impl<'a> Line<'a> {
    fn of(outputs: &'a TextOutputs, heads: &[HeadArg]) -> Line<'a> {
        let sparse = outputs.sparse.as_ref();
        Line {
            embedding: heads.contains(&HeadArg::Dense).then_some(&outputs.dense),
            sparse: sparse.map(|sparse| sparse.ids.iter().copied().zip(sparse.weights.clone()).collect()),
            colbert: outputs.colbert.as_ref().map(|rows| Vectors::iter(rows).collect()),
        }
    }
}

/// A line of JSON for each text. A reader that goes away ends the run quietly.
fn to_stdout(
    heads: &[HeadArg],
    stop: &Stop,
    run: impl FnOnce(WriteText<'_>) -> Result<Outcome, Failure>,
) -> Result<Outcome, Failure> {
    let mut stdout = BufWriter::new(io::stdout());
    let mut closed = false;
    let mut write = |outputs: &TextOutputs| {
        let written = serde_json::to_writer(&mut stdout, &Line::of(outputs, heads))
            .map_err(io::Error::from)
            .and_then(|()| stdout.write_all(b"\n"));
        if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            closed = true;
            stop.request();
        }
        closed_is_fine(written)
    };
    let mut outcome = run(&mut write)?;
    closed_is_fine(stdout.flush())
        .map_err(|error| Failure::new(format!("cannot write to stdout: {error}")))?;
    outcome.interrupted &= !closed;
    Ok(outcome)
}

/// A NumPy array of shape `[texts, dim]` and type f32, beside `path` until it is whole.
fn to_npy(
    path: &Path,
    dim: usize,
    run: impl FnOnce(WriteText<'_>) -> Result<Outcome, Failure>,
) -> Result<Outcome, Failure> {
    let failed = |error: io::Error| Failure::io("write", path, &error);
    let temporary = path.with_added_extension("tmp");
    let mut file = BufWriter::new(File::create(&temporary).map_err(failed)?);
    file.write_all(&npy_header(0, dim)).map_err(failed)?;
    let mut write = |outputs: &TextOutputs| {
        outputs.dense.iter().try_for_each(|value| file.write_all(&value.to_le_bytes()))
    };
    let ended = run(&mut write);
    let outcome = match ended {
        Ok(outcome) if !outcome.interrupted => outcome,
        // Half an array under the name of a whole one would be taken for it.
        ended => {
            if let Err(error) = std::fs::remove_file(&temporary) {
                tracing::warn!(%error, "{} could not be removed", temporary.display());
            }
            return ended;
        }
    };
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    file.write_all(&npy_header(outcome.texts, dim)).map_err(failed)?;
    file.flush().map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)?;
    Ok(outcome)
}

/// NPY format 1.0; padded to a fixed length, so that the number of rows can be filled in at the end.
fn npy_header(rows: u64, dim: usize) -> Vec<u8> {
    const HEADER_BYTES: usize = 128;
    let dictionary = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dim}), }}");
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend_from_slice(&(HEADER_BYTES as u16 - 10).to_le_bytes());
    header.extend_from_slice(dictionary.as_bytes());
    header.resize(HEADER_BYTES - 1, b' ');
    header.push(b'\n');
    header
}

/// How often a wait for input looks whether a stop was asked for.
const POLL: Duration = Duration::from_millis(100);
const BLOCK_BYTES: usize = 64 << 10;
const BLOCKS_MAX: usize = 4;

/// stdin, read by a thread of its own: a read that waits for input cannot be interrupted, this one ends with a
/// stop. The thread ends with the process.
struct Stdin {
    blocks: Receiver<io::Result<Vec<u8>>>,
    block: io::Cursor<Vec<u8>>,
    stop: Stop,
}

impl Stdin {
    fn start(stop: Stop) -> Self {
        let (send, blocks) = sync_channel(BLOCKS_MAX);
        thread::spawn(move || {
            let mut stdin = io::stdin().lock();
            loop {
                let mut block = vec![0; BLOCK_BYTES];
                let read = stdin.read(&mut block).map(|bytes| {
                    block.truncate(bytes);
                    block
                });
                let last = !matches!(&read, Ok(block) if !block.is_empty());
                if send.send(read).is_err() || last {
                    break;
                }
            }
        });
        Self { blocks, block: io::Cursor::default(), stop }
    }
}

impl Read for Stdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let bytes = self.block.read(buffer)?;
            if bytes > 0 || buffer.is_empty() {
                return Ok(bytes);
            }
            match self.blocks.recv_timeout(POLL) {
                Ok(block) => self.block = io::Cursor::new(block?),
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
                Err(RecvTimeoutError::Timeout) if self.stop.requested() => return Ok(0),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}
