//! Packed matrices against the `gguf` package's numbers and against dense matrices in f64.

#![allow(clippy::unwrap_used)] // a missing gradient or value is what these tests look for

use acclimate_kernels::{Format, Matrix, Packed};
use burn::tensor::{DType, Device, Int, Tensor, TensorData, activation};
use serde_json::Value;
use std::path::Path;

/// Bits that look random, from a seed.
fn bits(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 24
    })
}

/// f32 numbers between −1 and 1.
fn random<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    let numbers: Vec<f32> = bits(seed).take(shape.iter().product()).map(|x| (x as f64 / 5e11 - 1.0) as f32).collect();
    Tensor::from_data(TensorData::new(numbers, shape), (&Device::flex(), DType::F32))
}

/// A matrix of random blocks whose factors are at most about 0.01.
fn packed(format: Format, dims: [usize; 2], seed: u64) -> Packed {
    let mut bits = bits(seed);
    let factors: &[usize] = match format {
        Format::F16 | Format::Bf16 | Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => &[0],
        Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 2],
        Format::Q2K => &[80, 82],
        Format::Q3K => &[108],
        Format::Q6K => &[208],
    };
    // The sign and the fraction are random, the exponent is given.
    let (fraction, exponent) = if format == Format::Bf16 { (0x807F, 0x3C00) } else { (0x83FF, 0x2000) };
    let mut bytes: Vec<u8> =
        (0..dims[0] * dims[1] / format.block() * format.bytes()).map(|_| bits.next().unwrap() as u8).collect();
    for block in bytes.chunks_mut(format.bytes()) {
        for at in factors {
            let factor = bits.next().unwrap() as u16 & fraction | exponent;
            block[*at..at + 2].copy_from_slice(&factor.to_le_bytes());
        }
    }
    Packed::new(format, dims, bytes.into(), &Device::flex()).unwrap()
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.inner().cast(DType::F64).into_data().try_into_vec_as::<f64>().unwrap()
}

fn targets(ids: &[usize]) -> Tensor<1, Int> {
    let ids: Vec<i64> = ids.iter().map(|id| *id as i64).collect();
    Tensor::from_data(TensorData::new(ids.clone(), [ids.len()]), &Device::flex())
}

/// Products with f32 rounding against f64: sums of `n` products in any order err by at most `n·2⁻²⁴` of the sum of their sizes,
/// to first order.
fn assert_product(name: &str, got: Tensor<2>, a: Tensor<2>, b: Tensor<2>) {
    let (a, b) = (a.inner().cast(DType::F64), b.inner().cast(DType::F64));
    let share = a.dims()[1] as f64 * 0.5f64.powi(24) * 1.001;
    let (wanted, sizes) = (values(a.clone().matmul(b.clone())), values(a.abs().matmul(b.abs())));
    let got = values(got);
    assert_eq!(got.len(), wanted.len(), "{name}");
    for (i, ((got, wanted), size)) in got.iter().zip(&wanted).zip(&sizes).enumerate() {
        assert!((got - wanted).abs() <= share * size, "{name}[{i}]: {got}, not {wanted}");
        assert!(!(*got as f32).is_subnormal(), "{name}[{i}]: {got} is subnormal");
    }
}

#[test]
fn blocks_are_unpacked_as_by_the_gguf_package() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/kernels/packed.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), Format::ALL.len());
    for (case, format) in cases.iter().zip(Format::ALL) {
        assert_eq!(Format::from_ggml(case["config"]["ggml"].as_u64().unwrap() as u32), Some(format));
        assert_eq!(case["name"], format.name());
        let hex = case["inputs"]["bytes"].as_str().unwrap();
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
        let numbers = &case["expected"]["numbers"];
        let dims: [usize; 2] = [0, 1].map(|i| numbers["shape"][i].as_u64().unwrap() as usize);
        let wanted: Vec<u32> =
            numbers["data"].as_array().unwrap().iter().map(|x| (x.as_f64().unwrap() as f32).to_bits()).collect();
        let matrix = Packed::new(format, dims, bytes.into(), &Device::flex()).unwrap();
        let got = matrix.dense().into_data().try_into_vec::<f32>().unwrap();
        let got: Vec<u32> = got.into_iter().map(f32::to_bits).collect();
        assert_eq!(got, wanted, "{format:?}");
    }
}

