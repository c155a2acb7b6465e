//! What the safe interface of the client library has no word for: the id of a topic, leader epochs, reading a partition without a
//! consumer group, and a count of the answers from which the library may have learned that a topic is another one.
//!
//! The only unsafe code of this project. Pointers stay in this file; what leaves it borrows from the client that owns the memory.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::os::raw::{c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use rdkafka::bindings as c;
use rdkafka::client::Client;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaType;
use rdkafka::{ClientConfig, ClientContext};

/// A topic as the brokers describe it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TopicFacts {
    /// All zero where the brokers are too old to give topics an id.
    pub id: [u8; 16],
    pub partitions: usize,
}

/// Asks one broker; `None`: it knows no such topic. Brokers learn of changes one after the other: whoever has to know what stood
/// behind a record asks the broker that gave it.
pub fn describe_topic<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    broker: i32,
    wait: Duration,
) -> Result<Option<TopicFacts>, String> {
    let name = CString::new(topic).map_err(|_| "a topic's name holds no zero byte".to_owned())?;
    let rk = client.native_ptr();
    // SAFETY: `rk` lives as long as `client`, which outlives this call. Everything made here is destroyed here, the queue after
    // the events that came from it; what is read from the event is copied before the event is destroyed.
    unsafe {
        let queue = Owned::new(c::rd_kafka_queue_new(rk), c::rd_kafka_queue_destroy);
        let options = Owned::new(
            c::rd_kafka_AdminOptions_new(rk, c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS),
            c::rd_kafka_AdminOptions_destroy,
        );
        let mut why = [0 as c_char; 256];
        c::rd_kafka_AdminOptions_set_request_timeout(options.0, millis(wait), why.as_mut_ptr(), why.len());
        c::rd_kafka_AdminOptions_set_broker(options.0, broker, why.as_mut_ptr(), why.len());
        let mut names = [name.as_ptr()];
        let topics = Owned::new(
            c::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1),
            c::rd_kafka_TopicCollection_destroy,
        );
        c::rd_kafka_DescribeTopics(rk, topics.0, options.0, queue.0);
        // The library answers after its own timeout at the latest.
        let event = c::rd_kafka_queue_poll(queue.0, millis(wait + Duration::from_secs(1)));
        if event.is_null() {
            return Err("no answer came in time".to_owned());
        }
        let event = Owned::new(event, c::rd_kafka_event_destroy);
        if code(c::rd_kafka_event_error(event.0)) != RDKafkaErrorCode::NoError {
            return Err(text(c::rd_kafka_event_error_string(event.0)));
        }
        let result = c::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return Err("the answer is not about a topic".to_owned());
        }
        let mut count = 0;
        let described = c::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if described.is_null() || count == 0 {
            return Err("the answer names no topic".to_owned());
        }
        let described = *described;
        let error = c::rd_kafka_TopicDescription_error(described);
        match code(c::rd_kafka_error_code(error)) {
            RDKafkaErrorCode::NoError => {}
            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => return Ok(None),
            _ => return Err(text(c::rd_kafka_error_string(error))),
        }
        let uuid = c::rd_kafka_TopicDescription_topic_id(described);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&c::rd_kafka_Uuid_most_significant_bits(uuid).to_be_bytes());
        id[8..].copy_from_slice(&c::rd_kafka_Uuid_least_significant_bits(uuid).to_be_bytes());
        let mut partitions = 0;
        c::rd_kafka_TopicDescription_partitions(described, &mut partitions);
        Ok(Some(TopicFacts { id, partitions }))
    }
}

/// The broker that leads partition 0, or any where it has no leader; `None`: there is no such topic.
pub fn leader_of<C: ClientContext>(client: &Client<C>, topic: &str, wait: Duration) -> Result<Option<i32>, String> {
    let metadata = client
        .fetch_metadata(Some(topic), wait)
        .map_err(|error| error.to_string())?;
    let found = metadata.topics().first().ok_or("the answer names no topic")?;
    match found.error().map(RDKafkaErrorCode::from) {
        None => {}
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => return Ok(None),
        Some(error) => return Err(error.to_string()),
    }
    let leader = found.partitions().first().map(|partition| partition.leader());
    let any = || metadata.brokers().first().map(|broker| broker.id());
    let broker = leader.filter(|leader| *leader >= 0).or_else(any);
    broker.map(Some).ok_or("no broker is there".to_owned())
}

