//! Rows of a page as an engine writes them, and columns that were written across.
//!
//! Most files hold the left column before the right one. Some are written row by row over both; then a row has a
//! gap where the gutter is, at the same place in many rows below each other.

use super::{Line, Place, clean};

/// So many rows with a gap at one place are columns, not a coincidence.
const GUTTER_ROWS_MIN: usize = 6;
/// Cells of a table are shorter than lines of prose; a table is read row by row.
const COLUMN_LETTERS_MIN: usize = 20;

/// A run of letters without a wide gap.
#[derive(Default)]
pub(super) struct Segment {
    pub(super) letters: String,
    place: Option<Place>,
}

/// What stands beside each other.
#[derive(Default)]
pub(super) struct Row {
    segments: Vec<Segment>,
}

impl Row {
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Adds a letter; after a gap of more than `gap_heights` of its height it begins a segment.
    pub(super) fn push(&mut self, letter: char, place: Option<Place>, gap_heights: f32) {
        let begins = match (self.segments.last().and_then(|segment| segment.place), place) {
            _ if self.segments.is_empty() => true,
            (Some(before), Some(now)) => now.left - before.right > gap_heights * now.height(),
            _ => false,
        };
        if begins {
            self.segments.push(Segment::default());
        }
        let Some(segment) = self.segments.last_mut() else { return };
        segment.letters.push(letter);
        segment.place = match (segment.place, place) {
            (Some(a), Some(b)) => Some(union(a, b)),
            (a, b) => a.or(b),
        };
    }

    fn line(&self, segments: &[Segment]) -> Line {
        let place = segments.iter().filter_map(|segment| segment.place).reduce(union);
        let letters = segments.iter().flat_map(|segment| segment.letters.chars().chain([' ']));
        Line { text: clean(letters), place }
    }

    /// How many of the segments stand left of `x`, if none stands across it.
    fn split_at(&self, x: f32) -> Option<usize> {
        let left =
            self.segments.iter().take_while(|segment| segment.place.is_some_and(|p| p.right <= x)).count();
        let right = self.segments[left..].iter().all(|segment| segment.place.is_some_and(|p| p.left >= x));
        (right && !self.is_empty()).then_some(left)
    }
}

/// Rows as lines in reading order: where rows run across a gutter, the left column comes before the right one.
pub(super) fn untangle(mut rows: Vec<Row>) -> Vec<Line> {
    rows.retain(|row| row.segments.iter().any(|segment| !segment.text().is_empty()));
    let Some(gutter) = gutter(&rows) else {
        return rows.iter().map(|row| row.line(&row.segments)).collect();
    };
    let mut lines = Vec::new();
    let mut right_column = Vec::new();
    for row in &rows {
        match row.split_at(gutter) {
            Some(left) => {
                let (left, right) = row.segments.split_at(left);
                lines.extend((!left.is_empty()).then(|| row.line(left)));
                right_column.extend((!right.is_empty()).then(|| row.line(right)));
            }
            // What runs over both columns ends them.
            None => {
                lines.append(&mut right_column);
                lines.push(row.line(&row.segments));
            }
        }
    }
    lines.append(&mut right_column);
    lines
}

/// Where many rows have a gap between two long pieces.
fn gutter(rows: &[Row]) -> Option<f32> {
    let mut gaps = Vec::new();
    for row in rows {
        for pair in row.segments.windows(2) {
            let long = pair.iter().all(|segment| segment.letters.chars().count() >= COLUMN_LETTERS_MIN);
            if let ([Some(left), Some(right)], true) = ([pair[0].place, pair[1].place], long) {
                gaps.push((left.right, right.left));
            }
        }
    }
    let within = |x: f32| gaps.iter().filter(|(from, to)| (*from..=*to).contains(&x)).count();
    let middles = gaps.iter().map(|(from, to)| (from + to) / 2.0);
    let best = middles.max_by_key(|x| within(*x))?;
    (within(best) >= GUTTER_ROWS_MIN).then_some(best)
}

fn union(a: Place, b: Place) -> Place {
    Place {
        left: a.left.min(b.left),
        right: a.right.max(b.right),
        top: a.top.max(b.top),
        bottom: a.bottom.min(b.bottom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words at `x`, each letter 5 points wide and 10 high, on row `y`.
    fn row(y: f32, pieces: &[(f32, &str)]) -> Row {
        let mut row = Row::default();
        for &(x, text) in pieces {
            for (index, letter) in text.chars().enumerate() {
                let left = x + 5.0 * index as f32;
                let place = Place { left, right: left + 5.0, top: y + 10.0, bottom: y };
                row.push(letter, (letter != ' ').then_some(place), 0.8);
            }
        }
        row
    }

    fn texts(rows: Vec<Row>) -> Vec<String> {
        untangle(rows).into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn rows_across_a_gutter_are_read_column_by_column() {
        let mut rows =
            vec![row(700.0, &[(50.0, "A title over the whole width of both of the columns here")])];
        for no in 0..6 {
            let y = 680.0 - 12.0 * no as f32;
            rows.push(row(y, &[(50.0, "left side words of a line"), (250.0, "right side words of a line")]));
        }
        rows.push(row(600.0, &[(50.0, "the left side ends")]));
        let found = texts(rows);
        assert_eq!(found[1..7], ["left side words of a line"; 6]);
        assert_eq!(found[7], "the left side ends");
        assert_eq!(found[8..], ["right side words of a line"; 6]);
    }

    #[test]
    fn tables_and_lone_gaps_stay_as_they_are() {
        let table =
            (0..9).map(|no| row(700.0 - 12.0 * no as f32, &[(50.0, "Name"), (250.0, "Value")])).collect();
        assert_eq!(texts(table), ["Name Value"; 9]);
        let few = (0..5).map(|no| {
            let y = 700.0 - 12.0 * no as f32;
            row(y, &[(50.0, "left side words of a line"), (250.0, "right side words of a line")])
        });
        assert_eq!(texts(few.collect()), ["left side words of a line right side words of a line"; 5]);
    }
}
