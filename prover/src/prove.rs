//! The protocol: one proof that the stock verifier accepts.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use ff::{BatchInvert, Field};
use halo2_proofs::{
    halo2curves::bn256::{Bn256, G1, G1Affine, G2Affine},
    plonk::verify_proof,
    poly::kzg::{
        commitment::{KZGCommitmentScheme, ParamsKZG},
        multiopen::VerifierSHPLONK,
        strategy::SingleStrategy,
    },
    transcript::{
        Blake2bRead, Blake2bWrite, Challenge255, EncodedChallenge, Transcript, TranscriptReadBuffer,
        TranscriptWrite, TranscriptWriterBuffer,
    },
};
use lamina_circuits::{
    Fr,
    witness::{Column, Step, Witness},
};

use crate::{
    backend::{Backend, Columns, Combination, Kernels, Setup, Shape, Table, normalise},
    blinding::{Blinding, Stream, wipe},
    derivation::Derivation,
    error::{BackendError, ProveError, SetupError},
    expression::{Identity, Node, Source, source_of},
    key::ProvingKey,
    progress::{Progress, Timings},
    setup::Bases,
    tape::Values,
};

/// A phase-0 advice column whose usable rows are committed to already (protocol.md section 7).
///
/// The witness still provides the column's usable rows; the prover re-randomises the commitment at the
/// cost of a few scalar multiplications, whatever the column's size.
#[derive(Clone)]
pub struct Committed {
    /// The advice index.
    pub column: usize,
    /// `C = [w(tau)]`.
    pub commitment: G1Affine,
    /// The blinding values in rows `u..n` under `commitment`: secret.
    pub tail: Vec<Fr>,
}

impl fmt::Debug for Committed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { column, commitment, tail: _ } = self;
        f.debug_struct("Committed")
            .field("column", column)
            .field("commitment", commitment)
            .finish_non_exhaustive()
    }
}

/// A proof and what the link proof needs to know about it.
#[derive(Clone)]
pub struct Proved {
    /// The proof, as the stock verifier reads it.
    pub proof: Vec<u8>,
    /// For each committed column, in the order given: `delta_i`, `i = u..n`. Secret.
    pub deltas: Vec<Vec<Fr>>,
    /// For each committed column: `C' = C + sum_i delta_i [L_i(tau)]`, as in the proof.
    pub commitments: Vec<G1Affine>,
    /// Where the time went.
    pub timings: Timings,
}

impl fmt::Debug for Proved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.proof.len();
        f.debug_struct("Proved")
            .field("proof_bytes", &bytes)
            .field("timings", &self.timings)
            .finish_non_exhaustive()
    }
}

/// Proves statements of one key with one backend.
pub struct Prover<'a, B: Backend> {
    key: &'a ProvingKey,
    backend: &'a B,
    bases: Bases,
    tau_g2: G2Affine,
    loaded: B::Key,
    identity: Identity,
    queries: Queries,
    sets: Vec<RotationSet>,
    /// By phase.
    derivations: Mutex<HashMap<u8, Arc<Derived<B>>>>,
    self_check: bool,
    /// Whether a proof of this key on this backend has been verified, where the backend asks for that.
    verified: AtomicBool,
    #[cfg(feature = "cheat")]
    false_claim: Option<FalseClaim>,
    /// Multiples of the blinding rows' bases.
    rows: Table,
    /// Multiples of what late blinding values stand before: the first powers of `tau`, and `[tau^n]` where it is known.
    late: Table,
}

/// A derivation that has been compiled.
struct Derived<B: Backend> {
    /// What it was made of.
    steps: Vec<Step>,
    /// The advice columns that it gives.
    columns: Vec<usize>,
    compiled: B::Derivation,
}

/// A false evaluation: which one of those that the proof claims, in the order of the proof, without that of the
/// random polynomial.
#[cfg(feature = "cheat")]
#[derive(Clone, Copy, Debug)]
pub enum FalseClaim {
    /// The true value and this.
    Add(usize, Fr),
    /// The value with which the identity holds at `x` whatever the witness; the identity must be affine in it.
    Solve(usize),
}

/// By phase.
type Derivations<B> = HashMap<u8, Arc<Derived<B>>>;

/// What runs beside a proof: given the fresh commitments of the committed columns and, secret, their deltas.
pub type Beside<'b> = &'b (dyn Fn(&[G1Affine], &[Vec<Fr>]) + Sync);

/// How many random coefficients the vanishing argument's random polynomial has.
///
/// Under SHPLONK it masks nothing (its evaluation and its commitment are both revealed, and no other
/// polynomial's value depends on it), so it only has to be fresh (protocol.md section 8.1).
const RANDOM_COEFFICIENTS: usize = 4;

const STAGES: usize = 9;

impl<'a, B: Backend> Prover<'a, B> {
    /// Loads `pk` into `backend`.
    ///
    /// `srs` needs `2^k` points. Proofs blind the quotient limbs, which needs `[tau^n]`: take parameters of
    /// more points (some seconds of work for the smaller Lagrange basis), or of exactly `2^k` and add the point
    /// with [`Prover::with_next_power`].
    ///
    /// # Errors
    /// [`SetupError`] if the parameters do not fit.
    pub fn new(srs: &'a ParamsKZG<Bn256>, pk: &'a ProvingKey, backend: &'a B) -> Result<Self, SetupError> {
        Self::from_bases(Bases::new(srs, pk.k())?, srs.s_g2(), pk, backend)
    }

    /// The same from bases that have been read before; `tau_g2` is `[tau]` in the second group.
    ///
    /// # Errors
    /// [`SetupError::Rows`] if the bases are of another size than the key.
    pub fn from_bases(
        bases: Bases,
        tau_g2: G2Affine,
        pk: &'a ProvingKey,
        backend: &'a B,
    ) -> Result<Self, SetupError> {
        if bases.k != pk.k() {
            return Err(SetupError::Rows { expected: pk.k(), actual: bases.k });
        }
        let identity = identity_of(pk);
        let loaded = backend.load(&Setup {
            shape: shape_of(pk, &identity),
            bases: &bases,
            degree: pk.degree(),
            usable: pk.usable_rows(),
            fixed: &pk.fixed,
            sigma: &pk.sigma,
        })?;
        let rows = Table::new(&bases.lagrange[pk.usable_rows()..]);
        let late = late_table(&bases);
        Ok(Prover {
            key: pk,
            backend,
            bases,
            tau_g2,
            loaded,
            queries: Queries::new(pk, products_of(pk), &identity),
            sets: rotation_sets(pk, products_of(pk)),
            identity,
            derivations: Mutex::default(),
            rows,
            late,
            self_check: true,
            verified: AtomicBool::new(!backend.verify_first()),
            #[cfg(feature = "cheat")]
            false_claim: None,
        })
    }

