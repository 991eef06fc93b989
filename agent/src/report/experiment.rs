//! What an experiment came to: means over seeds and paired differences, as a table, CSV, JSON and an HTML page.

mod csv;
mod html;
mod json;
mod table;

use std::path::Path;

use super::number::fixed;
use crate::durable::{self, WriteError};
use crate::experiment::result::{Metric, RunResult};
use crate::experiment::statistics::{self, Summary};

pub use self::table::render as table;

/// What the figures of a table are.
const METRICS: &str = "stream acc.: on all test images at the end. average acc.: mean over the experiences. forgetting: \
     mean over earlier experiences of the accuracy right after learning less that at the end; BWT, backward transfer, is \
     its negative.";

/// Everything that is known of an experiment; runs that have not finished are left out.
#[derive(Clone, Debug, PartialEq)]
pub struct ExperimentRecord {
    pub name: String,
    pub question: String,
    /// What the data and their parts are, for a person.
    pub data: String,
    /// Above 0, up to 1.
    pub scale: f64,
    pub agents: usize,
    pub seeds: Vec<u64>,
    /// Effective settings by key.
    pub settings: Vec<(String, String)>,
    pub arms: Vec<ArmRecord>,
    /// The arm that the others are compared with.
    pub baseline: Option<usize>,
    /// The teacher that was trained first.
    pub teacher: Option<RunResult>,
    /// What one must know to read the results, in sentences.
    pub notes: Vec<String>,
    pub n_runs: usize,
    pub n_finished: usize,
    /// Sections of the page about the networks, as HTML.
    pub analyses: Vec<String>,
}

/// The finished runs under one condition.
#[derive(Clone, Debug, PartialEq)]
pub struct ArmRecord {
    pub key: String,
    pub label: String,
    pub runs: Vec<(u64, RunResult)>,
}

/// A figure of one head in one arm, over seeds; or what it is more than in the baseline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row<'a> {
    pub arm: usize,
    pub head: &'a str,
    pub metric: Metric,
    pub summary: Summary,
}

impl ArmRecord {
    /// The figure of each seed, a mean over the agents.
    fn values(&self, head: &str, metric: Metric) -> Vec<(u64, f64)> {
        self.runs.iter().filter_map(|(seed, run)| Some((*seed, run.metric(head, metric)?))).collect()
    }

    /// Whether no row of any run had a teacher, so that the student heads learned nothing.
    fn is_untrained(&self, head: &str) -> bool {
        head == "student" && self.teacher_share() == Some(0.0)
    }

    /// Mean over seeds and agents of the share of rows that had a teacher.
    fn teacher_share(&self) -> Option<f64> {
        let agents = self.runs.iter().flat_map(|(_, run)| &run.agents);
        statistics::mean(&agents.map(|agent| agent.teacher_share).collect::<Vec<_>>())
    }
}

impl ExperimentRecord {
    /// Names of the heads, in the order in which the agents tell them.
    fn heads(&self) -> Vec<&str> {
        let runs = self.arms.iter().flat_map(|arm| &arm.runs);
        let mut heads: Vec<&str> = Vec::new();
        for head in runs.flat_map(|(_, run)| &run.agents).flat_map(|agent| &agent.heads) {
            if !heads.contains(&head.head.as_str()) {
                heads.push(&head.head);
            }
        }
        heads
    }

