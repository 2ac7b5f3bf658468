use crate::Calculator;
use acclimate_core::{Error, Method, Result, Rng};
use acclimate_stats::learn::Labels;
use serde::{Deserialize, Serialize};

/// Chooses a few labelled rows of each class to tune on, others to judge by, and the rest to test, so that none stands twice.
///
/// # Mathematics
/// Of the $n_c$ rows of class $c$ a share `test_share`, rounded, is the test set. Of what remains `shots` rows are drawn to train on and
/// `valid` others to choose the step by. Batches run through orders of the shots drawn one after another, each shot once in each order, so
/// that in every run of rows the numbers of visits differ by two at most. With losses $\ell_t$ on the validation rows, the kept step is
/// $\arg\min_t \ell_t$, of equals the earliest.
///
/// # When to use
/// A source model without its data and a target for which one to three labels of each class can be had: tuning all weights at a low rate
/// on them, perhaps after the head alone, is as good as the methods without labels where those do well, and safe where they break: with
/// unknown classes and other shares of classes. The tuning itself is a fit of its own at a rate of about $10^{-5}$ for all weights and
/// $10^{-4}$ for the head.
///
/// # Differences
/// The authors repeat the list of shots until it fills a batch and drop what does not fill the last one; here orders follow each other
/// without a gap, so every shot is seen equally often. Their validation images go through the augmentation for training; here they are rows
/// like the test set's, to be shown as they are. They draw the test rows by scikit-learn; here each class gives its rounded share.
///
/// # Example
/// ```
/// use acclimate_shift::FewShot;
/// use acclimate_stats::learn::Labels;
///
/// let y = Labels::Classes { of: (0..40).map(|row| row % 4).collect(), count: 4 };
/// let shots = FewShot { shots: 3, ..FewShot::default() }.split(&y, 0)?;
/// assert_eq!((shots.train.len(), shots.valid.len(), shots.test.len()), (12, 4, 8));
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Lee, Lee and others, *Few-shot Fine-tuning is All You Need for Source-free Domain Adaptation*, 2023, arXiv:2304.00792.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "few_shot", title = "Few-shot SFDA", catalogue = [48], paper = "arxiv:2304.00792", year = 2023)]
#[method(needs(labels), case = "", case = "shots = 3")]
pub struct FewShot {
    /// Rows of each class to train on.
    #[method(min = 1)]
    pub shots: usize,
    /// Rows of each class to choose the step by.
    #[method(min = 1)]
    pub valid: usize,
    /// The share of each class that is set aside to test.
    #[method(min = 0, max = 0.9)]
    pub test_share: f64,
    /// Rows of a batch.
    #[method(min = 1)]
    pub batch_size: usize,
}

impl Default for FewShot {
    fn default() -> Self {
        Self { shots: 1, valid: 1, test_share: 0.2, batch_size: 32 }
    }
}

impl Calculator for FewShot {}

/// Rows in three parts and a rest; no row is in two of them. Each is in rising order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shots {
    /// To train on.
    pub train: Vec<usize>,
    /// To choose the step by.
    pub valid: Vec<usize>,
    /// To test.
    pub test: Vec<usize>,
    /// Rows whose labels are not to be used.
    pub rest: Vec<usize>,
}

impl FewShot {
    /// Draws the parts from the seed. Classes without rows are left out.
    ///
    /// # Errors
    /// When labels are numbers, or a class has too few rows.
    pub fn split(&self, y: &Labels, seed: u64) -> Result<Shots> {
        self.check()?;
        let (of, count) = y.classes("few_shot")?;
        let mut found = Shots { train: Vec::new(), valid: Vec::new(), test: Vec::new(), rest: Vec::new() };
        for class in 0..count {
            let mut rows: Vec<usize> = (0..of.len()).filter(|row| of[*row] == class).collect();
            if rows.is_empty() {
                continue;
            }
            // A stream for each class: rows of one do not change the draw of another.
            Rng::new(seed, "shots", class as u64).shuffle(&mut rows);
            let test = (rows.len() as f64 * self.test_share).round() as usize;
            let needed = self.shots + self.valid;
            if rows.len() - test < needed {
                return Err(Error::Other(format!(
                    "few_shot: class {class} has {} rows, of which {test} test, and {needed} are needed to train and validate; label more, \
                     or lower `shots`, `valid` or `test_share`",
                    rows.len()
                )));
            }
            let (tested, pool) = rows.split_at(test);
            found.test.extend(tested);
            found.train.extend(&pool[..self.shots]);
            found.valid.extend(&pool[self.shots..needed]);
            found.rest.extend(&pool[needed..]);
        }
        if found.train.is_empty() {
            return Err(Error::Other("few_shot: there is no labelled row; give some of each class".to_owned()));
        }
        for part in [&mut found.train, &mut found.valid, &mut found.test, &mut found.rest] {
            part.sort_unstable();
        }
        Ok(found)
    }

    /// The rows of the batch at a step, counted from zero: always `batch_size` of them, some twice where there are fewer shots.
    pub fn batch(&self, train: &[usize], step: u64, seed: u64) -> Vec<usize> {
        let (shots, size) = (train.len() as u64, self.batch_size as u64);
        if shots == 0 {
            return Vec::new();
        }
        let mut order: (Option<u64>, Vec<usize>) = (None, Vec::new());
        let mut row = |place: u64| {
            let round = place / shots;
            if order.0 != Some(round) {
                order = (Some(round), train.to_vec());
                Rng::new(seed, "order of shots", round).shuffle(&mut order.1);
            }
            order.1[(place % shots) as usize]
        };
        (step * size..(step + 1) * size).map(&mut row).collect()
    }

    /// The place of the least loss, of equals the earliest; losses that are not a number are passed over.
    pub fn earliest_best(losses: &[f64]) -> Option<usize> {
        let numbers = losses.iter().enumerate().filter(|(_, loss)| !loss.is_nan());
        numbers.min_by(|a, b| a.1.total_cmp(b.1)).map(|(place, _)| place)
    }
}
