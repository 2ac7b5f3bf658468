use super::newton::{Convex, Curvature, least};
use super::table::{Table, logistic, positive, present, probabilities, queries, restored, saved, softmax, softplus};
use super::{Fitted, Labels, Learner};
use acclimate_core::Result;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, s};
use serde::{Deserialize, Serialize};

/// Logistic regression, of several classes at once: least `C Σ wᵢ loss(xᵢ) + ½ |W|²` with the log loss of `softmax(W x + b)`.
///
/// The constants `b` bear no penalty. Between two classes there is one vector of coefficients, as in scikit-learn, so the penalty is half
/// of what two opposite vectors would pay. Classes without rows have probability zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Logistic {
    /// The price of the loss beside the squared coefficients.
    pub c: f64,
}

impl Default for Logistic {
    fn default() -> Self {
        Self { c: 1.0 }
    }
}

const NAME: &str = "logistic";
/// Up to this many parameters the matrix of second derivatives is made.
const DENSE: usize = 400;

impl Learner for Logistic {
    fn fit(&self, x: ArrayView2<'_, f64>, y: &Labels, weights: Option<ArrayView1<'_, f64>>) -> Result<Box<dyn Fitted>> {
        positive(NAME, "c", self.c)?;
        let table = Table::new(NAME, x, y, weights)?;
        let (of, count) = table.y.classes(NAME)?;
        let (classes, of) = present(of, count);
        let outputs = if classes.len() == 2 { 1 } else { classes.len() };
        let features = x.ncols();
        if classes.len() == 1 {
            let (coefficients, intercepts) = (Array2::zeros((features, 1)), Array1::zeros(1));
            return Ok(Box::new(FittedLogistic { classes, count, coefficients, intercepts }));
        }
        let loss = Loss { x: &table.x, of, weights: &table.weights * self.c, outputs };
        let found = least(NAME, Array1::zeros(outputs * (features + 1)), &loss)?;
        let found = found.into_shape_with_order((features + 1, outputs)).expect("made of that size");
        let coefficients = found.slice(s![..features, ..]).to_owned();
        let intercepts = found.row(features).to_owned();
        Ok(Box::new(FittedLogistic { classes, count, coefficients, intercepts }))
    }

    fn restore(&self, value: serde_json::Value) -> Result<Box<dyn Fitted>> {
        Ok(Box::new(restored::<FittedLogistic>(NAME, value)?))
    }
}

/// Parameters are a row for each feature and one for the constants, with a column for each output.
struct Loss<'a> {
    x: &'a Array2<f64>,
    of: Vec<usize>,
    weights: Array1<f64>,
    outputs: usize,
}

impl Loss<'_> {
    fn shaped<'p>(&self, point: &'p Array1<f64>) -> ArrayView2<'p, f64> {
        point.view().into_shape_with_order((self.x.ncols() + 1, self.outputs)).expect("parameters have this size")
    }

    fn scores(&self, point: &Array1<f64>) -> Array2<f64> {
        let point = self.shaped(point);
        self.x.dot(&point.slice(s![..-1, ..])) + point.row(self.x.ncols())
    }

    /// Probabilities of the outputs: of the second class where there is one output.
    fn probabilities(&self, point: &Array1<f64>) -> Array2<f64> {
        let mut scores = self.scores(point);
        if self.outputs == 1 {
            scores.mapv_inplace(logistic);
        } else {
            softmax(&mut scores);
        }
        scores
    }

    /// `[xᵀ pull; Σ pull]`, flat.
    fn back(&self, pull: &Array2<f64>) -> Array1<f64> {
        let mut back = Array2::zeros((self.x.ncols() + 1, self.outputs));
        back.slice_mut(s![..-1, ..]).assign(&self.x.t().dot(pull));
        back.row_mut(self.x.ncols()).assign(&pull.sum_axis(Axis(0)));
        back.into_shape_with_order(self.outputs * (self.x.ncols() + 1)).expect("standard order")
    }

    /// Adds the penalty's product with a direction. Of several outputs it holds the sum of the constants at zero, which the loss leaves open.
    fn penalty(&self, direction: &Array1<f64>, onto: &mut Array1<f64>) {
        let coefficients = self.x.ncols() * self.outputs;
        let mut part = onto.slice_mut(s![..coefficients]);
        part += &direction.slice(s![..coefficients]);
        if self.outputs > 1 {
            let sum =
                direction.slice(s![coefficients..]).sum() * self.weights.sum() / (self.outputs * self.outputs) as f64;
            onto.slice_mut(s![coefficients..]).mapv_inplace(|value| value + sum);
        }
    }
}

