//! From an identity to what is transformed and to straight-line code over chunks of rows.

use std::collections::{HashMap, HashSet};

use ff::Field;
use lamina_circuits::Fr;

use crate::{
    expression::{Atom, Identity, Linear, Node, NodeId, Source},
    tape::{Scalar, Tape, Values},
};

/// Something that has values on the cosets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Slot {
    /// A column.
    Column(Source),
    /// A linear combination of columns, formed before it is transformed.
    Combination(Vec<(Atom, Scalar)>),
}

/// Where an operand's chunk is read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operand {
    Register(usize),
    /// A slot at a rotation.
    Slot(usize, i32),
}

/// One instruction over a chunk of rows.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// `to = constant + sum_j c_j * operand_j`.
    Sum { to: usize, constant: Scalar, terms: Vec<(Coefficient, Operand)> },
    /// `to = left * right`.
    Product { to: usize, left: Operand, right: Operand },
}

/// A coefficient; most are plus or minus one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Coefficient {
    One,
    MinusOne,
    Other(Scalar),
}

impl Coefficient {
    fn of(scalar: Scalar) -> Self {
        match scalar {
            Scalar::ONE => Coefficient::One,
            Scalar::MINUS_ONE => Coefficient::MinusOne,
            other => Coefficient::Other(other),
        }
    }
}

/// What the quotient needs: slots to transform, code to run.
#[derive(Debug)]
pub(crate) struct Program {
    /// Columns in the order in which a proof has them, then combinations.
    pub(crate) slots: Vec<Slot>,
    pub(crate) ops: Vec<Op>,
    pub(crate) registers: usize,
    pub(crate) result: Operand,
}

/// A program with what its coefficients are in a proof.
#[derive(Debug)]
pub(crate) struct Code<'a> {
    pub(crate) program: &'a Program,
    pub(crate) values: Values,
}

/// The program for the numerator of an identity's quotient.
#[derive(Debug)]
pub(crate) struct Quotient {
    pub(crate) program: Program,
    /// The identity's tape, with what the program needs besides.
    tape: Tape,
}

impl Quotient {
    /// For `2^k` rows; without code for an identity without nodes.
    pub(crate) fn new(identity: &Identity, k: u32, cosets: usize) -> Self {
        let costs = Costs {
            transform: (cosets + 1) as f64 * f64::from(k) / 2.0 + cosets as f64,
            term: 0.3,
            cosets: cosets as f64,
        };
        let mut tape = identity.tape.clone();
        let roots = if identity.nodes.is_empty() { &[][..] } else { &[identity.root] };
        let (slots, mut programs) = Program::compile(&identity.nodes, &mut tape, roots, &costs);
        let none =
            || Program { slots: Vec::new(), ops: Vec::new(), registers: 0, result: Operand::Register(0) };
        let program = Program { slots, ..programs.pop().unwrap_or_else(none) };
        Quotient { program, tape }
    }

    /// The code of a proof, given the values of the identity's tape.
    pub(crate) fn code(&self, values: &Values) -> Code<'_> {
        Code { program: &self.program, values: self.tape.extended(values) }
    }
}

/// Costs in field multiplications per row.
struct Costs {
    /// Transforming one column to all cosets.
    transform: f64,
    /// One term of a combination of integers.
    term: f64,
    cosets: f64,
}

impl Program {
    /// One program for each of some nodes, whose values on the domain are wanted, over slots that all of them share.
    pub(crate) fn on_rows(nodes: &[Node], tape: &mut Tape, roots: &[NodeId]) -> (Vec<Slot>, Vec<Program>) {
        // Nothing is transformed: a column of its own costs turning its cells into field elements.
        Self::compile(nodes, tape, roots, &Costs { transform: 8.0, term: 0.3, cosets: 1.0 })
    }

    fn compile(
        nodes: &[Node],
        tape: &mut Tape,
        roots: &[NodeId],
        costs: &Costs,
    ) -> (Vec<Slot>, Vec<Program>) {
        let mut compiler = Compiler::new(nodes, tape, roots, costs);
        let mut programs: Vec<Program> = roots.iter().map(|root| compiler.run(*root)).collect();
        let slots = columns_first(compiler.slots, &mut programs);
        (slots, programs)
    }
}

