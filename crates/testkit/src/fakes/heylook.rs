//! A heylookitsanllm server that knows the recorded exchanges, what a test adds and which models it
//! has, and nothing else. What it does not know it refuses, and the test fails in the end.

use std::{
    collections::{HashMap, VecDeque},
    fs,
    net::Ipv4Addr,
    sync::Arc,
    thread,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use llm_dit_proto::Tensor;
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};

use super::http;
pub use super::http::Request;

use crate::repository;

/// The models of the tests.
const MODELS: &str =
    r#"{"data":[{"id":"Qwen3-4B-mlx"},{"id":"Qwen3-4B"},{"id":"qwen3-tiny-f32"}]}"#;

/// What the server does with a request that it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Sends these bytes: head and body.
    Bytes(Vec<u8>),
    /// Sends these bytes and closes the connection in the middle of them.
    Cut(Vec<u8>),
    /// Waits for [`FakeHeylook::release`] first.
    Held(Vec<u8>),
}

#[derive(Debug)]
pub struct FakeHeylook {
    pub url: String,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    key: Option<String>,
    /// The last reply to a request stays.
    replies: Mutex<HashMap<Known, VecDeque<Reply>>>,
    seen: Mutex<Seen>,
    releases: Semaphore,
}

/// What tells requests apart.
type Known = (String, Vec<u8>);

#[derive(Debug, Default)]
struct Seen {
    requests: Vec<Request>,
    surprises: Vec<String>,
    in_flight: usize,
    most_in_flight: usize,
}

impl FakeHeylook {
    /// Knows the recorded exchanges of these names.
    pub async fn replaying(names: &[&str]) -> Self {
        Self::start(names, None).await
    }

    /// Wants a key and answers as the recorded server did to who has none or another.
    pub async fn with_key(key: &str, names: &[&str]) -> Self {
        Self::start(names, Some(key.to_owned())).await
    }

    async fn start(names: &[&str], key: Option<String>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let state = Arc::new(State {
            key,
            replies: Mutex::default(),
            seen: Mutex::default(),
            releases: Semaphore::new(0),
        });
        let task = tokio::spawn(serve(listener, Arc::clone(&state)));
        let fake = Self { url, state, task };
        for name in names {
            let request = recorded_request(name);
            fake.add(&request.line, &request.body, Reply::Bytes(recorded_response(name)));
        }
        fake
    }

    /// Adds a reply to `POST /v1/hidden_states` with this body. Several are given in turn.
    pub fn answer(&self, body: &str, reply: Reply) {
        self.add("POST /v1/hidden_states", body.as_bytes(), reply);
    }

    /// Adds a reply to any request, which `line` begins as "GET /v1/models" does.
    pub fn add(&self, line: &str, body: &[u8], reply: Reply) {
        let known = (line.to_owned(), body.to_vec());
        self.state.replies.lock().entry(known).or_default().push_back(reply);
    }

    /// Lets one held reply go.
    pub fn release(&self) {
        self.state.releases.add_permits(1);
    }

    /// Every request so far, without those that only asked for the models.
    pub fn requests(&self) -> Vec<Request> {
        self.state.seen.lock().requests.clone()
    }

    /// The most requests that were here at the same time.
    pub fn most_in_flight(&self) -> usize {
        self.state.seen.lock().most_in_flight
    }
}

impl Drop for FakeHeylook {
    fn drop(&mut self) {
        self.task.abort();
        let surprises = std::mem::take(&mut self.state.seen.lock().surprises);
        if !thread::panicking() {
            assert!(
                surprises.is_empty(),
                "requests that no server was recorded with: {surprises:#?}"
            );
        }
    }
}

/// The body that the client sends for this text.
pub fn body(input: &str, model: &str, layer: i64, max_length: u32) -> String {
    let (input, model) = (serde_json::Value::from(input), serde_json::Value::from(model));
    format!(
        r#"{{"input":{input},"model":{model},"layer":{layer},"max_length":{max_length},"encoding_format":"base64"}}"#
    )
}

