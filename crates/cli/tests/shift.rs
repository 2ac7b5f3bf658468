//! The real program on two tables: intervals that cover, what differs between two domains, and a model for the second.

#![expect(clippy::unwrap_used, reason = "what these tests share is test code too")]

use acclimate_core::Rng;
use serde_json::Value;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_acclimate");

/// A folder of tables.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn run(&self, line: &str) -> Output {
        let mut command = Command::new(BINARY);
        command.current_dir(self.0.path()).env("ACCLIMATE_CACHE", self.path("cache")).stdin(Stdio::null());
        command.args(line.split_whitespace()).output().unwrap()
    }

    /// Standard output and error of a command that must succeed.
    fn good(&self, line: &str) -> (String, String) {
        let output = self.run(line);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{line}: {error}");
        (String::from_utf8(output.stdout).unwrap(), error)
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.good(&format!("{line} --json")).0).unwrap()
    }

    /// The one message of a command that must fail and write nothing.
    fn refused(&self, line: &str) -> String {
        let before = std::fs::read_dir(self.0.path()).unwrap().count();
        let output = self.run(line);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{line}");
        assert!(text.starts_with("error: ") && !text.contains("panicked") && !text.contains("a bug"), "{line}: {text}");
        assert_eq!(std::fs::read_dir(self.0.path()).unwrap().count(), before, "{line}");
        text
    }
}

/// Predictions of a line whose errors grow away from zero, around `centre`.
fn predictions(rows: usize, centre: f64, seed: u64) -> String {
    let mut rng = Rng::new(seed, "predictions", 0);
    let mut text = "x,prediction,lower,upper,group,truth\n".to_owned();
    for row in 0..rows {
        let x = centre + rng.normal();
        let (spread, line) = (0.3 + x.abs(), 2.0 * x);
        let truth = line + spread * rng.normal();
        let group = ["a", "b"][row % 2];
        writeln!(text, "{x},{line},{},{},{group},{truth}", line - spread, line + spread).unwrap();
    }
    text
}

/// The probability of `yes` out of a normal number, as a model that was fitted on even shares gives it.
fn probabilities(rows: usize, share: f64, seed: u64) -> String {
    let mut rng = Rng::new(seed, "probabilities", 0);
    let mut text = "p_no,p_yes,truth\n".to_owned();
    for _ in 0..rows {
        let yes = rng.uniform() < share;
        let z = rng.normal() + if yes { 1.2 } else { -1.2 };
        let p = 1.0 / (1.0 + (-2.4f64 * z).exp());
        writeln!(text, "{},{p},{}", 1.0 - p, if yes { "yes" } else { "no" }).unwrap();
    }
    text
}

/// The share of truths inside of the answers' intervals.
fn covered(answers: &str, rows: &str) -> f64 {
    let cells = |line: &str| line.split(',').map(str::to_owned).collect::<Vec<_>>();
    let pairs: Vec<(Vec<String>, f64)> = answers
        .lines()
        .zip(rows.lines())
        .skip(1)
        .map(|(answer, row)| (cells(answer), cells(row).last().unwrap().parse().unwrap()))
        .collect();
    let inside = |(answer, truth): &&(Vec<String>, f64)| {
        let [lower, upper] = [&answer[1], &answer[2]].map(|cell| cell.parse::<f64>().unwrap());
        lower <= *truth && *truth <= upper
    };
    pairs.iter().filter(inside).count() as f64 / pairs.len() as f64
}

#[test]
fn intervals_cover_and_follow_groups_and_quantiles() {
    let place = Place::new();
    let new = predictions(400, 0.0, 2);
    place.write("held.csv", &predictions(600, 0.0, 1));
    place.write("new.csv", &new);
    let (text, _) = place.good("interval held.csv new.csv --method split --out out.csv --report page.html");
    assert!(text.contains("held-out rows") && text.contains("What coverage costs"), "{text}");
    let share = covered(&place.read("out.csv"), &new);
    // Three standard errors of 400 rows and of 600 rows around 0.9.
    assert!((share - 0.9).abs() < 3.0 * (0.09f64 / 400.0 + 0.09 / 600.0).sqrt(), "{share}");
    assert!(place.read("page.html").contains("What coverage costs"));
    let found = place.json("interval held.csv new.csv --method cqr --group group --out cqr.csv");
    assert_eq!(found["exchange"], "mondrian");
    for group in ["a", "b"] {
        assert!(found["groups"][group]["coverage"]["high"].as_f64().unwrap() > 0.9, "{found}");
    }
    // Where errors grow, quantiles are narrower than one width for all.
    let split = place.json("interval held.csv new.csv --method split --out out.csv");
    assert!(found["size"].as_f64() < split["size"].as_f64(), "{} and {}", found["size"], split["size"]);
    let (lines, _) = place.good("interval held.csv new.csv --method split");
    assert_eq!(lines.lines().count(), 401, "answers go to standard output where no file is named");
}

