use crate::{Estimator, learn};
use acclimate_core::{Error, Method, Result, Rng};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, concatenate, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// One network that gives every conditional quantile of a number as a smooth curve over the level, kept from crossing itself.
///
/// # Mathematics
/// A network $f(x, \tau)$ of rectified quadratic units $\max(u, 0)^2$ lowers
/// $$\frac1n \sum_i \rho_{\xi_i}\big(y_i - f(x_i, \xi_i)\big) + \lambda\, \max\Big({-\frac{\partial f}{\partial \tau}}(x_i, \xi_i),\, 0\Big),
///   \qquad \rho_\tau(u) = u\,(\tau - 1\{u < 0\}),$$
/// at levels $\xi_i$ drawn evenly and anew in each epoch. The units have a continuous derivative, so the penalty is well defined; it is
/// carried forward beside the values,
/// $$v_0 = (0, \dots, 0, 1), \qquad h_{l+1} = \max(u_l, 0)^2, \quad v_{l+1} = 2\max(u_l, 0) \odot W_l v_l, \qquad u_l = W_l h_l + b_l,$$
/// and gradients go back through both. Such units make products exactly, $xy = \frac14[\sigma(x+y) + \sigma(-x-y) - \sigma(x-y) - \sigma(y-x)]$,
/// and with $y = 1$ pass a number on; so [`Requ::polynomial`] is exact. The optimiser is Adam on columns of mean zero and deviation
/// one third, a level from $-1$ to $1$ and targets of deviation one; gradients longer than one are cut. The weights are those of the epoch
/// whose loss on rows set aside, over 19 levels, was least.
///
/// # When to use
/// Uncertainty over a frozen model's features where many levels are wanted: intervals, samples, densities, the scores of conformal
/// methods. It gives no guarantee of coverage by itself. Levels below 0.02 or above 0.98 are learned badly. The penalty acts where there
/// are rows: away from them quantiles may cross, and [`FittedProcess::rearranged`] sorts them.
///
/// # Differences
/// The penalty is linear in the slope, as published, not its square. Each row is shown at `levels` levels in an epoch. Depth above four
/// overflows soon, as the degree doubles with each layer. The first weights are scaled so that squares keep their size from layer to layer.
///
/// # Example
/// ```
/// use acclimate_stats::QuantileProcess;
/// use ndarray::{Array1, Array2};
///
/// let x = Array2::from_shape_fn((60, 1), |(i, _)| i as f64 / 30.0 - 1.0);
/// let y = Array1::from_shape_fn(60, |i| x[[i, 0]] + 0.1 * (i % 5) as f64);
/// let method = QuantileProcess { epochs: 20, width: 8, ..QuantileProcess::default() };
/// let fitted = method.fit(x.view(), y.view(), 0)?;
/// assert_eq!(fitted.quantiles(x.view(), &[0.1, 0.5, 0.9])?.dim(), (60, 3));
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Shen, Jiao, Lin, Horowitz and Huang, *Estimation of Non-Crossing Quantile Regression Process with Deep ReQU Neural Networks*, JMLR 2024,
/// arXiv:2207.10442.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "quantile_process", title = "DQRP", catalogue = [91], paper = "arxiv:2207.10442", year = 2022)]
#[method(case = "epochs = 3\nwidth = 4", case = "epochs = 3\nwidth = 4\npenalty = 0.0")]
pub struct QuantileProcess {
    /// Units of each layer.
    #[method(min = 1)]
    pub width: usize,
    /// Layers of units.
    #[method(min = 1, max = 6)]
    pub depth: usize,
    /// The weight of the penalty, $\lambda$; without one it is the logarithm of the number of rows.
    #[method(min = 0)]
    pub penalty: Option<f64>,
    /// Learning rate.
    #[method(above = 0)]
    pub lr: f64,
    /// Passes over the rows at most.
    #[method(min = 1)]
    pub epochs: usize,
    /// Rows for each step.
    #[method(min = 1)]
    pub batch_size: usize,
    /// Levels at which a row is shown in an epoch.
    #[method(min = 1)]
    pub levels: usize,
    /// Epochs without a better loss after which it ends.
    #[method(min = 1)]
    pub patience: usize,
    /// The share of rows set aside to choose the epoch on.
    #[method(above = 0, max = 0.9)]
    pub valid_share: f64,
}

impl Default for QuantileProcess {
    fn default() -> Self {
        Self {
            width: 64,
            depth: 3,
            penalty: None,
            lr: 1e-3,
            epochs: 200,
            batch_size: 64,
            levels: 2,
            patience: 30,
            valid_share: 0.1,
        }
    }
}

