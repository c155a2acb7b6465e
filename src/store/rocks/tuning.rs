//! RocksDB's settings, and why.

use crate::keys::{OBJECTS, ROWS};
use rocksdb::statistics::StatsLevel;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, DataBlockIndexType, LogLevel,
};

/// What an operator may want to change. The defaults suit a process of 1 GiB with a tree of a million nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Blocks, indexes and filters read from files; the larger, the fewer reads.
    pub cache_bytes: usize,
    /// Objects gathered before they are written out as a file; up to four times as much may be in memory, and stand
    /// in the log to be read again on opening. Larger ones are slower to write to, as their skip lists outgrow the
    /// processor's caches: with 64 MiB instead of 16 an event took a quarter longer.
    pub memtable_bytes: usize,
    pub max_open_files: u16,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cache_bytes: 64 << 20,
            memtable_bytes: 16 << 20,
            max_open_files: 512,
        }
    }
}

pub fn database(options: &Options, create: bool) -> rocksdb::Options {
    let mut db = rocksdb::Options::default();
    db.create_if_missing(create);
    db.create_missing_column_families(create);
    // A crash leaves a prefix of the batches without a hole; a hole in what was synced is damage, not a crash.
    db.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    db.set_track_and_verify_wals_in_manifest(true);
    db.set_paranoid_checks(true);
    db.set_recycle_log_file_num(0);
    db.set_max_total_wal_size(4 * options.memtable_bytes as u64);
    // Two cores are shared with the fold and the servers.
    db.set_max_background_jobs(2);
    db.set_max_open_files(i32::from(options.max_open_files));
    // Written out as it comes rather than in one burst at a sync.
    db.set_bytes_per_sync(1 << 20);
    db.set_wal_bytes_per_sync(1 << 20);
    // One thread writes.
    db.set_allow_concurrent_memtable_write(false);
    db.set_enable_write_thread_adaptive_yield(false);
    // Opening reads no more than it must, and files no longer needed are not deleted by a reader.
    db.set_skip_stats_update_on_db_open(true);
    db.set_avoid_unnecessary_blocking_io(true);
    db.set_keep_log_file_num(4);
    db.set_max_log_file_size(4 << 20);
    db.set_log_level(LogLevel::Warn);
    db.set_max_manifest_file_size(16 << 20);
    // For the metrics: counters alone, since histograms and timers ask for the time at every turn.
    db.enable_statistics();
    db.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
    db.set_stats_dump_period_sec(0);
    db.set_stats_persist_period_sec(0);
    db
}

pub fn families(options: &Options) -> [ColumnFamilyDescriptor; 2] {
    let cache = Cache::new_lru_cache(options.cache_bytes);
    [
        ColumnFamilyDescriptor::new(ROWS, rows(options, &cache)),
        ColumnFamilyDescriptor::new(OBJECTS, objects(options, &cache)),
    ]
}

/// Rows come mostly in the order of their keys and are read in ranges.
fn rows(options: &Options, cache: &Cache) -> rocksdb::Options {
    let mut family = rocksdb::Options::default();
    family.set_write_buffer_size((options.memtable_bytes / 4).max(1 << 20));
    family.set_compression_type(DBCompressionType::Lz4);
    let mut table = table(cache);
    table.set_block_size(8 << 10);
    family.set_block_based_table_factory(&table);
    family
}

/// Objects have random keys, so every compaction rewrites them: few compactions, few levels, large files. Most of
/// their bytes are hashes: no compression.
fn objects(options: &Options, cache: &Cache) -> rocksdb::Options {
    let mut family = rocksdb::Options::default();
    family.set_write_buffer_size(options.memtable_bytes);
    family.set_compression_type(DBCompressionType::None);
    family.set_max_write_buffer_number(4);
    family.set_level_zero_file_num_compaction_trigger(8);
    family.set_max_bytes_for_level_base(256 << 20);
    family.set_target_file_size_base(64 << 20);
    let mut table = table(cache);
    table.set_block_size(4 << 10);
    table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    family.set_block_based_table_factory(&table);
    family
}

fn table(cache: &Cache) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    // Indexes and filters count towards the cache too, so memory stays bounded however large the store grows.
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_bloom_filter(10.0, false);
    table.set_optimize_filters_for_memory(true);
    table.set_format_version(6);
    table
}