#[test]
fn weights_restore_what_a_covariate_shift_takes() {
    let place = Place::new();
    place.write("held.csv", &predictions(600, 0.0, 3));
    place.write("far.csv", &predictions(400, 1.2, 4));
    let coverage = |found: &Value| found["judged"]["coverage"]["value"].as_f64().unwrap();
    let (_, told) = place.good("interval held.csv far.csv --method split --out plain.csv");
    assert!(told.contains("fewer than asked for"), "{told}");
    let plain = place.json("interval held.csv far.csv --method split --out plain.csv");
    let weighed = place.json("interval held.csv far.csv --method split --features x --out weighed.csv");
    assert!(coverage(&plain) < 0.85 && coverage(&weighed) > 0.87, "{plain} and {weighed}");
    assert_eq!(weighed["exchange"], "weighted");
}

#[test]
fn sets_of_classes_follow_their_shares() {
    let place = Place::new();
    place.write("held.csv", &probabilities(600, 0.5, 5));
    place.write("new.csv", &probabilities(600, 0.9, 6));
    let found = place.json("interval held.csv new.csv --method lac --shift label --out sets.csv");
    let share = found["facts"].as_array().unwrap().iter().find(|fact| fact[0] == "share of `yes`").unwrap();
    assert!((share[1].as_f64().unwrap() - 0.9).abs() < 0.05, "{found}");
    assert!(found["judged"]["coverage"]["high"].as_f64().unwrap() > 0.9, "{found}");
    assert!(place.read("sets.csv").starts_with("row,set,size\n1,"));
    let classes = place.json("interval held.csv new.csv --method aps --by-class --out sets.jsonl");
    assert!(classes["groups"]["no"]["coverage"]["high"].as_f64().unwrap() > 0.9, "{classes}");
    assert!(place.read("sets.jsonl").starts_with("{\"row\":1,\"set\":["));
}

#[test]
fn what_predict_writes_is_read_with_truths_of_another_table() {
    let place = Place::new();
    let mut text = String::new();
    let mut truths = "text,label\n".to_owned();
    for row in 0..60 {
        let p = f64::from(row % 10) / 10.0;
        writeln!(text, "{{\"row\":{row},\"answer\":\"no\",\"probabilities\":{{\"no\":{},\"yes\":{p}}}}}", 1.0 - p)
            .unwrap();
        writeln!(truths, "t,{}", if row % 10 > 4 { "yes" } else { "no" }).unwrap();
    }
    place.write("held.jsonl", &text);
    place.write("labelled.csv", &truths);
    let found = place.json("interval held.jsonl held.jsonl --method lac --truths labelled.csv --out sets.jsonl");
    assert_eq!((&found["calibration_rows"], &found["rows"]), (&60.into(), &60.into()));
    let error = place.refused("interval held.jsonl --method lac");
    assert!(error.contains("held.jsonl: has no column of truths; name it with `--truth`"), "{error}");
}

#[test]
fn a_stream_in_two_tables_is_the_stream_in_one() {
    let place = Place::new();
    let all = predictions(300, 0.0, 7);
    let lines: Vec<&str> = all.lines().collect();
    let part = |from: usize, to: usize| [&lines[..1], &lines[from..to]].concat().join("\n") + "\n";
    place.write("all.csv", &all);
    place.write("one.csv", &part(1, 121));
    place.write("two.csv", &part(121, 301));
    place.good("interval all.csv --method pid --out all.out.csv");
    for name in ["one", "two"] {
        place.good(&format!("interval {name}.csv --method pid --state kept.json --out {name}.out.csv"));
    }
    let ends = |name: &str| -> Vec<String> {
        place.read(name).lines().skip(1).map(|line| line.split_once(',').unwrap().1.to_owned()).collect()
    };
    assert_eq!([ends("one.out.csv"), ends("two.out.csv")].concat(), ends("all.out.csv"));
    let error = place.refused("interval two.csv --method aci --state kept.json");
    assert!(error.contains("kept.json: holds a stream of `pid`"), "{error}");
}

