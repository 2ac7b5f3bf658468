//! Outputs, merged tensors and gradients against the reference numbers in `golden/peft`.
#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use acclimate_core::*;
use acclimate_peft::{Hra, build};
use burn::tensor::{DType, Device, Tensor};
use serde_json::Value;
use std::{path::Path, sync::Arc};

/// A model that is one layer, or one block that changes nothing.
struct One {
    site: Site,
    weights: Params,
    eps: f64,
}

impl Model for One {
    fn sites(&self) -> &[Site] {
        std::slice::from_ref(&self.site)
    }

    fn weights(&self) -> &Params {
        &self.weights
    }

    fn fingerprint(&self) -> &str {
        "one layer has one"
    }

    fn width(&self) -> usize {
        self.site.out
    }

    fn forward(&self, inputs: &Inputs, pass: &Pass<'_>) -> Result<Outputs> {
        let features = match inputs {
            Inputs::Images(x) => {
                let y = pass.conv(self, &self.site, x.clone())?;
                let [batch, channels, height, width] = y.dims();
                y.reshape([batch * channels, height * width])
            }
            Inputs::Embeddings(seq) => {
                let y = match self.site.kind {
                    SiteKind::Block => pass.block(&self.site, seq.clone(), &mut Ok)?.h,
                    SiteKind::Norm => pass.layer_norm(self, &self.site, seq.h.clone(), self.eps)?,
                    _ => pass.linear(self, &self.site, seq.h.clone())?,
                };
                let [batch, length, width] = y.dims();
                y.reshape([batch * length, width])
            }
            _ => unreachable!("the cases hold states and images"),
        };
        Ok(Outputs { states: None, features, logits: None })
    }

