//! `haul records`: records beside what is true.

use std::fs;
use std::path::Path;

use haul_jobs::extract::accuracy::{self, Columns, CompareError, Comparison, Counts, Sheet, Table};
use haul_jobs::extract::record::Record;
use haul_jobs::extract::schema::Schema;
use serde_json::{Value, json};

use crate::Exit;
use crate::cli::llm::{RecordsCommand, RecordsCompareArgs};
use crate::commands::schema;
use crate::failure::Failure;
use crate::output::Output;
use crate::summary;

/// The name and version of the JSON document.
const SCHEMA: &str = "haul.records_compare/1";

/// Runs the command.
pub(crate) fn run(command: &RecordsCommand, output: &Output) -> Result<Exit, Failure> {
    match command {
        RecordsCommand::Compare(args) => compare(args, output),
    }
}

fn compare(args: &RecordsCompareArgs, output: &Output) -> Result<Exit, Failure> {
    let schema = args.schema.as_deref().map(schema::usable).transpose()?;
    let records = records(&args.records, schema.as_ref())?;
    let golden = table(&args.golden)?;
    let columns = args.columns.as_deref().map(columns).transpose()?.unwrap_or_default();
    let comparison = accuracy::compare(&records, &golden, &columns, schema.as_ref()).map_err(failed)?;
    if output.json() {
        output.json_document(&document(&comparison))?;
    } else {
        output.data(&summary::records::comparison(&comparison))?;
    }
    Ok(Exit::Ok)
}

#[expect(clippy::needless_pass_by_value, reason = "map_err gives it")]
fn failed(error: CompareError) -> Failure {
    let failure = Failure::new(error.to_string());
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn records(file: &Path, schema: Option<&Schema>) -> Result<Sheet, Failure> {
    if file.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("json")) {
        return Sheet::of_table(&table(file)?, schema).map_err(failed);
    }
    let text = fs::read_to_string(file).map_err(|error| Failure::io("read", file, &error))?;
    let records: Vec<Record> = serde_json::from_str(&text).map_err(|error| {
        Failure::new(format!("{}: no records: {error}", file.display()))
            .hint("records are the records.json, or the records.csv, that `haul extract` writes")
    })?;
    Ok(Sheet::of_records(&records))
}

fn table(file: &Path) -> Result<Table, Failure> {
    let text = fs::read_to_string(file).map_err(|error| Failure::io("read", file, &error))?;
    Table::parse(&text).map_err(|error| {
        Failure::new(format!("{}: {error}", file.display()))
            .hint("tables are .csv files in UTF-8 with a head")
    })
}

fn columns(file: &Path) -> Result<Columns, Failure> {
    let text = fs::read_to_string(file).map_err(|error| Failure::io("read", file, &error))?;
    toml::from_str(&text).map_err(|error| {
        Failure::new(format!("{}: no column map: {}", file.display(), error.message()))
            .hint("a line for each column, such as \"Final maturity\" = \"maturity_date\"")
    })
}

/// Everything, with the shares beside the counts that they are of.
fn document(comparison: &Comparison) -> Value {
    let shares =
        |counts: &Counts| json!({"strict": counts.strict_accuracy(), "lenient": counts.lenient_accuracy()});
    let columns: Vec<Value> = comparison
        .columns
        .iter()
        .map(|column| json!({"name": column.name, "counts": column.counts, "accuracy": shares(&column.counts)}))
        .collect();
    json!({
        "schema": SCHEMA,
        "counts": comparison.overall,
        "accuracy": shares(&comparison.overall),
        "rows": {
            "golden": comparison.golden_rows, "records": comparison.record_rows,
            "missing": comparison.missing_rows, "extra": comparison.extra_rows,
        },
        "columns": columns,
        "not_compared": comparison.not_compared,
        "differences": comparison.differences,
    })
}
