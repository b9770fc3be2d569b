//! Number formats of cells, as far as they bear on what a number means.

/// The day that dates are counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Epoch {
    /// The usual one, which knows a 29 February 1900.
    Year1900,
    /// Of old Macintosh files.
    Year1904,
}

/// What a format makes of a number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NumberFormat {
    /// Words before and behind the number.
    before: String,
    behind: String,
    is_percent: bool,
    date: Option<DateParts>,
}

/// Which parts of a date or time are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct DateParts {
    has_year: bool,
    has_day: bool,
    has_time: bool,
}

impl NumberFormat {
    pub(super) fn general() -> NumberFormat {
        NumberFormat::default()
    }

    /// The formats that files name without saying what they are.
    pub(super) fn built_in(id: u32) -> NumberFormat {
        match id {
            9 | 10 => NumberFormat { is_percent: true, ..NumberFormat::default() },
            14..=16 | 27..=31 | 34..=36 | 50..=58 => NumberFormat::parse("yyyy-mm-dd"),
            17 => NumberFormat::parse("mmm-yy"),
            18..=21 | 32 | 33 | 45..=47 => NumberFormat::parse("h:mm"),
            22 => NumberFormat::parse("yyyy-mm-dd h:mm"),
            _ => NumberFormat::general(),
        }
    }

    /// The first section of a code, which is that of positive numbers.
    pub(super) fn parse(code: &str) -> NumberFormat {
        let mut format = NumberFormat::default();
        let mut letters = String::new();
        let mut is_behind = false;
        let mut rest = code.chars();
        while let Some(c) = rest.next() {
            let literal: String = match c {
                ';' => break,
                '"' => rest.by_ref().take_while(|c| *c != '"').collect(),
                '\\' => rest.next().into_iter().collect(),
                '[' => currency(&rest.by_ref().take_while(|c| *c != ']').collect::<String>()),
                // The width of a character, and one that fills the cell.
                '_' | '*' => rest.next().map_or_else(String::new, |_| " ".to_owned()),
                '0' | '#' | '?' | '@' => {
                    is_behind = true;
                    String::new()
                }
                '%' => {
                    format.is_percent = true;
                    String::new()
                }
                _ if c.is_ascii_alphabetic() => {
                    letters.push(c.to_ascii_lowercase());
                    String::new()
                }
                '.' | ',' | '/' | ':' | '+' | '-' => String::new(),
                other => other.to_string(),
            };
            let words = if is_behind { &mut format.behind } else { &mut format.before };
            words.push_str(&literal);
        }
        format.date = date_parts(&letters).filter(|_| !is_behind);
        // A lone letter behind the digits is a word that nobody quoted, as in 0.00x.
        if format.date.is_none() && is_behind && letters == "x" {
            format.behind.push('x');
        }
        format
    }

    /// The number as text.
    pub(super) fn shown(&self, number: f64, epoch: Epoch) -> String {
        if let Some(parts) = self.date
            && let Some(date) = date(number, parts, epoch)
        {
            return date;
        }
        let sign = if self.is_percent { "%" } else { "" };
        let number = plain(if self.is_percent { number * 100.0 } else { number });
        format!("{}{number}{sign}{}", spaced(&self.before, false), spaced(&self.behind, true))
    }
}

/// `[$€-407]` is a currency, `[Red]` and `[>100]` are not.
fn currency(inside: &str) -> String {
    let Some(money) = inside.strip_prefix('$') else { return String::new() };
    money.split('-').next().unwrap_or_default().to_owned()
}

/// Words stand apart from the number; signs, and the `x` of ratios, stand at it.
fn spaced(words: &str, is_behind: bool) -> String {
    let trimmed = words.trim();
    let is_apart =
        trimmed.chars().count() > 1 && trimmed.chars().all(char::is_alphabetic) || words.trim() != words;
    match (trimmed.is_empty(), is_apart, is_behind) {
        (true, _, _) => String::new(),
        (_, false, _) => trimmed.to_owned(),
        (_, true, true) => format!(" {trimmed}"),
        (_, true, false) => format!("{trimmed} "),
    }
}

fn date_parts(letters: &str) -> Option<DateParts> {
    if letters.contains("general") || letters.contains("standard") || letters == "e" {
        return None;
    }
    let parts = DateParts {
        has_year: letters.contains('y'),
        has_day: letters.contains('d'),
        has_time: letters.contains(['h', 's']),
    };
    (parts != DateParts::default()).then_some(parts)
}