#[test]
fn a_truth_is_not_looked_at_before_its_row_is_answered() {
    let place = Place::new();
    let mut rows: Vec<String> = predictions(120, 0.0, 8).lines().map(str::to_owned).collect();
    place.write("before.csv", &(rows.join("\n") + "\n"));
    let last = rows.last_mut().unwrap();
    *last = format!("{},1000", last.rsplit_once(',').unwrap().0);
    place.write("after.csv", &(rows.join("\n") + "\n"));
    for method in ["aci", "dtaci", "enbpi", "nexcp", "pid", "quantile_tracker"] {
        for name in ["before", "after"] {
            place.good(&format!("interval {name}.csv --method {method} --delay 2 --out {name}.out.csv"));
        }
        assert_eq!(place.read("before.out.csv"), place.read("after.out.csv"), "{method}");
    }
}

#[test]
fn too_few_rows_are_told_before_anyone_trusts_them() {
    let place = Place::new();
    place.write("held.csv", &predictions(8, 0.0, 9));
    place.write("new.csv", &predictions(3, 0.0, 10));
    let (_, told) = place.good("interval held.csv new.csv --method split --out out.csv");
    assert!(told.contains("8 calibration rows cannot give 90 %, which takes 9: intervals are infinite"), "{told}");
    assert_eq!(place.read("out.csv"), "row,lower,upper\n1,-inf,inf\n2,-inf,inf\n3,-inf,inf\n");
    let (_, told) = place.good("interval held.csv new.csv --method split --coverage 0.8 --group group --out out.csv");
    assert!(told.is_empty(), "{told}");
    let (_, told) = place.good("interval held.csv new.csv --method split --coverage 0.85 --group group --out out.csv");
    assert!(told.contains("group `a`: 4 calibration rows cannot give 85 %, which takes 6"), "{told}");
}

#[test]
fn what_is_wrong_with_a_table_of_predictions_is_told() {
    let place = Place::new();
    place.write("held.csv", "prediction,truth\n1,2\n2,NaN\n");
    place.write("good.csv", &predictions(40, 0.0, 11));
    place.write("classes.csv", &probabilities(40, 0.5, 12));
    place.write("odd.csv", "p_no,p_yes,truth\n0.5,0.5,maybe\n");
    for (line, wanted) in [
        ("held.csv --method split", "held.csv: row 2, column `truth`: is not finite, got `NaN`"),
        ("good.csv --method splt", "unknown method `splt`; the nearest are `split`"),
        ("good.csv --method lac", "has no column `p_CLASS for each class`"),
        ("classes.csv --method split", "has no column `prediction`; name the columns"),
        ("good.csv --method split --answers none", "unknown column `none`"),
        ("good.csv --method split --answers prediction,lower,upper", "split: answers: expected shape [rows, 1]"),
        ("good.csv --method split --coverage 90", "`coverage` must lie between 0 and 1, got `90`"),
        ("good.csv --method split --settings lr=1", "unknown"),
        ("good.csv good.csv --method split --shift covariate", "a covariate shift needs a column of weights"),
        ("good.csv good.csv --method split --shift label", "cannot be corrected for numbers"),
        ("good.csv good.csv --method split --features x --ratio coral", "coral cannot weigh rows that it has not seen"),
        ("good.csv --method aci --group group", "aci cannot use groups"),
        ("odd.csv --method lac", "odd.csv: row 1, column `truth`: is none of the classes, got `maybe`"),
        ("classes.csv classes.csv --method lac --shares 0.5,0.6", "`shares`: give a share for each of `no`, `yes`"),
        ("good.csv --method split --out out.txt", "is no kind of file for answers"),
        ("absent.csv --method split", "there is no file or folder `absent.csv`"),
    ] {
        let error = place.refused(&format!("interval {line}"));
        assert!(error.contains(wanted), "{line}: {error}");
    }
}

/// Rows with a class that follows `age`, in a domain whose ages and rule may have moved.
fn people(rows: usize, older: f64, rule: f64, seed: u64) -> String {
    let mut rng = Rng::new(seed, "people", 0);
    let mut text = "age,hours,town,label\n".to_owned();
    for _ in 0..rows {
        let (age, hours) = (40.0 + older + 10.0 * rng.normal(), 38.0 + 5.0 * rng.normal());
        let town = ["north", "south", "west"][rng.below(3)];
        let logit = 0.2 * (age - 40.0) - 0.1 * (hours - 38.0) + rule;
        let label = if rng.uniform() < 1.0 / (1.0 + (-logit).exp()) { "yes" } else { "no" };
        writeln!(text, "{age:.2},{hours:.2},{town},{label}").unwrap();
    }
    text
}