impl Estimator for QuantileProcess {}

/// A network of rectified quadratic units with one output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Requ {
    /// The weights `[units, inputs]` and constants of each layer.
    pub layers: Vec<(Array2<f64>, Array1<f64>)>,
    /// The weights of the output.
    pub output: Array1<f64>,
    /// The constant of the output.
    pub constant: f64,
}

/// What a pass leaves for the way back: of each layer its inputs, their tangents, the positive part and the tangent before the units.
type Trace = Vec<[Array2<f64>; 4]>;

impl Requ {
    /// A network for `inputs` numbers that is exactly a sum of terms, each a factor times a product of inputs: `(3.0, vec![0, 0, 1])` is
    /// $3 x_0^2 x_1$. It has a layer for each factor after the first of the longest product.
    ///
    /// # Errors
    /// When a term names no input or a factor is not finite.
    pub fn polynomial(inputs: usize, terms: &[(f64, Vec<usize>)]) -> Result<Self> {
        let right = |term: &(f64, Vec<usize>)| term.0.is_finite() && term.1.iter().all(|input| *input < inputs);
        if let Some(wrong) = terms.iter().find(|term| !right(term)) {
            return Err(Error::Other(format!("quantile_process: a term {wrong:?} of {inputs} inputs")));
        }
        let degree = terms.iter().map(|term| term.1.len()).max().unwrap_or(0);
        let states = inputs + terms.len();
        // How states are read off what came before, and with which constant.
        let mut read = Array2::<f64>::zeros((states, inputs));
        let mut fixed = Array1::<f64>::zeros(states);
        (0..inputs).for_each(|input| read[[input, input]] = 1.0);
        for (state, (_, factors)) in (inputs..).zip(terms) {
            match factors.first() {
                Some(input) => read[[state, *input]] = 1.0,
                None => fixed[state] = 1.0,
            }
        }
        let mut layers = Vec::new();
        for layer in 1..degree {
            // Four units make the product of a state with an input or with one.
            let mut mix = Array2::<f64>::zeros((4 * states, states));
            let mut shift = Array1::<f64>::zeros(4 * states);
            let mut gather = Array2::<f64>::zeros((states, 4 * states));
            for state in 0..states {
                let other = state.checked_sub(inputs).and_then(|term| terms[term].1.get(layer));
                for (unit, (own, with, weight)) in
                    [(1.0, 1.0, 0.25), (-1.0, -1.0, 0.25), (1.0, -1.0, -0.25), (-1.0, 1.0, -0.25)]
                        .into_iter()
                        .enumerate()
                {
                    let row = 4 * state + unit;
                    mix[[row, state]] += own;
                    match other {
                        Some(input) => mix[[row, *input]] += with,
                        None => shift[row] += with,
                    }
                    gather[[state, row]] = weight;
                }
            }
            layers.push((mix.dot(&read), mix.dot(&fixed) + shift));
            (read, fixed) = (gather, Array1::zeros(states));
        }
        let weights = Array1::from_iter((0..inputs).map(|_| 0.0).chain(terms.iter().map(|term| term.0)));
        Ok(Self { layers, output: weights.dot(&read), constant: weights.dot(&fixed) })
    }

    /// The output at each row of inputs, and how fast it changes along `direction`.
    ///
    /// # Errors
    /// When rows or the direction have another width than the network.
    pub fn value(&self, x: ArrayView2<'_, f64>, direction: ArrayView1<'_, f64>) -> Result<(Array1<f64>, Array1<f64>)> {
        let width = self.layers.first().map_or(self.output.len(), |layer| layer.0.ncols());
        if x.ncols() != width || direction.len() != width {
            let (expected, got) = (format!("[rows, {width}]"), vec![x.nrows(), x.ncols()]);
            return Err(Error::Shape { what: "quantile_process: inputs".to_owned(), expected, got });
        }
        let (_, value, slope) = self.pass(x, direction);
        Ok((value, slope))
    }

    fn pass(&self, x: ArrayView2<'_, f64>, direction: ArrayView1<'_, f64>) -> (Trace, Array1<f64>, Array1<f64>) {
        let mut h = x.to_owned();
        let mut v = direction.broadcast(x.dim()).expect("the direction is as wide as the rows").to_owned();
        let mut trace = Vec::with_capacity(self.layers.len());
        for (weights, constants) in &self.layers {
            let positive = (h.dot(&weights.t()) + constants).mapv_into(|u| u.max(0.0));
            let tangent = v.dot(&weights.t());
            let next = (&positive * &positive, &positive * &tangent * 2.0);
            trace.push([h, v, positive, tangent]);
            (h, v) = next;
        }
        let (value, slope) = (h.dot(&self.output) + self.constant, v.dot(&self.output));
        let nothing = Array2::zeros((0, 0));
        trace.push([h, v, nothing.clone(), nothing]);
        (trace, value, slope)
    }

