//! Sentence encoders of the BERT family, such as all-MiniLM-L6-v2.

use crate::{bf16_matrices, check_weights, first_states, largest, positive, read_json, read_weights};
use acclimate_core::{
    Error, Inputs, Model, Outputs, Packed, Params, Pass, Result, Seq, Site, SiteKind, Tokens, Visible,
};
use acclimate_kernels::{Activation, add};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path, sync::OnceLock};

/// The sites before the layers.
const TABLES: usize = 4;
/// The sites of one layer.
const PER_LAYER: usize = 10;

/// The keys of `config.json` that matter; others are passed over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BertConfig {
    /// Width of the states.
    pub hidden_size: usize,
    /// How many layers are run; the checkpoint may hold more.
    pub num_hidden_layers: usize,
    /// Heads of attention.
    pub num_attention_heads: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Rows of the word table.
    pub vocab_size: usize,
    /// The longest sequence.
    pub max_position_embeddings: usize,
    /// Kinds of segments.
    #[serde(default = "two")]
    pub type_vocab_size: usize,
    /// Guards the division in layer norms.
    #[serde(default = "eps")]
    pub layer_norm_eps: f64,
    /// The activation; `gelu` is offered.
    #[serde(default = "gelu")]
    pub hidden_act: String,
    /// How positions enter; `absolute` is offered.
    #[serde(default = "absolute")]
    pub position_embedding_type: String,
    /// How the states become one vector per row; read from `1_Pooling/config.json`, where there is one.
    #[serde(default)]
    pub pooling: Pooling,
}

fn two() -> usize {
    2
}
fn eps() -> f64 {
    1e-12
}
fn gelu() -> String {
    "gelu".to_owned()
}
fn absolute() -> String {
    "absolute".to_owned()
}

/// How the last states become one vector per row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean over the tokens.
    #[default]
    Mean,
    /// The state of the first token.
    Cls,
}

/// The name of a tensor, that of a norm's where the checkpoint has an old one.
pub(crate) fn current_name(name: &str) -> String {
    match name.rsplit_once('.') {
        Some((norm, "gamma")) => format!("{norm}.weight"),
        Some((norm, "beta")) => format!("{norm}.bias"),
        _ => name.to_owned(),
    }
}

impl BertConfig {
    fn check(&self) -> Result<()> {
        let refused = |what: String, instead: &str| {
            Err(Error::Unsupported { who: "bert".to_owned(), what, instead: instead.to_owned() })
        };
        positive(
            "bert",
            &[
                ("hidden_size", self.hidden_size),
                ("num_attention_heads", self.num_attention_heads),
                ("intermediate_size", self.intermediate_size),
                ("vocab_size", self.vocab_size),
                ("max_position_embeddings", self.max_position_embeddings),
                ("type_vocab_size", self.type_vocab_size),
            ],
        )?;
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let what = format!("divide `hidden_size` {} among {} heads", self.hidden_size, self.num_attention_heads);
            return refused(what, "check `num_attention_heads` in config.json");
        }
        if self.hidden_act != "gelu" {
            return refused(
                format!("use the activation `{}`", self.hidden_act),
                "choose a checkpoint whose `hidden_act` is `gelu`",
            );
        }
        if self.position_embedding_type != "absolute" {
            let what = format!("use positions of type `{}`", self.position_embedding_type);
            return refused(what, "choose a checkpoint whose `position_embedding_type` is `absolute`");
        }
        Ok(())
    }

    /// Every site in forward order, under `prefix`.
    pub(crate) fn sites(&self, prefix: &str) -> Vec<Site> {
        let (width, inner) = (self.hidden_size, self.intermediate_size);
        let site =
            |name: String, kind, out, input, bias| Site { name: format!("{prefix}{name}"), kind, out, input, bias };
        let table =
            |name: &str, rows| site(format!("embeddings.{name}_embeddings"), SiteKind::Embedding, rows, width, false);
        let mut sites = vec![
            table("word", self.vocab_size),
            table("position", self.max_position_embeddings),
            table("token_type", self.type_vocab_size),
            site("embeddings.LayerNorm".to_owned(), SiteKind::Norm, width, 1, true),
        ];
        for layer in 0..self.num_hidden_layers {
            let linear = |part: &str, out, input| {
                site(format!("encoder.layer.{layer}.{part}"), SiteKind::Linear, out, input, true)
            };
            let norm = |part: &str| site(format!("encoder.layer.{layer}.{part}"), SiteKind::Norm, width, 1, true);
            let block =
                |part: &str| site(format!("encoder.layer.{layer}.{part}"), SiteKind::Block, width, width, false);
            sites.extend([
                linear("attention.self.query", width, width),
                linear("attention.self.key", width, width),
                linear("attention.self.value", width, width),
                linear("attention.output.dense", width, width),
                block("attention.output"),
                norm("attention.output.LayerNorm"),
                linear("intermediate.dense", inner, width),
                linear("output.dense", width, inner),
                block("output"),
                norm("output.LayerNorm"),
            ]);
        }
        sites
    }
}

