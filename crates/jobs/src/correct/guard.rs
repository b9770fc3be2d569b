//! What an answer must not do: a correction leaves numbers, names, marks and meaning where they were.

use std::collections::BTreeMap;
use std::ops::Range;

use haul_generate::call::Finish;
use similar::TextDiff;

/// Shares of the text's length that an answer may have; short texts may gain and lose [`CHARS_FREE`] besides.
const LENGTH_MIN: f32 = 0.6;
const LENGTH_MAX: f32 = 1.6;
const CHARS_FREE: f32 = 12.0;
/// Of the characters of both texts, so many must be common to them.
const LIKENESS_MIN: f32 = 0.6;
/// A name may be spelled otherwise by so many letters.
const NAME_EDITS_MAX: usize = 2;
/// Words of so many letters carry the meaning; shorter ones are what grammar changes.
const CONTENT_CHARS_MIN: usize = 5;
/// One content word in so many may go or come: a better word is a correction, other words are another text.
const CONTENT_PER_CHANGE: usize = 8;
/// The same words so often one after another are a loop.
const REPEATS_MAX: usize = 4;
/// Marks that a correction does not bring in.
const MARKS: [char; 9] = ['*', '_', '`', '#', '<', '>', '|', '[', ']'];
/// A full stop behind these ends no sentence.
const TITLES: [&str; 10] = ["Mr.", "Mrs.", "Ms.", "Dr.", "St.", "Prof.", "Capt.", "Col.", "Gen.", "Rev."];
/// Words that deny, as they are written and as they are misspelled; and all that end in n't.
const DENIALS: [&str; 22] = [
    "not", "no", "never", "none", "nothing", "nobody", "nor", "cannot", "without", "dont", "doesnt", "didnt",
    "isnt", "wasnt", "werent", "cant", "couldnt", "wouldnt", "shouldnt", "hasnt", "havent", "wont",
];
const PREAMBLES: [&str; 5] =
    ["here is the corrected", "here's the corrected", "corrected text:", "corrected:", "sure,"];

/// Why an answer is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Drift {
    /// It reached the limit on its length.
    #[error("the answer was cut at its limit of tokens")]
    Cut,
    /// There is nothing in it.
    #[error("the answer is empty")]
    Empty,
    /// Digits changed.
    #[error("numbers changed from {} to {}", listed(before), listed(after))]
    Numbers {
        /// Of the text.
        before: Vec<String>,
        /// Of the answer.
        after: Vec<String>,
    },
    /// A name went, or came.
    #[error("the name \"{name}\" is {}", if *.is_lost { "lost" } else { "new" })]
    Name {
        /// The name.
        name: String,
        /// Whether it was in the text.
        is_lost: bool,
    },
    /// Something is denied that was not, or no more.
    #[error("the answer says the opposite")]
    Denial,
    /// Words that carry the meaning went, or came.
    #[error("{} {}", listed(words), if *.are_lost { "are lost" } else { "are new" })]
    Content {
        /// The words.
        words: Vec<String>,
        /// Whether they were in the text.
        are_lost: bool,
    },
    /// A mark of a markup language came in.
    #[error("the answer brings in \"{0}\"")]
    Mark(char),
    /// Code or an address changed.
    #[error("\"{0}\" may not change")]
    Protected(String),
    /// Much longer or shorter.
    #[error("{after} characters where there were {before}")]
    Length {
        /// Of the text.
        before: usize,
        /// Of the answer.
        after: usize,
    },
    /// Other words altogether.
    #[error("only {percent} % of the text is left")]
    Rewritten {
        /// Of the characters of both, those in common.
        percent: u32,
    },
    /// It speaks about the text.
    #[error("the answer begins with words about itself")]
    Preamble,
    /// It says the same again and again.
    #[error("the answer repeats \"{0}\"")]
    Loop(String),
    /// It begins with what the model thought.
    #[error("the model thinks aloud before it answers; take one that does not, or turn it off at its server")]
    Thinks,
}

