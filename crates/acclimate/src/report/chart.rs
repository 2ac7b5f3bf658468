//! Charts as inline SVG.
//!
//! No `viewBox` on the outside: horizontal positions are per cent, so a chart is as wide as its place while its text
//! keeps its size. Colours are classes, so the page's light and dark styles apply.

use super::text::{Esc, clip, count, fixed, number};
use super::{CandidateRow, Interval, Series};

/// Lines drawn are thinned to about this many points.
const MAX_POINTS: usize = 800;
/// Height of the plotting area in pixels.
const HEIGHT: f64 = 240.0;
/// More lines than this are named in the legend only.
const MAX_DIRECT: usize = 6;
/// Characters of a name at the end of a line; the legend has it whole.
const MAX_LABEL: usize = 20;

/// One axis: where a value lies between 0 and 1, and the ticks.
struct Axis {
    low: f64,
    high: f64,
    log: bool,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    fn place(&self, v: f64) -> f64 {
        let v = if self.log { v.log10() } else { v };
        (v - self.low) / (self.high - self.low)
    }

    /// A linear axis over `low..=high` with ticks at least `finest` apart; `round` widens it to whole ticks.
    fn linear(low: f64, high: f64, target: usize, finest: f64, round: bool) -> Self {
        let size = low.abs().max(high.abs());
        let (mut low, mut high) = (low, high);
        if high - low <= size * 1e-9 {
            let pad = if size < 1e-200 { 1.0 } else { size * 0.1 };
            (low, high) = (low - pad, high + pad);
        }
        let step = nice_step((high - low) / target as f64).max(finest);
        if round {
            (low, high) = ((low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step);
        }
        let first = (low / step - 1e-9).ceil();
        let ticks = (0..=2 * target)
            .map(|i| (first + i as f64) * step)
            .take_while(|t| *t <= high + step * 1e-6)
            .map(|t| (t, tick(t, step, low.abs().max(high.abs()))))
            .collect();
        Self { low, high, log: false, ticks }
    }

    /// A logarithmic axis over positive values.
    fn log(low: f64, high: f64) -> Self {
        let (mut a, mut b) = (low.log10(), high.log10());
        let pad = if b - a < 1e-6 { 0.5 } else { (b - a) * 0.05 };
        (a, b) = (a - pad, b + pad);
        let mantissas: &[f64] = if b - a <= 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let stride = ((b - a) / 6.0).ceil().max(1.0) as i32;
        let mut ticks: Vec<f64> = (a.floor() as i32..=b.ceil() as i32)
            .filter(|e| e.rem_euclid(stride) == 0)
            .flat_map(|e| mantissas.iter().map(move |m| m * 10f64.powi(e)))
            .filter(|t| (a..=b).contains(&t.log10()))
            .collect();
        if ticks.len() < 2 {
            ticks = Self::linear(10f64.powf(a), 10f64.powf(b), 4, 0.0, false).ticks.iter().map(|t| t.0).collect();
            ticks.retain(|&t| t > 0.0);
        }
        Self { low: a, high: b, log: true, ticks: ticks.into_iter().map(|t| (t, number(t))).collect() }
    }
}

/// 1, 2 or 5 times a power of ten, at least about `raw`.
fn nice_step(raw: f64) -> f64 {
    let power = 10f64.powi(raw.log10().floor() as i32);
    let m = raw / power;
    power
        * if m <= 1.0001 {
            1.0
        } else if m <= 2.0001 {
            2.0
        } else if m <= 5.0001 {
            5.0
        } else {
            10.0
        }
}

/// The decimals that tell steps of this size apart.
fn decimals(step: f64) -> usize {
    (-(step.log10() + 1e-9).floor()).clamp(0.0, 8.0) as usize
}

fn tick(v: f64, step: f64, largest: f64) -> String {
    let scaled = |unit: f64, name: &str| match v {
        0.0 => "0".to_owned(),
        v => format!("{}{name}", fixed(v / unit, decimals(step / unit))),
    };
    match largest {
        l if l >= 1e9 || step < 1e-5 => number(v),
        l if l >= 1e6 => scaled(1e6, "M"),
        l if l >= 1e5 => scaled(1e3, "k"),
        _ => fixed(v, decimals(step)),
    }
}

/// Values that can be drawn; the bound keeps differences finite.
fn usable(v: f64) -> bool {
    v.abs() < 1e300
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |r, v| match r {
        None => Some((v, v)),
        Some((a, b)) => Some((v.min(a), v.max(b))),
    })
}

