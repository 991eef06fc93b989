//! One agent among peers that say anything: well-formed messages with hostile contents.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dkt_agent::draw::Draw;
use dkt_agent::exchange::engine::{Action, Event, MAX_PEERS};
use dkt_agent::exchange::envelope::ENVELOPE_BYTES;
use dkt_agent::exchange::message::{AgentState, Demand, Message, Status, TargetChunk};
use dkt_agent::exchange::rows::{Encoding, Floats, Rows};
use dkt_agent::exchange::sample_list::SampleList;
use dkt_agent::exchange::target_store::TargetStore;
use dkt_agent::exchange::topic::Leaf;
use dkt_agent::exchange::wire::{MAX_MESSAGE_BYTES, encode};
use dkt_agent::ids::{AgentId, Digest, Round, SampleId, View};
use half::f16;
use proptest::prelude::*;

use crate::fleet::{N_CLASSES, N_SAMPLES, config, millis, name};
use crate::messages::{any_message, samples, seeded};
use crate::victim::{Victim, all, chunk, demand, repairs, same, status};

proptest! {
    #![proptest_config(seeded(300))]

    /// Messages under right and wrong topics, from peers that fit and peers that do not; with the victim's own data
    /// digest in half of them, so that they get past the first check.
    #[test]
    fn any_messages_leave_an_agent_at_work(
        messages in proptest::collection::vec((any_message(), 0_usize..6, 0_usize..4, any::<bool>()), 1..60),
    ) {
        let mut victim = Victim::at_work(config(0));
        victim.hear_status("peer-0", status(1, 1));
        victim.hear_demand("peer-0", demand(2, &[1, 2, 3]));
        let data = config(0).data;
        for ((leaf, mut message), peer, other, own_data) in messages {
            match &mut message {
                Message::Status(status) if own_data => *status = Status { round: status.round, ..crate::victim::status(1, 1) },
                Message::Demand(demand) if own_data => demand.data = data,
                Message::Repair(repair) if own_data => repair.data = data,
                Message::Targets(chunk) if own_data => (chunk.data, chunk.session) = (data, 1),
                Message::Inputs(inputs) if own_data => (inputs.data, inputs.session) = (data, 1),
                _ => {}
            }
            let leaf = match other {
                0 => Leaf::Repair { teacher: name(0) },
                1 => Leaf::Targets { data: data.short() },
                _ => leaf,
            };
            let agent = if peer == 5 { name(0).to_string() } else { format!("peer-{peer}") };
            victim.hear(&agent, leaf, message);
            victim.now += millis(300);
            victim.step(Event::Tick);
        }
        let rows = victim.label_all();
        prop_assert_eq!(rows.iter().collect::<BTreeSet<_>>().len(), rows.len());
        prop_assert!(rows.iter().all(|(_, id)| id.0 < N_SAMPLES));
        for id in 10..N_SAMPLES {
            prop_assert_eq!(victim.held(id), None);
        }
    }
}

#[test]
fn whatever_peers_demand_each_row_is_labelled_once() {
    for seed in 0..20 {
        let draw = Draw::new(seed, "demands");
        let mut victim = Victim::at_work(config(0));
        (0..5).for_each(|peer| _ = victim.hear_status(&format!("peer-{peer}"), status(1, 1)));
        for i in 0..400 {
            let at = |what, n| draw.below(n, &[i, what]) as u32;
            let peer = format!("peer-{}", at(0, 5));
            let ids: Vec<u32> = (0..at(1, 60)).map(|j| draw.below(40, &[i, 2, j.into()]) as u32).collect();
            match at(3, 3) {
                0 => victim.hear_demand(&peer, demand(1 + at(4, 255) as u8, &ids)),
                1 => victim.hear_demand(&peer, demand(1 + at(4, 4) as u8, &ids)),
                _ => {
                    let missing = (0..=255).map(|view| (View(view), samples(N_SAMPLES, &ids))).collect();
                    victim.hear_repair(&peer, 1, missing);
                }
            }
        }
        let rows = victim.label_all();
        assert!(!rows.is_empty(), "seed {seed}");
        assert_eq!(rows.iter().collect::<BTreeSet<_>>().len(), rows.len(), "seed {seed}: a row twice");
        assert_eq!(victim.label_all(), [], "seed {seed}");
    }
}

