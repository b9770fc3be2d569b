//! Dates as documents write them, in eight languages.

use std::fmt;

use super::tokens::{Kind, Token};
use super::{Reading, Unread, Value};

/// Years of contracts.
const YEARS: std::ops::RangeInclusive<u32> = 1800..=2299;
const YEAR_DIGITS: usize = 4;
/// Two digits up to this one are of this century.
const PIVOT: u32 = 69;

/// A day, a month or a year. A quarter is its last month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    /// Four digits.
    pub year: u32,
    /// From 1.
    pub month: Option<u32>,
    /// From 1; none without a month.
    pub day: Option<u32>,
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}", self.year)?;
        for part in [self.month, self.day].into_iter().flatten() {
            write!(f, "-{part:02}")?;
        }
        Ok(())
    }
}

/// English, Spanish, French, German, Portuguese, Italian, Polish (as dates decline it), Dutch. A month's abbreviation is its
/// first letters, three at least.
const MONTHS: [&[&str]; 12] = [
    &["january", "enero", "janvier", "januar", "janeiro", "gennaio", "stycznia", "januari", "j\u{e4}nner"],
    &["february", "febrero", "f\u{e9}vrier", "februar", "fevereiro", "febbraio", "lutego", "februari"],
    &["march", "marzo", "mars", "m\u{e4}rz", "mar\u{e7}o", "marca", "maart"],
    &["april", "abril", "avril", "aprile", "kwietnia"],
    &["may", "mayo", "mai", "maio", "maggio", "maja", "mei"],
    &["june", "junio", "juin", "juni", "junho", "giugno", "czerwca"],
    &["july", "julio", "juillet", "juli", "julho", "luglio", "lipca"],
    &["august", "agosto", "ao\u{fb}t", "sierpnia", "augustus"],
    &["september", "sept", "septiembre", "septembre", "setembro", "settembre", "wrze\u{15b}nia"],
    &["october", "octubre", "octobre", "oktober", "outubro", "ottobre", "pa\u{17a}dziernika"],
    &["november", "noviembre", "novembre", "novembro", "listopada"],
    &["december", "diciembre", "d\u{e9}cembre", "dezember", "dezembro", "dicembre", "grudnia"],
];
const ABBREVIATION: usize = 3;

/// Every date, the longest reading at each place.
pub(super) fn readings(text: &str, tokens: &[Token<'_>], day_first: Option<bool>) -> Vec<Reading> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let here = &tokens[at..];
        let is_inside_a_word = at > 0 && tokens[at].joined && tokens[at - 1].kind != Kind::Mark;
        let read = if is_inside_a_word { None } else { date_at(text, here, day_first) };
        match read {
            Some((value, taken)) => {
                let range = here[0].range.start..here[taken - 1].range.end;
                found.push(Reading { range, value: value.map(Value::Date) });
                at += taken;
            }
            None => at += 1,
        }
    }
    found
}

type Read = (Result<Date, Unread>, usize);