/// A line after dropping what cannot be drawn: unbroken pieces.
struct Line<'a> {
    series: &'a Series,
    class: String,
    pieces: Vec<Vec<(f64, f64)>>,
}

impl Line<'_> {
    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.pieces.iter().flatten().copied()
    }
}

/// A line chart as a `figure`, or a sentence if there is nothing to draw.
pub(super) fn curves(title: &str, x: &str, y: &str, log_y: bool, series: &[Series]) -> String {
    let drawable = |&(px, py): &(f64, f64)| usable(px) && usable(py) && !(log_y && py < 1e-300);
    let any_emphasis = series.iter().any(|s| s.emphasis);
    let mut plain = usize::from(any_emphasis);
    let mut lines = Vec::new();
    let mut dropped = 0;
    for s in series {
        dropped += s.points.iter().filter(|p| !drawable(p)).count();
        let class = if s.emphasis {
            "s0 em".to_owned()
        } else {
            plain += 1;
            format!("s{}{}", (plain - 1) % 6, if plain > 6 { " dash" } else { "" })
        };
        let pieces: Vec<Vec<_>> =
            s.points.split(|p| !drawable(p)).filter(|p| !p.is_empty()).map(<[_]>::to_vec).collect();
        if !pieces.is_empty() {
            lines.push(Line { series: s, class, pieces });
        }
    }
    let mut notes = Vec::new();
    if dropped > 0 {
        let why = if log_y { "not finite or not positive" } else { "not finite" };
        notes.push(format!("{} left out: {why}.", count(dropped, "point is", "points are")));
    }
    let missing: Vec<&str> =
        series.iter().filter(|s| !s.points.iter().any(drawable)).map(|s| s.name.as_str()).collect();
    if !missing.is_empty() && !lines.is_empty() {
        notes.push(format!("Nothing to draw for {}.", missing.join(", ")));
    }
    let notes = match notes.join(" ").as_str() {
        "" => String::new(),
        n => format!("<p class=\"small\">{}</p>\n", Esc(n)),
    };
    let xs = range(lines.iter().flat_map(|l| l.points().map(|p| p.0)));
    let ys = range(lines.iter().flat_map(|l| l.points().map(|p| p.1)));
    let (Some((x0, x1)), Some((y0, y1))) = (xs, ys) else {
        return format!("<p class=\"empty\">There are no points to draw.</p>\n{notes}");
    };
    // Steps and epochs are whole numbers, and so are their ticks.
    let whole = lines.iter().flat_map(Line::points).all(|p| p.0.fract() == 0.0);
    let x_axis = Axis::linear(x0, x1, 6, if whole { 1.0 } else { 0.0 }, false);
    let y_axis = if log_y {
        Axis::log(y0, y1)
    } else {
        Axis::linear(if y0 > 0.0 && y0 < 0.35 * y1 { 0.0 } else { y0 }, y1, 4, 0.0, true)
    };

    let direct = lines.len() > 1 && lines.len() <= MAX_DIRECT;
    let widest = y_axis.ticks.iter().map(|t| t.1.chars().count()).max().unwrap_or(0);
    let left = 14 + 7 * widest;
    let longest = lines.iter().map(|l| l.series.name.chars().count()).max().unwrap_or(0);
    let right = 20 + 8 * longest.min(MAX_LABEL);
    let mut svg = String::new();
    for (v, label) in &y_axis.ticks {
        let at = HEIGHT * (1.0 - y_axis.place(*v));
        svg.push_str(&format!(
            "<line class=\"grid\" x1=\"0\" x2=\"100%\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"tick\" x=\"-9\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>\n",
            at + 4.0
        ));
    }
    let crowded = x_axis.ticks.iter().map(|t| t.1.chars().count()).sum::<usize>() > 24;
    for (n, (v, label)) in x_axis.ticks.iter().enumerate() {
        let odd = if crowded && n % 2 == 1 { " odd" } else { "" };
        let at = 100.0 * x_axis.place(*v);
        svg.push_str(&format!(
            "<line class=\"mark\" x1=\"{at:.2}%\" x2=\"{at:.2}%\" y1=\"{HEIGHT}\" y2=\"{:.0}\"/>\
             <text class=\"tick{odd}\" x=\"{at:.2}%\" y=\"{:.0}\" text-anchor=\"middle\">{label}</text>\n",
            HEIGHT + 5.0,
            HEIGHT + 20.0
        ));
    }
    svg.push_str(&format!(
        "<line class=\"base\" x1=\"0\" x2=\"100%\" y1=\"{HEIGHT}\" y2=\"{HEIGHT}\"/>\
         <text class=\"axis\" x=\"-{left}\" y=\"-18\">{}</text>\
         <text class=\"axis\" x=\"50%\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>\n",
        Esc(&clip(y, 48)),
        HEIGHT + 42.0,
        Esc(&clip(x, 48))
    ));
    // Emphasised lines come last, on top.
    lines.sort_by_key(|l| l.series.emphasis);
    svg.push_str(&format!(
        "<svg width=\"100%\" height=\"{HEIGHT}\" viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\">\n"
    ));
    for line in &lines {
        let mut path = String::new();
        for piece in &line.pieces {
            for (i, (px, py)) in thin(piece).into_iter().enumerate() {
                let (px, py) = (1000.0 * x_axis.place(px), 1000.0 * (1.0 - y_axis.place(py)));
                path.push_str(&format!("{}{px:.1} {py:.1}", if i == 0 { 'M' } else { 'L' }));
            }
        }
        svg.push_str(&format!("<path class=\"line {}\" d=\"{path}\"/>\n", line.class));
    }
    svg.push_str("</svg>\n");
    for line in &lines {
        for &(px, py) in line.pieces.iter().filter(|p| p.len() == 1).flatten() {
            svg.push_str(&format!(
                "<circle class=\"point {}\" cx=\"{:.2}%\" cy=\"{:.1}\" r=\"3\"/>\n",
                line.class,
                100.0 * x_axis.place(px),
                HEIGHT * (1.0 - y_axis.place(py))
            ));
        }
    }
    if direct {
        svg.push_str(&direct_labels(&lines, &y_axis));
    }
    let legend = if lines.len() < 2 {
        String::new()
    } else {
        let mut by_input: Vec<&Line<'_>> = lines.iter().collect();
        by_input.sort_by_key(|l| !l.series.emphasis);
        let items: String = by_input
            .iter()
            .map(|l| {
                format!(
                    "<li><svg width=\"22\" height=\"10\" aria-hidden=\"true\"><path class=\"line {}\" d=\"M1 5H21\"/></svg>{}</li>",
                    l.class,
                    Esc(&l.series.name)
                )
            })
            .collect();
        format!("<ul class=\"legend\">{items}</ul>\n")
    };
    let told: String = lines.iter().map(|l| describe(l)).collect();
    format!(
        "<figure class=\"chart{}\">\n{legend}<div class=\"plot\" style=\"padding-left:{left}px;--right:{right}px\">\
         <svg role=\"img\" width=\"100%\" height=\"{HEIGHT}\"><title>{}</title><desc>{} against {}. {}</desc>\n{svg}</svg>\
         </div>\n</figure>\n{notes}",
        if direct { " direct" } else { "" },
        Esc(title),
        Esc(y),
        Esc(x),
        Esc(&told)
    )
}

