//! The page of `lamina inspect --html`: one file that needs nothing else.

use std::fmt::Write;

use serde_json::Value;

use crate::output::grouped;

/// Stages of a slice, in order, with their colours.
const STAGES: [(&str, &str); 6] = [
    ("execute", "#8c564b"),
    ("boundary", "#e377c2"),
    ("witness", "#2ca02c"),
    ("commit", "#1f77b4"),
    ("quotient", "#ff7f0e"),
    ("open", "#9467bd"),
];

const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #1a1a1a; --pale: #666; --paper: #fff; --box: #f3f5f8; --line: #c4ccd6;
  --good: #1a7f37; --bad: #cf222e; --open: #b35900; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --pale: #a0a0a0; --paper: #15181c; --box: #20252c;
  --line: #3c4652; --good: #4ac26b; --bad: #ff7b72; --open: #f0a35e; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1100px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.text { white-space: pre-wrap; background: var(--box); border-left: 4px solid var(--line); padding: .6rem 1rem; }
.answer { border-color: var(--good); } code { font-size: .85em; word-break: break-all; }
.chain { display: flex; flex-wrap: wrap; row-gap: .8rem; align-items: center; }
.slice { background: var(--box); border: 1px solid var(--line); border-radius: 6px; padding: .35rem .6rem; font-size: .82rem; }
.slice b { display: block; } .slice span { color: var(--pale); }
.link { min-width: 3.4rem; text-align: center; font: .68rem/1.15 monospace; padding: 0 .3rem; }
.link::before { content: ''; display: block; border-top: 2px solid currentColor; margin-bottom: .15rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .open { color: var(--open); }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: right; }
td:first-child, th:first-child { text-align: left; } th { color: var(--pale); font-weight: normal; }
svg text { fill: var(--ink); font: 11px system-ui, sans-serif; } .pale { color: var(--pale); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .3em 0 1em; }
@media print { body { max-width: none; } }";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or_default()
}

/// Text where there is one, else ids.
fn words(value: &Value, name: &str) -> String {
    match value[format!("{name}_text").as_str()].as_str() {
        Some(text) => escape(text),
        None => escape(&value[name].to_string()),
    }
}

/// The first digits of a boundary's commitments.
fn boundary(side: &Value) -> (bool, String) {
    let open = side["kind"] == "open";
    let digits = side["commitments"][0].as_str().unwrap_or_default();
    (open, digits.chars().take(8).collect())
}

/// A bundle as a page: what `lamina inspect` found, what proving took, what `lamina eval` found.
pub fn bundle(value: &Value, figures: Option<&Value>, eval: Option<&Value>) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>Lamina: an answer and its proofs</title>\n<style>\n{STYLE}\n</style>\
         </head><body>\n<h1>An answer and its proofs</h1>\n"
    );
    // Writing to a string does not fail.
    let _ = heading(&mut page, value)
        .and_then(|()| chain(&mut page, value))
        .and_then(|()| times(&mut page, figures))
        .and_then(|()| errors(&mut page, eval));
    page.push_str("</body></html>\n");
    page
}

fn heading(page: &mut String, value: &Value) -> std::fmt::Result {
    writeln!(page, "<p class=\"text\">{}</p>", words(value, "prompt"))?;
    writeln!(page, "<p class=\"text answer\">{}</p>", words(value, "answer"))?;
    writeln!(
        page,
        "<p>{} tokens of prompt, {} generated, {} slices, {} bytes.\nmodel <code>{}</code>, request \
         <code>{}</code>.<br><span class=\"pale\">This is what the bundle claims; <code>lamina verify</code> checks \
         it.</span></p>",
        value["prompt_tokens"],
        list(&value["answer"]).len(),
        list(&value["slices"]).len(),
        grouped(value["bytes"].as_u64().unwrap_or_default() as usize),
        escape(value["model"].as_str().unwrap_or_default()),
        escape(value["request"].as_str().unwrap_or_default()),
    )
}

fn link(page: &mut String, side: &Value, class: &str, sign: &str) -> std::fmt::Result {
    let (open, digits) = boundary(side);
    let kind = if open { "open" } else { "hidden" };
    let class = if open { "open" } else { class };
    writeln!(page, "<div class=\"link {class}\" title=\"{kind} boundary\">{digits}<br>{kind}{sign}</div>")
}

fn chain(page: &mut String, value: &Value) -> std::fmt::Result {
    let slices = list(&value["slices"]);
    let linked = list(&value["neighbours_share_their_boundary"]);
    writeln!(page, "<h2>The chain</h2>\n<div class=\"chain\">")?;
    for (at, slice) in slices.iter().enumerate() {
        if at == 0 {
            link(page, &slice["input"], "good", "")?;
        }
        writeln!(
            page,
            "<div class=\"slice\"><b>{}</b><span>{} bytes</span></div>",
            escape(slice["part"].as_str().unwrap_or("slice")),
            grouped(slice["bytes"].as_u64().unwrap_or_default() as usize),
        )?;
        match linked.get(at) {
            Some(Value::Bool(false)) => link(page, &slice["output"], "bad", " ≠")?,
            _ => link(page, &slice["output"], "good", if at + 1 < slices.len() { " =" } else { "" })?,
        }
    }
    writeln!(
        page,
        "</div>\n<p class=\"pale\">Each line is a boundary, with the first digits of its commitment. <span \
         class=\"open\">Open</span>: the verifier computes the commitment from ids it knows. <span \
         class=\"good\">Hidden =</span>: one slice's output commitment is the next one's input commitment. Every slice \
         also links its weights to the card's commitments.</p>"
    )
}

