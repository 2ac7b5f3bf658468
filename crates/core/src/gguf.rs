//! GGUF files: the container that llama.cpp keeps models in, read whole and bounded.

use crate::{Error, Result};
use std::{
    collections::BTreeMap,
    fmt,
    io::Read,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Bytes that tensors are aligned to where the file does not say.
const ALIGNMENT: u64 = 32;
/// ggml has no tensors of more axes.
const MAX_AXES: u32 = 4;

/// A GGUF file of version 2 or 3, little endian: named values, and tensors as the bytes they are stored in.
#[derive(Clone)]
pub struct Gguf {
    file: PathBuf,
    bytes: Arc<[u8]>,
    values: BTreeMap<String, Value>,
    tensors: Vec<GgufTensor>,
    index: BTreeMap<String, usize>,
}

/// Where a tensor lies in its file, and how its numbers are packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufTensor {
    /// The name in the file, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Sizes, outermost first: rows before columns, the other way round than in the file.
    pub dims: Vec<usize>,
    /// ggml's number of the packing: 0 is F32, 1 F16, 8 Q8_0, 30 BF16.
    pub kind: u32,
    range: Range<usize>,
}

/// A named value. Lists of floats, truth values and lists are passed over: nothing asks for them.
#[derive(Clone)]
enum Value {
    Whole(i128),
    Float(f64),
    Flag(bool),
    Text(String),
    Texts(Vec<String>),
    Wholes(Vec<i128>),
}

/// Numbers per block and bytes per block of a packing.
fn block(kind: u32) -> Option<(u64, u64)> {
    Some(match kind {
        0 => (1, 4),
        1 | 30 => (1, 2),
        2 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        10 => (256, 84),
        11 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        _ => return None,
    })
}

