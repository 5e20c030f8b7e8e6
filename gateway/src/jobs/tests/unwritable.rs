//! Jobs whose end cannot be stored.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::stream::BoxStream;
use llm_dit_testkit::{
    fakes::FastDiffusion,
    servers::{Server, fake_encoder},
};

use super::*;
use crate::{
    jobs::store::{Claim, JobIndex, JobQueue, PictureStore, StoredJob},
    options::EncoderTarget,
    records::picture::Made,
};

const WIDTH: usize = 24;

/// A store on a disk that is full as long as the flag is set.
#[derive(Clone, Debug, Default)]
struct FullDisk {
    store: InMemoryJobStore,
    full: Arc<AtomicBool>,
}

struct FullClaim {
    claim: Box<dyn Claim>,
    full: Arc<AtomicBool>,
}

fn full(flag: &AtomicBool) -> Result<(), Fault> {
    match flag.load(Ordering::SeqCst) {
        true => Err(Fault::Unavailable("the disk is full".to_owned())),
        false => Ok(()),
    }
}

#[tonic::async_trait]
impl JobQueue for FullDisk {
    async fn publish(&self, job: JobId) -> Result<(), Fault> {
        self.store.publish(job).await
    }

    async fn claim(&self) -> Box<dyn Claim> {
        let claim = self.store.claim().await;
        Box::new(FullClaim { claim, full: Arc::clone(&self.full) })
    }
}

#[tonic::async_trait]
impl Claim for FullClaim {
    fn job(&self) -> JobId {
        self.claim.job()
    }

    async fn extend(&mut self) -> Result<(), Fault> {
        self.claim.extend().await
    }

    async fn finish(
        &mut self,
        record: JobRecord,
        picture: Option<Made>,
    ) -> Result<Option<JobRecord>, Fault> {
        full(&self.full)?;
        self.claim.finish(record, picture).await
    }

    async fn requeue(&mut self, record: JobRecord) -> Result<(), Fault> {
        self.claim.requeue(record).await
    }
}

#[tonic::async_trait]
impl JobIndex for FullDisk {
    async fn put(&self, record: JobRecord, expected: Revision) -> Result<Revision, PutError> {
        JobIndex::put(&self.store, record, expected).await
    }

    async fn by_id(&self, id: JobId) -> Result<Option<StoredJob>, Fault> {
        self.store.by_id(id).await
    }

    async fn by_key(&self, key: &str) -> Result<Option<StoredJob>, Fault> {
        self.store.by_key(key).await
    }

    async fn remove(&self, ids: Vec<JobId>) -> Result<(), Fault> {
        self.store.remove(ids).await
    }

    async fn watch(&self) -> Result<BoxStream<'static, Change>, Fault> {
        self.store.watch().await
    }
}

#[tonic::async_trait]
impl PictureStore for FullDisk {
    async fn put(&self, job: JobId, picture: Bytes) -> Result<(), Fault> {
        PictureStore::put(&self.store, job, picture).await
    }

    async fn get(&self, job: JobId) -> Result<Option<Bytes>, Fault> {
        self.store.get(job).await
    }
}

/// Services that make the same PNG of every request.
async fn services() -> (Server, Server, GatewayOptions) {
    let mut file = std::io::Cursor::new(Vec::new());
    let pixels = image::RgbImage::new(256, 256);
    pixels.write_to(&mut file, image::ImageFormat::Png).expect("a picture");
    let (encoder, jobs) = fake_encoder(WIDTH);
    std::mem::forget(jobs);
    let encoder = Server::encoder(encoder).await;
    let fake = FastDiffusion {
        cap_feat_dim: WIDTH as u32,
        picture: file.into_inner().into(),
        preview: None,
        flood: Vec::new(),
    };
    let diffusion = Server::fast_diffusion(fake).await;
    let options = GatewayOptions {
        encoders: vec![EncoderTarget::local(&encoder.url)],
        diffusion: vec![diffusion.url.clone()],
        ..GatewayOptions::default()
    };
    (encoder, diffusion, options)
}

async fn until(done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    time::timeout(Duration::from_secs(60), wait).await.expect("it comes");
}

fn is_done(job: &Job) -> bool {
    matches!(job.outcome(), Some(Outcome::Done(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_whose_end_cannot_be_stored_take_no_places_from_others() {
    let (_encoder, _diffusion, options) = services().await;
    let disk = FullDisk::default();
    let jobs = jobs_with(JobStore::of(disk.clone()), &options, LIMITS).await;
    disk.full.store(true, Ordering::SeqCst);
    let mut made = Vec::new();
    // As many as there are places, and then some more.
    for _ in 0..12 {
        until(|| jobs.worker.admissions.running() < 8).await;
        let (id, _) = accept(&jobs, None).await.expect("accepted");
        made.push(jobs.get(id).expect("known"));
    }
    until(|| made.iter().all(|job| job.unstored().is_some())).await;
    until(|| jobs.worker.admissions.running() == 0).await;
    assert!(made.iter().all(|job| is_done(job) && job.file().is_some()));
    assert_eq!(jobs.unstored().map(|(jobs, _)| jobs), Some(12));
    disk.full.store(false, Ordering::SeqCst);
    until(|| jobs.unstored().is_none()).await;
    for job in &made {
        assert!(is_done(job) && job.file().is_none());
        let file = jobs.picture(job).await.expect("reads").expect("stored");
        assert!(image::load_from_memory(&file).is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_wait_for_the_disk_are_bounded_and_what_does_not_fit_is_made_again() {
    let (_encoder, _diffusion, options) = services().await;
    let disk = FullDisk::default();
    // Room for one.
    let limits = JobLimits { unstored_bytes: 1, ..LIMITS };
    let jobs = jobs_with(JobStore::of(disk.clone()), &options, limits).await;
    disk.full.store(true, Ordering::SeqCst);
    let mut made = Vec::new();
    for _ in 0..3 {
        let (id, _) = accept(&jobs, None).await.expect("accepted");
        made.push(jobs.get(id).expect("known"));
    }
    let begun = |job: &Arc<Job>| job.record().started.is_some();
    until(|| made.iter().all(begun) && jobs.worker.admissions.running() == 0).await;
    let kept = made.iter().filter(|job| job.file().is_some()).count();
    let over = made.iter().filter(|job| job.is_over()).count();
    assert_eq!((kept, over), (1, 1), "the others wait");
    // One that waits can be cancelled.
    let cancelled = made.iter().find(|job| !job.is_over()).expect("one waits");
    cancelled.cancel();
    until(|| cancelled.is_over()).await;
    disk.full.store(false, Ordering::SeqCst);
    until(|| jobs.unstored().is_none() && made.iter().all(|job| job.is_over())).await;
    let done = made.iter().filter(|job| is_done(job));
    assert_eq!(done.map(|job| job.record().attempts).collect::<Vec<_>>(), [1, 1]);
}
