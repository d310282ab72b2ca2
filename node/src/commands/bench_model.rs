//! `lamina bench generate` and `lamina bench model-shape`: whole models, timed slice by slice, and verified.

use std::{collections::BTreeMap, path::Path, time::Instant};

use lamina_circuits::{
    embedding::EmbeddingSpec,
    head::HeadSpec,
    model::Part,
    plan::ModelPlan,
    spec::{BlockSpec, Shape},
    testing,
};
use lamina_model::TextTokenizer;
use lamina_verifier::{
    bundle::{BundleExpectation, Choice, PromptExpectation, Whole, verify_bundle},
    hash::Hasher,
    verify::{PublicationReceipt, verify_publication},
};
use serde_json::json;

use crate::{
    Session,
    cli::{Arch, BenchGenerateArgs, ModelShapeArgs},
    commands::{
        bench::{machine, peak_rss_bytes, show},
        generate,
    },
    decode,
    engine::{CardText, PartWeights, milliseconds},
    failure::Result,
    files::{self, Existing},
    ids,
    output::table,
    progress::Bar,
    proving::{self, Answer, Border, Statement, Task},
    publication::{
        self, AllParams, Folder, MAX_PROOF_BYTES, PublishTimes, Published, Ranges, Slices, tokenizer_digest,
    },
    source::{self, Choices, IntegerModel},
};

/// A prompt for models without a tokenizer.
fn some_ids(count: usize, vocab: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * 7919 + 1) % vocab) as u32).collect()
}

/// Width of the weights of a model of random ones.
const RANDOM_BITS: u32 = 16;

/// A published model and what it is asked.
struct Subject {
    name: String,
    published: Published,
    /// When this run published it.
    times: Option<PublishTimes>,
    prompt: Vec<u32>,
    new_tokens: usize,
}

/// `lamina bench generate`.
///
/// # Errors
/// The model is unusable, or the timed bundle does not verify.
pub fn generate(session: &Session, arguments: &BenchGenerateArgs) -> Result<()> {
    let (prompt_tokens, new_tokens) = (arguments.prompt_tokens, arguments.new_tokens);
    let tokens = prompt_tokens + new_tokens;
    let name = arguments.model.as_deref().map_or_else(|| source::BUNDLED.to_owned(), source::name);
    let key = Hasher::new("bench-model")
        .bytes(&match &arguments.model {
            Some(path) if path.is_file() => files::read(path, u64::MAX - 1)?,
            Some(path) => path.as_os_str().as_encoded_bytes().to_vec(),
            None => vec![],
        })
        .count(tokens)
        .count(new_tokens)
        .u64(arguments.weight_bits.into())
        .u64(arguments.open_logits.into())
        .digest();
    let root = session.cache.folder().join("bench").join(key.to_string());
    let choices = Choices {
        weight_bits: arguments.weight_bits,
        answer: new_tokens,
        open_logits: arguments.open_logits,
        ..Choices::new(tokens)
    };
    let model = || Ok(source::prepare(&session.output, arguments.model.as_deref(), &choices)?.model());
    let (published, times) = published(session, &root, &name, arguments.publish, model)?;
    // A vocabulary that cannot express prose is asked something else.
    let prose = published.tokenizer()?.and_then(|tokenizer| tokenizer.encode(source::CALIBRATION).ok());
    let vocab = Whole::of(&published.loaded)?.vocab();
    let mut prompt = prose.unwrap_or_else(|| some_ids(prompt_tokens, vocab));
    prompt.truncate(prompt_tokens);
    time(session, Subject { name, published, times, prompt, new_tokens })
}

/// `lamina bench model-shape`.
///
/// # Errors
/// No layout fits the shape, or the timed bundle does not verify.
pub fn shape(session: &Session, arguments: &ModelShapeArgs) -> Result<()> {
    let name = format!(
        "random {:?}, {} blocks of {}x{}, heads {}, vocabulary {}",
        arguments.arch, arguments.layers, arguments.hidden, arguments.ffn, arguments.heads, arguments.vocab
    );
    let key = Hasher::new("bench-shape").bytes(format!("{arguments:?}").as_bytes()).digest();
    let root = session.cache.folder().join("bench").join(key.to_string());
    let (published, times) = published(session, &root, &name, arguments.publish, || random(arguments))?;
    let count = arguments.tokens.saturating_sub(arguments.new_tokens).max(1);
    let prompt = some_ids(count, arguments.vocab);
    time(session, Subject { name, published, times, prompt, new_tokens: arguments.new_tokens })
}

