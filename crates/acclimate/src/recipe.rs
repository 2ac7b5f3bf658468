//! Recipes: a TOML file in which every key is also a flag.

use acclimate_core::{Error, Result, Role, Targets};
use acclimate_data::Encoding;
use acclimate_models::Base;
use acclimate_optim::{BatchGrowth, BatchTest, Groups, Schedule, StateForm};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One key of a recipe.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The path, such as `optim.clip`.
    pub name: &'static str,
    /// What it means.
    pub doc: &'static str,
}

/// Defines a section of the recipe: the struct, its defaults and the table of its keys from one place.
macro_rules! section {
    ($(#[doc = $about:literal])+ $name:ident $prefix:literal { $($(#[doc = $doc:literal])+ $field:ident: $ty:ty = $default:expr),+ $(,)? } $($settings:ident)?) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $field: $ty,)+
            $(
                /// The method's own settings.
                #[serde(flatten)]
                pub $settings: toml::Table,
            )?
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ $($settings: toml::Table::new(),)? }
            }
        }

        impl $name {
            /// The keys of this section.
            pub const KEYS: &'static [Key] = &[$(Key { name: concat!($prefix, stringify!($field)), doc: concat!($($doc),+) }),+];
        }
    };
}

section! {
    /// What a run is made from. Empty names and absent keys are found or chosen by the run itself.
    Recipe "" {
        /// The model: a folder, `asset:NAME` or `hf:ORG/NAME`.
        model: String = String::new(),
        /// The data: a csv, tsv, jsonl, parquet or text file, a folder of images by class, or `asset:NAME`.
        data: String = String::new(),
        /// Untouched rows to report on: another file; without it rows of `data` are held out.
        test: Option<String> = None,
        /// What is predicted.
        task: TaskKind = TaskKind::Auto,
        /// The run folder.
        out: Option<PathBuf> = None,
        /// Seed of every draw.
        seed: u64 = 0,
        /// The column with the text.
        text: Option<String> = None,
        /// The column with the second text.
        pair: Option<String> = None,
        /// The column with the words, for labels per word.
        words: Option<String> = None,
        /// The column with the messages of a dialogue, each with a role and a content.
        messages: Option<String> = None,
        /// The column with what the model is asked.
        prompt: Option<String> = None,
        /// The column with what it is to say.
        completion: Option<String> = None,
        /// The column with the choices.
        choices: Option<String> = None,
        /// The column with image paths.
        image: Option<String> = None,
        /// The column with the target.
        target: Option<String> = None,
        /// What separates the cells of the data file; without it a comma for csv and a tab for tsv.
        separator: Option<char> = None,
        /// How bytes of the data file stand for characters: `utf8` or `latin1`.
        encoding: Encoding = Encoding::Utf8,
        /// The classes in order; without it those found in the data.
        classes: Option<Vec<String>> = None,
        /// Cuts that turn a numeric target into classes, ascending.
        cuts: Vec<f64> = vec![],
        /// How many rows to train on, drawn evenly over the classes; without it all that are not held out.
        train_rows: Option<usize> = None,
        /// How many rows to hold out for the report; without it `test_share` of all.
        test_rows: Option<usize> = None,
        /// The share of rows to hold out for the report, 0 to 1.
        test_share: f64 = 0.2,
        /// How the frozen matrices are held: `packed` as their file has them, `dense` (four bytes a number), which some methods need, or
        /// `bf16` (two bytes a number; faster, with some three digits).
        base: Base = Base::Packed,
        /// Longest input in tokens; longer ones are cut and counted, and texts for language modelling become several.
        max_length: usize = 256,
        /// Passes over the training rows; without it as many as give 200 steps, and at least 10 (1 for language models).
        epochs: Option<usize> = None,
        /// Rows per step; without it 16, and 4 for language models.
        batch_size: Option<usize> = None,
        /// Micro-batches per step: less memory, the same result.
        accumulate: usize = 1,
        /// Numbers kept for each row of a matrix while the gradients of micro-batches are summed: random projections, drawn anew at each
        /// step (Flora). 0 sums them whole. For whole weights (`adapter.method = "full"`) and optimisers that normalise.
        accumulate_rank: usize = 0,
        /// The multiplier over the run: `cosine`, `linear` or `constant`.
        schedule: Schedule = Schedule::Cosine,
        /// The share of steps over which the multiplier rises from zero, 0 to 1.
        warmup: f64 = 0.0,
        /// Epochs without a lower held-out loss before training stops; needs `valid_share`.
        patience: Option<usize> = None,
        /// The share of training rows held out, 0 to 1: of all epochs the state of least loss on them is kept, a classifier's loss being
        /// taken at the temperature that suits it.
        valid_share: f64 = 0.0,
        /// Whether all classes weigh alike in the loss and the score, however rare; for one class per row.
        class_balance: bool = false,
        /// How the head starts: `probe` (fitted on the frozen features first), `zero`, `random`, or `own` (the model's). Without it, `probe` where the
        /// model has a head for the task already, and `zero` where the head is new.
        head: Option<Head> = None,
        /// Steps between two checkpoints; without it as often as they take at most a fiftieth of the time. There is one at every epoch's end
        /// and on Ctrl-C in any case.
        checkpoint_steps: Option<usize> = None,
        /// Whether nothing may be fetched.
        offline: bool = false,
        /// The adapter: `adapter.method` and the method's own settings.
        adapter: AdapterRecipe = AdapterRecipe::default(),
        /// The optimiser: `optim.method` and the method's own settings.
        optim: OptimRecipe = OptimRecipe::default(),
        /// Whether the batch grows during a run.
        batch: BatchRecipe = BatchRecipe::default(),
        /// The gate.
        gate: GateRecipe = GateRecipe::default(),
    }
}

