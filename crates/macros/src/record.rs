//! `#[derive(Record)]`: the state of an optimiser or a test-time method, saved and resumed exactly.

use crate::{Field, all, inner, last_segment, named_fields};
use proc_macro2::{Ident, TokenStream};
use quote::quote;
use syn::{DeriveInput, Error, Type};

pub(crate) fn expand(input: &DeriveInput) -> syn::Result<TokenStream> {
    let ident = &input.ident;
    let fields = named_fields(input, "Record")?;
    let kinds = all(fields.iter().map(kind))?;
    let mut saves = Vec::new();
    let mut loads = Vec::new();
    let (mut slots, mut own) = (Vec::new(), Vec::new());
    for (Field { ident, name, .. }, kind) in fields.iter().zip(kinds) {
        let call = Ident::new(kind.call(), ident.span());
        let by = kind.by_reference().then(|| quote!(&));
        saves.push(quote!(to.#call(#name, #by self.#ident);));
        loads.push(quote!(#ident: from.#call(#name)?));
        match kind {
            Kind::Params => slots.push(quote!(&mut self.#ident)),
            Kind::Own => own.push(quote!(&mut self.#ident)),
            _ => {}
        }
    }
    let (to, from) = if saves.is_empty() { (quote!(_), quote!(_)) } else { (quote!(to), quote!(from)) };
    let own = (!own.is_empty()).then(|| {
        quote! {
            fn own_mut(&mut self) -> ::std::vec::Vec<&mut ::acclimate_core::Params> {
                ::std::vec![#(#own),*]
            }
        }
    });
    Ok(quote! {
        #[automatically_derived]
        impl ::acclimate_core::Record for #ident {
            fn save(&self, #to: &mut ::acclimate_core::RecordWriter) {
                #(#saves)*
            }

            fn load(#from: &mut ::acclimate_core::RecordReader) -> ::acclimate_core::Result<Self> {
                ::core::result::Result::Ok(Self { #(#loads),* })
            }

            fn slots_mut(&mut self) -> ::std::vec::Vec<&mut ::acclimate_core::Params> {
                ::std::vec![#(#slots),*]
            }

            #own
        }
    })
}

/// What a field holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Params,
    /// `Params` of other shapes than the parameters'.
    Own,
    F64,
    U64,
    Bool,
    F64s,
}

impl Kind {
    /// The method of the writer and of the reader.
    fn call(self) -> &'static str {
        match self {
            Self::Params | Self::Own => "params",
            Self::F64 => "f64",
            Self::U64 => "u64",
            Self::Bool => "bool",
            Self::F64s => "f64s",
        }
    }

    fn by_reference(self) -> bool {
        matches!(self, Self::Params | Self::Own | Self::F64s)
    }
}

fn kind(field: &Field) -> syn::Result<Kind> {
    let refused = || {
        let text = format!("`{}` must be a `Params`, `f64`, `u64`, `bool` or `Vec<f64>`", field.name);
        Error::new_spanned(field.ty, text)
    };
    if inner(field.ty, "Vec").is_some_and(|ty| is(ty, "f64")) {
        return Ok(Kind::F64s);
    }
    let plain = [("Params", Kind::Params), ("f64", Kind::F64), ("u64", Kind::U64), ("bool", Kind::Bool)];
    let kind = plain.into_iter().find(|(name, _)| is(field.ty, name)).map(|(_, kind)| kind).ok_or_else(refused)?;
    let Some(attr) = field.attrs.iter().find(|attr| attr.path().is_ident("record")) else { return Ok(kind) };
    if kind != Kind::Params {
        return Err(Error::new_spanned(field.ty, format!("`record` stands on `Params`, not on `{}`", field.name)));
    }
    let word: Ident = attr.parse_args()?;
    if word != "own" {
        return Err(Error::new(word.span(), "unknown key; `record` takes `own`"));
    }
    Ok(Kind::Own)
}

fn is(ty: &Type, name: &str) -> bool {
    last_segment(ty).is_some_and(|segment| segment.ident == name && segment.arguments.is_none())
}

#[cfg(test)]
mod tests {
    use super::expand;
    use crate::tests::{code, errors};

    #[test]
    fn each_type_has_its_call() {
        let code = code("struct S { m: Params, d: f64, step: u64, on: bool, past: Vec<f64>, v: core::Params }", expand);
        assert!(code.contains(r#"to.params("m",&self.m);to.f64("d",self.d);to.u64("step",self.step);"#), "{code}");
        assert!(code.contains(r#"to.bool("on",self.on);to.f64s("past",&self.past);"#), "{code}");
        assert!(code.contains(r#"Self{m:from.params("m")?,d:from.f64("d")?,step:from.u64("step")?,"#), "{code}");
        assert!(code.contains("vec![&mutself.m,&mutself.v]"), "{code}");
    }

    #[test]
    fn fields_of_other_shapes_are_no_slots() {
        let code = code("struct S { m: Params, #[record(own)] rows: Params }", expand);
        assert!(code.contains(r#"to.params("m",&self.m);to.params("rows",&self.rows);"#), "{code}");
        assert!(code.contains("{::std::vec![&mutself.m]}"), "{code}");
        assert!(
            code.contains(
                "fnown_mut(&mutself)->::std::vec::Vec<&mut::acclimate_core::Params>{::std::vec![&mutself.rows]}"
            ),
            "{code}"
        );
        let text = errors("struct S { #[record(own)] k: u64, #[record(shared)] m: Params }", expand);
        assert_eq!(text, ["`record` stands on `Params`, not on `k`", "unknown key; `record` takes `own`"]);
    }

    #[test]
    fn other_types_are_refused() {
        let text = errors("struct S { a: usize, b: Vec<u64> }", expand);
        assert_eq!(text[0], "`a` must be a `Params`, `f64`, `u64`, `bool` or `Vec<f64>`");
        assert_eq!(text[1], "`b` must be a `Params`, `f64`, `u64`, `bool` or `Vec<f64>`");
    }
}
