//! Arithmetic on eight elements.

use std::{arch::x86_64::*, marker::PhantomData};

use super::Words;

/// A prime modulus.
pub(crate) trait Modulus: Copy {
    /// The modulus, least significant word first.
    const WORDS: Words;
}

/// The order of the group: scalars.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

impl Modulus for Scalar {
    const WORDS: Words =
        [0x43e1_f593_f000_0001, 0x2833_e848_79b9_7091, 0xb850_45b6_8181_585d, 0x3064_4e72_e131_a029];
}

/// The order of the field of coordinates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base;

impl Modulus for Base {
    const WORDS: Words =
        [0x3c20_8c16_d87c_fd47, 0x9781_6a91_6871_ca8d, 0xb850_45b6_8181_585d, 0x3064_4e72_e131_a029];
}

const MASK: u64 = (1 << 52) - 1;

/// Limbs of 52 bits.
const fn limbs(w: Words) -> [u64; 5] {
    [
        w[0] & MASK,
        (w[0] >> 52 | w[1] << 12) & MASK,
        (w[1] >> 40 | w[2] << 24) & MASK,
        (w[2] >> 28 | w[3] << 36) & MASK,
        w[3] >> 16,
    ]
}

/// `multiple · p` in limbs, normalised.
const fn multiple(words: Words, multiple: u64) -> [u64; 5] {
    let p = limbs(words);
    let (mut out, mut carry, mut i) = ([0; 5], 0, 0);
    while i < 5 {
        let value = p[i] * multiple + carry;
        out[i] = value & MASK;
        carry = value >> 52;
        i += 1;
    }
    out
}

/// `−p⁻¹ mod 2^52`.
const fn inverse(words: Words) -> u64 {
    let (mut inverse, mut i) = (1u64, 0);
    while i < 6 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(words[0].wrapping_mul(inverse)));
        i += 1;
    }
    inverse.wrapping_neg() & MASK
}

/// Eight elements in memory, regrouped: limb by limb.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Packed([[u64; 8]; 5]);

impl Packed {
    /// Eight elements.
    pub(crate) fn of(elements: &[Words; 8]) -> Self {
        let mut packed = Packed::default();
        for (lane, words) in elements.iter().enumerate() {
            for (limb, value) in packed.0.iter_mut().zip(limbs(*words)) {
                limb[lane] = value;
            }
        }
        packed
    }
}

/// Eight elements in registers.
#[derive(Clone, Copy)]
pub(crate) struct Lanes<M>(pub(crate) [__m512i; 5], PhantomData<M>);

#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn splat(value: u64) -> __m512i {
    _mm512_set1_epi64(value as i64)
}

