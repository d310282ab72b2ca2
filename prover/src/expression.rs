//! Gate expressions before the challenges are known: constants folded, linear parts kept whole.
//!
//! A constraint system is turned into one polynomial identity
//!
//! ```text
//! N(X) = sum_i y^(m-1-i) P_i(X),   h(X) = N(X) / (X^n - 1)        (protocol.md section 9)
//! ```
//!
//! over *atoms* (a column at a rotation). Every subexpression of degree at most one stays a single
//! [`Linear`] form, so that a backend can form it before any transform. Coefficients are [`Scalar`]s: one identity serves all
//! proofs of a key.

use std::collections::{BTreeMap, HashMap};

use ff::PrimeField;
use halo2_proofs::plonk::{Any, Column as PlonkColumn, ConstraintSystem, Expression as Gate};
use lamina_circuits::Fr;

use crate::tape::{Scalar, Tape};

/// A column that gates may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// A fixed column.
    Fixed(usize),
    /// A column of the permutation `sigma`.
    Sigma(usize),
    /// The indicator of row 0.
    First,
    /// The indicator of row `u`, the first unusable one.
    Last,
    /// The indicator of rows `0..u`.
    Active,
    /// The polynomial `X`.
    Identity,
    /// An advice column.
    Advice(usize),
    /// An instance column.
    Instance(usize),
    /// A permutation product.
    Product(usize),
}

impl Source {
    /// Whether the column belongs to the key, the same in every proof.
    pub fn is_of_key(self) -> bool {
        !matches!(self, Source::Advice(_) | Source::Instance(_) | Source::Product(_))
    }
}

/// A column at a rotation: the value at row `i` is the column's value at row `i + rotation mod n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Atom {
    /// The column.
    pub source: Source,
    /// The rotation, any sign.
    pub rotation: i32,
}

/// `constant + sum_j coefficient_j * atom_j`, atoms ascending and distinct, no coefficient zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Linear {
    /// The terms.
    pub terms: Vec<(Atom, Scalar)>,
    /// The constant.
    pub constant: Scalar,
}

impl Linear {
    fn is_zero(&self) -> bool {
        self.terms.is_empty() && self.constant == Scalar::ZERO
    }

    fn scale(&mut self, tape: &mut Tape, by: Scalar) {
        if by == Scalar::ZERO {
            self.terms.clear();
        }
        for (_, coefficient) in &mut self.terms {
            *coefficient = tape.multiply(*coefficient, by);
        }
        self.constant = tape.multiply(self.constant, by);
    }

    fn add(&mut self, tape: &mut Tape, other: &Linear, by: Scalar) {
        let constant = tape.multiply(other.constant, by);
        self.constant = tape.add(self.constant, constant);
        if by == Scalar::ZERO {
            return;
        }
        // Long sums are mostly of ever later columns.
        if let (Some((first, _)), last) = (other.terms.first(), self.terms.last())
            && last.is_none_or(|(last, _)| last < first)
        {
            self.terms.extend(other.terms.iter().map(|(atom, c)| (*atom, tape.multiply(*c, by))));
            return;
        }
        if other.terms.is_empty() {
            return;
        }
        let mut terms = Vec::with_capacity(self.terms.len() + other.terms.len());
        let (mut left, mut right) =
            (self.terms.iter().copied().peekable(), other.terms.iter().copied().peekable());
        loop {
            let next = match (left.peek(), right.peek()) {
                (None, None) => break,
                (Some(_), None) => left.next(),
                (None, Some(_)) => right.next().map(|(atom, c)| (atom, tape.multiply(c, by))),
                (Some(a), Some(b)) if a.0 < b.0 => left.next(),
                (Some(a), Some(b)) if a.0 > b.0 => right.next().map(|(atom, c)| (atom, tape.multiply(c, by))),
                (Some(a), Some(b)) => {
                    let scaled = tape.multiply(b.1, by);
                    let sum = (a.0, tape.add(a.1, scaled));
                    left.next();
                    right.next();
                    Some(sum)
                }
            };
            terms.extend(next.filter(|(_, c)| *c != Scalar::ZERO));
        }
        self.terms = terms;
    }
}

