//! Forecasts of `haul extract`, for people.

use haul_jobs::extract::plan::{CapWorth, Plan, PlannedStage};

use super::{duration, thousands};

/// What will be asked, and what each cap would save.
pub(crate) fn plan(plan: &Plan) -> String {
    let mut text = String::new();
    line!(
        text,
        "{} {}, {} windows; read for it: {}, and their answers are kept",
        thousands(plan.companies as u64),
        if plan.companies == 1 { "company" } else { "companies" },
        thousands(plan.windows as u64),
        thousands(plan.sampled as u64)
    );
    let head = ["calls", "prompt", "shared", "written", "time"];
    line!(text, "\n{}", columns("prompt, written: tokens", head.map(str::to_owned)));
    for stage in &plan.stages {
        line!(text, "{}", row(stage.stage.map_or("", |stage| stage.name()), stage));
    }
    line!(text, "{}", row("all", &plan.total));
    if !plan.caps.is_empty() {
        line!(text, "\nwithout a stage, and the share of values then lost or left as they were:");
    }
    for CapWorth { flag, calls, seconds, values_percent } in &plan.caps {
        let less = format!("{} calls and {} less", thousands(*calls), duration(*seconds));
        line!(text, "  {flag:<20} {less:<38} {values_percent:>6.1} %");
    }
    text
}

fn row(name: &str, stage: &PlannedStage) -> String {
    let calls = match stage.calls_low == stage.calls_high {
        true => thousands(stage.calls_low),
        false => format!("{}-{}", thousands(stage.calls_low), thousands(stage.calls_high)),
    };
    let shared = 100 * stage.reused_tokens / stage.prompt_tokens.max(1);
    let [prompt, written] = [stage.prompt_tokens, stage.answer_tokens].map(thousands);
    columns(name, [calls, prompt, format!("{shared} %"), written, duration(stage.seconds)])
}

fn columns(name: &str, [calls, prompt, shared, written, time]: [String; 5]) -> String {
    format!("{name:<24}{calls:>16}{prompt:>11}{shared:>8}{written:>9}{time:>12}")
}

#[cfg(test)]
mod tests {
    use haul_jobs::extract::ask::Stage;

    use super::*;

    /// It had 95.
    #[test]
    fn a_forecast_of_hours_is_within_80_columns() {
        let stage = PlannedStage {
            stage: Some(Stage::SectionsPresent),
            calls_low: 104_223,
            calls_high: 206_945,
            prompt_tokens: 10_193_064,
            reused_tokens: 10_193_064,
            answer_tokens: 352_064,
            seconds: 71.5 * 3600.0,
        };
        let cap = CapWorth {
            flag: "--section-passes 0",
            calls: 206_945,
            seconds: 71.5 * 3600.0,
            values_percent: 100.0,
        };
        let all = PlannedStage { stage: None, ..stage };
        let shown = plan(&Plan {
            companies: 1_000,
            windows: 104_223,
            sampled: 4,
            stages: vec![stage],
            total: all,
            caps: vec![cap],
        });
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        assert!(shown.contains(" 104,223-206,945 "), "{shown}");
    }
}