/// What a client's threads have seen go by. Counted before the library acts on it.
#[derive(Default)]
pub struct Seen {
    metadata: AtomicU64,
    fetched_by_name: AtomicBool,
}

/// Reads partition 0 of one topic, without a consumer group.
pub struct Consumer<C: ClientContext> {
    topic: *mut c::rd_kafka_topic_t,
    main: *mut c::rd_kafka_queue_t,
    /// Null while nothing is read.
    queue: *mut c::rd_kafka_queue_t,
    name: CString,
    // The client goes after what was made of it (see `drop`), and before what its threads count in.
    client: Client<C>,
    seen: Arc<Seen>,
}

// SAFETY: the library's handles may be used from any thread; `&mut` guards the one that is not a handle's.
unsafe impl<C: ClientContext> Send for Consumer<C> {}

impl<C: ClientContext> Consumer<C> {
    pub fn new(config: &ClientConfig, topic: &str, context: C) -> Result<Consumer<C>, KafkaError> {
        let name = CString::new(topic)?;
        let native = config.create_native_config()?;
        let seen = Arc::new(Seen::default());
        let counted = Arc::as_ptr(&seen) as *mut c_void;
        // SAFETY: the configuration is ours until `Client::new` takes it. `counted` points into `seen`, which is dropped after
        // the client, whose destruction waits for all threads that could call back.
        let added = unsafe {
            c::rd_kafka_conf_set_events(native.ptr(), c::RD_KAFKA_EVENT_ERROR | c::RD_KAFKA_EVENT_LOG);
            c::rd_kafka_conf_interceptor_add_on_new(native.ptr(), INTERCEPTOR.as_ptr(), Some(on_new), counted)
        };
        if code(added) != RDKafkaErrorCode::NoError {
            return Err(KafkaError::Global(code(added)));
        }
        let client = Client::new(config, native, RDKafkaType::RD_KAFKA_CONSUMER, context)?;
        // SAFETY: the client was just made; both handles are destroyed in `drop`, before it.
        let (topic, main) = unsafe {
            (
                c::rd_kafka_topic_new(client.native_ptr(), name.as_ptr(), ptr::null_mut()),
                c::rd_kafka_queue_get_main(client.native_ptr()),
            )
        };
        let consumer = Consumer {
            topic,
            main,
            queue: ptr::null_mut(),
            name,
            client,
            seen,
        };
        if topic.is_null() {
            return Err(KafkaError::Global(last_error()));
        }
        Ok(consumer)
    }

    /// Reads from `offset` on; whatever was being read before is forgotten. `epoch` is that of the record before `offset`: the
    /// leader is asked whether it still has it, and the answer may be an error in place of records.
    pub fn start(&mut self, offset: i64, epoch: Option<i32>) -> Result<(), RDKafkaErrorCode> {
        self.stop();
        // SAFETY: topic and client live; the queue is kept until `stop`.
        unsafe {
            self.queue = c::rd_kafka_queue_new(self.client.native_ptr());
            if c::rd_kafka_consume_start_queue(self.topic, 0, offset, self.queue) != 0 {
                let error = last_error();
                c::rd_kafka_queue_destroy(self.queue);
                self.queue = ptr::null_mut();
                return Err(error);
            }
            if let Some(epoch) = epoch {
                let list = Owned::new(
                    c::rd_kafka_topic_partition_list_new(1),
                    c::rd_kafka_topic_partition_list_destroy,
                );
                let partition = c::rd_kafka_topic_partition_list_add(list.0, self.name.as_ptr(), 0);
                (*partition).offset = offset;
                c::rd_kafka_topic_partition_set_leader_epoch(partition, epoch);
                // Without waiting: the order of both commands stands, and records read before the second are dropped.
                let error = c::rd_kafka_seek_partitions(self.client.native_ptr(), list.0, 0);
                if !error.is_null() {
                    c::rd_kafka_error_destroy(error);
                }
            }
        }
        Ok(())
    }

    pub fn stop(&mut self) {
        if self.queue.is_null() {
            return;
        }
        // SAFETY: the queue is ours and nothing borrows from it, as `poll` holds `self`.
        unsafe {
            c::rd_kafka_consume_stop(self.topic, 0);
            c::rd_kafka_queue_destroy(self.queue);
        }
        self.queue = ptr::null_mut();
    }

