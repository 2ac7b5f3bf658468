use crate::{Affine, Align, Aligned, Host, Lesson, Mapped, Source, Target};
use acclimate_core::{Error, Method, Result};
use acclimate_stats::linalg::{column_means, covariance, product};
use acclimate_stats::transport::gaussian_map;
use ndarray::{Array1, Array2, ArrayView2};
use serde::{Deserialize, Serialize};

/// The cheapest of the maps that give the source the mean and the covariance of the target.
///
/// # Mathematics
/// With means $\mu$ and covariances $C$ of the source and the target, each with $\lambda$ added to its diagonal,
/// $$x \mapsto (x - \mu_s) A + \mu_t, \qquad A = C_s^{-1/2} \big(C_s^{1/2} C_t C_s^{1/2}\big)^{1/2} C_s^{-1/2}.$$
/// $A$ is symmetric and positive, $A C_s A = C_t$, and no other map between normal distributions with these moments moves rows by less
/// under squared distances. With `bias = false` means are taken to be zero, and $C$ are second moments. Equal domains give the identity.
///
/// # When to use
/// As CORAL, which has a map with the same moments that is not the cheapest: when columns were rescaled or moved and the classes have like
/// shares. Where shares differ it moves classes onto each other.
///
/// # Differences
/// None from POT 0.9.7. The amount added to the diagonals depends on the unit of the columns; standardise first when you raise it.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::LinOt;
///
/// let method = LinOt::from_table(&toml::toml! { reg = 0.1 })?;
/// assert!(method.bias);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Flamary, Lounici and Ferrari, *Concentration bounds for linear Monge mapping estimation and optimal transport domain adaptation*, 2019,
/// arXiv:1905.10155. Knott and Smith, *On the optimal mapping of distributions*, Journal of Optimization Theory and Applications 43, 1984.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "lin_ot", title = "LinOT", catalogue = [28], paper = "arxiv:1905.10155", year = 2019)]
#[method(case = "", case = "reg = 0.1", case = "bias = false")]
pub struct LinOt {
    /// What is added to the diagonals of the covariances, $\lambda$.
    #[method(min = 0)]
    pub reg: f64,
    /// Whether the means are moved; else both domains are taken to lie about zero.
    pub bias: bool,
}

impl Default for LinOt {
    fn default() -> Self {
        Self { reg: 1e-8, bias: true }
    }
}

impl Align for LinOt {
    type View = Mapped;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, _: &Host<'_>) -> Result<Aligned<Mapped>> {
        let moment = |x: ArrayView2<'_, f64>| {
            let about = if self.bias { covariance(x, 0) } else { product(x.t(), x) / x.nrows() as f64 };
            about + Array2::<f64>::eye(x.ncols()) * self.reg
        };
        let (own, other) = (moment(source.x), moment(target.x));
        // One unit for both: the map is the same, and no product of three covariances leaves the numbers.
        let unit = own.diag().iter().chain(other.diag()).copied().fold(0.0, f64::max);
        if !unit.is_finite() {
            let who = Self::CARD.name;
            return Err(Error::Other(format!("{who}: covariances are not finite; bring the columns to one scale")));
        }
        let unit = if unit > 0.0 { unit } else { 1.0 };
        let matrix = gaussian_map((own / unit).view(), (other / unit).view())
            .map_err(|error| Error::Other(format!("{}: {error}; raise `reg`", Self::CARD.name)))?;
        let mean = |x| if self.bias { column_means(x) } else { Array1::zeros(source.x.ncols()) };
        let map = Affine { before: mean(source.x), matrix, after: mean(target.x) };
        let lesson = Lesson { x: map.of(source.x)?, y: source.y.clone(), weights: None };
        Ok(Aligned { lesson, facts: Vec::new(), view: Mapped { source: map, target: None } })
    }
}
