//! A run's course, from the `metrics.json` that its agent has written.

use std::io::{Error, ErrorKind};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::eval::metrics::AccuracyMatrix;
use crate::report::record::{HeadRecord, RunRecord};
use crate::telemetry::event::{Finished, Started, Traffic, Usage};

#[derive(Deserialize)]
struct Lab {
    arms: [Arm; 1],
}

#[derive(Deserialize)]
struct Arm {
    agents: [Run; 1],
}

#[derive(Deserialize)]
struct Run {
    started: Option<Started>,
    epochs: Vec<Value>,
    heads: Vec<Head>,
    usage: Vec<Option<Usage>>,
    traffic: Option<Traffic>,
    finished: Option<Finished>,
}

#[derive(Deserialize)]
struct Head {
    head: String,
    accuracy: Vec<Vec<f64>>,
    stream_accuracy: Vec<f64>,
    initial_accuracy: Option<Vec<f64>>,
    confusion: Vec<Vec<Vec<u64>>>,
}

/// Puts what the file of a single agent says in the place of what is known of its run. Of its traffic the file has
/// only the totals at its end, so what came before stays as it was heard.
///
/// # Errors
/// Those of reading; [`ErrorKind::InvalidData`] if the file is none of a single agent.
pub fn read(path: &Path, run: &mut RunRecord) -> Result<(), Error> {
    let lab: Lab = serde_json::from_slice(&std::fs::read(path)?)
        .map_err(|source| Error::new(ErrorKind::InvalidData, source))?;
    let [Arm { agents: [read] }] = lab.arms;
    run.started = read.started;
    // JSON has no infinity: an epoch whose loss overflowed is not read, as its event is not.
    run.epochs = read.epochs.into_iter().filter_map(|epoch| serde_json::from_value(epoch).ok()).collect();
    run.heads = read.heads.into_iter().map(head).collect();
    run.usages = read.usage;
    if let Some(traffic) = read.traffic {
        let t_s = run.traffic.pop().map_or(0.0, |(t_s, _)| t_s);
        run.traffic.push((t_s, traffic));
    }
    run.finished = read.finished;
    Ok(())
}

fn head(read: Head) -> HeadRecord {
    let mut matrix = AccuracyMatrix::default();
    read.accuracy.into_iter().for_each(|row| matrix.push(row));
    HeadRecord {
        head: read.head,
        matrix,
        stream: read.stream_accuracy,
        initial: read.initial_accuracy.unwrap_or_default(),
        confusions: read.confusion,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::record::{Arm, LabRecord};
    use crate::telemetry::event::{Epoch, Evaluated, Event, HeadAccuracy, Initial, Record};

    fn apply(run: &mut RunRecord, event: Event) {
        run.apply(&Record { t_s: 1.0, event });
    }

    fn heads(accuracy: f64) -> Vec<HeadAccuracy> {
        let of = |head: &str| HeadAccuracy {
            head: head.to_owned(),
            per_experience: vec![accuracy, 1.0 / 3.0],
            stream: accuracy / 7.0,
            confusion: Some(vec![vec![3, 1], vec![0, 4]]),
        };
        vec![of("cl"), of("student")]
    }

    #[test]
    fn a_run_reads_as_it_was_whatever_was_heard_of_it() {
        let started = r#"{"t_s":0.0,"event":"started","agent":"a","fleet":"f","network":"mlp-s","n_parameters":10,
            "device":"cpu","exchange":false,"experiences":[["0"],["1"]],"n_epochs":2,"n_steps":8,
            "resumed_at_step":0,"classes":["0","1"],"n_test":[4,4]}"#;
        let mut whole = RunRecord::default();
        whole.apply(&serde_json::from_str(started).unwrap());
        apply(&mut whole, Event::Initial(Initial { heads: heads(0.1) }));
        for experience in 0..2 {
            apply(&mut whole, Event::Epoch(Epoch { experience, teacher_share: 0.3, ..Epoch::default() }));
            let usage = (experience == 1).then(Usage::default);
            let accuracy = 0.2 + f64::from(experience);
            apply(&mut whole, Event::Evaluated(Evaluated { experience, heads: heads(accuracy), usage }));
        }
        let mut heard = whole.clone();
        heard.heads[0].matrix = AccuracyMatrix::default();
        heard.epochs.clear();
        let finished = r#"{"t_s":9.0,"event":"finished","n_steps":8,"model":"model.onnx","rows_applied":0,
            "rows_refused":0,"n_dropped":0}"#;
        whole.apply(&serde_json::from_str(finished).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.json");
        assert_eq!(read(&path, &mut heard).unwrap_err().kind(), ErrorKind::NotFound);
        let arm = |agents| Arm { agents, ..Arm::default() };
        let write = |agents: Vec<RunRecord>| {
            let record = LabRecord { title: "a".to_owned(), arms: vec![arm(agents)] };
            crate::report::metrics_json::write(&record, &path).unwrap();
        };
        write(vec![whole.clone()]);
        read(&path, &mut heard).unwrap();
        assert_eq!(heard, whole);
        write(vec![whole.clone(), whole.clone()]);
        assert_eq!(read(&path, &mut heard).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
