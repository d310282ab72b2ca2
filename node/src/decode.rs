//! Greedy decoding in integers: the reference executor, run until prompt and answer agree.

use lamina_circuits::model::Part;
use lamina_verifier::bundle::{Prompt, Whole};

use crate::{
    engine::{self, PartTrace, Pass},
    failure::{Failure, Kind, Result},
    progress::Bar,
    source::IntegerModel,
};

impl IntegerModel {
    /// Runs all parts: the streams between them, and the token after every position.
    fn run(&self, pass: &Pass, bar: &Bar, name: &str) -> Result<(Vec<Vec<i32>>, Vec<u32>)> {
        let (mut streams, mut tokens): (Vec<Vec<i32>>, _) = (vec![], vec![]);
        let layers = (0..self.layers()).map(Part::Layer);
        for part in std::iter::once(Part::Embedding).chain(layers).chain([Part::Head]) {
            bar.begin(0, format!("{name}, {part}"))?;
            let weights = self.weights.get(&part);
            let weights =
                weights.ok_or_else(|| Failure::new(Kind::Input, format_args!("the model has no {part}")))?;
            let x = streams.last().map_or(&[][..], Vec::as_slice);
            match engine::run(&self.params.of(part), weights, part, pass, x)? {
                PartTrace::Head(trace) => tokens = trace.tokens,
                trace => streams.push(trace.stream().to_vec()),
            }
        }
        Ok((streams, tokens))
    }
}

/// A prompt's greedy continuation.
pub struct Decoded {
    /// Generated ids.
    pub answer: Vec<u32>,
    /// The pass that proves them.
    pub pass: Pass,
    /// The streams of that pass: what leaves every part but the head.
    pub streams: Vec<Vec<i32>>,
    /// Passes that it took.
    pub passes: usize,
}

/// Continues `prompt` by at most `most` tokens, or until the text ends.
///
/// Every pass gives the greedy token at all positions at once; fed back, at least one more of them is right
/// (Jacobi iteration, arXiv:2305.10427), so that it takes at most `most` passes, and mostly fewer.
///
/// # Errors
/// A value leaves its range, or the user stopped it.
pub fn greedy(
    model: &IntegerModel,
    whole: &Whole,
    prompt: &[u32],
    most: usize,
    bar: &Bar,
) -> Result<Decoded> {
    whole.check(&Prompt::Open(prompt.to_vec()), &vec![0; most])?;
    let padding = model.padding;
    let mut answer = vec![padding; most];
    for round in 1.. {
        let pass = Pass {
            ids: whole.ids(prompt, &answer, padding),
            positions: whole.read(prompt.len(), answer.len()),
        };
        let (streams, mut tokens) = model.run(&pass, bar, &format!("generating, pass {round}"))?;
        tokens.truncate(answer.len());
        // Up to here the answer was fed as it came out: these tokens are right, and one more.
        let right = answer.iter().zip(&tokens).take_while(|(fed, token)| fed == token).count() + 1;
        let right = right.min(tokens.len());
        let ended = model.end_of_text.and_then(|end| tokens[..right].iter().position(|&token| token == end));
        let length = ended.map_or(tokens.len(), |at| at + 1);
        let settled = right >= length && answer.len() == length;
        if settled {
            return Ok(Decoded { answer: tokens, pass, streams, passes: round });
        }
        tokens.truncate(length);
        answer = tokens;
    }
    unreachable!("every pass settles one more token")
}