    /// The mean of the pinball loss and of the weighted penalty over rows `x`, whose last column stands for the level and grows with it
    /// by `rate`, at the levels `levels`, with its gradient in the form of a network.
    ///
    /// # Errors
    /// As [`Requ::value`], and when there are not as many levels and targets as rows.
    pub fn objective(
        &self,
        x: ArrayView2<'_, f64>,
        rate: f64,
        levels: ArrayView1<'_, f64>,
        y: ArrayView1<'_, f64>,
        penalty: f64,
    ) -> Result<(f64, Self)> {
        let rows = x.nrows();
        if levels.len() != rows || y.len() != rows {
            let (expected, got) = (format!("[{rows}]"), vec![levels.len(), y.len()]);
            return Err(Error::Shape { what: "quantile_process: levels and targets".to_owned(), expected, got });
        }
        let mut direction = Array1::zeros(x.ncols());
        if let Some(last) = direction.last_mut() {
            *last = rate;
        }
        self.value(x.slice(s![..0, ..]), direction.view())?;
        let (mut trace, value, slope) = self.pass(x, direction.view());
        let share = 1.0 / rows as f64;
        let mut loss = 0.0;
        let (mut by_value, mut by_slope) = (Array1::zeros(rows), Array1::zeros(rows));
        for row in 0..rows {
            let far = y[row] - value[row];
            loss += share * (pinball(far, levels[row]) + penalty * (-slope[row]).max(0.0));
            by_value[row] = share * (f64::from(u8::from(far < 0.0)) - levels[row]);
            by_slope[row] = if slope[row] < 0.0 { -share * penalty } else { 0.0 };
        }
        let [h, v, ..] = trace.pop().expect("a pass leaves its last states");
        let output = h.t().dot(&by_value) + v.t().dot(&by_slope);
        let constant = by_value.sum();
        let outer = |a: &Array1<f64>| a.view().insert_axis(Axis(1)).dot(&self.output.view().insert_axis(Axis(0)));
        let (mut by_h, mut by_v) = (outer(&by_value), outer(&by_slope));
        let mut layers = Vec::with_capacity(self.layers.len());
        for ((weights, _), [h, v, positive, tangent]) in self.layers.iter().zip(trace).rev() {
            let on = positive.mapv(|g| f64::from(u8::from(g > 0.0)));
            let by_u = (&positive * &by_h + &on * &tangent * &by_v) * 2.0;
            let by_tangent = &positive * &by_v * 2.0;
            layers.push((by_u.t().dot(&h) + by_tangent.t().dot(&v), by_u.sum_axis(Axis(0))));
            (by_h, by_v) = (by_u.dot(weights), by_tangent.dot(weights));
        }
        layers.reverse();
        Ok((loss, Self { layers, output, constant }))
    }

    fn numbers(&mut self) -> impl Iterator<Item = &mut f64> {
        let layers = self.layers.iter_mut().flat_map(|(weights, constants)| weights.iter_mut().chain(constants));
        layers.chain(&mut self.output).chain([&mut self.constant])
    }
}

/// The pinball loss of a residual at a level.
fn pinball(far: f64, level: f64) -> f64 {
    far * (level - f64::from(u8::from(far < 0.0)))
}

/// A fitted process of quantiles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FittedProcess {
    network: Requ,
    means: Array1<f64>,
    scales: Array1<f64>,
    mean: f64,
    scale: f64,
    /// Epochs that ran.
    pub epochs: usize,
    /// The loss on the rows set aside, in deviations of the target.
    pub loss: f64,
}

impl FittedProcess {
    /// The quantiles of each row at each level, `[rows, levels]`, as the network gives them.
    ///
    /// # Errors
    /// When rows have another width than at the fit, or a level is not between zero and one.
    pub fn quantiles(&self, x: ArrayView2<'_, f64>, levels: &[f64]) -> Result<Array2<f64>> {
        Ok(self.both(x, levels)?.0)
    }

    /// How fast quantiles grow with the level, `[rows, levels]`: one over the density there.
    ///
    /// # Errors
    /// As [`FittedProcess::quantiles`].
    pub fn slopes(&self, x: ArrayView2<'_, f64>, levels: &[f64]) -> Result<Array2<f64>> {
        Ok(self.both(x, levels)?.1)
    }

