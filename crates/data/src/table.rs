//! Tables from files: csv, tsv, JSON lines, parquet, plain text and folders of images.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use acclimate_core::{Error, Result};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

/// Most bytes read from one text file, after decompression.
pub const MAX_BYTES: u64 = 4 << 30;
/// Most rows of a table.
pub const MAX_ROWS: usize = 50_000_000;
/// Most columns of a table.
pub const MAX_COLUMNS: usize = 100_000;
/// Most bytes of one cell.
pub const MAX_CELL: usize = 16 << 20;

/// One cell.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing: an empty csv cell, a JSON null, a missing key.
    Null,
    /// Text. Every filled cell of a csv file is text; numbers are read from it when a column is used as numbers.
    Text(String),
    /// A number; may be NaN, which using it as a target refuses.
    Number(f64),
    /// True or false.
    Bool(bool),
    /// Several strings, such as the labels or the words of a row.
    List(Vec<String>),
    /// A list of objects, such as the turns of a dialogue; read from JSON lines alone.
    Objects(Vec<serde_json::Map<String, serde_json::Value>>),
}

impl Value {
    /// The cell as one string, `None` for nothing and for lists. Whole numbers have no decimal point.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.clone()),
            Self::Number(number) => Some(number.to_string()),
            Self::Bool(flag) => Some(flag.to_string()),
            Self::Null | Self::List(_) | Self::Objects(_) => None,
        }
    }

    /// The cell as a finite number, or what is wrong with it.
    pub(crate) fn number(&self) -> Result<f64, String> {
        let number = match self {
            Self::Null => return Err("is empty; fill it or drop the row".into()),
            Self::Number(number) => *number,
            Self::Bool(flag) => f64::from(u8::from(*flag)),
            Self::Text(text) => text
                .trim()
                .parse()
                .map_err(|_| format!("is not a number, got `{}`; correct it or drop the row", short(text)))?,
            Self::List(_) | Self::Objects(_) => {
                return Err("is a list, a number is needed; choose another column".into());
            }
        };
        match number.is_finite() {
            true => Ok(number),
            false => Err(format!("is not finite, got `{number}`; correct it or drop the row")),
        }
    }
}

/// The first characters of a text, for messages.
fn short(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// How the bytes of a text file stand for characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// UTF-8; other bytes are an error.
    #[default]
    Utf8,
    /// One byte per character, ISO 8859-1.
    Latin1,
}

/// How to read a file, where its name does not say it.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadOptions {
    /// Separator of cells; by default a comma for `.csv` and a tab for `.tsv`, while `.txt` has no cells.
    pub separator: Option<char>,
    /// How bytes stand for characters, in all but parquet files.
    pub encoding: Encoding,
    /// Names of the columns, for a csv file without a header line.
    pub columns: Option<Vec<String>>,
    /// Lines of a csv file that stand before its table.
    pub skip: usize,
    /// Whether `"` quotes cells of csv and tsv.
    pub quotes: bool,
    /// Whether a `.txt` file is one text, in one row, whatever its separator; other files are read as ever.
    pub whole: bool,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { separator: None, encoding: Encoding::Utf8, columns: None, skip: 0, quotes: true, whole: false }
    }
}

/// Rows and named columns, and the file they came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The file or folder, for messages.
    pub file: PathBuf,
    /// Column names, all different.
    pub columns: Vec<String>,
    /// Rows, each as long as `columns`.
    pub rows: Vec<Vec<Value>>,
}

