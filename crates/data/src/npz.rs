//! Arrays of NumPy's files, read a row at a time.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use acclimate_core::{Error, Result};
use npyz::{DType, NpyFile, NpyReader, Order, TypeChar};
use zip::{CompressionMethod, ZipArchive};

/// Bytes of an array, decompressed where they are.
type Bytes = BufReader<Box<dyn Read + Send>>;

/// An array of numbers in an `.npz` or `.npy` file, a row at a time: memory does not grow with its length.
pub struct NpyRows {
    file: PathBuf,
    name: String,
    shape: Vec<usize>,
    values: Values,
    left: usize,
}

/// The number types that are read.
enum Values {
    F32(NpyReader<f32, Bytes>),
    F64(NpyReader<f64, Bytes>),
    U8(NpyReader<u8, Bytes>),
    I32(NpyReader<i32, Bytes>),
    I64(NpyReader<i64, Bytes>),
}

impl NpyRows {
    /// Opens the first of these names that an `.npz` holds, or the one array of an `.npy`; nothing where it holds none of them.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged, or an array of another type than floats, bytes and whole numbers or stored by columns.
    pub fn open(file: &Path, names: &[&str]) -> Result<Option<Self>> {
        let single = file.extension().is_some_and(|end| end.eq_ignore_ascii_case("npy"));
        if single {
            let bytes = File::open(file).map_err(|e| Error::io(file, e))?;
            return Self::new(file, "its array", Box::new(bytes)).map(Some);
        }
        let held = Self::names(file)?;
        match names.iter().find(|name| held.iter().any(|held| held == *name)) {
            Some(name) => Self::new(file, &format!("`{name}`"), member(file, &format!("{name}.npy"))?).map(Some),
            None => Ok(None),
        }
    }

    /// As [`NpyRows::open`], for an array that has to be there.
    ///
    /// # Errors
    /// As there, and where none of the names is held.
    pub fn required(file: &Path, names: &[&str]) -> Result<Self> {
        if let Some(rows) = Self::open(file, names)? {
            return Ok(rows);
        }
        let list = |names: &[String]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let wanted: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let what = format!("holds no array {}, but {}; rename one", list(&wanted), list(&Self::names(file)?));
        Err(Error::format(file, what))
    }

    /// The names of the arrays in an `.npz`.
    fn names(file: &Path) -> Result<Vec<String>> {
        let archive = archive(file)?;
        Ok(archive.file_names().filter_map(|name| name.strip_suffix(".npy")).map(str::to_owned).collect())
    }

    fn new(file: &Path, name: &str, bytes: Box<dyn Read + Send>) -> Result<Self> {
        let bad = |what: String| Error::format(file, format!("{name} {what}"));
        let array = NpyFile::new(BufReader::with_capacity(1 << 16, bytes))
            .map_err(|e| bad(format!("is no array of NumPy ({e}); save it again")))?;
        let shape = array.shape().iter().map(|&size| usize::try_from(size).ok()).collect::<Option<Vec<usize>>>();
        let shape = shape.filter(|shape| shape.iter().try_fold(1_usize, |all, &size| all.checked_mul(size)).is_some());
        let shape = shape.ok_or_else(|| bad("is larger than memory can be; save it again".to_owned()))?;
        if shape.is_empty() {
            return Err(bad("is a single number; save rows".to_owned()));
        }
        if array.order() == Order::Fortran && shape.len() > 1 {
            return Err(bad("is stored by columns; save `numpy.ascontiguousarray` of it".to_owned()));
        }
        let dtype = array.dtype();
        let DType::Plain(plain) = &dtype else { return Err(bad("has named fields; save plain numbers".to_owned())) };
        let known = "use float32, float64, uint8, int32 or int64";
        let wrong = |_| bad(format!("holds `{}`; {known}", dtype.descr()));
        let values = match (plain.type_char(), plain.size_field()) {
            (TypeChar::Float, 4) => Values::F32(array.data().map_err(wrong)?),
            (TypeChar::Float, 8) => Values::F64(array.data().map_err(wrong)?),
            (TypeChar::Uint, 1) => Values::U8(array.data().map_err(wrong)?),
            (TypeChar::Int, 4) => Values::I32(array.data().map_err(wrong)?),
            (TypeChar::Int, 8) => Values::I64(array.data().map_err(wrong)?),
            _ => return Err(bad(format!("holds `{}`; {known}", dtype.descr()))),
        };
        Ok(Self { file: file.to_owned(), name: name.to_owned(), left: shape[0], shape, values })
    }

