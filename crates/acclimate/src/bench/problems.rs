//! The problems that optimisers are held on: real rows, a frozen or a fresh model, and what of it is trained.

use super::settings;
use super::small::{Columns, Matrix};
use crate::dataset::{self, Loaded, fit_task};
use crate::encode::Encoded;
use crate::quickstart;
use crate::recipe::{Recipe, TaskKind};
use crate::tasks::{Prepared, Task, TaskSpec};
use crate::train;
use acclimate_core::{Error, HeadStart, Model, Patch, Result, Rng};
use acclimate_data::{self as data, Assets, Examples, Idx, Labels, Source, split};
use acclimate_models::{Base, Norm, Resnet, ResnetConfig};
use burn::tensor::{DType, Device};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The files of the fashion set that are read: the smaller part is enough.
const FASHION: [&str; 2] = ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"];

/// What the rows and the network of the quickstart go by.
const DIGITS: &str = "digits";

/// A problem as the list has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// Its name.
    pub name: String,
    /// Whether defaults may be found on it.
    pub set: Set,
    /// What is trained.
    pub form: Form,
    /// The rows: a name as in recipes.
    pub data: String,
    /// The frozen model, where there is one.
    #[serde(default)]
    model: String,
    /// The column that is predicted, if not the one the rows are known for.
    target: Option<String>,
    /// Cuts that turn a number into classes.
    #[serde(default)]
    cuts: Vec<f64>,
    /// How many rows of each kind.
    pub rows: Rows,
    /// Rows per step.
    pub batch: usize,
    /// Passes over the training rows.
    pub epochs: usize,
    /// Longest text in tokens.
    max_length: Option<usize>,
    /// Side of the squares that images are averaged over.
    #[serde(default = "one")]
    pool: usize,
    /// Channels of the stages of a network from scratch.
    #[serde(default)]
    widths: Vec<usize>,
    /// Settings of LoRA that are not as they come.
    #[serde(default)]
    adapter: toml::Table,
    /// What lets the batch grow: the section `batch` of a recipe.
    #[serde(default)]
    growth: toml::Table,
}

/// What may be changed about a problem of the list.
const CHANGEABLE: [&str; 4] = ["adapter", "batch", "epochs", "growth"];

impl Problem {
    /// The problem with some keys changed, which its name tells: a text such as `epochs=5 adapter={rank=1}`.
    ///
    /// # Errors
    /// A key that is not one of `adapter`, `batch`, `epochs` and `growth`, or a value that does not do.
    ///
    /// # Example
    /// ```
    /// use acclimate::bench::problems;
    ///
    /// let shorter = problems()?[0].with("epochs=5")?;
    /// assert_eq!((shorter.name.as_str(), shorter.epochs), ("digits, table, epochs=5", 5));
    /// # Ok::<(), acclimate_core::Error>(())
    /// ```
    pub fn with(&self, changes: &str) -> Result<Self> {
        let wrong = |why: &str| Error::Other(format!("`{changes}` does not do for a problem: {why}"));
        let changed = settings(changes.split_whitespace())?;
        if let Some(key) = changed.keys().find(|key| !CHANGEABLE.contains(&key.as_str())) {
            return Err(Error::unknown("key of a problem that can be changed", key, CHANGEABLE));
        }
        let mut table = toml::Table::try_from(self).map_err(|e| Error::Other(e.to_string()))?;
        table.extend(changed);
        let problem: Self = table.try_into().map_err(|e: toml::de::Error| wrong(e.message()))?;
        if !problem.adapter.is_empty() && !matches!(problem.form, Form::Patch | Form::Factors) {
            return Err(wrong(&format!("`{}` has no LoRA", self.name)));
        }
        problem.recipe()?;
        Ok(Self { name: format!("{}, {changes}", self.name), ..problem })
    }

