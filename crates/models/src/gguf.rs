//! Models in GGUF files: the Llama family under llama.cpp's names, its matrices kept packed or made dense.

use crate::{Base, Llama, LlamaConfig, RopeScaling};
use acclimate_core::{AnyTensor, Error, Format, Gguf, GgufTensor, Matrix, Packed, Params, Result};
use burn::tensor::{Device, Tensor};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What llama.cpp calls the parts of a model, and what the checkpoint calls them.
const NAMES: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// The same inside a layer.
const IN_LAYER: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// A model of the Llama family.
pub(crate) fn model(gguf: &Gguf, base: Base, device: &Device) -> Result<Llama> {
    let config = config(gguf)?;
    let (mut weights, mut packed) = (Params::default(), BTreeMap::new());
    for tensor in gguf.tensors() {
        let Some(name) = checkpoint_name(&tensor.name) else { continue };
        let order = order(&config, &name);
        match (&tensor.dims[..], matrix(gguf, tensor, device)?) {
            ([_], Values::Dense(values)) => {
                // Another length is refused with the model's shapes.
                let values = match order.filter(|order| order.len() == values.len()) {
                    Some(order) => order.into_iter().map(|row| values[row]).collect(),
                    None => values,
                };
                weights.insert(name, AnyTensor::from_f32s(values, &tensor.dims, device));
            }
            ([rows, columns], values) => {
                let matrix = match values {
                    Values::Dense(values) => Matrix::Dense(
                        AnyTensor::from_f32s(values, &[*rows, *columns], device).get().expect("made with two axes"),
                    ),
                    Values::Packed(packed) => Matrix::Packed(packed),
                };
                match (in_order(matrix, order), base) {
                    (Matrix::Packed(matrix), Base::Packed | Base::Bf16) => {
                        packed.insert(name, matrix);
                    }
                    (matrix, _) => weights.insert(name, matrix.dense()),
                }
            }
            _ => return Err(strange(gguf, tensor, "has a shape that no weight of this model has")),
        }
    }
    Llama::from_packed(config, weights, packed)
}

fn strange(gguf: &Gguf, tensor: &GgufTensor, what: &str) -> Error {
    Error::format(gguf.file(), format!("tensor `{}` {what}; choose another file of the model", tensor.name))
}

/// `blk.3.attn_q.weight` is `model.layers.3.self_attn.q_proj.weight`; other tensors are not the model's.
fn checkpoint_name(name: &str) -> Option<String> {
    let (path, end) = name.rsplit_once('.')?;
    let find = |names: &[(&'static str, &'static str)], part: &str| {
        names.iter().find(|(theirs, _)| *theirs == part).map(|(_, n)| *n)
    };
    match path.strip_prefix("blk.").and_then(|path| path.split_once('.')) {
        Some((layer, part)) => Some(format!("model.layers.{layer}.{}.{end}", find(&IN_LAYER, part)?)),
        None => Some(format!("{}.{end}", find(&NAMES, path)?)),
    }
}

/// Numbers of a tensor.
enum Values {
    Dense(Vec<f32>),
    Packed(Packed),
}

fn matrix(gguf: &Gguf, tensor: &GgufTensor, device: &Device) -> Result<Values> {
    let bytes = gguf.bytes(tensor);
    if tensor.kind == 0 {
        return Ok(Values::Dense(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()));
    }
    let format = Format::from_ggml(tensor.kind).ok_or_else(|| {
        let known = Format::ALL.map(Format::name).join(", ");
        strange(gguf, tensor, &format!("is of ggml type {}, which is not among F32, {known}", tensor.kind))
    })?;
    let dims = match tensor.dims[..] {
        [n] => [1, n],
        [rows, columns] => [rows, columns],
        _ => return Err(strange(gguf, tensor, "has a shape that no weight of this model has")),
    };
    let packed = Packed::new(format, dims, Arc::from(bytes), device).map_err(|why| strange(gguf, tensor, &why))?;
    Ok(match tensor.dims[..] {
        [_] => Values::Dense(AnyTensor::from(packed.dense()).to_f32s()),
        _ => Values::Packed(packed),
    })
}

/// llama.cpp turns pairs of neighbours where the checkpoint turns the first half of a head against the second: for its own
/// architecture the rows of queries and keys are interleaved. The file's row for each row of the checkpoint, where they differ.
fn order(config: &LlamaConfig, name: &str) -> Option<Vec<usize>> {
    let heads = match () {
        () if config.model_type != "llama" => return None,
        () if name.contains("q_proj") => config.num_attention_heads,
        () if name.contains("k_proj") => config.kv_heads(),
        () => return None,
    };
    let half = config.head_width() / 2;
    let rows = |head: usize| (0..2 * half).map(move |row| head * 2 * half + 2 * (row % half) + row / half);
    Some((0..heads).flat_map(rows).collect())
}

