//! Centred kernel alignment with linear kernels (Kornblith et al. 2019, "Similarity of Neural Network Representations
//! Revisited"): 1 for representations that are equal up to rotation and one scale, near 0 for unrelated ones.
//!
//! With K = X Xᵀ and L = Y Yᵀ of activations X `[n, p]` and Y `[n, q]`, their columns centred, and HSIC the
//! Hilbert-Schmidt independence criterion, CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)).

use super::{Activations, dot};

/// How HSIC is estimated from samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Estimator {
    /// tr(K L) / (n - 1)² (Gretton et al. 2005). With many features and few samples CKA tends to 1.
    Biased,
    /// HSIC₁ of Song et al. (2012), with the kernels' diagonals left out, as used by Nguyen et al. (2021). CKA can be
    /// a little below 0.
    Unbiased,
}

/// The centred linear kernel X Xᵀ of one layer, in the form in which comparing it costs least.
#[derive(Clone, Debug)]
pub struct Kernel {
    n: usize,
    form: Form,
    /// Squared length of each sample, `[n]`.
    diagonal: Vec<f64>,
}

#[derive(Clone, Debug)]
enum Form {
    /// Centred features `[n, p]`.
    Features { p: usize, values: Vec<f64> },
    /// Their products `[n, n]`.
    Gram(Vec<f64>),
}

impl Kernel {
    /// A kernel that will be compared with about `n_partners` others of its kind.
    ///
    /// Comparing two Gram matrices takes n² products and making one n² p / 2; comparing features of p columns takes
    /// n p² and nothing before.
    pub fn new(x: &Activations, n_partners: usize) -> Self {
        let (n, p) = (x.n_samples(), x.n_features());
        let centred = x.centred();
        let row = |i: usize| &centred[i * p..][..p];
        let diagonal = (0..n).map(|i| dot(row(i), row(i))).collect();
        let by_gram = n * n * p / 2 + n_partners * n * n;
        let by_features = n_partners * n * p * p;
        if by_features <= by_gram {
            return Kernel { n, form: Form::Features { p, values: centred }, diagonal };
        }
        let mut gram = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..=i {
                let product = dot(row(i), row(j));
                gram[i * n + j] = product;
                gram[j * n + i] = product;
            }
        }
        Kernel { n, form: Form::Gram(gram), diagonal }
    }

    pub fn n_samples(&self) -> usize {
        self.n
    }

    /// tr(K L), the sum over all products of entries.
    fn inner(&self, other: &Kernel) -> f64 {
        match (&self.form, &other.form) {
            (Form::Gram(k), Form::Gram(l)) => dot(k, l),
            (Form::Features { p, values: x }, Form::Features { p: q, values: y }) => {
                // |Xᵀ Y|², a column of X at a time.
                let mut total = 0.0;
                for column in 0..*p {
                    let mut products = vec![0.0; *q];
                    for (x, y) in x.chunks_exact(*p).zip(y.chunks_exact(*q)) {
                        products.iter_mut().zip(y).for_each(|(sum, y)| *sum += x[column] * y);
                    }
                    total += dot(&products, &products);
                }
                total
            }
            (Form::Gram(k), Form::Features { p, values }) | (Form::Features { p, values }, Form::Gram(k)) => {
                let row = |i: usize| &values[i * p..][..*p];
                let mut total = 0.0;
                for i in 0..self.n {
                    // K is symmetric: what is below the diagonal counts twice.
                    let below: f64 = (0..i).map(|j| k[i * self.n + j] * dot(row(i), row(j))).sum();
                    total += 2.0 * below + k[i * self.n + i] * dot(row(i), row(i));
                }
                total
            }
        }
    }

    /// The estimate of HSIC.
    ///
    /// # Panics
    /// If the kernels are not of the same samples, or of fewer than [`super::MIN_SAMPLES`].
    pub fn hsic(&self, other: &Kernel, estimator: Estimator) -> f64 {
        assert_eq!(self.n, other.n, "invariant: both kernels are of the same samples");
        assert!(self.n >= super::MIN_SAMPLES, "invariant: an analysis has enough samples");
        let n = self.n as f64;
        let inner = self.inner(other);
        match estimator {
            Estimator::Biased => inner / (n - 1.0).powi(2),
            Estimator::Unbiased => {
                // Rows of a centred kernel sum to 0, so without its diagonal k they sum to -k; and centring the
                // features moves nothing, for HSIC₁ is the same for every place of the origin.
                let (k, l) = (&self.diagonal, &other.diagonal);
                let both = dot(k, l);
                let traces = k.iter().sum::<f64>() * l.iter().sum::<f64>();
                let sum = inner - both + traces / ((n - 1.0) * (n - 2.0)) - 2.0 * both / (n - 2.0);
                sum / (n * (n - 3.0))
            }
        }
    }

    /// CKA of two layers; `None` if the values of one do not vary over the samples.
    ///
    /// # Panics
    /// As [`Kernel::hsic`].
    pub fn cka(&self, other: &Kernel, estimator: Estimator) -> Option<f64> {
        let scale = self.hsic(self, estimator) * other.hsic(other, estimator);
        (scale > 0.0).then(|| self.hsic(other, estimator) / scale.sqrt())
    }
}

/// CKA of every layer of one network with every layer of another, `[a][b]`.
///
/// # Panics
/// As [`Kernel::hsic`].
pub fn cka_of_all(a: &[Kernel], b: &[Kernel], estimator: Estimator) -> Vec<Vec<Option<f64>>> {
    let own = |kernels: &[Kernel]| -> Vec<f64> { kernels.iter().map(|k| k.hsic(k, estimator)).collect() };
    let (of_a, of_b) = (own(a), own(b));
    let cell = |i: usize, j: usize| {
        let scale = of_a[i] * of_b[j];
        (scale > 0.0).then(|| a[i].hsic(&b[j], estimator) / scale.sqrt())
    };
    (0..a.len()).map(|i| (0..b.len()).map(|j| cell(i, j)).collect()).collect()
}

/// CKA of activations `[n, p]` and `[n, q]` of the same samples; `None` if one does not vary.
///
/// # Panics
/// As [`Kernel::hsic`].
pub fn linear_cka(x: &Activations, y: &Activations, estimator: Estimator) -> Option<f64> {
    Kernel::new(x, 1).cka(&Kernel::new(y, 1), estimator)
}

#[cfg(test)]
mod tests;
