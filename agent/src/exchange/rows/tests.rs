use proptest::prelude::*;

use super::*;

const TEMPERATURE: f32 = 2.0;

fn softmax(row: &[f32], temperature: f32) -> Vec<f64> {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let parts: Vec<f64> = row.iter().map(|v| f64::from((v - most) / temperature).exp()).collect();
    let sum: f64 = parts.iter().sum();
    parts.iter().map(|p| p / sum).collect()
}

fn unpacked(rows: &Rows, n_rows: usize, n_classes: usize) -> Vec<f32> {
    let mut logits = vec![f32::NAN; n_rows * n_classes];
    logits.chunks_exact_mut(n_classes).enumerate().for_each(|(i, out)| rows.unpack(i, out));
    logits
}

/// Rows of logits: of usual size, or of any.
fn some_rows() -> impl Strategy<Value = (usize, Vec<f32>)> {
    let any_size = any::<f32>().prop_filter("finite", |v| v.is_finite());
    let logit = prop_oneof![9 => -30.0_f32..30.0, 1 => any_size, 1 => Just(0.0)];
    (1_usize..20, 1_usize..5)
        .prop_flat_map(move |(k, n)| (Just(k), proptest::collection::vec(logit.clone(), n * k)))
}

proptest! {
    #[test]
    fn single_precision_is_exact((n_classes, logits) in some_rows()) {
        let rows = Rows::pack(Encoding::F32, &logits, n_classes, TEMPERATURE);
        prop_assert_eq!(unpacked(&rows, logits.len() / n_classes, n_classes), logits);
    }

    #[test]
    fn half_precision_is_off_by_one_part_in_2048((n_classes, logits) in some_rows()) {
        let rows = Rows::pack(Encoding::F16, &logits, n_classes, TEMPERATURE);
        for (v, found) in logits.iter().zip(unpacked(&rows, logits.len() / n_classes, n_classes)) {
            let v = clamped(*v);
            // Below the smallest normal number the steps no longer shrink.
            prop_assert!((v - found).abs() <= v.abs() / 2048.0 + 3e-8, "{} became {}", v, found);
        }
    }

    #[test]
    fn a_byte_is_off_by_half_a_scale((n_classes, logits) in some_rows()) {
        let rows = Rows::pack(Encoding::U8, &logits, n_classes, TEMPERATURE);
        let found = unpacked(&rows, logits.len() / n_classes, n_classes);
        let Rows::Affine { scale, offset, .. } = &rows else { panic!("{rows:?}") };
        for (i, (v, found)) in logits.iter().zip(found).enumerate() {
            let (scale, offset) = (scale.get(i / n_classes), offset.get(i / n_classes));
            prop_assert!(scale >= 0.0 && (offset + 255.0 * scale).is_finite());
            let v = clamped(*v);
            let bound = 0.5001 * scale + v.abs().max(offset.abs()) * f32::EPSILON;
            prop_assert!((v - found).abs() <= bound, "{} became {} with scale {}", v, found, scale);
        }
    }

    #[test]
    fn the_scale_of_bytes_is_hardly_more_than_the_rows_range_asks_for(
        (n_classes, logits) in (2_usize..20).prop_flat_map(|k| {
            (Just(k), proptest::collection::vec(-30.0_f32..30.0, k))
        })
    ) {
        let Rows::Affine { scale, .. } = Rows::pack(Encoding::U8, &logits, n_classes, TEMPERATURE) else { panic!() };
        let most = logits.iter().copied().fold(f32::MIN, f32::max);
        let least = logits.iter().copied().fold(f32::MAX, f32::min);
        // Half precision moves the offset by less than 1/32 here, and the scale by a thousandth.
        prop_assert!(scale.get(0) <= (most - least + 0.032) / 255.0 * 1.001 + 1e-7);
    }

    #[test]
    fn the_largest_are_kept_and_the_others_keep_their_share(
        (n_classes, logits) in some_rows(), k in 1_usize..25, temperature in 0.1_f32..8.0
    ) {
        let logits: Vec<f32> = logits.iter().map(|v| half(v.clamp(-1000.0, 1000.0)).to_f32()).collect();
        let rows = Rows::pack(Encoding::TopK(k), &logits, n_classes, temperature);
        let found = unpacked(&rows, logits.len() / n_classes, n_classes);
        let Rows::TopK { classes, .. } = &rows else { panic!("{rows:?}") };
        let k = k.min(n_classes);
        for (i, (row, found)) in logits.chunks(n_classes).zip(found.chunks(n_classes)).enumerate() {
            let kept: Vec<usize> = classes[i * k..(i + 1) * k].iter().map(|c| usize::from(*c)).collect();
            let least = kept.iter().map(|c| row[*c]).fold(f32::MAX, f32::min);
            for class in 0..n_classes {
                if kept.contains(&class) {
                    prop_assert_eq!(row[class], found[class]);
                } else {
                    prop_assert!(row[class] <= least, "{} is left out, {} is kept", row[class], least);
                }
            }
            let (before, after) = (softmax(row, temperature), softmax(found, temperature));
            for class in kept {
                // The rest is a half precision number: off by a part in 2048, as a logit.
                let most = row.iter().map(|v| v.abs()).fold(0.0, f32::max);
                let off = f64::from(most / 2048.0 / temperature) + 1e-4;
                prop_assert!((before[class] - after[class]).abs() <= off, "{:?}: {:?}", before, after);
            }
        }
    }
}

#[test]
fn rounding_down_never_goes_up() {
    for bits in 0..=u16::MAX {
        let v = f16::from_bits(bits);
        if v.is_finite() && v > f16::MIN {
            assert_eq!(half_below(v.to_f32()).to_f32(), v.to_f32());
            let below = half_below(v.to_f32().next_down());
            assert!(below.to_f32() < v.to_f32(), "{v}");
        }
    }
}

#[test]
fn a_row_takes_as_many_bytes_as_said() {
    for (n_classes, encoding, expected) in [
        (10, Encoding::F32, 40),
        (10, Encoding::F16, 20),
        (10, Encoding::U8, 14),
        (10, Encoding::TopK(2), 8),
        (256, Encoding::TopK(1), 5),
        (257, Encoding::TopK(1), 6),
        (4, Encoding::TopK(9), 14),
    ] {
        assert_eq!(encoding.row_bytes(n_classes), expected, "{encoding:?} of {n_classes}");
    }
}

#[test]
fn equal_logits_and_zeros_survive_as_bytes() {
    for v in [0.0, -0.0, 1.0, -0.1, 65504.0, -1e9, 6e-8, 1e-9] {
        let rows = Rows::pack(Encoding::U8, &[v; 3], 3, TEMPERATURE);
        let mut out = [f32::NAN; 3];
        rows.unpack(0, &mut out);
        assert!(
            out.iter().all(|found| (found - clamped(v)).abs() <= 1e-3 * clamped(v).abs() + 1e-7),
            "{out:?}"
        );
    }
}
