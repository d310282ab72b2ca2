//! Measures how close fixed point comes to float: `measure MODEL TEXT TOKENS WEIGHT_BITS`.
//!
//! `MODEL` is a path or `bundled`. The first `TOKENS` tokens of `TEXT` are evaluated; calibration reads
//! the tokens after them.

use std::io::Write;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let model = if args[0] == "bundled" { lamina_model::bundled()? } else { lamina_model::import(&args[0])? };
    let text = std::fs::read_to_string(&args[1])?;
    let tokens: usize = args[2].parse()?;
    let ids = model.tokenizer()?.encode(&text[..text.len().min(20 * tokens)])?;
    let ids = &ids[..tokens];
    let mut out = std::io::stdout();
    let start = std::time::Instant::now();
    let logits = model.forward(ids)?;
    let v = model.config.vocab;
    let (mut nll, mut hits) = (0.0f64, 0);
    for (row, &next) in logits.chunks_exact(v).zip(&ids[1..]) {
        let max = row.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = row.iter().map(|l| f64::from(l - max).exp()).sum();
        nll += sum.ln() - f64::from(row[next as usize] - max);
        hits += usize::from(lamina_model::forward::arg_max(row) == next);
    }
    let n = (ids.len() - 1) as f64;
    writeln!(out, "float ppl {} top1 {} in {:?}", (nll / n).exp(), hits as f64 / n, start.elapsed())?;
    Ok(())
}
