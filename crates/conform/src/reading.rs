//! Laws of models that read from left to right.

use crate::models::{Subject, all_answers, full, near, outputs, same_bits};
use crate::{Check, why};
use acclimate_core::{AnyTensor, Cache, Inputs, Pass, Tokens};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

/// The laws.
pub static CHECKS: &[Check<Subject>] = &[
    Check { name: "reading_on_is_reading_at_once", applies: |_| true, run: reading_on_is_reading_at_once },
    Check {
        name: "packed_documents_do_not_see_each_other",
        applies: |_| true,
        run: packed_documents_do_not_see_each_other,
    },
    Check { name: "padding_in_front_changes_nothing", applies: |_| true, run: padding_in_front_changes_nothing },
    Check { name: "no_word_sees_a_later_one", applies: |_| true, run: no_word_sees_a_later_one },
    Check { name: "losses_are_those_of_the_scores", applies: |_| true, run: losses_are_those_of_the_scores },
];

/// The token numbers of each row of the batch.
fn rows(subject: &Subject) -> Result<Vec<Vec<u32>>, String> {
    let ids = |inputs: &Inputs| match inputs {
        Inputs::Tokens(tokens) => Ok(tokens.ids.to_data().iter::<i64>().map(|id| id as u32).collect()),
        _ => Err("a model that reads takes tokens".to_owned()),
    };
    subject.alone.iter().map(ids).collect()
}

fn like(subject: &Subject) -> (DType, Device) {
    subject.model.like()
}

/// The states of a pass, position after position.
fn states(subject: &Subject, tokens: Tokens, pass: &Pass<'_>) -> Result<Vec<f64>, String> {
    let outputs = subject.model.forward(&Inputs::Tokens(tokens), pass).map_err(why)?;
    let states = outputs.states.ok_or("a model that reads has states")?;
    Ok(AnyTensor::from(states.h).to_f64s())
}

/// Words read one after another with a cache, and in two halves, lead to the states of all at once; rows of the cache may be picked.
pub fn reading_on_is_reading_at_once(subject: &Subject) -> Result<(), String> {
    let (rows, (dtype, device)) = (rows(subject)?, like(subject));
    let width = subject.model.width();
    let (row, other) = (&rows[0], &rows[1]);
    let whole = states(subject, Tokens::packed(&[row], dtype, &device), &Pass::bare())?;
    let starts = [0, (row.len() - other.len()) as u32];
    for first in [1, row.len() / 2] {
        let cache = Cache::default();
        let pass = Pass::bare().cache(&cache);
        let mut read = states(subject, Tokens::packed(&[&row[..first]], dtype, &device), &pass)?;
        for &word in &row[first..] {
            read.extend(states(subject, Tokens::next(&[word], &starts[..1], dtype, &device), &pass)?);
        }
        near("a state read on", &read, &whole)?;
    }
    // Two rows of unequal length, and then the second alone.
    let short = states(subject, Tokens::packed(&[other], dtype, &device), &Pass::bare())?;
    let cache = Cache::default();
    let ends = |row: &'_ [u32]| row[..row.len() - 1].to_vec();
    states(subject, Tokens::ending(&[ends(row), ends(other)], dtype, &device), &Pass::bare().cache(&cache))?;
    let picked = cache.select(&[1]);
    let last = other[other.len() - 1];
    let read = states(subject, Tokens::next(&[last], &starts[1..], dtype, &device), &Pass::bare().cache(&picked))?;
    near("a picked row read on", &read, &short[short.len() - width..])
}

/// Documents in one row have the states they have alone.
pub fn packed_documents_do_not_see_each_other(subject: &Subject) -> Result<(), String> {
    let (rows, (dtype, device)) = (rows(subject)?, like(subject));
    let together = states(subject, Tokens::packed(&rows, dtype, &device), &Pass::bare())?;
    let mut alone = vec![];
    for row in &rows {
        alone.extend(states(subject, Tokens::packed(&[row], dtype, &device), &Pass::bare())?);
    }
    near("a packed document", &together, &alone)
}

/// Rows padded in front say what rows padded behind say.
pub fn padding_in_front_changes_nothing(subject: &Subject) -> Result<(), String> {
    let (rows, (dtype, device)) = (rows(subject)?, like(subject));
    let ending = Inputs::Tokens(Tokens::ending(&rows, dtype, &device));
    near(
        "a row padded in front",
        &all_answers(&outputs(subject, &ending)?),
        &all_answers(&outputs(subject, &subject.batch)?),
    )
}

/// Another last word changes the last state and no bit of those before it.
pub fn no_word_sees_a_later_one(subject: &Subject) -> Result<(), String> {
    let (mut rows, (dtype, device), width) = (rows(subject)?, like(subject), subject.model.width());
    let row = rows.swap_remove(0);
    let mut changed = row.clone();
    let last = changed.len() - 1;
    changed[last] = u32::from(changed[last] == 0);
    let read = |row: &[u32]| states(subject, Tokens::packed(&[row], dtype, &device), &Pass::bare());
    let (one, two) = (read(&row)?, read(&changed)?);
    same_bits("a state before the changed word", &one[..last * width], &two[..last * width])?;
    if one[last * width..] == two[last * width..] { Err("the last word is not looked at".to_owned()) } else { Ok(()) }
}

/// Losses of words are those of the scores, with and without a patch at the vocabulary's own site.
pub fn losses_are_those_of_the_scores(subject: &Subject) -> Result<(), String> {
    let (model, patch) = (subject.model.as_ref(), full(subject)?);
    let features = outputs(subject, &subject.batch)?.features;
    let targets: Vec<i64> = (0..features.dims()[0] as i64).map(|row| row * 3 + 1).collect();
    let at = Tensor::<1, Int>::from_data(TensorData::new(targets.clone(), [targets.len()]), &features.device());
    for pass in [Pass::bare(), Pass::new(&patch)] {
        let scores = AnyTensor::from(pass.scores(model, features.clone()).map_err(why)?).to_f64s();
        let losses = AnyTensor::from(pass.cross_entropy(model, features.clone(), at.clone()).map_err(why)?).to_f64s();
        let expected: Vec<f64> = scores
            .chunks(scores.len() / targets.len())
            .zip(&targets)
            .map(|(row, &target)| row.iter().map(|s| s.exp()).sum::<f64>().ln() - row[target as usize])
            .collect();
        near("a loss", &losses, &expected)?;
    }
    Ok(())
}
