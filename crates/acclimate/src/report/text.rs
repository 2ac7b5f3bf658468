//! Escaping and numbers for readers.

use std::fmt;

/// Text that is safe inside elements and quoted attributes.
pub(super) struct Esc<'a>(pub(super) &'a str);

impl fmt::Display for Esc<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\n' | '\t' => f.write_char(c)?,
                // Control characters are not allowed in HTML; a carriage return is only a line's end.
                '\r' => {}
                c if c.is_control() => f.write_char('\u{fffd}')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// The first `max` characters, with an ellipsis if some are cut.
pub(super) fn clip(s: &str, max: usize) -> String {
    match s.char_indices().nth(max) {
        None => s.to_owned(),
        Some(_) => s.chars().take(max.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// A number with so many decimals, a true minus sign, and commas between thousands.
pub(super) fn fixed(v: f64, decimals: usize) -> String {
    if !v.is_finite() {
        return "–".to_owned();
    }
    let digits = format!("{:.decimals$}", v.abs());
    let (whole, rest) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    let mut out = String::new();
    if v < 0.0 && digits.bytes().any(|b| (b'1'..=b'9').contains(&b)) {
        out.push('−');
    }
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out.push_str(rest);
    out
}

/// Like [`fixed`], with a plus sign for positive numbers.
pub(super) fn signed(v: f64, decimals: usize) -> String {
    let s = fixed(v, decimals);
    if v > 0.0 && s.bytes().any(|b| (b'1'..=b'9').contains(&b)) { format!("+{s}") } else { s }
}

/// A number to about three digits, whatever its size.
pub(super) fn number(v: f64) -> String {
    let a = v.abs();
    if a == 0.0 || !v.is_finite() {
        return fixed(v, 0);
    }
    if !(1e-3..1e7).contains(&a) {
        return scientific(v);
    }
    let decimals = (2 - a.log10().floor() as i32).clamp(0, 6) as usize;
    trim(fixed(v, decimals))
}

fn scientific(v: f64) -> String {
    let mut exponent = v.abs().log10().floor() as i32;
    let mut mantissa = v / 10f64.powi(exponent);
    if mantissa.abs() >= 9.995 {
        mantissa /= 10.0;
        exponent += 1;
    }
    let power: String = exponent
        .to_string()
        .chars()
        .map(|c| match c.to_digit(10) {
            Some(d) => ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'][d as usize],
            None => '⁻',
        })
        .collect();
    match trim(fixed(mantissa, 2)).as_str() {
        "1" => format!("10{power}"),
        "−1" => format!("−10{power}"),
        m => format!("{m}×10{power}"),
    }
}

fn trim(s: String) -> String {
    if s.contains('.') { s.trim_end_matches('0').trim_end_matches('.').to_owned() } else { s }
}

/// `1 row`, `2 rows`.
pub(super) fn count(n: usize, one: &str, many: &str) -> String {
    format!("{} {}", fixed(n as f64, 0), if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let cases = [
            (0.0, "0"),
            (-0.25, "−0.25"),
            (12.0, "12"),
            (12_345.6, "12,346"),
            (1.5e-5, "1.5×10⁻⁵"),
            (1e9, "10⁹"),
            (9.999e-7, "10⁻⁶"),
            (f64::NAN, "–"),
        ];
        for (v, want) in cases {
            assert_eq!(number(v), want);
        }
        assert_eq!(signed(0.04, 1), "0.0");
        assert_eq!(signed(-0.04, 1), "0.0");
        assert_eq!(signed(1234.56, 1), "+1,234.6");
        assert_eq!(clip("abcdef", 4), "abc…");
        assert_eq!(clip("äöü", 3), "äöü");
    }

    #[test]
    fn markup_is_escaped() {
        assert_eq!(
            Esc("<a b='c' d=\"e\">&\0\r\n").to_string(),
            "&lt;a b=&#39;c&#39; d=&quot;e&quot;&gt;&amp;\u{fffd}\n"
        );
    }
}
