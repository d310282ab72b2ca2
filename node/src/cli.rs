//! The command line: what can be asked, and the help that teaches it.

use std::{ops::Range, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use lamina_model::Options;

const OVERVIEW: &str = "\
Lamina proves that a language model with hidden weights gave this answer to this prompt,
whole or block by block on machines that nobody trusts, and checks such proofs in milliseconds.

All of the following on a small bundled model, in seconds:
  lamina demo
Commit to a model's weights once (M.lamina/card.json is public), answer, verify:
  lamina publish --model M.gguf
  lamina generate --model M.gguf --prompt \"Hello\" --max-tokens 8 --prove --out answer.bundle
  lamina verify answer.bundle --card M.lamina/card.json --prompt \"Hello\"
Blocks alone:
  lamina prove --published M.lamina --layers 0.. --prompt \"Hello\" --out proofs
  lamina verify --card M.lamina/card.json proofs/*.proof";

const EXIT_CODES: &str = "\
Exit codes:
    0  done; for `verify`: every proof holds
    1  usage: the command line makes no sense
    2  bad input: model, text, card or key material is wrong or does not fit
    3  rejected: a proof, a card or a publication does not verify
    4  files: something could not be read or written, or exists already (see --force)
    5  device: --backend cuda, and there is no CUDA device, or it failed
  130  interrupted; no file is left half-written, finished slices are kept

Files under a `secret` folder let their reader see weights or activations: they are created
for their owner only (mode 0600) and never needed to verify. Progress goes to standard
error, and only to a terminal. Results go to standard output; with --json as one JSON object.";

/// Proofs of transformer inference with hidden weights.
#[derive(Debug, Parser)]
#[command(name = "lamina", version, about, long_about = OVERVIEW, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Print the result as one JSON object on standard output
    #[arg(long, global = true, help_heading = "Every command")]
    pub json: bool,
    /// Show no progress
    #[arg(long, short, global = true, help_heading = "Every command")]
    pub quiet: bool,
    /// Keep keys, reference strings and the demo's publication here [LAMINA_CACHE, else the user's cache]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Every command")]
    pub cache: Option<PathBuf>,
    /// Replace files that exist
    #[arg(long, global = true, help_heading = "Every command")]
    pub force: bool,
    /// What proves
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        value_enum,
        default_value = "auto",
        help_heading = "Every command"
    )]
    pub backend: BackendChoice,
}

/// What proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum BackendChoice {
    /// The first CUDA device, else the CPU; says which and why, and goes on with the CPU where the device fails
    Auto,
    /// The CPU
    Cpu,
    /// The first CUDA device, or an error
    Cuda,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Prove and verify a small bundled model, then show forgeries being rejected
    #[command(after_help = "\
Needs no argument and no download. Publishes the bundled model, continues a prompt by eight
tokens, proves embedding, four blocks and head with hidden boundaries between them, verifies the
bundle, then tampers with a weight, an activation, a boundary, a proof byte and a token and shows
the error that rejects each. Exits with 3 if any of them is accepted.

The demo draws its own reference string, whose secret it could have kept: it proves nothing
to anyone else.

  lamina demo
  lamina demo --json | jq .slices")]
    Demo(DemoArgs),
    /// Show how a model's blocks would be laid out, and what a proof costs
    #[command(after_help = "\
  lamina plan                                   the bundled model
  lamina plan --model SmolLM2.gguf --tokens 32
  lamina plan --model SmolLM2.gguf --tokens 32 --weight-bits 8 --json")]
    Plan(PlanArgs),
    /// Compare the fixed-point model with the float model on a text
    #[command(after_help = "\
Cuts the text into windows of --tokens, each a prompt of its own, and reports the perplexity of
both models, how often their next tokens agree, the error of every site, and the room that is
left below each site's limit, in bits: for the text that the scales were chosen on and for this
one. --plot draws the errors layer by layer. A window in which a value exceeds its limit can't
be proved: it is listed, and left out of the figures. Then publish with --calibrate on a text
like it, or with more --headroom.

  lamina eval
  lamina eval --model SmolLM2.gguf --text shakespeare.txt --tokens 512 --plot error.svg
  lamina eval --model SmolLM2.gguf --text shakespeare.txt --tokens 32 --count 4096 --weight-bits 8")]
    Eval(EvalArgs),
    /// Commit to a model's weights: a public card, range proofs, and a secret package for provers
    #[command(after_help = "\
Writes to --out:

  card.json      public: scales, keys, one commitment a weight column
  tokenizer.json public: text to ids, covered by the card
  srs*.bin       public: what verifiers need of the reference string
  ranges/        public: one proof a slice that all committed weights are in range
  secret/        for provers only: blinding values and integer weights

The whole model is published, embedding and head with it, for prompts and answers of --tokens
in all; with --layers only those blocks are, without answers.
Interrupted or repeated with the same arguments, it goes on where it stopped.

  lamina publish --model SmolLM2.gguf --out smol.lamina
  lamina publish --model SmolLM2.gguf --tokens 64 --answer 16
  lamina publish --model SmolLM2.gguf --out smol.lamina --layers 0..2 --weight-bits 8 --tokens 64")]
    Publish(PublishArgs),
    /// Continue a prompt; with --prove, prove every slice and write a bundle
    #[command(after_help = "\
Without --prove: the text that the integer model gives, and no proof.

With --prove: proves embedding, all blocks and head on one pass over prompt and answer, and writes
a bundle: the answer with the proofs of all slices. Parts stand in BUNDLE.parts until it is whole;
killed or repeated with the same arguments, it goes on where it stopped and redoes nothing finished.
The parts' `secret/` holds activations; it goes when the bundle is whole.

  lamina generate --model M.gguf --prompt \"Hello\" --max-tokens 8
  lamina generate --model M.gguf --prompt \"Hello\" --max-tokens 8 --prove --out answer.bundle

On several machines, each with the publication and the same --request:

  lamina generate ... --request R --slices 0..16 --prove --out a.bundle
  lamina generate ... --request R --slices 16.. --receive a.bundle.parts --prove --out b.bundle
  lamina join --card M.lamina/card.json a.bundle.parts b.bundle.parts --out answer.bundle

--receive takes the boundary between them, with its blinding values, from the other part's secrets.
With --hide-prompt the ids stay behind commitments; BUNDLE.opening is for the client who asked.

Clients that sample need a model published with --open-logits: its bundles prove all logits.

  lamina generate ... --sample \"a seed that the client drew\" --temperature 0.8 --top-p 0.95")]
    Generate(GenerateArgs),
    /// Assemble a bundle from parts proved on different machines
    #[command(after_help = "\
  lamina join --card M.lamina/card.json a.bundle.parts b.bundle.parts --out answer.bundle

Says which slices are missing, proved twice, of another answer, or do not meet at their boundary.")]
    Join(JoinArgs),
    /// Prove blocks of a published model on a prompt
    #[command(after_help = "\
Runs the model in integers up to the last layer asked for and proves the layers asked for.
Writes one `layer-I.proof` a layer: public, all that a verifier needs besides the card.
Between layers the activations stay hidden; `secret/` holds what the prover of the next
layer needs (activations and their blinding values).
Interrupted or repeated with the same arguments, it skips the layers that are finished.

  lamina prove --published M.lamina --layer 3 --prompt \"Hello\" --out proofs
  lamina prove --published M.lamina --layers 0.. --prompt \"Hello\" --out proofs

With --open-input or --open-output the activations at that end are public: boundary-I.json.")]
    Prove(ProveArgs),
    /// Verify a bundle or proofs against a card
    #[command(after_help = "\
A bundle is verified whole and its text is printed: the tokens are the greedy continuation of the
prompt under the model with this card. With --prompt the prompt must be this one; without, it is
the bundle's. Slices may come from different nodes; --node asks for one.

Where logits are open, --sample checks that every token was chosen as the client asked, and
without it the probability of each is shown; --logits writes all of them for a sampler of yours.

  lamina verify answer.bundle --card M.lamina/card.json --prompt \"Hello\" --request R
  lamina verify answer.bundle --card M.lamina/card.json --opening answer.bundle.opening --prompt \"Hello\"
  lamina verify answer.bundle --card M.lamina/card.json --sample \"the seed\" --temperature 0.8 --top-p 0.95

All layers of the card are verified as one chain; fewer are verified one by one, and each
boundary between neighbours is compared. What is not given as an option is taken from the
proofs and reported as claimed.

  lamina verify --card M.lamina/card.json proofs/layer-3.proof
  lamina verify --card M.lamina/card.json --model ID --request R --node N proofs/*.proof
  lamina verify --card M.lamina/card.json --check-key --allow-insecure-srs proofs/*.proof")]
    Verify(VerifyArgs),
    /// Say what a file is: a card, a proof, a reference string, a key, a model
    #[command(after_help = "\
Reads any file that lamina writes or reads and prints what is public about it. Never prints
weights, activations or blinding values. --html draws a bundle to one page that needs nothing
else: its chain and the checks that link it, and, from BUNDLE.figures.json beside it, timeline
and cost by stage. What is shown is what the bundle claims: `lamina verify` checks it.

  lamina inspect answer.bundle --card M.lamina/card.json
  lamina inspect answer.bundle --card M.lamina/card.json --html answer.html
  lamina inspect M.lamina/card.json
  lamina inspect proofs/layer-3.proof --card M.lamina/card.json --json")]
    Inspect(InspectArgs),
    /// Reference strings: generate a development one, import a ceremony's, list
    #[command(after_help = "\
Proofs are only as sound as the reference string: use one from a ceremony with many participants.

  lamina srs import powersOfTau28_hez_final_16.ptau --ceremony \"Hermez\"
  lamina srs import kzg_bn254_16.srs
  lamina srs insecure --k 14
  lamina srs info")]
    Srs {
        /// What to do.
        #[command(subcommand)]
        command: SrsCommand,
    },
    /// Time the prover on a real block or on a random one of any shape
    #[command(after_help = "\
The timed proof is always verified; `verified` in the result says so.

  lamina bench block --model SmolLM2.gguf --layer 0 --tokens 32 --json
  lamina bench shape --hidden 768 --ffn 3072 --heads 12 --kv-heads 12 --tokens 64 --json
  lamina bench shape --hidden 128 --ffn 344 --heads 4 --kv-heads 2 --tokens 32 --stock
  lamina bench generate --model SmolLM2.gguf --prompt-tokens 24 --new-tokens 8 --json
  lamina bench model-shape --arch gpt2 --layers 12 --hidden 768 --ffn 3072 --heads 12 --vocab 50257 --tokens 16")]
    Bench {
        /// What to time.
        #[command(subcommand)]
        command: BenchCommand,
    },
}

/// `lamina demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Text to run the model on
    #[arg(long, default_value = DEMO_PROMPT, hide_default_value = true)]
    pub prompt: String,
    /// Publish anew instead of reusing the publication of an earlier run
    #[arg(long)]
    pub fresh: bool,
}

/// The demo's text: with eight more tokens just under 32.
pub const DEMO_PROMPT: &str = "The old man walked down to the river every morning and looked at the water.";

/// Where a model comes from and how it is quantised.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// GGUF file, safetensors file or directory; the bundled model if absent
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// How it becomes integers.
    #[command(flatten)]
    pub quantise: QuantiseArgs,
}

/// How a model becomes integers.
#[derive(Clone, Debug, Args)]
pub struct QuantiseArgs {
    /// Bits of a weight
    #[arg(long, value_name = "BITS", default_value_t = 16, value_parser = weight_bits)]
    pub weight_bits: u32,
    /// Tokens a proof is for; shorter prompts are padded
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = positive)]
    pub tokens: usize,
    /// Generated tokens that one proof of the head is for
    #[arg(long, value_name = "N", default_value_t = Options::DEFAULT_POSITIONS, value_parser = positive)]
    pub answer: usize,
    /// Prove all logits of every generated token, for clients that sample; bundles grow by 6 bytes each
    #[arg(long)]
    pub open_logits: bool,
    /// Text that the scales are chosen on; a bundled one if absent
    #[arg(long, value_name = "TEXTFILE")]
    pub calibrate: Option<PathBuf>,
    /// Room above the largest value of that text, in bits (0 to 4)
    #[arg(long, value_name = "BITS", default_value_t = Options::DEFAULT_HEADROOM_BITS)]
    pub headroom: f64,
}

/// `lamina plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
}

/// `lamina eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Text to compare on; a bundled one if absent
    #[arg(long, value_name = "TEXTFILE")]
    pub text: Option<PathBuf>,
    /// Tokens of the text to compare, in windows of --tokens; one window if absent
    #[arg(long, value_name = "N", value_parser = positive)]
    pub count: Option<usize>,
    /// Draw errors, perplexity and room to this SVG file
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
}

/// `lamina publish`.
#[derive(Debug, Args)]
pub struct PublishArgs {
    /// GGUF file, safetensors file or directory, or `bundled`
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Where the publication goes; `NAME.lamina` here if absent
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// How it becomes integers.
    #[command(flatten)]
    pub quantise: QuantiseArgs,
    /// Layers to publish: `4`, `0..4` (the end is not included) or `2..`
    #[arg(long, value_name = "A..B", value_parser = layers)]
    pub layers: Option<LayerRange>,
    /// Name in the card; the file's name if absent
    #[arg(long)]
    pub name: Option<String>,
    /// Publisher in the card: 64 hexadecimal digits, or any text, which is hashed
    #[arg(long, value_name = "ID", default_value = "anonymous")]
    pub publisher: String,
    /// Reference string to use: its identifier or the first digits of it; see `lamina srs info`
    #[arg(long, value_name = "ID")]
    pub srs: Option<String>,
    /// Use a development reference string if there is no other: such proofs prove nothing
    #[arg(long)]
    pub insecure_srs: bool,
}

/// `lamina prove`.
#[derive(Debug, Args)]
pub struct ProveArgs {
    /// Check that the publication is of this model: GGUF file, safetensors file or directory, or `bundled`
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// What `lamina publish` wrote
    #[arg(long, value_name = "DIR")]
    pub published: PathBuf,
    /// The layer to prove, counted from 0
    #[arg(long, value_name = "I", required_unless_present = "layers", conflicts_with = "layers")]
    pub layer: Option<usize>,
    /// The layers to prove: `0..4` (the end is not included) or `2..`
    #[arg(long, value_name = "A..B", value_parser = layers)]
    pub layers: Option<LayerRange>,
    /// What to run the model on
    #[command(flatten)]
    pub prompt: PromptArgs,
    /// Where the proofs go
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Make the activations that enter the first layer public
    #[arg(long)]
    pub open_input: bool,
    /// Make the activations that leave the last layer public
    #[arg(long)]
    pub open_output: bool,
    /// The request that is answered: 64 hexadecimal digits, or any text, which is hashed; random if absent
    #[arg(long, value_name = "ID")]
    pub request: Option<String>,
    /// The node that answers: 64 hexadecimal digits, or any text, which is hashed
    #[arg(long, value_name = "ID", default_value = "anonymous")]
    pub node: String,
}

/// A prompt, as text or as ids.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct PromptArgs {
    /// The text to continue
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Its token ids instead, for models without a tokenizer
    #[arg(long, value_name = "ID,ID,...", value_delimiter = ',')]
    pub ids: Option<Vec<u32>>,
}

/// How tokens are chosen from open logits.
#[derive(Clone, Debug, Args)]
pub struct SamplingArgs {
    /// Sample with this seed, any text that the client drew; greedy if absent
    #[arg(long, value_name = "SEED")]
    pub sample: Option<String>,
    /// Divide logits by this first
    #[arg(long, value_name = "T", default_value_t = 1.0, requires = "sample")]
    pub temperature: f64,
    /// Choose among the K most probable tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 0, requires = "sample")]
    pub top_k: usize,
    /// Choose among the most probable tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 1.0, requires = "sample")]
    pub top_p: f64,
}

/// `lamina generate`.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// The model: GGUF file, safetensors file or directory, or `bundled`
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// What `lamina publish` wrote; `NAME.lamina` here if absent
    #[arg(long, value_name = "DIR")]
    pub published: Option<PathBuf>,
    /// What to continue
    #[command(flatten)]
    pub prompt: PromptArgs,
    /// Tokens to generate at most; as many as the published head proves if absent
    #[arg(long, value_name = "N", value_parser = positive)]
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Prove it
    #[arg(long)]
    pub prove: bool,
    /// Where the bundle goes
    #[arg(long, value_name = "BUNDLE")]
    pub out: Option<PathBuf>,
    /// Prove these slices only: `0..16` (the end is not included) or `16..`; slice 0 is the embedding
    #[arg(long, value_name = "A..B", value_parser = layers)]
    pub slices: Option<LayerRange>,
    /// Take the boundary that enters the first of --slices from this folder of parts
    #[arg(long, value_name = "PARTS", requires = "slices")]
    pub receive: Option<PathBuf>,
    /// Keep the prompt's ids behind commitments; their opening goes to BUNDLE.opening
    #[arg(long)]
    pub hide_prompt: bool,
    /// Memory to use at most, in gigabytes: as many slices are proved at a time as fit, at most one a core
    #[arg(long, value_name = "GB")]
    pub memory: Option<f64>,
    /// The request that is answered: 64 hexadecimal digits, or any text, which is hashed; random if absent
    #[arg(long, value_name = "ID")]
    pub request: Option<String>,
    /// The node that answers: 64 hexadecimal digits, or any text, which is hashed
    #[arg(long, value_name = "ID", default_value = "anonymous")]
    pub node: String,
}

/// `lamina join`.
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// The model's card
    #[arg(long, value_name = "CARD")]
    pub card: PathBuf,
    /// Folders of parts, in any order
    #[arg(value_name = "PARTS", required = true)]
    pub parts: Vec<PathBuf>,
    /// Where the bundle goes
    #[arg(long, value_name = "BUNDLE")]
    pub out: PathBuf,
}

/// `lamina verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The model's card
    #[arg(long, value_name = "CARD")]
    pub card: PathBuf,
    /// A bundle, or proofs in any order
    #[arg(value_name = "BUNDLE|ENVELOPE", required = true)]
    pub files: Vec<PathBuf>,
    /// The prompt that a bundle must answer
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Its token ids instead, for models without a tokenizer
    #[arg(long, value_name = "ID,ID,...", value_delimiter = ',', conflicts_with = "prompt")]
    pub ids: Option<Vec<u32>>,
    /// The opening of a bundle's hidden prompt; with --prompt or --ids
    #[arg(long, value_name = "FILE")]
    pub opening: Option<PathBuf>,
    /// How the client asked for tokens to be chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Write a bundle's open logits here (safetensors): distances from the greatest, `[tokens, vocabulary]`
    #[arg(long, value_name = "FILE")]
    pub logits: Option<PathBuf>,
    /// Accept a card that uses a development reference string
    #[arg(long)]
    pub allow_insecure_srs: bool,
    /// Compute the verifying key from the card's public parameters and compare
    #[arg(long)]
    pub check_key: bool,
    /// Model identifier that the card must have
    #[arg(long, value_name = "ID")]
    pub model: Option<String>,
    /// Request that the proofs must answer
    #[arg(long, value_name = "ID")]
    pub request: Option<String>,
    /// Node that the proofs must come from
    #[arg(long, value_name = "ID")]
    pub node: Option<String>,
    /// Tokens, before padding, that the proofs must be for
    #[arg(long, value_name = "N")]
    pub tokens: Option<u32>,
    /// Public activations that must enter the first slice (the `boundary-I.json` of an open input)
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Public activations that must leave the last slice (the `boundary-I.json` of an open output)
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Verifier's reference string; `srs.bin` beside the card if absent
    #[arg(long, value_name = "FILE")]
    pub srs: Option<PathBuf>,
    /// Accept a card without range proofs beside it
    #[arg(long)]
    pub trust_publisher: bool,
}

/// `lamina inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// For a bundle or a proof: its model's card, to read the boundaries too
    #[arg(long, value_name = "CARD")]
    pub card: Option<PathBuf>,
    /// For a bundle, with --card: draw chain, timeline and costs to this page
    #[arg(long, value_name = "FILE.html", requires = "card")]
    pub html: Option<PathBuf>,
    /// For --html: what `lamina eval --json` printed, to draw the quantisation error of every site
    #[arg(long, value_name = "EVAL.json", requires = "html")]
    pub eval: Option<PathBuf>,
}

/// `lamina srs`.
#[derive(Debug, Subcommand)]
pub enum SrsCommand {
    /// Draw a development reference string: anyone who ran this could forge proofs
    Insecure {
        /// It serves circuits of up to `2^k` rows
        #[arg(long, value_parser = clap::value_parser!(u32).range(4..=22))]
        k: u32,
    },
    /// Import halo2 parameters or a snarkjs `.ptau` file, and check it by pairings
    Import {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Name of the ceremony that it comes from
        #[arg(long, value_name = "NAME")]
        ceremony: Option<String>,
        /// Keep at most `2^k` points
        #[arg(long, value_parser = clap::value_parser!(u32).range(4..=22))]
        k: Option<u32>,
    },
    /// List the reference strings in the cache, or describe one file
    Info {
        /// A reference string's file
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

/// `lamina bench`.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// A block of a real model on real text
    Block {
        /// The model.
        #[command(flatten)]
        model: ModelArgs,
        /// The layer, counted from 0
        #[arg(long, value_name = "I", default_value_t = 0)]
        layer: usize,
        /// What to time.
        #[command(flatten)]
        timing: TimingArgs,
    },
    /// A block of any shape with random weights
    Shape(ShapeArgs),
    /// A whole model on real text: published (once, in the cache), generated, proved and verified
    Generate(BenchGenerateArgs),
    /// A whole model of any shape with random weights
    ModelShape(ModelShapeArgs),
}

/// `lamina bench generate`.
#[derive(Clone, Debug, Args)]
pub struct BenchGenerateArgs {
    /// GGUF file, safetensors file or directory; the bundled model if absent
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// Tokens of the prompt, from a bundled text
    #[arg(long, value_name = "P", default_value_t = 24, value_parser = positive)]
    pub prompt_tokens: usize,
    /// Tokens generated
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive)]
    pub new_tokens: usize,
    /// Bits of a weight
    #[arg(long, value_name = "BITS", default_value_t = 16, value_parser = weight_bits)]
    pub weight_bits: u32,
    /// With a head that opens all logits
    #[arg(long)]
    pub open_logits: bool,
    /// Publish with range proofs, and time both
    #[arg(long)]
    pub publish: bool,
}

/// Whose operations a model of random weights has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arch {
    /// Gated SiLU layers, rotary positions
    Llama,
    /// Plain GELU layers, learned positions, biases
    Gpt2,
    /// As llama, with biases of queries, keys and values
    Qwen2,
}

/// `lamina bench model-shape`.
#[derive(Clone, Debug, Args)]
pub struct ModelShapeArgs {
    /// Whose operations
    #[arg(long, value_name = "NAME", value_enum, default_value = "llama")]
    pub arch: Arch,
    /// Blocks
    #[arg(long, value_name = "N", value_parser = positive)]
    pub layers: usize,
    /// Width of the residual stream
    #[arg(long, value_name = "D", value_parser = positive)]
    pub hidden: usize,
    /// Width of the feed-forward layer
    #[arg(long, value_name = "F", value_parser = positive)]
    pub ffn: usize,
    /// Query heads
    #[arg(long, value_name = "H", value_parser = positive)]
    pub heads: usize,
    /// Key and value heads; as many as query heads if absent
    #[arg(long, value_name = "K", value_parser = positive)]
    pub kv_heads: Option<usize>,
    /// Ids of the vocabulary
    #[arg(long, value_name = "V", value_parser = positive)]
    pub vocab: usize,
    /// Tokens of prompt and answer
    #[arg(long, value_name = "T", value_parser = positive)]
    pub tokens: usize,
    /// Generated tokens
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive)]
    pub new_tokens: usize,
    /// Publish with range proofs, and time both
    #[arg(long)]
    pub publish: bool,
}

/// `lamina bench shape`.
#[derive(Clone, Debug, Args)]
pub struct ShapeArgs {
    /// Whose operations
    #[arg(long, value_name = "NAME", value_enum, default_value = "llama")]
    pub arch: Arch,
    /// Width of the residual stream
    #[arg(long, value_name = "D", value_parser = positive)]
    pub hidden: usize,
    /// Width of the feed-forward layer
    #[arg(long, value_name = "F", value_parser = positive)]
    pub ffn: usize,
    /// Query heads
    #[arg(long, value_name = "H", value_parser = positive)]
    pub heads: usize,
    /// Key and value heads, a divisor of the query heads; as many as those if absent
    #[arg(long, value_name = "K", value_parser = positive)]
    pub kv_heads: Option<usize>,
    /// Tokens
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = positive)]
    pub tokens: usize,
    /// Features of one head; hidden / heads if absent
    #[arg(long, value_name = "N", value_parser = positive)]
    pub head_dim: Option<usize>,
    /// Bits of a weight
    #[arg(long, value_name = "BITS", default_value_t = 16, value_parser = weight_bits)]
    pub weight_bits: u32,
    /// What to time.
    #[command(flatten)]
    pub timing: TimingArgs,
}

/// What `lamina bench` times.
#[derive(Clone, Copy, Debug, Args)]
pub struct TimingArgs {
    /// Prove so often and report the run of median time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive)]
    pub repeat: usize,
    /// Time publishing too: commitments to the weights and the proof of their ranges
    #[arg(long)]
    pub publish: bool,
    /// Time the stock prover on the same circuit too
    #[arg(long)]
    pub stock: bool,
}

/// A range of layers or slices whose end may be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerRange {
    start: usize,
    end: Option<usize>,
}

impl LayerRange {
    /// One layer.
    pub fn one(layer: usize) -> Self {
        LayerRange { start: layer, end: Some(layer.saturating_add(1)) }
    }

    /// The layers of a model of `count` layers; `None` when there are not so many.
    pub fn of(self, count: usize) -> Option<Range<usize>> {
        let range = self.start..self.end.unwrap_or(count);
        (range.start < range.end && range.end <= count).then_some(range)
    }
}

impl From<Range<usize>> for LayerRange {
    fn from(range: Range<usize>) -> Self {
        LayerRange { start: range.start, end: Some(range.end) }
    }
}

impl std::fmt::Display for LayerRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.end {
            Some(end) => write!(f, "{}..{end}", self.start),
            None => write!(f, "{}..", self.start),
        }
    }
}

fn layers(text: &str) -> Result<LayerRange, String> {
    let number = |text: &str| text.parse::<usize>().map_err(|_| format!("`{text}` is not a layer number"));
    match text.split_once("..") {
        None => number(text).map(LayerRange::one),
        Some((start, end)) => {
            let start = if start.is_empty() { 0 } else { number(start)? };
            let end = if end.is_empty() { None } else { Some(number(end)?) };
            if end.is_some_and(|end| end <= start) {
                return Err("the range is empty: the end is not included".into());
            }
            Ok(LayerRange { start, end })
        }
    }
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a number of at least 1 is needed".into()),
        Ok(number) => Ok(number),
    }
}

fn weight_bits(text: &str) -> Result<u32, String> {
    match text {
        "8" => Ok(8),
        "16" => Ok(16),
        _ => Err("8 or 16 bits".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn layer_ranges_say_what_they_mean() {
        let of = |text, count| layers(text).map(|range| range.of(count));
        assert_eq!(of("2", 4), Ok(Some(2..3)));
        assert_eq!(of("1..3", 4), Ok(Some(1..3)));
        assert_eq!(of("2..", 4), Ok(Some(2..4)));
        assert_eq!(of("..2", 4), Ok(Some(0..2)));
        assert_eq!(of("4..", 4), Ok(None));
        assert_eq!(of("0..5", 4), Ok(None));
        assert!(layers("3..3").is_err());
        assert!(layers("x").is_err());
    }
}
