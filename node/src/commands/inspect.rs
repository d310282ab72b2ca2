//! `lamina inspect`: what a file is, and what is public about it.

use std::path::Path;

use lamina_verifier::{
    bundle::{Bundle, MAGIC as BUNDLE_MAGIC, Prompt, Whole},
    card::InsecureSrs,
    encoding::{g1_bytes, to_hex},
    envelope::{Claims, Envelope, HEADER_BYTES, MAGIC as PROOF_MAGIC},
    hash::Digest,
    srs::VerifierSrs,
};
use serde_json::{Value, json};

use crate::{
    Session,
    cli::InspectArgs,
    commands::generate,
    engine::{CardFile, LoadedCard},
    failure::{Classify, Failure, Kind, Result},
    files::{self, Access},
    output::{Output, grouped, table},
    page,
    publication::{self, Folder, MAX_BUNDLE_BYTES, MAX_PROOF_BYTES, MAX_SRS_BYTES},
};

/// Runs the command.
///
/// # Errors
/// The file is of no kind that lamina knows, or damaged.
pub fn run(session: &Session, arguments: &InspectArgs) -> Result<()> {
    let value = inspect(session, &arguments.file, arguments.card.as_deref())?;
    if let Some(html) = &arguments.html {
        if value["kind"] != "bundle" {
            return Err(Failure::new(
                Kind::Usage,
                format_args!("--html draws bundles, and {} is none", arguments.file.display()),
            ));
        }
        let figures = optional_json(&generate::figures_file(&arguments.file))?;
        let eval = match &arguments.eval {
            Some(path) => {
                Some(serde_json::from_slice(&files::read(path, 64 << 20)?).context(path.display())?)
            }
            None => None,
        };
        let page = page::bundle(&value, figures.as_ref(), eval.as_ref());
        files::write(html, page.as_bytes(), Access::Public, session.existing)?;
    }
    if value["kind"] == "bundle" {
        return show_bundle(&session.output, &value);
    }
    show(&session.output, &value)
}

/// Prints a bundle: its text, then its slices.
fn show_bundle(output: &Output, value: &Value) -> Result<()> {
    output.value(value)?;
    let mut brief = value.clone();
    brief.as_object_mut().into_iter().for_each(|fields| {
        fields.remove("slices");
    });
    describe(output, &brief)?;
    let side = |side: &Value| match (side["kind"].as_str(), side["commitments"][0].as_str()) {
        (Some(kind), Some(digits)) => format!("{kind} {}", digits.chars().take(8).collect::<String>()),
        _ => "see --card".to_owned(),
    };
    let mut rows = vec![["slice", "part", "bytes", "input", "output", "node"].map(String::from).to_vec()];
    for slice in value["slices"].as_array().into_iter().flatten() {
        rows.push(vec![
            slice["slice"].to_string(),
            slice["part"].as_str().unwrap_or("-").to_owned(),
            grouped(slice["bytes"].as_u64().unwrap_or_default() as usize),
            side(&slice["input"]),
            side(&slice["output"]),
            slice["node"].as_str().unwrap_or_default().chars().take(8).collect(),
        ]);
    }
    output.line("")?;
    table(&rows).into_iter().try_for_each(|line| output.line(line))
}

/// Prints what was found: names and values for people, JSON for programs.
///
/// # Errors
/// Standard output is closed or full.
pub fn show(output: &Output, value: &Value) -> Result<()> {
    output.value(value)?;
    describe(output, value)
}

fn describe(output: &Output, value: &Value) -> Result<()> {
    let mut lines = vec![];
    flatten(String::new(), value, &mut lines);
    // What it is comes first.
    lines.sort_by_key(|(name, _)| name != "kind");
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    lines.iter().try_for_each(|(name, text)| output.line(format!("{name:<width$}  {text}")))
}

fn flatten(name: String, value: &Value, lines: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let name = if name.is_empty() { field.clone() } else { format!("{name}.{field}") };
                flatten(name, value, lines);
            }
        }
        // Ids and the like stand on one line.
        Value::Array(items)
            if !items.iter().any(|item| item.is_object() || item.is_array() || item.is_string()) =>
        {
            let items: Vec<String> = items.iter().map(Value::to_string).collect();
            lines.push((name, items.join(" ")));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, item)| flatten(format!("{name}[{at}]"), item, lines));
        }
        Value::String(text) => lines.push((name, text.clone())),
        other => lines.push((name, other.to_string())),
    }
}