impl Convex for Loss<'_> {
    fn at(&self, point: &Array1<f64>) -> (f64, Array1<f64>) {
        let mut scores = self.scores(point);
        let mut loss = 0.0;
        if self.outputs == 1 {
            for ((score, of), weight) in scores.iter_mut().zip(&self.of).zip(&self.weights) {
                let target = *of as f64;
                loss += weight * (softplus(*score) - target * *score);
                *score = weight * (logistic(*score) - target);
            }
        } else {
            let own: Vec<f64> = self.of.iter().enumerate().map(|(row, of)| scores[[row, *of]]).collect();
            let sums = softmax(&mut scores);
            for (row, (of, weight)) in self.of.iter().zip(&self.weights).enumerate() {
                loss += weight * (sums[row] - own[row]);
                scores[[row, *of]] -= 1.0;
            }
            scores *= &self.weights.view().insert_axis(Axis(1));
        }
        let mut gradient = self.back(&scores);
        let mut penalty = Array1::zeros(point.len());
        self.penalty(point, &mut penalty);
        gradient += &penalty;
        (loss + 0.5 * penalty.dot(point), gradient)
    }

    fn curvature(&self, point: &Array1<f64>) -> Curvature<'_> {
        let p = self.probabilities(point);
        let (outputs, features) = (self.outputs, self.x.ncols());
        if point.len() > DENSE {
            let square = self.x.mapv(|value| value * value);
            let bend = p.mapv(|p| p * (1.0 - p)) * self.weights.view().insert_axis(Axis(1));
            let mut diagonal = Array2::ones((features + 1, outputs));
            let mut part = diagonal.slice_mut(s![..-1, ..]);
            part += &square.t().dot(&bend);
            diagonal.row_mut(features).assign(&bend.sum_axis(Axis(0)));
            let diagonal = diagonal.into_shape_with_order(point.len()).expect("standard order");
            let times = move |direction: &Array1<f64>| {
                let mut along = self.scores(direction);
                if outputs == 1 {
                    along *= &bend;
                } else {
                    along *= &p;
                    let sums = along.sum_axis(Axis(1)).insert_axis(Axis(1));
                    along -= &(&p * &sums);
                    along *= &self.weights.view().insert_axis(Axis(1));
                }
                let mut product = self.back(&along);
                self.penalty(direction, &mut product);
                product
            };
            return Curvature::Product(diagonal, Box::new(times));
        }
        let mut curvature = Array2::zeros((point.len(), point.len()));
        for a in 0..outputs {
            for b in a..outputs {
                let own = if a == b { 1.0 } else { 0.0 };
                let bend = &p.column(a) * &(own - &p.column(b)) * &self.weights;
                let bent = self.x * &bend.view().insert_axis(Axis(1));
                let (square, line) = (crate::linalg::product(self.x.t(), bent.view()), bent.sum_axis(Axis(0)));
                let at = |feature: usize, output: usize| feature * outputs + output;
                for i in 0..=features {
                    for j in 0..=features {
                        let value = match (i < features, j < features) {
                            (true, true) => square[[i, j]],
                            (true, false) => line[i],
                            (false, true) => line[j],
                            (false, false) => bend.sum(),
                        };
                        curvature[[at(i, a), at(j, b)]] = value;
                        curvature[[at(j, b), at(i, a)]] = value;
                    }
                }
            }
        }
        for (i, mut row) in curvature.rows_mut().into_iter().enumerate() {
            let mut unit = Array1::zeros(point.len());
            unit[i] = 1.0;
            let mut whole = row.to_owned();
            self.penalty(&unit, &mut whole);
            row.assign(&whole);
        }
        Curvature::Dense(curvature)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct FittedLogistic {
    /// Those that have rows.
    classes: Vec<usize>,
    count: usize,
    /// `[features, outputs]`.
    coefficients: Array2<f64>,
    intercepts: Array1<f64>,
}

impl Fitted for FittedLogistic {
    fn answers(&self, x: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        queries(NAME, x, self.coefficients.nrows())?;
        let scores = x.dot(&self.coefficients) + &self.intercepts;
        Ok(probabilities(scores, &self.classes, self.count))
    }

    fn save(&self) -> serde_json::Value {
        saved(self)
    }
}
