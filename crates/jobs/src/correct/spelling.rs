//! Misspelled words, put right by a Hunspell dictionary where there is no doubt which word is meant.
//!
//! A spelling checker without a reader must rather miss a mistake than make one: a name, a term or a word of another
//! language is not in the dictionary either. So a word changes only where one word of the dictionary is nearer than
//! all others, and what may be a name, a number, code or a part of something longer is not judged.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use spellbook::Dictionary;

/// A file of a dictionary may have so many bytes; the largest that are in use have a tenth of it.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Nearly every shorter word is a letter away from several others.
const LETTERS_MIN: usize = 4;
/// What is longer is no word, and its edits are many.
const LETTERS_MAX: usize = 32;
/// Words of so many letters may be two edits away from what is meant.
const FAR_LETTERS_MIN: usize = 8;
const NEAR_EDITS: usize = 1;
const FAR_EDITS: usize = 2;
/// Different wrong words of one text that are looked up; the others keep their spelling.
const LOOKUPS_MAX: usize = 512;
/// Of these, those for which the whole dictionary is read, which takes up to a hundred times longer.
const FAR_LOOKUPS_MAX: usize = 16;
/// Endings that an unsaid word may have.
const UNSAID_ENDING_BYTES_MAX: usize = 3;
/// What holds a word and others together: an address, a path, a compound. Its parts are not judged.
const JOINS: [char; 14] = ['_', '-', '.', '@', '/', '\\', ':', '&', '#', '+', '=', '~', '\u{ad}', '\u{200d}'];
/// Marks that stand on the letter before them.
const COMBINING: RangeInclusive<char> = '\u{300}'..='\u{36f}';
const APOSTROPHES: [char; 2] = ['\'', '’'];
/// A full stop behind these ends no sentence, and what follows is a name.
const TITLES: [&str; 11] = ["Mr", "Mrs", "Ms", "Dr", "St", "Prof", "Capt", "Col", "Gen", "Rev", "Lt"];

/// There is no dictionary to judge by.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpellError {
    /// It is in none of the folders.
    #[error("no dictionary {name} (a .dic with its .aff beside it) in {}", listed(folders))]
    Missing {
        /// As asked for.
        name: String,
        /// Where it was looked for.
        folders: Vec<PathBuf>,
    },
    /// A file of it cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of it is too large to be one.
    #[error("{} has more than the {FILE_BYTES_MAX} bytes that a dictionary may have", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is not written as it says.
    #[error("{} is not in {encoding}, or that cannot be read", path.display())]
    Encoding {
        /// The file.
        path: PathBuf,
        /// What its .aff says.
        encoding: String,
    },
    /// Its rules or words make no sense.
    #[error("{} is no dictionary: {why}", path.display())]
    Parse {
        /// The list of words.
        path: PathBuf,
        /// Of the parser.
        why: String,
    },
}

fn listed(folders: &[PathBuf]) -> String {
    match folders {
        [] => "no folder".to_owned(),
        folders => folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", "),
    }
}

impl SpellError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { name, .. } if is_plain(name) && name != "en_US" => {
                let package = name.to_lowercase().replace('_', "-");
                Some(format!(
                    "Debian's package for it is hunspell-{package}, and hunspell-en-us for en_US; or name the path of a .dic"
                ))
            }
            Self::Missing { .. } => {
                Some("on Debian: apt install hunspell-en-us; or name the path of a .dic".to_owned())
            }
            Self::Encoding { .. } => {
                Some("convert both files to UTF-8, and say SET UTF-8 in the .aff".to_owned())
            }
            Self::Read { .. } | Self::TooLarge { .. } | Self::Parse { .. } => None,
        }
    }
}

/// A dictionary that puts words right. One is opened for a run, since reading it takes far longer than a text does.
#[derive(Debug)]
pub struct Speller {
    words: Dictionary,
    /// Stems that the dictionary knows and does not want suggested.
    unsaid: Vec<String>,
}

impl Speller {
    /// Opens the dictionary called `name` (`en_US`) in the first of the folders that has it, or the one at a path that
    /// ends in `.dic`.
    ///
    /// # Errors
    /// There is none, or its files are no dictionary.
    pub fn open(folders: &[PathBuf], name: &str) -> Result<Speller, SpellError> {
        let path = find(folders, name)
            .ok_or_else(|| SpellError::Missing { name: name.to_owned(), folders: folders.to_vec() })?;
        let rules_path = path.with_extension("aff");
        let rules = read(&rules_path)?;
        let encoding = directive(&String::from_utf8_lossy(&rules), "SET").unwrap_or("ISO8859-1").to_owned();
        let rules = decoded(rules, &encoding, &rules_path)?;
        let list = decoded(read(&path)?, &encoding, &path)?;
        let words = Dictionary::new(&rules, &list)
            .map_err(|error| SpellError::Parse { path, why: error.to_string() })?;
        Ok(Speller { words, unsaid: unsaid(&rules, &list) })
    }

