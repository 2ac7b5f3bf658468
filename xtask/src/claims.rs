//! Claims: a statement about a method, the commands that produce its figures, and comparisons that must hold.
//!
//! A claim is a TOML file below `claims/`:
//!
//! ```toml
//! title = "D-Adaptation needs no learning rate"
//! method = "optim/dadapt_adam"
//! statement = "As accurate as AdamW with its best learning rate of four, within one point."
//! seeds = [0, 1, 2]                      # `{seed}` in an argument; figures are means over seeds
//! expect = ["dadapt.metric >= adamw.metric - 0.01"]
//!
//! [run]                                  # name = arguments of `acclimate`, which prints JSON with `--json`
//! dadapt = ["tune", "…", "--seed", "{seed}", "--json"]
//! adamw = ["tune", "…", "--optim", "adamw", "--seed", "{seed}", "--json"]
//! ```
//!
//! `{out}` in an argument is a folder that is removed after the run, or with `--work FOLDER` one below that which stays, so that a run that
//! was cut short is taken up by a command that can. A side of a comparison is a number or
//! `run.path.in.the.json`, which stands for the mean over seeds, or two of these joined by `+`, `-` or `*`; or `low run.path`, the
//! lower bound of the 95 % t interval over seeds; or `least run.path`, the smallest over seeds. A `_` in a path also stands for a blank:
//! `run.metrics.log_loss` finds `log loss`.
use crate::{files, read, sha256, write};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// A claim as written by hand.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    title: String,
    method: String,
    statement: String,
    #[serde(default = "one_seed")]
    seeds: Vec<u64>,
    run: BTreeMap<String, Vec<String>>,
    expect: Vec<String>,
}

fn one_seed() -> Vec<u64> {
    vec![0]
}

/// What running a claim gave, committed beside it.
#[derive(Debug, Serialize)]
struct Outcome {
    title: String,
    method: String,
    statement: String,
    holds: bool,
    checks: Vec<Check>,
    manifest: Manifest,
}

/// One comparison with its figures.
#[derive(Debug, Serialize)]
struct Check {
    expect: String,
    holds: bool,
    left: f64,
    right: f64,
    /// The figures by seed of every path that the comparison names.
    figures: BTreeMap<String, Vec<f64>>,
}

/// What the figures depend on.
#[derive(Debug, Serialize)]
struct Manifest {
    claim_sha256: String,
    version: &'static str,
    commit: Option<String>,
    threads: usize,
    seeds: Vec<u64>,
    /// The runs' own manifests at the first seed, where they print one.
    runs: BTreeMap<String, Value>,
}

/// The reports of each run, seed by seed.
type Reports = BTreeMap<String, Vec<Value>>;

/// The names of all claims.
pub fn names(root: &Path) -> Result<Vec<String>> {
    let below = |file: &String| file.strip_prefix("claims/")?.strip_suffix(".toml").map(str::to_owned);
    Ok(files(root, "claims")?.iter().filter_map(below).collect())
}

/// The claims whose committed result belongs to another text of the claim, and results without a claim.
pub fn stale(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for file in files(root, "claims")? {
        let Some(name) = file.strip_prefix("claims/").and_then(|rest| rest.strip_suffix(".result.json")) else {
            continue;
        };
        let result: Value =
            serde_json::from_str(&read(&root.join(&file))?).with_context(|| format!("{file} is not JSON"))?;
        let claim = read(&root.join(format!("claims/{name}.toml"))).map(sha256).unwrap_or_default();
        if result["manifest"]["claim_sha256"] != claim.as_str() {
            found.push(name.to_owned());
        }
    }
    Ok(found)
}

