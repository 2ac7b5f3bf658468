//! Checkpoints that torch wrote, `pytorch_model.bin` and the like, in both of its forms: an archive (zip), and pickles with numbers after
//! them. A pickle is a program. The few instructions that a state dict needs are followed here, the objects it may name are listed, and
//! everything else is refused; nothing in the file is ever run.

use crate::{Stored, StoredTensor};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::ops::Range;

/// What is wrong with a file.
type Said<T> = Result<T, String>;

/// Longest pickle: what takes up more memory than that names no tensors.
const LONGEST: u64 = 16 << 20;

/// What the first pickle of the older form holds.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;

/// Keys under which training scripts keep the state dict.
const INNER: [&str; 4] = ["state_dict", "model_state_dict", "model_state", "model"];

/// How files of the older form begin: a pickle of torch's number. Two bytes of it are not enough, as they are those of a safetensors file
/// with a header of 640 bytes.
const OLDER: [u8; 8] = [0x80, 2, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46];

/// Whether a file that begins so is torch's.
pub(crate) fn is_torch(start: &[u8]) -> bool {
    is_archive(start) || start.starts_with(&OLDER)
}

fn is_archive(start: &[u8]) -> bool {
    start.starts_with(b"PK\x03\x04")
}

/// The tensors of a file, in the order in which they lie there.
pub(crate) fn tensors(file: &File, length: u64, number: usize) -> Said<Vec<StoredTensor>> {
    let mut start = [0; 4];
    let mut from = file;
    from.seek(SeekFrom::Start(0)).and_then(|_| from.read_exact(&mut start)).map_err(|e| e.to_string())?;
    from.seek(SeekFrom::Start(0)).map_err(|e| e.to_string())?;
    let (nodes, root, places) = if is_archive(&start) { archive(file)? } else { pickles(file, length)? };
    let mut tensors = vec![];
    for (name, Tensor { storage, offset, shape, strides }) in state_dict(&nodes, root)? {
        let Some(Node::Storage(storage)) = nodes.get(storage) else { return Err(strange("a tensor without numbers")) };
        let place = places.get(&storage.key).ok_or_else(|| truncated("the numbers of a tensor are missing"))?;
        let size = (storage.stored.bitsize() / 8) as u64;
        let bytes = |count: u64| count.checked_mul(size);
        let count = shape.iter().try_fold(1u64, |count, &n| count.checked_mul(n as u64));
        let range = || {
            let start = place.start.checked_add(bytes(offset)?)?;
            Some(start..start.checked_add(bytes(count?)?)?)
        };
        let range = range().filter(|range| range.end <= place.end && place.end <= length);
        let range = range.ok_or_else(|| truncated(&format!("tensor `{name}` is larger than its numbers")))?;
        let stored = storage.stored;
        tensors.push(StoredTensor {
            name: name.clone(),
            name_in_file: name,
            stored,
            shape,
            file: number,
            range,
            strides,
        });
    }
    tensors.sort_by_key(|tensor| tensor.range.start);
    Ok(tensors)
}

/// The nodes of a pickle, its root, and where in the file the numbers of each key are.
type Opened = (Vec<Node>, usize, BTreeMap<String, Range<u64>>);

/// The newer form: an archive with a pickle and the numbers of each key in a file of their own, not compressed.
fn archive(file: &File) -> Said<Opened> {
    let mut zip = zip::ZipArchive::new(BufReader::new(file)).map_err(|e| truncated(&e.to_string()))?;
    let pickle = zip.file_names().find(|name| name.ends_with("/data.pkl") && name.matches('/').count() == 1);
    let pickle = pickle.ok_or_else(|| strange("an archive without `data.pkl`"))?.to_owned();
    let folder = pickle.strip_suffix("data.pkl").unwrap_or_default().to_owned();
    let mut read = |name: &str| -> Said<Vec<u8>> {
        let mut bytes = vec![];
        let entry = zip.by_name(name).map_err(|e| truncated(&e.to_string()))?;
        entry.take(LONGEST + 1).read_to_end(&mut bytes).map_err(|e| truncated(&e.to_string()))?;
        Ok(bytes)
    };
    if read(&format!("{folder}byteorder")).is_ok_and(|order| order != b"little") {
        return Err(strange("numbers with their highest byte first"));
    }
    let mut machine = Machine::new(Cursor::new(read(&pickle)?));
    let root = machine.run()?;
    let mut places = BTreeMap::new();
    for storage in machine.storages() {
        let name = format!("{folder}data/{}", storage.key);
        let entry = zip.by_name(&name).map_err(|_| truncated(&format!("the archive has no `{name}`")))?;
        if entry.compression() != zip::CompressionMethod::Stored || entry.encrypted() {
            return Err(strange("numbers that are compressed"));
        }
        let start = entry.data_start().ok_or_else(|| truncated("the archive is broken"))?;
        let end = start.checked_add(entry.size()).ok_or_else(|| truncated("the archive is broken"))?;
        places.insert(storage.key.clone(), start..end);
    }
    Ok((machine.nodes, root, places))
}

