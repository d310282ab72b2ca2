//! The circuit of one transformer block: columns, gates, fixed assignment.

use std::{cell::RefCell, sync::Arc};

use ff::Field;
use halo2_proofs::{
    circuit::{Cell, Layouter, Region, SimpleFloorPlanner},
    plonk::{
        Advice, Any, Challenge, Circuit, Column, ConstraintSystem, Error, Expression, FirstPhase, Fixed,
        Instance, SecondPhase, VirtualCells,
    },
    poly::Rotation,
};
use serde::{Deserialize, Serialize};

use crate::{
    Fr,
    assign::BlockWitness,
    layout::{Layout, LayoutError, Link, Port, Row},
    logup::{LogUp, signed, tuple},
    rows::{
        self, Algebra, Challenges, F, Kind, LOOKUPS, Programs, RowView, SLOTS, VALUES, combination,
        geometric, int, pow2, power,
    },
    slice::{LinkedColumns, MAX_COLUMNS, RefusedParams, SliceCircuit},
    spec::{BlockSpec, FeedForward, Scales},
    tables::{self, Table},
    witness::{Witness, assign_witness},
};

/// Degree of the constraint system, set explicitly (`protocol.md` section 2).
pub const DEGREE: usize = 5;

/// What determines a block's verifying key, given the SRS.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockParams {
    /// The block.
    pub spec: BlockSpec,
    /// Lanes; divides the tokens.
    pub lanes: usize,
    /// Log of the number of rows.
    pub k: u32,
}

impl BlockParams {
    /// The layout that these parameters determine.
    ///
    /// # Errors
    /// An unsound specification, or rows that do not fit.
    pub fn layout(&self) -> Result<Layout, LayoutError> {
        Layout::new(&self.spec, self.lanes, self.k)
    }
}

/// All columns and challenges of the block circuit.
#[derive(Clone, Debug)]
pub struct Columns {
    /// Input boundary, linked.
    pub boundary_in: Vec<Column<Advice>>,
    /// Output boundary, linked.
    pub boundary_out: Vec<Column<Advice>>,
    /// Weights, linked.
    pub weights: Vec<Column<Advice>>,
    /// Cells, `[slot][lane]`.
    pub cells: Vec<Vec<Column<Advice>>>,
    /// Combinations that products read.
    pub a_in: Column<Advice>,
    /// Outputs of products.
    pub a_out: Column<Advice>,
    /// The stream, and carried vectors.
    pub a_x: Column<Advice>,
    /// Sums down the rows.
    pub a_s: Column<Advice>,
    /// Left factor.
    pub wa: Column<Advice>,
    /// Right factor, chain entry, boundary accumulator.
    pub wb: Column<Advice>,
    /// Product accumulator.
    pub acc: Column<Advice>,
    /// Lookups.
    pub logup: LogUp,
    /// Kind selectors, in the order of [`Kind::ALL`].
    pub kinds: Vec<Column<Fixed>>,
    /// Links of `a_in` (1) and `a_out` (2), added.
    pub links: Column<Fixed>,
    /// Links of `a_x` (1); rows where a sum must be zero, first rows of rotary pairs (2); added.
    pub marks: Column<Fixed>,
    /// Rows of products: 1 for a weight row that is the last of its input, 2 for one that is not, 3 for a pair.
    pub product: Column<Fixed>,
    /// Chain coefficients.
    pub chain: Column<Fixed>,
    /// Links of `acc`: 1 for 1, 2 for `alpha`, 3 for `delta`, 4 for `eta`.
    pub link_acc: Column<Fixed>,
    /// Boundary rows: 1 for the last feature of a token, 2 for another.
    pub boundary: Column<Fixed>,
    /// Rotary cosines by lane; none where positions are learned.
    pub cos: Vec<Column<Fixed>>,
    /// Rotary sines by lane, signed by half; none where positions are learned.
    pub sin: Vec<Column<Fixed>>,
    /// Causal mask by lane.
    pub mask: Vec<Column<Fixed>>,
    /// `2^s` on the first row of a bias with shift `s`; none where no product has a bias.
    pub bias: Option<Column<Fixed>>,
    /// The statement's digest.
    pub instance: Column<Instance>,
    /// Challenges, all drawn after phase 0.
    pub challenges: Challenges<Challenge>,
}

