//! What all commands share: the global options, the store they work on, who asks, and which state is read.

use crate::{
    context::Context,
    error::Failure,
    local::Access,
    output::{Color, Ui},
    parse,
    protection::SecureArgs,
};
use clap::Args;
use confold_client::{Connection, Nonces};
use confold_model::code::Code;
use confold_wire::pb;
use std::{path::PathBuf, time::Duration};

pub const DEFAULT_SERVER: &str = "127.0.0.1:7411";
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The server to ask; CONFOLD_SERVER where not given, else 127.0.0.1:7411
    #[arg(long, global = true, value_name = "ADDR", conflicts_with = "data")]
    pub server: Option<String>,

    /// Work on the store in this folder, which no server has open; CONFOLD_DATA where not given
    #[arg(long, global = true, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// Act with the rights of this principal on the store of --data; CONFOLD_AS where not given. A server knows who calls
    /// from a token or a certificate
    #[arg(long = "as", global = true, value_name = "NAME", conflicts_with = "server")]
    pub acting_as: Option<String>,

    /// Which store, where a server has several; CONFOLD_STORE where not given
    #[arg(long, global = true, value_name = "NAME")]
    pub store: Option<String>,

    #[command(flatten)]
    pub secure: SecureArgs,

    /// Print JSON instead of text for people, errors included
    #[arg(long, global = true)]
    pub json: bool,

    /// How long to wait for an answer: 500ms, 10s, 2m [default: 10s]
    #[arg(long, global = true, value_name = "TIME", value_parser = parse::duration)]
    pub timeout: Option<Duration>,

    /// When to use colours; never where NO_COLOR is set
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        hide_possible_values = true
    )]
    pub color: Color,
}

/// Which state a command reads.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Which state")]
pub struct ReadArgs {
    /// A revision, tag, time or root: `42`, `v1.2`, `time:2026-11-21T10:00:00Z`, `root:3f9c`, `pos:4182`; `v1.2~3` is
    /// the third revision before it [default: latest]
    #[arg(long, value_name = "STATE")]
    pub at: Option<String>,

    #[command(flatten)]
    pub fresh: FreshArgs,

    /// Show a past state with the schema of its time instead of the latest one
    #[arg(long)]
    pub schema_of_its_time: bool,
}

/// How fresh what is read must be.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Which state")]
pub struct FreshArgs {
    /// How fresh the state must be [default: stale, or at-least with a token]
    #[arg(long, value_name = "MODE")]
    pub consistency: Option<ConsistencyArg>,

    /// See at least what this token of an earlier answer names
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum ConsistencyArg {
    /// What the replica has folded
    Stale,
    /// At least what --token names
    AtLeast,
    /// Everything acknowledged before the call
    Linearizable,
}

/// Who writes, and why.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Who and why")]
pub struct WhoArgs {
    /// Who writes, as history shows it [default: the user's name]
    #[arg(long, value_name = "NAME")]
    pub author: Option<String>,

    /// Why, as history shows it
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// The same for a command that is one event.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Who and why")]
pub struct WriteArgs {
    #[command(flatten)]
    pub who: WhoArgs,

    /// Send again under the event id of an attempt whose end is unknown
    #[arg(long, value_name = "ID")]
    pub event_id: Option<String>,
}

/// What must hold for an operation to be applied.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Conditions")]
pub struct ConditionArgs {
    /// Only if the path is as it was at this state; GUARD_FAILED otherwise
    #[arg(long, value_name = "STATE")]
    pub if_at: Option<String>,

    /// Merge onto this state: CONFLICT where what stood there has changed since, unless it is equal already
    #[arg(long, value_name = "STATE")]
    pub base: Option<String>,

    /// Refuse to change READ_ONLY fields
    #[arg(long)]
    pub strict: bool,
}

pub struct App {
    pub ui: Ui,
    pub global: Global,
    pub context: Context,
}

impl App {
    pub fn new(mut context: Context, global: Global) -> App {
        let ui = Ui::new(&mut context, global.json, global.color);
        App { ui, global, context }
    }