#[test]
fn a_demand_for_another_number_of_samples_or_other_data_is_refused() {
    let mut victim = Victim::at_work(config(0));
    victim.hear_status("peer", status(1, 1));
    for n_samples in [1, N_SAMPLES - 1, N_SAMPLES + 1, 8_000_000] {
        let wrong = Demand { data: config(0).data, n_views: 255, samples: samples(n_samples, &[0]) };
        victim.hear_demand("peer", Message::Demand(wrong));
        victim.hear_repair("peer", 1, BTreeMap::from([(View(0), samples(n_samples, &[0]))]));
    }
    let other = Demand { data: Digest::of(b"other"), n_views: 1, samples: samples(N_SAMPLES, &[0]) };
    victim.hear_demand("peer", Message::Demand(other));
    assert_eq!(victim.refused("other data"), 9);
    assert_eq!(victim.label_all(), []);
}

#[test]
fn a_repair_is_answered_as_far_as_a_demand_goes() {
    let mut victim = Victim::at_work(config(0));
    victim.hear_status("peer", status(1, 1));
    let everything: BTreeMap<_, _> = (0..=255).map(|view| (View(view), samples(N_SAMPLES, &all()))).collect();
    victim.hear_repair("peer", 1, everything.clone());
    assert_eq!(victim.label_all(), [], "nobody demands anything");

    victim.hear_demand("peer", demand(2, &[4, 9]));
    let rows = [(0, 4), (0, 9), (1, 4), (1, 9)].map(|(view, id)| (View(view), SampleId(id)));
    assert_eq!(victim.label_all(), rows);
    victim.hear_repair("peer", 1, everything.clone());
    assert_eq!(victim.label_all(), rows, "again, as asked");
    victim.hear_repair("peer", 1, BTreeMap::from([(View(1), samples(N_SAMPLES, &[9, 10]))]));
    assert_eq!(victim.label_all(), [(View(1), SampleId(9))]);

    victim.hear_repair("peer", 2, everything.clone());
    victim.hear_repair("stranger", 1, everything);
    assert_eq!(victim.label_all(), [], "of another round, and of nobody");
    assert_eq!(victim.engine.stats().repairs_in, 3);
}

#[test]
fn one_who_asks_again_and_again_does_not_keep_others_waiting() {
    let mut victim = Victim::at_work(config(0));
    for (peer, ids) in [("greedy", &all()[..20]), ("patient", &all()[20..])] {
        victim.hear_status(peer, status(1, 1));
        victim.hear_demand(peer, demand(1, ids));
    }
    let mut labelled = BTreeSet::new();
    for _ in 0..N_SAMPLES / 5 {
        let (_, ids) = victim.engine.next_label_batch(5).unwrap();
        labelled.extend(ids);
        victim.hear_repair("greedy", 1, BTreeMap::from([(View(0), samples(N_SAMPLES, &all()))]));
    }
    assert_eq!(labelled.len(), N_SAMPLES as usize);
}

#[test]
fn demands_are_kept_up_to_a_bound_and_views_too() {
    let mut config = config(0);
    config.n_samples = 80_000;
    // Sets of 10,000 bytes: room for nine demands, and for five views.
    config.limits.max_teaching_bytes = 200_000;
    let mut victim = Victim::new(config.clone());
    victim.step(Event::RoundStarted(Round(1)));
    let demand = |n_views, id| {
        let samples = samples(80_000, &[id]);
        Message::Demand(Demand { data: config.data, n_views, samples })
    };
    // Of agents that are not there: they make room for those that are.
    (0..20).for_each(|i| victim.hear_demand(&format!("gone-{i}"), demand(1, 0)));
    assert_eq!(victim.refused("demands beyond the bound"), 0);
    for i in 0..20 {
        victim.hear_status(&format!("peer-{i}"), status(1, 1));
        victim.hear_demand(&format!("peer-{i}"), demand(1, i));
    }
    assert_eq!(victim.refused("demands beyond the bound"), 11);
    assert_eq!(victim.label_all().len(), 9);
    victim.hear_demand("peer-0", demand(6, 0));
    assert_eq!(victim.refused("views beyond the bound"), 1);
    victim.hear_demand("peer-1", demand(5, 1));
    assert_eq!(victim.label_all().len(), 4);
}

#[test]
fn peers_are_known_up_to_a_bound() {
    let mut victim = Victim::at_work(config(0));
    for i in 0..MAX_PEERS + 100 {
        let gone = Status { state: AgentState::Offline, ..status(1, 1) };
        victim.hear_status(&format!("gone-{i}"), gone);
    }
    for i in 0..MAX_PEERS + 100 {
        victim.hear_status(&format!("peer-{i}"), status(1, 1));
    }
    assert_eq!(victim.engine.peers().len(), MAX_PEERS);
    assert_eq!(victim.refused("too many peers"), 100);
    let actions = victim.run_until(Duration::from_secs(3));
    assert_eq!(repairs(&actions).len(), MAX_PEERS);
}