    /// What a recipe says of it.
    pub(super) fn recipe(&self) -> Result<Recipe> {
        let number = |n: usize| toml::Value::Integer(n as i64);
        let keys = [
            ("batch_size", number(self.batch)),
            ("epochs", number(self.epochs)),
            ("batch", self.growth.clone().into()),
        ];
        Recipe::from_table(&keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }
}

fn one() -> usize {
    1
}

/// Which half of the list a problem is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Set {
    /// Defaults may be found on it.
    Open,
    /// It judges what was found on the others.
    Sealed,
}

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Logistic regression on the columns of a table.
    Table,
    /// Logistic regression on what a frozen model makes of a text.
    Features,
    /// LoRA on a frozen model, and a new head.
    Patch,
    /// All of a small residual network, from random weights.
    Scratch,
    /// LoRA on a matrix of zeros, trained on some entries of a table and judged on others.
    Factors,
}

/// How many rows are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rows {
    /// To train on.
    pub train: usize,
    /// To choose by.
    pub valid: usize,
    /// To report on.
    pub test: usize,
}

/// All problems, in the order of the list.
///
/// # Errors
/// None: the list in this crate is checked by its tests.
///
/// # Example
/// ```
/// use acclimate::bench::{Set, problems};
///
/// let sealed = problems()?.into_iter().filter(|problem| problem.set == Set::Sealed);
/// assert_eq!(sealed.count(), 8);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
pub fn problems() -> Result<Vec<Problem>> {
    #[derive(Deserialize)]
    struct List {
        task: Vec<Problem>,
    }
    let list: List = toml::from_str(include_str!("../../assets/optim_tasks.toml"))
        .map_err(|e| Error::format("optim_tasks.toml", e.to_string()))?;
    Ok(list.task)
}

/// A problem whose rows are at hand.
pub(super) struct Opened {
    pub(super) problem: Problem,
    host: Host,
    spec: TaskSpec,
    data: Prepared,
}

/// What the rows are fed to.
enum Host {
    Frozen(Arc<dyn Model>),
    /// A network from scratch.
    Fresh(ResnetConfig),
}

/// One draw of a problem: its rows divided, and where training begins.
pub(super) struct Draw {
    pub(super) model: Arc<dyn Model>,
    pub(super) task: Box<dyn Task>,
    pub(super) data: Prepared,
    pub(super) train: Vec<usize>,
    pub(super) valid: Vec<usize>,
    pub(super) test: Vec<usize>,
    pub(super) start: Patch,
}

