//! Records beside a table of what is true: how many values are right, wrong, missing and invented, by column.
//!
//! Rows are matched by company and by what they say, never by their place. A row of the golden table without a record
//! counts all its values as missing, and a record without a row all of its as invented.

mod cell;
mod rows;
mod table;

use std::collections::BTreeMap;

use serde::Serialize;

use super::record::{Record, Status};
use super::schema::{DateFormat, Field, Formats, Schema};
use cell::{Agreement, agreement, stated};

pub use table::{Table, TableError};

/// The column of the company, for [`Columns`].
pub const COMPANY: &str = "company";
/// The column of the entity, for [`Columns`].
pub const FACILITY: &str = "facility";
/// What our own tables call the column of the company.
const COMPANY_HEADS: [&str; 4] = ["company", "client folder", "client", "company name"];
const FACILITY_HEADS: [&str; 3] = ["facility", "facility name", "entity"];
/// A column of our own tables that names the entity among other things.
const COMMENTS: &str = "comments";
/// Columns of the written table that are about the record and say nothing of a field, by their keys.
const OF_THE_RECORD: [&str; 3] = [COMMENTS, "sourcefiles", "confidencescore"];

/// Which column of the golden table is which of the records: names of golden columns with names of fields, their labels or
/// heads, `company` or `facility`.
pub type Columns = BTreeMap<String, String>;

/// A table of facts about entities.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sheet {
    /// Columns that hold facts.
    columns: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Row {
    company: String,
    facility: String,
    /// By columns.
    cells: BTreeMap<String, String>,
}

/// Two tables cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// The map names a column that the golden table has not.
    #[error("the column map names {name:?}, which is no column of the golden table{}", meant(.nearest.as_ref()))]
    NoGoldenColumn {
        /// The name.
        name: String,
        /// The column that is spelled most alike.
        nearest: Option<String>,
    },
    /// The map names a column that the records have not.
    #[error("the column map names {name:?}, which is no column of the records{}", meant(.nearest.as_ref()))]
    NoRecordColumn {
        /// The name.
        name: String,
        /// The column that is spelled most alike.
        nearest: Option<String>,
    },
    /// No column of the golden table says which company a row is of.
    #[error("no column of the {table} says which company a row is of")]
    NoCompany {
        /// Which table.
        table: &'static str,
    },
    /// Two columns of the golden table stand for the same one of the records.
    #[error("the columns {first:?} and {second:?} of the golden table are both {column:?}")]
    Twice {
        /// The one before.
        first: String,
        /// The one behind.
        second: String,
        /// The column of the records.
        column: String,
    },
    /// The two have no column in common.
    #[error("no column of the golden table is a column of the records")]
    NothingInCommon,
}

impl CompareError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            CompareError::NoGoldenColumn { .. } | CompareError::NoRecordColumn { .. } => None,
            CompareError::Twice { .. } => {
                Some("leave one of them out of the table, or map it to another with --columns")
            }
            CompareError::NoCompany { .. } => {
                Some("say it with --columns MAP.toml, a line such as \"Client\" = \"company\"")
            }
            CompareError::NothingInCommon => Some(
                "say which is which with --columns MAP.toml, a line such as \"Final maturity\" = \"maturity\"",
            ),
        }
    }
}

fn meant(nearest: Option<&String>) -> String {
    nearest.map_or_else(String::new, |nearest| format!(" (did you mean {nearest:?}?)"))
}

/// How many values are right.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Values of the golden table, those of rows without a record included.
    pub golden: usize,
    /// The same value in normal form.
    pub strict: usize,
    /// Not the same, and as much as both say.
    pub lenient: usize,
    /// Another value.
    pub wrong: usize,
    /// None in the record.
    pub missing: usize,
    /// In the record, and none in the golden table.
    pub invented: usize,
    /// In neither, of rows that both have.
    pub neither: usize,
}

impl Counts {
    /// The share of golden values that are the same in normal form; none without golden values.
    #[must_use]
    pub fn strict_accuracy(&self) -> Option<f64> {
        share(self.strict, self.golden)
    }

