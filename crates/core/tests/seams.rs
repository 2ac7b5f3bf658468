//! The seams between model, pass and patch, each tried with a small method that only this file has.
#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use acclimate_core::*;
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const WIDTH: usize = 4;

/// A config of this file, which needs no page.
macro_rules! method {
    ($(#[$doc:meta])* $ty:ident, $name:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Serialize, Deserialize)]
        struct $ty;

        impl Method for $ty {
            const CARD: Card = Card {
                name: $name,
                title: $name,
                catalogue: &[],
                paper: "-",
                year: 2026,
                targets: &[],
                doc: "",
                params: &[],
                needs: &[],
                promises: &[],
                waivers: &[],
                file: file!(),
                line: line!(),
            };
            const CASES: &'static [&'static str] = &[""];

            fn check(&self) -> Result<()> {
                Ok(())
            }
        }
    };
}

method! {
    /// Puts two trained states before the sequence.
    Prompt, "prompt"
}

#[derive(Fields)]
struct PromptParams {
    states: Tensor<2>,
}

impl TokenAdapter for Prompt {
    type P = PromptParams;

    fn init(&self, width: usize, (dtype, device): (DType, Device), rng: &mut Rng) -> Result<PromptParams> {
        Ok(PromptParams { states: rng.normal_tensor(&[2, width], 1.0, dtype, &device).get().unwrap() })
    }

    fn tokens(&self, seq: Seq, p: &PromptParams) -> Result<Seq> {
        let ([batch, ..], [n, width]) = (seq.h.dims(), p.states.dims());
        Ok(seq.prepend(p.states.clone().unsqueeze_dim::<3>(0).expand([batch, n, width])))
    }
}

method! {
    /// Does nothing, under a name that ends in a digit.
    Thin3, "thin3"
}

impl TokenAdapter for Thin3 {
    type P = ();

    fn init(&self, _: usize, _: (DType, Device), _: &mut Rng) -> Result<()> {
        Ok(())
    }

    fn tokens(&self, seq: Seq, (): &()) -> Result<Seq> {
        Ok(seq)
    }
}

method! {
    /// Drops the last position.
    Shorten, "shorten"
}

impl ActivationAdapter for Shorten {
    type P = ();

    fn init(&self, _: &Site, _: (DType, Device), _: &mut Rng) -> Result<()> {
        Ok(())
    }

    fn around(&self, seq: Seq, body: &mut dyn FnMut(Seq) -> Result<Seq>, (): &()) -> Result<Seq> {
        let length = seq.h.dims()[1];
        body(seq.keep(&(0..length - 1).collect::<Vec<_>>()))
    }

    fn count(&self, _: &Site) -> usize {
        0
    }
}

method! {
    /// LoRA without its refinements.
    Thin, "thin"
}

#[derive(Fields)]
struct ThinParams {
    #[role(input_factor)]
    a: Tensor<2>,
    #[role(output_factor)]
    b: Tensor<2>,
}

impl WeightAdapter for Thin {
    type P = ThinParams;
    type Shared = ();

    fn share(&self, _: &[Site], _: (DType, Device), _: &mut Rng) -> Result<()> {
        Ok(())
    }

    fn init(&self, base: &Affine, _: &Here<'_, ()>, rng: &mut Rng) -> Result<ThinParams> {
        let ([out, input], (dtype, device)) = (base.dims(), base.like());
        let mut draw = |shape: [usize; 2]| rng.normal_tensor(&shape, 0.5, dtype, &device).get().unwrap();
        Ok(ThinParams { a: draw([2, input]), b: draw([out, 2]) })
    }

    fn weight(&self, base: &Affine, p: &ThinParams, _: &Here<'_, ()>) -> Result<Affine> {
        Ok(base.with_weight(base.dense() + p.b.clone().matmul(p.a.clone())))
    }

    fn count(&self, site: &Site) -> usize {
        2 * (site.out + site.input)
    }
}

method! {
    /// Trains weights and biases as they are.
    Whole, "whole"
}

#[derive(Fields)]
struct WholeParams {
    #[role(weight)]
    weight: Tensor<2>,
    #[role(bias)]
    bias: Option<Tensor<1>>,
}

impl WeightAdapter for Whole {
    type P = WholeParams;
    type Shared = ();

