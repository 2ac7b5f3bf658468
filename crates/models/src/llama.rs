//! Decoders of the Llama family: Llama, SmolLM2, Qwen2 and Mistral checkpoints under the names of Hugging Face.

use crate::{bf16_matrices, check_weights, first_states, largest, positive, read_json, read_weights};
use acclimate_core::{
    Error, Inputs, Model, Outputs, Packed, Params, Pass, Result, Seq, Site, SiteKind, Tokens, Visible,
};
use acclimate_kernels::{Activation, add};
use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, path::Path, sync::OnceLock};

/// What a layer has, in the order of its sites.
const PER_LAYER: usize = 11;

/// The keys of `config.json` that are used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LlamaConfig {
    /// `llama`, `qwen2` or `mistral`.
    pub model_type: String,
    /// Width of the states.
    pub hidden_size: usize,
    /// Width inside the feed-forward parts.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads of the queries.
    pub num_attention_heads: usize,
    /// Heads of keys and values; as many as the queries have where absent.
    #[serde(default)]
    pub num_key_value_heads: Option<usize>,
    /// Width of a head; where absent, the width divided by the heads.
    #[serde(default)]
    pub head_dim: Option<usize>,
    /// Words.
    pub vocab_size: usize,
    /// Positions it was trained on.
    #[serde(default = "LlamaConfig::positions")]
    pub max_position_embeddings: usize,
    /// Added to the mean square in the norms.
    #[serde(default = "LlamaConfig::eps")]
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    #[serde(default = "LlamaConfig::theta")]
    pub rope_theta: f64,
    /// How the frequencies are stretched for longer texts.
    #[serde(default)]
    pub rope_scaling: Option<RopeScaling>,
    /// The same under its newer name, with the base inside.
    #[serde(default)]
    pub rope_parameters: Option<RopeScaling>,
    /// What each frequency is divided by, where a GGUF file says so.
    #[serde(skip)]
    pub rope_divisors: Option<Vec<f64>>,
    /// Whether the output matrix is the embedding.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Whether queries, keys, values and the output projection have biases (Llama; Qwen2 has the first three always).
    #[serde(default)]
    pub attention_bias: bool,
    /// Whether the feed-forward parts have biases.
    #[serde(default)]
    pub mlp_bias: bool,
    /// The activation of the feed-forward parts: `silu`.
    #[serde(default = "LlamaConfig::act")]
    pub hidden_act: String,
    /// Positions a query looks back, where it is limited.
    #[serde(default)]
    pub sliding_window: Option<usize>,
    /// Whether the limit holds (Qwen2).
    #[serde(default)]
    pub use_sliding_window: Option<bool>,
}

/// The stretching of rotary frequencies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RopeScaling {
    /// `default`, `linear` or `llama3`.
    #[serde(default, alias = "type")]
    pub rope_type: String,
    /// How many times longer texts may become.
    #[serde(default)]
    pub factor: Option<f64>,
    /// Below it, in wavelengths per trained length, frequencies are divided by the factor.
    #[serde(default)]
    pub low_freq_factor: Option<f64>,
    /// Above it they stay as they are.
    #[serde(default)]
    pub high_freq_factor: Option<f64>,
    /// The trained length.
    #[serde(default)]
    pub original_max_position_embeddings: Option<f64>,
    /// The base, where it is kept here.
    #[serde(default)]
    pub rope_theta: Option<f64>,
}

fn refused<T>(what: String, instead: &str) -> Result<T> {
    Err(Error::Unsupported { who: "llama".to_owned(), what, instead: instead.to_owned() })
}

impl LlamaConfig {
    fn positions() -> usize {
        2048
    }
    fn eps() -> f64 {
        1e-6
    }
    fn theta() -> f64 {
        10_000.0
    }
    fn act() -> String {
        "silu".to_owned()
    }