/// A model of random weights.
fn random(arguments: &ModelShapeArgs) -> Result<IntegerModel> {
    let heads = arguments.heads;
    let shape = Shape {
        hidden: arguments.hidden,
        ffn: arguments.ffn,
        heads,
        kv_heads: arguments.kv_heads.unwrap_or(heads),
        head_dim: arguments.hidden / heads,
    };
    let block = BlockSpec {
        scales: arguments.arch.scales(shape.hidden),
        shape,
        weight_bits: RANDOM_BITS,
        tokens: arguments.tokens,
    };
    let norm = block.norm();
    let gpt2 = arguments.arch == Arch::Gpt2;
    let embedding = EmbeddingSpec {
        hidden: arguments.hidden,
        vocab: arguments.vocab,
        tokens: arguments.tokens,
        weight_bits: RANDOM_BITS,
        stream_bits: norm.act_bits + norm.residual_lo_bits,
        shift: 2,
        position_shift: gpt2.then_some(2),
        centred: gpt2,
    };
    let head = HeadSpec {
        norm,
        gain_shift: 15,
        gain_bias: gpt2.then_some(3),
        vocab: arguments.vocab,
        tokens: arguments.tokens,
        positions: arguments.new_tokens,
        weight_bits: RANDOM_BITS,
        open_logits: None,
    };
    let plan = ModelPlan::best(&block, &embedding, &head, arguments.layers, arguments.tokens)?;
    let params = AllParams { embedding: plan.embedding, block: plan.block.params, head: plan.head };
    let bound = (1i32 << (RANDOM_BITS - 1)) - 1;
    let first = testing::embedding_weights(&params.embedding.spec, 1, bound);
    let mut last = testing::head_weights(&params.head.spec, 2, bound);
    last.matrix = first.matrix.clone();
    let mut weights = BTreeMap::from([
        (Part::Embedding, PartWeights::Embedding(first)),
        (Part::Head, PartWeights::Head(last)),
    ]);
    for layer in 0..arguments.layers {
        let block = testing::weights(&params.block.spec, 3 + layer as u64, bound);
        weights.insert(Part::Layer(layer), PartWeights::Block(block));
    }
    Ok(IntegerModel { params, weights, tied: true, padding: 0, end_of_text: None, tokenizer: None })
}

/// The publication in `root`: as an earlier run left it, or made now.
fn published(
    session: &Session,
    root: &Path,
    name: &str,
    publish: bool,
    model: impl FnOnce() -> Result<IntegerModel>,
) -> Result<(Published, Option<PublishTimes>)> {
    if !publish
        && let Ok(published) = Published::load(root)
        && session.cache.srs(published.card.srs.id, published.rows()).is_ok()
    {
        return Ok((published, None));
    }
    let model = model()?;
    let srs = session.cache.insecure_srs(model.params.block.k)?;
    let json = model.tokenizer.as_ref().map(TextTokenizer::to_json).transpose()?;
    let text = CardText {
        name: name.chars().take(200).collect(),
        publisher: ids::node("bench"),
        source: "bench".into(),
        layers: model.layers(),
        tokenizer: json.map(|json| tokenizer_digest(json.as_bytes())),
    };
    let task = publication::Task {
        model: &model,
        slices: Slices::Whole(model.layers()),
        folder: &Folder::new(root),
        text: &text,
        srs: &srs,
        ranges: if publish { Ranges::Prove } else { Ranges::Skip },
    };
    let (published, _, times) = publication::publish(session, &task, Existing::Replace)?;
    Ok((published, Some(times)))
}

/// Verifications of a timed bundle; the median counts.
const VERIFICATIONS: usize = 5;

