//! Measures how close fixed point comes to float: `measure MODEL TEXT WINDOW COUNT KEY=VALUE...`.
//!
//! `MODEL` is a path or `bundled`. The first `COUNT` tokens of `TEXT` are compared in windows of `WINDOW`; a `TEXT` of
//! `sampled:SEED` is one that the float model writes itself, window by window, for models without a tokenizer.
//! Keys: `bits`, `headroom`, `silu`, `extra`, `rotate` (1 or 0), `calibrate` (a path; without it the scales
//! are chosen on the text that follows what is compared).

use std::{collections::HashMap, io::Write, time::Instant};

use lamina_model::{Model, Options, bundled, error::ForwardError, eval, import, quantise};

/// At least `count` ids in windows, each drawn from the float model's distribution after those before it.
fn sample(model: &Model, seed: u64, window: usize, count: usize) -> Result<Vec<u32>, ForwardError> {
    let (vocab, mut state) = (model.config.vocab, seed);
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut all = vec![];
    while all.len() < count {
        let first = model.config.bos_id.unwrap_or((uniform() * vocab as f64) as u32);
        let mut ids = vec![first];
        while ids.len() < window {
            let logits = model.forward(&ids)?;
            let row = &logits[(ids.len() - 1) * vocab..];
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f64> = row.iter().map(|l| f64::from(l - max).exp()).collect();
            let mut left = uniform() * weights.iter().sum::<f64>();
            let next = weights.iter().position(|w| {
                left -= w;
                left <= 0.0
            });
            ids.push(next.unwrap_or(0) as u32);
        }
        all.extend(ids);
    }
    Ok(all)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let options: HashMap<&str, &str> = args[4..].iter().filter_map(|option| option.split_once('=')).collect();
    let number = |key: &str, default: f64| options.get(key).map_or(Ok(default), |value| value.parse::<f64>());
    let mut model = if args[0] == "bundled" { bundled()? } else { import(&args[0])? };
    if number("rotate", 1.0)? > 0.0 {
        model = model.rotated();
    }
    let (window, count): (usize, usize) = (args[2].parse()?, args[3].parse()?);
    let ids = match args[1].strip_prefix("sampled:") {
        Some(seed) => sample(&model, seed.parse()?, window, count.next_multiple_of(window) + 4 * window)?,
        None => {
            let text: String = std::fs::read_to_string(&args[1])?.chars().take(10 * (count + 1024)).collect();
            model.tokenizer()?.encode(&text)?
        }
    };
    let calibration = match options.get("calibrate") {
        Some(path) => model.tokenizer()?.encode(&std::fs::read_to_string(path)?)?,
        None => ids[count..(count + 1024).min(ids.len())].to_vec(),
    };
    let chosen = Options {
        weight_bits: number("bits", 16.0)? as u32,
        headroom_bits: number("headroom", Options::DEFAULT_HEADROOM_BITS)?,
        silu_in_bits: number("silu", 16.0)? as u32,
        extra_channels: number("extra", 0.0)? as usize,
        ..Options::new(window)
    };
    let mut out = std::io::stdout();
    let start = Instant::now();
    let quantised = quantise(&model, &calibration, &chosen)?;
    let quantise_ms = start.elapsed().as_millis();
    let start = Instant::now();
    let report = eval(&model, &quantised, &ids[..count.min(ids.len())])?;
    writeln!(out, "{:?}", quantised.spec.scales)?;
    for (room, text) in report.headroom.iter().zip(&report.text_headroom) {
        writeln!(
            out,
            "{:16} room {:6.2} on the text {:6.2}",
            room.site, room.headroom_bits, text.headroom_bits
        )?;
    }
    for site in &report.sites {
        let layers: Vec<String> = site.layers.iter().map(|error| format!("{error:.1e}")).collect();
        let mean = site.mean / site.mean_magnitude;
        writeln!(out, "{:12} mean {mean:.1e} layers {}", site.site, layers.join(" "))?;
    }
    for overflow in &report.overflows {
        writeln!(out, "{overflow:?}")?;
    }
    writeln!(
        out,
        "{} tokens, {} windows of {window}, {} overflow: perplexity {:.3} -> {:.3} ({:+.2} %), top-1 {:.3} -> {:.3}, \
         agreement {:.3}; quantise {quantise_ms} ms, eval {} ms",
        report.tokens,
        report.windows,
        report.overflows.len(),
        report.float_perplexity,
        report.fixed_perplexity,
        100.0 * report.perplexity_change,
        report.float_top1,
        report.fixed_top1,
        report.agreement,
        start.elapsed().as_millis()
    )?;
    Ok(())
}
