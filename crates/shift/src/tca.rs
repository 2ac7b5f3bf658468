use crate::kernel::Stacked;
use crate::{Align, Aligned, Host, KernelMap, Lesson, Source, Target};
use acclimate_core::{Method, Result};
use acclimate_stats::linalg::{product, solve, symmetric_eigen};
use ndarray::{Array1, Array2, Axis};
use serde::{Deserialize, Serialize};

/// Shows both domains in components of a kernel in which they vary much and differ little.
///
/// # Mathematics
/// With the kernel $K_{ij} = e^{-\gamma \lVert x_i - x_j \rVert^2}$ of the rows of both domains under each other, $\ell_i = 1/n_s$ for the
/// source and $-1/n_t$ for the target, $L = \ell \ell^\top$ and $H = I - \frac1n 1 1^\top$, the columns of $A$ are the leading solutions of
/// $$K H K\, a = \theta\, (I + \mu K L K)\, a, \qquad \lVert a \rVert = 1.$$
/// $a^\top K H K a$ is how much the component varies and $a^\top K L K a$ the squared distance of the domains' means in it. Any row is
/// shown as $k(x, \cdot) A$. Since $K L K$ has rank one and $K$ falls off fast, a factor $K = F F^\top$ of low rank solves it exactly.
///
/// # When to use
/// When the domains differ in some directions and the classes in others. It needs no label and can help little where the classes
/// themselves moved. More components than the kernel's numerical rank are left out.
///
/// # Differences
/// The paper writes $(K L K + \mu' I)$, so its $\mu'$ is $1/\mu$. `whiten` scales each component to total variance one, which is the
/// paper's constraint; common code takes columns of length one, the default here. skada 0.4.0 hands the matrix
/// $(I + \mu K L K)^{-1} K H K$, which is not symmetric, to a solver that reads its lower triangle as if it were: `compat = true`. What
/// that shows depends on the order of the rows. Its other slip, that rows of the training set come back with the source first whatever
/// their order was, is not reproduced.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::Tca;
///
/// let tca = Tca { mu: 100.0, components: 2, ..Tca::default() };
/// assert!(tca.check().is_ok());
/// ```
///
/// # References
/// Pan, Tsang, Kwok and Yang, *Domain Adaptation via Transfer Component Analysis*, IEEE Transactions on Neural Networks 22, 2011,
/// doi:10.1109/TNN.2010.2091281.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "tca", title = "Transfer Component Analysis", catalogue = [28])]
#[method(paper = "doi:10.1109/TNN.2010.2091281", year = 2011)]
#[method(case = "components = 3", case = "components = 2\nwhiten = true", case = "components = 2\ncompat = true")]
pub struct Tca {
    /// How many components.
    #[method(min = 1)]
    pub components: usize,
    /// What a difference of the domains costs, $\mu$.
    #[method(min = 0)]
    pub mu: f64,
    /// The width of the kernel; none is one over the number of columns.
    #[method(above = 0)]
    pub gamma: Option<f64>,
    /// Scales each component to total variance one.
    pub whiten: bool,
    /// A solver for symmetric matrices on one that is not, as in skada 0.4.0.
    pub compat: bool,
}

impl Default for Tca {
    fn default() -> Self {
        Self { components: 10, mu: 10.0, gamma: None, whiten: false, compat: false }
    }
}

impl Align for Tca {
    type View = KernelMap;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, _: &Host<'_>) -> Result<Aligned<KernelMap>> {
        let stacked = Stacked::new(source, target, self.gamma);
        let matrix = if self.compat {
            self.lower_triangle(&stacked)?
        } else {
            let factor = stacked.factor();
            let ones = Array1::ones(stacked.rows.nrows());
            let mut leading = stacked.leading(factor.view(), ones.view(), self.mu, self.components)?;
            if !self.whiten {
                for mut column in leading.columns_mut() {
                    let length = column.dot(&column).sqrt();
                    column /= length;
                }
            }
            leading
        };
        let (view, x) = stacked.map(matrix);
        let facts = vec![("components", x.ncols() as f64)];
        Ok(Aligned { lesson: Lesson { x, y: source.y.clone(), weights: None }, facts, view })
    }
}

impl Tca {
    /// Eigenvectors of the symmetric matrix that has the same lower triangle.
    fn lower_triangle(&self, stacked: &Stacked) -> Result<Array2<f64>> {
        let kernel = stacked.kernel();
        let u = kernel.dot(&stacked.balance).insert_axis(Axis(1));
        let centred = &kernel - &(kernel.sum_axis(Axis(0)) / kernel.nrows() as f64);
        let left = Array2::eye(kernel.nrows()) + u.dot(&u.t()) * self.mu;
        let (values, vectors) =
            symmetric_eigen(solve(left.view(), product(kernel.view(), centred.view()).view())?.view())?;
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|a, b| values[*b].abs().total_cmp(&values[*a].abs()));
        order.truncate(self.components);
        Ok(vectors.select(Axis(1), &order))
    }
}
