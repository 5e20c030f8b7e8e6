//! `llm-dit certificates`: creates the certificates and API keys that the machines need to trust
//! each other only. A private CA signs one certificate per machine; two API keys are created beside
//! them. Another run in the same folder adds machines and keeps the existing files.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::Args;
use llm_dit_serving::security::Key;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use crate::{error::CliError, files, output::print};

/// Names in every certificate, so that a program on the same machine can be called by them.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Clocks differ.
const BEFORE: Duration = Duration::hours(1);
const AUTHORITY: &str = "llm-dit";
const AUTHORITY_DAYS: i64 = 3650;

#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CertificatesArgs {
    /// File name prefix for a machine, and the host names and addresses by which others reach it,
    /// comma-separated
    #[arg(required = true, value_name = "NAME=HOST[,HOST]")]
    machines: Vec<Machine>,
    /// Output folder
    // The key generation.output is about images, so this is another id.
    #[arg(
        id = "certificates_output",
        short = 'o',
        long = "output",
        value_name = "DIR",
        default_value = "certificates"
    )]
    output: PathBuf,
    /// Validity of the machine certificates in days
    #[arg(long, value_name = "N", default_value_t = 825, value_parser = clap::value_parser!(u16).range(1..=3650))]
    days: u16,
}

const EXAMPLES: &str = "\
Example: the text encoder on a Mac, everything else on a GPU machine
  llm-dit certificates encoder=mac.local gpu=gpu.local,192.168.1.7
      Writes certificates/, and prints where to copy each file and how to use it

Do not copy ca-key.pem: its owner can sign certificates that your machines trust.";

/// `NAME=HOST,HOST`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Machine {
    name: String,
    hosts: Vec<String>,
}

impl FromStr for Machine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || "write NAME=HOST, such as gpu=gpu.local,192.168.1.7".to_owned();
        let (name, hosts) = text.split_once('=').ok_or_else(bad)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(plain) {
            return Err(format!("'{name}' is not a valid file name; use letters, digits, - and _"));
        }
        if ["ca", "client", "clients", "service", "services"].contains(&name) {
            return Err(format!("'{name}' is reserved for a file that this command writes"));
        }
        let hosts: Vec<String> = hosts.split(',').map(|host| host.trim().to_owned()).collect();
        if hosts.iter().any(String::is_empty) {
            return Err(bad());
        }
        Ok(Self { name: name.to_owned(), hosts })
    }
}

/// Creates an authority, where there is none, and a certificate for each machine, with files of
/// service and client keys.
///
/// # Errors
///
/// [`CliError`] if a machine's certificate exists, or if a file cannot be written.
pub fn certificates(args: &CertificatesArgs) -> Result<(), CliError> {
    let folder = &args.output;
    // Before anything is written.
    for machine in &args.machines {
        let path = folder.join(format!("{}.pem", machine.name));
        if path.exists() {
            return Err(CliError::Usage(format!(
                "{} already exists; remove it to create a new one",
                path.display()
            )));
        }
    }
    fs::create_dir_all(folder).map_err(|cause| {
        CliError::Usage(format!("cannot create the folder {}: {cause}", folder.display()))
    })?;
    let issuer = authority(folder)?;
    for Machine { name, hosts } in &args.machines {
        let key = KeyPair::generate().map_err(CliError::failed)?;
        let params = machine(name, hosts, args.days)?;
        let certificate = params.signed_by(&key, &issuer).map_err(CliError::failed)?;
        private(&folder.join(format!("{name}-key.pem")), &key.serialize_pem())?;
        files::write(&folder.join(format!("{name}.pem")), certificate.pem().as_bytes())?;
    }
    keys(folder, "service", "gateway")?;
    keys(folder, "client", "client")?;
    print(&what_now(folder, &args.machines))
}