/// Index of a [`Node`] in its [`Identity`].
pub type NodeId = usize;

/// One node of the expression graph; equal subexpressions are one node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// `linear + sum_j coefficient_j * node_j`.
    Sum {
        /// The part of degree at most one.
        linear: Linear,
        /// The products, each with its coefficient, ascending by node.
        terms: Vec<(Scalar, NodeId)>,
    },
    /// The product of two nodes.
    Product(NodeId, NodeId),
}

/// A sum under construction.
#[derive(Clone, Debug, Default)]
struct Sum {
    linear: Linear,
    terms: Vec<(Scalar, NodeId)>,
}

impl Sum {
    fn constant(constant: Scalar) -> Self {
        Sum { linear: Linear { terms: Vec::new(), constant }, terms: Vec::new() }
    }

    fn atom(source: Source, rotation: i32) -> Self {
        let terms = vec![(Atom { source, rotation }, Scalar::ONE)];
        Sum { linear: Linear { terms, constant: Scalar::ZERO }, terms: Vec::new() }
    }

    fn scale(mut self, tape: &mut Tape, by: Scalar) -> Self {
        if by == Scalar::ONE {
            return self;
        }
        self.linear.scale(tape, by);
        if by == Scalar::ZERO {
            self.terms.clear();
        }
        for (coefficient, _) in &mut self.terms {
            *coefficient = tape.multiply(*coefficient, by);
        }
        self
    }

    fn add(&mut self, tape: &mut Tape, other: &Sum, by: Scalar) {
        self.linear.add(tape, &other.linear, by);
        for &(coefficient, node) in &other.terms {
            let scaled = tape.multiply(coefficient, by);
            match self.terms.binary_search_by_key(&node, |term| term.1) {
                Ok(at) => self.terms[at].0 = tape.add(self.terms[at].0, scaled),
                Err(at) => self.terms.insert(at, (scaled, node)),
            }
        }
        self.terms.retain(|(c, _)| *c != Scalar::ZERO);
    }
}

/// A polynomial that is affine in a column: `sum_r factor_r * column(rotation r) + rest`.
#[derive(Clone, Debug)]
pub struct Affine {
    /// The factors by the column's rotation; none that is always zero.
    pub factors: BTreeMap<i32, NodeId>,
    /// What does not depend on the column.
    pub rest: NodeId,
}

/// [`Affine`] under construction.
#[derive(Default)]
struct Split {
    factors: BTreeMap<i32, Sum>,
    rest: Sum,
}

impl Split {
    fn scale(self, tape: &mut Tape, by: Scalar) -> Self {
        let factors = self.factors.into_iter();
        Split {
            factors: factors.map(|(rotation, factor)| (rotation, factor.scale(tape, by))).collect(),
            rest: self.rest.scale(tape, by),
        }
    }
}

/// The terms of a sum: the first, and the others in order. Long sums are left-leaning: walked in a loop.
fn summands<'g>(
    left: &'g Gate<Fr>,
    right: &'g Gate<Fr>,
) -> (&'g Gate<Fr>, impl Iterator<Item = &'g Gate<Fr>>) {
    let (mut head, mut tail) = (left, vec![right]);
    while let Gate::Sum(left, right) = head {
        tail.push(right);
        head = left;
    }
    (head, tail.into_iter().rev())
}

/// The identity whose quotient the prover commits to, as a graph with shared subexpressions.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The nodes; operands come before the nodes that use them.
    pub nodes: Vec<Node>,
    /// The node of `N(X)`.
    pub root: NodeId,
    /// What coefficients are made of: the circuit's challenges by index, then `beta`, `gamma`, `y`.
    pub tape: Tape,
    index: HashMap<Node, NodeId>,
}

/// Above this many terms a gate's linear part is merged with those of the other gates under the same
/// selector: one combination instead of several.
const MERGE_TERMS: usize = 4;

impl Identity {
    /// An identity without nodes, over a tape of this many challenges.
    pub fn empty(challenges: usize) -> Self {
        Identity { nodes: Vec::new(), root: 0, tape: Tape::new(challenges), index: HashMap::new() }
    }

