//! Events folded into what reports are made of.

use crate::eval::metrics::AccuracyMatrix;
use crate::membership::Change;
use crate::telemetry::event::{Epoch, Event, Finished, Record, Started, Traffic, Usage};

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
    /// Who joined late, left and came back, in that order.
    pub membership: Vec<Change>,
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
    /// What each experience took, where that is known.
    pub usages: Vec<Option<Usage>>,
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
    /// Accuracy on each experience before the first step; empty where it was not measured.
    pub initial: Vec<f64>,
    /// Counts over the whole test stream after each experience, `[K, K]`: row by label, column by prediction. Empty
    /// where there are too many classes.
    pub confusions: Vec<Vec<Vec<u64>>>,
}

impl HeadRecord {
    /// Forward transfer of each experience but the first, as far as the stream came; empty where it is not known.
    pub fn forward_transfers(&self) -> Vec<f64> {
        let last = self.matrix.rows().len().checked_sub(1);
        last.and_then(|i| self.matrix.forward_transfer_per_experience(i, &self.initial)).unwrap_or_default()
    }
}

impl RunRecord {
    pub fn apply(&mut self, record: &Record) {
        match &record.event {
            // One that goes on tells its whole course.
            Event::Started(started) => {
                *self = RunRecord { started: Some(started.clone()), ..RunRecord::default() };
            }
            Event::Epoch(epoch) => self.epochs.push(epoch.clone()),
            Event::Evaluated(evaluated) => {
                for accuracy in &evaluated.heads {
                    let head = self.head(&accuracy.head);
                    head.matrix.push(accuracy.per_experience.clone());
                    head.stream.push(accuracy.stream);
                    head.confusions.extend(accuracy.confusion.clone());
                }
                self.usages.push(evaluated.usage);
            }
            Event::Initial(initial) => {
                for accuracy in &initial.heads {
                    self.head(&accuracy.head).initial.clone_from(&accuracy.per_experience);
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
            Event::Checkpointed { .. }
            | Event::Warning { .. }
            | Event::Waiting { .. }
            | Event::Stopped { .. } => {}
        }
    }

    /// The head of that name, a new one if it is not known yet.
    fn head(&mut self, name: &str) -> &mut HeadRecord {
        let known = self.heads.iter().position(|h| h.head == name);
        let i = known.unwrap_or_else(|| {
            self.heads.push(HeadRecord { head: name.to_owned(), ..Default::default() });
            self.heads.len() - 1
        });
        &mut self.heads[i]
    }

    /// Test images of each experience.
    pub fn n_test(&self) -> Vec<usize> {
        self.started.iter().flat_map(|s| &s.n_test).map(|n| *n as usize).collect()
    }

    /// Names of all classes, by index.
    pub fn classes(&self) -> Vec<String> {
        self.started.as_ref().map(|s| s.classes.clone()).unwrap_or_default()
    }

    /// What all experiences took together. `None` if that is not known of one of them.
    pub fn total_usage(&self) -> Option<Usage> {
        let add = |total: Usage, usage: &Option<Usage>| {
            let usage = usage.as_ref()?;
            Some(Usage {
                seconds: total.seconds + usage.seconds,
                training_seconds: total.training_seconds + usage.training_seconds,
                n_samples: total.n_samples + usage.n_samples,
                cpu_seconds: total.cpu_seconds + usage.cpu_seconds,
                energy_joules: total.energy_joules.zip(usage.energy_joules).map(|(a, b)| a + b),
            })
        };
        if self.usages.is_empty() { None } else { self.usages.iter().try_fold(Usage::default(), add) }
    }

    /// Whether no row that was trained ever had a teacher, so that the student head learned nothing.
    pub fn is_untrained(&self, head: &HeadRecord) -> bool {
        head.head == "student"
            && !self.epochs.is_empty()
            && self.epochs.iter().all(|e| e.teacher_share == 0.0)
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

/// A head of an agent in an arm.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    pub arm: &'a Arm,
    pub run: &'a RunRecord,
    pub head: &'a HeadRecord,
}

impl Row<'_> {
    pub fn is_untrained(&self) -> bool {
        self.run.is_untrained(self.head)
    }
}

impl LabRecord {
    /// Every head, the same agent's and head's of all arms one after the other.
    pub fn rows(&self) -> Vec<Row<'_>> {
        let Some(first) = self.arms.first() else { return Vec::new() };
        let mut rows = Vec::new();
        for (i, run) in first.agents.iter().enumerate() {
            for head in &run.heads {
                rows.extend(self.arms.iter().filter_map(|arm| {
                    let run = arm.agents.get(i)?;
                    let head = run.heads.iter().find(|h| h.head == head.head)?;
                    Some(Row { arm, run, head })
                }));
            }
        }
        rows
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Two agents and two experiences with the exchange, and without: there the student heads had no teacher.
    pub fn lab() -> LabRecord {
        let run = |agent: &str, teacher_share: f32| {
            let mut run = RunRecord::default();
            let lines = [
                format!(
                    r#"{{"event":"started","agent":"{agent}","fleet":"f","network":"n","n_parameters":1,"device":"cpu",
                    "exchange":true,"experiences":[["0"],["1"]],"n_epochs":1,"n_steps":2,"resumed_at_step":0,
                    "classes":["0","1"],"n_test":[4,4]}}"#
                ),
                format!(
                    r#"{{"event":"epoch","experience":0,"epoch":0,"step":1,"loss":1.0,"loss_cl":1.0,"loss_st":0.5,
                    "teacher_share":{teacher_share},"samples_per_second":1.0,"n_peers":1}}"#
                ),
                r#"{"event":"evaluated","experience":0,"heads":[
                    {"head":"cl","per_experience":[1.0,0.0],"stream":0.5,"confusion":[[4,0],[4,0]]},
                    {"head":"student","per_experience":[0.5,0.25],"stream":0.375,"confusion":[[2,2],[3,1]]}]}"#
                    .to_owned(),
            ];
            for line in lines {
                let event = serde_json::from_str(&line).unwrap();
                run.apply(&Record { t_s: 1.0, event });
            }
            run
        };
        let arm = |name: &str, share| Arm {
            name: name.to_owned(),
            agents: vec![run("alice", share), run("bob", share)],
            membership: Vec::new(),
        };
        LabRecord { title: "lab".to_owned(), arms: vec![arm("exchange on", 0.5), arm("exchange off", 0.0)] }
    }

    #[test]
    fn a_student_head_without_a_teacher_is_untrained() {
        let record = lab();
        let untrained: Vec<_> =
            record.rows().iter().map(|row| (row.head.head.clone(), row.is_untrained())).take(4).collect();
        let row = |head: &str, untrained| (head.to_owned(), untrained);
        assert_eq!(
            untrained,
            [row("cl", false), row("cl", false), row("student", false), row("student", true)]
        );
        let mut some = record.arms[1].agents[0].clone();
        some.epochs.push(Epoch { teacher_share: 0.01, ..Epoch::default() });
        assert!(!some.is_untrained(&some.heads[1]));
    }
}
