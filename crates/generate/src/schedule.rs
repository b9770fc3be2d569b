//! In which order calls are sent, and which of them together.
//!
//! Calls with the same prefix go together, so that it is computed once. Prefixes that begin alike follow each other, so
//! that what they share stays resident in the engine between them. Answers are numbered by call, so the order of
//! sending is nobody else's concern.

use std::collections::BTreeMap;

/// The call numbers that are sent as one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch<'a> {
    /// What all of them begin with.
    pub(crate) prefix: &'a str,
    /// Numbers of calls, ascending.
    pub(crate) numbers: Vec<usize>,
}

/// Groups the calls whose prefixes are given, at most `group_max` together; each number comes once.
pub(crate) fn batches<'a>(
    prefixes: impl IntoIterator<Item = (usize, &'a str)>,
    group_max: usize,
) -> Vec<Batch<'a>> {
    // Sorted by prefix: neighbours share the longest beginnings.
    let mut by_prefix: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (number, prefix) in prefixes {
        by_prefix.entry(prefix).or_default().push(number);
    }
    by_prefix
        .into_iter()
        .flat_map(|(prefix, numbers)| {
            let groups: Vec<_> = numbers.chunks(group_max).map(<[usize]>::to_vec).collect();
            groups.into_iter().map(move |numbers| Batch { prefix, numbers })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_a_prefix_go_together_and_neighbours_share_most() {
        let prefixes = ["doc b | x", "doc a", "doc b", "doc a", "doc b | y", "doc a"];
        let sent = batches(prefixes.iter().copied().enumerate(), 2);
        let shown: Vec<_> = sent.iter().map(|batch| (batch.prefix, batch.numbers.clone())).collect();
        assert_eq!(
            shown,
            [
                ("doc a", vec![1, 3]),
                ("doc a", vec![5]),
                ("doc b", vec![2]),
                ("doc b | x", vec![0]),
                ("doc b | y", vec![4])
            ]
        );
    }
}
