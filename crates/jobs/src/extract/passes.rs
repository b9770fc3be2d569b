//! The passes over the windows of a company: which (window, entity, group) is asked when, and what came of it.
//!
//! A wave takes the next windows of every group's ranking; first those of the retrieval pass, then twice as many each
//! time. In a wave, one question for each window and entity asks which groups are there at all, and then the fields of
//! those groups are asked for that are not settled. An entity is asked about in the windows that name it or speak of it.
//! A window that speaks of none is asked about once: what it states is stated of all.

use std::collections::BTreeMap;
use std::time::Instant;

use super::ExtractError;
use super::ask::{OUT_OF_TIME, Parts, Reply, Stage, Tally, ask};
use super::caps::Caps;
use super::evidence::{self, place};
use super::mentions::Mentions;
use super::merge::{Answers, Candidate, is_of_type};
use super::reading::Reading;
use super::record::{Cells, Tie};
use super::reply::{self, Reader, Said, Stated, Unreadable};
use super::schema::{Field, Group, Question, Subject};

/// Windows of a field's own ranking that the deep pass asks.
const DEEP_WINDOWS: usize = 2;

/// An answer that was cut at its limit is asked for again in two halves of its fields, and those likewise.
const SPLITS_MAX: usize = 4;

/// What became of a window for an entity and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    Capped,
    OutOfTime,
    Settled,
    Absent,
    Read,
    Failed,
}

/// What is known of a company's entities so far.
pub struct Passes<'a> {
    reading: &'a Reading<'a>,
    caps: &'a Caps,
    subjects: &'a [Subject],
    mentions: Mentions,
    names_entities: bool,
    /// Fields of all groups, in the schema's order, with the group's number.
    fields: Vec<(usize, &'a Field)>,
    /// By entity and field.
    answers: Vec<Vec<Answers>>,
    /// By entity, group and window.
    cells: Vec<Vec<Vec<Cell>>>,
    /// The groups that a window has for an entity, as the model says.
    present: BTreeMap<(usize, usize), Vec<bool>>,
    /// Why questions have no answer, with how often.
    failures: BTreeMap<String, usize>,
    /// Whether time ended a pass.
    out_of_time: bool,
    /// Fields that time left unasked when they were to be asked for by themselves, by entity.
    deep_left: Vec<usize>,
    /// What is being asked.
    stage: Stage,
}

/// Groups and windows of a wave: the first window of every group, then the second of every group, and so on.
fn in_turns<'w>(wave: &'w [&[usize]]) -> impl Iterator<Item = (usize, usize)> + 'w {
    let longest = wave.iter().map(|windows| windows.len()).max().unwrap_or(0);
    (0..longest).flat_map(move |place| {
        wave.iter().enumerate().filter_map(move |(group, windows)| Some((group, *windows.get(place)?)))
    })
}

/// Whether an answer ended at its limit, and not with its last brace.
fn is_cut(reply: &Reply) -> bool {
    match reply {
        Reply::Answer(answer) => matches!(reply::object(answer), Err(Unreadable::Cut { .. })),
        Reply::Failed(_) | Reply::NotAsked => false,
    }
}

/// Which windows are asked together, and which of them are next.
pub struct Waves {
    /// Windows of every group, the best ones first.
    rankings: Vec<Vec<usize>>,
    /// Places in the rankings where the next wave begins and ends.
    start: usize,
    end: usize,
    /// Places that are asked at all.
    count: usize,
    until: Option<Instant>,
}

/// What is asked of a window: fields of a group, for an entity.
struct Wanted<'a> {
    window: usize,
    entity: usize,
    group: usize,
    fields: Vec<&'a Field>,
}