    /// The quantiles with those of each row in rising order: none cross, and the pinball loss over rising levels does not grow.
    ///
    /// # Errors
    /// As [`FittedProcess::quantiles`], and when levels do not rise.
    pub fn rearranged(&self, x: ArrayView2<'_, f64>, levels: &[f64]) -> Result<Array2<f64>> {
        if levels.windows(2).any(|pair| pair[0] > pair[1]) {
            return Err(Error::Other("quantile_process: levels must rise to be rearranged; sort them".to_owned()));
        }
        let mut found = self.quantiles(x, levels)?;
        for mut row in found.rows_mut() {
            let mut sorted = row.to_vec();
            sorted.sort_by(f64::total_cmp);
            row.assign(&Array1::from(sorted));
        }
        Ok(found)
    }

    /// A draw for each row, at levels drawn evenly.
    ///
    /// # Errors
    /// As [`FittedProcess::quantiles`].
    pub fn sample(&self, x: ArrayView2<'_, f64>, seed: u64) -> Result<Array1<f64>> {
        let mut rng = Rng::new(seed, "sample", 0);
        let levels: Array1<f64> = (0..x.nrows()).map(|_| rng.uniform()).collect();
        Ok(self.network.value(self.inputs(x, levels.view())?.view(), self.direction().view())?.0 * self.scale
            + self.mean)
    }

    fn direction(&self) -> Array1<f64> {
        let mut direction = Array1::zeros(self.means.len() + 1);
        direction[self.means.len()] = RATE;
        direction
    }

    fn inputs(&self, x: ArrayView2<'_, f64>, levels: ArrayView1<'_, f64>) -> Result<Array2<f64>> {
        if x.ncols() != self.means.len() {
            let expected = format!("[rows, {}]", self.means.len());
            return Err(Error::Shape { what: "quantile_process: rows".to_owned(), expected, got: x.shape().to_vec() });
        }
        Ok(joined((&x - &self.means) / &self.scales, levels))
    }

    fn both(&self, x: ArrayView2<'_, f64>, levels: &[f64]) -> Result<(Array2<f64>, Array2<f64>)> {
        if let Some(level) = levels.iter().find(|level| !(0.0..=1.0).contains(*level)) {
            return Err(Error::Other(format!("quantile_process: the level {level} is not between zero and one")));
        }
        let direction = self.direction();
        let mut found = (Array2::zeros((x.nrows(), levels.len())), Array2::zeros((x.nrows(), levels.len())));
        for (column, level) in levels.iter().enumerate() {
            let inputs = self.inputs(x, Array1::from_elem(x.nrows(), *level).view())?;
            let (value, slope) = self.network.value(inputs.view(), direction.view())?;
            found.0.column_mut(column).assign(&(value * self.scale + self.mean));
            found.1.column_mut(column).assign(&(slope * self.scale));
        }
        Ok(found)
    }
}

/// The network sees levels from -1 to 1.
const RATE: f64 = 2.0;

fn joined(x: Array2<f64>, levels: ArrayView1<'_, f64>) -> Array2<f64> {
    let last = levels.mapv(|level| RATE * level - 1.0).insert_axis(Axis(1));
    concatenate(Axis(1), &[x.view(), last.view()]).expect("there is a level for each row")
}

