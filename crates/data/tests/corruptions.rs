//! Corruptions against the authors' functions (`reference/data/corruptions.py`) and against laws.
#![allow(clippy::unwrap_used)] // a golden without its numbers is a failure

use acclimate_core::Rng;
use acclimate_data::{Corruption, DigitShift, Draws, Image, corrupt, rotate};
use serde_json::Value;

/// The generator that the reference draws from.
struct SplitMix(u64);

impl Draws for SplitMix {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let (radius, angle) = (self.uniform(), self.uniform());
        (-2.0 * (1.0 - radius).ln()).sqrt() * (2.0 * std::f64::consts::PI * angle).cos()
    }

    fn below(&mut self, count: usize) -> usize {
        (self.uniform() * count as f64) as usize
    }
}

/// A sky, a sun, a hill, stripes and a texture, as the reference paints them.
fn paint(size: usize, channels: usize) -> Image {
    let pixel = |c: i64, y: i64, x: i64| {
        let (u, w) = (x * 256 / size as i64, y * 256 / size as i64);
        let mut value = 90 + w * 90 / 256 + 25 * c;
        value += if (u - 80).pow(2) + (w - 90).pow(2) < 2500 { 70 - 45 * c } else { 0 };
        value -= if (u - 180).pow(2) + (w - 170).pow(2) < 3600 { 60 - 20 * c } else { 0 };
        value += if (u + w) / 24 % 2 == 1 { 18 } else { 0 };
        value += (u * u * 7 + w * w * 13 + u * w * 5 + 31 * c) % 23 - 11;
        value.clamp(0, 255) as f32 / 255.0
    };
    let side = size as i64;
    let values = (0..channels as i64)
        .flat_map(|c| (0..side * side).map(move |i| (c, i / side, i % side)))
        .map(|(c, y, x)| pixel(c, y, x))
        .collect();
    Image { channels, height: size, width: size, values }
}

fn golden() -> Vec<Value> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/data/corruptions.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    golden["cases"].as_array().unwrap().clone()
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

/// The values in the order of rows, columns and channels.
fn interleaved(image: &Image) -> Vec<f64> {
    let plane = image.height * image.width;
    (0..image.values.len()).map(|i| f64::from(image.values[i % image.channels * plane + i / image.channels])).collect()
}

fn squared_difference(a: &Image, b: &Image) -> f64 {
    let sum: f64 = a.values.iter().zip(&b.values).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    sum / a.values.len() as f64
}

/// The most a value may differ from the authors', and the most the mean may.
fn bound(corruption: Corruption) -> (f64, f64) {
    /// One step of a byte.
    const STEP: f64 = 1.0 / 255.0;
    /// Results in f32, as 7 digits in the file.
    const ROUNDING: f64 = 2e-7;
    match corruption {
        // The blurred picture is cut down to bytes there, then copied and blurred; we lose nothing.
        Corruption::GlassBlur => (STEP + ROUNDING, 0.6 * STEP),
        // Two resizings end in bytes there, the first along rows and then along columns.
        Corruption::Pixelate => (STEP + ROUNDING, 0.6 * STEP),
        // The result is rounded to bytes there.
        Corruption::MotionBlur => (0.5 * STEP + ROUNDING, 0.05 * STEP),
        // Each of two layers is cut down to bytes, moved and rounded there.
        Corruption::Snow => (3.0 * STEP, 0.1 * STEP),
        // Cosines in whole numbers there: a coefficient halfway between two multiples of its divisor may fall to the other
        // one, which moves a pixel by a quarter of the divisor, and those are 48 at most at quality 80.
        Corruption::JpegCompression => (12.0 * STEP, 0.06 * STEP),
        // Places and sums in single precision there; steps between neighbouring pixels multiply the errors.
        Corruption::ElasticTransform => (5e-6, ROUNDING),
        Corruption::ZoomBlur => (5e-7, ROUNDING),
        _ => (ROUNDING, ROUNDING),
    }
}

