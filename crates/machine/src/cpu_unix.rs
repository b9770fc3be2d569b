//! The processor's name and how busy it is, from `/proc`.

use std::time::Duration;

/// `None` where there is no such file or line: other systems, other architectures.
pub(crate) fn model_name() -> Option<String> {
    parse_model_name(&std::fs::read_to_string("/proc/cpuinfo").ok()?)
}

fn parse_model_name(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    let name = line.split_once(':')?.1.split_whitespace().collect::<Vec<_>>().join(" ");
    (!name.is_empty()).then_some(name)
}

/// Cores' worth of work that the cores of this process did meanwhile; it sleeps, so it is others'. `None` where there are
/// no such files.
pub(crate) fn busy_cores(meanwhile: Duration) -> Option<f64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let usable = parse_usable(&read("/proc/self/status")?)?;
    let before = parse_times(&read("/proc/stat")?, &usable)?;
    std::thread::sleep(meanwhile);
    let after = parse_times(&read("/proc/stat")?, &usable)?;
    let (busy, all) = (after.busy.checked_sub(before.busy)?, after.all.checked_sub(before.all)?);
    #[expect(clippy::cast_precision_loss, reason = "ticks of a moment")]
    let share = busy as f64 / all.max(1) as f64;
    #[expect(clippy::cast_precision_loss, reason = "cores")]
    let cores = usable.len() as f64;
    Some(share * cores)
}

/// Ticks of some processors since the system started.
#[derive(Debug, PartialEq, Eq)]
struct Times {
    busy: u64,
    all: u64,
}

/// `Cpus_allowed_list: 0-3,8`.
fn parse_usable(status: &str) -> Option<Vec<u32>> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut usable = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        usable.extend(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?);
    }
    Some(usable)
}

/// `cpu3 user nice system idle iowait irq softirq steal guest guest_nice`: what is neither idle nor waiting is busy, and
/// guests are in user and nice already.
fn parse_times(stat: &str, usable: &[u32]) -> Option<Times> {
    let mut times = Times { busy: 0, all: 0 };
    for line in stat.lines().filter_map(|line| line.strip_prefix("cpu")) {
        let mut words = line.split(' ');
        let Some(Ok(number)) = words.next().map(str::parse::<u32>) else { continue };
        if !usable.contains(&number) {
            continue;
        }
        let ticks: Vec<u64> = words.take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
        let all: u64 = ticks.iter().sum();
        times.all += all;
        times.busy += all - ticks.get(3)? - ticks.get(4)?;
    }
    (times.all > 0).then_some(times)
}

#[cfg(test)]
mod tests {
    use std::hint::spin_loop;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::{Times, busy_cores, parse_model_name, parse_times, parse_usable};

    #[test]
    fn only_processors_of_this_process_count() {
        let usable = parse_usable("Name:\tx\nCpus_allowed_list:\t1,4-5\n").unwrap();
        assert_eq!(usable, [1, 4, 5]);
        let stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 9 9 9 9 9 9 9 9 0 0\ncpu1 1 2 3 40 5 6 7 8 1 2\ncpu5 1 0 0 9 0 0 0 0 0 0\nintr 5\n";
        assert_eq!(parse_times(stat, &usable), Some(Times { busy: 28, all: 82 }));
        assert_eq!(parse_times("cpu1 1 2\n", &usable), None);
        assert_eq!(parse_times("cpu0 1 2 3 4 5\n", &usable), None);
        assert_eq!(parse_usable("Cpus_allowed_list:\tx\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_that_spins_is_seen() {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    spin_loop();
                }
            });
            let busy = busy_cores(Duration::from_millis(300)).unwrap();
            is_over.store(true, Ordering::Relaxed);
            assert!(busy > 0.5, "{busy}");
        });
    }

    #[test]
    fn the_first_named_processor_counts() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD  EPYC 9655 \nmodel name\t: other\n";
        assert_eq!(parse_model_name(cpuinfo).as_deref(), Some("AMD EPYC 9655"));
        assert_eq!(parse_model_name("processor\t: 0\nBogoMIPS\t: 50\n"), None);
        assert_eq!(parse_model_name("model name\t:  \n"), None);
    }
}
