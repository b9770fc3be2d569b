//! `haul schema`: whether a schema of `haul extract` can be used, and how a model is asked with it.

use std::fs;
use std::path::Path;

use haul_jobs::extract::schema::explain::{ExplainError, Explanation, explain};
use haul_jobs::extract::schema::{Group, Problem, Schema, SchemaError, Syntax};
use serde_json::json;

use crate::Exit;
use crate::cli::llm::{ExplainArgs, SchemaCommand};
use crate::commands::generator;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;
use crate::{signals_unix, summary};

/// Runs the command.
pub(crate) fn run(command: &SchemaCommand, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    match command {
        SchemaCommand::Check { file } => check(file, output),
        SchemaCommand::Explain(args) => explained(args, settings, output),
    }
}

/// A schema that can be used, or the error of one that cannot.
fn read(file: &Path) -> Result<Result<Schema, SchemaError>, Failure> {
    let syntax = Syntax::from_path(file).ok_or_else(|| {
        Failure::new(format!("{}: no schema by its name", file.display()))
            .hint("schemas are .toml and .json files")
    })?;
    let text = fs::read_to_string(file).map_err(|error| Failure::io("read", file, &error))?;
    Ok(Schema::parse(&text, syntax))
}

/// A schema that can be used, or a failure that says what is wrong with it.
pub(crate) fn usable(file: &Path) -> Result<Schema, Failure> {
    read(file)?.map_err(|error| {
        let failure = Failure::new(format!("{}: {error}", file.display()));
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })
}

fn check(file: &Path, output: &Output) -> Result<Exit, Failure> {
    let checked = read(file)?;
    let problems: &[Problem] = checked.as_ref().map_or_else(|error| error.problems.as_slice(), |_| &[]);
    if output.json() {
        let mut document = json!({"file": file, "ok": checked.is_ok(), "problems": problems});
        if let Ok(schema) = &checked {
            document["groups"] = schema.groups.len().into();
            document["fields"] = schema.fields().count().into();
            document["rules"] = schema.rules.len().into();
            document["languages"] = schema.languages.len().into();
        }
        output.json_document(&document)?;
    } else {
        output.data(&match &checked {
            Ok(schema) => format!("{}: ok, {}", file.display(), summary::schema::counts(schema)),
            Err(_) => summary::schema::problems(file, problems),
        })?;
    }
    Ok(if problems.is_empty() { Exit::Ok } else { Exit::SomeNotOk })
}

fn explained(args: &ExplainArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let schema = usable(&args.file)?;
    let group = args.group.as_deref().map(|name| group(&schema, name)).transpose()?;
    let mut explanation = explanation(&schema, args, settings, output)?;
    if let Some(group) = group {
        explanation.questions.retain(|asked| asked.group.as_ref() == Some(&group.name));
    }
    let groups: Vec<&Group> =
        schema.groups.iter().filter(|of| group.is_none_or(|group| group.name == of.name)).collect();
    if output.json() {
        output.json_document(&json!({
            "entity": schema.entity, "groups": groups, "numbering": schema.numbering, "answer": schema.answer,
            "limits": schema.limits, "formats": schema.formats, "retrieval": schema.retrieval,
            "languages": schema.languages, "rules": schema.rules, "prompts": explanation,
        }))?;
    } else {
        output.data(&summary::schema::explanation(&schema, &groups, &explanation))?;
    }
    Ok(Exit::Ok)
}

fn group<'a>(schema: &'a Schema, name: &str) -> Result<&'a Group, Failure> {
    schema.groups.iter().find(|group| group.name == name).ok_or_else(|| {
        let known: Vec<&str> = schema.groups.iter().map(|group| group.name.as_str()).collect();
        Failure::new(format!("no group {name}")).hint(format!("there are {}", known.join(", ")))
    })
}

/// Sizes are in tokens where a model is named that can count them.
fn explanation(
    schema: &Schema,
    args: &ExplainArgs,
    settings: &Settings,
    output: &Output,
) -> Result<Explanation, Failure> {
    let explained = if args.engine.model.is_some() {
        let stop = signals_unix::stop_on_signals()?;
        let mut opened = generator::open(&args.engine, settings, &stop, output)?;
        let context = opened.generator.facts().context_tokens;
        explain(schema, context, |texts| opened.generator.count_tokens(texts).map_err(Failure::from))
    } else {
        explain(schema, None, |_| Ok(None))
    };
    explained.map_err(|error| match error {
        ExplainError::Count(failure) => failure,
        other => Failure::new(other.to_string()),
    })
}
