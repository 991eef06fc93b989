//! Layers of a saved network, and their values for some images.

use std::path::{Path, PathBuf};

use dkt_models::DualHead;
use dkt_models::layers::{Layer, layers};
use onnx_grad::graph::{DataType, Graph, ValueInfo};

use super::{Activations, AnalysisError, MAX_SAMPLES, MIN_SAMPLES, pooling};
use crate::data::{DataSource, Normalization, TrainedOn};
use crate::ids::SampleId;
use crate::train::runtime::{Activation, ActivationProbe};

/// Images that pass through a network at once: all layers of so many are in memory, before they are made smaller.
const BATCH: usize = 16;

/// A dual-head network from a file, and what of its data it says.
pub struct Network {
    pub path: PathBuf,
    model: DualHead,
    layers: Vec<Layer>,
    trained_on: TrainedOn,
}

impl Network {
    /// # Errors
    /// [`AnalysisError::Read`], [`AnalysisError::Model`] and [`AnalysisError::Data`], if the file cannot be read, is
    /// no dual-head network, or has metadata of another form.
    pub fn read(path: &Path) -> Result<Self, AnalysisError> {
        Network::new(path, Graph::read(path)?)
    }

    /// A network that is in memory; `path` is its name.
    ///
    /// # Errors
    /// As [`Network::read`].
    pub fn new(path: &Path, graph: Graph) -> Result<Self, AnalysisError> {
        let model = DualHead::from_graph(graph)?;
        let trained_on = TrainedOn::read(&model.graph().metadata, model.input_dims()[0], path)?;
        let layers = layers(model.graph())?;
        Ok(Network { path: path.to_owned(), model, layers, trained_on })
    }

    /// From the image on.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Values of the given layers for some test images, one element a layer; larger layers than 4096 features are
    /// averaged to a smaller map.
    ///
    /// # Errors
    /// [`AnalysisError::Images`] and [`AnalysisError::ClassNames`] if the data is not of the network;
    /// [`AnalysisError::Samples`]; [`AnalysisError::NotFinite`]; [`AnalysisError::Runtime`].
    pub fn activations(
        &self,
        layers: &[Layer],
        source: &DataSource,
        ids: &[SampleId],
    ) -> Result<Vec<Activations>, AnalysisError> {
        self.require(source)?;
        if !(MIN_SAMPLES..=MAX_SAMPLES).contains(&ids.len()) {
            return Err(AnalysisError::Samples { found: ids.len() });
        }
        let normalization: &Normalization =
            self.trained_on.normalization.as_ref().unwrap_or(&source.normalization);
        let values = layers
            .iter()
            .map(|l| ValueInfo { name: l.value.clone(), dtype: DataType::F32, shape: l.shape.clone() })
            .collect();
        let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut probe = ActivationProbe::new(self.model.graph(), self.model.input_dims(), values, n_threads)?;
        let mut collected: Vec<Vec<f32>> = vec![Vec::new(); layers.len()];
        for batch in ids.chunks(BATCH) {
            let activations =
                probe.run(batch.len(), |input| normalization.fill_batch(&source.test, batch, input))?;
            for ((layer, activation), collected) in layers.iter().zip(activations).zip(&mut collected) {
                self.append(layer, &activation, batch.len(), collected)?;
            }
        }
        let all = collected.into_iter().map(|v| Activations::new(ids.len(), v.len() / ids.len(), v));
        Ok(all.collect())
    }

    fn require(&self, source: &DataSource) -> Result<(), AnalysisError> {
        let shape = source.test.shape;
        let found = [shape.channels, shape.height, shape.width].map(usize::from);
        if found != self.model.input_dims() {
            let expected = self.model.input_dims();
            return Err(AnalysisError::Images { model: self.path.clone(), expected, found: shape });
        }
        match &self.trained_on.classes {
            Some(expected) if *expected != source.test.classes => Err(AnalysisError::ClassNames {
                model: self.path.clone(),
                expected: expected.clone(),
                found: source.test.classes.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// A row for each of `n` samples.
    fn append(
        &self,
        layer: &Layer,
        activation: &Activation,
        n: usize,
        collected: &mut Vec<f32>,
    ) -> Result<(), AnalysisError> {
        let rows = activation.dims.first().copied().unwrap_or(0);
        if rows == 0 || !rows.is_multiple_of(n) {
            return Err(AnalysisError::Rows {
                model: self.path.clone(),
                layer: layer.name.clone(),
                expected: n,
                found: activation.dims.clone(),
            });
        }
        if activation.values.iter().any(|v| !v.is_finite()) {
            return Err(AnalysisError::NotFinite { model: self.path.clone(), layer: layer.name.clone() });
        }
        // Tokens may stand in the rows of one matrix: `[samples * tokens, width]`.
        let mut dims = activation.dims[1..].to_vec();
        if rows > n {
            dims.insert(0, rows / n);
        }
        for values in activation.values.chunks_exact(activation.values.len() / n) {
            collected.extend(pooling::pool(&dims, values));
        }
        Ok(())
    }
}
