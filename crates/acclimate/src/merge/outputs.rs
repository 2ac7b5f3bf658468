//! Whether a merged model says what the model with its patch says.

use acclimate_core::{AnyTensor, Error, Inputs, Model, Pass, Patch, Result, Rng, SiteKind, Tokens};
use serde::{Deserialize, Serialize};

/// How far a merged model's outputs are from those of the model with its patch, as shares of the largest of the latter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputDrift {
    /// The largest difference of the vectors that heads stand on.
    pub features: f64,
    /// The largest difference of the model's own scores: of words or classes; absent where it has none, or the patch has a head instead.
    pub scores: Option<f64>,
}

/// What a model says to fixed inputs: words or images drawn from a seed.
pub(super) fn outputs(model: &dyn Model, patch: &Patch) -> Result<(AnyTensor, Option<AnyTensor>)> {
    // Rows and tokens of each: enough to reach every layer, and within every model's positions.
    const ROWS: [usize; 2] = [4, 16];
    let ((dtype, device), mut rng) = (model.like(), Rng::new(0, "outputs of a merged model", 0));
    let words = model.sites().iter().find(|site| site.kind == SiteKind::Embedding).map(|site| site.out);
    let inputs = match (model.image(), words) {
        (Some([channels, height, width]), _) => {
            let drawn = rng.normal_tensor(&[ROWS[0], channels, height, width], 1.0, dtype, &device);
            Inputs::Images(drawn.get().expect("drawn with four axes"))
        }
        (None, Some(words)) => {
            let mut row = || ((0..ROWS[1]).map(|_| rng.below(words) as u32).collect(), vec![]);
            let rows: Vec<(Vec<u32>, Vec<u32>)> = (0..ROWS[0]).map(|_| row()).collect();
            Inputs::Tokens(Tokens::new(&rows, dtype, &device))
        }
        (None, None) => {
            let what = "say what its inputs are".to_owned();
            return Err(Error::Unsupported { who: "this model".into(), what, instead: "leave out `--verify`".into() });
        }
    };
    let pass = Pass::new(patch);
    let said = model.forward(&inputs, &pass)?;
    let scores = match model.vocabulary() {
        Some(_) => Some(pass.scores(model, said.features.clone())?.into()),
        None => said.logits.filter(|_| !patch.has_head()).map(AnyTensor::from),
    };
    Ok((said.features.into(), scores))
}

/// The largest difference as a share of the largest value.
pub(super) fn apart(got: &AnyTensor, expected: &AnyTensor) -> f64 {
    let (got, expected) = (got.to_f64s(), expected.to_f64s());
    let largest = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    let apart = got.iter().zip(&expected).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
    if apart == 0.0 { 0.0 } else { apart / largest }
}