    fn accepts(&self, site: &Site) -> bool {
        site.kind != SiteKind::Block
    }

    fn share(&self, _: &[Site], _: (DType, Device), _: &mut Rng) -> Result<()> {
        Ok(())
    }

    fn init(&self, base: &Affine, _: &Here<'_, ()>, _: &mut Rng) -> Result<WholeParams> {
        Ok(WholeParams { weight: base.dense(), bias: base.bias.clone() })
    }

    fn weight(&self, _: &Affine, p: &WholeParams, _: &Here<'_, ()>) -> Result<Affine> {
        Ok(Affine::new(p.weight.clone(), p.bias.clone()))
    }

    fn count(&self, site: &Site) -> usize {
        site.out * site.input + if site.bias { site.out } else { 0 }
    }
}

/// Two sub-blocks over embeddings, or one convolution: whichever the inputs ask for.
struct Tiny {
    sites: Vec<Site>,
    weights: Params,
    fingerprint: String,
}

impl Tiny {
    fn new(dtype: DType) -> Self {
        let site = |name: &str, kind, out, input, bias| Site { name: name.to_owned(), kind, out, input, bias };
        let conv = SiteKind::Conv { kernel: [3, 3], stride: 1, padding: Padding::Even(1), groups: 1 };
        let sites = vec![
            site("words", SiteKind::Embedding, 7, WIDTH, false),
            site("0.dense", SiteKind::Linear, WIDTH, WIDTH, true),
            site("0", SiteKind::Block, WIDTH, WIDTH, false),
            site("1.dense", SiteKind::Linear, WIDTH, WIDTH, true),
            site("1", SiteKind::Block, WIDTH, WIDTH, false),
            site("norm", SiteKind::Norm, WIDTH, 1, true),
            site("conv", conv, WIDTH, 2 * 9, true),
        ];
        let (mut weights, mut rng) = (Params::default(), Rng::new(5, "weights", 0));
        for site in sites.iter().filter(|site| site.kind != SiteKind::Block) {
            let shape = match site.kind {
                SiteKind::Conv { .. } => vec![site.out, 2, 3, 3],
                SiteKind::Norm => vec![site.out],
                _ => vec![site.out, site.input],
            };
            let mut draw = |shape: &[usize]| rng.normal_tensor(shape, 0.5, dtype, &Device::flex());
            weights.insert(format!("{}.weight", site.name), draw(&shape));
            if site.bias {
                weights.insert(format!("{}.bias", site.name), draw(&[site.out]));
            }
        }
        let fingerprint = weights.fingerprint();
        Self { sites, weights, fingerprint }
    }

    fn site(&self, name: &str) -> Site {
        self.sites.iter().find(|site| site.name == name).unwrap().clone()
    }

    /// A patch with one method at the named sites.
    fn patch(&self, adapter: Adapter, names: &[&str], seed: u64) -> Patch {
        let sites: Vec<Site> = names.iter().map(|name| self.site(name)).collect();
        let mut patch = Patch::new();
        patch.add(self, adapter, &sites, &mut Rng::new(seed, "patch", 0)).unwrap();
        patch
    }

    fn thin(&self, seed: u64, names: &[&str]) -> Patch {
        self.patch(Adapter::Weight(Arc::new(Thin)), names, seed)
    }
}

impl Model for Tiny {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn weights(&self) -> &Params {
        &self.weights
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn width(&self) -> usize {
        WIDTH
    }

    fn forward(&self, inputs: &Inputs, pass: &Pass<'_>) -> Result<Outputs> {
        let seq = match inputs {
            Inputs::Images(x) => {
                let y = pass.conv(self, &self.site("conv"), x.clone())?;
                let [batch, channels, height, width] = y.dims();
                let features = y.reshape([batch, channels, height * width]).mean_dim(2).reshape([batch, channels]);
                return Ok(Outputs { states: None, logits: None, features });
            }
            Inputs::Tokens(tokens) => {
                Seq::new(pass.embedding(self, &self.site("words"), tokens.ids.clone())?, tokens.mask.clone())
            }
            Inputs::Embeddings(seq) => seq.clone(),
            Inputs::Rows(_) => unreachable!("no test feeds rows"),
        };
        let mut seq = pass.tokens(seq)?;
        for block in ["0", "1"] {
            let dense = self.site(&format!("{block}.dense"));
            let mut body = |inner: Seq| {
                // The mean over visible input tokens stands in for attention.
                let mixed = inner.h.clone() + inner.mean().unsqueeze_dim::<3>(1);
                Ok(inner.with(inner.h.clone() + pass.linear(self, &dense, mixed)?.tanh()))
            };
            seq = pass.block(&self.site(block), seq, &mut body)?;
        }
        let seq = seq.with(pass.layer_norm(self, &self.site("norm"), seq.h.clone(), 1e-5)?);
        Ok(Outputs { logits: None, features: seq.mean(), states: Some(seq) })
    }