    /// Adds `[tau^n]`, checked by a pairing.
    ///
    /// # Errors
    /// [`SetupError::NextPower`] if it is another point.
    pub fn with_next_power(mut self, next_power: G1Affine) -> Result<Self, SetupError> {
        self.bases = self.bases.with_next_power(next_power, self.tau_g2)?;
        self.late = late_table(&self.bases);
        Ok(self)
    }

    /// A prover that hands out proofs of false statements, for tests that see them refused.
    #[cfg(feature = "cheat")]
    pub fn without_self_check(mut self) -> Self {
        self.self_check = false;
        self
    }

    /// A prover that claims a false evaluation and opens what it committed to (S13), for the same tests.
    #[cfg(feature = "cheat")]
    pub fn claiming(mut self, claim: FalseClaim) -> Self {
        self.false_claim = Some(claim);
        self.without_self_check()
    }

    /// The commitment bases in use.
    pub fn bases(&self) -> &Bases {
        &self.bases
    }

    /// Proves one statement.
    ///
    /// # Transcript
    /// That of halo2-axiom 0.5.3 with SHPLONK and Blake2b, instances absorbed as scalars.
    ///
    /// Where the backend asks for it ([`Backend::verify_first`]), the first proof is verified before it is returned; of
    /// several that are under way at the same time, each.
    ///
    /// # Errors
    /// [`ProveError`]; a witness that does not satisfy the circuit is [`ProveError::Unsatisfied`], and so are values that a
    /// faulty device makes contradict one another. A device that fails is [`ProveError::Backend`].
    pub fn prove(
        &self,
        witness: &dyn Witness,
        instances: &[Vec<Fr>],
        committed: &[Committed],
        blinding: &mut Blinding,
        progress: &dyn Progress,
    ) -> Result<Proved, ProveError> {
        self.prove_with(witness, instances, committed, blinding, progress, None)
    }

    /// The same; `beside` is called with the fresh commitments of the committed columns and their deltas as soon as they are
    /// known, on a thread of its own, beside the rest of the proof: for the link proof, which needs nothing else.
    ///
    /// # Errors
    /// As [`Prover::prove`], which may come after `beside` was called.
    pub fn prove_with(
        &self,
        witness: &dyn Witness,
        instances: &[Vec<Fr>],
        committed: &[Committed],
        blinding: &mut Blinding,
        progress: &dyn Progress,
        beside: Option<Beside<'_>>,
    ) -> Result<Proved, ProveError> {
        self.check(instances, committed)?;
        // Whatever the outcome.
        let _wiped = Wiped(self.backend);
        let proved = Run {
            prover: self,
            transcript: Blake2bWrite::<_, _, Challenge255<_>>::init(Vec::new()),
            progress,
            stage: "witness",
            done: 0,
            timings: Timings::default(),
            started: Instant::now(),
        }
        .prove(witness, instances, committed, blinding, beside)?;
        if self.self_check && !self.verified.load(Ordering::Acquire) {
            if !self.accepts(instances, &proved.proof) {
                return Err(ProveError::WrongProof { backend: self.backend.name() });
            }
            self.verified.store(true, Ordering::Release);
        }
        Ok(proved)
    }