/// The body of an answer that holds this tensor, as a model in f32 gives it.
pub fn hidden_states(tensor: &Tensor, model: &str, layer: i64) -> String {
    let values = tensor.to_f32().into_iter().flat_map(f32::to_le_bytes).collect::<Vec<_>>();
    let (states, shape) = (STANDARD.encode(values), tensor.shape());
    let model = serde_json::Value::from(model);
    format!(
        r#"{{"hidden_states":"{states}","shape":{shape:?},"model":{model},"layer":{layer},"dtype":"mlx.core.float32","encoding_format":"base64"}}"#
    )
}

/// A response with these headers, one a line.
pub fn response(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}").into_bytes()
}

/// A recorded response, as it came over the wire.
pub fn recorded_response(name: &str) -> Vec<u8> {
    recorded(name, "response")
}

/// A recorded request.
pub fn recorded_request(name: &str) -> Request {
    let text = String::from_utf8(recorded(name, "request")).expect("text");
    let (head, body) = text.split_once("\n\n").expect("a head and a body");
    let mut head = head.lines();
    let line = head.next().expect("method and path").to_owned();
    let body = body.trim_end_matches('\n').as_bytes().to_vec();
    let headers = head.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    Request { line, headers, body }
}

fn recorded(name: &str, part: &str) -> Vec<u8> {
    let path = repository(&format!("tests/captures/heylook/{name}.{part}.txt"));
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    // They end with this task, as those of a program do.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(connection(stream, Arc::clone(&state)));
    }
}

/// Answers one request after the other until somebody closes.
async fn connection(mut stream: TcpStream, state: Arc<State>) {
    while let Some(request) = http::read(&mut stream).await {
        let reply = state.arrive(request);
        let more = match reply {
            Reply::Bytes(bytes) => http::write(&mut stream, &bytes).await,
            Reply::Cut(bytes) => {
                http::write(&mut stream, &bytes[..bytes.len() / 2]).await;
                false
            }
            Reply::Held(bytes) => {
                state.releases.acquire().await.expect("never closed").forget();
                http::write(&mut stream, &bytes).await
            }
        };
        state.seen.lock().in_flight -= 1;
        if !more {
            return;
        }
    }
}

impl State {
    /// The answer to who only asks what the server is, unless a test has one for that.
    fn about(&self, request: &Request) -> Option<Reply> {
        let known = (request.line.clone(), request.body.clone());
        if self.replies.lock().contains_key(&known) {
            return None;
        }
        let reply = match &*request.line {
            "GET /v1/models" => response("200 OK", "", MODELS),
            "GET /v1/capabilities" => response("404 Not Found", "", "{}"),
            _ => return None,
        };
        Some(Reply::Bytes(reply))
    }

    fn arrive(&self, request: Request) -> Reply {
        let mut seen = self.seen.lock();
        seen.in_flight += 1;
        if let Some(about) = self.about(&request) {
            return about;
        }
        seen.most_in_flight = seen.most_in_flight.max(seen.in_flight);
        seen.requests.push(request.clone());
        let Request { line, headers, body } = request;
        let wanted = self.key.as_ref().map(|key| format!("Bearer {key}"));
        let sent = headers.get("authorization");
        let posts = line.starts_with("POST");
        match (&wanted, sent) {
            // What lists models is never gated.
            (Some(wanted), sent) if posts && sent != Some(wanted) => {
                let name = if sent.is_none() { "auth_none" } else { "auth_wrong" };
                return Reply::Bytes(recorded_response(name));
            }
            (None, Some(_)) => seen.surprises.push("a key that nobody asked for".to_owned()),
            (Some(_), _) | (None, None) => {}
        }
        if posts && headers.get("content-type").is_none_or(|t| t != "application/json") {
            seen.surprises.push(format!("content-type {:?}", headers.get("content-type")));
        }
        let mut replies = self.replies.lock();
        match replies.get_mut(&(line.clone(), body.clone())) {
            Some(replies) if replies.len() > 1 => replies.pop_front(),
            Some(replies) => replies.front().cloned(),
            None => None,
        }
        .unwrap_or_else(|| {
            seen.surprises.push(format!("{line} {}", String::from_utf8_lossy(&body)));
            Reply::Bytes(response("418 I'm a teapot", "", "this exchange was not recorded"))
        })
    }
}