fn date_at(text: &str, tokens: &[Token<'_>], day_first: Option<bool>) -> Option<Read> {
    numeric(tokens, day_first)
        .or_else(|| day_month_year(tokens))
        .or_else(|| month_day_year(tokens))
        .or_else(|| quarter(text, tokens))
        .or_else(|| year_alone(tokens))
}

/// 2031-03-31, 2031-03, 31.3.2031, 31/03/2031, 03/2031.
fn numeric(tokens: &[Token<'_>], day_first: Option<bool>) -> Option<Read> {
    let first = tokens.first().filter(|token| token.kind == Kind::Number)?;
    let dotted: Vec<&str> = first.text.split('.').collect();
    if dotted.len() == 3 {
        // Dates with dots begin with the day everywhere.
        return Some((date(year(dotted[2])?, Some(plain(dotted[1])?), Some(plain(dotted[0])?)), 1));
    }
    if dotted.len() == 2 && dotted[1].len() == 4 && dotted[0].len() <= 2 {
        return Some((date(year(dotted[1])?, Some(plain(dotted[0])?), None), 1));
    }
    let separator =
        tokens.get(1).filter(|token| token.joined && (token.is_dash() || token.is_mark(&['/'])))?;
    let second = tokens.get(2).filter(|token| token.joined && token.kind == Kind::Number)?;
    let third = tokens
        .get(3)
        .filter(|mark| mark.joined && mark.text == separator.text)
        .and_then(|_| tokens.get(4).filter(|token| token.joined && token.kind == Kind::Number));
    let Some(third) = third else {
        let (value, taken) = month_and_year(first.text, second.text, separator.is_mark(&['/']))?;
        return Some((value, taken));
    };
    if first.text.len() == 4 {
        return Some((date(year(first.text)?, Some(plain(second.text)?), Some(plain(third.text)?)), 5));
    }
    let (a, b, year) = (plain(first.text)?, plain(second.text)?, year(third.text)?);
    let as_day_first = date(year, Some(b), Some(a));
    let as_month_first = date(year, Some(a), Some(b));
    let value = match (as_day_first, as_month_first, day_first) {
        (Ok(only), Err(_), _) | (Err(_), Ok(only), _) => Ok(only),
        (Ok(day), Ok(month), _) if day == month => Ok(day),
        (Ok(day), Ok(_), Some(true)) => Ok(day),
        (Ok(_), Ok(month), Some(false)) => Ok(month),
        (Ok(_), Ok(_), None) => Err(Unread::Ambiguous),
        (Err(unread), Err(_), _) => Err(unread),
    };
    Some((value, 5))
}

/// 03/2031 or 2031-03. Two years with a line between are a period: 2031/32, 2030-2031.
fn month_and_year(first: &str, second: &str, slash: bool) -> Option<Read> {
    let value = match (first.len(), second.len()) {
        (1 | 2, 4) => date(year(second)?, Some(plain(first)?), None),
        (4, 2) if !slash => date(year(first)?, Some(plain(second)?), None),
        (4, 4) if year(first).is_some() && year(second).is_some() => Err(Unread::Several),
        _ => return None,
    };
    Some((value, 3))
}

/// 14 September 2047, 14th of September, 2047, 14-Sep-47, September 2047, 14 de septiembre de 2047.
fn day_month_year(tokens: &[Token<'_>]) -> Option<Read> {
    let mut at = 0;
    let day = tokens.first().filter(|token| token.kind == Kind::Number).and_then(|token| plain(token.text));
    if day.is_some() {
        at = 1 + ordinal(&tokens[1..]);
        if tokens.get(at).is_some_and(|token| token.is_word(&["day"])) {
            at += 1;
        }
        at += between(&tokens[at..]);
    }
    let month = tokens.get(at).and_then(|token| month(token, day.is_some()))?;
    at += 1;
    at += between(&tokens[at..]);
    // "September 14" is a day without a year.
    let year = tokens.get(at).filter(|token| day.is_some() || token.text.len() == YEAR_DIGITS)?;
    Some((date(year_at(year)?, Some(month), day), at + 1))
}

/// September 14, 2047.
fn month_day_year(tokens: &[Token<'_>]) -> Option<Read> {
    let month = month(tokens.first()?, true)?;
    let mut at = 1 + usize::from(tokens.get(1).is_some_and(|token| token.is_mark(&['.'])));
    let day = tokens.get(at).filter(|token| token.kind == Kind::Number)?;
    // "September 14,2047" is one number to who does not know dates.
    if let Some((day, year)) = day.text.split_once(',') {
        return Some((date(self::year(year)?, Some(month), Some(plain(day)?)), at + 1));
    }
    at += 1 + ordinal(&tokens[at + 1..]);
    at += between(&tokens[at..]);
    let year = year_at(tokens.get(at)?)?;
    Some((date(year, Some(month), Some(plain(day.text)?)), at + 1))
}

/// Q3 2031, Q3/31, 3Q 2031, third quarter of 2031: the last month of the quarter.
fn quarter(text: &str, tokens: &[Token<'_>]) -> Option<Read> {
    const ORDINALS: [&str; 4] = ["first", "second", "third", "fourth"];
    let (first, second) = (tokens.first()?, tokens.get(1)?);
    let (quarter, mut at) = if first.is_word(&["q"]) && second.joined && second.kind == Kind::Number {
        (plain(second.text)?, 2)
    } else if second.is_word(&["q"]) && second.joined && first.kind == Kind::Number {
        (plain(first.text)?, 2)
    } else if second.is_word(&["quarter"]) {
        let word = first.text.to_lowercase();
        (ORDINALS.iter().position(|known| *known == word)? as u32 + 1, 2)
    } else {
        return None;
    };
    at += between(&tokens[at..]);
    let token = tokens.get(at)?;
    // What follows a quarter within the same sentence is its year, also in two digits.
    if text[second.range.end..token.range.start].contains(';') {
        return None;
    }
    let year = year_at(token)?;
    (1..=4).contains(&quarter).then_some(())?;
    Some((date(year, Some(quarter * 3), None), at + 1))
}

/// 2031. Not where it is a part of something: 2031.5, 2,031, 2031x.
fn year_alone(tokens: &[Token<'_>]) -> Option<Read> {
    let first = tokens.first().filter(|token| token.text.len() == 4)?;
    let is_part = tokens
        .get(1)
        .is_some_and(|next| next.joined && (next.kind == Kind::Word || next.is_mark(&['%', ':', '/'])));
    if is_part { None } else { Some((date(year(first.text)?, None, None), 1)) }
}

/// What may stand between the parts of a date: of, de, a comma, a dash, a slash.
fn between(tokens: &[Token<'_>]) -> usize {
    let is_glue = |token: &&Token<'_>| {
        token.is_word(&["of", "de", "del", "di", "the", "r"])
            || token.is_mark(&[',', '.', '/', '\'', '\u{2019}'])
            || token.is_dash()
    };
    const GLUE_MAX: usize = 2;
    tokens.iter().take(GLUE_MAX).take_while(is_glue).count()
}

/// 14th, 1st, 14., 1er, 1º; PDFs set a raised "th" apart.
fn ordinal(tokens: &[Token<'_>]) -> usize {
    let is_ordinal = |token: &Token<'_>| {
        let is_joined = token.is_word(&["er", "o", "\u{ba}"]) || token.is_mark(&['.', '\u{b0}']);
        token.is_word(&["st", "nd", "rd", "th"]) || token.joined && is_joined
    };
    usize::from(tokens.first().is_some_and(is_ordinal))
}

/// A month's number. Beside a day its first three letters are enough in any language; alone, "out" and "set" are other
/// words, and only the usual English abbreviations are months.
fn month(token: &Token<'_>, beside_day: bool) -> Option<u32> {
    const ENGLISH: [&str; 12] =
        ["jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec"];
    if token.kind != Kind::Word {
        return None;
    }
    let word = token.text.to_lowercase();
    if let Some(at) = MONTHS.iter().position(|names| names.contains(&word.as_str())) {
        return Some(at as u32 + 1);
    }
    if word.chars().count() < ABBREVIATION || !(beside_day || ENGLISH.contains(&word.as_str())) {
        return None;
    }
    let fits = |names: &&[&str]| names.iter().any(|name| name.starts_with(&word));
    let mut fitting = MONTHS.iter().enumerate().filter(|(_, names)| fits(names)).map(|(at, _)| at as u32 + 1);
    // Letters that fit two months are none.
    fitting.next().filter(|_| fitting.next().is_none())
}

fn year_at(token: &Token<'_>) -> Option<u32> {
    (token.kind == Kind::Number).then(|| year(token.text))?
}

/// Four digits, or two.
fn year(text: &str) -> Option<u32> {
    let number = plain(text)?;
    match text.len() {
        4 => YEARS.contains(&number).then_some(number),
        2 => Some(if number <= PIVOT { 2000 + number } else { 1900 + number }),
        _ => None,
    }
}

/// Up to four digits and nothing else.
fn plain(text: &str) -> Option<u32> {
    const DIGITS_MAX: usize = 4;
    let is_plain = text.len() <= DIGITS_MAX && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_plain { text.parse().ok() } else { None }
}

/// What no calendar has is no date, and no part of it is one either.
fn date(year: u32, month: Option<u32>, day: Option<u32>) -> Result<Date, Unread> {
    let month_fits = month.is_none_or(|month| (1..=12).contains(&month));
    let day_fits = day.is_none_or(|day| (1..=days_of(year, month.unwrap_or(1))).contains(&day));
    if month_fits && day_fits { Ok(Date { year, month, day }) } else { Err(Unread::Absent) }
}

fn days_of(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}
