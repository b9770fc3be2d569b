//! `kill -9` at any instant, then a rerun, gives the library of an uninterrupted run.
//!
//! Half of the kills come at a random time, half just after a random stage has begun its k-th piece of work, as
//! the debug log tells it. The same seed makes the same corpus and plans the same kills. Each suite runs over both
//! stores: a library, and a collection of a server (the stand-in, unless `HAUL_TEST_QDRANT` names a real one) whose
//! own faults are mixed in, and of which every named step on a document's way there is hit once more.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::fixtures::{Home, Live, Random, full, ran, text, variable, write_corpus};
use crate::qdrant::Service;

const KILLS: u64 = 10;
const KILLS_FULL: u64 = 100;
/// With a server, beside one at each step.
const SERVER_KILLS: u64 = 4;
const FILES: u64 = 120;
/// Without a seed from outside and without a commit.
const SEED: u64 = 20_260_101;
/// A kill planned for a stage that has begun comes at most this much later.
const LATER_MS_MAX: u64 = 3;
/// Share of kills that must hit a run at work, and one at work in each of these stages, in percent.
const HITS_PERCENT_MIN: u64 = 80;
const STAGE_PERCENT_MIN: u64 = 10;
const STAGES_HIT: [&str; 3] = ["parse", "embed", "commit"];
/// A chain of kills waits this much longer each time, from the start of the process.
const CHAIN_STEP_MS: u64 = 60;
const CHAIN_KILLS: u64 = 12;

/// What every way to the end must lead to.
#[derive(Debug, PartialEq)]
struct End {
    digest: String,
    by_verdict: Value,
}

impl End {
    fn of(home: &Home) -> End {
        let info = home.json(&["store", "info", "--store", "lib.haul"]);
        End { digest: info["digest"].as_str().unwrap().to_owned(), by_verdict: info["by_verdict"].clone() }
    }

    /// Of a collection: its own digest, and the verdicts of its manifest.
    fn of_place(home: &Home, place: &Place) -> End {
        let Place::Server(server) = place else { return End::of(home) };
        let info = home.json(&["store", "info", "--store", &server.store()]);
        assert_eq!(info["foreign_points"], 0, "points that nobody can account for");
        End { digest: info["digest"].as_str().unwrap().to_owned(), ..End::of(home) }
    }
}

/// Where a run puts its points; its library is `lib.haul` either way.
pub(crate) enum Place {
    Library,
    Server(Box<Service>),
}

impl Place {
    fn faults_hit(&self) -> usize {
        match self {
            Place::Library => 0,
            Place::Server(server) => server.faults_hit(),
        }
    }

    fn wait_for_its_end(&mut self) {
        if let Place::Server(server) = self {
            server.wait();
        }
    }

    fn restarted(self) -> Place {
        match self {
            Place::Library => self,
            Place::Server(server) => Place::Server(Box::new(server.restarted(""))),
        }
    }

    fn args(&self) -> Vec<String> {
        match self {
            Place::Library => vec!["--store".to_owned(), "lib.haul".to_owned()],
            Place::Server(server) => {
                vec!["--store".to_owned(), server.store(), "--manifest".to_owned(), "lib.haul".to_owned()]
            }
        }
    }
}

