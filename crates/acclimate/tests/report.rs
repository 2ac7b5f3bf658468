//! The report page: every kind of section, hostile data, numbers that are not finite, empty sections.

use acclimate::report::{
    CandidateRow, ExampleRow, Interval, Picture, PictureItem, Report, Section, Series, Tone, Verdict,
};

/// Elements without an end tag.
const VOID: [&str; 4] = ["meta", "img", "br", "link"];

/// Check that every tag that opens closes in order, and return the names seen.
fn tags(html: &str) -> Vec<String> {
    let mut open: Vec<String> = Vec::new();
    let mut seen = Vec::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        let mut quote = None;
        let end = rest
            .char_indices()
            .find(|&(_, c)| {
                match (quote, c) {
                    (None, '"') => quote = Some('"'),
                    (Some(q), c) if q == c => quote = None,
                    _ => {}
                }
                quote.is_none() && c == '>'
            })
            .map(|(i, _)| i)
            .expect("a tag that never ends");
        let tag = &rest[..end];
        rest = &rest[end + 1..];
        if tag.starts_with('!') {
            continue;
        }
        let name: String = tag.trim_start_matches('/').chars().take_while(char::is_ascii_alphanumeric).collect();
        assert!(!name.is_empty(), "a stray < before {tag:?}");
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_deref(), Some(name.as_str()), "an end tag out of order");
        } else {
            seen.push(name.clone());
            if !tag.ends_with('/') && !VOID.contains(&name.as_str()) {
                open.push(name);
            }
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    seen
}

/// What must hold of every page.
fn check(html: &str) -> Vec<String> {
    for forbidden in ["<script", "://", "NaN", ">inf", "@import", "url("] {
        assert!(!html.contains(forbidden), "the page contains {forbidden:?}");
    }
    tags(html)
}

fn digit(n: usize) -> Picture {
    // A ring or a stroke, eight by eight.
    let values: Vec<f32> = (0..64)
        .map(|i| {
            let (x, y) = ((i % 8) as f32 - 3.5, (i / 8) as f32 - 3.5);
            match n % 3 {
                0 => 1.0 - ((x * x * 1.4 + y * y).sqrt() - 2.8).abs(),
                1 => 1.2 - (x + y * 0.2).abs(),
                _ => 1.1 - (x - y * 0.7).abs().min((y - 2.6).abs()),
            }
        })
        .collect();
    Picture::from_values(8, 8, &values, 0.0, 1.0)
}

fn strings<const N: usize>(s: [&str; N]) -> Vec<String> {
    s.into_iter().map(str::to_owned).collect()
}

fn candidate(name: &str, detail: &str, score: f64, half: f64, chosen: bool) -> CandidateRow {
    let interval = Some(Interval { low: score - half, high: score + half });
    CandidateRow { name: name.into(), detail: detail.into(), score, interval, chosen }
}

