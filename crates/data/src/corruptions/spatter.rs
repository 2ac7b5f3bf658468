//! Drops of water and mud on the lens. Water is shaded by a chain of operations on bytes, which are those of OpenCV.

use super::plane::{Edge, Plane, Planes};
use super::{Draws, Level};

pub(super) fn spatter(picture: &Planes, level: Level, draws: &mut dyn Draws) -> Planes {
    let (drops, sigma, least, strength, mud) = level.of([
        [
            ((0.62, 0.1), 0.7, 0.7, 0.5, false),
            ((0.65, 0.1), 0.8, 0.7, 0.5, false),
            ((0.65, 0.3), 1.0, 0.69, 0.5, false),
            ((0.65, 0.1), 0.7, 0.69, 0.6, true),
            ((0.65, 0.1), 0.5, 0.68, 0.6, true),
        ],
        [
            ((0.62, 0.1), 0.7, 0.7, 0.6, false),
            ((0.65, 0.1), 0.8, 0.7, 0.6, false),
            ((0.65, 0.3), 1.0, 0.69, 0.6, false),
            ((0.65, 0.1), 0.7, 0.68, 0.6, true),
            ((0.65, 0.1), 0.5, 0.67, 0.6, true),
        ],
        [
            ((0.65, 0.3), 4.0, 0.69, 0.6, false),
            ((0.65, 0.3), 3.0, 0.68, 0.6, false),
            ((0.65, 0.3), 2.0, 0.68, 0.5, false),
            ((0.65, 0.3), 1.0, 0.65, 1.5, true),
            ((0.67, 0.4), 1.0, 0.65, 1.5, true),
        ],
    ]);
    let (height, width) = picture.size();
    let liquid = Plane::normal(height, width, drops, draws).gaussian(sigma, 4.0, Edge::Nearest);
    let liquid = liquid.map(|value| if value < least { 0.0 } else { value });
    match mud {
        true => {
            let wet = liquid.map(|value| f64::from(u8::from(value > least)));
            let cover = wet.gaussian(strength, 4.0, Edge::Nearest).map(|v| if v < 0.8 { 0.0 } else { v });
            coloured(picture, &cover, [63.0, 42.0, 20.0], true)
        }
        false => coloured(picture, &shaded(&liquid).map(|value| value * strength), [175.0, 238.0, 238.0], false),
    }
}

/// Adds a colour by the strength of each place; the picture shows through, or is `hidden` as far.
fn coloured(picture: &Planes, strength: &Plane, colour: [f64; 3], hidden: bool) -> Planes {
    picture.coloured(|at, old| {
        let strength = strength.values[at];
        let keep = if hidden { 1.0 - strength } else { 1.0 };
        [0, 1, 2].map(|channel: usize| old[channel] * keep + strength * colour[channel] / 255.0)
    })
}

/// Light on water, 0..1: drops are bright near the rim that faces the light.
fn shaded(liquid: &Plane) -> Plane {
    let bytes = liquid.map(|value| (value * 255.0).floor().clamp(0.0, 255.0));
    let far = distances(&edges(&bytes, 50.0, 150.0)).map(|distance| distance.min(20.0));
    let third = [1.0 / 3.0; 3];
    let even = equalised(&far.separable(&third, Edge::Mirror).map(|value| (value + 1e-6).floor()));
    let relief = Plane { height: 3, width: 3, values: vec![-2.0, -1.0, 0.0, -1.0, 1.0, 1.0, 0.0, 1.0, 2.0] };
    let lit = even.filtered(&relief, Edge::Mirror).map(|value| value.clamp(0.0, 255.0));
    let lit = lit.separable(&third, Edge::Mirror).map(f64::round);
    let light = bytes.zip(&lit, |liquid, lit| liquid * lit);
    let largest = light.largest();
    light.map(|value| if largest > 0.0 { value / largest } else { 0.0 })
}

