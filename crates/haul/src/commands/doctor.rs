//! `haul doctor`: what this machine is and can do, and where a model really runs, from measurement.

use haul_generate::local::{DeviceKind, Hello, Load, Loaded, Local, LocalSettings, Probe};
use haul_generate::proof::{self, Speed};
use haul_machine::verdict::{DeviceRequest, Verdict};
use haul_machine::{memory, nvidia, roof};
use serde::Serialize;
use serde_json::json;

use crate::Exit;
use crate::cli::DoctorArgs;
use crate::commands::gguf::note_others;
use crate::commands::{Machine, generator};
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;
use crate::summary;

/// Tokens of the prefill that is timed, and of the decode; fewer where the context is smaller.
const PREFILL_TOKENS: u32 = 512;
const DECODE_TOKENS: u32 = 32;
const REPETITIONS: u32 = 3;
/// Against the cache that every build computes on its device: a slower one is computed elsewhere in part.
const CONTROL_SHARE_MIN: f64 = 0.5;
/// A card that is not so much faster than the processor does not do the work.
const ACCELERATOR_RATIO_MIN: f64 = 1.5;

/// Runs the command.
pub(crate) fn run(args: &DoctorArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    if args.engine.model.is_some() {
        return model(args, settings, output);
    }
    let request = settings.device(&args.engine.device)?;
    let cpu = settings.cpu();
    let verdict = haul_machine::verdict::resolve(request, &cpu)?;
    let machine = Machine { request, cpu, verdict };
    let memory = memory::probe()?;
    let roofs = roof::load_or_measure(&settings.profiles(), &machine.cpu)?;
    if output.json() {
        output.json_document(&json!({
            "cpu": { "name": machine.cpu.name, "cores": machine.cpu.cores, "isa": machine.cpu.isa.name(),
                     "features": machine.cpu.features },
            "memory": memory,
            "roofs": roofs,
            "device": machine.verdict,
        }))?;
    } else {
        output.data(&summary::doctor(&machine, &memory, &roofs))?;
    }
    Ok(Exit::Ok)
}

/// What was found about a model.
#[derive(Serialize)]
pub(crate) struct Diagnosis {
    pub(crate) model: String,
    pub(crate) sha256: String,
    pub(crate) quantisation: String,
    pub(crate) engine: Hello,
    pub(crate) load: Load,
    pub(crate) loaded: Loaded,
    pub(crate) prefill_tokens_per_s: f64,
    pub(crate) decode_tokens_per_s: f64,
    /// Prefill with an f16 cache, where another was asked for.
    pub(crate) control_tokens_per_s: Option<f64>,
    /// Prefill on the processor alone, where a card was used.
    pub(crate) cpu_tokens_per_s: Option<f64>,
    pub(crate) device: Verdict,
    pub(crate) is_as_asked: bool,
    /// Cards that the NVIDIA driver knows, whether or not the engine can use them.
    pub(crate) cards: Vec<nvidia::Card>,
    /// What follows from it, in words.
    pub(crate) findings: Vec<String>,
}

fn model(args: &DoctorArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let diagnosis = diagnose(args, settings, output)?;
    let is_sound = diagnosis.is_as_asked && diagnosis.findings.is_empty();
    if output.json() {
        output.json_document(&diagnosis)?;
    } else {
        output.data(&summary::diagnosis(&diagnosis))?;
    }
    Ok(match (diagnosis.is_as_asked, is_sound) {
        (false, _) => Exit::CouldNotRun,
        (true, false) => Exit::SomeNotOk,
        (true, true) => Exit::Ok,
    })
}

