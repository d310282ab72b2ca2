//! The permutation argument's running products.

use std::sync::Arc;

use ff::Field;
use lamina_circuits::Fr;

use crate::{
    column::{Column, described},
    device::{Argument, Device, Grid},
    error::{Error, at_most, same},
    field::Operation,
    memory::{Buffer, Matrix, bytes_of},
    ntt::Ntt,
    scan::Join,
    work::PRODUCT,
};

/// What permutation products are made of.
#[derive(Clone, Copy, Debug)]
pub struct Permutation<'a> {
    /// The columns that are permuted, of all sets.
    pub columns: &'a [&'a Column],
    /// As many columns of the permutation.
    pub sigmas: &'a [&'a Column],
    /// Columns of a set, fewer for the last.
    pub size: usize,
    /// Rows that take part.
    pub usable: usize,
    /// Challenge.
    pub beta: Fr,
    /// Challenge.
    pub gamma: Fr,
}

impl Device {
    /// Running products of all sets, each from where the one before ends.
    ///
    /// ```text
    /// z_0[0] = 1,  z_s[0] = z_(s-1)[u]
    /// z_s[i+1] = z_s[i] * prod_j (p_j[i] + delta^j beta w^i + gamma) / (p_j[i] + beta s_j[i] + gamma)
    /// ```
    /// for `i < u`; rows after `u` are `tails[s]`, `n - u - 1` of them, shorter ones preceded by zeros.
    ///
    /// # Errors
    /// [`Error::Shape`] where columns, sets, tails or rows do not fit together, [`Error::Memory`], [`Error::Driver`].
    pub fn permutation_products(
        &self,
        ntt: &Ntt,
        of: &Permutation<'_>,
        tails: &[Vec<Fr>],
    ) -> Result<Arc<Matrix<Fr>>, Error> {
        let (n, u) = (1usize << ntt.log_n(), of.usable);
        let count = of.columns.len();
        same("columns of the permutation", count, of.sigmas.len())?;
        if of.size == 0 || u >= n {
            return Err(Error::Shape { what: "usable rows, at most", expected: n - 1, actual: u });
        }
        let sets = count.div_ceil(of.size);
        same("tails", sets, tails.len())?;
        let own: Vec<Fr> =
            std::iter::successors(Some(of.beta), |own| Some(*own * <Fr as ff::PrimeField>::DELTA))
                .take(count)
                .collect();
        let (columns, sigmas) = (described(of.columns, n)?, described(of.sigmas, n)?);
        let (lists, places) = Buffer::packed(self, [bytes_of(&columns), bytes_of(&sigmas), bytes_of(&own)])?;
        let [columns, sigmas, own] = places.map(|at| lists.address_of(at));
        let (above, below) =
            (Matrix::uninitialised(self, sets, u + 1)?, Matrix::uninitialised(self, sets, u + 1)?);
        let total = sets * (u + 1);
        let arguments = [
            above.buffer.address(),
            below.buffer.address(),
            columns,
            sigmas,
            own,
            ntt.roots.address(),
            of.beta.into(),
            of.gamma.into(),
            Argument::U32(n as u32),
            Argument::U32(u as u32),
            Argument::U32(count as u32),
            Argument::U32(of.size as u32),
            (total as u64).into(),
        ];
        let bytes: usize = of.columns.iter().chain(of.sigmas).map(|column| column.cell_bytes() * u).sum();
        self.counters.kernel(bytes + 64 * total, 4 * PRODUCT * count * u);
        // SAFETY: `permutation_fractions`. numerators, denominators: [sets, u + 1], columns, sigmas, own: [count], columns of
        // n rows, roots: [n], u < n.
        unsafe { self.launch("permutation_fractions", Grid::of(total, 256), &arguments) }?;
        let below = self.invert(&below)?;
        let ratios = self.elementwise(Operation::Multiply, &above, &below)?;
        drop((above, below));
        let z = self.scan(Join::Product, &ratios)?;
        drop(ratios);
        let ends = self.rows_of(&z, u)?;
        let mut start = Fr::ONE;
        let mut starts = Vec::with_capacity(sets);
        for end in ends {
            starts.push(start);
            start *= end;
        }
        let rest = n - u - 1;
        let mut all = vec![Fr::ZERO; sets * rest];
        for (out, tail) in all.chunks_mut(rest.max(1)).zip(tails) {
            at_most("elements of a tail, at most", rest, tail.len())?;
            out[rest - tail.len()..].copy_from_slice(tail);
        }
        let sent = Buffer::packed(self, [bytes_of(&starts), bytes_of(&all)]);
        for secrets in [&mut starts, &mut all] {
            secrets.fill(Fr::ZERO);
            std::hint::black_box(secrets);
        }
        let (lists, places) = sent?;
        let [starts, tails] = places.map(|at| lists.address_of(at));
        let out = Matrix::uninitialised(self, sets, n)?;
        let arguments = [
            out.buffer.address(),
            z.buffer.address(),
            starts,
            tails,
            Argument::U32(n as u32),
            Argument::U32(u as u32),
            ((sets * n) as u64).into(),
        ];
        self.counters.kernel(64 * sets * n, PRODUCT * sets * n);
        // SAFETY: `permutation_finish`. out: [sets, n], z: [sets, u + 1], starts: [sets], tails: [sets, n - u - 1].
        unsafe { self.launch("permutation_finish", Grid::of(sets * n, 256), &arguments) }?;
        Ok(Arc::new(out))
    }
}