#[test]
fn only_what_was_demanded_is_held() {
    let mut victim = Victim::at_work(config(0));
    victim.hear_status("peer", status(1, 1));
    victim.hear_chunk("peer", chunk(1, 1, &[9, 10, 39, 40, u32::MAX], 1.0));
    let mut other_view = chunk(1, 1, &[0], 1.0);
    other_view.view = View(255);
    victim.hear_chunk("peer", other_view);
    assert_eq!((victim.held(9), victim.held(10), victim.held(0)), (Some(1.0), None, None));
    let stats = victim.engine.stats();
    assert_eq!((stats.rows_applied, stats.rows_unwanted), (1, 5));
}

#[test]
fn of_a_sample_that_comes_twice_in_a_chunk_the_first_row_counts() {
    let mut victim = Victim::at_work(config(0));
    victim.hear_status("peer", status(1, 1));
    let mut twice = chunk(1, 1, &[3, 3, 4], 1.0);
    twice.rows = Rows::Dense(Floats::F32([1.0, 9.0, 1.0].iter().flat_map(|v| [*v; N_CLASSES]).collect()));
    victim.hear_chunk("peer", twice);
    assert_eq!((victim.held(3), victim.held(4)), (Some(1.0), Some(1.0)));
    assert_eq!(victim.engine.stats().rows_stale, 1);
}

#[test]
fn only_what_is_held_of_the_session_and_round_is_taken_to_be_the_same() {
    let mut victim = Victim::at_work(config(0));
    victim.hear_status("peer", status(7, 9));
    victim.hear_chunk("peer", chunk(7, 3, &[0, 1], 3.0));
    victim.hear_chunk("peer", chunk(7, 4, &[2, 3], 4.0));
    victim.hear_chunk("peer", TargetChunk { view: View(1), ..chunk(7, 9, &all(), 9.0) });
    assert_eq!(victim.engine.n_missing(), 10);
    victim.hear_chunk("peer", same(7, 9, 4, &[0, 1, 2, 4, 30]));
    assert_eq!(victim.engine.n_missing(), 9, "2 alone is held of round 4 or later");
    let stats = victim.engine.stats();
    assert_eq!((stats.rows_renewed, stats.rows_lacking, stats.rows_unwanted), (1, 3, 31));
    assert_eq!((victim.held(2), victim.held(4)), (Some(4.0), None));
    victim.hear_chunk("peer", same(7, 10, 1, &[3]));
    assert_eq!(victim.engine.n_missing(), 9, "no status announces the round");
    victim.hear_chunk("peer", same(7, 9, 4, &[2]));
    assert_eq!(victim.engine.stats().rows_renewed, 1, "once a round");

    victim.hear_status("peer", status(8, 9));
    victim.hear_chunk("peer", same(8, 9, 1, &[0, 1, 2, 3]));
    assert_eq!(victim.engine.n_missing(), 20, "another session");
    assert_eq!(victim.engine.stats().rows_renewed, 1);
}

/// A message of soft targets: samples in full, and since which round which are the same.
type Said = (Vec<u32>, Option<(u64, Vec<u32>)>);

/// The teacher's side: its messages of view 0.
fn said(actions: &[Action]) -> Vec<Said> {
    let numbers = |list: &SampleList| list.iter().map(|id| id.0).collect::<Vec<_>>();
    let chunk = |action| match action {
        &Action::Publish { message: Message::Targets(ref chunk), .. } => Some(chunk),
        _ => None,
    };
    let chunks = actions.iter().filter_map(chunk);
    chunks
        .map(|chunk| {
            let same = chunk.same.as_ref().map(|same| (same.base.0, numbers(&same.ids)));
            (numbers(&chunk.ids), same)
        })
        .collect()
}

/// One of the batches that are to be labelled now, all logits 0 but that of the first class.
fn label(victim: &mut Victim, logit: f32) -> Vec<Action> {
    let (view, ids) = victim.engine.next_label_batch(100).unwrap();
    let logits = ids.iter().flat_map(|_| [logit, 0.0, 0.0, 0.0]).collect();
    victim.step(Event::Labelled { view, ids, logits })
}

