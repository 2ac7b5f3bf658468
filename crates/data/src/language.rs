//! Texts, dialogues and choices as tokens of which some are to be predicted.

use std::ops::Range;

use acclimate_core::{Error, Result};

use crate::chat::{ASSISTANT, ChatTemplate, Message};
use crate::tokens::Tokenizer;

/// The tokens of a text, and which of them a model is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each token whether it is to be predicted from those before it.
    pub scored: Vec<bool>,
    /// UTF-8 bytes of the scored text. A character of several tokens counts with the first of them, and a token that ends
    /// a turn is no text.
    pub bytes: usize,
}

impl Document {
    /// How many tokens are predicted: the scored ones, but for the first token, which nothing stands before.
    pub fn words(&self) -> usize {
        self.scored.iter().skip(1).filter(|&&scored| scored).count()
    }
}

/// A token that may be scored, the byte of its text where it begins, and the bytes that it adds to those of the tokens
/// before it.
struct Part {
    id: u32,
    at: usize,
    scored: bool,
    bytes: usize,
}

impl Part {
    fn unscored(&id: &u32) -> Self {
        Self { id, at: 0, scored: false, bytes: 0 }
    }
}

impl FromIterator<Part> for Document {
    fn from_iter<I: IntoIterator<Item = Part>>(parts: I) -> Self {
        let mut document = Self::default();
        for (place, part) in parts.into_iter().enumerate() {
            document.ids.push(part.id);
            // Nothing stands before the first token that it could be predicted from.
            document.scored.push(part.scored && place > 0);
            document.bytes += if part.scored && place > 0 { part.bytes } else { 0 };
        }
        document
    }
}

impl Tokenizer {
    /// A text whose tokens are all predicted but the first, cut to [`Tokenizer::max_length`]. A special token that is
    /// written out in the text is that token.
    ///
    /// # Errors
    /// A text that the tokeniser cannot encode.
    pub fn text_document(&self, text: &str) -> Result<Document> {
        let all = 0..text.len();
        let parts = self.parts(text, &[all], &[])?;
        Ok(self.lead().iter().map(Part::unscored).chain(parts).take(self.max_length()).collect())
    }

    /// A text in consecutive pieces of at most [`Tokenizer::max_length`] tokens each, counting what the tokeniser puts
    /// before a text. A piece ends after a line, or else at white space, where there is one in its second half, and never
    /// inside a character; together the pieces are the text. An empty text has none.
    ///
    /// # Errors
    /// A text that the tokeniser cannot encode, or a length that is too small for one of its characters.
    pub fn pieces(&self, text: &str) -> Result<Vec<String>> {
        let room = self.max_length() - self.lead().len();
        let (ids, spans) = self.spans(text)?;
        // Where the text may be cut: the number of tokens before it, and the byte.
        let mut cuts = vec![(0, 0)];
        let between = spans.windows(2).enumerate().filter(|(_, pair)| pair[1].start >= pair[0].end);
        for cut in between.map(|(token, pair)| (token + 1, pair[0].end)).chain([(ids.len(), text.len())]) {
            if cut.1 > cuts[cuts.len() - 1].1 && text.is_char_boundary(cut.1) {
                cuts.push(cut);
            }
        }
        let (mut pieces, mut from) = (Vec::new(), 0);
        while cuts[from].1 < text.len() {
            let mut limit = room;
            let to = loop {
                let Some(to) = choose(text, &cuts, from, limit) else {
                    return Err(Error::Param {
                        method: "tokenizer",
                        param: "max_length",
                        value: self.max_length().to_string(),
                        why: format!("must hold the tokens of the character at byte {} of a text", cuts[from].1),
                    });
                };
                // A piece alone is not always cut into tokens as it was inside the text.
                if self.spans(&text[cuts[from].1..cuts[to].1])?.0.len() <= room {
                    break to;
                }
                limit = (cuts[to].0 - cuts[from].0).saturating_sub(1);
            };
            pieces.push(text[cuts[from].1..cuts[to].1].to_owned());
            from = to;
        }
        Ok(pieces)
    }

