//! Checkpoints read a tensor or a piece at a time, and written in pieces. Those of torch are read too.

use crate::stored::{Stored, decode_f32, is_float};
use crate::tensor::Fingerprint;
use crate::{AnyTensor, Error, Params, Result, decode, torch};
use burn::tensor::{DType, Device};
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Headers longer than this are refused before anything is allocated for them.
const HEADER_LIMIT: u64 = 100 << 20;
/// Most axes a tensor may have.
const MAX_AXES: usize = 5;
/// Bytes read at a time; a multiple of every number's size.
const PIECE: usize = 1 << 20;

/// Where a tensor lies in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// The name a model knows it by.
    pub name: String,
    /// The name in the file, where it has an older one there.
    pub name_in_file: String,
    /// How its numbers are stored.
    pub stored: Stored,
    /// Sizes of all axes.
    pub shape: Vec<usize>,
    /// Which of [`Checkpoint::files`] holds it.
    pub file: usize,
    /// Where in the file its bytes are.
    pub range: Range<u64>,
    /// How far apart its numbers are there along each axis, where they do not lie row after row.
    pub strides: Option<Vec<usize>>,
}

impl StoredTensor {
    /// Bytes it takes in the file.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Whether its numbers can be read; others can be copied.
    pub fn is_float(&self) -> bool {
        is_float(self.stored)
    }
}

/// A file that is open; its data are read when they are asked for.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    file: File,
    metadata: BTreeMap<String, String>,
}

/// Safetensors files, or one of torch's, of which only the headers are in memory.
#[derive(Debug)]
pub struct Checkpoint {
    parts: Vec<Part>,
    tensors: Vec<StoredTensor>,
    index: BTreeMap<String, usize>,
}

/// What `model.safetensors.index.json` says.
#[derive(Deserialize)]
struct Shards {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// The file of a checkpoint in one piece.
    pub const WHOLE: &'static str = "model.safetensors";
    /// The list of the files of one in several.
    pub const INDEX: &'static str = "model.safetensors.index.json";
    /// The file of one that torch wrote.
    pub const TORCH: &'static str = "pytorch_model.bin";

    /// Opens `model.safetensors` of a folder, the files that its `model.safetensors.index.json` names or, where there is neither,
    /// `pytorch_model.bin`.
    ///
    /// # Errors
    /// Names the file and what is wrong: missing, truncated, an absurd header, a tensor in two files.
    pub fn open(folder: &Path) -> Result<Self> {
        let index = folder.join(Self::INDEX);
        if !index.exists() {
            let [whole, torch] = [Self::WHOLE, Self::TORCH].map(|name| folder.join(name));
            return Self::of(&[if torch.exists() && !whole.exists() { torch } else { whole }]);
        }
        let text = std::fs::read_to_string(&index).map_err(|e| Error::io(&index, e))?;
        let shards: Shards = serde_json::from_str(&text).map_err(|e| Error::format(&index, e.to_string()))?;
        let files: BTreeSet<&String> = shards.weight_map.values().collect();
        // A name from a file must not lead out of the folder.
        if let Some(file) = files.iter().find(|file| Path::new(file).components().count() != 1 || **file == "..") {
            return Err(Error::format(&index, format!("`{file}` is no file of this folder; fetch the index again")));
        }
        Self::of(&files.into_iter().map(|file| folder.join(file)).collect::<Vec<_>>())
    }

