//! A hub, a cache and a client for one test.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use llm_dit_hub::{Cache, Client, HubError, Pulled, Retry, Silent, pull};
use llm_dit_serving::security::Key;
use llm_dit_testkit::fakes::hub::{FakeHub, etag};
use tempfile::TempDir;

pub const LARGE: &str = "transformer/diffusion_pytorch_model.safetensors";

pub struct Room {
    pub hub: FakeHub,
    pub folder: TempDir,
}

/// Bytes that do not repeat, so that a shifted range is another content.
pub fn large() -> Bytes {
    (0..300_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

impl Room {
    pub async fn new() -> Self {
        let hub = FakeHub::start(&[
            ("model_index.json", Bytes::from_static(b"{}")),
            ("tokenizer/tokenizer.json", Bytes::from_static(b"{\"version\": 1}")),
            (LARGE, large()),
            ("transformer/config.json", Bytes::from_static(b"{}")),
            ("assets/empty", Bytes::new()),
        ])
        .await;
        Self { hub, folder: tempfile::tempdir().expect("a folder") }
    }

    pub fn cache(&self) -> Cache {
        Cache::new(self.folder.path().join("hub"))
    }

    pub fn client(&self, token: Option<&str>) -> Client {
        let retry = Retry { attempts: 3, pause: Duration::ZERO, ..Retry::default() };
        let token = token.map(|token| Key::from(token.to_owned()));
        Client::new(&self.hub.url(), token.as_ref(), retry).expect("a client")
    }

    pub async fn pull(&self, files: &[&str]) -> Result<Pulled, HubError> {
        self.pull_as(None, "nobody/model", files).await
    }

    pub async fn pull_as(
        &self,
        token: Option<&str>,
        spec: &str,
        files: &[&str],
    ) -> Result<Pulled, HubError> {
        let files: Vec<String> = files.iter().map(|file| (*file).to_owned()).collect();
        let spec = spec.parse().expect("a repository");
        pull(&self.client(token), &self.cache(), &spec, &files, &Silent).await
    }

    pub fn repo(&self) -> PathBuf {
        self.folder.path().join("hub/models--nobody--model")
    }

    /// Where an interrupted download of the large file is.
    pub fn incomplete(&self) -> PathBuf {
        self.repo().join("blobs").join(format!("{}.incomplete", etag(&large())))
    }

    /// Every file below the repository's folder, and whether it can be read.
    pub fn files(&self) -> Vec<String> {
        let mut names = Vec::new();
        collect(&self.repo(), "", &mut names);
        names.sort();
        names
    }

    /// Nothing that somebody could take for the large file is there.
    pub fn nothing_visible(&self) {
        let seen = self.files();
        let visible = |name: &&String| name.ends_with(LARGE) || name.starts_with("refs/");
        assert_eq!(seen.iter().find(visible), None, "{seen:?}");
        assert!(!self.repo().join("blobs").join(etag(&large())).exists(), "{seen:?}");
    }

    /// The large file is whole, and nothing is left of how it came.
    pub fn all_right(&self, pulled: &Pulled) {
        let path = pulled.path.join(LARGE);
        assert_eq!(fs::read(&path).expect("there"), large());
        assert_eq!(
            fs::read_link(
                path.parent().expect("a folder").join("diffusion_pytorch_model.safetensors")
            )
            .expect("a link"),
            Path::new("../../../blobs").join(etag(&large()))
        );
        let seen = self.files();
        assert!(!seen.iter().any(|name| name.ends_with(".incomplete")), "{seen:?}");
    }
}

fn collect(folder: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.expect("readable");
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().expect("known").is_dir() {
            collect(&entry.path(), &format!("{name}/"), names);
        } else {
            names.push(name);
        }
    }
}
