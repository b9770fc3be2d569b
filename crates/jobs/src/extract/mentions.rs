//! Which entity a sentence is about: the one that it names, or else the one that was named last before it.
//!
//! A model that is asked for the margin of one facility answers with that of another where both stand in its window. What
//! its sentence says of itself is evidence that no model is needed for.

use super::documents::Company;
use super::record::Tie;
use super::retrieve::bm25::words;
use super::schema::Schema;

/// What the sentences of a company name.
#[derive(Clone, Debug)]
pub struct Mentions {
    /// Entities that each sentence names, in the order of its words.
    named: Vec<Vec<usize>>,
    /// The entity that was named last before each sentence, in its document.
    last: Vec<Option<usize>>,
    /// Whether a sentence speaks of an entity without its name: "the facility".
    speaks: Vec<bool>,
    /// The entity whose name a sentence stands under: the last one before it in its paragraph, else that of its heading.
    under: Vec<Option<usize>>,
}

impl Mentions {
    /// Looks for names in every sentence. A name within a longer one is the longer one's.
    #[must_use]
    pub fn of(company: &Company, names: &[String], schema: &Schema) -> Mentions {
        let finder = Finder::new(names, schema);
        let mut mentions = Mentions { named: vec![], last: vec![], speaks: vec![], under: vec![] };
        // The last name in this document, and in this paragraph.
        let (mut last, mut in_block) = (None, None);
        let mut place = None;
        for sentence in &company.sentences {
            let blocks = &company.sources[sentence.source].document.blocks;
            let block = blocks.partition_point(|block| block.start <= sentence.start);
            if place.map(|(source, _)| source) != Some(sentence.source) {
                last = None;
            }
            if place != Some((sentence.source, block)) {
                in_block = None;
            }
            place = Some((sentence.source, block));
            let heading = sentence.under.and_then(|heading| mentions.named[heading].last().copied());
            let (named, speaks) = finder.read(&sentence.line);
            mentions.under.push(in_block.or(heading));
            mentions.last.push(last);
            mentions.speaks.push(speaks);
            last = named.last().copied().or(last);
            in_block = named.last().copied().or(in_block);
            mentions.named.push(named);
        }
        mentions
    }

    /// What a sentence has to do with an entity.
    #[must_use]
    pub fn tie(&self, sentence: usize, entity: usize) -> Tie {
        let named = &self.named[sentence];
        if named.contains(&entity) {
            return Tie::Names;
        }
        if !named.is_empty() {
            return Tie::Other;
        }
        let about = if self.speaks[sentence] { self.last[sentence] } else { self.under[sentence] };
        match about {
            Some(about) if about == entity => Tie::Under,
            Some(_) => Tie::Other,
            None => Tie::Free,
        }
    }

    /// Whether a run of sentences names an entity, or speaks of it.
    #[must_use]
    pub fn holds(&self, mut sentences: std::ops::Range<usize>, entity: usize) -> bool {
        sentences.any(|sentence| matches!(self.tie(sentence, entity), Tie::Names | Tie::Under))
    }

    /// How many sentences name an entity.
    #[must_use]
    pub fn count(&self, entity: usize) -> usize {
        self.named.iter().filter(|named| named.contains(&entity)).count()
    }
}

/// Names as runs of words.
struct Finder {
    /// The longest first, with the entity's number.
    names: Vec<(Vec<String>, usize)>,
    /// Words for an entity of any name.
    common: Vec<Vec<String>>,
    /// Phrases with such a word in them that mean something else: "facility agent".
    masks: Vec<Vec<String>>,
}

impl Finder {
    fn new(names: &[String], schema: &Schema) -> Finder {
        let mut names: Vec<(Vec<String>, usize)> =
            names.iter().enumerate().map(|(number, name)| (words(name), number)).collect();
        names.retain(|(words, _)| !words.is_empty());
        names.sort_by_key(|(words, number)| (std::cmp::Reverse(words.len()), *number));
        let entity = &schema.entity;
        let own = [words(&entity.name), words(&entity.plural)];
        let families = schema.retrieval.synonyms.iter().map(|family| family.iter().map(|word| words(word)));
        let mut common: Vec<Vec<String>> = own.to_vec();
        for family in families {
            let family: Vec<Vec<String>> = family.collect();
            if family.iter().any(|member| own.contains(member)) {
                common.extend(family);
            }
        }
        common.retain(|words| !words.is_empty());
        let of_field = |field: &super::schema::Field| {
            let texts = field.keywords.iter().chain([&field.description, &field.label]);
            texts.map(|text| words(text)).collect::<Vec<_>>()
        };
        let mut masks: Vec<Vec<String>> = schema.fields().flat_map(of_field).collect();
        masks.retain(|mask| common.iter().any(|word| mask.len() > word.len() && find(mask, word).is_some()));
        Finder { names, common, masks }
    }

    /// The entities that a line names, and whether it speaks of one beside that.
    fn read(&self, line: &str) -> (Vec<usize>, bool) {
        let mut words = words(line);
        let mut named: Vec<(usize, usize)> = Vec::new();
        for (name, number) in &self.names {
            while let Some(at) = find(&words, name) {
                named.push((at, *number));
                blank(&mut words[at..at + name.len()]);
            }
        }
        for mask in &self.masks {
            while let Some(at) = find(&words, mask) {
                blank(&mut words[at..at + mask.len()]);
            }
        }
        named.sort_unstable();
        let speaks = self.common.iter().any(|word| find(&words, word).is_some());
        (named.into_iter().map(|(_, number)| number).collect(), speaks)
    }
}

/// Where words stand in a line, one behind the other.
fn find(line: &[String], wanted: &[String]) -> Option<usize> {
    line.windows(wanted.len()).position(|part| part == wanted)
}

fn blank(words: &mut [String]) {
    for word in words {
        word.clear();
    }
}
