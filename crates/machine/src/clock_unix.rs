//! The host's name, from `uname`.

/// The name of this host as the kernel knows it.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Processor time of all threads of this process so far.
pub fn process_cpu_seconds() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    std::time::Duration::new(used.tv_sec.unsigned_abs(), u32::try_from(used.tv_nsec).unwrap_or(0))
        .as_secs_f64()
}

/// Processor time of the child processes that have ended and been waited for; `None` where the system does not tell.
pub fn ended_children_cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program, in parentheses, may hold anything; cutime and cstime are fields 16 and 17 (proc(5)).
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(13)?.parse::<u64>().ok()? + fields.get(14)?.parse::<u64>().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Seconds that all cores together were at work for anybody, time taken by a hypervisor included, and seconds that
/// they could have been; `None` where the system does not tell.
pub fn all_cores_seconds() -> Option<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    // user nice system idle iowait irq softirq steal (proc(5)); guests are counted in user.
    let fields: Vec<f64> =
        stat.lines().next()?.split_whitespace().skip(1).take(8).filter_map(|n| n.parse().ok()).collect();
    let all: f64 = fields.iter().sum();
    let idle = fields.get(3)? + fields.get(4)?;
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Some(((all - idle) / per_second, all / per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_this_process_and_of_its_children_is_counted() {
        let before = (process_cpu_seconds(), ended_children_cpu_seconds().unwrap());
        let sum = (0..20_000_000_u64).fold(0, |sum, n| std::hint::black_box(sum ^ n));
        assert!(process_cpu_seconds() > before.0, "{sum}");
        let spin = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        assert!(std::process::Command::new("sh").args(["-c", spin]).status().unwrap().success());
        assert!(ended_children_cpu_seconds().unwrap() > before.1);
        let (busy, all) = all_cores_seconds().unwrap();
        assert!(busy > 0.0 && busy <= all, "{busy} of {all}");
    }
}
