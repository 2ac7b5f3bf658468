//! Safetensors files, bounded on reading and whole or absent on writing.

use crate::{AnyTensor, Error, Params, Result};
use burn::tensor::{DType, Device};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::{borrow::Cow, collections::BTreeMap, io::Write, path::Path};

/// Headers longer than this are refused before anything is allocated for them.
const HEADER_LIMIT: u64 = 100 << 20;

/// The end of the names of files that are being written, after the number of their process.
const TEMPORARY: &str = "tmp";

/// Reads the float tensors of a safetensors file under the checkpoint's own names and shapes, sorted by name. F16 and BF16
/// become F32; integer tensors are left out.
///
/// # Errors
/// Names the file and what is wrong: truncated, absurd header, tensor of unsupported type or rank.
pub fn read_safetensors(file: &Path, device: &Device) -> Result<(Params, BTreeMap<String, String>)> {
    let bytes = std::fs::read(file).map_err(|e| Error::io(file, e))?;
    let truncated = |what: String| Error::format(file, format!("{what}; fetch the file again"));
    let header = bytes.first_chunk::<8>().map(|b| u64::from_le_bytes(*b));
    match header {
        None => {
            return Err(truncated(format!("a safetensors file has at least 8 bytes, this one has {}", bytes.len())));
        }
        Some(n) if n > HEADER_LIMIT || n > bytes.len() as u64 - 8 => {
            return Err(truncated(format!("the header claims {n} bytes, the file has {} after it", bytes.len() - 8)));
        }
        Some(_) => {}
    }
    let tensors =
        SafeTensors::deserialize(&bytes).map_err(|e| truncated(format!("not a whole safetensors file ({e})")))?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| truncated(e.to_string()))?;
    // The library walks a hash map: its order differs between runs, and with it every seeded draw.
    let views: BTreeMap<String, TensorView> = tensors.iter().map(|(name, view)| (name.to_owned(), view)).collect();
    let mut params = Params::default();
    for (name, view) in views {
        if view.shape().len() > 5 {
            return Err(Error::format(
                file,
                format!("tensor `{name}` has {} axes, at most 5 are supported", view.shape().len()),
            ));
        }
        let raw = view.data();
        let tensor = match view.dtype() {
            Dtype::F32 => AnyTensor::from_f32s(chunks(raw, f32::from_le_bytes), view.shape(), device),
            Dtype::F64 => AnyTensor::from_f64s(chunks(raw, f64::from_le_bytes), view.shape(), DType::F64, device),
            Dtype::BF16 => {
                let wide = chunks(raw, |b: [u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16));
                AnyTensor::from_f32s(wide, view.shape(), device)
            }
            Dtype::F16 => AnyTensor::from_f32s(chunks(raw, half_to_f32), view.shape(), device),
            _ => continue,
        };
        params.insert(name, tensor);
    }
    let metadata = metadata.metadata().as_ref().map(|m| m.iter().map(|(k, v)| (k.clone(), v.clone())).collect());
    Ok((params, metadata.unwrap_or_default()))
}

fn chunks<const N: usize, T>(raw: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.as_chunks::<N>().0.iter().map(|b| f(*b)).collect()
}

fn half_to_f32(bytes: [u8; 2]) -> f32 {
    let bits = u16::from_le_bytes(bytes);
    let (sign, exponent, fraction) = (u32::from(bits >> 15) << 31, (bits >> 10) & 0x1f, u32::from(bits & 0x3ff));
    match exponent {
        0 => (fraction as f32 * 2f32.powi(-24)).copysign(f32::from_bits(sign | 1f32.to_bits())),
        0x1f => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        e => f32::from_bits(sign | (u32::from(e) + 112) << 23 | fraction << 13),
    }
}

struct Owned {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl safetensors::View for &Owned {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Writes tensors and text entries as a safetensors file: whole under its name, or not at all.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn write_safetensors(file: &Path, params: &Params, metadata: BTreeMap<String, String>) -> Result<()> {
    replace(file, &to_safetensors(file, params, metadata)?, true)
}

/// As [`write_safetensors`], but without waiting for the disk: the end of the process loses nothing, the end of the machine may
/// leave a torn file. For files that are written often and carry a checksum.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn write_safetensors_unflushed(file: &Path, params: &Params, metadata: BTreeMap<String, String>) -> Result<()> {
    replace(file, &to_safetensors(file, params, metadata)?, false)
}

fn to_safetensors(file: &Path, params: &Params, metadata: BTreeMap<String, String>) -> Result<Vec<u8>> {
    let owned: Vec<(String, Owned)> = params
        .iter()
        .map(|(name, tensor)| {
            let data = tensor.elements().into_data();
            let dtype = if data.dtype() == DType::F64 { Dtype::F64 } else { Dtype::F32 };
            let data = if dtype == Dtype::F32 { data.convert::<f32>() } else { data };
            (name.to_owned(), Owned { dtype, shape: tensor.shape(), bytes: data.as_bytes().to_vec() })
        })
        .collect();
    let metadata = (!metadata.is_empty()).then(|| metadata.into_iter().collect());
    safetensors::serialize(owned.iter().map(|(name, view)| (name.as_str(), view)), metadata)
        .map_err(|e| Error::format(file, e.to_string()))
}

/// Writes a file under a temporary name beside it, flushes it to the disk and renames it: readers see the old file or the new
/// one, and a failure leaves nothing behind.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn write_whole(file: &Path, bytes: &[u8]) -> Result<()> {
    replace(file, bytes, true)
}

fn replace(file: &Path, bytes: &[u8], flush: bool) -> Result<()> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let temporary = file.with_extension(format!("{}.{TEMPORARY}", std::process::id()));
    let written = std::fs::File::create(&temporary).and_then(|mut f| {
        f.write_all(bytes)?;
        if flush { f.sync_all() } else { Ok(()) }
    });
    let done = written.and_then(|()| std::fs::rename(&temporary, file));
    done.map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        Error::io(file, e)
    })
}

/// Removes from a folder what [`write_whole`] had not finished when its process was killed. For folders that no other process
/// writes to. A folder that is not there holds nothing.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn remove_unfinished(folder: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let middle = name.strip_suffix(TEMPORARY).and_then(|rest| rest.strip_suffix('.')?.rsplit_once('.'));
        let process = middle.is_some_and(|(_, id)| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()));
        if process && path.is_file() {
            std::fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_killed_process_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["result.123.tmp", "result.json", "notes.tmp", "123.tmp", "a.12x.tmp"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        remove_unfinished(folder.path()).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["123.tmp", "a.12x.tmp", "notes.tmp", "result.json"]);
        remove_unfinished(&folder.path().join("none")).unwrap();
    }
}
