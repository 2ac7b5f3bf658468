//! Text to token ids and back, with a `tokenizer.json` or the vocabulary of a GGUF file.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use acclimate_core::{Error, Gguf, Result};
use serde_json::Value as Json;
use tokenizers::{
    DecodeStream, DecoderWrapper, EncodeInput, Encoding, ModelWrapper, NormalizerWrapper, PostProcessor,
    PostProcessorWrapper, PreTokenizerWrapper, Token, TruncationParams,
};

use crate::vocabulary;

/// A tokeniser that cuts every row to a stated length.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    file: PathBuf,
    inner: tokenizers::Tokenizer,
    /// As `inner`, but it cuts nothing: the library stops early where it is to cut, and what it keeps of the rest is not
    /// all of it.
    whole: tokenizers::Tokenizer,
    /// As `whole`, but special tokens are the text they are written in; made when a text first asks for it.
    literal: OnceLock<tokenizers::Tokenizer>,
    max_length: usize,
    pad_id: u32,
    /// What the tokeniser puts before a text.
    lead: Vec<u32>,
    ends: Vec<u32>,
}

/// Token ids to text, one after the other.
pub struct Stream<'a> {
    file: &'a Path,
    inner: DecodeStream<'a, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>,
}

/// The tokens of one row, special tokens included, without padding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRow {
    /// Token ids.
    pub ids: Vec<u32>,
    /// 0 for the first text of a pair, 1 for the second.
    pub type_ids: Vec<u32>,
    /// For each token the word it is part of, counted from zero; none for special tokens. Filled by
    /// [`Tokenizer::words`] alone, and empty otherwise.
    pub words: Vec<Option<usize>>,
}

/// The tokens of several rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The rows, in the order given.
    pub rows: Vec<TokenRow>,
    /// How many rows were longer than the tokeniser's length and lost their end.
    pub truncated: usize,
}

