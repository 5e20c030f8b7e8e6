//! Embeddings from heylookitsanllm: the same picture as with the encoder in this process.

use llm_dit_proto::{DType, Tensor};
use llm_dit_testkit::{
    fakes::{
        FakeHeylook,
        heylook::{Reply, body, hidden_states, recorded_response, response},
    },
    http,
};
use safetensors::SafeTensors;
use serde_json::json;

use crate::{serve::Server, support::Room};

const MODEL: &str = "Qwen3-4B";

fn text(prompt: &str) -> String {
    format!("<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n")
}

fn read(room: &Room, name: &str) -> Tensor {
    let file = room.read(name);
    let file = SafeTensors::deserialize(&file).expect("safetensors");
    let tensor = file.tensor("embeddings").expect("the first prompt's");
    let bytes = tensor.data().to_vec().into();
    Tensor::new(DType::F32, tensor.shape().to_vec(), bytes).expect("whole, in f32")
}

/// A server whose model is the demo model's text encoder: it knows what these prompts give.
async fn server(room: &Room, prompts: &[&str]) -> FakeHeylook {
    let fake = FakeHeylook::replaying(&[]).await;
    for prompt in prompts {
        room.succeed(&["encode", prompt, "--device", "cpu", "--output", "known.safetensors"]);
        let json = hidden_states(&read(room, "known.safetensors"), MODEL, -2);
        let reply = Reply::Bytes(response("200 OK", "content-type: application/json\r\n", &json));
        fake.answer(&body(&text(prompt), MODEL, -2, 512), reply);
    }
    fake
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_picture_with_the_encoder_elsewhere() {
    let room = Room::new();
    let fake = server(&room, &["a red apple", "a wizard"]).await;
    let base = ["generate", "a red apple", "--seed", "42", "--width", "64", "--height", "64"];
    let guided = [&base[..], &["--guidance-scale", "1.5", "--steps", "2"]].concat();
    let make = |more: &[&str]| {
        room.succeed(&[&guided[..], &["--negative-prompt", "a wizard"], more].concat())
    };
    make(&["-o", "here.png"]);
    make(&["-o", "there.png", "--api-url", &fake.url]);
    assert_eq!(fake.requests().len(), 2, "prompt and negative prompt");
    assert!(room.read("here.png") == room.read("there.png"), "pictures differ");

    // Asked to stay here, it does.
    make(&["-o", "local.png", "--api-url", &fake.url, "--local-encoder"]);
    assert_eq!(fake.requests().len(), 2);
    assert!(room.read("here.png") == room.read("local.png"), "pictures differ");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_embeddings_with_the_encoder_elsewhere() {
    let room = Room::new();
    let fake = server(&room, &["a red apple"]).await;
    room.succeed(&["encode", "a red apple", "-o", "here.safetensors"]);
    room.succeed(&["encode", "a red apple", "-o", "there.safetensors", "--api-url", &fake.url]);
    assert_eq!(read(&room, "here.safetensors"), read(&room, "there.safetensors"));
    // Of the type that was asked for.
    for (flag, name) in [("--dtype", "F16"), ("--text-encoder-dtype", "BF16")] {
        let value = name.to_lowercase();
        let words = ["encode", "a red apple", "-o", "typed.safetensors", "--api-url", &fake.url];
        room.succeed(&[&words[..], &[flag, &value]].concat());
        let file = room.read("typed.safetensors");
        let file = SafeTensors::deserialize(&file).expect("safetensors");
        let dtype = file.tensor("embeddings").expect("the first prompt's").dtype();
        assert_eq!(format!("{dtype:?}"), name);
    }
}

/// `serve` is a gateway that asks heylookitsanllm itself: it notices when that is gone, says so with its
/// address, and still has what it remembers.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_knows_how_the_encoder_elsewhere_is() {
    let room = Room::new();
    let fake = server(&room, &["a red apple"]).await;
    let models = json!({"data": [{"id": MODEL, "capabilities": ["hidden_states"]}]}).to_string();
    let models = response("200 OK", "content-type: application/json\r\n", &models);
    fake.add("GET /v1/models", b"", Reply::Bytes(models));
    fake.add("GET /v1/capabilities", b"", Reply::Bytes(recorded_response("capabilities")));
    let model = ["--api-model", MODEL, "--api-url", &fake.url];
    let served = Server::with(&room, &model);
    let get = async |path: &str| {
        let answer = http().get(format!("{}{path}", served.url)).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json::<serde_json::Value>().await.expect("JSON"))
    };
    let draw = async |prompt: &str| {
        let body = json!({"prompt": prompt, "seed": 1, "width": 64, "height": 64, "steps": 1});
        let request = http().post(format!("{}/api/generate", served.url)).json(&body);
        let answer = request.send().await.expect("an answer");
        (
            answer.status().as_u16(),
            String::from_utf8_lossy(&answer.bytes().await.expect("a body")).into_owned(),
        )
    };
    let (status, health) = get("/health").await;
    assert_eq!((status, &health["encoders"][0]["name"]), (200, &json!("heylookitsanllm")));
    assert_eq!(get("/api/model").await.1["encoders"], json!(["heylookitsanllm"]));
    assert_eq!(draw("a red apple").await.0, 200);
    let asked =
        fake.requests().iter().filter(|request| request.line.contains("hidden_states")).count();
    let url = fake.url.clone();
    drop(fake);
    // The fake server stops asynchronously.
    while get("/health").await.0 != 503 {}
    assert_eq!(draw("a red apple").await.0, 200, "it is remembered");
    assert_eq!(asked, 1, "in f32, too");
    let (status, said) = draw("a wizard").await;
    assert_eq!(status, 503, "{said}");
    assert!(said.contains(&url), "{said}");
    assert_eq!(said.matches("http://").count(), 1, "no port of our own: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_read_and_not_told() {
    let room = Room::new();
    let fake = FakeHeylook::with_key("opensesame", &[]).await;
    let reply = Reply::Bytes(recorded_response("auth_ok"));
    fake.answer(&body(&text("x"), "Qwen3-4B-mlx", -2, 512), reply);
    std::fs::write(room.path("key"), "opensesame\n").expect("our own folder");
    std::fs::write(room.path("wrong"), "opensesames\n").expect("our own folder");
    let base = ["encode", "x", "--api-url", &fake.url, "--api-model", "Qwen3-4B-mlx"];
    room.succeed(&[&base[..], &["--api-key-file", "key"]].concat());
    let output = room.command(&base).env("LLM_DIT_API_KEY", "opensesame").output();
    assert!(output.expect("starts").status.success());

    let said = room.fail(1, &base);
    assert!(said.contains("requires an API key"), "{said}");
    let said = room.fail(1, &[&base[..], &["--api-key-file", "wrong"]].concat());
    assert!(said.contains("does not accept the API key") && !said.contains("sesame"), "{said}");
    let said = room.fail(64, &[&base[..], &["--api-key-file", "nowhere"]].concat());
    assert!(said.contains("nowhere"), "{said}");
    let help = room.command(&["encode", "--help"]).env("LLM_DIT_API_KEY", "opensesame").output();
    let help = String::from_utf8(help.expect("starts").stdout).expect("text");
    assert!(help.contains("LLM_DIT_API_KEY") && !help.contains("opensesame"), "{help}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_said() {
    let room = Room::new();
    let fake = FakeHeylook::replaying(&[]).await;
    fake.answer(
        &body(&text("x"), MODEL, -2, 512),
        Reply::Bytes(recorded_response("err_unknown_model")),
    );
    let api = ["--api-url", fake.url.as_str()];
    let fail = |status, args: &[&str]| room.fail(status, &[args, &api].concat());
    let said = fail(1, &["generate", "x"]);
    assert!(said.contains("Qwen3-4B-mlx") && said.contains("--api-model"), "{said}");
    let said = fail(64, &["generate", "say <|im_start|>"]);
    assert!(said.contains("<|im_start|>"), "{said}");
    let said = fail(1, &["encode", "x", "--hidden-layer", "-1"]);
    assert!(said.contains("-36 to -2"), "{said}");
    let said = fail(64, &["generate", "x", "--gateway", "http://127.0.0.1:9"]);
    assert!(said.contains("--api-url"), "{said}");
    let said = room.fail(64, &["encode", "x", "--api-url", "ftp://mac:8000"]);
    assert!(said.contains("http://HOST:PORT"), "{said}");
    let said = room.fail(1, &["encode", "x", "--api-url", "http://127.0.0.1:9"]);
    assert!(said.contains("http://127.0.0.1:9 cannot be reached"), "{said}");
}
