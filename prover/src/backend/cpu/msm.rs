//! Multi-scalar multiplication: signed buckets, summed by batches of affine additions.
//!
//! A scalar is cut into digits `-2^(c-1) <= d <= 2^(c-1)`. For each digit position the points are sorted by
//! `|d|`, each bucket is summed pairwise in rounds (one inversion for a few hundred additions), and the buckets
//! are weighted by a running sum. Scalars known to be small have few digit positions; zero digits cost
//! nothing.

use ff::Field;
use group::{Curve, Group};
use halo2_proofs::halo2curves::bn256::{Fq, Fr, G1, G1Affine};
use lamina_circuits::integers::{Integer, Limbs, limbs};
use rayon::prelude::*;

use super::Kernels;
#[cfg(target_arch = "x86_64")]
use super::vector;

/// The scalars of one multiplication, one for each base from the first on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scalars<'a> {
    /// 16-bit integers.
    I16(&'a [i16]),
    /// 32-bit integers.
    I32(&'a [i32]),
    /// Field elements, the second list for the bases behind the first.
    Field(&'a [Fr], &'a [Fr]),
}

/// Additions that share one inversion.
const BATCH: usize = 512;

/// The widest window: buckets of one window stay in the cache.
const MAX_WINDOW: u32 = 15;

/// Scalars prepared for cutting into digits.
enum Prepared<'a> {
    I16(&'a [i16]),
    I32(&'a [i32]),
    Wide(Vec<Limbs>),
}

struct Job<'a> {
    scalars: Prepared<'a>,
    window: u32,
    windows: usize,
}

impl Job<'_> {
    fn new(scalars: Scalars<'_>) -> Job<'_> {
        fn magnitude<I: Integer>(values: &[I]) -> (u64, usize) {
            values.iter().fold((0, 0), |(top, count), value| {
                let m = value.wide().unsigned_abs();
                (top.max(m), count + usize::from(m != 0))
            })
        }
        let (bits, count, scalars) = match scalars {
            Scalars::I16(v) => {
                let (top, count) = magnitude(v);
                (bits_of(top), count, Prepared::I16(v))
            }
            Scalars::I32(v) => {
                let (top, count) = magnitude(v);
                (bits_of(top), count, Prepared::I32(v))
            }
            Scalars::Field(v, rest) => {
                let v: Vec<Limbs> = v.par_iter().chain(rest).map(limbs).collect();
                let count = v.iter().filter(|v| **v != [0; 4]).count();
                (255, count, Prepared::Wide(v))
            }
        };
        // Field multiplications: 6 for an affine addition in a batch, two such to weight a bucket.
        let cost = |c: u32| {
            let windows = u64::from(bits.div_ceil(c));
            windows * (6 * count as u64 + (14 << (c - 1)) + (54 << (c / 2)))
        };
        let window = (2..=MAX_WINDOW).min_by_key(|c| cost(*c)).unwrap_or(2);
        Job { scalars, window, windows: if count == 0 { 0 } else { bits.div_ceil(window) as usize } }
    }

    /// Calls `each(index, digit)` for the nonzero digits at one position.
    fn digits(&self, position: usize, mut each: impl FnMut(usize, i32)) {
        let (c, low) = (self.window, position as u32 * self.window);
        match &self.scalars {
            Prepared::I16(v) => small_digits(v, c, low, &mut each),
            Prepared::I32(v) => small_digits(v, c, low, &mut each),
            Prepared::Wide(v) => {
                for (index, value) in v.iter().enumerate() {
                    let digit = signed_digit(value, low, c);
                    if digit != 0 {
                        each(index, digit);
                    }
                }
            }
        }
    }
}

/// `b` with `top <= 2^(b-1)`: the bits that signed digits must cover.
fn bits_of(top: u64) -> u32 {
    match top {
        0 => 1,
        _ => (top - 1).checked_ilog2().map_or(0, |b| b + 1) + 1,
    }
}

fn small_digits<I: Integer>(values: &[I], c: u32, low: u32, each: &mut impl FnMut(usize, i32)) {
    let (half, mask) = (1i64 << (c - 1), (1u64 << c) - 1);
    for (index, value) in values.iter().enumerate() {
        let value = value.wide();
        let magnitude = value.unsigned_abs();
        if magnitude == 0 {
            continue;
        }
        let carry = u64::from(low > 0 && carries(magnitude & ((1 << low) - 1), low, c));
        let mut digit = ((magnitude >> low) & mask) as i64 + carry as i64;
        if digit > half {
            digit -= 1 << c;
        }
        if digit != 0 {
            let digit = digit as i32;
            each(index, if value < 0 { -digit } else { digit });
        }
    }
}

/// Whether the digits below bit `low` carry into it: whether their value exceeds `sum_j 2^(c-1) 2^(c j)`.
fn carries(below: u64, low: u32, c: u32) -> bool {
    let mut most = 0u64;
    let mut at = 0;
    while at < low {
        most |= 1 << (at + c - 1);
        at += c;
    }
    below > most
}

/// Bits `bit..bit + c` of a 256-bit number.
#[inline(always)]
fn bits_at(value: &Limbs, bit: u32, c: u32) -> u64 {
    let (limb, shift) = ((bit / 64) as usize, bit % 64);
    let mut bits = value.get(limb).copied().unwrap_or(0) >> shift;
    if shift + c > 64 {
        bits |= value.get(limb + 1).copied().unwrap_or(0) << (64 - shift);
    }
    bits & ((1 << c) - 1)
}

/// The digit at `low`, its carry worked out from the digits below.
#[inline(always)]
fn signed_digit(value: &Limbs, low: u32, c: u32) -> i32 {
    let half = 1u64 << (c - 1);
    // A digit below carries if it exceeds half, or is half and receives a carry itself.
    let mut carry = 0u64;
    let mut at = low;
    while at > 0 {
        at -= c;
        let digit = bits_at(value, at, c);
        if digit != half {
            carry = u64::from(digit > half);
            break;
        }
    }
    let digit = (bits_at(value, low, c) + carry) as i64;
    if digit > half as i64 { (digit - (1i64 << c)) as i32 } else { digit as i32 }
}

/// `sum_i scalars[i] * bases[i]` for each list of scalars over the same bases.
///
/// # Panics
/// If there are more scalars than bases.
pub(crate) fn multiply(bases: &[G1Affine], lists: &[Scalars<'_>], kernels: Kernels) -> Vec<G1> {
    let jobs: Vec<Job<'_>> = lists.iter().map(|list| Job::new(*list)).collect();
    let tasks: Vec<(usize, usize)> = jobs
        .iter()
        .enumerate()
        .flat_map(|(job, one)| (0..one.windows).map(move |position| (job, position)))
        .collect();
    let sums: Vec<G1> = tasks
        .par_iter()
        .with_max_len(1)
        .map_init(
            || Scratch::new(kernels),
            |scratch, &(job, position)| scratch.window(bases, &jobs[job], position),
        )
        .collect();
    let mut rest = &sums[..];
    jobs.iter()
        .map(|job| {
            let (own, after) = rest.split_at(job.windows);
            rest = after;
            own.iter().rev().fold(G1::identity(), |mut acc, sum| {
                for _ in 0..job.window {
                    acc = acc.double();
                }
                acc + sum
            })
        })
        .collect()
}

/// Buffers that a thread keeps between windows.
#[derive(Default)]
struct Scratch {
    /// For each nonzero digit: base index and sign, sorted by bucket.
    order: Vec<u32>,
    /// Number of points in each bucket.
    counts: Vec<u32>,
    starts: Vec<u32>,
    points: Vec<G1Affine>,
    next: Vec<G1Affine>,
    batch: Batch,
}

impl Scratch {
    fn new(kernels: Kernels) -> Self {
        Scratch { batch: Batch::new(kernels), ..Scratch::default() }
    }

    fn window(&mut self, bases: &[G1Affine], job: &Job<'_>, position: usize) -> G1 {
        let buckets = 1usize << (job.window - 1);
        self.counts.clear();
        self.counts.resize(buckets, 0);
        let counts = &mut self.counts;
        job.digits(position, |_, digit| {
            counts[digit.unsigned_abs() as usize - 1] += 1;
        });
        self.starts.clear();
        let mut total = 0;
        for count in &self.counts {
            self.starts.push(total);
            total += count;
        }
        if total == 0 {
            return G1::identity();
        }
        self.order.clear();
        self.order.resize(total as usize, 0);
        let (starts, order) = (&mut self.starts, &mut self.order);
        job.digits(position, |index, digit| {
            let start = &mut starts[digit.unsigned_abs() as usize - 1];
            order[*start as usize] = (index as u32) << 1 | u32::from(digit < 0);
            *start += 1;
        });

        let base = |entry: u32| {
            let point = bases[(entry >> 1) as usize];
            if entry & 1 == 1 { -point } else { point }
        };
        let order = &self.order;
        reduce(&mut self.counts, |at| base(order[at]), &mut self.points, &mut self.next, &mut self.batch);
        self.weigh(buckets)
    }

    /// `sum_b (b + 1) P_b` over the bucket sums in `points`.
    ///
    /// ```text
    /// b = s * r + l:   sum_b b P_b = s * sum_r r (sum_l P_rl) + sum_l l (sum_r P_rl)
    /// ```
    /// Rows and columns are summed by affine additions; only `2 sqrt(buckets)` points are weighted by running
    /// sums, which need projective ones.
    fn weigh(&mut self, buckets: usize) -> G1 {
        let side = 1usize << buckets.ilog2().div_ceil(2);
        // Where each bucket's sum is, if it has one.
        self.starts.clear();
        let mut at = 0;
        for count in &self.counts {
            self.starts.push(if *count == 1 { at } else { u32::MAX });
            at += count;
        }
        let rows: Vec<G1Affine> =
            self.lines(buckets.div_ceil(side), |row| (row * side..((row + 1) * side).min(buckets)).collect());
        let columns: Vec<G1Affine> = self.lines(side, |column| (column..buckets).step_by(side).collect());
        let mut sum = running(&rows, 0);
        for _ in 0..side.ilog2() {
            sum = sum.double();
        }
        sum + running(&columns, 1)
    }

    /// The sums of some lists of buckets.
    fn lines(&mut self, count: usize, line: impl Fn(usize) -> Vec<usize>) -> Vec<G1Affine> {
        let mut counts = Vec::with_capacity(count);
        let mut entries = std::mem::take(&mut self.order);
        entries.clear();
        for index in 0..count {
            let before = entries.len();
            let buckets = line(index).into_iter();
            entries.extend(buckets.map(|b| self.starts[b]).filter(|at| *at != u32::MAX));
            counts.push((entries.len() - before) as u32);
        }
        let points = &self.points;
        let (mut sums, mut spare) = (std::mem::take(&mut self.next), Vec::new());
        let first = |at: usize| points[entries[at] as usize];
        reduce(&mut counts, first, &mut sums, &mut spare, &mut self.batch);
        let mut from = sums.iter();
        let lines = counts
            .iter()
            .map(|count| match count {
                0 => G1Affine::default(),
                _ => from.next().copied().unwrap_or_default(),
            })
            .collect();
        self.order = entries;
        self.next = sums;
        lines
    }
}

/// `sum_i (i + first) P_i`.
fn running(points: &[G1Affine], first: usize) -> G1 {
    let (mut running, mut sum) = (G1::identity(), G1::identity());
    for (at, point) in points.iter().enumerate().rev() {
        if !is_identity(point) {
            running += point;
        }
        if at + first > 0 {
            sum += running;
        }
    }
    sum
}

/// Adds up every group of `counts[i]` consecutive points; afterwards each count is 0 or 1.
fn reduce(
    counts: &mut [u32],
    first: impl Fn(usize) -> G1Affine,
    out: &mut Vec<G1Affine>,
    spare: &mut Vec<G1Affine>,
    batch: &mut Batch,
) {
    round(counts, first, out, batch);
    while counts.iter().any(|count| *count > 1) {
        std::mem::swap(out, spare);
        let points = &*spare;
        round(counts, |at| points[at], out, batch);
    }
}

/// Halves every bucket: adds its points in pairs.
fn round(counts: &mut [u32], point: impl Fn(usize) -> G1Affine, out: &mut Vec<G1Affine>, batch: &mut Batch) {
    let total: usize = counts.iter().map(|c| c.div_ceil(2) as usize).sum();
    out.clear();
    out.resize(total, G1Affine::default());
    let (mut from, mut to) = (0, 0);
    for count in counts.iter_mut() {
        let pairs = *count as usize / 2;
        for pair in 0..pairs {
            batch.push(point(from + 2 * pair), point(from + 2 * pair + 1), to, out);
            to += 1;
        }
        if *count % 2 == 1 {
            out[to] = point(from + 2 * pairs);
            to += 1;
        }
        from += *count as usize;
        *count = count.div_ceil(2);
    }
    batch.flush(out);
}

/// Affine additions that wait for their common inversion.
#[derive(Default)]
struct Batch {
    left: Vec<G1Affine>,
    right: Vec<G1Affine>,
    to: Vec<usize>,
    /// Products of the denominators before each pair.
    prefix: Vec<Fq>,
    #[cfg(target_arch = "x86_64")]
    vector: Option<(vector::msm::Scratch, Vec<G1Affine>)>,
}

impl Batch {
    fn new(kernels: Kernels) -> Self {
        Batch {
            #[cfg(target_arch = "x86_64")]
            vector: kernels.vector().then(Default::default),
            ..Batch::default()
        }
    }

    #[inline(always)]
    fn push(&mut self, left: G1Affine, right: G1Affine, to: usize, out: &mut [G1Affine]) {
        if left.x == right.x || is_identity(&left) || is_identity(&right) {
            // Rare: the bases are distinct.
            out[to] = (G1::from(left) + right).to_affine();
            return;
        }
        self.left.push(left);
        self.right.push(right);
        self.to.push(to);
        if self.to.len() == BATCH {
            self.flush(out);
        }
    }

    fn flush(&mut self, out: &mut [G1Affine]) {
        let mut done = 0;
        #[cfg(target_arch = "x86_64")]
        if let Some((scratch, sums)) = &mut self.vector {
            done = self.to.len() & !7;
            sums.resize(done, G1Affine::default());
            vector::msm::add(&self.left[..done], &self.right[..done], sums, scratch);
            for (to, sum) in self.to.iter().zip(sums) {
                out[*to] = *sum;
            }
        }
        self.add_from(done, out);
        self.left.clear();
        self.right.clear();
        self.to.clear();
    }

    /// Adds the pairs from `first` on.
    fn add_from(&mut self, first: usize, out: &mut [G1Affine]) {
        let pairs = || self.left[first..].iter().zip(&self.right[first..]).zip(&self.to[first..]);
        if self.to.len() == first {
            return;
        }
        self.prefix.clear();
        let mut product = Fq::ONE;
        for ((left, right), _) in pairs() {
            self.prefix.push(product);
            product *= right.x - left.x;
        }
        let mut inverse = product.invert().unwrap_or(Fq::ZERO);
        for (((left, right), to), prefix) in pairs().zip(&self.prefix).rev() {
            let slope = (right.y - left.y) * (inverse * prefix);
            inverse *= right.x - left.x;
            let x = slope.square() - left.x - right.x;
            out[*to] = G1Affine { x, y: slope * (left.x - x) - left.y };
        }
    }
}

fn is_identity(point: &G1Affine) -> bool {
    point.x == Fq::ZERO && point.y == Fq::ZERO
}

/// Multiples of a few bases, for blinding values: of every column, of quotient limbs.
#[derive(Debug)]
pub(crate) struct Table {
    /// For each base, each digit's position: the multiples 1, 2, ..
    multiples: Vec<G1Affine>,
}

/// Bits of a digit: all of a [`Table`] stays in the cache.
const DIGIT_BITS: u32 = 6;
const DIGITS: usize = 256usize.div_ceil(DIGIT_BITS as usize);
const MULTIPLES: usize = (1 << DIGIT_BITS) - 1;

impl Table {
    pub(crate) fn new(bases: &[G1Affine]) -> Self {
        let multiples: Vec<G1> = bases
            .par_iter()
            .flat_map_iter(|base| {
                let mut start = G1::from(*base);
                let mut list = Vec::with_capacity(DIGITS * MULTIPLES);
                for _ in 0..DIGITS {
                    let mut multiple = start;
                    for _ in 0..MULTIPLES {
                        list.push(multiple);
                        multiple += start;
                    }
                    start = multiple;
                }
                list
            })
            .collect();
        Table { multiples: normalise(&multiples) }
    }

    /// `sum_i scalars[i] * bases[i]` for each list of scalars.
    ///
    /// Lists that one thread adds up share inversions, so that they cost what their additions do.
    pub(crate) fn multiply<S: AsRef<[Fr]> + Sync>(&self, lists: &[S], kernels: Kernels) -> Vec<G1Affine> {
        let sums = |lists: &[S]| {
            // Places in the table: points would be fresh memory, which costs more than reading them again.
            let digits = DIGITS * lists.iter().map(|list| list.as_ref().len()).sum::<usize>();
            let (mut chosen, mut counts) =
                (Vec::<u32>::with_capacity(digits), Vec::with_capacity(lists.len()));
            for list in lists {
                let before = chosen.len();
                let bases = self.multiples.len() / (DIGITS * MULTIPLES);
                for (base, scalar) in list.as_ref().iter().take(bases).enumerate() {
                    let scalar = limbs(scalar);
                    for at in 0..DIGITS {
                        let digit = bits_at(&scalar, DIGIT_BITS * at as u32, DIGIT_BITS) as usize;
                        let first = (base * DIGITS + at) * MULTIPLES;
                        chosen.extend(digit.checked_sub(1).map(|multiple| (first + multiple) as u32));
                    }
                }
                counts.push((chosen.len() - before) as u32);
            }
            let (mut sums, mut spare) = (Vec::new(), Vec::new());
            let point = |at: usize| self.multiples[chosen[at] as usize];
            reduce(&mut counts, point, &mut sums, &mut spare, &mut Batch::new(kernels));
            let mut sums = sums.into_iter();
            let mut sum = |count: &u32| if *count == 0 { None } else { sums.next() };
            counts.iter().map(|count| sum(count).unwrap_or_default()).collect::<Vec<_>>()
        };
        let size = lists.len().div_ceil(rayon::current_num_threads()).max(1);
        lists.par_chunks(size).flat_map_iter(sums).collect()
    }
}

/// The points in affine form.
pub(crate) fn normalise(points: &[G1]) -> Vec<G1Affine> {
    let mut affine = vec![G1Affine::default(); points.len()];
    G1::batch_normalize(points, &mut affine);
    affine
}

#[cfg(test)]
mod tests {
    use halo2_proofs::halo2curves::bn256::G1;
    use rand_chacha::ChaCha20Rng;
    use rand_core::{RngCore, SeedableRng};

    use super::*;
    use crate::key::field_of;

    fn naive(bases: &[G1Affine], scalars: &[Fr]) -> G1 {
        bases.iter().zip(scalars).map(|(b, s)| b * s).sum()
    }

    #[test]
    fn agrees_with_double_and_add() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let kernels = [Kernels::Portable, Kernels::Detected];
        for (n, kernels) in [1usize, 2, 3, 17, 100, 700].into_iter().flat_map(|n| kernels.map(|v| (n, v))) {
            let mut bases: Vec<G1Affine> =
                (0..n).map(|_| (G1::generator() * Fr::random(&mut rng)).to_affine()).collect();
            if n > 10 {
                bases[1] = bases[0];
                bases[3] = -bases[2];
                bases[5] = G1Affine::default();
                bases[6] = bases[0];
            }
            let edges = [0, 1, -1, i32::MIN, i32::MAX, i16::MIN.into(), i16::MAX.into(), 128, -129];
            let pick = |rng: &mut ChaCha20Rng| match rng.next_u32() % 3 {
                0 => edges[rng.next_u32() as usize % edges.len()],
                1 => 77,
                _ => rng.next_u32() as i32,
            };
            let wide: Vec<i32> = (0..n).map(|_| pick(&mut rng)).collect();
            let short: Vec<i16> =
                wide.iter().map(|v| (*v).clamp(i16::MIN.into(), i16::MAX.into()) as i16).collect();
            let bytes: Vec<i16> = short.iter().map(|v| v >> 8).collect();
            let mut field: Vec<Fr> = (0..n)
                .map(|i| match i % 5 {
                    0 => Fr::ZERO,
                    1 => -Fr::ONE,
                    2 => Fr::from(2).invert().unwrap_or(Fr::ONE),
                    _ => Fr::random(&mut rng),
                })
                .collect();
            field[0] = -Fr::ONE;
            let all_same = vec![Fr::from(5); n];
            let sums = multiply(
                &bases,
                &[
                    Scalars::I32(&wide),
                    Scalars::I16(&short),
                    Scalars::Field(&field[..n / 2], &field[n / 2..]),
                    Scalars::I16(&vec![0; n]),
                    Scalars::I16(&bytes),
                    Scalars::Field(&all_same, &[]),
                ],
                kernels,
            );
            let of = |v: &mut dyn Iterator<Item = i64>| v.map(field_of).collect::<Vec<Fr>>();
            let expected = [
                naive(&bases, &of(&mut wide.iter().map(|v| i64::from(*v)))),
                naive(&bases, &of(&mut short.iter().map(|v| i64::from(*v)))),
                naive(&bases, &field),
                G1::identity(),
                naive(&bases, &of(&mut bytes.iter().map(|v| i64::from(*v)))),
                naive(&bases, &all_same),
            ];
            assert_eq!(sums, expected, "n = {n}");
            let few = n.min(5);
            let table = Table::new(&bases[..few]);
            let lists: Vec<&[Fr]> = (0..=few).map(|len| &field[..len]).collect();
            let sums: Vec<G1> = lists.iter().map(|list| naive(&bases[..list.len()], list)).collect();
            assert_eq!(table.multiply(&lists, kernels), normalise(&sums));
        }
    }
}
