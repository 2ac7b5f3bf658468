//! Small pictures as PNG data addresses.

use super::Picture;
use super::text::Esc;

/// An `img` whose pixels stay crisp, or an empty frame if the bytes do not fit the size.
pub(super) fn picture(p: &Picture, alt: &str) -> String {
    match png(p) {
        Some(bytes) => {
            format!("<img src=\"data:image/png;base64,{}\" alt=\"{}\">", base64(&bytes), Esc(alt))
        }
        None => "<span class=\"no-picture\">no picture</span>".to_owned(),
    }
}

/// A PNG with stored (uncompressed) data: these pictures are a few hundred bytes.
fn png(p: &Picture) -> Option<Vec<u8>> {
    let (width, height) = (usize::try_from(p.width).ok()?, usize::try_from(p.height).ok()?);
    let area = width.checked_mul(height).filter(|&a| a > 0)?;
    let (channels, colour) = match p.pixels.len() {
        n if n == area => (1, 0u8),
        n if Some(n) == area.checked_mul(3) => (3, 2u8),
        _ => return None,
    };
    // Each row starts with its filter, 0 for none.
    let raw: Vec<u8> = p.pixels.chunks(width * channels).flat_map(|row| [0].iter().chain(row)).copied().collect();

    let mut data = vec![0x78, 0x01];
    let mut blocks = raw.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        let length = block.len() as u16;
        data.push(u8::from(blocks.peek().is_none()));
        data.extend(length.to_le_bytes());
        data.extend((!length).to_le_bytes());
        data.extend(block);
    }
    data.extend(adler32(&raw).to_be_bytes());

    let mut header = Vec::with_capacity(13);
    header.extend(p.width.to_be_bytes());
    header.extend(p.height.to_be_bytes());
    header.extend([8, colour, 0, 0, 0]);

    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, body) in [(b"IHDR", &header), (b"IDAT", &data), (b"IEND", &Vec::new())] {
        out.extend(u32::try_from(body.len()).ok()?.to_be_bytes());
        let start = out.len();
        out.extend(kind);
        out.extend(body);
        out.extend(crc32(&out[start..]).to_be_bytes());
    }
    Some(out)
}

fn adler32(bytes: &[u8]) -> u32 {
    let (a, b) = bytes.iter().fold((1u32, 0u32), |(a, b), &x| {
        let a = (a + u32::from(x)) % 65_521;
        (a, (b + a) % 65_521)
    });
    b << 16 | a
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &x| {
        (0..8).fold(crc ^ u32::from(x), |c, _| if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 })
    })
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().enumerate().fold(0u32, |b, (i, &x)| b | u32::from(x) << (16 - 8 * i));
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= three.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_and_base64_match_published_values() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(adler32(b"Wikipedia"), 0x11e6_0398);
        let cases = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, want) in cases {
            assert_eq!(base64(plain.as_bytes()), want);
        }
    }

    #[test]
    fn a_picture_of_the_wrong_size_is_an_empty_frame() {
        for (width, height, bytes) in [(2, 2, 3), (0, 0, 0), (u32::MAX, u32::MAX, 5)] {
            let p = Picture { width, height, pixels: vec![0; bytes] };
            assert!(picture(&p, "").contains("no-picture"));
        }
    }
}