/// Runs claims with the program at `program`, all of them when none is named, and writes their results. What the runs write stays below
/// `work`, where that is given. A claim that does not hold is a result like any other; only a run that fails is an error.
pub fn run(
    root: &Path,
    program: &Path,
    named: &[String],
    work: Option<&Path>,
    mut say: impl FnMut(&str),
) -> Result<()> {
    let all = names(root)?;
    let chosen = if named.is_empty() { &all } else { named };
    for name in chosen {
        if !all.contains(name) {
            let near = acclimate_core::nearest(name, all.iter().map(String::as_str)).join(", ");
            bail!("there is no claims/{name}.toml; the nearest are {near}");
        }
        let text = read(&root.join(format!("claims/{name}.toml")))?;
        let claim: Claim = toml::from_str(&text).with_context(|| format!("claims/{name}.toml"))?;
        // The commit that the program was built from, not one that arrived while it ran.
        let commit = commit(root);
        let work = work.map(|work| work.join(name));
        let reports =
            reports(root, program, &claim, work.as_deref(), &mut say).with_context(|| format!("the claim {name}"))?;
        let outcome = judge(claim, &text, commit, &reports).with_context(|| format!("the claim {name}"))?;
        for check in &outcome.checks {
            let verdict = if check.holds { "holds" } else { "does not hold" };
            say(&format!("{name}: {} {verdict}: {:.6} and {:.6}", check.expect, check.left, check.right));
        }
        write(&root.join(format!("claims/{name}.result.json")), &(serde_json::to_string_pretty(&outcome)? + "\n"))?;
    }
    Ok(())
}

fn reports(
    root: &Path,
    program: &Path,
    claim: &Claim,
    work: Option<&Path>,
    say: &mut impl FnMut(&str),
) -> Result<Reports> {
    let mut reports = Reports::new();
    for (name, args) in &claim.run {
        for seed in &claim.seeds {
            let removed = tempfile::tempdir().context("no temporary folder")?;
            let out = work.map_or_else(|| removed.path().join("run"), |work| work.join(format!("{name}-{seed}")));
            let folder = root.join(out).display().to_string();
            let filled = |arg: &String| arg.replace("{seed}", &seed.to_string()).replace("{out}", &folder);
            let args: Vec<String> = args.iter().map(filled).collect();
            say(&format!("{name}: acclimate {}", args.join(" ")));
            let output = Command::new(program)
                .args(&args)
                .current_dir(root)
                .output()
                .with_context(|| format!("{} does not start", program.display()))?;
            let stderr = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "`{name}` failed with seed {seed}: {}", stderr.trim());
            let report = report(&String::from_utf8_lossy(&output.stdout).replace(&folder, "{out}"))
                .with_context(|| format!("the output of `{name}`"))?;
            reports.entry(name.clone()).or_default().push(report);
        }
    }
    Ok(reports)
}

/// The output as one JSON value, or else its last line as one.
fn report(stdout: &str) -> Result<Value> {
    let last = stdout.trim().lines().last().context("it printed nothing")?;
    serde_json::from_str(stdout)
        .or_else(|_| serde_json::from_str(last))
        .context("it printed no JSON; is `--json` missing?")
}

fn judge(claim: Claim, text: &str, commit: Option<String>, reports: &Reports) -> Result<Outcome> {
    let checks = claim.expect.iter().map(|expect| compare(expect, reports)).collect::<Result<Vec<_>>>()?;
    let own = |list: &[Value]| list.first().and_then(|report| report.get("manifest")).cloned();
    let manifest = Manifest {
        claim_sha256: sha256(text),
        version: env!("CARGO_PKG_VERSION"),
        commit,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        seeds: claim.seeds,
        runs: reports.iter().filter_map(|(name, list)| Some((name.clone(), own(list)?))).collect(),
    };
    let holds = checks.iter().all(|check| check.holds);
    Ok(Outcome { title: claim.title, method: claim.method, statement: claim.statement, holds, checks, manifest })
}

