//! The smallest models there are: a table's columns, and a matrix that is told by its factors.

use acclimate_core::{AnyTensor, Error, Inputs, Model, Outputs, Params, Pass, Result, Site, SiteKind};
use acclimate_data::{self as data, Examples, Labels};
use burn::tensor::{DType, Device};

/// A table's columns as features: a head on them is a logistic regression.
pub(super) struct Columns {
    width: usize,
    weights: Params,
}

impl Columns {
    pub(super) fn new(width: usize) -> Self {
        Self { width, weights: Params::default() }
    }
}

impl Model for Columns {
    fn sites(&self) -> &[Site] {
        &[]
    }
    fn weights(&self) -> &Params {
        &self.weights
    }
    fn fingerprint(&self) -> &'static str {
        "columns"
    }
    fn width(&self) -> usize {
        self.width
    }
    fn forward(&self, inputs: &Inputs, pass: &Pass<'_>) -> Result<Outputs> {
        let Inputs::Rows(x) = inputs else { return Err(Error::Other("a table gives rows of numbers".to_owned())) };
        Ok(Outputs { states: None, features: x.clone(), logits: pass.head(x.clone())? })
    }
    fn with_weights(&self, weights: Params) -> Result<Box<dyn Model>> {
        Ok(Box::new(Self { width: self.width, weights }))
    }
    fn like(&self) -> (DType, Device) {
        (DType::F32, Device::flex())
    }
}

/// A matrix of zeros, of which a row of inputs names an entry: its line and its column, each by a one among zeros. LoRA on it is a
/// factorisation.
pub(super) struct Matrix {
    sites: [Site; 1],
    weights: Params,
    fingerprint: String,
}

impl Matrix {
    fn over(site: Site, weights: Params) -> Self {
        Self { fingerprint: weights.fingerprint(), sites: [site], weights }
    }

    /// The model and the entries of some lines of a table, line by line.
    pub(super) fn of(table: &Examples) -> Result<(Self, Examples)> {
        let data::Inputs::Features { width, values } = &table.inputs else {
            return Err(Error::Other("these rows are no table of numbers".to_owned()));
        };
        let (lines, columns) = (values.len() / width, *width);
        let site = Site { name: "matrix".to_owned(), kind: SiteKind::Linear, out: columns, input: lines, bias: false };
        let mut weights = Params::default();
        let zeros = vec![0.0; lines * columns];
        weights.insert("matrix.weight", AnyTensor::from_f64s(zeros, &[columns, lines], DType::F32, &Device::flex()));
        let mut named = vec![0.0; values.len() * (lines + columns)];
        for (entry, row) in named.chunks_mut(lines + columns).enumerate() {
            row[entry / columns] = 1.0;
            row[lines + entry % columns] = 1.0;
        }
        let inputs = data::Inputs::Features { width: lines + columns, values: named };
        let labels = Labels::Numbers(values.iter().map(|&x| f64::from(x)).collect());
        Ok((Self::over(site, weights), Examples { inputs, labels }))
    }
}

impl Model for Matrix {
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
        1
    }
    fn outputs(&self) -> Option<usize> {
        Some(1)
    }
    fn forward(&self, inputs: &Inputs, pass: &Pass<'_>) -> Result<Outputs> {
        let Inputs::Rows(x) = inputs else { return Err(Error::Other("an entry is named by numbers".to_owned())) };
        let site = &self.sites[0];
        let (line, column) = (x.clone().narrow(1, 0, site.input), x.clone().narrow(1, site.input, site.out));
        let entry = (pass.linear(self, site, line)? * column).sum_dim(1);
        Ok(Outputs { states: None, features: entry.clone(), logits: Some(entry) })
    }
    fn with_weights(&self, weights: Params) -> Result<Box<dyn Model>> {
        Ok(Box::new(Self::over(self.sites[0].clone(), weights)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Tensor, TensorData};

    #[test]
    fn a_row_of_inputs_names_its_entry() {
        let inputs = data::Inputs::Features { width: 3, values: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0] };
        let (model, entries) = Matrix::of(&Examples { inputs, labels: Labels::Numbers(vec![0.0; 2]) }).unwrap();
        let data::Inputs::Features { width, values } = entries.inputs else { panic!("entries are rows of numbers") };
        let Labels::Numbers(numbers) = entries.labels else { panic!("entries are numbers") };
        // Over the table itself in place of zeros, each entry is answered by its own number.
        let mut weights = Params::default();
        let table = vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0];
        weights.insert("matrix.weight", AnyTensor::from_f64s(table, &[3, 2], DType::F32, &Device::flex()));
        let model = model.with_weights(weights).unwrap();
        let rows = Tensor::<2>::from_data(TensorData::new(values, [6, width]), &Device::flex());
        let said = model.forward(&Inputs::Rows(rows), &Pass::default()).unwrap().logits.unwrap();
        assert_eq!(
            said.into_data().try_to_vec::<f32>().unwrap(),
            numbers.iter().map(|&x| x as f32).collect::<Vec<_>>()
        );
    }
}