    /// The share of golden values that agree as far as both say.
    #[must_use]
    pub fn lenient_accuracy(&self) -> Option<f64> {
        share(self.strict + self.lenient, self.golden)
    }

    fn add(&mut self, other: &Counts) {
        self.golden += other.golden;
        self.strict += other.strict;
        self.lenient += other.lenient;
        self.wrong += other.wrong;
        self.missing += other.missing;
        self.invented += other.invented;
        self.neither += other.neither;
    }
}

#[expect(clippy::cast_precision_loss, reason = "cells of a table")]
fn share(part: usize, of: usize) -> Option<f64> {
    (of > 0).then(|| part as f64 / of as f64)
}

/// What comparing two tables comes to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Over all columns.
    pub overall: Counts,
    /// Each column that both have, the worst first.
    pub columns: Vec<Column>,
    /// Rows of the golden table.
    pub golden_rows: usize,
    /// Rows of the records.
    pub record_rows: usize,
    /// Rows of the golden table without a record.
    pub missing_rows: Vec<RowName>,
    /// Records without a row in the golden table.
    pub extra_rows: Vec<RowName>,
    /// Columns of the golden table that no column of the records is.
    pub not_compared: Vec<String>,
    /// Cells that are not the same.
    pub differences: Vec<Difference>,
}

/// A column and how many of its values are right.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Column {
    /// As the records call it.
    pub name: String,
    /// Its values.
    #[serde(flatten)]
    pub counts: Counts,
}

/// Which row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RowName {
    /// The company.
    pub company: String,
    /// The entity.
    pub facility: String,
}

/// A cell in which the two tables differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The company.
    pub company: String,
    /// The entity, as the golden table names it, or else the records.
    pub facility: String,
    /// The column.
    pub column: String,
    /// What the golden table says.
    pub golden: Option<String>,
    /// What the record says.
    pub found: Option<String>,
    /// What the difference is: `lenient`, `wrong`, `missing`, `invented`.
    pub kind: &'static str,
}

impl Sheet {
    /// Records as a table: a column for each field, by its name.
    #[must_use]
    pub fn of_records(records: &[Record]) -> Sheet {
        let mut sheet = Sheet::default();
        for record in records {
            let mut cells = BTreeMap::new();
            for (name, field) in &record.fields {
                if !sheet.columns.contains(name) {
                    sheet.columns.push(name.clone());
                }
                let value = field.normal.as_ref().or(field.value.as_ref());
                if let (Status::Found, Some(value)) = (field.status, value) {
                    cells.insert(name.clone(), value.clone());
                }
            }
            let (company, facility) = (record.company.clone(), record.facility.clone());
            sheet.rows.push(Row { company, facility, cells });
        }
        sheet
    }

    /// A table of records as `haul extract` writes it, or any that has a column for the company.
    ///
    /// # Errors
    /// No column says which company a row is of.
    pub fn of_table(table: &Table, schema: Option<&Schema>) -> Result<Sheet, CompareError> {
        let name = |head: &String| {
            let name = canonical(head, schema);
            let is_field = schema.is_some_and(|schema| schema.field(&name).is_some());
            (is_field || !OF_THE_RECORD.contains(&key(head).as_str())).then_some(name)
        };
        let names: Vec<_> = table.head.iter().map(name).collect();
        sheet(table, &names, "records")
    }

    /// The golden table in the columns of the records, and which of its columns are none of them.
    fn of_golden(
        table: &Table,
        columns: &Columns,
        records: &Sheet,
        schema: Option<&Schema>,
    ) -> Result<(Sheet, Vec<String>), CompareError> {
        for name in columns.keys() {
            if !table.head.contains(name) {
                return Err(CompareError::NoGoldenColumn {
                    name: name.clone(),
                    nearest: nearest(name, &table.head),
                });
            }
        }
        let mut names = Vec::new();
        let mut not_compared = Vec::new();
        for head in &table.head {
            let name = match columns.get(head) {
                Some(mapped) => Some(records.column(mapped, schema)?),
                None => records.column(head, schema).ok(),
            };
            if name.is_none() && !head.is_empty() {
                not_compared.push(head.clone());
            }
            let before = names.iter().position(|known: &Option<String>| *known == name);
            if let (Some(column), Some(at)) = (&name, before) {
                let (first, second) = (table.head[at].clone(), head.clone());
                return Err(CompareError::Twice { first, second, column: column.clone() });
            }
            names.push(name);
        }
        Ok((sheet(table, &names, "golden table")?, not_compared))
    }