#[test]
fn a_diagnosis_names_the_column_and_the_kind() {
    let place = Place::new();
    place.write("old.csv", &people(400, 0.0, 0.0, 1));
    place.write("new.csv", &people(400, 8.0, 0.0, 2));
    place.write("same.csv", &people(400, 0.0, 0.0, 3));
    let found = place.json("diagnose old.csv new.csv --permutations 199 --report page.html");
    let changed: Vec<&str> = found["columns"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|column| column["changed"] == true)
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(changed, ["age"]);
    assert_eq!((&found["standing"], &found["target_labels"]), (&serde_json::json!(["covariate"]), &true.into()));
    assert!(found["advice"][0]["command"].as_str().unwrap().starts_with("acclimate align old.csv new.csv"), "{found}");
    assert!(place.read("page.html").contains("Which kinds account for it?"));
    let blind = place.json("diagnose old.csv new.csv --permutations 199 --blind");
    let kinds = blind["diagnosis"]["kinds"].as_array().unwrap();
    assert!(kinds.iter().any(|kind| kind["kind"] == "covariate" && kind["standing"] == "untestable"), "{blind}");
    let (text, _) = place.good("diagnose old.csv same.csv --permutations 199");
    assert!(text.starts_with("No shift was found"), "{text}");
}

#[test]
fn what_cannot_be_diagnosed_is_told() {
    let place = Place::new();
    place.write("old.csv", &people(40, 0.0, 0.0, 4));
    place.write("other.csv", "weight\n1\n2\n");
    place.write("gap.csv", "age,hours,town,label\n40,,north,yes\n41,38,south,no\n");
    place.write("few.csv", "age,hours,town\n40,38,north\n41,39,south\n");
    place.write("strange.csv", &people(40, 0.0, 0.0, 5).replace(",yes", ",perhaps"));
    for (line, wanted) in [
        ("old.csv other.csv", "old.csv: has no column to compare with other.csv: `age` is not in other.csv"),
        ("old.csv gap.csv", "gap.csv: row 1, column `hours`: is empty; fill it or drop the row"),
        ("old.csv few.csv", "a domain has 2 rows"),
        ("old.csv old.csv --columns agee", "unknown column `agee`; the nearest are `age`"),
        ("old.csv old.csv --label lable", "unknown column `lable`; the nearest are `label`"),
        ("old.csv strange.csv", "strange.csv: row"),
        ("old.csv old.csv --permutations 20", "20 permutations cannot find anything at level 0.05"),
        ("old.csv absent.csv", "there is no file or folder `absent.csv`"),
    ] {
        let error = place.refused(&format!("diagnose {line}"));
        assert!(error.contains(wanted), "{line}: {error}");
    }
}

/// A class inside and one around, and the same on another scale, moved.
fn rings(rows: usize, scale: f64, by: f64, labelled: bool, seed: u64) -> String {
    let mut rng = Rng::new(seed, "rings", 0);
    let mut text = "x,y,label\n".to_owned();
    for row in 0..rows {
        let (angle, inner) = (rng.uniform() * std::f64::consts::TAU, row % 2 == 0);
        let radius = if inner { 1.0 } else { 3.0 } + 0.3 * rng.normal();
        let label = if !labelled {
            ""
        } else if inner {
            "in"
        } else {
            "out"
        };
        writeln!(text, "{},{},{label}", by + scale * radius * angle.cos(), by + scale * radius * angle.sin()).unwrap();
    }
    text
}

#[test]
fn alignment_mends_a_stretch_and_is_judged_by_labels_that_no_fit_sees() {
    let place = Place::new();
    place.write("old.csv", &rings(200, 1.0, 0.0, true, 1));
    place.write("new.csv", &rings(200, 0.4, 1.0, true, 2));
    place.write("bare.csv", &rings(200, 0.4, 1.0, false, 2));
    let found = place.json("align old.csv new.csv --methods coral --out out.csv --report page.html");
    assert_eq!((&found["chosen"], &found["judged"]["result"]), (&"coral".into(), &"win".into()), "{found}");
    assert!(found["judged"]["chosen"].as_f64().unwrap() > 0.95, "{found}");
    assert!(place.read("page.html").contains("no fit and no choice has seen"));
    // Without labels of the target the very same answers.
    let (text, _) = place.good("align old.csv bare.csv --methods coral --out bare.out.csv");
    assert!(text.contains("no labels to judge it by."), "{text}");
    assert_eq!(place.read("out.csv"), place.read("bare.out.csv"));
    assert!(place.read("out.csv").starts_with("row,answer,p_in,p_out\n1,in,"));
}

