//! Words, numbers and marks of a short text, with their places.

use std::ops::Range;

use super::decimal::Decimal;

/// A piece of the text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    pub(super) range: Range<usize>,
    /// Whether it stands directly behind the piece before.
    pub(super) joined: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Letters.
    Word,
    /// Digits, with separators between digits.
    Number,
    /// Anything else, a character at a time.
    Mark,
}

impl Token<'_> {
    pub(super) fn is_word(&self, words: &[&str]) -> bool {
        self.kind == Kind::Word && words.iter().any(|word| self.text.eq_ignore_ascii_case(word))
    }

    pub(super) fn is_mark(&self, marks: &[char]) -> bool {
        self.kind == Kind::Mark && self.text.starts_with(marks)
    }

    pub(super) fn is_dash(&self) -> bool {
        self.is_mark(&['-', '\u{2010}', '\u{2011}', '\u{2012}', '\u{2013}', '\u{2014}', '\u{2212}'])
    }
}

/// Separators that stand between digits of one number.
const SEPARATORS: [char; 4] = ['.', ',', '\'', '\u{2019}'];
/// Spaces that stand between groups of three digits.
const SPACES: [char; 4] = [' ', '\u{a0}', '\u{202f}', '\u{2009}'];

pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens: Vec<Token<'_>> = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let (kind, bytes) = if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        } else if c.is_ascii_digit() {
            (Kind::Number, number_bytes(&text[at..]))
        } else if c.is_alphabetic() {
            let rest = &text[at..];
            (Kind::Word, rest.find(|c: char| !c.is_alphabetic() && !is_accent(c)).unwrap_or(rest.len()))
        } else {
            (Kind::Mark, c.len_utf8())
        };
        let range = at..at + bytes;
        let joined = tokens.last().is_some_and(|last| last.range.end == at);
        tokens.push(Token { kind, text: &text[range.clone()], range, joined });
        at += bytes;
    }
    tokens
}

/// A mark that belongs to the letter before it.
pub(super) fn is_accent(c: char) -> bool {
    ('\u{300}'..='\u{36f}').contains(&c)
}

fn number_bytes(text: &str) -> usize {
    let digits = |from: usize| text[from..].bytes().take_while(u8::is_ascii_digit).count();
    let mut end = digits(0);
    loop {
        let Some(separator) = text[end..].chars().next() else { return end };
        let next = end + separator.len_utf8();
        let group =
            if SEPARATORS.contains(&separator) || SPACES.contains(&separator) { digits(next) } else { 0 };
        // A space is a separator between groups of three alone, and only where one to three digits stand before it.
        let is_spaced = SPACES.contains(&separator);
        let last_group = text[..end].bytes().rev().take_while(u8::is_ascii_digit).count();
        if group == 0 || is_spaced && (group != 3 || last_group > 3 || text[..end].contains(SEPARATORS)) {
            return end;
        }
        end = next + group;
    }
}

/// The number that digits and separators say. Which separator is the point is what the digits allow: one that comes
/// twice, or stands before the other, groups thousands; a lone one is a point unless it can only be the other's, and where
/// both are possible (`1,234`), `decimal` is the point.
pub(super) fn number(text: &str, decimal: char) -> Option<Decimal> {
    let plain: String =
        text.chars().map(|c| if SPACES.contains(&c) || c == '\u{2019}' { '\'' } else { c }).collect();
    let point = point_of(&plain, decimal);
    let (whole, fraction) = match point {
        Some(at) => (&plain[..at], &plain[at + 1..]),
        None => (plain.as_str(), ""),
    };
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) || !is_grouped(whole) {
        return None;
    }
    let digits: String = whole.chars().filter(char::is_ascii_digit).collect();
    Decimal::of_digits(&digits, fraction)
}

fn point_of(plain: &str, decimal: char) -> Option<usize> {
    let count = |mark: char| plain.matches(mark).count();
    match (count('.'), count(',')) {
        (0, 0) => None,
        (1, 0) | (0, 1) => {
            let mark = if plain.contains('.') { '.' } else { ',' };
            let at = plain.find(mark)?;
            let (whole, behind) = (&plain[..at], &plain[at + 1..]);
            let can_group =
                behind.len() == 3 && whole.len() <= 3 && !whole.starts_with('0') && !plain.contains('\'');
            (mark == decimal || !can_group).then_some(at)
        }
        (1, _) | (_, 1) => {
            let last = plain.rfind(['.', ','])?;
            (count(plain[last..].chars().next()?) == 1).then_some(last)
        }
        _ => None,
    }
}