fn describe(line: &Line<'_>) -> String {
    let first = line.points().next().map_or(f64::NAN, |p| p.1);
    let last = line.points().last().map_or(f64::NAN, |p| p.1);
    let n = count(line.points().count(), "point", "points");
    format!("{}: {n}, from {} to {}. ", line.series.name, number(first), number(last))
}

/// Names at the right end of the lines, moved apart where they would touch.
fn direct_labels(lines: &[Line<'_>], y_axis: &Axis) -> String {
    const GAP: f64 = 17.0;
    let mut labels: Vec<(f64, &Line<'_>)> =
        lines.iter().filter_map(|l| l.points().last().map(|p| (HEIGHT * (1.0 - y_axis.place(p.1)), l))).collect();
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    for i in 1..labels.len() {
        labels[i].0 = labels[i].0.max(labels[i - 1].0 + GAP);
    }
    let mut floor = HEIGHT;
    for label in labels.iter_mut().rev() {
        label.0 = label.0.min(floor);
        floor = label.0 - GAP;
    }
    labels
        .iter()
        .map(|(at, l)| {
            format!(
                "<text class=\"direct-label {}\" x=\"100%\" dx=\"8\" y=\"{:.1}\">{}</text>\n",
                l.class,
                at + 4.0,
                Esc(&clip(&l.series.name, MAX_LABEL))
            )
        })
        .collect()
}

/// Fewer points with the same outline: the lowest and the highest of each stretch, and both ends.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MAX_POINTS {
        return points.to_vec();
    }
    let mut out = vec![points[0]];
    for part in points[1..points.len() - 1].chunks(points.len().div_ceil(MAX_POINTS / 2)) {
        let by_y = |a: &usize, b: &usize| part[*a].1.total_cmp(&part[*b].1);
        let (Some(low), Some(high)) = ((0..part.len()).min_by(by_y), (0..part.len()).max_by(by_y)) else { continue };
        out.push(part[low.min(high)]);
        if low != high {
            out.push(part[low.max(high)]);
        }
    }
    out.push(points[points.len() - 1]);
    out
}

