//! Kills: commands of the program are ended without warning at random moments, again and again. What they leave must be readable,
//! lose at most one step, and end as one that nothing disturbed.
use crate::{files, read, write};
use acclimate::core::{AnyTensor, Model, Patch, Rng, read_safetensors, write_safetensors};
use acclimate::models::tiny;
use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{DType, Device};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Kills of each command.
    pub kills: usize,
    /// Names the stream of random moments.
    pub seed: u64,
    /// Passes over the rows of a run: how long a command works.
    pub epochs: usize,
}

/// A command that is killed.
struct Case {
    name: &'static str,
    args: String,
    /// The folder that it fills.
    out: &'static str,
    /// Whether the same command goes on in a folder that is not finished. Otherwise `out` is absent or whole at every moment.
    goes_on: bool,
}

/// The commands. One that works on a run finds it in `run`, where the case before left it.
fn cases(plan: Plan) -> Vec<Case> {
    let epochs = plan.epochs;
    let tune = format!(
        "tune --model model --data rows.csv --out run --epochs {epochs} --max-length 16 --gate.folds 2 --valid-share 0.2 \
         --adapter.dropout 0.1 --optim.growth-rate 1.02 --checkpoint-steps 1 --progress 0"
    );
    let merge = "merge --run patch --model model --out merged --offline".to_owned();
    vec![
        Case { name: "tune", args: tune, out: "run", goes_on: true },
        Case { name: "merge", args: merge, out: "merged", goes_on: false },
    ]
}

/// What happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Processes that were killed.
    pub kills: usize,
    /// Processes that went on from what a killed one had left.
    pub resumes: usize,
    /// The most steps that a process had to make again.
    pub most_lost: usize,
    /// Runs that came to their end and were compared with the undisturbed one.
    pub equal: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, resumes, most_lost, equal } = self;
        write!(
            f,
            "{kills} kills, {resumes} resumes, at most {most_lost} steps lost, 0 broken files, {equal} runs compared equal"
        )
    }
}

/// Kills every command of the program at `program` as often as the plan says.
///
/// # Errors
/// The first thing that is not as it should be: a broken file, a step too many lost, a command that does not go on, another result.
pub fn run(program: &Path, plan: Plan, mut say: impl FnMut(&str)) -> Result<Tally> {
    let place = tempfile::tempdir().context("no temporary folder")?;
    prepare(place.path())?;
    let mut tally = Tally::default();
    for case in cases(plan) {
        let whole = Whole::of(program, place.path(), &case)?;
        say(&format!("{}: {:.1} s without a kill, {} steps", case.name, whole.took.as_secs_f64(), whole.order.len()));
        let mut rng = Rng::new(plan.seed, case.name, 0);
        let until = tally.kills + plan.kills;
        while tally.kills < until {
            attempt(program, place.path(), &case, &whole, until, &mut rng, &mut tally)
                .with_context(|| format!("{} after {} kills, seed {}", case.name, tally.kills, plan.seed))?;
        }
        say(&format!("{}: {tally}", case.name));
    }
    Ok(tally)
}

/// A tiny model that reads words, rows for it, and a patch for it.
fn prepare(place: &Path) -> Result<()> {
    let model = place.join("model");
    let (bert, file) = (tiny::bert(1, DType::F32), model.join("model.safetensors"));
    write_safetensors(&file, bert.weights(), BTreeMap::new())?;
    let mut config = serde_json::to_value(tiny::bert_config())?;
    config["model_type"] = "bert".into();
    write(&model.join("config.json"), &config.to_string())?;
    let words = ["[PAD]", "[UNK]", "good", "bad", "fine", "poor", "film", "book", "play"];
    let vocabulary: BTreeMap<&str, usize> = words.into_iter().zip(0..).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    });
    write(&model.join("tokenizer.json"), &tokenizer.to_string())?;
    let (mut patch, lora) = (Patch::new(), acclimate::peft::build("lora", &"rank = 2".parse()?)?);
    acclimate::peft::place(&mut patch, &bert, "lora", lora, None, &mut Rng::new(0, "patch", 0))?;
    patch.params = patch.params.map(|_, tensor| AnyTensor::from_elements(tensor.elements() + 0.1));
    patch.save(&place.join("patch"))?;
    let row = |n: usize| format!("{} {},{}\n", words[6 + n % 3], words[2 + n % 4], ["yes", "no"][n % 2]);
    write(&place.join("rows.csv"), &format!("text,label\n{}", (0..96).map(row).collect::<String>()))
}

