//! Typed sets of tensors, stored under names: what the derives `Fields` and `Record` connect to.

use crate::{AnyTensor, Error, Params, Result, Role};
use burn::tensor::Tensor;
use std::collections::BTreeMap;

/// The trained tensors of one site, or the tensors a method shares over its sites, as a struct.
/// `#[derive(Fields)]` writes this for structs of `Tensor<D>` and `Option<Tensor<D>>`.
pub trait Fields: Sized {
    /// Hands over every tensor with its role.
    fn store(self, to: &mut Slots);

    /// Reads the struct back.
    ///
    /// # Errors
    /// When a tensor is missing or has another rank.
    fn load(from: &Bag<'_>) -> Result<Self>;
}

impl Fields for () {
    fn store(self, _: &mut Slots) {}

    fn load(_: &Bag<'_>) -> Result<Self> {
        Ok(())
    }
}

/// Collects the tensors of a [`Fields`] struct.
#[derive(Debug, Default)]
pub struct Slots(pub(crate) Vec<(&'static str, Role, AnyTensor)>);

impl Slots {
    /// Adds one field.
    pub fn put(&mut self, field: &'static str, role: Role, tensor: impl Into<AnyTensor>) {
        self.0.push((field, role, tensor.into()));
    }
}

/// A view of named tensors below one prefix.
#[derive(Debug)]
pub struct Bag<'a> {
    pub(crate) params: &'a Params,
    pub(crate) prefix: String,
}

impl<'a> Bag<'a> {
    /// The tensors whose names are `prefix.field`.
    pub fn new(params: &'a Params, prefix: impl Into<String>) -> Self {
        Self { params, prefix: prefix.into() }
    }

    /// The tensor of one field.
    ///
    /// # Errors
    /// When it is missing or has another rank.
    pub fn get<const D: usize>(&self, field: &str) -> Result<Tensor<D>> {
        self.params.get(&format!("{}.{field}", self.prefix))
    }

    /// The tensor of a field that may be absent.
    ///
    /// # Errors
    /// When it has another rank.
    pub fn opt<const D: usize>(&self, field: &str) -> Result<Option<Tensor<D>>> {
        let name = format!("{}.{field}", self.prefix);
        if self.params.has(&name) { self.params.get(&name).map(Some) } else { Ok(None) }
    }
}

/// The state of an optimiser or test-time method: saved exactly, resumed exactly, edited when parameters change their size.
/// `#[derive(Record)]` writes this for structs of `Params`, `f64`, `u64`, `bool` and `Vec<f64>`.
pub trait Record: Sized {
    /// Hands over every field.
    fn save(&self, to: &mut RecordWriter);

    /// Reads the struct back.
    ///
    /// # Errors
    /// When a field is missing.
    fn load(from: &mut RecordReader) -> Result<Self>;

    /// Every field that holds one tensor per parameter, under the parameters' names and of their shapes. A field that an option switches off
    /// is empty.
    fn slots_mut(&mut self) -> Vec<&mut Params>;

    /// Every field whose tensors stand under the parameters' names and have shapes of their own. The one of a parameter that changes its
    /// size is dropped, and the method begins it anew.
    fn own_mut(&mut self) -> Vec<&mut Params> {
        vec![]
    }
}

/// Collects a [`Record`]: tensors under `field/parameter`, numbers by their bits.
#[derive(Debug, Default)]
pub struct RecordWriter {
    /// Tensors by `field/parameter`.
    pub tensors: Params,
    /// Numbers as the hexadecimal digits of their bits: text files keep them exactly.
    pub numbers: BTreeMap<String, String>,
}

impl RecordWriter {
    /// Adds a parameter-like field.
    pub fn params(&mut self, field: &str, params: &Params) {
        for (name, tensor) in params.iter() {
            self.tensors.insert(format!("{field}/{name}"), tensor.clone());
        }
        self.numbers.insert(format!("{field}/"), params.names().collect::<Vec<_>>().join("\n"));
    }

    /// Adds a number.
    pub fn f64(&mut self, field: &str, value: f64) {
        self.u64(field, value.to_bits());
    }

    /// Adds a count.
    pub fn u64(&mut self, field: &str, value: u64) {
        self.numbers.insert(field.to_owned(), format!("{value:016x}"));
    }

    /// Adds a switch.
    pub fn bool(&mut self, field: &str, value: bool) {
        self.u64(field, u64::from(value));
    }

    /// Adds a list of numbers.
    pub fn f64s(&mut self, field: &str, values: &[f64]) {
        let text: Vec<String> = values.iter().map(|x| format!("{:016x}", x.to_bits())).collect();
        self.numbers.insert(field.to_owned(), text.join(" "));
    }

    /// Adds all of another record under names that begin with `prefix`.
    pub fn join(&mut self, prefix: &str, other: Self) {
        for (name, tensor) in other.tensors.iter() {
            self.tensors.insert(format!("{prefix}{name}"), tensor.clone());
        }
        self.numbers.extend(other.numbers.into_iter().map(|(name, number)| (format!("{prefix}{name}"), number)));
    }
}

/// Gives back what a [`RecordWriter`] took.
#[derive(Debug)]
pub struct RecordReader {
    /// Tensors by `field/parameter`.
    pub tensors: Params,
    /// Numbers as hexadecimal bits.
    pub numbers: BTreeMap<String, String>,
}

impl From<RecordWriter> for RecordReader {
    fn from(writer: RecordWriter) -> Self {
        Self { tensors: writer.tensors, numbers: writer.numbers }
    }
}

impl RecordReader {
    /// The part that [`RecordWriter::join`] added under `prefix`.
    pub fn part(&self, prefix: &str) -> Self {
        let mut tensors = Params::default();
        for (name, tensor) in self.tensors.iter() {
            if let Some(name) = name.strip_prefix(prefix) {
                tensors.insert(name, tensor.clone());
            }
        }
        let numbers =
            self.numbers.iter().filter_map(|(name, x)| Some((name.strip_prefix(prefix)?.to_owned(), x.clone())));
        Self { tensors, numbers: numbers.collect() }
    }

    fn text(&self, field: &str) -> Result<&str> {
        let found = self.numbers.get(field).map(String::as_str);
        found.ok_or_else(|| Error::unknown("state field", field, self.numbers.keys().map(String::as_str)))
    }

    /// Reads a parameter-like field.
    ///
    /// # Errors
    /// When it is missing.
    pub fn params(&mut self, field: &str) -> Result<Params> {
        let names = self.text(&format!("{field}/"))?;
        let mut params = Params::default();
        for name in names.split('\n').filter(|name| !name.is_empty()) {
            let key = format!("{field}/{name}");
            let tensor =
                self.tensors.any(&key).ok_or_else(|| Error::unknown("state tensor", &key, self.tensors.names()))?;
            params.insert(name, tensor.clone());
        }
        Ok(params)
    }

    /// Reads a number.
    ///
    /// # Errors
    /// When it is missing or not hexadecimal.
    pub fn f64(&mut self, field: &str) -> Result<f64> {
        Ok(f64::from_bits(self.u64(field)?))
    }

    /// Reads a count.
    ///
    /// # Errors
    /// When it is missing or not hexadecimal.
    pub fn u64(&mut self, field: &str) -> Result<u64> {
        bits(field, self.text(field)?)
    }

    /// Reads a switch.
    ///
    /// # Errors
    /// When it is missing or not hexadecimal.
    pub fn bool(&mut self, field: &str) -> Result<bool> {
        Ok(self.u64(field)? != 0)
    }

    /// Reads a list of numbers.
    ///
    /// # Errors
    /// When it is missing or not hexadecimal.
    pub fn f64s(&mut self, field: &str) -> Result<Vec<f64>> {
        self.text(field)?.split_whitespace().map(|word| Ok(f64::from_bits(bits(field, word)?))).collect()
    }
}

fn bits(field: &str, text: &str) -> Result<u64> {
    u64::from_str_radix(text, 16)
        .map_err(|_| Error::Other(format!("state field `{field}` is not a number's bits: `{text}`")))
}