    /// The text with those words put right that are wrong and have one clearly best suggestion: one edit away, or two
    /// for long words, and no other suggestion is as near. All else keeps its bytes, so that a wrong guess is rarer
    /// than a mistake that stays: words with digits, capitals, or less than four letters, parts of compounds and
    /// addresses, and what touches one of the `protected` byte ranges. A capital at the start of a sentence is kept,
    /// and the word below it judged, unless it has its capital elsewhere too.
    #[must_use]
    pub fn corrected(&self, text: &str, protected: &[Range<usize>]) -> String {
        let words = words(text, protected);
        let names: HashSet<&str> =
            words.iter().filter(|word| !word.starts_sentence).map(|word| &text[word.range.clone()]).collect();
        let mut known = HashMap::new();
        let mut budget = Budget { lookups: LOOKUPS_MAX, far: FAR_LOOKUPS_MAX };
        let (mut out, mut copied) = (String::with_capacity(text.len()), 0);
        for word in &words {
            let written = &text[word.range.clone()];
            let Some(asked) = asked(written, word.starts_sentence && !names.contains(written)) else {
                continue;
            };
            let better = known.entry(asked).or_insert_with_key(|asked| self.better(asked, &mut budget));
            if let Some(better) = better {
                out.push_str(&text[copied..word.range.start]);
                out.push_str(&written_like(better, written));
                copied = word.range.end;
            }
        }
        out.push_str(&text[copied..]);
        out
    }

    /// What is meant by a word in small letters, if it is wrong and that is clear.
    fn better(&self, word: &str, budget: &mut Budget) -> Option<String> {
        if self.words.check(word) || budget.lookups == 0 {
            return None;
        }
        budget.lookups -= 1;
        let mut suggestions = Vec::new();
        self.words.suggester().with_ngram_suggestions(false).suggest(word, &mut suggestions);
        let near = at_distance(word, &suggestions, NEAR_EDITS);
        if !near.is_empty() {
            return self.only(word, &near);
        }
        if word.chars().count() < FAR_LETTERS_MIN || budget.far == 0 {
            return None;
        }
        budget.far -= 1;
        self.words.suggester().suggest(word, &mut suggestions);
        self.only(word, &at_distance(word, &suggestions, FAR_EDITS))
    }

    /// The one candidate, if it is one, and a plain word: two words, names and words that are not said are doubts. So
    /// is another first letter, which few get wrong: `resumable` is no `presumable`.
    fn only(&self, word: &str, candidates: &[&str]) -> Option<String> {
        let [one] = candidates else { return None };
        let is_plain = one.chars().all(|c| c.is_lowercase() || c == '\'');
        let ending = |stem: &String| one.strip_prefix(stem.as_str()).map(str::len);
        let is_unsaid = self.unsaid.iter().filter_map(ending).any(|bytes| bytes <= UNSAID_ENDING_BYTES_MAX);
        let begins_alike = one.chars().next() == word.chars().next();
        (is_plain && begins_alike && !is_unsaid).then(|| (*one).to_owned())
    }
}

/// What a text may still ask of the dictionary.
struct Budget {
    lookups: usize,
    far: usize,
}

/// Suggestions that are so many edits away, each once.
fn at_distance<'a>(word: &str, suggestions: &'a [String], edits: usize) -> Vec<&'a str> {
    let word: Vec<char> = word.chars().collect();
    let mut found: Vec<&str> = Vec::new();
    for suggestion in suggestions {
        let letters: Vec<char> = suggestion.to_lowercase().chars().collect();
        let is_near = letters.len().abs_diff(word.len()) <= edits && distance(&word, &letters) == edits;
        if is_near && !found.contains(&suggestion.as_str()) {
            found.push(suggestion);
        }
    }
    found
}

/// Levenshtein's distance, where two letters that changed places are one edit: nobody types `recieve` in two mistakes.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        rows[i][0] = i;
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