/// The one in the folder, or a new one.
fn authority(folder: &Path) -> Result<Issuer<'static, KeyPair>, CliError> {
    let (certificate, key) = (folder.join("ca.pem"), folder.join("ca-key.pem"));
    let mut params = CertificateParams::default();
    params.distinguished_name = named(AUTHORITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, AUTHORITY_DAYS);
    let pair = match (certificate.exists(), key.exists()) {
        (true, true) => {
            let pem = files::read_text(&key)?;
            KeyPair::from_pem(&pem).map_err(CliError::failed)?
        }
        (false, false) => {
            let pair = KeyPair::generate().map_err(CliError::failed)?;
            let signed = params.self_signed(&pair).map_err(CliError::failed)?;
            private(&key, &pair.serialize_pem())?;
            files::write(&certificate, signed.pem().as_bytes())?;
            pair
        }
        (true, false) | (false, true) => {
            return Err(CliError::Usage(format!(
                "only one of {} and {} exists; restore the other, or choose another folder",
                certificate.display(),
                key.display()
            )));
        }
    };
    Ok(Issuer::new(params, pair))
}

/// For whom and by whom connections are made: every program of ours may be either.
fn machine(name: &str, hosts: &[String], days: u16) -> Result<CertificateParams, CliError> {
    let hosts = hosts.iter().cloned().chain(LOCAL.map(str::to_owned));
    let mut params = CertificateParams::new(hosts.collect::<Vec<_>>()).map_err(|error| {
        CliError::Usage(format!("{name}: invalid host name for a certificate: {error}"))
    })?;
    params.distinguished_name = named(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    valid_for(&mut params, days.into());
    Ok(params)
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn valid_for(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BEFORE;
    params.not_after = now + Duration::days(days);
}

/// A key to show, and the list that takes it, unless they are there.
fn keys(folder: &Path, what: &str, owner: &str) -> Result<(), CliError> {
    let (one, list) = (folder.join(format!("{what}.key")), folder.join(format!("{what}s.keys")));
    if one.exists() || list.exists() {
        return Ok(());
    }
    let key = Key::random();
    private(&one, &format!("{}\n", key.expose()))?;
    private(
        &list,
        &format!(
            "# One key per line, preceded by the name of its owner.\n{owner} {}\n",
            key.expose()
        ),
    )
}

/// A file that only its owner can read, whole or not at all.
fn private(path: &Path, text: &str) -> Result<(), CliError> {
    let staged = llm_dit_files::stage_private(path, text.as_bytes());
    staged.and_then(llm_dit_files::Staged::publish).map_err(CliError::failed)
}

/// Which file goes where, and how it is used there.
fn what_now(folder: &Path, machines: &[Machine]) -> String {
    let mut text = format!("Wrote to {}:\n", folder.display());
    let mut line = |left: &str, right: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {left:<26} {right}");
    };
    line("ca.pem", "CA certificate: copy to every machine, import into browsers that use the page");
    line("ca-key.pem", "CA key: keep it here");
    for Machine { name, hosts } in machines {
        line(&format!("{name}.pem, {name}-key.pem"), &format!("copy to {}", hosts.join(", ")));
    }
    line("services.keys", "keys that the services accept: copy to the machines that run them");
    line("service.key", "key for the services: copy to the gateway");
    line("clients.keys", "keys that the gateway accepts: copy to the gateway");
    line("client.key", "key for the gateway: give to its clients");
    let shown = machines.first().map_or("NAME", |machine| machine.name.as_str());
    let host = machines.first().and_then(|machine| machine.hosts.first());
    let host = host.map_or("HOST", String::as_str);
    let _ = write!(
        text,
        "\nA service:\n  encoder-service --host 0.0.0.0 --tls-cert {shown}.pem --tls-key {shown}-key.pem \\\n      \
         --tls-client-ca ca.pem --keys services.keys\n\
         The gateway:\n  gateway --host 0.0.0.0 --tls-cert NAME.pem --tls-key NAME-key.pem --keys clients.keys \\\n      \
         --encoder https://{host}:50051 --tls-ca ca.pem --service-key service.key\n\
         A client:\n  llm-dit generate \"a fox\" --gateway https://HOST:7860 --gateway-ca ca.pem --gateway-key-file client.key\n"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_have_names_and_hosts() {
        let machine: Machine = "gpu=gpu.local, 192.168.1.7".parse().expect("valid");
        assert_eq!(machine.hosts, ["gpu.local", "192.168.1.7"]);
        for bad in ["gpu", "=gpu.local", "gpu=", "gpu=a,,b", "../gpu=a", "ca=a", "client=a"] {
            assert!(bad.parse::<Machine>().is_err(), "{bad}");
        }
    }
}
