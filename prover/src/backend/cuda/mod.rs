//! The backend for GPUs: every column stays on the device from the witness to the opening.

mod derive;
mod measure;
mod plan;
mod resident;
mod upload;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use ff::Field;
use halo2_proofs::halo2curves::bn256::G1;
use lamina_circuits::{Fr, witness::Column};
use lamina_kernels::{
    Ceilings, Cell, Code as DeviceCode, Column as DeviceColumn, Coset, Device, Instruction, Matrix, Msm, Ntt,
    Permutation, Place, PolyTerm, Program as DeviceProgram, Sums, Term,
};

pub use self::{
    derive::CudaDerivation,
    measure::{Measured, MeasuredStage},
    plan::Plan,
};
use self::{measure::Recording, resident::Resident};
use super::{
    Backend, Columns, Combination, Setup,
    cpu::vandermonde_inverse,
    program::{Code, Coefficient, Op, Operand, Program, Quotient, Slot},
    reference::coset_generator,
};
use crate::{
    blinding::wipe,
    derivation::Derivation,
    error::BackendError,
    expression::{Atom, Source},
    tape::{Scalar, Values},
};

/// The backend for CUDA devices.
///
/// Columns of integers stay integers on the device, of 8 bits where all values fit. Everything of a proof is overwritten when it has
/// ended, but for weights, which stay for the next. The first proof with a key is verified before it is handed out.
#[derive(Clone, Debug)]
pub struct Cuda {
    device: Device,
    /// Where the device has less memory than this free, plans must fit what it has; where it has more, this. For tests, and
    /// for devices that others use too.
    pub memory_bytes: usize,
    /// Bytes of columns that are worked on at once where they are turned into field elements; plans count with 256 MiB, the
    /// default and the most that makes sense.
    pub round_bytes: usize,
    /// Bytes that tables of multiples of a list of bases may take, at most a quarter of what the plan leaves; commitments to
    /// field elements take 29 % fewer products with them at 2^15 rows. They are made when a key is loaded.
    pub table_bytes: usize,
    /// Bytes that weights may take which stay on the device from one proof to the next, at most half of what plan and tables leave;
    /// they stay as long as the host has them, or until [`Cuda::forget`].
    pub weight_bytes: usize,
    /// Compute the quotient's coefficients again for each coset even where all of them fit. For tests.
    pub streamed: bool,
    /// The stages since [`Cuda::measure`]. Clones share it.
    recording: Arc<Mutex<Option<Recording>>>,
    /// Clones share it.
    resident: Resident,
}

impl Cuda {
    /// Opens the device of this number.
    ///
    /// # Errors
    /// [`BackendError::Device`]: no driver, an old one, no such device, one that is too old.
    pub fn open(ordinal: usize) -> Result<Self, BackendError> {
        Ok(Cuda {
            device: Device::open(ordinal)?,
            memory_bytes: usize::MAX,
            round_bytes: plan::ROUND_BYTES,
            table_bytes: usize::MAX,
            weight_bytes: usize::MAX,
            streamed: false,
            recording: Arc::default(),
            resident: Resident::default(),
        })
    }

    /// The same device with a stream of its own, to prove beside this one; keys are loaded for each.
    ///
    /// # Errors
    /// [`BackendError::Device`].
    pub fn fork(&self) -> Result<Self, BackendError> {
        let (recording, resident) = (Arc::default(), Resident::default());
        Ok(Cuda { device: self.device.fork()?, recording, resident, ..self.clone() })
    }

    /// Overwrites the weights that stayed on the device, and all else that is kept there for later proofs.
    pub fn forget(&self) {
        self.resident.clear();
        self.wipe();
    }

    /// What the device could do at most; `None` where its driver does not tell.
    ///
    /// # Errors
    /// [`BackendError::Device`].
    pub fn ceilings(&self) -> Result<Option<Ceilings>, BackendError> {
        Ok(self.device.ceilings()?)
    }

