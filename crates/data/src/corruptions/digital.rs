//! What cameras, files and lenses do.

use super::plane::{Edge, Plane, Planes};
use super::{Draws, Level};

pub(super) fn contrast(picture: &Planes, level: Level) -> Planes {
    let keep = level.of([[0.75, 0.5, 0.4, 0.3, 0.15], [0.4, 0.3, 0.2, 0.1, 0.05], [0.4, 0.3, 0.2, 0.1, 0.05]]);
    picture.each(|plane| {
        let mean = plane.mean();
        plane.map(|value| (value - mean) * keep + mean)
    })
}

/// Changes the saturation of hue, saturation and value: the distance of each part from the largest one.
pub(super) fn saturate(picture: &Planes, level: Level) -> Planes {
    let (times, more): (f64, f64) = level.of([
        [(0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2)],
        [(0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (30.0, 0.2)],
        [(0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2)],
    ]);
    if picture.0.len() == 1 {
        return picture.clone();
    }
    picture.coloured(|_, colour| {
        let [least, most] = [colour.into_iter().fold(1.0, f64::min), colour.into_iter().fold(0.0, f64::max)];
        if most <= least {
            // Gray has the hue of red.
            let other = most * (1.0 - more.clamp(0.0, 1.0));
            return [most, other, other];
        }
        let old = (most - least) / most;
        let new = (old * times + more).clamp(0.0, 1.0);
        colour.map(|part| most - (most - part) * new / old)
    })
}

/// A shift of three points with all between them, then of each pixel by smooth random fields.
pub(super) fn elastic(picture: &Planes, level: Level, draws: &mut dyn Draws) -> Planes {
    // Strength and smoothness of the fields and the most a point moves, as shares of the shorter side.
    let large = 244.0 / 224.0;
    let (strength, sigma, most) = level.of([
        [(0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)],
        [(0.0, 0.0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)],
        [
            (large * 2.0, large * 0.7, large * 0.1),
            (large * 2.0, large * 0.08, large * 0.2),
            (large * 0.05, large * 0.01, large * 0.02),
            (large * 0.07, large * 0.01, large * 0.02),
            (large * 0.12, large * 0.01, large * 0.02),
        ],
    ]);
    let (height, width) = picture.size();
    let side = height.min(width);
    let (strength, sigma, most) = (strength * side as f64, sigma * side as f64, most * side as f64);
    let (x, y, arm) = ((width / 2) as f64, (height / 2) as f64, (side / 3) as f64);
    let points = [[x + arm, y + arm], [x + arm, y - arm], [x - arm, y - arm]];
    let moved = points.map(|point| point.map(|place| place + (2.0 * draws.uniform() - 1.0) * most));
    let back = affine(moved, points);
    let picture = picture.each(|plane| {
        Plane::made(height, width, |y, x| {
            let [x, y] = back.map(|[a, b, c]| a * x as f64 + b * y as f64 + c);
            plane.bilinear(y, x, Edge::Mirror)
        })
    });
    let mut field = || {
        let noise = Plane::made(height, width, |_, _| 2.0 * draws.uniform() - 1.0);
        noise.gaussian(sigma, 3.0, Edge::Reflect).map(|value| value * strength)
    };
    let (right, down) = (field(), field());
    picture.each(|plane| {
        Plane::made(height, width, |y, x| {
            plane.bilinear(y as f64 + down.at(y, x), x as f64 + right.at(y, x), Edge::Reflect)
        })
    })
}

/// Rows `[a, b, c]` of the map `a x + b y + c` that brings three points `from` to their places `to`.
fn affine(from: [[f64; 2]; 3], to: [[f64; 2]; 3]) -> [[f64; 3]; 2] {
    let [[x0, y0], [x1, y1], [x2, y2]] = from;
    let area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0);
    // Points drawn onto one line have no such map; the picture stays where it is.
    if area.abs() < 1e-9 {
        return [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]];
    }
    [0, 1].map(|axis: usize| {
        let [t0, t1, t2] = to.map(|point| point[axis]);
        let a = ((t1 - t0) * (y2 - y0) - (t2 - t0) * (y1 - y0)) / area;
        let b = ((x1 - x0) * (t2 - t0) - (x2 - x0) * (t1 - t0)) / area;
        [a, b, t0 - a * x0 - b * y0]
    })
}