    /// The store that the global options name.
    pub async fn connect(&self, access: Access) -> Result<Connection, Failure> {
        let store = self.store();
        let api = match self.data() {
            Some(folder) => {
                self.context
                    .local
                    .open(&self.context.folder.join(folder), access, self.acting_as().as_deref())
                    .await?
            }
            None if self.global.acting_as.is_some() => {
                let failure = Failure::invalid("--as is for a store in a folder, with --data");
                return Err(failure.hint("show the server a token or a certificate: it knows who you are from that"));
            }
            None => {
                let server = self.server();
                (self.context.connect)(&server, &self.remote(&server)?)?
            }
        };
        let mut connection = Connection::new(api, store);
        connection.nonces = self.nonces();
        connection.retries = self.context.retries.clone();
        connection.retries.give_up_after = Some(self.timeout() + Duration::from_secs(2));
        Ok(connection)
    }

    /// The store that is named; empty for the only one.
    pub fn store(&self) -> String {
        self.global
            .store
            .clone()
            .or_else(|| self.variable("CONFOLD_STORE"))
            .unwrap_or_default()
    }

    pub fn server(&self) -> String {
        self.global
            .server
            .clone()
            .or_else(|| self.variable("CONFOLD_SERVER"))
            .unwrap_or_else(|| DEFAULT_SERVER.to_owned())
    }

    /// The folder to work on instead of a server. A server named on the command line wins over a folder that is not.
    pub fn data(&self) -> Option<PathBuf> {
        let named = self.global.data.clone();
        let variable = || {
            self.variable("CONFOLD_DATA")
                .filter(|_| self.global.server.is_none())
                .map(PathBuf::from)
        };
        named.or_else(variable)
    }

    pub fn acting_as(&self) -> Option<String> {
        self.global.acting_as.clone().or_else(|| self.variable("CONFOLD_AS"))
    }

    pub fn timeout(&self) -> Duration {
        self.global.timeout.unwrap_or(DEFAULT_TIMEOUT)
    }

    pub fn deadline_ms(&self) -> u32 {
        u32::try_from(self.timeout().as_millis()).unwrap_or(u32::MAX)
    }

    pub fn read(&self, args: &ReadArgs) -> Result<pb::Read, Failure> {
        let fresh = self.fresh(&args.fresh)?;
        Ok(pb::Read {
            at: args.at.clone().unwrap_or_default(),
            schema_of_its_time: args.schema_of_its_time,
            ..fresh
        })
    }

    pub fn fresh(&self, args: &FreshArgs) -> Result<pb::Read, Failure> {
        let consistency = match (args.consistency, &args.token) {
            (Some(ConsistencyArg::AtLeast), None) => {
                let failure = Failure::invalid("--consistency at-least needs the token to be at least at");
                return Err(failure.hint("take the token of an earlier answer: --token TOKEN"));
            }
            (Some(ConsistencyArg::Stale), Some(_)) => {
                return Err(Failure::invalid(
                    "--token and --consistency stale contradict each other",
                ));
            }
            (Some(ConsistencyArg::Linearizable), _) => pb::Consistency::Linearizable,
            (_, Some(_)) => pb::Consistency::AtLeast,
            (_, None) => pb::Consistency::Stale,
        };
        Ok(pb::Read {
            consistency: consistency.into(),
            token: args.token.clone().unwrap_or_default(),
            deadline_ms: self.deadline_ms(),
            ..Default::default()
        })
    }

    /// Who asks and why; the event id comes with the sending.
    pub fn proposal(&self, args: &WhoArgs) -> pb::Proposal {
        let user = || self.variable("USER").or_else(|| self.variable("USERNAME"));
        pb::Proposal {
            event_id: String::new(),
            author: args.author.clone().or_else(user).unwrap_or_default(),
            reason: args.reason.clone().unwrap_or_default(),
            client_time_ms: (self.context.now)(),
            deadline_ms: self.deadline_ms(),
        }
    }

    /// The id of the event to propose: the one that was given, or a new one.
    pub async fn event_id(
        &self,
        connection: &Connection,
        args: &WriteArgs,
    ) -> Result<confold_model::ids::EventId, Failure> {
        match &args.event_id {
            None => Ok(connection.mint().await?),
            Some(text) => {
                confold_wire::convert::parse_event_id(text).map_err(|error| Failure::invalid(error.to_string()))
            }
        }
    }

    /// Commits operations as one event and prints its end.
    pub async fn commit(
        &mut self,
        connection: &Connection,
        args: &WriteArgs,
        request: pb::CommitRequest,
    ) -> Result<pb::Decision, Failure> {
        let id = self.event_id(connection, args).await?;
        let request = pb::CommitRequest {
            proposal: Some(self.proposal(&args.who)),
            ..request
        };
        let relied_on = relied_on(&request);
        match connection.commit(id, request).await {
            Ok(decision) => {
                self.ui.decision(&decision)?;
                Ok(decision)
            }
            Err(error) => Err(self.explain(connection, relied_on, Failure::from(error)).await),
        }
    }