    /// Whether the stock verifier accepts.
    fn accepts(&self, instances: &[Vec<Fr>], proof: &[u8]) -> bool {
        // Of the bases the verifier reads the first point alone.
        let params = ParamsKZG::<Bn256>::setup(0, rand_core::OsRng).from_parts(
            self.bases.k,
            vec![self.bases.monomial[0]],
            Some(Vec::new()),
            G2Affine::generator(),
            self.tau_g2,
        );
        let instances: Vec<&[Fr]> = instances.iter().map(Vec::as_slice).collect();
        let mut transcript = Blake2bRead::<_, G1Affine, Challenge255<_>>::init(proof);
        verify_proof::<KZGCommitmentScheme<Bn256>, VerifierSHPLONK<'_, Bn256>, _, _, _>(
            &params,
            self.key.vk(),
            SingleStrategy::new(&params),
            &[&instances],
            &mut transcript,
        )
        .is_ok()
    }

    fn blinding_rows(&self) -> usize {
        (1 << self.key.k()) - self.key.usable_rows()
    }

    /// Hands columns to the backend, and has it commit to those that are not committed to, without their tails.
    fn take(&self, given: Vec<(usize, Column)>, committed: &[Committed]) -> Result<Taken<B>, BackendError> {
        let (indices, list): (Vec<usize>, Vec<Column>) = given.into_iter().unzip();
        self.queue_commit(&indices, self.backend.columns(&self.loaded, list)?, committed)
    }

    /// The same with copies of the columns: those that are committed to as such that may last.
    fn take_copies(
        &self,
        given: &[(usize, Column)],
        committed: &[Committed],
    ) -> Result<Taken<B>, BackendError> {
        let (mut lasting, mut others) = (Vec::new(), Vec::new());
        for (index, values) in given {
            let lasts = place_of(committed, *index).is_some();
            if lasts { &mut lasting } else { &mut others }.push(values.clone());
        }
        let mut lasting = self.backend.lasting_columns(&self.loaded, lasting)?.into_iter();
        let mut others = self.backend.columns(&self.loaded, others)?.into_iter();
        let next = |(index, _): &(usize, Column)| {
            if place_of(committed, *index).is_some() { lasting.next() } else { others.next() }
        };
        let indices: Vec<usize> = given.iter().map(|(index, _)| *index).collect();
        self.queue_commit(&indices, given.iter().filter_map(next).collect(), committed)
    }

    fn queue_commit(
        &self,
        indices: &[usize],
        columns: Vec<B::Column>,
        committed: &[Committed],
    ) -> Result<Taken<B>, BackendError> {
        let fresh: Vec<&B::Column> = indices
            .iter()
            .zip(&columns)
            .filter(|(index, _)| place_of(committed, **index).is_none())
            .map(|(_, column)| column)
            .collect();
        let pending = self.backend.queue_commit(&self.loaded, &fresh)?;
        Ok(Taken { columns, pending })
    }

    /// The randomness of a proof.
    fn stream<'b>(
        &self,
        blinding: &'b mut Blinding,
        instances: &[Vec<Fr>],
        first: &[(usize, Column)],
        committed: &[Committed],
    ) -> Result<Stream<'b>, ProveError> {
        let stream = blinding.start(self.key.vk().transcript_repr(), instances, first, committed)?;
        if stream.blind_limbs && self.bases.next_power.is_none() {
            return Err(ProveError::NoNextPower);
        }
        Ok(stream)
    }

    /// Draws all blinding values of a proof, in the order in which the stock prover draws them.
    fn draws(&self, stream: &mut Stream<'_>) -> Draws {
        let cs = self.key.vk().cs();
        let phases = cs.advice_column_phase();
        let last_phase = phases.iter().copied().max().unwrap_or(0);
        let of_phase = |of: u8, stream: &mut Stream<'_>| {
            let columns = phases.iter().filter(|phase| **phase == of).count();
            let tails = (0..columns).map(|_| stream.scalars(self.blinding_rows())).collect();
            stream.skip(columns);
            tails
        };
        let tails = (0..=last_phase).map(|phase| of_phase(phase, stream)).collect();
        let of_product = |stream: &mut Stream<'_>| {
            let tail = stream.scalars(cs.blinding_factors());
            stream.skip(1);
            tail
        };
        let products = (0..products_of(self.key)).map(|_| of_product(stream)).collect();
        Draws { tails, products, late: self.late_blinds(stream) }
    }

    /// What tails add to commitments; what a committed column has of its tail is what is new in it.
    fn blinds(&self, indices: &[usize], committed: &[Committed], mut tails: Vec<Vec<Fr>>) -> Blinds {
        let shares = self.rows.multiply(&tails, Kernels::Detected);
        let mut deltas: Vec<Vec<Fr>> = committed.iter().map(|_| Vec::new()).collect();
        let mut sums: Vec<G1> = committed.iter().map(|one| one.commitment.into()).collect();
        let mut of_fresh = Vec::with_capacity(indices.len());
        for ((index, tail), share) in indices.iter().zip(&mut tails).zip(shares) {
            match place_of(committed, *index) {
                Some(at) => {
                    deltas[at] = tail.clone();
                    for (t, published) in tail.iter_mut().zip(&committed[at].tail) {
                        *t += published;
                    }
                    sums[at] += share;
                }
                None => of_fresh.push(share),
            }
        }
        Blinds { tails, deltas, shares: of_fresh, commitments: normalise(&sums) }
    }

    /// Draws what [`LateBlinds`] holds, without what it adds to commitments.
    fn late_blinds(&self, stream: &mut Stream<'_>) -> LateBlinds {
        let random = if stream.stock {
            stream.skip(1);
            Vec::new()
        } else {
            stream.scalars(RANDOM_COEFFICIENTS.min(1 << self.key.k()))
        };
        let mut limbs = stream.scalars(self.key.degree() - 1);
        if !stream.blind_limbs {
            wipe(&mut limbs);
        }
        if let Some(last) = limbs.last_mut() {
            *last = Fr::ZERO;
        }
        LateBlinds { random, random_point: None, limb_shares: vec![G1Affine::default(); limbs.len()], limbs }
    }

    /// What late blinding values add to commitments: needs nothing of the proof.
    fn share_late(&self, late: &mut LateBlinds) {
        // Before the bases of `late_table`: of the random polynomial, then of each limb.
        let mut lists = vec![late.random.clone()];
        // Without `[tau^n]` no limb is blinded: that is refused before anything is drawn.
        if self.bases.next_power.is_some() {
            let mut previous = Fr::ZERO;
            for blind in &late.limbs {
                let mut list = vec![Fr::ZERO; late_powers(&self.bases) + 1];
                list[0] = -std::mem::replace(&mut previous, *blind);
                list[late_powers(&self.bases)] = *blind;
                lists.push(list);
            }
        }
        let mut points = self.late.multiply(&lists, Kernels::Detected).into_iter();
        lists.iter_mut().for_each(|list| wipe(list));
        late.random_point = points.next().filter(|_| !late.random.is_empty());
        late.limb_shares.iter_mut().zip(points).for_each(|(share, point)| *share = point);
    }

    /// What the columns of later phases follow from, where the backend computes them.
    fn derivations(&self, witness: &dyn Witness) -> Result<Derivations<B>, ProveError> {
        let phases = self.key.vk().cs().advice_column_phase();
        let last = if self.backend.derives() { phases.iter().copied().max().unwrap_or(0) } else { 0 };
        let derived = |phase| Some(self.derivation(phase, witness.steps(phase)?).map(|it| (phase, it)));
        (1..=last).filter_map(derived).collect()
    }

    /// What these steps were compiled to, once for all proofs whose witnesses name the same.
    fn derivation(&self, phase: u8, steps: Vec<Step>) -> Result<Arc<Derived<B>>, ProveError> {
        let known = || self.derivations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(derived) = known().get(&phase).filter(|derived| derived.steps == steps) {
            return Ok(derived.clone());
        }
        let derivation = Derivation::new(self.key.vk().cs(), self.key.usable_rows(), phase, &steps)?;
        let columns = derivation.columns.clone();
        let compiled = self.backend.compile(&self.loaded, derivation);
        let compiled = compiled.map_err(|source| ProveError::Backend { stage: "witness", source })?;
        let derived = Arc::new(Derived { steps, columns, compiled });
        known().insert(phase, derived.clone());
        Ok(derived)
    }

    fn check(&self, instances: &[Vec<Fr>], committed: &[Committed]) -> Result<(), ProveError> {
        let (cs, usable) = (self.key.vk().cs(), self.key.usable_rows());
        if instances.len() != cs.num_instance_columns() {
            return Err(ProveError::InstanceColumns {
                expected: cs.num_instance_columns(),
                actual: instances.len(),
            });
        }
        for (column, values) in instances.iter().enumerate() {
            if values.len() > usable {
                return Err(ProveError::TooManyRows {
                    kind: "instance",
                    column,
                    usable,
                    actual: values.len(),
                });
            }
        }
        let phases = cs.advice_column_phase();
        for (at, one) in committed.iter().enumerate() {
            let problem = if phases.get(one.column) != Some(&0) {
                "not an advice column of phase 0"
            } else if one.tail.len() != (1 << self.key.k()) - usable {
                "its tail is not one value for each unusable row"
            } else if committed[..at].iter().any(|c| c.column == one.column) {
                "named twice"
            } else {
                continue;
            };
            return Err(ProveError::Committed { column: one.column, problem });
        }
        Ok(())
    }
}

type Blake = Blake2bWrite<Vec<u8>, G1Affine, Challenge255<G1Affine>>;

/// One proof under way.
struct Run<'p, 'a, B: Backend> {
    prover: &'p Prover<'a, B>,
    transcript: Blake,
    progress: &'p dyn Progress,
    stage: &'static str,
    done: usize,
    timings: Timings,
    started: Instant,
}