    /// A dialogue whose assistant's turns are predicted, each with the token that ends it, and whether its end was cut off
    /// at [`Tokenizer::max_length`].
    ///
    /// Under a template a special token that is written out in a turn stays text, whoever says it.
    ///
    /// Without a template the turns follow each other, with a space between two that have no white space there, and the
    /// first of [`Tokenizer::ends`] stands after each turn of the assistant; special tokens in the turns are those tokens.
    ///
    /// # Errors
    /// A dialogue in which the assistant has no turn, one that the template refuses, a template that writes earlier turns
    /// anew once later ones are there, or a special token in a turn that cannot stay text.
    pub fn dialogue(&self, template: Option<&ChatTemplate>, messages: &[Message]) -> Result<(Document, bool)> {
        if !messages.iter().any(|message| message.role == ASSISTANT) {
            return Err(Error::Other("a dialogue has no turn of the assistant to learn from; add one".into()));
        }
        let parts = match template {
            Some(template) => {
                let (text, turns) = turns(template, messages)?;
                let mut parts = self.parts(&text, &turns, &self.quotes(template, messages, false, &text)?)?;
                self.end_turns(&mut parts, &turns);
                parts
            }
            None => {
                let (mut parts, rest) = self.joined(messages)?;
                parts.extend(self.parts(&rest, &[], &[])?);
                parts
            }
        };
        let cut = parts.len() > self.max_length();
        Ok((parts.into_iter().take(self.max_length()).collect(), cut))
    }

    /// A dialogue up to where the assistant's next turn begins, uncut. Special tokens in turns are as in
    /// [`Tokenizer::dialogue`].
    ///
    /// # Errors
    /// A dialogue that the template refuses, or that the tokeniser cannot encode.
    pub fn prompt(&self, template: Option<&ChatTemplate>, messages: &[Message]) -> Result<Vec<u32>> {
        match template {
            Some(template) => {
                let text = template.render(messages, true)?;
                Ok(self.spans_with_quotes(&text, &self.quotes(template, messages, true, &text)?)?.0)
            }
            None => {
                let (parts, rest) = self.joined(messages)?;
                let rest = self.spans(rest.trim_end_matches(' '))?.0;
                Ok(parts.into_iter().map(|part| part.id).chain(rest).collect())
            }
        }
    }

    /// A prompt with one of its choices, which is what is predicted: as the assistant's turn under a template, and else
    /// after a space if there is no white space between them. Special tokens are as in [`Tokenizer::dialogue`].
    ///
    /// # Errors
    /// An empty choice, and a prompt and choice of more than [`Tokenizer::max_length`] tokens: cut, a choice could not be
    /// compared with others.
    pub fn choice(&self, template: Option<&ChatTemplate>, prompt: &str, choice: &str) -> Result<Document> {
        let (lead, text, start, quotes) = match template {
            Some(template) => {
                let messages = [Message::new("user", prompt)];
                let text = template.render(&messages, true)?;
                let mut quotes = self.quotes(template, &messages, true, &text)?;
                let start = text.len();
                quotes.push(start..start + choice.len());
                (&[][..], text + choice, start, quotes)
            }
            None => {
                let mut text = prompt.to_owned();
                let start = join(&mut text, choice);
                (self.lead(), text, start, Vec::new())
            }
        };
        let scored = start..text.len();
        let parts = self.parts(&text, &[scored], &quotes)?;
        let (tokens, most) = (lead.len() + parts.len(), self.max_length());
        if tokens > most {
            let what = format!("a prompt and its choice have {tokens} tokens, {most} are allowed; shorten the prompt");
            return Err(Error::Other(what));
        }
        let document: Document = lead.iter().map(Part::unscored).chain(parts).collect();
        match document.words() {
            0 => Err(Error::Other(format!("choice `{choice}` has no tokens after its prompt; write one out"))),
            _ => Ok(document),
        }
    }