    /// Folds all gates and the permutation argument into one identity.
    ///
    /// # Transcript
    /// `beta`, `gamma`, `y` as the verifier draws them, after the circuit's challenges.
    pub fn new(cs: &ConstraintSystem<Fr>, degree: usize) -> Self {
        let challenges = cs.num_challenges();
        let mut identity = Identity::empty(challenges + 3);
        let [beta, gamma, y] = [0, 1, 2].map(|at| identity.tape.challenge(challenges + at));
        let mut parts: Vec<Sum> = cs
            .gates()
            .iter()
            .flat_map(|gate| gate.polynomials())
            .map(|polynomial| identity.fold(polynomial))
            .collect();
        identity.permutation(cs, degree, beta, gamma, &mut parts);

        // Parts of the form `selector * body` share one product for each selector.
        let mut rest = Sum::default();
        let mut groups: Vec<(NodeId, Sum)> = Vec::new();
        let mut group_of: HashMap<NodeId, usize> = HashMap::new();
        let mut power = Scalar::ONE;
        for part in parts.iter().rev() {
            let single = match part.terms[..] {
                [(coefficient, node)] if part.linear.is_zero() => {
                    identity.selector_of(node).map(|(s, b)| (coefficient, s, b))
                }
                _ => None,
            };
            match single {
                None => {
                    let node = identity.intern(part.clone());
                    rest.add(&mut identity.tape, &node, power);
                }
                Some((coefficient, selector, body)) => {
                    let at = *group_of.entry(selector).or_insert_with(|| {
                        groups.push((selector, Sum::default()));
                        groups.len() - 1
                    });
                    let scale = identity.tape.multiply(power, coefficient);
                    let mut body = identity.as_sum(body);
                    if body.linear.terms.len() >= MERGE_TERMS || body.terms.is_empty() {
                        let linear = std::mem::take(&mut body.linear);
                        groups[at].1.linear.add(&mut identity.tape, &linear, scale);
                    }
                    if !body.terms.is_empty() {
                        let body = identity.intern(body);
                        groups[at].1.add(&mut identity.tape, &body, scale);
                    }
                }
            }
            power = identity.tape.multiply(power, y);
        }
        for (selector, body) in groups {
            let selector = identity.as_sum(selector);
            let product = identity.multiply(selector, body);
            rest.add(&mut identity.tape, &product, Scalar::ONE);
        }
        identity.root = identity.node(Node::Sum { linear: rest.linear, terms: rest.terms });
        identity
    }

