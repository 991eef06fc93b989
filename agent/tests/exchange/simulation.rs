//! What holds in a fleet whatever gets lost, doubled, delayed, cut off, killed or forgotten on the way.

use std::collections::BTreeSet;
use std::time::Duration;

use dkt_agent::exchange::engine::{Event, Limits};
use dkt_agent::ids::{Digest, Round, SampleId};

use crate::fleet::{DELTA, DELTA_TEMPERATURE, Faults, Fleet, N_SAMPLES, config, millis, name};

/// From the last fault until everything is there: an announcement of a round and its student, and an answer to the
/// longest wait for a repair.
const RECOVERY: Duration = Duration::from_secs(150);
const N_VIEWS: u64 = 3;

pub fn some_samples(fleet: &mut Fleet) -> BTreeSet<SampleId> {
    let (start, n) = (fleet.below(N_SAMPLES.into()) as u32, 1 + fleet.below(24) as u32);
    (start..start + n).map(|id| SampleId(id % N_SAMPLES)).collect()
}

pub fn demand(fleet: &mut Fleet, agent: usize) {
    let samples = some_samples(fleet);
    let n_views = 1 + fleet.below(N_VIEWS) as u8;
    fleet.demand(agent, samples, n_views);
}

pub fn next_round(fleet: &mut Fleet, agent: usize) {
    let round = Round(fleet.agents[agent].round.0 + 1);
    fleet.start_round(agent, round);
}

/// One thing that happens to a fleet, at random.
fn disturb(fleet: &mut Fleet) {
    let agent = fleet.below(fleet.agents.len() as u64) as usize;
    match fleet.below(12) {
        0..4 => next_round(fleet, agent),
        4..6 => demand(fleet, agent),
        6..9 => fleet.disconnect(agent),
        9 => fleet.restart_agent(agent, Round(0)),
        10 => {
            let round = Round(fleet.below(fleet.agents[agent].round.0 + 1));
            fleet.restart_agent(agent, round);
        }
        _ => fleet.restart_broker(),
    }
}

/// Two to five agents, some with a list of teachers, that all demand something.
fn some_fleet(seed: u64, delta: f32) -> Fleet {
    let mut fleet = Fleet::new(seed, Vec::new());
    let n = 2 + fleet.below(4) as usize;
    let configs = (0..n).map(|agent| {
        let mut config = config(agent);
        if delta > 0.0 {
            (config.delta, config.temperature) = (delta, DELTA_TEMPERATURE);
            // Rows are held back for others where there is room for them in a chunk.
            config.chunk_bytes = if fleet.chance(500) { 4096 } else { config.chunk_bytes };
        }
        if fleet.chance(500) {
            let other = (agent + 1 + fleet.below(n as u64 - 1) as usize) % n;
            config.teachers = vec![name(other)];
        }
        config
    });
    let configs = configs.collect();
    let mut fleet = Fleet::new(seed, configs);
    (0..n).for_each(|agent| demand(&mut fleet, agent));
    fleet
}

fn troubled_fleet(seed: u64) -> (Fleet, Faults) {
    troubled(some_fleet(seed, 0.0), 12)
}

/// Faults for half a minute, so many of them; then a last round of all, which is still subject to them.
pub fn troubled(mut fleet: Fleet, n_disturbances: usize) -> (Fleet, Faults) {
    let seed = fleet.seed;
    // Some lose nothing, and some of these keep the order too.
    let [loss, duplication, reordering] = [300, 200, 200].map(|most| fleet.below(most));
    let faults = Faults {
        loss: if seed.is_multiple_of(3) { 0 } else { loss },
        duplication: if seed.is_multiple_of(6) { 0 } else { duplication },
        reordering: if seed.is_multiple_of(6) { 0 } else { reordering },
        late_will: fleet.below(1000),
    };
    fleet.faults = faults;
    for _ in 0..n_disturbances {
        let time = fleet.now + millis(fleet.below(5000));
        fleet.run_until(time);
        disturb(&mut fleet);
    }
    for agent in 0..fleet.agents.len() {
        next_round(&mut fleet, agent);
    }
    let time = fleet.now + millis(fleet.below(2000));
    fleet.run_until(time);
    fleet.faults = Faults::default();
    (fleet, faults)
}