fn inspect(session: &Session, path: &Path, card: Option<&Path>) -> Result<Value> {
    if path.is_dir() {
        let card = Folder::new(path).card();
        if card.exists() {
            return json_file(&card);
        }
        return model(path);
    }
    let head = head(path)?;
    match &head[..] {
        head if head.starts_with(PROOF_MAGIC) => proof(path, card),
        head if head.starts_with(BUNDLE_MAGIC) => bundle(path, card),
        head if head.starts_with(b"LAMINASV") => {
            let srs = VerifierSrs::read(&files::read(path, MAX_SRS_BYTES)?).context(path.display())?;
            Ok(json!({
                "kind": "verifier's reference string",
                "id": srs.id(),
                "k": srs.log_n(),
                "insecure": srs.identity().insecure(),
                "open_boundaries": srs.has_lagrange_basis(),
            }))
        }
        head if head.starts_with(b"LAMINASR") => super::srs::inspect(session, path),
        head if head.starts_with(b"lamina-K") => proving_key(path),
        head if head.starts_with(b"LAMINATL") => Ok(secret("blinding values of committed columns", path)?),
        head if head.starts_with(b"LAMINAWT") => Ok(secret("integer weights of a layer", path)?),
        head if head.starts_with(b"LAMINAAC") => Ok(secret("activations of a hidden boundary", path)?),
        head if head.starts_with(b"GGUF") => model(path),
        head if head.starts_with(b"ptau") => super::srs::inspect(session, path),
        _ if path.extension().is_some_and(|e| e == "safetensors") => model(path),
        head if head.first() == Some(&b'{') => json_file(path),
        // What is left could be halo2 parameters, which have no mark.
        _ => super::srs::inspect(session, path).map_err(|_| {
            Failure::new(
                Kind::Input,
                format_args!(
                    "{} is no card, proof, reference string, key or model that lamina knows",
                    path.display()
                ),
            )
        }),
    }
}

fn head(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let context = || format!("cannot read {}", path.display());
    let mut bytes = vec![];
    let file = std::fs::File::open(path).context(context())?;
    file.take(16).read_to_end(&mut bytes).context(context())?;
    Ok(bytes)
}

fn secret(what: &str, path: &Path) -> Result<Value> {
    Ok(json!({
        "kind": what,
        "secret": true,
        "bytes": std::fs::metadata(path)?.len(),
    }))
}

fn model(path: &Path) -> Result<Value> {
    let model = lamina_model::import(path)?;
    Ok(json!({
        "kind": "model",
        "config": serde_json::to_value(&model.config)?,
        "parameters": model.parameters(),
        "tokenizer": model.tokenizer.is_some(),
    }))
}

fn proving_key(path: &Path) -> Result<Value> {
    let bytes = files::read(path, 8 << 30)?;
    let (head, _) = bytes.split_at_checked(74).ok_or_else(|| {
        Failure::new(Kind::Input, format_args!("{} is a truncated proving key", path.display()))
    })?;
    Ok(json!({
        "kind": "proving key",
        "version": u16::from_le_bytes([head[8], head[9]]),
        "bytes": bytes.len(),
        "digest": to_hex(&head[10..42]),
    }))
}

fn json_file(path: &Path) -> Result<Value> {
    let bytes = files::read(path, 64 << 20)?;
    let value: Value = serde_json::from_slice(&bytes).context(path.display())?;
    if value.get("model_type").is_some() && value.get("hidden_size").is_some() {
        return model(files::folder_of(path));
    }
    if value.get("kinds").is_none() {
        return Err(Failure::new(Kind::Input, format_args!("{} is JSON, but no model card", path.display())));
    }
    let loaded = LoadedCard::load(&bytes, InsecureSrs::Accept).context(path.display())?;
    let card: CardFile = serde_json::from_slice(&bytes)?;
    let kinds: Vec<Value> = card
        .kinds
        .iter()
        .map(|kind| {
            json!({
                "name": kind.name,
                "slice": { "params": kind.slice.params, "key_digest": kind.slice.key_digest },
                "range": { "params": kind.range.params, "key_digest": kind.range.key_digest },
            })
        })
        .collect();
    let shape = loaded.key(0).map(|key| key.shape().clone());
    Ok(json!({
        "kind": "card",
        "model": loaded.model(),
        "name": card.name,
        "publisher": card.publisher,
        "architecture": card.architecture,
        "quantisation": card.quantisation,
        "srs": card.srs,
        "kinds": kinds,
        "slices": card.slices.len(),
        "weight_commitments_per_slice": card.slices.iter().map(|s| s.weights.len()).max(),
        "proof_bytes": shape.as_ref().map(Envelope::bytes),
        "rows": shape.as_ref().map(|shape| 1u64 << shape.log_n),
        "usable_rows": shape.as_ref().map(|shape| shape.usable_rows),
    }))
}