    /// Heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Width of a head.
    pub fn head_width(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    fn check(&self) -> Result<()> {
        positive(
            "llama",
            &[
                ("hidden_size", self.hidden_size),
                ("intermediate_size", self.intermediate_size),
                ("num_hidden_layers", self.num_hidden_layers),
                ("num_attention_heads", self.num_attention_heads),
                ("num_key_value_heads", self.kv_heads()),
                ("head_dim", self.head_width()),
                ("vocab_size", self.vocab_size),
                ("max_position_embeddings", self.max_position_embeddings),
            ],
        )?;
        let (heads, groups) = (self.num_attention_heads, self.kv_heads());
        if !heads.is_multiple_of(groups) {
            let what = format!("divide {heads} heads among {groups} key heads");
            return refused(what, "check `num_key_value_heads` in config.json");
        }
        if self.head_dim.is_none() && !self.hidden_size.is_multiple_of(heads) {
            let what = format!("divide `hidden_size` {} among {heads} heads", self.hidden_size);
            return refused(what, "check `num_attention_heads` in config.json");
        }
        if !self.head_width().is_multiple_of(2) {
            return refused(format!("rotate heads of width {}", self.head_width()), "check `head_dim` in config.json");
        }
        if self.hidden_act != "silu" {
            let what = format!("use the activation `{}`", self.hidden_act);
            return refused(what, "choose a checkpoint whose `hidden_act` is `silu`");
        }
        let window = self.sliding_window.filter(|_| self.use_sliding_window != Some(false));
        if let Some(window) = window.filter(|&window| window < self.max_position_embeddings) {
            let what = format!("look back {window} positions alone");
            return refused(what, "choose a checkpoint without `sliding_window`");
        }
        self.frequencies().map(|_| ())
    }

    /// Radians per position of each pair of a head's numbers, `head_width / 2`.
    fn frequencies(&self) -> Result<Vec<f64>> {
        let mut frequencies = self.stretched()?;
        if let Some(divisors) = &self.rope_divisors {
            if divisors.len() != frequencies.len() {
                let what = format!("divide {} rotary frequencies by {} numbers", frequencies.len(), divisors.len());
                return refused(what, "choose another file of the model");
            }
            frequencies.iter_mut().zip(divisors).for_each(|(frequency, divisor)| *frequency /= divisor);
        }
        Ok(frequencies)
    }

    fn stretched(&self) -> Result<Vec<f64>> {
        let scaling = self.rope_parameters.clone().or_else(|| self.rope_scaling.clone()).unwrap_or_default();
        let theta = scaling.rope_theta.unwrap_or(self.rope_theta);
        let width = self.head_width();
        let plain = (0..width / 2).map(|i| theta.powf(-2.0 * i as f64 / width as f64));
        let need = |name: &str, value: Option<f64>| {
            value.filter(|x| *x > 0.0).ok_or_else(|| {
                Error::Other(format!("llama: `rope_scaling.{name}` must be a positive number; check config.json"))
            })
        };
        match scaling.rope_type.as_str() {
            "" | "default" => Ok(plain.collect()),
            "linear" => {
                let factor = need("factor", scaling.factor)?;
                Ok(plain.map(|frequency| frequency / factor).collect())
            }
            "llama3" => {
                let factor = need("factor", scaling.factor)?;
                let low = need("low_freq_factor", scaling.low_freq_factor)?;
                let high = need("high_freq_factor", scaling.high_freq_factor)?;
                let trained = need("original_max_position_embeddings", scaling.original_max_position_embeddings)?;
                Ok(plain
                    .map(|frequency| {
                        // How often the pair turns within the trained length.
                        let turns = trained * frequency / std::f64::consts::TAU;
                        let share = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                        frequency * (share + (1.0 - share) / factor)
                    })
                    .collect())
            }
            other => refused(format!("stretch positions by `{other}`"), "choose `linear` or `llama3` as `rope_type`"),
        }
    }

    /// Every site in forward order.
    pub(crate) fn sites(&self) -> Vec<Site> {
        let (width, inner, head) = (self.hidden_size, self.intermediate_size, self.head_width());
        let (queries, keys) = (self.num_attention_heads * head, self.kv_heads() * head);
        let projected = self.attention_bias || self.model_type == "qwen2";
        let site = |name: String, kind, out, input, bias| Site { name, kind, out, input, bias };
        let norm = |name: String| site(name, SiteKind::Norm, width, 1, false);
        let mut sites = vec![site("model.embed_tokens".to_owned(), SiteKind::Embedding, self.vocab_size, width, false)];
        for layer in 0..self.num_hidden_layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let linear = |part: &str, out, input, bias| site(name(part), SiteKind::Linear, out, input, bias);
            let block = |part: &str| site(name(part), SiteKind::Block, width, width, false);
            sites.extend([
                norm(name("input_layernorm")),
                linear("self_attn.q_proj", queries, width, projected),
                linear("self_attn.k_proj", keys, width, projected),
                linear("self_attn.v_proj", keys, width, projected),
                linear("self_attn.o_proj", width, queries, self.attention_bias),
                block("self_attn"),
                norm(name("post_attention_layernorm")),
                linear("mlp.gate_proj", inner, width, self.mlp_bias),
                linear("mlp.up_proj", inner, width, self.mlp_bias),
                linear("mlp.down_proj", width, inner, self.mlp_bias),
                block("mlp"),
            ]);
        }
        sites.push(norm("model.norm".to_owned()));
        if !self.tie_word_embeddings {
            sites.push(site("lm_head".to_owned(), SiteKind::Linear, self.vocab_size, width, false));
        }
        sites
    }
}