/// Milliseconds of each stage of a slice.
fn stages(slice: &Value) -> [f64; 6] {
    STAGES.map(|(name, _)| number(slice, &format!("{name}_ms")))
}

fn times(page: &mut String, figures: Option<&Value>) -> std::fmt::Result {
    writeln!(page, "<h2>Timeline and cost by stage</h2>")?;
    let slices: Vec<&Value> = figures.map_or(&[][..], |figures| list(&figures["slices"])).iter().collect();
    let timed: Vec<&Value> = slices.iter().copied().filter(|slice| slice["prove_ms"].is_number()).collect();
    if timed.is_empty() {
        return writeln!(
            page,
            "<p class=\"pale\">No times: they stand in <code>BUNDLE.figures.json</code>, which <code>lamina \
             generate</code> writes beside the bundle.</p>"
        );
    }
    let end = timed.iter().map(|s| number(s, "started_ms") + number(s, "prove_ms")).fold(1.0, f64::max);
    let (left, width, row) = (80.0, 940.0, 15.0);
    let x = |ms: f64| left + width * ms / end;
    let height = row * timed.len() as f64 + 24.0;
    writeln!(page, "<svg viewBox=\"0 0 1060 {height}\" role=\"img\" aria-label=\"timeline\">")?;
    for (at, slice) in timed.iter().enumerate() {
        let y = row * at as f64;
        let name = escape(slice["part"].as_str().unwrap_or_default());
        writeln!(page, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>", left - 6.0, y + 11.0)?;
        let mut from = number(slice, "started_ms");
        for ((stage, colour), ms) in STAGES.iter().zip(stages(slice)) {
            let wide = x(from + ms) - x(from);
            writeln!(
                page,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{wide:.1}\" height=\"{}\" fill=\"{colour}\"><title>{name}: {stage} \
                 {ms:.0} ms</title></rect>",
                x(from),
                y + 2.0,
                row - 4.0,
            )?;
            from += ms;
        }
    }
    for tick in 0..=8 {
        let ms = end * f64::from(tick) / 8.0;
        writeln!(
            page,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{:.1} s</text>",
            x(ms),
            height - 6.0,
            ms / 1e3
        )?;
    }
    writeln!(page, "</svg>\n<p>")?;
    for (stage, colour) in STAGES {
        writeln!(page, "<span class=\"key\" style=\"background:{colour}\"></span>{stage}")?;
    }
    writeln!(
        page,
        "<br><span class=\"pale\">White between slices: keys and weights being read.</span></p>\n<table><tr><th>slices</th>"
    )?;
    STAGES.iter().try_for_each(|(stage, _)| write!(page, "<th>{stage}, s</th>"))?;
    writeln!(page, "<th>all, s</th></tr>")?;
    for name in ["embedding", "blocks", "head"] {
        let belongs = |slice: &&&Value| match slice["part"].as_str() {
            Some(part) if part.starts_with("layer") => name == "blocks",
            part => part == Some(name),
        };
        let mut sums = [0.0; 6];
        for slice in timed.iter().filter(belongs) {
            for (sum, ms) in sums.iter_mut().zip(stages(slice)) {
                *sum += ms / 1e3;
            }
        }
        write!(page, "<tr><td>{name}</td>")?;
        sums.iter().try_for_each(|sum| write!(page, "<td>{sum:.2}</td>"))?;
        writeln!(page, "<td>{:.2}</td></tr>", sums.iter().sum::<f64>())?;
    }
    writeln!(page, "</table>")
}

/// Decades of relative error that the colours span: `10^-5` to `1`.
const DECADES: f64 = 5.0;

fn errors(page: &mut String, eval: Option<&Value>) -> std::fmt::Result {
    writeln!(page, "<h2>Quantisation error by site</h2>")?;
    let sites = eval.map_or(&[][..], |eval| list(&eval["sites"]));
    let Some(layers) = sites.iter().map(|site| list(&site["layers"]).len()).max() else {
        return writeln!(
            page,
            "<p class=\"pale\">Not measured here: give <code>--eval FILE</code> with what <code>lamina eval \
             --json</code> printed for this model.</p>"
        );
    };
    let (left, width, row) = (130.0, 900.0, 17.0);
    let height = row * sites.len() as f64 + 24.0;
    writeln!(page, "<svg viewBox=\"0 0 1060 {height}\" role=\"img\" aria-label=\"quantisation error\">")?;
    for (at, site) in sites.iter().enumerate() {
        let y = row * at as f64;
        let name = escape(site["site"].as_str().unwrap_or_default());
        writeln!(page, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>", left - 6.0, y + 12.0)?;
        for (layer, error) in list(&site["layers"]).iter().enumerate() {
            let error = error.as_f64().unwrap_or_default();
            // Light where small, dark red where large.
            let t = (1.0 + error.max(1e-9).log10() / DECADES).clamp(0.0, 1.0);
            let wide = width / layers as f64;
            writeln!(
                page,
                "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{}\" fill=\"hsl(8 80% {:.0}%)\"><title>{name}, \
                 layer {layer}: {:.3} %</title></rect>",
                left + wide * layer as f64,
                wide - 1.0,
                row - 1.0,
                92.0 - 62.0 * t,
                100.0 * error,
            )?;
        }
    }
    for layer in (0..layers).step_by(layers.div_ceil(15).max(1)) {
        writeln!(
            page,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{layer}</text>",
            left + width * (layer as f64 + 0.5) / layers as f64,
            height - 6.0
        )?;
    }
    writeln!(
        page,
        "</svg>\n<p class=\"pale\">Mean error over mean size, by layer; light is 0.001 %, dark 100 %, on a logarithmic \
         scale.</p>"
    )
}
