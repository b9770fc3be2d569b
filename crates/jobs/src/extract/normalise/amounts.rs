//! Money, and other quantities with a unit.

use super::measures::{Found, found, part_or, reading};
use super::tokens::Token;
use super::{Reading, Unread, Value};

/// Units that stand behind their number.
const UNITS: [&str; 13] =
    ["MW", "MWp", "kW", "kWp", "GW", "MWh", "GWh", "kWh", "TWh", "MVA", "km", "ha", "tonnes"];
/// Signs of money.
const SIGNS: [char; 4] = ['$', '\u{20ac}', '\u{a3}', '\u{a5}'];

/// What an amount is of, and the power of ten that the same word brings, as in MEUR.
struct Of {
    of: String,
    power: Option<i32>,
}

impl Of {
    fn plain(of: &str) -> Of {
        Of { of: of.to_owned(), power: None }
    }
}

/// EUR 250 million, €250m, USD 12,500,000, 161 MNOK, 80 MW; 12,500 where it is all that is said.
pub(super) fn amounts(tokens: &[Token<'_>], decimal: char) -> Vec<Reading> {
    let all = found(tokens, decimal);
    let is_alone = all.len() == 1;
    all.iter().filter_map(|found| amount(tokens, found, is_alone)).collect()
}

fn amount(tokens: &[Token<'_>], found: &Found, is_alone: bool) -> Option<Reading> {
    let (before, start) = of_before(tokens, found.start);
    let (scale, scale_end) = scale_behind(tokens, found.end);
    let behind = tokens.get(scale_end).and_then(of_behind);
    let end = scale_end + usize::from(behind.is_some());
    let is_bare = before.is_none() && scale.is_none() && behind.is_none();
    if is_bare && !(is_alone && start == 0 && end == tokens.len()) {
        return None;
    }
    // "250 m" may be metres.
    let is_short = scale.is_some() && tokens[found.end].text.to_lowercase().trim_matches('m').is_empty();
    let value = match (&before, &behind) {
        (None, None) if is_short => Err(Unread::Ambiguous),
        _ => value(found, before, scale, behind),
    };
    Some(reading(tokens, start, end, part_or(found, value)))
}

/// One scale at most, and of one thing.
fn value(found: &Found, before: Option<Of>, scale: Option<i32>, behind: Option<Of>) -> Result<Value, Unread> {
    let powers = [scale, before.as_ref().and_then(|of| of.power), behind.as_ref().and_then(|of| of.power)];
    let mut powers = powers.into_iter().flatten();
    let power = powers.next().unwrap_or(0);
    if powers.next().is_some() {
        return Err(Unread::Ambiguous);
    }
    let of = match (before, behind) {
        (Some(a), Some(b)) if a.of != b.of => return Err(Unread::Ambiguous),
        (Some(of), _) | (None, Some(of)) => Some(of.of),
        (None, None) => None,
    };
    found.number.shifted(power).map(|number| Value::Amount { number, of }).ok_or(Unread::Absent)
}

/// A currency before a number, and its first piece.
fn of_before(tokens: &[Token<'_>], at: usize) -> (Option<Of>, usize) {
    let Some(before) = at.checked_sub(1).map(|before| &tokens[before]) else { return (None, at) };
    if before.is_mark(&SIGNS) {
        // US$, A$, HK$: whose dollar it is.
        let country = at.checked_sub(2).map(|at| &tokens[at]).filter(|_| before.joined && before.text == "$");
        return match country.and_then(|word| dollar(word.text)) {
            Some(code) => (Some(Of::plain(code)), at - 2),
            None => (Some(Of::plain(of_sign(before.text))), at - 1),
        };
    }
    match currency(before.text) {
        Some((of, power)) => (Some(Of { of, power }), at - 1),
        None => (None, at),
    }
}

/// million, mn, bn, k behind a number, and the piece behind it.
fn scale_behind(tokens: &[Token<'_>], at: usize) -> (Option<i32>, usize) {
    const WORDS: [(&[&str], i32); 3] = [
        (&["thousand", "thousands", "tsd", "mille", "k"], 3),
        (&["million", "millions", "millionen", "millones", "milioni", "mio", "mln", "mn", "mm", "m"], 6),
        (&["billion", "billions", "bn", "mrd", "milliard", "milliards", "milliarden", "mld"], 9),
    ];
    let Some(word) = tokens.get(at).map(|token| token.text.to_lowercase()) else { return (None, at) };
    let Some((_, power)) = WORDS.iter().find(|(words, _)| words.contains(&word.as_str())) else {
        return (None, at);
    };
    let dot = tokens.get(at + 1).is_some_and(|token| token.is_mark(&['.']) && token.joined);
    (Some(*power), at + 1 + usize::from(dot))
}

/// A currency, its sign or name, or another unit behind a number.
fn of_behind(token: &Token<'_>) -> Option<Of> {
    const NAMES: [(&[&str], &str); 4] =
        [(&["euro", "euros"], "EUR"), (&["dollar", "dollars"], "$"), (&["pounds"], "GBP"), (&["yen"], "JPY")];
    if token.is_mark(&SIGNS) {
        return Some(Of::plain(of_sign(token.text)));
    }
    if let Some((of, power)) = currency(token.text) {
        return Some(Of { of, power });
    }
    let word = token.text.to_lowercase();
    let named = NAMES.iter().find(|(names, _)| names.contains(&word.as_str())).map(|(_, of)| *of);
    named.or_else(|| UNITS.into_iter().find(|unit| *unit == token.text)).map(Of::plain)
}

/// Whether it stands behind its number.
pub(super) fn is_unit(of: &str) -> bool {
    UNITS.contains(&of)
}

/// A dollar and a yen sign are those of several countries: whose it is, is not made up.
fn of_sign(sign: &str) -> &str {
    match sign {
        "\u{20ac}" => "EUR",
        "\u{a3}" => "GBP",
        other => other,
    }
}

fn dollar(country: &str) -> Option<&'static str> {
    const DOLLARS: [(&str, &str); 9] = [
        ("US", "USD"),
        ("A", "AUD"),
        ("AU", "AUD"),
        ("C", "CAD"),
        ("CA", "CAD"),
        ("HK", "HKD"),
        ("NZ", "NZD"),
        ("S", "SGD"),
        ("R", "BRL"),
    ];
    DOLLARS.iter().find(|(name, _)| *name == country).map(|(_, code)| *code)
}

/// A code of ISO 4217, with the letters for its thousands or millions where it carries them: TEUR, MEUR, EURm.
pub(super) fn currency(word: &str) -> Option<(String, Option<i32>)> {
    const CODES: [&str; 42] = [
        "EUR", "USD", "GBP", "JPY", "CHF", "SEK", "NOK", "DKK", "AUD", "CAD", "NZD", "PLN", "CZK", "HUF",
        "RON", "BGN", "TRY", "RUB", "UAH", "CNY", "HKD", "SGD", "KRW", "INR", "IDR", "MYR", "THB", "PHP",
        "VND", "TWD", "BRL", "MXN", "CLP", "COP", "PEN", "ARS", "UYU", "ZAR", "AED", "SAR", "ILS", "EGP",
    ];
    const BEFORE: [(&str, i32); 4] = [("M", 6), ("Mio", 6), ("T", 3), ("k", 3)];
    const BEHIND: [(&str, i32); 5] = [("m", 6), ("mn", 6), ("mio", 6), ("k", 3), ("bn", 9)];
    let code = |text: &str| CODES.contains(&text).then(|| text.to_owned());
    if let Some(code) = code(word) {
        return Some((code, None));
    }
    let before =
        BEFORE.iter().find_map(|(letters, power)| Some((code(word.strip_prefix(letters)?)?, Some(*power))));
    let behind = || {
        BEHIND.iter().find_map(|(letters, power)| Some((code(word.strip_suffix(letters)?)?, Some(*power))))
    };
    before.or_else(behind)
}
