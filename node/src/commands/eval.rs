//! `lamina eval`: the fixed-point model against the float model.

use serde_json::json;

use crate::{
    Session,
    cli::EvalArgs,
    failure::{Failure, Kind, Result},
    files,
    output::table,
    progress::Bar,
    source,
};

/// The text that models are compared on when the caller has none.
const TEXT: &str = include_str!("../../assets/evaluation.txt");

/// Runs the command.
///
/// # Errors
/// The model or the text is unusable, or a value leaves its range.
pub fn run(session: &Session, arguments: &EvalArgs) -> Result<()> {
    let output = &session.output;
    let prepared =
        source::prepare(&session.output, arguments.model.model.as_deref(), &arguments.model.choices())?;
    let text = match &arguments.text {
        Some(path) => files::read_text(path)?,
        None => TEXT.to_owned(),
    };
    let mut ids = prepared.float.tokenizer()?.encode(&text)?;
    let whole = ids.len();
    ids.truncate(prepared.integers.spec.tokens);
    if ids.len() < 2 {
        return Err(Failure::new(Kind::Input, "the text has fewer than 2 tokens: nothing to compare"));
    }
    let bar = Bar::new(output, "evaluating", 1);
    bar.begin(0, "both models")?;
    let report = lamina_model::eval(&prepared.float, &prepared.integers, &ids)?;
    drop(bar);

    let mut value = serde_json::to_value(&report)?;
    value["text_tokens"] = json!(whole);
    output.value(&value)?;
    output.line(format!(
        "tokens      {} of the text's {whole} (--tokens sets how many a pass has)",
        report.tokens
    ))?;
    output.line(format!(
        "perplexity  float {:.3}, fixed {:.3} ({:+.3} %)",
        report.float_perplexity,
        report.fixed_perplexity,
        100.0 * report.perplexity_change
    ))?;
    output.line(format!(
        "top-1       float {:.1} %, fixed {:.1} %; same next token {:.1} %",
        100.0 * report.float_top1,
        100.0 * report.fixed_top1,
        100.0 * report.agreement
    ))?;
    let mut rows = vec![["site", "max error", "mean error", "mean size"].map(String::from).to_vec()];
    rows.extend(report.sites.iter().map(|site| {
        vec![
            site.site.clone(),
            format!("{:.2e}", site.max),
            format!("{:.2e}", site.mean),
            format!("{:.2e}", site.mean_magnitude),
        ]
    }));
    output.line("")?;
    table(&rows).into_iter().try_for_each(|line| output.line(line))
}
