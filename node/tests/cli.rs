//! The command line without proofs: help, exit codes, bad input.

mod common;

use std::fs;

use common::{Folder, adder, text};

const COMMANDS: &[&[&str]] = &[
    &[],
    &["demo"],
    &["plan"],
    &["eval"],
    &["publish"],
    &["prove"],
    &["verify"],
    &["inspect"],
    &["srs"],
    &["srs", "insecure"],
    &["srs", "import"],
    &["srs", "info"],
    &["bench"],
    &["bench", "block"],
    &["bench", "shape"],
];

#[test]
fn every_command_explains_itself() {
    let folder = Folder::new("help");
    for command in COMMANDS {
        let help = folder.lamina(&[command, &["--help"][..]].concat()).exits(0).stdout();
        assert!(help.contains("Usage: lamina"), "{command:?}: {help}");
        if command.len() == 1 {
            assert!(help.contains("  lamina "), "{command:?} has no example: {help}");
        }
    }
    let help = folder.lamina(&["--help"]).exits(0).stdout();
    for code in ["0  done", "1  usage", "2  bad input", "3  rejected", "4  files", "130  interrupted"] {
        assert!(help.contains(code), "`{code}` is not documented: {help}");
    }
    folder.lamina(&["--version"]).exits(0);
}

#[test]
fn senseless_command_lines_exit_with_1() {
    let folder = Folder::new("usage");
    for arguments in [
        &[][..],
        &["prov"],
        &["demo", "--frobnicate"],
        &["plan", "--weight-bits", "12"],
        &["plan", "--tokens", "0"],
        &["publish", "--model", "m", "--out", "o", "--layers", "3..3"],
        &["prove", "--model", "m", "--published", "p", "--prompt", "x", "--out", "o"],
        &[
            "prove",
            "--model",
            "m",
            "--published",
            "p",
            "--prompt",
            "x",
            "--out",
            "o",
            "--layer",
            "1",
            "--layers",
            "0..2",
        ],
        &["verify", "--card", "c"],
        &["srs", "insecure", "--k", "40"],
        &["bench", "shape", "--hidden", "8"],
    ] {
        folder.lamina(arguments).exits(1);
    }
}

#[test]
fn bad_models_exit_with_2_and_say_what_to_do() {
    let folder = Folder::new("models");
    folder.lamina(&["plan", "--model", "absent.gguf"]).exits(4).says("absent.gguf");

    fs::write(folder.path("cut.gguf"), b"GGUF\x03\0\0\0").expect("written");
    folder.lamina(&["plan", "--model", "cut.gguf"]).exits(2).says("truncated");

    let copy = |name: &str, change: &dyn Fn(&str, Vec<u8>) -> Vec<u8>| {
        let to = folder.path(name);
        fs::create_dir_all(&to).expect("a folder");
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            let bytes = fs::read(adder().join(file)).expect("the bundled model");
            fs::write(to.join(file), change(file, bytes)).expect("written");
        }
        to
    };
    let replace = |file: &'static str, from: &'static str, to: &'static str| {
        move |name: &str, bytes: Vec<u8>| {
            if name != file {
                return bytes;
            }
            String::from_utf8(bytes).expect("text").replace(from, to).into_bytes()
        }
    };
    let gpt = copy("gpt", &replace("config.json", "\"model_type\": \"llama\"", "\"model_type\": \"mamba\""));
    folder.lamina(&["plan", "--model", text(&gpt)]).exits(2).says("mamba");
    let wide =
        copy("wide", &replace("config.json", "\"intermediate_size\": 32", "\"intermediate_size\": 40"));
    folder.lamina(&["plan", "--model", text(&wide)]).exits(2).says("tensor `");
    let biased = copy("biased", &replace("config.json", "\"mlp_bias\": false", "\"mlp_bias\": true"));
    folder.lamina(&["plan", "--model", text(&biased)]).exits(2).says("mlp_bias");
    let cut = copy("cut", &|name, mut bytes| {
        if name == "model.safetensors" {
            bytes.truncate(bytes.len() - 1);
        }
        bytes
    });
    folder.lamina(&["plan", "--model", text(&cut)]).exits(2).says("safetensors");

    let many = folder.lamina(&["plan", "--model", text(&adder()), "--tokens", "65"]).exits(2);
    let many = many.says("context of 64");
    assert!(many.stderr().starts_with("error: "), "{}", many.stderr());
}

#[test]
fn failures_are_json_when_json_is_asked_for() {
    let folder = Folder::new("json");
    let value = folder.lamina(&["plan", "--model", "absent.gguf", "--json"]).exits(4).json();
    assert_eq!(value["error"]["kind"], "files");
    assert_eq!(value["error"]["exit_code"], 4);
    assert!(value["error"]["message"].as_str().is_some_and(|m| m.contains("absent.gguf")));
}