impl<M: Modulus> Lanes<M> {
    /// `count · p` in every lane.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn moduli<const COUNT: u64>() -> Self {
        let limbs = const { multiple(M::WORDS, COUNT) };
        Lanes(limbs.map(|limb| splat(limb)), PhantomData)
    }

    /// The same element in every lane.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn broadcast(words: Words) -> Self {
        Lanes(limbs(words).map(|limb| splat(limb)), PhantomData)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn unpack(packed: &Packed) -> Self {
        // SAFETY: a packed limb is 64 bytes.
        let limb = |at: usize| unsafe { _mm512_load_si512(packed.0[at].as_ptr().cast()) };
        Lanes([limb(0), limb(1), limb(2), limb(3), limb(4)], PhantomData)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn pack(self, packed: &mut Packed) {
        for (limb, value) in packed.0.iter_mut().zip(self.0) {
            // SAFETY: a packed limb is 64 bytes, aligned.
            unsafe { _mm512_store_si512(limb.as_mut_ptr().cast(), value) }
        }
    }

    /// Loads the elements at `from`, `from + stride`, … (in bytes).
    ///
    /// # Safety
    /// All eight are readable.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) unsafe fn load(from: *const u8, stride: usize) -> Self {
        // SAFETY: the caller's promise.
        let pair = |at: usize| unsafe {
            let low = _mm256_loadu_si256(from.add(at * stride).cast());
            let high = _mm256_loadu_si256(from.add((at + 1) * stride).cast());
            _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1)
        };
        Self::regroup([pair(0), pair(2), pair(4), pair(6)])
    }

    /// Loads eight consecutive elements.
    ///
    /// # Safety
    /// All eight are readable.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) unsafe fn load_next(from: *const u8) -> Self {
        // SAFETY: the caller's promise.
        let pair = |at: usize| unsafe { _mm512_loadu_si512(from.add(64 * at).cast()) };
        Self::regroup([pair(0), pair(1), pair(2), pair(3)])
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn regroup(z: [__m512i; 4]) -> Self {
        let low = _mm512_setr_epi64(0, 4, 8, 12, 1, 5, 9, 13);
        let high = _mm512_setr_epi64(2, 6, 10, 14, 3, 7, 11, 15);
        let (a, b) = (_mm512_permutex2var_epi64(z[0], low, z[1]), _mm512_permutex2var_epi64(z[2], low, z[3]));
        let (c, d) =
            (_mm512_permutex2var_epi64(z[0], high, z[1]), _mm512_permutex2var_epi64(z[2], high, z[3]));
        let w = [
            _mm512_shuffle_i64x2(a, b, 0x44),
            _mm512_shuffle_i64x2(a, b, 0xee),
            _mm512_shuffle_i64x2(c, d, 0x44),
            _mm512_shuffle_i64x2(c, d, 0xee),
        ];
        let mask = splat(MASK);
        let join = |low: __m512i, high: __m512i| _mm512_and_si512(_mm512_or_si512(low, high), mask);
        Lanes(
            [
                _mm512_and_si512(w[0], mask),
                join(_mm512_srli_epi64(w[0], 52), _mm512_slli_epi64(w[1], 12)),
                join(_mm512_srli_epi64(w[1], 40), _mm512_slli_epi64(w[2], 24)),
                join(_mm512_srli_epi64(w[2], 28), _mm512_slli_epi64(w[3], 36)),
                _mm512_srli_epi64(w[3], 16),
            ],
            PhantomData,
        )
    }

    /// The four registers of eight elements in memory order. Normalised, below `2^256`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn degroup(self) -> [__m512i; 4] {
        let l = self.0;
        let w0 = _mm512_or_si512(l[0], _mm512_slli_epi64(l[1], 52));
        let w1 = _mm512_or_si512(_mm512_srli_epi64(l[1], 12), _mm512_slli_epi64(l[2], 40));
        let w2 = _mm512_or_si512(_mm512_srli_epi64(l[2], 24), _mm512_slli_epi64(l[3], 28));
        let w3 = _mm512_or_si512(_mm512_srli_epi64(l[3], 36), _mm512_slli_epi64(l[4], 16));
        // Words of lanes 0..4 and 4..8, then two elements each.
        let (a, b) = (_mm512_shuffle_i64x2(w0, w1, 0x44), _mm512_shuffle_i64x2(w0, w1, 0xee));
        let (c, d) = (_mm512_shuffle_i64x2(w2, w3, 0x44), _mm512_shuffle_i64x2(w2, w3, 0xee));
        let first = _mm512_setr_epi64(0, 4, 8, 12, 1, 5, 9, 13);
        let second = _mm512_setr_epi64(2, 6, 10, 14, 3, 7, 11, 15);
        [
            _mm512_permutex2var_epi64(a, first, c),
            _mm512_permutex2var_epi64(a, second, c),
            _mm512_permutex2var_epi64(b, first, d),
            _mm512_permutex2var_epi64(b, second, d),
        ]
    }

    /// Stores to `to`, `to + stride`, … (in bytes). Normalised, below `2^256`.
    ///
    /// # Safety
    /// All eight are writable.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) unsafe fn store(self, to: *mut u8, stride: usize) {
        for (at, pair) in self.degroup().into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                _mm256_storeu_si256(to.add(2 * at * stride).cast(), _mm512_castsi512_si256(pair));
                _mm256_storeu_si256(to.add((2 * at + 1) * stride).cast(), _mm512_extracti64x4_epi64(pair, 1));
            }
        }
    }

    /// Stores eight consecutive elements. Normalised, below `2^256`.
    ///
    /// # Safety
    /// All eight are writable.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) unsafe fn store_next(self, to: *mut u8) {
        for (at, pair) in self.degroup().into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { _mm512_storeu_si512(to.add(64 * at).cast(), pair) }
        }
    }

    /// Moves carries up, signed ones too: limbs `< 2^62` in magnitude become normalised.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn normalise(self) -> Self {
        let mask = splat(MASK);
        let mut l = self.0;
        for at in 0..4 {
            l[at + 1] = _mm512_add_epi64(l[at + 1], _mm512_srai_epi64(l[at], 52));
            l[at] = _mm512_and_si512(l[at], mask);
        }
        Lanes(l, PhantomData)
    }

    /// `a + b`, not normalised.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn plus(self, other: Self) -> Self {
        let mut l = self.0;
        for (a, b) in l.iter_mut().zip(other.0) {
            *a = _mm512_add_epi64(*a, b);
        }
        Lanes(l, PhantomData)
    }

    /// `a − b`, not normalised.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn minus(self, other: Self) -> Self {
        let mut l = self.0;
        for (a, b) in l.iter_mut().zip(other.0) {
            *a = _mm512_sub_epi64(*a, b);
        }
        Lanes(l, PhantomData)
    }

    /// `16 a`, not normalised: 256-form to 260-form.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn sixteenfold(self) -> Self {
        let mut l = self.0;
        for a in &mut l {
            *a = _mm512_slli_epi64(*a, 4);
        }
        Lanes(l, PhantomData)
    }

    /// `ab / 2^260`, normalised, below `p (1 + ab / (2^260 p))`. Factors normalised.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn mul(self, other: Self) -> Self {
        let p = Self::moduli::<1>().0;
        let negative_inverse = splat(const { inverse(M::WORDS) });
        let zero = _mm512_setzero_si512();
        let (a, mut t) = (self.0, [zero; 5]);
        for b in other.0 {
            for at in 0..5 {
                t[at] = _mm512_madd52lo_epu64(t[at], a[at], b);
            }
            let m = _mm512_madd52lo_epu64(zero, t[0], negative_inverse);
            for at in 0..5 {
                t[at] = _mm512_madd52lo_epu64(t[at], m, p[at]);
            }
            let carry = _mm512_srli_epi64(t[0], 52);
            t = [_mm512_add_epi64(t[1], carry), t[2], t[3], t[4], zero];
            for at in 0..5 {
                t[at] = _mm512_madd52hi_epu64(t[at], a[at], b);
                t[at] = _mm512_madd52hi_epu64(t[at], m, p[at]);
            }
        }
        Lanes(t, PhantomData).normalise()
    }

    /// `a − COUNT·p` where that is not negative, else `a`. Normalised in and out.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn less<const COUNT: u64>(self) -> Self {
        let difference = self.minus(Self::moduli::<COUNT>()).normalise();
        let negative = _mm512_cmplt_epi64_mask(difference.0[4], _mm512_setzero_si512());
        let mut l = self.0;
        for (a, d) in l.iter_mut().zip(difference.0) {
            *a = _mm512_mask_blend_epi64(negative, d, *a);
        }
        Lanes(l, PhantomData)
    }

    /// The residue below `2p` of a normalised value below `64p`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(crate) fn reduce(self) -> Self {
        // q = floor(top / (p_top + 1)), by a reciprocal scaled by 2^97: at most one too small.
        let top = const { limbs(M::WORDS)[4] };
        let reciprocal = splat(((1u128 << 97) / (top as u128 + 1)) as u64);
        let zero = _mm512_setzero_si512();
        let q = _mm512_srli_epi64(_mm512_madd52hi_epu64(zero, self.0[4], reciprocal), 45);
        let (p, mut l, mut product) = (Self::moduli::<1>().0, self.0, [zero; 6]);
        for at in 0..5 {
            product[at] = _mm512_madd52lo_epu64(product[at], q, p[at]);
            product[at + 1] = _mm512_madd52hi_epu64(product[at + 1], q, p[at]);
        }
        for (a, b) in l.iter_mut().zip(product) {
            *a = _mm512_sub_epi64(*a, b);
        }
        Lanes(l, PhantomData).normalise()
    }
}