/// What a command does when nothing disturbs it.
struct Whole {
    took: Duration,
    /// The steps that it tells, by their place in the order.
    order: HashMap<String, usize>,
    /// What it leaves.
    files: BTreeMap<String, Vec<u8>>,
}

impl Whole {
    fn of(program: &Path, place: &Path, case: &Case) -> Result<Self> {
        let began = Instant::now();
        let ended = launch(program, place, case, None)?;
        ensure!(ended.code == Some(0), "`{}` failed: {}", case.args, ended.text.join("\n"));
        let took = began.elapsed();
        let steps = steps(&ended.text);
        let order: HashMap<String, usize> = steps.iter().cloned().zip(0..).collect();
        ensure!(order.len() == steps.len(), "`{}` tells a step twice: its rows make it collapse", case.args);
        let out = place.join(case.out);
        readable(&out)?;
        Ok(Self { took, order, files: contents(&out)? })
    }
}

/// A process that ended or was ended.
struct Ended {
    /// Its exit code; none where it was killed.
    code: Option<i32>,
    /// The lines of its standard error.
    text: Vec<String>,
}

/// Runs a command to its end, or kills it after a while.
fn launch(program: &Path, place: &Path, case: &Case, after: Option<Duration>) -> Result<Ended> {
    let mut child = Command::new(program)
        .args(case.args.split_whitespace())
        .current_dir(place)
        .env("ACCLIMATE_CACHE", place.join("cache"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} does not start", program.display()))?;
    let began = Instant::now();
    let pipe = child.stderr.take().context("standard error is a pipe")?;
    let reader = std::thread::spawn(move || BufReader::new(pipe).lines().map_while(std::result::Result::ok).collect());
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if after.is_some_and(|after| began.elapsed() >= after) {
            child.kill()?;
            break child.wait()?;
        }
        std::thread::sleep(Duration::from_micros(500));
    };
    let text = reader.join().map_err(|_| anyhow::anyhow!("what the program says cannot be read"))?;
    Ok(Ended { code: status.code(), text })
}

/// `STAGE: step K` of every line of progress.
fn steps(text: &[String]) -> Vec<String> {
    let step = |line: &String| {
        let (stage, rest) = line.split_once(": step ")?;
        let (step, _) = rest.split_once('/')?;
        Some(format!("{stage}: step {step}"))
    };
    text.iter().filter_map(step).collect()
}

/// One run to its end through as many kills as it takes; none once there were enough.
fn attempt(
    program: &Path,
    place: &Path,
    case: &Case,
    whole: &Whole,
    until: usize,
    rng: &mut Rng,
    tally: &mut Tally,
) -> Result<()> {
    let out = place.join(case.out);
    fs::remove_dir_all(&out).with_context(|| format!("{} cannot be removed", out.display()))?;
    // Steps that are known to have been made.
    let mut made = 0;
    let mut killed = false;
    loop {
        // Half of the time for a run that goes on: it is killed several times, and also in its last acts. Others have but one try.
        let share = if case.goes_on { 0.5 } else { 1.1 };
        let after = (tally.kills < until).then(|| whole.took.mul_f64(share * rng.uniform()));
        let ended = launch(program, place, case, after)?;
        let told = steps(&ended.text);
        tally.resumes += usize::from(killed && !told.is_empty());
        for (at, step) in told.iter().enumerate() {
            let &index =
                whole.order.get(step).with_context(|| format!("`{step}` is no step of the undisturbed run"))?;
            ensure!(index <= made, "`{step}` follows on {made} steps: some were left out");
            if at > 0 {
                ensure!(index == made, "`{step}` was told again by the same process");
            }
            tally.most_lost = tally.most_lost.max(made - index);
            ensure!(made - index <= 1, "went on with `{step}`, {} steps before the kill", made - index);
            made = index + 1;
        }
        let finished = out.join("result.json").exists();
        match ended.code {
            Some(0) => break,
            // Killed after its last file: there is nothing to go on with, and what the killed process left is tidied up.
            Some(1) if finished && ended.text.iter().any(|line| line.contains("holds a finished run")) => break,
            Some(code) => bail!("the program ended with {code}: {}", ended.text.join("\n")),
            None => {
                (tally.kills, killed) = (tally.kills + 1, true);
                if case.goes_on {
                    readable(&out)?;
                } else if out.exists() {
                    break;
                }
            }
        }
    }
    readable(&out)?;
    compare(whole, &out)?;
    tally.equal += 1;
    Ok(())
}