impl Table {
    /// Reads a file by its extension, or a folder of images.
    ///
    /// `.csv` and `.tsv` (first line names the columns), `.jsonl` and `.ndjson` (an object per line; of an object in a
    /// cell the keys are columns `outer.inner`), `.parquet`
    /// (also `.parquet.brotli` and the like), `.txt` (a row per line that is not blank, column `text`); text formats
    /// may end in `.gz`. With [`ReadOptions::separator`] a `.txt` file is read as csv, with [`ReadOptions::whole`] as one
    /// text, of any length and with its ends of lines. A folder holds a folder of
    /// `.png` and `.jpg` per class (columns `image` and `label`), or images alone (column `image`).
    ///
    /// # Errors
    /// A file that cannot be read, has no rows, is malformed or exceeds the limits of this module; the message names
    /// the row and column.
    pub fn read(file: &Path, options: &ReadOptions) -> Result<Self> {
        let table = if file.is_dir() {
            image_folder(file)?
        } else {
            let name = file.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
            let kind = if name.contains(".parquet") {
                "parquet"
            } else {
                name.strip_suffix(".gz").unwrap_or(&name).rsplit_once('.').map_or("", |(_, kind)| kind)
            };
            match kind {
                "csv" => separated(file, options.separator.unwrap_or(','), options)?,
                "tsv" => separated(file, options.separator.unwrap_or('\t'), options)?,
                "txt" if options.whole => whole(file, options)?,
                "txt" => match options.separator {
                    Some(separator) => separated(file, separator, options)?,
                    None => lines(file, options)?,
                },
                "jsonl" | "ndjson" => json_lines(file, options)?,
                "parquet" => parquet(file)?,
                _ => {
                    let what = "is of an unknown kind; use .csv, .tsv, .jsonl, .parquet, .txt or a folder of images";
                    return Err(Error::format(file, what));
                }
            }
        };
        if table.rows.is_empty() {
            return Err(Error::format(file, "has no rows; give a file with at least one"));
        }
        Ok(table)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The position of a column.
    ///
    /// # Errors
    /// [`Error::Unknown`] with the nearest names.
    pub fn column(&self, name: &str) -> Result<usize> {
        let find = self.columns.iter().position(|column| column == name);
        find.ok_or_else(|| Error::unknown("column", name, self.columns.iter().map(String::as_str)))
    }

    /// A column as text.
    ///
    /// # Errors
    /// An unknown column, or a cell that is empty or a list.
    pub fn texts(&self, name: &str) -> Result<Vec<String>> {
        let column = self.column(name)?;
        let cell = |(row, cells): (usize, &Vec<Value>)| {
            cells[column].text().ok_or_else(|| self.row_error(row, name, "has no text; fill it or drop the row"))
        };
        self.rows.iter().enumerate().map(cell).collect()
    }

    /// A column as finite numbers.
    ///
    /// # Errors
    /// An unknown column, or a cell that is empty, no number, NaN or infinite.
    pub fn numbers(&self, name: &str) -> Result<Vec<f64>> {
        let column = self.column(name)?;
        let cell =
            |(row, cells): (usize, &Vec<Value>)| cells[column].number().map_err(|what| self.row_error(row, name, what));
        self.rows.iter().enumerate().map(cell).collect()
    }

    /// A column as finite numbers, nothing where a cell is empty.
    ///
    /// # Errors
    /// An unknown column, or a filled cell that is no number, NaN or infinite.
    pub fn numbers_or_gaps(&self, name: &str) -> Result<Vec<Option<f64>>> {
        let column = self.column(name)?;
        let cell = |(row, cells): (usize, &Vec<Value>)| match &cells[column] {
            Value::Null => Ok(None),
            value => value.number().map(Some).map_err(|what| self.row_error(row, name, what)),
        };
        self.rows.iter().enumerate().map(cell).collect()
    }

    /// A column as lists; text is cut at `separator`, or at white space without one, and empty parts are dropped.
    ///
    /// # Errors
    /// An unknown column. An empty cell is an empty list.
    pub fn lists(&self, name: &str, separator: Option<char>) -> Result<Vec<Vec<String>>> {
        let column = self.column(name)?;
        let cell = |cells: &Vec<Value>| match (&cells[column], separator) {
            (Value::List(list), _) => list.clone(),
            (value, Some(separator)) => cut(value.text(), |text| text.split(separator).map(str::trim).collect()),
            (value, None) => cut(value.text(), |text| text.split_whitespace().collect()),
        };
        Ok(self.rows.iter().map(cell).collect())
    }

    /// The rows at `index`, in that order.
    ///
    /// # Panics
    /// If an index is out of range.
    pub fn select(&self, index: &[usize]) -> Self {
        let rows = index.iter().map(|&row| self.rows[row].clone()).collect();
        Self { file: self.file.clone(), columns: self.columns.clone(), rows }
    }

    /// An error about a cell; `row` counts from zero here and from one in the message.
    pub(crate) fn row_error(&self, row: usize, column: &str, what: impl Into<String>) -> Error {
        row_error(&self.file, row + 1, column, what)
    }
}

fn cut(text: Option<String>, parts: impl Fn(&str) -> Vec<&str>) -> Vec<String> {
    let text = text.unwrap_or_default();
    parts(&text).into_iter().filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

pub(crate) fn row_error(file: &Path, row: usize, column: &str, what: impl Into<String>) -> Error {
    Error::Row { file: file.to_owned(), row, column: column.to_owned(), what: what.into() }
}

/// The bytes of a file, decompressed if its name ends in `.gz`, without a UTF-8 byte order mark.
pub(crate) fn bytes(file: &Path) -> Result<Vec<u8>> {
    let open = File::open(file).map_err(|e| Error::io(file, e))?;
    let reader: Box<dyn Read> = match file.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz")) {
        true => Box::new(flate2::read::MultiGzDecoder::new(open)),
        false => Box::new(open),
    };
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| Error::io(file, e))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::format(file, format!("is larger than {MAX_BYTES} bytes; split it")));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Error::format(file, "is in UTF-16; save it as UTF-8"));
    }
    if bytes.starts_with(&[0xef, 0xbb, 0xbf]) {
        bytes.drain(..3);
    }
    Ok(bytes)
}

