//! Decimal numbers without rounding: what stands in a contract is never a little less.

use std::cmp::Ordering;
use std::fmt;

/// Digits of a number; more of them are no quantity.
const DIGITS_MAX: usize = 30;

/// `units / 10^scale`, with the smallest scale that holds it: equal numbers are equal values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decimal {
    units: i128,
    scale: u32,
}

impl Decimal {
    /// Digits before and behind the point, both of digits alone.
    pub(super) fn of_digits(whole: &str, fraction: &str) -> Option<Decimal> {
        if whole.len() + fraction.len() > DIGITS_MAX {
            return None;
        }
        let units = format!("{whole}{fraction}").parse().ok()?;
        Some(Decimal { units, scale: fraction.len() as u32 }.reduced())
    }

    /// A whole number.
    #[must_use]
    pub fn whole(units: u32) -> Decimal {
        Decimal { units: units.into(), scale: 0 }
    }

    /// Times ten to the power of `power`; none beyond what can be held.
    pub(super) fn shifted(self, power: i32) -> Option<Decimal> {
        let scale = i64::from(self.scale) - i64::from(power);
        if scale >= 0 {
            return (scale <= DIGITS_MAX as i64)
                .then(|| Decimal { units: self.units, scale: scale as u32 }.reduced());
        }
        let factor = 10_i128.checked_pow(scale.unsigned_abs() as u32)?;
        Some(Decimal { units: self.units.checked_mul(factor)?, scale: 0 })
    }

    pub(super) fn negated(self) -> Decimal {
        Decimal { units: -self.units, ..self }
    }

    /// The number if it is whole and small.
    pub(super) fn as_u32(self) -> Option<u32> {
        if self.scale == 0 { u32::try_from(self.units).ok() } else { None }
    }

    /// With exactly so many digits behind the point, the half away from zero.
    #[must_use]
    pub fn rounded(self, places: u32) -> String {
        let units = if self.scale > places {
            let unit = 10_i128.pow(self.scale - places);
            (self.units + self.units.signum() * unit / 2) / unit
        } else {
            // At most 30 digits and as many places as a table has: this holds.
            self.units * 10_i128.pow(places - self.scale)
        };
        written(units, places)
    }

    fn reduced(mut self) -> Decimal {
        while self.scale > 0 && self.units % 10 == 0 {
            (self.units, self.scale) = (self.units / 10, self.scale - 1);
        }
        self
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Decimal) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Decimal) -> Ordering {
        // Whole parts first, so that nothing is scaled beyond what can be held.
        let parts = |number: &Decimal| {
            let unit = 10_i128.pow(number.scale);
            (number.units.div_euclid(unit), number.units.rem_euclid(unit))
        };
        let ((whole, rest), (other_whole, other_rest)) = (parts(self), parts(other));
        let rest_at = |rest: i128, scale: u32| format!("{rest:0width$}", width = scale as usize);
        whole.cmp(&other_whole).then_with(|| {
            let (a, b) = (rest_at(rest, self.scale), rest_at(other_rest, other.scale));
            a.trim_end_matches('0').cmp(b.trim_end_matches('0'))
        })
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&written(self.units, self.scale))
    }
}

fn written(units: i128, places: u32) -> String {
    let sign = if units < 0 { "-" } else { "" };
    let digits = format!("{:0width$}", units.unsigned_abs(), width = places as usize + 1);
    let (whole, fraction) = digits.split_at(digits.len() - places as usize);
    if places == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let number = Decimal::of_digits(whole, fraction).unwrap();
        if sign < 0 { number.negated() } else { number }
    }

    #[test]
    fn numbers_are_exact_and_have_one_form() {
        assert_eq!(decimal("2.750"), decimal("2.75"));
        assert_eq!(decimal("275").shifted(-2).unwrap().to_string(), "2.75");
        assert_eq!(decimal("1.5").shifted(9).unwrap().to_string(), "1500000000");
        assert_eq!(decimal("0.05").to_string(), "0.05");
        assert_eq!(decimal("100").to_string(), "100");
        assert!(Decimal::of_digits(&"9".repeat(31), "").is_none());
        assert!(decimal("9").shifted(40).is_none());
    }

    #[test]
    fn halves_are_rounded_away_from_zero() {
        for (number, places, shown) in [
            ("2.745", 2, "2.75"),
            ("-2.745", 2, "-2.75"),
            ("2.7449", 2, "2.74"),
            ("1.3", 2, "1.30"),
            ("5", 0, "5"),
            ("0.004", 2, "0.00"),
        ] {
            assert_eq!(decimal(number).rounded(places), shown, "{number}");
        }
    }

    #[test]
    fn numbers_are_ordered_whatever_their_scale() {
        let sorted = ["-1.5", "-1.25", "0", "0.0001", "0.1", "0.12", "0.2", "1", "1.05", "1.5", "12"];
        for (a, b) in sorted.iter().zip(&sorted[1..]) {
            assert!(decimal(a) < decimal(b), "{a} {b}");
        }
    }
}