fn listed(words: &[String]) -> String {
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

impl Drift {
    /// Its verdict in reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Drift::Cut => "cut",
            Drift::Empty => "empty",
            Drift::Numbers { .. } => "numbers",
            Drift::Name { .. } => "name",
            Drift::Denial => "denial",
            Drift::Content { .. } => "content",
            Drift::Mark(_) => "mark",
            Drift::Protected(_) => "protected",
            Drift::Length { .. } => "length",
            Drift::Rewritten { .. } => "rewritten",
            Drift::Preamble => "preamble",
            Drift::Loop(_) => "loop",
            Drift::Thinks => "thinks",
        }
    }
}

/// How models begin that think aloud: DeepSeek-R1 and Qwen3, GPT-OSS.
const THOUGHTS: [&str; 3] = ["<think>", "<thinking>", "<|channel|>analysis"];

/// Holds an answer against its text.
///
/// # Errors
/// The first thing that it must not do.
pub fn check(before: &str, protected: &[Range<usize>], after: &str, finish: Finish) -> Result<(), Drift> {
    if THOUGHTS.into_iter().any(|mark| after.trim_start().starts_with(mark) && !before.starts_with(mark)) {
        return Err(Drift::Thinks);
    }
    if finish == Finish::Length {
        return Err(Drift::Cut);
    }
    if after.trim().is_empty() {
        return Err(Drift::Empty);
    }
    preamble(before, after)?;
    for range in protected.iter().filter(|range| !range.is_empty()) {
        let kept = &before[range.clone()];
        if before.matches(kept).count() != after.matches(kept).count() {
            return Err(Drift::Protected(kept.to_owned()));
        }
    }
    for tag in tags(before) {
        if before.matches(tag).count() != after.matches(tag).count() {
            return Err(Drift::Protected(tag.to_owned()));
        }
    }
    for mark in MARKS {
        if after.matches(mark).count() > before.matches(mark).count() {
            return Err(Drift::Mark(mark));
        }
    }
    let (old, new) = (numbers(before), numbers(after));
    if old != new {
        return Err(Drift::Numbers { before: old, after: new });
    }
    names(before, after)?;
    denial(before, after)?;
    repetition(before, after)?;
    length(before, after)?;
    likeness(before, after)?;
    content(before, after)
}

/// What stands between angles without a blank, as written: `<b>`, `</s>`, `<|im_end|>`. In a text it is no markup, and
/// models take marks of their own out.
fn tags(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices('<').filter_map(|(start, _)| {
        let end = start + 1 + text[start + 1..].find(['<', '>']).filter(|length| *length > 0)?;
        let is_tag = text[end..].starts_with('>') && !text[start..end].contains(char::is_whitespace);
        is_tag.then(|| &text[start..=end])
    })
}

fn preamble(before: &str, after: &str) -> Result<(), Drift> {
    let (before, after) = (before.to_lowercase(), after.trim_start().to_lowercase());
    let is_about_itself = |start: &str| after.starts_with(start) && !before.starts_with(start);
    if PREAMBLES.into_iter().any(is_about_itself) { Err(Drift::Preamble) } else { Ok(()) }
}

fn length(before: &str, after: &str) -> Result<(), Drift> {
    let (old, new) = (before.chars().count(), after.chars().count());
    let (low, high) = (old as f32 * LENGTH_MIN - CHARS_FREE, old as f32 * LENGTH_MAX + CHARS_FREE);
    if (low..=high).contains(&(new as f32)) { Ok(()) } else { Err(Drift::Length { before: old, after: new }) }
}

fn likeness(before: &str, after: &str) -> Result<(), Drift> {
    let (before, after) = (before.to_lowercase(), after.to_lowercase());
    let ratio = TextDiff::from_chars(before.as_str(), after.as_str()).ratio();
    if ratio >= LIKENESS_MIN {
        return Ok(());
    }
    Err(Drift::Rewritten { percent: (ratio * 100.0) as u32 })
}

