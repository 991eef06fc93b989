//! What a finished run came to, as it is kept in the run's folder.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable::{self, WriteError};
use crate::eval::metrics::AccuracyMatrix;
use crate::report::record::RunRecord;

/// Name of the file; a folder that has it is not run again.
pub const FILE: &str = "result.json";
/// Version of the file that this build writes and reads.
const VERSION: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    #[error("cannot read `{}`", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("`{}` is no result of a run; remove it to have the run again", .path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("`{}` has version {found}, expected {VERSION}; use another --out", .path.display())]
    Version { path: PathBuf, found: u32 },
}

/// All agents of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    version: u32,
    pub agents: Vec<AgentResult>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentResult {
    pub agent: String,
    pub network: String,
    pub n_parameters: u64,
    pub device: String,
    pub n_steps: u64,
    /// Class names of each experience.
    pub experiences: Vec<Vec<String>>,
    /// Mean over all epochs of the share of rows that had a teacher, 0 to 1.
    pub teacher_share: f64,
    pub heads: Vec<HeadResult>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadResult {
    /// `cl` or `student`.
    pub head: String,
    /// Accuracy, 0 to 1, on the test samples of experience j (column) after experience i (row).
    pub matrix: Vec<Vec<f64>>,
    /// Accuracy on the whole test stream after each experience.
    pub stream: Vec<f64>,
}

/// Figures of one head at the end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Accuracy on the whole test stream.
    Stream,
    /// Mean of the accuracies on the experiences (ACC, Lopez-Paz and Ranzato 2017).
    Average,
    /// Mean over earlier experiences of the accuracy right after learning less that at the end.
    Forgetting,
    /// Backward transfer, the negative of it (BWT, Lopez-Paz and Ranzato 2017).
    Transfer,
}

impl Metric {
    pub const ALL: [Metric; 4] = [Metric::Stream, Metric::Average, Metric::Forgetting, Metric::Transfer];

    /// As in the files.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Stream => "stream_accuracy",
            Metric::Average => "average_accuracy",
            Metric::Forgetting => "forgetting",
            Metric::Transfer => "backward_transfer",
        }
    }

    /// As in tables.
    pub fn title(self) -> &'static str {
        match self {
            Metric::Stream => "stream acc.",
            Metric::Average => "average acc.",
            Metric::Forgetting => "forgetting",
            Metric::Transfer => "BWT",
        }
    }
}

impl HeadResult {
    /// `None` where the run has too few experiences for it.
    pub fn metric(&self, metric: Metric) -> Option<f64> {
        let matrix = self.accuracies();
        match metric {
            Metric::Stream => self.stream.last().copied(),
            Metric::Average => matrix.average_accuracy(self.matrix.len().checked_sub(1)?),
            Metric::Forgetting => matrix.forgetting(),
            Metric::Transfer => matrix.backward_transfer(),
        }
    }

    fn accuracies(&self) -> AccuracyMatrix {
        let mut matrix = AccuracyMatrix::default();
        self.matrix.iter().for_each(|row| matrix.push(row.clone()));
        matrix
    }
}

impl RunResult {
    /// `None` as long as one of the agents has not finished.
    pub fn of(agents: &[RunRecord]) -> Option<Self> {
        let agents = agents.iter().map(agent).collect::<Option<Vec<_>>>()?;
        Some(RunResult { version: VERSION, agents })
    }

