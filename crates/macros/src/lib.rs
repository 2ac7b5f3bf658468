//! Derives for method cards and typed parameter sets.
//!
//! A method is one config struct: its doc comment is the catalogue page, its attributes are the card. The derives turn
//! what is written there into code, and refuse at compile time what is missing. They take structs without generics.
//!
//! The generated code names `::acclimate_core`; a crate that uses the derives depends on it under that name.

mod fields;
mod method;
mod record;

use proc_macro::TokenStream;
use proc_macro2::Ident;
use syn::{DeriveInput, Error, GenericArgument, PathArguments, PathSegment, Type, ext::IdentExt, spanned::Spanned};

/// Implements `acclimate_core::Method` for a config struct: its card, its cases and the check of its ranges.
///
/// # On the struct
///
/// Several `#[method(…)]` attributes add up; `needs`, `promises`, `case` and `waive` may be repeated.
///
/// | key | value |
/// |---|---|
/// | `name = "lora"` | registry name in snake case, equal to the file's name (required) |
/// | `title = "LoRA"` | the title as the paper spells it (required) |
/// | `catalogue = [160]` | numbers in the catalogue of papers, possibly none (required) |
/// | `paper = "arxiv:2106.09685"` | `arxiv:…`, `doi:…` or `-` (required) |
/// | `year = 2021` | year of publication (required) |
/// | `targets("linear")` | where an adapter goes unless the user says: a word or names of sites |
/// | `needs(gradients, dense)` | variants of `Need` in snake case |
/// | `promises(mergeable)` | variants of `Promise` in snake case |
/// | `case = "rank = 2"` | TOML settings for the suites; with none given there is one empty case |
/// | `waive(check_name = "reason")` | a check that does not apply |
/// | `validate = path` | a `fn(&Self) -> Result<()>` that `check` calls after the ranges |
///
/// The doc comment opens with a sentence and holds the headings `# Mathematics`, `# When to use`, `# Differences`,
/// `# Example` (with a code block) and `# References`, in this order and no others; `##` headings are free.
///
/// # On a field
///
/// Every field has a doc comment. `#[method(min = 0.0, max = 1.0)]` gives an inclusive range; `above = 0.0` instead of
/// `min` excludes the bound. A range stands on a number or an `Option` of one. Not-a-number is refused in every field.
///
/// # Example
///
/// ```ignore
/// #[derive(Clone, Debug, Serialize, Deserialize, Method)]
/// #[serde(default, deny_unknown_fields)]
/// #[method(name = "lora", title = "LoRA", catalogue = [160], paper = "arxiv:2106.09685", year = 2021)]
/// #[method(needs(gradients), promises(identity_at_start, mergeable, low_rank), case = "rank = 2\nalpha = 4.0")]
/// pub struct Lora {
///     /// Rank of the update.
///     #[method(min = 1)]
///     pub rank: usize,
///     /// The update is scaled by `alpha / rank`.
///     #[method(above = 0.0)]
///     pub alpha: f64,
/// }
/// ```
#[proc_macro_derive(Method, attributes(method))]
pub fn derive_method(input: TokenStream) -> TokenStream {
    derive(input, method::expand)
}

/// Implements `acclimate_core::Fields` for a struct of tensors: how its fields become the named tensors of a patch.
///
/// A field is a `Tensor<N>` or an `Option<Tensor<N>>`. `#[role(input_factor)]` gives it a role, a variant of `Role` in
/// snake case; without one its role is `Role::Other`.
///
/// ```ignore
/// #[derive(Fields)]
/// struct LoraFields {
///     #[role(input_factor)]
///     a: Tensor<2>,
///     #[role(output_factor)]
///     b: Tensor<2>,
/// }
/// ```
#[proc_macro_derive(Fields, attributes(role))]
pub fn derive_fields(input: TokenStream) -> TokenStream {
    derive(input, fields::expand)
}

/// Implements `acclimate_core::Record` for the state of an optimiser or a test-time method: how it is saved and resumed.
///
/// A field is a `Params`, which holds one tensor per parameter, or a `f64`, `u64`, `bool` or `Vec<f64>`. The tensors of a `Params` have the
/// shapes of the parameters, so that a change of a parameter's size is made to them too; with `#[record(own)]` they have shapes of their own,
/// and that of a parameter which changes is dropped.
///
/// ```ignore
/// #[derive(Clone, Debug, Record)]
/// struct AdamState {
///     m: Params,
///     v: Params,
///     step: u64,
/// }
/// ```
#[proc_macro_derive(Record, attributes(record))]
pub fn derive_record(input: TokenStream) -> TokenStream {
    derive(input, record::expand)
}

fn derive(input: TokenStream, expand: fn(&DeriveInput) -> syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    syn::parse(input).and_then(|input| expand(&input)).unwrap_or_else(Error::into_compile_error).into()
}