impl Opened {
    /// Reads what a problem names; what is absent is fetched.
    pub(super) fn new(problem: Problem, assets: &Assets) -> Result<Self> {
        let (data, target, cuts) = (problem.data.clone(), problem.target.clone(), problem.cuts.clone());
        let recipe = Recipe { data, target, cuts, ..Recipe::default() };
        let images = match problem.data.as_str() {
            DIGITS => Some(quickstart::Digits::Mnist.read()?),
            name => fashion(name, assets)?,
        };
        let (examples, spec) = match images {
            Some(examples) => {
                let (kind, names) = (TaskKind::Classification, examples.labels.names().to_vec());
                (examples, TaskSpec { kind, names, weights: vec![], scale: [0.0, 1.0], cuts: vec![] })
            }
            None => dataset::labelled(&dataset::open(&problem.data, &recipe, assets)?, &recipe)?,
        };
        // No seed draws more rows than these; the others need not be encoded.
        let Rows { train, valid, test } = problem.rows;
        let examples = match (2 * (train + valid + test)).min(examples.len()) {
            n if n == examples.len() => examples,
            n => examples.select(&pick(&examples.labels, n, 0)?),
        };
        let length = problem.max_length.unwrap_or(Recipe::default().max_length);
        let (host, data) = match problem.form {
            Form::Table => {
                let data::Inputs::Features { width, .. } = examples.inputs else {
                    return Err(Error::Other(format!("`{}` holds no table of numbers", problem.data)));
                };
                (Host::Frozen(Arc::new(Columns::new(width))), unread(&examples)?)
            }
            Form::Features => {
                let loaded = Loaded::open(&problem.model, Base::Dense, length, assets)?;
                let texts = loaded.prepare(&examples, spec.kind)?;
                let rows: Vec<usize> = (0..texts.left.len()).collect();
                let features = train::features(loaded.model.as_ref(), &texts, &rows)?;
                let width = features.first().map_or(0, Vec::len);
                let values = features.into_iter().flatten().map(|x| x as f32).collect();
                let inputs = data::Inputs::Features { width, values };
                let table = Examples { inputs, labels: examples.labels };
                (Host::Frozen(Arc::new(Columns::new(width))), unread(&table)?)
            }
            Form::Patch if problem.model == DIGITS => {
                let model = quickstart::network()?;
                let data = pixels(&examples, model.config().image)?;
                (Host::Frozen(Arc::new(model)), data)
            }
            Form::Patch => {
                let loaded = Loaded::open(&problem.model, Base::Dense, length, assets)?;
                let data = loaded.prepare(&examples, spec.kind)?;
                (Host::Frozen(loaded.model.into()), data)
            }
            Form::Factors => {
                let data::Inputs::Features { width, .. } = examples.inputs else {
                    return Err(Error::Other(format!("`{}` holds no table of numbers", problem.data)));
                };
                // Each seed divides all entries of these lines.
                let lines = (train + valid + test) / width;
                let table = examples.select(&pick(&examples.labels, lines.min(examples.len()), 0)?);
                let (matrix, entries) = Matrix::of(&table)?;
                let spec = TaskSpec { kind: TaskKind::Regression, names: vec![], ..spec };
                let data = unread(&entries)?;
                return Ok(Self { problem, host: Host::Frozen(Arc::new(matrix)), spec, data });
            }
            Form::Scratch => {
                let (examples, side) = pooled(examples, problem.pool)?;
                let (image, widths) = ([1, side, side], problem.widths.clone());
                let (classes, blocks) = (spec.names.len(), vec![1; widths.len()]);
                let norm = Norm::Group(4);
                let config = ResnetConfig { image, classes, widths, blocks, norm, ..ResnetConfig::resnet18() };
                (Host::Fresh(config), pixels(&examples, image)?)
            }
        };
        Ok(Self { problem, host, spec, data })
    }

    /// The draw of a seed.
    pub(super) fn draw(&self, seed: u64) -> Result<Draw> {
        let labels = self.data.labels()?;
        let Rows { train, valid, test } = self.problem.rows;
        let mut left: Vec<usize> = (0..labels.len()).collect();
        let mut part = |name: &str, count: usize| -> Result<Vec<usize>> {
            let at = pick(&labels.select(&left), count, Rng::new(seed, name, 0).below(1 << 32) as u64)?;
            let part = at.iter().map(|&at| left[at]).collect();
            let taken: BTreeSet<usize> = at.into_iter().collect();
            left = left.iter().enumerate().filter(|(at, _)| !taken.contains(at)).map(|(_, &row)| row).collect();
            Ok(part)
        };
        let (test, valid, train) = (part("test", test)?, part("valid", valid)?, part("train", train)?);
        let task = fit_task(self.spec.clone(), &labels.select(&train), false);
        let data = match self.problem.form {
            Form::Table | Form::Features => Prepared { left: self.data.left.standardised(&train), ..self.data.clone() },
            Form::Patch | Form::Scratch | Form::Factors => self.data.clone(),
        };
        let mut start = Patch::new();
        let model: Arc<dyn Model> = match &self.host {
            Host::Frozen(model) => model.clone(),
            Host::Fresh(config) => {
                Arc::new(Resnet::seeded(config.clone(), seed, DType::F32, &Device::flex())?) as Arc<dyn Model>
            }
        };
        // The head comes first: adapters pass over a head of the model that is not used.
        let own = matches!(self.problem.form, Form::Scratch | Form::Factors);
        if let Some(outputs) = task.outputs().filter(|_| !own) {
            start.add_head(model.as_ref(), outputs, HeadStart::Zero, &mut Rng::new(seed, "head", 0));
        }
        let method = match self.problem.form {
            Form::Table | Form::Features => None,
            Form::Patch | Form::Factors => Some("lora"),
            Form::Scratch => Some("full"),
        };
        if let Some(method) = method {
            let adapter = acclimate_peft::build(method, &self.problem.adapter)?;
            let mut rng = Rng::new(seed, "patch", 0);
            acclimate_peft::place(&mut start, model.as_ref(), method, adapter, None, &mut rng)?;
        }
        Ok(Draw { model, task, data, train, valid, test, start })
    }
}

