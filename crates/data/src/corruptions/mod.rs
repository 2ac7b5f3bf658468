//! Corruptions and shifts of pictures, as test-time benchmarks use them: the common corruptions, the shifts of digits-C and
//! rotations.

mod blur;
mod digital;
mod digits;
mod noise;
mod plane;
mod spatter;
mod weather;

use std::fmt;
use std::str::FromStr;

use acclimate_core::{Error, Result, Rng};

use crate::Image;
use plane::Planes;

pub use digits::{DigitShift, rotate};

/// A common corruption of Hendrycks and Dietterich; [`corrupt`] applies it at a severity from 1 to 5. Fifteen are for tests
/// ([`Corruption::ALL`]), four for choosing settings ([`Corruption::EXTRA`]).
///
/// # Which table holds
///
/// The authors publish three tables of strengths, and the shorter side of a picture says which one is used: below 48
/// pixels that of CIFAR-10-C (made for 32 pixels), below 128 that of Tiny-ImageNet-C (64 pixels), from there on that of
/// ImageNet-C (224 pixels). Lengths in pixels (radii, deviations, flakes) are the published ones at every size, so a blur
/// weighs more on a digit of 8 or 28 pixels than on a picture of 32. What the authors give as a share of the picture stays
/// one of the shorter side: the movements of `elastic_transform`, the cells of `pixelate`, the factors of `zoom_blur`, the
/// clouds of `fog` and `frost`. Pictures of one channel are treated as three equal ones of which the brightness is kept;
/// noise is drawn once a pixel.
///
/// # Differences
///
/// - The authors' functions round to bytes here and there, mostly downwards. Here a picture is rounded nowhere but in
///   `jpeg_compression` and in the shading of water in `spatter`, whose parts are defined on bytes.
/// - `frost`: the authors mix in crops of five photographs, which are not shipped here. Ice is drawn instead: veins where
///   a cloudy field crosses its middle, over a finer field, brought to the mean colour and the deviation of one of the five.
/// - `glass_blur`: the authors' exchange of two pixels overwrites the first before it is read, so it is a copy. Their
///   published pictures are made so, and so are these, for one channel too.
/// - `motion_blur` and `snow` have the weights of the program the authors call, without its rounding.
/// - `jpeg_compression` computes what the format loses, with colours halved along both axes, and writes no file.
/// - `saturate` leaves a picture of one channel as it is.
/// - A picture need not be square, and its shorter side may have 8 pixels.
///
/// The strengths of `glass_blur`, `elastic_transform`, `saturate` and `frost` change two things against each other, as
/// published: a higher severity is not always further from the clean picture.
///
/// # References
///
/// Hendrycks, Dietterich: Benchmarking Neural Network Robustness to Common Corruptions and Perturbations. ICLR 2019,
/// arXiv 1903.12261, with their code `hendrycks/robustness`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Corruption {
    /// Normal noise.
    GaussianNoise,
    /// Poisson noise, as of few photons.
    ShotNoise,
    /// Values that are black or white.
    ImpulseNoise,
    /// A disk, as of a lens out of focus.
    DefocusBlur,
    /// Frosted glass: pixels moved by a few places.
    GlassBlur,
    /// A camera that moves.
    MotionBlur,
    /// A camera that comes nearer.
    ZoomBlur,
    /// Falling snow.
    Snow,
    /// Ice on the lens.
    Frost,
    /// Clouds in front.
    Fog,
    /// Too much light.
    Brightness,
    /// Too little contrast.
    Contrast,
    /// The picture stretched here and there.
    ElasticTransform,
    /// Too few pixels.
    Pixelate,
    /// A JPEG file of low quality.
    JpegCompression,
    /// Normal noise in proportion to the value.
    SpeckleNoise,
    /// A Gaussian blur.
    GaussianBlur,
    /// Water or mud on the lens.
    Spatter,
    /// Colours too pale or too strong.
    Saturate,
}

impl Corruption {
    /// The fifteen that results are reported on, in the published order.
    pub const ALL: [Self; 15] = [
        Self::GaussianNoise,
        Self::ShotNoise,
        Self::ImpulseNoise,
        Self::DefocusBlur,
        Self::GlassBlur,
        Self::MotionBlur,
        Self::ZoomBlur,
        Self::Snow,
        Self::Frost,
        Self::Fog,
        Self::Brightness,
        Self::Contrast,
        Self::ElasticTransform,
        Self::Pixelate,
        Self::JpegCompression,
    ];

    /// The four to choose settings on, so that the fifteen stay unseen.
    pub const EXTRA: [Self; 4] = [Self::SpeckleNoise, Self::GaussianBlur, Self::Spatter, Self::Saturate];

    /// The name of the published files.
    pub fn name(self) -> &'static str {
        match self {
            Self::GaussianNoise => "gaussian_noise",
            Self::ShotNoise => "shot_noise",
            Self::ImpulseNoise => "impulse_noise",
            Self::DefocusBlur => "defocus_blur",
            Self::GlassBlur => "glass_blur",
            Self::MotionBlur => "motion_blur",
            Self::ZoomBlur => "zoom_blur",
            Self::Snow => "snow",
            Self::Frost => "frost",
            Self::Fog => "fog",
            Self::Brightness => "brightness",
            Self::Contrast => "contrast",
            Self::ElasticTransform => "elastic_transform",
            Self::Pixelate => "pixelate",
            Self::JpegCompression => "jpeg_compression",
            Self::SpeckleNoise => "speckle_noise",
            Self::GaussianBlur => "gaussian_blur",
            Self::Spatter => "spatter",
            Self::Saturate => "saturate",
        }
    }

    /// All nineteen.
    fn every() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().chain(Self::EXTRA)
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Corruption {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::every().find(|corruption| corruption.name() == name);
        found.ok_or_else(|| Error::unknown("corruption", name, Self::every().map(Self::name)))
    }
}

