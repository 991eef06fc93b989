//! `docs/brokers.md` says what these tests do.

use std::fs;

use dkt_tests::repository;

use super::{ROWS, agents, messages};

/// Cells of the rows of a table, its head first, the line below that left out.
fn table(section: &str) -> Vec<Vec<&str>> {
    let rows = section.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>())
        .filter(|cells| !cells[0].starts_with("---"))
        .collect()
}

#[test]
fn the_page_of_brokers_says_what_each_does() {
    let page = fs::read_to_string(repository("docs/brokers.md")).unwrap();
    let (_, section) = page.split_once("\n## What holds where\n").unwrap();
    let section = section.split("\n## ").next().unwrap();

    let head: Vec<&str> = ["Promise"].into_iter().chain(ROWS.iter().map(|row| row.name)).collect();
    let mut expected = vec![head];
    let promises = messages::PROMISES.iter().map(|(promise, _)| *promise).chain(agents::PROMISES);
    for promise in promises {
        expected.push([promise].into_iter().chain(ROWS.iter().map(|row| row.expected(promise))).collect());
    }
    assert_eq!(table(section), expected);

    // A difference is of a promise that there is.
    let known: Vec<&str> = expected.iter().map(|row| row[0]).collect();
    for (promise, _) in ROWS.iter().flat_map(|row| row.differs) {
        assert!(known.contains(promise), "nobody promises `{promise}`");
    }
}