    fn with_weights(&self, weights: Params) -> Result<Box<dyn Model>> {
        Ok(Box::new(Self { site: self.site.clone(), weights, eps: self.eps }))
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    value["data"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn shape(value: &Value) -> Vec<usize> {
    value["shape"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as usize).collect()
}

fn tensor(value: &Value) -> AnyTensor {
    AnyTensor::from_f64s(numbers(value), &shape(value), DType::F64, &Device::flex())
}

/// The layer of a case. Its default targets are of no use here: a case has one site.
fn one(inputs: &Value) -> One {
    let mut weights = Params::default();
    for part in ["weight", "bias"] {
        if inputs[part].is_object() {
            weights.insert(format!("layer.{part}"), tensor(&inputs[part]));
        }
    }
    let size = |key: &str| inputs[key][0].as_u64().unwrap() as usize;
    let shape = if inputs["weight"].is_object() { shape(&inputs["weight"]) } else { shape(&inputs["x"]) };
    let (kind, out, input) = match (inputs["layer"].as_str().unwrap(), &shape[..]) {
        ("linear", &[out, input]) => (SiteKind::Linear, out, input),
        ("layernorm", &[out]) => (SiteKind::Norm, out, 1),
        ("identity", &[_, _, width]) => (SiteKind::Block, width, width),
        ("conv2d", &[out, channels, height, width]) => {
            let padding = Padding::Even(size("padding"));
            let kind = SiteKind::Conv { kernel: [height, width], stride: size("stride"), padding, groups: 1 };
            (kind, out, channels * height * width)
        }
        other => panic!("unknown layer {other:?}"),
    };
    let site = Site { name: "layer".to_owned(), kind, out, input, bias: inputs["bias"].is_object() };
    One { site, weights, eps: inputs["eps"].as_f64().unwrap_or(0.0) }
}

/// Runs every case of `golden/peft/NAME.json`; `method` turns a case's config into the method, or passes the case over.
fn check(name: &str, method: impl Fn(&Value) -> Option<Adapter>) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../golden/peft/{name}.json"));
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let tolerance = golden["header"]["tolerance"]["f64"].as_f64().unwrap();
    let mut ran = 0;
    for case in golden["cases"].as_array().unwrap() {
        let Some(adapter) = method(&case["config"]) else { continue };
        let close = |what: &str, got: Vec<f64>, expected: &Value| {
            let expected = numbers(expected);
            assert_eq!(got.len(), expected.len(), "{name} {}: {what}", case["name"]);
            for (got, expected) in got.iter().zip(&expected) {
                let apart = (got - expected).abs();
                assert!(apart <= tolerance * (1.0 + expected.abs()), "{name} {}: {what} by {apart:e}", case["name"]);
            }
        };
        run(case, adapter, &close);
        ran += 1;
    }
    assert!(ran > 0, "{name}: no case ran");
}

fn run(case: &Value, adapter: Adapter, close: &dyn Fn(&str, Vec<f64>, &Value)) {
    let (inputs, expected) = (&case["inputs"], &case["expected"]);
    let model = one(inputs);
    let part = adapter.card().name;
    let mut patch = Patch::new();
    patch.add(&model, adapter, model.sites(), &mut Rng::new(0, "golden", 0)).unwrap();
    for (field, value) in inputs["adapter"].as_object().unwrap() {
        let given = tensor(value);
        let name = format!("layer.{part}.{field}");
        // Weights are matrices here: a norm's scale is [out, 1] and a convolution's factors are flattened.
        let ours = match patch.params.any(&name).map(AnyTensor::shape).as_deref() {
            Some(&[length]) => given.reshaped(&[length]),
            _ => {
                let rows = given.shape()[0];
                AnyTensor::from_f64s(numbers(value), &[rows, given.count() / rows], DType::F64, &Device::flex())
            }
        };
        patch.params.insert(name, ours);
    }
    for (field, value) in inputs["shared"].as_object().into_iter().flatten() {
        patch.buffers.insert(format!("{part}.{field}"), tensor(value));
    }
    let patch = patch.tracked();
    let x = tensor(&inputs["x"]).tracked();
    let fed = match x.get::<4>() {
        Some(x) => Inputs::Images(x),
        None => {
            let h: Tensor<3> = x.get().unwrap();
            let mask = Tensor::ones([h.dims()[0], h.dims()[1]], (&Device::flex(), DType::F64));
            Inputs::Embeddings(Seq::new(h, mask))
        }
    };
    let y = model.forward(&fed, &Pass::new(&patch)).unwrap().features;
    close("y", AnyTensor::from(y.clone().inner()).to_f64s(), &expected["y"]);
    let coefficient = Tensor::<1>::from_data(numbers(&inputs["coefficient"]).as_slice(), (&Device::flex(), DType::F64));
    let mut gradients = (y.clone() * coefficient.reshape(y.dims())).sum().backward();
    for (field, value) in expected["gradients"].as_object().unwrap() {
        let gradient = patch.params.any(&format!("layer.{part}.{field}")).unwrap().gradient(&mut gradients);
        close(&format!("gradient of {field}"), gradient.to_f64s(), value);
    }
    close("gradient of x", x.gradient(&mut gradients).to_f64s(), &expected["x_gradient"]);
    let patch = patch.with_params(patch.params.map(|_, x| AnyTensor::from_elements(x.elements().inner())));
    for field in ["weight", "bias"] {
        if let Some(value) = expected.get(format!("merged_{field}")) {
            let merged = patch.merge(&model).unwrap();
            close(&format!("merged {field}"), merged.any(&format!("layer.{field}")).unwrap().to_f64s(), value);
        }
    }
    if let Some(penalty) = expected.get("penalty") {
        let ours = patch.penalty().unwrap().unwrap().into_scalar::<f64>();
        assert!((ours - penalty.as_f64().unwrap()).abs() < 1e-10, "penalty {ours}");
    }
}

/// The method of that name with the case's config as its settings.
fn by_name(name: &str, config: &Value) -> Option<Adapter> {
    Some(build(name, &toml::Table::try_from(config).unwrap()).unwrap())
}

#[test]
fn lora_agrees_with_the_package() {
    check("lora", |config| by_name("lora", config));
}

#[test]
fn vera_agrees_with_the_package() {
    check("vera", |config| by_name("vera", config));
}

#[test]
fn hra_agrees_with_the_package() {
    // Gram-Schmidt is left out on purpose. The rank is that of the normals in the case, odd ones included, which settings refuse.
    check("hra", |config| {
        let hra = Hra { rank: 2, penalty: 1.0 };
        (config["gram_schmidt"] == false).then(|| Adapter::Weight(Arc::new(hra)))
    });
}

#[test]
fn ia3_agrees_with_the_package() {
    check("ia3", |config| {
        let names: &[&str] = if config["feedforward"] == true { &["*"] } else { &[] };
        by_name("ia3", &serde_json::json!({ "input_targets": names }))
    });
}

#[test]
fn norm_tuning_agrees_with_the_package() {
    check("norm_tuning", |config| by_name("norm_tuning", config));
}

#[test]
fn houlsby_agrees_with_the_transcription() {
    check("houlsby", |config| by_name("houlsby", config));
}
