//! Which row of the golden table is which record.

use std::collections::BTreeMap;

use super::cell::Agreement;
use super::{Reader, Row, Sheet};
use crate::extract::normalise::folded;

/// A row of the golden table and its record, as far as there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) golden: Option<usize>,
    pub(super) record: Option<usize>,
}

/// How well two rows of a company go together: by their names first, then by how many cells agree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Fit {
    name: u8,
    cells: usize,
}

/// Every row of both once. In a company, the rows that go together best are matched first; rows without a name in common
/// go together where half of what the golden row says agrees.
pub(super) fn matched(golden: &Sheet, records: &Sheet, reader: &Reader<'_>) -> Vec<Pair> {
    let mut companies: BTreeMap<String, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    for (at, row) in golden.rows.iter().enumerate() {
        companies.entry(folded(&row.company)).or_default().0.push(at);
    }
    for (at, row) in records.rows.iter().enumerate() {
        companies.entry(folded(&row.company)).or_default().1.push(at);
    }
    let mut pairs = Vec::new();
    for (of_golden, of_records) in companies.into_values() {
        pairs.extend(of_company(golden, records, &of_golden, &of_records, reader));
    }
    // In the order of the golden table, what is extra at its end.
    pairs.sort_by_key(|pair| (pair.golden.unwrap_or(usize::MAX), pair.record));
    pairs
}

fn of_company(
    golden: &Sheet,
    records: &Sheet,
    of_golden: &[usize],
    of_records: &[usize],
    reader: &Reader<'_>,
) -> Vec<Pair> {
    let mut fits = Vec::new();
    for &g in of_golden {
        for &r in of_records {
            if let Some(fit) = fit(&golden.rows[g], &records.rows[r], reader) {
                fits.push((fit, g, r));
            }
        }
    }
    // The best first; of those that are equal, the first rows.
    fits.sort_by(|a, b| b.0.cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut pairs: Vec<Pair> = Vec::new();
    for (_, g, r) in fits {
        if !pairs.iter().any(|pair| pair.golden == Some(g) || pair.record == Some(r)) {
            pairs.push(Pair { golden: Some(g), record: Some(r) });
        }
    }
    let alone =
        |at: &&usize, is: fn(&Pair) -> Option<usize>| !pairs.iter().any(|pair| is(pair) == Some(**at));
    let missing = of_golden.iter().filter(|at| alone(at, |pair| pair.golden));
    let missing: Vec<Pair> = missing.map(|at| Pair { golden: Some(*at), record: None }).collect();
    let extra = of_records.iter().filter(|at| alone(at, |pair| pair.record));
    let extra: Vec<Pair> = extra.map(|at| Pair { golden: None, record: Some(*at) }).collect();
    pairs.extend(missing);
    pairs.extend(extra);
    pairs
}

fn fit(golden: &Row, record: &Row, reader: &Reader<'_>) -> Option<Fit> {
    let agree = golden.cells.iter().filter(|(column, value)| {
        let found = record.cells.get(*column);
        found.is_some_and(|found| reader.agreement(column, value, found) != Agreement::Not)
    });
    let cells = agree.count();
    let is_unnamed = golden.facility.is_empty() || record.facility.is_empty();
    let name = match reader.agreement(super::FACILITY, &golden.facility, &record.facility) {
        _ if is_unnamed => 0,
        Agreement::Strict => 2,
        Agreement::Lenient => 1,
        Agreement::Not => 0,
    };
    let goes = name > 0 || cells * 2 >= golden.cells.len().max(1);
    goes.then_some(Fit { name, cells })
}
