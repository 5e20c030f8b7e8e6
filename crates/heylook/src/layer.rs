//! Two ways to number hidden states.
//!
//! We count as transformers does: `output_hidden_states[0]` is the embedding table's output, `k` what
//! layer `k` of `n` (from 1) gives, except that `n`, also called -1, has the final norm behind it.
//! heylookitsanllm counts layer outputs from 0 and never applies the final norm.

use crate::HeylookError;

/// One hidden state under both numberings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layer {
    /// Ours, from 0.
    pub index: usize,
    /// Theirs.
    pub theirs: i64,
}

impl Layer {
    /// Translates our number for a model of `layers` layers. A negative number stays as it is, so
    /// that the answer does not depend on `layers` being right.
    ///
    /// # Errors
    ///
    /// [`HeylookError`] if the model has no such layer, or if the server cannot return it.
    pub fn resolve(layer: i32, layers: usize, model: &str) -> Result<Self, HeylookError> {
        let (asked, states) = (i64::from(layer), layers as i64 + 1);
        let index = if asked < 0 { states + asked } else { asked };
        let unreachable =
            |what| Err(HeylookError::UnreachableLayer { layer, what, last: layers as i64 - 1 });
        match usize::try_from(index) {
            Ok(0) => unreachable("the embedding table's output"),
            Ok(index) if index == layers => unreachable("the last layer's output after the norm"),
            Ok(index) if index < layers => {
                Ok(Self { index, theirs: if asked < 0 { asked } else { asked - 1 } })
            }
            Ok(_) | Err(_) => {
                Err(HeylookError::LayerOutOfRange { layer, layers, model: model.to_owned() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_transformers_become_theirs() {
        let resolve = |layer| Layer::resolve(layer, 36, "m");
        for (layer, index, theirs) in
            [(-2, 35, -2), (35, 35, 34), (34, 34, 33), (1, 1, 0), (-36, 1, -36), (-3, 34, -3)]
        {
            assert_eq!(resolve(layer).expect("reachable"), Layer { index, theirs }, "{layer}");
        }
        for layer in [0, -37, 36, -1] {
            let error = resolve(layer).expect_err("not to be had");
            assert!(matches!(error, HeylookError::UnreachableLayer { .. }), "{layer}: {error}");
            assert!(
                error.to_string().contains("-35 to -2") || error.to_string().contains("1 to 35"),
                "{error}"
            );
        }
        for layer in [37, -38, i32::MAX, i32::MIN] {
            let error = resolve(layer).expect_err("no such layer");
            assert!(matches!(error, HeylookError::LayerOutOfRange { .. }), "{layer}: {error}");
        }
    }
}