/// Compares all cases of one size.
fn agree(size: usize, cases: usize) {
    let mut compared = 0;
    for case in golden() {
        let (config, expected, name) = (&case["config"], &case["expected"], &case["name"]);
        let Some(severity) = config["severity"].as_u64().filter(|_| number(&config["size"]) == size) else { continue };
        let corruption: Corruption = config["corruption"].as_str().unwrap().parse().unwrap();
        let image = paint(size, number(&config["channels"]));
        let got = interleaved(&corrupt(&image, corruption, severity as usize, &mut SplitMix(7)).unwrap());
        let (most, of_mean) = bound(corruption);
        let mean = got.iter().sum::<f64>() / got.len() as f64;
        let square = got.iter().map(|value| value * value).sum::<f64>() / got.len() as f64;
        for (what, got) in [("mean", mean), ("mean_square", square)] {
            let off = (got - expected[what].as_f64().unwrap()).abs();
            // A square changes by twice the value at most.
            assert!(off <= 2.0 * of_mean, "{name}: the {what} is {off:e} off");
        }
        let values = expected["values"].as_array().unwrap();
        let differences: Vec<f64> = got
            .iter()
            .step_by(number(&config["stride"]))
            .zip(values)
            .map(|(got, expected)| (got - expected.as_f64().unwrap()).abs())
            .collect();
        assert!(differences.len() == values.len() && values.len() > 70, "{name}");
        let largest = differences.iter().copied().fold(0.0, f64::max);
        assert!(largest <= most, "{name}: {largest:e} off");
        // Few coefficients are halfway, so that the files' values agree but for some blocks.
        let average = differences.iter().sum::<f64>() / differences.len() as f64;
        assert!(corruption != Corruption::JpegCompression || average < 4e-3, "{name}: {average:e} off on average");
        compared += 1;
    }
    assert_eq!(compared, cases);
}

#[test]
fn gray_digits_agree_with_the_authors_functions() {
    agree(28, 17 * 5);
}

#[test]
fn small_pictures_agree_with_the_authors_functions() {
    agree(32, 18 * 5);
}

#[test]
fn middling_pictures_agree_with_the_authors_functions() {
    agree(64, 18 * 5);
}

#[test]
fn large_pictures_agree_with_the_authors_functions() {
    agree(224, 14 * 3);
}

#[test]
fn frost_has_the_authors_strengths_and_colours() {
    let sizes = [("small", 32), ("middling", 64), ("large", 128)];
    for case in golden().iter().filter(|case| case["config"]["corruption"] == "frost") {
        let size = sizes.iter().find(|(name, _)| case["config"]["table"] == *name).unwrap().1;
        let flat = |value: f32| Image { channels: 3, height: size, width: size, values: vec![value; 3 * size * size] };
        let red = |image: &Image| {
            image.values[..size * size].iter().map(|&v| f64::from(v)).sum::<f64>() / (size * size) as f64
        };
        for (severity, pair) in (1..).zip(case["expected"]["pairs"].as_array().unwrap()) {
            let (keep, put) = (pair[0].as_f64().unwrap(), pair[1].as_f64().unwrap());
            for step in 0..4 {
                let run = |value| {
                    corrupt(&flat(value), Corruption::Frost, severity, &mut Rng::new(1, "frost", step)).unwrap()
                };
                // On black only the ice is seen: the mean red of one of the five photographs.
                let ice = red(&run(0.0)) / put;
                let photographs = [0.305, 0.787, 0.540, 0.441];
                assert!(photographs.iter().any(|mean| (ice - mean).abs() < 5e-3), "{size} {severity}: {ice}");
                let gray = red(&run(0.1)) - red(&run(0.0));
                assert!((gray - 0.1 * keep).abs() < 1e-3, "{size} {severity}: {gray}");
            }
        }
    }
}