    /// Every figure of every head and arm that there is.
    pub fn summaries(&self) -> Vec<Row<'_>> {
        self.rows(|arm, head, metric| {
            let values: Vec<f64> = self.arms[arm].values(head, metric).into_iter().map(|(_, v)| v).collect();
            statistics::summary(&values)
        })
    }

    /// What each arm has more than the baseline, seed by seed.
    pub fn differences(&self) -> Vec<Row<'_>> {
        let Some(baseline) = self.baseline else { return Vec::new() };
        self.rows(|arm, head, metric| {
            let values = |arm: usize| self.arms[arm].values(head, metric);
            if arm == baseline { None } else { statistics::paired(&values(arm), &values(baseline)) }
        })
    }

    /// `untrained` for a head that has learned nothing, else empty.
    fn mark(&self, row: &Row<'_>) -> &'static str {
        if self.arms[row.arm].is_untrained(row.head) { "untrained" } else { "" }
    }

    /// The same for the difference of a head that was trained and one that was not.
    fn mark_of_difference(&self, row: &Row<'_>) -> &'static str {
        let is_untrained = |arm: usize| self.arms[arm].is_untrained(row.head);
        let is_mixed = self.baseline.is_some_and(|baseline| is_untrained(baseline) != is_untrained(row.arm));
        if is_mixed { "against untrained" } else { self.mark(row) }
    }

    /// Those of [`ExperimentRecord::heads`] that learned something in one of the arms at least: of others there is
    /// nothing to compare.
    fn trained_heads(&self) -> Vec<&str> {
        let mut heads = self.heads();
        heads.retain(|head| self.arms.iter().any(|arm| !arm.runs.is_empty() && !arm.is_untrained(head)));
        heads
    }

    /// What is to be known of heads that were never trained, where there are any.
    fn of_untrained(&self) -> Option<String> {
        let heads = self.trained_heads();
        if heads.len() < self.heads().len() {
            return Some(
                "The student heads are left out: no row had a teacher, so they have learned nothing."
                    .to_owned(),
            );
        }
        let is_untrained = |arm: &&ArmRecord| heads.iter().any(|head| arm.is_untrained(head));
        let arms: Vec<&str> = self.arms.iter().filter(is_untrained).map(|arm| arm.label.as_str()).collect();
        (!arms.is_empty()).then(|| {
            format!(
                "untrained: no row had a teacher ({}), so the student head has learned nothing. A difference from it says \
                 how far a teacher brings the head from there, not that it beats a trained one.",
                arms.join(", ")
            )
        })
    }

    fn rows(&self, summary: impl Fn(usize, &str, Metric) -> Option<Summary>) -> Vec<Row<'_>> {
        let mut rows = Vec::new();
        for head in self.heads() {
            for arm in 0..self.arms.len() {
                for metric in Metric::ALL {
                    if let Some(summary) = summary(arm, head, metric) {
                        rows.push(Row { arm, head, metric, summary });
                    }
                }
            }
        }
        rows
    }

    /// What was done, in a sentence or two.
    fn description(&self) -> String {
        let seeds: Vec<String> = self.seeds.iter().map(u64::to_string).collect();
        let agents = if self.agents > 1 { format!("{} agents; ", self.agents) } else { String::new() };
        let mut text = format!("{}; {agents}{} ", self.data, plural(seeds.len(), "seed"));
        text += &format!("({}).", seeds.join(", "));
        if self.scale < 1.0 {
            text += &format!(
                " At scale {}: fewer samples, epochs and perhaps classes than the experiment itself, so that figures \
                 compare with each other but not with those of the whole.",
                self.scale
            );
        }
        if self.n_finished < self.n_runs {
            text += &format!(
                " {} of {} have finished; the others are left out.",
                self.n_finished,
                plural(self.n_runs, "run")
            );
        }
        for note in &self.notes {
            text += &format!(" {note}");
        }
        text
    }

    /// How good the teacher is that was trained first.
    fn of_teacher(&self) -> Option<String> {
        let agent = self.teacher.as_ref()?.agents.first()?;
        let cl = agent.heads.iter().find(|head| head.head == "cl")?.metric(Metric::Stream)?;
        let (kind, network) = (&agent.agent, &agent.network);
        Some(format!("The teacher ({kind}, {network}) ends at {:.1} % on all test images.", 100.0 * cl))
    }

    /// Shares of rows that had a teacher, of arms in which any had.
    fn of_shares(&self) -> Option<String> {
        let shares = self.arms.iter().filter_map(|arm| {
            let share = arm.teacher_share().filter(|share| *share > 0.0)?;
            Some(format!("{} {} %", arm.label, fixed(100.0 * share, 1)))
        });
        let shares: Vec<String> = shares.collect();
        (!shares.is_empty()).then(|| format!("Training rows that had a teacher: {}", shares.join(", ")))
    }

    /// Writes `report.html`, `results.csv` and `results.json`.
    ///
    /// # Errors
    /// [`WriteError`] if a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), WriteError> {
        durable::write(&folder.join("results.csv"), csv::render(self).as_bytes())?;
        durable::write(&folder.join("results.json"), json::render(self).as_bytes())?;
        durable::write(&folder.join("report.html"), html::render(self).as_bytes())
    }
}