    /// The device, for measurements.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Begins to measure the stages of proofs, from nothing; waits for the device. One proof at a time: stages of several are not
    /// told apart.
    pub fn measure(&self) {
        self.device.restart_peak();
        *self.recording.lock().unwrap_or_else(PoisonError::into_inner) = Some(Recording::new(&self.device));
    }

    /// What has been measured since [`Cuda::measure`], and ends it; `None` where it was not called. Waits for the device.
    ///
    /// # Errors
    /// [`BackendError::Device`].
    pub fn measured(&self) -> Result<Option<Measured>, BackendError> {
        let recording = self.recording.lock().unwrap_or_else(PoisonError::into_inner).take();
        recording.map(|recording| recording.finish(&self.device)).transpose()
    }

    /// Columns of field elements that are worked on at once.
    fn round(&self, n: usize) -> usize {
        (self.round_bytes / (size_of::<Fr>() * n)).max(1)
    }

    /// Bytes that may be planned with.
    fn free_bytes(&self) -> Result<usize, BackendError> {
        Ok(self.device.memory_bytes()?.0.min(self.memory_bytes))
    }
}

/// Commitments that a device computes.
#[derive(Debug)]
pub struct CudaPending {
    /// Which columns they are to, in the order of the sums.
    places: Vec<usize>,
    queue: Vec<Sums>,
}

/// What of a quotient is on the device before its challenges are there.
#[derive(Debug)]
pub struct CudaAhead {
    /// Of all slots; written for the first.
    coefficients: Matrix<Fr>,
    /// How many those are.
    there: usize,
    /// The values on the first coset of all slots that are columns, once these are there.
    values: Option<Matrix<Fr>>,
}

/// What [`Cuda`] keeps of a proving key, on the device.
pub struct CudaKey {
    n: usize,
    usable: usize,
    lagrange: Msm,
    monomial: Msm,
    ntt: Ntt,
    cosets: Vec<Coset>,
    /// For each coset: `g^n - 1`, inverted.
    vanishing: Vec<Fr>,
    /// Row `i`: the weights of the cosets in limb `i`.
    limb_weights: Vec<Vec<Fr>>,
    columns: KeyColumns,
    quotient: Quotient,
    /// What the quotient's program is on the device; none for an identity without nodes.
    numerator: DeviceCode<Scalar>,
    /// Whether the quotient's coefficients do not fit beside its values on a coset.
    streamed: bool,
    /// Whether there is room for a quotient that begins before its challenges are there.
    begins: bool,
    /// Bytes that weights may take which stay.
    weight_bytes: usize,
}

impl fmt::Debug for CudaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaKey")
            .field("n", &self.n)
            .field("streamed", &self.streamed)
            .finish_non_exhaustive()
    }
}

/// The columns of a key.
struct KeyColumns {
    first: DeviceColumn,
    last: DeviceColumn,
    active: DeviceColumn,
    identity: DeviceColumn,
    fixed: Vec<DeviceColumn>,
    sigma: Vec<DeviceColumn>,
}

impl KeyColumns {
    /// `None` for columns of a proof.
    fn get(&self, source: Source) -> Option<&DeviceColumn> {
        match source {
            Source::First => Some(&self.first),
            Source::Last => Some(&self.last),
            Source::Active => Some(&self.active),
            Source::Identity => Some(&self.identity),
            Source::Fixed(at) => self.fixed.get(at),
            Source::Sigma(at) => self.sigma.get(at),
            Source::Advice(_) | Source::Instance(_) | Source::Product(_) => None,
        }
    }
}

impl CudaKey {
    fn find<'a>(&'a self, columns: &Columns<'a, DeviceColumn>, source: Source) -> Option<&'a DeviceColumn> {
        columns.get(source).or_else(|| self.columns.get(source))
    }

    fn column<'a>(&'a self, columns: &Columns<'a, DeviceColumn>, source: Source) -> &'a DeviceColumn {
        match self.find(columns, source) {
            Some(column) => column,
            None => unreachable!("the identity reads only columns of the key and the proof"),
        }
    }
}

