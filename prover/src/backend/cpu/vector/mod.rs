//! Eight field elements at a time: AVX-512 IFMA, chosen at run time.
//!
//! An element is five limbs of 52 bits, one vector register each; a Montgomery product with `R = 2^260` takes
//! 105 multiply-adds for eight elements. Elements in memory keep the library's form, four words of
//! `a · 2^256 mod p`, and are regrouped when they are loaded and stored. Which power of two a value carries:
//!
//! ```text
//! mul(a · 2^s, b · 2^t) = ab · 2^(s+t−260)      "256-form": a · 2^256, "260-form": a · 2^260 = 16 times that
//! ```
//!
//! so a product with a constant in 260-form keeps its other factor's form.
//!
//! # Soundness
//! Limbs are *normalised* when each is below `2^52`; `mul` needs both factors so. Bounds are multiples of `p`,
//! written `< 2p`; 260 bits hold values below `84p`, four words values below `5p`.

#![expect(unsafe_code, reason = "vector registers are loaded and stored through pointers")]

mod lanes;
pub(crate) mod msm;
pub(crate) mod ntt;
pub(crate) mod program;

pub(crate) use lanes::Packed;

use std::sync::OnceLock;

use ff::{Field, PrimeField};
use halo2_proofs::halo2curves::bn256::{Fq, Fr};

/// Four words of an element as the library stores it.
pub(crate) type Words = [u64; 4];

/// Whether this machine runs these kernels, and the library's elements look as they expect.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512ifma")
            && words_of(Fr::from(2).pow_vartime([252]), Fr::ONE)
            && words_of(Fq::from(2).pow_vartime([252]), Fq::ONE)
    })
}

/// Whether an element's words are those of the element `2^256` times as large.
fn words_of<F: PrimeField<Repr = [u8; 32]> + Copy>(power: F, one: F) -> bool {
    let sixteen = F::from(16);
    let form: Vec<u8> = words(&one).iter().flat_map(|word| word.to_le_bytes()).collect();
    form == (power * sixteen).to_repr()
}

/// The words of an element.
pub(crate) fn words<F>(value: &F) -> Words {
    const { assert!(size_of::<F>() == size_of::<Words>() && align_of::<F>() == align_of::<Words>()) };
    // SAFETY: the size and alignment are those of four words, of which every bit pattern is valid.
    unsafe { std::ptr::from_ref(value).cast::<Words>().read() }
}

/// An element of these words.
///
/// # Shapes
/// `words` is below the modulus and in 256-form, for an element that other code sees.
fn element<F: PrimeField>(words: Words) -> F {
    const { assert!(size_of::<F>() == size_of::<Words>() && align_of::<F>() == align_of::<Words>()) };
    // SAFETY: as in `words`; the library's elements are plain words.
    unsafe { std::ptr::from_ref(&words).cast::<F>().read() }
}

/// A list of elements as words. While borrowed, the words may be those of no element: anything below `2^256`.
fn as_words<F: PrimeField>(values: &mut [F]) -> &mut [Words] {
    const { assert!(size_of::<F>() == size_of::<Words>() && align_of::<F>() == align_of::<Words>()) };
    // SAFETY: same size, same alignment, every bit pattern is valid for both.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) }
}