#[test]
fn rows_that_have_hardly_changed_are_named_and_those_asked_for_are_sent() {
    let mut config = config(0);
    (config.delta, config.chunk_bytes) = (0.1, 65536);
    let mut victim = Victim::new(config);
    victim.step(Event::RoundStarted(Round(1)));
    victim.hear_status("peer", status(1, 1));
    victim.hear_demand("peer", demand(1, &[1, 2, 3]));
    assert_eq!(said(&label(&mut victim, 0.0)), [(vec![1, 2, 3], None)]);
    victim.step(Event::RoundStarted(Round(2)));
    assert_eq!(said(&label(&mut victim, 0.1)), [(vec![], Some((1, vec![1, 2, 3])))]);
    victim.hear_repair("peer", 2, BTreeMap::from([(View(0), samples(N_SAMPLES, &[2]))]));
    assert_eq!(said(&label(&mut victim, 9.0)), [(vec![2], None)], "as it was said in this round");
    victim.step(Event::RoundStarted(Round(3)));
    assert_eq!(said(&label(&mut victim, 0.1)), [(vec![], Some((1, vec![1, 2, 3])))]);
    victim.step(Event::RoundStarted(Round(4)));
    victim.hear_status("late", status(1, 1));
    victim.hear_demand("late", demand(1, &[3, 4]));
    assert_eq!(said(&label(&mut victim, 0.1)), [(vec![3, 4], Some((1, vec![1, 2])))]);
    victim.step(Event::RoundStarted(Round(5)));
    assert_eq!(said(&label(&mut victim, 0.1)), [(vec![], Some((4, vec![1, 2, 3, 4])))]);
    victim.step(Event::RoundStarted(Round(6)));
    assert_eq!(said(&label(&mut victim, 9.0)), [(vec![1, 2, 3, 4], None)], "they have changed");
    assert_eq!(victim.engine.stats().rows_same_out, 3 + 3 + 2 + 4);
}

#[test]
fn labelled_rows_wait_a_moment_for_others_and_not_for_long() {
    let mut config = config(0);
    config.chunk_bytes = 65536;
    let mut victim = Victim::new(config);
    victim.step(Event::RoundStarted(Round(1)));
    victim.hear_status("peer", status(1, 1));
    victim.hear_demand("peer", demand(1, &all()));
    let label = |n: usize, victim: &mut Victim| {
        let (view, ids) = victim.engine.next_label_batch(n).unwrap();
        let logits = vec![0.0; n * N_CLASSES];
        said(&victim.step(Event::Labelled { view, ids, logits }))
    };
    assert_eq!(label(10, &mut victim), []);
    assert_eq!(label(10, &mut victim), []);
    let end = victim.now + Duration::from_secs(1);
    assert_eq!(said(&victim.run_until(end)), [((0..20).collect(), None)]);
    assert_eq!(label(10, &mut victim), []);
    assert_eq!(label(10, &mut victim), [((20..40).collect(), None)], "nothing is left");
}

proptest! {
    #![proptest_config(seeded(60))]

    /// As long as its numbers may be, in every encoding, with samples close together and far apart, some of them the
    /// same as before.
    #[test]
    fn no_message_of_soft_targets_is_longer_than_allowed_and_few_are_much_shorter(
        n_classes in prop_oneof![1_usize..20, 250_usize..260, Just(1000)],
        encoding in prop_oneof![
            Just(Encoding::F32), Just(Encoding::F16), Just(Encoding::U8), (1_usize..6).prop_map(Encoding::TopK)
        ],
        chunk_bytes in 1024_usize..9000,
        every in prop_oneof![Just(1_u32), 2_u32..40, 100_u32..3000],
        n_same in 0_usize..400,
    ) {
        let mut config = config(0);
        config.classes = (0..n_classes).map(|class| class.to_string()).collect();
        (config.n_samples, config.session, config.temperature) = (8_000_000, u64::MAX, 0.1);
        (config.encoding, config.chunk_bytes, config.delta) = (encoding, chunk_bytes, 0.1);
        let (data, classes) = (config.data, config.classes.clone());
        let mut victim = Victim::new(config);
        let ids: Vec<u32> = (1..500).map(|i| 7_900_000 - i * every).collect();
        victim.hear_status("peer", Status { classes, ..status(1, 1) });
        let demand = Demand { data, n_views: 1, samples: samples(8_000_000, &ids) };
        victim.hear_demand("peer", Message::Demand(demand));
        let row_bytes = encoding.row_bytes(n_classes) + 4;
        let mut n_said = 0;
        for round in [u64::MAX - 1, u64::MAX] {
            victim.step(Event::RoundStarted(Round(round)));
            let (view, ids) = victim.engine.next_label_batch(1000).unwrap();
            let logits = (0..ids.len()).flat_map(|i| {
                let changed = round == u64::MAX && i >= n_same;
                (0..n_classes).map(move |class| ((class + usize::from(changed)) % n_classes) as f32)
            });
            let event = Event::Labelled { view, ids, logits: logits.collect() };
            let mut lengths = Vec::new();
            for action in victim.step(event) {
                let Action::Publish { message, .. } = action else { continue };
                lengths.push(encode(&message).len());
                let Message::Targets(chunk) = message else { continue };
                n_said += chunk.ids.len() + chunk.same.map_or(0, |same| same.ids.len());
            }
            // With room for the envelope of a signed one.
            let overhead = 256 + ENVELOPE_BYTES;
            let longest = chunk_bytes.max(row_bytes + overhead);
            prop_assert!(lengths.iter().all(|n_bytes| n_bytes + ENVELOPE_BYTES <= longest), "{:?} of {}", lengths, chunk_bytes);
            // The last has what is left.
            lengths.pop();
            let full = |n_bytes: &usize| n_bytes + row_bytes + overhead >= chunk_bytes;
            prop_assert!(lengths.iter().all(full), "{:?} of {}", lengths, chunk_bytes);
        }
        prop_assert_eq!(n_said, 2 * 499);
    }
}

