//! A Hugging Face hub: a list of files, their metadata, and their content, large ones on a host of
//! their own. It can be told to break in the ways that networks and hubs do.

mod trick;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
};

pub use self::trick::Trick;
use super::http::{self, Request};

/// Files of so many bytes are those of Git LFS.
const LFS: usize = 1000;
/// What a revision means until it is changed.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

impl From<Bytes> for File {
    fn from(content: Bytes) -> Self {
        Self { etag: etag(&content), content }
    }
}

/// A hub on loopback, with one repository of the name that is asked for.
#[derive(Clone)]
pub struct FakeHub {
    state: Arc<State>,
    address: SocketAddr,
    /// The other host, which has the large files.
    store: SocketAddr,
}

struct State {
    inner: Mutex<Inner>,
    /// A body that stalls goes on.
    go_on: Notify,
}

struct Inner {
    commit: String,
    files: BTreeMap<String, File>,
    /// Names in the list beside those of the files.
    listed: Vec<String>,
    has_blobs: bool,
    token: Option<String>,
    gated: bool,
    tricks: BTreeMap<String, VecDeque<Trick>>,
    seen: Vec<Seen>,
}

/// A content and its name, which takes time to compute.
#[derive(Clone)]
struct File {
    content: Bytes,
    etag: String,
}

/// A request that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whether it came to the host of the large files.
    pub at_store: bool,
    /// Method and path, without a query.
    pub line: String,
    pub authorization: Option<String>,
    pub range: Option<String>,
    pub if_range: Option<String>,
}