/// When a kill comes.
#[derive(Debug)]
enum Moment {
    /// So long after the first stage has begun.
    At(Duration),
    /// So long after a stage's `count`-th begin.
    Begin { stage: &'static str, count: u64, later: Duration },
    /// When a group of documents has taken this step on its way to a server, for the `count`-th time.
    Step { step: &'static str, count: u64 },
}

/// Steps of documents on their way to a server, in their order.
const STEPS: [&str; 7] = ["staged", "batch", "upserted", "verified", "committed", "swept", "cleaned"];

/// An uninterrupted run: its end, how long it worked, and how often each stage began.
struct Reference {
    corpus: Home,
    end: End,
    worked: Duration,
    begins: BTreeMap<&'static str, u64>,
}

impl Reference {
    fn run(seed: u64) -> Reference {
        let corpus = Home::new();
        write_corpus(&corpus.path("books"), seed, FILES);
        // One input of each kind of bad end: verdicts survive kills too.
        corpus.write("books/broken.epub", "words");
        corpus.write("books/empty.txt", "");
        let mut live = Live::start(&mut ingest(&corpus, &corpus, &Place::Library));
        let mut began = None;
        let mut begins = BTreeMap::new();
        while let Some(line) = live.next() {
            if let Some((stage, Event::Begin)) = event(&line) {
                began.get_or_insert_with(Instant::now);
                *begins.entry(stage).or_default() += 1;
            }
        }
        let worked = began.expect("the log has begins").elapsed();
        assert_eq!(live.finish().code, 1);
        Reference { end: End::of(&corpus), corpus, worked, begins }
    }

    /// A moment for a kill; targeted ones go round the stages, so that none is left out by chance.
    fn moment(&self, number: u64, random: &mut Random) -> Moment {
        if number.is_multiple_of(2) {
            return Moment::At(Duration::from_micros(random.below(self.worked.as_micros() as u64)));
        }
        // Commits are rare and short.
        let stages = ["commit", "parse", "commit", "embed", "chunk"];
        let stage = stages[(number / 2) as usize % stages.len()];
        // Batches differ from run to run: the last begins of this run may not come in the next.
        let count = 1 + random.below((self.begins[stage] * 9 / 10).max(1));
        Moment::Begin { stage, count, later: Duration::from_micros(random.below(1000 * LATER_MS_MAX)) }
    }
}

fn ingest(home: &Home, corpus: &Home, place: &Place) -> std::process::Command {
    let books = corpus.path("books");
    let mut command = home.haul(&["ingest", text(&books), "--model", "tiny", "--threads", "2"]);
    command.args(place.args()).stdout(Stdio::null());
    command
}

#[derive(Clone, Copy, PartialEq)]
enum Event {
    Begin,
    End,
}

/// The step that a line of the log says a group has taken.
fn step(line: &str) -> Option<&'static str> {
    STEPS.into_iter().find(|step| line.contains(&format!("step=\"{step}\"")))
}

/// The stage a line of the log speaks of, and whether it begins or ends a piece of work.
fn event(line: &str) -> Option<(&'static str, Event)> {
    let event = if line.contains(": begin ") {
        Event::Begin
    } else if line.contains(": end ") {
        Event::End
    } else {
        return None;
    };
    let stage = ["parse", "chunk", "embed", "commit"]
        .into_iter()
        .find(|stage| line.contains(&format!("stage=\"{stage}\"")))?;
    Some((stage, event))
}

/// Starts a run, kills it at the moment, and gives the pieces of work that were under way in each stage; none for a
/// run that was not at work.
fn kill_at(
    moment: &Moment,
    home: &Home,
    corpus: &Home,
    place: &Place,
) -> Option<BTreeMap<&'static str, i64>> {
    let mut live = Live::start(&mut ingest(home, corpus, place));
    let mut under_way: BTreeMap<&'static str, i64> = BTreeMap::new();
    let mut begun = 0;
    let note = |line: &str, under_way: &mut BTreeMap<&'static str, i64>| {
        let (stage, event) = event(line)?;
        *under_way.entry(stage).or_default() += if event == Event::Begin { 1 } else { -1 };
        Some((stage, event))
    };
    let mut taken = false;
    while let Some(line) = live.next() {
        if let (Moment::Step { step: wanted, count }, Some(step)) = (moment, step(&line))
            && step == *wanted
        {
            begun += 1;
            taken = begun == *count;
            if taken {
                break;
            }
        }
        let Some((stage, Event::Begin)) = note(&line, &mut under_way) else { continue };
        match moment {
            Moment::At(time) => {
                sleep(*time);
                break;
            }
            Moment::Begin { stage: wanted, count, later } if stage == *wanted => {
                begun += 1;
                if begun == *count {
                    sleep(*later);
                    break;
                }
            }
            Moment::Begin { .. } | Moment::Step { .. } => {}
        }
    }
    live.signal(Signal::KILL);
    let ran = live.finish();
    for line in ran.stderr.lines() {
        note(line, &mut under_way);
    }
    let at_work = ran.code == -1 && (taken || under_way.values().any(|pieces| *pieces > 0));
    at_work.then(|| under_way.into_iter().filter(|(_, pieces)| *pieces > 0).collect())
}

