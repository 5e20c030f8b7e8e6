//! Services that answer garbage, beside a true one.

mod diffusion;

use std::net::Ipv4Addr;

use llm_dit_proto::{
    DType, Tensor,
    v1::{
        DescribeDiffusionRequest, DiffusionDescription, EmbeddingHeader, TensorHeader,
        diffusion_client::DiffusionClient, diffusion_server::DiffusionServer,
        encode_response::Frame,
    },
};
use llm_dit_serving::{Credentials, Remote, grpc::GrpcServer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use self::diffusion::{LIES, Liar};
use super::{
    Outcome, Plan,
    honest::{Honest, HonestClient},
    stack::{Setup, Stack, Use},
};
use crate::{fakes::ScriptedEncoder, process::Process, repository, servers::Server};

/// Every kind of lie of a diffusion service.
pub(super) async fn diffusion(plan: &Plan) -> Outcome {
    let truth = description().await;
    let mut all = Lies::default();
    for lie in LIES {
        let service = DiffusionServer::new(Liar { truth: truth.clone(), lie: *lie });
        let server = GrpcServer::default().service(service);
        let server = Server::start(|listener, stop| server.serve(listener, stop)).await;
        let setup = Setup { false_diffusion: vec![server.url.clone()], ..Setup::default() };
        all.meet(plan, &format!("{lie:?}"), &setup).await;
    }
    all.outcome()
}

/// Every kind of lie of an encoder.
pub(super) async fn encoder(plan: &Plan) -> Outcome {
    let width = description().await.cap_feat_dim;
    let mut all = Lies::default();
    for (name, frames) in encoder_lies(width) {
        let script = ScriptedEncoder { frames, hang: false };
        let server = Server::scripted_encoder(script).await;
        let setup = Setup { false_encoders: vec![server.url.clone()], ..Setup::default() };
        all.meet(plan, name, &setup).await;
    }
    all.outcome()
}

/// Servers of something else.
pub(super) async fn bytes(plan: &Plan) -> Outcome {
    let kinds: [(&str, Option<&[u8]>); 6] = [
        ("HTTP/1.1", Some(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")),
        ("random bytes", Some(&[0xa5; 512])),
        ("TLS alert", Some(&[21, 3, 3, 0, 2, 2, 40])),
        ("a frame of 16 MiB", Some(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1])),
        (
            "GOAWAY",
            Some(&[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ),
        ("closes at once", None),
    ];
    let mut all = Lies::default();
    for (name, answer) in kinds {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let answer = answer.map(<[u8]>::to_vec);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = answer.clone();
                tokio::spawn(async move {
                    let Some(answer) = answer else { return };
                    let mut buffer = [0; 4096];
                    while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                        if stream.write_all(&answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let setup = Setup {
            false_diffusion: vec![url.clone()],
            false_encoders: vec![url],
            ..Setup::default()
        };
        all.meet(plan, name, &setup).await;
        task.abort();
    }
    all.outcome()
}

/// What came of several lies.
#[derive(Default)]
struct Lies {
    kinds: usize,
    honest: Honest,
    memory: Vec<Use>,
}

impl Lies {
    /// Starts true programs beside the false one, and asks for images.
    async fn meet(&mut self, plan: &Plan, name: &str, setup: &Setup) {
        let mut stack = Stack::start(setup);
        let client = HonestClient::new(&stack.gateway.url).await;
        stack.watch_memory();
        let honest = client.rounds(plan.count(4, 2)).await;
        self.kinds += 1;
        self.honest.images += honest.images;
        self.honest.jobs += honest.jobs;
        let wrong = honest.wrong.into_iter().map(|why| {
            let why: String = why.chars().take(300).collect();
            format!("{name}: {why}")
        });
        self.honest.wrong.extend(wrong);
        // The most of all kinds.
        for used in stack.memory() {
            match self.memory.iter_mut().find(|known| known.name == used.name) {
                Some(known) if known.peak - known.before >= used.peak - used.before => {}
                Some(known) => *known = used,
                None => self.memory.push(used),
            }
        }
    }

    fn outcome(self) -> Outcome {
        let seen = format!("{} kinds", self.kinds);
        Outcome { honest: self.honest, memory: self.memory, seen, ..Outcome::default() }
    }
}

/// Of the demo model.
async fn description() -> DiffusionDescription {
    let model = repository("models/demo");
    let model = ["--model-path", model.to_str().expect("a path of text")];
    let service = Process::start("diffusion-service", &model);
    let remote = Remote::new("diffusion service", &service.url, &Credentials::default());
    let mut client = DiffusionClient::new(remote.expect("a valid URL").channel());
    let described = client.describe(DescribeDiffusionRequest {}).await;
    described.expect("a description").into_inner()
}

fn encoder_lies(width: u32) -> Vec<(&'static str, Vec<Frame>)> {
    let shape = vec![9, width as usize];
    let of = |value: f32| {
        let values = vec![value; 9 * width as usize];
        Tensor::from_f32(&values, shape.clone(), DType::F32).expect("as the shape says")
    };
    let header = |tensor: TensorHeader| {
        Frame::Header(EmbeddingHeader { tensor: Some(tensor), ..Default::default() })
    };
    let whole = |tensor: &Tensor| {
        let chunks = tensor.chunks().map(Frame::Data);
        std::iter::once(header(tensor.header())).chain(chunks).collect::<Vec<_>>()
    };
    let fine = of(0.5);
    let shaped = |shape: &[u64]| header(TensorHeader { shape: shape.to_vec(), ..fine.header() });
    let data = |bytes: usize| Frame::Data(vec![0; bytes].into());
    let mut twice = whole(&fine);
    twice.extend(whole(&fine));
    vec![
        ("NaN", whole(&of(f32::NAN))),
        ("infinity", whole(&of(f32::INFINITY))),
        ("nothing", Vec::new()),
        ("a header without data", vec![header(fine.header())]),
        ("a header without a tensor", vec![Frame::Header(EmbeddingHeader::default())]),
        ("data without a header", vec![data(4096)]),
        ("too little data", vec![header(fine.header()), data(64)]),
        ("too much data", [whole(&fine), vec![data(1 << 20)]].concat()),
        (
            "another width",
            vec![shaped(&[9, u64::from(width) + 1]), data(9 * (width as usize + 1) * 4)],
        ),
        ("no tokens", vec![shaped(&[0, u64::from(width)])]),
        (
            "a shape of 2^64 values",
            vec![shaped(&[u64::from(u32::MAX) + 1, u64::from(u32::MAX) + 1])],
        ),
        ("a shape of 16 axes", vec![shaped(&[1; 16])]),
        ("an unknown dtype", vec![header(TensorHeader { dtype: 77, ..fine.header() })]),
        ("a second tensor", twice),
        ("empty chunks", {
            let empty = std::iter::repeat_n(data(0), 100_000);
            std::iter::once(header(fine.header())).chain(empty).collect()
        }),
    ]
}
