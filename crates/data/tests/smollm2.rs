//! SmolLM2's own vocabulary against the numbers of `reference/data/smollm2_tokens.py`.
#![allow(clippy::unwrap_used)] // a golden without its numbers is a failure

use acclimate_core::Gguf;
use acclimate_data::{Asset, Assets, ChatTemplate, Message, Presence, Tokenizer};

#[test]
fn tokens_are_those_of_transformers() {
    let assets = Assets::open(true).unwrap();
    let cached = |(asset, presence, _): &(&Asset, Presence, u64)| {
        asset.name == "smollm2" && matches!(presence, Presence::Present)
    };
    if !assets.list().iter().any(cached) {
        println!("skipped: asset:smollm2 is not in the cache; `acclimate assets get smollm2` brings it");
        return;
    }
    let gguf = Gguf::read(&assets.folder("smollm2").unwrap().join("model.gguf")).unwrap();
    let tokenizer = Tokenizer::from_gguf(&gguf, 2048).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.ends(), tokenizer.pad_id()), (49152, &[2][..], 2));
    let template = ChatTemplate::from_gguf(&gguf).unwrap().unwrap();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/data/smollm2_tokens.json");
    let golden: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 38);
    for case in cases {
        let ids: Vec<u32> = serde_json::from_value(case["expected"]["ids"].clone()).unwrap();
        let (name, expected) = (&case["name"], case["expected"]["text"].as_str().unwrap());
        let Some(text) = case["inputs"]["text"].as_str() else {
            let messages: Vec<Message> = serde_json::from_value(case["inputs"]["messages"].clone()).unwrap();
            assert_eq!(template.render(&messages, true).unwrap(), expected, "{name}");
            assert_eq!(tokenizer.prompt(Some(&template), &messages).unwrap(), ids, "{name}");
            continue;
        };
        assert_eq!(tokenizer.plain(text).unwrap(), ids, "{name}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), expected, "{name}");
        let mut stream = tokenizer.stream();
        let streamed: String = ids.iter().filter_map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(streamed, expected, "{name}");
    }
}
