//! Ordered named tensors of any rank.

use crate::{Error, Result};
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// A float tensor whose rank is known only at run time.
///
/// Burn carries the rank in the type, but the value inside knows its own shape. So one `Tensor<1>` can hold a value of any
/// rank: element-wise operations, sums, gradients and devices work on it, and no number is copied. Only this wrapper sees such
/// a mislabelled tensor; [`AnyTensor::get`] gives it back under its true rank, checked.
#[derive(Clone, Debug)]
pub struct AnyTensor(Tensor<1>);

impl<const D: usize> From<Tensor<D>> for AnyTensor {
    fn from(tensor: Tensor<D>) -> Self {
        Self(Tensor::from_dispatch(tensor.into_dispatch()))
    }
}

impl AnyTensor {
    /// The tensor under its true rank, or nothing when `D` is another rank.
    pub fn get<const D: usize>(&self) -> Option<Tensor<D>> {
        (self.0.shape().num_dims() == D).then(|| Tensor::from_dispatch(self.0.clone().into_dispatch()))
    }

    /// Sizes of all axes.
    pub fn shape(&self) -> Vec<usize> {
        self.0.shape().as_slice().to_vec()
    }

    /// How many numbers it holds.
    pub fn count(&self) -> usize {
        self.0.shape().num_elements()
    }

    /// The type of the numbers.
    pub fn dtype(&self) -> DType {
        self.0.dtype()
    }

    /// Where the numbers live.
    pub fn device(&self) -> Device {
        self.0.device()
    }

    /// For element-wise arithmetic and `sum` only, whatever the rank.
    pub fn elements(&self) -> Tensor<1> {
        self.0.clone()
    }

    /// As [`AnyTensor::elements`], without a second handle on the buffer.
    pub fn into_elements(self) -> Tensor<1> {
        self.0
    }

    /// The inverse of [`AnyTensor::elements`].
    pub fn from_elements(elements: Tensor<1>) -> Self {
        Self(elements)
    }

    /// The same numbers in row-major order under another shape.
    ///
    /// # Panics
    /// As [`AnyTensor::from_f64s`].
    pub fn reshaped(&self, shape: &[usize]) -> Self {
        Self::from_flat(self.0.clone().reshape([self.count()]), shape)
    }