fn sample() -> Report {
    let curve = |name: &str, floor: f64, rate: f64, emphasis| Series {
        name: name.into(),
        points: (0..=120)
            .map(|i| {
                let t = f64::from(i) * 5.0;
                (t, floor + (0.72 - floor) * (-t * rate).exp() + 0.012 * (t * 0.31).sin() * (-t / 500.0).exp())
            })
            .collect(),
        emphasis,
    };
    let d = Series {
        name: "d".into(),
        points: (0..=600).map(|i| (f64::from(i), 1e-6 * 1.06f64.powi(i.min(118)))).collect(),
        emphasis: true,
    };
    let example = |text: &str, truth: &str, before: &str, after: &str, good| ExampleRow {
        text: Some(text.into()),
        picture: None,
        truth: Some(truth.into()),
        before: before.into(),
        after: after.into(),
        good,
    };
    Report {
        title: "Product reviews, positive or negative".into(),
        subtitle: "MiniLM with a LoRA patch, 400 labelled rows, 5 minutes on two cores".into(),
        verdict: Verdict::compare("patch", 8.2, Some(Interval { low: 4.1, high: 12.3 })),
        sections: vec![
            Section::Candidates {
                title: "Candidates".into(),
                note: "Scores on 240 held-out rows. The dashed line is the unadapted model.".into(),
                score: "accuracy, %".into(),
                rows: vec![
                    candidate("unadapted", "zero-shot", 78.4, 3.1, false),
                    candidate("probe", "a linear head, 2 s", 82.9, 2.9, false),
                    candidate("patch", "LoRA, rank 8, 295 KB", 86.6, 2.6, true),
                    candidate("full", "every weight, 90 MB", 86.1, 2.7, false),
                ],
            },
            Section::Curves {
                title: "Loss on held-out rows".into(),
                note: "Each method chose its own step size.".into(),
                x: "step".into(),
                y: "cross-entropy".into(),
                log_y: false,
                series: vec![
                    curve("patch", 0.31, 0.011, true),
                    curve("probe", 0.42, 0.007, false),
                    curve("full", 0.325, 0.016, false),
                ],
            },
            Section::Curves {
                title: "Estimated distance d".into(),
                note: "D-Adaptation starts low and grows d until the steps fit.".into(),
                x: "step".into(),
                y: "d".into(),
                log_y: true,
                series: vec![d],
            },
            Section::Confusion {
                title: "Confusion".into(),
                labels: strings(["negative", "neutral", "positive"]),
                before: Some(vec![vec![61, 14, 5], vec![12, 52, 16], vec![3, 9, 68]]),
                after: vec![vec![70, 8, 2], vec![7, 64, 9], vec![1, 5, 74]],
            },
            Section::Examples {
                title: "Changed predictions".into(),
                note: "Held-out rows on which the patch and the unadapted model differ.".into(),
                rows: vec![
                    example(
                        "Arrived late, but I would buy it again in a heartbeat.",
                        "positive",
                        "negative",
                        "positive",
                        Some(true),
                    ),
                    example("Well. It is a kettle.", "neutral", "negative", "neutral", Some(true)),
                    example(
                        "Not bad at all, though the lid broke on the second day and the shop never answered.",
                        "negative",
                        "negative",
                        "positive",
                        Some(false),
                    ),
                    ExampleRow {
                        text: None,
                        picture: Some(digit(0)),
                        truth: None,
                        before: "6".into(),
                        after: "0".into(),
                        good: None,
                    },
                ],
            },
            Section::Pictures {
                title: "Digits under noise".into(),
                note: "Eight by eight pixels.".into(),
                items: (0..9)
                    .map(|n| PictureItem {
                        picture: digit(n),
                        caption: ["read as 0", "read as 1", "read as 2"][n % 3].into(),
                        tone: [Tone::Good, Tone::Good, Tone::Bad, Tone::Neutral][n % 4],
                    })
                    .collect(),
            },
            Section::Table {
                title: "All trials".into(),
                note: "Sorted by score.".into(),
                header: strings(["method", "rank", "score", "seconds", "note"]),
                rows: (0..24)
                    .map(|i| {
                        vec![
                            ["lora", "dora", "bitfit", "ia3"][i % 4].into(),
                            (1 << (i % 5)).to_string(),
                            format!("{:.1}", 86.6 - 0.35 * i as f64),
                            format!("{}", 31 + 7 * (i % 6)),
                            if i == 0 { "chosen".into() } else { String::new() },
                        ]
                    })
                    .collect(),
            },
            Section::Facts {
                title: "Run".into(),
                rows: [
                    ("Model", "asset:minilm"),
                    ("Data", "reviews.csv, 640 rows"),
                    ("Optimiser", "prodigy, no learning rate"),
                    ("Trained", "73,728 weights (0.3 %)"),
                    ("Time", "4 min 12 s"),
                    ("Seed", "7"),
                    ("Fingerprint", "9f2c1a77e0b4"),
                ]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .to_vec(),
            },
            Section::Text {
                title: "How to read this".into(),
                paragraphs: strings([
                    "The unadapted model is always a candidate. A patch is kept only if it does better on rows that no method has seen.",
                    "The interval is a paired bootstrap over rows: both models answer the same questions.",
                ]),
            },
        ],
    }
}