impl Cuda {
    /// Commitments to columns of one kind of integers, without their tails, under way.
    fn queue_integers<T: Cell>(
        &self,
        key: &CudaKey,
        columns: &[&DeviceColumn],
        queue: &mut Vec<Sums>,
    ) -> Result<(), BackendError> {
        let rows = columns.iter().map(|column| column.cells()).max().unwrap_or(0);
        let round = (self.round_bytes / (size_of::<T>() * rows.max(1))).max(1);
        for columns in columns.chunks(round) {
            queue.push(key.lagrange.queue(0, &self.device.gather::<T>(columns, rows)?)?);
        }
        Ok(())
    }

    /// Transforms the quotient's slots that are columns which are there, as far as they stand before one that is not.
    fn transform_columns(
        &self,
        key: &CudaKey,
        columns: &Columns<'_, DeviceColumn>,
        ahead: &mut CudaAhead,
    ) -> Result<(), BackendError> {
        let slots = &key.quotient.program.slots;
        let is_there =
            |slot: &&Slot| matches!(slot, Slot::Column(source) if key.find(columns, *source).is_some());
        let new = slots[ahead.there..].iter().take_while(is_there).count();
        for slots in slots[ahead.there..ahead.there + new].chunks(self.round(key.n)) {
            let sources = slots.iter().filter_map(|slot| match slot {
                Slot::Column(source) => Some(key.column(columns, *source)),
                Slot::Combination(_) => None,
            });
            let values = self.device.expand(&sources.collect::<Vec<_>>(), key.n)?;
            key.ntt.coefficients_to(&mut ahead.coefficients, ahead.there, &values)?;
            ahead.there += slots.len();
        }
        if let (None, Some(coset)) = (&ahead.values, key.cosets.first())
            && matches!(slots.get(ahead.there), None | Some(Slot::Combination(_)))
        {
            let mut values = Matrix::uninitialised(&self.device, slots.len(), key.n)?;
            key.ntt.values_on_to(coset, &mut values, 0, &ahead.coefficients, 0..ahead.there)?;
            ahead.values = Some(values);
        }
        Ok(())
    }

    /// The quotient's slots as polynomials, and their values on the first coset.
    fn transformed_slots(
        &self,
        key: &CudaKey,
        columns: &Columns<'_, DeviceColumn>,
        ahead: &mut CudaAhead,
        scalars: &Values,
    ) -> Result<(), BackendError> {
        self.transform_columns(key, columns, ahead)?;
        let first = ahead.there;
        let combinations = &key.quotient.program.slots[first..];
        for slots in combinations.chunks(self.round(key.n)) {
            let values = self.slot_values(key, columns, slots, scalars)?;
            key.ntt.coefficients_to(&mut ahead.coefficients, ahead.there, &values)?;
            ahead.there += slots.len();
        }
        if let (Some(values), Some(coset)) = (&mut ahead.values, key.cosets.first()) {
            key.ntt.values_on_to(coset, values, first, &ahead.coefficients, first..ahead.there)?;
        }
        Ok(())
    }

    /// Values of slots on the domain, a column each.
    fn slot_values(
        &self,
        key: &CudaKey,
        columns: &Columns<'_, DeviceColumn>,
        slots: &[Slot],
        scalars: &Values,
    ) -> Result<Matrix<Fr>, BackendError> {
        // Columns come first, as `Program` has it.
        let (mut columns_alone, mut combinations) = (Vec::new(), Vec::new());
        for slot in slots {
            match slot {
                Slot::Column(source) => columns_alone.push(key.column(columns, *source)),
                Slot::Combination(terms) => {
                    let term = |(atom, coefficient): &(Atom, Scalar)| Term {
                        column: key.column(columns, atom.source),
                        rotation: i64::from(atom.rotation),
                        coefficient: scalars[*coefficient],
                    };
                    combinations.push(terms.iter().map(term).collect::<Vec<_>>());
                }
            }
        }
        let mut values = Matrix::uninitialised(&self.device, slots.len(), key.n)?;
        self.device.expand_to(&mut values, 0, &columns_alone)?;
        self.device.combine_columns_to(&mut values, columns_alone.len(), &combinations)?;
        Ok(values)
    }
}