/// Reruns to the end, which must be the reference's.
fn finish(home: &Home, reference: &Reference, place: &Place, story: &str) {
    let ran = ran(&mut ingest(home, &reference.corpus, place), b"");
    assert_eq!(ran.code, 1, "{story}: {ran:#?}");
    assert_eq!(End::of_place(home, place), reference.end, "{story}");
    home.assert_sound();
    if let Place::Server(server) = place {
        let args = ["store", "verify", "--store", &server.store(), "--manifest", "lib.haul"];
        assert_eq!(home.json(&args)["findings"], serde_json::json!([]), "{story}");
        assert_eq!(End::of(home), reference.end, "{story}: the manifest");
    }
}

#[test]
fn a_killed_run_is_finished_by_the_next() {
    let seed = seed();
    println!("HAUL_TEST_SEED={seed}");
    let mut random = Random(seed);
    let reference = Reference::run(seed);
    let kills = if full() { KILLS_FULL } else { KILLS };
    let mut hits = 0;
    let mut by_stage: BTreeMap<&str, u64> = BTreeMap::new();
    for number in 0..kills {
        let moment = reference.moment(number, &mut random);
        let home = Home::new();
        let under_way = kill_at(&moment, &home, &reference.corpus, &Place::Library);
        println!("kill {number}: {moment:?}, under way: {under_way:?}");
        hits += u64::from(under_way.is_some());
        for stage in under_way.iter().flat_map(BTreeMap::keys) {
            *by_stage.entry(stage).or_default() += 1;
        }
        finish(&home, &reference, &Place::Library, &format!("seed {seed}, kill {number} {moment:?}"));
    }
    assert_hits(kills, hits, &by_stage);
}

/// Enough kills hit a run at work, in each of the stages.
#[expect(clippy::print_stdout, reason = "a suite of faults says how many of them hit")]
fn assert_hits(kills: u64, hits: u64, by_stage: &BTreeMap<&str, u64>) {
    println!("{kills} kills: {hits} hit a run at work, by stage {by_stage:?}");
    assert!(hits * 100 >= kills * HITS_PERCENT_MIN, "only {hits} of {kills} kills hit a run at work");
    for stage in STAGES_HIT {
        let hit = by_stage.get(stage).copied().unwrap_or(0);
        assert!(hit * 100 >= kills * STAGE_PERCENT_MIN, "only {hit} of {kills} kills hit {stage}");
    }
}

/// Faults of the server that are mixed in, in turn.
const SERVER_FAULTS: [&str; 6] = [
    "",
    "upsert:*3:refuse,count:*4:refuse",
    "upsert:*4:half",
    "upsert:*3:lost,delete:*2:lost",
    "delete:*3:refuse,upsert:*5:delay=40",
    "upsert:2:exhausted",
];

/// The same with a server: the kills go round the steps too, and every other server has faults of its own. In the
/// end the collection has every point of the uninterrupted run, each once.
#[test]
fn a_killed_run_into_a_server_is_finished_by_the_next() {
    let seed = seed();
    println!("HAUL_TEST_SEED={seed}");
    let mut random = Random(seed ^ 2);
    let reference = Reference::run(seed);
    let kills = if full() { KILLS_FULL } else { SERVER_KILLS };
    let (mut hits, mut faults) = (0, 0);
    let mut by_stage: BTreeMap<&str, u64> = BTreeMap::new();
    let steps = STEPS.into_iter().map(|step| Moment::Step { step, count: 1 + random.below(2) });
    let mut moments: Vec<Moment> = steps.collect();
    for number in 0..kills {
        moments.push(reference.moment(number, &mut random));
    }
    for (number, moment) in moments.iter().enumerate() {
        let place = Service::place(SERVER_FAULTS[number % SERVER_FAULTS.len()]);
        let home = Home::new();
        let under_way = kill_at(moment, &home, &reference.corpus, &place);
        println!("kill {number}: {moment:?}, under way: {under_way:?}");
        hits += u64::from(under_way.is_some());
        for stage in under_way.iter().flat_map(BTreeMap::keys) {
            *by_stage.entry(stage).or_default() += 1;
        }
        let story = format!("seed {seed}, kill {number} {moment:?}");
        if let Moment::Step { .. } = moment {
            assert!(under_way.is_some(), "{story}: no run was at that step");
        }
        finish(&home, &reference, &place, &story);
        faults += place.faults_hit();
    }
    println!("{faults} faults of the server hit");
    assert!(Service::is_real() || faults > 0, "no fault of the server hit");
    assert_hits(kills, hits - STEPS.len() as u64, &by_stage);
}

