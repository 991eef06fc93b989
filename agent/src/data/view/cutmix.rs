//! CutMix (Yun et al. 2019): a box of another image in the place of its own, and labels by the area of both.

use std::ops::Range;

use super::fixed::{BITS, Fixed};
use crate::data::{Dataset, ImageShape};
use crate::draw::Draw;
use crate::ids::{SampleId, View};

/// Probability of a mix in the first view of an experience (the thesis's).
const FIRST: f64 = 0.1;

/// How often views are mixed: more often from view to view, up to `target` in the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutMix {
    pub target: Fixed,
    /// Views of a sample.
    pub n_views: u8,
}

/// What a mixed row holds beside its own sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    pub partner: SampleId,
    /// The partner's part of the image's area, and of the label.
    pub share: f32,
}

/// The box that comes from a partner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Patch {
    pub partner: SampleId,
    pub rows: Range<usize>,
    pub columns: Range<usize>,
}

impl CutMix {
    /// Probability that view `view` is mixed, in 65,536ths: it rises linearly over the views, from 0.1 (or the
    /// target, if that is less) to the target.
    pub fn probability(&self, view: View) -> u32 {
        let target = self.target.parts();
        let first = Fixed::of(FIRST).parts().min(target);
        match u32::from(self.n_views.saturating_sub(1)) {
            0 => target,
            last => first + (target - first) * u32::from(view.0).min(last) / last,
        }
    }

    /// What of the view comes from which sample of `pool`, if it is mixed.
    pub(super) fn patch(
        &self,
        draw: &Draw,
        (id, view): (SampleId, View),
        shape: ImageShape,
        pool: &[SampleId],
    ) -> Option<Patch> {
        let below = |n: u64, what: u64| draw.below(n, &[u64::from(id.0), u64::from(view.0), what]);
        if below(1 << BITS, 0) >= u64::from(self.probability(view)) {
            return None;
        }
        let partner = *pool.get(below(pool.len() as u64, 1) as usize)?;
        // With beta = 1 the share is uniform; the box has the image's form.
        let share = below(1 << 32, 2);
        let side = |length: u16, what: u64| {
            let n = u64::from(length);
            // floor(n * sqrt(share / 2^32)), exactly.
            let size = ((n * n * share) >> 32).isqrt();
            let start = below(n, what) as i64 - (size / 2) as i64;
            let end = (start + size as i64).min(i64::from(length));
            start.max(0) as usize..end.max(0) as usize
        };
        let patch = Patch { partner, rows: side(shape.height, 3), columns: side(shape.width, 4) };
        (!patch.rows.is_empty() && !patch.columns.is_empty()).then_some(patch)
    }
}

impl Patch {
    pub fn mix(&self, shape: ImageShape) -> Mix {
        let area = (self.rows.len() * self.columns.len()) as f64;
        let whole = f64::from(shape.height) * f64::from(shape.width);
        Mix { partner: self.partner, share: (area / whole) as f32 }
    }

    /// Copies the box of `from` into `to`, both `[C, H, W]`.
    pub fn paste(&self, shape: ImageShape, from: &[u8], to: &mut [u8]) {
        let (height, width) = (usize::from(shape.height), usize::from(shape.width));
        for channel in 0..usize::from(shape.channels) {
            for row in self.rows.clone() {
                let line = (channel * height + row) * width;
                let columns = line + self.columns.start..line + self.columns.end;
                to[columns.clone()].copy_from_slice(&from[columns]);
            }
        }
    }
}

/// Writes the label of one row, `[K]`: the sample's class, and its partner's by the area that is the partner's.
pub fn write_label(data: &Dataset, id: SampleId, mix: Option<&Mix>, row: &mut [f32]) {
    row.fill(0.0);
    let share = mix.map_or(0.0, |mix| mix.share);
    row[usize::from(data.label(id))] = 1.0 - share;
    if let Some(mix) = mix {
        row[usize::from(data.label(mix.partner))] += mix.share;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probability_rises_from_a_tenth_to_the_target() {
        let parts = |target, n_views| {
            let mix = CutMix { target: Fixed::of(target), n_views };
            (0..n_views).map(|view| mix.probability(View(view))).collect::<Vec<_>>()
        };
        assert_eq!(parts(0.5, 5), [6554, 13_107, 19_661, 26_214, 32_768]);
        assert_eq!(parts(1.0, 2), [6554, 65_536]);
        assert_eq!(parts(0.05, 3), [3277; 3], "a target below a tenth is there from the first view on");
        assert_eq!(parts(0.5, 1), [32_768]);
        let mix = CutMix { target: Fixed::of(0.5), n_views: 5 };
        assert_eq!(mix.probability(View(255)), 32_768, "no view is mixed more often than the last");
    }

    #[test]
    fn boxes_lie_within_the_image_and_partners_are_of_the_pool() {
        let shape = ImageShape { channels: 1, height: 7, width: 12 };
        let mix = CutMix { target: Fixed::ONE, n_views: 1 };
        let draw = Draw::new(5, "cutmix");
        let pool: Vec<SampleId> = [3, 8, 11].map(SampleId).to_vec();
        let mut partners = std::collections::BTreeSet::new();
        let (mut n_mixed, mut area) = (0, 0.0);
        for id in 0..4000 {
            let Some(patch) = mix.patch(&draw, (SampleId(id), View(0)), shape, &pool) else { continue };
            assert!(patch.rows.end <= 7 && patch.columns.end <= 12, "{patch:?}");
            let share = f64::from(patch.mix(shape).share);
            assert!(share > 0.0 && share <= 1.0);
            area += share;
            n_mixed += 1;
            partners.insert(patch.partner);
        }
        assert_eq!(partners.into_iter().collect::<Vec<_>>(), pool);
        // Unclipped boxes have half the area in the mean; clipped ones rather less.
        let mean = area / f64::from(n_mixed);
        assert!(n_mixed > 3500 && (0.25..0.5).contains(&mean), "{n_mixed} {mean}");
        assert_eq!(mix.patch(&draw, (SampleId(0), View(0)), shape, &[]), None, "nobody to mix with");
    }
}
