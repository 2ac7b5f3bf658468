//! What a method of alignment is: typed to write, erased to choose.

use crate::ratio::drawn_order;
use acclimate_core::{Card, Error, Method, Result};
use acclimate_stats::learn::{Fitted, Labels, Learner, check, finite, select};
use ndarray::{Array1, Array2, ArrayView2};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fmt::Debug;

/// Labelled rows of the domain that is known.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// `[rows, features]`.
    pub x: ArrayView2<'a, f64>,
    /// One for each row.
    pub y: &'a Labels,
}

impl<'a> Source<'a> {
    /// Checks that rows and labels agree and are finite.
    ///
    /// # Errors
    /// With the row that is wrong.
    pub fn new(x: ArrayView2<'a, f64>, y: &'a Labels) -> Result<Self> {
        check("source", x, y, None)?;
        Ok(Self { x, y })
    }
}

/// Rows of the domain to work in. There is no place for labels.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// `[rows, features]`.
    pub x: ArrayView2<'a, f64>,
}

impl<'a> Target<'a> {
    /// Checks that rows are finite and as wide as the source's.
    ///
    /// # Errors
    /// With the row that is wrong.
    pub fn new(x: ArrayView2<'a, f64>, source: &Source<'_>) -> Result<Self> {
        finite("target", x)?;
        let (expected, got) = (source.x.ncols(), x.ncols());
        if expected != got || x.nrows() == 0 {
            let expected = format!("at least one row of {expected} features");
            return Err(Error::Shape { what: "target".to_owned(), expected, got: x.shape().to_vec() });
        }
        Ok(Self { x })
    }
}

/// The rows that a learner is to be fitted on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lesson {
    /// `[rows, features]`, as the learner is to see them.
    pub x: Array2<f64>,
    /// One for each row; of rows of the target they are guesses.
    pub y: Labels,
    /// How much each row counts; none is one for each.
    pub weights: Option<Array1<f64>>,
}

impl Lesson {
    /// The source as it is.
    pub fn of(source: &Source<'_>) -> Self {
        Self { x: source.x.to_owned(), y: source.y.clone(), weights: None }
    }

    /// The source under weights.
    pub fn weighted(source: &Source<'_>, weights: Array1<f64>) -> Self {
        Self { weights: Some(weights), ..Self::of(source) }
    }
}

/// How rows look to the learner, and what is known of rows that the fit has not seen.
pub trait View: Debug + Send + Sync {
    /// Rows of the target as the learner sees them, `[rows, its features]`.
    ///
    /// # Errors
    /// When rows have another width than at the fit.
    fn show(&self, rows: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        Ok(rows.to_owned())
    }

    /// Rows of the source that the fit has not seen, as the learner sees them: where the source is mapped onto the target, mapped too.
    ///
    /// # Errors
    /// As [`View::show`].
    fn show_source(&self, rows: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        self.show(rows)
    }

    /// The learner's answers to rows of the target, put right: under other shares of classes, say.
    ///
    /// # Errors
    /// When answers are not of the kind that was fitted.
    fn correct(&self, answers: Array2<f64>) -> Result<Array2<f64>> {
        Ok(answers)
    }

    /// The density of the target over that of the source at any rows, where the method knows it there.
    fn weigh(&self, rows: ArrayView2<'_, f64>) -> Option<Result<Array1<f64>>> {
        let _ = rows;
        None
    }
}

/// Rows as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plain {}

impl View for Plain {}

/// What a method made of two domains.
#[derive(Clone, Debug)]
pub struct Aligned<V: ?Sized> {
    /// What to learn from.
    pub lesson: Lesson,
    /// Named numbers for the report: an effective sample size, a share of rows outside the support.
    pub facts: Vec<(&'static str, f64)>,
    /// How the target is shown.
    pub view: V,
}

/// What a method may ask for beside the two domains.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// The learner that is to be adapted.
    pub learner: &'a dyn Learner,
    /// Names the random streams.
    pub seed: u64,
}