fn plural(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::result::HeadResult;
    use crate::experiment::result::tests::run;

    /// Two arms of two seeds; the first arm's runs end 0.25 higher.
    pub fn record() -> ExperimentRecord {
        let arm = |key: &str, runs| ArmRecord { key: key.to_owned(), label: format!("{key} <arm>"), runs };
        ExperimentRecord {
            name: "step-training".to_owned(),
            question: "Can they?".to_owned(),
            data: "`digits`: 2 experiences of 1 class".to_owned(),
            scale: 0.5,
            agents: 2,
            seeds: vec![3, 4],
            settings: vec![("student.train.epochs".to_owned(), "2".to_owned())],
            arms: vec![
                arm("on", vec![(3, run([0.5, 0.75])), (4, run([0.75, 1.0]))]),
                arm("off", vec![(3, run([0.25, 0.5])), (4, run([0.5, 0.75]))]),
            ],
            baseline: Some(1),
            teacher: None,
            notes: Vec::new(),
            n_runs: 4,
            n_finished: 4,
            analyses: vec!["<h2>Similarity</h2>".to_owned()],
        }
    }

    #[test]
    fn the_difference_is_within_seeds() {
        let record = record();
        let find = |rows: Vec<Row<'_>>, arm| {
            let row = rows.into_iter().find(|r| r.arm == arm && r.metric == Metric::Stream);
            row.map(|row| row.summary)
        };
        let on = find(record.summaries(), 0).unwrap();
        assert_eq!((on.n, on.mean), (2, 0.75));
        assert!((on.sd.unwrap() - (2.0 * 0.125_f64.powi(2)).sqrt()).abs() < 1e-12);
        let difference = find(record.differences(), 0).unwrap();
        assert_eq!(difference, Summary { n: 2, mean: 0.25, sd: Some(0.0) });
        assert_eq!(find(record.differences(), 1), None);
    }

    #[test]
    fn tables_have_a_row_for_each_head_and_arm() {
        let text = table(&record());
        let row = |label: &str| {
            let mut rows = text.lines().filter(|line| line.starts_with("cl") && line.contains(label));
            rows.next().unwrap_or_else(|| panic!("no row of {label} in:\n{text}")).to_owned()
        };
        assert!(row("on <arm>  ").contains("75.0 ± 17.7"), "{text}");
        assert!(row("off <arm>").contains("50.0 ± 17.7"), "{text}");
        assert!(row("on <arm> - off").contains("+25.0 ± 0.0"), "{text}");
        assert!(text.contains("At scale 0.5"), "{text}");
    }

    #[test]
    fn files_agree_with_each_other() {
        let record = record();
        let csv = csv::render(&record);
        let mut lines = csv.lines();
        assert_eq!(lines.next(), Some("arm,seed,agent,head,metric,experience,on_experience,value"));
        assert!(csv.contains("\non,3,a,cl,stream_accuracy,2,,0.5\n"), "{csv}");
        assert!(csv.contains("\noff,4,b,cl,accuracy,2,1,0.5\n"), "{csv}");
        assert!(lines.all(|line| line.split(',').count() == 8));
        let json: serde_json::Value = serde_json::from_str(&json::render(&record)).unwrap();
        let differences = json["differences"].as_array().unwrap();
        let stream = differences.iter().find(|d| d["metric"] == "stream_accuracy").unwrap();
        assert_eq!((stream["mean"].as_f64(), stream["baseline"].as_str()), (Some(0.25), Some("off")));
        let html = html::render(&record);
        assert!(html.contains("on &lt;arm&gt;") && !html.contains("<arm>"), "{html}");
        assert!(html.matches("<svg").count() >= 2 && !html.contains("not drawn"));
        assert!(html.contains("the first seed") && html.contains("<h2>Similarity</h2>"), "{html}");
    }

    #[test]
    fn a_head_without_a_teacher_is_told_from_one_that_learned() {
        let mut record = record();
        for (arm, share) in [(0, 0.5), (1, 0.0)] {
            for agent in record.arms[arm].runs.iter_mut().flat_map(|(_, run)| &mut run.agents) {
                agent.teacher_share = share;
                let student = HeadResult { head: "student".to_owned(), ..agent.heads[0].clone() };
                agent.heads.push(student);
            }
        }
        let text = table(&record);
        let marked = |mark: &str| text.lines().filter(|line| line.ends_with(mark)).count();
        assert_eq!((marked("  untrained"), marked("  against untrained")), (1, 1), "{text}");
        assert!(text.contains("\nuntrained: no row had a teacher (off <arm>)"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&json::render(&record)).unwrap();
        let of = |list: &str, arm: &str, head: &str| -> serde_json::Value {
            let rows = json[list].as_array().unwrap();
            rows.iter().find(|row| row["arm"] == arm && row["head"] == head).unwrap().clone()
        };
        assert_eq!(of("summary", "off", "student")["trained"], false);
        assert_eq!(of("summary", "off", "cl")["trained"], true);
        let difference = of("differences", "on", "student");
        assert_eq!((&difference["trained"], &difference["baseline_trained"]), (&true.into(), &false.into()));
        let html = html::render(&record);
        assert_eq!(html.matches("<tr class=\"untrained\"><td>student</td>").count(), 2, "{html}");
        assert!(
            html.contains(">a, student head, on &lt;arm&gt;") && html.contains(">a, continual"),
            "{html}"
        );
        assert!(!html.contains(">a, student head, off &lt;arm&gt;"), "{html}");
    }

    #[test]
    fn heads_that_no_arm_has_trained_are_left_out() {
        let mut record = record();
        for agent in record.arms.iter_mut().flat_map(|arm| &mut arm.runs).flat_map(|(_, run)| &mut run.agents)
        {
            agent.teacher_share = 0.0;
            agent.heads.push(HeadResult { head: "student".to_owned(), ..agent.heads[0].clone() });
        }
        let text = table(&record);
        assert!(text.contains("student heads are left out") && !text.contains("\nstudent "), "{text}");
        let html = html::render(&record);
        assert!(html.contains("student heads are left out") && !html.contains("<td>student</td>"), "{html}");
        assert!(json::render(&record).contains("\"head\": \"student\""));
    }

    #[test]
    fn what_has_not_run_is_left_out_and_said() {
        let mut record = record();
        record.arms[1].runs.clear();
        record.n_finished = 2;
        assert!(record.differences().is_empty());
        assert!(record.description().contains("2 of 4 runs have finished"));
        record.arms[0].runs.clear();
        record.n_finished = 0;
        assert!(table(&record).contains("no run has finished"));
        assert!(!html::render(&record).contains("<svg"));
    }
}
