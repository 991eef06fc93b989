//! Disks that fail: strace has system calls of a real agent return errors, or kills it at them, while it writes a
//! checkpoint.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use dkt_agent::config::AgentConfig;
use dkt_agent::telemetry::event::Event;
use dkt_tests::config;
use dkt_tests::process::{Agent, Ended};

use crate::{dkt, start};

const EVERY: u64 = 10;
/// Of all that a checkpoint needs; a question mark before those that not every processor has.
const SYSTEM_CALLS: &str = "trace=openat,write,fsync,?rename,?renameat,?renameat2";
/// The steps of writing a checkpoint at which it can fail, by strace's names; the last is of the folder.
const STEPS: [&str; 5] = ["openat", "write", "fsync", "?rename,?renameat,?renameat2", "fsync"];
const OF_FOLDER: usize = STEPS.len() - 1;

fn config(root: &Path) -> AgentConfig {
    let mut config = config::alone(root, "alice");
    config.checkpoint.every_steps = EVERY;
    config
}

fn folder(root: &Path) -> PathBuf {
    root.join("alice/checkpoints")
}

fn checkpoint(root: &Path, step: u64) -> PathBuf {
    folder(root).join(format!("checkpoint-{step:012}.safetensors"))
}

/// Where a checkpoint is written before it gets its name.
fn temporary(root: &Path, step: u64) -> PathBuf {
    folder(root).join(format!(".checkpoint-{step:012}.safetensors.tmp"))
}

fn model(root: &Path) -> Vec<u8> {
    fs::read(root.join("alice/model.onnx")).unwrap()
}

/// The final model of a run without a fault.
static UNTROUBLED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(start(&config(root.path())).end().code, Some(0));
    model(root.path())
});

/// Starts an agent under strace with these options.
fn traced(root: &Path, options: &[String]) -> Agent {
    let file = config::write(root, &config(root));
    let agent = dkt([OsStr::new("run"), file.as_ref(), OsStr::new("--progress"), OsStr::new("json")]);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-y", "-o"]).arg(root.join("strace.log"));
    command.args(["-e", SYSTEM_CALLS]).args(options).arg(agent.get_program()).args(agent.get_args());
    command.env_remove("DKT_LOG").env_remove("DKT_LOG_FORMAT");
    Agent::start("alice", command)
}

/// Options that have the system calls of `STEPS[step]` end so, for these checkpoints.
fn fault(root: &Path, step: usize, checkpoints: &[u64], ends: &str) -> Vec<String> {
    let of = |path: PathBuf| ["-P".to_owned(), path.display().to_string()];
    let inject = |when: &str| ["-e".to_owned(), format!("inject={}:{ends}{when}", STEPS[step])];
    if step == OF_FOLDER {
        let [first, last] = [checkpoints[0], checkpoints[checkpoints.len() - 1]].map(|step| step / EVERY);
        return [of(folder(root)), inject(&format!(":when={first}..{last}"))].concat();
    }
    let paths = checkpoints.iter().flat_map(|step| of(temporary(root, *step)));
    paths.chain(inject("")).collect()
}

fn warnings(ended: &Ended) -> Vec<&str> {
    let mut warnings = Vec::new();
    for event in &ended.events {
        if let Event::Warning { message } = event {
            warnings.push(message.as_str());
        }
    }
    warnings
}

fn saved(ended: &Ended) -> Vec<u64> {
    let step = |event: &Event| match event {
        Event::Checkpointed { step, .. } => Some(*step),
        _ => None,
    };
    ended.events.iter().filter_map(step).collect()
}

/// Runs the agent to its end without a fault. Where it went on from.
fn goes_on(root: &Path) -> Ended {
    let ended = start(&config(root)).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(
        model(root) == *UNTROUBLED,
        "from step {} it came to another model",
        ended.started().resumed_at_step
    );
    ended
}

