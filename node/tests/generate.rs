//! Prompt in, tokens out: a whole small model generated, proved, joined and verified; and every way of getting it wrong.

mod common;

use std::{collections::BTreeSet, fs};

use common::{Folder, Ran, adder, text};
use lamina_verifier::bundle::{Bundle, Prompt};

/// A folder with the published adder: embedding, one layer, head; answers of up to two tokens.
fn published(name: &str) -> Folder {
    let folder = Folder::new(name);
    let model = adder();
    let publish = [
        "publish",
        "--model",
        text(&model),
        "--out",
        "p",
        "--tokens",
        "6",
        "--answer",
        "2",
        "--insecure-srs",
    ];
    folder.lamina(&publish).exits(0);
    folder
}

fn generate(folder: &Folder, prompt: &str, out: &str, more: &[&str]) -> Ran {
    let fixed = ["generate", "--published", "p", "--prompt", prompt, "--prove", "--out", out, "--json"];
    folder.lamina(&[&fixed[..], more].concat())
}

fn verify(folder: &Folder, bundle: &str, more: &[&str]) -> Ran {
    let fixed = ["verify", bundle, "--card", "p/card.json", "--allow-insecure-srs"];
    folder.lamina(&[&fixed[..], more].concat())
}

fn bundle(folder: &Folder, name: &str) -> Bundle {
    Bundle::decode(&fs::read(folder.path(name)).expect("a bundle")).expect("it decodes")
}

/// Writes a changed bundle and asserts how it is refused.
#[track_caller]
fn refused(folder: &Folder, bundle: &Bundle, says: &str) {
    fs::write(folder.path("forged.bundle"), bundle.encode()).expect("written");
    verify(folder, "forged.bundle", &[]).exits(3).says(says);
}

#[test]
fn answers_are_those_of_the_models() {
    let folder = published("answers");
    let said = generate(&folder, "1+2=", "a.bundle", &["--request", "r", "--node", "n"]).exits(0).json();
    assert!(!folder.path("a.bundle.parts").exists(), "parts and their secrets go when the bundle is whole");
    let verified =
        verify(&folder, "a.bundle", &["--prompt", "1+2=", "--request", "r", "--node", "n", "--json"])
            .exits(0)
            .json();
    assert_eq!(verified["verified"], true);
    assert_eq!(verified["slices"], 3);
    assert_eq!(verified["answer"], said["statement"]["answer"]["tokens"]);
    // The reference executor without proofs, the float model, and arithmetic agree.
    let unproved =
        folder.lamina(&["generate", "--published", "p", "--prompt", "1+2=", "--json"]).exits(0).json();
    assert_eq!(unproved["answer"], verified["answer"]);
    assert_eq!(unproved["proved"], false);
    let model = lamina_model::import(adder()).expect("the adder");
    let mut ids = model.tokenizer().expect("it has one").encode("1+2=").expect("known symbols");
    let mut floats = vec![];
    for _ in verified["answer"].as_array().expect("a list") {
        let logits = model.forward(&ids).expect("it runs");
        let next = lamina_model::forward::arg_max(&logits[logits.len() - model.config.vocab..]);
        floats.push(next);
        ids.push(next);
    }
    assert_eq!(verified["answer"], serde_json::json!(floats));
    assert!(verified["answer_text"].as_str().is_some_and(|text| text.starts_with('3')), "{verified}");
    // Ids say the same as text.
    let ids: Vec<String> = ids[..4].iter().map(u32::to_string).collect();
    let ids = ids.join(",");
    verify(&folder, "a.bundle", &["--ids", &ids]).exits(0);
    let from_ids = ["generate", "--published", "p", "--ids", &ids, "--json"];
    assert_eq!(folder.lamina(&from_ids).exits(0).json()["answer"], verified["answer"]);
    // For people: the text.
    let shown = verify(&folder, "a.bundle", &[]).exits(0).stdout();
    assert!(shown.contains("prompt    1+2= (the bundle's"), "{shown}");
    assert!(shown.contains("verified  ") && shown.contains("all 3 slices"), "{shown}");
    // It is there: not replaced, not proved again.
    generate(&folder, "1+2=", "a.bundle", &[]).exits(4).says("--force");
}

