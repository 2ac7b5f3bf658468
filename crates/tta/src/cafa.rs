use crate::{
    Covariance, Host, Loss, TestTime,
    gaussians::{distances, measure},
    prototypes::Labelled,
};
use acclimate_core::{Inputs, Method, Params, Record, Result};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Tunes the norms so that features come near the Gaussian of their predicted class and stay away from those of the others.
///
/// # Mathematics
/// $g(x) \in \mathbb{R}^d$ are the features before the head. For each class $\mu_c$ and $\Sigma_c$ are mean and covariance (divided by
/// the number of rows) of features of the labelled reference rows, seen under the stored statistics, with
/// $\Sigma_c \leftarrow \Sigma_c + \eta\, \frac{\operatorname{tr} \Sigma_c}{d} I$ (`shrinkage`), and
/// $$D_c(x) = (g(x) - \mu_c)^\top \Sigma_c^{-1} (g(x) - \mu_c) = \lVert L_c^{-1} (g(x) - \mu_c) \rVert^2, \qquad
///   \Sigma_c = L_c L_c^\top.$$
/// With $\hat y_i = \arg\max_k z_{ik}$, through which no gradient flows, one step of the optimiser on the ratio of batch means
/// $$L = \log \sum_i D_{\hat y_i}(x_i) - \log \sum_i \sum_{c \ne \hat y_i} D_c(x_i),$$
/// or, with `ratio = "rows"`, on the mean of $\log D_{\hat y_i}(x_i) - \log \sum_{c \ne \hat y_i} D_c(x_i)$. Distances below $10^{-12}$
/// count as that. At test time batch norms take the statistics of the batch: the offset between both is a part of what is minimised. The
/// ratio does not change when features are mapped by any invertible affine map (with $\eta = 0$).
///
/// # When to use
/// Where labelled rows of training were at hand once, about as many for each class as features are wide, or with `covariance = "tied"` or
/// `"diagonal"` fewer. There is no weight of losses to choose. Memory: classes × width² numbers in full, width² tied, classes × width
/// diagonal. A ratio can fall by pushing features away from everything. Class-sorted batches break the statistics of the batch.
///
/// # Differences
/// There is no code of the authors to compare with. The logarithm of the ratio of means is one reading of the paper, that by rows the
/// other; for one row they are the same. Shrinkage is ours: a covariance of fewer rows than features has no inverse.
///
/// # Example
/// ```
/// use acclimate_core::{Patch, Rng};
/// use acclimate_models::tiny;
/// use acclimate_optim::Adamw;
/// use acclimate_tta::{Cafa, Host, Reset, Stream};
/// use burn::tensor::DType;
///
/// let model = tiny::resnet(0, DType::F32);
/// let mut patch = Patch::new();
/// let norms = acclimate_peft::build("norm_tuning", &Default::default())?;
/// acclimate_peft::place(&mut patch, &model, "norm_tuning", norms, None, &mut Rng::new(0, "patch", 0))?;
///
/// let reference = [tiny::images(1, 30, DType::F32)];
/// let labels = [(0..30).map(|row| row % 3).collect()];
/// let (method, adam) = (Cafa::default(), Adamw { lr: 1e-3, ..Adamw::default() });
/// let host = Host::new(&model, patch)?.reference(&reference).labels(&labels)?.optimiser(&adam)?;
/// let mut stream = Stream::new(&method, host, Reset::Never)?;
/// stream.step(&tiny::images(2, 20, DType::F32))?;
/// assert_eq!(stream.host().updates(), 1);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Jung et al., *CAFA: Class-Aware Feature Alignment for Test-Time Adaptation*, ICCV 2023, arXiv:2206.00205.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "cafa", title = "CAFA", catalogue = [24], paper = "arxiv:2206.00205", year = 2023)]
#[method(needs(gradients, optimiser, batch, learning_rate), promises(order_invariant))]
#[method(case = "", case = "covariance = \"tied\"\nratio = \"rows\"", case = "covariance = \"diagonal\"")]
pub struct Cafa {
    /// Which covariance belongs to a class.
    pub covariance: Covariance,
    /// Share of the mean variance that is added to each, $\eta$.
    #[method(min = 0)]
    pub shrinkage: f64,
    /// Of what the ratio is taken.
    pub ratio: Ratio,
}

impl Default for Cafa {
    fn default() -> Self {
        Self { covariance: Covariance::Full, shrinkage: 1e-2, ratio: Ratio::Means }
    }
}

/// Of what a ratio of distances is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ratio {
    /// Means over the batch: far rows count more.
    #[default]
    Means,
    /// Each row.
    Rows,
}

/// The classes' Gaussians.
#[derive(Clone, Debug, Record)]
pub struct CafaState {
    /// `means`, `[classes, width]`, and `whitening`, the inverse Cholesky factors.
    #[record(own)]
    pub gaussians: Params,
}

impl TestTime for Cafa {
    type State = CafaState;

    fn prepare(&self, host: &mut Host<'_>) -> Result<CafaState> {
        host.check_trains_norms(Self::CARD.name)?;
        let seen = Labelled::see(Self::CARD.name, host, |host, batch| host.source(batch))?;
        Ok(CafaState { gaussians: measure(Self::CARD.name, &seen, self.covariance, self.shrinkage)? })
    }

    fn step(&self, batch: &Inputs, state: &mut CafaState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        let seen = host.learn(|taped| {
            let seen = taped.forward(batch)?;
            let rows = seen.rows();
            let distances = distances(&state.gaussians, self.covariance, &seen.features)?.clamp_min(1e-12);
            let class = seen.logits.clone().argmax(1);
            let own = distances.clone().gather(1, class).squeeze_dim::<1>(1);
            let others = distances.sum_dim(1).squeeze_dim::<1>(1) - own.clone();
            let value = match self.ratio {
                Ratio::Means => own.sum().log() - others.sum().log(),
                Ratio::Rows => (own.log() - others.log()).mean(),
            };
            Ok((seen, Some(Loss { value, rows })))
        })?;
        Ok(seen.logits)
    }
}
