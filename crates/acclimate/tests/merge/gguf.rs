//! A model in a GGUF file, written by hand, and what becomes of it.

use crate::{add, bits, patched};
use acclimate::core::AnyTensor;
use acclimate::core::Model;
use acclimate::merge::{Merge, Precision};
use acclimate::models::{Base, tiny};
use burn::tensor::{DType, Device};
use serde_json::{Value, json};
use std::path::Path;

/// A GGUF file in parts: what comes before the tensors' numbers, and those.
#[derive(Default)]
struct Ggml {
    head: Vec<u8>,
    data: Vec<u8>,
}

impl Ggml {
    fn text(&mut self, text: &str) {
        self.head.extend((text.len() as u64).to_le_bytes());
        self.head.extend(text.as_bytes());
    }

    fn value(&mut self, key: &str, kind: u32, bytes: &[u8]) {
        self.text(key);
        self.head.extend(kind.to_le_bytes());
        self.head.extend(bytes);
    }

    /// A tensor in single precision, or packed as Q8_0 where its rows are blocks of that.
    fn tensor(&mut self, name: &str, tensor: &AnyTensor) {
        let (shape, numbers) = (tensor.shape(), tensor.to_f32s());
        self.text(name);
        self.head.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|&size| self.head.extend((size as u64).to_le_bytes()));
        let packed = shape.len() == 2 && shape[1] == 32;
        self.head.extend(if packed { 8u32 } else { 0 }.to_le_bytes());
        self.head.extend((self.data.len() as u64).to_le_bytes());
        if packed {
            for block in numbers.chunks(32) {
                self.data.extend([0x00, 0x24]); // 2⁻⁶ as a half
                self.data.extend(block.iter().map(|x| (x * 64.0).round() as i8 as u8));
            }
        } else {
            numbers.iter().for_each(|x| self.data.extend(x.to_le_bytes()));
        }
        self.data.resize(self.data.len().next_multiple_of(32), 0);
    }
}

/// A tiny Qwen2 of width 32 as a GGUF file: its matrices over states are packed.
fn gguf(file: &Path) {
    let config = acclimate::models::LlamaConfig {
        model_type: "qwen2".to_owned(),
        hidden_size: 32,
        tie_word_embeddings: true,
        ..tiny::llama_config()
    };
    let model = tiny::llama_with(config, 3, DType::F32);
    let mut out = Ggml::default();
    let counts = [
        ("embedding_length", 32u32),
        ("feed_forward_length", 24),
        ("block_count", 2),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("context_length", 64),
    ];
    out.head.extend(b"GGUF");
    out.head.extend(3u32.to_le_bytes());
    out.head.extend((model.weights().len() as u64).to_le_bytes());
    out.head.extend((counts.len() as u64 + 6).to_le_bytes());
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    out.value("general.architecture", 8, &text("qwen2"));
    counts.iter().for_each(|(key, count)| out.value(&format!("qwen2.{key}"), 4, &count.to_le_bytes()));
    out.value("qwen2.attention.layer_norm_rms_epsilon", 6, &1e-5f32.to_le_bytes());
    out.value("qwen2.rope.freq_base", 6, &1000f32.to_le_bytes());
    out.value("tokenizer.ggml.eos_token_id", 4, &1u32.to_le_bytes());
    out.value("tokenizer.chat_template", 8, &text("{{ messages[0].content }}"));
    let tokens = [&8u32.to_le_bytes()[..], &2u64.to_le_bytes(), &text("a"), &text("</s>")].concat();
    out.value("tokenizer.ggml.tokens", 9, &tokens);
    let names = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
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
    for (name, tensor) in model.weights().iter() {
        let theirs = names.iter().fold(name.to_owned(), |name, (ours, theirs)| name.replace(ours, theirs));
        out.tensor(&theirs, tensor);
    }
    out.head.resize(out.head.len().next_multiple_of(32), 0);
    std::fs::write(file, [out.head, out.data].concat()).unwrap();
}

#[test]
fn a_gguf_file_becomes_a_plain_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("model")).unwrap();
    gguf(&path("model/tiny.gguf"));
    let tokenizer = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":null,
        "post_processor":null,"decoder":null,"model":{"type":"WordLevel","vocab":{"a":0,"</s>":1},"unk_token":"a"}}"#;
    std::fs::write(path("model/tokenizer.json"), tokenizer).unwrap();
    for how in [Base::Packed, Base::Dense] {
        let model = acclimate::models::load(&path("model"), how, &Device::flex()).unwrap();
        let packed = model.packed("model.layers.0.mlp.gate_proj.weight").is_some();
        assert_eq!(packed, how == Base::Packed, "the fixture is to have packed matrices");
        let mut patch = patched(model.as_ref(), &[("lora", "rank = 2", "linear"), ("full", "", "norm")]);
        // Something on top of the biases.
        add(&mut patch, model.as_ref(), "ia3", "", "linear");
        let merge = Merge::new(patch.clone(), &path("model"), how, Precision::Keep).unwrap();
        let (out, expected) = (path(&format!("{how:?}")), patch.merge(model.as_ref()).unwrap());
        merge.write(&out, &merge.drift().unwrap()).unwrap();
        let written = acclimate::models::load(&out, how, &Device::flex()).unwrap();
        for (name, tensor) in expected.iter() {
            assert_eq!(bits(written.weights().any(name).unwrap()), bits(tensor), "{name}");
        }
        let embedding = written.weights().any("model.embed_tokens.weight").unwrap();
        let dense = model.packed("model.embed_tokens.weight").map(|packed| packed.dense().into());
        let dense = dense.or_else(|| model.weights().any("model.embed_tokens.weight").cloned()).unwrap();
        assert_eq!(bits(embedding), bits(&dense), "what is not changed is unpacked");
        // Packed products round states to bytes where the machine is quick at those.
        let apart = merge.compare_outputs(&out).unwrap();
        assert!(apart.features < 0.05 && apart.scores.unwrap() < 0.05, "{apart:?}");
        let json = |name: &str| -> Value { serde_json::from_slice(&std::fs::read(out.join(name)).unwrap()).unwrap() };
        assert_eq!(
            (&json("config.json")["rope_theta"], &json("config.json")["eos_token_id"]),
            (&json!(1000.0), &json!(1))
        );
        assert!(json("config.json").as_object().unwrap().values().all(|value| !value.is_null()));
        assert_eq!(json("tokenizer.json")["model"]["vocab"]["</s>"], 1);
        assert_eq!(json("tokenizer_config.json")["eos_token"], "</s>");
        assert_eq!(json("generation_config.json")["eos_token_id"], 1);
        assert_eq!(std::fs::read_to_string(out.join("chat_template.jinja")).unwrap(), "{{ messages[0].content }}");
        assert!(!out.join("tiny.gguf").exists());
    }
}
