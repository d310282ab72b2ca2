//! The float reference against known values, and fixed point against the float reference.

use lamina_circuits::{
    executor::{ExecError, Site},
    model::Part,
    spec::FeedForward,
};
use lamina_model::{
    Model, Options, Rotation, bundled, bundled_adder,
    error::{EvalError, ForwardError, QuantiseError},
    eval,
    forward::arg_max,
    quantise,
    quantise::SiteHeadroom,
    quantise_on_text,
};

const TEXT: &str = "Alice was beginning to get very tired of sitting by her sister on the bank, and of having \
                    nothing to do. The Queen said to the King that it was time to go, and she looked at the \
                    little door. Alice thought to herself that she would be late, and so she ran after it.";

fn model() -> Model {
    bundled().expect("the asset is bundled")
}

fn encode(model: &Model, text: &str) -> Vec<u32> {
    model.tokenizer().expect("it has one").encode(text).expect("plain text")
}

#[test]
fn the_adder_adds_in_floats_and_in_fixed_point() {
    let model = bundled_adder().expect("the asset is bundled");
    let sums: Vec<(usize, usize)> = (0..10).flat_map(|a| (0..10).map(move |b| (a, b))).collect();
    let calibration: String = sums.iter().map(|(a, b)| format!("{a}+{b}={}", a + b)).collect();
    let mut options = Options::new(8);
    options.headroom_bits = 1.5;
    let fixed = quantise_on_text(&model, &calibration, &options).expect("the adder fits");
    for (a, b) in sums {
        // Digits of the sum, then the end token, each chosen greedily.
        let mut ids = encode(&model, &format!("{a}+{b}="));
        let answer = encode(&model, &(a + b).to_string());
        for want in answer {
            let logits = model.forward(&ids).expect("few tokens");
            let float = arg_max(&logits[(ids.len() - 1) * model.config.vocab..]);
            assert_eq!(float, want, "{a}+{b}");
            assert_eq!(fixed.next_token(&ids).expect("in range"), want, "{a}+{b} in fixed point");
            ids.push(want);
        }
    }
}

#[test]
fn the_bundled_model_continues_as_its_authors_code_does() {
    let model = model();
    let mut ids = encode(&model, "Alice was beginning to");
    // Ids and greedy continuation computed with the package's own code.
    assert_eq!(ids, [494, 160, 729, 633, 111]);
    for _ in 0..14 {
        let logits = model.forward(&ids).expect("few tokens");
        ids.push(arg_max(&logits[(ids.len() - 1) * model.config.vocab..]));
    }
    assert_eq!(ids[5..], [97, 4, 373, 111, 97, 388, 11, 120, 168, 734, 133, 160, 379, 107]);
    let text = model.tokenizer().expect("it has one").decode(&ids).expect("known ids");
    assert!(text.starts_with("Alice was beginning to the\nQueen to the Queen, and she"), "{text}");
}

#[test]
fn later_tokens_do_not_change_earlier_logits() {
    let model = model();
    let mut ids = encode(&model, TEXT);
    ids.truncate(24);
    let before = model.forward(&ids).expect("few tokens");
    ids[23] = 7;
    let after = model.forward(&ids).expect("few tokens");
    let earlier = 23 * model.config.vocab;
    let difference = before[..earlier].iter().zip(&after[..earlier]).map(|(a, b)| (a - b).abs());
    assert!(difference.fold(0.0, f32::max) < 1e-4);
}

/// Fixed point on text that calibration did not see.
fn compare(weight_bits: u32) -> lamina_model::EvalReport {
    let model = model();
    let mut options = Options::new(32);
    options.weight_bits = weight_bits;
    let ids = encode(&model, TEXT);
    let quantised = quantise(&model, &ids[28..], &options).expect("the model fits");
    let limit = 1i32 << (weight_bits - 1);
    for block in &quantised.blocks {
        for (name, matrix, rows, cols) in block.matrices(&quantised.spec) {
            assert_eq!((matrix.rows, matrix.cols, matrix.data.len()), (rows, cols, rows * cols), "{name}");
            assert!(matrix.data.iter().all(|&w| i32::from(w) > -limit && i32::from(w) < limit), "{name}");
        }
    }
    quantised.spec.check().expect("quantise checks it");
    assert!(quantised.headroom.iter().all(|site| site.headroom_bits > 0.0), "{:?}", quantised.headroom);
    eval(&model, &quantised, &ids[..28]).expect("in range")
}