/// A BERT encoder without the pooler. `features` are the pooled states; it has no head of its own.
#[derive(Debug)]
pub struct Bert {
    config: BertConfig,
    weights: Params,
    /// Matrices that are not among the weights.
    packed: BTreeMap<String, Packed>,
    sites: Vec<Site>,
    fingerprint: OnceLock<String>,
}

impl Bert {
    /// Reads `config.json`, `model.safetensors` and, where there is one, `1_Pooling/config.json`.
    ///
    /// # Errors
    /// Names the file, and the key or tensor that is missing, malformed or not offered.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        Self::in_folder(folder, read_weights(folder, device)?)
    }

    /// The model that a folder's configuration describes, over weights in memory.
    pub(crate) fn in_folder(folder: &Path, weights: Params) -> Result<Self> {
        let mut config: BertConfig = read_json(&folder.join("config.json"))?;
        let pooling = folder.join("1_Pooling").join("config.json");
        if pooling.exists() {
            config.pooling = read_pooling(&pooling)?;
        }
        config.check()?;
        Self::from_weights(config, weights)
    }

    /// A model over weights in memory. Their names are kept, with or without the prefix `bert.`, except that the norms' old names
    /// `gamma` and `beta` become `weight` and `bias`. Tensors of no site, such as a pooler, stay as they are.
    ///
    /// # Errors
    /// When the config is not offered, or a tensor is missing or has another shape.
    pub fn from_weights(config: BertConfig, weights: Params) -> Result<Self> {
        config.check()?;
        let mut named = Params::default();
        for (name, tensor) in weights.iter() {
            named.insert(current_name(name), tensor.clone());
        }
        let prefix = if named.has("bert.embeddings.word_embeddings.weight") { "bert." } else { "" };
        let sites = config.sites(prefix);
        check_weights(&sites, &named, &BTreeMap::new())?;
        Ok(Self { config, weights: named, packed: BTreeMap::new(), sites, fingerprint: OnceLock::new() })
    }

    /// The config.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// The states that the first layer gets: what [`Inputs::Embeddings`] stands in for.
    ///
    /// # Errors
    /// When a sequence is too long, an index lies outside its table, or a patch does not fit.
    pub fn embed(&self, tokens: &Tokens, pass: &Pass<'_>) -> Result<Seq> {
        let (longest, [_, length]) = (self.config.max_position_embeddings, tokens.ids.dims());
        if length > longest {
            return Err(Error::Unsupported {
                who: "bert".to_owned(),
                what: format!("read {length} tokens in a row"),
                instead: format!("truncate rows to {longest}, the number of positions it knows"),
            });
        }
        for (what, ids, rows) in
            [("token", &tokens.ids, self.config.vocab_size), ("segment", &tokens.types, self.config.type_vocab_size)]
        {
            let most = largest(ids);
            if most >= rows as i64 {
                return Err(Error::Other(format!(
                    "bert: {what} number `{most}` lies outside the table of {rows}; use the tokeniser that came with the model"
                )));
            }
        }
        let [word, position, kind, norm] = self.sites.first_chunk::<TABLES>().expect("the tables come first");
        let words = pass.embedding(self, word, tokens.ids.clone())?;
        let seq = Seq::new(words, tokens.mask.clone().cast(self.like().0));
        let positions = pass.embedding(self, position, seq.positions.clone())?;
        let kinds = pass.embedding(self, kind, tokens.types.clone())?;
        let h = pass.layer_norm(self, norm, seq.h.clone() + positions + kinds, self.config.layer_norm_eps)?;
        Ok(seq.with(h))
    }

    fn encode(&self, mut seq: Seq, pass: &Pass<'_>) -> Result<Seq> {
        let (heads, eps) = (self.config.num_attention_heads, self.config.layer_norm_eps);
        for layer in self.sites[TABLES..].as_chunks::<PER_LAYER>().0 {
            let [query, key, value, mix, attention, mixed_norm, inner, outer, feed, norm] = layer;
            let before = seq.h.clone();
            let mixed = pass.block(attention, seq, &mut |seq| {
                let project = |site| pass.linear(self, site, seq.h.clone());
                let mixed = pass.attention(
                    project(query)?,
                    project(key)?,
                    project(value)?,
                    &Visible::Keys(seq.hidden()),
                    heads,
                );
                Ok(seq.with(pass.linear(self, mix, mixed)?))
            })?;
            let h = pass.layer_norm(self, mixed_norm, add(mixed.h.clone(), before, Activation::Identity), eps)?;
            let fed = pass.block(feed, mixed.with(h.clone()), &mut |seq| {
                let x = acclimate_kernels::gelu(pass.linear(self, inner, seq.h.clone())?);
                Ok(seq.with(pass.linear(self, outer, x)?))
            })?;
            let h = pass.layer_norm(self, norm, add(fed.h.clone(), h, Activation::Identity), eps)?;
            seq = fed.with(h);
        }
        Ok(seq)
    }

    fn pool(&self, seq: &Seq) -> Tensor<2> {
        match self.config.pooling {
            Pooling::Mean => seq.mean(),
            Pooling::Cls => seq.first(),
        }
    }
}

