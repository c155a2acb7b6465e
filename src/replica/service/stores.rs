//! The stores of one process by name, which may come and go while they are served.

use super::{Options, Refusal, Served};
use crate::handle::Handle;
use crate::status::Standing;
use async_trait::async_trait;
use confold_model::code::Code;
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
        let name = handle.view().store_name.clone();
        let served = Served {
            name: name.clone(),
            log: log.into(),
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

    /// The store that a call names; an empty name is the only one.
    pub(super) fn find(&self, name: &str) -> Result<Arc<Served>, Refusal> {
        let all = self.entries();
        let found = match name {
            "" if all.len() == 1 => all.first_key_value(),
            name => all.get_key_value(name),
        };
        match found {
            Some((_, Entry::Open(served))) => Ok(served.clone()),
            Some((name, Entry::Shut(standing))) => {
                let what = format!("the store {name:?} is not open here: {}", standing.reason);
                Err(Refusal::new(Code::Unavailable, what).hint(standing.state.hint()))
            }
            None => Err(no_such_store(name, &all)),
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

fn no_such_store(name: &str, all: &Entries) -> Refusal {
    let names = all.keys().map(|name| &**name).collect::<Vec<_>>().join(", ");
    let what = match (name, all.len()) {
        (_, 0) => "this server has no store".to_owned(),
        ("", _) => format!("several stores are here, name one of them: {names}"),
        (name, _) => format!("no store is called {name:?}; there is {names}"),
    };
    Refusal::new(Code::NotFound, what).hint("name a store of this server, as `confold stores` lists them")
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
