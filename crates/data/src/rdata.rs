//! Character vectors out of R's lazy-load data bases, the `Rdata.rdx` and `Rdata.rdb` of an installed R package.
//!
//! The index is a gzipped R serialisation of a list whose `variables` give each object's offset and length in the data
//! base; there it is a length of four bytes and a zlib stream, again an R serialisation. Both are in the XDR form.

use std::io::Read;

use acclimate_core::{Error, Result};

/// Most bytes of one object after decompression.
const MAX_OBJECT: u64 = 64 << 20;
/// Deepest nesting of lists.
const MAX_DEPTH: usize = 32;

/// The elements of the character vector `object`, each as a line.
///
/// # Errors
/// Files that are malformed, cut short or compressed in another way than zlib; an object that is missing, no character
/// vector, or holds missing values.
pub(crate) fn lines(name: &str, index: &[u8], data: &[u8], object: &str) -> Result<String> {
    let bad = |what: String| Error::format(name, what);
    let plain = bounded(flate2::read::GzDecoder::new(index)).map_err(bad)?;
    let index = Stream::new(&plain).and_then(|mut stream| stream.item(0)).map_err(bad)?;
    let variables = index.get("variables").ok_or_else(|| bad("lists no objects".into()))?;
    let Some(place) = variables.get(object) else { return Err(bad(format!("holds no object `{object}`"))) };
    let chunk = match place {
        Value::Numbers(place) if place.len() == 2 => {
            let at = usize::try_from(place[0]).ok();
            let end = at.zip(usize::try_from(place[1]).ok()).and_then(|(at, length)| at.checked_add(length));
            // The first four bytes of a chunk are its length when decompressed, which the stream tells as well.
            at.zip(end).and_then(|(at, end)| data.get(at..end)?.get(4..))
        }
        _ => None,
    };
    let chunk = chunk.ok_or_else(|| bad(format!("places `{object}` outside of the data base")))?;
    let plain = bounded(flate2::read::ZlibDecoder::new(chunk)).map_err(bad)?;
    match Stream::new(&plain).and_then(|mut stream| stream.item(0)).map_err(bad)? {
        Value::Texts(lines) => Ok(lines.into_iter().flat_map(|line| [line, "\n".into()]).collect()),
        _ => Err(bad(format!("holds `{object}`, which is no character vector"))),
    }
}

fn bounded(reader: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    reader.take(MAX_OBJECT + 1).read_to_end(&mut bytes).map_err(|e| format!("cannot be decompressed: {e}"))?;
    match bytes.len() as u64 > MAX_OBJECT {
        true => Err(format!("holds an object of more than {MAX_OBJECT} bytes")),
        false => Ok(bytes),
    }
}

/// What is read of R's values; attributes other than names are passed over.
enum Value {
    Null,
    Symbol(String),
    Texts(Vec<String>),
    Numbers(Vec<i32>),
    List(Vec<(String, Value)>),
}

impl Value {
    fn get(&self, name: &str) -> Option<&Self> {
        let Self::List(entries) = self else { return None };
        entries.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }
}

/// A serialisation being read.
struct Stream<'a> {
    rest: &'a [u8],
    /// Symbols met so far, which later ones refer to by number.
    symbols: Vec<String>,
}

impl<'a> Stream<'a> {
    /// Passes over the header.
    fn new(bytes: &'a [u8]) -> Result<Self, String> {
        let mut stream = Self { rest: bytes, symbols: Vec::new() };
        if stream.take(2)? != b"X\n" {
            return Err("is no R serialisation in XDR form".into());
        }
        let version = stream.int()?;
        stream.take(8)?;
        match version {
            2 => {}
            3 => {
                let length = stream.length(1)?;
                stream.take(length)?;
            }
            _ => return Err(format!("is an R serialisation of version {version}; 2 and 3 are known")),
        }
        Ok(stream)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or("ends in the middle of an R object")?;
        self.rest = rest;
        Ok(head)
    }

