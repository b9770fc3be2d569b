//! What changed, word by word.

use serde::Serialize;
use similar::{ChangeTag, TextDiff};

/// A run of text that stayed, went or came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What became of it.
    pub op: Op,
    /// Its text, blanks included.
    pub text: String,
}

/// What became of a run of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// In both texts.
    Equal,
    /// In the old one alone.
    Delete,
    /// In the new one alone.
    Insert,
}

/// The changes that lead from one text to another. Those that are no inserts are the old text; those that are no
/// deletes are the new one.
#[must_use]
pub fn words(before: &str, after: &str) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    for change in TextDiff::from_words(before, after).iter_all_changes() {
        let op = match change.tag() {
            ChangeTag::Equal => Op::Equal,
            ChangeTag::Delete => Op::Delete,
            ChangeTag::Insert => Op::Insert,
        };
        match changes.last_mut() {
            Some(last) if last.op == op => last.text.push_str(change.value()),
            _ => changes.push(Change { op, text: change.value().to_owned() }),
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_that_changed_are_named() {
        let shown: Vec<_> = words("They was late", "They were late.")
            .into_iter()
            .map(|change| (change.op, change.text))
            .collect();
        let expected = [
            (Op::Equal, "They "),
            (Op::Delete, "was"),
            (Op::Insert, "were"),
            (Op::Equal, " "),
            (Op::Delete, "late"),
            (Op::Insert, "late."),
        ];
        assert_eq!(shown, expected.map(|(op, text)| (op, text.to_owned())));
    }

    proptest! {
        #[test]
        fn both_texts_are_in_the_changes(before in "[a-d \n]{0,40}", after in "[a-d \n]{0,40}") {
            let changes = words(&before, &after);
            let without = |op: Op| -> String {
                changes.iter().filter(|change| change.op != op).map(|change| change.text.as_str()).collect()
            };
            prop_assert_eq!(without(Op::Insert), before);
            prop_assert_eq!(without(Op::Delete), after);
        }
    }
}