/// Some rows of labels, with the classes in their proportions.
fn pick(labels: &Labels, count: usize, seed: u64) -> Result<Vec<usize>> {
    if count == labels.len() {
        return Ok((0..count).collect());
    }
    Ok(split::stratified(&labels.strata(), count as f64 / labels.len() as f64, seed)?.held_out)
}

/// The fashion set, whose files are no table.
fn fashion(name: &str, assets: &Assets) -> Result<Option<Examples>> {
    let Source::Asset(asset) = Source::parse(name)? else { return Ok(None) };
    if assets.find(&asset)?.read.is_some() {
        return Ok(None);
    }
    let folder = assets.folder(&asset)?;
    let [images, classes] = FASHION.map(|file| Idx::read(&folder.join(file)));
    let (images, classes) = (images?, classes?);
    let width = images.shape[1..].iter().product();
    let values = images.values.iter().map(|&pixel| f32::from(pixel) / 255.0).collect();
    let index = classes.values.iter().map(|&class| usize::from(class)).collect();
    let names = (0..10).map(|class| class.to_string()).collect();
    Ok(Some(Examples { inputs: data::Inputs::Features { width, values }, labels: Labels::Classes { names, index } }))
}

/// Square images with each `by × by` square made its mean, and their side.
fn pooled(examples: Examples, by: usize) -> Result<(Examples, usize)> {
    let data::Inputs::Features { width, values } = &examples.inputs else {
        return Err(Error::Other("these rows are no small images".to_owned()));
    };
    let (side, small) = (width.isqrt(), width.isqrt() / by);
    let mut means = Vec::with_capacity(values.len() / (by * by));
    for image in values.chunks(*width) {
        for (row, column) in (0..small).flat_map(|row| (0..small).map(move |column| (row, column))) {
            let square = (0..by * by).map(|at| image[(row * by + at / by) * side + column * by + at % by]);
            means.push(square.sum::<f32>() / (by * by) as f32);
        }
    }
    Ok((Examples { inputs: data::Inputs::Features { width: small * small, values: means }, ..examples }, small))
}

/// Rows of numbers as they are.
fn unread(examples: &Examples) -> Result<Prepared> {
    let left = Encoded::new(&examples.inputs, (None, None), None, TaskKind::Classification)?;
    Ok(Prepared { left, right: None, labels: Some(examples.labels.clone()) })
}

/// Rows of numbers as images.
fn pixels(examples: &Examples, image: [usize; 3]) -> Result<Prepared> {
    let left = Encoded::new(&examples.inputs, (None, None), Some(image), TaskKind::Classification)?;
    Ok(Prepared { left, right: None, labels: Some(examples.labels.clone()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_parts_of_the_list_share_no_rows() {
        let all = problems().unwrap();
        let count = |set| all.iter().filter(|problem| problem.set == set).count();
        assert_eq!((count(Set::Open), count(Set::Sealed)), (17, 8));
        let names: BTreeSet<&str> = all.iter().map(|problem| problem.name.as_str()).collect();
        assert_eq!(names.len(), all.len());
        // The same rows in the same form would let a default be found on what judges it.
        let key = |problem: &Problem| (problem.form as u8, problem.data.clone(), problem.model.clone());
        let keys = |set| all.iter().filter(move |problem| problem.set == set).map(key);
        assert!(keys(Set::Open).all(|open| keys(Set::Sealed).all(|sealed| open != sealed)));
    }
}