#[test]
fn forged_bundles_are_refused_each_for_its_reason() {
    let folder = published("forged");
    let model = adder();
    generate(&folder, "1+2=", "a.bundle", &["--request", "r"]).exits(0);
    generate(&folder, "2+2=", "b.bundle", &["--request", "r"]).exits(0);
    generate(&folder, "1+2=", "c.bundle", &["--request", "s"]).exits(0);
    let [a, b, c] = ["a.bundle", "b.bundle", "c.bundle"].map(|name| bundle(&folder, name));

    verify(&folder, "a.bundle", &["--prompt", "2+2="]).exits(3).says("the prompt differs from token 0 on");
    verify(&folder, "a.bundle", &["--prompt", "1+2"]).exits(3).says("the prompt differs from token 3 on");
    verify(&folder, "a.bundle", &["--request", "s"]).exits(3).says("answers request");
    verify(&folder, "a.bundle", &["--node", "m"]).exits(3).says("another node");
    verify(&folder, "a.bundle", &["--tokens", "5"]).exits(1).says("see --prompt");

    let change = |f: &dyn Fn(&mut Bundle)| {
        let mut changed = a.clone();
        f(&mut changed);
        changed
    };
    let vocab = lamina_model::import(&model).expect("the adder").config.vocab as u32;
    let last = a.answer.len() - 1;
    refused(&folder, &change(&|x| x.answer[last] = (x.answer[last] + 1) % vocab), "slice 2: output boundary");
    refused(&folder, &change(&|x| x.answer[0] = vocab), "is not below");
    refused(&folder, &change(&|x| x.prompt = b.prompt.clone()), "slice 0: input boundary");
    refused(&folder, &change(&|x| x.prompt = Prompt::Hidden(4)), "slice 0");
    refused(&folder, &change(&|x| x.prompt = Prompt::Open(vec![])), "the prompt has 0 tokens");
    refused(&folder, &change(&|x| x.answer.clear()), "the answer has 0 tokens");
    refused(&folder, &change(&|x| x.answer = vec![3; 9]), "the answer has 9 tokens");
    refused(&folder, &change(&|x| x.padding += 1), "slice 0: input boundary");
    refused(&folder, &change(&|x| x.request = c.request), "another request");
    // A slice of another request, another prompt, another place; one too few, too many, twice; swapped neighbours.
    for slice in 0..3 {
        refused(&folder, &change(&|x| x.slices[slice] = c.slices[slice].clone()), "is for another request");
    }
    refused(&folder, &change(&|x| x.slices[0] = b.slices[0].clone()), "slice 0: input boundary");
    refused(&folder, &change(&|x| x.slices[1] = b.slices[1].clone()), "slice 1 does not begin where");
    refused(&folder, &change(&|x| x.slices[2] = b.slices[2].clone()), "slice 2");
    refused(&folder, &change(&|x| x.slices[1] = x.slices[2].clone()), "slice 2 is proved twice");
    refused(&folder, &change(&|x| x.slices.push(x.slices[2].clone())), "slice 2 is proved twice");
    refused(&folder, &change(&|x| x.slices.swap(0, 1)), "envelope 0 is of slice 1");
    refused(&folder, &change(&|x| drop(x.slices.remove(1))), "slice 1 is missing");
    refused(&folder, &change(&|x| x.slices.clear()), "slice 0 is missing");
    // Bytes.
    let honest = a.encode();
    for cut in [3, 20, 100, 115, 200, honest.len() - 1] {
        fs::write(folder.path("cut.bundle"), &honest[..cut]).expect("written");
        verify(&folder, "cut.bundle", &[]).exits(3);
    }
    fs::write(folder.path("long.bundle"), [&honest[..], &[0]].concat()).expect("written");
    verify(&folder, "long.bundle", &[]).exits(3).says("follow the last slice");

    // Another card: the same model published again, with fresh blinding values.
    let again = [
        "publish",
        "--model",
        text(&model),
        "--out",
        "o",
        "--tokens",
        "6",
        "--answer",
        "2",
        "--insecure-srs",
    ];
    folder.lamina(&again).exits(0);
    let other = ["verify", "a.bundle", "--card", "o/card.json", "--allow-insecure-srs"];
    folder.lamina(&other).exits(3).says("the bundle is of model");
    // A slice, or the head, of that card among the others.
    let foreign = [
        "generate",
        "--published",
        "o",
        "--prompt",
        "1+2=",
        "--prove",
        "--out",
        "d.bundle",
        "--request",
        "r",
    ];
    folder.lamina(&foreign).exits(0);
    let d = bundle(&folder, "d.bundle");
    for slice in 0..3 {
        refused(&folder, &change(&|x| x.slices[slice] = d.slices[slice].clone()), "is for another model");
    }
    // A card of layers is no model from token ids to token ids.
    let layers = ["publish", "--model", text(&model), "--out", "l", "--layers", "0", "--insecure-srs"];
    folder.lamina(&layers).exits(0);
    folder
        .lamina(&["verify", "a.bundle", "--card", "l/card.json", "--allow-insecure-srs"])
        .exits(3)
        .says("no model");
    // A tokenizer that is not the card's would print another text.
    let path = folder.path("p/tokenizer.json");
    let json = fs::read_to_string(&path).expect("a tokenizer");
    fs::write(&path, json.replacen("\"1\"", "\"q\"", 1)).expect("written");
    verify(&folder, "a.bundle", &[]).exits(3).says("not the tokenizer that the card names");
}

