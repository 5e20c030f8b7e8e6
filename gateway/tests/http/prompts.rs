//! Prompts without pictures, and what can be chosen.

use gateway::KeepOptions;
use llm_dit_chat::Chat;
use llm_dit_testkit::servers::tokenizer;
use serde_json::{Value, json};

use crate::support::{Gateway, Stack, WIDTH, expected_embeddings, options, problem};

async fn post(gateway: &Gateway, path: &str, body: &Value) -> Value {
    let response = gateway.post_to(path, body).await;
    assert_eq!(response.status(), 200, "{path} {body}");
    response.json().await.expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_is_encoded_and_described() {
    let stack = Stack::start().await;
    let body = json!({"prompt": "a red apple", "system_prompt": "S"});
    let chat = Chat { system: "S".into(), ..Chat::user("a red apple") };
    let first = post(&stack.gateway, "/api/encode", &body).await;
    let tokens = tokenizer().count(&chat).expect("counts").total;
    assert_eq!(first["shape"], json!([tokens, WIDTH]));
    assert_eq!((&first["dtype"], &first["model"]), (&json!("f32"), &json!("fake-encoder")));
    assert_eq!((&first["encoder"], &first["hidden_layer"]), (&json!("local"), &json!(3)));
    assert_eq!(first["formatted_prompt"], chat.render());
    assert_eq!((&first["cached"], &first["truncated_tokens"]), (&json!(false), &json!(0)));
    assert_eq!(post(&stack.gateway, "/api/encode", &body).await["cached"], true);
    let long = json!({"prompt": "word ".repeat(100), "max_tokens": 20});
    let long = post(&stack.gateway, "/api/encode", &long).await;
    assert_eq!(long["shape"], json!([20, WIDTH]));
    assert!(long["truncated_tokens"].as_u64().expect("a number") > 0);
    for (body, words) in [
        (json!({"prompt": ""}), "empty"),
        (json!({"prompt": "x", "width": 256}), "unknown field 'width'"),
        (json!({"prompt": "x", "hidden_layer": 7}), "hidden_layer"),
        (json!({"prompt": "x", "template": "noirr"}), "did you mean 'noir'?"),
    ] {
        let detail = problem(stack.gateway.post_to("/api/encode", &body).await, 400).await;
        assert!(detail.contains(words), "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_is_shown_as_the_encoder_gets_it() {
    let mut stack = Stack::start().await;
    let body =
        json!({"prompt": "a \"red\" apple", "strip_quotes": true, "thinking_content": "warm"});
    let shown = post(&stack.gateway, "/api/format-prompt", &body).await;
    let chat = Chat { thinking: "warm".into(), ..Chat::user("a red apple") };
    assert_eq!(shown["formatted_prompt"], chat.render());
    assert_eq!(shown["char_count"], chat.render().chars().count());
    let counts = tokenizer().count(&chat).expect("counts");
    assert_eq!(shown["token_count"], counts.total);
    assert_eq!(shown["tokens"]["user"], counts.user);
    assert_eq!(shown["tokens"]["thinking"], counts.thinking);
    assert_eq!((&shown["prompt"], &shown["system_prompt"]), (&body["prompt"], &Value::Null));
    let template = json!({"prompt": "", "template": "noir"});
    let shown = post(&stack.gateway, "/api/format-prompt", &template).await;
    assert!(shown["formatted_prompt"].as_str().expect("text").starts_with("<|im_start|>system\n"));
    assert!(stack.jobs.try_recv().is_err(), "nothing is computed");
    // The text is to be had without any encoder.
    let Stack { encoder, gateway, .. } = stack;
    encoder.stop().await;
    let shown = post(&gateway, "/api/format-prompt", &json!({"prompt": "x"})).await;
    assert_eq!((&shown["token_count"], &shown["tokens"]), (&Value::Null, &Value::Null));
    assert_eq!(shown["formatted_prompt"], Chat::user("x").render());
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_are_kept_as_other_programs_read_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let Stack { encoder, diffusion, control: _control, .. } = Stack::start().await;
    let mut options = options(&[&encoder.url], &[&diffusion.url]);
    let embeddings_dir = Some(folder.path().join("deep").join("er"));
    options.keep = KeepOptions { embeddings_dir, ..Default::default() };
    let gateway = Gateway::with(options).await;
    let body = json!({"prompt": "a fox", "system_prompt": "S"});
    let saved = post(&gateway, "/api/save-embeddings", &body).await;
    let path = std::path::PathBuf::from(saved["path"].as_str().expect("a path"));
    let bytes = std::fs::read(&path).expect("a file");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensor = file.tensor("embeddings").expect("is there");
    let chat = Chat { system: "S".into(), ..Chat::user("a fox") };
    let expected = expected_embeddings(WIDTH, &chat);
    assert_eq!((tensor.shape(), tensor.data()), (expected.shape(), &expected.bytes()[..]));
    let about = std::fs::read(path.with_extension("json")).expect("a file");
    let about: Value = serde_json::from_slice(&about).expect("JSON");
    assert_eq!((&about["prompt"], &about["system_prompt"]), (&json!("a fox"), &json!("S")));
    assert_eq!(about["dtype"], "torch.float32");
    assert_eq!(about["encoder_device"], "cpu", "not where the gateway found it");
    assert_eq!(json!([about["sequence_length"], about["embedding_dim"]]), saved["shape"]);
    let again = post(&gateway, "/api/save-embeddings", &body).await;
    assert_eq!(again["path"], saved["path"], "the same is not kept twice");
    assert_eq!(std::fs::read_dir(path.parent().expect("a folder")).expect("a folder").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_chosen_is_listed() {
    let stack = Stack::start().await;
    let templates = stack.gateway.json("/api/templates").await;
    let templates = templates["templates"].as_array().expect("an array");
    assert_eq!(templates.len(), 144);
    let noir = templates.iter().find(|t| t["name"] == "noir").expect("shipped");
    assert_eq!((&noir["full_name"], &noir["category"]), (&json!("z_image_noir"), &json!("style")));
    assert!(noir["has_thinking"].as_bool().expect("a boolean"));
    let schedulers = stack.gateway.json("/api/schedulers").await;
    let ids: Vec<&str> = schedulers["schedulers"]
        .as_array()
        .expect("an array")
        .iter()
        .map(|s| s["id"].as_str().expect("text"))
        .collect();
    assert_eq!(ids, ["flow_euler", "flow_heun", "dpm_solver", "unipc"]);
    let model = stack.gateway.json("/api/model").await;
    assert_eq!((&model["model"], &model["defaults"]["steps"]), (&json!("fake-dit"), &json!(3)));
    assert_eq!(model["description"], "A fake.");
    assert_eq!(model["examples"], json!(["a fake apple"]));
    assert_eq!(
        (&model["limits"]["side_multiple"], &model["encoders"]),
        (&json!(16), &json!(["local"]))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_has_every_endpoint() {
    let stack = Stack::start().await;
    let document = stack.gateway.json("/openapi.json").await;
    let paths = document["paths"].as_object().expect("paths");
    let page = std::fs::read_to_string(llm_dit_testkit::repository("docs/api/web_server_api.md"));
    let page = page.expect("docs");
    for (path, methods) in paths {
        let tail = path.rsplit('/').next().expect("a path");
        assert!(page.contains(path) || page.contains(&format!("/{tail}")), "{path} is not in docs");
        for (method, operation) in methods.as_object().expect("methods") {
            assert!(operation["summary"].is_string(), "{method} {path}");
            assert!(operation["responses"].as_object().expect("responses").len() >= 2);
        }
    }
    assert_eq!(paths.len(), 27);
}
