//! A script in place of a model: it tests what asks, never what answers.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Duration;

use crate::call::{Answer, Call, CallError, Finish, Prompt, Totals};
use crate::{Answered, GenerateError};

/// What becomes of one call.
#[derive(Clone, Debug)]
pub struct Line {
    /// The answer, or why there is none.
    pub answer: Result<(String, Finish), CallError>,
    /// How long it takes.
    pub after: Duration,
}

/// Answers in order, or by a rule.
pub struct Fake {
    lines: VecDeque<Line>,
    rule: Option<Rule>,
    /// Lines given so far.
    given: usize,
    /// Every prompt that was asked, as one text.
    asked: Vec<String>,
}

/// The last turn of a prompt to its answer.
type Rule = Box<dyn FnMut(&str) -> Line + Send>;

impl Line {
    /// An answer at once.
    #[must_use]
    pub fn says(text: &str) -> Line {
        Line { answer: Ok((text.to_owned(), Finish::Stop)), after: Duration::ZERO }
    }

    /// An answer that was cut at its limit.
    #[must_use]
    pub fn cut(text: &str) -> Line {
        Line { answer: Ok((text.to_owned(), Finish::Length)), after: Duration::ZERO }
    }

    /// No answer.
    #[must_use]
    pub fn fails(error: CallError) -> Line {
        Line { answer: Err(error), after: Duration::ZERO }
    }
}

impl Fake {
    /// Answers calls by these lines, in the order in which they are asked.
    #[must_use]
    pub fn new(lines: impl IntoIterator<Item = Line>) -> Fake {
        Fake { lines: lines.into_iter().collect(), rule: None, given: 0, asked: vec![] }
    }

    /// Answers every call by what its last turn, or its text, says.
    #[must_use]
    pub fn by(rule: impl FnMut(&str) -> Line + Send + 'static) -> Fake {
        Fake { lines: VecDeque::new(), rule: Some(Box::new(rule)), given: 0, asked: vec![] }
    }

    /// The prompts that were asked, in order.
    #[must_use]
    pub fn asked(&self) -> &[String] {
        &self.asked
    }

    pub(crate) fn run(
        &mut self,
        calls: &[Call],
        answered: &mut Answered<'_>,
    ) -> Result<Totals, GenerateError> {
        let mut totals = Totals::default();
        for (number, call) in calls.iter().enumerate() {
            let asked = last_turn(&call.prompt);
            let line = match &mut self.rule {
                Some(rule) => Some(rule(&asked)),
                None => self.lines.pop_front(),
            };
            let line =
                line.ok_or(GenerateError::ScriptEnded { lines: self.given, call: self.asked.len() })?;
            self.given += 1;
            std::thread::sleep(line.after);
            let result = line.answer.map(|(text, finish)| answer(&asked, text, finish, line.after));
            self.asked.push(asked);
            match &result {
                Ok(answer) => totals.add(answer),
                Err(_) => totals.failed += 1,
            }
            if let ControlFlow::Break(()) = answered(number, result) {
                break;
            }
        }
        Ok(totals)
    }
}

fn last_turn(prompt: &Prompt) -> String {
    match prompt {
        Prompt::Text { prefix, suffix, .. } => format!("{prefix}{suffix}"),
        Prompt::Chat { messages, .. } => {
            messages.last().map_or_else(String::new, |message| message.content.clone())
        }
    }
}

fn answer(asked: &str, text: String, finish: Finish, after: Duration) -> Answer {
    let tokens = |text: &str| u32::try_from(text.len() / 4 + 1).unwrap_or(u32::MAX);
    Answer {
        prompt_tokens: tokens(asked),
        reused_tokens: 0,
        answer_tokens: tokens(&text),
        ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
        text,
        finish,
        logprobs: vec![],
    }
}