/// The circuit of a block. Without a witness it serves key generation.
#[derive(Clone, Debug)]
pub struct BlockCircuit {
    /// Public parameters.
    pub params: BlockParams,
    /// The layout of `params`.
    pub layout: Arc<Layout>,
    /// Columns of phase 0.
    pub witness: Option<Arc<BlockWitness>>,
}

impl BlockCircuit {
    /// The circuit without a witness.
    ///
    /// # Errors
    /// See [`BlockParams::layout`].
    pub fn new(params: &BlockParams) -> Result<Self, LayoutError> {
        Ok(BlockCircuit { params: params.clone(), layout: Arc::new(params.layout()?), witness: None })
    }

    /// The circuit with a witness laid out for the same parameters.
    pub fn with_witness(&self, witness: Arc<BlockWitness>) -> Self {
        BlockCircuit { witness: Some(witness), ..self.clone() }
    }
}

/// Reads a row as halo2 expressions, querying what is used and nothing else.
struct GateView<'a, 'b> {
    meta: RefCell<&'a mut VirtualCells<'b, Fr>>,
    columns: &'a Columns,
}

impl GateView<'_, '_> {
    fn fixed(&self, column: Column<Fixed>) -> Expression<Fr> {
        self.meta.borrow_mut().query_fixed(column, Rotation::cur())
    }

    fn advice(&self, column: Column<Advice>, at: i32) -> Expression<Fr> {
        self.meta.borrow_mut().query_advice(column, Rotation(at))
    }

    fn kind(&self, kind: Kind) -> Expression<Fr> {
        self.fixed(self.columns.kinds[kind.index()])
    }

    fn challenges(&self) -> Challenges<Expression<Fr>> {
        let mut meta = self.meta.borrow_mut();
        let c = &self.columns.challenges;
        Challenges {
            alpha: meta.query_challenge(c.alpha),
            gamma: meta.query_challenge(c.gamma),
            eta: meta.query_challenge(c.eta),
            theta: meta.query_challenge(c.theta),
            beta: meta.query_challenge(c.beta),
        }
    }
}

impl RowView<Expression<Fr>> for GateView<'_, '_> {
    fn cell(&self, slot: usize, lane: usize) -> Expression<Fr> {
        self.advice(self.columns.cells[slot][lane], 0)
    }

    fn rotary(&self, lane: usize) -> (Expression<Fr>, Expression<Fr>) {
        (self.fixed(self.columns.cos[lane]), self.fixed(self.columns.sin[lane]))
    }

    fn mask(&self, lane: usize) -> Expression<Fr> {
        self.fixed(self.columns.mask[lane])
    }

    fn a_x(&self) -> Expression<Fr> {
        self.advice(self.columns.a_x, 0)
    }
}

/// Weights of the input and the output boundary in their accumulator: `eta^2` and `eta - 2^s`, so that one equality
/// holds both and the last product (`docs/protocol.md`, section 4).
pub(crate) fn boundary_weights<E: Algebra>(c: &Challenges<E>, scales: &Scales) -> [E; 2] {
    [c.eta.clone() * c.eta.clone(), c.eta.clone() - pow2::<E>(scales.ffn_out_shift)]
}

fn sum(terms: impl IntoIterator<Item = Expression<Fr>>) -> Expression<Fr> {
    terms.into_iter().reduce(|a, b| a + b).unwrap_or_else(|| int(0))
}

/// Weights of the next row in the accumulators, by kind: shared by the gates and the witness.
pub(crate) struct Links<E> {
    one: E,
    gamma: E,
    eta: E,
    /// The next group's tokens.
    pub delta: E,
    /// The next group's tokens where lanes are weighted by `gamma`: keys.
    keys: E,
    /// The next block of a token's value features.
    values: E,
    gated: bool,
}