    /// What has come: waits for the first, and then takes what there is.
    pub fn poll(&mut self, most: usize, wait: Duration) -> Messages<'_> {
        let mut all: Vec<*mut c::rd_kafka_message_t> = Vec::new();
        if !self.queue.is_null() && most > 0 {
            all.reserve(most);
            // SAFETY: the queue lives; at most `most` pointers are written into the room reserved for them.
            unsafe {
                let first = c::rd_kafka_consume_batch_queue(self.queue, millis(wait), all.as_mut_ptr(), 1);
                if first == 1 {
                    let rest = c::rd_kafka_consume_batch_queue(self.queue, 0, all.as_mut_ptr().add(1), most - 1);
                    all.set_len(1 + usize::try_from(rest).unwrap_or(0));
                }
            }
        }
        Messages { all, of: PhantomData }
    }

    /// Has the client learn which broker leads the partition, so that reading begins at once. It would find out later, too.
    pub fn warm(&self, wait: Duration) {
        if let (0, Ok(name)) = (self.metadata_seen(), self.name.to_str()) {
            // Whatever went wrong shows when it is read.
            let _ = self.client.fetch_metadata(Some(name), wait);
        }
    }

    /// How many answers about topics the client has had. After it has risen, what was read may be of another topic of the
    /// same name: the library goes on there in silence.
    pub fn metadata_seen(&self) -> u64 {
        self.seen.metadata.load(SeqCst)
    }

    /// Whether records were ever asked for by the topic's name alone, as old brokers want it: then no answer would tell.
    pub fn fetched_by_name(&self) -> bool {
        self.seen.fetched_by_name.load(SeqCst)
    }

    /// Hands log lines and errors of the client to its context. They gather until this is called.
    pub fn serve(&self) {
        loop {
            // SAFETY: the main queue lives as long as the client; each event is destroyed before the next.
            unsafe {
                let event = c::rd_kafka_queue_poll(self.main, 0);
                if event.is_null() {
                    return;
                }
                let event = Owned::new(event, c::rd_kafka_event_destroy);
                match c::rd_kafka_event_type(event.0) {
                    c::RD_KAFKA_EVENT_ERROR => {
                        let error = KafkaError::Global(code(c::rd_kafka_event_error(event.0)));
                        let reason = text(c::rd_kafka_event_error_string(event.0));
                        self.client.context().error(error, &reason);
                    }
                    c::RD_KAFKA_EVENT_LOG => {
                        let (mut facility, mut line, mut level) = (ptr::null(), ptr::null(), 0);
                        if c::rd_kafka_event_log(event.0, &mut facility, &mut line, &mut level) == 0 {
                            self.client.context().log(level_of(level), &text(facility), &text(line));
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

impl<C: ClientContext> Drop for Consumer<C> {
    fn drop(&mut self) {
        self.stop();
        // SAFETY: both came from the client, which is dropped after this; a null topic was never made.
        unsafe {
            if !self.topic.is_null() {
                c::rd_kafka_topic_destroy(self.topic);
            }
            c::rd_kafka_queue_destroy(self.main);
        }
    }
}

/// Records and errors, in the order in which they came.
pub struct Messages<'a> {
    all: Vec<*mut c::rd_kafka_message_t>,
    of: PhantomData<&'a ()>,
}

impl<'a> Messages<'a> {
    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = Message<'_>> {
        self.all.iter().map(|message| Message {
            ptr: *message,
            of: PhantomData,
        })
    }
}

impl Drop for Messages<'_> {
    fn drop(&mut self) {
        for message in &self.all {
            // SAFETY: each was given to us once, and its client outlives this value.
            unsafe { c::rd_kafka_message_destroy(*message) }
        }
    }
}

/// Who stamped a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stamp {
    Broker(i64),
    Producer(i64),
    Nobody,
}

#[derive(Clone, Copy)]
pub struct Message<'a> {
    ptr: *const c::rd_kafka_message_t,
    of: PhantomData<&'a ()>,
}

// SAFETY of all that follows: `ptr` is a live message, as `Messages` lives, and the library does not change it.
impl<'a> Message<'a> {
    /// `None` for a record.
    pub fn error(self) -> Option<(RDKafkaErrorCode, String)> {
        let error = code(unsafe { (*self.ptr).err });
        (error != RDKafkaErrorCode::NoError).then(|| (error, text(unsafe { c::rd_kafka_message_errstr(self.ptr) })))
    }

    pub fn offset(self) -> i64 {
        unsafe { (*self.ptr).offset }
    }

    /// Who gave it.
    pub fn broker(self) -> i32 {
        unsafe { c::rd_kafka_message_broker_id(self.ptr) }
    }

    /// `None` where the broker did not say.
    pub fn leader_epoch(self) -> Option<i32> {
        let epoch = unsafe { c::rd_kafka_message_leader_epoch(self.ptr) };
        (epoch >= 0).then_some(epoch)
    }

    /// No value and an empty one are the same.
    pub fn payload(self) -> &'a [u8] {
        unsafe {
            let message = &*self.ptr;
            if message.payload.is_null() || message.len == 0 {
                &[]
            } else {
                std::slice::from_raw_parts(message.payload as *const u8, message.len)
            }
        }
    }

    pub fn stamp(self) -> Stamp {
        let mut kind = c::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        let time = unsafe { c::rd_kafka_message_timestamp(self.ptr, &mut kind) };
        match kind {
            c::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME => Stamp::Broker(time),
            c::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_CREATE_TIME => Stamp::Producer(time),
            _ => Stamp::Nobody,
        }
    }

    /// The last header of this name.
    pub fn header(self, name: &CStr) -> Option<&'a [u8]> {
        unsafe {
            let mut headers = ptr::null_mut();
            if code(c::rd_kafka_message_headers(self.ptr, &mut headers)) != RDKafkaErrorCode::NoError {
                return None;
            }
            let (mut value, mut size) = (ptr::null(), 0);
            let found = c::rd_kafka_header_get_last(headers, name.as_ptr(), &mut value, &mut size);
            (code(found) == RDKafkaErrorCode::NoError && !value.is_null())
                .then(|| std::slice::from_raw_parts(value as *const u8, size))
        }
    }
}