/// Sorts slots: columns in the order in which a proof has them, then combinations, so that a device makes all of a kind at once,
/// and columns as soon as they are there.
fn columns_first(slots: Vec<Slot>, programs: &mut [Program]) -> Vec<Slot> {
    let mut numbered: Vec<(usize, Slot)> = slots.into_iter().enumerate().collect();
    numbered.sort_by_key(|(_, slot)| match slot {
        Slot::Column(Source::Advice(at)) => (1, *at),
        Slot::Column(Source::Product(at)) => (2, *at),
        Slot::Column(_) => (0, 0),
        Slot::Combination(_) => (3, 0),
    });
    let mut places = vec![0; numbered.len()];
    let mut sorted = Vec::with_capacity(places.len());
    for (before, slot) in numbered {
        places[before] = sorted.len();
        sorted.push(slot);
    }
    let place = |operand: &mut Operand| {
        if let Operand::Slot(slot, _) = operand {
            *slot = places[*slot];
        }
    };
    for program in programs {
        for op in &mut program.ops {
            match op {
                Op::Product { left, right, .. } => [left, right].into_iter().for_each(place),
                Op::Sum { terms, .. } => terms.iter_mut().for_each(|(_, operand)| place(operand)),
            }
        }
        place(&mut program.result);
    }
    sorted
}

/// The nodes that one needs, operands before their users.
fn reachable(nodes: &[Node], root: NodeId) -> Vec<NodeId> {
    let mut seen = vec![false; nodes.len()];
    seen[root] = true;
    // Operands come before their users, so one pass backwards marks everything.
    for id in (0..=root).rev() {
        if seen[id] {
            match &nodes[id] {
                Node::Product(a, b) => {
                    seen[*a] = true;
                    seen[*b] = true;
                }
                Node::Sum { terms, .. } => terms.iter().for_each(|(_, node)| seen[*node] = true),
            }
        }
    }
    (0..=root).filter(|id| seen[*id]).collect()
}

fn columns_of(form: &Linear) -> HashSet<Source> {
    form.terms.iter().map(|(atom, _)| atom.source).filter(|source| !source.is_of_key()).collect()
}

/// The columns that are transformed by themselves; all others only occur inside combinations.
///
/// A column that is some form's only column must be. Beyond those, columns that occur in many different forms
/// are worth a transform of their own; how many is "many" is tried out on the cost model.
fn choose(forms: &[&Linear], tape: &mut Tape, costs: &Costs) -> HashSet<Source> {
    let mut distinct: HashMap<Vec<(Atom, Scalar)>, HashSet<Source>> = HashMap::new();
    for form in forms {
        distinct.entry(normalised(&form.terms, tape).0).or_insert_with(|| columns_of(form));
    }
    let mut single: HashSet<Source> = HashSet::new();
    let mut uses: HashMap<Source, usize> = HashMap::new();
    for columns in distinct.values() {
        if columns.len() == 1 {
            single.extend(columns);
        }
        for column in columns {
            *uses.entry(*column).or_default() += 1;
        }
    }
    let candidates = [usize::MAX, 32, 16, 8, 6, 4, 3, 2].map(|least| {
        let mut alone = single.clone();
        alone.extend(uses.iter().filter(|(_, n)| **n >= least).map(|(s, _)| *s));
        let mut cost = alone.len() as f64 * costs.transform;
        for (terms, columns) in &distinct {
            let rest = columns.iter().filter(|c| !alone.contains(c)).count() as f64;
            if rest > 0.0 {
                cost += costs.transform + rest * costs.term;
            }
            let direct = (terms.len() as f64 - rest) * costs.cosets;
            cost += direct.min(costs.transform + terms.len() as f64);
        }
        (cost, alone)
    });
    candidates.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, alone)| alone).unwrap_or(single)
}

/// The terms with the first one's coefficient 1 and rotation 0, that coefficient and that rotation.
fn normalised(terms: &[(Atom, Scalar)], tape: &mut Tape) -> (Vec<(Atom, Scalar)>, Scalar, i32) {
    let Some((first, leading)) = terms.first() else {
        return (Vec::new(), Scalar::ONE, 0);
    };
    let inverse = tape.invert(*leading);
    let shifted = terms
        .iter()
        .map(|(atom, c)| {
            let rotation = atom.rotation - first.rotation;
            (Atom { rotation, ..*atom }, tape.multiply(*c, inverse))
        })
        .collect();
    (shifted, *leading, first.rotation)
}