    fn with_weights(&self, weights: Params) -> Result<Box<dyn Model>> {
        let fingerprint = weights.fingerprint();
        Ok(Box::new(Self { sites: self.sites.clone(), weights, fingerprint }))
    }
}

fn tokens(dtype: DType) -> Inputs {
    let row = |ids: &[u32]| (ids.to_vec(), vec![0; ids.len()]);
    Inputs::Tokens(Tokens::new(&[row(&[1, 2, 3]), row(&[4, 5])], dtype, &Device::flex()))
}

fn images() -> Tensor<4> {
    Rng::new(3, "images", 0).normal_tensor(&[2, 2, 4, 4], 1.0, DType::F64, &Device::flex()).get().unwrap()
}

fn ones<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::ones(shape, (&Device::flex(), DType::F64))
}

fn states(model: &Tiny, patch: &Patch) -> Seq {
    model.forward(&tokens(DType::F64), &Pass::new(patch)).unwrap().states.unwrap()
}

fn features(model: &dyn Model, inputs: &Inputs, pass: &Pass<'_>) -> Tensor<2> {
    model.forward(inputs, pass).unwrap().features
}

fn apart(a: Tensor<2>, b: Tensor<2>) -> f64 {
    (a - b).abs().max().into_scalar()
}

#[test]
fn a_prompt_lengthens_the_sequence() {
    let model = Tiny::new(DType::F64);
    let seq = states(&model, &model.patch(Adapter::Tokens(Arc::new(Prompt)), &[], 1));
    assert_eq!(seq.h.dims(), [2, 5, WIDTH]);
    assert_eq!(seq.origin.into_data().iter::<i64>().collect::<Vec<_>>(), [-1, -1, 0, 1, 2, -1, -1, 0, 1, 2]);
    assert_eq!(
        seq.mask.into_data().iter::<f64>().collect::<Vec<_>>(),
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    );
}

#[test]
fn pooling_passes_over_a_prompt() {
    let model = Tiny::new(DType::F64);
    let patch = model.patch(Adapter::Tokens(Arc::new(Prompt)), &[], 1);
    let inputs = tokens(DType::F64);
    // The blocks of this model mix positions by the same mean, so a prompt that weighs nothing changes no feature.
    assert!(apart(features(&model, &inputs, &Pass::new(&patch)), features(&model, &inputs, &Pass::bare())) < 1e-12);
}

#[test]
fn a_gradient_reaches_a_prompt() {
    let model = Tiny::new(DType::F64);
    let patch = model.patch(Adapter::Tokens(Arc::new(Prompt)), &[], 1).tracked();
    let mut gradients = states(&model, &patch).h.powf_scalar(3.0).sum().backward();
    assert!(patch.params.gradients(&mut gradients).norm() > 1e-3);
}

#[test]
fn a_block_may_drop_positions() {
    let model = Tiny::new(DType::F64);
    let seq = states(&model, &model.patch(Adapter::Activation(Arc::new(Shorten)), &["1"], 1));
    assert_eq!((seq.h.dims(), seq.mask.dims(), seq.origin.dims()), ([2, 2, WIDTH], [2, 2], [2, 2]));
}

#[test]
fn rows_may_have_patches_of_their_own() {
    let model = Tiny::new(DType::F64);
    let (a, b) = (model.thin(1, &["0.dense", "1.dense"]), model.thin(2, &["0.dense"]));
    let inputs = tokens(DType::F64);
    let share = |values: [f64; 2]| Tensor::<1>::from_data(TensorData::from(values), (&Device::flex(), DType::F64));
    let pass = Pass::bare().and_rows(&a, share([1.0, 0.0])).and_rows(&b, share([0.0, 1.0]));
    let alone = |patch| features(&model, &inputs, &Pass::new(patch));
    let rows = Tensor::cat(vec![alone(&a).narrow(0, 0, 1), alone(&b).narrow(0, 1, 1)], 0);
    assert!(apart(features(&model, &inputs, &pass), rows) < 1e-12);
}

