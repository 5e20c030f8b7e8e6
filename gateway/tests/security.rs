//! Who may connect and who may ask: certificates, keys, pages of others, and time that is over.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use diffusion_service::ServiceLimits;
use gateway::{AccessOptions, EncoderTarget, GatewayOptions};
use http::StatusCode;
use llm_dit_fault::Fault;
use llm_dit_proto::v1::{
    Chat, DescribeEncoderRequest, EncodeRequest, GenerateParams, TensorRole,
    diffusion_client::DiffusionClient, encoder_client::EncoderClient,
};
use llm_dit_serving::{
    BoundListener, Credentials, Deadline, Remote, Security, client,
    connections::{Connections, Patience},
    security::{ClientTls, Key, Keys},
};
use llm_dit_testkit::{
    certificates::Authority,
    fakes::{Control, FakeGenerator, LASTING_SEED, Seen},
    http as plain_http,
    servers::{Server, fake_diffusion, fake_encoder},
    wire::{request, tensor},
};
use reqwest::{
    Client, Method,
    header::{AUTHORIZATION, COOKIE, HOST, HeaderMap, ORIGIN, SET_COOKIE, WWW_AUTHENTICATE},
};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const WIDTH: usize = 24;
const KEY: &str = "sesame-0123456789abcdef";

fn key() -> Key {
    Key::from(KEY.to_owned())
}

fn security(authority: &Authority, mutual: bool) -> Security {
    Security { tls: Some(authority.server(mutual)), keys: Some(Keys::only("alice", &key())) }
}

/// An encoder behind this security, as `https://localhost:PORT`.
async fn encoder(security: Security) -> (Server, String) {
    let (handle, jobs) = fake_encoder(WIDTH);
    // What it was asked does not matter here.
    std::mem::forget(jobs);
    let server = Server::start(|listener, stop| {
        encoder_service::run(
            BoundListener { security, ..BoundListener::from(listener) },
            handle,
            stop,
        )
    });
    let server = server.await;
    let url = server.url.replace("http://127.0.0.1", "https://localhost");
    (server, url)
}

async fn diffusion(security: Security) -> (Server, String, Control) {
    let (handle, control) =
        fake_diffusion(FakeGenerator::free(WIDTH), ServiceLimits::default(), None);
    let server = Server::start(|listener, stop| {
        diffusion_service::run(
            BoundListener { security, ..BoundListener::from(listener) },
            handle,
            stop,
        )
    });
    let server = server.await;
    let url = server.url.replace("http://127.0.0.1", "https://localhost");
    (server, url, control)
}

async fn describe(url: &str, credentials: &Credentials) -> Result<(), Fault> {
    let remote = Remote::new("encoder", url, credentials).expect("a URL");
    let answer = EncoderClient::new(remote.channel()).describe(DescribeEncoderRequest {}).await;
    answer.map(drop).map_err(|status| remote.fault(status))
}

#[tokio::test]
async fn encrypted_connections_must_bring_a_request_and_may_then_wait() {
    let authority = Authority::default();
    let security = security(&authority, false);
    let patience = Patience { first_request: Duration::from_millis(300), ..Default::default() };
    let connections = Connections::new(1).patience(patience);
    let (handle, _jobs) = fake_encoder(WIDTH);
    let server = Server::start(|listener, stop| {
        let bound = BoundListener { security, connections, ..BoundListener::from(listener) };
        encoder_service::run(bound, handle, stop)
    });
    let server = server.await;
    let url = server.url.replace("http://127.0.0.1", "https://localhost");
    let credentials = Credentials { tls: authority.client(None), key: Some(key()) };

    let silent = TcpStream::connect(&url["https://".len()..]).await.expect("accepts");
    silent.readable().await.expect("no error");
    let closed = silent.try_read(&mut [0]);
    assert!(!matches!(closed, Ok(1..)), "closed, and nothing was sent");

    let remote = Remote::new("encoder", &url, &credentials).expect("a URL");
    let ask =
        async || EncoderClient::new(remote.channel()).describe(DescribeEncoderRequest {}).await;
    ask().await.expect("there is room");
    tokio::time::sleep(patience.first_request * 2).await;
    assert!(describe(&url, &credentials).await.is_err(), "the place is taken");
    ask().await.expect("the same connection");
}

