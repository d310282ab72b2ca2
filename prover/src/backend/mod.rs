//! The computations of a proof, behind a trait that never sees a transcript.
//!
//! A backend is handed columns, polynomials and field elements and returns the same; which challenge means
//! what is [`crate::Prover`]'s business. [`Reference`] is the oracle: naive and slow. [`Cpu`] is the fast
//! one, [`Cuda`] computes on a GPU. [`Dual`] runs two and compares every result.

mod cpu;
mod cuda;
mod dual;
mod host;
mod program;
mod reference;

use halo2_proofs::halo2curves::bn256::{G1, G1Affine};
use lamina_circuits::{Fr, witness::Column};

pub use cpu::Kernels;
pub use cpu::{Cpu, CpuKey};
pub(crate) use cpu::{Scalars, Table, multiply, normalise};
pub use cuda::{Cuda, CudaAhead, CudaDerivation, CudaKey, CudaPending, Measured, MeasuredStage, Plan};
pub use dual::Dual;
pub use host::HostColumn;
pub use lamina_kernels::Ceilings;
pub use reference::{Reference, ReferenceKey};

use crate::{
    derivation::Derivation,
    error::BackendError,
    expression::{Identity, Source},
    setup::Bases,
    tape::Values,
};

/// What a backend is given once for each proving key.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// The commitment bases.
    pub bases: &'a Bases,
    /// Degree of the constraint system; the quotient has `degree - 1` limbs.
    pub degree: usize,
    /// The number of usable rows `u`.
    pub usable: usize,
    /// Fixed columns, `n` values each.
    pub fixed: &'a [Column],
    /// Permutation columns, `n` values each.
    pub sigma: &'a [Column],
    /// What proofs will be made of, for backends that plan their memory.
    pub shape: Shape<'a>,
}

/// What a proof with a key is made of; the same for every proof.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// Advice and instance columns.
    pub columns: usize,
    /// Permutation products.
    pub products: usize,
    /// Sets of points that polynomials are opened at.
    pub openings: usize,
    /// Points in all of them.
    pub points: usize,
    /// The identity; without nodes where no quotient will be asked for.
    pub identity: &'a Identity,
}

/// The columns of one proof, by index; `None` where the circuit has not reached the phase.
#[derive(Debug)]
pub struct Columns<'a, C> {
    /// Advice columns.
    pub advice: Vec<Option<&'a C>>,
    /// Instance columns.
    pub instance: Vec<&'a C>,
    /// Permutation products.
    pub product: Vec<&'a C>,
}

impl<'a, C> Columns<'a, C> {
    /// The column of a proof behind a source; `None` for columns of the key.
    pub fn get(&self, source: Source) -> Option<&'a C> {
        match source {
            Source::Advice(at) => self.advice.get(at).copied().flatten(),
            Source::Instance(at) => self.instance.get(at).copied(),
            Source::Product(at) => self.product.get(at).copied(),
            _ => None,
        }
    }
}

/// A linear combination of columns and polynomials, with single coefficients added.
#[derive(Debug)]
pub struct Combination<'a, P> {
    /// Columns, of the key or of the proof.
    pub columns: Vec<(Source, Fr)>,
    /// Polynomials.
    pub polys: Vec<(&'a P, Fr)>,
    /// `value * X^power`.
    pub sparse: Vec<(usize, Fr)>,
}

/// The computations of a proof.
///
/// # Shapes
/// A column is `n` values in the Lagrange basis. A polynomial is any number of coefficients up to `n + 1`.
///
/// # Errors
/// [`BackendError`], where the device that computes fails or is full; backends in the host's memory never do. Nothing that
/// a backend has returned before is wrong for it, and a proof under way cannot be continued.
///
/// # Panics
/// Methods may panic if handed columns or polynomials of another key or of other sizes.
pub trait Backend: Sync {
    /// What is kept for each proving key.
    type Key: Send + Sync;
    /// One column, where the backend computes.
    type Column: Send + Sync;
    /// One polynomial, where the backend computes.
    type Poly: Send + Sync;
    /// What is kept of a [`Derivation`].
    type Derivation: Send + Sync;
    /// Commitments under way.
    type Pending;
    /// What of a proof's quotient needs no challenge.
    type Ahead: Default;

