//! The real program on tiny models: help, a whole round trip, and everything that can be wrong with what it is given.

#![expect(clippy::unwrap_used, reason = "what these tests share is test code too")]

use acclimate_core::{AnyTensor, Model, write_safetensors};
use acclimate_models::tiny;
use burn::tensor::{DType, Device};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_acclimate");

/// A folder with a model over texts, its tokenizer and labelled rows.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let model = place.path("model");
        write_safetensors(&model.join("model.safetensors"), tiny::bert(1, DType::F32).weights(), BTreeMap::new())
            .unwrap();
        let mut config = serde_json::to_value(tiny::bert_config()).unwrap();
        config["model_type"] = "bert".into();
        std::fs::write(model.join("config.json"), config.to_string()).unwrap();
        std::fs::write(model.join("tokenizer.json"), tokenizer()).unwrap();
        std::fs::write(place.path("rows.csv"), rows(48)).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        command.current_dir(self.0.path()).env("ACCLIMATE_CACHE", self.path("cache")).stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command().args(line.split_whitespace()).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    fn good(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {}", error(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Every file and folder below.
    fn files(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut open = vec![self.0.path().to_owned()];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path.clone());
                }
                found.insert(path);
            }
        }
        found
    }

    /// A command that must end with one message, and leave everything as it was.
    fn refused(&self, line: &str, code: i32, parts: &[&str]) {
        let before = self.files();
        let output = self.run(line);
        let text = error(&output);
        assert_eq!(output.status.code(), Some(code), "{line}: {text}");
        let messages: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(messages.len(), 1, "{line}: {text}");
        assert!(parts.iter().all(|part| messages[0].contains(part)), "{line}: {text}");
        assert!(!text.contains("panicked") && !text.contains("this is a bug"), "{line}: {text}");
        assert_eq!(self.files(), before, "{line}");
    }
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn tokenizer() -> String {
    let words = ["[PAD]", "[UNK]", "good", "bad", "fine", "poor", "film", "book", "a", "the", "is", "was"];
    let vocabulary: Vec<String> = words.iter().enumerate().map(|(id, word)| format!("\"{word}\":{id}")).collect();
    format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":{{"type":"Lowercase"}},
        "pre_tokenizer":{{"type":"Whitespace"}},"post_processor":null,"decoder":null,
        "model":{{"type":"WordLevel","vocab":{{{}}},"unk_token":"[UNK]"}}}}"#,
        vocabulary.join(",")
    )
}

fn rows(count: usize) -> String {
    let mut text = "text,label\n".to_owned();
    for row in 0..count {
        let (word, label) = [("good", "yes"), ("bad", "no"), ("fine", "yes"), ("poor", "no")][row % 4];
        let (article, noun) = ([("the", "film"), ("a", "book")][row / 4 % 2], row % 3);
        writeln!(text, "{} {} {} {word},{label}", article.0, article.1, ["is", "was", "is the"][noun]).unwrap();
    }
    text
}

const TUNE: &str = "tune --model model --data rows.csv --out run --epochs 2 --gate.folds 2 --max-length 16";

#[test]
fn help_shows_examples_and_every_key() {
    let place = Place::new();
    let text = place.good("--help");
    assert!(text.contains("acclimate tune --model asset:minilm --data reviews.csv"), "{text}");
    let text = place.good("tune --help");
    for key in acclimate::Recipe::keys() {
        assert!(text.contains(&format!("--{} ", key.name)), "{}", key.name);
    }
    assert!(text.contains("acclimate methods explain NAME"), "{text}");
}

