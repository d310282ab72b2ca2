//! Mutations that keep enough of a format to come past its first checks.

use halo2_proofs::halo2curves::{
    bn256::{Fr, G1Affine},
    ff::{Field, PrimeField},
    group::GroupEncoding,
};
use libfuzzer_sys::fuzzer_mutate;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use serde_json::Value;

fn below(rng: &mut impl RngCore, bound: usize) -> usize {
    (rng.next_u64() % bound.max(1) as u64) as usize
}

/// Half of the time libFuzzer's own mutations, else whole elements of `width` bytes, counted from the end:
/// copied over others, exchanged, replaced by valid and by nearly valid ones.
pub fn elements(data: &mut [u8], size: usize, max_size: usize, seed: u32, width: usize) -> usize {
    let mut rng = ChaCha20Rng::seed_from_u64(seed.into());
    let count = size / width;
    if count < 2 || rng.next_u32() & 1 == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let at = |element: usize| size - width * (element + 1);
    let (to, from) = (at(below(&mut rng, count)), at(below(&mut rng, count)));
    match below(&mut rng, 9) {
        0 | 1 => data.copy_within(from..from + width, to),
        2 => {
            for byte in 0..width {
                data.swap(from + byte, to + byte);
            }
        }
        3 => data[to..to + width].fill(0),
        4 => {
            let point = (G1Affine::generator() * Fr::from(rng.next_u64())).into();
            data[to..to + 32.min(width)]
                .copy_from_slice(&G1Affine::to_bytes(&point).as_ref()[..32.min(width)]);
        }
        5 => {
            let scalar = if rng.next_u32() & 1 == 0 { -Fr::ONE } else { Fr::from(rng.next_u64()) };
            data[to..to + 32.min(width)].copy_from_slice(&scalar.to_repr().as_ref()[..32.min(width)]);
        }
        // The two flag bits of a compressed point.
        6 => data[to + width - 1] ^= 0x80,
        7 => data[to + width - 1] ^= 0x40,
        _ => {
            let bit = below(&mut rng, 8 * width);
            data[to + bit / 8] ^= 1 << (bit % 8);
        }
    }
    size
}

/// Half of the time libFuzzer's own mutations, else one node of the JSON replaced, repeated or removed.
pub fn json(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut rng = ChaCha20Rng::seed_from_u64(seed.into());
    if rng.next_u32() & 1 == 1
        && let Ok(mut value) = serde_json::from_slice::<Value>(&data[..size])
    {
        for _ in 0..1 + below(&mut rng, 3) {
            let nodes = count(&value);
            let mut left = below(&mut rng, nodes);
            change(&mut value, &mut left, &mut rng);
        }
        let bytes = value.to_string().into_bytes();
        if bytes.len() <= max_size {
            data[..bytes.len()].copy_from_slice(&bytes);
            return bytes.len();
        }
    }
    fuzzer_mutate(data, size, max_size)
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(values) => values.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

/// Changes the node that comes `left` nodes after this one, depth first; whether it was reached.
fn change(value: &mut Value, left: &mut usize, rng: &mut impl RngCore) -> bool {
    if *left == 0 {
        replace(value, rng);
        return true;
    }
    *left -= 1;
    match value {
        Value::Array(values) => values.iter_mut().any(|value| change(value, left, rng)),
        Value::Object(fields) => fields.values_mut().any(|value| change(value, left, rng)),
        _ => false,
    }
}

fn replace(value: &mut Value, rng: &mut impl RngCore) {
    match value {
        Value::Number(number) => {
            let old = number.as_u64().unwrap_or(0);
            *value = match below(rng, 8) {
                0 => 0.into(),
                1 => old.wrapping_add(1).into(),
                2 => old.wrapping_sub(1).into(),
                3 => (1u64 << below(rng, 64)).into(),
                4 => ((1u64 << below(rng, 64)) - 1).into(),
                5 => u64::MAX.into(),
                6 => (-1).into(),
                _ => (rng.next_u64() >> below(rng, 64)).into(),
            };
        }
        Value::Array(values) if !values.is_empty() => {
            let at = below(rng, values.len());
            let copy = values[below(rng, values.len())].clone();
            match below(rng, 4) {
                0 => drop(values.remove(at)),
                1 => values.insert(at, copy),
                2 => values[at] = copy,
                _ => values.truncate(at),
            }
        }
        Value::Object(fields) if !fields.is_empty() => {
            let keys: Vec<String> = fields.keys().cloned().collect();
            let (to, from) = (&keys[below(rng, keys.len())], &keys[below(rng, keys.len())]);
            match below(rng, 3) {
                0 => drop(fields.remove(to)),
                1 => fields[to] = fields[from].clone(),
                _ => fields[to] = Value::Null,
            }
        }
        Value::String(text) => {
            let mut bytes = std::mem::take(text).into_bytes();
            if !bytes.is_empty() {
                let at = below(rng, bytes.len());
                match below(rng, 3) {
                    0 => drop(bytes.remove(at)),
                    1 => bytes[at] = b"0123456789abcdef"[below(rng, 16)],
                    _ => bytes.truncate(at),
                }
            }
            *text = String::from_utf8_lossy(&bytes).into_owned();
        }
        Value::Bool(flag) => *flag = !*flag,
        _ => *value = Value::Number(1.into()),
    }
}
