//! The course of a run for TensorBoard: an event file of scalars.
//!
//! The form: records of a length, its checksum, an `Event` message of protocol buffers and its checksum. See
//! `tensorflow/core/lib/io/record_writer.h` and `tensorflow/core/util/event.proto`; the numbers of fields are theirs.

use crate::train::History;

/// The file's name in a run folder. TensorBoard asks for `tfevents` in it; there is neither a time nor a machine, so that the same run
/// writes the same file.
pub const FILE: &str = "events.out.tfevents.0.acclimate";

/// What the first record says about the form of the others.
const VERSION: &str = "brain.Event:2";

/// The kinds of values on the wire.
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

/// The bytes of an event file: `loss`, the schedule's `multiplier`, `optimiser/…` for what the optimiser reports, at their steps, and
/// `held_out/METRIC` at the last step of its epoch. The time of an event is its step in seconds. What is not finite is NaN.
pub fn to_bytes(history: &History, metric: &str) -> Vec<u8> {
    let mut file = vec![];
    record(&mut file, &event(0, |body| field(body, 3, VERSION.as_bytes())));
    for line in &history.steps {
        let own = [("loss".to_owned(), line.loss), ("multiplier".to_owned(), line.multiplier)];
        let log = line.log.iter().map(|(name, x)| (format!("optimiser/{name}"), *x));
        record(&mut file, &scalars(line.step, own.into_iter().chain(log)));
    }
    for (&step, &(_, score)) in history.valid_steps.iter().zip(&history.valid) {
        record(&mut file, &scalars(step, [(format!("held_out/{metric}"), score)]));
    }
    file
}

/// An event with a summary of named numbers.
fn scalars(step: u64, named: impl IntoIterator<Item = (String, f64)>) -> Vec<u8> {
    let mut summary = vec![];
    for (tag, value) in named {
        let value = if value.is_finite() { value as f32 } else { f32::NAN };
        let mut scalar = vec![];
        field(&mut scalar, 1, tag.as_bytes());
        scalar.push(key(2, FIXED32));
        scalar.extend(value.to_le_bytes());
        field(&mut summary, 1, &scalar);
    }
    event(step, |body| field(body, 5, &summary))
}

fn event(step: u64, content: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = vec![key(1, FIXED64)];
    body.extend((step as f64).to_le_bytes());
    body.push(key(2, 0));
    varint(&mut body, step);
    content(&mut body);
    body
}

fn key(field: u8, kind: u8) -> u8 {
    field << 3 | kind
}

fn field(to: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    to.push(key(number, BYTES));
    varint(to, bytes.len() as u64);
    to.extend(bytes);
}

/// Seven bits a byte, the lowest first; the eighth says whether more follow.
fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn record(file: &mut Vec<u8>, body: &[u8]) {
    let length = (body.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(masked(crc32c(&length)).to_le_bytes());
    file.extend(body);
    file.extend(masked(crc32c(body)).to_le_bytes());
}

/// A checksum of data that holds checksums would be weak, so records hold it turned and shifted.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C: Castagnoli's polynomial, reflected.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ 0x82f6_3b78 & (crc & 1).wrapping_neg())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::StepLine;

    #[test]
    fn the_checksum_is_the_published_one() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
    }

    /// A message's fields by number: a varint or fixed number as its bits, or bytes.
    fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
        let varint = |bytes: &mut &[u8]| {
            let (mut value, mut shift) = (0, 0);
            loop {
                let byte = bytes[0];
                *bytes = &bytes[1..];
                value |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    return value;
                }
            }
        };
        let mut found = vec![];
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let take = match key & 7 {
                0 => 0,
                1 => 8,
                2 => varint(&mut bytes) as usize,
                5 => 4,
                kind => panic!("no such kind: {kind}"),
            };
            let number = if key & 7 == 0 { varint(&mut bytes) } else { 0 };
            found.push((key >> 3, number, bytes[..take].to_vec()));
            bytes = &bytes[take..];
        }
        found
    }

    /// Step, tag and value of every scalar of a file.
    fn read(mut file: &[u8]) -> Vec<(u64, String, f32)> {
        let mut found = vec![];
        let mut first = true;
        while !file.is_empty() {
            let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            let (body, rest) = file[12..].split_at(length);
            for (of, at) in [(&file[..8], &file[8..12]), (body, &rest[..4])] {
                let unmasked = u32::from_le_bytes(at.try_into().unwrap()).wrapping_sub(0xa282_ead8);
                assert_eq!(unmasked.rotate_left(15), crc32c(of));
            }
            file = &rest[4..];
            let event = fields(body);
            let of = |number: u64| event.iter().find(|(found, ..)| *found == number);
            let step = of(2).unwrap().1;
            assert_eq!(of(1).unwrap().2, (step as f64).to_le_bytes());
            assert_eq!(of(3).map(|version| version.2.as_slice()), first.then_some(VERSION.as_bytes()));
            first = false;
            for (_, _, value) in of(5).map(|summary| fields(&summary.2)).unwrap_or_default() {
                let [(1, _, tag), (2, _, x)] = &fields(&value)[..] else { panic!("a tag and a value") };
                let x = f32::from_le_bytes(x[..].try_into().unwrap());
                found.push((step, String::from_utf8(tag.clone()).unwrap(), x));
            }
        }
        found
    }

    #[test]
    fn a_reader_of_the_format_finds_every_scalar_at_its_step() {
        let line = |step: u64, loss| StepLine { step, loss, multiplier: 0.5, log: vec![("d".to_owned(), 1e-6)] };
        let steps = vec![line(1, 2.0), line(300, f64::INFINITY)];
        let history = History { steps, valid: vec![(2, 0.75)], valid_steps: vec![300], notes: vec![] };
        let found = read(&to_bytes(&history, "accuracy"));
        let told: Vec<(u64, &str, f32)> = found.iter().map(|(step, tag, x)| (*step, tag.as_str(), *x)).collect();
        assert_eq!(told[..3], [(1, "loss", 2.0), (1, "multiplier", 0.5), (1, "optimiser/d", 1e-6)]);
        assert!(told[3].0 == 300 && told[3].1 == "loss" && told[3].2.is_nan());
        assert_eq!(told[4..], [(300, "multiplier", 0.5), (300, "optimiser/d", 1e-6), (300, "held_out/accuracy", 0.75)]);
    }
}
