//! What a receiver remembers: no message has an effect twice, whatever crashes, and honest ones are taken in.

use dkt_agent::exchange::refusal::Refusal;
use dkt_agent::exchange::replay::{Freshness, MARK_AHEAD, MAX_TOPICS, Marks, MarksState, Numbers, Retained};
use dkt_agent::ids::Digest;

fn alice() -> Digest {
    Digest::of(b"alice's key")
}

fn retained(text: &str) -> Option<Retained> {
    Some(Retained::of(text.as_bytes(), text.as_bytes()))
}

/// Writes them to the file.
fn keep(marks: &mut Marks) -> MarksState {
    let state = marks.state(MARK_AHEAD);
    marks.kept(&state);
    assert!(marks.are_kept());
    state
}

#[test]
fn a_retained_message_may_come_again_and_none_before_it() {
    let mut marks = Marks::default();
    let check = |marks: &Marks, number, payload: &[u8]| marks.check(&alice(), "status", number, payload);
    marks.take(&alice(), "status", 7, retained("seven"));
    assert!(!marks.are_kept());
    assert!(matches!(check(&marks, 7, b"seven"), Ok(Freshness::Again)));
    assert!(matches!(check(&marks, 7, b"other"), Err(Refusal::Old { .. })));
    assert!(matches!(check(&marks, 6, b"six"), Err(Refusal::Old { seen: 7, found: 6 })));
    assert!(matches!(check(&marks, 8, b"eight"), Ok(Freshness::New)));
    assert!(matches!(marks.check(&alice(), "demand", 1, b""), Ok(Freshness::New)), "topics are apart");
    let text = serde_json::to_string(&marks.state(MARK_AHEAD)).unwrap();
    let read = Marks::of_state(serde_json::from_str(&text).unwrap());
    assert!(matches!(check(&read, 7, b"seven"), Ok(Freshness::Again)));
    assert!(matches!(check(&read, 7, b"other"), Err(Refusal::Old { .. })));
}

#[test]
fn a_further_topic_takes_the_place_of_the_oldest_of_which_nothing_old_is_new() {
    let mut marks = Marks::default();
    for i in 0..MAX_TOPICS as u64 {
        marks.take(&alice(), &format!("topic {i}"), 10 + i, retained("x"));
    }
    keep(&mut marks);
    assert!(matches!(marks.check(&alice(), "another", 9, b"x"), Ok(Freshness::New)), "there was room");
    marks.take(&alice(), "another", 40, retained("x"));
    assert!(!marks.are_kept());
    let read = Marks::of_state(marks.state(MARK_AHEAD));
    for marks in [&marks, &read] {
        let check = |topic, number| marks.check(&alice(), topic, number, b"x");
        for topic in ["topic 0", "yet another"] {
            assert!(matches!(check(topic, 10), Err(Refusal::Old { seen: 10, found: 10 })), "{topic}");
            assert!(matches!(check(topic, 11), Ok(Freshness::New)), "{topic}");
        }
        assert!(matches!(check("topic 1", 11), Ok(Freshness::Again)));
        assert!(matches!(check("another", 40), Ok(Freshness::Again)));
        assert!(matches!(marks.check(&Digest::of(b"bob's key"), "topic 0", 1, b"x"), Ok(Freshness::New)));
        assert_eq!(marks.state(0).signers[&alice()].marks.len(), MAX_TOPICS);
    }
    // One that comes late is above what is forgotten for it.
    marks.take(&alice(), "late", 11, retained("x"));
    let check = |topic, number| marks.check(&alice(), topic, number, b"x");
    assert!(matches!(check("late", 11), Ok(Freshness::Again)));
    assert!(matches!(check("topic 1", 11), Err(Refusal::Old { seen: 11, .. })));
}

#[test]
fn crashes_do_not_add_up() {
    let mut marks = Marks::default();
    marks.take(&alice(), "targets", 100, None);
    let mut file = keep(&mut marks);
    for status in 101..106 {
        marks = Marks::of_state(file);
        marks.take(&alice(), "status", status, retained(&status.to_string()));
        file = keep(&mut marks);
    }
    let check = |marks: &Marks, number| marks.check(&alice(), "targets", number, b"");
    for marks in [Marks::of_state(file), Marks::of_state(marks.state(0))] {
        assert!(check(&marks, 100 + MARK_AHEAD).is_err());
        assert!(matches!(check(&marks, 101 + MARK_AHEAD), Ok(Freshness::New)));
    }
    // One that ends in good order knows exactly what has come.
    marks.take(&alice(), "targets", 200, None);
    keep(&mut marks);
    let read = Marks::of_state(marks.state(0));
    assert!(matches!(check(&read, 200), Err(Refusal::Duplicate)));
    assert!(matches!(check(&read, 201), Ok(Freshness::New)));
}

#[test]
fn what_says_nothing_new_needs_no_write() {
    let mut marks = Marks::default();
    let mut number = 0;
    let mut say = |marks: &mut Marks, text: &str| {
        number += 1;
        let payload = format!("{number} {text}");
        let said = Retained::of(payload.as_bytes(), text.as_bytes());
        marks.take(&alice(), "status", number, Some(said));
        marks.are_kept()
    };
    assert!(!say(&mut marks, "round 1"));
    assert!(!say(&mut marks, "round 1"), "the first is not in the file");
    keep(&mut marks);
    assert!(say(&mut marks, "round 1") && say(&mut marks, "round 1"));
    assert!(!say(&mut marks, "round 2"));
    assert!(!say(&mut marks, "round 1"), "what was said between is not in the file");
    let file = keep(&mut marks);
    assert!(say(&mut marks, "round 1"));
    assert!(!say(&mut marks, "round 2"));
    // The file does not have the words.
    let mut read = Marks::of_state(file);
    assert!(!say(&mut read, "round 1"));
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

/// What is written at a time where 100 agents learn from each other: `docs/decisions/0006-signed-messages.md` tells it.
#[test]
fn the_file_of_a_large_fleet_has_the_size_that_is_told() {
    let mut marks = Marks::default();
    for i in 0..99 {
        let key = Digest::of(format!("key {i}").as_bytes());
        for leaf in ["status", "demand", "repair/agent-99", "targets/0123456789abcdef"] {
            let said = retained(leaf).filter(|_| !leaf.starts_with("targets"));
            marks.take(&key, &format!("dkt/1/lab/agent-{i:02}/{leaf}"), 1_767_225_600 << 32, said);
        }
    }
    let n_bytes = serde_json::to_vec(&marks.state(MARK_AHEAD)).unwrap().len();
    assert!((56_000..58_000).contains(&n_bytes), "{n_bytes}");
}