impl FakeHub {
    /// A hub with these files. It serves for as long as the runtime runs.
    ///
    /// # Panics
    /// When this machine has no loopback.
    pub async fn start(files: &[(&str, Bytes)]) -> Self {
        let hub = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let store = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone().into()));
        let state = State {
            inner: Mutex::new(Inner {
                commit: COMMIT.to_owned(),
                files: files.collect(),
                listed: Vec::new(),
                has_blobs: true,
                token: None,
                gated: false,
                tricks: BTreeMap::new(),
                seen: Vec::new(),
            }),
            go_on: Notify::new(),
        };
        let addresses = [&hub, &store].map(|listener| listener.local_addr().expect("bound"));
        let [address, store_address] = addresses;
        let fake = Self { state: Arc::new(state), address, store: store_address };
        for (listener, at_store) in [(hub, false), (store, true)] {
            tokio::spawn(fake.clone().serve(listener, at_store));
        }
        fake
    }

    /// For `HF_ENDPOINT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where a large file is, for other clients.
    pub fn store_url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.store)
    }

    /// The next requests for the content of this file meet these, one each. For `""`, those for the
    /// list of files do; for `HEAD NAME`, those for the file's metadata.
    pub fn trick(&self, name: &str, tricks: impl IntoIterator<Item = Trick>) {
        let mut inner = self.state.inner.lock();
        inner.tricks.entry(name.to_owned()).or_default().extend(tricks);
    }

    /// Everything needs this token.
    pub fn require(&self, token: &str) {
        self.state.inner.lock().token = Some(token.to_owned());
    }

    /// The licence has not been accepted, whoever asks.
    pub fn gate(&self) {
        self.state.inner.lock().gated = true;
    }

    /// Lists this name too, whatever it is.
    pub fn list(&self, name: &str) {
        self.state.inner.lock().listed.push(name.to_owned());
    }

    /// A mirror that lists names alone.
    pub fn without_blobs(&self) {
        self.state.inner.lock().has_blobs = false;
    }

    /// A new commit, in which a file has another content.
    pub fn commit(&self, commit: &str, name: &str, content: Bytes) {
        let mut inner = self.state.inner.lock();
        inner.commit = commit.to_owned();
        inner.files.insert(name.to_owned(), content.into());
    }

    /// Lets bodies go on that stall.
    pub fn go_on(&self) {
        self.state.go_on.notify_waiters();
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.inner.lock().seen.clone()
    }

    /// Requests for the content of a file, wherever it is.
    pub fn gets(&self, name: &str) -> Vec<Seen> {
        let content = |seen: &Seen| {
            let at_hub = seen.line.starts_with("GET /") && seen.line.contains("/resolve/");
            (seen.at_store || at_hub) && seen.line.ends_with(name)
        };
        self.seen().into_iter().filter(content).collect()
    }

    async fn serve(self, listener: TcpListener, at_store: bool) {
        while let Ok((stream, _)) = listener.accept().await {
            let fake = self.clone();
            tokio::spawn(async move { fake.converse(stream, at_store).await });
        }
    }

    async fn converse(&self, mut stream: TcpStream, at_store: bool) {
        while let Some(request) = http::read(&mut stream).await {
            let (method, target) = request.line.split_once(' ').unwrap_or_default();
            let path = target.split('?').next().unwrap_or_default();
            let text = |name: &str| request.headers.get(name).cloned();
            self.state.inner.lock().seen.push(Seen {
                at_store,
                line: format!("{method} {path}"),
                authorization: text("authorization"),
                range: text("range"),
                if_range: text("if-range"),
            });
            let goes_on = match at_store {
                true => self.content(&mut stream, &request, &path[1..]).await,
                false => self.answer(&mut stream, &request, method, path).await,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// The hub itself.
    async fn answer(
        &self,
        stream: &mut TcpStream,
        request: &Request,
        method: &str,
        path: &str,
    ) -> bool {
        if let Some(refusal) = self.refusal(request) {
            return http::write(stream, refusal.as_bytes()).await;
        }
        if path.starts_with("/api/models/") {
            let reply = match self.next("") {
                Some(trick) => trick.reply(),
                None if path.ends_with("/revision/no-such") => {
                    head(404, &[("X-Error-Code", "RevisionNotFound"), ("Content-Length", "0")])
                }
                None => {
                    let body = self.info().to_string();
                    head(200, &[("Content-Length", &body.len().to_string())]) + &body
                }
            };
            return http::write(stream, reply.as_bytes()).await;
        }
        let name = path.split("/resolve/").nth(1).and_then(|rest| rest.split_once('/'));
        let name = name.map_or("", |(_, name)| name).to_owned();
        let Some(file) = self.state.inner.lock().files.get(&name).cloned() else {
            let missing = [("X-Error-Code", "EntryNotFound"), ("Content-Length", "0")];
            return http::write(stream, head(404, &missing).as_bytes()).await;
        };
        let large = file.content.len() >= LFS;
        if method == "HEAD" {
            if let Some(trick) = self.next(&format!("HEAD {name}")) {
                return http::write(stream, trick.reply().as_bytes()).await;
            }
            return http::write(stream, self.metadata(&name, &file, large).as_bytes()).await;
        }
        if large {
            return http::write(stream, self.metadata(&name, &file, true).as_bytes()).await;
        }
        self.content(stream, request, &name).await
    }

    fn refusal(&self, request: &Request) -> Option<String> {
        let inner = self.state.inner.lock();
        let shown = request.headers.get("authorization");
        let right = inner.token.as_ref().map(|token| format!("Bearer {token}"));
        if right.is_some() && shown != right.as_ref() {
            return Some(head(401, &[("Content-Length", "0")]));
        }
        let gated = [("X-Error-Code", "GatedRepo"), ("Content-Length", "0")];
        inner.gated.then(|| head(403, &gated))
    }

    fn info(&self) -> Value {
        let inner = self.state.inner.lock();
        let entry = |(name, file): (&String, &File)| {
            let (size, etag) = (file.content.len(), &file.etag);
            match (inner.has_blobs, size >= LFS) {
                (false, _) => json!({"rfilename": name}),
                (true, false) => json!({"rfilename": name, "size": size, "blobId": etag}),
                (true, true) => json!({
                    "rfilename": name, "size": size, "blobId": "0".repeat(40),
                    "lfs": {"sha256": etag, "size": size, "pointerSize": 134},
                }),
            }
        };
        let files = inner.files.iter().map(entry);
        let others = inner.listed.iter().map(|name| json!({"rfilename": name}));
        let siblings: Vec<Value> = files.chain(others).collect();
        json!({"id": "a/b", "sha": inner.commit, "private": false, "siblings": siblings})
    }

    fn metadata(&self, name: &str, file: &File, large: bool) -> String {
        let (etag, size) = (format!("\"{}\"", file.etag), file.content.len().to_string());
        let commit = self.state.inner.lock().commit.clone();
        let location = self.store_url(name);
        match large {
            true => head(
                302,
                &[
                    ("X-Repo-Commit", &commit),
                    ("X-Linked-ETag", &etag),
                    ("X-Linked-Size", &size),
                    ("ETag", "\"of-the-pointer\""),
                    ("Location", &location),
                    ("Content-Length", "0"),
                ],
            ),
            false => {
                head(200, &[("X-Repo-Commit", &commit), ("ETag", &etag), ("Content-Length", &size)])
            }
        }
    }

    /// The bytes, from wherever they are.
    async fn content(&self, stream: &mut TcpStream, request: &Request, name: &str) -> bool {
        let Some(file) = self.state.inner.lock().files.get(name).cloned() else {
            return http::write(stream, head(404, &[("Content-Length", "0")]).as_bytes()).await;
        };
        let trick = self.next(name).unwrap_or(Trick::None);
        trick.send(stream, request, &file.content, &self.state.go_on).await
    }

    fn next(&self, name: &str) -> Option<Trick> {
        self.state.inner.lock().tricks.get_mut(name)?.pop_front()
    }
}

/// The name of a content, as git and Git LFS have it.
pub fn etag(content: &[u8]) -> String {
    if content.len() >= LFS {
        return HEXLOWER.encode(digest(&SHA256, content).as_ref());
    }
    let blob = [format!("blob {}\0", content.len()).as_bytes(), content].concat();
    HEXLOWER.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &blob).as_ref())
}

/// A status and headers.
fn head(status: u16, headers: &[(&str, &str)]) -> String {
    let lines = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    format!("HTTP/1.1 {status} X\r\n{}\r\n", lines.collect::<String>())
}
