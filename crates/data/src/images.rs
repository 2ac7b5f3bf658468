//! Pictures as numbers.

use std::path::Path;

use acclimate_core::{Error, Result};
use image::imageops::FilterType;
use image::{DynamicImage, ImageReader, Limits};

/// Largest width and height of an image file, in pixels.
pub const MAX_SIDE: u32 = 16_384;

/// What a pixel holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// One number: brightness.
    Gray,
    /// Three: red, green, blue.
    Rgb,
}

/// One image, `[channels, height, width]`, values 0..1.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// 1 or 3.
    pub channels: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Pixels per row.
    pub width: usize,
    /// Values, channel by channel and row by row.
    pub values: Vec<f32>,
}

impl Image {
    /// Reads a png or jpeg file, and resizes it to `size` (height, width) where one is given: bilinear, averaging over
    /// the area when it shrinks. Transparency is dropped.
    ///
    /// # Errors
    /// A file that is no such image, is damaged, or is larger than [`MAX_SIDE`] on a side.
    pub fn read(file: &Path, channels: Channels, size: Option<(u32, u32)>) -> Result<Self> {
        let mut reader =
            ImageReader::open(file).and_then(ImageReader::with_guessed_format).map_err(|e| Error::io(file, e))?;
        let mut limits = Limits::default();
        limits.max_image_width = Some(MAX_SIDE);
        limits.max_image_height = Some(MAX_SIDE);
        reader.limits(limits);
        let image = reader
            .decode()
            .map_err(|e| Error::format(file, format!("is not a whole png or jpeg ({e}); replace or drop it")))?;
        let image = match channels {
            Channels::Gray => DynamicImage::ImageLuma8(image.into_luma8()),
            Channels::Rgb => DynamicImage::ImageRgb8(image.into_rgb8()),
        };
        let image = match size {
            Some((0, _) | (_, 0)) => {
                return Err(Error::format(file, "cannot be resized to nothing; give sizes above 0"));
            }
            Some((height, width)) => image.resize_exact(width, height, FilterType::Triangle),
            None => image,
        };
        let count = if channels == Channels::Gray { 1 } else { 3 };
        let (height, width) = (image.height() as usize, image.width() as usize);
        let bytes = image.into_bytes();
        let plane = |channel| bytes.iter().skip(channel).step_by(count).map(|&byte| f32::from(byte) / 255.0);
        Ok(Self { channels: count, height, width, values: (0..count).flat_map(plane).collect() })
    }
}

/// An array of bytes of the IDX format, in which the MNIST family comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idx {
    /// Sizes, the number of items first.
    pub shape: Vec<usize>,
    /// Items, one after another.
    pub values: Vec<u8>,
}

impl Idx {
    /// Reads an IDX file of bytes, decompressed if its name ends in `.gz`.
    ///
    /// # Errors
    /// A file that cannot be read, holds other numbers than bytes, or is shorter or longer than it says.
    pub fn read(file: &Path) -> Result<Self> {
        let bytes = crate::table::bytes(file)?;
        let bad = |what: &str| Error::format(file, format!("{what}; fetch it again"));
        let [0, 0, 8, rank, rest @ ..] = bytes.as_slice() else { return Err(bad("is not an IDX file of bytes")) };
        let (sizes, values) =
            rest.split_at_checked(4 * usize::from(*rank)).ok_or_else(|| bad("ends within its header"))?;
        let (sizes, _) = sizes.as_chunks::<4>();
        let shape: Vec<usize> = sizes.iter().map(|size| u32::from_be_bytes(*size) as usize).collect();
        let total = shape.iter().try_fold(1_usize, |total, &size| total.checked_mul(size));
        match total == Some(values.len()) {
            true => Ok(Self { shape, values: values.to_vec() }),
            false => Err(bad(&format!("holds {} bytes where its header says {shape:?}", values.len()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_come_first() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.png");
        let pixels = vec![255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255];
        image::RgbImage::from_raw(2, 2, pixels).unwrap().save(&file).unwrap();
        let rgb = Image::read(&file, Channels::Rgb, None).unwrap();
        assert_eq!((rgb.channels, rgb.height, rgb.width), (3, 2, 2));
        assert_eq!(rgb.values, [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
        let gray = Image::read(&file, Channels::Gray, Some((4, 6))).unwrap();
        assert_eq!((gray.height, gray.width, gray.values.len()), (4, 6, 24));
        assert!(gray.values.iter().all(|value| (0.0..=1.0).contains(value)));
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        let error = Image::read(&file, Channels::Rgb, None).unwrap_err().to_string();
        assert!(error.contains("is not a whole png or jpeg"), "{error}");
    }

    #[test]
    fn idx_sizes_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("images-idx2-ubyte");
        let header = [0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3];
        std::fs::write(&file, [&header[..], &[1, 2, 3, 4, 5, 6]].concat()).unwrap();
        assert_eq!(Idx::read(&file).unwrap(), Idx { shape: vec![2, 3], values: vec![1, 2, 3, 4, 5, 6] });
        std::fs::write(&file, [&header[..], &[1, 2, 3]].concat()).unwrap();
        assert!(Idx::read(&file).unwrap_err().to_string().contains("holds 3 bytes"));
        std::fs::write(&file, &header[..6]).unwrap();
        assert!(Idx::read(&file).unwrap_err().to_string().contains("ends within its header"));
    }
}
