//! Weather and light.

use super::plane::{Plane, Planes, luma};
use super::{Draws, Level};

pub(super) fn snow(picture: &Planes, level: Level, draws: &mut dyn Draws) -> Planes {
    let (flakes, zoom, least, (radius, sigma), keep) = level.of([
        [
            ((0.10, 0.2), 1.0, 0.6, (8, 3.0), 0.95),
            ((0.10, 0.2), 1.0, 0.5, (10, 4.0), 0.9),
            ((0.15, 0.3), 1.75, 0.55, (10, 4.0), 0.9),
            ((0.25, 0.3), 2.25, 0.6, (12, 6.0), 0.85),
            ((0.30, 0.3), 1.25, 0.65, (14, 12.0), 0.8),
        ],
        [
            ((0.10, 0.2), 1.0, 0.6, (8, 3.0), 0.8),
            ((0.10, 0.2), 1.0, 0.5, (10, 4.0), 0.8),
            ((0.15, 0.3), 1.75, 0.55, (10, 4.0), 0.7),
            ((0.25, 0.3), 2.25, 0.6, (12, 6.0), 0.65),
            ((0.30, 0.3), 1.25, 0.65, (14, 12.0), 0.6),
        ],
        [
            ((0.10, 0.3), 3.0, 0.5, (10, 4.0), 0.8),
            ((0.20, 0.3), 2.0, 0.5, (12, 4.0), 0.7),
            ((0.55, 0.3), 4.0, 0.9, (12, 8.0), 0.7),
            ((0.55, 0.3), 4.5, 0.85, (12, 8.0), 0.65),
            ((0.55, 0.3), 2.5, 0.85, (12, 12.0), 0.55),
        ],
    ]);
    let (height, width) = picture.size();
    let layer = Plane::normal(height, width, flakes, draws).zoomed(zoom);
    let layer = layer.map(|value| if value < least { 0.0 } else { value.min(1.0) });
    let layer = layer.moved(radius, sigma, 90.0 * draws.uniform() - 135.0);
    let last = layer.values.len() - 1;
    let mut pale = picture.clone();
    for at in 0..=last {
        let bright = 0.5
            + 1.5 * {
                match picture.0.as_slice() {
                    [red, green, blue] => luma([red.values[at], green.values[at], blue.values[at]]),
                    planes => planes[0].values[at],
                }
            };
        for plane in &mut pale.0 {
            let value = plane.values[at];
            // The second layer is the first one turned by half a turn.
            plane.values[at] =
                keep * value + (1.0 - keep) * value.max(bright) + layer.values[at] + layer.values[last - at];
        }
    }
    pale
}

/// Mean of red, green and blue and the deviation within a crop of the five pictures that the authors draw from.
const FROSTS: [([f64; 3], f64); 5] = [
    ([0.305, 0.585, 0.650], 0.068),
    ([0.787, 0.805, 0.841], 0.079),
    ([0.787, 0.805, 0.841], 0.079),
    ([0.540, 0.599, 0.648], 0.104),
    ([0.441, 0.484, 0.528], 0.138),
];

/// Ice of a `look`: bright veins where a cloudy field crosses its middle, over a grain.
fn ice((height, width): (usize, usize), draws: &mut dyn Draws) -> [Plane; 3] {
    let (means, deviation) = FROSTS[draws.below(FROSTS.len())];
    let veins = Plane::plasma(height, width, 1.2, draws).map(|value| (1.0 - (2.0 * value - 1.0).abs()).powi(3));
    let grain = Plane::plasma(height, width, 1.05, draws);
    let texture = veins.zip(&grain, |vein, grain| vein + 0.5 * grain);
    let mean = texture.mean();
    let spread = texture.map(|value| (value - mean).powi(2)).mean().sqrt().max(f64::MIN_POSITIVE);
    means.map(|level| texture.map(|value| (level + deviation * (value - mean) / spread).clamp(0.0, 1.0)))
}

pub(super) fn frost(picture: &Planes, level: Level, draws: &mut dyn Draws) -> Planes {
    let (keep, put) = level.of([
        [(1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
        [(1.0, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)],
        [(1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)],
    ]);
    let ice = ice(picture.size(), draws);
    let of = |at: usize| [0, 1, 2].map(|channel: usize| put * ice[channel].values[at]);
    picture.coloured(|at, colour| {
        let ice = of(at);
        [0, 1, 2].map(|channel: usize| keep * colour[channel] + ice[channel])
    })
}

pub(super) fn fog(picture: &Planes, level: Level, draws: &mut dyn Draws) -> Planes {
    let (density, decay) = level.of([
        [(0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75)],
        [(0.4, 3.0), (0.7, 3.0), (1.0, 2.5), (1.5, 2.0), (2.0, 1.75)],
        [(1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)],
    ]);
    let (height, width) = picture.size();
    let clouds = Plane::plasma(height, width, decay, draws);
    let brightest = picture.0.iter().map(Plane::largest).fold(0.0, f64::max);
    picture
        .each(|plane| plane.zip(&clouds, |value, cloud| (value + density * cloud) * brightest / (brightest + density)))
}

/// Raises the value of hue, saturation and value, which multiplies the colour; black becomes gray.
pub(super) fn brightness(picture: &Planes, level: Level) -> Planes {
    let more = level.of([[0.05, 0.1, 0.15, 0.2, 0.3], [0.1, 0.2, 0.3, 0.4, 0.5], [0.1, 0.2, 0.3, 0.4, 0.5]]);
    picture.coloured(|_, colour| {
        let value = colour.into_iter().fold(0.0, f64::max);
        let raised = (value + more).min(1.0);
        colour.map(|part| if value > 0.0 { part * raised / value } else { raised })
    })
}