/// The word as the dictionary is asked for it, or none where it may be a name or is too short or too long.
fn asked(word: &str, may_have_capital: bool) -> Option<String> {
    let letters = word.chars().filter(|c| c.is_alphabetic()).count();
    if !(LETTERS_MIN..=LETTERS_MAX).contains(&letters) {
        return None;
    }
    let mut chars = word.chars();
    let first = chars.next()?;
    let is_small = |c: char| c.is_lowercase() || APOSTROPHES.contains(&c);
    if !chars.all(is_small) || !(first.is_lowercase() || (may_have_capital && first.is_uppercase())) {
        return None;
    }
    Some(word.to_lowercase().replace('’', "'"))
}

/// With the capital and the apostrophe of what it replaces.
fn written_like(better: &str, written: &str) -> String {
    let mut out = String::with_capacity(better.len() + 1);
    let has_capital = written.starts_with(char::is_uppercase);
    for (at, c) in better.chars().enumerate() {
        match c {
            '\'' if written.contains('’') => out.push('’'),
            c if at == 0 && has_capital => out.extend(c.to_uppercase()),
            c => out.push(c),
        }
    }
    out
}

/// A word that may be judged.
struct Word {
    range: Range<usize>,
    starts_sentence: bool,
}

/// Runs of letters that are part of nothing else, in order.
fn words(text: &str, protected: &[Range<usize>]) -> Vec<Word> {
    let is_inside = |c: char| {
        c.is_alphanumeric() || APOSTROPHES.contains(&c) || JOINS.contains(&c) || COMBINING.contains(&c)
    };
    let (mut words, mut at) = (Vec::new(), 0);
    while let Some(start) = text[at..].find(is_inside).map(|offset| at + offset) {
        let end = text[start..].find(|c| !is_inside(c)).map_or(text.len(), |offset| start + offset);
        at = end;
        let run = text[start..end].trim_end_matches(['.', ':', '\'', '’']);
        let word = run.trim_start_matches(APOSTROPHES);
        let first = start + run.len() - word.len();
        let range = first..first + word.len();
        let is_of_letters = word.chars().all(|c| c.is_alphabetic() || APOSTROPHES.contains(&c));
        if word.is_empty() || !is_of_letters || is_abbreviation(text, &range) || touches(protected, &range) {
            continue;
        }
        words.push(Word { starts_sentence: starts_sentence(text, start), range });
    }
    words
}

/// Whether it touches one: what stands directly beside code or an address is a part of it.
fn touches(protected: &[Range<usize>], range: &Range<usize>) -> bool {
    protected.iter().any(|part| !part.is_empty() && part.start <= range.end && range.start <= part.end)
}

/// A full stop with a small letter behind it ends no sentence but a shortened word.
fn is_abbreviation(text: &str, range: &Range<usize>) -> bool {
    let Some(behind) = text[range.end..].strip_prefix('.') else { return false };
    behind.trim_start().starts_with(char::is_lowercase)
}

/// Whether the run of letters at `start` begins the text, a paragraph or a sentence.
fn starts_sentence(text: &str, start: usize) -> bool {
    let before = text[..start].trim_end_matches(|c: char| c.is_whitespace() || "\"“‘«([*".contains(c));
    let between = &text[before.len()..start];
    if before.is_empty() || between.matches('\n').count() > 1 {
        return true;
    }
    let before = before.trim_end_matches(['"', '”', '’', '\'', '»', ')', ']', '*']);
    let Some(stopped) = before.strip_suffix('.') else { return before.ends_with(['!', '?', '…']) };
    let last = stopped.rsplit(|c: char| !c.is_alphabetic()).next().unwrap_or_default();
    !TITLES.contains(&last) && last.chars().count() != 1
}

/// A plain name is no path.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

fn find(folders: &[PathBuf], name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    let is_pair = |path: &PathBuf| path.is_file() && path.with_extension("aff").is_file();
    if path.extension().is_some_and(|extension| extension == "dic") {
        return Some(path.to_path_buf()).filter(is_pair);
    }
    if !is_plain(name) {
        return None;
    }
    folders.iter().map(|folder| folder.join(format!("{name}.dic"))).find(is_pair)
}

fn read(path: &Path) -> Result<Vec<u8>, SpellError> {
    let failed = |source| SpellError::Read { path: path.to_path_buf(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(SpellError::TooLarge { path: path.to_path_buf() });
    }
    Ok(bytes)
}

/// UTF-8 and Latin-1, which Hunspell takes where a dictionary does not say.
fn decoded(bytes: Vec<u8>, encoding: &str, path: &Path) -> Result<String, SpellError> {
    let is_latin = ["ISO8859-1", "ISO-8859-1"].iter().any(|name| name.eq_ignore_ascii_case(encoding));
    let is_utf8 = encoding.eq_ignore_ascii_case("UTF-8");
    if is_latin {
        return Ok(bytes.into_iter().map(char::from).collect());
    }
    match String::from_utf8(bytes) {
        Ok(text) if is_utf8 || text.is_ascii() => Ok(text.trim_start_matches('\u{feff}').to_owned()),
        _ => Err(SpellError::Encoding { path: path.to_path_buf(), encoding: encoding.to_owned() }),
    }
}

/// The value of a line of an .aff.
fn directive<'a>(rules: &'a str, name: &str) -> Option<&'a str> {
    rules.lines().find_map(|line| {
        let mut fields = line.trim_start_matches('\u{feff}').split_whitespace();
        (fields.next() == Some(name)).then(|| fields.next()).flatten()
    })
}