fn poly_term(matrix: &Matrix<Fr>, column: usize, coefficient: Fr) -> PolyTerm<'_> {
    PolyTerm { matrix, column, coefficient }
}

/// The instructions of a device for a program, without loads of what is at hand and stores that nobody reads.
fn instructions(program: &Program) -> Vec<Instruction<Scalar>> {
    let place = |operand: &Operand| match operand {
        Operand::Register(register) => Place::Register(*register as u32),
        Operand::Slot(slot, rotation) => Place::Column { column: *slot as u32, rotation: *rotation },
    };
    let mut code = Vec::new();
    // The register that the accumulator was stored to last.
    let mut held: Option<Place> = None;
    for op in &program.ops {
        let to = match op {
            Op::Product { to, left, right } => {
                let (left, right) = (place(left), place(right));
                let (left, right) = if held == Some(right) { (right, left) } else { (left, right) };
                if held != Some(left) {
                    code.push(Instruction::Load(left));
                }
                code.push(Instruction::Multiply(right));
                to
            }
            Op::Sum { to, constant, terms } => {
                let one = |(coefficient, _): &(Coefficient, Operand)| matches!(coefficient, Coefficient::One);
                let first = if *constant == Scalar::ZERO {
                    let at_hand = terms.iter().position(|term| one(term) && held == Some(place(&term.1)));
                    at_hand.or_else(|| terms.iter().position(one))
                } else {
                    None
                };
                match first {
                    None => code.push(Instruction::Constant(*constant)),
                    Some(at) if held == Some(place(&terms[at].1)) => {}
                    Some(at) => code.push(Instruction::Load(place(&terms[at].1))),
                }
                for (_, (coefficient, operand)) in
                    terms.iter().enumerate().filter(|(at, _)| Some(*at) != first)
                {
                    let operand = place(operand);
                    code.push(match coefficient {
                        Coefficient::One => Instruction::Add(operand),
                        Coefficient::MinusOne => Instruction::Subtract(operand),
                        Coefficient::Other(factor) => Instruction::AddScaled(*factor, operand),
                    });
                }
                to
            }
        };
        code.push(Instruction::Store(*to as u32));
        held = Some(Place::Register(*to as u32));
    }
    let result = place(&program.result);
    if held != Some(result) {
        code.push(Instruction::Load(result));
    }
    let mut live = std::collections::HashSet::new();
    let mut kept = Vec::with_capacity(code.len());
    for instruction in code.into_iter().rev() {
        match instruction {
            Instruction::Store(register) if !live.remove(&register) => continue,
            Instruction::Load(Place::Register(register))
            | Instruction::Add(Place::Register(register))
            | Instruction::Subtract(Place::Register(register))
            | Instruction::Multiply(Place::Register(register))
            | Instruction::AddScaled(_, Place::Register(register)) => {
                live.insert(register);
            }
            _ => {}
        }
        kept.push(instruction);
    }
    kept.reverse();
    kept
}

impl Backend for Cuda {
    type Key = CudaKey;
    type Column = DeviceColumn;
    type Poly = Matrix<Fr>;
    type Derivation = CudaDerivation;
    type Pending = CudaPending;
    type Ahead = Option<CudaAhead>;

    fn name(&self) -> String {
        format!("cuda: {}", self.device.name())
    }

    fn verify_first(&self) -> bool {
        true
    }

    fn stage(&self, stage: &'static str) {
        let mut recording = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(recording) = recording.as_mut() {
            recording.begin(&self.device, stage);
        }
    }

