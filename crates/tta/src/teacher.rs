//! A slow copy of what is trained.

use acclimate_core::Params;

/// The teacher after a step of its student, `m·teacher + (1 − m)·student`.
pub(crate) fn follow(teacher: &Params, student: &Params, momentum: f64) -> Params {
    teacher.zip(student, |teacher, student| teacher * momentum + student * (1.0 - momentum))
}