/// Which of the four parts a step counts to.
#[derive(Clone, Copy)]
enum Part {
    Witness,
    Commit,
    Quotient,
    Open,
}

/// The columns of the proof.
struct Held<C> {
    advice: Vec<Option<C>>,
    instance: Vec<C>,
    product: Vec<C>,
}

impl<C> Held<C> {
    fn view(&self) -> Columns<'_, C> {
        Columns {
            advice: self.advice.iter().map(Option::as_ref).collect(),
            instance: self.instance.iter().collect(),
            product: self.product.iter().collect(),
        }
    }
}

/// All blinding values of a proof that have not been used yet.
struct Draws {
    /// By phase: one for each advice column.
    tails: Vec<Vec<Vec<Fr>>>,
    /// Of the permutation products.
    products: Vec<Vec<Fr>>,
    late: LateBlinds,
}

impl Draws {
    /// Takes the tails of a phase.
    fn of_phase(&mut self, phase: u8) -> Vec<Vec<Fr>> {
        self.tails.get_mut(usize::from(phase)).map(std::mem::take).unwrap_or_default()
    }
}

impl Drop for Draws {
    fn drop(&mut self) {
        self.tails.iter_mut().flatten().chain(&mut self.products).for_each(|values| wipe(values));
    }
}

/// The blinding of what comes after the permutation products, and what it adds to commitments.
struct LateBlinds {
    /// Coefficients of the random polynomial; none where the stock prover's is wanted.
    random: Vec<Fr>,
    random_point: Option<G1Affine>,
    /// As [`Limbs`] has them; zeros where limbs are not blinded.
    limbs: Vec<Fr>,
    limb_shares: Vec<G1Affine>,
}

impl Drop for LateBlinds {
    fn drop(&mut self) {
        wipe(&mut self.random);
        wipe(&mut self.limbs);
    }
}

/// The limbs with their blinding: limb `i` is `limbs[i] + blinds[i] X^n - blinds[i-1]`.
struct Limbs<P> {
    polys: Vec<P>,
    /// One value for each limb, the last zero.
    blinds: Vec<Fr>,
}

impl<P> Drop for Limbs<P> {
    fn drop(&mut self) {
        wipe(&mut self.blinds);
    }
}

/// Has the backend overwrite what a proof leaves behind, when the proof's columns are gone.
struct Wiped<'b, B: Backend>(&'b B);

impl<B: Backend> Drop for Wiped<'_, B> {
    fn drop(&mut self) {
        self.0.wipe();
    }
}

/// A witness's columns. Field elements are overwritten when it is dropped; integers belong to whoever made them.
struct Given(Vec<(usize, Column)>);

impl Drop for Given {
    fn drop(&mut self) {
        for (_, values) in &mut self.0 {
            if let Column::Field(values) = values {
                wipe(values);
            }
        }
    }
}

/// Columns that the backend has taken over, not blinded yet.
struct Taken<B: Backend> {
    columns: Vec<B::Column>,
    /// The commitments of those that had none before.
    pending: B::Pending,
}

/// The blinding values of some columns.
struct Blinds {
    /// One for each column.
    tails: Vec<Vec<Fr>>,
    /// One for each committed column.
    deltas: Vec<Vec<Fr>>,
    /// What they add to the commitments of columns that are not committed to.
    shares: Vec<G1Affine>,
    /// Of the committed columns: with what is new in their tails.
    commitments: Vec<G1Affine>,
}

impl Drop for Blinds {
    fn drop(&mut self) {
        self.tails.iter_mut().chain(&mut self.deltas).for_each(|values| wipe(values));
    }
}

/// Which of the committed columns this is.
fn place_of(committed: &[Committed], index: usize) -> Option<usize> {
    committed.iter().position(|one| one.column == index)
}

/// A polynomial that the opening argument opens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opened {
    Column(Source),
    Quotient,
    Random,
}

/// Polynomials that are opened at the same points, in the verifier's order.
struct RotationSet {
    /// Rotations modulo `n`, ascending.
    rotations: Vec<u64>,
    opened: Vec<Opened>,
}

impl<B: Backend> Run<'_, '_, B> {
    fn stage(&mut self, name: &'static str) -> Result<(), ProveError> {
        if self.progress.cancelled() {
            return Err(ProveError::Cancelled);
        }
        self.progress.stage(name, self.done, STAGES);
        self.stage = name;
        self.prover.backend.stage(name);
        self.done = (self.done + 1).min(STAGES);
        Ok(())
    }

    /// For `map_err`: names the stage.
    fn failed(&self) -> impl Fn(BackendError) -> ProveError + use<B> {
        let stage = self.stage;
        move |source| ProveError::Backend { stage, source }
    }

    fn lap(&mut self, part: Part, name: &'static str) {
        let now = Instant::now();
        let ms = (now - self.started).as_secs_f64() * 1e3;
        self.started = now;
        *match part {
            Part::Witness => &mut self.timings.witness_ms,
            Part::Commit => &mut self.timings.commit_ms,
            Part::Quotient => &mut self.timings.quotient_ms,
            Part::Open => &mut self.timings.open_ms,
        } += ms;
        self.timings.steps.push((name, ms));
    }

    fn squeeze(&mut self) -> Fr {
        self.transcript.squeeze_challenge().get_scalar()
    }

    fn write_points(&mut self, points: &[G1Affine]) -> Result<(), ProveError> {
        points
            .iter()
            .try_for_each(|point| self.transcript.write_point(*point).map_err(ProveError::Transcript))
    }

    fn write_scalars(&mut self, scalars: &[Fr]) -> Result<(), ProveError> {
        scalars
            .iter()
            .try_for_each(|scalar| self.transcript.write_scalar(*scalar).map_err(ProveError::Transcript))
    }

