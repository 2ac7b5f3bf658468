//! Frames of a stream: inputs that are read one at a time, from files of any length or as they come.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use acclimate_core::{Error, Result};

use crate::npz::NpyRows;
use crate::table::{
    Encoding, MAX_CELL, ReadOptions, Table, Value, check_columns, decode, is_image, json_value, row_error,
};
use crate::task::{Columns, IMAGE_NAMES, Inputs, TARGET_NAMES, found};

/// Most folders inside one another: a link that leads back up has no end.
const MAX_DEPTH: usize = 32;
/// Column names tried for what a frame is called.
const NAME_NAMES: [&str; 3] = ["frame", "name", "id"];
/// The key whose list of numbers is a frame.
const NUMBERS: &str = "x";
/// The largest byte of a pixel.
const BRIGHTEST: f32 = 255.0;

/// One row of a stream. What a method gets is made of the inputs alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// What it is called: its path, or its name or number in its table.
    pub name: String,
    /// What the model sees: one row.
    pub inputs: Inputs,
    /// Its class as it is written, where it is known.
    pub label: Option<String>,
}

/// Frames in their order, read one at a time.
pub struct Frames {
    file: PathBuf,
    columns: Columns,
    source: Source,
    /// How many have been read, bad ones included.
    read: usize,
    /// Where named columns of numbers stand.
    positions: Option<Vec<usize>>,
}

enum Source {
    /// Images of a folder and the ones inside it: what is left of each, the innermost last.
    Folder(Vec<(PathBuf, std::vec::IntoIter<OsString>)>),
    /// Cells below a header.
    Cells { reader: Box<csv::Reader<Box<dyn BufRead>>>, names: Vec<String>, encoding: Encoding },
    /// An object or a value of the column `plain` on each line.
    Lines { reader: Box<dyn BufRead>, line: usize, plain: &'static str, encoding: Encoding },
    /// A table in memory.
    Table(Vec<String>, std::vec::IntoIter<Vec<Value>>),
    /// Arrays side by side, with the classes of their rows.
    Arrays { parts: Vec<NpyRows>, labels: Option<Vec<i64>> },
}

impl Frames {
    /// The png and jpeg files of a folder in the order of their names, with those of the folders inside it.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn folder(folder: &Path) -> Result<Self> {
        let stack = vec![(folder.to_owned(), names(folder)?)];
        Ok(Self::new(folder, Columns::default(), Source::Folder(stack)))
    }

    /// The rows of a file by its extension: csv, tsv, txt and jsonl, packed by gzip or not, are read on the way, parquet at once. A line of
    /// a txt file is a value of the column `plain`.
    ///
    /// # Errors
    /// A file that cannot be read, or of another kind.
    pub fn file(file: &Path, options: &ReadOptions, columns: Columns, plain: &'static str) -> Result<Self> {
        let name = file.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let kind = name.strip_suffix(".gz").unwrap_or(&name).rsplit_once('.').map_or("", |(_, kind)| kind);
        let encoding = options.encoding;
        let source = match kind {
            "csv" => cells(file, options.separator.unwrap_or(','), options)?,
            "tsv" => cells(file, options.separator.unwrap_or('\t'), options)?,
            "txt" if options.separator.is_none() => Source::Lines { reader: open(file)?, line: 0, plain, encoding },
            "jsonl" | "ndjson" => Source::Lines { reader: open(file)?, line: 0, plain, encoding },
            _ => {
                let Table { columns: names, rows, .. } = Table::read(file, options)?;
                Source::Table(names, rows.into_iter())
            }
        };
        Ok(Self::new(file, columns, source))
    }

    /// The rows of a table.
    pub fn table(table: Table, columns: Columns) -> Self {
        Self::new(&table.file.clone(), columns, Source::Table(table.columns, table.rows.into_iter()))
    }

    /// A JSON object on each line as it comes, or a value of the column `plain`. `name` stands for the file in messages.
    pub fn lines(name: &str, reader: Box<dyn BufRead>, columns: Columns, plain: &'static str) -> Self {
        let source = Source::Lines { reader, line: 0, plain, encoding: Encoding::Utf8 };
        Self::new(Path::new(name), columns, source)
    }

