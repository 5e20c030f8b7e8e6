//! `llm-dit certificates`: everything that machines need to trust each other and nobody else.
//!
//! An authority of one's own signs a certificate for each machine; beside them lie two bearer keys.
//! A second run in the same folder adds machines to what is there, and changes nothing of it.

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

/// Accepted by everybody, so that a program on the same machine can be called by these names.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Clocks differ.
const BEFORE: Duration = Duration::hours(1);
const AUTHORITY: &str = "llm-dit";
const AUTHORITY_DAYS: i64 = 3650;

#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CertificatesArgs {
    /// A name for the files of a machine, and what others call that machine: host names and
    /// addresses, with commas between them
    #[arg(required = true, value_name = "NAME=HOST[,HOST]")]
    machines: Vec<Machine>,
    /// Where to write
    #[arg(short, long, value_name = "DIR", default_value = "certificates")]
    output: PathBuf,
    /// Days that a machine's certificate is good for
    #[arg(long, value_name = "N", default_value_t = 825, value_parser = clap::value_parser!(u16).range(1..=3650))]
    days: u16,
}

const EXAMPLES: &str = "\
Example, for a text encoder on a Mac and the rest on a machine with a GPU:
  llm-dit certificates encoder=mac.local gpu=gpu.local,192.168.1.7
      Writes certificates/, and says which files belong where and how to use them

Copy ca-key.pem nowhere: who has it can make certificates that your machines trust.";

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
            return Err(format!("'{name}' cannot be a file's name; use letters, digits, - and _"));
        }
        if ["ca", "client", "clients", "service", "services"].contains(&name) {
            return Err(format!("'{name}' is the name of a file that is written anyway"));
        }
        let hosts: Vec<String> = hosts.split(',').map(|host| host.trim().to_owned()).collect();
        if hosts.iter().any(String::is_empty) {
            return Err(bad());
        }
        Ok(Self { name: name.to_owned(), hosts })
    }
}

pub fn certificates(args: &CertificatesArgs) -> Result<(), CliError> {
    let folder = &args.output;
    // Before anything is written.
    for machine in &args.machines {
        let path = folder.join(format!("{}.pem", machine.name));
        if path.exists() {
            return Err(CliError::Failed(format!(
                "{} is there already; remove it to have another one made",
                path.display()
            )));
        }
    }
    fs::create_dir_all(folder).map_err(|cause| {
        CliError::Failed(format!("cannot make the folder {}: {cause}", folder.display()))
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
            let pem = String::from_utf8(files::read(&key)?).map_err(CliError::failed)?;
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
            return Err(CliError::Failed(format!(
                "of {} and {} only one is there; put the other one back, or choose another folder",
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
        CliError::Usage(format!("{name}: a host's name cannot be in a certificate: {error}"))
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
        &format!("# One key a line, before it the name of who has it.\n{owner} {}\n", key.expose()),
    )
}

/// A file that only its owner can read, whole or not at all.
fn private(path: &Path, text: &str) -> Result<(), CliError> {
    files::stage_private(path, text.as_bytes())?.publish()
}

/// Which file goes where, and how it is used there.
fn what_now(folder: &Path, machines: &[Machine]) -> String {
    let mut text = format!("Wrote to {}:\n", folder.display());
    let mut line = |left: &str, right: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {left:<26} {right}");
    };
    line("ca.pem", "the authority: to every machine, and into browsers that use the page");
    line("ca-key.pem", "the authority's key: keep it here");
    for Machine { name, hosts } in machines {
        line(&format!("{name}.pem, {name}-key.pem"), &format!("to {}", hosts.join(", ")));
    }
    line("services.keys", "which keys the services take: to machines with a service");
    line("service.key", "the key to show to them: to the gateway");
    line("clients.keys", "which keys the gateway takes: to the gateway");
    line("client.key", "the key to show to it: to those who may ask");
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