    fn load(&self, setup: &Setup<'_>) -> Result<CudaKey, BackendError> {
        let plan = Plan::new(setup.bases.k, setup.degree, setup.fixed, setup.sigma, &setup.shape);
        let mut free = self.free_bytes()?;
        if plan.needed(self.streamed) > free {
            self.resident.clear();
            free = self.free_bytes()?;
        }
        let streamed = self.streamed || plan.needed(false) > free;
        if plan.needed(streamed) > free {
            return Err(BackendError::Plan { needed: plan.needed(streamed), free });
        }
        let begins = !streamed && plan.needed(false).saturating_add(plan.ahead_bytes) <= free;
        let needed = plan.needed(streamed) + if begins { plan.ahead_bytes } else { 0 };
        let tables = ((free - needed) / 4).min(self.table_bytes);
        let weight_bytes = ((free - needed - tables) / 2).min(self.weight_bytes);
        let device = &self.device;
        let n = 1usize << setup.bases.k;
        let ntt = Ntt::new(device, setup.bases.k)?;
        let generators: Vec<Fr> = (0..setup.degree - 1).map(coset_generator).collect();
        let n_th: Vec<Fr> = generators.iter().map(|g| g.pow_vartime([n as u64])).collect();
        let indicator = |on: &dyn Fn(usize) -> bool| {
            let rows: Vec<i8> = (0..n).map(|row| i8::from(on(row))).collect();
            DeviceColumn::new(device, n, &rows, &[])
        };
        let omega = ntt.omega();
        let identity: Vec<Fr> =
            std::iter::successors(Some(Fr::ONE), |power| Some(*power * omega)).take(n).collect();
        let of_key = |list: &[Column]| self.device_columns(n, &list.iter().collect::<Vec<_>>());
        let columns = KeyColumns {
            first: indicator(&|row| row == 0)?,
            last: indicator(&|row| row == setup.usable)?,
            active: indicator(&|row| row < setup.usable)?,
            identity: DeviceColumn::new(device, n, &identity, &[])?,
            fixed: of_key(setup.fixed)?,
            sigma: of_key(setup.sigma)?,
        };
        let quotient = Quotient::new(setup.shape.identity, setup.bases.k, setup.degree - 1);
        let programs = if setup.shape.identity.nodes.is_empty() {
            Vec::new()
        } else {
            vec![instructions(&quotient.program)]
        };
        let key = CudaKey {
            n,
            usable: setup.usable,
            lagrange: Msm::with_tables(device, &setup.bases.lagrange, tables)?,
            monomial: Msm::with_tables(device, &setup.bases.monomial, tables)?,
            cosets: generators.iter().map(|g| ntt.coset(*g)).collect::<Result<_, _>>()?,
            ntt,
            vanishing: n_th.iter().map(|g| (*g - Fr::ONE).invert().unwrap_or(Fr::ZERO)).collect(),
            limb_weights: vandermonde_inverse(&n_th),
            columns,
            quotient,
            numerator: DeviceCode::new(n, &programs)?,
            streamed,
            begins,
            weight_bytes,
        };
        device.synchronize()?;
        Ok(key)
    }

    fn is_elsewhere(&self) -> bool {
        true
    }

    fn columns(&self, key: &CudaKey, mut list: Vec<Column>) -> Result<Vec<DeviceColumn>, BackendError> {
        let taken = self.device_columns(key.n, &list.iter().collect::<Vec<_>>());
        for values in &mut list {
            if let Column::Field(values) = values {
                wipe(values);
            }
        }
        taken
    }

    fn lasting_columns(&self, key: &CudaKey, list: Vec<Column>) -> Result<Vec<DeviceColumn>, BackendError> {
        self.take_lasting(key, &list)
    }

    fn wipe(&self) {
        // An error means that the device is lost, and its memory with it.
        let _ = self.device.wipe();
        // Here, not on another thread: it could be the last to hold the device, when the process is about to end.
        self.device.wipe_host();
    }

