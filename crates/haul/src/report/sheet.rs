//! A report of figures, tables and lists, written once and shown as a page or as Markdown.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{html, markdown};
use crate::failure::Failure;

/// What a report says, in order. All of it is text: what comes from files is escaped when it is written out.
#[derive(Debug, Default)]
pub(crate) struct Sheet {
    pub(crate) title: String,
    /// Below the title.
    pub(crate) lead: String,
    /// Numbers in large type, and what they are.
    pub(crate) figures: Vec<(String, String)>,
    pub(crate) sections: Vec<Section>,
}

/// A heading and what stands below it.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) title: String,
    pub(crate) parts: Vec<Part>,
}

#[derive(Debug)]
pub(crate) enum Part {
    Text(String),
    List(Vec<String>),
    /// The first column is text and the others are numbers.
    Table {
        names: Vec<String>,
        rows: Vec<Vec<String>>,
    },
}

impl Part {
    pub(crate) fn table(names: &[&str], rows: Vec<Vec<String>>) -> Part {
        Part::Table { names: names.iter().map(|&name| name.to_owned()).collect(), rows }
    }
}

impl Sheet {
    pub(crate) fn section(&mut self, title: &str, parts: Vec<Part>) {
        self.sections.push(Section { title: title.to_owned(), parts });
    }
}

/// Writes `report.json`, `report.md` and `report.html` into a folder; gives the page's path.
pub(crate) fn write(folder: &Path, json: &impl Serialize, sheet: &Sheet) -> Result<PathBuf, Failure> {
    let json = serde_json::to_string_pretty(json)
        .map_err(|error| Failure::new(format!("cannot encode the report as JSON: {error}")))?;
    write_file(&folder.join("report.json"), &json)?;
    write_file(&folder.join("report.md"), &as_markdown(sheet))?;
    let page = folder.join("report.html");
    write_file(&page, &as_page(sheet))?;
    Ok(page)
}

pub(crate) fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| Failure::io("write", path, &error))
}

fn as_page(sheet: &Sheet) -> String {
    let escaped = html::escaped;
    let figures: String = sheet
        .figures
        .iter()
        .map(|(number, what)| format!("<div><b>{}</b><span>{}</span></div>", escaped(number), escaped(what)))
        .collect();
    let mut body = format!(
        "<header>\n<h1>{}</h1>\n<p class=\"path\">{}</p>\n<div class=\"figures\">{figures}</div>\n</header>\n",
        escaped(&sheet.title),
        escaped(&sheet.lead)
    );
    for section in &sheet.sections {
        let parts: String = section.parts.iter().map(part_as_html).collect();
        body += &html::section(&escaped(&section.title), &parts);
    }
    html::shell(&sheet.title, &body)
}

fn part_as_html(part: &Part) -> String {
    let escaped = html::escaped;
    match part {
        Part::Text(text) => format!("<p>{}</p>", escaped(text)),
        Part::List(items) => {
            let items: String = items.iter().map(|item| format!("<li>{}</li>", escaped(item))).collect();
            format!("<ul>{items}</ul>")
        }
        Part::Table { names, rows } => {
            let names: Vec<String> = names.iter().map(|name| escaped(name).into_owned()).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let row = |cells: &Vec<String>| {
                let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escaped(cell))).collect();
                format!("<tr>{cells}</tr>")
            };
            html::table(&names, &rows.iter().map(row).collect::<String>())
        }
    }
}

fn as_markdown(sheet: &Sheet) -> String {
    let escaped = markdown::escaped;
    let mut text = format!("# {}\n\n{}\n", escaped(&sheet.title), escaped(&sheet.lead));
    if !sheet.figures.is_empty() {
        text.push('\n');
    }
    for (number, what) in &sheet.figures {
        text += &format!("- **{}** {}\n", escaped(number), escaped(what));
    }
    for section in &sheet.sections {
        text += &format!("\n## {}\n", escaped(&section.title));
        for part in &section.parts {
            text.push('\n');
            match part {
                Part::Text(line) => text += &format!("{}\n", escaped(line)),
                Part::List(items) => {
                    text.extend(items.iter().map(|item| format!("- {}\n", escaped(item))));
                }
                Part::Table { names, rows } => {
                    let line = |cells: &[String]| {
                        let cells: Vec<String> = cells.iter().map(|cell| escaped(cell)).collect();
                        format!("| {} |\n", cells.join(" | "))
                    };
                    text += &line(names);
                    text += &format!("|---|{}\n", "---:|".repeat(names.len().saturating_sub(1)));
                    text.extend(rows.iter().map(|cells| line(cells)));
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet() -> Sheet {
        let mut sheet = Sheet {
            title: "a <b> & c".to_owned(),
            lead: "made".to_owned(),
            figures: vec![("12".to_owned(), "tokens/s".to_owned())],
            sections: vec![],
        };
        let rows = vec![vec!["q4|m".to_owned(), "<1>".to_owned()]];
        sheet.section(
            "Speed",
            vec![
                Part::Text("one\ntwo".to_owned()),
                Part::List(vec!["*x*".to_owned()]),
                Part::table(&["file", "t/s"], rows),
            ],
        );
        sheet
    }

    #[test]
    fn a_sheet_says_the_same_in_both_forms() {
        assert_eq!(
            as_markdown(&sheet()),
            "# a &lt;b\\> &amp; c\n\nmade\n\n- **12** tokens/s\n\n## Speed\n\none\u{fffd}two\n\n- \\*x\\*\n\n\
             | file | t/s |\n|---|---:|\n| q4\\|m | &lt;1\\> |\n"
        );
        let page = as_page(&sheet());
        for part in [
            "<title>a &lt;b&gt; &amp; c</title>",
            "<td>q4|m</td><td>&lt;1&gt;</td>",
            "<th>t/s</th>",
            "<li>*x*</li>",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains("<script") && !page.contains("http://") && !page.contains("https://"));
    }
}
