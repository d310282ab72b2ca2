//! Measures how close fixed point comes to float: `measure MODEL TEXT TOKENS WEIGHT_BITS [HEADROOM] [SILU_BITS] [EXTRA]`.
//!
//! `MODEL` is a path or `bundled`. The first `TOKENS` tokens of `TEXT` are evaluated; calibration reads
//! the 2 * `TOKENS` tokens after them, so it never sees what is measured.

use std::io::Write;

use lamina_model::{Options, bundled, eval, import, quantise};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let model = if args[0] == "bundled" { bundled()? } else { import(&args[0])? };
    let tokens: usize = args[2].parse()?;
    let text: String = std::fs::read_to_string(&args[1])?.chars().take(30 * tokens).collect();
    let ids = model.tokenizer()?.encode(&text)?;
    let mut options = Options::new(tokens);
    options.weight_bits = args[3].parse()?;
    if let Some(bits) = args.get(4) {
        options.headroom_bits = bits.parse()?;
    }
    if let Some(bits) = args.get(5) {
        options.silu_in_bits = bits.parse()?;
    }
    if let Some(extra) = args.get(6) {
        options.extra_channels = extra.parse()?;
    }
    let mut out = std::io::stdout();
    let start = std::time::Instant::now();
    let quantised = quantise(&model, &ids[tokens..(3 * tokens).min(ids.len())], &options)?;
    writeln!(out, "{:#?}\nquantised in {:?}", quantised.spec, start.elapsed())?;
    let report = eval(&model, &quantised, &ids[..tokens])?;
    writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    Ok(())
}