/// Numbers in their order, with sign, currency and percent: `$1,250.00`, `-5`, `12:30`, `7` of `7th`, `4.5%`.
fn numbers(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        if !chars[at].is_numeric() {
            at += 1;
            continue;
        }
        let start = at;
        while at < chars.len()
            && (chars[at].is_numeric()
                || (matches!(chars[at], '.' | ',' | ':')
                    && chars.get(at + 1).is_some_and(|c| c.is_numeric())))
        {
            at += 1;
        }
        let sign = chars[..start].last().filter(|sign| match sign {
            '$' | '€' | '£' | '¥' => true,
            // A dash behind a word or a number is no sign.
            '-' | '−' | '+' => start < 2 || chars[start - 2].is_whitespace(),
            _ => false,
        });
        let blank = usize::from(chars.get(at).is_some_and(|c| c.is_whitespace()));
        let percent = chars.get(at + blank).filter(|c| **c == '%');
        found.push(sign.into_iter().chain(&chars[start..at]).chain(percent).collect());
    }
    found
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '’').filter(|word| !word.is_empty())
}

/// Words that are written large where a sentence does not begin, or with more than one large letter.
fn named(text: &str) -> BTreeMap<&str, usize> {
    let mut names = BTreeMap::new();
    let mut begins = true;
    for token in text.split_whitespace() {
        for word in words(token) {
            let large = word.chars().filter(|c| c.is_uppercase()).count();
            let is_pronoun = word == "I" || word.starts_with("I'") || word.starts_with("I’");
            if large > 1 || (large == 1 && !begins && !is_pronoun && word.chars().count() > 1) {
                *names.entry(word).or_default() += 1;
            }
            begins = false;
        }
        let is_title = TITLES.contains(&token) || (token.len() == 2 && token.ends_with('.'));
        begins = token.ends_with(['.', '!', '?', ':', '"', '”']) && !is_title;
    }
    names
}

fn names(before: &str, after: &str) -> Result<(), Drift> {
    let count = |text: &str, name: &str| words(text).filter(|word| is_spelled_alike(word, name)).count();
    let (old, new) = (named(before), named(after));
    let lost = old.iter().find(|(name, times)| count(after, name) < **times);
    if let Some((name, _)) = lost {
        return Err(Drift::Name { name: (*name).to_owned(), is_lost: true });
    }
    match new.keys().find(|name| count(before, name) == 0) {
        Some(name) => Err(Drift::Name { name: (*name).to_owned(), is_lost: false }),
        None => Ok(()),
    }
}

/// What was denied is denied still. How often does not matter: a double denial is a mistake that is corrected.
fn denial(before: &str, after: &str) -> Result<(), Drift> {
    let denies = |text: &str| {
        words(text)
            .map(|word| word.to_lowercase().replace('’', "'"))
            .any(|word| DENIALS.contains(&word.as_str()) || word.ends_with("n't"))
    };
    if denies(before) == denies(after) { Ok(()) } else { Err(Drift::Denial) }
}

/// Every word that carries the meaning has one like it in the other text, but for a few in a long text.
fn content(before: &str, after: &str) -> Result<(), Drift> {
    let missing = |from: &str, other: &str| -> Vec<String> {
        let there: Vec<String> = words(other).map(str::to_lowercase).collect();
        let is_content = |word: &&str| word.chars().count() >= CONTENT_CHARS_MIN;
        let has_none = |word: &String| !there.iter().any(|other| is_form_of(word, other));
        words(from).filter(is_content).map(str::to_lowercase).filter(has_none).collect()
    };
    let all = words(before).filter(|word| word.chars().count() >= CONTENT_CHARS_MIN).count();
    let lost = missing(before, after);
    if lost.len() > all / CONTENT_PER_CHANGE {
        return Err(Drift::Content { words: lost, are_lost: true });
    }
    let new = missing(after, before);
    if new.len() > all / CONTENT_PER_CHANGE {
        return Err(Drift::Content { words: new, are_lost: false });
    }
    Ok(())
}