section! {
    /// The adapter of a recipe.
    AdapterRecipe "adapter." {
        /// The method's name; `acclimate methods list` shows all.
        method: String = "lora".to_owned(),
        /// Where it goes: a word (`linear`, `norm`, `block`, `all`) or names of sites; without it the method's own choice.
        targets: Option<Targets> = None,
    } settings
}

section! {
    /// The optimiser of a recipe.
    OptimRecipe "optim." {
        /// The method's name.
        method: String = "dadapt_adam".to_owned(),
        /// What the schedule is multiplied with, above 0: a factor of the learning rate, or of the step that a method finds for itself.
        multiplier: f64 = 1.0,
        /// Weight decay, at least 0.
        weight_decay: f64 = 0.0,
        /// Whether the decay shrinks the parameters at the method's rate; otherwise it is added to the gradients.
        decoupled: bool = true,
        /// Largest gradient norm; 0 switches clipping off.
        clip: f64 = 0.0,
        /// Relative rates by role, 1 for those not named, 0 freezes: `output_factor = 16` is LoRA+.
        scales: BTreeMap<Role, f64> = BTreeMap::new(),
        /// Names of frozen tensors of the patch, or the ends of names after a dot; `*` stands for any characters.
        frozen: Vec<String> = vec![],
        /// Which tensors share what a method finds for itself, such as d: all (`shared`), or those of one role (`role`).
        groups: Groups = Groups::Shared,
        /// How the optimiser's state lies between steps: `full`, or `bf16` in half the memory, for methods that keep moments alone.
        state: StateForm = StateForm::Full,
    } settings
}

section! {
    /// Batches that grow while gradient noise rules them, from `batch_size` rows on; see [`BatchGrowth`]. They are whole numbers of first
    /// batches, which pass through the model one by one.
    BatchRecipe "batch." {
        /// What of a batch's gradient must not be noise: all of it (`norm`), its length (`inner_product`, or `augmented` with a bound on the
        /// rest), or each coordinate (`coordinates`). Without it the batch keeps its size.
        test: Option<BatchTest> = None,
        /// Noise of the gradient, or of a coordinate, as a share of its size; smaller is larger batches.
        eta: f64 = 0.5,
        /// For the tests along the gradient: noise of its length.
        theta: f64 = 0.5,
        /// For `augmented`: noise across the gradient.
        nu: f64 = 1.0,
        /// For `coordinates`: the share of them that must pass, above 0 and at most 1.
        quantile: f64 = 1.0,
        /// Largest factor by which one test makes the batch grow, at least 1.
        growth: f64 = 2.0,
        /// Largest batch in rows; without it all that are trained on.
        most: Option<usize> = None,
        /// Steps from one test to the next.
        interval: u64 = 1,
        /// Into how many micro-batches a tested step is cut at least, from 2: more tell more, and with one for each row the test is exact.
        parts: usize = 8,
    }
}

section! {
    /// The gate: what the patch is compared with before it is kept.
    GateRecipe "gate." {
        /// Folds of the cross-fitting inside the training rows; 1 sets a tenth of them aside, judges on those, and keeps the patch that was
        /// fitted to the rest; 0 keeps the patch unseen. Without it 3, and 1 for language models.
        folds: Option<usize> = None,
    }
}

impl BatchRecipe {
    /// What lets the batch grow on so many rows.
    pub fn growth(&self, rows: usize) -> Option<BatchGrowth> {
        let Self { eta, theta, nu, quantile, growth, interval, .. } = *self;
        let most = self.most.map_or(rows, |most| most.min(rows));
        Some(BatchGrowth { test: self.test?, eta, theta, nu, quantile, growth, most, interval })
    }
}

