//! Networks that cut, and hubs that lie.

use std::fs;

use llm_dit_hub::HubError;
use llm_dit_testkit::fakes::hub::Trick;

use crate::support::{LARGE, Room, large};

/// What came of a download that met these.
async fn after(tricks: &[Trick]) -> (Room, Result<(), String>) {
    let room = Room::new().await;
    room.hub.trick(LARGE, tricks.iter().cloned());
    let outcome = match room.pull(&[]).await {
        Ok(pulled) => {
            room.all_right(&pulled);
            Ok(())
        }
        Err(error) => {
            room.nothing_visible();
            Err(error.to_string())
        }
    };
    (room, outcome)
}

/// Where each request for the content began.
fn ranges(room: &Room) -> Vec<Option<String>> {
    let gets = room.hub.gets(LARGE).into_iter().filter(|seen| seen.at_store);
    gets.map(|seen| seen.range).collect()
}

#[tokio::test]
async fn what_was_cut_off_is_resumed_where_it_was_cut() {
    let (room, outcome) = after(&[Trick::Cut(100_000), Trick::Cut(50_000)]).await;
    outcome.expect("resumed");
    let ranges = ranges(&room);
    assert_eq!(ranges[0], None);
    // What the store had sent may be more than what came.
    let from = |range: &Option<String>| {
        let from = range.as_ref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        from.map_or(0, |from| from.parse::<usize>().expect("a number"))
    };
    assert!(from(&ranges[1]) <= 100_000 && from(&ranges[2]) <= 150_000, "{ranges:?}");
    assert!(from(&ranges[2]) >= from(&ranges[1]) && from(&ranges[2]) > 0, "{ranges:?}");
    let gets = room.hub.gets(LARGE);
    let conditions: Vec<_> = gets.iter().filter_map(|seen| seen.if_range.clone()).collect();
    assert!(conditions.iter().all(|etag| etag == "\"of-the-store\""), "{conditions:?}");
    assert!(!conditions.is_empty());
}

#[tokio::test]
async fn attempts_without_progress_are_bounded_and_what_came_is_kept() {
    let (room, outcome) = after(&[Trick::Cut(0), Trick::Cut(0), Trick::Cut(0)]).await;
    let error = outcome.expect_err("three attempts");
    assert!(error.contains("after 3 attempts") && error.contains("to resume"), "{error}");
    room.hub.trick(LARGE, [Trick::Cut(200_000), Trick::Status(503, vec![]), Trick::Cut(0)]);
    let error = room.pull(&[]).await.expect_err("three attempts");
    assert!(matches!(error, HubError::GaveUp { .. }), "{error}");
    room.nothing_visible();
    let kept = fs::metadata(room.incomplete()).expect("kept").len();
    let pulled = room.pull(&[]).await.expect("resumed");
    room.all_right(&pulled);
    assert_eq!(ranges(&room).pop().expect("asked"), (kept > 0).then(|| format!("bytes={kept}-")));
}

#[tokio::test]
async fn a_file_that_changes_on_the_way_is_downloaded_anew() {
    for second in [
        Trick::NewEtag,
        Trick::RangeOfNewEtag,
        Trick::NoRange,
        Trick::OtherRange,
        Trick::NoSuchRange,
    ] {
        let (_, outcome) = after(&[Trick::Cut(100_000), second.clone()]).await;
        outcome.unwrap_or_else(|error| panic!("{second:?}: {error}"));
    }
}

#[tokio::test]
async fn a_damaged_beginning_is_found_and_downloaded_anew_once() {
    let room = Room::new().await;
    fs::create_dir_all(room.incomplete().parent().expect("a folder")).expect("made");
    let mut beginning = large()[..100_000].to_vec();
    beginning[5] ^= 1;
    fs::write(room.incomplete(), &beginning).expect("written");
    let pulled = room.pull(&[]).await.expect("downloaded anew");
    room.all_right(&pulled);
    assert_eq!(ranges(&room), [Some("bytes=100000-".to_owned()), None]);
}

#[tokio::test]
async fn a_beginning_that_is_too_long_or_whole_is_dealt_with() {
    let room = Room::new().await;
    fs::create_dir_all(room.incomplete().parent().expect("a folder")).expect("made");
    fs::write(room.incomplete(), [&large()[..], b"x"].concat()).expect("written");
    let pulled = room.pull(&[]).await.expect("downloaded");
    room.all_right(&pulled);
    let room = Room::new().await;
    fs::create_dir_all(room.incomplete().parent().expect("a folder")).expect("made");
    fs::write(room.incomplete(), large()).expect("written");
    let pulled = room.pull(&[]).await.expect("there");
    room.all_right(&pulled);
    assert_eq!(ranges(&room), Vec::<Option<String>>::new());
}

#[tokio::test]
async fn lies_about_content_and_length_leave_nothing() {
    let (room, outcome) = after(&[Trick::Damage]).await;
    let error = outcome.expect_err("damaged");
    assert!(error.contains("is damaged") && error.contains("deleted"), "{error}");
    assert!(!room.incomplete().exists());
    for more in [-1000, 1000] {
        let (_, outcome) = after(&[Trick::Length(more)]).await;
        let error = outcome.expect_err("a wrong length");
        assert!(error.contains("contradicts itself") && error.contains("instead of"), "{error}");
    }
    let (_, outcome) = after(&[Trick::TooLong]).await;
    outcome.expect("what is too much is not read");
}

#[tokio::test]
async fn the_list_and_the_file_must_agree() {
    let header = |name, value: &str| (name, value.to_owned());
    for (headers, words) in [
        (vec![header("ETag", &format!("\"{}\"", "a".repeat(64)))], "its checksum is"),
        (vec![header("X-Linked-Size", "7")], "bytes in the list of files and 7"),
        (vec![header("X-Repo-Commit", &"b".repeat(40))], "it belongs to commit bbbb"),
    ] {
        let room = Room::new().await;
        room.hub.trick(&format!("HEAD {LARGE}"), [Trick::Status(200, headers)]);
        let error = room.pull(&[]).await.expect_err(words).to_string();
        assert!(error.contains("contradicts itself") && error.contains(words), "{error}");
        room.nothing_visible();
    }
    let room = Room::new().await;
    room.hub.without_blobs();
    for etag in ["\"../../../../escape\"", "\"d41d8cd98f00b204e9800998ecf8427e-3\""] {
        let headers = vec![header("ETag", etag), header("X-Linked-Size", "7")];
        room.hub.trick(&format!("HEAD {LARGE}"), [Trick::Status(200, headers)]);
        let error = room.pull(&[]).await.expect_err("no checksum").to_string();
        assert!(error.contains("no checksum") && error.contains("HF_ENDPOINT"), "{error}");
        room.nothing_visible();
    }
}

#[tokio::test]
async fn an_answer_that_is_no_list_is_told_so() {
    let room = Room::new().await;
    let nonsense = vec![("Content-Length", "0".to_owned())];
    room.hub.trick("", [Trick::Status(200, nonsense)]);
    let error = room.pull(&[]).await.expect_err("no JSON").to_string();
    assert!(error.contains("something else than the list of files"), "{error}");
}