/// Another form or spelling of a word: `payed` and `paid`, `qualiti` and `quality`, not `reviewed` and `approved`.
fn is_form_of(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let apart = distance(&a, &b);
    let longer = a.len().max(b.len());
    apart <= NAME_EDITS_MAX.min(longer / 3) || (a.first() == b.first() && 2 * apart <= longer)
}

/// The same word, but for case and a few letters.
fn is_spelled_alike(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) =
        (a.to_lowercase().chars().collect(), b.to_lowercase().chars().collect());
    if a == b {
        return true;
    }
    let may = NAME_EDITS_MAX.min(a.len().min(b.len()) / 3);
    a.len().abs_diff(b.len()) <= may && distance(&a, &b) <= may
}

/// Levenshtein's distance, row by row.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// One to three words, again and again, and not so in the text.
fn repetition(before: &str, after: &str) -> Result<(), Drift> {
    let longest = |text: &str| -> Option<(usize, String)> {
        let words: Vec<&str> = words(text).collect();
        (1..=3_usize)
            .filter_map(|width| {
                let mut best: Option<(usize, usize)> = None;
                let (mut run, mut at) = (1, width);
                while at + width <= words.len() {
                    run = if words[at..at + width] == words[at - width..at] { run + 1 } else { 1 };
                    if best.is_none_or(|(longest, _)| run > longest) {
                        best = Some((run, at));
                    }
                    at += width;
                }
                best.map(|(run, at)| (run, words[at..at + width].join(" ")))
            })
            .max()
    };
    match longest(after) {
        Some((run, said)) if run > REPEATS_MAX && longest(before).is_none_or(|(old, _)| old < run) => {
            Err(Drift::Loop(said))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drift(before: &str, after: &str) -> Option<Drift> {
        check(before, &[], after, Finish::Stop).err()
    }

    /// Such an answer was called too long, and asked for again sentence by sentence.
    #[test]
    fn a_model_that_thinks_aloud_is_named() {
        for finish in [Finish::Stop, Finish::Length] {
            let thought = check("I goes.", &[], "\n<think>\nThe verb is wrong.\n</think>\nI go.", finish);
            assert_eq!(thought, Err(Drift::Thinks));
        }
    }

    #[test]
    fn drifts_are_said_without_marks_of_a_program() {
        let changed = drift("It cost 5 pounds and 7 pence.", "It cost some pounds and pence.").unwrap();
        assert_eq!(changed.to_string(), "numbers changed from 5, 7 to none");
    }

    #[test]
    fn corrections_pass() {
        for (before, after) in [
            (
                "The new manager have improved the qualiti of the reports",
                "The new manager has improved the quality of the reports.",
            ),
            ("they was late becaus of Mrs. Hallow", "They were late because of Mrs. Hallow."),
            (
                "We payed $1,250.00 on 3 May 2024 to Anna-Lise O'Neill.",
                "We paid $1,250.00 on 3 May 2024 to Anna-Lise O'Neill.",
            ),
            ("In Jannuary the NASA teem came", "In January the NASA team came."),
            ("I goes", "I go."),
            ("ok", "OK."),
        ] {
            assert_eq!(drift(before, after), None, "{before}");
        }
    }

    #[test]
    #[expect(
        clippy::too_many_lines,
        clippy::single_range_in_vec_init,
        reason = "a table; protected ranges are a list"
    )]
    fn each_drift_has_its_name() {
        use Drift as D;
        let text = "On 12 May the Harbour Board paid 1,200 pounds to Ingrid Solheim for the crane.";
        assert!(matches!(drift(text, &text.replace("1,200", "1,300")), Some(D::Numbers { .. })));
        assert!(matches!(drift(text, &text.replace("12 May", "May")), Some(D::Numbers { .. })));
        assert!(matches!(
            drift(text, &text.replace("Ingrid Solheim", "her")),
            Some(D::Name { is_lost: true, .. })
        ));
        assert!(matches!(
            drift(text, &text.replace("the crane", "the crane of Bergen")),
            Some(D::Name { is_lost: false, .. })
        ));
        let changed = |before: &str, after: &str| matches!(drift(before, after), Some(D::Content { .. }));
        assert!(changed(
            "The committee have reviewed the report.",
            "The committee have approved the report."
        ));
        assert!(changed("The quality of the work has improved.", "The quality of the work has been."));
        assert!(changed("The quality of the work has been.", "The quality of the work has been approved."));
        assert_eq!(drift(text, &text.replace("paid", "**paid**")), Some(D::Mark('*')));
        assert_eq!(drift(text, ""), Some(D::Empty));
        assert_eq!(drift(text, &format!("Here is the corrected text: {text}")), Some(D::Preamble));
        assert!(matches!(
            drift("the crane stood at the end of the old pier", "the crane"),
            Some(D::Length { .. })
        ));
        assert!(matches!(
            drift("they was late again today", "the turbine was super unsecured"),
            Some(D::Rewritten { .. })
        ));
        assert!(matches!(
            drift(
                "it was very nice to see all of the boats come in",
                "it was very very very very very very nice to see"
            ),
            Some(D::Loop(_))
        ));
        assert_eq!(check(text, &[], text, Finish::Length), Err(D::Cut));
        for (before, after) in [
            ("We met Ingrid there.", "We met her there."),
            ("It was Mrs. Hallow who came.", "It was Mrs. Smith who came."),
            ("Then Anna came and Anna left.", "Then Anna came and she left."),
        ] {
            assert!(
                matches!(drift(before, after), Some(D::Name { .. })),
                "{before}: {:?}",
                drift(before, after)
            );
        }
        for (before, after) in [
            ("open 3:30pm-4:45pm today", "open 3:30pm-5:45pm today"),
            ("a load of 10kg/20kg", "a load of 10kg/90kg"),
            ("it was -5 outside", "it was 5 outside"),
            ("for $500 a day", "for €500 a day"),
            ("a fee of 5% a year", "a fee of 5 a year"),
            ("from 9 to 5 daily", "from 5 to 9 daily"),
            ("the ٣ houses there", "the ٤ houses there"),
        ] {
            assert!(
                matches!(drift(before, after), Some(D::Numbers { .. })),
                "{before}: {:?}",
                drift(before, after)
            );
        }
        // Models take their own marks out, which a text may be about.
        for (before, after, tag) in [
            ("It have ended.<|im_end|>", "It has ended.", "<|im_end|>"),
            ("A tag such as </s> end it.", "A tag such as ends it.", "</s>"),
            ("If a <b> was here <b> again.", "If a <b> were here again.", "<b>"),
        ] {
            assert_eq!(drift(before, after), Some(D::Protected(tag.to_owned())));
        }
        assert_eq!(drift("It were a < b and c > d.", "It was a < b and c > d."), None);
        assert_eq!(drift("They did not approve it.", "They did approve it."), Some(D::Denial));
        assert_eq!(drift("They dont have no time.", "They don't have any time."), None);
        assert_eq!(check("as it is", &[3..3], "as it is", Finish::Stop), Ok(()));
        let code = "run `make all` now";
        assert_eq!(
            check(code, &[4..14], "run `make ball` now", Finish::Stop),
            Err(D::Protected("`make all`".to_owned()))
        );
    }

    proptest! {
        #[test]
        fn an_unchanged_text_always_passes(text in "[A-Za-z0-9 .,'\"*_#-]{1,200}") {
            prop_assume!(!text.trim().is_empty());
            prop_assert_eq!(check(&text, &[], &text, Finish::Stop), Ok(()));
        }

        #[test]
        fn a_changed_digit_never_passes(text in "[a-z ]{0,40}[0-9]{1,9}[a-z ]{0,40}", at in any::<prop::sample::Index>()) {
            let digits: Vec<usize> = text.char_indices().filter(|(_, c)| c.is_ascii_digit()).map(|(at, _)| at).collect();
            let at = digits[at.index(digits.len())];
            let other = if &text[at..=at] == "7" { "8" } else { "7" };
            let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            let refused = matches!(check(&text, &[], &changed, Finish::Stop), Err(Drift::Numbers { .. }));
            prop_assert!(refused);
        }
    }
}
