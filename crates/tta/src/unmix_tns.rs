use crate::{
    Host, TestTime,
    statistics::{Kept, name, off_tape, predicted, stored},
};
use acclimate_core::{BatchNorm, Inputs, Method, Moments, Normaliser, Params, Record, Result, Rng};
use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

/// Keeps several sets of statistics for each batch norm and normalises each input by a mixture of all, so that batches of one class look
/// mixed.
///
/// # Mathematics
/// A norm keeps $K$ components, which begin around the stored moments $\mu_s, v_s$:
/// $$M_k = \mu_s + \sqrt{a K/(K-1)}\,\sqrt{v_s}\,\xi_k, \quad \xi_k \sim \mathcal N(0, I), \qquad V_k = (1 - a)\,v_s.$$
/// Input $b$ with mean $m_b$ and variance $s_b$ over its pixels belongs to component $k$ with
/// $p_{bk} = \operatorname{softmax}_k(\cos(m_b, M_k)/\tau)$, and is normalised by the mixture
/// $$\mu_{bk} = (1 - p_{bk}) M_k + p_{bk} m_b, \quad v_{bk} = (1 - p_{bk}) V_k + p_{bk} s_b, \quad
///   \bar\mu_b = \frac1K \sum_k \mu_{bk}, \quad \bar v_b = \frac1K \sum_k \big(v_{bk} + (\mu_{bk} - \bar\mu_b)^2\big).$$
/// Then, without a gradient, $M_k \mathrel{+}= \lambda\,\operatorname{mean}_b p_{bk} (m_b - M_k)$ and the same for $V_k$ with $s_b$, where
/// a batch of $B$ rows has $\lambda = 1 - (1 - \lambda_1)^{B/B_1}$. With $K = 1$ there is no noise and $a = 0$: every input is normalised
/// by itself.
///
/// # When to use
/// Streams in which neighbours share a class, down to batches of one, alone or as the statistics of another method (whose rate is then a
/// hundredth of the usual). The components need about $K/\lambda$ batches to move: raise `momentum` towards 1 for streams of some hundred
/// batches. It starts off the deployed model: a shallow network loses accuracy at once. More components, 128, for streams of several
/// shifts at a time.
///
/// # Differences
/// The authors correct $\lambda$ for the batch size they are told; here each batch counts with its own rows. The deviation of the means is
/// computed from differences, which cannot become negative.
///
/// # Example
/// ```
/// use acclimate_core::Patch;
/// use acclimate_models::tiny;
/// use acclimate_tta::{Host, Reset, Stream, UnmixTns};
/// use burn::tensor::DType;
///
/// let (model, method) = (tiny::resnet(0, DType::F32), UnmixTns::default());
/// let mut stream = Stream::new(&method, Host::new(&model, Patch::new())?, Reset::Never)?;
/// let one = tiny::images(1, 1, DType::F32);
/// let (first, second) = (stream.step(&one)?, stream.step(&one)?);
/// // The components have moved towards what they saw.
/// assert_ne!(first.to_data(), second.to_data());
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Tomar, Vray, Thiran and Bozorgtabar, *Un-Mixing Test-Time Normalization Statistics: Combatting Label Temporal Correlation*, ICLR 2024,
/// arXiv:2401.08328.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "unmix_tns", title = "UnMix-TNS", catalogue = [67], paper = "arxiv:2401.08328", year = 2024)]
#[method(
    needs(batch_norm),
    promises(order_invariant),
    case = "",
    case = "components = 4\nmomentum = 1.0",
    case = "components = 1"
)]
pub struct UnmixTns {
    /// Sets of statistics for each norm, $K$.
    #[method(min = 1)]
    pub components: usize,
    /// Divides the cosines, $\tau$.
    #[method(above = 0)]
    pub temperature: f64,
    /// How far a batch of `full_batch` rows moves the components, $\lambda_1$.
    #[method(min = 0, max = 1)]
    pub momentum: f64,
    /// Rows at which `momentum` holds, $B_1$.
    #[method(min = 1)]
    pub full_batch: usize,
    /// Share of the variance that lies between the components at the start, $a$.
    #[method(min = 0, max = 1)]
    pub spread: f64,
    /// Names the random stream that the first components come from.
    pub seed: u64,
}

