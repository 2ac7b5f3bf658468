//! Random views of a batch of images: colours, place, blur and noise.

use acclimate_core::{AnyTensor, Error, Inputs, Result, Rng};
use burn::tensor::Tensor;

/// The values that pixels may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pixels {
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Pixels {
    /// Refuses a range without room.
    ///
    /// # Errors
    /// Names the method and its setting `high`.
    pub(crate) fn check(self, method: &'static str) -> Result<()> {
        if self.low < self.high {
            return Ok(());
        }
        let (value, why) = (self.high.to_string(), format!("must be above `low`, {}", self.low));
        Err(Error::Param { method, param: "high", value, why })
    }
}

/// What happens to all images of a batch alike; noise alone differs by pixel.
#[derive(Clone, Debug)]
struct View {
    /// In which order colours change.
    order: [usize; 5],
    /// Factors of brightness, contrast and saturation, the turn of the hue, the power of gamma.
    colours: [f64; 5],
    /// In radians.
    angle: f64,
    /// Pixels to the right and down.
    shift: [f64; 2],
    scale: f64,
    /// Deviation of the blur, in pixels.
    blur: f64,
    flip: bool,
}

/// Deviation of the noise, as a share of the range of pixels.
const NOISE: f64 = 0.005;

/// A view of the batch: in random order brightness by 0.6 to 1.4, contrast 0.7 to 1.3, saturation 0.5 to 1.5, hue ±0.06 of a turn and
/// gamma 0.7 to 1.3; then a turn of ±15°, a shift of up to an eighth of each side, a scale of 0.9 to 1.1 (the last pixel goes on beyond the
/// edge), a blur over five pixels of deviation up to 0.5, a flip by chance, noise of 0.005. Images of one channel have no hue.
///
/// # Errors
/// When `who` gets inputs that are no images.
pub(crate) fn view(who: &str, batch: &Inputs, pixels: Pixels, rng: &mut Rng) -> Result<Inputs> {
    let images = images_of(who, batch)?;
    let [rows, channels, height, width] = images.dims();
    let view = View::draw(rng, height, width);
    let Pixels { low, high } = pixels;
    let mut out = Vec::with_capacity(rows * channels * height * width);
    let numbers = AnyTensor::from(images.clone()).to_f64s();
    for image in numbers.chunks(channels * height * width) {
        let mut image: Vec<f64> = image.iter().map(|x| ((x - low) / (high - low)).clamp(0.0, 1.0)).collect();
        view.colour(&mut image, channels);
        for plane in image.chunks(height * width) {
            let moved = view.place(plane, height, width);
            out.extend(moved.into_iter().map(|x| low + (high - low) * (x + NOISE * rng.normal()).clamp(0.0, 1.0)));
        }
    }
    let out = AnyTensor::from_f64s(out, &images.dims(), images.dtype(), &images.device());
    let images: Tensor<4> = out.get().expect("made with four axes");
    Ok(Inputs::Images(images))
}

/// Some rows of the batch, each image cut into `grid` × `grid` patches in an order of its own. Where a side is no multiple of the grid,
/// its last pixels stay.
///
/// # Errors
/// When `who` gets inputs that are no images.
pub(crate) fn shuffled(who: &str, batch: &Inputs, rows: &[i64], grid: usize, rng: &mut Rng) -> Result<Inputs> {
    let images = images_of(who, batch)?;
    let [_, channels, height, width] = images.dims();
    let (high, wide) = (height / grid, width / grid);
    let numbers = AnyTensor::from(images.clone()).to_f64s();
    let mut out = Vec::with_capacity(rows.len() * channels * height * width);
    for &row in rows {
        let keys: Vec<f64> = (0..grid * grid).map(|_| rng.uniform()).collect();
        let mut order: Vec<usize> = (0..grid * grid).collect();
        order.sort_by(|&a, &b| keys[a].total_cmp(&keys[b]));
        // From where in the image a pixel comes.
        let from = |y: usize, x: usize| {
            if y >= grid * high || x >= grid * wide {
                return y * width + x;
            }
            let patch = order[y / high * grid + x / wide];
            (patch / grid * high + y % high) * width + patch % grid * wide + x % wide
        };
        for plane in numbers[row as usize * channels * height * width..].chunks(height * width).take(channels) {
            out.extend((0..height * width).map(|at| plane[from(at / width, at % width)]));
        }
    }
    let shape = [rows.len(), channels, height, width];
    let out = AnyTensor::from_f64s(out, &shape, images.dtype(), &images.device());
    let images: Tensor<4> = out.get().expect("made with four axes");
    Ok(Inputs::Images(images))
}

fn images_of<'b>(who: &str, batch: &'b Inputs) -> Result<&'b Tensor<4>> {
    match batch {
        Inputs::Images(images) => Ok(images),
        _ => Err(Error::Unsupported {
            who: who.to_owned(),
            what: "augment inputs that are no images".to_owned(),
            instead: "choose a method without augmentations".to_owned(),
        }),
    }
}

