//! `lamina prove`: prove blocks of a published model on a prompt.

use lamina_circuits::model::Part;
use serde_json::json;

use crate::{
    Session,
    cli::{LayerRange, ProveArgs},
    engine::Pass,
    failure::{Failure, Kind, Result},
    ids,
    progress::Bar,
    proving::{self, Border, Folder, Statement, Task},
    publication::Published,
    source,
};

/// Runs the command.
///
/// # Errors
/// The publication or the prompt is unusable; a value leaves its range; files are in the way.
pub fn run(session: &Session, arguments: &ProveArgs) -> Result<()> {
    let output = &session.output;
    let published = Published::load(&arguments.published)?;
    let available = published.slices().layers();
    let asked = arguments.layers.or(arguments.layer.map(LayerRange::one));
    let layers = asked
        .and_then(|range| range.of(available.end))
        .filter(|range| range.start >= available.start)
        .ok_or_else(|| {
            let asked = asked.map(|range| range.to_string()).unwrap_or_default();
            Failure::new(
                Kind::Input,
                format_args!("layers {asked}: published are {}..{}", available.start, available.end),
            )
        })?;
    if let Some(path) = &arguments.model {
        published.check_model(path)?;
    }
    let tokens = published.tokens();
    let prompt = source::prompt_ids(published.tokenizer()?.as_ref(), &arguments.prompt, tokens)?;
    let folder = Folder::new(&arguments.out);
    folder.create()?;
    let request = folder.request(arguments.request.as_deref(), session.existing)?;
    let statement = Statement {
        model: published.loaded.model(),
        request,
        node: ids::node(&arguments.node),
        tokens: prompt.len() as u32,
        answer: None,
    };
    folder.agree(&statement, session.existing)?;
    let mut pass = Pass { ids: prompt, positions: vec![] };
    pass.ids.resize(tokens, published.padding());

    let bar = Bar::new(output, "proving", layers.len() + 1);
    bar.begin(0, "reference string")?;
    let srs = published.srs(session)?;
    let verifier_srs = srs.verifier_srs(arguments.open_input || arguments.open_output)?;
    let x = proving::run_before(&published, &pass, Part::Layer(layers.start), &bar)?;
    let open = |border| {
        let (first, last) = (Border::Stream(layers.start), Border::Stream(layers.end));
        (arguments.open_input && border == first) || (arguments.open_output && border == last)
    };
    let slice = |layer: usize| published.slices().parts().iter().position(|&part| part == Part::Layer(layer));
    let first = slice(layers.start).unwrap_or(0);
    let task = Task {
        published: &published,
        srs: (&srs, &verifier_srs),
        folder: &folder,
        statement: &statement,
        pass: &pass,
        slices: first..first + layers.len(),
        open: &open,
        jobs: 1,
    };
    let figures = proving::prove(session, &task, x, &bar, 1)?;
    drop(bar);
    output.line(format!("request   {}", statement.request))?;
    output.line(format!("node      {}", statement.node))?;
    output.value(&json!({
        "statement": statement,
        "proofs": figures,
        "insecure_srs": published.card.srs.insecure,
        "backend": session.compute()?.to_string(),
    }))
}