/// Where a corruption's random numbers come from: a stream of acclimate's ([`Rng`]), or numbers drawn elsewhere.
pub trait Draws {
    /// A number in `[0, 1)`.
    fn uniform(&mut self) -> f64;

    /// A standard normal number.
    fn normal(&mut self) -> f64;

    /// An index below `count`, which is positive.
    fn below(&mut self, count: usize) -> usize;

    /// A Poisson count of this mean, by one uniform number: the first count whose distribution function lies above it.
    fn poisson(&mut self, mean: f64) -> f64 {
        let goal = self.uniform();
        let (mut count, mut share) = (0.0, (-mean).exp());
        let mut sum = share;
        while sum <= goal && share > 0.0 {
            count += 1.0;
            share *= mean / count;
            sum += share;
        }
        count
    }
}

impl Draws for Rng {
    fn uniform(&mut self) -> f64 {
        Rng::uniform(self)
    }

    fn normal(&mut self) -> f64 {
        Rng::normal(self)
    }

    fn below(&mut self, count: usize) -> usize {
        Rng::below(self, count)
    }
}

/// A column of the published tables.
#[derive(Clone, Copy)]
struct Level {
    table: usize,
    severity: usize,
}

impl Level {
    /// The entry of three tables: for small, middling and large pictures.
    fn of<T: Copy>(self, tables: [[T; 5]; 3]) -> T {
        tables[self.table][self.severity - 1]
    }
}

fn param(param: &'static str, value: impl ToString, why: &str) -> Error {
    Error::Param { method: "corruption", param, value: value.to_string(), why: why.into() }
}

/// Refuses what is no picture of one or three channels with values 0..1.
fn check(image: &Image) -> Result<()> {
    let Image { channels, height, width, values } = image;
    if ![1, 3].contains(channels) || *height == 0 || *width == 0 || values.len() != channels * height * width {
        return Err(Error::Shape {
            what: "picture".into(),
            expected: "[1 or 3 channels, height, width] and as many values".into(),
            got: vec![*channels, *height, *width, values.len()],
        });
    }
    match values.iter().find(|value| !(0.0..=1.0).contains(*value)) {
        Some(value) => Err(param("picture", value, "must hold values from 0 to 1; divide by the largest possible one")),
        None => Ok(()),
    }
}

/// The picture with one corruption; `severity` runs from 1 to 5. Where something is random it comes from `draws` alone.
///
/// # Errors
/// Another severity, a picture with a side below 8 pixels, with other than one or three channels, or with values outside
/// 0..1.
///
/// # Example
/// ```
/// use acclimate_core::Rng;
/// use acclimate_data::{Corruption, Image, corrupt};
///
/// let clean = Image { channels: 1, height: 28, width: 28, values: vec![0.5; 784] };
/// let noisy = corrupt(&clean, "gaussian_noise".parse()?, 5, &mut Rng::new(0, "noise", 0))?;
/// let again = corrupt(&clean, Corruption::GaussianNoise, 5, &mut Rng::new(0, "noise", 0))?;
/// assert_eq!(noisy, again);
/// assert!(noisy.values.iter().all(|value| (0.0..=1.0).contains(value)));
/// # Ok::<(), acclimate_core::Error>(())
/// ```
pub fn corrupt(image: &Image, corruption: Corruption, severity: usize, draws: &mut dyn Draws) -> Result<Image> {
    /// Below it there is nothing left to blur or move.
    const LEAST: usize = 8;
    check(image)?;
    let side = image.height.min(image.width);
    if side < LEAST {
        return Err(param(
            "picture",
            format!("{} x {}", image.height, image.width),
            "must have 8 pixels a side or more",
        ));
    }
    if !(1..=5).contains(&severity) {
        return Err(param("severity", severity, "must lie between 1 and 5"));
    }
    let table = match side {
        ..48 => 0,
        48..128 => 1,
        128.. => 2,
    };
    let (level, planes) = (Level { table, severity }, Planes::of(image));
    let corrupted = match corruption {
        Corruption::GaussianNoise => noise::gaussian(planes, level, draws),
        Corruption::ShotNoise => noise::shot(planes, level, draws),
        Corruption::ImpulseNoise => noise::impulse(planes, level, draws),
        Corruption::SpeckleNoise => noise::speckle(planes, level, draws),
        Corruption::DefocusBlur => blur::defocus(&planes, level),
        Corruption::GlassBlur => blur::glass(&planes, level, draws),
        Corruption::MotionBlur => blur::motion(&planes, level, draws),
        Corruption::ZoomBlur => blur::zoom(&planes, level),
        Corruption::GaussianBlur => blur::gaussian(&planes, level),
        Corruption::Snow => weather::snow(&planes, level, draws),
        Corruption::Frost => weather::frost(&planes, level, draws),
        Corruption::Fog => weather::fog(&planes, level, draws),
        Corruption::Brightness => weather::brightness(&planes, level),
        Corruption::Contrast => digital::contrast(&planes, level),
        Corruption::ElasticTransform => digital::elastic(&planes, level, draws),
        Corruption::Pixelate => digital::pixelate(&planes, level),
        Corruption::JpegCompression => digital::jpeg(&planes, level),
        Corruption::Saturate => digital::saturate(&planes, level),
        Corruption::Spatter => spatter::spatter(&planes, level, draws),
    };
    Ok(corrupted.image())
}