impl<E: Algebra> Links<E> {
    pub(crate) fn new(c: &Challenges<E>, layout: &Layout) -> Self {
        let lanes = layout.lanes;
        Links {
            one: int(1),
            gamma: c.gamma.clone(),
            eta: c.eta.clone(),
            delta: power(&c.alpha, lanes),
            keys: power(&c.gamma, lanes),
            values: power(&c.gamma, VALUES.len() * lanes),
            gated: matches!(layout.spec.scales.feed_forward, FeedForward::Gated { .. }),
        }
    }

    /// What `a_in` continues into: the next row (`false`) or the same row of the next group, and its weight.
    pub(crate) fn inward(&self, kind: Kind) -> Option<(bool, E)> {
        match kind {
            Kind::Value => Some((false, self.values.clone())),
            Kind::Key => Some((true, self.keys.clone())),
            Kind::StreamIn
            | Kind::StreamMid
            | Kind::Query
            | Kind::Score
            | Kind::MixOut
            | Kind::FeedForward => Some((true, self.delta.clone())),
            Kind::Root | Kind::Remainder | Kind::Sum | Kind::Max => None,
        }
    }

    /// Weight of the next row in `a_out`.
    pub(crate) fn outward(&self, kind: Kind) -> E {
        match kind {
            Kind::Value => self.values.clone(),
            Kind::Remainder => self.eta.clone(),
            // Gate and up features alternate.
            Kind::FeedForward if self.gated => self.gamma.clone() * self.gamma.clone(),
            _ => self.gamma.clone(),
        }
    }

    /// Weight of the next row in `a_x`: maxima are carried, streams are combined.
    pub(crate) fn stream(&self, kind: Kind) -> E {
        match kind {
            Kind::Score | Kind::Sum => self.one.clone(),
            _ => self.gamma.clone(),
        }
    }
}

/// The value of `values` that a fixed column selects by its index, `degree = values.len() - 1`.
fn select(column: &Expression<Fr>, values: &[Expression<Fr>]) -> Expression<Fr> {
    // Coefficients of the Lagrange polynomials over 0, 1, ..
    let points = values.len();
    let mut terms: Vec<Option<Expression<Fr>>> = vec![None; points];
    for (i, value) in values.iter().enumerate() {
        let mut basis = vec![Fr::ONE];
        let mut scale = Fr::ONE;
        for j in (0..points).filter(|&j| j != i) {
            basis.push(Fr::ZERO);
            for at in (0..basis.len()).rev() {
                let below = if at > 0 { basis[at - 1] } else { Fr::ZERO };
                basis[at] = below - int::<Fr>(j as i128) * basis[at];
            }
            scale *= int::<Fr>(i as i128 - j as i128);
        }
        let scale = scale.invert().unwrap_or(Fr::ZERO);
        for (term, coefficient) in terms.iter_mut().zip(basis) {
            let own = value.clone() * (coefficient * scale);
            *term = Some(match term.take() {
                Some(sum) => sum + own,
                None => own,
            });
        }
    }
    let terms = terms.into_iter().flatten().enumerate();
    sum(terms.map(|(i, term)| if i == 0 { term } else { term * power(column, i) }))
}

/// `0` and `1` as gates select them: bit `bit` of a fixed column that holds `0..4`.
fn flag(column: &Expression<Fr>, bit: usize) -> Expression<Fr> {
    select(column, &[0, 1, 2, 3].map(|v| int((v >> bit) & 1)))
}

