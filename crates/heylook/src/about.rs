//! Description of a server, as far as its version provides one.

use serde::Deserialize;

use crate::{HeylookError, HeylookServer};

/// A server that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Its version, if it says so.
    pub version: Option<String>,
    /// The models that are set up, loaded or not.
    pub models: Vec<AboutModel>,
}

/// A model that the server has set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AboutModel {
    pub id: String,
    /// Whether it gives hidden states; `None` from a server of 2025, which does not say.
    pub hidden_states: Option<bool>,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
    capabilities: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Capabilities {
    server_version: Option<String>,
}

impl About {
    pub(crate) async fn ask(server: &HeylookServer) -> Result<Self, HeylookError> {
        let body = server.get("/v1/models").await?;
        let models: Models =
            serde_json::from_slice(&body).map_err(|e| HeylookError::BadAnswer {
                url: server.url().to_owned(),
                reason: format!("it is not a list of models: {e}"),
            })?;
        // A server that does without this is as good.
        let capabilities = server.get("/v1/capabilities").await.ok();
        let capabilities: Option<Capabilities> =
            capabilities.and_then(|body| serde_json::from_slice(&body).ok());
        let models = models.data.into_iter().map(|model| AboutModel {
            hidden_states: model.capabilities.map(|c| c.iter().any(|c| c == "hidden_states")),
            id: model.id,
        });
        Ok(Self { version: capabilities.and_then(|c| c.server_version), models: models.collect() })
    }

    /// What stands against encoding with `model`, in a sentence; `None` if nothing is known to.
    pub fn objection(&self, model: &str) -> Option<String> {
        match self.models.iter().find(|m| m.id == model) {
            Some(AboutModel { hidden_states: Some(false), .. }) => Some(format!(
                "'{model}' returns no hidden states on that server; use a model that runs under MLX"
            )),
            Some(_) => None,
            None => {
                let names: Vec<&str> = self.models.iter().map(|m| m.id.as_str()).collect();
                Some(format!("the server has no model '{model}'; it has {}", names.join(", ")))
            }
        }
    }
}
