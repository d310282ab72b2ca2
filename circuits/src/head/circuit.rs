//! The circuit of a head: columns, gates, fixed assignment.

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

use super::{
    assign::HeadWitness,
    layout::{HeadLayout, HeadParams, Port, PortCell},
    rows::{F, Kind, LOOKUPS, Programs, SLOTS, Terms, View},
};
use crate::{
    Fr,
    audit::Copy,
    block::DEGREE,
    layout::LayoutError,
    logup::{LogUp, tuple},
    rows::{Challenges, combination, int, pow2, power},
    slice::{LinkedColumns, MAX_COLUMNS, RefusedParams, SliceCircuit},
    tables::Table,
    witness::{Witness, assign_witness},
};

/// All columns and challenges of the head circuit.
#[derive(Clone, Debug)]
pub struct HeadColumns {
    /// Input boundary, linked.
    pub input: Vec<Column<Advice>>,
    /// Output boundary, linked: positions and ids.
    pub output: Column<Advice>,
    /// The matrix, linked.
    pub weights: Vec<Column<Advice>>,
    /// Cells, `[slot][lane]`.
    pub cells: Vec<Vec<Column<Advice>>>,
    /// Combinations that products read; sums of ids.
    pub a_in: Column<Advice>,
    /// Logits, remainders, positions.
    pub a_out: Column<Advice>,
    /// The stream, and the maximum.
    pub a_x: Column<Advice>,
    /// Left factor.
    pub wa: Column<Advice>,
    /// Right factor, output boundary.
    pub wb: Column<Advice>,
    /// Product accumulator.
    pub acc: Column<Advice>,
    /// Accumulators of the input boundary columns.
    pub tokens: Vec<Column<Advice>>,
    /// Sums down the rows.
    pub a_s: Column<Advice>,
    /// Lookups.
    pub logup: LogUp,
    kinds: Vec<(Kind, Column<Fixed>)>,
    index: Column<Fixed>,
    link_in: Column<Fixed>,
    link_out: Column<Fixed>,
    link_x: Column<Fixed>,
    link_s: Column<Fixed>,
    /// Where a sum must be zero, and where it must be one for each position.
    closes: [Column<Fixed>; 2],
    on_weights: Column<Fixed>,
    on_pairs: Column<Fixed>,
    link_acc: Column<Fixed>,
    link_wa: Column<Fixed>,
    /// `2^s` on the first row of the gain's bias, where it has one.
    bias: Option<Column<Fixed>>,
    on_boundary: Column<Fixed>,
    link_boundary: Column<Fixed>,
    on_output: Column<Fixed>,
    link_output: Column<Fixed>,
    /// The statement's digest.
    pub instance: Column<Instance>,
    challenges: Challenges<Challenge>,
}

/// Reads a row as halo2 expressions.
struct GateView<'a, 'b> {
    meta: RefCell<&'a mut VirtualCells<'b, Fr>>,
    columns: &'a HeadColumns,
}

type E = Expression<Fr>;

impl GateView<'_, '_> {
    fn fixed(&self, column: Column<Fixed>) -> E {
        self.meta.borrow_mut().query_fixed(column, Rotation::cur())
    }

    fn advice(&self, column: Column<Advice>, at: usize) -> E {
        self.meta.borrow_mut().query_advice(column, Rotation(at as i32))
    }

    fn challenges(&self) -> Challenges<E> {
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

    /// The sum of the selectors of `kinds`.
    fn any(&self, kinds: &[Kind]) -> E {
        let selectors = self.columns.kinds.iter().filter(|(kind, _)| kinds.contains(kind));
        selectors.map(|&(_, column)| self.fixed(column)).reduce(|a, b| a + b).unwrap_or_else(|| int(0))
    }
}

impl View<E> for GateView<'_, '_> {
    fn cell(&self, slot: usize, lane: usize) -> E {
        self.advice(self.columns.cells[slot][lane], 0)
    }

    fn index(&self) -> E {
        self.fixed(self.columns.index)
    }

    fn a_x(&self) -> E {
        self.advice(self.columns.a_x, 0)
    }