    /// The rows of the first of these arrays that a file holds; bytes become numbers from 0 to 1. An array `y` of whole numbers beside it
    /// holds the classes.
    ///
    /// # Errors
    /// A file without such an array, or a `y` of another length.
    pub fn arrays(file: &Path, names: &[&str]) -> Result<Self> {
        Self::side_by_side(file, vec![NpyRows::required(file, names)?])
    }

    /// What a model said: of each row its features, then its logits, each the first of the arrays that its file holds. An array `y` beside
    /// the logits holds the classes.
    ///
    /// # Errors
    /// As [`Frames::arrays`], and arrays of different lengths.
    pub fn outputs(logits: (&Path, &[&str]), features: (&Path, &[&str])) -> Result<Self> {
        let parts = vec![NpyRows::required(features.0, features.1)?, NpyRows::required(logits.0, logits.1)?];
        let rows = [&parts[0], &parts[1]].map(|part| part.shape()[0]);
        if rows[0] != rows[1] {
            let what =
                format!("holds features of {} rows for logits of {}; save both of the same rows", rows[0], rows[1]);
            return Err(Error::format(features.0, what));
        }
        Self::side_by_side(logits.0, parts)
    }

    fn side_by_side(file: &Path, parts: Vec<NpyRows>) -> Result<Self> {
        let rows = parts[0].shape()[0];
        let packed = file.extension().is_some_and(|end| end.eq_ignore_ascii_case("npz"));
        let labels = if packed { NpyRows::open(file, &["y"])?.map(NpyRows::whole).transpose()? } else { None };
        if let Some(labels) = labels.as_ref().filter(|labels| labels.len() != rows) {
            let what = format!("holds {} classes in `y` for {rows} rows; save one for each", labels.len());
            return Err(Error::format(file, what));
        }
        Ok(Self::new(file, Columns::default(), Source::Arrays { parts, labels }))
    }

    fn new(file: &Path, columns: Columns, source: Source) -> Self {
        Self { file: file.to_owned(), columns, source, read: 0, positions: None }
    }

    /// The sizes of a row of the first array, where there are arrays.
    pub fn shape(&self) -> Option<&[usize]> {
        match &self.source {
            Source::Arrays { parts, .. } => Some(&parts[0].shape()[1..]),
            _ => None,
        }
    }

    /// How many frames have been read, bad ones included.
    pub fn read(&self) -> usize {
        self.read
    }

    /// The next frame, or what is wrong with it: the one after it may be read all the same. Nothing after the last.
    ///
    /// # Errors
    /// When nothing more can be read.
    pub fn frame(&mut self) -> Result<Option<Result<Frame>>> {
        let frame = match &mut self.source {
            Source::Folder(stack) => next_image(&self.file, stack)?.map(|(path, name)| {
                let inputs = Inputs::Images(vec![path]);
                Ok(Frame { name, inputs, label: None })
            }),
            Source::Arrays { parts, labels } => {
                let mut values = vec![];
                for part in parts.iter_mut() {
                    let Some(row) = part.row()? else { return Ok(None) };
                    let by = if part.is_bytes() { BRIGHTEST } else { 1.0 };
                    values.extend(row.into_iter().map(|x| x / by));
                }
                let row = self.read;
                let label = labels.as_ref().map(|labels| labels[row].to_string());
                let finite = values.iter().all(|x| x.is_finite());
                let frame = Frame {
                    name: (row + 1).to_string(),
                    inputs: Inputs::Features { width: values.len(), values },
                    label,
                };
                let what = "holds a number that is not finite; correct it or drop the row";
                Some(if finite { Ok(frame) } else { Err(row_error(&self.file, row + 1, NUMBERS, what)) })
            }
            _ => {
                let Some((number, row)) = self.row()? else { return Ok(None) };
                Some(row.and_then(|table| self.of_row(number, table)))
            }
        };
        self.read += usize::from(frame.is_some());
        Ok(frame)
    }