impl View {
    fn draw(rng: &mut Rng, height: usize, width: usize) -> Self {
        let keys: [f64; 5] = std::array::from_fn(|_| rng.uniform());
        let mut order = [0, 1, 2, 3, 4];
        order.sort_by(|&a, &b| keys[a].total_cmp(&keys[b]));
        let mut between = |low: f64, high: f64| low + (high - low) * rng.uniform();
        let colours = [(0.6, 1.4), (0.7, 1.3), (0.5, 1.5), (-0.06, 0.06), (0.7, 1.3)].map(|(a, b)| between(a, b));
        let angle = between(-15.0, 15.0).to_radians();
        let shift = [width, height].map(|side| {
            let most = side as f64 / 8.0;
            between(-most, most).round()
        });
        let (scale, blur) = (between(0.9, 1.1), between(0.001, 0.5));
        let flip = between(0.0, 1.0) < 0.5;
        Self { order, colours, angle, shift, scale, blur, flip }
    }

    /// Changes the colours of one image whose pixels are in [0, 1].
    fn colour(&self, image: &mut [f64], channels: usize) {
        let pixels = image.len() / channels;
        let coloured = channels == 3;
        let grey =
            |image: &[f64], at: usize| 0.2989 * image[at] + 0.587 * image[pixels + at] + 0.114 * image[2 * pixels + at];
        for kind in self.order {
            let by = self.colours[kind];
            match kind {
                0 => image.iter_mut().for_each(|x| *x = (*x * by).clamp(0.0, 1.0)),
                1 => {
                    let mean = if coloured {
                        (0..pixels).map(|at| grey(image, at)).sum::<f64>() / pixels as f64
                    } else {
                        image.iter().sum::<f64>() / image.len() as f64
                    };
                    image.iter_mut().for_each(|x| *x = (*x * by + mean * (1.0 - by)).clamp(0.0, 1.0));
                }
                2 if coloured => {
                    for at in 0..pixels {
                        let grey = grey(image, at);
                        for c in 0..3 {
                            let x = &mut image[c * pixels + at];
                            *x = (*x * by + grey * (1.0 - by)).clamp(0.0, 1.0);
                        }
                    }
                }
                3 if coloured => {
                    for at in 0..pixels {
                        let rgb = [0, 1, 2].map(|c| image[c * pixels + at]);
                        for (c, x) in turned(rgb, by).into_iter().enumerate() {
                            image[c * pixels + at] = x;
                        }
                    }
                }
                4 => image.iter_mut().for_each(|x| *x = x.clamp(1e-8, 1.0).powf(by)),
                _ => {}
            }
        }
    }

    /// One channel turned, shifted, scaled, blurred and flipped.
    fn place(&self, plane: &[f64], height: usize, width: usize) -> Vec<f64> {
        const MARGIN: usize = 2;
        let (sin, cos) = self.angle.sin_cos();
        let (wide, high) = (width + 2 * MARGIN, height + 2 * MARGIN);
        let pixel = |x: f64, y: f64| {
            let inside = |at: f64, side: usize| at.clamp(0.0, (side - 1) as f64) as usize;
            plane[inside(y, height) * width + inside(x, width)]
        };
        // From where in the image each pixel comes, and from where in a wider one that the blur looks at.
        let mut moved = Vec::with_capacity(wide * high);
        for row in 0..high {
            for column in 0..wide {
                let u = column as f64 - MARGIN as f64 + 0.5 - width as f64 / 2.0 - self.shift[0];
                let v = row as f64 - MARGIN as f64 + 0.5 - height as f64 / 2.0 - self.shift[1];
                let x = (cos * u + sin * v) / self.scale + width as f64 / 2.0 - 0.5;
                let y = (cos * v - sin * u) / self.scale + height as f64 / 2.0 - 0.5;
                let (left, top) = (x.floor(), y.floor());
                let (right, down) = (x - left, y - top);
                let above = pixel(left, top) * (1.0 - right) + pixel(left + 1.0, top) * right;
                let below = pixel(left, top + 1.0) * (1.0 - right) + pixel(left + 1.0, top + 1.0) * right;
                moved.push(above * (1.0 - down) + below * down);
            }
        }
        let taps = [-2.0, -1.0, 0.0, 1.0, 2.0].map(|at: f64| (-0.5 * (at / self.blur).powi(2)).exp());
        let sum: f64 = taps.iter().sum();
        let along = |at: &dyn Fn(usize) -> f64| (0..5).map(|tap| taps[tap] / sum * at(tap)).sum::<f64>();
        let rows: Vec<f64> = (0..high * width)
            .map(|at| {
                let (row, column) = (at / width, at % width);
                along(&|tap| moved[row * wide + column + tap])
            })
            .collect();
        let mut out: Vec<f64> = (0..height * width).map(|at| along(&|tap| rows[at + tap * width])).collect();
        if self.flip {
            out.chunks_mut(width).for_each(<[f64]>::reverse);
        }
        out
    }
}

