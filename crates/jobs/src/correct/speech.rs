//! Text as a voice reads it: prices, times, dates, ordinals and percentages as words. English only.
//!
//! A voice that meets `$1,250.00` or `3:05` guesses, so what it would guess at is written out before. Only what is
//! certain is: a form that may mean something else (`$5-$10`, `v3:30`, `$2 million`, `Feb 30`) keeps its digits, and so
//! does every number that is none of these forms, a bare year among them.

use std::ops::{Range, RangeInclusive};

/// Longer runs of digits are codes, not amounts: 999,999,999 is the last number that is spoken.
const DIGITS_MAX: usize = 9;
/// More digits behind the point of a percentage are not read one by one.
const DECIMALS_MAX: usize = 6;
const MINUTES: u32 = 60;
const HOURS: u32 = 24;
const HOURS_OF_HALF: u32 = 12;

const ONES: [&str; 20] = [
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
const TENS: [&str; 10] =
    ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
/// Ordinals that are not the number and `th`.
const IRREGULAR: [(&str, &str); 7] = [
    ("one", "first"),
    ("two", "second"),
    ("three", "third"),
    ("five", "fifth"),
    ("eight", "eighth"),
    ("nine", "ninth"),
    ("twelve", "twelfth"),
];
/// Names, other spellings, and days: a three-letter word is no month because it has three letters.
const MONTHS: [(&str, &[&str], u32); 12] = [
    ("January", &["Jan"], 31),
    ("February", &["Feb"], 29),
    ("March", &["Mar"], 31),
    ("April", &["Apr"], 30),
    ("May", &[], 31),
    ("June", &["Jun"], 30),
    ("July", &["Jul"], 31),
    ("August", &["Aug"], 31),
    ("September", &["Sep", "Sept"], 30),
    ("October", &["Oct"], 31),
    ("November", &["Nov"], 30),
    ("December", &["Dec"], 31),
];
/// Behind an amount these multiply it, and the currency is said after them.
const SCALES: [&str; 8] = ["hundred", "thousand", "million", "billion", "trillion", "mn", "bn", "k"];
/// Halves of a day, as they are written behind a time.
const HALVES: [&str; 4] = ["am", "pm", "a.m.", "p.m."];
/// Besides blanks, what may stand before a form.
const OPENS: [char; 10] = ['(', '[', '{', '"', '\'', '“', '‘', '«', '—', '*'];
/// Besides blanks, what may stand behind one.
const CLOSES: [char; 16] = ['.', ',', ';', ':', '!', '?', ')', ']', '}', '"', '\'', '”', '’', '»', '—', '…'];
/// These also join the parts of numbers, addresses and words.
const JOINS: [char; 5] = ['.', ',', ':', '\'', '’'];

/// The text with its prices, times, dates, ordinals and percentages as English words, so that every voice reads them
/// alike. Nothing changes that touches one of the `protected` byte ranges, and nothing outside of those forms.
#[must_use]
pub fn spoken(text: &str, protected: &[Range<usize>]) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut at, mut copied, mut before) = (0, 0, None);
    while let Some(c) = text[at..].chars().next() {
        let form = if is_open(before) { form(&text[at..]) } else { None };
        match form {
            Some((words, rest)) if is_free(protected, &(at..text.len() - rest.len())) => {
                out.push_str(&text[copied..at]);
                out.push_str(&words);
                at = text.len() - rest.len();
                copied = at;
                before = text[..at].chars().next_back();
            }
            _ => {
                at += c.len_utf8();
                before = Some(c);
            }
        }
    }
    out.push_str(&text[copied..]);
    out
}

/// Words, and what stands behind the form that they stand for.
type Form<'a> = Option<(String, &'a str)>;

fn form(text: &str) -> Form<'_> {
    match text.chars().next()? {
        '$' => price(text),
        '0'..='9' => time(text).or_else(|| ordinal_form(text)).or_else(|| percentage(text)),
        'A'..='Z' => date(text),
        _ => None,
    }
}

