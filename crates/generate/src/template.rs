//! Chat templates: the Jinja text by which a model's turns are written, as GGUF files and Hugging Face models carry it.
//!
//! What templates call beyond Jinja is what transformers gives them: Python's string methods, `raise_exception` and
//! `strftime_now`. `enable_thinking` is false: what is asked for is an answer, and the way to it would be counted,
//! cached and constrained as if it were one.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};

use crate::call::Message;

/// A template that is longer is no template.
const TEMPLATE_BYTES_MAX: usize = 1 << 20;
/// Steps of one rendering; a template that loops without end is stopped.
const FUEL: u64 = 10_000_000;
const NAME: &str = "chat";

/// A template, compiled.
pub struct Template {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

/// A template that cannot be used, or not with these turns.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// It is longer than any template is.
    #[error("a chat template of {bytes} bytes, of at most {TEMPLATE_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It is not Jinja, or refuses these turns.
    #[error("the chat template: {}", one_line(.0))]
    Jinja(#[from] Error),
}

fn one_line(error: &Error) -> String {
    let line = error.line().map_or_else(String::new, |line| format!(" (line {line})"));
    match error.detail() {
        Some(detail) => format!("{}: {detail}{line}", error.kind()),
        None => format!("{}{line}", error.kind()),
    }
}

impl Template {
    /// Compiles a template. `bos` and `eos` are the texts of the tokens that begin and end a text.
    ///
    /// # Errors
    /// It is too long or no Jinja.
    pub fn new(text: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(TemplateError::TooLong { bytes: text.len() });
        }
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |why: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, why))
        });
        // A prompt with today's date would be another prompt tomorrow, and its journalled answer lost.
        environment.add_function("strftime_now", |_format: String| "");
        // Python's json.dumps escapes nothing for HTML.
        environment.add_filter("tojson", |value: Value| {
            serde_json::to_string(&value)
                .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
        });
        environment.add_template_owned(NAME, text.to_owned())?;
        Ok(Self { environment, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// The turns as the model reads them, up to where its answer begins.
    ///
    /// # Errors
    /// The template refuses them.
    pub fn render(&self, messages: &[Message]) -> Result<String, TemplateError> {
        let template = self.environment.get_template(NAME)?;
        let turn = |message: &Message| {
            Value::from_pairs([("role", message.role.as_str()), ("content", message.content.as_str())])
        };
        let turns: Vec<Value> = messages.iter().map(turn).collect();
        Ok(template.render(context! {
            messages => turns,
            add_generation_prompt => true,
            enable_thinking => false,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
        })?)
    }
}

/// Cuts rendered turns behind the first `shared_bytes` of the last turn's content. Where a template changed that content
/// beyond trimming it, nothing is known to be shared and the prefix is empty.
#[must_use]
pub fn split<'a>(text: &'a str, messages: &[Message], shared_bytes: usize) -> (&'a str, &'a str) {
    let Some(content) = messages.last().map(|message| message.content.as_str()) else {
        return ("", text);
    };
    let trimmed = content.trim();
    let lead = content.len() - content.trim_start().len();
    let at = text.rfind(content).map(|at| at + shared_bytes).or_else(|| {
        let shared = shared_bytes.saturating_sub(lead).min(trimmed.len());
        text.rfind(trimmed).map(|at| at + shared)
    });
    match at {
        Some(at) if text.is_char_boundary(at) => text.split_at(at),
        _ => ("", text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{%- for message in messages %}\n{{- '<|im_start|>' + message.role + '\\n' + message['content'].strip() + '<|im_end|>\\n' }}\n{%- endfor %}\n{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}";

    fn turn(role: &str, content: &str) -> Message {
        Message { role: role.to_owned(), content: content.to_owned() }
    }

    #[test]
    fn turns_are_written_as_the_model_wants_them() {
        let template = Template::new(CHATML, "", "").unwrap();
        let text = template.render(&[turn("system", "Be brief."), turn("user", " a <b> 'c' ")]).unwrap();
        assert_eq!(
            text,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na <b> 'c'<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn what_is_shared_ends_inside_the_last_turn() {
        let template = Template::new(CHATML, "", "").unwrap();
        for content in ["the document\n\nquestion", "\n the document\n\nquestion "] {
            let messages = [turn("user", content)];
            let text = template.render(&messages).unwrap();
            let shared = content.find("question").unwrap();
            let (prefix, suffix) = split(&text, &messages, shared);
            assert!(prefix.ends_with("the document\n\n"), "{prefix:?}");
            assert_eq!(suffix, "question<|im_end|>\n<|im_start|>assistant\n");
        }
        let messages = [turn("user", "é and more")];
        assert_eq!(split("é and more", &messages, 1), ("", "é and more"), "no cut inside a letter");
        assert_eq!(split("other words", &messages, 2), ("", "other words"));
    }

    #[test]
    fn a_template_that_refuses_or_never_ends_is_one_line() {
        let refuses = Template::new("{{ raise_exception('no system turn') }}", "", "").unwrap();
        let error = refuses.render(&[]).unwrap_err().to_string();
        assert_eq!(error, "the chat template: invalid operation: no system turn (line 1)");
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        let error = Template::new(endless, "", "").unwrap().render(&[]).unwrap_err().to_string();
        assert!(error.contains("fuel"), "{error}");
        assert!(Template::new("{% if %}", "", "").is_err());
        assert!(Template::new(&" ".repeat(TEMPLATE_BYTES_MAX + 1), "", "").is_err());
    }
}
