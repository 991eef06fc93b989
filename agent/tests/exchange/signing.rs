//! No hostile message is taken in, and none twice, whatever crashes.

use std::collections::BTreeMap;
use std::thread;

use dkt_agent::exchange::refusal::{REASONS, Refusal};
use dkt_agent::exchange::replay::{
    Freshness, MARK_AHEAD, MAX_TOPICS, Marks, MarksState, Numbers, NumbersState, STATE_VERSION,
};
use dkt_agent::ids::AgentId;
use proptest::prelude::*;

use crate::forgery::{KINDS, Pool, Random};
use crate::messages::seeded;

/// Hostile messages in all, unless the environment says how many.
const FORGERIES: usize = 1_000_000;
const THREADS: usize = 2;

/// Reasons for which the messages of each kind may be refused.
fn expected(kind: &str) -> &'static [&'static str] {
    match kind {
        "forged" | "wrong key" | "spliced" => &["signature"],
        "bit flipped" => &["signature", "envelope", "other_signer", "old", "unsigned"],
        "other topic" => &["signature", "other_signer"],
        "replayed" => &["old", "duplicate"],
        "reordered" => &["old"],
        "truncated" => &["envelope", "unsigned"],
        "other sender's key id" => &["other_signer"],
        "unknown sender" => &["unknown_signer"],
        "unsigned" => &["unsigned"],
        _ => unreachable!("the kinds are listed"),
    }
}

#[test]
fn no_hostile_message_is_taken_in() {
    let n: usize = std::env::var("DKT_FORGERIES").map_or(FORGERIES, |n| n.parse().unwrap());
    let pool = Pool::new(120);
    let attack = |part: usize| {
        let mut victim = pool.victim();
        let before = victim.marks.clone();
        let (mut random, mut bytes) = (Random(part as u64), Vec::new());
        let mut counts = [[0_usize; REASONS.len()]; KINDS.len()];
        for i in (part..n).step_by(THREADS) {
            let kind = i / THREADS % KINDS.len();
            let topic = pool.hostile(kind, &mut random, &mut bytes);
            match victim.open(topic, &bytes) {
                Ok(_) => panic!("{} message {i} was taken in under {topic}: {bytes:02x?}", KINDS[kind]),
                Err(refusal) => counts[kind][refusal.reason()] += 1,
            }
        }
        assert!(victim.marks == before, "a message that is refused leaves no trace");
        // It does not refuse everything.
        for message in pool.fresh() {
            victim.open(&message.topic, &message.bytes).unwrap();
        }
        counts
    };
    let counts = thread::scope(|scope| {
        let parts: Vec<_> = (0..THREADS).map(|part| scope.spawn(move || attack(part))).collect();
        parts.into_iter().map(|part| part.join().unwrap()).collect::<Vec<_>>()
    });
    for (i, kind) in KINDS.iter().enumerate() {
        let found: BTreeMap<&str, usize> = REASONS
            .iter()
            .enumerate()
            .map(|(reason, name)| (*name, counts.iter().map(|of_part| of_part[i][reason]).sum()))
            .filter(|(_, n)| *n > 0)
            .collect();
        println!("{kind}: {found:?}");
        assert!(found.keys().all(|reason| expected(kind).contains(reason)), "{kind}: {found:?}");
        assert!(n < 1000 || found.len() == expected(kind).len(), "{kind}: {found:?}");
    }
}

fn sender() -> AgentId {
    "alice".parse().unwrap()
}

#[test]
fn a_retained_message_may_come_again_and_none_before_it() {
    let (mut marks, alice) = (Marks::default(), sender());
    let check = |marks: &Marks, number, payload: &[u8]| marks.check(&alice, "status", number, payload);
    marks.take(&alice, "status", 7, b"seven", true);
    assert!(!marks.are_kept());
    assert!(matches!(check(&marks, 7, b"seven"), Ok(Freshness::Again)));
    assert!(matches!(check(&marks, 7, b"other"), Err(Refusal::Old { .. })));
    assert!(matches!(check(&marks, 6, b"six"), Err(Refusal::Old { seen: 7, found: 6 })));
    assert!(matches!(check(&marks, 8, b"eight"), Ok(Freshness::New)));
    assert!(matches!(marks.check(&alice, "demand", 1, b""), Ok(Freshness::New)), "topics are apart");
    let state = marks.state(MARK_AHEAD);
    let text = serde_json::to_string(&state).unwrap();
    let read = Marks::of_state(serde_json::from_str(&text).unwrap());
    assert!(matches!(check(&read, 7, b"seven"), Ok(Freshness::Again)));
    assert!(matches!(check(&read, 7, b"other"), Err(Refusal::Old { .. })));
}

#[test]
fn topics_of_one_sender_are_bounded() {
    let (mut marks, alice) = (Marks::default(), sender());
    for i in 0..MAX_TOPICS {
        marks.take(&alice, &format!("topic {i}"), 1, b"", true);
    }
    assert!(matches!(marks.check(&alice, "another", 2, b""), Err(Refusal::Topics { .. })));
    assert!(matches!(marks.check(&alice, "topic 0", 2, b""), Ok(Freshness::New)));
}