#[test]
fn damaged_files_are_told_apart() {
    let folder = Folder::new("inspect");
    fs::write(folder.path("junk"), [7; 100]).expect("written");
    folder.lamina(&["inspect", "junk"]).exits(2).says("no card, proof");
    fs::write(folder.path("short.proof"), b"LAMINAPF\x01\0").expect("written");
    folder.lamina(&["inspect", "short.proof"]).exits(2);
    fs::write(folder.path("card.json"), b"{\"kinds\": []}").expect("written");
    folder.lamina(&["inspect", "card.json"]).exits(3).says("not a model card");
    folder.lamina(&["verify", "--card", "card.json", "short.proof"]).exits(3).says("card.json");
    folder.lamina(&["verify", "--card", "none.json", "short.proof"]).exits(4).says("none.json");
    folder.lamina(&["srs", "import", "junk"]).exits(2).says("neither");
    folder.lamina(&["inspect", "absent"]).exits(4).says("absent");
}

#[test]
fn plans_and_comparisons_of_a_small_model_are_json() {
    let folder = Folder::new("plan");
    let model = adder();
    let plan = folder.lamina(&["plan", "--model", text(&model), "--tokens", "4", "--json"]).exits(0).json();
    assert!(plan["block"]["k"].as_u64().is_some_and(|k| k > 4), "{plan}");
    for slice in [&plan["block"], &plan["ends"][0], &plan["ends"][1]] {
        assert!(slice["columns"]["weights"].as_u64().is_some_and(|c| c > 0), "{plan}");
    }
    assert_eq!(plan["layers"], 1);
    fs::write(folder.path("sums.txt"), "1+2=3").expect("written");
    let eval = [
        "eval",
        "--model",
        text(&model),
        "--tokens",
        "8",
        "--text",
        "sums.txt",
        "--calibrate",
        "sums.txt",
        "--json",
    ];
    let eval = folder.lamina(&eval).exits(0).json();
    assert!(eval["agreement"].as_f64().is_some_and(|a| a > 0.5), "{eval}");
    assert!(eval["overflows"].as_array().is_some_and(Vec::is_empty), "{eval}");
    assert!(eval["text_headroom"][0]["headroom_bits"].as_f64().is_some_and(|bits| bits > 0.0), "{eval}");
    let plot = ["eval", "--tokens", "16", "--count", "40", "--plot", "error.svg"];
    let said = folder.lamina(&plot).exits(0).stdout();
    assert!(said.contains("every value fits in all"), "{said}");
    let svg = fs::read_to_string(folder.path("error.svg")).expect("it was drawn");
    assert!(svg.starts_with("<svg") && svg.contains("attn-norm") && svg.trim_end().ends_with("</svg>"));
    folder.lamina(&plot).exits(4).says("error.svg exists");
    assert!(
        folder.lamina(&["plan", "--model", text(&model), "--tokens", "4"]).exits(0).stdout().contains("rows")
    );
}

#[test]
fn development_strings_are_marked() {
    let folder = Folder::new("srs");
    let made = folder.lamina(&["srs", "insecure", "--k", "6", "--json"]).exits(0).says("development only");
    let made = made.json();
    assert_eq!(made["insecure"], true);
    let list = folder.lamina(&["srs", "info", "--json"]).exits(0).json();
    assert_eq!(list["srs"][0]["id"], made["id"]);
    assert_eq!(list["srs"][0]["insecure"], true);
    let file = made["file"].as_str().expect("a file");
    assert_eq!(folder.lamina(&["inspect", file, "--json"]).exits(0).json()["insecure"], true);
    assert!(folder.lamina(&["srs", "info"]).exits(0).stdout().contains("INSECURE"));

    // One byte of a point: refused, never used.
    let mut bytes = fs::read(file).expect("read");
    bytes[200] ^= 1;
    fs::write(file, bytes).expect("written");
    folder.lamina(&["inspect", file]).exits(2).says("digest");
}

#[test]
fn parameters_of_halo2_are_imported_and_checked() {
    use halo2_proofs::{
        halo2curves::bn256::Bn256,
        poly::{commitment::Params, kzg::commitment::ParamsKZG},
    };

    let folder = Folder::new("import");
    let mut bytes = vec![];
    ParamsKZG::<Bn256>::setup(6, rand_core::OsRng).write(&mut bytes).expect("written");
    fs::write(folder.path("params"), &bytes).expect("written");
    let import = ["srs", "import", "params", "--ceremony", "two friends", "--json"];
    let imported = folder.lamina(&import).exits(0).json();
    // One power more than rows is needed.
    assert_eq!(imported["k"], 5);
    assert_eq!(imported["insecure"], false);
    folder.lamina(&["srs", "import", "params", "--k", "6"]).exits(2).says("2^6");
    let list = folder.lamina(&["srs", "info"]).exits(0).stdout();
    assert!(list.contains("two friends") && !list.contains("INSECURE"), "{list}");

    // One coordinate is another one.
    bytes[4 + 64 * 3] ^= 1;
    fs::write(folder.path("bent"), &bytes).expect("written");
    folder.lamina(&["srs", "import", "bent"]).exits(2).says("bent");
    fs::write(folder.path("cut"), &bytes[..bytes.len() - 1]).expect("written");
    folder.lamina(&["srs", "import", "cut"]).exits(2).says("length");
}
