//! The factors of low-rank updates among the parameters of a patch.

use acclimate_core::{AnyTensor, Params, Role};

/// The factors of an update $BA$, by name.
#[derive(Clone, Copy)]
pub(crate) struct Pair<'a> {
    /// $A$, `[rank, in]`.
    pub(crate) input: &'a str,
    /// $B$, `[out, rank]`.
    pub(crate) output: &'a str,
}

/// Every input factor with the output factor of the same part of the same site: their names are equal up to the last dot. Matrices that do
/// not multiply to something of at most their rank, such as the layers of a bottleneck, are none.
pub(crate) fn pairs<'a>(params: &'a Params, roles: &[Role]) -> Vec<Pair<'a>> {
    let of = |role: Role| params.iter().zip(roles).filter(move |(_, found)| **found == role).map(|(entry, _)| entry);
    let mut pairs = vec![];
    for (input, a) in of(Role::InputFactor) {
        let partner = |(output, b): &(&str, &AnyTensor)| {
            stem(output).is_some() && stem(output) == stem(input) && multiply(&b.shape(), &a.shape())
        };
        pairs.extend(of(Role::OutputFactor).find(partner).map(|(output, _)| Pair { input, output }));
    }
    pairs
}

fn stem(name: &str) -> Option<&str> {
    name.rsplit_once('.').map(|(stem, _)| stem)
}

fn multiply(output: &[usize], input: &[usize]) -> bool {
    matches!((output, input), (&[out, rank], &[inner, width]) if rank == inner && rank <= out.min(width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device};

    #[test]
    fn factors_pair_up_by_site_and_part_and_shape() {
        let mut params = Params::default();
        let leaves: [(&str, &[usize], Role); 8] = [
            ("0.key.lora.a", &[2, 5], Role::InputFactor),
            ("0.key.lora.b", &[4, 2], Role::OutputFactor),
            ("0.key.lora_2.a", &[2, 5], Role::InputFactor),
            ("0.key.houlsby.w1", &[8, 3], Role::InputFactor),
            ("0.key.houlsby.w2", &[3, 8], Role::OutputFactor),
            ("a", &[2, 5], Role::InputFactor),
            ("b", &[4, 2], Role::OutputFactor),
            ("0.value.lora.a", &[2, 5], Role::Weight),
        ];
        for (name, shape, _) in leaves {
            params.insert(name, AnyTensor::zeros(shape, DType::F32, &Device::flex()));
        }
        let found = pairs(&params, &leaves.map(|(_, _, role)| role));
        let names: Vec<_> = found.iter().map(|pair| (pair.input, pair.output)).collect();
        assert_eq!(names, [("0.key.lora.a", "0.key.lora.b")]);
    }
}