/// All nineteen.
fn every() -> impl Iterator<Item = Corruption> {
    Corruption::ALL.into_iter().chain(Corruption::EXTRA)
}

/// A picture that is not square, cut from a square one.
fn oblong() -> Image {
    let square = paint(33, 3);
    let values =
        (0..3 * 20).flat_map(|row| square.values[row / 20 * 33 * 33 + row % 20 * 33..][..33].to_vec()).collect();
    Image { channels: 3, height: 20, width: 33, values }
}

#[test]
fn results_keep_the_shape_and_lie_between_zero_and_one() {
    let black = Image { channels: 3, height: 16, width: 16, values: vec![0.0; 768] };
    for image in [paint(8, 1), paint(28, 1), paint(32, 3), oblong(), black] {
        for corruption in every() {
            for severity in [1, 3, 5] {
                let got = corrupt(&image, corruption, severity, &mut Rng::new(0, "test", 0)).unwrap();
                assert_eq!((got.channels, got.height, got.width), (image.channels, image.height, image.width));
                assert_eq!(got.values.len(), image.values.len());
                assert!(got.values.iter().all(|value| (0.0..=1.0).contains(value)), "{corruption} {severity}");
            }
        }
    }
}

#[test]
fn damage_grows_with_severity_where_the_tables_say_so() {
    let image = paint(32, 3);
    let damage = |corruption, severity| -> f64 {
        let one = |step| {
            let got = corrupt(&image, corruption, severity, &mut Rng::new(2, "test", step)).unwrap();
            squared_difference(&image, &got)
        };
        (0..4).map(one).sum::<f64>() / 4.0
    };
    // Their published strengths do not all rise: fewer rounds of glass with more blur, a smaller shift of points with
    // stronger fields, colours first paler and then stronger, and with more frost less of the picture.
    let mixed = [Corruption::GlassBlur, Corruption::Frost, Corruption::ElasticTransform, Corruption::Saturate];
    for corruption in every().filter(|corruption| !mixed.contains(corruption)) {
        let damage: Vec<f64> = (1..=5).map(|severity| damage(corruption, severity)).collect();
        assert!(damage.is_sorted() && damage[4] > 1.3 * damage[0], "{corruption}: {damage:?}");
    }
    for corruption in mixed {
        assert!((1..=5).all(|severity| damage(corruption, severity) > 1e-3), "{corruption}");
    }
}

#[test]
fn the_stream_alone_decides_what_is_random() {
    let steady = [
        Corruption::DefocusBlur,
        Corruption::ZoomBlur,
        Corruption::Brightness,
        Corruption::Contrast,
        Corruption::Pixelate,
        Corruption::JpegCompression,
        Corruption::GaussianBlur,
        Corruption::Saturate,
    ];
    let image = paint(32, 3);
    for corruption in every() {
        let run = |seed| corrupt(&image, corruption, 3, &mut Rng::new(seed, "test", 0)).unwrap();
        let here = run(1);
        let elsewhere = std::thread::scope(|scope| scope.spawn(|| run(1)).join().unwrap());
        assert_eq!(here, elsewhere, "{corruption}");
        assert_eq!(here == run(2), steady.contains(&corruption), "{corruption}");
    }
}

#[test]
fn what_cannot_be_corrupted_is_refused_with_a_way_out() {
    let mut rng = Rng::new(0, "test", 0);
    let mut refused =
        |image: &Image, severity| corrupt(image, Corruption::Fog, severity, &mut rng).unwrap_err().to_string();
    let image = paint(16, 3);
    assert!(refused(&image, 0).contains("`severity` must lie between 1 and 5, got `0`"));
    assert!(refused(&image, 6).contains("`severity` must lie between 1 and 5, got `6`"));
    assert!(refused(&paint(7, 1), 1).contains("must have 8 pixels a side or more, got `7 x 7`"));
    assert!(refused(&paint(16, 2), 1).contains("1 or 3 channels"));
    let bytes = Image { values: image.values.iter().map(|value| value * 255.0).collect(), ..image };
    assert!(refused(&bytes, 1).contains("divide by the largest possible one"));
    let error = "gausian_noise".parse::<Corruption>().unwrap_err().to_string();
    assert!(error.starts_with("unknown corruption `gausian_noise`; the nearest are `gaussian_noise`"), "{error}");
    for corruption in every() {
        assert_eq!(corruption.to_string().parse::<Corruption>().unwrap(), corruption);
    }
}