/// Everybody has everything, and knows it.
pub fn all_are_served(fleet: &Fleet) -> bool {
    let mut agents = fleet.agents.iter().enumerate();
    agents.all(|(agent, student)| fleet.is_served(agent) && student.engine.n_missing() == 0)
}

/// Runs until everybody has everything, no longer than until `end`.
pub fn run_until_served(fleet: &mut Fleet, end: Duration) {
    while !all_are_served(fleet) {
        assert!(fleet.now < end, "seed {}: somebody lacks rows at {:?}", fleet.seed, fleet.now);
        fleet.run_until(fleet.now + millis(1000));
    }
}

#[test]
fn once_the_faults_stop_every_demanded_row_of_every_teachers_last_round_arrives() {
    for seed in 0..4000 {
        let (mut fleet, _) = troubled_fleet(seed);
        let end = fleet.now + RECOVERY;
        run_until_served(&mut fleet, end);
        for (agent, student) in fleet.agents.iter().enumerate() {
            // A teacher that the faults keep away for long is told of.
            let mut others = student.warnings.iter().filter(|text| !text.contains("nothing has been heard"));
            assert_eq!(others.next(), None, "seed {seed}: agent {agent}");
        }
    }
}

/// The same where rows that have hardly changed are not sent again: a student that took a row for the same without
/// holding it would never be served, as it would not ask.
#[test]
fn with_a_delta_every_row_arrives_or_has_hardly_changed() {
    let (mut n_same, mut n_lacking) = (0, 0);
    for seed in 0..1000 {
        let (mut fleet, _) = troubled(some_fleet(seed, DELTA), 24);
        let end = fleet.now + RECOVERY;
        run_until_served(&mut fleet, end);
        // A few rounds in peace: what is the same is held.
        let lacking = |fleet: &Fleet| fleet.agents.iter().map(|a| a.engine.stats().rows_lacking).sum::<u64>();
        fleet.run_until(end);
        let before = lacking(&fleet);
        n_lacking += before;
        for _ in 0..3 {
            (0..fleet.agents.len()).for_each(|agent| next_round(&mut fleet, agent));
            let end = fleet.now + RECOVERY;
            fleet.run_until(fleet.now + millis(2000));
            run_until_served(&mut fleet, end);
            fleet.run_until(end);
        }
        assert_eq!(lacking(&fleet), before, "seed {seed}");
        n_same += fleet.agents.iter().map(|agent| agent.engine.stats().rows_renewed).sum::<u64>();
    }
    assert!(n_same > 0 && n_lacking > 0, "{n_same} rows were the same, {n_lacking} of them not held");
}

#[test]
fn once_everything_is_there_only_announcements_are_sent() {
    for seed in 0..150 {
        let (mut fleet, faults) = troubled_fleet(seed);
        let (before, end) = (fleet.published, fleet.now + RECOVERY);
        run_until_served(&mut fleet, end);
        // What was asked for twice is still on its way.
        fleet.run_until(end);
        let n = fleet.agents.len() as u64;
        let [.., repairs, targets] = [0, 1, 2, 3].map(|kind| fleet.published[kind] - before[kind]);
        assert!(repairs <= 12 * n * (n - 1), "seed {seed}: {repairs} repairs of {n} agents");
        // Two batches of labels at most for each batch that is demanded, each of up to two chunks.
        let most = 2 * n * N_VIEWS * u64::from(N_SAMPLES) / 4;
        assert!(targets <= most, "seed {seed}: {targets} chunks of {n} agents");

        // A question that was taken back and whose taking back got lost, or was overtaken by it, stays until the next
        // connection.
        let kept = fleet.retained();
        assert!(
            faults.loss + faults.duplication + faults.reordering > 0
                || kept.iter().all(|topic| !topic.contains("/repair/")),
            "seed {seed}: {kept:?}"
        );
        let before = fleet.published;
        fleet.run_until(end + Duration::from_secs(600));
        let sent = [0, 1, 2, 3].map(|kind| fleet.published[kind] - before[kind]);
        // Of everybody, or of each teacher that is named.
        let demands: usize = fleet.agents.iter().map(|agent| agent.config.teachers.len().max(1)).sum();
        assert_eq!(sent, [10 * n, 10 * demands as u64, 0, 0], "seed {seed}");
    }
}

