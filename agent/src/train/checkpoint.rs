//! What an agent keeps on disk to go on from where it was stopped: one safetensors file per checkpoint.
//!
//! A file holds every state tensor under its ONNX name, and in its metadata a manifest (JSON) and a BLAKE3
//! checksum over manifest and tensors. After a crash at any moment the folder holds the checkpoint before or the
//! one after.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use onnx_grad::graph::Tensor;
use safetensors::tensor::SafeTensors;
use serde::{Deserialize, Serialize};

use super::step::StepReport;
use super::tensors;
use crate::durable::{self, TEMPORARY_SUFFIX, WriteError};
use crate::ids::{AgentId, Digest, Round};
use crate::strategy::schedule::EarlyStopping;
use crate::telemetry::event::{Epoch, Evaluated, Initial, Usage};

/// Version of the manifest that this build writes.
pub const VERSION: u32 = 1;
const PREFIX: &str = "checkpoint-";
const SUFFIX: &str = ".safetensors";
const DAMAGED_EXTENSION: &str = "damaged";
/// A file that the run which owns the folder has locked.
const LOCK_NAME: &str = ".lock";
const MANIFEST_KEY: &str = "dkt.manifest";
const CHECKSUM_KEY: &str = "dkt.blake3";

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("cannot {action} `{}`", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("`{}` is in use by another run; give each agent an `out` of its own", .path.display())]
    InUse { path: PathBuf },
    #[error("checkpoint `{}` is damaged: {what}", .path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("checkpoint `{}` has version {found}, expected at most {VERSION}; use a newer dkt", .path.display())]
    Version { path: PathBuf, found: u32 },
    #[error(
        "checkpoint `{}` was trained with {what} `{saved}`, and the configuration has `{now}`; choose another `out`, or remove the folder to start anew",
        .path.display()
    )]
    Mismatch { path: PathBuf, what: &'static str, now: String, saved: String },
}

/// Where in its stream an agent is: the next thing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub experience: u32,
    pub epoch: u32,
    /// Mini-batch within the epoch.
    pub batch: u32,
    /// Training steps done.
    pub step: u64,
    /// Steps done when the experience began.
    #[serde(default)]
    pub experience_began: u64,
}

/// What an epoch has come to so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochSums {
    /// Of the whole, the continual-learning head's and the student head's losses, batch by batch.
    pub losses: [f64; 3],
    /// Of what keeps the past: distance to earlier answers, and to earlier parameters.
    #[serde(default)]
    pub losses_of_past: [f64; 2],
    pub n_batches: u32,
    pub n_rows: u64,
    /// Rows that had a teacher.
    pub n_taught: u64,
    /// Steps that moved nothing because a gradient overflowed; their losses are not in the sums.
    #[serde(default)]
    pub n_skipped: u32,
    pub seconds: f64,
}

impl EpochSums {
    pub fn add(&mut self, report: &StepReport, n_rows: usize, n_taught: usize) {
        if report.skipped {
            self.n_skipped += 1;
        } else {
            let add = |sum: &mut f64, loss: f32| *sum += f64::from(loss);
            let [whole, cl, student] = &mut self.losses;
            let [retention, penalty] = &mut self.losses_of_past;
            add(whole, report.loss);
            add(cl, report.loss_cl);
            add(student, report.loss_st);
            add(retention, report.loss_retention);
            add(penalty, report.loss_penalty);
            self.n_batches += 1;
        }
        self.n_rows += n_rows as u64;
        self.n_taught += n_taught as u64;
    }

    /// The epoch's means, in the epoch that `of` says.
    pub fn means(&self, of: Epoch) -> Epoch {
        let mean = |sum: f64| (sum / f64::from(self.n_batches.max(1))) as f32;
        let [loss, loss_cl, loss_st] = self.losses.map(mean);
        let [retention, penalty] = self.losses_of_past.map(mean);
        let n_rows = self.n_rows as f64;
        Epoch {
            loss,
            loss_cl,
            loss_st,
            loss_retention: of.loss_retention.map(|_| retention),
            loss_penalty: of.loss_penalty.map(|_| penalty),
            teacher_share: (self.n_taught as f64 / n_rows.max(1.0)) as f32,
            samples_per_second: (n_rows / self.seconds.max(1e-6)) as f32,
            n_skipped: self.n_skipped,
            ..of
        }
    }
}

