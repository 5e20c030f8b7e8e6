//! Parameters of an image between the wire's message and `llm-dit-params`.
//!
//! A parameter has the same name on both sides, so the conversions are made from its declaration.

use llm_dit_params::{
    GenerateOptions, GenerateParams, LoraSelection, LoraSet, ParamError, Start, generation_fields,
};

use crate::v1;

macro_rules! conversions {
    (generation {
        $($(#[doc = $doc:literal])* $name:ident: $type:ty,
            serde [$($serde:tt)*], flag [$($flag:tt)*], schema [$($schema:tt)*];)*
    }) => {
        impl From<&v1::GenerateParams> for GenerateOptions {
            fn from(params: &v1::GenerateParams) -> Self {
                Self { $($name: params.$name.clone().map(Into::into)),* }
            }
        }

        impl From<GenerateOptions> for v1::GenerateParams {
            fn from(options: GenerateOptions) -> Self {
                Self { $($name: options.$name.map(Into::into),)* ..Self::default() }
            }
        }
    };
}

generation_fields!(conversions! {});

impl From<Vec<f64>> for v1::Sigmas {
    fn from(values: Vec<f64>) -> Self {
        Self { values }
    }
}

impl From<v1::Sigmas> for Vec<f64> {
    fn from(sigmas: v1::Sigmas) -> Self {
        sigmas.values
    }
}

impl v1::GenerateParams {
    /// Every parameter as it is used, with the wire's ways of saying that one is off.
    pub fn used(params: &GenerateParams, start: Start) -> Self {
        Self {
            cfg_normalization: Some(params.cfg_normalization.unwrap_or(0.0)),
            cfg_truncation: Some(params.cfg_truncation.unwrap_or(1.0)),
            ..params.used(start).into()
        }
    }
}

impl TryFrom<&v1::LoraSet> for LoraSet {
    type Error = ParamError;

    fn try_from(set: &v1::LoraSet) -> Result<Self, ParamError> {
        let lora = |lora: &v1::LoraSelection| -> Result<LoraSelection, ParamError> {
            LoraSelection::new(&lora.name, lora.scale, &lora.trigger_words)?
                .with_scales(lora.blocks.clone())?
                .in_named_pass(lora.pass.as_deref())
        };
        Self::new(set.loras.iter().map(lora).collect::<Result<_, _>>()?)
    }
}

impl From<&LoraSet> for v1::LoraSet {
    fn from(set: &LoraSet) -> Self {
        let lora = |lora: &LoraSelection| v1::LoraSelection {
            name: lora.name().to_owned(),
            scale: Some(lora.scale()),
            trigger_words: lora.trigger_words().to_owned(),
            blocks: lora.blocks().into(),
            pass: lora.pass().written(),
        };
        Self { loras: set.iter().map(lora).collect() }
    }
}