impl Model for Bert {
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
        self.fingerprint.get_or_init(|| self.weights.fingerprint())
    }

    fn width(&self) -> usize {
        self.config.hidden_size
    }

    fn forward(&self, inputs: &Inputs, pass: &Pass<'_>) -> Result<Outputs> {
        let seq = first_states("bert", inputs, self.width(), |tokens| self.embed(tokens, pass))?;
        let states = self.encode(pass.tokens(seq)?, pass)?;
        let features = self.pool(&states);
        let logits = pass.head(features.clone())?;
        Ok(Outputs { states: Some(states), features, logits })
    }

    fn in_bf16(&self) -> Result<Box<dyn Model>> {
        let (weights, packed) = bf16_matrices(&self.sites, &self.weights, self.packed.clone())?;
        let fingerprint = self.fingerprint().to_owned().into();
        Ok(Box::new(Self { config: self.config.clone(), weights, packed, sites: self.sites.clone(), fingerprint }))
    }

    fn with_weights(&self, mut weights: Params) -> Result<Box<dyn Model>> {
        // What is not given stays as it is here, unpacked.
        for (name, packed) in &self.packed {
            if !weights.has(name) {
                weights.insert(name.clone(), packed.dense());
            }
        }
        Ok(Box::new(Self::from_weights(self.config.clone(), weights)?))
    }
}