    fn blind(
        &self,
        _key: &CudaKey,
        columns: Vec<DeviceColumn>,
        mut tails: Vec<Vec<Fr>>,
    ) -> Result<Vec<DeviceColumn>, BackendError> {
        let blinded = self.with_tails(columns, &tails);
        tails.iter_mut().for_each(|tail| wipe(tail));
        blinded
    }

    fn poly(&self, _key: &CudaKey, mut coefficients: Vec<Fr>) -> Result<Matrix<Fr>, BackendError> {
        let poly = Matrix::from_columns(&self.device, &[&coefficients]);
        wipe(&mut coefficients);
        Ok(poly?)
    }

    fn derives(&self) -> bool {
        true
    }

    fn compile(&self, key: &CudaKey, derivation: Derivation) -> Result<CudaDerivation, BackendError> {
        CudaDerivation::new(derivation, self.round(key.n), key.n)
    }

    fn derive(
        &self,
        key: &CudaKey,
        columns: &Columns<'_, DeviceColumn>,
        derivation: &CudaDerivation,
        challenges: &[Fr],
        mut tails: Vec<Vec<Fr>>,
    ) -> Result<Vec<DeviceColumn>, BackendError> {
        let derived = self.derive_columns(key, columns, derivation, challenges, &tails);
        tails.iter_mut().for_each(|tail| wipe(tail));
        derived
    }

    fn read_column(&self, key: &CudaKey, column: &DeviceColumn) -> Result<Vec<Fr>, BackendError> {
        Ok(self.device.expand(&[column], key.n)?.column(&self.device, 0)?)
    }

    fn read_poly(&self, _key: &CudaKey, poly: &Matrix<Fr>) -> Result<Vec<Fr>, BackendError> {
        Ok(poly.column(&self.device, 0)?)
    }

    fn queue_commit(&self, key: &CudaKey, columns: &[&DeviceColumn]) -> Result<CudaPending, BackendError> {
        let (mut places, mut queue) = (Vec::with_capacity(columns.len()), Vec::new());
        for bits in [0, 8, 16, 32] {
            let (at, list): (Vec<usize>, Vec<&DeviceColumn>) = columns
                .iter()
                .enumerate()
                .filter(|(_, column)| column.bits() == bits)
                .map(|(at, column)| (at, *column))
                .unzip();
            if list.is_empty() {
                continue;
            }
            places.extend(at);
            let whole = |column: &&DeviceColumn| bits == 0 || !column.has_tail();
            assert!(list.iter().all(whole), "integers are committed to before they are blinded");
            match bits {
                8 => self.queue_integers::<i8>(key, &list, &mut queue)?,
                16 => self.queue_integers::<i16>(key, &list, &mut queue)?,
                32 => self.queue_integers::<i32>(key, &list, &mut queue)?,
                _ => {
                    for list in list.chunks(self.round(key.n)) {
                        queue.push(key.lagrange.queue(0, &self.device.expand(list, key.n)?)?);
                    }
                }
            }
        }
        Ok(CudaPending { places, queue })
    }

    fn points(&self, CudaPending { mut places, queue }: CudaPending) -> Result<Vec<G1>, BackendError> {
        let mut points = vec![G1::default(); places.len()];
        // The last first: what the host overwrites while it waits are then not the columns, which is more than the others give it
        // time for.
        for sums in queue.into_iter().rev() {
            let sums = sums.wait()?;
            for (sum, at) in sums.iter().zip(places.split_off(places.len() - sums.len())) {
                points[at] = *sum;
            }
        }
        Ok(points)
    }

    fn queue_commit_polys(&self, key: &CudaKey, polys: &[&Matrix<Fr>]) -> Result<CudaPending, BackendError> {
        let mut queue = Vec::new();
        for polys in polys.chunks(self.round(key.n)) {
            let rows = polys.iter().map(|poly| poly.rows()).max().unwrap_or(0);
            queue.push(key.monomial.queue(0, &self.device.stack(polys, rows)?)?);
        }
        Ok(CudaPending { places: (0..polys.len()).collect(), queue })
    }

