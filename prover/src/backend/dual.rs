//! Two backends at once, compared after every call.

use halo2_proofs::halo2curves::bn256::G1;
use lamina_circuits::{Fr, witness::Column};

use super::{Backend, Columns, Combination, Setup};
use crate::{derivation::Derivation, error::BackendError, expression::Source, tape::Values};

/// Runs `A` and `B` and panics, naming the step, where their results differ.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dual<A, B>(pub A, pub B);

fn agree<T: PartialEq>(step: &str, left: T, right: T) -> T {
    assert!(left == right, "the backends disagree on {step}");
    left
}

fn halves<'a, L, R>(columns: &Columns<'a, (L, R)>) -> (Columns<'a, L>, Columns<'a, R>) {
    let left = Columns {
        advice: columns.advice.iter().map(|c| c.map(|c| &c.0)).collect(),
        instance: columns.instance.iter().map(|c| &c.0).collect(),
        product: columns.product.iter().map(|c| &c.0).collect(),
    };
    let right = Columns {
        advice: columns.advice.iter().map(|c| c.map(|c| &c.1)).collect(),
        instance: columns.instance.iter().map(|c| &c.1).collect(),
        product: columns.product.iter().map(|c| &c.1).collect(),
    };
    (left, right)
}

/// Polynomials of two backends, side by side.
type Both<A, B> = Vec<(<A as Backend>::Poly, <B as Backend>::Poly)>;

/// Columns of two backends, side by side.
type BothColumns<A, B> = Vec<(<A as Backend>::Column, <B as Backend>::Column)>;

impl<A: Backend, B: Backend> Dual<A, B> {
    fn same_columns(
        &self,
        step: &str,
        key: &(A::Key, B::Key),
        left: Vec<A::Column>,
        right: Vec<B::Column>,
    ) -> Result<BothColumns<A, B>, BackendError> {
        agree(step, left.len(), right.len());
        for (l, r) in left.iter().zip(&right) {
            agree(step, self.0.read_column(&key.0, l)?, self.1.read_column(&key.1, r)?);
        }
        Ok(left.into_iter().zip(right).collect())
    }

    fn same_polys(
        &self,
        step: &str,
        key: &(A::Key, B::Key),
        left: Vec<A::Poly>,
        right: Vec<B::Poly>,
    ) -> Result<Both<A, B>, BackendError> {
        agree(step, left.len(), right.len());
        for (l, r) in left.iter().zip(&right) {
            agree(step, self.0.read_poly(&key.0, l)?, self.1.read_poly(&key.1, r)?);
        }
        Ok(left.into_iter().zip(right).collect())
    }
}

impl<A: Backend, B: Backend> Backend for Dual<A, B> {
    type Key = (A::Key, B::Key);
    type Column = (A::Column, B::Column);
    type Poly = (A::Poly, B::Poly);
    type Derivation = (A::Derivation, B::Derivation);
    type Pending = (A::Pending, B::Pending);
    type Ahead = (A::Ahead, B::Ahead);

    fn name(&self) -> String {
        format!("dual({}, {})", self.0.name(), self.1.name())
    }

    fn verify_first(&self) -> bool {
        self.0.verify_first() || self.1.verify_first()
    }

    fn stage(&self, stage: &'static str) {
        self.0.stage(stage);
        self.1.stage(stage);
    }

    fn load(&self, setup: &Setup<'_>) -> Result<Self::Key, BackendError> {
        Ok((self.0.load(setup)?, self.1.load(setup)?))
    }

    fn is_elsewhere(&self) -> bool {
        self.0.is_elsewhere() || self.1.is_elsewhere()
    }

    fn columns(&self, key: &Self::Key, list: Vec<Column>) -> Result<Vec<Self::Column>, BackendError> {
        let left = self.0.columns(&key.0, list.clone())?;
        let right = self.1.columns(&key.1, list)?;
        self.same_columns("columns", key, left, right)
    }

