//! Files and entries that are not as they were written.

use llm_dit_testkit::damage;
use proptest::{prelude::*, test_runner::TestRunner};

use super::*;

/// A history with a few pictures, a job that is over, one that waits, and a setting.
fn filled(folder: &Path) -> Store {
    let mut store = Store::open(folder, 100, 1 << 20).expect("opens");
    for prompt in ["a", "b", "c", "d"] {
        keep(&mut store, prompt, &[7; 3000]);
    }
    store.put_thumbnail(2, &[1; 100]).expect("kept");
    let mut over = job();
    store.put_job(over.clone(), Revision::NEW).expect("kept");
    over.end(JobState::Cancelled);
    store.end_job(over, None).expect("stands");
    let waiting = job();
    store.put_source(waiting.id, b"source").expect("kept");
    store.put_job(waiting, Revision::NEW).expect("kept");
    store.set("loras", b"[]").expect("kept");
    store
}

/// Everything that requests ask of a store.
fn use_all(store: &mut Store) {
    let _ = store.page(100, None);
    for id in 0..6 {
        let _ = (store.entry(id), store.picture(id), store.thumbnail(id));
    }
    let _ = (store.setting("loras"), store.all_jobs(), store.unfinished_jobs());
    for job in store.jobs.in_order() {
        let _ = (store.job(job.0), store.job_picture(job.0));
    }
    let _ = store.add(9, &entry("new"), b"new");
    let _ = (store.delete(1), store.put_job(job(), Revision::NEW), store.clear());
}

#[test]
fn a_damaged_entry_is_left_out_and_the_others_are_listed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = filled(folder.path());
    store
        .change(|tables| {
            tables.entries.insert(3, &b"{\"timestamp\": 7}"[..])?;
            tables.jobs.insert(0, &b"{"[..])?;
            Ok(())
        })
        .expect("kept");
    assert_eq!(ids(&mut store), [4, 2, 1]);
    let page = store.page(2, None).expect("reads");
    assert_eq!(page.entries.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [4, 2], "full pages");
    assert!(store.entry(3).expect("reads").is_none());
    assert!(store.picture(3).expect("reads").is_none());
    assert_eq!(all(&mut store).len(), 1, "while it runs");
    drop(store);
    let mut store = Store::open(folder.path(), 100, 1 << 20).expect("opens again");
    assert_eq!(ids(&mut store), [4, 2, 1]);
    assert_eq!(all(&mut store).len(), 1, "at start");
    assert_eq!(store.delete(3).expect("deletes"), Some(3), "it can be deleted");
}

#[test]
fn work_that_panics_leaves_a_store_for_the_next() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = filled(folder.path());
    store.run(|_| panic!("a page is not as it was written"));
    assert!(store.trouble().lock().as_deref().is_some_and(|why| why.contains("damaged")));
    assert_eq!(ids(&mut store), [4, 3, 2, 1]);
    keep(&mut store, "e", b"e");
    assert_eq!(*store.trouble().lock(), None);
}

/// Whatever was done to the file, a gateway starts or says what to do, and while it runs no request
/// ends the thread.
#[test]
fn a_file_that_was_cut_flipped_or_grown_is_opened_or_refused_with_advice() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(filled(folder.path()));
    let whole = fs::read(folder.path().join(FILE)).expect("reads");
    let config = damage::config();
    // Each opens a database, some of them twice.
    let mut runner = TestRunner::new(ProptestConfig { cases: config.cases / 4, ..config });
    let harmed =
        runner.run(&(damage::damaged(vec![whole.clone()]), any::<bool>()), |(file, runs)| {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join(FILE);
            // Before a gateway starts, or while it runs.
            let opened = if runs {
                fs::write(&path, &whole).expect("writes");
                let store = Store::open(folder.path(), 100, 1 << 20);
                fs::write(&path, &file).expect("writes");
                store
            } else {
                fs::write(&path, &file).expect("writes");
                Store::open(folder.path(), 100, 1 << 20)
            };
            match opened {
                Ok(mut store) => {
                    for _ in 0..2 {
                        store.run(use_all);
                    }
                    // As when the gateway ends.
                    store.run(|store| store.database = None);
                }
                Err(error) => {
                    let error = error.to_string();
                    prop_assert!(error.contains("--history"), "{}", error);
                }
            }
            Ok(())
        });
    // Without the file, which is long.
    let said = harmed.map_err(|error| error.to_string().chars().take(400).collect::<String>());
    assert_eq!(said, Ok(()), "no panic gets out, and errors say what to do");
}

#[test]
fn the_space_of_cleared_pictures_goes_back_to_the_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(folder.path(), 100, 1 << 30).expect("opens");
    for _ in 0..8 {
        keep(&mut store, "x", &vec![7; 4 << 20]);
    }
    let size = || fs::metadata(folder.path().join(FILE)).expect("a file").len();
    let full = size();
    store.compact();
    assert_eq!(ids(&mut store), [8, 7, 6, 5, 4, 3, 2, 1], "whatever it moves");
    let waiting = job();
    store.put_job(waiting.clone(), Revision::NEW).expect("kept");
    store.clear().expect("clears");
    store.compact();
    assert!(size() < full / 4, "{full} bytes before, {} after", size());
    assert_eq!(store.unfinished_jobs().expect("reads"), [waiting.id]);
    keep(&mut store, "y", b"y");
    assert_eq!(ids(&mut store), [9]);
}
