//! Gate expressions after the challenges are known: constants folded, linear parts kept whole.
//!
//! A constraint system is turned into one polynomial identity
//!
//! ```text
//! N(X) = sum_i y^(m-1-i) P_i(X),   h(X) = N(X) / (X^n - 1)        (protocol.md section 9)
//! ```
//!
//! over *atoms* (a column at a rotation). Every subexpression of degree at most one stays a single
//! [`Linear`] form, so that a backend can form it before any transform.

use std::collections::{BTreeMap, HashMap};

use ff::{Field, PrimeField};
use halo2_proofs::plonk::{Any, Column as PlonkColumn, ConstraintSystem, Expression as Gate};
use lamina_circuits::Fr;

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
    pub terms: Vec<(Atom, Fr)>,
    /// The constant.
    pub constant: Fr,
}

impl Linear {
    fn atom(source: Source, rotation: i32) -> Self {
        Linear { terms: vec![(Atom { source, rotation }, Fr::ONE)], constant: Fr::ZERO }
    }

    fn is_zero(&self) -> bool {
        self.terms.is_empty() && self.constant == Fr::ZERO
    }

    fn scale(&mut self, by: Fr) {
        if by == Fr::ZERO {
            self.terms.clear();
        }
        for (_, coefficient) in &mut self.terms {
            *coefficient *= by;
        }
        self.constant *= by;
    }

    fn add(&mut self, other: &Linear, by: Fr) {
        self.constant += other.constant * by;
        if by == Fr::ZERO {
            return;
        }
        // Long sums are mostly of ever later columns.
        if let (Some((first, _)), last) = (other.terms.first(), self.terms.last())
            && last.is_none_or(|(last, _)| last < first)
        {
            self.terms.extend(other.terms.iter().map(|(atom, c)| (*atom, *c * by)));
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
                (None, Some(_)) => right.next().map(|(atom, c)| (atom, c * by)),
                (Some(a), Some(b)) if a.0 < b.0 => left.next(),
                (Some(a), Some(b)) if a.0 > b.0 => right.next().map(|(atom, c)| (atom, c * by)),
                (Some(a), Some(b)) => {
                    let sum = (a.0, a.1 + b.1 * by);
                    left.next();
                    right.next();
                    Some(sum)
                }
            };
            terms.extend(next.filter(|(_, c)| *c != Fr::ZERO));
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
        terms: Vec<(Fr, NodeId)>,
    },
    /// The product of two nodes.
    Product(NodeId, NodeId),
}

/// A sum under construction.
#[derive(Clone, Debug, Default)]
struct Sum {
    linear: Linear,
    terms: Vec<(Fr, NodeId)>,
}

impl Sum {
    fn scale(mut self, by: Fr) -> Self {
        if by == Fr::ONE {
            return self;
        }
        self.linear.scale(by);
        if by == Fr::ZERO {
            self.terms.clear();
        }
        for (coefficient, _) in &mut self.terms {
            *coefficient *= by;
        }
        self
    }