#[test]
fn linear_and_its_gradient_agree_with_the_dense_matrix() {
    for (i, format) in Format::ALL.into_iter().enumerate() {
        // More columns than a tile has, more rows than one tile has, and sizes that divide nothing.
        let wide = format.block() * (1024 / format.block() + 1);
        for (dims, rows) in [([75, 256], 1), ([203, 512], 3), ([33, wide], 4), ([33, wide], 5), ([130, 256], 64)] {
            let name = format!("{format:?} {dims:?}, {rows} rows");
            let (matrix, x) = (packed(format, dims, i as u64), random([rows, dims[1]], 7));
            let dense = matrix.dense();
            let matrix = Matrix::from(matrix);
            assert_eq!(matrix.dims(), dims);
            let plain = matrix.linear(x.clone(), None);
            assert!(!plain.is_autodiff(), "plain inputs must record nothing");
            assert_product(&name, plain.clone(), x.clone(), dense.clone().transpose());
            let leaf = x.autodiff().require_grad();
            let out = matrix.linear(leaf.clone(), None);
            assert_eq!(values(out.clone()), values(plain), "{name}: tracking must not change the result");
            let upstream = random(out.dims(), 9);
            let grads = (out * upstream.clone()).sum().backward();
            assert_product(&format!("{name}, gradient"), leaf.grad(&grads).unwrap(), upstream, dense);
        }
    }
}

#[test]
fn many_rows_are_split_among_tasks() {
    let (matrix, x) = (packed(Format::Q4_1, [130, 96], 3), random([600, 96], 4));
    let (dense, leaf) = (matrix.dense(), x.clone().autodiff().require_grad());
    let out = Matrix::from(matrix).linear(leaf.clone(), None);
    assert_product("result", out.clone(), x, dense.clone().transpose());
    let upstream = random([600, 130], 9);
    let grads = (out * upstream.clone()).sum().backward();
    assert_product("gradient", leaf.grad(&grads).unwrap(), upstream, dense);
}

#[test]
fn the_bias_is_added_and_has_a_gradient() {
    let matrix = packed(Format::Q8_0, [40, 64], 1);
    let (x, bias) = (random([6, 64], 2), random([40], 3));
    let without = values(Matrix::from(matrix.clone()).linear(x.clone(), None));
    let tracked = bias.clone().autodiff().require_grad();
    let out = Matrix::from(matrix).linear(x, Some(tracked.clone()));
    let bias = values(bias);
    for (i, (got, without)) in values(out.clone()).iter().zip(&without).enumerate() {
        assert_eq!(*got as f32, *without as f32 + bias[i % 40] as f32);
    }
    assert_eq!(values(tracked.grad(&out.sum().backward()).unwrap()), vec![6.0; 40]);
}

#[test]
fn other_number_types_take_the_unpacked_matrix() {
    let (matrix, x) = (packed(Format::Q6K, [9, 256], 1), random([5, 256], 2).cast(DType::F64));
    let wanted = values(x.clone().matmul(matrix.dense().cast(DType::F64).transpose()));
    let leaf = x.autodiff().require_grad();
    let out = Matrix::from(matrix.clone()).linear(leaf.clone(), None);
    assert_eq!(out.dtype(), DType::F64);
    for (got, wanted) in values(out.clone()).iter().zip(&wanted) {
        assert!((got - wanted).abs() < 1e-12);
    }
    let grads = out.sum().backward();
    let wanted =
        values(Tensor::<2>::ones([5, 9], (&Device::flex(), DType::F64)).matmul(matrix.dense().cast(DType::F64)));
    for (got, wanted) in values(leaf.grad(&grads).unwrap()).iter().zip(&wanted) {
        assert!((got - wanted).abs() < 1e-12);
    }
}

