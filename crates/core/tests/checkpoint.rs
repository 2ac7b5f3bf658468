//! Checkpoints by pieces, against the whole file by the format's own library.
#![expect(clippy::unwrap_used, reason = "what these tests share is test code too")]

use acclimate_core::{
    AnyTensor, Checkpoint, Params, Stored, TensorWriter, encode, read_safetensors, write_safetensors,
};
use burn::tensor::{DType, Device};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::Path;

fn bytes(numbers: &[f64], stored: Stored) -> Vec<u8> {
    let mut out = vec![];
    encode(numbers, stored, &mut out).unwrap();
    out
}

/// A file with a tensor of each type: floats, and integers that only the file knows.
fn mixed(file: &Path) -> Vec<(&'static str, Stored, Vec<usize>, Vec<u8>)> {
    let numbers = [1.0, -2.5, 0.25, 3.0, -0.125, 8.0];
    let all = vec![
        ("wide", Stored::F64, vec![2, 3], bytes(&numbers, Stored::F64)),
        ("count", Stored::I64, vec![], 7i64.to_le_bytes().to_vec()),
        ("single", Stored::F32, vec![6], bytes(&numbers, Stored::F32)),
        ("brain", Stored::BF16, vec![3, 2], bytes(&numbers, Stored::BF16)),
        ("half", Stored::F16, vec![1, 2, 3], bytes(&numbers, Stored::F16)),
        ("empty", Stored::F16, vec![0, 4], vec![]),
        ("flags", Stored::U8, vec![3], vec![1, 0, 1]),
    ];
    let infos = all.iter().map(|(name, stored, shape, _)| ((*name).to_owned(), *stored, shape.clone()));
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut writer = TensorWriter::create(file, infos, &metadata).unwrap();
    // In pieces that do not care where a tensor ends.
    let data: Vec<u8> = all.iter().flat_map(|(.., raw)| raw.clone()).collect();
    data.chunks(5).for_each(|piece| writer.write(piece).unwrap());
    writer.finish().unwrap();
    all
}

#[test]
fn the_library_reads_what_is_written_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let all = mixed(&file);
    let read = std::fs::read(&file).unwrap();
    let tensors = SafeTensors::deserialize(&read).unwrap();
    assert_eq!(tensors.len(), all.len());
    for (name, stored, shape, raw) in &all {
        let view = tensors.tensor(name).unwrap();
        assert_eq!((view.dtype(), view.shape(), view.data()), (*stored, &shape[..], &raw[..]), "{name}");
    }
    let (_, header) = SafeTensors::read_metadata(&read).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn tensors_are_read_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let all = mixed(&file);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let names: Vec<&str> = checkpoint.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, all.iter().map(|(name, ..)| *name).collect::<Vec<_>>(), "in the order of the file");
    for (name, _, _, raw) in &all {
        let tensor = checkpoint.tensor(name).unwrap();
        let mut read = vec![];
        checkpoint
            .pieces(tensor, &mut |piece| {
                read.extend_from_slice(piece);
                Ok(())
            })
            .unwrap();
        assert_eq!(&read, raw, "{name}");
        match tensor.is_float() {
            false => assert!(checkpoint.read(tensor, &Device::flex()).is_err(), "{name}"),
            true if raw.is_empty() => {}
            true => {
                let read = checkpoint.read(tensor, &Device::flex()).unwrap();
                assert_eq!(
                    (read.shape(), read.to_f64s()),
                    (tensor.shape.clone(), vec![1.0, -2.5, 0.25, 3.0, -0.125, 8.0])
                );
                assert_eq!(read.dtype(), if *name == "wide" { DType::F64 } else { DType::F32 });
            }
        }
    }
}

