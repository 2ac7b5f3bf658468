use crate::{Host, Seen, TestTime};
use acclimate_core::{AnyTensor, Inputs, Method, Record, Result, total};
use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

/// Corrects the predictions of one batch so that neighbours agree; no weight changes.
///
/// # Mathematics
/// With the model's probabilities $q_i$ and affinities $w_{ij}$ between the features of a batch, the answers $z_i$ on the simplex lower
/// $$\sum_i \mathrm{KL}(z_i \,\|\, q_i) - \frac\lambda2 \sum_{ij} w_{ij}\, z_i^\top z_j
///   \qquad\text{by}\qquad z_i \leftarrow \operatorname{softmax}\Big(\log q_i + \lambda \sum_j w_{ij} z_j\Big),$$
/// which begins at $z = q$. With symmetric $W \succeq 0$ no step raises the value. With features of length one at distances $d_{ij}$
/// $$\text{knn:}\ w_{ij} = [\,j \text{ among the } k \text{ nearest of } i,\ j \ne i\,], \qquad
///   \text{rbf:}\ w_{ij} = e^{-d_{ij}^2 / 2\sigma^2}, \qquad \text{linear:}\ w_{ij} = \phi_i^\top \phi_j.$$
/// $\sigma$ is the mean distance to the $k$-th nearest, where each point is its own first. It ends after `steps`, or when
/// $E = \sum (-z \log q - \lambda z \odot W z' + z \log z)$, with $z'$ of the step before, changes by less than the share `tolerance`.
/// The answer is given as $\log z$. Nothing is trained or remembered.
///
/// # When to use
/// Streams whose neighbours share a class: video, sorted logs, one place at a time. On mixed streams it harms, by tens of points with
/// `rbf`. It cannot help where the model is near chance. Larger batches pull more: rows of `rbf` and `linear` sum to a share of
/// the batch, and may draw all of it into one class; `averaged` takes that away. Norms keep the statistics stored with the model, unless
/// another method brings some.
///
/// # Differences
/// The authors leave out the nearest of each row's distances as the point itself, which between equal inputs may be another; here it is
/// left out by its index. Where $\sigma = 0$, equal features have affinity one and others none. $E$ lacks a factor $\frac12$ against the
/// value that is lowered and mixes two steps; it decides here, as there, only when to end.
///
/// # Example
/// ```
/// use acclimate_core::Patch;
/// use acclimate_models::tiny;
/// use acclimate_tta::{Host, Lame, Reset, Stream};
/// use burn::tensor::DType;
///
/// let (model, method) = (tiny::resnet(0, DType::F32), Lame::default());
/// let mut stream = Stream::new(&method, Host::new(&model, Patch::new())?, Reset::Never)?;
/// let logits = stream.step(&tiny::images(1, 20, DType::F32))?;
/// assert_eq!(logits.dims(), [20, 3]);
/// assert_eq!((stream.report().counts.forwards, stream.report().counts.backwards), (1, 0));
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Boudiaf, Mueller, Ben Ayed and Bertinetto, *Parameter-free Online Test-time Adaptation*, CVPR 2022, arXiv:2201.05718.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "lame", title = "LAME", catalogue = [13], paper = "arxiv:2201.05718", year = 2022)]
#[method(
    promises(order_invariant),
    case = "",
    case = "affinity = \"rbf\"",
    case = "affinity = \"linear\"\naveraged = true"
)]
pub struct Lame {
    /// How neighbours are told: `knn`, `rbf` or `linear`.
    pub affinity: Affinity,
    /// Neighbours of each row, $k$; for `knn` and `rbf`.
    #[method(min = 1)]
    pub neighbours: usize,
    /// Weight of the neighbours, $\lambda$.
    #[method(min = 0)]
    pub weight: f64,
    /// Takes the mean of $W$ and its transpose.
    pub symmetric: bool,
    /// Divides each row of $W$ by its sum, so that $\lambda$ alone says how much the neighbours count.
    pub averaged: bool,
    /// Steps at most.
    #[method(min = 1)]
    pub steps: usize,
    /// The relative change of $E$ at which it ends.
    #[method(min = 0)]
    pub tolerance: f64,
    /// Added to probabilities before their logarithm is taken: so sure the model may be.
    #[method(min = 0)]
    pub eps: f64,
}

