//! halo2's own prover, for comparisons.

use std::time::Instant;

use halo2_proofs::{
    halo2curves::bn256::{Bn256, G1Affine},
    plonk::{Circuit, create_proof, keygen_pk2},
    poly::kzg::{
        commitment::{KZGCommitmentScheme, ParamsKZG},
        multiopen::ProverSHPLONK,
    },
    transcript::{Blake2bWrite, Challenge255, TranscriptWriterBuffer},
};
use lamina_circuits::Fr;
use rand_core::RngCore;

/// Proves with the stock prover: `(proof bytes, milliseconds of proving)`.
///
/// Key generation is not in the time. Selectors are not compressed, as in our keys.
///
/// # Errors
/// Whatever the library reports.
///
/// # Panics
/// The library panics on instances longer than the usable rows and on witness values that are unknown.
pub fn prove<C: Circuit<Fr>>(
    srs: &ParamsKZG<Bn256>,
    circuit: C,
    instances: &[Vec<Fr>],
    rng: impl RngCore,
) -> Result<(Vec<u8>, f64), halo2_proofs::plonk::Error> {
    let key = keygen_pk2(srs, &circuit, false)?;
    let instances: Vec<&[Fr]> = instances.iter().map(Vec::as_slice).collect();
    let mut transcript = Blake2bWrite::<_, G1Affine, Challenge255<_>>::init(Vec::new());
    let start = Instant::now();
    create_proof::<KZGCommitmentScheme<Bn256>, ProverSHPLONK<'_, Bn256>, _, _, _, _>(
        srs,
        &key,
        &[circuit],
        &[&instances],
        rng,
        &mut transcript,
    )?;
    let elapsed = start.elapsed().as_secs_f64() * 1e3;
    Ok((transcript.finalize(), elapsed))
}
