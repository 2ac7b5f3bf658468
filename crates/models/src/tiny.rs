//! Models of a few hundred numbers with seeded weights, and inputs for them: what suites and examples run on.

use crate::{
    Architecture, Bert, BertConfig, Convnet, ConvnetBlock, ConvnetConfig, Crepe, CrepeConfig, EfficientNet,
    EfficientNetConfig, EfficientNetStage, Llama, LlamaConfig, Network, Norm, Pooling, Resnet, ResnetConfig, Stem, Vit,
    VitConfig, WideResnet, WideResnetConfig, draw_weights, vision,
};
use acclimate_core::{AnyTensor, Inputs, Params, Rng, SiteKind};
use burn::tensor::{DType, Device};

/// Two layers of width 16 with two heads, feed-forward width 32, 40 words, 32 positions.
pub fn bert_config() -> BertConfig {
    BertConfig {
        hidden_size: 16,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 32,
        vocab_size: 40,
        max_position_embeddings: 32,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_act: "gelu".to_owned(),
        position_embedding_type: "absolute".to_owned(),
        pooling: Pooling::Mean,
    }
}

/// A BERT encoder of [`bert_config`] whose every tensor matters: no zeros, no ones.
pub fn bert(seed: u64, dtype: DType) -> Bert {
    let config = bert_config();
    let weights = draw_weights(&config.sites(""), |site, name, shape| {
        tensor(seed, name, shape, 0.3, site.kind == SiteKind::Norm && name.ends_with("weight"), dtype)
    });
    Bert::from_weights(config, weights).expect("drawn to the shapes of this config")
}

/// Two layers of width 16 with four heads in two groups, feed-forward width 24, 40 words, 64 positions, an output matrix of its own.
pub fn llama_config() -> LlamaConfig {
    LlamaConfig {
        model_type: "llama".to_owned(),
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: Some(2),
        head_dim: None,
        vocab_size: 40,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: None,
        rope_parameters: None,
        rope_divisors: None,
        tie_word_embeddings: false,
        attention_bias: false,
        mlp_bias: false,
        hidden_act: "silu".to_owned(),
        sliding_window: None,
        use_sliding_window: None,
    }
}

/// A decoder of [`llama_config`].
pub fn llama(seed: u64, dtype: DType) -> Llama {
    llama_with(llama_config(), seed, dtype)
}

/// A decoder of a config of choice, whose every tensor matters.
pub fn llama_with(config: LlamaConfig, seed: u64, dtype: DType) -> Llama {
    let weights = draw_weights(&config.sites(), |site, name, shape| {
        tensor(seed, name, shape, 0.3, site.kind == SiteKind::Norm, dtype)
    });
    Llama::from_weights(config, weights).expect("drawn to the shapes of this config")
}

/// A residual network for images of 1 × 8 × 8 and three classes, two stages of widths 8 and 16 with a block each.
pub fn resnet_config(norm: Norm) -> ResnetConfig {
    let (widths, blocks) = (vec![8, 16], vec![1, 1]);
    ResnetConfig { image: [1, 8, 8], classes: 3, widths, blocks, norm, ..ResnetConfig::resnet18() }
}

/// A network of [`resnet_config`] with batch norm whose every tensor matters.
pub fn resnet(seed: u64, dtype: DType) -> Resnet {
    resnet_with(Norm::Batch, seed, dtype)
}

/// The same with the norms of choice.
pub fn resnet_with(norm: Norm, seed: u64, dtype: DType) -> Resnet {
    network(resnet_config(norm), seed, dtype)
}

/// A residual network with ImageNet's stem and blocks of three convolutions, two stages of widths 2 and 3.
pub fn bottleneck_config() -> ResnetConfig {
    ResnetConfig { widths: vec![2, 3], stem: Stem::Large, bottleneck: true, ..resnet_config(Norm::Batch) }
}

/// A network of [`bottleneck_config`] whose every tensor matters.
pub fn bottleneck(seed: u64, dtype: DType) -> Resnet {
    network(bottleneck_config(), seed, dtype)
}

/// A plain network for images of 1 × 8 × 8 and three classes: a block of width 4 with a pool, one of width 8 with stride 2.
pub fn convnet_config(norm: Norm) -> ConvnetConfig {
    let block = |(width, kernel, stride, pool)| ConvnetBlock { width, kernel, stride, pool };
    let blocks = [(4, 3, 1, 2), (8, 5, 2, 1)].map(block).to_vec();
    ConvnetConfig { image: [1, 8, 8], classes: 3, blocks, norm, ..ConvnetConfig::digits() }
}

/// A network of [`convnet_config`] whose every tensor matters.
pub fn convnet(norm: Norm, seed: u64, dtype: DType) -> Convnet {
    network(convnet_config(norm), seed, dtype)
}

/// A wide residual network for images of 1 × 8 × 8 and three classes: a stem of 2 and a block for each of the widths 2, 4 and 8.
pub fn wide_resnet_config() -> WideResnetConfig {
    let (image, classes) = ([1, 8, 8], 3);
    WideResnetConfig { image, classes, depth: 10, widen: 1, stem: 2, ..WideResnetConfig::wrn28_10() }
}