    fn add(&mut self, other: &Sum, by: Fr) {
        self.linear.add(&other.linear, by);
        for &(coefficient, node) in &other.terms {
            match self.terms.binary_search_by_key(&node, |term| term.1) {
                Ok(at) => self.terms[at].0 += coefficient * by,
                Err(at) => self.terms.insert(at, (coefficient * by, node)),
            }
        }
        self.terms.retain(|(c, _)| *c != Fr::ZERO);
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
    fn scale(self, by: Fr) -> Self {
        let factors = self.factors.into_iter();
        Split {
            factors: factors.map(|(rotation, factor)| (rotation, factor.scale(by))).collect(),
            rest: self.rest.scale(by),
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
#[derive(Debug, Default)]
pub struct Identity {
    /// The nodes; operands come before the nodes that use them.
    pub nodes: Vec<Node>,
    /// The node of `N(X)`.
    pub root: NodeId,
    index: HashMap<Node, NodeId>,
}

/// Above this many terms a gate's linear part is merged with those of the other gates under the same
/// selector: one combination instead of several.
const MERGE_TERMS: usize = 4;

impl Identity {
    /// Folds all gates and the permutation argument into one identity.
    ///
    /// # Transcript
    /// `challenges` by challenge index; `beta`, `gamma`, `y` as the verifier draws them.
    pub fn new(
        cs: &ConstraintSystem<Fr>,
        degree: usize,
        challenges: &[Fr],
        beta: Fr,
        gamma: Fr,
        y: Fr,
    ) -> Self {
        let mut identity = Identity::default();
        let mut parts: Vec<Sum> = cs
            .gates()
            .iter()
            .flat_map(|gate| gate.polynomials())
            .map(|polynomial| identity.fold(polynomial, challenges))
            .collect();
        identity.permutation(cs, degree, beta, gamma, &mut parts);

        // Parts of the form `selector * body` share one product for each selector.
        let mut rest = Sum::default();
        let mut groups: Vec<(NodeId, Sum)> = Vec::new();
        let mut group_of: HashMap<NodeId, usize> = HashMap::new();
        let mut power = Fr::ONE;
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
                    rest.add(&node, power);
                }
                Some((coefficient, selector, body)) => {
                    let at = *group_of.entry(selector).or_insert_with(|| {
                        groups.push((selector, Sum::default()));
                        groups.len() - 1
                    });
                    let scale = power * coefficient;
                    let mut body = identity.as_sum(body);
                    if body.linear.terms.len() >= MERGE_TERMS || body.terms.is_empty() {
                        let linear = std::mem::take(&mut body.linear);
                        groups[at].1.linear.add(&linear, scale);
                    }
                    if !body.terms.is_empty() {
                        let body = identity.intern(body);
                        groups[at].1.add(&body, scale);
                    }
                }
            }
            power *= y;
        }
        for (selector, body) in groups {
            let selector = identity.as_sum(selector);
            let product = identity.multiply(selector, body);
            rest.add(&product, Fr::ONE);
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
            Node::Product(..) => Sum { linear: Linear::default(), terms: vec![(Fr::ONE, id)] },
        }
    }

    /// The same value as a sum of at most one scaled node, unless it is linear.
    fn intern(&mut self, sum: Sum) -> Sum {
        if sum.terms.is_empty() || (sum.terms.len() == 1 && sum.linear.is_zero()) {
            return sum;
        }
        let id = self.node(Node::Sum { linear: sum.linear, terms: sum.terms });
        Sum { linear: Linear::default(), terms: vec![(Fr::ONE, id)] }
    }

    /// `(coefficient, node)` with `sum = coefficient * node`, the node's leading coefficient being 1.
    fn factor(&mut self, sum: Sum) -> (Fr, NodeId) {
        if let ([(coefficient, node)], true) = (&sum.terms[..], sum.linear.is_zero()) {
            return (*coefficient, *node);
        }
        let leading = sum
            .terms
            .first()
            .map(|term| term.0)
            .or(sum.linear.terms.first().map(|term| term.1))
            .unwrap_or(Fr::ONE);
        // Most are one of these, and inverting anything else costs hundreds of products.
        let unit = leading == Fr::ONE || leading == -Fr::ONE;
        let inverse = if unit { leading } else { leading.invert().unwrap_or(Fr::ONE) };
        let sum = sum.scale(inverse);
        let id = self.node(Node::Sum { linear: sum.linear, terms: sum.terms });
        (leading, id)
    }

    fn multiply(&mut self, left: Sum, right: Sum) -> Sum {
        for (constant, other) in [(&left, &right), (&right, &left)] {
            if constant.terms.is_empty() && constant.linear.terms.is_empty() {
                return other.clone().scale(constant.linear.constant);
            }
        }
        let (a, left) = self.factor(left);
        let (b, right) = self.factor(right);
        let id = self.node(Node::Product(left.min(right), left.max(right)));
        Sum { linear: Linear::default(), terms: vec![(a * b, id)] }
    }

    /// `(selector, body)` if the node is a product of a lone column of the key and something.
    fn selector_of(&self, id: NodeId) -> Option<(NodeId, NodeId)> {
        let Node::Product(a, b) = self.nodes[id] else {
            return None;
        };
        let lone = |id: NodeId| match &self.nodes[id] {
            Node::Sum { linear, terms } => {
                terms.is_empty()
                    && linear.constant == Fr::ZERO
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

    fn fold(&mut self, gate: &Gate<Fr>, challenges: &[Fr]) -> Sum {
        let atom = |source, rotation| Sum { linear: Linear::atom(source, rotation), terms: Vec::new() };
        let constant = |constant| Sum { linear: Linear { terms: Vec::new(), constant }, terms: Vec::new() };
        match gate {
            Gate::Constant(value) => constant(*value),
            // Key generation has replaced every selector by a fixed column.
            Gate::Selector(_) => constant(Fr::ZERO),
            Gate::Fixed(query) => atom(Source::Fixed(query.column_index()), query.rotation().0),
            Gate::Advice(query) => atom(Source::Advice(query.column_index()), query.rotation().0),
            Gate::Instance(query) => atom(Source::Instance(query.column_index()), query.rotation().0),
            Gate::Challenge(challenge) => constant(challenges[challenge.index()]),
            Gate::Negated(inner) => self.fold(inner, challenges).scale(-Fr::ONE),
            Gate::Sum(left, right) => {
                let (head, tail) = summands(left, right);
                let mut sum = self.fold(head, challenges);
                for term in tail {
                    let term = self.fold(term, challenges);
                    sum.add(&term, Fr::ONE);
                }
                sum
            }
            Gate::Product(left, right) => {
                let left = self.fold(left, challenges);
                let right = self.fold(right, challenges);
                self.multiply(left, right)
            }
            Gate::Scaled(inner, by) => self.fold(inner, challenges).scale(*by),
        }
    }

    /// A gate's polynomial by its dependence on an advice column; `None` where it is not affine in that.
    pub fn affine(&mut self, gate: &Gate<Fr>, column: usize, challenges: &[Fr]) -> Option<Affine> {
        let split = self.split(gate, column, challenges)?;
        let mut node = |sum: Sum| self.node(Node::Sum { linear: sum.linear, terms: sum.terms });
        Some(Affine {
            factors: split.factors.into_iter().map(|(rotation, factor)| (rotation, node(factor))).collect(),
            rest: node(split.rest),
        })
    }

    fn split(&mut self, gate: &Gate<Fr>, column: usize, challenges: &[Fr]) -> Option<Split> {
        match gate {
            Gate::Advice(query) if query.column_index() == column => {
                let one = Linear { terms: Vec::new(), constant: Fr::ONE };
                let one = Sum { linear: one, terms: Vec::new() };
                let factors = BTreeMap::from([(query.rotation().0, one)]);
                Some(Split { factors, rest: Sum::default() })
            }
            Gate::Negated(inner) => Some(self.split(inner, column, challenges)?.scale(-Fr::ONE)),
            Gate::Scaled(inner, by) => Some(self.split(inner, column, challenges)?.scale(*by)),
            Gate::Sum(left, right) => {
                let (head, tail) = summands(left, right);
                let mut sum = self.split(head, column, challenges)?;
                for term in tail {
                    let term = self.split(term, column, challenges)?;
                    sum.rest.add(&term.rest, Fr::ONE);
                    for (rotation, factor) in term.factors {
                        sum.factors.entry(rotation).or_default().add(&factor, Fr::ONE);
                    }
                }
                Some(sum)
            }
            Gate::Product(left, right) => {
                let left = self.split(left, column, challenges)?;
                let right = self.split(right, column, challenges)?;
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
            _ => Some(Split { factors: BTreeMap::new(), rest: self.fold(gate, challenges) }),
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
        beta: Fr,
        gamma: Fr,
        parts: &mut Vec<Sum>,
    ) {
        let columns = cs.permutation().get_columns();
        if columns.is_empty() {
            return;
        }
        let chunk = degree - 2;
        let sets = columns.len().div_ceil(chunk);
        let last_rotation = -(cs.blinding_factors() as i32 + 1);
        let atom = |source, rotation| Sum { linear: Linear::atom(source, rotation), terms: Vec::new() };
        let z = |set, rotation| atom(Source::Product(set), rotation);

        let mut start = z(0, 0).scale(-Fr::ONE);
        start.linear.constant += Fr::ONE;
        parts.push(self.multiply(atom(Source::First, 0), start));

        let last = z(sets - 1, 0);
        let mut end = self.multiply(last.clone(), last.clone());
        end.add(&last, -Fr::ONE);
        parts.push(self.multiply(atom(Source::Last, 0), end));

        for set in 1..sets {
            let mut link = z(set, 0);
            link.add(&z(set - 1, last_rotation), -Fr::ONE);
            parts.push(self.multiply(atom(Source::First, 0), link));
        }

        let mut delta = beta;
        for (set, columns) in columns.chunks(chunk).enumerate() {
            let (mut left, mut right) = (z(set, 1), z(set, 0));
            for (j, column) in columns.iter().enumerate() {
                let mut value = atom(source_of(column), 0);
                value.linear.constant += gamma;
                let mut permuted = value.clone();
                permuted.add(&atom(Source::Sigma(set * chunk + j), 0), beta);
                let mut own = value;
                own.add(&atom(Source::Identity, 0), delta);
                left = self.multiply(left, permuted);
                right = self.multiply(right, own);
                delta *= Fr::DELTA;
            }
            left.add(&right, -Fr::ONE);
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
