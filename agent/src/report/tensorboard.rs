//! A run as TensorBoard shows it: event files that grow as training goes on.
//!
//! A run that goes on after a stop opens another file in the same folder. What earlier files hold of it stays, with
//! its own times; what they hold of steps that were lost, as after a crash, is marked as orphaned and trained anew.

mod event_file;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use self::event_file::{EventFile, SessionLog, Summary, Value, What};
use super::measures::{AFTER_EXPERIENCE, OF_EPOCH, OF_USAGE};
use super::record::RunRecord;
use crate::telemetry::event::{Epoch, Evaluated, Event, Record, Started, Traffic};

/// Tags that are remembered of the files of a folder: many times those of a stream of a hundred experiences.
const MAX_TAGS: usize = 4096;
const CONFIGURATION: &str = "configuration";

#[derive(Debug, thiserror::Error)]
#[error("cannot write `{}` for TensorBoard", .path.display())]
pub struct TensorBoardError {
    path: PathBuf,
    source: io::Error,
}

impl From<(PathBuf, io::Error)> for TensorBoardError {
    fn from((path, source): (PathBuf, io::Error)) -> Self {
        TensorBoardError { path, source }
    }
}

/// The event files of one agent.
pub struct TensorBoard {
    folder: PathBuf,
    /// As TOML.
    configuration: String,
    /// From the start of training on.
    session: Option<Session>,
}

/// What this process writes, beside what earlier ones have written.
struct Session {
    file: EventFile,
    resumed_at_step: i64,
    written: Written,
    /// Totals of the exchange that have yet to be written.
    traffic: Option<Traffic>,
    /// Of the newest epoch.
    step: i64,
}

impl TensorBoard {
    /// `configuration` is shown as it is. Nothing is written before training begins.
    pub fn new(folder: PathBuf, configuration: String) -> Self {
        TensorBoard { folder, configuration, session: None }
    }

    /// Writes what there is to show of a record. `run` holds everything up to it; `wall_time` is in seconds since
    /// 1970.
    ///
    /// # Errors
    /// [`TensorBoardError`] if a file cannot be written; what was written before stays.
    pub fn on(&mut self, record: &Record, run: &RunRecord, wall_time: f64) -> Result<(), TensorBoardError> {
        if let Event::Started(started) = &record.event {
            self.session = Some(self.start(started, wall_time)?);
        }
        let Some(session) = &mut self.session else { return Ok(()) };
        match &record.event {
            Event::Epoch(epoch) => {
                session.step = epoch.step as i64;
                let mut values = of_epoch(epoch);
                values.extend(session.traffic.take().iter().flat_map(of_traffic));
                session.append(session.step, values, wall_time)
            }
            Event::Evaluated(evaluated) => {
                let step = step_of(evaluated, run).unwrap_or(session.step);
                session.append(step, of_experience(run), wall_time)
            }
            Event::Traffic(traffic) => {
                // Comes every second, and a point for each step is enough.
                session.traffic = Some(traffic.clone());
                Ok(())
            }
            Event::Finished(_) => {
                let values = session.traffic.take().iter().flat_map(of_traffic).collect();
                session.append(session.step, values, wall_time)
            }
            _ => Ok(()),
        }
    }

    fn start(&self, started: &Started, wall_time: f64) -> Result<Session, TensorBoardError> {
        let failed = |source| TensorBoardError { path: self.folder.clone(), source };
        fs::create_dir_all(&self.folder).map_err(failed)?;
        let resumed_at_step = started.resumed_at_step as i64;
        let (n_files, written) = Written::of(&self.folder, resumed_at_step).map_err(failed)?;
        let mut file = EventFile::create(&self.folder, &started.agent, wall_time)?;
        if n_files > 0 {
            let step = if resumed_at_step == 0 { 0 } else { resumed_at_step + 1 };
            let what = Some(What::SessionLog(SessionLog::START));
            file.append(&[event_file::Event { wall_time, step, what }])?;
        }
        let mut session = Session { file, resumed_at_step, written, traffic: None, step: resumed_at_step };
        // Markdown shows indented lines as they are.
        let text = self.configuration.lines().map(|line| format!("    {line}\n")).collect();
        session.append(0, vec![Value::text(CONFIGURATION.to_owned(), text)], wall_time)?;
        Ok(session)
    }
}

impl Session {
    /// Writes those of the values that are not yet in the folder.
    fn append(&mut self, step: i64, mut values: Vec<Value>, wall_time: f64) -> Result<(), TensorBoardError> {
        // A run that goes on tells its whole course.
        if step <= self.resumed_at_step {
            values.retain(|value| !self.written.has(&value.tag, step));
        }
        if values.is_empty() {
            return Ok(());
        }
        let what = Some(What::Summary(Summary { values }));
        Ok(self.file.append(&[event_file::Event { wall_time, step, what }])?)
    }
}