pub(super) fn pixelate(picture: &Planes, level: Level) -> Planes {
    let share = level.of([[0.95, 0.9, 0.85, 0.75, 0.65], [0.9, 0.8, 0.7, 0.6, 0.5], [0.6, 0.5, 0.4, 0.3, 0.25]]);
    let (height, width) = picture.size();
    let fewer = |len: usize| ((len as f64 * share) as usize).max(1);
    picture.each(|plane| boxed(&boxed(plane, fewer(height), fewer(width)), height, width))
}

/// Resized so that each new pixel is the mean of the old ones whose middles it covers.
fn boxed(plane: &Plane, height: usize, width: usize) -> Plane {
    let covered = |at: usize, old: usize, new: usize| {
        let scale = old as f64 / new as f64;
        let (middle, support) = ((at as f64 + 0.5) * scale, 0.5 * scale.max(1.0));
        let inside = |i: &usize| {
            let place = (*i as f64 - middle + 0.5) / scale.max(1.0);
            place > -0.5 && place <= 0.5
        };
        let first = (middle - support + 0.5).max(0.0) as usize;
        let last = ((middle + support + 0.5) as usize).min(old);
        (first..last).filter(inside).collect::<Vec<usize>>()
    };
    let rows: Vec<Vec<usize>> = (0..height).map(|y| covered(y, plane.height, height)).collect();
    let columns: Vec<Vec<usize>> = (0..width).map(|x| covered(x, plane.width, width)).collect();
    Plane::made(height, width, |y, x| {
        let sum: f64 = rows[y].iter().map(|&y| columns[x].iter().map(|&x| plane.at(y, x)).sum::<f64>()).sum();
        sum / (rows[y].len() * columns[x].len()) as f64
    })
}

/// Divisors of the coefficients of brightness and of colour at quality 50 (ITU-T T.81, annex K), row by row.
const LUMA: [u16; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
];
const CHROMA: [u16; 64] = [
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99,
];

/// What a JPEG file loses: colours in blocks of two by two pixels, and the rounding of coefficients. The rest of the
/// format loses nothing and is left out.
pub(super) fn jpeg(picture: &Planes, level: Level) -> Planes {
    let quality = level.of([[80, 65, 58, 50, 40], [65, 58, 50, 40, 25], [25, 18, 15, 10, 7]]);
    let scale: u16 = if quality < 50 { 5000 / quality } else { 200 - 2 * quality };
    let divisors = |base: [u16; 64]| base.map(|entry| f64::from(((entry * scale + 50) / 100).clamp(1, 255)));
    let byte = |value: f64| (value * 255.0).round().clamp(0.0, 255.0);
    let bytes = |value: f64| value.round().clamp(0.0, 255.0);
    let bright = |plane: &Plane| coded(&padded(plane, 8), &divisors(LUMA));
    let [red, green, blue] = picture.0.as_slice() else {
        return picture.each(|plane| cut(&bright(&plane.map(byte)), plane).map(|value| value / 255.0));
    };
    let mixed = |r: f64, g: f64, b: f64, middle: f64| {
        let rg = red.zip(green, |red, green| r * byte(red) + g * byte(green));
        rg.zip(blue, |sum, blue| bytes(sum + b * byte(blue) + middle))
    };
    let brightness = cut(&bright(&mixed(0.299, 0.587, 0.114, 0.0)), red);
    let colour = |r, g, b| {
        let plane = padded(&mixed(r, g, b, 128.0), 16);
        let halved = Plane::made(plane.height / 2, plane.width / 2, |y, x| {
            let sum = plane.at(2 * y, 2 * x)
                + plane.at(2 * y, 2 * x + 1)
                + plane.at(2 * y + 1, 2 * x)
                + plane.at(2 * y + 1, 2 * x + 1);
            // A half goes down and up by turns, so that it does not brighten or darken.
            ((sum + 1.0 + (x % 2) as f64) / 4.0).floor()
        });
        // Only what the picture needs is kept before it is enlarged: the border repeats from there.
        let decoded = coded(&halved, &divisors(CHROMA));
        let needed = Plane::made(red.height.div_ceil(2), red.width.div_ceil(2), |y, x| decoded.at(y, x));
        Plane::made(red.height, red.width, |y, x| {
            let place = |at: usize| (at as f64 - 0.5) / 2.0;
            needed.bilinear(place(y), place(x), Edge::Nearest).round() - 128.0
        })
    };
    let blueness = colour(-0.168_735_892, -0.331_264_108, 0.5);
    let redness = colour(0.5, -0.418_687_589, -0.081_312_411);
    let green = brightness.zip(&blueness, |value, blue| value - 0.344_136_286 * blue);
    Planes(vec![
        brightness.zip(&redness, |value, red| bytes(value + 1.402 * red) / 255.0),
        green.zip(&redness, |value, red| bytes(value - 0.714_136_286 * red) / 255.0),
        brightness.zip(&blueness, |value, blue| bytes(value + 1.772 * blue) / 255.0),
    ])
}