impl Default for UnmixTns {
    fn default() -> Self {
        Self { components: 16, temperature: 0.07, momentum: 0.1, full_batch: 64, spread: 0.5, seed: 0 }
    }
}

/// The components of every norm.
#[derive(Clone, Debug, Record)]
pub struct UnmixTnsState {
    /// `site.means` and `site.variances`, `[components, channels]`.
    #[record(own)]
    pub components: Params,
}

impl TestTime for UnmixTns {
    type State = UnmixTnsState;

    fn prepare(&self, host: &mut Host<'_>) -> Result<UnmixTnsState> {
        let k = self.components as f64;
        let spread = if self.components == 1 { 0.0 } else { self.spread };
        let mut components = Params::default();
        for (site, Moments { mean, variance }) in stored(host)? {
            let [channels] = mean.dims();
            let repeated = |row: Tensor<1>| row.unsqueeze_dim::<2>(0).expand([self.components, channels]);
            let mut means = repeated(mean);
            if spread > 0.0 {
                let shape = [self.components, channels];
                let noise = Rng::new(self.seed, &format!("components of {}", site.name), 0)
                    .normal_tensor(&shape, (spread * k / (k - 1.0)).sqrt(), means.dtype(), &means.device())
                    .get::<2>()
                    .expect("drawn with two axes");
                means = means + noise * repeated(variance.clone().sqrt());
            }
            components.insert(name(site, MEANS), means);
            components.insert(name(site, VARIANCES), repeated(variance * (1.0 - spread)));
        }
        Ok(UnmixTnsState { components })
    }

    fn step(&self, batch: &Inputs, state: &mut UnmixTnsState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        predicted(self, batch, state, host)
    }

    fn under(&self, state: &mut UnmixTnsState, pass: &mut dyn FnMut(&dyn Normaliser) -> Result<()>) -> Result<()> {
        let unmixing = Unmixing { method: self, kept: Kept::new(&state.components) };
        pass(&unmixing)?;
        state.components = unmixing.kept.into_params();
        Ok(())
    }
}

const MEANS: &str = "means";
const VARIANCES: &str = "variances";

/// One pass, with the components as it finds and leaves them.
struct Unmixing<'a> {
    method: &'a UnmixTns,
    kept: Kept,
}

impl Normaliser for Unmixing<'_> {
    fn normalise(&self, norm: BatchNorm<'_>) -> Result<Tensor<4>> {
        let (means, variances) = (self.kept.get::<2>(norm.site, MEANS)?, self.kept.get::<2>(norm.site, VARIANCES)?);
        let [mean, variance] = norm.rows();
        let [rows, _] = mean.dims();

        let unit = |x: Tensor<2>| x.clone() / x.square().sum_dim(1).sqrt().clamp_min(1e-12);
        let cosines = unit(off_tape(&mean)).matmul(unit(means.clone()).transpose());
        // `[rows, components, 1]`, beside inputs `[rows, 1, channels]` and components `[1, components, channels]`.
        let p = activation::softmax(cosines / self.method.temperature, 1).unsqueeze_dim::<3>(2);
        let blend = |kept: &Tensor<2>, seen: &Tensor<2>| {
            (p.ones_like() - p.clone()) * kept.clone().unsqueeze_dim::<3>(0)
                + p.clone() * seen.clone().unsqueeze_dim::<3>(1)
        };
        let (means_of, variances_of) = (blend(&means, &mean), blend(&variances, &variance));
        let middle = means_of.clone().mean_dim(1);
        let all = (variances_of + (means_of - middle.clone()).square()).mean_dim(1);

        let rate = 1.0 - (1.0 - self.method.momentum).powf(rows as f64 / self.method.full_batch as f64);
        let moved = |kept: Tensor<2>, seen: &Tensor<2>| {
            let away = off_tape(seen).unsqueeze_dim::<3>(1) - kept.clone().unsqueeze_dim::<3>(0);
            kept + (p.clone() * away).mean_dim(0).squeeze_dim::<2>(0) * rate
        };
        self.kept.put(norm.site, MEANS, &moved(means, &mean));
        self.kept.put(norm.site, VARIANCES, &moved(variances, &variance));
        Ok(norm.by_rows([middle, all].map(|moment| moment.squeeze_dim::<2>(1))))
    }
}
