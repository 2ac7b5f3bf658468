//! `acclimate stream` on a tiny network: sources, kills, memory, and everything that can be wrong with what it is given.

#![expect(clippy::unwrap_used, reason = "what these tests share is test code too")]

use acclimate_core::Rng;
use acclimate_models::tiny;
use burn::tensor::DType;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_acclimate");

/// Pixels of a frame of the tiny network.
const PIXELS: usize = 64;

/// A folder with a network in it.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        tiny::resnet(1, DType::F32).save(&place.path("net")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.read(name)).unwrap()
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(BINARY);
        command.current_dir(self.0.path()).env("ACCLIMATE_CACHE", self.path("cache")).stdin(Stdio::null());
        command.arg("stream").args(line.split_whitespace());
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// A command that is given lines on standard input.
    fn fed(&self, line: &str, text: &str) -> Output {
        let mut child =
            self.command(line).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Standard error of a command that must succeed.
    fn good(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {}", error(&output));
        error(&output)
    }

    /// A command that must end with one message.
    fn refused(&self, line: &str, parts: &[&str]) {
        let output = self.run(line);
        let text = error(&output);
        assert_eq!(output.status.code(), Some(1), "{line}: {text}");
        let messages: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(messages.len(), 1, "{line}: {text}");
        assert!(parts.iter().all(|part| messages[0].contains(part)), "{line}: {text}");
    }

    /// Frames of drawn bytes as an `.npz`, with classes where they are given.
    fn npz(&self, name: &str, pixels: &[u8], classes: Option<&[i64]>) {
        let frames = pixels.len() / PIXELS;
        let mut arrays = vec![("x.npy", npy("|u1", &format!("({frames}, 1, 8, 8)"), pixels))];
        if let Some(classes) = classes {
            let bytes: Vec<u8> = classes.iter().flat_map(|class| class.to_le_bytes()).collect();
            arrays.push(("y.npy", npy("<i8", &format!("({frames},)"), &bytes)));
        }
        zipped(&self.path(name), &arrays);
    }
}