#[test]
fn the_fingerprint_is_that_of_the_tensors_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    mixed(&file);
    let in_memory = read_safetensors(&file, &Device::flex()).unwrap().0;
    assert_eq!(Checkpoint::file(&file).unwrap().fingerprint().unwrap(), in_memory.fingerprint());
    let other = |name: &str| format!("x.{name}");
    let mut renamed = Params::default();
    in_memory.iter().for_each(|(name, tensor)| renamed.insert(other(name), tensor.clone()));
    let checkpoint = Checkpoint::file(&file).unwrap().renamed(other).unwrap();
    assert_eq!(checkpoint.fingerprint().unwrap(), renamed.fingerprint());
    assert!(Checkpoint::file(&file).unwrap().renamed(|_| "one".to_owned()).is_err());
}

#[test]
fn tensors_in_memory_are_written_as_the_library_writes_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut params = Params::default();
    params.insert("b", AnyTensor::from_f64s(vec![1.0, 2.0], &[2], DType::F32, &Device::flex()));
    params.insert("a", AnyTensor::from_f64s(vec![3.0], &[1, 1], DType::F32, &Device::flex()));
    params.insert("c", AnyTensor::from_f64s(vec![4.0], &[1], DType::F64, &Device::flex()));
    let file = folder.path().join("x.safetensors");
    write_safetensors(&file, &params, BTreeMap::new()).unwrap();
    let views = params.iter().map(|(name, tensor)| {
        let stored = if tensor.dtype() == DType::F64 { Stored::F64 } else { Stored::F32 };
        (name.to_owned(), stored, tensor.shape(), bytes(&tensor.to_f64s(), stored))
    });
    let views: Vec<_> = views.collect();
    let views = views.iter().map(|(name, stored, shape, raw)| {
        (name, safetensors::tensor::TensorView::new(*stored, shape.clone(), raw).unwrap())
    });
    assert_eq!(std::fs::read(&file).unwrap(), safetensors::serialize(views, None).unwrap());
}

#[test]
fn an_unfinished_file_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let create = || TensorWriter::create(&file, [("a".to_owned(), Stored::F32, vec![2])], &BTreeMap::new()).unwrap();
    let mut writer = create();
    writer.write(&[0; 4]).unwrap();
    drop(writer);
    create().finish().unwrap_err();
    create().write(&[0; 9]).unwrap_err();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_damaged_file_is_an_error_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    mixed(&file);
    let whole = std::fs::read(&file).unwrap();
    for end in (0..whole.len()).step_by(3) {
        std::fs::write(&file, &whole[..end]).unwrap();
        let error = Checkpoint::file(&file).unwrap_err().to_string();
        assert!(error.ends_with("; fetch the file again"), "{end}: {error}");
    }
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for place in (0..8 + header).step_by(2) {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x11;
        std::fs::write(&file, &bytes).unwrap();
        if let Ok(checkpoint) = Checkpoint::file(&file) {
            let _ = checkpoint.params(&Device::flex());
        }
    }
}

#[test]
fn shards_are_one_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let one = |file: &str, names: [&str; 2]| {
        let infos = names.map(|name| (name.to_owned(), Stored::F32, vec![1]));
        let mut writer = TensorWriter::create(&folder.path().join(file), infos, &BTreeMap::new()).unwrap();
        names.iter().for_each(|name| writer.write(&f32::from(name.as_bytes()[0]).to_le_bytes()).unwrap());
        writer.finish().unwrap();
    };
    let index = |text: &str| std::fs::write(folder.path().join("model.safetensors.index.json"), text).unwrap();
    let open = || Checkpoint::open(folder.path());
    one("b.safetensors", ["q", "p"]);
    one("a.safetensors", ["z", "y"]);
    index(
        r#"{"weight_map": {"q": "b.safetensors", "p": "b.safetensors", "z": "a.safetensors", "y": "a.safetensors"}}"#,
    );
    let checkpoint = open().unwrap();
    assert_eq!(checkpoint.tensors().iter().map(|tensor| &tensor.name[..]).collect::<String>(), "zyqp");
    let params = checkpoint.params(&Device::flex()).unwrap();
    assert_eq!(params.iter().map(|(_, tensor)| tensor.to_f64s()[0]).collect::<Vec<_>>(), [121.0, 122.0, 112.0, 113.0]);
    one("b.safetensors", ["q", "z"]);
    assert!(open().unwrap_err().to_string().contains("tensor `z` is there twice"));
    index(r#"{"weight_map": {"q": "../b.safetensors"}}"#);
    assert!(open().unwrap_err().to_string().contains("`../b.safetensors` is no file of this folder"));
}

