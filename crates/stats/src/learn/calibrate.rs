use super::newton::{Convex, Curvature, least};
use super::table::{logistic, softmax, softplus, top};
use super::{Labels, check};
use acclimate_core::{Error, Result};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, array, s};
use serde::{Deserialize, Serialize};

/// Platt's logistic: the probability of the class above zero is `1 / (1 + exp(−(slope · value + offset)))`.
///
/// It has the least log loss against targets `(n₊ + 1)/(n₊ + 2)` and `1/(n₋ + 2)`, where `n` is the sum of the weights of a class, so it is
/// finite also where the values separate the classes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Platt {
    /// What the value is multiplied by.
    pub slope: f64,
    /// What is added.
    pub offset: f64,
}

impl Platt {
    /// Fits to values of a decision and whether each row is of the class above zero.
    ///
    /// # Errors
    /// When sizes do not agree, there is no row with weight, or numbers are not finite.
    pub fn fit(values: &[f64], high: &[bool], weights: Option<&[f64]>) -> Result<Self> {
        let y = Labels::Classes { of: high.iter().map(|high| usize::from(*high)).collect(), count: 2 };
        let x = ArrayView2::from_shape((values.len(), 1), values).expect("a column");
        check("platt", x, &y, weights.map(ArrayView1::from))?;
        let weight = |row: usize| weights.map_or(1.0, |weights| weights[row]);
        let rows = 0..values.len();
        let sum = |class: bool| rows.clone().filter(|row| high[*row] == class).map(weight).sum::<f64>();
        let (above, below) = (sum(true), sum(false));
        let target = |high: bool| if high { (above + 1.0) / (above + 2.0) } else { 1.0 / (below + 2.0) };
        // Around their mean and in units of their spread, so that the two parameters can be told apart.
        let mean = rows.clone().map(|row| weight(row) * values[row]).sum::<f64>() / (above + below);
        let variance =
            rows.clone().map(|row| weight(row) * (values[row] - mean).powi(2)).sum::<f64>() / (above + below);
        let spread = variance.sqrt();
        let told = spread > 1e-14 * mean.abs() && spread > 0.0;
        let loss = PlattLoss {
            values: values.iter().map(|value| if told { (value - mean) / spread } else { 0.0 }).collect(),
            targets: high.iter().map(|high| target(*high)).collect(),
            weights: rows.map(weight).collect(),
        };
        let found = least("platt", array![0.0, ((above + 1.0) / (below + 1.0)).ln()], &loss)?;
        let slope = if told { found[0] / spread } else { 0.0 };
        Ok(Self { slope, offset: found[1] - slope * mean })
    }

    /// The probability of the class above zero.
    pub fn probability(&self, value: f64) -> f64 {
        logistic(self.slope * value + self.offset)
    }
}

struct PlattLoss {
    values: Vec<f64>,
    targets: Vec<f64>,
    weights: Vec<f64>,
}

impl PlattLoss {
    fn rows(&self) -> impl Iterator<Item = (f64, f64, f64)> {
        let rows = self.values.iter().zip(&self.targets).zip(&self.weights);
        rows.map(|((value, target), weight)| (*value, *target, *weight))
    }
}

impl Convex for PlattLoss {
    fn at(&self, point: &Array1<f64>) -> (f64, Array1<f64>) {
        let (mut loss, mut gradient) = (0.0, Array1::zeros(2));
        for (value, target, weight) in self.rows() {
            let z = point[0] * value + point[1];
            loss += weight * (softplus(z) - target * z);
            let pull = weight * (logistic(z) - target);
            gradient[0] += pull * value;
            gradient[1] += pull;
        }
        (loss, gradient)
    }

    fn curvature(&self, point: &Array1<f64>) -> Curvature<'_> {
        let mut curvature = Array2::zeros((2, 2));
        for (value, _, weight) in self.rows() {
            let p = logistic(point[0] * value + point[1]);
            let bend = weight * p * (1.0 - p);
            curvature[[0, 0]] += bend * value * value;
            curvature[[0, 1]] += bend * value;
            curvature[[1, 1]] += bend;
        }
        curvature[[1, 0]] = curvature[[0, 1]];
        Curvature::Dense(curvature)
    }
}