/// A colour with its hue turned by a share of the circle.
fn turned(rgb: [f64; 3], by: f64) -> [f64; 3] {
    let [r, g, b] = rgb;
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    let range = most - least;
    if range == 0.0 {
        return rgb;
    }
    let sixth = if most == r {
        (g - b) / range
    } else if most == g {
        2.0 + (b - r) / range
    } else {
        4.0 + (r - g) / range
    };
    let hue = 6.0 * (sixth / 6.0 + by).rem_euclid(1.0);
    // Each channel falls from the most to the least as the hue goes away from its own.
    [5.0, 3.0, 1.0].map(|own| {
        let away = (own + hue).rem_euclid(6.0);
        most - range * away.min(4.0 - away).clamp(0.0, 1.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn still() -> View {
        View {
            order: [0, 1, 2, 3, 4],
            colours: [1.0, 1.0, 1.0, 0.0, 1.0],
            angle: 0.0,
            shift: [0.0; 2],
            scale: 1.0,
            blur: 0.001,
            flip: false,
        }
    }

    fn plane() -> Vec<f64> {
        (0..30).map(|at| f64::from(at * 7 % 30) / 30.0).collect()
    }

    fn near(a: &[f64], b: &[f64]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12)
    }

    #[test]
    fn a_view_that_changes_nothing_is_the_image() {
        assert!(near(&still().place(&plane(), 5, 6), &plane()));
        let mut image: Vec<f64> = plane();
        still().colour(&mut image, 3);
        assert!(image.iter().zip(plane()).all(|(a, b)| (a - b.max(1e-8)).abs() < 1e-12));
    }

    #[test]
    fn a_shift_moves_pixels_right_and_down() {
        let moved = View { shift: [1.0, 2.0], ..still() }.place(&plane(), 5, 6);
        assert!((moved[3 * 6 + 4] - plane()[6 + 3]).abs() < 1e-12);
    }

    #[test]
    fn two_flips_are_none() {
        let flipped = View { flip: true, ..still() };
        let once = flipped.place(&plane(), 5, 6);
        assert!(!near(&once, &plane()));
        assert!(near(&flipped.place(&once, 5, 6), &plane()));
    }

    #[test]
    fn a_quarter_turn_four_times_is_none() {
        let turned = View { angle: std::f64::consts::FRAC_PI_2, ..still() };
        let square: Vec<f64> = plane()[..25].to_vec();
        let four = (0..4).fold(square.clone(), |plane, _| turned.place(&plane, 5, 5));
        assert!(near(&four, &square));
    }

    #[test]
    fn a_third_of_a_turn_makes_red_green() {
        assert!(near(&turned([0.9, 0.2, 0.2], 1.0 / 3.0), &[0.2, 0.9, 0.2]));
        assert!(near(&turned([0.9, 0.2, 0.2], -1.0 / 3.0), &[0.2, 0.2, 0.9]));
        assert!(near(&turned([0.4, 0.4, 0.4], 0.06), &[0.4; 3]));
        assert!(near(&turned([0.1, 0.5, 0.8], 1.0), &[0.1, 0.5, 0.8]));
    }

    #[test]
    fn shuffled_patches_are_those_of_the_row() {
        let device = burn::tensor::Device::flex();
        let values: Vec<f64> = (0..2 * 25).map(f64::from).collect();
        let images = AnyTensor::from_f64s(values, &[2, 1, 5, 5], burn::tensor::DType::F64, &device).get().unwrap();
        let shuffled = |step| {
            let mut rng = Rng::new(0, "patches", step);
            match shuffled("me", &Inputs::Images(images.clone()), &[1], 2, &mut rng).unwrap() {
                Inputs::Images(x) => AnyTensor::from(x).to_f64s(),
                _ => panic!("images"),
            }
        };
        assert!((0..20).any(|step| shuffled(step)[0] != 25.0));
        for step in 0..20 {
            let seen = shuffled(step);
            // The last row and column stay; each patch begins with a corner of one.
            assert!((0..5).all(|at| seen[20 + at] == (45 + at) as f64 && seen[5 * at + 4] == (29 + 5 * at) as f64));
            let mut corners = [0, 2, 10, 12].map(|at| seen[at]);
            assert!(corners.iter().zip([0, 2, 10, 12]).all(|(x, at)| seen[at + 6] == x + 6.0));
            corners.sort_by(f64::total_cmp);
            assert_eq!(corners, [25.0, 27.0, 35.0, 37.0]);
        }
    }

    #[test]
    fn an_even_image_stays_even_but_for_noise() {
        let images = Tensor::<4>::full([2, 3, 8, 8], 0.5, &burn::tensor::Device::flex());
        let mut rng = Rng::new(0, "view", 0);
        let Inputs::Images(seen) =
            view("me", &Inputs::Images(images), Pixels { low: 0.0, high: 1.0 }, &mut rng).unwrap()
        else {
            panic!("images")
        };
        let seen = AnyTensor::from(seen).to_f64s();
        let mean = seen.iter().sum::<f64>() / seen.len() as f64;
        let deviation = (seen.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / seen.len() as f64).sqrt();
        // 384 draws of a deviation of 0.005: four of its standard errors, 0.00018 each.
        assert!((deviation - NOISE).abs() < 0.00075, "{deviation}");
    }
}