    /// The result in the run's folder, if the run has finished.
    ///
    /// # Errors
    /// [`ResultError`] if there is something else under its name.
    pub fn read(folder: &Path) -> Result<Option<Self>, ResultError> {
        let path = folder.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ResultError::Read { path, source }),
            Ok(text) => text,
        };
        let result: RunResult = serde_json::from_str(&text)
            .map_err(|source| ResultError::Parse { path: path.clone(), source })?;
        if result.version != VERSION {
            return Err(ResultError::Version { path, found: result.version });
        }
        Ok(Some(result))
    }

    /// # Errors
    /// [`WriteError`] if it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), WriteError> {
        let text = serde_json::to_string_pretty(self).expect("invariant: a result has a JSON form");
        durable::write(&folder.join(FILE), text.as_bytes())
    }

    /// Mean over the agents of a figure of one head.
    pub fn metric(&self, head: &str, metric: Metric) -> Option<f64> {
        self.mean_over_agents(head, |head| head.metric(metric))
    }

    /// Mean over the agents of the accuracy on the whole test stream after each experience.
    pub fn stream_curve(&self, head: &str) -> Vec<f64> {
        let n = self.heads(head).map(|h| h.stream.len()).max().unwrap_or(0);
        (0..n).map_while(|i| self.mean_over_agents(head, |h| h.stream.get(i).copied())).collect()
    }

    /// Mean over the agents of the average accuracy on the experiences trained so far.
    pub fn average_curve(&self, head: &str) -> Vec<f64> {
        let n = self.heads(head).map(|h| h.matrix.len()).max().unwrap_or(0);
        (0..n).map_while(|i| self.mean_over_agents(head, |h| h.accuracies().average_accuracy(i))).collect()
    }

    fn heads<'a>(&'a self, head: &'a str) -> impl Iterator<Item = &'a HeadResult> {
        self.agents.iter().flat_map(|a| &a.heads).filter(move |h| h.head == head)
    }

    fn mean_over_agents(&self, head: &str, value: impl Fn(&HeadResult) -> Option<f64>) -> Option<f64> {
        let values = self.heads(head).map(value).collect::<Option<Vec<_>>>()?;
        super::statistics::mean(&values)
    }
}

fn agent(run: &RunRecord) -> Option<AgentResult> {
    let (started, finished) = (run.started.as_ref()?, run.finished.as_ref()?);
    let shares: Vec<f64> = run.epochs.iter().map(|e| f64::from(e.teacher_share)).collect();
    let heads = run.heads.iter().map(|h| HeadResult {
        head: h.head.clone(),
        matrix: h.matrix.rows().to_vec(),
        stream: h.stream.clone(),
    });
    Some(AgentResult {
        agent: started.agent.clone(),
        network: started.network.clone(),
        n_parameters: started.n_parameters,
        device: started.device.clone(),
        n_steps: finished.n_steps,
        experiences: started.experiences.clone(),
        teacher_share: super::statistics::mean(&shares).unwrap_or(0.0),
        heads: heads.collect(),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two agents whose continual-learning heads end at those accuracies after two experiences.
    pub fn run(finals: [f64; 2]) -> RunResult {
        let agent = |name: &str, last: f64| AgentResult {
            agent: name.to_owned(),
            network: "digits-cnn".to_owned(),
            n_parameters: 10,
            device: "cpu".to_owned(),
            n_steps: 8,
            experiences: vec![vec!["0".to_owned()], vec!["1".to_owned()]],
            teacher_share: 0.5,
            heads: vec![HeadResult {
                head: "cl".to_owned(),
                matrix: vec![vec![1.0, 0.0], vec![last - 0.25, last + 0.25]],
                stream: vec![0.5, last],
            }],
        };
        RunResult { version: VERSION, agents: vec![agent("a", finals[0]), agent("b", finals[1])] }
    }

    #[test]
    fn figures_are_means_over_the_agents() {
        let run = run([0.5, 0.75]);
        let metric = |metric| run.metric("cl", metric);
        assert_eq!(metric(Metric::Stream), Some(0.625));
        assert_eq!(metric(Metric::Average), Some(0.625));
        assert_eq!(metric(Metric::Forgetting), Some(0.625));
        assert_eq!(metric(Metric::Transfer), Some(-0.625));
        assert_eq!(run.metric("student", Metric::Stream), None);
        assert_eq!(run.stream_curve("cl"), [0.5, 0.625]);
        assert_eq!(run.average_curve("cl"), [1.0, 0.625]);
    }

    #[test]
    fn a_result_reads_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert!(RunResult::read(dir.path()).unwrap().is_none());
        let mut result = run([0.1, 1.0 / 3.0]);
        result.write(dir.path()).unwrap();
        assert_eq!(RunResult::read(dir.path()).unwrap(), Some(result.clone()));
        result.version += 1;
        result.write(dir.path()).unwrap();
        assert!(matches!(RunResult::read(dir.path()), Err(ResultError::Version { found: 2, .. })));
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        let error = RunResult::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("remove it to have the run again"), "{error}");
    }

    #[test]
    fn a_run_that_has_not_finished_has_no_result() {
        assert!(RunResult::of(&[RunRecord::default()]).is_none());
    }
}
