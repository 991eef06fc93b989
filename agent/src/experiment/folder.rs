//! The folder of an experiment: whose it is, and that only one command works in it at a time.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable::{self, WriteError};

/// Name of the file that says which experiment the folder holds.
const FILE: &str = "experiment.json";
const LOCK: &str = ".lock";
/// Version of the file that this build writes and reads.
const VERSION: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("cannot {action} `{}`", .path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("`{}` is not empty and no experiment's; choose another --out", .path.display())]
    Occupied { path: PathBuf },
    #[error("`{}` is in use by another `dkt experiment`; choose another --out", .path.display())]
    InUse { path: PathBuf },
    #[error("`{}` does not say which experiment it belongs to; choose another --out", .path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error(
        "`{}` holds another experiment (expected {key} = {expected}, found {found}); choose another --out",
        .path.display()
    )]
    Other { path: PathBuf, key: String, expected: String, found: String },
}

#[derive(Serialize, Deserialize)]
struct Identity {
    version: u32,
    settings: BTreeMap<String, String>,
}

/// A folder that is this experiment's as long as this lives.
#[derive(Debug)]
pub struct ExperimentFolder {
    _lock: File,
}

impl ExperimentFolder {
    /// Takes a new or empty folder, or one that holds the experiment of the very same settings.
    ///
    /// # Errors
    /// [`FolderError`]; what is in the folder stays as it is then.
    pub fn open(path: &Path, settings: &BTreeMap<String, String>) -> Result<Self, FolderError> {
        let file = path.join(FILE);
        let is_new = match fs::read_to_string(&file) {
            Ok(text) => {
                let identity: Identity = serde_json::from_str(&text)
                    .map_err(|source| FolderError::Parse { path: file.clone(), source })?;
                same(path, settings, &identity)?;
                false
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
            Err(source) => return Err(FolderError::Io { action: "read", path: file, source }),
        };
        fs::create_dir_all(path).map_err(failed("create", path))?;
        let is_ours = |name: std::ffi::OsString| name == LOCK;
        if is_new {
            for entry in fs::read_dir(path).map_err(failed("list", path))? {
                if !is_ours(entry.map_err(failed("list", path))?.file_name()) {
                    return Err(FolderError::Occupied { path: path.to_owned() });
                }
            }
        }
        let lock = File::create(path.join(LOCK)).map_err(failed("lock", path))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => FolderError::InUse { path: path.to_owned() },
            TryLockError::Error(source) => failed("lock", path)(source),
        })?;
        if is_new {
            let identity = Identity { version: VERSION, settings: settings.clone() };
            let text = serde_json::to_string_pretty(&identity).expect("invariant: settings have a JSON form");
            durable::write(&file, text.as_bytes())?;
        }
        Ok(ExperimentFolder { _lock: lock })
    }
}

/// Compares the settings key by key; one that only one side has counts as different.
fn same(path: &Path, now: &BTreeMap<String, String>, kept: &Identity) -> Result<(), FolderError> {
    let other = |key: &str, expected: &str, found: &str| {
        let (key, expected, found) = (key.to_owned(), expected.to_owned(), found.to_owned());
        Err(FolderError::Other { path: path.to_owned(), key, expected, found })
    };
    if kept.version != VERSION {
        return other("version", &VERSION.to_string(), &kept.version.to_string());
    }
    // Another experiment altogether differs in many keys; this one says most.
    let first = |key: &&String| *key != "experiment";
    let mut keys: Vec<&String> = now.keys().chain(kept.settings.keys()).collect();
    keys.sort_by_key(first);
    for key in keys {
        let (expected, found) = (now.get(key), kept.settings.get(key));
        if expected != found {
            let text = |value: Option<&String>| value.map_or("nothing", String::as_str).to_owned();
            return other(key, &text(expected), &text(found));
        }
    }
    Ok(())
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> FolderError + 'a {
    move |source| FolderError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(epochs: &str) -> BTreeMap<String, String> {
        [("experiment", "step-training"), ("student.train.epochs", epochs)]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into()
    }

    #[test]
    fn a_folder_is_one_experiments() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs/one");
        let first = ExperimentFolder::open(&path, &settings("3")).unwrap();
        assert!(matches!(ExperimentFolder::open(&path, &settings("3")), Err(FolderError::InUse { .. })));
        drop(first);
        ExperimentFolder::open(&path, &settings("3")).unwrap();
        let error = ExperimentFolder::open(&path, &settings("4")).unwrap_err().to_string();
        assert!(error.contains("expected student.train.epochs = 4, found 3"), "{error}");
        let mut more = settings("3");
        more.insert("scale".to_owned(), "1".to_owned());
        let error = ExperimentFolder::open(&path, &more).unwrap_err().to_string();
        assert!(error.contains("expected scale = 1, found nothing"), "{error}");
        more.insert("experiment".to_owned(), "strategies".to_owned());
        let error = ExperimentFolder::open(&path, &more).unwrap_err().to_string();
        assert!(error.contains("expected experiment = strategies, found step-training"), "{error}");
    }

    #[test]
    fn somebody_elses_folder_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
        let error = ExperimentFolder::open(dir.path(), &settings("3")).unwrap_err();
        assert!(matches!(error, FolderError::Occupied { .. }), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{}").unwrap();
        assert!(matches!(ExperimentFolder::open(dir.path(), &settings("3")), Err(FolderError::Parse { .. })));
    }
}
