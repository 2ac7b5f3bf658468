//! Shifts for pictures of digits of a few pixels.

use std::fmt;
use std::str::FromStr;

use acclimate_core::{Error, Result};

use super::plane::{Edge, Plane, Planes};
use super::{Draws, check, param};
use crate::Image;

/// A shift of digits-C, the small benchmark on the 8 × 8 digits of scikit-learn. Each has one strength; results are cut
/// to 0..1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DigitShift {
    /// `x + 0.35 n` with standard normal `n`.
    Noise,
    /// A fifth of the pixels black or white.
    SaltAndPepper,
    /// Twice the weights 1/4, 1/2, 1/4 along each axis; the border repeats.
    Blur,
    /// `(x - 1/2) 0.3 + 1/2`.
    Contrast,
    /// `0.6 x + 0.6`.
    Brightness,
    /// `0.6 x + 0.8 u`, where `u` runs smoothly between nine uniform numbers on a grid of 3 × 3.
    Fog,
}

impl DigitShift {
    /// All six, in the order of the benchmark.
    pub const ALL: [Self; 6] =
        [Self::Noise, Self::SaltAndPepper, Self::Blur, Self::Contrast, Self::Brightness, Self::Fog];

    /// The name in scenarios and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Noise => "noise",
            Self::SaltAndPepper => "salt_and_pepper",
            Self::Blur => "blur",
            Self::Contrast => "contrast",
            Self::Brightness => "brightness",
            Self::Fog => "fog",
        }
    }

    /// The picture with this shift; what is random comes from `draws`.
    ///
    /// # Errors
    /// A picture with other than one or three channels, or with values outside 0..1.
    ///
    /// # Example
    /// ```
    /// use acclimate_core::Rng;
    /// use acclimate_data::{DigitShift, Image};
    ///
    /// let black = Image { channels: 1, height: 8, width: 8, values: vec![0.0; 64] };
    /// let bright = DigitShift::Brightness.apply(&black, &mut Rng::new(0, "shift", 0))?;
    /// assert_eq!(bright.values, vec![0.6; 64]);
    /// # Ok::<(), acclimate_core::Error>(())
    /// ```
    pub fn apply(self, image: &Image, draws: &mut dyn Draws) -> Result<Image> {
        check(image)?;
        let picture = Planes::of(image);
        let (height, width) = picture.size();
        let shifted = match self {
            Self::Noise => picture.pixelwise(|value| value + 0.35 * draws.normal()),
            Self::SaltAndPepper => picture.pixelwise(|value| {
                let draw = draws.uniform();
                if draw < 0.1 {
                    0.0
                } else if draw < 0.2 {
                    1.0
                } else {
                    value
                }
            }),
            // Two passes of 1/4, 1/2, 1/4 are one of these.
            Self::Blur => {
                picture.each(|plane| plane.separable(&[1.0, 4.0, 6.0, 4.0, 1.0].map(|w| w / 16.0), Edge::Nearest))
            }
            Self::Contrast => picture.each(|plane| plane.map(|value| (value - 0.5) * 0.3 + 0.5)),
            Self::Brightness => picture.each(|plane| plane.map(|value| 0.6 * value + 0.6)),
            Self::Fog => {
                let grid = Plane::made(3, 3, |_, _| draws.uniform());
                let place = |at: usize, len: usize| 2.0 * at as f64 / (len - 1).max(1) as f64;
                let field =
                    Plane::made(height, width, |y, x| grid.bilinear(place(y, height), place(x, width), Edge::Nearest));
                picture.each(|plane| plane.zip(&field, |value, fog| 0.6 * value + 0.8 * fog))
            }
        };
        Ok(shifted.image())
    }
}

impl fmt::Display for DigitShift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DigitShift {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|shift| shift.name() == name);
        found.ok_or_else(|| Error::unknown("digit shift", name, Self::ALL.map(Self::name)))
    }
}

/// The picture turned by an angle in degrees, counter-clockwise, around its middle: bilinear, and black where nothing was.
///
/// # Errors
/// An angle that is not finite; a picture with other than one or three channels, or with values outside 0..1.
///
/// # Example
/// ```
/// use acclimate_data::{Image, rotate};
///
/// let image = Image { channels: 1, height: 2, width: 2, values: vec![1.0, 0.0, 0.0, 0.0] };
/// let turned = rotate(&image, 90.0)?;
/// let rounded: Vec<f32> = turned.values.iter().map(|value| value.round()).collect();
/// assert_eq!(rounded, [0.0, 0.0, 1.0, 0.0]);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
pub fn rotate(image: &Image, degrees: f64) -> Result<Image> {
    check(image)?;
    if !degrees.is_finite() {
        return Err(param("degrees", degrees, "must be a finite angle"));
    }
    let (sine, cosine) = degrees.to_radians().sin_cos();
    let picture = Planes::of(image);
    let (height, width) = picture.size();
    let middle = |len: usize| (len as f64 - 1.0) / 2.0;
    // A rim of black, so that nothing but black is found beyond the border.
    let rim = |plane: &Plane| {
        Plane::made(height + 2, width + 2, |y, x| match (1..=height).contains(&y) && (1..=width).contains(&x) {
            true => plane.at(y - 1, x - 1),
            false => 0.0,
        })
    };
    let turned = picture.each(|plane| {
        let plane = rim(plane);
        Plane::made(height, width, |y, x| {
            let (down, right) = (y as f64 - middle(height), x as f64 - middle(width));
            let from_y = cosine * down + sine * right + middle(height);
            let from_x = cosine * right - sine * down + middle(width);
            plane.bilinear(from_y + 1.0, from_x + 1.0, Edge::Nearest)
        })
    });
    Ok(turned.image())
}
