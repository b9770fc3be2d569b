//! Which entities there are: what windows name, each once.

use super::documents::Company;
use super::mentions::Mentions;
use super::retrieve::bm25::words;
use super::schema::{Schema, Subject};

/// Entities of a company.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// In the order in which they were first named.
    pub subjects: Vec<Subject>,
    /// Names that were answered and are not taken, with the reason.
    pub dropped: Vec<(String, String)>,
    /// None was found, and the company stands for one.
    pub is_company: bool,
}

/// A name that windows gave.
struct Named {
    name: String,
    words: Vec<String>,
    /// Types with how often each was given.
    kinds: Vec<(String, usize)>,
    windows: usize,
}

/// Makes one list of what the windows answered, in the order of the windows. `most` is how many are kept.
#[must_use]
pub fn found(
    schema: &Schema,
    company: &Company,
    answers: &[Vec<(String, Option<String>)>],
    most: Option<usize>,
) -> Found {
    let mut named: Vec<Named> = Vec::new();
    for (name, kind) in answers.iter().flatten() {
        add(&mut named, name, kind.as_deref());
    }
    let mut dropped = Vec::new();
    unnamed(schema, company, &mut named, &mut dropped);
    if let Some(most) = most {
        keep_most(&mut named, most, &mut dropped);
    }
    let subjects: Vec<Subject> = named.into_iter().map(Named::subject).collect();
    if subjects.is_empty() {
        let subject = Subject { name: company.name.clone(), kind: None };
        return Found { subjects: vec![subject], dropped, is_company: true };
    }
    Found { subjects, dropped, is_company: false }
}

/// The same words are the same entity, with or without an article before them.
fn add(named: &mut Vec<Named>, name: &str, kind: Option<&str>) {
    let mut words = words(name);
    if words.len() > 1 && matches!(words[0].as_str(), "the" | "a" | "an") {
        words.remove(0);
    }
    if words.is_empty() {
        return;
    }
    let at = named.iter().position(|known| known.words == words).unwrap_or_else(|| {
        named.push(Named { name: name.trim().to_owned(), words, kinds: vec![], windows: 0 });
        named.len() - 1
    });
    let known = &mut named[at];
    known.windows += 1;
    if let Some(kind) = kind {
        match known.kinds.iter_mut().find(|(of, _)| of == kind) {
            Some((_, count)) => *count += 1,
            None => known.kinds.push((kind.to_owned(), 1)),
        }
    }
}

/// Drops what no sentence names by itself: a made-up name, and a part of a longer one.
fn unnamed(schema: &Schema, company: &Company, named: &mut Vec<Named>, dropped: &mut Vec<(String, String)>) {
    let names: Vec<String> = named.iter().map(|named| named.words.join(" ")).collect();
    let mentions = Mentions::of(company, &names, schema);
    let mut number = 0;
    named.retain(|named| {
        let is_there = mentions.count(number) > 0;
        number += 1;
        if !is_there {
            let why = "no sentence names it by itself".to_owned();
            dropped.push((named.name.clone(), why));
        }
        is_there
    });
}

/// Those that most windows name.
fn keep_most(named: &mut Vec<Named>, most: usize, dropped: &mut Vec<(String, String)>) {
    let mut order: Vec<usize> = (0..named.len()).collect();
    order.sort_by_key(|number| (std::cmp::Reverse(named[*number].windows), *number));
    let kept: Vec<usize> = order.into_iter().take(most).collect();
    let mut number = 0;
    named.retain(|named| {
        let is_kept = kept.contains(&number);
        number += 1;
        if !is_kept {
            let why = format!("{} windows name it, and {most} are kept (--facilities)", named.windows);
            dropped.push((named.name.clone(), why));
        }
        is_kept
    });
}

impl Named {
    fn subject(self) -> Subject {
        let most = self.kinds.iter().map(|(_, count)| *count).max();
        let kind = self.kinds.into_iter().find(|(_, count)| Some(*count) == most).map(|(kind, _)| kind);
        Subject { name: self.name, kind }
    }
}