impl QuantileProcess {
    /// Fits. First weights, levels, the order of rows and those set aside are drawn from the seed.
    ///
    /// # Errors
    /// When rows and targets do not agree, are not finite or too few, or the loss is no longer finite.
    pub fn fit(&self, x: ArrayView2<'_, f64>, y: ArrayView1<'_, f64>, seed: u64) -> Result<FittedProcess> {
        self.check()?;
        learn::check("quantile_process", x, &learn::Labels::Numbers(y.to_vec()), None)?;
        let rows = x.nrows();
        let held = ((rows as f64 * self.valid_share).round() as usize).max(1);
        if held >= rows {
            return Err(Error::Other(format!("quantile_process: {rows} rows are too few; give at least two")));
        }
        let spread = |column: ArrayView1<'_, f64>| {
            let deviation = column.std(0.0);
            if deviation > 0.0 { deviation } else { 1.0 }
        };
        let (means, mean, scale) = (crate::linalg::column_means(x), y.sum() / rows as f64, spread(y));
        let scales: Array1<f64> = x.columns().into_iter().map(|column| 3.0 * spread(column)).collect();
        let (x, y) = ((&x - &means) / &scales, (&y - mean) / scale);
        let mut order: Vec<usize> = (0..rows).collect();
        Rng::new(seed, "valid", 0).shuffle(&mut order);
        let (held, kept) = order.split_at(held);
        let (valid, answers) = (learn::select(x.view(), held), y.select(Axis(0), held));
        let penalty = self.penalty.unwrap_or_else(|| (rows as f64).ln());
        let mut network = self.start(x.ncols() + 1, seed);
        let (mut first, mut second) = (network.clone(), network.clone());
        first.numbers().chain(second.numbers()).for_each(|number| *number = 0.0);
        let mut best = (f64::INFINITY, network.clone(), 0);
        let (mut step, mut epoch) = (0, 0);
        while epoch < self.epochs && epoch < best.2 + self.patience {
            epoch += 1;
            let mut rng = Rng::new(seed, "epoch", epoch as u64);
            let mut order: Vec<usize> = kept.repeat(self.levels);
            rng.shuffle(&mut order);
            for batch in order.chunks(self.batch_size) {
                step += 1;
                let levels: Array1<f64> = batch.iter().map(|_| rng.uniform()).collect();
                let inputs = joined(learn::select(x.view(), batch), levels.view());
                let (loss, gradient) =
                    network.objective(inputs.view(), RATE, levels.view(), y.select(Axis(0), batch).view(), penalty)?;
                if !loss.is_finite() {
                    let what = "the loss is not finite; lower `lr` or `depth`".to_owned();
                    return Err(Error::Numeric { who: "quantile_process".to_owned(), step, what });
                }
                adam(&mut network, gradient, &mut first, &mut second, self.lr, step);
            }
            let loss = judged(&network, &valid, &answers);
            if loss < best.0 {
                best = (loss, network.clone(), epoch);
            }
        }
        let (loss, network, _) = best;
        Ok(FittedProcess { network, means, scales, mean, scale, epochs: epoch, loss })
    }

    /// First weights: a square of a normal number of variance one has the mean square three, half of which the units keep.
    fn start(&self, inputs: usize, seed: u64) -> Requ {
        let mut rng = Rng::new(seed, "init", 0);
        let mut width = inputs;
        let mut layers = Vec::with_capacity(self.depth);
        for layer in 0..self.depth {
            let size = if layer == 0 { 1.0 / 3.0 } else { 1.5 };
            let scale = 0.8 / (size * width as f64).sqrt();
            let weights = Array2::from_shape_simple_fn((self.width, width), || rng.normal() * scale);
            layers.push((weights, Array1::zeros(self.width)));
            width = self.width;
        }
        let output = Array1::from_shape_simple_fn(width, || rng.normal() / (1.5 * width as f64).sqrt());
        Requ { layers, output, constant: 0.0 }
    }
}

/// One step of Adam, with gradients longer than one cut to that length.
fn adam(network: &mut Requ, mut gradient: Requ, first: &mut Requ, second: &mut Requ, lr: f64, step: u64) {
    let (beta1, beta2, eps) = (0.9_f64, 0.999_f64, 1e-8);
    let length = gradient.numbers().map(|g| *g * *g).sum::<f64>().sqrt();
    let cut = 1.0 / length.max(1.0);
    let (fade1, fade2) = (1.0 - beta1.powf(step as f64), 1.0 - beta2.powf(step as f64));
    let moments = first.numbers().zip(second.numbers());
    for ((weight, gradient), (first, second)) in network.numbers().zip(gradient.numbers()).zip(moments) {
        let gradient = *gradient * cut;
        *first = beta1 * *first + (1.0 - beta1) * gradient;
        *second = beta2 * *second + (1.0 - beta2) * gradient * gradient;
        *weight -= lr * (*first / fade1) / ((*second / fade2).sqrt() + eps);
    }
}

/// The pinball loss over 19 levels.
fn judged(network: &Requ, x: &Array2<f64>, y: &Array1<f64>) -> f64 {
    let direction = Array1::zeros(x.ncols() + 1);
    let one = |level: usize| {
        let level = level as f64 / 20.0;
        let inputs = joined(x.clone(), Array1::from_elem(x.nrows(), level).view());
        let (_, value, _) = network.pass(inputs.view(), direction.view());
        (y - &value).mapv(|far| pinball(far, level)).sum()
    };
    // Collected in order, so that the sum does not depend on the number of threads.
    let losses: Vec<f64> = (1..20).into_par_iter().map(one).collect();
    losses.iter().sum::<f64>() / (19 * y.len()) as f64
}