/// Whether every file below a folder is whole. What is being written has a name of its own, which says so.
fn readable(folder: &Path) -> Result<()> {
    for name in files(folder, "")? {
        let file = folder.join(&name);
        let broken = || format!("{name} is broken");
        let last = Path::new(&name).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match last.rsplit_once('.').map_or(last, |(_, extension)| extension) {
            _ if last == acclimate::events::FILE => records(&fs::read(&file)?).with_context(broken)?,
            "tmp" | "lock" => {}
            "json" => drop(serde_json::from_str::<Value>(&read(&file)?).with_context(broken)?),
            "toml" => drop(toml::from_str::<toml::Table>(&read(&file)?).with_context(broken)?),
            "safetensors" => drop(read_safetensors(&file, &Device::flex()).with_context(broken)?),
            "html" => ensure!(read(&file)?.ends_with("</html>\n"), broken()),
            "jsonl" => {
                let text = read(&file)?;
                // Lines are added to a history: the last may have been on its way.
                let ended = if last == "history.jsonl" { text.rfind('\n').map_or(0, |at| at + 1) } else { text.len() };
                for line in text[..ended].lines() {
                    serde_json::from_str::<Value>(line).with_context(broken)?;
                }
            }
            other => bail!("{name}: nothing is known about files of the kind `{other}`"),
        }
    }
    Ok(())
}

/// Whether a file is a whole number of TensorFlow's records.
fn records(mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let length = bytes.first_chunk().map(|length| u64::from_le_bytes(*length)).context("a torn length")?;
        // The length and its checksum stand before the record, another checksum behind it.
        bytes = bytes.get(length.saturating_add(16) as usize..).context("a torn record")?;
    }
    Ok(())
}

/// Every file below a folder by its name, without what a run took: time and memory differ.
fn contents(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for name in files(folder, "")? {
        let file = folder.join(&name);
        let mut bytes = fs::read(&file).with_context(|| format!("{name} cannot be read"))?;
        if name == "result.json" {
            let mut result: Value = serde_json::from_slice(&bytes)?;
            let told = result.as_object_mut().and_then(|result| result.remove("cost"));
            ensure!(told.is_some(), "{name} does not tell what the run took");
            bytes = result.to_string().into_bytes();
        }
        if name == "report.html" {
            bytes = without_cost(&String::from_utf8(bytes)?)?.into_bytes();
        }
        found.insert(name, bytes);
    }
    Ok(found)
}

/// A report without the figures of time and memory.
fn without_cost(page: &str) -> Result<String> {
    let mut page = page.to_owned();
    for name in ["training time", "peak memory"] {
        let label = format!("{name}</dt><dd dir=\"auto\">");
        let (before, after) = page.split_once(&label).with_context(|| format!("the report tells no {name}"))?;
        let (_, rest) = after.split_once('<').context("a fact ends")?;
        page = format!("{before}{label}<{rest}");
    }
    Ok(page)
}

fn compare(whole: &Whole, out: &Path) -> Result<()> {
    let found = contents(out)?;
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>().join(", ");
    ensure!(
        whole.files.keys().eq(found.keys()),
        "there are the files {} in place of {}",
        names(&found),
        names(&whole.files)
    );
    match whole.files.iter().find(|(name, bytes)| found[*name] != **bytes) {
        Some((name, _)) => bail!("{name} differs from the undisturbed run's"),
        None => Ok(()),
    }
}