    fn below(&self) -> E {
        self.fixed(self.columns.link_s) * self.advice(self.columns.a_s, 1)
    }
}

impl HeadColumns {
    fn allocate(meta: &mut ConstraintSystem<Fr>, layout: &HeadLayout) -> Self {
        let first =
            |meta: &mut ConstraintSystem<Fr>, n| (0..n).map(|_| meta.advice_column_in(FirstPhase)).collect();
        let input = first(meta, layout.boundary.columns);
        let output = meta.advice_column_in(FirstPhase);
        let weights = first(meta, layout.matrix.lanes);
        let cells = (0..SLOTS).map(|_| first(meta, layout.lanes)).collect();
        let multiplicities = LogUp::multiplicities(meta, layout.table_columns());
        let mut second = || {
            let column = meta.advice_column_in(SecondPhase);
            meta.enable_equality(column);
            column
        };
        let [a_in, a_out, a_x, wa, wb, acc] = [(); 6].map(|()| second());
        let tokens = (0..layout.boundary.columns).map(|_| second()).collect();
        let a_s = meta.advice_column_in(SecondPhase);
        let active = meta.fixed_column();
        let logup = LogUp::new(meta, multiplicities, LOOKUPS * layout.lanes, active);
        let kinds = layout.kinds.iter().map(|&kind| (kind, meta.fixed_column())).collect();
        let mut one = || meta.fixed_column();
        HeadColumns {
            input,
            output,
            weights,
            cells,
            a_in,
            a_out,
            a_x,
            wa,
            wb,
            acc,
            tokens,
            a_s,
            logup,
            kinds,
            index: one(),
            link_in: one(),
            link_out: one(),
            link_x: one(),
            link_s: one(),
            closes: [one(), one()],
            on_weights: one(),
            on_pairs: one(),
            link_acc: one(),
            link_wa: one(),
            on_boundary: one(),
            link_boundary: one(),
            on_output: one(),
            link_output: one(),
            bias: layout.spec.gain_bias.map(|_| one()),
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
            Port::Boundary(column) => self.tokens[column],
        }
    }

    /// Every copy constraint, by advice index.
    pub fn copies(&self, layout: &HeadLayout) -> Vec<Copy> {
        let cell = |(port, row): PortCell| (self.port(port).index(), row);
        layout.copies().into_iter().map(|(a, b)| (cell(a), cell(b))).collect()
    }

    fn advice(&self) -> Vec<Column<Advice>> {
        let l = &self.logup;
        let groups: [&[Column<Advice>]; 8] = [
            &self.input,
            &[self.output],
            &self.weights,
            &l.multiplicities,
            &self.tokens,
            &l.helpers,
            &l.table_helpers,
            &[self.a_in, self.a_out, self.a_x, self.wa, self.wb, self.acc, self.a_s, l.sum],
        ];
        groups.into_iter().flatten().chain(self.cells.iter().flatten()).copied().collect()
    }

    fn gate(
        &self,
        meta: &mut ConstraintSystem<Fr>,
        id: &'static str,
        build: impl FnOnce(&GateView<'_, '_>) -> E,
    ) {
        meta.create_gate(id, |meta| {
            let view = GateView { meta: RefCell::new(meta), columns: self };
            [build(&view)]
        });
    }