impl Columns {
    fn allocate(meta: &mut ConstraintSystem<Fr>, layout: &Layout) -> Columns {
        let lanes = layout.lanes;
        let first =
            |meta: &mut ConstraintSystem<Fr>, n| (0..n).map(|_| meta.advice_column_in(FirstPhase)).collect();
        let boundary_in = first(meta, layout.boundary.columns);
        let boundary_out = first(meta, layout.boundary.columns);
        let weights = first(meta, layout.weight_lanes);
        let cells = (0..SLOTS).map(|_| first(meta, lanes)).collect();
        let multiplicities = LogUp::multiplicities(meta, layout.table_columns());
        let mut second = || {
            let column = meta.advice_column_in(SecondPhase);
            meta.enable_equality(column);
            column
        };
        let [a_in, a_out, a_x, wa, wb, acc] = [(); 6].map(|()| second());
        let a_s = meta.advice_column_in(SecondPhase);
        let active = meta.fixed_column();
        let logup = LogUp::new(meta, multiplicities, LOOKUPS * lanes, active);
        let mut fixed = |n: usize| (0..n).map(|_| meta.fixed_column()).collect::<Vec<_>>();
        let kinds = fixed(Kind::ALL.len());
        let turned = if layout.spec.scales.rope.is_some() { lanes } else { 0 };
        let (cos, sin, mask) = (fixed(turned), fixed(turned), fixed(lanes));
        let mut one = || meta.fixed_column();
        Columns {
            boundary_in,
            boundary_out,
            weights,
            cells,
            a_in,
            a_out,
            a_x,
            a_s,
            wa,
            wb,
            acc,
            logup,
            kinds,
            links: one(),
            marks: one(),
            product: one(),
            chain: one(),
            link_acc: one(),
            boundary: one(),
            cos,
            sin,
            mask,
            bias: layout.weight_ops.iter().any(|op| op.bias.is_some()).then(&mut one),
            instance: meta.instance_column(),
            challenges: {
                let mut challenge = || meta.challenge_usable_after(FirstPhase);
                Challenges {
                    alpha: challenge(),
                    gamma: challenge(),
                    eta: challenge(),
                    theta: challenge(),
                    beta: challenge(),
                }
            },
        }
    }

    /// The column of a port.
    pub fn port(&self, port: Port) -> Column<Advice> {
        match port {
            Port::In => self.a_in,
            Port::Out => self.a_out,
            Port::Stream => self.a_x,
            Port::Left => self.wa,
            Port::Right => self.wb,
            Port::Acc => self.acc,
        }
    }

    fn gate(
        &self,
        meta: &mut ConstraintSystem<Fr>,
        id: &'static str,
        build: impl FnOnce(&GateView<'_, '_>) -> Expression<Fr>,
    ) {
        meta.create_gate(id, |meta| {
            let view = GateView { meta: RefCell::new(meta), columns: self };
            [build(&view)]
        });
    }