    /// The column that a name stands for.
    fn column(&self, name: &str, schema: Option<&Schema>) -> Result<String, CompareError> {
        let wanted = canonical(name, schema);
        let key = key(&wanted);
        if wanted == COMPANY || wanted == FACILITY {
            return Ok(wanted);
        }
        if self.rows.is_empty() && schema.is_none_or(|schema| schema.field(&wanted).is_some()) {
            // Nothing was found, so that all of the golden table is missing.
            return Ok(wanted);
        }
        let found = self.columns.iter().find(|column| self::key(column) == key);
        found.cloned().ok_or_else(|| CompareError::NoRecordColumn {
            name: name.to_owned(),
            nearest: nearest(name, &self.columns),
        })
    }
}

/// A table under other names; columns without a name are left out.
fn sheet(table: &Table, names: &[Option<String>], which: &'static str) -> Result<Sheet, CompareError> {
    let at = |wanted: &str| names.iter().position(|name| name.as_deref() == Some(wanted));
    let company = at(COMPANY).ok_or(CompareError::NoCompany { table: which })?;
    let facility = at(FACILITY);
    let comments = table.head.iter().position(|head| key(head) == COMMENTS);
    let facts: Vec<(usize, &String)> = names
        .iter()
        .enumerate()
        .filter_map(|(at, name)| Some((at, name.as_ref()?)))
        .filter(|(_, name)| *name != COMPANY && *name != FACILITY && !name.is_empty())
        .collect();
    let row = |cells: &Vec<String>| {
        let named = facility.map(|at| cells[at].trim().to_owned());
        let from_comments = || comments.map(|at| facility_of(&cells[at]));
        Row {
            company: cells[company].trim().to_owned(),
            facility: named.or_else(from_comments).unwrap_or_default(),
            cells: facts
                .iter()
                .filter_map(|(at, name)| Some(((*name).clone(), stated(&cells[*at])?.to_owned())))
                .collect(),
        }
    };
    let columns = facts.iter().map(|(_, name)| (*name).clone()).collect();
    Ok(Sheet { columns, rows: table.rows.iter().map(row).collect() })
}

/// `Facility: Term Loan A | Type: term loan` names Term Loan A. The first word is the schema's name of the entity.
fn facility_of(comments: &str) -> String {
    let named = comments.split(" | Type:").next().and_then(|part| part.split_once(':'));
    named.map_or_else(String::new, |(_, name)| name.trim().to_owned())
}

/// The name of the field that a head is the name or label of; the head itself where there is none.
fn canonical(head: &str, schema: Option<&Schema>) -> String {
    let key = key(head);
    if COMPANY_HEADS.contains(&head.trim().to_lowercase().as_str()) {
        return COMPANY.to_owned();
    }
    let is_it = |field: &&Field| self::key(&field.name) == key || self::key(&field.label) == key;
    if let Some(field) = schema.and_then(|schema| schema.fields().find(is_it)) {
        return field.name.clone();
    }
    if FACILITY_HEADS.contains(&head.trim().to_lowercase().as_str()) {
        return FACILITY.to_owned();
    }
    head.to_owned()
}

