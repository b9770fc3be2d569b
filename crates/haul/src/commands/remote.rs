//! A server in place of a GGUF file: `--model http://HOST:PORT/v1`.

use haul_generate::Generator;
use haul_generate::remote::{Patience, Remote, RemoteSettings, ServerAddress};
use haul_machine::verdict::DeviceRequest;
use haul_pipeline::stage::Stop;

use crate::cli::llm::EngineArgs;
use crate::commands::generator::{Model, Opened, parallel};
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;

/// Calls that are with a server at once: it batches them itself, and lets the others wait.
const PARALLEL: u32 = 16;
/// What a server does not tell.
const UNKNOWN: &str = "unknown";

/// Opens a server. What is asked of a model on this machine is refused: a server cannot be made to obey.
pub(crate) fn open(
    name: &str,
    args: &EngineArgs,
    settings: &Settings,
    stop: &Stop,
    output: &Output,
) -> Result<Opened, Failure> {
    let address = ServerAddress::parse(name)?;
    refuse_flags(args, &address, settings)?;
    let remote = Remote::open(RemoteSettings {
        address,
        key: settings.api_key()?,
        parallel: parallel(args.parallel.unwrap_or(PARALLEL))? as usize,
        patience: Patience::default(),
        stop: stop.flag(),
    })?;
    output.note(&format!(
        "server: {} with {}; on what it computes is not known",
        remote.address(),
        remote.model()
    ));
    let facts = remote.facts();
    Ok(Opened {
        verdict: remote.verdict(),
        model: Model {
            id: facts.name,
            sha256: UNKNOWN.to_owned(),
            quantisation: UNKNOWN.to_owned(),
            parameters: 0,
            max_tokens: facts.context_tokens.unwrap_or(0),
        },
        generator: Generator::Remote(Box::new(remote)),
    })
}

/// A server that answered with another model than it was asked for is named.
pub(crate) fn note_other_models(opened: &Opened, output: &Output) {
    let Generator::Remote(remote) = &opened.generator else { return };
    let others = remote.other_models();
    if !others.is_empty() {
        output.note(&format!(
            "server: asked for {}, and its answers name {}",
            remote.model(),
            others.join(", ")
        ));
    }
}

fn refuse_flags(args: &EngineArgs, address: &ServerAddress, settings: &Settings) -> Result<(), Failure> {
    let device = settings.device(&args.device)?;
    if device != DeviceRequest::Auto {
        return Err(Failure::new(format!(
            "--device {device} with {address}: where a server computes is its own matter"
        ))
        .hint("leave --device out, or give --device auto where HAUL_DEVICE or haul.toml names another"));
    }
    if let Some(threads) = args.threads {
        return Err(Failure::new(format!(
            "--threads {threads} with {address}: nothing is computed on this machine"
        ))
        .hint(
            "leave --threads out, and HAUL_THREADS unset; --parallel says how many calls are with the server",
        ));
    }
    let flags = [
        ("--ctx", args.ctx.is_some()),
        ("--cache-type-k", args.cache_type_k.is_some()),
        ("--cache-type-v", args.cache_type_v.is_some()),
        ("--template", args.template.is_some()),
    ];
    match flags.iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((flag, _)) => {
            Err(Failure::new(format!("{flag} with {address}: it is of a GGUF file on this machine"))
                .hint(format!("leave {flag} out; the server was started with its own")))
        }
    }
}