/// A network of [`wide_resnet_config`] whose every tensor matters.
pub fn wide_resnet(seed: u64, dtype: DType) -> WideResnet {
    network(wide_resnet_config(), seed, dtype)
}

/// EfficientNet-Lite for images of 1 × 8 × 8 and three classes, with every kind of block: two stages of widths 4 and 6.
pub fn efficientnet_config() -> EfficientNetConfig {
    let stage = |(kernel, stride, expand, width, blocks)| EfficientNetStage { kernel, stride, expand, width, blocks };
    let stages = [(3, 1, 1, 4, 1), (5, 2, 2, 6, 2)].map(stage).to_vec();
    EfficientNetConfig { image: [1, 8, 8], classes: 3, stem: 4, stages, features: 12, eps: 1e-3, scaling: None }
}

/// A network of [`efficientnet_config`] whose every tensor matters.
pub fn efficientnet(seed: u64, dtype: DType) -> EfficientNet {
    network(efficientnet_config(), seed, dtype)
}

/// A vision transformer for images of 1 × 8 × 8 in four patches and three classes: two layers of width 16 with two heads.
pub fn vit_config() -> VitConfig {
    VitConfig {
        image_size: 8,
        patch_size: 4,
        num_channels: 1,
        hidden_size: 16,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 32,
        hidden_act: "gelu".to_owned(),
        layer_norm_eps: 1e-12,
        qkv_bias: true,
        id2label: None,
        num_labels: Some(3),
        scaling: None,
    }
}

/// A transformer of [`vit_config`] whose every tensor matters.
pub fn vit(seed: u64, dtype: DType) -> Vit {
    network(vit_config(), seed, dtype)
}

/// CREPE for frames of 256 samples and five pitches, two channels and at last three.
pub fn crepe_config() -> CrepeConfig {
    CrepeConfig { frame: 256, widths: [2, 2, 2, 2, 2, 3], classes: 5 }
}

/// A network of [`crepe_config`] whose every tensor matters.
pub fn crepe(seed: u64, dtype: DType) -> Crepe {
    network(crepe_config(), seed, dtype)
}

/// A network for images with weights of which none is zero or one.
fn network<A: Architecture>(config: A, seed: u64, dtype: DType) -> Network<A> {
    let (sites, _) = vision::sites(&config, &Params::default()).expect("the tiny configs are sound");
    let weights = draw_weights(&sites, |site, name, shape| match site.kind {
        SiteKind::Conv { .. } if shape.len() > 1 => {
            tensor(seed, name, shape, (2.0 / site.input as f64).sqrt(), false, dtype)
        }
        SiteKind::Linear => tensor(seed, name, shape, 0.5, false, dtype),
        SiteKind::BatchNorm if name.ends_with("running_var") => {
            let drawn = tensor(seed, name, shape, 0.2, true, dtype).to_f64s();
            AnyTensor::from_f64s(drawn.iter().map(|x| x.abs() + 0.5).collect(), shape, dtype, &Device::flex())
        }
        kind => {
            let norm = matches!(kind, SiteKind::Norm | SiteKind::BatchNorm);
            tensor(seed, name, shape, 0.2, norm && name.ends_with("weight"), dtype)
        }
    });
    Network::from_weights(config, weights).expect("drawn to the shapes of this config")
}

fn tensor(seed: u64, name: &str, shape: &[usize], deviation: f64, about_one: bool, dtype: DType) -> AnyTensor {
    let drawn = Rng::new(seed, name, 0).normal_tensor(shape, deviation, dtype, &Device::flex());
    if about_one { AnyTensor::from_elements(drawn.elements() + 1.0) } else { drawn }
}

/// A batch of token rows of the given lengths; words and segments are drawn from the seed.
pub fn tokens(seed: u64, lengths: &[usize], dtype: DType) -> Inputs {
    let config = bert_config();
    let mut rng = Rng::new(seed, "tiny tokens", 0);
    let mut draw = |n: usize, low: usize, high: usize| -> Vec<u32> {
        (0..n).map(|_| (low + rng.below(high - low)) as u32).collect()
    };
    let rows: Vec<_> =
        lengths.iter().map(|&n| (draw(n, 1, config.vocab_size), draw(n, 0, config.type_vocab_size))).collect();
    Inputs::Tokens(acclimate_core::Tokens::new(&rows, dtype, &Device::flex()))
}

/// A batch of `n` images of normal numbers for [`resnet`].
pub fn images(seed: u64, n: usize, dtype: DType) -> Inputs {
    let drawn = Rng::new(seed, "tiny images", 0).normal_tensor(&[n, 1, 8, 8], 1.0, dtype, &Device::flex());
    Inputs::Images(drawn.get().expect("drawn with four axes"))
}

/// A batch of `n` frames of normal numbers for [`crepe`].
pub fn frames(seed: u64, n: usize, dtype: DType) -> Inputs {
    let drawn = Rng::new(seed, "tiny frames", 0).normal_tensor(&[n, 1, 256, 1], 1.0, dtype, &Device::flex());
    Inputs::Images(drawn.get().expect("drawn with four axes"))
}