/// Temperature scaling: `softmax(logits / temperature)`, the temperature of least log loss between a hundredth and a hundred.
///
/// Logits may be logarithms of probabilities. Where the logits are right about every row, or say nothing, the temperature ends at a bound.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Temperature {
    /// What the logits are divided by.
    pub temperature: f64,
}

impl Temperature {
    /// Fits to logits `[rows, classes]` of rows that the model has not seen, and their classes.
    ///
    /// # Errors
    /// When sizes do not agree, numbers are not finite, or labels are no classes.
    pub fn fit(logits: ArrayView2<'_, f64>, y: &Labels, weights: Option<ArrayView1<'_, f64>>) -> Result<Self> {
        let loss = Scaling::new("temperature", logits, y, weights)?;
        let none = Array1::zeros(loss.logits.ncols());
        let slope = |sharpness: f64| loss.pull(sharpness, &none).0;
        let (mut low, mut high) = BOUNDS;
        if slope(low) >= 0.0 {
            return Ok(Self { temperature: low.recip() });
        }
        if slope(high) <= 0.0 {
            return Ok(Self { temperature: high.recip() });
        }
        // The slope rises: its zero by halving in the logarithm, down to neighbouring numbers.
        loop {
            let middle = (low * high).sqrt();
            if middle <= low || middle >= high {
                return Ok(Self { temperature: middle.recip() });
            }
            if slope(middle) < 0.0 {
                low = middle;
            } else {
                high = middle;
            }
        }
    }

    /// Probabilities of logits.
    pub fn probabilities(&self, logits: ArrayView2<'_, f64>) -> Array2<f64> {
        let mut values = &logits / self.temperature;
        softmax(&mut values);
        values
    }
}

/// Temperature scaling with a bias for each class: `softmax(logits / temperature + biases)` of least log loss.
///
/// Biases add up to zero. The loss holds a billionth of their squares and of the square of `1/temperature − 1` times half of the weights,
/// so that a class without rows, or logits that are always right, have a finite end. A temperature outside of a hundredth to a hundred is
/// put on that bound, and the biases fitted under it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bcts {
    /// What the logits are divided by.
    pub temperature: f64,
    /// What is added for each class.
    pub biases: Vec<f64>,
}

impl Bcts {
    /// Fits to logits `[rows, classes]` of rows that the model has not seen, and their classes.
    ///
    /// # Errors
    /// As [`Temperature::fit`].
    pub fn fit(logits: ArrayView2<'_, f64>, y: &Labels, weights: Option<ArrayView1<'_, f64>>) -> Result<Self> {
        let mut loss = Scaling::new("bcts", logits, y, weights)?;
        let mut start = Array1::zeros(logits.ncols() + 1);
        start[0] = 1.0;
        let mut found = least("bcts", start, &loss)?;
        let bounded = found[0].clamp(BOUNDS.0, BOUNDS.1);
        if bounded != found[0] {
            loss.fixed = true;
            found[0] = bounded;
            found = least("bcts", found, &loss)?;
            found[0] = bounded;
        }
        Ok(Self { temperature: found[0].recip(), biases: found.slice(s![1..]).to_vec() })
    }

    /// Probabilities of logits.
    ///
    /// # Errors
    /// When there are other classes than at the fit.
    pub fn probabilities(&self, logits: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        if logits.ncols() != self.biases.len() {
            let expected = format!("[rows, {}]", self.biases.len());
            return Err(Error::Shape { what: "bcts: logits".to_owned(), expected, got: logits.shape().to_vec() });
        }
        let mut values = &logits / self.temperature + ArrayView1::from(&self.biases);
        softmax(&mut values);
        Ok(values)
    }
}

/// Of one over the temperature.
const BOUNDS: (f64, f64) = (0.01, 100.0);
const RIDGE: f64 = 1e-9;

/// The log loss of scaled logits.
struct Scaling {
    logits: Array2<f64>,
    of: Vec<usize>,
    weights: Array1<f64>,
    /// Whether the temperature stays as it is.
    fixed: bool,
}

