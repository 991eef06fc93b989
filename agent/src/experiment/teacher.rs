//! Teachers that are trained already: where their networks lie.

use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::overrides;
use crate::ids::Digest;

/// The final network in an agent's folder.
pub const LAST: &str = "model.onnx";

#[derive(Debug, thiserror::Error)]
pub enum TeacherError {
    #[error("cannot read `{}`", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error(
        "no teacher in `{}`: expected an ONNX file, the folder of an agent that has finished, or the --out of `dkt experiment teacher`",
        .path.display()
    )]
    None { path: PathBuf },
    #[error("several teachers in `{}`; name one of {found}", .path.display())]
    Several { path: PathBuf, found: String },
}

/// A trained teacher.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    pub folder: PathBuf,
    /// Its final network.
    pub last: PathBuf,
    /// Its network after each experience, as far as it was kept.
    pub by_experience: Vec<PathBuf>,
    /// Its `stream.class_order`, if it says so.
    pub class_order: Option<Value>,
    /// Of all these networks.
    pub digest: String,
}

/// Folder of a teacher of that seed below an experiment's.
pub(super) fn folder(out: &Path, seed: u64) -> PathBuf {
    out.join("teacher").join(format!("seed-{seed}"))
}

/// The network after an experience, counted from 1.
pub fn checkpoint(folder: &Path, experience: usize) -> PathBuf {
    folder.join("models").join(format!("experience-{experience}.onnx"))
}

/// Finds the teacher that `path` means: an ONNX file, an agent's folder, or the folder of an experiment that has
/// trained one.
///
/// # Errors
/// [`TeacherError`] if there is none, or more than one.
pub fn find(path: &Path) -> Result<Trained, TeacherError> {
    if path.is_file() {
        return read(path.to_owned(), path.to_owned(), Vec::new(), None);
    }
    let folder = if path.join(LAST).is_file() { path.to_owned() } else { only_one_below(path)? };
    let last = folder.join(LAST);
    let by_experience =
        (1..).map(|i| checkpoint(&folder, i)).take_while(|checkpoint| checkpoint.is_file()).collect();
    let class_order = class_order(&folder.join("agent.toml"))?;
    read(folder, last, by_experience, class_order)
}

/// `path/teacher/seed-*/*` that has a final network.
fn only_one_below(path: &Path) -> Result<PathBuf, TeacherError> {
    let mut found = Vec::new();
    for seed in entries(&path.join("teacher")) {
        found.extend(entries(&seed).into_iter().filter(|agent| agent.join(LAST).is_file()));
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(TeacherError::None { path: path.to_owned() }),
        several => {
            let names: Vec<String> = several.iter().map(|p| format!("`{}`", p.display())).collect();
            Err(TeacherError::Several { path: path.to_owned(), found: names.join(", ") })
        }
    }
}

/// In the order of their names; nothing where there is no folder.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

fn class_order(path: &Path) -> Result<Option<Value>, TeacherError> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TeacherError::Read { path: path.to_owned(), source }),
        Ok(text) => {
            let table = toml::from_str::<Table>(&text).unwrap_or_default();
            Ok(overrides::get(&table, "stream.class_order").cloned())
        }
    }
}

fn read(
    folder: PathBuf,
    last: PathBuf,
    by_experience: Vec<PathBuf>,
    class_order: Option<Value>,
) -> Result<Trained, TeacherError> {
    let mut hasher = blake3::Hasher::new();
    for path in by_experience.iter().chain([&last]) {
        let bytes = fs::read(path).map_err(|source| TeacherError::Read { path: path.clone(), source })?;
        hasher.update(blake3::hash(&bytes).as_bytes());
    }
    let digest = Digest(*hasher.finalize().as_bytes()).short();
    Ok(Trained { folder, last, by_experience, class_order, digest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_teacher_is_found_where_an_experiment_has_left_it() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path();
        assert!(matches!(find(out), Err(TeacherError::None { .. })));
        let agent = folder(out, 7).join("lwf");
        fs::create_dir_all(agent.join("models")).unwrap();
        fs::write(agent.join(LAST), "last").unwrap();
        for i in [1, 2, 4] {
            fs::write(checkpoint(&agent, i), format!("network {i}")).unwrap();
        }
        fs::write(agent.join("agent.toml"), "stream.class_order = [1, 0]").unwrap();
        let found = find(out).unwrap();
        assert_eq!(found, find(&agent).unwrap());
        assert_eq!(found.by_experience, [checkpoint(&agent, 1), checkpoint(&agent, 2)]);
        assert_eq!(found.class_order, Some(Value::Array(vec![1.into(), 0.into()])));
        let file = find(&agent.join(LAST)).unwrap();
        assert_eq!((&file.last, file.class_order), (&agent.join(LAST), None));
        assert_ne!(file.digest, found.digest);
        let other = folder(out, 8).join("lwf");
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join(LAST), "last").unwrap();
        let error = find(out).unwrap_err().to_string();
        assert!(error.contains("seed-7/lwf`, `"), "{error}");
    }
}
