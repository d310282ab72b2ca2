//! `lamina eval`: the fixed-point model against the float model.

use lamina_model::EvalReport;
use serde_json::json;

use crate::{
    Session,
    cli::EvalArgs,
    failure::{Failure, Kind, Result},
    files::{self, Access},
    output::table,
    plot,
    progress::Bar,
    source,
};

/// The text that models are compared on when the caller has none.
const TEXT: &str = include_str!("../../assets/evaluation.txt");

/// Runs the command.
///
/// # Errors
/// The model or the text is unusable, a value leaves its range in every window, or the plot is in the way.
pub fn run(session: &Session, arguments: &EvalArgs) -> Result<()> {
    let output = &session.output;
    if let Some(path) = &arguments.plot {
        files::check_free(path, session.existing)?;
    }
    let path = arguments.model.model.as_deref();
    let prepared = source::prepare(&session.output, path, &arguments.model.choices())?;
    let text = match &arguments.text {
        Some(path) => files::read_text(path)?,
        None => TEXT.to_owned(),
    };
    let mut ids = prepared.float.tokenizer()?.encode(&text)?;
    let whole = ids.len();
    ids.truncate(arguments.count.unwrap_or(prepared.integers.spec.tokens));
    if ids.len() < 2 {
        return Err(Failure::new(Kind::Input, "the text has fewer than 2 tokens: nothing to compare"));
    }
    let bar = Bar::new(output, "evaluating", 1);
    bar.begin(0, "both models")?;
    let report = lamina_model::eval(&prepared.float, &prepared.integers, &ids)?;
    drop(bar);
    if let Some(path) = &arguments.plot {
        let model = arguments.model.model.as_deref().map_or_else(|| source::BUNDLED.to_owned(), source::name);
        let title = format!(
            "{model}, {}-bit weights, {} tokens in windows of {}",
            report.weight_bits, report.tokens, report.padded_tokens
        );
        let svg = plot::svg(&report, &title).map_err(|error| {
            Failure::new(Kind::Files, format_args!("the plot could not be drawn: {error}"))
        })?;
        files::write(path, svg.as_bytes(), Access::Public, session.existing)?;
    }

    let mut value = serde_json::to_value(&report)?;
    value["text_tokens"] = json!(whole);
    value["plot"] = json!(arguments.plot);
    output.value(&value)?;
    output.line(format!(
        "tokens      {} of the text's {whole}, in windows of {} (--count sets how many, --tokens the window)",
        report.tokens, report.padded_tokens
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
    output.line(worst(&report))?;
    output.line(provable(&report))?;
    for overflow in report.overflows.iter().take(8) {
        output.line(format!("  window {}, {}, {}", overflow.window, overflow.part, overflow.what))?;
    }
    output.line("")?;
    sites(&report).into_iter().try_for_each(|line| output.line(line))?;
    output.line("room: bits below the site's limit, on the calibration text and on this one")
}

/// The site and layer with the largest relative error.
fn worst(report: &EvalReport) -> String {
    let all = report.sites.iter().flat_map(|site| {
        site.layers.iter().enumerate().map(move |(layer, &error)| (error, layer, site.site.as_str()))
    });
    match all.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((error, layer, site)) => {
            format!("worst site  {site} of layer {layer}: mean error {:.2} % of the mean size", 100.0 * error)
        }
        None => String::new(),
    }
}

/// How many windows can be proved, and what to do about the others.
fn provable(report: &EvalReport) -> String {
    let (fail, windows) = (report.overflows.len(), report.windows);
    if fail == 0 {
        return format!("provable    every value fits in all {windows} windows");
    }
    format!(
        "provable    {} of {windows} windows; in the others a value does not fit: publish with --calibrate TEXTFILE \
         on text like this, or with more --headroom",
        windows - fail
    )
}

/// Error and room of every site.
fn sites(report: &EvalReport) -> Vec<String> {
    let heading = ["site", "max error", "mean error", "mean size", "room", "on this text"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    for (calibrated, seen) in report.headroom.iter().zip(&report.text_headroom) {
        let mut row = vec![calibrated.site.clone()];
        match report.sites.iter().find(|site| site.site == calibrated.site) {
            Some(error) => {
                row.extend([error.max, error.mean, error.mean_magnitude].map(|value| format!("{value:.2e}")));
            }
            None => row.extend(["-", "-", "-"].map(String::from)),
        }
        row.extend([calibrated, seen].map(|room| format!("{:.2}", room.headroom_bits)));
        rows.push(row);
    }
    table(&rows)
}
