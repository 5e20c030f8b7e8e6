mod damaged;

use std::{
    io,
    ops::Bound,
    sync::atomic::{AtomicU64, Ordering},
};

use redb::ReadableTable as _;

use super::{
    tables::{NUMBERED_SOURCES, SOURCES},
    *,
};
use crate::{
    jobs::store::Revision,
    records::job::{JobId, JobRecord, JobState},
    records::picture::About,
    records::request::GenerateBody,
};

/// A disk of so many bytes.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    size: Arc<AtomicU64>,
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    /// Files may have holes.
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset + data.len() as u64 > self.size.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, redb::BackendError> {
        self.file.try_lock_range(start, end)
    }
}

fn entry(prompt: &str) -> Entry {
    Entry {
        timestamp: "2026-01-31T12:00:00Z".into(),
        media_type: "image/png".into(),
        bytes: 0,
        generation_time: 0.5,
        formatted_prompt: String::new(),
        parameters: GenerateBody { prompt: Some(prompt.into()), ..Default::default() },
        parameters_omitted: None,
    }
}

fn keep(store: &mut Store, prompt: &str, file: &[u8]) {
    let id = store.change(|tables| tables.next_id()).expect("reads");
    store.add(id, &entry(prompt), file).expect("kept");
}

fn ids(store: &mut Store) -> Vec<u64> {
    store.page(100, None).expect("reads").entries.into_iter().map(|(id, _)| id).collect()
}

#[test]
fn pictures_survive_and_ids_are_never_used_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(folder.path(), 10, 1 << 20).expect("opens");
    assert!(matches!(Store::open(folder.path(), 10, 1 << 20), Err(StoreError::InUse { .. })));
    for prompt in ["a", "b", "c"] {
        keep(&mut store, prompt, prompt.as_bytes());
    }
    assert_eq!(store.delete(3).expect("deletes"), Some(2));
    assert_eq!(store.delete(3).expect("nothing to do"), None);
    drop(store);
    let mut store = Store::open(folder.path(), 10, 1 << 20).expect("opens again");
    assert_eq!(ids(&mut store), [2, 1]);
    let picture = store.picture(1).expect("reads").expect("is there");
    assert_eq!((&picture.file[..], &picture.media_type[..]), (&b"a"[..], "image/png"));
    assert!(store.picture(3).expect("reads").is_none());
    keep(&mut store, "d", b"d");
    assert_eq!(ids(&mut store), [4, 2, 1]);
    let page = store.page(1, Some(4)).expect("reads");
    assert_eq!((page.entries[0].0, page.entries.len(), page.total), (2, 1, 3));
    assert_eq!(store.clear().expect("clears"), 3);
    keep(&mut store, "e", b"e");
    assert_eq!(ids(&mut store), [5]);
}

#[test]
fn the_oldest_go_first_by_number_and_by_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(folder.path(), 3, 1000).expect("opens");
    for _ in 0..5 {
        keep(&mut store, "x", &[7; 100]);
    }
    assert_eq!(ids(&mut store), [5, 4, 3]);
    keep(&mut store, "x", &[7; 850]);
    assert_eq!(ids(&mut store), [6, 5], "850 + 100");
    keep(&mut store, "x", &[7; 2000]);
    assert_eq!(ids(&mut store), [] as [u64; 0]);
    for _ in 0..9 {
        keep(&mut store, "x", &[7; 10]);
    }
    drop(store);
    let mut store = Store::open(folder.path(), 1, 1000).expect("opens with tighter bounds");
    assert_eq!(ids(&mut store), [16]);
}

fn about() -> About {
    About {
        media_type: "image/png".into(),
        parameters: GenerateBody::default(),
        formatted_prompt: String::new(),
        seconds: 0.5,
        tokens: [0, 0],
        truncated: [0, 0],
        parameters_omitted: None,
        cached: false,
        history_id: Some(1),
    }
}

fn job() -> JobRecord {
    JobRecord::new(GenerateBody::default(), None)
}

/// Jobs with a picture to start from.
fn sources(store: &mut Store) -> Vec<JobId> {
    let transaction = store.database().expect("open").begin_read().expect("reads");
    let table = transaction.open_table(SOURCES).expect("is there");
    let ids = table.iter().expect("reads").map(|item| item.expect("reads").0.value());
    ids.map(JobId::from_u128).collect()
}

fn all(store: &mut Store) -> Vec<JobRecord> {
    store.all_jobs().expect("reads").into_iter().map(|job| job.record).collect()
}