    fn node(&mut self, node: Node) -> NodeId {
        if let Some(&id) = self.index.get(&node) {
            return id;
        }
        self.nodes.push(node.clone());
        self.index.insert(node, self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    fn as_sum(&self, id: NodeId) -> Sum {
        match &self.nodes[id] {
            Node::Sum { linear, terms } => Sum { linear: linear.clone(), terms: terms.clone() },
            Node::Product(..) => Sum { linear: Linear::default(), terms: vec![(Scalar::ONE, id)] },
        }
    }

    /// The same value as a sum of at most one scaled node, unless it is linear.
    fn intern(&mut self, sum: Sum) -> Sum {
        if sum.terms.is_empty() || (sum.terms.len() == 1 && sum.linear.is_zero()) {
            return sum;
        }
        let id = self.node(Node::Sum { linear: sum.linear, terms: sum.terms });
        Sum { linear: Linear::default(), terms: vec![(Scalar::ONE, id)] }
    }

    /// `(coefficient, node)` with `sum = coefficient * node`, the node's leading coefficient being 1.
    fn factor(&mut self, sum: Sum) -> (Scalar, NodeId) {
        if let ([(coefficient, node)], true) = (&sum.terms[..], sum.linear.is_zero()) {
            return (*coefficient, *node);
        }
        let leading = sum
            .terms
            .first()
            .map(|term| term.0)
            .or(sum.linear.terms.first().map(|term| term.1))
            .unwrap_or(Scalar::ONE);
        let inverse = self.tape.invert(leading);
        let sum = sum.scale(&mut self.tape, inverse);
        let id = self.node(Node::Sum { linear: sum.linear, terms: sum.terms });
        (leading, id)
    }

    fn multiply(&mut self, left: Sum, right: Sum) -> Sum {
        for (constant, other) in [(&left, &right), (&right, &left)] {
            if constant.terms.is_empty() && constant.linear.terms.is_empty() {
                return other.clone().scale(&mut self.tape, constant.linear.constant);
            }
        }
        let (a, left) = self.factor(left);
        let (b, right) = self.factor(right);
        let id = self.node(Node::Product(left.min(right), left.max(right)));
        Sum { linear: Linear::default(), terms: vec![(self.tape.multiply(a, b), id)] }
    }

    /// `(selector, body)` if the node is a product of a lone column of the key and something.
    fn selector_of(&self, id: NodeId) -> Option<(NodeId, NodeId)> {
        let Node::Product(a, b) = self.nodes[id] else {
            return None;
        };
        let lone = |id: NodeId| match &self.nodes[id] {
            Node::Sum { linear, terms } => {
                terms.is_empty()
                    && linear.constant == Scalar::ZERO
                    && linear.terms.len() == 1
                    && linear.terms[0].0.source.is_of_key()
            }
            Node::Product(..) => false,
        };
        if lone(a) {
            Some((a, b))
        } else if lone(b) {
            Some((b, a))
        } else {
            None
        }
    }

    fn fold(&mut self, gate: &Gate<Fr>) -> Sum {
        match gate {
            Gate::Constant(value) => Sum::constant(self.tape.known(*value)),
            // Key generation has replaced every selector by a fixed column.
            Gate::Selector(_) => Sum::default(),
            Gate::Fixed(query) => Sum::atom(Source::Fixed(query.column_index()), query.rotation().0),
            Gate::Advice(query) => Sum::atom(Source::Advice(query.column_index()), query.rotation().0),
            Gate::Instance(query) => Sum::atom(Source::Instance(query.column_index()), query.rotation().0),
            Gate::Challenge(challenge) => Sum::constant(self.tape.challenge(challenge.index())),
            Gate::Negated(inner) => self.fold(inner).scale(&mut self.tape, Scalar::MINUS_ONE),
            Gate::Sum(left, right) => {
                let (head, tail) = summands(left, right);
                let mut sum = self.fold(head);
                for term in tail {
                    let term = self.fold(term);
                    sum.add(&mut self.tape, &term, Scalar::ONE);
                }
                sum
            }
            Gate::Product(left, right) => {
                let left = self.fold(left);
                let right = self.fold(right);
                self.multiply(left, right)
            }
            Gate::Scaled(inner, by) => {
                let by = self.tape.known(*by);
                self.fold(inner).scale(&mut self.tape, by)
            }
        }
    }

    /// A gate's polynomial by its dependence on an advice column; `None` where it is not affine in that.
    pub fn affine(&mut self, gate: &Gate<Fr>, column: usize) -> Option<Affine> {
        let split = self.split(gate, column)?;
        let mut node = |sum: Sum| self.node(Node::Sum { linear: sum.linear, terms: sum.terms });
        Some(Affine {
            factors: split.factors.into_iter().map(|(rotation, factor)| (rotation, node(factor))).collect(),
            rest: node(split.rest),
        })
    }

    fn split(&mut self, gate: &Gate<Fr>, column: usize) -> Option<Split> {
        match gate {
            Gate::Advice(query) if query.column_index() == column => {
                let factors = BTreeMap::from([(query.rotation().0, Sum::constant(Scalar::ONE))]);
                Some(Split { factors, rest: Sum::default() })
            }
            Gate::Negated(inner) => {
                let split = self.split(inner, column)?;
                Some(split.scale(&mut self.tape, Scalar::MINUS_ONE))
            }
            Gate::Scaled(inner, by) => {
                let split = self.split(inner, column)?;
                let by = self.tape.known(*by);
                Some(split.scale(&mut self.tape, by))
            }
            Gate::Sum(left, right) => {
                let (head, tail) = summands(left, right);
                let mut sum = self.split(head, column)?;
                for term in tail {
                    let term = self.split(term, column)?;
                    sum.rest.add(&mut self.tape, &term.rest, Scalar::ONE);
                    for (rotation, factor) in term.factors {
                        sum.factors.entry(rotation).or_default().add(&mut self.tape, &factor, Scalar::ONE);
                    }
                }
                Some(sum)
            }
            Gate::Product(left, right) => {
                let left = self.split(left, column)?;
                let right = self.split(right, column)?;
                let (of, other) = match (left.factors.is_empty(), right.factors.is_empty()) {
                    (false, false) => return None,
                    (false, true) => (left, right.rest),
                    (_, false) => (right, left.rest),
                    (true, true) => (left, right.rest),
                };
                let factors = of.factors.into_iter();
                let factors = factors
                    .map(|(rotation, factor)| (rotation, self.multiply(factor, other.clone())))
                    .collect();
                Some(Split { factors, rest: self.multiply(of.rest, other.clone()) })
            }
            _ => Some(Split { factors: BTreeMap::new(), rest: self.fold(gate) }),
        }
    }

    /// The permutation argument's constraints, in the verifier's order.
    ///
    /// ```text
    /// l_0 (1 - z_0),  l_last (z_m^2 - z_m),  l_0 (z_i - z_(i-1)(w^u X)),
    /// l_active (z_i(wX) prod (p + beta s + gamma) - z_i prod (p + delta^j beta X + gamma))
    /// ```
    fn permutation(
        &mut self,
        cs: &ConstraintSystem<Fr>,
        degree: usize,
        beta: Scalar,
        gamma: Scalar,
        parts: &mut Vec<Sum>,
    ) {
        let columns = cs.permutation().get_columns();
        if columns.is_empty() {
            return;
        }
        let chunk = degree - 2;
        let sets = columns.len().div_ceil(chunk);
        let last_rotation = -(cs.blinding_factors() as i32 + 1);
        let atom = Sum::atom;
        let z = |set, rotation| atom(Source::Product(set), rotation);

        let mut start = Sum::constant(Scalar::ONE);
        start.add(&mut self.tape, &z(0, 0), Scalar::MINUS_ONE);
        parts.push(self.multiply(atom(Source::First, 0), start));

        let last = z(sets - 1, 0);
        let mut end = self.multiply(last.clone(), last.clone());
        end.add(&mut self.tape, &last, Scalar::MINUS_ONE);
        parts.push(self.multiply(atom(Source::Last, 0), end));

        for set in 1..sets {
            let mut link = z(set, 0);
            link.add(&mut self.tape, &z(set - 1, last_rotation), Scalar::MINUS_ONE);
            parts.push(self.multiply(atom(Source::First, 0), link));
        }

        let (mut delta, step) = (beta, self.tape.known(Fr::DELTA));
        for (set, columns) in columns.chunks(chunk).enumerate() {
            let (mut left, mut right) = (z(set, 1), z(set, 0));
            for (j, column) in columns.iter().enumerate() {
                let mut value = atom(source_of(column), 0);
                value.linear.constant = gamma;
                let mut permuted = value.clone();
                permuted.add(&mut self.tape, &atom(Source::Sigma(set * chunk + j), 0), beta);
                let mut own = value;
                own.add(&mut self.tape, &atom(Source::Identity, 0), delta);
                left = self.multiply(left, permuted);
                right = self.multiply(right, own);
                delta = self.tape.multiply(delta, step);
            }
            left.add(&mut self.tape, &right, Scalar::MINUS_ONE);
            parts.push(self.multiply(atom(Source::Active, 0), left));
        }
    }
}

/// The column of a permutation argument as a [`Source`].
pub fn source_of(column: &PlonkColumn<Any>) -> Source {
    match column.column_type() {
        Any::Advice(_) => Source::Advice(column.index()),
        Any::Fixed => Source::Fixed(column.index()),
        Any::Instance => Source::Instance(column.index()),
    }
}