#[test]
fn a_row_that_is_asked_for_while_it_is_held_back_is_sent_once() {
    let mut config = config(0);
    config.chunk_bytes = 65536;
    let mut victim = Victim::new(config);
    victim.step(Event::RoundStarted(Round(1)));
    victim.hear_status("peer", status(1, 1));
    victim.hear_demand("peer", demand(1, &all()));
    let (view, ids) = victim.engine.next_label_batch(10).unwrap();
    let logits = vec![0.0; 10 * N_CLASSES];
    assert_eq!(said(&victim.step(Event::Labelled { view, ids, logits })), []);
    victim.hear_repair("peer", 1, BTreeMap::from([(View(0), samples(N_SAMPLES, &all()))]));
    assert_eq!(said(&label(&mut victim, 0.0)), []);
    assert_eq!(said(&label(&mut victim, 0.0)), [(all(), None)]);
}

#[test]
fn rows_beyond_the_memory_of_what_was_sent_are_sent_each_round() {
    let mut config = config(0);
    let row_bytes = 4 * N_CLASSES + 72;
    config.delta = 0.1;
    config.chunk_bytes = 65536;
    config.limits.max_sent_bytes = 2 * row_bytes;
    let mut victim = Victim::new(config);
    victim.step(Event::RoundStarted(Round(1)));
    victim.hear_status("peer", status(1, 1));
    victim.hear_demand("peer", demand(1, &[1, 2, 3]));
    assert_eq!(said(&label(&mut victim, 0.0)), [(vec![1, 2, 3], None)]);
    victim.step(Event::RoundStarted(Round(2)));
    assert_eq!(said(&label(&mut victim, 0.0)), [(vec![3], Some((1, vec![1, 2])))]);
    assert_eq!(victim.engine.stats().rows_not_remembered, 2);
    // What nobody demands makes room.
    victim.hear_demand("peer", demand(1, &[2, 3]));
    victim.step(Event::RoundStarted(Round(3)));
    assert_eq!(said(&label(&mut victim, 0.0)), [(vec![3], Some((1, vec![2])))]);
    victim.step(Event::RoundStarted(Round(4)));
    assert_eq!(said(&label(&mut victim, 0.0)), [(vec![], Some((3, vec![2, 3])))]);
}

#[test]
fn rows_that_no_status_announces_are_refused() {
    let mut victim = Victim::at_work(config(0));
    let reason = "soft targets that no status announces";
    victim.hear_chunk("peer", chunk(7, 1, &[0], 1.0));
    assert_eq!(victim.refused(reason), 1, "before any status");
    victim.hear_status("peer", status(7, 4));
    for (session, round) in [(6, 1), (8, 4), (7, 5), (7, u64::MAX)] {
        victim.hear_chunk("peer", chunk(session, round, &[0], 1.0));
    }
    assert_eq!((victim.held(0), victim.refused(reason)), (None, 5));
    victim.hear_chunk("peer", chunk(7, 4, &[0], 4.0));
    victim.hear_chunk("peer", chunk(7, 3, &[0, 1], 3.0));
    assert_eq!((victim.held(0), victim.held(1)), (Some(4.0), Some(3.0)), "an older round fills holes only");

    let mut other = config(0);
    other.classes.reverse();
    victim.hear_status("unlike", Status { classes: other.classes, ..status(1, 1) });
    victim.hear_chunk("unlike", chunk(1, 1, &[5], 1.0));
    assert_eq!((victim.held(5), victim.refused(reason)), (None, 6));
}

