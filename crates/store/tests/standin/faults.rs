//! What goes wrong at which call.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// Nothing is done; `UNAVAILABLE`.
    Refuse,
    /// Nothing is done; `RESOURCE_EXHAUSTED`, to be tried again after a second.
    Exhausted,
    /// Half of the points are taken; then `INTERNAL`.
    Half,
    /// Everything is done and confirmed by nothing: the answer is lost.
    Lost,
    /// Everything is done, later.
    Delay(Duration),
    /// Half of the points are taken; then the process is gone.
    HalfDie,
    /// The process is gone at once.
    Die,
}

/// Calls counted by kind, and the faults among them.
pub(crate) struct Faults {
    planned: HashMap<(String, u64), Fault>,
    counted: Mutex<HashMap<String, u64>>,
}

impl Faults {
    /// `KIND:NUMBER:FAULT,...`; `KIND:*N:FAULT` is every N-th call.
    pub(crate) fn parse(text: &str) -> Faults {
        let mut planned = HashMap::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let fields: Vec<&str> = part.split(':').collect();
            let [kind, number, fault] = fields[..] else { panic!("{part:?} is no fault") };
            let fault = match fault.split_once('=') {
                Some(("delay", ms)) => Fault::Delay(Duration::from_millis(ms.parse().unwrap())),
                _ => match fault {
                    "refuse" => Fault::Refuse,
                    "exhausted" => Fault::Exhausted,
                    "half" => Fault::Half,
                    "lost" => Fault::Lost,
                    "halfdie" => Fault::HalfDie,
                    "die" => Fault::Die,
                    other => panic!("{other:?} is no fault"),
                },
            };
            match number.strip_prefix('*') {
                Some(every) => {
                    let every: u64 = every.parse().unwrap();
                    for number in (every..100 * every).step_by(every as usize) {
                        planned.insert((kind.to_owned(), number), fault);
                    }
                }
                None => {
                    planned.insert((kind.to_owned(), number.parse().unwrap()), fault);
                }
            }
        }
        Faults { planned, counted: Mutex::new(HashMap::new()) }
    }

    /// Counts a call and says what goes wrong with it.
    pub(crate) fn next(&self, kind: &str) -> Option<Fault> {
        let mut counted = self.counted.lock().unwrap();
        let number = counted.entry(kind.to_owned()).or_default();
        *number += 1;
        let fault = self.planned.get(&(kind.to_owned(), *number)).copied();
        if let Some(fault) = fault {
            println!("fault {kind} {number} {fault:?}");
        }
        fault
    }
}
