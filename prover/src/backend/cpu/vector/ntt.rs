//! Transforms in passes of radix 4, eight butterflies at a time.
//!
//! Between passes values stay below `4.2p` (up) and `4p` (down), which four words hold; the last pass makes
//! them canonical. Passes over distances of eight and more take consecutive elements into the lanes; the two
//! smallest take the same element of eight neighbouring groups.

use halo2_proofs::halo2curves::bn256::Fr;
use rayon::prelude::*;

use super::{
    Words, as_words,
    lanes::{Lanes, Packed, Scalar},
    words,
};

type Elements = Lanes<Scalar>;

/// The smallest transform that these kernels do.
pub(crate) const MIN_LOG_N: u32 = 8;

/// Transforms of up to this size run pass by pass, larger ones by recursion.
const BASE_LOG: u32 = 12;

const BYTES: usize = size_of::<Words>();

/// Roots of unity in 260-form.
#[derive(Debug)]
pub(crate) struct Roots {
    /// The powers of the fourth root.
    fourth: Words,
    /// For distances of 4 and 8: each root by itself.
    small: [Vec<Words>; 2],
    /// For distances `2^l`, `l >= 3`, at position `l - 3`.
    levels: Vec<Vec<Packed>>,
}

impl Roots {
    /// # Shapes
    /// `levels[l]`: the first `2^l` powers of the root of order `2^(l+1)`, for all levels of a transform.
    pub(crate) fn new(levels: &[Vec<Fr>]) -> Self {
        let form = |root: &Fr| words(&(*root * Fr::from(16)));
        Roots {
            fourth: form(&levels[1][1]),
            small: [2, 3].map(|l: usize| levels[l].iter().map(form).collect()),
            levels: levels[3..]
                .iter()
                .map(|level| {
                    let words: Vec<Words> = level.iter().map(form).collect();
                    words.as_chunks::<8>().0.iter().map(Packed::of).collect()
                })
                .collect(),
        }
    }

    fn level(&self, distance: usize) -> &[Packed] {
        &self.levels[distance.trailing_zeros() as usize - 3]
    }
}

/// Bit-reversed to natural order, decimation in time.
pub(crate) fn up(values: &mut [Fr], roots: &Roots) {
    up_words(as_words(values), roots, true);
}

/// Natural to bit-reversed order, decimation in frequency.
pub(crate) fn down(values: &mut [Fr], roots: &Roots) {
    down_words(as_words(values), roots);
}

fn up_words(values: &mut [Words], roots: &Roots, last: bool) {
    let log_n = values.len().trailing_zeros();
    if log_n % 2 == 1 {
        let (low, high) = values.split_at_mut(values.len() / 2);
        rayon::join(|| up_words(low, roots, false), || up_words(high, roots, false));
        // SAFETY: this code runs where the features were detected.
        unsafe { up_two(values, roots, last) };
    } else if log_n > BASE_LOG {
        let quarter = values.len() / 4;
        values.par_chunks_mut(quarter).for_each(|part| up_words(part, roots, false));
        // SAFETY: as above.
        unsafe { up_four(values, quarter, roots, last) };
    } else {
        // SAFETY: as above.
        unsafe { up_base(values, roots, last) };
    }
}