impl Scaling {
    fn new(who: &str, logits: ArrayView2<'_, f64>, y: &Labels, weights: Option<ArrayView1<'_, f64>>) -> Result<Self> {
        check(who, logits, y, weights)?;
        let (of, count) = y.classes(who)?;
        if logits.ncols() != count {
            let (what, expected) = (format!("{who}: logits"), format!("[rows, {count}]"));
            return Err(Error::Shape { what, expected, got: logits.shape().to_vec() });
        }
        let weights = weights.map_or_else(|| Array1::ones(of.len()), |weights| weights.to_owned());
        // A constant for each row changes nothing; without the largest logit no number overflows.
        let mut logits = logits.to_owned();
        for mut row in logits.rows_mut() {
            let most = top(row.view());
            row -= most;
        }
        Ok(Self { logits, of: of.to_vec(), weights, fixed: false })
    }

    fn probabilities(&self, sharpness: f64, biases: &Array1<f64>) -> (Array2<f64>, Array1<f64>) {
        let mut p = &self.logits * sharpness + biases;
        let sums = softmax(&mut p);
        (p, sums)
    }

    /// The derivatives in one over the temperature and in the biases, and the loss, without the ridge.
    fn pull(&self, sharpness: f64, biases: &Array1<f64>) -> (f64, Array1<f64>, f64) {
        let (mut p, sums) = self.probabilities(sharpness, biases);
        let mut loss = 0.0;
        for (row, (class, weight)) in self.of.iter().zip(&self.weights).enumerate() {
            loss += weight * (sums[row] - sharpness * self.logits[[row, *class]] - biases[*class]);
            p[[row, *class]] -= 1.0;
        }
        p *= &self.weights.view().insert_axis(Axis(1));
        ((&p * &self.logits).sum(), p.sum_axis(Axis(0)), loss)
    }

    fn ridge(&self) -> f64 {
        RIDGE * self.weights.sum()
    }
}

impl Convex for Scaling {
    fn at(&self, point: &Array1<f64>) -> (f64, Array1<f64>) {
        let (sharpness, biases) = (point[0], point.slice(s![1..]).to_owned());
        let (slope, slopes, loss) = self.pull(sharpness, &biases);
        let ridge = self.ridge();
        let mut gradient = Array1::zeros(point.len());
        if !self.fixed {
            gradient[0] = slope + ridge * (sharpness - 1.0);
        }
        gradient.slice_mut(s![1..]).assign(&(slopes + &biases * ridge));
        (loss + 0.5 * ridge * ((sharpness - 1.0).powi(2) + biases.dot(&biases)), gradient)
    }

    fn curvature(&self, point: &Array1<f64>) -> Curvature<'_> {
        let (p, _) = self.probabilities(point[0], &point.slice(s![1..]).to_owned());
        let size = point.len();
        let mut curvature = Array2::zeros((size, size));
        for ((p, z), weight) in p.rows().into_iter().zip(self.logits.rows()).zip(&self.weights) {
            let mean = p.dot(&z);
            curvature[[0, 0]] += weight * p.iter().zip(&z).map(|(p, z)| p * (z - mean).powi(2)).sum::<f64>();
            for a in 0..size - 1 {
                let mixed = weight * p[a] * (z[a] - mean);
                curvature[[0, a + 1]] += mixed;
                curvature[[a + 1, 0]] += mixed;
                curvature[[a + 1, a + 1]] += weight * p[a];
                for b in 0..size - 1 {
                    curvature[[a + 1, b + 1]] -= weight * p[a] * p[b];
                }
            }
        }
        if self.fixed {
            curvature.row_mut(0).fill(0.0);
            curvature.column_mut(0).fill(0.0);
            curvature[[0, 0]] = 1.0;
        }
        // One constant for all biases changes nothing but the ridge; this keeps their sum at zero without touching the rest.
        let classes = (size - 1) as f64;
        curvature.slice_mut(s![1.., 1..]).mapv_inplace(|value| value + self.weights.sum() / (classes * classes));
        curvature.diag_mut().mapv_inplace(|value| value + self.ridge());
        Curvature::Dense(curvature)
    }
}