#[test]
fn tune_predict_and_evaluate() {
    let place = Place::new();
    let summary = place.good(&format!("{TUNE} --json"));
    assert!(summary.starts_with('{') && summary.contains("\"chosen\""), "{summary}");
    assert!(place.path("run/report.html").is_file());
    place.write("new.csv", "text\nthe film is good\na book was bad\n");
    let lines = place.good("predict --run run --data new.csv --json");
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(
        lines.starts_with("{\"row\":1,\"answer\":\"yes\",\"probability\":") || lines.contains("\"answer\":\"no\""),
        "{lines}"
    );
    let cells = place.good("predict --run run/patch --data new.csv");
    assert!(cells.starts_with("row\tanswer\tprobability\n1\t"), "{cells}");
    place.good("predict --run run --data new.csv --out answers.csv");
    let written = std::fs::read_to_string(place.path("answers.csv")).unwrap();
    assert_eq!(written.replace(',', "\t"), cells);
    let scores = place.good("eval --run run --data rows.csv --json");
    assert!(scores.contains("\"metric\": \"accuracy\"") && scores.contains("\"rows\": 48"), "{scores}");
    let text = place.good("eval --run run --data rows.csv");
    assert!(text.starts_with("48 rows\n  accuracy"), "{text}");
    place.refused(TUNE, 1, &["holds a finished run", "--out"]);
}

#[test]
fn texts_are_followed_by_a_tuned_classifier() {
    let place = Place::new();
    place.good(&TUNE.replace("--gate.folds 2", "--gate.folds 0"));
    let cells = place.good("stream rows.csv --run run --method tent --batch 8 --reset episodic --quiet");
    assert_eq!(cells.lines().count(), 49, "{cells}");
    assert!(cells.lines().skip(1).all(|line| line.contains(",yes,0.") || line.contains(",no,0.")), "{cells}");
    place.good("stream rows.csv --run run --method tent --batch 8 --reset episodic --out followed");
    let result: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(place.path("followed/result.json")).unwrap()).unwrap();
    assert_eq!((&result["book"]["labelled"], &result["book"]["resets"]), (&48.into(), &5.into()));
    place.refused("stream rows.csv --model model --method tent", 1, &["it has no head of its own", "--run"]);
}

