//! Safetensors files, bounded on reading and whole or absent on writing.

use crate::stored::Stored;
use crate::{AnyTensor, Checkpoint, Error, Params, Result, TensorWriter};
use burn::tensor::{DType, Device};
use std::{collections::BTreeMap, io::Write, path::Path};

/// The end of the names of files that are being written, after the number of their process.
const TEMPORARY: &str = "tmp";

/// Reads the float tensors of a safetensors file under the checkpoint's own names and shapes, sorted by name. F16 and BF16
/// become F32; integer tensors are left out.
///
/// # Errors
/// Names the file and what is wrong: truncated, absurd header, tensor of unsupported type or rank.
pub fn read_safetensors(file: &Path, device: &Device) -> Result<(Params, BTreeMap<String, String>)> {
    let checkpoint = Checkpoint::file(file)?;
    Ok((checkpoint.params(device)?, checkpoint.metadata(0).clone()))
}

/// Writes tensors and text entries as a safetensors file: whole under its name, or not at all.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn write_safetensors(file: &Path, params: &Params, metadata: BTreeMap<String, String>) -> Result<()> {
    write_tensors(file, params, &metadata, true)
}

/// As [`write_safetensors`], but without waiting for the disk: the end of the process loses nothing, the end of the machine may
/// leave a torn file. For files that are written often and carry a checksum.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn write_safetensors_unflushed(file: &Path, params: &Params, metadata: BTreeMap<String, String>) -> Result<()> {
    write_tensors(file, params, &metadata, false)
}

fn write_tensors(file: &Path, params: &Params, metadata: &BTreeMap<String, String>, flush: bool) -> Result<()> {
    let stored = |tensor: &AnyTensor| if tensor.dtype() == DType::F64 { Stored::F64 } else { Stored::F32 };
    let mut tensors: Vec<(&str, &AnyTensor)> = params.iter().collect();
    // Wide numbers first, so that all are aligned.
    tensors.sort_by_key(|(name, tensor)| (std::cmp::Reverse(stored(tensor)), *name));
    let infos = tensors.iter().map(|(name, tensor)| ((*name).to_owned(), stored(tensor), tensor.shape()));
    let mut writer = TensorWriter::create(file, infos, metadata)?;
    for (_, tensor) in tensors {
        let data = tensor.elements().into_data();
        let data = if stored(tensor) == Stored::F32 { data.convert::<f32>() } else { data };
        writer.write(data.as_bytes())?;
    }
    if flush { writer.finish() } else { writer.finish_unflushed() }
}

/// Writes a file under a temporary name beside it, flushes it to the disk and renames it: readers see the old file or the new
/// one, and a failure leaves nothing behind.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn write_whole(file: &Path, bytes: &[u8]) -> Result<()> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let temporary = file.with_extension(format!("{}.{TEMPORARY}", std::process::id()));
    let written = std::fs::File::create(&temporary).and_then(|mut f| {
        f.write_all(bytes)?;
        f.sync_all()
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