/// A named field of a struct.
struct Field<'a> {
    /// As it stands in the code.
    ident: &'a Ident,
    /// Without a leading `r#`.
    name: String,
    ty: &'a Type,
    attrs: &'a [syn::Attribute],
}

/// The named fields of a struct without generics; a struct without fields has none.
fn named_fields<'a>(input: &'a DeriveInput, derive: &str) -> syn::Result<Vec<Field<'a>>> {
    if !input.generics.params.is_empty() {
        return Err(Error::new_spanned(&input.generics, format!("`{derive}` takes a struct without generics")));
    }
    let fields = match &input.data {
        syn::Data::Struct(data) if !matches!(data.fields, syn::Fields::Unnamed(_)) => &data.fields,
        _ => return Err(Error::new_spanned(&input.ident, format!("`{derive}` takes a struct with named fields"))),
    };
    Ok(fields
        .iter()
        .filter_map(|f| {
            let ident = f.ident.as_ref()?;
            Some(Field { ident, name: ident.unraw().to_string(), ty: &f.ty, attrs: &f.attrs })
        })
        .collect())
}

/// All values, or all errors in one.
fn all<T>(results: impl Iterator<Item = syn::Result<T>>) -> syn::Result<Vec<T>> {
    let mut values = Vec::new();
    let mut errors: Option<Error> = None;
    for result in results {
        match (result, &mut errors) {
            (Ok(value), _) => values.push(value),
            (Err(error), Some(errors)) => errors.combine(error),
            (Err(error), None) => errors = Some(error),
        }
    }
    errors.map_or(Ok(values), Err)
}

/// The last segment of a type that is a path.
fn last_segment(ty: &Type) -> Option<&PathSegment> {
    match ty {
        Type::Path(path) if path.qself.is_none() => path.path.segments.last(),
        _ => None,
    }
}

/// The one argument of `outer<argument>`.
fn argument<'a>(ty: &'a Type, outer: &str) -> Option<&'a GenericArgument> {
    let segment = last_segment(ty).filter(|segment| segment.ident == outer)?;
    match &segment.arguments {
        PathArguments::AngleBracketed(list) if list.args.len() == 1 => list.args.first(),
        _ => None,
    }
}

/// `T` of `outer<T>`.
fn inner<'a>(ty: &'a Type, outer: &str) -> Option<&'a Type> {
    match argument(ty, outer)? {
        GenericArgument::Type(inner) => Some(inner),
        _ => None,
    }
}

/// Whether a name is in snake case.
fn is_snake(name: &str) -> bool {
    let word =
        |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    name.starts_with(|first: char| first.is_ascii_lowercase()) && name.split('_').all(word)
}

/// The variant that a snake-case name stands for: `input_factor` is `InputFactor`. The compiler points at the name if there
/// is no such variant.
fn variant(name: &Ident) -> syn::Result<Ident> {
    let text = name.unraw().to_string();
    if !is_snake(&text) {
        return Err(Error::new(name.span(), format!("`{text}` must be in snake case, as in `low_rank`")));
    }
    let capital = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
    Ok(Ident::new(&text.split('_').map(capital).collect::<String>(), name.span()))
}

/// Stores a value that may be given once.
fn set<T>(slot: &mut Option<T>, at: &impl Spanned, what: &str, value: T) -> syn::Result<()> {
    match slot.replace(value) {
        Some(_) => Err(Error::new(at.span(), format!("`{what}` is given twice"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of the errors that an expansion answers with.
    pub(crate) fn errors(
        source: &str,
        expand: fn(&DeriveInput) -> syn::Result<proc_macro2::TokenStream>,
    ) -> Vec<String> {
        let errors = expand(&syn::parse_str(source).unwrap()).unwrap_err();
        errors.into_iter().map(|error| error.to_string()).collect()
    }

    /// The generated code without white space.
    pub(crate) fn code(source: &str, expand: fn(&DeriveInput) -> syn::Result<proc_macro2::TokenStream>) -> String {
        expand(&syn::parse_str(source).unwrap()).unwrap().to_string().split_whitespace().collect()
    }

    #[test]
    fn names_become_variants() {
        assert_eq!(variant(&syn::parse_str("identity_at_start").unwrap()).unwrap(), "IdentityAtStart");
        assert!(is_snake("lora") && is_snake("lora_2") && is_snake("fp8"));
        assert!(!is_snake("LoRA") && !is_snake("2x") && !is_snake("a__b") && !is_snake("a_") && !is_snake(""));
    }

    #[test]
    fn other_shapes_are_refused() {
        for expand in [method::expand, fields::expand, record::expand] {
            assert!(errors("struct A<T> { a: T }", expand)[0].ends_with("takes a struct without generics"));
            assert!(errors("struct A(f64);", expand)[0].ends_with("takes a struct with named fields"));
            assert!(errors("enum A { B }", expand)[0].ends_with("takes a struct with named fields"));
        }
    }
}
