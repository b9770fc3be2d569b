//! How much of a schema was found: for every field, over all records.

use serde::Serialize;

use super::record::{Record, Status};
use super::schema::{Confidence, Schema};

/// A field that fewer records have, in percent, is one to look at: its keywords, its description, the documents.
const RARE_PERCENT: f64 = 30.0;
/// A field that more records have is one that can be relied on.
const USUAL_PERCENT: f64 = 70.0;

/// `quality.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// Records.
    pub records: usize,
    /// Values that were found, of all fields.
    pub values: usize,
    /// Of which stand in the sentence that is their evidence.
    pub aligned: usize,
    /// Every field, in the schema's order.
    pub fields: Vec<FieldQuality>,
    /// Fields that fewer than 30 % of the records have.
    pub rare: Vec<String>,
    /// Fields that more than 70 % of them have.
    pub usual: Vec<String>,
}

/// A field over all records.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FieldQuality {
    /// Its group.
    pub group: String,
    /// Its name.
    pub field: String,
    /// Records that have a value.
    pub found: usize,
    /// The same in percent of all records.
    pub percent: f64,
    /// Of the values, those that stand in the sentence that is their evidence.
    pub aligned: usize,
    /// Of which the model said HIGH.
    pub high: usize,
    /// Of which it said MEDIUM.
    pub medium: usize,
    /// Of which it said LOW, or nothing.
    pub low: usize,
    /// Records in which it is said to be there, and not what it is.
    pub possibly_present: usize,
    /// Records in which every answer to it failed.
    pub failed: usize,
    /// Records in which it was never asked for.
    pub not_extracted: usize,
}

/// Counts what all records have.
#[must_use]
pub fn quality(schema: &Schema, records: &[Record]) -> Quality {
    let of_group = |(group, field): (&str, &str)| of_field(group, field, records);
    let names = schema
        .groups
        .iter()
        .flat_map(|group| group.fields.iter().map(|field| (group.name.as_str(), field.name.as_str())));
    let fields: Vec<FieldQuality> = names.map(of_group).collect();
    let named = |is_it: &dyn Fn(f64) -> bool| {
        let those = fields.iter().filter(|field| is_it(field.percent));
        those.map(|field| field.field.clone()).collect()
    };
    Quality {
        records: records.len(),
        values: fields.iter().map(|field| field.found).sum(),
        aligned: fields.iter().map(|field| field.aligned).sum(),
        rare: named(&|percent| percent < RARE_PERCENT),
        usual: named(&|percent| percent > USUAL_PERCENT),
        fields,
    }
}

fn of_field(group: &str, field: &str, records: &[Record]) -> FieldQuality {
    let mut quality =
        FieldQuality { group: group.to_owned(), field: field.to_owned(), ..FieldQuality::default() };
    for record in records.iter().filter_map(|record| record.fields.get(field)) {
        match record.status {
            Status::Found => {
                quality.found += 1;
                quality.aligned +=
                    usize::from(record.evidence.as_ref().is_some_and(|evidence| evidence.aligned));
                match record.confidence {
                    Some(Confidence::High) => quality.high += 1,
                    Some(Confidence::Medium) => quality.medium += 1,
                    Some(Confidence::Low) | None => quality.low += 1,
                }
            }
            Status::PossiblyPresent => quality.possibly_present += 1,
            Status::ExtractionError => quality.failed += 1,
            Status::NotExtracted => quality.not_extracted += 1,
            Status::NotFound => {}
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of records")]
    let percent = 100.0 * quality.found as f64 / records.len().max(1) as f64;
    quality.percent = percent;
    quality
}