/// The newest step of each tag in a folder. Steps of a tag rise, so that those before are there too.
#[derive(Default)]
struct Written(BTreeMap<String, i64>);

impl Written {
    /// How many files there are, and what they hold that still counts for a run which goes on from `resumed_at_step`.
    fn of(folder: &Path, resumed_at_step: i64) -> io::Result<(usize, Self)> {
        let files = event_file::list(folder)?;
        let mut written = Written::default();
        // A run that begins anew goes on from nothing.
        let counted: &[PathBuf] = if resumed_at_step == 0 { &[] } else { &files };
        for file in counted {
            event_file::read(file, |event| written.add(&event, resumed_at_step))?;
        }
        Ok((files.len(), written))
    }

    fn add(&mut self, event: &event_file::Event, resumed_at_step: i64) {
        match &event.what {
            Some(What::SessionLog(log)) if *log == SessionLog::START => {
                self.0.retain(|_, newest| {
                    *newest = (*newest).min(event.step - 1);
                    *newest >= 0
                });
            }
            Some(What::Summary(summary)) if event.step <= resumed_at_step => {
                for value in &summary.values {
                    if let Some(newest) = self.0.get_mut(&value.tag) {
                        *newest = event.step.max(*newest);
                    } else if self.0.len() < MAX_TAGS {
                        self.0.insert(value.tag.clone(), event.step);
                    }
                }
            }
            _ => {}
        }
    }

    fn has(&self, tag: &str, step: i64) -> bool {
        self.0.get(tag).is_some_and(|newest| *newest >= step)
    }
}

/// The training step at which an experience was evaluated: that of its last epoch.
fn step_of(evaluated: &Evaluated, run: &RunRecord) -> Option<i64> {
    let last = run.epochs.iter().rev().find(|epoch| epoch.experience == evaluated.experience)?;
    Some(last.step as i64)
}

/// The numbers of the report that are there, below `group`.
fn scalars<'a>(group: &str, numbers: impl IntoIterator<Item = (&'a str, Option<f64>)>) -> Vec<Value> {
    let scalar = |(metric, value): (&str, Option<f64>)| {
        value.map(|value| Value::scalar(format!("{group}/{metric}"), value as f32))
    };
    numbers.into_iter().filter_map(scalar).collect()
}

fn of_epoch(epoch: &Epoch) -> Vec<Value> {
    let mut values = scalars("train", OF_EPOCH.map(|(metric, of)| (metric, of(epoch))));
    values.push(Value::scalar("train/peers".to_owned(), epoch.n_peers as f32));
    values
}

/// After the newest experience.
fn of_experience(run: &RunRecord) -> Vec<Value> {
    let n_test = run.n_test();
    let mut values = Vec::new();
    for head in &run.heads {
        let name = &head.head;
        let Some((i, row)) = head.matrix.rows().iter().enumerate().next_back() else { continue };
        for (metric, of) in AFTER_EXPERIENCE {
            values.extend(scalars(metric, [(name.as_str(), of(head, i, &n_test))]));
        }
        let on_each = row.iter().enumerate().map(|(j, on)| (format!("experience_{}", j + 1), *on));
        for (on, accuracy) in on_each {
            values.extend(scalars(&format!("accuracy_{name}"), [(on.as_str(), Some(accuracy))]));
        }
    }
    if let Some(usage) = run.usages.last().and_then(Option::as_ref) {
        values.extend(scalars("usage", OF_USAGE.map(|(metric, of)| (metric, of(usage)))));
    }
    values
}