    fn accumulator_gates(&self, meta: &mut ConstraintSystem<Fr>, layout: &HeadLayout) {
        let spec = &layout.spec;
        let programs = Programs { spec };
        let one = || int::<E>(1);
        // Sum over the kinds of selector times term.
        let selected = |v: &GateView<'_, '_>, pick: &dyn Fn(Terms<E>) -> Option<E>| {
            let c = v.challenges();
            let terms = self.kinds.iter().filter_map(|&(kind, column)| {
                let term = pick(programs.terms(kind, layout.chunks_of(kind), &c, v))?;
                Some(v.fixed(column) * term)
            });
            terms.reduce(|a, b| a + b).unwrap_or_else(|| int(0))
        };
        let active = |v: &GateView<'_, '_>, column| v.fixed(self.logup.active) * v.advice(column, 0);
        self.gate(meta, "in/1", |v| {
            let tail = v.fixed(self.link_in) * v.advice(self.a_in, 1);
            active(v, self.a_in) - selected(v, &|t| t.a_in) - tail
        });
        self.gate(meta, "out/1", |v| {
            let (logit, gain) = (v.any(&[Kind::Logit]), v.any(&[Kind::Gain]));
            let gamma = v.challenges().gamma;
            let weight =
                logit.clone() * power(&gamma, layout.chunks) + gain.clone() * gamma + one() - logit - gain;
            let tail = v.fixed(self.link_out) * weight * v.advice(self.a_out, 1);
            active(v, self.a_out) - selected(v, &|t| t.a_out) - tail
        });
        self.gate(meta, "stream/1", |v| {
            let stream = v.any(&[Kind::Stream]);
            let weight = stream.clone() * v.challenges().gamma + one() - stream;
            let tail = v.fixed(self.link_x) * weight * v.advice(self.a_x, 1);
            active(v, self.a_x) - selected(v, &|t| t.a_x) - tail
        });
        self.gate(meta, "sum/1", |v| {
            let tail = v.fixed(self.link_s) * v.advice(self.a_s, 1);
            active(v, self.a_s) - selected(v, &|t| t.a_s) - tail
        });
        self.gate(meta, "sum/2", |v| v.fixed(self.closes[0]) * v.advice(self.a_s, 0));
        self.gate(meta, "sum/3", |v| {
            v.fixed(self.closes[1]) * (v.advice(self.a_s, 0) - programs.ones(&v.challenges()))
        });
        self.gate(meta, "factor/1", |v| {
            let change = combination(&v.challenges().alpha, spec.positions, |l| {
                v.cell(F, l) - v.advice(self.cells[F][l], 1)
            });
            v.any(&[Kind::Stream, Kind::Square]) * change
        });
        // The rest of a feature's requantisation stands `stride` rows below.
        self.gate(meta, "head-norm/4", |v| {
            let c = v.challenges();
            let shift = spec.norm.norm_shift;
            let (scaled, n) = programs.feature(&c, v);
            let raw = n * pow2::<E>(shift) + v.advice(self.a_out, layout.stride)
                - programs.ones(&c) * pow2::<E>(shift - 1);
            v.any(&[Kind::Stream]) * (raw - scaled)
        });
        self.gate(meta, "norm/3", |v| v.any(&[Kind::Square]) * v.advice(self.a_out, 0));
        for &(kind, column) in &self.kinds {
            let chunks = layout.chunks_of(kind);
            // The ids do not depend on the view; take them from a row of zeros.
            let zero = int::<Fr>(0);
            let zeros = Challenges { alpha: zero, gamma: zero, eta: zero, theta: zero, beta: zero };
            for (i, (id, _)) in programs.relations(kind, chunks, &zeros, &Zeros).into_iter().enumerate() {
                self.gate(meta, id, |v| {
                    let relation = programs.relations(kind, chunks, &v.challenges(), v).swap_remove(i).1;
                    v.fixed(column) * relation
                });
            }
        }
    }

    fn product_gates(&self, meta: &mut ConstraintSystem<Fr>, layout: &HeadLayout) {
        self.gate(meta, "product/1", |v| {
            let c = v.challenges();
            let (wa, wb) = (v.advice(self.wa, 0), v.advice(self.wb, 0));
            let weights = combination(&c.gamma, layout.matrix.lanes, |l| v.advice(self.weights[l], 0));
            v.fixed(self.logup.active) * v.advice(self.acc, 0)
                - wa * (v.fixed(self.on_weights) * weights + v.fixed(self.on_pairs) * wb)
                - v.fixed(self.link_acc) * v.advice(self.acc, 1)
        });
        self.gate(meta, "product/2", |v| {
            let step = power(&v.challenges().gamma, layout.matrix.lanes);
            v.fixed(self.link_wa) * (v.advice(self.wa, 1) - step * v.advice(self.wa, 0))
        });
        if let Some(bias) = self.bias {
            let programs = Programs { spec: &layout.spec };
            self.gate(meta, "product/3", |v| {
                let shifted = v.fixed(bias);
                shifted.clone() * (v.advice(self.wa, 0) - shifted * programs.ones(&v.challenges()))
            });
        }
        for (&input, &token) in self.input.iter().zip(&self.tokens) {
            self.gate(meta, "boundary/1", |v| {
                let tail = v.fixed(self.link_boundary) * v.challenges().gamma * v.advice(token, 1);
                v.fixed(self.logup.active) * v.advice(token, 0)
                    - v.fixed(self.on_boundary) * v.advice(input, 0)
                    - tail
            });
        }
        self.gate(meta, "boundary/2", |v| {
            let tail = v.fixed(self.link_output) * v.challenges().alpha * v.advice(self.wb, 1);
            v.fixed(self.on_output) * (v.advice(self.wb, 0) - v.advice(self.output, 0)) - tail
        });
    }