impl Host<'_> {
    /// Fits the learner on a lesson.
    ///
    /// # Errors
    /// The learner's own.
    pub fn learn(&self, lesson: &Lesson) -> Result<Box<dyn Fitted>> {
        self.learner.fit(lesson.x.view(), &lesson.y, lesson.weights.as_ref().map(|weights| weights.view()))
    }

    /// Answers to every row of the source by fits that have not seen it, in `folds` folds with like shares of classes.
    ///
    /// # Errors
    /// The learner's own, and when there are fewer rows than folds.
    pub fn unseen(&self, source: &Source<'_>, folds: usize) -> Result<Array2<f64>> {
        let fold = self.folds(source, folds)?;
        let mut answers: Option<Array2<f64>> = None;
        for this in 0..folds {
            let (train, held): (Vec<usize>, Vec<usize>) = (0..fold.len()).partition(|row| fold[*row] != this);
            let fitted = self.learner.fit(select(source.x, &train).view(), &source.y.select(&train), None)?;
            let found = fitted.answers(select(source.x, &held).view())?;
            let all = answers.get_or_insert_with(|| Array2::zeros((fold.len(), found.ncols())));
            for (row, found) in held.iter().zip(found.rows()) {
                all.row_mut(*row).assign(&found);
            }
        }
        answers.ok_or_else(|| Error::Other("folds: ask for at least two".to_owned()))
    }

    /// The fold of each row of the source, from zero. Rows of one class are dealt out in turn, in an order drawn from the seed, which does
    /// not depend on the order in which they are given.
    ///
    /// # Errors
    /// When there are fewer rows than folds, or fewer than two folds.
    pub fn folds(&self, source: &Source<'_>, folds: usize) -> Result<Vec<usize>> {
        let rows = source.y.len();
        if folds < 2 || rows < folds {
            return Err(Error::Other(format!(
                "{rows} rows cannot be split into {folds} folds; use two folds or more, and a row for each"
            )));
        }
        let mut order = drawn_order(source.x, self.seed, "folds");
        if let Labels::Classes { of, .. } = source.y {
            order.sort_by_key(|row| of[*row]);
        }
        let mut fold = vec![0; rows];
        for (place, row) in order.into_iter().enumerate() {
            fold[row] = place % folds;
        }
        Ok(fold)
    }
}

/// A method that makes a lesson for the target out of a labelled source and rows of the target.
pub trait Align: Method {
    /// How it shows rows of the target, saved with the fit.
    type View: View + Serialize + DeserializeOwned + 'static;

    /// Fits. Draws depend on the host's seed alone; the order of rows does not matter beyond rounding.
    ///
    /// # Errors
    /// When the domains do not suit the method, with the remedy.
    fn align(&self, source: &Source<'_>, target: &Target<'_>, host: &Host<'_>) -> Result<Aligned<Self::View>>;
}

/// [`Align`] with its types erased: what registries hold.
pub trait AnyAlign: Debug + Send + Sync {
    /// The method's card.
    fn card(&self) -> Card;
    /// The method's settings.
    fn settings(&self) -> toml::Table;
    /// See [`Align::align`].
    ///
    /// # Errors
    /// The method's own.
    fn align_any(&self, source: &Source<'_>, target: &Target<'_>, host: &Host<'_>)
    -> Result<Aligned<Box<dyn AnyView>>>;
    /// A view out of what [`AnyView::save`] gave.
    ///
    /// # Errors
    /// When it has another form.
    fn restore(&self, saved: serde_json::Value) -> Result<Box<dyn AnyView>>;
}

/// A [`View`] that can be saved.
pub trait AnyView: View {
    /// All that was fitted, so that it is read back bit for bit.
    fn save(&self) -> serde_json::Value;
}

impl<V: View + Serialize> AnyView for V {
    fn save(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("a view is made of numbers, lists and tables with string keys")
    }
}

impl<M: Align> AnyAlign for M {
    fn card(&self) -> Card {
        M::CARD
    }
    fn settings(&self) -> toml::Table {
        self.to_table()
    }
    fn align_any(
        &self,
        source: &Source<'_>,
        target: &Target<'_>,
        host: &Host<'_>,
    ) -> Result<Aligned<Box<dyn AnyView>>> {
        let Aligned { lesson, facts, view } = self.align(source, target, host)?;
        Ok(Aligned { lesson, facts, view: Box::new(view) })
    }
    fn restore(&self, saved: serde_json::Value) -> Result<Box<dyn AnyView>> {
        let view: M::View = serde_json::from_value(saved)
            .map_err(|e| Error::Other(format!("{}: the saved fit cannot be read ({e}); fit again", M::CARD.name)))?;
        Ok(Box::new(view))
    }
}
