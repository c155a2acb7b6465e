//! What a replica's metrics are called, and those that are read off once a second instead of being counted where it happens.

use crate::core::Core;
use crate::status::Metrics;
use confold_log::Log;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Name, kind and meaning of every metric of a replica; each has the label `store`. docs/operations.md has the same table, with
/// what to do.
pub const METRICS: [(&str, &str, &str); 57] = [
    ("confold_state", "gauge", "1 for the state that the replica is in, 0 for the others, by state."),
    ("confold_position", "gauge", "Last position folded."),
    ("confold_durable_position", "gauge", "Everything up to here survives a power cut in the database."),
    ("confold_revision", "gauge", "Latest revision."),
    ("confold_floor", "gauge", "Untagged revisions up to here are gone."),
    ("confold_kept_revisions", "gauge", "Revisions above the floor."),
    ("confold_tags", "gauge", "Tagged revisions."),
    ("confold_log_start_position", "gauge", "First position that the log still has."),
    ("confold_log_end_position", "gauge", "Position of the next record."),
    ("confold_log_healthy", "gauge", "1 while the log is expected to take records."),
    ("confold_log_batch_records", "histogram", "Records made durable by one sync of the log."),
    ("confold_log_sync_seconds", "histogram", "Making one batch of the log durable."),
    ("confold_log_written_bytes_total", "counter", "Written to the log's files."),
    ("confold_last_fold_time_seconds", "gauge", "When something was last folded, in seconds since 1970."),
    ("confold_last_record_time_seconds", "gauge", "The stamp of the last record folded, in seconds since 1970."),
    ("confold_batch_records", "histogram", "Records folded as one batch."),
    ("confold_fold_seconds", "histogram", "Folding a batch."),
    ("confold_events_total", "counter", "Events folded, by outcome."),
    ("confold_event_bytes_total", "counter", "Bytes of the events folded."),
    ("confold_proposals_total", "counter", "Events handed to the log for callers."),
    ("confold_proposals_refused_total", "counter", "Events that were not handed to the log."),
    ("confold_proposals_unknown_total", "counter", "Proposals whose outcome was not known in time."),
    ("confold_proposals_in_flight", "gauge", "Proposals that wait for their event."),
    ("confold_calls_slowed_total", "counter", "Calls that waited since their caller asked too fast."),
    ("confold_calls_over_quota_total", "counter", "Calls refused with QUOTA."),
    ("confold_open_views", "gauge", "Views held by readers."),
    ("confold_tree_bytes", "gauge", "Memory of the loaded tree."),
    ("confold_tree_sheds_total", "counter", "Times that the loaded tree outgrew its bound."),
    ("confold_object_cache_bytes", "gauge", "Memory of the cache of objects."),
    ("confold_object_cache_hits_total", "counter", "Objects found in the cache."),
    ("confold_object_cache_misses_total", "counter", "Objects read from the database."),
    ("confold_object_retries_total", "counter", "Objects that the fold could not read and asked for again."),
    ("confold_past_remade_total", "counter", "Past trees made again from the log."),
    ("confold_past_differs_total", "counter", "Past trees that came out with another root than their row says."),
    ("confold_block_cache_bytes", "gauge", "Memory of the database's cache of blocks."),
    ("confold_block_cache_hits_total", "counter", "Blocks of the database's files found in the cache."),
    ("confold_block_cache_misses_total", "counter", "Blocks of the database's files read from the disk."),
    ("confold_store_commit_seconds", "histogram", "Writing a batch to the database."),
    ("confold_store_sync_seconds", "histogram", "Making the database durable."),
    ("confold_store_puts_total", "counter", "Rows and objects handed to the database, removals included."),
    ("confold_store_put_bytes_total", "counter", "Bytes handed to the database."),
    ("confold_store_written_bytes_total", "counter", "Bytes that the database wrote to its files."),
    ("confold_store_disk_bytes", "gauge", "Size of the database's files."),
    ("confold_store_objects", "gauge", "Objects in the database, about."),
    ("confold_store_compaction_pending_bytes", "gauge", "What the database has yet to rewrite, about."),
    ("confold_store_held_back", "gauge", "1 while the database slows writes down or stops them."),
    ("confold_sweeping", "gauge", "1 while a sweep runs."),
    ("confold_sweeps_total", "counter", "Sweeps that ended."),
    ("confold_last_sweep_seconds", "gauge", "How long the last sweep took."),
    ("confold_swept_objects_total", "counter", "Objects removed by sweeps."),
    ("confold_swept_bytes_total", "counter", "Bytes of the objects removed by sweeps."),
    ("confold_readers_renewed_total", "counter", "Times that the log gave nothing for too long and was read anew."),
    ("confold_disputed", "gauge", "1 while another replica disagrees."),
    ("confold_disagreements_total", "counter", "Marks at which another replica announced another state hash."),
    ("confold_marks_folded_again_total", "counter", "Marks folded again because replicas disagree."),
    ("confold_checkpoint_lag", "gauge", "Positions since the newest mark on which another replica agrees."),
    ("confold_agreeing_replicas", "gauge", "Other replicas whose newest announcement agrees."),
];

