//! The call of a diffusion service.

use std::sync::Arc;

use llm_dit_proto::v1::{self, GenerateRequest, generate_request::Part};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{events::Events, outcome::Failure};
use crate::{
    backends::Lease,
    encode::Pipe,
    error::Error,
    records::{model::Model, request::Request},
};

/// Chunks on their way from one service to the other.
const CHUNKS_IN_FLIGHT: usize = 4;

/// Hands a request over, while its embeddings are still coming.
pub(super) async fn send<'a>(
    lease: &'a Lease,
    params: v1::GenerateParams,
    mut pipe: Option<Pipe>,
    request: &Request,
    model: &Model,
) -> Result<(Events<'a>, [(u32, u32); 2]), Failure> {
    let (to, requests) = mpsc::channel(CHUNKS_IN_FLIGHT);
    // There is room, and the receiver is here.
    let _ = to.try_send(GenerateRequest { part: Some(Part::Params(params)) });
    let mut client = lease.diffusion();
    let answer = async {
        let answer = client.generate(request.deadline.request(ReceiverStream::new(requests))).await;
        answer.map_err(|status| Error::of_sent(&lease.remote, status))
    };
    let answer = lease.unless_silent(answer);
    tokio::pin!(answer);
    let early = {
        let pump = async {
            if let Some(pipe) = &mut pipe
                && let Err(error) = pipe.pump(model.cap_feat_dim, &to).await
            {
                return Err(match pipe.lease() {
                    Some(encoder) => Failure::Encoder(Arc::clone(encoder.backend()), error),
                    None => Failure::Final(error),
                });
            }
            for part in request.image.iter().flat_map(|image| image.parts()) {
                if to.send(part).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        tokio::pin!(pump);
        tokio::select! {
            biased;
            // An encoder that fails is the cause, whatever the other side then says. Leaving
            // here drops the call before its request ends, so it cannot pass for complete.
            pumped = &mut pump => { pumped?; None }
            early = &mut answer => match early {
                Ok(early) => { pump.await?; Some(Ok(early)) }
                Err(refusal) => Some(Err(refusal)),
            },
        }
    };
    drop(to);
    let answer = match early {
        Some(answer) => answer,
        None => answer.await,
    };
    let answer = answer.map_err(Failure::Diffusion)?;
    let tokens = pipe.as_ref().map(Pipe::tokens).unwrap_or_default();
    Ok((Events::new(lease, answer.into_inner()), tokens))
}
