//! Stages: bounded channels between threads, and the time each thread spends busy, starved or blocked.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use serde::{Deserialize, Serialize};

/// A bounded channel of `capacity` items; every queue between stages is one of these.
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    crossbeam_channel::bounded(capacity)
}

/// The clocks of all stages of one run.
pub struct Stages {
    started: Instant,
    stages: Mutex<Vec<Arc<StageClock>>>,
}

impl Stages {
    /// Starts the run's wall clock.
    #[must_use]
    pub fn start() -> Self {
        Self { started: Instant::now(), stages: Mutex::new(Vec::new()) }
    }

    /// A meter for one more thread of the stage `name`; its clock starts now and stops when it is dropped.
    ///
    /// Stages are listed in the order in which their first meter was made.
    pub fn meter(&self, name: &'static str) -> Meter {
        let mut stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        let clock = if let Some(clock) = stages.iter().find(|clock| clock.name == name) {
            Arc::clone(clock)
        } else {
            let clock = Arc::new(StageClock::new(name));
            stages.push(Arc::clone(&clock));
            clock
        };
        clock.threads.fetch_add(1, Ordering::Relaxed);
        // A thread that joins late was not there to work: that time counts as starved.
        clock.starved_ns.fetch_add(nanoseconds(self.started.elapsed()), Ordering::Relaxed);
        Meter { clock, run_started: self.started, since: Instant::now(), mode: Mode::Busy }
    }

    /// Seconds since the run started.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// What every stage did. For each, `busy + starved + blocked` is `threads x wall` of the run, where the
    /// time between the end of a thread and this call counts as starved.
    pub fn accounts(&self) -> Vec<StageAccount> {
        let wall_ns = nanoseconds(self.started.elapsed());
        let stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        stages.iter().map(|clock| clock.account(wall_ns)).collect()
    }
}

/// How one stage spent its time; a row of the receipt.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct StageAccount {
    /// The stage's name: parse, chunk, embed, commit ...
    pub name: String,
    /// Threads that ever worked in it.
    pub threads: u64,
    /// Seconds of work, summed over threads.
    pub busy_s: f64,
    /// Seconds without input, summed over threads.
    pub starved_s: f64,
    /// Seconds in which the next stage took nothing, summed over threads.
    pub blocked_s: f64,
    /// Items finished.
    pub items: u64,
}

struct StageClock {
    name: &'static str,
    threads: AtomicU64,
    busy_ns: AtomicU64,
    starved_ns: AtomicU64,
    blocked_ns: AtomicU64,
    items: AtomicU64,
    /// Sum over finished threads of the moment they ended, since the start of the run.
    ended_ns: AtomicU64,
    ended_threads: AtomicU64,
}

impl StageClock {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            threads: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
            starved_ns: AtomicU64::new(0),
            blocked_ns: AtomicU64::new(0),
            items: AtomicU64::new(0),
            ended_ns: AtomicU64::new(0),
            ended_threads: AtomicU64::new(0),
        }
    }

    fn account(&self, wall_ns: u64) -> StageAccount {
        let ended = self.ended_threads.load(Ordering::Relaxed) * wall_ns;
        let after_end_ns = ended.saturating_sub(self.ended_ns.load(Ordering::Relaxed));
        StageAccount {
            name: self.name.to_owned(),
            threads: self.threads.load(Ordering::Relaxed),
            busy_s: seconds(self.busy_ns.load(Ordering::Relaxed)),
            starved_s: seconds(self.starved_ns.load(Ordering::Relaxed) + after_end_ns),
            blocked_s: seconds(self.blocked_ns.load(Ordering::Relaxed)),
            items: self.items.load(Ordering::Relaxed),
        }
    }
}

/// The next stage is gone: its threads have ended and nothing sent would be read.
#[derive(Debug, thiserror::Error)]
#[error("the next stage has ended")]
pub struct Disconnected;

/// One thread's clock. Time is busy unless it is spent inside [`Meter::receive`], [`Meter::send`],
/// [`Meter::starved`] or [`Meter::blocked`].
pub struct Meter {
    clock: Arc<StageClock>,
    run_started: Instant,
    since: Instant,
    mode: Mode,
}

#[derive(Clone, Copy)]
enum Mode {
    Busy,
    Starved,
    Blocked,
}

impl Meter {
    /// The next item, or `None` when all senders are gone. Waiting counts as starved.
    pub fn receive<T>(&mut self, channel: &Receiver<T>) -> Option<T> {
        self.starved(|| channel.recv().ok())
    }