    /// SHA-256 of its shape, type and numbers, as 64 hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        let mut print = Fingerprint::default();
        print.tensor("", &self.shape(), self.dtype());
        print.numbers(self.0.clone().into_data().as_bytes());
        print.finish()
    }

    /// Zeros of the same shape, type and device.
    pub fn zeros_like(&self) -> Self {
        Self(self.0.zeros_like())
    }

    /// A shape alone: every number is none, and all together take the memory of one.
    ///
    /// # Panics
    /// As [`AnyTensor::from_f64s`].
    pub fn outline(shape: &[usize], dtype: DType, device: &Device) -> Self {
        let none = Tensor::<1>::full([1], f64::NAN, (device, dtype));
        match *shape {
            [] => none.into(),
            [a] => none.expand([a]).into(),
            [a, b] => none.reshape([1, 1]).expand([a, b]).into(),
            [a, b, c] => none.reshape([1, 1, 1]).expand([a, b, c]).into(),
            [a, b, c, d] => none.reshape([1, 1, 1, 1]).expand([a, b, c, d]).into(),
            [a, b, c, d, e] => none.reshape([1, 1, 1, 1, 1]).expand([a, b, c, d, e]).into(),
            _ => panic!("tensors of rank 1 to 5 are supported, got shape {shape:?}"),
        }
    }

    /// Zeros of a shape.
    pub fn zeros(shape: &[usize], dtype: DType, device: &Device) -> Self {
        Self::from_f64s(vec![0.0; shape.iter().product()], shape, dtype, device)
    }

    /// Host numbers under a shape of rank 0 to 5 (rank 0 becomes one number of rank 1).
    ///
    /// # Panics
    /// When the shape does not hold exactly these numbers or has more than five axes: callers check shapes from files first.
    pub fn from_f64s(values: Vec<f64>, shape: &[usize], dtype: DType, device: &Device) -> Self {
        let data = match dtype {
            DType::F64 => TensorData::new(values, [shape.iter().product::<usize>()]),
            _ => TensorData::new(
                values.iter().map(|&x| x as f32).collect::<Vec<f32>>(),
                [shape.iter().product::<usize>()],
            ),
        };
        Self::from_flat(Tensor::from_data(data, (device, dtype)), shape)
    }

    /// Host numbers in single precision, without a detour over f64.
    ///
    /// # Panics
    /// As [`AnyTensor::from_f64s`].
    pub fn from_f32s(values: Vec<f32>, shape: &[usize], device: &Device) -> Self {
        let data = TensorData::new(values, [shape.iter().product::<usize>()]);
        Self::from_flat(Tensor::from_data(data, (device, DType::F32)), shape)
    }

    fn from_flat(flat: Tensor<1>, shape: &[usize]) -> Self {
        match *shape {
            [] | [_] => flat.into(),
            [a, b] => flat.reshape([a, b]).into(),
            [a, b, c] => flat.reshape([a, b, c]).into(),
            [a, b, c, d] => flat.reshape([a, b, c, d]).into(),
            [a, b, c, d, e] => flat.reshape([a, b, c, d, e]).into(),
            _ => panic!("tensors of rank 1 to 5 are supported, got shape {shape:?}"),
        }
    }

    /// The numbers on the host, in row-major order.
    pub fn to_f64s(&self) -> Vec<f64> {
        self.0.to_data().convert::<f64>().try_into_vec_as::<f64>().expect("converted to f64 the line before")
    }

    /// The numbers on the host in single precision, in row-major order.
    pub fn to_f32s(&self) -> Vec<f32> {
        self.0.to_data().convert::<f32>().try_into_vec_as::<f32>().expect("converted to f32 the line before")
    }

    /// The same numbers under another type.
    pub fn cast(&self, dtype: DType) -> Self {
        Self(self.0.clone().cast(dtype))
    }

    /// A leaf of a gradient tape with the same numbers.
    pub fn tracked(&self) -> Self {
        Self(self.0.clone().autodiff().require_grad())
    }

    /// The gradient of a tracked leaf, zero where the loss does not depend on it.
    pub fn gradient(&self, gradients: &mut Gradients) -> Self {
        Self(self.0.grad_remove(gradients).unwrap_or_else(|| self.0.zeros_like().inner()))
    }
}

/// Named tensors in a fixed order.
#[derive(Clone, Debug, Default)]
pub struct Params {
    entries: Vec<(String, AnyTensor)>,
    index: HashMap<String, usize>,
}

impl Params {
    /// Adds a tensor, or replaces the one of that name in its place.
    pub fn insert(&mut self, name: impl Into<String>, tensor: impl Into<AnyTensor>) {
        let (name, tensor) = (name.into(), tensor.into());
        match self.index.get(&name) {
            Some(&at) => self.entries[at].1 = tensor,
            None => {
                self.index.insert(name.clone(), self.entries.len());
                self.entries.push((name, tensor));
            }
        }
    }

    /// Takes a tensor out of its place, which holds no number until another is inserted there: whoever has it may be the only owner of
    /// its buffer, and write over it.
    pub fn take(&mut self, name: &str) -> Option<AnyTensor> {
        let at = *self.index.get(name)?;
        let tensor = &mut self.entries[at].1;
        let empty = Tensor::<1>::empty([0], (&tensor.device(), tensor.dtype()));
        Some(std::mem::replace(tensor, empty.into()))
    }

    /// The tensor of that name, if there is one.
    pub fn any(&self, name: &str) -> Option<&AnyTensor> {
        self.index.get(name).map(|&at| &self.entries[at].1)
    }

    /// The tensor of that name and rank.
    ///
    /// # Errors
    /// When the name is missing (with the nearest names) or the rank is another.
    pub fn get<const D: usize>(&self, name: &str) -> Result<Tensor<D>> {
        let tensor = self.any(name).ok_or_else(|| Error::unknown("tensor", name, self.names()))?;
        tensor.get().ok_or_else(|| Error::Shape {
            what: format!("tensor `{name}`"),
            expected: format!("of rank {D}"),
            got: tensor.shape(),
        })
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// Names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(name, _)| name.as_str())
    }

    /// Names and tensors in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &AnyTensor)> {
        self.entries.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The same names in the same order, every tensor replaced.
    pub fn map(&self, mut f: impl FnMut(&str, &AnyTensor) -> AnyTensor) -> Self {
        let entries = self.entries.iter().map(|(name, tensor)| (name.clone(), f(name, tensor))).collect();
        Self { entries, index: self.index.clone() }
    }