#[test]
fn a_full_report_is_written_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.html");
    std::fs::write(&path, "old").unwrap();
    sample().write(&path).unwrap();
    let html = std::fs::read_to_string(&path).unwrap();
    assert_eq!(html, sample().to_html());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    let seen = check(&html);
    for tag in ["svg", "title", "desc", "path", "circle", "img", "dl", "table", "caption"] {
        assert!(seen.iter().any(|s| s == tag), "no {tag}");
    }
    assert!(html.contains("The patch wins by 8.2 points (95 % interval 4.1 to 12.3)."));
    assert!(html.contains("Before: 181 of 240 right (75.4 %)"));
    // To look at the page: ACCLIMATE_KEEP_REPORT=report.html cargo test --test report.
    if let Ok(keep) = std::env::var("ACCLIMATE_KEEP_REPORT") {
        std::fs::copy(&path, keep).unwrap();
    }
}

#[test]
fn data_never_becomes_markup() {
    const EVIL: &str = "</title></style></svg><script src=x>alert(1)</script><img src=x onerror=\"a\" '>&amp;\0";
    let evil = || EVIL.to_owned();
    let curves = |n: usize| Section::Curves {
        title: evil(),
        note: evil(),
        x: evil(),
        y: evil(),
        log_y: false,
        series: (0..n)
            .map(|i| Series { name: evil(), points: vec![(0.0, i as f64), (1.0, 2.0)], emphasis: i == 0 })
            .collect(),
    };
    let nothing = Series { name: evil(), points: vec![], emphasis: false };
    let mut with_missing = curves(2);
    if let Section::Curves { series, .. } = &mut with_missing {
        series.push(nothing);
    }
    let mut verdict = Verdict::compare(EVIL, 1.0, Some(Interval { low: 0.5, high: 1.5 }));
    verdict.sentence.push_str(EVIL);
    let report = Report {
        title: evil(),
        subtitle: evil(),
        verdict,
        sections: vec![
            Section::Facts { title: evil(), rows: vec![(evil(), evil())] },
            Section::Candidates {
                title: evil(),
                note: evil(),
                score: evil(),
                rows: vec![candidate(EVIL, EVIL, 1.0, 0.1, true), candidate(EVIL, EVIL, f64::NAN, 0.1, false)],
            },
            curves(1),
            curves(3),
            curves(9),
            with_missing,
            Section::Confusion { title: evil(), labels: vec![evil(), evil()], before: None, after: vec![vec![1, 2]] },
            Section::Confusion { title: evil(), labels: vec![evil(); 20], before: None, after: vec![] },
            Section::Examples {
                title: evil(),
                note: evil(),
                rows: vec![ExampleRow {
                    text: Some(evil()),
                    picture: Some(digit(1)),
                    truth: Some(evil()),
                    before: evil(),
                    after: evil(),
                    good: None,
                }],
            },
            Section::Pictures {
                title: evil(),
                note: evil(),
                items: vec![PictureItem { picture: digit(1), caption: evil(), tone: Tone::Bad }],
            },
            Section::Table { title: evil(), note: evil(), header: vec![evil()], rows: vec![vec![evil(), evil()]] },
            Section::Text { title: evil(), paragraphs: vec![evil()] },
        ],
    };
    let html = report.to_html();
    let seen = check(&html);
    assert!(!seen.iter().any(|s| s == "script"));
    assert!(!html.contains('\0') && !html.contains("onerror=\""));
    assert!(html.contains("&lt;script src=x&gt;alert(1)&lt;/script&gt;"));
    // Two pictures of our own; none from the data.
    assert_eq!(seen.iter().filter(|s| *s == "img").count(), 2);
}

