//! Columns of later phases: the circuit's gates, solved on the device.

use std::{collections::HashMap, sync::Arc};

use ff::Field;
use lamina_circuits::{Fr, witness::Copies};
use lamina_kernels::{
    CellCopy, Code, Column as DeviceColumn, Matrix, Program as DeviceProgram, Relation as Linked,
};

use super::{Cuda, CudaKey, instructions};
use crate::{
    backend::{
        Columns,
        program::{Program, Slot},
    },
    derivation::{Derivation, Derived, Relation},
    error::BackendError,
    expression::{Identity, Node, NodeId, Source},
    tape::{Scalar, Tape, Values},
};

/// Columns of field elements that a relation takes while it is solved, beside those that it reads: factors, their inverses,
/// rest, links, the cells before and after a round with their weights.
const RELATION_COLUMNS: usize = 10;

/// The columns that are there and those under way.
fn with<'a>(
    columns: &Columns<'a, DeviceColumn>,
    late: &'a HashMap<usize, DeviceColumn>,
) -> Columns<'a, DeviceColumn> {
    let mut advice = columns.advice.clone();
    for (&at, late) in late {
        advice[at] = Some(late);
    }
    Columns { advice, instance: columns.instance.clone(), product: columns.product.clone() }
}

/// What [`Cuda`] keeps of a derivation.
#[derive(Debug)]
pub struct CudaDerivation {
    columns: Vec<usize>,
    steps: Vec<Compiled>,
    tape: Tape,
}

#[derive(Debug)]
enum Compiled {
    Solve(Box<Solving>),
    Copy(Copying),
}

/// Cells that are copied.
#[derive(Debug)]
struct Copying {
    /// The advice column that is written.
    column: usize,
    /// Those that are read.
    sources: Vec<usize>,
    cells: Vec<CellCopy>,
}

impl Copying {
    fn new(copies: &Copies) -> Self {
        let mut sources: Vec<usize> = copies.cells.iter().map(|(source, ..)| *source).collect();
        sources.sort_unstable();
        sources.dedup();
        let cell = |&(source, from, to): &(usize, u32, u32)| CellCopy {
            source: sources.partition_point(|other| *other < source) as u32,
            from,
            to,
        };
        let cells = copies.cells.iter().map(cell).collect();
        Copying { column: copies.column, sources, cells }
    }
}

/// Some relations and the programs of their parts.
#[derive(Debug)]
struct Solving {
    /// The advice columns.
    columns: Vec<usize>,
    relations: Vec<Linked>,
    slots: Vec<Slot>,
    /// What multiplies the cells.
    factors: Code<Scalar>,
    /// What is left without them, then the links of all relations.
    rests: Code<Scalar>,
}

impl CudaDerivation {
    /// For `n` rows; `round`: columns of field elements that may be worked on at once.
    pub(super) fn new(derivation: Derivation, round: usize, n: usize) -> Result<Self, BackendError> {
        let Derivation { columns, steps: derived, identity: Identity { nodes, mut tape, .. } } = derivation;
        let at_once = (round / RELATION_COLUMNS).max(1);
        let mut steps = Vec::new();
        for step in derived {
            match step {
                Derived::Solve(relations) => {
                    // Rounds over the rows are for relations that link some.
                    let (alone, linked): (Vec<_>, Vec<_>) =
                        relations.iter().partition(|one| one.affine.factors.len() == 1);
                    let groups = alone.chunks(at_once).chain(linked.chunks(at_once));
                    for relations in groups {
                        steps.push(Compiled::Solve(Box::new(Solving::new(relations, &nodes, &mut tape, n)?)));
                    }
                }
                Derived::Copy(copies) => steps.push(Compiled::Copy(Copying::new(&copies))),
            }
        }
        Ok(CudaDerivation { columns, steps, tape })
    }
}