    fn prove(
        mut self,
        witness: &dyn Witness,
        instances: &[Vec<Fr>],
        committed: &[Committed],
        blinding: &mut Blinding,
        beside: Option<Beside<'_>>,
    ) -> Result<Proved, ProveError> {
        let prover = self.prover;
        let (backend, key, loaded) = (prover.backend, prover.key, &prover.loaded);
        let cs = key.vk().cs();
        let repr = key.vk().transcript_repr();
        self.transcript.common_scalar(repr).map_err(ProveError::Transcript)?;
        for value in instances.iter().flatten() {
            self.transcript.common_scalar(*value).map_err(ProveError::Transcript)?;
        }

        self.stage("witness")?;
        let mut first = Given(self.phase_columns(witness, 0, &[])?);
        self.lap(Part::Witness, "witness, phase 0");
        let instance = instances.iter().cloned().map(Column::Field).collect();
        let mut columns = Held {
            advice: (0..cs.num_advice_columns()).map(|_| None).collect(),
            instance: backend.columns(loaded, instance).map_err(self.failed())?,
            product: Vec::new(),
        };
        self.stage("commit")?;
        let indices: Vec<usize> = first.0.iter().map(|(index, _)| *index).collect();
        let (taken, blinds, draws) = if backend.is_elsewhere() {
            // The host draws blinding values, and multiplies by them, while the device commits to what they blind.
            let taken = prover.take_copies(&first.0, committed).map_err(self.failed())?;
            let mut draws = prover.draws(&mut prover.stream(blinding, instances, &first.0, committed)?);
            let blinds = prover.blinds(&indices, committed, draws.of_phase(0));
            prover.share_late(&mut draws.late);
            (taken, blinds, draws)
        } else {
            let mut stream = prover.stream(blinding, instances, &first.0, committed)?;
            self.lap(Part::Commit, "seed");
            let mut draws = prover.draws(&mut stream);
            let blinds = prover.blinds(&indices, committed, draws.of_phase(0));
            self.lap(Part::Commit, "blinding rows");
            prover.share_late(&mut draws.late);
            let taken = prover.take(std::mem::take(&mut first.0), committed).map_err(self.failed())?;
            (taken, blinds, draws)
        };
        drop(first);
        let derivations = prover.derivations(witness)?;
        let mut ahead = B::Ahead::default();
        let (deltas, commitments) =
            self.place(&indices, taken, blinds, committed, &mut columns, &mut ahead)?;
        let (proof, timings) = std::thread::scope(|scope| {
            let beside = beside.map(|beside| scope.spawn(|| beside(&commitments, &deltas)));
            let proved = self.finish(witness, &derivations, columns, ahead, draws);
            match beside.map(|beside| beside.join()) {
                Some(Err(panic)) => std::panic::resume_unwind(panic),
                _ => proved,
            }
        })?;
        Ok(Proved { proof, deltas, commitments, timings })
    }

    /// What follows the commitments of phase 0.
    fn finish(
        mut self,
        witness: &dyn Witness,
        derivations: &Derivations<B>,
        mut columns: Held<B::Column>,
        mut ahead: B::Ahead,
        mut draws: Draws,
    ) -> Result<(Vec<u8>, Timings), ProveError> {
        let prover = self.prover;
        let (backend, key, loaded) = (prover.backend, prover.key, &prover.loaded);
        let cs = key.vk().cs();
        let n = 1usize << key.k();
        let mut challenges = Vec::new();
        let phases = cs.advice_column_phase();
        let last_phase = phases.iter().copied().max().unwrap_or(0);
        for phase in 0..=last_phase {
            if phase > 0 {
                self.stage("witness")?;
                match derivations.get(&phase) {
                    Some(derivation) => {
                        let tails = draws.of_phase(phase);
                        self.derive(derivation, &challenges, &mut columns, &mut ahead, tails)?;
                    }
                    None => {
                        let given = self.phase_columns(witness, phase, &challenges)?;
                        self.lap(Part::Witness, "witness, later phases");
                        self.stage("commit")?;
                        let indices: Vec<usize> = given.iter().map(|(index, _)| *index).collect();
                        let taken = prover.take(given, &[]).map_err(self.failed())?;
                        let blinds = prover.blinds(&indices, &[], draws.of_phase(phase));
                        self.place(&indices, taken, blinds, &[], &mut columns, &mut ahead)?;
                    }
                }
            }
            for (index, of) in cs.challenge_phase().into_iter().enumerate() {
                if of == phase {
                    let challenge = self.squeeze();
                    if challenges.len() <= index {
                        challenges.resize(index + 1, Fr::ZERO);
                    }
                    challenges[index] = challenge;
                }
            }
            self.lap(Part::Commit, "advice");
        }

        let _theta = self.squeeze();
        let beta = self.squeeze();
        let gamma = self.squeeze();
        self.stage("permutation")?;
        let permuted: Vec<Source> = cs.permutation().get_columns().iter().map(source_of).collect();
        let sets: Vec<&[Source]> = permuted.chunks(key.degree() - 2).collect();
        self.permute(&mut columns, &sets, [beta, gamma], std::mem::take(&mut draws.products), &mut ahead)?;

        let late = &mut draws.late;
        let (random, random_commitment) = self.random_poly(late, n).map_err(self.failed())?;
        self.write_points(&[random_commitment])?;
        self.lap(Part::Commit, "random polynomial");
        let y = self.squeeze();

        self.stage("quotient")?;
        challenges.extend([beta, gamma, y]);
        let columns = columns.view();
        let values = prover.identity.tape.values(&challenges);
        let polys = backend.quotient(loaded, &columns, ahead, &values).map_err(self.failed())?;
        self.lap(Part::Quotient, "quotient");
        self.stage("commit to the quotient")?;
        let limbs = self.commit_limbs(polys, late)?;
        self.lap(Part::Quotient, "limb commitments");

        let x = self.squeeze();
        self.stage("evaluate")?;
        let (evaluations, vanishing) = self.evaluate(&columns, &values, &limbs, &random, x)?;
        self.lap(Part::Open, "evaluations");

        self.stage("open")?;
        // Whether the witness satisfies the circuit is looked at while a device opens.
        let satisfied = || {
            let queries = &prover.queries.list;
            !prover.self_check || identity_at(&prover.identity, &values, queries, &evaluations) == vanishing
        };
        self.open(&columns, &limbs, &random, x, satisfied)?;
        self.progress.stage("done", STAGES, STAGES);
        backend.stage("done");
        Ok((self.transcript.finalize(), self.timings))
    }

    /// The permutation's products, and their commitments.
    fn permute(
        &mut self,
        columns: &mut Held<B::Column>,
        sets: &[&[Source]],
        [beta, gamma]: [Fr; 2],
        tails: Vec<Vec<Fr>>,
        ahead: &mut B::Ahead,
    ) -> Result<(), ProveError> {
        let (backend, loaded) = (self.prover.backend, &self.prover.loaded);
        let products = backend.products(loaded, &columns.view(), sets, beta, gamma, tails);
        columns.product = products.map_err(self.failed())?;
        self.lap(Part::Commit, "permutation products");
        let products: Vec<_> = columns.product.iter().collect();
        let pending = backend.queue_commit(loaded, &products).map_err(self.failed())?;
        backend.begin_quotient(loaded, &columns.view(), ahead).map_err(self.failed())?;
        self.write_points(&normalise(&backend.points(pending).map_err(self.failed())?))?;
        self.lap(Part::Commit, "permutation commitments");
        Ok(())
    }