/// A decoder that reads from left to right. `states` are those after the last norm; `features` those of each row's last token. What it
/// says of the vocabulary is asked of the pass, see [`Pass::scores`].
#[derive(Debug)]
pub struct Llama {
    config: LlamaConfig,
    weights: Params,
    packed: BTreeMap<String, Packed>,
    sites: Vec<Site>,
    frequencies: Vec<f64>,
    fingerprint: OnceLock<String>,
}

impl Llama {
    /// Reads `config.json` and the safetensors of a folder, whole or in shards.
    ///
    /// # Errors
    /// Names the file, and the key or tensor that is missing, malformed or not offered.
    pub fn load(folder: &Path, device: &burn::tensor::Device) -> Result<Self> {
        Self::in_folder(folder, read_weights(folder, device)?)
    }

    /// The model that a folder's configuration describes, over weights in memory.
    pub(crate) fn in_folder(folder: &Path, weights: Params) -> Result<Self> {
        let config: LlamaConfig = read_json(&folder.join("config.json"))?;
        config.check()?;
        Self::from_weights(config, weights)
    }

    /// A model over weights in memory.
    ///
    /// # Errors
    /// When the config is not offered, or a tensor is missing or has another shape.
    pub fn from_weights(config: LlamaConfig, weights: Params) -> Result<Self> {
        Self::from_packed(config, weights, BTreeMap::new())
    }

    /// A model some of whose matrices are packed; they go by the names they would have among the weights, where they are not needed then.
    ///
    /// # Errors
    /// As [`Llama::from_weights`].
    pub fn from_packed(config: LlamaConfig, weights: Params, packed: BTreeMap<String, Packed>) -> Result<Self> {
        config.check()?;
        let (sites, frequencies) = (config.sites(), config.frequencies()?);
        check_weights(&sites, &weights, &packed)?;
        Ok(Self { config, weights, packed, sites, frequencies, fingerprint: OnceLock::new() })
    }

    /// The config.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The states that the first layer gets: what [`Inputs::Embeddings`] stands in for.
    ///
    /// # Errors
    /// When an index lies outside the vocabulary, or a patch does not fit.
    pub fn embed(&self, tokens: &Tokens, pass: &Pass<'_>) -> Result<Seq> {
        let most = largest(&tokens.ids);
        if most >= self.config.vocab_size as i64 {
            return Err(Error::Other(format!(
                "llama: token number `{most}` lies outside the table of {}; use the tokeniser that came with the model",
                self.config.vocab_size
            )));
        }
        let words = pass.embedding(self, &self.sites[0], tokens.ids.clone())?;
        Ok(Seq::new(words, tokens.mask.clone().cast(self.like().0)).starting(tokens.starts.clone()))
    }

    /// The keys each position sees and the angles it is turned by, after `past` positions of every row.
    fn places(&self, seq: &Seq, past: usize) -> Result<Places> {
        let ([batch, length], pairs) = (seq.mask.dims(), self.frequencies.len());
        let absolute = |at: usize| (past + at % length.max(1)) as u32;
        let runs = seq.starts.iter().enumerate().map(|(at, &start)| [start, absolute(at) + 1]);
        // Padding in front of a row stands before its start: it sees nothing.
        let runs: Vec<[u32; 2]> = runs.map(|[start, end]| [start.min(end), end]).collect();
        let positions: Vec<u32> =
            seq.starts.iter().enumerate().map(|(at, &start)| absolute(at).saturating_sub(start)).collect();
        if let Some(far) = positions.iter().find(|&&at| at as usize >= self.config.max_position_embeddings) {
            return refused(
                format!("read {} tokens in a row", far + 1),
                &format!("cut texts to {}, the number of positions it knows", self.config.max_position_embeddings),
            );
        }
        let (dtype, device) = self.like();
        let table = |f: fn(f64) -> f64| -> Tensor<3> {
            let angles = positions.iter().flat_map(|&at| self.frequencies.iter().map(move |w| f(f64::from(at) * w)));
            let values: Vec<f64> = angles.collect();
            Tensor::from_data(TensorData::new(values, [batch, length, pairs]), (&device, dtype))
        };
        Ok(Places { visible: Visible::Runs(runs.into()), cos: table(f64::cos), sin: table(f64::sin) })
    }