/// Stems with the flag of NOSUGGEST, which the suggester takes from edits all the same.
fn unsaid(rules: &str, list: &str) -> Vec<String> {
    let Some(flag) = directive(rules, "NOSUGGEST") else { return vec![] };
    let is_numbers = directive(rules, "FLAG") == Some("num");
    let stem = |line: &str| {
        let (stem, flags) = line.split_whitespace().next()?.split_once('/')?;
        let is_it = if is_numbers { flags.split(',').any(|one| one == flag) } else { flags.contains(flag) };
        is_it.then(|| stem.to_lowercase())
    };
    list.lines().skip(1).filter_map(stem).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: &str = "SET UTF-8\nTRY esianrtolcdugmphbyfvkwz'-\nNOSUGGEST !\n\nSFX S Y 1\nSFX S 0 s .\n\nSFX M Y 1\nSFX M 0 's .\n";
    const LIST: &str = "30\ne-mail\npresumable\nreceive/S\nbecause\nmanager/SM\nthe\nquality\ncommittee/SM\naccommodation/S\nbest\nrest\nnest\n\
        Ingrid\nold\nharbour/S\ncame\nhallow\ncorrespondence\nthen\nthey\nwrote\nof\npier/S\nbloody/!\nhaven't\ncafé\ndon't\n\
        restaurant/S\ndepartment\nwith\n";

    fn folder(rules: &[u8], list: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("en_US.aff"), rules).unwrap();
        std::fs::write(folder.path().join("en_US.dic"), list).unwrap();
        folder
    }

    fn opened(rules: &[u8], list: &[u8]) -> Result<Speller, SpellError> {
        let folder = folder(rules, list);
        Speller::open(&[folder.path().join("none"), folder.path().to_path_buf()], "en_US")
    }

    fn speller() -> Speller {
        opened(RULES.as_bytes(), LIST.as_bytes()).unwrap()
    }

    #[test]
    fn clear_mistakes_are_put_right() {
        let speller = speller();
        for (before, after) in [
            ("they recieve the qualiti", "they receive the quality"),
            ("becaus the manger came", "because the manager came"),
            ("the \"comittee's\" pier.", "the \"committee's\" pier."),
            ("the comittee’s pier", "the committee’s pier"),
            ("the accomodaton of", "the accommodation of"),
            ("the corespondance", "the correspondence"),
            ("Becaus they came. Recieve it! “Harbuor”", "Because they came. Receive it! “Harbour”"),
            ("they havent; they wrte", "they haven't; they wrote"),
            ("'becaus' —becaus—", "'because' —because—"),
            ("becaus, becaus; (becaus) becaus: becaus", "because, because; (because) because: because"),
            ("the old\n\nHarbuor", "the old\n\nHarbour"),
            ("the caffé", "the café"),
        ] {
            assert_eq!(speller.corrected(before, &[]), after, "{before}");
        }
    }

    #[test]
    fn what_is_in_doubt_keeps_its_spelling() {
        let speller = speller();
        for text in [
            // best, rest and nest are as near; the and they, then are too short or too many.
            "the zest",
            "the teh",
            "the thez",
            // Nothing near, and two edits in a short word.
            "the zyzzyva",
            "the qaulitx",
            // Names, and a word that is a name elsewhere in the text.
            "the Harbuor",
            "the Becaus",
            "HARBUOR",
            "harBuor",
            "Harbuor came. Then the Harbuor came.",
            "the ingrad",
            "Ingrad came",
            "Mrs. Hallov came",
            "then J. Hallov came",
            // Parts of something else.
            "becaus1",
            "x_becaus",
            "well-becaus",
            "becaus.com",
            "a@becaus",
            "/becaus",
            "becaus/manger",
            "becaus\u{301}",
            "be\u{ad}caus",
            // A shortened word, two words, one that the dictionary does not say, and another first letter.
            "the departmen. of",
            "oldpier",
            "bloodi",
            "email",
            "resumable",
            "",
            "...",
            "'",
            "’s",
            "12",
        ] {
            assert_eq!(speller.corrected(text, &[]), text);
        }
        let long = format!("the {}", "becaus".repeat(6));
        assert_eq!(speller.corrected(&long, &[]), long);
    }

    #[test]
    fn protected_ranges_keep_their_bytes() {
        let text = "é becaus becaus `x`manger";
        let code = text.find('`').unwrap();
        let out = speller().corrected(text, &[3..9, code..code + 3, 12..12]);
        assert_eq!(out, "é becaus because `x`manger");
    }

    #[test]
    fn a_text_is_looked_up_within_bounds() {
        let letter = |number: usize| char::from(b'a' + (number % 26) as u8);
        let wrong = |n: usize| format!("zqx{}{}{} ", letter(n), letter(n / 26), letter(n / 676));
        let mut text: String = (0..LOOKUPS_MAX).map(wrong).collect();
        text.push_str("becaus");
        let speller = speller();
        assert_eq!(speller.corrected(&text, &[]), text, "the last word comes after the last lookup");
        let fewer = &text[wrong(0).len()..];
        assert!(speller.corrected(fewer, &[]).ends_with("because"));
        let again = "becaus ".repeat(LOOKUPS_MAX + 1);
        assert_eq!(
            speller.corrected(&again, &[]),
            again.replace("becaus", "because"),
            "one word is looked up once"
        );
    }

    #[test]
    fn a_dictionary_is_found_by_name_or_path() {
        let folder = folder(RULES.as_bytes(), LIST.as_bytes());
        let path = folder.path().join("en_US.dic");
        assert!(Speller::open(&[], path.to_str().unwrap()).is_ok());
        let latin = opened(b"SET ISO8859-1\nTRY e\n", b"1\ncaf\xe9s\n").unwrap();
        assert_eq!(latin.corrected("the cafés and cafés", &[]), "the cafés and cafés");
        assert!(latin.words.check("cafés"));
    }

    #[test]
    fn what_is_no_dictionary_says_so() {
        let none = |name: &str| Speller::open(&["dictionaries".into(), "more".into()], name).unwrap_err();
        let error = none("en_US");
        assert_eq!(
            error.to_string(),
            "no dictionary en_US (a .dic with its .aff beside it) in dictionaries, more"
        );
        assert!(error.hint().unwrap().contains("hunspell-en-us"));
        assert!(none("en_GB").hint().unwrap().contains("hunspell-en-gb"));
        for name in ["", "../en_US", "none.dic", "a b"] {
            let error = none(name);
            assert!(matches!(error, SpellError::Missing { .. }), "{error}");
            assert!(error.hint().unwrap().contains("hunspell-en-us"));
        }
        let folder = folder(RULES.as_bytes(), LIST.as_bytes());
        std::fs::remove_file(folder.path().join("en_US.aff")).unwrap();
        let alone = Speller::open(&[folder.path().to_path_buf()], "en_US");
        assert!(matches!(alone, Err(SpellError::Missing { .. })));
        assert!(matches!(opened(b"SET UTF-8\n", b"1\ncaf\xe9\n"), Err(SpellError::Encoding { .. })));
        assert!(matches!(opened(b"SET KOI8-R\n", b"1\ncaf\xe9\n"), Err(SpellError::Encoding { .. })));
        assert!(matches!(opened(b"SET UTF-8\n", b"words\nof\n"), Err(SpellError::Parse { .. })));
    }

    #[test]
    fn letters_that_changed_places_are_one_edit() {
        let apart =
            |a: &str, b: &str| distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>());
        assert_eq!(apart("recieve", "receive"), 1);
        assert_eq!(apart("accomodaton", "accommodation"), 2);
        assert_eq!(apart("", "abc"), 3);
        assert_eq!(apart("kitten", "sitting"), 3);
        assert_eq!(apart("same", "same"), 0);
    }

    proptest! {
        #[test]
        fn any_text_is_taken_and_a_protected_one_is_unchanged(text in "(\\PC|becaus|Manger|\\n|[ .'’-]){0,40}") {
            let speller = speller();
            let _out = speller.corrected(&text, &[]);
            let all = 0..text.len();
            prop_assert_eq!(speller.corrected(&text, std::slice::from_ref(&all)), text);
        }

        #[test]
        fn right_words_are_unchanged(text in "((receives|because|The|managers|they|best|Ingrid|don't)[ ,.!\\n]{1,2}){0,20}") {
            prop_assert_eq!(speller().corrected(&text, &[]), text);
        }
    }
}