impl Solving {
    fn new(relations: &[&Relation], nodes: &[Node], tape: &mut Tape, n: usize) -> Result<Self, BackendError> {
        let mut roots: Vec<NodeId> = relations.iter().map(|one| one.affine.factors[&one.rotation]).collect();
        roots.extend(relations.iter().map(|one| one.affine.rest));
        let mut linked = Vec::with_capacity(relations.len());
        for Relation { rotation, affine, .. } in relations {
            let mut links = Vec::new();
            for (other, factor) in affine.factors.iter().filter(|(other, _)| *other != rotation) {
                links.push((*other, roots.len() - 2 * relations.len()));
                roots.push(*factor);
            }
            linked.push(Linked { at: *rotation, links });
        }
        let (slots, programs) = Program::on_rows(nodes, tape, &roots);
        let (factors, rests) = programs.split_at(relations.len());
        let code =
            |programs: &[Program]| Code::new(n, &programs.iter().map(instructions).collect::<Vec<_>>());
        Ok(Solving {
            columns: relations.iter().map(|one| one.column).collect(),
            relations: linked,
            slots,
            factors: code(factors)?,
            rests: code(rests)?,
        })
    }
}

impl Cuda {
    /// See [`crate::Backend::derive`].
    pub(super) fn derive_columns(
        &self,
        key: &CudaKey,
        columns: &Columns<'_, DeviceColumn>,
        derivation: &CudaDerivation,
        challenges: &[Fr],
        tails: &[Vec<Fr>],
    ) -> Result<Vec<DeviceColumn>, BackendError> {
        let values = derivation.tape.values(challenges);
        let zeros = Arc::new(Matrix::<Fr>::zeros(&self.device, 1, key.n)?);
        let mut late = HashMap::new();
        for &column in &derivation.columns {
            late.insert(column, DeviceColumn::of_matrix(&zeros, 0)?);
        }
        for step in &derivation.steps {
            match step {
                Compiled::Solve(solving) => {
                    let solved = self.solve(key, &with(columns, &late), solving, &values)?;
                    for (at, column) in solving.columns.iter().enumerate() {
                        late.insert(*column, DeviceColumn::of_matrix(&solved, at)?);
                    }
                }
                Compiled::Copy(copying) => {
                    let columns = with(columns, &late);
                    let column = |at: usize| key.column(&columns, Source::Advice(at));
                    let sources: Vec<&DeviceColumn> = copying.sources.iter().map(|at| column(*at)).collect();
                    let prior = Some(column(copying.column));
                    let copied = self.device.scatter(prior, &sources, &copying.cells, key.n)?;
                    late.insert(copying.column, DeviceColumn::of_matrix(&Arc::new(copied), 0)?);
                }
            }
        }
        let derived = derivation.columns.iter().filter_map(|at| late.remove(at));
        self.with_tails(derived.collect(), tails)
    }

    /// The columns of some relations, one column each.
    fn solve(
        &self,
        key: &CudaKey,
        columns: &Columns<'_, DeviceColumn>,
        solving: &Solving,
        scalars: &Values,
    ) -> Result<Arc<Matrix<Fr>>, BackendError> {
        let device = &self.device;
        let values = self.slot_values(key, columns, &solving.slots, scalars)?;
        let evaluated = |code: &Code<Scalar>| -> Result<Matrix<Fr>, BackendError> {
            let program = DeviceProgram::new(device, code, |scalar| scalars[scalar])?;
            Ok(device.run(&program, &values, Fr::ONE)?)
        };
        let inverses = device.invert(&evaluated(&solving.factors)?)?;
        let rests = evaluated(&solving.rests)?;
        let prior: Vec<&DeviceColumn> =
            solving.columns.iter().map(|at| key.column(columns, Source::Advice(*at))).collect();
        let prior = device.expand(&prior, key.n)?;
        Ok(Arc::new(device.solve(&prior, &inverses, &rests, &solving.relations)?))
    }
}