fn down_words(values: &mut [Words], roots: &Roots) {
    let log_n = values.len().trailing_zeros();
    if log_n % 2 == 1 {
        // SAFETY: this code runs where the features were detected.
        unsafe { down_two(values, roots) };
        let (low, high) = values.split_at_mut(values.len() / 2);
        rayon::join(|| down_words(low, roots), || down_words(high, roots));
    } else if log_n > BASE_LOG {
        let quarter = values.len() / 4;
        // SAFETY: as above.
        unsafe { down_four(values, quarter, roots) };
        values.par_chunks_mut(quarter).for_each(|part| down_words(part, roots));
    } else {
        // SAFETY: as above.
        unsafe { down_base(values, roots) };
    }
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn up_base(values: &mut [Words], roots: &Roots, last: bool) {
    up_ones(values, roots);
    up_fours(values, roots);
    let mut distance = 16;
    while distance < values.len() {
        up_four(values, distance, roots, last && 4 * distance == values.len());
        distance *= 4;
    }
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn down_base(values: &mut [Words], roots: &Roots) {
    let mut distance = values.len() / 4;
    while distance >= 16 {
        down_four(values, distance, roots);
        distance /= 4;
    }
    down_fours(values, roots);
    down_ones(values, roots);
}

/// Four elements that meet in two layers.
type Four = [Elements; 4];

/// In below `4.2p`, out below `4.2p`. Roots of the first layer, and of both halves of the second.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn up_butterfly([a, b, c, d]: Four, one: Elements, two: Elements, three: Elements) -> Four {
    let (b, d) = (b.mul(one), d.mul(one));
    let (a, c) = (a.less::<2>(), c.less::<2>());
    let twice = Elements::moduli::<2>();
    let (a, b) = (a.plus(b).normalise(), a.minus(b).plus(twice).normalise());
    let (c, d) = (c.plus(d).normalise().mul(two), c.minus(d).plus(twice).normalise().mul(three));
    up_sums(a, b, c, d)
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn up_sums(a: Elements, b: Elements, c: Elements, d: Elements) -> Four {
    let twice = Elements::moduli::<2>();
    let (a, b) = (a.less::<2>(), b.less::<2>());
    [
        a.plus(c).normalise(),
        b.plus(d).normalise(),
        a.minus(c).plus(twice).normalise(),
        b.minus(d).plus(twice).normalise(),
    ]
}

/// In below `4p`, out below `4p`.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn down_butterfly([a, b, c, d]: Four, one: Elements, two: Elements, three: Elements) -> Four {
    let (four, eight) = (Elements::moduli::<4>(), Elements::moduli::<8>());
    let (s, t) = (a.plus(c), a.minus(c).plus(four).normalise().mul(two));
    let (u, v) = (b.plus(d), b.minus(d).plus(four).normalise().mul(three));
    [
        s.plus(u).normalise().less::<8>().less::<4>(),
        s.minus(u).plus(eight).normalise().mul(one),
        t.plus(v).normalise(),
        t.minus(v).plus(Elements::moduli::<2>()).normalise().mul(one),
    ]
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn canonical(values: Four) -> Four {
    values.map(|value| value.less::<4>().less::<2>().less::<1>())
}

/// One layer over the whole list.
#[target_feature(enable = "avx512f,avx512ifma")]
fn up_two(values: &mut [Words], roots: &Roots, last: bool) {
    let (low, high) = values.split_at_mut(values.len() / 2);
    let roots = roots.level(low.len());
    let chunks = low.as_chunks_mut::<8>().0.iter_mut().zip(high.as_chunks_mut::<8>().0);
    for ((low, high), root) in chunks.zip(roots) {
        // SAFETY: eight consecutive elements each.
        unsafe {
            let (low, high) = (low.as_mut_ptr().cast::<u8>(), high.as_mut_ptr().cast::<u8>());
            let a = Elements::load_next(low).less::<2>();
            let b = Elements::load_next(high).mul(Elements::unpack(root));
            let (mut a, mut b) =
                (a.plus(b).normalise(), a.minus(b).plus(Elements::moduli::<2>()).normalise());
            if last {
                [a, b] = [a, b].map(|value| value.less::<4>().less::<2>().less::<1>());
            }
            a.store_next(low);
            b.store_next(high);
        }
    }
}

/// One layer over the whole list.
#[target_feature(enable = "avx512f,avx512ifma")]
fn down_two(values: &mut [Words], roots: &Roots) {
    let (low, high) = values.split_at_mut(values.len() / 2);
    let roots = roots.level(low.len());
    let chunks = low.as_chunks_mut::<8>().0.iter_mut().zip(high.as_chunks_mut::<8>().0);
    for ((low, high), root) in chunks.zip(roots) {
        // SAFETY: eight consecutive elements each.
        unsafe {
            let (low, high) = (low.as_mut_ptr().cast::<u8>(), high.as_mut_ptr().cast::<u8>());
            let (a, b) = (Elements::load_next(low), Elements::load_next(high));
            let difference = a.minus(b).plus(Elements::moduli::<4>()).normalise();
            a.plus(b).normalise().less::<4>().store_next(low);
            difference.mul(Elements::unpack(root)).store_next(high);
        }
    }
}

/// Two layers: distances `distance` and twice that, in every block of four times that.
#[target_feature(enable = "avx512f,avx512ifma")]
fn up_four(values: &mut [Words], distance: usize, roots: &Roots, last: bool) {
    let (one, two) = (roots.level(distance), roots.level(2 * distance));
    let (two, three) = two.split_at(two.len() / 2);
    for block in values.chunks_exact_mut(4 * distance) {
        let start = block.as_mut_ptr().cast::<u8>();
        for (at, ((one, two), three)) in one.iter().zip(two).zip(three).enumerate() {
            // SAFETY: `8 at + 8 <= distance`, and four distances are one block.
            unsafe {
                let place = |quarter: usize| start.add((quarter * distance + 8 * at) * BYTES);
                let loaded = [0, 1, 2, 3].map(|quarter| Elements::load_next(place(quarter)));
                let roots = [one, two, three].map(|root| Elements::unpack(root));
                let mut out = up_butterfly(loaded, roots[0], roots[1], roots[2]);
                if last {
                    out = canonical(out);
                }
                for (quarter, value) in out.into_iter().enumerate() {
                    value.store_next(place(quarter));
                }
            }
        }
    }
}

/// Two layers: distances twice `distance`, then `distance`, in every block of four times that.
#[target_feature(enable = "avx512f,avx512ifma")]
fn down_four(values: &mut [Words], distance: usize, roots: &Roots) {
    let (one, two) = (roots.level(distance), roots.level(2 * distance));
    let (two, three) = two.split_at(two.len() / 2);
    for block in values.chunks_exact_mut(4 * distance) {
        let start = block.as_mut_ptr().cast::<u8>();
        for (at, ((one, two), three)) in one.iter().zip(two).zip(three).enumerate() {
            // SAFETY: `8 at + 8 <= distance`, and four distances are one block.
            unsafe {
                let place = |quarter: usize| start.add((quarter * distance + 8 * at) * BYTES);
                let loaded = [0, 1, 2, 3].map(|quarter| Elements::load_next(place(quarter)));
                let roots = [one, two, three].map(|root| Elements::unpack(root));
                let out = down_butterfly(loaded, roots[0], roots[1], roots[2]);
                for (quarter, value) in out.into_iter().enumerate() {
                    value.store_next(place(quarter));
                }
            }
        }
    }
}

/// Distances 4 and 8: the lanes are eight blocks of sixteen.
#[target_feature(enable = "avx512f,avx512ifma")]
fn up_fours(values: &mut [Words], roots: &Roots) {
    let [one, two] = &roots.small;
    for block in values.as_chunks_mut::<128>().0 {
        let start = block.as_mut_ptr().cast::<u8>();
        for at in 0..4 {
            // SAFETY: lanes are 16 elements apart, quarters 4: all within 128 elements.
            unsafe {
                let place = |quarter: usize| start.add((4 * quarter + at) * BYTES);
                let loaded = [0, 1, 2, 3].map(|quarter| Elements::load(place(quarter), 16 * BYTES));
                let roots = [one[at], two[at], two[at + 4]].map(|root| Elements::broadcast(root));
                let out = up_butterfly(loaded, roots[0], roots[1], roots[2]);
                for (quarter, value) in out.into_iter().enumerate() {
                    value.store(place(quarter), 16 * BYTES);
                }
            }
        }
    }
}

/// Distances 8 and 4: the lanes are eight blocks of sixteen.
#[target_feature(enable = "avx512f,avx512ifma")]
fn down_fours(values: &mut [Words], roots: &Roots) {
    let [one, two] = &roots.small;
    for block in values.as_chunks_mut::<128>().0 {
        let start = block.as_mut_ptr().cast::<u8>();
        for at in 0..4 {
            // SAFETY: lanes are 16 elements apart, quarters 4: all within 128 elements.
            unsafe {
                let place = |quarter: usize| start.add((4 * quarter + at) * BYTES);
                let loaded = [0, 1, 2, 3].map(|quarter| Elements::load(place(quarter), 16 * BYTES));
                let roots = [one[at], two[at], two[at + 4]].map(|root| Elements::broadcast(root));
                let out = down_butterfly(loaded, roots[0], roots[1], roots[2]);
                for (quarter, value) in out.into_iter().enumerate() {
                    value.store(place(quarter), 16 * BYTES);
                }
            }
        }
    }
}

/// Distances 1 and 2, whose roots are 1 and the fourth root; canonical in, below `4.2p` out.
#[target_feature(enable = "avx512f,avx512ifma")]
fn up_ones(values: &mut [Words], roots: &Roots) {
    let fourth = Elements::broadcast(roots.fourth);
    for block in values.as_chunks_mut::<32>().0 {
        let start = block.as_mut_ptr().cast::<u8>();
        // SAFETY: lanes are 4 elements apart: all within 32 elements.
        unsafe {
            let [a, b, c, d] = [0, 1, 2, 3].map(|at| Elements::load(start.add(at * BYTES), 4 * BYTES));
            let p = Elements::moduli::<1>();
            let (a, b) = (a.plus(b).normalise(), a.minus(b).plus(p).normalise());
            let (c, d) = (c.plus(d).normalise(), c.minus(d).plus(p).normalise().mul(fourth));
            for (at, value) in up_sums(a, b, c, d).into_iter().enumerate() {
                value.store(start.add(at * BYTES), 4 * BYTES);
            }
        }
    }
}

/// Distances 2 and 1; below `4p` in, canonical out.
#[target_feature(enable = "avx512f,avx512ifma")]
fn down_ones(values: &mut [Words], roots: &Roots) {
    let fourth = Elements::broadcast(roots.fourth);
    for block in values.as_chunks_mut::<32>().0 {
        let start = block.as_mut_ptr().cast::<u8>();
        // SAFETY: lanes are 4 elements apart: all within 32 elements.
        unsafe {
            let [a, b, c, d] = [0, 1, 2, 3].map(|at| Elements::load(start.add(at * BYTES), 4 * BYTES));
            let (four, eight) = (Elements::moduli::<4>(), Elements::moduli::<8>());
            let (s, t) = (a.plus(c), a.minus(c).plus(four).normalise());
            let (u, v) = (b.plus(d), b.minus(d).plus(four).normalise().mul(fourth));
            // Below 16p, 16p, 10p and 10p.
            let out = [
                s.plus(u).normalise(),
                s.minus(u).plus(eight).normalise(),
                t.plus(v).normalise(),
                t.minus(v).plus(Elements::moduli::<2>()).normalise(),
            ];
            for (at, value) in out.into_iter().enumerate() {
                value.reduce().less::<1>().store(start.add(at * BYTES), 4 * BYTES);
            }
        }
    }
}

/// `out[i] = values[i] * factors[i]`.
///
/// # Shapes
/// `factors` in 260-form times whatever form the products shall have more; as many as values, a multiple of 8.
pub(crate) fn scale(out: &mut [Fr], values: &[Fr], factors: &[Packed]) {
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn run(out: &mut [Words], values: &[Fr], factors: &[Packed]) {
        let chunks = out.as_chunks_mut::<8>().0.iter_mut().zip(values.as_chunks::<8>().0).zip(factors);
        for ((out, values), factor) in chunks {
            // SAFETY: eight consecutive elements each.
            unsafe {
                let value = Elements::load_next(values.as_ptr().cast());
                value.mul(Elements::unpack(factor)).less::<1>().store_next(out.as_mut_ptr().cast());
            }
        }
    }
    // SAFETY: this code runs where the features were detected.
    unsafe { run(as_words(out), values, factors) }
}

/// Factors for [`scale`].
pub(crate) fn factors(values: &[Fr]) -> Vec<Packed> {
    let words: Vec<Words> = values.iter().map(|value| words(&(*value * Fr::from(16)))).collect();
    words.as_chunks::<8>().0.iter().map(Packed::of).collect()
}