    fn lasting_columns(&self, key: &Self::Key, list: Vec<Column>) -> Result<Vec<Self::Column>, BackendError> {
        let left = self.0.lasting_columns(&key.0, list.clone())?;
        let right = self.1.lasting_columns(&key.1, list)?;
        self.same_columns("columns", key, left, right)
    }

    fn wipe(&self) {
        self.0.wipe();
        self.1.wipe();
    }

    fn blind(
        &self,
        key: &Self::Key,
        columns: Vec<Self::Column>,
        tails: Vec<Vec<Fr>>,
    ) -> Result<Vec<Self::Column>, BackendError> {
        let (left, right) = columns.into_iter().unzip();
        let left = self.0.blind(&key.0, left, tails.clone())?;
        let right = self.1.blind(&key.1, right, tails)?;
        self.same_columns("blind", key, left, right)
    }

    fn poly(&self, key: &Self::Key, coefficients: Vec<Fr>) -> Result<Self::Poly, BackendError> {
        Ok((self.0.poly(&key.0, coefficients.clone())?, self.1.poly(&key.1, coefficients)?))
    }

    fn derives(&self) -> bool {
        self.0.derives() && self.1.derives()
    }

    fn compile(&self, key: &Self::Key, derivation: Derivation) -> Result<Self::Derivation, BackendError> {
        Ok((self.0.compile(&key.0, derivation.clone())?, self.1.compile(&key.1, derivation)?))
    }

    fn derive(
        &self,
        key: &Self::Key,
        columns: &Columns<'_, Self::Column>,
        derivation: &Self::Derivation,
        challenges: &[Fr],
        tails: Vec<Vec<Fr>>,
    ) -> Result<Vec<Self::Column>, BackendError> {
        let (l, r) = halves(columns);
        let left = self.0.derive(&key.0, &l, &derivation.0, challenges, tails.clone())?;
        let right = self.1.derive(&key.1, &r, &derivation.1, challenges, tails)?;
        self.same_columns("derive", key, left, right)
    }

    fn read_column(&self, key: &Self::Key, column: &Self::Column) -> Result<Vec<Fr>, BackendError> {
        self.0.read_column(&key.0, &column.0)
    }

    fn read_poly(&self, key: &Self::Key, poly: &Self::Poly) -> Result<Vec<Fr>, BackendError> {
        self.0.read_poly(&key.0, &poly.0)
    }

    fn queue_commit(
        &self,
        key: &Self::Key,
        columns: &[&Self::Column],
    ) -> Result<Self::Pending, BackendError> {
        let (left, right): (Vec<_>, Vec<_>) = columns.iter().map(|both| (&both.0, &both.1)).unzip();
        Ok((self.0.queue_commit(&key.0, &left)?, self.1.queue_commit(&key.1, &right)?))
    }

    fn points(&self, (left, right): Self::Pending) -> Result<Vec<G1>, BackendError> {
        Ok(agree("commit", self.0.points(left)?, self.1.points(right)?))
    }

    fn queue_commit_polys(
        &self,
        key: &Self::Key,
        polys: &[&Self::Poly],
    ) -> Result<Self::Pending, BackendError> {
        let (left, right): (Vec<_>, Vec<_>) = polys.iter().map(|both| (&both.0, &both.1)).unzip();
        Ok((self.0.queue_commit_polys(&key.0, &left)?, self.1.queue_commit_polys(&key.1, &right)?))
    }

    fn coefficients(&self, key: &Self::Key, column: &Self::Column) -> Result<Self::Poly, BackendError> {
        let left = self.0.coefficients(&key.0, &column.0)?;
        let right = self.1.coefficients(&key.1, &column.1)?;
        agree("coefficients", self.0.read_poly(&key.0, &left)?, self.1.read_poly(&key.1, &right)?);
        Ok((left, right))
    }

    fn coset(&self, key: &Self::Key, poly: &Self::Poly, coset: usize) -> Result<Vec<Fr>, BackendError> {
        Ok(agree("coset", self.0.coset(&key.0, &poly.0, coset)?, self.1.coset(&key.1, &poly.1, coset)?))
    }

