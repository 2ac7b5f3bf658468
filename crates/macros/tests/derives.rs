//! The derives compiled and run against stand-ins for the types of `acclimate_core`, which itself depends on this crate.

extern crate self as acclimate_core;

use acclimate_macros::{Fields, Method, Record};

type Result<T> = std::result::Result<T, Error>;

#[derive(Debug)]
enum Error {
    Param { method: &'static str, param: &'static str, value: String, why: String },
    Other(String),
}

#[derive(Debug, PartialEq)]
enum Need {
    Gradients,
}

#[derive(Debug, PartialEq)]
enum Promise {
    LowRank,
}

#[derive(Debug, PartialEq)]
struct ParamInfo {
    name: &'static str,
    ty: &'static str,
    doc: &'static str,
    min: Option<f64>,
    max: Option<f64>,
    above: bool,
}

#[derive(Debug, PartialEq)]
struct Card {
    name: &'static str,
    title: &'static str,
    catalogue: &'static [u16],
    paper: &'static str,
    year: u16,
    targets: &'static [&'static str],
    doc: &'static str,
    params: &'static [ParamInfo],
    needs: &'static [Need],
    promises: &'static [Promise],
    waivers: &'static [(&'static str, &'static str)],
    file: &'static str,
    line: u32,
}

trait Method {
    const CARD: Card;
    const CASES: &'static [&'static str];
    fn check(&self) -> Result<()>;
}

const LINE: u32 = line!() + 19;
/// Adds a product of two factors
/// to the frozen weight.
///
/// # Mathematics
/// $W + BA$
/// # When to use
/// Often.
/// # Differences
/// None.
/// # Example
/// ```
/// # fn hidden() {}
/// ```
/// # References
/// Hu et al., 2021.
#[derive(Clone, Method)]
#[method(name = "lora", title = "LoRA", catalogue = [160], paper = "arxiv:2106.09685", year = 2021)]
#[method(needs(gradients), promises(low_rank), targets("linear"), waive(a_check = "a reason"), validate = Self::fits)]
struct Lora {
    /// Rank of
    /// the update.
    #[method(min = 1)]
    rank: usize,
    /// Scale.
    #[method(above = 0.0)]
    alpha: Option<f64>,
    /// Share dropped.
    #[method(min = 0.0, max = 0.1)]
    dropout: f32,
    /// Not bounded.
    shift: f64,
    /// Share kept.
    #[method(above = -1, max = 1)]
    r#type: f64,
}

impl Lora {
    fn fits(&self) -> Result<()> {
        if self.rank > 100 { Err(Error::Other("too large".to_owned())) } else { Ok(()) }
    }
}