#[test]
fn a_teacher_that_never_answers_is_asked_ever_less_often() {
    let mut fleet = Fleet::new(1, vec![config(0), config(1)]);
    fleet.run_until(Duration::from_secs(5));
    fleet.demand(0, some_samples(&mut Fleet::new(1, Vec::new())), 2);
    // It says that it has begun a round, and never labels.
    fleet.step(1, Event::RoundStarted(Round(1)));
    fleet.mute(1);
    fleet.run_until(Duration::from_secs(3600));
    let repairs = fleet.published[2];
    assert!((60..=66).contains(&repairs), "{repairs} repairs in an hour");
    assert!(fleet.agents[0].engine.n_missing() > 0);
}

#[test]
fn agents_with_other_data_or_classes_exchange_nothing_and_say_so_once() {
    for seed in 0..40 {
        let mut configs: Vec<_> = (0..4).map(config).collect();
        configs[2].data = Digest::of(b"other data");
        configs[3].classes.reverse();
        let mut fleet = Fleet::new(seed, configs);
        (0..4).for_each(|agent| demand(&mut fleet, agent));
        fleet.run_until(Duration::from_secs(5));
        for _ in 0..8 {
            let agent = fleet.below(4) as usize;
            match fleet.below(3) {
                0 => fleet.disconnect(agent),
                1 => next_round(&mut fleet, agent),
                _ => fleet.restart_broker(),
            }
            fleet.run_until(fleet.now + Duration::from_secs(10));
        }
        (0..4).for_each(|agent| next_round(&mut fleet, agent));
        let end = fleet.now + RECOVERY;
        run_until_served(&mut fleet, end);
        for (agent, other) in fleet.agents.iter().enumerate() {
            let engine = &other.engine;
            let n_unlike = if agent < 2 { 2 } else { 3 };
            assert_eq!(other.warnings.len(), n_unlike, "seed {seed}: {:?}", other.warnings);
            assert_eq!(engine.peers().len(), 3 - n_unlike, "seed {seed}");
            if agent >= 2 {
                assert_eq!((engine.stats().rows_applied, engine.stats().chunks_out), (0, 0), "seed {seed}");
            }
        }
        for said in ["`agent-0` has other classes", "`agent-1` has other classes", "`agent-2` has other data"]
        {
            let warnings = &fleet.agents[3].warnings;
            assert!(
                warnings.iter().any(|text| text.starts_with(said)),
                "seed {seed}: {said} not in {warnings:?}"
            );
        }
    }
}

#[test]
fn an_agent_that_comes_back_with_the_right_data_is_learned_from() {
    let mut configs = vec![config(0), config(1)];
    configs[1].data = Digest::of(b"other data");
    let mut fleet = Fleet::new(3, configs);
    (0..2).for_each(|agent| demand(&mut fleet, agent));
    fleet.run_until(Duration::from_secs(10));
    fleet.agents[1].config.data = Digest::of(b"data");
    fleet.restart_agent(1, Round(0));
    (0..2).for_each(|agent| next_round(&mut fleet, agent));
    let end = fleet.now + Duration::from_secs(30);
    run_until_served(&mut fleet, end);
    let asked: u64 = fleet.agents.iter().map(|agent| agent.engine.stats().repairs_out).sum();
    assert_eq!(asked, 0, "they have subscribed at once");
}

