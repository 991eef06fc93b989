use super::*;

fn at(agent: usize, experience: usize) -> Moment {
    Moment { agent, experience }
}

fn names(members: &[Member]) -> impl Iterator<Item = (String, Member)> {
    ["alice", "bob", "carol"].map(ToOwned::to_owned).into_iter().zip(members.iter().copied())
}

/// Alice is there throughout, bob joins after her second experience, carol leaves after her first and comes back
/// after alice's third.
fn lab() -> [Member; 3] {
    [
        Member::default(),
        Member { join: Some(at(0, 2)), ..Member::default() },
        Member { join: None, leave: Some(1), rejoin: Some(at(0, 3)) },
    ]
}

fn trained(agent: usize, experience: usize) -> Event {
    Event::Trained(at(agent, experience))
}

fn ended(agent: usize, finished: bool) -> Event {
    Event::Ended { agent, finished }
}

/// The actions, and what is told in words.
fn words(actions: Vec<Action>) -> Vec<String> {
    let word = |action| match action {
        Action::Start(agent) => format!("start {agent}"),
        Action::Stop(agent) => format!("stop {agent}"),
        Action::Tell(agent, change) => format!("{agent}: {change}"),
    };
    actions.into_iter().map(word).collect()
}

fn started(members: &[Member], earlier: &[Change]) -> (Membership, Vec<String>) {
    let mut membership = Membership::new(names(members), earlier);
    let actions = membership.start();
    (membership, words(actions))
}

#[test]
fn agents_join_leave_and_come_back_by_what_is_trained() {
    let (mut m, first) = started(&lab(), &[]);
    assert_eq!(first, ["start 0", "start 2"]);
    assert_eq!(m.waits_for(1).unwrap(), "experience 2 of alice");
    assert_eq!(words(m.on(trained(0, 1))), [""; 0]);
    assert_eq!(words(m.on(trained(2, 1))), ["stop 2"]);
    assert_eq!(words(m.on(trained(0, 2))), ["start 1", "1: bob joined after experience 2 of alice"]);
    assert_eq!(words(m.on(ended(2, false))), ["2: carol left after its experience 1"]);
    assert_eq!(m.waits_for(2).unwrap(), "experience 3 of alice");
    assert_eq!(words(m.on(trained(0, 3))), ["start 2", "2: carol came back after experience 3 of alice"]);
    // It tells its course anew, and does not leave a second time.
    assert_eq!(words(m.on(trained(2, 1))), [""; 0]);
    for agent in [0, 1, 2] {
        assert!(!m.is_over());
        assert_eq!(words(m.on(ended(agent, true))), [""; 0]);
    }
    assert!(m.is_over());
    let history: Vec<String> = m.history().iter().map(ToString::to_string).collect();
    assert_eq!(
        history,
        [
            "bob joined after experience 2 of alice",
            "carol left after its experience 1",
            "carol came back after experience 3 of alice"
        ]
    );
}

#[test]
fn one_that_is_still_saving_comes_back_when_it_has_left() {
    let (mut m, _) = started(&lab(), &[]);
    assert_eq!(words(m.on(trained(2, 1))), ["stop 2"]);
    m.on(trained(0, 3));
    assert_eq!(
        words(m.on(ended(2, false))),
        ["2: carol left after its experience 1", "start 2", "2: carol came back after experience 3 of alice"]
    );
}

#[test]
fn one_that_finishes_before_it_is_stopped_has_not_left() {
    let (mut m, _) = started(&lab(), &[]);
    assert_eq!(words(m.on(trained(2, 1))), ["stop 2"]);
    assert_eq!(words(m.on(ended(2, true))), [""; 0]);
    assert_eq!(words(m.on(trained(0, 3))), ["start 1", "1: bob joined after experience 2 of alice"]);
}

#[test]
fn the_end_of_a_whole_stream_is_all_of_its_experiences() {
    let (mut m, _) = started(&lab(), &[]);
    // Not one evaluation was heard of.
    assert_eq!(words(m.on(ended(0, true))), ["start 1", "1: bob joined after experience 2 of alice"]);
}