#[test]
fn sixteen_bit_weights_match_floats() {
    let report = compare(16);
    assert!((10.0..400.0).contains(&report.float_perplexity), "{}", report.float_perplexity);
    assert!(report.perplexity_change.abs() < 0.002, "{}", report.perplexity_change);
    assert!(report.agreement > 0.95, "{}", report.agreement);
    assert_eq!((report.tokens, report.padded_tokens), (28, 32));
    for site in &report.sites {
        assert!(site.mean <= 0.01 * site.mean_magnitude, "{site:?}");
    }
    assert!(serde_json::to_string(&report).expect("it serialises").contains("attn-norm"));
}

#[test]
fn eight_bit_weights_stay_close() {
    let report = compare(8);
    assert!(report.perplexity_change.abs() < 0.05, "{}", report.perplexity_change);
    assert!(report.agreement > 0.85, "{}", report.agreement);
}

#[test]
fn split_channels_leave_the_model_as_it_is() {
    let model = model();
    let ids = encode(&model, TEXT);
    let mut options = Options::new(32);
    options.extra_channels = 11;
    let quantised = quantise(&model, &ids[28..], &options).expect("the model fits");
    assert_eq!(quantised.spec.shape.ffn, 352);
    assert_eq!(quantised.channels[0].len(), 352);
    let report = eval(&model, &quantised, &ids[..28]).expect("in range");
    assert!(report.perplexity_change.abs() < 0.002, "{}", report.perplexity_change);
}

#[test]
fn a_rotated_stream_is_the_same_model() {
    let model = model();
    let rotated = model.rotated();
    let ids = encode(&model, TEXT);
    let [a, b] = [&model, &rotated].map(|m| m.forward(&ids[..24]).expect("few tokens"));
    let difference = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < 1e-3, "{difference}");
    // One loud feature of 1 spreads: no entry is above sqrt(2 / hidden), the length stays. 24 = 8 * 3.
    for hidden in [24, 7, 64] {
        for loud in 0..hidden {
            let mut x = vec![0.0; hidden];
            x[loud] = 1.0;
            for rotation in [Rotation::new(hidden), Rotation::centred(hidden)] {
                let y = rotation.apply(&x);
                let length: f32 = y.iter().map(|y| y * y).sum();
                assert!((length - 1.0).abs() < 1e-5, "{length}");
                assert!(y.iter().all(|y| y.abs() <= (2.0 / hidden as f32).sqrt() + 1e-6), "{y:?}");
            }
            // Without signs, feature 0 is the mean.
            let mean = Rotation::centred(hidden).apply(&x)[0] / (hidden as f32).sqrt();
            assert!((mean - 1.0 / hidden as f32).abs() < 1e-6, "{mean}");
        }
    }
}

#[test]
fn texts_are_compared_in_windows_and_what_does_not_fit_is_counted() {
    let model = model().rotated();
    let ids = encode(&model, TEXT);
    let mut quantised = quantise(&model, &ids, &Options::new(16)).expect("the model fits");
    let report = eval(&model, &quantised, &ids[..49]).expect("in range");
    // 16 + 16 + 16 tokens; the last one alone predicts nothing.
    assert_eq!((report.tokens, report.windows, report.float_losses.len()), (48, 3, 45));
    assert!(report.overflows.is_empty());
    let names = |sites: &[SiteHeadroom]| sites.iter().map(|site| site.site.clone()).collect::<Vec<_>>();
    assert_eq!(names(&report.headroom), names(&report.text_headroom));
    assert!(report.text_headroom.iter().all(|site| site.headroom_bits > 0.0), "{:?}", report.text_headroom);
    for site in &report.sites {
        assert_eq!(site.layers.len(), model.config.layers);
        assert!(site.layers.iter().all(|&error| error < 0.02), "{site:?}");
    }
    // Inputs of one window leave their range: that window is listed, the others are compared.
    let ends = &mut quantised.ends;
    let coarser = 10 - ends.embedding.shift;
    ends.embedding.shift = 10;
    let mut embedding: Vec<i16> = ends.embedding_weights.matrix.data.iter().map(|e| e >> coarser).collect();
    let once = |at: &usize| ids[..48].iter().filter(|&&id| id == ids[*at]).count() == 1;
    let at = (16..32).find(once).expect("some token of the second window stands there only");
    embedding[ids[at] as usize] = i16::MAX;
    ends.embedding_weights.matrix.data = embedding.into();
    let report = eval(&model, &quantised, &ids[..48]).expect("other windows fit");
    let [overflow] = &report.overflows[..] else { panic!("{:?}", report.overflows) };
    assert_eq!((overflow.window, overflow.part), (1, Part::Layer(0)));
    assert!(overflow.what.starts_with("input: value "), "{}", overflow.what);
    assert_eq!((report.tokens, report.windows), (32, 3));
}

