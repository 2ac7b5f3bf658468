//! Conformal prediction: intervals and sets that hold the truth as often as was asked for.
