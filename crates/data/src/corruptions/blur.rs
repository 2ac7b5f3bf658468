//! Blurs.

use super::plane::{Edge, Plane, Planes, gaussian_weights};
use super::{Draws, Level};

pub(super) fn gaussian(picture: &Planes, level: Level) -> Planes {
    let sigma = level.of([[0.4, 0.6, 0.7, 0.8, 1.0], [0.5, 0.75, 1.0, 1.25, 1.5], [1.0, 2.0, 3.0, 4.0, 6.0]]);
    picture.each(|plane| plane.gaussian(sigma, 4.0, Edge::Nearest))
}

/// A disk of weights whose rim is softened.
fn disk(radius: f64, soft: f64) -> Plane {
    let (reach, rim) = if radius <= 8.0 { (8, 1) } else { (radius as usize, 2) };
    let side = 2 * reach + 1;
    let square = |i: usize| (i as f64 - reach as f64).powi(2);
    let hard = Plane::made(side, side, |y, x| f64::from(u8::from(square(y) + square(x) <= radius * radius)));
    let total: f64 = hard.values.iter().sum();
    hard.map(|weight| weight / total).separable(&gaussian_weights(rim, soft), Edge::Mirror)
}

pub(super) fn defocus(picture: &Planes, level: Level) -> Planes {
    let (radius, soft) = level.of([
        [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)],
        [(0.5, 0.6), (1.0, 0.1), (1.5, 0.1), (2.5, 0.01), (3.0, 0.1)],
        [(3.0, 0.1), (4.0, 0.5), (6.0, 0.5), (8.0, 0.5), (10.0, 0.5)],
    ]);
    let kernel = disk(radius, soft);
    picture.each(|plane| plane.filtered(&kernel, Edge::Mirror))
}

pub(super) fn glass(picture: &Planes, level: Level, draws: &mut dyn Draws) -> Planes {
    let (sigma, reach, rounds) = level.of([
        [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
        [(0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)],
        [(0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
    ]);
    let blurred = |picture: &Planes| picture.each(|plane| plane.gaussian(sigma, 4.0, Edge::Nearest));
    let mut picture = blurred(picture);
    let (height, width) = picture.size();
    for _ in 0..rounds {
        for y in (reach + 1..=height - reach).rev() {
            for x in (reach + 1..=width - reach).rev() {
                let (dx, dy) = (draws.below(2 * reach), draws.below(2 * reach));
                let from = (y + dy - reach, x + dx - reach);
                picture.0.iter_mut().for_each(|plane| plane.values[y * width + x] = plane.at(from.0, from.1));
            }
        }
    }
    blurred(&picture)
}

pub(super) fn motion(picture: &Planes, level: Level, draws: &mut dyn Draws) -> Planes {
    let (radius, sigma) = level.of([
        [(6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5)],
        [(10, 1.0), (10, 1.5), (10, 2.0), (10, 2.5), (12, 3.0)],
        [(10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0)],
    ]);
    let angle = 90.0 * draws.uniform() - 45.0;
    picture.each(|plane| plane.moved(radius, sigma, angle))
}

pub(super) fn zoom(picture: &Planes, level: Level) -> Planes {
    // The step between factors and their number; the first is 1.
    let small = [(0.01, 7), (0.01, 12), (0.01, 16), (0.01, 21), (0.01, 26)];
    let (step, count) = level.of([small, small, [(0.01, 12), (0.01, 16), (0.02, 11), (0.02, 13), (0.03, 11)]]);
    // The step as a difference of doubles: a factor of 1.25 is a little more, and 26 pixels become 33 and not 32.
    let step = (1.0 + step) - 1.0;
    picture.each(|plane| {
        let sum = (0_u32..count)
            .fold(plane.clone(), |sum, i| sum.zip(&plane.zoomed(1.0 + f64::from(i) * step), |sum, value| sum + value));
        sum.map(|value| value / f64::from(count + 1))
    })
}