/// The agent trains on through two checkpoints that cannot be written, says so once, and writes the next.
fn trains_on(error: &str, says: &str) {
    for step in 0..STEPS.len() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let ended = traced(root, &fault(root, step, &[20, 30], &format!("error={error}"))).end();
        assert_eq!(ended.code, Some(0), "{error} at step {step}: {}", ended.stderr);
        let warnings = warnings(&ended);
        let [fails, works] = warnings[..] else { panic!("{error} at step {step}: {warnings:?}") };
        assert!(fails.contains(says) && fails.contains("training goes on"), "{fails}");
        assert!(fails.contains(&folder(root).display().to_string()), "{fails}");
        assert_eq!(works, "checkpoints are written again");
        let saved = saved(&ended);
        assert!(saved.starts_with(&[10, 40]), "{error} at step {step}: {saved:?}");
        assert!(!temporary(root, 20).exists());
        assert!(model(root) == *UNTROUBLED, "{error} at step {step}");
    }
}

#[test]
fn an_agent_trains_on_where_the_disk_fails() {
    trains_on("EIO", "Input/output error");
}

#[test]
fn an_agent_trains_on_where_the_disk_is_full() {
    trains_on("ENOSPC", "No space left on device");
}

#[test]
fn an_agent_trains_on_where_the_disk_can_only_be_read() {
    trains_on("EROFS", "Read-only file system");
}

#[test]
fn an_agent_that_is_killed_at_any_step_of_a_checkpoint_has_it_or_the_one_before() {
    for step in 0..STEPS.len() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let ended = traced(root, &fault(root, step, &[20], "signal=KILL")).end();
        assert_eq!(ended.code, None, "step {step}: {}", ended.stderr);
        assert!(!saved(&ended).contains(&20), "step {step}");
        let began = goes_on(root).started().resumed_at_step;
        // Once it has its name it is whole.
        let expected = if step == OF_FOLDER { [20, 20] } else { [10, 20] };
        assert!(expected.contains(&began), "killed at step {step}, it goes on from {began}");
        assert!(!temporary(root, 20).exists());
    }
}

/// A disk that claims to have written what it has not, and the agent dies before it has written another checkpoint.
#[test]
fn a_checkpoint_that_was_written_in_part_is_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let mut options = fault(root, 1, &[20, 30], "retval=10:when=1");
    options.extend(["-e".to_owned(), "inject=openat:signal=KILL:when=2".to_owned()]);
    let ended = traced(root, &options).end();
    assert_eq!((ended.code, saved(&ended)), (None, vec![10, 20]), "{}", ended.stderr);
    assert!(checkpoint(root, 20).exists() && !temporary(root, 30).exists());
    let ended = goes_on(root);
    assert_eq!(ended.started().resumed_at_step, 10);
    assert!(warnings(&ended)[0].contains("is damaged"), "{:?}", warnings(&ended));
}

/// The file is on the disk before it has its name, and its name is before the agent says so.
#[test]
fn a_checkpoint_is_synced_before_it_is_renamed_and_its_folder_after() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let ended = traced(root, &["-e".to_owned(), "trace=fsync,?rename,?renameat,?renameat2".to_owned()]).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let log = fs::read_to_string(root.join("strace.log")).unwrap();
    let calls: Vec<&str> = log.lines().filter(|line| line.contains("/checkpoints")).collect();
    let saved = saved(&ended);
    assert_eq!(calls.len(), 3 * saved.len(), "{log}");
    for (step, calls) in saved.into_iter().zip(calls.chunks(3)) {
        let [file, name, dir] = calls else { panic!("{calls:?}") };
        let [temporary, checkpoint] =
            [temporary(root, step), checkpoint(root, step)].map(|p| p.display().to_string());
        assert!(file.contains(" fsync(") && file.contains(&format!("<{temporary}>)")), "{file}");
        assert!(
            name.contains(" rename") && name.contains(&temporary) && name.contains(&checkpoint),
            "{name}"
        );
        assert!(dir.contains(" fsync(") && dir.contains(&format!("<{}>)", folder(root).display())), "{dir}");
        assert!(calls.iter().all(|call| call.ends_with(" = 0")), "{calls:?}");
    }
}
