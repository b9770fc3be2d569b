//! `haul doctor`: what this machine is and can do, from measurement.

use haul_machine::{memory, roof};
use serde_json::json;

use crate::Exit;
use crate::cli::DoctorArgs;
use crate::commands::Machine;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;
use crate::summary;

/// Runs the command.
pub(crate) fn run(args: &DoctorArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let request = settings.device(&args.device)?;
    let cpu = settings.cpu();
    let verdict = haul_machine::verdict::resolve(request, &cpu)?;
    let machine = Machine { cpu, verdict };
    let memory = memory::probe().map_err(|error| Failure::new(error.to_string()))?;
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