    /// The tokens of a text; those that begin in one of the ranges are scored.
    fn parts(&self, text: &str, scored: &[Range<usize>], quotes: &[Range<usize>]) -> Result<Vec<Part>> {
        let (ids, spans) = self.spans_with_quotes(text, quotes)?;
        let mut reached = 0;
        let part = |(id, span): (u32, &Range<usize>)| {
            let bytes = if self.ends().contains(&id) { 0 } else { span.end.saturating_sub(reached) };
            reached = reached.max(span.end);
            Part { id, at: span.start, scored: scored.iter().any(|range| range.contains(&span.start)), bytes }
        };
        Ok(ids.into_iter().zip(&spans).map(part).collect())
    }

    /// Scores turns up to their ends: what a template writes after one, such as a line's end, the model need not say.
    fn end_turns(&self, parts: &mut [Part], turns: &[Range<usize>]) {
        for turn in turns {
            let place = |byte| parts.partition_point(|part| part.at < byte);
            let (from, to) = (place(turn.start), place(turn.end));
            if let Some(end) = parts[from..to].iter().rposition(|part| self.ends().contains(&part.id)) {
                parts[from + end + 1..to].iter_mut().for_each(|part| part.scored = false);
            }
        }
    }

    /// Where a template's text repeats what is said, if special tokens are in it.
    fn quotes(
        &self,
        template: &ChatTemplate,
        messages: &[Message],
        generation: bool,
        text: &str,
    ) -> Result<Vec<Range<usize>>> {
        let quoted = |message: &&Message| self.names_special(&message.content);
        let Some(special) = messages.iter().find(quoted) else { return Ok(Vec::new()) };
        let stand_ins = |(place, message): (usize, &Message)| match quoted(&message) {
            true => Message::new(message.role.clone(), format!("{MARK}{place}{MARK}")),
            false => message.clone(),
        };
        let marked: Vec<Message> = messages.iter().enumerate().map(stand_ins).collect();
        let marked = template.render(&marked, generation)?;
        let forms: [fn(&str) -> &str; 2] = [str::trim, |said| said];
        forms.into_iter().find_map(|form| put_back(&marked, messages, form, text)).ok_or_else(|| {
            let what =
                "contains a special token, and the chat template does not write it as it is said; take the token out";
            Error::Other(format!("the turn `{}` {what}", special.content.chars().take(40).collect::<String>()))
        })
    }

    /// A dialogue without a template up to the end of the assistant's last turn, and the text after it.
    fn joined(&self, messages: &[Message]) -> Result<(Vec<Part>, String)> {
        let mut parts: Vec<Part> = self.lead().iter().map(Part::unscored).collect();
        let mut text = String::new();
        for message in messages {
            let start = join(&mut text, &message.content);
            if message.role == ASSISTANT {
                let turn = start..text.len();
                parts.extend(self.parts(&text, &[turn], &[])?);
                parts.extend(self.ends().first().map(|&id| Part { id, at: text.len(), scored: true, bytes: 0 }));
                text.clear();
            }
        }
        Ok((parts, text))
    }
}

/// A character for private use, around the number of a turn that it stands for.
const MARK: char = '\u{10FFFD}';

/// Where the turns stand whose marks are in `marked`, if with all of them put back, in that form, it is the text.
fn put_back(marked: &str, messages: &[Message], form: fn(&str) -> &str, text: &str) -> Option<Vec<Range<usize>>> {
    let (mut whole, mut ranges) = (String::new(), Vec::new());
    for (place, part) in marked.split(MARK).enumerate() {
        if place % 2 == 0 {
            whole.push_str(part);
        } else {
            let start = whole.len();
            whole.push_str(form(&messages.get(part.parse::<usize>().ok()?)?.content));
            ranges.push(start..whole.len());
        }
    }
    (whole == text).then_some(ranges)
}