#[tokio::test]
async fn silent_connections_do_not_keep_others_from_the_gateway() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let patience = Patience { first_request: Duration::from_millis(100), ..Default::default() };
    let connections = Connections::new(1).patience(patience);
    let bound = BoundListener { connections, ..BoundListener::from(listener) };
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let options = GatewayOptions {
        encoders: vec![EncoderTarget::local("http://127.0.0.1:9")],
        diffusion: vec!["http://127.0.0.1:9".to_owned()],
        ..Default::default()
    };
    tokio::spawn(gateway::run(bound, options, stop));
    // Nothing, and the begin of what may become HTTP/2.
    for begin in [&b""[..], b"PRI * HT"] {
        let silent = TcpStream::connect(address).await.expect("accepts");
        silent.writable().await.expect("open");
        silent.try_write(begin).expect("open");
        silent.readable().await.expect("no error");
        assert!(!matches!(silent.try_read(&mut [0]), Ok(1..)), "closed, and nothing was sent");
    }
    let answer = plain_http().get(format!("http://{address}/openapi.json")).send().await;
    assert_eq!(answer.expect("there is room").status(), 200);
}

#[tokio::test]
async fn a_service_takes_those_whom_its_authority_knows_and_who_have_a_key() {
    let (ours, theirs) = (Authority::default(), Authority::default());
    let (_server, url) = encoder(security(&ours, true)).await;
    let known = || Some(ours.identity("gateway"));
    let good = Credentials { tls: ours.client(known()), key: Some(key()) };
    describe(&url, &good).await.expect("let in");

    for (tls, key, why) in [
        (ours.client(None), Some(key()), "a certificate is missing"),
        (ours.client(Some(theirs.identity("gateway"))), Some(key()), "of another authority"),
        (theirs.client(known()), Some(key()), "the server's is of another authority"),
        (ours.client(known()), None, "a key is missing"),
        (ours.client(known()), Some(Key::from("x".repeat(20))), "a wrong key"),
    ] {
        let fault = describe(&url, &Credentials { tls, key }).await.expect_err(why);
        assert!(matches!(&fault, Fault::Unavailable(_)), "{why}: {fault}");
        assert!(!fault.to_string().contains(KEY), "{fault}");
    }
    let plain = url.replace("https://localhost", "http://127.0.0.1");
    assert!(describe(&plain, &good).await.is_err(), "without encryption");
    // By another name than the certificate's.
    let other = url.replace("localhost", "127.0.0.1");
    assert!(describe(&other, &good).await.is_err());
    let remote = Remote::named("encoder", &other, "localhost", &good).expect("a URL");
    let answer = EncoderClient::new(remote.channel()).describe(DescribeEncoderRequest {}).await;
    answer.expect("an address, and the certificate's name");
}

#[tokio::test]
async fn without_a_key_a_service_says_only_how_it_is() {
    let keys = Security { keys: Some(Keys::only("alice", &key())), tls: None };
    let (server, _) = encoder(keys).await;
    let mut health = HealthClient::new(server.channel());
    let service = "llmdit.v1.Encoder".to_owned();
    health.check(HealthCheckRequest { service }).await.expect("open to all");

    let mut client = EncoderClient::new(server.channel());
    let status = client.describe(DescribeEncoderRequest {}).await.expect_err("no key");
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("Authorization: Bearer"), "{status}");
    let prompts = vec![Chat { user: "a fox".to_owned(), ..Chat::default() }];
    let request = EncodeRequest { prompts, ..EncodeRequest::default() };
    let status = client.encode(request).await.expect_err("no key");
    assert_eq!(status.code(), Code::Unauthenticated);
}

