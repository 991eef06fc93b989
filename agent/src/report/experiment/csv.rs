//! `results.csv`: one figure of one agent a row, for pandas and R.
//!
//! Columns: `arm,seed,agent,head,metric,experience,on_experience,value`; those that a metric does not have are empty.
//! Accuracies are 0 to 1, experiences count from 1.

use std::fmt::Write as _;

use super::ExperimentRecord;
use crate::experiment::result::{HeadResult, Metric};

pub(super) fn render(record: &ExperimentRecord) -> String {
    let mut text = "arm,seed,agent,head,metric,experience,on_experience,value\n".to_owned();
    for arm in &record.arms {
        for (seed, run) in &arm.runs {
            for agent in &run.agents {
                let of = format!("{},{seed},{}", arm.key, agent.agent);
                let _ = writeln!(text, "{of},,teacher_share,,,{}", agent.teacher_share);
                agent.heads.iter().for_each(|head| figures(&mut text, &of, head));
            }
        }
    }
    text
}

fn figures(text: &mut String, of: &str, head: &HeadResult) {
    let mut row = |metric: &str, experience: &str, on: &str, value: f64| {
        let _ = writeln!(text, "{of},{},{metric},{experience},{on},{value}", head.head);
    };
    for (i, accuracies) in head.matrix.iter().enumerate() {
        let after = (i + 1).to_string();
        for (j, accuracy) in accuracies.iter().enumerate() {
            row("accuracy", &after, &(j + 1).to_string(), *accuracy);
        }
        if let Some(stream) = head.stream.get(i) {
            row(Metric::Stream.name(), &after, "", *stream);
        }
    }
    for metric in [Metric::Average, Metric::Forgetting, Metric::Transfer] {
        if let Some(value) = head.metric(metric) {
            row(metric.name(), "", "", value);
        }
    }
}
