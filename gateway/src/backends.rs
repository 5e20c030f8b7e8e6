//! The services behind the gateway, their health, and the choice of the next one.

mod backend;
mod follow;
mod loras;
mod names;
mod pool;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use llm_dit_fault::Fault;
use llm_dit_heylook::HeylookEncoder;
use llm_dit_params::{excerpt, nearest};
use llm_dit_proto::v1::{diffusion_server, encoder_server};
use tokio::time;

use crate::{
    error::Error,
    options::{DEFAULT_DIFFUSION, DEFAULT_ENCODER, DIFFUSION, GatewayOptions, HEYLOOK, LOCAL},
    records::model::Model,
};

pub(crate) use self::{
    backend::{AT_ONCE, Backend, Condition, State as BackendState},
    loras::{ActiveLoraBody, DefaultLoras},
    pool::{Lease, Pool, Tried},
};

/// Everything that can be asked.
#[derive(Debug)]
pub(crate) struct Backends {
    pub diffusion: Pool,
    /// The first one is the default.
    pub encoders: Vec<NamedEncoder>,
    /// No encoder is configured, so the diffusion services' own is as good as the default one.
    encoder_is_open: bool,
    /// Whether the diffusion service that was asked last can encode.
    has_encoder: AtomicBool,
    pub loras: DefaultLoras,
}

/// An encoder and the name by which requests choose it.
#[derive(Debug)]
pub(crate) struct NamedEncoder {
    pub name: String,
    pub kind: EncoderKind,
}

#[derive(Debug)]
pub(crate) enum EncoderKind {
    Grpc(Pool),
    Heylook(HeylookEncoder),
}

/// The encoder of one request's prompts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Choice<'a> {
    Ours(&'a NamedEncoder),
    /// The diffusion service fetches them.
    Theirs,
}

impl Backends {
    /// Connects to the services and starts their health checks. Must be called inside a tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// [`Error`] if a URL or the credentials cannot be used.
    pub fn new(options: &GatewayOptions) -> Result<Self, Error> {
        let mut names: Vec<(String, Vec<String>)> = Vec::new();
        for target in &options.encoders {
            match names.iter_mut().find(|(name, _)| *name == target.name) {
                Some((_, urls)) => urls.push(target.url.clone()),
                None => names.push((target.name.clone(), vec![target.url.clone()])),
            }
        }
        let encoder_is_open = names.is_empty() && options.heylook.is_none();
        if encoder_is_open {
            names.push((LOCAL.to_owned(), vec![DEFAULT_ENCODER.to_owned()]));
        }
        let mut encoders = Vec::new();
        for (name, urls) in names {
            let pool = Pool::new(
                "encoder",
                encoder_server::SERVICE_NAME,
                &urls,
                &options.credentials,
                options.in_process,
            )?;
            encoders.push(NamedEncoder { name, kind: EncoderKind::Grpc(pool) });
        }
        encoders.extend(options.heylook.iter().map(|encoder| NamedEncoder {
            name: HEYLOOK.to_owned(),
            kind: EncoderKind::Heylook(encoder.clone()),
        }));
        let default = [DEFAULT_DIFFUSION.to_owned()];
        let urls = if options.diffusion.is_empty() { &default[..] } else { &options.diffusion[..] };
        let diffusion = Pool::new(
            "diffusion service",
            diffusion_server::SERVICE_NAME,
            urls,
            &options.credentials,
            options.in_process,
        )?;
        let (has_encoder, loras) = (AtomicBool::new(false), DefaultLoras::default());
        Ok(Self { diffusion, encoders, encoder_is_open, has_encoder, loras })
    }

    /// The model of a healthy diffusion service.
    ///
    /// # Errors
    ///
    /// [`Error`] if no diffusion service answers, or if one refuses.
    pub async fn model(&self) -> Result<Model, Error> {
        let mut tried = Tried::default();
        loop {
            let lease = self.diffusion.pick(&mut tried).await?;
            let backend = Arc::clone(lease.backend());
            match lease.model().await {
                Ok(model) => {
                    self.has_encoder.store(model.has_encoder, Ordering::Relaxed);
                    return Ok(model);
                }
                Err(fault) => tried.note(&backend, fault.into())?,
            }
        }
    }

    /// Whether a diffusion service can encode, as far as is known at once.
    pub async fn has_encoder(&self) -> bool {
        match time::timeout(AT_ONCE, self.model()).await {
            Ok(Ok(model)) => model.has_encoder,
            Ok(Err(_)) => false,
            Err(_) => self.has_encoder.load(Ordering::Relaxed),
        }
    }

    /// The encoder for a request that names `requested`. `has_encoder`: the chosen diffusion service can
    /// encode.
    ///
    /// # Errors
    ///
    /// [`Fault`] if there is no encoder of this name.
    pub fn encoder(&self, requested: Option<&str>, has_encoder: bool) -> Result<Choice<'_>, Fault> {
        match requested {
            None if self.encoder_is_open && has_encoder => Ok(Choice::Theirs),
            None => Ok(Choice::Ours(&self.encoders[0])),
            Some(DIFFUSION) if has_encoder => Ok(Choice::Theirs),
            Some(name) => {
                let known = self.encoders.iter().find(|encoder| encoder.name == name);
                known.map(Choice::Ours).ok_or_else(|| self.unknown(name, has_encoder))
            }
        }
    }

    /// What `encoder` may say.
    pub fn encoder_names(&self, has_encoder: bool) -> Vec<&str> {
        let theirs = has_encoder.then_some(DIFFUSION);
        let ours = self.encoders.iter().map(|encoder| encoder.name.as_str());
        if self.encoder_is_open {
            theirs.into_iter().chain(ours).collect()
        } else {
            ours.chain(theirs).collect()
        }
    }

    fn unknown(&self, name: &str, has_encoder: bool) -> Fault {
        let names = self.encoder_names(has_encoder);
        let shown = excerpt(name);
        let hint = nearest(&shown, names.iter().copied())
            .map(|name| format!("did you mean '{name}'? "))
            .unwrap_or_default();
        Fault::BadRequest(format!(
            "unknown encoder '{shown}'; {hint}known are {}",
            names.join(", ")
        ))
    }
}
