//! What a foreign model said: its logits and features as rows, in place of a network.

use crate::wrong_inputs;
use acclimate_core::{Error, Inputs, Model, Outputs, Params, Pass, Result, Site};

/// A model of which saved outputs alone are known. A row of its inputs is the features, then the logits; without weights and sites it
/// serves methods that change answers and nothing else.
///
/// # Example
/// ```
/// use acclimate_core::{Inputs, Model, Pass};
/// use acclimate_models::SavedOutputs;
/// use burn::tensor::{Device, Tensor};
///
/// let model = SavedOutputs::new(2, 3);
/// let rows = Tensor::<2>::from_data([[0.5, 0.1, 1.0, 2.0, 3.0]], &Device::flex());
/// let said = model.forward(&Inputs::Rows(rows), &Pass::bare())?;
/// assert_eq!((said.features.dims(), said.logits.expect("saved").dims()), ([1, 2], [1, 3]));
/// # Ok::<(), acclimate_core::Error>(())
/// ```
#[derive(Debug)]
pub struct SavedOutputs {
    width: usize,
    classes: usize,
    weights: Params,
    fingerprint: String,
}

impl SavedOutputs {
    /// A model whose rows hold so many features and so many logits.
    pub fn new(width: usize, classes: usize) -> Self {
        let weights = Params::default();
        Self { width, classes, fingerprint: weights.fingerprint(), weights }
    }
}

impl Model for SavedOutputs {
    fn sites(&self) -> &[Site] {
        &[]
    }

    fn weights(&self) -> &Params {
        &self.weights
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn width(&self) -> usize {
        self.width
    }

    fn forward(&self, inputs: &Inputs, _: &Pass<'_>) -> Result<Outputs> {
        let Inputs::Rows(rows) = inputs else { return Err(wrong_inputs("saved outputs", "rows")) };
        let [batch, got] = rows.dims();
        if got != self.width + self.classes {
            let expected = format!("[{batch}, {} features and {} logits]", self.width, self.classes);
            return Err(Error::Shape { what: "saved outputs".to_owned(), expected, got: vec![batch, got] });
        }
        let features = rows.clone().narrow(1, 0, self.width);
        Ok(Outputs { states: None, features, logits: Some(rows.clone().narrow(1, self.width, self.classes)) })
    }

    fn with_weights(&self, _: Params) -> Result<Box<dyn Model>> {
        Ok(Box::new(Self::new(self.width, self.classes)))
    }

    fn outputs(&self) -> Option<usize> {
        Some(self.classes)
    }
}
