//! `#[derive(Method)]`: a method's card out of the doc comment and attributes of its config struct.

use crate::{Field, all, inner, is_snake, last_segment, named_fields, set, variant};
use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::{
    Attribute, DeriveInput, Error, Expr, ExprLit, Lit, LitInt, LitStr, Meta, Path, Token, Type, bracketed,
    ext::IdentExt, meta::ParseNestedMeta, parenthesized, parse::ParseStream, punctuated::Punctuated,
};

const HEADINGS: [&str; 5] = ["# Mathematics", "# When to use", "# Differences", "# Example", "# References"];

pub(crate) fn expand(input: &DeriveInput) -> syn::Result<TokenStream> {
    let ident = &input.ident;
    let fields = named_fields(input, "Method")?;
    let doc = doc(&input.attrs);
    check_doc(&doc).map_err(|text| Error::new_spanned(ident, text))?;
    let Card { name, title, catalogue, paper, year, targets, needs, promises, cases, waivers, validate } =
        Card::read(input)?;
    let params = all(fields.iter().map(Param::read))?;
    let infos = params.iter().map(Param::info);
    let checks = params.iter().map(|param| param.check(&name));
    let finish = validate.map_or_else(|| quote!(::core::result::Result::Ok(())), |path| quote!(#path(self)));
    // The span decides which line `line!()` answers with: the struct's name, not the derive.
    let line = quote_spanned!(ident.span()=> ::core::line!());
    Ok(quote! {
        #[automatically_derived]
        impl ::acclimate_core::Method for #ident {
            const CARD: ::acclimate_core::Card = ::acclimate_core::Card {
                name: #name,
                title: #title,
                catalogue: &[#(#catalogue),*],
                paper: #paper,
                year: #year,
                targets: &[#(#targets),*],
                doc: #doc,
                params: &[#(#infos),*],
                needs: &[#(::acclimate_core::Need::#needs),*],
                promises: &[#(::acclimate_core::Promise::#promises),*],
                waivers: &[#(#waivers),*],
                file: ::core::file!(),
                line: #line,
            };

            const CASES: &'static [&'static str] = &[#(#cases),*];

            fn check(&self) -> ::acclimate_core::Result<()> {
                #(#checks)*
                #finish
            }
        }
    })
}

/// The text of a doc comment, without the space after each `///`.
fn doc(attrs: &[Attribute]) -> String {
    let mut lines = Vec::new();
    for attr in attrs.iter().filter(|attr| attr.path().is_ident("doc")) {
        if let Meta::NameValue(meta) = &attr.meta
            && let Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) = &meta.value
        {
            lines.extend(text.value().split('\n').map(|line| line.strip_prefix(' ').unwrap_or(line).to_owned()));
        }
    }
    lines.join("\n").trim().to_owned()
}

/// Whether the page has its sentence and sections; otherwise what is wrong with it.
fn check_doc(doc: &str) -> Result<(), String> {
    let first = doc.split("\n\n").next().unwrap_or_default().trim_end();
    if first.starts_with('#') || !first.ends_with('.') {
        return Err("the doc comment must open with a sentence that ends in a full stop".to_owned());
    }
    // Inside a code block a line that starts with `# ` is a hidden line of the example.
    let mut headings = Vec::new();
    let mut in_code = false;
    let mut example_has_code = false;
    for line in doc.lines().map(str::trim_end) {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
            example_has_code |= headings.last() == Some(&"# Example");
        } else if !in_code && line.starts_with("# ") {
            headings.push(line);
        }
    }
    let order = HEADINGS.map(|heading| format!("`{heading}`")).join(", ");
    if let Some(missing) = HEADINGS.iter().find(|heading| !headings.contains(heading)) {
        return Err(format!("the doc comment has no heading `{missing}`; a method's headings are {order}"));
    }
    if let Some(place) = (0..headings.len()).find(|&i| HEADINGS.get(i) != Some(&headings[i])) {
        let heading = headings[place];
        return Err(format!(
            "the heading `{heading}` is out of place; a method's headings are, in this order, {order}"
        ));
    }
    if !example_has_code {
        return Err("the section `# Example` has no code block".to_owned());
    }
    Ok(())
}

/// What the attributes of the struct say.
struct Card {
    name: LitStr,
    title: LitStr,
    catalogue: Vec<u16>,
    paper: LitStr,
    year: u16,
    targets: Vec<LitStr>,
    needs: Vec<Ident>,
    promises: Vec<Ident>,
    cases: Vec<LitStr>,
    waivers: Vec<TokenStream>,
    validate: Option<Path>,
}

impl Card {
    fn read(input: &DeriveInput) -> syn::Result<Self> {
        let (mut name, mut title, mut catalogue, mut paper, mut year) = (None, None, None, None, None);
        let (mut needs, mut promises, mut cases, mut waivers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut targets, mut validate) = (None, None);
        method_attributes(&input.attrs, |key, meta| match key {
            "name" => set(&mut name, &meta.path, key, name_of(&meta.value()?.parse()?)?),
            "title" => set(&mut title, &meta.path, key, meta.value()?.parse()?),
            "catalogue" => set(&mut catalogue, &meta.path, key, numbers(meta.value()?)?),
            "paper" => set(&mut paper, &meta.path, key, paper_of(meta.value()?.parse()?)?),
            "year" => set(&mut year, &meta.path, key, meta.value()?.parse::<LitInt>()?.base10_parse()?),
            "validate" => set(&mut validate, &meta.path, key, meta.value()?.parse()?),
            "targets" => set(&mut targets, &meta.path, key, texts(meta.input)?),
            "needs" => variants(&mut needs, meta),
            "promises" => variants(&mut promises, meta),
            "case" => {
                cases.push(meta.value()?.parse()?);
                Ok(())
            }
            "waive" => meta.parse_nested_meta(|waiver| {
                let reason: LitStr = waiver.value()?.parse()?;
                let check = waiver.path.require_ident()?.unraw().to_string();
                if reason.value().trim().is_empty() {
                    return Err(Error::new(reason.span(), format!("the waiver of `{check}` needs a reason")));
                }
                waivers.push(quote!((#check, #reason)));
                Ok(())
            }),
            _ => Err(meta.error(
                "unknown key; a method takes `name`, `title`, `catalogue`, `paper`, `year`, `targets`, `needs`, \
                     `promises`, `case`, `waive` and `validate`",
            )),
        })?;
        let missing = |key: &str| Error::new_spanned(&input.ident, format!("`#[method({key} = …)]` is missing"));
        if cases.is_empty() {
            cases.push(LitStr::new("", input.ident.span()));
        }
        Ok(Self {
            name: name.ok_or_else(|| missing("name"))?,
            title: title.ok_or_else(|| missing("title"))?,
            catalogue: catalogue.ok_or_else(|| missing("catalogue"))?,
            paper: paper.ok_or_else(|| missing("paper"))?,
            year: year.ok_or_else(|| missing("year"))?,
            targets: targets.unwrap_or_default(),
            needs,
            promises,
            cases,
            waivers,
            validate,
        })
    }
}

/// Calls `read` for every key in the `#[method(…)]` attributes.
fn method_attributes(
    attrs: &[Attribute],
    mut read: impl FnMut(&str, &ParseNestedMeta) -> syn::Result<()>,
) -> syn::Result<()> {
    for attr in attrs.iter().filter(|attr| attr.path().is_ident("method")) {
        attr.parse_nested_meta(|meta| {
            let key = meta.path.get_ident().map(Ident::to_string).unwrap_or_default();
            read(&key, &meta)
        })?;
    }
    Ok(())
}

fn name_of(name: &LitStr) -> syn::Result<LitStr> {
    if !is_snake(&name.value()) {
        return Err(Error::new(name.span(), "`name` must be in snake case and equal to the file's name"));
    }
    Ok(name.clone())
}

fn paper_of(paper: LitStr) -> syn::Result<LitStr> {
    let text = paper.value();
    let id = text.strip_prefix("arxiv:").or_else(|| text.strip_prefix("doi:"));
    if text != "-" && !id.is_some_and(|id| !id.is_empty() && !id.contains(char::is_whitespace)) {
        return Err(Error::new(paper.span(), "`paper` must be `arxiv:…`, `doi:…` or `-`"));
    }
    Ok(paper)
}

/// `[160, 161]`.
fn numbers(input: ParseStream) -> syn::Result<Vec<u16>> {
    let list;
    bracketed!(list in input);
    let numbers = Punctuated::<LitInt, Token![,]>::parse_terminated(&list)?;
    numbers.iter().map(LitInt::base10_parse).collect()
}

/// `("key", "value")`.
fn texts(input: ParseStream) -> syn::Result<Vec<LitStr>> {
    let list;
    parenthesized!(list in input);
    let texts = Punctuated::<LitStr, Token![,]>::parse_terminated(&list)?;
    Ok(texts.into_iter().collect())
}

/// `(gradients, dense)`.
fn variants(known: &mut Vec<Ident>, meta: &ParseNestedMeta) -> syn::Result<()> {
    let list;
    parenthesized!(list in meta.input);
    for name in Punctuated::<Ident, Token![,]>::parse_terminated(&list)? {
        let variant = variant(&name)?;
        if known.contains(&variant) {
            return Err(Error::new(name.span(), format!("`{name}` is given twice")));
        }
        known.push(variant);
    }
    Ok(())
}

/// A field of the config struct.
struct Param<'a> {
    field: &'a Field<'a>,
    doc: String,
    range: Range,
    /// The type of the number and whether it is optional; none if the field is no number.
    number: Option<(&'static str, bool)>,
}

/// The bounds of a field.
#[derive(Default)]
struct Range {
    min: Option<f64>,
    max: Option<f64>,
    above: Option<f64>,
}

impl<'a> Param<'a> {
    fn read(field: &'a Field<'a>) -> syn::Result<Self> {
        let name = &field.name;
        let refused = |text: String| Err(Error::new(field.ident.span(), text));
        let doc = doc(field.attrs);
        if doc.is_empty() {
            return refused(format!("`{name}` has no doc comment"));
        }
        let range = Range::read(field.attrs)?;
        if range.min.is_some() && range.above.is_some() {
            return refused(format!("`{name}` has both `min` and `above`"));
        }
        if let (Some(low), Some(max)) = (range.min.or(range.above), range.max)
            && low >= max
        {
            return refused(format!("`{name}` has no room between its bounds"));
        }
        let number = number_type(field.ty);
        if number.is_none() && !range.is_empty() {
            return Err(Error::new_spanned(
                field.ty,
                format!("the range of `{name}` needs a number or an `Option` of one"),
            ));
        }
        Ok(Self { field, doc, range, number })
    }

    fn info(&self) -> TokenStream {
        let (name, ty, doc) = (&self.field.name, type_text(self.field.ty), &self.doc);
        let min = option(self.range.min.or(self.range.above));
        let max = option(self.range.max);
        let above = self.range.above.is_some();
        quote! {
            ::acclimate_core::ParamInfo { name: #name, ty: #ty, doc: #doc, min: #min, max: #max, above: #above }
        }
    }

    /// The statement that refuses a value outside the range; nothing if every value is allowed.
    fn check(&self, method: &LitStr) -> Option<TokenStream> {
        let (number, optional) = self.number?;
        let inside = self.range.test(number)?;
        let why = self.range.why();
        let Field { ident, name, .. } = self.field;
        let value = if optional { quote!(self.#ident) } else { quote!(::core::option::Option::Some(self.#ident)) };
        Some(quote! {
            if let ::core::option::Option::Some(value) = #value {
                let inside = #inside;
                if !inside {
                    return ::core::result::Result::Err(::acclimate_core::Error::Param {
                        method: #method,
                        param: #name,
                        value: ::std::string::ToString::to_string(&value),
                        why: ::std::string::String::from(#why),
                    });
                }
            }
        })
    }
}

impl Range {
    fn read(attrs: &[Attribute]) -> syn::Result<Self> {
        let mut range = Self::default();
        method_attributes(attrs, |key, meta| {
            let slot = match key {
                "min" => &mut range.min,
                "max" => &mut range.max,
                "above" => &mut range.above,
                _ => return Err(meta.error("unknown key; a field takes `min`, `max` and `above`")),
            };
            set(slot, &meta.path, key, number(meta.value()?)?)
        })?;
        Ok(range)
    }

    fn is_empty(&self) -> bool {
        self.min.is_none() && self.max.is_none() && self.above.is_none()
    }

    /// The condition on `value`, which not-a-number never meets; none if every value is allowed.
    fn test(&self, number: &str) -> Option<TokenStream> {
        // A bound such as 0.1 is rounded to the field's own precision, so that the bound itself is inside.
        let literal = |bound: f64| if number == "f32" { (bound as f32).to_token_stream() } else { quote!(#bound) };
        let value = if number.starts_with('f') { quote!(value) } else { quote!((value as f64)) };
        match (self.min.map(literal), self.above.map(literal), self.max.map(literal)) {
            (Some(min), _, Some(max)) => Some(quote!((#min..=#max).contains(&#value))),
            (Some(min), _, None) => Some(quote!(#value >= #min)),
            (None, Some(above), Some(max)) => Some(quote!(#value > #above && #value <= #max)),
            (None, Some(above), None) => Some(quote!(#value > #above)),
            (None, None, Some(max)) => Some(quote!(#value <= #max)),
            (None, None, None) => number.starts_with('f').then(|| quote!(!#value.is_nan())),
        }
    }

    fn why(&self) -> String {
        match (self.min, self.above, self.max) {
            (Some(min), _, Some(max)) => format!("must be between {min} and {max}"),
            (Some(min), _, None) => format!("must be at least {min}"),
            (None, Some(above), Some(max)) => format!("must be above {above} and at most {max}"),
            (None, Some(above), None) => format!("must be above {above}"),
            (None, None, Some(max)) => format!("must be at most {max}"),
            (None, None, None) => "must be a number".to_owned(),
        }
    }
}

/// A number as a bound: `1`, `0.5`, `-1e-3`.
fn number(input: ParseStream) -> syn::Result<f64> {
    let minus: Option<Token![-]> = input.parse()?;
    let size: f64 = match input.parse()? {
        Lit::Int(int) => int.base10_parse()?,
        Lit::Float(float) => float.base10_parse()?,
        other => return Err(Error::new(other.span(), "a bound is a number")),
    };
    Ok(if minus.is_some() { -size } else { size })
}

/// The type of the number that a field holds, and whether it is optional.
fn number_type(ty: &Type) -> Option<(&'static str, bool)> {
    const NUMBERS: [&str; 10] = ["f64", "f32", "usize", "u64", "u32", "u16", "u8", "i64", "i32", "isize"];
    let plain = |ty| {
        let segment = last_segment(ty)?;
        NUMBERS.into_iter().find(|number| segment.ident == number)
    };
    let optional = || Some((plain(inner(ty, "Option")?)?, true));
    plain(ty).map(|number| (number, false)).or_else(optional)
}

/// A type as one writes it, such as `Option<Vec<f64>>`.
fn type_text(ty: &Type) -> String {
    let tight = [(" ::", "::"), (":: ", "::"), (" <", "<"), ("< ", "<"), (" >", ">"), (" ,", ","), (" ;", ";")];
    tight.iter().fold(ty.to_token_stream().to_string(), |text, (from, to)| text.replace(from, to))
}

fn option(value: Option<f64>) -> TokenStream {
    match value {
        Some(value) => quote!(::core::option::Option::Some(#value)),
        None => quote!(::core::option::Option::None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{code, errors};

    const PAGE: &str = "/// Adds a product of two factors.\n///\n/// # Mathematics\n/// W + BA\n/// # When to use\n/// Often.\n\
        /// # Differences\n/// None.\n/// # Example\n/// ```\n/// # use hidden::line;\n/// ```\n/// # References\n/// Hu.\n";
    const CARD: &str =
        r#"#[method(name = "lora", title = "LoRA", catalogue = [160], paper = "doi:10.1/x", year = 2021)]"#;

    /// A method with this page, these attributes and these fields.
    fn method(page: &str, attributes: &str, fields: &str) -> String {
        format!("{page}\n{attributes}\nstruct Lora {{ {fields} }}")
    }

    fn with_page(page: &str) -> Vec<String> {
        errors(&method(page, CARD, ""), expand)
    }

    fn with_attributes(attributes: &str) -> Vec<String> {
        errors(&method(PAGE, attributes, ""), expand)
    }

    fn with_fields(fields: &str) -> Vec<String> {
        errors(&method(PAGE, CARD, fields), expand)
    }

    #[test]
    fn the_card_holds_what_is_written() {
        let more = r#"#[method(needs(gradients), promises(low_rank), waive(one_check = "no", other = "why"))]
            #[method(needs(dense), case = "rank = 2", case = "rank = 3", validate = Self::shape)]
            #[method(targets("key", "value"))]"#;
        let code = code(&method(PAGE, &format!("{CARD}{more}"), ""), expand);
        assert!(
            code.contains(r#"name:"lora",title:"LoRA",catalogue:&[160u16],paper:"doi:10.1/x",year:2021u16"#),
            "{code}"
        );
        assert!(code.contains(r#"targets:&["key","value"]"#), "{code}");
        assert!(code.contains("needs:&[::acclimate_core::Need::Gradients,::acclimate_core::Need::Dense]"), "{code}");
        assert!(code.contains("promises:&[::acclimate_core::Promise::LowRank]"), "{code}");
        assert!(code.contains(r#"waivers:&[("one_check","no"),("other","why")]"#), "{code}");
        assert!(code.contains(r#"=&["rank=2","rank=3"];"#), "{code}");
        assert!(code.contains("{Self::shape(self)}"), "{code}");
    }

    #[test]
    fn a_missing_heading_is_named() {
        for heading in HEADINGS {
            let text = with_page(&PAGE.replace(&format!("/// {heading}\n"), ""));
            assert!(text[0].starts_with(&format!("the doc comment has no heading `{heading}`")), "{text:?}");
        }
    }

    #[test]
    fn a_misplaced_heading_is_named() {
        let swapped =
            PAGE.replace("When to use", "x").replace("Differences", "When to use").replace("# x", "# Differences");
        assert!(with_page(&swapped)[0].starts_with("the heading `# Differences` is out of place"));
        let more = format!("{PAGE}/// # Notes\n");
        assert!(with_page(&more)[0].starts_with("the heading `# Notes` is out of place"));
    }

    #[test]
    fn the_page_needs_a_sentence_and_an_example() {
        let sentence = ["the doc comment must open with a sentence that ends in a full stop"];
        assert_eq!(with_page(&PAGE.replace("factors.", "factors")), sentence);
        assert_eq!(with_page(""), sentence);
        assert_eq!(
            with_page(&PAGE.replace("/// ```\n", "///\n").replace("# use hidden", "use hidden")),
            ["the section `# Example` has no code block"]
        );
    }

    #[test]
    fn attributes_are_checked() {
        assert_eq!(with_attributes(""), ["`#[method(name = …)]` is missing"]);
        assert_eq!(with_attributes(&CARD.replace("year = 2021", "")), ["`#[method(year = …)]` is missing"]);
        let name = "`name` must be in snake case and equal to the file's name";
        assert_eq!(with_attributes(&CARD.replace("\"lora", "\"LoRA")), [name]);
        let paper = "`paper` must be `arxiv:…`, `doi:…` or `-`";
        assert_eq!(with_attributes(&CARD.replace("doi:10.1/x", "arxiv:")), [paper]);
        assert_eq!(with_attributes(&CARD.replace("doi:10.1/x", "2106.09685")), [paper]);
        let plus = |more: &str| with_attributes(&format!("{CARD} #[method({more})]"));
        assert_eq!(plus("year = 2022"), ["`year` is given twice"]);
        assert!(plus("lr_free")[0].starts_with("unknown key; a method takes `name`"));
        assert_eq!(plus("waive(a_check = \" \")"), ["the waiver of `a_check` needs a reason"]);
    }

    #[test]
    fn a_bad_need_is_named() {
        let plus = |more: &str| with_attributes(&format!("{CARD} #[method({more})]"));
        assert_eq!(plus("needs(Gradients)"), ["`Gradients` must be in snake case, as in `low_rank`"]);
        assert_eq!(plus("needs(dense), needs(loss, dense)"), ["`dense` is given twice"]);
    }

    #[test]
    fn fields_are_checked() {
        assert_eq!(
            with_fields("rank: usize, /** Scale. */ alpha: f64, beta: f64"),
            ["`rank` has no doc comment", "`beta` has no doc comment"]
        );
        let refused = |range: &str, ty: &str| with_fields(&format!("/** Doc. */ #[method({range})] a: {ty}"));
        assert_eq!(refused("min = 0, above = 0", "f64"), ["`a` has both `min` and `above`"]);
        assert_eq!(refused("min = 1, max = -1.0", "f64"), ["`a` has no room between its bounds"]);
        assert_eq!(refused("min = 1", "Option<String>"), ["the range of `a` needs a number or an `Option` of one"]);
        assert_eq!(refused("min = \"1\"", "f64"), ["a bound is a number"]);
        assert_eq!(refused("least = 1", "f64"), ["unknown key; a field takes `min`, `max` and `above`"]);
    }

    #[test]
    fn types_read_as_written() {
        let types = ["f64", "Option<f64>", "Vec<Option<usize>>", "std::path::PathBuf", "(f64, f64)", "[f64; 2]"];
        for text in types.into_iter().chain(["BTreeMap<String, Vec<f64>>", "::core::option::Option<f64>"]) {
            assert_eq!(type_text(&syn::parse_str(text).unwrap()), text);
        }
    }
}
