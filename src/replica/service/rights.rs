//! Who calls and what they may do: what every call needs, and the rights of the caller as they are at this moment.
//!
//! ```text
//! Service ── enter(call, store) ──▶ Asked ── now() ──▶ Rights ──▶ Grants: paths
//! ```
//! A store can be reached only through `enter`, which looks the caller up in the store's own policy and refuses what the
//! call needs and the caller has not. Whatever takes longer than a moment asks `now` again: a right that was taken away,
//! or a token that was revoked, ends the next piece of a stream and the next commit of another one.
//!
//! What may be read is decided path by path by the policy in force now, also where an old revision is read.

use super::quota::{Allowance, Place};
use super::refusal::{hex, refusal};
use super::{Refusal, Served, Service, upkeep};
use crate::status::Standing;
use crate::view::View;
use confold_model::code::{Code, Rejection};
use confold_model::event::Body;
use confold_model::ids::Hash;
use confold_model::path::Path;
use confold_model::policy::{Grants, Policy, Right, Rulebook, Visible};
use confold_model::state::PolicyRow;
use confold_wire::access_token::AccessToken;
use confold_wire::caller::Caller;
use confold_wire::pb;
use prost::Message;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

/// What a call needs before anything of its request is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// Nothing: what is shown depends on the caller's rights.
    Nothing,
    /// Any right on the store at all.
    Any,
    /// A right on something, or on the store as a whole.
    Has(Right),
    /// A right to propose something: write, tag or admin.
    Propose,
    /// To be one of those who keep the server's stores.
    Server,
}

macro_rules! calls {
    ($($call:ident $need:expr,)*) => {
        /// The calls of `service Store`, by their names there.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Call {
            $($call,)*
        }

        impl Call {
            pub const ALL: &'static [Call] = &[$(Call::$call,)*];

            pub fn name(self) -> &'static str {
                match self {
                    $(Call::$call => stringify!($call),)*
                }
            }

            /// The table of rights. Paths are decided on further in, and every proposal is checked again as a whole.
            pub fn need(self) -> Need {
                match self {
                    $(Call::$call => $need,)*
                }
            }
        }
    };
}

calls! {
    Commit Need::Has(Right::Write),
    CommitStream Need::Has(Right::Write),
    Outcome Need::Any,
    Withdraw Need::Propose,
    Get Need::Has(Right::Read),
    List Need::Has(Right::Read),
    ListStream Need::Has(Right::Read),
    Diff Need::Has(Right::Read),
    DiffStream Need::Has(Right::Read),
    Log Need::Has(Right::Read),
    Show Need::Has(Right::Read),
    Tag Need::Has(Right::Tag),
    Untag Need::Has(Right::Tag),
    ListTags Need::Any,
    PushSchema Need::Has(Right::Admin),
    GetSchema Need::Any,
    Prune Need::Has(Right::Admin),
    GetRetention Need::Any,
    SetRetention Need::Has(Right::Admin),
    Activate Need::Has(Right::Admin),
    SetClock Need::Has(Right::Admin),
    Sync Need::Any,
    ListStores Need::Nothing,
    CreateStore Need::Server,
    OpenStore Need::Server,
    CloseStore Need::Server,
    Status Need::Nothing,
    GetPolicy Need::Any,
    SetPolicy Need::Has(Right::Admin),
    ExportLog Need::Has(Right::Admin),
    Snapshot Need::Has(Right::Admin),
}

/// Who makes a call, as far as it is known without asking a store.
#[derive(Clone, Debug)]
pub(super) enum Who {
    /// Code of this process that named nobody. It reads what it likes, as it could read the files. What it proposes stands
    /// on the log without a principal, and the fold allows that only while the store has no rules.
    Process,
    /// A name that the server vouches for: from a certificate, or given by code of this process.
    Named(Arc<str>),
    /// Whoever a store's policy made this token for. `None`: it is no token at all.
    Bearer(Option<Arc<AccessToken>>),
    /// Came from outside and shows nothing.
    Nobody,
}

/// A store that was asked for, and who asks.
#[derive(Clone)]
pub(super) struct Asked {
    served: Arc<Served>,
    who: Who,
    call: Call,
    /// Who asks, as the store's policy knows them; empty where that is nobody.
    pub principal: Arc<str>,
    /// Among the calls of this caller that are under way; `None` where that is not bounded, or a stream has it.
    place: Option<Place>,
}

/// A request to one store.
pub(super) trait OfStore: Message {
    fn store(&self) -> &str;
}

