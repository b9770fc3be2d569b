//! Resource limits of the worker process, and what its exit status says, on Unix.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process_group, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::limits::Limits;
use crate::verdict::{ParseFailure, Verdict};

/// What the Rust runtime prints when an allocation fails and when a stack overflows.
const OUT_OF_MEMORY: &str = "memory allocation of";
const STACK_OVERFLOW: &str = "has overflowed its stack";

/// Limits this process for good: no core dump, no bytes written to files.
pub(crate) fn limit_process() -> io::Result<()> {
    lower(Resource::Core, 0)?;
    lower(Resource::Fsize, 0)
}

/// Limits the address space of this process until the next file.
pub(crate) fn limit_memory(bytes: u64) -> io::Result<()> {
    let maximum = getrlimit(Resource::As).maximum;
    let current = maximum.map_or(bytes, |maximum| maximum.min(bytes));
    Ok(setrlimit(Resource::As, Rlimit { current: Some(current), maximum })?)
}

/// Lets this process use `seconds` more of CPU time; the system kills it when they are over.
pub(crate) fn limit_cpu(seconds: u64) -> io::Result<()> {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    // The system counts whole seconds; one more makes up for the one that has begun.
    let until = used.tv_sec as u64 + 1 + seconds;
    let maximum = getrlimit(Resource::Cpu).maximum;
    let current = maximum.map_or(until, |maximum| maximum.min(until));
    Ok(setrlimit(Resource::Cpu, Rlimit { current: Some(current), maximum })?)
}

/// A limit already in force that is lower stays.
fn lower(resource: Resource, limit: u64) -> io::Result<()> {
    let limit = getrlimit(resource).maximum.map_or(limit, |maximum| maximum.min(limit));
    Ok(setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?)
}

/// Puts the worker in a process group of its own: Ctrl-C on the terminal is for the program, which then ends
/// its workers, and must not read as a crash of the file in work.
pub(crate) fn detach_from_terminal(command: &mut Command) {
    command.process_group(0);
}

/// Ends a worker and the programs that it runs: its group is its own.
pub(crate) fn kill_group(child: &mut Child) -> io::Result<()> {
    match kill_process_group(Pid::from_child(child), Signal::KILL) {
        // It has ended already, or has not yet made the group.
        Err(_) => child.kill(),
        Ok(()) => Ok(()),
    }
}

/// Why a worker ended in the middle of a file.
pub(crate) fn cause_of_death(status: ExitStatus, stderr: &str, limits: &Limits) -> ParseFailure {
    if stderr.contains(OUT_OF_MEMORY) {
        let why = format!("the parser needs more than {} bytes of memory", limits.memory_bytes);
        return ParseFailure::new(Verdict::TooLarge, why);
    }
    let last_line = stderr.lines().rev().find(|line| !line.trim().is_empty());
    let last_line = last_line.map(|line| format!(": {}", line.trim())).unwrap_or_default();
    let Some(signal) = status.signal() else {
        return ParseFailure::new(Verdict::Failed, format!("the worker ended with {status}{last_line}"));
    };
    if signal == Signal::XCPU.as_raw() {
        let why = format!("more than {} s of CPU time (SIGXCPU)", limits.cpu_seconds);
        return ParseFailure::new(Verdict::Timeout, why);
    }
    if stderr.contains(STACK_OVERFLOW) {
        let why = format!("the parser overflowed its stack ({status})");
        return ParseFailure::new(Verdict::Failed, why);
    }
    ParseFailure::new(Verdict::Failed, format!("the worker was killed by {status}{last_line}"))
}
