//! Certificates: those that a port presents and requires, and those that a client presents and
//! trusts. All are PEM, and are checked when a program starts, so that the error names the wrong
//! file.

use std::{fmt, io, path::Path, sync::Arc};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tonic::transport::{Certificate, ClientTlsConfig, ServerTlsConfig};

use super::{SecurityError, read};

/// A client that does not finish the handshake by then is gone.
const HANDSHAKE: std::time::Duration = std::time::Duration::from_secs(10);

/// A certificate, with those between it and its authority, and its private key.
#[derive(Clone)]
pub struct Identity {
    certificate: String,
    key: String,
    certified: Arc<CertifiedKey>,
}

/// How a port speaks TLS.
#[derive(Clone, Debug)]
pub struct ServerTls {
    config: Arc<rustls::ServerConfig>,
    identity: Identity,
    client_ca: Option<String>,
}

/// How we call those at `https://`.
#[derive(Clone, Default)]
pub struct ClientTls {
    /// PEM of the authority that must have signed the servers' certificates; `None`: the
    /// authorities that this system trusts.
    ca: Option<String>,
    /// What we show when they ask.
    identity: Option<Identity>,
}

/// Chooses who does the arithmetic of encryption, once for all libraries in this process.
pub fn install_provider() {
    // An error means that it was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl Identity {
    /// Reads a certificate chain and its private key, both PEM, and checks that they match.
    ///
    /// # Errors
    ///
    /// [`SecurityError`] if a file cannot be read, or if the two do not match.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, SecurityError> {
        install_provider();
        let texts = (read(certificate)?, read(key)?);
        let chain = certificates(&texts.0, certificate)?;
        let private = PrivateKeyDer::from_pem_slice(texts.1.as_bytes())
            .map_err(|error| unusable(key, &error))?;
        let provider = rustls::crypto::ring::default_provider();
        let certified = CertifiedKey::from_der(chain, private, &provider)
            .map_err(|error| unusable(certificate, &error))?;
        let [certificate, key] = [texts.0, texts.1];
        Ok(Self { certificate, key, certified: Arc::new(certified) })
    }

    /// Both as one PEM text.
    pub fn to_pem(&self) -> String {
        format!("{}\n{}", self.key, self.certificate)
    }

    fn tonic(&self) -> tonic::transport::Identity {
        tonic::transport::Identity::from_pem(&self.certificate, &self.key)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(hidden)")
    }
}

impl ServerTls {
    /// A server that presents `identity`. With `client_ca`, clients must present a certificate that
    /// this authority signed.
    ///
    /// # Errors
    ///
    /// [`SecurityError`] if the authority's file cannot be read or used.
    pub fn new(identity: Identity, client_ca: Option<&Path>) -> Result<Self, SecurityError> {
        install_provider();
        let builder = rustls::ServerConfig::builder();
        let (builder, client_ca) = match client_ca {
            None => (builder.with_no_client_auth(), None),
            Some(path) => {
                let (text, roots) = authority(path)?;
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
                let verifier = verifier.map_err(|error| unusable(path, &error))?;
                (builder.with_client_cert_verifier(verifier), Some(text))
            }
        };
        let resolver = SingleCertAndKey::from(Arc::clone(&identity.certified));
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), identity, client_ca })
    }

    /// For a server of HTTP/1.1 and HTTP/2.
    pub fn http(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.config)
    }

    /// For a server of gRPC.
    pub fn grpc(&self) -> ServerTlsConfig {
        let config = ServerTlsConfig::new().identity(self.identity.tonic()).timeout(HANDSHAKE);
        match &self.client_ca {
            Some(ca) => config.client_ca_root(Certificate::from_pem(ca)),
            None => config,
        }
    }
}

impl ClientTls {
    /// A client that trusts `ca`, or the system's authorities without one, and presents `identity`
    /// when a server asks for it.
    ///
    /// # Errors
    ///
    /// [`SecurityError`] if the authority's file cannot be read or used.
    pub fn new(ca: Option<&Path>, identity: Option<Identity>) -> Result<Self, SecurityError> {
        let ca = ca.map(|path| authority(path).map(|(text, _)| text)).transpose()?;
        Ok(Self { ca, identity })
    }

    /// For a client of gRPC that calls a service by this name, whatever its address.
    pub fn grpc(&self, name: &str) -> ClientTlsConfig {
        install_provider();
        let config = ClientTlsConfig::new().domain_name(name);
        let config = match &self.ca {
            Some(ca) => config.ca_certificate(Certificate::from_pem(ca)),
            None => config.with_native_roots(),
        };
        match &self.identity {
            Some(identity) => config.identity(identity.tonic()),
            None => config,
        }
    }

    /// The authority as PEM; `None`: the authorities that this system trusts.
    pub fn ca(&self) -> Option<&str> {
        self.ca.as_deref()
    }

    /// The certificate that this client presents.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("own_authority", &self.ca.is_some())
            .field("identity", &self.identity)
            .finish()
    }
}

/// An authority's certificates, as text and as a library wants them.
fn authority(path: &Path) -> Result<(String, RootCertStore), SecurityError> {
    let text = read(path)?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&text, path)? {
        roots.add(certificate).map_err(|error| unusable(path, &error))?;
    }
    Ok((text, roots))
}

/// At least one.
fn certificates(text: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, SecurityError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let all = all.map_err(|error| unusable(path, &error))?;
    if all.is_empty() {
        let none = io::Error::other("it contains no PEM certificate");
        return Err(unusable(path, &none));
    }
    Ok(all)
}

fn unusable(path: &Path, why: &impl fmt::Display) -> SecurityError {
    SecurityError::Tls { path: path.to_owned(), why: why.to_string() }
}