#[test]
fn rows_are_looked_up() {
    let matrix = packed(Format::Q5_1, [11, 64], 1);
    let ids = Tensor::<2, Int>::from_data([[3, 0, 10], [3, 3, 7]], &Device::flex());
    let got = Matrix::from(matrix.clone()).rows(ids.clone());
    assert_eq!(got.dims(), [2, 3, 64]);
    assert_eq!(values(got), values(Matrix::from(matrix.dense()).rows(ids)));
}

#[test]
fn permuted_rows_are_the_rows_in_that_order() {
    for format in Format::ALL {
        let matrix = packed(format, [4, 256], 5);
        let order = [2, 0, 3, 3, 1];
        let got = matrix.permuted_rows(&order);
        assert_eq!(got.dims(), [5, 256]);
        let dense = matrix.dense();
        let wanted = Tensor::cat(order.map(|i| dense.clone().narrow(0, i, 1)).to_vec(), 0);
        assert_eq!(values(got.dense()), values(wanted), "{format:?}");
    }
}

/// Value and gradient with a random upstream gradient, against all scores in f64.
fn assert_cross_entropy(name: &str, matrix: &Matrix, rows: usize) {
    let [outputs, width] = matrix.dims();
    let x = random([rows, width], 3);
    let mut ids: Vec<usize> = bits(4).take(rows).map(|x| x as usize % outputs).collect();
    ids[0] = 0;
    ids[rows - 1] = outputs - 1;
    let ids = targets(&ids);
    let upstream = random([rows], 5);
    let exact = x.clone().cast(DType::F64).autodiff().require_grad();
    let scores = exact.clone().matmul(matrix.dense().cast(DType::F64).transpose());
    let spread = values(scores.clone()).into_iter().fold(0.0f64, |most, x| most.max(x.abs()));
    let losses = activation::log_softmax(scores, 1).gather(1, ids.clone().unsqueeze_dim(1)).squeeze_dim::<1>(1).neg();
    let grads = (losses.clone() * upstream.clone().cast(DType::F64)).sum().backward();
    let (wanted, wanted_slopes) = (values(losses), values(exact.grad(&grads).unwrap()));

    let plain = matrix.cross_entropy(x.clone(), ids.clone());
    assert!(!plain.is_autodiff(), "plain inputs must record nothing");
    let leaf = x.autodiff().require_grad();
    let out = matrix.cross_entropy(leaf.clone(), ids);
    assert_eq!(values(plain), values(out.clone()), "{name}");
    let grads = (out.clone() * upstream).sum().backward();
    // The rounding of a score is its sum's, taken twice (largest and target); a weight changes by as much of itself.
    let error = 2.0 * width as f64 * 0.5f64.powi(24) * spread.max(1.0) + 3e-6;
    for (got, wanted) in values(out).iter().zip(&wanted) {
        assert!((got - wanted).abs() <= error, "{name}: {got}, not {wanted}");
    }
    let largest = values(matrix.dense()).into_iter().fold(0.0f64, |most, x| most.max(x.abs()));
    for (got, wanted) in values(leaf.grad(&grads).unwrap()).iter().zip(&wanted_slopes) {
        assert!((got - wanted).abs() <= 2.0 * error * largest, "{name}: gradient {got}, not {wanted}");
        assert!(!(*got as f32).is_subnormal());
    }
}

#[test]
fn cross_entropy_and_its_gradient_agree_with_f64() {
    for format in Format::ALL {
        for rows in [1, 5, 40] {
            let matrix = Matrix::from(packed(format, [301, 256], 1));
            assert_cross_entropy(&format!("{format:?}, {rows} rows"), &matrix, rows);
            assert_cross_entropy(&format!("dense {format:?}, {rows} rows"), &matrix.dense().into(), rows);
        }
    }
    // A matrix that is not stored in order.
    let matrix = Matrix::from(random([48, 77], 1).transpose() * 0.1);
    assert_cross_entropy("transposed", &matrix, 9);
}