/// Tells the recorder what each metric is. Where there is none yet, it is told by the next store.
pub(crate) fn describe() {
    for (name, kind, meaning) in METRICS {
        match kind {
            "gauge" => metrics::describe_gauge!(name, meaning),
            "counter" => metrics::describe_counter!(name, meaning),
            _ => metrics::describe_histogram!(name, meaning),
        }
    }
}

impl Metrics {
    fn set(&self, name: &'static str, value: u64) {
        metrics::gauge!(name, vec![self.label()]).set(value as f64);
    }

    /// A counter that is kept elsewhere stands at `now`: it may have begun anew with this replica, the metric has not.
    fn rise(&self, shown: &mut BTreeMap<&'static str, u64>, name: &'static str, now: u64) {
        let before = shown.insert(name, now).unwrap_or(0);
        metrics::counter!(name, vec![self.label()]).increment(now.saturating_sub(before));
    }

    /// From here on what the log writes is counted.
    pub fn watch(&self, log: &dyn Log) {
        let histogram = |name: &'static str| metrics::histogram!(name, vec![self.label()]);
        let (records, sync) = (histogram("confold_log_batch_records"), histogram("confold_log_sync_seconds"));
        let bytes = metrics::counter!("confold_log_written_bytes_total", vec![self.label()]);
        log.observe(Arc::new(move |written| {
            records.record(written.records as f64);
            sync.record(written.sync);
            bytes.increment(written.bytes);
        }));
    }
}

impl Core {
    /// Reads off whatever is not told by itself.
    pub fn show_metrics(&self) {
        let (view, metrics) = (self.views.latest(), &self.metrics);
        let range = self.log.range();
        let agreement = &view.agreement;
        let alone = agreement.opinions.is_empty();
        let since_agreed = view.position.0.saturating_sub(agreement.agreed.unwrap_or_default().0);
        let (estimate, stats, engine) = (self.store.estimate(), self.store.stats(), self.store.engine());
        for (name, value) in [
            ("confold_durable_position", self.store.durable().unwrap_or_default().0),
            ("confold_kept_revisions", view.revision.0.saturating_sub(view.floor.0)),
            ("confold_tags", view.tags.len() as u64),
            ("confold_log_start_position", range.start.0),
            ("confold_log_end_position", range.end.0),
            ("confold_log_healthy", u64::from(self.log.health().is_ok())),
            ("confold_proposals_in_flight", self.desk.in_flight() as u64),
            ("confold_open_views", self.open_views() as u64),
            ("confold_object_cache_bytes", self.objects.bytes()),
            ("confold_block_cache_bytes", engine.cache_bytes),
            ("confold_store_disk_bytes", engine.disk_bytes),
            ("confold_store_objects", estimate.objects),
            ("confold_store_compaction_pending_bytes", engine.compaction_pending_bytes),
            ("confold_store_held_back", u64::from(engine.held_back)),
            ("confold_sweeping", u64::from(self.sweeping.is_locked())),
            ("confold_disputed", u64::from(agreement.is_disputed())),
            ("confold_checkpoint_lag", if alone { 0 } else { since_agreed }),
            ("confold_agreeing_replicas", agreement.opinions.iter().filter(|one| one.agrees == Some(true)).count() as u64),
        ] {
            metrics.set(name, value);
        }
        let tally = &metrics.tally;
        let shown = &mut *metrics.shown.lock();
        for (name, now) in [
            ("confold_event_bytes_total", tally.bytes.load(Relaxed)),
            ("confold_proposals_total", tally.proposed.load(Relaxed)),
            ("confold_proposals_refused_total", tally.refused.load(Relaxed)),
            ("confold_proposals_unknown_total", tally.unknown.load(Relaxed)),
            ("confold_tree_sheds_total", tally.sheds.load(Relaxed)),
            ("confold_object_cache_hits_total", self.objects.hits()),
            ("confold_object_cache_misses_total", self.objects.misses()),
            ("confold_object_retries_total", tally.retries.load(Relaxed)),
            ("confold_past_remade_total", tally.remade.load(Relaxed)),
            ("confold_past_differs_total", tally.differs.load(Relaxed)),
            ("confold_block_cache_hits_total", engine.cache_hits),
            ("confold_block_cache_misses_total", engine.cache_misses),
            ("confold_store_puts_total", stats.puts),
            ("confold_store_put_bytes_total", stats.bytes),
            ("confold_store_written_bytes_total", engine.written_bytes),
            ("confold_sweeps_total", tally.sweeps.load(Relaxed)),
            ("confold_swept_objects_total", tally.swept_objects.load(Relaxed)),
            ("confold_swept_bytes_total", tally.swept_bytes.load(Relaxed)),
            ("confold_readers_renewed_total", tally.new_readers.load(Relaxed)),
            ("confold_disagreements_total", tally.disagreements.load(Relaxed)),
            ("confold_marks_folded_again_total", tally.folded_again.load(Relaxed)),
        ] {
            metrics.rise(shown, name, now);
        }
        metrics.show_state(self.stand.state());
    }
}