/// Canny's edges of bytes: gradients by Sobel, the largest across their direction, above `high`, or above `low` and
/// connected to such.
fn edges(plane: &Plane, low: f64, high: f64) -> Vec<Vec<bool>> {
    let (height, width) = (plane.height as isize, plane.width as isize);
    let slope = |y: isize, x: isize| {
        let at = |dy: isize, dx: isize| plane.beyond(y + dy, x + dx, Edge::Nearest);
        let across = at(-1, 1) + 2.0 * at(0, 1) + at(1, 1) - at(-1, -1) - 2.0 * at(0, -1) - at(1, -1);
        let down = at(1, -1) + 2.0 * at(1, 0) + at(1, 1) - at(-1, -1) - 2.0 * at(-1, 0) - at(-1, 1);
        (across, down)
    };
    let inside = |y: isize, x: isize| (0..height).contains(&y) && (0..width).contains(&x);
    let strength = |y: isize, x: isize| match inside(y, x) {
        true => slope(y, x).0.abs() + slope(y, x).1.abs(),
        false => 0.0,
    };
    let ridge = |y: isize, x: isize| {
        let ((across, down), here) = (slope(y, x), strength(y, x));
        let (flat, steep) = ((22.5_f64).to_radians().tan(), (67.5_f64).to_radians().tan());
        if down.abs() < across.abs() * flat {
            here > strength(y, x - 1) && here >= strength(y, x + 1)
        } else if down.abs() > across.abs() * steep {
            here > strength(y - 1, x) && here >= strength(y + 1, x)
        } else {
            let side = if (across < 0.0) != (down < 0.0) { -1 } else { 1 };
            here > strength(y - 1, x - side) && here > strength(y + 1, x + side)
        }
    };
    let candidate = |y: isize, x: isize| strength(y, x) > low && ridge(y, x);
    let mut found = vec![vec![false; plane.width]; plane.height];
    let mut open = Vec::new();
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        if strength(y, x) > high && ridge(y, x) {
            found[y as usize][x as usize] = true;
            open.push((y, x));
        }
    }
    while let Some((y, x)) = open.pop() {
        for (y, x) in (0..9).map(|i| (y + i / 3 - 1, x + i % 3 - 1)) {
            if inside(y, x) && !found[y as usize][x as usize] && candidate(y, x) {
                found[y as usize][x as usize] = true;
                open.push((y, x));
            }
        }
    }
    found
}

/// How far each pixel is from the nearest edge, by steps like those of a pawn, a bishop and a knight.
fn distances(edges: &[Vec<bool>]) -> Plane {
    const STEPS: [(isize, isize, f64); 8] = [
        (0, -1, 1.0),
        (-1, 0, 1.0),
        (-1, -1, 1.4),
        (-1, 1, 1.4),
        (-1, -2, 2.1969),
        (-1, 2, 2.1969),
        (-2, -1, 2.1969),
        (-2, 1, 2.1969),
    ];
    let (height, width) = (edges.len(), edges[0].len());
    let mut far = Plane::made(height, width, |y, x| if edges[y][x] { 0.0 } else { 1e6 });
    // Forward with the steps from above, backward with those from below.
    for sign in [1, -1] {
        for i in 0..height * width {
            let i = if sign == 1 { i } else { height * width - 1 - i };
            let (y, x) = ((i / width) as isize, (i % width) as isize);
            let from = STEPS.iter().map(|&(dy, dx, length)| (y + sign * dy, x + sign * dx, length));
            let shortest = from
                .filter(|&(y, x, _)| (0..height as isize).contains(&y) && (0..width as isize).contains(&x))
                .map(|(y, x, length)| far.at(y as usize, x as usize) + length)
                .fold(far.values[i], f64::min);
            far.values[i] = shortest;
        }
    }
    far
}

/// Bytes spread over 0..255 so that each is about as frequent.
fn equalised(plane: &Plane) -> Plane {
    let mut counts = [0_usize; 256];
    plane.values.iter().for_each(|&value| counts[value as usize] += 1);
    let first = counts.iter().position(|&count| count > 0).unwrap_or(0);
    let others = plane.values.len() - counts[first];
    if others == 0 {
        return plane.clone();
    }
    let mut sum = 0;
    let table: Vec<f64> = (0..256)
        .map(|value| {
            sum += if value > first { counts[value] } else { 0 };
            (sum as f64 * 255.0 / others as f64).round_ties_even()
        })
        .collect();
    plane.map(|value| table[value as usize])
}
