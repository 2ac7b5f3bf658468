//! The byte-level BPE vocabulary of a GGUF file as a tokeniser.

use std::collections::BTreeMap;

use acclimate_core::{Error, Gguf, Result};
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::{SpecialToken, TemplateProcessing};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

/// ggml's number of tokens that steer and are not text.
const CONTROL: u64 = 3;
/// ggml's number of tokens that were added to the vocabulary by hand.
const USER_DEFINED: u64 = 4;

/// Where Qwen 2 cuts words: digits stand alone.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Where Llama 3 cuts words: digits in threes.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The tokeniser, and the ids that end a text.
pub(crate) fn read(gguf: &Gguf) -> Result<(tokenizers::Tokenizer, Vec<u32>)> {
    let file = gguf.file();
    let damaged = |what: String| Error::format(file, format!("{what}; convert or fetch the file again"));
    let elsewhere = |what: String| Error::Unsupported {
        who: file.display().to_string(),
        what,
        instead: "put the model's tokenizer.json beside the file".into(),
    };
    let model = gguf.str("tokenizer.ggml.model").ok_or_else(|| elsewhere("name its tokeniser".into()))?;
    if model != "gpt2" {
        return Err(elsewhere(format!("be read with a tokeniser of the kind `{model}`")));
    }
    let pre = gguf.str("tokenizer.ggml.pre").unwrap_or("default");
    let tokens = gguf.strings("tokenizer.ggml.tokens").ok_or_else(|| damaged("has no tokens".into()))?;
    let merges = gguf.strings("tokenizer.ggml.merges").ok_or_else(|| damaged("has no merges".into()))?;
    let id = |key: &str| match gguf.u64(&format!("tokenizer.ggml.{key}")) {
        Some(id) if id >= tokens.len() as u64 => Err(damaged(format!("`{key}` is {id} of {} tokens", tokens.len()))),
        id => Ok(id.map(|id| id as u32)),
    };

    let mut vocab = BTreeMap::new();
    for (id, token) in tokens.iter().enumerate() {
        let id = u32::try_from(id).map_err(|_| damaged("has too many tokens".into()))?;
        if vocab.insert(token.clone(), id).is_some() {
            return Err(damaged(format!("token `{token}` is there twice")));
        }
    }
    // The library trusts that a merge makes a token, and panics where it does not.
    let merge = |merge: &String| {
        let (left, right) = merge.split_once(' ')?;
        let known = [left, right, &format!("{left}{right}")].iter().all(|&token| vocab.contains_key(token));
        known.then(|| (left.to_owned(), right.to_owned()))
    };
    let merges = merges
        .iter()
        .map(|text| merge(text).ok_or_else(|| damaged(format!("merge `{text}` is not of known tokens"))))
        .collect::<Result<Vec<_>>>()?;
    let bpe = BPE::builder()
        .vocab_and_merges(vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .ignore_merges(pre == "llama-bpe")
        .build()
        .map_err(|e| damaged(e.to_string()))?;
    let mut inner = tokenizers::Tokenizer::new(bpe);

    let cut = |pattern: &str| {
        let split = Split::new(SplitPattern::Regex(pattern.into()), SplitDelimiterBehavior::Isolated, false);
        let split = split.map_err(|e| Error::Other(format!("the pattern of `{pre}` is refused: {e}")))?;
        Ok::<_, Error>(vec![split.into(), ByteLevel::new(false, false, false).into()])
    };
    let parts: Vec<PreTokenizerWrapper> = match pre {
        "gpt-2" | "gpt2" | "default" => vec![ByteLevel::new(false, false, true).into()],
        "smollm" => vec![Digits::new(true).into(), ByteLevel::new(false, false, true).into()],
        "qwen2" => cut(QWEN2)?,
        "llama-bpe" => cut(LLAMA3)?,
        _ => return Err(elsewhere(format!("be read with words cut as in `{pre}`"))),
    };
    inner.with_pre_tokenizer(Some(Sequence::new(parts))).with_decoder(Some(ByteLevel::default()));
    if pre == "qwen2" {
        inner.with_normalizer(Some(NFC)).map_err(|e| damaged(e.to_string()))?;
    }

    let kinds = gguf.u64s("tokenizer.ggml.token_type").unwrap_or_default();
    let of = |kind| tokens.iter().zip(&kinds).filter(move |(_, other)| **other == kind).map(|(token, _)| token);
    let added = |token: &String| AddedToken::from(token.clone(), false).normalized(false);
    inner
        .add_special_tokens(of(CONTROL).map(|token| AddedToken::from(token.clone(), true)))
        .map_err(|e| damaged(e.to_string()))?;
    inner.add_tokens(of(USER_DEFINED).map(added)).map_err(|e| damaged(e.to_string()))?;

    let bos = id("bos_token_id")?;
    if gguf.bool("tokenizer.ggml.add_bos_token").unwrap_or(pre == "llama-bpe") {
        let bos = bos.ok_or_else(|| damaged("says that texts begin with a token and not with which".into()))?;
        let special = SpecialToken::new("bos".into(), vec![bos], vec![tokens[bos as usize].clone()]);
        let template = special.and_then(|special| {
            let mut template = TemplateProcessing::builder();
            template.try_single("bos $A")?.try_pair("bos $A bos $B:1")?.special_tokens(vec![special]);
            Ok(template.build()?)
        });
        inner.with_post_processor(Some(template.map_err(|e| damaged(e.to_string()))?));
    }
    if let Some(pad) = id("padding_token_id")? {
        let padding = tokenizers::PaddingParams { pad_id: pad, ..tokenizers::PaddingParams::default() };
        inner.with_padding(Some(padding));
    }
    let mut ends: Vec<u32> = [id("eos_token_id")?, id("eot_token_id")?].into_iter().flatten().collect();
    ends.dedup();
    Ok((inner, ends))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use super::*;
    use crate::Tokenizer;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    fn list(kind: u32, items: &[Vec<u8>]) -> Vec<u8> {
        [&kind.to_le_bytes()[..], &(items.len() as u64).to_le_bytes(), &items.concat()].concat()
    }

    /// A GGUF file without tensors; of a value its type and bytes are given.
    fn gguf(values: &[(&str, u32, Vec<u8>)]) -> Gguf {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.extend((values.len() as u64).to_le_bytes());
        for (key, kind, value) in values {
            bytes.extend(text(&format!("tokenizer.{key}")));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        Gguf::read(file.path()).unwrap()
    }

    /// Tokens 0 to 3 are control and user-defined ones, 4 to 14 single bytes (13 and 14 the two of `é`), 15 `ab`,
    /// 16 ` ab`, 17 to 19 the three of `€`.
    const TOKENS: [&str; 20] = [
        "<s>", "<|end|>", "<|user|>", "<b>", "a", "b", "c", "1", "2", "Ġ", "Ċ", ".", "?", "Ã", "©", "ab", "Ġab", "â",
        "Ĥ", "¬",
    ];

    pub(crate) fn sample(pre: &str, more: &[(&str, u32, Vec<u8>)]) -> Gguf {
        let tokens: Vec<_> = TOKENS.iter().map(|token| text(token)).collect();
        let kinds: Vec<_> = (0..20).map(|id: i32| [3, 3, 3, 4].get(id as usize).copied().unwrap_or(1i32)).collect();
        let kinds: Vec<_> = kinds.iter().map(|kind| kind.to_le_bytes().to_vec()).collect();
        let mut values = vec![
            ("ggml.model", 8, text("gpt2")),
            ("ggml.pre", 8, text(pre)),
            ("ggml.tokens", 9, list(8, &tokens)),
            ("ggml.merges", 9, list(8, &[text("a b"), text("Ġ ab")])),
            ("ggml.token_type", 9, list(5, &kinds)),
            ("ggml.bos_token_id", 4, 0u32.to_le_bytes().to_vec()),
            ("ggml.eos_token_id", 4, 1u32.to_le_bytes().to_vec()),
        ];
        values.retain(|(key, ..)| !more.iter().any(|(other, ..)| other == key));
        values.extend_from_slice(more);
        gguf(&values)
    }

    pub(crate) fn chat(template: &str) -> (&'static str, u32, Vec<u8>) {
        ("chat_template", 8, text(template))
    }

    #[test]
    fn bytes_merges_and_special_tokens() {
        let tokenizer = Tokenizer::from_gguf(&sample("smollm", &[]), 4).unwrap();
        assert_eq!(tokenizer.ends(), [1]);
        assert_eq!(tokenizer.plain("ab ab12").unwrap(), [15, 16, 7, 8]);
        assert_eq!(tokenizer.plain("<|user|>a<b>é<|end|>").unwrap(), [2, 4, 3, 13, 14, 1]);
        assert_eq!(tokenizer.texts(&["abc abc"]).unwrap().rows[0].ids, [15, 6, 16, 6]);
        assert_eq!(tokenizer.decode(&[2, 15, 3, 1]).unwrap(), "ab<b>");
        let bos = ("ggml.add_bos_token", 7, vec![1]);
        let tokenizer = Tokenizer::from_gguf(&sample("gpt-2", &[bos]), 4).unwrap();
        assert_eq!(tokenizer.plain("abababab").unwrap(), [0, 15, 15, 15, 15]);
        assert_eq!(tokenizer.texts(&["abababab"]).unwrap().rows[0].ids, [0, 15, 15, 15]);
    }

    #[test]
    fn a_stream_gives_whole_characters() {
        let tokenizer = Tokenizer::from_gguf(&sample("smollm", &[]), 8).unwrap();
        let mut stream = tokenizer.stream();
        let got: Vec<_> = [0, 15, 13, 14, 2, 16, 1].into_iter().map(|id| stream.push(id).unwrap()).collect();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(got, [None, some("ab"), None, some("é"), None, some(" ab"), None]);
    }

    #[test]
    fn words_are_cut_as_the_file_says() {
        let three = |pre| Tokenizer::from_gguf(&sample(pre, &[]), 16).unwrap().spans("a?\n\nab").unwrap().0;
        for pre in ["smollm", "gpt-2", "default", "qwen2"] {
            assert_eq!(three(pre), [4, 12, 10, 10, 15], "{pre}");
        }
        // Llama 3's files say nothing and mean that a text begins with a token.
        assert_eq!(Tokenizer::from_gguf(&sample("llama-bpe", &[]), 16).unwrap().plain("a").unwrap(), [0, 4]);
        let error = |gguf: &Gguf| Tokenizer::from_gguf(gguf, 16).unwrap_err().to_string();
        let remedy = "put the model's tokenizer.json beside the file";
        assert!(error(&sample("tekken", &[])).ends_with(&format!("cut as in `tekken`; {remedy}")));
        let other = sample("default", &[("ggml.model", 8, text("llama"))]);
        assert!(error(&other).ends_with(&format!("of the kind `llama`; {remedy}")));
    }

    #[test]
    fn damaged_vocabularies_are_refused() {
        let error = |value: (&'static str, u32, Vec<u8>)| {
            Tokenizer::from_gguf(&sample("smollm", &[value]), 16).unwrap_err().to_string()
        };
        assert!(error(("ggml.merges", 9, list(8, &[text("ab ab")]))).contains("merge `ab ab` is not of known tokens"));
        assert!(error(("ggml.merges", 9, list(8, &[text("ab")]))).contains("merge `ab` is not of known tokens"));
        assert!(error(("ggml.tokens", 9, list(8, &[text("a"), text("a")]))).contains("token `a` is there twice"));
        let beyond = error(("ggml.eos_token_id", 4, 20u32.to_le_bytes().to_vec()));
        assert!(beyond.contains("`eos_token_id` is 20 of 20 tokens; convert or fetch the file again"), "{beyond}");
    }
}
