//! Repairs what a process left that died between two changes. Every gateway does so; each repair can
//! be made twice, so nobody has to lead.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use futures::StreamExt as _;
use llm_dit_fault::Fault;
use tokio::time;

use super::{
    claims::lacks_entry,
    fault::failed,
    follow::snapshot,
    records::{JOB_KEYS, parse, result_of, source_of},
    server::Shared,
};

/// An object may be stored that much before the record or entry that names it.
const ORPHAN: Duration = Duration::from_secs(3600);

/// What was repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Repairs {
    /// Jobs that were in no queue.
    pub sent: usize,
    /// Images that were not in the history.
    pub completed: usize,
    /// Objects and chunks that nothing names.
    pub orphans: usize,
}

impl Shared {
    /// Sweeps until the gateway ends, every two leases.
    pub(crate) fn keep_sweeping(&self) {
        let (pause, stop) = (self.0.options.lease * 2, self.0.stop.clone());
        // The task must not keep the connection.
        let shared = std::sync::Arc::downgrade(&self.0);
        let sweeping = async move {
            loop {
                time::sleep(pause).await;
                let Some(shared) = shared.upgrade().map(Shared) else { return };
                if !shared.is_connected() {
                    continue;
                }
                match shared.sweep(shared.0.options.lease, ORPHAN).await {
                    Ok(Repairs { sent: 0, completed: 0, orphans: 0 }) => {}
                    Ok(repairs) => tracing::info!(?repairs, "repaired the shared queue"),
                    Err(fault) => tracing::warn!(%fault, "failed to check the shared queue"),
                }
            }
        };
        tokio::spawn(stop.run_until_cancelled_owned(sweeping));
    }

    /// Repairs records that have not changed for `settled`, and removes objects that nothing has
    /// named for `orphan`.
    pub(super) async fn sweep(
        &self,
        settled: Duration,
        orphan: Duration,
    ) -> Result<Repairs, Fault> {
        let inner = &self.0;
        let now = SystemTime::now();
        let (settled, orphan) = (now - settled, now - orphan);
        let mut repairs = Repairs::default();
        // Before the records, so that an object is not older than what names it.
        let objects = inner.objects.all().await?;
        let records = snapshot(&inner.client, &inner.records, JOB_KEYS).await?;
        let waiting = self.waiting().await?;
        let mut named: HashSet<String> = inner.mirror.objects().into_iter().collect();
        let mut is_whole = true;
        for entry in records {
            let Some(stored) = parse(&entry) else {
                is_whole = false;
                continue;
            };
            let id = stored.record.id;
            if !stored.record.is_over() {
                named.insert(source_of(id));
            }
            if let Some(owner) = &stored.record.owner {
                named.insert(result_of(id, owner));
            }
            if entry.at > settled {
                continue;
            }
            if !stored.record.is_over() && !waiting.contains(&id.to_string()) {
                let revision = entry.revision;
                self.send(id, &format!("{id}.{revision}")).await?;
                repairs.sent += 1;
            } else if lacks_entry(&stored.record) {
                match self.complete(stored).await {
                    Ok(_) => repairs.completed += 1,
                    Err(fault) => tracing::warn!(%id, %fault, "the history lacks an image"),
                }
            }
        }
        // A record of another version may name any of them.
        if is_whole {
            let is_orphan = |name: &str, at| at < orphan && !named.contains(name);
            let orphans = objects.iter().filter(|about| is_orphan(&about.name, about.at));
            for about in orphans {
                inner.objects.delete(&about.name).await?;
                repairs.orphans += 1;
            }
            let chunks = inner.objects.sweep_chunks(&objects, orphan).await?;
            repairs.orphans += usize::from(chunks > 0);
        }
        self.trim().await;
        Ok(repairs)
    }

    /// Ids of the jobs that are in the queue, claimed ones too.
    async fn waiting(&self) -> Result<HashSet<String>, Fault> {
        let prefix = "llm-dit.work.";
        let subjects = self.0.work.info_with_subjects(format!("{prefix}*")).await;
        let mut subjects = subjects.map_err(|error| failed("listing the queue", &error))?;
        let mut waiting = HashSet::new();
        while let Some(subject) = subjects.next().await {
            let (subject, _) = subject.map_err(|error| failed("listing the queue", &error))?;
            waiting.extend(subject.strip_prefix(prefix).map(str::to_owned));
        }
        Ok(waiting)
    }
}
