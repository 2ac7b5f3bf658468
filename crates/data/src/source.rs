//! Names of models and data, and the local folders they stand for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use acclimate_core::{Error, Result};
use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Cache, Repo, RepoType};

use crate::assets::Assets;

/// Files taken from a hub repository beside its weights, where it has them.
const BESIDE: [&str; 5] =
    ["config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"];
/// Weights in one file, or the list of their parts, best first.
const WEIGHTS: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];
/// Most parts of a model's weights.
const MAX_PARTS: usize = 1000;

/// Where a model or data comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file or folder.
    Path(PathBuf),
    /// `asset:NAME`: something a registry package carries.
    Asset(String),
    /// `hf:ORG/NAME` or `hf:ORG/NAME@REVISION`: a model of the Hugging Face hub.
    Hub {
        /// Organisation and name.
        name: String,
        /// Branch, tag or commit; `main` unless said.
        revision: String,
    },
}

impl Source {
    /// Reads a name. What has no known prefix is a path.
    ///
    /// # Errors
    /// A hub name that is not `ORG/NAME`.
    pub fn parse(name: &str) -> Result<Self> {
        if let Some(asset) = name.strip_prefix("asset:") {
            return Ok(Self::Asset(asset.to_owned()));
        }
        let Some(hub) = name.strip_prefix("hf:") else { return Ok(Self::Path(name.into())) };
        let (repo, revision) = hub.split_once('@').unwrap_or((hub, "main"));
        let plain = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && part.chars().all(known) && !part.starts_with('.')
        };
        match repo.split_once('/') {
            Some((org, model)) if plain(org) && plain(model) && revision.split('/').all(plain) => {
                Ok(Self::Hub { name: repo.to_owned(), revision: revision.to_owned() })
            }
            _ => Err(Error::Other(format!("`{name}` is no hub model; write `hf:ORG/NAME` or `hf:ORG/NAME@REVISION`"))),
        }
    }

    /// The local file or folder, fetched first where that is needed and `assets` is not offline.
    ///
    /// # Errors
    /// A path that does not exist, with the asset or hub name that may have been meant; what fetching meets.
    pub fn resolve(&self, assets: &Assets) -> Result<PathBuf> {
        match self {
            Self::Path(path) if path.exists() => Ok(path.clone()),
            Self::Path(path) => Err(no_path(path, assets)),
            Self::Asset(name) => assets.folder(name),
            Self::Hub { name, revision } => {
                let repo = Repo::with_revision(name.clone(), RepoType::Model, revision.clone());
                match assets.offline() {
                    true => cached(&Cache::from_env(), &repo),
                    false => download(&Cache::from_env(), &repo),
                }
            }
        }
    }
}

fn no_path(path: &Path, assets: &Assets) -> Error {
    let name = path.to_string_lossy();
    let meant = if assets.find(&name).is_ok() {
        format!("did you mean `asset:{name}`?")
    } else if name.split('/').count() == 2 && !name.contains('\\') && !name.starts_with(['.', '/', '~']) {
        format!("for a hub model write `hf:{name}`")
    } else {
        "check the path".to_owned()
    };
    Error::Other(format!("there is no file or folder `{name}`; {meant}"))
}

fn hub_error(repo: &Repo, what: &str) -> Error {
    Error::Other(format!("hf:{}: {what}", repo.url()))
}

/// The files that are wanted of those there are: at most one kind of weights.
fn wanted<'a>(there: &BTreeSet<&'a str>) -> Option<(Vec<&'a str>, &'a str)> {
    let beside = BESIDE.iter().filter_map(|name| there.get(name).copied()).collect();
    let weights = WEIGHTS.iter().find_map(|name| there.get(name).copied())?;
    there.contains("config.json").then_some((beside, weights))
}

/// The parts that an index of weights names: plain file names, each once.
fn parts(index: &Path) -> Result<BTreeSet<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let text = std::fs::read(index).map_err(|e| Error::io(index, e))?;
    let read: Index = serde_json::from_slice(&text).map_err(|e| Error::format(index, e.to_string()))?;
    let parts: BTreeSet<String> = read.weight_map.into_values().collect();
    match parts.iter().find(|part| part.contains(['/', '\\']) || part.starts_with('.')) {
        Some(part) => Err(Error::format(index, format!("names `{part}`, which is no plain file name"))),
        None if parts.len() > MAX_PARTS => Err(Error::format(index, format!("names more than {MAX_PARTS} parts"))),
        None => Ok(parts),
    }
}

