//! Columns of later phases: the circuit's gates, solved on the device.

use std::{collections::HashMap, sync::Arc};

use ff::Field;
use lamina_circuits::{Fr, witness::Copies};
use lamina_kernels::{
    CellCopy, Column as DeviceColumn, Matrix, Program as DeviceProgram, Relation as Linked,
};

use super::{Cuda, CudaColumn, CudaKey, instructions};
use crate::{
    backend::{Columns, program::Program},
    derivation::{Derivation, Derived, Relation},
    error::BackendError,
    expression::{Identity, NodeId, Source},
};

/// Columns of field elements that a relation takes while it is solved, beside those that it reads: factors, their inverses,
/// rest, links, the cells before and after a round with their weights.
const RELATION_COLUMNS: usize = 10;

/// A column under way: column `at` of a matrix.
struct Late {
    matrix: Arc<Matrix<Fr>>,
    at: usize,
    column: CudaColumn,
}

impl Late {
    fn new(matrix: &Arc<Matrix<Fr>>, at: usize) -> Result<Self, BackendError> {
        let column = CudaColumn { column: DeviceColumn::of_matrix(matrix, at)?, tail: Vec::new() };
        Ok(Late { matrix: matrix.clone(), at, column })
    }
}

/// The columns that are there and those under way.
fn with<'a>(columns: &Columns<'a, CudaColumn>, late: &'a HashMap<usize, Late>) -> Columns<'a, CudaColumn> {
    let mut advice = columns.advice.clone();
    for (&at, late) in late {
        advice[at] = Some(&late.column);
    }
    Columns { advice, instance: columns.instance.clone(), product: columns.product.clone() }
}

impl Cuda {
    /// See [`crate::Backend::derive`].
    pub(super) fn derive_columns(
        &self,
        key: &CudaKey,
        columns: &Columns<'_, CudaColumn>,
        derivation: &Derivation<'_>,
        tails: &[Vec<Fr>],
    ) -> Result<Vec<CudaColumn>, BackendError> {
        let zeros = Arc::new(Matrix::zeros(&self.device, 1, key.n)?);
        let mut late = HashMap::new();
        for &column in &derivation.columns {
            late.insert(column, Late::new(&zeros, 0)?);
        }
        let at_once = (self.round(key.n) / RELATION_COLUMNS).max(1);
        for step in &derivation.steps {
            match step {
                Derived::Solve(relations) => {
                    // Rounds over the rows are for relations that link some.
                    let (alone, linked): (Vec<_>, Vec<_>) =
                        relations.iter().partition(|one| one.affine.factors.len() == 1);
                    for relations in alone.chunks(at_once).chain(linked.chunks(at_once)) {
                        let solved = self.solve(key, &with(columns, &late), relations)?;
                        for (at, relation) in relations.iter().enumerate() {
                            late.insert(relation.column, Late::new(&solved, at)?);
                        }
                    }
                }
                Derived::Copy(copies) => {
                    let copied = self.copy(key, &with(columns, &late), copies)?;
                    late.insert(copies.column, Late::new(&copied, 0)?);
                }
            }
        }
        let mut derived = Vec::with_capacity(derivation.columns.len());
        for (at, tail) in derivation.columns.iter().zip(tails) {
            if let Some(Late { matrix, at, .. }) = late.remove(at) {
                let column = DeviceColumn::of_matrix(&matrix, at)?.with_tail(&self.device, tail)?;
                derived.push(CudaColumn { column, tail: Vec::new() });
            }
        }
        Ok(derived)
    }

    /// The columns of some relations, one column each.
    fn solve(
        &self,
        key: &CudaKey,
        columns: &Columns<'_, CudaColumn>,
        relations: &[&Relation<'_>],
    ) -> Result<Arc<Matrix<Fr>>, BackendError> {
        let device = &self.device;
        // What multiplies the cells, what is left without them, then the links of all relations.
        let mut roots: Vec<(&Identity, NodeId)> =
            relations.iter().map(|one| (&one.identity, one.affine.factors[&one.rotation])).collect();
        roots.extend(relations.iter().map(|one| (&one.identity, one.affine.rest)));
        let mut linked = Vec::with_capacity(relations.len());
        for Relation { rotation, affine, identity, .. } in relations {
            let mut links = Vec::new();
            for (other, factor) in affine.factors.iter().filter(|(other, _)| *other != rotation) {
                links.push((*other, roots.len() - 2 * relations.len()));
                roots.push((identity, *factor));
            }
            linked.push(Linked { at: *rotation, links });
        }
        let (slots, programs) = Program::on_rows(&roots);
        let values = self.slot_values(key, columns, &slots)?;
        let evaluated = |programs: &[Program]| -> Result<Matrix<Fr>, BackendError> {
            let mut all = Matrix::zeros(device, programs.len(), key.n)?;
            for (at, program) in programs.iter().enumerate() {
                let code = DeviceProgram::new(device, key.n, &instructions(program))?;
                all.place(device, at, &device.run(&code, &values, Fr::ONE)?)?;
            }
            Ok(all)
        };
        let (factors, others) = programs.split_at(relations.len());
        let (rests, links) = others.split_at(relations.len());
        let inverses = device.invert(&evaluated(factors)?)?;
        let (rests, links) = (evaluated(rests)?, evaluated(links)?);
        let prior: Vec<&DeviceColumn> =
            relations.iter().map(|one| key.column(columns, Source::Advice(one.column))).collect();
        let prior = device.expand(&prior, key.n)?;
        Ok(Arc::new(device.solve(&prior, &inverses, &rests, &links, &linked)?))
    }

    fn copy(
        &self,
        key: &CudaKey,
        columns: &Columns<'_, CudaColumn>,
        copies: &Copies,
    ) -> Result<Arc<Matrix<Fr>>, BackendError> {
        let mut order: Vec<usize> = copies.cells.iter().map(|(source, ..)| *source).collect();
        order.sort_unstable();
        order.dedup();
        let column = |at: usize| key.column(columns, Source::Advice(at));
        let sources: Vec<&DeviceColumn> = order.iter().map(|source| column(*source)).collect();
        let cells: Vec<CellCopy> = copies
            .cells
            .iter()
            .map(|&(source, from, to)| CellCopy {
                source: order.partition_point(|other| *other < source) as u32,
                from,
                to,
            })
            .collect();
        Ok(Arc::new(self.device.scatter(Some(column(copies.column)), &sources, &cells, key.n)?))
    }
}
