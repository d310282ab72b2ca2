//! `lamina publish`: commit to a model's weights once.

use lamina_circuits::model::Part;
use lamina_model::TextTokenizer;
use lamina_prover::srs::Srs;
use serde_json::json;

use crate::{
    Session,
    cli::PublishArgs,
    engine::CardText,
    failure::{Failure, Kind, Result},
    ids,
    output::grouped,
    publication::{self, Folder, Ranges, Slices, Task},
    source::{self, Choices},
};

/// Runs the command.
///
/// # Errors
/// The model is unusable, there is no reference string, another publication is in the way.
pub fn run(session: &Session, arguments: &PublishArgs) -> Result<()> {
    let output = &session.output;
    let choices = Choices {
        weight_bits: arguments.weight_bits,
        tokens: arguments.tokens,
        answer: arguments.answer,
        calibrate: arguments.calibrate.as_deref(),
        headroom_bits: arguments.headroom,
    };
    let prepared = source::prepare(&session.output, Some(&arguments.model), &choices)?;
    let count = prepared.integers.blocks.len();
    let slices = match arguments.layers {
        None => Slices::Whole(count),
        Some(range) => Slices::Layers(range.of(count).ok_or_else(|| {
            Failure::new(Kind::Input, format_args!("--layers {range}: the model has layers 0..{count}"))
        })?),
    };
    let layers = slices.layers();
    let name = arguments.name.clone().unwrap_or_else(|| source::name(&arguments.model));
    let tokenizer = prepared.integers.tokenizer.as_ref().map(TextTokenizer::to_json).transpose()?;
    let text = CardText {
        source: format!("layers {}..{} of {count}", layers.start, layers.end),
        name,
        publisher: ids::node(&arguments.publisher),
        layers: count,
        tokenizer: tokenizer.map(|json| publication::tokenizer_digest(json.as_bytes())),
    };
    let srs = reference_string(session, arguments, prepared.plan.block.k)?;
    if srs.identity().insecure() {
        output.note(
            "warning: this publication uses an INSECURE development reference string: its proofs prove \
             nothing, and `lamina verify` refuses them without --allow-insecure-srs",
        );
    }
    let out = arguments.out.clone().unwrap_or_else(|| source::publication_folder(&arguments.model));
    let folder = Folder::new(&out);
    let model = prepared.model();
    let task = Task { model: &model, slices, folder: &folder, text: &text, srs: &srs, ranges: Ranges::Prove };
    let (published, ..) = publication::publish(session, &task, session.existing)?;
    let plan = &prepared.plan.block;
    let bytes: u64 = std::fs::metadata(folder.card())?.len();
    output.line(format!("model     {}", published.loaded.model()))?;
    output.line(format!("card      {} ({} bytes)", folder.card().display(), grouped(bytes as usize)))?;
    let parts = published.slices().parts();
    output.line(format!(
        "slices    {} ({} to {}), {} weight commitments a block, ranges proved",
        parts.len(),
        parts[0],
        parts[parts.len() - 1],
        plan.columns.weights
    ))?;
    output.line(format!(
        "tokens    {} a pass, answers of up to {}",
        published.tokens(),
        if parts[0] == Part::Embedding { published.positions() } else { 0 }
    ))?;
    let tightest =
        prepared.integers.headroom.iter().min_by(|a, b| a.headroom_bits.total_cmp(&b.headroom_bits));
    if let Some(site) = tightest {
        output.line(format!(
            "room      {:.2} bits at the tightest site ({}) above the calibration text; all: lamina eval",
            site.headroom_bits, site.site
        ))?;
    }
    output.line(format!(
        "srs       {} ({})",
        srs.id(),
        if srs.identity().insecure() { "INSECURE development string" } else { "secure if its ceremony was" }
    ))?;
    output
        .line(format!("secret    {}: for provers only, never for verifiers", out.join("secret").display()))?;
    output.value(&json!({
        "model": published.loaded.model(),
        "card": folder.card(),
        "layers": [layers.start, layers.end],
        "slices": parts,
        "positions": published.positions(),
        "k": plan.k,
        "tokens": plan.params.spec.tokens,
        "weight_bits": plan.params.spec.weight_bits,
        "weight_columns": plan.columns.weights,
        "headroom": prepared.integers.headroom,
        "srs": srs.id(),
        "insecure_srs": srs.identity().insecure(),
    }))
}

fn reference_string(session: &Session, arguments: &PublishArgs, k: u32) -> Result<Srs> {
    let stored = session.cache.stored_srs()?;
    let wanted = |id: &dyn std::fmt::Display| {
        arguments.srs.as_ref().is_none_or(|digits| id.to_string().starts_with(digits.as_str()))
    };
    let fits = stored.iter().filter(|srs| srs.k >= k && wanted(&srs.id));
    let allowed = fits.filter(|srs| !srs.insecure || arguments.insecure_srs || arguments.srs.is_some());
    match allowed.min_by_key(|srs| (srs.insecure, srs.k)) {
        Some(found) => session.cache.srs(found.id, k),
        None if arguments.insecure_srs && arguments.srs.is_none() => session.cache.insecure_srs(k),
        None => Err(Failure::new(
            Kind::Input,
            format_args!(
                "no reference string for 2^{k} rows: import one with `lamina srs import FILE --k {k}`, or try \
                 things out with --insecure-srs"
            ),
        )),
    }
}
