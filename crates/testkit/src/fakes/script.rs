//! An `Encoder` service that answers every request with the same frames, right or wrong.

use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use llm_dit_proto::v1::{
    CountRequest, CountResponse, DescribeEncoderRequest, EncodeRequest, EncodeResponse,
    EncoderDescription, encode_response::Frame, encoder_server::Encoder,
};
use tonic::{Request, Response, Status, async_trait};

#[derive(Clone, Debug, Default)]
pub struct ScriptedEncoder {
    pub frames: Vec<Frame>,
    /// Keeps the answer open after the frames, for ever.
    pub hang: bool,
}

#[async_trait]
impl Encoder for ScriptedEncoder {
    async fn describe(
        &self,
        _: Request<DescribeEncoderRequest>,
    ) -> Result<Response<EncoderDescription>, Status> {
        Ok(Response::new(EncoderDescription::default()))
    }

    type EncodeStream = BoxStream<'static, Result<EncodeResponse, Status>>;

    async fn encode(
        &self,
        _: Request<EncodeRequest>,
    ) -> Result<Response<Self::EncodeStream>, Status> {
        let frames = self.frames.clone().into_iter();
        let frames = stream::iter(frames.map(|f| Ok(EncodeResponse { frame: Some(f) })));
        let frames =
            if self.hang { frames.chain(stream::pending()).boxed() } else { frames.boxed() };
        Ok(Response::new(frames))
    }

    async fn count(&self, _: Request<CountRequest>) -> Result<Response<CountResponse>, Status> {
        Err(Status::unimplemented("not part of the script"))
    }
}