#[test]
fn a_full_disk_costs_what_is_new_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let size = Arc::new(AtomicU64::new(u64::MAX));
    let disk = Arc::clone(&size);
    let path = folder.path().join(FILE);
    let around = move |file| Disk { file, size: Arc::clone(&disk) };
    let mut store = Store::at(path, 1000, 1 << 30, around).expect("opens");
    let trouble = store.trouble();
    keep(&mut store, "first", &[1; 1000]);
    let waiting = job();
    store.put_source(waiting.id, b"source").expect("kept");
    store.put_job(waiting.clone(), Revision::NEW).expect("kept");
    let used = fs::metadata(folder.path().join(FILE)).expect("a file").len();

    size.store(used, Ordering::SeqCst);
    let large = vec![7; 16 << 20];
    for round in 0..2 {
        let error = store.add(2, &entry("large"), &large).expect_err("no room");
        assert!(error.room().is_some_and(|why| why.contains("full")), "{round}: {error}");
        assert!(trouble.lock().as_deref().is_some_and(|why| why.contains("full")));
        // What was there before is still to be had.
        assert_eq!(ids(&mut store), [1]);
        assert_eq!(all(&mut store).len(), 1);
    }
    let mut over = waiting.clone();
    over.end(JobState::Done(Box::new(about())));
    let picture = Some((2, &entry("large"), &large[..]));
    store.end_job(over.clone(), picture).expect_err("no room");
    assert!(!all(&mut store)[0].is_over(), "the end and the picture, or neither");
    let source = store.job_picture(waiting.id).expect("reads");
    assert_eq!(source.as_deref(), Some(&b"source"[..]));

    size.store(u64::MAX, Ordering::SeqCst);
    store.end_job(over, picture).expect("there is room").expect("stands");
    assert_eq!(*trouble.lock(), None);
    assert_eq!(ids(&mut store), [2, 1]);
    assert!(all(&mut store)[0].is_over());
    assert_eq!(sources(&mut store), [] as [JobId; 0]);
}

#[test]
fn jobs_survive_in_order_with_every_digit() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(folder.path(), 10, 1 << 20).expect("opens");
    // Numbers whose shortest decimal forms have seventeen digits.
    let shifts = [3.000000000000001_f64, 0.1 + 0.2, 1.0 / 3.0, 5e-324_f64.sqrt()];
    let mut records = Vec::new();
    for shift in shifts {
        let mut record = job();
        record.request.shift = Some(shift);
        record.request.guidance_scale = Some(1.0 / 3.0);
        store.put_job(record.clone(), Revision::NEW).expect("kept");
        records.push(record);
    }
    records[1].begin();
    let begun = store.put_job(records[1].clone(), Revision(1)).expect("kept");
    assert_eq!(begun, Some(Revision(2)));
    store.remove_jobs(&[records[3].id]).expect("removed");
    drop(store);
    let mut store = Store::open(folder.path(), 10, 1 << 20).expect("opens again");
    let jobs = all(&mut store);
    let found: Vec<_> = jobs.iter().map(|job| (job.id, job.attempts)).collect();
    assert_eq!(found, [(records[0].id, 0), (records[1].id, 1), (records[2].id, 0)]);
    for (job, shift) in jobs.iter().zip(shifts) {
        assert_eq!(job.request.shift.map(f64::to_bits), Some(shift.to_bits()));
        assert_eq!(job.request.guidance_scale, Some(1.0 / 3.0));
    }
    // Clearing the history leaves the jobs, and the end of one that was removed leaves nothing.
    store.clear().expect("clears");
    let mut gone = records[3].clone();
    gone.end(JobState::Cancelled);
    let end = store.end_job(gone, Some((9, &entry("x"), b"x"))).expect("nothing to do");
    assert!(end.is_none());
    assert_eq!((ids(&mut store), all(&mut store).len()), (vec![], 3));
    // A job that comes now is behind them, whatever number the removed one had.
    let last = job();
    store.put_job(last.clone(), Revision::NEW).expect("kept");
    assert_eq!(all(&mut store)[3].id, last.id);
}

#[test]
fn what_an_earlier_gateway_stored_by_number_is_found_and_orphans_are_dropped() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(folder.path(), 10, 1 << 20).expect("opens");
    let record = job();
    let mut json = serde_json::to_value(&record).expect("JSON");
    json["number"] = 7.into();
    let json = serde_json::to_vec(&json).expect("JSON");
    store
        .change(|tables| {
            tables.jobs.insert(7, &json[..])?;
            Ok(())
        })
        .expect("kept");
    let transaction = store.database().expect("open").begin_write().expect("writes");
    transaction
        .open_table(NUMBERED_SOURCES)
        .and_then(|mut table| Ok(table.insert(7, &b"source"[..]).map(drop)?))
        .expect("kept");
    transaction.commit().expect("kept");
    store.put_source(job().id, b"of a job that was never stored").expect("kept");
    drop(store);
    let mut store = Store::open(folder.path(), 10, 1 << 20).expect("opens again");
    assert_eq!(store.unfinished_jobs().expect("reads"), [record.id]);
    assert_eq!(sources(&mut store), [record.id]);
    let source = store.job_picture(record.id).expect("reads");
    assert_eq!(source.as_deref(), Some(&b"source"[..]));
    let later = job();
    store.put_job(later.clone(), Revision::NEW).expect("kept");
    assert_eq!(store.unfinished_jobs().expect("reads"), [record.id, later.id]);
}

#[test]
fn a_file_that_is_none_of_ours_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join(FILE), b"something else entirely").expect("writes");
    let error = Store::open(folder.path(), 3, 1000).err().expect("refused").to_string();
    assert!(error.contains(FILE) && error.contains("--history"), "{error}");
}
