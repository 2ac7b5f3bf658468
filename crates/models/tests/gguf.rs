//! A GGUF file written by hand gives the model it was written from.
#![allow(clippy::unwrap_used)] // a broken fixture is a failure

use acclimate_core::{AnyTensor, Inputs, Model, Pass, Tokens};
use acclimate_models::{Base, Llama, load, tiny};
use burn::tensor::{DType, Device};
use std::path::Path;

const F32: u32 = 0;
const BF16: u32 = 30;

struct Writer(Vec<u8>);

impl Writer {
    fn text(&mut self, text: &str) {
        self.0.extend((text.len() as u64).to_le_bytes());
        self.0.extend(text.as_bytes());
    }
    fn value(&mut self, key: &str, kind: u32, bytes: &[u8]) {
        self.text(key);
        self.0.extend(kind.to_le_bytes());
        self.0.extend(bytes);
    }
}

/// The tiny decoder with weights that bfloat16 holds exactly.
fn model() -> Llama {
    let drawn = tiny::llama(0, DType::F32);
    let mut weights = acclimate_core::Params::default();
    for (name, tensor) in drawn.weights().iter() {
        let exact = tensor.to_f32s().iter().map(|x| f32::from_bits(x.to_bits() & 0xffff_0000)).collect();
        weights.insert(name, AnyTensor::from_f32s(exact, &tensor.shape(), &Device::flex()));
    }
    Llama::from_weights(tiny::llama_config(), weights).unwrap()
}

/// What llama.cpp calls a tensor, and its rows in llama.cpp's order: neighbours are turned against each other.
fn theirs(name: &str, tensor: &AnyTensor) -> (String, Vec<f32>) {
    let names = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    let renamed = names.iter().fold(name.to_owned(), |name, (ours, theirs)| name.replace(ours, theirs));
    let values = tensor.to_f32s();
    if !name.contains("q_proj") && !name.contains("k_proj") {
        return (renamed, values);
    }
    let (width, columns) = (4, 16);
    let rows = values.len() / columns;
    let row = |at: usize| at / width * width + at % 2 * (width / 2) + at % width / 2;
    (renamed, (0..rows).flat_map(|at| values[row(at) * columns..][..columns].to_vec()).collect())
}

fn write(file: &Path, model: &Llama, change: impl Fn(&str, &mut Vec<u64>, &mut Vec<f32>)) {
    let mut out = Writer(b"GGUF".to_vec());
    out.0.extend(3u32.to_le_bytes());
    out.0.extend((model.weights().len() as u64).to_le_bytes());
    let counts = [
        ("embedding_length", 16u32),
        ("feed_forward_length", 24),
        ("block_count", 2),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("context_length", 64),
    ];
    out.0.extend((counts.len() as u64 + 3).to_le_bytes());
    let mut architecture = Writer(vec![]);
    architecture.text("llama");
    out.value("general.architecture", 8, &architecture.0);
    for (key, count) in counts {
        out.value(&format!("llama.{key}"), 4, &count.to_le_bytes());
    }
    out.value("llama.attention.layer_norm_rms_epsilon", 6, &1e-5f32.to_le_bytes());
    out.value("llama.rope.freq_base", 6, &10_000f32.to_le_bytes());
    let mut data: Vec<u8> = vec![];
    for (name, tensor) in model.weights().iter() {
        let (name, mut values) = theirs(name, tensor);
        let mut dims: Vec<u64> = tensor.shape().iter().rev().map(|&n| n as u64).collect();
        change(&name, &mut dims, &mut values);
        out.text(&name);
        out.0.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|n| out.0.extend(n.to_le_bytes()));
        out.0.extend(if dims.len() == 2 { BF16 } else { F32 }.to_le_bytes());
        out.0.extend((data.len() as u64).to_le_bytes());
        match dims.len() {
            2 => values.iter().for_each(|x| data.extend(&x.to_le_bytes()[2..])),
            _ => values.iter().for_each(|x| data.extend(x.to_le_bytes())),
        }
        data.resize(data.len().next_multiple_of(32), 0);
    }
    out.0.resize(out.0.len().next_multiple_of(32), 0);
    out.0.extend(data);
    std::fs::write(file, out.0).unwrap();
}

fn scores(model: &dyn Model) -> Vec<f64> {
    let tokens = Tokens::packed(&[vec![3u32, 17, 8, 39, 1], vec![5, 5, 20]], DType::F32, &Device::flex());
    let states = model.forward(&Inputs::Tokens(tokens), &Pass::bare()).unwrap().states.unwrap().h;
    AnyTensor::from(Pass::bare().scores(model, states.squeeze_dim::<2>(0)).unwrap()).to_f64s()
}

#[test]
fn a_file_gives_the_model_it_was_written_from() {
    let (folder, model) = (tempfile::tempdir().unwrap(), model());
    write(&folder.path().join("tiny.gguf"), &model, |_, _, _| {});
    let expected = scores(&model);
    for base in [Base::Packed, Base::Dense] {
        // The folder and the file itself are the same place.
        for place in [folder.path().to_owned(), folder.path().join("tiny.gguf")] {
            let read = load(&place, base, &Device::flex()).unwrap();
            assert_eq!(read.packed("lm_head.weight").is_some(), base == Base::Packed);
            let far = scores(read.as_ref()).iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            // Sums of some dozen products in f32, in another order.
            assert!(far < 1e-4, "{base:?}: scores are off by {far:e}");
        }
    }
}

#[test]
fn a_base_in_bf16_is_the_same_model_with_some_three_digits() {
    let (folder, model) = (tempfile::tempdir().unwrap(), model());
    write(&folder.path().join("tiny.gguf"), &model, |_, _, _| {});
    let of = |base| load(folder.path(), base, &Device::flex()).unwrap();
    let (file, rounded) = (of(Base::Packed), of(Base::Bf16));
    assert_eq!(rounded.fingerprint(), file.fingerprint(), "a patch for one is a patch for the other");
    let (expected, got) = (scores(file.as_ref()), scores(rounded.as_ref()));
    let largest = expected.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let far = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest;
    // The weights are exact; each of some dozen products in a row rounds its states by 2⁻⁹ at most.
    assert!(far < 12.0 / 512.0, "scores are off by {far:e} of the largest");
}

#[test]
fn a_tensor_of_another_length_is_refused_and_named() {
    let (folder, model) = (tempfile::tempdir().unwrap(), model());
    let file = folder.path().join("tiny.gguf");
    for wrong in ["blk.1.attn_q.weight", "blk.0.attn_norm.weight"] {
        write(&file, &model, |name, dims, values| {
            if name == wrong {
                let rows = dims.last_mut().unwrap();
                *rows /= 2;
                values.truncate(values.len() / 2);
            }
        });
        let error = load(&file, Base::Packed, &Device::flex()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("expected shape"), "{error}");
    }
    // A bias of the wrong length for the heads, which this architecture reorders: an error, no panic.
    write(&file, &model, |name, dims, values| {
        if name == "blk.0.attn_q.weight" {
            (*dims, *values) = (vec![3], vec![0.0; 3]);
        }
    });
    assert!(load(&file, Base::Packed, &Device::flex()).is_err());
}
