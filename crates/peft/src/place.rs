use acclimate_core::{Adapter, Error, Model, Patch, Result, Rng, Site, Targets};

/// Adds a method to a patch at the sites that `targets` mean; without targets at those that the card of `name` states. `name` is the
/// method's or a preset's.
///
/// A word such as `all` passes over sites that the method cannot stand at, and over the model's head where the patch brings one of
/// its own; a site meant by its name must fit.
///
/// # Errors
/// Targets that match no site or none that fits, and the method's own.
///
/// # Example
/// ```no_run
/// # fn tune(model: &dyn acclimate_core::Model) -> acclimate_core::Result<()> {
/// use acclimate_core::{Patch, Rng};
///
/// let mut patch = Patch::new();
/// let bitfit = acclimate_peft::build("bitfit", &Default::default())?;
/// acclimate_peft::place(&mut patch, model, "bitfit", bitfit, None, &mut Rng::new(0, "patch", 0))?;
/// assert!(patch.params.names().all(|name| name.ends_with(".bias")));
/// # Ok(())
/// # }
/// ```
pub fn place(
    patch: &mut Patch,
    model: &dyn Model,
    name: &str,
    adapter: Adapter,
    targets: Option<&Targets>,
    rng: &mut Rng,
) -> Result<()> {
    let default = crate::card(name)?.targets.into();
    let targets = targets.unwrap_or(&default);
    let mut sites: Vec<Site> = targets.select(model.sites())?;
    if targets.is_kind() {
        let unused = model.head().filter(|_| patch.has_head());
        sites.retain(|site| adapter.accepts(site) && Some(site.name.as_str()) != unused);
        if sites.is_empty() {
            return Err(Error::Unsupported {
                who: name.to_owned(),
                what: format!("stand at any of the sites that {targets:?} means"),
                instead: format!("its own choice is {default:?}"),
            });
        }
    }
    patch.add(model, adapter, &sites, rng)
}