macro_rules! of_store {
    ($($request:ident)*) => {$(
        impl OfStore for pb::$request {
            fn store(&self) -> &str {
                &self.store
            }
        }
    )*};
}
of_store! {
    CommitRequest OutcomeRequest WithdrawRequest GetRequest ListRequest DiffRequest LogRequest ShowRequest TagRequest UntagRequest
    ListTagsRequest PushSchemaRequest GetSchemaRequest PruneRequest GetRetentionRequest SetRetentionRequest GetPolicyRequest
    SetPolicyRequest ActivateRequest SetClockRequest SyncRequest StatusRequest ExportLogRequest SnapshotRequest
}

/// What a caller may do, at one moment.
#[derive(Clone)]
pub(super) struct Rights {
    principal: Arc<str>,
    /// By which reads are decided, and by which proposals are. `None`: everything is allowed.
    reads: Option<Arc<PolicyRow>>,
    proposes: Option<Arc<PolicyRow>>,
}

static OPEN: LazyLock<Rulebook> = LazyLock::new(|| Rulebook::new(&Policy::default()));

fn book(policy: &Option<Arc<PolicyRow>>) -> &Rulebook {
    policy.as_ref().map_or(&OPEN, |row| &row.rules)
}

impl Service {
    /// The store that a call names, for a caller who may make this call and is within its quota. A store on which the caller
    /// has no right is answered as one that is not there.
    pub(super) async fn enter<R: OfStore>(&self, call: Call, request: &R) -> Result<Asked, Refusal> {
        let mut asked = self.find(call, request.store())?;
        asked.place = asked.place().await?;
        asked.spend(request).await?;
        asked.now()?;
        Ok(asked)
    }

    /// The same without asking for a place, and before anything is spent.
    pub(super) fn find(&self, call: Call, name: &str) -> Result<Asked, Refusal> {
        let asked = match self.stores.find(name) {
            Some((name, Err(standing))) => return Err(self.shut(&name, &standing)),
            Some((_, Ok(served))) => Asked::new(served, &self.who, call),
            None => match (name, &self.seen(call)?[..]) {
                ("", [one]) => Ok(one.clone()),
                (name, seen) => return Err(no_such_store(name, seen)),
            },
        };
        match asked {
            Ok(asked) => Ok(asked),
            Err(_) => Err(no_such_store(name, &self.seen(call)?)),
        }
    }

    /// The stores on which the caller has any right. `UNAUTHENTICATED` or `PERMISSION` where there are stores, and none of
    /// them for the caller.
    fn seen(&self, call: Call) -> Result<Vec<Asked>, Refusal> {
        let (mut seen, mut refused) = (Vec::new(), None);
        for served in self.stores.open() {
            match Asked::new(served, &self.who, call) {
                Ok(asked) => seen.push(asked),
                // A caller that one store knows and has nothing for is known, whatever the others say.
                Err(refusal) if refusal.code() == Code::Permission => refused = Some(refusal),
                Err(refusal) => refused = refused.or(Some(refusal)),
            }
        }
        match refused {
            Some(refusal) if seen.is_empty() => Err(refusal),
            _ => Ok(seen),
        }
    }

    /// Rows of the stores that are there for the caller: every one of the server for whoever may make and close them.
    pub(super) fn listed(&self) -> Result<Vec<pb::StoreRow>, Refusal> {
        match self.may_keep() {
            Ok(()) => Ok(self.stores.rows()),
            Err(_) => Ok(self
                .seen(Call::ListStores)?
                .iter()
                .map(|asked| upkeep::row(asked))
                .collect()),
        }
    }

    /// What a store is not open for is its keepers' business; that it is not open is the business of all who may have
    /// rights on it, and that cannot be told without its policy.
    fn shut(&self, name: &str, standing: &Standing) -> Refusal {
        match self.may_keep() {
            Ok(()) => {
                let what = format!("the store {name:?} is not open here: {}", standing.reason);
                Refusal::new(Code::Unavailable, what).hint(standing.state.hint())
            }
            Err(refusal) if refusal.code() == Code::Unauthenticated => refusal,
            Err(_) => Refusal::new(Code::Unavailable, format!("the store {name:?} is not open here")),
        }
    }

    /// Whether the caller may make, open and close stores: one that the server was told of by name, and code of this
    /// process; everybody, while the server names nobody and no store has rules.
    ///
    /// A token is a store's: whoever administers that store could make one for any name, so here it is worth nothing.
    pub(super) fn may_keep(&self) -> Result<(), Refusal> {
        let admins = &self.stores.options().admins;
        let is_ruled = |served: &Arc<Served>| !book(&served.handle.view().policy).is_open();
        let is_open = admins.is_empty() && !self.stores.open().iter().any(is_ruled);
        match &self.who {
            Who::Process => Ok(()),
            Who::Named(name) if admins.iter().any(|admin| **admin == **name) => Ok(()),
            _ if is_open => Ok(()),
            Who::Nobody => Err(nobody()),
            who => {
                let who = match who {
                    Who::Named(name) => format!("{name:?}"),
                    _ => "whoever shows a token of one store".to_owned(),
                };
                let refusal = Refusal::new(
                    Code::Permission,
                    format!("{who} may not make, open or close stores of this server"),
                );
                Err(refusal
                    .hint("the server names who may, by the name in their certificate: `confold serve --admin NAME`"))
            }
        }
    }