/// The head's integers choose as the floats do, and are the embedding's where the head is tied.
#[test]
fn the_ends_are_integers_too() {
    for model in [model(), bundled_adder().expect("the asset is bundled")] {
        let rotated = model.rotated();
        let ids: Vec<u32> = (0..12).map(|i| i * 7 % model.config.vocab as u32).collect();
        let quantised = quantise(&rotated, &ids, &Options::new(12)).expect("the model fits");
        let ends = &quantised.ends;
        assert_eq!(model.config.tied, ends.head_weights.matrix == ends.embedding_weights.matrix);
        let float = model.forward(&ids).expect("known ids");
        let d = model.config.shape.hidden;
        let last = quantised.boundaries(&ids).expect("in range").pop().expect("one more than layers");
        let head = quantised.head(&last[..12 * d]).expect("in range");
        let unit = f64::from(ends.logit_frac).exp2();
        let spread = float.iter().fold(0.0f32, |max, l| max.max(l.abs()));
        for (float, fixed) in float.iter().zip(&head.logits) {
            let error = (*fixed as f64 / unit - f64::from(*float)).abs();
            assert!(error < 0.01 * f64::from(spread), "{float} became {}", *fixed as f64 / unit);
        }
    }
}

#[test]
fn quantisation_is_deterministic() {
    let model = model();
    let ids = encode(&model, TEXT);
    for weight_bits in [8, 16] {
        let options = Options { weight_bits, ..Options::new(16) };
        let [a, b] = [0, 1].map(|_| quantise(&model, &ids, &options).expect("the model fits"));
        assert_eq!((a.spec, a.blocks, a.ends), (b.spec, b.blocks, b.ends));
    }
}

#[test]
fn padding_is_the_models_own_and_counted() {
    let model = model();
    let quantised = quantise(&model, &[], &Options::new(16)).expect("random ids calibrate too");
    assert_eq!(quantised.pad(&[5, 6]).expect("they fit")[..4], [5, 6, 0, 0]);
    assert_eq!(quantised.embed(&[5]).expect("it fits").len(), 16 * 128);
    let error = quantised.pad(&[5; 17]).expect_err("too many");
    assert!(matches!(error, ForwardError::TooManyTokens { given: 17, limit: 16 }), "{error}");
    let error = eval(&model, &quantised, &[5]).expect_err("too few");
    assert!(matches!(error, EvalError::TooFewTokens { given: 1 }), "{error}");
}

#[test]
fn out_of_range_values_are_errors_that_name_layer_and_site() {
    let model = model();
    let mut quantised = quantise(&model, &[], &Options::new(16)).expect("random ids calibrate too");
    let FeedForward::Gated { up_shift, .. } = &mut quantised.spec.scales.feed_forward else {
        panic!("a Llama")
    };
    *up_shift = 4;
    let error = quantised.boundaries(&encode(&model, "Alice was")).expect_err("up overflows");
    let EvalError::Range { part, source: ExecError::OutOfRange { site, .. } } = &error else {
        panic!("{error}")
    };
    assert_eq!((*part, *site), (Part::Layer(0), Site::Up));
    assert!(error.to_string().starts_with("layer 0: up: value "), "{error}");
}

#[test]
fn options_are_checked() {
    let model = model();
    let refuse = |change: fn(&mut Options), name: &str| {
        let mut options = Options::new(16);
        change(&mut options);
        let error = quantise(&model, &[], &options).expect_err(name);
        assert!(matches!(&error, QuantiseError::Option { option, .. } if *option == name), "{error}");
    };
    refuse(|o| o.weight_bits = 12, "weight_bits");
    refuse(|o| o.tokens = 0, "tokens");
    refuse(|o| o.tokens = 129, "tokens");
    refuse(|o| o.positions = 17, "positions");
    refuse(|o| o.headroom_bits = f64::NAN, "headroom_bits");
    refuse(|o| o.silu_in_bits = 17, "silu_in_bits");
    refuse(|o| o.extra_channels = 1000, "extra_channels");
}