fn is_open(before: Option<char>) -> bool {
    before.is_none_or(|c| c.is_whitespace() || OPENS.contains(&c))
}

/// Whether a form may end here: what goes on is another form.
fn is_closed(rest: &str) -> bool {
    let mut chars = rest.chars();
    match chars.next() {
        None => true,
        Some(c) if JOINS.contains(&c) => !chars.next().is_some_and(char::is_alphanumeric),
        Some(c) => c.is_whitespace() || c == '*' || CLOSES.contains(&c),
    }
}

fn is_free(protected: &[Range<usize>], range: &Range<usize>) -> bool {
    !protected.iter().any(|part| !part.is_empty() && part.start < range.end && range.start < part.end)
}

/// `$x.yy` and `$x`.
fn price(text: &str) -> Form<'_> {
    let (dollars, rest) = whole(text.strip_prefix('$')?)?;
    let with_cents = rest.strip_prefix('.').and_then(|rest| digits(rest, 2..=2));
    let (cents, rest) = with_cents.unwrap_or((0, rest));
    let next: String = rest.trim_start().chars().take_while(|c| c.is_alphabetic()).collect();
    if !is_closed(rest) || SCALES.contains(&next.to_lowercase().as_str()) {
        return None;
    }
    let of =
        |count: u32, unit: &str| format!("{} {unit}{}", cardinal(count), if count == 1 { "" } else { "s" });
    let words = match (dollars, cents) {
        (dollars, 0) => of(dollars, "dollar"),
        (0, cents) => of(cents, "cent"),
        (dollars, cents) => format!("{} and {}", of(dollars, "dollar"), of(cents, "cent")),
    };
    Some((words, rest))
}

/// `h:mm`, with or without its half of the day.
fn time(text: &str) -> Form<'_> {
    let (hour, rest) = digits(text, 1..=2)?;
    let (minute, rest) = digits(rest.strip_prefix(':')?, 2..=2)?;
    if hour >= HOURS || minute >= MINUTES {
        return None;
    }
    let spoken_minute = match minute {
        0 => String::new(),
        1..10 => format!(" oh {}", cardinal(minute)),
        _ => format!(" {}", cardinal(minute)),
    };
    let hour_word = cardinal(hour);
    if let Some((half, rest)) = half(rest) {
        let is_of_half = (1..=HOURS_OF_HALF).contains(&hour);
        return is_of_half.then(|| (format!("{hour_word}{spoken_minute} {half}"), rest));
    }
    if !is_closed(rest) {
        return None;
    }
    let words = match (hour, minute) {
        (1..=HOURS_OF_HALF, 0) => format!("{hour_word} o'clock"),
        (_, 0) => format!("{hour_word} hundred"),
        _ => format!("{hour_word}{spoken_minute}"),
    };
    Some((words, rest))
}

/// `pm` as it is written, behind a time or a blank.
fn half(rest: &str) -> Option<(&str, &str)> {
    let rest = blank(rest).map_or(rest, |(_, rest)| rest);
    HALVES.iter().find_map(|half| {
        let (start, end) = rest.split_at_checked(half.len())?;
        (start.eq_ignore_ascii_case(half) && is_closed(end)).then_some((start, end))
    })
}

/// `3rd`, also in `21st-century`.
fn ordinal_form(text: &str) -> Form<'_> {
    let (number, rest) = whole(text)?;
    let rest = suffix(number, rest)?;
    let is_compound = rest.strip_prefix('-').is_some_and(|rest| rest.starts_with(char::is_alphabetic));
    (is_compound || is_closed(rest)).then(|| (ordinal(number), rest))
}

/// What stands behind the `rd` of a number; another number's is not its own.
fn suffix(number: u32, rest: &str) -> Option<&str> {
    let own = match (number % 100, number % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    };
    let (start, end) = rest.split_at_checked(own.len())?;
    start.eq_ignore_ascii_case(own).then_some(end)
}

