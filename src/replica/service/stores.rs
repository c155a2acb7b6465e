//! The stores of one process by name, which may come and go while they are served.

use super::quota::Quotas;
use super::{Options, Refusal, Served};
use crate::handle::Handle;
use crate::status::Standing;
use async_trait::async_trait;
use confold_wire::pb;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Shared by the service and by whoever opens and closes stores. A call takes the map as it was when it came, so no call
/// waits for a store that is being opened or closed.
pub struct Stores {
    options: Options,
    all: RwLock<Arc<Entries>>,
}

type Entries = BTreeMap<Arc<str>, Entry>;

#[derive(Clone)]
enum Entry {
    Open(Arc<Served>),
    Shut(Arc<Standing>),
}

/// What was last seen of a log's settings. Asked by every `Status`, so it answers at once.
pub type Report = Arc<dyn Fn() -> Option<pb::LogReport> + Send + Sync>;

/// One store of the list.
pub struct Listed {
    pub name: Arc<str>,
    /// `None`: it is known here and not open; `standing` says why.
    pub handle: Option<Handle>,
    pub standing: Standing,
}

/// A store of that name is served already.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a store called {0:?} is open here already")]
pub struct NameTaken(pub String);

impl Stores {
    pub fn new(options: Options) -> Stores {
        Stores {
            options,
            all: RwLock::default(),
        }
    }

    /// Serves one more store under its own name. `log` is what its log is called in `Status`: `memory`, `file`, `kafka`.
    pub fn add(&self, handle: Handle, log: &str) -> Result<(), NameTaken> {
        self.add_reported(handle, log, None)
    }

    /// The same with what `Status` tells of the log's settings.
    pub fn add_reported(&self, handle: Handle, log: &str, report: Option<Report>) -> Result<(), NameTaken> {
        let name = handle.view().store_name.clone();
        let served = Served {
            quotas: Quotas::new(self.options.quota, &name),
            name: name.clone(),
            log: log.into(),
            report,
            objects: handle.objects(),
            options: self.options.clone(),
            handle,
            types: Mutex::default(),
        };
        let mut all = self.all.write();
        if matches!(all.get(&name), Some(Entry::Open(_))) {
            return Err(NameTaken(name.to_string()));
        }
        Arc::make_mut(&mut all).insert(name, Entry::Open(Arc::new(served)));
        Ok(())
    }

    /// Keeps the name in the list, and refuses its calls with what is said here. Gives the handle, if the store was open:
    /// calls that hold it already go on until it is shut down.
    pub fn shut(&self, name: &str, standing: Standing) -> Option<Handle> {
        let entry = Entry::Shut(Arc::new(standing));
        match Arc::make_mut(&mut self.all.write()).insert(name.into(), entry) {
            Some(Entry::Open(served)) => Some(served.handle.clone()),
            Some(Entry::Shut(_)) | None => None,
        }
    }

    /// The open store of this name.
    pub fn handle(&self, name: &str) -> Option<Handle> {
        match self.all.read().get(name) {
            Some(Entry::Open(served)) => Some(served.handle.clone()),
            Some(Entry::Shut(_)) | None => None,
        }
    }

    /// All of them by name.
    pub fn list(&self) -> Vec<Listed> {
        let all = self.entries();
        let listed = |(name, entry): (&Arc<str>, &Entry)| match entry {
            Entry::Open(served) => Listed {
                name: name.clone(),
                standing: served.handle.standing().borrow().clone(),
                handle: Some(served.handle.clone()),
            },
            Entry::Shut(standing) => Listed {
                name: name.clone(),
                handle: None,
                standing: (**standing).clone(),
            },
        };
        all.iter().map(listed).collect()
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    fn entries(&self) -> Arc<Entries> {
        self.all.read().clone()
    }

    /// Those that are open.
    pub(super) fn open(&self) -> Vec<Arc<Served>> {
        let all = self.entries();
        let open = all.values().filter_map(|entry| match entry {
            Entry::Open(served) => Some(served.clone()),
            Entry::Shut(_) => None,
        });
        open.collect()
    }

    /// The store of a name, or what stands in its place; an empty name is the only one, if it is the only one.
    pub(super) fn find(&self, name: &str) -> Option<(Arc<str>, Result<Arc<Served>, Arc<Standing>>)> {
        let all = self.entries();
        let found = match name {
            "" if all.len() == 1 => all.first_key_value(),
            name => all.get_key_value(name),
        };
        found.map(|(name, entry)| match entry {
            Entry::Open(served) => (name.clone(), Ok(served.clone())),
            Entry::Shut(standing) => (name.clone(), Err(standing.clone())),
        })
    }

    /// The store that is meant where none is named and there is one, if it is open.
    pub(super) fn only(&self, name: &str) -> Option<Arc<Served>> {
        match name {
            "" => self.find(name).and_then(|(_, found)| found.ok()),
            _ => None,
        }
    }

    /// Rows for callers: every store, or the open one of a name.
    pub(super) fn rows(&self) -> Vec<pb::StoreRow> {
        let all = self.entries();
        let row = |(name, entry): (&Arc<str>, &Entry)| match entry {
            Entry::Open(served) => super::upkeep::row(served),
            Entry::Shut(standing) => pb::StoreRow {
                name: name.to_string(),
                state: super::state(standing.state).into(),
                reason: standing.reason.clone(),
                ..Default::default()
            },
        };
        all.iter().map(row).collect()
    }
}

/// Makes, opens and closes stores of a server that runs: it knows the folders and the logs. What it opens it adds to the
/// `Stores`, what it closes it shuts there.
#[async_trait]
pub trait Keeper: Send + Sync + 'static {
    /// Makes a store and opens it.
    async fn create(&self, request: pb::CreateStoreRequest) -> Result<(), Refusal>;

    /// Opens a store that is known and not open, or that lies where the keeper looks.
    async fn open(&self, name: &str) -> Result<(), Refusal>;

    /// Lets calls under way end, and closes the store. It stays closed until it is opened again.
    async fn close(&self, name: &str) -> Result<(), Refusal>;
}