/// Totals since the start of the process.
fn of_traffic(traffic: &Traffic) -> Vec<Value> {
    let mut values = Vec::new();
    for of_kind in &traffic.kinds {
        let counts = [
            ("messages_out", of_kind.messages_out),
            ("bytes_out", of_kind.bytes_out),
            ("messages_in", of_kind.messages_in),
            ("bytes_in", of_kind.bytes_in),
        ];
        for (what, n) in counts {
            values.push(Value::scalar(format!("exchange/{}_{what}", of_kind.kind), n as f32));
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::event::HeadAccuracy;

    fn started(resumed_at_step: u64) -> Event {
        Event::Started(Started {
            agent: "alice".to_owned(),
            fleet: "lab".to_owned(),
            network: "digits-cnn".to_owned(),
            n_parameters: 1,
            device: "cpu".to_owned(),
            exchange: false,
            experiences: vec![vec!["0".to_owned()], vec!["1".to_owned()]],
            n_epochs: 2,
            n_steps: 40,
            resumed_at_step,
            classes: Vec::new(),
            n_test: Vec::new(),
            energy: None,
            configuration: serde_json::Value::Null,
        })
    }

    /// The epoch that ends at `step`: two of ten steps an experience.
    fn epoch(step: u64) -> Event {
        let line = format!(
            r#"{{"event":"epoch","experience":{},"epoch":{},"step":{step},"loss":{step}.5,"loss_cl":0.0,"loss_st":0.0,
            "teacher_share":0.0,"samples_per_second":1.0,"n_peers":0}}"#,
            (step - 1) / 20,
            (step - 1) % 20 / 10,
        );
        serde_json::from_str(&line).unwrap()
    }

    fn evaluated(experience: u32, per_experience: [f64; 2]) -> Event {
        let per_experience = per_experience.into();
        let head = HeadAccuracy { head: "cl".to_owned(), per_experience, stream: 0.25, confusion: None };
        Event::Evaluated(Evaluated { experience, heads: vec![head], usage: None })
    }

    /// One process: what it is told, in order. Its time is that of the first event, each a second later.
    fn session(folder: &Path, wall_time: f64, events: &[Event]) -> Result<(), TensorBoardError> {
        let mut board = TensorBoard::new(folder.to_owned(), "agent = \"alice\"\n".to_owned());
        let mut run = RunRecord::default();
        for (i, event) in events.iter().enumerate() {
            let record = Record { t_s: i as f64, event: event.clone() };
            run.apply(&record);
            board.on(&record, &run, wall_time + i as f64)?;
        }
        Ok(())
    }

    /// (step, value, wall time) of a scalar as readers see it: restarts remove what comes after them.
    fn points(folder: &Path, tag: &str) -> Vec<(i64, f32, f64)> {
        let mut points: Vec<(i64, f32, f64)> = Vec::new();
        for file in event_file::list(folder).unwrap() {
            event_file::read(&file, |event| match event.what {
                Some(What::SessionLog(_)) => points.retain(|(step, ..)| *step < event.step),
                Some(What::Summary(summary)) => {
                    let values = summary.values.iter().filter(|v| v.tag == tag);
                    points.extend(
                        values.map(|v| (event.step, v.simple_value.unwrap_or(-1.0), event.wall_time)),
                    );
                }
                _ => {}
            })
            .unwrap();
        }
        points
    }

    #[test]
    fn a_run_that_goes_on_repeats_nothing_and_takes_back_what_was_lost() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let course = [started(0), epoch(10), epoch(20), evaluated(0, [1.0, 0.0]), epoch(30)];
        session(folder, 1e9, &course).unwrap();
        // A crash: the newest checkpoint is of step 25.
        let course = [started(25), epoch(10), epoch(20), evaluated(0, [1.0, 0.0]), epoch(30), epoch(40)];
        let end = [evaluated(1, [0.5, 0.75])];
        session(folder, 2e9, &[&course[..], &end].concat()).unwrap();
        let expected =
            [(10, 10.5, 1e9 + 1.0), (20, 20.5, 1e9 + 2.0), (30, 30.5, 2e9 + 4.0), (40, 40.5, 2e9 + 5.0)];
        assert_eq!(points(folder, "train/loss"), expected);
        assert_eq!(points(folder, "average_accuracy/cl"), [(20, 1.0, 1e9 + 3.0), (40, 0.625, 2e9 + 6.0)]);
        assert_eq!(points(folder, "accuracy_cl/experience_2"), [(20, 0.0, 1e9 + 3.0), (40, 0.75, 2e9 + 6.0)]);
        assert_eq!(points(folder, "forgetting_so_far/cl"), [(40, 0.5, 2e9 + 6.0)]);
        assert_eq!(points(folder, CONFIGURATION).len(), 1);
        // What has finished has nothing to add.
        session(folder, 3e9, &[&[started(40)], &course[1..], &end].concat()).unwrap();
        assert_eq!(points(folder, "train/loss"), expected);
        assert_eq!(points(folder, "stream_accuracy/cl").len(), 2);
    }

    #[test]
    fn what_an_earlier_process_did_not_write_is_written_later() {
        let folder = tempfile::tempdir().unwrap();
        session(folder.path(), 1e9, &[started(20), epoch(10), epoch(20), epoch(30)]).unwrap();
        let steps = |tag| points(folder.path(), tag).iter().map(|(step, ..)| *step).collect::<Vec<_>>();
        assert_eq!(steps("train/loss"), [10, 20, 30]);
        // One that begins anew takes the place of what was there.
        session(folder.path(), 2e9, &[started(0), epoch(10)]).unwrap();
        assert_eq!(points(folder.path(), "train/loss"), [(10, 10.5, 2e9 + 1.0)]);
        assert_eq!(steps(CONFIGURATION), [0]);
    }

    #[test]
    fn a_folder_that_cannot_be_is_told_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = session(&file.join("tensorboard"), 1e9, &[started(0)]).unwrap_err();
        assert!(error.to_string().contains("file/tensorboard` for TensorBoard"), "{error}");
    }
}