/// A file's name, why it is refused if it is, and its bytes.
type TorchFile = (String, Option<String>, Vec<u8>);

/// The files that torch wrote: `reference/core/torch_files.py`.
fn torch_files() -> (Vec<TorchFile>, Params) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/core");
    let text = std::fs::read_to_string(golden.join("torch_files.json")).unwrap();
    let golden_json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cases = golden_json["cases"].as_array().unwrap().iter().map(|case| {
        let hex = case["inputs"]["bytes"].as_str().unwrap().as_bytes();
        let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let refused = case["config"]["refused"].as_str().map(str::to_owned);
        (case["name"].as_str().unwrap().to_owned(), refused, hex.as_chunks().0.iter().map(byte).collect())
    });
    let tensors = read_safetensors(&golden.join("torch_files.safetensors"), &Device::flex()).unwrap().0;
    (cases.collect(), tensors)
}

#[test]
fn files_of_torch_hold_the_tensors_that_torch_put_there() {
    let folder = tempfile::tempdir().unwrap();
    let (cases, expected) = torch_files();
    for (name, _, bytes) in cases.iter().filter(|(_, refused, _)| refused.is_none()) {
        std::fs::write(folder.path().join(Checkpoint::TORCH), bytes).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert!(checkpoint.tensor("a.count").is_some_and(|count| !count.is_float()), "{name}");
        let params = checkpoint.params(&Device::flex()).unwrap();
        let numbers = |params: &Params, prefix: &str| -> Vec<_> {
            params.iter().map(|(name, t)| (format!("{prefix}{name}"), t.shape(), t.dtype(), t.to_f64s())).collect()
        };
        assert_eq!(numbers(&params, "state/"), numbers(&expected, ""), "{name}");
        assert_eq!(checkpoint.fingerprint().unwrap(), params.fingerprint(), "{name}");
    }
}

#[test]
fn what_is_no_state_dict_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(Checkpoint::TORCH);
    for (name, refused, bytes) in torch_files().0 {
        let Some(refused) = refused else { continue };
        std::fs::write(&file, bytes).unwrap();
        let text = Checkpoint::open(folder.path()).unwrap_err().to_string();
        assert!(text.contains(&refused) && text.contains("safetensors"), "{name}: {text}");
    }
}

#[test]
fn a_torch_file_cut_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(Checkpoint::TORCH);
    for (name, _, bytes) in torch_files().0.iter().filter(|(name, ..)| name.starts_with("plain")) {
        for length in (0..bytes.len()).step_by(7) {
            std::fs::write(&file, &bytes[..length]).unwrap();
            assert!(Checkpoint::open(folder.path()).is_err(), "{name} cut to {length} bytes");
        }
    }
}

#[test]
fn a_changed_byte_of_a_torch_file_ends_in_an_error_or_in_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(Checkpoint::TORCH);
    for (_, _, bytes) in torch_files().0.iter().filter(|(name, ..)| name.starts_with("plain")) {
        let (mut refused, mut read) = (0, 0);
        // Every place would take seconds.
        for at in (0..bytes.len()).step_by(31) {
            let mut changed = bytes.clone();
            changed[at] = changed[at].wrapping_add(37);
            std::fs::write(&file, &changed).unwrap();
            match Checkpoint::open(folder.path()) {
                Ok(_) => read += 1,
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 0 && read > 0);
    }
}

#[test]
fn safetensors_come_before_a_file_of_torch() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(Checkpoint::TORCH), b"nothing").unwrap();
    mixed(&folder.path().join(Checkpoint::WHOLE));
    assert!(Checkpoint::open(folder.path()).unwrap().tensor("wide").is_some());
}