#[test]
fn a_last_will_comes_after_its_connection_and_before_the_next() {
    let mut first = Numbers::after(None, 1_767_225_600).unwrap();
    let said = first.take().unwrap();
    let mut second = Numbers::after(Some(first.epoch()), 1_767_225_600).unwrap();
    assert!(said < first.of_last_will() && first.of_last_will() < second.take().unwrap());
    assert!(Numbers::after(Some(u32::MAX), 0).is_none(), "numbers never begin again");
    assert!(
        Numbers::after(None, u64::MAX).is_some_and(|n| n.epoch() < u32::MAX - 1000),
        "whatever the clock"
    );
}

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// The sender connects: its clock says so much, and it crashes before or after the write.
    Connect { now_s: u64, crash: Option<bool> },
    /// It says something under one of two topics.
    Say { topic: usize },
    /// The network delivers what was sent at some time: so far back. The receiver crashes: before its file is written,
    /// after that and before the message has an effect, or after that.
    Deliver { back: usize, crash: Option<u8> },
    /// The receiver ends in good order and begins again.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0_u64..100, proptest::option::of(any::<bool>())).prop_map(|(now_s, crash)| Step::Connect { now_s, crash }),
        6 => (0..2_usize).prop_map(|topic| Step::Say { topic }),
        6 => Just(Step::Deliver { back: 0, crash: None }),
        4 => (0..60_usize, proptest::option::weighted(0.3, 0..3_u8)).prop_map(|(back, crash)| Step::Deliver { back, crash }),
        1 => Just(Step::Restart),
    ]
}

/// The first is retained.
const TOPICS: [&str; 2] = ["status", "targets"];

proptest! {
    #![proptest_config(seeded(2000))]

    /// Numbers never repeat, and no message has an effect twice or after a newer one, with crashes of both sides at
    /// every point of their writes; a file then holds what it held before or all that was written (`durable`).
    #[test]
    fn nothing_has_an_effect_twice_whatever_crashes(steps in proptest::collection::vec(step(), 1..200)) {
        let alice = sender();
        // The two files.
        let (mut numbers_file, mut marks_file): (Option<NumbersState>, MarksState) = Default::default();
        let mut numbers: Option<Numbers> = None;
        let mut marks = Marks::default();
        let mut sent: Vec<(usize, u64)> = Vec::new();
        let mut effects: [Vec<u64>; 2] = Default::default();
        // The highest number that was let in, whether or not a crash came before its effect.
        let mut taken: [Option<u64>; 2] = [None; 2];
        for step in steps {
            match step {
                Step::Connect { now_s, crash } => {
                    numbers = None;
                    let next = Numbers::after(numbers_file.as_ref().map(|file| file.epoch), now_s).unwrap();
                    if crash == Some(false) {
                        continue;
                    }
                    numbers_file = Some(NumbersState { version: STATE_VERSION, epoch: next.epoch() });
                    if crash.is_none() {
                        // The broker has the will from now on, and may say it at any time.
                        sent.push((0, next.of_last_will()));
                        numbers = Some(next);
                    }
                }
                Step::Say { topic } => if let Some(numbers) = &mut numbers {
                    let number = numbers.take().unwrap();
                    prop_assert!(sent.iter().all(|(_, used)| *used != number));
                    sent.push((topic, number));
                },
                Step::Deliver { back, crash } => {
                    let Some(at) = sent.len().checked_sub(1 + back) else { continue };
                    let (topic, number) = sent[at];
                    let payload = number.to_le_bytes();
                    let is_retained = topic == 0;
                    match marks.check(&alice, TOPICS[topic], number, &payload) {
                        Err(_) => {
                            // What is far enough ahead is never refused.
                            prop_assert!(taken[topic].is_some_and(|taken| number <= taken + MARK_AHEAD));
                            continue;
                        }
                        Ok(Freshness::Again) => prop_assert!(is_retained),
                        Ok(Freshness::New) => marks.take(&alice, TOPICS[topic], number, &payload, is_retained),
                    }
                    taken[topic] = taken[topic].max(Some(number));
                    if crash != Some(0) && !marks.are_kept() {
                        marks_file = marks.state(MARK_AHEAD);
                        marks.kept(&marks_file);
                        prop_assert!(marks.are_kept());
                    }
                    if crash.is_none() || crash == Some(2) {
                        let last = effects[topic].last().copied();
                        let fine = if is_retained { last <= Some(number) } else { last < Some(number) };
                        prop_assert!(fine, "{} {number} after {last:?}", TOPICS[topic]);
                        effects[topic].push(number);
                    }
                    if crash.is_some() {
                        marks = Marks::of_state(marks_file.clone());
                    }
                }
                Step::Restart => {
                    marks_file = marks.state(0);
                    marks = Marks::of_state(marks_file.clone());
                }
            }
        }
    }
}
