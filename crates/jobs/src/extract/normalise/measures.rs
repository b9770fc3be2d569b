//! Percentages, ratios, lengths of time and plain numbers.

use super::tokens::{Kind, Token, in_words, number};
use super::{Decimal, Duration, Reading, Unread, Value, amounts};

/// A number at a place of the text, and what may be wrong with reading it alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) number: Decimal,
    /// The first piece, a sign included.
    pub(super) start: usize,
    /// One past the last piece.
    pub(super) end: usize,
    /// Whether it is one end of a range, or a part of a fraction: no value by itself.
    is_part: bool,
}

/// All numbers, in digits and in words. `three (3)` is one number; digits inside a word, as in B2, are none.
pub(super) fn found(tokens: &[Token<'_>], decimal: char) -> Vec<Found> {
    let mut all: Vec<Found> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let read = if tokens[at].kind == Kind::Number {
            number(tokens[at].text, decimal).map(|number| (number, 1))
        } else {
            in_words(&tokens[at..]).map(|(number, taken)| (Decimal::whole(number), taken))
        };
        let Some((number, taken)) = read.filter(|_| !is_inside_a_word(tokens, at)) else {
            at += 1;
            continue;
        };
        let signed = at > 0 && tokens[at - 1].is_dash() && tokens[at].joined && is_sign(tokens, at - 1);
        let (number, start) = if signed { (number.negated(), at - 1) } else { (number, at) };
        let mut is_part = start == at && is_behind_a_dash(tokens, at);
        if let Some(last) = all.last_mut()
            && last.end + 1 == start
            && is_link(&tokens[last.end])
        {
            (last.is_part, is_part) = (true, true);
        }
        let mut end = at + taken;
        if let Some(behind) = repeated(tokens, end, number, decimal) {
            end = behind;
        }
        all.push(Found { number, start, end, is_part });
        at = end;
    }
    all
}