    fn phase_columns(
        &self,
        witness: &dyn Witness,
        phase: u8,
        challenges: &[Fr],
    ) -> Result<Vec<(usize, Column)>, ProveError> {
        let phases = self.prover.key.vk().cs().advice_column_phase();
        let expected: Vec<usize> = (0..phases.len()).filter(|&c| phases[c] == phase).collect();
        let columns = witness.columns(phase, challenges);
        let actual: Vec<usize> = columns.iter().map(|(index, _)| *index).collect();
        if expected != actual {
            return Err(ProveError::AdviceColumns { phase, expected, actual });
        }
        let usable = self.prover.key.usable_rows();
        for (column, values) in &columns {
            let actual = match values {
                Column::I16(v) => v.len(),
                Column::I32(v) => v.len(),
                Column::Field(v) => v.len(),
            };
            if actual > usable {
                return Err(ProveError::TooManyRows { kind: "advice", column: *column, usable, actual });
            }
        }
        Ok(columns)
    }

    /// Has the backend compute a phase's columns by its gates, blinds them, and commits to them.
    fn derive(
        &mut self,
        derivation: &Derived<B>,
        challenges: &[Fr],
        columns: &mut Held<B::Column>,
        ahead: &mut B::Ahead,
        tails: Vec<Vec<Fr>>,
    ) -> Result<(), ProveError> {
        let (backend, loaded) = (self.prover.backend, &self.prover.loaded);
        let derived = backend
            .derive(loaded, &columns.view(), &derivation.compiled, challenges, tails)
            .map_err(self.failed())?;
        self.lap(Part::Witness, "witness, later phases");
        self.stage("commit")?;
        let borrowed: Vec<&B::Column> = derived.iter().collect();
        let pending = backend.queue_commit(loaded, &borrowed).map_err(self.failed())?;
        for (index, column) in derivation.columns.iter().zip(derived) {
            columns.advice[*index] = Some(column);
        }
        backend.begin_quotient(loaded, &columns.view(), ahead).map_err(self.failed())?;
        self.write_points(&normalise(&backend.points(pending).map_err(self.failed())?))
    }

    /// Blinds a phase's columns and writes their commitments; returns the deltas and the commitments of the columns that were
    /// committed to before.
    fn place(
        &mut self,
        indices: &[usize],
        taken: Taken<B>,
        mut blinds: Blinds,
        committed: &[Committed],
        columns: &mut Held<B::Column>,
        ahead: &mut B::Ahead,
    ) -> Result<(Vec<Vec<Fr>>, Vec<G1Affine>), ProveError> {
        let (backend, loaded) = (self.prover.backend, &self.prover.loaded);
        let tails = std::mem::take(&mut blinds.tails);
        let blinded = backend.blind(loaded, taken.columns, tails).map_err(self.failed())?;
        for (index, column) in indices.iter().zip(blinded) {
            columns.advice[*index] = Some(column);
        }
        backend.begin_quotient(loaded, &columns.view(), ahead).map_err(self.failed())?;

        let commitments = std::mem::take(&mut blinds.commitments);
        let known: Vec<Option<G1Affine>> =
            indices.iter().map(|index| place_of(committed, *index).map(|at| commitments[at])).collect();
        // What is known already is written before what the device still computes.
        let first: Vec<G1Affine> = known.iter().map_while(|point| *point).collect();
        self.write_points(&first)?;
        let mut points = backend.points(taken.pending).map_err(self.failed())?;
        points.iter_mut().zip(&blinds.shares).for_each(|(point, share)| *point += share);
        let mut fresh = normalise(&points).into_iter();
        let rest: Vec<G1Affine> =
            known[first.len()..].iter().filter_map(|point| point.or_else(|| fresh.next())).collect();
        self.write_points(&rest)?;
        Ok((std::mem::take(&mut blinds.deltas), commitments))
    }

    fn random_poly(&self, late: &mut LateBlinds, n: usize) -> Result<(B::Poly, G1Affine), BackendError> {
        let prover = self.prover;
        if let Some(point) = late.random_point {
            let coefficients = std::mem::take(&mut late.random);
            return Ok((prover.backend.poly(&prover.loaded, coefficients)?, point));
        }
        let mut full = Vec::with_capacity(n);
        full.resize_with(n, || Fr::random(rand_core::OsRng));
        let poly = prover.backend.poly(&prover.loaded, full)?;
        let point = prover.backend.commit_polys(&prover.loaded, &[&poly])?[0];
        Ok((poly, point))
    }

    fn commit_limbs(
        &mut self,
        polys: Vec<B::Poly>,
        late: &mut LateBlinds,
    ) -> Result<Limbs<B::Poly>, ProveError> {
        let prover = self.prover;
        let borrowed: Vec<&B::Poly> = polys.iter().collect();
        let pending = prover.backend.queue_commit_polys(&prover.loaded, &borrowed).map_err(self.failed())?;
        let mut points = prover.backend.points(pending).map_err(self.failed())?;
        points.iter_mut().zip(&late.limb_shares).for_each(|(point, share)| *point += share);
        self.write_points(&normalise(&points))?;
        Ok(Limbs { polys, blinds: std::mem::take(&mut late.limbs) })
    }

    /// Writes all evaluations; returns those of the columns and what the identity must be.
    fn evaluate(
        &mut self,
        columns: &Columns<'_, B::Column>,
        #[cfg_attr(not(feature = "cheat"), expect(unused_variables, reason = "for provers that lie"))]
        scalars: &Values,
        limbs: &Limbs<B::Poly>,
        random: &B::Poly,
        x: Fr,
    ) -> Result<(Vec<Fr>, Fr), ProveError> {
        let prover = self.prover;
        let (backend, loaded) = (prover.backend, &prover.loaded);
        let Queries { list: queries, before_random, written } = &prover.queries;
        let values = backend.evaluate(loaded, columns, queries, x).map_err(self.failed())?;
        let polys: Vec<&B::Poly> = limbs.polys.iter().chain([random]).collect();
        let of_polys = backend.evaluate_polys(loaded, &polys, x).map_err(self.failed())?;
        let (random, of_limbs) = of_polys.split_last().ok_or(ProveError::Unsatisfied)?;
        let xn = x.pow_vartime([1u64 << prover.key.k()]);
        let quotient = of_limbs.iter().rev().fold(Fr::ZERO, |acc, value| acc * xn + value);
        let vanishing = quotient * (xn - Fr::ONE);
        #[cfg(feature = "cheat")]
        let values = match prover.false_claim {
            Some(claim) => {
                let identity = |values: &[Fr]| identity_at(&prover.identity, scalars, queries, values);
                claim.made(values, &identity, vanishing)
            }
            None => values,
        };
        self.write_scalars(&values[..*before_random])?;
        self.write_scalars(&[*random])?;
        self.write_scalars(&values[*before_random..*written])?;
        Ok((values, vanishing))
    }

