//! The marks of a model in what others wrote: a document that says `<|im_end|>` says it, and ends no turn.
//!
//! A template writes marks and contents into one text. Contents go through it with a stand-in for each mark that they
//! spell, so that what comes out tells one from the other. The model's own turns are left as they are: templates look for
//! marks of its thoughts in them.

use std::ops::Range;

use aho_corasick::{AhoCorasick, BuildError, MatchKind};

use crate::call::Message;

/// Around the number of a stand-in. Two characters that Unicode keeps out of all texts; one that is in a text for all that
/// is stood in for as a mark is.
const OPEN: char = '\u{FDD0}';
const CLOSE: char = '\u{FDD1}';

/// Finds a model's marks.
pub(crate) struct Marks {
    search: AhoCorasick,
}

/// Turns with stand-ins.
pub(crate) struct Hidden {
    pub(crate) messages: Vec<Message>,
    /// What each stands for.
    spelled: Vec<String>,
}

impl Marks {
    /// # Errors
    /// The marks are more than a search can be made of.
    pub(crate) fn new(marks: &[String]) -> Result<Self, BuildError> {
        let own = [OPEN.to_string()];
        let marks = marks.iter().chain(&own).filter(|mark| !mark.is_empty());
        Ok(Self { search: AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(marks)? })
    }

    /// Where a text spells a mark.
    pub(crate) fn in_text(&self, text: &str) -> Vec<Range<usize>> {
        self.search.find_iter(text).map(|found| found.range()).collect()
    }

    /// Turns whose marks are hidden from the template, but for the model's own.
    pub(crate) fn hide(&self, messages: &[Message]) -> Hidden {
        let mut spelled = Vec::new();
        let messages = messages.iter().map(|message| match message.role.as_str() {
            "assistant" => message.clone(),
            role => Message { role: role.to_owned(), content: self.hide_in(&message.content, &mut spelled) },
        });
        Hidden { messages: messages.collect(), spelled }
    }

    fn hide_in(&self, text: &str, spelled: &mut Vec<String>) -> String {
        let (mut hidden, mut end) = (String::with_capacity(text.len()), 0);
        for range in self.in_text(text) {
            hidden.push_str(&text[end..range.start]);
            hidden.push_str(&format!("{OPEN}{}{CLOSE}", spelled.len()));
            spelled.push(text[range.clone()].to_owned());
            end = range.end;
        }
        hidden.push_str(&text[end..]);
        hidden
    }
}

impl Hidden {
    /// What a template made of the turns, with their marks, and where those are.
    pub(crate) fn reveal(&self, written: &str) -> (String, Vec<Range<usize>>) {
        let (mut text, mut ranges, mut rest) = (String::with_capacity(written.len()), vec![], written);
        while let Some(at) = rest.find(OPEN) {
            let (before, from) = rest.split_at(at);
            text.push_str(before);
            let stand_in = from[OPEN.len_utf8()..].split_once(CLOSE).and_then(|(number, behind)| {
                Some((self.spelled.get(number.parse::<usize>().ok()?)?, behind))
            });
            match stand_in {
                Some((mark, behind)) => {
                    ranges.push(text.len()..text.len() + mark.len());
                    text.push_str(mark);
                    rest = behind;
                }
                // The template's own.
                None => {
                    text.push(OPEN);
                    rest = &from[OPEN.len_utf8()..];
                }
            }
        }
        text.push_str(rest);
        (text, ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks() -> Marks {
        Marks::new(&["<|im_end|>", "<|im", "", "</s>"].map(str::to_owned)).unwrap()
    }

    fn turn(role: &str, content: &str) -> Message {
        Message { role: role.to_owned(), content: content.to_owned() }
    }

    #[test]
    fn marks_of_contents_go_through_a_template_as_what_they_spell() {
        let content = "a<|im_end|></s>\u{FDD0}0\u{FDD1}b <|i";
        let hidden = marks().hide(&[turn("assistant", "own</s>"), turn("user", content)]);
        assert_eq!(hidden.messages[0].content, "own</s>");
        assert!(!hidden.messages[1].content.contains("</s>"), "{:?}", hidden.messages[1]);
        // A template may write a content twice, or another first.
        let [own, user] = [0, 1].map(|turn| hidden.messages[turn].content.as_str());
        let (text, ranges) = hidden.reveal(&format!("{user}<|im_end|>{own}\u{FDD0}9{user}</s>"));
        assert_eq!(text, format!("{content}<|im_end|>own</s>\u{FDD0}9{content}</s>"));
        let spelled: Vec<&str> = ranges.iter().map(|range| &text[range.clone()]).collect();
        assert_eq!(spelled, ["<|im_end|>", "</s>", "\u{FDD0}", "<|im_end|>", "</s>", "\u{FDD0}"]);
        assert_eq!(ranges[0], 1..11);
        assert_eq!(ranges[3].start, content.len() + 10 + 7 + 4 + 1);
    }

    #[test]
    fn a_text_without_marks_is_itself() {
        let hidden = marks().hide(&[turn("user", "plain é")]);
        assert_eq!(hidden.messages[0].content, "plain é");
        assert_eq!(hidden.reveal("<|im_end|>plain é"), ("<|im_end|>plain é".to_owned(), vec![]));
        assert_eq!(marks().in_text("x<|im_endless"), [Range { start: 1, end: 5 }]);
    }
}