#[test]
fn digit_shifts_are_those_of_the_benchmark() {
    let image = paint(8, 1);
    let run = |shift: DigitShift| shift.apply(&image, &mut SplitMix(3)).unwrap();
    let each = |shift: DigitShift, mut expected: Box<dyn FnMut(f64) -> f64>| {
        for (got, &old) in run(shift).values.iter().zip(&image.values) {
            let expected = expected(f64::from(old)).clamp(0.0, 1.0);
            assert!((f64::from(*got) - expected).abs() < 1e-6, "{shift}: {got} {expected}");
        }
    };
    each(DigitShift::Contrast, Box::new(|x| 0.3 * x + 0.35));
    each(DigitShift::Brightness, Box::new(|x| 0.6 * x + 0.6));
    let mut draws = SplitMix(3);
    each(DigitShift::Noise, Box::new(move |x| x + 0.35 * draws.normal()));
    let mut dot = Image { channels: 1, height: 9, width: 9, values: vec![0.0; 81] };
    dot.values[40] = 1.0;
    let blurred = DigitShift::Blur.apply(&dot, &mut SplitMix(0)).unwrap();
    let binomial = [0.0, 0.0, 1.0, 4.0, 6.0, 4.0, 1.0, 0.0, 0.0];
    for (i, got) in blurred.values.iter().enumerate() {
        assert!((got - binomial[i / 9] * binomial[i % 9] / 256.0).abs() < 1e-7);
    }
    let gray = Image { channels: 1, height: 100, width: 100, values: vec![0.5; 10_000] };
    let salted = DigitShift::SaltAndPepper.apply(&gray, &mut SplitMix(0)).unwrap();
    let share = |value: f32| salted.values.iter().filter(|&&got| got == value).count() as f64 / 1e4;
    // Four deviations of a share of a tenth among ten thousand.
    assert!((share(0.0) - 0.1).abs() < 0.012 && (share(1.0) - 0.1).abs() < 0.012);
    assert!((share(0.5) + share(0.0) + share(1.0) - 1.0).abs() < 1e-9);
    let clear = Image { values: vec![0.0; 10_000], ..gray };
    let fog = DigitShift::Fog.apply(&clear, &mut SplitMix(0)).unwrap();
    let mut draws = SplitMix(0);
    let grid: Vec<f64> = (0..9).map(|_| 0.8 * draws.uniform()).collect();
    for (place, corner) in [(0, 0), (99, 2), (9900, 6), (9999, 8)] {
        assert!((f64::from(fog.values[place]) - grid[corner]).abs() < 1e-6);
    }
    let steps = fog.values.chunks(100).flat_map(|row| row.windows(2)).map(|pair| (pair[1] - pair[0]).abs());
    assert!(steps.fold(0.0, f32::max) < 0.8 / 49.0);
}

#[test]
fn rotations_are_those_of_scipy() {
    let mut compared = 0;
    for case in golden() {
        let Some(degrees) = case["config"]["rotation"].as_f64() else { continue };
        let got = rotate(&paint(12, 1), degrees).unwrap();
        for (got, expected) in got.values.iter().zip(case["expected"]["values"].as_array().unwrap()) {
            assert!((f64::from(*got) - expected.as_f64().unwrap()).abs() < 2e-7, "{degrees}");
        }
        compared += 1;
    }
    assert_eq!(compared, 5);
    assert!(rotate(&paint(12, 1), f64::NAN).unwrap_err().to_string().contains("must be a finite angle"));
}
