use super::{Recent, Tails, Tracker};
use crate::quantile::pinball;
use acclimate_core::{Error, Method, Result};
use serde::{Deserialize, Serialize};

/// Several ACI at once, of unlike steps, and the mean of what they ask for, by how well each has done lately.
///
/// # Mathematics
/// Expert $i$ has the step $\gamma_i$ and the level $\alpha^i_t$. With $\beta_t$ the largest level at which the interval still holds the truth
/// and the loss $\ell(\beta, a) = \alpha(\beta - a) - \min(0, \beta - a)$,
/// $$\bar\alpha_t = \sum_i p^i_t \alpha^i_t, \qquad
///   \alpha^i_{t+1} = \alpha^i_t + \gamma_i (\alpha - [\alpha^i_t \ge \beta_t]),$$
/// $$\bar w^i = w^i_t e^{-\eta \ell(\beta_t, \alpha^i_t)}, \qquad
///   w^i_{t+1} = p^i_{t+1} = (1 - \sigma)\,\bar w^i / \sum_j \bar w^j + \sigma / K,$$
/// $$\sigma = \frac1{2I}, \qquad \eta = \sqrt{\frac3I \cdot \frac{\log(KI) + 2}{(1-\alpha)^2 \alpha^3 + \alpha^2 (1-\alpha)^3}}$$
/// for $K$ experts and the length $I$ of the stretch over which the regret is kept low. The interval is that at $\bar\alpha_t$.
///
/// # When to use
/// As `aci` where no step is known to be right: it gives coverage that is near $1 - \alpha$ over every stretch of about $I$ steps.
/// With one step it is `aci`.
///
/// # Differences
/// The paper also draws one expert at random, for which its bound on coverage is stated; the mean, as here, is what its authors
/// report. A level that is exactly $\beta_t$ misses, as the conformal rank says; in the authors' code it covers.
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{Dtaci, Stream};
///
/// let mut stream = Stream::new(&Dtaci::default(), &[0.5, -1.0, 0.25, 2.0], 0.25)?;
/// assert_eq!(stream.predict(10.0)?.upper, 12.0);
/// assert!(!stream.observe(13.0)?);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Gibbs and Candès, *Conformal Inference for Online Prediction with Arbitrary Distribution Shifts*, JMLR 2024, arXiv:2208.08401.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "dtaci", title = "DtACI", catalogue = [], paper = "arxiv:2208.08401", year = 2022)]
#[method(needs(labels), validate = Self::validate, case = "", case = "gammas = [0.01, 0.1]\nstretch = 50\nwindow = 80")]
pub struct Dtaci {
    /// The steps of the experts, $\gamma_i$.
    pub gammas: Vec<f64>,
    /// The length over which coverage shall hold, $I$.
    #[method(min = 1)]
    pub stretch: usize,
    /// Scores that are remembered.
    #[method(min = 1)]
    pub window: usize,
    /// Whether the size of errors is followed, `both`, or each sign apart, `each`.
    pub tails: Tails,
}

impl Default for Dtaci {
    fn default() -> Self {
        let gammas = vec![0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128];
        Self { gammas, stretch: 500, window: 1000, tails: Tails::Both }
    }
}

/// The last scores, and each expert's level and share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DtaciState {
    scores: Recent,
    /// What each expert asks for.
    pub levels: Vec<f64>,
    /// How much each counts.
    pub shares: Vec<f64>,
}

impl DtaciState {
    /// The level that the experts ask for together.
    pub fn level(&self) -> f64 {
        self.levels.iter().zip(&self.shares).map(|(level, share)| level * share).sum()
    }
}

impl Dtaci {
    fn validate(&self) -> Result<()> {
        if !self.gammas.is_empty() && self.gammas.iter().all(|gamma| gamma.is_finite() && *gamma > 0.0) {
            return Ok(());
        }
        let (value, why) = (format!("{:?}", self.gammas), "must be positive numbers, at least one".to_owned());
        Err(Error::Param { method: "dtaci", param: "gammas", value, why })
    }
}

impl Tracker for Dtaci {
    type State = DtaciState;

    fn tails(&self) -> Tails {
        self.tails
    }

    fn begin(&self, past: &[f64], alpha: f64) -> Result<DtaciState> {
        let experts = self.gammas.len();
        let scores = Recent::new(self.window, past);
        Ok(DtaciState { scores, levels: vec![alpha; experts], shares: vec![1.0 / experts as f64; experts] })
    }

    fn threshold(&self, state: &DtaciState, _: f64) -> f64 {
        state.scores.threshold(state.level())
    }

    fn learn(&self, state: &mut DtaciState, score: f64, _: bool, alpha: f64) {
        let sorted = state.scores.sorted();
        let smaller = sorted.partition_point(|s| *s < score);
        let beta = 1.0 - smaller as f64 / (sorted.len() + 1) as f64;
        let (experts, stretch) = (self.gammas.len() as f64, self.stretch as f64);
        let (hit, sigma) = (1.0 - alpha, 0.5 / stretch);
        let spread = hit.powi(2) * alpha.powi(3) + alpha.powi(2) * hit.powi(3);
        let eta = (3.0 / stretch * ((experts * stretch).ln() + 2.0) / spread).sqrt();
        for ((level, share), gamma) in state.levels.iter_mut().zip(&mut state.shares).zip(&self.gammas) {
            *share *= (-eta * pinball(alpha, *level, beta)).exp();
            *level += gamma * (alpha - f64::from(u8::from(*level >= beta)));
        }
        let total: f64 = state.shares.iter().sum();
        for share in &mut state.shares {
            *share = (1.0 - sigma) * *share / total + sigma / experts;
        }
        state.scores.push(score);
    }
}