/// What is predicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// Decided from the target column.
    #[default]
    Auto,
    /// One class per row.
    Classification,
    /// Any number of labels per row.
    MultiLabel,
    /// A label per word.
    TokenClassification,
    /// A number per row.
    Regression,
    /// How alike two texts are, as a number.
    Similarity,
    /// Which second text belongs to the first.
    Retrieval,
    /// Every word of a text.
    LanguageModelling,
    /// What the assistant says in a dialogue, or the completion of a prompt.
    Instruction,
    /// Which of several continuations is right.
    MultipleChoice,
}

impl TaskKind {
    /// Whether it is for models that say how likely each next word is.
    pub fn is_text(self) -> bool {
        matches!(self, Self::LanguageModelling | Self::Instruction | Self::MultipleChoice)
    }
}

/// How a head starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// As the linear probe fitted on the frozen features of the same rows: training begins where the cheaper candidate ends.
    Probe,
    /// Zero weights: the first predictions are uniform.
    Zero,
    /// Uniform in ±1/√features.
    Random,
    /// The model's own head, where it fits the task; zero weights otherwise.
    Own,
}

/// Without `epochs`, a run makes at least so many steps: the rate of D-Adaptation needs some dozens to find itself.
const STEPS: usize = 200;

/// And at least so many passes over the rows.
const EPOCHS: usize = 10;

/// Rows per step.
const BATCH: usize = 16;

/// Rows per step for language models, which have something to learn at every word of a row.
const TEXT_BATCH: usize = 4;

/// Folds of the gate, unless the task is about text: there a fit costs too much.
const FOLDS: usize = 3;

impl Recipe {
    /// The sections in which only their own keys may stand.
    pub const CLOSED: [(&str, &[Key]); 2] = [("batch", BatchRecipe::KEYS), ("gate", GateRecipe::KEYS)];

    /// Passes over so many training rows.
    pub fn epochs(&self, kind: TaskKind, rows: usize) -> usize {
        let per_epoch = rows.div_ceil(self.rows_per_step(kind)).max(1);
        // A language model that has read its rows often begins to recite them.
        let least = if kind.is_text() { 1 } else { EPOCHS };
        self.epochs.unwrap_or_else(|| STEPS.div_ceil(per_epoch).max(least))
    }

    /// Rows per step.
    pub fn rows_per_step(&self, kind: TaskKind) -> usize {
        self.batch_size.unwrap_or(if kind.is_text() { TEXT_BATCH } else { BATCH })
    }

    /// Folds of the gate.
    pub fn folds(&self, kind: TaskKind) -> usize {
        self.gate.folds.unwrap_or(if kind.is_text() { 1 } else { FOLDS })
    }

    /// Every key of a recipe, except the methods' own settings.
    pub fn keys() -> impl Iterator<Item = Key> {
        let sections = ["adapter", "optim", "batch", "gate"];
        let top = Self::KEYS.iter().filter(move |key| !sections.contains(&key.name));
        let methods = AdapterRecipe::KEYS.iter().chain(OptimRecipe::KEYS);
        top.chain(methods).chain(Self::CLOSED.iter().flat_map(|(_, keys)| *keys)).copied()
    }

    /// A recipe from a TOML file.
    ///
    /// # Errors
    /// When the file cannot be read or is not TOML; unknown keys and bad values as in [`Recipe::from_table`].
    pub fn read(file: &Path) -> Result<toml::Table> {
        let text = std::fs::read_to_string(file).map_err(|e| Error::io(file, e))?;
        text.parse().map_err(|e: toml::de::Error| Error::format(file, format!("not a TOML recipe: {}", e.message())))
    }

    /// A recipe from a table of keys.
    ///
    /// # Errors
    /// An unknown key (with the nearest valid ones) or a value of the wrong type or range.
    pub fn from_table(table: &toml::Table) -> Result<Self> {
        let known: Vec<&str> = Self::KEYS.iter().map(|key| key.name).collect();
        for (name, value) in table {
            if !known.contains(&name.as_str()) {
                return Err(Error::unknown("recipe key", name, Self::keys().map(|key| key.name)));
            }
            let closed = Self::CLOSED.iter().find(|(section, _)| section == name);
            if let (Some((section, keys)), toml::Value::Table(inside)) = (closed, value)
                && let Some(key) =
                    inside.keys().map(|key| format!("{section}.{key}")).find(|key| keys.iter().all(|k| k.name != key))
            {
                return Err(Error::unknown("recipe key", &key, keys.iter().map(|k| k.name)));
            }
        }
        let mut recipe = Self::default();
        let mut merged = toml::Table::try_from(&recipe).map_err(|e| Error::Other(e.to_string()))?;
        merged.extend(table.clone());
        recipe = Self::deserialize(toml::Value::Table(merged))
            .map_err(|e| Error::Other(format!("recipe: {}", e.message())))?;
        recipe.check()?;
        Ok(recipe)
    }