/// `5 %`, `5%` and `2.5%`.
fn percentage(text: &str) -> Form<'_> {
    let (number, mut rest) = whole(text)?;
    let mut words = cardinal(number);
    if let Some(behind) = rest.strip_prefix('.') {
        let (_, end) = digits(behind, 1..=DECIMALS_MAX)?;
        words.push_str(" point");
        for digit in behind[..behind.len() - end.len()].bytes() {
            words.push(' ');
            words.push_str(ONES[usize::from(digit - b'0')]);
        }
        rest = end;
    }
    let rest = blank(rest).map_or(rest, |(_, rest)| rest).strip_prefix('%')?;
    words.push_str(" percent");
    is_closed(rest).then_some((words, rest))
}

/// `Mon d, yyyy` and `Mon d`.
fn date(text: &str) -> Form<'_> {
    let (name, days, rest) = month(text)?;
    let (between, rest) = blank(rest)?;
    let (day, rest) = digits(rest, 1..=2)?;
    if day == 0 || day > days {
        return None;
    }
    let rest = suffix(day, rest).unwrap_or(rest);
    let words = format!("{name}{between}{}", ordinal(day));
    if let Some((blank, year, rest)) = year_behind(rest) {
        return Some((format!("{words},{blank}{}", year_words(year)), rest));
    }
    let is_percentage = rest.trim_start().starts_with('%');
    (is_closed(rest) && !is_percentage).then_some((words, rest))
}

/// A month's whole name, its days, and what stands behind it. A verb that `may` be one has a small letter.
fn month(text: &str) -> Option<(&'static str, u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_alphabetic())?;
    let (word, rest) = text.split_at(end);
    let is_it = |name: &str| word == name || word == name.to_ascii_uppercase();
    MONTHS.iter().find_map(|(name, short, days)| match short.iter().any(|short| is_it(short)) {
        true => Some((*name, *days, rest.strip_prefix('.').unwrap_or(rest))),
        false => is_it(name).then_some((*name, *days, rest)),
    })
}

/// A comma's blank, a year, and what stands behind it.
fn year_behind(rest: &str) -> Option<(&str, u32, &str)> {
    let (blank, rest) = blank(rest.strip_prefix(',')?)?;
    let (year, rest) = digits(rest, 4..=4)?;
    (year >= 1000 && is_closed(rest)).then_some((blank, year, rest))
}

/// In pairs, but for the first years of a millennium.
fn year_words(year: u32) -> String {
    let (first, second) = (year / 100, year % 100);
    match second {
        0..10 if first % 10 == 0 => cardinal(year),
        0 => format!("{} hundred", cardinal(first)),
        1..10 => format!("{} oh {}", cardinal(first), cardinal(second)),
        _ => format!("{} {}", cardinal(first), cardinal(second)),
    }
}

/// One blank, which keeps its kind.
fn blank(text: &str) -> Option<(&str, &str)> {
    let first = text.chars().next().filter(|c| c.is_whitespace())?;
    Some(text.split_at(first.len_utf8()))
}

/// So many digits and no more.
fn digits(text: &str, count: RangeInclusive<usize>) -> Option<(u32, &str)> {
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    if !count.contains(&length) {
        return None;
    }
    let (digits, rest) = text.split_at(length);
    Some((digits.parse().ok()?, rest))
}

/// A whole number, with or without commas between its thousands. With a zero before it, it is a code.
fn whole(text: &str) -> Option<(u32, &str)> {
    let (mut number, mut rest) = digits(text, 1..=DIGITS_MAX)?;
    let mut count = text.len() - rest.len();
    if count > 1 && text.starts_with('0') {
        return None;
    }
    if count <= 3 && number > 0 {
        while let Some((group, end)) = rest.strip_prefix(',').and_then(|rest| digits(rest, 3..=3)) {
            count += 3;
            if count > DIGITS_MAX {
                return None;
            }
            (number, rest) = (number * 1000 + group, end);
        }
    }
    Some((number, rest))
}