    /// The next row of a table or of lines as a table of its own, and its number, counted from one.
    fn row(&mut self) -> Result<Option<(usize, Result<Table>)>> {
        let (file, number) = (self.file.clone(), self.read + 1);
        let table = |columns: Vec<String>, row: Vec<Value>| Table { file: file.clone(), columns, rows: vec![row] };
        match &mut self.source {
            Source::Table(names, rows) => Ok(rows.next().map(|row| (number, Ok(table(names.clone(), row))))),
            Source::Cells { reader, names, encoding } => {
                let mut record = csv::ByteRecord::new();
                if !reader.read_byte_record(&mut record).map_err(|e| Error::format(&file, e.to_string()))? {
                    return Ok(None);
                }
                if record.len() != names.len() {
                    let what = format!(
                        "row {number} has {} cells, {} are needed; correct it or check the separator",
                        record.len(),
                        names.len()
                    );
                    return Ok(Some((number, Err(Error::format(&file, what)))));
                }
                let cell = |(name, cell): (&String, &[u8])| {
                    let text = decode(&file, number, name, cell, *encoding)?;
                    Ok(if text.is_empty() { Value::Null } else { Value::Text(text) })
                };
                let row: Result<Vec<Value>> = names.iter().zip(&record).map(cell).collect();
                Ok(Some((number, row.map(|row| table(names.clone(), row)))))
            }
            Source::Lines { reader, line, plain, encoding } => loop {
                let mut bytes = vec![];
                let most = (MAX_CELL + 1) as u64;
                let got = reader.by_ref().take(most).read_until(b'\n', &mut bytes).map_err(|e| Error::io(&file, e))?;
                if got == 0 {
                    return Ok(None);
                }
                *line += 1;
                let number = *line;
                if bytes.len() > MAX_CELL {
                    // Where the line ends is not known: nothing after it can be told from it.
                    return Err(row_error(
                        &file,
                        number,
                        "line",
                        format!("is longer than {MAX_CELL} bytes; shorten it"),
                    ));
                }
                let text = match decode(&file, number, "line", &bytes, *encoding) {
                    Ok(text) => text.trim_start_matches('\u{feff}').trim().to_owned(),
                    Err(error) => return Ok(Some((number, Err(error)))),
                };
                if text.is_empty() {
                    continue;
                }
                if !text.starts_with('{') {
                    return Ok(Some((number, Ok(table(vec![(*plain).to_owned()], vec![Value::Text(text)])))));
                }
                let parsed = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text)
                    .map_err(|e| row_error(&file, number, "line", format!("is no JSON object ({e}); correct it")))
                    .and_then(|object| {
                        let cells = object.into_iter().map(|(key, value)| {
                            let value = json_value(value).map_err(|what| row_error(&file, number, &key, what))?;
                            Ok((key, value))
                        });
                        cells.collect::<Result<Vec<_>>>()
                    });
                let (columns, row) = match parsed {
                    Ok(cells) => cells.into_iter().unzip(),
                    Err(error) => return Ok(Some((number, Err(error)))),
                };
                return Ok(Some((number, Ok(table(columns, row)))));
            },
            Source::Folder(_) | Source::Arrays { .. } => Ok(None),
        }
    }

    /// What a row of a table is.
    fn of_row(&mut self, number: usize, table: Table) -> Result<Frame> {
        let inputs = self.inputs(number, &table).map_err(|error| match error {
            Error::Row { file, column, what, .. } => Error::Row { file, row: number, column, what },
            other => other,
        })?;
        let cell = |given: &Option<String>, names: &[&str]| {
            let column = found(&table, given, names).and_then(|name| table.column(&name).ok())?;
            table.rows[0][column].text()
        };
        let image = matches!(inputs, Inputs::Images(_)).then(|| cell(&self.columns.image, &IMAGE_NAMES)).flatten();
        let name = cell(&None, &NAME_NAMES).or(image).unwrap_or_else(|| number.to_string());
        Ok(Frame { name, inputs, label: cell(&self.columns.target, &TARGET_NAMES) })
    }

    fn inputs(&mut self, number: usize, table: &Table) -> Result<Inputs> {
        if !self.columns.features.is_empty() {
            // Looked up once: a picture has hundreds of columns.
            if self.positions.is_none() {
                let features = self.columns.features.iter();
                self.positions = Some(features.map(|name| table.column(name)).collect::<Result<Vec<_>>>()?);
            }
            let by = self.columns.divide_by.unwrap_or(1.0);
            let positions = self.positions.iter().flatten().zip(&self.columns.features);
            let values = positions.map(|(&at, name)| {
                let number = table.rows[0][at].number().map_err(|what| row_error(&table.file, number, name, what))?;
                Ok(number as f32 / by)
            });
            let values = values.collect::<Result<Vec<f32>>>()?;
            return Ok(Inputs::Features { width: values.len(), values });
        }
        let numbers = table.columns.iter().position(|column| column == NUMBERS);
        let Some(Value::List(items)) = numbers.map(|at| &table.rows[0][at]) else {
            return Inputs::read(table, &self.columns);
        };
        let values = items.iter().map(|item| item.parse::<f32>().ok().filter(|x| x.is_finite()));
        let values = values.collect::<Option<Vec<f32>>>().ok_or_else(|| {
            row_error(
                &table.file,
                number,
                NUMBERS,
                "holds something else than finite numbers; correct it or drop the row",
            )
        })?;
        Ok(Inputs::Features { width: values.len(), values })
    }
}