#[test]
fn chunks_with_other_classes_or_from_others_than_the_listed_teachers_are_refused() {
    let mut listed = config(0);
    listed.teachers = vec!["listed".parse::<AgentId>().unwrap()];
    let mut victim = Victim::at_work(listed);
    for peer in ["listed", "other"] {
        let subscribes =
            victim.hear_status(peer, status(1, 1)).iter().any(|a| matches!(a, Action::Subscribe(_)));
        assert_eq!(subscribes, peer == "listed");
        victim.hear_chunk(peer, chunk(1, 1, &[u32::from(peer == "other")], 1.0));
    }
    assert_eq!((victim.held(0), victim.held(1)), (Some(1.0), None));
    assert_eq!(victim.refused("not a teacher of ours"), 1);
    let mut wide = chunk(1, 1, &[2], 1.0);
    wide.n_classes += 1;
    victim.hear_chunk("listed", wide);
    assert_eq!((victim.held(2), victim.refused("other data")), (None, 1));
}

#[test]
fn a_late_message_does_not_take_rounds_back_and_a_new_session_does() {
    let mut victim = Victim::at_work(config(0));
    let subscribed = victim.hear_status("peer", status(1, 9));
    assert_eq!(subscribed.len(), 1);
    victim.hear_chunk("peer", chunk(1, 9, &all(), 9.0));
    let lacking = victim.engine.n_missing();
    assert_eq!(lacking, 10, "the second view");
    assert_eq!(victim.hear_status("peer", status(1, 8)), []);
    assert_eq!(victim.engine.n_missing(), lacking);
    let newest = TargetChunk { view: View(1), ..chunk(1, 9, &[0, 1], 9.0) };
    victim.hear_chunk("peer", newest);
    assert_eq!(victim.engine.n_missing(), lacking - 2, "the later round still counts");

    assert_eq!(victim.hear_status("peer", status(2, 1)), [], "subscribed once");
    assert_eq!(victim.engine.n_missing(), 20, "all is to be sent anew");
    assert_eq!(victim.held(0), Some(9.0), "until then the old rows do");
    victim.hear_chunk("peer", chunk(1, 9, &all(), 8.0));
    assert_eq!(victim.held(0), Some(9.0), "the old session has nothing more to say");
    victim.hear_chunk("peer", chunk(2, 1, &all(), 1.0));
    assert_eq!((victim.held(0), victim.engine.n_missing()), (Some(1.0), 10));
}

/// It may say that it is as far as it likes; it is asked for that round, and ever less often.
#[test]
fn a_teacher_that_invents_a_round_costs_a_few_questions() {
    let mut victim = Victim::at_work(config(0));
    victim.hear_status("peer", status(1, u64::MAX));
    victim.hear_status("honest", status(1, 2));
    victim.hear_chunk("honest", chunk(1, 2, &all(), 2.0));
    let actions = victim.run_until(Duration::from_secs(3600));
    let repairs = repairs(&actions);
    assert!(repairs.iter().filter(|repair| repair.round == Round(u64::MAX)).count() <= 66);
    assert_eq!(victim.held(0), Some(2.0));
    victim.hear_status("peer", status(2, 3));
    victim.hear_chunk("peer", chunk(2, 3, &all(), 4.0));
    assert_eq!(victim.held(0), Some(3.0), "the mean of both");
}

#[test]
fn a_flood_of_soft_targets_stays_within_the_stores_bound() {
    let mut small = config(0);
    // Room for the rows of three teachers: up to 64 of one view together.
    small.limits.max_target_bytes = 3 * (64 * (8 + 2 * N_CLASSES) + 160);
    let mut victim = Victim::at_work(small);
    let mut n_warnings = 0;
    for i in 0..50 {
        let peer = format!("peer-{}", i % 10);
        victim.hear_status(&peer, status(1, 1 + i));
        let message = Message::Targets(chunk(1, 1 + i, &all(), 1.0));
        let actions = victim.hear(&peer, Leaf::Targets { data: config(0).data.short() }, message);
        n_warnings += actions.iter().filter(|action| matches!(action, Action::Warn(_))).count();
    }
    let stats = victim.engine.stats();
    // Ten rows of the first three peers; five rounds of each.
    assert_eq!((stats.rows_applied, stats.rows_over_bound), (5 * 30, 5 * 70));
    assert_eq!(n_warnings, 1);
    assert_eq!(victim.engine.n_missing(), 0, "what finds no room is not missed");
}

