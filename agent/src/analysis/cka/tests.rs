use proptest::prelude::*;

use super::super::tests::fixture;
use super::*;
use crate::draw::Draw;

const BOTH: [Estimator; 2] = [Estimator::Biased, Estimator::Unbiased];

fn random(n: usize, p: usize, seed: u64) -> Activations {
    let draw = Draw::new(seed, "test");
    let value = |i: u64| (draw.at(&[i]) as f64 / u64::MAX as f64 - 0.5) as f32;
    Activations::new(n, p, (0..(n * p) as u64).map(value).collect())
}

/// x Q of a random orthogonal Q, by Gram-Schmidt.
fn rotated(x: &Activations, seed: u64) -> Vec<f64> {
    let p = x.n_features();
    let draw = Draw::new(seed, "rotation");
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for i in 0..p {
        let mut v: Vec<f64> =
            (0..p).map(|j| draw.at(&[i as u64, j as u64]) as f64 / u64::MAX as f64 - 0.5).collect();
        for _ in 0..2 {
            for b in &basis {
                let along = dot(&v, b);
                v.iter_mut().zip(b).for_each(|(v, b)| *v -= along * b);
            }
        }
        let length = dot(&v, &v).sqrt();
        basis.push(v.into_iter().map(|v| v / length).collect());
    }
    let row = |row: &[f32]| {
        let row: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
        basis.iter().map(|b| dot(&row, b)).collect::<Vec<_>>()
    };
    x.values().chunks_exact(p).flat_map(row).collect()
}

#[test]
fn values_are_those_of_numpy() {
    let fixture = &fixture()["cka"];
    let n = fixture["n_samples"].as_u64().unwrap() as usize;
    let layer = |name: &serde_json::Value| {
        let layers = fixture["layers"].as_array().unwrap();
        let layer = layers.iter().find(|l| l["name"] == *name).unwrap();
        let values = layer["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32);
        Activations::new(n, layer["n_features"].as_u64().unwrap() as usize, values.collect())
    };
    let pairs = fixture["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 4);
    for pair in pairs {
        let (x, y) = (layer(&pair["a"]), layer(&pair["b"]));
        for (estimator, name) in [(Estimator::Biased, "biased"), (Estimator::Unbiased, "unbiased")] {
            let expected = |what: &str| pair[format!("{what}_{name}")].as_f64().unwrap();
            let found = linear_cka(&x, &y, estimator).unwrap();
            assert!((found - expected("cka")).abs() < 1e-6, "{pair}: {found}");
            let found = Kernel::new(&x, 1).hsic(&Kernel::new(&y, 1), estimator);
            let scale = expected("hsic").abs().max(1.0);
            assert!((found - expected("hsic")).abs() < 1e-5 * scale, "{pair}: {found}");
        }
    }
}

#[test]
fn every_form_of_a_kernel_gives_the_same() {
    let (x, y) = (random(9, 5, 1), random(9, 7, 2));
    let as_features = |a: &Activations| {
        let kernel = Kernel::new(a, 0);
        assert!(matches!(kernel.form, Form::Features { .. }));
        kernel
    };
    let as_gram = |a: &Activations| {
        let kernel = Kernel::new(a, 1000);
        assert!(matches!(kernel.form, Form::Gram(_)));
        kernel
    };
    for estimator in BOTH {
        let expected = as_features(&x).hsic(&as_features(&y), estimator);
        for (k, l) in
            [(as_features(&x), as_gram(&y)), (as_gram(&x), as_features(&y)), (as_gram(&x), as_gram(&y))]
        {
            let found = k.hsic(&l, estimator);
            assert!((found - expected).abs() < 1e-12 * expected.abs().max(1e-3), "{estimator:?} {found}");
        }
    }
}

#[test]
fn the_cheaper_form_is_taken() {
    let is_gram = |n: usize, p: usize, partners: usize| {
        matches!(Kernel::new(&random(n, p, 1), partners).form, Form::Gram(_))
    };
    assert!(is_gram(20, 200, 1), "more features than samples");
    assert!(!is_gram(200, 3, 20), "few features");
    assert!(is_gram(50, 20, 20) && !is_gram(50, 20, 1), "a Gram matrix pays where it is used often");
}

#[test]
fn a_layer_that_does_not_vary_is_like_none() {
    let constant = Activations::new(6, 3, vec![0.1; 18]);
    for estimator in BOTH {
        assert_eq!(linear_cka(&constant, &random(6, 3, 1), estimator), None);
        assert_eq!(linear_cka(&constant, &constant, estimator), None);
    }
}

#[test]
fn unrelated_layers_of_many_features_look_alike_to_the_biased_estimator_alone() {
    let (x, y) = (random(40, 800, 1), random(40, 800, 2));
    assert!(linear_cka(&x, &y, Estimator::Biased).unwrap() > 0.9);
    assert!(linear_cka(&x, &y, Estimator::Unbiased).unwrap().abs() < 0.05);
}

#[test]
fn a_table_has_every_pair() {
    let kernels = |seeds: &[u64]| -> Vec<Kernel> {
        seeds.iter().map(|&seed| Kernel::new(&random(10, 4 + seed as usize, seed), 3)).collect()
    };
    let (a, b) = (kernels(&[1, 2]), kernels(&[2, 3, 4]));
    for estimator in BOTH {
        let table = cka_of_all(&a, &b, estimator);
        assert_eq!((table.len(), table[0].len()), (2, 3));
        assert!((table[1][0].unwrap() - 1.0).abs() < 1e-12, "the same layer");
        assert_eq!(table[0][2], a[0].cka(&b[2], estimator));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Kornblith et al., section 2: invariant to orthogonal transforms, isotropic scaling and, being centred, shifts.
    #[test]
    fn rotation_scale_and_shift_change_nothing(
        n in 5_usize..20, p in 2_usize..24, q in 2_usize..24, seed in 0_u64..1000,
        scale in 0.01_f64..100.0, shift in -5.0_f64..5.0,
    ) {
        let (x, y) = (random(n, p, seed), random(n, q, seed + 1));
        let moved = rotated(&x, seed).iter().map(|v| (scale * (v + shift)) as f32).collect();
        let moved = Activations::new(n, p, moved);
        for estimator in BOTH {
            let (before, after) = (linear_cka(&x, &y, estimator), linear_cka(&moved, &y, estimator));
            // The transformed values are rounded to float32, and small self-similarities magnify that.
            if let (Some(before), Some(after)) = (before, after) {
                prop_assert!((before - after).abs() < 1e-3 * before.abs().max(1.0), "{before} {after}");
            }
            prop_assert_eq!(before, linear_cka(&y, &x, estimator).map(|_| before.unwrap()));
        }
    }

    #[test]
    fn the_biased_estimate_is_from_0_to_1_and_a_layer_is_like_itself(
        n in 4_usize..20, p in 1_usize..24, q in 1_usize..24, seed in 0_u64..1000,
    ) {
        let (x, y) = (random(n, p, seed), random(n, q, seed + 1));
        let cka = linear_cka(&x, &y, Estimator::Biased).unwrap();
        prop_assert!((0.0..=1.0 + 1e-12).contains(&cka), "{cka}");
        for estimator in BOTH {
            if let Some(own) = linear_cka(&x, &x, estimator) {
                prop_assert!((own - 1.0).abs() < 1e-9, "{own}");
            }
        }
    }
}