    /// Whether the caller may see what concerns this server as a whole: its keepers may, and who administers every store.
    pub(super) fn inspects(&self) -> Result<(), Refusal> {
        if self.may_keep().is_ok() {
            return Ok(());
        }
        let open = self.stores.open();
        if open.is_empty() {
            return self.may_keep();
        }
        open.into_iter()
            .try_for_each(|served| Asked::new(served, &self.who, Call::Status)?.require_admin())
    }
}

fn no_such_store(name: &str, seen: &[Asked]) -> Refusal {
    let names = seen.iter().map(|asked| &*asked.name).collect::<Vec<_>>().join(", ");
    let what = match (name, seen.len()) {
        (_, 0) => "this server has no store".to_owned(),
        ("", _) => format!("several stores are here, name one of them: {names}"),
        (name, _) => format!("no store is called {name:?}; there is {names}"),
    };
    Refusal::new(Code::NotFound, what).hint("name a store of this server, as `confold stores` lists them")
}

impl Deref for Asked {
    type Target = Arc<Served>;

    fn deref(&self) -> &Arc<Served> {
        &self.served
    }
}

impl Asked {
    /// `UNAUTHENTICATED` where the policy does not know the caller, `PERMISSION` where the caller has no right at all.
    fn new(served: Arc<Served>, who: &Who, call: Call) -> Result<Asked, Refusal> {
        let view = served.handle.view();
        let principal = who.principal(&served, &view)?;
        let asked = Asked {
            served,
            who: who.clone(),
            call,
            principal,
            place: None,
        };
        let rights = asked.rights(&view);
        if !rights.grants().has_any() {
            return Err(rights.nothing());
        }
        Ok(asked)
    }

    /// A place among the caller's calls under way, for as long as it is held.
    pub async fn place(&self) -> Result<Option<Place>, Refusal> {
        match self.allowance() {
            Some(allowance) => allowance.place().await.map(Some),
            None => Ok(None),
        }
    }

    /// Waits where the caller asks too fast.
    pub async fn spend(&self, request: &impl Message) -> Result<(), Refusal> {
        match self.allowance() {
            Some(allowance) => allowance.spend(|| request.encoded_len(), self.options.deadline).await,
            None => Ok(()),
        }
    }

    fn allowance(&self) -> Option<Arc<Allowance>> {
        match self.who {
            Who::Process => None,
            _ => Some(self.quotas.of(&self.principal)),
        }
    }

    /// The rights of this moment. Refused where the caller may not make this call, any more or at all.
    pub fn now(&self) -> Result<Rights, Refusal> {
        let view = self.handle.view();
        let principal = self.who.principal(&self.served, &view)?;
        if principal != self.principal {
            return Err(unknown_token());
        }
        let rights = self.rights(&view);
        rights.need(self.call.need()).map(|()| rights)
    }

    pub fn require_admin(&self) -> Result<(), Refusal> {
        self.rights(&self.handle.view()).need(Need::Has(Right::Admin))
    }

    /// Whether an event may be proposed. A courtesy: the fold decides by the policy at the event's own position.
    pub fn check(&self, body: &Body<'_>) -> Result<(), Refusal> {
        let view = self.handle.view();
        let principal = self.who.principal(&self.served, &view)?;
        let checked = book(&view.policy).of(&principal).check(body);
        checked.map_err(|rejection| explained(refusal(rejection, view.schema.as_deref()), &principal))
    }

    /// The root as this caller may see it now.
    pub fn root(&self, root: &Hash) -> String {
        self.rights(&self.handle.view()).root(root)
    }

    /// A refusal by the fold as its caller may know it. Hashes are for those who may read what they are of; and an id may
    /// be of somebody else's event, with paths that the caller has no right on.
    pub fn redacted(&self, mut rejection: Rejection) -> Rejection {
        let rights = self.rights(&self.handle.view());
        let grants = rights.grants();
        rejection
            .conflicts
            .retain(|conflict| grants.visible(&conflict.path) == Visible::Full);
        let knows = |path: &Path| grants.visible(path) == Visible::Full || grants.allows(Right::Write, path);
        match &rejection.path {
            Some(path) if !knows(path) => {
                Rejection::new(rejection.code, "it concerns a path on which the caller has no right")
            }
            _ => rejection,
        }
    }