#[test]
fn nothing_is_adapted_where_nothing_changed() {
    let place = Place::new();
    place.write("old.csv", &rings(120, 1.0, 0.0, true, 3));
    place.write("same.csv", &rings(120, 1.0, 0.0, true, 4));
    let found =
        place.json("align old.csv same.csv --methods coral;kliep --score class_ami --learner linear --out out.csv");
    assert_eq!((&found["chosen"], &found["judged"]["result"]), (&"source_only".into(), &"tie".into()), "{found}");
    assert_eq!(found["candidates"].as_array().unwrap().len(), 3);
    let ungated = place.json("align old.csv same.csv --methods coral --no-gate --out out.csv");
    assert_eq!(ungated["chosen"], "coral");
}

#[test]
fn numbers_are_answered_too() {
    let place = Place::new();
    let line = |rows: usize, by: f64, seed: u64| {
        let mut rng = Rng::new(seed, "line", 0);
        let mut text = "x,y\n".to_owned();
        for _ in 0..rows {
            let x = by + rng.normal();
            writeln!(text, "{x},{}", x + 0.3 * x * x + 0.1 * rng.normal()).unwrap();
        }
        text
    };
    place.write("old.csv", &line(150, 0.0, 1));
    place.write("new.csv", &line(150, 0.8, 2));
    let found = place.json("align old.csv new.csv --methods gaussian_weights --learner linear --out out.jsonl");
    assert_eq!(
        (&found["judged"]["metric"], &found["judged"]["result"]),
        (&"root mean squared error".into(), &"win".into()),
        "{found}"
    );
    assert!(place.read("out.jsonl").starts_with("{\"row\":1,\"answer\":"));
    let error = place.refused("align old.csv new.csv --methods gaussian_weights;kliep");
    assert!(error.contains("no score compares methods on numbers; name one method"), "{error}");
}

#[test]
fn what_cannot_be_aligned_is_told() {
    let place = Place::new();
    place.write("old.csv", &rings(40, 1.0, 0.0, true, 5));
    place.write("bare.csv", "x,y\n1,2\n2,3\n");
    for (line, wanted) in [
        ("old.csv bare.csv", "alignment needs 10 rows of each table at least, there are 40 and 2"),
        ("bare.csv old.csv --label z", "unknown column `z`"),
        ("old.csv old.csv --methods corall", "unknown method `corall`; the nearest are `coral`"),
        ("old.csv old.csv --score acc", "unknown method `acc`"),
        ("old.csv old.csv --methods coral --out out.txt", "is no kind of file for answers"),
    ] {
        let error = place.refused(&format!("align {line}"));
        assert!(error.contains(wanted), "{line}: {error}");
    }
}

#[test]
fn what_cannot_be_compared_in_priors_is_told() {
    let place = Place::new();
    for (line, wanted) in [
        ("--tables win --offline", "unknown asset `win`"),
        ("--tables minilm --offline", "asset `minilm` cannot be read as a table"),
    ] {
        let error = place.refused(&format!("bench priors {line}"));
        assert!(error.contains(wanted), "{line}: {error}");
    }
}

#[test]
fn fits_that_left_folds_out_are_read() {
    let place = Place::new();
    let mut rng = Rng::new(1, "folds", 0);
    let row = |row: usize| format!("{},{},{}\n", row % 7, row % 4, (row % 7) as f64 + rng.normal());
    place.write("held.csv", &("prediction,fold,truth\n".to_owned() + &(0..80).map(row).collect::<String>()));
    place.write("new.csv", "a,b,c,d\n2,2,2,2\n");
    place.good("interval held.csv new.csv --method cv_plus --fold fold --new-answers a,b,c,d --out out.csv");
    let text = place.read("out.csv");
    let ends: Vec<f64> = text.lines().nth(1).unwrap().split(',').skip(1).map(|cell| cell.parse().unwrap()).collect();
    // Where all fits agree the ends are as far as the 73rd of 80 errors is large.
    assert!((2.0 - ends[0] - (ends[1] - 2.0)).abs() < 1e-12 && ends[1] > 3.0, "{text}");
    let error = place.refused("interval held.csv new.csv --method cv_plus --new-answers a,b,c,d");
    assert!(error.contains("the fold of each calibration row is not given"), "{error}");
}