    fn check(&self) -> Result<()> {
        let shares = [("test_share", self.test_share), ("warmup", self.warmup), ("valid_share", self.valid_share)];
        for (name, share) in shares {
            if !(0.0..1.0).contains(&share) {
                return Err(Error::Other(format!("recipe: `{name}` must be at least 0 and below 1, got `{share}`")));
            }
        }
        let counts = [
            ("epochs", self.epochs.unwrap_or(1)),
            ("batch_size", self.batch_size.unwrap_or(1)),
            ("accumulate", self.accumulate),
            ("max_length", self.max_length),
            ("patience", self.patience.unwrap_or(1)),
            ("checkpoint_steps", self.checkpoint_steps.unwrap_or(1)),
            ("batch.most", self.batch.most.unwrap_or(1)),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, n)| *n == 0) {
            return Err(Error::Other(format!("recipe: `{name}` must be at least 1, got `0`")));
        }
        if !(self.optim.multiplier > 0.0 && self.optim.multiplier.is_finite()) {
            let multiplier = self.optim.multiplier;
            return Err(Error::Other(format!("recipe: `optim.multiplier` must be above 0, got `{multiplier}`")));
        }
        if self.batch.parts < 2 {
            return Err(Error::Other(format!("recipe: `batch.parts` must be at least 2, got `{}`", self.batch.parts)));
        }
        if let Some(growth) = self.batch.growth(1) {
            growth.check()?;
            if self.accumulate_rank > 0 {
                let why = "`batch.test` needs whole gradients; set `accumulate_rank` to 0";
                return Err(Error::Other(format!("recipe: {why}")));
            }
        }
        if self.patience.is_some() && self.valid_share == 0.0 {
            return Err(Error::Other(
                "recipe: `patience` needs rows to watch; set `valid_share`, such as 0.1".to_owned(),
            ));
        }
        if self.cuts.iter().any(|x| !x.is_finite()) || !self.cuts.is_sorted() {
            return Err(Error::Other(format!("recipe: `cuts` must be ascending numbers, got `{:?}`", self.cuts)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> toml::Table {
        text.parse().expect("test TOML")
    }

    #[test]
    fn text_and_table_agree() {
        let recipe =
            Recipe::from_table(&table("model = 'm'\ndata = 'd'\n[adapter]\nmethod = 'lora'\nrank = 4")).unwrap();
        assert_eq!(recipe.adapter.settings["rank"].as_integer(), Some(4));
        let again = Recipe::from_table(&toml::Table::try_from(&recipe).unwrap()).unwrap();
        assert_eq!(recipe, again);
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        let error = Recipe::from_table(&table("epoch = 3")).unwrap_err().to_string();
        assert!(error.starts_with("unknown recipe key `epoch`; the nearest are `epochs`"), "{error}");
        let error = Recipe::from_table(&table("[gate]\nfold = 3")).unwrap_err().to_string();
        assert!(error.contains("`gate.folds`"), "{error}");
        let error = Recipe::from_table(&table("[batch]\ntests = 'norm'")).unwrap_err().to_string();
        assert!(error.starts_with("unknown recipe key `batch.tests`; the nearest are `batch.test`"), "{error}");
    }

    #[test]
    fn bad_values_name_the_range() {
        for (text, part) in [
            ("test_share = 1.5", "`test_share` must be at least 0 and below 1"),
            ("epochs = 0", "`epochs` must be at least 1"),
            ("[optim]\nmultiplier = 0.0", "`optim.multiplier` must be above 0"),
            ("checkpoint_steps = 0", "`checkpoint_steps` must be at least 1"),
            ("schedule = 'cosin'", "cosin"),
            ("cuts = [1.0, 0.0]", "`cuts` must be ascending"),
            ("patience = 2", "set `valid_share`"),
            ("patience = 0\nvalid_share = 0.1", "`patience` must be at least 1"),
            ("[batch]\nparts = 1", "`batch.parts` must be at least 2"),
            ("[batch]\nmost = 0", "`batch.most` must be at least 1"),
            ("[batch]\ntest = 'norm'\neta = 0.0", "batch: `eta` must be above 0"),
            ("[batch]\ntest = 'norms'", "inner_product"),
        ] {
            let error = Recipe::from_table(&table(text)).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