/// A push of a library to a server is killed at every named step (two of them in the small form), and the next push makes
/// the collection whole.
#[test]
fn a_killed_push_is_finished_by_the_next() {
    let reference = Reference::run(seed());
    let home = &reference.corpus;
    let steps = if full() { &STEPS[..] } else { &["batch", "committed"] };
    for (number, &wanted) in steps.iter().enumerate() {
        let place = Service::place(SERVER_FAULTS[number % SERVER_FAULTS.len()]);
        let Place::Server(server) = &place else { unreachable!("a place of a server") };
        let push = || home.haul(&["store", "push", "--store", "lib.haul", "--to", &server.store()]);
        let mut live = Live::start(push().stdout(Stdio::null()));
        while live.next().is_some_and(|line| step(&line) != Some(wanted)) {}
        live.signal(Signal::KILL);
        assert_eq!(live.finish().code, -1, "{wanted}: no push was at that step");
        let pushed = ran(&mut push(), b"");
        assert_eq!(pushed.code, 0, "{wanted}: {pushed:#?}");
        assert_eq!(End::of_place(home, &place), reference.end, "{wanted}");
    }
}

/// The server dies by `kill -9` while a run sends to it, and comes back with what it had confirmed: the run waits and
/// goes on, and nothing is there twice. At full size it is away for a minute once.
#[test]
fn a_server_that_is_killed_is_waited_for() {
    let reference = Reference::run(seed());
    let long = if full() { Duration::from_secs(60) } else { Duration::from_millis(300) };
    let short = Duration::from_millis(300);
    for (faults, away) in [("upsert:2:halfdie", long), ("count:2:die", short), ("delete:1:die", short)] {
        let home = Home::new();
        let mut place = Service::standin(faults);
        let mut run = ingest(&home, &reference.corpus, &place).stderr(Stdio::null()).spawn().unwrap();
        place.wait_for_its_end();
        sleep(away);
        place = place.restarted();
        assert_eq!(run.wait().unwrap().code(), Some(1), "{faults}");
        assert_eq!(End::of_place(&home, &place), reference.end, "{faults}");
    }
}

/// Kills from the first milliseconds on, when the library is being made, each a little later than the last.
#[test]
fn a_run_killed_again_and_again_comes_to_its_end() {
    let seed = seed();
    println!("HAUL_TEST_SEED={seed}");
    let mut random = Random(seed ^ 1);
    let reference = Reference::run(seed);
    let home = Home::new();
    let mut alive = 0;
    for number in 1..=CHAIN_KILLS {
        let patience = Duration::from_millis(CHAIN_STEP_MS * number / 2 + random.below(CHAIN_STEP_MS));
        let mut child =
            ingest(&home, &reference.corpus, &Place::Library).stderr(Stdio::null()).spawn().unwrap();
        sleep(patience);
        child.kill().unwrap();
        alive += u64::from(child.wait().unwrap().code().is_none());
    }
    println!("a chain of {CHAIN_KILLS} kills: {alive} hit a live run");
    assert!(
        alive * 100 >= CHAIN_KILLS * HITS_PERCENT_MIN,
        "only {alive} of {CHAIN_KILLS} kills hit a live run"
    );
    finish(&home, &reference, &Place::Library, &format!("seed {seed}, a chain"));
}

/// HAUL_TEST_SEED, else drawn from the commit, so that every commit tries other kills.
pub(crate) fn seed() -> u64 {
    if let Some(seed) = variable("HAUL_TEST_SEED") {
        return seed.parse().expect("HAUL_TEST_SEED is a number");
    }
    let commit = std::process::Command::new("git").args(["rev-parse", "HEAD"]).output();
    let commit = commit.ok().filter(|output| output.status.success());
    let digits =
        commit.and_then(|output| String::from_utf8(output.stdout).ok()?.get(..15).map(str::to_owned));
    digits.and_then(|digits| u64::from_str_radix(&digits, 16).ok()).unwrap_or(SEED)
}