/// Heads are compared by their letters and digits: `Maturity date` and `maturity_date` are one.
fn key(head: &str) -> String {
    head.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn nearest(name: &str, among: &[String]) -> Option<String> {
    const ALIKE: f64 = 0.6;
    let alike = |other: &&String| strsim::jaro_winkler(&key(name), &key(other));
    among.iter().max_by(|a, b| alike(a).total_cmp(&alike(b))).filter(|other| alike(other) >= ALIKE).cloned()
}

/// Compares records with what is true. With a schema, columns may be named by fields or labels, and cells are read by the
/// types of their fields.
///
/// # Errors
/// The columns of the two do not go together.
pub fn compare(
    records: &Sheet,
    golden: &Table,
    columns: &Columns,
    schema: Option<&Schema>,
) -> Result<Comparison, CompareError> {
    let (golden, not_compared) = Sheet::of_golden(golden, columns, records, schema)?;
    if golden.columns.is_empty() {
        return Err(CompareError::NothingInCommon);
    }
    let formats = schema
        .map_or(Formats { date: DateFormat::Day, day_first: None, decimal: '.' }, |schema| schema.formats);
    let reader = Reader { schema, formats };
    let matched = rows::matched(&golden, records, &reader);
    let mut by_column: BTreeMap<&String, Counts> = BTreeMap::new();
    let mut differences = Vec::new();
    for pair in &matched {
        for column in &golden.columns {
            let counts = by_column.entry(column).or_default();
            differences.extend(reader.cell(&golden, records, *pair, column, counts));
        }
    }
    let mut overall = Counts::default();
    by_column.values().for_each(|counts| overall.add(counts));
    let mut columns: Vec<Column> =
        by_column.into_iter().map(|(name, counts)| Column { name: name.clone(), counts }).collect();
    columns.sort_by(|a, b| {
        let of = |column: &Column| column.counts.lenient_accuracy().unwrap_or(1.0);
        of(a).total_cmp(&of(b)).then(b.counts.golden.cmp(&a.counts.golden))
    });
    let missing = matched.iter().filter(|pair| pair.record.is_none()).filter_map(|pair| pair.golden);
    let extra = matched.iter().filter(|pair| pair.golden.is_none()).filter_map(|pair| pair.record);
    Ok(Comparison {
        overall,
        columns,
        golden_rows: golden.rows.len(),
        record_rows: records.rows.len(),
        missing_rows: missing.map(|at| golden.rows[at].name()).collect(),
        extra_rows: extra.map(|at| records.rows[at].name()).collect(),
        not_compared,
        differences,
    })
}

impl Row {
    fn name(&self) -> RowName {
        RowName { company: self.company.clone(), facility: self.facility.clone() }
    }
}

/// How cells are read.
struct Reader<'a> {
    schema: Option<&'a Schema>,
    formats: Formats,
}

impl Reader<'_> {
    fn agreement(&self, column: &str, golden: &str, found: &str) -> Agreement {
        let field = self.schema.and_then(|schema| schema.field(column));
        agreement(field, &self.formats, golden, found)
    }

    /// Counts one cell, and says what differs in it.
    fn cell(
        &self,
        golden: &Sheet,
        records: &Sheet,
        pair: rows::Pair,
        column: &str,
        counts: &mut Counts,
    ) -> Option<Difference> {
        let row = |sheet: &'_ Sheet, at: Option<usize>| at.map(|at| sheet.rows[at].clone());
        let (golden_row, record_row) = (row(golden, pair.golden), row(records, pair.record));
        let value = |row: &Option<Row>| row.as_ref().and_then(|row| row.cells.get(column).cloned());
        let (truth, found) = (value(&golden_row), value(&record_row));
        counts.golden += usize::from(truth.is_some());
        let (count, kind) = match (&truth, &found) {
            (Some(truth), Some(found)) => match self.agreement(column, truth, found) {
                Agreement::Strict => (&mut counts.strict, None),
                Agreement::Lenient => (&mut counts.lenient, Some("lenient")),
                Agreement::Not => (&mut counts.wrong, Some("wrong")),
            },
            (Some(_), None) => (&mut counts.missing, Some("missing")),
            (None, Some(_)) => (&mut counts.invented, Some("invented")),
            (None, None) => (&mut counts.neither, None),
        };
        *count += 1;
        let name = golden_row.or(record_row)?.name();
        Some(Difference {
            company: name.company,
            facility: name.facility,
            column: column.to_owned(),
            golden: truth,
            found,
            kind: kind?,
        })
    }
}