/// Judges `side OP side` on means over seeds.
fn compare(expect: &str, reports: &Reports) -> Result<Check> {
    let words: Vec<&str> = expect.split_whitespace().collect();
    let at = words.iter().position(|word| ["<=", ">=", "<", ">"].contains(word));
    let at = at.with_context(|| format!("`{expect}` has no `<=`, `>=`, `<` or `>` between blanks"))?;
    let mut figures = BTreeMap::new();
    let left = side(&words[..at], reports, &mut figures)?;
    let right = side(&words[at + 1..], reports, &mut figures)?;
    let holds = match words[at] {
        "<=" => left <= right,
        ">=" => left >= right,
        "<" => left < right,
        _ => left > right,
    };
    Ok(Check { expect: expect.to_owned(), holds, left, right, figures })
}

fn side(words: &[&str], reports: &Reports, figures: &mut BTreeMap<String, Vec<f64>>) -> Result<f64> {
    let mut mean = |word: &str| -> Result<f64> {
        if let Ok(number) = word.parse() {
            return Ok(number);
        }
        let values = lookup(word, reports)?;
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        figures.insert(word.to_owned(), values);
        Ok(mean)
    };
    match words {
        ["low" | "least", path] => {
            let values = lookup(path, reports)?;
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let low = acclimate::over_seeds(&values, 0.95).low;
            figures.insert((*path).to_owned(), values);
            Ok(if words[0] == "low" { low } else { least })
        }
        [one] => mean(one),
        [a, "+", b] => Ok(mean(a)? + mean(b)?),
        [a, "-", b] => Ok(mean(a)? - mean(b)?),
        [a, "*", b] => Ok(mean(a)? * mean(b)?),
        _ => bail!("`{}` is neither a figure nor two joined by `+`, `-` or `*`", words.join(" ")),
    }
}

/// The numbers at `run.path` in the reports of all seeds.
fn lookup(path: &str, reports: &Reports) -> Result<Vec<f64>> {
    let (run, inside) = path.split_once('.').with_context(|| format!("`{path}` is neither a number nor `run.path`"))?;
    let list = reports.get(run).with_context(|| format!("`{path}`: no run is called `{run}`"))?;
    let step = |value: &Value, name: &str| match value {
        Value::Array(list) => list.get(name.parse::<usize>().ok()?).cloned(),
        other => other.get(name).or_else(|| other.get(name.replace('_', " "))).cloned(),
    };
    let number =
        |report: &Value| inside.split('.').try_fold(report.clone(), |value, name| step(&value, name))?.as_f64();
    list.iter().map(|report| number(report).with_context(|| format!("`{path}` is no number in the report"))).collect()
}