#[test]
fn numbers_that_are_not_finite_are_left_out_and_told() {
    let bad = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    let curve = |points: Vec<(f64, f64)>, log_y| Section::Curves {
        title: "Loss".into(),
        note: String::new(),
        x: "step".into(),
        y: "loss".into(),
        log_y,
        series: vec![Series { name: "a".into(), points, emphasis: false }],
    };
    let mut mixed: Vec<(f64, f64)> = (0..5).map(|i| (f64::from(i), 1.0)).collect();
    mixed.insert(2, (2.0, f64::NAN));
    mixed.insert(4, (f64::INFINITY, 1.0));
    let mut report = sample();
    report.verdict = Verdict::compare("patch", f64::NAN, Some(Interval { low: f64::NAN, high: 1.0 }));
    report.sections = vec![
        curve(mixed, false),
        curve(vec![(0.0, 0.0), (1.0, -1.0), (2.0, 3.0)], true),
        curve(bad.iter().map(|&b| (b, b)).collect(), false),
        Section::Candidates {
            title: "Gate".into(),
            note: String::new(),
            score: "accuracy".into(),
            rows: vec![
                candidate("unadapted", "", f64::NAN, 1.0, false),
                candidate("probe", "", 0.8, f64::INFINITY, true),
            ],
        },
    ];
    let html = report.to_html();
    check(&html);
    assert!(html.contains("2 points are left out: not finite."));
    assert!(html.contains("2 points are left out: not finite or not positive."));
    assert!(html.contains("3 points are left out: not finite."));
    assert!(html.contains("There are no points to draw."));
    assert!(html.contains("1 candidate has no finite score."));
    assert!(html.contains("its gain could not be measured"));
    // The gaps break the line into three pieces.
    let path = html.split("<path class=\"line s0\" d=\"").nth(1).and_then(|s| s.split('"').next()).unwrap();
    assert_eq!(path.matches('M').count(), 3);
}

#[test]
fn empty_sections_are_sentences() {
    let none = String::new;
    let report = Report {
        title: none(),
        subtitle: none(),
        verdict: Verdict {
            chosen: "unadapted".into(),
            gain: None,
            interval: None,
            sentence: "Nothing was trained.".into(),
            tone: Tone::Neutral,
        },
        sections: vec![
            Section::Facts { title: none(), rows: vec![] },
            Section::Candidates { title: none(), note: none(), score: none(), rows: vec![] },
            Section::Curves { title: none(), note: none(), x: none(), y: none(), log_y: true, series: vec![] },
            Section::Confusion { title: none(), labels: vec![], before: None, after: vec![] },
            Section::Examples { title: none(), note: none(), rows: vec![] },
            Section::Pictures { title: none(), note: none(), items: vec![] },
            Section::Table { title: none(), note: none(), header: vec!["a".into()], rows: vec![] },
            Section::Text { title: none(), paragraphs: vec![] },
        ],
    };
    let html = report.to_html();
    check(&html);
    assert_eq!(html.matches("class=\"empty\"").count(), report.sections.len());
    assert!(!html.contains("<svg"));
}

#[test]
fn verdicts_follow_the_interval() {
    let say = |gain, low, high| Verdict::compare("patch", gain, Some(Interval { low, high }));
    assert_eq!(say(8.2, 4.1, 12.3).tone, Tone::Good);
    let tie = say(0.4, -1.2, 2.0);
    assert_eq!(tie.tone, Tone::Neutral);
    assert_eq!(tie.sentence, "The patch ties with the unadapted model: +0.4 points (95 % interval −1.2 to 2.0).");
    let loss = say(-3.0, -5.0, -1.0);
    assert_eq!(loss.tone, Tone::Bad);
    assert_eq!(loss.sentence, "The patch loses by 3.0 points (95 % interval 1.0 to 5.0).");
    assert_eq!(Verdict::compare("patch", 9.0, None).tone, Tone::Neutral);
}

#[test]
fn the_data_is_also_json() {
    let json = serde_json::to_value(sample()).unwrap();
    assert_eq!(json["verdict"]["tone"], "good");
    assert_eq!(json["sections"][0]["kind"], "candidates");
}