struct Compiler<'a> {
    nodes: &'a [Node],
    tape: &'a mut Tape,
    alone: HashSet<Source>,
    /// More terms than this are combined before the transform even if each has its own.
    most: usize,
    slots: Vec<Slot>,
    slot_of: HashMap<Slot, usize>,
    ops: Vec<Op>,
    operands: HashMap<NodeId, Operand>,
    free: Vec<usize>,
    registers: usize,
}

impl<'a> Compiler<'a> {
    fn new(nodes: &'a [Node], tape: &'a mut Tape, roots: &[NodeId], costs: &Costs) -> Self {
        let forms: Vec<&Linear> = roots
            .iter()
            .flat_map(|root| reachable(nodes, *root))
            .map(|id| &nodes[id])
            .filter_map(|node| match node {
                Node::Sum { linear, .. } if !linear.terms.is_empty() => Some(linear),
                _ => None,
            })
            .collect();
        Compiler {
            nodes,
            alone: choose(&forms, tape, costs),
            tape,
            most: (costs.transform / costs.cosets) as usize,
            slots: Vec::new(),
            slot_of: HashMap::new(),
            ops: Vec::new(),
            operands: HashMap::new(),
            free: Vec::new(),
            registers: 0,
        }
    }

    /// The code for one root. Slots are those of all roots so far, and stay with the compiler.
    fn run(&mut self, root: NodeId) -> Program {
        self.operands.clear();
        self.free.clear();
        self.registers = 0;
        let nodes = self.nodes;
        let reachable = reachable(nodes, root);
        let mut uses: HashMap<NodeId, usize> = HashMap::new();
        for &id in &reachable {
            match &nodes[id] {
                Node::Product(a, b) => {
                    *uses.entry(*a).or_default() += 1;
                    *uses.entry(*b).or_default() += 1;
                }
                Node::Sum { terms, .. } => {
                    for (_, node) in terms {
                        *uses.entry(*node).or_default() += 1;
                    }
                }
            }
        }
        for id in reachable {
            let operand = match &nodes[id] {
                Node::Product(a, b) => {
                    let (left, right) = (self.operands[a], self.operands[b]);
                    self.release(*a, &mut uses);
                    self.release(*b, &mut uses);
                    // A register freed here may be the target: chunks are read before they are written.
                    let to = self.register();
                    self.ops.push(Op::Product { to, left, right });
                    Operand::Register(to)
                }
                Node::Sum { linear, terms } => self.sum(linear, terms, &mut uses),
            };
            self.operands.insert(id, operand);
        }
        Program {
            slots: Vec::new(),
            ops: std::mem::take(&mut self.ops),
            registers: self.registers,
            result: self.operands[&root],
        }
    }

    fn sum(
        &mut self,
        linear: &Linear,
        nodes: &[(Scalar, NodeId)],
        uses: &mut HashMap<NodeId, usize>,
    ) -> Operand {
        let (mut direct, mut rest): (Vec<_>, Vec<_>) = linear
            .terms
            .iter()
            .copied()
            .partition(|(a, _)| a.source.is_of_key() || self.alone.contains(&a.source));
        if direct.len() > self.most {
            rest.clone_from(&linear.terms);
            direct.clear();
        }
        let mut terms = Vec::with_capacity(direct.len() + nodes.len() + 1);
        if !rest.is_empty() {
            let (shape, leading, rotation) = normalised(&rest, self.tape);
            let slot = self.slot(Slot::Combination(shape));
            terms.push((Coefficient::of(leading), Operand::Slot(slot, rotation)));
        }
        for (atom, c) in direct {
            let slot = self.slot(Slot::Column(atom.source));
            terms.push((Coefficient::of(c), Operand::Slot(slot, atom.rotation)));
        }
        for (c, node) in nodes {
            terms.push((Coefficient::of(*c), self.operands[node]));
        }
        if let ([(Coefficient::One, operand @ Operand::Slot(..))], true) =
            (&terms[..], linear.constant == Scalar::ZERO)
        {
            return *operand;
        }
        // The target is written while operands are read, so it must not be one of them.
        let to = self.register();
        for (_, node) in nodes {
            self.release(*node, uses);
        }
        self.ops.push(Op::Sum { to, constant: linear.constant, terms });
        Operand::Register(to)
    }

