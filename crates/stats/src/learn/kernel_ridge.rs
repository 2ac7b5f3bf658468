use super::kernel::{Kernel, Likeness, scale};
use super::table::{Table, positive, queries, restored, saved};
use super::{Fitted, Labels, Learner};
use crate::linalg::solve_positive;
use acclimate_core::Result;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

/// Ridge regression on a kernel: `f(x) = Σ αᵢ k(xᵢ, x)` of least `Σ wᵢ (yᵢ − f(xᵢ))² + penalty · αᵀKα`, without a constant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KernelRidge {
    /// The kernel.
    pub kernel: Kernel,
    /// The price of the squared norm of `f`.
    pub penalty: f64,
    /// The width of the kernel; none is one over the number of features times the variance of all numbers.
    pub gamma: Option<f64>,
}

impl Default for KernelRidge {
    fn default() -> Self {
        Self { kernel: Kernel::Rbf, penalty: 1.0, gamma: None }
    }
}

const NAME: &str = "kernel_ridge";

impl Learner for KernelRidge {
    fn fit(&self, x: ArrayView2<'_, f64>, y: &Labels, weights: Option<ArrayView1<'_, f64>>) -> Result<Box<dyn Fitted>> {
        positive(NAME, "penalty", self.penalty)?;
        if let Some(gamma) = self.gamma {
            positive(NAME, "gamma", gamma)?;
        }
        let table = Table::new(NAME, x, y, weights)?;
        let kernel = Likeness { kernel: self.kernel, gamma: self.gamma.unwrap_or_else(|| scale(x)) };
        // Under roots of weights on both sides the matrix stays symmetric, and rows of hardly any weight do no harm.
        let root = table.weights.mapv(f64::sqrt);
        let column = root.view().insert_axis(Axis(1));
        let mut system = kernel.values(table.x.view(), table.x.view()) * &root * column;
        system.diag_mut().mapv_inplace(|value| value + self.penalty);
        let right = (&ArrayView1::from(table.y.numbers(NAME)?) * &root).insert_axis(Axis(1));
        let pull = solve_positive(system.view(), right.view())?.column(0).to_owned() * root;
        Ok(Box::new(FittedKernelRidge { kernel, rows: table.x, pull }))
    }

    fn restore(&self, value: serde_json::Value) -> Result<Box<dyn Fitted>> {
        Ok(Box::new(restored::<FittedKernelRidge>(NAME, value)?))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct FittedKernelRidge {
    kernel: Likeness,
    rows: Array2<f64>,
    pull: Array1<f64>,
}

impl Fitted for FittedKernelRidge {
    fn answers(&self, x: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        queries(NAME, x, self.rows.ncols())?;
        Ok(self.kernel.values(x, self.rows.view()).dot(&self.pull).insert_axis(Axis(1)))
    }

    fn save(&self) -> serde_json::Value {
        saved(self)
    }
}