/// The older form: a number to know it by, a version, what machine wrote it, the state dict, its keys; then, key by key, how many numbers
/// there are and the numbers.
fn pickles(file: &File, length: u64) -> Said<Opened> {
    let mut machine = Machine::new(BufReader::new(file));
    let mut int = |expected: i128| -> Said<()> {
        let root = machine.run()?;
        if matches!(machine.nodes[root], Node::Int(value) if value == expected) {
            Ok(())
        } else {
            Err(strange("another pickle"))
        }
    };
    int(MAGIC)?;
    int(1001)?;
    let system = machine.run()?;
    let little = |(key, value): &(usize, usize)| {
        let told = matches!(&machine.nodes[*key], Node::Text(key) if key == "little_endian");
        told && matches!(machine.nodes[*value], Node::Bool(true))
    };
    if !matches!(&machine.nodes[system], Node::Dict(entries) if entries.iter().any(little)) {
        return Err(strange("numbers with their highest byte first"));
    }
    let root = machine.run()?;
    let keys = machine.run()?;
    let Node::List(keys) = &machine.nodes[keys] else { return Err(strange("no list of keys")) };
    let sizes: BTreeMap<&str, usize> =
        machine.storages().map(|storage| (storage.key.as_str(), storage.stored.bitsize() / 8)).collect();
    let (mut at, mut places) = (machine.at, BTreeMap::new());
    let mut from = file;
    for key in keys {
        let Node::Text(key) = &machine.nodes[*key] else { return Err(strange("a key that is no text")) };
        let size = *sizes.get(key.as_str()).ok_or_else(|| strange("numbers of no tensor"))? as u64;
        let mut count = [0; 8];
        from.seek(SeekFrom::Start(at))
            .and_then(|_| from.read_exact(&mut count))
            .map_err(|e| truncated(&e.to_string()))?;
        let end = u64::from_le_bytes(count).checked_mul(size).and_then(|bytes| bytes.checked_add(at + 8));
        let end = end.filter(|end| *end <= length).ok_or_else(|| truncated("numbers are missing at the end"))?;
        places.insert(key.clone(), at + 8..end);
        at = end;
    }
    Ok((machine.nodes, root, places))
}

fn truncated(what: &str) -> String {
    format!("not a whole torch checkpoint ({what}); fetch the file again")
}

fn strange(what: &str) -> String {
    format!("holds {what}, which is not read; save `model.state_dict()` alone with torch, or as safetensors")
}

/// The tensors of the outermost dictionary that has some, by name.
fn state_dict(nodes: &[Node], root: usize) -> Said<Vec<(String, Tensor)>> {
    let Node::Dict(entries) = &nodes[root] else { return Err(strange("no state dict")) };
    let named = |entries: &[(usize, usize)]| -> Vec<(String, Tensor)> {
        let tensor = |(key, value): &(usize, usize)| match (&nodes[*key], &nodes[*value]) {
            (Node::Text(name), Node::Tensor(tensor)) => Some((name.clone(), tensor.clone())),
            _ => None,
        };
        entries.iter().filter_map(tensor).collect()
    };
    let inner = |key: &str| {
        let told = |(name, _): &&(usize, usize)| matches!(&nodes[*name], Node::Text(name) if name == key);
        match entries.iter().find(told).map(|(_, value)| &nodes[*value]) {
            Some(Node::Dict(entries)) => named(entries),
            _ => vec![],
        }
    };
    let found =
        std::iter::once(named(entries)).chain(INNER.iter().map(|key| inner(key))).find(|found| !found.is_empty());
    found.ok_or_else(|| strange("no state dict"))
}