impl<'a> Passes<'a> {
    /// Nothing is asked yet.
    #[must_use]
    pub fn new(
        reading: &'a Reading<'a>,
        caps: &'a Caps,
        subjects: &'a [Subject],
        is_company: bool,
    ) -> Passes<'a> {
        let schema = reading.schema;
        let names: Vec<String> = match is_company {
            // A company that stands for an entity is not what its sentences have to name.
            true => vec![],
            false => subjects.iter().map(|subject| subject.name.clone()).collect(),
        };
        let fields: Vec<(usize, &Field)> = schema
            .groups
            .iter()
            .enumerate()
            .flat_map(|(number, group)| group.fields.iter().map(move |field| (number, field)))
            .collect();
        let windows = reading.windows.len();
        Passes {
            mentions: Mentions::of(&reading.company, &names, schema),
            answers: vec![vec![Answers::default(); fields.len()]; subjects.len()],
            cells: vec![vec![vec![Cell::Capped; windows]; schema.groups.len()]; subjects.len()],
            names_entities: !is_company,
            present: BTreeMap::new(),
            failures: BTreeMap::new(),
            out_of_time: false,
            deep_left: vec![0; subjects.len()],
            stage: Stage::Fields,
            reading,
            caps,
            subjects,
            fields,
        }
    }

    /// The waves that are ahead; `until` is when their time is over.
    #[must_use]
    pub fn waves(&self, until: Option<Instant>) -> Waves {
        let schema = self.reading.schema;
        let count = self.caps.windows_of_group(self.reading.windows.len());
        let end = match (until, self.caps.early_stop) {
            // The best window of every group before the second one of any.
            (Some(_), _) => 1,
            (None, true) => self.caps.group_windows.max(1),
            (None, false) => count,
        };
        let rankings = schema.groups.iter().map(|group| self.reading.ranked(&group.fields)).collect();
        Waves { rankings, start: 0, end, count, until }
    }

    /// Asks the next wave; false behind the last one.
    ///
    /// # Errors
    /// The generator or the journal as a whole.
    pub fn wave(
        &mut self,
        waves: &mut Waves,
        tally: &mut Tally,
        parts: &mut Parts<'_>,
    ) -> Result<bool, ExtractError> {
        let Waves { rankings, start, end, count, until } = waves;
        if *start >= *count || self.out_of_time {
            return Ok(false);
        }
        let wave: Vec<&[usize]> = rankings.iter().map(|ranking| &ranking[*start..*count.min(end)]).collect();
        let is_first = *start < self.caps.group_windows.max(1);
        tally.stage = if is_first { Stage::Present } else { Stage::SectionsPresent };
        self.gate(&wave, *until, tally, parts)?;
        let wanted = self.wanted(&wave);
        self.stage = if is_first { Stage::Fields } else { Stage::SectionsFields };
        tally.stage = self.stage;
        self.ask_fields(&wanted, *until, tally, parts)?;
        (*start, *end) = (*end, end.saturating_mul(2));
        if self.out_of_time {
            self.mark_unasked(rankings, *count);
        }
        Ok(true)
    }

    /// What a cap would have let through and time did not.
    fn mark_unasked(&mut self, rankings: &[Vec<usize>], count: usize) {
        for cells in &mut self.cells {
            for (windows, ranking) in cells.iter_mut().zip(rankings) {
                for window in &ranking[..count] {
                    if windows[*window] == Cell::Capped {
                        windows[*window] = Cell::OutOfTime;
                    }
                }
            }
        }
    }

    /// The entities that a window is asked about.
    fn asked_about(&self, window: usize) -> Vec<usize> {
        let all = 0..self.subjects.len();
        if !self.caps.early_stop {
            return all.collect();
        }
        let sentences = &self.reading.windows[window].sentences;
        let tied: Vec<usize> = all.filter(|entity| self.mentions.holds(sentences.clone(), *entity)).collect();
        if tied.is_empty() { vec![0] } else { tied }
    }

    /// Fields of a group that are not known yet and may be in a window: what it says of no entity is said of all.
    fn open(&self, window: usize, entity: usize, group: usize) -> Vec<&'a Field> {
        let sentences = self.reading.windows[window].sentences.clone();
        let entities = match self.mentions.holds(sentences, entity) || !self.caps.early_stop {
            true => entity..entity + 1,
            false => 0..self.subjects.len(),
        };
        let is_settled = |entity: usize, number: usize| {
            self.caps.early_stop && self.answers[entity][number].candidates.iter().any(Candidate::is_settled)
        };
        let is_open = |number: usize| entities.clone().any(|entity| !is_settled(entity, number));
        let of_group = self.fields.iter().enumerate().filter(|(_, (of, _))| *of == group);
        of_group.filter(|(number, _)| is_open(*number)).map(|(_, (_, field))| *field).collect()
    }

    /// Asks which groups are there, once for each window and entity of the wave.
    fn gate(
        &mut self,
        wave: &[&[usize]],
        until: Option<Instant>,
        tally: &mut Tally,
        parts: &mut Parts<'_>,
    ) -> Result<(), ExtractError> {
        if !self.caps.early_stop {
            return Ok(());
        }
        let groups: Vec<&Group> = self.reading.schema.groups.iter().collect();
        let mut pairs: Vec<(usize, usize)> = Vec::new();
        for (group, window) in in_turns(wave) {
            for entity in self.asked_about(window) {
                let pair = (window, entity);
                let is_new = !self.present.contains_key(&pair) && !pairs.contains(&pair);
                if is_new && !self.open(window, entity, group).is_empty() {
                    pairs.push(pair);
                }
            }
        }
        let questions: Vec<(usize, Question<'_>)> = pairs
            .iter()
            .map(|(window, entity)| {
                (*window, Question::Present { subject: &self.subjects[*entity], groups: &groups })
            })
            .collect();
        let replies = ask(self.reading, &questions, until, tally, parts)?;
        for (pair, reply) in pairs.into_iter().zip(replies) {
            // Where nobody knows, the fields are asked for.
            let named = match &reply {
                Reply::Answer(answer) => reply::present(answer).ok(),
                Reply::Failed(_) => None,
                Reply::NotAsked => {
                    self.out_of_time = true;
                    continue;
                }
            };
            let is_there = |group: &&Group| named.as_ref().is_none_or(|named| named.contains(&group.name));
            self.present.insert(pair, groups.iter().map(is_there).collect());
        }
        Ok(())
    }

    /// What is to be asked in a wave; the cells of what is not are set.
    fn wanted(&mut self, wave: &[&[usize]]) -> Vec<Wanted<'a>> {
        let mut wanted = Vec::new();
        for (group, window) in in_turns(wave) {
            let about = self.asked_about(window);
            for entity in &about {
                let fields = self.open(window, *entity, group);
                let present = self.present.get(&(window, *entity)).map(|groups| groups[group]);
                let cell = match (fields.is_empty(), present) {
                    (true, _) => Cell::Settled,
                    (_, Some(false)) => Cell::Absent,
                    (_, None) if self.caps.early_stop => Cell::OutOfTime,
                    _ => {
                        wanted.push(Wanted { window, entity: *entity, group, fields });
                        Cell::Capped
                    }
                };
                self.set(*entity, group, window, &about, cell);
            }
        }
        wanted
    }

    /// What was asked about one entity stands for those that the window does not speak of.
    fn set(&mut self, entity: usize, group: usize, window: usize, about: &[usize], cell: Cell) {
        self.cells[entity][group][window] = cell;
        if about.first() == Some(&entity) {
            for other in 0..self.subjects.len() {
                if !about.contains(&other) {
                    self.cells[other][group][window] = cell;
                }
            }
        }
    }

    fn ask_fields(
        &mut self,
        wanted: &[Wanted<'a>],
        until: Option<Instant>,
        tally: &mut Tally,
        parts: &mut Parts<'_>,
    ) -> Result<(), ExtractError> {
        let schema = self.reading.schema;
        let mut of: Vec<(usize, &[&Field])> = Vec::new();
        for (number, wanted) in wanted.iter().enumerate() {
            of.extend(schema.questions(&wanted.fields).map(|fields| (number, fields)));
        }
        for splits_left in (0..=SPLITS_MAX).rev() {
            let questions: Vec<(usize, Question<'_>)> = of
                .iter()
                .map(|(number, fields)| {
                    let Wanted { window, entity, group, .. } = &wanted[*number];
                    let (subject, group) = (&self.subjects[*entity], &schema.groups[*group]);
                    (*window, Question::Fields { subject, group, fields })
                })
                .collect();
            let replies = ask(self.reading, &questions, until, tally, parts)?;
            let mut again: Vec<(usize, &[&Field])> = Vec::new();
            for ((number, fields), reply) in of.into_iter().zip(replies) {
                if splits_left > 0 && fields.len() > 1 && is_cut(&reply) {
                    let (first, second) = fields.split_at(fields.len() / 2);
                    again.extend([(number, first), (number, second)]);
                } else {
                    self.settle(&wanted[number], fields, reply);
                }
            }
            if again.is_empty() {
                break;
            }
            of = again;
        }
        Ok(())
    }

    /// Reads an answer into what is known, and into the window's cell.
    fn settle(&mut self, wanted: &Wanted<'a>, fields: &[&Field], reply: Reply) {
        let cell = self.take(wanted.window, wanted.entity, fields, reply);
        let before = self.cells[wanted.entity][wanted.group][wanted.window];
        // One field of a group is not the group; and a question that failed beside others that did not makes the cell a
        // failed one.
        if self.stage != Stage::Deep && before != Cell::Failed {
            let about = self.asked_about(wanted.window);
            self.set(wanted.entity, wanted.group, wanted.window, &about, cell);
        }
    }

    /// Reads an answer into what is known.
    fn take(&mut self, window: usize, entity: usize, fields: &[&Field], reply: Reply) -> Cell {
        let answer = match reply {
            Reply::Answer(answer) => answer,
            Reply::Failed(why) => {
                self.failed(entity, fields, why);
                return Cell::Failed;
            }
            Reply::NotAsked => {
                self.out_of_time = true;
                self.deep_left[entity] += usize::from(self.stage == Stage::Deep);
                return Cell::OutOfTime;
            }
        };
        let said = self.reader(window).fields(fields, &answer);
        match said {
            Err(error) => {
                self.failed(entity, fields, error.to_string());
                Cell::Failed
            }
            Ok(said) => {
                for (field, said) in fields.iter().zip(said) {
                    self.say(window, entity, field, said);
                }
                Cell::Read
            }
        }
    }

    fn failed(&mut self, entity: usize, fields: &[&Field], why: String) {
        for field in fields {
            let number = self.number(field);
            self.answers[entity][number].failed += 1;
        }
        *self.failures.entry(why).or_default() += 1;
    }

    fn number(&self, field: &Field) -> usize {
        self.fields.iter().position(|(_, known)| known.name == field.name).unwrap_or(0)
    }

    fn reader(&self, window: usize) -> Reader<'_> {
        let Reading { schema, company, windows, .. } = self.reading;
        Reader { schema, company, window: windows[window].sentences.clone() }
    }

    fn say(&mut self, window: usize, entity: usize, field: &Field, said: Said) {
        let number = self.number(field);
        self.answers[entity][number].answered += 1;
        match said {
            Said::Missing => {}
            Said::Possible => self.answers[entity][number].possible = true,
            Said::Value(stated) => {
                for (of, candidate) in self.candidates(window, entity, field, &stated) {
                    self.answers[of][number].candidates.push(candidate);
                }
            }
        }
    }

    /// A value and whose it is: of the entity that its sentence is about, of all where it is about none, else of the one
    /// that was asked for.
    fn candidates(
        &self,
        window: usize,
        entity: usize,
        field: &Field,
        stated: &Stated,
    ) -> Vec<(usize, Candidate)> {
        let Reading { schema, company, windows, .. } = self.reading;
        let sentences = &windows[window].sentences;
        let place = place(company, sentences, &stated.cited, field, &stated.value, &schema.formats);
        let candidate = |tie: Tie| Candidate {
            value: stated.value.clone(),
            confidence: stated.confidence,
            probability: stated.probability,
            evidence: place.as_ref().map(|place| evidence::shown(company, place, tie)),
            window,
            stage: self.stage,
            is_of_type: is_of_type(field, &stated.value, &schema.formats),
        };
        let Some(sentence) = place.as_ref().filter(|place| place.aligned).map(|place| place.sentence) else {
            let tie = place.as_ref().map_or(Tie::Unknown, |place| self.mentions.tie(place.sentence, entity));
            return vec![(entity, candidate(tie))];
        };
        let own = self.mentions.tie(sentence, entity);
        let all = 0..self.subjects.len();
        match own {
            Tie::Names | Tie::Under | Tie::Unknown => vec![(entity, candidate(own))],
            Tie::Free => all
                .filter(|of| self.mentions.tie(sentence, *of) == Tie::Free)
                .map(|of| (of, candidate(Tie::Free)))
                .collect(),
            Tie::Other => {
                let of: Vec<(usize, Tie)> = all
                    .map(|of| (of, self.mentions.tie(sentence, of)))
                    .filter(|(_, tie)| *tie >= Tie::Under)
                    .collect();
                match of[..] {
                    // Of several it says which; of one there is no question whose it is.
                    [(only, tie)] => vec![(only, candidate(tie))],
                    _ => vec![(entity, candidate(own))],
                }
            }
        }
    }

    /// Asks for fields of an entity by themselves, each in the windows that its own words rank first.
    ///
    /// # Errors
    /// The generator or the journal as a whole.
    pub fn deep(
        &mut self,
        targets: &[(usize, usize)],
        until: Option<Instant>,
        tally: &mut Tally,
        parts: &mut Parts<'_>,
    ) -> Result<(), ExtractError> {
        let mut wanted = Vec::new();
        for (entity, number) in targets {
            let (group, field) = self.fields[*number];
            let is_new = |window: &usize| {
                self.cells[*entity][group][*window] != Cell::Read
                    && self.asked_about(*window).contains(entity)
            };
            let windows = self.reading.ranked([field]).into_iter().filter(is_new).take(DEEP_WINDOWS);
            wanted.extend(windows.map(|window| Wanted {
                window,
                entity: *entity,
                group,
                fields: vec![field],
            }));
        }
        (self.stage, tally.stage) = (Stage::Deep, Stage::Deep);
        self.ask_fields(&wanted, until, tally, parts)
    }

    /// What is known of an entity's fields, in the schema's order.
    pub fn answers(&self, entity: usize) -> impl Iterator<Item = (&'a Field, &Answers)> {
        self.fields.iter().map(|(_, field)| *field).zip(&self.answers[entity])
    }

    /// A value that was given in place of another one, held against its window.
    #[must_use]
    pub fn instead(&self, window: usize, entity: usize, field: &Field, stated: &Stated) -> Option<Candidate> {
        let found = self.candidates(window, entity, field, stated);
        found
            .into_iter()
            .find(|(of, candidate)| {
                let is_aligned = candidate.evidence.as_ref().is_some_and(|evidence| evidence.aligned);
                *of == entity
                    && is_aligned
                    && candidate.is_of_type
                    && candidate.evidence.as_ref().is_some_and(|e| e.tie != Tie::Other)
            })
            .map(|(_, candidate)| candidate)
    }

    /// Whether sentences can be about one entity and not another: not where the company stands for one.
    #[must_use]
    pub fn names_entities(&self) -> bool {
        self.names_entities
    }

    /// Reads answers about a window.
    #[must_use]
    pub fn reader_of(&self, window: usize) -> Reader<'_> {
        self.reader(window)
    }

    /// What became of every window, by entity and group.
    #[must_use]
    pub fn cells(&self) -> Vec<Cells> {
        let mut all = Vec::new();
        for (subject, groups) in self.subjects.iter().zip(&self.cells) {
            for (group, windows) in self.reading.schema.groups.iter().zip(groups) {
                let of = |wanted: Cell| {
                    windows
                        .iter()
                        .enumerate()
                        .filter(|(_, cell)| **cell == wanted)
                        .map(|(at, _)| at)
                        .collect()
                };
                all.push(Cells {
                    facility: subject.name.clone(),
                    group: group.name.clone(),
                    read: of(Cell::Read),
                    absent: of(Cell::Absent),
                    settled: of(Cell::Settled),
                    capped: of(Cell::Capped),
                    out_of_time: of(Cell::OutOfTime),
                    failed: of(Cell::Failed),
                });
            }
        }
        all
    }

    /// What was not asked or has no answer, in words.
    #[must_use]
    pub fn cuts(&self, entity: usize) -> Vec<String> {
        let mut cuts = Vec::new();
        for (cell, why) in [(Cell::Capped, "--section-passes"), (Cell::OutOfTime, OUT_OF_TIME)] {
            let pairs = self.cells[entity].iter().flatten().filter(|of| **of == cell).count();
            if pairs > 0 {
                cuts.push(format!("{pairs} pairs of a window and a group were not asked: {why}"));
            }
        }
        if self.deep_left[entity] > 0 {
            let left = self.deep_left[entity];
            cuts.push(format!("{left} questions for fields by themselves were not asked: {OUT_OF_TIME}"));
        }
        cuts.extend(
            self.failures.iter().map(|(why, times)| format!("{times} calls without an answer: {why}")),
        );
        cuts
    }
}
