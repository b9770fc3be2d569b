//! Records as a table: a row for each entity, a column for each field, in the schema's order.

use super::record::Record;
use super::schema::Schema;

/// The columns before those of the fields.
const FIRST: [&str; 4] = ["Client Folder", "Source Files", "Comments", "Confidence Score"];

/// The head of the table.
#[must_use]
pub fn head(schema: &Schema) -> String {
    let labels = schema.fields().map(|field| field.label.as_str());
    row(FIRST.into_iter().chain(labels))
}

/// The row of a record: values in the form of their columns, where they have one.
#[must_use]
pub fn of_record(schema: &Schema, record: &Record) -> String {
    let mut comments = format!(
        "{}: {} | Type: {}",
        capital(&schema.entity.name),
        record.facility,
        record.facility_type.as_deref().unwrap_or("")
    );
    let unaligned = unaligned(schema, record);
    if !unaligned.is_empty() {
        comments.push_str(&format!(" | Not found again in its sentence: {}", unaligned.join(", ")));
    }
    let first = [
        record.company.clone(),
        record.source_files.join("; "),
        comments,
        format!("{:.2}", record.confidence_score),
    ];
    let value = |name: &str| {
        let field = record.fields.get(name)?;
        field.normal.clone().or_else(|| field.value.clone())
    };
    let values = schema.fields().map(|field| value(&field.name).unwrap_or_default());
    let cells: Vec<String> = first.into_iter().chain(values).collect();
    row(cells.iter().map(String::as_str))
}

/// Labels of the fields whose value stands nowhere in the sentence that is cited for it.
fn unaligned<'a>(schema: &'a Schema, record: &Record) -> Vec<&'a str> {
    let is_unaligned = |name: &str| {
        let field = record.fields.get(name).filter(|field| field.value.is_some());
        field.is_some_and(|field| !field.evidence.as_ref().is_some_and(|evidence| evidence.aligned))
    };
    schema.fields().filter(|field| is_unaligned(&field.name)).map(|field| field.label.as_str()).collect()
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// By RFC 4180.
fn row<'a>(cells: impl Iterator<Item = &'a str>) -> String {
    let quoted = cells.map(|cell| match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    });
    quoted.collect::<Vec<_>>().join(",") + "\r\n"
}

#[cfg(test)]
mod tests {
    use super::row;

    #[test]
    fn cells_are_quoted_where_they_must_be() {
        assert_eq!(row(["a", "b, c", "say \"no\"", ""].into_iter()), "a,\"b, c\",\"say \"\"no\"\"\",\r\n");
    }
}