#[test]
fn a_run_becomes_a_plain_checkpoint() {
    let place = Place::new();
    let tune = TUNE.replace("--gate.folds 2", "--gate.folds 0");
    place.good(&format!("{tune} --adapter.method lora --adapter.rank 2 --optim.method adamw --optim.lr 1e-4"));
    let before = place.files();
    let text = place.good("merge --run run --check --dtype bf16");
    assert!(text.contains("lost in rounding") && text.contains("F32 as BF16") && text.contains("all 12"), "{text}");
    assert!(text.contains("Rounding loses") && text.contains("run/patch/adapter_model.safetensors"), "{text}");
    assert_eq!(place.files(), before, "a check writes nothing");
    let text = place.good("merge --run run --out merged --verify");
    assert!(
        text.contains("changed tensors read back, bit for bit") && text.contains("largest difference of features"),
        "{text}"
    );
    let merged: BTreeSet<_> =
        place.files().difference(&before).map(|file| file.strip_prefix(place.0.path()).unwrap().to_owned()).collect();
    let expected =
        ["", "config.json", "model.safetensors", "tokenizer.json"].map(|name| PathBuf::from("merged").join(name));
    assert_eq!(merged, expected.into());
    let json: serde_json::Value =
        serde_json::from_str(&place.good("merge --run run/patch --out half --dtype f16 --json")).unwrap();
    assert_eq!((json["tensors"].as_array().unwrap().len(), &json["out"]), (12, &"half".into()));
    assert!(json["total"]["relative"].as_f64().unwrap() > 0.0 && json["tensors"][0]["sha256"].is_string());
    place.refused("merge --run run --out merged", 1, &["merged: is there already", "--out"]);
    place.refused("merge --run run --out new/merged", 1, &["does not exist"]);
    place.refused(
        "merge --run run --out other --dtype bf17",
        1,
        &["unknown number type `bf17`; the nearest are `bf16`"],
    );
    if cfg!(unix) {
        let before = place.files();
        let line = format!("ulimit -f 8; exec {BINARY} merge --run run --out full");
        let output = Command::new("sh").args(["-c", &line]).current_dir(place.0.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", error(&output));
        assert!(error(&output).starts_with("error: full.partial/checkpoint/model.safetensors: "), "{}", error(&output));
        assert_eq!(place.files(), before);
    }
    place.refused("merge --run nowhere --out other", 1, &["nowhere: holds no patch"]);
    place.refused("merge --run run --out other --model merged", 1, &["was made for a model", "tune anew"]);
}

#[test]
fn a_patch_is_looked_over_and_becomes_a_lora() {
    let place = Place::new();
    let tune = TUNE.replace("--gate.folds 2", "--gate.folds 0");
    place.good(&format!("{tune} --adapter.method hra --adapter.rank 2 --optim.method adamw --optim.lr 1e-4"));
    assert_eq!(place.good("doctor run"), "nothing is wrong with it\n");
    let text = place.good("convert --run run --rank 2 --out lora");
    assert!(text.contains("lost") && text.contains("written to lora"), "{text}");
    assert_eq!(place.good("doctor lora"), "nothing is wrong with it\n");
    let config = std::fs::read_to_string(place.path("lora/adapter_config.json")).unwrap();
    assert!(config.contains("\"peft_type\": \"LORA\""), "{config}");
    // Two reflections are a change of rank two: the answers are the same up to rounding.
    let answers = |folder: &str| -> Vec<f64> {
        let text = place.good(&format!("predict --run {folder} --data rows.csv"));
        text.split(['\t', '\n']).filter_map(|cell| cell.parse().ok()).collect()
    };
    let (before, after) = (answers("run"), answers("lora"));
    assert!(!before.is_empty() && before.len() == after.len());
    assert!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() < 1e-4), "{before:?} {after:?}");
    place.refused("convert --run run --rank 2 --out lora", 1, &["lora: exists already", "--out"]);
    place.refused("convert --run run --keep 2 --out other", 1, &["`keep` must be above 0 and at most 1"]);
    place.refused("doctor nowhere", 1, &["nowhere: is no folder"]);
    std::fs::write(place.path("lora/adapter_config.json"), config.replace("\"r\": 2", "\"r\": 3")).unwrap();
    let output = place.run("doctor lora");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("`r` is 3, and the patch was saved with 2") && text.ends_with("1 error, 0 warnings\n"),
        "{text}"
    );
}

