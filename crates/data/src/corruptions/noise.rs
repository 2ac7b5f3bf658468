//! Noise: each value is changed by draws of its own.

use super::plane::Planes;
use super::{Draws, Level};

pub(super) fn gaussian(picture: Planes, level: Level, draws: &mut dyn Draws) -> Planes {
    let sigma =
        level.of([[0.04, 0.06, 0.08, 0.09, 0.10], [0.04, 0.08, 0.12, 0.15, 0.18], [0.08, 0.12, 0.18, 0.26, 0.38]]);
    picture.pixelwise(|value| value + sigma * draws.normal())
}

pub(super) fn shot(picture: Planes, level: Level, draws: &mut dyn Draws) -> Planes {
    let photons =
        level.of([[500.0, 250.0, 100.0, 75.0, 50.0], [250.0, 100.0, 50.0, 30.0, 15.0], [60.0, 25.0, 12.0, 5.0, 3.0]]);
    picture.pixelwise(|value| draws.poisson(value * photons) / photons)
}

pub(super) fn impulse(picture: Planes, level: Level, draws: &mut dyn Draws) -> Planes {
    let share =
        level.of([[0.01, 0.02, 0.03, 0.05, 0.07], [0.01, 0.02, 0.05, 0.08, 0.14], [0.03, 0.06, 0.09, 0.17, 0.27]]);
    // All values are first chosen or not; then all get the colour that the chosen ones take.
    let count = picture.0.iter().map(|plane| plane.values.len()).sum();
    let chosen: Vec<bool> = (0..count).map(|_| draws.uniform() <= share).collect();
    let mut chosen = chosen.into_iter();
    picture.pixelwise(|value| match (chosen.next(), draws.uniform() <= 0.5) {
        (Some(true), white) => f64::from(u8::from(white)),
        _ => value,
    })
}

pub(super) fn speckle(picture: Planes, level: Level, draws: &mut dyn Draws) -> Planes {
    let sigma =
        level.of([[0.06, 0.10, 0.12, 0.16, 0.20], [0.15, 0.20, 0.25, 0.30, 0.35], [0.15, 0.20, 0.35, 0.45, 0.60]]);
    picture.pixelwise(|value| value + value * sigma * draws.normal())
}