/// An object of a pickle. Objects hold others by their number, so that none nests on the stack of this program.
#[derive(Debug)]
enum Node {
    Bool(bool),
    Int(i128),
    Text(String),
    Tuple(Vec<usize>),
    List(Vec<usize>),
    Dict(Vec<(usize, usize)>),
    Known(Known),
    Storage(Storage),
    Tensor(Tensor),
    /// Nothing that matters here.
    Other,
}

/// The objects of Python and torch that a state dict names.
#[derive(Clone, Copy, Debug)]
enum Known {
    Dict,
    Tensor,
    Parameter,
    Numbers(Stored),
}

/// Where the numbers of tensors are.
#[derive(Clone, Debug)]
struct Storage {
    stored: Stored,
    key: String,
}

/// A part of some numbers.
#[derive(Clone, Debug)]
struct Tensor {
    storage: usize,
    offset: u64,
    shape: Vec<usize>,
    /// Where numbers do not lie row after row.
    strides: Option<Vec<usize>>,
}

/// The machine that a pickle is a program of.
struct Machine<R> {
    from: R,
    /// Bytes read.
    at: u64,
    nodes: Vec<Node>,
    stack: Vec<usize>,
    marks: Vec<usize>,
    memo: BTreeMap<u32, usize>,
}

impl<R: Read> Machine<R> {
    fn new(from: R) -> Self {
        Self { from, at: 0, nodes: vec![], stack: vec![], marks: vec![], memo: BTreeMap::new() }
    }

    fn storages(&self) -> impl Iterator<Item = &Storage> {
        self.nodes.iter().filter_map(|node| if let Node::Storage(storage) = node { Some(storage) } else { None })
    }

    fn bytes(&mut self, count: usize) -> Said<Vec<u8>> {
        self.at += count as u64;
        if self.at > LONGEST {
            return Err(strange("a pickle of many megabytes"));
        }
        // What a broken file claims is not allocated before it is there.
        let mut bytes = vec![];
        let got =
            self.from.by_ref().take(count as u64).read_to_end(&mut bytes).map_err(|e| truncated(&e.to_string()))?;
        if got == count { Ok(bytes) } else { Err(truncated("it ends early")) }
    }

    /// The next whole number of so many bytes.
    fn number(&mut self, bytes: usize) -> Said<usize> {
        Ok(self.bytes(bytes)?.iter().rev().fold(0, |n, &byte| (n << 8) | usize::from(byte)))
    }

    fn text(&mut self, length: usize) -> Said<String> {
        String::from_utf8(self.bytes(length)?).map_err(|_| truncated("a name is no text"))
    }

    fn line(&mut self) -> Said<String> {
        let mut line = vec![];
        loop {
            match self.bytes(1)?[0] {
                b'\n' => return String::from_utf8(line).map_err(|_| truncated("a name is no text")),
                byte => line.push(byte),
            }
        }
    }

    fn push(&mut self, node: Node) {
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
    }