    fn products(
        &self,
        key: &Self::Key,
        columns: &Columns<'_, Self::Column>,
        sets: &[&[Source]],
        beta: Fr,
        gamma: Fr,
        tails: Vec<Vec<Fr>>,
    ) -> Result<Vec<Self::Column>, BackendError> {
        let (l, r) = halves(columns);
        let left = self.0.products(&key.0, &l, sets, beta, gamma, tails.clone())?;
        let right = self.1.products(&key.1, &r, sets, beta, gamma, tails)?;
        self.same_columns("products", key, left, right)
    }

    fn begin_quotient(
        &self,
        key: &Self::Key,
        columns: &Columns<'_, Self::Column>,
        ahead: &mut Self::Ahead,
    ) -> Result<(), BackendError> {
        let (l, r) = halves(columns);
        self.0.begin_quotient(&key.0, &l, &mut ahead.0)?;
        self.1.begin_quotient(&key.1, &r, &mut ahead.1)
    }

    fn quotient(
        &self,
        key: &Self::Key,
        columns: &Columns<'_, Self::Column>,
        ahead: Self::Ahead,
        values: &Values,
    ) -> Result<Vec<Self::Poly>, BackendError> {
        let (l, r) = halves(columns);
        let left = self.0.quotient(&key.0, &l, ahead.0, values)?;
        let right = self.1.quotient(&key.1, &r, ahead.1, values)?;
        self.same_polys("quotient", key, left, right)
    }

    fn evaluate(
        &self,
        key: &Self::Key,
        columns: &Columns<'_, Self::Column>,
        queries: &[(Source, i32)],
        x: Fr,
    ) -> Result<Vec<Fr>, BackendError> {
        let (l, r) = halves(columns);
        Ok(agree(
            "evaluate",
            self.0.evaluate(&key.0, &l, queries, x)?,
            self.1.evaluate(&key.1, &r, queries, x)?,
        ))
    }

    fn evaluate_polys(&self, key: &Self::Key, polys: &[&Self::Poly], x: Fr) -> Result<Vec<Fr>, BackendError> {
        let (left, right): (Vec<_>, Vec<_>) = polys.iter().map(|both| (&both.0, &both.1)).unzip();
        Ok(agree(
            "evaluate_polys",
            self.0.evaluate_polys(&key.0, &left, x)?,
            self.1.evaluate_polys(&key.1, &right, x)?,
        ))
    }

    fn combine(
        &self,
        key: &Self::Key,
        columns: &Columns<'_, Self::Column>,
        combinations: &[Combination<'_, Self::Poly>],
    ) -> Result<Vec<Self::Poly>, BackendError> {
        let (l, r) = halves(columns);
        let left: Vec<_> = combinations
            .iter()
            .map(|one| Combination {
                columns: one.columns.clone(),
                polys: one.polys.iter().map(|(p, c)| (&p.0, *c)).collect(),
                sparse: one.sparse.clone(),
            })
            .collect();
        let right: Vec<_> = combinations
            .iter()
            .map(|one| Combination {
                columns: one.columns.clone(),
                polys: one.polys.iter().map(|(p, c)| (&p.1, *c)).collect(),
                sparse: one.sparse.clone(),
            })
            .collect();
        let left = self.0.combine(&key.0, &l, &left)?;
        let right = self.1.combine(&key.1, &r, &right)?;
        self.same_polys("combine", key, left, right)
    }

    fn divide(&self, key: &Self::Key, terms: &[(&Self::Poly, Fr)]) -> Result<Self::Poly, BackendError> {
        let left: Vec<_> = terms.iter().map(|(poly, root)| (&poly.0, *root)).collect();
        let right: Vec<_> = terms.iter().map(|(poly, root)| (&poly.1, *root)).collect();
        let left = self.0.divide(&key.0, &left)?;
        let right = self.1.divide(&key.1, &right)?;
        agree("divide", self.0.read_poly(&key.0, &left)?, self.1.read_poly(&key.1, &right)?);
        Ok((left, right))
    }
}
