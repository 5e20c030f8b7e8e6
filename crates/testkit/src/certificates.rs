//! An authority, and certificates that it has signed.

use std::{fs, path::PathBuf};

use llm_dit_serving::security::{ClientTls, Identity, ServerTls};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// Knows only itself.
#[derive(Debug)]
pub struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Default for Authority {
    fn default() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signed");
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("written");
        Self { folder, issuer: Issuer::new(params, key) }
    }
}

impl Authority {
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Of somebody who is called by this name.
    pub fn identity(&self, host: &str) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([host.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let [cert, private] = ["cert.pem", "key.pem"].map(|name| self.folder.path().join(name));
        fs::write(&cert, certificate.pem()).expect("written");
        fs::write(&private, key.serialize_pem()).expect("written");
        Identity::from_files(&cert, &private).expect("they belong together")
    }

    /// A port that is called `localhost`; with `mutual` it asks for certificates of this authority.
    pub fn server(&self, mutual: bool) -> ServerTls {
        let ca = self.path();
        let identity = self.identity("localhost");
        ServerTls::new(identity, mutual.then_some(ca.as_path())).expect("good certificates")
    }

    /// Somebody who trusts this authority alone.
    pub fn client(&self, identity: Option<Identity>) -> ClientTls {
        ClientTls::new(Some(&self.path()), identity).expect("good certificates")
    }
}