    /// Opens one file.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn file(file: &Path) -> Result<Self> {
        Self::of(&[file.to_owned()])
    }

    fn of(files: &[PathBuf]) -> Result<Self> {
        let mut checkpoint = Self { parts: vec![], tensors: vec![], index: BTreeMap::new() };
        for path in files {
            let (part, tensors) = read_header(path, checkpoint.parts.len())?;
            checkpoint.parts.push(part);
            checkpoint.tensors.extend(tensors);
        }
        checkpoint.renamed(|name| name.to_owned())
    }

    /// The same checkpoint with names as a model knows them, made from those in the file.
    ///
    /// # Errors
    /// When two tensors would have one name.
    pub fn renamed(mut self, known: impl Fn(&str) -> String) -> Result<Self> {
        self.index.clear();
        for (at, tensor) in self.tensors.iter_mut().enumerate() {
            tensor.name = known(&tensor.name_in_file);
            if self.index.insert(tensor.name.clone(), at).is_some() {
                return Err(Error::format(
                    &self.parts[tensor.file].path,
                    format!("tensor `{}` is there twice; fetch the checkpoint again", tensor.name),
                ));
            }
        }
        Ok(self)
    }

    /// The files, in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().map(|part| part.path.as_path())
    }

    /// The text entries of a file's header.
    ///
    /// # Panics
    /// When there are not so many files.
    pub fn metadata(&self, file: usize) -> &BTreeMap<String, String> {
        &self.parts[file].metadata
    }

    /// All tensors, file by file in the order in which they lie there.
    pub fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }

    /// The tensor of that name, as models know it.
    pub fn tensor(&self, name: &str) -> Option<&StoredTensor> {
        self.index.get(name).map(|&at| &self.tensors[at])
    }

    /// Hands over the bytes of a tensor, about a megabyte at a time and never a part of a number.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file, and those of `take`.
    pub fn pieces(&self, tensor: &StoredTensor, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let Part { path, file, .. } = &self.parts[tensor.file];
        let (mut file, mut left) = (file, tensor.bytes());
        file.seek(SeekFrom::Start(tensor.range.start)).map_err(|e| Error::io(path, e))?;
        if let Some(strides) = &tensor.strides {
            let mut bytes = vec![0; left as usize];
            file.read_exact(&mut bytes).map_err(|e| Error::io(path, e))?;
            let rows = row_after_row(&bytes, tensor.stored.bitsize() / 8, &tensor.shape, strides);
            return rows.chunks(PIECE).try_for_each(take);
        }
        let mut piece = vec![0; left.min(PIECE as u64) as usize];
        while left > 0 {
            let piece = &mut piece[..left.min(PIECE as u64) as usize];
            file.read_exact(piece).map_err(|e| Error::io(path, e))?;
            take(piece)?;
            left -= piece.len() as u64;
        }
        Ok(())
    }

    /// Reads one tensor; F16 and BF16 become F32.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file, more than five axes, or numbers that are no floats.
    pub fn read(&self, tensor: &StoredTensor, device: &Device) -> Result<AnyTensor> {
        let bad = |what| Error::format(&self.parts[tensor.file].path, format!("tensor `{}` {what}", tensor.name));
        let (axes, stored) = (tensor.shape.len(), tensor.stored);
        if axes > MAX_AXES {
            return Err(bad(format!("has {axes} axes, at most {MAX_AXES} are supported")));
        }
        if !tensor.is_float() {
            return Err(bad(format!("is stored as {stored}; choose a checkpoint in F32, BF16 or F16")));
        }
        let count = tensor.shape.iter().product();
        if stored == Stored::F64 {
            let mut numbers = Vec::with_capacity(count);
            self.pieces(tensor, &mut |raw| {
                decode(stored, raw, &mut numbers);
                Ok(())
            })?;
            return Ok(AnyTensor::from_f64s(numbers, &tensor.shape, DType::F64, device));
        }
        let mut numbers = Vec::with_capacity(count);
        self.pieces(tensor, &mut |raw| {
            decode_f32(stored, raw, &mut numbers);
            Ok(())
        })?;
        Ok(AnyTensor::from_f32s(numbers, &tensor.shape, device))
    }

    /// Every tensor of floats, file by file and sorted by name.
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub fn params(&self, device: &Device) -> Result<Params> {
        let mut floats: Vec<&StoredTensor> = self.tensors.iter().filter(|tensor| tensor.is_float()).collect();
        floats.sort_by_key(|tensor| (tensor.file, &tensor.name));
        let mut params = Params::default();
        for tensor in floats {
            params.insert(&tensor.name, self.read(tensor, device)?);
        }
        Ok(params)
    }

    /// What [`Params::fingerprint`] says of all its tensors of floats, without holding more than a piece of one.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn fingerprint(&self) -> Result<String> {
        let mut print = Fingerprint::default();
        // The index is sorted, as fingerprints want it.
        for tensor in self.index.values().map(|&at| &self.tensors[at]).filter(|tensor| tensor.is_float()) {
            let dtype = if tensor.stored == Stored::F64 { DType::F64 } else { DType::F32 };
            // A single number becomes a list of one when it is read.
            let shape = if tensor.shape.is_empty() { &[1][..] } else { &tensor.shape };
            print.tensor(&tensor.name, shape, dtype);
            let (mut wide, mut bytes) = (vec![], vec![]);
            self.pieces(tensor, &mut |raw| {
                if matches!(tensor.stored, Stored::F64 | Stored::F32) {
                    print.numbers(raw);
                } else {
                    wide.clear();
                    bytes.clear();
                    decode_f32(tensor.stored, raw, &mut wide);
                    bytes.extend(wide.iter().flat_map(|x| x.to_le_bytes()));
                    print.numbers(&bytes);
                }
                Ok(())
            })?;
        }
        Ok(print.finish())
    }
}

/// Numbers of `size` bytes in the order of rows, from where they are so far apart along each axis.
fn row_after_row(bytes: &[u8], size: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let (mut rows, mut at) = (Vec::with_capacity(bytes.len()), vec![0; shape.len()]);
    for _ in 0..bytes.len() / size {
        let from: usize = at.iter().zip(strides).map(|(at, stride)| at * stride).sum();
        rows.extend_from_slice(&bytes[from * size..][..size]);
        for (at, &size) in at.iter_mut().zip(shape).rev() {
            *at += 1;
            if *at < size {
                break;
            }
            *at = 0;
        }
    }
    rows
}