/// `B2`, `Q3`: but a currency, or a sign of one, may stand before its number.
fn is_inside_a_word(tokens: &[Token<'_>], at: usize) -> bool {
    let Some(before) = at.checked_sub(1).map(|before| &tokens[before]) else { return false };
    tokens[at].joined && before.kind == Kind::Word && amounts::currency(before.text).is_none()
}

/// A dash before a number is a minus at the beginning, or behind a space or a bracket.
fn is_sign(tokens: &[Token<'_>], dash: usize) -> bool {
    let Some(before) = dash.checked_sub(1).map(|before| &tokens[before]) else { return true };
    !tokens[dash].joined && before.kind != Kind::Number && !before.is_mark(&['%']) || before.is_mark(&['('])
}

/// `2 to 3%`, `3/4`, `two or three`: neither number is the value.
fn is_link(token: &Token<'_>) -> bool {
    token.is_dash() || token.is_mark(&['/']) || token.is_word(&["to", "and", "or", "through"])
}

/// `1.20x-1.35x`: the unit stands between.
fn is_behind_a_dash(tokens: &[Token<'_>], at: usize) -> bool {
    let Some(before) = at.checked_sub(1).filter(|before| *before > 0).map(|before| &tokens[before]) else {
        return false;
    };
    before.is_dash() && (before.joined || tokens[at].joined) || before.is_mark(&['/']) && tokens[at].joined
}

/// `(3)` behind `three`: the piece behind the bracket.
fn repeated(tokens: &[Token<'_>], at: usize, said: Decimal, decimal: char) -> Option<usize> {
    let [open, again, close] = tokens.get(at..at + 3)? else { return None };
    let same = again.kind == Kind::Number && number(again.text, decimal) == Some(said);
    (open.is_mark(&['(']) && close.is_mark(&[')']) && same).then_some(at + 3)
}

pub(super) fn reading(
    tokens: &[Token<'_>],
    start: usize,
    end: usize,
    value: Result<Value, Unread>,
) -> Reading {
    Reading { range: tokens[start].range.start..tokens[end - 1].range.end, value }
}

/// 2.75%, 2.75 per cent., 275 bps, 275 basis points.
pub(super) fn percents(tokens: &[Token<'_>], decimal: char) -> Vec<Reading> {
    let of = |found: &Found| {
        let behind = tokens.get(found.end)?;
        let next = tokens.get(found.end + 1);
        let (power, taken) = if behind.is_mark(&['%']) || behind.is_word(&["percent", "pct", "percentage"]) {
            (0, 1)
        } else if behind.is_word(&["per"]) && next.is_some_and(|next| next.is_word(&["cent", "centum"])) {
            (0, 2)
        } else if behind.is_word(&["bps", "bp", "bips"]) {
            (-2, 1)
        } else if behind.is_word(&["basis"]) && next.is_some_and(|next| next.is_word(&["point", "points"])) {
            (-2, 2)
        } else {
            return None;
        };
        let value = found.number.shifted(power).map(Value::Percent).ok_or(Unread::Absent);
        Some(reading(tokens, found.start, found.end + taken, part_or(found, value)))
    };
    found(tokens, decimal).iter().filter_map(of).collect()
}

pub(super) fn part_or(found: &Found, value: Result<Value, Unread>) -> Result<Value, Unread> {
    if found.is_part { Err(Unread::Several) } else { value }
}

/// 1.35x, 1.35 times, 1.35:1, 1.35 to 1.00, 135%; a number alone, where it is all that is said.
pub(super) fn ratios(tokens: &[Token<'_>], decimal: char) -> Vec<Reading> {
    let all = found(tokens, decimal);
    let mut readings = Vec::new();
    let mut at = 0;
    while at < all.len() {
        let this = &all[at];
        at += 1;
        let behind = tokens.get(this.end);
        let to_one = all.get(at).filter(|one| {
            let links = behind.is_some_and(|token| token.is_mark(&[':']) || token.is_word(&["to"]));
            links && one.start == this.end + 1
        });
        if let Some(one) = to_one {
            at += 1;
            let is_one = one.number == Decimal::whole(1);
            // 60:40 may be debt to equity, or two shares of hundred.
            let value = if is_one { Ok(Value::Ratio(this.number)) } else { Err(Unread::Ambiguous) };
            readings.push(reading(tokens, this.start, one.end, value));
        } else if behind.is_some_and(|token| token.is_word(&["x", "times"]) || token.is_mark(&['\u{d7}'])) {
            readings.push(reading(
                tokens,
                this.start,
                this.end + 1,
                part_or(this, Ok(Value::Ratio(this.number))),
            ));
        } else if behind.is_some_and(|token| token.is_mark(&['%'])) {
            let value = this.number.shifted(-2).map(Value::Ratio).ok_or(Unread::Absent);
            readings.push(reading(tokens, this.start, this.end + 1, part_or(this, value)));
        } else if this.start == 0 && this.end == tokens.len() {
            readings.push(reading(
                tokens,
                this.start,
                this.end,
                part_or(this, Ok(Value::Ratio(this.number))),
            ));
        }
    }
    readings
}

/// 180 months, three (3) years, ten years and six months, 90 days, five-year.
pub(super) fn durations(tokens: &[Token<'_>], decimal: char) -> Vec<Reading> {
    let mut readings: Vec<Reading> = Vec::new();
    let mut last: Option<(usize, Duration)> = None;
    for found in found(tokens, decimal) {
        let dash = usize::from(tokens.get(found.end).is_some_and(|token| token.is_dash() && token.joined));
        let unit = tokens.get(found.end + dash).and_then(|token| unit_of_time(token));
        let Some((unit, end)) = unit.map(|unit| (unit, found.end + dash + 1)) else { continue };
        let length = found.number.as_u32().and_then(|number| unit.times(number));
        let before = last.take().filter(|(behind, _)| {
            let glue = tokens.get(*behind..found.start).unwrap_or_default();
            glue.len() <= 1 && glue.iter().all(|token| token.is_word(&["and"]) || token.is_mark(&[',']))
        });
        // "10 years and 6 months" is one length.
        if let (Some((_, Duration::Months(years))), Some(Duration::Months(months))) = (before, length)
            && unit == UnitOfTime::Month
            && years % MONTHS_OF_YEAR == 0
            && let Some(reading) = readings.last_mut()
        {
            reading.range.end = tokens[end - 1].range.end;
            reading.value = years
                .checked_add(months)
                .map(|sum| Value::Duration(Duration::Months(sum)))
                .ok_or(Unread::Absent);
            continue;
        }
        last = length.filter(|_| unit == UnitOfTime::Year).map(|length| (end, length));
        let value = part_or(&found, length.map(Value::Duration).ok_or(Unread::Absent));
        readings.push(reading(tokens, found.start, end, value));
    }
    readings
}

const MONTHS_OF_YEAR: u32 = 12;
const DAYS_OF_WEEK: u32 = 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnitOfTime {
    Year,
    Month,
    Week,
    Day,
}

impl UnitOfTime {
    fn times(self, number: u32) -> Option<Duration> {
        match self {
            UnitOfTime::Year => number.checked_mul(MONTHS_OF_YEAR).map(Duration::Months),
            UnitOfTime::Month => Some(Duration::Months(number)),
            UnitOfTime::Week => number.checked_mul(DAYS_OF_WEEK).map(Duration::Days),
            UnitOfTime::Day => Some(Duration::Days(number)),
        }
    }
}

fn unit_of_time(token: &Token<'_>) -> Option<UnitOfTime> {
    let units: [(&[&str], UnitOfTime); 4] = [
        (
            &[
                "year",
                "years",
                "yr",
                "yrs",
                "jahr",
                "jahre",
                "ans",
                "a\u{f1}os",
                "anos",
                "anni",
                "lat",
                "jaar",
            ],
            UnitOfTime::Year,
        ),
        (
            &["month", "months", "monat", "monate", "mois", "mes", "meses", "mesi", "maanden"],
            UnitOfTime::Month,
        ),
        (&["week", "weeks"], UnitOfTime::Week),
        (
            &["day", "days", "tag", "tage", "jours", "d\u{ed}as", "dias", "giorni", "dni", "dagen"],
            UnitOfTime::Day,
        ),
    ];
    let word = token.text.to_lowercase();
    if word == "y" && token.joined {
        return Some(UnitOfTime::Year);
    }
    let is_it = |(words, _): &&(&[&str], UnitOfTime)| words.contains(&word.as_str());
    units.iter().find(is_it).map(|(_, unit)| *unit)
}

/// A number that is all there is, but for what stands around it in words.
pub(super) fn numbers(tokens: &[Token<'_>], decimal: char) -> Vec<Reading> {
    let of = |found: &Found| {
        reading(tokens, found.start, found.end, part_or(found, Ok(Value::Number(found.number))))
    };
    found(tokens, decimal).iter().map(of).collect()
}