#[test]
fn nobody_waits_for_one_that_has_ended_early() {
    let (mut m, _) = started(&lab(), &[]);
    m.on(trained(0, 1));
    m.on(trained(2, 1));
    assert_eq!(words(m.on(ended(0, false))), [""; 0], "carol is still there");
    assert_eq!(
        words(m.on(ended(2, false))),
        [
            "2: carol left after its experience 1",
            "1: bob never joined: alice ended before it had trained experience 2",
            "2: carol never came back: alice ended before it had trained experience 3",
        ]
    );
    assert!(m.is_over());
}

#[test]
fn one_may_leave_for_good() {
    let (mut m, _) = started(&[Member { leave: Some(2), ..Member::default() }], &[]);
    assert_eq!(words(m.on(trained(0, 1))), [""; 0]);
    // The word of an experience may be lost on the way.
    assert_eq!(words(m.on(trained(0, 3))), ["stop 0"]);
    assert_eq!(words(m.on(trained(0, 4))), [""; 0], "it is asked once");
    assert_eq!(words(m.on(ended(0, false))), ["0: alice left after its experience 2"]);
    assert!(m.is_over());
}

#[test]
fn nobody_starts_in_a_lab_that_stops() {
    let (mut m, _) = started(&lab(), &[]);
    m.on(Event::Stopping);
    assert_eq!(words(m.on(trained(0, 3))), [""; 0]);
    assert_eq!(words(m.on(ended(0, false))), [""; 0]);
    assert_eq!(words(m.on(ended(2, false))), [""; 0], "it was stopped with the others");
    assert!(m.is_over());
    assert_eq!(m.history(), []);
}

#[test]
fn a_lab_that_goes_on_knows_who_was_there() {
    let (mut m, _) = started(&lab(), &[]);
    for event in [trained(2, 1), trained(0, 2), ended(2, false)] {
        m.on(event);
    }
    // Stopped there: bob has joined, carol is away. She tells her course and goes again, which is no news.
    let (mut m, first) = started(&lab(), m.history());
    assert_eq!(first, ["start 0", "start 1", "start 2"]);
    assert_eq!(words(m.on(trained(2, 1))), ["stop 2"]);
    assert_eq!(words(m.on(ended(2, false))), [""; 0]);
    assert_eq!(words(m.on(trained(0, 3))), ["start 2", "2: carol came back after experience 3 of alice"]);
    // Stopped once more: she is back and stays.
    let (mut m, first) = started(&lab(), m.history());
    assert_eq!(first, ["start 0", "start 1", "start 2"]);
    assert_eq!(words(m.on(trained(2, 1))), [""; 0]);
    assert_eq!(m.history().len(), 3);
    // With other rules, what came of the old ones does not count.
    let later = [Member::default(), Member { join: Some(at(0, 4)), ..Member::default() }, Member::default()];
    let (m, first) = started(&later, m.history());
    assert_eq!(first, ["start 0", "start 2"]);
    assert_eq!(m.history(), []);
}

#[test]
fn those_that_wait_for_each_other_are_stuck() {
    let n = [5, 5, 5];
    assert_eq!(stuck(&lab(), &n), [0; 0]);
    let join = |agent, experience| Member { join: Some(at(agent, experience)), ..Member::default() };
    assert_eq!(stuck(&[Member::default(), join(2, 1), join(1, 1)], &n), [1, 2]);
    assert_eq!(stuck(&[join(0, 1)], &[5]), [0]);
    let leaves = Member { leave: Some(2), ..Member::default() };
    assert_eq!(stuck(&[leaves, join(0, 2)], &n[..2]), [0; 0]);
    assert_eq!(stuck(&[leaves, join(0, 3)], &n[..2]), [1]);
    let back = Member { leave: Some(2), rejoin: Some(at(0, 2)), ..Member::default() };
    assert_eq!(stuck(&[back, join(0, 3)], &n[..2]), [0; 0], "it may come back at once");
    let back = Member { rejoin: Some(at(1, 1)), ..back };
    assert_eq!(stuck(&[back, join(0, 3)], &n[..2]), [0, 1]);
}
