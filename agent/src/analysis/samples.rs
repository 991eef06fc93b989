//! Which images an analysis looks at.

use crate::data::Dataset;
use crate::draw::Draw;
use crate::ids::SampleId;

/// At most `n` images, of every class as many as of any other while they last, in the order of the data set.
///
/// The images of each class are shuffled (purpose `analysis-samples`, counter class); then one of every class is
/// taken, and another of every class, until there are `n` (docs/streams.md).
pub fn balanced(data: &Dataset, n: usize, seed: u64) -> Vec<SampleId> {
    let draw = Draw::new(seed, "analysis-samples");
    let mut classes: Vec<Vec<SampleId>> = vec![Vec::new(); data.classes.len()];
    for (id, &label) in (0..).map(SampleId).zip(&data.labels) {
        classes[usize::from(label)].push(id);
    }
    for (class, ids) in (0..).zip(&mut classes) {
        draw.shuffle(ids, &[class]);
    }
    let longest = classes.iter().map(Vec::len).max().unwrap_or(0);
    let turns = (0..longest).flat_map(|turn| classes.iter().filter_map(move |ids| ids.get(turn)));
    let mut taken: Vec<SampleId> = turns.take(n).copied().collect();
    taken.sort_unstable();
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_balanced_and_the_seed_decides() {
        let test = crate::data::load("digits").unwrap().test;
        let ids = balanced(&test, 57, 3);
        assert_eq!(ids.len(), 57);
        for class in 0..10 {
            let count = ids.iter().filter(|id| test.label(**id) == class).count();
            assert_eq!(count, if class < 7 { 6 } else { 5 }, "class {class}");
        }
        assert!(ids.is_sorted() && ids.windows(2).all(|pair| pair[0] != pair[1]));
        assert_eq!(ids, balanced(&test, 57, 3));
        assert_ne!(ids, balanced(&test, 57, 4));
        // More of a sample has the smaller sample in it.
        let more = balanced(&test, 100, 3);
        assert!(ids.iter().all(|id| more.contains(id)));
        assert_eq!(balanced(&test, 5000, 3).len(), 364);
    }
}