    fn coefficients(&self, key: &CudaKey, column: &DeviceColumn) -> Result<Matrix<Fr>, BackendError> {
        Ok(key.ntt.coefficients(&self.device.expand(&[column], key.n)?)?)
    }

    fn coset(&self, key: &CudaKey, poly: &Matrix<Fr>, coset: usize) -> Result<Vec<Fr>, BackendError> {
        Ok(key.ntt.values_on(&key.cosets[coset], poly)?.column(&self.device, 0)?)
    }

    fn products(
        &self,
        key: &CudaKey,
        columns: &Columns<'_, DeviceColumn>,
        sets: &[&[Source]],
        beta: Fr,
        gamma: Fr,
        mut tails: Vec<Vec<Fr>>,
    ) -> Result<Vec<DeviceColumn>, BackendError> {
        let permuted: Vec<&DeviceColumn> =
            sets.iter().flat_map(|set| set.iter()).map(|source| key.column(columns, *source)).collect();
        let sigmas: Vec<&DeviceColumn> =
            (0..permuted.len()).map(|at| key.column(columns, Source::Sigma(at))).collect();
        let permutation = Permutation {
            columns: &permuted,
            sigmas: &sigmas,
            size: sets.first().map_or(1, |set| set.len()),
            usable: key.usable,
            beta,
            gamma,
        };
        let products = self.device.permutation_products(&key.ntt, &permutation, &tails);
        tails.iter_mut().for_each(|tail| wipe(tail));
        let products = products?;
        (0..products.columns()).map(|at| Ok(DeviceColumn::of_matrix(&products, at)?)).collect()
    }

    fn begin_quotient(
        &self,
        key: &CudaKey,
        columns: &Columns<'_, DeviceColumn>,
        ahead: &mut Option<CudaAhead>,
    ) -> Result<(), BackendError> {
        if !key.begins {
            return Ok(());
        }
        let begun = match ahead {
            Some(begun) => begun,
            None => {
                let slots = key.quotient.program.slots.len();
                let coefficients = Matrix::uninitialised(&self.device, slots, key.n)?;
                ahead.insert(CudaAhead { coefficients, there: 0, values: None })
            }
        };
        self.transform_columns(key, columns, begun)
    }

    fn quotient(
        &self,
        key: &CudaKey,
        columns: &Columns<'_, DeviceColumn>,
        mut ahead: Option<CudaAhead>,
        values: &Values,
    ) -> Result<Vec<Matrix<Fr>>, BackendError> {
        let device = &self.device;
        let (n, cosets) = (key.n, key.cosets.len());
        self.begin_quotient(key, columns, &mut ahead)?;
        let Code { program, values } = &key.quotient.code(values);
        let code = DeviceProgram::new(device, &key.numerator, |scalar| values[scalar])?;
        let slots = &program.slots;
        let round = self.round(n).min(slots.len().max(1));
        let coefficients = |slots: &[Slot]| -> Result<Matrix<Fr>, BackendError> {
            Ok(key.ntt.coefficients(&self.slot_values(key, columns, slots, values)?)?)
        };
        let (kept, mut on_first) = match ahead {
            Some(mut ahead) => {
                self.transformed_slots(key, columns, &mut ahead, values)?;
                (Some(ahead.coefficients), ahead.values)
            }
            None if key.streamed => (None, None),
            None => {
                let mut all = Matrix::uninitialised(device, slots.len(), n)?;
                for (at, slots) in slots.chunks(round).enumerate() {
                    let values = self.slot_values(key, columns, slots, values)?;
                    key.ntt.coefficients_to(&mut all, at * round, &values)?;
                }
                (Some(all), None)
            }
        };
        let mut parts = Vec::with_capacity(cosets);
        for (at, coset) in key.cosets.iter().enumerate() {
            let values = match (on_first.take(), &kept) {
                (Some(values), _) => values,
                (None, Some(coefficients)) => key.ntt.values_on(coset, coefficients)?,
                (None, None) => {
                    let mut values = Matrix::uninitialised(device, slots.len(), n)?;
                    for (at, slots) in slots.chunks(round).enumerate() {
                        let coefficients = coefficients(slots)?;
                        let columns = 0..slots.len();
                        key.ntt.values_on_to(coset, &mut values, at * round, &coefficients, columns)?;
                    }
                    values
                }
            };
            let numerator = device.run(&code, &values, key.vanishing[at])?;
            drop(values);
            parts.push(key.ntt.coefficients_from(coset, &numerator)?);
        }
        drop(kept);
        let limb = |weights: &Vec<Fr>| {
            let terms = parts.iter().zip(weights).map(|(part, weight)| poly_term(part, 0, *weight));
            (terms.collect(), n)
        };
        let limbs: Vec<_> = key.limb_weights.iter().map(limb).collect();
        Ok(device.combine_polys(&limbs)?)
    }