/// Everything about a checkpoint that is not a tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    pub agent: AgentId,
    pub training_graph: Digest,
    /// Digest of all data and their augmentation.
    pub data: Digest,
    /// Those settings that decide how training goes on, by their keys.
    pub settings: BTreeMap<String, serde_json::Value>,
    pub position: Position,
    /// Steps so far that moved nothing, because a gradient overflowed in float16.
    #[serde(default)]
    pub n_skipped: u64,
    /// Updates before the optimiser's averages were last set to zero.
    #[serde(default)]
    pub n_before_averages: u64,
    /// Of the experience that `position` is in.
    #[serde(default)]
    pub early_stopping: EarlyStopping,
    /// Of the epoch that `position` is in.
    pub sums: EpochSums,
    /// Samples offered to the replay buffer so far, and those it holds.
    pub replay_n_seen: u64,
    pub replay_ids: Vec<u32>,
    /// The agent's last round as a teacher.
    pub round: Round,
    /// What the experience that `position` is in has taken.
    #[serde(default)]
    pub usage: Usage,
    /// Accuracies before the first step, if they were measured.
    #[serde(default)]
    pub initial: Option<Initial>,
    /// The course of training so far.
    pub epochs: Vec<Epoch>,
    /// Accuracies after the experiences trained so far.
    pub evaluated: Vec<Evaluated>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    pub manifest: Manifest,
    pub tensors: BTreeMap<String, Tensor>,
}

/// What [`CheckpointStore::newest`] has found.
pub struct Newest {
    /// The newest checkpoint that is whole.
    pub found: Option<(PathBuf, Checkpoint)>,
    /// What is wrong with each one that was passed over.
    pub damaged: Vec<CheckpointError>,
}

/// The checkpoints of one agent.
pub struct CheckpointStore {
    dir: PathBuf,
    keep: usize,
    /// Locked as long as this lives.
    _lock: File,
}

