//! Activations of a layer as one row of bounded length a sample.

/// Most features of a layer that are kept; of larger ones the map is averaged to a smaller one.
pub(super) const MAX_FEATURES: usize = 4096;

/// What a layer's values for one sample stand for, from its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Map {
    height: usize,
    width: usize,
    channels: usize,
    channels_last: bool,
}

impl Map {
    /// `dims` without the batch. Four dimensions with it are an image, its channels last where the first two sizes
    /// are equal and the last is another (as Swin's are); fewer are tokens with channels, or a vector.
    fn of(dims: &[usize]) -> Self {
        match *dims {
            [height, width, channels] if height == width && channels != width => {
                Map { height, width, channels, channels_last: true }
            }
            [channels, height, width] => Map { height, width, channels, channels_last: false },
            [tokens, channels] => Map { height: tokens, width: 1, channels, channels_last: true },
            _ => Map { height: 1, width: 1, channels: dims.iter().product(), channels_last: true },
        }
    }

    fn n_values(&self) -> usize {
        self.height * self.width * self.channels
    }

    fn at(&self, channel: usize, y: usize, x: usize) -> usize {
        if self.channels_last {
            (y * self.width + x) * self.channels + channel
        } else {
            (channel * self.height + y) * self.width + x
        }
    }

    /// Height and width of the largest map that is within [`MAX_FEATURES`], shrunk alike.
    fn pooled(&self) -> (usize, usize) {
        let within = |h: usize, w: usize| h * w * self.channels <= MAX_FEATURES;
        let longest = self.height.max(self.width);
        (1..=longest)
            .rev()
            .map(|side| ((self.height * side).div_ceil(longest), (self.width * side).div_ceil(longest)))
            .find(|(h, w)| within(*h, *w))
            .unwrap_or((1, 1))
    }
}

/// The values of one sample, at most [`MAX_FEATURES`]: as they are; else every channel averaged over the cells of a
/// coarser grid (those of adaptive average pooling); and where there are too many channels by themselves, those at
/// even distances.
pub(super) fn pool(dims: &[usize], values: &[f32]) -> Vec<f32> {
    if values.len() <= MAX_FEATURES {
        return values.to_vec();
    }
    let map = Map::of(dims);
    debug_assert_eq!(map.n_values(), values.len());
    let (height, width) = map.pooled();
    let n_channels = map.channels.min(MAX_FEATURES / (height * width));
    let cell = |i: usize, of: usize, size: usize| (i * size / of)..((i + 1) * size).div_ceil(of);
    let mut pooled = Vec::with_capacity(n_channels * height * width);
    for channel in (0..n_channels).map(|i| i * map.channels / n_channels) {
        for y in 0..height {
            for x in 0..width {
                let rows = cell(y, height, map.height);
                let columns = cell(x, width, map.width);
                let n = (rows.len() * columns.len()) as f64;
                let places = rows.flat_map(|y| columns.clone().map(move |x| (y, x)));
                let sum: f64 = places.map(|(y, x)| f64::from(values[map.at(channel, y, x)])).sum();
                pooled.push((sum / n) as f32);
            }
        }
    }
    pooled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_layers_stay_as_they_are() {
        let values: Vec<f32> = (0..4096).map(|v| v as f32).collect();
        assert_eq!(pool(&[4, 32, 32], &values), values);
    }

    #[test]
    fn maps_are_averaged_channel_by_channel_whatever_their_order() {
        // 16 channels of 32x32: 16x16 of each are left, every one the mean of four.
        let value = |c: usize, y: usize, x: usize| (1000 * c + 10 * y + x) as f32;
        let first: Vec<f32> = (0..16 * 32 * 32).map(|i| value(i / 1024, i / 32 % 32, i % 32)).collect();
        let pooled = pool(&[16, 32, 32], &first);
        assert_eq!(pooled.len(), 4096);
        assert_eq!(pooled[0], 5.5);
        assert_eq!(pooled[256 * 3 + 16 * 2 + 5], 3000.0 + 45.0 + 10.5);
        let last: Vec<f32> = (0..16 * 32 * 32).map(|i| value(i % 16, i / 512, i / 16 % 32)).collect();
        assert_eq!(pool(&[32, 32, 16], &last), pooled);
    }

    #[test]
    fn the_limit_holds_for_every_shape() {
        for dims in [
            vec![64, 112, 112],
            vec![56, 56, 96],
            vec![197, 768],
            vec![5000],
            vec![8192, 7, 7],
            vec![3, 500, 2],
            vec![4097],
        ] {
            let values = vec![1.0; dims.iter().product()];
            let pooled = pool(&dims, &values);
            assert!((MAX_FEATURES / 8..=MAX_FEATURES).contains(&pooled.len()), "{dims:?}: {}", pooled.len());
            assert!(pooled.iter().all(|v| *v == 1.0), "{dims:?}");
        }
    }
}