/// A day as `YYYY-MM-DD`, a month as `MM/YYYY`, with the time where there is one.
fn date(serial: f64, parts: DateParts, epoch: Epoch) -> Option<String> {
    const DAYS_MAX: f64 = 2_958_466.0;
    const MINUTES_OF_DAY: f64 = 1440.0;
    if !(0.0..DAYS_MAX).contains(&serial) {
        return None;
    }
    let minutes = (serial.fract() * MINUTES_OF_DAY).round().min(MINUTES_OF_DAY - 1.0) as u32;
    let time = format!("{:02}:{:02}", minutes / 60, minutes % 60);
    if !parts.has_year && !parts.has_day {
        return Some(time);
    }
    let days = serial.trunc() as i64;
    let before_1970 = match epoch {
        // Days from March 1900 are one too many: the 29 February 1900 that never was is counted.
        Epoch::Year1900 if days >= 60 => 25_569,
        Epoch::Year1900 => 25_568,
        Epoch::Year1904 => 24_107,
    };
    let (year, month, day) = civil(days - before_1970);
    Some(match (parts.has_day, parts.has_time && minutes > 0) {
        (false, _) => format!("{month:02}/{year:04}"),
        (true, false) => format!("{year:04}-{month:02}-{day:02}"),
        (true, true) => format!("{year:04}-{month:02}-{day:02} {time}"),
    })
}

/// Year, month and day of a number of days since 1970, in the Gregorian calendar.
pub(crate) fn civil(days: i64) -> (i64, i64, i64) {
    // Counted from 1 March of the year 0, so that the leap day is the last of its year.
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// With the 15 digits that Excel keeps, so that 0.1 + 0.2 is 0.3; without an exponent where that is readable.
fn plain(number: f64) -> String {
    const DIGITS: i32 = 15;
    const PLAIN: std::ops::Range<f64> = 1e-9..1e21;
    if number == 0.0 || !number.is_finite() {
        return "0".to_owned();
    }
    if !PLAIN.contains(&number.abs()) {
        return format!("{number:e}");
    }
    let whole_digits = number.abs().log10().floor() as i32 + 1;
    let places = (DIGITS - whole_digits).clamp(0, 24) as usize;
    let text = format!("{number:.places$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(code: &str, number: f64) -> String {
        NumberFormat::parse(code).shown(number, Epoch::Year1900)
    }

    #[test]
    fn numbers_say_what_their_format_says_of_them() {
        for (code, number, expected) in [
            ("0.00%", 0.0275, "2.75%"),
            ("General", 0.1 + 0.2, "0.3"),
            ("#,##0", 250_000_000.0, "250000000"),
            ("[$€-407] #,##0.00", 12.5, "€ 12.5"),
            ("\"EUR\"#,##0", 250.0, "EUR 250"),
            ("#,##0\\ [$EUR]", 250.0, "250 EUR"),
            ("0.00\"x\"", 1.35, "1.35x"),
            ("0.00x", 1.35, "1.35x"),
            ("0\" months\"", 180.0, "180 months"),
            ("[Red]0;[Blue]-0", -3.0, "-3"),
            ("$#,##0_);($#,##0)", 7.0, "$7"),
            ("General", 1e-12, "1e-12"),
            ("General", -1234.5, "-1234.5"),
        ] {
            assert_eq!(shown(code, number), expected, "{code}");
        }
    }

    #[test]
    fn dates_have_the_parts_that_are_shown() {
        for (code, serial, expected) in [
            ("dd/mm/yyyy", 44_927.0, "2023-01-01"),
            ("mmm-yy", 44_927.0, "01/2023"),
            // 29 February 1900, which never was.
            ("d mmmm yyyy", 60.0, "1900-02-28"),
            ("yyyy-mm-dd", 59.0, "1900-02-28"),
            ("yyyy-mm-dd hh:mm", 44_927.75, "2023-01-01 18:00"),
            ("h:mm", 0.5, "12:00"),
            ("dd.mm.yyyy", -1.0, "-1"),
        ] {
            assert_eq!(shown(code, serial), expected, "{code}");
        }
        let on_macintosh = NumberFormat::parse("yyyy-mm-dd").shown(43_465.0, Epoch::Year1904);
        assert_eq!(on_macintosh, "2023-01-01");
        assert_eq!(NumberFormat::built_in(14).shown(44_927.0, Epoch::Year1900), "2023-01-01");
    }
}
