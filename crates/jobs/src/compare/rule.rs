//! Which file to take, by a rule that is printed with its numbers.

use serde::Serialize;

use crate::statistics::{Interval, Paired, Ratio};

/// A file whose mean divergence is surely above this is another model in all but name: q4_0 of a model of 8 B parameters
/// is at 0.07 (llama.cpp's own table).
const FAR_KLD: f64 = 0.1;
/// A ratio of speeds within this factor of 1 is no difference to anybody.
const SAME_SPEED: f64 = 1.03;

/// The rule in words.
pub const RULE: &str = "A file is left out when it passes surely fewer task cases than the base, when its mean \
    divergence from the base is surely above 0.1 nats, or when it ran somewhere else. Of the others, those that decode \
    surely more than 3 % faster than the base are taken before it; of these the fastest; where speeds cannot be told \
    apart, the one with the surely smaller divergence, else the smaller file. `Surely` means by the whole 95 % interval.";

/// What a file is beside the base.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Why its speed cannot be compared with the base's.
    pub not_comparable: Option<String>,
    /// Decode, over the base's.
    pub decode: Option<Ratio>,
    /// Mean divergence from the base, and its interval.
    pub kld: Option<(f64, Option<Interval>)>,
    /// Task cases passed, less the base's.
    pub cases: Option<Paired>,
}

/// What came of the rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recommendation {
    /// [`RULE`].
    pub rule: &'static str,
    /// The file to take.
    pub take: String,
    /// Why, in one line.
    pub why: String,
    /// A line for each file but the base, with its numbers.
    pub files: Vec<String>,
}

/// Applies the rule. `others` are without the base.
#[must_use]
pub fn recommend(base: &str, others: &[Candidate]) -> Recommendation {
    let kept: Vec<&Candidate> = others.iter().filter(|candidate| candidate.left_out().is_none()).collect();
    let faster: Vec<&&Candidate> = kept.iter().filter(|candidate| candidate.is_faster()).collect();
    let fastest = faster.iter().copied().max_by(|a, b| a.speed().total_cmp(&b.speed()));
    let (take, why) = match fastest {
        None => (base.to_owned(), why_base(others, &kept)),
        Some(fastest) => {
            let as_fast = faster.iter().copied().filter(|candidate| candidate.is_as_fast_as(fastest));
            let best = as_fast.reduce(|best, other| if other.goes_before(best) { other } else { best });
            let best = best.unwrap_or(fastest);
            (best.name.clone(), format!("{}; {}", best.says_speed(), best.says_quality()))
        }
    };
    let line = |candidate: &Candidate| {
        let numbers = format!("{}; {}", candidate.says_speed(), candidate.says_quality());
        match candidate.left_out() {
            Some(why) => format!("{}: left out, {why} ({numbers})", candidate.name),
            None => format!("{}: {numbers}", candidate.name),
        }
    };
    Recommendation { rule: RULE, take, why, files: others.iter().map(line).collect() }
}

fn why_base(others: &[Candidate], kept: &[&Candidate]) -> String {
    match (others.is_empty(), kept.is_empty()) {
        (true, _) => "there is no other file".to_owned(),
        (false, true) => "no other file is left by the rule".to_owned(),
        (false, false) => "no file that is left by the rule decodes surely faster".to_owned(),
    }
}

impl Candidate {
    fn left_out(&self) -> Option<String> {
        if let Some(why) = &self.not_comparable {
            return Some(why.clone());
        }
        if let Some(cases) = self.cases.filter(|cases| cases.interval.high < 0.0) {
            return Some(format!("it passes fewer cases ({:+.0} %)", 100.0 * cases.delta));
        }
        match self.kld {
            Some((mean, Some(interval))) if interval.low > FAR_KLD => {
                Some(format!("its divergence {mean:.3} is above {FAR_KLD}"))
            }
            _ => None,
        }
    }

    fn speed(&self) -> f64 {
        self.decode.map_or(0.0, |decode| decode.ratio)
    }

    fn is_faster(&self) -> bool {
        self.decode.and_then(|decode| decode.interval).is_some_and(|interval| interval.low > SAME_SPEED)
    }

    fn is_as_fast_as(&self, other: &Candidate) -> bool {
        match (self.decode.and_then(|d| d.interval), other.decode.and_then(|d| d.interval)) {
            (Some(this), Some(other)) => this.overlaps(&other),
            _ => false,
        }
    }

    /// Among files that are as fast: surely nearer to the base, or, where that cannot be told, smaller.
    fn goes_before(&self, other: &Candidate) -> bool {
        match (self.kld, other.kld) {
            (Some((this, Some(reach))), Some((that, Some(reach_of_other))))
                if !reach.overlaps(&reach_of_other) =>
            {
                this < that
            }
            _ => self.bytes < other.bytes,
        }
    }

