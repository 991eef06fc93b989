//! Where a network's features put the images.

use dkt_models::layers::FEATURES;
use dkt_models::{CL_LOGITS, ST_LOGITS};

use super::AnalysisError;
use super::network::Network;
use super::tsne::{self, Options};
use crate::data::DataSource;
use crate::ids::SampleId;

/// Which values of a network are embedded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Of {
    /// What both heads read; the last layer before the logits where heads are no linear layers.
    #[default]
    Features,
    /// Logits of the continual-learning head.
    ClLogits,
    /// Logits of the student head.
    StLogits,
}

/// Images in the plane.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureMap {
    pub model: String,
    /// Name of the layer, and how many numbers it has for an image.
    pub layer: String,
    pub n_features: usize,
    /// Names of all classes of the data.
    pub classes: Vec<String>,
    pub points: Vec<Point>,
    /// KL divergence of the embedding in nats.
    pub kl_divergence: f64,
    /// Share of images whose nearest neighbour in the plane has their class.
    pub neighbour_agreement: f64,
    pub options: Options,
}

/// One image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Index in the test split.
    pub sample: SampleId,
    /// Index of its class.
    pub label: u16,
    pub x: f64,
    pub y: f64,
}

/// Embeds test images in the plane by what a network makes of them.
///
/// # Errors
/// As [`Network::activations`] and [`tsne::tsne`].
pub fn tsne_of_features(
    network: &Network,
    of: Of,
    source: &DataSource,
    ids: &[SampleId],
    options: &Options,
) -> Result<FeatureMap, AnalysisError> {
    let name = match of {
        Of::Features => FEATURES,
        Of::ClLogits => CL_LOGITS,
        Of::StLogits => ST_LOGITS,
    };
    let layers = network.layers();
    let is_logits = |name: &str| [CL_LOGITS, ST_LOGITS].contains(&name);
    let layer = layers
        .iter()
        .find(|l| l.name == name)
        .or_else(|| layers.iter().rev().find(|l| !is_logits(&l.name)))
        .or(layers.first())
        .cloned();
    let layers: Vec<_> = layer.into_iter().collect();
    let activations = network.activations(&layers, source, ids)?;
    let (Some(layer), Some(activations)) = (layers.first(), activations.first()) else {
        return Err(AnalysisError::Model(dkt_models::ModelError::Outputs { found: "no layers".to_owned() }));
    };
    let embedding = tsne::tsne(activations, options)?;
    let points: Vec<Point> = ids
        .iter()
        .zip(&embedding.positions)
        .map(|(&sample, &[x, y])| Point { sample, label: source.test.label(sample), x, y })
        .collect();
    Ok(FeatureMap {
        model: network.path.display().to_string(),
        layer: layer.name.clone(),
        n_features: activations.n_features(),
        classes: source.test.classes.clone(),
        neighbour_agreement: neighbour_agreement(&points),
        points,
        kl_divergence: embedding.kl_divergence,
        options: *options,
    })
}

/// Share of points whose nearest other point has their label; of equally near ones the first counts.
fn neighbour_agreement(points: &[Point]) -> f64 {
    let agrees = |(i, point): &(usize, &Point)| {
        let others = points.iter().enumerate().filter(|(j, _)| j != i);
        let nearest = others.min_by(|(_, a), (_, b)| {
            let distance = |other: &Point| (point.x - other.x).powi(2) + (point.y - other.y).powi(2);
            distance(a).total_cmp(&distance(b))
        });
        nearest.is_some_and(|(_, other)| other.label == point.label)
    };
    points.iter().enumerate().filter(agrees).count() as f64 / points.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_the_same_class_are_counted() {
        let at = |x: f64, label: u16| Point { sample: SampleId(0), label, x, y: 0.0 };
        // 0 and 1 are each other's nearest and of one class; 5's nearest is 5.5, of another class, and so on.
        let points = [at(0.0, 0), at(1.0, 0), at(5.0, 0), at(5.5, 1)];
        assert_eq!(neighbour_agreement(&points), 0.5);
    }
}
