//! Readers against files as people have them, whole and broken.

#![expect(clippy::unwrap_used, reason = "what these tests share is test code too")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use acclimate_data::{Encoding, ReadOptions, Table, Value};
use parquet::basic::{BrotliLevel, Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

fn put(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let file = folder.join(name);
    fs::write(&file, bytes).unwrap();
    file
}

fn read(bytes: &[u8], name: &str, options: &ReadOptions) -> Result<Table, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = put(folder.path(), name, bytes);
    Table::read(&file, options).map_err(|e| e.to_string().replace(&*folder.path().to_string_lossy(), ""))
}

fn plain(bytes: &[u8], name: &str) -> Result<Table, String> {
    read(bytes, name, &ReadOptions::default())
}

#[test]
fn csv_keeps_text_and_quotes() {
    let table = plain("\u{feff}id,text\n1,\"a, \"\"b\"\"\nnext\"\n2,\n".as_bytes(), "a.csv").unwrap();
    assert_eq!(table.columns, ["id", "text"]);
    assert_eq!(table.rows[0], [Value::Text("1".into()), Value::Text("a, \"b\"\nnext".into())]);
    assert_eq!(table.rows[1][1], Value::Null);
    assert_eq!(table.numbers("id").unwrap(), [1.0, 2.0]);
    let error = table.texts("text").unwrap_err().to_string();
    assert!(error.ends_with("row 2, column `text`: has no text; fill it or drop the row"), "{error}");
    let error = table.texts("txet").unwrap_err().to_string();
    assert!(error.starts_with("unknown column `txet`; the nearest are `text`"), "{error}");
}

#[test]
fn broken_csv_says_where() {
    let error = plain(b"a,b\n1,2\n3\n", "a.csv").unwrap_err();
    assert_eq!(error, "/a.csv: row 2 has 1 cells, 2 are needed; correct it or check the separator");
    assert_eq!(plain(b"", "a.csv").unwrap_err(), "/a.csv: is empty; the first line should name the columns");
    assert_eq!(plain(b"a,b\n", "a.csv").unwrap_err(), "/a.csv: has no rows; give a file with at least one");
    assert_eq!(plain(b"a,a\n1,2\n", "a.csv").unwrap_err(), "/a.csv: two columns are named `a`; rename one");
    assert!(plain(b"x", "a.xls").unwrap_err().contains("use .csv, .tsv, .jsonl, .parquet, .txt"));
    assert!(plain(b"\xff\xfea\0", "a.csv").unwrap_err().contains("save it as UTF-8"));
    assert!(Table::read(Path::new("no-such.csv"), &ReadOptions::default()).is_err());
}

#[test]
fn latin1_is_read_when_asked_for() {
    let bytes = b"1\t-0.5\tcaf\xe9 \"au lait\n";
    let columns = Some(["id", "rating", "text"].map(str::to_owned).to_vec());
    let options = ReadOptions { separator: Some('\t'), columns, quotes: false, ..ReadOptions::default() };
    let error = read(bytes, "a.txt", &options).unwrap_err();
    assert!(error.starts_with("/a.txt: row 1, column `text`: is not UTF-8"), "{error}");
    assert!(error.contains("encoding = \"latin1\""), "{error}");
    let table = read(bytes, "a.txt", &ReadOptions { encoding: Encoding::Latin1, ..options }).unwrap();
    assert_eq!(table.texts("text").unwrap(), ["café \"au lait"]);
}

#[test]
fn a_text_may_be_whole() {
    let options = ReadOptions { whole: true, ..ReadOptions::default() };
    let text = |table: Table| table.texts("text").unwrap();
    assert_eq!(text(read(b"one\r\n\ntwo\n", "a.txt", &options).unwrap()), ["one\r\n\ntwo\n"]);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(b"caf\xe9\nau lait").unwrap();
    let bytes = gz.finish().unwrap();
    let error = read(&bytes, "a.txt.gz", &options).unwrap_err();
    assert!(error.contains("is not UTF-8; save the file as UTF-8"), "{error}");
    let latin1 = ReadOptions { encoding: Encoding::Latin1, ..options.clone() };
    assert_eq!(text(read(&bytes, "a.txt.gz", &latin1).unwrap()), ["café\nau lait"]);
    assert!(read(b" \n\n", "a.txt", &options).unwrap_err().contains("has no rows"));
    assert_eq!(text(read(b"text\na\nb\n", "a.csv", &options).unwrap()), ["a", "b"]);
}

#[test]
fn lines_and_gz() {
    assert_eq!(plain(b"one\r\n\ntwo", "a.txt").unwrap().texts("text").unwrap(), ["one", "two"]);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(b"x\ty\n1\t2\n").unwrap();
    let bytes = gz.finish().unwrap();
    assert_eq!(plain(&bytes, "a.tsv.gz").unwrap().numbers("y").unwrap(), [2.0]);
    assert!(plain(&bytes[..bytes.len() - 9], "a.tsv.gz").is_err());
}