impl Gguf {
    /// Reads a file whole.
    ///
    /// # Errors
    /// A file that cannot be read, is no GGUF of a known version, is cut off, names a thing twice, places a tensor
    /// outside itself, or is one of several parts.
    pub fn read(file: &Path) -> Result<Self> {
        let io = |e| Error::io(file, e);
        let mut source = std::fs::File::open(file).map_err(io)?;
        let length = usize::try_from(source.metadata().map_err(io)?.len())
            .map_err(|_| Error::format(file, "is larger than this machine can address; use a smaller model"))?;
        // Filled in place: a model of half the memory must not be copied.
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, length).collect();
        source.read_exact(Arc::get_mut(&mut bytes).expect("nobody else has it yet")).map_err(io)?;
        Self::parse(file, bytes)
    }

    fn parse(file: &Path, bytes: Arc<[u8]>) -> Result<Self> {
        let mut cursor = Cursor { file, bytes: &bytes, at: 0 };
        if !bytes.starts_with(b"GGUF") {
            return Err(Error::format(file, "is not a GGUF file: it does not begin with `GGUF`; name a .gguf file"));
        }
        cursor.at = 4;
        let version = cursor.u32()?;
        if !(2..=3).contains(&version) {
            let what = match version.swap_bytes() {
                1..=3 => "is a big-endian GGUF file; convert the model again without `--bigendian`".to_owned(),
                _ => format!("is GGUF of version {version}, 2 and 3 are known; convert the model again"),
            };
            return Err(Error::format(file, what));
        }
        let (tensors, values) = (cursor.u64()?, cursor.u64()?);
        let values = cursor.values(values)?;
        if let Some(Value::Whole(parts)) = values.get("split.count")
            && *parts > 1
        {
            let what = format!("is one of {parts} parts; join them with `llama-gguf-split --merge`");
            return Err(Error::format(file, what));
        }
        let alignment = match values.get("general.alignment") {
            None => ALIGNMENT,
            Some(Value::Whole(bytes)) if (1..=1 << 30).contains(bytes) => *bytes as u64,
            Some(_) => return Err(cursor.damaged("`general.alignment` is no positive number")),
        };
        let tensors = cursor.tensors(tensors, alignment)?;
        let mut index = BTreeMap::new();
        for (place, tensor) in tensors.iter().enumerate() {
            if index.insert(tensor.name.clone(), place).is_some() {
                return Err(cursor.damaged(format!("tensor `{}` is there twice", tensor.name)));
            }
        }
        Ok(Self { file: file.to_owned(), bytes: bytes.clone(), values, tensors, index })
    }

    /// The file that was read.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The text of that name, if there is a text.
    pub fn str(&self, key: &str) -> Option<&str> {
        match self.values.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number of that name, of any type, if it is not negative.
    pub fn u64(&self, key: &str) -> Option<u64> {
        match self.values.get(key)? {
            Value::Whole(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// The number of that name, whole or not.
    pub fn f64(&self, key: &str) -> Option<f64> {
        match self.values.get(key)? {
            Value::Whole(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// The truth value of that name.
    pub fn bool(&self, key: &str) -> Option<bool> {
        match self.values.get(key)? {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        }
    }

    /// The texts of that name.
    pub fn strings(&self, key: &str) -> Option<&[String]> {
        match self.values.get(key)? {
            Value::Texts(texts) => Some(texts),
            _ => None,
        }
    }

    /// The whole numbers of that name, of any type, if none is negative.
    pub fn u64s(&self, key: &str) -> Option<Vec<u64>> {
        match self.values.get(key)? {
            Value::Wholes(numbers) => numbers.iter().map(|number| u64::try_from(*number).ok()).collect(),
            _ => None,
        }
    }

    /// The tensors, in the file's order.
    pub fn tensors(&self) -> impl Iterator<Item = &GgufTensor> {
        self.tensors.iter()
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.index.get(name).map(|&place| &self.tensors[place])
    }

    /// The stored bytes of a tensor. For a packing that is not known here they reach to the next tensor, or to the end.
    ///
    /// # Panics
    /// If the tensor is of another, longer file.
    pub fn bytes(&self, tensor: &GgufTensor) -> &[u8] {
        &self.bytes[tensor.range.clone()]
    }
}

impl fmt::Debug for Gguf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gguf").field("file", &self.file).field("tensors", &self.tensors.len()).finish_non_exhaustive()
    }
}

/// Reads a file from front to back and never past its end.
struct Cursor<'a> {
    file: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn damaged(&self, what: impl fmt::Display) -> Error {
        Error::format(self.file, format!("{what}; fetch the file again"))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let left = &self.bytes[self.at..];
        match usize::try_from(length).ok().and_then(|length| left.get(..length)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(self.damaged(format!("ends at byte {} where {length} more are announced", self.bytes.len()))),
        }
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let taken = self.take(N as u64)?;
        Ok(*taken.first_chunk().expect("as many bytes were taken"))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.fixed()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.fixed()?))
    }

    fn text(&mut self) -> Result<String> {
        let (at, length) = (self.at, self.u64()?);
        let text = std::str::from_utf8(self.take(length)?).map(str::to_owned);
        text.map_err(|_| self.damaged(format!("the text at byte {at} is not UTF-8")))
    }

    fn values(&mut self, count: u64) -> Result<BTreeMap<String, Value>> {
        let (mut values, mut names) = (BTreeMap::new(), std::collections::BTreeSet::new());
        for _ in 0..count {
            let name = self.text()?;
            let kind = self.u32()?;
            let value = if kind == 9 { self.list(&name)? } else { Some(self.value(&name, kind)?) };
            if !names.insert(name.clone()) {
                return Err(self.damaged(format!("value `{name}` is there twice")));
            }
            values.extend(value.map(|value| (name, value)));
        }
        Ok(values)
    }

    fn value(&mut self, name: &str, kind: u32) -> Result<Value> {
        Ok(match kind {
            0 => Value::Whole(u8::from_le_bytes(self.fixed()?).into()),
            1 => Value::Whole(i8::from_le_bytes(self.fixed()?).into()),
            2 => Value::Whole(u16::from_le_bytes(self.fixed()?).into()),
            3 => Value::Whole(i16::from_le_bytes(self.fixed()?).into()),
            4 => Value::Whole(self.u32()?.into()),
            5 => Value::Whole(i32::from_le_bytes(self.fixed()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.fixed()?).into()),
            7 => Value::Flag(self.fixed::<1>()? != [0]),
            8 => Value::Text(self.text()?),
            10 => Value::Whole(self.u64()?.into()),
            11 => Value::Whole(i64::from_le_bytes(self.fixed()?).into()),
            12 => Value::Float(f64::from_le_bytes(self.fixed()?)),
            _ => return Err(self.damaged(format!("value `{name}` has the unknown type {kind}"))),
        })
    }

    /// A list, where it is one that [`Value`] keeps. Every element takes a byte at least, so the file's length bounds
    /// what is allocated, whatever count is announced.
    fn list(&mut self, name: &str) -> Result<Option<Value>> {
        let (kind, count) = (self.u32()?, self.u64()?);
        if kind == 9 {
            return Err(self.damaged(format!("value `{name}` is a list of lists, which no model needs")));
        }
        let (mut texts, mut wholes) = (Vec::new(), Vec::new());
        for _ in 0..count {
            match self.value(name, kind)? {
                Value::Text(text) => texts.push(text),
                Value::Whole(number) => wholes.push(number),
                _ => {}
            }
        }
        Ok(match kind {
            8 => Some(Value::Texts(texts)),
            6 | 7 | 12 => None,
            _ => Some(Value::Wholes(wholes)),
        })
    }

    fn tensors(&mut self, count: u64, alignment: u64) -> Result<Vec<GgufTensor>> {
        let mut heads = Vec::new();
        for _ in 0..count {
            let name = self.text()?;
            let axes = self.u32()?;
            if axes > MAX_AXES {
                return Err(self.damaged(format!("tensor `{name}` has {axes} axes, at most {MAX_AXES} are known")));
            }
            let mut dims = (0..axes).map(|_| self.u64()).collect::<Result<Vec<_>>>()?;
            dims.reverse();
            let (kind, offset) = (self.u32()?, self.u64()?);
            heads.push((name, dims, kind, offset));
        }
        let length = self.bytes.len() as u64;
        let data = (self.at as u64).next_multiple_of(alignment);
        let mut offsets: Vec<u64> = heads.iter().map(|(.., offset)| *offset).collect();
        offsets.sort_unstable();
        let place = |(name, dims, kind, offset): (String, Vec<u64>, u32, u64)| {
            if !offset.is_multiple_of(alignment) {
                let what = format!("tensor `{name}` begins at {offset}, no multiple of {alignment}");
                return Err(self.damaged(what));
            }
            let start = data.checked_add(offset);
            let next = offsets.get(offsets.partition_point(|&other| other <= offset));
            let size = match block(kind) {
                None => match next {
                    Some(next) => Some(next - offset),
                    None => start.and_then(|start| length.checked_sub(start)),
                },
                Some((numbers, bytes)) => {
                    let columns = dims.last().copied().unwrap_or(1);
                    if !columns.is_multiple_of(numbers) {
                        let what = format!("tensor `{name}` has rows of {columns}, of blocks of {numbers} numbers");
                        return Err(self.damaged(what));
                    }
                    let count = dims.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
                    count.and_then(|count| (count / numbers).checked_mul(bytes))
                }
            };
            let end = start.zip(size).and_then(|(start, size)| start.checked_add(size)).filter(|&end| end <= length);
            let sizes = dims.iter().map(|&size| usize::try_from(size).ok()).collect::<Option<Vec<_>>>();
            match (start, end, sizes) {
                // Both ends lie inside bytes that are in memory, so they fit.
                (Some(start), Some(end), Some(dims)) => {
                    Ok(GgufTensor { name, dims, kind, range: start as usize..end as usize })
                }
                _ => Err(self.damaged(format!("tensor `{name}` of type {kind} and sizes {dims:?} leaves the file"))),
            }
        };
        heads.into_iter().map(place).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }

    fn value(out: &mut Vec<u8>, name: &str, kind: u32, bytes: &[u8]) {
        text(out, name);
        out.extend(kind.to_le_bytes());
        out.extend(bytes);
    }

    fn tensor(out: &mut Vec<u8>, name: &str, dims: &[u64], kind: u32, offset: u64) {
        text(out, name);
        out.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|size| out.extend(size.to_le_bytes()));
        out.extend(kind.to_le_bytes());
        out.extend(offset.to_le_bytes());
    }

    /// Nine values and three tensors: F32 of 2 rows by 3, a Q8_0 block, and one of the unknown type 99.
    fn sample(more: impl FnOnce(&mut Vec<u8>) -> u64) -> Vec<u8> {
        let mut values = Vec::new();
        let count = 9 + more(&mut values);
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend(3u64.to_le_bytes());
        out.extend(count.to_le_bytes());
        let mut name = Vec::new();
        text(&mut name, "llama");
        value(&mut out, "architecture", 8, &name);
        value(&mut out, "small", 0, &[7]);
        value(&mut out, "negative", 5, &(-1i32).to_le_bytes());
        value(&mut out, "large", 10, &u64::MAX.to_le_bytes());
        value(&mut out, "eps", 6, &0.5f32.to_le_bytes());
        value(&mut out, "flag", 7, &[1]);
        let mut list = [8u32.to_le_bytes().to_vec(), 2u64.to_le_bytes().to_vec()].concat();
        text(&mut list, "a");
        text(&mut list, "é");
        value(&mut out, "texts", 9, &list);
        let list = [&5u32.to_le_bytes()[..], &2u64.to_le_bytes(), &1i32.to_le_bytes(), &3i32.to_le_bytes()].concat();
        value(&mut out, "wholes", 9, &list);
        let list = [&6u32.to_le_bytes()[..], &1u64.to_le_bytes(), &1f32.to_le_bytes()].concat();
        value(&mut out, "floats", 9, &list);
        out.extend(values);
        tensor(&mut out, "plain", &[3, 2], 0, 0);
        tensor(&mut out, "packed", &[32], 8, 32);
        tensor(&mut out, "odd", &[5], 99, 96);
        out.resize(out.len().next_multiple_of(32), 0);
        (0..6u8).for_each(|number| out.extend(f32::from(number).to_le_bytes()));
        out.extend([0; 8]);
        out.extend([9; 34]);
        out.extend([0; 30]);
        out.extend([4; 10]);
        out
    }

    fn parse(bytes: &[u8]) -> Result<Gguf> {
        Gguf::parse(Path::new("model.gguf"), bytes.into())
    }

    #[test]
    fn values_and_tensors_are_found() {
        let gguf = parse(&sample(|_| 0)).unwrap();
        assert_eq!(gguf.str("architecture"), Some("llama"));
        assert_eq!([gguf.u64("small"), gguf.u64("large"), gguf.u64("negative")], [Some(7), Some(u64::MAX), None]);
        assert_eq!([gguf.f64("small"), gguf.f64("eps"), gguf.f64("negative")], [Some(7.0), Some(0.5), Some(-1.0)]);
        assert_eq!((gguf.bool("flag"), gguf.str("flag"), gguf.u64("none")), (Some(true), None, None));
        assert_eq!(gguf.strings("texts").unwrap(), ["a", "é"]);
        assert_eq!(gguf.u64s("wholes").unwrap(), [1, 3]);
        assert_eq!(gguf.u64s("floats"), None);
        assert_eq!(gguf.tensors().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["plain", "packed", "odd"]);
        let plain = gguf.tensor("plain").unwrap();
        assert_eq!((&plain.dims[..], plain.kind), (&[2, 3][..], 0));
        assert_eq!(gguf.bytes(plain)[20..], 5f32.to_le_bytes());
        assert_eq!(gguf.bytes(plain).len(), 24);
        assert_eq!(gguf.bytes(gguf.tensor("packed").unwrap()), [9; 34]);
        assert_eq!(gguf.bytes(gguf.tensor("odd").unwrap()), [4; 10]);
    }

    #[test]
    fn parts_and_other_files_are_refused() {
        let split = sample(|out| {
            value(out, "split.count", 2, &3u16.to_le_bytes());
            1
        });
        let error = |bytes: &[u8]| parse(bytes).unwrap_err().to_string();
        assert_eq!(error(&split), "model.gguf: is one of 3 parts; join them with `llama-gguf-split --merge`");
        assert!(error(b"PK").starts_with("model.gguf: is not a GGUF file"));
        assert!(error(b"GGUF\0\0\0\x03").contains("big-endian"));
        assert!(error(b"GGUF\x01\0\0\0").contains("version 1, 2 and 3 are known"));
        let twice = sample(|out| {
            value(out, "small", 0, &[8]);
            1
        });
        assert!(error(&twice).contains("value `small` is there twice"));
        let coarse = sample(|out| {
            value(out, "general.alignment", 4, &64u32.to_le_bytes());
            1
        });
        assert!(error(&coarse).contains("tensor `packed` begins at 32, no multiple of 64; fetch the file again"));
    }

    #[test]
    fn damaged_files_are_errors_and_nothing_else() {
        let whole = sample(|_| 0);
        // The last tensor is of an unknown type and takes what is there, so only its own bytes may be cut.
        for end in 0..whole.len() - 10 {
            let error = parse(&whole[..end]).unwrap_err().to_string();
            assert!(error.starts_with("model.gguf: ") && error.contains("; "), "{end}: {error}");
        }
        for place in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[place] ^= flip;
                if let Ok(gguf) = parse(&bytes) {
                    assert!(gguf.tensors().map(|t| gguf.bytes(t).len()).sum::<usize>() <= 3 * bytes.len());
                }
            }
        }
    }
}