/// The last row and column repeated up to a whole number of blocks.
fn padded(plane: &Plane, block: usize) -> Plane {
    let whole = |len: usize| len.next_multiple_of(block);
    Plane::made(whole(plane.height), whole(plane.width), |y, x| {
        plane.at(y.min(plane.height - 1), x.min(plane.width - 1))
    })
}

/// The part of `plane` that has the size of `model`.
fn cut(plane: &Plane, model: &Plane) -> Plane {
    Plane::made(model.height, model.width, |y, x| plane.at(y, x))
}

/// Bytes after their cosine coefficients, block by block, were rounded to multiples of the divisors.
fn coded(plane: &Plane, divisors: &[f64; 64]) -> Plane {
    let wave: Vec<f64> = (0..64)
        .map(|i| {
            let (frequency, place) = (f64::from(i / 8), f64::from(i % 8));
            let scale = if i < 8 { 0.125_f64.sqrt() } else { 0.5 };
            scale * ((2.0 * place + 1.0) * frequency * std::f64::consts::PI / 16.0).cos()
        })
        .collect();
    // Row by row: `wave[8 frequency + place]`; the transform along one axis turns the block over, twice is once.
    let along = |block: &[f64; 64], forward: bool| {
        let mut turned = [0.0; 64];
        for (i, entry) in turned.iter_mut().enumerate() {
            let (to, row) = (i / 8, i % 8);
            *entry = (0..8)
                .map(|from| block[8 * row + from] * if forward { wave[8 * to + from] } else { wave[8 * from + to] })
                .sum();
        }
        turned
    };
    let mut decoded = plane.clone();
    for (top, left) in (0..plane.height / 8).flat_map(|y| (0..plane.width / 8).map(move |x| (8 * y, 8 * x))) {
        let mut block = [0.0; 64];
        block.iter_mut().enumerate().for_each(|(i, entry)| *entry = plane.at(top + i / 8, left + i % 8) - 128.0);
        let mut coefficients = along(&along(&block, true), true);
        coefficients
            .iter_mut()
            .zip(divisors)
            .for_each(|(entry, divisor)| *entry = (*entry / divisor).round() * divisor);
        let block = along(&along(&coefficients, false), false);
        for (i, value) in block.iter().enumerate() {
            decoded.values[(top + i / 8) * plane.width + left + i % 8] = (value + 128.0).round().clamp(0.0, 255.0);
        }
    }
    decoded
}