fn time(session: &Session, subject: Subject) -> Result<()> {
    let Subject { name, published, times, prompt, new_tokens } = subject;
    let whole = Whole::of(&published.loaded)?;
    let parts = published.slices().parts();
    let bar = Bar::new(&session.output, "bench", parts.len() + 2);
    bar.begin(0, "reference string")?;
    let srs = session.cache.srs(published.card.srs.id, published.rows())?;
    let verifier_srs = srs.verifier_srs(true)?;

    let started = Instant::now();
    let decoded = decode::decode(&published.model()?, &whole, &prompt, new_tokens, Choice::Greedy, &bar)?;
    let generate_ms = milliseconds(started);
    let statement = Statement {
        model: published.loaded.model(),
        request: ids::fresh_request()?,
        node: ids::node("bench"),
        tokens: (prompt.len() + decoded.answer.len() - 1) as u32,
        answer: Some(Answer {
            prompt: Some(prompt.clone()),
            prompt_tokens: prompt.len() as u32,
            padding: published.padding(),
            tokens: decoded.answer.clone(),
        }),
    };
    let folder = proving::Folder::new(&session.cache.folder().join("bench").join("parts"));
    if folder.root().exists() {
        folder.clone().remove()?;
    }
    folder.create()?;
    let task = Task {
        published: &published,
        srs: (&srs, &verifier_srs),
        folder: &folder,
        statement: &statement,
        pass: &decoded.pass,
        slices: 0..parts.len(),
        open: &|border| !matches!(border, Border::Stream(_)),
        jobs: session.compute()?.at_a_time(),
    };
    let started = Instant::now();
    let slices = proving::prove(session, &task, vec![], &bar, 1)?;
    let prove_ms = milliseconds(started);
    let envelopes = slices.iter().map(|slice| files::read(&slice.file, MAX_PROOF_BYTES));
    let logits = folder.logits(&whole, decoded.answer.len())?;
    let bundle = generate::bundle(&statement, envelopes.collect::<Result<_>>()?, logits)?;
    folder.remove()?;
    drop(bar);
    let prove_peak = peak_rss_bytes();

    let model = published.loaded.model();
    let publication = match times.as_ref().and_then(|times| times.range_ms) {
        Some(_) => {
            let proofs = published.range_proofs()?;
            let proofs: Vec<&[u8]> = proofs.iter().map(Vec::as_slice).collect();
            verify_publication(model, &published.loaded, &verifier_srs, &proofs)?
        }
        None => PublicationReceipt::trusting_publisher(model),
    };
    let nodes = vec![statement.node; parts.len()];
    let expectation = BundleExpectation {
        request: statement.request,
        model,
        prompt: PromptExpectation::Ids(&prompt),
        choice: Choice::Greedy,
        nodes: &nodes,
        publication,
    };
    let mut verify_ms = vec![];
    for _ in 0..VERIFICATIONS {
        let started = Instant::now();
        verify_bundle(&expectation, &published.loaded, &verifier_srs, &bundle)?;
        verify_ms.push(milliseconds(started));
    }
    verify_ms.sort_by(f64::total_cmp);
    let each = proving::verify_each(&published, &verifier_srs, &bundle, &prompt, &statement, publication)?;
    let bundle_bytes = bundle.encode().len();
    let total: f64 = slices.iter().filter_map(|slice| slice.prove_ms).sum();
    let mut slices = serde_json::to_value(slices)?;
    for (slice, ms) in slices.as_array_mut().into_iter().flatten().zip(each) {
        slice["verify_ms"] = ms.into();
    }
    let value = json!({
        "subject": name,
        "layers": parts.len() - 2,
        "k": published.rows(),
        "prompt_tokens": prompt.len(),
        "new_tokens": decoded.answer.len(),
        "open_logits": whole.open_logits().is_some(),
        "padded_tokens": whole.tokens(),
        "passes": decoded.passes,
        "generate_ms": generate_ms,
        "prove_ms": prove_ms,
        "slices_prove_ms": total,
        "total_ms": generate_ms + prove_ms,
        "verify_ms": verify_ms[VERIFICATIONS / 2],
        "bundle_bytes": bundle_bytes,
        "peak_rss_bytes": prove_peak,
        "published_now": times.is_some(),
        "publish": times,
        "verified": true,
        "slices": slices,
        "machine": machine(),
        "backend": session.compute()?.to_string(),
        "threads": std::thread::available_parallelism().map_or(1, usize::from),
        "commit": env!("LAMINA_COMMIT"),
    });
    session.output.value(&value)?;
    let mut rows = vec![["slice", "prove ms", "verify ms", "proof bytes"].map(String::from).to_vec()];
    for slice in value["slices"].as_array().into_iter().flatten() {
        rows.push(vec![
            slice["part"].as_str().unwrap_or_default().to_owned(),
            format!("{:.0}", slice["prove_ms"].as_f64().unwrap_or_default()),
            format!("{:.1}", slice["verify_ms"].as_f64().unwrap_or_default()),
            slice["proof_bytes"].to_string(),
        ]);
    }
    table(&rows).into_iter().try_for_each(|line| session.output.line(line))?;
    show(
        session,
        &value,
        &[
            "generate_ms",
            "prove_ms",
            "total_ms",
            "verify_ms",
            "bundle_bytes",
            "peak_rss_bytes",
            "k",
            "verified",
            "machine",
            "threads",
            "backend",
            "commit",
        ],
    )
}