    fn says_speed(&self) -> String {
        match self.decode {
            _ if self.not_comparable.is_some() => "its speed is not compared".to_owned(),
            None => "its speed was not measured".to_owned(),
            Some(Ratio { ratio, interval: None }) => {
                format!("decodes at {ratio:.2} times the base, once measured")
            }
            Some(Ratio { ratio, interval: Some(Interval { low, high }) }) => {
                let word = if low > SAME_SPEED {
                    "faster"
                } else if high < 1.0 / SAME_SPEED {
                    "slower"
                } else {
                    "no difference that this measurement can show"
                };
                format!("decodes at {ratio:.2} times the base ({low:.2} to {high:.2}): {word}")
            }
        }
    }

    fn says_quality(&self) -> String {
        let kld = match self.kld {
            None => "its distributions are not compared".to_owned(),
            Some((mean, None)) => format!("divergence {mean:.4}, one window"),
            Some((mean, Some(Interval { low, high }))) if mean <= 0.0 && high <= 0.0 => {
                format!("divergence {low:.4}: the same distributions")
            }
            Some((mean, Some(Interval { low, high }))) => {
                format!("divergence {mean:.4} ({low:.4} to {high:.4})")
            }
        };
        let cases = match self.cases {
            None => "no cases".to_owned(),
            Some(Paired { delta, interval, .. }) => {
                let (low, high) = (100.0 * interval.low, 100.0 * interval.high);
                let word = if high < 0.0 {
                    "worse"
                } else if low > 0.0 {
                    "better"
                } else {
                    "no difference that these cases can show"
                };
                format!("cases {:+.0} % ({low:+.0} to {high:+.0} %): {word}", 100.0 * delta)
            }
        };
        format!("{kld}; {cases}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(low: f64, high: f64) -> Option<Ratio> {
        Some(Ratio { ratio: f64::midpoint(low, high), interval: Some(Interval { low, high }) })
    }

    fn file(name: &str, bytes: u64, decode: (f64, f64), kld: (f64, f64), cases: (u64, u64)) -> Candidate {
        Candidate {
            name: name.to_owned(),
            bytes,
            not_comparable: None,
            decode: ratio(decode.0, decode.1),
            kld: Some((f64::midpoint(kld.0, kld.1), Some(Interval { low: kld.0, high: kld.1 }))),
            cases: Paired::of(cases.0, cases.1, 100),
        }
    }

    #[test]
    fn the_rule_decides() {
        let q8 = || file("q8", 40, (1.1, 1.2), (0.001, 0.002), (1, 1));
        let q4 = || file("q4", 20, (1.5, 1.6), (0.03, 0.05), (1, 2));
        let moved = Candidate { not_comparable: Some("it ran on cuda0".to_owned()), ..q4() };
        let cases: Vec<(&str, Vec<Candidate>, &str)> = vec![
            ("alone", vec![], "f16"),
            ("the fastest that is good enough", vec![q8(), q4()], "q4"),
            ("surely worse on cases", vec![q8(), file("q4", 20, (1.5, 1.6), (0.03, 0.05), (0, 20))], "q8"),
            ("surely far away", vec![q8(), file("q2", 10, (2.0, 2.1), (0.2, 0.3), (0, 0))], "q8"),
            ("perhaps far away", vec![q8(), file("q2", 10, (2.0, 2.1), (0.09, 0.3), (0, 0))], "q2"),
            ("ran somewhere else", vec![q8(), moved], "q8"),
            ("not surely faster", vec![file("q8", 40, (1.0, 1.2), (0.001, 0.002), (0, 0))], "f16"),
            ("slower", vec![file("q8", 40, (0.8, 0.9), (0.001, 0.002), (9, 0))], "f16"),
            (
                "as fast: the nearer one",
                vec![
                    file("q4", 20, (1.4, 1.6), (0.03, 0.05), (0, 0)),
                    file("q5", 30, (1.3, 1.5), (0.01, 0.02), (0, 0)),
                ],
                "q5",
            ),
            (
                "as fast and as near: the smaller one",
                vec![
                    file("q5", 30, (1.3, 1.5), (0.01, 0.04), (0, 0)),
                    file("q4", 20, (1.4, 1.6), (0.03, 0.05), (0, 0)),
                ],
                "q4",
            ),
        ];
        for (what, others, take) in cases {
            let found = recommend("f16", &others);
            assert_eq!(found.take, take, "{what}: {found:#?}");
            assert_eq!(found.files.len(), others.len());
        }
    }

    #[test]
    fn what_overlaps_is_no_difference() {
        let found = recommend("f16", &[file("q8", 40, (0.98, 1.02), (0.001, 0.002), (1, 1))]);
        assert_eq!(
            found.files,
            [
                "q8: decodes at 1.00 times the base (0.98 to 1.02): no difference that this measurement can show; \
              divergence 0.0015 (0.0010 to 0.0020); cases +0 % (-4 to +4 %): no difference that these cases can show"
            ]
        );
        assert_eq!(found.why, "no file that is left by the rule decodes surely faster");
        let same = recommend("f16", &[file("copy", 40, (0.98, 1.02), (0.0, 0.0), (0, 0))]);
        assert!(same.files[0].contains("divergence 0.0000: the same distributions"), "{same:#?}");
    }
}