/// Opens a file and reads where its tensors lie.
fn read_header(path: &Path, number: usize) -> Result<(Part, Vec<StoredTensor>)> {
    let io = |e| Error::io(path, e);
    let truncated = |what: String| Error::format(path, format!("{what}; fetch the file again"));
    let mut file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let Some(after) = length.checked_sub(8) else {
        return Err(truncated(format!("a safetensors file has at least 8 bytes, this one has {length}")));
    };
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(io)?;
    if torch::is_torch(&size) {
        let tensors = torch::tensors(&file, length, number).map_err(|what| Error::format(path, what))?;
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        return Ok((Part { path: path.to_owned(), file, metadata }, tensors));
    }
    let size = u64::from_le_bytes(size);
    if size > HEADER_LIMIT || size > after {
        return Err(truncated(format!("the header claims {size} bytes, the file has {after} after it")));
    }
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header).map_err(io)?;
    let header: Metadata =
        serde_json::from_slice(&header).map_err(|e| truncated(format!("not a whole safetensors file ({e})")))?;
    let data = after - size;
    if header.data_len() as u64 != data {
        let what = format!("its tensors take {} bytes, the file has {data} for them", header.data_len());
        return Err(truncated(format!("not a whole safetensors file ({what})")));
    }
    let place = |name: String| {
        let TensorInfo { dtype, shape, data_offsets: (start, end) } = header.info(&name)?;
        let range = 8 + size + *start as u64..8 + size + *end as u64;
        let (stored, shape) = (*dtype, shape.clone());
        Some(StoredTensor { name: name.clone(), name_in_file: name, stored, shape, file: number, range, strides: None })
    };
    let tensors = header.offset_keys().into_iter().filter_map(place).collect();
    let metadata = header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    Ok((Part { path: path.to_owned(), file, metadata }, tensors))
}

/// A safetensors file that is written in pieces: whole under its name when [`TensorWriter::finish`] returns, and not at all when that is
/// not reached.
#[derive(Debug)]
pub struct TensorWriter {
    path: PathBuf,
    temporary: PathBuf,
    out: BufWriter<File>,
    left: u64,
    named: bool,
}

impl TensorWriter {
    /// Begins a file with the tensors of these names, types and shapes; their data follow in this order, without gaps.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file, or a tensor that cannot be described.
    pub fn create(
        path: &Path,
        tensors: impl IntoIterator<Item = (String, Stored, Vec<usize>)>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let (mut infos, mut end) = (vec![], 0);
        for (name, dtype, shape) in tensors {
            let start = end;
            end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
            infos.push((name, TensorInfo { dtype, shape, data_offsets: (start, end) }));
        }
        let entries: HashMap<String, String> =
            metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let bad = |e: String| Error::format(path, e);
        let header = Metadata::new(Some(entries).filter(|entries| !entries.is_empty()), infos);
        let mut header =
            serde_json::to_value(&header.map_err(|e| bad(e.to_string()))?).map_err(|e| bad(e.to_string()))?;
        // The library keeps text entries in a hash map: the same file shall have the same bytes.
        if let Some(entries) = header.get_mut("__metadata__").and_then(serde_json::Value::as_object_mut) {
            entries.sort_keys();
        }
        let mut header = header.to_string().into_bytes();
        // As the format's own library does: the data begin at a multiple of eight.
        header.resize(header.len().next_multiple_of(8), b' ');
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let file = File::create(&temporary).map_err(|e| Error::io(path, e))?;
        let (out, left) = (BufWriter::with_capacity(PIECE, file), (8 + header.len() + end) as u64);
        let mut writer = Self { path: path.to_owned(), temporary, out, left, named: false };
        writer.write(&(header.len() as u64).to_le_bytes())?;
        writer.write(&header)?;
        Ok(writer)
    }

    /// Writes the next bytes.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file, or more bytes than were announced.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| self.other_size())?;
        self.out.write_all(bytes).map_err(|e| Error::io(&self.path, e))
    }

    fn other_size(&self) -> Error {
        Error::format(&self.path, "the tensors are not of the sizes that were announced; announce others")
    }

    /// Flushes the file to the disk and gives it its name.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file, or fewer bytes than were announced.
    pub fn finish(self) -> Result<()> {
        self.end(true)
    }

    /// As [`TensorWriter::finish`], but without waiting for the disk.
    pub(crate) fn finish_unflushed(self) -> Result<()> {
        self.end(false)
    }

    fn end(mut self, flush: bool) -> Result<()> {
        if self.left > 0 {
            return Err(self.other_size());
        }
        let sync = |file: &File| if flush { file.sync_all() } else { Ok(()) };
        let written = self.out.flush().and_then(|()| sync(self.out.get_ref()));
        let named = written.and_then(|()| std::fs::rename(&self.temporary, &self.path));
        self.named = named.is_ok();
        named.map_err(|e| Error::io(&self.path, e))
    }
}

impl Drop for TensorWriter {
    fn drop(&mut self) {
        if !self.named {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}