const INTERCEPTOR: &CStr = c"confold";
const FETCH: i16 = 1;
const METADATA: i16 = 3;
/// From here on records are asked for by the topic's id.
const FETCH_BY_ID: i16 = 13;

unsafe extern "C" fn on_new(
    rk: *mut c::rd_kafka_t,
    _conf: *const c::rd_kafka_conf_t,
    seen: *mut c_void,
    _why: *mut c_char,
    _why_size: usize,
) -> c::rd_kafka_resp_err_t {
    // SAFETY: called by the library with the client being made and with what `Consumer::new` gave.
    unsafe { c::rd_kafka_interceptor_add_on_response_received(rk, INTERCEPTOR.as_ptr(), Some(on_response), seen) }
}

unsafe extern "C" fn on_response(
    _rk: *mut c::rd_kafka_t,
    _socket: c_int,
    _broker: *const c_char,
    _broker_id: i32,
    api: i16,
    version: i16,
    _correlation: i32,
    _size: usize,
    _took: i64,
    _error: c::rd_kafka_resp_err_t,
    seen: *mut c_void,
) -> c::rd_kafka_resp_err_t {
    // SAFETY: see `Consumer::new`.
    let seen = unsafe { &*(seen as *const Seen) };
    match api {
        METADATA => {
            seen.metadata.fetch_add(1, SeqCst);
        }
        FETCH if version < FETCH_BY_ID => seen.fetched_by_name.store(true, SeqCst),
        _ => {}
    }
    c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
}

/// Destroys what it holds.
struct Owned<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Owned<T> {
    fn new(ptr: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Owned<T> {
        Owned(ptr, destroy)
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: made for us, with this function to destroy it.
            unsafe { (self.1)(self.0) }
        }
    }
}

fn code(error: c::rd_kafka_resp_err_t) -> RDKafkaErrorCode {
    error.into()
}

fn last_error() -> RDKafkaErrorCode {
    // SAFETY: reads a value of this thread.
    code(unsafe { c::rd_kafka_last_error() })
}

fn level_of(level: c_int) -> RDKafkaLogLevel {
    match level {
        ..=3 => RDKafkaLogLevel::Error,
        4 => RDKafkaLogLevel::Warning,
        5 => RDKafkaLogLevel::Notice,
        6 => RDKafkaLogLevel::Info,
        _ => RDKafkaLogLevel::Debug,
    }
}

fn text(words: *const c_char) -> String {
    if words.is_null() {
        return String::new();
    }
    // SAFETY: the library's texts end with a zero byte and live until what they belong to is destroyed.
    unsafe { CStr::from_ptr(words) }.to_string_lossy().trim().to_owned()
}

/// Up to the next whole one, so that a short wait is not none.
fn millis(wait: Duration) -> c_int {
    c_int::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX)
}