    fn accumulator_gates(&self, meta: &mut ConstraintSystem<Fr>, layout: &Layout) {
        let programs = Programs { spec: &layout.spec, lanes: layout.lanes };
        let strip = layout.strip.len() as i32;
        // Sum over the kinds of selector times term.
        let selected =
            |v: &GateView<'_, '_>, pick: &dyn Fn(rows::Terms<Expression<Fr>>) -> Option<Expression<Fr>>| {
                let c = v.challenges();
                sum(Kind::ALL.into_iter().filter_map(|kind| {
                    let term = pick(programs.terms(kind, &c, v))?;
                    Some(v.kind(kind) * term)
                }))
            };
        // Sum over the kinds of selector times weight.
        type Weight<'w> = &'w dyn Fn(&Links<Expression<Fr>>, Kind) -> Option<Expression<Fr>>;
        let weighted = |v: &GateView<'_, '_>, pick: Weight<'_>| {
            let links = Links::new(&v.challenges(), layout);
            sum(Kind::ALL.into_iter().filter_map(|kind| Some(v.kind(kind) * pick(&links, kind)?)))
        };
        self.gate(meta, "in/1", |v| {
            let across = |groups: bool| {
                weighted(v, &|links, kind| {
                    links.inward(kind).filter(|(group, _)| *group == groups).map(|(_, weight)| weight)
                })
            };
            let mut tail = across(false) * v.advice(self.a_in, 1);
            if layout.groups > 1 {
                tail = tail + across(true) * v.advice(self.a_in, strip);
            }
            v.fixed(self.logup.active) * v.advice(self.a_in, 0)
                - selected(v, &|t| t.a_in)
                - flag(&v.fixed(self.links), 0) * tail
        });
        self.gate(meta, "out/1", |v| {
            let weight = weighted(v, &|links, kind| Some(links.outward(kind)));
            v.fixed(self.logup.active) * v.advice(self.a_out, 0)
                - selected(v, &|t| t.a_out)
                - flag(&v.fixed(self.links), 1) * weight * v.advice(self.a_out, 1)
        });
        self.gate(meta, "stream/1", |v| {
            let weight = weighted(v, &|links, kind| Some(links.stream(kind)));
            v.fixed(self.logup.active) * v.advice(self.a_x, 0)
                - selected(v, &|t| t.a_x)
                - flag(&v.fixed(self.marks), 0) * weight * v.advice(self.a_x, 1)
        });
        let any = |v: &GateView<'_, '_>, pick: &dyn Fn(Kind) -> bool| {
            sum(Kind::ALL.into_iter().filter(|&kind| pick(kind)).map(|kind| v.kind(kind)))
        };
        self.gate(meta, "sum/1", |v| {
            v.fixed(self.logup.active) * v.advice(self.a_s, 0)
                - selected(v, &|t| t.a_s)
                - any(v, &Kind::sums) * v.advice(self.a_s, 1)
        });
        self.gate(meta, "sum/2", |v| {
            any(v, &Kind::sums) * flag(&v.fixed(self.marks), 1) * v.advice(self.a_s, 0)
        });
        self.gate(meta, "factor/1", |v| {
            let c = v.challenges();
            let change =
                combination(&c.alpha, layout.lanes, |l| v.cell(F, l) - v.advice(self.cells[F][l], 1));
            any(v, &Kind::sums) * change
        });
        if layout.spec.scales.rope.is_some() {
            self.gate(meta, "rotary/2", |v| {
                let c = v.challenges();
                let swapped = combination(&c.alpha, layout.lanes, |l| {
                    v.cell(rows::C3, l) + c.eta.clone() * v.cell(F, l)
                });
                let first =
                    any(v, &|kind| matches!(kind, Kind::Query | Kind::Key)) * flag(&v.fixed(self.marks), 1);
                first * (swapped - v.advice(self.a_x, 1))
            });
        }
        for kind in Kind::ALL {
            let count = {
                // The number of relations does not depend on the view; count them on zeros.
                let zero = Challenges {
                    alpha: Fr::ZERO,
                    gamma: Fr::ZERO,
                    eta: Fr::ZERO,
                    theta: Fr::ZERO,
                    beta: Fr::ZERO,
                };
                programs
                    .relations(kind, &zero, &ZeroView, Fr::ZERO)
                    .into_iter()
                    .map(|(id, _)| id)
                    .collect::<Vec<_>>()
            };
            for (i, id) in count.into_iter().enumerate() {
                self.gate(meta, id, |v| {
                    let next = if kind == Kind::Root { v.advice(self.a_out, 1) } else { int(0) };
                    let relation = programs.relations(kind, &v.challenges(), v, next).swap_remove(i).1;
                    v.kind(kind) * relation
                });
            }
        }
    }

    fn product_gates(&self, meta: &mut ConstraintSystem<Fr>, layout: &Layout) {
        self.gate(meta, "product/1", |v| {
            let c = v.challenges();
            let (wa, wb) = (v.advice(self.wa, 0), v.advice(self.wb, 0));
            let weights = combination(&c.gamma, layout.weight_lanes, |l| v.advice(self.weights[l], 0));
            let delta = Links::new(&c, layout).delta;
            let link = select(&v.fixed(self.link_acc), &[int(0), int(1), c.alpha, delta, c.eta]);
            let product = v.fixed(self.product);
            let on_weights = select(&product, &[0, 1, 1, 0].map(int));
            let on_pairs = select(&product, &[0, 0, 0, 1].map(int));
            v.fixed(self.logup.active) * v.advice(self.acc, 0)
                - wa * (on_weights * weights + on_pairs * wb.clone())
                - v.fixed(self.chain) * wb
                - link * v.advice(self.acc, 1)
        });
        self.gate(meta, "product/2", |v| {
            let step = power(&v.challenges().gamma, layout.weight_lanes);
            let inside = select(&v.fixed(self.product), &[0, 0, 1, 0].map(int));
            inside * (v.advice(self.wa, 1) - step * v.advice(self.wa, 0))
        });
        if let Some(bias) = self.bias {
            self.gate(meta, "product/3", |v| {
                let shifted = v.fixed(bias);
                let ones = geometric(&v.challenges().alpha, layout.spec.tokens);
                shifted.clone() * (v.advice(self.wa, 0) - shifted * ones)
            });
        }
        self.gate(meta, "boundary/1", |v| {
            let c = v.challenges();
            let [of_input, of_output] = boundary_weights(&c, &layout.spec.scales);
            let column = power(&c.alpha, layout.boundary.per_column);
            let both = combination(&column, layout.boundary.columns, |i| {
                of_input.clone() * v.advice(self.boundary_in[i], 0)
                    + of_output.clone() * v.advice(self.boundary_out[i], 0)
            });
            let rows = v.fixed(self.boundary);
            let on = select(&rows, &[0, 1, 1].map(int));
            let link = select(&rows, &[0, 0, 1].map(int));
            on * (v.advice(self.wb, 0) - both) - link * c.gamma * v.advice(self.wb, 1)
        });
    }

    fn lookup_gates(&self, meta: &mut ConstraintSystem<Fr>, layout: &Layout) {
        let tag = |table: Table| int::<Expression<Fr>>(layout.tables.index(table) as i128 + 1);
        let idle = Table::Signed(layout.spec.scales.act_bits);
        let (exp, act) = (tag(Table::Exp), tag(idle));
        self.logup.gates(meta, self.challenges.theta, self.challenges.beta, |meta| {
            let view = GateView { meta: RefCell::new(meta), columns: self };
            let theta = view.challenges().theta;
            // The tag of a slot: that of an idle row, or of the row's kind.
            let tags: Vec<_> = (0..LOOKUPS)
                .map(|slot| {
                    Kind::ALL.into_iter().filter(|kind| kind.tables(&layout.spec)[slot] != idle).fold(
                        act.clone(),
                        |t, kind| {
                            let own = tag(kind.tables(&layout.spec)[slot]);
                            t + view.kind(kind) * (own - act.clone())
                        },
                    )
                })
                .collect();
            let mut tuples = vec![];
            for lane in 0..layout.lanes {
                let masked = tags[0].clone() + view.mask(lane) * (exp.clone() - act.clone());
                let pair = (view.cell(rows::A, lane), view.cell(rows::B, lane));
                tuples.push(tuple(pair.0, Some(pair.1), masked, &theta));
                for (slot, tag) in (rows::C2..=rows::C6).zip(&tags[1..]) {
                    tuples.push(tuple(view.cell(slot, lane), None, tag.clone(), &theta));
                }
            }
            tuples
        });
    }

    fn assign_fixed(&self, region: &mut Region<'_, Fr>, layout: &Layout) {
        let spec = &layout.spec;
        let mut set = |column: Column<Fixed>, row: usize, value: u64| {
            if value > 0 {
                region.assign_fixed(column, row, Fr::from(value));
            }
        };
        for row in 0..layout.active {
            set(self.logup.active, row, 1);
        }
        for (at, (group, row)) in layout.rows().enumerate() {
            set(self.kinds[row.kind().index()], at, 1);
            let links = (layout.link_in(group, row), layout.link_out(row));
            set(self.links, at, u64::from(links.0) + 2 * u64::from(links.1));
            let turned = spec.scales.rope.is_some() && matches!(row, Row::Feature { second: false, .. });
            let first = layout.sum_closes(row) || turned;
            set(self.marks, at, u64::from(layout.link_stream(row)) + 2 * u64::from(first));
        }
        for op in &layout.weight_ops {
            let rows = op.inputs * op.blocks;
            for i in 0..rows {
                set(self.product, op.start + i, if (i + 1) % op.blocks == 0 { 1 } else { 2 });
                set(self.link_acc, op.start + i, u64::from(i + 1 < rows));
            }
            if let (Some((row, shift)), Some(column)) = (op.bias_row(), self.bias) {
                set(column, row, 1 << shift);
            }
        }
        for op in &layout.pair_ops {
            for i in 0..op.factors.len() {
                set(self.product, op.start + i, 3);
                set(self.link_acc, op.start + i, u64::from(i + 1 < op.factors.len()));
            }
        }
        for row in &layout.chains {
            let link = match row.link {
                Link::End => 0,
                Link::One => 1,
                Link::Alpha => 2,
                Link::Delta => 3,
                Link::Eta => 4,
            };
            set(self.link_acc, row.row, link);
        }
        let d = spec.shape.hidden;
        for row in 0..layout.boundary.rows() {
            set(self.boundary, row, if (row + 1) % d == 0 { 1 } else { 2 });
        }
        for row in &layout.chains {
            region.assign_fixed(self.chain, row.row, int::<Fr>(row.coefficient.into()));
        }
        for (at, (group, row)) in layout.rows().enumerate() {
            let Some(group) = group else { continue };
            for lane in 0..layout.lanes {
                let token = group * layout.lanes + lane;
                match (row, &spec.scales.rope) {
                    (Row::Feature { pair, second, .. }, Some(rope)) => {
                        let (cos, sin) = tables::rotary_entry(rope, spec.shape.head_dim, token, pair);
                        region.assign_fixed(self.cos[lane], at, signed(cos));
                        region.assign_fixed(self.sin[lane], at, signed(if second { sin } else { -sin }));
                    }
                    (Row::Score { key, .. }, _) if key <= token => {
                        region.assign_fixed(self.mask[lane], at, Fr::ONE);
                    }
                    _ => {}
                }
            }
        }
        self.logup.assign_tables(region, layout.active, table_entries(layout));
    }
}

