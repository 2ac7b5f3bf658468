//! `#[derive(Fields)]`: a struct of tensors to and from the named tensors of a patch.

use crate::{Field, all, argument, inner, named_fields, set, variant};
use proc_macro2::{Ident, TokenStream};
use quote::quote;
use syn::{DeriveInput, Error, Type};

pub(crate) fn expand(input: &DeriveInput) -> syn::Result<TokenStream> {
    let ident = &input.ident;
    let parts = all(named_fields(input, "Fields")?.iter().map(store_and_load))?;
    let (stores, loads): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    let (to, from) = if stores.is_empty() { (quote!(_), quote!(_)) } else { (quote!(to), quote!(from)) };
    Ok(quote! {
        #[automatically_derived]
        impl ::acclimate_core::Fields for #ident {
            fn store(self, #to: &mut ::acclimate_core::Slots) {
                #(#stores)*
            }

            fn load(#from: &::acclimate_core::Bag<'_>) -> ::acclimate_core::Result<Self> {
                ::core::result::Result::Ok(Self { #(#loads),* })
            }
        }
    })
}

/// The statement that stores a field, and the initialiser that loads it.
fn store_and_load(field: &Field) -> syn::Result<(TokenStream, TokenStream)> {
    let Field { ident, name, ty, .. } = field;
    let role = role(field)?;
    let role = quote!(::acclimate_core::Role::#role);
    if is_tensor(ty) {
        return Ok((quote!(to.put(#name, #role, self.#ident);), quote!(#ident: from.get(#name)?)));
    }
    if inner(ty, "Option").is_some_and(is_tensor) {
        let store = quote! {
            if let ::core::option::Option::Some(tensor) = self.#ident {
                to.put(#name, #role, tensor);
            }
        };
        return Ok((store, quote!(#ident: from.opt(#name)?)));
    }
    Err(Error::new_spanned(ty, format!("`{name}` must be a `Tensor<N>` or an `Option<Tensor<N>>`")))
}

fn is_tensor(ty: &Type) -> bool {
    argument(ty, "Tensor").is_some()
}

fn role(field: &Field) -> syn::Result<Ident> {
    let mut role = None;
    for attr in field.attrs.iter().filter(|attr| attr.path().is_ident("role")) {
        set(&mut role, attr, "role", variant(&attr.parse_args()?)?)?;
    }
    Ok(role.unwrap_or_else(|| Ident::new("Other", field.ident.span())))
}

#[cfg(test)]
mod tests {
    use super::expand;
    use crate::tests::{code, errors};

    #[test]
    fn fields_are_stored_under_their_names_and_roles() {
        let code = code("struct P { #[role(input_factor)] a: Tensor<2>, bias: Option<core::Tensor<1>> }", expand);
        assert!(code.contains(r#"to.put("a",::acclimate_core::Role::InputFactor,self.a);"#), "{code}");
        assert!(code.contains(r#"to.put("bias",::acclimate_core::Role::Other,tensor);"#), "{code}");
        assert!(code.contains(r#"Self{a:from.get("a")?,bias:from.opt("bias")?}"#), "{code}");
    }

    #[test]
    fn other_types_and_roles_are_refused() {
        let text = errors("struct P { a: Vec<f64>, b: Tensor, c: Tensor<1> }", expand);
        assert_eq!(text[0], "`a` must be a `Tensor<N>` or an `Option<Tensor<N>>`");
        assert_eq!(text[1], "`b` must be a `Tensor<N>` or an `Option<Tensor<N>>`");
        assert_eq!(text.len(), 2);
        let text = errors("struct P { #[role(InputFactor)] a: Tensor<2> }", expand);
        assert_eq!(text, ["`InputFactor` must be in snake case, as in `low_rank`"]);
        assert_eq!(errors("struct P { #[role(a)] #[role(b)] a: Tensor<2> }", expand), ["`role` is given twice"]);
    }
}