impl CheckpointStore {
    /// Makes the folder, and clears it of what a killed agent left unfinished.
    ///
    /// # Errors
    /// [`CheckpointError::InUse`] if another run has it; [`CheckpointError::Io`] if the folder cannot be made or
    /// cleared.
    pub fn open(dir: &Path, keep: usize) -> Result<Self, CheckpointError> {
        fs::create_dir_all(dir).map_err(io_error("create the folder", dir))?;
        let lock = File::create(dir.join(LOCK_NAME)).map_err(io_error("lock", dir))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => CheckpointError::InUse { path: dir.to_owned() },
            TryLockError::Error(source) => io_error("lock", dir)(source),
        })?;
        let store = CheckpointStore { dir: dir.to_owned(), keep, _lock: lock };
        for unfinished in store.files(".", TEMPORARY_SUFFIX)? {
            fs::remove_file(&unfinished)
                .map_err(io_error("remove the unfinished checkpoint", &unfinished))?;
        }
        Ok(store)
    }

    /// Writes a checkpoint durably and removes those beyond the number kept. Returns its size in bytes.
    ///
    /// # Errors
    /// [`CheckpointError::Write`] and [`CheckpointError::Io`]; the checkpoints before are untouched then.
    pub fn save(&self, checkpoint: &Checkpoint) -> Result<u64, CheckpointError> {
        let path = self.dir.join(format!("{PREFIX}{:012}{SUFFIX}", checkpoint.manifest.position.step));
        let bytes = encode(checkpoint, &path)?;
        durable::write(&path, &bytes)?;
        for old in self.paths()?.iter().rev().skip(self.keep) {
            fs::remove_file(old).map_err(io_error("remove the old checkpoint", old))?;
        }
        Ok(bytes.len() as u64)
    }

    /// Reads from the newest on, until one is whole; the damaged are put aside.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] if one cannot be read, [`CheckpointError::Version`] if the newest was written by a
    /// newer build.
    pub fn newest(&self) -> Result<Newest, CheckpointError> {
        let mut damaged = Vec::new();
        for path in self.paths()?.into_iter().rev() {
            match read(&path) {
                Ok(checkpoint) => return Ok(Newest { found: Some((path, checkpoint)), damaged }),
                Err(error @ CheckpointError::Damaged { .. }) => {
                    // Under another name, so that it does not count among those that are kept.
                    let aside = path.with_extension(DAMAGED_EXTENSION);
                    fs::rename(&path, &aside).map_err(io_error("rename the damaged", &path))?;
                    damaged.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Newest { found: None, damaged })
    }

    /// Oldest first; names hold the step with leading zeros.
    fn paths(&self) -> Result<Vec<PathBuf>, CheckpointError> {
        self.files(PREFIX, SUFFIX)
    }

    fn files(&self, prefix: &str, suffix: &str) -> Result<Vec<PathBuf>, CheckpointError> {
        let failed = io_error("list", &self.dir);
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(&failed)? {
            let path = entry.map_err(&failed)?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if name.starts_with(prefix) && name.ends_with(suffix) {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }
}

/// Reads and verifies one checkpoint.
///
/// # Errors
/// [`CheckpointError`], naming the file.
pub fn read(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let damaged = |what: String| CheckpointError::Damaged { path: path.to_owned(), what };
    let bytes = fs::read(path).map_err(io_error("read", path))?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(e.to_string()))?;
    let metadata = header.metadata().as_ref().ok_or_else(|| damaged("no metadata".to_owned()))?;
    let entry = |key: &str| metadata.get(key).ok_or_else(|| damaged(format!("no `{key}`")));
    let (manifest, checksum) = (entry(MANIFEST_KEY)?, entry(CHECKSUM_KEY)?);
    let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged(e.to_string()))?;
    let tensors = tensors::decode(&file)
        .map_err(|(name, found)| damaged(format!("tensor `{name}` has type {found:?}")))?;
    let found = checksum_of(manifest, &tensors).to_string();
    if found != *checksum {
        return Err(damaged(format!("expected checksum {checksum}, found {found}")));
    }
    #[derive(Deserialize)]
    struct VersionOnly {
        version: u32,
    }
    let VersionOnly { version } = serde_json::from_str(manifest).map_err(|e| damaged(e.to_string()))?;
    if version > VERSION {
        return Err(CheckpointError::Version { path: path.to_owned(), found: version });
    }
    let manifest = serde_json::from_str(manifest).map_err(|e| damaged(e.to_string()))?;
    Ok(Checkpoint { manifest, tensors })
}

fn encode(checkpoint: &Checkpoint, path: &Path) -> Result<Vec<u8>, CheckpointError> {
    let damaged = |what: String| CheckpointError::Damaged { path: path.to_owned(), what };
    let manifest = serde_json::to_string(&checkpoint.manifest).map_err(|e| damaged(e.to_string()))?;
    let checksum = checksum_of(&manifest, &checkpoint.tensors).to_string();
    let metadata = HashMap::from([(MANIFEST_KEY.to_owned(), manifest), (CHECKSUM_KEY.to_owned(), checksum)]);
    let named = checkpoint.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    tensors::encode(named, metadata).map_err(|e| damaged(e.to_string()))
}

/// Over the manifest and, in the order of their names, each tensor's name, type, shape and bytes, every part
/// led by its length.
fn checksum_of(manifest: &str, tensors: &BTreeMap<String, Tensor>) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(manifest.as_bytes());
    for (name, tensor) in tensors {
        part(name.as_bytes());
        part(format!("{} {:?}", tensor.dtype, tensor.dims).as_bytes());
        part(&tensor.bytes);
    }
    hasher.finalize()
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> CheckpointError + 'a {
    move |source| CheckpointError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(step: u64) -> Checkpoint {
        let digest = |byte| Digest([byte; 32]);
        Checkpoint {
            manifest: Manifest {
                version: VERSION,
                agent: "alice".parse().unwrap(),
                training_graph: digest(1),
                data: digest(2),
                settings: BTreeMap::from([("train.learning_rate".to_owned(), 0.001.into())]),
                position: Position { experience: 1, epoch: 2, batch: 3, step, experience_began: 0 },
                n_skipped: 4,
                n_before_averages: 0,
                early_stopping: EarlyStopping::default(),
                sums: EpochSums { losses: [0.1, 0.2, 1.0 / 3.0], n_rows: 96, ..EpochSums::default() },
                replay_n_seen: 40,
                replay_ids: vec![7, 9],
                round: Round(5),
                usage: Usage { n_samples: 8, energy_joules: None, ..Usage::default() },
                initial: Some(Initial::default()),
                epochs: Vec::new(),
                evaluated: Vec::new(),
            },
            tensors: BTreeMap::from([
                ("fc.weight".to_owned(), Tensor::from_f32(&[2, 2], &[1.0, -2.0, 0.5, step as f32])),
                ("fc.bias".to_owned(), Tensor::from_f32(&[2], &[0.25, f32::MIN_POSITIVE])),
            ]),
        }
    }

    #[test]
    fn newest_of_those_kept_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::open(dir.path(), 2).unwrap();
        for step in [5, 50, 1000] {
            store.save(&checkpoint(step)).unwrap();
        }
        let Newest { found, damaged } = store.newest().unwrap();
        assert_eq!(found.unwrap().1, checkpoint(1000));
        assert!(damaged.is_empty());
        assert_eq!(store.paths().unwrap().len(), 2);
    }

    #[test]
    fn what_a_killed_agent_left_unfinished_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::open(dir.path(), 2).unwrap();
        store.save(&checkpoint(7)).unwrap();
        let unfinished = dir.path().join(".checkpoint-000000000008.safetensors.tmp");
        fs::write(&unfinished, b"half").unwrap();
        drop(store);
        let store = CheckpointStore::open(dir.path(), 2).unwrap();
        assert!(!unfinished.exists());
        assert_eq!(store.newest().unwrap().found.unwrap().1, checkpoint(7));
    }

    #[test]
    fn a_damaged_checkpoint_takes_no_place_from_those_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::open(dir.path(), 1).unwrap();
        store.save(&checkpoint(9)).unwrap();
        fs::write(store.paths().unwrap().pop().unwrap(), b"rubbish").unwrap();
        let newest = store.newest().unwrap();
        assert!(newest.found.is_none());
        assert_eq!(newest.damaged.len(), 1);
        store.save(&checkpoint(1)).unwrap();
        assert_eq!(store.newest().unwrap().found.unwrap().1, checkpoint(1));
    }

    #[test]
    fn one_folder_is_for_one_run() {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::open(dir.path(), 1).unwrap();
        assert!(matches!(CheckpointStore::open(dir.path(), 1), Err(CheckpointError::InUse { .. })));
        drop(store);
        CheckpointStore::open(dir.path(), 1).unwrap();
    }

    #[test]
    fn every_flipped_byte_and_every_truncation_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::open(dir.path(), 3).unwrap();
        store.save(&checkpoint(1)).unwrap();
        store.save(&checkpoint(2)).unwrap();
        let path = store.paths().unwrap().pop().unwrap();
        let whole = fs::read(&path).unwrap();
        let check = |bytes: &[u8], what: String| {
            fs::write(&path, bytes).unwrap();
            let Newest { found, damaged } = store.newest().unwrap();
            assert_eq!(found.expect(&what).1, checkpoint(1), "{what}");
            assert_eq!(damaged.len(), 1, "{what}");
        };
        for i in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[i] ^= 0x01;
            check(&bytes, format!("byte {i} flipped"));
        }
        for n in 0..whole.len() {
            check(&whole[..n], format!("cut to {n} bytes"));
        }
    }

    #[test]
    fn a_checkpoint_of_a_newer_build_is_refused_not_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::open(dir.path(), 3).unwrap();
        let mut newer = checkpoint(3);
        newer.manifest.version = VERSION + 1;
        store.save(&newer).unwrap();
        assert!(
            matches!(store.newest(), Err(CheckpointError::Version { found, .. }) if found == VERSION + 1)
        );
    }
}