/// All table entries of a layout as `(in, out, tag)`.
pub(crate) fn table_entries(layout: &Layout) -> impl Iterator<Item = (i32, i32, u32)> + '_ {
    let inputs = layout.tables.spans.iter().enumerate().flat_map(|(i, &(_, first, size))| {
        (0..size as i32).map(move |offset| (first + offset, i as u32 + 1))
    });
    inputs.zip(layout.table_outputs()).map(|((input, tag), &output)| (input, output, tag))
}

/// A row of zeros, to enumerate relations.
struct ZeroView;

impl RowView<Fr> for ZeroView {
    fn cell(&self, _: usize, _: usize) -> Fr {
        Fr::ZERO
    }
    fn rotary(&self, _: usize) -> (Fr, Fr) {
        (Fr::ZERO, Fr::ZERO)
    }
    fn mask(&self, _: usize) -> Fr {
        Fr::ZERO
    }
    fn a_x(&self) -> Fr {
        Fr::ZERO
    }
}

/// A cell of an advice column, for copy constraints.
fn cell_at(column: Column<Advice>, row: usize) -> Cell {
    Cell { row_offset: row, column: Column::<Any>::from(column) }
}

impl Columns {
    /// All advice columns.
    pub fn advice(&self) -> Vec<Column<Advice>> {
        let l = &self.logup;
        let groups: [&[Column<Advice>]; 7] = [
            &self.boundary_in,
            &self.boundary_out,
            &self.weights,
            &l.multiplicities,
            &l.helpers,
            &l.table_helpers,
            &[self.a_in, self.a_out, self.a_x, self.a_s, self.wa, self.wb, self.acc, l.sum],
        ];
        groups.into_iter().flatten().chain(self.cells.iter().flatten()).copied().collect()
    }
}