/// A gateway before services that want certificates and a key.
struct Secured {
    url: String,
    client: Client,
    control: Control,
    _services: [Server; 2],
    _stop: DropGuard,
}

async fn secured(security: Security, access: AccessOptions) -> Secured {
    let inside = Authority::default();
    let guarded =
        || Security { tls: Some(inside.server(true)), keys: Some(Keys::only("gateway", &key())) };
    let (encoder, encoder_url) = encoder(guarded()).await;
    let (diffusion, diffusion_url, control) = diffusion(guarded()).await;
    let tls = inside.client(Some(inside.identity("gateway")));
    let options = GatewayOptions {
        encoders: vec![EncoderTarget::local(encoder_url)],
        diffusion: vec![diffusion_url],
        credentials: Credentials { tls, key: Some(key()) },
        access,
        ..GatewayOptions::default()
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address: SocketAddr = listener.local_addr().expect("bound");
    let bound = BoundListener { security, ..BoundListener::from(listener) };
    let url = format!("{}://localhost:{}", bound.scheme(), address.port());
    let stop = CancellationToken::new();
    tokio::spawn(gateway::run(bound, options, stop.clone()));
    let client = plain_http();
    Secured { url, client, control, _services: [encoder, diffusion], _stop: stop.drop_guard() }
}

impl Secured {
    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> reqwest::Response {
        let mut request = self.client.request(method.clone(), format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if method == Method::POST {
            request = request.json(&json!({ "prompt": "a fox", "width": 64, "height": 64 }));
        }
        request.send().await.expect("an answer")
    }

    async fn session(&self, key: &str) -> reqwest::Response {
        let request = self.client.post(format!("{}/api/session", self.url));
        request.json(&json!({ "key": key })).send().await.expect("an answer")
    }
}

#[tokio::test]
async fn a_picture_comes_over_https_from_services_that_ask_for_certificates() {
    let outside = Authority::default();
    let mut secured = secured(security(&outside, false), AccessOptions::default()).await;
    let client = |tls: &ClientTls| {
        client::http(&secured.url, tls).expect("good certificates").build().expect("HTTP")
    };
    let stranger = client(&Authority::default().client(None));
    let refused = stranger.get(&secured.url).send().await;
    assert!(refused.is_err(), "a certificate of nobody we know");

    secured.client = client(&outside.client(None));
    let bearer = format!("Bearer {KEY}");
    let answer =
        secured.send(Method::POST, "/api/generate", &[(AUTHORIZATION.as_str(), &bearer)]).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.bytes().await.expect("a file").starts_with(b"\x89PNG"));

    let begun = secured.session(KEY).await;
    let cookie = begun.headers()[SET_COOKIE].to_str().expect("text");
    assert!(cookie.contains("; Secure"), "{cookie}");
}

#[tokio::test]
async fn without_a_key_a_gateway_shows_its_page_and_how_it_is() {
    let keys = Security { keys: Some(Keys::only("alice", &key())), tls: None };
    let secured = secured(keys, AccessOptions::default()).await;
    for path in ["/", "/app.js"] {
        assert_eq!(secured.send(Method::GET, path, &[]).await.status(), StatusCode::OK, "{path}");
    }
    let health: Value = secured.send(Method::GET, "/health", &[]).await.json().await.expect("JSON");
    assert_eq!(health, json!({"status": "ok"}), "nothing else");

    let bearer = format!("Bearer {KEY}");
    let full = secured.send(Method::GET, "/health", &[(AUTHORIZATION.as_str(), &bearer)]).await;
    let full: Value = full.json().await.expect("JSON");
    assert_eq!(full["diffusion"][0]["status"], "serving");

    for (method, path) in [
        (Method::POST, "/api/generate"),
        (Method::POST, "/api/jobs"),
        (Method::GET, "/api/jobs"),
        (Method::GET, "/api/history"),
        (Method::GET, "/api/model"),
        (Method::GET, "/openapi.json"),
        (Method::GET, "/metrics"),
        (Method::GET, "/nowhere"),
        (Method::POST, "/v1/images/generations"),
    ] {
        for wrong in [&[][..], &[(AUTHORIZATION.as_str(), "Bearer 0123456789abcdef0123")]] {
            let answer = secured.send(method.clone(), path, wrong).await;
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
            assert_eq!(answer.headers()[WWW_AUTHENTICATE], "Bearer");
            let problem: Value = answer.json().await.expect("JSON");
            assert!(
                problem["detail"].as_str().is_some_and(|text| text.contains("key")),
                "{problem}"
            );
            assert_eq!(problem["error"].is_object(), path.starts_with("/v1/"), "{problem}");
        }
    }
    let list = secured.send(Method::GET, "/v1/models", &[(AUTHORIZATION.as_str(), &bearer)]).await;
    assert_eq!(list.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_browser_gets_a_cookie_for_a_key() {
    let keys = Security { keys: Some(Keys::only("alice", &key())), tls: None };
    let secured = secured(keys, AccessOptions::default()).await;
    let wrong = secured.session("sesame-0123456789abcdee").await;
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    assert!(!wrong.headers().contains_key(SET_COOKIE));

    let begun = secured.session(KEY).await;
    assert_eq!(begun.status(), StatusCode::NO_CONTENT);
    let set = begun.headers()[SET_COOKIE].to_str().expect("text").to_owned();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(set.contains(part), "{set}");
    }
    assert!(!set.contains(KEY), "{set}");
    let cookie = set.split(';').next().expect("name and value");
    let with = secured.send(Method::GET, "/api/jobs", &[(COOKIE.as_str(), cookie)]).await;
    assert_eq!(with.status(), StatusCode::OK);
    let forged = format!("{}0", &cookie[..cookie.len() - 1]);
    let forged = if forged == cookie { cookie.replace('0', "1") } else { forged };
    let without = secured.send(Method::GET, "/api/jobs", &[(COOKIE.as_str(), &forged)]).await;
    assert_eq!(without.status(), StatusCode::UNAUTHORIZED);
    // Ended, it is not accepted any more, whoever kept it; others are.
    let other = secured.session(KEY).await;
    let other = other.headers()[SET_COOKIE].to_str().expect("text").to_owned();
    let other = other.split(';').next().expect("name and value");
    let ended = secured.send(Method::DELETE, "/api/session", &[(COOKIE.as_str(), cookie)]).await;
    assert!(ended.headers()[SET_COOKIE].to_str().expect("text").contains("Max-Age=0"));
    for (cookie, expected) in [(cookie, StatusCode::UNAUTHORIZED), (other, StatusCode::OK)] {
        let answer = secured.send(Method::GET, "/api/jobs", &[(COOKIE.as_str(), cookie)]).await;
        assert_eq!(answer.status(), expected);
    }
}

#[tokio::test]
async fn names_that_a_page_could_bring_here_get_no_answer() {
    let access =
        AccessOptions { allowed_hosts: vec!["gpu.example.org".into()], ..Default::default() };
    let open = secured(Security::default(), access).await;
    for (host, expected) in [
        ("127.0.0.1:7860", StatusCode::OK),
        ("gpu.example.org:7860", StatusCode::OK),
        ("evil.example", StatusCode::FORBIDDEN),
    ] {
        for path in ["/", "/health", "/api/model", "/v1/models", "/metrics"] {
            let answer = open.send(Method::GET, path, &[(HOST.as_str(), host)]).await;
            assert_eq!(answer.status(), expected, "{path} of {host}");
        }
    }
    let answer = open.send(Method::GET, "/api/model", &[(HOST.as_str(), "evil.example")]).await;
    let said = answer.text().await.expect("a problem");
    assert!(said.contains("--allowed-host evil.example"), "{said}");
    // Who has to show a key or a certificate is no page.
    let keys = Some(Keys::only("alice", &key()));
    let closed = secured(Security { keys, ..Security::default() }, AccessOptions::default()).await;
    let answer = closed.send(Method::GET, "/health", &[(HOST.as_str(), "evil.example")]).await;
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn pages_of_others_may_not_ask_unless_they_are_named() {
    let access = AccessOptions {
        cors_origins: vec!["https://studio.example".parse().expect("a value")],
        ..AccessOptions::default()
    };
    let closed = secured(Security::default(), AccessOptions::default()).await;
    let open = secured(Security::default(), access).await;
    let headers = |answer: &reqwest::Response| -> HeaderMap { answer.headers().clone() };
    let evil = [(ORIGIN.as_str(), "https://evil.example")];
    let studio = [(ORIGIN.as_str(), "https://studio.example")];
    for (gateway, origin, allowed) in [
        (&closed, evil, false),
        (&closed, studio, false),
        (&open, evil, false),
        (&open, studio, true),
    ] {
        let answer = gateway.send(Method::POST, "/api/generate", &origin).await;
        let expected = if allowed { StatusCode::OK } else { StatusCode::FORBIDDEN };
        assert_eq!(answer.status(), expected, "{origin:?}");
        let answer = gateway.send(Method::GET, "/api/model", &origin).await;
        let shared = headers(&answer).contains_key("access-control-allow-origin");
        assert_eq!(shared, allowed, "{origin:?}");
    }
    let preflight = [
        studio[0],
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type,authorization"),
    ];
    let answer = open.send(Method::OPTIONS, "/api/generate", &preflight).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["access-control-allow-origin"], "https://studio.example");
    // Its own page, also through a proxy that keeps the host's name.
    let host = closed.url.trim_start_matches("http://").to_owned();
    let own = [(ORIGIN.as_str(), closed.url.as_str()), (HOST.as_str(), host.as_str())];
    assert_eq!(closed.send(Method::POST, "/api/generate", &own).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_request_whose_time_is_over_gets_504_and_its_work_stops() {
    let timeout = Some(Duration::from_millis(300));
    let access = AccessOptions { request_timeout: timeout, ..AccessOptions::default() };
    let mut secured = secured(Security::default(), access).await;
    let body = json!({ "prompt": "a fox", "width": 64, "height": 64, "seed": LASTING_SEED });
    let request = secured.client.post(format!("{}/api/generate", secured.url)).json(&body);
    let slow = request.send().await.expect("an answer");
    assert_eq!(slow.status(), StatusCode::GATEWAY_TIMEOUT);
    while !matches!(secured.control.seen().await, Seen::Stopped { .. }) {}

    for wrong in ["0", "soon"] {
        let answer =
            secured.send(Method::POST, "/api/generate", &[("x-request-timeout", wrong)]).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{wrong}");
    }
}

/// A service feels the deadline of a call by itself, in the queue and at work.
#[tokio::test]
async fn a_service_ends_calls_whose_deadline_is_over() {
    let (server, _, mut control) = diffusion(Security::default()).await;
    let generate = |seed: u64, timeout: Duration| {
        let mut client = DiffusionClient::new(server.channel());
        async move {
            let (width, height) = (Some(64), Some(64));
            let params = GenerateParams { width, height, seed: Some(seed), ..Default::default() };
            let embeddings = tensor(&[3, WIDTH], 0);
            let parts = request(params, &[(TensorRole::Embeddings, &embeddings)]);
            let asked = Deadline::after(timeout).request(parts);
            let mut events = client.generate(asked).await?.into_inner();
            while events.message().await?.is_some() {}
            Ok::<_, Status>(())
        }
    };
    let working = tokio::spawn(generate(LASTING_SEED, Duration::from_millis(400)));
    while control.seen().await != (Seen::Began { seed: LASTING_SEED }) {}
    // Waits behind the first, which would go on for ever.
    let waiting = generate(1, Duration::from_millis(50)).await.expect_err("over");
    assert_eq!(waiting.code(), Code::DeadlineExceeded, "{waiting}");
    let working = working.await.expect("no panic").expect_err("over");
    assert_eq!(working.code(), Code::DeadlineExceeded, "{working}");
    while !matches!(control.seen().await, Seen::Stopped { .. }) {}
}