/// Dots with intervals, one row of a table each, over a common axis.
pub(super) fn candidates(score: &str, rows: &[CandidateRow]) -> String {
    let interval = |r: &CandidateRow| r.interval.filter(|i| usable(i.low) && usable(i.high));
    let good: Vec<&CandidateRow> = rows.iter().filter(|r| usable(r.score)).collect();
    let ends = good.iter().flat_map(|r| {
        let i = interval(r).unwrap_or(Interval { low: r.score, high: r.score });
        [r.score, i.low, i.high]
    });
    let Some((low, high)) = range(ends) else {
        return "<p class=\"empty\">No candidate has a score.</p>\n".to_owned();
    };
    let pad = (high - low) * 0.06;
    let axis = Axis::linear(low - pad, high + pad, 3, 0.0, false);
    let step = nice_step((axis.high - axis.low) / 3.0);
    let places = (decimals(step) + 1).min(4);
    let base = rows.first().map(|r| r.score).filter(|s| usable(*s));
    let grid: String = axis
        .ticks
        .iter()
        .map(|t| {
            let at = 100.0 * axis.place(t.0);
            format!("<line class=\"grid\" x1=\"{at:.2}%\" x2=\"{at:.2}%\" y1=\"0\" y2=\"100%\"/>")
        })
        .chain(base.map(|b| {
            let at = 100.0 * axis.place(b);
            format!("<line class=\"reference\" x1=\"{at:.2}%\" x2=\"{at:.2}%\" y1=\"0\" y2=\"100%\"/>")
        }))
        .collect();
    let mut body = String::new();
    for (n, r) in rows.iter().enumerate() {
        let value = if usable(r.score) { fixed(r.score, places) } else { "–".to_owned() };
        let span = interval(r).map(|i| format!("{} to {}", fixed(i.low, places), fixed(i.high, places)));
        let mut drawing = String::new();
        if let Some(i) = interval(r) {
            drawing.push_str(&format!(
                "<line class=\"span\" x1=\"{:.2}%\" x2=\"{:.2}%\" y1=\"50%\" y2=\"50%\"/>",
                100.0 * axis.place(i.low),
                100.0 * axis.place(i.high)
            ));
        }
        if usable(r.score) {
            drawing.push_str(&format!(
                "<circle class=\"dot\" cx=\"{:.2}%\" cy=\"50%\" r=\"5\"/>",
                100.0 * axis.place(r.score)
            ));
        }
        let difference = match base {
            Some(b) if n > 0 && usable(r.score) => super::text::signed(r.score - b, places),
            _ => String::new(),
        };
        let detail = match r.detail.as_str() {
            "" => String::new(),
            d => format!("<small>{}</small>", Esc(d)),
        };
        body.push_str(&format!(
            "<tr{}><th scope=\"row\">{}{}{detail}</th>\
             <td class=\"drawn\"><svg role=\"img\" width=\"100%\" height=\"58\"><title>{}: {value}{}</title>\
             {grid}{drawing}</svg></td>\
             <td class=\"num\"><b>{value}</b>{}</td><td class=\"num wide\">{difference}</td></tr>\n",
            if r.chosen { " class=\"chosen\"" } else { "" },
            Esc(&r.name),
            if r.chosen { " <span class=\"chip\">chosen</span>" } else { "" },
            Esc(&r.name),
            span.as_ref().map(|s| format!(", 95 % interval {s}")).unwrap_or_default(),
            span.as_ref().map(|s| format!("<small>{s}</small>")).unwrap_or_default(),
        ));
    }
    let ticks: String = axis
        .ticks
        .iter()
        .map(|(t, label)| {
            format!(
                "<text class=\"tick\" x=\"{:.2}%\" y=\"15\" text-anchor=\"middle\">{label}</text>",
                100.0 * axis.place(*t)
            )
        })
        .collect();
    let dropped = rows.len() - good.len();
    let note = if dropped > 0 {
        format!("<p class=\"small\">{} no finite score.</p>\n", count(dropped, "candidate has", "candidates have"))
    } else {
        String::new()
    };
    format!(
        "<table class=\"candidates\">\n<thead><tr><th scope=\"col\">candidate</th>\
         <th scope=\"col\" class=\"drawn\">{score}</th><th scope=\"col\" class=\"num\">score</th>\
         <th scope=\"col\" class=\"num wide\">difference</th></tr></thead>\n<tbody>\n{body}</tbody>\n\
         <tfoot><tr><td></td><td class=\"drawn\"><svg width=\"100%\" height=\"20\" aria-hidden=\"true\">{ticks}</svg></td>\
         <td></td><td class=\"wide\"></td></tr></tfoot>\n</table>\n{note}",
        score = Esc(score)
    )
}