    fn pop(&mut self) -> Said<usize> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack.pop().filter(|_| self.stack.len() >= floor).ok_or_else(|| truncated("an object is missing"))
    }

    fn top(&mut self) -> Said<&mut Node> {
        let top = *self.stack.last().ok_or_else(|| truncated("an object is missing"))?;
        Ok(&mut self.nodes[top])
    }

    /// What was pushed since the last mark.
    fn marked(&mut self) -> Said<Vec<usize>> {
        let mark = self.marks.pop().filter(|mark| *mark <= self.stack.len());
        Ok(self.stack.split_off(mark.ok_or_else(|| truncated("a mark is missing"))?))
    }

    fn last(&mut self, count: usize) -> Said<Vec<usize>> {
        let mut last = (0..count).map(|_| self.pop()).collect::<Said<Vec<_>>>()?;
        last.reverse();
        Ok(last)
    }

    fn remember(&mut self, name: u32) -> Said<()> {
        let top = *self.stack.last().ok_or_else(|| truncated("an object is missing"))?;
        self.memo.insert(name, top);
        Ok(())
    }

    fn recall(&mut self, name: usize) -> Said<()> {
        let node = u32::try_from(name).ok().and_then(|name| self.memo.get(&name));
        self.stack.push(*node.ok_or_else(|| truncated("an object is missing"))?);
        Ok(())
    }

    /// Follows one pickle to its end and gives its root.
    fn run(&mut self) -> Said<usize> {
        self.memo.clear();
        loop {
            match self.bytes(1)?[0] {
                b'.' => return self.pop(),
                // A version, and the length of what follows.
                0x80 => {
                    self.bytes(1)?;
                }
                0x95 => {
                    self.bytes(8)?;
                }
                b'(' => self.marks.push(self.stack.len()),
                b'0' => {
                    self.pop()?;
                }
                b'N' => self.push(Node::Other),
                b'G' => {
                    self.bytes(8)?;
                    self.push(Node::Other);
                }
                0x88 => self.push(Node::Bool(true)),
                0x89 => self.push(Node::Bool(false)),
                op @ (b'K' | b'M') => {
                    let value = self.number(if op == b'K' { 1 } else { 2 })?;
                    self.push(Node::Int(value as i128));
                }
                b'J' => {
                    let value = self.number(4)? as u32;
                    self.push(Node::Int(i128::from(value.cast_signed())));
                }
                0x8a => {
                    let length = self.number(1)?;
                    let value = long(&self.bytes(length)?);
                    self.push(value.map_or(Node::Other, Node::Int));
                }
                op @ (b'X' | 0x8c) => {
                    let length = self.number(if op == b'X' { 4 } else { 1 })?;
                    let text = self.text(length)?;
                    self.push(Node::Text(text));
                }
                b')' => self.push(Node::Tuple(vec![])),
                b']' => self.push(Node::List(vec![])),
                b'}' => self.push(Node::Dict(vec![])),
                b't' => {
                    let items = self.marked()?;
                    self.push(Node::Tuple(items));
                }
                op @ 0x85..=0x87 => {
                    let items = self.last(usize::from(op - 0x84))?;
                    self.push(Node::Tuple(items));
                }
                op @ (b'a' | b'e') => {
                    let more = if op == b'a' { self.last(1)? } else { self.marked()? };
                    let Node::List(items) = self.top()? else { return Err(strange("a list that is none")) };
                    items.extend(more);
                }
                op @ (b's' | b'u') => {
                    let more = if op == b's' { self.last(2)? } else { self.marked()? };
                    let Node::Dict(entries) = self.top()? else { return Err(strange("a dictionary that is none")) };
                    entries.extend(more.as_chunks().0.iter().map(|[key, value]| (*key, *value)));
                }
                op @ (b'q' | b'r') => {
                    let name = self.number(if op == b'q' { 1 } else { 4 })?;
                    self.remember(name as u32)?;
                }
                0x94 => self.remember(self.memo.len() as u32)?,
                op @ (b'h' | b'j') => {
                    let name = self.number(if op == b'h' { 1 } else { 4 })?;
                    self.recall(name)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Node::Known(known(&module, &name)?));
                }
                0x93 => {
                    let [module, name] = self.last(2)?[..] else { return Err(truncated("an object is missing")) };
                    let (Node::Text(module), Node::Text(name)) = (&self.nodes[module], &self.nodes[name]) else {
                        return Err(strange("an object without a name"));
                    };
                    let known = known(module, name)?;
                    self.push(Node::Known(known));
                }
                b'Q' => {
                    let named = self.pop()?;
                    let storage = self.storage(named)?;
                    self.push(Node::Storage(storage));
                }
                b'R' => {
                    let [what, with] = self.last(2)?[..] else { return Err(truncated("an object is missing")) };
                    self.make(what, with)?;
                }
                // The versions of modules, which torch hangs on the dictionary.
                b'b' => {
                    self.pop()?;
                    if !matches!(self.top()?, Node::Dict(_)) {
                        return Err(strange("an object with a state of its own"));
                    }
                }
                op => return Err(strange(&format!("the pickle instruction {op:#04x}"))),
            }
        }
    }

    fn tuple(&self, node: usize) -> Said<&[usize]> {
        match &self.nodes[node] {
            Node::Tuple(items) => Ok(items),
            _ => Err(strange("an object without its parts")),
        }
    }

    /// Sizes or steps.
    fn sizes(&self, node: usize) -> Said<Vec<usize>> {
        let size = |item: &usize| match self.nodes[*item] {
            Node::Int(n) => usize::try_from(n).ok(),
            _ => None,
        };
        self.tuple(node)?.iter().map(size).collect::<Option<_>>().ok_or_else(|| strange("a shape that is none"))
    }

    /// The numbers that a tensor points to, told as a kind, a type, a key, a device and a count.
    fn storage(&self, named: usize) -> Said<Storage> {
        let parts: Vec<&Node> = self.tuple(named)?.iter().map(|&part| &self.nodes[part]).collect();
        match parts[..] {
            [Node::Text(kind), Node::Known(Known::Numbers(stored)), Node::Text(key), ..] if kind == "storage" => {
                Ok(Storage { stored: *stored, key: key.clone() })
            }
            _ => Err(strange("numbers of an unknown kind")),
        }
    }

    /// What comes of calling one of the known objects.
    fn make(&mut self, what: usize, with: usize) -> Said<()> {
        let Node::Known(what) = self.nodes[what] else { return Err(strange("a call")) };
        let parts = self.tuple(with)?;
        match (what, parts) {
            (Known::Dict, []) => self.push(Node::Dict(vec![])),
            (Known::Parameter, &[tensor, ..]) => self.stack.push(tensor),
            (Known::Tensor, &[storage, offset, shape, strides, ..]) => {
                let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
                let Node::Int(offset) = self.nodes[offset] else { return Err(strange("a tensor without a place")) };
                let offset = u64::try_from(offset).map_err(|_| strange("a tensor without a place"))?;
                if !dense(&shape, &strides) {
                    let what = format!("a tensor {shape:?} with its numbers {strides:?} apart");
                    return Err(format!("{}; save it with `.contiguous()`", strange(&what)));
                }
                let strides = Some(strides).filter(|strides| !in_order(&shape, strides));
                self.push(Node::Tensor(Tensor { storage, offset, shape, strides }));
            }
            _ => return Err(strange("a call")),
        }
        Ok(())
    }
}

