//! Requests that are wrong in a way that once cost others something.

use std::collections::BTreeMap;

use futures::future::join_all;
use llm_dit_proto::v1::{
    GenerateParams, LoraSelection, LoraSet, TensorRole, diffusion_client::DiffusionClient,
};
use llm_dit_serving::{Credentials, Remote};
use serde_json::{Value, json};

use super::{
    Outcome, PATIENCE, Plan,
    honest::HonestClient,
    stack::{Setup, Stack},
};
use crate::wire::{request, tensor};

/// A name that came back in a status and broke the connection that all requests share.
pub(super) async fn long_name(plan: &Plan) -> Outcome {
    let name = "n".repeat(70_000);
    let lora = json!({"prompt": "x", "loras": [{"name": name, "scale": 1.0}]});
    let model = json!({"prompt": "x", "model": name});
    let encoder = json!({"prompt": "x", "encoder": name});
    let scheduler = json!({"prompt": "x", "scheduler": name});
    let template = json!({"prompt": "x", "template": name});
    let bodies = [lora, model, encoder, scheduler, template];
    refused(plan, &bodies, async |stack: &Stack| {
        let remote =
            Remote::new("diffusion service", &stack.diffusion[0].url, &Credentials::default());
        // On the connection of another call, which must survive.
        let mut client = DiffusionClient::new(remote.expect("a valid URL").channel());
        let lora = LoraSelection { name: name.clone(), ..Default::default() };
        let first =
            GenerateParams { loras: Some(LoraSet { loras: vec![lora] }), ..Default::default() };
        let status = client.generate(request(first, &[])).await.err();
        match status {
            Some(status) if status.message().len() <= 2048 => None,
            other => Some(format!("over gRPC: {other:?}")),
        }
    })
    .await
}

/// Numbers that no image comes of.
pub(super) async fn overflow(plan: &Plan) -> Outcome {
    let scale = json!({
        "prompt": "x", "width": 64, "height": 64, "steps": 2,
        "loras": [{"name": "blueprint.safetensors", "scale": 3e38}],
    });
    refused(plan, &[scale], async |stack: &Stack| {
        let url = &stack.diffusion[0].url;
        let remote = Remote::new("diffusion service", url, &Credentials::default());
        let mut client = DiffusionClient::new(remote.expect("a valid URL").channel());
        let described = client.describe(llm_dit_proto::v1::DescribeDiffusionRequest {}).await;
        let width = described.ok()?.into_inner().cap_feat_dim as usize;
        // As large as the type has them.
        let mut embeddings = tensor(&[8, width], 1);
        let values = vec![f32::MAX; 8 * width];
        embeddings = llm_dit_proto::Tensor::from_f32(
            &values,
            embeddings.shape().to_vec(),
            llm_dit_proto::DType::F32,
        )
        .unwrap_or(embeddings);
        let parts = request(GenerateParams::default(), &[(TensorRole::Embeddings, &embeddings)]);
        let answer = async {
            let mut events = client.generate(parts).await?.into_inner();
            while events.message().await?.is_some() {}
            Ok::<_, tonic::Status>(())
        };
        match answer.await {
            Ok(()) => None,
            Err(status) if status.code() == tonic::Code::InvalidArgument => None,
            Err(status) => Some(format!("embeddings of f32::MAX: {status}")),
        }
    })
    .await
}

/// Sends each body again and again, as a request and as a job; each must be refused with 4xx.
async fn refused(
    plan: &Plan,
    bodies: &[Value],
    grpc: impl AsyncFn(&Stack) -> Option<String>,
) -> Outcome {
    let mut stack = Stack::start(&Setup { diffusion: 2, ..Setup::default() });
    let honest = HonestClient::measured(&stack.gateway.url).await;
    stack.watch_memory();
    let client = crate::http();
    let attack = async {
        let mut broken = Vec::new();
        let mut statuses = BTreeMap::<u16, usize>::new();
        for _ in 0..plan.count(10, 3) {
            for path in ["/api/generate", "/api/jobs"] {
                let answers = join_all(bodies.iter().map(|body| async {
                    let url = format!("{}{path}", stack.gateway.url);
                    let answer = client.post(url).json(body).timeout(PATIENCE).send().await;
                    let answer = answer.map_err(|error| error.to_string())?;
                    let status = answer.status().as_u16();
                    let text = answer.text().await.unwrap_or_default();
                    Ok::<_, String>((status, text))
                }));
                for answer in answers.await {
                    match answer {
                        // A job may also be refused when its turn comes.
                        Ok((status @ (202 | 400..=499), _)) => {
                            *statuses.entry(status).or_default() += 1;
                        }
                        Ok((status, text)) => {
                            let text: String = text.chars().take(200).collect();
                            broken.push(format!("{path}: {status}: {text}"));
                        }
                        Err(why) => broken.push(why),
                    }
                }
            }
            broken.extend(grpc(&stack).await);
            let health = client.get(format!("{}/health", stack.gateway.url)).send().await;
            match health {
                Ok(answer) if answer.status().is_success() => {}
                Ok(answer) => broken.push(format!("/health: {}", answer.status())),
                Err(error) => broken.push(format!("/health: {error}")),
            }
        }
        (statuses, broken)
    };
    let ((statuses, broken), honest) = honest.beside(attack).await;
    let seen: Vec<_> =
        statuses.iter().map(|(status, count)| format!("{count} x {status}")).collect();
    let seen = seen.join(", ");
    Outcome { honest, memory: stack.memory(), seen, broken, ..Outcome::default() }
}
