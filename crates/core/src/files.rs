//! Safetensors files, bounded on reading and whole or absent on writing.

use crate::stored::Stored;
use crate::{AnyTensor, Checkpoint, Error, Params, Result, TensorWriter};
use burn::tensor::{DType, Device};
use std::{collections::BTreeMap, io::Write, path::Path};

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
    let stored = |tensor: &AnyTensor| if tensor.dtype() == DType::F64 { Stored::F64 } else { Stored::F32 };
    let mut tensors: Vec<(&str, &AnyTensor)> = params.iter().collect();
    // Wide numbers first, so that all are aligned.
    tensors.sort_by_key(|(name, tensor)| (std::cmp::Reverse(stored(tensor)), *name));
    let infos = tensors.iter().map(|(name, tensor)| ((*name).to_owned(), stored(tensor), tensor.shape()));
    let mut writer = TensorWriter::create(file, infos, &metadata)?;
    for (_, tensor) in tensors {
        let data = tensor.elements().into_data();
        let data = if stored(tensor) == Stored::F32 { data.convert::<f32>() } else { data };
        writer.write(data.as_bytes())?;
    }
    writer.finish()
}

/// Writes a file under a temporary name beside it, flushes it to the disk and renames it: readers see the old file or the new
/// one, and a failure leaves nothing behind.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn write_whole(file: &Path, bytes: &[u8]) -> Result<()> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let temporary = file.with_extension(format!("{}.tmp", std::process::id()));
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
