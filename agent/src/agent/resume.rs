//! Everything an agent needs to go on, to a checkpoint and back.

use std::error::Error;

use tracing::info;

use super::{Agent, AgentError, setup};
use crate::ids::{Digest, SampleId};
use crate::telemetry::event::Event;
use crate::train::checkpoint::{self, Checkpoint, CheckpointError, Manifest, Newest};
use crate::train::runtime::StepCounts;

impl Agent<'_> {
    pub(super) fn save_checkpoint(&mut self) -> Result<(), AgentError> {
        let counts = self.learner.session.counts();
        let mut tensors = self.learner.session.state()?;
        tensors.extend(self.learner.knowledge.save(&self.learner, &self.memory)?);
        let checkpoint = Checkpoint {
            manifest: Manifest {
                version: checkpoint::VERSION,
                agent: self.config.agent.clone(),
                training_graph: self.identity.training_graph,
                data: self.identity.data,
                settings: self.identity.settings.clone(),
                position: self.position,
                n_skipped: counts.n_skipped,
                n_before_averages: counts.n_before_averages,
                early_stopping: self.early_stopping,
                sums: self.sums,
                replay_n_seen: self.memory.n_seen(),
                replay_ids: self.memory.ids().iter().map(|id| id.0).collect(),
                round: self.round,
                usage: self.usage.so_far(),
                initial: self.initial.clone(),
                epochs: self.epochs.clone(),
                evaluated: self.evaluated.clone(),
            },
            tensors,
        };
        let size_bytes = self.checkpoints.save(&checkpoint)?;
        self.emit(Event::Checkpointed { step: self.position.step, size_bytes });
        Ok(())
    }

    /// As [`Agent::save_checkpoint`], on the way: a disk that is full or cannot be written is no reason to stop training.
    /// A person is told when that begins and when it is over.
    pub(super) fn save_if_possible(&mut self) -> Result<(), AgentError> {
        let message = match self.save_checkpoint() {
            Ok(()) if std::mem::take(&mut self.is_disk_at_fault) => {
                "checkpoints are written again".to_owned()
            }
            Ok(()) => return Ok(()),
            Err(AgentError::Checkpoint(error @ (CheckpointError::Write(_) | CheckpointError::Io { .. }))) => {
                if std::mem::replace(&mut self.is_disk_at_fault, true) {
                    return Ok(());
                }
                let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
                format!("{error}{cause}; training goes on, and the next checkpoint is tried when it is due")
            }
            Err(error) => return Err(error),
        };
        self.emit(Event::Warning { message });
        Ok(())
    }

    pub(super) fn resume(&mut self) -> Result<(), AgentError> {
        let Newest { found, damaged } = self.checkpoints.newest()?;
        for error in damaged {
            let instead = if found.is_some() { "using the one before" } else { "training starts anew" };
            self.emit(Event::Warning { message: format!("{error}; {instead}") });
        }
        let Some((path, Checkpoint { manifest, tensors })) = found else {
            return self.learner.begin();
        };
        if let Some((what, now, saved)) = self.difference(&manifest) {
            return Err(CheckpointError::Mismatch { path, what, now, saved }.into());
        }
        info!(path = %path.display(), step = manifest.position.step, "resuming");
        let counts = StepCounts {
            n_steps: manifest.position.step,
            n_skipped: manifest.n_skipped,
            n_before_averages: manifest.n_before_averages,
        };
        self.learner.session.restore(&tensors, counts)?;
        let ids = manifest.replay_ids.into_iter().map(SampleId).collect();
        self.memory.restore(manifest.replay_n_seen, ids);
        self.learner.restore_knowledge(&tensors, &self.memory)?;
        self.position = manifest.position;
        self.early_stopping = manifest.early_stopping;
        self.round = manifest.round;
        self.sums = manifest.sums;
        self.usage.begin(manifest.usage);
        self.initial = manifest.initial;
        self.epochs = manifest.epochs;
        self.evaluated = manifest.evaluated;
        Ok(())
    }

    /// What makes the checkpoint another's: what, as it is here, as it is there.
    fn difference(&self, manifest: &Manifest) -> Option<(&'static str, String, String)> {
        let digests = |what, now: &Digest, saved: &Digest| {
            (now != saved).then(|| (what, now.to_string(), saved.to_string()))
        };
        let agent = &self.config.agent;
        let identity = &self.identity;
        (manifest.agent != *agent)
            .then(|| ("the agent", agent.to_string(), manifest.agent.to_string()))
            // Before data and network: both depend on settings, too.
            .or_else(|| {
                let (now, saved) = setup::different_setting(&identity.settings, &manifest.settings)?;
                Some(("the setting", now, saved))
            })
            .or_else(|| digests("the data set", &identity.data, &manifest.data))
            .or_else(|| digests("the network", &identity.training_graph, &manifest.training_graph))
    }
}
