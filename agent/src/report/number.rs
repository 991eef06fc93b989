//! Numbers as text, for people.

/// With so many decimals; what rounds to 0 has no sign.
pub(super) fn fixed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(digits) if digits.bytes().all(|b| matches!(b, b'0' | b'.')) => digits.to_owned(),
        _ => text,
    }
}

/// A share as per cent with one decimal, `-` where there is none.
pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), |share| fixed(100.0 * share, 1))
}

/// A whole number as it is, and of others three digits, or all that stand before the point.
pub(super) fn sensible(value: f64) -> String {
    if value.fract() == 0.0 { fixed(value, 0) } else { fixed(value, decimals(value)) }
}

/// At an axis: three digits, without zeros at their end.
pub(super) fn short(value: f64) -> String {
    let trimmed = |value: f64| {
        let text = fixed(value, decimals(value));
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    };
    match value.abs() {
        0.0 => "0".to_owned(),
        a if a >= 1e6 => format!("{}M", trimmed(value / 1e6)),
        a if a >= 1e3 => format!("{}k", trimmed(value / 1e3)),
        a if a < 0.01 => format!("{value:.1e}").replace(".0e", "e"),
        _ => trimmed(value),
    }
}

/// Those that make three digits.
fn decimals(value: f64) -> usize {
    match value.abs() {
        a if a >= 99.95 => 0,
        a if a >= 9.995 => 1,
        a if a >= 0.9995 => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_minus_nothing() {
        let all = |values: &[f64]| values.iter().map(|v| fixed(*v, 1)).collect::<Vec<_>>();
        assert_eq!(all(&[-0.0, -0.04, -0.06, 0.04, -12.34]), ["0.0", "0.0", "-0.1", "0.0", "-12.3"]);
        assert_eq!(all(&[f64::NEG_INFINITY, f64::NAN]), ["-inf", "NaN"]);
        assert_eq!((percent(Some(-0.0004)), percent(None)), ("0.0".to_owned(), "-".to_owned()));
    }

    #[test]
    fn numbers_have_the_digits_that_tell_something() {
        let all = |values: &[f64]| values.iter().map(|v| sensible(*v)).collect::<Vec<_>>();
        assert_eq!(
            all(&[916.0, 18_589.3, 99.97, 12.34, 1.006, 0.1534, 0.0]),
            ["916", "18589", "100", "12.3", "1.01", "0.153", "0"]
        );
        let all = |values: &[f64]| values.iter().map(|v| short(*v)).collect::<Vec<_>>();
        assert_eq!(
            all(&[0.0, 1500.0, 2000.0, 2.5e6, 100.0, 10.0, 0.015, 0.5, 1e-3, -1.5e-4]),
            ["0", "1.5k", "2k", "2.5M", "100", "10", "0.015", "0.5", "1e-3", "-1.5e-4"]
        );
    }
}