fn in_order(matrix: Matrix, order: Option<Vec<usize>>) -> Matrix {
    match (matrix, order) {
        (Matrix::Packed(packed), Some(order)) if order.len() == packed.dims()[0] => {
            Matrix::Packed(packed.permuted_rows(&order))
        }
        (Matrix::Dense(dense), Some(order)) if order.len() == dense.dims()[0] => {
            let order: Vec<i64> = order.into_iter().map(|row| row as i64).collect();
            let data = burn::tensor::TensorData::new(order.clone(), [order.len()]);
            Matrix::Dense(dense.clone().select(0, Tensor::from_data(data, &dense.device())))
        }
        // Another number of rows is refused with the model's shapes.
        (matrix, _) => matrix,
    }
}

/// What `config.json` says of the model in a GGUF file, its numbers in single precision.
///
/// # Errors
/// When a value is missing, malformed or not offered, or the file divides rotary frequencies one by one: `config.json` has no place for that.
pub fn gguf_config(gguf: &Gguf) -> Result<Value> {
    let config = config(gguf)?;
    if config.rope_divisors.is_some() {
        return Err(Error::Unsupported {
            who: gguf.file().display().to_string(),
            what: "be told in a config.json: it divides rotary frequencies one by one".to_owned(),
            instead: "start from the model's own safetensors".to_owned(),
        });
    }
    let class = if config.model_type == "qwen2" { "Qwen2ForCausalLM" } else { "LlamaForCausalLM" };
    let mut json = serde_json::to_value(&config).map_err(|e| Error::format(gguf.file(), e.to_string()))?;
    let known = |fields: &mut Value| {
        if let Value::Object(fields) = fields {
            fields.retain(|_, value| !value.is_null());
        }
    };
    known(&mut json);
    json.get_mut("rope_scaling").map(known);
    json["architectures"] = [class].into_iter().collect();
    json["torch_dtype"] = "float32".into();
    for end in ["bos", "eos"] {
        if let Some(id) = gguf.u64(&format!("tokenizer.ggml.{end}_token_id")) {
            json[format!("{end}_token_id")] = id.into();
        }
    }
    Ok(json)
}

/// The config that the file's metadata means.
fn config(gguf: &Gguf) -> Result<LlamaConfig> {
    let missing =
        |key: &str| Error::format(gguf.file(), format!("`{key}` is missing or of another type; fetch the file again"));
    let architecture = gguf.str("general.architecture").ok_or_else(|| missing("general.architecture"))?;
    if !["llama", "qwen2"].contains(&architecture) {
        return Err(Error::unknown("architecture", architecture, ["llama", "qwen2"]));
    }
    let key = |part: &str| format!("{architecture}.{part}");
    let count = |part: &str| -> Result<usize> {
        let value = gguf.u64(&key(part)).and_then(|n| usize::try_from(n).ok());
        value.ok_or_else(|| missing(&key(part)))
    };
    let number = |part: &str| gguf.f64(&key(part));
    let embedding = gguf.tensor("token_embd.weight").ok_or_else(|| missing("token_embd.weight"))?;
    let scaling = match gguf.str(&key("rope.scaling.type")) {
        None | Some("none") => None,
        Some(kind) => Some(RopeScaling {
            rope_type: kind.to_owned(),
            factor: number("rope.scaling.factor"),
            ..RopeScaling::default()
        }),
    };
    let divisors = match gguf.tensor("rope_freqs.weight") {
        Some(tensor) => match matrix(gguf, tensor, &Device::flex())? {
            Values::Dense(values) => Some(values.into_iter().map(f64::from).collect()),
            Values::Packed(_) => return Err(strange(gguf, tensor, "is no list of numbers")),
        },
        None => None,
    };
    Ok(LlamaConfig {
        model_type: architecture.to_owned(),
        hidden_size: count("embedding_length")?,
        intermediate_size: count("feed_forward_length")?,
        num_hidden_layers: count("block_count")?,
        num_attention_heads: count("attention.head_count")?,
        num_key_value_heads: count("attention.head_count_kv").ok(),
        head_dim: count("attention.key_length").ok(),
        vocab_size: embedding.dims.first().copied().unwrap_or(0),
        max_position_embeddings: count("context_length")?,
        rms_norm_eps: number("attention.layer_norm_rms_epsilon")
            .ok_or_else(|| missing(&key("attention.layer_norm_rms_epsilon")))?,
        rope_theta: number("rope.freq_base").unwrap_or(10_000.0),
        rope_scaling: scaling,
        rope_parameters: None,
        rope_divisors: divisors,
        tie_word_embeddings: gguf.tensor("output.weight").is_none(),
        attention_bias: false,
        mlp_bias: false,
        hidden_act: "silu".to_owned(),
        sliding_window: None,
        use_sliding_window: None,
    })
}