    /// Names what happened since the state that a condition relied on. What cannot be found out is left out.
    async fn explain(&self, connection: &Connection, state: Option<String>, failure: Failure) -> Failure {
        let broken = matches!(failure.code(), Some(Code::GuardFailed | Code::Conflict));
        let (Some(state), true) = (state, broken) else {
            return failure;
        };
        let path = match failure.detail.conflicts.first() {
            Some(conflict) => conflict.path.clone(),
            None => failure.detail.path.clone(),
        };
        let request = pb::LogRequest {
            store: connection.store.clone(),
            path: path.clone(),
            from: state.clone(),
            limit: 3,
            ..Default::default()
        };
        let rows = connection
            .api
            .log(request)
            .await
            .map(|answer| answer.rows)
            .unwrap_or_default();
        let told = rows
            .iter()
            .fold(failure, |failure, row| failure.cause(self.row_text(row)));
        told.hint(format!(
            "look at it with `confold diff {state} latest --path {path}`, then try again"
        ))
    }

    /// `revision 42 by ada, 3 s ago: update /devices/olt-1 (admin_state)`
    fn row_text(&self, row: &pb::LogRow) -> String {
        let revision = row.revision.map(|revision| revision.to_string()).unwrap_or_default();
        let who = crate::commands::who(row);
        let who = if who.is_empty() { "somebody".to_owned() } else { who };
        let ago = parse::ago((self.context.now)().saturating_sub(row.time_ms));
        let what = row.summary.join("; ");
        format!("revision {revision} by {who}, {ago}: {what}")
    }

    pub fn variable(&self, name: &str) -> Option<String> {
        self.context.variable(name).map(str::to_owned)
    }

    fn nonces(&self) -> Nonces {
        self.context.nonces.clone()
    }
}

/// The state that the conditions of a commit compare with.
fn relied_on(request: &pb::CommitRequest) -> Option<String> {
    let guard = request.guards.iter().find_map(|guard| match &guard.expect {
        Some(pb::text_guard::Expect::SameAs(at)) => Some(at.clone()),
        _ => None,
    });
    let base = || {
        request
            .operations
            .iter()
            .find_map(|operation| match operation.base.as_ref()?.was.as_ref()? {
                pb::text_base::Was::AsOf(at) => Some(at.clone()),
                _ => None,
            })
    };
    guard.or_else(base)
}

impl ConditionArgs {
    /// One operation at a path as a request, with what must hold for it.
    pub fn request(&self, path: &str, kind: pb::text_operation::Kind) -> pb::CommitRequest {
        pb::CommitRequest {
            guards: self.guard(path).into_iter().collect(),
            operations: vec![self.operation(path, kind)],
            ..Default::default()
        }
    }

    pub fn operation(&self, path: &str, kind: pb::text_operation::Kind) -> pb::TextOperation {
        let base = self.base.clone().map(|at| pb::TextBase {
            was: Some(pb::text_base::Was::AsOf(at)),
        });
        pb::TextOperation {
            path: path.to_owned(),
            strict: self.strict,
            base,
            kind: Some(kind),
        }
    }

    pub fn guard(&self, path: &str) -> Option<pb::TextGuard> {
        let expect = pb::text_guard::Expect::SameAs(self.if_at.clone()?);
        Some(pb::TextGuard {
            path: path.to_owned(),
            expect: Some(expect),
        })
    }
}

/// What a state is called in an answer: `revision 12 (root 3f9c12ab34cd)`.
pub fn state_text(at: Option<&pb::ReadAt>) -> String {
    match at {
        // Whoever may not read everything sees no root.
        Some(at) if at.root.is_empty() => format!("revision {}", at.revision),
        Some(at) => format!("revision {} (root {})", at.revision, crate::error::short(&at.root)),
        None => "an unknown revision".to_owned(),
    }
}

/// An answer that lacks what the service promises.
pub fn missing(what: &str) -> Failure {
    Failure::new(
        crate::error::Exit::Damaged,
        format!("the answer of the server lacks {what}"),
    )
}

pub fn is_code(failure: &Failure, code: Code) -> bool {
    failure.code() == Some(code)
}