    fn decode(&self, mut seq: Seq, pass: &Pass<'_>) -> Result<Seq> {
        let (heads, groups, eps) = (self.config.num_attention_heads, self.config.kv_heads(), self.config.rms_norm_eps);
        let places = self.places(&seq, pass.past())?;
        let turn = |x: Tensor<3>, heads| acclimate_kernels::rotary(x, places.cos.clone(), places.sin.clone(), heads);
        for (number, layer) in self.sites[1..].as_chunks::<PER_LAYER>().0.iter().enumerate() {
            let [norm, query, key, value, mix, attention, fed_norm, gate, up, down, feed] = layer;
            let before = seq.h.clone();
            let normed = pass.rms_norm(self, norm, seq.h.clone(), eps)?;
            let mixed = pass.block(attention, seq.with(normed), &mut |seq| {
                let project = |site| pass.linear(self, site, seq.h.clone());
                let (q, k) = (turn(project(query)?, heads), turn(project(key)?, groups));
                let [k, v] = pass.remember(number, k, project(value)?);
                let mixed = pass.attention(q, k, v, &places.visible, heads);
                Ok(seq.with(pass.linear(self, mix, mixed)?))
            })?;
            let h = add(mixed.h.clone(), before, Activation::Identity);
            let normed = pass.rms_norm(self, fed_norm, h.clone(), eps)?;
            let fed = pass.block(feed, mixed.with(normed), &mut |seq| {
                let project = |site| pass.linear(self, site, seq.h.clone());
                let x = acclimate_kernels::swiglu(project(gate)?, project(up)?);
                Ok(seq.with(pass.linear(self, down, x)?))
            })?;
            seq = fed.with(add(fed.h.clone(), h, Activation::Identity));
        }
        let norm = &self.sites[1 + PER_LAYER * self.config.num_hidden_layers];
        let h = pass.rms_norm(self, norm, seq.h.clone(), eps)?;
        Ok(seq.with(h))
    }

    /// The state of each row's last token, `[batch, width]`.
    fn last(&self, seq: &Seq) -> Tensor<2> {
        let [batch, length, width] = seq.h.dims();
        let seen: Vec<f64> = acclimate_core::AnyTensor::from(seq.mask.clone()).to_f64s();
        let at: Vec<i64> = seen
            .chunks(length.max(1))
            .enumerate()
            .map(|(row, seen)| (row * length + seen.iter().rposition(|&seen| seen > 0.0).unwrap_or(0)) as i64)
            .collect();
        let at = Tensor::<1, Int>::from_data(TensorData::new(at, [batch]), &seq.h.device());
        seq.h.clone().reshape([batch * length, width]).select(0, at)
    }
}

/// What all layers share about positions.
struct Places {
    visible: Visible,
    cos: Tensor<3>,
    sin: Tensor<3>,
}

impl Model for Llama {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn weights(&self) -> &Params {
        &self.weights
    }

    fn packed(&self, name: &str) -> Option<&Packed> {
        self.packed.get(name)
    }

    fn fingerprint(&self) -> &str {
        self.fingerprint.get_or_init(|| {
            let weights = self.weights.fingerprint();
            if self.packed.is_empty() {
                return weights;
            }
            let mut hash = Sha256::new();
            hash.update(weights);
            for (name, packed) in &self.packed {
                hash.update(format!("{name} {} {:?} ", packed.format().name(), packed.dims()));
                hash.update(packed.bytes());
            }
            hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
        })
    }

    fn width(&self) -> usize {
        self.config.hidden_size
    }

    fn vocabulary(&self) -> Option<&Site> {
        if self.config.tie_word_embeddings { self.sites.first() } else { self.sites.last() }
    }

    fn head(&self) -> Option<&str> {
        (!self.config.tie_word_embeddings).then_some("lm_head")
    }

    fn forward(&self, inputs: &Inputs, pass: &Pass<'_>) -> Result<Outputs> {
        let seq = first_states("llama", inputs, self.width(), |tokens| self.embed(tokens, pass))?;
        let length = seq.h.dims()[1];
        let (apart, seq) = (seq.starts.iter().any(|&start| start > 0), pass.tokens(seq)?);
        if seq.h.dims()[1] != length && (apart || pass.past() > 0) {
            return refused(
                "lengthen rows that are packed, padded in front or read on".to_owned(),
                "choose a method that acts on weights",
            );
        }
        let states = self.decode(seq, pass)?;
        let features = self.last(&states);
        let logits = pass.head(features.clone())?;
        Ok(Outputs { states: Some(states), features, logits })
    }

    fn in_bf16(&self) -> Result<Box<dyn Model>> {
        let (weights, packed) = bf16_matrices(&self.sites, &self.weights, self.packed.clone())?;
        let rounded = Self::from_packed(self.config.clone(), weights, packed)?;
        Ok(Box::new(Self { fingerprint: self.fingerprint().to_owned().into(), ..rounded }))
    }

    fn with_weights(&self, weights: Params) -> Result<Box<dyn Model>> {
        let packed = self.packed.iter().filter(|(name, _)| !weights.has(name));
        let packed = packed.map(|(name, packed)| (name.clone(), packed.clone())).collect();
        Ok(Box::new(Self::from_packed(self.config.clone(), weights, packed)?))
    }
}