/// 35 rows of 600 000 scores go in chunks of 12, 12 and 11 rows, each of which is computed as it would be alone.
#[test]
fn cross_entropy_goes_in_chunks() {
    let matrix = Matrix::from(packed(Format::Q4_0, [600_000, 32], 1));
    let x = random([35, 32], 3);
    let ids: Vec<usize> = (0..35).map(|i| i * 17_000).collect();
    let outcome = |x: Tensor<2>, ids: &[usize]| {
        let leaf = x.autodiff().require_grad();
        let out = matrix.cross_entropy(leaf.clone(), targets(ids));
        (values(leaf.grad(&out.clone().sum().backward()).unwrap()), values(out))
    };
    let (slopes, losses) = outcome(x.clone(), &ids);
    for rows in [0..12, 12..24, 24..35] {
        let alone = outcome(x.clone().narrow(0, rows.start, rows.len()), &ids[rows.clone()]);
        assert_eq!(slopes[rows.start * 32..rows.end * 32], alone.0, "{rows:?}");
        assert_eq!(losses[rows.clone()], alone.1, "{rows:?}");
    }
}

#[test]
fn a_tracked_matrix_gets_its_gradient() {
    let (x, matrix) = (random([4, 8], 1), (random([6, 8], 2)).autodiff().require_grad());
    let out = Matrix::from(matrix.clone()).cross_entropy(x, targets(&[0, 5, 2, 2]));
    let slopes = values(matrix.grad(&out.sum().backward()).unwrap());
    assert!(slopes.iter().any(|x| x.abs() > 1e-3));
}

#[test]
fn nothing_depends_on_the_number_of_threads() {
    let outcome = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let matrix = Matrix::from(packed(Format::Q4K, [700, 512], 1));
            let mut all = Vec::new();
            for rows in [2, 300] {
                let leaf = random([rows, 512], 2).autodiff().require_grad();
                let out = matrix.linear(leaf.clone(), None);
                let losses = matrix.cross_entropy(leaf.clone(), targets(&vec![5; rows]));
                let grads = (out.clone() * random([rows, 700], 3)).sum().add(losses.clone().sum()).backward();
                all.extend([values(out), values(losses), values(leaf.grad(&grads).unwrap())]);
            }
            all
        })
    };
    assert_eq!(outcome(1), outcome(3));
}

#[test]
fn wrong_sizes_are_refused() {
    let new = |dims, count: usize| Packed::new(Format::Q4_0, dims, vec![0; count].into(), &Device::flex());
    assert!(new([2, 64], 72).is_ok());
    for (dims, count, part) in [
        ([2, 63], 72, "blocks of 32"),
        ([2, 64], 71, "take 72 bytes, not 71"),
        ([2, 64], 73, "take 72 bytes, not 73"),
        ([0, 64], 0, "empty"),
        ([2, 0], 0, "empty"),
        ([usize::MAX, 64], 0, "more than there can be"),
    ] {
        let error = new(dims, count).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(Format::from_ggml(0), None);
    assert_eq!(Format::from_ggml(9), None);
}

#[test]
#[should_panic(expected = "no row 6")]
fn a_target_outside_panics() {
    _ = Matrix::from(random([6, 8], 2)).cross_entropy(random([1, 8], 1), targets(&[6]));
}

#[test]
#[should_panic(expected = "no row -1")]
fn a_negative_target_panics() {
    let matrix = Matrix::from(packed(Format::Q8_0, [6, 32], 1));
    _ = matrix.cross_entropy(random([1, 32], 1), Tensor::from_data([-1], &Device::flex()));
}

#[test]
fn scores_of_no_columns_are_equal() {
    let (matrix, x) = (Tensor::<2>::zeros([8, 0], &Device::flex()), Tensor::<2>::zeros([2, 0], &Device::flex()));
    for loss in values(Matrix::from(matrix).cross_entropy(x, targets(&[0, 7]))) {
        assert!((loss - 8f64.ln()).abs() < 1e-6, "{loss}");
    }
}

#[test]
fn no_rows_give_no_rows() {
    let matrix = Matrix::from(packed(Format::Q4_1, [6, 32], 1));
    let x = Tensor::<2>::zeros([0, 32], &Device::flex());
    assert_eq!(matrix.linear(x.clone(), None).dims(), [0, 6]);
    assert_eq!(matrix.cross_entropy(x, targets(&[])).dims(), [0]);
}