#[test]
fn parts_from_two_machines_join_at_their_boundary() {
    let folder = published("parts");
    let part = |out: &str, slices: &str, more: &[&str]| {
        let fixed = ["--request", "r", "--slices", slices];
        generate(&folder, "1+2=", out, &[&fixed[..], more].concat())
    };
    part("a", "0..1", &["--node", "first"]).exits(0);
    part("b", "1..", &["--receive", "a.parts", "--node", "second"]).exits(0);
    part("c", "1..", &[]).exits(0);
    let join = |out: &str, parts: &[&str]| {
        let fixed = ["join", "--card", "p/card.json", "--out", out];
        folder.lamina(&[&fixed[..], parts].concat())
    };
    join("whole.bundle", &["b.parts", "a.parts"]).exits(0);
    let verified =
        verify(&folder, "whole.bundle", &["--prompt", "1+2=", "--request", "r", "--json"]).exits(0).json();
    assert_eq!(verified["nodes"].as_array().map(Vec::len), Some(2));
    join("whole.bundle", &["b.parts", "a.parts"]).exits(4).says("--force");

    join("x.bundle", &["a.parts", "c.parts"]).exits(2).says("--receive");
    join("x.bundle", &["a.parts"])
        .exits(2)
        .says("2 of 3 slices are missing, layer 0 to head")
        .says("--slices 1..3");
    join("x.bundle", &["a.parts", "b.parts", "c.parts"]).exits(2).says("is proved twice");
    join("x.bundle", &["a.parts", "none"]).exits(4).says("none holds no parts");
    generate(&folder, "2+2=", "d", &["--request", "r", "--slices", "1.."]).exits(0);
    join("x.bundle", &["a.parts", "d.parts"]).exits(2).says("another prompt or answer");
    generate(&folder, "1+2=", "e", &["--request", "s", "--slices", "1.."]).exits(0);
    join("x.bundle", &["a.parts", "e.parts"]).exits(2).says("another request");
    part("f", "1..", &["--receive", "d.parts"]).exits(4).says("boundary-0.activations holds other");
    part("g", "3..", &[]).exits(2).says("slices 0..3");
    assert!(!folder.path("x.bundle").exists());
    // What one machine does in parts is what it does at once.
    part("a", "0..1", &["--node", "first"]).exits(0);
    let before = fs::read(folder.path("a.parts/embedding.proof")).expect("a proof");
    assert_eq!(before, bundle(&folder, "whole.bundle").slices[0], "a finished slice was proved again");
}