/// The folder of a repository in the hub's own cache, if all of it is there.
fn cached(cache: &Cache, repo: &Repo) -> Result<PathBuf> {
    let files = cache.repo(repo.clone());
    let missing = |what: &str| hub_error(repo, &format!("{what} is not in the cache; run once with a network"));
    let config = files.get("config.json").ok_or_else(|| missing("`config.json`"))?;
    let weights = WEIGHTS.iter().find_map(|name| files.get(name)).ok_or_else(|| missing("a file of weights"))?;
    if weights.extension().is_some_and(|kind| kind == "json")
        && let Some(part) = parts(&weights)?.iter().find(|part| files.get(part).is_none())
    {
        return Err(missing(&format!("`{part}`")));
    }
    Ok(config.parent().map_or_else(PathBuf::new, Path::to_owned))
}

fn download(cache: &Cache, repo: &Repo) -> Result<PathBuf> {
    let hub = |e: hf_hub::api::sync::ApiError| hub_error(repo, &format!("{e}; check the name and the network"));
    let api =
        ApiBuilder::from_cache(cache.clone()).with_token(cache.token()).with_progress(false).build().map_err(hub)?;
    let api = api.repo(repo.clone());
    let info = api.info().map_err(hub)?;
    let there: BTreeSet<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
    let none =
        || hub_error(repo, &format!("has no `config.json` with one of `{}`; choose another", WEIGHTS.join("`, `")));
    let (beside, weights) = wanted(&there).ok_or_else(none)?;
    for name in beside {
        api.get(name).map_err(hub)?;
    }
    let file = api.get(weights).map_err(hub)?;
    if weights.ends_with(".json") {
        for part in parts(&file)? {
            api.get(&part).map_err(hub)?;
        }
    }
    cached(cache, repo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let parse = |name| Source::parse(name).unwrap();
        assert_eq!(parse("asset:minilm"), Source::Asset("minilm".into()));
        assert_eq!(parse("models/mine"), Source::Path("models/mine".into()));
        let hub = |revision: &str| Source::Hub { name: "org/a.b-1".into(), revision: revision.into() };
        assert_eq!(parse("hf:org/a.b-1"), hub("main"));
        assert_eq!(parse("hf:org/a.b-1@refs/pr/1"), hub("refs/pr/1"));
        for bad in ["hf:org", "hf:org/", "hf:org/a/b", "hf:../a", "hf:org/a@../x", "hf:org/a@"] {
            assert!(Source::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn absent_paths_say_what_may_be_meant() {
        let folder = tempfile::tempdir().unwrap();
        let assets = Assets::at(folder.path(), true).unwrap();
        let error = |name| Source::parse(name).unwrap().resolve(&assets).unwrap_err().to_string();
        assert!(error("minilm").ends_with("did you mean `asset:minilm`?"));
        assert!(error("no-org/model").ends_with("write `hf:no-org/model`"));
        assert!(error("./no-folder").ends_with("check the path"));
        assert!(error("asset:minilm").contains("acclimate assets get minilm"));
        let path = folder.path().to_str().unwrap();
        assert_eq!(Source::parse(path).unwrap().resolve(&assets).unwrap(), folder.path());
    }

    #[test]
    fn safetensors_come_before_pickles() {
        let there = |names: &[&'static str]| names.iter().copied().collect::<BTreeSet<_>>();
        let all = there(&["README.md", "config.json", "pytorch_model.bin", "model.safetensors", "vocab.txt"]);
        assert_eq!(wanted(&all), Some((vec!["config.json", "vocab.txt"], "model.safetensors")));
        assert_eq!(wanted(&there(&["config.json"])), None);
        assert_eq!(wanted(&there(&["model.safetensors"])), None);
    }

    #[test]
    fn offline_needs_all_parts() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().to_owned());
        let repo = Repo::model("org/model".into());
        assert!(cached(&cache, &repo).unwrap_err().to_string().contains("`config.json` is not in the cache"));
        cache.repo(repo.clone()).create_ref("c0ffee").unwrap();
        let snapshot = folder.path().join("models--org--model/snapshots/c0ffee");
        std::fs::create_dir_all(&snapshot).unwrap();
        let write = |name: &str, text: &str| std::fs::write(snapshot.join(name), text).unwrap();
        write("config.json", "{}");
        assert!(cached(&cache, &repo).unwrap_err().to_string().contains("a file of weights"));
        let index =
            |part: &str| write("model.safetensors.index.json", &format!(r#"{{"weight_map": {{"w": "{part}"}}}}"#));
        index("part-1.safetensors");
        assert!(cached(&cache, &repo).unwrap_err().to_string().contains("`part-1.safetensors`"));
        write("part-1.safetensors", "");
        assert_eq!(cached(&cache, &repo).unwrap(), snapshot);
        index("../../evil");
        assert!(cached(&cache, &repo).unwrap_err().to_string().contains("no plain file name"));
    }
}
