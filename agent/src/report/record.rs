//! Events folded into what reports are made of.

use crate::eval::metrics::AccuracyMatrix;
use crate::telemetry::event::{Epoch, Event, Finished, Record, Started, Traffic};

/// A whole lab: the same agents under one or more conditions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LabRecord {
    pub title: String,
    pub arms: Vec<Arm>,
}

/// The agents under one condition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Arm {
    /// For example `exchange on`.
    pub name: String,
    pub agents: Vec<RunRecord>,
}

/// Measurements of traffic that are kept of a run, however long it is: when they are as many, every second one
/// goes.
const MAX_TRAFFIC: usize = 1024;

/// One agent's run, whole or as far as it came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunRecord {
    pub started: Option<Started>,
    pub epochs: Vec<Epoch>,
    pub heads: Vec<HeadRecord>,
    /// (seconds since the start, totals until then); the older, the sparser.
    pub traffic: Vec<(f64, Traffic)>,
    pub finished: Option<Finished>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeadRecord {
    /// `cl` or `student`.
    pub head: String,
    pub matrix: AccuracyMatrix,
    /// Accuracy on the whole test stream after each experience.
    pub stream: Vec<f64>,
}

impl RunRecord {
    pub fn apply(&mut self, record: &Record) {
        match &record.event {
            Event::Started(started) => self.started = Some(started.clone()),
            Event::Epoch(epoch) => self.epochs.push(epoch.clone()),
            Event::Evaluated(evaluated) => {
                for accuracy in &evaluated.heads {
                    let known = self.heads.iter().position(|h| h.head == accuracy.head);
                    let i = known.unwrap_or_else(|| {
                        self.heads.push(HeadRecord { head: accuracy.head.clone(), ..Default::default() });
                        self.heads.len() - 1
                    });
                    self.heads[i].matrix.push(accuracy.per_experience.clone());
                    self.heads[i].stream.push(accuracy.stream);
                }
            }
            Event::Traffic(traffic) => {
                if self.traffic.len() >= MAX_TRAFFIC {
                    let mut i = 0;
                    self.traffic.retain(|_| {
                        i += 1;
                        i % 2 == 1
                    });
                }
                self.traffic.push((record.t_s, traffic.clone()));
            }
            Event::Finished(finished) => self.finished = Some(finished.clone()),
            Event::Checkpointed { .. } | Event::Warning { .. } | Event::Waiting { .. } => {}
        }
    }

    pub fn name(&self) -> &str {
        self.started.as_ref().map_or("?", |s| &s.agent)
    }

    pub fn n_experiences(&self) -> usize {
        self.started.as_ref().map_or(0, |s| s.experiences.len())
    }

    /// Totals at the end.
    pub fn last_traffic(&self) -> Option<&Traffic> {
        self.traffic.last().map(|(_, traffic)| traffic)
    }
}

impl LabRecord {
    /// The same agent and head in every arm: (agent, head, one record an arm).
    pub fn rows(&self) -> Vec<(&str, &str, Vec<Option<&HeadRecord>>)> {
        let Some(first) = self.arms.first() else { return Vec::new() };
        let mut rows = Vec::new();
        for (i, run) in first.agents.iter().enumerate() {
            for head in &run.heads {
                let same = |arm: &'_ Arm| -> Option<usize> {
                    arm.agents.get(i)?.heads.iter().position(|h| h.head == head.head)
                };
                let records =
                    self.arms.iter().map(|arm| same(arm).map(|j| &arm.agents[i].heads[j])).collect();
                rows.push((run.name(), head.head.as_str(), records));
            }
        }
        rows
    }
}
