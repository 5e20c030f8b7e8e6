//! Who may download: tokens, licences, limits, and hosts that get no token.

use llm_dit_hub::HubError;
use llm_dit_testkit::fakes::hub::Trick;

use crate::support::{LARGE, Room};

#[tokio::test]
async fn the_token_is_for_the_hub_alone() {
    let room = Room::new().await;
    room.hub.require("hf_secret");
    let pulled = room.pull_as(Some("hf_secret"), "nobody/model", &[]).await.expect("allowed");
    room.all_right(&pulled);
    let seen = room.hub.seen();
    assert!(seen.iter().any(|seen| seen.at_store), "{seen:?}");
    for seen in seen {
        let shown = seen.authorization.as_deref();
        assert_eq!(shown, (!seen.at_store).then_some("Bearer hf_secret"), "{}", seen.line);
    }
}

#[tokio::test]
async fn a_host_that_redirects_back_to_the_hub_gets_no_token_there() {
    let room = Room::new().await;
    room.hub.require("hf_secret");
    let back = format!("{}/nobody/model/resolve/{}/{LARGE}", room.hub.url(), "1".repeat(40));
    let redirect = Trick::Status(302, vec![("Location", back)]);
    room.hub.trick(LARGE, [redirect.clone(), redirect.clone(), redirect]);
    let error = room.pull_as(Some("hf_secret"), "nobody/model", &[]).await.expect_err("refused");
    assert!(!error.to_string().contains("hf_secret"), "{error}");
    let back = room.hub.seen().into_iter().filter(|seen| seen.line.contains("/1111"));
    let shown: Vec<_> = back.map(|seen| seen.authorization).collect();
    assert!(!shown.is_empty() && shown.iter().all(Option::is_none), "{shown:?}");
}

#[tokio::test]
async fn redirects_to_no_end_and_to_other_schemes_are_refused() {
    for (location, words) in [
        (String::new(), "too many redirects"),
        ("file:///etc/passwd".to_owned(), "not an http or https URL"),
        ("ftp://x/y".to_owned(), "not an http or https URL"),
    ] {
        let room = Room::new().await;
        let location = if location.is_empty() { room.hub.store_url(LARGE) } else { location };
        let redirect = Trick::Status(302, vec![("Location", location)]);
        room.hub.trick(LARGE, vec![redirect; 40]);
        let error = room.pull(&[]).await.expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
        room.nothing_visible();
    }
}

#[tokio::test]
async fn private_and_missing_repositories_say_what_to_do() {
    let room = Room::new().await;
    room.hub.require("hf_secret");
    let error = room.pull(&[]).await.expect_err("no token").to_string();
    assert!(error.contains("does not exist") && error.contains("HF_TOKEN"), "{error}");
    let error = room.pull_as(Some("hf_other"), "nobody/model", &[]).await.expect_err("wrong");
    assert!(matches!(error, HubError::BadToken { .. }), "{error}");
    let room = Room::new().await;
    let error = room.pull_as(None, "nobody/model@no-such", &[]).await.expect_err("no revision");
    assert!(error.to_string().contains("no revision 'no-such'"), "{error}");
    room.hub.trick("", [Trick::Status(404, vec![("X-Error-Code", "RepoNotFound".to_owned())])]);
    let error = room.pull(&[]).await.expect_err("no repository");
    assert!(matches!(error, HubError::NoRepo { .. }), "{error}");
    room.nothing_visible();
}

#[tokio::test]
async fn a_gated_repository_is_explained() {
    let room = Room::new().await;
    room.hub.gate();
    let error = room.pull(&[]).await.expect_err("gated").to_string();
    let page = format!("{}/nobody/model", room.hub.url());
    assert!(error.contains("accept its licence") && error.contains(&page), "{error}");
    assert!(error.contains("HF_TOKEN") && error.contains("/settings/tokens"), "{error}");
    let error = room.pull_as(Some("hf_x"), "nobody/model", &[]).await.expect_err("gated");
    assert!(error.to_string().contains("the account of the token has no access"), "{error}");
}

#[tokio::test]
async fn a_limit_is_waited_for_if_it_is_short() {
    let room = Room::new().await;
    let limit = |seconds: &str| Trick::Status(429, vec![("Retry-After", seconds.to_owned())]);
    room.hub.trick("", [limit("0"), limit("0")]);
    room.hub.trick(LARGE, [limit("0"), Trick::Status(500, vec![])]);
    room.hub.trick(&format!("HEAD {LARGE}"), [Trick::Status(502, vec![])]);
    let pulled = room.pull(&[]).await.expect("in the end");
    room.all_right(&pulled);
    room.hub.trick("", [limit("3600")]);
    let error = room.pull(&[]).await.expect_err("an hour").to_string();
    assert!(error.contains("wait 3600 s") && error.contains("HF_TOKEN"), "{error}");
}

#[tokio::test]
async fn a_signed_url_that_expired_is_asked_for_again() {
    let room = Room::new().await;
    room.hub.trick(LARGE, [Trick::Status(403, vec![]), Trick::Status(404, vec![])]);
    let pulled = room.pull(&[]).await.expect("in the end");
    room.all_right(&pulled);
}