impl Circuit<Fr> for BlockCircuit {
    type Config = (Columns, Arc<Layout>);
    type FloorPlanner = SimpleFloorPlanner;
    type Params = BlockParams;

    fn params(&self) -> BlockParams {
        self.params.clone()
    }

    fn without_witnesses(&self) -> Self {
        BlockCircuit { witness: None, ..self.clone() }
    }

    fn configure_with_params(meta: &mut ConstraintSystem<Fr>, params: BlockParams) -> Self::Config {
        // Callers check the parameters first; halo2 leaves no way to return an error here.
        #[expect(clippy::expect_used, reason = "documented precondition: params.layout() is Ok")]
        let layout = params.layout().expect("parameters were checked by BlockParams::layout");
        let columns = Columns::allocate(meta, &layout);
        columns.accumulator_gates(meta, &layout);
        columns.product_gates(meta, &layout);
        columns.lookup_gates(meta, &layout);
        meta.set_minimum_degree(DEGREE);
        (columns, Arc::new(layout))
    }

    fn configure(_: &mut ConstraintSystem<Fr>) -> Self::Config {
        unreachable!("halo2 calls configure_with_params when circuits have parameters")
    }

    fn synthesize(
        &self,
        (columns, layout): Self::Config,
        mut layouter: impl Layouter<Fr>,
    ) -> Result<(), Error> {
        layouter.assign_region(
            || "block",
            |mut region| {
                columns.assign_fixed(&mut region, &layout);
                let witness = self.witness.as_deref().map(|witness| witness as &dyn Witness);
                assign_witness(&mut region, &columns.advice(), witness, &[&columns.challenges.list()]);
                for (a, b) in copies(&layout) {
                    let [a, b] = [a, b].map(|(port, row)| cell_at(columns.port(port), row));
                    region.constrain_equal(a, b);
                }
                Ok(())
            },
        )
    }
}