    /// The SHPLONK opening.
    ///
    /// ```text
    /// N_s = sum_j y^j P_sj,    h = sum_s v^s floor(N_s / Z_s)
    /// W   = floor((sum_s v^s Z_(T\s)(u) N_s - Z_T(u) h) / (X - u)) / Z_(T\0)(u)
    /// ```
    /// where `Z_s` vanishes on the points of set `s` and `T` is the set of all points (Boneh, Drake, Fisch,
    /// Gabizon, 2020/081, section 4). Remainders of the divisions are exactly what the interpolation
    /// polynomials of the claimed values would remove, so those are never formed.
    ///
    /// `satisfied` is asked before anything of it is written, while a device computes.
    fn open(
        &mut self,
        columns: &Columns<'_, B::Column>,
        limbs: &Limbs<B::Poly>,
        random: &B::Poly,
        x: Fr,
        satisfied: impl FnOnce() -> bool,
    ) -> Result<(), ProveError> {
        let prover = self.prover;
        let (backend, loaded, sets) = (prover.backend, &prover.loaded, &prover.sets);
        let n = 1usize << prover.key.k();
        let omega = prover.key.vk().get_domain().get_omega();
        let xn = x.pow_vartime([n as u64]);
        let y = self.squeeze();
        let v = self.squeeze();

        let combinations: Vec<Combination<'_, B::Poly>> = sets
            .iter()
            .map(|set| {
                let mut combination =
                    Combination { columns: Vec::new(), polys: Vec::new(), sparse: Vec::new() };
                let mut power = Fr::ONE;
                for opened in &set.opened {
                    match opened {
                        Opened::Column(source) => combination.columns.push((*source, power)),
                        Opened::Random => combination.polys.push((random, power)),
                        Opened::Quotient => {
                            let mut scale = power;
                            let mut top = Fr::ZERO;
                            for (limb, blind) in limbs.polys.iter().zip(&limbs.blinds) {
                                combination.polys.push((limb, scale));
                                top += scale * blind;
                                scale *= xn;
                            }
                            if top != Fr::ZERO {
                                combination.sparse.push((n, top));
                                combination.sparse.push((0, -top * xn));
                            }
                        }
                    }
                    power *= y;
                }
                combination
            })
            .collect();
        let numerators = backend.combine(loaded, columns, &combinations).map_err(self.failed())?;
        self.lap(Part::Open, "opening combinations");

        let mut all: Vec<u64> = sets.iter().flat_map(|set| set.rotations.clone()).collect();
        all.sort_unstable();
        all.dedup();
        let points: Vec<Fr> = all.iter().map(|rotation| x * omega.pow_vartime([*rotation])).collect();
        // For each point the sets that it is in, and what their numerators are multiplied by.
        let factors = partial_fractions(sets, &all, &points).ok_or(ProveError::Unsatisfied)?;
        let scales: Vec<Fr> = powers(v).take(sets.len()).collect();
        let dividends: Vec<Combination<'_, B::Poly>> = factors
            .iter()
            .map(|factors| {
                let polys = factors.iter().map(|(set, factor)| (&numerators[*set], scales[*set] * factor));
                Combination { columns: Vec::new(), polys: polys.collect(), sparse: Vec::new() }
            })
            .collect();
        let dividends = backend.combine(loaded, columns, &dividends).map_err(self.failed())?;
        let terms: Vec<(&B::Poly, Fr)> = dividends.iter().zip(points.iter().copied()).collect();
        let h = backend.divide(loaded, &terms).map_err(self.failed())?;
        let pending = backend.queue_commit_polys(loaded, &[&h]).map_err(self.failed())?;
        if !satisfied() {
            return Err(ProveError::Unsatisfied);
        }
        self.write_points(&normalise(&backend.points(pending).map_err(self.failed())?))?;
        self.lap(Part::Open, "opening quotient");

        let u = self.squeeze();
        let vanish = |without: &[u64]| -> Fr {
            let left = all.iter().zip(&points).filter(|(rotation, _)| !without.contains(rotation));
            left.map(|(_, point)| u - point).product()
        };
        let mut scales: Vec<Fr> = sets.iter().map(|set| vanish(&set.rotations)).collect();
        // `u` meets one of the few points with probability 2^-250: then `W` is not defined.
        let first = Option::<Fr>::from(scales[0].invert()).ok_or(ProveError::Unsatisfied)?;
        for (scale, power) in scales.iter_mut().zip(powers(v)) {
            *scale *= power * first;
        }
        let mut polys: Vec<(&B::Poly, Fr)> = numerators.iter().zip(scales).collect();
        polys.push((&h, -vanish(&[]) * first));
        let linear = Combination { columns: Vec::new(), polys, sparse: Vec::new() };
        let linear = backend.combine(loaded, columns, &[linear]).map_err(self.failed())?;
        let witness = backend.divide(loaded, &[(&linear[0], u)]).map_err(self.failed())?;
        let point = backend.commit_polys(loaded, &[&witness]).map_err(self.failed())?;
        self.write_points(&point)?;
        self.lap(Part::Open, "opening witness");
        Ok(())
    }
}

/// What every proof of a key evaluates.
struct Queries {
    /// Columns at rotations: what is written, and what the identity reads besides.
    list: Vec<(Source, i32)>,
    /// How many are written before the random polynomial's evaluation.
    before_random: usize,
    /// How many are written.
    written: usize,
}

impl Queries {
    fn new(key: &ProvingKey, products: usize, identity: &Identity) -> Self {
        let cs = key.vk().cs();
        let last_rotation = -(cs.blinding_factors() as i32 + 1);
        let mut list: Vec<(Source, i32)> = Vec::new();
        let advice = cs.advice_queries().iter();
        list.extend(advice.map(|(column, at)| (Source::Advice(column.index()), at.0)));
        let fixed = cs.fixed_queries().iter();
        list.extend(fixed.map(|(column, at)| (Source::Fixed(column.index()), at.0)));
        let before_random = list.len();
        list.extend((0..key.sigma.len()).map(|at| (Source::Sigma(at), 0)));
        for set in 0..products {
            list.push((Source::Product(set), 0));
            list.push((Source::Product(set), 1));
            if set + 1 < products {
                list.push((Source::Product(set), last_rotation));
            }
        }
        let written = list.len();
        // For the prover's own check.
        let mut read: Vec<(Source, i32)> = Vec::new();
        for node in &identity.nodes {
            if let Node::Sum { linear, .. } = node {
                read.extend(linear.terms.iter().map(|(a, _)| (a.source, a.rotation)));
            }
        }
        read.sort_unstable();
        let mut seen: HashSet<_> = list.iter().copied().collect();
        list.extend(read.into_iter().filter(|query| seen.insert(*query)));
        Queries { list, before_random, written }
    }
}