    fn lookup_gates(&self, meta: &mut ConstraintSystem<Fr>, layout: &HeadLayout) {
        let tag = |table: Table| int::<E>(layout.tables.index(table) as i128 + 1);
        let idle = Table::Signed(layout.spec.norm.act_bits);
        self.logup.gates(meta, self.challenges.theta, self.challenges.beta, |meta| {
            let view = GateView { meta: RefCell::new(meta), columns: self };
            let theta = view.challenges().theta;
            // The tag of a slot: that of an idle row, or of the row's kind.
            let tags: Vec<_> = (0..LOOKUPS)
                .map(|slot| {
                    let own = |kind: Kind| kind.tables(&layout.spec)[slot];
                    self.kinds
                        .iter()
                        .filter(|(kind, _)| own(*kind) != idle)
                        .fold(tag(idle), |sum, &(kind, column)| {
                            sum + view.fixed(column) * (tag(own(kind)) - tag(idle))
                        })
                })
                .collect();
            (0..layout.lanes)
                .flat_map(|lane| {
                    let (view, theta, tags) = (&view, &theta, &tags);
                    (0..LOOKUPS)
                        .map(move |slot| tuple(view.cell(slot, lane), None, tags[slot].clone(), theta))
                })
                .collect()
        });
    }

    fn assign_fixed(&self, region: &mut Region<'_, Fr>, layout: &HeadLayout) {
        let (d, matrix, p) = (layout.spec.norm.hidden, &layout.matrix, layout.spec.positions);
        let mut put = |column: Column<Fixed>, row: usize, value: usize| {
            if value != 0 {
                region.assign_fixed(column, row, Fr::from(value as u64));
            }
        };
        for row in 0..layout.active {
            put(self.logup.active, row, 1);
            let weights = matrix.rows() + layout.gain.rows();
            put(self.on_weights, row, usize::from(row < weights));
            let in_pairs = |row: usize| (layout.pairs..layout.pairs + layout.spec.tokens).contains(&row);
            put(self.on_pairs, row, usize::from(in_pairs(row)));
            let linked = row + 1 < weights && row + 1 != matrix.rows() || in_pairs(row) && in_pairs(row + 1);
            put(self.link_acc, row, usize::from(linked));
            let (first, blocks) =
                if row < matrix.rows() { (0, matrix.blocks) } else { (matrix.rows(), layout.gain.blocks) };
            let block = row < weights && !(row + 1 - first).is_multiple_of(blocks);
            put(self.link_wa, row, usize::from(block));
            let boundary = row < layout.boundary.rows();
            put(self.on_boundary, row, usize::from(boundary));
            put(self.link_boundary, row, usize::from(boundary && !(row + 1).is_multiple_of(d)));
            put(self.on_output, row, usize::from(row < 2 * p));
            put(self.link_output, row, usize::from(row < 2 * p && !(row + 1).is_multiple_of(p)));
        }
        for row in 0..=layout.max {
            let Some(kind) = layout.kind(row) else { continue };
            for &(own, column) in &self.kinds {
                put(column, row, usize::from(own == kind));
            }
            put(self.index, row, layout.index(row));
            put(self.link_in, row, usize::from(layout.link_in(row)));
            put(self.link_out, row, usize::from(layout.link_out(row)));
            put(self.link_x, row, usize::from(layout.link_stream(row)));
            put(self.link_s, row, usize::from(layout.link_sum(row)));
        }
        if let (Some((row, shift)), Some(column)) = (layout.bias_row(), self.bias) {
            put(column, row, 1 << shift);
        }
        put(self.closes[0], 0, 1);
        put(self.closes[1], layout.select, 1);
        put(self.closes[1], layout.logits, 1);
        self.logup.assign_tables(region, layout.active, layout.tables.ranges());
    }
}

/// A row of zeros, to enumerate relations.
struct Zeros;

impl View<Fr> for Zeros {
    fn cell(&self, _: usize, _: usize) -> Fr {
        Fr::ZERO
    }
    fn index(&self) -> Fr {
        Fr::ZERO
    }
    fn a_x(&self) -> Fr {
        Fr::ZERO
    }
    fn below(&self) -> Fr {
        Fr::ZERO
    }
}

/// The circuit of a head. Without a witness it serves key generation.
#[derive(Clone, Debug)]
pub struct HeadCircuit {
    /// Public parameters.
    pub params: HeadParams,
    /// The layout of `params`.
    pub layout: Arc<HeadLayout>,
    /// Columns of phase 0.
    pub witness: Option<Arc<HeadWitness>>,
}

impl HeadCircuit {
    /// The circuit without a witness.
    ///
    /// # Errors
    /// See [`HeadParams::layout`].
    pub fn new(params: &HeadParams) -> Result<Self, LayoutError> {
        Ok(Self { params: params.clone(), layout: Arc::new(params.layout()?), witness: None })
    }

