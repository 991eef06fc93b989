//! Integers that are known when a graph is derived: as a number, or as a multiple of dimensions' names.
//!
//! What exporters compute for a dynamic batch size stays within these: `4 * batch` windows, divided by 4 again.

use crate::graph::Dim;

/// `factor` times the product of `symbols`; a plain number where there are none, as where `factor` is 0.
///
/// A symbol stands for a number that is at least 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Int {
    factor: i64,
    /// Sorted.
    symbols: Vec<String>,
}

/// Factors of one product: squaring again and again would double their number each time.
const MAX_SYMBOLS: usize = 8;

impl Int {
    fn new(factor: i64, mut symbols: Vec<String>) -> Self {
        if factor == 0 {
            symbols.clear();
        }
        symbols.sort_unstable();
        Int { factor, symbols }
    }

    /// Bytes in memory.
    pub(crate) fn size_bytes(&self) -> usize {
        size_of::<Int>() + self.symbols.iter().map(|s| size_of::<String>() + s.len()).sum::<usize>()
    }

    pub(crate) fn number(&self) -> Option<i64> {
        self.symbols.is_empty().then_some(self.factor)
    }

    /// As a dimension: a size, or a name such as `batch` or `4*batch`. `None` if negative.
    pub(crate) fn to_dim(&self) -> Option<Dim> {
        let factor = usize::try_from(self.factor).ok()?;
        if self.symbols.is_empty() {
            return Some(Dim::Size(factor));
        }
        let product = self.symbols.join("*");
        Some(Dim::Symbol(if factor == 1 { product } else { format!("{factor}*{product}") }))
    }

    pub(crate) fn checked_neg(&self) -> Option<Int> {
        Some(Int { factor: self.factor.checked_neg()?, symbols: self.symbols.clone() })
    }

    /// Sums of multiples of the same symbols; `None` where the sum is no product.
    pub(crate) fn checked_add(&self, other: &Int) -> Option<Int> {
        match (self.factor, other.factor) {
            (_, 0) => Some(self.clone()),
            (0, _) => Some(other.clone()),
            (a, b) if self.symbols == other.symbols => {
                Some(Int::new(a.checked_add(b)?, self.symbols.clone()))
            }
            _ => None,
        }
    }

    pub(crate) fn checked_mul(&self, other: &Int) -> Option<Int> {
        let symbols = [self.symbols.as_slice(), &other.symbols].concat();
        if symbols.len() > MAX_SYMBOLS {
            return None;
        }
        Some(Int::new(self.factor.checked_mul(other.factor)?, symbols))
    }

    /// Division that leaves no rest, or of two plain numbers, rounded towards zero as ONNX's `Div` does.
    pub(crate) fn checked_div(&self, other: &Int) -> Option<Int> {
        if let (Some(a), Some(b)) = (self.number(), other.number()) {
            return a.checked_div(b).map(Int::from);
        }
        let mut symbols = self.symbols.clone();
        for symbol in &other.symbols {
            let i = symbols.iter().position(|s| s == symbol)?;
            symbols.remove(i);
        }
        (self.factor.checked_rem(other.factor)? == 0)
            .then(|| Int { factor: self.factor / other.factor, symbols })
    }

    /// Whether the two are equal, where that can be told: a symbol is neither zero nor negative.
    pub(crate) fn is_equal(&self, other: &Int) -> Option<bool> {
        if self == other {
            return Some(true);
        }
        if self.symbols == other.symbols || self.factor.signum() != other.factor.signum() {
            return Some(false);
        }
        None
    }
}

impl From<i64> for Int {
    fn from(number: i64) -> Self {
        Int { factor: number, symbols: Vec::new() }
    }
}

impl From<&Dim> for Int {
    /// Reads names that are products, `4*batch`; any other name is one symbol.
    fn from(dim: &Dim) -> Self {
        let name = match dim {
            Dim::Size(n) => return Int::from(i64::try_from(*n).unwrap_or(i64::MAX)),
            Dim::Symbol(name) => name,
        };
        let mut int = Int::from(1);
        for part in name.split('*') {
            let plain = !part.is_empty() && !part.contains(['+', '-', '/', '(', ')', ' ']);
            if !plain {
                return Int { factor: 1, symbols: vec![name.clone()] };
            }
            match part.parse::<u32>() {
                Ok(number) => match int.factor.checked_mul(number.into()) {
                    Some(factor) => int.factor = factor,
                    None => return Int { factor: 1, symbols: vec![name.clone()] },
                },
                Err(_) => int.symbols.push(part.to_owned()),
            }
        }
        Int::new(int.factor, int.symbols)
    }
}

/// The product of dimensions.
pub(crate) fn product(dims: &[Dim]) -> Option<Int> {
    dims.iter().try_fold(Int::from(1), |product, dim| product.checked_mul(&Int::from(dim)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int(name: &str) -> Int {
        Int::from(&Dim::from(name))
    }

    #[test]
    fn products_of_symbols_have_one_name() {
        for (from, to) in [("batch", "batch"), ("4*batch", "4*batch"), ("b*2*a*3", "6*a*b")] {
            assert_eq!(int(from).to_dim(), Some(Dim::from(to)));
        }
        for opaque in ["batch+1", "4 * batch", "(batch)*2", "2*", "*", ""] {
            assert_eq!(int(opaque).to_dim(), Some(Dim::from(opaque)), "not a product");
        }
        assert_eq!(int("8").number(), Some(8), "a name that is a number");
    }

    #[test]
    fn arithmetic_stays_within_products_or_gives_up() {
        let (batch, four) = (int("batch"), Int::from(4));
        let windows = batch.checked_mul(&four).unwrap();
        assert_eq!(windows, int("4*batch"));
        assert_eq!(windows.checked_div(&four), Some(batch.clone()));
        assert_eq!(windows.checked_div(&batch), Some(four.clone()));
        assert_eq!(windows.checked_div(&Int::from(3)), None, "a rest that depends on the batch");
        assert_eq!(batch.checked_div(&int("n")), None);
        assert_eq!(windows.checked_add(&batch), Some(int("5*batch")));
        assert_eq!(batch.checked_add(&batch.checked_neg().unwrap()), Some(Int::from(0)));
        assert_eq!(batch.checked_mul(&Int::from(0)), Some(Int::from(0)));
        assert_eq!(batch.checked_add(&four), None);
        assert_eq!(batch.checked_add(&Int::from(0)), Some(batch.clone()));
        assert_eq!(Int::from(-7).checked_div(&Int::from(2)), Some(Int::from(-3)), "towards zero");
        assert_eq!(Int::from(7).checked_div(&Int::from(0)), None);
        assert_eq!(Int::from(i64::MAX).checked_mul(&Int::from(2)), None);
    }

    #[test]
    fn equality_is_told_where_it_can_be() {
        assert_eq!(int("batch").is_equal(&Int::from(-1)), Some(false));
        assert_eq!(int("batch").is_equal(&Int::from(0)), Some(false));
        assert_eq!(int("batch").is_equal(&int("batch")), Some(true));
        assert_eq!(int("batch").is_equal(&int("2*batch")), Some(false));
        assert_eq!(int("batch").is_equal(&Int::from(4)), None);
        assert_eq!(int("batch").is_equal(&int("n")), None);
    }
}