pub(crate) fn decode(file: &Path, row: usize, column: &str, bytes: &[u8], encoding: Encoding) -> Result<String> {
    if bytes.len() > MAX_CELL {
        return Err(row_error(file, row, column, format!("is longer than {MAX_CELL} bytes; shorten it")));
    }
    characters(file, row, column, bytes, encoding)
}

fn characters(file: &Path, row: usize, column: &str, bytes: &[u8], encoding: Encoding) -> Result<String> {
    match encoding {
        Encoding::Latin1 => Ok(bytes.iter().copied().map(char::from).collect()),
        Encoding::Utf8 => std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| {
            row_error(file, row, column, "is not UTF-8; save the file as UTF-8, or pass `encoding = \"latin1\"`")
        }),
    }
}

pub(crate) fn check_columns(file: &Path, columns: &[String]) -> Result<()> {
    if columns.len() > MAX_COLUMNS {
        return Err(Error::format(file, format!("has more than {MAX_COLUMNS} columns; drop some")));
    }
    let mut sorted: Vec<&String> = columns.iter().collect();
    sorted.sort();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::format(file, format!("two columns are named `{}`; rename one", pair[0]))),
        None => Ok(()),
    }
}

fn check_rows(file: &Path, rows: usize) -> Result<()> {
    match rows > MAX_ROWS {
        true => Err(Error::format(file, format!("has more than {MAX_ROWS} rows; split it"))),
        false => Ok(()),
    }
}

fn separated(file: &Path, separator: char, options: &ReadOptions) -> Result<Table> {
    let separator = u8::try_from(separator)
        .map_err(|_| Error::format(file, format!("cannot be cut at `{separator}`; use an ASCII separator")))?;
    let bytes = bytes(file)?;
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(separator)
        .quoting(options.quotes)
        .has_headers(false)
        .flexible(true)
        .from_reader(bytes.as_slice());
    let mut records = reader.byte_records().skip(options.skip);
    let columns = match &options.columns {
        Some(columns) => columns.clone(),
        None => match records.next() {
            None => return Err(Error::format(file, "is empty; the first line should name the columns")),
            Some(header) => {
                let header = header.map_err(|e| Error::format(file, e.to_string()))?;
                let name = |cell| decode(file, 0, "header", cell, options.encoding).map(|name| name.trim().to_owned());
                header.iter().map(name).collect::<Result<_>>()?
            }
        },
    };
    check_columns(file, &columns)?;
    let mut rows = Vec::new();
    for record in records {
        let record = record.map_err(|e| Error::format(file, e.to_string()))?;
        let row = rows.len() + 1;
        if record.len() != columns.len() {
            let (got, need) = (record.len(), columns.len());
            let what = format!("row {row} has {got} cells, {need} are needed; correct it or check the separator");
            return Err(Error::format(file, what));
        }
        let cell = |(column, cell): (&String, &[u8])| {
            let text = decode(file, row, column, cell, options.encoding)?;
            Ok(if text.is_empty() { Value::Null } else { Value::Text(text) })
        };
        rows.push(columns.iter().zip(&record).map(cell).collect::<Result<_>>()?);
        check_rows(file, rows.len())?;
    }
    Ok(Table { file: file.to_owned(), columns, rows })
}