fn zipped(file: &std::path::Path, arrays: &[(&str, Vec<u8>)]) {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(file).unwrap());
    for (name, bytes) in arrays {
        let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file(*name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

/// An array as NumPy writes it.
fn npy(kind: &str, shape: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}");
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let length = u16::try_from(header.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), bytes].concat()
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn drawn(frames: usize) -> Vec<u8> {
    let mut rng = Rng::new(0, "frames", 0);
    (0..frames * PIXELS).map(|_| rng.below(256) as u8).collect()
}

/// Each frame as a JSON line.
fn lines(pixels: &[u8]) -> Vec<String> {
    let mut all = vec![];
    for frame in pixels.chunks(PIXELS) {
        let numbers: Vec<f32> = frame.iter().map(|&byte| f32::from(byte) / 255.0).collect();
        all.push(serde_json::json!({ "x": numbers }).to_string() + "\n");
    }
    all
}

/// Class and probability of every answer.
fn answers(text: &str) -> Vec<String> {
    text.lines().skip(1).map(|line| line.split_once(',').unwrap().1.to_owned()).collect()
}

const TENT: &str = "--model net --method tent --lr 1e-2 --batch 8 --no-gate";

#[test]
fn classes_score_the_answers_and_do_not_change_them() {
    let place = Place::new();
    let (pixels, classes) = (drawn(44), (0..44).map(|row| row % 3).collect::<Vec<i64>>());
    place.npz("blind.npz", &pixels, None);
    place.npz("known.npz", &pixels, Some(&classes));
    let told = place.good(&format!("known.npz {TENT} --out known"));
    assert!(
        told.contains("tent: 12 tensors with 144 numbers move; 6 batch norms take statistics of each batch"),
        "{told}"
    );
    assert!(told.contains("every one of them has a finite gradient that is not zero"), "{told}");
    place.good(&format!("blind.npz {TENT} --out blind"));
    let said = place.read("known/answers.csv");
    assert_eq!(said, place.read("blind/answers.csv"));
    let rows = said.lines().skip(1).zip(&classes);
    let wrong = rows.filter(|(line, class)| line.split(',').nth(1).unwrap() != class.to_string()).count();
    let result = place.json("known/result.json");
    assert_eq!((&result["book"]["wrong"], &result["book"]["labelled"]), (&wrong.into(), &44.into()));
    assert_eq!(place.json("blind/result.json")["error"], Value::Null);
    assert_eq!(result["counts"]["backwards"], 6);
    assert!(place.read("known/report.html").contains("Error over time"));
    assert!(!place.read("blind/report.html").contains("Error over time"));
    place.refused(&format!("known.npz {TENT} --out known"), &["holds a finished stream", "--out"]);
}

#[test]
fn every_source_gives_the_same_answers() {
    let place = Place::new();
    let pixels = drawn(20);
    place.npz("frames.npz", &pixels, None);
    let (mut table, mut paths) = ("image\n".to_owned(), String::new());
    for (at, frame) in pixels.chunks(PIXELS).enumerate() {
        // The folders' order is that of the frames.
        let name = format!("frames/{}/{at:02}.png", at / 7);
        std::fs::create_dir_all(place.path(&name).parent().unwrap()).unwrap();
        image::GrayImage::from_raw(8, 8, frame.to_vec()).unwrap().save(place.path(&name)).unwrap();
        writeln!(table, "{name}").unwrap();
        writeln!(paths, "{name}").unwrap();
    }
    std::fs::write(place.path("table.csv"), table).unwrap();
    for (data, out) in [("frames.npz", "a"), ("frames", "b"), ("table.csv", "c")] {
        place.good(&format!("{data} {TENT} --out {out}"));
    }
    let want = answers(&place.read("a/answers.csv"));
    assert_eq!(want.len(), 20);
    assert_eq!(answers(&place.read("b/answers.csv")), want);
    assert_eq!(answers(&place.read("c/answers.csv")), want);
    assert!(place.read("b/answers.csv").contains("\n0/00.png,"));
    for text in [paths, lines(&pixels).concat()] {
        let output = place.fed(&format!("- {TENT}"), &text);
        assert_eq!(answers(&String::from_utf8(output.stdout.clone()).unwrap()), want, "{}", error(&output));
    }
    let output = place.fed(&format!("- {TENT} --json"), &lines(&pixels).concat());
    let first: Value = serde_json::from_slice(output.stdout.split(|&byte| byte == b'\n').next().unwrap()).unwrap();
    assert_eq!(first["frame"], "1");
}

#[test]
fn a_killed_stream_ends_as_an_undisturbed_one() {
    let place = Place::new();
    let pixels = drawn(60);
    let text = lines(&pixels);
    let line = |out: &str| {
        format!("- --model net --method tent --lr 1e-2 --batch 4 --checkpoint 2 --reset every:6 --out {out}")
    };
    let output = place.fed(&line("whole"), &text.concat());
    assert!(output.status.success(), "{}", error(&output));
    for given in [6, 22, 47] {
        let out = format!("killed-{given}");
        let mut child = place.command(&line(&out)).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(text[..given].concat().as_bytes()).unwrap();
        input.flush().unwrap();
        // All whole batches are answered before it is killed.
        let file = place.path(&out).join("answers.csv");
        let began = std::time::Instant::now();
        while std::fs::read_to_string(&file).map_or(0, |text| text.lines().count()) < 1 + given / 4 * 4 {
            assert!(began.elapsed().as_secs() < 60);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        drop(input);
        let output = place.fed(&line(&out), &text.concat());
        assert!(output.status.success(), "{}", error(&output));
        assert_eq!(error(&output).contains("goes on after batch"), given >= 8, "{}", error(&output));
        assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(place.path("whole/answers.csv")).unwrap(), "{given}");
        let [killed, whole] = [&out, "whole"].map(|run| place.json(&format!("{run}/result.json")));
        for key in ["frames", "batches", "predicted", "resets", "sha256", "entropy", "audit"] {
            assert_eq!(killed["book"][key], whole["book"][key], "{key}");
        }
        assert_eq!(killed["counts"], whole["counts"]);
    }
}

#[test]
fn a_live_stream_goes_on_with_what_comes_next() {
    let place = Place::new();
    let text = lines(&drawn(24));
    let line = "- --model net --method tent --lr 1e-2 --batch 4 --live --out out";
    place.fed(&line.replace("--out out", "--out whole"), &text.concat());
    for part in [&text[..8], &text[8..]] {
        let output = place.fed(line, &part.concat());
        assert!(output.status.success(), "{}", error(&output));
    }
    assert_eq!(answers(&place.read("out/answers.csv")), answers(&place.read("whole/answers.csv")));
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_what_was_answered() {
    let place = Place::new();
    let text = lines(&drawn(20));
    let line = "- --model net --method tent --lr 1e-2 --batch 4 --out out";
    let mut child = place.command(line).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(text[..10].concat().as_bytes()).unwrap();
    input.flush().unwrap();
    let file = place.path("out/answers.csv");
    let began = std::time::Instant::now();
    while std::fs::read_to_string(&file).map_or(0, |text| text.lines().count()) < 9 {
        assert!(began.elapsed().as_secs() < 60);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", error(&output));
    assert!(error(&output).contains("run the same command:\n  acclimate stream - --model net"), "{}", error(&output));
    drop(input);
    let output = place.fed(line, &text.concat());
    assert!(error(&output).contains("goes on after batch 2, 8 frames"), "{}", error(&output));
    assert_eq!(place.read("out/answers.csv").lines().count(), 21);
}

#[test]
fn a_damaged_state_is_told_and_the_stream_begins_anew() {
    let place = Place::new();
    place.npz("frames.npz", &drawn(20), None);
    place.good(&format!("frames.npz {TENT} --out whole"));
    place.good(&format!("frames.npz {TENT} --out out"));
    std::fs::remove_file(place.path("out/result.json")).unwrap();
    let state = std::fs::read(place.path("out/state.safetensors")).unwrap();
    std::fs::write(place.path("out/state.safetensors"), &state[..state.len() - 9]).unwrap();
    let told = place.good(&format!("frames.npz {TENT} --out out"));
    assert!(told.contains("the saved state is damaged; the stream begins anew"), "{told}");
    assert_eq!(place.read("out/answers.csv"), place.read("whole/answers.csv"));
}

#[test]
fn memory_does_not_grow_with_the_stream() {
    let place = Place::new();
    let mut peaks = vec![];
    // Takes seconds: with fewer frames, which as f32 are 24 MiB here, a leak would not stand out from what an allocator keeps.
    for frames in [4_000, 100_000] {
        place.npz("frames.npz", &drawn(frames), None);
        let out = format!("out{frames}");
        place.good(&format!(
            "frames.npz --model net --method batch_statistics --batch 200 --no-gate --no-watch --out {out}"
        ));
        peaks.push(place.json(&format!("{out}/result.json"))["peak_memory_mib"].as_f64());
    }
    if let [Some(short), Some(long)] = peaks[..] {
        assert!(long < short + 8.0, "{short} MiB for 4,000 frames, {long} MiB for 100,000");
    }
}

#[test]
fn bad_frames_are_named_or_left_out() {
    let place = Place::new();
    std::fs::create_dir(place.path("frames")).unwrap();
    for (at, frame) in drawn(9).chunks(PIXELS).enumerate() {
        let file = place.path(&format!("frames/{at}.png"));
        image::GrayImage::from_raw(8, 8, frame.to_vec()).unwrap().save(file).unwrap();
    }
    // One amid the others, and one behind the last batch.
    for name in ["frames/3.png", "frames/9.png"] {
        std::fs::write(place.path(name), "no picture").unwrap();
    }
    place.refused(
        &format!("frames {TENT} --out out"),
        &["frames/3.png: is not a whole png or jpeg", "replace or drop it"],
    );
    let told = place.good(&format!("frames {TENT} --out out --skip-bad"));
    assert!(told.contains("left out: ") && told.contains("frames/3.png"), "{told}");
    let book = &place.json("out/result.json")["book"];
    assert_eq!((&book["frames"], &book["skipped"], &book["read"]), (&8.into(), &2.into(), &10.into()));
    let output = place.fed(&format!("- {TENT}"), "{\"x\": [1, 2]}\n");
    assert!(error(&output).contains("frame `1` holds 2 numbers, the model takes 1 x 8 x 8"), "{}", error(&output));
}

#[test]
fn saved_outputs_refuse_methods_that_want_a_model() {
    let place = Place::new();
    let numbers = |count: usize| (0..count).flat_map(|x| (x as f32).to_le_bytes()).collect::<Vec<u8>>();
    zipped(&place.path("logits.npz"), &[("logits.npy", npy("<f4", "(6, 3)", &numbers(18)))]);
    zipped(&place.path("features.npz"), &[("features.npy", npy("<f4", "(6, 2)", &numbers(12)))]);
    zipped(&place.path("five.npz"), &[("features.npy", npy("<f4", "(5, 2)", &numbers(10)))]);
    let saved = "--logits logits.npz --features features.npz";
    place.refused(&format!("{saved} --method tent"), &["tent cannot adapt a patch without trained tensors"]);
    place.refused(&format!("{saved} --method batch_statistics"), &["cannot adapt a model without batch norms"]);
    place.refused("--logits logits.npz --features five.npz --method tent", &["features of 5 rows for logits of 6"]);
}

#[test]
fn saved_outputs_of_sorted_rows_are_mended_by_their_neighbours() {
    let place = Place::new();
    let mut rng = Rng::new(0, "outputs", 0);
    let (mut logits, mut features, mut classes) = (vec![], vec![], vec![]);
    for row in 0..120 {
        let class = row / 40;
        let at = |k: usize| if k == class { 1.0 } else { 0.0 };
        logits.extend((0..3).map(|k| (1.5 * at(k) + rng.normal()) as f32));
        features.extend((0..3).map(|k| (at(k) + 0.1 * rng.normal()) as f32));
        classes.push(class as i64);
    }
    let bytes = |numbers: &[f32]| numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let truth: Vec<u8> = classes.iter().flat_map(|class| class.to_le_bytes()).collect();
    let arrays = [("logits.npy", npy("<f4", "(120, 3)", &bytes(&logits))), ("y.npy", npy("<i8", "(120,)", &truth))];
    zipped(&place.path("logits.npz"), &arrays);
    zipped(&place.path("features.npz"), &[("features.npy", npy("<f4", "(120, 3)", &bytes(&features)))]);
    let argmax = |row: &[f32]| (0..3).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as i64;
    let before = logits.chunks(3).zip(&classes).filter(|(row, class)| argmax(row) != **class).count();
    place.good("--logits logits.npz --features features.npz --method lame --batch 20 --no-gate --out lame");
    let result = place.json("lame/result.json");
    let wrong = result["book"]["wrong"].as_u64().unwrap() as usize;
    // A batch of one class with one cluster of features: its rows agree on the class most of them are taken for.
    assert!(before > 15 && wrong * 10 <= before, "{wrong} of {before}");
    assert_eq!((&result["book"]["labelled"], &result["counts"]["backwards"]), (&120.into(), &0.into()));
    let said = place.read("lame/answers.csv");
    let rows = said.lines().skip(1).zip(&classes);
    assert_eq!(rows.filter(|(line, class)| line.split(',').nth(1).unwrap() != class.to_string()).count(), wrong);
}

#[test]
fn what_does_not_fit_is_refused() {
    let place = Place::new();
    place.npz("frames.npz", &drawn(8), None);
    for (line, parts) in [
        ("frames.npz --model net --method tnet", &["unknown method `tnet`", "`tent`"][..]),
        ("frames.npz --model net --method dynamic_evaluation", &["acclimate eval --adapt"]),
        ("frames.npz --model net --method batch_statistics --lr 1", &["leave out `--optim`, `--lr`"]),
        ("frames.npz --model net --method tent --batch 0", &["--batch"]),
        ("frames.npz --model net --method tent --reset every:0", &["choose `episodic`"]),
        ("frames.npz --model net --method tent --answers answers.xls", &["use .csv or .jsonl"]),
        ("nothing.npz --model net --method tent", &["no file or folder `nothing.npz`"]),
        ("frames.npz --model net --method tent --out net", &["net: holds something else than a stream", "--out"]),
        ("frames.npz --model net --method tent --settings steps", &["--settings"]),
    ] {
        place.refused(line, parts);
    }
    zipped(&place.path("wide.npz"), &[("x.npy", npy("|u1", "(2, 1, 8, 4)", &[0; 64]))]);
    place.refused("wide.npz --model net --method tent", &["[rows, 1, 8, 8]", "[0, 1, 8, 4]"]);
}