    /// The sizes of the array, rows first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many numbers a row has.
    pub fn width(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// The next row, bytes as they are; nothing after the last.
    ///
    /// # Errors
    /// When the file ends before the array does.
    pub fn row(&mut self) -> Result<Option<Vec<f32>>> {
        if self.left == 0 {
            return Ok(None);
        }
        let (row, width) = (self.shape[0] - self.left, self.width());
        let read = match &mut self.values {
            Values::F32(values) => take(values, width, |x| x),
            Values::F64(values) => take(values, width, |x| x as f32),
            Values::U8(values) => take(values, width, f32::from),
            Values::I32(values) => take(values, width, |x| x as f32),
            Values::I64(values) => take(values, width, |x| x as f32),
        };
        self.left -= 1;
        let name = &self.name;
        read.map(Some)
            .map_err(|e| Error::format(&self.file, format!("{name} ends in row {} ({e}); save it again", row + 1)))
    }

    /// Whether the numbers are bytes, such as those of pixels.
    pub fn is_bytes(&self) -> bool {
        matches!(self.values, Values::U8(_))
    }

    /// All rows of an array of whole numbers, one each.
    ///
    /// # Errors
    /// Numbers that are not whole or more than one a row, or a file that ends early.
    pub fn whole(mut self) -> Result<Vec<i64>> {
        let (file, name, width) = (self.file.clone(), self.name.clone(), self.width());
        let (rows, whole) = (self.shape[0], matches!(self.values, Values::U8(_) | Values::I32(_) | Values::I64(_)));
        if width != 1 || !whole {
            let what = format!("{name} should hold a whole number for each row; save it as int64");
            return Err(Error::format(file, what));
        }
        let read = match &mut self.values {
            Values::U8(values) => take(values, rows, i64::from),
            Values::I32(values) => take(values, rows, i64::from),
            Values::I64(values) => take(values, rows, |x| x),
            Values::F32(_) | Values::F64(_) => Ok(vec![]),
        };
        read.map_err(|e| Error::format(file, format!("{name} is not whole ({e}); save it again")))
    }
}

fn take<T: npyz::Deserialize, U>(
    values: &mut NpyReader<T, Bytes>,
    count: usize,
    as_is: impl Fn(T) -> U,
) -> std::io::Result<Vec<U>> {
    let short = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    // Room grows with what is there, not with what a header says.
    let mut taken = Vec::with_capacity(count.min(1 << 20));
    for _ in 0..count {
        taken.push(as_is(values.next().ok_or_else(short)??));
    }
    Ok(taken)
}

fn damaged(file: &Path, e: &dyn std::fmt::Display) -> Error {
    Error::format(file, format!("is no whole .npz file ({e}); save it again"))
}

fn archive(file: &Path) -> Result<ZipArchive<BufReader<File>>> {
    let open = File::open(file).map_err(|e| Error::io(file, e))?;
    ZipArchive::new(BufReader::new(open)).map_err(|e| damaged(file, &e))
}

/// The bytes of a member, with a handle of their own on the file: several arrays are read side by side.
fn member(file: &Path, name: &str) -> Result<Box<dyn Read + Send>> {
    let mut archive = archive(file)?;
    let (start, size, packed) = {
        let found = archive.by_name(name).map_err(|e| damaged(file, &e))?;
        let start = found.data_start().ok_or_else(|| damaged(file, &"a part has no place"))?;
        (start, found.compressed_size(), found.compression())
    };
    let mut open = File::open(file).map_err(|e| Error::io(file, e))?;
    open.seek(SeekFrom::Start(start)).map_err(|e| Error::io(file, e))?;
    let bytes = BufReader::new(open).take(size);
    match packed {
        CompressionMethod::Stored => Ok(Box::new(bytes)),
        CompressionMethod::Deflated => Ok(Box::new(flate2::read::DeflateDecoder::new(bytes))),
        other => Err(damaged(file, &format!("compressed by {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use npyz::WriterBuilder;
    use std::io::Write;

    /// An array as NumPy writes it.
    fn npy<T: npyz::AutoSerialize + Copy>(shape: &[u64], values: &[T]) -> Vec<u8> {
        let mut bytes = vec![];
        let mut writer = npyz::WriteOptions::new().default_dtype().shape(shape).writer(&mut bytes).begin_nd().unwrap();
        writer.extend(values.iter().copied()).unwrap();
        writer.finish().unwrap();
        bytes
    }

    fn npz(file: &Path, arrays: &[(&str, Vec<u8>)], packed: CompressionMethod) {
        let mut zip = zip::ZipWriter::new(File::create(file).unwrap());
        for (name, bytes) in arrays {
            let options = zip::write::SimpleFileOptions::default().compression_method(packed);
            zip.start_file(format!("{name}.npy"), options).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
    }

    #[test]
    fn arrays_are_read_row_by_row_packed_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.npz");
        for packed in [CompressionMethod::Stored, CompressionMethod::Deflated] {
            let arrays = [("x", npy(&[2, 1, 2], &[1.5_f64, 2.0, 3.0, 4.0])), ("y", npy(&[2], &[7_i64, 1]))];
            npz(&file, &arrays, packed);
            let mut x = NpyRows::required(&file, &["x"]).unwrap();
            assert_eq!((x.shape(), x.width(), x.is_bytes()), (&[2, 1, 2][..], 2, false));
            assert_eq!(x.row().unwrap().unwrap(), [1.5, 2.0]);
            assert_eq!(x.row().unwrap().unwrap(), [3.0, 4.0]);
            assert_eq!(x.row().unwrap(), None);
            assert_eq!(NpyRows::required(&file, &["y"]).unwrap().whole().unwrap(), [7, 1]);
        }
        let single = folder.path().join("a.npy");
        std::fs::write(&single, npy(&[1, 2], &[3_u8, 255])).unwrap();
        let mut bytes = NpyRows::required(&single, &[]).unwrap();
        assert_eq!((bytes.is_bytes(), bytes.row().unwrap().unwrap()), (true, vec![3.0, 255.0]));
    }

    #[test]
    fn what_is_wrong_with_an_array_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.npz");
        let mut short = npy(&[2, 2], &[1_f32, 2.0, 3.0, 4.0]);
        short.truncate(short.len() - 4);
        let arrays = [("x", short), ("y", npy(&[1], &[1_f32])), ("z", npy(&[1], &[1_i8])), ("w", b"no".to_vec())];
        npz(&file, &arrays, CompressionMethod::Stored);
        let mut x = NpyRows::required(&file, &["x"]).unwrap();
        x.row().unwrap();
        let text = |error: Error| error.to_string();
        assert!(text(x.row().unwrap_err()).contains("`x` ends in row 2"));
        assert!(text(NpyRows::required(&file, &["y"]).unwrap().whole().unwrap_err()).contains("save it as int64"));
        assert!(text(NpyRows::required(&file, &["z"]).err().unwrap()).contains("use float32"));
        assert!(text(NpyRows::required(&file, &["w"]).err().unwrap()).contains("is no array of NumPy"));
        assert!(
            text(NpyRows::required(&file, &["images"]).err().unwrap()).contains("holds no array `images`, but `x`")
        );
        std::fs::write(&file, b"PK").unwrap();
        assert!(text(NpyRows::open(&file, &["x"]).err().unwrap()).contains("is no whole .npz file"));
    }
}