#[test]
fn rows_may_have_heads_of_their_own() {
    let model = Tiny::new(DType::F64);
    let with_head = |seed| {
        let mut patch = Patch::new();
        patch.add_head(&model, 3, HeadStart::Random, &mut Rng::new(seed, "head", 0));
        patch
    };
    let (a, b) = (with_head(1), with_head(2));
    let x = features(&model, &tokens(DType::F64), &Pass::bare());
    let share = |values: [f64; 2]| Tensor::<1>::from_data(TensorData::from(values), (&Device::flex(), DType::F64));
    let head = |pass: Pass<'_>| pass.head(x.clone()).unwrap().unwrap();
    let mixed = head(Pass::new(&a).and_rows(&b, share([0.0, 1.0])));
    let rows = Tensor::cat(vec![head(Pass::new(&a)).narrow(0, 0, 1), head(Pass::new(&b)).narrow(0, 1, 1)], 0);
    assert!(apart(mixed, rows) < 1e-12);
}

#[test]
fn a_prompt_refuses_to_differ_by_row() {
    let model = Tiny::new(DType::F64);
    let patch = model.patch(Adapter::Tokens(Arc::new(Prompt)), &[], 1);
    let error = model.forward(&tokens(DType::F64), &Pass::bare().and_rows(&patch, ones([2]))).unwrap_err();
    assert!(error.to_string().contains("cannot differ by row"), "{error}");
}

#[test]
fn a_whole_share_of_a_row_is_the_patch_on_top_of_the_common_one() {
    let model = Tiny::new(DType::F64);
    let (common, own) = (model.thin(1, &["0.dense", "1.dense"]), model.thin(2, &["0.dense"]));
    let inputs = tokens(DType::F64);
    let by_row = Pass::new(&common).and_rows(&own, ones([2]));
    let stacked = Pass::new(&common).and(&own);
    assert!(apart(features(&model, &inputs, &by_row), features(&model, &inputs, &stacked)) < 1e-12);
}

#[test]
fn a_method_whose_name_ends_in_a_digit_may_stand_twice() {
    let model = Tiny::new(DType::F64);
    let mut patch = model.thin(1, &["0.dense"]);
    for _ in 0..2 {
        patch.add(&model, Adapter::Tokens(Arc::new(Thin3)), &[], &mut Rng::new(2, "patch", 0)).unwrap();
    }
    let names: Vec<&str> = patch.parts().iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["thin", "thin3", "thin3_2"]);
}

#[test]
fn a_convolution_refuses_to_mix_by_row() {
    let model = Tiny::new(DType::F64);
    let patch = model.thin(1, &["conv"]);
    let error = model.forward(&Inputs::Images(images()), &Pass::bare().and_rows(&patch, ones([2]))).unwrap_err();
    assert!(error.to_string().contains("site `conv` cannot mix patches by row"), "{error}");
}

#[test]
fn a_gradient_reaches_images_and_embeddings() {
    let model = Tiny::new(DType::F64);
    let loss = |inputs| features(&model, &inputs, &Pass::bare()).powf_scalar(3.0).sum();
    let x = images().autodiff().require_grad();
    let mut gradients = loss(Inputs::Images(x.clone())).backward();
    assert!(x.grad_remove(&mut gradients).unwrap().abs().sum().into_scalar::<f64>() > 1e-3);
    let h = images().reshape([2, 8, WIDTH]).autodiff().require_grad();
    let mut gradients = loss(Inputs::Embeddings(Seq::new(h.clone(), ones([2, 8])))).backward();
    assert!(h.grad_remove(&mut gradients).unwrap().abs().sum().into_scalar::<f64>() > 1e-3);
}

/// A velocity for each parameter, as an optimiser keeps it.
#[derive(Clone, Debug, Record)]
struct Velocity {
    velocity: Params,
    step: u64,
}