#[test]
fn a_late_joiner_is_served_without_having_to_ask() {
    let mut fleet = Fleet::new(4, vec![config(0), config(1), config(2)]);
    let all: BTreeSet<SampleId> = (0..N_SAMPLES).map(SampleId).collect();
    (0..2).for_each(|agent| fleet.demand(agent, all.clone(), 2));
    fleet.run_until(Duration::from_secs(5));
    (0..3).for_each(|agent| next_round(&mut fleet, agent));
    fleet.run_until(Duration::from_secs(30));
    let asked = fleet.agents[2].engine.stats().repairs_out;
    fleet.demand(2, all, 2);
    fleet.run_until(Duration::from_secs(40));
    assert!(fleet.is_served(2));
    assert_eq!(fleet.agents[2].engine.stats().repairs_out, asked);
}

#[test]
fn nobody_is_taught_who_is_not_there_to_learn() {
    let mut fleet = Fleet::new(5, vec![config(0), config(1), config(2)]);
    (0..3).for_each(|agent| demand(&mut fleet, agent));
    fleet.run_until(Duration::from_secs(5));
    next_round(&mut fleet, 0);
    fleet.run_until(Duration::from_secs(30));
    assert!(fleet.published[3] > 0);
    // One has finished, the other is gone; what both demanded stays at the broker or is taken back.
    fleet.step(1, Event::Finished);
    fleet.step(2, Event::Stopping);
    fleet.run_until(Duration::from_secs(35));
    assert!(fleet.agents[0].engine.all_peers_finished());
    let before = fleet.published[3];
    (0..5).for_each(|_| next_round(&mut fleet, 0));
    fleet.run_until(Duration::from_secs(60));
    fleet.disconnect(0);
    fleet.run_until(Duration::from_secs(90));
    assert_eq!(fleet.published[3], before);
}

#[test]
fn a_finished_agent_takes_back_what_it_asked_of_others() {
    let mut fleet = Fleet::new(6, vec![config(0), config(1)]);
    (0..2).for_each(|agent| demand(&mut fleet, agent));
    fleet.run_until(Duration::from_secs(5));
    fleet.step(1, Event::RoundStarted(Round(1)));
    fleet.mute(1);
    fleet.run_until(Duration::from_secs(30));
    let own = |fleet: &Fleet| {
        let topics =
            fleet.retained().into_iter().filter_map(|topic| topic.strip_prefix("dkt/1/fleet/agent-0/"));
        topics.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(own(&fleet), ["demand", "repair/agent-1", "status"]);
    fleet.step(0, Event::Finished);
    fleet.run_until(Duration::from_secs(200));
    assert_eq!(own(&fleet), ["status"]);
}

#[test]
fn no_room_for_a_row_is_said_once_and_not_asked_for_again() {
    // A block takes the rows of one teacher and one view: 40 of its 64 places.
    let block_bytes = 64 * (8 + 2 * 4) + 160;
    for max_blocks in [0, 1, 3] {
        let mut configs = vec![config(0), config(1), config(2)];
        configs[0].limits = Limits { max_target_bytes: max_blocks * block_bytes, ..Limits::default() };
        let mut fleet = Fleet::new(7, configs);
        let all: BTreeSet<SampleId> = (0..N_SAMPLES).map(SampleId).collect();
        (0..3).for_each(|agent| fleet.demand(agent, all.clone(), 2));
        fleet.run_until(Duration::from_secs(5));
        for end in [60, 120] {
            (1..3).for_each(|agent| next_round(&mut fleet, agent));
            fleet.run_until(Duration::from_secs(end));
        }
        let student = &fleet.agents[0];
        let stats = student.engine.stats();
        assert_eq!(
            stats.rows_applied,
            2 * max_blocks as u64 * u64::from(N_SAMPLES),
            "the rows that found room, in both rounds"
        );
        assert!(stats.rows_over_bound > 0);
        assert_eq!(student.engine.n_missing(), 0);
        assert_eq!(stats.repairs_out, 0);
        assert_eq!(student.warnings.len(), 1, "{:?}", student.warnings);
    }
}