    fn slot(&mut self, slot: Slot) -> usize {
        let next = self.slots.len();
        *self.slot_of.entry(slot.clone()).or_insert_with(|| {
            self.slots.push(slot);
            next
        })
    }

    fn register(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.registers += 1;
            self.registers - 1
        })
    }

    fn release(&mut self, node: NodeId, uses: &mut HashMap<NodeId, usize>) {
        let Some(left) = uses.get_mut(&node) else {
            return;
        };
        *left -= 1;
        if let (0, Operand::Register(register)) = (*left, self.operands[&node]) {
            self.free.push(register);
        }
    }
}

/// Rows that are worked on at once: a register of them takes 4 KiB.
pub(crate) const CHUNK: usize = 128;

/// A thread's registers.
pub(crate) struct Machine {
    registers: Vec<Vec<Fr>>,
    /// Takes a product, then becomes its register: operands may be that register.
    spare: Vec<Fr>,
    left: Vec<Fr>,
    right: Vec<Fr>,
}

/// Rows `start + rotation ..` of a column, wrapping around; copied only where they wrap.
pub(crate) fn window<'a>(
    column: &'a [Fr],
    start: usize,
    rotation: i32,
    len: usize,
    wrapped: &'a mut Vec<Fr>,
) -> &'a [Fr] {
    let n = column.len();
    let from = (start as i64 + i64::from(rotation)).rem_euclid(n as i64) as usize;
    if from + len <= n {
        return &column[from..from + len];
    }
    wrapped.clear();
    wrapped.extend_from_slice(&column[from..]);
    wrapped.extend_from_slice(&column[..from + len - n]);
    wrapped
}

impl Machine {
    pub(crate) fn new(program: &Program) -> Self {
        Machine {
            registers: vec![vec![Fr::ZERO; CHUNK]; program.registers],
            spare: Vec::with_capacity(CHUNK),
            left: Vec::with_capacity(CHUNK),
            right: Vec::with_capacity(CHUNK),
        }
    }

    /// `out[i] = scale * N(row start + i)`.
    pub(crate) fn run(
        &mut self,
        Code { program, values }: &Code<'_>,
        slots: &[&[Fr]],
        start: usize,
        scale: Fr,
        out: &mut [Fr],
    ) {
        let len = out.len();
        for op in &program.ops {
            match op {
                Op::Product { to, left, right } => {
                    let a = read(&self.registers, slots, *left, start, len, &mut self.left);
                    let b = read(&self.registers, slots, *right, start, len, &mut self.right);
                    self.spare.clear();
                    self.spare.extend(a.iter().zip(b).map(|(a, b)| *a * b));
                    std::mem::swap(&mut self.registers[*to], &mut self.spare);
                }
                Op::Sum { to, constant, terms } => {
                    let mut target = std::mem::take(&mut self.registers[*to]);
                    target.clear();
                    target.resize(len, values[*constant]);
                    for (c, operand) in terms {
                        let read = read(&self.registers, slots, *operand, start, len, &mut self.left);
                        let pairs = target.iter_mut().zip(read);
                        match c {
                            Coefficient::One => pairs.for_each(|(t, v)| *t += v),
                            Coefficient::MinusOne => pairs.for_each(|(t, v)| *t -= v),
                            Coefficient::Other(c) => pairs.for_each(|(t, v)| *t += values[*c] * v),
                        }
                    }
                    self.registers[*to] = target;
                }
            }
        }
        let result = read(&self.registers, slots, program.result, start, len, &mut self.left);
        for (o, v) in out.iter_mut().zip(result) {
            *o = *v * scale;
        }
    }
}

fn read<'a>(
    registers: &'a [Vec<Fr>],
    slots: &[&'a [Fr]],
    operand: Operand,
    start: usize,
    len: usize,
    wrapped: &'a mut Vec<Fr>,
) -> &'a [Fr] {
    match operand {
        Operand::Register(register) => &registers[register][..len],
        Operand::Slot(slot, rotation) => window(slots[slot], start, rotation, len, wrapped),
    }
}