impl Default for Lame {
    fn default() -> Self {
        Self {
            affinity: Affinity::Knn,
            neighbours: 5,
            weight: 1.0,
            symmetric: false,
            averaged: false,
            steps: 100,
            tolerance: 1e-8,
            eps: 1e-10,
        }
    }
}

/// How neighbours are told in [`Lame`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Affinity {
    /// One for the nearest, zero for all others.
    #[default]
    Knn,
    /// A bell over the distance.
    Rbf,
    /// The product of the features.
    Linear,
}

/// Nothing.
#[derive(Clone, Debug, Record)]
pub struct LameState {}

impl TestTime for Lame {
    type State = LameState;

    fn prepare(&self, _: &mut Host<'_>) -> Result<LameState> {
        Ok(LameState {})
    }

    fn step(&self, batch: &Inputs, _: &mut LameState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        Ok(self.answer(&host.forward_stored(batch)?))
    }
}

impl Lame {
    /// The corrected answers, $\log z$, to what any model says of a batch.
    pub fn answer(&self, seen: &Seen) -> Tensor<2> {
        let log = activation::log_softmax(seen.logits.clone(), 1);
        let known = if self.eps > 0.0 { (log.exp() + self.eps).log() } else { log };
        let weights = self.affinities(seen.features.clone()) * self.weight;
        let mut answer = activation::log_softmax(known.clone(), 1);
        let mut before = f64::INFINITY;
        for step in 0..self.steps {
            let pull = weights.clone().matmul(answer.exp());
            answer = activation::log_softmax(known.clone() + pull.clone(), 1);
            let energy = total(vec![(answer.clone().exp() * (answer.clone() - known.clone() - pull)).sum()]);
            if step > 1 && (energy - before).abs() <= self.tolerance * before.abs() {
                break;
            }
            before = energy;
        }
        answer
    }

    /// How much each row of a batch counts for each other, $W$: of features `[rows, width]`, `[rows, rows]`.
    pub fn affinities(&self, features: Tensor<2>) -> Tensor<2> {
        let lengths = features.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
        let features = features / lengths;
        let ([rows, _], dtype, device) = (features.dims(), features.dtype(), features.device());
        let matrix = |numbers: Vec<f64>| -> Tensor<2> {
            let made = AnyTensor::from_f64s(numbers, &[rows, rows], dtype, &device);
            made.get().expect("made with two axes")
        };
        let weights = match self.affinity {
            Affinity::Linear => features.clone().matmul(features.transpose()),
            Affinity::Knn => matrix(nearest(&distances(&features), rows, self.neighbours)),
            Affinity::Rbf => matrix(bell(distances(&features), rows, self.neighbours)),
        };
        let weights = if self.symmetric { (weights.clone() + weights.transpose()) * 0.5 } else { weights };
        if self.averaged { weights.clone() / weights.sum_dim(1).clamp_min(1e-12) } else { weights }
    }
}

/// The squared distances between all rows, from differences: exact zeros between equal rows, no large numbers that cancel.
fn distances(features: &Tensor<2>) -> Vec<f64> {
    let width = features.dims()[1].max(1);
    let numbers = AnyTensor::from(features.clone()).to_f64s();
    let rows: Vec<&[f64]> = numbers.chunks(width).collect();
    let between = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
    rows.iter().flat_map(|a| rows.iter().map(|b| between(a, b))).collect()
}

/// One at the `k` nearest of each row, without the row itself; of equals those that come first.
fn nearest(distances: &[f64], rows: usize, k: usize) -> Vec<f64> {
    let mut weights = vec![0.0; rows * rows];
    for (row, distances) in distances.chunks(rows.max(1)).enumerate() {
        let mut others: Vec<usize> = (0..rows).filter(|other| *other != row).collect();
        others.sort_by(|a, b| distances[*a].total_cmp(&distances[*b]));
        for other in others.into_iter().take(k) {
            weights[row * rows + other] = 1.0;
        }
    }
    weights
}

/// A bell as wide as the mean distance to the `k`-th nearest, counting from the row itself.
fn bell(squares: Vec<f64>, rows: usize, k: usize) -> Vec<f64> {
    let kth = |distances: &[f64]| {
        let mut sorted = distances.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[k.min(rows) - 1].sqrt()
    };
    let sigma = squares.chunks(rows.max(1)).map(kth).sum::<f64>() / rows as f64;
    let weight = |square: f64| {
        if square == 0.0 { 1.0 } else { (-square / (2.0 * sigma * sigma)).exp() }
    };
    squares.into_iter().map(weight).collect()
}