/// What a folder holds in the order of the names, without hidden files.
fn names(folder: &Path) -> Result<std::vec::IntoIter<OsString>> {
    let read = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut names = vec![];
    for entry in read {
        let name = entry.map_err(|e| Error::io(folder, e))?.file_name();
        if !name.to_string_lossy().starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names.into_iter())
}

/// The next image of a folder and the ones inside it: its path, and its name below the folder.
fn next_image(
    root: &Path,
    stack: &mut Vec<(PathBuf, std::vec::IntoIter<OsString>)>,
) -> Result<Option<(PathBuf, String)>> {
    while let Some((folder, left)) = stack.last_mut() {
        let Some(name) = left.next() else {
            stack.pop();
            continue;
        };
        let path = folder.join(name);
        if path.is_dir() {
            if stack.len() >= MAX_DEPTH {
                return Err(Error::format(
                    path,
                    format!("is more than {MAX_DEPTH} folders deep; look for a link that leads back up"),
                ));
            }
            let inner = names(&path)?;
            stack.push((path, inner));
        } else if is_image(&path) {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            return Ok(Some((path, name)));
        }
    }
    Ok(None)
}

/// The characters of a file as bytes, decompressed if its name ends in `.gz`, without a UTF-8 byte order mark.
fn open(file: &Path) -> Result<Box<dyn BufRead>> {
    let open = File::open(file).map_err(|e| Error::io(file, e))?;
    let packed = file.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz"));
    let mut reader: Box<dyn BufRead> = match packed {
        true => Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(open))),
        false => Box::new(BufReader::new(open)),
    };
    let start = reader.fill_buf().map_err(|e| Error::io(file, e))?;
    if start.starts_with(&[0xff, 0xfe]) || start.starts_with(&[0xfe, 0xff]) {
        return Err(Error::format(file, "is in UTF-16; save it as UTF-8"));
    }
    if start.starts_with(&[0xef, 0xbb, 0xbf]) {
        reader.consume(3);
    }
    Ok(reader)
}