    /// Element-wise work on two sets with the same names in the same order.
    ///
    /// # Panics
    /// When the sets differ in length: both belong to one patch.
    pub fn zip(&self, other: &Self, mut f: impl FnMut(Tensor<1>, Tensor<1>) -> Tensor<1>) -> Self {
        assert_eq!(self.len(), other.len(), "parameter sets of one patch have one length");
        let mut others = other.entries.iter();
        self.map(|_, a| {
            let (_, b) = others.next().expect("lengths are equal");
            AnyTensor::from_elements(f(a.elements(), b.elements()))
        })
    }

    /// Zeros with the same names and shapes.
    pub fn zeros_like(&self) -> Self {
        self.map(|_, tensor| tensor.zeros_like())
    }

    /// How many numbers all tensors hold.
    pub fn count(&self) -> usize {
        self.entries.iter().map(|(_, tensor)| tensor.count()).sum()
    }

    /// `Σ f(a, b)` over all tensors in f64, read from the device once.
    pub fn reduce(&self, other: &Self, mut f: impl FnMut(Tensor<1>, Tensor<1>) -> Tensor<1>) -> f64 {
        total(
            self.entries
                .iter()
                .zip(&other.entries)
                .map(|((_, a), (_, b))| f(a.elements(), b.elements()).sum())
                .collect(),
        )
    }

    /// The Euclidean norm over all tensors, in f64.
    pub fn norm(&self) -> f64 {
        self.reduce(self, |a, _| wide(a).square()).sqrt()
    }

    /// Whether every number is finite.
    pub fn is_finite(&self) -> bool {
        total(self.entries.iter().map(|(_, tensor)| tensor.elements().abs().sum()).collect()).is_finite()
    }

    /// Every tensor as a fresh leaf of a gradient tape.
    pub fn tracked(&self) -> Self {
        self.map(|_, tensor| tensor.tracked())
    }

    /// The gradients of a tracked set, zero where the loss does not depend on a tensor.
    pub fn gradients(&self, gradients: &mut Gradients) -> Self {
        self.map(|_, tensor| tensor.gradient(gradients))
    }

    /// The same set under another number type.
    pub fn cast(&self, dtype: DType) -> Self {
        self.map(|_, tensor| tensor.cast(dtype))
    }

    /// SHA-256 over names, shapes and numbers, as 64 hexadecimal digits. Order does not matter.
    pub fn fingerprint(&self) -> String {
        let mut names: Vec<&str> = self.names().collect();
        names.sort_unstable();
        let mut print = Fingerprint::default();
        for name in names {
            let tensor = &self.entries[self.index[name]].1;
            print.tensor(name, &tensor.shape(), tensor.dtype());
            print.numbers(tensor.elements().into_data().as_bytes());
        }
        print.finish()
    }
}

/// A fingerprint in the making: tensors sorted by name, the numbers of each after its name.
#[derive(Default)]
pub(crate) struct Fingerprint(Sha256);

impl Fingerprint {
    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize], dtype: DType) {
        self.0.update(name.as_bytes());
        self.0.update(format!("{shape:?}{dtype:?}").as_bytes());
    }

    /// The tensor's numbers, or some of them.
    pub(crate) fn numbers(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// 64 hexadecimal digits.
    pub(crate) fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A tensor as f64: sums of squares overflow and lose digits in f32, so reductions of optimisers run in f64.
pub fn wide(tensor: Tensor<1>) -> Tensor<1> {
    tensor.cast(DType::F64)
}

/// The total of one-number tensors, fetched from the device in a single read.
pub fn total(parts: Vec<Tensor<1>>) -> f64 {
    let [sum] = totals([parts]);
    sum
}

/// The totals of several lists of one-number tensors, fetched from the device in a single read.
pub fn totals<const N: usize>(lists: [Vec<Tensor<1>>; N]) -> [f64; N] {
    let lengths = lists.each_ref().map(Vec::len);
    let parts: Vec<Tensor<1>> = lists.into_iter().flatten().map(wide).collect();
    if parts.is_empty() {
        return [0.0; N];
    }
    let numbers = Tensor::cat(parts, 0).to_data().try_into_vec_as::<f64>().expect("cast to f64");
    let mut numbers = numbers.into_iter();
    lengths.map(|length| numbers.by_ref().take(length).sum())
}