#[test]
fn merging_holds_less_than_the_largest_tensor() {
    const WORDS: usize = 1_500_000;
    const EMBEDDING_MIB: f64 = WORDS as f64 * 16.0 * 4.0 / (1 << 20) as f64;
    let place = Place::new();
    let mut weights = tiny::bert(1, DType::F32).weights().clone();
    let words = AnyTensor::from_f32s(vec![0.25; WORDS * 16], &[WORDS, 16], &Device::flex());
    weights.insert("embeddings.word_embeddings.weight", words);
    write_safetensors(&place.path("model/model.safetensors"), &weights, BTreeMap::new()).unwrap();
    let config = std::fs::read_to_string(place.path("model/config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["vocab_size"] = WORDS.into();
    place.write("model/config.json", config.to_string());
    let tune = TUNE.replace("--gate.folds 2", "--gate.folds 0").replace("--epochs 2", "--epochs 1");
    place.good(&format!("{tune} --adapter.method lora --optim.method adamw --optim.lr 1e-4"));
    for precision in ["keep", "bf16"] {
        let text = place.good(&format!("merge --run run --out {precision} --dtype {precision} --json"));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        // Systems without /proc do not tell.
        if let Some(peak) = json["peak_memory_mib"].as_f64() {
            assert!(peak < EMBEDDING_MIB, "{precision}: {peak} MiB, the embedding has {EMBEDDING_MIB}");
        }
    }
}

#[test]
fn a_recipe_file_and_flags_over_it() {
    let place = Place::new();
    place.write("run.toml", "model = 'model'\ndata = 'rows.csv'\nepochs = 50\nmax_length = 16\n[gate]\nfolds = 0\n");
    let text = place.good("tune --recipe run.toml --epochs 1 --out run --adapter.rank 2 --quiet");
    assert!(
        text.contains("The patch was chosen") && text.contains("acclimate predict --run run --data new.csv"),
        "{text}"
    );
    let kept = std::fs::read_to_string(place.path("run/recipe.toml")).unwrap();
    assert!(kept.contains("epochs = 1\n") && kept.contains("rank = 2\n"), "{kept}");
    let output = place.run("tune --recipe run.toml --epochs 1 --out quiet --quiet");
    assert_eq!(error(&output), "");
}

#[test]
fn what_cannot_be_learnt_leaves_the_model_as_it_is_and_still_answers() {
    let place = Place::new();
    let labels = (0..24).map(|row| ["no", "yes", "yes", "yes"][row % 4]);
    place.write(
        "same.csv",
        format!("text,label\n{}", labels.map(|label| format!("the film,{label}\n")).collect::<String>()),
    );
    let text =
        place.good("tune --model model --data same.csv --out run --epochs 1 --gate.folds 2 --max-length 16 --quiet");
    assert!(text.contains("The unadapted model was chosen"), "{text}");
    let lines = place.good("predict --run run --data same.csv");
    assert!(lines.lines().skip(1).all(|line| line.contains("\tyes\t0.7")), "{lines}");
    place.good("eval --run run --data same.csv");
}

#[test]
fn runs_of_two_methods_are_compared() {
    let place = Place::new();
    place.good(&format!("{TUNE} --quiet"));
    let other = TUNE.replace("--out run", "--out hra");
    place.good(&format!("{other} --adapter hra --adapter.rank 2 --optim.clip 1 --quiet"));
    let table = place.good("compare run hra");
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("accuracy on untouched rows") && lines[1].contains("optimiser"), "{table}");
    assert!(lines[2].starts_with("  run  lora  ") && lines[2].contains(" dadapt_adam  "), "{table}");
    assert!(lines[3].starts_with("  hra  hra: rank 2  dadapt_adam: clip 1"), "{table}");
    let all: serde_json::Value = serde_json::from_str(&place.good("compare run hra --json")).unwrap();
    let runs = all["runs"].as_array().unwrap();
    assert_eq!((runs.len(), &runs[1]["adapter"]["method"]), (2, &"hra".into()));
    assert!(runs.iter().all(|run| run["training_seconds"].as_f64().unwrap() > 0.0 && run["score"]["low"].is_number()));
    place.good(&format!("{} --seed 1 --quiet", TUNE.replace("--out run", "--out seed")));
    place.refused("compare run seed", 1, &["run and seed differ", "`seed` is `0` and `1`", "the training rows"]);
    place.refused("compare run", 2, &["2 values required"]);
    place.refused("compare run none", 1, &["none: no run folder"]);
}

/// `cargo xtask crash` kills hundreds.
#[cfg(unix)]
#[test]
fn killed_runs_lose_at_most_a_step_and_end_alike() {
    let plan = xtask::crash::Plan { kills: 5, seed: 1, epochs: 12 };
    let tally = xtask::crash::run(std::path::Path::new(BINARY), plan, |_| ()).unwrap();
    assert!(tally.kills >= 5 && tally.equal > 0 && tally.most_lost <= 1, "{tally}");
}

#[test]
fn quickstart_needs_nothing() {
    let place = Place::new();
    let text = place.good("quickstart --out first");
    assert!(text.contains("as it came") && text.contains("first/report.html"), "{text}");
    assert!(place.path("first/report.html").is_file());
}

#[test]
fn images_by_class() {
    let place = Place::new();
    tiny::resnet(1, DType::F32).save(&place.path("net")).unwrap();
    for (class, shade) in [("dark", 20u8), ("light", 220)] {
        std::fs::create_dir_all(place.path(&format!("images/{class}"))).unwrap();
        for n in 0..8u8 {
            let image = image::GrayImage::from_fn(8, 8, |x, y| image::Luma([shade + n + (x + y) as u8]));
            image.save(place.path(&format!("images/{class}/{n}.png"))).unwrap();
        }
    }
    place.good("tune --model net --data images --out run --epochs 1 --gate.folds 0 --adapter.rank 2 --quiet");
    let lines = place.good("predict --run run --data images --json");
    assert_eq!(lines.lines().count(), 16);
}

#[test]
fn pairs_numbers_and_labels_per_word() {
    let place = Place::new();
    let with = "--model model --epochs 1 --gate.folds 0 --max-length 16 --quiet";
    let mut pairs = "sentence,sentence2,score\n".to_owned();
    let (mut numbers, mut words) = ("text,score\n".to_owned(), String::new());
    for row in 0..16 {
        let word = ["good", "bad", "fine"][row % 3];
        writeln!(pairs, "the film is {word},a book was fine,{}", row % 3).unwrap();
        writeln!(numbers, "the film is {word},{}", row % 5).unwrap();
        writeln!(words, r#"{{"tokens":["the","{word}"],"tags":["O","B-{word}"]}}"#).unwrap();
    }
    place.write("pairs.csv", pairs);
    place.write("numbers.csv", numbers);
    place.write("words.jsonl", words);
    for (task, data, row) in [
        ("similarity", "pairs.csv", "{\"row\":1,\"answer\":0."),
        ("retrieval", "pairs.csv", "{\"row\":1,\"answer\":0."),
        ("regression", "numbers.csv", "{\"row\":1,\"answer\":"),
        ("token_classification", "words.jsonl", "{\"row\":1,\"answer\":[\""),
    ] {
        place.good(&format!("tune --task {task} --data {data} --out {task} {with}"));
        let lines = place.good(&format!("predict --run {task} --data {data} --json"));
        assert!(lines.starts_with(row) && lines.lines().count() == 16, "{task}: {lines}");
        let scores = place.good(&format!("eval --run {task} --data {data} --json"));
        assert!(scores.contains("\"rows\": 16"), "{task}: {scores}");
    }
}

#[test]
fn unknown_names_answer_with_the_nearest() {
    let place = Place::new();
    place.refused("tune --epoch 3", 2, &["unknown flag `--epoch`", "`--epochs`"]);
    place.refused("tune --adapter.rnak 3", 2, &["`--adapter.rank`"]);
    place.refused("predict --rum x", 2, &["`--run`"]);
    place.refused("tune --epochs many", 2, &["`--epochs many`"]);
    place.refused("tune --schedule cosin", 2, &["`cosine`"]);
    place.refused("tune --test-share 1.5", 2, &["`test_share`"]);
    place.refused("methods explain lroa", 1, &["unknown method `lroa`", "nearest"]);
    place.refused("methods list --family pft", 1, &["unknown family `pft`", "`peft`"]);
    place.refused("assets get minilmm", 1, &["unknown asset `minilmm`", "`minilm`"]);
    place.write("bad.toml", "epoch = 3\n");
    place.refused("tune --recipe bad.toml", 2, &["unknown recipe key `epoch`", "`epochs`"]);
    place.refused(&format!("{TUNE} --adapter nothing"), 1, &["unknown method `nothing`"]);
    place.refused(&format!("{TUNE} --optim.growth_rate 0.5"), 1, &["`growth_rate`", "at least 1"]);
}

#[test]
fn bad_data_is_named() {
    let place = Place::new();
    let with = |data: &str| format!("tune --model model --data {data} --out run");
    place.refused("tune --model model", 1, &["no data given", "--data"]);
    place.refused("tune --data rows.csv", 1, &["no model given", "--model"]);
    place.refused(&with("none.csv"), 1, &["none.csv"]);
    place.refused(&with("rows.csv --text txet"), 1, &["unknown column `txet`", "`text`"]);
    place.write("empty.csv", "");
    place.refused(&with("empty.csv"), 1, &["empty.csv", "is empty"]);
    place.write("header.csv", "text,label\n");
    place.refused(&with("header.csv"), 1, &["header.csv"]);
    place.write("ragged.csv", "text,label\ngood,1\nbad\n");
    place.refused(&with("ragged.csv"), 1, &["ragged.csv", "row 2"]);
    place.write("nan.csv", "text,label\ngood,0.5\nbad,NaN\n");
    place.refused(&with("nan.csv --task regression"), 1, &["nan.csv", "row 2", "`label`", "not finite"]);
    place.write("words.csv", "text,label\ngood,high\nbad,low\n");
    place.refused(&with("words.csv --task regression"), 1, &["row 1", "`label`", "not a number"]);
    place.write("broken.jsonl", "{\"text\": \"good\", \"label\": 1}\n{\"text\":");
    place.refused(&with("broken.jsonl"), 1, &["broken.jsonl", "line 2"]);
    place.refused(&with("rows.csv --train-rows 1000"), 1, &["`train_rows`", "1000"]);
}

#[test]
fn bad_models_are_named() {
    let place = Place::new();
    let file = place.path("model/model.safetensors");
    let whole = std::fs::read(&file).unwrap();
    let mut cases = vec![
        ("truncated", whole[..whole.len() / 2].to_vec()),
        ("no header", whole[..5].to_vec()),
        ("empty", vec![]),
        ("endless header", [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
        ("long header", [&(1u64 << 40).to_le_bytes()[..], &whole[8..]].concat()),
    ];
    for shape in ["[18446744073709551615, 2]", "[1099511627776]", "[4294967296, 4294967296]"] {
        let header = format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,4]}}}}"#);
        cases.push((shape, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat()));
    }
    for (name, bytes) in cases {
        std::fs::write(&file, bytes).unwrap();
        println!("{name}");
        place.refused(TUNE, 1, &["model.safetensors"]);
    }
    std::fs::write(&file, &whole).unwrap();
    place.write("model/tokenizer.json", "{}");
    place.refused(TUNE, 1, &["tokenizer.json"]);
    place.write("model/config.json", "{\"model_type\": \"brt\"}");
    place.refused(TUNE, 1, &["unknown model type `brt`", "`bert`"]);
    place.refused("predict --run nowhere --data rows.csv", 1, &["nowhere"]);
}