fn cells(file: &Path, separator: char, options: &ReadOptions) -> Result<Source> {
    let separator = u8::try_from(separator)
        .map_err(|_| Error::format(file, format!("cannot be cut at `{separator}`; use an ASCII separator")))?;
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(separator)
        .quoting(options.quotes)
        .has_headers(false)
        .flexible(true)
        .from_reader(open(file)?);
    let mut record = csv::ByteRecord::new();
    let mut next =
        |record: &mut csv::ByteRecord| reader.read_byte_record(record).map_err(|e| Error::format(file, e.to_string()));
    for _ in 0..options.skip {
        next(&mut record)?;
    }
    let names = match &options.columns {
        Some(names) => names.clone(),
        None if next(&mut record)? => {
            let name = |cell| decode(file, 0, "header", cell, options.encoding).map(|name| name.trim().to_owned());
            record.iter().map(name).collect::<Result<Vec<_>>>()?
        }
        None => return Err(Error::format(file, "is empty; the first line should name the columns")),
    };
    check_columns(file, &names)?;
    Ok(Source::Cells { reader: Box::new(reader), names, encoding: options.encoding })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names and what is wrong, in order.
    fn told(mut frames: Frames) -> Vec<Result<Frame, String>> {
        let mut all = vec![];
        while let Some(frame) = frames.frame().unwrap() {
            all.push(frame.map_err(|error| error.to_string()));
        }
        assert_eq!(frames.read(), all.len());
        all
    }

    fn text(name: &str, text: &str, label: Option<&str>) -> Result<Frame, String> {
        let label = label.map(str::to_owned);
        Ok(Frame { name: name.to_owned(), inputs: Inputs::Texts(vec![text.to_owned()]), label })
    }

    #[test]
    fn images_come_in_the_order_of_their_names_from_all_folders() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.png", "a/2.jpg", "a/1.png", "a/notes.txt", "c/d/e.jpeg", ".hidden.png"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let names: Vec<String> =
            told(Frames::folder(folder.path()).unwrap()).into_iter().map(|frame| frame.unwrap().name).collect();
        assert_eq!(names, ["a/1.png", "a/2.jpg", "b.png", "c/d/e.jpeg"]);
    }

    #[test]
    fn a_bad_row_is_named_and_the_next_one_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rows.csv");
        std::fs::write(&file, "text,label\ngood,yes\n,no\nmore,yes,1\nlast,\n").unwrap();
        let frames = Frames::file(&file, &ReadOptions::default(), Columns::default(), "text").unwrap();
        let all = told(frames);
        assert_eq!((&all[0], &all[3]), (&text("1", "good", Some("yes")), &text("4", "last", None)));
        assert!(all[1].as_ref().unwrap_err().contains("row 2, column `text`: has no text"), "{all:?}");
        assert!(all[2].as_ref().unwrap_err().contains("row 3 has 3 cells"), "{all:?}");
    }

    #[test]
    fn lines_are_objects_or_plain() {
        let lines = "{\"name\":\"first\",\"x\":[1,0.5],\"y\":3}\n\nplain words\n{\"x\":[1,\"a\"]}\n{nothing\n";
        let all = told(Frames::lines("-", Box::new(lines.as_bytes()), Columns::default(), "text"));
        let inputs = Inputs::Features { width: 2, values: vec![1.0, 0.5] };
        assert_eq!(all[0], Ok(Frame { name: "first".to_owned(), inputs, label: Some("3".to_owned()) }));
        assert_eq!(all[1], text("3", "plain words", None));
        assert!(all[2].as_ref().unwrap_err().contains("row 4, column `x`: holds something else"), "{all:?}");
        assert!(all[3].as_ref().unwrap_err().contains("row 5, column `line`: is no JSON object"), "{all:?}");
        assert_eq!(all.len(), 4);
    }

    #[test]
    fn columns_of_numbers_are_divided_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("digits.csv");
        std::fs::write(&file, "0,1,target\n2,4,7\n2,,1\n").unwrap();
        let features = vec!["0".to_owned(), "1".to_owned()];
        let columns = Columns { features, divide_by: Some(4.0), ..Columns::default() };
        let all = told(Frames::file(&file, &ReadOptions::default(), columns, "text").unwrap());
        let first = all[0].as_ref().unwrap();
        assert_eq!(first.inputs, Inputs::Features { width: 2, values: vec![0.5, 1.0] });
        assert_eq!(first.label.as_deref(), Some("7"));
        assert!(all[1].as_ref().unwrap_err().contains("row 2, column `1`: is empty"), "{all:?}");
    }
}
