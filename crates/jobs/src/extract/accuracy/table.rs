//! Tables of comma-separated values as spreadsheets write them.

/// Cells of a table. Rows have as many as the head, empty ones where a line had fewer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Names of the columns.
    pub head: Vec<String>,
    /// Rows.
    pub rows: Vec<Vec<String>>,
}

/// A text is no table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// Nothing is in it.
    #[error("an empty table")]
    Empty,
    /// A quotation mark has no second one.
    #[error("line {line}: a quoted cell that does not end")]
    Unclosed {
        /// Where it begins, from 1.
        line: usize,
    },
    /// A row has more cells than the head.
    #[error("line {line}: {cells} cells under a head of {columns}")]
    TooWide {
        /// Where the row begins, from 1.
        line: usize,
        /// Its cells.
        cells: usize,
        /// Those of the head.
        columns: usize,
    },
    /// Two columns have one name, so nobody knows which is meant.
    #[error("two columns {name:?}")]
    SameName {
        /// The name.
        name: String,
    },
}

impl Table {
    /// Reads a table. The separator is a comma, a semicolon or a tab, whichever the head has most of outside of quotes.
    ///
    /// # Errors
    /// The text is no table.
    pub fn parse(text: &str) -> Result<Table, TableError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut rows = lines(text, separator(text))?.into_iter();
        let (_, head) = rows.next().ok_or(TableError::Empty)?;
        let head: Vec<String> = head.iter().map(|name| name.trim().to_owned()).collect();
        for (at, name) in head.iter().enumerate() {
            if !name.is_empty() && head[..at].contains(name) {
                return Err(TableError::SameName { name: name.clone() });
            }
        }
        let columns = head.len();
        let of_width = |(line, mut cells): (usize, Vec<String>)| {
            while cells.len() > columns && cells.last().is_some_and(|cell| cell.trim().is_empty()) {
                cells.pop();
            }
            if cells.len() > columns {
                return Err(TableError::TooWide { line, cells: cells.len(), columns });
            }
            cells.resize(columns, String::new());
            Ok(cells)
        };
        Ok(Table { rows: rows.map(of_width).collect::<Result<_, _>>()?, head })
    }
}

fn separator(text: &str) -> char {
    let mut is_quoted = false;
    let mut counts = [(',', 0), (';', 0), ('\t', 0)];
    for c in text.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            '\n' | '\r' if !is_quoted => break,
            c => counts
                .iter_mut()
                .filter(|(mark, _)| *mark == c && !is_quoted)
                .for_each(|(_, count)| *count += 1),
        }
    }
    // The first of those that are equal.
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map_or(',', |(mark, _)| mark)
}

/// Rows that say something, each with the line that it begins on.
fn lines(text: &str, separator: char) -> Result<Vec<(usize, Vec<String>)>, TableError> {
    let mut rows: Vec<(usize, Vec<String>)> = Vec::new();
    let mut row = vec![String::new()];
    let (mut line, mut begun) = (1, 1);
    let mut quoted_from = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        line += usize::from(c == '\n');
        let is_empty = row.last().is_some_and(String::is_empty);
        match c {
            '"' if quoted_from.is_some() => match chars.next_if_eq(&'"') {
                Some(mark) => push(&mut row, mark),
                None => quoted_from = None,
            },
            '"' if is_empty => quoted_from = Some(line),
            c if quoted_from.is_some() => push(&mut row, c),
            c if c == separator => row.push(String::new()),
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' | '\r' => {
                rows.push((begun, std::mem::replace(&mut row, vec![String::new()])));
                begun = line;
            }
            c => push(&mut row, c),
        }
    }
    if let Some(line) = quoted_from {
        return Err(TableError::Unclosed { line });
    }
    rows.push((begun, row));
    rows.retain(|(_, cells)| cells.iter().any(|cell| !cell.trim().is_empty()));
    Ok(rows)
}

fn push(row: &mut [String], c: char) {
    if let Some(cell) = row.last_mut() {
        cell.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> (Vec<String>, Vec<Vec<String>>) {
        let table = Table::parse(text).unwrap();
        (table.head, table.rows)
    }

    #[test]
    fn cells_are_as_spreadsheets_write_them() {
        let (head, rows) = table(
            "\u{feff}Client,\"Margin, p.a.\",Note\r\nAcme,2.75%,\"says \"\"up to\"\"\r\nthree\"\r\n\r\nBeta\r\n",
        );
        assert_eq!(head, ["Client", "Margin, p.a.", "Note"]);
        assert_eq!(rows, [["Acme", "2.75%", "says \"up to\"\r\nthree"], ["Beta", "", ""]]);
        assert_eq!(table("a;b\n1,5;2\n").1, [["1,5", "2"]]);
        assert_eq!(table("a\tb\n1\t2,,\n").1, [["1", "2,,"]]);
        assert_eq!(table("a,b\n1,2,,\n").1, [["1", "2"]]);
    }

    #[test]
    fn what_is_no_table_is_named() {
        let error = |text: &str| Table::parse(text).unwrap_err().to_string();
        assert_eq!(error(" \n"), "an empty table");
        assert_eq!(error("a,b\n\n1,\"2\n"), "line 3: a quoted cell that does not end");
        assert_eq!(error("a,b\n1,2,3\n"), "line 2: 3 cells under a head of 2");
        assert_eq!(error("a,b,a\n"), "two columns \"a\"");
    }
}