    /// Hands an item on. Waiting for room counts as blocked.
    ///
    /// # Errors
    /// [`Disconnected`] when no receiver is left.
    pub fn send<T>(&mut self, channel: &Sender<T>, item: T) -> Result<(), Disconnected> {
        self.blocked(|| channel.send(item).map_err(|_| Disconnected))
    }

    /// Runs `wait` and counts its time as starved of input.
    pub fn starved<T>(&mut self, wait: impl FnOnce() -> T) -> T {
        self.during(Mode::Starved, wait)
    }

    /// Runs `wait` and counts its time as blocked by the next stage.
    pub fn blocked<T>(&mut self, wait: impl FnOnce() -> T) -> T {
        self.during(Mode::Blocked, wait)
    }

    /// Counts `items` as finished by this stage.
    pub fn finished(&self, items: u64) {
        self.clock.items.fetch_add(items, Ordering::Relaxed);
    }

    fn during<T>(&mut self, mode: Mode, wait: impl FnOnce() -> T) -> T {
        self.switch(mode);
        let result = wait();
        self.switch(Mode::Busy);
        result
    }

    fn switch(&mut self, next: Mode) {
        let now = Instant::now();
        let spent_ns = nanoseconds(now - self.since);
        let counter = match self.mode {
            Mode::Busy => &self.clock.busy_ns,
            Mode::Starved => &self.clock.starved_ns,
            Mode::Blocked => &self.clock.blocked_ns,
        };
        counter.fetch_add(spent_ns, Ordering::Relaxed);
        self.since = now;
        self.mode = next;
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.switch(Mode::Busy);
        let end_ns = nanoseconds(self.since - self.run_started);
        self.clock.ended_ns.fetch_add(end_ns, Ordering::Relaxed);
        self.clock.ended_threads.fetch_add(1, Ordering::Relaxed);
    }
}

/// A request to stop: set by a signal or by a stage that failed, polled by every source.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// A request around a flag that something else (a signal handler) may set.
    #[must_use]
    pub fn from_flag(flag: Arc<AtomicBool>) -> Self {
        Self(flag)
    }

    /// The flag itself, for what waits in a library that knows nothing of stages.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Asks all stages to finish what they hold and end.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether a stop was asked for.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn seconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::{scope, sleep};

    const STEP: Duration = Duration::from_millis(20);
    const ITEMS: u32 = 10;

    /// A fast source, a slow middle and a fast sink: the source must be blocked, the sink starved, the
    /// middle busy, and each row must add up to threads x wall.
    #[test]
    fn accounts_add_up_and_name_the_slow_stage() {
        let stages = Stages::start();
        let (to_middle, from_source) = channel(1);
        let (to_sink, from_middle) = channel(1);
        scope(|scope| {
            let mut source = stages.meter("source");
            scope.spawn(move || (0..ITEMS).all(|n| source.send(&to_middle, n).is_ok()));
            for mut middle in [stages.meter("middle"), stages.meter("middle")] {
                let (receive, send) = (from_source.clone(), to_sink.clone());
                scope.spawn(move || {
                    while let Some(n) = middle.receive(&receive) {
                        sleep(STEP);
                        middle.finished(1);
                        middle.send(&send, n).expect("the sink is there");
                    }
                });
            }
            drop((from_source, to_sink));
            let mut sink = stages.meter("sink");
            scope.spawn(move || while sink.receive(&from_middle).is_some() {});
        });
        let wall = stages.elapsed().as_secs_f64();
        let accounts = stages.accounts();
        for account in &accounts {
            let total = account.busy_s + account.starved_s + account.blocked_s;
            #[expect(clippy::cast_precision_loss, reason = "a handful of threads")]
            let expected = account.threads as f64 * wall;
            assert!((total / expected - 1.0).abs() < 0.02, "{account:?} against {expected} s");
        }
        let worked = f64::from(ITEMS) * STEP.as_secs_f64();
        assert!(accounts[1].busy_s >= worked && accounts[1].items == u64::from(ITEMS), "{:?}", accounts[1]);
        assert!(accounts[0].blocked_s > accounts[0].busy_s, "{:?}", accounts[0]);
        assert!(accounts[2].starved_s > accounts[2].busy_s, "{:?}", accounts[2]);
    }

    #[test]
    fn sending_to_nobody_is_an_error() {
        let stages = Stages::start();
        let (send, receive) = channel::<u32>(1);
        drop(receive);
        assert!(stages.meter("source").send(&send, 1).is_err());
    }
}