#[test]
fn json_lines_may_lack_keys() {
    let table =
        plain(b"{\"text\": \"a\", \"label\": 1}\n\n{\"label\": [\"x\", 2], \"new\": true}\n", "a.jsonl").unwrap();
    assert_eq!(table.columns, ["text", "label", "new"]);
    assert_eq!(table.rows[0], [Value::Text("a".into()), Value::Number(1.0), Value::Null]);
    assert_eq!(table.rows[1], [Value::Null, Value::List(vec!["x".into(), "2".into()]), Value::Bool(true)]);
    assert!(plain(b"{\"a\": 1}\n[1]\n", "a.jsonl").unwrap_err().starts_with("/a.jsonl: line 2 is not a JSON object"));
    let error = plain(b"{\"a\": {\"b\": {\"c\": 1}}}\n", "a.jsonl").unwrap_err();
    assert_eq!(error, "/a.jsonl: row 1, column `a.b`: is an object; flatten it");
}

#[test]
fn gaps_among_numbers_stay_gaps() {
    let table = plain(b"x,y\n1,a\n,b\n", "a.csv").unwrap();
    assert_eq!(table.numbers_or_gaps("x").unwrap(), [Some(1.0), None]);
    let error = table.numbers_or_gaps("y").unwrap_err().to_string();
    assert!(error.contains("a.csv: row 1, column `y`: is not a number"), "{error}");
}

#[test]
fn keys_of_an_object_in_a_cell_are_columns() {
    let table = plain(b"{\"row\": 1, \"p\": {\"no\": 0.25, \"yes\": 0.75}}\n", "a.jsonl").unwrap();
    assert_eq!(table.columns, ["row", "p.no", "p.yes"]);
    assert_eq!(table.numbers("p.yes").unwrap(), [0.75]);
}

fn write_parquet(compression: Compression) -> Vec<u8> {
    let schema = "message rows { required binary text (UTF8); optional double score; required int64 id; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column
        .typed::<ByteArrayType>()
        .write_batch(&[ByteArray::from("good"), ByteArray::from("bad")], None, None)
        .unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<DoubleType>().write_batch(&[1.5], Some(&[1, 0]), None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&[7, i64::MAX], None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn parquet_of_all_compressions() {
    let (brotli, zstd) = (BrotliLevel::default(), ZstdLevel::default());
    for kind in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::BROTLI(brotli), Compression::ZSTD(zstd)] {
        let table = plain(&write_parquet(kind), "a.parquet.any").unwrap();
        assert_eq!(table.columns, ["text", "score", "id"]);
        assert_eq!(table.rows[0], [Value::Text("good".into()), Value::Number(1.5), Value::Number(7.0)]);
        assert_eq!(table.rows[1], [Value::Text("bad".into()), Value::Null, Value::Text(i64::MAX.to_string())]);
        let error = table.numbers("score").unwrap_err().to_string();
        assert!(error.ends_with("row 2, column `score`: is empty; fill it or drop the row"), "{error}");
    }
}

#[test]
fn truncated_parquet_is_refused() {
    let bytes = write_parquet(Compression::SNAPPY);
    for end in [0, 3, 20, bytes.len() / 2, bytes.len() - 1] {
        let error = plain(&bytes[..end], "a.parquet").unwrap_err();
        assert!(error.starts_with("/a.parquet: is not a whole parquet file"), "{error}");
    }
}

#[test]
fn image_folders_give_labels() {
    let folder = tempfile::tempdir().unwrap();
    for (class, image) in [("dog", "b.png"), ("dog", "a.JPG"), ("cat", "c.jpeg"), ("cat", "notes.txt")] {
        fs::create_dir_all(folder.path().join(class)).unwrap();
        put(&folder.path().join(class), image, b"");
    }
    let table = Table::read(folder.path(), &ReadOptions::default()).unwrap();
    assert_eq!(table.texts("label").unwrap(), ["cat", "dog", "dog"]);
    assert!(table.texts("image").unwrap()[1].ends_with("a.JPG"));
    put(folder.path(), "stray.png", b"");
    let error = Table::read(folder.path(), &ReadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("move them into a class folder"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    let error = Table::read(empty.path(), &ReadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("holds no images; expected CLASS/*.png"), "{error}");
}

#[test]
fn damaged_parquet_does_not_panic() {
    let folder = tempfile::tempdir().unwrap();
    let whole = write_parquet(Compression::SNAPPY);
    for place in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[place] ^= 0xff;
        // A changed value is not seen: what matters is that reading ends with a table or an error.
        let _ = Table::read(&put(folder.path(), "a.parquet", &bytes), &ReadOptions::default());
    }
}