#[test]
fn hidden_prompts_open_for_their_client_only() {
    let folder = published("hidden");
    let runs = ["a.bundle", "b.bundle"].map(|out| {
        generate(&folder, "1+2=", out, &["--hide-prompt", "--request", "r"]).exits(0);
        let opening = format!("{out}.opening");
        let opened = ["--prompt", "1+2=", "--opening", &opening, "--json"];
        let verified = verify(&folder, out, &opened).exits(0).json();
        assert_eq!(verified["prompt_opened"], true);
        bundle(&folder, out)
    });
    assert_eq!(runs[0].answer, runs[1].answer);
    assert_eq!(runs[0].prompt, Prompt::Hidden(4));
    // Two runs share no hidden commitment: none of 32 bytes but identifiers, keys and open values.
    let pieces = |bundle: &Bundle| -> BTreeSet<[u8; 32]> {
        let header = 8 + 2 + 32 + 32 + 32 + 32 + 4 + 32 + 32 + 4;
        let input = bundle.slices[0][header + 1..][..32].try_into().expect("32 bytes");
        let stream = bundle.slices[1][header + 1..][..32].try_into().expect("32 bytes");
        let next = bundle.slices[2][header + 1..][..32].try_into().expect("32 bytes");
        BTreeSet::from([input, stream, next])
    };
    assert!(pieces(&runs[0]).is_disjoint(&pieces(&runs[1])));
    assert_eq!(pieces(&runs[0]).len(), 3);
    // Without the opening it says what is missing; another opening, or none for a claimed prompt, is refused.
    let shown = verify(&folder, "a.bundle", &[]).exits(0).stdout();
    assert!(shown.contains("HIDDEN"), "{shown}");
    verify(&folder, "a.bundle", &["--prompt", "1+2="]).exits(3).says("is hidden");
    let foreign = ["--prompt", "1+2=", "--opening", "b.bundle.opening"];
    verify(&folder, "a.bundle", &foreign).exits(3).says("slice 0: input boundary");
    let other = ["--prompt", "2+2=", "--opening", "a.bundle.opening"];
    verify(&folder, "a.bundle", &other).exits(3).says("slice 0: input boundary");
    let longer = ["--prompt", "1+22=", "--opening", "a.bundle.opening"];
    verify(&folder, "a.bundle", &longer).exits(3);
}

#[test]
fn whole_models_are_timed_and_verified() {
    let folder = Folder::new("bench");
    let model = adder();
    let real =
        ["bench", "generate", "--model", text(&model), "--prompt-tokens", "3", "--new-tokens", "2", "--json"];
    for arguments in [
        &real[..],
        &[
            "bench",
            "model-shape",
            "--arch",
            "gpt2",
            "--layers",
            "1",
            "--hidden",
            "64",
            "--ffn",
            "96",
            "--heads",
            "4",
            "--vocab",
            "50",
            "--tokens",
            "4",
            "--publish",
            "--json",
        ],
    ] {
        let value = folder.lamina(arguments).exits(0).json();
        assert_eq!(value["verified"], true);
        let slices = value["slices"].as_array().expect("figures of each slice");
        assert_eq!(slices.len(), 3);
        for figure in ["prove_ms", "verify_ms"] {
            assert!(slices.iter().all(|slice| slice[figure].as_f64().is_some_and(|ms| ms > 0.0)), "{value}");
        }
        for figure in ["verify_ms", "bundle_bytes", "total_ms"] {
            assert!(value[figure].as_f64().is_some_and(|value| value > 0.0), "{figure}: {value}");
        }
    }
}