fn lines(file: &Path, options: &ReadOptions) -> Result<Table> {
    let bytes = bytes(file)?;
    let mut rows = Vec::new();
    for (line, text) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let text = decode(file, line + 1, "text", text, options.encoding)?;
        let text = text.trim_end_matches('\r');
        if !text.trim().is_empty() {
            rows.push(vec![Value::Text(text.to_owned())]);
            check_rows(file, rows.len())?;
        }
    }
    Ok(Table { file: file.to_owned(), columns: vec!["text".into()], rows })
}

fn whole(file: &Path, options: &ReadOptions) -> Result<Table> {
    let text = characters(file, 1, "text", &bytes(file)?, options.encoding)?;
    let rows = if text.trim().is_empty() { Vec::new() } else { vec![vec![Value::Text(text)]] };
    Ok(Table { file: file.to_owned(), columns: vec!["text".into()], rows })
}

fn json_lines(file: &Path, options: &ReadOptions) -> Result<Table> {
    let bytes = bytes(file)?;
    let mut columns: Vec<String> = Vec::new();
    let mut rows: Vec<Vec<Value>> = Vec::new();
    for (line, text) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let text = decode(file, line + 1, "line", text, options.encoding)?;
        if text.trim().is_empty() {
            continue;
        }
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text)
            .map_err(|e| Error::format(file, format!("line {} is not a JSON object: {e}", line + 1)))?;
        let mut row = vec![Value::Null; columns.len()];
        for (key, value) in flat(object) {
            let value = json_value(value).map_err(|what| row_error(file, line + 1, &key, what))?;
            match columns.iter().position(|column| *column == key) {
                Some(column) => row[column] = value,
                None => {
                    columns.push(key);
                    row.push(value);
                }
            }
        }
        rows.push(row);
        check_rows(file, rows.len())?;
    }
    check_columns(file, &columns)?;
    for row in &mut rows {
        row.resize(columns.len(), Value::Null);
    }
    Ok(Table { file: file.to_owned(), columns, rows })
}

/// The cells of a row; those of an object in a cell are named `outer.inner`.
fn flat(object: serde_json::Map<String, serde_json::Value>) -> Vec<(String, serde_json::Value)> {
    let cells = |(key, value)| match value {
        serde_json::Value::Object(inner) => {
            inner.into_iter().map(|(name, value)| (format!("{key}.{name}"), value)).collect()
        }
        value => vec![(key, value)],
    };
    object.into_iter().flat_map(cells).collect()
}

pub(crate) fn json_value(value: serde_json::Value) -> Result<Value, String> {
    use serde_json::Value as Json;
    match value {
        Json::Null => Ok(Value::Null),
        Json::Bool(flag) => Ok(Value::Bool(flag)),
        Json::Number(number) => {
            let number = number.as_f64().ok_or_else(|| format!("is out of range, got `{number}`"))?;
            Ok(Value::Number(number))
        }
        Json::String(text) => Ok(Value::Text(text)),
        Json::Array(items) if items.first().is_some_and(Json::is_object) => {
            let object = |item| match item {
                Json::Object(object) => Ok(object),
                _ => Err("holds a list of objects with something else among them; drop it".to_owned()),
            };
            Ok(Value::Objects(items.into_iter().map(object).collect::<Result<_, _>>()?))
        }
        Json::Array(items) => {
            let item = |item| match json_value(item)?.text() {
                Some(text) => Ok(text),
                None => Err("holds a list with items that are neither text nor numbers; flatten it".to_owned()),
            };
            Ok(Value::List(items.into_iter().map(item).collect::<Result<_, String>>()?))
        }
        Json::Object(_) => Err("is an object; flatten it".into()),
    }
}

fn parquet(file: &Path) -> Result<Table> {
    // The decoder asserts some of what a damaged page breaks.
    let read = std::panic::catch_unwind(|| parquet_rows(file));
    read.unwrap_or_else(|_| Err(Error::format(file, "is damaged inside; fetch or write it again")))
}

