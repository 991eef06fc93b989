//! Fractions as whole numbers of 65,536ths, so that every device computes the very same.

/// Bits behind the point.
pub(super) const BITS: u32 = 16;

/// A number from 0 on, in 65,536ths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fixed(u32);

impl Fixed {
    pub const ONE: Fixed = Fixed(1 << BITS);

    /// The nearest to `share`, which lies between 0 and 1; a half goes up.
    pub fn of(share: f64) -> Self {
        Fixed((share.clamp(0.0, 1.0) * f64::from(Self::ONE.0) + 0.5).floor() as u32)
    }

    /// In 65,536ths.
    pub fn parts(self) -> u32 {
        self.0
    }

    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}