#[test]
fn slices_are_proved_side_by_side_where_memory_allows() {
    let folder = Folder::new("beside");
    let publish =
        ["publish", "--model", "bundled", "--out", "p", "--tokens", "4", "--answer", "2", "--insecure-srs"];
    folder.lamina(&publish).exits(0);
    let said = generate(&folder, "The", "a.bundle", &["--memory", "64"]).exits(0).json();
    verify(&folder, "a.bundle", &["--prompt", "The"]).exits(0);
    let slices = said["slices"].as_array().expect("figures");
    let number = |slice: &serde_json::Value, name: &str| slice[name].as_f64().expect("a figure");
    assert!(slices.windows(2).all(|pair| number(&pair[0], "slice") < number(&pair[1], "slice")));
    let blocks = &slices[1..5];
    let beside = blocks.windows(2).any(|pair| {
        number(&pair[1], "started_ms") < number(&pair[0], "started_ms") + number(&pair[0], "prove_ms")
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    assert_eq!(beside, cores > 1, "on {cores} cores: {said}");
}

#[test]
fn bundles_are_inspected_and_drawn() {
    let folder = published("inspect");
    generate(&folder, "1+2=", "a.bundle", &[]).exits(0);
    let seen = folder.lamina(&["inspect", "a.bundle", "--card", "p/card.json", "--json"]).exits(0).json();
    assert_eq!(seen["slices"].as_array().map(Vec::len), Some(3));
    assert_eq!(seen["slices"][1]["part"], "layer 0");
    assert_eq!(seen["slices"][0]["input"]["kind"], "open");
    assert_eq!(seen["slices"][1]["input"]["kind"], "hidden");
    assert_eq!(seen["neighbours_share_their_boundary"], serde_json::json!([true, true]));
    assert_eq!(seen["prompt_text"], "1+2=");
    let draw = ["inspect", "a.bundle", "--card", "p/card.json", "--html", "a.html"];
    assert!(folder.lamina(&draw).exits(0).stdout().contains("layer 0"));
    let page = fs::read_to_string(folder.path("a.html")).expect("a page");
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    for part in ["1+2=", "embedding", "layer 0", "head", "timeline", "quotient", "--eval FILE"] {
        assert!(page.contains(part), "no {part}");
    }
    assert!(!page.contains("http"), "the page needs nothing else");
    folder.lamina(&draw).exits(4).says("a.html exists");
    // Neighbours that do not meet are shown so.
    let mut forged = bundle(&folder, "a.bundle");
    generate(&folder, "2+2=", "b.bundle", &[]).exits(0);
    forged.slices[1] = bundle(&folder, "b.bundle").slices[1].clone();
    fs::write(folder.path("f.bundle"), forged.encode()).expect("written");
    let seen = folder.lamina(&["inspect", "f.bundle", "--card", "p/card.json", "--json"]).exits(0).json();
    assert_eq!(seen["neighbours_share_their_boundary"], serde_json::json!([false, false]));
    let image = ["inspect", "p/card.json", "--card", "p/card.json", "--html", "b.html"];
    folder.lamina(&image).exits(1).says("--html draws bundles");
}

#[test]
fn prompts_that_cannot_be_answered_say_why() {
    let folder = published("bad");
    let model = adder();
    generate(&folder, "1+2=3+4=5", "a", &[]).exits(2).says("the published circuit is for 5");
    generate(&folder, "", "a", &[]).exits(2).says("the prompt is empty");
    generate(&folder, "hello", "a", &[]).exits(2).says("`h` is not in the model's vocabulary");
    generate(&folder, "1+2=", "a", &["--max-tokens", "3"]).exits(2).says("--answer 3");
    generate(&folder, "1+2=", "a", &["--memory", "0.001"])
        .exits(2)
        .says("proving one slice of this model takes");
    let bare = ["generate", "--model", text(&model), "--prompt", "1+2=", "--prove", "--out", "a"];
    folder.lamina(&bare).exits(4).says("lamina publish --model");
    folder.lamina(&["generate", "--prompt", "1+2="]).exits(1).says("--published");
    folder.lamina(&["generate", "--published", "p", "--prompt", "1", "--prove"]).exits(1).says("--out");
    folder.lamina(&["generate", "--published", "p", "--prompt", "1", "--out", "a"]).exits(1).says("--prove");
    folder
        .lamina(&["publish", "--model", text(&model), "--out", "l", "--layers", "0", "--insecure-srs"])
        .exits(0);
    let layers = ["generate", "--published", "l", "--prompt", "1+2=", "--prove", "--out", "a"];
    folder.lamina(&layers).exits(3).says("no model from token ids to token ids");
    assert!(!folder.path("a").exists());
    // Without a publication the integers answer all the same.
    let said = folder.lamina(&["generate", "--model", text(&model), "--prompt", "1+2=", "--max-tokens", "1"]);
    assert!(said.exits(0).stdout().contains("answer    3"));
}