#[cfg(test)]
mod tests {
    use ff::PrimeField;
    use halo2_proofs::halo2curves::bn256::{Fq, Fr};
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::{super::*, *};

    /// Products, sums, differences and residues of edge values, element by element.
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn check<F: PrimeField, M: Modulus>() {
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        let edges =
            [F::ZERO, F::ONE, -F::ONE, F::from(2), F::from(16).invert().unwrap_or(F::ONE), -F::from(7)];
        let pick = |at: usize, rng: &mut ChaCha20Rng| {
            if at.is_multiple_of(3) { F::random(rng) } else { edges[at % 6] }
        };
        for round in 0..64 {
            let a: [F; 8] = std::array::from_fn(|at| pick(at + round, &mut rng));
            let b: [F; 8] = std::array::from_fn(|at| pick(at * 5 + round / 6, &mut rng));
            // SAFETY: eight consecutive elements.
            let load = |v: &[F; 8]| unsafe { Lanes::<M>::load_next(v.as_ptr().cast()) };
            let (x, y) = (load(&a), load(&b));
            let expect = |lanes: Lanes<M>, f: &dyn Fn(F, F) -> F| {
                let mut out = [F::ZERO; 8];
                // SAFETY: eight consecutive elements.
                unsafe { lanes.less::<2>().less::<1>().store_next(out.as_mut_ptr().cast()) };
                for ((out, a), b) in out.iter().zip(a).zip(b) {
                    assert_eq!(*out, f(a, b));
                }
            };
            expect(x, &|a, _| a);
            expect(x.sixteenfold().normalise().mul(y), &|a, b| a * b);
            expect(x.plus(y).normalise(), &|a, b| a + b);
            expect(x.minus(y).plus(Lanes::moduli::<1>()).normalise(), &|a, b| a - b);
            let many = (1..31).fold(x, |sum, _| sum.plus(x)).plus(Lanes::moduli::<31>()).normalise();
            expect(many.reduce(), &|a, _| a * F::from(31));
            let less = x.plus(Lanes::moduli::<8>()).normalise().less::<4>().less::<4>();
            expect(less, &|a, _| a);
            let mut packed = Packed::default();
            x.pack(&mut packed);
            expect(Lanes::unpack(&packed), &|a, _| a);
            let words: [Words; 8] = a.map(|a| words(&a));
            expect(Lanes::unpack(&Packed::of(&words)), &|a, _| a);
            let one = Lanes::<M>::broadcast(super::super::words(&a[3]));
            expect(one, &|_, _| a[3]);
            // Every second element of a longer list.
            let spread: Vec<F> = a.iter().flat_map(|a| [*a, F::ONE]).collect();
            let mut back = vec![F::ONE; 16];
            // SAFETY: sixteen elements of 32 bytes.
            unsafe { Lanes::<M>::load(spread.as_ptr().cast(), 64).store(back.as_mut_ptr().cast(), 64) };
            assert_eq!(back, spread);
        }
    }

    #[test]
    fn arithmetic_agrees_with_the_library() {
        if !available() {
            eprintln!("skipped: no AVX-512 IFMA on this machine");
            return;
        }
        // SAFETY: the features were detected.
        unsafe {
            check::<Fr, Scalar>();
            check::<Fq, Base>();
        }
    }

    #[test]
    fn moduli_are_the_librarys() {
        let hex = |words: Words| words.iter().rev().map(|w| format!("{w:016x}")).collect::<String>();
        assert_eq!(format!("0x{}", hex(Scalar::WORDS)), Fr::MODULUS);
        assert_eq!(format!("0x{}", hex(Base::WORDS)), Fq::MODULUS);
    }
}
