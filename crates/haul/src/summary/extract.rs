//! Forecasts of `haul extract`, for people.

use haul_jobs::extract::plan::{CapWorth, Plan, PlannedStage};

use super::{duration, thousands};

/// What will be asked, and what each cap would save.
pub(crate) fn plan(plan: &Plan) -> String {
    let mut text = String::new();
    line!(
        text,
        "{} {}, {} windows; read for this forecast: {}, and their answers are kept",
        thousands(plan.companies as u64),
        if plan.companies == 1 { "company" } else { "companies" },
        thousands(plan.windows as u64),
        thousands(plan.sampled as u64)
    );
    line!(
        text,
        "\n{:<28} {:>17} {:>13} {:>7} {:>10} {:>12}",
        "",
        "calls",
        "prompt tokens",
        "shared",
        "written",
        "time"
    );
    for stage in &plan.stages {
        line!(text, "{}", row(stage.stage.map_or("", |stage| stage.name()), stage));
    }
    line!(text, "{}", row("all", &plan.total));
    if !plan.caps.is_empty() {
        line!(text, "\nwithout a stage:");
    }
    for CapWorth { flag, calls, seconds, values_percent } in &plan.caps {
        line!(
            text,
            "  {flag:<20} {} calls and {} less, {values_percent:.1} % of the values lost or left as they were",
            thousands(*calls),
            duration(*seconds)
        );
    }
    text
}

fn row(name: &str, stage: &PlannedStage) -> String {
    let calls = match stage.calls_low == stage.calls_high {
        true => thousands(stage.calls_low),
        false => format!("{} to {}", thousands(stage.calls_low), thousands(stage.calls_high)),
    };
    let shared = 100 * stage.reused_tokens / stage.prompt_tokens.max(1);
    format!(
        "{name:<28} {calls:>17} {:>13} {shared:>5} % {:>10} {:>12}",
        thousands(stage.prompt_tokens),
        thousands(stage.answer_tokens),
        duration(stage.seconds)
    )
}