    fn int(&mut self) -> Result<i32, String> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into().expect("four bytes were taken")))
    }

    /// A count of elements that take at least `width` bytes each, so that no false count makes room for much.
    fn length(&mut self, width: usize) -> Result<usize, String> {
        let length = self.int()?;
        let fits = usize::try_from(length).ok().filter(|count| count.saturating_mul(width) <= self.rest.len());
        fits.ok_or_else(|| format!("states a length of {length}, which does not fit"))
    }

    fn text(&mut self) -> Result<String, String> {
        if self.int()? & 0xff != 9 {
            return Err("holds no string where one must be".into());
        }
        let length = self.length(1)?;
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| "holds a string that is not UTF-8".into())
    }

    fn item(&mut self, depth: usize) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err(format!("nests R objects deeper than {MAX_DEPTH}"));
        }
        let flags = self.int()?;
        let value = match flags & 0xff {
            // Nothing.
            254 => Value::Null,
            // A symbol met before, and one met for the first time.
            255 => {
                let number = if flags >> 8 == 0 { self.int()? } else { flags >> 8 };
                let symbol = usize::try_from(number).ok().and_then(|number| self.symbols.get(number.checked_sub(1)?));
                return Ok(Value::Symbol(symbol.ok_or("refers to an R symbol that it does not hold")?.clone()));
            }
            1 => {
                let symbol = self.text()?;
                self.symbols.push(symbol.clone());
                return Ok(Value::Symbol(symbol));
            }
            // A pair list.
            2 => return self.pairs(flags, depth),
            // Truth values and whole numbers.
            10 | 13 => {
                let count = self.length(4)?;
                Value::Numbers((0..count).map(|_| self.int()).collect::<Result<_, _>>()?)
            }
            // Strings.
            16 => {
                let count = self.length(8)?;
                Value::Texts((0..count).map(|_| self.text()).collect::<Result<_, _>>()?)
            }
            // A list.
            19 => {
                let count = self.length(4)?;
                let entries = (0..count).map(|_| Ok((String::new(), self.item(depth + 1)?)));
                Value::List(entries.collect::<Result<_, String>>()?)
            }
            other => return Err(format!("holds an R object of type {other}, which is not read")),
        };
        let attributes = if flags & 0x200 == 0 { Value::Null } else { self.item(depth + 1)? };
        Ok(match (value, attributes.get("names")) {
            (Value::List(entries), Some(Value::Texts(names))) if names.len() == entries.len() => {
                Value::List(names.iter().cloned().zip(entries.into_iter().map(|(_, value)| value)).collect())
            }
            (value, _) => value,
        })
    }

    /// A pair list, its tags as names.
    fn pairs(&mut self, mut flags: i32, depth: usize) -> Result<Value, String> {
        let mut entries = Vec::new();
        while flags & 0xff == 2 {
            if flags & 0x200 != 0 {
                self.item(depth + 1)?;
            }
            let tag = if flags & 0x400 == 0 { Value::Null } else { self.item(depth + 1)? };
            let name = if let Value::Symbol(name) = tag { name } else { String::new() };
            entries.push((name, self.item(depth + 1)?));
            flags = self.int()?;
        }
        match flags & 0xff {
            254 => Ok(Value::List(entries)),
            other => Err(format!("ends an R list with an object of type {other}, which is not read")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn int(value: i32) -> Vec<u8> {
        value.to_be_bytes().to_vec()
    }

    fn chars(text: &str) -> Vec<u8> {
        [int(0x0004_0009), int(text.len() as i32), text.into()].concat()
    }

    fn texts(lines: &[&str]) -> Vec<u8> {
        [int(16), int(lines.len() as i32), lines.iter().flat_map(|line| chars(line)).collect()].concat()
    }

    fn serial(body: &[Vec<u8>]) -> Vec<u8> {
        [b"X\n".to_vec(), int(3), int(0x4_0201), int(0x3_0500), int(5), b"UTF-8".to_vec(), body.concat()].concat()
    }

    /// A list with names; the symbol `names` is spelt out the first time and referred to after that.
    fn list(items: &[Vec<u8>], names: &[&str], first: bool) -> Vec<u8> {
        let tag = if first { [int(1), chars("names")].concat() } else { int(0x1ff) };
        let attributes = [int(0x402), tag, texts(names), int(254)].concat();
        [int(0x213), int(items.len() as i32), items.concat(), attributes].concat()
    }

    fn index(offset: i32, length: i32) -> Vec<u8> {
        let place = [int(13), int(2), int(offset), int(length)].concat();
        let variables = list(&[place], &["novel"], true);
        let plain =
            serial(&[list(&[variables, [int(10), int(1), int(1)].concat()], &["variables", "compressed"], false)]);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&plain).unwrap();
        gz.finish().unwrap()
    }

    fn chunk(plain: &[u8]) -> Vec<u8> {
        let mut zlib = flate2::write::ZlibEncoder::new(int(plain.len() as i32), flate2::Compression::fast());
        zlib.write_all(plain).unwrap();
        zlib.finish().unwrap()
    }

    #[test]
    fn a_vector_is_joined_by_lines() {
        let data = [vec![7; 3], chunk(&serial(&[texts(&["It is a truth", "", "naïve"])]))].concat();
        let index = index(3, data.len() as i32 - 3);
        assert_eq!(lines("x", &index, &data, "novel").unwrap(), "It is a truth\n\nnaïve\n");
        assert!(lines("x", &index, &data, "other").unwrap_err().to_string().contains("no object `other`"));
    }

    #[test]
    fn damage_is_an_error() {
        let plain = serial(&[texts(&["one", "two"])]);
        let read = |plain: &[u8]| {
            let data = chunk(plain);
            lines("x", &index(0, data.len() as i32), &data, "novel").map_err(|error| error.to_string())
        };
        assert!(read(&plain).is_ok());
        for end in 0..plain.len() {
            read(&plain[..end]).unwrap_err();
        }
        assert!(read(&serial(&[int(16), int(i32::MAX)])).unwrap_err().contains("does not fit"));
        assert!(read(&serial(&[int(16), int(1), int(9), int(-1)])).unwrap_err().contains("does not fit"));
        assert!(read(&serial(&[int(13), int(1), int(5)])).unwrap_err().contains("no character vector"));
        assert!(read(&serial(&[int(4)])).unwrap_err().contains("type 4"));
        assert!(read(&serial(&[int(0x7ff)])).unwrap_err().contains("does not hold"));
        assert!(read(&serial(&vec![[int(19), int(1)].concat(); 100])).unwrap_err().contains("deeper than"));
        let data = chunk(&plain);
        for (offset, length) in [(0, data.len() as i32 + 1), (-1, 9), (i32::MAX, i32::MAX), (0, 3)] {
            let error = lines("x", &index(offset, length), &data, "novel").unwrap_err().to_string();
            assert!(error.contains("outside of the data base"), "{error}");
        }
    }
}