#[test]
fn outputs_that_cannot_be_written() {
    let place = Place::new();
    place.refused(
        "tune --model model --data rows.csv --out rows.csv/run --max-length 16",
        1,
        &["rows.csv/run", "name another folder"],
    );
    place.good(&format!("{TUNE} --quiet"));
    place.write("many.csv", rows(400));
    place.refused("predict --run run --data rows.csv --out rows.csv/a.csv", 1, &["`rows.csv` is no folder"]);
    place.refused("predict --run run --data rows.csv --out answers.xls", 1, &[".jsonl, .csv or .tsv"]);
    place.refused("predict --run run --data rows.csv --out model", 1, &["model"]);
    let before = place.files();
    if cfg!(target_os = "linux") {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = place.command().args(["methods", "list"]).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(error(&output).starts_with("error: "), "{}", error(&output));
    }
    if cfg!(unix) {
        // Four blocks of 512 or 1024 bytes: the answers do not fit.
        let line = format!("ulimit -f 4; exec {BINARY} predict --run run --data many.csv --out answers.jsonl");
        let output = Command::new("sh").args(["-c", &line]).current_dir(place.0.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", error(&output));
        assert!(error(&output).starts_with("error: answers.jsonl: "), "{}", error(&output));
        assert_eq!(place.files(), before);
    }
}

/// The limits, in blocks of 512 bytes, are too small for one file after the other.
#[cfg(unix)]
#[test]
fn a_full_disk_ends_with_one_message_and_the_same_command_goes_on() {
    let place = Place::new();
    let tune = "tune --model model --data rows.csv --out full --epochs 100 --gate.folds 0 --max-length 16 --quiet \
                --checkpoint-steps 1 --adapter.rank 1 --optim sgd --optim.lr 0.01";
    for (blocks, named) in [
        (0, "recipe.toml"),
        (2, "manifest.json"),
        (8, "checkpoints/final/latest.safetensors"),
        (40, "checkpoints/final/history.jsonl"),
    ] {
        let line = format!("ulimit -f {blocks}; exec {BINARY} {tune}");
        let output = Command::new("sh").args(["-c", &line]).current_dir(place.0.path()).output().unwrap();
        let text = error(&output);
        assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{blocks}: {text}");
        assert!(text.starts_with(&format!("error: full/{named}: ")), "{blocks}: {text}");
        assert!(text.ends_with("; raise the limit on file sizes (`ulimit -f`), then run the same command\n"), "{text}");
        let left = place.files();
        assert!(left.iter().all(|file| file.extension().is_none_or(|end| end != "tmp")), "{blocks}: {left:?}");
    }
    // With room the same command goes on, to the end of a run that never lacked it.
    for line in [tune, &tune.replace("--out full", "--out whole")] {
        place.good(line);
    }
    let read = |run: &str, file: &str| std::fs::read(place.path(run).join(file)).unwrap();
    for file in ["metrics.jsonl", "patch/adapter_model.safetensors", acclimate::events::FILE] {
        assert!(read("full", file) == read("whole", file), "{file}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let place = Place::new();
    let mut child = place
        .command()
        .args(["methods", "explain", "lora"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", error(&output));
    assert_eq!(error(&output), "");
}

#[test]
fn methods_as_json_tell_the_whole_card() {
    let place = Place::new();
    let all: serde_json::Value = serde_json::from_str(&place.good("methods list --json")).unwrap();
    let count: usize = acclimate::catalogue().iter().map(|family| family.cards.len()).sum();
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), count);
    for key in ["name", "title", "family", "catalogue", "paper", "year", "summary", "params", "needs", "promises"] {
        assert!(all.iter().all(|method| method.get(key).is_some()), "{key}");
    }
    for method in all {
        let text = place.good(&format!("methods explain {}", method["name"].as_str().unwrap()));
        assert!(text.contains("\nSettings\n") && text.contains("\nNeeds\n"), "{text}");
        let code = |line: &str| line.starts_with("      ");
        assert!(text.lines().filter(|line| !code(line)).all(|line| line.chars().count() <= 100), "{text}");
    }
    let assets: serde_json::Value = serde_json::from_str(&place.good("assets list --json")).unwrap();
    assert!(assets.as_array().unwrap().iter().any(|asset| asset["name"] == "asset:minilm"));
    assert!(place.good("assets list").contains("asset:minilm"));
}

/// A run that has written a checkpoint and is still at work.
#[cfg(unix)]
fn at_work(place: &Place) -> Child {
    let tune = LONG.split(' ');
    let child = place.command().args(tune).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let began = std::time::Instant::now();
    while !place.path("run/checkpoints/final/flushed.safetensors").exists() {
        assert!(began.elapsed().as_secs() < 60);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child
}

#[cfg(unix)]
const LONG: &str = "tune --model model --data rows.csv --out run --epochs 3000 --gate.folds 0 --max-length 16";

#[cfg(unix)]
#[test]
fn a_second_process_is_sent_away_and_the_first_goes_on() {
    let place = Place::new();
    let mut child = at_work(&place);
    let output = place.run(LONG);
    assert_eq!(output.status.code(), Some(1));
    let expected = "error: run: another process runs there; name another folder with `--out`\n";
    assert_eq!(error(&output), expected);
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
    // A lock ends with its process: the folder is free for the same command, and for no other.
    let other = place.run(&LONG.replace("3000", "2000"));
    assert!(error(&other).contains("an unfinished run of another recipe"), "{}", error(&other));
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_and_the_same_command_goes_on() {
    let place = Place::new();
    let child = at_work(&place);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", error(&output));
    let text = error(&output);
    assert!(text.contains("run the same command:\n  acclimate tune --model model"), "{text}");
    assert!(place.path("run/checkpoints/final/flushed.safetensors").is_file());
    assert!(!place.path("run/result.json").exists());
}