/// Rows of two teachers, each of whom alone would fill the store.
#[cfg(target_os = "linux")]
#[test]
fn received_soft_targets_take_no_more_memory_than_allowed() {
    const N_CLASSES: usize = 100;
    const N_VIEWS: u8 = 12;
    let mut store = TargetStore::new(N_CLASSES, MAX_TARGET_BYTES);
    let n_samples = 130_000;
    let ids: Vec<SampleId> = (0..n_samples).map(SampleId).collect();
    let data = config(0).data;
    let everything = samples(n_samples, &(0..n_samples).collect::<Vec<_>>());
    store.demand(Demand { data, n_views: N_VIEWS, samples: everything });
    let before = resident_bytes();
    let (mut applied, mut over_bound) = (0, 0);
    for peer in [name(1), name(2)] {
        for view in (0..N_VIEWS).map(View) {
            for ids in ids.chunks(300) {
                let rows = Rows::Dense(Floats::F16(vec![f16::ONE; ids.len() * N_CLASSES]));
                let ids = ids.to_vec().into();
                let counts = store.apply(
                    &peer,
                    &TargetChunk { view, n_classes: N_CLASSES, ids, rows, ..chunk(1, 1, &[], 0.0) },
                );
                applied += counts.applied;
                over_bound += counts.over_bound;
            }
        }
    }
    let grown = resident_bytes() - before;
    assert_eq!(applied + over_bound, 2 * u64::from(n_samples) * u64::from(N_VIEWS));
    // Nearly all of it is for logits. Other tests of this program take something meanwhile.
    assert!(applied as usize * 2 * N_CLASSES > MAX_TARGET_BYTES / 10 * 9, "{applied} rows");
    assert!(grown < MAX_TARGET_BYTES + MAX_TARGET_BYTES / 5, "{grown} bytes for {applied} rows");
    assert!(grown > MAX_TARGET_BYTES / 2, "{grown} bytes for {applied} rows: not what was to be measured");
}

/// As `exchange.max_target_mib` is by default.
#[cfg(target_os = "linux")]
const MAX_TARGET_BYTES: usize = 256 * 1024 * 1024;

#[cfg(target_os = "linux")]
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    resident.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn a_last_will_that_comes_late_is_contradicted() {
    let mut victim = Victim::at_work(config(0));
    victim.run_until(Duration::from_secs(10));
    let (topic, will) = victim.engine.last_will();
    for message in [will, Message::Cleared] {
        for _ in 0..1000 {
            let (topic, message) = (topic.clone(), message.clone());
            assert_eq!(
                victim.step(Event::Received { topic, message }),
                [],
                "not at once: others may say such things"
            );
        }
        let actions = victim.run_until(victim.now + Duration::from_secs(5));
        let says = |action: &&Action| matches!(action, Action::Publish { message: Message::Status(_), .. });
        assert_eq!(actions.iter().filter(says).count(), 1);
    }
}

#[test]
fn logits_that_are_not_finite_are_kept_back() {
    let mut victim = Victim::at_work(config(0));
    let ids: Vec<SampleId> = (0..3).map(SampleId).collect();
    let mut logits = vec![1.0; 3 * N_CLASSES];
    logits[N_CLASSES] = f32::NAN;
    let labelled = Event::Labelled { view: View(0), ids, logits };
    let actions = victim.step(labelled.clone());
    let [Action::Warn(text), Action::Publish { message: Message::Targets(chunk), .. }] = &actions[..] else {
        panic!("{actions:?}");
    };
    assert!(text.contains("not finite"));
    let ids: Vec<SampleId> = chunk.ids.iter().collect();
    assert_eq!(ids, [SampleId(0), SampleId(2)]);
    assert_eq!(chunk.rows, Rows::Dense(Floats::F16(vec![f16::ONE; 2 * N_CLASSES])));
    assert_eq!(victim.step(labelled).len(), 1, "said once");
    assert_eq!(victim.engine.stats().rows_not_finite, 2);
}

