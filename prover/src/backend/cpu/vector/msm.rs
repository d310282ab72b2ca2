//! Affine additions that share an inversion, eight at a time.

use ff::BatchInvert;
use halo2_proofs::halo2curves::bn256::{Fq, G1Affine};

use super::{
    Words, element,
    lanes::{Base, Lanes, Packed},
    words,
};

type Elements = Lanes<Base>;

/// What additions need between their two passes.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    denominators: Vec<Packed>,
    prefixes: Vec<Packed>,
}

/// `out[i] = left[i] + right[i]`, where the abscissas differ and neither is the identity.
///
/// # Shapes
/// All lists are equally long, a multiple of 8.
///
/// # Panics
/// If they are not.
pub(crate) fn add(left: &[G1Affine], right: &[G1Affine], out: &mut [G1Affine], scratch: &mut Scratch) {
    assert!(left.len() == right.len() && left.len() == out.len() && left.len().is_multiple_of(8));
    // SAFETY: this code runs where the features were detected.
    unsafe { run(left, right, out, scratch) }
}

const BYTES: usize = size_of::<G1Affine>();

#[target_feature(enable = "avx512f,avx512ifma")]
fn run(left: &[G1Affine], right: &[G1Affine], out: &mut [G1Affine], scratch: &mut Scratch) {
    let (left, right) = (left.as_chunks::<8>().0, right.as_chunks::<8>().0);
    // SAFETY: eight points, one behind the other.
    let load = |coordinate: &Fq| unsafe { Elements::load(std::ptr::from_ref(coordinate).cast(), BYTES) };
    let Scratch { denominators, prefixes } = scratch;
    denominators.clear();
    prefixes.clear();
    let p = Elements::moduli::<1>();
    // 16 (x_r − x_l), below 32p: in 260-form. Products of such stay below 1.7p.
    let mut product = Elements::broadcast(words(&Fq::from(16)));
    for (left, right) in left.iter().zip(right) {
        let denominator = load(&right[0].x).minus(load(&left[0].x)).plus(p).sixteenfold().normalise();
        let mut packed = Packed::default();
        denominator.pack(&mut packed);
        denominators.push(packed);
        product.pack(&mut packed);
        prefixes.push(packed);
        product = denominator.mul(product);
    }
    let mut inverse = invert(product);
    let chunks = left.iter().zip(right).zip(out.as_chunks_mut::<8>().0);
    for (((left, right), out), (denominator, prefix)) in chunks.zip(denominators.iter().zip(&*prefixes)).rev()
    {
        let inverted = inverse.mul(Elements::unpack(prefix));
        inverse = Elements::unpack(denominator).mul(inverse);
        let (x_left, y_left) = (load(&left[0].x), load(&left[0].y));
        let (x_right, y_right) = (load(&right[0].x), load(&right[0].y));
        let slope = y_right.minus(y_left).plus(p).normalise().mul(inverted);
        let steep = slope.sixteenfold().normalise();
        let twice = Elements::moduli::<2>();
        let x = steep.mul(slope).minus(x_left).minus(x_right).plus(twice).normalise().less::<2>().less::<1>();
        let y = steep.mul(x_left.minus(x).plus(p).normalise());
        let y = y.minus(y_left).plus(p).normalise().less::<2>().less::<1>();
        // SAFETY: eight points, one behind the other.
        unsafe {
            x.store((&raw mut out[0].x).cast(), BYTES);
            y.store((&raw mut out[0].y).cast(), BYTES);
        }
    }
}

/// Inverts eight elements in 260-form, below `2p`.
#[target_feature(enable = "avx512f,avx512ifma")]
fn invert(product: Elements) -> Elements {
    let mut values = [Words::default(); 8];
    // SAFETY: eight consecutive elements.
    unsafe { product.less::<1>().store_next(values.as_mut_ptr().cast()) };
    // The library takes 260-form for 16 times the element, so that its inverse lacks two such factors.
    let mut inverses: [Fq; 8] = values.map(element);
    inverses.iter_mut().batch_invert();
    let inverses = inverses.map(|inverse| inverse * Fq::from(256));
    // SAFETY: eight consecutive elements.
    unsafe { Elements::load_next(inverses.as_ptr().cast()) }
}

#[cfg(test)]
mod tests {
    use group::{Curve, Group};
    use halo2_proofs::halo2curves::bn256::G1;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::{super::available, *};

    #[test]
    fn sums_agree_with_the_library() {
        if !available() {
            eprintln!("skipped: no AVX-512 IFMA on this machine");
            return;
        }
        let mut rng = ChaCha20Rng::seed_from_u64(6);
        let mut scratch = Scratch::default();
        for count in [8usize, 16, 512] {
            let mut points =
                || -> Vec<G1Affine> { (0..count).map(|_| G1::random(&mut rng).to_affine()).collect() };
            let (left, right) = (points(), points());
            let mut out = vec![G1Affine::default(); count];
            add(&left, &right, &mut out, &mut scratch);
            for ((out, left), right) in out.iter().zip(&left).zip(&right) {
                assert_eq!(*out, (G1::from(*left) + right).to_affine());
            }
        }
    }
}
