//! `llm-dit certificates`, and what it makes in use.

use crate::{serve::Server, support::Room};

const FILES: [&str; 10] = [
    "ca-key.pem",
    "ca.pem",
    "client.key",
    "clients.keys",
    "gpu-key.pem",
    "gpu.pem",
    "mac-key.pem",
    "mac.pem",
    "service.key",
    "services.keys",
];

fn files(room: &Room) -> Vec<String> {
    let entries = std::fs::read_dir(room.path("certificates")).expect("a folder");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("a file").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    names
}

#[test]
fn certificates_and_keys_are_made_once_and_kept_private() {
    let room = Room::new();
    let output = room.run(&["certificates", "mac=mac.local"]);
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8(output.stdout).expect("text");
    for word in ["ca.pem", "mac-key.pem", "to mac.local", "--tls-client-ca", "--service-key"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let authority = room.read("certificates/ca.pem");
    let key = room.read("certificates/service.key");

    room.succeed(&["certificates", "gpu=gpu.local,10.0.0.7"]);
    assert_eq!(files(&room), FILES);
    assert_eq!(room.read("certificates/ca.pem"), authority, "machines are added to what is there");
    assert_eq!(room.read("certificates/service.key"), key);
    let key = String::from_utf8(key).expect("text");
    let list = String::from_utf8(room.read("certificates/services.keys")).expect("text");
    assert!(list.contains(key.trim()));

    let said = room.fail(64, &["certificates", "gpu=gpu.local"]);
    assert!(said.contains("gpu.pem already exists"), "{said}");
    for (words, why) in [
        ("gpu", "write NAME=HOST"),
        ("../x=y", "letters, digits"),
        ("x=", "write NAME=HOST"),
        ("ca=y", "reserved for a file"),
    ] {
        let said = room.fail(64, &["certificates", words]);
        assert!(said.contains(why), "{words}: {said}");
    }
    #[cfg(unix)]
    for name in FILES {
        use std::os::unix::fs::PermissionsExt as _;
        let path = room.path("certificates").join(name);
        let mode = std::fs::metadata(path).expect("a file").permissions().mode() & 0o777;
        let secret = name.contains("key");
        assert_eq!(mode, if secret { 0o600 } else { 0o644 }, "{name}");
    }
}

#[test]
fn a_folder_for_each_container_is_made_once() {
    let room = Room::new();
    let words = ["certificates", "gateway=localhost", "gpu=gpu", "--folders", "--keep"];
    room.succeed(&words);
    let certificate = room.read("certificates/gpu/cert.pem");
    for name in ["gateway", "gpu"] {
        for file in ["ca.pem", "cert.pem", "key.pem", "service.key", "services.keys"] {
            assert!(!room.read(&format!("certificates/{name}/{file}")).is_empty(), "{name}/{file}");
        }
    }
    let key = room.read("certificates/client/client.key");
    assert_eq!(key, room.read("certificates/client.key"));
    assert!(!room.path("certificates/gpu/ca-key.pem").exists(), "signs for everybody");
    room.succeed(&words);
    assert_eq!(room.read("certificates/gpu/cert.pem"), certificate);
    assert_eq!(room.read("certificates/client/client.key"), key);
    let said = room.fail(64, &words[..4]);
    assert!(said.contains("already exists") && said.contains("--keep"), "{said}");
}

#[test]
fn a_picture_over_https_for_who_has_a_key() {
    let room = Room::new();
    room.succeed(&["certificates", "gpu=gpu.local"]);
    let file = |name: &str| format!("certificates/{name}");
    let (cert, key, keys) = (file("gpu.pem"), file("gpu-key.pem"), file("clients.keys"));
    let guarded = ["--tls-cert", &cert, "--tls-key", &key, "--keys", &keys];
    let server = Server::with(&room, &guarded);
    assert!(server.url.starts_with("https://"), "{}", server.url);

    let (ca, shown, other) = (file("ca.pem"), file("client.key"), file("service.key"));
    let base = ["generate", "x", "--width", "64", "--height", "64", "--steps", "1", "--gateway"];
    let base = [&base[..], &[server.url.as_str()]].concat();
    let trusting = [&base[..], &["--gateway-ca", &ca]].concat();
    let said = room.fail(1, &base);
    assert!(said.contains("certificate"), "{said}");
    for wrong in [&[][..], &["--gateway-key-file", &other]] {
        let said = room.fail(1, &[&trusting[..], wrong].concat());
        assert!(said.contains("401") && said.contains("key"), "{said}");
    }
    room.succeed(&[&trusting[..], &["--gateway-key-file", &shown, "-o", "fox.png"]].concat());
    assert_eq!(room.pixels("fox.png").len(), 64 * 64 * 3);
}

#[test]
fn strangers_are_not_let_in_by_accident() {
    let room = Room::new();
    let said = room.fail(64, &["serve", "--host", "0.0.0.0", "--port", "0", "--no-history"]);
    for fix in ["--tls-cert", "llm-dit certificates", "--insecure"] {
        assert!(said.contains(fix), "{said}");
    }
    let words = ["serve", "--port", "0", "--no-history", "--keys", "nowhere"];
    assert!(room.fail(64, &words).contains("nowhere"));
}
