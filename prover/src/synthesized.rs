//! Any ordinary circuit as a [`Witness`], by running its `synthesize`.

use std::sync::Arc;

use ff::Field;
use halo2_proofs::{
    circuit::Value,
    plonk::{
        Advice, Any, Assigned, Assignment, Challenge, Circuit, Column as PlonkColumn, ConstraintSystem,
        Error, Fixed, FloorPlanner, Instance, Selector,
    },
};
use lamina_circuits::{
    Fr,
    witness::{Column, Witness},
};

use crate::key::{ProvingKey, narrow};

/// A circuit whose columns are produced cell by cell: for tests and comparisons, never for speed.
///
/// Each phase is one run of `synthesize` with the challenges known by then; cells that are not known yet are
/// taken as zero. Assigned cells are leaked, because the library's interface promises references to them of
/// any lifetime.
pub struct Synthesized<'a, C: Circuit<Fr>> {
    circuit: &'a C,
    instances: &'a [Vec<Fr>],
    key: &'a ProvingKey,
}

impl<'a, C: Circuit<Fr>> Synthesized<'a, C> {
    /// The witness of `circuit`, which must be the one that `key` was generated for.
    pub fn new(circuit: &'a C, instances: &'a [Vec<Fr>], key: &'a ProvingKey) -> Self {
        Synthesized { circuit, instances, key }
    }
}

impl<C: Circuit<Fr> + Sync> Witness for Synthesized<'_, C> {
    fn columns(&self, phase: u8, challenges: &[Fr]) -> Vec<(usize, Column)> {
        let cs = self.key.vk().cs();
        let mut meta = ConstraintSystem::default();
        let config = C::configure_with_params(&mut meta, self.circuit.params());
        let usable = self.key.usable_rows();
        let mut cells = Cells {
            advice: vec![vec![Assigned::Zero; usable]; cs.num_advice_columns()],
            known: cs
                .challenge_phase()
                .iter()
                .enumerate()
                .map(|(index, of)| (*of < phase).then(|| challenges.get(index).copied()).flatten())
                .collect(),
            instances: self.instances,
        };
        // An error leaves cells at zero, which the prover then finds not to satisfy the circuit.
        let _ = C::FloorPlanner::synthesize(&mut cells, self.circuit, config, cs.constants().clone());
        let phases = cs.advice_column_phase();
        let columns = cells.advice.into_iter().enumerate();
        columns
            .filter(|(index, _)| phases[*index] == phase)
            .map(|(index, column)| {
                let values: Vec<Fr> = column.iter().map(|cell| cell.evaluate()).collect();
                (index, narrow(&values))
            })
            .collect()
    }
}

/// Integer columns of a witness as field columns: what a backend that ignores widths would see.
pub fn widened(column: &Column) -> Column {
    let field =
        |values: &mut dyn Iterator<Item = i64>| Column::Field(values.map(crate::key::field_of).collect());
    match column {
        Column::I16(v) => field(&mut Arc::clone(v).iter().map(|&v| i64::from(v))),
        Column::I32(v) => field(&mut Arc::clone(v).iter().map(|&v| i64::from(v))),
        Column::Field(v) => Column::Field(v.clone()),
    }
}

struct Cells<'a> {
    advice: Vec<Vec<Assigned<Fr>>>,
    known: Vec<Option<Fr>>,
    instances: &'a [Vec<Fr>],
}

impl Assignment<Fr> for Cells<'_> {
    fn enter_region<NR: Into<String>, N: FnOnce() -> NR>(&mut self, _name: N) {}

    fn annotate_column<A: FnOnce() -> AR, AR: Into<String>>(
        &mut self,
        _annotation: A,
        _column: PlonkColumn<Any>,
    ) {
    }

    fn exit_region(&mut self) {}

    fn enable_selector<A: FnOnce() -> AR, AR: Into<String>>(
        &mut self,
        _annotation: A,
        _selector: &Selector,
        _row: usize,
    ) -> Result<(), Error> {
        Ok(())
    }

    fn query_instance(&self, column: PlonkColumn<Instance>, row: usize) -> Result<Value<Fr>, Error> {
        let value = self.instances.get(column.index()).and_then(|c| c.get(row));
        Ok(Value::known(value.copied().unwrap_or(Fr::ZERO)))
    }

    fn assign_advice<'v>(
        &mut self,
        column: PlonkColumn<Advice>,
        row: usize,
        to: Value<Assigned<Fr>>,
    ) -> Value<&'v Assigned<Fr>> {
        to.map(|value| {
            if let Some(cell) = self.advice[column.index()].get_mut(row) {
                *cell = value;
            }
            &*Box::leak(Box::new(value))
        })
    }

    fn assign_fixed(&mut self, _column: PlonkColumn<Fixed>, _row: usize, _to: Assigned<Fr>) {}

    fn copy(
        &mut self,
        _left_column: PlonkColumn<Any>,
        _left_row: usize,
        _right_column: PlonkColumn<Any>,
        _right_row: usize,
    ) {
    }

    fn fill_from_row(
        &mut self,
        _column: PlonkColumn<Fixed>,
        _row: usize,
        _to: Value<Assigned<Fr>>,
    ) -> Result<(), Error> {
        Ok(())
    }

    fn get_challenge(&self, challenge: Challenge) -> Value<Fr> {
        match self.known.get(challenge.index()).copied().flatten() {
            Some(value) => Value::known(value),
            None => Value::unknown(),
        }
    }

    fn push_namespace<NR: Into<String>, N: FnOnce() -> NR>(&mut self, _name: N) {}

    fn pop_namespace(&mut self, _gadget: Option<String>) {}
}