/// Appends a turn. Gives the byte where it begins: spaces before its first word are its own, for so vocabularies have it.
fn join(text: &mut String, turn: &str) -> usize {
    let start = text.trim_end_matches(' ').len();
    if !text.is_empty() && !text.ends_with(char::is_whitespace) && !turn.starts_with(char::is_whitespace) {
        text.push(' ');
    }
    text.push_str(turn);
    start
}

/// A dialogue as its template writes it, and where the assistant's turns are.
fn turns(template: &ChatTemplate, messages: &[Message]) -> Result<(String, Vec<Range<usize>>)> {
    let whole = template.render(messages, false)?;
    let mut turns = Vec::new();
    for place in (0..messages.len()).filter(|&place| messages[place].role == ASSISTANT) {
        let (before, after) =
            (template.render(&messages[..place], true)?, template.render(&messages[..=place], false)?);
        if !after.starts_with(&before) || !whole.starts_with(&after) {
            let turn = place + 1;
            let what = format!("the chat template writes what is before turn {turn} anew once later turns are there");
            return Err(Error::Other(format!("{what}; give dialogues that end with the assistant's first turn")));
        }
        turns.push(before.len()..after.len());
    }
    Ok((whole, turns))
}

/// The best of the cuts after `from` with at most `limit` tokens between.
fn choose(text: &str, cuts: &[(usize, usize)], from: usize, limit: usize) -> Option<usize> {
    let first = cuts[from].0;
    let end = from + 1 + cuts[from + 1..].partition_point(|&(token, _)| token - first <= limit);
    if end == cuts.len() || end == from + 1 {
        return (end > from + 1).then(|| end - 1);
    }
    let last = |good: &dyn Fn(&str, &str) -> bool| {
        let late = (from + 1..end).rev().take_while(|&cut| cuts[cut].0 - first > limit / 2);
        late.into_iter().find(|&cut| {
            let (before, after) = text.split_at(cuts[cut].1);
            good(before, after)
        })
    };
    last(&|before, _| before.ends_with('\n'))
        .or_else(|| {
            last(&|before, after| before.ends_with(char::is_whitespace) || after.starts_with(char::is_whitespace))
        })
        .or(Some(end - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::tests::{chat, sample};

    /// Tokens: 0 `<s>`, 1 `<|end|>`, 2 `<|user|>`, 3 `<b>`, 4 `a`, 5 `b`, 6 `c`, 7 `1`, 8 `2`, 9 space, 10 newline, 11 `.`,
    /// 12 `?`, 13 and 14 `é`, 15 `ab`, 16 ` ab`, 17 to 19 the bytes of `€`.
    fn tokenizer(max_length: usize, bos: bool) -> Tokenizer {
        let bos = ("ggml.add_bos_token", 7, vec![u8::from(bos)]);
        Tokenizer::from_gguf(&sample("smollm", &[bos]), max_length).unwrap()
    }

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::from_gguf(&sample("smollm", &[chat(source)])).unwrap().unwrap()
    }

    /// A user's turn is `<|user|>…\n`, the assistant's `<b>…<|end|>\n`.
    const TEMPLATE: &str = "{% for m in messages %}{{ ('<|user|>' if m.role == 'user' else '<b>') + m.content }}\
        {{ '<|end|>' if m.role == 'assistant' }}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}<b>{% endif %}";

    fn turns(contents: &[&str]) -> Vec<Message> {
        let role = |place| if place % 2 == 0 { "user" } else { "assistant" };
        contents.iter().enumerate().map(|(place, content)| Message::new(role(place), *content)).collect()
    }

    fn bits(bits: &str) -> Vec<bool> {
        bits.bytes().map(|bit| bit == b'1').collect()
    }

    #[test]
    fn the_first_token_of_a_text_is_given() {
        let document = tokenizer(5, false).text_document("ab abéc ab").unwrap();
        assert_eq!((&document.ids[..], document.scored.clone()), (&[15, 16, 13, 14, 6][..], bits("01111")));
        assert_eq!((document.words(), document.bytes), (4, 3 + 2 + 1));
        let document = tokenizer(4, true).text_document("ab abéc").unwrap();
        assert_eq!((&document.ids[..], document.scored.clone()), (&[0, 15, 16, 13][..], bits("0111")));
        assert_eq!((document.words(), document.bytes), (3, 2 + 3 + 2));
        assert_eq!(tokenizer(4, false).text_document("").unwrap(), Document::default());
    }

    #[test]
    fn pieces_are_the_text() {
        let pieces = |most, text| tokenizer(most, false).pieces(text).unwrap();
        assert_eq!(pieces(4, "ab ab\nc ab ab"), ["ab ab\n", "c ab ab"]);
        assert_eq!(pieces(4, "acac ab ab ab ab"), ["acac", " ab ab ab ab"]);
        assert_eq!(pieces(4, "c.c. ab"), ["c.c.", " ab"]);
        assert_eq!(pieces(3, "aéé"), ["aé", "é"]);
        assert_eq!(pieces(3, "<|user|>éa<|end|>"), ["<|user|>é", "a<|end|>"]);
        assert!(pieces(3, "").is_empty());
        let error = tokenizer(2, false).pieces("a€").unwrap_err().to_string();
        assert!(
            error.contains("`max_length` must hold the tokens of the character at byte 1 of a text, got"),
            "{error}"
        );
        let text = "ab ab\n\n  c.1 2é?<b>ab \n\n\n   abab\tc é ".repeat(7);
        for most in 3..30 {
            let tokenizer = tokenizer(most, most % 2 == 0);
            let pieces = tokenizer.pieces(&text).unwrap();
            assert_eq!(pieces.concat(), text);
            assert!(pieces.iter().all(|piece| tokenizer.plain(piece).unwrap().len() <= most));
        }
    }

    #[test]
    fn only_the_assistant_is_scored() {
        let template = template(TEMPLATE);
        let tokenizer = tokenizer(64, false);
        let messages = turns(&["a?", "é", "b", "ab ab"]);
        let (document, cut) = tokenizer.dialogue(Some(&template), &messages).unwrap();
        assert_eq!(document.ids, [2, 4, 12, 10, 3, 13, 14, 1, 10, 2, 5, 10, 3, 15, 16, 1, 10]);
        assert_eq!(document.scored, bits("00000111000001110"));
        assert_eq!((document.words(), document.bytes, cut), (6, 2 + 5, false));
        assert_eq!(tokenizer.prompt(Some(&template), &messages[..1]).unwrap(), [2, 4, 12, 10, 3]);
        assert_eq!(tokenizer.prompt(Some(&template), &messages[..3]).unwrap(), document.ids[..13]);
        let error = tokenizer.dialogue(Some(&template), &messages[..1]).unwrap_err().to_string();
        assert_eq!(error, "a dialogue has no turn of the assistant to learn from; add one");
    }

    #[test]
    fn what_is_said_does_not_steer() {
        // `<`, `|`, `e`, `n`, `d` and `>` are no tokens of this vocabulary, so as text the marker has none.
        let tokenizer = tokenizer(64, false);
        for source in [TEMPLATE.to_owned(), TEMPLATE.replace("m.content", "m.content | trim")] {
            let template = template(&source);
            let (document, _) = tokenizer.dialogue(Some(&template), &turns(&["a<|end|>b", "b<|end|>c"])).unwrap();
            assert_eq!(document.ids, [2, 4, 5, 10, 3, 5, 6, 1, 10]);
            assert_eq!(document.scored, bits("000001110"));
            assert_eq!(tokenizer.prompt(Some(&template), &turns(&["<|end|>"])).unwrap(), [2, 10, 3]);
            let document = tokenizer.choice(Some(&template), "<|user|>a", "b<|end|>c").unwrap();
            assert_eq!((&document.ids[..], document.words()), (&[2, 4, 10, 3, 5, 6][..], 2));
        }
        // The user-defined `<b>` is no special token, and without a template a text is what it says.
        assert_eq!(tokenizer.prompt(None, &turns(&["a<|end|>b"])).unwrap(), [4, 1, 5]);
        let shouting = template(&TEMPLATE.replace("m.content", "m.content | upper"));
        let error = tokenizer.prompt(Some(&shouting), &turns(&["a<|end|>"])).unwrap_err().to_string();
        assert!(error.starts_with("the turn `a<|end|>` contains a special token"), "{error}");
        assert_eq!(tokenizer.prompt(Some(&shouting), &turns(&["1"])).unwrap(), [2, 7, 10, 3]);
    }

    #[test]
    fn a_text_goes_on_after_an_end() {
        let document = tokenizer(64, false).text_document("ab<|end|>ab c").unwrap();
        assert_eq!((&document.ids[..], document.scored.clone()), (&[15, 1, 15, 9, 6][..], bits("01111")));
        assert_eq!(document.bytes, 4);
        let (document, _) = tokenizer(64, false).dialogue(None, &turns(&["c", "ab<|end|>c"])).unwrap();
        assert_eq!((&document.ids[..], document.scored.clone()), (&[6, 16, 1, 6, 1][..], bits("01111")));
    }

    #[test]
    fn long_dialogues_lose_their_end() {
        let (document, cut) = tokenizer(7, false).dialogue(Some(&template(TEMPLATE)), &turns(&["a?", "éab"])).unwrap();
        assert_eq!((&document.ids[..], document.scored.clone()), (&[2, 4, 12, 10, 3, 13, 14][..], bits("0000011")));
        assert_eq!((document.bytes, cut), (2, true));
    }

    #[test]
    fn templates_that_rewrite_are_refused() {
        let forgetful = "{% for m in messages %}{{ m.content if loop.last else '' }}{% endfor %}";
        let error = tokenizer(64, false).dialogue(Some(&template(forgetful)), &turns(&["a", "b", "c"]));
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("the chat template writes what is before turn 2 anew"), "{error}");
    }

    #[test]
    fn without_a_template_turns_are_joined() {
        let tokenizer = tokenizer(64, true);
        let (document, _) = tokenizer.dialogue(None, &turns(&["c", "ab", "b?", "ab\n"])).unwrap();
        assert_eq!(document.ids, [0, 6, 16, 1, 5, 12, 16, 10, 1]);
        assert_eq!(document.scored, bits("001100111"));
        assert_eq!((document.words(), document.bytes), (5, 3 + 4));
        // A space at the end of a prompt is part of the answer's first token.
        assert_eq!(tokenizer.dialogue(None, &turns(&["c ", "ab"])).unwrap().0.ids, document.ids[..4]);
        assert_eq!(tokenizer.prompt(None, &turns(&["c "])).unwrap(), [0, 6]);
        assert_eq!(tokenizer.prompt(None, &turns(&["c", "ab", "b?"])).unwrap(), document.ids[..6]);
    }

    #[test]
    fn choices_are_scored_alone() {
        let tokenizer = tokenizer(8, true);
        let document = tokenizer.choice(None, "c?", "ab c").unwrap();
        assert_eq!((&document.ids[..], document.scored.clone()), (&[0, 6, 12, 16, 9, 6][..], bits("000111")));
        assert_eq!((document.words(), document.bytes), (3, 5));
        let document = tokenizer.choice(Some(&template(TEMPLATE)), "c?", "ab").unwrap();
        assert_eq!((&document.ids[..], document.scored.clone()), (&[2, 6, 12, 10, 3, 15][..], bits("000001")));
        let error = |prompt, choice| tokenizer.choice(None, prompt, choice).unwrap_err().to_string();
        assert!(error("c?ccccc", "a").contains("have 10 tokens, 8 are allowed; shorten the prompt"));
        assert!(error("c?\n", "").contains("has no tokens after its prompt"));
    }
}