fn commit(root: &Path) -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(root).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn two_runs() -> Reports {
        let by_seed = |a: f64, b: f64| vec![json!({"test": {"accuracy": a}}), json!({"test": {"accuracy": b}})];
        Reports::from([("new".into(), by_seed(0.8, 0.9)), ("old".into(), by_seed(0.86, 0.86))])
    }

    #[test]
    fn means_over_seeds_are_compared() {
        let check = compare("new.test.accuracy >= old.test.accuracy - 0.02", &two_runs()).unwrap();
        assert!(check.holds);
        assert_eq!(check.figures["new.test.accuracy"], [0.8, 0.9]);
        assert!(!compare("new.test.accuracy >= old.test.accuracy", &two_runs()).unwrap().holds);
    }

    #[test]
    fn bounds_over_seeds_are_compared() {
        // Mean 0.85, standard error 0.05, t quantile 12.706 for two seeds.
        assert!(
            (compare("low new.test.accuracy > 0", &two_runs()).unwrap().left - (0.85 - 12.706 * 0.05)).abs() < 1e-3
        );
        assert!(compare("least new.test.accuracy >= 0.8", &two_runs()).unwrap().holds);
    }

    #[test]
    fn a_name_with_a_blank_is_found() {
        let reports = Reports::from([("a".into(), vec![json!({"test_of": 1, "log loss": 3})])]);
        assert_eq!(compare("a.log_loss > a.test_of", &reports).unwrap().left, 3.0);
        let reports = Reports::from([("a".into(), vec![json!({"log loss": {"at_most": [2]}})])]);
        assert_eq!(compare("a.log_loss.at_most.0 > 1", &reports).unwrap().left, 2.0);
    }

    #[test]
    fn what_cannot_be_compared_is_named() {
        for (expect, word) in [
            ("new.test.accuracy = 1", "has no"),
            ("new.test.loss < 1", "is no number"),
            ("other.x < 1", "no run is called `other`"),
            ("accuracy < 1", "neither a number nor"),
            ("1 + 2 + 3 < 1", "neither a figure"),
        ] {
            let error = compare(expect, &two_runs()).unwrap_err().to_string();
            assert!(error.contains(word), "{expect}: {error}");
        }
    }

    #[test]
    fn the_report_is_the_whole_output_or_its_last_line() {
        assert_eq!(report("{\n\"a\": 1}\n").unwrap(), json!({"a": 1}));
        assert_eq!(report("{\"step\": 1}\n{\"a\": 2}\n").unwrap(), json!({"a": 2}));
        assert!(report("hello\n").is_err());
        assert!(report("").is_err());
    }

    #[test]
    #[cfg(unix)] // `echo` stands in for the program
    fn a_claim_runs_once_per_seed_and_leaves_its_result() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let text = concat!(
            "title = 't'\nmethod = 'optim/m'\nstatement = 's'\nseeds = [1, 3]\nexpect = ['a.x <= 2', 'a.x < 2']\n",
            "[run]\na = ['{\"x\": {seed}, \"manifest\": {\"data\": \"d\"}}']\n"
        );
        write(&root.join("claims/one.toml"), text).unwrap();
        let mut said = Vec::new();
        run(root, Path::new("echo"), &[], None, |line| said.push(line.to_owned())).unwrap();
        assert_eq!(said.len(), 4, "{said:?}");
        let result: Value = serde_json::from_str(&read(&root.join("claims/one.result.json")).unwrap()).unwrap();
        assert_eq!(result["holds"], false);
        assert_eq!(result["checks"][0]["holds"], true);
        assert_eq!(result["checks"][0]["figures"]["a.x"], json!([1.0, 3.0]));
        assert_eq!(result["manifest"]["runs"]["a"]["data"], "d");
        assert!(stale(root).unwrap().is_empty());
        let error = run(root, Path::new("echo"), &["on".to_owned()], None, |_| ()).unwrap_err().to_string();
        assert_eq!(error, "there is no claims/on.toml; the nearest are one");
    }

    #[test]
    #[cfg(unix)] // `mkdir` stands in for the program
    fn what_runs_write_stays_where_that_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let text = "title = 't'\nmethod = 'optim/m'\nstatement = 's'\nexpect = []\n[run]\na = ['-p', '{out}']\n";
        write(&root.join("claims/one.toml"), text).unwrap();
        // It prints no JSON, which comes after.
        run(root, Path::new("mkdir"), &[], Some(Path::new("kept")), |_| ()).unwrap_err();
        assert!(root.join("kept/one/a-0").is_dir());
    }

    #[test]
    fn a_changed_claim_makes_its_result_stale() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let text = "title = \"t\"\nmethod = \"optim/m\"\nstatement = \"s\"\nexpect = [\"new.test.accuracy > 0.8\"]\n[run]\nnew = []\n";
        write(&root.join("claims/a.toml"), text).unwrap();
        let outcome = judge(toml::from_str(text).unwrap(), text, None, &two_runs()).unwrap();
        assert!(outcome.holds);
        write(&root.join("claims/a.result.json"), &serde_json::to_string(&outcome).unwrap()).unwrap();
        assert!(stale(root).unwrap().is_empty());
        write(&root.join("claims/a.toml"), "title = \"other\"\n").unwrap();
        assert_eq!(stale(root).unwrap(), ["a"]);
    }
}