/// Powers of `tau` that late blinding values stand before.
fn late_powers(bases: &Bases) -> usize {
    RANDOM_COEFFICIENTS.min(bases.monomial.len())
}

/// Multiples of those, and of `[tau^n]`.
fn late_table(bases: &Bases) -> Table {
    let powers = bases.monomial[..late_powers(bases)].iter().copied();
    Table::new(&powers.chain(bases.next_power).collect::<Vec<_>>())
}

/// Permutation products of a key's proofs.
fn products_of(key: &ProvingKey) -> usize {
    key.vk().cs().permutation().get_columns().len().div_ceil(key.degree() - 2)
}

/// What every proof of a key is made of.
pub(crate) fn shape_of<'i>(key: &ProvingKey, identity: &'i Identity) -> Shape<'i> {
    let cs = key.vk().cs();
    let products = products_of(key);
    let sets = rotation_sets(key, products);
    Shape {
        columns: cs.num_advice_columns() + cs.num_instance_columns(),
        products,
        openings: sets.len(),
        points: sets.iter().flat_map(|set| &set.rotations).collect::<HashSet<_>>().len(),
        identity,
    }
}

/// The identity of a key's proofs.
pub(crate) fn identity_of(key: &ProvingKey) -> Identity {
    Identity::new(key.vk().cs(), key.degree())
}

/// The identity's value, given those of the columns.
fn identity_at(identity: &Identity, scalars: &Values, queries: &[(Source, i32)], values: &[Fr]) -> Fr {
    let known: HashMap<(Source, i32), Fr> = queries.iter().copied().zip(values.iter().copied()).collect();
    let mut nodes: Vec<Fr> = Vec::with_capacity(identity.nodes.len());
    for node in &identity.nodes {
        let value = match node {
            Node::Product(a, b) => nodes[*a] * nodes[*b],
            Node::Sum { linear, terms } => {
                let atoms = linear.terms.iter().map(|(a, c)| {
                    known.get(&(a.source, a.rotation)).map_or(Fr::ZERO, |value| *value * scalars[*c])
                });
                let products = terms.iter().map(|(c, node)| nodes[*node] * scalars[*c]);
                scalars[linear.constant] + atoms.chain(products).sum::<Fr>()
            }
        };
        nodes.push(value);
    }
    nodes[identity.root]
}

#[cfg(feature = "cheat")]
impl FalseClaim {
    fn made(self, mut values: Vec<Fr>, identity: &dyn Fn(&[Fr]) -> Fr, vanishing: Fr) -> Vec<Fr> {
        match self {
            Self::Add(at, delta) => values[at] += delta,
            Self::Solve(at) => {
                let before = identity(&values);
                values[at] += Fr::ONE;
                let slope = identity(&values) - before;
                let step = Option::<Fr>::from(slope.invert()).unwrap_or(Fr::ZERO) * (vanishing - before);
                values[at] += step - Fr::ONE;
                assert_eq!(identity(&values), vanishing, "the identity is not affine in it");
            }
        }
        values
    }
}

/// `1 / Z_s = sum_t 1 / (prod_r (t - r) (X - t))`, `r` being the other points of the set: for each point its sets and `1 / prod_r (t - r)`.
/// `None` where two points are one: where `x` is zero.
fn partial_fractions(sets: &[RotationSet], all: &[u64], points: &[Fr]) -> Option<Vec<Vec<(usize, Fr)>>> {
    let mut factors: Vec<Vec<(usize, Fr)>> = vec![Vec::new(); all.len()];
    let mut product = Fr::ONE;
    for (rotation, (point, factors)) in all.iter().zip(points.iter().zip(&mut factors)) {
        for (at, set) in sets.iter().enumerate().filter(|(_, set)| set.rotations.contains(rotation)) {
            let others = all.iter().zip(points).filter(|(r, _)| set.rotations.contains(r) && *r != rotation);
            let factor: Fr = others.map(|(_, other)| *point - other).product();
            product *= factor;
            factors.push((at, factor));
        }
    }
    Option::<Fr>::from(product.invert())?;
    factors.iter_mut().flatten().map(|(_, factor)| factor).batch_invert();
    Some(factors)
}

fn powers(base: Fr) -> impl Iterator<Item = Fr> {
    std::iter::successors(Some(Fr::ONE), move |power| Some(*power * base))
}

/// Groups what is opened by its points, in the verifier's order of first appearance.
fn rotation_sets(key: &ProvingKey, products: usize) -> Vec<RotationSet> {
    let cs = key.vk().cs();
    let n = 1i64 << key.k();
    let last_rotation = -(cs.blinding_factors() as i32 + 1);
    let mut queries: Vec<(Opened, i32)> = Vec::new();
    for (column, at) in cs.advice_queries() {
        queries.push((Opened::Column(Source::Advice(column.index())), at.0));
    }
    for set in 0..products {
        queries.push((Opened::Column(Source::Product(set)), 0));
        queries.push((Opened::Column(Source::Product(set)), 1));
    }
    for set in (0..products.saturating_sub(1)).rev() {
        queries.push((Opened::Column(Source::Product(set)), last_rotation));
    }
    for (column, at) in cs.fixed_queries() {
        queries.push((Opened::Column(Source::Fixed(column.index())), at.0));
    }
    for at in 0..key.sigma.len() {
        queries.push((Opened::Column(Source::Sigma(at)), 0));
    }
    queries.push((Opened::Quotient, 0));
    queries.push((Opened::Random, 0));

    let mut polys: Vec<(Opened, Vec<u64>)> = Vec::new();
    for (opened, rotation) in queries {
        let rotation = i64::from(rotation).rem_euclid(n) as u64;
        match polys.iter_mut().find(|(other, _)| *other == opened) {
            Some((_, rotations)) => rotations.push(rotation),
            None => polys.push((opened, vec![rotation])),
        }
    }
    let mut sets: Vec<RotationSet> = Vec::new();
    for (opened, mut rotations) in polys {
        rotations.sort_unstable();
        rotations.dedup();
        match sets.iter_mut().find(|set| set.rotations == rotations) {
            Some(set) => set.opened.push(opened),
            None => sets.push(RotationSet { rotations, opened: vec![opened] }),
        }
    }
    sets
}