fn cardinal(number: u32) -> String {
    let scaled = |unit: u32, name: &str| {
        let (head, tail) = (number / unit, number % unit);
        let tail = if tail == 0 { String::new() } else { format!(" {}", cardinal(tail)) };
        format!("{} {name}{tail}", cardinal(head))
    };
    match number {
        0..20 => ONES[number as usize].to_owned(),
        20..100 if number.is_multiple_of(10) => TENS[number as usize / 10].to_owned(),
        20..100 => format!("{}-{}", TENS[number as usize / 10], ONES[number as usize % 10]),
        100..1000 => scaled(100, "hundred"),
        1000..1_000_000 => scaled(1000, "thousand"),
        _ => scaled(1_000_000, "million"),
    }
}

fn ordinal(number: u32) -> String {
    let words = cardinal(number);
    let at = words.rfind([' ', '-']).map_or(0, |at| at + 1);
    let (start, last) = words.split_at(at);
    match IRREGULAR.iter().find(|(word, _)| *word == last) {
        Some((_, ordinal)) => format!("{start}{ordinal}"),
        None => match last.strip_suffix('y') {
            Some(stem) => format!("{start}{stem}ieth"),
            None => format!("{words}th"),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holds(table: &[(&str, &str)]) {
        for (before, after) in table {
            assert_eq!(spoken(before, &[]), *after, "{before}");
        }
    }

    #[test]
    fn prices_are_spoken() {
        holds(&[
            ("It cost $1,250.00.", "It cost one thousand two hundred fifty dollars."),
            ("$1250", "one thousand two hundred fifty dollars"),
            ("($3.50)", "(three dollars and fifty cents)"),
            ("$1", "one dollar"),
            ("$0.01, $0.99 and $1.01", "one cent, ninety-nine cents and one dollar and one cent"),
            ("$0", "zero dollars"),
            ("a \"$21\" note", "a \"twenty-one dollars\" note"),
            (
                "$999,999,999",
                "nine hundred ninety-nine million nine hundred ninety-nine thousand nine hundred ninety-nine dollars",
            ),
            ("$1,000,000!", "one million dollars!"),
        ]);
    }

    #[test]
    fn times_are_spoken() {
        holds(&[
            ("At 3:05 we left.", "At three oh five we left."),
            ("at 12:30, at 9:00; at 09:45", "at twelve thirty, at nine o'clock; at nine forty-five"),
            ("3:00 pm and 3:30pm", "three pm and three thirty pm"),
            ("10:15 a.m. sharp", "ten fifteen a.m. sharp"),
            ("until 18:00", "until eighteen hundred"),
            ("23:59", "twenty-three fifty-nine"),
        ]);
    }

    #[test]
    fn dates_are_spoken() {
        holds(&[
            ("On Jan 5, 2024 it", "On January fifth, twenty twenty-four it"),
            ("Jan. 5, 1905.", "January fifth, nineteen oh five."),
            ("December 31, 1999", "December thirty-first, nineteen ninety-nine"),
            ("March 1, 2000; March 2, 1900", "March first, two thousand; March second, nineteen hundred"),
            ("May 3, 2005", "May third, two thousand five"),
            ("Oct 14, 1066", "October fourteenth, ten sixty-six"),
            ("Sept 12 and JUNE 2nd", "September twelfth and June second"),
            ("Aug\n8", "August\neighth"),
            ("On May 5, 1,200 came", "On May fifth, 1,200 came"),
            ("Feb 29", "February twenty-ninth"),
            ("on May 5:30 is", "on May five thirty is"),
        ]);
    }

    #[test]
    fn ordinals_and_percentages_are_spoken() {
        holds(&[
            ("the 3rd, 11th, 12th and 22nd", "the third, eleventh, twelfth and twenty-second"),
            ("the 21st-century 20TH", "the twenty-first-century twentieth"),
            ("the 1,000th, the 101st", "the one thousandth, the one hundred first"),
            ("the 5th 8th 9th", "the fifth eighth ninth"),
            (
                "5 % or 5%, 2.5%, 0.05 %",
                "five percent or five percent, two point five percent, zero point zero five percent",
            ),
            ("100%!", "one hundred percent!"),
        ]);
    }

    #[test]
    fn what_is_none_of_these_keeps_its_digits() {
        // A rule for short dates once took every word of three letters for a month: the twelfth dogs.
        for text in [
            "the 12 dogs",
            "The 12 dogs and 1,250 cats",
            "in 1999",
            "May 2024",
            "may 12 dogs come",
            "Mai 5",
            "Feb 30",
            "Jun 31",
            "Jan 0",
            "Jan 123",
            "Marching 5",
            "xJan 5",
            "$5-$10",
            "US$5",
            "-$5",
            "$1.5",
            "$1,25",
            "$1,2500",
            "$05",
            "$2 million",
            "$3k",
            "$3 bn",
            "$1234567890",
            "$1,000,000,000",
            "3:5",
            "25:00",
            "3:60",
            "1:02:03",
            "1:23.4",
            "3:30-4:45",
            "v3:30",
            "13:00 pm",
            "3th",
            "11st",
            "3rds",
            "x3rd",
            "0,500th",
            "-5%",
            "5%x",
            "1.2.3%",
            "5 percent",
            "٣%",
            "http://a.b/3:30",
            "$",
            "%",
            "",
            "Jan",
            "Jan ",
            "1234567890th",
        ] {
            assert_eq!(spoken(text, &[]), text);
        }
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "a list of protected ranges with one entry")]
    fn protected_ranges_keep_their_bytes() {
        let text = "é $5 and $5, Jan 5, 2024";
        let at = text.find("$5").unwrap();
        assert_eq!(spoken(text, &[at..at + 2]), "é $5 and five dollars, January fifth, twenty twenty-four");
        let year = text.find("2024").unwrap();
        assert_eq!(spoken(text, &[year..year + 4]), "é five dollars and five dollars, Jan 5, 2024");
        assert_eq!(spoken("$5", &[1..1]), "five dollars", "an empty range protects nothing");
    }

    proptest! {
        #[test]
        fn a_text_without_digits_is_unchanged(text in "\\PC{0,80}|(Jan|May|\\$|%|:|,| |th|pm){0,40}") {
            prop_assume!(!text.contains(|c: char| c.is_ascii_digit()));
            prop_assert_eq!(spoken(&text, &[]), text);
        }

        #[test]
        fn a_protected_text_is_unchanged(
            before in "[a-z ]{0,20}",
            inside in "(Jan 5, 2024|\\$[0-9]{1,5}(\\.[0-9]{2})?|[0-9]{1,2}:[0-9]{2}|[0-9]{1,4}th|[0-9]{1,3} ?%| ){1,6}",
            after in "[a-z ]{0,20}",
        ) {
            let text = format!("{before}{inside}{after}");
            let range = before.len()..before.len() + inside.len();
            prop_assert_eq!(spoken(&text, std::slice::from_ref(&range)), text);
        }

        #[test]
        fn any_text_is_taken_and_no_letter_outside_a_form_changes(text in "[\\PC0-9$%:,. ]{0,60}") {
            let _words = spoken(&text, &[]);
            let framed = format!("über {text} ende");
            let out = spoken(&framed, &[]);
            prop_assert!(out.starts_with("über ") && out.ends_with(" ende"));
        }

        #[test]
        fn every_number_is_spoken_without_digits(number in 0_u32..=999_999_999) {
            let out = spoken(&format!("${number}"), &[]);
            prop_assert!(!out.contains(|c: char| c.is_ascii_digit() || c == '$'), "{}", out);
        }
    }
}