#[test]
fn a_rank_edit_keeps_the_optimisers_state() {
    let model = Tiny::new(DType::F64);
    let mut patch = model.thin(1, &["0.dense"]);
    let tenfold = patch.params.map(|_, x| AnyTensor::from_elements(x.elements() * 10.0));
    let mut state = Velocity { velocity: tenfold, step: 7 };
    let kept = patch.params.get::<2>("0.dense.thin.a").unwrap().narrow(0, 1, 1);
    let edit = |name: &str, axis, shape| Edit {
        param: format!("0.dense.thin.{name}"),
        axis,
        keep: vec![1],
        add: Some(ones::<2>(shape).into()),
    };
    for edit in [edit("a", 0, [1, WIDTH]), edit("b", 1, [WIDTH, 1])] {
        patch.edit(&edit).unwrap();
        edit.apply_to_state(&mut state).unwrap();
    }
    let a = patch.params.get::<2>("0.dense.thin.a").unwrap();
    assert_eq!(apart(a, Tensor::cat(vec![kept.clone(), ones([1, WIDTH])], 0)), 0.0);
    let velocity = state.velocity.get::<2>("0.dense.thin.a").unwrap();
    assert_eq!(apart(velocity, Tensor::cat(vec![kept * 10.0, ones([1, WIDTH]) * 0.0], 0)), 0.0);
    assert_eq!((state.step, state.velocity.get::<2>("0.dense.thin.b").unwrap().dims()), (7, [WIDTH, 2]));
    assert_eq!(states(&model, &patch).h.dims(), [2, 3, WIDTH]);
}

#[test]
fn stacked_patches_act_in_turn() {
    let model = Tiny::new(DType::F64);
    let (first, second) = (model.thin(1, &["0.dense", "conv"]), model.thin(2, &["0.dense", "1.dense", "conv"]));
    let merged = model.with_weights(first.merge(&model).unwrap()).unwrap();
    for inputs in [tokens(DType::F64), Inputs::Images(images())] {
        let stacked = features(&model, &inputs, &Pass::new(&first).and(&second));
        assert!(apart(stacked, features(merged.as_ref(), &inputs, &Pass::new(&second))) < 1e-12);
    }
}

#[test]
fn merged_equals_unmerged() {
    let model = Tiny::new(DType::F64);
    let patch = model.thin(1, &["0.dense", "1.dense", "conv"]);
    let merged = model.with_weights(patch.merge(&model).unwrap()).unwrap();
    for inputs in [tokens(DType::F64), Inputs::Images(images())] {
        let unmerged = features(&model, &inputs, &Pass::new(&patch));
        assert!(apart(unmerged.clone(), features(&model, &inputs, &Pass::bare())) > 1e-3);
        assert!(apart(unmerged, features(merged.as_ref(), &inputs, &Pass::bare())) < 1e-12);
    }
}

#[test]
fn gradients_flow_to_the_patch_alone() {
    let model = Tiny::new(DType::F32);
    let patch = model.patch(Adapter::Weight(Arc::new(Whole)), &["words", "0.dense", "norm"], 1).tracked();
    let mut gradients = features(&model, &tokens(DType::F32), &Pass::new(&patch)).powf_scalar(3.0).sum().backward();
    assert!(model.weights.get::<2>("1.dense.weight").unwrap().grad(&gradients).is_none());
    for (name, gradient) in patch.params.gradients(&mut gradients).iter() {
        assert!(gradient.to_f64s().iter().any(|g| g.abs() > 1e-6), "{name}");
    }
    assert_eq!(model.weights.fingerprint(), model.fingerprint);
}

#[test]
fn a_norms_tensors_have_the_norms_role() {
    let model = Tiny::new(DType::F32);
    let patch = model.patch(Adapter::Weight(Arc::new(Whole)), &["norm", "0.dense"], 1);
    let names = ["norm.whole.weight", "norm.whole.bias", "0.dense.whole.weight", "0.dense.whole.bias"];
    assert_eq!(names.map(|name| patch.role(name)), [Role::Norm, Role::Norm, Role::Weight, Role::Bias]);
}

#[test]
fn an_activation_adapter_stands_at_blocks_only() {
    let model = Tiny::new(DType::F32);
    let adapter = Adapter::Activation(Arc::new(Shorten));
    let error = Patch::new().add(&model, adapter, &[model.site("0.dense")], &mut Rng::new(0, "patch", 0)).unwrap_err();
    assert_eq!(error.to_string(), "shorten cannot stand at `0.dense` (Linear, with bias); narrow `targets`");
}