    fn rights(&self, view: &View) -> Rights {
        let proposes = view.policy.clone();
        let reads = match self.who {
            Who::Process => None,
            _ => proposes.clone(),
        };
        Rights {
            principal: self.principal.clone(),
            reads,
            proposes,
        }
    }
}

impl Who {
    /// A token says more closely who calls than the connection does.
    pub fn outside(caller: &Caller) -> Who {
        match (&caller.token, &caller.certificate) {
            (Some(token), _) => Who::Bearer(AccessToken::parse(token.secret()).map(Arc::new)),
            (None, Some(name)) => Who::Named(name.clone()),
            (None, None) => Who::Nobody,
        }
    }

    pub fn is_bearer(&self) -> bool {
        matches!(self, Who::Bearer(_))
    }

    /// The caller's name in a store. A token that the store does not know, or that has expired, is refused whatever else
    /// the policy says: which of the two it was, it is not told.
    fn principal(&self, served: &Served, view: &View) -> Result<Arc<str>, Refusal> {
        match self {
            Who::Process | Who::Nobody => Ok("".into()),
            Who::Named(name) => Ok(name.clone()),
            Who::Bearer(token) => {
                let token = token.as_ref().ok_or_else(unknown_token)?;
                let policy = view.policy.as_ref().map(|row| &row.policy);
                let row = policy.and_then(|policy| policy.token(token.id(), token.secret()));
                let row = row.ok_or_else(unknown_token)?;
                match row.is_expired(served.handle.now().0) {
                    true => Err(unknown_token()),
                    false => Ok(row.principal.as_str().into()),
                }
            }
        }
    }
}

impl Rights {
    pub fn grants(&self) -> Grants<'_> {
        book(&self.reads).of(&self.principal)
    }

    /// Whether the caller may read everything, and so may see hashes of the whole.
    pub fn sees_all(&self) -> bool {
        self.grants().visible(&Path::root()) == Visible::Full
    }

    /// The root as the caller may see it: nothing, unless everything may be read.
    pub fn root(&self, root: &Hash) -> String {
        match self.sees_all() {
            true => hex(root),
            false => String::new(),
        }
    }

    /// Whether the caller may read now what could be read by `earlier` rights: they are the same, or nothing is hidden.
    pub fn reads_as(&self, earlier: &Rights) -> bool {
        self.sees_all() || self.grants() == earlier.grants()
    }

    /// Whether the caller may see what stands on the log beside the data.
    pub fn is_admin(&self) -> bool {
        self.grants().allows(Right::Admin, &Path::root())
    }

    /// Whether the caller may see digests of the log and of the state, which are of everything.
    pub fn is_inspector(&self) -> bool {
        self.sees_all() || self.is_admin()
    }

    fn need(&self, need: Need) -> Result<(), Refusal> {
        let (reads, proposes) = (self.grants(), book(&self.proposes).of(&self.principal));
        let is_met = match need {
            // Of those who keep stores `may_keep` decides, before there is a store to ask.
            Need::Nothing | Need::Server => true,
            Need::Any => reads.has_any(),
            Need::Has(right @ Right::Write) | Need::Has(right @ Right::Tag) => proposes.has_somewhere(right),
            Need::Has(right) => reads.has_somewhere(right),
            Need::Propose => [Right::Write, Right::Tag, Right::Admin]
                .iter()
                .any(|right| proposes.has_somewhere(*right)),
        };
        match (is_met, need) {
            (true, _) => Ok(()),
            (false, Need::Has(right)) => Err(explained(
                Refusal::new(
                    Code::Permission,
                    format!("{} has no right to {} anything here", self.who(), right.verb()),
                ),
                &self.principal,
            )),
            (false, _) => Err(self.nothing()),
        }
    }

    /// The refusal of a caller without any right. One who showed nothing is asked for something to show.
    fn nothing(&self) -> Refusal {
        match self.principal.is_empty() {
            true => nobody(),
            false => Refusal::new(Code::Permission, format!("{} has no right here", self.who())),
        }
    }

    fn who(&self) -> String {
        format!("{:?}", self.principal)
    }
}

/// What somebody who named nobody can do about it.
fn explained(refusal: Refusal, principal: &str) -> Refusal {
    match principal {
        "" => refusal.hint("the store has an access policy: say who you are, with a token, a certificate or --as NAME"),
        _ => refusal,
    }
}

fn nobody() -> Refusal {
    Refusal::new(
        Code::Unauthenticated,
        "this call needs a caller with rights, and nobody is named",
    )
}

fn unknown_token() -> Refusal {
    Refusal::new(Code::Unauthenticated, "the token is not known here")
}