    /// The circuit with a witness laid out for the same parameters.
    pub fn with_witness(&self, witness: Arc<HeadWitness>) -> Self {
        Self { witness: Some(witness), ..self.clone() }
    }
}

impl Default for HeadParams {
    /// The smallest head of the tests; halo2 asks for a default.
    fn default() -> Self {
        crate::testing::tiny_head()
    }
}

impl Circuit<Fr> for HeadCircuit {
    type Config = (HeadColumns, Arc<HeadLayout>);
    type FloorPlanner = SimpleFloorPlanner;
    type Params = HeadParams;

    fn params(&self) -> HeadParams {
        self.params.clone()
    }

    fn without_witnesses(&self) -> Self {
        Self { witness: None, ..self.clone() }
    }

    fn configure_with_params(meta: &mut ConstraintSystem<Fr>, params: HeadParams) -> Self::Config {
        // Callers check the parameters first; halo2 leaves no way to return an error here.
        #[expect(clippy::expect_used, reason = "documented precondition: params.layout() is Ok")]
        let layout = params.layout().expect("parameters were checked by HeadParams::layout");
        let columns = HeadColumns::allocate(meta, &layout);
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
            || "head",
            |mut region| {
                columns.assign_fixed(&mut region, &layout);
                let witness = self.witness.as_deref().map(|witness| witness as &dyn Witness);
                assign_witness(&mut region, &columns.advice(), witness, &[&columns.challenges.list()]);
                for (a, b) in layout.copies() {
                    let [a, b] = [a, b].map(|(port, row)| Cell {
                        row_offset: row,
                        column: Column::<Any>::from(columns.port(port)),
                    });
                    region.constrain_equal(a, b);
                }
                Ok(())
            },
        )
    }
}

impl SliceCircuit for HeadCircuit {
    fn check(params: &HeadParams) -> Result<(), RefusedParams> {
        if params.k > 20 {
            return Err(RefusedParams { reason: "k is above 20" });
        }
        if params.weight_lanes > MAX_COLUMNS {
            return Err(RefusedParams { reason: "the head has too many weight columns" });
        }
        match params.layout() {
            Ok(_) => Ok(()),
            Err(LayoutError::Spec(_)) => {
                Err(RefusedParams { reason: "the head's specification breaks a static bound" })
            }
            Err(_) => Err(RefusedParams { reason: "the head does not fit its rows" }),
        }
    }

    fn log_n(params: &HeadParams) -> u32 {
        params.k
    }

    fn degree(_: &HeadParams) -> usize {
        DEGREE
    }

    fn weight_bits(params: &HeadParams) -> Option<u32> {
        Some(params.spec.weight_bits)
    }

    fn linked(params: &HeadParams) -> LinkedColumns {
        let Ok(layout) = params.layout() else { return LinkedColumns::default() };
        let b = layout.boundary.columns;
        LinkedColumns {
            boundary_in: 0..b,
            boundary_out: b..b + 1,
            weights: b + 1..b + 1 + layout.matrix.lanes,
        }
    }
}