    /// The backend's name, which tests assert.
    fn name(&self) -> String;

    /// Whether the first proof with a key must be verified before it is handed out: where a device or a driver that nobody
    /// has seen may compute something else than what it was told.
    fn verify_first(&self) -> bool {
        false
    }

    /// A stage of a proof begins, or `done`: for backends that measure.
    fn stage(&self, _stage: &'static str) {}

    /// Loads bases and key columns.
    fn load(&self, setup: &Setup<'_>) -> Result<Self::Key, BackendError>;

    /// Whether the host's cores have nothing to do while the backend computes.
    fn is_elsewhere(&self) -> bool {
        false
    }

    /// Takes over columns: values from row 0 on, zeros in rows that are not given.
    fn columns(&self, key: &Self::Key, list: Vec<Column>) -> Result<Vec<Self::Column>, BackendError>;

    /// The same for columns that later proofs are likely to have too, in the same memory: weights, which a backend elsewhere may
    /// keep.
    fn lasting_columns(&self, key: &Self::Key, list: Vec<Column>) -> Result<Vec<Self::Column>, BackendError> {
        self.columns(key, list)
    }

    /// A proof has ended, or failed: what is left of it in memory that the backend keeps for later proofs is overwritten.
    fn wipe(&self) {}

    /// The same columns with `tails` in their last rows, whatever was there: one tail a column, all of one length.
    fn blind(
        &self,
        key: &Self::Key,
        columns: Vec<Self::Column>,
        tails: Vec<Vec<Fr>>,
    ) -> Result<Vec<Self::Column>, BackendError>;

    /// Takes over a polynomial.
    fn poly(&self, key: &Self::Key, coefficients: Vec<Fr>) -> Result<Self::Poly, BackendError>;

    /// Whether [`Backend::compile`] and [`Backend::derive`] are there.
    fn derives(&self) -> bool {
        false
    }

    /// Prepares a derivation, once for all proofs of a key.
    ///
    /// # Errors
    /// [`BackendError`] where the device cannot run it.
    ///
    /// # Panics
    /// Unless [`Backend::derives`].
    fn compile(&self, _key: &Self::Key, _derivation: Derivation) -> Result<Self::Derivation, BackendError> {
        unreachable!("asked only of backends that derive")
    }

    /// The columns of a later phase from those that are there and all challenges so far, in the derivation's order; rows after
    /// the usable ones are `tails`.
    ///
    /// # Panics
    /// Unless [`Backend::derives`].
    fn derive(
        &self,
        _key: &Self::Key,
        _columns: &Columns<'_, Self::Column>,
        _derivation: &Self::Derivation,
        _challenges: &[Fr],
        _tails: Vec<Vec<Fr>>,
    ) -> Result<Vec<Self::Column>, BackendError> {
        unreachable!("asked only of backends that derive")
    }

    /// The values of a column.
    fn read_column(&self, key: &Self::Key, column: &Self::Column) -> Result<Vec<Fr>, BackendError>;

    /// The coefficients of a polynomial.
    fn read_poly(&self, key: &Self::Key, poly: &Self::Poly) -> Result<Vec<Fr>, BackendError>;

    /// `C = sum_i f_i [L_i(tau)]` for each column.
    ///
    /// # Panics
    /// As [`Backend::queue_commit`].
    fn commit(&self, key: &Self::Key, columns: &[&Self::Column]) -> Result<Vec<G1Affine>, BackendError> {
        Ok(normalise(&self.points(self.queue_commit(key, columns)?)?))
    }

    /// The same, under way where the backend computes elsewhere: what is asked of it next is not waited for.
    ///
    /// # Panics
    /// May panic for columns of integers that are blinded: who blinds them adds the tail's part, which integers' sums have no
    /// place for.
    fn queue_commit(&self, key: &Self::Key, columns: &[&Self::Column])
    -> Result<Self::Pending, BackendError>;

    /// Waits for commitments.
    fn points(&self, pending: Self::Pending) -> Result<Vec<G1>, BackendError>;

    /// `C = sum_i f_i [tau^i]` for each polynomial of at most `n` coefficients.
    fn commit_polys(&self, key: &Self::Key, polys: &[&Self::Poly]) -> Result<Vec<G1Affine>, BackendError> {
        Ok(normalise(&self.points(self.queue_commit_polys(key, polys)?)?))
    }

    /// The same, under way where the backend computes elsewhere.
    fn queue_commit_polys(
        &self,
        key: &Self::Key,
        polys: &[&Self::Poly],
    ) -> Result<Self::Pending, BackendError>;

    /// The coefficients of a column: the inverse transform.
    fn coefficients(&self, key: &Self::Key, column: &Self::Column) -> Result<Self::Poly, BackendError>;

    /// The values of a polynomial of at most `n` coefficients on `g_j * H`, `j < degree - 1`.
    fn coset(&self, key: &Self::Key, poly: &Self::Poly, coset: usize) -> Result<Vec<Fr>, BackendError>;

    /// The permutation argument's running products, one for each set of columns.
    ///
    /// ```text
    /// z_0[0] = 1,  z_s[0] = z_(s-1)[u]
    /// z_s[i+1] = z_s[i] * prod_j (p_j[i] + delta^j beta w^i + gamma) / (p_j[i] + beta s_j[i] + gamma)
    /// ```
    /// for `i < u`; rows after `u` are `tails[s]`.
    fn products(
        &self,
        key: &Self::Key,
        columns: &Columns<'_, Self::Column>,
        sets: &[&[Source]],
        beta: Fr,
        gamma: Fr,
        tails: Vec<Vec<Fr>>,
    ) -> Result<Vec<Self::Column>, BackendError>;

    /// Begins with the quotient as far as the columns that are there allow: for backends elsewhere, that they have something to
    /// do while the host has not got the next challenge. May be called whenever there are more.
    fn begin_quotient(
        &self,
        _key: &Self::Key,
        _columns: &Columns<'_, Self::Column>,
        _ahead: &mut Self::Ahead,
    ) -> Result<(), BackendError> {
        Ok(())
    }

    /// The limbs `h_i` of `sum_i X^(n i) h_i = N(X) / (X^n - 1)`, `n` coefficients each. The identity is that of the
    /// key's [`Shape`], `values` are those of its tape; `ahead` is what has begun for the same columns, if anything.
    ///
    /// If `N` does not vanish on the domain the limbs are of some other polynomial.
    fn quotient(
        &self,
        key: &Self::Key,
        columns: &Columns<'_, Self::Column>,
        ahead: Self::Ahead,
        values: &Values,
    ) -> Result<Vec<Self::Poly>, BackendError>;

    /// The value of each column at `w^rotation x`.
    fn evaluate(
        &self,
        key: &Self::Key,
        columns: &Columns<'_, Self::Column>,
        queries: &[(Source, i32)],
        x: Fr,
    ) -> Result<Vec<Fr>, BackendError>;

    /// The values of polynomials.
    fn evaluate_polys(&self, key: &Self::Key, polys: &[&Self::Poly], x: Fr) -> Result<Vec<Fr>, BackendError>;

    /// Linear combinations, as polynomials.
    fn combine(
        &self,
        key: &Self::Key,
        columns: &Columns<'_, Self::Column>,
        combinations: &[Combination<'_, Self::Poly>],
    ) -> Result<Vec<Self::Poly>, BackendError>;

    /// `sum_t floor(poly_t / (X - root_t))`, without the remainders.
    fn divide(&self, key: &Self::Key, terms: &[(&Self::Poly, Fr)]) -> Result<Self::Poly, BackendError>;
}