const GOOD: Lora = Lora { rank: 1, alpha: None, dropout: 0.1, shift: f64::INFINITY, r#type: 1.0 };

#[test]
fn the_card_describes_the_struct() {
    let card = Lora::CARD;
    assert_eq!((card.name, card.title, card.catalogue, card.year), ("lora", "LoRA", &[160][..], 2021));
    assert_eq!((card.paper, card.file, card.line), ("arxiv:2106.09685", file!(), LINE));
    assert_eq!((card.needs, card.promises), (&[Need::Gradients][..], &[Promise::LowRank][..]));
    assert_eq!(card.targets, ["linear"]);
    assert_eq!(card.waivers, [("a_check", "a reason")]);
    assert_eq!(Lora::CASES, [""]);
    assert!(card.doc.starts_with("Adds a product of two factors\nto the frozen weight.\n\n# Mathematics\n$W + BA$\n"));
    let rank =
        ParamInfo { name: "rank", ty: "usize", doc: "Rank of\nthe update.", min: Some(1.0), max: None, above: false };
    let alpha = ParamInfo { name: "alpha", ty: "Option<f64>", doc: "Scale.", min: Some(0.0), max: None, above: true };
    assert_eq!(card.params[..2], [rank, alpha]);
    assert_eq!((card.params[4].name, card.params[4].min, card.params[4].max), ("type", Some(-1.0), Some(1.0)));
}

#[test]
fn values_outside_their_range_are_refused() {
    GOOD.check().unwrap();
    Lora { alpha: Some(0.5), dropout: 0.0, ..GOOD }.check().unwrap();
    let refused = |config: Lora| match config.check().unwrap_err() {
        Error::Param { method, param, value, why } => format!("{method}: `{param}` {why}, got `{value}`"),
        Error::Other(text) => text,
    };
    assert_eq!(refused(Lora { rank: 0, ..GOOD }), "lora: `rank` must be at least 1, got `0`");
    assert_eq!(refused(Lora { alpha: Some(0.0), ..GOOD }), "lora: `alpha` must be above 0, got `0`");
    assert_eq!(refused(Lora { alpha: Some(f64::NAN), ..GOOD }), "lora: `alpha` must be above 0, got `NaN`");
    assert_eq!(refused(Lora { dropout: 0.2, ..GOOD }), "lora: `dropout` must be between 0 and 0.1, got `0.2`");
    assert_eq!(refused(Lora { dropout: f32::NAN, ..GOOD }), "lora: `dropout` must be between 0 and 0.1, got `NaN`");
    assert_eq!(refused(Lora { shift: f64::NAN, ..GOOD }), "lora: `shift` must be a number, got `NaN`");
    assert_eq!(refused(Lora { r#type: -1.0, ..GOOD }), "lora: `type` must be above -1 and at most 1, got `-1`");
    assert_eq!(refused(Lora { rank: 101, ..GOOD }), "too large");
}

#[derive(Clone, Debug, PartialEq)]
struct Tensor<const D: usize>(f64);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    InputFactor,
    Other,
}

#[derive(Default)]
struct Slots(Vec<(&'static str, Role, f64)>);

impl Slots {
    fn put<const D: usize>(&mut self, field: &'static str, role: Role, tensor: Tensor<D>) {
        self.0.push((field, role, tensor.0));
    }
}

struct Bag<'a>(&'a Slots);

impl Bag<'_> {
    fn get<const D: usize>(&self, field: &str) -> Result<Tensor<D>> {
        self.opt(field)?.ok_or_else(|| Error::Other(format!("no `{field}`")))
    }

    fn opt<const D: usize>(&self, field: &str) -> Result<Option<Tensor<D>>> {
        Ok(self.0.0.iter().find(|slot| slot.0 == field).map(|slot| Tensor(slot.2)))
    }
}

trait Fields: Sized {
    fn store(self, to: &mut Slots);
    fn load(from: &Bag<'_>) -> Result<Self>;
}

#[derive(Clone, Debug, PartialEq, Fields)]
struct Factors {
    #[role(input_factor)]
    a: Tensor<2>,
    bias: Option<Tensor<1>>,
    gate: Option<Tensor<1>>,
}

#[derive(Fields)]
struct Nothing;

#[test]
fn fields_come_back_as_they_were_stored() {
    let factors = Factors { a: Tensor(1.0), bias: None, gate: Some(Tensor(2.0)) };
    let mut slots = Slots::default();
    factors.clone().store(&mut slots);
    assert_eq!(slots.0, [("a", Role::InputFactor, 1.0), ("gate", Role::Other, 2.0)]);
    assert_eq!(Factors::load(&Bag(&slots)).unwrap(), factors);
    Nothing.store(&mut slots);
    let Nothing = Nothing::load(&Bag(&slots)).unwrap();
    let empty = Slots::default();
    assert!(Factors::load(&Bag(&empty)).is_err());
}

#[derive(Clone, Debug, PartialEq)]
struct Params(Vec<f64>);

#[derive(Default)]
struct RecordWriter(Vec<(String, Vec<f64>)>);

impl RecordWriter {
    fn params(&mut self, name: &str, params: &Params) {
        self.f64s(name, &params.0);
    }

    fn f64(&mut self, name: &str, value: f64) {
        self.f64s(name, &[value]);
    }

    fn u64(&mut self, name: &str, value: u64) {
        self.f64(name, value as f64);
    }

    fn bool(&mut self, name: &str, value: bool) {
        self.u64(name, value.into());
    }

    fn f64s(&mut self, name: &str, values: &[f64]) {
        self.0.push((name.to_owned(), values.to_vec()));
    }
}

struct RecordReader(RecordWriter);

impl RecordReader {
    fn params(&mut self, name: &str) -> Result<Params> {
        self.f64s(name).map(Params)
    }

    fn f64(&mut self, name: &str) -> Result<f64> {
        Ok(self.f64s(name)?[0])
    }

    fn u64(&mut self, name: &str) -> Result<u64> {
        Ok(self.f64(name)? as u64)
    }

    fn bool(&mut self, name: &str) -> Result<bool> {
        Ok(self.u64(name)? == 1)
    }

    fn f64s(&mut self, name: &str) -> Result<Vec<f64>> {
        let found = self.0.0.iter().find(|entry| entry.0 == name);
        found.map(|entry| entry.1.clone()).ok_or_else(|| Error::Other(format!("no `{name}`")))
    }
}

trait Record: Sized {
    fn save(&self, to: &mut RecordWriter);
    fn load(from: &mut RecordReader) -> Result<Self>;
    fn slots_mut(&mut self) -> Vec<&mut Params>;
}

#[derive(Clone, Debug, PartialEq, Record)]
struct State {
    m: Params,
    d: f64,
    step: u64,
    on: bool,
    past: Vec<f64>,
    v: Params,
}

#[derive(Record)]
struct Stateless {}

#[test]
fn states_come_back_as_they_were_saved() {
    let mut state =
        State { m: Params(vec![1.0]), d: 0.5, step: 7, on: true, past: vec![3.0, 4.0], v: Params(vec![2.0]) };
    let mut writer = RecordWriter::default();
    state.save(&mut writer);
    assert_eq!(State::load(&mut RecordReader(writer)).unwrap(), state);
    assert_eq!(state.slots_mut(), [&mut Params(vec![1.0]), &mut Params(vec![2.0])]);

    let mut writer = RecordWriter::default();
    Stateless {}.save(&mut writer);
    assert!(writer.0.is_empty());
    assert!(State::load(&mut RecordReader(writer)).is_err());
    assert!(Stateless::load(&mut RecordReader(RecordWriter::default())).unwrap().slots_mut().is_empty());
}