/// The pooling that a sentence-transformers folder asks for.
fn read_pooling(file: &Path) -> Result<Pooling> {
    let modes: BTreeMap<String, serde_json::Value> = read_json(file)?;
    let on: Vec<&str> = modes
        .iter()
        .filter(|(name, value)| name.starts_with("pooling_mode_") && **value == serde_json::Value::Bool(true))
        .map(|(name, _)| name.as_str())
        .collect();
    match on[..] {
        ["pooling_mode_mean_tokens"] => Ok(Pooling::Mean),
        ["pooling_mode_cls_token"] => Ok(Pooling::Cls),
        _ => Err(Error::format(
            file,
            format!("the pooling {on:?} is not offered; `pooling_mode_mean_tokens` and `pooling_mode_cls_token` are"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiny;
    use burn::tensor::DType;

    fn renamed(f: impl Fn(&str) -> String) -> Params {
        let mut weights = Params::default();
        tiny::bert(0, DType::F64).weights().iter().for_each(|(name, tensor)| weights.insert(f(name), tensor.clone()));
        weights
    }

    fn features(model: &Bert) -> Vec<f64> {
        let outputs = model.forward(&tiny::tokens(1, &[5, 3], DType::F64), &Pass::bare()).unwrap();
        acclimate_core::AnyTensor::from(outputs.features).to_f64s()
    }

    #[test]
    fn a_prefix_stays_in_the_names() {
        let model = Bert::from_weights(tiny::bert_config(), renamed(|name| format!("bert.{name}"))).unwrap();
        assert_eq!(model.sites()[0].name, "bert.embeddings.word_embeddings");
        assert_eq!(features(&model), features(&tiny::bert(0, DType::F64)));
    }

    #[test]
    fn old_names_of_norms_are_understood() {
        let old = renamed(|name| {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        });
        let model = Bert::from_weights(tiny::bert_config(), old).unwrap();
        assert_eq!(features(&model), features(&tiny::bert(0, DType::F64)));
    }

    #[test]
    fn what_is_not_offered_is_refused_with_a_way_out() {
        let refused = |config| Bert::from_weights(config, renamed(str::to_owned)).unwrap_err().to_string();
        let text = refused(BertConfig { hidden_act: "silu".to_owned(), ..tiny::bert_config() });
        assert_eq!(text, "bert cannot use the activation `silu`; choose a checkpoint whose `hidden_act` is `gelu`");
        let text = refused(BertConfig { num_attention_heads: 3, ..tiny::bert_config() });
        assert_eq!(
            text,
            "bert cannot divide `hidden_size` 16 among 3 heads; check `num_attention_heads` in config.json"
        );
        let text = refused(BertConfig { num_hidden_layers: 3, ..tiny::bert_config() });
        assert!(text.starts_with("unknown tensor `encoder.layer.2.attention.self.query.weight`"), "{text}");
        let text = refused(BertConfig { vocab_size: 41, ..tiny::bert_config() });
        assert_eq!(text, "tensor `embeddings.word_embeddings.weight`: expected shape [41, 16], got [40, 16]");
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        let model = tiny::bert(0, DType::F64);
        let refused = |inputs: &Inputs| model.forward(inputs, &Pass::bare()).unwrap_err().to_string();
        let text = refused(&tiny::tokens(0, &[33], DType::F64));
        assert_eq!(text, "bert cannot read 33 tokens in a row; truncate rows to 32, the number of positions it knows");
        let outside = Inputs::Tokens(Tokens::new(&[(vec![40], vec![0])], DType::F64, &Device::flex()));
        assert!(refused(&outside).starts_with("bert: token number `40` lies outside the table of 40"));
    }

    #[test]
    fn the_first_state_is_a_pooling_too() {
        let config = BertConfig { pooling: Pooling::Cls, ..tiny::bert_config() };
        let model = Bert::from_weights(config, renamed(str::to_owned)).unwrap();
        let outputs = model.forward(&tiny::tokens(1, &[5, 3], DType::F64), &Pass::bare()).unwrap();
        let first = outputs.states.unwrap().h.narrow(1, 0, 1).squeeze_dim::<2>(1);
        assert_eq!(acclimate_core::AnyTensor::from(first).to_f64s(), features(&model));
    }

    #[test]
    fn the_pooling_file_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(
            &file,
            r#"{"word_embedding_dimension": 384, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#,
        )
        .unwrap();
        assert_eq!(read_pooling(&file).unwrap(), Pooling::Cls);
        std::fs::write(&file, r#"{"pooling_mode_max_tokens": true}"#).unwrap();
        assert!(read_pooling(&file).unwrap_err().to_string().contains("pooling_mode_max_tokens"));
    }
}