/// The verdict's interval on a line with zero marked.
pub(super) fn gain(gain: f64, interval: Interval) -> String {
    let low = interval.low.min(gain).min(0.0);
    let high = interval.high.max(gain).max(0.0);
    let pad = ((high - low) * 0.08).max(0.5);
    let axis = Axis::linear(low - pad, high + pad, 4, 0.0, false);
    let at = |v: f64| 100.0 * axis.place(v);
    let ticks: String = axis
        .ticks
        .iter()
        .map(|(t, label)| {
            format!("<text class=\"tick\" x=\"{:.2}%\" y=\"40\" text-anchor=\"middle\">{label}</text>", at(*t))
        })
        .collect();
    format!(
        "<svg class=\"gain\" role=\"img\" width=\"100%\" height=\"44\"><title>Gain in points: {}, 95 % interval {} to {}\
         </title><line class=\"grid\" x1=\"0\" x2=\"100%\" y1=\"24\" y2=\"24\"/>\
         <line class=\"reference\" x1=\"{zero:.2}%\" x2=\"{zero:.2}%\" y1=\"2\" y2=\"28\"/>\
         <line class=\"span\" x1=\"{:.2}%\" x2=\"{:.2}%\" y1=\"14\" y2=\"14\"/>\
         <circle class=\"dot\" cx=\"{:.2}%\" cy=\"14\" r=\"5.5\"/>{ticks}</svg>",
        fixed(gain, 1),
        fixed(interval.low, 1),
        fixed(interval.high, 1),
        at(interval.low),
        at(interval.high),
        at(gain),
        zero = at(0.0)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_readable_ticks() {
        let labels = |a: Axis| a.ticks.into_iter().map(|t| t.1).collect::<Vec<_>>();
        assert_eq!(labels(Axis::linear(0.0, 1000.0, 5, 0.0, false)), ["0", "200", "400", "600", "800", "1,000"]);
        assert_eq!(labels(Axis::linear(0.12, 0.88, 4, 0.0, true)), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(Axis::linear(1.0, 2.0, 6, 1.0, false)), ["1", "2"]);
        assert_eq!(labels(Axis::linear(0.0, 4e5, 4, 0.0, false)), ["0", "100k", "200k", "300k", "400k"]);
        assert_eq!(labels(Axis::linear(0.0, 2e6, 4, 0.0, false)), ["0", "0.5M", "1.0M", "1.5M", "2.0M"]);
        assert_eq!(labels(Axis::log(1e-6, 1e-2)), ["10⁻⁶", "10⁻⁵", "10⁻⁴", "0.001", "0.01"]);
    }

    #[test]
    fn odd_ranges_still_give_an_axis() {
        for (low, high) in [(0.0, 0.0), (5.0, 5.0), (-1e299, 1e299), (1e-320, 1e-320), (1e12, 1e12 + 1.0)] {
            let axis = Axis::linear(low, high, 5, 0.0, true);
            assert!(axis.place(low).is_finite() && axis.place(high).is_finite(), "{low} to {high}");
            assert!(!axis.ticks.is_empty(), "{low} to {high}");
        }
        for (low, high) in [(1.0, 1.0), (1.0, 1.02), (1e-299, 1e299)] {
            let axis = Axis::log(low, high);
            assert!(axis.place(low).is_finite() && axis.ticks.len() >= 2, "{low} to {high}");
        }
    }

    #[test]
    fn thinning_keeps_ends_and_spikes() {
        let mut points: Vec<(f64, f64)> = (0..50_000).map(|i| (f64::from(i), 0.0)).collect();
        points[31_234].1 = 9.0;
        let few = thin(&points);
        assert!(few.len() <= MAX_POINTS + 4);
        assert_eq!((few[0], few[few.len() - 1]), (points[0], points[49_999]));
        assert!(few.contains(&(31_234.0, 9.0)));
    }
}