#[test]
fn a_repair_too_long_for_a_message_asks_for_as_much_as_fits() {
    let mut config = config(0);
    config.n_samples = 1_000_000;
    let mut victim = Victim::new(config);
    victim.step(Event::Demand { samples: (0..1_000_000).step_by(1000).map(SampleId).collect(), n_views: 20 });
    victim.hear_status("peer", status(1, 1));
    let actions = victim.run_until(Duration::from_secs(3));
    let repairs = repairs(&actions);
    assert_eq!(repairs[0].missing.len(), 8);
    assert!(encode(&Message::Repair(repairs[0].clone())).len() <= MAX_MESSAGE_BYTES);
}

#[test]
fn without_a_connection_nothing_is_said_or_labelled() {
    let mut victim = Victim::at_work(config(0));
    victim.hear_status("peer", status(1, 1));
    victim.hear_demand("peer", demand(1, &[0]));
    victim.step(Event::Disconnected);
    assert_eq!(victim.label_all(), []);
    assert_eq!(victim.run_until(Duration::from_secs(100)), []);
    assert_eq!(victim.step(Event::RoundStarted(Round(2))), []);
    let said = victim.step(Event::Connected);
    let kinds: Vec<usize> =
        said.iter().map(|a| if let Action::Publish { topic, .. } = a { topic.kind() } else { 9 }).collect();
    assert_eq!(kinds, [0, 1], "status and demand; the connection renews subscriptions");
    assert_eq!(victim.label_all().len(), 1);
}

#[test]
fn a_repair_that_may_still_lie_at_the_broker_is_taken_back() {
    let mut victim = Victim::at_work(config(0));
    victim.hear_status("peer", status(1, 1));
    for view in [0, 1] {
        victim.hear_chunk("peer", TargetChunk { view: View(view), ..chunk(1, 1, &all(), 1.0) });
    }
    let taken_back = |actions: &[Action]| {
        let cleared = |a: &&Action| matches!(a, Action::Publish { message: Message::Cleared, .. });
        actions.iter().filter(cleared).count()
    };
    assert_eq!(taken_back(&victim.run_until(Duration::from_secs(50))), 1, "of an earlier run");
    victim.step(Event::Disconnected);
    victim.step(Event::Connected);
    let again = victim.run_until(Duration::from_secs(53));
    let [Action::Publish { topic, message: Message::Cleared, retain: true }] = &again[..] else {
        panic!("{again:?}")
    };
    assert_eq!(topic.to_string(), "dkt/1/fleet/agent-0/repair/peer");
}

#[test]
fn a_student_that_names_its_teachers_asks_nobody_else() {
    let mut named = config(1);
    named.teachers = ["ann", "bea"].map(|name| name.parse().unwrap()).to_vec();
    let mut student = Victim::new(named);
    let said = |actions: &[Action]| -> Vec<(String, bool)> {
        let demand = |action: &Action| match action {
            Action::Publish { topic, message, retain: true } if matches!(topic.leaf, Leaf::Demand { .. }) => {
                Some((topic.to_string(), matches!(message, Message::Demand(_))))
            }
            _ => None,
        };
        actions.iter().filter_map(demand).collect()
    };
    let of = |asks| {
        [("", false), ("/ann", asks), ("/bea", asks)]
            .map(|(to, asks)| (format!("dkt/1/fleet/agent-1/demand{to}"), asks))
    };
    let actions = student.step(Event::Demand { samples: vec![SampleId(0)], n_views: 1 });
    assert_eq!(said(&actions), of(true));
    let end = student.now + Duration::from_secs(61);
    assert_eq!(said(&student.run_until(end)), of(true), "again, as it may have been lost");
    assert_eq!(said(&student.step(Event::Finished)), of(false));
}

#[test]
fn a_demand_on_all_and_one_on_this_teacher_are_two() {
    let mut victim = Victim::at_work(config(0));
    victim.hear_status("peer", status(1, 1));
    let on = |name: Option<AgentId>| Leaf::Demand { teacher: name };
    victim.hear("peer", on(Some(name(0))), demand(1, &[1, 2]));
    victim.hear("peer", on(None), demand(1, &[2, 3]));
    victim.hear("peer", on(Some(name(1))), demand(1, &[9]));
    let rows = |ids: &[u32]| -> Vec<_> { ids.iter().map(|id| (View(0), SampleId(*id))).collect() };
    assert_eq!(victim.label_all(), rows(&[1, 2, 3]));
    assert_eq!(victim.refused("message under another's topic"), 1);
    victim.hear("peer", on(None), Message::Cleared);
    victim.hear_repair("peer", 1, BTreeMap::from([(View(0), samples(N_SAMPLES, &all()))]));
    assert_eq!(victim.label_all(), rows(&[1, 2]), "the other still holds");
}