    fn evaluate(
        &self,
        key: &CudaKey,
        columns: &Columns<'_, DeviceColumn>,
        queries: &[(Source, i32)],
        x: Fr,
    ) -> Result<Vec<Fr>, BackendError> {
        let weights = self.device.lagrange(&key.ntt, x)?;
        let queries: Vec<(&DeviceColumn, i64)> = queries
            .iter()
            .map(|(source, rotation)| (key.column(columns, *source), i64::from(*rotation)))
            .collect();
        Ok(self.device.evaluate(&weights, &queries)?)
    }

    fn evaluate_polys(&self, _key: &CudaKey, polys: &[&Matrix<Fr>], x: Fr) -> Result<Vec<Fr>, BackendError> {
        Ok(self.device.evaluate_polys(polys, x)?)
    }

    fn combine(
        &self,
        key: &CudaKey,
        columns: &Columns<'_, DeviceColumn>,
        combinations: &[Combination<'_, Matrix<Fr>>],
    ) -> Result<Vec<Matrix<Fr>>, BackendError> {
        let device = &self.device;
        // Those with columns are combined and transformed together.
        let of_columns: Vec<Vec<Term<'_>>> = combinations
            .iter()
            .filter(|combination| !combination.columns.is_empty())
            .map(|combination| {
                let term = |(source, coefficient): &(Source, Fr)| Term {
                    column: key.column(columns, *source),
                    rotation: 0,
                    coefficient: *coefficient,
                };
                combination.columns.iter().map(term).collect()
            })
            .collect();
        let bases = if of_columns.is_empty() {
            None
        } else {
            let mut bases = Matrix::uninitialised(device, of_columns.len(), key.n)?;
            device.combine_columns_to(&mut bases, 0, &of_columns)?;
            Some(key.ntt.coefficients(&bases)?)
        };
        let mut places = 0..of_columns.len();
        let lists: Vec<(Vec<PolyTerm<'_>>, usize)> = combinations
            .iter()
            .map(|combination| {
                let place = if combination.columns.is_empty() { None } else { places.next() };
                let base = bases.as_ref().zip(place).map(|(bases, at)| poly_term(bases, at, Fr::ONE));
                let polys = combination.polys.iter().map(|(poly, c)| poly_term(poly, 0, *c));
                let longest = combination.polys.iter().map(|(poly, _)| poly.rows());
                let sparse = combination.sparse.iter().map(|(power, _)| power + 1);
                let len = longest.chain(sparse).fold(key.n, usize::max);
                (base.into_iter().chain(polys).collect(), len)
            })
            .collect();
        let mut sums = device.combine_polys(&lists)?;
        for (sum, combination) in sums.iter_mut().zip(combinations) {
            if !combination.sparse.is_empty() {
                device.add_sparse(sum, &combination.sparse)?;
            }
        }
        Ok(sums)
    }

    fn divide(&self, _key: &CudaKey, terms: &[(&Matrix<Fr>, Fr)]) -> Result<Matrix<Fr>, BackendError> {
        Ok(self.device.divide(terms)?)
    }
}
