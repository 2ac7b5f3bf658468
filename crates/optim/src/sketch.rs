//! Gradients in a few numbers for each row of their longer side, by random projections that are drawn again from a seed whenever they are
//! needed.

use crate::Accumulator;
use acclimate_core::{AnyTensor, Params, Result, Rng};
use burn::tensor::{DType, Device, Tensor};

/// A random matrix $P$ with $\mathbb E[P P^\top] = I$ for the shorter side of a matrix: `down` gives $P^\top G$ or $G P$, `up` goes back.
pub(crate) struct Projection {
    /// `[shorter side, rank]`.
    p: Tensor<2>,
}

/// Which draw a projection is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw<'a> {
    pub(crate) rank: usize,
    pub(crate) seed: u64,
    /// What it is for and for which parameter.
    pub(crate) purpose: &'a str,
    pub(crate) round: u64,
}

impl Projection {
    pub(crate) fn draw(draw: Draw<'_>, [rows, columns]: [usize; 2], (dtype, device): (DType, &Device)) -> Self {
        let shape = [rows.min(columns), draw.rank];
        let mut rng = Rng::new(draw.seed, draw.purpose, draw.round);
        let numbers = rng.normal_tensor(&shape, 1.0 / (draw.rank as f64).sqrt(), dtype, device);
        Self { p: numbers.get().expect("drawn with two axes") }
    }

    /// A projection that is not drawn.
    #[cfg(test)]
    pub(crate) fn of(p: Tensor<2>) -> Self {
        Self { p }
    }

    /// The sketch of a matrix.
    pub(crate) fn down(&self, g: Tensor<2>) -> Tensor<2> {
        let [rows, columns] = g.dims();
        if rows < columns { self.p.clone().transpose().matmul(g) } else { g.matmul(self.p.clone()) }
    }

    /// The matrix of that shape that a sketch stands for.
    pub(crate) fn up(&self, sketch: Tensor<2>, [rows, columns]: [usize; 2]) -> Tensor<2> {
        if rows < columns { self.p.clone().matmul(sketch) } else { sketch.matmul(self.p.clone().transpose()) }
    }
}

/// The shape of a matrix that a sketch of `rank` is smaller than.
pub(crate) fn sketched(shape: &[usize], rank: usize) -> Option<[usize; 2]> {
    match *shape {
        [rows, columns] if rows.min(columns) > rank => Some([rows, columns]),
        _ => None,
    }
}

/// Flora's form of an [`Accumulator`]: the weighted mean of gradients over micro-batches, held as random projections of matrices.
///
/// With $P$ of independent normal numbers of variance $1/r$ for the shorter side, of length $m$, the mean $\bar G$ of matrices comes out as
/// $\bar G P P^\top$ (or $P P^\top \bar G$), whose expectation over seeds is $\bar G$ and whose mean squared distance from it is
/// $\frac{m+1}{r} \lVert \bar G \rVert^2$. $P$ is not kept: it is drawn again from its name. Name each step anew, so that the steps together
/// are not confined to one subspace, and use an optimiser that normalises, since a decompressed gradient is $\sqrt{m/r}$ times as long.
///
/// ```
/// use acclimate_core::{AnyTensor, Params};
/// use acclimate_optim::SketchAccumulator;
/// use burn::tensor::{DType, Device};
///
/// let mut gradients = Params::default();
/// gradients.insert("w", AnyTensor::from_f64s(vec![1.0; 64], &[8, 8], DType::F64, &Device::flex()));
/// let mut sum = SketchAccumulator::new(2, 0, 1);
/// for _ in 0..4 {
///     sum.add(&gradients, 0.5, 16.0);
/// }
/// assert_eq!(sum.held(), 16);
/// let (loss, mean) = sum.finish()?;
/// assert!(loss == 0.5 && mean.any("w").unwrap().shape() == [8, 8]);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// Hao, Cao and Mou, *Flora: Low-Rank Adapters Are Secretly Gradient Compressors*, ICML 2024, arXiv:2402.03293, algorithm 1.
#[derive(Debug)]
pub struct SketchAccumulator {
    rank: usize,
    seed: u64,
    step: u64,
    sketches: Accumulator,
    /// Of the gradients.
    shapes: Vec<Vec<usize>>,
    held: usize,
}

impl SketchAccumulator {
    /// For one step of a run. Tensors that are no matrix, or whose shorter side is not above `rank`, are held as they are.
    pub fn new(rank: usize, seed: u64, step: u64) -> Self {
        Self { rank, seed, step, sketches: Accumulator::default(), shapes: vec![], held: 0 }
    }

    /// Adds the mean loss of a micro-batch and its gradients, as [`Accumulator::add`].
    pub fn add(&mut self, gradients: &Params, loss: f64, weight: f64) {
        let sketches = gradients.map(|name, g| match sketched(&g.shape(), self.rank) {
            Some(shape) => self.projection(name, shape, g).down(g.get().expect("a matrix")).into(),
            None => g.clone(),
        });
        self.held = sketches.count();
        self.shapes = gradients.iter().map(|(_, g)| g.shape()).collect();
        self.sketches.add(sketches, loss, weight);
    }

    /// How many numbers are held.
    pub fn held(&self) -> usize {
        self.held
    }

    /// The mean loss and the decompressed mean gradients.
    ///
    /// # Errors
    /// As [`Accumulator::finish`].
    pub fn finish(mut self) -> Result<(f64, Params)> {
        let (loss, mean) = std::mem::take(&mut self.sketches).finish()?;
        let mut shapes = self.shapes.iter();
        let mean = mean.map(|name, sketch| {
            let shape = shapes.next().expect("as many shapes as sketches");
            match sketched(shape, self.rank) {
                Some(shape) => {
                    AnyTensor::from(self.projection(name, shape, sketch).up(sketch.get().expect("a matrix"), shape))
                }
                None => sketch.clone(),
            }
        });
        Ok((loss, mean))
    }

    fn projection(&self, name: &str, shape: [usize; 2], like: &AnyTensor) -> Projection {
        let purpose = format!("sketch/{name}");
        let draw = Draw { rank: self.rank, seed: self.seed, purpose: &purpose, round: self.step };
        Projection::draw(draw, shape, (like.dtype(), &like.device()))
    }
}