fn diagnose(args: &DoctorArgs, settings: &Settings, output: &Output) -> Result<Diagnosis, Failure> {
    let request = settings.device(&args.engine.device)?;
    let file = generator::find(generator::model_name(&args.engine)?, settings, output)?;
    // A probe is of one context.
    let asked = LocalSettings { lanes: 1, ..generator::local_settings(&file, &args.engine, settings)? };
    let roofs = roof::load_or_measure(&settings.profiles(), &settings.cpu())?;
    note_others(&settings.cpu(), output);
    let mut local = Local::open(asked.clone())?;
    let speed = measure(&mut local)?;
    let verdict = generator::verdict(request, &local, Some(speed), Some(&roofs));
    let (hello, load, loaded) = (local.hello().clone(), local.load().clone(), local.loaded().clone());
    // One model at a time in memory: the comparisons are with the same file.
    drop(local);
    let control = match (load.type_k.as_str(), load.type_v.as_str()) {
        ("f16", "f16") => None,
        _ => {
            let mut control = asked.clone();
            (control.load.type_k, control.load.type_v) = ("f16".to_owned(), "f16".to_owned());
            Some(measure(&mut Local::open(control)?)?.prefill)
        }
    };
    let on_cpu = match load.devices.is_empty() {
        true => None,
        false => {
            let cpu = LocalSettings { device: DeviceRequest::Cpu, ..asked };
            Some(measure(&mut Local::open(cpu)?)?.prefill)
        }
    };
    let mut diagnosis = Diagnosis {
        model: file.name,
        sha256: file.sha256,
        quantisation: file.gguf.quantisation.clone(),
        engine: hello,
        load,
        loaded,
        prefill_tokens_per_s: speed.prefill,
        decode_tokens_per_s: speed.decode,
        control_tokens_per_s: control,
        cpu_tokens_per_s: on_cpu,
        is_as_asked: proof::is_as_asked(request, &verdict),
        device: verdict,
        cards: nvidia::cards(),
        findings: vec![],
    };
    diagnosis.findings = findings(&diagnosis, request, &nvidia::in_the_machine());
    Ok(diagnosis)
}

fn measure(local: &mut Local) -> Result<Speed, Failure> {
    let room = local.loaded().n_ctx.min(local.loaded().n_ctx_train.max(1));
    let (prefill_tokens, decode_tokens) = (PREFILL_TOKENS.min(room), DECODE_TOKENS.min(room));
    let probe = Probe { prefill_tokens, decode_tokens, sequences: 1, depth: 0, repetitions: REPETITIONS };
    Ok(Speed::of(&local.probe(probe)?, prefill_tokens, decode_tokens))
}

/// What a user has to know, each with its cause: empty when all is as it should be.
fn findings(diagnosis: &Diagnosis, request: DeviceRequest, on_the_bus: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let hello = &diagnosis.engine;
    let has_gpu = hello.devices.iter().any(|d| matches!(d.kind, DeviceKind::Gpu | DeviceKind::IntegratedGpu));
    for file in &hello.backends {
        if let Some(why) = &file.refused {
            found.push(format!("a backend is not used: {}: {why}", file.path.display()));
        }
    }
    // Who asked for the processor has a reason.
    let is_unused = !has_gpu && request != DeviceRequest::Cpu;
    match (diagnosis.cards.first(), on_the_bus.first()) {
        (Some(card), _) if is_unused => found.push(format!(
            "the NVIDIA driver ({}) sees {}, and the engine has no backend for it: `./dev backend cuda` builds one",
            card.driver, card.name
        )),
        (None, Some(address)) if is_unused => found.push(format!(
            "a card of NVIDIA's is in the machine ({address}), and no driver of NVIDIA's is loaded for it"
        )),
        _ => {}
    }
    if !diagnosis.is_as_asked {
        found
            .push(format!("--device {request} was asked for, and the model is on {}", diagnosis.device.used));
    }
    if let Some(control) = diagnosis.control_tokens_per_s
        && diagnosis.prefill_tokens_per_s < CONTROL_SHARE_MIN * control
    {
        found.push(format!(
            "with a cache of {}/{} prefill runs at {:.0} % of an f16 cache's {control:.0} tokens/s: attention is computed elsewhere, or converts the cache each time",
            diagnosis.load.type_k,
            diagnosis.load.type_v,
            100.0 * diagnosis.prefill_tokens_per_s / control
        ));
    }
    if let Some(cpu) = diagnosis.cpu_tokens_per_s
        && diagnosis.prefill_tokens_per_s < ACCELERATOR_RATIO_MIN * cpu
    {
        found.push(format!(
            "prefill on {} is {:.1} times as fast as on the processor, and a card that works is at least {ACCELERATOR_RATIO_MIN} times",
            diagnosis.device.used,
            diagnosis.prefill_tokens_per_s / cpu
        ));
    }
    found
}