/// A whole number of any length; none where it is longer than any that matters.
fn long(bytes: &[u8]) -> Option<i128> {
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut value = [if negative { 0xff } else { 0 }; 16];
    value.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i128::from_le_bytes(value))
}

/// Whether numbers lie row after row. Where an axis has one place only, its step does not matter.
fn in_order(shape: &[usize], strides: &[usize]) -> bool {
    let mut step = 1usize;
    let follows = |(&size, &stride): (&usize, &usize)| {
        let follows = size == 1 || stride == step;
        step = step.saturating_mul(size);
        follows
    };
    let empty = shape.contains(&0);
    shape.len() == strides.len() && (empty || shape.iter().zip(strides).rev().all(follows))
}

/// Whether numbers fill their place without gaps, whatever the order of the axes.
fn dense(shape: &[usize], strides: &[usize]) -> bool {
    let mut axes: Vec<_> = strides.iter().zip(shape).filter(|(_, size)| **size != 1).collect();
    axes.sort_unstable_by(|a, b| b.cmp(a));
    let (steps, sizes): (Vec<usize>, Vec<usize>) = axes.into_iter().unzip();
    shape.len() == strides.len() && in_order(&sizes, &steps)
}

/// The object of that name, if a state dict may hold it.
fn known(module: &str, name: &str) -> Said<Known> {
    Ok(match (module, name) {
        ("collections", "OrderedDict") => Known::Dict,
        ("torch._utils", "_rebuild_tensor_v2") => Known::Tensor,
        ("torch._utils", "_rebuild_parameter") => Known::Parameter,
        ("torch", "DoubleStorage") => Known::Numbers(Stored::F64),
        ("torch", "FloatStorage") => Known::Numbers(Stored::F32),
        ("torch", "HalfStorage") => Known::Numbers(Stored::F16),
        ("torch", "BFloat16Storage") => Known::Numbers(Stored::BF16),
        ("torch", "LongStorage") => Known::Numbers(Stored::I64),
        ("torch", "IntStorage") => Known::Numbers(Stored::I32),
        ("torch", "ShortStorage") => Known::Numbers(Stored::I16),
        ("torch", "CharStorage") => Known::Numbers(Stored::I8),
        ("torch", "ByteStorage") => Known::Numbers(Stored::U8),
        ("torch", "BoolStorage") => Known::Numbers(Stored::BOOL),
        _ => return Err(strange(&format!("`{module}.{name}`"))),
    })
}