/// A JSON file that need not be there.
fn optional_json(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&files::read(path, 64 << 20)?).context(path.display())?))
}

/// A bundle: its text and all of its slices.
fn bundle(path: &Path, card_file: Option<&Path>) -> Result<Value> {
    let bytes = files::read(path, MAX_BUNDLE_BYTES)?;
    let bundle = Bundle::decode(&bytes).kind(Kind::Input).context(path.display())?;
    let card = card_file.map(|path| publication::read_card(path, InsecureSrs::Accept)).transpose()?;
    let card = card.as_ref().map(|(_, card)| card);
    let tokenizer = match (card_file, card) {
        (Some(path), Some(card)) => {
            let vocab = Whole::of(card)?.vocab();
            publication::read_tokenizer(&Folder::of_card(path), card, vocab)?
        }
        _ => None,
    };
    let text = |ids: &[u32]| tokenizer.as_ref().and_then(|tokenizer| tokenizer.decode(ids).ok());
    let parts = card.map(publication::parts_of).transpose()?;
    let mut slices = vec![];
    for (at, envelope) in bundle.slices.iter().enumerate() {
        let name = || format!("{}: slice {at}", path.display());
        let mut slice = described(envelope, card).context(name())?;
        slice["part"] = json!(parts.as_ref().and_then(|parts| parts.get(at)));
        slices.push(slice);
    }
    let linked = slices.windows(2).map(|pair| pair[0]["output"] == pair[1]["input"]);
    let linked: Vec<bool> = if card.is_some() { linked.collect() } else { vec![] };
    let (prompt, prompt_text) = match &bundle.prompt {
        Prompt::Open(ids) => (json!(ids), text(ids)),
        Prompt::Hidden(_) => (json!("hidden"), None),
    };
    Ok(json!({
        "kind": "bundle",
        "bytes": bytes.len(),
        "model": bundle.model,
        "request": bundle.request,
        "prompt": prompt,
        "prompt_text": prompt_text,
        "prompt_tokens": bundle.prompt.tokens(),
        "answer": bundle.answer,
        "answer_text": text(&bundle.answer),
        "neighbours_share_their_boundary": linked,
        "slices": slices,
        "note": "what the bundle claims; `lamina verify` checks it",
    }))
}

fn proof(path: &Path, card: Option<&Path>) -> Result<Value> {
    let bytes = files::read(path, MAX_PROOF_BYTES)?;
    let card = card.map(|path| publication::read_card(path, InsecureSrs::Accept)).transpose()?;
    described(&bytes, card.as_ref().map(|(_, card)| card)).context(path.display())
}

/// What an envelope says of itself; with the card, its boundaries too.
fn described(bytes: &[u8], card: Option<&LoadedCard>) -> Result<Value> {
    let claims = Claims::peek(bytes).kind(Kind::Input)?;
    let context = claims.context;
    let mut value = json!({
        "kind": "proof",
        "bytes": bytes.len(),
        "body_bytes": bytes.len() - HEADER_BYTES,
        "key": claims.key,
        "srs": claims.srs,
        "model": context.model,
        "slice": context.slice,
        "request": context.request,
        "node": context.node,
        "tokens": context.tokens,
        "note": "what the proof claims; `lamina verify` checks it",
    });
    let Some(card) = card else { return Ok(value) };
    let keys = [card.key(context.slice), card.range_key(context.slice)];
    let Some(key) = keys.into_iter().flatten().find(|key| key.digest() == claims.key) else {
        return Err(Failure::new(Kind::Input, "the proof was made under another key than the card's"));
    };
    let envelope = Envelope::decode(bytes, key.shape()).kind(Kind::Input)?;
    for (side, boundary) in [("input", &envelope.input), ("output", &envelope.output)] {
        let commitments = boundary.columns.iter().map(|point| Digest(g1_bytes(point)));
        value[side] = json!({
            "kind": format!("{:?}", boundary.kind).to_lowercase(),
            "commitments": commitments.collect::<Vec<_>>(),
        });
    }
    Ok(value)
}