/// Every copy constraint of a layout.
pub fn copies(layout: &Layout) -> Vec<((Port, usize), (Port, usize))> {
    let mut copies = vec![];
    for op in &layout.weight_ops {
        for k in 0..op.activations() {
            copies.push(((Port::In, op.input_row + k), (Port::Left, op.start + k * op.blocks)));
        }
    }
    for op in &layout.pair_ops {
        for (i, &(a, b)) in op.factors.iter().enumerate() {
            copies.push((a, (Port::Left, op.start + i)));
            copies.push((b, (Port::Right, op.start + i)));
        }
    }
    for row in &layout.chains {
        copies.push((row.source, (Port::Right, row.row)));
    }
    copies.extend(layout.equalities.iter().copied());
    copies
}

impl Default for BlockParams {
    /// The smallest block that has every operation; halo2 asks for a default.
    fn default() -> Self {
        crate::testing::tiny_params()
    }
}

impl SliceCircuit for BlockCircuit {
    fn check(params: &BlockParams) -> Result<(), RefusedParams> {
        if params.k > 20 {
            return Err(RefusedParams { reason: "k is above 20" });
        }
        match params.layout() {
            Ok(layout) => {
                let [cells, tables] = [SLOTS.saturating_mul(layout.lanes), layout.table_columns()];
                let linked = layout.weight_lanes.saturating_add(2 * layout.boundary.columns);
                if cells.saturating_add(tables).saturating_add(linked) > MAX_COLUMNS {
                    return Err(RefusedParams { reason: "the block has too many columns" });
                }
                Ok(())
            }
            Err(LayoutError::Spec(_)) => {
                Err(RefusedParams { reason: "the block's specification breaks a static bound" })
            }
            Err(LayoutError::Lanes { .. }) => {
                Err(RefusedParams { reason: "the lanes do not divide the tokens" })
            }
            Err(_) => Err(RefusedParams { reason: "the block does not fit its rows" }),
        }
    }

    fn log_n(params: &BlockParams) -> u32 {
        params.k
    }

    fn degree(_: &BlockParams) -> usize {
        DEGREE
    }

    fn weight_bits(params: &BlockParams) -> Option<u32> {
        Some(params.spec.weight_bits)
    }

    fn linked(params: &BlockParams) -> LinkedColumns {
        let Ok(layout) = params.layout() else { return LinkedColumns::default() };
        let b = layout.boundary.columns;
        LinkedColumns {
            boundary_in: 0..b,
            boundary_out: b..2 * b,
            weights: 2 * b..2 * b + layout.weight_lanes,
        }
    }
}