/// One group of digits, or one to three and then groups of three, all by one mark.
fn is_grouped(whole: &str) -> bool {
    let mut marks = whole.chars().filter(|c| !c.is_ascii_digit());
    let Some(mark) = marks.next() else { return true };
    let groups: Vec<&str> = whole.split(mark).collect();
    marks.all(|other| other == mark)
        && (1..=3).contains(&groups[0].len())
        && groups[1..].iter().all(|group| group.len() == 3)
}

/// What a number in words is, as contracts write it: `three`, `twenty-five`, `one hundred and eighty`. Gives how many
/// pieces it takes.
pub(super) fn in_words(tokens: &[Token<'_>]) -> Option<(u32, usize)> {
    const SMALL: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
    let small = |at: usize| {
        let word = tokens.get(at).filter(|token| token.kind == Kind::Word)?.text;
        SMALL.iter().position(|known| word.eq_ignore_ascii_case(known)).map(|n| n as u32)
    };
    let below_hundred = |at: usize| -> Option<(u32, usize)> {
        if let Some(n) = small(at) {
            return Some((n, 1));
        }
        let word = tokens.get(at).filter(|token| token.kind == Kind::Word)?.text;
        let tens = TENS.iter().position(|known| word.eq_ignore_ascii_case(known))? as u32 * 10 + 20;
        let dash = usize::from(tokens.get(at + 1).is_some_and(Token::is_dash));
        match small(at + 1 + dash) {
            Some(n @ 1..=9) => Some((tens + n, 2 + dash)),
            _ => Some((tens, 1)),
        }
    };
    let (first, taken) = below_hundred(0)?;
    if !tokens.get(taken).is_some_and(|token| token.is_word(&["hundred"])) || !(1..=9).contains(&first) {
        return Some((first, taken));
    }
    let and = usize::from(tokens.get(taken + 1).is_some_and(|token| token.is_word(&["and"])));
    match below_hundred(taken + 1 + and) {
        Some((rest @ 1.., more)) => Some((first * 100 + rest, taken + 1 + and + more)),
        _ => Some((first * 100, taken + 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_are_read_as_the_digits_allow() {
        for (text, point, expected) in [
            ("1,234,567.89", '.', Some("1234567.89")),
            ("1.234.567,89", '.', Some("1234567.89")),
            ("1 234 567,89", '.', Some("1234567.89")),
            ("1'234.5", '.', Some("1234.5")),
            ("12,50", '.', Some("12.5")),
            ("1,234", '.', Some("1234")),
            ("1,234", ',', Some("1.234")),
            ("1.234", '.', Some("1.234")),
            ("1.234", ',', Some("1234")),
            ("0,125", '.', Some("0.125")),
            ("1.234.567", '.', Some("1234567")),
            ("2.1.3", '.', None),
            ("12.3456,7", '.', None),
            ("1,23,456", '.', None),
            ("007", '.', Some("7")),
        ] {
            let found = number(text, point).map(|number| number.to_string());
            assert_eq!(found.as_deref(), expected, "{text} with {point}");
        }
    }

    #[test]
    fn a_space_groups_threes_alone() {
        let texts = |text| tokens(text).iter().map(|token| token.text.to_owned()).collect::<Vec<_>>();
        assert_eq!(texts("EUR 12 500 000 in"), ["EUR", "12 500 000", "in"]);
        assert_eq!(texts("31 12 2031"), ["31", "12", "2031"]);
        assert_eq!(texts("2031 500"), ["2031", "500"]);
        assert_eq!(texts("€250m, 1.35:1."), ["€", "250", "m", ",", "1.35", ":", "1", "."]);
    }

    #[test]
    fn small_numbers_are_read_in_words() {
        let read = |text| in_words(&tokens(text)).map(|(n, _)| n);
        for (text, expected) in [
            ("three years", Some(3)),
            ("twenty-five", Some(25)),
            ("Twenty Five", Some(25)),
            ("one hundred and eighty months", Some(180)),
            ("one hundred", Some(100)),
            ("ninety", Some(90)),
            ("nine", Some(9)),
            ("often", None),
            ("hundred", None),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }
}