/// Rows padded at the right to one width, row after row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Padded {
    /// Tokens per row.
    pub width: usize,
    /// Token ids.
    pub ids: Vec<u32>,
    /// 0 for the first text of a pair and for padding, 1 for the second.
    pub type_ids: Vec<u32>,
    /// True for tokens, false for padding.
    pub mask: Vec<bool>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`; rows are cut to `max_length` tokens, special tokens included. Lengths and padding that
    /// the file states are not used. Which tokens end a text is read from the `generation_config.json`, `config.json`
    /// or `tokenizer_config.json` beside it, the first that says so.
    ///
    /// # Errors
    /// A file that cannot be read or is no tokeniser, or a length that leaves no room beside the special tokens.
    pub fn from_file(file: &Path, max_length: usize) -> Result<Self> {
        let bytes = std::fs::read(file).map_err(|e| Error::io(file, e))?;
        let mut tokenizer = Self::from_bytes(file, &bytes, max_length)?;
        tokenizer.ends = tokenizer.ends_beside(file.parent().unwrap_or(Path::new("")))?;
        Ok(tokenizer)
    }

    /// As [`Tokenizer::from_file`], from bytes; `name` stands for the file in messages, and no token ends a text.
    ///
    /// # Errors
    /// As [`Tokenizer::from_file`].
    pub fn from_bytes(name: impl Into<PathBuf>, bytes: &[u8], max_length: usize) -> Result<Self> {
        let file = name.into();
        let inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|e| Error::format(&file, format!("is not a tokenizer.json of a known kind: {e}")))?;
        Self::new(file, inner, max_length, Vec::new())
    }

    /// The byte-level BPE tokeniser of a GGUF file; rows are cut to `max_length` tokens.
    ///
    /// # Errors
    /// A tokeniser of another kind, damaged values, or a length that leaves no room beside the special tokens.
    pub fn from_gguf(gguf: &Gguf, max_length: usize) -> Result<Self> {
        let (inner, ends) = vocabulary::read(gguf)?;
        Self::new(gguf.file().to_owned(), inner, max_length, ends)
    }

    fn new(file: PathBuf, mut inner: tokenizers::Tokenizer, max_length: usize, ends: Vec<u32>) -> Result<Self> {
        let least = inner.get_post_processor().map_or(0, |ends| ends.added_tokens(true)) + 1;
        if max_length <= least {
            return Err(Error::Param {
                method: "tokenizer",
                param: "max_length",
                value: max_length.to_string(),
                why: format!("must be more than {least}, to hold the special tokens and a token of each text"),
            });
        }
        let named = || ["[PAD]", "<pad>", "<|endoftext|>"].iter().find_map(|token| inner.token_to_id(token));
        let pad_id = inner.get_padding().map(|padding| padding.pad_id).or_else(named).unwrap_or(0);
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| Error::format(&file, e.to_string()))?;
        let whole = inner.clone();
        let truncation = TruncationParams { max_length, stride: 0, ..TruncationParams::default() };
        inner.with_truncation(Some(truncation)).map_err(|e| Error::format(&file, e.to_string()))?;
        let lead = match inner.get_post_processor() {
            None => Vec::new(),
            Some(ends) => {
                let text = Encoding::from_tokens(vec![Token::new(0, String::new(), (0, 0))], 0);
                let whole = ends.process(text, None, true).map_err(|e| Error::format(&file, e.to_string()))?;
                let special = whole.get_special_tokens_mask().iter().take_while(|&&special| special == 1).count();
                whole.get_ids()[..special].to_vec()
            }
        };
        Ok(Self { file, inner, whole, literal: OnceLock::new(), max_length, pad_id, lead, ends })
    }

    /// The ids that end a text according to the files in a folder.
    fn ends_beside(&self, folder: &Path) -> Result<Vec<u32>> {
        for (name, key) in [
            ("generation_config.json", "eos_token_id"),
            ("config.json", "eos_token_id"),
            ("tokenizer_config.json", "eos_token"),
        ] {
            let file = folder.join(name);
            let Some(config) = read_json(&file)? else { continue };
            let bad = || Error::format(&file, format!("`{key}` is no token of the tokeniser; correct it"));
            let id = |value: &Json| match value {
                Json::String(token) => self.id(token).ok_or_else(bad),
                value => value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(bad),
            };
            match &config[key] {
                Json::Null => {}
                Json::Array(ids) => return ids.iter().map(id).collect(),
                Json::Object(token) => return token.get("content").map_or_else(|| Err(bad()), id).map(|id| vec![id]),
                value => return Ok(vec![id(value)?]),
            }
        }
        Ok(Vec::new())
    }

    /// The tokeniser as a `tokenizer.json`.
    ///
    /// # Errors
    /// A tokeniser that the format has no form for.
    pub fn to_json(&self) -> Result<String> {
        self.whole.to_string(true).map_err(|e| Error::format(&self.file, e.to_string()))
    }

    /// Most tokens of a row.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The id that fills rows up.
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// Number of different tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of a token, such as `[MASK]`.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The ids after which a model stops, the usual one first; none where the tokeniser's files name none.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// What the tokeniser puts before a text.
    pub(crate) fn lead(&self) -> &[u32] {
        &self.lead
    }

    /// A text as tokens, each with the bytes of the text it stands for; without special tokens, and uncut. The tokens of one
    /// character have all its bytes; what the tokeniser drops belongs to the token after it.
    pub(crate) fn spans(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
        self.spans_by(&self.whole, text)
    }

    fn spans_by(&self, inner: &tokenizers::Tokenizer, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
        let encoding = inner.encode(text, false).map_err(|e| Error::format(&self.file, e.to_string()))?;
        let mut reached = 0;
        let span = |&(start, end): &(usize, usize)| {
            let start = start.min(reached);
            reached = reached.max(end);
            start..end
        };
        Ok((encoding.get_ids().to_vec(), encoding.get_offsets().iter().map(span).collect()))
    }

    /// As [`Tokenizer::spans`], where a special token that lies in one of the `quoted` ranges is no token of its own but
    /// the text it is written in: what somebody says must not steer the model.
    ///
    /// # Errors
    /// A special token there that the tokeniser cannot read as text.
    pub(crate) fn spans_with_quotes(
        &self,
        text: &str,
        quoted: &[Range<usize>],
    ) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
        let (ids, spans) = self.spans(text)?;
        let lies = |span: &Range<usize>| quoted.iter().any(|quote| quote.start <= span.start && span.end <= quote.end);
        let special: Vec<usize> = (0..ids.len()).filter(|&place| self.is_special(ids[place])).collect();
        let Some(&first) = special.iter().find(|&&place| lies(&spans[place])) else { return Ok((ids, spans)) };
        let refused = || {
            let token = &text[spans[first].clone()];
            Error::Other(format!("a turn contains `{token}`, which the tokeniser cannot read as text; take it out"))
        };
        let literal = self.literal.get_or_init(|| {
            let mut literal = self.whole.clone();
            literal.set_encode_special_tokens(true);
            literal
        });
        // Special tokens part a text before anything else does, so what is between them can be read alone; where a
        // tokeniser treats a beginning in its own way it cannot, which reading the text as usual in this way shows.
        let marks = special.iter().filter(|&&place| !lies(&spans[place])).map(|&place| (ids[place], &spans[place]));
        let parted = |inner| -> Result<_> {
            let (mut all, mut all_spans, mut from) = (Vec::new(), Vec::new(), 0);
            for (mark, span) in
                marks.clone().map(|(id, span)| (Some(id), span.clone())).chain([(None, text.len()..text.len())])
            {
                let (between, its) = self.spans_by(inner, text.get(from..span.start).ok_or_else(refused)?)?;
                all.extend(between);
                all_spans.extend(its.into_iter().map(|its| its.start + from..its.end + from));
                from = span.end;
                if let Some(id) = mark {
                    all.push(id);
                    all_spans.push(span);
                }
            }
            Ok((all, all_spans))
        };
        let (quoted_ids, quoted_spans) = parted(literal)?;
        let steers = quoted_ids.iter().filter(|&&id| self.is_special(id)).count() > marks.clone().count();
        if steers || parted(&self.whole)?.0 != ids {
            return Err(refused());
        }
        Ok((quoted_ids, quoted_spans))
    }

    fn is_special(&self, id: u32) -> bool {
        self.whole.get_added_vocabulary().get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    /// Whether a text contains a special token, as a text.
    pub(crate) fn names_special(&self, text: &str) -> bool {
        let tokens = self.whole.get_added_vocabulary().get_added_tokens_decoder();
        // Each is asked for, in whatever order.
        tokens.values().any(|token| token.special && text.contains(&token.content))
    }

    /// A text as token ids, uncut; before it stands what the tokeniser puts before a text, and nothing after it. A special
    /// token that is written out in the text is that token.
    ///
    /// # Errors
    /// A text that the tokeniser cannot encode.
    pub fn plain(&self, text: &str) -> Result<Vec<u32>> {
        Ok([self.lead.clone(), self.spans(text)?.0].concat())
    }

    /// Text out of token ids as they come.
    pub fn stream(&self) -> Stream<'_> {
        Stream { file: &self.file, inner: self.inner.decode_stream(true) }
    }

    /// Encodes texts with special tokens, in parallel and in the order given.
    ///
    /// # Errors
    /// A text that the tokeniser cannot encode.
    pub fn texts<S: AsRef<str>>(&self, texts: &[S]) -> Result<Encoded> {
        self.encode(texts.iter().map(|text| text.as_ref().into()).collect(), false)
    }

    /// Encodes pairs of texts with special tokens; the longer of the two is cut first.
    ///
    /// # Errors
    /// A text that the tokeniser cannot encode.
    pub fn pairs<S: AsRef<str>>(&self, pairs: &[(S, S)]) -> Result<Encoded> {
        self.encode(pairs.iter().map(|(first, second)| (first.as_ref(), second.as_ref()).into()).collect(), false)
    }

    /// Encodes rows of words and says which token belongs to which word.
    ///
    /// # Errors
    /// A word that the tokeniser cannot encode.
    pub fn words(&self, rows: &[Vec<String>]) -> Result<Encoded> {
        self.encode(rows.iter().map(|words| words.as_slice().into()).collect(), true)
    }

    fn encode(&self, rows: Vec<EncodeInput<'_>>, words: bool) -> Result<Encoded> {
        let encodings = match words {
            true => self.inner.encode_batch(rows, true),
            false => self.inner.encode_batch_fast(rows, true),
        };
        let encodings = encodings.map_err(|e| Error::format(&self.file, e.to_string()))?;
        let truncated = encodings.iter().filter(|encoding| !encoding.get_overflowing().is_empty()).count();
        let row = |encoding: &Encoding| TokenRow {
            ids: encoding.get_ids().to_vec(),
            type_ids: encoding.get_type_ids().to_vec(),
            words: match words {
                true => encoding.get_word_ids().iter().map(|word| word.map(|word| word as usize)).collect(),
                false => Vec::new(),
            },
        };
        Ok(Encoded { rows: encodings.iter().map(row).collect(), truncated })
    }

    /// The text of token ids, without special tokens.
    ///
    /// # Errors
    /// Ids that the tokeniser cannot decode.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(|e| Error::format(&self.file, e.to_string()))
    }

    /// The rows at `index` padded to the longest of them.
    ///
    /// # Panics
    /// If an index is out of range.
    pub fn pad(&self, rows: &[TokenRow], index: &[usize]) -> Padded {
        let width = index.iter().map(|&row| rows[row].ids.len()).max().unwrap_or(0);
        let mut padded = Padded { width, ..Padded::default() };
        for (place, row) in index.iter().map(|&row| &rows[row]).enumerate() {
            padded.ids.extend(&row.ids);
            padded.type_ids.extend(&row.type_ids);
            padded.mask.extend(row.ids.iter().map(|_| true));
            let filled = (place + 1) * width;
            padded.ids.resize(filled, self.pad_id);
            padded.type_ids.resize(filled, 0);
            padded.mask.resize(filled, false);
        }
        padded
    }
}

impl Stream<'_> {
    /// Takes the next token id. Gives the text that is whole with it: none after a special token, and none in the
    /// middle of a character.
    ///
    /// # Errors
    /// Ids that the tokeniser cannot decode.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        let text = self.inner.step(id).map_err(|e| Error::format(self.file, e.to_string()))?;
        Ok(text.filter(|text| !text.is_empty()))
    }
}

impl fmt::Debug for Stream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("file", &self.file).finish_non_exhaustive()
    }
}

/// A JSON file, if it is there.
pub(crate) fn read_json(file: &Path) -> Result<Option<Json>> {
    match std::fs::read(file) {
        Ok(bytes) => {
            let json = serde_json::from_slice(&bytes);
            json.map(Some).map_err(|e| Error::format(file, format!("is not JSON ({e}); fetch the file again")))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(file, e)),
    }
}

impl TokenRow {
    /// Labels of words as labels of tokens: the first token of a word bears its label, the others none.
    ///
    /// # Panics
    /// If a word has no label.
    pub fn token_labels(&self, labels: &[usize]) -> Vec<Option<usize>> {
        let mut last = None;
        let mut first_of = |&word: &Option<usize>| {
            let label = word.filter(|_| word != last).map(|word| labels[word]);
            last = word;
            label
        };
        self.words.iter().map(&mut first_of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r###"{"version": "1.0", "truncation": null,
        "padding": {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null, "pad_id": 9,
            "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [], "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "good": 3, "film": 4, "##s": 5, "bad": 6, "[PAD]": 9}}}"###;

    fn tokenizer(max_length: usize) -> Result<Tokenizer> {
        Tokenizer::from_bytes("tokenizer.json", FILE.as_bytes(), max_length)
    }

    #[test]
    fn long_rows_are_cut_and_counted() {
        let encoded = tokenizer(5).unwrap().texts(&["Good films", "good good bad films"]).unwrap();
        assert_eq!(encoded.rows[0].ids, [1, 3, 4, 5, 2]);
        assert_eq!(encoded.rows[1].ids, [1, 3, 3, 6, 2]);
        assert_eq!(encoded.truncated, 1);
        let error = tokenizer(4).unwrap_err().to_string();
        assert!(error.starts_with("tokenizer: `max_length` must be more than 4"), "{error}");
    }

    #[test]
    fn pairs_are_told_apart_and_padded() {
        let tokenizer = tokenizer(8).unwrap();
        let encoded = tokenizer.pairs(&[("good", "bad film"), ("bad", "bad")]).unwrap();
        assert_eq!(encoded.rows[0].ids, [1, 3, 2, 6, 4, 2]);
        assert_eq!(encoded.rows[0].type_ids, [0, 0, 0, 1, 1, 1]);
        let padded = tokenizer.pad(&encoded.rows, &[1, 0]);
        assert_eq!(padded.width, 6);
        assert_eq!(padded.ids, [1, 6, 2, 6, 2, 9, 1, 3, 2, 6, 4, 2]);
        assert_eq!(padded.mask.iter().filter(|&&token| !token).count(), 1);
        assert_eq!(tokenizer.pad(&encoded.rows, &[]), Padded::default());
        assert_eq!(tokenizer.decode(&[3, 4, 5]).unwrap(), "good films");
    }

    #[test]
    fn tokens_find_their_words() {
        let rows = [["films", "good", "films"].map(str::to_owned).to_vec()];
        let encoded = tokenizer(9).unwrap().words(&rows).unwrap();
        let row = &encoded.rows[0];
        assert_eq!(row.words, [None, Some(0), Some(0), Some(1), Some(2), Some(2), None]);
        assert_eq!(row.token_labels(&[7, 8, 9]), [None, Some(7), None, Some(8), Some(9), None, None]);
    }

    #[test]
    fn other_files_are_refused() {
        let error = Tokenizer::from_bytes("tokenizer.json", b"{}", 8).unwrap_err().to_string();
        assert!(error.starts_with("tokenizer.json: is not a tokenizer.json of a known kind"), "{error}");
    }
}