fn parquet_rows(file: &Path) -> Result<Table> {
    let bad = |e: parquet::errors::ParquetError| {
        Error::format(file, format!("is not a whole parquet file ({e}); fetch or write it again"))
    };
    let open = File::open(file).map_err(|e| Error::io(file, e))?;
    let reader = SerializedFileReader::new(open).map_err(bad)?;
    let meta = reader.metadata().file_metadata();
    check_rows(file, usize::try_from(meta.num_rows()).unwrap_or(usize::MAX))?;
    let fields = meta.schema_descr().root_schema().get_fields();
    let columns: Vec<String> = fields.iter().map(|field| field.name().to_owned()).collect();
    check_columns(file, &columns)?;
    let mut rows = Vec::new();
    for row in reader.get_row_iter(None).map_err(bad)? {
        let number = rows.len() + 1;
        let row = row.map_err(bad)?;
        let cell =
            |(name, field): (&String, &Field)| parquet_value(field).map_err(|what| row_error(file, number, name, what));
        rows.push(row.get_column_iter().map(cell).collect::<Result<_>>()?);
    }
    Ok(Table { file: file.to_owned(), columns, rows })
}

fn parquet_value(field: &Field) -> Result<Value, String> {
    const EXACT: u64 = 1 << 53;
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(flag) => Value::Bool(*flag),
        Field::Byte(n) => Value::Number((*n).into()),
        Field::Short(n) => Value::Number((*n).into()),
        Field::Int(n) => Value::Number((*n).into()),
        Field::Long(n) if n.unsigned_abs() <= EXACT => Value::Number(*n as f64),
        Field::UByte(n) => Value::Number((*n).into()),
        Field::UShort(n) => Value::Number((*n).into()),
        Field::UInt(n) => Value::Number((*n).into()),
        Field::ULong(n) if *n <= EXACT => Value::Number(*n as f64),
        Field::Float16(n) => Value::Number((*n).into()),
        Field::Float(n) => Value::Number((*n).into()),
        Field::Double(n) => Value::Number(*n),
        Field::Str(text) => Value::Text(text.clone()),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => return Err("holds bytes that are not text; drop the column".into()),
        },
        Field::ListInternal(list) => {
            let item = |item| match parquet_value(item)?.text() {
                Some(text) => Ok(text),
                None => Err("holds a list with items that are neither text nor numbers; flatten it".to_owned()),
            };
            Value::List(list.elements().iter().map(item).collect::<Result<_, String>>()?)
        }
        Field::Group(_) | Field::MapInternal(_) => return Err("is nested; flatten it".into()),
        Field::Long(_)
        | Field::ULong(_)
        | Field::Decimal(_)
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => Value::Text(field.to_string()),
    })
}

/// What a folder holds, by name, without hidden files.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = std::fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let mut paths: Vec<PathBuf> =
        read.map_err(|e| Error::io(folder, e))?.into_iter().map(|entry| entry.path()).collect();
    paths.retain(|path| !file_name(path).starts_with('.'));
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub(crate) fn is_image(path: &Path) -> bool {
    let kind = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    matches!(kind.as_str(), "png" | "jpg" | "jpeg")
}

fn image_folder(folder: &Path) -> Result<Table> {
    let cell = |path: &Path| Value::Text(path.to_string_lossy().into_owned());
    let paths = entries(folder)?;
    let (mut plain, mut labelled) = (Vec::new(), Vec::new());
    for path in &paths {
        if path.is_dir() {
            let class = Value::Text(file_name(path));
            let images = entries(path)?.into_iter().filter(|p| is_image(p));
            labelled.extend(images.map(|p| vec![cell(&p), class.clone()]));
        } else if is_image(path) {
            plain.push(vec![cell(path)]);
        }
    }
    let file = folder.to_owned();
    match (plain.is_empty(), labelled.is_empty()) {
        (true, false) => Ok(Table { file, columns: vec!["image".into(), "label".into()], rows: labelled }),
        (false, true) => Ok(Table { file, columns: vec!["image".into()], rows: plain }),
        (true, true) => Err(Error::format(folder, "holds no images; expected CLASS/*.png or CLASS/*.jpg")),
        (false, false) => {
            Err(Error::format(folder, "holds images beside class folders; move them into a class folder"))
        }
    }
}
